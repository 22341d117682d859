"""The backend that dials from this host; how it dials is in the tests of `dial`."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from bifrost_lite.backends.base import Backend
from bifrost_lite.dispatch import Dispatcher, EpollDispatcher, PollDispatcher
from bifrost_lite.errors import Reason
from bifrost_lite.target import Target, parse_authority
from bifrost_lite.way import Way
from tests.plane_kit import Names, direct, until

CLIENT = b"\x7f\0\0\x01"


class Caller:
    """Who asks the backend for connections, and turns its dispatcher."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher
        self.backend: Backend = direct(dispatcher, Names(), self.guard, "out", seconds=10.0)
        self.told: list[tuple[socket.socket | None, Reason | None]] = []
        self.forbidden: set[int] = set()  # ports
        self.ways: list[Way | None] = []

    def guard(self, packed: bytes, port: int) -> Reason | None:
        return Reason.TARGET_DENIED if port in self.forbidden else None

    def done(
        self, sock: socket.socket | None, mask: int, reason: Reason | None, way: Way | None
    ) -> None:
        self.ways.append(way)
        if sock is not None:
            self.dispatcher.discard(sock.fileno(), sock)
        self.told.append((sock, reason))

    def reach(self, target: Target, *, probe: bool = False) -> tuple[bool, Reason | None]:
        """Whether a connection came of it, and why not."""
        if probe:
            self.backend.probe(target, self.done)
        else:
            self.backend.connect(target, CLIENT, self.done)

        def turned() -> bool:
            self.dispatcher.select(0)
            return bool(self.told)

        until(turned, "the connection")
        ((sock, reason),) = self.told
        self.told.clear()
        return sock is not None, reason


@pytest.fixture(params=[EpollDispatcher, PollDispatcher])
def caller(request: pytest.FixtureRequest) -> Iterator[Caller]:
    dispatcher = request.param()
    yield Caller(dispatcher)
    dispatcher.select(0)
    assert not dispatcher.handlers
    dispatcher.close()


def test_who_it_is(caller: Caller) -> None:
    assert (caller.backend.name, caller.backend.type) == ("out", "direct")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_it_connects(caller: Caller, host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as origin:
        port = origin.getsockname()[1]
        name = f"[{host}]" if ":" in host else host
        assert caller.reach(parse_authority(f"{name}:{port}".encode(), None)) == (True, None)
        origin.settimeout(10)
        connection, _ = origin.accept()
        connection.close()


def test_it_tells_why_not(caller: Caller) -> None:
    with socket.create_server(("127.0.0.1", 0)) as origin:
        port = origin.getsockname()[1]
    target = parse_authority(b"127.0.0.1:%d" % port, None)
    assert caller.reach(target) == (False, Reason.CONNECT_REFUSED)


def test_it_can_be_given_up(caller: Caller) -> None:
    with socket.create_server(("127.0.0.1", 0)) as origin:
        port = origin.getsockname()[1]
        target = parse_authority(b"127.0.0.1:%d" % port, None)
        caller.backend.connect(target, CLIENT, caller.done).cancel()
        caller.dispatcher.select(0)
        assert not caller.told


def test_it_counts_and_names_its_way(caller: Caller) -> None:
    (way,) = caller.backend.carriers(CLIENT)
    with socket.create_server(("127.0.0.1", 0)) as origin:
        port = origin.getsockname()[1]
        target = parse_authority(b"127.0.0.1:%d" % port, None)
        caller.reach(target)
    assert way.counters.failed == 0
    caller.reach(target)
    assert (way.counters.failed, way.counters.last_failure) == (1, "connect_refused")
    assert caller.ways == [way, way]


def test_a_probe_goes_where_clients_must_not_and_nobody_takes_note(caller: Caller) -> None:
    (way,) = caller.backend.carriers(CLIENT)
    with socket.create_server(("127.0.0.1", 0)) as origin:
        port = origin.getsockname()[1]
        caller.forbidden.add(port)
        target = parse_authority(b"127.0.0.1:%d" % port, None)
        assert caller.reach(target) == (False, Reason.TARGET_DENIED)
        way.counters.failed = 0
        assert caller.reach(target, probe=True) == (True, None)
    assert caller.reach(target, probe=True) == (False, Reason.CONNECT_REFUSED)
    assert (way.counters.failed, way.counters.latency) == (0, 0.0)
