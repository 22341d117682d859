"""The commands of ``uci batch`` on one package, with the tool's own output and errors.

The tool keeps what is not committed as a list of changes beside the file, and loads both anew
for each command. A change that it cannot read back from there silently never was.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from .change import Change, has_control, moved, number
from .model import (
    Option,
    Package,
    Section,
    anonymous_name,
    export,
    quote,
    show,
    show_option,
    show_section,
)
from .parse import is_name, is_type, parse
from .scan import Scanner, UciError

INVALID = "Invalid argument"
MISSING = "Entry not found"

_MOST_WORDS = 3  # of a command
_INFO = 127  # bytes of what the tool remembers about its errors

_blank = re.compile(rb"[ \t\r\n]").search
_index = re.compile(rb"(\s*[+-]?[0-9]+)?").fullmatch


class Failed(Exception):
    """A command failed.

    Args:
        message: what the tool says
        info: where, as far as it says that
    """

    def __init__(self, message: str, info: str = "") -> None:
        super().__init__(message)
        self.info = info


class Place(NamedTuple):
    """What ``package.section.option=value`` stands for.

    Attributes:
        package: it
        section: a name, "" for none; of ``@type[index]`` that of the section, if it is there
        option: a name, "" for none
        value: what follows the first =, None where there is none
        at: the section, if it is there
        item: its option, if it is there
    """

    package: Package
    section: str
    option: str
    value: bytes | None
    at: Section | None
    item: Option | None

    def complete(self) -> None:
        """Raise `Failed` unless all that is named is there."""
        if not self.is_complete:
            raise Failed(MISSING)

    @property
    def is_complete(self) -> bool:
        """Whether all that is named is there."""
        return bool((self.at or not self.section) and (self.item or not self.option))

    def change(self, kind: str, value: bytes | None = None) -> Change:
        """A change of it."""
        return Change(kind, self.section, self.option, value)


class Session:
    """The `uci` tool with one package, in memory only.

    Args:
        name: of the package
        data: its file

    Attributes:
        data: the file; ``commit`` replaces it
        out, err: what the tool has printed
    """

    def __init__(self, name: str, data: bytes) -> None:
        self.name = name.encode("latin-1")
        self.data = data
        self.out = bytearray()
        self.err = bytearray()
        self._info = ""
        self._changes: list[Change] = []
        self._scan = Scanner(b"")
        self._load()

    def batch(self, commands: bytes) -> None:
        """Run commands, one a line; one that fails does not stop those after it."""
        scan = self._scan = Scanner(commands)
        while scan.more:
            scan.line()
            words: list[bytes] = []
            try:
                while len(words) <= _MOST_WORDS and (word := scan.word()[0]):
                    words.append(word)
                if len(words) > _MOST_WORDS:
                    self.err += b"Too many arguments\n"
                elif words and words[0].lower() == b"exit":
                    return
                elif words and not self._run(words[0].lower(), words[1:]):
                    self.err += b"Unknown command\n"
            except UciError as error:
                self._complain(_unreadable(error))
            except Failed as error:
                self._complain(error)

    def _complain(self, error: Failed) -> None:
        # The tool never forgets what it once said here, and adds a line end each time.
        self._info = error.info or self._info
        if len(self._info) < _INFO:
            self._info += "\n"
        self.err += f"uci: {error}{self._info}".encode("latin-1")

    def _run(self, name: bytes, args: list[bytes]) -> bool:
        """Run one command; answers False where there is none such."""
        if name in _EDITS and len(args) == 1:
            self._note(_EDITS[name](self._find(args[0])))
        elif name in _QUERIES and len(args) == 1:
            place = self._find(args[0])
            if place.value is None:
                _QUERIES[name](self, place)
        elif name in _REPORTS and len(args) < 2:
            if args or is_type(self.name):
                _REPORTS[name](self, self._find(args[0] if args else self.name))
        elif name == b"add" and len(args) == 2:
            self._add(*args)
        else:
            return False
        return True

    def _load(self) -> None:
        """Take the file and the changes as they are now."""
        self._fault: UciError | None = None
        self._applied = 0
        name = self.name.decode("latin-1")
        try:
            self._package = parse(self.data, name)
        except UciError as error:
            self._package, self._fault = Package(name), error
            return
        for change in self._changes:
            self._apply(change)

    def _note(self, change: Change | None) -> None:
        if change:
            self._changes.append(change)
            self._apply(change)

    def _apply(self, change: Change) -> None:
        if change.readable and change.apply(self._package):
            self._applied += 1

    def _open(self, name: bytes) -> Package:
        if name != self.name:
            raise Failed(MISSING)
        self._scan.forget()  # the tool has but one buffer
        if self._fault:
            raise _unreadable(self._fault)
        return self._package

    def _find(self, text: bytes) -> Place:
        path, equals, value = text.partition(b"=")
        name, *parts = path.split(b".")
        wrong = len(parts) > 2 or not is_type(name) or has_control(value)
        if wrong or (len(parts) == 2 and not is_name(parts[1])):
            raise Failed("Parse error", f" (unknown) at line {self._scan.lines}, byte 0")
        package = self._open(name)
        at = _section(package, parts[0]) if parts else None
        section = at.name if at else b"".join(parts[:1]).decode("latin-1")
        option = b"".join(parts[1:]).decode()
        item = at.get(option) if at else None
        return Place(package, section, option, value if equals else None, at, item)

    def _add(self, name: bytes, type: bytes) -> None:
        if not name.startswith((b".", b"/")) and not is_type(name):
            raise Failed(INVALID)
        package = self._open(name)
        section = anonymous_name(package.count + 1, type.decode("latin-1"))
        self.out += section.encode() + b"\n"
        self._note(Change("add", section, "", type))

    def _get(self, place: Place) -> None:
        place.complete()
        if place.item:
            values = place.item.values
            if place.item.is_list:
                values = [quote(value) if _blank(value) else value for value in values]
            self.out += b" ".join(values) + b"\n"
        elif place.at:
            self.out += place.at.type.encode() + b"\n"

    def _revert(self, place: Place) -> None:
        # One that the tool cannot read stops it before it has left out any.
        if all(change.readable for change in self._changes):
            self._changes = [
                change
                for change in self._changes
                if (place.section and place.section != change.section)
                or (place.option and place.option != change.option)
            ]
        self._load()

    def _show(self, place: Place) -> None:
        place.complete()
        if place.item:
            self.out += show_option(place.package, place.section, place.item)
        elif place.at:
            self.out += b"".join(show_section(place.package, place.at, place.section))
        else:
            self.out += show(place.package)

    def _print_changes(self, place: Place) -> None:
        for change in self._changes:
            if change.readable:
                self.out += change.line(place.package.name)

    def _export(self, place: Place) -> None:
        self.out += export(place.package)

    def _commit(self, place: Place) -> None:
        if self._applied:
            self.data = export(place.package, header=False)
            self._changes = []
            self._load()


def _unreadable(error: UciError) -> Failed:
    return Failed("Parse error", error.tool.removeprefix("Parse error"))


def _section(package: Package, text: bytes) -> Section | None:
    """The section of this name, or ``@type[index]``; a negative index counts from the end."""
    if is_name(text):
        return package.find(text.decode())
    type, bracket, rest = text.partition(b"[")
    index, end, more = rest.partition(b"]")
    good = type.startswith(b"@") and bracket and end and not more and _index(index)
    type = type[1:]
    if not good or (type and not is_type(type)):
        raise Failed(INVALID)
    name = type.decode()
    sections = [section for section in package.sections if not name or section.type == name]
    at = number(index) or 0
    at += len(sections) if at < 0 else 0
    return sections[at] if 0 <= at < len(sections) else None


def _set(place: Place) -> Change | None:
    value = place.value
    if value is None or not place.section or (place.option and not place.at):
        raise Failed(INVALID)
    if not value:
        return place.change("delete") if place.is_complete else None
    if not place.option and not is_type(value):
        raise Failed(INVALID)
    if place.item:
        same = not place.item.is_list and place.item.values == [value]
    else:
        same = not place.option and place.at is not None and place.at.type == value.decode()
    return None if same else place.change("set", value)


def _delete(place: Place) -> Change | None:
    index = (place.value or b"").strip()
    if index and number(index) is None:
        return None
    place.complete()
    if not place.section:
        raise Failed(INVALID)
    if not index or not place.item or not place.item.is_list:
        return place.change("delete")
    there = 0 <= (number(index) or 0) < len(place.item.values)
    return place.change("delete", place.value) if there else None


def _rename(place: Place) -> Change:
    place.complete()
    if not place.section or place.value is None:
        raise Failed(INVALID)
    return place.change("rename", place.value)


def _reorder(place: Place) -> Change | None:
    if not place.at or place.value is None:
        raise Failed(MISSING)
    position = number(place.value) or 0
    pairs = zip(place.package.sections, moved(place.package, place.at, position), strict=True)
    if all(old is new for old, new in pairs):
        return None
    return Change("reorder", place.section, "", b"%d" % position)


def _add_list(place: Place) -> Change:
    if not place.at or place.value is None:
        raise Failed(INVALID)
    return place.change("add_list", place.value)


def _del_list(place: Place) -> Change | None:
    if not place.at or place.value is None:
        raise Failed(INVALID)
    return place.change("del_list", place.value) if place.item and place.item.is_list else None


_EDITS: dict[bytes, Callable[[Place], Change | None]] = {
    b"set": _set,
    b"del": _delete,
    b"delete": _delete,
    b"ren": _rename,
    b"rename": _rename,
    b"reorder": _reorder,
    b"add_list": _add_list,
    b"del_list": _del_list,
}
_QUERIES: dict[bytes, Callable[[Session, Place], None]] = {
    b"get": Session._get,
    b"revert": Session._revert,
}
_REPORTS: dict[bytes, Callable[[Session, Place], None]] = {
    b"show": Session._show,
    b"changes": Session._print_changes,
    b"export": Session._export,
    b"commit": Session._commit,
}
