"""When backends are checked, what is told of them, and that idle ones cost nothing."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Iterator

import pytest
from msgspec import structs

from bifrost_lite import health as health_module
from bifrost_lite.backends.group import Group
from bifrost_lite.config import schema
from bifrost_lite.dial import Dial, Done
from bifrost_lite.dispatch import EpollDispatcher, PollDispatcher
from bifrost_lite.errors import Reason
from bifrost_lite.events import BackendHealth, rfc3339
from bifrost_lite.health import AT_ONCE, Monitor
from bifrost_lite.target import Target, parse_authority
from tests.health_kit import PASS, Bench, running
from tests.plane_kit import Origin
from tests.udp_kit import no_descriptors

NO = b"HTTP/1.1 500 Broken\r\n\r\n"
WHY = "The target did not answer in time."


@pytest.fixture(params=[EpollDispatcher, PollDispatcher], ids=["epoll", "poll"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    yield from running(request.param)


def put_http(bench: Bench, name: str = "out", **settings: object) -> Origin:
    """A backend with an HTTP check every minute; answers the target."""
    origin = bench.origin()
    bench.put(name, **{"type": "http", "target": f"http://{origin.authority}/", "jitter": 0.0, **settings})
    return origin


# Nothing asked, nothing done.


def test_without_checks_there_is_no_timer(bench: Bench) -> None:
    bench.put("plain")
    bench.put("passive", type="passive")
    bench.adopt()
    assert bench.timers == []
    bench.advance(1e6)
    assert bench.events == []
    assert not bench.dispatcher.handlers
    assert [(at.name, at.state, at.reason) for at in bench.monitor.states()] == [
        ("plain", "up", "not checked"),
        ("passive", "up", "not checked"),
    ]


def test_the_present_picture(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_module, "time", lambda: 1700000000.5)
    backend = bench.put("out", type="passive", fall=1)
    bench.adopt()
    start = rfc3339(1700000000)
    assert bench.monitor.states() == [BackendHealth("out", True, "up", "not checked", start)]
    monkeypatch.setattr(health_module, "time", lambda: 1700000060.0)
    assert bench.monitor.states() == [BackendHealth("out", True, "up", "not checked", start)]
    backend.condition.dial_failed(WHY, "a", bench.loop.time())
    down = BackendHealth("out", False, "down", f"A connection failed. {WHY}", rfc3339(1700000060))
    assert bench.events == [down]
    monkeypatch.setattr(health_module, "time", lambda: 1700000090.0)
    assert bench.monitor.states() == [down]


def test_without_a_hand_on_them_dice_and_wireguard_are_real(bench: Bench) -> None:
    monitor = Monitor(bench.loop, bench.dispatcher, bench.publish)
    assert all(0.0 <= monitor._random() < 1.0 for _ in range(100))
    told: list[str] = []
    # No kernel knows a device of this name.
    inquiry = monitor._ask(bench.dispatcher, "no-such-device", lambda peers, why: told.append(why))
    bench.until(lambda: told, "the kernel's answer")
    inquiry.cancel()
    assert told[0]


# The rhythm.


def test_first_checks_come_soon_and_spread(bench: Bench) -> None:
    bench.dice = 0.5
    put_http(bench, "slow")
    put_http(bench, "fast", interval=0.2)
    bench.adopt()
    assert bench.timers == [0.1, 0.5]


@pytest.mark.parametrize(("dice", "seconds"), [(0.0, 54.0), (0.5, 60.0), (0.75, 63.0)])
def test_jitter(bench: Bench, dice: float, seconds: float) -> None:
    origin = put_http(bench, jitter=0.1)
    bench.adopt()
    bench.advance(0.0)
    bench.dice = dice
    bench.answer(origin)
    assert bench.timers == [seconds]
    assert bench.reason() == "Its checks succeed."


def test_the_interval_counts_from_one_begin_to_the_next(bench: Bench) -> None:
    origin = put_http(bench, timeout=300.0)
    bench.adopt()
    bench.advance(0.0)
    bench.advance(20.0)
    bench.answer(origin)
    assert bench.timers == [40.0]
    bench.advance(40.0)
    bench.advance(200.0)  # longer than the interval: no second one beside it
    assert bench.timers == [100.0]
    origin.sock.setblocking(False)
    first = origin.accept()
    origin.alone()
    first.send(PASS)
    bench.until(lambda: bench.timers != [100.0], "the next check")
    bench.answer(origin)


def test_a_backend_that_dies_and_returns(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "bifrost.health")
    origin = put_http(bench, hold_down=50.0)
    bench.adopt()
    bench.advance(0.0)
    bench.answer(origin)
    bench.advance(60.0)
    bench.answer(origin, NO)
    assert bench.told == ["out suspect"]
    assert bench.timers == [15.0]  # down is found soon
    bench.advance(15.0)
    bench.answer(origin, NO)
    bench.advance(15.0)
    bench.answer(origin, NO)
    assert bench.told == ["out suspect", "out down"]
    assert bench.timers == [60.0]
    bench.advance(30.0)
    bench.monitor.hurry("out")
    bench.advance(0.0)
    bench.answer(origin)  # works again, and is held down still
    assert bench.timers == [15.0]
    bench.advance(15.0)
    bench.answer(origin)
    assert bench.told[2:] == []
    assert bench.timers == [5.0]  # until the end of the hold-down
    bench.advance(5.0)
    assert bench.told[2:] == ["out up"]
    assert bench.timers == [5.0]  # the deadline of the check that was due then, and no other
    bench.answer(origin)
    assert bench.timers == [60.0]
    assert [event.healthy for event in bench.events] == [True, False, True]
    assert caplog.messages == [
        "backend out is suspect: A check failed. The answer has status 500.",
        "backend out is down: 3 checks in a row failed. The answer has status 500.",
        "backend out is up: 2 checks in a row succeeded.",
    ]
    levels = [record.levelno for record in caplog.records]
    assert levels == [logging.INFO, logging.WARNING, logging.INFO]


def test_doubt_does_not_slow_short_intervals_down(bench: Bench) -> None:
    origin = put_http(bench, interval=0.5)
    slow = put_http(bench, "slow", interval=2.0)
    bench.adopt()
    bench.advance(0.0)
    bench.answer(origin, NO)
    bench.answer(slow, NO)
    assert bench.timers == [0.5, 1.0]


def test_a_failed_dial_asks_for_a_check_at_once(bench: Bench) -> None:
    origin = put_http(bench)
    bench.adopt()
    bench.advance(0.0)
    bench.answer(origin)
    assert bench.timers == [60.0]
    condition = bench.backends["out"].condition
    condition.dial_failed(WHY, "a", bench.loop.time())
    assert bench.told == ["out suspect"]
    assert bench.timers == [0.0]
    bench.advance(0.0)
    condition.dial_failed(WHY, "b", bench.loop.time())  # one is under way
    bench.answer(origin)
    assert bench.timers == [15.0]
    bench.advance(15.0)
    bench.answer(origin)
    assert bench.told == ["out suspect", "out up"]
    assert bench.timers == [60.0]


def test_a_dial_that_fails_during_a_check_asks_for_no_second(bench: Bench) -> None:
    origin = put_http(bench)
    bench.adopt()
    bench.advance(0.0)
    bench.backends["out"].condition.dial_failed(WHY, "a", bench.loop.time())
    assert bench.timers == [5.0]  # the deadline of the check
    bench.answer(origin)
    origin.sock.setblocking(False)
    origin.alone()
    assert bench.timers == [15.0]


def test_our_own_failures_are_nobodys_fault(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    put_http(bench, fall=1)
    bench.adopt()

    def broken(*_: object) -> None:
        raise ValueError

    bench.backends["out"].probe = broken  # type: ignore[method-assign]
    bench.advance(0.0)
    assert bench.events == []
    assert bench.timers == [60.0]
    assert len(caplog.records) == 1


def test_the_first_check_when_no_descriptor_is_left(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code of checks is read then, and cannot be."""
    origin = put_http(bench, fall=1)
    bench.adopt()
    with monkeypatch.context() as patch, no_descriptors():
        patch.delitem(sys.modules, "bifrost_lite.check", raising=False)
        bench.advance(0.0)
    assert bench.events == []
    assert bench.timers == [60.0]
    bench.advance(60.0)
    bench.answer(origin)
    assert bench.reason() == "Its checks succeed."


def test_passive_marking_needs_one_timer_while_down(bench: Bench) -> None:
    backend = bench.put("out", type="passive", fall=2, rise=1, hold_down=30.0)
    bench.adopt()
    now = bench.loop.time
    condition = backend.condition
    condition.dial_failed(WHY, "a", now())
    assert (bench.told, bench.timers) == (["out suspect"], [])
    bench.advance(10.0)
    condition.dial_failed(WHY, "b", now())
    assert (bench.told[1:], bench.timers) == (["out down"], [30.0])
    bench.advance(29.0)
    assert bench.timers == [1.0]
    bench.advance(1.0)
    assert (bench.told[2:], bench.timers) == (["out suspect"], [])
    condition.dial_failed(WHY, "a", now())
    assert (bench.told[3:], bench.timers) == (["out down"], [30.0])
    bench.advance(1e9)  # one step, however large
    assert (bench.told[4:], bench.timers) == (["out suspect"], [])
    backend.way.worked(0.01)
    assert (bench.told[5:], bench.timers) == (["out up"], [])
    assert not bench.dispatcher.handlers


def test_a_timer_that_is_early_waits_on(bench: Bench) -> None:
    """The event loop calls what is due within the resolution of its clock."""
    backend = bench.put("out", type="passive", fall=1, hold_down=30.0)
    bench.adopt()
    backend.condition.dial_failed(WHY, "a", bench.loop.time() + 1e-10)
    bench.advance(30.0)
    bench.advance(1e-9)
    assert bench.told == ["out down", "out suspect"]


# Devices.


def test_what_waits_is_not_checked(bench: Bench) -> None:
    origin = put_http(bench)
    bench.adopt()
    condition = bench.backends["out"].condition
    bench.advance(0.0)
    peer = origin.accept()
    condition.absent("There is no wg0.", bench.loop.time())
    bench.turn()
    assert (bench.told, bench.timers) == (["out waiting"], [])
    assert peer.head().startswith(b"GET /")
    peer.gone()  # the check under way was given up
    bench.monitor.hurry("out")
    bench.advance(1e6)
    assert bench.timers == []
    condition.present(bench.loop.time())
    assert (bench.told[1:], bench.timers) == (["out suspect"], [0.0])
    bench.advance(0.0)
    bench.answer(origin)
    bench.advance(15.0)
    bench.answer(origin)
    assert bench.told[2:] == ["out up"]


def test_what_waits_from_the_start(bench: Bench) -> None:
    origin = put_http(bench)
    condition = bench.backends["out"].condition
    condition.absent("There is no wg0.", bench.loop.time())  # nobody watches yet
    bench.adopt()
    assert (bench.told, bench.timers, bench.state()) == (["out waiting"], [], "waiting")
    condition.present(bench.loop.time())
    bench.advance(0.0)
    bench.answer(origin)


def test_hurry_is_no_hurry_without_checks(bench: Bench) -> None:
    origin = put_http(bench)
    bench.put("plain")
    bench.adopt()
    bench.advance(0.0)
    bench.answer(origin)
    for name in ("out", "plain", "nobody"):
        bench.monitor.hurry(name)
        bench.monitor.hurry(name)
    assert bench.timers == [1.0]  # however often addresses change
    bench.advance(0.5)
    bench.monitor.hurry("out")
    assert bench.timers == [0.5]
    bench.advance(30.0)
    bench.answer(origin)
    bench.advance(30.0)
    bench.monitor.hurry("out")
    assert bench.timers == [0.0]


# Many.


def test_few_at_the_same_time(bench: Bench) -> None:
    origin = bench.origin()
    names = [f"b{number}" for number in range(AT_ONCE + 9)]
    for name in names:
        bench.put(name, type="http", target=f"http://{origin.authority}/", jitter=0.0)
    spread = iter(range(len(names)))
    bench.monitor._random = lambda: next(spread) / len(names)  # begin in this order
    bench.adopt()
    bench.advance(1.0)
    assert len(bench.dispatcher.handlers) == AT_ONCE
    assert bench.timers == [5.0] * AT_ONCE  # those that wait have none
    peers = [origin.accept() for _ in range(AT_ONCE)]
    bench.monitor.hurry(names[-1])  # it is in the queue already
    bench.backends[names[-2]].condition.absent("There is no wg0.", 0.0)  # leaves the queue
    for peer in peers[:3]:
        peer.send(PASS)
    bench.monitor._random = lambda: 0.0
    bench.until(lambda: len(bench.timers) == AT_ONCE + 3, "three others")
    assert len(bench.dispatcher.handlers) == AT_ONCE
    bench.advance(5.0)  # all of them are late, the rest of the queue begins
    assert bench.told[0] == f"{names[-2]} waiting"
    assert sorted(bench.told[1:]) == sorted(f"{name} suspect" for name in names[3 : AT_ONCE + 3])
    assert len(bench.dispatcher.handlers) == 5


def test_a_long_queue_that_fails_at_once(bench: Bench) -> None:
    """No check waits for the next one inside of itself."""
    hole = bench.hole()
    bench.names.known["no.example"] = Reason.DNS_NOT_FOUND
    for number in range(AT_ONCE):
        bench.put(f"late{number}", type="tcp", target=hole.authority, jitter=0.0)
    bench.adopt()
    bench.advance(0.0)
    for number in range(240):
        bench.put(f"fast{number}", type="tcp", target="no.example:80", jitter=0.0)
    bench.adopt()
    bench.advance(0.0)
    assert set(bench.told) == {f"fast{number} up" for number in range(240)}  # they are new
    bench.advance(5.0)
    assert len(bench.events) == 240 + AT_ONCE + 240


# Reloads.


def test_what_stays_keeps_its_timer(bench: Bench) -> None:
    origin = put_http(bench)
    bench.adopt()
    bench.advance(0.0)
    bench.answer(origin)
    bench.advance(20.0)
    old = bench.backends["out"]
    settings = bench.settings["out"]
    assert isinstance(settings, schema.Direct)
    bench.add(bench.make("out", settings.health, old.condition), settings)
    bench.adopt()
    assert bench.timers == [40.0]
    bench.backends["out"].prober = None  # type: ignore[attr-defined]
    old.probe = None  # type: ignore[method-assign]
    bench.backends["out"].probe = bench.make("out", settings.health).probe  # type: ignore[method-assign]
    bench.advance(40.0)  # through the new one
    bench.adopt()  # while the check is under way
    bench.answer(origin)
    assert bench.timers == [60.0]
    assert bench.events == []


@pytest.mark.parametrize("changed", ["health", "condition"])
def test_what_changes_begins_anew(bench: Bench, changed: str) -> None:
    origin = put_http(bench, fall=1)
    bench.adopt()
    bench.advance(0.0)
    bench.answer(origin, NO)
    assert bench.told == ["out down"]
    old = bench.backends["out"].condition
    bench.advance(60.0)
    peer = origin.accept()
    settings = bench.settings["out"]
    assert isinstance(settings, schema.Direct)
    health = structs.replace(settings.health, fall=2 if changed == "health" else 1)
    bench.add(bench.make("out", health), structs.replace(settings, health=health))
    bench.adopt()
    assert bench.told == ["out down", "out up"]
    assert bench.timers == [0.0]
    bench.turn()
    peer.head()
    peer.gone()
    old.absent("There is no wg0.", 1e9)  # of rules that are no longer in force
    old.present(1e9)
    assert bench.told == ["out down", "out up"]
    bench.answer(origin)
    assert bench.timers == [60.0]


def test_what_goes_and_what_comes(bench: Bench) -> None:
    origins = [put_http(bench, name) for name in ("one", "two")]
    bench.adopt()
    bench.advance(0.0)
    gone = bench.backends.pop("one").condition
    del bench.settings["one"]
    bench.put("three", type="passive")
    bench.adopt()
    bench.turn()
    peer = origins[0].accept()
    peer.head()
    peer.gone()
    gone.check_failed(WHY, bench.loop.time())
    bench.answer(origins[1])
    assert bench.told == ["three up"]
    assert [at.name for at in bench.monitor.states()] == ["two", "three"]
    assert bench.timers == [60.0]


def test_an_end_while_others_wait_in_the_queue(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    hole = bench.hole()
    for number in range(AT_ONCE * 3):
        bench.put(f"b{number}", type="tcp", target=hole.authority)
    bench.adopt()
    bench.advance(0.0)
    for backend in bench.backends.values():
        backend.probe = pytest.fail  # no other begins
    bench.monitor.close()
    assert bench.timers == []
    assert bench.monitor.states() == []
    assert caplog.messages == []
    for backend in bench.backends.values():
        backend.condition.check_failed(WHY, 0.0)
    assert bench.events == []


# Groups.


def put_group(bench: Bench, name: str, member: str) -> Group:
    condition = bench.condition(name, schema.Health())
    group = Group(name, "failover", (bench.backends[member],), (), condition)
    group.refresh(bench.loop.time())
    bench.add(group, schema.Group(name=name, members=(member,)))
    return group


def test_groups_are_told_of_too(bench: Bench) -> None:
    one = bench.put("one", type="passive", fall=1, hold_down=30.0)
    bench.put("two")
    put_group(bench, "best", "one")
    put_group(bench, "all", "best")
    bench.adopt()
    assert bench.events == []
    one.condition.dial_failed(WHY, "a", bench.loop.time())
    assert bench.told == ["one down", "best down", "all down"]
    assert bench.timers == [30.0]
    bench.advance(30.0)
    assert bench.told[3:] == ["one suspect", "best suspect", "all suspect"]
    states = {at.name: (at.state, at.healthy) for at in bench.monitor.states()}
    assert states == dict.fromkeys(("one", "best", "all"), ("suspect", True)) | {"two": ("up", True)}


def test_a_group_that_waits_from_the_start(bench: Bench) -> None:
    one = bench.put("one")
    one.condition.absent("There is no wg0.", 0.0)
    put_group(bench, "best", "one")
    bench.adopt()
    assert (bench.state("best"), bench.told) == ("waiting", ["one waiting", "best waiting"])
    one.condition.present(0.0)
    assert bench.told[2:] == ["one up", "best up"]


# Loss.


@pytest.mark.parametrize("seed", range(5))
def test_a_lossy_link_does_not_flap(bench: Bench, seed: int) -> None:
    """30 % of all packets are lost; TCP asks again after 1 s and 3 s, a check ends after 5 s."""
    dice = random.Random(seed)
    origin = bench.origin()
    hole = bench.hole()
    backend = bench.put("out", type="tcp", target=origin.authority)
    lost: list[bool] = []

    def probe(target: Target, done: Done, forward: bool = False) -> Dial:
        lost.append(all(dice.random() < 0.30 for _ in range(3)))
        to = hole if lost[-1] else origin
        return Dial(backend.prober, parse_authority(to.authority.encode(), None), done)

    backend.probe = probe  # type: ignore[method-assign]
    bench.adopt()
    while len(lost) < 300:
        count = len(lost)
        bench.advance(bench.timers[0])
        assert len(lost) == count + 1
        if lost[-1]:
            bench.advance(5.0)
        else:
            bench.until(lambda: not bench.dispatcher.handlers, "the end of the check")
            origin.accept().close()
    assert any(lost)
    assert set(bench.told) == {"out suspect", "out up"}
