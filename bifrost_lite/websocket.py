"""One WebSocket client: the library's protocol on a socket, timers and queue of our own.

`websockets.server.ServerProtocol` does the handshake, frames, close codes and their limits
(RFC 6455). It is imported when the first upgrade arrives, since it doubles what the control
plane holds in memory; a daemon that nobody watches never has it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable, Iterator
from time import monotonic
from types import ModuleType
from typing import TYPE_CHECKING

from .events import Event
from .fanout import STUCK, Fanout, Outbox, Seats, Watcher
from .rest import Call, Refused

if TYPE_CHECKING:
    from websockets.frames import Frame
    from websockets.server import ServerProtocol

    _frame: type[Frame]

MESSAGE_LIMIT = 4096  # bytes; the only message that means something is `ping`
CLOSING = 5.0  # seconds that a client has to answer a close frame
READ = 1024  # bytes parsed in one turn: about a millisecond of the smallest frames

# The library logs request heads at level debug, and a head may hold the token.
_logger = logging.getLogger("bifrost.websocket")
_logger.setLevel(logging.WARNING)


def load() -> None:
    """Import the library, without the part of it that is fat and not needed.

    Its version module imports importlib.metadata (and with it zipfile, email, pathlib:
    1.5 MB) to find out what a release knows already.
    """
    if "websockets" not in sys.modules and "websockets.version" not in sys.modules:
        version = ModuleType("websockets.version")
        vars(version).update(tag="", version="", commit="")
        sys.modules["websockets.version"] = version
    global _frame
    from websockets.frames import Frame

    _frame = Frame


def text_frame(payload: bytes) -> bytes:
    """The frame of a text message, RFC 6455 section 5.2.

    A server's frames carry no mask, so all clients share it. The library's `Frame` makes the
    same in five times the time, and this is done for every event.
    """
    size = len(payload)
    if size < 126:
        return b"\x81%c%b" % (size, payload)
    if size < 65536:
        return b"\x81\x7e%b%b" % (size.to_bytes(2, "big"), payload)
    return b"\x81\x7f%b%b" % (size.to_bytes(8, "big"), payload)


def upgrade(call: Call, seats: Seats) -> tuple[ServerProtocol, bytes]:
    """Answer the opening handshake, RFC 6455 section 4.2; takes one of `seats`.

    Returns:
        the protocol in state open, and the bytes of the 101 answer

    Raises:
        Refused: 426 no handshake at all, 503 no seat, 400 a bad handshake
    """
    if "websocket" not in (call.header(b"upgrade") or "").lower():
        raise Refused(
            426,
            "upgrade_required",
            "This is a WebSocket address: connect with a WebSocket client.",
            "Upgrade: websocket",
            "Connection: Upgrade",
        )
    if not seats.take():
        raise Refused(
            503,
            "too_many_clients",
            f"All {seats.limit} seats for WebSocket clients are taken.",
            "Retry-After: 5",
        )
    try:
        return _handshake(call.head)
    except Refused:
        seats.leave()
        raise


def _handshake(head: bytes) -> tuple[ServerProtocol, bytes]:
    load()
    from websockets.http11 import Request
    from websockets.server import ServerProtocol

    protocol = ServerProtocol(max_size=MESSAGE_LIMIT, logger=_logger)
    protocol.receive_data(head.lstrip(b"\r\n"))
    for request in protocol.events_received():
        assert isinstance(request, Request)
        response = protocol.accept(request)
        if response.status_code == 101:
            protocol.send_response(response)
            return protocol, b"".join(protocol.data_to_send())
    # What the library found wrong it says in its own words, with text of the client's.
    raise Refused(400, "bad_handshake", "The WebSocket handshake is not valid.")


class WebSocket(Watcher[Event]):
    """A client of an event endpoint.

    Args:
        loop: the event loop
        sock: the non-blocking socket of the upgraded connection
        protocol: what `upgrade` gave
        fanout: the source it watches
        seats: gets its seat back at the end
        read_timeout: seconds after which a silent client is closed; pinged at half of it
        gap: makes the frame that tells of lost events
        wants: which events it asked for, None for all
    """

    __slots__ = ("_close_by", "_message", "_pinged", "_protocol", "_seen", "_timeout")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        protocol: ServerProtocol,
        *,
        fanout: Fanout[Event],
        seats: Seats,
        read_timeout: float,
        gap: Callable[[int, int], bytes],
        wants: Callable[[Event], bool] | None = None,
    ) -> None:
        super().__init__(loop, sock, fanout, seats, wants)
        self._protocol = protocol
        self._timeout = read_timeout
        self._seen = monotonic()
        self._pinged = False
        self._close_by = 0.0
        self._message: bytes | None = None  # begin of a text whose last fragment has not come
        self.outbox = Outbox(
            loop, sock, seats=seats, gap=gap, blocked=self._wake, broken=self.drop
        )

    def start(self, first: Iterator[bytes], rest: bytes) -> None:
        """Take part.

        Args:
            first: what goes out before everything else, see `Outbox.begin`
            rest: what the client sent behind its handshake
        """
        self._fanout.add(self)
        self._loop.add_reader(self._sock.fileno(), self._readable)
        self.outbox.begin(first)
        if rest:
            self._receive(rest)

    # The source's side.

    def due(self) -> float:
        if self._close_by:
            return self._close_by
        silent = self._seen + (self._timeout if self._pinged else self._timeout / 2)
        stalled = self.outbox.stalled
        return min(silent, stalled + STUCK) if stalled else silent

    def tick(self, now: float) -> None:
        stalled = self.outbox.stalled
        if self._close_by:
            self.drop()
        elif stalled and now >= stalled + STUCK:
            self.close(1013, "too slow")
        elif now >= self._seen + self._timeout:
            self.close(1008, "no sign of life")
        else:
            self._pinged = True
            self._protocol.send_ping(b"")
            self._send()

    def stop(self) -> None:
        self.close(1001, "the daemon stops")

    def close(self, code: int, reason: str) -> None:
        """Begin the closing handshake; the client has `CLOSING` seconds for its part.

        Args:
            code: RFC 6455 section 7.4
            reason: for people
        """
        if not self._close_by:
            self._protocol.send_close(code, reason)
            self.outbox.seal(b"".join(self._protocol.data_to_send()))
            self._close_soon()

    # The client's side.

    def _readable(self) -> None:
        try:
            data = self._sock.recv(READ)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if data:
            self._receive(data)
        else:
            self.drop()

    def _receive(self, data: bytes) -> None:
        protocol = self._protocol
        protocol.receive_data(data)
        frames = protocol.events_received()
        if frames:
            self._seen = monotonic()
            self._pinged = False
        for frame in frames:
            if isinstance(frame, _frame):
                self._answer(frame)
        self._send()

    def _answer(self, frame: Frame) -> None:
        """`pong` for a text message `ping`, whole or in fragments; nothing for all others."""
        opcode = frame.opcode
        if opcode == 1:
            message = b""
        elif opcode == 0 and self._message is not None:
            message = self._message
        else:
            return
        # Beyond five bytes it can be no ping: that is remembered, not the message.
        message = (message + bytes(frame.data))[:5]
        self._message = None if frame.fin else message
        if frame.fin and message == b"ping" and not self._protocol.close_expected():
            self._protocol.send_text(b"pong")

    def _send(self) -> None:
        """Hand over what the protocol wants sent; an empty piece is its end of stream."""
        pieces = self._protocol.data_to_send()
        if not pieces:
            return
        if pieces[-1]:
            self.outbox.send(b"".join(pieces))
            return
        self.outbox.seal(b"".join(pieces))
        self.outbox.end()
        self._close_soon()

    def _close_soon(self) -> None:
        if not self._close_by:
            self._close_by = monotonic() + CLOSING
            self._wake()

    def _wake(self) -> None:
        self._fanout.wake(self.due())
