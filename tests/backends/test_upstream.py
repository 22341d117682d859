"""What both backends with an upstream proxy have in common, whatever the upstream does."""

from __future__ import annotations

import functools
import logging
import socket

import pytest

from bifrost_lite.backends.upstream import Handshake
from bifrost_lite.dial import Dialler
from bifrost_lite.dispatch import ERR, HUP, IN, OUT, RDHUP, Dispatcher, EpollDispatcher
from bifrost_lite.errors import Reason
from tests.backends.upstream_kit import (
    CLIENT,
    NAME,
    SCRIPTS,
    STAGES,
    TYPES,
    Caller,
    Script,
    scripted,
    target,
)
from tests.plane_kit import both, until

Selector = type[Dispatcher]

types = pytest.mark.parametrize("type", TYPES)
scripts = pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
stages = pytest.mark.parametrize(
    ("script", "stage"),
    [(SCRIPTS[name], number) for name, number in STAGES],
    ids=[f"{name}-{number}" for name, number in STAGES],
)


def forbid(address: bytes, port: int) -> Reason:
    return Reason.TARGET_DENIED


@types
def test_who_it_is(type: str) -> None:
    with Caller(EpollDispatcher, type) as caller:
        backend = caller.backend
        assert (backend.name, backend.type, backend.members) == ("up", type, ())
        assert backend.condition is caller.condition
        assert backend.carriers(CLIENT) == [caller.way]
        backend.close()


# The path stands.


@both
@scripts
def test_bytes_both_ways(selector: Selector, script: Script) -> None:
    with scripted(selector, script) as caller:
        caller.connect()
        upstream = caller.play(script)
        mine = caller.granted()
        assert caller.told[0].mask & IN
        upstream.send(b"from the target")
        mine.expect(b"from the target").send(b"to the target")
        upstream.expect(b"to the target").finish()
        mine.ended()
        mine.send(b"more").finish()
        upstream.expect(b"more").ended()
        assert caller.counters.latency > 0
        assert (caller.condition.worked, caller.counters.failed) == (1, 0)


@both
@scripts
@pytest.mark.parametrize("whole", [True, False])
def test_bytes_behind_the_answer(selector: Selector, script: Script, whole: bool) -> None:
    """They are the target's, to the byte, and were not read here."""
    behind = b"\x05\x00\r\n\r\n" + bytes(range(256)) * 200
    with scripted(selector, script) as caller:
        caller.connect()
        last = len(script.steps) - 1
        upstream = caller.play(script, last)
        answer = script.steps[last][1]
        if whole:
            upstream.send(answer + behind)
        else:
            upstream.trickle(answer, caller.settle).trickle(behind[:9], caller.settle)
            upstream.send(behind[9:])
        mine = caller.granted()
        upstream.finish()
        assert mine.rest() == behind


@both
@scripts
def test_every_answer_byte_by_byte(selector: Selector, script: Script) -> None:
    with scripted(selector, script) as caller:
        caller.connect()
        upstream = caller.upstream.accept()
        for said, answer in script.steps:
            upstream.expect(said)
            assert not caller.told
            upstream.trickle(answer, caller.settle)
        caller.granted()


@both
@scripts
def test_what_is_taken_is_taken_at_once(selector: Selector, script: Script) -> None:
    """A level-triggered selector would report it again and again."""
    with scripted(selector, script) as caller:
        handshake = caller.connect()
        last = len(script.steps) - 1
        upstream = caller.play(script, last)
        upstream.send(script.steps[last][1][:-1])
        caller.settle()
        assert isinstance(handshake, Handshake)
        assert handshake.sock is not None
        with pytest.raises(BlockingIOError):
            handshake.sock.recv(1, socket.MSG_PEEK)
        upstream.send(script.steps[last][1][-1:])
        caller.granted()


@both
@scripts
def test_an_upstream_that_answers_and_closes(selector: Selector, script: Script) -> None:
    """The FIN that came with the answer is in the mask where the selector tells of it."""
    with scripted(selector, script) as caller:
        caller.connect()
        last = len(script.steps) - 1
        upstream = caller.play(script, last)
        upstream.send(script.steps[last][1] + b"bye").finish()
        caller.granted().expect(b"bye").ended()


@scripts
def test_the_end_is_told(script: Script) -> None:
    """Where the FIN came before the answer was read, no second event will tell of it."""
    with scripted(EpollDispatcher, script) as caller:
        caller.connect()
        last = len(script.steps) - 1
        upstream = caller.play(script, last)

        def send() -> None:
            upstream.send(script.steps[last][1]).finish()

        caller.call(send)  # on the dispatcher's thread: one event for both
        caller.granted()
        assert caller.told[0].mask & (IN | RDHUP) == IN | RDHUP


# No path.


@both
@stages
def test_stalling(selector: Selector, script: Script, stage: int) -> None:
    with scripted(selector, script, seconds=0.1) as caller:
        caller.connect()
        upstream = caller.play(script, stage)
        assert caller.refused() is Reason.UPSTREAM_TIMEOUT
        upstream.gone()
        assert caller.condition.failures == [(Reason.UPSTREAM_TIMEOUT.text, NAME)]


@both
@stages
@pytest.mark.parametrize("part", [0, 1, -1])
@pytest.mark.parametrize("how", ["fin", "reset"])
def test_closing(selector: Selector, script: Script, stage: int, part: int, how: str) -> None:
    """After nothing, one byte, or all but one of an answer."""
    with scripted(selector, script) as caller:
        caller.connect()
        upstream = caller.play(script, stage)
        upstream.send(script.steps[stage][1][:part])
        if how == "fin":
            upstream.finish()
        else:
            caller.settle()
            upstream.reset()
        assert caller.refused() is Reason.UPSTREAM_FAILED
        assert caller.condition.failures == [(Reason.UPSTREAM_FAILED.text, NAME)]


@both
@stages
def test_garbage(selector: Selector, script: Script, stage: int) -> None:
    with scripted(selector, script) as caller:
        caller.connect()
        upstream = caller.play(script, stage)
        upstream.send(b"SSH-2.0-OpenSSH_9.2p1\r\n")
        assert caller.refused() is Reason.UPSTREAM_FAILED
        upstream.gone()
        assert caller.counters.last_failure == "upstream_failed"


@both
@stages
def test_giving_up(selector: Selector, script: Script, stage: int) -> None:
    with scripted(selector, script) as caller:
        handshake = caller.connect()
        upstream = caller.play(script, stage)
        upstream.send(script.steps[stage][1][:-1])
        caller.settle()
        caller.call(handshake.cancel)
        upstream.gone()
        caller.call(handshake.cancel)
        assert not caller.told
        caller.nothing_judged()


@both
@types
def test_an_upstream_that_speaks_before_it_is_asked(selector: Selector, type: str) -> None:
    """What came with the connection makes no further event."""
    with Caller(selector, type) as caller:
        handshake = caller.call(lambda: _connect_and_speak(caller))
        assert caller.refused() is Reason.UPSTREAM_FAILED
        caller.call(handshake.cancel)


def _connect_and_speak(caller: Caller) -> Handshake:
    handshake = caller.backend.connect(target(NAME), CLIENT, caller.done)
    caller.upstream.accept().send(b"220 mail.example.com ESMTP\r\n").finish()
    assert isinstance(handshake, Handshake)
    return handshake


# The dial to the upstream.


@both
@types
def test_nobody_listens(selector: Selector, type: str) -> None:
    with Caller(selector, type) as caller:
        caller.upstream.close()
        caller.connect()
        assert caller.refused() is Reason.UPSTREAM_UNREACHABLE
        assert caller.condition.failures == [(Reason.UPSTREAM_UNREACHABLE.text, NAME)]
        assert (caller.counters.failed, caller.condition.worked) == (1, 0)


@both
@types
@pytest.mark.parametrize("dial_seconds", [0.1, 60.0])
def test_nobody_accepts(selector: Selector, type: str, dial_seconds: float) -> None:
    with Caller(selector, type, seconds=0.1, dial_seconds=dial_seconds, backlog=0) as caller:
        caller.upstream.fill()
        caller.connect()
        assert caller.refused() is Reason.UPSTREAM_TIMEOUT


@both
@pytest.mark.parametrize("script", [SCRIPTS["http"], SCRIPTS["socks"]], ids=["http", "socks"])
def test_an_upstream_with_a_name(selector: Selector, script: Script) -> None:
    """Its own name is looked up here, the target's is not."""
    with Caller(selector, script.type, upstream="proxy.test") as caller:
        caller.names.known["proxy.test"] = ["127.0.0.1"]
        caller.connect()
        caller.play(script)
        caller.granted()
        assert [name for name, _ in caller.names.asked] == ["proxy.test"]


@both
@types
@pytest.mark.parametrize("reason", [Reason.DNS_NOT_FOUND, Reason.DNS_FAILED, Reason.DNS_TIMEOUT])
def test_a_name_that_is_not_found(selector: Selector, type: str, reason: Reason) -> None:
    with Caller(selector, type, upstream="proxy.test") as caller:
        caller.names.known["proxy.test"] = reason
        handshake = caller.connect()
        assert caller.refused() is Reason.UPSTREAM_UNREACHABLE
        caller.call(handshake.cancel)


@both
@types
@pytest.mark.parametrize("dial_seconds", [0.1, 60.0])
def test_a_name_without_an_answer(selector: Selector, type: str, dial_seconds: float) -> None:
    with Caller(
        selector, type, upstream="proxy.test", seconds=0.1, dial_seconds=dial_seconds
    ) as caller:
        caller.connect()
        assert caller.refused() is Reason.UPSTREAM_UNREACHABLE
        assert caller.names.cancelled == ["proxy.test"]


@both
@types
def test_giving_up_a_dial(selector: Selector, type: str) -> None:
    with Caller(selector, type, backlog=0, upstream="proxy.test") as caller:
        caller.upstream.fill()
        resolving = caller.connect()
        caller.call(resolving.cancel)
        assert caller.names.cancelled == ["proxy.test"]
        caller.names.known["proxy.test"] = ["127.0.0.1"]
        connecting = caller.connect()
        caller.settle()
        caller.call(connecting.cancel)
        assert not caller.told
        caller.nothing_judged()


@both
@types
def test_out_of_descriptors(selector: Selector, type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is this proxy's fault."""

    def full(self: Dialler, packed: bytes, port: int) -> None:
        raise OSError(24, "EMFILE")

    monkeypatch.setattr(Dialler, "open", full)
    with Caller(selector, type) as caller:
        caller.connect()
        assert caller.refused() is Reason.OUT_OF_DESCRIPTORS
        assert (caller.counters.failed, caller.condition.failures) == (1, [])
        assert caller.condition.worked == 0


# Targets that clients must not reach.


@both
@types
@pytest.mark.parametrize("forward", [True, False])
def test_a_literal_that_is_forbidden(selector: Selector, type: str, forward: bool) -> None:
    with Caller(selector, type, guard=forbid) as caller:
        handshake = caller.connect("192.0.2.1:80", forward=forward)
        assert caller.refused() is Reason.TARGET_DENIED
        caller.call(handshake.cancel)
        caller.nothing_judged()
        caller.upstream.alone()


@both
@scripts
def test_names_are_the_upstreams_business(selector: Selector, script: Script) -> None:
    """This backend cannot know where they lead from there."""
    with scripted(selector, script, guard=forbid) as caller:
        caller.connect()
        caller.play(script)
        caller.granted()


@both
@scripts
def test_a_probe_may_go_anywhere_and_judges_nothing(selector: Selector, script: Script) -> None:
    with scripted(selector, script, guard=forbid) as caller:
        caller.connect(probe=True)
        caller.play(script)
        caller.granted()
        caller.nothing_judged()


@both
@types
def test_a_probe_that_fails(selector: Selector, type: str) -> None:
    with Caller(selector, type) as caller:
        caller.connect(probe=True)
        caller.upstream.accept().send(b"nonsense")
        assert caller.refused() is Reason.UPSTREAM_FAILED
        caller.nothing_judged()


# Faults of our own.


@both
@scripts
def test_a_handler_that_raises(
    selector: Selector,
    script: Script,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with scripted(selector, script) as caller:
        handshake = caller.connect()
        assert isinstance(handshake, Handshake)
        upstream = caller.play(script, 0)
        monkeypatch.setattr(type(handshake.talk), "feed", _boom)
        upstream.send(script.steps[0][1])
        assert caller.refused() is Reason.INTERNAL
        upstream.gone()
        assert caller.condition.failures == []
    assert [record.name for record in caplog.records] == ["bifrost.dispatch"]


@both
@scripts
@pytest.mark.parametrize("method", ["worked", "failed"])
def test_a_judge_that_raises(
    selector: Selector,
    script: Script,
    method: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with scripted(selector, script) as caller:
        monkeypatch.setattr(type(caller.way), method, _boom)
        caller.connect()
        if method == "worked":
            upstream = caller.play(script)
        else:
            upstream = caller.play(script, 0)
            upstream.send(b"nonsense")
        assert caller.refused() is Reason.INTERNAL
        upstream.gone()
    assert [record.name for record in caplog.records] == ["bifrost.dispatch"]


def _boom(*arguments: object) -> int:
    raise RuntimeError("boom")


@both
@types
def test_a_listener_that_raises(
    selector: Selector, type: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The backend is done with it all the same."""
    caplog.set_level(logging.ERROR)
    with Caller(selector, type) as caller:
        caller.upstream.close()
        caller.call(lambda: caller.backend.connect(target(NAME), CLIENT, _boom))
        until(lambda: caplog.records, "the fault in the log")
        assert caller.counters.failed == 1


def test_events_after_the_end_mean_nothing() -> None:
    with Caller(EpollDispatcher, "socks5_proxy") as caller:
        handshake = caller.connect()
        assert isinstance(handshake, Handshake)
        caller.play(SCRIPTS["socks"])
        caller.granted()
        for mask in (IN, OUT, ERR | HUP):
            caller.call(functools.partial(handshake.on_event, mask))
        assert handshake.wants(handshake.fd) == 0
        caller.call(handshake.crash)
        caller.call(handshake.late)
        caller.outcome()
