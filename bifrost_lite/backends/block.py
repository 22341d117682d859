"""The backend `block`: refuse at once."""

from __future__ import annotations

from ..dial import Done
from ..errors import Reason
from ..target import Target
from .base import ENDED, Ended, Leaf


class Block(Leaf):
    """Refuses every target.

    That is no failure: it is not counted as one, and nothing is judged by it.

    Args:
        way: it
    """

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
