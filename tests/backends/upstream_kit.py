"""A backend with an upstream proxy whose part the test plays, byte by byte."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from bifrost_lite.backends.base import Backend, Connecting
from bifrost_lite.backends.http_proxy import HttpProxy
from bifrost_lite.backends.socks5_proxy import Socks5Proxy
from bifrost_lite.condition import Condition
from bifrost_lite.counters import Counters
from bifrost_lite.dial import Dialler, Guard
from bifrost_lite.dispatch import Dispatcher, Loop
from bifrost_lite.errors import Reason
from bifrost_lite.target import Target, parse_authority
from bifrost_lite.way import Way
from bifrost_lite.wire.upstream import basic, connect_request, socks_login, socks_request
from tests.plane_kit import DEADLINE, Names, Origin, Peer, anything, until

T = TypeVar("T")

CLIENT = b"\x7f\0\0\x01"
NAME = "www.example.com:443"
USER, PASSWORD = "me", "se:cret"
TYPES = {"http_proxy": HttpProxy, "socks5_proxy": Socks5Proxy}

GRANTED = b"HTTP/1.1 200 Connection established\r\n\r\n"
GRANTED5 = b"\x05\x00\x00\x01" + bytes(6)
METHOD5 = b"\x05\x00"


def target(text: str) -> Target:
    """From ``host:port``."""
    return parse_authority(text.encode(), None)


class Script(NamedTuple):
    """What is said for a tunnel to `NAME`.

    Attributes:
        type: of the backend
        login: it has credentials
        steps: what the backend says, and the upstream's answer to that
    """

    type: str
    login: bool
    steps: Sequence[tuple[bytes, bytes]]


_http = connect_request(target(NAME), b"")
_http_login = connect_request(target(NAME), basic(USER, PASSWORD))
_socks = socks_request(target(NAME))
SCRIPTS = {
    "http": Script("http_proxy", False, [(_http, GRANTED)]),
    "http-login": Script("http_proxy", True, [(_http_login, b"HTTP/1.0 200 OK\r\nA: b\r\n\r\n")]),
    "socks": Script("socks5_proxy", False, [(b"\5\1\0", METHOD5), (_socks, GRANTED5)]),
    "socks-login": Script(
        "socks5_proxy",
        True,
        [
            (b"\5\2\0\2", b"\5\2"),
            (socks_login(USER, PASSWORD), b"\1\0"),
            (_socks, b"\5\0\0\3\x05relay\x04\x38"),
        ],
    ),
}
# Each message of each script, by the script's name and the step's number.
STAGES = [(name, number) for name, script in SCRIPTS.items() for number in range(len(script.steps))]


class Told(NamedTuple):
    """What `done` was told, with the socket as a peer of the test's."""

    peer: Peer | None
    mask: int
    reason: Reason | None
    way: Way | None


class Noted(Condition):
    """A condition that notes what it is told.

    Attributes:
        worked: how often it was told that a dial worked
        failures: why and whither others failed
    """

    def __init__(self) -> None:
        super().__init__(lambda condition: None, watched=True)
        self.uneasy = True
        self.worked = 0
        self.failures: list[tuple[str, str]] = []

    def dial_worked(self, now: float) -> None:
        self.worked += 1

    def dial_failed(self, why: str, target: str, now: float) -> None:
        self.failures.append((why, target))


class Caller:
    """Who asks a backend for connections; its dispatcher turns in a thread. A context manager
    that fails where anything is left.

    Args:
        selector: the kind of dispatcher
        type: of the backend
        username, password, guard, seconds: of the backend
        upstream: the name of the upstream; by default its address
        dial_seconds: the dialler's own deadline; by default that of the whole
        backlog: of the upstream
    """

    def __init__(
        self,
        selector: type[Dispatcher],
        type: str,
        *,
        username: str = "",
        password: str = "",
        guard: Guard = anything,
        seconds: float = DEADLINE,
        upstream: str = "127.0.0.1",
        dial_seconds: float | None = None,
        backlog: int = 16,
    ) -> None:
        self.upstream = Origin(backlog=backlog)
        self.dispatcher = selector()
        self.loop = Loop(self.dispatcher)
        self.names = Names()
        self.condition = Noted()
        self.counters = Counters()
        self.way = Way("up", type, self.dispatcher, self.counters, self.condition)
        dialler = Dialler(self.dispatcher, self.names, anything, seconds=dial_seconds or seconds)
        proxy = target(f"{upstream}:{self.upstream.port}")
        make = TYPES[type]
        self.backend: Backend = make(self.way, dialler, proxy, username, password, guard, seconds)
        self.told: list[Told] = []
        self._peers: list[Peer] = []
        self._thread = threading.Thread(target=self.loop.run_forever, name="caller")

    def __enter__(self) -> Caller:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.settle()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(DEADLINE)
        left = dict(self.dispatcher.handlers)
        waiting = [owner for deadlines in self.dispatcher.deadlines for owner in deadlines.since]
        self.loop.close()
        self.upstream.close()
        for peer in self._peers:
            peer.close()
        if kind is None:
            assert not left
            assert not waiting
            assert not self.names.held

    def call(self, function: Callable[[], T]) -> T:
        """Run something on the dispatcher's thread."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        self.loop.call_soon_threadsafe(run)
        return future.result(DEADLINE)

    def settle(self) -> None:
        """Everything that was ready has been dealt with, and closed is what was discarded."""
        for _ in range(3):
            self.call(lambda: None)

    def connect(
        self, where: str = NAME, *, forward: bool = False, probe: bool = False
    ) -> Connecting:
        """Ask for a connection."""
        if probe:
            return self.call(lambda: self.backend.probe(target(where), self.done, forward))
        return self.call(lambda: self.backend.connect(target(where), CLIENT, self.done, forward))

    def done(self, sock: object, mask: int, reason: Reason | None, way: Way | None) -> None:
        """See `dial.Done`."""
        peer = None
        if sock is not None:
            self.dispatcher.detach(sock.fileno())
            peer = Peer(sock)
            self._peers.append(peer)
        self.told.append(Told(peer, mask, reason, way))

    def outcome(self) -> Told:
        """Wait for the only outcome."""
        until(lambda: self.told, "an outcome")
        self.settle()
        (told,) = self.told
        assert told.way is self.way
        return told

    def granted(self) -> Peer:
        """Wait for the connection."""
        peer, _, reason, _ = self.outcome()
        assert reason is None
        assert peer is not None
        return peer

    def refused(self) -> Reason:
        """Wait for the reason why there is none."""
        peer, mask, reason, _ = self.outcome()
        assert (peer, mask) == (None, 0)
        assert reason is not None
        return reason

    def nothing_judged(self) -> None:
        """The way was told nothing."""
        assert (self.condition.worked, self.condition.failures) == (0, [])
        assert (self.counters.failed, self.counters.latency) == (0, 0.0)

    def play(self, script: Script, until: int | None = None) -> Peer:
        """Take the connection and play the upstream's part up to the answer of step `until`,
        which is not sent, or to the end."""
        peer = self.upstream.accept()
        for number, (said, answer) in enumerate(script.steps):
            peer.expect(said)
            if number == until:
                break
            peer.send(answer)
        return peer


def scripted(selector: type[Dispatcher], script: Script, **options: Any) -> Caller:
    """The caller for a script; `options` are those of `Caller`."""
    login = (USER, PASSWORD) if script.login else ("", "")
    return Caller(selector, script.type, username=login[0], password=login[1], **options)
