"""The backend `block`: refuse at once."""

from __future__ import annotations

from ..dial import Done
from ..errors import Reason
from ..target import Target
from ..way import Way
from .base import ENDED, Backend, Ended


class Block:
    """Refuses every target.

    That is no failure: it is not counted as one, and nothing is judged by it.

    Args:
        way: it
    """

    members: tuple[Backend, ...] = ()

    def __init__(self, way: Way) -> None:
        self.name = way.name
        self.type = way.type
        self.way = way
        self.condition = way.condition

    def connect(
        self, target: Target, client: bytes, done: Done, forward: bool = False
    ) -> Ended:
        """See `base.Backend`."""
        done(None, 0, Reason.BLOCKED, self.way)
        return ENDED

    def probe(self, target: Target, done: Done, forward: bool = False) -> Ended:
        """See `base.Backend`."""
        done(None, 0, Reason.BLOCKED, None)
        return ENDED

    def carriers(self, client: bytes) -> list[Way]:
        """See `base.Backend`."""
        return [self.way]

    def close(self) -> None:
        """See `base.Backend`: it holds nothing."""
