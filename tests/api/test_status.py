"""health, version, status, stats."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest

from bifrost_lite import __version__
from bifrost_lite.events import BackendHealth
from tests.control_fixtures import DIRECT, Daemon, running


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with running() as daemon:
        yield daemon


def test_health(daemon: Daemon) -> None:
    body = daemon.get("/api/v1/health").json
    assert list(body) == ["status", "time"]  # it is public, so it says nothing else
    assert body["status"] == "healthy"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", body["time"])
    down = BackendHealth("wg", False, "down", "no answer", DIRECT.since)
    daemon.do(setattr, daemon.hub, "health", lambda: [DIRECT, down])
    answer = daemon.get("/api/v1/health")
    assert (answer.status, answer.json["status"]) == (200, "degraded")


def test_version(daemon: Daemon) -> None:
    body = daemon.get("/api/v1/version").json
    assert body["version"] == __version__
    assert {"git_commit", "build_time", "go_version", "platform"} < set(body)
    assert body["platform"].startswith("linux/")


def test_status(daemon: Daemon) -> None:
    body = daemon.get("/api/v1/status").json
    assert body["status"] == "running"
    assert body["version"] == __version__
    assert body["backends"] == 1
    assert (body["pid"], body["uid"]) == (os.getpid(), os.getuid())
    assert 0 <= body["uptime"] < 100
    assert body["memory_rss"] > 1_000_000
    assert body["clients"] == {"count": 0, "max": 10}
    assert body["subscribers"] == {"count": 0, "max": 10}
    assert (body["events_lost"], body["entries_lost"]) == (0, 0)
    assert (body["refused"], body["failures"]) == (0, {})
    assert body["boot"] == daemon.hub.boot
    assert body["config_errors"] == []
    assert body["listeners"] == [
        {"name": "http", "address": "127.0.0.1", "port": 7080, "protocol": "auto", "open": True},
        {
            "name": "control", "address": "127.0.0.1", "port": daemon.port, "protocol": "control",
            "open": True,
        },
    ]  # fmt: skip


def test_status_counts_clients_against_their_caps() -> None:
    with running(max_clients=3, max_subscribers=2) as daemon:
        daemon.do(daemon.hub.seats.take)
        daemon.do(daemon.logs.seats.take)
        body = daemon.get("/api/v1/status").json
        assert (body["clients"], body["subscribers"]) == (
            {"count": 1, "max": 3}, {"count": 1, "max": 2},
        )  # fmt: skip


def test_status_counts_what_failed(daemon: Daemon) -> None:
    daemon.plane.refused = 2
    daemon.plane.failures = {"dns_failed": 3, "too_many_connections": 2}
    body = daemon.get("/api/v1/status").json
    assert body["refused"] == 2
    assert body["failures"] == {"dns_failed": 3, "too_many_connections": 2}


def test_stats(daemon: Daemon) -> None:
    body = daemon.get("/api/v1/stats?unknown=parameter").json
    assert {key: body[key] for key in body if key != "time"} == {
        "total_connections": 5000,
        "active_connections": 25,
        "bytes_sent": 104857600,
        "bytes_received": 209715200,
        "backends": {"total": 1, "healthy": 1},
    }
