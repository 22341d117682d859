"""The last words to a client, and the patience until it has read them."""

from __future__ import annotations

from socket import SHUT_WR
from typing import TYPE_CHECKING

from .dispatch import END, IN
from .errors import Reason

if TYPE_CHECKING:
    from .connection import Connection

READS = 16  # reads of a refused client's bytes in one turn
TOTAL = 30.0  # seconds that it may go on sending


class Linger:
    """Sends the last bytes and waits until the client has them: a close with bytes unread
    would send RST, which takes them away from it.

    Args:
        session: it is over but for this; `close` ends it
        reply: the last bytes
    """

    __slots__ = ("began", "session")

    def __init__(self, session: Connection, reply: bytes) -> None:
        plane = session.plane
        self.session = session
        self.began = plane.dispatcher.now
        plane.dispatcher.handlers[session.fd] = self.on_event
        try:
            if reply:
                session.sock.send(reply)
            session.sock.shutdown(SHUT_WR)
        except OSError:
            session.close(Reason.CLIENT_RESET)
            return
        self.on_event(END)

    def on_event(self, mask: int) -> None:
        """Throw away what the client still sends, until it ends or is quiet for a while."""
        session = self.session
        plane = session.plane
        if plane.dispatcher.now - self.began <= TOTAL:
            session.wait(plane.linger)
        for _ in range(READS):
            try:
                data = session.sock.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                session.close(Reason.CLOSED)
                return
        plane.dispatcher.again(self.go_on)

    def go_on(self) -> None:
        """Others had their turn."""
        if self.session.open:
            self.on_event(END)

    def wants(self, fd: int) -> int:
        """For the portable selector."""
        return IN

    def crash(self) -> None:
        """A handler raised: see dispatch.Owner."""
        self.session.crash()
