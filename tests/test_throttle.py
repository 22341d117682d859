"""How many failures an address may have."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bifrost_lite.target import pack
from bifrost_lite.throttle import Throttle


def packed(text: str) -> bytes:
    value = pack(text)
    assert value is not None
    return value


HOST = packed("192.168.1.7")


def test_ten_in_a_minute() -> None:
    throttle = Throttle()
    assert [throttle.fail(HOST, 100.0 + n) for n in range(10)] == [0.0] * 10
    assert throttle.wait(HOST, 110.0) == 50.0
    assert throttle.fail(HOST, 110.0) == 50.0
    assert throttle.wait(packed("192.168.1.8"), 110.0) == 0.0


def test_waiting_does_not_prolong_the_wait() -> None:
    throttle = Throttle()
    for _ in range(10):
        throttle.fail(HOST, 0.0)
    assert all(throttle.fail(HOST, float(second)) for second in range(60))
    assert throttle.fail(HOST, 60.0) == 0.0


def test_the_minute_slides() -> None:
    """Not twenty around the change from one window to the next."""
    throttle = Throttle()
    for _ in range(9):
        throttle.fail(HOST, 59.0)
    assert throttle.fail(HOST, 61.0) == 0.0
    assert throttle.fail(HOST, 62.0) == 57.0


def test_ipv6_hosts_are_networks() -> None:
    throttle = Throttle()
    for number in range(10):
        throttle.fail(packed(f"2001:db8::{number:x}"), 0.0)
    assert throttle.fail(packed("2001:db8::ffff:1:2:3"), 0.0)
    assert not throttle.fail(packed("2001:db8:0:1::1"), 0.0)
    assert not throttle.fail(packed("::ffff:192.0.2.1"), 0.0)


@given(st.lists(st.tuples(st.integers(0, 999), st.floats(0, 9)), max_size=600))
def test_memory_is_bounded(failures: list[tuple[int, float]]) -> None:
    throttle = Throttle(size=16)
    now = 0.0
    for number, later in failures:
        now += later
        throttle.fail(number.to_bytes(4, "big"), now)
        assert len(throttle) <= 16


def test_the_oldest_is_forgotten() -> None:
    throttle = Throttle(limit=1, size=2)
    for number in range(3):
        throttle.fail(number.to_bytes(4, "big"), 0.0)
    assert [throttle.wait(number.to_bytes(4, "big"), 0.0) for number in range(3)] == [0, 60, 60]
