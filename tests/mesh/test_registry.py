"""Networks and peers: who is present, what is told, what is refused, what is remembered."""

from __future__ import annotations

import tracemalloc
from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec import json

from bifrost_lite.events import Endpoint, MeshData, PeerJoined, PeerLeft, PeerUpdated
from bifrost_lite.mesh import registry as registry_module
from bifrost_lite.mesh.card import Card, Change, MeshError, weigh
from bifrost_lite.mesh.registry import NETWORKS, PEERS, Network, Peer, Registry

LAN = Endpoint("192.168.1.100", 51820, "lan")
TIMEOUT = 90.0


class Mesh:
    """A registry with one network, its events, and how often it changed."""

    def __init__(self, cidr: str = "10.100.0.0/16") -> None:
        self.changes = 0
        self.events: list[tuple[str, MeshData]] = []
        numbers = count(1)
        self.registry = Registry(TIMEOUT, lambda: f"token-{next(numbers)}", self._changed)
        self.network = self.create("home", cidr)
        self.changes = 0

    def _changed(self) -> None:
        self.changes += 1

    def create(self, id: str, cidr: str = "10.100.0.0/16") -> Network:
        return self.registry.create(
            id, "", cidr, 0.0, lambda type, data: self.events.append((type, data))
        )

    def register(
        self, id: str, now: float = 0.0, token: str = "", trusted: bool = False, **said: object
    ) -> tuple[Peer, str]:
        card = Card(id, **said)  # type: ignore[arg-type]
        return self.registry.register(self.network, card, now, token, trusted)

    def told(self) -> list[tuple[str, MeshData]]:
        """The events since the last call."""
        events, self.events = self.events, []
        return events

    def kinds(self) -> list[str]:
        return [f"{type.removeprefix('peer.')} {data.peer_id}" for type, data in self.told()]


@pytest.fixture
def mesh() -> Mesh:
    return Mesh()


def word(error: pytest.ExceptionInfo[MeshError]) -> str:
    return error.value.word


# Registration.


def test_the_first_registration(mesh: Mesh) -> None:
    peer, token = mesh.register(
        "xyz", name="laptop", public_key="k=", endpoints=(LAN,), metadata={"os": "linux"}
    )
    assert (peer.virtual_ip, token) == ("10.100.0.2", "token-1")
    assert mesh.told() == [
        ("peer.joined", PeerJoined("xyz", "laptop", "10.100.0.2", "k=", (LAN,), {"os": "linux"}))
    ]
    assert peer.owns(b"token-1")
    assert not peer.owns(b"token-2")
    assert not peer.owns(b"")
    assert b"token-1" not in peer.token
    assert mesh.changes == 1


def test_registering_again_is_no_join(mesh: Mesh) -> None:
    peer, token = mesh.register("xyz", name="laptop")
    mesh.told()
    again, fresh = mesh.register("xyz", 10.0, token, name="laptop")
    assert (again, fresh) == (peer, "")  # the token is told once
    assert (mesh.told(), mesh.changes, peer.seen) == ([], 2, 10.0)  # it used its token
    mesh.register("xyz", 10.0, token, name="laptop")
    assert (mesh.told(), mesh.changes) == ([], 2)
    mesh.register("xyz", 20.0, token, name="desktop")
    assert mesh.told() == [
        ("peer.updated", PeerUpdated("xyz", (), "desktop", "10.100.0.2", "", {}))
    ]


@pytest.mark.parametrize(
    "said",
    [{"name": "b"}, {"public_key": "b"}, {"endpoints": (LAN,)}, {"metadata": {"a": "c"}}],
)
def test_every_real_difference_is_told(mesh: Mesh, said: dict[str, object]) -> None:
    before = {"name": "a", "public_key": "a", "endpoints": (), "metadata": {"a": "b"}}
    _, token = mesh.register("xyz", **before)
    mesh.kinds()
    mesh.register("xyz", token=token, **(before | said))
    mesh.register("xyz", token=token, **(before | said))
    assert mesh.kinds() == ["updated xyz"]


def test_nobody_takes_over_another_peer(mesh: Mesh) -> None:
    _, token = mesh.register("xyz", public_key="mine")
    with pytest.raises(MeshError) as error:
        mesh.register("xyz", public_key="yours")
    assert word(error) == "peer_exists"
    for wrong in ("token-2", token + "x", token.upper(), "x" * 256):
        with pytest.raises(MeshError) as error:
            mesh.register("xyz", token=wrong, public_key="yours")
        assert word(error) == "wrong_peer_token"
    assert mesh.kinds() == ["joined xyz"]
    assert mesh.network.present["xyz"].card.public_key == "mine"
    mesh.register("xyz", trusted=True, public_key="new")  # with the operator's own token
    assert mesh.kinds() == ["updated xyz"]
    assert mesh.network.present["xyz"].owns(token.encode())


def test_who_is_gone_is_still_protected(mesh: Mesh) -> None:
    _, token = mesh.register("xyz")
    mesh.registry.heard(mesh.network, mesh.network.present["xyz"], 0.0)
    mesh.registry.expire(TIMEOUT)
    with pytest.raises(MeshError) as error:
        mesh.register("xyz", 100.0)
    assert word(error) == "peer_exists"
    assert mesh.register("xyz", 100.0, token)[1] == ""
    assert mesh.kinds() == ["joined xyz", "left xyz", "joined xyz"]


def test_a_lost_answer_locks_nobody_out(mesh: Mesh) -> None:
    """A peer that never used its token may not have got it."""
    first, token = mesh.register("xyz")
    with pytest.raises(MeshError):
        mesh.register("xyz", 10.0)
    mesh.registry.expire(TIMEOUT)
    second, fresh = mesh.register("xyz", 100.0)
    assert second is first
    assert fresh not in ("", token)
    assert not second.owns(token.encode())


def test_what_the_operator_registers_is_not_open_to_others(mesh: Mesh) -> None:
    mesh.register("xyz", trusted=True)
    mesh.registry.expire(TIMEOUT)
    with pytest.raises(MeshError):
        mesh.register("xyz", 100.0)


def test_a_removed_peer_may_register_as_new(mesh: Mesh) -> None:
    first, token = mesh.register("xyz")
    mesh.registry.remove(mesh.network, "xyz")
    assert not first.owns(token.encode())
    again, fresh = mesh.register("xyz")
    assert fresh not in ("", token)
    assert again.virtual_ip == "10.100.0.2"
    assert mesh.kinds() == ["joined xyz", "left xyz", "joined xyz"]


def test_remove(mesh: Mesh) -> None:
    mesh.register("xyz", name="laptop", endpoints=(LAN,))
    mesh.told()
    mesh.registry.remove(mesh.network, "xyz")
    assert mesh.told() == [("peer.left", PeerLeft("xyz", "laptop", "removed"))]
    for id in ("xyz", "nobody"):
        with pytest.raises(MeshError) as error:
            mesh.registry.remove(mesh.network, id)
        assert word(error) == "not_found"
    assert mesh.told() == []


def test_remove_ends_the_token_of_who_is_gone(mesh: Mesh) -> None:
    _, token = mesh.register("xyz")
    mesh.register("xyz", token=token)
    mesh.registry.expire(TIMEOUT)
    mesh.kinds()
    mesh.registry.remove(mesh.network, "xyz")
    assert mesh.kinds() == []  # it has left already
    assert mesh.register("xyz", 100.0)[1]


# Changes.


def test_change(mesh: Mesh) -> None:
    peer, _ = mesh.register(
        "xyz", trusted=True, name="a", public_key="k", metadata={"a": "1", "b": "2"}
    )
    mesh.told()
    mesh.registry.change(mesh.network, peer, Change())
    mesh.registry.change(mesh.network, peer, Change(name="a", endpoints=(), metadata={"a": "1"}))
    assert (mesh.told(), mesh.changes) == ([], 1)
    mesh.registry.change(
        mesh.network, peer, Change(endpoints=(LAN,), metadata={"a": None, "c": "3", "d": None})
    )
    expected = PeerUpdated("xyz", (LAN,), "a", "10.100.0.2", "k", {"b": "2", "c": "3"})
    assert mesh.told() == [("peer.updated", expected)]
    mesh.registry.change(mesh.network, peer, Change(endpoints=()))
    assert peer.card.endpoints == ()


def test_an_event_keeps_what_it_told(mesh: Mesh) -> None:
    peer, _ = mesh.register("xyz", metadata={"a": "1"})
    mesh.registry.change(mesh.network, peer, Change(metadata={"a": "2"}))
    told = [data for _, data in mesh.told() if not isinstance(data, PeerLeft)]
    assert [data.metadata for data in told] == [{"a": "1"}, {"a": "2"}]


def test_each_endpoint_once(mesh: Mesh) -> None:
    twice = (LAN, Endpoint("192.168.1.100", 51820, "relay"), Endpoint("192.168.1.100", 51821))
    peer, _ = mesh.register("xyz", endpoints=twice)
    assert peer.card.endpoints == (LAN, Endpoint("192.168.1.100", 51821))
    spelled = tuple(
        Endpoint(address, 1)
        for address in (
            "A.example", "a.example", "a.example.", "fd00::1", "FD00:0::1", "::ffff:10.0.0.1",
            "10.0.0.1",
        )
    )  # fmt: skip
    peer, _ = mesh.register("abc", endpoints=spelled)
    assert peer.card.endpoints == (spelled[0], spelled[3], spelled[5])


@pytest.mark.parametrize(
    "said",
    [
        {"metadata": {"ü" * 33: ""}},
        {"metadata": {"a": "ü" * 129}},
        {"metadata": {str(number): "" for number in range(51)}},
        {"endpoints": (Endpoint("", 1),)},
        {"endpoints": (LAN, Endpoint("not a host", 1))},
        {"endpoints": (Endpoint("fe80::1%eth0", 1),)},
        {"endpoints": (Endpoint("300.1.1.1", 1),)},
        {"endpoints": (Endpoint("[::1]", 1),)},
    ],
)
def test_bounds_that_types_do_not_say(mesh: Mesh, said: dict[str, object]) -> None:
    with pytest.raises(MeshError) as error:
        mesh.register("xyz", **said)
    assert word(error) == "bad_body"
    assert f"'{next(iter(said))}" in error.value.message
    assert (mesh.told(), mesh.changes, mesh.network.find("xyz")) == ([], 0, None)
    peer, _ = mesh.register("xyz")
    with pytest.raises(MeshError):
        mesh.registry.change(mesh.network, peer, Change(**said))  # type: ignore[arg-type]
    assert peer.card == Card("xyz")


def test_changes_that_add_up_are_bounded(mesh: Mesh) -> None:
    peer, _ = mesh.register("xyz", metadata={str(number): "" for number in range(50)})
    with pytest.raises(MeshError):
        mesh.registry.change(mesh.network, peer, Change(metadata={"more": ""}))
    mesh.registry.change(mesh.network, peer, Change(metadata={"more": "", "0": None}))
    assert len(peer.card.metadata) == 50


# Time.


def test_expiry(mesh: Mesh) -> None:
    assert mesh.registry.due() is None
    mesh.register("a", 0.0)
    mesh.register("b", 10.0, name="bee")
    mesh.register("c", 20.0)
    assert mesh.registry.due() == 90.0
    mesh.registry.heard(mesh.network, mesh.network.present["a"], 30.0)
    assert mesh.registry.due() == 100.0
    mesh.told()
    mesh.registry.expire(99.99)
    assert mesh.told() == []
    mesh.registry.expire(100.0)
    assert mesh.told() == [("peer.left", PeerLeft("b", "bee", "timeout"))]
    mesh.registry.expire(1000.0)
    assert mesh.kinds() == ["left c", "left a"]
    assert mesh.registry.due() is None


def test_heartbeats_change_nothing_that_is_kept(mesh: Mesh) -> None:
    """But the first: from then on the token binds."""
    peer, _ = mesh.register("a")
    assert mesh.changes == 1
    for now in range(100):
        mesh.registry.heard(mesh.network, peer, float(now))
        assert mesh.changes == 2
    assert mesh.kinds() == ["joined a"]


def test_who_left_has_no_heartbeat(mesh: Mesh) -> None:
    mesh.register("a")
    mesh.registry.expire(TIMEOUT)
    for id in ("a", "nobody"):
        with pytest.raises(MeshError) as error:
            mesh.registry.peer(mesh.network, id)
        assert word(error) == "not_found"


# Room.


def test_same_peer_same_address(mesh: Mesh) -> None:
    addresses = {id: mesh.register(id, trusted=True)[0].virtual_ip for id in "abc"}
    mesh.registry.expire(TIMEOUT)
    assert mesh.register("new", 91.0)[0].virtual_ip not in addresses.values()
    for id in "cab":
        assert mesh.register(id, 92.0, trusted=True)[0].virtual_ip == addresses[id]


def test_who_has_been_gone_longest_makes_room(mesh: Mesh) -> None:
    for number in range(PEERS):
        mesh.register(f"p{number}", float(number), trusted=True)
    with pytest.raises(MeshError) as error:
        mesh.register("new")
    assert word(error) == "too_many_peers"
    mesh.registry.remove(mesh.network, "p7")
    mesh.registry.remove(mesh.network, "p3")
    seventh, third = (mesh.network.gone[id].virtual_ip for id in ("p7", "p3"))
    mesh.told()
    assert mesh.register("new1")[0].virtual_ip == seventh
    assert mesh.register("new2")[0].virtual_ip == third
    assert mesh.kinds() == ["joined new1", "joined new2"]
    assert len(mesh.network.pool) == PEERS
    with pytest.raises(MeshError):
        mesh.register("p7")


def test_addresses_run_out_before_records() -> None:
    mesh = Mesh("10.0.0.0/30")
    mesh.register("a", trusted=True)
    with pytest.raises(MeshError) as error:
        mesh.register("b")
    assert word(error) == "no_address"
    mesh.registry.expire(TIMEOUT)
    assert mesh.register("b", 91.0)[0].virtual_ip == "10.0.0.2"
    assert mesh.network.find("a") is None


def test_what_peers_say_is_bounded_in_all(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    great = {str(number): "x" * 250 for number in range(20)}
    size = weigh(Card("p0", metadata=great))
    monkeypatch.setattr(registry_module, "ROOM", 3 * size)
    mesh.register("p0", metadata=great)
    other = mesh.create("other")
    mesh.registry.register(other, Card("p1", metadata=great), 0.0, "", False)
    peer, _ = mesh.register("p2")
    with pytest.raises(MeshError) as error:
        mesh.registry.change(mesh.network, peer, Change(metadata={**great, "more": "x" * 250}))
    assert word(error) == "mesh_full"
    with pytest.raises(MeshError):
        mesh.register("p3", metadata={**great, "more": "x" * 250})
    assert mesh.network.find("p3") is None
    mesh.registry.delete("other")
    mesh.register("p3", metadata=great)
    mesh.registry.remove(mesh.network, "p0")
    mesh.register("p4", metadata=great)
    people = mesh.network.present.values()
    assert mesh.network.weight == sum(weigh(each.card) for each in people)


NASTY = "\U0001f600" + '"' * 252  # one character makes all of them four bytes wide


@pytest.mark.parametrize(
    "card",
    [
        Card("p", metadata={f"key {number:058}": NASTY for number in range(50)}),
        Card("p", metadata={f"key {number:058}": '"' * 256 for number in range(50)}),
        Card("p", metadata={f"\xfc{number}": "\xff" * 128 for number in range(43)}),
        Card("p", "\u0100" * 255, '"' * 256),
        Card("p", metadata={f"{number}": "" for number in range(50)}),
        Card("p", endpoints=tuple(Endpoint("1.2.3.4", 1000 + n, "lan", 1000) for n in range(16))),
        Card("p", "laptop", "x" * 44, (LAN, LAN), {"os": "linux", "version": "1.2.3"}),
    ],
)
def test_a_weight_is_no_less_than_what_is_held(card: Card) -> None:
    raw = json.encode(card)

    def held() -> list[Card]:
        """As they come out of a body, and were told to somebody."""
        cards = [json.decode(raw, type=Card) for _ in range(20)]
        for each in cards:
            json.encode(each)
        return cards

    held()
    tracemalloc.start()
    try:
        cards = held()
        assert tracemalloc.get_traced_memory()[0] / len(cards) <= weigh(card)
    finally:
        tracemalloc.stop()
    assert weigh(cards[0]) == weigh(card)  # it does not change by being told
    assert len(raw) <= weigh(card)


def test_how_much_the_room_is() -> None:
    """As docs/mesh.md has it."""
    typical = Card(
        "0123456789abcdef", "laptop of Alice", "x" * 43 + "=",
        (LAN, Endpoint("203.0.113.77", 51820, "reflexive")), {"os": "linux", "version": "1.2.3"},
    )  # fmt: skip
    assert len(json.encode(typical)) > 300
    assert registry_module.ROOM // weigh(typical) > 3 * PEERS


def test_leases_take_no_room(mesh: Mesh) -> None:
    for number in range(PEERS):
        mesh.register(f"p{number}", name="x" * 200)
    mesh.registry.expire(TIMEOUT)
    assert (len(mesh.network.gone), mesh.network.weight) == (PEERS, 0)


# Networks.


def test_networks_are_counted(mesh: Mesh) -> None:
    for number in range(NETWORKS - 1):
        mesh.create(f"n{number}")
    with pytest.raises(MeshError) as error:
        mesh.create("one-more")
    assert word(error) == "too_many_networks"
    with pytest.raises(MeshError) as error:
        mesh.create("home")
    assert word(error) == "exists"
    mesh.registry.delete("n3")
    mesh.create("one-more")


def test_a_bad_cidr(mesh: Mesh) -> None:
    with pytest.raises(MeshError) as error:
        mesh.create("bad", "10.0.0.0/31")
    assert (word(error), "'cidr' is no network" in error.value.message) == ("bad_cidr", True)
    assert "bad" not in mesh.registry.networks


def test_with_a_network_everybody_leaves(mesh: Mesh) -> None:
    mesh.register("a", name="A")
    mesh.register("b")
    mesh.registry.remove(mesh.network, "b")
    mesh.told()
    mesh.registry.delete("home")
    assert mesh.told() == [("peer.left", PeerLeft("a", "A", "network_deleted"))]
    assert mesh.registry.due() is None
    with pytest.raises(MeshError) as error:
        mesh.registry.network("home")
    assert word(error) == "not_found"


def test_networks_know_nothing_of_each_other(mesh: Mesh) -> None:
    other = mesh.create("other")
    _, token = mesh.register("a")
    peer, fresh = mesh.registry.register(other, Card("a"), 0.0, "", False)
    assert fresh not in ("", token)
    assert peer.virtual_ip == "10.100.0.2"
    mesh.registry.delete("other")
    assert list(mesh.network.present) == ["a"]


def test_a_network_whose_peers_somebody_else_puts_in() -> None:
    """They register nowhere, and are told of like all others."""
    mesh = Mesh()
    network = Network(
        "wg", "", "10.9.0.0/24", 0.0, lambda type, data: mesh.events.append((type, data)), "wireguard"
    )
    with pytest.raises(MeshError) as error:
        mesh.registry.register(network, Card("a"), 0.0, "", True)
    assert word(error) == "not_a_registry"
    peer = network.hold(Peer("a", "10.9.0.7"))
    network.enter(peer, Card("a", "router"))
    network.alter(peer, Card("a", "gateway"))
    network.leave(peer, "timeout")
    assert mesh.kinds() == ["joined a", "updated a", "left a"]
    assert mesh.registry.due() is None


# Any order of everything, against the plainest model.

ids = st.sampled_from([f"p{number}" for number in range(8)])


class RegistryMachine(RuleBasedStateMachine):
    """Five addresses for eight peers, of which somebody is always gone or refused."""

    @initialize()
    def start(self) -> None:
        self.mesh = Mesh("10.0.0.0/29")
        self.now = 0.0
        self.seen: dict[str, float] = {}
        self.names: dict[str, str] = {}
        self.leases: dict[str, str] = {}  # of who is gone, the longest first
        self.addresses: dict[str, str] = {}

    def left(self, id: str) -> None:
        del self.seen[id]
        self.leases[id] = self.addresses.pop(id)

    @rule(id=ids, name=st.sampled_from("xy"))
    def register(self, id: str, name: str) -> None:
        present = id in self.seen
        try:
            peer, _ = self.mesh.register(id, self.now, trusted=True, name=name)
        except MeshError as error:
            assert error.word == "no_address"
            assert not present
            assert len(self.seen) == 5
            return
        if present:
            expected = ["updated " + id] if self.names[id] != name else []
        else:
            expected = ["joined " + id]
            if id in self.leases:
                assert peer.virtual_ip == self.leases.pop(id)
            elif len(self.seen) + len(self.leases) == 5:
                del self.leases[next(iter(self.leases))]
            assert peer.virtual_ip not in {*self.addresses.values(), *self.leases.values()}
            self.addresses[id] = peer.virtual_ip
        assert self.mesh.kinds() == expected
        self.seen[id], self.names[id] = self.now, name

    @rule(id=ids)
    def hear(self, id: str) -> None:
        peer = self.mesh.network.present.get(id)
        assert (peer is not None) == (id in self.seen)
        if peer is not None:
            self.mesh.registry.heard(self.mesh.network, peer, self.now)
            self.seen[id] = self.now
        assert self.mesh.kinds() == []

    @rule(id=ids)
    def remove(self, id: str) -> None:
        if id in self.seen:
            self.mesh.registry.remove(self.mesh.network, id)
            self.left(id)
            assert self.mesh.kinds() == ["left " + id]

    @rule(seconds=st.sampled_from([1.0, 30.0, 89.0, 90.0, 200.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        gone = [id for id, seen in self.seen.items() if seen + TIMEOUT <= self.now]
        gone.sort(key=self.seen.__getitem__)
        self.mesh.registry.expire(self.now)
        told = self.mesh.kinds()
        assert sorted(told) == sorted(f"left {id}" for id in gone)
        for text in told:  # those of one moment in any order
            self.left(text.removeprefix("left "))

    @invariant()
    def nothing_is_lost(self) -> None:
        network = self.mesh.network
        assert set(network.present) == set(self.seen)
        assert list(network.gone) == list(self.leases)
        assert len(network.pool) == len(self.seen) + len(self.leases)
        due = self.mesh.registry.due()
        assert due == (min(self.seen.values()) + TIMEOUT if self.seen else None)


TestRegistry = RegistryMachine.TestCase
TestRegistry.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
