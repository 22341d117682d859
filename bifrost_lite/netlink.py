"""The addresses of this machine: one dump at the start, then the kernel's own messages.

Without a netlink socket (another system, a sandbox) an address is this machine's if a
socket can be bound to it.
"""

from __future__ import annotations

import errno
import logging
import socket
from _socket import socket as Socket
from socket import AF_INET, AF_INET6, SOCK_DGRAM, SOCK_RAW
from time import monotonic

from .acl import embedded, unpack
from .dispatch import IN, Dispatcher
from .errors import ProtocolError
from .wire.netlink import (
    ADDRESS_GROUPS,
    DELETED_ADDRESS,
    DONE,
    ERROR,
    INTERRUPTED,
    NEW_ADDRESS,
    Address,
    Message,
    parse,
    parse_address,
    parse_error,
    request_addresses,
)

log = logging.getLogger("bifrost.netlink")

DUMP_SECONDS = 2.0  # for the kernel to list all addresses, which takes it under a millisecond
DUMPS = 5  # tries, where addresses change faster than they are listed
_READ = 32768  # bytes: the kernel fills no more at once
_READS = 16  # in a row, before others have their turn
_AF_NETLINK: int | None = getattr(socket, "AF_NETLINK", None)  # Linux alone has it


class OwnAddresses:
    """Knows which addresses are this machine's.

    Args:
        dispatcher: calls when they change

    Attributes:
        addresses: of 4 or 16 bytes; another set after each change; empty without netlink
    """

    __slots__ = ("_dispatcher", "_held", "_port", "_sequence", "_sock", "addresses")

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._held: set[Address] = set()
        self._port = 0
        self._sequence = 0
        self._sock: Socket | None = None
        self.addresses: frozenset[bytes] = frozenset()
        if _AF_NETLINK is None:
            return
        sock = None
        try:
            sock = Socket(_AF_NETLINK, SOCK_RAW, 0)  # NETLINK_ROUTE
            sock.bind((0, ADDRESS_GROUPS))
            self._port = sock.getsockname()[0]
            self._dump(sock)
        except (OSError, ProtocolError) as error:
            log.warning("own addresses are found by trial, for netlink does not work: %s", error)
            if sock is not None:
                sock.close()
            return
        self._sock = sock
        dispatcher.attach(sock.fileno(), self.on_event, edge=False)

    def is_own(self, packed: bytes) -> bool:
        """Whether packets to this address of 4 or 16 bytes end at this machine."""
        known = _can_bind if self._sock is None else self.addresses.__contains__
        if known(packed):
            return True
        inner = embedded(packed)
        return inner is not None and known(inner)

    def close(self) -> None:
        """Hear no more of changes."""
        sock, self._sock = self._sock, None
        if sock is not None:
            self._dispatcher.discard(sock.fileno(), sock)

    def on_event(self, mask: int) -> None:
        """The kernel tells of changes, or that it had to leave some out."""
        sock = self._sock
        if sock is None:
            return
        held = set(self._held)
        try:
            for _ in range(_READS):
                data, sender = sock.recvfrom(_READ)
                if sender[0] == 0:  # the kernel; a process with privileges could write, too
                    for message in parse(data):
                        _apply(message, held)
        except BlockingIOError:
            pass
        except (OSError, ProtocolError) as error:
            if not isinstance(error, ProtocolError) and error.errno != errno.ENOBUFS:
                raise
            try:
                self._dump(sock)
            except (OSError, ProtocolError) as failure:
                log.warning("own addresses are found by trial from now on: %s", failure)
                self.close()
            return
        self._hold(held)

    def wants(self, fd: int) -> int:
        """For the portable selector."""
        return IN

    def crash(self) -> None:
        """The handler raised: go on by trial."""
        self.close()

    def _hold(self, held: set[Address]) -> None:
        self._held = held
        self.addresses = frozenset(address.packed for address in held)

    def _dump(self, sock: Socket) -> None:
        """Ask for all addresses and wait for them; `sock` does not block afterwards.

        Raises:
            OSError: the kernel refuses, or takes too long
            ProtocolError: a message is broken
        """
        deadline = monotonic() + DUMP_SECONDS
        for _ in range(DUMPS):
            self._sequence += 1
            sock.settimeout(DUMP_SECONDS)
            sock.send(request_addresses(self._sequence))
            held = self._read_dump(sock, deadline)
            if held is not None:
                sock.setblocking(False)
                self._hold(held)
                return
        raise OSError(errno.EAGAIN, "addresses change faster than they are listed")

    def _read_dump(self, sock: Socket, deadline: float) -> set[Address] | None:
        """The addresses, or None where they changed while they were listed."""
        held: set[Address] = set()
        steady = True
        while True:
            left = deadline - monotonic()
            if left <= 0:
                raise OSError(errno.ETIMEDOUT, "the kernel does not answer")
            sock.settimeout(left)
            try:
                data, sender = sock.recvfrom(_READ)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                steady = False
                continue
            for message in parse(data) if sender[0] == 0 else ():
                _apply(message, held)
                if message.sequence != self._sequence or message.port != self._port:
                    continue  # news of a change, or the rest of an earlier dump
                steady = steady and not message.flags & INTERRUPTED
                if message.kind == ERROR:
                    raise OSError(parse_error(message.payload), "the kernel refuses")
                if message.kind == DONE:
                    return held if steady else None


def _apply(message: Message, held: set[Address]) -> None:
    if message.kind in (NEW_ADDRESS, DELETED_ADDRESS):
        address = parse_address(message.payload)
        if address is not None:
            (held.add if message.kind == NEW_ADDRESS else held.discard)(address)


def _can_bind(packed: bytes) -> bool:
    """Whether a socket takes this address for its own end."""
    try:
        sock = Socket(AF_INET if len(packed) == 4 else AF_INET6, SOCK_DGRAM)
    except OSError:
        return False
    try:
        sock.bind((unpack(packed), 0))
    except OSError:
        return False
    finally:
        sock.close()
    return True
