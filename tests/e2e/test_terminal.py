"""The command line as a person uses it: in a terminal, which is tmux here."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemon_kit import echoing, free_port, tunnel
from tests.e2e.curl import curl
from tests.e2e.daemon import Daemon, Section
from tests.e2e.program import DEADLINE, environment

ROOT = Path(__file__).parents[2]
ROUTES: Section = [
    {"name": "advertisements", "domains": [".ads.example"], "backend": "nowhere"},
    {"name": "everything-else", "domains": ["*"], "cidrs": ["127.0.0.0/8"], "backend": "direct"},
]
BACKENDS: Section = [{"name": "nowhere", "type": "block"}, {"name": "direct"}]

SHELL = ("bash", "--norc", "--noprofile", "-i")


class Terminal:
    """A terminal of 80 columns and 24 lines with a shell; a context manager.

    Args:
        url: of the daemon that the commands find
    """

    def __init__(self, url: str) -> None:
        # Not below `tmp_path`: the path of a socket must be short.
        self._folder = tempfile.TemporaryDirectory(prefix="bifrost-tmux-")
        folder = Path(self._folder.name)
        program = folder / "bifrost-lite"
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m bifrost_lite "$@"\n')
        program.chmod(0o755)
        self._socket = folder / "tmux"
        self._typed = 0
        self._env = environment(
            BIFROST_URL=url, PS1="$ ", PATH=f"{folder}:{os.environ['PATH']}", LC_ALL="C.UTF-8",
            TERM="screen", HISTFILE="",
        )  # fmt: skip
        self._env.pop("TMUX", None)

    def __enter__(self) -> Terminal:
        server = ["tmux", "-D", "-u", "-f", "/dev/null", "-S", str(self._socket)]
        self._server = subprocess.Popen(server, env=self._env, cwd=ROOT)
        try:
            self.until(self._is_there)
            self.do("new-session", "-d", "-x", "80", "-y", "24", *SHELL)
            self.until(lambda: self.screen().startswith("$"))
            self.run("saved=$(stty -g)")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        if any(exc):
            print(self.screen())
        self._server.terminate()
        self._server.wait(DEADLINE)
        self._folder.cleanup()

    def _is_there(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self._socket)) == 0

    def do(self, *words: str) -> str:
        """One command of tmux; answers its output."""
        done = subprocess.run(
            ["tmux", "-N", "-u", "-S", str(self._socket), *words], stdout=subprocess.PIPE,
            text=True, env=self._env, timeout=DEADLINE, check=True,
        )  # fmt: skip
        return done.stdout

    def screen(self, *options: str) -> str:
        """What is seen, without the blank lines at the end; lines broken by the edge are two."""
        return self.do("capture-pane", "-p", *options).rstrip("\n")

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait for something."""
        deadline = time.monotonic() + DEADLINE
        while not holds():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.02)

    def sees(self, pattern: str) -> None:
        """Wait until that is on the screen, a line broken by its edge taken as one."""
        self.until(lambda: re.search(pattern, self.screen("-J"), re.MULTILINE) is not None)

    def type(self, line: str) -> None:
        """Type a line, on a clear screen; how it ends will be told there."""
        self._typed += 1
        self.do("send-keys", "-l", f"clear; {line}; echo ended {self._typed}: $?")
        self.do("send-keys", "Enter")

    def key(self, name: str) -> None:
        """Press a key."""
        self.do("send-keys", name)

    def ended(self, status: int = 0) -> list[str]:
        """Wait for the end, which has to be this one; answers the lines before."""
        end = re.compile(rf"^ended {self._typed}: (\d+)\n\$\Z", re.MULTILINE)
        while (found := end.search(text := self.screen())) is None:
            self.until(lambda: self.screen() != text)
        assert int(found[1]) == status, text
        assert "Traceback" not in text
        return text[: found.start()].splitlines()

    def run(self, line: str, status: int = 0) -> list[str]:
        """Run a command to its end; answers what it shows."""
        self.type(line)
        return self.ended(status)

    def is_sane(self) -> bool:
        """Whether the terminal is as it was at the start."""
        return self.run('test "$saved" = "$(stty -g)"') == []


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    control: Section = {"stats_interval": 0}
    with Daemon(routes=ROUTES, backends=BACKENDS, control=control) as daemon:
        yield daemon


@pytest.fixture
def terminal(daemon: Daemon) -> Iterator[Terminal]:
    with Terminal(daemon.url("")) as terminal:
        yield terminal


def ask(daemon: Daemon, url: bytes) -> bytes:
    """Ask the proxy for a page; the first line of the answer."""
    with socket.create_connection(daemon.proxy, DEADLINE) as client:
        client.sendall(b"GET " + url + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return client.makefile("rb").readline()


def test_help_fits(terminal: Terminal) -> None:
    assert terminal.run("bifrost-lite help")[0] == "usage: bifrost-lite COMMAND [OPTION...]"
    for name in ("run", "events"):
        assert terminal.run(f"bifrost-lite {name} --help")[0].startswith("usage: bifrost-lite")
    assert terminal.run("bifrost-lite status")[0].split() == ["status", "running"]


def test_tables_fit_whatever_the_width(daemon: Daemon, terminal: Terminal) -> None:
    host = b".".join((b"x" * 60, b"y" * 60, b"ads.example"))
    assert b" 403 " in ask(daemon, b"http://" + host + b"/")
    with echoing() as target, tunnel(daemon.proxy, target):
        seen = {}
        for columns in (80, 60, 200):
            terminal.do("resize-window", "-x", str(columns))
            head, *rows = terminal.run("bifrost-lite requests --limit 3")
            assert head.split()[-1] == "ERROR"
            assert rows[-1].endswith("blocked")
            assert all(len(line) <= columns for line in rows)
            head, row = terminal.run("bifrost-lite connections")
            assert target in row
            seen[columns] = head.split()
            head, *rows = terminal.run("bifrost-lite backends")
            assert [row.split()[0] for row in rows] == ["nowhere", "direct"]
        assert {*seen[60]} < {*seen[80]} < {*seen[200]}
        assert {"ID", "CLIENT", "HOST", "RECEIVED"} <= {*seen[60]}
        # What goes elsewhere has all of it.
        assert "ROUTE" in terminal.run("bifrost-lite connections | cat")[0]


@pytest.mark.parametrize("command", ["events", "logs"])
def test_a_key_ends_what_has_no_end(command: str, daemon: Daemon, terminal: Terminal) -> None:
    terminal.type(f"bifrost-lite {command} {'--tail 9' if command == 'logs' else ''}")
    terminal.sees(r"Z  (backend\.health|info) ")
    assert b" 403 " in ask(daemon, b"http://seen.ads.example/")
    terminal.sees(r"seen\.ads\.example.*blocked")
    terminal.do("resize-window", "-x", "60", "-y", "12")
    assert b" 403 " in ask(daemon, b"http://resized.ads.example/")
    terminal.sees(r"resized\.ads\.example.*blocked")
    terminal.key("C-z")
    terminal.sees("Stopped")
    terminal.do("send-keys", "fg", "Enter")
    assert b" 403 " in ask(daemon, b"http://again.ads.example/")
    terminal.sees(r"again\.ads\.example.*blocked")
    terminal.key("C-c")
    terminal.sees(r"^\^C\n\$ *\Z")
    assert terminal.is_sane()
    terminal.type(f"bifrost-lite {command}")
    terminal.until(lambda: watchers(daemon) == 1)
    terminal.key("C-c")
    assert terminal.ended()[-1] == "^C"


def watchers(daemon: Daemon) -> int:
    """How many there are."""
    status = json.loads(curl(daemon.url("/api/v1/status")).body)
    count: int = status["clients"]["count"] + status["subscribers"]["count"]
    return count


def test_a_key_ends_what_would_have_one(terminal: Terminal) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        terminal.type(f"bifrost-lite status --url http://127.0.0.1:{silent.getsockname()[1]}")
        silent.settimeout(DEADLINE)
        client, _ = silent.accept()
        with client:
            assert client.recv(65536).startswith(b"GET ")
            terminal.key("C-c")
            assert terminal.ended(130) == ["^C"]
    assert terminal.is_sane()


def test_a_reader_that_has_enough(daemon: Daemon, terminal: Terminal) -> None:
    ask(daemon, b"http://head.ads.example/")
    for command in ("logs --tail 1", "logs -n", "events", "backends", "help"):
        lines = terminal.run(f"(set -o pipefail; bifrost-lite {command} | head -n 1)")
        assert len("".join(lines)) > 10
        assert "bifrost-lite:" not in "".join(lines)


def test_the_daemon_goes_away_and_comes_back() -> None:
    control: Section = {"listen": [f"127.0.0.1:{free_port()}"], "stats_interval": 0}
    with Daemon(control=control) as daemon, Terminal(daemon.url("")) as terminal:
        url = daemon.url("")
        terminal.type("bifrost-lite events")
        terminal.sees("backend.health")
        daemon.stop()
        *_, told = terminal.ended(1)
        assert told == "bifrost-lite: the daemon ended the stream: 1001 the daemon stops"
        for command in ("events", "logs", "status"):
            told = "".join(terminal.run(f"bifrost-lite {command}", 5))
            assert told == (
                f"bifrost-lite: nothing answers at {url} (Connection refused): is the daemon running?"
            )
        with Daemon(control=control) as again:
            terminal.type("bifrost-lite logs --tail 99")
            terminal.sees("ready: bifrost-lite")
            again.process.kill()
            assert terminal.ended(1)[-1].startswith("bifrost-lite: the daemon")
            again.wait()


def test_the_daemon_in_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "bifrost.toml"
    path.write_text('[[listen]]\nport = 0\n[control]\nlisten = ["127.0.0.1:0"]\n', "utf-8")
    with Terminal("http://127.0.0.1:1") as terminal:
        terminal.type(f"bifrost-lite run -c {path}")
        terminal.sees("ready: bifrost-lite")
        terminal.key("C-c")
        assert re.search("info +stopped$", terminal.ended()[-1])
        assert terminal.is_sane()


HOSTILE = (
    b"\x9b31mred",  # CSI in one byte
    b"\x9d0;owned\x9c",  # sets a title
    b"\xe2\x80\xaegpj.exe",  # right to left
    b"\xe2\x80\x8b\xef\xbb\xbf\xc2\xad",  # shows as nothing
    b"x" * 3000,
    b"%1b%5B2J%0A%0d",
    b"'$(reboot)`reboot`\\",
)


def test_names_that_would_command_it(daemon: Daemon, terminal: Terminal) -> None:
    """Whatever clients name stays text; what the proxy itself refuses never gets here."""
    title = terminal.do("display-message", "-p", "#{pane_title}")
    events = terminal.do("split-window", "-d", "-P", "-F", "#{pane_id}", "bifrost-lite events").strip()
    terminal.until(lambda: "backend.health" in terminal.screen("-t", events))
    for name in HOSTILE:
        assert b" 403 " in ask(daemon, b"http://a.ads.example/" + name)
    assert b" 400 " in ask(daemon, b"http://a\x1b[31m.ads.example/")
    assert b" 400 " in ask(daemon, b"http://a.ads.example/\x1b[2J")
    with socket.create_connection(daemon.proxy, DEADLINE) as client:
        name = b"a\x1b]0;owned\x07.ads.example"
        client.sendall(b"\x05\x01\x00\x05\x01\x00\x03" + bytes((len(name),)) + name + b"\x01\xbb")
        assert client.recv(2, socket.MSG_WAITALL) == b"\x05\x00"
        assert client.recv(1) == b"\x05"
    terminal.until(lambda: "bad_request" in terminal.screen("-J", "-t", events))
    count = len(HOSTILE) + 3
    for command in (
        f"logs -n --tail {count}",
        f"requests --limit {count}",
        "logs -n --json --tail 3",
        "requests --json | head -c 900",
    ):
        terminal.run(f"bifrost-lite {command}; echo")
        assert "bad_request" in terminal.screen("-J")
        for pane in (terminal.screen("-e"), terminal.screen("-e", "-t", events)):
            assert pane.replace("\n", "").isprintable()  # no colour was set, nothing is odd
    assert terminal.do("display-message", "-p", "#{pane_title}") == title
    assert terminal.is_sane()
