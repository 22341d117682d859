"""A plane that serves UDP ASSOCIATE, a client of it, and targets, all in a test's hands."""

from __future__ import annotations

import gc
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from bifrost_lite.flow import Flow
from bifrost_lite.plane import Policy
from bifrost_lite.target import Target, from_packed
from bifrost_lite.udp import Association
from bifrost_lite.wire.udp import associated, header_end, make_header, read_target
from tests.plane_kit import DEADLINE, LOOPBACK, Peer, Proxy, until

P = TypeVar("P", bound="Point")

ASSOCIATE = b"\x05\x03\x00\x01\0\0\0\0\0\0"


class Datagram(NamedTuple):
    """What came, and from where."""

    data: bytes
    source: tuple[str, int]


class Point:
    """A bound UDP socket with a deadline; a context manager.

    Args:
        host, port: to bind
        scope: number of the device where the host is link-local
    """

    def __init__(self, host: str = LOOPBACK, port: int = 0, scope: int = 0) -> None:
        self.sock = socket.socket(
            socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM
        )
        self.sock.settimeout(DEADLINE)
        self.sock.bind((host, port, 0, scope) if ":" in host else (host, port))
        self.scope = scope
        self.host = host
        self.port: int = self.sock.getsockname()[1]

    @property
    def target(self) -> Target:
        """Where it is."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        return from_packed(socket.inet_pton(family, self.host), self.port)

    @property
    def header(self) -> bytes:
        """Of a client's datagrams to it."""
        assert self.target.packed is not None
        return make_header(self.target.packed, self.port)

    def recv(self) -> Datagram:
        """The next datagram; its source without a zone."""
        data, source = self.sock.recvfrom(70000)
        return Datagram(data, (source[0].partition("%")[0], source[1]))

    def expect(self, data: bytes) -> tuple[str, int]:
        """The next datagram has to be this; answers where it came from."""
        got = self.recv()
        assert got.data == data
        return got.source

    def send(self, data: bytes, to: tuple[str, int]) -> None:
        place = (*to, 0, self.scope) if ":" in to[0] else to
        assert self.sock.sendto(data, place) == len(data)

    def empty(self) -> None:
        """Nothing has come; settle first."""
        self.sock.setblocking(False)
        try:
            got = self.recv()
            raise AssertionError(f"expected nothing, got {got}")
        except BlockingIOError:
            self.sock.settimeout(DEADLINE)

    def close(self) -> None:
        self.sock.close()

    def __enter__(self: P) -> P:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Rider(Point):
    """A client with an association.

    Args:
        control: connected to a listener
        asked: the request names the port that it sends from
        scope: number of the device where the host is link-local

    Attributes:
        relay: where its datagrams go
    """

    def __init__(self, control: Peer, asked: bool = False, scope: int = 0) -> None:
        own = control.sock.getsockname()[0].removeprefix("::ffff:").partition("%")[0]
        super().__init__(own, scope=scope)
        self.control = control
        request = ASSOCIATE[:-2] + (self.port if asked else 0).to_bytes(2, "big")
        control.send(b"\x05\x01\x00").expect(b"\x05\x00")
        control.send(request)
        head = control.exactly(4)
        assert head[:3] == b"\x05\0\0"
        packed = control.exactly({1: 4, 4: 16}[head[3]])
        port = int.from_bytes(control.exactly(2), "big")
        assert head + packed + port.to_bytes(2, "big") == associated(packed, port)
        family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
        self.relay = (socket.inet_ntop(family, packed), port)

    def say(self, header: bytes, payload: bytes) -> Rider:
        """Send a datagram through the relay."""
        self.send(header + payload, self.relay)
        return self

    def ask(self, target: Point, payload: bytes, header: bytes = b"") -> tuple[str, int]:
        """Send a datagram that arrives; answers from where. The header is the target's own
        where there is none."""
        self.say(header or target.header, payload)
        return target.expect(payload)

    def hear(self, header: bytes, payload: bytes) -> Rider:
        """The next datagram has to come from the relay, with this header and payload."""
        got = self.recv()
        assert got.source == self.relay
        assert got.data[: len(header)] == header
        assert got.data[len(header) :] == payload
        return self


def split(data: bytes) -> tuple[Target, bytes]:
    """A datagram's header, as a target, and its payload."""
    end = header_end(data, len(data))
    assert end
    return read_target(data[:end]), data[end:]


def named(name: str, port: int) -> bytes:
    """The header of a client's datagrams to a name."""
    return b"\0\0\0\x03%c%b" % (len(name), name.encode()) + port.to_bytes(2, "big")


class Served(Proxy):
    """A plane whose listeners serve UDP ASSOCIATE; nothing of it may be left at the end.

    Attributes:
        in_hand: the test itself holds some of it
    """

    in_hand = False

    def __enter__(self) -> Served:
        for listener in self.listeners:
            listener.udp = True
        super().__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        if exc[0] is None and not self.in_hand:
            gc.collect(0)
            left = [thing for thing in gc.get_objects() if type(thing) in (Association, Flow)]
            assert not left

    def rider(self, listener: int = 0, source: str = "", asked: bool = False) -> Rider:
        """A client with an association."""
        return self.keep(Rider(self.connect(listener, source), asked))

    def point(self, host: str = LOOPBACK) -> Point:
        """A target, or a stranger."""
        return self.keep(Point(host))

    @property
    def association(self) -> Association:
        (found,) = self.plane.sessions
        assert isinstance(found, Association)
        return found

    def dropped(self, count: int) -> None:
        """Wait until just so many datagrams were dropped."""
        until(lambda: self.plane.dropped >= count, f"{count} dropped")
        self.settle()
        assert self.plane.dropped == count

    def swap(self, **changes: object) -> None:
        """Other rules from now on."""

        def change() -> None:
            old = self.plane.policy
            new = Policy(old.router, old.backends, (), (), 1000, 1000, False, old.users)
            for name, value in changes.items():
                setattr(new, name, value)
            self.plane.policy = new

        self.call(change)


def exchange(rider: Rider, target: Point, question: bytes = b"who?", answer: bytes = b"me") -> None:
    """A datagram there and one back."""
    source = rider.ask(target, question)
    target.send(answer, source)
    rider.hear(target.header, answer)


@contextmanager
def no_descriptors() -> Iterator[None]:
    """No descriptor can be had in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
