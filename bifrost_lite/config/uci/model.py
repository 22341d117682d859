"""A package of UCI: its sections and options, and both as the `uci` tool prints them."""

from __future__ import annotations

from collections.abc import Iterator


class Option:
    """A value or a list of values.

    Attributes:
        name: of ASCII letters, digits and _
        values: what is set, as bytes; a single value is never empty
        lines: the 1-based line of each of them, 0 where none is known
        is_list: whether it came as ``list``, even if of one value
    """

    __slots__ = ("is_list", "lines", "name", "values")

    def __init__(self, name: str, value: bytes, line: int = 0, *, is_list: bool = False) -> None:
        self.name = name
        self.values = [value]
        self.lines = [line]
        self.is_list = is_list

    def set(self, value: bytes, line: int = 0) -> None:
        """Make it this one value."""
        self.values, self.lines, self.is_list = [value], [line], False

    def append(self, value: bytes, line: int = 0) -> None:
        """Make it a list, if it is none, with one value more."""
        self.values.append(value)
        self.lines.append(line)
        self.is_list = True

    @property
    def line(self) -> int:
        """Where it begins; 0 where that is not known."""
        return self.lines[0] if self.lines else 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Option):
            return NotImplemented
        return (self.name, self.values, self.is_list) == (other.name, other.values, other.is_list)

    def __repr__(self) -> str:
        kind = "list" if self.is_list else "option"
        return f"<{kind} {self.name} {self.values!r} line {self.line}>"


class Section:
    """A section. Where it stands is all that tells an anonymous one from others like it.

    Attributes:
        type: printable ASCII without blanks
        name: of ASCII letters, digits and _; of an anonymous one what libuci calls it
        anonymous: whether it was given no name
        options: in the order in which each was first set
        line: 1-based line of its first ``config``, 0 where none is known
    """

    __slots__ = ("anonymous", "line", "name", "options", "type")

    def __init__(self, type: str, name: str, anonymous: bool, line: int = 0) -> None:
        self.type = type
        self.name = name
        self.anonymous = anonymous
        self.options: list[Option] = []
        self.line = line

    def get(self, name: str) -> Option | None:
        """The option of this name."""
        return next((option for option in self.options if option.name == name), None)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Section):
            return NotImplemented
        return (self.type, self.anonymous, self.options) == (
            other.type,
            other.anonymous,
            other.options,
        ) and (self.anonymous or self.name == other.name)

    def __repr__(self) -> str:
        return f"<config {self.type} {self.name} line {self.line} {self.options!r}>"


class Package:
    """One file of /etc/config.

    Attributes:
        name: of the file: ASCII letters, digits, _ and -
        sections: in their order
        count: how many sections there ever were; libuci's names of anonymous ones have it
    """

    __slots__ = ("count", "name", "sections")

    def __init__(self, name: str) -> None:
        self.name = name
        self.sections: list[Section] = []
        self.count = 0

    def add(self, type: str, name: str = "", line: int = 0) -> Section:
        """Append a section; without a name an anonymous one."""
        self.count += 1
        section = Section(type, name or anonymous_name(self.count, type), not name, line)
        self.sections.append(section)
        return section

    def find(self, name: str) -> Section | None:
        """The first section of this name, be it libuci's for an anonymous one."""
        return next((section for section in self.sections if section.name == name), None)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Package):
            return NotImplemented
        return (self.name, self.sections) == (other.name, other.sections)

    def __repr__(self) -> str:
        return f"<package {self.name} {self.sections!r}>"


def anonymous_name(count: int, type: str) -> str:
    """What libuci calls an anonymous section.

    It changes when a section before it comes or goes: nothing may rely on it for long.

    Args:
        count: how many sections there are with it
        type: its type; every character is one byte
    """
    hashed = 5381  # Bernstein's hash
    for char in type.encode("latin-1"):
        hashed = hashed * 33 + char & 0xFFFF
    return f"cfg{count:02x}{hashed:04x}"


def quote(value: bytes) -> bytes:
    """A value in the single quotes that libuci puts around every one."""
    return b"'%b'" % escape(value)


def escape(value: bytes) -> bytes:
    """What stands between those quotes; libuci does it to the bare type of a section too."""
    return value.replace(b"'", rb"'\''")


def export(package: Package, *, header: bool = True) -> bytes:
    """The package as ``uci export`` prints it; without the header as ``uci commit`` writes it.

    What the grammar cannot express comes out wrong, as it does from the tool; see `parse.dump`.
    """
    return b"".join(_exported(package, header))


def _exported(package: Package, header: bool) -> Iterator[bytes]:
    if header:
        yield b"package %b\n" % _bytes(package.name)
    for section in package.sections:
        yield b"\nconfig %b" % escape(_bytes(section.type))
        if not section.anonymous:
            yield b" '%b'" % _bytes(section.name)
        yield b"\n"
        for option in section.options:
            start = b"\t%b %b " % (b"list" if option.is_list else b"option", _bytes(option.name))
            for value in option.values:
                yield b"%b%b\n" % (start, quote(value))
    yield b"\n"


def show(package: Package, *, extended: bool = True) -> bytes:
    """The package as ``uci show`` prints it.

    Args:
        package: to be shown
        extended: anonymous sections as ``@type[index]``, rather than by libuci's names (``-X``)
    """
    out: list[bytes] = []
    seen: dict[str, int] = {}
    for section in package.sections:
        index = seen[section.type] = seen.get(section.type, -1) + 1
        anonymous = section.anonymous and extended
        name = f"@{section.type}[{index}]" if anonymous else section.name
        out += show_section(package, section, name)
    return b"".join(out)


def show_section(package: Package, section: Section, name: str) -> Iterator[bytes]:
    """The lines of ``uci show`` for one section, which goes by this name."""
    yield _bytes(f"{package.name}.{name}={section.type}\n")
    for option in section.options:
        yield show_option(package, name, option)


def show_option(package: Package, section: str, option: Option) -> bytes:
    """The line of ``uci show`` for one option of the section that goes by this name."""
    values = b" ".join(map(quote, option.values))
    return _bytes(f"{package.name}.{section}.{option.name}=") + values + b"\n"


def _bytes(name: str) -> bytes:
    return name.encode("latin-1")
