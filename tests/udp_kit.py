"""A SOCKS5 client for datagrams, and targets: sockets that a test holds in its hands."""

from __future__ import annotations

import socket
from typing import NamedTuple

from bifrost_lite.target import Target, from_packed
from bifrost_lite.wire.udp import associated, header_end, make_header, read_target
from tests.plane_kit import DEADLINE, LOOPBACK, Peer

ASSOCIATE = b"\x05\x03\x00\x01\0\0\0\0\0\0"


class Datagram(NamedTuple):
    """What came, and from where."""

    data: bytes
    source: tuple[str, int]


class Point:
    """A bound UDP socket with a deadline.

    Args:
        host, port: to bind
    """

    def __init__(self, host: str = LOOPBACK, port: int = 0) -> None:
        self.sock = socket.socket(
            socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM
        )
        self.sock.settimeout(DEADLINE)
        self.sock.bind((host, port))
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
        """The next datagram."""
        data, source = self.sock.recvfrom(70000)
        return Datagram(data, source[:2])

    def expect(self, data: bytes) -> tuple[str, int]:
        """The next datagram has to be this; answers where it came from."""
        got = self.recv()
        assert got.data == data
        return got.source

    def send(self, data: bytes, to: tuple[str, int]) -> None:
        assert self.sock.sendto(data, to) == len(data)

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


class Rider(Point):
    """A client with an association.

    Args:
        control: connected to a listener
        asked: port that the request names: its own where True
        host: to send from; the control connection's where ""

    Attributes:
        relay: where its datagrams go
    """

    def __init__(self, control: Peer, asked: bool = False, host: str = "") -> None:
        own = control.sock.getsockname()[0].removeprefix("::ffff:")
        super().__init__(host or own)
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
