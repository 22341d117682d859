"""Listening sockets of the control server."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Iterable

from .auth import Peer
from .errors import BindError
from .target import endpoint_text, pack

log = logging.getLogger("bifrost.http")

BATCH = 16  # connections accepted in one turn
PAUSE = 1.0  # seconds without accepting when descriptors ran out
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Acceptor:
    """Listens on any number of addresses.

    Args:
        loop: the event loop
        welcome: takes each non-blocking connection and the addresses of its ends

    Attributes:
        addresses: what is really listened on, port 0 resolved
    """

    __slots__ = ("_listeners", "_loop", "_paused", "_welcome", "addresses")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, welcome: Callable[[socket.socket, Peer], None]
    ) -> None:
        self._loop = loop
        self._welcome = welcome
        self.addresses: list[tuple[str, int]] = []
        self._listeners: list[socket.socket] = []
        self._paused: asyncio.TimerHandle | None = None

    def listen(self, endpoints: Iterable[tuple[str, int]]) -> None:
        """Listen on all `endpoints`, IP address and port each, or on none.

        Raises:
            BindError: one of them cannot be had
        """
        try:
            for host, port in endpoints:
                self._listeners.append(_bind(host, port))
        except BindError:
            self.close()
            raise
        self.addresses += [listener.getsockname()[:2] for listener in self._listeners]
        self._resume()

    def close(self) -> None:
        """Listen no more."""
        if self._paused is not None:
            self._paused.cancel()
            self._paused = None
        for listener in self._listeners:
            self._loop.remove_reader(listener.fileno())
            listener.close()
        self._listeners.clear()
        self.addresses.clear()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(BATCH):
            try:
                sock, address = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _FULL:
                    self._pause(error)
                    return
                continue  # the client is gone already
            sock.setblocking(False)
            try:
                own = _no_zone(sock.getsockname()[0])
            except OSError:
                sock.close()
                continue
            name = _no_zone(address[0])
            self._welcome(sock, Peer(pack(name) or b"", pack(own) or b"", name))

    def _pause(self, error: OSError) -> None:
        """Descriptors ran out. A listener that is ready and not accepted would spin."""
        if self._paused is None:
            log.error("the control server accepts nobody for a moment: %s", error.strerror)
            for listener in self._listeners:
                self._loop.remove_reader(listener.fileno())
            self._paused = self._loop.call_later(PAUSE, self._resume)

    def _resume(self) -> None:
        self._paused = None
        for listener in self._listeners:
            self._loop.add_reader(listener.fileno(), self._accept, listener)


def _no_zone(address: str) -> str:
    """A link-local address without the interface it is on, RFC 4007 section 11."""
    return address.partition("%")[0]


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # Inherited by what it accepts: frames are gathered here, not by the kernel.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind((host, port))
        sock.listen(64)
    except OSError as error:
        sock.close()
        where = endpoint_text(host, port)
        raise BindError(f"cannot listen on {where} (control): {error.strerror}") from error
    return sock
