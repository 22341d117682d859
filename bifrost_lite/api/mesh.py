"""Mesh networks: made, shown and removed; peers that register, are heard of, and leave."""

from __future__ import annotations

from contextlib import suppress
from time import monotonic, time
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from ..coordinator import Coordinator
from ..events import Endpoint, rfc3339
from ..mesh.card import Card, Change, Id, Label, MeshError
from ..mesh.registry import Network, Peer
from ..rest import Call, Refused, Response, Takeover, reply
from .context import Context

_LATER = "Retry-After: 5"
# The statuses of what the registry refuses.
_STATUS = {
    "bad_body": 400,
    "bad_cidr": 400,
    "too_many_networks": 400,
    "too_many_peers": 400,
    "wrong_peer_token": 403,
    "not_found": 404,
    "exists": 409,
    "not_a_registry": 409,
    "peer_exists": 409,
    "mesh_full": 507,
    "no_address": 507,
    "device_unreadable": 503,
}


class NewNetwork(Struct):
    """A network to be made.

    Attributes:
        id: what the API calls it
        name: what people call it
        cidr: its addresses; bits behind the prefix are cleared
    """

    id: Id
    name: Label = ""
    cidr: Annotated[str, Meta(max_length=64)] = "10.100.0.0/16"


class NetworkInfo(Struct):
    """A network.

    Attributes:
        gateway: its first address, which no peer gets; "" where peers do not register
        peer_count: peers that are present
        created: when it was made
        source: who its peers are; ``registry`` for those that register
    """

    id: str
    name: str
    cidr: str
    gateway: str
    peer_count: int
    created: str
    source: str


class Networks(Struct):
    """All networks."""

    networks: list[NetworkInfo]


class PeerInfo(Struct):
    """A peer that is present.

    Attributes:
        virtual_ip: its address in the network
        last_seen: when it was last heard of
    """

    id: str
    name: str
    public_key: str
    virtual_ip: str
    endpoints: tuple[Endpoint, ...]
    metadata: dict[str, str]
    last_seen: str


class Peers(Struct):
    """The peers that are present.

    Attributes:
        seq: number of the network's last event; later ones are not in here
        boot: the id of this process
    """

    peers: list[PeerInfo]
    seq: int
    boot: str


class Registration(Struct):
    """A peer that registers.

    Attributes:
        peer: what it says of itself
        network_id: that of the path, or nothing
        peer_token: what its first registration answered; needed for each further one, unless the
            call comes with the token of the control port
    """

    peer: Card
    network_id: str = ""
    peer_token: Annotated[str, Meta(max_length=256)] = ""


class Registered(Struct):
    """A peer is registered.

    Attributes:
        virtual_ip: its address
        peer_token: opens changes, heartbeats and the end of this peer; told once
        cidr: the network's addresses
        gateway: the first of them
        peer_timeout: seconds without a heartbeat after which it has left
        peers: all others
        seq: number of the network's last event, for ``events?since=``
        boot: the id of this process
    """

    success: bool
    virtual_ip: str
    peer_token: str | UnsetType
    cidr: str
    gateway: str
    peer_timeout: float
    peers: list[PeerInfo]
    seq: int
    boot: str


async def list_networks(ctx: Context, call: Call) -> Response:
    """All mesh networks."""
    mesh = ctx.mesh()
    await mesh.refresh_all()
    networks = mesh.registry.networks.values()
    return reply(Networks([_network_info(network) for network in networks]))


async def create_network(ctx: Context, call: Call) -> Response:
    """Make a mesh network."""
    asked = call.json(NewNetwork)
    try:
        network = ctx.mesh().create(asked.id, asked.name, asked.cidr)
    except MeshError as error:
        raise _refused(error) from None
    return reply(_network_info(network), 201, f"Location: {call.path.rstrip('/')}/{network.id}")


async def get_network(ctx: Context, call: Call) -> Response:
    """One mesh network."""
    return reply(_network_info(await _fresh(ctx.mesh(), call)))


async def delete_network(ctx: Context, call: Call) -> Response:
    """Remove a mesh network; its peers leave, and who watches it is closed."""
    mesh = ctx.mesh()
    mesh.delete(_network(mesh, call).id)
    return Response(204)


async def watch(ctx: Context, call: Call) -> Takeover:
    """The events of one mesh network; see docs/mesh.md."""
    mesh = ctx.mesh()
    with suppress(MeshError):  # who cannot be read now may be soon
        await mesh.refresh(_network(mesh, call))
    return mesh.feeds[_network(mesh, call).id].connect(call)


async def list_peers(ctx: Context, call: Call) -> Response:
    """The peers of a mesh network that are present."""
    mesh = ctx.mesh()
    network = await _fresh(mesh, call)
    return reply(Peers(_others(network, ""), mesh.feeds[network.id].ring.last, mesh.boot))


async def register(ctx: Context, call: Call) -> Response:
    """Register a peer, or register it anew."""
    mesh = ctx.mesh()
    network = _network(mesh, call)
    asked = call.json(Registration)
    if asked.network_id not in ("", network.id):
        raise Refused(400, "bad_body", "The field 'network_id' is not the network of the path.")
    try:
        peer, token = mesh.register(network, asked.peer, asked.peer_token, not call.key)
    except MeshError as error:
        raise _refused(error) from None
    answer = Registered(
        True,
        peer.virtual_ip,
        token or UNSET,
        network.pool.cidr,
        network.pool.gateway,
        mesh.registry.timeout,
        _others(network, peer.card.id),
        mesh.feeds[network.id].ring.last,
        mesh.boot,
    )
    return reply(answer, 201, f"Location: {call.path.rstrip('/')}/{peer.card.id}")


async def get_peer(ctx: Context, call: Call) -> Response:
    """One peer that is present."""
    mesh = ctx.mesh()
    network = await _fresh(mesh, call)
    try:
        return reply(_peer_info(mesh.registry.peer(network, call.parts[1])))
    except MeshError as error:
        raise _refused(error) from None


async def change_peer(ctx: Context, call: Call) -> Response:
    """Change what a peer says of itself."""
    mesh = ctx.mesh()
    network, peer = _peer(mesh, call)
    try:
        mesh.change(network, peer, call.json(Change))
    except MeshError as error:
        raise _refused(error) from None
    return Response(204)


async def remove_peer(ctx: Context, call: Call) -> Response:
    """Remove a peer; its token ends."""
    mesh = ctx.mesh()
    try:
        mesh.remove(_network(mesh, call), call.parts[1])
    except MeshError as error:
        raise _refused(error) from None
    return Response(204)


async def heartbeat(ctx: Context, call: Call) -> Response:
    """A peer is still there. Who is not known any more has to register again."""
    mesh = ctx.mesh()
    mesh.heartbeat(*_peer(mesh, call))
    return Response(204)


def _network(mesh: Coordinator, call: Call) -> Network:
    try:
        return mesh.registry.network(call.parts[0])
    except MeshError as error:
        raise _refused(error) from None


async def _fresh(mesh: Coordinator, call: Call) -> Network:
    """The network of a path, with the peers that it has now."""
    network = _network(mesh, call)
    try:
        await mesh.refresh(network)
    except MeshError as error:
        _network(mesh, call)  # it may be gone meanwhile
        raise _refused(error) from None
    return _network(mesh, call)


def _peer(mesh: Coordinator, call: Call) -> tuple[Network, Peer]:
    """A peer that registered."""
    network = _network(mesh, call)
    try:
        return network, mesh.registry.registrant(network, call.parts[1])
    except MeshError as error:
        raise _refused(error) from None


def _others(network: Network, id: str) -> list[PeerInfo]:
    """Who is present, but for the peer of that id."""
    return [_peer_info(peer) for peer in network.present.values() if peer.card.id != id]


def _network_info(network: Network) -> NetworkInfo:
    return NetworkInfo(
        network.id,
        network.name,
        network.pool.cidr,
        network.pool.gateway,
        len(network.present),
        rfc3339(network.created),
        network.source,
    )


def _peer_info(peer: Peer) -> PeerInfo:
    card = peer.card
    return PeerInfo(
        card.id,
        card.name,
        card.public_key,
        peer.virtual_ip,
        card.endpoints,
        card.metadata,
        rfc3339(time() - (monotonic() - peer.seen)),
    )


def _refused(error: MeshError) -> Refused:
    status = _STATUS[error.word]
    fields = (_LATER,) if status == 503 else ()
    return Refused(status, error.word, error.message, *fields)
