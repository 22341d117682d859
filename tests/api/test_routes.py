"""The calls about routes: what there is, and what a request would meet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec import structs

from bifrost_lite.backends.base import Backend
from bifrost_lite.backends.block import Block
from bifrost_lite.backends.direct import Direct
from bifrost_lite.backends.group import Group
from bifrost_lite.condition import DOWN, SUSPECT, Condition
from bifrost_lite.config.schema import Access, Route, Settings
from bifrost_lite.counters import Counters
from bifrost_lite.dial import Dialler
from bifrost_lite.dispatch import make_dispatcher
from bifrost_lite.errors import Reason
from bifrost_lite.lists import parse
from bifrost_lite.plane import Policy
from bifrost_lite.route import Router
from bifrost_lite.way import Way
from tests.control_fixtures import Answer, Daemon, running

ROUTES = (
    Route(name="ads", list="ads.txt", backend="block", priority=300),
    Route(name="work", domains=(".corp.example", "*.x"), cidrs=("10.0.0.0/8",), backend="best"),
    Route(name="ssh", ports=(22,), clients=("192.168.1.0/24",), backend="direct", priority=200),
    Route(name="off", list="off.txt", backend="direct", enabled=False),
)


def guard(packed: bytes, port: int) -> Reason | None:
    return None


class Names:
    """A resolver that nobody asks."""

    def lookup(self, *_: object) -> None:
        raise AssertionError


class Rules:
    """The real rules over backends that a test can bring down."""

    def __init__(self, routes: tuple[Route, ...], access: Access) -> None:
        self.dispatcher = make_dispatcher()
        self.conditions: dict[str, Condition] = {}
        dialler = Dialler(self.dispatcher, Names(), guard)
        spare = Direct(self.way("spare", "direct"), dialler, dialler)
        direct = Direct(self.way("direct", "direct"), dialler, dialler)
        members = (spare, direct)
        backends: dict[str, Backend] = {
            "direct": direct,
            "block": Block(self.way("block", "block")),
            "best": Group("best", "failover", members, (), self.condition("best")),
        }
        found, _ = parse([b".ads.example\n", b"198.51.100.0/24\n"])
        self.policy = Policy(
            Router(routes, {"ads": found}), backends, access.allow, access.deny, 9, 9, False
        )

    def condition(self, name: str) -> Condition:
        self.conditions[name] = Condition(lambda _: None)
        return self.conditions[name]

    def way(self, name: str, kind: str) -> Way:
        return Way(name, kind, self.dispatcher, Counters(), self.condition(name))


@pytest.fixture
def routes() -> tuple[Route, ...]:
    return ROUTES


@pytest.fixture
def rules(routes: tuple[Route, ...]) -> Iterator[Rules]:
    made = Rules(routes, Access(deny=("192.168.1.66",)))
    yield made
    made.dispatcher.close()


@pytest.fixture
def daemon(rules: Rules, routes: tuple[Route, ...]) -> Iterator[Daemon]:
    with running() as daemon:
        daemon.plane.policy = rules.policy
        daemon.house.settings = structs.replace(Settings(), routes=routes)
        daemon.house.forbidden = frozenset((b"\x7f\0\0\x01",))
        yield daemon


def ask(daemon: Daemon, body: str | bytes) -> Answer:
    raw = body.encode() if isinstance(body, str) else body
    return daemon.get(
        "/api/v1/routes/test", "Content-Type: application/json", method="POST", body=raw
    )


def told(daemon: Daemon, host: str, **more: Any) -> dict[str, Any]:
    answer = ask(daemon, json.dumps({"host": host, **more}))
    assert answer.status == 200, answer.body
    return answer.json


def test_routes_in_the_order_they_are_asked(daemon: Daemon) -> None:
    found = daemon.get("/api/v1/routes").json
    assert [route["name"] for route in found] == ["ads", "ssh", "work", "off"]
    assert found[0] == {
        "name": "ads", "backend": "block", "priority": 300, "enabled": True, "domains": [],
        "cidrs": [], "ports": [], "clients": [], "list": "ads.txt", "list_entries": 2,
        "patterns": 2, "implicit": False,
    }  # fmt: skip
    assert found[1]["ports"] == [22]
    assert found[1]["clients"] == ["192.168.1.0/24"]
    assert (found[2]["patterns"], found[2]["domains"]) == (3, [".corp.example", "*.x"])
    assert (found[3]["enabled"], found[3]["list"], found[3]["list_entries"]) == (
        False, "off.txt", 0,
    )  # fmt: skip


@pytest.mark.parametrize("routes", [()])
def test_the_implicit_route(daemon: Daemon) -> None:
    (found,) = daemon.get("/api/v1/routes").json
    assert (found["name"], found["backend"], found["implicit"]) == ("default", "direct", True)
    answer = told(daemon, "a.example")
    assert (answer["route"], answer["backend"]["name"]) == ("default", "direct")


def test_who_takes_a_request_and_why_the_others_lost(daemon: Daemon, rules: Rules) -> None:
    rules.conditions["spare"].state = DOWN
    rules.conditions["direct"].state = SUSPECT
    rules.conditions["direct"].reason = "one of 3 failures"
    rules.conditions["best"].reason = "direct carries it"
    answer = told(daemon, "WWW.Corp.Example.:8443", client_ip="192.168.1.7")
    del answer["time"]
    assert answer == {
        "host": "www.corp.example",
        "port": 8443,
        "client_ip": "192.168.1.7",
        "allowed": True,
        "reason": "",
        "message": "",
        "route": "work",
        "backend": {"name": "best", "type": "group", "healthy": True, "state": "up",
                    "reason": "direct carries it"},
        "carriers": [{"name": "direct", "type": "direct", "healthy": True, "state": "suspect",
                      "reason": "one of 3 failures"}],
        "others": [{"name": "spare", "type": "direct", "healthy": False, "state": "down",
                    "reason": "not checked"}],
        "candidates": [
            {"route": "ads", "backend": "block", "matched": False, "lost": "target",
             "why": "None of its names matches.", "pattern": ""},
            {"route": "ssh", "backend": "direct", "matched": False, "lost": "port",
             "why": "It is for other ports.", "pattern": ""},
            {"route": "work", "backend": "best", "matched": True, "lost": "",
             "why": "It takes the request.", "pattern": ".corp.example"},
            {"route": "off", "backend": "direct", "matched": False, "lost": "disabled",
             "why": "It is disabled.", "pattern": ""},
        ],
    }  # fmt: skip


def test_members_in_the_order_they_would_be_tried(daemon: Daemon) -> None:
    answer = told(daemon, "a.x")
    assert [way["name"] for way in answer["carriers"]] == ["spare", "direct"]


def test_an_address_an_earlier_route_and_another_client(daemon: Daemon) -> None:
    answer = told(daemon, "10.1.2.3", port=22, client_ip="192.168.1.7")
    assert answer["route"] == "ssh"
    assert {one["route"]: one["why"] for one in answer["candidates"]} == {
        "ads": "None of its networks matches.",
        "ssh": "It takes the request.",
        "work": "A route before it took the request.",
        "off": "It is disabled.",
    }
    answer = told(daemon, "10.1.2.3", port=22, client_ip="::ffff:10.0.0.9")
    assert (answer["route"], answer["client_ip"]) == ("work", "10.0.0.9")
    assert answer["candidates"][1]["why"] == "It is for other clients."


@pytest.mark.parametrize(
    ("asked", "reason", "route"),
    [
        ({"host": "www.ads.example"}, "blocked", "ads"),
        ({"host": "198.51.100.7"}, "blocked", "ads"),
        ({"host": "www.example"}, "no_route", ""),
        ({"host": "a.x", "client_ip": "192.168.1.66"}, "acl_denied", "work"),
        ({"host": "a.x", "client_ip": "203.0.113.5"}, "acl_denied", "work"),
        ({"host": "127.0.0.1", "port": 22, "client_ip": "192.168.1.7"}, "target_denied", "ssh"),
    ],
)
def test_refusals(asked: dict[str, Any], reason: str, route: str, daemon: Daemon) -> None:
    answer = told(daemon, **asked)
    assert (answer["allowed"], answer["reason"], answer["route"]) == (False, reason, route)
    assert answer["message"].endswith(".")
    assert (answer["backend"] is None) == (not route)


def test_local_targets_where_they_are_allowed(daemon: Daemon) -> None:
    daemon.house.forbidden = frozenset()
    assert told(daemon, "127.0.0.1", port=22, client_ip="192.168.1.7")["allowed"]


@pytest.mark.parametrize(
    ("asked", "host", "port"),
    [
        ({"host": "A.Example"}, "a.example", 443),
        ({"host": "a.example:80"}, "a.example", 80),
        ({"host": "a.example", "port": 80}, "a.example", 80),
        ({"host": "2001:DB8::1"}, "2001:db8::1", 443),
        ({"host": "2001:db8::1", "port": 80}, "2001:db8::1", 80),
        ({"host": "[2001:db8::1]", "port": 80}, "2001:db8::1", 80),
        ({"host": "[2001:db8::1]:80"}, "2001:db8::1", 80),
        ({"host": "::ffff:10.0.0.1"}, "10.0.0.1", 443),
        ({"host": "10.0.0.1:80"}, "10.0.0.1", 80),
        ({"host": "xn--bcher-kva.example"}, "xn--bcher-kva.example", 443),
    ],
)
def test_what_a_host_may_be(asked: dict[str, Any], host: str, port: int, daemon: Daemon) -> None:
    answer = told(daemon, **asked)
    assert (answer["host"], answer["port"], answer["client_ip"]) == (host, port, "127.0.0.1")


@pytest.mark.parametrize(
    ("body", "word", "told"),
    [
        ('{"host":""}', "bad_host", "neither a name nor an IP address"),
        ('{"host":"b\u00fccher.example"}', "bad_host", "xn--"),
        ('{"host":"127.1"}', "bad_host", "looks like an IP address"),
        ('{"host":"a b"}', "bad_host", "neither"),
        ('{"host":"a\\u0000b"}', "bad_host", "neither"),
        ('{"host":"[::1"}', "bad_host", "brackets"),
        ('{"host":"a:0"}', "bad_host", "port"),
        ('{"host":"%s"}' % ("x" * 60000), "bad_host", "longer"),
        ('{"host":"a:1","port":1}', "bad_port", "port of its own"),
        ('{"host":"[::1]:1","port":1}', "bad_port", "port of its own"),
        ('{"host":"a","port":65536}', "bad_port", "65535"),
        ('{"host":"a","port":-1}', "bad_port", "65535"),
        ('{"host":"a","client_ip":"lan"}', "bad_client_ip", "IPv4 or IPv6"),
        ('{"host":"a","colour":1,"client":2}', "unknown_fields", "'client'"),
        ("{}", "bad_body", "host"),
        ('{"host":7}', "bad_body", "host"),
        ('{"host":"a","port":"80"}', "bad_body", "port"),
        ("[]", "bad_body", "object"),
        ("{", "bad_body", ""),
    ],
)
def test_what_is_no_question(body: str, word: str, told: str, daemon: Daemon) -> None:
    answer = ask(daemon, body)
    assert (answer.status, answer.json["error"]) == (400, word)
    assert told in answer.json["message"]


def test_methods(daemon: Daemon) -> None:
    assert daemon.get("/api/v1/routes/test").status == 405
    assert daemon.get("/api/v1/routes", method="PUT").status == 405
