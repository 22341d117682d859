"""JSON bodies: their form, their types, and names that nobody knows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from bifrost_lite.wire.body import BodyError, decode


class Inner(Struct, frozen=True):
    a: int = 0


class Outer(Struct):
    name: str = ""
    inner: Inner = Inner()
    items: list[Inner] = []
    free: dict[str, object] = {}
    renamed: int = 0


def test_what_fits() -> None:
    assert decode(b"{}", Outer) == Outer()
    raw = b' {"name": "\\u00e4", "inner": {"a": 1}, "items": [{"a": 2}], "free": {"x": {"y": 1}}} '
    assert decode(raw, Outer) == Outer("ä", Inner(1), [Inner(2)], {"x": {"y": 1}})
    assert decode(b'{"x": [1]}', dict[str, object]) == {"x": [1]}


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "truncated"),
        (b"{", "truncated"),
        (b"{} {}", "trailing"),
        (b"\xef\xbb\xbf{}", "malformed"),
        (b"{'name': 1}", "malformed"),
        (b"[]", "Expected `object`, got `array`"),
        (b"null", "got `null`"),
        (b'{"name": 1}', "got `int` - at `$.name`"),
        (b'{"inner": {"a": "x"}}', "got `str` - at `$.inner.a`"),
        (b'{"items": [{"a": 1}, {"a": 1.5}]}', "got `float` - at `$.items[1].a`"),
        (b'{"renamed": "1"}', "at `$.renamed`"),
        (b'{"renamed": true}', "at `$.renamed`"),
        (b'{"name": "\xff"}', "not UTF-8"),
        (b'{"name": "\\ud800"}', "the body"),
        (b'{"free": {"x": 1e999}}', "out of range"),
        (b'{"free": {"x": NaN}}', "malformed"),
        (b'{"free": ' + b'{"x":' * 100_000, "nested too deeply"),
    ],
)
def test_what_does_not(raw: bytes, words: str) -> None:
    with pytest.raises(BodyError) as caught:
        decode(raw, Outer)
    assert caught.value.word == "bad_body"
    assert words.lower() in caught.value.message.lower()
    assert len(caught.value.message) < 300


def test_all_unknown_names_are_told() -> None:
    raw = b'{"Name": 1, "inner": {"b": 1, "a": 1}, "items": [{}, {"c": {"d": 1}}], "free": {"x": 1}}'
    with pytest.raises(BodyError) as caught:
        decode(raw, Outer)
    assert caught.value.word == "unknown_fields"
    assert caught.value.message.endswith("knows: 'Name', 'inner.b', 'items[1].c'.")


def test_names_are_escaped_and_cut() -> None:
    with pytest.raises(BodyError) as caught:
        decode(('{"\u202e\\n' + "x" * 9000 + '": 1}').encode(), Outer)
    assert "'\\u202e\\nxxx" in caught.value.message
    assert len(caught.value.message) < 200
    many = ", ".join(f'"x{number}": 1' for number in range(500))
    with pytest.raises(BodyError, match="'x19' and 480 more"):
        decode(f"{{{many}}}".encode(), Outer)


@given(st.binary(max_size=60) | st.text(st.sampled_from('{}[]":,a1 \\u')).map(str.encode))
def test_any_bytes(raw: bytes) -> None:
    try:
        decode(raw, Outer)
    except BodyError as error:
        assert error.message.endswith(".")
