"""The mesh networks of this daemon: registry, clock, watchers, and the file that outlives it.

One timer waits for the peer that was not heard of for longest, and there is none without
peers; a heartbeat does not touch it. Changes are written some seconds later and together, and
a heartbeat changes nothing. Whoever watches a network is told by its `Feed`, under the rules
of the event hub and on its seats.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from binascii import hexlify
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from time import time
from typing import cast

from .config.faults import shown
from .config.schema import Mesh
from .events import MESH_TYPES, Data, Event, EventsLost, MeshData, PeerJoined, PeerUpdated
from .fanout import Fanout, Seats
from .hub import GOODBYE, RING
from .mesh.card import Card, Change, weigh
from .mesh.registry import Network, Peer, Registry, Tell, joined
from .mesh.state import dump, parse, restore
from .mesh_file import StateFile
from .rest import Call, Takeover, bad_parameter
from .ring import Ring
from .websocket import WebSocket, text_frame, upgrade

SAVE = 5.0  # seconds that changes wait for company before they are written
RING_BYTES = 128 * 1024  # of the events that are kept of one network, as `weigh` counts

log = logging.getLogger("bifrost.mesh")


class Coordinator:
    """What the calls of the mesh API work on.

    Args:
        loop: the event loop
        settings: the section `mesh`
        seats: the cap of WebSocket clients
        read_timeout: seconds after which a silent one is closed
        boot: the id of this process

    Attributes:
        registry: networks and peers, to be read; changes go through the methods here
        feeds: what tells the events of each network, by its id
        boot: as above
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: Mesh,
        seats: Seats,
        read_timeout: float,
        boot: str,
    ) -> None:
        self._loop = loop
        self._seats = seats
        self._read_timeout = read_timeout
        self.boot = boot
        self.registry = Registry(settings.peer_timeout, _mint, self._changed)
        self.feeds: dict[str, Feed] = {}
        self._closing: set[Feed] = set()  # of networks that are no more
        self._last = 0  # the highest number that an event of those had
        self._gone: asyncio.Future[None] | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._saving: asyncio.TimerHandle | None = None
        self._file: StateFile | None = None
        self._unsaved = self._failing = False
        self._configured = frozenset(network.id for network in settings.networks)
        for network in settings.networks:
            self.create(network.id, network.name, network.cidr)
        if settings.state:
            self._load(StateFile(settings.state))

    # Networks.

    def create(self, id: str, name: str, cidr: str) -> Network:
        """Make a network of peers that register.

        Raises:
            MeshError: see `Registry.create`
        """
        network = self.registry.create(id, name, cidr, time(), self._tell(id))
        self._add_feed(network)
        return network

    def delete(self, id: str) -> None:
        """Remove a network; whoever watches it is told who left, and closed with 1001.

        Raises:
            MeshError: there is none of this id
        """
        self.registry.delete(id)
        feed = self.feeds.pop(id)
        self._last = max(self._last, feed.ring.last)
        if feed.watched:
            self._closing.add(feed)
            feed.close("the network is gone")
        self._arm()

    def _tell(self, id: str) -> Tell:
        return lambda type, data: self.feeds[id].publish(type, data)

    def _add_feed(self, network: Network) -> None:
        feed = Feed(
            self._loop, network, self._seats, self._read_timeout, self.boot, self._unwatched
        )
        # Who watched an earlier network of this id must not take our numbers for those.
        feed.ring.last = self._last
        self.feeds[network.id] = feed

    # Peers.

    def register(
        self, network: Network, card: Card, token: str, trusted: bool
    ) -> tuple[Peer, str]:
        """See `Registry.register`."""
        registered = self.registry.register(network, card, self._loop.time(), token, trusted)
        self._arm()
        return registered

    def change(self, network: Network, peer: Peer, change: Change) -> None:
        """See `Registry.change`."""
        self.registry.change(network, peer, change)

    def heartbeat(self, network: Network, peer: Peer) -> None:
        """A peer that is present was heard of."""
        self.registry.heard(network, peer, self._loop.time())

    def remove(self, network: Network, id: str) -> None:
        """See `Registry.remove`."""
        self.registry.remove(network, id)
        self._arm()

    def is_peer(self, parts: Sequence[str], token: bytes) -> bool:
        """Whether a token is that of the peer which a path names by network and id."""
        network = self.registry.networks.get(parts[0])
        peer = network.find(parts[1]) if network is not None else None
        return peer is not None and peer.owns(token)

    def _arm(self) -> None:
        """Have one timer while there is somebody to wait for."""
        due = self.registry.due()
        if due is None:
            if self._expiry is not None:
                self._expiry.cancel()
                self._expiry = None
        elif self._expiry is None:
            # Heartbeats only make it later, so it wakes too early rather than too late, and
            # no more often than a peer may be silent.
            self._expiry = self._loop.call_at(due, self._expire, due)

    def _expire(self, due: float) -> None:
        self._expiry = None
        self.registry.expire(max(due, self._loop.time()))  # a clock may wake us a tick early
        self._arm()

    # What outlives the process.

    def _load(self, file: StateFile) -> None:
        try:
            raw = file.read()
            saved = parse(raw) if raw is not None else None
        except (OSError, ValueError) as error:
            why = os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error)
            if not file.replaceable:
                log.error("the state of the mesh is not kept: %s", shown(why))
                return
            log.warning("the state of the mesh is unusable and set aside: %s", shown(why))
            with suppress(OSError):
                file.set_aside()
            saved = None
        if saved is not None:
            lost = restore(saved, self.registry, self._tell, self._loop.time())
            if lost:
                log.warning("%d mesh peers have no place here any more", lost)
            for network in self.registry.networks.values():
                if network.id not in self.feeds:
                    self._add_feed(network)
            self._arm()
        self._file = file  # from now on changes are written

    def _changed(self) -> None:
        if self._file is not None:
            self._unsaved = True
            if self._saving is None:
                self._saving = self._loop.call_later(SAVE, self._save, self._file)

    def _save(self, file: StateFile) -> None:
        self._saving = None
        try:
            file.write(dump(self.registry, self._configured))
        except OSError as error:  # the next change tries again, and so does the end
            if not self._failing:
                why = os.strerror(error.errno or 0)
                log.error("the state of the mesh cannot be written: %s", why)
            self._failing = True
        else:
            self._unsaved = self._failing = False

    async def stop(self) -> None:
        """Write what is to be written, close all watchers with 1001, and give them a moment."""
        for timer in (self._expiry, self._saving):
            if timer is not None:
                timer.cancel()
        if self._file is not None and self._unsaved:
            self._save(self._file)
        feeds = [*self.feeds.values(), *self._closing]
        for feed in feeds:
            feed.close("the daemon stops")
        if any(feed.watched for feed in feeds):
            gone = self._gone = self._loop.create_future()
            late = self._loop.call_later(GOODBYE, self._end_goodbye)
            await gone
            late.cancel()
        for feed in feeds:
            feed.drop()

    def _unwatched(self, feed: Feed) -> None:
        """The last who watched a network left."""
        self._closing.discard(feed)
        if not any(each.watched for each in (*self.feeds.values(), *self._closing)):
            self._end_goodbye()

    def _end_goodbye(self) -> None:
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)


class Feed:
    """The events of one network, and who watches it.

    Args:
        loop: the event loop
        network: it
        seats: the cap of WebSocket clients
        read_timeout: seconds after which a silent one is closed
        boot: the id of this process
        empty: told when the last who watched left

    Attributes:
        ring: the newest events
    """

    __slots__ = ("_added", "_boot", "_fanout", "_loop", "_network", "_seats", "_timeout", "ring")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        network: Network,
        seats: Seats,
        read_timeout: float,
        boot: str,
        empty: Callable[[Feed], None],
    ) -> None:
        self._loop = loop
        self._network = network
        self._seats = seats
        self._timeout = read_timeout
        self._boot = boot
        self.ring: Ring[Event] = Ring(RING)
        self._added = 0
        self._fanout: Fanout[Event] = Fanout(loop, _frame, empty=partial(empty, self))

    @property
    def watched(self) -> bool:
        """Whether anybody watches."""
        return bool(self._fanout.watchers)

    def publish(self, type: str, data: MeshData) -> None:
        """Number an event and tell it; never blocks.

        Args:
            type: one of `events.MESH_TYPES`
            data: the Struct of that type
        """
        self._make_room(_weigh(data))
        event = Event(type, time(), data, self.ring.last + 1)
        self.ring.append(event)
        self._fanout.put(event, event.seq)

    def connect(self, call: Call) -> Takeover:
        """Answer an upgrade request, as `Hub.connect` does.

        Raises:
            Refused: no handshake (426, 400), no seat (503), bad parameters (400)
        """
        types = frozenset((call.text("types") or "").split(",")) - {""}
        if not types <= MESH_TYPES.keys():
            raise bad_parameter("types", "some of " + ", ".join(MESH_TYPES))
        since = call.number("since", 0, 10**15 - 1)
        boot = call.text("boot")
        protocol, answer = upgrade(call, self._seats)

        def wants(event: Event) -> bool:
            return event.type in types

        def start(sock: socket.socket, rest: bytes) -> None:
            client = WebSocket(
                self._loop,
                sock,
                protocol,
                fanout=self._fanout,
                seats=self._seats,
                read_timeout=self._timeout,
                gap=self._gap,
                wants=wants if types else None,
            )
            self._fanout.flush()  # what waits is in the ring, or in the picture
            events = [
                event
                for event in self._greeting(since, boot)
                if not types or wants(event) or event.type == "events.lost"
            ]
            first = answer + b"".join(map(_frame, events))
            client.start(first, len(events), self.ring.last, rest)

        return Takeover(start)

    def close(self, reason: str) -> None:
        """Close all who watch with 1001."""
        self._fanout.flush()
        for watcher in list(self._fanout.watchers):
            cast("WebSocket", watcher).close(1001, reason)

    def drop(self) -> None:
        """Close what is still open."""
        self._fanout.drop()

    def _greeting(self, since: int | None, boot: str | None) -> list[Event]:
        """What somebody missed who saw event `since`, and who is present now."""
        now, last = time(), self.ring.last
        events: list[Event] = []
        if since is not None:
            missing, kept = self.ring.since(since)
            if (boot is not None and boot != self._boot) or since > last:
                events.append(Event("events.lost", now, EventsLost(None, self._boot), last))
            else:
                if missing:
                    lost = EventsLost(missing, self._boot)
                    events.append(Event("events.lost", now, lost, since + missing))
                events += [event for _, event in kept]
        present = self._network.present.values()
        return events + [Event("peer.joined", now, joined(peer), last) for peer in present]

    def _gap(self, lost: int, last: int) -> bytes:
        return _frame(Event("events.lost", time(), EventsLost(lost, self._boot), last))

    def _make_room(self, size: int) -> None:
        """Forget what is kept rather than keep more bytes than may be."""
        self._added += size
        if self._added > RING_BYTES:
            kept = sum(_weigh(event.data) for event in self.ring.newest_first())
            if kept + size > RING_BYTES:
                self.ring.clear()
                kept = 0
            self._added = kept + size


def _frame(event: Event) -> bytes:
    return text_frame(event.encode())


def _weigh(data: Data) -> int:
    if isinstance(data, PeerJoined | PeerUpdated):
        return weigh(
            Card(data.peer_id, data.name, data.public_key, data.endpoints, data.metadata)
        )
    return 256


def _mint() -> str:
    """A token of 192 random bits."""
    return hexlify(os.urandom(24)).decode()
