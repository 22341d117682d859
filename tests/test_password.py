"""The command that makes hashes, at a terminal and in a script."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from bifrost_lite import password
from bifrost_lite.options import FAILED, OK, Args, UsageError
from bifrost_lite.passwd import COSTLY, LEAST, MOST, Hash, parse

DEADLINE = 20.0  # seconds


def is_hash_of(text: str, secret: bytes) -> bool:
    hash = parse(text)
    derivation = hash.derive(secret)
    derivation.step(hash.iterations)
    return hash.matches(derivation)


# From a script.


class Result:
    """How a run with this standard input ended."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        data: bytes,
        **options: str,
    ) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        self.status = password.run(Args(options, []))
        self.out, self.err = capsys.readouterr()


@pytest.mark.parametrize(
    ("data", "secret"),
    [
        (b"geheim\n", b"geheim"),
        (b"geheim", b"geheim"),
        (b"geheim\r\n", b"geheim"),
        (b"geheim\nanother line\n", b"geheim"),
        (" zwölf: Wörter ".encode() + b"\n", " zwölf: Wörter ".encode()),
        (b"p" * 255 + b"\r\n", b"p" * 255),
    ],
)
def test_a_line_of_standard_input(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    data: bytes,
    secret: bytes,
) -> None:
    result = Result(monkeypatch, capsys, data, iterations="1000")
    assert result.status == OK
    assert result.out.endswith("\n")
    assert is_hash_of(result.out[:-1], secret)
    assert "password_hash" in result.err
    assert secret.decode() not in result.out + result.err


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "the password is empty"),
        (b"\n", "the password is empty"),
        (b"\r\nsecond\n", "the password is empty"),
        (b"p" * 256 + b"\n", "the password has over 255 bytes, which SOCKS cannot carry"),
        (b"p" * 10000, "the password has over 255 bytes, which SOCKS cannot carry"),
        (b"with\ttab\n", "the password has a control character"),
        (b"nul\0\n", "the password has a control character"),
        (b"delete\x7f\n", "the password has a control character"),
        ("zwölf\n".encode("latin-1"), "the password is not UTF-8"),
    ],
)
def test_no_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: bytes, told: str
) -> None:
    result = Result(monkeypatch, capsys, data)
    assert (result.status, result.out) == (FAILED, "")
    assert result.err == f"bifrost-lite: {told}\n"


def test_no_two_hashes_are_alike(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {Result(monkeypatch, capsys, b"x\n", iterations="1000").out for _ in range(3)}
    assert len(texts) == 3


def test_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    result = Result(monkeypatch, capsys, b"geheim\n", iterations="2000", json="")
    told = json.loads(result.out)
    assert set(told) == {"password_hash", "iterations", "seconds"}
    assert is_hash_of(told["password_hash"], b"geheim")
    assert told["iterations"] == parse(told["password_hash"]).iterations == 2000
    assert 0 <= told["seconds"] < COSTLY
    assert result.err == ""


def test_calibrated(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(password, "calibrate", lambda clock: 4321)
    result = Result(monkeypatch, capsys, b"geheim\n")
    assert parse(result.out.strip()).iterations == 4321


@pytest.mark.parametrize("count", ["0", "999", str(MOST + 1), "many", "-1", ""])
def test_no_count(monkeypatch: pytest.MonkeyPatch, count: str) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # nobody is asked first
    with pytest.raises(UsageError, match=f"--iterations takes a number from {LEAST} to {MOST}"):
        password.run(Args({"iterations": count}, []))


def test_a_count_too_high_for_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may be meant for another machine, so it is made."""
    times = iter([10.0, 10.0 + COSTLY + 1])
    monkeypatch.setattr(password, "thread_time", lambda: next(times))
    monkeypatch.setattr(password, "make", lambda word, salt, count: Hash(count, salt, bytes(32)))
    result = Result(monkeypatch, capsys, b"geheim\n", iterations=str(MOST))
    assert parse(result.out.strip()).iterations == MOST
    assert result.err.startswith("One check takes this machine 3.00 s; too long")


# At a terminal.

PROGRAM = """
import os, sys
os.close(os.open(os.ttyname(0), os.O_RDWR))  # the terminal becomes its own: ^C reaches it
from bifrost_lite.options import Args
from bifrost_lite.password import run
sys.exit(run(Args({"iterations": "1000"}, [])))
"""


class Terminal:
    """The command, and whoever sits before it; a context manager.

    Attributes:
        shown: all that stood on the screen, what was typed included
        out: its standard output
    """

    def __init__(self) -> None:
        self.hand, self.line = pty.openpty()
        self.before = termios.tcgetattr(self.line)
        self.shown = b""
        self.out = b""

    def __enter__(self) -> Terminal:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=self.line,
            stdout=subprocess.PIPE,
            stderr=self.line,
            cwd=Path(password.__file__).parents[1],
            start_new_session=True,
        )
        return self

    def expect(self, text: bytes) -> None:
        """Wait until `text` is what was shown last."""
        until = time.monotonic() + DEADLINE
        while not self.shown.endswith(text):
            ready, _, _ = select.select([self.hand], [], [], max(0, until - time.monotonic()))
            assert ready, self.shown
            self.shown += os.read(self.hand, 4096)

    def type(self, data: bytes) -> None:
        os.write(self.hand, data)

    def end(self) -> int:
        """Wait for its end; answers the exit status."""
        self.out, _ = self.process.communicate(timeout=DEADLINE)
        while select.select([self.hand], [], [], 0)[0]:
            self.shown += os.read(self.hand, 4096)
        assert termios.tcgetattr(self.line) == self.before, "the terminal is left as it was"
        return self.process.returncode

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        os.close(self.line)
        os.close(self.hand)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    with Terminal() as terminal:
        yield terminal


def test_typed_twice_and_not_shown(terminal: Terminal) -> None:
    terminal.expect(b"Password: ")
    terminal.type("geheim ü\n".encode())
    terminal.expect(b"\r\nOnce more: ")
    terminal.type("geheim ü\n".encode())
    assert terminal.end() == OK
    assert is_hash_of(terminal.out.decode().strip(), "geheim ü".encode())
    head = b"Password: \r\nOnce more: \r\nOne check takes this machine "
    assert terminal.shown.startswith(head)
    assert b"geheim" not in terminal.shown


def test_typed_differently(terminal: Terminal) -> None:
    terminal.expect(b"Password: ")
    terminal.type(b"one\n")
    terminal.expect(b"Once more: ")
    terminal.type(b"other\n")
    assert terminal.end() == FAILED
    assert terminal.shown.endswith(b"\r\nbifrost-lite: these were two different passwords\r\n")
    assert terminal.out == b""


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (b"\n", b"the password is empty"),
        (b"\x04", b"the password is empty"),  # ^D
        (b"p" * 300 + b"\n", b"the password has over 255 bytes, which SOCKS cannot carry"),
    ],
)
def test_typed_in_vain(terminal: Terminal, typed: bytes, told: bytes) -> None:
    terminal.expect(b"Password: ")
    terminal.type(typed)
    assert terminal.end() == FAILED
    assert terminal.shown.endswith(b"bifrost-lite: " + told + b"\r\n")
    assert b"Once more" not in terminal.shown


def test_interrupted(terminal: Terminal) -> None:
    terminal.expect(b"Password: ")
    terminal.type(b"half a pass\x03")
    assert terminal.end() == FAILED
    assert b"half" not in terminal.shown
    assert b"Traceback" not in terminal.shown
    assert terminal.out == b""


def test_what_a_terminal_is_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same in this process, with a terminal that says what it is told."""
    lines = iter([b"geheim\n", b"geheim\n"])
    hand, line = pty.openpty()
    try:
        stand_in = SimpleNamespace(
            isatty=lambda: True,
            fileno=lambda: line,
            buffer=SimpleNamespace(readline=lambda limit: next(lines)),
        )
        monkeypatch.setattr(sys, "stdin", stand_in)
        assert password.run(Args({"iterations": "1000"}, [])) == OK
    finally:
        os.close(hand)
        os.close(line)
    out, err = capsys.readouterr()
    assert is_hash_of(out.strip(), b"geheim")
    assert err.startswith("Password: Once more: One check")
