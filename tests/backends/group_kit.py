"""Members of groups that do what a test says, and who asks them for connections."""

from __future__ import annotations

from collections.abc import Sequence

from bifrost_lite.backends.base import Backend
from bifrost_lite.backends.group import Group
from bifrost_lite.condition import Condition
from bifrost_lite.counters import Counters
from bifrost_lite.dial import Done
from bifrost_lite.errors import Reason
from bifrost_lite.target import Target
from bifrost_lite.way import Way

CLIENT = b"\xc0\xa8\x01\x02"
TARGET = Target("api.example.com", 443)
REFUSED = Reason.CONNECT_REFUSED


class Garbage:
    """Stands in for the dispatcher of ways that no socket goes through."""

    now = 0.0

    def __init__(self) -> None:
        self.discarded: list[object] = []

    def discard(self, fd: int, resource: object) -> None:
        self.discarded.append(resource)


class Sock:
    """Stands in for a connected socket; tests compare it."""

    def fileno(self) -> int:
        return 7


class Dialling:
    """A connection that waits for the test."""

    def __init__(self, leaf: Leaf, done: Done) -> None:
        self.leaf = leaf
        self.done = done
        leaf.dialling.append(self)

    def end(self, reason: Reason | None) -> None:
        """It stands, or this is why not."""
        self.leaf.dialling.remove(self)
        self.leaf.tell(self.done, reason)

    def cancel(self) -> None:
        self.leaf.dialling.remove(self)
        self.leaf.cancelled += 1


class Leaf:
    """A backend under the thumb of the test.

    Args:
        ends: how each connection ends at once, None for well; "later": see `dialling`

    Attributes:
        dialling: connections being made
        asked: target, client and `forward` of each connection asked for, "probe" for probes
    """

    members: tuple[Backend, ...] = ()

    def __init__(self, name: str, ends: Reason | str | None = None) -> None:
        self.name = name
        self.type = "direct"
        self.condition = Condition(lambda condition: None)
        self.way = Way(name, "direct", Garbage(), Counters(), self.condition)
        self.ends = ends
        self.dialling: list[Dialling] = []
        self.cancelled = 0
        self.asked: list[object] = []
        self.sock = Sock()

    def connect(
        self, target: Target, client: bytes, done: Done, forward: bool = False
    ) -> Dialling:
        self.asked.append((target, client, forward))
        dialling = Dialling(self, done)
        if self.ends != "later":
            dialling.end(self.ends)
        return dialling

    def probe(self, target: Target, done: Done, forward: bool = False) -> Dialling:
        self.asked.append("probe")
        dialling = Dialling(self, done)
        if self.ends != "later":
            dialling.end(self.ends)
        return dialling

    def tell(self, done: Done, reason: Reason | None) -> None:
        if reason is None:
            done(self.sock, 4, None, self.way)
        else:
            done(None, 0, reason, self.way)

    def carriers(self, client: bytes) -> list[Way]:
        return [self.way]

    def close(self) -> None:
        """Nothing is held."""


class Caller:
    """Who asks for a connection, and what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, Reason | None, str]] = []

    def done(self, sock: object, mask: int, reason: Reason | None, way: Way | None) -> None:
        self.told.append((sock, reason, way.name if way is not None else ""))

    @property
    def answer(self) -> Reason | str:
        """Who carries it, or why nobody."""
        ((sock, reason, name),) = self.told
        assert (sock is None) == (reason is not None)
        return reason or name


class Watch(Condition):
    """The condition of a group, and the states that were told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        super().__init__(lambda condition: self.told.append(condition.state))


def group(
    members: Sequence[Backend],
    strategy: str = "failover",
    *,
    name: str = "best",
    weights: tuple[int, ...] = (),
) -> Group:
    """A group."""
    return Group(name, strategy, tuple(members), weights or (1,) * len(members), Watch())


def reach(backend: Backend, client: bytes = CLIENT) -> Reason | str:
    """Ask for a connection that is decided at once: who carries it, or why nobody."""
    caller = Caller()
    backend.connect(TARGET, client, caller.done)
    return caller.answer


def names(backend: Backend, client: bytes = CLIENT) -> list[str]:
    """The leaves that would be tried now, in order."""
    return [way.name for way in backend.carriers(client)]
