"""A monitor of backends on a clock that the test moves, with targets in the test's hands."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator
from typing import TypeVar

from bifrost_lite.backends.base import Backend
from bifrost_lite.backends.direct import Direct
from bifrost_lite.backends.group import Group
from bifrost_lite.condition import Condition
from bifrost_lite.config import schema
from bifrost_lite.counters import Counters
from bifrost_lite.dial import Dialler
from bifrost_lite.dispatch import Dispatcher, EpollDispatcher, Loop
from bifrost_lite.events import BackendHealth, Data
from bifrost_lite.health import Monitor
from bifrost_lite.way import Way
from tests.plane_kit import Names, Origin, anything, until

T = TypeVar("T")

PASS = b"HTTP/1.1 204 No Content\r\n\r\n"


class StillLoop(Loop):
    """A loop whose time stands still unless the test moves it."""

    now = 1000.0

    def time(self) -> float:
        return self.now


class Inquiry:
    """A question about a WireGuard device, which waits for the test."""

    def __init__(self, device: str, done: Callable[[object, str], None]) -> None:
        self.device, self.done = device, done
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Bench:
    """Backends, their monitor, and what it tells.

    Attributes:
        events: all that was published
        dice: what the monitor takes for random
        asked: questions about WireGuard devices
    """

    def __init__(self, selector: type[Dispatcher] = EpollDispatcher) -> None:
        self.dispatcher = selector()
        self.loop = StillLoop(self.dispatcher)
        self.names = Names()
        self.events: list[BackendHealth] = []
        self.dice = 0.0
        self.asked: list[Inquiry] = []
        self.monitor = Monitor(
            self.loop, self.dispatcher, self.publish, self.ask, lambda: self.dice
        )
        self.backends: dict[str, Backend] = {}
        self.settings: dict[str, schema.Backend] = {}
        self._origins: list[Origin] = []

    def publish(self, kind: str, data: Data) -> None:
        assert kind == "backend.health"
        assert isinstance(data, BackendHealth)
        self.events.append(data)

    def ask(
        self, dispatcher: Dispatcher, device: str, done: Callable[[object, str], None]
    ) -> Inquiry:
        self.asked.append(Inquiry(device, done))
        return self.asked[-1]

    # What is watched.

    def condition(self, name: str, health: schema.Health) -> Condition:
        return Condition(
            lambda condition: self.changed(name, condition),
            watched=health.type != "none",
            passive=health.type == "passive",
            fall=health.fall,
            rise=health.rise,
            hold_down=health.hold_down,
        )

    def changed(self, name: str, condition: Condition) -> None:
        """As the builder does it: groups follow."""
        self.monitor.changed(name, condition)
        for backend in self.backends.values():
            if isinstance(backend, Group) and condition is not backend.condition:
                backend.refresh(self.loop.time())

    def make(
        self,
        name: str,
        health: schema.Health,
        condition: Condition | None = None,
        dialler: type[Dialler] = Dialler,
    ) -> Direct:
        """A backend that dials; `condition` where it is known from before."""
        way = Way(
            name, "direct", self.dispatcher, Counters(), condition or self.condition(name, health)
        )
        both = [
            dialler(self.dispatcher, self.names, anything, seconds=3600.0, way=judged)
            for judged in (way, None)
        ]
        return Direct(way, *both)

    def put(self, name: str = "out", **health: object) -> Direct:
        """Add a backend with these settings of its health; `adopt` puts it in force."""
        checks = schema.Health(**health)
        backend = self.make(name, checks)
        self.add(backend, schema.Direct(name=name, health=checks))
        return backend

    def add(self, backend: Backend, settings: schema.Backend) -> None:
        self.backends[settings.name] = backend
        self.settings[settings.name] = settings

    def adopt(self) -> None:
        self.monitor.adopt(self.backends, self.settings.values())

    def quiet(self, mask: int) -> None:
        """The handler of a connection that a backend made."""

    def wants(self, fd: int) -> int:
        return 0

    # Time and turns.

    def turn(self) -> None:
        """Let the loop go round twice, without waiting."""
        for _ in range(2):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    def until(self, condition: Callable[[], T], what: str = "") -> T:
        def turned() -> T:
            self.turn()
            return condition()

        return until(turned, what)

    def advance(self, seconds: float) -> None:
        """Let time pass, in one step."""
        self.loop.now += seconds
        self.turn()

    @property
    def timers(self) -> list[float]:
        """Seconds until each timer that is armed."""
        scheduled = self.loop._scheduled  # type: ignore[attr-defined]
        left = (timer.when() - self.loop.now for timer in scheduled if not timer.cancelled())
        return sorted(round(seconds, 6) for seconds in left)

    # What happened.

    @property
    def told(self) -> list[str]:
        """The events in short."""
        return [f"{event.name} {event.state}" for event in self.events]

    def state(self, name: str = "out") -> str:
        (state,) = [at.state for at in self.monitor.states() if at.name == name]
        return state

    def reason(self, name: str = "out") -> str:
        (reason,) = [at.reason for at in self.monitor.states() if at.name == name]
        return reason

    # Targets.

    def origin(self, *, backlog: int = 256) -> Origin:
        origin = Origin(backlog=backlog)
        self._origins.append(origin)
        return origin

    def hole(self) -> Origin:
        """A target that does not answer at all."""
        origin = self.origin(backlog=0)
        origin.fill()
        return origin

    def answer(self, origin: Origin, answer: bytes = PASS) -> None:
        """Take the connection of a check, and answer it."""
        peer = origin.accept()
        self.until(lambda: readable(peer.sock), "the request")
        peer.head()
        peer.send(answer)
        self.until(lambda: readable(peer.sock), "the end of the check")
        peer.gone()

    def close(self) -> None:
        """Nothing may be left."""
        self.monitor.close()
        self.turn()
        assert not self.dispatcher.handlers
        assert not any(deadlines.since for deadlines in self.dispatcher.deadlines)
        assert self.timers == []
        for origin in self._origins:
            origin.close()
        self.loop.close()


def readable(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


def running(selector: type[Dispatcher]) -> Iterator[Bench]:
    """The body of a fixture."""
    bench = Bench(selector)
    yield bench
    bench.close()
