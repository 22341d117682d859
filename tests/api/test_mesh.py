"""The mesh API: every call as docs/mesh.md says it, who may make it, and what is told of it."""

from __future__ import annotations

import json
import re
import socket
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from bifrost_lite import hub as hub_module
from bifrost_lite.config.schema import Mesh, MeshNetwork
from bifrost_lite.events import MESH_TYPES
from bifrost_lite.mesh.registry import ROOM
from tests.control_fixtures import Answer, Daemon, read_all, read_until, running

NETWORKS = "/api/v1/mesh/networks"
HOME = MeshNetwork(id="home", name="Home", cidr="10.100.0.0/16")
LAN = {"address": "192.168.1.100", "port": 51820, "type": "lan"}
TOKEN, READ, JOIN = "correct-horse", "only-looking", "may-i-come-in"
GUIDE = (Path(__file__).parents[2] / "docs" / "mesh.md").read_text("utf-8")


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with running(mesh=Mesh(networks=(HOME,))) as daemon:
        yield daemon


@pytest.fixture
def guarded() -> Iterator[Daemon]:
    mesh = Mesh(networks=(HOME,), join_token=JOIN)
    with running(mesh=mesh, token=TOKEN, read_token=READ) as daemon:
        yield daemon


def bearer(token: str) -> str:
    return f"Authorization: Bearer {token}"


def register(daemon: Daemon, peer: dict[str, Any], *headers: str, **more: Any) -> Answer:
    return daemon.send("POST", f"{NETWORKS}/home/peers", {"peer": peer} | more, *headers)


def call(daemon: Daemon, method: str, path: str, *headers: str) -> Answer:
    return daemon.get(f"{NETWORKS}/home/{path}", *headers, method=method)


def watch(daemon: Daemon, query: str = "") -> ClientConnection:
    return connect(f"ws://127.0.0.1:{daemon.port}{NETWORKS}/home/events{query}", close_timeout=0.5)


def receive(client: ClientConnection) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(client.recv(timeout=10))
    return message


def kinds(client: ClientConnection, count: int) -> list[str]:
    messages = [receive(client) for _ in range(count)]
    return [f"{m['type'].removeprefix('peer.')} {m['data']['peer_id']}" for m in messages]


def word(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json["error"]


# Networks.


def test_networks(daemon: Daemon) -> None:
    (home,) = daemon.get(NETWORKS).json["networks"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", home.pop("created"))
    assert home == {
        "id": "home", "name": "Home", "cidr": "10.100.0.0/16", "gateway": "10.100.0.1",
        "peer_count": 0, "source": "registry",
    }  # fmt: skip
    made = daemon.send("POST", NETWORKS, {"id": "lab", "cidr": "fd00:0:0:1::77/64"})
    assert (made.status, made.json["cidr"]) == (201, "fd00:0:0:1::/64")
    assert made.headers["location"] == f"{NETWORKS}/lab"
    assert daemon.get(f"{NETWORKS}/lab").json == made.json
    assert daemon.send("POST", NETWORKS, {"id": "plain"}).json["cidr"] == "10.100.0.0/16"
    assert [n["id"] for n in daemon.get(NETWORKS).json["networks"]] == ["home", "lab", "plain"]
    gone = daemon.get(f"{NETWORKS}/lab", method="DELETE")
    assert (gone.status, gone.body) == (204, b"")
    assert word(daemon.get(f"{NETWORKS}/lab")) == (404, "not_found")
    assert word(daemon.get(f"{NETWORKS}/lab", method="DELETE")) == (404, "not_found")


@pytest.mark.parametrize(
    ("body", "expected", "named"),
    [
        ({}, "bad_body", "id"),
        ({"id": ""}, "bad_body", "$.id"),
        ({"id": ".."}, "bad_body", "$.id"),
        ({"id": "a/b"}, "bad_body", "$.id"),
        ({"id": "a\n"}, "bad_body", "$.id"),
        ({"id": "ä"}, "bad_body", "$.id"),
        ({"id": "x" * 65}, "bad_body", "$.id"),
        ({"id": 7}, "bad_body", "$.id"),
        ({"id": "a", "name": "\u202ex"}, "bad_body", "$.name"),
        ({"id": "a", "name": "x" * 256}, "bad_body", "$.name"),
        ({"id": "a", "cidr": "10.0.0.0/31"}, "bad_cidr", "'cidr'"),
        ({"id": "a", "cidr": ""}, "bad_cidr", "'cidr'"),
        ({"id": "a", "cidr": "1" * 65}, "bad_body", "$.cidr"),
        ({"id": "a", "colour": "red"}, "unknown_fields", "colour"),
    ],
)
def test_no_networks(daemon: Daemon, body: dict[str, Any], expected: str, named: str) -> None:
    answer = daemon.send("POST", NETWORKS, body)
    assert word(answer) == (400, expected)
    assert named in answer.json["message"]
    assert len(daemon.get(NETWORKS).json["networks"]) == 1


def test_one_network_of_an_id_and_sixteen_of_all(daemon: Daemon) -> None:
    assert word(daemon.send("POST", NETWORKS, {"id": "home"})) == (409, "exists")
    for number in range(15):
        assert daemon.send("POST", NETWORKS, {"id": f"n{number}"}).status == 201
    assert word(daemon.send("POST", NETWORKS, {"id": "more"})) == (400, "too_many_networks")


# Peers.


def test_a_peer_from_its_first_call_to_its_last(daemon: Daemon) -> None:
    register(daemon, {"id": "other", "name": "desk"})
    said = {"id": "xyz", "name": "laptop", "public_key": "key=", "endpoints": [LAN],
            "metadata": {"os": "linux"}}  # fmt: skip
    answer = register(daemon, said, network_id="home")
    assert answer.status == 201
    assert answer.headers["location"] == f"{NETWORKS}/home/peers/xyz"
    body = answer.json
    (other,) = body.pop("peers")
    assert re.fullmatch(r"[0-9a-f]{48}", body.pop("peer_token"))
    assert body == {
        "success": True, "virtual_ip": "10.100.0.3", "cidr": "10.100.0.0/16",
        "gateway": "10.100.0.1", "peer_timeout": 90.0, "seq": 2, "boot": daemon.hub.boot,
    }  # fmt: skip
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", other.pop("last_seen"))
    assert other == {
        "id": "other", "name": "desk", "public_key": "", "virtual_ip": "10.100.0.2",
        "endpoints": [], "metadata": {},
    }  # fmt: skip

    shown = call(daemon, "GET", "peers/xyz").json
    assert shown.pop("last_seen")
    lan = {**LAN, "priority": 0}
    assert shown == said | {"virtual_ip": "10.100.0.3", "endpoints": [lan]}
    listed = call(daemon, "GET", "peers").json
    assert [peer["id"] for peer in listed["peers"]] == ["other", "xyz"]
    assert (listed["seq"], listed["boot"]) == (2, daemon.hub.boot)
    assert daemon.get(f"{NETWORKS}/home").json["peer_count"] == 2

    again = register(daemon, said)
    assert (again.status, again.json["virtual_ip"]) == (201, "10.100.0.3")
    assert "peer_token" not in again.json

    changed = daemon.send(
        "PATCH", f"{NETWORKS}/home/peers/xyz",
        {"name": "laptop-work", "endpoints": [], "metadata": {"os": None, "v": "1"}},
    )  # fmt: skip
    assert (changed.status, changed.body) == (204, b"")
    shown = call(daemon, "GET", "peers/xyz").json
    assert (shown["name"], shown["endpoints"], shown["metadata"]) == ("laptop-work", [], {"v": "1"})
    for method, path in (("POST", "peers/xyz/heartbeat"), ("DELETE", "peers/xyz")):
        answer = call(daemon, method, path)
        assert (answer.status, answer.body) == (204, b"")
    for method, path in (
        ("GET", "peers/xyz"), ("DELETE", "peers/xyz"), ("POST", "peers/xyz/heartbeat"),
    ):  # fmt: skip
        assert word(call(daemon, method, path)) == (404, "not_found")
    patch = daemon.send("PATCH", f"{NETWORKS}/home/peers/xyz", {})
    assert word(patch) == (404, "not_found")
    assert register(daemon, said).json["virtual_ip"] == "10.100.0.3"


def test_an_unknown_network(daemon: Daemon) -> None:
    base = f"{NETWORKS}/nowhere"
    answers = [daemon.get(base + path) for path in ("", "/peers", "/peers/x", "/events")]
    answers += [daemon.get(base, method="DELETE"), daemon.get(f"{base}/peers/x", method="DELETE")]
    answers += [daemon.send("POST", f"{base}/peers", {"peer": {"id": "x"}})]
    answers += [daemon.send("PATCH", f"{base}/peers/x", {})]
    answers += [daemon.get(f"{base}/peers/x/heartbeat", method="POST")]
    assert {word(answer) for answer in answers} == {(404, "not_found")}


@pytest.mark.parametrize(
    ("peer", "expected", "named"),
    [
        ({}, "bad_body", "id"),
        ({"id": "a b"}, "bad_body", "$.peer.id"),
        ({"id": "a", "name": "x" * 256}, "bad_body", "$.peer.name"),
        ({"id": "a", "name": "<b>\u0000"}, "bad_body", "$.peer.name"),
        ({"id": "a", "public_key": "with space"}, "bad_body", "$.peer.public_key"),
        ({"id": "a", "public_key": "x" * 257}, "bad_body", "$.peer.public_key"),
        ({"id": "a", "endpoints": [LAN] * 17}, "bad_body", "$.peer.endpoints"),
        ({"id": "a", "endpoints": [LAN | {"port": 0}]}, "bad_body", "$.peer.endpoints[0].port"),
        ({"id": "a", "endpoints": [LAN | {"port": 65536}]}, "bad_body", "endpoints[0].port"),
        ({"id": "a", "endpoints": [LAN | {"port": "1"}]}, "bad_body", "endpoints[0].port"),
        ({"id": "a", "endpoints": [LAN | {"type": "<lan>"}]}, "bad_body", "endpoints[0].type"),
        ({"id": "a", "endpoints": [LAN | {"priority": 1e9}]}, "bad_body", "[0].priority"),
        ({"id": "a", "endpoints": [LAN | {"address": "a b"}]}, "bad_body", "endpoints[0].address"),
        ({"id": "a", "endpoints": [LAN | {"x": 1}]}, "unknown_fields", "peer.endpoints[0].x"),
        ({"id": "a", "metadata": {str(n): "" for n in range(51)}}, "bad_body", "$.peer.metadata"),
        ({"id": "a", "metadata": {"k" * 65: ""}}, "bad_body", "$.peer.metadata"),
        ({"id": "a", "metadata": {"": ""}}, "bad_body", "peer.metadata"),
        ({"id": "a", "metadata": {"k": "v" * 257}}, "bad_body", "$.peer.metadata"),
        ({"id": "a", "metadata": {"k": "ü" * 129}}, "bad_body", "'metadata'"),
        ({"id": "a", "metadata": {"k": 1}}, "bad_body", "$.peer.metadata"),
        ({"id": "a", "virtual_ip": "10.100.0.9"}, "unknown_fields", "peer.virtual_ip"),
    ],
)
def test_no_peers(daemon: Daemon, peer: dict[str, Any], expected: str, named: str) -> None:
    answer = register(daemon, peer)
    assert word(answer) == (400, expected)
    assert named in answer.json["message"]
    assert call(daemon, "GET", "peers").json["peers"] == []


def test_all_that_a_peer_may_say(daemon: Daemon) -> None:
    peer = {
        "id": "A-z_0." * 10 + "1234",
        "name": "<img src=x onerror=alert(1)> 😀" + "x" * 200,
        "public_key": "!" * 256,
        "endpoints": [{"address": f"{'a' * 60}.example", "port": n, "type": "relay", "priority": -n}
                      for n in range(1, 17)],
        "metadata": {f"{n:064}": "v" * 256 for n in range(50)},
    }  # fmt: skip
    assert register(daemon, peer).status == 201
    shown = call(daemon, "GET", f"peers/{peer['id']}").json
    assert {key: shown[key] for key in peer} == peer


def test_another_network_than_that_of_the_path(daemon: Daemon) -> None:
    answer = register(daemon, {"id": "a"}, network_id="other")
    assert word(answer) == (400, "bad_body")
    assert "'network_id'" in answer.json["message"]


def test_bodies(daemon: Daemon) -> None:
    path = f"{NETWORKS}/home/peers"
    assert daemon.get(path, method="POST").status == 415
    json_type = "Content-Type: application/json"
    assert word(daemon.get(path, json_type, method="POST", body=b"{")) == (400, "bad_body")
    assert word(daemon.send("POST", path, [])) == (400, "bad_body")
    assert word(daemon.send("POST", path, {"peer": {"id": "a"}, "x": 1})) == (400, "unknown_fields")
    assert daemon.get(path, json_type, "Content-Length: 65537", method="POST").status == 413
    register(daemon, {"id": "a"})
    for body in ({"id": "b"}, {"public_key": "k"}, {"virtual_ip": "10.100.0.9"}):
        answer = daemon.send("PATCH", f"{path}/a", body)
        assert word(answer) == (400, "unknown_fields")
    for wrong in ({"name": None}, {"endpoints": [LAN | {"address": "a b"}]}):
        assert word(daemon.send("PATCH", f"{path}/a", wrong)) == (400, "bad_body")


def test_full(daemon: Daemon) -> None:
    daemon.send("POST", NETWORKS, {"id": "tiny", "cidr": "10.0.0.0/30"})
    for id, status in (("a", 201), ("b", 507)):
        answer = daemon.send("POST", f"{NETWORKS}/tiny/peers", {"peer": {"id": id}})
        assert answer.status == status
    assert answer.json["error"] == "no_address"


# Who may.


def test_switched_off() -> None:
    with running(mesh=Mesh(enabled=False, networks=(HOME,), join_token=JOIN), token=TOKEN) as daemon:
        paths = [
            ("GET", ""), ("GET", "/home"), ("DELETE", "/home"), ("GET", "/home/events"),
            ("GET", "/home/peers"), ("POST", "/home/peers"), ("POST", ""),
            ("GET", "/home/peers/a"), ("PATCH", "/home/peers/a"), ("DELETE", "/home/peers/a"),
            ("POST", "/home/peers/a/heartbeat"),
        ]  # fmt: skip
        for method, path in paths:
            answer = daemon.send(method, NETWORKS + path, {"peer": {"id": "a"}}, bearer(TOKEN))
            if path == "" and method == "POST":
                answer = daemon.send(method, NETWORKS, {"id": "x"}, bearer(TOKEN))
            assert word(answer) == (404, "mesh_off"), (method, path)
        assert register(daemon, {"id": "a"}, bearer(JOIN)).status == 401


CALLS = {
    "list": ("GET", ""), "create": ("POST", ""), "get": ("GET", "/home"),
    "peers": ("GET", "/home/peers"), "peer": ("GET", "/home/peers/a"),
    "register": ("POST", "/home/peers"), "change": ("PATCH", "/home/peers/a"),
    "heartbeat": ("POST", "/home/peers/a/heartbeat"), "remove": ("DELETE", "/home/peers/a"),
    "delete": ("DELETE", "/home"),
}  # fmt: skip
BODIES = {"create": {"id": "new"}, "register": {"peer": {"id": "b"}}, "change": {"name": "A"}}


def attempt(daemon: Daemon, name: str, *headers: str) -> int:
    method, path = CALLS[name]
    if name in BODIES:
        return daemon.send(method, NETWORKS + path, BODIES[name], *headers).status
    return daemon.get(NETWORKS + path, *headers, method=method).status


GUESSES = 10  # wrong tokens before those who guess have to wait


@pytest.mark.parametrize(
    ("token", "opened"),
    [
        ("none", {}),
        ("read", {"list": 200, "get": 200, "peers": 200, "peer": 200}),
        ("join", {"register": 201}),
        ("peer", {"change": 204, "heartbeat": 204, "remove": 204}),
        ("other peer", {}),
        ("all", {"list": 200, "create": 201, "get": 200, "peers": 200, "peer": 200,
                 "register": 201, "change": 204, "heartbeat": 204, "remove": 204, "delete": 204}),
    ],
)  # fmt: skip
def test_what_each_token_opens(guarded: Daemon, token: str, opened: dict[str, int]) -> None:
    peer = register(guarded, {"id": "a"}, bearer(JOIN)).json["peer_token"]
    other = register(guarded, {"id": "c"}, bearer(JOIN)).json["peer_token"]
    tokens = {"read": READ, "join": JOIN, "peer": peer, "other peer": other, "all": TOKEN}
    headers = (bearer(tokens[token]),) if token != "none" else ()
    refusal = 403 if token in ("read", "join") else 401
    for name in CALLS:
        assert attempt(guarded, name, *headers) == opened.get(name, refusal), name
    if token == "other peer":
        assert len(CALLS) == GUESSES
        refusal = 429
    with pytest.raises(InvalidStatus) as caught:
        query = "?since=x" if token == "none" else f"?since=x&token={tokens[token]}"
        watch(guarded, query).close()
    watching = token in ("read", "join") or token == "all"
    # Behind the door there is no such number, or no such network any more.
    expected = (404 if token == "all" else 400) if watching else refusal
    assert caught.value.response.status_code == expected


def test_re_registration_needs_the_token_of_the_peer(guarded: Daemon) -> None:
    mine = {"id": "a", "public_key": "mine"}
    token = register(guarded, mine, bearer(JOIN)).json["peer_token"]
    yours = {"id": "a", "public_key": "yours"}
    assert word(register(guarded, yours, bearer(JOIN))) == (409, "peer_exists")
    wrong = register(guarded, yours, bearer(JOIN), peer_token="0" * 48)
    assert word(wrong) == (403, "wrong_peer_token")
    assert token not in wrong.body.decode()
    assert word(register(guarded, yours, bearer(JOIN), peer_token="x" * 257)) == (400, "bad_body")
    assert register(guarded, yours, bearer(token)).status == 401  # it opens no registration
    shown = call(guarded, "GET", "peers/a", bearer(READ)).json
    assert shown["public_key"] == "mine"
    again = register(guarded, mine | {"name": "A"}, bearer(JOIN), peer_token=token)
    assert (again.status, "peer_token" in again.json) == (201, False)
    assert register(guarded, yours, bearer(TOKEN)).status == 201
    assert call(guarded, "POST", "peers/a/heartbeat", bearer(token)).status == 204


def test_with_a_peer_ends_its_token(guarded: Daemon) -> None:
    token = register(guarded, {"id": "a"}, bearer(JOIN)).json["peer_token"]
    assert call(guarded, "DELETE", "peers/a", bearer(TOKEN)).status == 204
    assert call(guarded, "POST", "peers/a/heartbeat", bearer(token)).status == 401
    assert call(guarded, "POST", "peers/a/heartbeat", bearer(TOKEN)).status == 404
    fresh = register(guarded, {"id": "a"}, bearer(JOIN)).json["peer_token"]
    assert call(guarded, "POST", "peers/a/heartbeat", bearer(token)).status == 401
    assert call(guarded, "POST", "peers/a/heartbeat", bearer(fresh)).status == 204


def test_who_expired_is_told_to_register_again() -> None:
    mesh = Mesh(networks=(HOME,), join_token=JOIN, peer_timeout=1.0)
    with running(mesh=mesh, token=TOKEN) as daemon:
        token = register(daemon, {"id": "a"}, bearer(JOIN)).json["peer_token"]
        assert call(daemon, "POST", "peers/a/heartbeat", bearer(token)).status == 204
        with watch(daemon, f"?token={JOIN}") as client:
            assert kinds(client, 1) == ["joined a"]
            left = receive(client)
            assert left["data"] == {"peer_id": "a", "name": "", "reason": "timeout"}
            assert call(daemon, "POST", "peers/a/heartbeat", bearer(token)).status == 404
            register(daemon, {"id": "a"}, bearer(JOIN), peer_token=token)
            assert kinds(client, 1) == ["joined a"]


def test_tokens_are_shown_nowhere(guarded: Daemon) -> None:
    token = register(guarded, {"id": "a"}, bearer(JOIN)).json["peer_token"]
    with watch(guarded, f"?token={READ}&since=0") as client:
        seen = str(client.recv(timeout=10))
    for path in (NETWORKS, f"{NETWORKS}/home", f"{NETWORKS}/home/peers", "/api/v1/logs"):
        seen += guarded.get(path, bearer(READ)).body.decode()
    assert token not in seen
    assert JOIN not in seen


# Events.


def test_events(daemon: Daemon) -> None:
    with watch(daemon) as client:
        register(daemon, {"id": "peer-xyz789", "name": "laptop-work", "public_key": "key"})
        joined = receive(client)
        assert list(joined) == ["type", "timestamp", "data", "seq"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", joined["timestamp"])
        assert (joined["type"], joined["seq"]) == ("peer.joined", 1)
        assert joined["data"] == {
            "peer_id": "peer-xyz789", "name": "laptop-work", "virtual_ip": "10.100.0.2",
            "public_key": "key", "endpoints": [], "metadata": {},
        }  # fmt: skip
        path = f"{NETWORKS}/home/peers/peer-xyz789"
        for body in ({}, {"name": "laptop-work"}, {"endpoints": [LAN]}, {"endpoints": [LAN]}):
            daemon.send("PATCH", path, body)
        register(daemon, {"id": "peer-xyz789", "name": "laptop-work", "public_key": "key",
                          "endpoints": [LAN]})  # fmt: skip
        daemon.get(f"{path}/heartbeat", method="POST")
        daemon.get(path, method="DELETE")
        updated, left = receive(client), receive(client)
        assert (updated["type"], updated["seq"]) == ("peer.updated", 2)
        assert updated["data"]["endpoints"] == [LAN | {"priority": 0}]
        assert (left["type"], left["seq"]) == ("peer.left", 3)
        assert left["data"] == {
            "peer_id": "peer-xyz789", "name": "laptop-work", "reason": "removed",
        }  # fmt: skip


def test_who_comes_sees_who_is_present(daemon: Daemon) -> None:
    for id in "abc":
        register(daemon, {"id": id})
    call(daemon, "DELETE", "peers/b")
    with watch(daemon) as client:
        picture = [receive(client) for _ in range(2)]
        assert [m["data"]["peer_id"] for m in picture] == ["a", "c"]
        assert [(m["type"], m["seq"]) for m in picture] == [("peer.joined", 4)] * 2
        register(daemon, {"id": "d"})
        assert receive(client)["seq"] == 5


def test_coming_back(daemon: Daemon) -> None:
    first = register(daemon, {"id": "a"}).json
    register(daemon, {"id": "b"})
    call(daemon, "DELETE", "peers/a")
    with watch(daemon, f"?since={first['seq']}&boot={first['boot']}") as client:
        assert kinds(client, 3) == ["joined b", "left a", "joined b"]
    for query in ("?since=1&boot=0123", "?since=99"):
        with watch(daemon, query) as client:
            lost = receive(client)
            assert (lost["type"], lost["data"]["lost"]) == ("events.lost", None)
            assert kinds(client, 1) == ["joined b"]


def test_a_gap(daemon: Daemon) -> None:
    for number in range(300):
        daemon.send("PATCH", f"{NETWORKS}/home/peers/a", {"name": str(number)})
        if not number:
            register(daemon, {"id": "a"})
    with watch(daemon, "?since=0") as client:
        lost, oldest = receive(client), receive(client)
        assert lost["data"] == {"lost": 44, "boot": daemon.hub.boot}
        assert (lost["seq"], oldest["seq"]) == (44, 45)


def test_only_some_types(daemon: Daemon) -> None:
    register(daemon, {"id": "a"})
    with watch(daemon, "?types=peer.left,peer.updated&since=0") as client:
        register(daemon, {"id": "b"})
        call(daemon, "DELETE", "peers/b")
        assert kinds(client, 1) == ["left b"]
    with pytest.raises(InvalidStatus) as caught:
        watch(daemon, "?types=connection.new").close()
    assert caught.value.response.status_code == 400


def test_networks_have_their_own_events(daemon: Daemon) -> None:
    daemon.send("POST", NETWORKS, {"id": "other"})
    with watch(daemon) as client:
        daemon.send("POST", f"{NETWORKS}/other/peers", {"peer": {"id": "x"}})
        register(daemon, {"id": "a"})
        assert kinds(client, 1) == ["joined a"]


def test_text_ping(daemon: Daemon) -> None:
    """It killed the socket of Bifrost's own coordinator."""
    with watch(daemon) as client, watch(daemon) as bystander:
        client.send("ping")
        assert client.recv(timeout=10) == "pong"
        client.send(b"ping")
        client.send("anything else")
        register(daemon, {"id": "a"})
        assert [kinds(each, 1) for each in (client, bystander)] == [["joined a"]] * 2


def test_unknown_network_before_the_upgrade(daemon: Daemon) -> None:
    with pytest.raises(InvalidStatus) as caught:
        connect(f"ws://127.0.0.1:{daemon.port}{NETWORKS}/nowhere/events?networkID=home")
    assert caught.value.response.status_code == 404
    answer = call(daemon, "GET", "events")
    assert (answer.status, answer.headers["upgrade"]) == (426, "websocket")
    assert call(daemon, "HEAD", "events").status == 405
    assert call(daemon, "POST", "events").status == 405


def test_seats_are_shared_with_the_event_hub() -> None:
    with running(mesh=Mesh(networks=(HOME,)), max_clients=2) as daemon:
        with watch(daemon) as client, connect(f"ws://127.0.0.1:{daemon.port}/api/v1/ws"):
            for path in (f"{NETWORKS}/home/events", "/api/v1/ws"):
                with pytest.raises(InvalidStatus) as caught:
                    connect(f"ws://127.0.0.1:{daemon.port}{path}")
                assert caught.value.response.status_code == 503
                assert caught.value.response.headers["retry-after"] == "5"
            assert daemon.get("/api/v1/status").json["clients"] == {"count": 2, "max": 2}
            client.send("ping")
            assert client.recv(timeout=10) == "pong"
        daemon.wait(lambda: daemon.hub.seats.taken == 0)


def test_with_its_network_a_socket_is_closed(daemon: Daemon) -> None:
    register(daemon, {"id": "a", "name": "A"})
    with watch(daemon, "?since=1") as client, watch(daemon, "?since=1") as other:
        assert [kinds(each, 1) for each in (client, other)] == [["joined a"]] * 2
        assert daemon.get(f"{NETWORKS}/home", method="DELETE").status == 204
        for each in (client, other):
            left = receive(each)
            assert left["data"] == {"peer_id": "a", "name": "A", "reason": "network_deleted"}
            with pytest.raises(ConnectionClosed) as caught:
                each.recv(timeout=10)
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1001
    daemon.wait(lambda: daemon.hub.seats.taken == 0)
    daemon.send("POST", NETWORKS, {"id": "home"})
    register(daemon, {"id": "b"})
    with watch(daemon, "?since=2") as client:  # of the network before
        assert kinds(client, 1) == ["joined b"]


def test_with_the_daemon_a_socket_is_closed() -> None:
    with ExitStack() as stack:
        with running(mesh=Mesh(networks=(HOME,))) as daemon:
            daemon.send("POST", NETWORKS, {"id": "other"})
            other = f"ws://127.0.0.1:{daemon.port}{NETWORKS}/other/events"
            open_one = stack.enter_context(watch(daemon))
            deleted = stack.enter_context(connect(other, close_timeout=0.5))
            daemon.get(f"{NETWORKS}/other", method="DELETE")
        for client, reason in ((open_one, "the daemon stops"), (deleted, "the network is gone")):
            with pytest.raises(ConnectionClosed) as caught:
                client.recv(timeout=10)
            assert caught.value.rcvd is not None
            assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (1001, reason)


def test_one_that_does_not_take_leave_is_dropped_with_the_daemon() -> None:
    with running(mesh=Mesh(networks=(HOME,))) as daemon:
        sock = daemon.connect()
        sock.sendall(
            f"GET {NETWORKS}/home/events HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        read_until(sock, b"\r\n\r\n")
        daemon.get(f"{NETWORKS}/home", method="DELETE")
    with sock:
        assert b"the network is gone" in read_all(sock)


def test_a_watcher_that_reads_nothing_delays_nobody(daemon: Daemon) -> None:
    """In Bifrost's own coordinator it held up the call that something was told of."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", daemon.port))
    address = f"ws://127.0.0.1:{daemon.port}{NETWORKS}/home/events"
    great = {f"key {number}": "x" * 256 for number in range(50)}
    with connect(address, sock=sock, max_queue=1) as client:
        for number in range(600):
            answer = register(daemon, {"id": "a", "metadata": great, "name": str(number)})
            assert answer.status == 201
        messages = [receive(client)]
        while messages[-1]["seq"] < 600:
            messages.append(receive(client))
        told = sum(message["type"] != "events.lost" for message in messages)
        lost = sum(message["data"].get("lost", 0) for message in messages)
        assert told + lost == 600
        assert lost > 0
        assert daemon.get("/api/v1/status").json["events_lost"] == lost
        daemon.get(f"{NETWORKS}/home", method="DELETE")
        assert daemon.get("/api/v1/status").json["events_lost"] == lost


SLEEPERS = 10
QUEUE = 256 * 1024  # bytes; what waits in it they share
HELD = 128 * 1024  # bytes that each holds besides: a piece of the picture, events of the ring
NASTY = "\U0001f600" + '"' * 252  # one character makes all of them four bytes wide


def test_what_is_held_for_who_reads_nothing_is_bounded() -> None:
    """However much the peers say of themselves, and whatever they change meanwhile."""
    said = {f"key {number:058}": NASTY for number in range(50)}
    mesh = Mesh(networks=(HOME,))
    with running(mesh=mesh, max_clients=SLEEPERS) as daemon, ExitStack() as stack:
        count = 0
        while register(daemon, {"id": f"p{count}", "metadata": said}).status == 201:
            count += 1
        assert count >= ROOM // 100_000 > 5

        def sleeper() -> ClientConnection:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", daemon.port))
            url = f"ws://127.0.0.1:{daemon.port}{NETWORKS}/home/events?since=0"
            return stack.enter_context(connect(url, sock=sock, max_queue=1, close_timeout=0.1))

        def change(number: int) -> None:
            body = {"metadata": {"key " + "0" * 58: f"{number}{NASTY[:-9]}"}}
            assert daemon.send("PATCH", f"{NETWORKS}/home/peers/p0", body).status == 204

        feed = daemon.control.mesh().feeds["home"]
        first = sleeper()  # what all of them share is loaded with it
        change(0)
        tracemalloc.start()
        try:
            before = tracemalloc.take_snapshot()
            for _ in range(SLEEPERS - 1):
                sleeper()
            for number in range(60):
                change(number)
            daemon.wait(lambda: all(w.outbox.stalled for w in feed._fanout.watchers))
            after = tracemalloc.take_snapshot()
        finally:
            tracemalloc.stop()
        ours = tracemalloc.Filter(True, "*/bifrost_lite/*")
        kept = after.filter_traces([ours]).compare_to(before.filter_traces([ours]), "filename")
        assert sum(each.size_diff for each in kept) <= QUEUE + SLEEPERS * HELD
        assert all(watcher.outbox._size <= QUEUE for watcher in feed._fanout.watchers)
        # And yet nobody who reads on misses a peer, or takes an old state for the last.
        seen: dict[str, Any] = {}
        seq = 0
        while seq < feed.ring.last:
            message = receive(first)
            assert message["seq"] >= seq
            seq = message["seq"]
            if message["type"] != "events.lost":
                seen[message["data"]["peer_id"]] = message["data"]["metadata"]
        present = feed._network.present.items()
        assert seen == {id: peer.card.metadata for id, peer in present}


# What it costs.


def test_nothing_is_loaded_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name for name in sys.modules if name.startswith("bifrost_lite.mesh")]
    for name in ("bifrost_lite.coordinator", "bifrost_lite.api.mesh", *names):
        monkeypatch.delitem(sys.modules, name)
    with running(token=TOKEN) as daemon:
        for header in ((), (bearer("wrong"),)):
            for name in CALLS:
                assert attempt(daemon, name, *header) in (401, 429)
        assert "bifrost_lite.coordinator" not in sys.modules
        assert daemon.get(NETWORKS, bearer(TOKEN)).json == {"networks": []}
        assert "bifrost_lite.coordinator" in sys.modules


def test_nothing_is_encoded_for_nobody(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[object] = []
    frame = hub_module._frame
    monkeypatch.setattr(hub_module, "_frame", lambda e: encoded.append(e) or frame(e))
    daemon.get(f"{NETWORKS}/home", method="DELETE")
    daemon.send("POST", NETWORKS, {"id": "home"})
    register(daemon, {"id": "a"})
    assert encoded == []
    with watch(daemon), watch(daemon, "?since=0") as client:
        kinds(client, 2)
        encoded.clear()
        register(daemon, {"id": "b"})
        kinds(client, 1)
        assert len(encoded) == 1  # once for both


def test_state_over_a_restart(tmp_path: Path) -> None:
    mesh = Mesh(networks=(HOME,), join_token=JOIN, state=str(tmp_path / "mesh"))
    with running(mesh=mesh, token=TOKEN) as daemon:
        token = register(daemon, {"id": "a"}, bearer(JOIN)).json["peer_token"]
    with running(mesh=mesh, token=TOKEN) as daemon:
        assert call(daemon, "POST", "peers/a/heartbeat", bearer(token)).status == 204
        assert call(daemon, "GET", "peers", bearer(TOKEN)).json["seq"] == 0


# The guide.


def test_every_event_is_explained() -> None:
    for kind, data in MESH_TYPES.items():
        assert f"\n| `{kind}` | " in GUIDE
        section = next(part for part in GUIDE.split("\n### ")[1:] if f"`{kind}`" in part.splitlines()[0])
        for field in data.__struct_fields__:
            assert f"\n| `{field}` | " in section, (kind, field)


def test_every_call_is_explained() -> None:
    for method, path in CALLS.values():
        shown = path.replace("/home", "/{id}").replace("/peers/a", "/peers/{peer}")
        assert re.search(rf"\n\| `{method} networks{re.escape(shown)}` \| ", GUIDE), (method, shown)
