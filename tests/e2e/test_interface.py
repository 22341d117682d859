"""The daemon behind a VPN that comes and goes: clients use nothing else, and it recovers alone.

All of it is in the router of `namespaces.Crossing`, whose other way out would take every
packet, and the names too.
"""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.daemon_kit import ask, asked, ended
from tests.e2e.curl import curl
from tests.e2e.daemon import Daemon
from tests.e2e.program import DEADLINE
from tests.namespaces import FAR, FOUR, SIX, Crossing

HOSTS = [f"{FOUR}:80", f"[{SIX}]:80", f"{FAR}:80"]
GONE = ["vpn0 is down", "vpn0 is not there"]  # the kernel switches off what it deletes
VPN: dict[str, Any] = {"name": "vpn", "type": "interface", "device": "vpn0", "resolver": [FOUR]}


@pytest.fixture
def crossing() -> Iterator[Crossing]:
    """The test is in its router."""
    with Crossing() as made, made.router.inside():
        yield made


class Running:
    """The daemon, and what it tells of its backend."""

    def __init__(self, daemon: Daemon, events: ClientConnection) -> None:
        self.daemon = daemon
        self.events = events
        self._read: list[dict[str, Any]] = []

    def event(self, kind: str) -> dict[str, Any]:
        """The data of the next event of this kind, whatever came before or between."""
        end = time.monotonic() + DEADLINE
        while True:
            for event in self._read:
                if event["type"] == kind:
                    self._read.remove(event)
                    data: dict[str, Any] = event["data"]
                    return data
            self._read.append(json.loads(self.events.recv(timeout=end - time.monotonic())))

    def becomes(self, state: str) -> str:
        """Wait until its backend has this state; answers why."""
        while True:
            data = self.event("backend.health")
            if data["name"] == "vpn" and data["state"] == state:
                reason: str = data["reason"]
                return reason

    def world(self, host: str) -> str:
        """The world that a tunnel leads to, or why there is none."""
        client, refusal = ask(self.daemon.proxy, host)
        with client:
            if refusal.word:
                return refusal.word
            world = client.recv(3, socket.MSG_WAITALL).decode()
            client.shutdown(socket.SHUT_WR)
            assert ended(client)
            return world


@pytest.fixture
def running(crossing: Crossing) -> Iterator[Running]:
    """With the device there."""
    crossing.plug()
    with (
        Daemon(
            backends=[VPN, {"name": "direct", "type": "direct"}],
            routes=[{"name": "all", "domains": ["*"], "backend": "vpn"}],
            resolver={"servers": [FOUR]},
        ) as daemon,
        connect(f"ws://{daemon.control}/api/v1/ws") as events,
    ):
        made = Running(daemon, events)
        yield made


def private(crossing: Crossing) -> None:
    """Nothing has left by the other way."""
    assert crossing.leaked() == 0
    assert crossing.leaked("strays") == 0
    assert crossing.wan.visitors == []
    assert crossing.wan.asked == set()


def backend(daemon: Daemon) -> dict[str, Any]:
    """What the API says of it."""
    found: dict[str, Any] = json.loads(curl(daemon.url("/api/v1/backends/vpn")).body)
    return found


def test_it_goes_and_comes_back(running: Running, crossing: Crossing) -> None:
    for host in HOSTS:
        assert running.world(host) == "vpn"
    client, _ = ask(running.daemon.proxy, HOSTS[0])
    with client:
        assert client.recv(3, socket.MSG_WAITALL) == b"vpn"
        crossing.unplug()
        assert running.becomes("waiting") in GONE
        assert ended(client)  # no packet of the target's will ever come
    while (closed := running.event("connection.close"))["reason"] != "device_absent":
        assert closed["reason"] == "closed"
    for host in HOSTS:
        assert asked(running.daemon.proxy, host) == (502, "device_absent")
    for _ in range(2):
        crossing.plug()
        running.becomes("up")
        for host in HOSTS:
            assert running.world(host) == "vpn"
        crossing.router.ip("link set vpn0 down")
        assert running.becomes("waiting") == "vpn0 is down"
        assert running.world(HOSTS[2]) == "device_absent"
        crossing.router.ip("link set vpn0 up")
        running.becomes("up")
        crossing.unplug()
        running.becomes("waiting")
    private(crossing)


def test_a_reload_changes_nothing_of_that(running: Running, crossing: Crossing) -> None:
    for _ in range(3):
        running.daemon.process.send_signal(signal.SIGHUP)
        running.event("config.reload")
    assert running.world(HOSTS[2]) == "vpn"
    crossing.unplug()
    running.becomes("waiting")
    running.daemon.process.send_signal(signal.SIGHUP)
    running.event("config.reload")
    assert running.world(HOSTS[0]) == "device_absent"
    crossing.plug()
    running.becomes("up")
    assert running.world(HOSTS[2]) == "vpn"
    private(crossing)


def test_it_starts_before_its_device(crossing: Crossing) -> None:
    """A tun device with its program: as at the boot of a router."""
    with (
        Daemon(
            backends=[VPN],
            routes=[{"name": "all", "domains": ["*"], "backend": "vpn"}],
        ) as daemon,
        connect(f"ws://{daemon.control}/api/v1/ws") as events,
    ):
        running = Running(daemon, events)
        assert running.becomes("waiting") == "vpn0 is not there"
        assert running.world(HOSTS[2]) == "device_absent"
        for _ in range(2):
            with crossing.tunnel():
                running.becomes("up")
                for host in HOSTS:
                    assert running.world(host) == "vpn"
            running.becomes("waiting")
            assert running.world(HOSTS[2]) == "device_absent"
        private(crossing)


def test_direct_is_another_way(running: Running, crossing: Crossing) -> None:
    """What the counters count: the same proxy, told to use the other way."""
    path = running.daemon.path
    path.write_text(
        path.read_text("utf-8").replace('backend = "vpn"', 'backend = "direct"'), "utf-8"
    )
    running.daemon.process.send_signal(signal.SIGHUP)
    running.event("config.reload")
    assert running.world(HOSTS[0]) == "wan"
    assert crossing.leaked() > 0


def test_it_is_shown(running: Running, crossing: Crossing) -> None:
    daemon = running.daemon
    daemon.wait_until(lambda: backend(daemon)["state"] == "up", "it is up")
    crossing.unplug()
    running.becomes("waiting")
    shown = backend(daemon)
    assert (shown["state"], shown["healthy"]) == ("waiting", False)
    assert shown["reason"] in GONE
