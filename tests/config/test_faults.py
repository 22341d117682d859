"""Faults: their places, their order, their bound, and how a value is shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost_lite.config.faults import MAX_FAULTS, Faults, Path, place, shown
from bifrost_lite.errors import ConfigError, Fault


@pytest.mark.parametrize(
    ("path", "section", "field"),
    [
        (("graceful_period",), "graceful_period", ""),
        (("listen", 0), "listen[0]", ""),
        (("listen", 0, "port"), "listen[0]", "port"),
        (("access", "allow", 3), "access", "allow[3]"),
        (("backends", 2, "health", "expect", 0), "backends[2].health", "expect[0]"),
        (("a b", "c"), "'a b'", "c"),
        (("log", "x\n"), "log", r"'x\n'"),
        (("log", ""), "log", "''"),
        (("log", "ring-2"), "log", "ring-2"),
        ((), "", ""),
    ],
)
def test_place(path: Path, section: str, field: str) -> None:
    assert place(path) == (section, field)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a'b", '''"a'b"'''),
        ("\x1b[31m\u202e\ud800", r"'\x1b[31m\u202e\ud800'"),
        ("x" * 61, f"'{'x' * 60}'..."),
        (True, "true"),
        (-5, "-5"),
        (1 << 64, "a number of more than 64 bits"),
        (0.5, "0.5"),
        ({}, "a table"),
        ([1], "a list"),
        (None, "nothing"),
        (object(), "a date or time"),
    ],
)
def test_shown(value: object, text: str) -> None:
    assert shown(value) == text


@given(st.lists(st.text() | st.integers(0, 9)), st.text())
def test_whatever_stands_there_is_told_in_printable_ascii(
    path: list[str | int], value: str
) -> None:
    for text in (*place(tuple(path)), shown(value)):
        assert text.isascii()
        assert text.isprintable()


def test_lines_are_those_of_the_nearest_thing_around() -> None:
    faults = Faults({("log",): 3, ("log", "ring"): 5})
    faults.add(("other",), "no line")
    faults.add(("log", "ring", 7), "inside")
    faults.add(("log", "level"), "beside")
    with pytest.raises(ConfigError) as caught:
        faults.finish()
    assert caught.value.faults == [
        Fault("log", "level", "beside", 3),
        Fault("log", "ring[7]", "inside", 5),
        Fault("other", "", "no line", 0),
    ]


def test_no_fault_raises_nothing() -> None:
    Faults({}).finish()


def test_there_is_an_end_to_faults() -> None:
    faults = Faults({})
    for number in range(MAX_FAULTS + 7):
        faults.add(("x", number), "wrong")
    with pytest.raises(ConfigError) as caught:
        faults.finish()
    assert len(caught.value.faults) == MAX_FAULTS + 1
    assert caught.value.faults[-1].message == "and 7 more faults"
