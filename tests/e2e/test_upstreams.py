"""The daemon with real proxies as its upstreams. Who asks decides which of them carries it:
each backend has a client address of its own."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack

import pytest

from tests.e2e.curl import Got, curl, through
from tests.e2e.daemon import Daemon
from tests.e2e.origin import Origin, TcpPeer, body, read_all, sha256
from tests.e2e.program import DEADLINE
from tests.e2e.test_tunnels import exactly
from tests.e2e.upstreams import FORBIDDEN, KINDS, PASSWORD, USER, free_port

BIG = 1_500_001  # bytes: more than the buffers on the way take together
SOCKS_REFUSED, TUNNEL_REFUSED = 97, 56  # exit codes of curl
WAYS = pytest.mark.parametrize("way", ["http", "tunnel", "socks5-hostname"])

HTTP = ["tinyproxy", "squid", "haproxy"]
SOCKS = ["microsocks", "danted"]
# Dante knows the users of the machine only.
CARRYING = [*KINDS, *(f"{kind}-login" for kind in KINDS if kind != "danted")]
ALL = pytest.mark.parametrize("backend", CARRYING)


def backends(addresses: Mapping[str, object]) -> Iterator[dict[str, str]]:
    """What is configured: each upstream with and without credentials, and with wrong ones."""
    for kind, (_, type) in KINDS.items():
        login = {"username": USER, "password": PASSWORD}
        for name, upstream, keys in (
            (kind, kind, {}),
            (f"{kind}-unasked", kind, login),
            (f"{kind}-login", f"{kind}-login", login),
            (f"{kind}-wrong", f"{kind}-login", {**login, "password": "wrong"}),
            (f"{kind}-anonymous", f"{kind}-login", {}),
        ):
            yield {"name": name, "type": type, "address": str(addresses[upstream]), **keys}
    for type in ("http_proxy", "socks5_proxy"):
        for name in ("dead", "silent"):
            keys = {"address": str(addresses[name]), "connect_timeout": "300ms"}
            yield {"name": f"{name}-{type}", "type": type, **keys}


class Bifrost(Daemon):
    """The daemon.

    Attributes:
        clients: the address of the client whose requests go through a backend, by its name
    """

    clients: dict[str, str]

    def curl(self, backend: str, way: str, *options: str, send: bytes = b"") -> Got:
        """Run curl as the client of a backend."""
        source = ("--interface", self.clients[backend])
        return curl(*source, *through(way, self.proxy), *options, send=send, check=False)

    def tunnel(self, backend: str, host: str, port: int) -> socket.socket:
        """A CONNECT tunnel through a backend, of whose first bytes none is read."""
        connection = socket.create_connection(self.proxy, DEADLINE, (self.clients[backend], 0))
        target = f"{host}:{port}"
        connection.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += exactly(connection, 1)
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        return connection


@pytest.fixture(scope="module")
def daemon() -> Iterator[Bifrost]:
    with ExitStack() as stack:
        addresses: dict[str, object] = {"dead": f"127.0.0.1:{free_port()}"}
        for kind, (start, _) in KINDS.items():
            addresses[kind] = stack.enter_context(start())
            addresses[f"{kind}-login"] = stack.enter_context(start(login=True))
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        addresses["silent"] = f"127.0.0.1:{silent.getsockname()[1]}"
        sections = list(backends(addresses))
        clients = {keys["name"]: f"127.0.3.{n}" for n, keys in enumerate(sections, 1)}
        routes = [{"clients": [client], "backend": name} for name, client in clients.items()]
        with Bifrost(backends=sections, routes=routes) as bifrost:
            bifrost.clients = clients
            before = bifrost.sockets()
            yield bifrost
            bifrost.wait_until(lambda: bifrost.sockets() <= before, "all connections are closed")


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


def reason(got: Got) -> tuple[int, str]:
    """Status and word of the daemon's own refusal, of a tunnel or of a request."""
    status = re.search(r"< HTTP/1\.1 (\d{3}) ", got.trace)
    word = re.search(r"< x-bifrost-reason: (\S+)", got.trace, re.IGNORECASE)
    assert status and word, got.trace
    return int(status[1]), word[1]


# What they carry.


@WAYS
@ALL
def test_download_and_upload(daemon: Bifrost, origin: Origin, backend: str, way: str) -> None:
    got = daemon.curl(backend, way, origin.url(f"/bytes/{BIG}"))
    assert (got.status, sha256(got.body)) == (200, sha256(body(BIG))), got.trace
    sent = body(BIG)
    upload = ("-H", "Expect:", "--data-binary", "@-")  # tinyproxy does not pass 100 on
    got = daemon.curl(backend, way, *upload, origin.url("/echo"), send=sent)
    assert json.loads(got.body) == {"sha256": sha256(sent), "length": BIG}, got.trace


@WAYS
@ALL
def test_names_are_resolved_behind(daemon: Bifrost, origin: Origin, backend: str, way: str) -> None:
    got = daemon.curl(backend, way, origin.url("/bytes/77", "localhost"))
    assert (got.status, got.body) == (200, body(77)), got.trace


@pytest.mark.parametrize("kind", KINDS)
def test_credentials_that_nobody_asks_for(daemon: Bifrost, origin: Origin, kind: str) -> None:
    got = daemon.curl(f"{kind}-unasked", "tunnel", origin.url())
    assert (got.status, got.body) == (200, body(10)), got.trace


@pytest.mark.parametrize("backend", [*HTTP, "tinyproxy-login", "squid-login", "haproxy-login"])
def test_two_requests(daemon: Bifrost, origin: Origin, backend: str) -> None:
    """One in absolute-form after another, chunked ones too."""
    urls = [origin.url(f"/{kind}/{size}") for kind in ("bytes", "chunked") for size in (3, 70_000)]
    got = daemon.curl(backend, "http", *urls)
    assert got.body == (body(3) + body(70_000)) * 2, got.trace


@ALL
def test_a_target_that_speaks_first(daemon: Bifrost, backend: str) -> None:
    """Its first bytes may come with the upstream's answer, and are the client's."""
    greeting = b"220 ready\r\n\r\n" + body(4000)

    def serve(connection: socket.socket) -> None:
        connection.sendall(greeting)
        assert exactly(connection, 4) == b"QUIT"

    with TcpPeer(serve) as peer:
        for _ in range(10):
            with daemon.tunnel(backend, peer.host, peer.port) as tunnel:
                assert exactly(tunnel, len(greeting)) == greeting
                tunnel.sendall(b"QUIT")
                assert read_all(tunnel) == b""


@ALL
def test_both_directions_at_once(daemon: Bifrost, backend: str) -> None:
    down = body(BIG + 1)

    def serve(connection: socket.socket) -> None:
        sender = threading.Thread(target=connection.sendall, args=(down,))
        sender.start()
        assert exactly(connection, BIG) == body(BIG)
        sender.join()
        assert exactly(connection, 4) == b"done"

    with TcpPeer(serve) as peer, daemon.tunnel(backend, peer.host, peer.port) as tunnel:
        sender = threading.Thread(target=tunnel.sendall, args=(body(BIG),))
        sender.start()
        assert exactly(tunnel, len(down)) == down
        sender.join()
        tunnel.sendall(b"done")
        assert read_all(tunnel) == b""


@pytest.mark.parametrize("client_first", [True, False])
def test_half_close(daemon: Bifrost, client_first: bool) -> None:
    """Of all these Dante alone passes it on."""

    def send(connection: socket.socket) -> None:
        connection.sendall(body(BIG))
        connection.shutdown(socket.SHUT_WR)

    def serve(connection: socket.socket) -> None:
        if client_first:
            assert read_all(connection) == body(BIG)
        send(connection)
        if not client_first:
            assert read_all(connection) == body(BIG)

    with TcpPeer(serve) as peer, daemon.tunnel("danted", peer.host, peer.port) as tunnel:
        if client_first:
            send(tunnel)
        assert read_all(tunnel) == body(BIG)
        if not client_first:
            send(tunnel)


# What they refuse.


@pytest.mark.parametrize("what", ["wrong", "anonymous"])
@pytest.mark.parametrize("kind", KINDS)
def test_credentials_refused(daemon: Bifrost, origin: Origin, kind: str, what: str) -> None:
    got = daemon.curl(f"{kind}-{what}", "tunnel", origin.url())
    assert (got.code, *reason(got)) == (TUNNEL_REFUSED, 502, "upstream_auth_failed")
    got = daemon.curl(f"{kind}-{what}", "socks5-hostname", origin.url())
    assert (got.code, got.body) == (SOCKS_REFUSED, b"")


@pytest.mark.parametrize(
    "backend",
    [f"{kind}-anonymous" for kind in KINDS]
    # tinyproxy says 401 to wrong credentials, which could as well be the target's.
    + [f"{kind}-wrong" for kind in KINDS if kind != "tinyproxy"],
)
def test_credentials_refused_to_a_request(daemon: Bifrost, origin: Origin, backend: str) -> None:
    """The client is not asked for the upstream's password."""
    got = daemon.curl(backend, "http", origin.url())
    assert (got.code, *reason(got)) == (0, 502, "upstream_auth_failed")
    assert "Proxy-Authenticate" not in got.trace


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "microsocks"])
def test_rules_of_the_upstream(daemon: Bifrost, kind: str) -> None:
    got = daemon.curl(kind, "tunnel", f"http://{FORBIDDEN}:8080/")
    assert (got.code, *reason(got)) == (TUNNEL_REFUSED, 502, "upstream_denied")


@WAYS
@pytest.mark.parametrize("kind", SOCKS)
def test_a_target_that_refuses(daemon: Bifrost, kind: str, way: str) -> None:
    got = daemon.curl(kind, way, f"http://127.0.0.1:{free_port()}/")
    if way == "socks5-hostname":
        assert (got.code, "(5)" in got.trace) == (SOCKS_REFUSED, True), got.trace
    else:
        assert reason(got) == (502, "connect_refused")


@pytest.mark.parametrize("kind", HTTP)
def test_a_target_that_fails(daemon: Bifrost, kind: str) -> None:
    got = daemon.curl(kind, "tunnel", f"http://127.0.0.1:{free_port()}/")
    assert reason(got) == (502, "connect_failed")


# What does not answer at all.


@pytest.mark.parametrize("type", ["http_proxy", "socks5_proxy"])
@pytest.mark.parametrize("way", ["http", "tunnel"])
def test_a_dead_upstream(daemon: Bifrost, origin: Origin, type: str, way: str) -> None:
    got = daemon.curl(f"dead-{type}", way, origin.url())
    assert reason(got) == (502, "upstream_unreachable")


@pytest.mark.parametrize("type", ["http_proxy", "socks5_proxy"])
def test_a_silent_upstream(daemon: Bifrost, origin: Origin, type: str) -> None:
    got = daemon.curl(f"silent-{type}", "tunnel", origin.url())
    assert reason(got) == (504, "upstream_timeout")
