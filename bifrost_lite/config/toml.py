"""TOML text: reading it with the line of every key, and writing settings as it.

The parser is the standard library's (`tomli` before Python 3.11). It gives no positions, so a
scanner of our own goes over the text once more, knowing already that it is valid.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping

from ..errors import ConfigError, Fault
from .faults import Path
from .schema import Settings

_DEEPEST = 16  # parts of a path; no setting has more than five
# Of a key in n parts the parser makes n pieces of up to n: a megabyte would take hours.
_deep_re = re.compile(
    r"""(?:^|[{,])[ \t\[]*(?:(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')[ \t]*\.[ \t]*)"""
    rf"{{{_DEEPEST}}}",
    re.MULTILINE,
)
_position_re = re.compile(r" \((at line ([0-9]+), column [0-9]+|at end of document)\)$")


def parse(text: str) -> dict[str, object]:
    """The data of a TOML document.

    Raises:
        ConfigError: the text is no TOML; one fault with line and column
    """
    # Imported when a file is read, never by a daemon that runs on its defaults.
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    deep = _deep_re.search(text)
    if deep is not None:
        line = text.count("\n", 0, deep.start()) + 1
        raise ConfigError([Fault("", "", f"has a key of more than {_DEEPEST} parts", line)])
    try:
        data: dict[str, object] = tomllib.loads(text)
    except RecursionError:
        raise ConfigError([Fault("", "", "is nested too deeply")]) from None
    except ValueError as error:  # besides TOMLDecodeError: an integer of too many digits
        message = str(error).encode("ascii", "backslashreplace").decode()[:300]
        found = _position_re.search(message)
        line = int(found[2] or 0) if found else 0
        if found and not line:
            line = text.count("\n", 0, len(text.rstrip())) + 1
        raise ConfigError([Fault("", "", f"is not TOML: {message}", line)]) from None
    return data


def index_lines(text: str) -> dict[Path, int]:
    """The 1-based line of each table, key and list entry of a valid TOML document.

    An array of tables and its entries have the lines of their headers; a path that only a
    longer one implies (``a`` in ``[a.b]``) has the line where it is first implied.
    """
    try:
        return _Scanner(text).document()
    except (ConfigError, RecursionError, _Lost):
        # Lines are a help; none are better than wrong ones.
        return {}


class _Lost(Exception):
    """The text is not what the scanner knows as TOML."""


_blank_re = re.compile(r"[ \t\r\n]*")
_space_re = re.compile(r"[ \t]*")
_key_re = re.compile(r"""([A-Za-z0-9_-]+)|("(?:[^"\\\n]|\\.)*")|'([^'\n]*)'""")
_plain_re = re.compile(r"""[^\s,\[\]{}#"'=][^,\[\]{}#\n]*""")
# What ends a string, or hides such an end. A multi-line one may end in up to two quotes of its
# own before the three that close it.
_closing = {
    '"""': re.compile(r'\\.|"{3,5}', re.DOTALL),
    "'''": re.compile(r"'{3,5}"),
    '"': re.compile(r'\\.|"'),
    "'": re.compile(r"'"),
}


class _Scanner:
    """One pass over a valid document.

    The grammar's rules are methods that begin at `at` and leave it behind what they took.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Path, int] = {}
        self.entries: dict[Path, int] = {}  # arrays of tables: how many headers so far
        self._line = 1
        self._counted = 0

    def document(self) -> dict[Path, int]:
        table: Path = ()
        while self.blank() < len(self.text):
            if self.text[self.at] == "[":
                table = self.header()
            else:
                self.pair(table)
        return self.lines

    def header(self) -> Path:
        """``[a.b]`` or ``[[a.b]]``; returns the path of the table that it opens."""
        many = self.text.startswith("[[", self.at)
        self.at += 2 if many else 1
        line = self.line()
        path: Path = ()
        keys = self.key()
        for number, key in enumerate(keys):
            path = self.note((*path, key), line)
            if path in self.entries and not (many and number == len(keys) - 1):
                path = (*path, self.entries[path] - 1)
        if many:
            self.entries[path] = self.entries.get(path, 0) + 1
            path = (*path, self.entries[path] - 1)
            self.take("]")
        self.take("]")
        # A header may come after a table below it: its own line is the better one.
        self.lines[path] = line
        return path

    def pair(self, table: Path) -> None:
        line = self.line()
        path = table
        for key in self.key():
            path = self.note((*path, key), line)
        self.take("=")
        self.value(path)

    def key(self) -> list[str]:
        """A key, dotted or not, with the blanks around it."""
        keys: list[str] = []
        while True:
            self.match(_space_re)
            bare, quoted, literal = self.match(_key_re).groups()
            keys.append(_unquoted(quoted) if quoted is not None else bare or literal or "")
            self.match(_space_re)
            if not self.text.startswith(".", self.at):
                return keys
            self.at += 1

    def value(self, path: Path) -> None:
        self.match(_space_re)
        if self.text.startswith("[", self.at):
            self.array(path)
        elif self.text.startswith("{", self.at):
            self.inline_table(path)
        elif self.text.startswith(('"', "'"), self.at):
            self.string()
        else:
            self.match(_plain_re)

    def string(self) -> None:
        """A string of any kind. Searched for its end: long ones need no deep pattern."""
        quotes = next(quotes for quotes in _closing if self.text.startswith(quotes, self.at))
        self.at += len(quotes)
        closed = False
        while not closed:
            found = _closing[quotes].search(self.text, self.at)
            if found is None:
                raise _Lost
            self.at = found.end()
            closed = not found[0].startswith("\\")

    def array(self, path: Path) -> None:
        self.take("[")
        index = 0
        while not self.ends("]"):
            self.value(self.note((*path, index), self.line()))
            index += 1

    def inline_table(self, path: Path) -> None:
        self.take("{")
        while not self.ends("}"):
            self.pair(path)

    def ends(self, bracket: str) -> bool:
        """Whether the list ends here; takes the bracket, or the comma before the next entry."""
        self.blank()
        if self.text.startswith(",", self.at):
            self.at += 1
            self.blank()
        if not self.text.startswith(bracket, self.at):
            return False
        self.at += 1
        return True

    def blank(self) -> int:
        """White space, newlines and comments; returns where they end."""
        self.match(_blank_re)
        while self.text.startswith("#", self.at):
            end = self.text.find("\n", self.at)
            self.at = end if end >= 0 else len(self.text)
            self.match(_blank_re)
        return self.at

    def match(self, what: re.Pattern[str]) -> re.Match[str]:
        found = what.match(self.text, self.at)
        if found is None:
            raise _Lost
        self.at = found.end()
        return found

    def take(self, sign: str) -> None:
        if not self.text.startswith(sign, self.at):
            raise _Lost
        self.at += 1

    def line(self) -> int:
        """The line that `at` is in."""
        self._line += self.text.count("\n", self._counted, self.at)
        self._counted = self.at
        return self._line

    def note(self, path: Path, line: int) -> Path:
        if len(path) <= _DEEPEST:
            self.lines.setdefault(path, line)
        return path


def _unquoted(key: str) -> str:
    """The text of a basic string."""
    return str(parse(f"key = {key}")["key"]) if "\\" in key else key[1:-1]


_must_escape_re = re.compile(r'["\\\x00-\x1f\x7f]')
_short = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}


def dump(settings: Settings, *, full: bool = False) -> str:
    """Settings as TOML that reads back equal, secrets and all.

    Args:
        settings: to be written
        full: with every key, see `edit.document`
    """
    from .edit import document  # a daemon that only reads needs none of it

    lines = _table(document(settings, full=full, masked=False), ())
    return "".join(f"{line}\n" for line in lines).lstrip("\n")


def _table(table: Mapping[str, object], path: tuple[str, ...]) -> Iterator[str]:
    """The lines of a table: its plain keys first, or they would belong to a table below."""
    below: list[tuple[str, object]] = []
    for key, value in table.items():
        if isinstance(value, dict) or (isinstance(value, list) and _are_tables(value)):
            below.append((key, value))
        else:
            yield f"{key} = {_value(value)}"
    for key, value in below:
        here = (*path, key)
        header = ".".join(here)
        if isinstance(value, dict):
            yield from ("", f"[{header}]")
            yield from _table(value, here)
        elif isinstance(value, list):
            for item in value:
                yield from ("", f"[[{header}]]")
                yield from _table(item, here)


def _are_tables(value: list[object]) -> bool:
    return bool(value) and isinstance(value[0], dict)


def _value(value: object) -> str:
    if isinstance(value, str):
        return f'"{_must_escape_re.sub(_escape, value)}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return repr(value)


def _escape(found: re.Match[str]) -> str:
    sign = found[0]
    return _short.get(sign) or f"\\u{ord(sign):04X}"
