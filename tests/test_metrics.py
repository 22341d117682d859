"""The text format: read back by the parser of Prometheus' own client library."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families as parse

from bifrost_lite.metrics import COUNTER, GAUGE, Number, Page


def test_page() -> None:
    page = Page()
    page.one(GAUGE, "up", "Whether it is.", 1)
    page.many(
        COUNTER, "seen_total", "How often.", ("who", "where"), [(("a", "b"), 3), (("a", ""), 0.25)]
    )
    page.many(GAUGE, "nothing", "No samples.", ("who",), [])
    assert page.encode() == (
        b"# HELP up Whether it is.\n"
        b"# TYPE up gauge\n"
        b"up 1\n"
        b"# HELP seen_total How often.\n"
        b"# TYPE seen_total counter\n"
        b'seen_total{who="a",where="b"} 3\n'
        b'seen_total{who="a",where=""} 0.25\n'
        b"# HELP nothing No samples.\n"
        b"# TYPE nothing gauge\n"
    )


def test_an_empty_page() -> None:
    assert Page().encode() == b""


def test_escapes() -> None:
    page = Page()
    page.many(GAUGE, "a", 'He said "\\" and\nleft.', ("b",), [(('"\\n"\n{%s}',), 1)])
    help_, _, sample = page.encode().decode().splitlines()
    assert help_ == '# HELP a He said "\\\\" and\\nleft.'
    assert sample == r'a{b="\"\\n\"\n{%s}"} 1'


@given(
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.integers(0, 2**64) | st.floats(0, allow_infinity=False),
)
def test_what_is_written_is_read(text: str, value: Number) -> None:
    page = Page()
    page.many(COUNTER, "a_total", "Help.", ("b", "c"), [((text, "x"), value), (("y", text), 0)])
    page.one(GAUGE, "after", "Help.", value)
    first, last = parse(page.encode().decode())
    assert [(s.labels, float(s.value)) for s in first.samples] == [
        ({"b": text, "c": "x"}, float(value)), ({"b": "y", "c": text}, 0),
    ]  # fmt: skip
    assert [float(s.value) for s in last.samples] == [float(value)]
