"""All seats taken and two of those who sit there asleep: nobody waits, every loss is told.

The watchers are raw: a library would read for them.
"""

from __future__ import annotations

import json
import re
import selectors
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.curl import curl
from tests.e2e.daemon import Daemon
from tests.e2e.origin import TcpPeer, read_all
from tests.e2e.program import DEADLINE

SEATS = 10  # of each kind, the default of both caps
WARM_UP, CONNECTIONS, AT_ONCE = 200, 2000, 4
# Of the daemon, in bytes: what may wait for two who sleep, and as much as heaps vary by.
GROWTH = 2 * 256 * 1024 + 2 * 1024 * 1024
HELD = 768 * 1024  # bytes that wait for one who sleeps, in the daemon and in the kernel
EVENTS = "/api/v1/ws", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"
ENTRIES = ("/api/v1/logs/stream",)

Message = dict[str, Any]


class Client:
    """One who watches, and reads only when it is told to.

    Attributes:
        status: what the daemon answered
        data: what came behind the head of the answer
    """

    def __init__(self, daemon: Daemon, path: str, *fields: str) -> None:
        self.sock = socket.socket()
        self.sock.settimeout(DEADLINE)
        self.sock.connect(daemon.control)
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
        lines = f"GET {path} HTTP/1.1", f"Host: {daemon.control}", key, *fields, "\r\n"
        self.sock.sendall("\r\n".join(lines).encode())
        self.data = bytearray()
        while b"\r\n\r\n" not in self.data:
            assert self.read()
        head, _, self.data = self.data.partition(b"\r\n\r\n")
        self.head = head.decode()
        self.status = int(head.split()[1])

    def read(self) -> bool:
        """Take what is there, or wait for it; False at the end."""
        data = self.sock.recv(1 << 18)
        self.data += data
        return bool(data)

    def close(self) -> None:
        """Leave without a word."""
        self.sock.close()


class Watcher(Client):
    """A WebSocket client of the events."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__(daemon, *EVENTS)

    def messages(self) -> Iterator[Message]:
        """The events that have come in full."""
        at = 0
        while at + 4 <= len(self.data):
            assert self.data[at] == 0x81, "nothing but whole text frames"
            size, start = self.data[at + 1], at + 2
            if size == 126:
                size, start = int.from_bytes(self.data[at + 2 : at + 4], "big"), at + 4
            at = start + size
            if at <= len(self.data):
                yield json.loads(self.data[start:at])

    def account(self) -> tuple[int, int, int]:
        """How many events it has seen and lost, and the number of the last.

        Raises:
            AssertionError: one is missing or out of order without a word
        """
        seen = lost = last = 0
        for message in self.messages():
            missing = message["data"].get("lost", 0)
            counted = message["type"].startswith("connection.")
            assert message["seq"] == last + missing + counted
            last, seen, lost = message["seq"], seen + counted, lost + missing
        return seen, lost, last


class Follower(Client):
    """A client of the log stream."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__(daemon, *ENTRIES)

    def account(self) -> tuple[int, int, int]:
        """As `Watcher.account`, of entries."""
        seen = lost = last = 0
        for number, text in re.findall(rb"id: [0-9a-f]{8}-(\d+)\ndata: (.*)\n\n", self.data):
            entry = json.loads(text)
            missing = entry["fields"].get("lost", 0)
            if missing:
                assert (entry["level"], entry["message"]) == ("warn", f"{missing} log entries lost")
            last = last or int(number) - 1  # the daemon has said something before
            assert int(number) == last + (missing or 1)
            last, seen, lost = int(number), seen + (not missing), lost + missing
        return seen, lost, last


def connections(daemon: Daemon, target: TcpPeer, count: int) -> None:
    """So many short connections, one after the other."""
    name = f"{target.host}:{target.port}"
    for _ in range(count):
        with socket.create_connection(daemon.proxy, DEADLINE) as tunnel:
            tunnel.sendall(f"CONNECT {name} HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
            assert read_all(tunnel).endswith(b"\r\n\r\nhello")


def read_until(clients: Sequence[Client], over: Callable[[], bool]) -> None:
    """Let them read whatever comes until `over`, which is asked whenever nothing does."""
    until = time.monotonic() + DEADLINE
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client.sock, selectors.EVENT_READ, client)
        while True:
            ready = selector.select(0.1)
            for key, _ in ready:
                assert key.data.read(), "the daemon hung up"
            if not ready and over():
                return
            assert time.monotonic() < until, "they do not get everything"


def heard(clients: Sequence[Watcher | Follower], carried: int) -> bool:
    """Whether they know of so many connections: two events and one entry of each."""
    known = [(client, *client.account()[:2]) for client in clients]
    return all(
        seen + lost == (2 * carried if isinstance(client, Watcher) else carried)
        for client, seen, lost in known
    )


def memory(daemon: Daemon, which: str) -> int:
    """Resident bytes of the daemon: VmRSS now, VmHWM the most so far."""
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    found = re.search(rf"{which}:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


def test_sleeping_watchers_are_told_what_they_lost_and_the_others_lose_nothing() -> None:
    with (
        Daemon(control={"stats_interval": 0}) as daemon,
        TcpPeer(lambda connection: connection.sendall(b"hello")) as target,
        ThreadPoolExecutor(AT_ONCE) as pool,
        ExitStack() as stack,
    ):
        watchers = [stack.enter_context(closing(Watcher(daemon))) for _ in range(SEATS)]
        followers = [stack.enter_context(closing(Follower(daemon))) for _ in range(SEATS)]
        asleep, awake = (watchers[0], followers[0]), (*watchers[1:], *followers[1:])

        def carry(count: int, carried: int) -> None:
            """Connections, and all who are awake read until they have heard of all."""
            work = [
                pool.submit(connections, daemon, target, count // AT_ONCE) for _ in range(AT_ONCE)
            ]
            read_until(awake, lambda: all(w.done() for w in work) and heard(awake, carried))
            for one in work:
                one.result()

        carry(WARM_UP, WARM_UP)
        before = memory(daemon, "VmRSS")
        carry(CONNECTIONS, WARM_UP + CONNECTIONS)
        assert [client.account()[1] for client in awake] == [0] * len(awake)
        assert memory(daemon, "VmHWM") - before < GROWTH

        begun = [len(client.data) for client in asleep]
        read_until(asleep, lambda: heard(asleep, WARM_UP + CONNECTIONS))
        for client, start, reader in zip(asleep, begun, (awake[0], awake[-1]), strict=True):
            seen, lost, last = client.account()
            assert min(seen, lost) > 0
            assert last == reader.account()[2]
            assert len(client.data) - start < HELD

        losses = [client.account()[1] for client in asleep]
        carry(AT_ONCE, WARM_UP + CONNECTIONS + AT_ONCE)
        read_until(asleep, lambda: heard(asleep, WARM_UP + CONNECTIONS + AT_ONCE))
        assert [client.account()[1] for client in asleep] == losses  # awake, they lose no more


@pytest.mark.parametrize(
    ("kind", "word"), [(Watcher, "too_many_clients"), (Follower, "too_many_subscribers")]
)
def test_who_finds_no_seat_is_told_to_come_back(kind: type[Watcher | Follower], word: str) -> None:
    with Daemon() as daemon, ExitStack() as stack:
        seats = [stack.enter_context(closing(kind(daemon))) for _ in range(SEATS)]
        late = stack.enter_context(closing(kind(daemon)))
        while not late.data.endswith(b"}"):
            assert late.read()
        assert late.status == 503
        assert "\r\nRetry-After: 5\r\n" in late.head
        assert json.loads(late.data)["error"] == word
        assert curl(daemon.url("/api/v1/health")).status == 200
        seats[0].close()

        def seated() -> bool:
            with closing(kind(daemon)) as client:
                return client.status != 503

        daemon.wait_until(seated, "the seat is free again")
