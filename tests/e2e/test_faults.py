"""What goes wrong around the daemon: clocks, name servers, descriptors."""

from __future__ import annotations

import json
import os
import resource
import socket
import time
import urllib.request
from calendar import timegm
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.daemon_kit import asked, echoing, speaks, tunnel
from tests.e2e.daemon import Daemon
from tests.e2e.nameserver import NameServer
from tests.e2e.program import DEADLINE, environment


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with echoing() as target:
        yield target


class Jumping(Daemon):
    """A daemon whose wall clock a test sets; what counts seconds goes on as it did."""

    def __init__(self, folder: Path) -> None:
        super().__init__(control={"listen": ["127.0.0.1:0"], "stats_interval": 0})
        (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
        self.clock = folder / "clock"
        self.set("+0")
        self._env = environment(
            LD_PRELOAD=str(library),
            FAKETIME_TIMESTAMP_FILE=str(self.clock),
            FAKETIME_NO_CACHE="1",
            FAKETIME_DONT_FAKE_MONOTONIC="1",
        )

    def set(self, offset: str) -> None:
        """Put the clock so many seconds ahead or back."""
        fresh = self.clock.with_suffix(".new")
        fresh.write_text(offset, "ascii")
        fresh.replace(self.clock)


@pytest.mark.parametrize("jump", [365 * 86400, -86400], ids=["a year ahead", "a day back"])
def test_the_clock_jumps(jump: int, target: str, tmp_path: Path) -> None:
    """As on each router that finds the time after it has started: nothing ends, nothing
    hangs, and what is told from now on carries the new time."""
    with Jumping(tmp_path) as daemon, tunnel(daemon.proxy, target) as lives:
        with connect(f"ws://{daemon.control}/api/v1/ws?types=connection.new") as events:
            daemon.set(f"{jump:+d}")
            assert speaks(lives)
            assert asked(daemon.proxy, target) == (200, "")
            event = json.loads(events.recv(timeout=DEADLINE))
            when = timegm(time.strptime(event["timestamp"], "%Y-%m-%dT%H:%M:%SZ"))
            assert abs(when - time.time() - jump) < 60
            events.send("ping")
            assert events.recv(timeout=DEADLINE) == "pong"
        with urllib.request.urlopen(daemon.url("/api/v1/connections"), timeout=DEADLINE) as answer:
            (connection,) = json.load(answer)["connections"]
        assert connection["age"] >= 0
        assert speaks(lives)


def test_dead_name_servers_hold_nobody_up_but_who_asks(target: str) -> None:
    """One that says nothing, one that is not there; names fail in time, addresses do not."""
    with ExitStack() as stack:
        silent = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        silent.bind(("127.0.0.1", 0))
        servers = [f"127.0.0.1:{silent.getsockname()[1]}", "127.0.0.1:9"]
        resolver = {"servers": servers, "timeout": "500ms"}
        daemon = stack.enter_context(Daemon(resolver=resolver))
        waiting = socket.create_connection(daemon.proxy, DEADLINE)
        stack.enter_context(waiting)
        waiting.sendall(b"CONNECT a.example:80 HTTP/1.1\r\nHost: a.example:80\r\n\r\n")
        assert asked(daemon.proxy, target) == (200, "")
        reply = b"".join(iter(lambda: waiting.recv(4096), b""))
        assert b"X-Bifrost-Reason: dns_timeout" in reply
        assert asked(daemon.proxy, "b.example:80") == (504, "dns_timeout")


def test_a_slow_name_server_is_passed_over_once(target: str) -> None:
    """The second answers; from then on it is the first that is asked."""
    host, port = target.split(":")
    zone = {"a.example": [host], "b.example": [host]}
    with NameServer(zone) as good, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as slow:
        slow.bind(("127.0.0.1", 0))
        servers = [f"127.0.0.1:{slow.getsockname()[1]}", good.address]
        with Daemon(resolver={"servers": servers, "timeout": "5s"}) as daemon:
            assert asked(daemon.proxy, f"a.example:{port}") == (200, "")
            slow.setblocking(False)
            asked_first = drain(slow)
            assert asked_first
            assert asked(daemon.proxy, f"b.example:{port}") == (200, "")
            assert not drain(slow)


def drain(sock: socket.socket) -> int:
    """How many datagrams wait there."""
    count = 0
    while True:
        try:
            sock.recv(4096)
        except BlockingIOError:
            return count
        count += 1


def test_out_of_descriptors_the_clients_wait_their_turn(target: str) -> None:
    """More clients than descriptors: those inside work, the others get in when some leave."""
    limits = {"max_connections": 1000, "max_connections_per_client": 1000}
    with Daemon(limits=limits) as daemon:
        taken = len(os.listdir(f"/proc/{daemon.pid}/fd"))
        room = 40
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (taken + room, taken + room))
        clients = [socket.create_connection(daemon.proxy, DEADLINE) for _ in range(room + 20)]
        try:
            daemon.output.expect("out of file descriptors")
            for client in clients[: room + 10]:
                client.close()
            clients = clients[room + 10 :]
            with tunnel(daemon.proxy, target) as lives:
                assert speaks(lives)
        finally:
            for client in clients:
                client.close()
