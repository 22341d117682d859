"""The client commands, against the real daemon and against what else may sit on its port."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

from bifrost_lite import cli, client
from bifrost_lite.client import ClientError, Daemon, find, quote
from tests.e2e.daemon import Daemon as RealDaemon
from tests.e2e.program import Program, environment

PROGRAM = [sys.executable, "-m", "bifrost_lite"]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _nothing_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BIFROST_URL", raising=False)
    monkeypatch.delenv("BIFROST_TOKEN", raising=False)
    monkeypatch.setattr(client, "CONFIG_FILES", ())


class StandIn:
    """Something on a port that answers each connection by the same bytes, then closes."""

    def __init__(self, answer: bytes, *, hold: bool = False) -> None:
        self._answer = answer
        self._hold = hold
        self.requests: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(20)
                request = b""
                while not self._whole(request) and (data := connection.recv(65536)):
                    request += data
                self.requests.append(request)
                try:
                    connection.sendall(self._answer)
                    if self._hold:
                        connection.recv(1)  # until the client leaves
                except OSError:
                    continue

    @staticmethod
    def _whole(request: bytes) -> bool:
        """Whether head and body are there."""
        head, end, body = request.partition(b"\r\n\r\n")
        _, _, length = head.partition(b"\r\nContent-Length: ")
        return bool(end) and len(body) == int(length.partition(b"\r\n")[0] or 0)

    def __enter__(self) -> StandIn:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()


def answer(body: bytes, status: int = 200, *fields: bytes) -> bytes:
    lines = [b"HTTP/1.1 %d Whatever" % status, b"Content-Length: %d" % len(body), *fields]
    return b"\r\n".join([*lines, b"", body])


# Finding the daemon


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://127.0.0.1:7082", "http://127.0.0.1:7082"),
        ("HTTP://Router.lan", "http://router.lan:80"),
        ("http://[::1]:7082/", "http://[::1]:7082"),
        ("http://router.lan/bifrost/", "http://router.lan:80/bifrost"),
    ],
)
def test_addresses(url: str, shown: str) -> None:
    assert str(Daemon(url)) == shown


@pytest.mark.parametrize(
    ("url", "token"),
    [
        ("127.0.0.1:7082", ""), ("https://127.0.0.1:7082", ""), ("http://", ""),
        ("http://a b", ""), ("http://user@host", ""), ("http://host:port", ""),
        ("http://host/a?b", ""), ("http://host/a\r\nX: y", ""), ("http://host/\udcff", ""),
        ("http://\udcff", ""), ("http://host", "a\r\nX: y"), ("http://host", "é"),
    ],
)  # fmt: skip
def test_bad_addresses_and_tokens(url: str, token: str) -> None:
    with pytest.raises(ClientError) as caught:
        Daemon(url, token)
    assert str(caught.value).isprintable()


def test_environment_and_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(find("", "", {})) == "http://127.0.0.1:7082"
    both = {"BIFROST_URL": "http://a:1", "BIFROST_TOKEN": "from-env"}
    assert str(find("", "", both)) == "http://a:1"
    assert str(find("http://b:2", "", both)) == "http://b:2"
    assert b"Bearer from-env" in find("", "", both).head("GET", "/")
    assert b"Bearer other" in find("", "other", both).head("GET", "/")


def test_configuration_tells_address_and_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "bifrost.toml"
    config.write_text('[control]\nlisten = ["0.0.0.0:9082"]\ntoken = "the-secret"\n', "utf-8")
    broken = tmp_path / "broken.toml"
    broken.write_text("=", "utf-8")
    monkeypatch.setattr(client, "CONFIG_FILES", ("/nonexistent", str(broken), str(config)))
    found = find("", "", {})
    assert str(found) == "http://127.0.0.1:9082"
    assert b"Bearer the-secret" in found.head("GET", "/")
    # The token of a configuration is for that configuration's daemon alone.
    assert b"secret" not in find("http://elsewhere", "", {}).head("GET", "/")
    assert b"secret" not in find("", "", {"BIFROST_URL": "http://elsewhere"}).head("GET", "/")


def test_quote() -> None:
    assert quote("a-Z_0.9~") == "a-Z_0.9~"
    assert quote("a b/&+é\udcff") == "a%20b%2F%26%2B%C3%A9%FF"


# Against the real daemon


@pytest.fixture(scope="module")
def daemon() -> Iterator[RealDaemon]:
    with RealDaemon(control={"token": "a-long-secret", "stats_interval": 0}) as running:
        yield running


@pytest.fixture
def reach(daemon: RealDaemon, monkeypatch: pytest.MonkeyPatch) -> RealDaemon:
    monkeypatch.setenv("BIFROST_URL", daemon.url(""))
    monkeypatch.setenv("BIFROST_TOKEN", "a-long-secret")
    return daemon


@contextmanager
def tunnel(daemon: RealDaemon) -> Iterator[tuple[socket.socket, str]]:
    """A CONNECT tunnel through the daemon, and its target."""
    with socket.create_server(("127.0.0.1", 0)) as origin:
        target = f"127.0.0.1:{origin.getsockname()[1]}"
        with socket.create_connection(daemon.proxy, 20) as sock:
            sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
            accepted, _ = origin.accept()
            with accepted:
                assert sock.recv(4096).startswith(b"HTTP/1.1 200")
                yield sock, target


def wait_for_clients(daemon: RealDaemon, count: int) -> None:
    deadline = time.monotonic() + 20
    asking = Daemon(daemon.url(""), "a-long-secret")
    while json.loads(asking.call("GET", "/status"))["clients"]["count"] != count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_status(reach: RealDaemon, capsys: Capture) -> None:
    assert cli.main(["status"]) == 0
    rows = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert rows["status"] == "running"
    assert rows["pid"] == str(reach.pid)
    assert rows["memory_rss"].endswith("MiB")
    assert rows["stats.active_connections"].isdigit()
    assert cli.main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pid"] == reach.pid


def test_connections_and_close(reach: RealDaemon, capsys: Capture) -> None:
    with tunnel(reach) as (sock, target):
        assert cli.main(["connections", "--json"]) == 0
        listed = json.loads(capsys.readouterr().out)["connections"]
        assert [c["host"] for c in listed] == [target]
        assert cli.main(["connections"]) == 0
        head, row = capsys.readouterr().out.splitlines()
        assert head.split()[:4] == ["ID", "CLIENT", "PROTOCOL", "HOST"]
        cells = row.split()
        assert cells[:5] == [str(listed[0]["id"]), "127.0.0.1", "CONNECT", target, "direct"]
        assert cells[-4:] == ["0", "B", "0", "B"]
        assert cli.main(["close", cells[0]]) == 0
        assert capsys.readouterr().out == f"closed {cells[0]}\n"
        sock.settimeout(20)
        with suppress(ConnectionResetError):
            assert sock.recv(1) == b""
    assert cli.main(["close", cells[0]]) == 1
    assert "no connection" in capsys.readouterr().err
    assert cli.main(["close", "../status"]) == 1
    assert cli.main(["close", "--json", "x"]) == 1


def test_connections_of_a_client(reach: RealDaemon, capsys: Capture) -> None:
    with tunnel(reach) as (sock, target):
        for client, count in (("127.0.0.1", 1), ("192.0.2.1", 0)):
            assert cli.main(["connections", "--client", client]) == 0
            assert len(capsys.readouterr().out.splitlines()) == 1 + count
        assert cli.main(["connections", "--by-client"]) == 0
        assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["127.0.0.1", "1"]
        assert cli.main(["connections", "--client", "lan"]) == 1
        assert "IPv4 or IPv6" in capsys.readouterr().err
        assert cli.main(["close", "--client", "192.0.2.1"]) == 0
        assert cli.main(["close", "--client", "127.0.0.1"]) == 0
        assert capsys.readouterr().out == (
            "closed connections of 192.0.2.1: 0\nclosed connections of 127.0.0.1: 1\n"
        )
        sock.settimeout(20)
        with suppress(ConnectionResetError):
            assert sock.recv(1) == b""
    wait_for_requests(reach, 1)
    assert cli.main(["requests", "--limit", "1"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert row.split()[1:5] == ["127.0.0.1", "CONNECT", target, "200"]
    assert row.endswith("closed_by_operator")
    assert cli.main(["requests", "--clear", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cleared"] > 0
    assert cli.main(["requests", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["requests"] == []


def wait_for_requests(daemon: RealDaemon, count: int) -> None:
    asking = Daemon(daemon.url(""), "a-long-secret")
    daemon.wait_until(
        lambda: len(json.loads(asking.call("GET", "/requests"))["requests"]) >= count, "recorded"
    )


def test_a_test_of_a_backend(reach: RealDaemon, capsys: Capture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as origin:
        target = f"127.0.0.1:{origin.getsockname()[1]}"
        assert cli.main(["test", "direct", target]) == 0
        assert capsys.readouterr().out.startswith(f"direct reaches {target} in ")
    assert cli.main(["test", "direct", target]) == 1
    assert f"direct does not reach {target}: connect_refused after " in capsys.readouterr().out
    assert cli.main(["test", "--json", "direct", target]) == 1
    assert json.loads(capsys.readouterr().out)["reason"] == "connect_refused"
    for words in (["direct"], ["none", target], ["direct", "a b"]):
        assert cli.main(["test", *words]) == 1
        out, err = capsys.readouterr()
        assert not out
        assert err.startswith("bifrost-lite: ")


def test_mesh(reach: RealDaemon, capsys: Capture) -> None:
    asking = Daemon(reach.url(""), "a-long-secret")
    networks = "/mesh/networks"
    asking.call("POST", networks, body={"id": "home", "name": "x", "cidr": "10.9.0.0/24"})
    with Program([*PROGRAM, "mesh", "home", "--follow"], environment()) as program:
        wait_for_clients(reach, 1)
        peer = {"id": "p1", "name": "x ip=y", "public_key": "A" * 43 + "="}
        asking.call("POST", f"{networks}/home/peers", body={"peer": peer})
        program.output.expect(r'peer\.joined +peer_id=p1 name="x ip=y" virtual_ip=10\.9\.0\.2')
        assert cli.main(["mesh"]) == 0
        assert capsys.readouterr().out.splitlines()[1].split()[:4] == [
            "home", "x", "10.9.0.0/24", "1",
        ]  # fmt: skip
        assert cli.main(["mesh", "home"]) == 0
        assert capsys.readouterr().out.splitlines()[1].split()[:4] == ["p1", "x", "ip=y", "10.9.0.2"]
        asking.call("DELETE", f"{networks}/home")
        assert program.wait() == 1
        assert program.output.matching("^bifrost-lite: the daemon ended the stream: 1001 ")
    assert cli.main(["mesh", "home"]) == 1
    assert "no network" in capsys.readouterr().err


def test_events(reach: RealDaemon) -> None:
    env = environment()
    with (
        Program([*PROGRAM, "events", "--json"], env=env) as as_json,
        Program([*PROGRAM, "events", "--types", "connection.new,connection.close"], env) as text,
    ):
        first = json.loads(as_json.output.expect("stats.update").string)
        assert first["data"]["boot"]
        wait_for_clients(reach, 2)  # the other one prints nothing before something happens
        with tunnel(reach) as (_, target):
            text.output.expect(rf"connection\.new +#\d+ CONNECT {target} via direct for 127")
        text.output.expect(r"connection\.close .*: closed after .* s, sent 0 B, received 0 B")
        new = json.loads(as_json.output.expect("connection.new").string)
        as_json.output.expect("connection.close")
        assert [*new] == ["type", "timestamp", "data", "seq"]
        assert "stats.update" not in text.output.text
        for program in (as_json, text):
            program.process.send_signal(signal.SIGINT)
            assert program.wait() == 0
            assert "Traceback" not in program.output.text
    again = [*PROGRAM, "events", "--json", "--since", str(new["seq"] - 1)]
    with Program([*again, "--boot", first["data"]["boot"]], env) as program:
        assert json.loads(program.output.expect("connection.new").string) == new


def test_logs(reach: RealDaemon, capsys: Capture) -> None:
    with tunnel(reach) as (_, target):
        pass
    with Program([*PROGRAM, "logs", "--tail", "100"], environment()) as program:
        program.output.expect(rf"Z  info   CONNECT {target}  .*status_code=200 .*backend=direct")
        assert "connected" not in program.output.text
        program.process.send_signal(signal.SIGINT)
        assert program.wait() == 0
    assert cli.main(["logs", "-n", "--tail", "100", "--json", "--level", "info"]) == 0
    entries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert any(e.get("fields", {}).get("host") == target for e in entries)
    assert [e["timestamp"] for e in entries] == sorted(e["timestamp"] for e in entries)
    assert cli.main(["logs", "-n"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(entries)


@pytest.mark.parametrize(
    "command",
    ["status", "connections", "requests", "backends", "mesh", "reload", "events", "logs"],
)
def test_wrong_tokens(
    command: str, reach: RealDaemon, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.delenv("BIFROST_TOKEN")
    assert cli.main([command]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert err == (
        "bifrost-lite: A token is needed. Give one by BIFROST_TOKEN or --token.\n"
    )


def test_the_daemon_goes_away(capsys: Capture) -> None:
    with RealDaemon() as daemon, Program(
        [*PROGRAM, "events", "--url", daemon.url("")], environment()
    ) as events, Program(
        [*PROGRAM, "logs", "--tail", "9", "--url", daemon.url("")], environment()
    ) as logs:
        events.output.expect("stats.update")
        logs.output.expect("ready")
        daemon.stop()
        for program in (events, logs):
            assert program.wait() == 1
            assert program.output.matching("^bifrost-lite: the daemon .*(ended|went away)")
            assert "Traceback" not in program.output.text
    assert cli.main(["events", "--url", daemon.url("")]) == 5
    assert "is the daemon running?" in capsys.readouterr().err


def test_a_reader_that_leaves_ends_the_stream(reach: RealDaemon) -> None:
    command = " ".join([*PROGRAM, "logs", "-n", "--json", "|", "true"])
    with Program(["bash", "-o", "pipefail", "-c", command], environment()) as program:
        assert program.wait() == 0
        assert program.output.text == ""


@pytest.mark.parametrize("command", ["logs --tail 1", "events", "events --types events.lost"])
def test_a_reader_that_leaves_ends_it_before_more_is_told(
    command: str, reach: RealDaemon
) -> None:
    reader = "true" if "--types" in command else "head -n 1"
    line = f"{' '.join(PROGRAM)} {command} | {reader}"
    with Program(["bash", "-o", "pipefail", "-c", line], environment()) as program:
        assert program.wait() == 0
        assert len(program.output.text.splitlines()) == (reader != "true")


# Against others


@pytest.mark.parametrize(
    ("bytes_", "told"),
    [
        (b"", "closed the connection without an answer"),
        (b"HTTP/1.1 200 OK\r\n", "closed the connection without an answer"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20000, "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", "broke off"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", "breaks HTTP"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", "broke off"),
        (answer(b"{"), "not the JSON"),
        (answer(b"[]"), "not the JSON"),
        (answer(b"[" * 100000), "not the JSON"),
        (answer(b"<html>", 502), "answered 502, not as this daemon does"),
        (answer(b'{"message":7}', 400), "answered 400"),
        (answer(b"", 302, b"Location: http://evil/"), "answered 302"),
        (answer('{"message":"\x9b2J\u202e\\u001b[31m"}'.encode(), 503), "\\x9b2J\\u202e\\x1b[31m"),
    ],
)
@pytest.mark.parametrize("command", ["status", "logs"])
def test_strange_answers(command: str, bytes_: bytes, told: str, capsys: Capture) -> None:
    if command == "logs" and b" 200 " in bytes_ and told != "does not speak HTTP":
        told = "bifrost-lite:"  # a stream may end anywhere, and has its own tests
    with StandIn(bytes_) as other:
        assert cli.main([command, "--url", other.url]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert told in err
    assert err.rstrip("\n").isprintable()


def test_an_answer_without_end_is_cut(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(client, "BODY_LIMIT", 1000)
    with StandIn(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5000) as other:
        assert cli.main(["status", "--url", other.url]) == 1
    assert "sent more than 1000 bytes" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["status", "events"])
def test_silence_has_an_end(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(client, "PATIENCE", 0.2)
    with StandIn(b"", hold=True) as other:
        assert cli.main([command, "--url", other.url]) == 1
    assert "does not answer" in capsys.readouterr().err


def test_body_until_close_and_chunked(capsys: Capture) -> None:
    stats = b'{"status":"ok"}'
    for body in (
        b"HTTP/1.0 200 OK\r\n\r\n" + stats,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n"
        + stats[:5] + b"\r\n%x\r\n" % len(stats[5:]) + stats[5:] + b"\r\n0\r\n\r\n",
    ):  # fmt: skip
        with StandIn(body) as other:
            assert cli.main(["status", "--json", "--url", other.url]) == 0
        assert json.loads(capsys.readouterr().out)["status"] == "ok"


def test_the_request(capsys: Capture) -> None:
    with StandIn(answer(b"{}")) as other:
        assert cli.main(["close", "a b", "--url", f"{other.url}/x", "--token", "secret"]) == 0
    lines = other.requests[0].decode().split("\r\n")
    host = other.url.removeprefix("http://")
    assert lines[0] == "DELETE /x/api/v1/connections/a%20b HTTP/1.1"
    assert f"Host: {host}" in lines
    assert "Authorization: Bearer secret" in lines
    assert capsys.readouterr().out == "closed a b\n"


def test_a_request_with_a_body(capsys: Capture) -> None:
    with StandIn(answer(b"{}")) as other:
        assert cli.main(["reload", "--enforce", "--url", other.url]) == 0
    head, _, body = other.requests[0].decode().partition("\r\n\r\n")
    lines = head.split("\r\n")
    assert lines[0] == "POST /api/v1/config/reload HTTP/1.1"
    assert "Content-Type: application/json" in lines
    assert f"Content-Length: {len(body)}" in lines
    assert json.loads(body) == {"enforce": True}


@pytest.mark.parametrize(
    ("errors", "status", "told"),
    [
        ([{"section": "a\x1b", "field": "b", "message": "m", "line": 3}], 3, r"line 3: a\x1b.b: m"),
        ([{"section": "", "field": "", "message": ""}, {}], 3, "Bad."),
        ([], 1, "Bad."),
        ("none", 1, "answered 422"),
        ([{"line": "x"}], 1, "answered 422"),
    ],
)
def test_a_rejected_configuration(
    errors: object, status: int, told: str, capsys: Capture
) -> None:
    body = json.dumps({"error": "config_rejected", "message": "Bad.", "errors": errors})
    with StandIn(answer(body.encode(), 422)) as other:
        assert cli.main(["reload", "--url", other.url]) == status
    out, err = capsys.readouterr()
    assert not out
    assert told in err
    assert err.replace("\n", "").isprintable()


def test_log_lines_are_put_together_from_pieces() -> None:
    lines = client._Lines()
    stream = b'retry: 1\n: c\n\nid: 1\r\ndata: {"a":1}\r\n\r\ndata:x\ndata: y\n\n\n'
    got = [entry for byte in stream for entry in lines.feed(bytes((byte,)))]
    assert got == [b'{"a":1}', b"x\ny"] == [*client._Lines().feed(stream)]


@pytest.mark.parametrize(
    ("line", "count"), [(b"data: " + b"x" * 2**20, 1), (b"data: xyz\n", 2**17)]
)
def test_log_entries_are_bounded(line: bytes, count: int) -> None:
    with pytest.raises(ClientError, match="more than 1 MiB"):
        list(client._Lines().feed(line * count))


@contextmanager
def websocket(handler: Callable[[ServerConnection], None]) -> Iterator[str]:
    server: Server
    with serve(handler, "127.0.0.1", 0, ping_interval=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join()
    for end in (server.shutdown_watcher, server.shutdown_notifier):
        if isinstance(end, int):  # websockets before 17 leaves its wake-up pipe open
            os.close(end)


EVENT = '{"type":"x\u202e","timestamp":"T","data":{"a":1},"seq":1}'


def test_events_in_fragments_and_pings(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(client, "PING", 0.05)
    heard: list[str | bytes] = []

    def handler(peer: ServerConnection) -> None:
        peer.send([EVENT[:5], EVENT[5:]])
        for _ in range(2):
            heard.append(peer.recv(20))
            peer.send("pong")
        peer.send(b"binary is nothing")
        peer.ping().wait(20)

    with websocket(handler) as url:
        assert cli.main(["events", "--json", "--url", url]) == 1
    out, err = capsys.readouterr()
    assert out == EVENT.replace("\u202e", "\\u202e") + "\n"
    assert heard == ["ping", "ping"]
    assert "ended the stream: 1000" in err


@pytest.mark.parametrize(
    ("send", "told"),
    [
        (lambda peer: peer.close(1001, "bye\x1b[2J"), "ended the stream: 1001 bye\\x1b[2J"),
        (lambda peer: peer.socket.shutdown(socket.SHUT_RDWR), "went away"),
        (lambda peer: peer.send("x" * 2**21), "breaks WebSocket"),
        (lambda peer: peer.socket.sendall(b"\xff\xff"), "breaks WebSocket"),
        (lambda peer: peer.send("no json"), "not the JSON"),
    ],
)
def test_strange_streams(
    send: Callable[[ServerConnection], None], told: str, capsys: Capture
) -> None:
    with websocket(send) as url:
        assert cli.main(["events", "--url", url]) == 1
    assert told in capsys.readouterr().err


def test_a_silent_stream_is_dead(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(client, "SILENCE", 0.2)

    def silent(peer: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            peer.recv(20)

    with websocket(silent) as url:
        assert cli.main(["events", "--url", url]) == 1
    assert capsys.readouterr().err == f"bifrost-lite: {url} does not answer\n"
