"""``python -m bifrost_lite.config.uci``: prints what the tool prints, and ends as it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bifrost_lite.config.uci.__main__ import main
from bifrost_lite.config.uci.parse import MAX_TEXT

DATA = Path(__file__).parents[1] / "data"
FILES = sorted((DATA / "uci").glob("*.conf"))


def run(*args: str | Path) -> tuple[int, bytes, bytes]:
    command = [sys.executable, "-m", "bifrost_lite.config.uci", *map(str, args)]
    done = subprocess.run(command, capture_output=True, timeout=30)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("command", ["export", "show", "showx"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_vectors(path: Path, command: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    status = main([command, str(path)])
    out, err = capfdbinary.readouterr()
    lines = path.with_suffix(".status").read_bytes().split(b"\n")
    name = command.removesuffix("x").encode()
    assert b"%b rc=%d" % (name, status) in lines
    assert b"%b stderr=%b" % (name, err.removesuffix(b"\n")) in lines
    assert out == path.with_suffix(f".{command}").read_bytes()


def test_as_a_program(tmp_path: Path) -> None:
    good, bad = DATA / "uci" / "multiline_list.conf", DATA / "uci" / "good_then_bad.conf"
    assert run("show", good) == (0, good.with_suffix(".show").read_bytes(), b"")
    error = b"uci: Parse error (invalid command) at line 5, byte 1\n"
    assert run("export", bad) == (1, b"", error)


def test_batch(tmp_path: Path) -> None:
    path, commands = tmp_path / "t", DATA / "uci_batch" / "paths.batch"
    path.write_bytes((DATA / "uci_batch" / "t.conf").read_bytes())
    expected = (
        commands.with_suffix(".out").read_bytes(),
        commands.with_suffix(".err").read_bytes(),
    )
    assert run("batch", path, commands) == (0, *expected)
    commands = tmp_path / "commands"
    commands.write_text("set t.main.a=5\ncommit t\nget t.main.a\n")
    assert run("batch", path, commands) == (0, b"5\n", b"")
    assert path.read_bytes() == (DATA / "uci_batch" / "t.conf").read_bytes()  # it only prints


@pytest.mark.parametrize(
    "args", [[], ["show"], ["show", "a", "b"], ["batch", "a"], ["import", "a"], ["-h"]]
)
def test_usage(args: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 2
    assert "batch FILE COMMANDS" in capfd.readouterr().err


def test_files_that_cannot_be_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def says(*args: str | Path) -> str:
        assert main([*map(str, args)]) == 1
        out, err = capfd.readouterr()
        assert out == ""
        return err

    good, large = tmp_path / "good", tmp_path / "large"
    good.touch()
    large.write_bytes(b"\n" * (MAX_TEXT + 1))
    os.mkfifo(tmp_path / "pipe")
    assert says("show", tmp_path / "missing") == "uci: Entry not found\n"
    assert says("show", tmp_path) == "uci: Entry not found\n"
    assert says("show", tmp_path / "pipe") == "uci: Entry not found\n"
    assert says("batch", good, tmp_path / "missing") == "uci: Entry not found\n"
    assert says("batch", good, tmp_path) == "uci: I/O error\n"
    assert says("show", tmp_path / ".hidden") == "uci: Parse error\n"
    assert f"more than {MAX_TEXT} bytes" in says("export", large)
    assert says("batch", good, large) == f"uci: more than {MAX_TEXT} bytes of commands\n"


def test_nobody_reads_the_output() -> None:
    path = DATA / "uci" / "long_value_4k.conf"
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "bifrost_lite.config.uci", "show", str(path)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=30)
    assert (done.returncode, done.stderr) == (1, b"uci: I/O error\n")
