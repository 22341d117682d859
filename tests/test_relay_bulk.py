"""Much data through the whole proxy: whole, within bounds, and fair to those with little."""

from __future__ import annotations

import hashlib
import os
import threading

import pytest

from bifrost_lite import relay
from bifrost_lite.dispatch import Dispatcher, EpollDispatcher
from bifrost_lite.errors import Reason
from bifrost_lite.relay import BUFFER_SIZE, shared
from tests.plane_kit import DEADLINE, Peer, Proxy, both, until
from tests.test_relay import BLOCK, crowd

Selector = type[Dispatcher]

__all__ = ["crowd"]  # a fixture

SIZE = 50 << 20


def pour(peer: Peer, size: int, digests: dict[str, str], name: str) -> None:
    digest = hashlib.blake2b()
    sent = 0
    while sent < size:
        part = BLOCK[: size - sent]
        peer.send(part)
        digest.update(part)
        sent += len(part)
    peer.finish()
    digests[name] = digest.hexdigest()


def drink(peer: Peer, digests: dict[str, str], name: str) -> None:
    digest = hashlib.blake2b(peer.buffer)
    buffer = bytearray(1 << 20)
    while got := peer.sock.recv_into(buffer):
        digest.update(memoryview(buffer)[:got])
    digests[name] = digest.hexdigest()


def both_ways(client: Peer, target: Peer, size: int) -> None:
    """Pour `size` bytes each way at the same time."""
    digests: dict[str, str] = {}
    threads = [
        threading.Thread(daemon=True, target=pour, args=(client, size, digests, "up sent")),
        threading.Thread(daemon=True, target=drink, args=(target, digests, "up got")),
        threading.Thread(daemon=True, target=pour, args=(target, size, digests, "down sent")),
        threading.Thread(daemon=True, target=drink, args=(client, digests, "down got")),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10 * DEADLINE)
    assert len(digests) == 4
    assert digests["up sent"] == digests["up got"]
    assert digests["down sent"] == digests["down got"]


@pytest.fixture
def spliced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes that each splice moved."""
    moved: list[int] = []
    splice = os.splice

    def counted(*args: int, flags: int) -> int:
        got = splice(*args, flags=flags)
        moved.append(got)
        return got

    monkeypatch.setattr(os, "splice", counted)
    return moved


@both
@pytest.mark.parametrize("way", ["splice", "copy", "one pipe", "no pipe"])
def test_bulk_both_ways(
    selector: Selector, way: str, spliced: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = SIZE if way in ("splice", "copy") else SIZE // 5
    if way == "copy":
        monkeypatch.setattr(shared, "splice", False)
    if way.endswith("pipe"):
        monkeypatch.setattr(relay, "PIPES", int(way == "one pipe"))
    with Proxy(selector) as proxy:
        client, target = proxy.tunnel(proxy.origin())
        both_ways(client, target, size)
        event = proxy.close_event()
        assert (event.bytes_sent, event.bytes_received) == (size, size)
        assert event.reason == "closed"
    assert (sum(spliced) > size) == (way in ("splice", "one pipe"))


@both
def test_one_stream_copies(selector: Selector, spliced: list[int]) -> None:
    """Faster for one alone."""
    with Proxy(selector) as proxy:
        client, target = proxy.tunnel(proxy.origin())
        digests: dict[str, str] = {}
        thread = threading.Thread(daemon=True, target=pour, args=(client, SIZE // 5, digests, "sent"))
        thread.start()
        drink(target, digests, "got")
        thread.join()
        assert digests["sent"] == digests["got"]
        target.close()
    assert not spliced


@both
@pytest.mark.parametrize("splice", [True, False], ids=["splice", "copy"])
def test_slow_readers_cost_no_more_than_their_bound(
    selector: Selector, splice: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve directions whose sinks take nothing, then everything."""
    pipes = 4
    monkeypatch.setattr(shared, "splice", splice)
    monkeypatch.setattr(relay, "PIPES", pipes)
    monkeypatch.setattr(relay, "KEPT_LIMIT", 512 * 1024)
    streams = 12
    size = 12 << 20
    bound = relay.KEPT_LIMIT + BUFFER_SIZE + streams * relay.STARVED_READ
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        ends = [proxy.tunnel(origin) for _ in range(streams)]
        digests: dict[str, str] = {}
        threads = [
            threading.Thread(daemon=True, target=pour, args=(client, size, digests, f"sent {number}"))
            for number, (client, _) in enumerate(ends)
        ]
        for thread in threads:
            thread.start()

        def blocked() -> int:
            kept, made = proxy.call(lambda: (shared.kept, shared.pipes))
            assert kept <= bound
            assert made <= pipes
            halves = [session.up for session in list(proxy.plane.sessions)]
            return sum(half is not None and half.pend is not None for half in halves)

        until(lambda: blocked() == streams, "all of them blocked")
        readers = [
            threading.Thread(daemon=True, target=drink, args=(target, digests, f"got {number}"))
            for number, (_, target) in enumerate(ends)
        ]
        for reader in readers:
            reader.start()
        for thread in threads + readers:
            thread.join(10 * DEADLINE)
            blocked()
        for number, (_, target) in enumerate(ends):
            assert digests[f"sent {number}"] == digests[f"got {number}"]
            target.close()
        proxy.gone()
        assert {event.bytes_sent for event in proxy.closed} == {size}


@both
@pytest.mark.parametrize("bulk", [1, 2], ids=["copy", "splice"])
def test_small_stream_beside_bulk(selector: Selector, bulk: int) -> None:
    """An echo comes back while others move all they can."""
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        small = proxy.tunnel(origin)
        big = [proxy.tunnel(origin) for _ in range(bulk)]
        digests: dict[str, str] = {}
        stop = threading.Event()

        def endless(peer: Peer) -> None:
            while not stop.is_set():
                peer.send(BLOCK)
            peer.finish()

        threads = [threading.Thread(daemon=True, target=endless, args=(client,)) for client, _ in big]
        threads += [
            threading.Thread(daemon=True, target=drink, args=(target, digests, "")) for _, target in big
        ]
        for thread in threads:
            thread.start()
        until(lambda: proxy.plane.stats()[2] > SIZE, "bulk")
        for number in range(50):
            before = proxy.plane.stats()[2]
            small[0].send(b"%d" % number)
            small[1].expect(b"%d" % number).send(b"pong")
            small[0].expect(b"pong")
            # Not a matter of time: what the others moved meanwhile is a few turns.
            assert proxy.plane.stats()[2] - before < 200 * relay.TURN * BUFFER_SIZE
        stop.set()
        for thread in threads:
            thread.join(DEADLINE)
        for _, target in big:
            target.close()


@both
def test_many_tunnels(selector: Selector) -> None:
    count = 200
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        ends = [proxy.tunnel(origin) for _ in range(count)]
        assert len(proxy.plane.connections) == count
        for number, (client, _) in enumerate(ends):
            client.send(b"%d up" % number)
        for number, (_, target) in enumerate(ends):
            target.expect(b"%d up" % number).send(b"%d down" % number).finish()
        for number, (client, _) in enumerate(ends):
            assert client.rest() == b"%d down" % number
            client.close()
        proxy.gone()
        assert len(proxy.closed) == count
        assert {event.reason for event in proxy.closed} == {"closed"}


@both
@pytest.mark.parametrize("splice", [True, False], ids=["splice", "copy"])
@pytest.mark.parametrize("who", ["client", "target", "operator"])
def test_counts_of_what_is_cut_off(
    selector: Selector, splice: bool, who: str, monkeypatch: pytest.MonkeyPatch, crowd: None
) -> None:
    """Sent is what the kernel took for the target, received what was read from it."""
    monkeypatch.setattr(shared, "splice", splice)
    with Proxy(selector) as proxy:
        client, target = proxy.tunnel(proxy.origin())
        (number,) = proxy.plane.connections
        proxy.fill(client, "up")
        if who != "operator":
            proxy.fill(target, "down")

        def counts() -> tuple[int, int, int]:
            session = proxy.plane.connections[number]
            assert session.up is not None
            return session.bytes_sent, session.bytes_received, session.up.pend_size

        sent, received, kept = proxy.call(counts)
        assert kept
        assert proxy.plane.stats()[2:] == (sent, received)
        if selector is not EpollDispatcher and who == "client":
            return  # it hears of a reset only when the target takes something
        if who == "operator":
            proxy.call(lambda: proxy.plane.connections[number].close(Reason.OPERATOR))
            assert len(target.rest()) == sent  # the kernel delivers what it took
        else:
            (client if who == "client" else target).reset()
            (target if who == "client" else client).was_reset()
        event = proxy.close_event()
        assert event.reason == {"operator": "closed_by_operator"}.get(who, f"{who}_reset")
        assert event.bytes_sent == sent
        assert event.bytes_received == received
