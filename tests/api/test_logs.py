"""The rings: log entries and finished requests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bifrost_lite.config.schema import Log
from bifrost_lite.records import INFO, WARN
from bifrost_lite.sse import Line
from tests.control_fixtures import Daemon, finished, running


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with running() as daemon:
        for number in range(1, 4):
            daemon.do(daemon.logs.append, Line(1705312800.0, INFO, f"line {number}", "test"))
            daemon.do(daemon.requests.append, finished(number))
        daemon.do(daemon.logs.append, Line(1705312800.0, WARN, "beware", "test"))
        yield daemon


def test_entries(daemon: Daemon) -> None:
    body = daemon.get("/api/v1/logs").json
    assert [entry["message"] for entry in body["entries"]] == [
        "beware", "line 3", "line 2", "line 1",
    ]  # fmt: skip
    assert body["count"] == 4
    assert [e["level"] for e in daemon.get("/api/v1/logs?limit=2").json["entries"]] == [
        "warn", "info",
    ]  # fmt: skip
    body = daemon.get("/api/v1/logs?level=warn&limit=1").json
    assert body["entries"] == [
        {
            "timestamp": "2024-01-15T10:00:00Z", "level": "warn", "message": "beware",
            "fields": {"source": "test"},
        }
    ]  # fmt: skip


@pytest.mark.parametrize("query", ["logs?limit=0", "logs?limit=x", "logs?level=all",
                                   "requests?limit=10001", "requests?since=-5"])  # fmt: skip
def test_bad_parameters(daemon: Daemon, query: str) -> None:
    answer = daemon.get(f"/api/v1/{query}")
    assert (answer.status, answer.json["error"]) == (400, "bad_parameter")


def test_requests(daemon: Daemon) -> None:
    daemon.do(daemon.requests.append, finished(4, status_code=None, error="dns_failed"))
    body = daemon.get("/api/v1/requests").json
    assert (body["enabled"], body["count"]) == (True, 4)
    newest, *_, oldest = body["requests"]
    assert "status_code" not in newest
    assert newest["error"] == "dns_failed"
    assert oldest == {
        "id": 1, "timestamp": "2024-01-15T10:00:00Z", "protocol": "HTTP", "method": "GET",
        "url": "api.example.com/v1/users", "host": "api.example.com:80",
        "client_ip": "192.168.1.100", "backend": "direct", "route": "default",
        "status_code": 200, "duration_ms": 150, "bytes_sent": 10, "bytes_received": 2000,
        "error": "",
    }  # fmt: skip
    body = daemon.get("/api/v1/requests?since=2").json
    assert [request["id"] for request in body["requests"]] == [4, 3]
    body = daemon.get("/api/v1/requests?since=1&limit=1").json
    assert [request["id"] for request in body["requests"]] == [4]
    assert daemon.get("/api/v1/requests?since=99").json["requests"] == []  # not null


def test_stats_and_clear(daemon: Daemon) -> None:
    assert daemon.get("/api/v1/requests/stats").json == {
        "enabled": True, "count": 3, "max_size": 100,
    }  # fmt: skip
    assert daemon.get("/api/v1/requests", method="DELETE").json["cleared"] == 3
    assert daemon.get("/api/v1/requests").json["requests"] == []
    assert daemon.get("/api/v1/logs").json["count"] == 4


def test_off() -> None:
    with running(log=Log(requests=0)) as daemon:
        daemon.do(daemon.requests.append, finished())
        body = daemon.get("/api/v1/requests").json
        assert (body["enabled"], body["requests"]) == (False, [])
        assert not daemon.get("/api/v1/requests/stats").json["enabled"]


def test_hostile_text_is_data(daemon: Daemon) -> None:
    daemon.do(daemon.requests.append, finished(9, url='</script><img src=x onerror=1>"\n\x00'))
    answer = daemon.get("/api/v1/requests?limit=1")
    assert answer.json["requests"][0]["url"] == '</script><img src=x onerror=1>"\n\x00'
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
