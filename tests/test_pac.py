"""What browsers are told, by engines of others, against what the router says."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bifrost_lite.acl import Networks, pack, parse_network
from bifrost_lite.config import schema, values
from bifrost_lite.config.schema import Route
from bifrost_lite.errors import ProtocolError
from bifrost_lite.lists import parse
from bifrost_lite.pac import LIMIT, Script
from bifrost_lite.route import Router
from bifrost_lite.target import Target, from_host
from tests.e2e.pac_engine import Engine

BACKENDS = (
    schema.Direct(),
    schema.Direct(name="from-here", source="192.0.2.1"),
    schema.Direct(name="four", family="4"),
    schema.Interface(name="tunnel", device="wg0"),
    schema.Socks5Proxy(name="office", address="192.0.2.9:1080"),
    schema.Group(name="best", members=("direct",)),
    schema.Block(),
)
CLIENT = "192.168.1.20"
PROXY = "PROXY 192.168.1.1:7080; SOCKS5 192.168.1.1:7180"
WAYS = (("PROXY", Target("192.168.1.1", 7080)), ("SOCKS5", Target("192.168.1.1", 7180)))
OFFICE = Route(name="office", domains=(".corp.example",), backend="office", priority=200)
REST = Route(name="rest", backend="direct")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine() as engine:
        yield engine


def ip(text: str) -> bytes:
    packed = pack(text)
    assert packed is not None
    return packed


def script(
    *routes: Route, client: str = CLIENT, entries: Mapping[str, Sequence[str]] | None = None
) -> str:
    made = Script(routes, BACKENDS, entries or {})
    return made.render(ip(client), WAYS, ("router.lan", "192.168.1.1"))


def verdicts(engine: Engine, pac: str, *hosts: str, url: str = "http://{}/") -> str:
    """A letter for each host: D is DIRECT, P the proxy."""
    asks = [(url.format("a.example"), host) for host in hosts]
    letters = {"DIRECT": "D", PROXY: "P"}
    return "".join(letters[answer] for answer in engine.ask(pac, asks))


# What leads where.


def test_only_what_dials_as_a_browser_would_is_direct(engine: Engine) -> None:
    expected = {"direct": "D", "from-here": "P", "four": "P", "tunnel": "P", "office": "P",
                "best": "P", "block": "P"}  # fmt: skip
    assert list(expected) == [backend.name for backend in BACKENDS]
    pac = script(*(Route(name=n, domains=(f"{n}.example",), backend=n) for n in expected), REST)
    hosts = [f"{name}.example" for name in expected]
    assert verdicts(engine, pac, *hosts) == "".join(expected.values())
    assert "; DIRECT" not in pac


def test_without_routes_everything_is_the_proxys(engine: Engine) -> None:
    assert verdicts(engine, script(), "a.example", "8.8.8.8", "2001:db8::1") == "PPP"


def test_what_no_route_takes_is_the_proxys_to_refuse(engine: Engine) -> None:
    direct = Route(name="a", domains=("a.example",), backend="direct")
    assert verdicts(engine, script(direct), "a.example", "b.example", "8.8.8.8") == "DPP"
    off = Route(name="off", backend="direct", enabled=False)
    assert verdicts(engine, script(off), "a.example") == "P"


def test_priority_goes_before_order(engine: Engine) -> None:
    late = Route(name="late", domains=("a.example",), backend="office", priority=101)
    assert verdicts(engine, script(REST, late), "a.example", "b.example") == "PD"
    tie = Route(name="tie", domains=("a.example",), backend="office")
    assert verdicts(engine, script(REST, tie), "a.example") == "D"
    assert verdicts(engine, script(tie, REST), "a.example") == "P"


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("a.example", "a.example A.EXAMPLE a.example.", "x.a.example aa.example b.example"),
        ("*.a.example", "x.a.example x.y.a.example X.A.example.", "a.example xa.example"),
        (".a.example", "a.example x.a.example x.y.a.example", "xa.example example.a"),
        ("a*.example", "a.example ab.example abc.example", "ba.example x.a.example a.b.example"),
        ("*a*b.example", "ab.example xaxxb.example", "ba.example abc.example aab.b.example"),
        ("*.a*.example", "x.a.example x.y.ab.example", "a.example x.ba.example"),
        (".a*.example", "a.example x.y.ab.example", "x.ba.example"),
        ("a.*.example", "a.b.example", "a.example a.b.c.example"),
        ("a.*", "a.example", "b.example a.b.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example XN--BCHER-KVA.example", "xn--b.example"),
        ("__proto__.example", "__proto__.example", "constructor.example"),
        (".constructor", "a.constructor", "a.tostring a.__proto__"),
        ("*", "a.example 8.8.8.8 [2001:db8::1] 2001:DB8::1", ""),
    ],
)
def test_patterns(engine: Engine, pattern: str, yes: str, no: str) -> None:
    pac = script(Route(name="a", domains=(pattern,), backend="office", priority=200), REST)
    assert set(verdicts(engine, pac, *yes.split())) == {"P"}
    assert set(verdicts(engine, pac, *no.split())) <= {"D"}


def test_networks_are_for_literals_alone(engine: Engine) -> None:
    cidrs = ("203.0.113.0/24", "2001:db8::/33", "198.51.100.7", "::ffff:192.0.2.0/120")
    pac = script(Route(name="a", cidrs=cidrs, backend="office", priority=200), REST)
    yes = ("203.0.113.255", "2001:db8::1", "[2001:db8:7fff::1]", "198.51.100.7", "192.0.2.3",
           "::ffff:203.0.113.1", "[::ffff:cb00:7101]", "2001:0DB8:0:0:0:0:0:1")  # fmt: skip
    assert verdicts(engine, pac, *yes) == "P" * len(yes)
    no = ("203.0.114.0", "2001:db8:8000::1", "198.51.100.8", "a.example", "203.0.113.1.example")
    assert verdicts(engine, pac, *no) == "D" * len(no)
    for word in ("isInNet", "dnsResolve", "myIpAddress", "isResolvable"):
        assert word not in pac


URLS = {
    "http://a.example/": 80,
    "HTTP://a.example": 80,
    "https://a.example/": 443,
    "ws://a.example/": 80,
    "wss://a.example/": 443,
    "ftp://a.example/": 21,
    "https://a.example:8443/": 8443,
    "http://a.example:8443/x:1/?y=:2#:3": 8443,
    "http://u:80@a.example:8443/": 8443,
    "http://[2001:db8::1]:8443/": 8443,
    "http://[2001:db8::8443]/": 80,
    "http://a.example?x:8443": 80,
    "http://a.example#x:8443": 80,
}


@pytest.mark.parametrize("port", [21, 80, 443, 8443])
def test_ports_come_from_the_address(engine: Engine, port: int) -> None:
    pac = script(Route(name="a", ports=(port,), backend="office", priority=200), REST)
    answers = engine.ask(pac, [(url, "a.example") for url in URLS])
    assert [a == PROXY for a in answers] == [port == wanted for wanted in URLS.values()]


def test_a_port_that_is_not_known_is_the_proxys_to_judge(engine: Engine) -> None:
    assert verdicts(engine, script(REST), "a.example", "10.0.0.1", url="gopher://{}/") == "PD"


def test_routes_for_other_clients_are_left_out(engine: Engine) -> None:
    routes = (
        Route(name="tv", clients=("192.168.1.9", "fd00::/64"), backend="tunnel", priority=200),
        Route(name="a", domains=("secret.example",), clients=("192.168.2.0/24",), backend="office",
              priority=150),
        REST,
    )  # fmt: skip
    for client in ("192.168.1.9", "fd00::5", "::ffff:192.168.1.9"):
        assert verdicts(engine, script(*routes, client=client), "a.example") == "P"
    other = script(*routes)
    assert verdicts(engine, other, "a.example", "secret.example") == "DD"
    assert "secret.example" not in other
    assert not re.search(r"\b(tv|rest|tunnel|office|best)\b", other)


# What never is the proxy's.

LOCAL = (
    "nas", "nas.", "localhost", "LOCALHOST", "a.localhost", "router.lan", "ROUTER.lan.",
    "192.168.1.1", "10.1.2.3", "172.31.0.1", "192.168.255.255", "127.0.0.1", "127.9.9.9",
    "169.254.1.1", "0.0.0.0", "::1", "[::1]", "::", "fd00::1", "[fe80::1]", "fe80::1%eth0",
    "[fe80::1%25eth0]", "::ffff:10.0.0.1", "[::ffff:a00:1]", "0:0:0:0:0:0:0:1",
)  # fmt: skip


def test_local_things_are_direct(engine: Engine) -> None:
    everything = Route(name="all", domains=("*",), backend="tunnel")
    for routes in ((), (everything,), (REST,)):
        assert verdicts(engine, script(*routes), *LOCAL) == "D" * len(LOCAL)


NOT_LOCAL = (
    "172.32.0.1", "11.0.0.1", "192.169.0.1", "100.64.0.1", "fec0::1", "2001:db8::1", "nas.lan",
    "localhost.example", "10.0.0.1.example", "router.lan.example", "0x7f.example",
)  # fmt: skip
NO_HOSTS = (
    "a..example", "1.2.3", "10.0.0.256", "10.0.0.01", "0x7f.1", "10.0.0.1%x.example",
    "b\u00fccher.example", ".", "..", "a.example..", ":::", "1::2::3", "fd00::1::", "[fd00::1",
    "fd00::g", "10.0.0.1::", "1:2:3:4:5:6:7:8:9", "fd00:0:0:0:0:0:0", "a b.example",
    f"{'x' * 64}.example", ".".join(["x" * 60] * 5), "134744072", "0x8080808", "010", "nas%20x",
    "b\u00fccher", "user@nas", "x" * 64,
)  # fmt: skip


def test_what_looks_local_and_what_is_no_host(engine: Engine) -> None:
    everything = Route(name="all", domains=("*",), backend="tunnel")
    for hosts in (NOT_LOCAL, NO_HOSTS):
        assert verdicts(engine, script(everything), *hosts) == "P" * len(hosts)
    # It may be anything but what a route to `direct` means.
    assert verdicts(engine, script(REST), *NO_HOSTS) == "P" * len(NO_HOSTS)
    assert verdicts(engine, script(REST), *NOT_LOCAL) == "D" * len(NOT_LOCAL)


def test_a_private_network_that_leads_elsewhere(engine: Engine) -> None:
    far = Route(name="a", cidrs=("10.20.0.0/16", "fd77::/48"), backend="tunnel", ports=(80,))
    hosts = ("10.20.0.1", "[fd77::1]", "10.21.0.1", "fd78::1", "a.example")
    assert verdicts(engine, script(far), *hosts) == "PPDDP"
    assert verdicts(engine, script(far), *hosts, url="https://{}/") == "DDDDP"
    blocked = Route(name="b", cidrs=("10.0.0.0/8", "8.8.8.0/24"), backend="block", priority=200)
    assert verdicts(engine, script(far, blocked), "10.20.0.1", "8.8.8.8") == "DP"
    # Those that hold more than private addresses are not meant for them.
    for cidr in ("0.0.0.0/0", "::/0", "10.0.0.0/7"):
        wide = Route(name="wide", cidrs=(cidr,), backend="tunnel")
        assert verdicts(engine, script(wide), "10.20.0.1", "fd77::1") == "DD"


# Lists.


def test_lists(engine: Engine) -> None:
    listed = Route(name="tv", list="tv.txt", backend="tunnel", ports=(80,), priority=200)
    known = {"tv": ("tv.example", "*.b.example", ".c.example", "x*y.example", "203.0.113.0/24",
                    "2001:db8::1", "10.9.0.0/16")}  # fmt: skip
    hosts = ("tv.example", "x.b.example", "b.example", "c.example", "xzy.example", "203.0.113.5",
             "2001:db8::1", "2001:db8::2", "10.9.0.1", "10.8.0.1", "a.example")  # fmt: skip
    assert verdicts(engine, script(listed, REST, entries=known), *hosts) == "PPDPPPPDPDD"
    # One that is not known may have anything in it, but nothing on other ports.
    unknown = script(listed, REST)
    assert verdicts(engine, unknown, "a.example", "8.8.8.8", "10.9.0.1", "nas") == "PPDD"
    assert verdicts(engine, unknown, "a.example", url="https://{}/") == "D"
    assert "// A list" in unknown
    assert verdicts(engine, script(listed, REST, entries={"tv": ()}), "a.example") == "D"
    assert verdicts(engine, script(listed, REST, entries={"tv": ("*",)}), "a.example") == "P"
    # Whatever the list of a direct route holds, what is before it stands, what is behind not.
    near = Route(name="near", list="near.txt", backend="direct", priority=150)
    first = Route(name="first", domains=("a.example",), backend="direct", priority=300)
    assert verdicts(engine, script(first, near, REST), "a.example", "b.example") == "DP"


# What must not happen.


HOSTILE = (
    '"', "'", "\\", '"];alert(1);//', "\n alert(1)", "\r\n", "\u2028alert(1)", "\u2029", "*/ alert(1)",
    "</script><script>alert(1)</script>", "${alert(1)}", "<!--", "-->", "\x01", "\x7f", "\u202e",
    "\ud800", "\U0001f600", "\xa0", "x" * 10_000,
)  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_nothing_breaks_out(engine: Engine, text: str) -> None:
    routes = (
        Route(name=text, domains=(f"a.{text}", text), list=text, backend="direct", priority=200),
        Route(name="b", domains=(text, "b.example"), backend="direct", priority=300),
    )
    ways = (("PROXY", Target(text, 1)),)
    pac = Script(routes, BACKENDS, {text: (f"x.{text}",)}).render(ip(CLIENT), ways, (text, "o.lan"))
    assert pac.isascii()
    asks = [("http://x/", host) for host in ("b.example", "c.example", "o.lan")]
    answers = engine.ask(pac, asks, lint=True)
    wanted = f"PROXY {text}:1".encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    got = answers[1].encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert (answers[0], got, answers[2]) == ("DIRECT", wanted, "DIRECT")


def test_too_much_is_cut_and_goes_to_the_proxy(engine: Engine) -> None:
    routes = [
        Route(name=f"r{i}", domains=tuple(f"h{j}.r{i}.example" for j in range(100)),
              backend="direct", priority=1000 - i)
        for i in range(300)
    ]  # fmt: skip
    pac = script(*routes, REST)
    assert LIMIT * 0.9 < len(pac) <= LIMIT
    assert "// There are more routes" in pac
    assert verdicts(engine, pac, "h0.r0.example", "h99.r9.example", "h0.r299.example", "x.y") == "DDPP"
    inside = [
        Route(name=f"r{i}", cidrs=tuple(f"10.{i}.{j}.0/24" for j in range(250)), backend="tunnel")
        for i in range(100)
    ]
    pac = script(*inside, *routes)
    assert len(pac) <= LIMIT
    assert verdicts(engine, pac, "10.0.0.1", "10.99.9.1", "h0.r9.example") == "PPP"
    # What leads elsewhere inside is there, however much there is for the outside.
    pac = script(*routes, inside[7])
    assert len(pac) <= LIMIT
    assert verdicts(engine, pac, "10.7.9.1", "10.8.9.1", "h0.r0.example", "x.y") == "PDDP"
    big = Route(name="big", domains=tuple(f"h{j}.example" for j in range(20_000)), backend="tunnel")
    pac = script(big, REST)
    assert len(pac) < 10_000
    assert verdicts(engine, pac, "h1.example", "other.example", "10.0.0.1") == "PPD"


def test_it_is_plain_ecmascript_3(engine: Engine) -> None:
    listed = Route(name="list", list="l.txt", ports=(80, 443), backend="block", priority=300)
    far = Route(name="far", cidrs=("10.20.0.0/16", "::/0"), backend="tunnel", priority=250)
    for entries in ({}, {"list": ("a*b.example", "*.c.example")}):
        pac = script(listed, far, OFFICE, REST, entries=entries)
        assert engine.ask(pac, [("https://a.example/", "a.example")], lint=True)


def test_stars_cost_no_time(engine: Engine) -> None:
    pattern = "a*" * 31 + "b.example"
    pac = script(Route(name="a", domains=(pattern,), backend="office", priority=200), REST)
    assert verdicts(engine, pac, "a" * 63 + ".example", "a" * 40 + "b.example") == "DP"


def test_what_changes_nothing_is_left_out() -> None:
    assert "corp.example" not in script(OFFICE)
    assert "corp.example" in script(OFFICE, REST)
    behind = Route(name="behind", domains=("never.example",), backend="direct", priority=1)
    assert "never.example" not in script(REST, behind)


# Against the router.


LABELS = ("a", "b", "ab", "aab", "x-1", "xn--p1ai", "__proto__", "example")
GLOBS = (*LABELS, "*", "a*", "*b", "a*b", "*a*b*", "x-*")
LITERALS = (
    "10.0.0.1", "10.20.0.1", "192.168.1.77", "172.32.0.1", "8.8.8.8", "203.0.113.9", "127.0.0.1",
    "0.0.0.0", "169.254.1.1", "::", "::1", "fe80::1", "fd00::5", "2001:db8::1", "2001:db8:8000::1",
    "::ffff:10.20.0.1", "::ffff:8.8.8.8", "64:ff9b::808:808", "::8.8.8.8", "ff02::1",
)  # fmt: skip
CIDRS = (
    "0.0.0.0/0", "::/0", "10.0.0.0/8", "10.20.0.0/16", "10.20.0.1", "8.0.0.0/7", "203.0.113.8/29",
    "2001:db8::/32", "2001:db8:8000::/33", "fd00::/8", "::ffff:8.8.8.0/120", "192.168.1.0/24",
)  # fmt: skip
NETWORKS = Networks(
    ("0.0.0.0/8", "10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16",
     "::/128", "::1/128", "fc00::/7", "fe80::/10")
)  # fmt: skip
OWN_NETWORKS = ("10.", "192.168.", "fd")


def few(items: Sequence[str], most: int = 2) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(items), max_size=most).map(tuple)


names = st.lists(st.sampled_from(LABELS), min_size=1, max_size=4).map(".".join)
patterns = st.builds(
    lambda start, labels: start + ".".join(labels),
    st.sampled_from(("", "", ".", "*.")),
    st.lists(st.sampled_from(GLOBS), min_size=1, max_size=3),
) | st.just("*")
routes_ = st.builds(
    Route,
    name=st.uuids().map(str),
    domains=st.lists(patterns, max_size=3).map(tuple),
    cidrs=few(CIDRS),
    ports=st.lists(st.sampled_from((80, 443, 8080)), max_size=2).map(tuple),
    clients=few(("192.168.1.0/24", "192.168.1.20", "192.168.2.0/24", "fd00::/8")),
    list=st.sampled_from(("", "", "", "known", "unknown")),
    backend=st.sampled_from([backend.name for backend in BACKENDS] + ["direct"] * 4),
    priority=st.integers(98, 101),
    enabled=st.sampled_from((True, True, True, False)),
)
hosts_ = names | st.sampled_from(LITERALS) | st.ip_addresses().map(str)
spellings = st.sampled_from(("{}", "{}.", "[{}]"))


def spelled(host: str, way: str) -> str:
    """A host as a browser may say it."""
    if ":" in host:
        return f"[{host.upper()}]" if way == "[{}]" else host
    return f"{host.upper()}." if way == "{}." and pack(host) is None else host


def expected(
    routes: Sequence[Route], known: Mapping[str, Sequence[str]], host: str, port: int, client: bytes
) -> str:
    """The letter that the router's own answer stands for."""
    try:
        target = from_host(host.encode(), port)
    except ProtocolError:
        return "P"
    packed = target.packed
    if packed is None and "." not in target.host:
        return "D"
    if packed is not None and NETWORKS.contains(packed):
        inside = []
        for route in routes:
            cidrs = [*route.cidrs, *(e for e in known.get(route.name, ()) if pack(e.split("/")[0]))]
            private = tuple(
                cidr for cidr in cidrs
                if cidr.startswith(OWN_NETWORKS) and parse_network(cidr)[1] >= 8
            )  # fmt: skip
            if private:
                inside.append(
                    Route(name=route.name, cidrs=private, ports=route.ports, clients=route.clients,
                          backend=route.backend, priority=route.priority, enabled=route.enabled)
                )  # fmt: skip
        match = Router(inside).find(target.host, packed, port, client) if inside else None
        return "D" if match is None or match.backend in ("direct", "block") else "P"
    seen = []
    for route in routes:
        if route.list and route.name not in known:  # may match all, and is asked for it
            route = Route(name=route.name, ports=route.ports, clients=route.clients,
                          backend="office", priority=route.priority, enabled=route.enabled)  # fmt: skip
        seen.append(route)
    lists = {name: parse(f"{e}\n".encode() for e in entries)[0] for name, entries in known.items()}
    match = Router(seen, lists).find(target.host, packed, port, client)
    return "D" if routes and match is not None and match.backend == "direct" else "P"


@settings(max_examples=50)  # the engines take their time
@given(
    routes=st.lists(routes_, max_size=6),
    listed=st.lists(patterns | st.sampled_from(CIDRS), max_size=4),
    asks=st.lists(
        st.tuples(hosts_, spellings, st.sampled_from((80, 443, 8080))), min_size=5, max_size=30
    ),
    client=st.sampled_from((CLIENT, "192.168.2.7", "fd00::9")),
)
def test_it_says_what_the_router_says(
    engine: Engine,
    routes: list[Route],
    listed: list[str],
    asks: list[tuple[str, str, int]],
    client: str,
) -> None:
    for pattern in (*(p for route in routes for p in route.domains), *listed):
        if pattern not in CIDRS:
            try:
                values.domain(pattern)
            except ValueError:
                assume(False)
    text = "".join(f"{entry}\n" for entry in listed)
    again, faults = parse(line.encode() for line in text.splitlines(keepends=True))
    assume(not faults)
    known = {route.name: listed for route in routes if route.list == "known" and route.enabled}
    pac = script(*routes, client=client, entries=known)
    questions = [(f"http://any.example:{port}/", spelled(host, way)) for host, way, port in asks]
    got = ["D" if answer == "DIRECT" else "P" for answer in engine.ask(pac, questions)]
    wanted = [expected(routes, known, host, port, ip(client)) for host, _, port in asks]
    assert got == wanted, [q for q, g, w in zip(questions, got, wanted, strict=True) if g != w]
