"""The kernel's side of a netlink socket, played by a test."""

from __future__ import annotations

import errno
import socket
import struct

PORT = 4242  # of the socket that asks


def attribute(kind: int, data: bytes) -> bytes:
    """An attribute, padded."""
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def message(kind: int, payload: bytes, sequence: int = 0, port: int = 0, flags: int = 2) -> bytes:
    """A message, by default news that nobody asked for."""
    padding = bytes(-len(payload) % 4)
    return struct.pack("=IHHII", 16 + len(payload), kind, flags, sequence, port) + payload + padding


def done(sequence: int, code: int = 0) -> bytes:
    """The end of a dump."""
    return message(3, struct.pack("=i", -code), sequence, PORT)


def error(sequence: int, code: int) -> bytes:
    """A refusal, or with code 0 an acknowledgement."""
    return message(2, struct.pack("=i", -code) + bytes(16), sequence, PORT)


def address(
    text: str,
    kind: int = 20,
    sequence: int = 0,
    port: int = 0,
    flags: int = 2,
    *,
    interface: int = 1,
    prefix: int = 8,
) -> bytes:
    """A message about an IPv4 address."""
    body = struct.pack("=BBBBI", 2, prefix, 0, 0, interface)
    body += attribute(2, socket.inet_aton(text))
    return message(kind, body, sequence, port, flags)


def link(
    name: str,
    number: int,
    up: bool = True,
    running: bool = True,
    *,
    kind: int = 16,
    family: int = 0,
    sequence: int = 0,
    port: int = 0,
    flags: int = 2,
) -> bytes:
    """A message about a link."""
    state = (0x1 if up else 0) | (0x40 if running else 0)
    body = struct.pack("=BBHiII", family, 0, 1, number, state, 0)
    body += attribute(4, struct.pack("=I", 1500)) + attribute(3, name.encode() + b"\0")
    return message(kind, body, sequence, port, flags)


class Kernel:
    """A netlink socket whose reads are scripted.

    Args:
        answers: what can be read after each request: data, or an error that reading raises
        sender: the port that all data comes from, 0 for the kernel

    Attributes:
        reads: what can be read now
        requests: what was sent
    """

    def __init__(self, *answers: list[bytes | OSError], sender: int = 0) -> None:
        self.answers = list(answers)
        self.reads: list[bytes | OSError] = []
        self.sender = sender
        self.requests: list[bytes] = []
        self.groups = 0
        self.closed = False
        self.ours, self.theirs = socket.socketpair()

    def fileno(self) -> int:
        return self.ours.fileno()

    def close(self) -> None:
        self.closed = True
        self.ours.close()
        self.theirs.close()

    def bind(self, place: tuple[int, int]) -> None:
        self.groups = place[1]

    def getsockname(self) -> tuple[int, int]:
        return PORT, self.groups

    def settimeout(self, seconds: float) -> None:
        assert 0 < seconds <= 2

    def setblocking(self, blocking: bool) -> None:
        assert not blocking

    def send(self, data: bytes) -> int:
        self.requests.append(data)
        self.reads += self.answers.pop(0)
        return len(data)

    def recvfrom(self, size: int) -> tuple[bytes, tuple[int, int]]:
        if not self.reads:
            raise BlockingIOError(errno.EAGAIN, "nothing")
        read = self.reads.pop(0)
        if isinstance(read, OSError):
            raise read
        return read, (self.sender, 0)
