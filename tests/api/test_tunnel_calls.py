"""The calls on a network of a WireGuard device, with the kernel's side played by the test."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest
from websockets.sync.client import ClientConnection, connect

from bifrost_lite import netlink, tunnels, wireguard
from bifrost_lite.config.schema import Mesh, MeshNetwork
from bifrost_lite.dispatch import Dispatcher
from bifrost_lite.wire.genl import Allowed, Peer
from bifrost_lite.wireguard import Done, Inquiry
from tests.control_fixtures import Daemon, running
from tests.netlink_kit import PORT, done, message
from tests.wireguard_kit import FAMILY, Answer, device, family, peer

NETWORKS = "/api/v1/mesh/networks"
WG = MeshNetwork(id="wg", cidr="10.9.0.0/31", source="wireguard", device="wg0")
ID = "A" * 43
NOW = 1_700_000_000.0
PEER = Peer(bytes(32), NOW, (b"\xc0\0\2\1", 51820), (Allowed(b"\x0a\x09\0\1", 32),))


class Kernel:
    """Answers at once. `peers` are those of wg0, None where it is not there."""

    def __init__(self) -> None:
        self.peers: list[Peer] | None = [PEER]
        self.asked = 0

    def ask(self, dispatcher: Dispatcher, device: str, done: Done) -> Inquiry:
        assert isinstance(dispatcher, Dispatcher)
        assert device == "wg0"
        self.asked += 1
        done(self.peers, "" if self.peers is not None else "wg0 is not there")
        return cast(Inquiry, None)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr(wireguard, "ask", kernel.ask)
    monkeypatch.setattr(tunnels, "time", lambda: NOW + 1)
    return kernel


@pytest.fixture
def daemon(kernel: Kernel) -> Iterator[Daemon]:
    with running(mesh=Mesh(networks=(WG,))) as daemon:
        yield daemon


def watch(daemon: Daemon) -> ClientConnection:
    url = f"ws://127.0.0.1:{daemon.port}{NETWORKS}/wg/events"
    return connect(url, close_timeout=0.5)


def receive(client: ClientConnection) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(client.recv(timeout=10))
    return message


def test_every_get_reads(daemon: Daemon, kernel: Kernel) -> None:
    assert kernel.asked == 0
    (network,) = daemon.get(NETWORKS).json["networks"]
    assert network == daemon.get(f"{NETWORKS}/wg").json
    network.pop("created")
    assert network == {
        "id": "wg", "name": "", "cidr": "10.9.0.0/31", "gateway": "", "peer_count": 1,
        "source": "wireguard",
    }  # fmt: skip
    (peer,) = daemon.get(f"{NETWORKS}/wg/peers").json["peers"]
    peer.pop("last_seen")
    assert peer == {
        "id": ID, "name": "", "public_key": ID + "=", "virtual_ip": "10.9.0.1",
        "endpoints": [
            {"address": "192.0.2.1", "port": 51820, "type": "wireguard", "priority": 0}
        ],
        "metadata": {},
    }  # fmt: skip
    assert daemon.get(f"{NETWORKS}/wg/peers/{ID}").json["id"] == ID
    assert kernel.asked == 4
    kernel.peers = []
    assert daemon.get(f"{NETWORKS}/wg/peers/{ID}").status == 404
    assert daemon.get(f"{NETWORKS}/wg/peers").json["peers"] == []


def test_a_device_that_is_not_there(daemon: Daemon, kernel: Kernel) -> None:
    kernel.peers = None
    for path in ("wg", "wg/peers", f"wg/peers/{ID}"):
        answer = daemon.get(f"{NETWORKS}/{path}")
        assert answer.status == 503
        assert answer.json["error"] == "device_unreadable"
        assert answer.json["message"] == "The peers cannot be read: wg0 is not there."
        assert answer.headers["retry-after"] == "5"
    (network,) = daemon.get(NETWORKS).json["networks"]
    assert network["peer_count"] == 0


def test_watching(daemon: Daemon, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnels, "INTERVAL", 0.02)
    kernel.peers = None
    with watch(daemon) as client:  # it waits for the device to come
        kernel.peers = [PEER]
        joined = receive(client)
        assert (joined["type"], joined["data"]["peer_id"]) == ("peer.joined", ID)
        with watch(daemon) as other:
            assert receive(other)["type"] == "peer.joined"
        kernel.peers = [PEER._replace(endpoint=(b"\xc0\0\2\2", 1))]
        updated = receive(client)
        assert updated["data"]["endpoints"][0]["address"] == "192.0.2.2"
        kernel.peers = None
        assert receive(client)["data"]["reason"] == "removed"
    tunnel = daemon.control.mesh()._tunnels["wg"]
    daemon.wait(lambda: tunnel._timer is None)


def test_the_kernel_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way: a call, both questions over netlink, and the answer."""
    answer = Answer()
    monkeypatch.setattr(netlink, "Socket", lambda *args: answer)
    monkeypatch.setattr(tunnels, "time", lambda: NOW + 1)

    def play() -> None:
        answer.asked.recv(4096)
        answer.asked.send(message(16, family(), 1, PORT))
        answer.asked.recv(4096)
        listed = device(peer(bytes(32), ["10.9.0.1/32"], handshake=(int(NOW), 0)))
        answer.asked.send(message(FAMILY, listed, 2, PORT, 2))
        answer.asked.send(done(2))

    with running(mesh=Mesh(networks=(WG,))) as daemon:
        kernel = threading.Thread(target=play)
        kernel.start()
        (shown,) = daemon.get(f"{NETWORKS}/wg/peers").json["peers"]
        kernel.join()
    answer.close()
    answer.asked.close()
    assert (shown["id"], shown["virtual_ip"]) == (ID, "10.9.0.1")


def test_what_is_refused(daemon: Daemon, kernel: Kernel) -> None:
    peers = f"{NETWORKS}/wg/peers"
    calls: list[tuple[str, str, Any]] = [("POST", peers, {"peer": {"id": "a"}})]
    for id in (ID, "nobody"):
        calls += [
            ("PATCH", f"{peers}/{id}", {"name": "x"}),
            ("POST", f"{peers}/{id}/heartbeat", None),
            ("DELETE", f"{peers}/{id}", None),
        ]
    for method, path, body in calls:
        if body is None:
            answer = daemon.get(path, method=method)
        else:
            answer = daemon.send(method, path, body)
        assert (answer.status, answer.json["error"]) == (409, "not_a_registry")
    made = {"id": "mine", "source": "wireguard", "device": "wg0"}
    assert daemon.send("POST", NETWORKS, made).status == 400
    assert kernel.asked == 0
