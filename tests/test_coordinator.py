"""The mesh on a clock: one timer, few writes, a file that comes back, or is set aside."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import selectors
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bifrost_lite import coordinator as module
from bifrost_lite.config.schema import Mesh, MeshNetwork
from bifrost_lite.coordinator import SAVE, Coordinator
from bifrost_lite.events import Endpoint, Event
from bifrost_lite.fanout import Seats
from bifrost_lite.mesh.card import Card, Change, MeshError
from bifrost_lite.mesh_file import STATE_LIMIT, StateFile
from bifrost_lite.tunnels import Ask
from bifrost_lite.wireguard import Done, Inquiry

HOME = MeshNetwork(id="home", name="Home", cidr="10.100.0.0/16")
BOOT = "0123456789abcdef"


class Selector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Does not wait, but lets the clock go on by as much."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout:
            self.now += timeout
        return list(super().select(0))


def no_kernel(device: str, done: Done) -> Inquiry:
    raise AssertionError(f"nobody should ask for {device}")


class World:
    """An event loop with a clock of its own, and the coordinators on it.

    Attributes:
        timers: how many were armed
        ask: what coordinators ask for the peers of a device
    """

    def __init__(self, folder: Path) -> None:
        self.selector = Selector()
        self.loop = asyncio.SelectorEventLoop(self.selector)
        self.loop.time = lambda: self.selector.now  # type: ignore[method-assign]
        self.timers = 0
        call_at = self.loop.call_at

        def counted(when: float, *args: Any, **keys: Any) -> asyncio.TimerHandle:
            self.timers += 1
            return call_at(when, *args, **keys)

        self.loop.call_at = counted  # type: ignore[method-assign]
        self.state = folder / "mesh.json"
        self.made: list[Coordinator] = []
        self.ask: Ask = no_kernel

    def start(self, *networks: MeshNetwork, **keys: Any) -> Coordinator:
        """A coordinator whose state is in `self.state`, unless `keys` say otherwise."""
        settings = Mesh(networks=networks, **({"state": str(self.state)} | keys))
        self.made.append(Coordinator(self.loop, settings, Seats(10), 60.0, BOOT, self.ask))
        return self.made[-1]

    def stop(self, mesh: Coordinator) -> None:
        self.made.remove(mesh)
        self.loop.run_until_complete(mesh.stop())

    def wait(self, seconds: float) -> None:
        """Let the clock go on; counts for no timer."""
        self.loop.run_until_complete(asyncio.sleep(seconds))
        self.timers -= 1

    def waiting(self) -> list[asyncio.TimerHandle]:
        """Timers that are armed."""
        scheduled = self.loop._scheduled  # type: ignore[attr-defined]
        return [timer for timer in scheduled if not timer.cancelled()]

    def saved(self) -> Any:
        return json.loads(self.state.read_bytes())


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    try:
        yield world
        for mesh in list(world.made):
            world.stop(mesh)
        assert world.waiting() == []
    finally:
        world.loop.close()


def register(mesh: Coordinator, id: str, token: str = "", network: str = "home") -> str:
    """Answers the token."""
    card = Card(id, f"name of {id}", endpoints=(Endpoint("192.168.1.100", 51820, "lan"),))
    return mesh.register(mesh.registry.networks[network], card, token, False)[1]


def beat(mesh: Coordinator, id: str) -> None:
    network = mesh.registry.networks["home"]
    mesh.heartbeat(network, network.present[id])


def kinds(mesh: Coordinator, network: str = "home") -> list[str]:
    events: list[Event] = [event for _, event in mesh.feeds[network].ring.tail(256)]
    return [event.type.removeprefix("peer.") for event in events]


# Time.


def test_nobody_is_waited_for_at_first(world: World) -> None:
    world.start(HOME)
    assert world.timers == 0


def test_one_timer_until_the_last_has_left(world: World) -> None:
    mesh = world.start(HOME, state="")
    for id in "abc":
        register(mesh, id)
        world.wait(10)
    assert len(world.waiting()) == 1
    world.wait(60)  # 90 seconds since the first
    assert kinds(mesh) == ["joined"] * 3 + ["left"]
    world.wait(20)
    assert kinds(mesh) == ["joined"] * 3 + ["left"] * 3
    assert world.waiting() == []
    assert world.timers == 3
    world.wait(100_000)
    assert world.timers == 3


def test_heartbeats_arm_nothing(world: World) -> None:
    mesh = world.start(HOME, state="", peer_timeout=90.0)
    for number in range(256):
        register(mesh, f"p{number}")
    for _ in range(120):
        world.wait(30)
        for number in range(256):
            beat(mesh, f"p{number}")
    assert set(kinds(mesh)) == {"joined"}
    assert mesh.feeds["home"].ring.last == 256
    assert world.timers <= 1 + 3600 / 60
    assert len(world.waiting()) == 1


def test_removing_the_last_ends_the_timer(world: World) -> None:
    mesh = world.start(HOME, state="")
    register(mesh, "a")
    register(mesh, "b")
    network = mesh.registry.networks["home"]
    mesh.remove(network, "a")
    assert len(world.waiting()) == 1
    mesh.remove(network, "b")
    assert world.waiting() == []
    register(mesh, "c")
    mesh.delete("home")
    assert world.waiting() == []


# Events.


def test_events_are_numbered_in_each_network(world: World) -> None:
    mesh = world.start(HOME, state="")
    mesh.create("other", "", "10.0.0.0/24")
    register(mesh, "a")
    register(mesh, "b", network="other")
    register(mesh, "c")
    assert [mesh.feeds[id].ring.last for id in ("home", "other")] == [2, 1]


def test_a_network_of_the_same_id_has_other_numbers(world: World) -> None:
    mesh = world.start(HOME, state="")
    register(mesh, "a")
    mesh.delete("home")
    mesh.create("home", "", "10.0.0.0/24")
    register(mesh, "b")
    assert mesh.feeds["home"].ring.last == 3  # joined, left, and this


def test_events_that_are_kept_are_bounded_in_bytes(world: World) -> None:
    mesh = world.start(HOME, state="")
    register(mesh, "a")
    network = mesh.registry.networks["home"]
    peer = network.present["a"]
    most = 0
    for number in range(400):
        metadata: dict[str, str | None] = {f"key {key}": f"{number}" * 60 for key in range(50)}
        mesh.change(network, peer, Change(metadata=metadata))
        kept = mesh.feeds["home"].ring.newest_first()
        most = max(most, sum(module._weigh(event.data) for event in kept))
    assert mesh.feeds["home"].ring.last == 401
    assert module.RING_BYTES / 2 < most <= module.RING_BYTES
    for number in range(300):  # small ones stay by their number
        small = Change(name=str(number), endpoints=(), metadata=dict.fromkeys(metadata))
        mesh.change(network, peer, small)
    assert len(mesh.feeds["home"].ring) == 256


def test_whose_token_it_is(world: World) -> None:
    mesh = world.start(HOME, state="")
    token = register(mesh, "a")
    assert len(token) * 4 >= 128
    assert register(mesh, "b") != token
    assert mesh.is_peer(["home", "a"], token.encode())
    for parts in (["home", "b"], ["home", "c"], ["other", "a"]):
        assert not mesh.is_peer(parts, token.encode())
    assert not mesh.is_peer(["home", "a"], b"")
    world.wait(91)
    assert not mesh.is_peer(["home", "a"], b"")


# The file.


def test_changes_are_written_together(world: World) -> None:
    mesh = world.start(HOME)
    register(mesh, "a")
    register(mesh, "b")
    assert not world.state.exists()
    world.wait(SAVE)
    first = world.state.stat()
    assert stat.S_IMODE(first.st_mode) == 0o600
    assert [peer["card"]["id"] for peer in world.saved()["networks"][0]["peers"]] == ["a", "b"]
    for _ in range(10):
        beat(mesh, "a")
        beat(mesh, "b")
        register(mesh, "c") if "c" not in mesh.registry.networks["home"].present else None
        beat(mesh, "c")
        world.wait(SAVE)
    assert world.state.stat().st_ino != first.st_ino
    second = world.state.stat()
    for _ in range(100):
        beat(mesh, "a")
        beat(mesh, "b")
        beat(mesh, "c")
        world.wait(30)
    assert world.state.stat().st_mtime_ns == second.st_mtime_ns
    world.stop(mesh)
    assert world.state.stat().st_mtime_ns == second.st_mtime_ns  # nothing has changed
    assert list(world.state.parent.iterdir()) == [world.state]


def test_no_more_than_one_write_in_a_while(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[float] = []
    monkeypatch.setattr(
        StateFile, "write", lambda self, raw: written.append(world.loop.time())
    )
    mesh = world.start(HOME)
    for number in range(100):
        register(mesh, f"p{number}")
        world.wait(0.9)
    assert len(written) <= 90 / SAVE
    assert all(later - sooner >= SAVE for sooner, later in zip(written, written[1:], strict=False))


def test_what_waits_is_written_at_the_end(world: World) -> None:
    mesh = world.start(HOME)
    register(mesh, "a")
    world.stop(mesh)
    assert world.saved()["networks"][0]["peers"]


def test_the_first_heartbeat_is_written_and_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From it on the token binds, over a restart too."""
    written: list[bytes] = []
    monkeypatch.setattr(StateFile, "write", lambda self, raw: written.append(raw))
    mesh = world.start(HOME)
    register(mesh, "a")
    for count in (1, 2, 2, 2):
        world.wait(SAVE)
        assert len(written) == count
        beat(mesh, "a")


def test_a_lost_answer_locks_nobody_out_over_a_restart(world: World) -> None:
    mesh = world.start(HOME)
    register(mesh, "lost")
    register(mesh, "used")
    beat(mesh, "used")
    world.stop(mesh)
    mesh = world.start(HOME)
    world.wait(90)
    assert kinds(mesh) == ["left", "left"]
    assert register(mesh, "lost")
    with pytest.raises(MeshError):
        register(mesh, "used")


def test_its_folder_is_made(world: World) -> None:
    folder = world.state.parent / "bifrost"
    world.state = folder / "mesh.json"
    mesh = world.start(HOME)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    register(mesh, "a")
    world.stop(mesh)
    assert world.saved()


def test_a_folder_that_cannot_be_made_is_told_at_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    folder = world.state.parent / "one" / "two"
    world.state = folder / "mesh.json"
    mesh = world.start(HOME)
    told = ["the state of the mesh cannot be written: No such file or directory"]
    assert [record.getMessage() for record in caplog.records] == told
    register(mesh, "a")
    world.wait(SAVE)
    assert [record.getMessage() for record in caplog.records] == told
    folder.mkdir(parents=True)
    world.stop(mesh)
    assert world.saved()


def test_no_file_without_a_change(world: World) -> None:
    world.stop(world.start(HOME))
    assert not world.state.exists()


def test_peers_survive_a_restart(world: World) -> None:
    mesh = world.start(HOME)
    token = register(mesh, "a")
    mesh.create("made", "By the API", "fd00::/64")
    world.stop(mesh)

    mesh = world.start(HOME)
    network = mesh.registry.networks["home"]
    assert network.present["a"].card.name == "name of a"
    assert mesh.registry.networks["made"].pool.cidr == "fd00::/64"
    assert mesh.is_peer(["home", "a"], token.encode())
    assert kinds(mesh) == []  # nobody joined
    world.wait(80)
    beat(mesh, "a")
    world.wait(80)
    assert register(mesh, "a", token) == ""
    assert kinds(mesh) == []
    world.wait(90)
    assert kinds(mesh) == ["left"]
    mesh.delete("made")
    world.stop(mesh)
    assert list(world.start(HOME).registry.networks) == ["home"]


def test_who_does_not_come_back_has_left(world: World) -> None:
    mesh = world.start(HOME)
    register(mesh, "a")
    world.stop(mesh)
    mesh = world.start(HOME)
    assert len(world.waiting()) == 1
    world.wait(89)
    assert kinds(mesh) == []
    world.wait(1)
    assert kinds(mesh) == ["left"]


def test_peers_that_have_no_place_any_more(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    mesh = world.start(HOME)
    register(mesh, "a")
    world.stop(mesh)
    other = MeshNetwork(id="home", cidr="10.101.0.0/16")
    mesh = world.start(other)
    assert mesh.registry.networks["home"].present == {}
    assert "1 mesh peers have no place here any more" in caplog.text
    assert list(world.start().registry.networks) == []


@pytest.mark.parametrize("raw", [b"", b"{}", b"\x1b[31m\n", b'{"version":9}', b'{"\\u001b":1}'])
def test_a_spoilt_file_is_set_aside(
    world: World, caplog: pytest.LogCaptureFixture, raw: bytes
) -> None:
    world.state.write_bytes(raw)
    mesh = world.start(HOME)
    assert world.state.with_name("mesh.json.bad").read_bytes() == raw
    assert not world.state.exists()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().isprintable()
    register(mesh, "a")
    world.stop(mesh)
    assert world.saved()


def test_no_file_of_ours(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever may write beside it must not give us a link, a pipe, or a file of their own."""
    secret = world.state.with_name("secret")
    secret.write_bytes(b"secret")

    def link() -> None:
        world.state.symlink_to(secret)

    def large() -> None:
        world.state.touch()
        os.truncate(world.state, STATE_LIMIT + 1)

    for make in (link, large):
        make()
        caplog.clear()
        mesh = world.start(HOME)
        assert "set aside" in caplog.text
        assert not os.path.lexists(world.state)
        register(mesh, "a")
        world.stop(mesh)
        assert world.saved()
        world.state.unlink()
        world.state.with_name("mesh.json.bad").unlink()
    assert secret.read_bytes() == b"secret"


def test_a_path_that_was_never_meant(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Renaming it would take a folder such as /etc, or /dev/null, from the whole machine."""

    def listening() -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(world.state))

    folder = world.state.parent
    for make in (world.state.mkdir, lambda: os.mkfifo(world.state), listening):
        make()
        kind = stat.S_IFMT(world.state.lstat().st_mode)
        caplog.clear()
        mesh = world.start(HOME)
        register(mesh, "a")
        world.stop(mesh)
        (record,) = caplog.records
        assert record.levelno == logging.ERROR
        assert "the state of the mesh is not kept" in record.getMessage()
        assert stat.S_IFMT(world.state.lstat().st_mode) == kind
        assert [path.name for path in folder.iterdir()] == [world.state.name]
        world.state.rmdir() if world.state.is_dir() else world.state.unlink()


def test_a_file_of_another_user(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It could name tokens and peers of theirs."""
    mesh = world.start(HOME)
    register(mesh, "a")
    world.stop(mesh)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert world.start(HOME).registry.networks["home"].present == {}
    assert "set aside" in caplog.text


def test_no_link_is_followed_in_writing(world: World) -> None:
    secret = world.state.with_name("secret")
    secret.write_bytes(b"secret")
    mesh = world.start(HOME)
    world.state.symlink_to(secret)
    world.state.with_name(".mesh.json.new").symlink_to(secret)
    register(mesh, "a")
    world.stop(mesh)
    assert secret.read_bytes() == b"secret"
    assert not world.state.is_symlink()
    assert world.saved()
    assert not os.path.lexists(world.state.with_name(".mesh.json.new"))


def test_a_file_that_cannot_be_written_is_told_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    mesh = world.start(HOME)
    folder = world.state.parent
    away = folder.with_name(folder.name + "-away")
    folder.rename(away)
    for id in "abc":
        register(mesh, id)
        world.wait(2 * SAVE)
    assert [record.getMessage() for record in caplog.records] == [
        "the state of the mesh cannot be written: No such file or directory"
    ]
    away.rename(folder)
    world.stop(mesh)  # tries once more
    assert len(world.saved()["networks"][0]["peers"]) == 3


def test_a_full_disk_leaves_the_old_file(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mesh = world.start(HOME)
    register(mesh, "a")
    world.wait(SAVE)
    before = world.state.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", full)
        register(mesh, "b")
        world.wait(SAVE)
    assert world.state.read_bytes() == before
    assert list(world.state.parent.iterdir()) == [world.state]
    assert "No space left" in caplog.text
    register(mesh, "c")
    world.wait(SAVE)
    assert len(world.saved()["networks"][0]["peers"]) == 3


def test_a_file_in_the_present_folder(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world.state.parent)
    mesh = world.start(HOME, state="mesh.json")
    register(mesh, "a")
    world.stop(mesh)
    assert world.start(HOME, state="mesh.json").registry.networks["home"].present


def test_what_cannot_be_made_is_not_there(world: World) -> None:
    mesh = world.start(HOME)
    for id, cidr in (("home", "10.0.0.0/24"), ("other", "nonsense")):
        with pytest.raises(MeshError):
            mesh.create(id, "", cidr)
    assert list(mesh.feeds) == ["home"]
    world.wait(SAVE)
    assert not world.state.exists()
