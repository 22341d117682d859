"""A real data plane in a thread of its own, between sockets that a test holds in its hands.

A test is client and target at the same time and goes step by step: what it sends is in the
proxy's socket when `send` returns, and what it expects is waited for. Nothing sleeps; what
must *not* happen is checked after `Proxy.settle`. Leaving a `Proxy` fails where anything is
left: sessions, counts, deadlines, handlers, kept bytes, pipes, descriptors, reference rings,
an event without its twin, a byte that was counted twice or never.
"""

from __future__ import annotations

import gc
import logging
import os
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from traceback import clear_frames
from types import TracebackType
from typing import Any, TypeVar

import pytest

from bifrost_lite import relay
from bifrost_lite.backends.base import Backend
from bifrost_lite.backends.direct import Direct
from bifrost_lite.condition import Condition
from bifrost_lite.counters import Counters
from bifrost_lite.dial import Attempt, Dial, Dialler, Guard, Resolver
from bifrost_lite.dispatch import Dispatcher, EpollDispatcher, Loop, PollDispatcher
from bifrost_lite.errors import Reason
from bifrost_lite.events import ConnectionClose, ConnectionFailed, ConnectionNew, Data
from bifrost_lite.forward import Forward
from bifrost_lite.listener import Listener
from bifrost_lite.plane import Plane, Policy, Router
from bifrost_lite.records import Finished
from bifrost_lite.relay import Half, shared
from bifrost_lite.route import Router as Routes
from bifrost_lite.session import Session
from bifrost_lite.target import pack
from bifrost_lite.tunnel import Tunnel
from bifrost_lite.users import Users
from bifrost_lite.way import Way

T = TypeVar("T")

DEADLINE = 5.0  # seconds that anything may take
LOOPBACK = "127.0.0.1"

both = pytest.mark.parametrize(
    "selector", [EpollDispatcher, PollDispatcher], ids=["epoll", "poll"]
)

# What the plane makes for each connection.
EACH = (Session, Forward, Tunnel, Half, Dial, Attempt)

Resolved = Callable[[tuple[bytes, ...], "Reason | None", bool], None]


def until(condition: Callable[[], T], what: str = "", seconds: float = DEADLINE) -> T:
    """Wait for something to be true, and answer it."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, f"waited too long: {what or condition}"
        time.sleep(0.002)
    return result


class Peer:
    """A socket with a deadline, and what was read from it ahead."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(DEADLINE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    @property
    def port(self) -> int:
        """Its own port."""
        return int(self.sock.getsockname()[1])

    def send(self, data: bytes) -> Peer:
        self.sock.sendall(data)
        return self

    def trickle(self, data: bytes, settle: Callable[[], object]) -> Peer:
        """Send byte by byte, each in a turn of its own."""
        for at in range(len(data)):
            self.send(data[at : at + 1])
            settle()
        return self

    def until(self, end: bytes) -> bytes:
        """Read up to `end`, which is included."""
        while end not in self.buffer:
            data = self.sock.recv(65536)
            assert data, f"the peer ended after {self.buffer!r}, expected {end!r}"
            self.buffer += data
        before, _, self.buffer = self.buffer.partition(end)
        return before + end

    def head(self) -> bytes:
        """Read a message head."""
        return self.until(b"\r\n\r\n")

    def exactly(self, size: int) -> bytes:
        """Read so many bytes."""
        parts = [self.buffer[:size]]
        got = len(parts[0])
        self.buffer = self.buffer[size:]
        while got < size:
            data = self.sock.recv(min(size - got, 1 << 20))
            assert data, f"the peer ended {size - got} bytes early, after {parts[-1][-200:]!r}"
            parts.append(data)
            got += len(data)
        return b"".join(parts)

    def expect(self, data: bytes) -> Peer:
        """Read exactly this."""
        got = self.exactly(len(data))
        if got != data:  # an assert would work out the difference of megabytes
            raise AssertionError(f"got {got[:200]!r}..., expected {data[:200]!r}...")
        return self

    def rest(self) -> bytes:
        """Read until the other side sent FIN."""
        parts, self.buffer = [self.buffer], b""
        while data := self.sock.recv(1 << 20):
            parts.append(data)
        return b"".join(parts)

    def ended(self) -> None:
        """The other side sent FIN, and nothing before it."""
        assert self.rest() == b""

    def was_reset(self) -> bytes:
        """Read until the RST of the other side; answers what came before."""
        data = self.buffer
        self.buffer = b""
        try:
            while piece := self.sock.recv(65536):
                data += piece
        except ConnectionResetError:
            return data
        raise AssertionError(f"expected RST, got FIN after {data!r}")

    def gone(self) -> None:
        """The other side is gone, whether by FIN or by RST."""
        try:
            self.ended()
        except ConnectionResetError:
            return

    def empty(self) -> None:
        """Nothing has come, not even an end; settle first."""
        assert self.buffer == b""
        self.sock.setblocking(False)
        try:
            got = self.sock.recv(65536)
            raise AssertionError(f"expected nothing, got {got!r}")
        except BlockingIOError:
            self.sock.settimeout(DEADLINE)

    def finish(self) -> Peer:
        """Send FIN, and go on reading."""
        self.sock.shutdown(socket.SHUT_WR)
        return self

    def reset(self) -> None:
        """Send RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


class Origin:
    """A listening target; the kernel accepts, the test takes the connections when it likes."""

    def __init__(self, host: str = LOOPBACK, port: int = 0, *, backlog: int = 256) -> None:
        self.host = host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.sock = socket.socket(family)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.bind((host, port))
        self.sock.listen(backlog)
        self.sock.settimeout(DEADLINE)
        self.port: int = self.sock.getsockname()[1]
        self._kept: list[Peer] = []

    @property
    def authority(self) -> str:
        """host:port, IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def accept(self) -> Peer:
        """The next connection."""
        peer = Peer(self.sock.accept()[0])
        self._kept.append(peer)
        return peer

    def alone(self) -> None:
        """Nobody (else) has connected; settle first."""
        self.sock.setblocking(False)
        try:
            self.accept()
            raise AssertionError("a connection that should not be")
        except BlockingIOError:
            self.sock.settimeout(DEADLINE)

    def fill(self) -> None:
        """Fill the queue of a backlog of 0: whoever connects now gets no answer at all."""
        self._kept.append(Peer(socket.create_connection((self.host, self.port), DEADLINE)))

    def close(self) -> None:
        self.sock.close()
        for peer in self._kept:
            peer.close()


class Held:
    """A look-up that waits for the test."""

    def __init__(self, names: Names, name: str, family: str, answer: Resolved) -> None:
        self.names, self.name, self.family, self.answer = names, name, family, answer

    def cancel(self) -> None:
        """The dial lost interest."""
        self.names.held.remove(self)
        self.names.cancelled.append(self.name)


class Names:
    """A resolver that says what the test says.

    Attributes:
        known: addresses of a name, or why there are none: answered at once
        held: look-ups of other names, which wait for `answer`
        cancelled: names whose dial gave up
        asked: all names, with the family asked for
    """

    def __init__(self) -> None:
        self.known: dict[str, Sequence[str] | Reason] = {}
        self.held: list[Held] = []
        self.cancelled: list[str] = []
        self.asked: list[tuple[str, str]] = []

    def lookup(self, name: str, family: str, answer: Resolved) -> Held | None:
        """See `dial.Resolver`."""
        self.asked.append((name, family))
        known = self.known.get(name)
        if known is None:
            held = Held(self, name, family, answer)
            self.held.append(held)
            return held
        if isinstance(known, Reason):
            answer((), known, True)
        else:
            answer(packed(known), None, True)
        return None

    def answer(
        self, name: str, addresses: Iterable[str], reason: Reason | None, finished: bool
    ) -> None:
        """Answer the held look-ups of `name`, on the loop's thread."""
        for held in [held for held in self.held if held.name == name]:
            if finished:
                self.held.remove(held)
            held.answer(packed(addresses), reason, finished)


def packed(addresses: Iterable[str]) -> tuple[bytes, ...]:
    """IP addresses as bytes."""
    found = [pack(address) for address in addresses]
    assert None not in found
    return tuple(address for address in found if address is not None)


def anything(address: bytes, port: int) -> Reason | None:
    """The guard that forbids nothing."""
    return None


def way(dispatcher: Dispatcher, name: str = "direct", type: str = "direct") -> Way:
    """A way that nobody has used, whose condition nothing changes."""
    return Way(name, type, dispatcher, Counters(), Condition(lambda condition: None))


def direct(
    dispatcher: Dispatcher,
    resolver: Resolver,
    guard: Guard = anything,
    name: str = "direct",
    **settings: Any,
) -> Direct:
    """A backend that dials, `settings` as for `Dialler`."""
    mine = way(dispatcher, name)
    dialler = Dialler(dispatcher, resolver, guard, way=mine, **settings)
    return Direct(mine, dialler, Dialler(dispatcher, resolver, anything, **settings))


class Proxy:
    """A running data plane; a context manager.

    Args:
        selector: the kind of dispatcher
        listen: (address, protocol) of each listener, all on ports of the kernel's choice
        guard: as for `Dialler`
        backend: instead of one that dials
        upgrades: a request becomes a tunnel, whose bytes are in no record
        the others: as for `Policy`, `Plane` and `Dialler`

    Attributes:
        events: type and data of all that was published
        finished: all records
        logged: log records of level warning and above; those above are faults
        names: the resolver
    """

    def __init__(
        self,
        selector: type[Dispatcher] = EpollDispatcher,
        *,
        listen: Sequence[tuple[str, str]] = ((LOOPBACK, "auto"),),
        allow: tuple[str, ...] = (),
        deny: tuple[str, ...] = (),
        guard: Callable[[bytes, int], Reason | None] = anything,
        router: Router | None = None,
        backend: Backend | None = None,
        max_connections: int = 1000,
        max_per_client: int = 1000,
        via: bool = False,
        handshake: float = DEADLINE,
        idle: float = 60.0,
        keepalive: float = 60.0,
        linger: float = DEADLINE,
        connect: float = DEADLINE,
        family: str = "auto",
        source: str = "",
        upgrades: bool = False,
        users: Users | None = None,
    ) -> None:
        self._stack = ExitStack()
        self._descriptors = len(os.listdir("/proc/self/fd"))
        self._collecting = gc.isenabled()
        self._upgrades = upgrades
        shared.bulk_seen = shared.crowd_until = 0.0
        gc.collect(0)
        gc.disable()
        self.logged: list[logging.LogRecord] = []
        self._log = _Collector(self.logged)
        logging.getLogger("bifrost").addHandler(self._log)
        self.events: list[tuple[str, Data]] = []
        self.finished: list[Finished] = []
        self.names = Names()
        self.dispatcher = selector()
        self.loop = Loop(self.dispatcher)
        self.loop.set_exception_handler(self._log.fault)
        if backend is None:
            backend = direct(
                self.dispatcher, self.names, guard, seconds=connect, family=family, source=source
            )
        policy = Policy(
            router or Routes(()),
            {"direct": backend},
            allow,
            deny,
            max_connections,
            max_per_client,
            via,
            users,
        )
        self.plane = Plane(
            self.dispatcher,
            policy,
            lambda kind, data: self.events.append((kind, data)),
            self.finished.append,
            handshake,
            idle,
        )
        self.plane.keepalive.seconds = keepalive
        self.plane.linger.seconds = linger
        self.listeners = [
            Listener(self.plane, f"l{number}", address, 0, protocol)
            for number, (address, protocol) in enumerate(listen)
        ]
        self._thread = threading.Thread(target=self.loop.run_forever, name="proxy")

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            self._stack.close()
            if kind is None:
                self._check_at_rest()
        finally:
            self.call(self._close)
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(DEADLINE)
            left = dict(self.dispatcher.handlers)
            self.loop.close()
            logging.getLogger("bifrost").removeHandler(self._log)
            if self._collecting:
                gc.enable()
        if kind is None:
            assert not left
            assert len(os.listdir("/proc/self/fd")) == self._descriptors

    def _close(self) -> None:
        self.plane.close_all(Reason.SHUTDOWN)
        for listener in list(self.plane.listeners):
            listener.close()

    # Driving.

    def call(self, function: Callable[[], T]) -> T:
        """Run a function on the loop's thread."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        self.loop.call_soon_threadsafe(run)
        return future.result(DEADLINE)

    def settle(self) -> None:
        """Let the proxy work on all that has reached it."""
        rounds = 3
        while rounds:
            rounds = 3 if self.call(lambda: bool(self.dispatcher._again)) else rounds - 1

    def tell(
        self,
        name: str,
        *addresses: str,
        reason: Reason | None = None,
        finished: bool = True,
    ) -> None:
        """Wait until `name` is asked for, and answer."""
        until(lambda: any(held.name == name for held in list(self.names.held)), f"ask for {name}")
        self.call(lambda: self.names.answer(name, addresses, reason, finished))

    def gone(self, count: int = 0) -> None:
        """Wait until only so many clients are left."""
        until(lambda: len(self.plane.sessions) == count, f"{count} sessions left")

    def keep(self, resource: Any) -> Any:
        """Close `resource` at the end."""
        self._stack.callback(resource.close)
        return resource

    # Who takes part.

    def origin(self, host: str = LOOPBACK, port: int = 0, *, backlog: int = 256) -> Origin:
        """A target."""
        origin = Origin(host, port, backlog=backlog)
        self._stack.callback(origin.close)
        return origin

    def connect(self, listener: int = 0, source: str = "", host: str = "") -> Peer:
        """A client, through one of the listeners."""
        at = self.listeners[listener]
        where = (host or {"::": "::1"}.get(at.address, at.address), at.port)
        peer = Peer(
            socket.create_connection(where, DEADLINE, (source, 0) if source else None)
        )
        self._stack.callback(peer.close)
        return peer

    def tunnel(self, origin: Origin) -> tuple[Peer, Peer]:
        """A client with a tunnel, and the target at its end."""
        client = self.connect().send(f"CONNECT {origin.authority} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        target = origin.accept()
        client.expect(GRANTED)
        return client, target

    def fill(self, peer: Peer, direction: str) -> None:
        """Let `peer` send until the proxy holds bytes that the other side does not take.

        Args:
            peer: of the only connection
            direction: up or down
        """

        def blocked() -> bool:
            (session,) = self.plane.sessions
            half: Half = getattr(session, direction)
            return half.pend is not None

        def full() -> bool:
            try:
                peer.sock.send(bytes(1 << 20))
            except BlockingIOError:
                return self.call(blocked)
            return False

        peer.sock.setblocking(False)
        until(full, "a full path")
        peer.sock.settimeout(DEADLINE)

    # What happened.

    def words(self, *types: str) -> list[str]:
        """Events in short: the type without its first word, and the reason."""
        return [
            f"{kind.partition('.')[2]} {getattr(data, 'reason', '')}".strip()
            for kind, data in self.events
            if not types or kind in types
        ]

    @property
    def opened(self) -> list[ConnectionNew]:
        return [data for _, data in self.events if isinstance(data, ConnectionNew)]

    @property
    def closed(self) -> list[ConnectionClose]:
        return [data for _, data in self.events if isinstance(data, ConnectionClose)]

    @property
    def failed(self) -> list[ConnectionFailed]:
        return [data for _, data in self.events if isinstance(data, ConnectionFailed)]

    def close_event(self) -> ConnectionClose:
        """Wait for the only `connection.close`."""
        until(lambda: self.closed, "connection.close")
        (event,) = self.closed
        return event

    def fail_event(self) -> ConnectionFailed:
        """Wait for the only `connection.failed`."""
        until(lambda: self.failed, "connection.failed")
        (event,) = self.failed
        return event

    def record(self) -> Finished:
        """Wait for the only record."""
        until(lambda: self.finished, "a record")
        (record,) = self.finished
        return record

    def told(self, *words: str) -> None:
        """Wait until just these events were published, in short."""
        until(lambda: len(self.events) >= len(words), f"events {words}")
        self.settle()
        assert self.words() == list(words)

    # What must be left: nothing.

    def _check_at_rest(self) -> None:
        plane = self.plane
        self.gone()
        self.settle()  # the last batch is over, its descriptors are closed
        for trace in self._log.traces:
            _let_go(trace)
        self.call(self._check_plane)
        assert not self.names.held
        faults = [record.getMessage() for record in self.logged if record.levelno > logging.WARNING]
        assert not faults
        self.logged.clear()
        opened: dict[int, ConnectionNew] = {}
        for _, data in self.events:
            if isinstance(data, ConnectionNew):
                assert data.id not in opened
                opened[data.id] = data
            elif isinstance(data, ConnectionClose):
                twin = opened.pop(data.id)
                for key in ("protocol", "host", "backend", "client_ip", "route"):
                    assert getattr(twin, key) == getattr(data, key)
                assert data.bytes_sent >= 0 <= data.bytes_received
                assert data.duration_ms >= 0
        assert not opened
        sent = sum(event.bytes_sent for event in self.closed)
        received = sum(event.bytes_received for event in self.closed)
        assert plane.stats() == (0, len(self.opened), sent, received)
        assert plane.failures == Counter(event.reason for event in self.failed)
        assert all(record.bytes_sent >= 0 <= record.bytes_received for record in self.finished)
        assert all(record.status_code != 0 for record in self.finished)
        if not self._upgrades:
            assert sent == sum(record.bytes_sent for record in self.finished)
            assert received == sum(record.bytes_received for record in self.finished)

    def _check_plane(self) -> None:
        plane, dispatcher = self.plane, self.dispatcher
        assert not plane.connections
        assert not plane.clients
        assert (plane.admitted, plane.refusing) == (0, 0)
        assert not any(deadlines.since for deadlines in dispatcher.deadlines)
        assert dispatcher.handlers.keys() == {at.fd for at in plane.listeners}
        assert not dispatcher._garbage
        assert (shared.kept, shared.pipes, shared.free_pipes) == (0, 0, [])
        assert relay.shared.pipes <= relay.PIPES
        # Collection is off: what is here now is in a ring or in somebody's hands.
        assert not [thing for thing in gc.get_objects(0) if type(thing) in EACH]


def _let_go(trace: TracebackType | None) -> None:
    """Make the traceback of a logged fault hold nothing that its frames held."""
    clear_frames(trace)
    frame = trace.tb_frame.f_back if trace is not None else None
    while frame is not None:
        with suppress(RuntimeError):  # it is still running
            frame.clear()
        frame = frame.f_back


class _Collector(logging.Handler):
    """Keeps warnings and worse."""

    def __init__(self, records: list[logging.LogRecord]) -> None:
        super().__init__(logging.WARNING)
        self.records = records
        self.traces: list[TracebackType | None] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        if record.exc_info is not None:
            self.traces.append(record.exc_info[2])

    def fault(self, loop: object, context: dict[str, Any]) -> None:
        """asyncio's exception handler."""
        logging.getLogger("bifrost.test").error("asyncio: %s", context)


# What clients say and get.

GRANTED = b"HTTP/1.1 200 Connection established\r\n\r\n"
HELLO5 = b"\x05\x01\x00"
METHOD5 = b"\x05\x00"
GRANTED5 = b"\x05\x00\x00\x01" + bytes(6)
GRANTED4 = b"\x00\x5a" + bytes(6)
REJECTED4 = b"\x00\x5b" + bytes(6)


def refused5(code: int) -> bytes:
    """The SOCKS5 reply of a failure."""
    return b"\x05" + bytes((code,)) + b"\x00\x01" + bytes(6)


def connect5(host: str, port: int, *, kind: int = 0) -> bytes:
    """A SOCKS5 CONNECT request; `kind` 3 sends even an address as a name."""
    address = pack(host) if kind != 3 else None
    if address is None:
        body = b"\x03" + bytes((len(host),)) + host.encode()
    elif ":" in host:
        body = b"\x04" + socket.inet_pton(socket.AF_INET6, host)
    else:
        body = b"\x01" + address
    return b"\x05\x01\x00" + body + struct.pack("!H", port)


def connect4(host: str, port: int) -> bytes:
    """A SOCKS4 request for an IPv4 address, else a SOCKS4a one."""
    address = pack(host)
    if address is not None and len(address) == 4:
        return b"\x04\x01" + struct.pack("!H", port) + address + b"me\0"
    return b"\x04\x01" + struct.pack("!H", port) + b"\0\0\0\1me\0" + host.encode() + b"\0"


def get(url: str, *fields: str, method: str = "GET", version: str = "1.1") -> bytes:
    """A request head."""
    lines = [f"{method} {url} HTTP/{version}", "Host: client.says", *fields]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def refusal(client: Peer) -> tuple[int, str]:
    """Read the proxy's own answer up to its end: its status and the word of its reason."""
    head, _, body = client.rest().partition(b"\r\n\r\n")
    line, *fields = head.split(b"\r\n")
    version, status, phrase = line.split(b" ", 2)
    assert (version, bool(phrase)) == (b"HTTP/1.1", True)
    values = dict(field.lower().split(b": ", 1) for field in fields)
    word = values[b"x-bifrost-reason"]
    assert values[b"connection"] == b"close"
    assert int(values[b"content-length"]) == len(body)
    assert body.startswith(b"%b %b\n" % (status, word))
    assert (b"retry-after" in values) == (status == b"503")
    return int(status), word.decode()
