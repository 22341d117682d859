"""The ring: what is kept, what is known to be forgotten, and the numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bifrost_lite.ring import Ring


def test_numbers_from_one() -> None:
    ring: Ring[str] = Ring(2)
    assert ring.last == 0
    assert [ring.append(item) for item in "abc"] == [1, 2, 3]
    assert len(ring) == 2
    assert ring.newest_first() == ["c", "b"]


def test_zero_keeps_nothing_and_counts_on() -> None:
    ring: Ring[str] = Ring(0)
    ring.append("a")
    assert (len(ring), ring.last, ring.limit) == (0, 1, 0)
    assert ring.since(0) == (1, [])
    assert ring.tail(5) == []


def test_clear_goes_on_with_the_numbers() -> None:
    ring: Ring[str] = Ring(3)
    for item in "abc":
        ring.append(item)
    assert ring.clear() == 3
    ring.append("d")
    assert ring.since(2) == (1, [(4, "d")])


def test_resize_keeps_the_newest() -> None:
    ring: Ring[str] = Ring(3)
    for item in "abc":
        ring.append(item)
    ring.resize(2)
    assert ring.tail(9) == [(2, "b"), (3, "c")]
    assert ring.limit == 2
    ring.resize(4)
    ring.append("d")
    assert ring.since(0) == (1, [(2, "b"), (3, "c"), (4, "d")])


@given(limit=st.integers(0, 20), count=st.integers(0, 60), since=st.integers(-2, 70))
def test_since_misses_nothing(limit: int, count: int, since: int) -> None:
    ring: Ring[int] = Ring(limit)
    for number in range(1, count + 1):
        assert ring.append(number) == number
    missing, kept = ring.since(since)
    assert [number for number, _ in kept] == [item for _, item in kept]
    wanted = max(0, count - max(since, 0)) if since >= 0 else count - since
    if since >= 0:
        assert missing + len(kept) == wanted
        assert [item for _, item in kept] == list(range(since + missing + 1, count + 1))
        assert len(kept) == min(wanted, limit)
