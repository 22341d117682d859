"""What a session knows of a backend."""

from __future__ import annotations

from typing import Protocol

from ..dial import Done
from ..target import Target


class Connecting(Protocol):
    """A connection being made."""

    def cancel(self) -> None:
        """Give up; `done` will not be called."""


class Backend(Protocol):
    """A way out.

    Attributes:
        name: as configured
        type: direct, ...
    """

    name: str
    type: str

    def connect(self, target: Target, client: bytes, done: Done) -> Connecting:
        """Make a connection to `target` for the client of that address.

        Args:
            target: where to
            client: 4 or 16 bytes, for strategies that go by client
            done: called exactly once unless cancelled, perhaps before `connect` returns;
                see `dial.Dial`
        """
