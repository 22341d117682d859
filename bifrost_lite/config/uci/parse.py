"""From the text of /etc/config/NAME to a `Package`, and back without loss."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import zip_longest

from .model import Option, Package, Section, export
from .scan import Mark, Scanner, UciError

# libuci has no limits. These are far above what people write, and what they allow fits into the
# memory of a router.
MAX_TEXT = 1024 * 1024  # bytes of a file; the TOML made of it may be as large
MAX_LINES = 100_000
MAX_SECTIONS = 10_000
MAX_VALUES = 50_000  # single values and list entries
MAX_WORD = 64 * 1024  # bytes of a name or value

is_name = re.compile(rb"[A-Za-z0-9_]+").fullmatch
is_package = re.compile(rb"[A-Za-z0-9_-]+").fullmatch
is_type = re.compile(rb"[!-~]+").fullmatch

_command = re.compile(rb"[ \t]*([^ \t]*)").match
_KEYWORDS = {word[:length]: word for word in (b"package", b"config", b"option", b"list")
             for length in (1, len(word))}  # fmt: skip


def parse(data: bytes, name: str = "config") -> Package:
    """The package that a file holds.

    Args:
        data: the file
        name: its name; a ``package`` line in it counts for nothing

    Raises:
        UciError: it is not UCI, or larger than all bounds; the first fault
    """
    return _Parser(data, name).package


class _Parser:
    """One file being read."""

    def __init__(self, data: bytes, name: str) -> None:
        self.scan = scan = Scanner(data)
        self.package = Package(name)
        self.section: Section | None = None
        self.sections: dict[str, Section] = {}
        self.options: dict[tuple[int, str], Option] = {}  # by `id` of their section
        self.left = MAX_VALUES
        if len(data) > MAX_TEXT:
            scan.fail(f"more than {MAX_TEXT} bytes", scan.mark())
        if data.count(b"\n") > MAX_LINES:
            scan.fail(f"more than {MAX_LINES} lines", scan.mark())
        while scan.more:
            scan.line()
            scan.skip()
            while self.command():
                pass

    def command(self) -> bool:
        """Read one command of the line; answers False after its last."""
        scan = self.scan
        found = _command(scan.piece, scan.at)
        assert found
        word = found[1]
        if not word or word.startswith(b"#"):
            return False
        mark = scan.mark(found.start(1))
        keyword = _KEYWORDS.get(word)
        if keyword is None:
            scan.fail("invalid command", mark)
        option = keyword in (b"option", b"list")
        if option and self.section is None:
            scan.fail("option/list command found before the first section", mark)
        if found.end() == len(scan.piece):
            scan.fail(f"{'option' if option else keyword.decode()} without name", mark)
        scan.at = found.end() + 1
        if option:
            self.read_option(keyword == b"list", scan.row)
        elif keyword == b"config":
            self.read_section(mark, scan.row)
        else:
            self.name(valid=is_package)
            self.end()
        return True

    def read_section(self, mark: Mark, line: int) -> None:
        """The rest of a ``config`` line: a type and perhaps a name."""
        raw, at = self.argument()
        if not is_type(raw):
            self.scan.fail("invalid character in type field", at)
        kind = raw.decode()
        name = self.name(required=False)
        self.end()
        section = self.sections.get(name) if name else None
        if section is None:
            if len(self.package.sections) == MAX_SECTIONS:
                self.scan.fail(f"more than {MAX_SECTIONS} sections", mark)
            section = self.package.add(kind, name, line)
            # A named one may be called what libuci calls an anonymous one; the first counts.
            self.sections.setdefault(section.name, section)
        elif section.type != kind:
            reason = "section of different type overwrites prior section with same name"
            self.scan.fail(reason, mark)
        self.section = section

    def read_option(self, is_list: bool, line: int) -> None:
        """The rest of an ``option`` or ``list`` line: a name and a value."""
        assert self.section is not None
        name = self.name()
        value, mark = self.argument(required=False)
        self.end()
        if not value and not is_list:
            return
        if not self.left:
            self.scan.fail(f"more than {MAX_VALUES} values", mark)
        self.left -= 1
        key = (id(self.section), name)
        option = self.options.get(key)
        if option is None:
            option = self.options[key] = Option(name, value, line, is_list=is_list)
            self.section.options.append(option)
        elif is_list:
            option.append(value, line)
        else:
            option.set(value, line)

    def name(self, *, required: bool = True, valid: Callable[[bytes], object] = is_name) -> str:
        """The next word of the command as a name, "" for none."""
        raw, mark = self.argument(required=required)
        if raw and not valid(raw):
            self.scan.fail("invalid character in name field", mark)
        return raw.decode()

    def argument(self, *, required: bool = True) -> tuple[bytes, Mark]:
        """The next word of the command and where it begins."""
        here = self.scan.mark()  # still on the line, while the white space reaches to the next
        raw, mark = self.scan.word()
        if required and not raw:
            self.scan.fail("insufficient arguments", here)
        if len(raw) > MAX_WORD:
            self.scan.fail(f"more than {MAX_WORD} bytes in a word", mark)
        return raw, mark

    def end(self) -> None:
        """See that the command has no further words."""
        raw, mark = self.scan.word()
        if raw:
            self.scan.fail("too many arguments", mark)


def dump(package: Package) -> bytes:
    """The text of a file that holds the package, as ``uci commit`` writes it.

    Raises:
        ValueError: no file can hold it: a name breaks the rules or is there twice, a value has a
            NUL, an option is empty; says which
    """
    text = export(package, header=False)
    try:
        read = parse(text, package.name).sections
    except UciError as error:
        raise ValueError(f"the text of package {package.name} is no UCI: {error}") from None
    for index, (section, again) in enumerate(zip_longest(package.sections, read)):
        if section != again:
            raise ValueError(f"{_differing(section, again)} of section {index} cannot be written")
    return text


def _differing(section: Section | None, again: Section | None) -> str:
    """Name what is lost of a section when it is written and read again."""
    if section is None or again is None or section.type != again.type:
        return "the head"
    for option, read in zip_longest(section.options, again.options):
        if option != read:
            return f"option {ascii((option or read).name)}"
    return "the name"
