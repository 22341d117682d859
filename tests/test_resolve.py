from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from bifrost_lite import dispatch, query, resolve, system
from bifrost_lite.dispatch import Dispatcher, EpollDispatcher, Loop, PollDispatcher
from bifrost_lite.errors import Reason
from bifrost_lite.resolve import Resolver
from bifrost_lite.wire.dns import AAAA, A, encode_name

FOUR, FOUR2, SIX, SIX2 = "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"
TIMEOUT = 0.5  # of the resolvers here; so a tick is a tenth of a second


def ip(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


class Asked(NamedTuple):
    """A question that reached a server."""

    name: str
    kind: int
    number: int
    wire: bytes  # the question section
    tcp: bool
    client: tuple[str, int]
    again: int  # how often this was asked before


Answer = Callable[[Asked], "list[bytes]"]
Later = tuple[float, Callable[[], None]]


def message(asked: Asked, *records: bytes, code: int = 0, flags: int = 0x8180) -> bytes:
    header = struct.pack("!6H", asked.number, flags | code, 1, len(records), 0, 0)
    return header + asked.wire + b"".join(records)


def record(data: bytes, ttl: int, kind: int, owner: bytes = b"\xc0\x0c") -> bytes:
    return owner + struct.pack("!HHIH", kind, 1, ttl, len(data)) + data


def addresses(*texts: str, ttl: int = 60) -> Answer:
    """Those of the kind that is asked for."""

    def answer(asked: Asked) -> list[bytes]:
        size = 4 if asked.kind == A else 16
        fit = [ip(text) for text in texts if len(ip(text)) == size]
        return [message(asked, *(record(packed, ttl, asked.kind) for packed in fit))]

    return answer


def code(number: int) -> Answer:
    return lambda asked: [message(asked, code=number)]


def silent(asked: Asked) -> list[bytes]:
    return []


def for_kind(four: Answer, six: Answer) -> Answer:
    return lambda asked: (four if asked.kind == A else six)(asked)


class NameServer:
    """A name server on loopback, by UDP and TCP; does its work in `turn`.

    Attributes:
        answers: what it says by name; SERVFAIL to others
        asked: what reached it
        delay: seconds before each answer
        stream: what a TCP connection gets for the bytes of an answer
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        while True:
            self.tcp = socket.create_server((host, 0), family=family)
            port = self.tcp.getsockname()[1]
            self.udp = socket.socket(family, socket.SOCK_DGRAM)
            try:
                self.udp.bind((host, port))
                break
            except OSError:
                self.close()
        self.udp.setblocking(False)
        self.tcp.setblocking(False)
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.answers: dict[str, Answer] = {}
        self.asked: list[Asked] = []
        self.delay: Callable[[Asked], float] = lambda asked: 0.0
        self.stream: Callable[[bytes], list[bytes]] = lambda data: [data]
        self.connections: list[socket.socket] = []
        self.later: list[Later] = []

    def close(self) -> None:
        for sock in (self.udp, self.tcp, *getattr(self, "connections", ())):
            sock.close()

    def kinds(self, name: str) -> list[int]:
        """The kinds that were asked for."""
        return [asked.kind for asked in self.asked if asked.name == name]

    def turn(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                data, client = self.udp.recvfrom(4096)
                self._take(data, client, self.udp)
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, _ = self.tcp.accept()
                self.connections.append(connection)
        for connection in list(self.connections):
            if connection.fileno() >= 0 and select.select([connection], [], [], 0)[0]:
                data = connection.recv(4096)
                if data:
                    assert len(data) == 2 + int.from_bytes(data[:2], "big")
                    self._take(data[2:], connection.getpeername(), connection)
                else:
                    connection.close()
        now = time.monotonic()
        for due, call in list(self.later):
            if due <= now:
                self.later.remove((due, call))
                call()

    def _take(self, data: bytes, client: tuple[str, int], sock: socket.socket) -> None:
        number, flags, *counts = struct.unpack_from("!6H", data)
        assert (flags, counts) == (0x0100, [1, 0, 0, 0]), "a plain question that wants recursion"
        labels, at = [], 12
        while data[at]:
            labels.append(data[at + 1 : at + 1 + data[at]].decode())
            at += 1 + data[at]
        kind, group = struct.unpack_from("!HH", data, at + 1)
        assert group == 1
        assert len(data) == at + 5
        name = ".".join(labels)
        tcp = sock is not self.udp
        before = [a for a in self.asked if (a.name, a.kind, a.tcp) == (name, kind, tcp)]
        asked = Asked(name, kind, number, data[12:], tcp, client, len(before))
        self.asked.append(asked)
        for reply in self.answers.get(name, code(2))(asked):
            due = time.monotonic() + self.delay(asked)
            self.later.append((due, self._sender(reply, asked, sock)))

    def _sender(self, reply: bytes, asked: Asked, sock: socket.socket) -> Callable[[], None]:
        def send() -> None:
            if not asked.tcp:
                sock.sendto(reply, asked.client)
                return
            for piece in self.stream(len(reply).to_bytes(2, "big") + reply):
                sock.sendall(piece)
                if not piece:
                    sock.close()
                    return

        return send


Told = tuple[tuple[bytes, ...], "Reason | None", bool]


class Bench:
    """A dispatcher, name servers, and resolvers that ask them."""

    def __init__(self, dispatcher: Dispatcher, folder: Path) -> None:
        self.dispatcher = dispatcher
        self.folder = folder
        self.servers: list[NameServer] = []
        self.resolvers: list[Resolver] = []
        self.hosts = folder / "hosts"
        self.resolv_conf = folder / "resolv.conf"
        self.passed = 0.0

    def server(self, host: str = "127.0.0.1") -> NameServer:
        self.servers.append(NameServer(host))
        return self.servers[-1]

    def resolver(
        self,
        *servers: str | NameServer,
        mode: str = "stub",
        timeout: float = TIMEOUT,
        device: str = "",
    ) -> Resolver:
        self.resolvers.append(
            Resolver(
                self.dispatcher,
                mode,
                [s if isinstance(s, str) else s.address for s in servers],
                timeout,
                device,
                str(self.resolv_conf),
                str(self.hosts),
            )
        )
        return self.resolvers[-1]

    def until(self, condition: Callable[[], object], seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it did not come"
            for server in self.servers:
                server.turn()
            self.dispatcher.select(0.002)

    def pass_time(self, seconds: float) -> None:
        """On the dispatcher's clock, the only one that a resolver sees."""
        self.passed += seconds
        self.dispatcher.select(0)

    def find(self, resolver: Resolver, name: str, family: str = "auto") -> list[Told]:
        """All that a look-up is told, to its end."""
        told: list[Told] = []
        resolver.lookup(name, family, lambda *what: told.append(what))
        self.until(lambda: told and told[-1][2])
        return told

    def close(self) -> None:
        for resolver in self.resolvers:
            resolver.close()
        for server in self.servers:
            server.close()
        assert self.dispatcher.handlers == {}
        assert self.dispatcher.deadlines == []
        self.dispatcher.close()


@pytest.fixture(params=[EpollDispatcher, PollDispatcher])
def bench(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    made = Bench(request.param(), tmp_path)
    monkeypatch.setattr(dispatch, "monotonic", lambda: time.monotonic() + made.passed)
    yield made
    made.close()


def done(*texts: str) -> Told:
    return tuple(ip(text) for text in texts), None, True


def failed(reason: Reason) -> Told:
    return (), reason, True


NOT_FOUND = failed(Reason.DNS_NOT_FOUND)
NO_ANSWER = failed(Reason.DNS_FAILED)
TOO_LATE = failed(Reason.DNS_TIMEOUT)


@pytest.mark.parametrize(
    ("family", "expected", "kinds"),
    [
        ("auto", [SIX, SIX2, FOUR, FOUR2], {A, AAAA}),
        ("prefer4", [FOUR, FOUR2, SIX, SIX2], {A, AAAA}),
        ("4", [FOUR, FOUR2], {A}),
        ("6", [SIX, SIX2], {AAAA}),
    ],
)
def test_families(bench: Bench, family: str, expected: list[str], kinds: set[int]) -> None:
    server = bench.server()
    server.answers["a.example"] = addresses(FOUR, SIX, FOUR2, SIX2)
    resolver = bench.resolver(server)
    assert bench.find(resolver, "a.example", family)[-1] == done(*expected)
    assert set(server.kinds("a.example")) == kinds
    assert len(server.asked) == len(kinds)
    assert bench.find(resolver, "a.example", family) == [done(*expected)]
    assert len(server.asked) == len(kinds)


def test_each_kind_is_told_when_it_comes(bench: Bench) -> None:
    server = bench.server()
    server.answers["a.example"] = addresses(FOUR, SIX)
    server.delay = lambda asked: 0.05 if asked.kind == AAAA else 0
    told = bench.find(bench.resolver(server, timeout=5), "a.example")
    assert told == [((ip(FOUR),), None, False), done(SIX, FOUR)]


def test_an_empty_kind_is_no_news(bench: Bench) -> None:
    server = bench.server()
    server.answers["a.example"] = addresses(SIX)
    server.delay = lambda asked: 0.05 if asked.kind == AAAA else 0
    assert bench.find(bench.resolver(server, timeout=5), "a.example") == [done(SIX)]


def test_mapped_addresses_are_folded(bench: Bench) -> None:
    server = bench.server()
    server.answers["a.example"] = addresses("::ffff:192.0.2.1")
    assert bench.find(bench.resolver(server), "a.example", "6") == [done(FOUR)]


def test_numbers_and_ports_are_random(bench: Bench) -> None:
    server = bench.server()
    resolver = bench.resolver(server)
    for i in range(20):
        server.answers[f"h{i}.example"] = addresses(FOUR)
        bench.find(resolver, f"h{i}.example")
    assert len({asked.number for asked in server.asked}) > 30
    assert len({asked.client for asked in server.asked}) > 15
    assert len({asked.client for asked in server.asked if asked.name == "h1.example"}) == 1


def test_server_on_ipv6(bench: Bench) -> None:
    server = bench.server("::1")
    server.answers["a.example"] = addresses(FOUR)
    assert bench.find(bench.resolver(server), "a.example") [-1] == done(FOUR)


def test_names_that_need_no_asking(bench: Bench) -> None:
    server = bench.server()
    resolver = bench.resolver(server)

    def find(name: str, family: str = "auto") -> list[Told]:
        told: list[Told] = []
        assert resolver.lookup(name, family, lambda *what: told.append(what)) is None
        return told

    for name in ("localhost", "x.localhost", "y.x.localhost"):
        assert find(name) == [done("::1", "127.0.0.1")]
    assert find("localhost", "4") == [done("127.0.0.1")]
    assert find("localhost", "6") == [done("::1")]
    assert find("localhost", "prefer4") == [done("127.0.0.1", "::1")]
    for name in ("invalid", "x.invalid", "a..b", "", "a b", "127.1", "1.2.3.4.5", "\xfc.de"):
        assert find(name) == [NOT_FOUND]
    assert find("x" * 64) == [NOT_FOUND]
    assert find(FOUR) == [done(FOUR)]
    assert find(SIX, "prefer4") == [done(SIX)]
    assert find(SIX, "4") == [NOT_FOUND]
    assert server.asked == []


def test_ttl(bench: Bench) -> None:
    server = bench.server()
    server.answers["a.example"] = addresses(FOUR, SIX, ttl=300)
    server.answers["zero.example"] = addresses(FOUR, SIX, ttl=0)
    server.answers["long.example"] = addresses(FOUR, SIX, ttl=1_000_000)
    resolver = bench.resolver(server)

    def asks(name: str, after: float) -> bool:
        before = len(server.asked)
        bench.pass_time(after)
        assert bench.find(resolver, name)[-1] == done(SIX, FOUR)
        return len(server.asked) > before

    for name, seconds in (("a.example", 300), ("zero.example", 1), ("long.example", 3600)):
        assert asks(name, 0)
        assert not asks(name, seconds - 0.9)
        assert asks(name, seconds)


def test_only_the_kind_that_is_too_old_is_asked_for(bench: Bench) -> None:
    server = bench.server()
    server.answers["a.example"] = for_kind(addresses(FOUR, ttl=10), addresses(SIX, ttl=100))
    resolver = bench.resolver(server)
    bench.find(resolver, "a.example")
    server.asked.clear()
    bench.pass_time(50)
    assert bench.find(resolver, "a.example") == [((ip(SIX),), None, False), done(SIX, FOUR)]
    assert server.kinds("a.example") == [A]


def test_a_name_that_does_not_exist(bench: Bench) -> None:
    server = bench.server()
    server.answers["a.example"] = for_kind(code(3), silent)
    resolver = bench.resolver(server, timeout=30)
    assert bench.find(resolver, "a.example") == [NOT_FOUND]
    assert bench.find(resolver, "a.example", "4") == [NOT_FOUND]
    assert len(server.asked) == 2


def test_a_server_that_denies_the_name_for_want_of_ipv6(bench: Bench) -> None:
    server = bench.server()
    server.answers["a.example"] = for_kind(addresses(FOUR), code(3))
    server.delay = lambda asked: 0.05 if asked.kind == A else 0
    assert bench.find(bench.resolver(server), "a.example") == [done(FOUR)]


def test_no_addresses_at_all(bench: Bench) -> None:
    server = bench.server()
    soa = b"\0" * 2 + struct.pack("!5I", 1, 2, 3, 4, 5)

    def nothing(asked: Asked) -> list[bytes]:
        header = struct.pack("!6H", asked.number, 0x8180, 1, 0, 1, 0)
        return [header + asked.wire + record(soa, 40, 6, b"\0")]

    server.answers["a.example"] = nothing
    resolver = bench.resolver(server)
    assert bench.find(resolver, "a.example") == [NOT_FOUND]
    bench.pass_time(4)
    assert bench.find(resolver, "a.example") == [NOT_FOUND]
    assert len(server.asked) == 2
    bench.pass_time(2)
    bench.find(resolver, "a.example")
    assert len(server.asked) == 4


def test_chain_of_aliases(bench: Bench) -> None:
    server = bench.server()
    first, last = encode_name("cdn.example"), encode_name("edge.example")

    def chain(asked: Asked) -> list[bytes]:
        packed = ip(FOUR if asked.kind == A else SIX)
        return [
            message(
                asked,
                record(first, 60, 5),
                record(last, 2, 5, first),
                record(packed, 60, asked.kind, last),
            )
        ]

    server.answers["a.example"] = chain
    resolver = bench.resolver(server)
    assert bench.find(resolver, "a.example")[-1] == done(SIX, FOUR)
    bench.pass_time(3)
    bench.find(resolver, "a.example")
    assert len(server.asked) == 4


@pytest.mark.parametrize("number", [1, 2, 4, 5])
def test_a_server_that_fails_is_left_at_once(bench: Bench, number: int) -> None:
    bad, good = bench.server(), bench.server()
    bad.answers["a.example"] = code(number)
    good.answers["a.example"] = addresses(FOUR)
    resolver = bench.resolver(bad, good, timeout=60)
    assert bench.find(resolver, "a.example")[-1] == done(FOUR)
    assert len(bad.asked) == len(good.asked) == 2


def test_when_all_fail_so_does_the_look_up(bench: Bench) -> None:
    servers = [bench.server(), bench.server()]
    resolver = bench.resolver(*servers, timeout=60)
    assert bench.find(resolver, "a.example") == [NO_ANSWER]
    assert [len(server.asked) for server in servers] == [2, 2]
    assert bench.find(resolver, "a.example") == [NO_ANSWER]
    assert len(servers[0].asked) == 4, "a failure is not remembered"


def dead_server(bench: Bench) -> str:
    """The address of a name server that was there a moment ago."""
    server = bench.server()
    server.close()
    bench.servers.remove(server)
    return server.address


def test_a_dead_server_costs_time_only_once(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    dead, good = dead_server(bench), bench.server()
    good.answers["a.example"] = good.answers["b.example"] = addresses(FOUR)
    resolver = bench.resolver(dead, good, timeout=60)
    assert bench.find(resolver, "a.example")[-1] == done(FOUR)
    assert caplog.messages == [f"name server {dead} cannot be reached: Connection refused"]
    assert bench.find(resolver, "b.example")[-1] == done(FOUR)
    assert len(caplog.messages) == 1


def test_without_a_living_server_the_look_up_fails_before_its_time(bench: Bench) -> None:
    resolver = bench.resolver(dead_server(bench), dead_server(bench), timeout=1)
    assert bench.find(resolver, "a.example") == [NO_ANSWER]


def test_a_server_may_be_restarting(bench: Bench) -> None:
    address = dead_server(bench)
    resolver = bench.resolver(address, timeout=2)
    told: list[Told] = []
    resolver.lookup("a.example", "4", lambda *what: told.append(what))
    bench.until(lambda: not bench.dispatcher.handlers)
    port = int(address.rpartition(":")[2])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as back:
        back.bind(("127.0.0.1", port))
        back.setblocking(False)

        def answered() -> bool:
            with contextlib.suppress(BlockingIOError):
                data, client = back.recvfrom(512)
                asked = Asked("", A, int.from_bytes(data[:2], "big"), data[12:], False, client, 0)
                back.sendto(addresses(FOUR)(asked)[0], client)
            return bool(told)

        bench.until(answered)
    assert told == [done(FOUR)]


def test_the_next_server_is_asked_after_a_tick(bench: Bench) -> None:
    mute, good = bench.server(), bench.server()
    mute.answers["a.example"] = silent
    good.answers["a.example"] = good.answers["b.example"] = addresses(FOUR, SIX)
    resolver = bench.resolver(mute, good, timeout=1)
    assert bench.find(resolver, "a.example")[-1] == done(SIX, FOUR)
    bench.find(resolver, "b.example")
    assert len(mute.asked) == 2, "the one that answers is asked first from now on"


def test_a_late_answer_of_the_first_server_counts(bench: Bench) -> None:
    late, mute = bench.server(), bench.server()
    late.answers["a.example"] = addresses(FOUR, SIX)
    mute.answers["a.example"] = silent
    late.delay = lambda asked: 0.15
    assert bench.find(bench.resolver(late, mute, timeout=0.5), "a.example")[-1] == done(SIX, FOUR)
    assert len(mute.asked) == 2


def test_a_lost_question_is_asked_again(bench: Bench) -> None:
    server = bench.server()
    server.answers["a.example"] = lambda asked: addresses(FOUR)(asked) if asked.again else []
    assert bench.find(bench.resolver(server), "a.example", "4") == [done(FOUR)]
    assert server.asked[0].number == server.asked[1].number


def test_time_out(bench: Bench) -> None:
    server = bench.server()
    server.answers["a.example"] = silent
    resolver = bench.resolver(server, timeout=0.3)
    assert bench.find(resolver, "a.example") == [TOO_LATE]
    assert 8 <= len(server.asked) <= 10, "five times both"


def test_one_dead_family(bench: Bench) -> None:
    server = bench.server()
    server.answers["a.example"] = for_kind(addresses(FOUR, ttl=3000), silent)
    resolver = bench.resolver(server, timeout=1)
    assert bench.find(resolver, "a.example") == [((ip(FOUR),), None, False), done(FOUR)]
    assert server.kinds("a.example") == [AAAA, A, AAAA]
    # Nobody waits for it again, for a while.
    assert bench.find(resolver, "a.example") == [done(FOUR)]
    bench.pass_time(61)
    assert bench.find(resolver, "a.example")[0] == ((ip(FOUR),), None, False)


def test_one_failing_family(bench: Bench) -> None:
    server = bench.server()
    server.answers["a.example"] = for_kind(code(2), addresses(SIX))
    resolver = bench.resolver(server)
    assert bench.find(resolver, "a.example")[-1] == done(SIX)
    assert bench.find(resolver, "a.example") == [done(SIX)]
    assert bench.find(resolver, "a.example", "4") == [NOT_FOUND]


def bad_answers(asked: Asked) -> list[bytes]:
    good = message(asked, record(ip(FOUR2 if asked.kind == A else SIX2), 60, asked.kind))
    other = Asked("", 0, 0, b"\x05other" + asked.wire[2:], False, asked.client, 0)
    right = message(asked, record(ip(FOUR if asked.kind == A else SIX), 60, asked.kind))
    return [
        b"",
        b"\xff" * 600,
        good[:11],
        good[:-1],
        struct.pack("!H", asked.number ^ 1) + good[2:],
        message(other._replace(number=asked.number)),
        good[:2] + b"\x01\x00" + good[4:],
        good.replace(b"\0\x01\0\x01\0\0\0\0", b"\0\x01\xff\xff\0\0\0\0", 1),
        right,
    ]


def test_bad_answers_are_passed_over(bench: Bench) -> None:
    server = bench.server()
    server.answers["a.example"] = bad_answers
    assert bench.find(bench.resolver(server, timeout=5), "a.example")[-1] == done(SIX, FOUR)
    assert len(server.asked) == 2


def test_a_flood_of_forged_answers(bench: Bench) -> None:
    server = bench.server()
    server.answers["a.example"] = lambda asked: [b"junk"] * 100 + addresses(FOUR)(asked)
    assert bench.find(bench.resolver(server, timeout=5), "a.example", "4") == [done(FOUR)]


def test_answers_from_elsewhere_never_arrive(bench: Bench) -> None:
    server = bench.server()

    def forged(asked: Asked) -> list[bytes]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
            elsewhere.sendto(addresses(FOUR2)(asked)[0], asked.client)
        return addresses(FOUR)(asked)

    server.answers["a.example"] = forged
    server.delay = lambda asked: 0.05
    assert bench.find(bench.resolver(server, timeout=5), "a.example", "4") == [done(FOUR)]


def cut(asked: Asked) -> list[bytes]:
    """Too large for a datagram."""
    if asked.tcp:
        return addresses(FOUR, FOUR2, SIX)(asked)
    return [message(asked, flags=0x8380)]


@pytest.mark.parametrize(
    "stream",
    [
        lambda data: [data],
        lambda data: [data[i : i + 1] for i in range(len(data))],
        lambda data: [data + b"trailing bytes"],
    ],
    ids=["whole", "byte by byte", "with trailing bytes"],
)
def test_truncated_answers_are_asked_for_by_tcp(
    bench: Bench, stream: Callable[[bytes], list[bytes]]
) -> None:
    server = bench.server()
    server.answers["a.example"] = cut
    server.stream = stream
    assert bench.find(bench.resolver(server), "a.example")[-1] == done(SIX, FOUR, FOUR2)
    assert sorted(asked.tcp for asked in server.asked) == [False, False, True, True]


@pytest.mark.parametrize(
    "stream",
    [
        lambda data: [b""],
        lambda data: [data[:1], b""],
        lambda data: [data[:-1], b""],
        lambda data: [b"\0\0"],
        lambda data: [b"\xff\xff" + data],
        lambda data: [data[:4] + b"\xff\xff\xff" + data[7:]],
        lambda data: [data[:4] + b"\x83" + data[5:]],
    ],
    ids=["closed", "one byte", "cut", "empty", "too long", "broken", "truncated"],
)
def test_a_server_that_fails_by_tcp(bench: Bench, stream: Callable[[bytes], list[bytes]]) -> None:
    bad, good = bench.server(), bench.server()
    bad.answers["a.example"] = bad.answers["b.example"] = cut
    bad.stream = stream
    good.answers["a.example"] = addresses(FOUR)
    assert bench.find(bench.resolver(bad, good, timeout=60), "a.example", "4") == [done(FOUR)]
    assert bench.find(bench.resolver(bad, timeout=60), "b.example", "4") == [NO_ANSWER]


def test_a_server_without_tcp(bench: Bench) -> None:
    server = bench.server()
    server.tcp.close()
    server.tcp = socket.socket()
    server.tcp.setblocking(False)
    server.turn = lambda: turn_udp(server)  # type: ignore[method-assign]
    server.answers["a.example"] = cut
    assert bench.find(bench.resolver(server, timeout=60), "a.example") == [NO_ANSWER]


def turn_udp(server: NameServer) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            server._take(*server.udp.recvfrom(512), server.udp)
    while server.later:
        server.later.pop()[1]()


def test_a_server_that_is_silent_by_tcp(bench: Bench) -> None:
    server = bench.server()
    server.answers["a.example"] = lambda asked: [] if asked.tcp else cut(asked)
    assert bench.find(bench.resolver(server), "a.example", "4") == [TOO_LATE]
    assert [asked.tcp for asked in server.asked].count(True) == 1, "one connection is enough"


def test_equal_names_are_asked_for_once(bench: Bench) -> None:
    server = bench.server()
    server.answers["a.example"] = addresses(FOUR, SIX)
    resolver = bench.resolver(server)
    told: dict[str, list[Told]] = {"4": [], "6": [], "auto": [], "prefer4": []}
    for family, list_ in told.items():
        assert resolver.lookup("a.example", family, lambda *what, to=list_: to.append(what))
    bench.until(lambda: all(list_ and list_[-1][2] for list_ in told.values()))
    assert told["4"] == [done(FOUR)]
    assert told["6"] == [done(SIX)]
    assert told["auto"][-1] == done(SIX, FOUR)
    assert told["prefer4"][-1] == done(FOUR, SIX)
    assert sorted(server.kinds("a.example")) == [A, AAAA]


def test_a_late_comer_is_told_what_is_known(bench: Bench) -> None:
    server = bench.server()
    server.answers["a.example"] = for_kind(addresses(FOUR), silent)
    resolver = bench.resolver(server)
    first: list[Told] = []
    second: list[Told] = []
    third: list[Told] = []
    resolver.lookup("a.example", "auto", lambda *what: first.append(what))
    bench.until(lambda: first)
    assert resolver.lookup("a.example", "auto", lambda *what: second.append(what))
    assert second == [((ip(FOUR),), None, False)]
    assert resolver.lookup("a.example", "4", lambda *what: third.append(what)) is None
    assert third == [done(FOUR)]
    bench.until(lambda: second[-1][2])
    assert second[-1] == first[-1] == done(FOUR)


def test_a_late_comer_of_a_kind_that_failed(bench: Bench) -> None:
    server = bench.server()
    server.answers["a.example"] = for_kind(silent, code(2))
    resolver = bench.resolver(server)
    first: list[Told] = []
    resolver.lookup("a.example", "6", lambda *what: first.append(what))
    both: list[Told] = []
    resolver.lookup("a.example", "auto", lambda *what: both.append(what))
    bench.until(lambda: first)
    assert first == [NO_ANSWER]
    assert bench.find(resolver, "a.example", "6") == [NO_ANSWER]
    bench.until(lambda: both)
    assert both == [TOO_LATE]


def test_cancelled_look_ups_hear_nothing(bench: Bench) -> None:
    server = bench.server()
    server.answers["a.example"] = addresses(FOUR, SIX)
    resolver = bench.resolver(server)
    told: list[Told] = []
    kept: list[Told] = []
    lookup = resolver.lookup("a.example", "auto", lambda *what: told.append(what))
    assert lookup is not None
    resolver.lookup("a.example", "auto", lambda *what: kept.append(what))
    lookup.cancel()
    lookup.cancel()
    bench.until(lambda: kept and kept[-1][2])
    assert told == []


def test_a_cancelled_question_still_feeds_the_cache(bench: Bench) -> None:
    server = bench.server()
    server.answers["a.example"] = addresses(FOUR, SIX)
    resolver = bench.resolver(server)
    lookup = resolver.lookup("a.example", "auto", pytest.fail)
    assert lookup is not None
    lookup.cancel()
    bench.until(lambda: not bench.dispatcher.handlers)
    told: list[Told] = []
    assert resolver.lookup("a.example", "auto", lambda *what: told.append(what)) is None
    assert told == [done(SIX, FOUR)]
    assert len(server.asked) == 2


def test_look_ups_may_cancel_each_other_from_inside(bench: Bench) -> None:
    server = bench.server()
    server.answers["a.example"] = addresses(FOUR, SIX)
    resolver = bench.resolver(server)
    told: list[Told] = []
    lookups: list[resolve.Lookup] = []

    def cancel_all(*what: object) -> None:
        told.append(what)  # type: ignore[arg-type]
        for lookup in lookups:
            lookup.cancel()

    for _ in range(3):
        lookup = resolver.lookup("a.example", "auto", cancel_all)
        assert lookup is not None
        lookups.append(lookup)
    bench.until(lambda: not bench.dispatcher.handlers)
    assert len(told) == 1


def test_one_that_raises_does_not_harm_the_others(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    server = bench.server()
    server.answers["a.example"] = addresses(FOUR)
    resolver = bench.resolver(server)

    def broken(*what: object) -> None:
        raise RuntimeError("broken look-up")

    resolver.lookup("a.example", "4", broken)
    assert bench.find(resolver, "a.example", "4") == [done(FOUR)]
    assert "broken look-up" in caplog.text


def test_a_fault_of_our_own_fails_the_look_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = bench.server()
    server.answers["a.example"] = server.answers["b.example"] = cut

    def broken(*args: object) -> None:
        raise RuntimeError("broken parser")

    resolver = bench.resolver(server)
    with monkeypatch.context() as patch:
        patch.setattr(query, "parse", broken)
        assert bench.find(resolver, "a.example") == [NO_ANSWER]
    real = query.parse
    monkeypatch.setattr(
        query, "parse", lambda data, *rest: (broken if data[2] & 2 == 0 else real)(data, *rest)
    )
    assert bench.find(resolver, "b.example") == [NO_ANSWER]
    assert caplog.text.count("broken parser") >= 2


def test_searches_are_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    server = bench.server()
    server.answers.update({f"h{i}.example": addresses(FOUR, SIX) for i in range(20)})
    monkeypatch.setattr(resolve, "MAX_SEARCHES", 4)
    monkeypatch.setattr(resolve, "MAX_WAITING", 8)
    resolver = bench.resolver(server, timeout=5)
    told: dict[int, list[Told]] = {i: [] for i in range(14)}
    lookups = [
        resolver.lookup(f"h{i}.example", "auto", lambda *what, i=i: told[i].append(what))
        for i in range(14)
    ]
    assert len(bench.dispatcher.handlers) == 4
    assert told[12] == told[13] == [NO_ANSWER]
    assert lookups[12:] == [None, None]
    for waiting in lookups[4:6]:
        assert waiting is not None
        waiting.cancel()
    again: list[Told] = []
    assert resolver.lookup("h13.example", "4", lambda *what: again.append(what)), "room again"
    wanted = [*range(4), *range(6, 12)]
    bench.until(lambda: again and all(told[i] and told[i][-1][2] for i in wanted))
    assert told[4] == told[5] == []
    assert server.kinds("h4.example") == [], "nobody wants it, and it had not begun"
    assert again == [done(FOUR)]


def test_waiting_has_a_deadline_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    server = bench.server()
    server.answers["a.example"] = server.answers["b.example"] = silent
    monkeypatch.setattr(resolve, "MAX_SEARCHES", 1)
    resolver = bench.resolver(server, timeout=0.2)
    told: list[Told] = []
    resolver.lookup("a.example", "4", lambda *what: told.append(what))
    resolver.lookup("b.example", "4", lambda *what: told.append(what))
    bench.until(lambda: len(told) == 2)
    assert told == [TOO_LATE, TOO_LATE]


def test_the_cache_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    server = bench.server()
    server.answers.update({f"h{i}.example": addresses(FOUR) for i in range(5)})
    monkeypatch.setattr(resolve, "MAX_NAMES", 3)
    resolver = bench.resolver(server)
    for i in (0, 1, 2, 3, 3, 1, 0):
        assert bench.find(resolver, f"h{i}.example", "4") == [done(FOUR)]
    assert [asked.name[1] for asked in server.asked] == ["0", "1", "2", "3", "0"]


def test_addresses_of_a_name_are_bounded(bench: Bench) -> None:
    server = bench.server()
    server.answers["a.example"] = addresses(*(f"10.0.0.{i}" for i in range(200)))
    told = bench.find(bench.resolver(server), "a.example", "4")
    assert len(told[-1][0]) == resolve.MAX_ADDRESSES


def replace(path: Path, text: str) -> None:
    """As those do who write such files: a new one in place of the old."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text, "ascii")
    os.replace(fresh, path)


def test_hosts(bench: Bench) -> None:
    server = bench.server()
    server.answers["nas.lan"] = addresses(FOUR2)
    replace(bench.hosts, f"{FOUR} nas.lan other\n{SIX} nas.lan\n10.0.0.1 localhost\n")
    resolver = bench.resolver(server)
    assert bench.find(resolver, "nas.lan") == [done(SIX, FOUR)]
    assert bench.find(resolver, "nas.lan", "prefer4") == [done(FOUR, SIX)]
    assert bench.find(resolver, "other", "4") == [done(FOUR)]
    assert bench.find(resolver, "other", "6") == [NOT_FOUND]
    assert bench.find(resolver, "localhost", "4") == [done("127.0.0.1")]
    assert server.asked == []
    replace(bench.hosts, f"{FOUR2} other\n")
    assert bench.find(resolver, "other", "4") == [done(FOUR)], "looked at a moment ago"
    bench.pass_time(1.1)
    assert bench.find(resolver, "other", "4") == [done(FOUR2)]
    assert bench.find(resolver, "nas.lan", "4") == [done(FOUR2)]
    assert len(server.asked) == 1
    bench.hosts.unlink()
    bench.pass_time(1.1)
    assert bench.find(resolver, "other", "4") == [NO_ANSWER]


def test_unreadable_files(bench: Bench) -> None:
    bench.hosts.mkdir()
    bench.resolv_conf.mkdir()
    resolver = bench.resolver()
    assert bench.find(resolver, "localhost", "4") == [done("127.0.0.1")]


def test_resolv_conf(bench: Bench) -> None:
    first, second = bench.server(), bench.server()
    first.answers["a.example"] = addresses(FOUR)
    second.answers["a.example"] = addresses(FOUR2)
    replace(bench.resolv_conf, f"nameserver {first.address}\n")
    resolver = bench.resolver()
    assert bench.find(resolver, "a.example", "4") == [done(FOUR)]
    replace(bench.resolv_conf, f"nameserver {second.address}\n")
    bench.pass_time(1.1)
    assert bench.find(resolver, "a.example", "4") == [done(FOUR2)], "the cache is of other servers"


def test_files_are_looked_at_once_a_second_at_most(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[object] = []
    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda path: looks.append(path) or stat(path))
    resolver = bench.resolver()
    for _ in range(100):
        resolver.lookup("localhost", "4", lambda *what: None)
    assert len(looks) == 2
    bench.pass_time(1.1)
    resolver.lookup("localhost", "4", lambda *what: None)
    assert len(looks) == 4


def test_search_domains(bench: Bench) -> None:
    server = bench.server()
    server.answers.update(
        {
            "nas.b.example": addresses(FOUR, SIX),
            "nas.a.example": code(3),
            "empty.a.example": addresses(),
            "empty.b.example": addresses(FOUR),
            "bare.a.example": code(3),
            "bare.b.example": code(3),
            "bare": addresses(FOUR2),
            "none.a.example": code(3),
            "none.b.example": code(3),
            "none": code(3),
        }
    )
    too_long = ".".join(["x" * 62] * 4)
    replace(
        bench.resolv_conf,
        f"search {too_long} a.example b.example\nnameserver {server.address}\n",
    )
    resolver = bench.resolver(timeout=5)
    assert bench.find(resolver, "nas")[-1] == done(SIX, FOUR)
    assert bench.find(resolver, "nas") == [done(SIX, FOUR)]
    assert bench.find(resolver, "empty") == [NOT_FOUND], "it exists, and has no addresses"
    assert bench.find(resolver, "bare", "4") == [done(FOUR2)]
    assert bench.find(resolver, "none") == [NOT_FOUND]
    assert bench.find(resolver, "nas.example") == [NO_ANSWER]
    assert "nas.example.a.example" not in {asked.name for asked in server.asked}


def test_closing_fails_what_is_under_way(bench: Bench) -> None:
    server = bench.server()
    server.answers["a.example"] = silent
    resolver = bench.resolver(server)
    told: list[Told] = []

    def once_more(*what: object) -> None:
        told.append(what)  # type: ignore[arg-type]
        resolver.lookup("b.example", "auto", lambda *what: told.append(what))

    resolver.lookup("a.example", "auto", once_more)
    resolver.close()
    resolver.close()
    assert told == [NO_ANSWER, NO_ANSWER]
    assert bench.dispatcher.handlers == {}
    assert bench.dispatcher.deadlines == []
    assert bench.find(resolver, "c.example") == [NO_ANSWER]


def test_closing_from_inside_an_answer(bench: Bench) -> None:
    server = bench.server()
    server.answers["a.example"] = addresses(FOUR, SIX)
    resolver = bench.resolver(server)
    told: list[Told] = []

    def close(*what: object) -> None:
        told.append(what)  # type: ignore[arg-type]
        resolver.close()

    resolver.lookup("a.example", "auto", close)
    bench.until(lambda: told)
    assert bench.dispatcher.handlers == {}


def test_a_retired_one_ends_with_the_last_of_its_look_ups(bench: Bench) -> None:
    """A reload must not fail the dials that are under way."""
    server = bench.server()
    server.answers["a.example"] = for_kind(addresses(FOUR), silent)
    resolver = bench.resolver(server)
    told: list[Told] = []
    resolver.lookup("a.example", "4", lambda *what: told.append(what))
    resolver.retire()
    assert not told
    assert bench.dispatcher.deadlines
    bench.until(lambda: told)
    assert told == [done(FOUR)]
    bench.until(lambda: not bench.dispatcher.deadlines)
    assert bench.find(resolver, "b.example", "4") == [NO_ANSWER]


def test_a_retired_one_that_does_nothing_is_closed(bench: Bench) -> None:
    resolver = bench.resolver(bench.server())
    resolver.retire()
    assert not bench.dispatcher.deadlines


def test_nothing_is_armed_when_idle(bench: Bench) -> None:
    server = bench.server()
    server.answers["a.example"] = cut
    resolver = bench.resolver(server)
    bench.find(resolver, "a.example")
    assert bench.dispatcher.handlers == {}
    assert not any(bench.dispatcher.waiting)


def test_a_broken_setting_is_refused(bench: Bench) -> None:
    with pytest.raises(ValueError, match="not the address of a name server"):
        bench.resolver("dns.example")
    with pytest.raises(ValueError, match="cannot be bound to a device"):
        bench.resolver(mode="system", device="lo")
    assert bench.dispatcher.deadlines == []


def test_through_a_device(bench: Bench) -> None:
    server = bench.server()
    server.answers["a.example"] = cut
    resolver = bench.resolver(server, device="lo")
    assert bench.find(resolver, "a.example", "4") == [done(FOUR, FOUR2)]


def test_through_a_device_that_is_not_there(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    server = bench.server()
    server.answers["a.example"] = addresses(FOUR)
    resolver = bench.resolver(server, device="wg99")
    assert bench.find(resolver, "a.example", "4") == [NO_ANSWER]
    assert bench.find(resolver, "a.example", "4") == [NO_ANSWER]
    assert server.asked == [], "nothing leaks elsewhere"
    assert caplog.messages == [
        f"name server {server.address} through wg99 cannot be reached: No such device"
    ]


def test_a_zone_that_is_not_there(bench: Bench) -> None:
    assert bench.find(bench.resolver("fe80::1%wg99"), "a.example", "4") == [NO_ANSWER]
    assert bench.find(bench.resolver("fe80::1%99999"), "a.example", "4") == [NO_ANSWER]


def test_device_needs_linux(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "_BIND_TO_DEVICE", None)
    with pytest.raises(ValueError, match="Only Linux"):
        bench.resolver("127.0.0.1", device="lo")


# The C library, in threads.


class Library:
    """getaddrinfo as these tests want it: it takes bytes, and waits where it is told to."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.names: list[bytes] = []
        self.error: OSError | None = None

    def __call__(self, host: bytes, port: None, family: int, kind: int) -> list[object]:
        assert isinstance(host, bytes), "a str may need the idna codec"
        self.names.append(host)
        assert self.go.wait(10)
        if self.error is not None:
            raise self.error
        return [
            (socket.AF_INET6, kind, 6, "", (SIX, 0, 0, 0)),
            (socket.AF_INET6, kind, 6, "", ("fe80::1%lo", 0, 0, 1)),
            (socket.AF_INET, kind, 6, "", (FOUR, 0)),
        ]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    made = Library()
    monkeypatch.setattr(system, "getaddrinfo", made)
    return made


async def ask(resolver: Resolver, name: str, family: str = "auto") -> list[Told]:
    told: list[Told] = []
    ended = asyncio.Event()

    def tell(addresses: tuple[bytes, ...], reason: Reason | None, last: bool) -> None:
        told.append((addresses, reason, last))
        if last:
            ended.set()

    resolver.lookup(name, family, tell)
    await asyncio.wait_for(ended.wait(), 10)
    return told


def run(bench: Bench, main: Callable[[], object]) -> None:
    loop = Loop(bench.dispatcher)
    try:
        loop.run_until_complete(main())  # type: ignore[arg-type]
    finally:
        for resolver in bench.resolvers:
            resolver.close()
        loop.close()


def test_system(bench: Bench, library: Library) -> None:
    async def main() -> None:
        resolver = bench.resolver(mode="system")
        assert (await ask(resolver, "a.example"))[-1] == done(SIX, FOUR)
        assert (await ask(resolver, "b.example", "prefer4"))[-1] == done(FOUR, SIX)
        assert await ask(resolver, "c.example", "4") == [done(FOUR)]
        assert await ask(resolver, "localhost", "4") == [done("127.0.0.1")]
        assert await ask(resolver, "a..b") == [NOT_FOUND]
        assert library.names == [b"a.example", b"b.example", b"c.example"]

    run(bench, main)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (socket.gaierror(socket.EAI_NONAME, "no"), NOT_FOUND),
        (socket.gaierror(socket.EAI_NODATA, "no"), NOT_FOUND),
        (socket.gaierror(socket.EAI_AGAIN, "later"), NO_ANSWER),
        (OSError(12, "memory"), NO_ANSWER),
    ],
)
def test_system_failures(bench: Bench, library: Library, error: OSError, expected: Told) -> None:
    async def main() -> None:
        library.error = error
        assert await ask(bench.resolver(mode="system"), "a.example") == [expected]

    run(bench, main)


def test_system_without_a_thread(
    bench: Bench, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        resolver = bench.resolver(mode="system")
        with monkeypatch.context() as patch:
            patch.setattr(system, "start_new_thread", refuse)
            results = await asyncio.gather(*(ask(resolver, f"h{i}.example") for i in range(10)))
            assert results == [[NO_ANSWER]] * 10
        assert (await ask(resolver, "h0.example", "4")) == [done(FOUR)]

    run(bench, main)


def test_system_is_bounded(bench: Bench, library: Library) -> None:
    async def main() -> None:
        library.go.clear()
        resolver = bench.resolver(mode="system", timeout=0.2)
        # All threads hang: their names time out, and so does the one that waits for a place.
        names = [f"h{i}.example" for i in range(5)]
        assert await asyncio.gather(*(ask(resolver, name) for name in names)) == [[TOO_LATE]] * 5
        assert len(library.names) == 4
        waiting = asyncio.get_running_loop().create_task(ask(resolver, "next.example", "4"))
        await asyncio.sleep(0)
        assert len(library.names) == 4, "a thread that hangs keeps its place"
        library.go.set()
        assert await waiting == [done(FOUR)]

    run(bench, main)


def test_system_after_the_end(bench: Bench, library: Library) -> None:
    returned = threading.Event()

    class Watched(Library):
        def __call__(self, *args: object) -> list[object]:
            try:
                return super().__call__(*args)  # type: ignore[arg-type]
            finally:
                returned.set()

    async def main() -> None:
        system.getaddrinfo = watched
        watched.go.clear()
        bench.resolver(mode="system").lookup("a.example", "4", lambda *what: told.append(what))

    watched = Watched()
    told: list[Told] = []
    run(bench, main)
    assert told == [NO_ANSWER]
    watched.go.set()
    assert returned.wait(10)
