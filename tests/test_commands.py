"""What the client commands ask for and print; the tests of `client` have the real daemon."""

from __future__ import annotations

import json
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

    def events(self, query: dict[str, str]) -> Iterator[bytes]:
        self.asked.append(("", "events", query))
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
        "NAME", "TYPE", "STATE", "ACTIVE", "TOTAL", "SENT", "RECEIVED", "ERRORS", "LATENCY",
        "REASON",
    ]  # fmt: skip
    assert row.split() == [
        "wg", "interface", "up", "2", "7", "2.0", "KiB", "3", "B", "1", "12.5", "ms",
        r"evil\x1b[2J",
    ]  # fmt: skip
    assert set(empty.split()) == {"-"}
    assert commands.run("backends", args(json="")) == OK
    assert json.loads(capsys.readouterr().out)[0] == BACKEND


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
    assert daemon.asked == [("", "events", options)]


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
