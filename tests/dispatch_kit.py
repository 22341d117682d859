"""Descriptors and clocks to try a dispatcher with."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from time import monotonic

from bifrost_lite.dispatch import IN, OUT, Dispatcher

DEADLINE = 10.0


class End:
    """One end of a pair of sockets, attached; the other end is `peer`.

    Attributes:
        masks: of the events that it got
        then: what it does about each
        waits: what it tells the portable selector that it wants
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        then: Callable[[End], object] = lambda end: end.read(),
        edge: bool = True,
    ) -> None:
        self.dispatcher = dispatcher
        self.sock, self.peer = socket.socketpair()
        self.sock.setblocking(False)
        self.fd = self.sock.fileno()
        self.then = then
        self.masks: list[int] = []
        self.crashes = 0
        self.waits = IN
        self.got = b""
        dispatcher.attach(self.fd, self.on_event, edge=edge)

    def on_event(self, mask: int) -> None:
        if mask & ~OUT:  # epoll tells at once that a socket can be written
            self.masks.append(mask)
            self.then(self)

    def read(self) -> None:
        self.got += self.sock.recv(65536)

    def wants(self, fd: int) -> int:
        return self.waits

    def crash(self) -> None:
        self.crashes += 1
        self.discard()

    def discard(self) -> None:
        self.dispatcher.discard(self.fd, self.sock)

    def close(self) -> None:
        """The end of a test."""
        self.discard()
        self.peer.close()


def until(dispatcher: Dispatcher, done: Callable[[], object]) -> None:
    end = monotonic() + DEADLINE
    while not done():
        assert monotonic() < end
        dispatcher.select(0.01)


class Polls:
    """Notes how long each poll of a dispatcher is allowed to sleep, negative for ever."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.patience: list[float] = []
        self.begun = threading.Event()
        self._take = dispatcher._take
        dispatcher._take = self

    def __call__(self, seconds: float, most: int) -> list[tuple[int, int]]:
        self.patience.append(seconds)
        self.begun.set()
        return self._take(seconds, most)


def patience(dispatcher: Dispatcher, timeout: float | None = None) -> float:
    """How long the next poll may sleep; it does not."""
    asked: list[float] = []

    def spy(seconds: float, most: int) -> list[tuple[int, int]]:
        asked.append(seconds)
        dispatcher.wake = True
        return []

    take = dispatcher._take
    dispatcher._take = spy
    dispatcher.select(timeout)
    dispatcher._take = take
    return asked[0]


class Fault(Exception):
    pass


def raise_fault(_: object = None) -> None:
    raise Fault
