"""The backend `direct`: dial from this host."""

from __future__ import annotations

from ..dial import Dial, Dialler, Done
from ..target import Target
from ..way import Way
from .base import Leaf


class Direct(Leaf):
    """Dials targets itself.

    Args:
        way: it
        dialler: family, source, deadline and guards of dials for clients; its `way` is `way`
        prober: the same for probes: it has no guard and no way
    """

    def __init__(self, way: Way, dialler: Dialler, prober: Dialler) -> None:
        super().__init__(way)
        self.dialler = dialler
        self.prober = prober

    def connect(self, target: Target, client: bytes, done: Done, forward: bool = False) -> Dial:
        """See `base.Backend`."""
        return Dial(self.dialler, target, done)

    def probe(self, target: Target, done: Done, forward: bool = False) -> Dial:
        """See `base.Backend`."""
        return Dial(self.prober, target, done)
