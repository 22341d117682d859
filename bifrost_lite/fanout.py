"""One source, a few watchers: gather, encode once, never wait for anybody.

An item is encoded once, when it is put. Encoded items gather and go out together, the same
bytes to all watchers that filter nothing. Each watcher has an `Outbox`, a bounded queue
before its socket: who reads too slowly loses the oldest and is told how much, and nobody
else notices. Without watchers a `Fanout` holds nothing, encodes nothing and has no timer.

`Hub` (events over WebSocket) and `Logs` (entries over SSE) are made of this.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from time import monotonic
from typing import Generic, TypeVar

T = TypeVar("T")
log = logging.getLogger("bifrost.fanout")

GATHER = 0.05  # seconds that an item may wait for company
BATCH_BYTES = 16 * 1024
STUCK = 30.0  # seconds in which a watcher has to take something


class Seats:
    """How many watchers of a kind there may be, over all sources.

    Attributes:
        limit: that many
        taken: how many there are
        lost: items that they lost because they read too slowly, those gone included
    """

    __slots__ = ("limit", "lost", "taken")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self.lost = 0

    def take(self) -> bool:
        """Take a seat, if one is free; whoever took it calls `leave` once."""
        if self.taken >= self.limit:
            return False
        self.taken += 1
        return True

    def leave(self) -> None:
        """Give the seat back."""
        self.taken -= 1


class Outbox:
    """What one watcher has still to get.

    Args:
        loop: the event loop
        sock: its non-blocking socket
        seats: count what it loses
        gap: makes the message that tells of a loss, from the count of lost items and the
            number of the last of them
        blocked: called when the socket stops taking bytes
        broken: called soon after the socket failed; nothing is sent any more
        room: bytes that may wait behind the message being sent
        most: items that may

    Attributes:
        sent: when something was last sent or queued, in monotonic seconds
        stalled: when the socket last took something, 0.0 while nothing waits
    """

    __slots__ = (
        "_blocked", "_broken", "_ended", "_first", "_gap", "_items", "_loop", "_missing",
        "_missing_last", "_partial", "_queue", "_sealed", "_seats", "_size", "_sock", "most",
        "room", "sent", "stalled",
    )  # fmt: skip

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        *,
        seats: Seats,
        gap: Callable[[int, int], bytes],
        blocked: Callable[[], None],
        broken: Callable[[], None],
        room: int = 256 * 1024,
        most: int = 1 << 30,
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._seats = seats
        self._gap = gap
        self._blocked = blocked
        self._broken = broken
        self.room = room
        self.most = most
        self.sent = monotonic()
        self.stalled = 0.0
        self._partial: memoryview | None = None  # begun, so it must be finished
        self._first: Iterator[bytes] | None = None
        self._queue: deque[tuple[bytes, int, int]] = deque()
        self._size = 0
        self._items = 0
        self._missing = 0
        self._missing_last = 0
        self._sealed = False
        self._ended = False

    def begin(self, chunks: Iterator[bytes]) -> None:
        """Send `chunks` before all else.

        Each is asked for when the socket took the one before it, so that no more than one is
        held for who reads slowly, however many there are.

        Args:
            chunks: whole messages each
        """
        self._first = chunks
        self._push(self._next())

    def send(self, chunk: bytes, items: int = 0, last: int = 0) -> None:
        """Send `chunk` now or queue it; never raises, never blocks.

        Args:
            chunk: whole messages
            items: how many countable ones are in it
            last: number of the last of those
        """
        if self._sealed:
            return
        self.sent = monotonic()
        if self._partial is None:
            self._push(memoryview(chunk))
            return
        self._queue.append((chunk, items, last))
        self._size += len(chunk)
        self._items += items
        while self._queue and (self._size > self.room or self._items > self.most):
            dropped, items, last = self._queue.popleft()
            self._size -= len(dropped)
            self._items -= items
            if items:
                self._seats.lost += items
                self._missing += items
                self._missing_last = last

    def seal(self, chunk: bytes) -> None:
        """Drop what waits; `chunk` is the last that is sent."""
        if self._sealed:
            return
        self._forget()
        self.send(chunk)
        self._sealed = True

    def end(self) -> None:
        """Half-close the socket as soon as all is sent; implies `seal`."""
        self._sealed = self._ended = True
        if self._partial is None:
            self._half_close()

    def close(self) -> None:
        """Send nothing more; the socket stays the caller's to close."""
        self._sealed = True
        self._ended = False
        self._forget()
        if self._partial is not None:
            self._partial = None
            self.stalled = 0.0
            self._loop.remove_writer(self._sock.fileno())

    def _forget(self) -> None:
        self._first = None
        self._queue.clear()
        self._size = self._items = self._missing = 0

    def _push(self, data: memoryview | None) -> None:
        """Write `data` and what follows it, until the socket takes no more."""
        waiting = self._partial is not None
        while data is not None:
            try:
                count = self._sock.send(data)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                self._fail()
                return
            if waiting:
                self.stalled = monotonic()
            data = data[count:] if count < len(data) else self._next()
        self._partial = data
        if data is None:
            if waiting:
                self.stalled = 0.0
                self._loop.remove_writer(self._sock.fileno())
                if self._ended:
                    self._half_close()
        elif not waiting:
            self.stalled = monotonic()
            self._loop.add_writer(self._sock.fileno(), self._drain)
            self._blocked()

    def _drain(self) -> None:
        """The socket takes bytes again."""
        assert self._partial is not None
        self._push(self._partial)

    def _next(self) -> memoryview | None:
        """What follows: the word of a loss before the queue, where the lost ones stood."""
        if self._first is not None:
            chunk = next(self._first, None)
            if chunk is not None:
                return memoryview(chunk)
            self._first = None
        if self._missing:
            chunk = self._gap(self._missing, self._missing_last)
            self._missing = 0
            return memoryview(chunk)
        if not self._queue:
            return None
        chunk, items, _ = self._queue.popleft()
        self._size -= len(chunk)
        self._items -= items
        return memoryview(chunk)

    def _half_close(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._fail()

    def _fail(self) -> None:
        """The peer is gone. We may be deep inside somebody's `put`, so tell later."""
        self.close()
        self._loop.call_soon(self._broken)


class Watcher(Generic[T]):
    """Somebody at the other end of a socket, who is told things.

    Args:
        loop: the event loop
        sock: its non-blocking socket
        fanout: the source it watches
        seats: gets its seat back at the end
        wants: which items it asked for; those who want all (None) share the bytes

    Attributes:
        outbox: what it has still to get
    """

    __slots__ = ("_fanout", "_loop", "_seats", "_sock", "outbox", "wants")

    outbox: Outbox

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        fanout: Fanout[T],
        seats: Seats,
        wants: Callable[[T], bool] | None,
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._fanout = fanout
        self._seats = seats
        self.wants = wants
        # Else the kernel takes megabytes for a peer that does not read, and what it then
        # reads first is old. What waits shall wait here, where it is counted and dropped.
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, BATCH_BYTES)

    def due(self) -> float:
        """The monotonic time at which `tick` has something to do."""
        raise NotImplementedError

    def tick(self, now: float) -> None:
        """Do what is due: ping, comment, give up."""
        raise NotImplementedError

    def stop(self) -> None:
        """The daemon stops: say goodbye in the protocol's way."""
        raise NotImplementedError

    def drop(self) -> None:
        """Close the socket at once and leave."""
        if self._sock.fileno() < 0:
            return
        self._loop.remove_reader(self._sock.fileno())
        self.outbox.close()
        self._sock.close()
        self._fanout.remove(self)
        self._seats.leave()


class Fanout(Generic[T]):
    """Gathers encoded items and gives them to the watchers.

    Args:
        loop: the event loop
        encode: makes the message of an item; not called while nobody watches
        batch: items that go out without waiting for more
        empty: called when the last watcher left

    Attributes:
        watchers: who is told
    """

    __slots__ = (
        "_batch", "_empty", "_encode", "_flush_timer", "_frames", "_items", "_last", "_loop",
        "_size", "_sweep_timer", "watchers",
    )  # fmt: skip

    def __init__(
        self, loop: asyncio.AbstractEventLoop, encode: Callable[[T], bytes], batch: int = 32,
        empty: Callable[[], None] = lambda: None,
    ) -> None:
        self._loop = loop
        self._encode = encode
        self._batch = batch
        self._empty = empty
        self.watchers: list[Watcher[T]] = []
        self._items: list[T] = []
        self._frames: list[bytes] = []
        self._size = 0
        self._last = 0
        self._flush_timer: asyncio.TimerHandle | None = None
        self._sweep_timer: asyncio.TimerHandle | None = None

    def add(self, watcher: Watcher[T]) -> None:
        """From the next item on `watcher` is told."""
        self.watchers.append(watcher)
        self.wake(watcher.due())

    def remove(self, watcher: Watcher[T]) -> None:
        """Forget `watcher`; with the last one go the timers and what was gathered."""
        self.watchers.remove(watcher)
        if not self.watchers:
            self._items, self._frames, self._size = [], [], 0
            for timer in (self._flush_timer, self._sweep_timer):
                if timer is not None:
                    timer.cancel()
            self._flush_timer = self._sweep_timer = None
            self._empty()

    def put(self, item: T, number: int, at_once: bool = False) -> None:
        """Tell all watchers of `item`.

        Args:
            item: what to encode
            number: its number among all items
            at_once: do not wait for more, nor let what came before wait
        """
        if not self.watchers:
            return
        try:
            frame = self._encode(item)
        except Exception:  # whoever puts has other things to do than to pay for our fault
            log.exception("something could not be told")
            return
        self._items.append(item)
        self._frames.append(frame)
        self._last = number
        self._size += len(frame)
        if at_once or len(self._items) >= self._batch or self._size >= BATCH_BYTES:
            self.flush()
        elif self._flush_timer is None:
            # A flush does not stop it: at worst the next batch leaves early.
            self._flush_timer = self._loop.call_later(GATHER, self._gathered)

    def tell(self, item: T, number: int) -> None:
        """Tell all watchers of `item` now, which is no loss where it gets lost.

        Args:
            item: what to encode
            number: number of the item before it
        """
        self.flush()
        frame = self._encode(item) if self.watchers else b""
        for watcher in self.watchers:
            if watcher.wants is None or watcher.wants(item):
                watcher.outbox.send(frame, 0, number)

    def flush(self) -> None:
        """Give what was gathered to the watchers now."""
        items, frames = self._items, self._frames
        if not items:
            return
        self._items, self._frames, self._size = [], [], 0
        whole = b"".join(frames)
        for watcher in self.watchers:
            wants = watcher.wants
            if wants is None:
                watcher.outbox.send(whole, len(items), self._last)
                continue
            mine = [frame for item, frame in zip(items, frames, strict=True) if wants(item)]
            if mine:
                watcher.outbox.send(b"".join(mine), len(mine), self._last)

    def wake(self, when: float) -> None:
        """Some watcher has something to do at monotonic time `when`."""
        timer = self._sweep_timer
        if timer is not None:
            if timer.when() <= when:
                return
            timer.cancel()
        self._sweep_timer = self._loop.call_at(when, self._sweep)

    def stop(self) -> None:
        """Say goodbye to all."""
        self.flush()
        for watcher in list(self.watchers):
            watcher.stop()

    def drop(self) -> None:
        """Close what is still open."""
        for watcher in list(self.watchers):
            watcher.drop()

    def _gathered(self) -> None:
        self._flush_timer = None
        self.flush()

    def _sweep(self) -> None:
        self._sweep_timer = None
        now = monotonic()
        for watcher in list(self.watchers):
            if watcher.due() <= now:
                watcher.tick(now)
        if self.watchers:
            self.wake(min(watcher.due() for watcher in self.watchers))
