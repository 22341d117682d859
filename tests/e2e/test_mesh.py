"""The mesh of the real daemon, used as its peers do: curl, and a plain Python client."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import websockets
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.e2e.curl import Got, curl
from tests.e2e.daemon import Daemon, Section
from tests.e2e.program import DEADLINE
from tests.seed import examples
from tests.seed.examples import EVENTS_URL

TOKEN, JOIN = "correct-horse", "may-i-come-in"
NETWORKS = "/api/v1/mesh/networks"
HOME = {"id": "home", "name": "Home", "cidr": "10.100.0.0/16"}
LAN = {"address": "192.168.1.100", "port": 51820, "type": "lan"}


def sections(**mesh: Any) -> dict[str, Section]:
    return {
        "control": {"token": TOKEN},
        "mesh": {"join_token": JOIN, "networks": [HOME]} | mesh,
    }


def ask(daemon: Daemon, method: str, path: str, token: str, body: object = None) -> Got:
    options = ["-X", method, "-H", f"Authorization: Bearer {token}"]
    if body is not None:
        options += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
    return curl(*options, daemon.url(f"{NETWORKS}{path}"))


def register(daemon: Daemon, id: str, **more: object) -> Any:
    got = ask(daemon, "POST", "/home/peers", JOIN, {"peer": {"id": id, "name": id}} | more)
    assert got.status == 201, got.body
    return json.loads(got.body)


def events_url(daemon: Daemon, token: str, control: int = 0) -> str:
    return f"ws://{daemon.controls[control]}{NETWORKS}/home/events?token={token}"


def test_a_peer_and_who_watches_it() -> None:
    with Daemon(**sections()) as daemon, connect(events_url(daemon, JOIN)) as watcher:

        def told() -> dict[str, Any]:
            message: dict[str, Any] = json.loads(watcher.recv(timeout=DEADLINE))
            return message

        answer = register(daemon, "peer-xyz789")
        mine = answer["peer_token"]
        assert answer["virtual_ip"] == "10.100.0.2"
        assert told()["data"]["virtual_ip"] == "10.100.0.2"
        path = "/home/peers/peer-xyz789"
        assert ask(daemon, "PATCH", path, mine, {"endpoints": [LAN]}).status == 204
        updated = told()
        assert (updated["type"], updated["data"]["peer_id"]) == ("peer.updated", "peer-xyz789")
        assert updated["data"]["endpoints"] == [LAN | {"priority": 0}]
        assert ask(daemon, "POST", f"{path}/heartbeat", mine).status == 204
        assert ask(daemon, "PATCH", path, JOIN, {"name": "mine"}).status == 403
        assert ask(daemon, "GET", "/home/peers", mine).status == 401
        got = json.loads(ask(daemon, "GET", "/home/peers", TOKEN).body)
        assert [peer["id"] for peer in got["peers"]] == ["peer-xyz789"]
        assert ask(daemon, "DELETE", path, mine).status == 204
        assert told()["type"] == "peer.left"
        assert ask(daemon, "DELETE", "/home", TOKEN).status == 204
        with pytest.raises(ConnectionClosed) as caught:
            watcher.recv(timeout=DEADLINE)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1001


@pytest.mark.parametrize("control", [0, 1], ids=["7082", "7383"])
def test_a_python_client_as_on_the_page(control: int) -> None:
    """No Origin, a text ping, messages until the server ends: both broke with Bifrost's own."""

    async def client(url: str) -> list[str]:
        seen = []
        async with websockets.connect(url) as ws:
            await ws.send("ping")
            async for message in ws:
                if message == "pong":
                    seen.append("pong")
                    continue
                event = json.loads(message)
                seen.append(f"{event['type']} {event['data']['peer_id']}")
                if event["type"] == "peer.left":
                    break
        return seen

    with Daemon(**sections()) as daemon:
        register(daemon, "a")

        async def watched() -> list[str]:
            task = asyncio.get_running_loop().create_task(client(events_url(daemon, JOIN, control)))
            await asyncio.to_thread(
                daemon.wait_until, lambda: b'"count":1' in clients(daemon), "it is connected"
            )
            await asyncio.to_thread(register, daemon, "b")
            await asyncio.to_thread(ask, daemon, "DELETE", "/home/peers/a", TOKEN)
            return await asyncio.wait_for(task, DEADLINE)

        seen = asyncio.run(watched())
    assert sorted(seen[:2]) == ["peer.joined a", "pong"]
    assert seen[2:] == ["peer.joined b", "peer.left a"]


def clients(daemon: Daemon) -> bytes:
    """What the status says of WebSocket clients."""
    body = curl(daemon.url(f"/api/v1/status?token={TOKEN}")).body
    return body.partition(b'"clients":')[2].partition(b"}")[0]


def test_the_client_of_the_page_itself(tmp_path: Path) -> None:
    """It prints only events that it knows; these it passes over, and stays connected."""
    with Daemon(**sections()) as daemon:
        url = events_url(daemon, "").partition("?")[0]
        changes = {EVENTS_URL: url, '"your-token"': f'"{JOIN}"'}
        with examples.python_client(tmp_path, changes) as client:
            daemon.wait_until(lambda: b'"count":1' in clients(daemon), "it is connected")
            register(daemon, "a")
            assert client.process.poll() is None
            daemon.stop()
            assert client.wait() == 0
            assert "Traceback" not in client.output.text


def test_who_falls_silent_has_left() -> None:
    with (
        Daemon(**sections(peer_timeout="1s")) as daemon,
        connect(events_url(daemon, JOIN)) as watcher,
    ):
        token = register(daemon, "a")["peer_token"]
        events = [json.loads(watcher.recv(timeout=DEADLINE)) for _ in range(2)]
        assert [event["type"] for event in events] == ["peer.joined", "peer.left"]
        assert events[1]["data"]["reason"] == "timeout"
        assert ask(daemon, "POST", "/home/peers/a/heartbeat", TOKEN).status == 404
        again = register(daemon, "a", peer_token=token)
        assert again["virtual_ip"] == "10.100.0.2"
        assert json.loads(watcher.recv(timeout=DEADLINE))["type"] == "peer.joined"


def test_a_restart_with_state(tmp_path: Path) -> None:
    state = tmp_path / "mesh.json"
    with Daemon(**sections(state=str(state))) as daemon:
        token = register(daemon, "a")["peer_token"]
        assert ask(daemon, "POST", "", TOKEN, {"id": "lab", "cidr": "fd00::/64"}).status == 201
    assert token not in state.read_text()
    with Daemon(**sections(state=str(state))) as daemon:
        assert ask(daemon, "POST", "/home/peers/a/heartbeat", token).status == 204
        assert ask(daemon, "GET", "/lab", TOKEN).status == 200
        with connect(events_url(daemon, JOIN)) as watcher:
            joined = json.loads(watcher.recv(timeout=DEADLINE))
            assert (joined["data"]["peer_id"], joined["seq"]) == ("a", 0)
            assert register(daemon, "b")["virtual_ip"] == "10.100.0.3"
            assert json.loads(watcher.recv(timeout=DEADLINE))["seq"] == 1


def test_a_restart_with_a_spoilt_state(tmp_path: Path) -> None:
    state = tmp_path / "mesh.json"
    state.write_text("\x1b]0;spoilt\x07")
    with Daemon(**sections(state=str(state))) as daemon:
        daemon.output.expect(r"the state of the mesh is unusable and set aside")
        assert "\x1b" not in daemon.output.text
        register(daemon, "a")
    assert state.with_name("mesh.json.bad").exists()
    assert json.loads(state.read_text())["networks"]


def test_switched_off() -> None:
    with Daemon(**sections(enabled=False)) as daemon:
        got = ask(daemon, "GET", "", TOKEN)
        assert (got.status, json.loads(got.body)["error"]) == (404, "mesh_off")
