"""Reaching targets: order and stagger of RFC 8305, guards, deadlines, and what is left: nothing."""

from __future__ import annotations

import errno
import os
import socket
from _socket import socket as Socket
from collections.abc import Iterator

import pytest

from bifrost_lite import dial
from bifrost_lite.dial import ADDRESS_LIMIT, Dial, Dialler, _take_turns
from bifrost_lite.dispatch import Dispatcher
from bifrost_lite.errors import Reason
from bifrost_lite.target import parse_authority, unpack
from bifrost_lite.way import Way
from tests.plane_kit import (
    Names,
    Origin,
    Proxy,
    both,
    get,
    packed,
    until,
)

Selector = type[Dispatcher]

NEVER = 3600.0  # seconds; a wait that no test sees the end of


class Bench:
    """Dials on a dispatcher that the test turns by hand.

    Attributes:
        opened: addresses dialled, in order
        results: what the dials came to
    """

    def __init__(self, selector: type[Dispatcher]) -> None:
        self.dispatcher = selector()
        self.names = Names()
        self.opened: list[str] = []
        self.results: list[tuple[socket.socket | None, int, Reason | None]] = []
        self.forbidden: dict[str, Reason] = {}
        self._origins: list[Origin] = []

    def dialler(self, **settings: object) -> Dialler:
        bench = self

        class Noted(Dialler):
            __slots__ = ()

            def open(self, packed: bytes, port: int) -> Socket:
                bench.opened.append(unpack(packed))
                return super().open(packed, port)

        return Noted(self.dispatcher, self.names, self.guard, **settings)  # type: ignore[arg-type]

    def guard(self, packed: bytes, port: int) -> Reason | None:
        return self.forbidden.get(unpack(packed))

    def dial(self, host: str, port: int, **settings: object) -> Dial:
        target = parse_authority(f"{host}:{port}".encode(), None)
        return Dial(self.dialler(**settings), target, self.finished)

    def finished(
        self, sock: socket.socket | None, mask: int, reason: Reason | None, way: Way | None
    ) -> None:
        if sock is not None:
            self.dispatcher.handlers[sock.fileno()] = self.quiet
        self.results.append((sock, mask, reason))

    def quiet(self, mask: int) -> None:
        """The handler of a connection that a dial made."""

    def wants(self, fd: int) -> int:
        return 0

    def done(self) -> tuple[socket.socket | None, Reason | None]:
        """Turn until a dial is done; its socket is discarded at the end."""

        def turned() -> bool:
            self.turn()
            return bool(self.results)

        until(turned, "the dial")
        sock, _, reason = self.results.pop(0)
        if sock is not None:
            self.dispatcher.discard(sock.fileno(), sock)
        return sock, reason

    def turn(self) -> None:
        self.dispatcher.select(0)

    def peer(self) -> tuple[str, str]:
        """Own and far address of the connection that the dial made."""

        def turned() -> bool:
            self.turn()
            return bool(self.results)

        until(turned, "the dial")
        sock, mask, reason = self.results[0]
        assert sock is not None
        assert (reason, bool(mask)) == (None, True)
        names = sock.getsockname()[0], sock.getpeername()[0]
        self.done()
        return names

    def origin(self, host: str = "127.0.0.1", port: int = 0, *, backlog: int = 16) -> Origin:
        origin = Origin(host, port, backlog=backlog)
        self._origins.append(origin)
        return origin

    def hole(self, host: str, port: int = 0) -> Origin:
        """Where connecting never comes to anything."""
        origin = self.origin(host, port, backlog=0)
        origin.fill()
        return origin

    def close(self) -> None:
        """Nothing may be left of any dial."""
        for origin in self._origins:
            origin.close()
        self.turn()
        assert not self.results
        assert not self.dispatcher.handlers
        assert not any(deadlines.since for deadlines in self.dispatcher.deadlines)
        assert not self.names.held
        self.dispatcher.close()


@pytest.fixture(params=["epoll", "poll"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    from bifrost_lite.dispatch import EpollDispatcher, PollDispatcher

    bench = Bench(EpollDispatcher if request.param == "epoll" else PollDispatcher)
    yield bench
    bench.close()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No attempt but the first, unless one before it failed."""
    monkeypatch.setattr(dial, "STAGGER", NEVER)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "STAGGER", 0.01)
    monkeypatch.setattr(dial, "RESOLUTION_DELAY", 0.01)


def test_times_of_rfc_8305() -> None:
    assert (dial.STAGGER, dial.RESOLUTION_DELAY) == (0.25, 0.05)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_literal(bench: Bench, host: str) -> None:
    origin = bench.origin(host)
    bench.dial(f"[{host}]" if ":" in host else host, origin.port)
    assert bench.peer() == (host, host)
    assert not bench.names.asked


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_refused(bench: Bench, host: str) -> None:
    origin = bench.origin(host)
    origin.sock.close()
    bench.dial(f"[{host}]" if ":" in host else host, origin.port)
    assert bench.done() == (None, Reason.CONNECT_REFUSED)


def test_socket_options(bench: Bench) -> None:
    origin = bench.origin()
    bench.dial("127.0.0.1", origin.port)
    until(lambda: bench.turn() or bench.results)  # type: ignore[func-returns-value]
    sock = bench.results[0][0]
    assert sock is not None
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert not sock.getblocking()
    bench.done()


# Names.


def test_ipv6_goes_first(bench: Bench, patient: None) -> None:
    six = bench.origin("::1")
    bench.names.known["a.test"] = ["127.0.0.1", "::1"][::-1]
    bench.dial("a.test", six.port)
    assert bench.peer()[1] == "::1"
    assert bench.opened == ["::1"]


def test_closed_port_of_the_first_family_costs_no_wait(bench: Bench, patient: None) -> None:
    four = bench.origin("127.0.0.1")
    bench.names.known["a.test"] = ["::1", "127.0.0.1"]
    bench.dial("a.test", four.port)
    assert bench.peer()[1] == "127.0.0.1"
    assert bench.opened == ["::1", "127.0.0.1"]


def test_dead_first_family_costs_one_stagger(bench: Bench, hasty: None) -> None:
    four = bench.origin("127.0.0.1")
    bench.hole("::1", four.port)
    bench.names.known["a.test"] = ["::1", "127.0.0.1"]
    bench.dial("a.test", four.port)
    assert bench.peer()[1] == "127.0.0.1"
    assert bench.opened == ["::1", "127.0.0.1"]


def test_nothing_else_is_dialled_before_the_stagger(bench: Bench, patient: None) -> None:
    four = bench.origin("127.0.0.1")
    bench.hole("::1", four.port)
    bench.names.known["a.test"] = ["::1", "127.0.0.1"]
    attempt = bench.dial("a.test", four.port)
    for _ in range(5):
        bench.turn()
    assert bench.opened == ["::1"]
    attempt.cancel()


def test_families_take_turns(bench: Bench) -> None:
    origin = bench.origin()
    origin.sock.close()
    names = ["::1", "fe80::1", "fe80::2", "127.0.0.1", "127.0.0.2"]
    bench.names.known["a.test"] = names
    bench.forbidden = dict.fromkeys(["fe80::1", "fe80::2"], Reason.TARGET_DENIED)
    bench.dial("a.test", origin.port)
    assert bench.done()[0] is None
    assert bench.opened == ["::1", "127.0.0.1", "127.0.0.2"]


@pytest.mark.parametrize(
    ("fresh", "tried", "order"),
    [
        ("", "", ""),
        ("6", "", "6"),
        ("4 4", "", "4 4"),
        ("6 6 6 4", "", "6 4 6 6"),
        ("4 4 6", "", "4 6 4"),
        ("4 4 6 6", "6", "4 6 4 6"),
        ("6 6 4", "6", "4 6 6"),
        ("6 6", "6", "6 6"),
    ],
)
def test_turns(fresh: str, tried: str, order: str) -> None:
    def made(text: str, mark: int) -> list[bytes]:
        sizes = [16 if word == "6" else 4 for word in text.split()]
        return [bytes([mark + number] * size) for number, size in enumerate(sizes)]

    turns = _take_turns(made(fresh, 1), made(tried, 100))
    assert [len(address) for address in turns] == [16 if w == "6" else 4 for w in order.split()]
    for size in (4, 16):  # the resolver's order within a family
        own = [address for address in turns if len(address) == size]
        assert own == [address for address in made(fresh, 1) if len(address) == size]


def test_addresses_are_bounded(bench: Bench) -> None:
    origin = bench.origin()
    origin.sock.close()
    bench.names.known["a.test"] = [f"127.0.0.{number}" for number in range(1, 40)]
    bench.dial("a.test", origin.port)
    assert bench.done() == (None, Reason.CONNECT_REFUSED)
    assert len(bench.opened) == ADDRESS_LIMIT


# Answers that come one by one.


def test_ipv4_waits_for_ipv6(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "RESOLUTION_DELAY", NEVER)
    six = bench.origin("::1")
    bench.dial("a.test", six.port)
    bench.names.answer("a.test", ["127.0.0.1"], None, False)
    bench.turn()
    assert bench.opened == []
    bench.names.answer("a.test", ["::1", "127.0.0.1"], None, True)
    assert bench.peer()[1] == "::1"
    assert bench.opened == ["::1"]


def test_ipv4_waits_no_longer_than_it_must(bench: Bench, hasty: None) -> None:
    four = bench.origin()
    bench.dial("a.test", four.port)
    bench.names.answer("a.test", ["127.0.0.1"], None, False)
    assert bench.peer()[1] == "127.0.0.1"
    assert bench.names.cancelled == ["a.test"]


def test_ipv4_goes_at_once_when_there_is_no_ipv6(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dial, "RESOLUTION_DELAY", NEVER)
    four = bench.origin()
    bench.dial("a.test", four.port)
    bench.names.answer("a.test", ["127.0.0.1"], None, False)
    bench.names.answer("a.test", ["127.0.0.1"], None, True)
    assert bench.peer()[1] == "127.0.0.1"


def test_ipv6_goes_at_once(bench: Bench, patient: None) -> None:
    six = bench.origin("::1")
    bench.dial("a.test", six.port)
    bench.names.answer("a.test", ["::1"], None, False)
    assert bench.peer()[1] == "::1"
    assert bench.names.cancelled == ["a.test"]


def test_late_ipv6_joins_the_race(bench: Bench, hasty: None) -> None:
    six = bench.origin("::1")
    bench.hole("127.0.0.1", six.port)
    bench.dial("a.test", six.port)
    bench.names.answer("a.test", ["127.0.0.1"], None, False)
    until(lambda: bench.turn() or bench.opened)  # type: ignore[func-returns-value]
    bench.names.answer("a.test", ["::1", "127.0.0.1"], None, True)
    assert bench.peer()[1] == "::1"
    assert bench.opened == ["127.0.0.1", "::1"]


def test_late_address_after_all_others_failed(bench: Bench, hasty: None) -> None:
    six = bench.origin("::1")
    bench.dial("a.test", six.port)
    bench.names.answer("a.test", ["127.0.0.1"], None, False)
    until(lambda: bench.turn() or (bench.opened and not bench.dispatcher.handlers))  # type: ignore[func-returns-value]
    assert not bench.results
    bench.names.answer("a.test", ["::1", "127.0.0.1"], None, True)
    assert bench.peer()[1] == "::1"


def test_no_late_address_after_all_others_failed(bench: Bench, hasty: None) -> None:
    origin = bench.origin()
    origin.sock.close()
    bench.dial("a.test", origin.port)
    bench.names.answer("a.test", ["127.0.0.1"], None, False)
    until(lambda: bench.turn() or (bench.opened and not bench.dispatcher.handlers))  # type: ignore[func-returns-value]
    bench.names.answer("a.test", ["127.0.0.1"], None, True)
    assert bench.done() == (None, Reason.CONNECT_REFUSED)


@pytest.mark.parametrize(
    "reason", [Reason.DNS_NOT_FOUND, Reason.DNS_FAILED, Reason.DNS_TIMEOUT, None]
)
def test_no_address(bench: Bench, reason: Reason | None) -> None:
    bench.dial("a.test", 80)
    bench.names.answer("a.test", [], reason, True)
    assert bench.done() == (None, reason or Reason.DNS_NOT_FOUND)


# Family and source.


@pytest.mark.parametrize(
    ("family", "order"),
    [
        ("auto", ["::1", "127.0.0.1"]),
        ("4", ["127.0.0.1"]),
        ("6", ["::1"]),
        ("prefer4", ["127.0.0.1", "::1"]),
    ],
)
def test_family(bench: Bench, family: str, order: list[str]) -> None:
    origin = bench.origin()
    origin.sock.close()
    names = ["127.0.0.1", "::1"] if family == "prefer4" else ["::1", "127.0.0.1"]
    bench.names.known["a.test"] = names
    bench.dial("a.test", origin.port, family=family)
    assert bench.done() == (None, Reason.CONNECT_REFUSED)
    assert bench.opened == order
    assert bench.names.asked == [("a.test", family)]


def test_preferred_ipv4_goes_at_once_and_ipv6_waits(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dial, "RESOLUTION_DELAY", NEVER)
    four = bench.origin()
    bench.dial("a.test", four.port, family="prefer4")
    bench.names.answer("a.test", ["::1"], None, False)
    assert bench.opened == []
    bench.names.answer("a.test", ["127.0.0.1", "::1"], None, True)
    assert bench.peer()[1] == "127.0.0.1"
    bench.dial("b.test", four.port, family="prefer4")
    bench.names.answer("b.test", ["127.0.0.1"], None, False)
    assert bench.peer()[1] == "127.0.0.1"
    assert bench.opened == ["127.0.0.1"] * 2


@pytest.mark.parametrize(("family", "host"), [("4", "[::1]"), ("6", "127.0.0.1")])
def test_literal_of_the_other_family(bench: Bench, family: str, host: str) -> None:
    bench.dial(host, 80, family=family)
    assert bench.done() == (None, Reason.NET_UNREACHABLE)
    assert bench.opened == []


def test_source(bench: Bench) -> None:
    origin = bench.origin()
    bench.names.known["a.test"] = ["::1", "127.0.0.1"]
    bench.dial("a.test", origin.port, source="127.0.0.9")
    assert bench.peer() == ("127.0.0.9", "127.0.0.1")
    assert bench.opened == ["127.0.0.1"]


def test_source_of_ipv6(bench: Bench) -> None:
    origin = bench.origin("::1")
    bench.names.known["a.test"] = ["127.0.0.1", "::1"]
    bench.dial("a.test", origin.port, source="::1")
    assert bench.peer() == ("::1", "::1")


def test_source_spares_the_wait_for_the_other_family(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dial, "RESOLUTION_DELAY", NEVER)
    origin = bench.origin()
    bench.dial("a.test", origin.port, source="127.0.0.9")
    bench.names.answer("a.test", ["127.0.0.1"], None, False)
    assert bench.peer() == ("127.0.0.9", "127.0.0.1")


def test_source_that_is_not_ours(bench: Bench) -> None:
    bench.dial("127.0.0.1", 80, source="192.0.2.1")
    assert bench.done() == (None, Reason.NET_UNREACHABLE)


# Guards.


def test_guard_of_a_literal(bench: Bench) -> None:
    bench.forbidden = {"127.0.0.1": Reason.TARGET_DENIED}
    bench.dial("127.0.0.1", 80)
    assert bench.done() == (None, Reason.TARGET_DENIED)
    assert bench.opened == []


def test_guard_of_all_addresses(bench: Bench) -> None:
    """A name that was made to resolve to this machine."""
    bench.forbidden = dict.fromkeys(["127.0.0.1", "::1"], Reason.TARGET_DENIED)
    bench.names.known["rebound.test"] = ["::1", "127.0.0.1"]
    bench.dial("rebound.test", 80)
    assert bench.done() == (None, Reason.TARGET_DENIED)
    assert bench.opened == []


def test_guard_of_some_addresses(bench: Bench, patient: None) -> None:
    origin = bench.origin()
    bench.forbidden = dict.fromkeys(["127.0.0.2", "::1"], Reason.TARGET_DENIED)
    bench.names.known["a.test"] = ["::1", "127.0.0.2", "127.0.0.1"]
    bench.dial("a.test", origin.port)
    assert bench.peer()[1] == "127.0.0.1"
    assert bench.opened == ["127.0.0.1"]


def test_guard_of_addresses_that_come_late(bench: Bench, hasty: None) -> None:
    bench.forbidden = {"127.0.0.1": Reason.TARGET_DENIED}
    bench.dial("a.test", 80)
    bench.names.answer("a.test", ["127.0.0.1"], None, False)
    for _ in range(3):
        bench.turn()
    bench.names.answer("a.test", ["127.0.0.1"], None, True)
    assert bench.done() == (None, Reason.TARGET_DENIED)


# Deadline, failures, cancelling.


def test_deadline_while_resolving(bench: Bench) -> None:
    bench.dial("a.test", 80, seconds=0.02)
    assert bench.done() == (None, Reason.DNS_TIMEOUT)
    assert bench.names.cancelled == ["a.test"]


def test_deadline_while_connecting(bench: Bench, hasty: None) -> None:
    hole = bench.hole("127.0.0.1")
    bench.hole("127.0.0.2", hole.port)
    bench.names.known["a.test"] = ["127.0.0.1", "127.0.0.2"]
    bench.dial("a.test", hole.port, seconds=0.1)
    assert bench.done() == (None, Reason.CONNECT_TIMEOUT)
    assert bench.opened == ["127.0.0.1", "127.0.0.2"]


def test_deadline_counts_resolving_and_connecting_together(bench: Bench) -> None:
    hole = bench.hole("127.0.0.1")
    attempt = bench.dial("a.test", hole.port, seconds=0.2)
    started = attempt.dialler.deadline.since[attempt]
    bench.names.answer("a.test", ["127.0.0.1"], None, True)
    bench.turn()
    assert attempt.dialler.deadline.since[attempt] == started
    assert bench.done() == (None, Reason.CONNECT_TIMEOUT)


def test_deadline_when_all_known_addresses_are_forbidden(bench: Bench, hasty: None) -> None:
    """The missing answer is to blame only where nothing else is."""
    bench.forbidden = {"127.0.0.1": Reason.TARGET_DENIED}
    bench.dial("a.test", 80, seconds=0.1)
    bench.names.answer("a.test", ["127.0.0.1"], None, False)
    assert bench.done() == (None, Reason.TARGET_DENIED)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENETUNREACH, Reason.NET_UNREACHABLE),
        (errno.EHOSTUNREACH, Reason.HOST_UNREACHABLE),
        (errno.ETIMEDOUT, Reason.CONNECT_TIMEOUT),
        (errno.EMFILE, Reason.OUT_OF_DESCRIPTORS),
        (errno.EPERM, Reason.CONNECT_FAILED),
        (errno.EADDRNOTAVAIL, Reason.NET_UNREACHABLE),
    ],
)
def test_failure_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, number: int, reason: Reason
) -> None:
    def fail(self: Dialler, packed: bytes, port: int) -> socket.socket:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Dialler, "open", fail)
    bench.dial("127.0.0.1", 80)
    assert bench.done() == (None, reason)
    bench.names.known["a.test"] = ["127.0.0.1", "::1"]
    bench.dial("a.test", 80)
    assert bench.done() == (None, reason)


def test_failure_of_one_does_not_disturb_the_others(bench: Bench, hasty: None) -> None:
    """A hole, a closed port, then the right one."""
    origin = bench.origin("127.0.0.3")
    bench.hole("127.0.0.1", origin.port)
    bench.names.known["a.test"] = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    bench.dial("a.test", origin.port)
    assert bench.peer()[1] == "127.0.0.3"
    assert bench.opened == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]


def test_last_failure_waits_for_the_attempts_under_way(bench: Bench, hasty: None) -> None:
    hole = bench.hole("127.0.0.1")
    bench.names.known["a.test"] = ["127.0.0.1", "127.0.0.2"]
    bench.dial("a.test", hole.port, seconds=0.2)
    assert bench.done() == (None, Reason.CONNECT_TIMEOUT)
    assert bench.opened == ["127.0.0.1", "127.0.0.2"]


@pytest.mark.parametrize("state", ["resolving", "waiting for IPv6", "connecting", "staggered"])
def test_cancel(bench: Bench, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "RESOLUTION_DELAY", NEVER)
    monkeypatch.setattr(dial, "STAGGER", 0.01 if state == "staggered" else NEVER)
    hole = bench.hole("127.0.0.1")
    bench.hole("127.0.0.2", hole.port)
    attempt = bench.dial("a.test", hole.port)
    if state == "waiting for IPv6":
        bench.names.answer("a.test", ["127.0.0.1"], None, False)
    elif state != "resolving":
        bench.names.answer("a.test", ["127.0.0.1", "127.0.0.2"], None, True)
    if state == "staggered":
        until(lambda: bench.turn() or len(bench.opened) == 2)  # type: ignore[func-returns-value]
    bench.turn()
    attempt.cancel()
    attempt.cancel()
    attempt.resolved(packed(["127.0.0.1"]), None, True)  # a resolver that was too late
    assert bench.names.cancelled == (["a.test"] if state in ("resolving", "waiting for IPv6") else [])


def test_fault_in_an_attempt(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Dial, attempt: object, mask: int) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Dial, "connected", fail)
    origin = bench.origin()
    bench.dial("127.0.0.1", origin.port)
    assert bench.done() == (None, Reason.INTERNAL)


def test_no_way_there(bench: Bench) -> None:
    """The kernel says so at once: TCP never goes to a group, RFC 9293 section 3.9.2.3."""
    bench.dial("224.0.0.1", 80)
    assert bench.done() == (None, Reason.NET_UNREACHABLE)


@both
def test_domain_with_a_dead_family(selector: Selector, hasty: None) -> None:
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        hole = proxy.origin("::1", origin.port, backlog=0)
        hole.fill()
        proxy.names.known["half.test"] = ["::1", "127.0.0.1"]
        client = proxy.connect().send(get(f"http://half.test:{origin.port}/"))
        assert f"Host: half.test:{origin.port}".encode() in origin.accept().head()
        client.close()


