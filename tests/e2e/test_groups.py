"""Groups in the real daemon, over SOCKS proxies that come and go."""

from __future__ import annotations

import json
import signal
import socket
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests.daemon_kit import asked, echoing
from tests.e2e.curl import curl, through
from tests.e2e.daemon import Daemon
from tests.e2e.origin import Origin, body, with_reset
from tests.e2e.program import DEADLINE, Program

SIZE = 100_000
EVERYTHING = [{"name": "all", "domains": ["*"], "backend": "best"}]
WAYS = pytest.mark.parametrize("way", ["http", "tunnel", "socks5-hostname"])


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with ExitStack() as stack:
        servers = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [server.getsockname()[1] for server in servers]


@contextmanager
def microsocks(port: int) -> Iterator[Program]:
    """A SOCKS5 proxy that listens."""
    with Program(["microsocks", "-i", "127.0.0.1", "-p", str(port)]) as program:
        while True:
            assert program.process.poll() is None, program.output.text
            try:
                socket.create_connection(("127.0.0.1", port), DEADLINE).close()
                break
            except ConnectionRefusedError:
                continue
        yield program


def kill(program: Program) -> None:
    program.process.send_signal(signal.SIGKILL)
    program.wait()


def upstream(name: str, port: int, **keys: Any) -> dict[str, Any]:
    return {"name": name, "type": "socks5_proxy", "address": f"127.0.0.1:{port}"} | keys


def group(*members: str, **keys: Any) -> dict[str, Any]:
    return {"name": "best", "type": "group", "members": members} | keys


def ask(daemon: Daemon, path: str, *options: str) -> Any:
    """A call of the API."""
    return json.loads(curl(*options, daemon.url(f"/api/v1/{path}")).body)


def carried_by(daemon: Daemon, count: int) -> list[str]:
    """What carried the last `count` requests, the oldest first."""
    found: list[str] = []

    def all_there() -> bool:
        found[:] = [r["backend"] for r in ask(daemon, "requests")["requests"]]
        return len(found) >= count

    daemon.wait_until(all_there, f"{count} requests are recorded")
    return found[:count][::-1]


def fetch(daemon: Daemon, origin: Origin, way: str = "tunnel") -> None:
    got = curl(*through(way, daemon.proxy), origin.url(f"/bytes/{SIZE}"))
    assert got.body == body(SIZE)


@WAYS
def test_a_member_dies_and_comes_back(origin: Origin, way: str) -> None:
    """The client never notices, and as soon as the member is back it carries again."""
    (port,) = free_ports(1)
    with ExitStack() as stack:
        first = stack.enter_context(microsocks(port))
        daemon = stack.enter_context(
            Daemon(backends=[upstream("first", port), group("first", "direct")], routes=EVERYTHING)
        )
        fetch(daemon, origin, way)
        kill(first)
        fetch(daemon, origin, way)
        stack.enter_context(microsocks(port))
        fetch(daemon, origin, way)
        assert carried_by(daemon, 3) == ["first", "direct", "first"]
        stats = ask(daemon, "backends/best/stats")
        assert (stats["total_connections"], stats["errors"]) == (3, 1)
        assert stats["bytes_received"] > 3 * SIZE


@WAYS
@pytest.mark.parametrize("at", ["connected", "greeted"])
def test_a_member_dies_in_the_middle_of_a_dial(origin: Origin, way: str, at: str) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as first,
        Daemon(
            backends=[upstream("first", first.getsockname()[1]), group("first", "direct")],
            routes=EVERYTHING,
        ) as daemon,
        ThreadPoolExecutor(1) as pool,
    ):
        first.settimeout(DEADLINE)
        fetching = pool.submit(fetch, daemon, origin, way)
        connection, _ = first.accept()
        with connection:
            connection.settimeout(DEADLINE)
            if at == "greeted":
                assert connection.recv(100)
                connection.sendall(b"\x05\x00")
                assert connection.recv(100)
            with_reset(connection)
        fetching.result(DEADLINE)
        assert carried_by(daemon, 1) == ["direct"]


def test_a_member_that_stalls_costs_its_own_deadline_alone(origin: Origin) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        Daemon(
            backends=[
                upstream("silent", silent.getsockname()[1], connect_timeout="200ms"),
                group("silent", "direct"),
            ],
            routes=EVERYTHING,
        ) as daemon,
    ):
        fetch(daemon, origin)
        assert carried_by(daemon, 1) == ["direct"]
        assert ask(daemon, "backends/silent/stats")["last_error"] == "upstream_timeout"


def test_a_member_that_is_marked_is_not_tried(origin: Origin) -> None:
    """Checked, marked, told as the group's own state, and back again."""
    (port,) = free_ports(1)
    health = {
        "type": "tcp", "target": origin.authority, "interval": "100ms", "timeout": "100ms",
        "fall": 1, "rise": 1, "hold_down": 0,
    }  # fmt: skip
    with ExitStack() as stack:
        first = stack.enter_context(microsocks(port))
        daemon = stack.enter_context(
            Daemon(
                backends=[upstream("first", port, health=health), group("first", "direct")],
                routes=EVERYTHING,
            )
        )

        def best_is(state: str, reason: str, *carriers: str) -> None:
            def is_so() -> bool:
                best = ask(daemon, "backends/best")
                return [best[key] for key in ("state", "reason", "carriers")] == [
                    state, reason, list(carriers),
                ]  # fmt: skip

            daemon.wait_until(is_so, f"the group is {state}: {reason}")

        best_is("up", "first carries it", "first", "direct")
        kill(first)
        best_is("up", "direct carries it", "direct")
        errors = ask(daemon, "backends/first/stats")["errors"]
        fetch(daemon, origin)
        assert ask(daemon, "backends/first/stats")["errors"] == errors
        stack.enter_context(microsocks(port))
        best_is("up", "first carries it", "first", "direct")
        fetch(daemon, origin)
        assert carried_by(daemon, 2) == ["direct", "first"]


def test_nobody_carries_it(origin: Origin) -> None:
    one, two = free_ports(2)
    with Daemon(
        backends=[upstream("first", one), upstream("second", two), group("first", "second")],
        routes=EVERYTHING,
    ) as daemon:
        got = curl(*through("http", daemon.proxy), origin.url())
        assert got.status == 502
        assert b"upstream_unreachable" in got.body
        errors = [ask(daemon, f"backends/{name}/stats")["errors"] for name in ("first", "second")]
        assert errors == [1, 1]


def test_two_take_turns(origin: Origin) -> None:
    with ExitStack() as stack:
        ports = free_ports(2)
        for port in ports:
            stack.enter_context(microsocks(port))
        members = [upstream(f"m{i}", port) for i, port in enumerate(ports)]
        daemon = stack.enter_context(
            Daemon(
                backends=[*members, group("m0", "m1", strategy="round_robin")], routes=EVERYTHING
            )
        )
        for _ in range(4):
            fetch(daemon, origin)
        assert carried_by(daemon, 4) == ["m0", "m1", "m0", "m1"]


def test_a_test_goes_through_the_backend(origin: Origin) -> None:
    (port,) = free_ports(1)
    target = json.dumps({"target": origin.authority})
    post = ("--json", target)
    with Daemon(
        backends=[upstream("first", port), group("first", "direct")], routes=EVERYTHING
    ) as daemon:
        assert ask(daemon, "backends/first/test", *post)["reason"] == "upstream_unreachable"
        with microsocks(port):
            for name in ("first", "best"):
                result = ask(daemon, f"backends/{name}/test", *post)
                assert (result["ok"], result["carrier"]) == (True, "first")
        totals = [b["stats"]["total_connections"] for b in ask(daemon, "backends")]
        assert totals == [0, 0, 0]


def test_one_target_is_enough_to_mark_a_member_that_another_outdoes() -> None:
    """Who talks to one host alone must not wait for the dead member each time."""
    backends = [
        {"name": "dead", "type": "socks5_proxy", "address": f"127.0.0.1:{free_ports(1)[0]}"},
        {"name": "best", "type": "group", "members": ["dead", "direct"]},
    ]
    with echoing() as target, Daemon(backends=backends, routes=EVERYTHING) as daemon:
        for _ in range(5):
            assert asked(daemon.proxy, target) == (200, "")
        with urllib.request.urlopen(daemon.url("/api/v1/backends/dead"), timeout=DEADLINE) as answer:
            dead = json.load(answer)
        assert (dead["state"], dead["stats"]["errors"]) == ("down", 3)
