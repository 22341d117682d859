"""Routes with lists: the entries of a file are domains and networks like others."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost_lite import lists
from bifrost_lite.acl import pack
from bifrost_lite.config.schema import Route
from bifrost_lite.lists import RouteList, parse
from bifrost_lite.route import Match, Router

CLIENT = b"\xc0\xa8\x01\x14"


def made(*entries: str) -> RouteList:
    found, faults = parse(f"{entry}\n".encode() for entry in entries)
    assert not faults
    return found


def find(router: Router, host: str, port: int = 443, client: bytes = CLIENT) -> str | None:
    match = router.find(host, pack(host), port, client)
    return match.route if match else None


def listed(*entries: str, **keys: Any) -> Router:
    """A router of one route with this list."""
    return Router([Route(name="r", list="l.txt", backend="b", **keys)], {"r": made(*entries)})


def test_an_entry_is_a_domain_or_a_network() -> None:
    router = listed("a.example", "*.b.example", "ads-*.c", "10.0.0.0/8", "2001:db8::1")
    for host in ("a.example", "x.b.example", "ads-1.c", "10.1.2.3", "2001:db8::1"):
        assert find(router, host) == "r"
    for host in ("b.example", "x.a.example", "ads.c", "11.1.2.3", "2001:db8::2"):
        assert find(router, host) is None


def test_a_list_is_one_more_kind_of_target() -> None:
    """It stands beside domains and networks; ports and clients must match as well."""
    router = listed(
        "a.example",
        domains=("b.example",),
        cidrs=("10.0.0.0/8",),
        ports=(443,),
        clients=("192.168.1.0/24",),
    )
    assert find(router, "a.example") == find(router, "b.example") == find(router, "10.0.0.1") == "r"
    assert find(router, "a.example", 80) is None
    assert find(router, "a.example", client=b"\x0a\0\0\1") is None
    assert find(router, "c.example") is None


def test_an_empty_list_matches_nothing() -> None:
    """It would be everything, were it the same as no list at all."""
    assert find(listed(), "a.example") is None
    assert find(listed(), "10.0.0.1") is None
    assert find(listed(ports=(443,)), "a.example") is None
    assert find(Router([Route(name="r", list="l.txt", backend="b")]), "a.example") is None


def test_a_star_in_a_list_is_everything() -> None:
    router = listed("a.example", "*", ports=(443,))
    assert find(router, "b.example") == find(router, "10.0.0.1") == "r"
    assert find(router, "b.example", 80) is None
    (candidate,) = router.explain("b.example", None, 443, CLIENT)
    assert candidate.pattern == "* in l.txt"


def test_priorities_hold_among_lists() -> None:
    """Routes may share a list, and lists may share entries."""
    ads = made("ads.example", ".both.example", "10.0.0.0/8")
    routes = [
        Route(name="low", list="ads.txt", backend="b", priority=1),
        Route(name="other", list="other.txt", backend="b", priority=2),
        Route(name="guest", list="ads.txt", clients=("10.0.0.0/8",), backend="b", priority=3),
        Route(name="name", domains=("www.both.example",), backend="b", priority=4),
        Route(name="off", list="ads.txt", backend="b", priority=5, enabled=False),
    ]
    other = made("both.example", "*.both.example", "other.example", "10.1.0.0/16")
    router = Router(routes, {"low": ads, "guest": ads, "other": other})
    guest = b"\x0a\0\0\1"
    assert find(router, "ads.example") == "low"
    assert find(router, "ads.example", client=guest) == "guest"
    assert find(router, "other.example", client=guest) == "other"
    assert find(router, "both.example") == "other"
    assert find(router, "both.example", client=guest) == "guest"
    assert find(router, "www.both.example", client=guest) == "name"
    assert find(router, "x.both.example") == "other"
    assert find(router, "10.1.2.3") == "other"
    assert find(router, "10.2.2.3") == "low"
    assert router.lists == {"low": ads, "guest": ads, "other": other}
    told = {c.route: (c.lost, c.pattern) for c in router.explain("both.example", None, 1, CLIENT)}
    assert told == {
        "off": ("disabled", ""),
        "name": ("target", ""),
        "guest": ("client", "both.example in ads.txt"),
        "other": ("", "both.example in other.txt"),
        "low": ("later", "both.example in ads.txt"),
    }


@pytest.mark.parametrize(
    ("host", "pattern"),
    [
        ("a.example", "a.example in l.txt"),
        ("x.b.example", "*.b.example in l.txt"),
        ("ads-1.c", "ads-*.c in l.txt"),
        ("10.1.2.3", "10.0.0.0/8 in l.txt"),
        ("first.example", "first.example"),
    ],
)
def test_explain_tells_the_entry(host: str, pattern: str) -> None:
    entries = ("first.example", "a.example", "*.b.example", "ads-*.c", "10.0.0.0/8")
    router = listed(*entries, domains=("first.example",))
    assert router.explain(host, pack(host), 443, CLIENT) == [("r", "b", "", pattern)]


names = st.lists(st.sampled_from(["a", "b", "ab"]), min_size=1, max_size=3).map(".".join)
entries = st.one_of(
    st.builds(lambda head, name: head + name, st.sampled_from(["", "*.", ".", "a*."]), names),
    st.just("*"),
)
networks = st.sampled_from(["10.0.0.0/8", "10.1.0.0/16", "fd00::/8", "0.0.0.0/0"])


@given(
    st.lists(st.tuples(st.lists(entries, max_size=3), st.lists(networks, max_size=2)), max_size=5),
    st.one_of(names, st.sampled_from(["10.1.0.1", "10.2.0.1", "fd00::1", "192.0.2.1"])),
)
def test_a_list_is_as_good_as_its_entries_written_out(
    drawn: list[tuple[list[str], list[str]]], host: str
) -> None:
    written, files = [], {}
    for number, (domains, cidrs) in enumerate(drawn):
        if domains or cidrs:
            name = f"r{number}"
            written.append(
                Route(name=name, domains=tuple(domains), cidrs=tuple(cidrs), backend="b")
            )
            files[name] = made(*domains, *cidrs)
    short = [Route(name=name, list=name, backend="b") for name in files]
    expected, router = Router(written), Router(short, files)
    assert find(router, host) == find(expected, host)
    packed = pack(host)
    for one, other in zip(
        expected.explain(host, packed, 443, CLIENT),
        router.explain(host, packed, 443, CLIENT),
        strict=True,
    ):
        assert one[:3] == other[:3]
        assert bool(one.pattern) == bool(other.pattern)


# What a look-up costs.


def lines_run(call: Callable[[], object]) -> int:
    """How many lines of the package one call runs."""
    count = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        if "bifrost_lite" not in frame.f_code.co_filename:
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


class Looks(Sequence[int]):
    """Keys that count how often one is looked at."""

    def __init__(self, keys: Sequence[int]) -> None:
        self.keys = keys
        self.looks = 0

    def __getitem__(self, at: Any) -> Any:
        self.looks += 1
        return self.keys[at]

    def __len__(self) -> int:
        return len(self.keys)


@pytest.mark.parametrize("host", ["x.h7.example", "h7.example", "a.b.none.example", "10.0.7.1"])
def test_a_hundred_thousand_entries_cost_no_more_than_ten(host: str) -> None:
    lines, looks = [], []
    for number in (10, 100_000):
        entries = [f".h{i}.example" for i in range(number)] + ["10.0.7.0/24"]
        router = listed(*entries)
        assert find(router, host) == (None if "none" in host else "r")
        packed = pack(host)
        lines.append(lines_run(lambda: router.find(host, packed, 443, CLIENT)))  # noqa: B023
        index = router._by_list
        assert index is not None
        counting = index._keys = Looks(index._keys)
        for probe in range(200):  # keys fall into their slots at random
            router.find(f"y{probe}.x.example", None, 443, CLIENT)
        looks.append(counting.looks / 200)
    assert lines[0] == lines[1] > 0
    # A look-up of one of four names; a plain search would need 17 looks for each.
    assert looks[1] < 4 * (lists._SLOT + 1)
    assert looks[1] < 2 * max(looks[0], 4)


def test_a_thousand_lists_cost_no_more_than_two() -> None:
    cost = []
    for number in (2, 1000):
        routes = [Route(name=f"r{i}", list=f"l{i}", backend="b") for i in range(number)]
        router = Router(routes, {f"r{i}": made(f"h{i}.example", "z.example") for i in range(number)})
        assert find(router, "h1.example") == "r1"
        assert find(router, "z.example") == "r0"
        cost.append(lines_run(lambda: router.find("h1.example", None, 443, CLIENT)))  # noqa: B023
    assert cost[0] == cost[1]


def test_without_lists_a_look_up_knows_nothing_of_them() -> None:
    router = Router([Route(name="r", domains=("a.example",), backend="b")])
    assert router._by_list is None
    assert router.find("a.example", None, 443, CLIENT) == Match("r", "b")


def test_explaining_routes_that_share_a_list_looks_into_it_once() -> None:
    shared = made(*(f"a*{i}.example" for i in range(200)))
    cost = []
    for number in (1, 2, 3):
        routes = [Route(name=f"r{i}", list="l", backend="b") for i in range(number)]
        router = Router(routes, {f"r{i}": shared for i in range(number)})
        assert router.explain("ax199.example", None, 443, CLIENT)[-1].pattern == "a*199.example in l"
        cost.append(lines_run(lambda: router.explain("ax199.example", None, 443, CLIENT)))  # noqa: B023
    assert cost[2] - cost[1] == cost[1] - cost[0] < 40
