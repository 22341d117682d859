"""Networks of a WireGuard device: what the kernel says, told once each; nothing unless asked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from bifrost_lite import tunnels
from bifrost_lite.config.schema import MeshNetwork
from bifrost_lite.coordinator import SAVE, Coordinator
from bifrost_lite.events import Endpoint, Event
from bifrost_lite.mesh import registry
from bifrost_lite.mesh.card import Card, Change, MeshError
from bifrost_lite.mesh.registry import PEERS, Network
from bifrost_lite.tunnels import INTERVAL, Tunnel
from bifrost_lite.wire.genl import Allowed, Peer
from bifrost_lite.wireguard import Done, Inquiry
from tests.test_coordinator import World

WG = MeshNetwork(id="wg", name="Tunnel", source="wireguard", device="wg0")
NOW = 1_700_000_000.0  # on the wall, when the loop's clock is at 1000
KEY = b"\xfb\xff" + bytes(30)
ID = "-_8" + "A" * 40
HOST = Allowed(b"\x0a\x09\x00\x07", 32)


class Kernel:
    """What is asked; answers at once, or when it is told to.

    Attributes:
        peers: of wg0; None where it is not there
        asked: how often
        held: who waits for an answer; None to answer at once
        cancelled: how many do not any more
    """

    def __init__(self) -> None:
        self.peers: list[Peer] | None = []
        self.asked = 0
        self.held: list[Done] | None = None
        self.cancelled = 0

    def __call__(self, device: str, done: Done) -> Inquiry:
        assert device == "wg0"
        self.asked += 1
        if self.held is None:
            self.answer(done)
        else:
            self.held.append(done)
        return cast(Inquiry, self)

    def cancel(self) -> None:
        self.cancelled += 1

    def answer(self, done: Done) -> None:
        done(self.peers, "" if self.peers is not None else "wg0 is not there")


class Place(World):
    """A coordinator with the network `WG`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.ask = self.kernel = Kernel()
        self.mesh = self.start(WG)

    @property
    def network(self) -> Network:
        return self.mesh.registry.networks["wg"]

    @property
    def tunnel(self) -> Tunnel:
        return self.mesh._tunnels["wg"]

    def wall(self) -> float:
        return NOW + self.loop.time() - 1000.0

    def read(self, *peers: Peer) -> list[str]:
        """Ask while these are the peers; answers what was told of it."""
        self.kernel.peers = list(peers)
        last = self.mesh.feeds["wg"].ring.last
        self.loop.run_until_complete(self.mesh.refresh(self.network))
        return told(self.mesh, last)

    def fail(self) -> MeshError:
        self.kernel.peers = None
        with pytest.raises(MeshError) as caught:
            self.loop.run_until_complete(self.mesh.refresh(self.network))
        return caught.value


def events(mesh: Coordinator, after: int = 0) -> list[Event]:
    return [event for number, event in mesh.feeds["wg"].ring.tail(256) if number > after]


def told(mesh: Coordinator, after: int = 0) -> list[str]:
    """Types, and why somebody left."""
    return [
        f"{event.type.removeprefix('peer.')} {getattr(event.data, 'reason', '')}".strip()
        for event in events(mesh, after)
    ]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    place = Place(tmp_path)
    monkeypatch.setattr(tunnels, "time", place.wall)
    try:
        yield place
        for mesh in list(place.made):
            place.stop(mesh)
        assert place.waiting() == []
    finally:
        place.loop.close()


def peer(key: bytes = KEY, handshake: float = NOW, **more: Any) -> Peer:
    return Peer(key, handshake, **more)


def test_what_is_shown_of_a_peer(place: Place) -> None:
    networks = (Allowed(b"\x0a\x0a\0\0", 16), HOST, Allowed(b"\x0a\x09\0\x08", 32))
    at = (bytes(10) + b"\xff\xff\xcb\x00\x71\x05", 51820)
    assert place.read(peer(handshake=NOW - 20, endpoint=at, allowed=networks)) == ["joined"]
    shown = place.network.present[ID]
    endpoints = (Endpoint("203.0.113.5", 51820, "wireguard"),)
    assert shown.card == Card(ID, "", "+/8" + "A" * 40 + "=", endpoints)
    assert shown.virtual_ip == "10.9.0.7"
    assert shown.seen == 980.0


def test_a_peer_without_address_or_endpoint(place: Place) -> None:
    place.read(peer(allowed=(Allowed(bytes(16), 0),), endpoint=(bytes(4), 0)))
    shown = place.network.present[ID]
    assert (shown.virtual_ip, shown.card.endpoints) == ("", ())


def test_each_change_is_told_once(place: Place) -> None:
    first = peer(allowed=(HOST,), endpoint=(b"\x7f\0\0\1", 1))
    assert place.read(first) == ["joined"]
    assert place.read(first) == []
    assert place.read(first._replace(handshake=NOW + 5, sent=7)) == []  # of no interest
    moved = first._replace(endpoint=(b"\x7f\0\0\1", 2))
    assert place.read(moved) == ["updated"]
    assert place.read(moved) == []
    renumbered = moved._replace(allowed=(Allowed(b"\x0a\x09\0\x08", 32),))
    assert place.read(renumbered) == ["updated"]
    assert place.network.present[ID].virtual_ip == "10.9.0.8"
    assert place.read() == ["left removed"]
    assert place.read() == []
    assert place.read(first) == ["joined"]
    assert place.network.gone == {}


@pytest.mark.parametrize(
    ("handshake", "present"),
    [(NOW - 179.9, True), (NOW - 180.0, False), (0.0, False), (NOW + 179.9, True)],
)
def test_who_is_present(place: Place, handshake: float, present: bool) -> None:
    assert place.read(peer(handshake=handshake)) == (["joined"] if present else [])


def test_who_is_silent_has_left(place: Place) -> None:
    assert place.read(peer()) == ["joined"]
    place.wait(179)
    assert place.read(peer()) == []
    place.wait(1)
    assert place.read(peer()) == ["left timeout"]
    assert place.read(peer(handshake=NOW + 180)) == ["joined"]


def test_nothing_is_read_while_nobody_looks(place: Place) -> None:
    place.read(peer())
    place.wait(10_000)
    assert place.kernel.asked == 1
    assert place.timers == 0


def test_one_timer_while_somebody_watches(place: Place) -> None:
    place.kernel.peers = [peer()]
    place.tunnel.watch()
    place.tunnel.watch()
    assert len(place.waiting()) == 1
    place.wait(INTERVAL + 1)
    assert (place.kernel.asked, told(place.mesh)) == (1, ["joined"])
    place.wait(180)
    assert (place.kernel.asked, told(place.mesh)) == (7, ["joined", "left timeout"])
    assert len(place.waiting()) == 1
    place.tunnel.rest()
    assert place.waiting() == []
    place.wait(1000)
    assert place.kernel.asked == 7


def test_who_comes_meanwhile_shares_the_answer(place: Place) -> None:
    place.kernel.held = []
    reads = [place.loop.create_task(place.mesh.refresh(place.network)) for _ in range(3)]
    place.wait(1)
    reads[0].cancel()  # a caller that went
    place.wait(1)
    (done,) = place.kernel.held
    place.kernel.peers = [peer()]
    place.kernel.answer(done)
    place.loop.run_until_complete(asyncio.gather(*reads[1:]))
    assert told(place.mesh) == ["joined"]


def test_a_device_that_goes_and_comes(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "bifrost.mesh")
    place.read(peer())
    for _ in range(3):
        error = place.fail()
        assert error.word == "device_unreadable"
        assert error.message == "The peers cannot be read: wg0 is not there."
    assert told(place.mesh) == ["joined", "left removed"]
    assert place.read(peer()) == ["joined"]
    place.read(peer())
    assert [record.getMessage() for record in caplog.records] == [
        "mesh network wg: wg0 is not there",
        "mesh network wg: its device is read again",
    ]


def test_a_list_of_networks_does_not_fail(place: Place) -> None:
    place.kernel.peers = None
    place.loop.run_until_complete(place.mesh.refresh_all())
    assert place.kernel.asked == 1


def test_a_network_that_is_removed_while_it_is_read(place: Place) -> None:
    place.read(peer())
    place.kernel.held = []
    tunnel = place.tunnel
    tunnel.watch()
    read = place.loop.create_task(place.mesh.refresh(place.network))
    place.wait(1)
    place.mesh.delete("wg")
    with pytest.raises(MeshError):
        place.loop.run_until_complete(read)
    assert place.kernel.cancelled == 1
    place.wait(SAVE)
    with pytest.raises(MeshError):
        place.loop.run_until_complete(tunnel.read())
    assert place.kernel.asked == 2
    tunnel.watch()  # a watcher whose upgrade was under way
    assert place.waiting() == []


def test_a_fault_of_our_own_leaves_nobody_waiting(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.kernel.held = []
    read = place.loop.create_task(place.mesh.refresh(place.network))
    place.wait(1)
    place.kernel.peers = [peer()]
    monkeypatch.setattr(tunnels, "age", lambda peers, now: 1 // 0)
    with pytest.raises(ZeroDivisionError):  # caught and logged by `Inquiry`
        place.kernel.answer(place.kernel.held[0])
    place.loop.run_until_complete(read)


def test_no_more_than_may_be(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [peer(number.to_bytes(32, "big")) for number in range(PEERS + 10)]
    place.read(*many)
    assert len(place.network.present) == PEERS
    last = place.mesh.feeds["wg"].ring.last
    place.read(*reversed(many))
    assert place.mesh.feeds["wg"].ring.last == last  # who is shown stays
    place.read()
    monkeypatch.setattr(registry, "ROOM", 3 * 500)
    place.read(*many)
    assert 0 < place.network.weight <= 1500
    assert len(place.network.present) < PEERS


def test_its_peers_are_not_for_the_api(place: Place) -> None:
    place.read(peer())
    network, registry = place.network, place.mesh.registry
    for call in (
        lambda: place.mesh.register(network, Card("a"), "", True),
        lambda: registry.registrant(network, ID),
        lambda: registry.registrant(network, "nobody"),
        lambda: place.mesh.remove(network, ID),
    ):
        with pytest.raises(MeshError) as caught:
            call()
        assert caught.value.word == "not_a_registry"
    assert list(network.present) == [ID]


def test_nothing_of_it_is_saved(place: Place) -> None:
    place.read(peer())
    home = place.mesh.create("home", "", "10.0.0.0/24")
    place.mesh.register(home, Card("a"), "", True)
    place.mesh.change(home, home.present["a"], Change(name="b"))
    place.stop(place.mesh)
    assert [network["id"] for network in place.saved()["networks"]] == ["home"]


def test_a_network_that_had_a_registry_before(place: Place) -> None:
    before = place.start(MeshNetwork(id="wg", cidr="10.0.0.0/24"))
    before.register(before.registry.networks["wg"], Card("a"), "", True)
    place.stop(before)
    after = place.start(WG).registry.networks["wg"]
    assert (after.present, after.gone) == ({}, {})
