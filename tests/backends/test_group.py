"""Groups of members that do what the tests say."""

from __future__ import annotations

import gc
import inspect

import pytest

from bifrost_lite.backends import group as module
from bifrost_lite.backends.base import Backend
from bifrost_lite.backends.block import Block
from bifrost_lite.backends.group import FINAL, Group, Try
from bifrost_lite.condition import DOWN, SUSPECT, UP, WAITING
from bifrost_lite.errors import Reason
from tests.backends.group_kit import (
    CLIENT,
    REFUSED,
    TARGET,
    Caller,
    Leaf,
    Watch,
    group,
    names,
    reach,
)

STRATEGIES = ["failover", "round_robin", "least_conn", "ip_hash", "weighted"]


@pytest.fixture(autouse=True)
def _no_dial_is_counted_for_ever():
    yield
    assert module._dialling == {}


def test_who_it_is() -> None:
    first, second = Leaf("first"), Leaf("second")
    backend: Backend = group([first, second])
    assert (backend.name, backend.type, backend.members) == ("best", "group", (first, second))
    backend.close()


# One after the other.


def test_the_first_carries_it() -> None:
    first, second = Leaf("first"), Leaf("second")
    assert reach(group([first, second])) == "first"
    assert first.asked == [(TARGET, CLIENT, False)]
    assert not second.asked


def test_what_is_asked_is_passed_on() -> None:
    first, second = Leaf("first", REFUSED), Leaf("second")
    caller = Caller()
    group([first, second]).connect(TARGET, b"\x0a\0\0\x01", caller.done, forward=True)
    assert first.asked == second.asked == [(TARGET, b"\x0a\0\0\x01", True)]
    assert caller.told == [(second.sock, None, "second")]


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason not in FINAL])
def test_the_next_is_tried_at_once(reason: Reason) -> None:
    assert reach(group([Leaf("first", reason), Leaf("second")])) == "second"


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason in FINAL])
def test_what_the_rules_refuse_is_refused(reason: Reason) -> None:
    second = Leaf("second")
    assert reach(group([Leaf("first", reason), second])) == reason
    assert not second.asked


def test_later_too() -> None:
    first, second, third = (Leaf(name, "later") for name in ("first", "second", "third"))
    caller = Caller()
    group([first, second, third]).connect(TARGET, CLIENT, caller.done)
    first.dialling[0].end(Reason.CONNECT_TIMEOUT)
    assert (len(second.dialling), len(third.dialling)) == (1, 0)
    second.dialling[0].end(Reason.UPSTREAM_TIMEOUT)
    assert not caller.told
    third.dialling[0].end(None)
    assert caller.answer == "third"


def test_at_once_after_later() -> None:
    first = Leaf("first", "later")
    caller = Caller()
    members = [first, *(Leaf(f"m{i}", REFUSED) for i in range(5)), Leaf("last")]
    group(members).connect(TARGET, CLIENT, caller.done)
    first.dialling[0].end(Reason.CONNECT_TIMEOUT)
    assert caller.answer == "last"


@pytest.mark.parametrize(
    ("reasons", "told", "by"),
    [
        # A way that does not work, after another: the last one tried.
        ((Reason.CONNECT_TIMEOUT, Reason.UPSTREAM_AUTH), Reason.UPSTREAM_AUTH, "m1"),
        # What one heard of the target is worth more, whenever it came.
        ((REFUSED, Reason.UPSTREAM_UNREACHABLE), REFUSED, "m0"),
        ((Reason.DEVICE_ABSENT, Reason.DNS_NOT_FOUND), Reason.DNS_NOT_FOUND, "m1"),
        ((Reason.DNS_NOT_FOUND, REFUSED), Reason.DNS_NOT_FOUND, "m0"),
        # The rules have the last word.
        ((REFUSED, Reason.BLOCKED), Reason.BLOCKED, "m1"),
    ],
)
def test_why_nobody_could(reasons: tuple[Reason, ...], told: Reason, by: str) -> None:
    caller = Caller()
    members = [Leaf(f"m{i}", reason) for i, reason in enumerate(reasons)]
    group(members).connect(TARGET, CLIENT, caller.done)
    assert caller.told == [(None, told, by)]


def test_many_members_at_once_need_no_stack() -> None:
    depths: list[int] = []

    class Deep(Leaf):
        def connect(self, *rest, **more):
            depths.append(len(inspect.stack(0)))
            return super().connect(*rest, **more)

    members = [Deep(f"m{i}", REFUSED) for i in range(64)]
    assert reach(group(members)) == REFUSED
    assert len(depths) == 64
    assert len(set(depths)) == 1


# Giving up, and faults.


def test_it_can_be_given_up() -> None:
    first, second = Leaf("first", "later"), Leaf("second", "later")
    caller = Caller()
    attempt = group([first, second]).connect(TARGET, CLIENT, caller.done)
    first.dialling[0].end(REFUSED)
    attempt.cancel()
    assert (first.cancelled, second.cancelled, second.dialling) == (0, 1, [])
    attempt.cancel()
    assert not caller.told


def test_it_is_given_up_while_a_member_is_asked() -> None:
    """What a member does may end the session that asks."""

    class Ender(Leaf):
        def connect(self, *rest, **more):
            attempt.cancel()
            return super().connect(*rest, **more)

    for ends in ("later", REFUSED, Reason.BLOCKED, None):
        first, second, third = Leaf("first", "later"), Ender("second", ends), Leaf("third")
        caller = Caller()
        attempt = group([first, second, third]).connect(TARGET, CLIENT, caller.done)
        first.dialling[0].end(Reason.CONNECT_TIMEOUT)
        assert not caller.told
        assert not third.asked
        assert not second.dialling
        assert second.way.dispatcher.discarded == ([second.sock] if ends is None else [])


def test_a_caller_that_raises_pays_for_it(caplog: pytest.LogCaptureFixture) -> None:
    class Raising(Caller):
        crashes = 0

        def done(self, *told: object) -> None:
            raise ZeroDivisionError

        def crash(self) -> None:
            self.crashes += 1

    for ends in (None, REFUSED):
        caller = Raising()
        group([Leaf("first", ends)]).connect(TARGET, CLIENT, caller.done)
        assert caller.crashes == 1
    assert "ZeroDivisionError" in caplog.text


def test_a_member_that_cannot_be_asked() -> None:
    class Broken(Leaf):
        def connect(self, *rest, **more):
            raise ZeroDivisionError

    first, second = Leaf("first", "later"), Broken("second")
    caller = Caller()
    attempt = group([first, second]).connect(TARGET, CLIENT, caller.done)
    with pytest.raises(ZeroDivisionError):
        first.dialling[0].end(REFUSED)
    attempt.crash()  # what whoever called `done` does then, see `dispatch.crashed`
    assert caller.answer == Reason.INTERNAL


def test_a_fault_while_a_member_dials() -> None:
    first = Leaf("first", "later")
    caller = Caller()
    attempt = group([first]).connect(TARGET, CLIENT, caller.done)
    attempt.crash()
    assert caller.answer == Reason.INTERNAL
    assert first.cancelled == 1


def test_nothing_is_kept_of_a_connection() -> None:
    """No ring of references, or only the collector would free it."""
    gc.collect()
    gc.disable()
    try:
        for ends in (None, REFUSED):
            first, second = Leaf("first", "later"), Leaf("second", "later")
            group([first, second]).connect(TARGET, CLIENT, Caller().done)
            first.dialling[0].end(REFUSED)
            second.dialling[0].end(ends)
        group([first, second]).connect(TARGET, CLIENT, Caller().done).cancel()
        assert not [thing for thing in gc.get_objects() if type(thing) is Try]
    finally:
        gc.enable()


# Who comes into question.


def tiers(*states: str, strategy: str = "failover") -> tuple[Group, list[Leaf]]:
    members = [Leaf(f"m{i}", REFUSED) for i in range(len(states))]
    for member, state in zip(members, states, strict=True):
        member.condition.state = state
    return group(members, strategy), members


@pytest.mark.parametrize(
    ("states", "tried"),
    [
        ((UP, UP, UP), [0, 1, 2]),
        ((SUSPECT, UP, SUSPECT), [0, 1, 2]),
        ((DOWN, UP, WAITING), [1]),
        ((DOWN, SUSPECT, UP), [1, 2]),
        ((DOWN, WAITING, DOWN), [0, 2]),
        ((WAITING, WAITING), [0, 1]),
    ],
)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_usable_else_the_down_else_the_waiting(
    states: tuple[str, ...], tried: list[int], strategy: str
) -> None:
    best, members = tiers(*states, strategy=strategy)
    assert sorted(names(best)) == [f"m{i}" for i in tried]
    assert reach(best) == REFUSED
    assert [i for i, member in enumerate(members) if member.asked] == tried


def test_it_fails_back() -> None:
    best, (first, second) = tiers(DOWN, UP)
    first.ends = second.ends = None
    assert reach(best) == "m1"
    first.condition.state = UP
    assert reach(best) == "m0"


# Probes.


def test_a_probe_takes_the_way_of_the_next_and_no_other() -> None:
    a, b, c = Leaf("a", REFUSED), Leaf("b"), Leaf("c")
    best = group([group([a, b], "round_robin", name="pair"), c])
    for _ in range(2):
        caller = Caller()
        best.probe(TARGET, caller.done)
        assert caller.told == [(None, REFUSED, "a")]
    assert set(a.asked) == {"probe"}
    assert not b.asked
    assert names(best)[0] == "a"


# A block among the members.


def test_a_block_ends_it() -> None:
    """What follows it is never asked: so a group can be kept from going elsewhere."""
    last = Leaf("last")
    best = group([Leaf("first", Reason.DEVICE_ABSENT), Block(Leaf("stop").way), last])
    assert reach(best) == Reason.BLOCKED
    assert not last.asked


# The condition.


def test_the_condition_follows_the_members() -> None:
    best, (first, second) = tiers(UP, UP)
    condition = best.condition
    assert isinstance(condition, Watch)

    def now(*states: str, at: float) -> tuple[str, str, float]:
        first.condition.state, second.condition.state = states
        best.refresh(at)
        return condition.state, condition.reason, condition.since

    assert now(UP, UP, at=1.0) == (UP, "m0 carries it", 0.0)
    assert now(DOWN, UP, at=2.0) == (UP, "m1 carries it", 0.0)
    assert now(SUSPECT, UP, at=3.0) == (UP, "m0 carries it", 0.0)
    assert not condition.told
    assert now(SUSPECT, DOWN, at=4.0) == (SUSPECT, "m0 carries it", 4.0)
    assert now(SUSPECT, SUSPECT, at=5.0) == (SUSPECT, "m0 carries it", 4.0)
    assert now(WAITING, DOWN, at=6.0) == (DOWN, "no member works", 6.0)
    assert now(DOWN, DOWN, at=7.0) == (DOWN, "no member works", 6.0)
    assert now(WAITING, WAITING, at=8.0) == (WAITING, "all members wait for their devices", 8.0)
    assert now(WAITING, UP, at=9.0) == (UP, "m1 carries it", 9.0)
    assert condition.told == [SUSPECT, DOWN, WAITING, UP]


def test_the_reason_of_those_that_share() -> None:
    best, _ = tiers(UP, DOWN, SUSPECT, strategy="round_robin")
    best.refresh(1.0)
    assert (best.condition.state, best.condition.reason) == (UP, "2 of 3 members work")
