"""What happens, told to everybody who watches.

`Hub.publish` is called from the data plane between two packets. It numbers the event and keeps
it in a ring of Structs; only if somebody watches is it encoded and framed, once for all.
Gathering, queues and losses are `fanout`'s, the protocol is `websocket`'s.

A frame that is not an event (`stats.update`, `events.lost`, the snapshot) repeats the number
of the event before it, so numbers never go back on any client's connection, and a client
that comes back with the last one it saw misses nothing and sees nothing twice.
"""

from __future__ import annotations

import asyncio
import os
import socket
from binascii import hexlify
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import chain
from time import monotonic, time

from .config.schema import Control
from .events import TYPES, BackendHealth, Data, Event, EventsLost, StatsUpdate
from .fanout import BATCH_BYTES, Fanout, Seats
from .rest import Call, Takeover, bad_parameter
from .ring import Ring
from .websocket import WebSocket, text_frame, upgrade

RING = 256  # events that a client which comes back can still get
GOODBYE = 1.0  # seconds that clients have to take leave when the daemon stops

Wants = Callable[[Event], bool]


class Channel:
    """An event endpoint: the newest events, who watches, and what those get who come.

    Args:
        loop: the event loop
        types: of the events that it tells
        seats: the clients' cap, shared with other event endpoints
        read_timeout: seconds after which a silent client is closed
        boot: an id of this process

    Attributes:
        boot, seats: as above
        ring: the newest events
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        types: Collection[str],
        seats: Seats,
        read_timeout: float,
        boot: str,
    ) -> None:
        self._loop = loop
        self._types = types
        self.seats = seats
        self._timeout = read_timeout
        self.boot = boot
        self.ring: Ring[Event] = Ring(RING)
        self._fanout: Fanout[Event] = Fanout(loop, _frame, empty=self._quiet)
        self._gone: asyncio.Future[None] | None = None

    @property
    def clients(self) -> int:
        """How many clients there are."""
        return len(self._fanout.watchers)

    def connect(self, call: Call) -> Takeover:
        """Answer an upgrade request.

        Raises:
            Refused: no handshake (426, 400), no seat (503), bad parameters (400)
        """
        wants = self._filter(call)
        since = call.number("since", 0, 10**15 - 1)
        boot = call.text("boot")
        protocol, answer = upgrade(call, self.seats)

        def start(sock: socket.socket, rest: bytes) -> None:
            client = WebSocket(
                self._loop,
                sock,
                protocol,
                fanout=self._fanout,
                seats=self.seats,
                read_timeout=self._timeout,
                gap=self._gap,
                wants=wants,
            )
            # What waits is in the ring, or in the picture, that the client gets now.
            self._fanout.flush()
            events = chain(self._missed(since, boot), self._picture(time(), self.ring.last))
            client.start(_chunks(answer, events, wants), rest)
            self._came()

        return Takeover(start)

    def close(self, reason: str) -> None:
        """Begin to close all clients with 1001."""
        self._fanout.flush()
        for watcher in list(self._fanout.watchers):
            assert isinstance(watcher, WebSocket)
            watcher.close(1001, reason)

    async def stop(self) -> None:
        """Close all clients with 1001 and wait a moment for their part of the handshake."""
        if self._fanout.watchers:
            gone = self._gone = self._loop.create_future()
            timer = self._loop.call_later(GOODBYE, self._quiet)
            self._fanout.stop()
            await gone
            timer.cancel()
        self._fanout.drop()

    # What each endpoint has of its own.

    def _filter(self, call: Call) -> Wants | None:
        """What a client asked for by ``types=``, None for everything.

        Raises:
            Refused: a type is unknown
        """
        types = frozenset((call.text("types") or "").split(",")) - {""}
        if not types.issubset(self._types):
            raise bad_parameter("types", "some of " + ", ".join(self._types))
        return (lambda event: event.type in types) if types else None

    def _picture(self, now: float, last: int) -> Iterable[Event]:
        """How things are, as events of time `now` and number `last`."""
        return ()

    def _came(self) -> None:
        """A client is there."""

    def _quiet(self) -> None:
        """The last client left, or had long enough to."""
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)

    def _missed(self, since: int | None, boot: str | None) -> list[Event]:
        """What somebody missed who saw event `since` of the process `boot`."""
        last = self.ring.last
        if since is None:
            return []
        if (boot is not None and boot != self.boot) or since > last:
            return [self._lost(None, last)]
        missing, kept = self.ring.since(since)
        events = [event for _, event in kept]
        return [self._lost(missing, since + missing), *events] if missing else events

    def _lost(self, count: int | None, last: int) -> Event:
        return Event("events.lost", time(), EventsLost(count, self.boot), last)

    def _gap(self, lost: int, last: int) -> bytes:
        return _frame(self._lost(lost, last))


class Hub(Channel):
    """What happens in the daemon.

    Args:
        loop: the event loop
        settings: the section `control`

    Attributes:
        started: monotonic time of its start; a router without a battery learns the other late
        stats: gives active and total connections, bytes sent and received
        health: gives the present state of each backend
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, settings: Control) -> None:
        boot = hexlify(os.urandom(8)).decode()
        super().__init__(loop, TYPES, Seats(settings.max_clients), settings.read_timeout, boot)
        self.started = monotonic()
        self.stats: Callable[[], tuple[int, int, int, int]] = lambda: (0, 0, 0, 0)
        self.health: Callable[[], Sequence[BackendHealth]] = tuple
        self._interval = settings.stats_interval
        self._stats_timer: asyncio.TimerHandle | None = None

    @property
    def lost(self) -> int:
        """Events that clients of all endpoints lost because they read too slowly."""
        return self.seats.lost

    def publish(self, type: str, data: Data) -> None:
        """Number an event and tell it. Cheap without clients; never blocks, never raises.

        Args:
            type: one of `events.TYPES`
            data: the Struct of that type
        """
        ring = self.ring
        event = Event(type, time(), data, ring.last + 1)
        ring.append(event)
        if self._fanout.watchers:
            self._fanout.put(event, event.seq, type == "backend.health")

    def _filter(self, call: Call) -> Wants | None:
        """By ``types=`` and ``client=``; events that are about no client pass the latter."""
        wants = super()._filter(call)
        client = call.address("client")
        if not client:
            return wants

        def of_client(event: Event) -> bool:
            if wants is not None and not wants(event):
                return False
            return bool(getattr(event.data, "client_ip", client) == client)

        return of_client

    def _picture(self, now: float, last: int) -> list[Event]:
        events = [Event("backend.health", now, state, last) for state in self.health()]
        return [*events, self._stats_event()]

    def _came(self) -> None:
        if self._interval and self._stats_timer is None:
            self._stats_timer = self._loop.call_later(self._interval, self._update_stats)

    def _update_stats(self) -> None:
        self._stats_timer = None
        self._fanout.tell(self._stats_event(), self.ring.last)
        self._came()

    def _stats_event(self) -> Event:
        stats = StatsUpdate(*self.stats(), self.boot)
        return Event("stats.update", time(), stats, self.ring.last)

    def _quiet(self) -> None:
        if self._stats_timer is not None:
            self._stats_timer.cancel()
            self._stats_timer = None
        super()._quiet()


def _frame(event: Event) -> bytes:
    return text_frame(event.encode())


def _chunks(answer: bytes, events: Iterable[Event], wants: Wants | None) -> Iterator[bytes]:
    """`answer`, and the frames of the events that somebody asked for, in convenient pieces."""
    frames, size = [answer], len(answer)
    for event in events:
        if wants is None or wants(event) or event.type == "events.lost":
            frames.append(_frame(event))
            size += len(frames[-1])
            if size >= BATCH_BYTES:
                yield b"".join(frames)
                frames, size = [], 0
    yield b"".join(frames)
