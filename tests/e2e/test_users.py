"""Logging in to the real daemon with curl, Chromium and bare sockets."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache

import pytest
from playwright.sync_api import expect
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as connect_events

from bifrost_lite.passwd import COSTLY, MOST, Hash, make
from tests.daemon_kit import echoing, read_head, speaks
from tests.e2e.chromium import chromium
from tests.e2e.curl import WAYS, curl, through
from tests.e2e.daemon import Address, Daemon, configuration
from tests.e2e.origin import Origin, TcpPeer
from tests.e2e.program import DEADLINE, environment

SLOW = 400_000  # iterations: a few tenths of a second here
PROXY_REFUSED = 97  # exit code of curl

# The ways on which curl can log in.
WITH_LOGIN = [way for way in WAYS if not way.startswith("socks4")]


@cache
def hash_of(password: str, iterations: int = 1000) -> str:
    return str(make(password.encode(), bytes(16), iterations))


def user(name: str, password: str, iterations: int = 1000) -> dict[str, str]:
    return {"name": name, "password_hash": hash_of(password, iterations)}


ANNA = user("anna", "geheim")


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """One for each test: an address that guessed too often has to wait a minute."""
    with Daemon(users=[ANNA]) as daemon:
        yield daemon


def basic(name: str, password: str) -> str:
    return b64encode(f"{name}:{password}".encode()).decode()


def request(url: str, name: str = "", password: str = "") -> bytes:
    """A request through the proxy, with credentials where there is a name."""
    host = url.split("/")[2]
    field = f"Proxy-Authorization: Basic {basic(name, password)}\r\n" if name else ""
    return f"GET {url} HTTP/1.1\r\nHost: {host}\r\n{field}\r\n".encode()


def connect(proxy: Address) -> socket.socket:
    return socket.create_connection(proxy, DEADLINE)


def asked(proxy: Address, url: str, name: str = "", password: str = "") -> tuple[int, str]:
    """Status and head of what comes of one request on a connection of its own."""
    with connect(proxy) as client:
        client.sendall(request(url, name, password))
        return answered(client)


def answered(client: socket.socket) -> tuple[int, str]:
    head = read_head(client).decode()
    return int(head.split(" ")[1]), head


def exactly(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (piece := client.recv(size - len(data))):
        data += piece
    return data


def login5(name: str, password: str) -> bytes:
    """RFC 1929."""
    user, secret = name.encode(), password.encode()
    return b"\x01%c%b%c%b" % (len(user), user, len(secret), secret)


def connect5(target: str) -> bytes:
    host, _, port = target.rpartition(":")
    return b"\x05\x01\x00\x01" + socket.inet_aton(host) + int(port).to_bytes(2, "big")


# curl.


@pytest.mark.parametrize("way", WITH_LOGIN)
def test_curl_logs_in(origin: Origin, way: str) -> None:
    with Daemon(users=[ANNA, user("zoe", "g:heim €")]) as daemon:
        origin.seen.clear()
        for name in ("anna:geheim", "zoe:g:heim €"):
            got = curl(*through(way, daemon.proxy), "-U", name, origin.url("/bytes/1000"))
            assert (got.status, len(got.body)) == (200, 1000)
        assert len(origin.seen) == 2
        for seen in origin.seen:
            assert not [field for field, _ in seen.fields if "auth" in field.lower()]


@pytest.mark.parametrize("options", [(), ("-U", "anna:Geheim"), ("-U", "nobody:geheim")])
@pytest.mark.parametrize("way", WITH_LOGIN)
def test_curl_is_refused(
    daemon: Daemon, origin: Origin, way: str, options: tuple[str, ...]
) -> None:
    origin.seen.clear()
    got = curl(*through(way, daemon.proxy), *options, origin.url(), check=False)
    if way == "http":
        assert (got.code, got.status) == (0, 407)
        assert 'Proxy-Authenticate: Basic realm="bifrost-lite", charset="UTF-8"' in got.trace
        assert got.body.startswith(b"407 auth_failed" if options else b"407 auth_required")
    elif way == "tunnel":
        assert got.code != 0
        assert "407" in got.trace
    else:
        assert got.code == PROXY_REFUSED
    assert not origin.seen


@pytest.mark.parametrize("way", ["http", "tunnel"])
def test_curl_takes_up_the_challenge(daemon: Daemon, origin: Origin, way: str) -> None:
    """It asks without credentials first and sees what is wanted."""
    options = ("--proxy-anyauth", "-U", "anna:geheim")
    got = curl(*through(way, daemon.proxy), *options, origin.url("/bytes/1000"))
    assert (got.status, len(got.body)) == (200, 1000)


def test_a_body_is_sent_once_the_client_is_in(daemon: Daemon, origin: Origin) -> None:
    options = ("--proxy-anyauth", "-U", "anna:geheim", "--data-binary", "@-")
    got = curl(*through("http", daemon.proxy), *options, origin.url("/mirror"), send=b"x" * 100_000)
    assert (got.status, got.body) == (200, b"x" * 100_000)


@pytest.mark.parametrize("way", ["socks4", "socks4a"])
def test_socks4_cannot_log_in(daemon: Daemon, origin: Origin, way: str) -> None:
    got = curl(*through(way, daemon.proxy), "-U", "anna:geheim", origin.url(), check=False)
    assert got.code == PROXY_REFUSED


@pytest.mark.parametrize("way", WAYS)
def test_a_listener_may_ask_nobody(origin: Origin, way: str) -> None:
    listen = [
        {"name": "asks", "port": 0},
        {"name": "asks_not", "port": 0, "auth": False},
    ]
    with Daemon(users=[ANNA], listen=listen) as daemon:
        got = curl(*through(way, daemon.proxies["asks_not"]), origin.url("/bytes/10"))
        assert got.status == 200
        got = curl(*through(way, daemon.proxies["asks"]), origin.url(), check=False)
        assert (got.code, got.status) != (0, 200)


def test_passwords_are_in_no_log(daemon: Daemon, origin: Origin) -> None:
    for password in ("geheim", "verraten"):
        asked(daemon.proxy, origin.url(), "anna", password)
    logs = curl(daemon.url("/api/v1/logs?limit=200&level=debug")).body.decode()
    told = logs + daemon.output.text + curl(daemon.url("/api/v1/connections")).body.decode()
    assert "auth_failed" in logs
    for secret in ("geheim", "verraten", basic("anna", "geheim"), basic("anna", "verraten")):
        assert secret not in told


# Connections that are kept.


def test_each_request_of_a_kept_connection_proves_itself(daemon: Daemon, origin: Origin) -> None:
    url = origin.url("/bytes/0")
    with connect(daemon.proxy) as client:
        for _ in range(3):
            client.sendall(request(url, "anna", "geheim"))
            assert answered(client)[0] == 200
        client.sendall(request(url))
        status, head = answered(client)
        assert (status, "auth_required" in head) == (407, True)
    with connect(daemon.proxy) as client:
        client.sendall(request(url, "anna", "geheim"))
        assert answered(client)[0] == 200
        client.sendall(request(url, "anna", "Geheim"))
        status, head = answered(client)
        assert (status, "auth_failed" in head) == (407, True)


def test_an_empty_field_proves_nothing(daemon: Daemon, origin: Origin) -> None:
    head = request(origin.url())[:-2] + b"Proxy-Authorization: \r\n\r\n"
    with connect(daemon.proxy) as client:
        client.sendall(head)
        assert answered(client)[0] == 407


def test_pipelined_requests_wait_for_the_login(origin: Origin) -> None:
    with Daemon(users=[user("anna", "geheim", SLOW)]) as daemon, connect(daemon.proxy) as client:
        client.sendall(request(origin.url("/bytes/0"), "anna", "geheim") * 3)
        assert [answered(client)[0] for _ in range(3)] == [200] * 3


def test_a_kept_connection_follows_a_reload(daemon: Daemon, origin: Origin) -> None:
    url = origin.url("/bytes/0")
    with connect(daemon.proxy) as client:
        client.sendall(request(url, "anna", "geheim"))
        assert answered(client)[0] == 200
        new = {**daemon.settings, "users": [user("anna", "another")]}
        daemon.path.write_text(configuration(new), encoding="utf-8")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.output.expect("^configuration reloaded: users$")
        client.sendall(request(url, "anna", "geheim"))
        assert answered(client)[0] == 407
    assert asked(daemon.proxy, url, "anna", "another")[0] == 200


class Events:
    """The connection events of a daemon, as (type, protocol, host)."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    def expect(self, *events: tuple[str, str, str]) -> None:
        """These come next."""
        for event in events:
            told = json.loads(self._socket.recv(timeout=DEADLINE))
            data = told["data"]
            found = (told["type"].removeprefix("connection."), data["protocol"], data["host"])
            assert found == event


@contextmanager
def watching(daemon: Daemon) -> Iterator[Events]:
    types = "connection.new,connection.close,connection.failed"
    with connect_events(f"ws://{daemon.control}/api/v1/ws?types={types}") as socket:
        yield Events(socket)


def test_a_login_refused_on_a_kept_connection(daemon: Daemon, origin: Origin) -> None:
    """What failed is the new request, and not one to the last target."""
    with watching(daemon) as events, connect(daemon.proxy) as client:
        client.sendall(request(origin.url("/bytes/0"), "anna", "geheim"))
        assert answered(client)[0] == 200
        client.sendall(request(origin.url("/bytes/0"), "anna", "wrong"))
        assert answered(client)[0] == 407
        host = origin.authority
        events.expect(("new", "HTTP", host), ("close", "HTTP", host), ("failed", "HTTP", ""))


def test_a_target_ends_while_a_login_for_a_tunnel_is_looked_at() -> None:
    """It is closed under the protocol it was opened by."""
    over = threading.Event()

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
        over.wait(DEADLINE)

    with (
        Daemon(users=[ANNA, user("late", "geheim", SLOW)]) as daemon,
        TcpPeer(serve) as peer,
        echoing() as target,
        watching(daemon) as events,
        connect(daemon.proxy) as client,
    ):
        host = f"{peer.host}:{peer.port}"
        client.sendall(request(f"http://{host}/", "anna", "geheim"))
        assert answered(client)[0] == 204
        events.expect(("new", "HTTP", host))
        field = f"Proxy-Authorization: Basic {basic('late', 'geheim')}"
        client.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: x\r\n{field}\r\n\r\n".encode())
        over.set()
        events.expect(("close", "HTTP", host))
        assert answered(client)[0] == 200
        events.expect(("new", "CONNECT", target))
        assert speaks(client)


# SOCKS5.


def test_socks5_all_at_once_and_byte_by_byte(daemon: Daemon) -> None:
    with echoing() as target:
        greeting = b"\x05\x02\x00\x02"
        expected = b"\x05\x02" + b"\x01\x00" + b"\x05\x00\x00\x01" + bytes(6) + b"payload"
        said = greeting + login5("anna", "geheim") + connect5(target) + b"payload"
        for size in (len(said), 1):
            with connect(daemon.proxy) as client:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for at in range(0, len(said), size):
                    client.sendall(said[at : at + size])
                assert exactly(client, len(expected)) == expected


def test_socks5_waits_for_a_slow_login() -> None:
    """What is sent meanwhile, an end included, is not lost."""
    with (
        Daemon(users=[user("anna", "geheim", SLOW)]) as daemon,
        echoing() as target,
        connect(daemon.proxy) as client,
    ):
        client.sendall(b"\x05\x01\x02" + login5("anna", "geheim"))
        assert exactly(client, 2) == b"\x05\x02"
        client.sendall(connect5(target) + b"payload")
        client.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: client.recv(100), b""))
        assert answer == b"\x01\x00" + b"\x05\x00\x00\x01" + bytes(6) + b"payload"


def test_socks5_refusals(daemon: Daemon) -> None:
    for said, answer in (
        (b"\x05\x01\x00", b"\x05\xff"),
        (b"\x05\x01\x02" + login5("anna", "wrong"), b"\x05\x02\x01\x01"),
        (b"\x05\x01\x02" + login5("nobody", "geheim"), b"\x05\x02\x01\x01"),
        (b"\x05\x01\x02\x05\x01\x00", b"\x05\x02\x01\x01"),
    ):
        with connect(daemon.proxy) as client:
            client.sendall(said)
            assert b"".join(iter(lambda: client.recv(100), b"")) == answer


# What it costs.


def test_a_hundred_connections_fit_through_a_queue_of_eight(origin: Origin) -> None:
    """They ask for one hash, not for a hundred."""
    with (
        Daemon(
            users=[user("anna", "geheim", SLOW)], limits={"max_connections_per_client": 200}
        ) as daemon,
        ExitStack() as stack,
    ):
        clients = [stack.enter_context(connect(daemon.proxy)) for _ in range(100)]
        for client in clients:
            client.sendall(request(origin.url("/bytes/0"), "anna", "geheim"))
        assert {answered(client)[0] for client in clients} == {200}


def test_chromium_logs_in_and_loads_a_page_of_fifty_pictures(daemon: Daemon) -> None:
    with (
        Origin() as origin,
        chromium(
            f"--proxy-server=http://{daemon.proxy}", "--proxy-bypass-list=<-loopback>"
        ) as browser,
    ):
        context = browser.new_context(
            proxy={
                "server": f"http://{daemon.proxy}",
                "username": "anna",
                "password": "geheim",
                "bypass": "<-loopback>",
            }
        )
        page = context.new_page()
        page.goto(origin.url("/page/50"))
        expect(page).to_have_title("50", timeout=DEADLINE * 1000)
        assert not [seen for seen in origin.seen if seen.values("Proxy-Authorization")]
        context.close()


def test_others_go_on_while_a_password_is_hashed() -> None:
    with (
        Daemon(users=[user("anna", "geheim", SLOW)]) as daemon,
        echoing() as target,
        connect(daemon.proxy) as tunnel,
        connect(daemon.proxy) as guesser,
    ):
        field = f"Proxy-Authorization: Basic {basic('anna', 'geheim')}"
        tunnel.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: x\r\n{field}\r\n\r\n".encode())
        assert answered(tunnel)[0] == 200
        guesser.sendall(request("http://192.0.2.1/", "anna", "wrong"))
        guesser.setblocking(False)
        echoes = 0
        while True:
            assert speaks(tunnel)
            echoes += 1
            try:
                assert guesser.recv(12) == b"HTTP/1.1 407"
                break
            except BlockingIOError:
                continue
        assert echoes > 20


def test_too_many_passwords_at_the_same_time(origin: Origin) -> None:
    with Daemon(users=[user("anna", "geheim", 2 * SLOW)]) as daemon, ExitStack() as stack:
        clients = [stack.enter_context(connect(daemon.proxy)) for _ in range(12)]
        for number, client in enumerate(clients):
            client.sendall(request(origin.url(), "anna", f"wrong {number}"))
        # One is being hashed and eight wait; to hear of those would take seconds.
        for client in clients[9:]:
            status, head = answered(client)
            assert (status, "auth_busy" in head, "Retry-After: 5" in head) == (503, True, True)


def test_ten_wrong_ones_a_minute(daemon: Daemon, origin: Origin) -> None:
    url = origin.url("/bytes/0")
    assert asked(daemon.proxy, url, "anna", "geheim")[0] == 200
    for number in range(10):
        assert asked(daemon.proxy, url, "anna", f"wrong {number}")[0] == 407
    status, head = asked(daemon.proxy, url, "anna", "wrong")
    assert (status, "auth_throttled" in head, "Retry-After: 60" in head) == (429, True, True)
    # What has been right is right still, and by another way as well.
    assert asked(daemon.proxy, url, "anna", "geheim")[0] == 200
    assert curl("--socks5", str(daemon.proxy), "-U", "anna:geheim", url).status == 200


def test_the_time_for_a_request_includes_its_login(origin: Origin) -> None:
    """Whoever was told that it took too long hears nothing of the login later."""
    origin.seen.clear()
    with (
        Daemon(
            users=[user("anna", "geheim", 2 * SLOW)], limits={"handshake_timeout": "100ms"}
        ) as daemon,
        connect(daemon.proxy) as client5,
        connect(daemon.proxy) as client,
    ):
        client5.sendall(b"\x05\x01\x02" + login5("anna", "geheim"))
        client.sendall(request(origin.url(), "anna", "geheim"))
        assert exactly(client5, 10) == b"\x05\x02\x01\x01"
        assert answered(client)[0] == 408
        # It was hashed all the same, and is remembered; by then both would have been served.
        daemon.wait_until(
            lambda: b"\x01\x00" in _said5(daemon.proxy, "anna", "geheim"), "the login is known"
        )
        assert not origin.seen
        assert curl(daemon.url("/api/v1/stats")).body.count(b'"total_connections":0') == 1


def _said5(proxy: Address, name: str, password: str) -> bytes:
    with connect(proxy) as client:
        client.sendall(b"\x05\x01\x02" + login5(name, password))
        assert exactly(client, 2) == b"\x05\x02"
        return exactly(client, 2)


# From the command to the configuration.


def run(*words: str, send: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bifrost_lite", *words],
        input=send,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=DEADLINE,
    )


def test_what_passwd_prints_logs_in(origin: Origin) -> None:
    done = run("passwd", send="g:heim €\n")
    assert done.returncode == 0, done.stderr
    with Daemon(users=[{"name": "anna", "password_hash": done.stdout.strip()}]) as daemon:
        got = curl(*through("http", daemon.proxy), "-U", "anna:g:heim €", origin.url("/bytes/10"))
        assert got.status == 200


def test_a_hash_that_is_too_costly_here_is_refused(daemon: Daemon) -> None:
    costly = {"name": "late", "password_hash": str(Hash(MOST, bytes(16), bytes(32)))}
    new = {**daemon.settings, "users": [ANNA, costly]}
    daemon.path.write_text(configuration(new), encoding="utf-8")
    done = run("check", str(daemon.path))
    assert done.returncode == 3
    found = re.search(r"users\[1\]\.password_hash: takes ([\d.]+) s", done.stdout)
    assert found, done.stdout
    assert float(found[1]) > COSTLY
    assert "users[0]" not in done.stdout
    daemon.process.send_signal(signal.SIGHUP)
    daemon.output.expect(r"users\[1\]\.password_hash: takes")
    assert run("run", "-c", str(daemon.path)).returncode == 3
