"""The command `passwd`: from a password to the hash that stands in a configuration."""

from __future__ import annotations

import os
import sys
import termios
from time import thread_time

from .options import FAILED, OK, Args, number
from .passwd import COSTLY, LEAST, MOST, PASSWORD_LIMIT, SALT_SIZE, calibrate, make


class _Refused(Exception):
    """No hash is made of this; the text says why."""


def run(args: Args) -> int:
    """Ask for a password, or read a line of standard input; print its hash.

    Returns:
        the exit status

    Raises:
        UsageError: `--iterations` is no such number
    """
    count = number(args, "iterations", LEAST, MOST)
    try:
        password = _ask() if sys.stdin.isatty() else _line()
    except _Refused as error:
        print(f"bifrost-lite: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(file=sys.stderr)  # the shell's prompt goes below the ^C
        return FAILED
    if count is None:
        count = calibrate(thread_time)
    begun = thread_time()
    text = str(make(password, os.urandom(SALT_SIZE), count))
    seconds = thread_time() - begun
    if "json" in args.options:
        print(f'{{"password_hash":"{text}","iterations":{count},"seconds":{seconds:.3f}}}')
        return OK
    print(text)
    sys.stdout.flush()
    hint = "too long: a daemon here refuses it" if seconds > COSTLY else "a slower one takes longer"
    print(
        f"One check takes this machine {seconds:.2f} s; {hint}.\n"
        "It is the password_hash of a user: [[users]] in TOML, config user in UCI.",
        file=sys.stderr,
    )
    return OK


def _ask() -> bytes:
    """The password from the terminal, typed twice and not shown.

    Raises:
        _Refused: they differ, or no client could send it
    """
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    silent = termios.tcgetattr(descriptor)
    silent[3] = silent[3] & ~termios.ECHO | termios.ECHONL  # only the end of the line is shown
    # What was typed ahead is no password, and what is left of one must not reach the shell.
    termios.tcsetattr(descriptor, termios.TCSAFLUSH, silent)
    try:
        password = _prompt("Password: ")
        if _prompt("Once more: ") != password:
            raise _Refused("these were two different passwords")
    finally:
        termios.tcsetattr(descriptor, termios.TCSAFLUSH, before)
    return password


def _prompt(text: str) -> bytes:
    print(text, end="", file=sys.stderr, flush=True)
    return _line()


def _line() -> bytes:
    """One line of standard input.

    Raises:
        _Refused: no client could send it as a password
    """
    password = sys.stdin.buffer.readline(PASSWORD_LIMIT + 3).rstrip(b"\r\n")
    if not password:
        raise _Refused("the password is empty")
    if len(password) > PASSWORD_LIMIT:
        raise _Refused(f"the password has over {PASSWORD_LIMIT} bytes, which SOCKS cannot carry")
    # RFC 7617 section 2: no control characters, and UTF-8 as our challenge asks for.
    if any(byte < 32 or byte == 127 for byte in password):
        raise _Refused("the password has a control character")
    try:
        password.decode()
    except UnicodeDecodeError:
        raise _Refused("the password is not UTF-8") from None
    return password
