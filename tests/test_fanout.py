"""Queues before sockets that take no more, and the gathering of what goes out."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator

import pytest

from bifrost_lite import fanout
from bifrost_lite.dispatch import Loop, make_dispatcher
from bifrost_lite.fanout import Fanout, Outbox, Seats, Watcher


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop(make_dispatcher())
    yield loop
    left = [timer for timer in loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
    keys = list(loop.dispatcher.get_map().values())[1:]
    loop.close()
    assert not left
    assert not keys


class End:
    """The two ends of a connection, ours with an `Outbox`."""

    def __init__(self, loop: Loop, room: int = 256 * 1024, most: int = 1 << 30) -> None:
        self.loop = loop
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.theirs.settimeout(5)
        self.blocked = 0
        self.broken = 0
        self.seats = Seats(1)
        self.outbox = Outbox(
            loop, self.ours, seats=self.seats, gap=self.gap, blocked=self.on_blocked,
            broken=self.on_broken, room=room, most=most,
        )  # fmt: skip

    @staticmethod
    def gap(lost: int, last: int) -> bytes:
        return b"<lost %d to %d>" % (lost, last)

    def on_blocked(self) -> None:
        self.blocked += 1

    def on_broken(self) -> None:
        self.broken += 1

    def fill(self) -> int:
        """Send until the socket takes no more; answers the bytes sent."""
        count = 0
        while not self.blocked:
            self.outbox.send(b"." * 1000)
            count += 1000
        return count

    def read(self, wanted: int) -> bytes:
        """That many bytes, while the loop runs."""

        async def read() -> bytes:
            data = b""
            while len(data) < wanted:
                await asyncio.sleep(0)
                self.theirs.setblocking(False)
                try:
                    data += self.theirs.recv(wanted - len(data))
                except BlockingIOError:
                    continue
            return data

        return self.loop.run_until_complete(asyncio.wait_for(read(), 5))

    def close(self) -> None:
        self.outbox.close()
        self.ours.close()
        self.theirs.close()


@pytest.fixture
def end(loop: Loop) -> Iterator[End]:
    end = End(loop)
    yield end
    end.close()


def until(loop: Loop, condition: Callable[[], bool]) -> None:
    """Run the loop until that holds."""

    deadline = loop.time() + 5
    while not condition():
        assert loop.time() < deadline, "waited in vain"
        turn(loop)


def turn(loop: Loop) -> None:
    """Run what is ready, once."""
    loop.run_until_complete(asyncio.sleep(0))


def test_order_and_all_bytes(end: End) -> None:
    count = end.fill()
    for letter in b"abc":
        end.outbox.send(bytes([letter]) * 5000)
    assert end.outbox.stalled
    data = end.read(count + 15000)
    assert data == b"." * count + b"a" * 5000 + b"b" * 5000 + b"c" * 5000
    assert not end.outbox.stalled
    end.outbox.send(b"direct")
    assert end.read(6) == b"direct"
    assert end.blocked >= 1


def test_oldest_are_dropped_and_told_in_their_place(loop: Loop) -> None:
    end = End(loop, room=300)
    count = end.fill()
    for number in range(1, 8):
        end.outbox.send(b"[%d]" % number + b" " * 97, 1, number)
    assert end.seats.lost == 4
    end.outbox.send(b"[8]" + b" " * 97, 1, 8)
    wanted = b"<lost 5 to 5>" + b"".join(b"[%d]" % n + b" " * 97 for n in (6, 7, 8))
    assert end.read(count + len(wanted))[count:] == wanted
    end.outbox.send(b"next")  # told once
    assert end.read(4) == b"next"
    assert end.seats.lost == 5
    end.close()


def test_bound_in_items(loop: Loop) -> None:
    end = End(loop, most=100)
    count = end.fill()
    for number in range(0, 200, 25):
        end.outbox.send(b"%04d" % number, 25, number + 25)
    assert end.seats.lost == 100
    wanted = b"<lost 100 to 100>0100012501500175"
    assert end.read(count + len(wanted))[count:] == wanted
    end.close()


def test_what_counts_nothing_is_dropped_in_silence(loop: Loop) -> None:
    end = End(loop, room=10)
    count = end.fill()
    end.outbox.send(b"pong-pong")
    end.outbox.send(b"event", 1, 1)
    assert end.read(count + 5)[count:] == b"event"
    assert end.seats.lost == 0
    end.close()


def test_begun_message_is_finished(loop: Loop) -> None:
    """Half a frame would break the stream, whatever is dropped behind it."""
    end = End(loop, room=5)
    big = bytes(range(256)) * 400
    end.outbox.send(big, 1, 1)
    for number in range(2, 50):
        end.outbox.send(b"x" * 5, 1, number)
    wanted = big + b"<lost 47 to 48>" + b"xxxxx"
    assert end.read(len(wanted)) == wanted
    end.close()


def test_what_is_said_first_is_made_as_it_is_read(end: End) -> None:
    """Of something long no more is held for who does not read than the piece being sent."""
    made: list[int] = []

    def chunks() -> Iterator[bytes]:
        for number in range(256):
            made.append(number)
            yield bytes([number]) * 5000

    end.outbox.begin(chunks())
    end.outbox.send(b"behind", 1, 1)
    assert end.outbox.stalled
    assert 0 < len(made) < 200
    wanted = b"".join(bytes([number]) * 5000 for number in range(256)) + b"behind"
    assert end.read(len(wanted)) == wanted
    assert not end.outbox.stalled
    end.outbox.begin(iter([b"short", b"", b"er"]))
    assert end.read(7) == b"shorter"


def test_a_goodbye_does_not_wait_for_what_is_said_first(end: End) -> None:
    end.outbox.begin(iter([b"." * 5000] * 256))
    end.outbox.seal(b"goodbye")
    end.outbox.end()
    end.theirs.settimeout(5)
    data = b""
    while not data.endswith(b"goodbye"):
        data += end.read(1)
    assert len(data) % 5000 == len(b"goodbye")
    assert len(data) < 200 * 5000


def test_who_fails_is_asked_for_no_more(end: End) -> None:
    end.theirs.close()
    chunks = iter([b"a", b"b"])
    end.outbox.begin(chunks)
    assert list(chunks) == [b"b"]
    until(end.loop, lambda: end.broken > 0)


def test_seal_and_end(end: End) -> None:
    count = end.fill()
    end.outbox.send(b"dropped", 1, 1)
    end.outbox.seal(b"goodbye")
    end.outbox.send(b"late", 1, 2)
    end.outbox.seal(b"later")
    end.outbox.end()
    assert end.read(count + 7)[count:] == b"goodbye"
    end.theirs.settimeout(5)
    assert end.theirs.recv(100) == b""


def test_end_of_an_idle_one(end: End) -> None:
    end.outbox.seal(b"goodbye")
    end.outbox.end()
    end.theirs.settimeout(5)
    assert end.theirs.recv(100) == b"goodbye"
    assert end.theirs.recv(100) == b""


def test_failure_is_told_later_and_once(end: End) -> None:
    end.theirs.close()
    for _ in range(3):
        end.outbox.send(b"x")
    assert end.broken == 0
    until(end.loop, lambda: end.broken > 0)
    turn(end.loop)
    assert end.broken == 1


def test_failure_while_waiting(end: End) -> None:
    end.fill()
    end.theirs.close()
    until(end.loop, lambda: end.broken > 0)
    turn(end.loop)
    assert end.broken == 1
    assert not end.outbox.stalled


def test_seats() -> None:
    seats = Seats(2)
    assert [seats.take() for _ in range(3)] == [True, True, False]
    seats.leave()
    assert seats.take()


class Listener(Watcher[int]):
    """A watcher that does nothing by itself."""

    def __init__(self, end: End, even: bool = False) -> None:
        self.outbox = end.outbox
        self.wants = (lambda item: item % 2 == 0) if even else None
        self.next = end.loop.time() + 1000
        self.ticks = 0

    def due(self) -> float:
        return self.next

    def tick(self, now: float) -> None:
        self.ticks += 1
        self.next = now + 1000

    def stop(self) -> None:
        self.outbox.send(b"bye")

    def drop(self) -> None:
        pass


def test_little_waits_in_the_kernel(loop: Loop) -> None:
    """Of its own it takes 4 MB on loopback for a peer that does not read."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    with theirs, ours:
        ours.setblocking(False)
        Watcher[int](loop, ours, Fanout(loop, encode), Seats(1), None)
        taken = 0
        with pytest.raises(BlockingIOError):
            while taken < 1 << 20:
                taken += ours.send(b"." * 5000)


def test_a_socket_without_that_option_is_as_good(loop: Loop) -> None:
    """Who took a seat for it must get as far as to give it back."""
    ours, theirs = socket.socketpair()  # of the family AF_UNIX
    with ours, theirs:
        Watcher[int](loop, ours, Fanout(loop, encode), Seats(1), None)


def encode(item: int) -> bytes:
    return b"%d," % item


def test_gathers_until_the_batch_is_full(loop: Loop, end: End) -> None:
    calls: list[int] = []
    source: Fanout[int] = Fanout(loop, lambda item: calls.append(item) or encode(item), batch=4)
    for number in range(9):
        source.put(number, number)
    assert calls == []  # nobody watches: nothing is encoded, and no timer runs
    watcher, second = Listener(end), End(loop)
    source.add(watcher)
    source.add(Listener(second, even=True))
    for number in range(6):
        source.put(number, number)
    assert calls == list(range(6))  # once each, whatever the number of watchers
    assert end.theirs.recv(100) == b"0,1,2,3,"
    assert second.theirs.recv(100) == b"0,2,"
    assert source._items == [4, 5]
    until(loop, lambda: not source._items)
    assert end.theirs.recv(100) == b"4,5,"
    assert second.theirs.recv(100) == b"4,"
    for each in list(source.watchers):
        source.remove(each)
    second.close()


def test_large_items_and_urgent_ones_do_not_wait(loop: Loop, end: End) -> None:
    source: Fanout[int] = Fanout(loop, lambda item: b"x" * item)
    watcher = Listener(end)
    source.add(watcher)
    source.put(10, 1)
    source.put(fanout.BATCH_BYTES, 2)
    assert len(end.read(10 + fanout.BATCH_BYTES)) == 10 + fanout.BATCH_BYTES
    source.put(3, 3)
    source.put(4, 4, at_once=True)
    assert end.theirs.recv(100) == b"x" * 7
    source.put(5, 5)
    source.tell(6, 5)
    assert end.theirs.recv(100) == b"x" * 11
    source.remove(watcher)


def test_last_watcher_takes_timers_and_batch_with_it(loop: Loop, end: End) -> None:
    emptied: list[bool] = []
    source: Fanout[int] = Fanout(loop, encode, empty=lambda: emptied.append(True))
    watcher = Listener(end)
    source.add(watcher)
    source.put(1, 1)
    source.remove(watcher)
    assert emptied == [True]
    source.add(watcher)
    source.put(2, 2, at_once=True)
    assert end.theirs.recv(100) == b"2,"
    source.stop()
    assert end.theirs.recv(100) == b"bye"
    source.remove(watcher)


def test_lost_counts_those_gone(loop: Loop) -> None:
    source: Fanout[int] = Fanout(loop, encode)
    end = End(loop, room=1)
    watcher = Listener(end)
    source.add(watcher)
    end.fill()
    for number in range(5):
        source.put(number, number, at_once=True)
    assert end.seats.lost == 5
    source.remove(watcher)
    assert end.seats.lost == 5
    end.close()


def test_ticks_when_due(loop: Loop, end: End) -> None:
    source: Fanout[int] = Fanout(loop, encode)
    watcher = Listener(end)
    source.add(watcher)
    watcher.next = loop.time() + 0.01
    source.wake(watcher.next)
    source.wake(watcher.next + 1)  # a later one moves nothing
    until(loop, lambda: watcher.ticks > 0)
    turn(loop)
    assert watcher.ticks == 1
    source.remove(watcher)


def test_fault_in_encoding_is_not_the_putters(
    loop: Loop, end: End, caplog: pytest.LogCaptureFixture
) -> None:
    source: Fanout[int] = Fanout(loop, lambda item: b"%d" % (1 // item))
    watcher = Listener(end)
    source.add(watcher)
    source.put(0, 1)
    assert "something could not be told" in caplog.text
    source.put(1, 2, at_once=True)
    assert end.theirs.recv(100) == b"1"
    source.remove(watcher)
