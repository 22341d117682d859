"""The mesh networks of this daemon: registry, clock, watchers, and the file that outlives it.

One timer waits for the peer that was not heard of for longest, and there is none without
peers; a heartbeat does not touch it. Changes are written some seconds later and together, and
a heartbeat is one only where it is the first use of a token. Whoever watches a network is told
by its `Feed`, under the rules of the event hub and on its seats.
"""

from __future__ import annotations

import asyncio
import logging
import os
from binascii import hexlify
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from time import time
from typing import TYPE_CHECKING

from .config.faults import shown
from .config.schema import Mesh, MeshNetwork
from .events import MESH_TYPES, Data, Event, MeshData, PeerJoined, PeerLeft, PeerUpdated
from .fanout import Seats
from .hub import RING, Channel
from .mesh.card import Card, Change, weigh
from .mesh.registry import Network, Peer, Registry, Tell, joined
from .mesh.state import dump, parse, restore
from .mesh_file import StateFile

if TYPE_CHECKING:
    from .tunnels import Ask, Tunnel

SAVE = 5.0  # seconds that changes wait for company before they are written
RING_BYTES = 128 * 1024  # of the events that are kept of one network, as `weigh` counts
_EVENT = 100  # of one of them, besides what `weigh` counts for a peer that says nothing

log = logging.getLogger("bifrost.mesh")


class Coordinator:
    """What the calls of the mesh API work on.

    Args:
        loop: the event loop
        settings: the section `mesh`
        seats: the cap of WebSocket clients
        read_timeout: seconds after which a silent one is closed
        boot: the id of this process
        ask: asks for the peers of a WireGuard device

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
        ask: Ask,
    ) -> None:
        self._loop = loop
        self._seats = seats
        self._read_timeout = read_timeout
        self.boot = boot
        self.registry = Registry(settings.peer_timeout, _mint, self._changed)
        self.feeds: dict[str, Feed] = {}
        self._closing: set[Feed] = set()  # of networks that are no more
        self._last = 0  # the highest number that an event of those had
        self._tunnels: dict[str, Tunnel] = {}
        self._expiry: asyncio.TimerHandle | None = None
        self._saving: asyncio.TimerHandle | None = None
        self._file: StateFile | None = None
        self._unsaved = self._failing = False
        self._configured = frozenset(network.id for network in settings.networks)
        for network in settings.networks:
            if network.source == "wireguard":
                self._create_tunnel(network, ask)
            else:
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

    def _create_tunnel(self, settings: MeshNetwork, ask: Ask) -> None:
        from .tunnels import Tunnel  # who has none pays nothing

        id = settings.id
        network = self.registry.create(
            id, settings.name, settings.cidr, time(), self._tell(id), settings.source
        )
        self._tunnels[id] = Tunnel(self._loop, self.registry, network, settings.device, ask)
        self._add_feed(network)

    async def refresh(self, network: Network) -> None:
        """Wait until the peers of a network are those that its source has now.

        Raises:
            MeshError: they cannot be learned; then nobody is present
        """
        tunnel = self._tunnels.get(network.id)
        if tunnel is not None:
            await tunnel.read()

    async def refresh_all(self) -> None:
        """Like `refresh`, of all networks; never raises."""
        reads = [tunnel.read() for tunnel in self._tunnels.values()]
        await asyncio.gather(*reads, return_exceptions=True)

    def delete(self, id: str) -> None:
        """Remove a network; whoever watches it is told who left, and closed with 1001.

        Raises:
            MeshError: there is none of this id
        """
        self.registry.delete(id)
        tunnel = self._tunnels.pop(id, None)
        if tunnel is not None:
            tunnel.stop()
        feed = self.feeds.pop(id)
        self._last = max(self._last, feed.ring.last)
        if feed.clients:
            self._closing.add(feed)
            feed.close("the network is gone")
        self._arm()

    def _tell(self, id: str) -> Tell:
        return lambda type, data: self.feeds[id].publish(type, data)

    def _add_feed(self, network: Network) -> None:
        feed = Feed(
            self._loop,
            network,
            self._seats,
            self._read_timeout,
            self.boot,
            self._closing.discard,
            self._tunnels.get(network.id),
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
            file.make_folder()
        except OSError as error:
            self._unwritable(error)
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
            self._unwritable(error)
        else:
            self._unsaved = self._failing = False

    def _unwritable(self, error: OSError) -> None:
        if not self._failing:
            why = os.strerror(error.errno or 0)
            log.error("the state of the mesh cannot be written: %s", why)
        self._failing = True

    async def stop(self) -> None:
        """Write what is to be written, close all watchers with 1001, and give them a moment."""
        for timer in (self._expiry, self._saving):
            if timer is not None:
                timer.cancel()
        for tunnel in self._tunnels.values():
            tunnel.stop()
        self._tunnels.clear()
        if self._file is not None and self._unsaved:
            self._save(self._file)
        feeds = (*self.feeds.values(), *self._closing)
        await asyncio.gather(*(feed.stop() for feed in feeds))


class Feed(Channel):
    """The events of one network, and who watches it.

    Args:
        loop: the event loop
        network: it
        seats, read_timeout, boot: see `Channel`
        empty: told when the last who watched left
        tunnel: is to know whether somebody watches
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        network: Network,
        seats: Seats,
        read_timeout: float,
        boot: str,
        empty: Callable[[Feed], None],
        tunnel: Tunnel | None = None,
    ) -> None:
        super().__init__(loop, MESH_TYPES, seats, read_timeout, boot)
        self._network = network
        self._empty = empty
        self._tunnel = tunnel
        self._added = 0

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

    def _picture(self, now: float, last: int) -> Iterator[Event]:
        """Who is present. That can be much, so what is kept for a slow reader are ids alone.

        What it reads of a peer then is newer than `last`, and what happened since then follows.
        """
        present = self._network.present
        ids = tuple(present)
        return (
            Event("peer.joined", now, joined(present[id]), last) for id in ids if id in present
        )

    def _came(self) -> None:
        if self._tunnel is not None and self.clients:
            self._tunnel.watch()

    def _quiet(self) -> None:
        super()._quiet()
        if self._tunnel is not None:
            self._tunnel.rest()
        self._empty(self)

    def _make_room(self, size: int) -> None:
        """Forget the older half rather than keep more bytes than may be."""
        self._added += size
        while self._added > RING_BYTES:
            events = self.ring.newest_first()
            self._added = size + sum(_weigh(event.data) for event in events)
            if self._added > RING_BYTES:
                self.ring.resize(len(events) // 2)
                self.ring.resize(RING)


def _weigh(data: Data) -> int:
    if isinstance(data, PeerJoined | PeerUpdated):
        card = Card(data.peer_id, data.name, data.public_key, data.endpoints, data.metadata)
    else:
        assert isinstance(data, PeerLeft)
        card = Card(data.peer_id, data.name)
    return _EVENT + weigh(card)


def _mint() -> str:
    """A token of 192 random bits."""
    return hexlify(os.urandom(24)).decode()
