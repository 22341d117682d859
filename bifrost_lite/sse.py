"""The log: a ring of entries, and the streams of those who follow it (Server-Sent Events).

An entry is kept as it came, a `Line` of the daemon or the `Finished` record of a request,
and becomes a `LogEntry` only when somebody reads it. Streams are what the HTML standard
calls `text/event-stream`; each entry has an id, so a browser that comes back goes on where
it was.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
from binascii import hexlify
from collections.abc import Callable
from time import time

import msgspec
from msgspec import UNSET, Struct, UnsetType

from .events import rfc3339
from .fanout import STUCK, Fanout, Outbox, Seats, Watcher
from .records import DEBUG, INFO, LEVELS, WARN, Finished
from .rest import Call, Refused, Takeover, render_head
from .ring import Ring

BUFFER = 100  # entries that may wait for one stream
COMMENT = 15.0  # seconds of silence after which a comment tells that the stream lives

_encode = msgspec.json.Encoder().encode
_event_id = re.compile(r"([0-9a-f]{8})-([0-9]{1,15})").fullmatch
_HELLO = b'data: {"type":"connected"}\nretry: 2000\n\n'


class Line(Struct, gc=False):
    """An entry of the daemon's own log.

    Attributes:
        time: Unix time in seconds
        level: index in `records.LEVELS`
        message: one line
        source: the part of the daemon that says it
    """

    time: float
    level: int
    message: str
    source: str


class SourceFields(Struct):
    """Fields of the daemon's own entries."""

    source: str


class LostFields(Struct):
    """Fields of the entry that tells of lost ones."""

    lost: int


class AccessFields(Struct):
    """Fields of the entry of a finished request; `action` is the backend, as Bifrost names it."""

    method: str
    url: str
    host: str
    status_code: int | UnsetType
    duration_ms: int
    action: str
    backend: str
    client_ip: str
    bytes_sent: int
    bytes_received: int
    error: str
    route: str
    protocol: str
    id: int


class LogEntry(Struct):
    """An entry as readers get it."""

    timestamp: str
    level: str
    message: str
    fields: AccessFields | SourceFields | LostFields


Item = Line | Finished


def level_of(item: Item) -> int:
    """The level of an entry; that a client's request failed is no fault of the daemon."""
    return item.level if isinstance(item, Line) else INFO


def entry_of(item: Item) -> LogEntry:
    """An entry as readers get it."""
    level, when = LEVELS[level_of(item)], rfc3339(item.time)
    if isinstance(item, Line):
        return LogEntry(when, level, item.message, SourceFields(item.source))
    message = f"refused a request from {item.client_ip}"
    if item.url:
        message = f"{item.method} {'http://' if item.protocol == 'HTTP' else ''}{item.url}"
    fields = AccessFields(
        method=item.method,
        url=item.url,
        host=item.host,
        status_code=UNSET if item.status_code is None else item.status_code,
        duration_ms=item.duration_ms,
        action=item.backend,
        backend=item.backend,
        client_ip=item.client_ip,
        bytes_sent=item.bytes_sent,
        bytes_received=item.bytes_received,
        error=item.error,
        route=item.route,
        protocol=item.protocol,
        id=item.id,
    )
    return LogEntry(when, level, message, fields)


class Logs:
    """The ring of log entries and its followers.

    Args:
        loop: the event loop
        ring: how many entries are kept
        subscribers: how many streams there may be

    Attributes:
        seats: the cap of the streams
        ring: the newest entries
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: int, subscribers: int) -> None:
        self._loop = loop
        self._boot = hexlify(os.urandom(4)).decode()
        self.ring: Ring[Item] = Ring(ring)
        self.seats = Seats(subscribers)
        # A quarter of the buffer, so that a stream loses few more than it has to.
        self._fanout: Fanout[tuple[int, Item]] = Fanout(loop, self._message, batch=BUFFER // 4)

    @property
    def lost(self) -> int:
        """Entries that streams lost because they read too slowly."""
        return self.seats.lost

    def append(self, item: Item) -> None:
        """Keep an entry and tell the followers; only on the loop's thread."""
        number = self.ring.append(item)
        if self._fanout.watchers:
            self._fanout.put((number, item), number)

    def read(self, limit: int, floor: int) -> list[LogEntry]:
        """The newest entries of at least level `floor`, the newest first."""
        chosen: list[LogEntry] = []
        for item in self.ring.newest_first():
            if len(chosen) >= limit:
                break
            if level_of(item) >= floor:
                chosen.append(entry_of(item))
        return chosen

    def connect(self, call: Call) -> Takeover:
        """Answer a request for the stream.

        Raises:
            Refused: bad parameters (400), no seat (503)
        """
        level = call.choice("level", LEVELS)
        floor = LEVELS.index(level) if level else DEBUG
        tail = call.number("tail", 0, 10000) or 0
        seen = _event_id(call.header(b"last-event-id") or "")
        if not self.seats.take():
            raise Refused(
                503,
                "too_many_subscribers",
                f"All {self.seats.limit} log streams are taken.",
                "Retry-After: 5",
            )

        def wants(item: tuple[int, Item]) -> bool:
            return level_of(item[1]) >= floor

        def start(sock: socket.socket, rest: bytes) -> None:
            stream = Stream(
                self._loop, sock, self._fanout, self.seats, self._gap, wants if floor else None
            )
            self._fanout.flush()
            missing = 0
            if seen is None:
                entries = self.ring.tail(tail)
            elif seen[1] != self._boot:  # of an earlier process: all of ours is new to it
                missing, entries = self.ring.since(0)
            else:
                missing, entries = self.ring.since(int(seen[2]))
            head = render_head(
                200,
                (
                    "Content-Type: text/event-stream",
                    "Cache-Control: no-cache",
                    "X-Accel-Buffering: no",
                    "Connection: close",
                    *call.fields,
                ),
            )
            parts = [head, _HELLO]
            if missing:
                parts.append(self._gap(missing, self.ring.last - len(entries)))
            parts += [self._message(entry) for entry in entries if wants(entry)]
            stream.start(b"".join(parts))

        return Takeover(start)

    def stop(self) -> None:
        """Close all streams."""
        self._fanout.stop()

    def _message(self, numbered: tuple[int, Item]) -> bytes:
        number, item = numbered
        return self._render(number, entry_of(item))

    def _gap(self, lost: int, last: int) -> bytes:
        """The entry that stands for lost ones, as a viewer shows any other."""
        fields = LostFields(lost)
        entry = LogEntry(rfc3339(time()), LEVELS[WARN], f"{lost} log entries lost", fields)
        return self._render(last, entry)

    def _render(self, number: int, entry: LogEntry) -> bytes:
        return b"id: %b-%d\ndata: %b\n\n" % (self._boot.encode(), number, _encode(entry))


class Stream(Watcher[tuple[int, Item]]):
    """A follower of the log."""

    __slots__ = ()

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        fanout: Fanout[tuple[int, Item]],
        seats: Seats,
        gap: Callable[[int, int], bytes],
        wants: Callable[[tuple[int, Item]], bool] | None,
    ) -> None:
        super().__init__(loop, sock, fanout, seats, wants)
        self.outbox = Outbox(
            loop,
            sock,
            seats=seats,
            gap=gap,
            blocked=self._blocked,
            broken=self.drop,
            most=BUFFER,
        )

    def start(self, first: bytes) -> None:
        """Take part; `first` goes out before everything else."""
        self._fanout.add(self)
        self._loop.add_reader(self._sock.fileno(), self._readable)
        self.outbox.send(first)

    def due(self) -> float:
        stalled = self.outbox.stalled
        return stalled + STUCK if stalled else self.outbox.sent + COMMENT

    def tick(self, now: float) -> None:
        if self.outbox.stalled:
            self.drop()
        else:
            self.outbox.send(b": still here\n\n")

    def stop(self) -> None:
        self.drop()

    def _blocked(self) -> None:
        self._fanout.wake(self.due())

    def _readable(self) -> None:
        """A follower has nothing to say but that it leaves."""
        try:
            if self._sock.recv(1024):
                return
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            pass
        self.drop()
