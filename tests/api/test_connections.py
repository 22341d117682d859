"""Connections: listed, counted by client, closed."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from bifrost_lite.errors import Reason
from tests.control_fixtures import Daemon, FakeSession, running


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with running() as daemon:
        now = time.time()
        for session in (
            FakeSession(daemon.plane, 1, started=now - 60, bytes_sent=1, bytes_received=2),
            FakeSession(daemon.plane, 2, client_ip="fd00::5", started=now - 5),
            FakeSession(daemon.plane, 5, host="[2001:db8::1]:22", started=now, bytes_sent=10),
        ):
            daemon.plane.connections[session.id] = session
        yield daemon


def test_list(daemon: Daemon) -> None:
    body = daemon.get("/api/v1/connections").json
    assert (body["count"], list(body)) == (3, ["connections", "count", "time"])
    first = body["connections"][0]
    assert 60 <= first.pop("age") < 90
    assert first.pop("start_time").endswith("Z")
    assert first == {
        "id": 1, "client_ip": "192.168.1.100", "client_port": 40000, "protocol": "CONNECT",
        "host": "api.example.com:443", "backend": "direct", "route": "default",
        "bytes_sent": 1, "bytes_received": 2,
    }  # fmt: skip
    daemon.plane.connections[1].bytes_received = 1000
    assert daemon.get("/api/v1/connections").json["connections"][0]["bytes_received"] == 1000


def test_list_of_one_client(daemon: Daemon) -> None:
    body = daemon.get("/api/v1/connections?client=fd00:0::5").json
    assert [connection["id"] for connection in body["connections"]] == [2]
    assert daemon.get("/api/v1/connections?client=10.9.9.9").json["connections"] == []
    assert daemon.get("/api/v1/connections?client=x").status == 400


def test_clients(daemon: Daemon) -> None:
    body = daemon.get("/api/v1/connections/clients").json
    assert body["count"] == 2
    first, second = body["clients"]
    oldest = daemon.get("/api/v1/connections").json["connections"][0]["start_time"]
    assert first == {
        "client_ip": "192.168.1.100", "connections": 2, "bytes_sent": 11, "bytes_received": 2,
        "first_seen": oldest,
    }  # fmt: skip
    assert (second["client_ip"], second["connections"]) == ("fd00::5", 1)


def test_close_one(daemon: Daemon) -> None:
    answer = daemon.get("/api/v1/connections/5", method="DELETE")
    assert (answer.status, answer.json) == (200, {"closed": 1})
    assert daemon.plane.closed == [(5, Reason.OPERATOR)]
    assert daemon.get("/api/v1/connections/5", method="DELETE").status == 404


@pytest.mark.parametrize("id", ["99", "x", "-1", "1.0", "%31%00", "9" * 50, "٣", "+1", "1%20"])
def test_close_unknown(daemon: Daemon, id: str) -> None:
    path = "".join(c if c.isascii() else "%" + c.encode().hex("%") for c in id)
    answer = daemon.get(f"/api/v1/connections/{path}", method="DELETE")
    assert (answer.status, answer.json["error"]) == (404, "not_found")
    assert daemon.plane.closed == []


def test_escaped_slash_is_no_slash(daemon: Daemon) -> None:
    assert daemon.get("/api/v1/connections/1%2f", method="DELETE").status == 400
    assert daemon.plane.closed == []


def test_close_of_a_client(daemon: Daemon) -> None:
    answer = daemon.get("/api/v1/connections?client=192.168.1.100", method="DELETE")
    assert (answer.status, answer.json) == (200, {"closed": 2})
    assert list(daemon.plane.connections) == [2]
    answer = daemon.get("/api/v1/connections?client=192.168.1.100", method="DELETE")
    assert answer.json == {"closed": 0}


@pytest.mark.parametrize("query", ["", "?client=", "?client=router", "?client=0.0.0.0/0"])
def test_close_of_nobody_closes_nothing(daemon: Daemon, query: str) -> None:
    answer = daemon.get(f"/api/v1/connections{query}", method="DELETE")
    assert (answer.status, answer.json["error"]) == (400, "bad_parameter")
    assert "'client'" in answer.json["message"]
    assert daemon.plane.closed == []


def test_read_token_closes_nothing() -> None:
    with running(token="secret-token", read_token="read-token") as daemon:
        daemon.plane.connections[1] = FakeSession(daemon.plane, 1)
        for path in ("/api/v1/connections/1", "/api/v1/connections?client=192.168.1.100"):
            answer = daemon.get(path, "Authorization: Bearer read-token", method="DELETE")
            assert (answer.status, answer.json["error"]) == (403, "read_only")
        assert daemon.get("/api/v1/connections?token=read-token").json["count"] == 1
        assert daemon.get("/api/v1/connections/1?token=secret-token", method="DELETE").status == 200
