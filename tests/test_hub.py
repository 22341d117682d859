"""The events of Bifrost's API page and docs/events.md: every sentence about them."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from bifrost_lite import events, hub
from bifrost_lite.config.schema import Control
from bifrost_lite.dispatch import Loop, PollDispatcher, make_dispatcher
from bifrost_lite.events import (
    TYPES,
    BackendHealth,
    ConfigChange,
    ConfigFault,
    ConfigRejected,
    ConnectionClose,
    ConnectionFailed,
    ConnectionNew,
    Data,
    Event,
    EventsLost,
    StatsUpdate,
)
from tests.control_fixtures import DIRECT, Daemon, new, running

DATA = Path(__file__).parent / "data" / "events"
WHEN = 1705312800.9  # 2024-01-15T10:00:00Z, and most of a second

GOLDEN: dict[str, Data] = {
    "connection.new": ConnectionNew(
        "CONNECT", "api.example.com:443", "direct", "192.168.1.100", 7, "default"
    ),
    "connection.close": ConnectionClose(
        "SOCKS5", "[2001:db8::1]:443", "direct", "192.168.1.100", 7, "default",
        1000, 20000, 1500, "closed",
    ),
    "connection.failed": ConnectionFailed(
        "HTTP", "slow-api.example.com:80", "direct", "fd00::5", 8, "default", "connect_timeout"
    ),
    "backend.health": BackendHealth(
        "wireguard-us", False, "down", "no answer", "2024-01-15T09:59:30Z"
    ),
    "config.reload": ConfigChange(["routes", "rate_limit"], False),
    "config.saved": ConfigChange(["backends"], True),
    "config.rejected": ConfigRejected([ConfigFault("log", "level", "got \"loud\"")]),
    "stats.update": StatsUpdate(25, 5000, 104857600, 209715200, "0123456789abcdef"),
    "events.lost": EventsLost(None, "0123456789abcdef"),
}  # fmt: skip

# What Bifrost's API page shows of each, in its order.
SEED = {
    "backend.health": ["name", "healthy"],
    "connection.new": ["protocol", "host", "backend", "client_ip"],
    "connection.close": ["protocol", "host", "backend", "client_ip"],
    "config.reload": ["changed_sections", "requires_restart"],
    "config.saved": ["changed_sections", "requires_restart"],
    "stats.update": [
        "active_connections", "total_connections", "bytes_sent", "bytes_received",
    ],
}  # fmt: skip


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with running() as daemon:
        yield daemon


def watch(daemon: Daemon, query: str = "") -> ClientConnection:
    # A client that stopped reading waits in vain for the answer to its close frame.
    return connect(f"ws://127.0.0.1:{daemon.port}/api/v1/ws{query}", close_timeout=0.5)


def receive(client: ClientConnection) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(client.recv(timeout=10))
    return message


def picture(client: ClientConnection) -> list[dict[str, Any]]:
    """What comes on connect."""
    messages = [receive(client)]
    while messages[-1]["type"] != "stats.update":
        messages.append(receive(client))
    return messages


# The envelope and the types.


@pytest.mark.parametrize("kind", TYPES)
def test_golden_frames(kind: str) -> None:
    """The very bytes; clients depend on each of them."""
    text = Event(kind, WHEN, GOLDEN[kind], 42).encode()
    assert text + b"\n" == (DATA / f"{kind}.json").read_bytes()
    message = json.loads(text)
    assert list(message) == ["type", "timestamp", "data", "seq"]
    assert (message["type"], message["timestamp"]) == (kind, "2024-01-15T10:00:00Z")
    assert list(message["data"])[: len(SEED.get(kind, []))] == SEED.get(kind, [])


def test_golden_frames_are_all_there() -> None:
    assert {path.stem for path in DATA.glob("*.json")} == set(TYPES) == set(GOLDEN)


def test_extra_keys() -> None:
    for kind in ("connection.new", "connection.close", "connection.failed"):
        assert {"id", "route"} <= set(TYPES[kind].__struct_fields__)
    closing = {"bytes_sent", "bytes_received", "duration_ms", "reason"}
    assert closing <= set(ConnectionClose.__struct_fields__)
    assert {"reason", "since"} <= set(BackendHealth.__struct_fields__)


def test_hostile_names_are_escaped() -> None:
    text = Event("connection.new", WHEN, new('"><img onerror=1>\n\u2028\x00:443'), 1).encode()
    assert b"\n" not in text
    assert json.loads(text)["data"]["host"] == '"><img onerror=1>\n\u2028\x00:443'


def test_one_text_frame_each_in_order(daemon: Daemon) -> None:
    with watch(daemon) as client:
        picture(client)
        daemon.publish(100)
        messages = [receive(client) for _ in range(100)]
    assert [message["seq"] for message in messages] == list(range(1, 101))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", messages[0]["timestamp"])


# On connect.


def test_picture_on_connect(daemon: Daemon) -> None:
    daemon.publish(3)
    with watch(daemon) as client:
        first, second = picture(client)
    assert first["data"] == {
        "name": "direct", "healthy": True, "state": "up", "reason": "not checked",
        "since": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    assert second["data"] == {
        "active_connections": 25, "total_connections": 5000, "bytes_sent": 104857600,
        "bytes_received": 209715200, "boot": daemon.hub.boot,
    }  # fmt: skip
    assert first["seq"] == second["seq"] == 3  # they repeat the last and consume none
    assert daemon.hub.ring.last == 3


def test_live_events_follow_the_picture_once(daemon: Daemon) -> None:
    """What waits to be flushed when a client comes is not told to it twice."""
    with watch(daemon) as early:
        picture(early)
        daemon.publish(5)
        with watch(daemon, "?since=0") as client:
            seen = [message["seq"] for message in picture(client)]
            daemon.publish()
            seen.append(receive(client)["seq"])
        assert seen == [1, 2, 3, 4, 5, 5, 5, 6]
        assert [receive(early)["seq"] for _ in range(6)] == [1, 2, 3, 4, 5, 6]


# Coming back.


def test_replay(daemon: Daemon) -> None:
    daemon.publish(10)
    with watch(daemon, f"?since=7&boot={daemon.hub.boot}") as client:
        assert [m["seq"] for m in picture(client)[:3]] == [8, 9, 10]
    with watch(daemon, "?since=10") as client:
        assert [m["type"] for m in picture(client)] == ["backend.health", "stats.update"]


def test_gap_in_replay(daemon: Daemon) -> None:
    daemon.publish(hub.RING + 50)
    with watch(daemon, f"?since=20&boot={daemon.hub.boot}") as client:
        lost, *rest = picture(client)
        assert (lost["type"], lost["data"]) == (
            "events.lost", {"lost": 30, "boot": daemon.hub.boot},
        )  # fmt: skip
        assert lost["seq"] == 50
        assert [m["seq"] for m in rest[:-2]] == list(range(51, hub.RING + 51))


@pytest.mark.parametrize("query", ["?since=1&boot=0123", "?since=999", "?since=999&boot=0123"])
def test_foreign_boot(daemon: Daemon, query: str) -> None:
    daemon.publish(3)
    with watch(daemon, query) as client:
        messages = picture(client)
    assert [m["type"] for m in messages] == ["events.lost", "backend.health", "stats.update"]
    assert messages[0]["data"] == {"lost": None, "boot": daemon.hub.boot}
    assert {m["seq"] for m in messages} == {3}


def test_replay_is_filtered(daemon: Daemon) -> None:
    daemon.publish(2)
    daemon.publish(2, client_ip="10.0.0.9")
    with watch(daemon, "?since=0&client=10.0.0.9&types=connection.new,stats.update") as client:
        assert [m["seq"] for m in picture(client)] == [3, 4, 4]


def test_ring_keeps_structs(daemon: Daemon) -> None:
    daemon.publish(hub.RING + 1)
    assert len(daemon.hub.ring) == hub.RING == 256
    assert all(isinstance(event, Event) for event in daemon.hub.ring.newest_first())


# Filters.


def test_types(daemon: Daemon) -> None:
    with watch(daemon, "?types=connection.close,backend.health") as client:
        assert receive(client)["type"] == "backend.health"
        daemon.publish(5)
        daemon.do(daemon.hub.publish, "connection.close", GOLDEN["connection.close"])
        assert receive(client)["seq"] == 6  # gaps are normal


def test_client(daemon: Daemon) -> None:
    """What is about no client passes."""
    with watch(daemon, "?client=0:0::7") as client:
        picture(client)
        daemon.publish(3)
        daemon.publish(1, client_ip="::7")
        daemon.do(daemon.hub.publish, "config.saved", GOLDEN["config.saved"])
        assert [receive(client)["seq"] for _ in range(2)] == [4, 5]


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("?types=connection.new,nonsense", "types"),
        ("?types=*", "types"),
        ("?client=router", "client"),
        ("?client=192.168.1.0/24", "client"),
        ("?since=-1", "since"),
        ("?since=x", "since"),
        ("?since=" + "9" * 30, "since"),
        ("?boot=%ff", "boot"),
    ],
)
def test_bad_parameters(daemon: Daemon, query: str, name: str) -> None:
    with pytest.raises(InvalidStatus) as caught:
        watch(daemon, query)
    assert caught.value.response.status_code == 400
    body = json.loads(caught.value.response.body or b"")
    assert body["error"] == "bad_parameter"
    assert f"'{name}'" in body["message"]
    assert daemon.hub.seats.taken == 0


def test_empty_and_unknown_parameters_are_ignored(daemon: Daemon) -> None:
    with watch(daemon, "?types=&client=&since=&boot=&v=1&token=x") as client:
        assert len(picture(client)) == 2


# Gathering.


def test_events_wait_for_company_but_not_long(daemon: Daemon) -> None:
    with watch(daemon) as client:
        picture(client)
        start = time.monotonic()
        daemon.publish()
        receive(client)
        assert time.monotonic() - start < 5
        daemon.wait(lambda: not daemon.hub._fanout._items)
        daemon.publish(31)
        assert daemon.do(lambda: daemon.hub._fanout._flush_timer) is not None
        for _ in range(31):
            receive(client)


def test_thirty_two_events_or_sixteen_kilobytes_go_out_at_once(daemon: Daemon) -> None:
    source = daemon.hub._fanout
    with watch(daemon) as client:
        picture(client)

        def publish(count: int, host: str) -> int:
            for _ in range(count):
                daemon.hub.publish("connection.new", new(host))
            return len(source._items)

        assert daemon.do(publish, 32, "a:1") == 0
        assert daemon.do(publish, 5, "x" * 4000 + ":1") == 1
        daemon.wait(lambda: not source._items)
        assert [receive(client)["seq"] for _ in range(37)] == list(range(1, 38))


def test_health_goes_out_at_once(daemon: Daemon) -> None:
    """And what waited goes before it."""
    with watch(daemon) as client:
        picture(client)

        def publish() -> int:
            daemon.hub.publish("connection.new", new())
            daemon.hub.publish("backend.health", DIRECT)
            return len(daemon.hub._fanout._items)

        assert daemon.do(publish) == 0
        assert [receive(client)["type"] for _ in range(2)] == ["connection.new", "backend.health"]


def test_encoded_once_for_all_and_never_for_nobody(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    framed: list[bytes] = []
    real, real_frame = events.Event.encode, hub.text_frame
    monkeypatch.setattr(
        events.Event, "encode", lambda event: encoded.append(event.seq) or real(event)
    )
    monkeypatch.setattr(hub, "text_frame", lambda text: framed.append(text) or real_frame(text))
    daemon.publish(5)
    assert encoded == []
    types = "?types=connection.new"
    with watch(daemon) as one, watch(daemon) as two, watch(daemon, types) as three:
        for client in (one, two):
            picture(client)
        encoded.clear()
        framed.clear()
        daemon.publish(3)
        for client in (one, two, three):
            assert [receive(client)["seq"] for _ in range(3)] == [6, 7, 8]
        assert encoded == [6, 7, 8]
        assert len(framed) == 3


# Losses.


def test_slow_client_is_told_what_it_lost(daemon: Daemon) -> None:
    """The count is exact, and stands where the lost ones would have stood."""
    listener = daemon.control._server._acceptor._listeners[0]
    daemon.do(listener.setsockopt, socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with watch(daemon) as client, watch(daemon) as quick:
        assert len(picture(client)) == len(picture(quick)) == 2
        published = 0
        while not daemon.hub.lost:
            daemon.publish(256)
            published += 256
            for _ in range(256):
                assert receive(quick)["type"] == "connection.new"
        daemon.publish(100)
        published += 100
        seen = 0
        lost = 0
        last = 0
        while seen + lost < published:
            message = receive(client)
            if message["type"] == "events.lost":
                assert message["data"]["boot"] == daemon.hub.boot
                lost += message["data"]["lost"]
                assert message["seq"] == last + message["data"]["lost"]
            else:
                assert message["seq"] == last + 1
                seen += 1
            last = message["seq"]
        assert seen + lost == published == last
        assert lost == daemon.hub.lost > 0


def test_filter_does_not_filter_losses(daemon: Daemon) -> None:
    listener = daemon.control._server._acceptor._listeners[0]
    daemon.do(listener.setsockopt, socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with watch(daemon, "?types=connection.new") as client:
        while not daemon.hub.lost:
            daemon.publish(512)
        types = set()
        while "events.lost" not in types:
            types.add(receive(client)["type"])
        assert types == {"connection.new", "events.lost"}


# Statistics.


def test_stats_only_while_somebody_watches() -> None:
    with running(stats_interval=0.1) as daemon:
        assert daemon.timers() == []
        with watch(daemon) as client:
            assert [m["type"] for m in picture(client)][-1] == "stats.update"
            daemon.publish(2)
            daemon.plane.counters = (1, 2, 3, 4)
            messages = [receive(client) for _ in range(4)]
        updates = [m for m in messages if m["type"] == "stats.update"]
        assert updates[-1]["data"] == {
            "active_connections": 1, "total_connections": 2, "bytes_sent": 3, "bytes_received": 4,
            "boot": daemon.hub.boot,
        }  # fmt: skip
        assert updates[-1]["seq"] == 2
        daemon.wait(lambda: daemon.hub.clients == 0)
        assert daemon.timers() == []


def test_stats_off() -> None:
    with running(stats_interval=0) as daemon, watch(daemon) as client:
        picture(client)  # the present picture has them all the same
        assert daemon.hub._stats_timer is None


def test_idle_hub_has_no_timer(daemon: Daemon) -> None:
    with watch(daemon) as client:
        picture(client)
        assert len(daemon.timers()) == 2  # pings and statistics
        daemon.publish()
        receive(client)
        assert len(daemon.timers()) == 2
    daemon.wait(lambda: daemon.hub.clients == 0)
    assert daemon.timers() == []
    daemon.publish(100)
    assert daemon.timers() == []


# Clients.


def test_cap_is_told_before_the_upgrade() -> None:
    """The clients of Bifrost's API page back off on a refused connection, not on a closed one."""
    with running(max_clients=2) as daemon, watch(daemon) as one, watch(daemon):
        with pytest.raises(InvalidStatus) as caught:
            watch(daemon)
        assert caught.value.response.status_code == 503
        assert caught.value.response.headers["Retry-After"] == "5"
        assert json.loads(caught.value.response.body or b"")["error"] == "too_many_clients"
        assert daemon.get("/api/v1/health").status == 200
        one.close()
        daemon.wait(lambda: daemon.hub.clients == 1)
        with watch(daemon) as three:
            picture(three)


def test_many_bad_handshakes_cost_no_seat() -> None:
    with running(max_clients=1) as daemon:
        for _ in range(5):
            assert daemon.get("/api/v1/ws", "Upgrade: websocket").status == 400
        with watch(daemon) as client:
            picture(client)


def test_token_is_checked_before_the_upgrade() -> None:
    with running(token="secret-token", read_token="read-token") as daemon:
        for query in ("", "?token=wrong"):
            with pytest.raises(InvalidStatus) as caught:
                watch(daemon, query)
            assert caught.value.response.status_code == 401
        for token in ("secret-token", "read-token"):
            with watch(daemon, f"?token={token}") as client:
                assert len(picture(client)) == 2
        url = f"ws://127.0.0.1:{daemon.port}/api/v1/ws"
        with connect(url, additional_headers={"Authorization": "Bearer secret-token"}) as client:
            picture(client)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1.evil.example"])
def test_foreign_pages_are_refused_before_the_upgrade(daemon: Daemon, origin: str) -> None:
    with pytest.raises(InvalidStatus) as caught:
        connect(f"ws://127.0.0.1:{daemon.port}/api/v1/ws", origin=origin)  # type: ignore[arg-type]
    assert caught.value.response.status_code == 403


def test_asyncio_client(daemon: Daemon) -> None:
    """The Python client of Bifrost's API page uses this one: it offers deflate and pings by itself."""

    async def session() -> list[object]:
        url = f"ws://127.0.0.1:{daemon.port}/api/v1/ws?token=your-token"
        async with connect_async(url, ping_interval=0.05) as client:
            messages: list[object] = [await client.recv() for _ in range(2)]
            await client.send("ping")
            messages.append(await client.recv())
            await asyncio.sleep(0.2)
            await (await client.ping())
            daemon.publish()
            messages.append(json.loads(await client.recv())["seq"])
        return messages

    assert asyncio.run(session())[2:] == ["pong", 1]


def test_shutdown_closes_1001() -> None:
    with ExitStack() as clients:
        with running() as daemon:
            client, second = (clients.enter_context(watch(daemon)) for _ in range(2))
            picture(client)
            daemon.publish()
        assert receive(client)["seq"] == 1  # what was gathered is not lost
        for each in (client, second):
            with pytest.raises(ConnectionClosed) as caught:
                while True:
                    each.recv(timeout=5)
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1001


def test_shutdown_waits_for_nobody_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "GOODBYE", 0.1)
    with running() as daemon, daemon.connect() as silent:
        silent.sendall(
            b"GET /api/v1/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            b"Sec-WebSocket-Version: 13\r\n\r\n"
        )
        daemon.wait(lambda: daemon.hub.clients == 1)


def test_portable_selector() -> None:
    with running(PollDispatcher()) as daemon, watch(daemon) as client:
        picture(client)
        daemon.publish(40)
        assert [receive(client)["seq"] for _ in range(40)] == list(range(1, 41))


# From inside select().


def test_publish_from_the_data_plane() -> None:
    """A callback of the data plane arms the flush timer while the loop sleeps in select."""
    with running() as daemon, watch(daemon) as client:
        picture(client)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)

        class Owner:
            def wants(self, fd: int) -> int:
                return 1

            def crash(self) -> None:
                raise AssertionError

            def on_event(self, mask: int) -> None:
                ours.recv(100)
                daemon.hub.publish("connection.new", new())

        daemon.do(daemon.loop.dispatcher.attach, ours.fileno(), Owner().on_event)
        theirs.send(b"x")
        assert receive(client)["seq"] == 1
        daemon.do(daemon.loop.dispatcher.discard, ours.fileno(), ours)
        theirs.close()


def test_publish_without_clients_costs_nothing_but_the_struct() -> None:
    loop = Loop(make_dispatcher())
    quiet = hub.Hub(loop, Control())
    for _ in range(1000):
        quiet.publish("connection.new", new())
    assert not loop.dispatcher.wake
    assert loop._scheduled == []  # type: ignore[attr-defined]
    assert quiet.ring.last == 1000
    loop.close()
