"""asyncio on a dispatcher: everything that it does on its own selector, it does on this one."""

from __future__ import annotations

import asyncio
import os
import selectors
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest

from bifrost_lite.dispatch import Dispatcher, EpollDispatcher, Loop, PollDispatcher
from tests.dispatch_kit import DEADLINE, End

T = TypeVar("T")
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

KINDS = [EpollDispatcher, PollDispatcher]


@pytest.fixture(params=KINDS)
def dispatcher(request: pytest.FixtureRequest) -> Iterator[Dispatcher]:
    made = request.param()
    yield made
    made.close()


# asyncio's side: what selectors.EpollSelector does, this does.


def test_registered(dispatcher: Dispatcher) -> None:
    one, two = socket.socketpair()
    with one, two:
        key = dispatcher.register(one, READ, "data")
        assert (key.fileobj, key.fd, key.events, key.data) == (one, one.fileno(), READ, "data")
        # By the object and by its number: loop.remove_reader takes either.
        assert dispatcher.get_key(one) == dispatcher.get_key(one.fileno()) == key
        assert dispatcher.get_map().get(one) == dispatcher.get_map().get(one.fileno()) == key
        assert dispatcher.get_map().get(two) is None
        with pytest.raises(KeyError):
            dispatcher.get_key(two)
        with pytest.raises(KeyError):
            dispatcher.register(one.fileno(), WRITE)
        assert dispatcher.select(0) == []
        two.send(b"x")
        assert dispatcher.select(0) == dispatcher.select(None) == [(key, READ)]
        key = dispatcher.modify(one, READ | WRITE, "more")
        assert dispatcher.select(0) == [(key, READ | WRITE)]
        key = dispatcher.modify(one, WRITE, "more")
        assert dispatcher.select(0) == [(key, WRITE)]
        two.close()  # whoever waits for either hears of the end
        assert dispatcher.select(0) == [(key, WRITE)]
        assert dispatcher.unregister(one) == key
        assert dispatcher.select(0) == []
        with pytest.raises(KeyError):
            dispatcher.unregister(one)


def test_registered_and_closed(dispatcher: Dispatcher) -> None:
    """Closed before it is unregistered: the key is found by the object, and its number is free."""
    one, two = socket.socketpair()
    fd = one.fileno()
    dispatcher.register(one, READ)
    one.close()
    two.close()
    dispatcher.unregister(one)
    assert fd not in dispatcher.get_map()
    with pytest.raises(ValueError, match="Invalid file"):
        dispatcher.register(one, READ)


def test_what_cannot_be_registered_leaves_nothing() -> None:
    dispatcher = EpollDispatcher()
    with tempfile.TemporaryFile() as file:
        for _ in range(2):
            with pytest.raises(PermissionError):
                dispatcher.register(file, READ)
    assert not dispatcher.get_map()
    dispatcher.close()


def test_timeouts(dispatcher: Dispatcher) -> None:
    for timeout in (0, -1, 0.0, 0.001):
        assert dispatcher.select(timeout) == []


# The loop.


@pytest.fixture(params=KINDS)
def loop(request: pytest.FixtureRequest) -> Iterator[Loop]:
    made = Loop(request.param())
    yield made
    made.run_until_complete(made.shutdown_default_executor())
    made.close()


def run(loop: Loop, main: Coroutine[Any, Any, T]) -> T:
    return loop.run_until_complete(asyncio.wait_for(main, DEADLINE))


class Bulk:
    """A transfer that never waits: it has a turn in every round."""

    def __init__(self, loop: Loop) -> None:
        self.dispatcher = loop.dispatcher
        self.turns = 0
        self.going = True
        self.dispatcher.again(self.on_turn)

    def on_turn(self) -> None:
        self.turns += 1
        if self.going:
            self.dispatcher.again(self.on_turn)

    def crash(self) -> None:
        raise AssertionError


def soon(loop: Loop, future: asyncio.Future[str]) -> None:
    loop.call_soon(future.set_result, "done")


def later(loop: Loop, future: asyncio.Future[str]) -> None:
    loop.call_later(0.001, future.set_result, "done")


def at_once(loop: Loop, future: asyncio.Future[str]) -> None:
    future.set_result("done")


def by_task(loop: Loop, future: asyncio.Future[str]) -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        future.set_result("done")

    tasks.add(loop.create_task(work()))


tasks: set[asyncio.Task[None]] = set()


@pytest.mark.parametrize("schedule", [soon, later, at_once, by_task])
@pytest.mark.parametrize("place", ["handler", "turn", "deadline"])
def test_work_for_asyncio_from_inside(
    loop: Loop, place: str, schedule: Callable[[Loop, asyncio.Future[str]], None]
) -> None:
    """Callbacks of the data plane run inside select, where asyncio does not look for work."""
    dispatcher = loop.dispatcher
    end = End(dispatcher, lambda end: (end.read(), schedule(loop, future)))

    class Owner:
        def on_turn(self, _: object = None) -> None:
            schedule(loop, future)

    async def main() -> str:
        # Without a timer of asyncio's, as in the daemon: nothing else ends the sleep.
        if place == "handler":
            end.peer.send(b"x")
        elif place == "turn":
            dispatcher.again(Owner().on_turn)
        else:
            dispatcher.common_deadlines(0.001, Owner.on_turn).start(Owner())
        return await future

    future = loop.create_future()
    assert loop.run_until_complete(main()) == "done"
    tasks.clear()
    end.close()


def test_asyncio_keeps_time_beside_a_busy_plane(loop: Loop) -> None:
    async def main() -> None:
        bulk = Bulk(loop)
        for seconds in (0.01, 0.001, 0):
            turns = bulk.turns
            await asyncio.sleep(seconds)
            assert bulk.turns > turns
        bulk.going = False

    run(loop, main())


def test_asyncio_reads_and_writes_beside_a_busy_plane(loop: Loop) -> None:
    """An echo server of streams, more bytes than buffers hold, data-plane sockets between."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        bulk = Bulk(loop)
        ends = [End(loop.dispatcher) for _ in range(5)]
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        payload = os.urandom(4 << 20)
        reading = loop.create_task(reader.readexactly(len(payload)))
        for end in ends:
            end.peer.send(b"x")
        writer.write(payload)
        await writer.drain()
        writer.write_eof()
        assert await reading == payload
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        bulk.going = False
        assert [end.got for end in ends] == [b"x"] * 5
        for end in ends:
            end.close()

    run(loop, main())


@pytest.mark.parametrize("by_number", [True, False])
def test_readers_and_writers(loop: Loop, by_number: bool) -> None:
    async def main() -> None:
        one, two = socket.socketpair()
        one.setblocking(False)
        with one, two:
            end: Any = one.fileno() if by_number else one
            got: asyncio.Queue[str] = asyncio.Queue()
            loop.add_reader(end, got.put_nowait, "old")
            loop.add_reader(end, lambda: got.put_nowait(one.recv(9).decode()))
            two.send(b"read")
            assert await got.get() == "read"
            loop.add_writer(end, got.put_nowait, "write")
            assert await got.get() == "write"
            assert loop.remove_writer(end)
            assert not loop.remove_writer(end)
            while not got.empty():
                got.get_nowait()
            two.send(b"again")
            assert await got.get() == "again"
            assert loop.remove_reader(end)
            assert not loop.remove_reader(end)
            assert one not in loop.dispatcher.get_map()
            two.send(b"unheard")
            await asyncio.sleep(0)
            assert got.empty()

    run(loop, main())


def test_a_number_goes_from_asyncio_to_the_data_plane(loop: Loop) -> None:
    async def main() -> None:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        numbers = {sock.fileno() for sock in server.sockets}
        server.close()
        await server.wait_closed()
        heard = asyncio.Event()
        ends = [End(loop.dispatcher) for _ in range(5)]
        assert numbers & {end.fd for end in ends}
        ends[0].then = lambda end: heard.set()
        ends[0].peer.send(b"x")
        await heard.wait()
        assert [end.masks for end in ends[1:]] == [[]] * 4
        for end in ends:
            end.close()

    run(loop, main())


def test_primitives(loop: Loop) -> None:
    async def main() -> list[str]:
        order: list[str] = []
        event, lock = asyncio.Event(), asyncio.Lock()

        async def waiter() -> None:
            await event.wait()
            async with lock:
                order.append("waiter")

        task = loop.create_task(waiter())
        async with lock:
            event.set()
            for _ in range(3):
                await asyncio.sleep(0)
            order.append("main")
        await task
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 0.001)
        return order

    assert run(loop, main()) == ["main", "waiter"]


def test_threads(loop: Loop) -> None:
    """The pool for blocking calls, and other threads' calls into a loop that sleeps."""

    async def main() -> None:
        found = await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
        assert found[0][4] == ("127.0.0.1", 80)
        future = loop.create_future()
        main_thread = threading.get_ident()
        thread = threading.Thread(
            target=loop.call_soon_threadsafe,
            args=(lambda: future.set_result(threading.get_ident()),),
        )
        thread.start()
        assert await future == main_thread
        thread.join()

    run(loop, main())


def test_signals(loop: Loop) -> None:
    async def main() -> None:
        seen = asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, seen.set)
        os.kill(os.getpid(), signal.SIGUSR1)
        await seen.wait()
        assert loop.remove_signal_handler(signal.SIGUSR1)

    run(loop, main())


def test_a_signal_while_the_plane_is_busy(loop: Loop) -> None:
    async def main() -> None:
        bulk = Bulk(loop)
        seen = asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, seen.set)
        os.kill(os.getpid(), signal.SIGUSR1)
        await seen.wait()
        loop.remove_signal_handler(signal.SIGUSR1)
        bulk.going = False

    run(loop, main())


def test_asyncio_closes_what_the_data_plane_gave_up(loop: Loop) -> None:
    """Discarded outside a batch, by a call of the operator's: closed with the next one."""

    async def main() -> None:
        end = End(loop.dispatcher)
        end.discard()
        assert end.sock.fileno() == end.fd
        await asyncio.sleep(0)
        assert end.sock.fileno() == -1
        end.peer.close()

    run(loop, main())


def test_a_closed_loop_leaves_nothing() -> None:
    for kind in KINDS:
        before = set(os.listdir("/proc/self/fd"))
        loop = Loop(kind())
        run(loop, asyncio.sleep(0))
        loop.close()
        loop.close()
        assert set(os.listdir("/proc/self/fd")) == before
