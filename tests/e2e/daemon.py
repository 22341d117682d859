"""The real daemon as a child process on ports of the kernel's choice."""

from __future__ import annotations

import json
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests.e2e.program import DEADLINE, Program

Value = bool | int | float | str | Sequence["Value"] | Mapping[str, "Value"]
Section = Value | Mapping[str, Value] | Sequence[Mapping[str, Value]]

DEFAULTS: dict[str, Section] = {
    "graceful_period": "1s",
    "listen": [{"name": "main", "address": "127.0.0.1", "port": 0}],
    "access": {"allow_local": True},  # the origins of the tests live on loopback
    "control": {"listen": ["127.0.0.1:0", "127.0.0.1:0"]},
}


def toml(value: Value) -> str:
    """One value as TOML on one line."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{k} = {toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml(v) for v in value) + "]"
    return json.dumps(value)  # scalars are written alike in both


def configuration(sections: Mapping[str, Section]) -> str:
    """A TOML document: scalars first, then a table, or an array of tables, per section."""
    scalars, tables = [], []
    for name, section in sections.items():
        if isinstance(section, Mapping):
            parts = [(f"[{name}]", section)]
        elif isinstance(section, (list, tuple)) and all(isinstance(s, Mapping) for s in section):
            parts = [(f"[[{name}]]", part) for part in section]
        else:
            scalars.append(f"{name} = {toml(section)}")
            continue
        for head, keys in parts:
            tables += ["", head, *(f"{k} = {toml(v)}" for k, v in keys.items())]
    return "\n".join([*scalars, *tables]) + "\n"


class Address(NamedTuple):
    """Where a listener really is; its text is ``host:port``, IPv6 in brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Daemon(Program):
    """`bifrost-lite run` with a configuration of its own, ready when entered.

    On leaving it is stopped by SIGTERM, and has to end with exit code 0 and without a
    traceback in its output.

    Args:
        sections: what differs from `DEFAULTS`; the keys of a table are merged with its
            defaults, anything else replaces them

    Attributes:
        proxies: the proxy listeners by name
        controls: the control listeners in the order of the configuration
        proxy: the first proxy listener
        control: the first control listener
    """

    def __init__(self, **sections: Section) -> None:
        settings = dict(DEFAULTS)
        for name, section in sections.items():
            default = settings.get(name)
            if isinstance(section, Mapping) and isinstance(default, Mapping):
                settings[name] = {**default, **section}
            else:
                settings[name] = section
        self.settings = settings
        self._folder = tempfile.TemporaryDirectory(prefix="bifrost-test-")
        self.path = Path(self._folder.name) / "bifrost.toml"
        self.path.write_text(configuration(settings), encoding="utf-8")
        super().__init__([sys.executable, "-m", "bifrost_lite", "run", "-c", self.path])

    def __enter__(self) -> Daemon:
        super().__enter__()
        try:
            self.output.expect(r"\bready\b")
        except BaseException:
            super().__exit__()
            self._folder.cleanup()
            raise
        self.proxies: dict[str, Address] = {}
        self.controls: list[Address] = []
        for found in self.output.matching(
            r"\blistening: (?:proxy (\S+)|control) (?:\[(.+)\]|([\d.]+)):(\d+)$"
        ):
            name, six, four, port = found.groups()
            address = Address(six or four, int(port))
            if name is None:
                self.controls.append(address)
            else:
                self.proxies[name] = address
        self.proxy = next(iter(self.proxies.values()))
        self.control = self.controls[0]
        return self

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self.process.pid

    def sockets(self) -> int:
        """How many sockets it has open."""
        count = 0
        for fd in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                count += str(fd.readlink()).startswith("socket:")
        return count

    def wait_until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait for something that this process can only ask about."""
        until = time.monotonic() + DEADLINE
        while not holds():
            assert time.monotonic() < until, f"not so after {DEADLINE} s: {what}"
            time.sleep(0.01)

    def url(self, path: str, control: int = 0) -> str:
        """The HTTP address of `path` on one of the control listeners."""
        return f"http://{self.controls[control]}{path}"

    def stop(self) -> None:
        """Stop it by SIGTERM.

        Raises:
            AssertionError: it did not end in time, or not cleanly
        """
        self.process.send_signal(signal.SIGTERM)
        code = self.wait(DEADLINE)
        output = self.output.text
        assert code == 0, f"exit code {code} after SIGTERM:\n{output}"
        self.check_output()

    def check_output(self) -> None:
        """Fail if the daemon met a fault of its own, or a warning of Python's."""
        output = self.output.text
        # The daemon's log tells an exception in one line, with the places it came through.
        assert not re.search(r"Traceback|Warning: |Exception ignored|\.py:\d+", output), output

    def __exit__(self, *exc: object) -> None:
        failed = any(exc)
        try:
            if not failed and self.process.poll() is None:
                self.stop()
            elif not failed:
                self.check_output()
            else:
                print(f"output of the daemon:\n{self.output.text}")
        finally:
            super().__exit__()
            self._folder.cleanup()
