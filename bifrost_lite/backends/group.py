"""The backend `group`: other backends, and a strategy that chooses among them.

A connection is tried over one member after the other until one connects; the client hears
of the last failure at most. Members that are usable are tried, in the order of the strategy.
Where none is, those that are down are tried all the same, since the operator named them, and
where there is nothing but devices to wait for, those that wait (they fail at once). What the
rules refuse is refused: no other member is asked.

A member may be a group again. Its members are put in its place when its turn comes, and a
leaf that several groups share is tried once.
"""

from __future__ import annotations

from _socket import socket as Socket
from collections.abc import Sequence

from ..condition import DOWN, SUSPECT, UP, WAITING, Condition
from ..counters import Counters
from ..dial import Done
from ..dispatch import crashed
from ..errors import Reason
from ..target import Target
from ..way import FAULTS, Way
from .base import Backend, Connecting
from .strategy import make_strategy

# What no other member must be asked for, or could do better.
FINAL = frozenset((
    Reason.ACL_DENIED,
    Reason.BLOCKED,
    Reason.ENFORCED,
    Reason.LOOP,
    Reason.NO_ROUTE,
    Reason.OUT_OF_DESCRIPTORS,
    Reason.TARGET_DENIED,
))  # fmt: skip

# Connections that groups are making, by what will count them when they stand. Like the
# counters it outlives configurations, and so do the dials.
_dialling: dict[Counters, int] = {}


class Group:
    """Chooses among backends.

    Args:
        name: as configured
        strategy: failover, round_robin, least_conn, ip_hash or weighted
        members: one at least
        weights: one for each member where the strategy is weighted
        condition: of the group; follows the members', see `refresh`

    Attributes:
        ways: of all leaves below
    """

    type = "group"

    def __init__(
        self,
        name: str,
        strategy: str,
        members: tuple[Backend, ...],
        weights: tuple[int, ...],
        condition: Condition,
    ) -> None:
        self.name = name
        self.strategy = strategy
        self.members = members
        self.condition = condition
        self.ways: dict[Backend, Way] = {}
        for member in members:
            self.ways.update(_ways(member))
        self._choice = make_strategy(
            strategy, [member.name for member in members], weights, self._load
        )
        self._loads = [
            [way.counters for way in _ways(member).values()] for member in members
        ]

    def connect(
        self, target: Target, client: bytes, done: Done, forward: bool = False
    ) -> Try:
        """See `base.Backend`."""
        return Try(self, target, client, done, forward)

    def probe(self, target: Target, done: Done, forward: bool = False) -> Connecting:
        """See `base.Backend`; through the leaf that would be tried first, and no other."""
        plan: list[Backend] = [self]
        return plan[_leaf(plan, 0, b"", False)].probe(target, done, forward)

    def carriers(self, client: bytes) -> list[Way]:
        """See `base.Backend`."""
        plan: list[Backend] = [self]
        ways: list[Way] = []
        at = _leaf(plan, 0, client, False)
        while at < len(plan):
            ways.append(self.ways[plan[at]])
            at = _leaf(plan, at + 1, client, False)
        return ways

    def close(self) -> None:
        """See `base.Backend`: its members are closed by themselves."""

    def enter(self, client: bytes, begin: bool) -> list[Backend]:
        """The members to try now for this client, in order.

        Args:
            client: its address
            begin: a dial begins with the first of them
        """
        members = self.members
        usable: Sequence[int] = [i for i, m in enumerate(members) if m.condition.usable]
        if not usable:
            usable = [i for i, m in enumerate(members) if m.condition.state != WAITING]
            usable = usable or range(len(members))
        order = self._choice.order(usable, client)
        if begin:
            self._choice.begun(usable, order[0])
        return [members[i] for i in order]

    def refresh(self, now: float) -> None:
        """The condition of a member may have changed: let the group's follow.

        Args:
            now: a monotonic time in seconds
        """
        states = [member.condition.state for member in self.members]
        usable = [member for member in self.members if member.condition.usable]
        if usable:
            state = UP if UP in states else SUSPECT
            if self.strategy == "failover":
                reason = f"{usable[0].name} carries it"
            else:
                reason = f"{len(usable)} of {len(states)} members work"
        elif set(states) == {WAITING}:
            state, reason = WAITING, "all members wait for their devices"
        else:
            state, reason = DOWN, "no member works"
        _derive(self.condition, state, reason, now)

    def _load(self, member: int) -> int:
        return sum(
            counters.active + _dialling.get(counters, 0) for counters in self._loads[member]
        )


def _derive(condition: Condition, state: str, reason: str, now: float) -> None:
    """Set a condition that follows others; only a new state is told."""
    condition.reason = reason
    if condition.state != state:
        condition.state = state
        condition.since = now
        condition.changed(condition)


def _ways(backend: Backend) -> dict[Backend, Way]:
    """The leaves of a backend, itself if it is one, with their ways."""
    return backend.ways if isinstance(backend, Group) else {backend: backend.carriers(b"")[0]}


def _leaf(plan: list[Backend], at: int, client: bytes, begin: bool) -> int:
    """Where in `plan`, from `at` on, the next leaf stands that does not stand before; its
    length where there is none. Members of the groups on the way are put behind them."""
    while at < len(plan):
        backend = plan[at]
        if plan.index(backend) == at:
            if not isinstance(backend, Group):
                break
            plan[at + 1 : at + 1] = backend.enter(client, begin)
        at += 1
    return at


class Try:
    """One connection that a group makes; see `base.Connecting`.

    A member may answer before its `connect` returns, and so may all: they are gone through
    in a loop, not by recursion.

    Args:
        group: where to begin
        the others: as for `base.Backend.connect`
    """

    __slots__ = (
        "answers", "at", "client", "connecting", "counters", "done", "failed", "forward", "group",
        "looping", "plan", "reason", "target", "way",
    )  # fmt: skip

    def __init__(
        self, group: Group, target: Target, client: bytes, done: Done, forward: bool
    ) -> None:
        self.group = group
        self.target = target
        self.client = client
        self.done: Done | None = done
        self.forward = forward
        self.plan: list[Backend] = [group]
        self.at = 0
        self.looping = False
        self.answers = 0  # leaves that connected or failed
        self.connecting: Connecting | None = None
        self.counters: Counters | None = None
        self.failed: tuple[Way, ...] = ()  # through no fault of the target, it seems
        self.reason: Reason | None = None
        self.way: Way | None = None
        self.next()

    def next(self) -> None:
        """Go on with the next leaf, until one is being dialled or none is left."""
        self.looping = True
        plan = self.plan
        while True:
            at = _leaf(plan, self.at, self.client, True)
            if at == len(plan):
                self._finish(None, 0, self.reason, self.way)
                break
            self.at = at + 1
            answers = self.answers
            connecting = plan[at].connect(self.target, self.client, self.told, self.forward)
            if self.answers == answers:
                if self.done is not None:
                    self.connecting = connecting
                    self.counters = counters = self.group.ways[plan[at]].counters
                    _dialling[counters] = _dialling.get(counters, 0) + 1
                else:  # given up by something that happened meanwhile
                    connecting.cancel()
                break
            if self.done is None:  # connected, or refused for good
                break
        self.looping = False

    def told(
        self, sock: Socket | None, mask: int, reason: Reason | None, way: Way | None
    ) -> None:
        """A leaf connected, or did not."""
        self.answers += 1
        self._let_go()
        if reason is None or reason in FINAL:
            for failed in self.failed if reason is None else ():
                failed.condition.outdone(self.target.text)
            self._finish(sock, mask, reason, way)
            return
        if way is not None and reason in FAULTS:
            self.failed = (*self.failed, way)
        # What a member heard of the target says more than that another does not work.
        if self.reason is None or self.reason in FAULTS:
            self.reason, self.way = reason, way
        if not self.looping:
            self.next()

    def cancel(self) -> None:
        """Give up; `done` will not be called."""
        self.done = None
        connecting = self.connecting
        if connecting is not None:
            self._let_go()
            connecting.cancel()

    def crash(self) -> None:
        """See `dispatch.Owner`: a member could not even be asked."""
        done = self.done
        self.cancel()
        self.done = done
        self._finish(None, 0, Reason.INTERNAL, None)

    def _let_go(self) -> None:
        """No leaf is being dialled any more."""
        self.connecting = None
        counters, self.counters = self.counters, None
        if counters is not None:
            left = _dialling.pop(counters) - 1
            if left:
                _dialling[counters] = left

    def _finish(
        self, sock: Socket | None, mask: int, reason: Reason | None, way: Way | None
    ) -> None:
        done, self.done = self.done, None
        if done is None:
            if sock is not None and way is not None:
                way.dispatcher.discard(sock.fileno(), sock)
            return
        try:
            done(sock, mask, reason, way)
        except Exception:
            crashed(getattr(done, "__self__", None))
