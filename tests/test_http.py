"""The control server against real clients and hostile bytes."""

from __future__ import annotations

import asyncio
import errno
import logging
import re
import selectors
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator

import pytest

from bifrost_lite import http
from bifrost_lite.api import status
from bifrost_lite.dispatch import PollDispatcher
from bifrost_lite.rest import Response
from tests.control_fixtures import Answer, Daemon, read_all, read_until, running

HEALTH = "/api/v1/health"
STATS = "/api/v1/stats"  # not public, so its body is read
TOKEN = "secret-token"


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with running() as daemon:
        yield daemon


def request(path: str = HEALTH, *headers: str, method: str = "GET") -> bytes:
    head = "\r\n".join((f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "\r\n"))
    return head.encode("latin-1")


def answer_from(sock: socket.socket) -> Answer:
    """One answer with its length announced."""
    data = read_until(sock, b"\r\n\r\n")
    head, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    missing = (int(length[1]) if length else 0) - len(body)
    while missing > 0:
        more = sock.recv(missing)
        assert more
        data += more
        missing -= len(more)
    return Answer(data)


# Answers.


def test_curl(daemon: Daemon) -> None:
    url = f"http://127.0.0.1:{daemon.port}/api/v1"
    done = subprocess.run(
        ["curl", "-sS", "--fail", f"{url}/health", f"{url}/version", f"{url}/stats",
         "-w", "%{num_connects} "],
        capture_output=True, timeout=20, check=True,
    )  # fmt: skip
    assert done.stdout.count(b'"time"') == 2
    assert re.findall(rb"([0-9]) ", done.stdout) == [b"1", b"0", b"0"]  # one connection for all
    done = subprocess.run(
        ["curl", "-sS", "-I", f"{url}/health"], capture_output=True, timeout=20, check=True
    )
    assert done.stdout.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("path", ["/", HEALTH, "/api/v1/nope", "/nope", "/api/v1/ws"])
def test_security_fields(daemon: Daemon, path: str) -> None:
    headers = daemon.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert "date" in headers


def test_not_found_and_not_allowed_are_json(daemon: Daemon) -> None:
    for path in ("/api/v1/nope", "/api", "/nope", "/favicon.ico", "/../etc/passwd", "/api/v1/%00"):
        answer = daemon.get(path)
        assert (answer.status, answer.json["error"]) == (404, "not_found")
    answer = daemon.get(HEALTH, method="DELETE")
    assert (answer.status, answer.json["error"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS"
    assert daemon.get("/api/v1/ws", method="POST").status == 405
    assert daemon.get("/api/v1/ws", method="HEAD").headers["allow"] == "GET, OPTIONS"
    assert daemon.get("/api/v1/logs/stream", method="HEAD").status == 405


def test_head(daemon: Daemon) -> None:
    answer = daemon.get(HEALTH, method="HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["content-length"]) == len(daemon.get(HEALTH).body)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("HEAD /nope HTTP/1.1", 404),
        ("HEAD /api/v1/ws HTTP/1.1", 405),
        ("HEAD /%zz HTTP/1.1", 400),
        ("HEAD http://localhost/ HTTP/1.1", 400),
        ("HEAD /api/v1/status HTTP/1.1|Origin: http://evil.example", 403),
        ("HEAD / HTTP/1.1|Host: localhost", 400),
        ("|HEAD / HTTP/1.1|X : y", 400),
        ("HEAD / HTTP/1.1|X: " + "x" * 17000, 431),
        ("HEAD / HTTP/2.0", 505),
    ],
)
def test_refused_head_has_no_body(daemon: Daemon, head: str, status: int) -> None:
    """RFC 9110 section 9.3.2, whatever is wrong with the request."""
    lines = [*head.split("|"), "Host: localhost", "Connection: close", "", ""]
    answer = Answer(daemon.raw("\r\n".join(lines).encode()))
    assert (answer.status, answer.body) == (status, b"")
    assert int(answer.headers["content-length"]) > 0


def test_options(daemon: Daemon) -> None:
    answer = daemon.get("/api/v1/connections", method="OPTIONS")
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["allow"] == "DELETE, GET, HEAD, OPTIONS"
    assert "content-length" not in answer.headers
    assert "access-control-allow-origin" not in answer.headers
    assert daemon.get("/api/v1/nope", method="OPTIONS").status == 404


def test_preflight_and_call_of_a_page_on_another_port() -> None:
    """LuCI sits on 80, the hub on 7082."""
    with running(token="secret-token") as daemon:
        origin = "Origin: http://127.0.0.1"
        answer = daemon.get(
            "/api/v1/connections/1", origin, "Access-Control-Request-Method: DELETE",
            "Access-Control-Request-Headers: authorization", method="OPTIONS",
        )  # fmt: skip
        assert answer.status == 204
        assert answer.headers["access-control-allow-origin"] == "http://127.0.0.1"
        assert "DELETE" in answer.headers["access-control-allow-methods"]
        answer = daemon.get("/api/v1/stats", origin, "Authorization: Bearer secret-token")
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == "http://127.0.0.1"
        assert daemon.get("/api/v1/stats", origin).status == 401
        answer = daemon.get("/api/v1/nope", origin, "Authorization: secret-token")
        assert (answer.status, answer.headers["vary"]) == (404, "Origin")


def test_without_a_token_only_the_public() -> None:
    with running(token="secret-token") as daemon:
        assert daemon.get(HEALTH).status == 200
        assert daemon.get("/").status == 200
        assert daemon.get("/api/v1/stats", method="OPTIONS").status == 204
        for path in ("/api/v1/stats", "/api/v1/ws", "/api/v1/logs/stream", "/nope", "/api/v1/nope"):
            answer = daemon.get(path)
            assert (answer.status, answer.json["error"]) == (401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
        assert daemon.get(HEALTH, method="POST").status == 401
        assert daemon.get("/api/v1/stats?token=secret-token").status == 200


def test_throttled_tokens_over_the_wire(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with running(token="secret-token") as daemon:
        for _ in range(10):
            assert daemon.get("/api/v1/stats?token=guessed-token").status == 401
        answer = daemon.get("/api/v1/stats?token=guessed-token")
        assert answer.status == 429
        assert 0 < int(answer.headers["retry-after"]) <= 60
        assert daemon.get("/api/v1/stats?token=secret-token").status == 200
    assert "127.0.0.1" in caplog.text
    assert "guessed-token" not in caplog.text
    assert "secret-token" not in caplog.text


def test_forwarded_addresses_are_not_believed() -> None:
    """Whoever guesses could name another address each time."""
    with running(token="secret-token") as daemon:
        statuses = [
            daemon.get(
                "/api/v1/stats?token=guessed-token", f"X-Forwarded-For: 10.0.0.{number}",
                f"X-Real-IP: 10.0.0.{number}", f"Forwarded: for=10.0.0.{number}",
            ).status
            for number in range(11)
        ]  # fmt: skip
        assert statuses == [401] * 10 + [429]


# Connections.


def test_keep_alive_and_pipelining(daemon: Daemon) -> None:
    with daemon.connect() as sock:
        for _ in range(3):
            sock.sendall(request())
            assert answer_from(sock).status == 200
        sock.sendall(request() + request("/api/v1/nope") + request("/", "Connection: close"))
        data = read_all(sock)
    assert re.findall(rb"HTTP/1.1 (\d+)", data) == [b"200", b"404", b"200"]
    assert data.count(b"Connection: close") == 1


def test_http_1_0(daemon: Daemon) -> None:
    data = daemon.raw(b"GET /api/v1/health HTTP/1.0\r\nHost: localhost\r\n\r\n")
    assert b"Connection: close" in data
    with daemon.connect() as sock:
        sock.sendall(
            b"GET /api/v1/health HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n"
        )
        assert answer_from(sock).headers["connection"] == "keep-alive"
        sock.sendall(request())
        assert answer_from(sock).status == 200


def test_byte_by_byte(daemon: Daemon) -> None:
    with daemon.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"\r\n" + request("/api/v1/stats", "Content-Length: 3") + b"abc":
            sock.sendall(bytes([byte]))
        assert answer_from(sock).status == 200


def test_bodies(daemon: Daemon) -> None:
    """No call of this version has one, so it is read and ignored, and bounded."""
    with daemon.connect() as sock:
        sock.sendall(request(STATS, "Content-Length: 5") + b"12345" + request())
        assert [answer_from(sock).status for _ in range(1)] == [200]
    chunked = request(STATS, "Transfer-Encoding: chunked", "Connection: close")
    assert Answer(daemon.raw(chunked + b"3\r\nabc\r\n0\r\n\r\n")).status == 200
    assert Answer(daemon.raw(chunked + b"3\r\nabcd\r\n0\r\n\r\n")).status == 400
    assert Answer(daemon.raw(chunked + b"zz\r\n")).status == 400
    assert daemon.get(STATS, body=b"x" * 65536).status == 200


def test_body_too_large(daemon: Daemon) -> None:
    answer = daemon.get(STATS, body=b"x" * 65537)
    assert (answer.status, answer.json["error"]) == (413, "body_too_large")
    assert answer.headers["connection"] == "close"
    chunked = request(STATS, "Transfer-Encoding: chunked")
    assert Answer(daemon.raw(chunked + b"10001\r\n" + b"x" * 65537)).status == 413
    announced = request(STATS, f"Content-Length: {10**17}", "Expect: 100-continue")
    assert Answer(daemon.raw(announced)).status == 413


def large(size: int, *framing: str) -> bytes:
    """The start of a call that may have a large body."""
    framing = framing or (f"Content-Length: {size}",)
    fields = ("Content-Type: application/json", "Connection: close", *framing)
    return request("/api/v1/config/validate", *fields, method="POST")


@pytest.mark.parametrize("end", ["served", "gone", "refused"])
def test_one_large_body_at_a_time(daemon: Daemon, end: str) -> None:
    body = b'{"config": {}}'.ljust(100_000)
    chunked = large(0, "Transfer-Encoding: chunked") + b"186a0\r\n" + body + b"\r\n0\r\n\r\n"
    server = daemon.control._server
    with daemon.connect() as first:
        first.sendall(large(len(body)) + body[:-1])
        daemon.wait(lambda: server._large is not None)
        for second in (large(len(body)) + body, chunked):
            answer = Answer(daemon.raw(second))
            assert (answer.status, answer.json["error"]) == (503, "busy")
            assert answer.headers["retry-after"] == "1"
        # Small ones are as welcome as ever.
        assert Answer(daemon.raw(large(14) + body[:14])).json["valid"] is True
        if end == "served":
            first.sendall(b" ")
            assert Answer(read_all(first)).json["valid"] is True
        elif end == "refused":
            first.sendall(b"x")
            assert Answer(read_all(first)).status == 400
    daemon.wait(lambda: server._large is None)
    for second in (large(len(body)) + body, chunked):
        assert Answer(daemon.raw(second)).json["valid"] is True
    assert server._large is None


def test_large_bodies_have_a_limit_too(daemon: Daemon) -> None:
    assert Answer(daemon.raw(large(2**20 + 1))).status == 413
    chunked = large(0, "Transfer-Encoding: chunked") + b"100001\r\n" + b" " * (2**20 + 1)
    assert Answer(daemon.raw(chunked)).status == 413
    assert Answer(daemon.raw(large(2**20) + b'{"config": {}}'.ljust(2**20))).status == 200
    assert daemon.control._server._large is None


def test_curl_reads_the_refusal_of_a_large_body(daemon: Daemon) -> None:
    done = subprocess.run(
        ["curl", "-sS", "-X", "POST", "--data-binary", "@-", "-w", "%{http_code}",
         "-H", "Expect:", f"http://127.0.0.1:{daemon.port}/api/v1/requests/stats"],
        input=b"x" * 5_000_000, capture_output=True, timeout=20, check=False,
    )  # fmt: skip
    assert b"405" in done.stdout


def test_continue(daemon: Daemon) -> None:
    with daemon.connect() as sock:
        sock.sendall(request(STATS, "Content-Length: 2", "Expect: 100-continue"))
        assert read_until(sock, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"ab")
        assert answer_from(sock).status == 200
    answer = Answer(daemon.raw(request(STATS, "Expect: 200-maybe", "Content-Length: 1")))
    assert (answer.status, answer.json["error"]) == (417, "expectation_failed")


def test_public_answers_wait_for_no_body() -> None:
    with running(token=TOKEN) as daemon:
        for framing in ("Content-Length: 1000", "Transfer-Encoding: chunked"):
            for path in (HEALTH, "/"):
                with daemon.connect() as sock:
                    sock.sendall(request(path, framing, "Expect: 100-continue"))
                    answer = Answer(read_all(sock))  # closed, or the body were a next request
                assert answer.status == 200
                assert answer.headers["connection"] == "close"


def test_nobody_is_asked_to_continue_what_is_refused() -> None:
    with running(token="secret-token") as daemon:
        data = daemon.raw(
            request("/api/v1/requests", "Content-Length: 2", "Expect: 100-continue",
                    method="DELETE") + b"ab"
        )  # fmt: skip
        assert data.startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n", 400),
        (b"GET / HTTP/1.1\nHost: localhost\n\n", 400),
        (b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET http://localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"CONNECT localhost:7082 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /%zz HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 20000, 431),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n"
         b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n\r\n", 403),
    ],
)  # fmt: skip
def test_bad_requests(daemon: Daemon, raw: bytes, status: int) -> None:
    with daemon.connect() as sock:
        sock.sendall(raw)
        sock.shutdown(socket.SHUT_WR)
        answer = Answer(read_all(sock))
    assert answer.status == status
    assert set(answer.json) == {"error", "message"}


def test_clients_that_vanish(daemon: Daemon) -> None:
    for data in (b"", b"GET", request()[:-2], request(STATS, "Content-Length: 9") + b"x"):
        for reset in (False, True):
            with daemon.connect() as sock:
                sock.sendall(data)
                if reset:
                    linger = struct.pack("ii", 1, 0)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    daemon.wait(lambda: not daemon.control._server._connections)
    assert daemon.timers() == []


def test_deadlines(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEAD_TIME", 0.1)
    monkeypatch.setattr(http, "IDLE_TIME", 0.1)
    monkeypatch.setattr(http, "LINGER_TIME", 0.1)
    assert daemon.raw(b"") == b""  # never says anything: closed without a word
    assert Answer(daemon.raw(request()[:-2])).status == 408
    late_body = daemon.raw(request(STATS, "Content-Length: 9") + b"x")
    assert Answer(late_body).status == 408
    with daemon.connect() as sock:  # idle between two requests
        sock.sendall(request())
        assert answer_from(sock).status == 200
        assert sock.recv(1) == b""
    with daemon.connect() as sock:  # never reads the end, never closes
        sock.sendall(request(HEALTH, "Connection: close"))
        daemon.wait(lambda: len(daemon.control._server._connections) == 1)
        daemon.wait(lambda: not daemon.control._server._connections)


def test_trickled_head_gets_no_more_time(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEAD_TIME", 0.3)
    with daemon.connect() as sock:
        sock.settimeout(0.02)
        data = b""
        for byte in request()[:-2] + b"X: " + b"y" * 5000:
            sock.sendall(bytes([byte]))
            try:
                data = sock.recv(65536)
                break
            except TimeoutError:
                continue
        assert Answer(data).status == 408


def test_reader_that_never_reads(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SEND_TIME", 0.2)
    server = daemon.control._server
    listener = server._acceptor._listeners[0]
    daemon.do(listener.setsockopt, socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(5)
    with sock:
        sock.connect(("127.0.0.1", daemon.port))
        sock.sendall(request("/") * 200)
        daemon.wait(lambda: len(server._connections) == 1)
        daemon.wait(lambda: not server._connections)


def test_flood_does_not_take_the_loop(daemon: Daemon) -> None:
    """A client that always has another request ready, and reads all answers."""
    with daemon.connect() as flood:
        flood.setblocking(False)
        burst = request() * 400
        for _ in range(50):
            try:
                flood.send(burst)
            except BlockingIOError:
                flood.recv(1 << 20)
            assert daemon.do(lambda: True)
        assert daemon.get(HEALTH).status == 200


def test_endless_body_of_a_refused_client_ends(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "LINGER_TIME", 0.2)
    with daemon.connect() as sock, pytest.raises(OSError, match="reset|pipe"):
        sock.sendall(request(STATS, "Content-Length: 999999999"))
        while True:
            sock.sendall(b"x" * 65536)


# Caps.


def test_silent_connections_make_room(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty-four that say nothing, or half a head, do not lock the operator out."""
    monkeypatch.setattr(http, "CONNECTIONS", 4)
    idle = [daemon.connect() for _ in range(4)]
    idle[1].sendall(request()[:-2])
    daemon.wait(lambda: len(daemon.control._server._connections) == 4)
    assert daemon.get(HEALTH).status == 200
    assert idle[0].recv(1) == b""  # the one that waited longest
    idle[3].sendall(request())
    assert answer_from(idle[3]).status == 200
    for sock in idle:
        sock.close()


@pytest.mark.parametrize(
    ("path", "count"), [(HEALTH, 1), ("/", 1), ("/", 2000), ("/nope", 1)]
)
def test_strangers_do_not_lock_the_operator_out(
    path: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a token: bodies that never come, answers that nobody reads, clients that stay."""
    monkeypatch.setattr(http, "CONNECTIONS", 8)
    monkeypatch.setattr(http, "SPARED", 2)
    with running(token=TOKEN) as daemon:
        server = daemon.control._server
        listener = server._acceptor._listeners[0]
        daemon.do(listener.setsockopt, socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        raw = request(path) * count + request(path, "Content-Length: 1000", method="POST")
        strangers = []
        for _ in range(8):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.settimeout(5)
            sock.connect(("127.0.0.1", daemon.port))
            sock.setblocking(False)
            sock.send(raw)
            strangers.append(sock)
        daemon.wait(lambda: len(server._connections) == 8)
        if count > 1:
            keys = daemon.loop.dispatcher.get_map().values()
            daemon.wait(lambda: sum(key.events == selectors.EVENT_WRITE for key in keys) == 8)
        for _ in range(20):
            assert daemon.get(STATS, f"Authorization: Bearer {TOKEN}").status == 200
        for sock in strangers:
            sock.close()


def test_whoever_asks_at_once_is_heard_before_a_crowd(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full backlog arrives behind a request: none of them may take its place."""
    monkeypatch.setattr(http, "CONNECTIONS", http.CONNECTIONS - http.SPARED)
    held, go = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        go.wait(5)

    daemon.loop.call_soon_threadsafe(hold)
    assert held.wait(5)
    with daemon.connect() as sock:
        sock.sendall(request())
        crowd = [daemon.connect() for _ in range(60)]
        go.set()
        assert answer_from(sock).status == 200
        for silent in crowd:
            silent.close()


def test_body_of_an_admitted_call_is_not_cut_for_strangers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "CONNECTIONS", 8)
    monkeypatch.setattr(http, "SPARED", 2)
    with running(token=TOKEN) as daemon, daemon.connect() as sock:
        server = daemon.control._server
        sock.sendall(request(STATS, f"Authorization: Bearer {TOKEN}", "Content-Length: 9"))
        daemon.wait(lambda: any(c.stage is http.Stage.ADMITTED for c in server._connections))
        strangers = [daemon.connect() for _ in range(30)]
        for stranger in strangers[:22]:
            assert read_all(stranger) == b""
        sock.sendall(b"123456789")
        assert answer_from(sock).status == 200
        for stranger in strangers:
            stranger.close()


def test_too_many_admitted_calls_make_room(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no token is configured every call is admitted."""
    monkeypatch.setattr(http, "CONNECTIONS", 4)
    monkeypatch.setattr(http, "SPARED", 2)
    server = daemon.control._server
    slow = []
    for count in range(1, 5):
        slow.append(daemon.connect())
        slow[-1].sendall(request(STATS, "Content-Length: 9"))
        daemon.wait(
            lambda count=count: count  # type: ignore[misc]
            == sum(c.stage is http.Stage.ADMITTED for c in server._connections)
        )
    assert daemon.get(STATS).status == 200
    assert read_all(slow[0]) == b""  # the one that waited longest
    slow[3].sendall(b"123456789")
    assert answer_from(slow[3]).status == 200
    for sock in slow:
        sock.close()


def test_calls_that_run_do_not(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "CONNECTIONS", 2)
    finish = daemon.do(asyncio.Event)

    async def run(self: object, route: object, call: object) -> Response:
        await finish.wait()
        return Response(204)

    monkeypatch.setattr(http.Server, "_run", run)
    busy = [daemon.connect() for _ in range(2)]
    for sock in busy:
        sock.sendall(request())
    server = daemon.control._server
    daemon.wait(lambda: len(server._connections) == 2 and not server._waiting)
    with daemon.connect() as sock:
        answer = Answer(read_all(sock))
    assert (answer.status, answer.json["error"]) == (503, "too_many_connections")
    assert answer.headers["retry-after"] == "1"
    daemon.do(finish.set)
    for sock in busy:
        assert answer_from(sock).status == 204
        sock.close()


def test_stop_ends_idle_and_busy_connections() -> None:
    with running() as daemon:
        idle, busy = daemon.connect(), daemon.connect()
        busy.sendall(request(STATS, "Content-Length: 9"))
        server = daemon.control._server
        daemon.wait(lambda: any(c.stage is http.Stage.ADMITTED for c in server._connections))
    assert idle.recv(1) == b""
    assert read_all(busy) == b""
    idle.close()
    busy.close()


def test_no_descriptor_is_left_for_a_handler(daemon: Daemon) -> None:
    """Its module is loaded when it is called first, for one thing."""

    def starved() -> tuple[int, int, int, int]:
        raise OSError(errno.EMFILE, "Too many open files")

    daemon.plane.stats = starved  # type: ignore[method-assign]
    answer = daemon.get("/api/v1/stats")
    assert (answer.status, answer.json["error"]) == (503, "out_of_descriptors")


def test_fault_of_ours(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> tuple[int, int, int, int]:
        raise RuntimeError("a secret")

    daemon.plane.stats = broken  # type: ignore[method-assign]
    with daemon.connect() as sock:
        sock.sendall(request("/api/v1/stats"))
        answer = answer_from(sock)
        assert (answer.status, answer.json["error"]) == (500, "internal_error")
        assert b"secret" not in answer.body
        sock.sendall(request())
        assert answer_from(sock).status == 200
    assert "the handler of GET /api/v1/stats failed" in caplog.text


def test_idle_server_has_no_timer(daemon: Daemon) -> None:
    assert daemon.timers() == []
    assert daemon.get(HEALTH).status == 200
    daemon.wait(lambda: not daemon.control._server._connections)
    assert daemon.timers() == []


def test_portable_selector() -> None:
    with running(PollDispatcher()) as daemon:
        assert daemon.get(HEALTH).status == 200


def test_memory_is_told() -> None:
    assert status.memory_rss() > 1_000_000
