"""What the kernel tells of links and addresses: one dump at the start, then its own messages.

`OwnAddresses` knows by it which addresses are this machine's. Without a netlink socket
(another system, a sandbox) an address is, if a socket can be bound to it.
"""

from __future__ import annotations

import errno
import logging
import socket
from _socket import socket as Socket
from collections.abc import Callable
from socket import AF_INET, AF_INET6, SOCK_DGRAM, SOCK_RAW
from time import monotonic

from .acl import embedded, unpack
from .dispatch import IN, Dispatcher
from .errors import ProtocolError
from .wire.netlink import (
    ADDRESS_GROUPS,
    DELETED_ADDRESS,
    DELETED_LINK,
    DONE,
    ERROR,
    INTERRUPTED,
    LINK_GROUP,
    NEW_ADDRESS,
    NEW_LINK,
    Address,
    Link,
    Message,
    parse,
    parse_address,
    parse_error,
    parse_link,
    request_addresses,
    request_links,
)

log = logging.getLogger("bifrost.netlink")

DUMP_SECONDS = 2.0  # for the kernel to list everything, which takes it under a millisecond
DUMPS = 5  # tries, where things change faster than they are listed
READ = 32768  # bytes: the kernel fills no more at once
_READS = 16  # in a row, before others have their turn
_AF_NETLINK: int | None = getattr(socket, "AF_NETLINK", None)  # Linux alone has it


def open_netlink(protocol: int, groups: int = 0) -> Socket:
    """A netlink socket that has a port.

    Args:
        protocol: 0 for links and addresses, 16 for what registers itself by a name
        groups: of messages to hear

    Raises:
        OSError: this system has none, or does not give it to us
    """
    if _AF_NETLINK is None:
        raise OSError(errno.EAFNOSUPPORT, "only Linux has it")
    sock = Socket(_AF_NETLINK, SOCK_RAW, protocol)
    try:
        sock.bind((0, groups))
    except OSError:
        sock.close()
        raise
    return sock


class Feed:
    """All links, or addresses, or both, as the kernel tells of them.

    Args:
        dispatcher: calls when there is news
        groups: LINK_GROUP, ADDRESS_GROUPS, or both
        changed: called after each news; several may come as one
        failed: told why there will be no more; the feed is closed then

    Attributes:
        links: by index
        addresses: of all links

    Raises:
        OSError: there is no netlink, or it does not answer
        ProtocolError: its answer is broken
    """

    __slots__ = (
        "_changed", "_dispatcher", "_failed", "_port", "_requests", "_sequence", "_sock",
        "addresses", "links",
    )  # fmt: skip

    def __init__(
        self,
        dispatcher: Dispatcher,
        groups: int,
        changed: Callable[[], None],
        failed: Callable[[str], None],
    ) -> None:
        self._dispatcher = dispatcher
        self._changed = changed
        self._failed = failed
        self._requests: list[Callable[[int], bytes]] = []
        if groups & LINK_GROUP:
            self._requests.append(request_links)
        if groups & ADDRESS_GROUPS:
            self._requests.append(request_addresses)
        self._sequence = 0
        self.links: dict[int, Link] = {}
        self.addresses: set[Address] = set()
        sock = open_netlink(0, groups)
        try:
            self._port: int = sock.getsockname()[0]
            self._dump(sock)
        except (OSError, ProtocolError):
            sock.close()
            raise
        self._sock: Socket | None = sock
        dispatcher.attach(sock.fileno(), self.on_event, edge=False)

    def close(self) -> None:
        """Hear no more."""
        sock, self._sock = self._sock, None
        if sock is not None:
            self._dispatcher.discard(sock.fileno(), sock)

    def on_event(self, mask: int) -> None:
        """The kernel tells of changes, or that it had to leave some out."""
        sock = self._sock
        if sock is None:
            return
        try:
            for _ in range(_READS):
                data, sender = sock.recvfrom(READ)
                if sender[0] == 0:  # the kernel; a process with privileges could write, too
                    for message in parse(data):
                        self._apply(message)
        except BlockingIOError:
            pass
        except (OSError, ProtocolError) as error:
            if not isinstance(error, ProtocolError) and error.errno != errno.ENOBUFS:
                raise
            try:
                self._dump(sock)
            except (OSError, ProtocolError) as failure:
                self.close()
                self._failed(str(failure))
                return
        self._changed()

    def wants(self, fd: int) -> int:
        """For the portable selector."""
        return IN

    def crash(self) -> None:
        """The handler raised."""
        self.close()
        self._failed("a fault of our own")

    def _apply(self, message: Message) -> None:
        kind = message.kind
        if kind in (NEW_ADDRESS, DELETED_ADDRESS):
            address = parse_address(message.payload)
            if address is not None:
                (self.addresses.add if kind == NEW_ADDRESS else self.addresses.discard)(address)
        elif kind in (NEW_LINK, DELETED_LINK):
            link = parse_link(message.payload)
            if link is not None:
                self.links.pop(link.number, None)
                if kind == NEW_LINK:
                    self.links[link.number] = link

    def _dump(self, sock: Socket) -> None:
        """Ask for everything and wait for it; `sock` does not block afterwards.

        Raises:
            OSError: the kernel refuses, or takes too long
            ProtocolError: a message is broken
        """
        deadline = monotonic() + DUMP_SECONDS
        for _ in range(DUMPS):
            self._forget(sock, deadline)
            if all(self._read_dump(sock, request, deadline) for request in self._requests):
                sock.setblocking(False)
                return
        raise OSError(errno.EAGAIN, "things change faster than they are listed")

    def _forget(self, sock: Socket, deadline: float) -> None:
        """Begin anew: what is left to read comes from before the gap."""
        self.links.clear()
        self.addresses.clear()
        sock.setblocking(False)
        while monotonic() < deadline:
            try:
                sock.recvfrom(READ)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise

    def _read_dump(self, sock: Socket, request: Callable[[int], bytes], deadline: float) -> bool:
        """Ask for one kind of thing; False where some changed while they were listed."""
        self._sequence += 1
        steady = True
        sock.settimeout(DUMP_SECONDS)
        sock.send(request(self._sequence))
        while True:
            left = deadline - monotonic()
            if left <= 0:
                raise OSError(errno.ETIMEDOUT, "the kernel does not answer")
            sock.settimeout(left)
            try:
                data, sender = sock.recvfrom(READ)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                steady = False
                continue
            for message in parse(data) if sender[0] == 0 else ():
                self._apply(message)
                if message.sequence != self._sequence or message.port != self._port:
                    continue  # news of a change, or the rest of an earlier dump
                steady = steady and not message.flags & INTERRUPTED
                if message.kind in (ERROR, DONE):
                    code = parse_error(message.payload)
                    if code or message.kind == ERROR:
                        raise OSError(code, "the kernel refuses")
                    return steady


class OwnAddresses:
    """Knows which addresses are this machine's.

    Args:
        dispatcher: calls when they change

    Attributes:
        addresses: of 4 or 16 bytes; another set after each change; empty without netlink
    """

    __slots__ = ("_feed", "addresses")

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.addresses: frozenset[bytes] = frozenset()
        self._feed: Feed | None = None
        try:
            self._feed = Feed(dispatcher, ADDRESS_GROUPS, self._changed, self._failed)
        except (OSError, ProtocolError) as error:
            log.warning("own addresses are found by trial, for netlink does not work: %s", error)
        self._changed()

    def is_own(self, packed: bytes) -> bool:
        """Whether packets to this address of 4 or 16 bytes end at this machine."""
        known = _can_bind if self._feed is None else self.addresses.__contains__
        if known(packed):
            return True
        inner = embedded(packed)
        return inner is not None and known(inner)

    def close(self) -> None:
        """Hear no more of changes."""
        feed, self._feed = self._feed, None
        if feed is not None:
            feed.close()

    def _changed(self) -> None:
        if self._feed is not None:
            self.addresses = frozenset(address.packed for address in self._feed.addresses)

    def _failed(self, why: str) -> None:
        self._feed = None
        log.warning("own addresses are found by trial from now on: %s", why)


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
