"""Where clients come in."""

from __future__ import annotations

import errno
import logging
from _socket import socket as Socket
from socket import (
    AF_INET,
    AF_INET6,
    IPPROTO_IPV6,
    IPPROTO_TCP,
    IPV6_V6ONLY,
    SO_KEEPALIVE,
    SO_OOBINLINE,
    SO_REUSEADDR,
    SOCK_STREAM,
    SOL_SOCKET,
    TCP_NODELAY,
    inet_pton,
)

from .acl import fold
from .dispatch import IN, Deadlines
from .errors import BindError
from .plane import BURST_GAP, REFUSALS, Plane
from .session import Session
from .target import unpack

log = logging.getLogger("bifrost.listener")

BACKLOG = 1024
BATCH = 16  # clients accepted in one turn at most
STARVED_RETRY = 1.0  # seconds until accepting is tried again if nobody leaves before


class Listener:
    """One listening socket of the proxy.

    Args:
        plane: takes the clients
        name: as configured
        address: IPv4 or IPv6 address to bind
        port: 0 for any free one
        protocol: auto, http or socks

    Attributes:
        port: the one it really has
        asked_port: the one it was made with
        open: it is accepting, or will again by itself
        starved: it stopped accepting for want of descriptors

    Raises:
        BindError: the address cannot be had
    """

    def __init__(self, plane: Plane, name: str, address: str, port: int, protocol: str) -> None:
        self.plane = plane
        self.name = name
        self.address = address
        self.asked_port = port
        self.protocol = protocol
        self.starved = False
        self._last_starved = -BURST_GAP
        self._family = AF_INET6 if ":" in address else AF_INET
        self._retry = Deadlines(plane.dispatcher, STARVED_RETRY, Listener.resume)
        try:
            self.sock = self._bind(address, port)
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

    def _bind(self, address: str, port: int) -> Socket:
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
            sock.bind((address, port))
            sock.listen(BACKLOG)
        except OSError:
            sock.close()
            raise
        return sock

    def on_accept(self, mask: int) -> None:
        """Clients wait. The more there are, the more are taken at once; a lone client costs no
        second call that finds nobody."""
        plane = self.plane
        for _ in range(min(BATCH, 1 + plane.admitted // 8)):
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
            Session(plane, self.protocol, sock, fd, client, address, peer[1], refusal)

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
