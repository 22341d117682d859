"""A group in a running data plane, over members that refuse, stall, and die in between."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bifrost_lite.backends import group as module
from bifrost_lite.backends.direct import Direct
from bifrost_lite.backends.group import Group, Try
from bifrost_lite.condition import Condition
from bifrost_lite.dial import Dial, Dialler, Done
from bifrost_lite.dispatch import Dispatcher
from bifrost_lite.errors import Reason
from bifrost_lite.target import Target
from tests import plane_kit
from tests.plane_kit import (
    GRANTED,
    Names,
    Origin,
    Peer,
    Proxy,
    anything,
    both,
    refusal,
    until,
    way,
)

ASK = b"CONNECT api.example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n"


class Via(Direct):
    """Dials one place, whatever the target: an upstream proxy that speaks no protocol."""

    def __init__(self, dispatcher: Dispatcher, name: str, place: Origin, seconds: float) -> None:
        mine = way(dispatcher, name)
        dialler = Dialler(dispatcher, Names(), anything, seconds=seconds, way=mine)
        super().__init__(mine, dialler, dialler)
        self.place = Target(place.host, place.port, b"\x7f\0\0\x01")

    def connect(self, target: Target, client: bytes, done: Done, forward: bool = False) -> Dial:
        return Dial(self.dialler, self.place, done)


@pytest.fixture(autouse=True)
def _nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(plane_kit, "EACH", (*plane_kit.EACH, Try))
    yield
    assert module._dialling == {}


def grouped(
    proxy: Proxy, *places: Origin, strategy: str = "failover", seconds: float = 5.0
) -> Group:
    """The proxy's backend is a group from now on, with a member m0, m1... for each place."""
    members = [
        Via(proxy.dispatcher, f"m{i}", place, seconds) for i, place in enumerate(places)
    ]
    condition = Condition(lambda condition: None)
    best = Group("best", strategy, tuple(members), (1,) * len(members), condition)
    proxy.plane.policy.backends["direct"] = best
    return best


def carried(proxy: Proxy, place: Origin) -> tuple[Peer, Peer]:
    """A client gets a connection, which ends at `place`."""
    client = proxy.connect().send(ASK)
    client.expect(GRANTED)
    target = place.accept()
    target.send(b"hello")
    client.expect(b"hello")
    return client, target


@both
def test_a_member_that_refuses(selector: type[Dispatcher]) -> None:
    with Proxy(selector) as proxy:
        dead, alive = proxy.origin(), proxy.origin()
        best = grouped(proxy, dead, alive)
        dead.close()
        carried(proxy, alive)
        assert proxy.words() == ["new"]
        assert proxy.opened[0].backend == "m1"
        counts = [(w.counters.failed, w.counters.active) for w in best.ways.values()]
        assert counts == [(1, 0), (0, 1)]


@both
def test_a_member_that_stalls(selector: type[Dispatcher]) -> None:
    with Proxy(selector) as proxy:
        silent, alive = proxy.origin(backlog=0), proxy.origin()
        silent.fill()
        best = grouped(proxy, silent, alive, seconds=0.2)
        carried(proxy, alive)
        assert [w.counters.last_failure for w in best.ways.values()] == ["connect_timeout", ""]


@both
def test_a_member_that_dies_and_comes_back(selector: type[Dispatcher]) -> None:
    with Proxy(selector) as proxy:
        first, second = proxy.origin(), proxy.origin()
        grouped(proxy, first, second)
        client, target = carried(proxy, first)
        first.sock.close()
        carried(proxy, second)
        client.send(b"still here")
        target.expect(b"still here")
        carried(proxy, proxy.origin(port=first.port))
        assert [event.backend for event in proxy.opened] == ["m0", "m1", "m0"]


@both
def test_no_member_works(selector: type[Dispatcher]) -> None:
    with Proxy(selector) as proxy:
        places = [proxy.origin(), proxy.origin()]
        grouped(proxy, *places)
        for place in places:
            place.close()
        assert refusal(proxy.connect().send(ASK)) == (502, "connect_refused")
        assert proxy.fail_event().backend == "m0"


@both
def test_the_session_ends_while_a_member_stalls(selector: type[Dispatcher]) -> None:
    with Proxy(selector) as proxy:
        dead, silent, other = proxy.origin(), proxy.origin(backlog=0), proxy.origin()
        dead.close()
        silent.fill()
        best = grouped(proxy, dead, silent, other)
        client = proxy.connect().send(ASK)
        silent_way = list(best.ways.values())[1]
        until(lambda: silent_way.counters in module._dialling, "the second being dialled")
        proxy.call(lambda: proxy.plane.close_all(Reason.SHUTDOWN))
        client.gone()
        proxy.told("failed shutdown")
        other.alone()


@both
def test_all_take_part(selector: type[Dispatcher]) -> None:
    with Proxy(selector) as proxy:
        places = [proxy.origin(), proxy.origin()]
        grouped(proxy, *places, strategy="round_robin")
        for place in (*places, *places):
            carried(proxy, place)


@both
def test_those_who_hold_more_get_less(selector: type[Dispatcher]) -> None:
    with Proxy(selector) as proxy:
        first, second = proxy.origin(), proxy.origin()
        grouped(proxy, first, second, strategy="least_conn")
        kept = [carried(proxy, place) for place in (first, second, first, second)]
        for client, target in (kept[1], kept[3]):
            client.finish()
            target.ended()
            target.close()
        until(lambda: len(proxy.closed) == 2, "two ends")
        for place in (second, second, first):
            carried(proxy, place)
