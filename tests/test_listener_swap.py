"""Other listeners for a running plane: no gap, or nothing at all."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from bifrost_lite.config.schema import Listen
from bifrost_lite.dispatch import Dispatcher
from bifrost_lite.errors import BindError
from bifrost_lite.listener import Listener, swap
from tests.plane_kit import DEADLINE, LOOPBACK, METHOD5, Peer, Proxy, both, get, refusal

Selector = type[Dispatcher]

NOWHERE = get("http://no.test/")


def wanted(name: str, address: str = LOOPBACK, port: int = 0, **more: Any) -> Listen:
    return Listen(name=name, address=address, port=port, **more)


def change(proxy: Proxy, *listeners: Listen) -> list[Listener]:
    """Put these in the place of the others; answers what there is now."""
    proxy.call(lambda: swap(proxy.plane, listeners))
    return list(proxy.plane.listeners)


def at(proxy: Proxy, port: int, host: str = LOOPBACK) -> Peer:
    """A client of that place."""
    peer = Peer(socket.create_connection((host, port), DEADLINE))
    proxy.keep(peer)
    return peer


def served(client: Peer) -> bool:
    """Whether this client gets an answer."""
    return refusal(client.send(NOWHERE)) == (502, "dns_not_found")


def reuses(listener: Listener) -> bool:
    return bool(listener.sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))


@pytest.fixture
def port() -> int:
    with socket.create_server((LOOPBACK, 0)) as probe:
        found: int = probe.getsockname()[1]
        return found


@both
def test_what_stays_keeps_its_socket_and_learns_the_rest(selector: Selector) -> None:
    with Proxy(selector, listen=[(LOOPBACK, "auto"), (LOOPBACK, "auto")]) as proxy:
        one, two = proxy.listeners
        changed = change(
            proxy,
            wanted("first", protocol="socks", auth=False, udp=True),
            wanted("second", protocol="http"),
        )
        assert changed == [one, two]
        assert (one.name, one.protocol, one.auth, one.udp) == ("first", "socks", False, True)
        assert (two.name, two.protocol, two.auth, two.udp) == ("second", "http", True, False)
        assert proxy.connect(0).send(b"\5\1\0").exactly(2) == METHOD5


@both
def test_the_order_is_that_of_the_configuration(selector: Selector, port: int) -> None:
    with Proxy(selector) as proxy:
        (old,) = proxy.listeners
        new, kept = change(proxy, wanted("new", port=port), wanted("old"))
        assert (new.name, new.port) == ("new", port)
        assert kept is old
        assert change(proxy, wanted("old"), wanted("new", port=port)) == [old, new]


@both
def test_who_waited_at_what_closes_is_served(selector: Selector, port: int) -> None:
    with Proxy(selector) as proxy:
        proxy.names.known["no.test"] = []
        clients: list[Peer] = []

        def act() -> None:  # nobody is accepted meanwhile
            place = proxy.listeners[0]
            clients.extend(at(proxy, place.port) for _ in range(40))
            swap(proxy.plane, [wanted("new", port=port)])
            assert not place.open

        proxy.call(act)
        assert len(clients) == 40
        assert all(served(client) for client in clients)
        with pytest.raises(ConnectionRefusedError):
            at(proxy, proxy.listeners[0].port)


@both
def test_an_address_is_widened_and_narrowed(selector: Selector, port: int) -> None:
    with Proxy(selector, listen=[]) as proxy:
        proxy.names.known["no.test"] = []
        (narrow,) = change(proxy, wanted("lan", port=port))
        (wide,) = change(proxy, wanted("lan", "0.0.0.0", port))
        assert not narrow.open
        assert not reuses(wide)
        assert served(at(proxy, port, "127.0.0.2"))
        both_again = change(proxy, wanted("a", LOOPBACK, port), wanted("b", "127.0.0.2", port))
        assert [reuses(listener) for listener in both_again] == [False, False]
        assert served(at(proxy, port, "127.0.0.2"))
        with pytest.raises(ConnectionRefusedError):
            at(proxy, port, "127.0.0.3")
        change(proxy)


@both
def test_a_place_that_cannot_be_had_changes_nothing(selector: Selector, port: int) -> None:
    with Proxy(selector, listen=[]) as proxy:
        proxy.names.known["no.test"] = []
        (old,) = change(proxy, wanted("lan", port=port))
        taken = proxy.origin()
        before = len(proxy.dispatcher.deadlines)
        with pytest.raises(BindError, match="^taken: cannot listen on"):
            change(proxy, wanted("lan", "0.0.0.0", port), wanted("taken", port=taken.port))
        assert proxy.plane.listeners == [old]
        assert (old.open, old.name, reuses(old)) == (True, "lan", False)
        assert len(proxy.dispatcher.deadlines) == before
        assert served(at(proxy, port))
        change(proxy)


@both
def test_who_comes_in_the_moment_before_the_close_is_not_sent_away(selector: Selector) -> None:
    """Not answered at all, the client tries again and finds the one that came in its place."""
    with Proxy(selector) as proxy, socket.socket() as late:
        proxy.names.known["no.test"] = []
        (listener,) = proxy.listeners
        early = at(proxy, listener.port)
        late.setblocking(False)
        with pytest.raises(BlockingIOError):

            def drain() -> None:
                listener.drain()
                late.connect((LOOPBACK, listener.port))

            proxy.call(drain)
        state = late.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        assert state == 2  # SYN_SENT: neither taken nor refused
        assert served(early)
