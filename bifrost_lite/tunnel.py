"""A CONNECT or SOCKS tunnel, and what is left of HTTP after an upgrade: bytes both ways."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .dispatch import END, IN
from .errors import Reason
from .relay import Half

if TYPE_CHECKING:
    from .session import Session


class Tunnel:
    """Owner of a session's halves while they relay; see `relay.HalfOwner`."""

    __slots__ = ("session",)

    def __init__(self, session: Session) -> None:
        self.session = session

    def start(self, client_mask: int, target_mask: int) -> None:
        """Relay from now on.

        Args:
            client_mask: events of the client's socket that nobody has read for yet
            target_mask: the same of the target's
        """
        session = self.session
        up, down = session.up, session.down
        assert up is not None and down is not None
        handlers = session.plane.dispatcher.handlers
        handlers[up.fd] = up.on_event
        handlers[down.fd] = down.on_event
        up.left = down.left = -1
        if session.buffer:
            early, session.buffer = session.buffer, b""
            up.push(early)
        if client_mask and up.left and up.pend is None:
            up.pump(END)
        if target_mask & (IN | END) and down.left and down.pend is None:
            down.pump(END)

    def half_ended(self, half: Half) -> None:
        """One side is done: pass that on, and end when the other is done too."""
        if half.peer.ended:
            self.session.close(Reason.CLOSED)
            return
        try:
            half.finish_peer()
        except OSError:
            self.session.close(Reason.CLOSED)

    def half_moved(self, half: Half) -> None:
        """A tunnel has no bound to reach."""

    def half_broken(self, half: Half, reading: bool, error: OSError | None) -> None:
        """One side broke: the other hears of it."""
        client = (half is self.session.up) == reading
        self.session.close(Reason.CLIENT_RESET if client else Reason.TARGET_RESET)

    def crash(self) -> None:
        """A handler raised: see dispatch.Owner."""
        self.session.crash()
