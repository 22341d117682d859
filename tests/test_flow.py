"""Datagrams of one client to one target: which way, by which name, and what goes wrong."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Sequence

import pytest

from bifrost_lite import flow, udp
from bifrost_lite.acl import is_special
from bifrost_lite.backends.base import Backend
from bifrost_lite.backends.block import Block
from bifrost_lite.backends.direct import Direct
from bifrost_lite.backends.group import Group
from bifrost_lite.condition import Condition
from bifrost_lite.config.schema import Route
from bifrost_lite.dispatch import Dispatcher
from bifrost_lite.errors import Reason
from bifrost_lite.flow import HELD, PENDING, Flow
from bifrost_lite.route import Router
from bifrost_lite.udp import REFUSED
from bifrost_lite.wire.udp import make_header
from tests.namespaces import FOUR, Crossing
from tests.plane_kit import (
    LOOPBACK,
    Held,
    Names,
    Peer,
    Resolved,
    both,
    direct,
    packed,
    until,
    way,
)
from tests.udp_kit import Point, Rider, Served, exchange, named, split

TEST_NET = b"\xc0\x00\x02\x01"
# A question to a name server, which has no answer for it.
QUERY = b"\x12\x34\x01\x00\0\1\0\0\0\0\0\0\x01x\x04test\0\0\1\0\1"

# There and back.


@both
@pytest.mark.parametrize("host", [LOOPBACK, "::1"])
def test_there_and_back(selector: type[Dispatcher], host: str) -> None:
    with Served(selector, listen=[(host, "auto")]) as proxy:
        rider, target = proxy.rider(), proxy.point(host)
        assert rider.relay[0] == host
        for size in (0, 1, 1200, 65000):
            exchange(rider, target, b"q" * size, b"a" * (size // 2))
        rider.control.close()
        proxy.gone()
        (event,) = proxy.closed
        assert (event.protocol, event.host, event.backend, event.route) == (
            "SOCKS5", target.target.text, "direct", "default",
        )  # fmt: skip
        assert (event.bytes_sent, event.bytes_received, event.reason) == (66201, 33100, "closed")
        record = proxy.record()
        assert (record.method, record.url, record.status_code) == ("SOCKS5", event.host, None)
        assert (record.bytes_sent, record.bytes_received, record.error) == (66201, 33100, "")
        assert proxy.words() == ["new", "close closed"]
        assert proxy.plane.dropped == 0


@both
def test_the_most_that_a_datagram_holds(selector: type[Dispatcher]) -> None:
    with Served(selector) as proxy:
        rider, target = proxy.rider(), proxy.point()
        exchange(rider, target, b"q" * (65507 - 10), b"a" * (65507 - 10))
        # With its header it would be longer than UDP allows.
        source = rider.ask(target, b"")
        target.send(b"a" * 65507, source)
        proxy.dropped(1)
        rider.control.close()
        assert proxy.close_event().bytes_received == 65507 - 10 + 65507


def test_a_datagram_that_ipv4_cannot_carry() -> None:
    """The client has 20 bytes more, for its headers of IPv6 do not count."""
    with Served(listen=[("::1", "auto")]) as proxy:
        rider, target = proxy.rider(), proxy.point()
        rider.say(target.header, b"q" * (65527 - 10))
        proxy.dropped(1)
        exchange(rider, target, b"q" * 65507)
        rider.control.close()
        assert proxy.close_event().bytes_sent == 65507


@both
def test_many_targets_and_two_clients(selector: type[Dispatcher]) -> None:
    with Served(selector) as proxy:
        riders = [proxy.rider(), proxy.rider(source="127.0.0.2")]
        targets = [proxy.point() for _ in range(3)]
        for rider in riders:
            for number, target in enumerate(targets):
                rider.say(target.header, b"%d" % number)
        sources = []
        for number, target in enumerate(targets):
            for _ in riders:
                sources.append(target.expect(b"%d" % number))
        assert len(set(sources)) == 6  # one socket per client and target
        for number, target in enumerate(targets):
            for source in sources[2 * number : 2 * number + 2]:
                target.send(b"from %d to %d" % (number, source[1]), source)
        for rider in riders:
            got = {split(rider.recv().data) for _ in targets}
            assert {target.port for target, _ in got} == {target.port for target in targets}
            for target, payload in got:
                number = [point.port for point in targets].index(target.port)
                assert payload.startswith(b"from %d " % number)
        assert sorted(connection.client_ip for connection in proxy.opened) == (
            ["127.0.0.1"] * 3 + ["127.0.0.2"] * 3
        )
        assert proxy.plane.admitted == 8
        assert proxy.plane.stats() == (6, 6, 6, sum(6 + len(str(s[1])) + 4 for s in sources))
        riders[0].control.close()
        proxy.gone(1)
        until(lambda: len(proxy.closed) == 3)
        exchange(riders[1], targets[0])
        riders[1].control.close()


def test_a_client_of_an_ipv4_address_at_a_listener_for_both() -> None:
    with Served(listen=[("::", "auto")]) as proxy:
        control = proxy.keep(Peer(socket.create_connection((LOOPBACK, proxy.listeners[0].port))))
        rider = proxy.keep(Rider(control))
        assert rider.relay[0] == LOOPBACK
        exchange(rider, proxy.point())
        exchange(rider, proxy.point("::1"))
        control.close()


@both
def test_an_address_in_another_spelling_comes_back_as_it_was_sent(
    selector: type[Dispatcher],
) -> None:
    with Served(selector) as proxy:
        rider, target = proxy.rider(), proxy.point()
        mapped = b"\0\0\0\x04" + bytes(10) + b"\xff\xff" + target.header[4:]
        source = rider.ask(target, b"q", mapped)
        target.send(b"a", source)
        rider.hear(mapped, b"a")
        assert proxy.opened[0].host == target.target.text
        rider.control.close()


# Where to.


@both
def test_a_target_that_clients_may_not_reach(selector: type[Dispatcher]) -> None:
    def guard(packed: bytes, port: int) -> Reason | None:
        return Reason.TARGET_DENIED if packed == b"\x7f\0\0\1" else None

    with Served(selector, guard=guard) as proxy:
        rider, hidden, open_ = proxy.rider(), proxy.point(), proxy.point("127.0.0.3")
        proxy.names.known["hidden.test"] = [LOOPBACK]
        proxy.names.known["both.test"] = [LOOPBACK, "127.0.0.3"]
        for _ in range(3):
            rider.say(hidden.header, b"literal")
            rider.say(named("hidden.test", hidden.port), b"by name")
        proxy.dropped(6)
        rider.say(named("both.test", open_.port), b"through")
        open_.expect(b"through")
        hidden.empty()
        assert [(event.host, event.reason) for event in proxy.failed] == [
            (hidden.target.text, "target_denied"),
            (f"hidden.test:{hidden.port}", "target_denied"),
        ]
        # What the rules refuse is no failure of the way.
        assert proxy.plane.policy.backends["direct"].carriers(b"")[0].counters.failed == 0
        rider.control.close()
        until(lambda: len(proxy.finished) == 3)
        assert [record.error for record in proxy.finished] == ["target_denied"] * 2 + [""]


def test_the_guard_of_the_daemon_knows_no_loopback() -> None:
    with Served(guard=lambda p, _: Reason.TARGET_DENIED if is_special(p) else None) as proxy:
        rider = proxy.rider()
        targets = [LOOPBACK, "0.0.0.0", "::1", "169.254.1.1", "224.0.0.251", "255.255.255.255",
                   "::ffff:127.0.0.1", "ff02::fb", "64:ff9b::7f00:1"]  # fmt: skip
        for text in targets:
            family = socket.AF_INET6 if ":" in text else socket.AF_INET
            rider.say(make_header(socket.inet_pton(family, text), 5353), b"hello")
        proxy.dropped(len(targets))
        # Told once by header: those that are spelt otherwise are others.
        assert {event.reason for event in proxy.failed} == {"target_denied"}
        assert len(proxy.failed) == len(targets)
        rider.control.close()


def leaf(dispatcher: Dispatcher, name: str, type: str, proxy_names: Names) -> Backend:
    """A backend that connects nothing but datagrams, if those."""
    mine = way(dispatcher, name, type)
    if type == "block":
        return Block(mine)
    found = direct(dispatcher, proxy_names, name=name)
    return Direct(mine, found.dialler, found.prober)


def routed(proxy: Served, routes: Sequence[tuple[str, str]], *kinds: str) -> dict[str, Backend]:
    """Let each name go to a backend; there is one of each kind, and a group `g` of them all."""

    def change() -> dict[str, Backend]:
        leaves = [leaf(proxy.dispatcher, kind, kind, proxy.names) for kind in kinds]
        nothing = Condition(lambda condition: None)
        group = Group("g", "failover", tuple(leaves), (), nothing)
        backends: dict[str, Backend] = {item.name: item for item in (*leaves, group)}
        router = Router([Route(name=f"to-{n}", domains=(n,), backend=b) for n, b in routes])
        proxy.plane.policy.router = router
        proxy.plane.policy.backends = backends
        return backends

    return proxy.call(change)


@both
def test_backends_that_carry_no_datagrams(selector: type[Dispatcher]) -> None:
    kinds = ("http_proxy", "socks5_proxy", "block")
    with Served(selector) as proxy:
        routed(proxy, [(f"{kind.replace('_', '-')}.test", kind) for kind in kinds], *kinds)
        rider = proxy.rider()
        for kind in (*kinds, "other"):
            for _ in range(2):
                rider.say(named(f"{kind.replace('_', '-')}.test", 53), b"q")
        proxy.dropped(8)
        assert [(event.route, event.backend, event.reason) for event in proxy.failed] == [
            ("to-http-proxy.test", "http_proxy", "command_unsupported"),
            ("to-socks5-proxy.test", "socks5_proxy", "command_unsupported"),
            ("to-block.test", "block", "blocked"),
            ("", "", "no_route"),
        ]
        assert not proxy.names.asked
        rider.control.close()


GROUPS: list[tuple[tuple[str, ...], str]] = [
    (("interface", "socks5_proxy", "direct"), "interface"),
    (("direct", "block"), "direct"),
    (("socks5_proxy", "direct"), "command_unsupported"),
    (("block", "direct"), "blocked"),
    (("http_proxy", "socks5_proxy"), "command_unsupported"),
]


@both
@pytest.mark.parametrize(("kinds", "found"), GROUPS)
def test_a_group(selector: type[Dispatcher], kinds: tuple[str, ...], found: str) -> None:
    with Served(selector) as proxy:
        backends = routed(proxy, [("a.test", "g")], *kinds)
        proxy.names.known["a.test"] = [LOOPBACK]
        rider, target = proxy.rider(), proxy.point()
        rider.say(named("a.test", target.port), b"q")
        if found in backends:
            target.expect(b"q")
            assert (proxy.opened[0].backend, proxy.opened[0].route) == (found, "to-a.test")
            assert backends[found].carriers(b"")[0].counters.active == 1
        else:
            assert (proxy.fail_event().backend, proxy.fail_event().reason) == ("g", found)
        rider.control.close()


@both
def test_a_device_that_is_not_there(
    selector: type[Dispatcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(udp, "RETRY", 0.0)
    with Served(selector) as proxy:
        backends = routed(proxy, [("a.test", "interface")], "interface")
        proxy.names.known["a.test"] = [LOOPBACK]
        condition = backends["interface"].condition
        (way,) = backends["interface"].carriers(b"")
        proxy.call(lambda: condition.absent("gone", 0.0))
        rider, target = proxy.rider(), proxy.point()
        rider.say(named("a.test", target.port), b"lost")
        assert proxy.fail_event().reason == "device_absent"
        proxy.call(lambda: condition.present(0.0))
        rider.say(named("a.test", target.port), b"found")
        target.expect(b"found")
        # What it carries ends with it, and may begin anew.
        proxy.call(lambda: proxy.plane.close_carried(way, Reason.DEVICE_ABSENT))
        rider.say(named("a.test", target.port), b"again")
        target.expect(b"again")
        rider.control.close()
        proxy.told("failed device_absent", "new", "close device_absent", "new", "close closed")


@both
def test_a_network_that_cannot_be_reached(
    selector: type[Dispatcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(udp, "RETRY", 0.0)
    with Served(selector, family="4") as proxy:
        rider, target = proxy.rider(), proxy.point("::1")
        for _ in range(3):
            rider.say(target.header, b"q")
        proxy.dropped(3)
        assert proxy.fail_event().reason == "network_unreachable"
        rider.say(make_header(b"\xff\xff\xff\xff", 9), b"to all")  # no socket may do that
        proxy.dropped(4)
        assert [event.reason for event in proxy.failed][1:] == ["connect_failed"]
        rider.control.close()


def test_the_mark_to_send_with() -> None:
    """It needs root, as the tests of devices do."""
    with Served() as proxy:
        proxy.plane.policy.backends["direct"].dialler.mark = 7
        rider, target = proxy.rider(), proxy.point()
        exchange(rider, target)
        (one,) = proxy.association.flows.values()
        proxy.in_hand = True
        assert one.sock is not None
        assert one.sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == 7
        rider.control.close()


def test_the_address_to_send_from() -> None:
    with Served(source="127.0.0.9") as proxy:
        rider, target = proxy.rider(), proxy.point()
        assert rider.ask(target, b"q")[0] == "127.0.0.9"
        rider.control.close()


# Names.


@both
def test_a_name(selector: type[Dispatcher]) -> None:
    with Served(selector) as proxy:
        rider, target = proxy.rider(), proxy.point()
        header = named("A.test.", target.port)
        rider.say(header, b"1").say(header, b"2")
        proxy.settle()
        assert not proxy.events
        proxy.tell("a.test", LOOPBACK)
        source = target.expect(b"1")
        assert target.expect(b"2") == source
        assert rider.ask(target, b"3", header) == source
        target.send(b"back", source)
        rider.hear(target.header, b"back")  # from an address, as RFC 1928 section 7 says
        rider.control.close()
        event = proxy.close_event()
        assert (event.host, event.bytes_sent) == (f"a.test:{target.port}", 3)
        assert proxy.names.asked == [("a.test", "auto")]


@both
def test_what_waits_for_an_address_is_bounded(selector: type[Dispatcher]) -> None:
    with Served(selector) as proxy:
        rider, target = proxy.rider(), proxy.point()
        header = named("a.test", target.port)
        for number in range(PENDING + 3):
            rider.say(header, b"%d" % number)
        proxy.dropped(3)
        rider.say(named("b.test", target.port), b"x" * (HELD - 1000))
        proxy.dropped(3)
        rider.say(named("c.test", target.port), b"x" * 1000)
        proxy.dropped(4)
        assert proxy.association.held == PENDING + HELD - 1000
        proxy.tell("a.test", LOOPBACK)
        for number in range(PENDING):
            target.expect(b"%d" % number)
        proxy.tell("b.test", reason=Reason.DNS_NOT_FOUND)
        assert proxy.fail_event().reason == "dns_not_found"
        proxy.dropped(5)
        assert proxy.call(lambda: proxy.association.held) == 0
        rider.control.close()
        proxy.gone()
        assert proxy.names.cancelled == ["c.test"]
        assert proxy.words("connection.failed") == ["failed dns_not_found", "failed closed"]


@both
def test_the_other_kind_of_address_is_waited_for_a_moment(selector: type[Dispatcher]) -> None:
    with Served(selector) as proxy:
        rider, four, six = proxy.rider(), proxy.point(), proxy.point("::1")
        rider.say(named("slow.test", four.port), b"four")
        proxy.tell("slow.test", LOOPBACK, finished=False)
        four.expect(b"four")
        until(lambda: proxy.names.cancelled == ["slow.test"])
        rider.say(named("six.test", six.port), b"six")
        proxy.tell("six.test", "::1", finished=False)
        six.expect(b"six")
        rider.control.close()


@both
def test_the_first_kind_is_of_no_use(selector: type[Dispatcher]) -> None:
    def guard(packed: bytes, port: int) -> Reason | None:
        return Reason.TARGET_DENIED if len(packed) == 16 else None

    with Served(selector, guard=guard) as proxy:
        rider, target = proxy.rider(), proxy.point()
        rider.say(named("a.test", target.port), b"q")
        proxy.tell("a.test", "::1", finished=False)
        proxy.settle()
        assert not proxy.events
        proxy.tell("a.test", "::1", LOOPBACK)
        target.expect(b"q")
        rider.control.close()


@both
def test_a_name_that_is_told_in_the_call(selector: type[Dispatcher]) -> None:
    with Served(selector) as proxy:
        rider, target = proxy.rider(), proxy.point()
        proxy.names.known["a.test"] = [LOOPBACK]
        proxy.names.known["b.test"] = Reason.DNS_TIMEOUT
        rider.say(named("b.test", target.port), b"q").say(named("a.test", target.port), b"q")
        target.expect(b"q")
        assert proxy.fail_event().reason == "dns_timeout"
        rider.control.close()


@both
def test_an_address_at_once_and_another_later(
    selector: type[Dispatcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache had the one, and for the other nobody can be asked."""
    with Served(selector) as proxy:
        rider, target = proxy.rider(), proxy.point("::1")
        names, lookup = proxy.names, proxy.names.lookup

        def eager(name: str, family: str, answer: Resolved) -> Held | None:
            held = lookup(name, family, answer)
            answer(packed(["::1"]), None, False)
            answer(packed(["::1"]), None, False)
            return held

        monkeypatch.setattr(names, "lookup", eager)
        rider.say(named("a.test", target.port), b"q")
        target.expect(b"q")
        assert names.cancelled == ["a.test"]
        rider.control.close()
        proxy.gone()
        assert len(proxy.opened) == 1


@both
def test_a_target_that_comes_to_nothing_is_told_once_and_tried_again(
    selector: type[Dispatcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Served(selector) as proxy:
        rider, target = proxy.rider(), proxy.point()
        header = named("a.test", target.port)
        proxy.names.known["a.test"] = Reason.DNS_FAILED
        for _ in range(3):
            rider.say(header, b"q")
        proxy.dropped(3)
        assert len(proxy.names.asked) == 1
        monkeypatch.setattr(udp, "RETRY", 0.0)
        proxy.call(lambda: proxy.association.refused.update({header: 0.0}))
        rider.say(header, b"q")
        proxy.dropped(4)
        assert len(proxy.names.asked) == 2
        assert proxy.fail_event().reason == proxy.record().error == "dns_failed"
        proxy.names.known["a.test"] = [LOOPBACK]
        rider.say(header, b"q")
        target.expect(b"q")
        assert not proxy.call(lambda: proxy.association.refused)
        rider.control.close()


def test_what_came_to_nothing_is_remembered_within_bounds() -> None:
    with Served(guard=lambda packed, port: Reason.TARGET_DENIED) as proxy:
        rider = proxy.rider()
        for port in range(1, REFUSED + 11):
            rider.say(make_header(TEST_NET, port), b"q")
            proxy.dropped(port)
        assert len(proxy.association.refused) == REFUSED
        assert len(proxy.failed) == REFUSED + 10
        rider.say(make_header(TEST_NET, 1), b"q")  # forgotten
        proxy.dropped(REFUSED + 11)
        assert len(proxy.failed) == REFUSED + 11
        rider.control.close()


# Faults on the way.


@both
def test_a_target_that_does_not_listen_yet(selector: type[Dispatcher]) -> None:
    """It says so by ICMP; the next datagram goes out all the same."""
    with Served(selector) as proxy:
        rider, target = proxy.rider(), proxy.point()
        target.close()
        for _ in range(5):
            rider.say(target.header, b"early")
            proxy.settle()
        again = proxy.keep(Point(port=target.port))
        rider.say(target.header, b"late")
        source = again.expect(b"late")
        again.send(b"a", source)
        rider.hear(target.header, b"a")
        rider.control.close()
        assert proxy.close_event().bytes_sent == 5 * 5 + 4
        assert not proxy.failed


@both
def test_news_of_an_earlier_datagram_do_not_cost_the_next(selector: type[Dispatcher]) -> None:
    with Served(selector) as proxy:
        rider, target = proxy.rider(), proxy.point()
        exchange(rider, target)
        target.close()
        again = []

        def at_once() -> None:
            (flow,) = proxy.association.flows.values()
            flow.send(b"lost")  # and by the time it returns, ICMP has told
            again.append(Point(port=target.port))
            flow.send(b"found")

        proxy.call(at_once)
        again[0].expect(b"found")
        again[0].close()
        rider.control.close()
        assert proxy.close_event().bytes_sent == 4 + 4 + 5
        assert proxy.plane.dropped == 0


class Refused:
    """A socket whose datagrams are all refused before the next is sent."""

    tries = 0

    def send(self, payload: bytes) -> int:
        """See `socket.socket.send`."""
        self.tries += 1
        raise ConnectionRefusedError


def test_a_target_that_refuses_faster_than_anybody_sends() -> None:
    with Served() as proxy:
        rider, target = proxy.rider(), proxy.point()
        exchange(rider, target)

        def send() -> int:
            (flow,) = proxy.association.flows.values()
            sock, refused = flow.sock, Refused()
            flow.sock = refused
            flow.send(b"lost")
            flow.sock = sock
            return refused.tries

        assert proxy.call(send) == 2
        assert proxy.plane.dropped == 1
        exchange(rider, target)
        rider.control.close()


def test_a_way_that_goes_with_the_first_of_those_that_waited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flow, "_LOST", {errno.EMSGSIZE})  # an error that is easy to have
    with Served(listen=[("::1", "auto")]) as proxy:
        rider, target = proxy.rider(), proxy.point()
        header = named("a.test", target.port)
        rider.say(header, b"x" * 65510).say(header, b"small")
        until(lambda: proxy.call(lambda: proxy.association.held) == 65515)
        proxy.tell("a.test", LOOPBACK)
        proxy.dropped(2)
        assert proxy.close_event().reason == "network_unreachable"
        rider.say(header, b"q")
        proxy.tell("a.test", LOOPBACK)
        target.expect(b"q")
        rider.control.close()


@both
def test_a_client_that_does_not_listen(selector: type[Dispatcher]) -> None:
    with Served(selector) as proxy:
        rider, target = proxy.rider(), proxy.point()
        source = rider.ask(target, b"q")
        port = rider.port
        rider.close()
        for _ in range(4):
            target.send(b"a", source)
            proxy.settle()
        back = proxy.keep(Point(port=port))
        back.send(target.header + b"q", rider.relay)
        target.expect(b"q")
        target.send(b"a", source)
        assert back.recv().data == target.header + b"a"
        rider.control.close()


@both
def test_a_fault_of_ours(selector: type[Dispatcher], monkeypatch: pytest.MonkeyPatch) -> None:
    with Served(selector) as proxy:
        proxy.in_hand = True
        rider, target, other = proxy.rider(), proxy.point(), proxy.point()
        source = rider.ask(target, b"q")
        exchange(rider, other)
        with monkeypatch.context() as patch:
            patch.setattr(Flow, "on_event", lambda self, mask: 1 / 0)
            flow = proxy.association.flows[target.header]
            proxy.call(lambda: proxy.dispatcher.handlers.update({flow.fd: flow.on_event}))
            target.send(b"a", source)
            until(lambda: proxy.closed)
        assert [event.reason for event in proxy.closed] == ["internal_error"]
        exchange(rider, other)
        with monkeypatch.context() as patch:
            patch.setattr(udp, "read_target", lambda header: 1 / 0)
            rider.say(target.header, b"q")
            rider.control.gone()
        proxy.gone()
        assert [event.reason for event in proxy.closed] == ["internal_error"] * 2
        assert [record.levelname for record in proxy.logged] == ["ERROR"] * 2
        proxy.logged.clear()


# In a network of its own.


@pytest.fixture
def crossing() -> Iterator[Crossing]:
    """The test is in its router, and so is each thread that it starts."""
    with Crossing() as made, made.router.inside():
        yield made


@both
def test_an_address_of_ours_that_changes(crossing: Crossing, selector: type[Dispatcher]) -> None:
    """A socket keeps the address it began with; where that is gone, another is needed."""
    with Served(selector) as proxy:
        rider = proxy.rider()
        header = make_header(socket.inet_aton(FOUR), 53)
        rider.say(header, QUERY)
        assert rider.recv().data[len(header) :][:2] == QUERY[:2]
        crossing.router.ip("address delete 192.0.2.2/24 dev wan0")
        crossing.router.ip("address add 192.0.2.3/24 dev wan0")
        crossing.router.ip("route replace default via 192.0.2.1")
        rider.say(header, QUERY)
        proxy.dropped(1)
        assert proxy.close_event().reason == "network_unreachable"
        rider.say(header, QUERY)
        assert rider.recv().data[len(header) :][:2] == QUERY[:2]
        rider.control.close()
        assert len(proxy.opened) == 2


@both
def test_a_device_and_no_other(crossing: Crossing, selector: type[Dispatcher]) -> None:
    with Served(selector) as proxy:
        proxy.plane.policy.backends["direct"].dialler.device = b"vpn0"
        rider = proxy.rider()
        header = make_header(socket.inet_aton(FOUR), 53)
        rider.say(header, QUERY)
        assert proxy.fail_event().reason == "device_absent"
        crossing.plug()
        proxy.call(proxy.association.refused.clear)
        rider.say(header, QUERY)
        rider.recv()
        assert crossing.leaked() == 0
        assert crossing.vpn.asked == {"x.test"}
        rider.control.close()


@both
def test_what_a_firewall_does_not_let_out(crossing: Crossing, selector: type[Dispatcher]) -> None:
    with Served(selector) as proxy:
        rider = proxy.rider()
        header = make_header(socket.inet_aton(FOUR), 53)
        rider.say(header, QUERY)
        rider.recv()
        crossing.router.run(
            "nft", "-f", "-",
            text="table ip t { chain c { type filter hook output priority 0; "
            'oifname "wan0" udp dport 53 drop; }; }',
        )  # fmt: skip
        rider.say(header, QUERY)
        proxy.dropped(1)
        crossing.router.run("nft", "delete", "table", "ip", "t")
        rider.say(header, QUERY)
        rider.recv()
        rider.control.close()
        assert len(proxy.opened) == 1


@pytest.mark.parametrize("asked", [True, False])
def test_a_client_with_a_link_local_address(crossing: Crossing, asked: bool) -> None:
    """It means nothing without its zone."""
    world = crossing.wan.namespace
    for place, device, address in ((crossing.router, "wan0", "fe80::1"), (world, "router0", "fe80::2")):
        place.address(device, f"{address}/64")
    index = socket.if_nametoindex("wan0")
    with Served(listen=[("::", "socks")]) as proxy:
        with world.inside():
            zone = socket.if_nametoindex("router0")
            sock = socket.socket(socket.AF_INET6)
            sock.bind(("fe80::2", 0, 0, zone))
            sock.settimeout(5.0)
            sock.connect(("fe80::1", proxy.listeners[0].port, 0, zone))
            rider = proxy.keep(Rider(proxy.keep(Peer(sock)), asked, scope=zone))
        assert rider.relay[0] == "fe80::1"
        assert proxy.association.scope == index
        target = proxy.point()
        exchange(rider, target)
        exchange(rider, target)
        assert proxy.opened[0].client_ip == "fe80::2"
        rider.control.close()
