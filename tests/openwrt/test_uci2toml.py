"""The command uci2toml as the init script calls it, with a program in ubus's place."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bifrost_lite.load import load
from bifrost_lite.openwrt.uci2toml import DISABLED, is_uci
from tests.e2e.program import Program, environment

SAMPLE = Path(__file__).parents[2] / "openwrt" / "bifrost-lite" / "files" / "bifrost.config"
ON = "config main 'main'\n\toption enabled '1'\n"
LAN = "config listen 'lan'\n\toption address '@lan'\n"
DUMP = json.dumps(
    {
        "interface": [
            {
                "interface": "lan",
                "up": True,
                "l3_device": "br-lan",
                "ipv4-address": [{"address": "192.168.1.1", "mask": 24}],
            }
        ]
    }
)


class Router:
    """A folder with a configuration, a program called ubus, and what both make of each other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "bifrost"
        self.out = folder / "bifrost.toml"
        self.asked = folder / "asked"
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.ubus(f"echo '{DUMP}'")

    def ubus(self, script: str) -> None:
        """Have ubus do this."""
        program = self.bin / "ubus"
        program.write_text(f'#!/bin/sh\necho "$*" >>{self.asked}\n{script}\n')
        program.chmod(0o755)

    def write(self, text: str) -> None:
        self.config.write_text(text, encoding="utf-8")

    def environment(self) -> dict[str, str]:
        return environment(PATH=f"{self.bin}:{os.environ['PATH']}")

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "bifrost_lite", *words],
            env=self.environment(), capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    def translate(self, *words: str | Path) -> tuple[int, str]:
        """As the init script does it; the exit status and what it complained of."""
        done = self.run("uci2toml", "-o", self.out, *words, self.config)
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        assert not [*self.folder.glob("*.new")]
        return done.returncode, done.stderr


@pytest.fixture
def router(tmp_path: Path) -> Router:
    return Router(tmp_path)


def test_it_prints_what_the_daemon_reads(router: Router) -> None:
    done = router.run("uci2toml", SAMPLE)
    assert (done.returncode, done.stderr) == (0, "")
    router.out.write_text(done.stdout)
    settings = load(str(router.out))
    assert settings.source == "uci"
    assert [(item.name, item.address) for item in settings.listen] == [
        ("lan", "192.168.1.1"),
        ("lan_socks", "192.168.1.1"),
    ]
    assert router.asked.read_text() == "-S call network.interface dump\n"


def test_ubus_is_asked_only_for_what_is_named(router: Router) -> None:
    router.write(ON)
    assert router.translate() == (0, "")
    assert not router.asked.exists()


def test_a_file_may_stand_in_for_ubus(router: Router, tmp_path: Path) -> None:
    (tmp_path / "dump").write_text('{"interface": []}')
    router.write(ON + LAN)
    assert router.translate("--ubus", tmp_path / "dump") == (0, "")
    assert load(str(router.out)).listen == ()
    assert not router.asked.exists()
    status, said = router.translate("--ubus", tmp_path / "nothing")
    assert status == 1
    assert said.startswith("bifrost-lite: the networks are not known: cannot read ")


def test_the_secrets_are_for_one_group(router: Router) -> None:
    router.write(ON)
    assert router.translate() == (0, "")
    assert stat.S_IMODE(router.out.stat().st_mode) == 0o640
    assert router.out.read_text().startswith(f"# Made of '{router.config}'; changes here are lost.")


def test_the_owner_stays(router: Router) -> None:
    router.write(ON)
    router.out.write_text("")
    owner = (os.getuid() or 1234, os.getgroups()[-1] if os.getuid() else 5678)
    os.chown(router.out, *owner)
    router.out.chmod(0o644)
    assert router.translate() == (0, "")
    status = router.out.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (*owner, 0o640)


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("config main main\n option enabled 1\nconfig listen\n option port x\n option auth ja\n",
         [4, 5]),
        ("config main main\n option enabled 0\n option x 'y\n", [3]),
        ("config main main\n option enabled nein\n", [2]),
        ("config main main\n option enabled 1\nconfig route r\n option backend direct\n"
         " option list gone.txt\n", [5]),
    ],
)  # fmt: skip
def test_faults_leave_the_last_good_one(router: Router, text: str, faults: list[int]) -> None:
    router.out.write_text("# the last good one\n")
    router.write(text)
    status, said = router.translate()
    assert status == 3
    assert [int(line.split(":")[1]) for line in said.splitlines()] == faults
    assert said.startswith(f"{router.config}:")
    assert router.out.read_text() == "# the last good one\n"


@pytest.mark.parametrize("text", ["", "# nothing\n", "config log 'log'\n"])
def test_a_file_that_was_cut_off_is_not_off(router: Router, text: str) -> None:
    router.write(text)
    said = f"{router.config}: main.enabled: is missing: config main 'main'\n"
    assert router.translate() == (3, said)
    assert router.run("uci2toml", router.config).returncode == 0


def test_a_file_that_is_not_there_is_a_fault(router: Router) -> None:
    status, said = router.translate()
    assert status == 3
    assert said.endswith("No such file or directory\n")


def test_off_is_a_status_of_its_own(router: Router) -> None:
    router.write(ON.replace("1", "0") + LAN + "\toption port 'wrong'\n")
    router.ubus("exit 4")
    assert router.translate() == (DISABLED, "")
    assert not router.out.exists()
    router.ubus(f"echo '{DUMP}'")
    assert router.run("uci2toml", router.config).returncode == 3


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("exit 4", "ubus ended with 4"),
        ("echo '{}'", "not a dump of network.interface"),
        ("echo; exit 0", "not a dump of network.interface"),
    ],
)
def test_silence_of_ubus_takes_no_listener_away(router: Router, script: str, why: str) -> None:
    router.out.write_text("# the last good one\n")
    router.write(ON + LAN)
    router.ubus(script)
    status, said = router.translate()
    assert status == 1
    assert re.fullmatch(rf"bifrost-lite: the networks are not known: {re.escape(why)}.*\n", said)
    assert router.out.read_text() == "# the last good one\n"


def test_what_cannot_be_written_is_told(router: Router) -> None:
    router.write(ON)
    router.out = router.folder / "gone" / "bifrost.toml"
    status, said = router.translate()
    assert status == 1
    assert re.fullmatch(r"bifrost-lite: cannot write '/.*: No such file or directory\n", said)


def test_check_needs_no_ubus(router: Router) -> None:
    router.ubus("exit 4")
    done = router.run("check", SAMPLE)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{SAMPLE}: OK\n")


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("config main 'main'", True),
        ("\r\n# config = 1\n\tconfig listen\n", True),
        ("package bifrost\nconfig x", True),
        ("c main main", True),
        ("config = 1", False),
        ("c.d = 1", False),
        ("config . d = 1", False),
        ("[log]\n# config main", False),
        ("", False),
    ],
)
def test_what_is_uci(text: str, is_one: bool) -> None:
    assert is_uci("bifrost", text.encode()) is is_one
    assert is_uci("/etc/config/bifrost", text.encode())


def test_a_daemon_runs_on_it_and_reads_it_again(router: Router) -> None:
    text = (
        "config control 'control'\n\tlist listen '127.0.0.1:0'\n"
        "config listen 'lan'\n\toption address '@lan'\n\toption port '0'\n"
    )
    router.ubus(f"echo '{DUMP.replace('192.168.1.1', '127.0.0.1')}'")
    router.write(text)
    words = [sys.executable, "-m", "bifrost_lite", "run", "--uci", router.config]
    with Program(words, env=router.environment()) as daemon:
        daemon.output.expect(r"listening: proxy lan 127\.0\.0\.1:")
        daemon.output.expect(r"\bready\b")
        router.write(text + "\toption auth 'ja'\n")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.output.expect(r"configuration rejected: line 6: lan\.auth: got 'ja', expected 1")
        router.write(text.replace("'lan'", "'guest'"))
        daemon.process.send_signal(signal.SIGHUP)
        daemon.output.expect(r"configuration reloaded: listen")
        router.ubus("exit 1")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.output.expect(r"configuration rejected: the networks are not known: ubus ended")
