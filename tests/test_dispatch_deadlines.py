from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from bifrost_lite.dispatch import (
    NEVER,
    Deadlines,
    Dispatcher,
    EpollDispatcher,
    PollDispatcher,
)
from tests.dispatch_kit import DEADLINE, End, Polls, patience, raise_fault, until


@pytest.fixture(params=[EpollDispatcher, PollDispatcher])
def dispatcher(request: pytest.FixtureRequest) -> Iterator[Dispatcher]:
    made = request.param()
    yield made
    made.close()


# Sleeping.


def test_nothing_wakes_an_idle_dispatcher(dispatcher: Dispatcher) -> None:
    """With sockets attached, and deadlines over that were all met, it sleeps in one poll."""

    def wake(end: End) -> None:
        end.read()
        dispatcher.wake = True

    deadlines = Deadlines(dispatcher, 0.01, raise_fault)
    other = Deadlines(dispatcher, 5, raise_fault)
    for owner in range(10):
        deadlines.start(owner)
        other.start(owner)
    for owner in range(10):
        deadlines.stop(owner)
        other.stop(owner)
    idle = [End(dispatcher) for _ in range(10)]
    end = End(dispatcher, wake)
    dispatcher.select(0)
    polls = Polls(dispatcher)
    thread = threading.Thread(target=dispatcher.select)
    thread.start()
    assert polls.begun.wait(DEADLINE)
    end.peer.send(b"x")
    thread.join(DEADLINE)
    assert not thread.is_alive()
    assert polls.patience == [-1]
    assert [end.masks for end in idle] == [[]] * 10
    for other in [end, *idle]:
        other.close()


def test_the_nearest_deadline_bounds_the_sleep(dispatcher: Dispatcher) -> None:
    slow, fast = Deadlines(dispatcher, 5000, raise_fault), Deadlines(dispatcher, 200, raise_fault)
    assert patience(dispatcher) < 0
    slow.start("a")
    fast.start("b")
    assert dispatcher.next_deadline == dispatcher.now + 200
    assert 100 < patience(dispatcher) <= 200
    assert 5 < patience(dispatcher, 10) <= 10
    assert patience(dispatcher, 0) == 0
    dispatcher.wake = True
    assert patience(dispatcher) == 0
    dispatcher.again(lambda: None)
    assert patience(dispatcher) == 0
    fast.stop("b")
    assert patience(dispatcher) <= 200  # a stopped one may wake us once
    dispatcher.next_deadline = dispatcher.now
    dispatcher.select(0)
    assert 4000 < patience(dispatcher) <= 5000
    slow.stop("a")
    assert patience(dispatcher) < 0
    assert dispatcher.next_deadline == NEVER


def test_time_that_asyncio_took_is_not_slept_again(dispatcher: Dispatcher) -> None:
    """Its callbacks run between two calls of select: a timer must not wait for them twice."""
    Deadlines(dispatcher, 200, raise_fault).start("a")
    dispatcher.now -= 100  # as if they had taken so long
    assert patience(dispatcher, 10) <= 10
    dispatcher.now -= 100
    assert patience(dispatcher) <= 200


# Deadlines.


class Times:
    """Deadlines of 10 seconds by a clock that is set by hand."""

    def __init__(self, seconds: float = 10) -> None:
        self.dispatcher = EpollDispatcher()
        self.expired: list[object] = []
        self.then: Callable[[object], object] = lambda owner: None
        self.deadlines = Deadlines(self.dispatcher, seconds, self.on_expired)
        self.dispatcher.now = 1000.0

    def on_expired(self, owner: object) -> None:
        self.expired.append(owner)
        self.then(owner)

    def start(self, owner: object, at: float) -> None:
        self.dispatcher.now = at
        self.deadlines.start(owner)


@pytest.fixture
def times() -> Iterator[Times]:
    made = Times()
    yield made
    made.dispatcher.close()


def test_deadlines_run_out_in_order(times: Times) -> None:
    for at, owner in enumerate("abc"):
        times.start(owner, 1000 + at)
    assert times.dispatcher.next_deadline == 1010
    assert times.deadlines.expire(1009.9) == 1010
    assert times.deadlines.expire(1011) == 1012
    assert times.expired == ["a", "b"]
    assert times.deadlines.expire(2000) == NEVER
    assert times.expired == ["a", "b", "c"]
    assert not times.deadlines.since


def test_a_deadline_is_started_anew(times: Times) -> None:
    """With the full time from now on, and so behind the others."""
    times.start("a", 1000)
    times.start("b", 1001)
    times.start("a", 1002)
    assert times.deadlines.expire(1010.5) == 1011
    assert times.deadlines.expire(1011) == 1012
    assert times.expired == ["b"]


def test_a_deadline_is_met(times: Times) -> None:
    times.start("a", 1000)
    times.start("b", 1001)
    times.deadlines.stop("a")
    times.deadlines.stop("a")
    times.deadlines.stop("never started")
    assert times.deadlines.expire(2000) == NEVER
    assert times.expired == ["b"]


def test_a_callback_stops_another(times: Times) -> None:
    times.start("a", 1000)
    times.start("b", 1000)
    times.then = lambda owner: times.deadlines.stop("b")
    assert times.deadlines.expire(2000) == NEVER
    assert times.expired == ["a"]


def test_a_callback_starts_anew(times: Times) -> None:
    """As of the batch's time: it is not due at once."""
    times.start("a", 1000)
    times.start("b", 1001)
    times.then = times.deadlines.start
    times.dispatcher.now = 2000
    assert times.deadlines.expire(2000) == 2010
    assert times.expired == ["a", "b"]
    assert list(times.deadlines.since) == ["a", "b"]


@pytest.mark.usefixtures("caplog")
def test_a_deadline_callback_raises(times: Times) -> None:
    """The owner has no deadline any more, so it has to go."""

    class Owner:
        crashes = 0

        def crash(self) -> None:
            self.crashes += 1

    owner = Owner()
    times.start(owner, 1000)
    times.start("b", 1001)
    times.then = lambda expired: raise_fault() if expired is owner else None
    assert times.deadlines.expire(2000) == NEVER
    assert times.expired == [owner, "b"]
    assert owner.crashes == 1


def test_changed_seconds_hold_for_all(times: Times) -> None:
    times.start("a", 1000)
    times.deadlines.seconds = 20
    assert times.deadlines.seconds == 20
    assert times.deadlines.expire(1015) == 1020
    times.deadlines.seconds = 3
    assert times.deadlines.expire(1015) == NEVER
    assert times.expired == ["a"]


def test_less_time_wakes_a_sleeper(dispatcher: Dispatcher) -> None:
    """A reload made the timeout shorter: who waits is not left waiting for the longer one."""
    expired: list[object] = []

    def wake(owner: object) -> None:
        expired.append(owner)
        dispatcher.wake = True

    deadlines = Deadlines(dispatcher, 3600, wake)
    deadlines.start("a")
    dispatcher.select(0)
    deadlines.seconds = 0.01
    dispatcher.select(None)
    assert expired == ["a"]


def test_deadlines_in_select(dispatcher: Dispatcher) -> None:
    """The first, one that its callback starts, and one of another kind, without asyncio."""
    expired: list[object] = []

    def on_first(owner: object) -> None:
        expired.append(owner)
        if owner == "a":
            first.start("b")
        else:
            second.start("c")

    def on_second(owner: object) -> None:
        expired.append(owner)
        dispatcher.wake = True

    second = Deadlines(dispatcher, 0.001, on_second)
    first = Deadlines(dispatcher, 0.001, on_first)
    first.start("a")
    assert dispatcher.select(None) == []
    assert expired == ["a", "b", "c"]


def test_deadlines_pass_while_the_plane_is_busy(dispatcher: Dispatcher) -> None:
    class Bulk:
        def on_turn(self) -> None:
            dispatcher.again(self.on_turn)

    def wake(_: object) -> None:
        dispatcher.wake = True

    Deadlines(dispatcher, 0.01, wake).start("a")
    dispatcher.again(Bulk().on_turn)
    dispatcher.select(None)
    assert dispatcher.wake is False


def test_closed_deadlines_are_forgotten(dispatcher: Dispatcher) -> None:
    deadlines = Deadlines(dispatcher, 10, raise_fault)
    other = Deadlines(dispatcher, 10, raise_fault)
    deadlines.start("a")
    deadlines.close()
    assert patience(dispatcher) < 0
    other.start("b")
    assert 0 < patience(dispatcher) <= 10
    other.stop("b")


def test_a_callback_closes_other_deadlines(dispatcher: Dispatcher) -> None:
    """The ones behind them are not skipped."""
    expired: list[object] = []

    def on_expired(owner: object) -> None:
        expired.append(owner)
        if owner == "a":
            first.close()
            second.close()

    first = Deadlines(dispatcher, 0.001, on_expired)
    second = Deadlines(dispatcher, 0.001, on_expired)
    third = Deadlines(dispatcher, 0.001, on_expired)
    for deadlines, owner in ((first, "a"), (second, "b"), (third, "c")):
        deadlines.start(owner)
    until(dispatcher, lambda: "c" in expired)
    assert expired == ["a", "c"]
    assert dispatcher.next_deadline == NEVER


def test_common_deadlines(dispatcher: Dispatcher) -> None:
    """Thousands of dials share one, for each length of time."""
    one = dispatcher.common_deadlines(1, raise_fault)
    assert dispatcher.common_deadlines(1, raise_fault) is one
    assert dispatcher.common_deadlines(2, raise_fault) is not one
    assert dispatcher.common_deadlines(1, print) is not one
    assert len(dispatcher.deadlines) == 3
