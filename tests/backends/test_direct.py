"""The backend that dials from this host; how it dials is in the tests of `dial`."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from bifrost_lite.backends.base import Backend
from bifrost_lite.backends.direct import Direct
from bifrost_lite.dial import Dialler
from bifrost_lite.dispatch import Dispatcher, EpollDispatcher, PollDispatcher
from bifrost_lite.errors import Reason
from bifrost_lite.target import Target, parse_authority
from tests.plane_kit import Names, until

CLIENT = b"\x7f\0\0\x01"


class Caller:
    """Who asks the backend for connections, and turns its dispatcher."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher
        dialler = Dialler(dispatcher, Names(), lambda packed, port: None, seconds=10.0)
        self.backend: Backend = Direct("out", dialler)
        self.told: list[tuple[socket.socket | None, Reason | None]] = []

    def done(self, sock: socket.socket | None, mask: int, reason: Reason | None) -> None:
        if sock is not None:
            self.dispatcher.discard(sock.fileno(), sock)
        self.told.append((sock, reason))

    def reach(self, target: Target) -> tuple[bool, Reason | None]:
        """Whether a connection came of it, and why not."""
        self.backend.connect(target, CLIENT, self.done)

        def turned() -> bool:
            self.dispatcher.select(0)
            return bool(self.told)

        until(turned, "the connection")
        ((sock, reason),) = self.told
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
