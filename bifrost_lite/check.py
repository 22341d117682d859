"""One check of a backend: callbacks on one connection, one deadline over everything."""

from __future__ import annotations

import asyncio
import re
from _socket import socket as Socket
from collections.abc import Callable
from time import time
from typing import TYPE_CHECKING

from .backends.base import Backend, Connecting
from .config import schema
from .config.values import authority
from .dispatch import IN, OUT, Dispatcher, crashed
from .errors import Reason
from .target import Target, read_authority
from .way import Way
from .wire.http1 import find_response_end

if TYPE_CHECKING:
    from .wire.genl import Peer
    from .wireguard import Done as PeersDone

ANSWER_LIMIT = 16 * 1024  # bytes up to the final status: interim answers are small and few
_READ = 4096
_NOBODY = bytes(4)  # the client whose ways are asked for

_status = re.compile(rb"HTTP/1\.[0-9] ([1-9][0-9]{2})(?: [^\r\n]*)?\r?").fullmatch

# Failures of our own say nothing about the backend.
_OURS = frozenset((Reason.OUT_OF_DESCRIPTORS, Reason.INTERNAL))

# Asks for the peers of the backend's WireGuard device.
Ask = Callable[["PeersDone"], Connecting]


class Check:
    """One question through one backend. `done` is called exactly once, unless `cancel` is first.

    Args:
        loop: has the timer
        dispatcher: calls it
        backend: to be checked
        health: how
        ask: asks for the peers of its WireGuard device
        done: told why it failed, "" where it passed, and whether that says anything
    """

    __slots__ = (
        "_ask", "_backend", "_buffer", "_connecting", "_dispatcher", "_done", "_health", "_left",
        "_out", "_sock", "_timer",
    )  # fmt: skip

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        dispatcher: Dispatcher,
        backend: Backend,
        health: schema.Health,
        ask: Ask,
        done: Callable[[str, bool], None],
    ) -> None:
        self._dispatcher = dispatcher
        self._backend = backend
        self._health = health
        self._ask = ask
        self._done: Callable[[str, bool], None] | None = done
        self._sock: Socket | None = None
        self._connecting: Connecting | None = None
        self._out = b""
        self._buffer = b""
        self._left = ANSWER_LIMIT
        self._timer = loop.call_later(health.timeout, self._late)

    def start(self) -> None:
        """Begin; it may be done before this returns."""
        try:
            connecting = self._begin()
        except Exception:
            crashed(self)
            return
        if self._done is not None and self._sock is None:
            self._connecting = connecting

    def _begin(self) -> Connecting:
        backend, health = self._backend, self._health
        if health.type == "wireguard":
            return self._ask(self._answered)
        if health.type == "tcp":
            return backend.probe(authority(health.target), self._dialled)
        target, host, path = parse_url(health.target)
        ways = backend.carriers(_NOBODY)
        fields = b""
        if ways and ways[0].absolute:  # RFC 9112 section 3.2.2
            path = b"http://%b%b" % (host, path)
            if ways[0].authorization:
                fields = b"Proxy-Authorization: %b\r\n" % ways[0].authorization
        self._out = (
            b"GET %b HTTP/1.1\r\nHost: %b\r\nUser-Agent: bifrost-lite\r\nAccept: */*\r\n"
            b"Connection: close\r\n%b\r\n" % (path, host, fields)
        )
        return backend.probe(target, self._dialled, True)

    def cancel(self) -> None:
        """Give up; `done` will not be called."""
        self._done = None
        self._timer.cancel()
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
        sock, self._sock = self._sock, None
        if sock is not None:
            self._dispatcher.discard(sock.fileno(), sock)

    def on_event(self, mask: int) -> None:
        """The connection takes the request, or has more of the answer."""
        sock = self._sock
        if sock is None:
            return
        try:
            if self._out:
                self._out = self._out[sock.send(self._out) :]
            while not self._out:
                data = sock.recv(_READ)
                if not data:
                    self._finish("The connection ended before the answer was complete.")
                    return
                self._buffer += data
                self._left -= len(data)
                why = self._read()
                if why is None and self._left <= 0:
                    why = f"There is no status in the first {ANSWER_LIMIT >> 10} KiB."
                if why is not None:
                    self._finish(why)
                    return
        except BlockingIOError:
            return
        except OSError:
            self._finish("The connection broke before the answer was complete.")

    def wants(self, fd: int) -> int:
        """For the portable selector."""
        return OUT if self._out else IN

    def crash(self) -> None:
        """A callback raised: see dispatch.Owner."""
        self._finish(Reason.INTERNAL.text, False)

    def _dialled(
        self, sock: Socket | None, mask: int, reason: Reason | None, way: Way | None
    ) -> None:
        self._connecting = None
        if sock is None:
            reason = reason or Reason.CONNECT_FAILED
            self._finish(reason.text, reason not in _OURS)
            return
        self._sock = sock
        if self._health.type == "tcp":
            self._finish("")
            return
        self._dispatcher.handlers[sock.fileno()] = self.on_event
        self.on_event(mask)

    def _answered(self, peers: list[Peer] | None, why: str) -> None:
        from .wireguard import REJECT_AFTER_TIME, age  # here already, for it answers

        self._connecting = None
        if peers is None:
            self._finish(f"Nothing is known of its handshakes: {why}.")
            return
        seconds = age(peers, time())
        if seconds is None:
            self._finish("There was no handshake yet.")
        elif seconds > REJECT_AFTER_TIME:
            self._finish(f"The last handshake was {seconds:.0f} s ago.")
        else:
            self._finish("")

    def _read(self) -> str | None:
        """What the bytes so far mean: "" passed, a sentence why not, None nothing yet."""
        while True:
            line, newline, _ = self._buffer.partition(b"\n")
            if not newline:
                return None
            found = _status(line)
            if found is None:
                return "The answer is not HTTP."
            status = int(found[1])
            if status >= 200 or status == 101:
                good = status in self._health.expect
                return "" if good else f"The answer has status {status}."
            # RFC 9110 section 15.2: an interim answer, another follows.
            end = find_response_end(self._buffer)
            if end < 0:
                return None
            self._buffer = self._buffer[end:]

    def _late(self) -> None:
        self._finish(f"There was no answer within {self._health.timeout:g} s.")

    def _finish(self, why: str, telling: bool = True) -> None:
        done = self._done
        self.cancel()
        if done is not None:
            done(why, telling)


def parse_url(url: str) -> tuple[Target, bytes, bytes]:
    """What a check of the type `http` asks for: the target, the Host, and the path.

    Args:
        url: an http:// address that `values.http_url` took
    """
    host, _, path = url.partition("://")[2].partition("/")
    return (
        read_authority(host.encode(), 80),
        host.encode(),
        b"/" + path.partition("#")[0].encode(),
    )
