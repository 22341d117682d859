"""What one backend has carried."""

from __future__ import annotations

from pytest import approx

from bifrost_lite.counters import Counters


def test_a_backend_that_nobody_has_used() -> None:
    counters = Counters()
    assert [getattr(counters, name) for name in Counters.__slots__] == [0, 0, "", 0.0, 0, 0, 0]


def test_latency_follows_slowly() -> None:
    counters = Counters()
    counters.took(0.8)
    assert counters.latency == 0.8  # there is nothing to compare it with
    counters.took(1.6)
    assert counters.latency == approx(0.9)
    for _ in range(100):
        counters.took(0.1)
    assert counters.latency == approx(0.1, rel=0.01)
