"""What all sessions share: admission, counters, events, and the rules in force."""

from __future__ import annotations

import logging
import random
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import pytest

from bifrost_lite import plane as plane_module
from bifrost_lite.dispatch import Dispatcher
from bifrost_lite.errors import Reason
from bifrost_lite.plane import BURST_GAP, REFUSALS, Policy
from bifrost_lite.route import Router
from tests.plane_kit import (
    DEADLINE,
    HELLO5,
    METHOD5,
    REJECTED4,
    Origin,
    Peer,
    Proxy,
    both,
    connect4,
    connect5,
    get,
    refusal,
    refused5,
    until,
)

Selector = type[Dispatcher]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def refusals(proxy: Proxy, status: int, code: int, word: str, source: str = "") -> None:
    """A client that is turned away hears so in its own protocol, once its request is whole."""

    def client() -> Peer:
        return proxy.connect(source=source)

    assert refusal(client().send(get("http://a.test/"))) == (status, word)
    assert refusal(client().send(b"CONNECT a.test:1 HTTP/1.1\r\nHost: a\r\n\r\n")) == (status, word)
    socks = client().send(HELLO5).expect(METHOD5).send(connect5("a.test", 80))
    assert socks.rest() == refused5(code)
    assert client().send(connect4("a.test", 80)).rest() == REJECTED4
    assert refusal(client().send(b"\x16")) == (status, word)
    assert refusal(client().send(b"GET nonsense\r\n\r\n")) == (status, word)
    assert client().send(b"\x05\x01\x02").rest() == b"\x05\xff"
    assert not proxy.names.asked
    assert {event.reason for event in proxy.failed} == {word}
    assert [event.protocol for event in proxy.failed[:4]] == ["HTTP", "CONNECT", "SOCKS5", "SOCKS4"]
    assert [event.host for event in proxy.failed[:4]] == ["a.test:80", "a.test:1"] + ["a.test:80"] * 2
    assert {(event.backend, event.route) for event in proxy.failed} == {("", "")}


@both
def test_too_many(selector: Selector) -> None:
    with Proxy(selector, max_connections=2) as proxy:
        tunnels = [proxy.tunnel(proxy.origin()) for _ in range(2)]
        refusals(proxy, 503, 1, "too_many_connections")
        assert proxy.plane.refused == 7
        assert [record.levelname for record in proxy.logged] == ["WARNING"]
        for client, target in tunnels:
            client.send(b"x")
            target.expect(b"x")
        tunnels[0][0].close()
        tunnels[0][1].close()
        until(lambda: proxy.plane.admitted == 1, "room")
        proxy.tunnel(proxy.origin())


@both
def test_too_many_of_one_client(selector: Selector) -> None:
    with Proxy(selector, max_per_client=1) as proxy:
        proxy.tunnel(proxy.origin())
        other = proxy.connect(source="127.0.0.2")
        until(lambda: proxy.plane.admitted == 2, "the other client")
        refusals(proxy, 503, 1, "too_many_connections_per_client")
        assert proxy.plane.clients == {b"\x7f\0\0\1": 1, b"\x7f\0\0\2": 1}
        other.close()


@both
def test_client_that_is_not_allowed(selector: Selector) -> None:
    with Proxy(selector, allow=("127.0.0.2/31",), deny=("127.0.0.3/32",)) as proxy:
        refusals(proxy, 403, 2, "acl_denied")
        refusals_of_another = len(proxy.failed)
        client = proxy.connect(source="127.0.0.3").send(get("http://a.test/"))
        assert refusal(client) == (403, "acl_denied")
        assert len(proxy.failed) == refusals_of_another + 1
        proxy.names.known["a.test"] = []
        client = proxy.connect(source="127.0.0.2").send(get("http://a.test/"))
        assert refusal(client) == (502, "dns_not_found")
        assert proxy.plane.refused == 0  # that counts overload
        assert not proxy.logged


@both
def test_few_are_refused_at_a_time(selector: Selector) -> None:
    """Each one that is told no holds a descriptor; those over the bound are just closed."""
    with Proxy(selector, allow=("127.0.0.2/32",)) as proxy:
        lane = [proxy.connect() for _ in range(REFUSALS)]
        until(lambda: proxy.plane.refusing == REFUSALS, "a full lane")
        for _ in range(3):
            proxy.connect().gone()
        assert proxy.plane.refusing == REFUSALS
        lane.pop().close()
        until(lambda: proxy.plane.refusing == REFUSALS - 1, "a place")
        assert refusal(proxy.connect().send(get("http://a.test/"))) == (403, "acl_denied")
        good = proxy.connect(source="127.0.0.2")
        until(lambda: proxy.plane.admitted == 1, "one that is let in")
        good.close()


@both
def test_refused_clients_have_deadlines_too(selector: Selector) -> None:
    with Proxy(selector, allow=("127.0.0.2/32",), handshake=0.05) as proxy:
        proxy.connect().ended()
        assert refusal(proxy.connect().send(b"GET")) == (403, "acl_denied")


def test_one_log_line_for_a_burst() -> None:
    with Proxy(max_connections=0) as proxy:

        def refuse() -> int:
            client = proxy.connect().send(get("http://a.test/"))
            assert refusal(client)[0] == 503
            client.close()
            return len(proxy.logged)

        assert [refuse() for _ in range(3)] == [1, 1, 1]

        def later() -> None:
            proxy.plane._last_refusal -= BURST_GAP

        proxy.call(later)
        assert refuse() == 2
        assert {record.getMessage() for record in proxy.logged} == {
            "refusing clients: The proxy is at its connection limit."
        }
        assert {record.levelno for record in proxy.logged} == {logging.WARNING}


@both
def test_live_counts(selector: Selector) -> None:
    with Proxy(selector) as proxy:
        plane = proxy.plane
        assert plane.stats() == (0, 0, 0, 0)
        client, target = proxy.tunnel(proxy.origin())
        assert plane.stats() == (1, 1, 0, 0)
        client.send(b"12345")
        target.expect(b"12345").send(b"123")
        client.expect(b"123")
        assert plane.stats() == (1, 1, 5, 3)
        (session,) = plane.connections.values()
        assert (session.bytes_sent, session.bytes_received) == (5, 3)
        assert (session.client_ip, session.client_port) == ("127.0.0.1", client.port)
        assert (session.protocol, session.backend, session.route) == ("CONNECT", "direct", "default")
        assert session.started > 1_600_000_000
        del session
        other = proxy.tunnel(proxy.origin())
        other[0].send(b"1")
        other[1].expect(b"1")
        assert plane.stats() == (2, 2, 6, 3)
        client.close()
        target.close()
        until(lambda: len(plane.connections) == 1, "one")
        assert plane.stats() == (1, 2, 6, 3)


@both
def test_ids(selector: Selector) -> None:
    """One row of numbers for all that happens."""
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        proxy.names.known["a.test"] = []
        proxy.tunnel(origin)
        refusal(proxy.connect().send(get("http://a.test/")))
        proxy.tunnel(origin)
        assert [event.id for event in proxy.opened] == [1, 3]
        assert proxy.fail_event().id == 2
        assert sorted(proxy.plane.connections) == [1, 3]


@both
def test_events_come_before_their_bytes(selector: Selector) -> None:
    """Who holds the grant knows that the connection was told."""
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        for number in range(20):
            proxy.tunnel(origin)
            assert len(proxy.opened) == number + 1


@both
def test_record_of_a_long_url_is_cut(selector: Selector) -> None:
    with Proxy(selector) as proxy:
        client = proxy.connect().send(get("http://a.test/" + "x" * 300 + "?secret=1"))
        proxy.tell("a.test")
        refusal(client)
        record = proxy.record()
        assert len(record.url) == 256
        assert record.url.startswith("a.test/xxx")
        assert record.url.endswith("x…")


@both
def test_record_has_no_query(selector: Selector) -> None:
    with Proxy(selector) as proxy:
        client = proxy.connect().send(get("http://a.test/p?secret=1"))
        proxy.tell("a.test")
        refusal(client)
        record = proxy.record()
        assert record.url == "a.test/p"
        assert (record.client_ip, record.route, record.backend) == ("127.0.0.1", "default", "direct")
        assert (record.id, record.status_code, record.error) == (1, 502, "dns_not_found")
        assert record.time > 1_600_000_000
        assert 0 <= record.duration_ms < 60_000


@both
def test_new_rules_are_for_new_requests(selector: Selector) -> None:
    """Who is in stays in, but its next request goes by the new rules, over a connection of
    their making, if they let it in at all."""
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client = proxy.connect().send(get(f"http://{origin.authority}/"))
        first = origin.accept()
        first.head()
        old = proxy.plane.policy
        signed = Policy(Router(()), old.backends, (), (), 0, 0, True)
        proxy.call(lambda: setattr(proxy.plane, "policy", signed))
        first.send(OK)
        client.expect(OK).send(get(f"http://{origin.authority}/"))
        first.ended()
        second = origin.accept()
        assert b"Via: " in second.head()
        second.send(OK)
        assert b"Via: " in client.head()
        client.expect(b"ok")
        closed = Policy(Router(()), old.backends, ("192.0.2.0/24",), (), 0, 0, True)
        proxy.call(lambda: setattr(proxy.plane, "policy", closed))
        for denied in (client, proxy.connect()):
            answer = refusal(denied.send(get(f"http://{origin.authority}/")))
            assert answer == (403, "acl_denied")
        second.ended()
        proxy.call(lambda: setattr(proxy.plane, "policy", old))


@both
def test_backend_of_the_route(selector: Selector) -> None:
    class Match(NamedTuple):
        route: str
        backend: str

    asked: list[tuple[str, bytes | None, int, bytes]] = []

    class Table:
        def find(self, host: str, packed: bytes | None, port: int, client: bytes) -> Match:
            asked.append((host, packed, port, client))
            return Match("work", "direct")

        explain = Router(()).explain

    with Proxy(selector, router=Table()) as proxy:
        origin = proxy.origin()
        proxy.tunnel(origin)
        (event,) = proxy.opened
        assert (event.route, event.backend) == ("work", "direct")
        local = b"\x7f\0\0\1"
        assert asked == [("127.0.0.1", local, origin.port, local)]
        proxy.connect().send(get("http://A.Test./"))
        until(lambda: len(asked) == 2, "the second look-up")
        assert asked[1] == ("a.test", None, 80, local)
        proxy.tell("a.test")


@pytest.mark.parametrize(
    ("allow", "deny", "client", "admitted"),
    [
        ((), (), b"\x08\x08\x08\x08", True),
        ((), ("8.0.0.0/8",), b"\x08\x08\x08\x08", False),
        ((), ("8.0.0.0/8",), b"\x09\x08\x08\x08", True),
        ((), ("8.0.0.0/8",), b"\x20" + bytes(15), True),
        (("8.0.0.0/8",), (), b"\x08\x08\x08\x08", True),
        (("8.0.0.0/8",), (), b"\x20" + bytes(15), False),
        (("8.0.0.0/8",), ("8.8.0.0/16",), b"\x08\x08\x08\x08", False),
        (("2000::/3",), (), b"\x20" + bytes(15), True),
    ],
)
def test_admits(
    allow: tuple[str, ...], deny: tuple[str, ...], client: bytes, admitted: bool
) -> None:
    assert Policy(Router(()), {}, allow, deny, 1, 1, False).admits(client) is admitted


@both
def test_drained(selector: Selector) -> None:
    with Proxy(selector) as proxy:
        drained: list[int] = []
        proxy.plane.drained = lambda: drained.append(len(proxy.plane.sessions))
        clients = [proxy.connect() for _ in range(3)]
        until(lambda: len(proxy.plane.sessions) == 3, "three clients")
        for left in (2, 1, 0):
            assert not drained
            clients.pop().close()
            proxy.gone(left)
        until(lambda: drained, "drained")
        assert drained == [0]


def test_bounds() -> None:
    assert (plane_module.KEEPALIVE, plane_module.LINGER) == (60.0, 5.0)
    assert Reason.TOO_MANY.status == Reason.TOO_MANY_CLIENT.status == 503


# All at once, in a random order that is always the same.


class Scene:
    """One client, one target, and what they do to each other."""

    def __init__(self, proxy: Proxy, seed: int) -> None:
        self.proxy = proxy
        self.random = random.Random(seed)

    def play(self) -> None:
        origin = Origin()
        client = Peer(socket.create_connection(("127.0.0.1", self.proxy.listeners[0].port)))
        peers = [client]
        try:
            self.random.choice((self.tunnel, self.tunnel, self.http, self.babble))(
                origin, client, peers
            )
        except (OSError, AssertionError):
            pass  # one of the two was cut off by the other
        finally:
            for peer in peers:
                if self.random.random() < 0.3 and peer.sock.fileno() >= 0:
                    peer.reset()
                else:
                    peer.close()
            origin.close()

    def babble(self, origin: Origin, client: Peer, peers: list[Peer]) -> None:
        client.send(self.random.randbytes(self.random.randrange(1, 300)))
        self.maybe_wait(client)

    def tunnel(self, origin: Origin, client: Peer, peers: list[Peer]) -> None:
        client.send(f"CONNECT {origin.authority} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        peers.append(origin.accept())
        client.head()
        for _ in range(self.random.randrange(6)):
            at = self.random.randrange(2)
            size = self.random.choice((1, 1000, 70_000, 600_000))
            data = self.random.randbytes(size)
            sender = threading.Thread(target=quietly, args=(peers[at].send, data), daemon=True)
            sender.start()
            if self.random.random() < 0.8:
                assert peers[1 - at].exactly(size) == data
            sender.join(0.2 if self.random.random() < 0.9 else 0)
            if self.random.random() < 0.2:
                peers[at].finish()

    def http(self, origin: Origin, client: Peer, peers: list[Peer]) -> None:
        for _ in range(self.random.randrange(1, 5)):
            body = self.random.randbytes(self.random.choice((0, 5, 100_000)))
            client.send(get(f"http://{origin.authority}/", f"Content-Length: {len(body)}"))
            if len(peers) == 1:
                peers.append(origin.accept())
            target = peers[1]
            target.head()
            cut = self.random.random() < 0.2
            sender = threading.Thread(
                target=quietly, args=(client.send, body[: len(body) // 2] if cut else body), daemon=True
            )
            sender.start()
            if cut:
                return
            assert target.exactly(len(body)) == body
            size = self.random.choice((0, 7, 300_000))
            kind = self.random.randrange(3)
            if kind == 0:
                target.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
                quietly(target.send, bytes(size))
            elif kind == 1:
                target.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                quietly(target.send, b"5\r\nhello\r\n0\r\n\r\n")
            else:
                target.send(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(size)).finish()
            self.maybe_wait(client)
            client.head()

    def maybe_wait(self, client: Peer) -> None:
        if self.random.random() < 0.5:
            client.sock.settimeout(0.05)
            client.sock.recv(1000)
            client.sock.settimeout(DEADLINE)


def quietly(act: Callable[[bytes], object], data: bytes) -> None:
    with suppress(OSError):
        act(data)


@both
def test_anything_goes(selector: Selector, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever they do, nothing is left and every byte is counted once."""
    with Proxy(selector, idle=2.0, handshake=0.2, linger=0.1, keepalive=0.3) as proxy:

        def play(number: int) -> None:
            for turn in range(25):
                Scene(proxy, number * 1000 + turn).play()

        actors = [threading.Thread(target=play, args=(n,), daemon=True) for n in range(6)]
        for actor in actors:
            actor.start()
        for actor in actors:
            actor.join(10 * DEADLINE)
            assert not actor.is_alive()
        proxy.gone()
        assert len(proxy.opened) > 50
