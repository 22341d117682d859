"""Backends: shown with live counts, and tested."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from bifrost_lite.api import backends as api
from bifrost_lite.backends.base import Backend
from bifrost_lite.backends.block import Block
from bifrost_lite.backends.group import Group
from bifrost_lite.condition import DOWN, Condition
from bifrost_lite.config import schema
from bifrost_lite.config.kinds import extra, unwrap
from bifrost_lite.errors import Reason
from bifrost_lite.events import BackendHealth, rfc3339
from tests.backends.group_kit import TARGET, Leaf
from tests.control_fixtures import SOON, Answer, Daemon, FakeSession, running
from tests.plane_kit import Names, Origin, direct, way

JSON = "Content-Type: application/json"
SETTINGS: tuple[schema.Backend, ...] = (
    schema.HttpProxy(
        name="office", address="proxy.example.net:3128", username="me", password="hush"
    ),
    schema.Direct(health=schema.Health(type="http", target="http://192.0.2.1/generate_204")),
    schema.Interface(name="wg", device="wg0", health=schema.Health(type="tcp", target="[::1]:53")),
    schema.Group(name="best", strategy="failover", members=("wg", "inner")),
    schema.Group(name="inner", strategy="ip_hash", members=("office", "direct")),
    schema.Block(name="stop"),
)


def put(daemon: Daemon, backends: list[Backend]) -> None:
    """These are the live ones."""
    daemon.plane.policy.backends = {backend.name: backend for backend in backends}


def states(daemon: Daemon) -> list[BackendHealth]:
    return [
        BackendHealth(b.name, b.condition.usable, b.condition.state, b.condition.reason, rfc3339(0))
        for b in daemon.plane.policy.backends.values()
    ]


def make_group(name: str, strategy: str, *members: Backend) -> Group:
    return Group(name, strategy, members, (), Condition(lambda condition: None))


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with running() as daemon:
        office, out, wg = Leaf("office"), Leaf("direct"), Leaf("wg")
        inner = make_group("inner", "ip_hash", office, out)
        stop = Block(way(daemon.loop.dispatcher, "stop", "block"))
        put(daemon, [office, out, wg, make_group("best", "failover", wg, inner), inner, stop])
        daemon.house.settings = schema.Settings(backends=SETTINGS)
        daemon.hub.health = lambda: states(daemon)
        yield daemon


def carried(daemon: Daemon, name: str, **counts: Any) -> None:
    counters = daemon.plane.policy.backends[name].carriers(b"")[0].counters
    for key, value in counts.items():
        setattr(counters, key, value)


def by_name(answer: Answer) -> dict[str, Any]:
    return {backend["name"]: backend for backend in answer.json}


# What there is.


def test_list(daemon: Daemon) -> None:
    answer = daemon.get("/api/v1/backends")
    assert list(by_name(answer)) == ["office", "direct", "wg", "best", "inner", "stop"]
    assert answer.headers["cache-control"] == "no-store"


def test_one(daemon: Daemon) -> None:
    carried(
        daemon, "direct", active=2, total=7, failed=1, sent=100, received=200, latency=0.01234,
        last_failure="connect_refused",
    )  # fmt: skip
    daemon.plane.connections = {
        1: FakeSession(daemon.plane, 1, bytes_sent=1, bytes_received=2),
        2: FakeSession(daemon.plane, 2, bytes_sent=10, bytes_received=20),
        3: FakeSession(daemon.plane, 3, backend="wg", bytes_sent=1000, bytes_received=2000),
    }
    body = daemon.get("/api/v1/backends/direct").json
    stats = {
        "name": "direct", "type": "direct", "healthy": True, "active_connections": 2,
        "total_connections": 7, "bytes_sent": 111, "bytes_received": 222, "errors": 1,
        "last_error": "connect_refused", "latency_ms": 12.3,
    }  # fmt: skip
    assert daemon.get("/api/v1/backends/direct/stats").json == body["stats"] == stats
    assert body.pop("settings")["connect_timeout"] == "10s"
    assert body == {
        "name": "direct", "type": "direct", "healthy": True, "state": "up",
        "reason": "not checked", "since": "1970-01-01T00:00:00Z", "stats": stats,
    }  # fmt: skip


def test_one_that_is_down(daemon: Daemon) -> None:
    condition = daemon.plane.policy.backends["wg"].condition
    condition.state, condition.reason = DOWN, "no answer"
    body = by_name(daemon.get("/api/v1/backends"))["wg"]
    assert [body[key] for key in ("healthy", "state", "reason")] == [False, "down", "no answer"]
    assert body["stats"]["healthy"] is False


def test_a_group_is_the_sum_of_its_leaves(daemon: Daemon) -> None:
    carried(daemon, "wg", active=1, total=2, failed=3, sent=4, received=5, latency=0.02)
    carried(daemon, "direct", active=10, total=20, failed=30, sent=40, received=50)
    carried(daemon, "office", failed=100, last_failure="upstream_timeout")
    daemon.plane.connections = {1: FakeSession(daemon.plane, 1, backend="wg", bytes_sent=1000)}
    body = daemon.get("/api/v1/backends/best").json
    assert body["stats"] == {
        "name": "best", "type": "group", "healthy": True, "active_connections": 11,
        "total_connections": 22, "bytes_sent": 1044, "bytes_received": 55, "errors": 133,
        "last_error": "upstream_timeout", "latency_ms": 20.0,
    }  # fmt: skip
    assert body["strategy"] == "failover"
    assert body["members"] == ["wg", "inner"]
    assert body["carriers"][0] == "wg"
    assert sorted(body["carriers"]) == ["direct", "office", "wg"]
    assert "strategy" not in daemon.get("/api/v1/backends/wg").json


def test_who_carries_a_client(daemon: Daemon) -> None:
    found = set()
    for number in range(20):
        client = f"10.0.0.{number}"
        one = daemon.get(f"/api/v1/backends/inner?client={client}").json["carriers"]
        several = by_name(daemon.get(f"/api/v1/backends?client={client}"))
        assert several["inner"]["carriers"] == one
        found.add(tuple(one))
    assert found == {("office", "direct"), ("direct", "office")}
    assert daemon.get("/api/v1/backends?client=router").status == 400


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "x"), ("GET", "%00"), ("GET", "x/stats"), ("POST", "x/test"), ("GET", "Direct")],
)
def test_unknown(daemon: Daemon, method: str, path: str) -> None:
    answer = daemon.get(f"/api/v1/backends/{path}", method=method)
    assert (answer.status, answer.json["error"]) == (404, "not_found")


# Settings, and what is secret in them.


def test_settings(daemon: Daemon) -> None:
    infos = by_name(daemon.get("/api/v1/backends"))
    assert infos["office"]["settings"]["address"] == "proxy.example.net:3128"
    assert infos["office"]["settings"]["password"] == "***"
    assert infos["wg"]["settings"]["device"] == "wg0"
    assert infos["best"]["settings"]["members"] == ["wg", "inner"]
    assert infos["stop"]["settings"] == {}
    assert b"hush" not in daemon.get("/api/v1/backends").body


def test_no_secret_is_an_empty_one(daemon: Daemon) -> None:
    daemon.house.settings = schema.Settings(backends=(schema.Socks5Proxy(name="office"),))
    infos = by_name(daemon.get("/api/v1/backends"))
    assert infos["office"]["settings"]["password"] == ""
    assert infos["wg"]["settings"] == {}


def test_every_secret_of_the_schema_is_hidden() -> None:
    for kind in schema.BACKENDS.values():
        for field in msgspec.structs.fields(kind):
            if extra(unwrap(field.type)[1], "secret"):
                shown = api._shown(kind(**{field.name: "hush"}))
                assert shown[field.name] == "***", f"{kind.__name__}.{field.name}"


# Tests through a backend.


def run_test(daemon: Daemon, name: str, body: str = "", *headers: str) -> Answer:
    """POST backends/{name}/test."""
    fields = headers or ((JSON,) if body else ())
    return daemon.get(
        f"/api/v1/backends/{name}/test", *fields, method="POST", body=body.encode()
    )


@pytest.fixture
def origin() -> Iterator[Origin]:
    origin = Origin()
    yield origin
    origin.close()


def put_real(daemon: Daemon, **settings: Any) -> Backend:
    """One that really dials."""
    backend = direct(daemon.loop.dispatcher, Names(), **settings)
    put(daemon, [backend])
    return backend


def test_it_connects(daemon: Daemon, origin: Origin) -> None:
    backend = put_real(daemon)
    body = run_test(daemon, "direct", f'{{"target": "{origin.authority}"}}').json
    assert 0 <= body.pop("latency_ms") < SOON * 1000
    assert body == {
        "ok": True, "backend": "direct", "carrier": "direct", "target": origin.authority,
        "reason": "", "message": "The connection stood.",
    }  # fmt: skip
    origin.accept().ended()
    assert backend.carriers(b"")[0].counters.total == 0


def test_it_does_not(daemon: Daemon, origin: Origin) -> None:
    backend = put_real(daemon)
    origin.close()
    body = run_test(daemon, "direct", f'{{"target": "{origin.authority}"}}').json
    assert (body["ok"], body["reason"]) == (False, "connect_refused")
    assert body["message"] == Reason.CONNECT_REFUSED.text
    assert backend.carriers(b"")[0].counters.failed == 0


def test_it_takes_too_long(
    daemon: Daemon, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "TEST_TIME", 0.05)
    silent = Leaf("direct", "later")
    put(daemon, [silent])
    body = run_test(daemon, "direct", '{"target": "192.0.2.1:443"}').json
    assert (body["ok"], body["reason"]) == (False, "connect_timeout")
    assert (silent.cancelled, silent.dialling) == (1, [])


def test_it_connects_as_its_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "TEST_TIME", 0.0)
    leaf = Leaf("direct", "later")

    async def both() -> Reason | None:
        test = asyncio.get_running_loop().create_task(api._dial(leaf, leaf.way, TARGET))
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(0, leaf.dialling[0].end, None)
        return (await test)[0]

    assert asyncio.run(both()) == Reason.CONNECT_TIMEOUT
    assert leaf.way.dispatcher.discarded == [leaf.sock]


def test_the_health_target(daemon: Daemon) -> None:
    targets = {name: run_test(daemon, name).json["target"] for name in ("direct", "wg", "best")}
    assert targets == {"direct": "192.0.2.1:80", "wg": "[::1]:53", "best": "[::1]:53"}
    assert run_test(daemon, "wg", "{}").json["target"] == "[::1]:53"
    assert run_test(daemon, "wg", '{"target": ""}').json["target"] == "[::1]:53"
    for name in ("office", "stop"):
        answer = run_test(daemon, name)
        assert (answer.status, answer.json["error"]) == (400, "no_target")


def test_a_health_target_with_a_port() -> None:
    health = schema.Health(type="http", target="http://[2001:db8::1]:8080/a:b?c")
    assert api._health_target(health).text == "[2001:db8::1]:8080"


def test_through_a_group(daemon: Daemon) -> None:
    wg, best = (daemon.plane.policy.backends[name] for name in ("wg", "best"))
    body = run_test(daemon, "best", '{"target": "api.example.com:443"}').json
    assert (body["ok"], body["backend"], body["carrier"]) == (True, "best", "wg")
    assert wg.asked == ["probe"]
    wg.condition.state = DOWN
    body = run_test(daemon, "best", '{"target": "api.example.com:443"}').json
    assert body["carrier"] == best.carriers(b"")[0].name != "wg"


def test_a_block_blocks(daemon: Daemon) -> None:
    body = run_test(daemon, "stop", '{"target": "api.example.com:443"}').json
    assert (body["ok"], body["reason"]) == (False, "blocked")


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ('{"target": "api.example.com"}', "bad_target"),
        ('{"target": "api.example.com:0"}', "bad_target"),
        ('{"target": "api.example.com:99999"}', "bad_target"),
        ('{"target": "a b:1"}', "bad_target"),
        ('{"target": "é.example:1"}', "bad_target"),
        ('{"target": "http://a.example:80/"}', "bad_target"),
        ('{"target": "127.1:80"}', "bad_target"),
        ('{"target": 1}', "bad_body"),
        ('{"target": null}', "bad_body"),
        ('["a.example:1"]', "bad_body"),
        ("{", "bad_body"),
        ('{"target": "\\ud800"}', "bad_body"),
        ('{"target": "a.example:1", "timeout": "5s"}', "unknown_fields"),
    ],
)
def test_bad_bodies(daemon: Daemon, body: str, word: str) -> None:
    answer = run_test(daemon, "wg", body)
    assert (answer.status, answer.json["error"]) == (400, word)
    assert not daemon.plane.policy.backends["wg"].asked


def test_a_body_is_json(daemon: Daemon) -> None:
    assert run_test(daemon, "wg", '{"target": "a.example:1"}', "X: y").status == 415
    answer = run_test(daemon, "wg", '{"target": "' + "a" * 70000 + '"}')
    assert (answer.status, answer.json["error"]) == (413, "body_too_large")


def test_one_at_a_time(daemon: Daemon) -> None:
    wg: Leaf = daemon.plane.policy.backends["wg"]
    wg.ends = "later"
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(run_test, daemon, "wg")
        daemon.wait(lambda: len(wg.dialling) == 1)
        answer = run_test(daemon, "wg")
        assert (answer.status, answer.json["error"]) == (409, "test_running")
        assert run_test(daemon, "direct").json["ok"] is True
        daemon.do(lambda: wg.dialling[0].end(None))
        assert first.result(SOON).json["ok"] is True
    wg.ends = None
    assert run_test(daemon, "wg").json["ok"] is True
    assert api._testing == set()


def test_the_daemon_stops_during_a_test() -> None:
    with running() as daemon:
        silent = Leaf("direct", "later")
        put(daemon, [silent])
        sock = socket.create_connection(("127.0.0.1", daemon.port), SOON)
        body = b'{"target": "192.0.2.1:1"}'
        sock.sendall(
            b"POST /api/v1/backends/direct/test HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"%b\r\nContent-Length: %d\r\n\r\n%b" % (JSON.encode(), len(body), body)
        )
        daemon.wait(lambda: len(silent.dialling) == 1)
    sock.close()
    assert (silent.cancelled, silent.dialling) == (1, [])
    assert api._testing == set()


def test_read_token_tests_nothing() -> None:
    with running(token="secret-token", read_token="read-token") as daemon:
        leaf = Leaf("direct")
        put(daemon, [leaf])
        daemon.hub.health = lambda: states(daemon)
        answer = run_test(daemon, "direct", "{}", "Authorization: Bearer read-token", JSON)
        assert (answer.status, answer.json["error"]) == (403, "read_only")
        assert not leaf.asked
        assert daemon.get("/api/v1/backends?token=read-token").status == 200
        assert daemon.get("/api/v1/backends").status == 401
