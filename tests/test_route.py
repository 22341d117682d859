from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost_lite.acl import pack
from bifrost_lite.config.schema import Route
from bifrost_lite.route import Candidate, Match, Router
from bifrost_lite.target import read_authority

CLIENT = "192.168.1.20"


def ip(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def find(router: Router, host: str, port: int = 443, client: str = CLIENT) -> str | None:
    match = router.find(host, pack(host), port, ip(client))
    return match.route if match else None


def only(*domains: str) -> Router:
    return Router([Route(name="r", domains=domains, backend="b")])


def test_without_routes_everything_is_direct() -> None:
    router = Router([])
    assert router.find("a.example", None, 443, ip(CLIENT)) == Match("default", "direct")
    assert router.find("192.0.2.1", ip("192.0.2.1"), 1, ip("::1")) == Match("default", "direct")
    assert router.explain("a.example", None, 443, ip(CLIENT)) == [
        Candidate("default", "direct", "")
    ]


def test_with_routes_no_match_is_refusal() -> None:
    assert find(only("a.example"), "b.example") is None
    assert find(only("a.example"), "192.0.2.1") is None


def test_disabled_routes_take_no_part_but_are_routes() -> None:
    router = Router([Route(name="r", backend="b", enabled=False)])
    assert find(router, "a.example") is None


@pytest.mark.parametrize(
    ("pattern", "matches", "others"),
    [
        ("a.example", ["a.example"], ["b.a.example", "xa.example", "example", "a.example.org"]),
        ("A.Example", ["a.example"], ["b.example"]),
        ("nas", ["nas"], ["nas.lan", "na"]),
        ("*.a.example", ["x.a.example", "y.x.a.example"], ["a.example", "xa.example", "example"]),
        (".a.example", ["a.example", "x.a.example", "y.x.a.example"], ["xa.example", "example"]),
        (".lan", ["lan", "nas.lan"], ["nas", "wlan"]),
        ("*", ["a", "a.example", "192.0.2.1", "2001:db8::1"], []),
        (
            "sf-*.a.b",
            ["sf-1.a.b", "sf-.a.b", "sf-x-y.a.b"],
            ["sf.a.b", "sf-1.x.a.b", "x.sf-1.a.b", "a.b", "sf-1.a.b.c"],
        ),
        ("*-api.a.b", ["x-api.a.b", "-api.a.b"], ["api.a.b", "x.y-api.a.b", "x-api.b"]),
        ("intranet.*", ["intranet.lan", "intranet.x"], ["intranet", "intranet.a.b", "x.lan"]),
        ("a.*.b", ["a.x.b"], ["a.b", "a.x.y.b", "b", "x.b"]),
        ("a*b*c.d", ["abc.d", "axbxc.d", "abbcc.d"], ["ac.d", "acb.d", "abcx.d", "abc"]),
        ("aba*aba.d", ["abaaba.d", "abaxaba.d"], ["aba.d", "ababa.d"]),
        ("a*b*b*a.d", ["abba.d", "abxba.d"], ["aba.d", "abab.d"]),
        ("*.sf-*.a", ["x.sf-1.a", "y.x.sf-1.a"], ["sf-1.a", "x.sf.a"]),
        (".sf-*.a", ["sf-1.a", "x.sf-1.a", "y.x.sf-1.a"], ["xsf-1.a", "sf.a"]),
        ("x*.y*.z", ["x1.y1.z", "x.y.z"], ["y1.x1.z", "x1.z", "y1.z", "w.x1.y1.z"]),
        ("*.*.a", ["x.y.a", "x.y.z.a"], ["a", "x.a"]),
    ],
)
def test_domains(pattern: str, matches: list[str], others: list[str]) -> None:
    router = only(pattern)
    assert [find(router, host) for host in matches] == ["r"] * len(matches)
    assert [find(router, host) for host in others] == [None] * len(others)


def test_names_and_addresses_are_apart() -> None:
    router = Router(
        [
            Route(name="names", domains=("*.2.1", "192.0.2.*"), backend="b"),
            Route(name="addresses", cidrs=("192.0.2.0/24", "2001:db8::/32"), backend="b"),
        ]
    )
    assert find(router, "192.0.2.1") == "addresses"
    assert find(router, "2001:db8::1") == "addresses"
    assert find(router, "192.0.3.1") is None
    assert find(router, "2001:db9::1") is None
    assert find(router, "a.example") is None
    assert find(router, "x.2.1") == "names"
    mapped = ip("::ffff:192.0.2.9")
    assert router.find("192.0.2.9", mapped, 1, ip(CLIENT)) == Match("addresses", "b")


def test_domains_or_cidrs_and_ports_and_clients() -> None:
    router = Router(
        [
            Route(
                name="r",
                domains=(".a.example",),
                cidrs=("10.0.0.0/8",),
                ports=(80, 443),
                clients=("192.168.1.0/24", "fd00::5"),
                backend="b",
            )
        ]
    )
    assert find(router, "a.example", 443) == "r"
    assert find(router, "10.1.2.3", 80) == "r"
    assert find(router, "a.example", 80, "fd00::5") == "r"
    assert find(router, "a.example", 80, "::ffff:192.168.1.7") == "r"
    assert find(router, "b.example", 443) is None
    assert find(router, "11.1.2.3", 443) is None
    assert find(router, "a.example", 22) is None
    assert find(router, "a.example", 443, "192.168.2.1") is None
    assert find(router, "a.example", 443, "fd00::6") is None


def test_absent_kinds_match_all() -> None:
    assert find(Router([Route(name="r", backend="b")]), "a.example") == "r"
    ports = Router([Route(name="r", ports=(22, 23), backend="b")])
    assert find(ports, "a.example", 22) == find(ports, "192.0.2.1", 23) == "r"
    assert find(ports, "a.example", 24) is None
    clients = Router([Route(name="r", clients=("192.168.1.0/24",), ports=(22,), backend="b")])
    assert find(clients, "a.example", 22) == find(clients, "192.0.2.1", 22) == "r"
    assert find(clients, "a.example", 22, "10.0.0.1") is None
    assert find(clients, "a.example", 23) is None


def test_priority_then_file_order() -> None:
    routes = [
        Route(name="any", backend="b", priority=1),
        Route(name="first", domains=("*.a.example",), backend="b"),
        Route(name="second", domains=("x.a.example", "y.example"), backend="b"),
        Route(name="high", domains=("x.a.*",), ports=(443,), backend="b", priority=200),
        Route(name="low", domains=("z.example",), backend="b", priority=0),
        Route(name="ssh", ports=(22,), backend="b", priority=150),
        Route(name="guest", clients=("192.168.9.0/24",), backend="b", priority=300),
    ]
    router = Router(routes)
    assert find(router, "x.a.example") == "high"
    assert find(router, "x.a.example", 80) == "first"
    assert find(router, "y.example") == "second"
    assert find(router, "z.example") == "any"
    assert find(router, "x.a.example", 22) == "ssh"
    assert find(router, "x.a.example", 443, "192.168.9.4") == "guest"


def test_same_pattern_in_many_routes() -> None:
    router = Router(
        [
            Route(name="a", domains=("x.example",), ports=(1,), backend="b"),
            Route(name="b", domains=("x.example",), clients=("10.0.0.0/8",), backend="b"),
            Route(name="c", domains=("x.example", "x.example"), backend="b"),
            Route(name="d", domains=("x.example",), backend="b"),
        ]
    )
    assert find(router, "x.example", 1) == "a"
    assert find(router, "x.example", 2, "10.0.0.1") == "b"
    assert find(router, "x.example", 2) == "c"


def test_explain_tells_why_each_lost() -> None:
    router = Router(
        [
            Route(name="off1", backend="b", enabled=False, priority=500),
            Route(name="off2", backend="b", enabled=False, priority=500),
            Route(name="names", domains=("a.example",), backend="b1"),
            Route(name="ports", domains=("x.example",), ports=(80,), backend="b2"),
            Route(name="clients", clients=("10.0.0.0/8",), backend="b3"),
            Route(name="networks", cidrs=("0.0.0.0/0",), backend="b4"),
            Route(name="won", domains=("*.example",), backend="b5"),
            Route(name="also", domains=("x.*",), backend="b6"),
            Route(name="off3", backend="b", enabled=False),
            Route(name="rest", backend="b7"),
        ]
    )
    assert router.explain("x.example", None, 443, ip(CLIENT)) == [
        ("off1", "b", "disabled", ""),
        ("off2", "b", "disabled", ""),
        ("names", "b1", "target", ""),
        ("ports", "b2", "port", "x.example"),
        ("clients", "b3", "client", ""),
        ("networks", "b4", "target", ""),
        ("won", "b5", "", "*.example"),
        ("also", "b6", "later", "x.*"),
        ("off3", "b", "disabled", ""),
        ("rest", "b7", "later", ""),
    ]


def test_explain_of_a_refusal() -> None:
    answer = only("a.example").explain("192.0.2.1", ip("192.0.2.1"), 1, ip(CLIENT))
    assert answer == [("r", "b", "target", "")]


@pytest.mark.parametrize(
    ("host", "pattern"),
    [
        ("a.example", "A.Example"),
        ("x.b.example", ".b.example"),
        ("b.example", ".b.example"),
        ("x.c.example", "*.c.example"),
        ("sf-1.d", "sf-*.d"),
        ("y.sf-1.d", "*.sf-*.d"),
        ("10.1.2.3", "10.0.0.0/8"),
        ("2001:db8::7", "2001:db8::7"),
    ],
)
def test_explain_tells_the_first_pattern_that_matches(host: str, pattern: str) -> None:
    route = Route(
        name="r",
        domains=("other.example", "A.Example", ".b.example", "*.c.example", "sf-*.d", "*.sf-*.d",
                 "*.example"),
        cidrs=("192.0.2.0/24", "10.0.0.0/8", "10.1.0.0/16", "2001:db8::7"),
        backend="b",
    )  # fmt: skip
    (candidate,) = Router([route]).explain(host, pack(host), 443, ip(CLIENT))
    assert candidate == ("r", "b", "", pattern)


@pytest.mark.parametrize("host", ["a.example", "192.0.2.1"])
def test_explain_tells_the_star(host: str) -> None:
    (candidate,) = only("b.example", "*").explain(host, pack(host), 443, ip(CLIENT))
    assert candidate == ("r", "b", "", "*")


@pytest.mark.parametrize(
    ("asked", "route"),
    [
        ("www.a.example", "names"),
        ("WWW.A.Example.", "names"),
        ("www.a.example.:8443", "names"),
        ("xn--bcher-kva.a.example", "idna"),
        ("XN--BCHER-KVA.A.EXAMPLE.", "idna"),
        ("10.1.2.3", "networks"),
        ("[::ffff:10.1.2.3]:443", "networks"),
        ("[2001:0DB8:0::1]", "networks"),
        ("[2001:db9::1]", None),
        ("a.example", None),
    ],
)
def test_targets_as_clients_write_them(asked: str, route: str | None) -> None:
    router = Router(
        [
            Route(name="idna", domains=("XN--bcher-kva.a.example",), backend="b"),
            Route(name="names", domains=("*.A.example",), backend="b"),
            Route(name="networks", cidrs=("10.0.0.0/8", "2001:DB8::/32"), backend="b"),
        ]
    )
    target = read_authority(asked.encode(), 443)
    match = router.find(target.host, target.packed, target.port, ip(CLIENT))
    assert (match.route if match else None) == route


def test_a_broken_network_is_refused() -> None:
    with pytest.raises(ValueError, match="bits set after its prefix"):
        Router([Route(name="r", cidrs=("10.0.0.1/8",), backend="b")])
    with pytest.raises(ValueError, match="is not an IP address"):
        Router([Route(name="r", clients=("lan",), backend="b")])


# An independent reading of the rules, by regular expressions and one pass.


def as_regex(pattern: str) -> str:
    if pattern == "*":
        return ".*"
    head = ""
    if pattern.startswith("*."):
        head, pattern = r"(?:[^.]+\.)+", pattern[2:]
    elif pattern.startswith("."):
        head, pattern = r"(?:[^.]+\.)*", pattern[1:]
    labels = [re.escape(label).replace(r"\*", "[^.]*") for label in pattern.split(".")]
    return head + r"\.".join(labels)


def plainly(routes: list[Route], host: str, port: int, client: str) -> str | None:
    packed = pack(host)
    for route in sorted(routes, key=lambda route: -route.priority):
        if packed is not None:
            address = ipaddress.ip_address(host)
            target = "*" in route.domains or any(
                address in ipaddress.ip_network(cidr) for cidr in route.cidrs
            )
        else:
            target = any(re.fullmatch(as_regex(pattern), host) for pattern in route.domains)
        if (
            route.enabled
            and (target or not (route.domains or route.cidrs))
            and (not route.ports or port in route.ports)
            and (
                not route.clients
                or any(
                    ipaddress.ip_address(client) in ipaddress.ip_network(network)
                    for network in route.clients
                )
            )
        ):
            return route.name
    return None


label = st.sampled_from(["a", "b", "ab", "aba", "ba"])
star = st.sampled_from(["*", "a*", "*b", "a*b", "a*b*a", "*a*"])
hosts = st.one_of(
    st.lists(label, min_size=1, max_size=4).map(".".join),
    st.sampled_from(["10.0.0.1", "10.1.0.1", "192.0.2.1", "fd00::1"]),
)
patterns = st.one_of(
    st.just("*"),
    st.builds(
        lambda head, labels: head + ".".join(labels),
        st.sampled_from(["", "*.", "."]),
        st.lists(st.one_of(label, label, star), min_size=1, max_size=3),
    ).filter(lambda pattern: pattern != "*"),
)
routes = st.builds(
    Route,
    domains=st.lists(patterns, max_size=4).map(tuple),
    cidrs=st.lists(
        st.sampled_from(["10.0.0.0/8", "10.0.0.0/16", "0.0.0.0/0", "fd00::/8"]), max_size=2
    ).map(tuple),
    ports=st.lists(st.sampled_from([80, 443]), max_size=2).map(tuple),
    clients=st.lists(
        st.sampled_from(["192.168.1.0/24", "192.168.1.20", "fd00::/8"]), max_size=2
    ).map(tuple),
    backend=st.just("b"),
    priority=st.sampled_from([1, 2, 3]),
    enabled=st.sampled_from([True, True, True, False]),
)


@given(
    st.lists(routes, min_size=1, max_size=6),
    hosts,
    st.sampled_from([80, 443, 22]),
    st.sampled_from(["192.168.1.20", "192.168.1.9", "fd00::9", "203.0.113.1"]),
)
def test_agrees_with_a_plain_reading(
    drawn: list[Route], host: str, port: int, client: str
) -> None:
    named = [
        Route(**{f: getattr(r, f) for f in r.__struct_fields__ if f != "name"}, name=f"r{i}")
        for i, r in enumerate(drawn)
    ]
    router = Router(named)
    expected = plainly(named, host, port, client)
    assert find(router, host, port, client) == expected
    candidates = router.explain(host, pack(host), port, ip(client))
    assert len(candidates) == len(named)
    assert [c.route for c in candidates if not c.lost] == ([expected] if expected else [])


def lines_run(call: Callable[[], object]) -> int:
    """How many lines of route.py and acl.py one call runs: its cost, without a clock."""
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


def many(kind: str, number: int) -> list[Route]:
    texts = {
        "exact": "h{}.example",
        "below": "*.h{}.example",
        "both": ".h{}.example",
        "star in front": "*-h{}.example",
        "star behind": "h{}-*.example",
        "star inside": "a*{}.example",
        "last star": "h{}.*",
    }
    if kind == "client":
        return [
            Route(name=f"r{i}", backend="b", clients=(f"10.{i >> 8}.{i & 255}.1",))
            for i in range(number)
        ]
    if kind == "port":
        return [Route(name=f"r{i}", backend="b", ports=(i + 1,)) for i in range(number)]
    if kind == "cidr":
        return [
            Route(name=f"r{i}", backend="b", cidrs=(f"10.{i >> 8}.{i & 255}.0/24",))
            for i in range(number)
        ]
    return [
        Route(name=f"r{i}", backend="b", domains=(texts[kind].format(10000 + i),))
        for i in range(number)
    ]


@pytest.mark.parametrize(
    ("kind", "host", "port", "client"),
    [
        ("exact", "h10007.example", 443, CLIENT),
        ("exact", "y.x.none.example", 443, CLIENT),
        ("below", "x.h10007.example", 443, CLIENT),
        ("both", "x.h10007.example", 443, CLIENT),
        ("star in front", "x-h10007.example", 443, CLIENT),
        ("star behind", "h10007-x.example", 443, CLIENT),
        ("star inside", "ax10007.example", 443, CLIENT),
        ("last star", "h10007.example", 443, CLIENT),
        ("client", "x.example", 443, "10.0.7.1"),
        ("port", "x.example", 8, CLIENT),
        ("cidr", "10.0.7.1", 443, CLIENT),
    ],
)
def test_ten_thousand_patterns_cost_no_more_than_ten(
    kind: str, host: str, port: int, client: str
) -> None:
    expected = None if "none" in host else "r7"
    costs = []
    for number in (10, 10000):
        router = Router(many(kind, number))
        assert find(router, host, port, client) == expected
        packed, source = pack(host), ip(client)
        costs.append(lines_run(lambda: router.find(host, packed, port, source)))  # noqa: B023
    assert costs[0] == costs[1] > 0


def test_one_route_with_ten_thousand_patterns() -> None:
    domains = tuple(f".h{i}.example" for i in range(10000))
    few, lots = only(*domains[:10]), only(*domains)
    assert find(lots, "x.h9999.example") == "r"
    cost = [lines_run(lambda: find(router, "x.h7.example")) for router in (few, lots)]  # noqa: B023
    assert cost[0] == cost[1]


def test_the_implicit_route_costs_nothing() -> None:
    router = Router([])
    source = ip(CLIENT)
    assert lines_run(lambda: router.find("a.b.c.d.e", None, 443, source)) <= 2


def test_a_name_of_many_labels_is_bounded() -> None:
    router = only(*(".".join(["*"] * n) for n in range(1, 128)), "*.x")
    assert find(router, ".".join(["a"] * 127)) == "r"
    assert find(only("a.b"), ".".join(["a"] * 127)) is None

