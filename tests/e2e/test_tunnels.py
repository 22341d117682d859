"""Long tunnels, as ssh would use them: half-close both ways, small talk, exact counts."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.e2e.daemon import Address, Daemon
from tests.e2e.origin import TcpPeer, body, read_all
from tests.e2e.program import DEADLINE

UP, DOWN = 1_500_001, 2_500_003  # bytes: enough that both directions splice
Opener = Callable[[Address, TcpPeer], socket.socket]


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon() as daemon:
        before = daemon.sockets()
        yield daemon
        daemon.wait_until(lambda: daemon.sockets() <= before, "all connections are closed")


def exactly(connection: socket.socket, size: int) -> bytes:
    """The next `size` bytes."""
    parts = []
    while size:
        part = connection.recv(size)
        assert part, f"ended {size} bytes early"
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def open_connect(proxy: Address, peer: TcpPeer) -> socket.socket:
    connection = socket.create_connection(proxy, DEADLINE)
    target = f"{peer.host}:{peer.port}"
    connection.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += exactly(connection, 1)
    assert answer.startswith(b"HTTP/1.1 200 ")
    return connection


def open_socks5(proxy: Address, peer: TcpPeer) -> socket.socket:
    connection = socket.create_connection(proxy, DEADLINE)
    connection.sendall(b"\x05\x01\x00")
    assert exactly(connection, 2) == b"\x05\x00"
    packed = socket.inet_aton(peer.host) + struct.pack("!H", peer.port)
    connection.sendall(b"\x05\x01\x00\x01" + packed)
    assert exactly(connection, 10)[:4] == b"\x05\x00\x00\x01"
    return connection


def open_socks4(proxy: Address, peer: TcpPeer) -> socket.socket:
    connection = socket.create_connection(proxy, DEADLINE)
    connection.sendall(struct.pack("!BBH", 4, 1, peer.port) + socket.inet_aton(peer.host) + b"me\0")
    assert exactly(connection, 8)[:2] == b"\x00\x5a"
    return connection


OPENERS = {"CONNECT": open_connect, "SOCKS5": open_socks5, "SOCKS4": open_socks4}
ALL_WAYS = pytest.mark.parametrize("protocol", OPENERS)


@ALL_WAYS
def test_the_client_ends_first(daemon: Daemon, protocol: str) -> None:
    def serve(connection: socket.socket) -> None:
        assert read_all(connection) == body(UP)
        connection.sendall(body(DOWN))

    with TcpPeer(serve) as peer, OPENERS[protocol](daemon.proxy, peer) as tunnel:
        tunnel.sendall(body(UP))
        tunnel.shutdown(socket.SHUT_WR)
        assert read_all(tunnel) == body(DOWN)


@ALL_WAYS
def test_the_target_ends_first(daemon: Daemon, protocol: str) -> None:
    done = threading.Event()

    def serve(connection: socket.socket) -> None:
        connection.sendall(body(DOWN))
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection) == body(UP)
        done.set()

    with TcpPeer(serve) as peer, OPENERS[protocol](daemon.proxy, peer) as tunnel:
        assert read_all(tunnel) == body(DOWN)
        tunnel.sendall(body(UP))
        tunnel.shutdown(socket.SHUT_WR)
        assert done.wait(DEADLINE)


@ALL_WAYS
def test_both_directions_at_once(daemon: Daemon, protocol: str) -> None:
    def serve(connection: socket.socket) -> None:
        sender = threading.Thread(target=connection.sendall, args=(body(DOWN),))
        sender.start()
        assert exactly(connection, UP) == body(UP)
        sender.join()

    with TcpPeer(serve) as peer, OPENERS[protocol](daemon.proxy, peer) as tunnel:
        sender = threading.Thread(target=tunnel.sendall, args=(body(UP),))
        sender.start()
        assert exactly(tunnel, DOWN) == body(DOWN)
        sender.join()
        assert read_all(tunnel) == b""


@ALL_WAYS
def test_small_talk(daemon: Daemon, protocol: str) -> None:
    """Each side speaks only after it has heard the other: nothing may wait for more."""
    sizes = [1, 2, 40, 1460, 1461, 40_000] * 40

    def serve(connection: socket.socket) -> None:
        for size in sizes:
            connection.sendall(exactly(connection, size))
        assert read_all(connection) == b""

    with TcpPeer(serve) as peer, OPENERS[protocol](daemon.proxy, peer) as tunnel:
        for size in sizes:
            tunnel.sendall(body(size))
            assert exactly(tunnel, size) == body(size)


@pytest.mark.parametrize("speaks_first", ["client", "target"])
def test_bytes_that_came_with_the_handshake(daemon: Daemon, speaks_first: str) -> None:
    def serve(connection: socket.socket) -> None:
        if speaks_first == "target":
            connection.sendall(b"SSH-2.0-target\r\n")
        assert exactly(connection, 5) == b"early"
        connection.sendall(b"late")

    with TcpPeer(serve) as peer, socket.create_connection(daemon.proxy, DEADLINE) as tunnel:
        target = f"{peer.host}:{peer.port}"
        tunnel.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\nearly".encode())
        answer = read_all(tunnel)
        expected = b"SSH-2.0-target\r\nlate" if speaks_first == "target" else b"late"
        assert answer.endswith(b"\r\n\r\n" + expected)


@ALL_WAYS
def test_the_counts_are_exact(daemon: Daemon, protocol: str) -> None:
    def serve(connection: socket.socket) -> None:
        assert read_all(connection) == body(UP)
        connection.sendall(body(DOWN))

    types = "connection.new,connection.close"
    with (
        connect(f"ws://{daemon.control}/api/v1/ws?types={types}") as events,
        TcpPeer(serve) as peer,
    ):
        with OPENERS[protocol](daemon.proxy, peer) as tunnel:
            tunnel.sendall(body(UP))
            tunnel.shutdown(socket.SHUT_WR)
            assert read_all(tunnel) == body(DOWN)
        mine: list[dict[str, Any]] = []
        while len(mine) < 2:
            event = json.loads(events.recv(timeout=DEADLINE))
            if event["data"].get("host") == f"{peer.host}:{peer.port}":
                mine.append(event)
    new, close = mine
    assert (new["type"], close["type"]) == ("connection.new", "connection.close")
    for event in mine:
        assert event["data"]["protocol"] == protocol
        assert event["data"]["id"] == new["data"]["id"]
    assert close["data"]["bytes_sent"] == UP
    assert close["data"]["bytes_received"] == DOWN
    assert close["data"]["reason"] == "closed"
