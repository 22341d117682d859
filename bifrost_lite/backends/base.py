"""What others know of a backend.

A *leaf* carries connections itself and has a `way.Way`; a group has members, which are
leaves or groups again.
"""

from __future__ import annotations

from typing import Protocol

from ..condition import Condition
from ..dial import Done
from ..target import Target
from ..way import Way


class Connecting(Protocol):
    """A connection being made."""

    def cancel(self) -> None:
        """Give up; `done` will not be called."""


class Ended:
    """What has ended before it could be given up."""

    __slots__ = ()

    def cancel(self) -> None:
        """See `Connecting`: there is nothing to give up."""


ENDED = Ended()


class Backend(Protocol):
    """A way out, or a choice of them.

    Attributes:
        name: as configured
        type: direct, interface, http_proxy, socks5_proxy, group or block
        condition: its state
        members: of a group, in order; () for a leaf
    """

    name: str
    type: str
    condition: Condition
    members: tuple[Backend, ...]

    def connect(
        self, target: Target, client: bytes, done: Done, forward: bool = False
    ) -> Connecting:
        """Make a connection to `target` for a client, and judge the way by it.

        Args:
            target: where to; refused with `TARGET_DENIED` or `LOOP` where it is a literal that
                clients must not reach, or on direct dials a name that resolves to such
            client: its address, 4 or 16 bytes, for strategies that go by client
            done: called exactly once unless cancelled, perhaps before `connect` returns;
                see `dial.Done`
            forward: it is for a plain HTTP request; where the way is `absolute` the connection
                then ends at the upstream proxy, which wants absolute-form
        """

    def probe(self, target: Target, done: Done, forward: bool = False) -> Connecting:
        """As `connect`, for a target that the operator named: it may be any, and no counter
        and no condition takes note."""

    def carriers(self, client: bytes) -> list[Way]:
        """The ways that would be tried now for this client, in order; asking changes nothing."""

    def close(self) -> None:
        """The configuration that made it is gone: give back what it holds besides connections
        and dials under way, which go on."""


class Leaf:
    """What all leaves are.

    Args:
        way: it
    """

    members: tuple[Backend, ...] = ()

    def __init__(self, way: Way) -> None:
        self.name = way.name
        self.type = way.type
        self.way = way
        self.condition = way.condition

    def carriers(self, client: bytes) -> list[Way]:
        """See `Backend`."""
        return [self.way]

    def close(self) -> None:
        """See `Backend`: most hold nothing."""
