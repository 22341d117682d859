"""HTTP/1.1 between one client and the targets that its requests name, one at a time.

A request goes through

    begin -> (dial) -> connected -> head sent, body going up -> answer's head read
          -> answer's body going down -> finished -> begin ...

and answer and request body move at the same time, since a target may answer early. The
connection to the target stays for the client's next request to the same host, port and
backend and is closed before another one is made; it is never another client's.

Bodies of known length, and those that end with the connection, move in the halves
(`relay.Half.left`). Chunked bodies are decoded and encoded anew here. Heads are always
written anew (`wire.http1`). The answer of a target that said too much, or whose end is not
certain, is the last on its connection.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .dispatch import END, ERR, HUP, IN, OUT
from .errors import ProtocolError, Reason
from .relay import Half
from .target import Target, parse_authority
from .wire import chunked, http1

if TYPE_CHECKING:
    from .session import Session

READ_SIZE = 64 * 1024
_absolute = re.compile(rb"http://([^/?#]+)(.*)", re.I | re.S).fullmatch
# Methods that may be sent once more when a kept connection turns out dead, RFC 9110 9.2.2.
_IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))


class Forward:
    """The HTTP side of a session; owner of its halves while it exchanges messages.

    Attributes:
        session: whose client it serves
        target: where the present or last request goes
        request: the one under way, None between two
        response: its answer's head, None before that is whole
    """

    __slots__ = (
        "again", "answer", "began", "download", "head", "keep_target", "noticed", "path",
        "received", "request", "response", "reused", "sending", "sent", "session", "status",
        "target", "upload", "url",
    )  # fmt: skip

    def __init__(self, session: Session) -> None:
        self.session = session
        self.target: Target | None = None
        self.request: http1.Request | None = None
        self.response: http1.Response | None = None
        self.path = b""
        self.url = ""
        self.status = 0
        self.began = 0.0
        self.head = b""  # bytes of the answer's head so far
        self.upload: chunked.Decoder | None = None
        self.download: chunked.Decoder | None = None
        self.sending = False  # the request's body is not all sent
        self.reused = False  # the target's connection has carried a request before
        self.again = False  # the client's socket was ready while nothing was read from it
        self.keep_target = False
        self.noticed = 0
        self.sent = self.received = 0  # the session's counters when the request began

    # A request.

    def begin(self, request: http1.Request) -> None:
        """Carry a request whose head is whole; early bytes of its body are in the session.

        Raises:
            ProtocolError: it is refused
        """
        session = self.session
        self.began = session.plane.dispatcher.now
        self.request = request
        self.response = None
        self.status = 0
        self.head = b""
        self.url = ""
        self.sent, self.received = session.bytes_sent, session.bytes_received
        target, self.path = _split_target(request)
        self.url = target.text + self.path.partition(b"?")[0].decode("latin-1")
        if session.up is not None:
            if target == self.target:
                self.reused = True
                session.wait(None)
                self.connected(0)
                return
            session.disconnect(Reason.CLOSED)
            self.sent = self.received = 0
        self.target = target
        self._dial()

    def _dial(self) -> None:
        assert self.target is not None
        self.reused = False
        self.session.reach(self.target)

    def connected(self, mask: int) -> None:
        """The path to the target stands: send the request's head and start its body."""
        session, request = self.session, self.request
        up, down = session.up, session.down
        assert up is not None and down is not None and request is not None
        handlers = session.plane.dispatcher.handlers
        handlers[up.fd] = self.on_client
        handlers[down.fd] = self.on_target
        head = http1.write_request(
            request, _host_field(self.target), self.path, session.policy.via
        )
        body, session.buffer = session.buffer, b""
        self.upload = None
        self.sending = True
        self.again = bool(session.noticed)
        if request.chunked:
            self.upload = chunked.Decoder(Reason.BAD_REQUEST)
            up.left = 0
            try:
                head += self._encoded_upload(body)
            except ProtocolError as error:
                session.refuse(error.reason, error.args[0])
                return
        else:
            length = request.content_length or 0
            head += body[:length]
            session.buffer = body[length:]
            up.left = max(0, length - len(body))
        up.push(head)
        if session.up is not up:
            return  # the target was gone, and that has been dealt with
        if up.pend is None and not up.left and (self.upload is None or self.upload.done):
            self.sending = False
        elif up.pend is None and (self.again or self.upload is not None):
            self.on_client(IN | END)
        if mask & (IN | ERR | HUP) and session.down is down:
            self.on_target(mask & ~OUT)

    def _encoded_upload(self, data: bytes) -> bytes:
        """Chunks that arrived, as the chunks that the target gets."""
        upload = self.upload
        assert upload is not None
        payload = upload.feed(data)
        if upload.done:
            self.session.buffer = upload.rest
            return chunked.encode(payload) + chunked.LAST
        return chunked.encode(payload)

    # Events.

    def on_client(self, mask: int) -> None:
        """The client's socket during an exchange."""
        up, down = self.session.up, self.session.down
        if up is None or down is None:
            return
        if mask & OUT and down.pend is not None and down.flush():
            self._pull_answer(END)
        if self.session.up is not up or not mask & ~OUT:
            return
        if up.pend is None and up.left:
            up.pump(mask)
        elif up.pend is None and self.sending and self.upload is not None:
            self._pull_upload(mask)
        elif mask & (ERR | HUP):
            self.session.close(Reason.CLIENT_RESET)
        else:
            self.again = True  # the next request, or a FIN: read when this one is answered

    def on_target(self, mask: int) -> None:
        """The target's socket, during an exchange or while it is kept."""
        up, down = self.session.up, self.session.down
        if up is None or down is None:
            return
        if mask & OUT and up.pend is not None and up.flush():
            if up.left:
                up.pump(END)
            elif self.upload is not None and self.sending:
                self._pull_upload(END)
        if self.session.down is not down or not mask & ~OUT or down.pend is not None:
            return
        if self.request is not None:
            self._pull_answer(mask)
            if not mask & END:
                return
        if self.request is None and self.session.down is down:
            self._drop_target(Reason.CLOSED)  # closed, or talking without being asked

    def wants(self, fd: int) -> int:
        """For the portable selector."""
        up, down = self.session.up, self.session.down
        if up is None or down is None:
            return 0
        if fd == up.fd:
            reading = up.pend is None and bool(up.left or (self.sending and self.upload))
            return (IN if reading else 0) | (OUT if down.pend is not None else 0)
        return (IN if down.pend is None else 0) | (OUT if up.pend is not None else 0)

    def crash(self) -> None:
        """A handler raised: see dispatch.Owner."""
        self.session.close(Reason.INTERNAL)

    # The request's body.

    def _pull_upload(self, mask: int) -> None:
        """Read chunks from the client until it has no more or the target takes no more."""
        session, up = self.session, self.session.up
        assert up is not None
        while self.sending and up.pend is None:
            try:
                data = up.sock.recv(READ_SIZE)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                session.close(Reason.CLIENT_RESET)
                return
            try:
                encoded = self._encoded_upload(data)
            except ProtocolError as error:
                self._fault(error.reason, error.args[0])
                return
            if encoded:
                up.push(encoded)
            if session.up is not up:
                return
            if self.upload is not None and self.upload.done:
                self.sending = up.pend is not None
                return
            if len(data) < READ_SIZE and not mask & END:
                return

    # The answer.

    def _pull_answer(self, mask: int) -> None:
        """Go on with the answer wherever it stands."""
        session = self.session
        down = session.down
        if down is None or down.pend is not None or self.request is None:
            return
        if down.left:
            down.pump(mask)
            return
        while session.down is down and down.pend is None and self.request is not None:
            try:
                data = down.sock.recv(READ_SIZE)
            except BlockingIOError:
                return
            except OSError as error:
                self.half_broken(down, True, error)
                return
            if not data:
                self._target_ended()
                return
            session.extra_received += len(data)
            try:
                if self.response is None:
                    self._take_head(data)
                else:
                    self._take_chunks(data)
            except ProtocolError as error:
                self._fault(error.reason, error.args[0])
                return
            if self.response is not None and self.download is None:
                down.resume()  # a body without chunks is the half's business
                return
            if len(data) < READ_SIZE and not mask & END:
                return

    def _write_down(self, data: bytes) -> None:
        """Send to the client what was read here and not in the half: counted already."""
        down = self.session.down
        if down is not None and data:
            self.session.extra_received -= len(data)
            down.push(data)

    def _take_head(self, data: bytes) -> None:
        """Bytes of the answer's head, perhaps with interim answers before it."""
        session, request = self.session, self.request
        self.head += data
        while True:
            end = http1.find_response_end(self.head)
            if end < 0:
                return
            assert request is not None
            response = http1.parse_response(self.head[:end], request.method)
            rest, self.head = self.head[end:], b""
            if response.status >= 200 or response.status == 101:
                break
            if request.minor:  # interim answers are for HTTP/1.1 only, RFC 9110 section 15.2
                self._write_down(http1.write_response(response, b"", b"", session.policy.via))
            self.head = rest
            if self.request is None:
                return  # the client is gone
        self.response = response
        self.status = response.status
        if response.status == 101:
            self._upgrade(response, rest)
            return
        self._start_answer(response, rest)

    def _start_answer(self, response: http1.Response, rest: bytes) -> None:
        """The final head is here: write it, and what came of its body."""
        session, request = self.session, self.request
        down = session.down
        assert request is not None and down is not None
        framing = b""
        ends_with_close = False
        self.download = None
        self.keep_target = response.keep_alive
        if response.chunked:
            self.download = chunked.Decoder(Reason.BAD_RESPONSE)
            if request.minor:
                framing = b"Transfer-Encoding: %b\r\n" % response.encoding
            elif response.encoding != b"chunked":
                raise http1.bad("the answer's coding is not for HTTP/1.0", Reason.BAD_RESPONSE)
            else:
                ends_with_close = True
        elif response.length is None:
            ends_with_close = True
            self.keep_target = False
        elif response.announced is not None and response.status != 204:
            framing = b"Content-Length: %d\r\n" % response.announced
        if ends_with_close or self.sending:
            request.keep_alive = False
        connection = b""
        if not request.keep_alive:
            connection = b"close"
        elif not request.minor:
            connection = b"keep-alive"
        head = http1.write_response(response, connection, framing, session.policy.via)
        if self.download is not None:
            self._take_chunks(rest, head)
            return
        length = response.length
        if length is None:
            down.left = -1
        else:
            body, rest = rest[:length], rest[length:]
            down.left = length - len(body)
            if rest:
                self.keep_target = False  # bytes nobody asked for: nothing after them is trusted
            rest = body
        self._write_down(head + rest)
        if session.down is down and not down.left and down.pend is None:
            self._finish()

    def _take_chunks(self, data: bytes, head: bytes = b"") -> None:
        """Bytes of a chunked answer; `head` goes out before them."""
        download, request = self.download, self.request
        assert download is not None and request is not None
        payload = download.feed(data)
        if not request.minor:
            out = payload
        elif download.done:
            out = chunked.encode(payload) + chunked.LAST
        else:
            out = chunked.encode(payload)
        if download.done and download.rest:
            self.keep_target = False
        self._write_down(head + out)
        down = self.session.down
        if download.done and down is not None and down.pend is None:
            self._finish()

    def _upgrade(self, response: http1.Response, rest: bytes) -> None:
        """101: from here on it is a tunnel, RFC 9110 section 7.8."""
        session, request = self.session, self.request
        up, down = session.up, session.down
        assert request is not None and up is not None and down is not None
        if b"upgrade" not in request.options or self.sending:
            raise http1.bad("the target switches protocols unasked", Reason.BAD_RESPONSE)
        self._write_down(http1.write_response(response, b"upgrade", b"", session.policy.via) + rest)
        if session.down is not down:
            return
        up.owner = down.owner = session
        self.record(101, None)
        session.forward = None
        session.tunnel(END, END)

    def _finish(self) -> None:
        """The answer is all with the client."""
        session, request, response = self.session, self.request, self.response
        if request is None or response is None:
            return
        self.record(self.status, None)
        self.request = None
        self.download = self.upload = None
        if self.sending or not self.keep_target:
            self._drop_target(Reason.CLOSED)
        if self.sending or not request.keep_alive:
            session.linger(b"")
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
        session.expect_request()
        if session.buffer:
            buffered, session.buffer = session.buffer, b""
            session.noticed = END if self.again else 0
            if session.feed(buffered):
                return
        if self.again:
            self.again = False
            session.on_request(END)
        if session.open and session.forward is self and self.request is None and not session.buffer:
            session.fall_silent()

    # Ends and faults; see relay.HalfOwner.

    def half_moved(self, half: Half) -> None:
        """A body of known length, or what was kept of any, is through."""
        if half is self.session.up:
            if self.upload is None or self.upload.done:
                self.sending = False
        elif self.response is not None and (self.download is None or self.download.done):
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
        if (half is session.up) == reading:
            session.close(Reason.CLIENT_RESET)
            return
        up, down = session.up, session.down
        if not reading and up is not None and down is not None and self.response is None:
            # The target takes no more, but may have said why before it closed.
            up.drop()
            self.sending = True
            self.upload = None
            handlers = session.plane.dispatcher.handlers
            handlers[down.fd] = self.on_target
            session.plane.dispatcher.again(self._last_words)
            return
        self._fault(Reason.TARGET_RESET, Reason.TARGET_RESET.text)

    def _last_words(self) -> None:
        """Read the answer of a target that stopped reading."""
        if self.request is not None and self.session.down is not None:
            self._pull_answer(END)

    def _target_ended(self) -> None:
        """The target sent FIN: the end of the answer, or too early."""
        response = self.response
        if response is not None and response.length is None and not response.chunked:
            self._finish()
            return
        self._fault(Reason.TARGET_CLOSED, Reason.TARGET_CLOSED.text)

    def _fault(self, reason: Reason, detail: str) -> None:
        """The exchange failed: try again, tell the client, or cut it off in mid-answer."""
        session, request = self.session, self.request
        if request is None or not session.open:
            return
        target_failed = reason in (Reason.TARGET_CLOSED, Reason.TARGET_RESET)
        if self.response is not None or (session.down is not None and session.down.pend):
            session.close(reason)
            return
        untouched = not self.head and not request.chunked and not request.content_length
        self._drop_target(reason)
        if target_failed and self.reused and untouched and request.method in _IDEMPOTENT:
            try:
                self._dial()
            except ProtocolError as error:
                session.refuse(error.reason, error.args[0])
            return
        session.refuse(reason, detail)

    def on_idle(self) -> None:
        """Nothing moved for the idle timeout."""
        if self.request is not None and self.response is None:
            self._fault(Reason.RESPONSE_TIMEOUT, Reason.RESPONSE_TIMEOUT.text)
        else:
            self.session.close(Reason.IDLE_TIMEOUT)

    def _drop_target(self, reason: Reason) -> None:
        session = self.session
        self.sent -= session.bytes_sent
        self.received -= session.bytes_received
        session.disconnect(reason)

    def drop(self, reason: Reason) -> None:
        """The session ends, or leaves HTTP."""
        if self.request is not None and not self.session.dialling:
            self.record(self.status, reason)
        self.request = None
        self.session.disconnect(reason)

    def record(self, status: int, reason: Reason | None) -> None:
        """The request is over: one record of it."""
        request, session = self.request, self.session
        self.request = None
        session.plane.record(
            session,
            request.method.decode("ascii") if request is not None else "?",
            self.url or session.host,
            status or None,
            self.began,
            max(0, session.bytes_sent - self.sent),
            max(0, session.bytes_received - self.received),
            reason,
        )


def _split_target(request: http1.Request) -> tuple[Target, bytes]:
    """Target and origin-form path of a request to a proxy, RFC 9112 section 3.2.2.

    Raises:
        ProtocolError: not an absolute http:// target
    """
    match = _absolute(request.target)
    if match is None:
        if b"://" in request.target[:32] and request.target[:5].lower() != b"http:":
            raise ProtocolError(Reason.UNSUPPORTED_SCHEME, Reason.UNSUPPORTED_SCHEME.text)
        raise ProtocolError(Reason.NOT_A_PROXY_REQUEST, Reason.NOT_A_PROXY_REQUEST.text)
    authority, path = match.groups()
    if b"#" in request.target:
        raise http1.bad("the request target has a fragment")
    if b"@" in authority:
        raise http1.bad("the request target has user information")
    if path[:1] != b"/":
        path = b"*" if request.method == b"OPTIONS" and not path else b"/" + path
    return parse_authority(authority, 80), path


def _host_field(target: Target | None) -> bytes:
    """The Host field of a request to `target`; port 80 stays unnamed."""
    assert target is not None
    text = target.text
    return (text[:-3] if target.port == 80 else text).encode()
