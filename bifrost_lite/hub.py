"""The event hub: what happens, told to everybody who watches.

`publish` is called from the data plane between two packets. It numbers the event and keeps
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
from collections.abc import Callable, Sequence
from time import monotonic, time

from .config.schema import Control
from .events import TYPES, BackendHealth, Data, Event, EventsLost, StatsUpdate
from .fanout import Fanout, Seats
from .rest import Call, Takeover, bad_parameter
from .ring import Ring
from .websocket import WebSocket, text_frame, upgrade

RING = 256  # events that a client which comes back can still get
GOODBYE = 1.0  # seconds that clients have to take leave when the daemon stops


class Hub:
    """Numbers events and tells them to the clients.

    Args:
        loop: the event loop
        settings: the section `control`

    Attributes:
        boot: an id of this process
        started: monotonic time of its start; a router without a battery learns the other late
        seats: the clients' cap, shared with other event endpoints
        ring: the newest events
        stats: gives active and total connections, bytes sent and received
        health: gives the present state of each backend
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, settings: Control) -> None:
        self._loop = loop
        self._settings = settings
        self.boot = hexlify(os.urandom(8)).decode()
        self.started = monotonic()
        self.seats = Seats(settings.max_clients)
        self.ring: Ring[Event] = Ring(RING)
        self.stats: Callable[[], tuple[int, int, int, int]] = lambda: (0, 0, 0, 0)
        self.health: Callable[[], Sequence[BackendHealth]] = tuple
        self._fanout: Fanout[Event] = Fanout(loop, _frame, empty=self._quiet)
        self._stats_timer: asyncio.TimerHandle | None = None
        self._gone: asyncio.Future[None] | None = None

    @property
    def clients(self) -> int:
        """How many clients there are."""
        return len(self._fanout.watchers)

    @property
    def lost(self) -> int:
        """Events that clients lost because they read too slowly."""
        return self._fanout.lost

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

    def connect(self, call: Call) -> Takeover:
        """Answer an upgrade request.

        Raises:
            Refused: no handshake (426, 400), no seat (503), bad parameters (400)
        """
        wants = _filter(call)
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
                read_timeout=self._settings.read_timeout,
                gap=self._gap,
                wants=wants,
            )
            # What waits is in the ring, or in the picture, that the client gets now.
            self._fanout.flush()
            events = self._greeting(wants, since, boot)
            first = answer + b"".join(_frame(event) for event in events)
            client.start(first, len(events), self.ring.last, rest)
            self._watch_stats()

        return Takeover(start)

    async def stop(self) -> None:
        """Close all clients with 1001 and wait a moment for their part of the handshake."""
        if self._fanout.watchers:
            gone = self._gone = self._loop.create_future()
            timer = self._loop.call_later(GOODBYE, self._quiet)
            self._fanout.stop()
            await gone
            timer.cancel()
        self._fanout.drop()

    def _greeting(
        self, wants: Callable[[Event], bool] | None, since: int | None, boot: str | None
    ) -> list[Event]:
        """What a client gets on connect: what it missed, and the present picture."""
        now, last = time(), self.ring.last
        events: list[Event] = []
        if since is not None:
            if (boot is not None and boot != self.boot) or since > last:
                events.append(Event("events.lost", now, EventsLost(None, self.boot), last))
            else:
                missing, kept = self.ring.since(since)
                if missing:
                    lost = EventsLost(missing, self.boot)
                    events.append(Event("events.lost", now, lost, since + missing))
                events += [event for _, event in kept]
        events += [Event("backend.health", now, state, last) for state in self.health()]
        events.append(Event("stats.update", now, StatsUpdate(*self.stats(), self.boot), last))
        return [e for e in events if wants is None or wants(e) or e.type == "events.lost"]

    def _gap(self, lost: int, last: int) -> bytes:
        return _frame(Event("events.lost", time(), EventsLost(lost, self.boot), last))

    def _watch_stats(self) -> None:
        interval = self._settings.stats_interval
        if interval and self._stats_timer is None:
            self._stats_timer = self._loop.call_later(interval, self._update_stats)

    def _update_stats(self) -> None:
        self._stats_timer = None
        stats = StatsUpdate(*self.stats(), self.boot)
        self._fanout.tell(Event("stats.update", time(), stats, self.ring.last), self.ring.last)
        self._watch_stats()

    def _quiet(self) -> None:
        """The last client left, or had long enough to."""
        if self._stats_timer is not None:
            self._stats_timer.cancel()
            self._stats_timer = None
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)


def _frame(event: Event) -> bytes:
    return text_frame(event.encode())


def _filter(call: Call) -> Callable[[Event], bool] | None:
    """What a client asked for by ``types=`` and ``client=``, None for everything.

    Events that are about no client pass the filter for one.

    Raises:
        Refused: a type is unknown, or the client is no IP address
    """
    types = frozenset((call.text("types") or "").split(",")) - {""}
    if not types <= TYPES.keys():
        raise bad_parameter("types", "some of " + ", ".join(TYPES))
    client = call.address("client")
    if not types and not client:
        return None

    def wants(event: Event) -> bool:
        if types and event.type not in types:
            return False
        return not client or getattr(event.data, "client_ip", client) == client

    return wants
