"""The command line: what it takes, what it refuses, how it ends."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import bifrost_lite
from bifrost_lite import cli
from bifrost_lite.config.schema import Settings
from bifrost_lite.errors import BindError
from bifrost_lite.load import Parser, parse_config, revision
from bifrost_lite.options import Args, UsageError, number, parse

PROGRAM = [sys.executable, "-m", "bifrost_lite"]
NAMES = [command.name for command in cli.COMMANDS]
RUN = next(command for command in cli.COMMANDS if command.name == "run")
CLOSE = next(command for command in cli.COMMANDS if command.name == "close")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, *words], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("word", ["version", "--version", "-V"])
def test_version(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([word]) == 0
    assert capsys.readouterr().out == f"bifrost-lite {bifrost_lite.__version__}\n"


def test_version_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"version": bifrost_lite.__version__}


@pytest.mark.parametrize("words", [[], *([name] for name in NAMES)], ids=["all", *NAMES])
def test_help_fits_one_screen(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*words, "--help"]) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) <= 24
    assert max(map(len, text.splitlines())) <= 80
    assert text.startswith("usage: bifrost-lite")
    assert cli.main(["help", *words]) == 0
    assert capsys.readouterr().out == text


def test_no_command_shows_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name}" in text for name in NAMES)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["fly"], "there is no command 'fly'"),
        (["\x1b[2J"], "there is no command '\\x1b[2J'"),
        (["help", "fly"], "there is no command 'fly'"),
        (["status", "--fast"], "there is no option '--fast'"),
        (["status", "-x"], "there is no option '-x'"),
        (["status", "now"], "status takes no argument"),
        (["status", "--url"], "--url needs a value: URL"),
        (["status", "--json=1"], "--json takes no value"),
        (["status", "--json", "--json"], "--json is given twice"),
        (["close"], "close takes ID, or --client IP"),
        (["close", "1", "--client", "::1"], "close takes ID, or --client IP"),
        (["close", "1", "2"], "close takes [ID]"),
        (["connections", "--client", "::1", "--by-client"], "exclude each other"),
        (["requests", "--limit", "0"], "--limit takes a number from 1 to 10000"),
        (["requests", "--limit", "1", "--clear"], "exclude each other"),
        (["test"], "test takes BACKEND [TARGET]"),
        (["mesh", "a", "b"], "mesh takes [NETWORK]"),
        (["mesh", "--follow"], "--follow needs NETWORK"),
        (["check"], "check takes FILE"),
        (["run", "-p", "x"], "--port takes a number from 0 to 65535, got 'x'"),
        (["run", "-p65536"], "--port takes a number from 0 to 65535, got '65536'"),
        (["run", "-p", "\u0663"], "--port takes a number"),
        (["run", "-p", "-1"], "--port takes a number"),
        (["run", "-v", "-q"], "-v and -q exclude each other"),
        (["run", "-c", "a.toml", "-p", "1"], "-c and --uci exclude -i and -p"),
        (["run", "--uci", "bifrost", "-c", "a.toml"], "-c and --uci exclude each other"),
        (["run", "--uci", "bifrost", "-p", "1"], "exclude -i and -p"),
        (["uci2toml"], "uci2toml takes FILE"),
        (["events", "--since", "x"], "--since takes a number"),
        (["logs", "--tail", "0"], "--tail takes a number from 1"),
        (["route"], "route takes HOST"),
        (["route", "a", "--port", "0"], "--port takes a number from 1 to 65535"),
        (["reload", "now"], "reload takes no argument"),
        (["passwd", "secret"], "passwd takes no argument"),
        (["passwd", "--iterations", "x"], "--iterations takes a number"),
        (["logs", "--level", "loud"], "--level takes one of debug, info, warn, error"),
    ],
)
def test_wrong_usage(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("bifrost-lite: ")
    assert told in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [
        ["-c", "a", "-v", "--port", "1"],
        ["-ca", "--verbose", "--port=1"],
        ["--config=a", "-v", "-p1"],
        ["--port", "1", "--config", "a", "-v", "--"],
    ],
)
def test_options_have_two_forms(words: list[str]) -> None:
    assert parse(RUN, words) == Args({"config": "a", "port": "1", "verbose": ""}, [])


def test_options_end_and_mix_with_arguments() -> None:
    assert parse(CLOSE, ["--json", "7"]) == parse(CLOSE, ["7", "--json"])
    assert parse(CLOSE, ["--", "--json"]) == Args({}, ["--json"])
    assert parse(CLOSE, ["-"]) == Args({}, ["-"])
    assert parse(CLOSE, ["--token=a=b", "7"]) == Args({"token": "a=b"}, ["7"])
    assert parse(CLOSE, ["--token", "-h", "7"]) == Args({"token": "-h"}, ["7"])


def test_number_is_bounded() -> None:
    assert number(Args({}, []), "n", 0, 9) is None
    assert number(Args({"n": "9"}, []), "n", 0, 9) == 9
    with pytest.raises(UsageError):
        number(Args({"n": "9" * 5000}, []), "n", 0, 9)


# run


class Started:
    """What `run` handed to the daemon."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
        self.settings = Settings()
        self.path: str | None = "never started"
        self.level: str | None = None
        self.revision = "never started"
        self.parse: Parser = parse_config
        self._error = error
        module = SimpleNamespace(run=self._run)
        monkeypatch.setitem(sys.modules, "bifrost_lite.daemon", module)

    def _run(
        self,
        settings: Settings,
        path: str | None,
        level: str | None,
        revision: str,
        parse: Parser,
    ) -> int:
        self.settings, self.path, self.level = settings, path, level
        self.revision = revision
        self.parse = parse
        if self._error is not None:
            raise self._error
        return 0

    def listeners(self) -> list[tuple[str, int, str]]:
        return [(x.address, x.port, x.protocol) for x in self.settings.listen]


def test_run_without_options_is_the_built_in_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = Started(monkeypatch)
    assert cli.main(["run"]) == 0
    assert started.settings == Settings()
    assert (started.path, started.revision) == (None, "")


@pytest.mark.parametrize(
    ("words", "listeners"),
    [
        (["-p", "3128"], [("127.0.0.1", 3128, "auto")]),
        (["-p", "0", "-i", "::1"], [("::1", 0, "auto")]),
        (["-i", "192.168.1.1"], [("192.168.1.1", 7080, "auto"), ("192.168.1.1", 7180, "auto")]),
    ],
)
def test_quick_start(
    words: list[str], listeners: list[tuple[str, int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = Started(monkeypatch)
    assert cli.main(["run", *words]) == 0
    assert started.listeners() == listeners
    assert started.settings.control == Settings().control
    assert started.path is None


@pytest.mark.parametrize(("word", "level"), [("-v", "debug"), ("-q", "warn")])
def test_run_sets_the_level(word: str, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started = Started(monkeypatch)
    assert cli.main(["run", word]) == 0
    assert started.level == level
    assert started.settings.listen == Settings().listen


def test_run_with_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started = Started(monkeypatch)
    path = tmp_path / "a.toml"
    path.write_text("[[listen]]\nport = 1080\n", encoding="utf-8")
    assert cli.main(["run", "-c", str(path), "-q"]) == 0
    assert started.listeners() == [("127.0.0.1", 1080, "auto")]
    assert started.level == "warn"
    assert started.path == str(path)
    assert started.revision == revision(path.read_bytes())


def test_run_with_a_file_of_openwrt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started = Started(monkeypatch)
    path = tmp_path / "bifrost"
    path.write_text("config listen 'lan'\n\toption port '1080'\n", encoding="utf-8")
    assert cli.main(["run", "--uci", str(path)]) == 0
    assert started.listeners() == [("127.0.0.1", 1080, "auto")]
    assert started.settings.source == "uci"
    assert (started.path, started.revision) == (str(path), revision(path.read_bytes()))
    assert started.parse(path.read_bytes()) == started.settings


def test_run_refuses_bad_uci(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = Started(monkeypatch)
    path = tmp_path / "bifrost"
    path.write_text("config http 'http'\n\toption via '3'\n", encoding="utf-8")
    assert cli.main(["run", "--uci", str(path)]) == 3
    assert capsys.readouterr().err.startswith(f"{path}:2: http.via: got '3', expected 1 or 0 (")
    assert started.path == "never started"


def test_run_refuses_a_bad_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = Started(monkeypatch)
    path = tmp_path / "a.toml"
    path.write_text("[http]\nvia = 3\n", encoding="utf-8")
    assert cli.main(["run", "-c", str(path)]) == 3
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith(f"{path}:2: http.via: ")
    assert started.path == "never started"


@pytest.mark.parametrize("words", [["-c", "/nonexistent/a.toml"], ["-i", "here", "-p", "1"]])
def test_run_refuses_what_cannot_be(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started = Started(monkeypatch)
    assert cli.main(["run", *words]) == 3
    assert capsys.readouterr().err
    assert started.path == "never started"


def test_run_cannot_bind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Started(monkeypatch, BindError("127.0.0.1:7080 is taken"))
    assert cli.main(["run"]) == 4
    assert capsys.readouterr().err == "bifrost-lite: 127.0.0.1:7080 is taken\n"


def test_run_cannot_bind_for_real() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run("run", "-p", str(port))
    assert result.returncode == 4
    assert f"bifrost-lite: quick: cannot listen on 127.0.0.1 port {port}" in result.stderr
    assert "Traceback" not in result.stderr


# check


def test_check_lists_all_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.toml"
    path.write_text('colour = 1\n[http]\nvia = 1\n[[listen]]\nport = 70000\n', encoding="utf-8")
    assert cli.main(["check", str(path)]) == 3
    out, err = capsys.readouterr()
    assert not err
    places = [line.removeprefix(f"{path}:").split(": ")[:2] for line in out.splitlines()]
    assert places == [["1", "colour"], ["3", "http.via"], ["5", "listen[0].port"]]
    assert cli.main(["check", str(path), "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert told["valid"] is False
    assert [(e["section"], e["field"], e["line"]) for e in told["errors"]] == [
        ("colour", "", 1), ("http", "via", 3), ("listen[0]", "port", 5),
    ]  # fmt: skip


def test_check_of_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "/nonexistent/\x1b.toml"]) == 3
    out = capsys.readouterr().out
    assert out.startswith("/nonexistent/\\x1b.toml: ")
    assert len(out.splitlines()) == 1


def test_check_shows_the_memory_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.toml"
    path.touch()
    assert cli.main(["check", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{path}: OK"
    assert lines[-1].startswith("together")
    assert lines[-1].endswith("iB")
    assert cli.main(["check", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["valid"] is True
    assert all(size > 0 for size in told["memory"].values())


def test_check_of_openwrts_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bifrost"
    path.write_text("\n # mine\nconfig route 'ads'\n\toption list 'ads.txt'\n", encoding="utf-8")
    assert cli.main(["check", str(path)]) == 3
    assert capsys.readouterr().out.startswith(f"{path}:3: ads.backend: is missing")
    with path.open("a", encoding="utf-8") as file:
        file.write("\toption backend 'direct'\n")
    assert cli.main(["check", str(path)]) == 3
    assert capsys.readouterr().out.startswith(f"{path}:4: ads.list: got 'ads.txt', there is no")
    (tmp_path / "ads.txt").write_text("a.example\n", encoding="utf-8")
    assert cli.main(["check", str(path)]) == 0
    assert "1 entries of lists" in capsys.readouterr().out


def test_check_reads_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.toml"
    path.write_text('[[routes]]\nlist = "ads.txt"\nbackend = "direct"\n', encoding="utf-8")
    assert cli.main(["check", str(path)]) == 3
    assert capsys.readouterr().out.startswith(f"{path}: routes[0].list: got 'ads.txt', there is no")
    (tmp_path / "ads.txt").write_text("a.example\nb c\n", encoding="utf-8")
    assert cli.main(["check", str(path)]) == 3
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith("ads.txt' line 2: expected one name or network a line")
    (tmp_path / "ads.txt").write_text("a.example\n.b.example\n", encoding="utf-8")
    assert cli.main(["check", str(path)]) == 0
    assert "2 entries of lists" in capsys.readouterr().out


# passwd


def test_passwd_hashes_what_comes_by_a_pipe() -> None:
    result = subprocess.run(
        [*PROGRAM, "passwd", "--iterations", "1000", "--json"],
        input="secret\n",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0
    assert json.loads(result.stdout)["password_hash"].startswith("pbkdf2-sha256$1000$")


# The process


@pytest.mark.parametrize("words", [["run", "-p", "0"], ["status"], ["version"]])
def test_a_key_before_the_end(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(argv: list[str]) -> int:
        assert argv == words
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_dispatch", interrupted)
    assert cli.main(words) == 130
    assert capsys.readouterr() == ("", "\n")


def test_a_reader_that_leaves_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        result = subprocess.run(
            [*PROGRAM, "--help"], stdout=closed, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("redirections", [">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("command", ["version", "passwd", "status --url http://127.0.0.1:1"])
def test_streams_may_be_closed(command: str, redirections: str) -> None:
    line = f"{sys.executable} -m bifrost_lite {command} {redirections}"
    result = subprocess.run(line, shell=True, input=b"", capture_output=True, timeout=60)
    assert result.returncode == {"v": 0, "p": 1, "s": 5}[command[0]]
    assert b"Traceback" not in result.stderr


@pytest.mark.parametrize("words", [("--help",), ("version", "--json"), ("passwd",)])
def test_output_that_cannot_be_written_is_told(words: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [*PROGRAM, *words], input="secret\n", stdout=full, stderr=subprocess.PIPE,
            text=True, timeout=60,
        )  # fmt: skip
    told = "bifrost-lite: the output cannot be written: No space left on device\n"
    assert (result.returncode, result.stderr) == (1, told)


def test_the_module_is_the_program() -> None:
    result = run("--version")
    assert result.stdout == f"bifrost-lite {bifrost_lite.__version__}\n"
    assert run("fly").returncode == 2


def test_client_commands_import_no_daemon() -> None:
    code = (
        "import sys; from bifrost_lite.cli import main; "
        "main(['status', '--url', 'http://127.0.0.1:1']); "
        "print(*[m for m in sys.modules if m.startswith('bifrost_lite')])"
    )
    command = [sys.executable, "-c", code]
    loaded = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60).stdout.split()
    assert "bifrost_lite.commands" in loaded
    assert not {"bifrost_lite.daemon", "bifrost_lite.config.schema"} & set(loaded)
