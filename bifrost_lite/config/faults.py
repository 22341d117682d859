"""Collecting what is wrong with a configuration, each fault with its place and line."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import ConfigError, Fault

# Where something stands: keys and indexes from the top, such as ("listen", 0, "port").
Path = tuple[str | int, ...]
Lines = Mapping[Path, int]

# A file full of rubbish must not become a list as long as itself.
MAX_FAULTS = 100
_SHOWN = 60


class Faults:
    """The faults found so far.

    Args:
        lines: the 1-based line of each path, as far as known

    Attributes:
        paths: where the faults are, as far as they are told
        more: how many there are beyond those
    """

    __slots__ = ("_found", "_lines", "more", "paths")

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._found: list[Fault] = []
        self.paths: set[Path] = set()
        self.more = 0

    @property
    def full(self) -> bool:
        """Whether further faults are only counted."""
        return len(self._found) >= MAX_FAULTS

    def add(self, path: Path, message: str) -> None:
        """Note one fault; its line is that of the nearest thing around it that has one."""
        if self.full:
            self.more += 1
            return
        self.paths.add(path)
        line = 0
        for end in range(len(path), 0, -1):
            line = self._lines.get(path[:end], 0)
            if line:
                break
        self._found.append(Fault(*place(path), message, line))

    def finish(self) -> None:
        """Raise `ConfigError` with all faults by line, if there are any."""
        if not self._found:
            return
        found = sorted(self._found, key=lambda fault: (not fault.line, fault.line))
        if self.more:
            found.append(Fault("", "", f"and {self.more} more faults"))
        raise ConfigError(found)


def place(path: Path) -> tuple[str, str]:
    """A path as the section and field of a `Fault`: ``listen[0]`` and ``port``."""
    section = text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
            continue
        section = text
        plain = key.isascii() and key.replace("-", "_").isidentifier() and len(key) <= _SHOWN
        text += f".{key if plain else shown(key)}"
    if not section:
        return text[1:], ""
    return section[1:], text[len(section) + 1 :]


def shown(value: object) -> str:
    """A value from outside as a message may repeat it: escaped and cut."""
    if isinstance(value, str):
        return ascii(value) if len(value) <= _SHOWN else f"{ascii(value[:_SHOWN])}..."
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        # Python refuses to print integers of thousands of digits.
        return str(value) if value.bit_length() <= 64 else "a number of more than 64 bits"
    if isinstance(value, float):
        return str(value)
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list | tuple):
        return "a list"
    return "nothing" if value is None else "a date or time"
