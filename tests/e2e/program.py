"""A program that a test runs, and the lines it prints."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

DEADLINE = 20.0  # seconds that anything awaited here may take; generous: CI has two busy cores
_PROXY_SETTINGS = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ftp_proxy")


def environment(**extra: str) -> dict[str, str]:
    """This process's environment without the proxy settings that clients obey."""
    kept = {k: v for k, v in os.environ.items() if k.lower() not in _PROXY_SETTINGS}
    return kept | extra


class Lines:
    """Lines as they come in from any thread, and waiting for one of them."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False

    def add(self, line: str) -> None:
        """Take one more line."""
        with self._changed:
            self._lines.append(line)
            self._changed.notify_all()

    def end(self) -> None:
        """No more lines will come: whoever waits fails at once."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def text(self) -> str:
        """All lines so far."""
        with self._changed:
            return "\n".join(self._lines)

    def matching(self, pattern: str) -> list[re.Match[str]]:
        """The matches of `pattern`, searched in each line so far."""
        with self._changed:
            return [m for line in self._lines if (m := re.search(pattern, line))]

    def expect(self, pattern: str, count: int = 1, seconds: float = DEADLINE) -> re.Match[str]:
        """Wait until `count` lines match `pattern`; answers the match of that line.

        Raises:
            AssertionError: the lines ended, or `seconds` passed, before that
        """
        until = time.monotonic() + seconds
        with self._changed:
            while True:
                found = self.matching(pattern)
                if len(found) >= count:
                    return found[count - 1]
                left = until - time.monotonic()
                if self._ended or left <= 0:
                    why = "the lines ended" if self._ended else f"{seconds} s passed"
                    raise AssertionError(
                        f"{why} with {len(found)} of {count} lines matching {pattern!r}:\n"
                        + "\n".join(self._lines)
                    )
                self._pause(left)

    def _pause(self, seconds: float) -> None:
        """Wait for a change, `seconds` at most."""
        self._changed.wait(seconds)


class Program:
    """A running child process; a context manager that leaves none behind.

    Args:
        argv: command and arguments
        env: its environment; None: `environment()`
        cwd: its working directory

    Attributes:
        output: what it printed, standard output and error in one
        process: the child
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self._argv = [str(word) for word in argv]
        self._env = environment() if env is None else env
        self._cwd = cwd
        self.output = Lines()

    def __enter__(self) -> Program:
        self.process = subprocess.Popen(
            self._argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._env,
            cwd=self._cwd,
            text=True,
            errors="backslashreplace",
        )
        assert self.process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self.process.stdout,))
        self._reader.start()
        return self

    def _read(self, pipe: IO[str]) -> None:
        with pipe:
            for line in pipe:
                self.output.add(line.rstrip("\n"))
        self.output.end()

    def wait(self, seconds: float = DEADLINE) -> int:
        """Wait for its end, and for the last of its output; answers its exit code."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{self._argv[0]} has not ended in {seconds} s:\n{self.output.text}"
            ) from None
        self._reader.join(DEADLINE)
        return code

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
