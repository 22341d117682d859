"""How a group chooses among its members, groups among them, and that it always ends well."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost_lite.backends import group as module
from bifrost_lite.backends.base import Backend
from bifrost_lite.backends.group import FINAL, Group
from bifrost_lite.condition import DOWN, SUSPECT, UP, WAITING
from bifrost_lite.errors import Reason
from tests.backends.group_kit import CLIENT, REFUSED, TARGET, Caller, Leaf, group, names, reach

STRATEGIES = ["failover", "round_robin", "least_conn", "ip_hash", "weighted"]


@pytest.fixture(autouse=True)
def _no_dial_is_counted_for_ever():
    yield
    assert module._dialling == {}


# Strategies.


def test_round_robin() -> None:
    best = group([Leaf("a"), Leaf("b"), Leaf("c")], "round_robin")
    assert [reach(best) for _ in range(5)] == ["a", "b", "c", "a", "b"]
    assert names(best) == names(best) == ["c", "a", "b"]


def test_weighted() -> None:
    best = group([Leaf("a"), Leaf("b"), Leaf("c")], "weighted", weights=(4, 2, 1))
    assert Counter(reach(best) for _ in range(70)) == {"a": 40, "b": 20, "c": 10}


def test_ip_hash() -> None:
    members = [Leaf(name) for name in ("a", "b", "c")]
    best = group(members, "ip_hash")
    clients = [bytes((10, 0, 0, i)) for i in range(50)]
    home = {client: reach(best, client) for client in clients}
    assert set(home.values()) == {"a", "b", "c"}
    assert home == {client: reach(best, client) for client in clients}
    members[0].condition.state = DOWN
    for client in clients:
        assert reach(best, client) == names(best, client)[0]
        assert (reach(best, client) == home[client]) == (home[client] != "a")
    members[0].condition.state = UP
    assert home == {client: reach(best, client) for client in clients}


def test_least_conn_counts_what_stands_and_what_is_being_made() -> None:
    first, second = Leaf("first", "later"), Leaf("second", "later")
    best = group([first, second], "least_conn")
    tries = [best.connect(TARGET, CLIENT, Caller().done) for _ in range(4)]
    assert (len(first.dialling), len(second.dialling)) == (2, 2)
    first.dialling[0].end(None)
    assert names(best) == ["first", "second"]
    first.way.counters.active += 2
    assert names(best) == ["second", "first"]
    for attempt in tries:
        attempt.cancel()
    assert names(best) == ["second", "first"]
    second.way.counters.active += 2
    assert names(best) == ["first", "second"]


def test_least_conn_sees_the_dials_of_other_groups() -> None:
    first, second = Leaf("first", "later"), Leaf("second", "later")
    attempt = group([first]).connect(TARGET, CLIENT, Caller().done)
    best = group([first, second], "least_conn")
    assert names(best) == ["second", "first"]
    attempt.cancel()
    assert names(best) == ["first", "second"]


def test_a_group_in_least_conn_carries_what_its_leaves_carry() -> None:
    a, b, c = Leaf("a"), Leaf("b"), Leaf("c")
    best = group([group([a, b], "round_robin", name="pair"), c], "least_conn")
    a.way.counters.active, b.way.counters.active, c.way.counters.active = 1, 2, 3
    assert names(best) == ["a", "b", "c"]
    b.way.counters.active = 3
    assert names(best) == ["c", "a", "b"]


# Groups in groups.


def test_the_members_of_a_group_stand_in_its_place() -> None:
    a, b, c, d = (Leaf(name, REFUSED) for name in "abcd")
    best = group([a, group([b, c], name="pair"), d])
    assert names(best) == ["a", "b", "c", "d"]
    assert reach(best) == REFUSED
    d.ends = None
    assert reach(best) == "d"
    assert [len(leaf.asked) for leaf in (a, b, c, d)] == [2, 2, 2, 2]
    assert list(best.ways.values()) == [leaf.way for leaf in (a, b, c, d)]


def test_a_shared_leaf_is_tried_once() -> None:
    a, b, c = (Leaf(name, REFUSED) for name in "abc")
    best = group([group([a, c], name="one"), group([b, c], name="two"), c])
    assert names(best) == ["a", "c", "b"]
    assert reach(best) == REFUSED
    assert [len(leaf.asked) for leaf in (a, b, c)] == [1, 1, 1]


def test_groups_that_share_groups_do_not_multiply() -> None:
    """Two ways through each of thirty floors are a billion ways through the house."""
    leaf = Leaf("leaf", REFUSED)
    floor = [group([leaf], name="a0"), group([leaf], name="b0")]
    for i in range(1, 30):
        floor = [group(floor, name=f"a{i}"), group(floor, name=f"b{i}")]
    best = group(floor, "least_conn")
    assert names(best) == ["leaf"]
    assert reach(best) == REFUSED
    assert len(leaf.asked) == 1


def test_an_inner_group_goes_on_with_its_own_turn() -> None:
    best = group([group([Leaf("a"), Leaf("b")], "round_robin", name="pair"), Leaf("c")])
    assert [reach(best) for _ in range(4)] == ["a", "b", "a", "b"]


# Whatever comes.

ENDS = st.sampled_from([None, "later", REFUSED, Reason.CONNECT_TIMEOUT, Reason.BLOCKED])


@st.composite
def trees(draw: st.DrawFn) -> tuple[Group, list[Leaf]]:
    """A group over groups over leaves, some of them shared, in any state."""
    leaves = [Leaf(f"m{i}", draw(ENDS)) for i in range(draw(st.integers(1, 5)))]
    for leaf in leaves:
        leaf.condition.state = draw(st.sampled_from([UP, SUSPECT, DOWN, WAITING]))
        leaf.way.counters.active = draw(st.integers(0, 3))
    backends: list[Backend] = list(leaves)
    top = group(leaves)
    for i in range(draw(st.integers(1, 5))):
        members = draw(st.lists(st.sampled_from(backends), min_size=1, max_size=5, unique=True))
        weights = tuple(draw(st.integers(1, 5)) for _ in members)
        top = group(members, draw(st.sampled_from(STRATEGIES)), name=f"g{i}", weights=weights)
        top.refresh(1.0)
        backends.append(top)
    return top, leaves


@given(trees(), st.lists(st.sampled_from([None, REFUSED, Reason.LOOP, "cancel"]), max_size=9))
def test_each_leaf_once_in_order_until_the_first_success(
    tree: tuple[Group, list[Leaf]], later: list[Reason | str | None]
) -> None:
    top, leaves = tree
    planned = top.carriers(CLIENT)
    assert top.carriers(CLIENT) == planned
    assert planned
    assert len(set(planned)) == len(planned)
    caller = Caller()
    attempt = top.connect(TARGET, CLIENT, caller.done)
    cancelled = False
    while dialling := [each for leaf in leaves for each in leaf.dialling]:
        (only,) = dialling
        assert not caller.told
        assert module._dialling == {only.leaf.way.counters: 1}
        end = later.pop() if later else REFUSED
        if end == "cancel":
            attempt.cancel()
            cancelled = True
        else:
            only.leaf.ends = end
            only.end(end)
    assert module._dialling == {}
    tried = [way for way in planned if any(way is leaf.way and leaf.asked for leaf in leaves)]
    assert sum(len(leaf.asked) for leaf in leaves) == len(tried)
    assert tried == planned[: len(tried)]
    attempt.cancel()
    if cancelled:
        assert not caller.told
        return
    ends = {leaf.way: leaf.ends for leaf in leaves}
    assert all(ends[way] not in {None, *FINAL} for way in tried[:-1])
    if ends[tried[-1]] is None:
        assert caller.answer == tried[-1].name
    else:
        assert isinstance(caller.answer, Reason)
        assert tried == planned or caller.answer in FINAL
