"""The backend `direct`: dial from this host."""

from __future__ import annotations

from ..dial import Dial, Dialler, Done
from ..target import Target


class Direct:
    """Dials targets itself.

    Args:
        name: as configured
        dialler: family, source, deadline and guards
    """

    type = "direct"

    def __init__(self, name: str, dialler: Dialler) -> None:
        self.name = name
        self.dialler = dialler

    def connect(self, target: Target, client: bytes, done: Done) -> Dial:
        """See `base.Backend`."""
        return Dial(self.dialler, target, done)
