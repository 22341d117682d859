"""The log stream of Bifrost's API page and docs/events.md: every sentence about it."""

from __future__ import annotations

import json
import re
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from bifrost_lite import sse
from bifrost_lite.config.schema import Log
from bifrost_lite.records import DEBUG, ERROR, INFO, WARN
from bifrost_lite.sse import Line, Logs, entry_of, level_of
from tests.control_fixtures import Answer, Daemon, finished, read_until, running

STREAM = "/api/v1/logs/stream"
HELLO = b'data: {"type":"connected"}\nretry: 2000\n\n'


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with running() as daemon:
        yield daemon


class Follower:
    """A raw follower of the log."""

    def __init__(self, daemon: Daemon, query: str, headers: tuple[str, ...], receive: int) -> None:
        self.sock = socket.socket()
        self.sock.settimeout(10)
        if receive:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        self.sock.connect(("127.0.0.1", daemon.port))
        lines = (f"GET {STREAM}{query} HTTP/1.1", "Host: localhost", *headers, "\r\n")
        self.sock.sendall("\r\n".join(lines).encode())
        data = read_until(self.sock, b"\r\n\r\n")
        head, _, self.data = data.partition(b"\r\n\r\n")
        self.head = Answer(head)
        while not self.data.startswith(HELLO):
            self.data += self._more()
        self.data = self.data[len(HELLO) :]

    def close(self) -> None:
        self.sock.close()

    def _more(self) -> bytes:
        more = self.sock.recv(65536)
        if not more:
            raise EOFError(self.data)
        return more

    def block(self) -> bytes:
        """The next block of lines."""
        while b"\n\n" not in self.data:
            self.data += self._more()
        block, _, self.data = self.data.partition(b"\n\n")
        return block

    def entry(self) -> tuple[str, dict[str, Any]]:
        """The next entry: its id and what it says."""
        block = self.block()
        match = re.fullmatch(rb"id: ([0-9a-f]{8}-[0-9]+)\ndata: (\{[^\n]*\})", block)
        assert match, block
        return match[1].decode(), json.loads(match[2])


@contextmanager
def follow(
    daemon: Daemon, query: str = "", *headers: str, receive: int = 0
) -> Iterator[Follower]:
    with closing(Follower(daemon, query, headers, receive)) as follower:
        yield follower


def say(daemon: Daemon, *messages: str, level: int = INFO) -> None:
    for message in messages:
        daemon.do(daemon.logs.append, Line(1705312800.5, level, message, "test"))


# Entries.


def test_line() -> None:
    entry = json.loads(sse._encode(entry_of(Line(1705312800.5, ERROR, "it broke", "dial"))))
    assert entry == {
        "timestamp": "2024-01-15T10:00:00Z",
        "level": "error",
        "message": "it broke",
        "fields": {"source": "dial"},
    }
    assert list(entry) == ["timestamp", "level", "message", "fields"]


def test_finished_request() -> None:
    entry = json.loads(sse._encode(entry_of(finished(9))))
    assert (entry["level"], entry["message"]) == ("info", "GET http://api.example.com/v1/users")
    assert entry["fields"] == {
        "method": "GET",
        "url": "api.example.com/v1/users",
        "host": "api.example.com:80",
        "status_code": 200,
        "duration_ms": 150,
        "action": "direct",
        "backend": "direct",
        "client_ip": "192.168.1.100",
        "bytes_sent": 10,
        "bytes_received": 2000,
        "error": "",
        "route": "default",
        "protocol": "HTTP",
        "id": 9,
    }


def test_sample_of_the_documentation() -> None:
    text = (Path(__file__).parents[1] / "docs" / "events.md").read_text("utf-8")
    sample = re.search(r'^\{"timestamp".*\}$', text, re.MULTILINE)
    assert sample
    record = finished(42, bytes_sent=80, bytes_received=512)
    assert sample[0].encode() == sse._encode(entry_of(record))


def test_tunnel_has_no_status_of_its_own() -> None:
    record = finished(
        protocol="SOCKS5", method="SOCKS5", url="api.example.com:443", status_code=None,
        error="connect_timeout",
    )  # fmt: skip
    entry = json.loads(sse._encode(entry_of(record)))
    assert "status_code" not in entry["fields"]
    assert entry["message"] == "SOCKS5 api.example.com:443"
    assert (entry["level"], entry["fields"]["error"]) == ("info", "connect_timeout")
    connect = entry_of(finished(protocol="CONNECT", method="CONNECT", url="example.com:443"))
    assert connect.message == "CONNECT example.com:443"


@pytest.mark.parametrize("protocol", ["", "HTTP", "SOCKS5"])
def test_request_that_names_nothing(protocol: str) -> None:
    record = finished(protocol=protocol, method=protocol, url="", host="", error="bad_request")
    assert entry_of(record).message == "refused a request from 192.168.1.100"


def test_levels() -> None:
    """A failed request is no fault of the daemon: its field `error` tells."""
    for level in (DEBUG, INFO, WARN, ERROR):
        assert level_of(Line(0, level, "", "")) == level
    assert level_of(finished()) == INFO
    assert level_of(finished(error="dns_failed")) == INFO


# The stream.


def test_head(daemon: Daemon) -> None:
    with follow(daemon) as follower:
        headers = follower.head.headers
    assert follower.head.status == 200
    assert headers["content-type"] == "text/event-stream"
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    assert headers["x-content-type-options"] == "nosniff"
    assert "content-length" not in headers


def test_first_the_greeting_then_entries(daemon: Daemon) -> None:
    say(daemon, "before")  # not told: nobody asked for a tail
    with follow(daemon) as follower:
        say(daemon, "one", "two\nlines? \u2028 no")
        (first, entry), (second, other) = follower.entry(), follower.entry()
        assert entry["message"] == "one"
        assert other["message"] == "two\nlines? \u2028 no"
        assert first.partition("-")[2] == "2"
        assert second.partition("-")[2] == "3"
        daemon.do(daemon.logs.append, finished())
        assert follower.entry()[1]["fields"]["method"] == "GET"


def test_curl(daemon: Daemon) -> None:
    say(daemon, "hello")
    done = subprocess.run(
        ["curl", "-sN", "-m", "1", f"http://127.0.0.1:{daemon.port}{STREAM}?tail=1"],
        capture_output=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 28  # it never ends by itself
    assert done.stdout.startswith(HELLO + b"id: ")
    daemon.wait(lambda: daemon.logs.seats.taken == 0)


def test_http_1_0(daemon: Daemon) -> None:
    with daemon.connect() as sock:
        sock.sendall(f"GET {STREAM} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        assert HELLO in read_until(sock, HELLO)


def test_page_on_another_port_may_follow(daemon: Daemon) -> None:
    with follow(daemon, "", "Origin: http://localhost:3000") as follower:
        assert follower.head.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert daemon.get(STREAM, "Origin: http://evil.example").status == 403


def test_level(daemon: Daemon) -> None:
    say(daemon, "old", level=ERROR)
    with follow(daemon, "?level=warn&tail=5") as follower:
        say(daemon, "a", level=DEBUG)
        say(daemon, "b", level=INFO)
        say(daemon, "c", level=WARN)
        daemon.do(daemon.logs.append, finished())
        daemon.do(daemon.logs.append, finished(error="dns_failed"))
        say(daemon, "d", level=ERROR)
        levels = [follower.entry()[1]["level"] for _ in range(3)]
    assert levels == ["error", "warn", "error"]


def test_tail(daemon: Daemon) -> None:
    say(daemon, *"abcde")
    with follow(daemon, "?tail=2") as follower:
        say(daemon, "f")
        assert [follower.entry()[1]["message"] for _ in range(3)] == ["d", "e", "f"]
    with follow(daemon, "?tail=100") as follower:
        assert follower.entry()[1]["message"] == "a"


@pytest.mark.parametrize("query", ["?level=loud", "?tail=-1", "?tail=x", "?tail=10001"])
def test_bad_parameters(daemon: Daemon, query: str) -> None:
    answer = daemon.get(STREAM + query)
    assert (answer.status, answer.json["error"]) == (400, "bad_parameter")
    assert f"'{query[1:].partition('=')[0]}'" in answer.json["message"]
    assert daemon.logs.seats.taken == 0


def test_resume(daemon: Daemon) -> None:
    with follow(daemon) as follower:
        say(daemon, *"abc")
        follower.entry()
        last, _ = follower.entry()
    with follow(daemon, "?tail=1", f"Last-Event-ID: {last}") as follower:
        assert follower.entry()[1]["message"] == "c"
        say(daemon, "d")
        assert follower.entry()[1]["message"] == "d"


def test_resume_after_a_gap() -> None:
    with running(log=Log(ring=10)) as daemon:
        with follow(daemon) as follower:
            say(daemon, "a")
            last, _ = follower.entry()
        say(daemon, *map(str, range(30)))
        with follow(daemon, "", f"Last-Event-ID: {last}") as follower:
            number, entry = follower.entry()
            assert (entry["level"], entry["message"]) == ("warn", "20 log entries lost")
            assert entry["fields"] == {"lost": 20}
            assert number.endswith("-21")
            assert follower.entry()[1]["message"] == "20"


def test_resume_of_another_process(daemon: Daemon) -> None:
    """All of this one is new to the follower."""
    say(daemon, *"ab")
    with follow(daemon, "", "Last-Event-ID: 00000000-77") as follower:
        assert [follower.entry()[1]["message"] for _ in range(2)] == ["a", "b"]


@pytest.mark.parametrize("value", ["", "7", "x-1", "00000000-", "00000000-1 ", "0-1", "\xff"])
def test_senseless_last_event_id_is_none(daemon: Daemon, value: str) -> None:
    say(daemon, *"ab")
    with follow(daemon, "?tail=1", f"Last-Event-ID: {value}x") as follower:
        assert follower.entry()[1]["message"] == "b"


# Clocks and queues.


def test_comment_when_idle(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Upstream is silent and cuts after 30 s; here there is no time limit."""
    monkeypatch.setattr(sse, "COMMENT", 0.1)
    with follow(daemon) as follower:
        start = time.monotonic()
        for _ in range(3):
            assert follower.block() == b": still here"
        assert time.monotonic() - start > 0.25
        say(daemon, "a")
        assert follower.entry()[1]["message"] == "a"


def test_times() -> None:
    assert (sse.COMMENT, sse.BUFFER) == (15.0, 100)


def test_entries_gather(daemon: Daemon) -> None:
    with follow(daemon) as follower:
        daemon.do(lambda: [daemon.logs.append(finished(n)) for n in range(60)])
        assert len(daemon.do(lambda: daemon.logs._fanout._items)) in (0, 10)
        assert [follower.entry()[1]["fields"]["id"] for _ in range(60)] == list(range(60))


def test_slow_follower_is_told_what_it_lost(daemon: Daemon) -> None:
    listener = daemon.control._server._acceptor._listeners[0]
    daemon.do(listener.setsockopt, socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with follow(daemon, receive=4096) as slow, follow(daemon) as quick:
        written = 0
        while daemon.logs.lost < 50:
            daemon.do(lambda: [daemon.logs.append(finished(n)) for n in range(20)])
            written += 20
            for _ in range(20):
                quick.entry()
        watcher = daemon.logs._fanout.watchers[0]
        assert daemon.do(lambda: watcher.outbox._items) <= 100
        seen = lost = 0
        while seen + lost < written:
            number, entry = slow.entry()
            if "lost" in entry["fields"]:
                assert entry["level"] == "warn"
                assert entry["message"] == f"{entry['fields']['lost']} log entries lost"
                lost += entry["fields"]["lost"]
            else:
                seen += 1
            assert number.endswith(f"-{seen + lost}")
        assert lost == daemon.logs.lost


def test_stuck_follower_is_dropped(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "STUCK", 0.2)
    listener = daemon.control._server._acceptor._listeners[0]
    daemon.do(listener.setsockopt, socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with follow(daemon, receive=4096):
        while not daemon.logs.lost:
            daemon.do(lambda: [daemon.logs.append(finished(n)) for n in range(100)])
        daemon.wait(lambda: daemon.logs.seats.taken == 0)
        assert daemon.logs.lost  # those gone count on
    assert daemon.timers() == []


# Followers.


def test_cap() -> None:
    with running(max_subscribers=2) as daemon:
        with follow(daemon) as one, follow(daemon):
            answer = daemon.get(STREAM)
            assert (answer.status, answer.json["error"]) == (503, "too_many_subscribers")
            assert answer.headers["retry-after"] == "5"
            assert daemon.get("/api/v1/logs").status == 200
            one.close()
            daemon.wait(lambda: daemon.logs.seats.taken == 1)
            with follow(daemon):
                pass
        daemon.wait(lambda: daemon.logs.seats.taken == 0)


def test_followers_that_vanish(daemon: Daemon) -> None:
    for _ in range(3):
        with follow(daemon) as follower:
            follower.sock.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)  # has nothing to say
            linger = struct.pack("ii", 1, 0)
            follower.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    daemon.wait(lambda: daemon.logs.seats.taken == 0)
    assert daemon.timers() == []


def test_token() -> None:
    with running(token="secret-token", read_token="read-token") as daemon:
        assert daemon.get(STREAM).status == 401
        with follow(daemon, "?token=read-token") as follower:
            say(daemon, "a")
            assert follower.entry()[1]["message"] == "a"


def test_shutdown_ends_the_streams() -> None:
    with running() as daemon:
        follower = Follower(daemon, "", (), 0)
        say(daemon, "last words")
    with closing(follower):
        assert follower.entry()[1]["message"] == "last words"
        with pytest.raises(EOFError):
            follower.block()


def test_nothing_is_rendered_for_nobody(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: list[object] = []
    real = sse.entry_of
    monkeypatch.setattr(sse, "entry_of", lambda item: rendered.append(item) or real(item))
    daemon.do(daemon.logs.append, finished())
    say(daemon, "a")
    assert rendered == []
    assert daemon.timers() == []
    with follow(daemon), follow(daemon):
        say(daemon, "b")
        daemon.wait(lambda: not daemon.logs._fanout._items)
        assert len(rendered) == 1


def test_ring_is_read_newest_first(daemon: Daemon) -> None:
    logs: Logs = daemon.logs
    say(daemon, *"abc")
    say(daemon, "w", level=WARN)
    assert [entry.message for entry in logs.read(3, DEBUG)] == ["w", "c", "b"]
    assert [entry.message for entry in logs.read(3, WARN)] == ["w"]
