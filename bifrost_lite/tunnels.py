"""The peers of a WireGuard device as the peers of a mesh network.

The kernel tells of no change, so it is asked: whenever somebody wants to know, and from time to
time while somebody watches. While nobody looks nothing is done.
"""

from __future__ import annotations

import asyncio
import logging
from binascii import b2a_base64
from collections.abc import Callable
from time import time

from .events import Endpoint
from .mesh.card import Card, MeshError
from .mesh.registry import PEERS, Network, Peer, Registry
from .target import fold, unpack
from .wire.genl import Peer as Told
from .wireguard import REJECT_AFTER_TIME, Done, Inquiry, age

INTERVAL = 30.0  # seconds between two reads while somebody watches

# Asks for the peers of a device; see `wireguard.ask`.
Ask = Callable[[str, Done], Inquiry]

log = logging.getLogger("bifrost.mesh")


class Tunnel:
    """Keeps the peers of a network as those of a device are.

    Args:
        loop: has the timer
        registry: has the room that all networks share
        network: whose source is ``wireguard``
        device: the device
        ask: asks the kernel
    """

    __slots__ = (
        "_ask", "_device", "_inquiry", "_loop", "_network", "_over", "_reading", "_registry",
        "_timer", "_trouble", "_waiting",
    )  # fmt: skip

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        registry: Registry,
        network: Network,
        device: str,
        ask: Ask,
    ) -> None:
        self._loop = loop
        self._registry = registry
        self._network = network
        self._device = device
        self._ask = ask
        self._inquiry: Inquiry | None = None
        self._reading = False
        self._waiting: list[asyncio.Future[str]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._over = False
        self._trouble = ""  # why the last read failed

    async def read(self) -> None:
        """Ask the device, and change the network to what it says.

        Who comes while it is being asked waits for that answer.

        Raises:
            MeshError: the kernel does not tell, or the network is removed meanwhile
        """
        if self._over:
            raise MeshError("not_found", "There is no network of this id.")
        answer: asyncio.Future[str] = self._loop.create_future()
        self._waiting.append(answer)
        self._begin()
        why = await answer
        if why:
            raise MeshError("device_unreadable", f"The peers cannot be read: {why}.")

    def watch(self) -> None:
        """Somebody watches: read from time to time."""
        if self._timer is None and not self._over:
            self._timer = self._loop.call_later(INTERVAL, self._due)

    def rest(self) -> None:
        """Nobody watches any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def stop(self) -> None:
        """Read no more; the network is removed, or the daemon stops."""
        self._over = True
        self.rest()
        if self._inquiry is not None:
            self._inquiry.cancel()
        self._end("the network is gone")

    def crash(self) -> None:
        """A fault of our own; who waits was answered."""

    def _due(self) -> None:
        self._timer = None
        self.watch()
        self._begin()

    def _begin(self) -> None:
        if self._reading:
            return
        self._reading = True
        inquiry = self._ask(self._device, self._done)
        if self._reading:  # it may have been answered at once
            self._inquiry = inquiry

    def _done(self, peers: list[Told] | None, why: str) -> None:
        try:
            if why != self._trouble:
                tell = log.warning if why else log.info
                tell("mesh network %s: %s", self._network.id, why or "its device is read again")
                self._trouble = why
            self._take(peers or ())
        finally:
            self._end(why)

    def _end(self, why: str) -> None:
        self._inquiry = None
        self._reading = False
        waiting, self._waiting = self._waiting, []
        for answer in waiting:
            if not answer.done():  # who asked may have gone
                answer.set_result(why)

    def _take(self, told: list[Told] | tuple[()]) -> None:
        """Make the network what the kernel told."""
        network, now = self._network, time()
        known: set[str] = set()
        alive: dict[str, tuple[Told, float]] = {}
        for each in told:
            id = _id(each.key)
            known.add(id)
            old = age((each,), now)
            if old is not None and old < REJECT_AFTER_TIME:
                alive[id] = each, old
        for id, peer in list(network.present.items()):
            if id not in alive:
                network.leave(peer, "timeout" if id in known else "removed")
                del network.gone[id]  # it has no lease
        for id, (each, old) in alive.items():
            card, address = _card(id, each), _address(each)
            known_peer = network.present.get(id)
            try:
                self._registry.check_room(card, known_peer)
            except MeshError:  # it is shown as it was, or not at all
                continue
            if known_peer is not None:
                peer = known_peer
                network.alter(peer, card, address)
            elif len(network.present) < PEERS:
                peer = network.hold(Peer(id, address))
                network.enter(peer, card)
            else:
                continue
            peer.seen = self._loop.time() - old


def _id(key: bytes) -> str:
    """A key as a segment of a path: base64url without padding (RFC 4648 section 5)."""
    text = b2a_base64(key, newline=False).decode()
    return text.rstrip("=").replace("+", "-").replace("/", "_")


def _card(id: str, told: Told) -> Card:
    endpoints: tuple[Endpoint, ...] = ()
    if told.endpoint is not None and told.endpoint[1]:
        packed, port = told.endpoint
        endpoints = (Endpoint(unpack(fold(packed)), port, "wireguard"),)
    key = b2a_base64(told.key, newline=False).decode()
    return Card(id, public_key=key, endpoints=endpoints)


def _address(told: Told) -> str:
    """The first of its allowed networks that is a single address, "" without one."""
    for packed, prefix in told.allowed:
        if prefix == 8 * len(packed):
            return unpack(packed)
    return ""
