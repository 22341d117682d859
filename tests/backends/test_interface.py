"""The backend that is bound to a device: nothing leaves by another, whatever becomes of it.

All this runs in a router of its own, whose other way out would take every packet: see
`namespaces.Crossing`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from bifrost_lite.backends.base import Backend
from bifrost_lite.backends.interface import Interface
from bifrost_lite.condition import SUSPECT, UP, WAITING, Condition
from bifrost_lite.counters import Counters
from bifrost_lite.dial import Dialler
from bifrost_lite.dispatch import Dispatcher, EpollDispatcher, PollDispatcher
from bifrost_lite.errors import Reason
from bifrost_lite.links import Links
from bifrost_lite.resolve import Resolver
from bifrost_lite.target import Target, parse_authority
from bifrost_lite.way import Way
from tests.dispatch_kit import until
from tests.namespaces import FAR, FOUR, SIX, Crossing

CLIENT = b"\x7f\0\0\x01"
HOSTS = [FOUR, f"[{SIX}]", FAR]


def target(host: str) -> Target:
    return parse_authority(f"{host}:80".encode(), None)


class Caller:
    """Who asks the backend for connections, and turns its dispatcher.

    Attributes:
        states: that its condition went through
        told: of the connections
        heard: by its hooks
    """

    def __init__(self, dispatcher: Dispatcher, crossing: Crossing, **settings: int) -> None:
        self.dispatcher = dispatcher
        self.crossing = crossing
        self.states: list[str] = []
        self.told: list[tuple[socket.socket | None, Reason | None, Way | None]] = []
        self.heard: list[str] = []
        self.links = Links(dispatcher)
        self.resolver = Resolver(
            dispatcher, servers=[FOUR], timeout=2.0, device="vpn0", hosts="/nonexistent"
        )
        self.condition = Condition(lambda it: self.states.append(it.state), watched=True, fall=1)
        self.way = Way("vpn", "interface", dispatcher, Counters(), self.condition)

        def dialler(way: Way | None) -> Dialler:
            return Dialler(
                dispatcher, self.resolver, guard, seconds=1.0, device="vpn0", way=way, **settings
            )

        def guard(packed: bytes, port: int) -> Reason | None:
            return None

        self.dialler = dialler(self.way)
        self.made = Interface(
            self.way, self.dialler, dialler(None), self.links, "vpn0", self.resolver
        )
        self.made.lost = lambda: self.heard.append("lost")
        self.made.addressed = lambda: self.heard.append("addressed")
        self.backend: Backend = self.made

    def done(
        self, sock: socket.socket | None, mask: int, reason: Reason | None, way: Way | None
    ) -> None:
        if sock is not None:
            self.dispatcher.detach(sock.fileno())
        self.told.append((sock, reason, way))

    def dial(self, host: str, probe: bool = False) -> tuple[socket.socket | None, Reason | None]:
        """What comes of a connection to `host`."""
        if probe:
            self.backend.probe(target(host), self.done)
        else:
            self.backend.connect(target(host), CLIENT, self.done)
        until(self.dispatcher, lambda: self.told)
        ((sock, reason, way),) = self.told
        self.told.clear()
        assert way is (None if probe else self.way)
        return sock, reason

    def reach(self, host: str, probe: bool = False) -> str:
        """The world that a connection leads to, or why there is none."""
        sock, reason = self.dial(host, probe)
        if sock is None:
            assert reason is not None
            return reason.word
        with socket.socket(fileno=sock.detach()) as connection:
            connection.settimeout(5)
            world = connection.recv(3, socket.MSG_WAITALL).decode()
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1) == b""  # what comes after a close is a stray
            return world

    def becomes(self, state: str) -> None:
        """Wait for a state, to which the kernel's messages alone lead."""
        until(self.dispatcher, lambda: self.condition.state == state)

    def private(self) -> None:
        """Nothing has left by the other way."""
        assert self.crossing.leaked() == 0
        assert self.crossing.wan.visitors == []
        assert self.crossing.wan.asked == set()


@pytest.fixture
def crossing() -> Iterator[Crossing]:
    """The test is in its router."""
    with Crossing() as made, made.router.inside():
        yield made


@pytest.fixture(params=[EpollDispatcher, PollDispatcher], ids=["epoll", "poll"])
def dispatcher(request: pytest.FixtureRequest) -> Iterator[Dispatcher]:
    made = request.param()
    yield made
    made.select(0)
    assert not made.handlers
    made.close()


@pytest.fixture
def caller(dispatcher: Dispatcher, crossing: Crossing) -> Iterator[Caller]:
    """Where the device is there."""
    crossing.plug()
    made = Caller(dispatcher, crossing)
    if made.states:  # the carrier came a moment later
        until(dispatcher, lambda: made.condition.state == SUSPECT)
        made.condition.check_passed(dispatcher.now)
        made.condition.check_passed(dispatcher.now)
        made.states.clear()
    yield made
    made.backend.close()
    made.resolver.close()  # it may still be asking


# What becomes of the device, and how it is mended.
def cut(crossing: Crossing) -> None:
    crossing.vpn.namespace.ip("link set router0 down")


def mend(crossing: Crossing) -> None:
    crossing.vpn.namespace.ip("link set router0 up")
    with suppress(AssertionError):  # IPv6 addresses of a device that was down are gone
        crossing.vpn.namespace.address("router0", "2001:db8:2::1/64")


def switch_off(crossing: Crossing) -> None:
    crossing.router.ip("link set vpn0 down")


def switch_on(crossing: Crossing) -> None:
    crossing.router.ip("link set vpn0 up")
    crossing.configure()


TROUBLES = pytest.mark.parametrize(
    ("trouble", "repair", "why"),
    [
        (switch_off, switch_on, "vpn0 is down"),
        (cut, mend, "vpn0 has no carrier"),
        (Crossing.unplug, Crossing.plug, "vpn0 is not there"),
    ],
)
Change = Callable[[Crossing], None]


def test_who_it_is(caller: Caller) -> None:
    assert (caller.backend.name, caller.backend.type) == ("vpn", "interface")
    assert caller.backend.members == ()
    assert caller.backend.carriers(CLIENT) == [caller.way]


def test_the_other_way_is_open(crossing: Crossing) -> None:
    """What leaks is seen: the proof of the proofs."""
    crossing.plug()
    with socket.create_connection((FOUR, 80), 5) as connection:
        assert connection.recv(3) == b"wan"
    assert crossing.leaked() > 0
    assert crossing.wan.visitors


def test_it_goes_through_the_device(caller: Caller) -> None:
    for host in HOSTS:
        assert caller.reach(host) == "vpn"
        assert caller.reach(host, probe=True) == "vpn"
        assert caller.crossing.vpn.asked == ({FAR} if host == FAR else set())
    caller.private()


@TROUBLES
def test_it_waits_for_the_device(
    caller: Caller,
    trouble: Change,
    repair: Change,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trouble(caller.crossing)
    caller.becomes(WAITING)
    assert caller.states == [WAITING]
    with monkeypatch.context() as patch:
        patch.delattr(Dialler, "open")  # no socket is made
        patch.delattr(Resolver, "lookup")  # nobody is asked
        for host in HOSTS:
            assert caller.reach(host) == "device_absent"
            assert caller.reach(host, probe=True) == "device_absent"
    assert caller.way.counters.failed == 3
    assert caller.way.counters.last_failure == "device_absent"
    assert caller.states == [WAITING]
    repair(caller.crossing)
    caller.becomes(SUSPECT)
    for host in HOSTS:
        until(caller.dispatcher, lambda host=host: caller.reach(host) == "vpn")
    caller.private()


@TROUBLES
def test_it_was_not_there_at_the_start(
    dispatcher: Dispatcher, crossing: Crossing, trouble: Change, repair: Change, why: str
) -> None:
    crossing.plug()
    trouble(crossing)
    caller = Caller(dispatcher, crossing)
    until(dispatcher, lambda: caller.condition.reason == why or caller.states)
    caller.becomes(WAITING)
    assert caller.reach(FOUR) == "device_absent"
    repair(crossing)
    caller.becomes(SUSPECT)
    assert caller.reach(FOUR) == "vpn"
    caller.private()
    caller.backend.close()


@TROUBLES
def test_it_leaks_nothing_before_it_knows(
    caller: Caller, trouble: Change, repair: Change, why: str
) -> None:
    """The kernel's message is still to be read."""
    late: list[Reason | None] = []
    for host in HOSTS:  # those are under way
        caller.backend.connect(target(host), CLIENT, caller.done)
    trouble(caller.crossing)
    for host in HOSTS:
        caller.backend.connect(target(host), CLIENT, lambda sock, mask, why, way: late.append(why))
    until(caller.dispatcher, lambda: len(caller.told) == len(late) == len(HOSTS))
    assert None not in late
    caller.private()
    for sock, _, _ in caller.told:
        if sock is not None:
            sock.close()


@pytest.mark.parametrize("rule", [False, True])
def test_what_comes_for_closed_sockets(
    dispatcher: Dispatcher, crossing: Crossing, rule: bool
) -> None:
    """The kernel answers it, and that answer is bound to nothing: it goes by the routing table.

    Where a rule makes what has the device's address leave by the device, that does, too.
    """
    with crossing.tunnel(delay=0.02):
        if rule:
            crossing.rule()
        caller = Caller(dispatcher, crossing)
        sock, _ = caller.dial(FOUR)
        assert sock is not None
        sock.setblocking(True)
        sock.send(b"flood")
        sock.recv(100_000, socket.MSG_WAITALL)
        sock.close()  # with all that is under way
        if rule:
            assert caller.reach(FOUR) == "vpn"  # which takes four times the delay
            assert crossing.leaked("strays") == 0
        else:
            until(dispatcher, lambda: crossing.leaked("strays"))
        caller.private()
        caller.backend.close()


def test_a_connection_whose_device_is_deleted(caller: Caller) -> None:
    """It goes nowhere else, not even through the next device by that name."""
    sock, _ = caller.dial(FOUR)
    assert sock is not None
    sock.send(b"hello")
    caller.crossing.unplug()
    caller.becomes(WAITING)
    assert caller.heard == ["lost"]
    with suppress(OSError):
        sock.send(b"is anybody there?")
    caller.crossing.plug()
    caller.becomes(SUSPECT)
    with suppress(OSError):
        sock.send(b"or there?")
    assert caller.reach(FOUR) == "vpn"
    assert len(caller.crossing.vpn.visitors) == 2
    caller.private()
    sock.close()


@pytest.mark.parametrize("back", [False, True])
def test_a_dial_whose_device_is_deleted(caller: Caller, back: bool) -> None:
    """It would wait for nothing, and the other members of a group with it."""
    caller.backend.connect(target("192.0.2.250"), CLIENT, caller.done)
    caller.backend.probe(target("192.0.2.250"), caller.done)
    caller.crossing.unplug()
    if back:  # before anybody heard of it
        caller.crossing.plug()
    until(caller.dispatcher, lambda: len(caller.told) == 2)
    assert [reason for _, reason, _ in caller.told] == [Reason.DEVICE_ABSENT] * 2
    caller.told.clear()
    if not back:
        assert caller.states == [WAITING]
        caller.crossing.plug()
        caller.becomes(SUSPECT)
    assert caller.reach(FOUR) == "vpn"


def test_its_addresses_change(caller: Caller) -> None:
    caller.crossing.router.address("vpn0", "198.51.100.3/32")
    until(caller.dispatcher, lambda: "addressed" in caller.heard)
    assert "lost" not in caller.heard
    assert caller.states == []


def test_a_tun_device(dispatcher: Dispatcher, crossing: Crossing) -> None:
    """A VPN program ends, and leaves the device there or not."""
    caller = Caller(dispatcher, crossing)
    assert caller.condition.reason == "vpn0 is not there"
    with crossing.tunnel():
        caller.becomes(SUSPECT)
        for host in HOSTS:
            assert caller.reach(host) == "vpn"
        caller.private()
    caller.becomes(WAITING)
    assert caller.reach(FAR) == "device_absent"
    crossing.router.ip("tuntap add dev vpn0 mode tun")
    crossing.router.ip("link set vpn0 up")
    until(dispatcher, lambda: caller.links._feed and caller.made._why.endswith("no carrier"))
    assert caller.reach(FAR) == "device_absent"
    with crossing.tunnel():
        caller.becomes(SUSPECT)
        assert caller.reach(FAR) == "vpn"
    caller.becomes(WAITING)
    assert caller.made._why == "vpn0 has no carrier"
    assert caller.reach(FOUR) == "device_absent"
    caller.private()
    caller.backend.close()


def test_its_packets_are_marked(dispatcher: Dispatcher, crossing: Crossing) -> None:
    """The route to the target is in a table for that mark."""
    crossing.plug()
    crossing.router.ip("route del default via 198.51.100.1")
    crossing.router.ip("route add default via 198.51.100.1 table 100")
    crossing.router.ip("rule add fwmark 66 table 100")
    crossing.vpn.namespace.ip("address flush dev router0 scope global")
    crossing.vpn.namespace.address("router0", "198.51.100.1/24")
    # It is no neighbour, as it would seem to be without a route.
    crossing.vpn.namespace.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/conf/router0/arp_ignore")
    caller = Caller(dispatcher, crossing, mark=66)
    until(dispatcher, lambda: not caller.made._why)
    sock, _ = caller.dial(FOUR)
    assert sock is not None
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == 66
    sock.close()
    caller.private()
    caller.backend.close()


def test_a_dial_that_is_given_up(caller: Caller) -> None:
    caller.backend.connect(target(FOUR), CLIENT, caller.done).cancel()
    caller.crossing.unplug()
    caller.becomes(WAITING)
    caller.backend.connect(target(FOUR), CLIENT, caller.done).cancel()  # which was over already
    assert [reason for _, reason, _ in caller.told] == [Reason.DEVICE_ABSENT]


def test_one_configuration_after_another(caller: Caller, dispatcher: Dispatcher) -> None:
    """The next one shares the condition, and sees the device that came back meanwhile."""
    caller.crossing.unplug()
    caller.becomes(WAITING)
    caller.made._watch.cancel()
    caller.crossing.plug()
    again = Interface(caller.way, caller.dialler, caller.dialler, caller.links, "vpn0", None)
    until(dispatcher, lambda: caller.condition.state != WAITING)
    assert caller.condition.state == SUSPECT
    again.close()


def test_closing(caller: Caller, dispatcher: Dispatcher) -> None:
    """It gives back its watch at once, its resolver after the last look-up; dials go on."""
    caller.backend.connect(target(FAR), CLIENT, caller.done)
    caller.backend.close()
    assert not caller.told
    until(dispatcher, lambda: bool(caller.told))
    ((sock, _, _),) = caller.told
    assert sock is not None
    dispatcher.discard(sock.fileno(), sock)
    caller.told.clear()
    until(dispatcher, lambda: not dispatcher.handlers)
    assert not dispatcher.handlers
    assert caller.reach(f"[{SIX}]") == "vpn"
    caller.private()


def test_without_a_resolver_of_its_own(caller: Caller) -> None:
    other = Interface(caller.way, caller.dialler, caller.dialler, caller.links, "vpn0", None)
    other.close()
    assert caller.reach(FAR) == "vpn"  # that one closed nothing of others


def test_a_good_state_is_not_told_again(caller: Caller) -> None:
    assert caller.condition.state == UP
    assert caller.states == []
