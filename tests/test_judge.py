"""What new rules say to the connections that live."""

from __future__ import annotations

from typing import Any, cast

import pytest

from bifrost_lite.config.convert import convert
from bifrost_lite.dispatch import EpollDispatcher
from bifrost_lite.errors import Reason
from bifrost_lite.judge import DENY, KEEP, MOVE, Judge
from bifrost_lite.plane import Carried, Policy
from bifrost_lite.route import Router
from bifrost_lite.users import Users
from tests.passwd_kit import hash_of

GOOD, OTHER = str(hash_of(b"open sesame")), str(hash_of(b"open barley"))


class Listener:
    address, asked_port = "127.0.0.1", 7080
    auth = udp = True


class Standing:
    """A connection, as far as judges look at it."""

    def __init__(self, host: str = "example.com:443", **more: Any) -> None:
        self.host = host
        self.client = bytes((192, 0, 2, 1))
        self.backend = "direct"
        self.datagrams = False
        self.user = ""
        self.listener = Listener()
        self.policy = Policy(Router(()), {}, (), (), 1, 1, False)
        for name, value in more.items():
            setattr(self, name, value)


def local(packed: bytes, port: int) -> Reason | None:
    """A guard that keeps clients off this machine."""
    loopback = packed[0] == 127 or packed == bytes(15) + b"\1"
    return Reason.TARGET_DENIED if loopback else None


def verdict(connection: Standing, **sections: Any) -> str:
    settings = convert({"access": {"allow": ["192.0.2.0/24"]}} | sections)
    judge = Judge(settings, Router(settings.routes), local)
    return judge.verdict(cast(Carried, connection))


@pytest.mark.parametrize(
    ("access", "expected"),
    [
        ({"allow": ["192.0.2.0/24"]}, KEEP),
        ({"allow": ["198.51.100.0/24"]}, DENY),
        ({"allow": ["192.0.2.0/24"], "deny": ["192.0.2.1/32"]}, DENY),
        ({"allow": [], "allow_open": True}, KEEP),
        ({"allow": [], "deny": ["192.0.2.0/24"], "allow_open": True}, DENY),
    ],
)
def test_clients(access: dict[str, Any], expected: str) -> None:
    assert verdict(Standing(), access=access) == expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1:80", DENY),
        ("[::1]:80", DENY),
        ("192.0.2.9:80", KEEP),
        ("[2001:db8::1]:443", KEEP),
        ("localhost:80", KEEP),  # what it resolved to is not known any more
        ("no target", DENY),
    ],
)
def test_targets(host: str, expected: str) -> None:
    assert verdict(Standing(host)) == expected


ROUTED: dict[str, Any] = {
    "backends": [
        {"name": "a", "type": "interface", "device": "a0"},
        {"name": "b", "type": "interface", "device": "b0"},
        {"name": "no", "type": "block"},
        {"name": "inner", "type": "group", "members": ["a", "b"]},
        {"name": "outer", "type": "group", "members": ["inner", "direct"]},
        {"name": "never", "type": "group", "members": ["no"]},
        {"name": "partly", "type": "group", "members": ["a", "no"]},
    ],
}


def routed(backend: str, **keys: Any) -> dict[str, Any]:
    return {**ROUTED, "routes": [{"name": "all", "backend": backend, **keys}]}


@pytest.mark.parametrize(
    ("by", "now", "expected"),
    [
        ("a", "a", KEEP),
        ("a", "b", MOVE),
        ("a", "inner", KEEP),
        ("a", "outer", KEEP),
        ("direct", "outer", KEEP),
        ("direct", "inner", MOVE),
        ("gone", "a", MOVE),
        ("a", "no", DENY),
        ("a", "never", DENY),
        ("a", "partly", KEEP),
        ("direct", "partly", MOVE),
        ("no", "no", DENY),  # it was of another type when it carried this
        ("no", "partly", MOVE),
        ("inner", "inner", KEEP),  # still dialling: its route's backend is all that is known
    ],
)
def test_backends(by: str, now: str, expected: str) -> None:
    assert verdict(Standing(backend=by), **routed(now)) == expected


def test_no_route() -> None:
    assert verdict(Standing(), **routed("a", ports=[80])) == DENY


def test_groups_of_groups_cost_no_more_than_there_are() -> None:
    """Each of these has the one below twice: as a tree they are 2**60 leaves."""
    groups = [{"name": "g0", "type": "group", "members": ["direct"]}]
    groups += [{"name": "h0", "type": "group", "members": ["direct"]}]
    for number in range(1, 61):
        members = [f"g{number - 1}", f"h{number - 1}"]
        groups += [{"name": f"{x}{number}", "type": "group", "members": members} for x in "gh"]
    routes = [{"name": "all", "backend": "g60"}]
    assert verdict(Standing(), backends=groups, routes=routes) == KEEP


@pytest.mark.parametrize(
    ("then", "now", "user", "auth", "expected"),
    [
        ({}, {}, "", True, KEEP),
        ({}, {"me": GOOD}, "", True, DENY),
        ({}, {"me": GOOD}, "", False, KEEP),
        ({"me": GOOD}, {}, "me", True, KEEP),
        ({"me": GOOD}, {"me": GOOD}, "me", True, KEEP),
        ({"me": GOOD}, {"me": OTHER}, "me", True, DENY),
        ({"me": GOOD}, {"you": GOOD}, "me", True, DENY),
        ({"me": GOOD}, {"me": GOOD}, "", True, DENY),  # let in by a listener without logins
    ],
)
def test_users(
    then: dict[str, str], now: dict[str, str], user: str, auth: bool, expected: str
) -> None:
    def users(known: dict[str, str]) -> list[dict[str, str]]:
        return [{"name": name, "password_hash": value} for name, value in known.items()]

    dispatcher = EpollDispatcher()
    settings = convert({"users": users(then)})
    policy = Policy(
        Router(()), {}, (), (), 1, 1, False,
        Users(dispatcher, settings.users) if settings.users else None,
    )  # fmt: skip
    connection = Standing(user=user, policy=policy)
    connection.listener.auth = auth
    elsewhere = [{"port": 7081, "auth": not auth}]  # its own listener goes
    assert verdict(connection, users=users(now), listen=elsewhere) == expected
    connection.listener.auth = not auth
    assert verdict(connection, users=users(now), listen=[{"auth": auth}]) == expected
    dispatcher.close()


@pytest.mark.parametrize(
    ("backend", "expected"),
    [("direct", KEEP), ("tunnel", MOVE), ("office", DENY), ("both", KEEP), ("proxies", DENY)],
)
def test_upstream_proxies_get_no_datagrams(backend: str, expected: str) -> None:
    backends = [
        {"name": "tunnel", "type": "interface", "device": "tun0"},
        {"name": "office", "type": "socks5_proxy", "address": "192.0.2.9:1080"},
        {"name": "both", "type": "group", "members": ["office", "direct"]},
        {"name": "proxies", "type": "group", "members": ["office"]},
    ]
    routes = [{"name": "all", "backend": backend}]
    flow, listen = Standing(datagrams=True), [{"udp": True}]
    assert verdict(flow, backends=backends, routes=routes, listen=listen) == expected


@pytest.mark.parametrize(("udp", "expected"), [(True, KEEP), (False, DENY)])
def test_a_listener_that_takes_no_datagrams(udp: bool, expected: str) -> None:
    assert verdict(Standing(datagrams=True), listen=[{"udp": udp}]) == expected
    assert verdict(Standing(), listen=[{"udp": udp}]) == KEEP
