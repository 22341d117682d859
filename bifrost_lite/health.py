"""Checks of backends, through the backends, and what watchers are told of their states.

A watch for each backend, with one timer at most: for its next check, or, where nobody checks
it, for the end of its hold-down. Where neither is due there is no timer at all. What a check
or a client's connection means for the state is `condition`'s affair; this file knows when to
ask and how.

Checks of one backend never overlap, and few run at the same time: a router with 200 backends
would otherwise open 200 connections at once after each start.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from time import time
from typing import TYPE_CHECKING

from .backends.base import Backend, Connecting
from .condition import SUSPECT, UP, WAITING, Condition
from .config import schema
from .dispatch import Dispatcher
from .events import BackendHealth, Data, rfc3339

if TYPE_CHECKING:
    from .check import Check
    from .wireguard import Done as PeersDone

log = logging.getLogger("bifrost.health")

AT_ONCE = 16  # checks under way; each takes a descriptor or two
SPREAD = 1.0  # seconds in which the first checks begin
HASTE = 4  # times as many checks while the state is in doubt,
HASTE_LEAST = 1.0  # but none sooner than so many seconds after the one before

# Asked for the peers of a WireGuard device; see `wireguard.ask`.
Asker = Callable[[Dispatcher, str, "PeersDone"], Connecting]


class Watch:
    """A backend being watched.

    Attributes:
        backend: it
        health: how it is checked
        device: its network device, "" without one
        check: the one under way
        queued: a check waits for others to end
        begun: when the last check began, a time of the loop
        timer: for what comes next
        state: the last one that was told
        since: Unix time of the change to it
    """

    __slots__ = (
        "backend", "begun", "check", "device", "health", "queued", "since", "state", "timer",
    )  # fmt: skip

    def __init__(self, backend: Backend, health: schema.Health, device: str) -> None:
        self.backend = backend
        self.health = health
        self.device = device
        self.check: Check | None = None
        self.queued = False
        self.begun = 0.0
        self.timer: asyncio.TimerHandle | None = None
        self.state = ""
        self.since = 0.0


class Monitor:
    """Checks backends and tells of their states.

    Args:
        loop: has the timers
        dispatcher: calls the checks
        publish: told the type and data of each event
        ask: tells the peers of a WireGuard device; without one `wireguard.ask` does
        random: a number from 0 to below 1
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        dispatcher: Dispatcher,
        publish: Callable[[str, Data], None],
        ask: Asker | None = None,
        random: Callable[[], float] | None = None,
    ) -> None:
        self._loop = loop
        self._dispatcher = dispatcher
        self._publish = publish
        self._ask = ask or _ask_wireguard
        self._random = random or _random
        self._watches: dict[str, Watch] = {}
        self._running = 0
        self._queue: deque[Watch] = deque()  # each backend once at most
        self._starting = False

    def adopt(self, backends: Mapping[str, Backend], settings: Iterable[schema.Backend]) -> None:
        """Watch these backends and no others; what stays as it was keeps its timer.

        Args:
            backends: by name
            settings: of each of them
        """
        old, self._watches = self._watches, {}
        # At the start what is up goes without saying.
        begin = not old
        fresh: list[Watch] = []
        now = time()
        for item in settings:
            health = item.health if isinstance(item, schema.Dialing) else schema.Health()
            device = item.device if isinstance(item, schema.Interface) else ""
            backend = backends[item.name]
            watch = old.get(item.name)
            if (
                watch is not None
                and (watch.health, watch.device) == (health, device)
                and watch.backend.condition is backend.condition
            ):
                del old[item.name]
                watch.backend = backend
            else:
                known, watch = watch, Watch(backend, health, device)
                watch.state = UP if begin else known.state if known else ""
                watch.since = known.since if known else now
                fresh.append(watch)
            self._watches[item.name] = watch
        self._drop(old.values())
        for watch in fresh:
            watch.begun = self._loop.time()
            self._plan(watch, watch.begun + self._random() * min(SPREAD, watch.health.interval))
        for watch in self._watches.values():
            self._tell(watch)

    def changed(self, name: str, condition: Condition) -> None:
        """The state of a backend changed; for `Condition`."""
        watch = self._watches.get(name)
        if watch is None or watch.backend.condition is not condition:
            return  # of another configuration, whose dials are still under way
        self._tell(watch)
        if condition.state == WAITING:
            self._drop((watch,))
        self._plan(watch, self._loop.time() if condition.state == SUSPECT else None)

    def hurry(self, name: str) -> None:
        """Check a backend soon, if it is checked at all: something about its device changed."""
        watch = self._watches.get(name)
        if watch is not None:
            soon = watch.begun + min(HASTE_LEAST, watch.health.interval)
            self._plan(watch, max(self._loop.time(), soon))

    def states(self) -> list[BackendHealth]:
        """The present state of each backend."""
        return [self._picture(watch) for watch in self._watches.values()]

    def close(self) -> None:
        """Stop all checks; nothing is told any more."""
        self._drop(self._watches.values())
        self._watches = {}

    # Inside.

    def _tell(self, watch: Watch) -> None:
        """Tell of the state if it is not the one that was told last."""
        condition = watch.backend.condition
        if condition.state == watch.state:
            return
        watch.state = condition.state
        watch.since = time()
        event = self._picture(watch)
        level = logging.INFO if event.state in (UP, SUSPECT) else logging.WARNING
        log.log(level, f"backend {event.name} is {event.state}: {event.reason}")
        self._publish("backend.health", event)

    def _picture(self, watch: Watch) -> BackendHealth:
        condition = watch.backend.condition
        return BackendHealth(
            watch.backend.name,
            condition.usable,
            condition.state,
            condition.reason,
            rfc3339(watch.since),
        )

    def _plan(self, watch: Watch, check_at: float | None = None) -> None:
        """Arm the timer for what comes next, if anything does.

        Args:
            watch: whose
            check_at: when to check it, a time of the loop; None by its interval
        """
        _disarm(watch)
        condition = watch.backend.condition
        if watch.check is not None or watch.queued:
            return  # its end comes here again
        at = condition.due()
        if condition.checked and condition.state != WAITING:
            if check_at is None:
                check_at = max(self._loop.time(), watch.begun + self._pause(watch))
            at = check_at if at is None else min(at, check_at)
        if at is not None:
            watch.timer = self._loop.call_at(at, self._time, watch)

    def _pause(self, watch: Watch) -> float:
        """Seconds from the begin of one check to the begin of the next."""
        health = watch.health
        seconds = health.interval
        if watch.backend.condition.deciding:
            seconds = min(seconds, max(HASTE_LEAST, seconds / HASTE))
        return seconds * (1 + health.jitter * (2 * self._random() - 1))

    def _time(self, watch: Watch) -> None:
        """The timer ran out."""
        watch.timer = None
        condition = watch.backend.condition
        condition.tick(self._loop.time())
        if condition.checked:
            self._queue.append(watch)
            watch.queued = True
            _disarm(watch)
            self._start()
        else:
            self._plan(watch)  # the timer may be a little early

    def _start(self) -> None:
        """Begin as many of the checks that wait as may run; one may end at once."""
        if self._starting:
            return
        self._starting = True
        while self._queue and self._running < AT_ONCE:
            watch = self._queue.popleft()
            watch.queued = False
            watch.begun = self._loop.time()
            self._running += 1

            def done(why: str, telling: bool, watch: Watch = watch) -> None:
                self._ended(watch, why, telling)

            ask = partial(self._ask, self._dispatcher, watch.device)
            try:
                from .check import Check  # where nothing is checked, nobody needs it
            except OSError:  # out of descriptors, which says nothing about the backend
                done("", False)
                continue
            check = Check(self._loop, self._dispatcher, watch.backend, watch.health, ask, done)
            watch.check = check
            check.start()
        self._starting = False

    def _ended(self, watch: Watch, why: str, telling: bool) -> None:
        """A check is over."""
        now = self._loop.time()
        condition = watch.backend.condition
        if telling and why:
            condition.check_failed(why, now)
        elif telling:
            condition.check_passed(now)
        self._running -= 1
        watch.check = None
        self._plan(watch)
        self._start()

    def _drop(self, watches: Iterable[Watch]) -> None:
        """Do nothing more for them."""
        for watch in watches:
            _disarm(watch)
            if watch.queued:
                self._queue.remove(watch)
                watch.queued = False
            check, watch.check = watch.check, None
            if check is not None:
                check.cancel()
                self._running -= 1
        self._start()


def _disarm(watch: Watch) -> None:
    if watch.timer is not None:
        watch.timer.cancel()
        watch.timer = None


def _random() -> float:
    """The module `random` would bring hashlib with it."""
    return int.from_bytes(os.urandom(4), "big") / (1 << 32)


def _ask_wireguard(dispatcher: Dispatcher, device: str, done: PeersDone) -> Connecting:
    from .wireguard import ask  # who does not need it pays nothing

    return ask(dispatcher, device, done)
