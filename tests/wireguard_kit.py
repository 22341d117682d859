"""What the kernel says of WireGuard devices, composed as its uapi header wireguard.h has it."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence

from tests.netlink_kit import PORT, attribute

FAMILY = 33  # the message type of WireGuard on the machine that is played
NESTED = 0x8000


class Answer:
    """The socket of somebody who asks; the test answers for the kernel, step by step.

    Attributes:
        asked: the other end, where requests arrive and answers are sent
    """

    def __init__(self, sender: int = 0) -> None:
        self.sender = sender
        self.ours, self.asked = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.asked.settimeout(5)

    def fileno(self) -> int:
        return self.ours.fileno()

    def close(self) -> None:
        self.ours.close()

    def bind(self, place: tuple[int, int]) -> None:
        assert place == (0, 0)

    def getsockname(self) -> tuple[int, int]:
        return PORT, 0

    def setblocking(self, blocking: bool) -> None:
        self.ours.setblocking(blocking)

    def settimeout(self, seconds: float) -> None:
        self.ours.settimeout(seconds)

    def send(self, data: bytes) -> int:
        return self.ours.send(data)

    def recvfrom(self, size: int) -> tuple[bytes, tuple[int, int]]:
        return self.ours.recv(size), (self.sender, 0)


def family(number: int = FAMILY) -> bytes:
    """What is told of the family: its name, type, version and other things."""
    return (
        struct.pack("=BBH", 1, 2, 0)
        + attribute(2, b"wireguard\0")
        + attribute(1, struct.pack("=H", number))
        + attribute(3, struct.pack("=I", 1))
    )


def endpoint(host: str, port: int) -> bytes:
    """A sockaddr_in or sockaddr_in6."""
    if ":" in host:
        packed = socket.inet_pton(socket.AF_INET6, host)
        return struct.pack("=H", 10) + struct.pack("!HI", port, 0) + packed + bytes(4)
    return struct.pack("=H", 2) + struct.pack("!H", port) + socket.inet_aton(host) + bytes(8)


def allowed(network: str) -> bytes:
    """An allowed network of a peer."""
    host, _, prefix = network.partition("/")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return attribute(
        NESTED,
        attribute(3, bytes((int(prefix),)))
        + attribute(1, struct.pack("=H", family))
        + attribute(2, socket.inet_pton(family, host)),
    )


def peer(
    key: bytes,
    networks: Sequence[str] = (),
    *,
    at: tuple[str, int] | None = None,
    handshake: tuple[int, int] = (0, 0),
    received: int = 0,
    sent: int = 0,
    keepalive: int = 0,
) -> bytes:
    """A peer as the kernel tells of it for the first time."""
    body = attribute(1, key) + attribute(2, bytes(32))
    body += attribute(6, struct.pack("=qq", *handshake))
    body += attribute(5, struct.pack("=H", keepalive))
    body += attribute(8, struct.pack("=Q", sent)) + attribute(7, struct.pack("=Q", received))
    body += attribute(10, struct.pack("=I", 1))
    if at is not None:
        body += attribute(4, endpoint(*at))
    if networks:
        body += attribute(NESTED | 9, b"".join(map(allowed, networks)))
    return attribute(NESTED, body)


def more(key: bytes, networks: Sequence[str]) -> bytes:
    """The rest of a peer that did not fit."""
    nested = attribute(NESTED | 9, b"".join(map(allowed, networks)))
    return attribute(NESTED, attribute(1, key) + nested)


def device(
    *peers: bytes,
    name: str = "wg0",
    number: int = 6,
    private: bytes = bytes(32),
    public: bytes = bytes(32),
    first: bool = True,
) -> bytes:
    """A message about a device; those after the first have its name and peers alone."""
    body = struct.pack("=BBH", 0, 1, 0)
    if first:
        body += attribute(6, struct.pack("=H", 51820)) + attribute(7, bytes(4))
        body += attribute(1, struct.pack("=I", number))
    body += attribute(2, name.encode() + b"\0")
    if first:
        body += attribute(3, private) + attribute(4, public)
    if peers:
        body += attribute(NESTED | 8, b"".join(peers))
    return body
