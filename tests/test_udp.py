"""Associations: whose datagrams, how many targets, what they count as, and how it ends."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from bifrost_lite import udp
from bifrost_lite.config.schema import Route
from bifrost_lite.config.schema import User as UserSettings
from bifrost_lite.dispatch import Dispatcher
from bifrost_lite.errors import Reason
from bifrost_lite.flow import BATCH, HELD
from bifrost_lite.plane import Policy
from bifrost_lite.route import Router
from bifrost_lite.udp import TARGETS, Association
from bifrost_lite.users import Users
from bifrost_lite.wire.udp import make_header
from tests.passwd_kit import hash_of
from tests.plane_kit import (
    HELLO5,
    METHOD5,
    Proxy,
    both,
    refused5,
    until,
)
from tests.udp_kit import ASSOCIATE, Served, exchange, named, no_descriptors

# Whose datagrams.


@both
def test_only_the_client_sends(selector: type[Dispatcher]) -> None:
    with Served(selector) as proxy:
        rider, target = proxy.rider(), proxy.point()
        stranger, neighbour = proxy.point("127.0.0.2"), proxy.point()
        stranger.send(target.header + b"spoofed", rider.relay)
        proxy.dropped(1)
        assert proxy.association.peer is None
        exchange(rider, target)
        # From now on the kernel keeps away everybody else: nobody is told of them.
        stranger.send(target.header + b"spoofed", rider.relay)
        neighbour.send(target.header + b"spoofed", rider.relay)
        exchange(rider, target)
        target.empty()
        rider.control.close()
        assert proxy.close_event().bytes_sent == 8


@both
def test_others_who_were_faster_than_the_first_datagram(selector: type[Dispatcher]) -> None:
    """What waits in the socket already, the kernel keeps there."""
    with Served(selector) as proxy:
        rider, target, neighbour = proxy.rider(), proxy.point(), proxy.point()

        def send() -> None:
            rider.say(target.header, b"first")
            neighbour.send(target.header + b"spoofed", rider.relay)
            rider.say(target.header, b"second")

        proxy.call(send)
        target.expect(b"first")
        target.expect(b"second")
        proxy.dropped(1)
        rider.control.close()


@both
def test_a_client_that_told_its_port(selector: type[Dispatcher]) -> None:
    with Served(selector) as proxy:
        rider, target, neighbour = proxy.rider(asked=True), proxy.point(), proxy.point()
        neighbour.send(target.header + b"spoofed", rider.relay)
        exchange(rider, target)
        neighbour.send(target.header + b"spoofed", rider.relay)
        exchange(rider, target)
        target.empty()
        rider.control.close()


def test_a_stranger_before_the_port_is_known_to_the_kernel() -> None:
    """It comes in between the bind and the connect."""
    with Served() as proxy:
        rider, target, neighbour = proxy.rider(), proxy.point(), proxy.point()
        proxy.call(lambda: setattr(proxy.association, "port", rider.port))
        neighbour.send(target.header + b"spoofed", rider.relay)
        proxy.dropped(1)
        exchange(rider, target)
        rider.control.close()


@both
def test_only_the_target_answers(selector: type[Dispatcher]) -> None:
    with Served(selector) as proxy:
        rider, target, stranger = proxy.rider(), proxy.point(), proxy.point()
        source = rider.ask(target, b"q")
        stranger.send(b"forged", source)
        target.send(b"a", source)
        rider.hear(target.header, b"a")
        proxy.settle()
        rider.empty()
        rider.control.close()


BROKEN = {
    "nothing": b"",
    "short": b"\0\0\0\1\x7f\0\0\1\0",
    "reserved": b"\0\1\0\1\x7f\0\0\1\0\x35payload",
    "fragment": b"\0\0\1\1\x7f\0\0\1\0\x35payload",
    "last fragment": b"\0\0\x81\1\x7f\0\0\1\0\x35payload",
    "type": b"\0\0\0\2\x7f\0\0\1\0\x35payload",
    "port 0": b"\0\0\0\1\x7f\0\0\1\0\0payload",
    "no name": b"\0\0\0\3\x02a\0\0\x35payload",
    "cut name": b"\0\0\0\3\xffname",
}


@both
def test_broken_datagrams(selector: type[Dispatcher]) -> None:
    with Served(selector) as proxy:
        rider, target = proxy.rider(), proxy.point()
        for data in BROKEN.values():
            rider.say(b"", data)
        proxy.dropped(len(BROKEN))
        assert proxy.association.peer is None  # nothing good came yet
        exchange(rider, target)
        for data in BROKEN.values():
            rider.say(b"", data)
        proxy.dropped(2 * len(BROKEN))
        rider.control.close()
        assert proxy.close_event().bytes_sent == 4
        assert not proxy.failed


# Who may have it.


def test_off_unless_asked_for() -> None:
    with Proxy() as proxy:
        client = proxy.connect().send(HELLO5 + ASSOCIATE)
        assert client.rest() == METHOD5 + refused5(7)
        event = proxy.fail_event()
        assert (event.protocol, event.host, event.reason) == ("SOCKS5", "", "command_unsupported")


@both
def test_byte_by_byte(selector: type[Dispatcher]) -> None:
    with Served(selector) as proxy:
        client = proxy.connect().trickle(HELLO5 + ASSOCIATE, proxy.settle).expect(METHOD5)
        assert client.exactly(8) == b"\x05\0\0\1\x7f\0\0\1"
        client.close()


def test_a_client_that_is_not_let_in() -> None:
    with Served(max_per_client=1) as proxy:
        rider = proxy.rider()
        client = proxy.connect().send(HELLO5 + ASSOCIATE)
        assert client.rest() == METHOD5 + refused5(1)
        assert proxy.fail_event().reason == "too_many_connections_per_client"
        rider.control.close()


@pytest.mark.parametrize("loaded", [True, False])
@both
def test_no_descriptor_for_the_relay(
    selector: type[Dispatcher], loaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor for the code of datagrams, where nobody has sent any."""
    with Served(selector) as proxy:
        client = proxy.connect().send(HELLO5).expect(METHOD5)
        with monkeypatch.context() as patch, no_descriptors():
            if not loaded:
                patch.delitem(sys.modules, "bifrost_lite.udp")
            client.send(ASSOCIATE)
            assert client.rest() == refused5(1)
        assert proxy.fail_event().reason == "out_of_descriptors"


@both
def test_no_address_for_the_relay(
    selector: type[Dispatcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It went between the connection and the request."""
    with Served(selector) as proxy:
        client = proxy.connect().send(HELLO5).expect(METHOD5)
        with monkeypatch.context() as patch:
            patch.setattr(Association, "_place", lambda *_: ("192.0.2.1", 0))
            client.send(ASSOCIATE)
            assert client.rest() == refused5(3)
        assert proxy.fail_event().reason == "network_unreachable"
        # Or the client's did.
        rider, target = proxy.rider(), proxy.point()
        with monkeypatch.context() as patch:
            patch.setattr(Association, "_place", lambda *_: ("255.255.255.255", 9))
            rider.say(target.header, b"q")
            proxy.dropped(1)
        exchange(rider, target)
        rider.control.close()


def test_a_client_that_left_before_the_answer() -> None:
    with Served() as proxy:
        client = proxy.connect().send(HELLO5).expect(METHOD5)

        def leave() -> None:
            client.send(ASSOCIATE)
            client.reset()

        proxy.call(leave)
        proxy.gone()
        assert not proxy.events


# How many.


@both
def test_one_target_too_many(selector: type[Dispatcher]) -> None:
    with Served(selector) as proxy:
        rider = proxy.rider()
        targets = [proxy.point() for _ in range(TARGETS + 1)]
        for target in targets[:TARGETS]:
            exchange(rider, target)
        exchange(rider, targets[0])  # so the second has been quiet longest
        exchange(rider, targets[TARGETS])
        (event,) = proxy.closed
        assert (event.host, event.reason) == (
            targets[1].target.text, "too_many_connections_per_client",
        )  # fmt: skip
        assert proxy.plane.stats()[0] == TARGETS
        assert proxy.plane.admitted == TARGETS + 1
        assert proxy.plane.refused == 0
        exchange(rider, targets[1])  # and now the third
        assert proxy.closed[1].host == targets[2].target.text
        rider.control.close()


@both
def test_targets_count_as_connections(selector: type[Dispatcher]) -> None:
    with Served(selector, max_per_client=4) as proxy:
        rider, origin = proxy.rider(), proxy.origin()
        first, second, third = (proxy.point() for _ in range(3))
        exchange(rider, first)
        exchange(rider, second)
        tunnel = proxy.tunnel(origin)[0]
        exchange(rider, third)
        assert [event.host for event in proxy.closed] == [first.target.text]
        other = proxy.connect()
        assert other.send(b"CONNECT a.test:1 HTTP/1.1\r\nHost: a\r\n\r\n").head().startswith(
            b"HTTP/1.1 503 "
        )
        other.close()
        # With nothing of its own to give up it has to wait.
        tunnel.reset()
        proxy.gone(1)
        rider.control.close()
        proxy.gone()
        clients = [proxy.tunnel(origin)[0] for _ in range(3)]
        rider = proxy.rider()
        for _ in range(2):
            rider.say(first.header, b"q")
        until(lambda: len(proxy.failed) == 2)
        assert proxy.failed[1].reason == "too_many_connections_per_client"
        for client in (*clients, rider.control):
            client.close()


def test_targets_count_for_all_clients_together() -> None:
    with Served(max_connections=3) as proxy:
        rider, other = proxy.rider(), proxy.rider(source="127.0.0.2")
        exchange(rider, proxy.point())
        target = proxy.point()
        other.say(target.header, b"q")
        assert proxy.fail_event().reason == "too_many_connections"
        exchange(rider, target)
        for each in (rider, other):
            each.control.close()


@both
def test_no_descriptor_for_a_target(
    selector: type[Dispatcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(udp, "RETRY", 0.0)
    with Served(selector) as proxy:
        rider, target = proxy.rider(), proxy.point()
        with no_descriptors():
            rider.say(target.header, b"lost")
            assert proxy.fail_event().reason == "out_of_descriptors"
        exchange(rider, target)
        rider.control.close()


@both
def test_a_flood_leaves_turns_to_others(selector: type[Dispatcher]) -> None:
    with Served(selector) as proxy:
        proxy.in_hand = True
        rider, target = proxy.rider(), proxy.point()
        source = rider.ask(target, b"first")
        association = proxy.association
        (flow,) = association.flows.values()
        turns: list[str] = []

        def watch(name: str, fd: int) -> None:
            handler = proxy.dispatcher.handlers[fd]
            assert handler.__self__ in (association, flow)

            def told(mask: int) -> None:
                before = association.moved
                handler(mask)
                turns.append(f"{name} {association.moved - before}")

            proxy.dispatcher.handlers[fd] = Spy(told, handler.__self__).told

        def flood() -> None:
            watch("up", association.relay_fd)
            watch("down", flow.fd)
            for _ in range(3 * BATCH):
                rider.say(target.header, b"up")
                target.send(b"down", source)

        proxy.call(flood)
        for _ in range(3 * BATCH):
            target.expect(b"up")
            rider.hear(target.header, b"down")
        proxy.settle()
        pairs = [sorted(turns[at : at + 2]) for at in (0, 2, 4)]
        assert pairs == [[f"down {BATCH}", f"up {BATCH}"]] * 3
        rider.control.close()


class Spy:
    """A handler that stands before another's."""

    def __init__(self, told: Callable[[int], None], owner: object) -> None:
        self._told, self._owner = told, owner

    def told(self, mask: int) -> None:
        """See `dispatch.Handler`."""
        self._told(mask)

    def wants(self, fd: int) -> int:
        """See `dispatch.Owner`."""
        return self._owner.wants(fd)

    def crash(self) -> None:
        """See `dispatch.Owner`."""
        self._owner.crash()


@both
def test_a_flood_that_nobody_reads(selector: type[Dispatcher]) -> None:
    """The kernel drops what does not fit; what the proxy has is bounded."""
    with Served(selector) as proxy:
        proxy.in_hand = True
        rider, target = proxy.rider(), proxy.point()
        for _ in range(200):
            rider.say(target.header, b"x" * 60000)
        for port in range(1, 3 * TARGETS):
            rider.say(make_header(b"\x7f\0\0\x09", port), b"x" * 60000)
        rider.say(named("a.test", 9), b"x" * 60000)
        proxy.settle()
        association = proxy.association
        assert len(association.flows) <= TARGETS
        assert association.held <= HELD
        rider.control.close()


# The end.


@both
@pytest.mark.parametrize("how", ["finish", "reset"])
def test_the_control_connection_ends(selector: type[Dispatcher], how: str) -> None:
    with Served(selector) as proxy:
        rider, target = proxy.rider(), proxy.point()
        exchange(rider, target)
        rider.say(named("a.test", 53), b"q")  # which looks up
        until(lambda: proxy.names.held)
        getattr(rider.control, how)()
        proxy.gone()
        word = "closed" if how == "finish" else "client_reset"
        assert sorted(proxy.words()) == [f"close {word}", f"failed {word}", "new"]
        assert [record.error for record in proxy.finished] == (
            ["", ""] if how == "finish" else [word] * 2
        )
        assert proxy.names.cancelled == ["a.test"]


@both
def test_what_a_client_says_on_the_control_connection(selector: type[Dispatcher]) -> None:
    with Served(selector) as proxy:
        rider, target = proxy.rider(), proxy.point()
        rider.control.send(bytes(300_000))
        exchange(rider, target)
        rider.control.send(b"bye").finish()
        proxy.gone()
        rider.control.gone()


@both
def test_a_control_connection_that_ends_with_the_request(selector: type[Dispatcher]) -> None:
    with Served(selector) as proxy:
        client = proxy.connect().send(HELLO5).expect(METHOD5)

        def send() -> None:
            client.send(ASSOCIATE + b"early").finish()

        proxy.call(send)
        assert len(client.rest()) == 10
        proxy.gone()


@both
def test_a_quiet_flow_ends(selector: type[Dispatcher]) -> None:
    with Served(selector) as proxy:
        rider, target, other = proxy.rider(), proxy.point(), proxy.point()
        exchange(rider, target)
        quiet = proxy.association.quiet
        assert quiet.seconds == 60.0
        rider.say(named("a.test", 53), b"q")
        until(lambda: proxy.names.held)
        proxy.call(lambda: setattr(quiet, "seconds", 0.05))
        until(lambda: len(proxy.finished) == 2)
        assert sorted(proxy.words()) == ["close idle_timeout", "failed idle_timeout", "new"]
        assert [record.error for record in proxy.finished] == ["", ""]  # so do they all end
        proxy.call(lambda: setattr(quiet, "seconds", 60.0))
        exchange(rider, target)
        exchange(rider, other)
        rider.control.close()


@both
def test_an_association_where_nothing_moves_ends(selector: type[Dispatcher]) -> None:
    with Served(selector, idle=0.2) as proxy:
        rider = proxy.rider()
        rider.control.ended()
        proxy.gone()
        assert not proxy.events


@both
def test_datagrams_keep_it_alive(selector: type[Dispatcher]) -> None:
    with Served(selector, idle=60.0) as proxy:
        proxy.in_hand = True
        rider, target = proxy.rider(), proxy.point()
        exchange(rider, target)
        association = proxy.association
        for _ in range(8):  # two periods
            proxy.call(association.on_idle_check)
            proxy.call(next(iter(association.flows.values())).on_idle_check)
            exchange(rider, target)
        for _ in range(4):
            assert not proxy.closed
            proxy.call(association.on_idle_check)
        assert proxy.call(lambda: association.open)
        proxy.call(association.on_idle_check)
        assert proxy.close_event().reason == "idle_timeout"
        proxy.gone()


@both
def test_the_operator_closes_a_flow(selector: type[Dispatcher]) -> None:
    with Served(selector) as proxy:
        rider, target, other = proxy.rider(), proxy.point(), proxy.point()
        exchange(rider, target)
        exchange(rider, other)
        first = proxy.opened[0].id
        proxy.call(lambda: proxy.plane.connections[first].close(Reason.OPERATOR))
        assert (proxy.closed[0].host, proxy.closed[0].reason) == (
            target.target.text, "closed_by_operator",
        )  # fmt: skip
        exchange(rider, other)
        exchange(rider, target)  # a new one
        assert len(proxy.opened) == 3
        rider.control.close()


@both
def test_the_daemon_stops(selector: type[Dispatcher]) -> None:
    drained: list[int] = []
    with Served(selector) as proxy:
        proxy.in_hand = True
        idle, busy, target = proxy.rider(), proxy.rider(), proxy.point()
        exchange(busy, target)
        proxy.plane.drained = lambda: drained.append(1)
        proxy.call(proxy.plane.close_idle)
        idle.control.ended()
        exchange(busy, target)
        busy.say(proxy.point().header, b"nothing new")
        proxy.dropped(1)
        assert not drained
        (flow,) = proxy.association.flows.values()
        association = flow.association
        proxy.call(flow.on_quiet)
        busy.control.ended()
        for late in (association.go_on, association.crash, flow.crash):
            proxy.call(late)  # it has ended already
        proxy.gone()
        assert drained == [1]


def test_closed_with_all_others() -> None:
    with Served() as proxy:
        rider, target = proxy.rider(), proxy.point()
        exchange(rider, target)
        proxy.call(lambda: proxy.plane.close_all(Reason.SHUTDOWN))
        proxy.told("new", "close shutdown")


# Other rules meanwhile.


@both
def test_rules_hold_for_the_next_target(selector: type[Dispatcher]) -> None:
    with Served(selector) as proxy:
        rider, target, other = proxy.rider(), proxy.point(), proxy.point()
        exchange(rider, target)
        routes = [Route(name="r", domains=("*",), ports=(target.port,), backend="direct")]
        proxy.swap(router=Router(routes))
        exchange(rider, target)
        rider.say(other.header, b"q")
        assert proxy.fail_event().reason == "no_route"
        proxy.swap(router=Router(()))
        exchange(rider, other)  # at once: a refusal holds for the rules it was made by
        rider.control.close()


def test_a_client_that_may_no_longer() -> None:
    with Served() as proxy:
        rider, target = proxy.rider(), proxy.point()
        old = proxy.plane.policy
        denying = Policy(old.router, old.backends, (), ("127.0.0.0/8",), 9, 9, False)
        proxy.call(lambda: setattr(proxy.plane, "policy", denying))
        rider.say(target.header, b"q")
        assert proxy.fail_event().reason == "acl_denied"
        rider.control.close()


@both
@pytest.mark.parametrize("asked", [True, False])
def test_users_come_up(selector: type[Dispatcher], asked: bool) -> None:
    """Nobody can log in on an association: who had no password then reaches no further targets;
    those that are reached stay."""
    user = UserSettings(name="anna", password_hash=str(hash_of(b"geheim", 1000)))
    with Served(selector) as proxy:
        proxy.listeners[0].auth = asked
        rider, target = proxy.rider(), proxy.point()
        exchange(rider, target)
        proxy.swap(users=proxy.call(lambda: Users(proxy.dispatcher, [user])))
        exchange(rider, target)
        rider.say(proxy.point().header, b"q")
        if asked:
            assert proxy.fail_event().reason == "auth_required"
            exchange(rider, target)
        else:
            until(lambda: len(proxy.opened) == 2)
        rider.control.close()


@both
@pytest.mark.parametrize("key", ["auth", "udp"])
def test_its_listener_lets_such_clients_in_no_more(selector: type[Dispatcher], key: str) -> None:
    """It asks for a password now, or takes no datagrams: what lives goes on, and no more comes."""
    user = UserSettings(name="anna", password_hash=str(hash_of(b"geheim", 1000)))
    with Served(selector) as proxy:
        listener = proxy.listeners[0]
        listener.auth = False
        users = proxy.call(lambda: Users(proxy.dispatcher, [user]))
        proxy.swap(users=users)
        rider, target = proxy.rider(), proxy.point()
        exchange(rider, target)
        setattr(listener, key, key == "auth")
        proxy.swap(users=users)
        exchange(rider, target)
        rider.say(proxy.point().header, b"q")
        expected = "auth_required" if key == "auth" else "command_unsupported"
        assert proxy.fail_event().reason == expected
        exchange(rider, target)
        rider.control.close()


def test_nobody_pays_for_it_who_does_not_use_it() -> None:
    """Its modules come with the first association."""
    import subprocess
    import sys

    code = "import sys, bifrost_lite.daemon; print([n for n in sys.modules if n.endswith(('.udp', '.flow'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
