"""The selector of the event loop: calls the data plane straight from epoll.

Theory of operation
-------------------
asyncio asks its selector for ready descriptors and then runs a Handle for each. That
costs more than everything else a proxied connection needs, so descriptors of the data
plane never get that far. They are *attached* here with a callback and registered once,
edge-triggered, for everything (in, out, peer closed); `select` calls the callback with
the event mask. All other descriptors (control plane, signals, self-pipe) are registered
by asyncio as usual and returned to it.

What edge-triggered asks of a callback:
- read until the kernel has nothing left: until EAGAIN, or a read shorter than the buffer
  when the mask has none of `END` (a FIN that came with the data makes no second event, and
  a read stops short before urgent data);
- to stop reading is to stop: there is no registration to change. Whoever stopped must
  read again by itself when its reason to stop is gone;
- a callback does a bounded amount of work, then says `again(...)` and returns.

A descriptor is closed at the end of its batch, never inside it: the kernel would hand the
same number to a new socket, which would then get the old one's events of that batch.

Deadlines live here too: `select` knows when the oldest runs out and sleeps no longer. All
owners in one `Deadlines` wait equally long, so insertion order is order of expiry, and
starting or stopping one is a dict operation. With nothing waiting there is no time-out at
all: an idle daemon sleeps until somebody comes.

Callbacks run inside `select`. When they schedule asyncio work (`call_soon`, `call_later`,
a task, a future), `Loop` sets `wake`, and `select` returns so that asyncio sees it.

`PollDispatcher` serves where epoll is missing. It is level-triggered, so it asks every
owner before each poll what it wants to hear (`wants`). Slower, same interface.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import selectors
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol

log = logging.getLogger("bifrost.dispatch")

IN, OUT, ERR, HUP = 0x001, 0x004, 0x008, 0x010  # the same numbers in epoll and poll
PRI, RDHUP = 0x002, 0x2000
END = ERR | HUP | RDHUP | PRI  # with any of these, a short read does not mean drained
BATCH = 64  # events taken from the kernel at once
NEVER = float("inf")

_EDGE = 1 << 31  # EPOLLET
_ALL = IN | OUT | PRI | RDHUP | _EDGE

Handler = Callable[[int], None]


class Owner(Protocol):
    """What owns attached descriptors: its bound methods are the handlers."""

    def wants(self, fd: int) -> int:
        """The events (IN, OUT) it waits for on `fd` now; only the portable selector asks."""

    def crash(self) -> None:
        """One of its handlers raised: give up everything it holds."""


class Closable(Protocol):
    """A socket, or anything else that holds a descriptor."""

    def close(self) -> None: ...


def crashed(owner: Any) -> None:
    """What serves `owner` raised: log our fault, and let it alone pay for that."""
    log.exception("a callback of the data plane failed")
    try:
        owner.crash()
    except Exception:
        log.exception("giving up a failed connection failed too")


class Deadlines:
    """Owners that all have `seconds` to get somewhere.

    Args:
        dispatcher: who watches the clock
        seconds: how long each may wait; may be changed, and holds for the waiting ones too
        expired: called with the owner whose time is up; it is no longer waiting then
    """

    __slots__ = ("_dispatcher", "_expired", "_seconds", "since")

    def __init__(
        self, dispatcher: Dispatcher, seconds: float, expired: Callable[[Any], None]
    ) -> None:
        self._dispatcher = dispatcher
        self._expired = expired
        self._seconds = seconds
        self.since: dict[Any, float] = {}
        dispatcher.deadlines.append(self)
        dispatcher.waiting.append(self.since)

    @property
    def seconds(self) -> float:
        """How long each may wait."""
        return self._seconds

    @seconds.setter
    def seconds(self, seconds: float) -> None:
        self._seconds = seconds
        self._dispatcher.next_deadline = 0.0  # some may be due already: look again

    def start(self, owner: object) -> None:
        """Give `owner` the full time from now on."""
        dispatcher = self._dispatcher
        now = dispatcher.now
        self.since.pop(owner, None)  # a key that stays would keep its place in the order
        self.since[owner] = now
        if now + self._seconds < dispatcher.next_deadline:
            dispatcher.next_deadline = now + self._seconds

    def stop(self, owner: object) -> None:
        """`owner` got there, or gave up."""
        self.since.pop(owner, None)

    def expire(self, now: float) -> float:
        """Call `expired` for all whose time is up; answers when the next one is due."""
        since = self.since
        while since:
            owner = next(iter(since))
            due = since[owner] + self._seconds
            if due > now:
                return due
            del since[owner]
            try:
                self._expired(owner)
            except Exception:
                crashed(owner)
        return NEVER

    def close(self) -> None:
        """Forget all owners and leave the dispatcher."""
        self.since.clear()
        self._dispatcher.deadlines.remove(self)
        self._dispatcher.waiting = [d.since for d in self._dispatcher.deadlines]


class Dispatcher(selectors._BaseSelectorImpl):
    """The part that both selectors share: registry, batches, deadlines.

    Attributes:
        handlers: callback of each attached descriptor; a state machine changes its state
            by assigning to its entry
        now: monotonic time of the current batch, in seconds
        wake: set it to make `select` return to asyncio after this batch
        next_deadline: a time before which no deadline runs out
    """

    exact = True  # the mask tells errors of a connecting socket
    # Waits so many seconds (negative: for ever) and takes so many events of the kernel's.
    _take: Callable[[float, int], list[tuple[int, int]]]

    def __init__(self) -> None:
        super().__init__()
        self.handlers: dict[int, Handler] = {}
        self.now = monotonic()
        self.wake = False
        self.next_deadline = NEVER
        self.deadlines: list[Deadlines] = []
        self.waiting: list[dict[Any, float]] = []
        self._keys: dict[int, selectors.SelectorKey] = self._fd_to_key  # type: ignore[attr-defined]
        self._garbage: list[Closable] = []
        self._again: list[Callable[[], None]] = []
        self._common: dict[tuple[float, Callable[[Any], None]], Deadlines] = {}

    # The data plane's side.

    def attach(self, fd: int, handler: Handler, *, edge: bool = True) -> None:
        """Call `handler(mask)` at each event on `fd`, a non-blocking descriptor.

        Args:
            fd: the descriptor
            handler: a bound method of an `Owner`
            edge: False for a descriptor that is only read, and reported while it has more
        """
        raise NotImplementedError

    def detach(self, fd: int) -> None:
        """Hear nothing more of `fd`, which stays open (see `discard` to close it)."""
        raise NotImplementedError

    def discard(self, fd: int, resource: Closable) -> None:
        """Hear nothing more of `fd`, and close its `resource` at the end of the batch."""
        self.handlers.pop(fd, None)
        self._garbage.append(resource)

    def again(self, callback: Callable[[], None]) -> None:
        """Call `callback` after the other ready descriptors had their turn."""
        self._again.append(callback)

    def common_deadlines(self, seconds: float, expired: Callable[[Any], None]) -> Deadlines:
        """The one `Deadlines` for this time and callback, shared by all who ask for it."""
        key = (seconds, expired)
        if key not in self._common:
            self._common[key] = Deadlines(self, seconds, expired)
        return self._common[key]

    # asyncio's side.

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = super().register(fileobj, events, data)
        try:
            self._watch(key.fd, events)
        except BaseException:
            super().unregister(fileobj)
            raise
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        key = super().unregister(fileobj)
        self._unwatch(key.fd)
        return key

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Dispatch the data plane until asyncio has something to do.

        Args:
            timeout: seconds; None waits for ever, zero or less does not wait
        """
        ready: list[tuple[selectors.SelectorKey, int]] = []
        end = NEVER
        self.now = monotonic()  # asyncio's callbacks may have taken long since the last batch
        if timeout is not None:
            end = 0.0 if timeout <= 0 else self.now + timeout
        lookup, keys, take = self.handlers.get, self._keys, self._take
        while True:
            if self._garbage:
                self._close_garbage()
            seconds = 0.0
            if not (self._again or self.wake or end == 0.0):
                until = self.next_deadline
                if until != NEVER and not any(self.waiting):
                    until = self.next_deadline = NEVER
                if end < until:
                    until = end
                # `now` is a batch old, so a deadline may come late by what a batch takes.
                seconds = -1.0 if until == NEVER else max(0.0, until - self.now)
            events = take(seconds, BATCH)
            self.now = monotonic()
            for fd, mask in events:
                handler = lookup(fd)
                if handler is not None:
                    try:
                        handler(mask)
                    except Exception:
                        crashed(getattr(handler, "__self__", None))
                elif fd in keys:
                    key = keys[fd]
                    wanted = ((mask & ~OUT and 1) | (mask & ~IN and 2)) & key.events
                    if wanted:
                        ready.append((key, wanted))
            if self._again:
                self._run_again()
            if self.next_deadline <= self.now:
                self._expire()
            if ready or self.wake or end <= self.now:
                self.wake = False
                if self._garbage:
                    self._close_garbage()
                return ready

    def close(self) -> None:
        self._close_garbage()
        self.handlers.clear()
        super().close()

    # Inside.

    def _expire(self) -> None:
        """Call those whose time is up."""
        self.next_deadline = NEVER  # a callback may start one that is nearer than all others
        # A copy, since a callback may close some of them.
        nearest = min((d.expire(self.now) for d in self.deadlines[:]), default=NEVER)
        self.next_deadline = min(self.next_deadline, nearest)

    def _close_garbage(self) -> None:
        garbage, self._garbage = self._garbage, []
        for resource in garbage:
            try:
                resource.close()
            except OSError:  # ECONNRESET at close: the descriptor is gone all the same
                continue

    def _run_again(self) -> None:
        callbacks, self._again = self._again, []
        for callback in callbacks:
            try:
                callback()
            except Exception:
                crashed(getattr(callback, "__self__", None))

    def _watch(self, fd: int, events: int) -> None:
        raise NotImplementedError

    def _unwatch(self, fd: int) -> None:
        raise NotImplementedError


def _mask(events: int) -> int:
    """selectors' EVENT_READ and EVENT_WRITE as poll's bits."""
    return (IN if events & selectors.EVENT_READ else 0) | (
        OUT if events & selectors.EVENT_WRITE else 0
    )


class EpollDispatcher(Dispatcher):
    """The selector for Linux."""

    def __init__(self) -> None:
        super().__init__()
        self._epoll = select.epoll()
        self._take = self._epoll.poll

    def fileno(self) -> int:
        """The descriptor of the epoll itself."""
        return self._epoll.fileno()

    def attach(self, fd: int, handler: Handler, *, edge: bool = True) -> None:
        self._epoll.register(fd, _ALL if edge else IN)
        self.handlers[fd] = handler

    def detach(self, fd: int) -> None:
        if self.handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def close(self) -> None:
        super().close()
        self._epoll.close()

    def _watch(self, fd: int, events: int) -> None:
        self._epoll.register(fd, _mask(events))

    def _unwatch(self, fd: int) -> None:
        with contextlib.suppress(OSError):  # closed already: epoll forgot it by itself
            self._epoll.unregister(fd)


class PollDispatcher(Dispatcher):
    """The selector for systems without epoll: level-triggered, asks before each poll."""

    exact = False

    def __init__(self) -> None:
        super().__init__()
        self._asked: dict[int, int] = {}
        self._poller = select.poll()
        self._take = self._poll

    def attach(self, fd: int, handler: Handler, *, edge: bool = True) -> None:
        self.handlers[fd] = handler

    def detach(self, fd: int) -> None:
        self.handlers.pop(fd, None)

    def _poll(self, seconds: float, most: int) -> list[tuple[int, int]]:
        for fd in self._asked.keys() - self.handlers.keys():
            self._ask(fd, 0)
        for fd, handler in self.handlers.items():
            owner: Owner = handler.__self__  # type: ignore[attr-defined]
            self._ask(fd, owner.wants(fd))
        return self._poller.poll(None if seconds < 0 else seconds * 1000)

    def _ask(self, fd: int, wants: int) -> None:
        """Poll `fd` for these events from now on."""
        if wants == self._asked.get(fd, 0):
            return
        if wants:
            self._asked[fd] = wants
            self._poller.register(fd, wants)
        else:  # poll reports HUP and ERR even when asked for nothing
            del self._asked[fd]
            self._poller.unregister(fd)

    def _watch(self, fd: int, events: int) -> None:
        self._asked.pop(fd, None)  # the number may have been the data plane's until now
        self._poller.register(fd, _mask(events))

    def _unwatch(self, fd: int) -> None:
        with contextlib.suppress(KeyError):
            self._poller.unregister(fd)


class Loop(asyncio.SelectorEventLoop):
    """asyncio's loop on a `Dispatcher`, which learns of everything that is scheduled."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher
        super().__init__(dispatcher)

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.Handle:
        self.dispatcher.wake = True
        return super().call_soon(callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        self.dispatcher.wake = True
        return super().call_at(when, callback, *args, context=context)


def make_dispatcher() -> Dispatcher:
    """The best selector that this system has."""
    return EpollDispatcher() if hasattr(select, "epoll") else PollDispatcher()
