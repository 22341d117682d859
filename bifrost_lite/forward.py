"""HTTP/1.1 between one client and the targets that its requests name, one at a time.

A request goes through

    begin -> (dial) -> connected -> head sent, body going up -> answer coming down
          -> finished -> begin ...

and answer and request body move at the same time, since a target may answer early. The
connection to the target stays for the client's next request to the same host, port and
backend and is closed before another one is made; it is never another client's.

What the bytes mean is the business of `wire.exchange`; here they are moved. Bodies of known
length, and those that end with the connection, go through the halves (`relay.Half.left`),
all else is read, translated and written here. The answer of a target that said too much, or
whose end is not certain, is the last on its connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .dispatch import END, ERR, HUP, IN, OUT, RDHUP
from .errors import ProtocolError, Reason
from .relay import TURN, Half, read_size
from .target import Target
from .tunnel import Tunnel
from .wire.exchange import Answer, Upload, host_field, repeatable, split_target
from .wire.http1 import Request, write_request

if TYPE_CHECKING:
    from .plane import Policy
    from .session import Session


class Forward:
    """The HTTP side of a session; owner of its halves while it exchanges messages.

    Attributes:
        session: whose client it serves
        target: where the present or last request goes
        request: the one under way, None between two
        upload: its body
        answer: to it
        absolute: another proxy may carry it in absolute-form
    """

    __slots__ = (
        "absolute", "again", "answer", "path", "queued", "received", "request", "reused", "rules",
        "sending", "sent", "session", "target", "upload", "url",
    )  # fmt: skip

    rules: Policy  # by which the target's connection was made
    upload: Upload
    answer: Answer

    def __init__(self, session: Session) -> None:
        self.session = session
        self.target: Target | None = None
        self.request: Request | None = None
        self.absolute = False
        self.path = b""
        self.url = ""
        self.sending = False  # the request's body has not all gone to the target
        self.reused = False  # the target's connection has carried a request before
        self.again = False  # the client's socket was ready while nothing was read from it
        self.queued = False  # `_resume` is going to be called
        self.sent = self.received = 0  # the session's counters when the request began

    # A request.

    def begin(self, request: Request) -> None:
        """Carry a request whose head is whole; early bytes of its body are in the session.

        Raises:
            ProtocolError: it is refused
        """
        session = self.session
        self.request = request
        self.url = ""
        self.upload = Upload(request)
        self.answer = Answer(request, session.policy.via)
        self.sent, self.received = session.bytes_sent, session.bytes_received
        target, self.path = split_target(request)
        self.url = host_field(target).decode() + self.path.partition(b"?")[0].decode("latin-1")
        # What switches protocols needs a tunnel: other proxies do not pass that on.
        absolute = not request.upgrade
        if session.up is not None:
            if (
                target == self.target
                and session.policy is self.rules
                and (absolute == self.absolute or not session.way.absolute)
            ):
                self.reused = True
                self.absolute = absolute  # if it has to be dialled for again
                session.wait(None)
                self.connected(0)
                return
            session.disconnect(Reason.CLOSED)
            self.sent = self.received = 0
        self.target = target
        self.absolute = absolute
        self._dial()

    def _dial(self) -> None:
        assert self.target is not None
        self.reused = False
        self.rules = self.session.policy
        self.session.reach(self.target)

    def connected(self, mask: int) -> None:
        """The path to the target stands: send the request's head and start its body.

        Args:
            mask: an event of the target's socket that came with the connection
        """
        session, request, upload = self.session, self.request, self.upload
        up, down = session.up, session.down
        assert up is not None and down is not None
        assert request is not None and self.target is not None
        handlers = session.plane.dispatcher.handlers
        handlers[up.fd] = self.on_client
        handlers[down.fd] = self.on_target
        host, path, authorization = host_field(self.target), self.path, b""
        # A request that is repeated may go another way than before.
        self.answer.upstream = absolute = self.absolute and session.way.absolute
        if absolute:
            path = b"http://" + host + (b"" if path == b"*" else path)  # RFC 9112 section 3.2.4
            authorization = session.way.authorization
        head = write_request(request, host, path, session.policy.via, authorization)
        self.again = self.again or bool(session.noticed)
        if session.buffer and not upload.done:
            early, session.buffer = session.buffer, b""
            try:
                head += upload.feed(early)
            except ProtocolError as error:
                self._fault(error.reason, error.args[0])
                return
            session.buffer = upload.rest
        up.left = upload.left
        self.sending = True
        up.push(head)
        if session.up is not up:
            return  # the target was gone, and that has been dealt with
        if up.pend is None:
            if upload.done:
                self.sending = False
            elif self.again or upload.chunked:
                self.on_client(IN | RDHUP)
        if mask & (IN | ERR | HUP) and session.down is down:
            self.on_target(mask & ~OUT)

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
            self._drop_target(Reason.CLOSED)  # closed, or talking without being asked
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
                self._fault(error.reason, error.args[0])
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
                self._fault(error.reason, error.args[0])
                return
            if not answer.status:
                answer.keep_client = keep_client  # nothing but interim answers so far
            if out:
                session.extra_received -= len(out)  # counted by the half as well
                down.push(out)
            if session.down is not down:
                return
            if answer.upgraded:
                self._upgrade()
                return
            if answer.left:
                down.left = answer.left
                down.resume()
                return
            if answer.done:
                if down.pend is None:
                    self._finish()
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

    def _upgrade(self) -> None:
        """101 is with the client: from here on it is a tunnel."""
        session = self.session
        up, down = session.up, session.down
        assert up is not None and down is not None
        if self.answer.rest:
            session.extra_received -= len(self.answer.rest)
            down.push(self.answer.rest)
            if session.down is not down:
                return
        self.record(101, None)
        session.forward = None
        up.owner = down.owner = tunnel = Tunnel(session)
        tunnel.start(END, END)

    def _finish(self) -> None:
        """The answer is all with the client."""
        session, answer = self.session, self.answer
        if self.request is None:
            return
        self.record(answer.status, None)
        if self.sending or not answer.keep_target:
            self._drop_target(Reason.CLOSED)
        if self.sending or (not answer.keep_client and (session.buffer or self.again)):
            session.linger(b"")
            return
        if not answer.keep_client:
            session.close(Reason.CLOSED)  # nothing is unread: the client gets it all
            return
        session.fall_silent()
        if session.buffer or self.again:
            # Not from here: a client that pipelines must not nest us ever deeper.
            session.plane.dispatcher.again(self._next)

    def _next(self) -> None:
        """The client has sent, or may have sent, its next request already."""
        session = self.session
        if not session.open or self.request is not None or session.forward is not self:
            return
        if session.buffer:
            session.expect_request()
            buffered, session.buffer = session.buffer, b""
            session.noticed = END if self.again else 0
            if session.feed(buffered):
                return
        if self.again:
            self.again = False
            session.on_request(END)

    # Ends and faults; see relay.HalfOwner.

    def half_moved(self, half: Half) -> None:
        """A body of known length, or what was kept of any, is through."""
        if half is self.session.up:
            if not self.upload.chunked or self.upload.done:
                self.sending = False
                self.again = True  # what follows the body makes no further event
        elif self.answer.done or (self.answer.left > 0 and not half.left):
            self._finish()

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
            self._fault(Reason.TARGET_RESET, Reason.TARGET_RESET.text)

    def _target_ended(self) -> None:
        """The target sent FIN: the end of the answer, or too early."""
        if self.answer.until_close:
            self._finish()
        else:
            self._fault(Reason.TARGET_CLOSED, Reason.TARGET_CLOSED.text)

    def _fault(self, reason: Reason, detail: str) -> None:
        """The exchange failed: try again, tell the client, or cut it off in mid-answer."""
        session, request, answer = self.session, self.request, self.answer
        if request is None or not session.open:
            return
        if reason is Reason.UPSTREAM_AUTH:
            session.way.failed(reason, session.host, True)
        if answer.status or (session.down is not None and session.down.pend):
            session.close(reason)
            return
        retry = (
            reason in (Reason.TARGET_CLOSED, Reason.TARGET_RESET)
            and self.reused
            and not answer.touched
            and repeatable(request)
        )
        self._drop_target(reason)
        if not retry:
            session.refuse(reason, detail)
            return
        self.upload = Upload(request)
        try:
            self._dial()
        except ProtocolError as error:
            session.refuse(error.reason, error.args[0])

    def on_idle(self) -> None:
        """Nothing moved for the idle timeout."""
        if self.request is not None and not self.answer.status:
            self._fault(Reason.RESPONSE_TIMEOUT, Reason.RESPONSE_TIMEOUT.text)
        else:
            self.session.close(Reason.IDLE_TIMEOUT)

    def _drop_target(self, reason: Reason) -> None:
        session = self.session
        self.sent -= session.bytes_sent
        self.received -= session.bytes_received
        session.disconnect(reason)

    def drop(self, reason: Reason) -> None:
        """The session ends."""
        if self.request is not None and not self.session.dialling:
            self.record(self.answer.status, reason)
        self.request = None
        self.session.disconnect(reason)

    def record(self, status: int, reason: Reason | None) -> None:
        """The request is over: one record of it."""
        request, session = self.request, self.session
        self.request = None
        session.plane.record(
            session,
            request.method.decode("ascii") if request is not None else "",
            self.url or session.host,
            status or None,
            max(0, session.bytes_sent - self.sent),
            max(0, session.bytes_received - self.received),
            reason,
        )
        self.url = ""
        self.sent, self.received = session.bytes_sent, session.bytes_received
