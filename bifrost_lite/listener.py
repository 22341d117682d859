"""Where clients come in."""

from __future__ import annotations

import errno
import logging
import struct
from _socket import socket as Socket
from array import array
from collections.abc import Sequence
from contextlib import suppress
from socket import (
    AF_INET,
    AF_INET6,
    IPPROTO_IPV6,
    IPPROTO_TCP,
    IPV6_V6ONLY,
    SO_KEEPALIVE,
    SO_OOBINLINE,
    SO_REUSEADDR,
    SO_REUSEPORT,
    SOCK_STREAM,
    SOL_SOCKET,
    TCP_NODELAY,
    inet_pton,
)
from typing import TYPE_CHECKING

from .acl import fold
from .dispatch import IN, Deadlines
from .errors import BindError
from .plane import BURST_GAP, REFUSALS, Plane
from .session import Session
from .target import endpoint_text, unpack

if TYPE_CHECKING:
    from .config.schema import Listen

log = logging.getLogger("bifrost.listener")

BACKLOG = 1024
BATCH = 16  # clients accepted in one turn at most
STARVED_RETRY = 1.0  # seconds until accepting is tried again if nobody leaves before
SO_ATTACH_FILTER = 26  # Linux: include/uapi/asm-generic/socket.h
# A classic BPF program that drops what begins a connection, SYN without ACK, and nothing
# else: struct sock_filter of include/uapi/linux/filter.h, (code, jt, jf, k) each.
_NO_SYN = array("B", b"".join(struct.pack("=HBBI", *step) for step in (
    (0x30, 0, 0, 13),  # load the byte of the TCP header that has the flags
    (0x54, 0, 0, 0x12),  # of which SYN and ACK
    (0x15, 0, 1, 0x02),  # are what SYN alone is?
    (0x06, 0, 0, 0),  # then keep nothing of it
    (0x06, 0, 0, 0xFFFFFFFF),
)))  # fmt: skip


class Listener:
    """One listening socket of the proxy.

    Args:
        plane: takes the clients
        name: as configured
        address: IPv4 or IPv6 address to bind
        port: 0 for any free one
        protocol: auto, http or socks
        auth: clients must log in here where there are users
        udp: SOCKS5 clients may use UDP ASSOCIATE
        shared: others listen on this port at addresses that overlap, and are about to close;
            they have been told by `share`

    Attributes:
        port: the one it really has
        asked_port: the one it was made with
        open: it is accepting, or will again by itself
        starved: it stopped accepting for want of descriptors

    Raises:
        BindError: the address cannot be had
    """

    def __init__(
        self,
        plane: Plane,
        name: str,
        address: str,
        port: int,
        protocol: str,
        auth: bool = True,
        udp: bool = False,
        shared: bool = False,
    ) -> None:
        self.plane = plane
        self.name = name
        self.address = address
        self.asked_port = port
        self.protocol = protocol
        self.auth = auth
        self.udp = udp
        self.starved = False
        self._last_starved = -BURST_GAP
        self._family = AF_INET6 if ":" in address else AF_INET
        self._retry = Deadlines(plane.dispatcher, STARVED_RETRY, Listener.resume)
        try:
            self.sock = self._bind(address, port, shared)
        except OSError as error:
            self._retry.close()
            raise BindError(
                f"{name}: cannot listen on {address} port {port}: {error.strerror}"
            ) from error
        self.port: int = self.sock.getsockname()[1]
        self.fd = self.sock.fileno()
        self.open = True
        plane.listeners.append(self)
        plane.dispatcher.attach(self.fd, self.on_accept, edge=False)

    def _bind(self, address: str, port: int, shared: bool) -> Socket:
        sock = Socket(self._family, SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
            if self._family == AF_INET6:
                sock.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 0 if address == "::" else 1)
            # All three are inherited by accepted sockets.
            sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
            sock.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1)
            sock.setsockopt(SOL_SOCKET, SO_OOBINLINE, 1)  # an urgent byte is a byte like others
            if shared:
                sock.setsockopt(SOL_SOCKET, SO_REUSEPORT, 1)
            sock.bind((address, port))
            sock.listen(BACKLOG)
            if shared:
                sock.setsockopt(SOL_SOCKET, SO_REUSEPORT, 0)
        except OSError:
            sock.close()
            raise
        return sock

    def on_accept(self, mask: int) -> None:
        """Clients wait. The more there are, the more are taken at once; a lone client costs no
        second call that finds nobody."""
        self._accept(min(BATCH, 1 + self.plane.admitted // 8))

    def drain(self) -> None:
        """Take those who wait already: closing would send them away. Who comes from now on is
        not answered, and the next try, a second later, finds who listens then."""
        with suppress(OSError):
            address, size = _NO_SYN.buffer_info()
            program = struct.pack("@HP", size // 8, address)
            self.sock.setsockopt(SOL_SOCKET, SO_ATTACH_FILTER, program)
        self._accept(BACKLOG)

    def _accept(self, most: int) -> None:
        plane = self.plane
        for _ in range(most):
            try:
                fd, peer = self.sock._accept()  # type: ignore[attr-defined]
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._starve()
                    return
                continue  # this client is gone already: the next one
            sock = Socket(self._family, SOCK_STREAM, 0, fd)
            sock.setblocking(False)
            address = peer[0]
            if self._family == AF_INET:
                client = inet_pton(AF_INET, address)
            else:
                client = fold(inet_pton(AF_INET6, address.partition("%")[0]))
                address = unpack(client)
            refusal = plane.admit(client)
            if refusal is not None:
                if plane.refusing >= REFUSALS:
                    sock.close()
                    continue
                plane.refusing += 1
            Session(plane, self, sock, fd, client, address, peer[1], refusal)

    def _starve(self) -> None:
        """No descriptor is left: stop accepting until a client leaves."""
        if self.starved:
            return
        self.starved = True
        dispatcher = self.plane.dispatcher
        dispatcher.detach(self.fd)
        self._retry.start(self)
        if dispatcher.now - self._last_starved > BURST_GAP:
            log.warning("%s: out of file descriptors, clients have to wait", self.name)
        self._last_starved = dispatcher.now

    def resume(self) -> None:
        """Accept again."""
        if self.open and self.starved:
            self.starved = False
            self._retry.stop(self)
            self.plane.dispatcher.attach(self.fd, self.on_accept, edge=False)

    def share(self, willing: bool) -> None:
        """Whether another listener of ours may take addresses that overlap, before this one
        closes: thus a change of the address leaves no gap."""
        self.sock.setsockopt(SOL_SOCKET, SO_REUSEPORT, willing)

    def close(self) -> None:
        """Take no more clients; those that are in stay."""
        if self.open:
            self.open = False
            self._retry.close()
            self.plane.dispatcher.discard(self.fd, self.sock)
            self.plane.listeners.remove(self)

    def wants(self, fd: int) -> int:
        """For the portable selector."""
        return IN

    def crash(self) -> None:
        """Accepting raised: a moment's rest, lest a lasting fault spins."""
        self._starve()


def announce(listener: Listener) -> None:
    """Say where it listens. A whole sentence: entries of one form and many values count as
    repeats of each other."""
    where = endpoint_text(listener.address, listener.port)
    log.info(f"listening: proxy {listener.name} {where}")


def swap(plane: Plane, wanted: Sequence[Listen]) -> None:
    """Open what is new, then close what is gone; the rest goes on.

    Args:
        plane: whose listeners
        wanted: what it shall listen on from now on, in this order

    Raises:
        BindError: an address cannot be had; all is as it was
    """
    gone = list(plane.listeners)
    kept: dict[int, Listener] = {}
    for index, listen in enumerate(wanted):
        place = (listen.address, listen.port)
        same = next((old for old in gone if (old.address, old.asked_port) == place), None)
        if same is not None:
            gone.remove(same)
            kept[index] = same
    opened: dict[int, Listener] = {}
    try:
        for index, listen in enumerate(wanted):
            if index in kept:
                continue
            rivals = [old for old in gone if old.port == listen.port]
            for rival in rivals:
                rival.share(True)
            opened[index] = Listener(
                plane, listen.name, listen.address, listen.port, listen.protocol,
                listen.auth, listen.udp, bool(rivals),
            )  # fmt: skip
    except BindError:
        for listener in opened.values():
            listener.close()
        for old in gone:
            old.share(False)
        raise
    for old in gone:
        old.drain()
        old.close()
    now = {**kept, **opened}
    plane.listeners[:] = [now[index] for index in range(len(wanted))]
    for listener, listen in zip(plane.listeners, wanted, strict=True):
        listener.name, listener.protocol = listen.name, listen.protocol
        listener.auth, listener.udp = listen.auth, listen.udp
    for listener in opened.values():
        announce(listener)
