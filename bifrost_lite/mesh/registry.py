"""Who is in which mesh network, who was, and what watchers are to be told of it.

A peer registers, and is present until it leaves: it is removed, or its network is, or nothing
is heard of it for a while. What it has then is its lease: the address that it gets again, and
the token that proves it is the same. Leases are kept while there is room for them; where a new
peer needs a record or an address, the peer that has been gone longest is forgotten.

Everything is told once, by `Network.enter`, `alter` and `leave`, whoever calls them: `Registry`
for the peers that register, and for others whoever knows them.
"""

from __future__ import annotations

from _operator import _compare_digest
from collections.abc import Callable

from msgspec import UNSET, structs

from ..events import MeshData, PeerJoined, PeerLeft, PeerUpdated
from ..sha256 import sha256
from .card import Card, Change, MeshError, checked, weigh
from .ipam import NoPool, Pool

NETWORKS = 16
PEERS = 256  # of one network, leases included
ROOM = 1 << 20  # bytes of what all who are present say of themselves, as `weigh` counts

Tell = Callable[[str, MeshData], None]  # is told the type and the data of an event


class Peer:
    """A peer that is present, or its lease.

    Attributes:
        card: what it says of itself; of one that is gone, its id alone
        virtual_ip: its address
        token: SHA-256 of the token that proves it is the same; b"" for none
        proven: that token was used since, so it arrived
        seen: when it was last heard of, in monotonic seconds
    """

    __slots__ = ("card", "proven", "seen", "token", "virtual_ip")

    def __init__(self, id: str, virtual_ip: str, token: bytes = b"") -> None:
        self.card = Card(id)
        self.virtual_ip = virtual_ip
        self.token = token
        self.proven = False
        self.seen = 0.0

    def owns(self, token: bytes) -> bool:
        """Whether that is its token."""
        return _compare_digest(sha256(token).digest(), self.token)


class Network:
    """One network.

    Args:
        id: what the API calls it
        name: what people call it
        cidr: its addresses, as for `ipam.Pool`; of another source than ``registry`` anything
        created: Unix time in seconds
        tell: told the type and the data of each event
        source: who its peers are: ``registry`` for those that register; those of any other
            source are for somebody else to lease, enter, alter and leave

    Attributes:
        present: peers by id
        gone: leases of those that are not present, the longest gone first
        weight: what those that are present say of themselves, see `weigh`

    Raises:
        ValueError: about `cidr`
    """

    __slots__ = (
        "created", "gone", "id", "name", "pool", "present", "source", "tell", "weight",
    )  # fmt: skip

    def __init__(
        self,
        id: str,
        name: str,
        cidr: str,
        created: float,
        tell: Tell,
        source: str = "registry",
    ) -> None:
        self.id = id
        self.name = name
        self.pool = Pool(cidr) if source == "registry" else NoPool(cidr)
        self.created = created
        self.tell = tell
        self.source = source
        self.present: dict[str, Peer] = {}
        self.gone: dict[str, Peer] = {}
        self.weight = 0

    def find(self, id: str) -> Peer | None:
        """A peer that is present, or its lease."""
        return self.present.get(id) or self.gone.get(id)

    def lease(self, id: str) -> Peer:
        """The lease of a new peer, which is not present yet.

        Raises:
            MeshError: all that there is room for are present
        """
        if len(self.present) + len(self.gone) >= PEERS and not self._forget_one():
            raise MeshError("too_many_peers", f"The network has {PEERS} peers already.")
        address = self.pool.allocate()
        if address is None and self._forget_one():
            address = self.pool.allocate()
        if address is None:
            raise MeshError("no_address", "All addresses of the network are in use.")
        return self.hold(Peer(id, address))

    def hold(self, peer: Peer) -> Peer:
        """Keep the lease of a peer whose address is taken; answers the peer."""
        self.gone[peer.card.id] = peer
        return peer

    def enter(self, peer: Peer, card: Card, telling: bool = True) -> None:
        """Somebody who has a lease is present; `telling` is for who was not before."""
        self.present[card.id] = self.gone.pop(card.id)
        peer.card = card
        self.weight += weigh(card)
        if telling:
            self.tell("peer.joined", joined(peer))

    def alter(self, peer: Peer, card: Card, virtual_ip: str | None = None) -> bool:
        """Somebody who is present says this of itself; answers whether that is new.

        Args:
            peer: it
            card: what it says
            virtual_ip: its address from now on; None for the one that it has
        """
        if virtual_ip is None:
            virtual_ip = peer.virtual_ip
        if card == peer.card and virtual_ip == peer.virtual_ip:
            return False
        peer.virtual_ip = virtual_ip
        self.weight += weigh(card) - weigh(peer.card)
        peer.card = card
        self.tell(
            "peer.updated",
            PeerUpdated(
                card.id, card.endpoints, card.name, peer.virtual_ip, card.public_key, card.metadata
            ),
        )
        return True

    def leave(self, peer: Peer, reason: str) -> None:
        """Somebody is not present any more; the lease stays."""
        id, name = peer.card.id, peer.card.name
        self.gone[id] = self.present.pop(id)
        self.weight -= weigh(peer.card)
        peer.card = Card(id)
        self.tell("peer.left", PeerLeft(id, name, reason))

    def _forget_one(self) -> bool:
        """Give up the lease of who has been gone longest; answers whether there was one."""
        if not self.gone:
            return False
        peer = self.gone.pop(next(iter(self.gone)))
        self.pool.release(peer.virtual_ip)
        return True


class Registry:
    """All networks, and the peers that register.

    Args:
        timeout: seconds after which a peer that is not heard of has left
        mint: makes a token that nobody can guess
        changed: told whenever something changed that should outlive the process

    Attributes:
        networks: by id
    """

    __slots__ = ("_beats", "_changed", "_mint", "networks", "timeout")

    def __init__(
        self, timeout: float, mint: Callable[[], str], changed: Callable[[], None]
    ) -> None:
        self.timeout = timeout
        self._mint = mint
        self._changed = changed
        self.networks: dict[str, Network] = {}
        # Who has to be heard of; who was heard of longest ago stands first.
        self._beats: dict[Peer, Network] = {}

    # Networks.

    def create(
        self,
        id: str,
        name: str,
        cidr: str,
        created: float,
        tell: Tell,
        source: str = "registry",
    ) -> Network:
        """Make a network; for the arguments see `Network`.

        Raises:
            MeshError: there is one of this id, there are too many, or `cidr` is none
        """
        if id in self.networks:
            raise MeshError("exists", "There is a network of this id.")
        if len(self.networks) >= NETWORKS:
            raise MeshError("too_many_networks", f"There are {NETWORKS} networks already.")
        try:
            network = Network(id, name, cidr, created, tell, source)
        except ValueError as error:
            raise MeshError("bad_cidr", f"The field 'cidr' is {error}.") from None
        self.networks[id] = network
        self._changed()
        return network

    def network(self, id: str) -> Network:
        """A network.

        Raises:
            MeshError: there is none of this id
        """
        network = self.networks.get(id)
        if network is None:
            raise MeshError("not_found", "There is no network of this id.")
        return network

    def delete(self, id: str) -> None:
        """Remove a network; everybody in it leaves.

        Raises:
            MeshError: as `network`
        """
        network = self.network(id)
        for peer in list(network.present.values()):
            self._beats.pop(peer, None)
            network.leave(peer, "network_deleted")
        del self.networks[id]
        self._changed()

    # Peers.

    def peer(self, network: Network, id: str) -> Peer:
        """A peer that is present.

        Raises:
            MeshError: it is not
        """
        peer = network.present.get(id)
        if peer is None:
            raise MeshError("not_found", "There is no peer of this id; it may have to register.")
        return peer

    def registrant(self, network: Network, id: str) -> Peer:
        """A peer that is present and may be changed.

        Raises:
            MeshError: it is not, or is not for the API to change
        """
        self._check_source(network)
        return self.peer(network, id)

    def register(
        self, network: Network, card: Card, now: float, token: str, trusted: bool
    ) -> tuple[Peer, str]:
        """A peer is here, and says this of itself.

        Args:
            network: which it is in from now on
            card: what it says
            now: monotonic seconds
            token: that of the peer, where it has one
            trusted: whoever registers it needs no token

        Returns:
            the peer, and the token that it gets with this, "" where it has one

        Raises:
            MeshError: it is no network for that, `card` breaks a bound, somebody else has this
                id, or there is no room
        """
        self._check_source(network)
        card = checked(card)
        peer = network.find(card.id)
        if peer is not None and peer.token and not trusted and not peer.owns(token.encode()):
            if not token:
                raise MeshError(
                    "peer_exists",
                    "A peer of this id is registered: send its token as 'peer_token', or have "
                    "it removed first.",
                )
            raise MeshError("wrong_peer_token", "This is not the token of the peer of this id.")
        self.check_room(card, network.present.get(card.id))
        if peer is None:
            peer = network.lease(card.id)
        fresh = "" if peer.token else self._mint()
        if fresh:
            peer.token = sha256(fresh.encode()).digest()
            peer.proven = trusted
        else:
            self._prove(peer)
        if card.id in network.gone:
            network.enter(peer, card)
            self._changed()
        elif network.alter(peer, card):
            self._changed()
        self._beat(network, peer, now)
        return peer, fresh

    def change(self, network: Network, peer: Peer, change: Change) -> None:
        """A peer that is present says something anew.

        Raises:
            MeshError: a bound is broken, or there is no room
        """
        card = peer.card
        if change.name is not UNSET:
            card = structs.replace(card, name=change.name)
        if change.endpoints is not UNSET:
            card = structs.replace(card, endpoints=change.endpoints)
        if change.metadata is not UNSET:
            merged = {**card.metadata, **change.metadata}
            kept = {key: value for key, value in merged.items() if value is not None}
            card = structs.replace(card, metadata=kept)
        card = checked(card)
        self.check_room(card, peer)
        self._prove(peer)
        if network.alter(peer, card):
            self._changed()

    def heard(self, network: Network, peer: Peer, now: float) -> None:
        """A peer that is present was heard of, at monotonic time `now`."""
        self._prove(peer)
        self._beat(network, peer, now)

    def remove(self, network: Network, id: str) -> None:
        """A peer leaves by itself, or is put out; its id is free for anybody who may register.

        Raises:
            MeshError: there is neither a peer nor a token of this id, or it is no network for
                that
        """
        self._check_source(network)
        peer = network.find(id)
        if peer is None or not (peer.token or id in network.present):
            raise MeshError("not_found", "There is no peer of this id.")
        peer.token = b""
        if id in network.present:
            self._beats.pop(peer, None)
            network.leave(peer, "removed")
        self._changed()

    # Time.

    def due(self) -> float | None:
        """The monotonic time before which no peer expires; None without any."""
        first = next(iter(self._beats), None)
        return None if first is None else first.seen + self.timeout

    def expire(self, now: float) -> None:
        """Whoever was not heard of for too long has left."""
        for peer, network in list(self._beats.items()):
            if peer.seen + self.timeout > now:
                break
            del self._beats[peer]
            if not peer.proven:  # it may never have learned its token, and could not come back
                peer.token = b""
            network.leave(peer, "timeout")
            self._changed()

    def resume(self, network: Network, peer: Peer, card: Card, now: float) -> None:
        """A peer is present as it was before the daemon restarted; nobody is told.

        Args:
            network: which it is in
            peer: it, held by the network
            card: what it said
            now: monotonic seconds; from here it has its time to be heard of

        Raises:
            MeshError: there is no room
        """
        self.check_room(card, None)
        network.enter(peer, card, telling=False)
        self._beat(network, peer, now)

    def _prove(self, peer: Peer) -> None:
        """It used its token; that outlives the process as the token does."""
        if not peer.proven:
            peer.proven = True
            self._changed()

    def _beat(self, network: Network, peer: Peer, now: float) -> None:
        self._beats.pop(peer, None)
        self._beats[peer] = network
        peer.seen = now

    def _check_source(self, network: Network) -> None:
        if network.source != "registry":
            raise MeshError("not_a_registry", "The peers of this network are not for the API.")

    def check_room(self, card: Card, peer: Peer | None) -> None:
        """See whether there is room for `card`, in the place of what `peer` says.

        Raises:
            MeshError: there is none
        """
        more = weigh(card) - (weigh(peer.card) if peer is not None else 0)
        if more > 0 and sum(each.weight for each in self.networks.values()) + more > ROOM:
            raise MeshError("mesh_full", "The peers say more of themselves than there is room for.")


def joined(peer: Peer) -> PeerJoined:
    """The event that tells of a peer."""
    card = peer.card
    return PeerJoined(
        card.id, card.name, peer.virtual_ip, card.public_key, card.endpoints, card.metadata
    )
