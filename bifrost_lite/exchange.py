"""Moving a request's body and its answer, both at the same time.

Bodies of known length, and those that end with the connection, go through the halves
(`relay.Half.left`); all else is read, translated and written here. What the bytes mean is the
business of `wire.exchange`, what becomes of the exchange that of `forward.Forward`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .dispatch import END, ERR, HUP, IN, OUT
from .errors import ProtocolError, Reason
from .relay import TURN, Half, read_size
from .wire.exchange import Answer, Upload
from .wire.http1 import Request

if TYPE_CHECKING:
    from .session import Session


class Exchange:
    """Owner of a session's halves while it exchanges messages; see `relay.HalfOwner`.

    Attributes:
        session: whose client it serves
        request: the one under way, None between two
        upload: its body
        answer: to it
        sending: the request's body has not all gone to the target
        again: the client's socket was ready while nothing was read from it
        queued: `_resume` is going to be called
    """

    __slots__ = ("again", "answer", "queued", "request", "sending", "session", "upload")

    session: Session
    request: Request | None
    upload: Upload
    answer: Answer
    sending: bool
    again: bool
    queued: bool

    # What becomes of it.

    def finish(self) -> None:
        """The answer is all with the client."""
        raise NotImplementedError

    def fault(self, reason: Reason, detail: str) -> None:
        """The exchange failed: try again, tell the client, or cut it off in mid-answer."""
        raise NotImplementedError

    def upgrade(self) -> None:
        """101 is with the client: from here on it is a tunnel."""
        raise NotImplementedError

    def drop_target(self, reason: Reason) -> None:
        """The target's connection is of no use any more."""
        raise NotImplementedError

    # Events.

    def on_client(self, mask: int) -> None:
        """The client's socket during an exchange."""
        up, down = self.session.up, self.session.down
        if up is None or down is None:
            return
        if mask & ~OUT:
            self.again = True  # the next request, or a FIN: read when this one is answered
        if mask & OUT and down.pend is not None and down.flush():
            self._pull_answer(END)
        if self.session.up is not up or not mask & ~OUT:
            return
        if up.pend is None and up.left:
            up.pump(mask)
        elif up.pend is None and self.sending and self.upload.chunked:
            self._pull_upload(mask)
        elif mask & (ERR | HUP):
            self.session.close(Reason.CLIENT_RESET)

    def on_target(self, mask: int) -> None:
        """The target's socket, during an exchange or while it is kept."""
        up, down = self.session.up, self.session.down
        if up is None or down is None:
            return
        if mask & OUT and up.pend is not None and up.flush():
            if up.left:
                up.pump(END)
            elif self.sending and self.upload.chunked:
                self._pull_upload(END)
        if self.session.down is not down or not mask & ~OUT:
            return
        if self.request is not None:
            if down.pend is None:
                self._pull_answer(mask)
            if not mask & END:
                return
            self.answer.keep_target = False  # for there will be no second event of this
        if self.request is None and self.session.down is down:
            self.drop_target(Reason.CLOSED)  # closed, or talking without being asked
            self.session.forget()

    def wants(self, fd: int) -> int:
        """For the portable selector."""
        up, down = self.session.up, self.session.down
        if up is None or down is None:
            return 0
        if fd == up.fd:
            reading = up.pend is None and (up.left or (self.sending and self.upload.chunked))
            return (IN if reading else 0) | (OUT if down.pend is not None else 0)
        return (IN if down.pend is None else 0) | (OUT if up.pend is not None else 0)

    def crash(self) -> None:
        """A handler raised: see dispatch.Owner."""
        self.session.close(Reason.INTERNAL)

    @property
    def open_ended(self) -> bool:
        """Only the end of its connection tells the client where the present answer ends."""
        if self.request is None or not self.answer.status or self.answer.done:
            return False
        return self.answer.until_close or not (self.answer.left or self.request.minor)

    # Moving what has to be translated.

    def _pull_upload(self, mask: int) -> None:
        """Read chunks from the client until it has no more or the target takes no more."""
        session, up, upload = self.session, self.session.up, self.upload
        assert up is not None
        size = read_size()
        for _ in range(TURN):
            if not self.sending or up.pend is not None:
                return
            try:
                data = up.sock.recv(size)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                session.close(Reason.CLIENT_RESET)
                return
            try:
                out = upload.feed(data)
            except ProtocolError as error:
                self.fault(error.reason, error.args[0])
                return
            if out:
                up.push(out)
            if session.up is not up:
                return
            if upload.done:
                session.buffer = upload.rest
                self.sending = up.pend is not None
                self.again = True  # as in half_moved
                return
            if len(data) < size and not mask & END:
                return
        self._go_on()

    def _pull_answer(self, mask: int) -> None:
        """Go on with the answer wherever it stands."""
        session, answer = self.session, self.answer
        down = session.down
        if down is None or down.pend is not None or self.request is None:
            return
        if down.left:
            down.pump(mask)
            return
        size = read_size()
        for _ in range(TURN):
            if session.down is not down or down.pend is not None:
                return
            try:
                data = down.sock.recv(size)
            except BlockingIOError:
                return
            except OSError as error:
                self.half_broken(down, True, error)
                return
            if not data:
                self._target_ended()
                return
            session.extra_received += len(data)
            begun, keep_client = answer.status, answer.keep_client
            if self.sending and not begun:
                answer.keep_client = False  # where the next request starts is not known
            try:
                out = answer.feed(data)
            except ProtocolError as error:
                answer.status = begun  # a head that came with this was not written
                self.fault(error.reason, error.args[0])
                return
            if answer.upstream and answer.status and not begun:
                session.way.answered()
            if not answer.status:
                answer.keep_client = keep_client  # nothing but interim answers so far
            if out:
                session.extra_received -= len(out)  # counted by the half as well
                down.push(out)
            if session.down is not down:
                return
            if answer.upgraded:
                self.upgrade()
                return
            if answer.left:
                down.left = answer.left
                down.resume()
                return
            if answer.done:
                if down.pend is None:
                    self.finish()
                return
            if len(data) < size and not mask & END:
                return
        self._go_on()

    def _go_on(self) -> None:
        """There may be more to move: after the others had their turn."""
        if not self.queued:
            self.queued = True
            self.session.plane.dispatcher.again(self._resume)

    def _resume(self) -> None:
        self.queued = False
        up = self.session.up
        if self.request is None or up is None:
            return
        if up.pend is None and self.sending and self.upload.chunked:
            self._pull_upload(END)
        self._pull_answer(END)

    # Ends and faults; see relay.HalfOwner.

    def half_moved(self, half: Half) -> None:
        """A body of known length, or what was kept of any, is through."""
        if half is self.session.up:
            if not self.upload.chunked or self.upload.done:
                self.sending = False
                self.again = True  # what follows the body makes no further event
        elif self.answer.done or (self.answer.left > 0 and not half.left):
            self.finish()

    def half_ended(self, half: Half) -> None:
        """FIN where a body was expected."""
        if half is self.session.up:
            self.session.close(Reason.CLIENT_RESET)
        else:
            self._target_ended()

    def half_broken(self, half: Half, reading: bool, error: OSError | None) -> None:
        """A socket failed."""
        session = self.session
        up = session.up
        if up is None or (half is up) == reading:
            session.close(Reason.CLIENT_RESET)
        elif half is up:
            # The target takes no more, but may have said why, or be saying it, before it closed.
            up.drop()
            self.upload.abandon()
            self._go_on()
        else:
            self.fault(Reason.TARGET_RESET, Reason.TARGET_RESET.text)

    def _target_ended(self) -> None:
        """The target sent FIN: the end of the answer, or too early."""
        if self.answer.until_close:
            self.finish()
        else:
            self.fault(Reason.TARGET_CLOSED, Reason.TARGET_CLOSED.text)
