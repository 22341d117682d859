"""Changes that were made but not committed: what ``uci changes`` shows, and what they do."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from .model import Option, Package, Section, quote
from .parse import is_name, is_type

_INT = 2**31 - 1

has_control = re.compile(rb"[\x01-\x08\x0b\x0c\x0e-\x1f]").search
_number = re.compile(rb"\s*([+-]?)0*([0-9]+)").match


class Change(NamedTuple):
    """One change.

    Attributes:
        kind: ``add``, ``set``, ``delete``, ``rename``, ``reorder``, ``add_list`` or ``del_list``
        section: the name of a section
        option: the name of an option, "" for the section itself
        value: what to do it with; None for nothing
    """

    kind: str
    section: str
    option: str
    value: bytes | None = None

    @property
    def readable(self) -> bool:
        """Whether the tool, which keeps changes as text, can read it back."""
        value = self.value or b""
        if not is_name(self.section.encode("latin-1")) or has_control(value):
            return False
        if self.kind == "rename":
            return bool(is_name(value))
        if self.kind == "reorder":
            return not self.option
        return bool(self.option) or self.kind not in ("add_list", "del_list")

    def line(self, package: str) -> bytes:
        """The line of ``uci changes``."""
        path = f"{package}.{self.section}{self.option and '.'}{self.option}".encode("latin-1")
        if self.kind == "delete":
            return b"-%b\n" % path
        equals = {"add_list": b"+=", "del_list": b"-="}.get(self.kind, b"=")
        return path + equals + quote(self.value or b"") + b"\n"

    def apply(self, package: Package) -> bool:
        """Do it, and answer True; False where the package has nothing to do it to."""
        section = package.find(self.section)
        if section is None:
            return self.kind in ("add", "set") and not self.option and self._create(package)
        option = section.get(self.option)
        if self.option and not option and self.kind in ("delete", "rename"):
            return False
        return _ACTIONS[self.kind](package, section, option, self)

    def _create(self, package: Package) -> bool:
        value = self.value or b""
        if not is_type(value):
            return False
        package.add(value.decode(), self.section).anonymous = self.kind == "add"
        return True


def number(text: bytes) -> int | None:
    """The number that a text begins with, as C reads it, but cut rather than wrapped."""
    found = _number(text)
    if not found:
        return None
    value = min(int(found[2][:11]), _INT)
    return -value if found[1] == b"-" else value


def moved(package: Package, section: Section, position: int) -> list[Section]:
    """The sections in the order in which this one is at `position`, or as near as can be."""
    others = [other for other in package.sections if other is not section]
    others.insert(max(position, 0), section)
    return others


def _set(package: Package, section: Section, option: Option | None, change: Change) -> bool:
    value = change.value or b""
    if option:
        option.set(value)
    elif change.option:
        section.options.append(Option(change.option, value))
    elif not is_type(value):
        return False
    else:
        # A type of the same length goes where the old one was; else the section is made anew,
        # with the name that it had, and so is anonymous no more.
        if len(value) != len(section.type):
            section.anonymous = False
        section.type = value.decode()
    return True


def _add(package: Package, section: Section, option: Option | None, change: Change) -> bool:
    done = _set(package, section, option, change)
    section.anonymous = section.anonymous or done
    return done


def _delete(package: Package, section: Section, option: Option | None, change: Change) -> bool:
    index = number(change.value or b"")
    if not option:
        package.sections = [other for other in package.sections if other is not section]
    elif not option.is_list or index is None:
        section.options = [other for other in section.options if other is not option]
    elif 0 <= index < len(option.values):
        del option.values[index], option.lines[index]
    return True


def _rename(package: Package, section: Section, option: Option | None, change: Change) -> bool:
    name = (change.value or b"").decode()
    if option:
        option.name = name
    else:
        section.name, section.anonymous = name, False
    return True


def _reorder(package: Package, section: Section, option: Option | None, change: Change) -> bool:
    package.sections = moved(package, section, number(change.value or b"") or 0)
    return True


def _add_list(package: Package, section: Section, option: Option | None, change: Change) -> bool:
    value = change.value or b""
    if option:
        option.append(value)
    else:
        section.options.append(Option(change.option, value, is_list=True))
    return True


def _del_list(package: Package, section: Section, option: Option | None, change: Change) -> bool:
    if option and option.is_list:
        kept = [at for at, value in enumerate(option.values) if value != change.value]
        option.values = [option.values[at] for at in kept]
        option.lines = [option.lines[at] for at in kept]
    return True


_ACTIONS: dict[str, Callable[[Package, Section, Option | None, Change], bool]] = {
    "add": _add,
    "set": _set,
    "delete": _delete,
    "rename": _rename,
    "reorder": _reorder,
    "add_list": _add_list,
    "del_list": _del_list,
}
