"""What is particular to an upstream that is a SOCKS5 proxy; the rest is in test_upstream."""

from __future__ import annotations

import pytest

from bifrost_lite.dispatch import Dispatcher
from bifrost_lite.errors import Reason
from bifrost_lite.wire.upstream import socks_login, socks_request
from tests.backends.upstream_kit import (
    GRANTED5,
    METHOD5,
    NAME,
    PASSWORD,
    USER,
    Caller,
    target,
)
from tests.plane_kit import both

Selector = type[Dispatcher]

LOGIN = {"username": USER, "password": PASSWORD}
REPLIES = {
    1: Reason.CONNECT_FAILED,
    2: Reason.UPSTREAM_DENIED,
    3: Reason.NET_UNREACHABLE,
    4: Reason.HOST_UNREACHABLE,
    5: Reason.CONNECT_REFUSED,
    6: Reason.CONNECT_TIMEOUT,
    7: Reason.CONNECT_FAILED,
    8: Reason.CONNECT_FAILED,
    200: Reason.CONNECT_FAILED,
}


@both
def test_the_way(selector: Selector) -> None:
    with Caller(selector, "socks5_proxy", **LOGIN) as caller:
        assert (caller.way.absolute, caller.way.authorization) == (False, b"")


@both
@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.parametrize("where", ["192.0.2.1:80", "[2001:db8::1]:443", "a.example:65535"])
def test_what_it_asks_for(selector: Selector, where: str, forward: bool) -> None:
    """A tunnel in any case: it knows nothing of HTTP."""
    with Caller(selector, "socks5_proxy") as caller:
        caller.connect(where, forward=forward)
        upstream = caller.upstream.accept()
        upstream.expect(b"\x05\x01\x00").send(METHOD5)
        upstream.expect(socks_request(target(where))).send(GRANTED5)
        caller.granted()


@both
def test_credentials_that_nobody_wants(selector: Selector) -> None:
    with Caller(selector, "socks5_proxy", **LOGIN) as caller:
        caller.connect()
        upstream = caller.upstream.accept()
        upstream.expect(b"\x05\x02\x00\x02").send(METHOD5)
        upstream.expect(socks_request(target(NAME))).send(GRANTED5)
        caller.granted()


@both
@pytest.mark.parametrize("code", REPLIES)
@pytest.mark.parametrize("rest", [b"", b"\0\1" + bytes(6)], ids=["short", "whole"])
def test_refusals(selector: Selector, code: int, rest: bytes) -> None:
    """They are the target's fault, and a sign that the upstream works."""
    with Caller(selector, "socks5_proxy") as caller:
        caller.connect()
        upstream = caller.upstream.accept()
        upstream.expect(b"\x05\x01\x00").send(METHOD5)
        upstream.expect(socks_request(target(NAME))).send(b"\x05" + bytes((code,)) + rest)
        assert caller.refused() is REPLIES[code]
        upstream.gone()
        assert (caller.condition.worked, caller.condition.failures) == (1, [])
        assert (caller.counters.failed, caller.counters.latency) == (1, 0.0)


@both
def test_nothing_new_for_a_condition_at_ease(selector: Selector) -> None:
    with Caller(selector, "socks5_proxy") as caller:
        caller.condition.uneasy = False
        caller.connect()
        upstream = caller.upstream.accept()
        upstream.expect(b"\x05\x01\x00").send(METHOD5)
        upstream.expect(socks_request(target(NAME))).send(b"\x05\x05\0\1" + bytes(6))
        assert caller.refused() is Reason.CONNECT_REFUSED
        assert caller.condition.worked == 0


@both
@pytest.mark.parametrize("login", [{}, LOGIN], ids=["anonymous", "login"])
def test_no_method(selector: Selector, login: dict[str, str]) -> None:
    with Caller(selector, "socks5_proxy", **login) as caller:
        caller.connect()
        caller.upstream.accept().send(b"\x05\xff")
        assert caller.refused() is Reason.UPSTREAM_AUTH
        assert caller.condition.failures == [(Reason.UPSTREAM_AUTH.text, NAME)]


@both
def test_wrong_credentials(selector: Selector) -> None:
    with Caller(selector, "socks5_proxy", **LOGIN) as caller:
        caller.connect()
        upstream = caller.upstream.accept()
        upstream.expect(b"\x05\x02\x00\x02").send(b"\x05\x02")
        upstream.expect(socks_login(USER, PASSWORD)).send(b"\x01\x01")
        assert caller.refused() is Reason.UPSTREAM_AUTH
        assert caller.condition.failures == [(Reason.UPSTREAM_AUTH.text, NAME)]
        assert caller.condition.worked == 0
