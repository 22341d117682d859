"""What the client commands ask for and print; the tests of `client` have the real daemon."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator

import pytest

from bifrost_lite import commands
from bifrost_lite.client import ClientError, NotRunning, Rejected
from bifrost_lite.errors import Fault
from bifrost_lite.options import BAD_CONFIG, FAILED, NOT_RUNNING, OK, Args, UsageError

Asked = list[tuple[str, str, object]]


class StandIn:
    """Answers what a test wants."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **answers: bytes | Exception) -> None:
        self.answers = answers
        self.messages: list[bytes | BaseException] = []
        self.asked: Asked = []
        self.found: tuple[str, str] = ("", "")
        monkeypatch.setattr(commands, "find", self.find)

    def find(self, url: str, token: str, environment: dict[str, str]) -> StandIn:
        self.found = (url, token)
        return self

    def call(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        body: object = None,
        patience: float = 0.0,
    ) -> bytes:
        self.asked.append((method, path, query if body is None else body))
        answer = self.answers[path.strip("/").partition("/")[0]]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _stream(self) -> Iterator[bytes]:
        for message in self.messages:
            if isinstance(message, BaseException):
                raise message
            yield message

    def events(self, query: dict[str, str], path: str = "/ws") -> Iterator[bytes]:
        self.asked.append(("", path, query))
        return self._stream()

    def logs(self, query: dict[str, str]) -> Iterator[bytes]:
        self.asked.append(("", "logs", query))
        return self._stream()


def args(*words: str, **options: str) -> Args:
    return Args({key.replace("_", "-"): value for key, value in options.items()}, list(words))


def test_status(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    daemon = StandIn(monkeypatch, status=b'{"version":"1"}', stats=b'{"total_connections":5}')
    assert commands.run("status", args(json="", url="http://x:1", token="t")) == OK
    told = json.loads(capsys.readouterr().out)
    assert told == {"version": "1", "stats": {"total_connections": 5}}
    assert daemon.found == ("http://x:1", "t")
    assert commands.run("status", args()) == OK
    assert "total_connections" in capsys.readouterr().out


ONE = {
    "id": 7, "client_ip": "192.0.2.1", "protocol": "HTTP", "host": "evil\x1b[2J:80", "backend": "b",
    "route": "r", "age": 61, "bytes_sent": 2048, "bytes_received": 3,
}  # fmt: skip


def test_connections(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    answer = json.dumps({"connections": [ONE, "no object", {}]}).encode()
    StandIn(monkeypatch, connections=answer)
    assert commands.run("connections", args()) == OK
    head, row, empty = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["ID", "CLIENT", "PROTOCOL"]
    assert row.split()[:4] == ["7", "192.0.2.1", "HTTP", r"evil\x1b[2J:80"]
    assert commands.run("connections", args(json="")) == OK
    assert json.loads(capsys.readouterr().out)["connections"][0] == ONE


@pytest.mark.parametrize("answer", [b"{}", b'{"connections":null}', b'{"connections":{"a":1}}'])
def test_strange_connections(
    answer: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    StandIn(monkeypatch, connections=answer)
    assert commands.run("connections", args()) == OK
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_connections_of_a_client(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clients = [{"client_ip": "::1", "connections": 2, "bytes_sent": 1, "first_seen": "T"}]
    daemon = StandIn(monkeypatch, connections=json.dumps({"clients": clients}).encode())
    assert commands.run("connections", args(client="192.0.2.1")) == OK
    assert commands.run("connections", args(by_client="")) == OK
    *_, head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["CLIENT", "OPEN", "SENT", "RECEIVED", "SINCE"]
    assert row.split() == ["::1", "2", "1", "B", "-", "T"]
    assert [(path, query) for _, path, query in daemon.asked] == [
        ("/connections", {"client": "192.0.2.1"}), ("/connections/clients", None),
    ]  # fmt: skip


def test_close_of_a_client(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon = StandIn(monkeypatch, connections=b'{"closed":3}')
    assert commands.run("close", args(client="::1")) == OK
    assert commands.run("close", args(client="::1", json="")) == OK
    assert capsys.readouterr().out == 'closed connections of ::1: 3\n{"closed":3}\n'
    assert daemon.asked == [("DELETE", "/connections", {"client": "::1"})] * 2


REQUEST = {
    "id": 3, "timestamp": "2024-01-15T10:00:00Z", "method": "GET", "url": "a.example/\x1b",
    "client_ip": "192.0.2.1", "backend": "direct", "status_code": 200, "duration_ms": 150,
    "bytes_sent": 10, "bytes_received": 2000, "error": "",
}  # fmt: skip


def test_requests(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    answer = {"enabled": True, "requests": [REQUEST, REQUEST | {"url": "older"}, 7]}
    daemon = StandIn(monkeypatch, requests=json.dumps(answer).encode())
    assert commands.run("requests", args(limit="5")) == OK
    out, err = capsys.readouterr()
    head, older, newer = out.splitlines()
    assert head.split() == [
        "TIME", "CLIENT", "METHOD", "URL", "STATUS", "BACKEND", "TOOK", "SENT", "RECEIVED", "ERROR",
    ]  # fmt: skip
    assert newer.split() == [
        "2024-01-15T10:00:00Z", "192.0.2.1", "GET", r"a.example/\x1b", "200", "direct", "150",
        "ms", "10", "B", "2.0", "KiB", "-",
    ]  # fmt: skip
    assert "older" in older
    assert commands.run("requests", args(json="")) == OK
    assert json.loads(capsys.readouterr().out)["requests"][0] == REQUEST
    assert [query for _, _, query in daemon.asked] == [{"limit": "5"}, {"limit": ""}]
    assert not err


def test_requests_that_are_not_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    StandIn(monkeypatch, requests=b'{"enabled":false,"requests":[],"cleared":0}')
    assert commands.run("requests", args()) == OK
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1
    assert "log.requests = 0" in err


def test_requests_are_forgotten(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon = StandIn(monkeypatch, requests=b'{"message":"x","cleared":7}')
    assert commands.run("requests", args(clear="")) == OK
    assert capsys.readouterr().out == "forgot 7 requests\n"
    assert daemon.asked == [("DELETE", "/requests", None)]


@pytest.mark.parametrize(("ok", "status"), [("true", OK), ("false", FAILED)])
def test_a_test(
    ok: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = b'{"ok":%s,"backend":"a/b","carrier":"a/b","target":"x:1","message":"Oh."}'
    daemon = StandIn(monkeypatch, backends=answer % ok.encode())
    assert commands.run("test", args("a/b", "x:1")) == status
    assert capsys.readouterr().out.endswith("Oh.\n")
    assert commands.run("test", args("a", json="")) == status
    assert json.loads(capsys.readouterr().out)["target"] == "x:1"
    assert commands.run("test", args("a", "\udcff")) == status
    assert daemon.asked == [
        ("POST", "/backends/a%2Fb/test", {"target": "x:1"}), ("POST", "/backends/a/test", {}),
        ("POST", "/backends/a/test", {"target": "\ufffd"}),
    ]  # fmt: skip


NETWORKS = {"networks": [{"id": "home", "name": "H\x1b", "cidr": "10.1.0.0/16", "peer_count": 2,
                          "created": "T", "source": "registry"}]}  # fmt: skip
PEERS = {"peers": [{"id": "p1", "name": "laptop", "public_key": "key=", "virtual_ip": "10.1.0.2",
                    "endpoints": [{"address": "::1", "port": 5, "type": "lan"}],
                    "metadata": {"os": "x\u202e"}}, {}]}  # fmt: skip


def test_networks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    daemon = StandIn(monkeypatch, mesh=json.dumps(NETWORKS).encode())
    assert commands.run("mesh", args()) == OK
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["ID", "NAME", "CIDR", "PEERS", "SOURCE", "CREATED"]
    assert row.split() == ["home", r"H\x1b", "10.1.0.0/16", "2", "registry", "T"]
    assert commands.run("mesh", args(json="")) == OK
    assert json.loads(capsys.readouterr().out) == NETWORKS
    assert {(method, path) for method, path, _ in daemon.asked} == {("GET", "/mesh/networks")}


def test_peers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    daemon = StandIn(monkeypatch, mesh=json.dumps(PEERS).encode())
    assert commands.run("mesh", args("a/b")) == OK
    head, row, empty = capsys.readouterr().out.splitlines()
    assert head.split() == ["ID", "NAME", "ADDRESS", "ENDPOINTS", "METADATA", "KEY"]
    assert row.split() == ["p1", "laptop", "10.1.0.2", "[::1]:5", "(lan)", r"os=x\u202e", "key="]
    assert set(empty.split()) == {"-"}
    assert commands.run("mesh", args("a", json="")) == OK
    assert json.loads(capsys.readouterr().out) == PEERS
    assert [path for _, path, _ in daemon.asked] == [
        "/mesh/networks/a%2Fb/peers", "/mesh/networks/a/peers",
    ]  # fmt: skip


def test_peers_come_and_go(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon = StandIn(monkeypatch)
    daemon.messages = [b'{"type":"peer.left","timestamp":"T","data":{"peer_id":"p1","name":"n"}}']
    assert commands.run("mesh", args("a/b", follow="")) == OK
    assert capsys.readouterr().out == "T  peer.left          peer_id=p1 name=n\n"
    assert daemon.asked == [("", "/mesh/networks/a%2Fb/events", {})]


class Terminal(io.StringIO):
    """A standard output that is a terminal of so many columns."""

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return 99

    def reconfigure(self, **_: object) -> None:
        pass


def test_a_table_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    StandIn(monkeypatch, connections=json.dumps({"connections": [ONE] * 2}).encode())
    told = {}
    for columns in (200, 80, 60):
        monkeypatch.setattr(os, "get_terminal_size", lambda fd, c=columns: os.terminal_size((c, 9)))
        terminal = Terminal()
        monkeypatch.setattr("sys.stdout", terminal)
        assert commands.run("connections", args()) == OK
        told[columns] = terminal.getvalue()
        assert max(map(len, told[columns].splitlines())) <= columns
    assert "ROUTE" in told[200]
    for text in told.values():
        assert text.split()[:2] == ["ID", "CLIENT"]
        assert "HOST" in text


def test_close(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    daemon = StandIn(monkeypatch, connections=b"")
    assert commands.run("close", args("../7?x")) == OK
    assert commands.run("close", args("7", json="")) == OK
    assert capsys.readouterr().out == "closed ../7?x\n{}\n"
    assert [path for _, path, _ in daemon.asked] == ["/connections/..%2F7%3Fx", "/connections/7"]
    assert {method for method, _, _ in daemon.asked} == {"DELETE"}


BACKEND = {
    "name": "wg", "type": "interface", "healthy": True, "state": "up", "reason": "evil\x1b[2J",
    "stats": {"active_connections": 2, "total_connections": 7, "bytes_sent": 2048,
              "bytes_received": 3, "errors": 1, "latency_ms": 12.5},
}  # fmt: skip


def test_backends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    StandIn(monkeypatch, backends=json.dumps([BACKEND, "no object", {"stats": 7}]).encode())
    assert commands.run("backends", args()) == OK
    head, row, empty = capsys.readouterr().out.splitlines()
    assert head.split() == [
        "NAME", "TYPE", "STATE", "OPEN", "TOTAL", "SENT", "RECEIVED", "ERRORS", "LATENCY",
        "REASON",
    ]  # fmt: skip
    assert row.split() == [
        "wg", "interface", "up", "2", "7", "2.0", "KiB", "3", "B", "1", "12.5", "ms",
        r"evil\x1b[2J",
    ]  # fmt: skip
    assert set(empty.split()) == {"-"}
    assert commands.run("backends", args(json="")) == OK
    assert json.loads(capsys.readouterr().out)[0] == BACKEND


@pytest.mark.parametrize(
    "answer",
    [b'{"bytes_sent":1%s}' % (b"0" * 400), b'{"listeners":[{"a":%s1%s}]}' % (b'{"a":' * 800, b"}" * 800)],
    ids=["large", "deep"],
)
def test_what_cannot_be_shown(
    answer: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in = StandIn(monkeypatch, status=b'{"status":%s}' % answer, stats=b"{}")
    assert commands.run("status", args()) == FAILED
    stand_in.messages = [b'{"type":"connection.close","data":{"duration_ms":1%s}}' % (b"0" * 400)]
    assert commands.run("events", args()) == FAILED
    out, err = capsys.readouterr()
    assert not out
    assert err.count("bifrost-lite: the daemon's answer is too large or too deep") == 2


@pytest.mark.parametrize("answer", [b"{}", b'{"backends":[]}', b"7", b"[" * 100000])
def test_strange_backends(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    StandIn(monkeypatch, backends=answer)
    assert commands.run("backends", args()) == FAILED


def test_route(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    daemon = StandIn(monkeypatch, routes=b'{"host":"a.example","port":80,"allowed":false}')
    assert commands.run("route", args("A.Example", **{"from": "::1", "port": "80"})) == OK
    assert capsys.readouterr().out.startswith("a.example:80 for - is refused: -\n")
    assert commands.run("route", args("a\udcff", json="")) == OK
    assert json.loads(capsys.readouterr().out)["port"] == 80
    assert daemon.asked == [
        ("POST", "/routes/test", {"host": "A.Example", "port": 80, "client_ip": "::1"}),
        ("POST", "/routes/test", {"host": "a\ufffd"}),
    ]


def test_reload(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    answer = b'{"changed_sections":["routes"],"kept":2,"closed":0}'
    daemon = StandIn(monkeypatch, config=answer)
    assert commands.run("reload", args()) == OK
    assert capsys.readouterr().out == (
        "Changed: routes.\nConnections: 2 go on, 0 were closed.\n"
    )
    assert commands.run("reload", args(enforce="", json="")) == OK
    assert json.loads(capsys.readouterr().out)["kept"] == 2
    assert daemon.asked == [
        ("POST", "/config/reload", {"enforce": False}),
        ("POST", "/config/reload", {"enforce": True}),
    ]


def test_a_reload_that_is_rejected(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    faults = [
        Fault("routes[0]", "backend", "there is no backend 'x\x1b'", 7),
        Fault("listen", "", "taken"),
    ]
    StandIn(monkeypatch, config=Rejected("It has faults.\x1b", faults))
    assert commands.run("reload", args()) == BAD_CONFIG
    out, err = capsys.readouterr()
    assert not out
    assert err.splitlines() == [
        r"bifrost-lite: It has faults.\x1b",
        r"line 7: routes[0].backend: there is no backend 'x\x1b'",
        "listen: taken",
    ]
    assert commands.run("reload", args(json="")) == BAD_CONFIG
    told = json.loads(capsys.readouterr().out)
    assert [fault["line"] for fault in told["errors"]] == [7, 0]
    assert told["message"] == "It has faults.\x1b"


def test_events(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    daemon = StandIn(monkeypatch)
    daemon.messages = [b'{"type":"config.reload","data":{}}', KeyboardInterrupt()]
    options = {"types": "a,b", "client": "192.0.2.1", "since": "7", "boot": "x"}
    assert commands.run("events", args(json="", **options)) == OK
    assert json.loads(capsys.readouterr().out)["type"] == "config.reload"
    assert daemon.asked == [("", "/ws", options)]


@pytest.mark.parametrize("since", ["x", "-1", str(2**53 + 1)])
def test_since_is_a_number(since: str, monkeypatch: pytest.MonkeyPatch) -> None:
    StandIn(monkeypatch)
    with pytest.raises(UsageError):
        commands.run("events", args(since=since))


def test_logs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    daemon = StandIn(monkeypatch)
    daemon.messages = [b'{"type":"connected"}', b'{"level":"warn","message":"hot"}']
    assert commands.run("logs", args(level="warn", tail="3")) == OK
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith("hot")
    assert daemon.asked == [("", "logs", {"level": "warn", "tail": "3"})]


def test_what_is_remembered_is_told_oldest_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = [{"message": "second"}, {"message": "first"}, "no entry"]
    daemon = StandIn(monkeypatch, logs=json.dumps({"entries": entries}).encode())
    assert commands.run("logs", args(no_follow="", json="")) == OK
    told = [json.loads(line)["message"] for line in capsys.readouterr().out.splitlines()]
    assert told == ["first", "second"]
    assert daemon.asked == [("GET", "/logs", {"level": "", "limit": ""})]


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (NotRunning("nobody\x1b"), NOT_RUNNING),
        (ClientError("no\x1b"), FAILED),
        (b"", FAILED),
        (b"[]", FAILED),
        (b"[" * 100000, FAILED),
    ],
    ids=["not running", "error", "nothing", "list", "deep"],
)
def test_how_it_fails(
    answer: bytes | Exception,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    StandIn(monkeypatch, status=answer)
    assert commands.run("status", args()) == status
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("bifrost-lite: ")
    assert "\x1b" not in err


def test_a_key_ends_a_stream(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon = StandIn(monkeypatch)
    daemon.messages = [KeyboardInterrupt()]
    assert commands.run("events", args()) == OK
    assert capsys.readouterr() == ("", "\n")
