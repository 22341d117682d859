"""A backend as those see it whose bytes go through it."""

from __future__ import annotations

import pytest

from bifrost_lite.condition import SUSPECT, UP, Condition
from bifrost_lite.counters import Counters
from bifrost_lite.dispatch import EpollDispatcher
from bifrost_lite.errors import DENIED, Reason
from bifrost_lite.way import FAULTS, Way


def make(**settings: bool) -> Way:
    dispatcher = EpollDispatcher()
    dispatcher.close()
    condition = Condition(lambda condition: None, fall=2, rise=1, **settings)
    return Way("out", "direct", dispatcher, Counters(), condition)


def test_a_new_way_is_no_proxy() -> None:
    way = make()
    assert (way.name, way.type, way.absolute, way.authorization) == ("out", "direct", False, b"")


def test_what_worked_is_counted_and_judged() -> None:
    way = make(watched=True, passive=True)
    way.worked(0.25)
    assert way.counters.latency == 0.25
    way.failed(Reason.CONNECT_TIMEOUT, "a.test:80", True)
    assert way.condition.state == SUSPECT
    way.worked(0.25)
    assert way.condition.state == UP


def test_what_failed_is_counted_and_judged() -> None:
    way = make(watched=True, passive=True)
    way.failed(Reason.CONNECT_TIMEOUT, "a.test:80", True)
    assert (way.counters.failed, way.counters.last_failure) == (1, "connect_timeout")
    assert (way.condition.state, way.condition.since) == (SUSPECT, way.dispatcher.now)
    assert Reason.CONNECT_TIMEOUT.text in way.condition.reason


@pytest.mark.parametrize(("watched", "fault"), [(True, False), (False, True)])
def test_what_proves_nothing_is_counted_only(watched: bool, fault: bool) -> None:
    way = make(watched=watched, passive=watched)
    way.failed(Reason.CONNECT_REFUSED, "a.test:80", fault)
    assert (way.counters.failed, way.counters.last_failure) == (1, "connect_refused")
    assert way.condition.state == UP


def test_what_the_rules_refuse_is_no_fault_of_a_way() -> None:
    assert not [reason for reason in FAULTS if reason.reply == DENIED]
