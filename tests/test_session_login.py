"""Logging in, as a session sees it: who is asked, what is answered, what a reload changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bifrost_lite.config.schema import User
from bifrost_lite.dispatch import Dispatcher, EpollDispatcher, PollDispatcher
from bifrost_lite.errors import Reason
from bifrost_lite.plane import Policy
from bifrost_lite.route import Router
from bifrost_lite.session import Session
from bifrost_lite.users import Users
from tests.passwd_kit import hash_of
from tests.plane_kit import (
    GRANTED,
    GRANTED5,
    REJECTED4,
    Peer,
    Proxy,
    connect4,
    connect5,
    get,
    refusal,
    refused5,
    until,
)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
FIELD = "Proxy-Authorization: Basic YW5uYTpnZWhlaW0="  # anna:geheim
WRONG = "Proxy-Authorization: Basic YW5uYTpmYWxzY2g="  # anna:falsch
LOGIN5, WRONG5 = b"\1\4anna\6geheim", b"\1\4anna\6falsch"
RIGHT5, REFUSED5 = b"\1\0", b"\1\1"


def users(proxy: Proxy) -> Users:
    """Anna, whose password is geheim."""
    return Users(proxy.dispatcher, [User(name="anna", password_hash=str(hash_of(b"geheim")))])


@pytest.fixture(params=[EpollDispatcher, PollDispatcher])
def selector(request: pytest.FixtureRequest) -> type[Dispatcher]:
    found: type[Dispatcher] = request.param
    return found


@pytest.fixture
def proxy(selector: type[Dispatcher]) -> Iterator[Proxy]:
    """A proxy that asks anna for her password."""
    proxy = Proxy(selector)
    proxy.plane.policy.users = users(proxy)
    with proxy:
        yield proxy


def reload(proxy: Proxy, users: Users | None) -> None:
    """Put other rules in force."""

    def swap() -> None:
        old = proxy.plane.policy
        proxy.plane.policy = Policy(Router(()), old.backends, (), (), 1000, 1000, False, users)

    proxy.call(swap)


def only(proxy: Proxy) -> Session:
    (session,) = list(proxy.plane.sessions)
    assert isinstance(session, Session)
    return session


def kept(proxy: Proxy, *fields: str) -> tuple[Peer, Peer, str]:
    """A client whose first request is answered, its target, and the URL."""
    origin = proxy.origin()
    url = f"http://{origin.authority}/"
    client = proxy.connect().send(get(url, *fields))
    target = origin.accept()
    target.head()
    target.send(OK)
    client.head()
    proxy.settle()
    return client, target, url


def test_socks5(proxy: Proxy) -> None:
    origin = proxy.origin()
    client = proxy.connect().send(b"\5\2\0\2").expect(b"\5\2").send(LOGIN5).expect(RIGHT5)
    assert proxy.call(lambda: only(proxy).user) == "anna"
    client.send(connect5(origin.host, origin.port)).expect(GRANTED5)


def test_socks5_all_at_once(proxy: Proxy) -> None:
    origin = proxy.origin()
    client = proxy.connect()
    client.send(b"\5\1\2" + LOGIN5 + connect5(origin.host, origin.port) + b"early").finish()
    target = origin.accept()
    assert target.rest() == b"early"
    target.finish()
    client.expect(b"\5\2" + RIGHT5 + GRANTED5).ended()


@pytest.mark.parametrize(
    ("said", "answer", "word"),
    [
        (b"\5\1\0", b"\5\xff", "auth_required"),
        (b"\5\1\2" + WRONG5, b"\5\2" + REFUSED5, "auth_failed"),
        (connect4("192.0.2.1", 80), REJECTED4, "auth_required"),
    ],
)
def test_socks_refused(proxy: Proxy, said: bytes, answer: bytes, word: str) -> None:
    client = proxy.connect().send(said)
    client.expect(answer).ended()
    assert proxy.fail_event().reason == word
    client.close()


@pytest.mark.parametrize(
    ("fields", "status", "word"),
    [
        ((), 407, "auth_required"),
        ((WRONG,), 407, "auth_failed"),
        ((FIELD, FIELD), 407, "auth_failed"),
    ],
)
def test_http_refused(proxy: Proxy, fields: tuple[str, ...], status: int, word: str) -> None:
    for method in ("GET", "CONNECT"):
        url = "http://a.test/" if method == "GET" else "a.test:443"
        client = proxy.connect().send(get(url, *fields, method=method))
        assert refusal(client) == (status, word)
        client.close()
    proxy.gone()
    assert not proxy.names.asked
    assert {record.backend for record in proxy.finished} == {""}


def test_http_logs_in_once_for_a_connection(proxy: Proxy) -> None:
    client, target, url = kept(proxy, FIELD)
    client.send(get(url, FIELD))
    target.head()
    target.send(OK)
    client.head()
    client.send(get(url, WRONG))
    assert refusal(client) == (407, "auth_failed")
    target.gone()
    assert proxy.fail_event().host == ""  # and not that of the connection that was kept


def test_connect_after_get(proxy: Proxy) -> None:
    client, target, _ = kept(proxy, FIELD)
    origin = proxy.origin()
    client.send(get(origin.authority, FIELD, method="CONNECT"))
    origin.accept()
    client.expect(GRANTED)
    target.gone()


def test_a_client_without_room_is_not_asked(selector: type[Dispatcher]) -> None:
    proxy = Proxy(selector, max_per_client=1)
    proxy.plane.policy.users = users(proxy)
    with proxy:
        proxy.connect()
        client = proxy.connect().send(get("http://a.test/", FIELD))
        assert refusal(client) == (503, "too_many_connections_per_client")
        client = proxy.connect().send(b"\5\1\2" + LOGIN5)
        client.expect(b"\5\2" + REFUSED5).ended()


# While the password is looked at.


@contextmanager
def slowly(selector: type[Dispatcher], said: bytes) -> Iterator[tuple[Proxy, Peer]]:
    """A client whose login takes its time: its hash gets no turn."""
    proxy = Proxy(selector)
    found = proxy.plane.policy.users = users(proxy)
    found._going = True
    with proxy:
        client = proxy.connect().send(said)
        until(lambda: proxy.call(lambda: only(proxy).check is not None), "a check")
        yield proxy, client
        proxy.call(found._jobs.clear)  # nobody waits for the hash any more


ASKS = {"http": get("http://a.test/", FIELD), "socks": b"\5\1\2" + LOGIN5}


@pytest.mark.parametrize("protocol", ASKS)
def test_the_deadline_of_the_request_holds(selector: type[Dispatcher], protocol: str) -> None:
    with slowly(selector, ASKS[protocol]) as (proxy, client):
        proxy.call(lambda: setattr(proxy.plane.handshake, "seconds", 0.0))
        if protocol == "http":
            assert refusal(client) == (408, "handshake_timeout")
        else:
            client.expect(b"\5\2" + REFUSED5).ended()
        # The client may have read it all, and the session be gone.
        assert not any(proxy.call(lambda: [session.check for session in proxy.plane.sessions]))
        client.close()
        proxy.gone()


@pytest.mark.parametrize("protocol", ASKS)
def test_closed_from_outside(selector: type[Dispatcher], protocol: str) -> None:
    with slowly(selector, ASKS[protocol]) as (proxy, _):
        assert not proxy.call(lambda: only(proxy).busy)
        proxy.call(proxy.plane.close_idle)
        proxy.gone()


def test_a_reload_in_mid_login_is_for_the_next_request(selector: type[Dispatcher]) -> None:
    with slowly(selector, ASKS["http"]) as (proxy, client):
        proxy.names.known["a.test"] = Reason.DNS_NOT_FOUND
        reload(proxy, None)

        def answer() -> None:
            session = only(proxy)
            assert session.check is not None
            session.check.cancel()
            session.on_checked(None)

        proxy.call(answer)
        assert refusal(client) == (502, "dns_not_found")


# Over reloads.


def test_users_who_come_are_asked_for_with_the_next_request(proxy: Proxy) -> None:
    asked = proxy.plane.policy.users
    reload(proxy, None)
    client, target, url = kept(proxy)
    reload(proxy, asked)
    client.send(get(url))
    assert refusal(client) == (407, "auth_required")
    target.gone()
    assert proxy.fail_event().host == ""


def test_other_users_are_to_prove_themselves_again(proxy: Proxy) -> None:
    client, _, url = kept(proxy, FIELD)
    other = User(name="anna", password_hash=str(hash_of(b"other", 1000)))
    reload(proxy, Users(proxy.dispatcher, [other]))
    client.send(get(url, FIELD))
    assert refusal(client) == (407, "auth_failed")


@pytest.mark.parametrize("gone", [False, True])
def test_users_who_go_between_greeting_and_login(proxy: Proxy, gone: bool) -> None:
    """A client that was told to log in may do so, whoever is asked for then."""
    origin = proxy.origin()
    client = proxy.connect().send(b"\5\1\2").expect(b"\5\2")
    reload(proxy, None if gone else proxy.plane.policy.users)
    client.send(WRONG5 if gone else LOGIN5).expect(RIGHT5)
    client.send(connect5(origin.host, origin.port)).expect(GRANTED5)


def test_a_listener_without_logins(proxy: Proxy) -> None:
    proxy.listeners[0].auth = False
    client = proxy.connect().send(connect4("127.0.0.1", 1))
    client.expect(REJECTED4).ended()
    assert proxy.fail_event().reason == "connect_refused"
    client = proxy.connect().send(b"\5\1\0").expect(b"\5\0")
    client.send(connect5("127.0.0.1", 1)).expect(refused5(5)).ended()
