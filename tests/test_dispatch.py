from __future__ import annotations

import logging
import os
import select
import selectors
import socket
import tempfile
from collections.abc import Callable, Iterator

import pytest

from bifrost_lite.dispatch import (
    BATCH,
    END,
    IN,
    OUT,
    Dispatcher,
    EpollDispatcher,
    PollDispatcher,
    make_dispatcher,
)
from tests.dispatch_kit import End, Fault, raise_fault, until

READ = selectors.EVENT_READ
Make = Callable[..., End]


@pytest.fixture(params=[EpollDispatcher, PollDispatcher])
def dispatcher(request: pytest.FixtureRequest) -> Iterator[Dispatcher]:
    made = request.param()
    yield made
    made.close()


@pytest.fixture
def make(dispatcher: Dispatcher) -> Iterator[Callable[..., End]]:
    ends: list[End] = []

    def make_end(*args: object, **options: bool) -> End:
        ends.append(End(dispatcher, *args, **options))  # type: ignore[arg-type]
        return ends[-1]

    yield make_end
    for end in ends:
        end.close()


# The data plane's descriptors.


def test_attached(dispatcher: Dispatcher, make: Make) -> None:
    """The callback gets the event, and asyncio never hears of it."""
    end, silent = make(), make()
    end.peer.send(b"hello")
    assert dispatcher.select(0) == []
    assert end.got == b"hello"
    assert len(end.masks) == 1
    assert end.masks[0] & IN
    assert dispatcher.select(0) == []
    end.peer.send(b" world")
    dispatcher.select(0)
    assert (end.got, silent.masks) == (b"hello world", [])


def test_the_peer_closed(dispatcher: Dispatcher, make: Make) -> None:
    end = make()
    end.peer.send(b"last")
    end.peer.close()
    dispatcher.select(0)
    assert end.got == b"last"
    if dispatcher.exact:  # or another call would never come
        assert end.masks[0] & END
    else:
        dispatcher.select(0)
        assert len(end.masks) == 2


def test_writable(dispatcher: Dispatcher, make: Make) -> None:
    end = make()
    masks: list[int] = []

    class Writer:
        def on_event(self, mask: int) -> None:
            masks.append(mask)

        def wants(self, fd: int) -> int:
            return OUT if full else 0

        def crash(self) -> None:
            raise AssertionError

    full = True
    try:
        while True:
            end.sock.send(bytes(65536))
    except BlockingIOError:
        pass
    dispatcher.handlers[end.fd] = Writer().on_event
    dispatcher.select(0)
    assert masks == []
    end.peer.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            end.peer.recv(1 << 20)
    dispatcher.select(0)
    full = False
    assert masks == [OUT]
    dispatcher.select(0)
    assert masks == [OUT]


def test_more_than_a_batch(dispatcher: Dispatcher, make: Make) -> None:
    ends = [make() for _ in range(2 * BATCH + 5)]
    for end in ends:
        end.peer.send(b"x")
    until(dispatcher, lambda: all(end.got for end in ends))
    assert [len(end.masks) for end in ends] == [1] * len(ends)


def test_a_handler_is_swapped(dispatcher: Dispatcher, make: Make) -> None:
    """A state machine changes its state by assigning to its entry."""
    end, other = make(), make()

    def swap(_: End) -> None:
        end.read()
        dispatcher.handlers[end.fd] = other.on_event

    end.then, other.then = swap, lambda other: end.read()
    for _ in range(2):
        end.peer.send(b"x")
        dispatcher.select(0)
    assert (len(end.masks), len(other.masks)) == (1, 1)


def test_a_handler_is_swapped_in_the_batch(dispatcher: Dispatcher, make: Make) -> None:
    """Whoever comes first takes the other's event over."""
    calls: list[tuple[str, End]] = []
    ends: list[End] = []

    def first(end: End) -> None:
        calls.append(("first", end))
        (other,) = (other for other in ends if other is not end)
        other.then = lambda other: calls.append(("second", other))

    ends += [make(first), make(first)]
    for end in ends:
        end.peer.send(b"x")
    dispatcher.select(0)
    assert [name for name, _ in calls] == ["first", "second"]
    assert {id(end) for _, end in calls} == {id(end) for end in ends}


def test_detached(dispatcher: Dispatcher, make: Make) -> None:
    end = make()
    dispatcher.detach(end.fd)
    dispatcher.detach(end.fd)  # a second time means nothing
    end.peer.send(b"x")
    dispatcher.select(0)
    assert end.masks == []
    dispatcher.attach(end.fd, end.on_event)  # what came meanwhile is told
    dispatcher.select(0)
    assert end.got == b"x"


def test_detached_in_the_batch(dispatcher: Dispatcher, make: Make) -> None:
    ends: list[End] = []

    def first(end: End) -> None:
        for other in ends:
            if other is not end:
                dispatcher.detach(other.fd)

    ends += [make(first), make(first), make(first)]
    for end in ends:
        end.peer.send(b"x")
    dispatcher.select(0)
    assert sorted(len(end.masks) for end in ends) == [0, 0, 1]


def test_discarded_in_the_batch(dispatcher: Dispatcher, make: Make) -> None:
    """Its event is dropped, and its number stays taken until the batch is over."""
    ends: list[End] = []
    open_inside: list[bool] = []

    def first(end: End) -> None:
        for other in ends:
            if other is not end:
                other.discard()
                open_inside.append(other.sock.fileno() == other.fd)

    ends += [make(first), make(first), make(first)]
    for end in ends:
        end.peer.send(b"x")
    dispatcher.select(0)
    assert sorted(len(end.masks) for end in ends) == [0, 0, 1]
    assert open_inside == [True, True]
    assert sorted(end.sock.fileno() == -1 for end in ends) == [False, True, True]


def test_a_number_reused_in_the_batch(dispatcher: Dispatcher, make: Make) -> None:
    """The trap of epoll: A is closed, a new socket gets its number, and then A's event, which
    is still in the batch, goes to the new one."""
    ends: list[End] = []
    new: list[End] = []

    def first(end: End) -> None:
        end.read()
        for other in ends:
            if other is not end:
                other.discard()
                new.append(make())

    ends += [make(first) for _ in range(20)]
    for end in ends:
        end.peer.send(b"x")
    dispatcher.select(0)
    dispatcher.select(0)
    assert sum(len(end.masks) for end in ends) == 1
    assert [end.masks for end in new] == [[]] * 19
    # The numbers are free now, and who gets them hears what is meant for it and only that.
    old = {end.fd for end in ends}
    late = [make() for _ in range(40)]
    assert old & {end.fd for end in late}
    dispatcher.select(0)
    assert [end.masks for end in late] == [[]] * 40
    for end in late:
        end.peer.send(b"y")
    until(dispatcher, lambda: all(end.got for end in late))
    assert {end.got for end in late} == {b"y"}


def test_a_number_moves_between_the_planes(dispatcher: Dispatcher, make: Make) -> None:
    """Data plane, asyncio, and data plane again, all between two polls."""
    end, other = make(lambda end: end.discard()), make()
    dispatcher.detach(other.fd)
    end.peer.send(b"x")
    dispatcher.select(0)
    assert end.sock.fileno() == -1
    os.dup2(other.fd, end.fd)
    dispatcher.register(end.fd, READ)
    dispatcher.unregister(end.fd)
    os.close(end.fd)
    other.sock = socket.socket(fileno=os.dup2(other.sock.detach(), end.fd))
    os.close(other.fd)
    other.fd = end.fd
    dispatcher.attach(other.fd, other.on_event)
    other.peer.send(b"x")
    dispatcher.select(0)
    assert other.got == b"x"


def test_a_discarded_resource_may_fail_to_close(dispatcher: Dispatcher) -> None:
    closed: list[str] = []

    class Broken:
        def close(self) -> None:
            closed.append("broken")
            raise ConnectionResetError

    class Whole:
        def close(self) -> None:
            closed.append("whole")

    dispatcher.discard(-1, Broken())
    dispatcher.discard(-1, Whole())
    dispatcher.select(0)
    assert closed == ["broken", "whole"]


def test_level_triggered(dispatcher: Dispatcher, make: Make) -> None:
    """A listener takes a few clients per call, and is called again for the rest."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        accepted: list[socket.socket] = []

        class Acceptor:
            def on_event(self, mask: int) -> None:
                assert mask & IN
                accepted.append(listener.accept()[0])

            def wants(self, fd: int) -> int:
                return IN

            def crash(self) -> None:
                raise AssertionError

        dispatcher.attach(listener.fileno(), Acceptor().on_event, edge=False)
        clients = [socket.create_connection(listener.getsockname()) for _ in range(3)]
        until(dispatcher, lambda: len(accepted) == 3)
        dispatcher.detach(listener.fileno())
        for sock in clients + accepted:
            sock.close()


def test_edge_triggered(make: Make, dispatcher: Dispatcher) -> None:
    """Who leaves bytes unread hears of them no more with epoll, and again with poll."""
    end = make(lambda end: None)
    end.peer.send(b"x")
    for _ in range(3):
        dispatcher.select(0)
    assert len(end.masks) == (1 if dispatcher.exact else 3)
    end.peer.send(b"y")
    dispatcher.select(0)
    assert len(end.masks) == (2 if dispatcher.exact else 4)


def test_the_portable_selector_asks() -> None:
    dispatcher = PollDispatcher()
    end = End(dispatcher)
    end.peer.send(b"x")
    end.waits = 0
    dispatcher.select(0)
    dispatcher.select(0)
    assert end.masks == []
    end.waits = IN
    dispatcher.select(0)
    assert end.got == b"x"
    end.waits = 0
    end.peer.send(b"y")
    dispatcher.select(0)
    assert end.got == b"x"
    # Not even an end is told to one who waits for nothing: it would be told for ever.
    end.peer.close()
    dispatcher.select(0)
    assert len(end.masks) == 1
    end.close()
    dispatcher.close()


@pytest.mark.parametrize("edge", [True, False])
def test_what_cannot_be_attached_leaves_nothing(edge: bool) -> None:
    dispatcher = EpollDispatcher()
    end = End(dispatcher)
    with tempfile.TemporaryFile() as file:
        with pytest.raises(PermissionError):
            dispatcher.attach(file.fileno(), end.on_event, edge=edge)
        assert file.fileno() not in dispatcher.handlers
    end.close()
    dispatcher.close()


# Taking turns.


def test_again(dispatcher: Dispatcher) -> None:
    """In order, once each, and what one of them asks for comes in the next round."""
    calls: list[str] = []

    class Owner:
        def first(self) -> None:
            calls.append("first")
            dispatcher.again(self.third)

        def second(self) -> None:
            calls.append("second")

        def third(self) -> None:
            calls.append("third")

    owner = Owner()
    dispatcher.again(owner.first)
    dispatcher.again(owner.second)
    dispatcher.select(0)
    assert calls == ["first", "second"]
    dispatcher.select(0)
    assert calls == ["first", "second", "third"]


def test_again_lets_others_have_their_turn(dispatcher: Dispatcher, make: Make) -> None:
    """A bulk transfer that never ends holds nobody up, nor does it wait for events."""
    order: list[str] = []

    def answer(end: End) -> None:
        order.append("event")
        end.read()
        if len(order) < 20:
            end.peer.send(b"x")
        else:
            dispatcher.wake = True

    class Bulk:
        def on_turn(self) -> None:
            order.append("turn")
            dispatcher.again(self.on_turn)

    make(answer).peer.send(b"x")
    dispatcher.again(Bulk().on_turn)
    assert dispatcher.select(None) == []
    assert order[:20] == ["event", "turn"] * 10


def test_select_returns_in_time_from_a_busy_plane(dispatcher: Dispatcher) -> None:
    turns = 0

    class Bulk:
        def on_turn(self) -> None:
            nonlocal turns
            turns += 1
            dispatcher.again(self.on_turn)

    dispatcher.again(Bulk().on_turn)
    assert dispatcher.select(0.02) == []
    assert turns > 1


def test_wake(dispatcher: Dispatcher, make: Make) -> None:
    def wake(end: End) -> None:
        end.read()
        dispatcher.wake = True

    make(wake).peer.send(b"x")
    assert dispatcher.select(None) == []
    assert not dispatcher.wake


# Faults.


def test_a_handler_raises(
    dispatcher: Dispatcher, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Its owner pays for it, everybody else goes on, and the log has the traceback."""
    ends = [make(), make(raise_fault), make()]
    for end in ends:
        end.peer.send(b"x")
    dispatcher.select(0)
    assert [end.got for end in ends] == [b"x", b"", b"x"]
    assert [end.crashes for end in ends] == [0, 1, 0]
    assert ends[1].sock.fileno() == -1
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("bifrost.dispatch", logging.ERROR)
    assert record.exc_info is not None
    assert record.exc_info[0] is Fault


@pytest.mark.usefixtures("caplog")
def test_a_turn_raises(dispatcher: Dispatcher, make: Make) -> None:
    class Bad:
        crashes = 0

        def on_turn(self) -> None:
            raise Fault

        def crash(self) -> None:
            self.crashes += 1

    class Good:
        turns = 0

        def on_turn(self) -> None:
            self.turns += 1

    bad, good = Bad(), Good()
    dispatcher.again(bad.on_turn)
    dispatcher.again(good.on_turn)
    dispatcher.select(0)
    assert (bad.crashes, good.turns) == (1, 1)


def test_giving_up_raises_too(
    dispatcher: Dispatcher, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    class Hopeless(End):
        def crash(self) -> None:
            raise Fault

    hopeless = Hopeless(dispatcher, raise_fault)
    good = make()
    for end in (hopeless, good):
        end.peer.send(b"x")
    dispatcher.again(raise_fault)  # no method of anybody: nobody to give up
    dispatcher.select(0)
    assert good.got == b"x"
    assert len(caplog.records) == 4
    hopeless.close()


@pytest.mark.parametrize("fatal", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_process_is_not_held_up(
    dispatcher: Dispatcher, make: Make, fatal: type[BaseException]
) -> None:
    def stop(_: End) -> None:
        raise fatal

    make(stop).peer.send(b"x")
    with pytest.raises(fatal):
        dispatcher.select(0)


# Both planes.


def test_both_planes_at_once(dispatcher: Dispatcher, make: Make) -> None:
    end = make()
    one, two = socket.socketpair()
    with one, two:
        key = dispatcher.register(one, READ)
        two.send(b"x")
        end.peer.send(b"y")
        assert dispatcher.select(None) == [(key, READ)]
        assert end.got == b"y"
        dispatcher.unregister(one)


def test_close_leaves_no_descriptor() -> None:
    for kind in (EpollDispatcher, PollDispatcher):
        before = set(os.listdir("/proc/self/fd"))
        dispatcher = kind()
        end = End(dispatcher)
        dispatcher.select(0)
        end.close()  # discarded, and no batch came to an end since
        dispatcher.close()
        assert set(os.listdir("/proc/self/fd")) == before


def test_an_epoll_has_a_number() -> None:
    dispatcher = EpollDispatcher()
    assert dispatcher.fileno() > 2
    dispatcher.close()


def test_make_dispatcher(monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_dispatcher()
    assert isinstance(made, EpollDispatcher)
    made.close()
    monkeypatch.delattr(select, "epoll")
    made = make_dispatcher()
    assert isinstance(made, PollDispatcher)
    made.close()
