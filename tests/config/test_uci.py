"""UCI files: read as the `uci` tool reads them, byte for byte, and written so that it can."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bifrost_lite.config.uci import Option, Package, Section, UciError, dump, parse
from bifrost_lite.config.uci.model import anonymous_name, export, show
from bifrost_lite.config.uci.parse import MAX_LINES, MAX_SECTIONS, MAX_TEXT, MAX_VALUES, MAX_WORD
from bifrost_lite.errors import BifrostError

DATA = Path(__file__).parents[1] / "data"
# What the tool made of each file: `uci` are the project's vectors, `uci_more` further corners.
CASES = {path.stem: path for name in ("uci", "uci_more") for path in (DATA / name).glob("*.conf")}


def tool(command: Callable[[Package], bytes], data: bytes, name: str) -> tuple[bytes, str]:
    """What a command prints, and how it ended in the words of the vectors."""
    try:
        return command(parse(data, name)), "rc=0 stderr="
    except UciError as error:
        return b"", f"rc=1 stderr=uci: {error.tool}"


def golden(case: str, command: str) -> tuple[bytes, str]:
    path = CASES[case]
    lines = path.with_suffix(".status").read_text("ascii").splitlines()
    kept = [line.partition(" ")[2] for line in lines if line.startswith(command.removesuffix("x"))]
    return path.with_suffix(f".{command}").read_bytes(), " ".join(kept)


def test_the_cases_are_there() -> None:
    assert len(CASES) > 100


@pytest.mark.parametrize("case", sorted(CASES))
def test_as_the_tool(case: str) -> None:
    data = CASES[case].read_bytes()
    assert tool(export, data, case) == golden(case, "export")
    assert tool(show, data, case) == golden(case, "show")
    assert tool(lambda read: show(read, extended=False), data, case) == golden(case, "showx")


@pytest.mark.parametrize(
    ("text", "line", "column", "reason"),
    [
        ("config main\n\toption a 1\n  bogus x\n", 3, 3, "invalid command"),
        ("config main\n\toption a 'x\ny\nz' w\n", 4, 4, "too many arguments"),
        ("config main\n\toption a b c d\n", 2, 13, "too many arguments"),
        ("config main\n\toption a x\\\ny 'z'\n", 3, 3, "too many arguments"),
        ("config main; bogus\n", 0, 0, ""),  # behind a bare word it is never read
        ("config 'main';\tbogus", 1, 16, "too many arguments"),  # the name is left out by ;
        ("config a 'b';\tbogus", 1, 15, "invalid command"),
        ("config a b\nconfig\n", 2, 1, "invalid command"),
        ("config a b\n  config", 2, 3, "config without name"),
        ("config a b\n\toption", 2, 2, "option without name"),
        ("config a b\n\tlist", 2, 2, "option without name"),
        ("config a\n\toption   \n", 2, 9, "insufficient arguments"),
        ("config a\n\toption a 'b", 2, 11, "EOF with unterminated '"),
        ('config a\n\toption a b"c\n\nd', 2, 12, 'EOF with unterminated "'),
        ("config a\n\toption a-b c", 2, 9, "invalid character in name field"),
        ("config a 'b c'", 1, 10, "invalid character in name field"),
        ("config 'a b'", 1, 8, "invalid character in type field"),
        ("list a b", 1, 1, "option/list command found before the first section"),
        (
            "config a x\n\n config b x",
            3,
            2,
            "section of different type overwrites prior section with same name",
        ),
        ("config a\n\toption b \0c\n\toption d e f\n", 3, 9, "too many arguments"),
        ("config a\n\toption b c\0d\noption e", 3, 8, "too many arguments"),
    ],
)
def test_where_a_fault_is(text: str, line: int, column: int, reason: str) -> None:
    try:
        parse(text.encode())
        found = (0, 0, "")
    except UciError as error:
        found = (error.line, error.column, error.reason)
        assert str(error) == f"line {line}, column {column}: {reason}"
        assert isinstance(error, BifrostError)
    assert found == (line, column, reason)


def test_lines_of_what_is_set() -> None:
    read = parse(
        b"# 1\nconfig main 'm'\n\toption a 'x\ny'\n\tlist l 5\n\toption b 6\n\tlist l 7\n"
        b"\toption a 8\nconfig other\n\n  list z '11\n12' # r\nconfig main m\n"
        b"\toption c '14'; list b '14'\noption d \\\n15\noption e 'x\n\n'; option f 19\n"
    )
    main, other = read.sections
    assert (main.line, other.line) == (2, 9)
    assert {option.name: option.lines for option in main.options} == {
        "a": [8],
        "l": [5, 7],
        "b": [6, 14],
        "c": [14],
        "d": [15],
        "e": [17],
        "f": [19],
    }
    assert [option.line for option in main.options] == [8, 5, 6, 14, 15, 17, 19]
    assert other.options[0].lines == [11]


def test_the_model() -> None:
    read = parse(b"config main 'm'\n\toption a 1\n\tlist b 2\nconfig main\nconfig main\n", "p")
    section = read.find("m")
    assert section is read.sections[0]
    assert section.get("a") == Option("a", b"1")
    assert section.get("b") == Option("b", b"2", is_list=True)
    assert section.get("b") != Option("b", b"2")
    assert section.get("c") is None
    assert read.find(anonymous_name(2, "main")) is read.sections[1]
    assert read.find("x") is None
    assert read.sections[1] == read.sections[2]  # the name, of the tool's making, apart
    assert [section.anonymous for section in read.sections] == [False, True, True]
    assert read != Package("p")
    assert read != 1 and section != 1 and section.get("a") != 1
    assert "config main m" in repr(read) and "option a [b'1'] line 2" in repr(read)


LIMITS = [
    (b"#" * MAX_TEXT, b"#" * (MAX_TEXT + 1), f"more than {MAX_TEXT} bytes", 1),
    (b"\n" * MAX_LINES, b"\n" * (MAX_LINES + 1), f"more than {MAX_LINES} lines", 1),
    (
        b"config a\n" * MAX_SECTIONS,
        b"config a\n" * (MAX_SECTIONS + 1),
        f"more than {MAX_SECTIONS} sections",
        MAX_SECTIONS + 1,
    ),
    (
        b"config a\n" + b"list b c\n" * MAX_VALUES,
        b"config a\n" + b"list b c\n" * (MAX_VALUES + 1),
        f"more than {MAX_VALUES} values",
        MAX_VALUES + 2,
    ),
    (
        b"config a\noption b " + b"c" * MAX_WORD,
        b"config a\noption b " + b"c" * (MAX_WORD + 1),
        f"more than {MAX_WORD} bytes in a word",
        2,
    ),
]


@pytest.mark.parametrize(("fits", "over", "reason", "line"), LIMITS, ids=lambda value: "")
def test_bounds(fits: bytes, over: bytes, reason: str, line: int) -> None:
    parse(fits)
    with pytest.raises(UciError) as raised:
        parse(over)
    assert (raised.value.reason, raised.value.line) == (reason, line)


def package(*options: Option, type: str = "main", name: str = "m") -> Package:
    made = Package("p")
    made.add(type, name).options.extend(options)
    return made


def twice(first: str, second: str) -> Package:
    made = Package("p")
    made.add("main", first)
    made.add("main", second)
    return made


def nameless(made: Package) -> Package:
    made.sections[0].name = ""
    return made


def emptied(option: Option) -> Option:
    option.values.clear()
    return option


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (package(Option("a", b"")), "option 'a' of section 0 cannot be written"),
        (package(emptied(Option("a", b"", is_list=True))), "option 'a' of section 0"),
        (package(Option("a", b"x"), Option("a", b"y")), "option 'a' of section 0"),
        (package(Option("a", b"x\0y")), "EOF with unterminated '"),
        (package(Option("a-b", b"x")), "no UCI: line 3, column 9: invalid character in name"),
        (package(Option("", b"x")), "option '' of section 0"),
        (package(Option("a;", b"x")), "option 'a;' of section 0"),
        (package(name="a-b"), "no UCI"),
        (package(name="a'b"), "no UCI"),
        (package(type="a'b"), "EOF with unterminated '"),
        (package(type="a\\b"), "the head of section 0"),
        (nameless(package(Option("a", b"x"))), "the name of section 0"),
        (package(type="a b"), "no UCI"),
        (package(type=""), "the head of section 0"),
        (package(type="a;b"), "the head of section 0"),
        (package(type="a#b"), "the head of section 0"),
        (twice("x", "x"), "section 1"),
        (twice("", anonymous_name(1, "main")), "section 1"),
        (package(Option("a", b"x" * (MAX_WORD + 1))), "more than"),
    ],
)
def test_what_no_file_can_hold(made: Package, message: str) -> None:
    with pytest.raises(ValueError, match="section|no UCI") as raised:
        dump(made)
    assert message in str(raised.value)


def test_a_named_section_before_what_would_be_its_namesake() -> None:
    made = twice(anonymous_name(2, "main"), "")
    made.sections[1].options.append(Option("a", b"1"))
    assert parse(dump(made), "p") == made


names = st.text("aZ09_", min_size=1, max_size=6)
values = st.binary(max_size=20).map(lambda value: value.replace(b"\0", b"'"))


@st.composite
def options(draw: st.DrawFn) -> Option:
    name, first, *more = draw(names), draw(values), *draw(st.lists(values, max_size=3))
    if not more and not draw(st.booleans()):
        return Option(name, first or b"'")
    option = Option(name, first, is_list=True)
    for value in more:
        option.append(value)
    return option


@st.composite
def packages(draw: st.DrawFn) -> Package:
    made = Package(draw(names))
    for name in draw(st.lists(names | st.just(""), unique_by=lambda name: name or object())):
        section = made.add(draw(st.text("a-!~$%&=(", min_size=1, max_size=6)), name)
        unique = st.lists(options(), unique_by=lambda option: option.name, max_size=5)
        section.options.extend(draw(unique))
    return made


@given(packages())
def test_what_is_written_is_read(made: Package) -> None:
    assert parse(dump(made), made.name) == made
    assert parse(export(made), made.name) == made  # with a `package` line, too


PIECES = [
    b"config ", b"option ", b"list ", b"package ", b"\n", b"\r\n", b"\\\n", b"\\\r\n", b"'", b'"',
    b"\\", b";", b"#", b" ", b"\t", b"\x0b", b"\0", b"a", b"b", b"-", b"'x y'", b'"z\\""', b"=",
    b"config a b\n", b"\toption a b\n", b"\tlist a b\n", b"\xff", b"q" * 33,
]  # fmt: skip


@given(st.binary(max_size=80) | st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join))
@example(b"config a\noption b 'c'\\")
@example(b"config a\noption b 'c';\\")
@example(b"config a\n'\0")
def test_any_bytes_are_a_package_or_a_fault(data: bytes) -> None:
    judge(data)


def judge(data: bytes) -> None:
    """See that data is read, or refused with a place that is in it."""
    try:
        read = parse(data)
    except UciError as error:
        lines = data.split(b"\n")
        assert 1 <= error.line <= len(lines)
        assert 1 <= error.column <= len(lines[error.line - 1]) + 1
        return
    found = [read.line for read in read.sections]
    found += [
        line for section in read.sections for option in section.options for line in option.lines
    ]
    assert all(1 <= line <= data.count(b"\n") + 1 for line in found)
    try:
        written = dump(read)
    except ValueError:  # a type in quotes, or the name of an anonymous section in use
        assert any(set(section.type) & set("'\"\\#;") for section in read.sections)
        return
    assert parse(written) == read


@pytest.mark.parametrize("case", sorted(CASES))
def test_cut_anywhere(case: str) -> None:
    data = CASES[case].read_bytes()[:400]
    for end in range(len(data)):
        judge(data[:end])


@pytest.mark.parametrize("case", ["openwrt_network", "special_shell", "concat_quotes", "nul_late"])
def test_one_byte_wrong(case: str) -> None:
    data = CASES[case].read_bytes()
    for at in range(len(data)):
        judge(data[:at] + data[at + 1 :])
        for wrong in (b"'", b'"', b"\\", b";", b"#", b"\n", b" ", b"\0", b"\xff"):
            judge(data[:at] + wrong + data[at + 1 :])


def calls(data: bytes) -> int:
    """How many functions are called to read or refuse data."""
    count = 0

    def called(frame: FrameType, event: str, arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(called)
    try:
        parse(data)
    except UciError:
        pass
    finally:
        sys.setprofile(None)
    return count


def many(number: int) -> bytes:
    lines = (b"\toption name%d 'value %d'\n" % (index, index) for index in range(number))
    return b"config main 'main'\n" + b"".join(lines)


def test_ten_thousand_options_cost_what_they_hold() -> None:
    data = many(10_000)
    assert calls(data) < 10_000 * 100
    tracemalloc.start()
    try:
        read = parse(data)
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(read.sections[0].options) == 10_000
    assert most < 25 * len(data)


HOSTILE: dict[str, Callable[[int], bytes]] = {
    "options": many,
    "sections": lambda n: b"".join(b"config a n%d\noption b c\n" % index for index in range(n)),
    "sections by turns": lambda n: b"".join(
        b"config a n%d\noption o%d c\n" % (index % 2, index) for index in range(n)
    ),
    "one list": lambda n: b"config a\n" + b"list b c\n" * n,
    "a text of many lines": lambda n: b"config a\noption b '" + b"\n" * n + b"'",
    "a text without end": lambda n: b'config a\noption b "' + b"\n" * n,
    "continuations": lambda n: b"config a\noption b " + b"\\\n" * n,
    "backslashes": lambda n: b"config a\noption b " + b"\\\\" * n,
    "empty quotes": lambda n: b"config a\noption b " + b"''" * n,
    "semicolons": lambda n: b"config 'a'" + b";config 'a'" * n,
    "NULs": lambda n: b"#\0" * n,
    "lines of nothing": lambda n: b" \n" * n,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_twice_the_text_is_twice_the_work(text: Callable[[int], bytes]) -> None:
    assert calls(text(4000)) < 2.1 * calls(text(2000))


def test_sections_have_no_hash() -> None:
    """They change; what is kept by one is kept by its identity."""
    with pytest.raises(TypeError):
        hash(Section("a", "b", False))
