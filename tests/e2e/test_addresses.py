"""IPv6, names, and names of which one address family is dead."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from websockets.sync.client import connect

from tests.e2e.curl import curl, through
from tests.e2e.daemon import Daemon
from tests.e2e.nameserver import NameServer
from tests.e2e.origin import Origin, body
from tests.e2e.program import DEADLINE

SIZE = 100_000
# The ways by which the proxy gets the name itself.
NAMED_WAYS = pytest.mark.parametrize("way", ["http", "tunnel", "socks5-hostname", "socks4a"])
REFUSED_BY_PROXY = 97  # curl's exit code where a SOCKS proxy says no


@pytest.fixture(scope="module")
def names() -> Iterator[NameServer]:
    zone = {
        "both.example": ("127.0.0.1", "::1"),
        "four.example": ("127.0.0.1",),
        "six.example": ("::1",),
    }
    with NameServer(zone) as names:
        yield names


@pytest.fixture(scope="module")
def daemon(names: NameServer) -> Iterator[Daemon]:
    with Daemon(
        listen=[
            {"name": "four", "address": "127.0.0.1", "port": 0},
            {"name": "six", "address": "::1", "port": 0},
        ],
        resolver={"servers": [names.address]},
    ) as daemon:
        before = daemon.sockets()
        yield daemon
        daemon.wait_until(lambda: daemon.sockets() <= before, "all connections are closed")


@pytest.mark.parametrize("way", ["http", "tunnel", "socks5", "socks5-hostname"])
@pytest.mark.parametrize("listener", ["four", "six"])
def test_an_ipv6_target(daemon: Daemon, way: str, listener: str) -> None:
    with Origin("::1") as origin:
        got = curl(*through(way, daemon.proxies[listener]), "-g", origin.url(f"/bytes/{SIZE}"))
        assert got.body == body(SIZE)


@pytest.mark.parametrize("way", ["http", "tunnel", "socks5"])
def test_an_event_has_ipv6_in_brackets(daemon: Daemon, way: str) -> None:
    with (
        Origin("::1") as origin,
        connect(f"ws://{daemon.control}/api/v1/ws?types=connection.new&client=::1") as events,
    ):
        curl(*through(way, daemon.proxies["four"]), "-g", origin.url())
        curl(*through(way, daemon.proxies["six"]), "-g", origin.url())
        hosts = set()
        while f"[::1]:{origin.port}" not in hosts:
            data = json.loads(events.recv(timeout=DEADLINE))["data"]
            assert data.get("client_ip", "::1") == "::1"
            hosts.add(data.get("host"))


@pytest.mark.parametrize("way", ["http", "tunnel", "socks5", "socks4"])
def test_an_ipv6_client_of_an_ipv4_target(daemon: Daemon, way: str) -> None:
    with Origin("127.0.0.1") as origin:
        got = curl(*through(way, daemon.proxies["six"]), origin.url(f"/bytes/{SIZE}"))
        assert got.body == body(SIZE)


@NAMED_WAYS
@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("four.example", "127.0.0.1"),
        ("six.example", "::1"),
        ("both.example", "127.0.0.1"),
        ("both.example", "::1"),
        ("BOTH.Example", "127.0.0.1"),
    ],
)
def test_a_name(daemon: Daemon, way: str, name: str, address: str) -> None:
    """For both.example nobody listens on the other address: it refuses."""
    with Origin(address) as origin:
        url = origin.url(f"/bytes/{SIZE}", host=name)
        got = curl(*through(way, daemon.proxy), url)
        assert got.body == body(SIZE)


@contextmanager
def black_hole(host: str, port: int) -> Iterator[None]:
    """An address that answers no SYN: a listener whose queue is full."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    waiting = []
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(0)
        try:
            while True:
                waiting.append(socket.socket(family))
                waiting[-1].settimeout(0.5)
                try:
                    waiting[-1].connect((host, port))
                except TimeoutError:
                    break
            yield
        finally:
            for connection in waiting:
                connection.close()


@NAMED_WAYS
@pytest.mark.parametrize(("alive", "dead"), [("127.0.0.1", "::1"), ("::1", "127.0.0.1")])
def test_a_name_of_which_one_family_never_answers(
    daemon: Daemon, way: str, alive: str, dead: str
) -> None:
    """The other family is tried after 250 ms (RFC 8305 section 5), not after the time-out."""
    with Origin(alive) as origin, black_hole(dead, origin.port):
        url = origin.url(f"/bytes/{SIZE}", host="both.example")
        got = curl(*through(way, daemon.proxy), "--max-time", "8", url)
        assert got.body == body(SIZE)


def test_the_name_server_is_asked_for_both_families(daemon: Daemon, names: NameServer) -> None:
    curl(*through("http", daemon.proxy), "http://new.example:1/")
    assert sorted(kind for name, kind in names.asked if name == "new.example") == [1, 28]


@pytest.mark.parametrize("way", ["socks5-hostname", "socks4a"])
def test_a_name_that_does_not_exist_by_socks(daemon: Daemon, way: str) -> None:
    got = curl(*through(way, daemon.proxy), "http://gone.example/", check=False)
    assert got.code == REFUSED_BY_PROXY
    if way == "socks5-hostname":
        assert "(4)" in got.trace  # RFC 1928 section 6: host unreachable


def test_a_name_that_does_not_exist_by_http(daemon: Daemon) -> None:
    got = curl(*through("http", daemon.proxy), "http://gone.example/")
    assert got.status == 502
