"""The registry as bytes that outlive the process, and back.

Tokens are in it as their SHA-256 only. What is read back is judged as strictly as a body of
the API, for whoever could write the file is not known here.
"""

from __future__ import annotations

from binascii import hexlify, unhexlify
from collections.abc import Callable, Collection
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from .card import Card, Id, Label, MeshError, checked
from .registry import NETWORKS, PEERS, Network, Peer, Registry, Tell

VERSION = 1


class SavedPeer(Struct, forbid_unknown_fields=True):
    """A peer, or its lease.

    Attributes:
        token: the hexadecimal SHA-256 of its token, "" for none
        proven: that token was used
    """

    card: Card
    virtual_ip: str
    token: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?$(?!\n)")]
    proven: bool
    present: bool


class SavedNetwork(Struct, forbid_unknown_fields=True):
    """A network; `configured` is one of the configuration, which may not have it any more."""

    id: Id
    name: Label
    cidr: str
    created: Annotated[float, Meta(ge=0, le=1e11)]
    configured: bool
    peers: Annotated[list[SavedPeer], Meta(max_length=PEERS)]


class Saved(Struct, forbid_unknown_fields=True):
    """All of it."""

    version: Annotated[int, Meta(ge=VERSION, le=VERSION)]
    networks: Annotated[list[SavedNetwork], Meta(max_length=NETWORKS)]


def dump(registry: Registry, configured: Collection[str]) -> bytes:
    """The registry as JSON.

    Args:
        registry: all networks
        configured: ids of those that the configuration has
    """
    networks = [
        SavedNetwork(
            network.id,
            network.name,
            network.pool.cidr,
            network.created,
            network.id in configured,
            # Leases in the order of their leaving.
            [
                SavedPeer(
                    peer.card, peer.virtual_ip, hexlify(peer.token).decode(), peer.proven, present
                )
                for present, peers in ((False, network.gone), (True, network.present))
                for peer in peers.values()
            ],
        )
        for network in registry.networks.values()
        if network.source == "registry"
    ]
    return msgspec.json.encode(Saved(VERSION, networks))


def parse(raw: bytes) -> Saved:
    """What `dump` wrote.

    Raises:
        ValueError: it is something else, with what is wrong
    """
    try:
        saved = msgspec.json.decode(raw, type=Saved)
        for network in saved.networks:
            for peer in network.peers:
                checked(peer.card)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, MeshError) as error:
        raise ValueError(str(error)[:200]) from None
    return saved


def restore(
    saved: Saved, registry: Registry, tell: Callable[[str], Tell], now: float
) -> int:
    """Put back what was saved into a registry that has the networks of the configuration.

    Args:
        saved: from `parse`
        registry: where to
        tell: makes what is told the events of the network of this id
        now: monotonic seconds

    Returns:
        how many peers were left behind: their network is no more, or has other addresses, or
        all of them say more than there is room for
    """
    lost = 0
    for old in saved.networks:
        network = registry.networks.get(old.id)
        if network is None and not old.configured:
            try:
                network = registry.create(old.id, old.name, old.cidr, old.created, tell(old.id))
            except MeshError:  # the configuration has more networks now
                network = None
        elif network is not None:
            network.created = old.created
        for each in old.peers:
            if network is None or not _put_back(registry, network, each, now):
                lost += 1
    return lost


def _put_back(registry: Registry, network: Network, saved: SavedPeer, now: float) -> bool:
    if network.find(saved.card.id) or not network.pool.take(saved.virtual_ip):
        return False
    peer = Peer(saved.card.id, saved.virtual_ip, unhexlify(saved.token))
    peer.proven = saved.proven
    network.hold(peer)
    if saved.present:
        try:
            registry.resume(network, peer, saved.card, now)
        except MeshError:  # it keeps its lease
            return False
    return True
