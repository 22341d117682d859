"""Reloads as an operator sees them: under load, by the API, with listeners that move."""

from __future__ import annotations

import json
import signal
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.daemon_kit import (
    ask,
    asked,
    echoing,
    ended,
    free_port,
    read_head,
    speaks,
    tunnel,
    watched,
)
from tests.e2e.daemon import Daemon, Value
from tests.e2e.program import DEADLINE

OPEN = {"allow_local": True}
EVERYTHING: dict[str, Value] = {"name": "all", "domains": ["*"], "backend": "direct"}


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with echoing() as target:
        yield target


def post(daemon: Daemon, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
    """What the API answers: the status and the object."""
    request = urllib.request.Request(
        daemon.url(f"/api/v1{path}"),
        json.dumps({} if body is None else body).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def get(daemon: Daemon, path: str) -> dict[str, Any]:
    with urllib.request.urlopen(daemon.url(f"/api/v1{path}"), timeout=DEADLINE) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


class Load(threading.Thread):
    """Sends and gets back through a tunnel until told to stop."""

    def __init__(self, client: socket.socket, stop: threading.Event) -> None:
        super().__init__()
        self.client = client
        self.stop = stop
        self.rounds = 0
        self.whole = True

    def run(self) -> None:
        block = bytes(range(256)) * 16
        while not self.stop.is_set() and self.whole:
            self.whole = speaks(self.client, block)
            self.rounds += 1


def memory(daemon: Daemon) -> int:
    """Bytes that are the daemon's own."""
    with open(f"/proc/{daemon.pid}/smaps_rollup", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file.read().splitlines()[1:])
    return 1024 * sum(int(fields[f"Private_{kind}"].split()[0]) for kind in ("Clean", "Dirty"))


def test_tunnels_live_through_a_hundred_reloads_under_load(target: str) -> None:
    """None is lost, no byte of theirs, no descriptor, and memory does not grow."""
    stop = threading.Event()
    routes: list[dict[str, Value]] = [
        {"name": f"r{n}", "domains": [f"*.site{n}.example", f".other{n}.example"], "backend": "b"}
        for n in range(200)
    ]
    backends: list[dict[str, Value]] = [
        {"name": "b", "type": "group", "members": ["direct", "up"]},
        {"name": "up", "type": "http_proxy", "address": "127.0.0.1:9"},
    ]
    with watched(routes=[*routes, EVERYTHING], backends=backends) as seen:
        tunnels = [tunnel(seen.daemon.proxy, target) for _ in range(20)]
        clients = [entered.__enter__() for entered in tunnels]
        loads = [Load(client, stop) for client in clients]
        for load in loads:
            load.start()
        try:

            def reload(number: int) -> None:
                changed = seen.reload(
                    routes=[*routes[number % 2 :], EVERYTHING],
                    resolver={"timeout": 1 + number % 2},
                    backends=[*backends, {"name": f"x{number % 3}", "type": "block"}],
                )
                assert {"backends", "routes", "resolver"} >= set(changed) != set()

            for number in range(20):
                reload(number)
            seen.daemon.wait_until(lambda: seen.daemon.sockets() == sockets(clients), "settled")
            before = memory(seen.daemon)
            for number in range(20, 100):
                reload(number)
            seen.daemon.wait_until(lambda: seen.daemon.sockets() == sockets(clients), "settled")
            grown = memory(seen.daemon) - before
        finally:
            stop.set()
            for load in loads:
                load.join(DEADLINE)
            rounds = [load.rounds for load in loads]
            whole = all(load.whole for load in loads)
            count = get(seen.daemon, "/connections")["count"]
            for entered in tunnels:
                entered.__exit__(None, None, None)
        assert whole
        assert min(rounds) > 1
        assert count == len(clients)
        # The allocator's rounding: a policy of 200 routes that stayed takes over 100 KiB.
        assert grown < 2_000_000


def sockets(clients: list[socket.socket]) -> int:
    """Those of the daemon at rest: tunnels, listeners, netlink, self-pipe, a watcher."""
    return 2 * len(clients) + 3 + 1 + 2 + 1


def test_the_api_reloads_and_enforces(target: str) -> None:
    with watched(routes=[EVERYTHING]) as seen:
        daemon = seen.daemon
        with tunnel(daemon.proxy, target) as lives, tunnel(daemon.proxy, target) as other:
            seen.write(routes=[{"name": "none", "domains": ["none.example"], "backend": "direct"}])
            status, answer = post(daemon, "/config/reload")
            assert status == 200
            assert answer["changed_sections"] == ["routes"]
            assert (answer["kept"], answer["denied"], answer["closed"]) == (2, 2, 0)
            assert speaks(lives)
            assert asked(daemon.proxy, target) == (403, "no_route")
            status, answer = post(daemon, "/config/reload", {"enforce": True})
            assert (answer["changed_sections"], answer["denied"], answer["closed"]) == ([], 2, 2)
            assert ended(lives)
            assert ended(other)
        daemon.wait_until(lambda: get(daemon, "/connections")["count"] == 0, "none is left")


@pytest.mark.parametrize(
    "denies",
    [
        {"access": OPEN | {"deny": ["127.0.0.0/8"]}},
        {"access": {"allow_local": False}},
        {
            "backends": [{"name": "no", "type": "block"}],
            "routes": [{"name": "all", "domains": ["*"], "backend": "no"}],
        },
        {
            "users": [
                {
                    "name": "somebody",
                    "password_hash": f"pbkdf2-sha256$1000${'00' * 16}${'11' * 32}",
                }
            ]
        },
    ],
    ids=["acl", "target", "block", "users"],
)
def test_what_is_denied_is_closed_when_asked_for(denies: dict[str, Any], target: str) -> None:
    with watched(routes=[EVERYTHING]) as seen, tunnel(seen.daemon.proxy, target) as lives:
        seen.write(**denies)
        status, answer = post(seen.daemon, "/config/reload", {"enforce": True})
        assert (status, answer["closed"]) == (200, 1), answer
        assert ended(lives)


def test_a_rejected_reload_tells_all_by_the_api_and_by_events(target: str) -> None:
    with watched() as seen, tunnel(seen.daemon.proxy, target) as lives:
        seen.write(listen=[{"port": 0}, {"prot": 1}], limits={"max_connections": 0})
        status, answer = post(seen.daemon, "/config/reload")
        assert 400 <= status < 500
        fields = {(error["section"], error["field"]) for error in answer["errors"]}
        assert fields == {("listen[1]", "prot"), ("limits", "max_connections")}
        kind, data = seen.event()
        assert kind == "config.rejected"
        assert {(error["section"], error["field"]) for error in data["errors"]} == fields
        assert speaks(lives)
        assert asked(seen.daemon.proxy, target) == (200, "")


def test_a_listener_is_widened_and_narrowed_without_a_gap(target: str) -> None:
    """From loopback to all addresses and back, while clients come in all the time."""
    port = free_port()
    narrow: dict[str, Value] = {"name": "main", "address": "127.0.0.1", "port": port}
    wide: dict[str, Value] = {"name": "main", "address": "0.0.0.0", "port": port}
    stop = threading.Event()
    refused: list[OSError | AssertionError] = []
    served = [0]

    def clients() -> None:
        while not stop.is_set():
            try:
                client, refusal = ask(("127.0.0.1", port), target)
                with client:
                    assert refusal == (200, "")
                    assert speaks(client)
                served[0] += 1
            except (OSError, AssertionError) as error:
                refused.append(error)

    with watched(listen=[narrow]) as seen:
        threads = [threading.Thread(target=clients) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for number in range(20):
                assert seen.reload(listen=[wide if number % 2 == 0 else narrow]) == ["listen"]
        finally:
            stop.set()
            for thread in threads:
                thread.join(DEADLINE)
        assert not refused
        assert served[0] > 20


def test_a_port_that_cannot_be_widened_stays_as_it_was(target: str) -> None:
    port = free_port()
    narrow: dict[str, Value] = {"name": "main", "address": "127.0.0.1", "port": port}
    with watched(listen=[narrow]) as seen, socket.create_server(("127.0.0.2", port)):
        seen.write(listen=[{"name": "main", "address": "0.0.0.0", "port": port}])
        (error,) = seen.rejected()
        assert "in use" in error["message"]
        assert asked(("127.0.0.1", port), target) == (200, "")
        # Nobody else may share the port afterwards.
        with pytest.raises(OSError, match="in use"):
            socket.create_server(("127.0.0.1", port))


def test_a_list_that_changed_is_a_change_of_the_routes(target: str) -> None:
    host = target.split(":")[0]
    route: dict[str, Value] = {"name": "listed", "list": "names.txt", "backend": "direct"}
    with watched() as seen:
        names = seen.daemon.path.with_name("names.txt")
        names.write_text("one.example\n", "ascii")
        assert seen.reload(routes=[route]) == ["routes"]
        assert asked(seen.daemon.proxy, target) == (403, "no_route")
        assert seen.reload() == []
        names.write_text(f"one.example\n{host}\n", "ascii")
        assert seen.reload() == ["routes"]
        assert asked(seen.daemon.proxy, target) == (200, "")
        names.write_text("one.example\nno name!\n", "ascii")
        (error,) = seen.rejected()
        assert (error["section"], error["field"]) == ("routes[0]", "list")
        assert "line 2" in error["message"]
        assert asked(seen.daemon.proxy, target) == (200, "")


def test_sigterm_with_five_hundred_tunnels(target: str) -> None:
    """They get their period, then each ends with its reason, and watchers are told so."""
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    limits = {"max_connections": 600, "max_connections_per_client": 600}
    with (
        Daemon(limits=limits, graceful_period="1s") as daemon,
        connect(f"ws://{daemon.control}/api/v1/ws?types=connection.close", max_size=None) as events,
    ):
        clients = [socket.create_connection(daemon.proxy, DEADLINE) for _ in range(500)]
        try:
            for client in clients:
                head = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"
                client.sendall(head.encode())
            for client in clients:
                assert read_head(client).startswith(b"HTTP/1.1 200 ")
            daemon.process.send_signal(signal.SIGTERM)
            daemon.output.expect("^stopping, 500 connections$")
            assert speaks(clients[0])  # the period is theirs
            reasons = []
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    reasons.append(json.loads(events.recv(timeout=DEADLINE))["data"]["reason"])
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1001
            assert reasons == ["shutdown"] * 500
            assert all(ended(client) for client in clients)
        finally:
            for client in clients:
                client.close()
