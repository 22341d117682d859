"""The orders in which a group tries its members."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost_lite.backends.strategy import (
    Failover,
    IpHash,
    LeastConn,
    RoundRobin,
    Weighted,
    make_strategy,
)

CLIENT = b"\xc0\xa8\x01\x02"
NAMES = ("wg0", "lte", "office", "direct", "spare")
ALL = range(len(NAMES))
CLIENTS = [bytes((10, 0, i >> 8, i & 255)) for i in range(3000)]
SOME = st.sets(st.sampled_from(ALL), min_size=1).map(sorted)


def choose(strategy: Failover, members: Sequence[int], client: bytes = CLIENT) -> int:
    """Begin a dial; answers with which."""
    first = strategy.order(members, client)[0]
    strategy.begun(members, first)
    return first


def choices(strategy: Failover, members: Sequence[int], count: int) -> list[int]:
    return [choose(strategy, members) for _ in range(count)]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("failover", Failover),
        ("round_robin", RoundRobin),
        ("least_conn", LeastConn),
        ("ip_hash", IpHash),
        ("weighted", Weighted),
    ],
)
def test_names(name: str, kind: type[Failover]) -> None:
    assert type(make_strategy(name, NAMES, (1,) * 5, lambda member: 0)) is kind


@given(
    st.sampled_from(["failover", "round_robin", "least_conn", "ip_hash", "weighted"]),
    st.lists(st.tuples(SOME, st.binary(min_size=4, max_size=16)), max_size=20),
)
def test_an_order_has_all_and_asking_changes_nothing(
    name: str, dials: list[tuple[list[int], bytes]]
) -> None:
    strategy = make_strategy(name, NAMES, (5, 1, 1, 2, 3), lambda member: member % 2)
    for members, client in dials:
        order = list(strategy.order(members, client))
        assert sorted(order) == members
        assert list(strategy.order(members, client)) == order
        strategy.begun(members, order[0])


def test_failover() -> None:
    assert list(Failover().order([1, 3, 4], CLIENT)) == [1, 3, 4]
    assert choices(Failover(), [1, 3, 4], 3) == [1, 1, 1]


def test_round_robin() -> None:
    strategy = RoundRobin()
    assert choices(strategy, ALL, 7) == [0, 1, 2, 3, 4, 0, 1]
    assert list(strategy.order(ALL, CLIENT)) == [2, 3, 4, 0, 1]


@given(st.lists(SOME, max_size=5), SOME)
def test_round_robin_is_fair(before: list[list[int]], members: list[int]) -> None:
    """Whatever came and went before: who is there gets its share, to one."""
    strategy = RoundRobin()
    for others in before:
        choose(strategy, others)
    counts = Counter(choices(strategy, members, 4 * len(members)))
    assert counts == dict.fromkeys(members, 4)


def test_least_conn() -> None:
    loads = [3, 1, 2, 1, 9]
    strategy = LeastConn(loads.__getitem__)
    assert strategy.order(ALL, CLIENT) == [1, 3, 2, 0, 4]
    loads[1] += 1
    assert strategy.order(ALL, CLIENT) == [3, 1, 2, 0, 4]


@given(SOME, st.integers(1, 50))
def test_least_conn_levels(members: list[int], dials: int) -> None:
    loads = [0] * len(NAMES)
    strategy = LeastConn(loads.__getitem__)
    for _ in range(dials):
        loads[choose(strategy, members)] += 1
    carried = [loads[member] for member in members]
    assert sum(carried) == dials
    assert max(carried) - min(carried) <= 1


def test_ip_hash_is_the_same_for_good() -> None:
    """Over restarts, versions and machines: a change of these moves everybody's clients."""
    strategy = IpHash(NAMES)
    clients = (CLIENT, b"\x0a\0\0\x01", bytes.fromhex("fd000000000000000000000000000005"))
    orders = [" ".join(NAMES[m] for m in strategy.order(ALL, client)) for client in clients]
    assert orders == [
        "office lte spare wg0 direct",
        "wg0 office spare lte direct",
        "office lte wg0 direct spare",
    ]


def test_ip_hash_spreads_evenly() -> None:
    strategy = IpHash(NAMES)
    counts = Counter(choose(strategy, ALL, client) for client in CLIENTS)
    assert all(abs(count - 600) < 100 for count in counts.values()), counts


@pytest.mark.parametrize("gone", ALL)
def test_ip_hash_moves_only_the_clients_of_who_is_gone(gone: int) -> None:
    strategy = IpHash(NAMES)
    rest = [member for member in ALL if member != gone]
    heirs: Counter[int] = Counter()
    for client in CLIENTS:
        before, after = choose(strategy, ALL, client), choose(strategy, rest, client)
        if before != gone:
            assert after == before
        else:
            heirs[after] += 1
    assert set(heirs) == set(rest)
    assert all(abs(count - 150) < 60 for count in heirs.values()), heirs


def test_ip_hash_goes_by_names_not_by_places() -> None:
    order = [4, 2, 0, 1, 3]
    one, other = IpHash(NAMES), IpHash([NAMES[i] for i in order])
    for client in CLIENTS[:100]:
        assert choose(one, ALL, client) == order[choose(other, ALL, client)]


def test_weighted_is_smooth() -> None:
    strategy = Weighted((5, 1, 1))
    assert choices(strategy, range(3), 14) == [0, 0, 1, 0, 2, 0, 0] * 2


@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=8).flatmap(
        lambda weights: st.tuples(
            st.just(weights),
            st.sets(st.integers(0, len(weights) - 1), min_size=1).map(sorted),
        )
    )
)
def test_weighted_is_exact_over_a_cycle(case: tuple[list[int], list[int]]) -> None:
    weights, members = case
    strategy = Weighted(weights)
    cycle = sum(weights[member] for member in members)
    expected = {member: weights[member] for member in members}
    for _ in range(3):
        assert Counter(choices(strategy, members, cycle)) == expected


@given(st.lists(st.integers(1, 20), min_size=3, max_size=8), st.data())
def test_weighted_forgets_who_was_away(weights: list[int], data: st.DataObject) -> None:
    """Members that come and go leave a debt of less than one round, however often."""
    everybody = range(len(weights))
    strategy = Weighted(weights)
    some = st.sets(st.sampled_from(everybody), min_size=1).map(sorted)
    for members in data.draw(st.lists(some, max_size=30)):
        choose(strategy, members)
    cycle = sum(weights)
    counts = Counter(choices(strategy, everybody, 10 * cycle))
    for member in everybody:
        assert abs(counts[member] - 10 * weights[member]) <= cycle
