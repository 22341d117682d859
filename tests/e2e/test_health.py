"""Health in the real daemon: checks through real proxies, passive marking, lossy links."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from websockets.sync.client import connect

from tests.e2e.curl import curl, through
from tests.e2e.daemon import Daemon, configuration
from tests.e2e.origin import Origin, TcpPeer
from tests.e2e.program import DEADLINE, Program
from tests.e2e.upstreams import PASSWORD, USER, free_port, microsocks, tinyproxy


class Target(TcpPeer):
    """A target of HTTP checks.

    Attributes:
        answer: what it says to everybody
        heads: of the requests that arrived
    """

    def __init__(self) -> None:
        super().__init__(self._serve)
        self.answer = b"HTTP/1.1 204 No Content\r\n\r\n"
        self.heads: list[bytes] = []

    def _serve(self, connection: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            data = connection.recv(4096)
            if not data:  # a check that was given up
                return
            head += data
        self.heads.append(head)
        connection.sendall(self.answer)


class Watcher:
    """A client of the event stream that follows the backends.

    Attributes:
        states: all that was told of each backend, the present picture first
    """

    def __init__(self, daemon: Daemon) -> None:
        url = daemon.url("/api/v1/ws?types=backend.health,config.reload")
        self._stack = ExitStack()
        self._socket = self._stack.enter_context(connect(url.replace("http:", "ws:"), proxy=None))
        self.states: dict[str, list[dict[str, Any]]] = {}
        self.reloads = 0

    def until(self, holds: str, *names: str) -> None:
        """Wait until the newest state of each of these backends is `holds`."""
        while not all(self.states.get(name, [{}])[-1].get("state") == holds for name in names):
            self._take()

    def reloaded(self) -> None:
        """Wait for one more reload."""
        count = self.reloads
        while self.reloads == count:
            self._take()

    def words(self, name: str) -> list[str]:
        return [state["state"] for state in self.states[name]]

    def _take(self) -> None:
        event = json.loads(self._socket.recv(DEADLINE))
        if event["type"] == "config.reload":
            self.reloads += 1
        else:
            self.states.setdefault(event["data"]["name"], []).append(event["data"])

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()


def ask(daemon: Daemon, path: str) -> Any:
    """A call of the API."""
    return json.loads(curl(daemon.url(f"/api/v1/{path}")).body)


def http_health(target: Target, **keys: object) -> dict[str, object]:
    return {
        "type": "http",
        "target": f"http://127.0.0.1:{target.port}/generate_204",
        "interval": "500ms",
        "timeout": "500ms",
        "hold_down": "300ms",
        **keys,
    }


@contextmanager
def watched(*backends: Mapping[str, Any]) -> Iterator[tuple[Daemon, Watcher]]:
    with Daemon(backends=list(backends)) as daemon, Watcher(daemon) as watcher:
        watcher.until("up", *(backend["name"] for backend in backends))
        yield daemon, watcher


def test_ways_that_die_and_return() -> None:
    with ExitStack() as stack:
        target = stack.enter_context(Target())
        login = {"username": USER, "password": PASSWORD}
        proxy = str(stack.enter_context(tinyproxy(login=True)))
        socks = str(stack.enter_context(microsocks(login=True)))
        health = http_health(target)
        daemon, watcher = stack.enter_context(
            watched(
                {"name": "direct", "type": "direct", "health": health},
                {"name": "proxy", "type": "http_proxy", "address": proxy, "health": health, **login},
                {"name": "socks", "type": "socks5_proxy", "address": socks, "health": health, **login},
                {"name": "unwatched", "type": "socks5_proxy", "address": socks},
            )
        )
        names = ("direct", "proxy", "socks")
        daemon.wait_until(lambda: len(target.heads) >= 9, "three rounds of checks")
        target.answer = b"HTTP/1.1 500 Broken\r\n\r\n"
        watcher.until("down", *names)
        down = {backend["name"]: backend for backend in ask(daemon, "backends")}
        target.answer = b"HTTP/1.1 204 No Content\r\n\r\n"
        watcher.until("up", *names)
        for name in names:
            told = watcher.states[name][-3:]
            assert [(state["state"], state["healthy"]) for state in told] == [
                ("suspect", True),
                ("down", False),
                ("up", True),
            ]
            assert told[1]["reason"] == "3 checks in a row failed. The answer has status 500."
            assert told[2]["reason"].endswith("checks in a row succeeded.")
            assert down[name]["reason"] == told[1]["reason"]
            assert told[0]["since"] <= told[1]["since"] <= told[2]["since"]
        assert watcher.words("unwatched") == ["up"]
        # What went through the proxy is the same as what came without.
        assert all(head.startswith(b"GET /generate_204 HTTP/1.") for head in target.heads)
        for name in names:  # checks are nobody's connections
            stats = ask(daemon, f"backends/{name}/stats")
            assert (stats["total_connections"], stats["errors"]) == (0, 0)


def test_wrong_credentials_are_found_by_a_check() -> None:
    with Target() as target, tinyproxy(login=True) as proxy:
        backend: dict[str, Any] = {
            "name": "proxy",
            "type": "http_proxy",
            "address": str(proxy),
            "username": USER,
            "password": "wrong",
            "health": http_health(target, fall=1),
        }
        with Daemon(backends=[backend]) as daemon, Watcher(daemon) as watcher:
            watcher.until("down", "proxy")
            reason = watcher.states["proxy"][-1]["reason"]
            assert reason == "A check failed. The answer has status 401."  # tinyproxy's word for 407


def test_passive_marking() -> None:
    """Clients' connections bring it down, and bring it up again after its hold-down."""
    port = free_port()
    backend: dict[str, Any] = {
        "name": "office",
        "type": "socks5_proxy",
        "address": f"127.0.0.1:{port}",
        "health": {"type": "passive", "fall": 2, "rise": 2, "hold_down": "300ms"},
    }
    route = {"name": "all", "domains": ["*"], "backend": "office"}
    with (
        Origin() as origin,
        Daemon(backends=[backend], routes=[route]) as daemon,
        Watcher(daemon) as watcher,
    ):

        def fetch(host: str) -> bool:
            options = through("http", daemon.proxy)
            return curl(*options, origin.url("/status/204", host), check=False).status == 204

        assert not fetch("127.0.0.1")
        assert not fetch("127.0.0.1")
        watcher.until("suspect", "office")
        assert not fetch("localhost")
        watcher.until("down", "office")
        watcher.until("suspect", "office")
        assert not fetch("localhost")
        watcher.until("down", "office")
        watcher.until("suspect", "office")
        with Program(["microsocks", "-i", "127.0.0.1", "-p", str(port)]):
            daemon.wait_until(lambda: reachable(port), "microsocks listens")
            assert fetch("127.0.0.1")
            assert fetch("127.0.0.1")
            watcher.until("up", "office")
        assert watcher.words("office") == ["up", "suspect", "down", "suspect", "down", "suspect", "up"]


def reachable(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), DEADLINE).close()
    except ConnectionRefusedError:
        return False
    return True


def test_a_reload_knows_what_was_known() -> None:
    with Target() as target:
        backend: dict[str, Any] = {"name": "direct", "type": "direct", "health": http_health(target, hold_down="1h")}
        with watched(backend) as (daemon, watcher):

            def reload(**sections: Any) -> None:
                settings = {**daemon.settings, **sections}
                daemon.path.write_text(configuration(settings), "utf-8")
                daemon.process.send_signal(signal.SIGHUP)
                watcher.reloaded()

            target.answer = b"HTTP/1.1 500 Broken\r\n\r\n"
            watcher.until("down", "direct")
            before = ask(daemon, "backends/direct")
            reload(graceful_period="2s")
            after = ask(daemon, "backends/direct")
            assert [after[key] for key in ("state", "since", "reason")] == [
                before[key] for key in ("state", "since", "reason")
            ]
            target.answer = b"HTTP/1.1 204 No Content\r\n\r\n"
            health = http_health(target, hold_down="2h")
            reload(backends=[{**backend, "health": health}])
            watcher.until("up", "direct")  # other rules, a new beginning
            reload(backends=[{"name": "direct", "type": "direct"}])
            daemon.wait_until(
                lambda: ask(daemon, "backends/direct")["reason"] == "not checked", "no checks"
            )
            assert watcher.words("direct")[-3:] == ["suspect", "down", "up"]


def test_thirty_percent_of_lost_packets() -> None:
    """A link that loses them all is down, one that loses some is not, at the same time."""
    command = ["unshare", "-n", sys.executable, "-m", "tests.e2e.loss"]
    result = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr.decode()
    *events, (_, passed, reached, lossy, dead) = map(json.loads, result.stdout.splitlines())
    assert ["dead", "down"] in [event[:2] for event in events]
    assert ["lossy", "down"] not in [event[:2] for event in events]
    assert (passed > 0, reached, lossy > 0, dead > 0) == (True, 0, True, True)


def test_no_check_no_timer() -> None:
    """An idle daemon asks the kernel to wake it for nothing."""
    backends = [
        {"name": kind, "type": "interface", "device": "lo", "health": {"type": kind}}
        for kind in ("none", "passive")
    ]
    with Daemon(backends=backends) as daemon:
        command = ["timeout", "--signal=INT", "1", "strace", "-p", str(daemon.pid)]
        traced = subprocess.run(command, capture_output=True, timeout=DEADLINE, check=False)
        lines = traced.stderr.decode().splitlines()
        assert [line for line in lines if "attached" in line]
        # The end of the trace may interrupt a sleep; nothing else ends one.
        assert not [line for line in lines if re.search(r"epoll_p?wait.*, [1-9]\d*\)? ", line)]
