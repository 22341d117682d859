"""HTTP/1.1 between one client and the targets that its requests name, one at a time.

A request goes through

    begin -> (dial) -> connected -> head sent, body going up -> answer coming down
          -> finished -> begin ...

and answer and request body move at the same time, since a target may answer early. The
connection to the target stays for the client's next request to the same host, port and
backend and is closed before another one is made; it is never another client's.

What the bytes mean is the business of `wire.exchange`, and `exchange` moves them. The answer
of a target that said too much, or whose end is not certain, is the last on its connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .dispatch import END, ERR, HUP, IN, OUT, RDHUP
from .errors import ProtocolError, Reason
from .exchange import Exchange
from .target import Target
from .tunnel import Tunnel
from .wire.exchange import Answer, Upload, host_field, repeatable, split_target
from .wire.http1 import Request, write_request

if TYPE_CHECKING:
    from .plane import Policy
    from .session import Session


class Forward(Exchange):
    """The HTTP side of a session.

    Attributes:
        target: where the present or last request goes
        absolute: another proxy may carry it in absolute-form
    """

    __slots__ = ("absolute", "path", "received", "reused", "rules", "sent", "target", "url")

    rules: Policy  # by which the target's connection was made

    def __init__(self, session: Session) -> None:
        self.session = session
        self.target: Target | None = None
        self.request: Request | None = None
        self.absolute = False
        self.path = b""
        self.url = ""
        self.sending = False
        self.reused = False  # the target's connection has carried a request before
        self.again = False
        self.queued = False
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
                self.fault(error.reason, error.args[0])
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

    # Its end.

    def finish(self) -> None:
        """The answer is all with the client."""
        session, answer = self.session, self.answer
        if self.request is None:
            return
        self.record(answer.status, None)
        if self.sending or not answer.keep_target:
            self.drop_target(Reason.CLOSED)
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

    def upgrade(self) -> None:
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

    def fault(self, reason: Reason, detail: str) -> None:
        """The exchange failed: try again, tell the client, or cut it off in mid-answer."""
        session, request, answer = self.session, self.request, self.answer
        if request is None or not session.open:
            return
        mute = (
            reason in (Reason.TARGET_CLOSED, Reason.TARGET_RESET)
            and not answer.touched
            and repeatable(request)
        )
        if mute and answer.upstream and not self.reused:  # if it worked, it would tell why
            reason, detail = Reason.UPSTREAM_FAILED, Reason.UPSTREAM_FAILED.text
        if reason in (Reason.UPSTREAM_AUTH, Reason.UPSTREAM_FAILED):
            session.way.failed(reason, session.host, True)
        if answer.status or (session.down is not None and session.down.pend):
            session.close(reason)
            return
        self.drop_target(reason)
        if not (mute and self.reused):
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
            self.fault(Reason.RESPONSE_TIMEOUT, Reason.RESPONSE_TIMEOUT.text)
        else:
            self.session.close(Reason.IDLE_TIMEOUT)

    def drop_target(self, reason: Reason) -> None:
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
