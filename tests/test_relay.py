"""Moving bytes: by copy and by splice, within bounds, counted exactly."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from bifrost_lite import relay
from bifrost_lite.dispatch import END, IN, OUT, Dispatcher, EpollDispatcher
from bifrost_lite.relay import BUFFER_SIZE, BULK_AFTER, KEPT_LIMIT, Half, Shared, shared
from tests.plane_kit import DEADLINE, Peer, until

Selector = type[Dispatcher]

BLOCK = random.Random(1).randbytes(1 << 20)
ENOUGH = BULK_AFTER + 1  # bytes that make a direction bulk


class Owner:
    """Notes what its halves tell."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Half, object]] = []

    def half_ended(self, half: Half) -> None:
        self.told.append(("ended", half, None))

    def half_moved(self, half: Half) -> None:
        self.told.append(("moved", half, None))

    def half_broken(self, half: Half, reading: bool, error: OSError | None) -> None:
        self.told.append(("broken", half, reading))

    def crash(self) -> None:
        raise AssertionError

    @property
    def words(self) -> list[str]:
        return [word for word, _, _ in self.told]


class Pair:
    """Two halves between a source and a sink, on a dispatcher that the test turns by hand."""

    def __init__(self) -> None:
        self.dispatcher = EpollDispatcher()
        self.owner = Owner()
        self.source, inner = tcp_pair()
        outer, self.sink = tcp_pair()
        self.inner, self.outer = inner, outer
        self.half = Half(self.dispatcher, self.owner, inner, inner.fileno())
        self.back = Half(self.dispatcher, self.owner, outer, outer.fileno())
        self.half.peer, self.back.peer = self.back, self.half
        for half in (self.half, self.back):
            self.dispatcher.attach(half.fd, half.on_event)

    def turn(self) -> None:
        """One batch of events."""
        self.dispatcher.select(0)

    def turns_until(self, condition: Callable[[], object]) -> None:
        def turned() -> object:
            self.turn()
            return condition()

        until(turned)

    def block(self) -> None:
        """Write until the sink takes no more."""
        self.source.setblocking(False)
        while self.half.pend is None:
            with contextlib.suppress(BlockingIOError):
                self.source.send(BLOCK)
            self.turn()
        self.source.settimeout(DEADLINE)

    def close(self) -> None:
        for half in (self.half, self.back):
            half.drop()
        del self.half.peer, self.back.peer
        for sock in (self.source, self.sink, self.inner, self.outer):
            sock.close()
        self.dispatcher.close()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """The test's end and the proxy's."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname(), DEADLINE)
        other = server.accept()[0]
    other.setblocking(False)
    one.settimeout(DEADLINE)
    return one, other


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    shared.bulk_fd, shared.crowd_until = -1, 0.0  # whoever was busy before is not now
    # The end that the halves write to must not block either.
    pair.outer.setblocking(False)
    pair.sink.settimeout(DEADLINE)
    try:
        yield pair
    finally:
        pair.close()
        shared.release_pipes()
        assert (shared.kept, shared.pipes) == (0, 0)


@pytest.fixture
def crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bulk directions are many."""
    monkeypatch.setattr(Shared, "crowded", lambda self, fd, now: True)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No bulk direction has company."""
    monkeypatch.setattr(Shared, "crowded", lambda self, fd, now: False)


def test_moves_until_the_end(pair: Pair) -> None:
    pair.half.left = -1
    pair.source.sendall(b"hello")
    pair.turns_until(lambda: pair.half.count == 5)
    assert pair.sink.recv(9) == b"hello"
    pair.source.shutdown(socket.SHUT_WR)
    pair.turns_until(lambda: pair.owner.told)
    assert pair.owner.told == [("ended", pair.half, None)]
    assert (pair.half.ended, pair.half.left, pair.half.written) == (True, 0, 5)


def test_moves_no_more_than_it_may(pair: Pair) -> None:
    pair.half.left = 3
    pair.source.sendall(b"hello")
    pair.turns_until(lambda: pair.owner.told)
    assert pair.owner.told == [("moved", pair.half, None)]
    assert pair.sink.recv(9) == b"hel"
    pair.turn()
    assert pair.inner.recv(9) == b"lo"
    assert pair.half.written == 3


@pytest.mark.parametrize("left", [-1, 16 << 20])
def test_what_the_sink_does_not_take_is_kept(pair: Pair, left: int, alone: None) -> None:
    pair.half.left = left
    size = 16 << 20
    thread = threading.Thread(daemon=True, target=pair.source.sendall, args=(bytes(size),))
    thread.start()
    pair.turns_until(lambda: pair.half.pend is not None)
    assert pair.half.wants(pair.half.fd) == 0
    assert pair.back.wants(pair.back.fd) & OUT
    got = 0
    pair.sink.setblocking(False)

    def drained() -> bool:
        nonlocal got
        assert shared.kept == (pair.half.pend_size if pair.half.pend else 0) <= BUFFER_SIZE
        try:
            got += len(pair.sink.recv(1 << 20))
        except BlockingIOError:
            return False
        return got == size

    pair.turns_until(drained)
    thread.join()
    pair.turn()
    assert pair.half.written == size
    assert pair.owner.words == ([] if left < 0 else ["moved"])


def test_push_keeps_the_order(pair: Pair) -> None:
    """Bytes that were kept go before those that come later, though these could go at once."""
    pair.half.left = -1
    pair.block()
    count, kept = pair.half.count, pair.half.pend_size
    taken = 0
    pair.sink.setblocking(False)
    try:
        while True:  # there is room again, of which the half has not heard yet
            taken += len(pair.sink.recv(1 << 20))
    except BlockingIOError:
        pair.sink.settimeout(DEADLINE)
    pair.half.push(b"behind")
    assert pair.half.count == count + 6
    assert pair.half.pend_size == kept + 6
    pair.half.left = 0
    pair.turns_until(lambda: pair.half.pend is None)
    data = b""
    while taken + len(data) < count + 6:
        data += pair.sink.recv(1 << 20)
    assert data.endswith(b"behind")


def test_count_of_a_broken_write(pair: Pair) -> None:
    """What was read counts as read, and what was not written does not count as written."""
    pair.half.left = -1
    pair.outer.shutdown(socket.SHUT_WR)
    pair.source.sendall(b"lost")
    pair.turns_until(lambda: pair.owner.told)
    assert pair.owner.told == [("broken", pair.half, False)]
    assert (pair.half.count, pair.half.written) == (4, 0)


def test_count_of_a_broken_push(pair: Pair) -> None:
    pair.outer.shutdown(socket.SHUT_WR)
    pair.half.push(b"lost")
    assert pair.owner.told == [("broken", pair.half, False)]
    assert (pair.half.count, pair.half.written) == (4, 0)


def test_count_of_a_broken_splice(pair: Pair, crowd: None) -> None:
    pair.half.left = -1
    pair.half.count = BULK_AFTER
    pair.outer.shutdown(socket.SHUT_WR)
    pair.source.sendall(b"lost")
    pair.turns_until(lambda: pair.owner.told)
    assert pair.owner.told == [("broken", pair.half, False)]
    assert (pair.half.count, pair.half.written) == (BULK_AFTER + 4, BULK_AFTER)


@pytest.mark.parametrize("pipes", [0, 4], ids=["no pipe", "pipes"])
@pytest.mark.parametrize("left", [-1, 9])
def test_bulk_ends(
    pair: Pair, crowd: None, monkeypatch: pytest.MonkeyPatch, pipes: int, left: int
) -> None:
    monkeypatch.setattr(relay, "PIPES", pipes)
    pair.half.left = left
    pair.half.count = BULK_AFTER
    pair.source.sendall(b"some more")
    pair.source.shutdown(socket.SHUT_WR)
    pair.turns_until(lambda: pair.owner.told)
    assert pair.owner.words == ["ended" if left < 0 else "moved"]
    assert pair.sink.recv(99) == b"some more"
    assert shared.pipes == min(pipes, 1)


@pytest.mark.parametrize("pipes", [0, 4], ids=["no pipe", "pipes"])
def test_bulk_reset(
    pair: Pair, crowd: None, monkeypatch: pytest.MonkeyPatch, pipes: int
) -> None:
    monkeypatch.setattr(relay, "PIPES", pipes)
    pair.half.left = -1
    pair.half.count = BULK_AFTER
    Peer(pair.source).reset()
    pair.turns_until(lambda: pair.owner.told)
    assert pair.owner.told == [("broken", pair.half, True)]


def test_no_pipe_writes_fail(pair: Pair, crowd: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "PIPES", 0)
    pair.half.left = -1
    pair.half.count = BULK_AFTER
    pair.outer.shutdown(socket.SHUT_WR)
    pair.source.sendall(b"lost")
    pair.turns_until(lambda: pair.owner.told)
    assert pair.owner.told == [("broken", pair.half, False)]
    assert pair.half.written == BULK_AFTER


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS])
def test_kernel_that_cannot_splice(
    pair: Pair, crowd: None, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*args: object, **more: object) -> int:
        raise OSError(number, "not here")

    monkeypatch.setattr(os, "splice", refuse)
    monkeypatch.setattr(shared, "splice", True)
    pair.half.left = -1
    pair.half.count = BULK_AFTER
    pair.source.sendall(b"by copy then")
    pair.turns_until(lambda: pair.half.count > BULK_AFTER)
    assert pair.sink.recv(99) == b"by copy then"
    assert not shared.splice


def test_out_of_descriptors_for_pipes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(flags: int) -> tuple[int, int]:
        raise OSError(errno.EMFILE, "full")

    monkeypatch.setattr(os, "pipe2", refuse)
    hub = Shared()
    assert hub.take_pipe() is None
    assert hub.pipes == 0


def test_pipes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "PIPES", 2)
    hub = Shared()
    one, two = hub.take_pipe(), hub.take_pipe()
    assert hub.take_pipe() is None
    assert one is not None
    assert two is not None
    hub.free_pipes.append(one)
    assert hub.take_pipe() is one
    hub.drop_pipe(one)
    hub.free_pipes.append(two)
    hub.release_pipes()
    assert (hub.pipes, hub.free_pipes) == (0, [])


def test_pipe_of_the_size_that_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the user's soft limit the kernel says EPERM; a small pipe works as well."""

    def refuse(*args: object) -> int:
        raise PermissionError

    monkeypatch.setattr("fcntl.fcntl", refuse)
    relay.Pipe().close()


def test_crowd() -> None:
    hub = Shared()
    assert not hub.crowded(1, 100.0)
    assert not hub.crowded(1, 100.01)
    assert hub.crowded(2, 100.02)
    assert hub.crowded(2, 100.9)
    assert not hub.crowded(2, 101.1)
    assert not hub.crowded(3, 102.0)  # the other one has been silent for long


class Endless:
    """A source that always has more, and a sink that takes all."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def recv_into(self, buffer: bytearray, size: int) -> int:
        self.sizes.append(size)
        return size

    def send(self, data: memoryview) -> int:
        return len(data)


def test_others_have_their_turn(pair: Pair, alone: None) -> None:
    """One event moves no more than `TURN` buffers; the rest waits in the queue."""
    endless = Endless()
    pair.half.sock = pair.back.sock = endless  # type: ignore[assignment]
    pair.half.left = -1
    pair.half.on_event(IN)
    assert endless.sizes == [relay.SMALL_READ] * relay.TURN
    assert pair.dispatcher._again == [pair.half.resume]
    pair.half.on_event(IN)
    assert pair.dispatcher._again == [pair.half.resume]
    assert endless.sizes[relay.TURN :] == [BUFFER_SIZE] * relay.TURN
    pair.half.drop()


def test_little_is_read_while_much_is_kept(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "kept", KEPT_LIMIT + 1)
    endless = Endless()
    pair.half.sock = pair.back.sock = endless  # type: ignore[assignment]
    pair.half.left = -1
    pair.half.on_event(IN)
    assert endless.sizes == [relay.STARVED_READ] * relay.TURN
    pair.half.drop()


def test_reset_behind_a_blocked_sink(pair: Pair) -> None:
    """Nobody is left to send it for: the owner hears at once."""
    pair.half.left = -1
    pair.block()
    Peer(pair.source).reset()
    pair.turns_until(lambda: pair.owner.told)
    assert pair.owner.told[0] == ("broken", pair.half, True)


def test_end_behind_a_blocked_sink(pair: Pair) -> None:
    """A FIN, even of both directions, waits for what was sent before it."""
    pair.half.left = pair.back.left = -1
    pair.block()
    pair.source.shutdown(socket.SHUT_WR)
    pair.back.finish_peer()  # FIN both ways: HUP
    pair.turn()
    assert not pair.owner.told
    pair.sink.setblocking(False)

    def drained() -> bool:
        with contextlib.suppress(BlockingIOError):
            pair.sink.recv(1 << 20)
        return bool(pair.owner.told)

    pair.turns_until(drained)
    assert pair.owner.told == [("ended", pair.half, None)]


def test_flush_into_a_reset(pair: Pair) -> None:
    pair.half.left = -1
    pair.block()
    count = pair.half.count
    Peer(pair.sink).reset()
    pair.turns_until(lambda: pair.owner.told)
    assert ("broken", pair.half, False) in pair.owner.told
    assert pair.half.written < count


def test_resumed_when_it_is_over(pair: Pair) -> None:
    pair.half.drop()
    pair.half.resume()
    pair.half.on_event(IN | END)
    assert pair.owner.words == ["broken"]  # an error of one that rests
