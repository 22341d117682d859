"""The registry as bytes: everything comes back, nothing else gets in."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost_lite.events import Endpoint, MeshData
from bifrost_lite.mesh import registry as registry_module
from bifrost_lite.mesh.card import Card, MeshError
from bifrost_lite.mesh.registry import Registry, Tell
from bifrost_lite.mesh.state import dump, parse, restore

LAN = Endpoint("192.168.1.100", 51820, "lan", 7)


def silent(id: str) -> Tell:
    def tell(type: str, data: MeshData) -> None:
        raise AssertionError(f"{type} {data.peer_id} in {id}")

    return tell


def empty() -> Registry:
    return Registry(90.0, lambda: "a-token", lambda: None)


def full() -> Registry:
    """Two networks; in one a peer is present, one is gone, and one was removed."""
    registry = empty()
    home = registry.create("home", "Home", "10.100.0.0/16", 1700000000.0, lambda *_: None)
    registry.create("other", "", "fd00::/64", 1700000001.5, lambda *_: None)
    for id, now in (("gone", 0.0), ("removed", 50.0), ("present", 50.0)):
        card = Card(id, "Näme", "key=", (LAN,), {"os": "linux"})
        peer, _ = registry.register(home, card, now, "", False)
        registry.heard(home, peer, now)
    registry.expire(100.0)
    registry.remove(home, "removed")
    return registry


def test_all_comes_back() -> None:
    old, new = full(), empty()
    assert restore(parse(dump(old, ())), new, silent, 1000.0) == 0
    assert dump(new, ()) == dump(old, ())
    home = new.networks["home"]
    assert (home.name, home.created, home.pool.cidr) == ("Home", 1700000000.0, "10.100.0.0/16")
    assert list(home.gone) == ["gone", "removed"]
    present = home.present["present"]
    assert present.card == Card("present", "Näme", "key=", (LAN,), {"os": "linux"})
    assert (present.virtual_ip, present.seen) == ("10.100.0.4", 1000.0)
    assert present.owns(b"a-token")
    assert home.gone["gone"].owns(b"a-token")
    assert not home.gone["removed"].owns(b"a-token")
    assert home.weight == old.networks["home"].weight
    assert new.due() == 1090.0
    new.expire(1089.0)
    assert list(home.present) == ["present"]
    assert len(home.pool) == 3


def test_a_token_that_was_never_used_binds_nobody() -> None:
    """Nor does it after a restart; one that was used does."""
    old = empty()
    home = old.create("home", "", "10.100.0.0/16", 0.0, lambda *_: None)
    for id in ("lost", "used"):
        peer, _ = old.register(home, Card(id), 0.0, "", False)
    old.heard(home, peer, 0.0)
    new = empty()
    new.create("home", "", "10.100.0.0/16", 0.0, lambda *_: None)
    restore(parse(dump(old, ())), new, silent, 0.0)
    home = new.networks["home"]
    new.expire(90.0)
    assert new.register(home, Card("lost"), 91.0, "", False)[1] == "a-token"
    with pytest.raises(MeshError):
        new.register(home, Card("used"), 91.0, "", False)


def test_more_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    saved = parse(dump(full(), ()))
    monkeypatch.setattr(registry_module, "ROOM", 100)
    registry = empty()
    assert restore(saved, registry, silent, 0.0) == 1
    home = registry.networks["home"]
    assert (list(home.gone), home.weight) == (["gone", "removed", "present"], 0)
    assert home.gone["present"].owns(b"a-token")


def test_no_token_is_in_it() -> None:
    assert b"a-token" not in dump(full(), ())


def test_networks_of_the_configuration_come_from_there() -> None:
    saved = parse(dump(full(), {"home", "other"}))
    registry = empty()
    registry.create("home", "New name", "10.100.0.0/16", 5.0, silent("home"))
    assert restore(saved, registry, silent, 0.0) == 0
    assert list(registry.networks) == ["home"]  # the other one is not configured any more
    home = registry.networks["home"]
    assert (home.name, home.created, list(home.present)) == ("New name", 1700000000.0, ["present"])


@pytest.mark.parametrize(
    ("cidr", "left"), [("10.101.0.0/16", 3), ("10.100.0.0/30", 2), ("10.100.0.0/29", 0)]
)
def test_peers_whose_address_is_no_more(cidr: str, left: int) -> None:
    registry = empty()
    registry.create("home", "", cidr, 0.0, silent("home"))
    assert restore(parse(dump(full(), ())), registry, silent, 0.0) == left
    home = registry.networks["home"]
    assert len(home.pool) == len(home.present) + len(home.gone) == 3 - left


def test_more_networks_than_may_be() -> None:
    registry = empty()
    for number in range(15):
        registry.create(f"n{number}", "", "10.0.0.0/24", 0.0, silent("x"))
    assert restore(parse(dump(full(), ())), registry, silent, 0.0) == 0
    assert "home" in registry.networks
    assert "other" not in registry.networks


def document() -> Any:
    return json.loads(dump(full(), ()))


def test_a_network_that_cannot_be_is_left_behind() -> None:
    saved = document()
    saved["networks"][0]["cidr"] = "10.100.0.0/31"
    registry = empty()
    assert restore(parse(json.dumps(saved).encode()), registry, silent, 0.0) == 3
    assert list(registry.networks) == ["other"]


def test_the_same_twice() -> None:
    saved = document()
    peers = saved["networks"][0]["peers"]
    same_address = {**peers[0], "card": {**peers[0]["card"], "id": "thief"}}
    saved["networks"][0]["peers"] = [*peers, peers[2], same_address]
    saved["networks"].append(saved["networks"][0])
    registry = empty()
    assert restore(parse(json.dumps(saved).encode()), registry, silent, 0.0) == 2 + 5
    assert len(registry.networks["home"].pool) == 3


def spoilt(*path: str | int, value: object) -> bytes:
    saved = document()
    place = saved
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return json.dumps(saved).encode()


HOME = ("networks", 0)
PEER = ("networks", 0, "peers", 2)


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{", b"null", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"version":1}',
        dump(full(), ())[:-1], dump(full(), ()) + b"x",
        spoilt("version", value=2), spoilt("version", value="1"), spoilt("more", value=1),
        spoilt(*HOME, "id", value="a/b"), spoilt(*HOME, "id", value=".."),
        spoilt(*HOME, "id", value="a\n"), spoilt(*HOME, "name", value="\u202ename"),
        spoilt(*HOME, "created", value=-1), spoilt(*HOME, "created", value=1e300),
        spoilt(*HOME, "peers", value=[document()["networks"][0]["peers"][0]] * 257),
        spoilt("networks", value=[document()["networks"][1]] * 17),
        spoilt(*PEER, "token", value="0123"), spoilt(*PEER, "token", value="X" * 64),
        spoilt(*PEER, "token", value=None), spoilt(*PEER, "proven", value=None), spoilt(*PEER, "present", value=1),
        spoilt(*PEER, "card", "id", value="x" * 65), spoilt(*PEER, "card", "name", value="\x1b[0m"),
        spoilt(*PEER, "card", "endpoints", 0, "port", value=0),
        spoilt(*PEER, "card", "endpoints", 0, "address", value="not a host"),
        spoilt(*PEER, "card", "metadata", value={"k": "ü" * 200}),
    ],
)  # fmt: skip
def test_anything_else_is_refused_whole(raw: bytes) -> None:
    with pytest.raises(ValueError):
        parse(raw)


def test_nested_deeply() -> None:
    raw = dump(full(), ()).replace(b'"name":"N', b'"more":' + b"[" * 100_000 + b',"name":"N', 1)
    with pytest.raises(ValueError):
        parse(raw)


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_no_other_error(raw: bytes) -> None:
    with pytest.raises(ValueError):
        parse(raw)


@given(st.data())
def test_any_damage_is_refused_or_harmless(data: st.DataObject) -> None:
    raw = bytearray(dump(full(), ()))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] = data.draw(st.integers(0, 255))
    try:
        saved = parse(bytes(raw))
    except ValueError:
        return
    registry = empty()
    restore(saved, registry, silent, 0.0)
    for network in registry.networks.values():
        assert len(network.pool) == len(network.present) + len(network.gone)
    assert parse(dump(registry, ()))
