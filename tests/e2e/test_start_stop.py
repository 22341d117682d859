"""How the daemon says that it is ready, and how it ends."""

from __future__ import annotations

import json

from websockets.sync.client import connect

from tests.e2e.curl import curl, through
from tests.e2e.daemon import Daemon, Value
from tests.e2e.origin import Origin, body
from tests.e2e.program import DEADLINE
from tests.seed.examples import held_tunnel


def test_every_listener_is_announced_and_serves() -> None:
    names = [f"l{number}" for number in range(7)]
    listen: list[dict[str, Value]] = [
        {"name": name, "address": "127.0.0.1", "port": 0} for name in names
    ]
    with Daemon(listen=listen) as daemon, Origin() as origin:
        assert list(daemon.proxies) == names
        assert len(daemon.controls) == 2
        for proxy in daemon.proxies.values():
            assert curl(*through("tunnel", proxy), origin.url("/bytes/9")).body == body(9)


def test_a_daemon_that_is_ready_can_be_stopped() -> None:
    for _ in range(3):
        with Daemon():
            pass


def test_a_stopping_daemon_gives_connections_their_time_and_then_closes_them() -> None:
    with (
        Daemon(graceful_period="300ms") as daemon,
        connect(f"ws://{daemon.control}/api/v1/ws?types=connection.new,connection.close") as events,
        held_tunnel(daemon) as target,
    ):
        daemon.stop()
        told = [json.loads(message) for message in events]
        mine = [event for event in told if event["data"].get("host") == target]
        assert [event["type"] for event in mine] == ["connection.new", "connection.close"]
        assert mine[1]["data"]["reason"] == "shutdown"
        assert events.protocol.close_code == 1001


def test_a_stopping_daemon_waits_for_the_last_connection_only() -> None:
    with Daemon(graceful_period=2 * DEADLINE) as daemon:
        with held_tunnel(daemon):
            daemon.process.terminate()
            daemon.output.expect("^stopping, 1 connections$")
        assert daemon.wait() == 0
