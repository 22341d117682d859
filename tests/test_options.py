"""The grammar of command lines; what each command takes is in the tests of `cli`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost_lite.options import OK, Args, Command, Option, UsageError, number, page, parse

COMMAND = Command(
    "brew",
    "make tea",
    lambda args: OK,
    ("LEAF",),
    (
        Option("minutes", "how long", "N", "m"),
        Option("sweet", "with sugar", short="s"),
        Option("milk", "of which animal", "NAME"),
    ),
    "Tea is hot.",
)


@pytest.mark.parametrize(
    ("line", "options", "words"),
    [
        ("green", {}, ["green"]),
        ("green --minutes 3", {"minutes": "3"}, ["green"]),
        ("--minutes=3 green", {"minutes": "3"}, ["green"]),
        ("-m 3 green", {"minutes": "3"}, ["green"]),
        ("-m3 green", {"minutes": "3"}, ["green"]),
        ("-m=3 green", {"minutes": "=3"}, ["green"]),
        ("--minutes= green", {"minutes": ""}, ["green"]),
        ("--minutes -3 green", {"minutes": "-3"}, ["green"]),
        ("--minutes -- green", {"minutes": "--"}, ["green"]),
        ("--milk=a=b green", {"milk": "a=b"}, ["green"]),
        ("-s green --milk cow", {"sweet": "", "milk": "cow"}, ["green"]),
        ("-", {}, ["-"]),
        ("-s -- --minutes", {"sweet": ""}, ["--minutes"]),
        ("-- --help", {}, ["--help"]),
    ],
)
def test_taken(line: str, options: dict[str, str], words: list[str]) -> None:
    assert parse(COMMAND, line.split(" ")) == Args(options, words)


@pytest.mark.parametrize("line", ["-h", "--help", "green -h", "-m 3 --help a b c"])
def test_help(line: str) -> None:
    assert parse(COMMAND, line.split()) is None


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", "brew takes LEAF"),
        ("a b", "brew takes LEAF"),
        ("a --min 3", "no option '--min'"),
        ("a -x", "no option '-x'"),
        ("a -xs", "no option '-x'"),
        ("a -sm", "-s takes no value"),
        ("a --sweet=1", "--sweet takes no value"),
        ("a -s --sweet", "--sweet is given twice"),
        ("a -m1 -m2", "-m is given twice"),
        ("a --milk", "--milk needs a value: NAME"),
        ("a -m", "-m needs a value: N"),
    ],
)
def test_refused(line: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(COMMAND, line.split())
    assert told in str(caught.value)


def test_words_in_brackets_may_be_left_out() -> None:
    command = COMMAND._replace(words=("LEAF", "[CUP]"))
    assert parse(command, ["a"]) == Args({}, ["a"])
    assert parse(command, ["a", "b"]) == Args({}, ["a", "b"])
    for words in ([], ["a", "b", "c"]):
        with pytest.raises(UsageError, match=r"brew takes LEAF \[CUP\]; see"):
            parse(command, words)
    assert page(command).startswith("usage: bifrost-lite brew LEAF [CUP] [OPTION...]\n")


@given(st.lists(st.text(max_size=12), max_size=6))
def test_any_words_are_taken_or_refused(words: list[str]) -> None:
    try:
        args = parse(COMMAND, words)
    except UsageError as error:
        assert str(error).isprintable()  # what was typed is told escaped
    else:
        assert args is None or len(args.words) == 1


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("007", 7), ("100", 100)])
def test_number(text: str, value: int) -> None:
    assert number(Args({"minutes": text}, []), "minutes", 0, 100) == value


@pytest.mark.parametrize("text", ["", "-1", "101", "1.0", "+1", " 1", "1_0", "٣", "²", "9" * 5000])
def test_no_number(text: str) -> None:
    with pytest.raises(UsageError, match="--minutes takes a number from 0 to 100, got"):
        number(Args({"minutes": text}, []), "minutes", 0, 100)


def test_a_number_that_is_not_given() -> None:
    assert number(Args({}, []), "minutes", 0, 100) is None


def test_page() -> None:
    assert page(COMMAND).splitlines() == [
        "usage: bifrost-lite brew LEAF [OPTION...]",
        "",
        "  make tea",
        "",
        "  -m, --minutes N       how long",
        "  -s, --sweet           with sugar",
        "      --milk NAME       of which animal",
        "",
        "Tea is hot.",
    ]
    assert page(Command("rest", "do nothing", COMMAND.run)) == (
        "usage: bifrost-lite rest\n\n  do nothing"
    )
