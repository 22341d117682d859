"""One HTTP exchange through a proxy, as bytes: what comes in, what goes out.

`split_target` reads where a request goes, `Upload` translates its body, `Answer` translates
what the target says. Bodies of known length are left to whoever moves bytes fastest: `left`
says how many it may move past these objects.
"""

from __future__ import annotations

import re

from ..errors import ProtocolError, Reason
from ..target import Target, parse_authority
from . import chunked, http1
from .http1 import Request, Response

_IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))
_absolute = re.compile(rb"http://([^/?#]+)(.*)", re.I | re.S).fullmatch


def split_target(request: Request) -> tuple[Target, bytes]:
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


def host_field(target: Target) -> bytes:
    """The Host field of a request to `target`; port 80 stays unnamed."""
    return (target.text[:-3] if target.port == 80 else target.text).encode()


def repeatable(request: Request) -> bool:
    """Whether a request may be sent once more when a kept connection turns out dead: it has
    no body, and twice does what once does (RFC 9110 section 9.2.2)."""
    return not (request.chunked or request.content_length) and request.method in _IDEMPOTENT


class Upload:
    """The body of a request on its way to the target.

    Attributes:
        left: bytes of a body of known length that may be moved as they are
        done: all of it has been fed
        rest: what came behind it
    """

    __slots__ = ("_decoder", "done", "left", "rest")

    def __init__(self, request: Request) -> None:
        self._decoder = chunked.Decoder(Reason.BAD_REQUEST) if request.chunked else None
        self.left = request.content_length or 0
        self.done = not self.left and self._decoder is None
        self.rest = b""

    @property
    def chunked(self) -> bool:
        """The body must be fed to the end: it has no length."""
        return self._decoder is not None

    def abandon(self) -> None:
        """The target takes no more of it: nothing is done and nothing more is fed."""
        self._decoder = None
        self.left = 0
        self.done = False

    def feed(self, data: bytes) -> bytes:
        """Take bytes from the client; answers those for the target.

        Raises:
            ProtocolError: the chunks are broken
        """
        decoder = self._decoder
        if decoder is None:
            body, self.rest = data[: self.left], data[self.left :]
            self.left -= len(body)
            self.done = not self.left
            return body
        payload = decoder.feed(data)
        if not decoder.done:
            return chunked.encode(payload)
        self.done = True
        self.rest = decoder.rest
        return chunked.encode(payload) + chunked.LAST


class Answer:
    """What a target says to one request, translated for the client.

    Args:
        request: what is answered
        via: add Via fields

    Attributes:
        status: of the final head, 0 before that is whole
        left: bytes of the body that may be moved as they are, -1 for all until the target
            closes, 0 where everything must be fed
        done: the whole answer has been fed
        upgraded: the target switched protocols; `rest` belongs to the new one
        keep_target: the target's connection can carry another request
        keep_client: the client's can; set it to False before the head to close it
        touched: bytes of the answer have come
        rest: what came behind the answer
        upstream: another proxy answers, which may ask us to log in
    """

    __slots__ = (
        "_decoder", "_head", "_request", "_via", "done", "keep_client", "keep_target", "left",
        "rest", "status", "touched", "upgraded", "upstream",
    )  # fmt: skip

    def __init__(self, request: Request, via: bool) -> None:
        self._request = request
        self._via = via
        self._head = b""
        self._decoder: chunked.Decoder | None = None
        self.status = 0
        self.left = 0
        self.done = self.upgraded = self.touched = False
        self.keep_target = False
        # A proxy keeps no connection to an HTTP/1.0 client, RFC 9112 section 9.3.
        self.keep_client = request.keep_alive and request.minor == 1
        self.rest = b""
        self.upstream = False

    @property
    def until_close(self) -> bool:
        """The end of the target's stream is the end of the answer, and no fault."""
        return self.left < 0

    def feed(self, data: bytes) -> bytes:
        """Take bytes from the target; answers those for the client.

        Raises:
            ProtocolError: BAD_RESPONSE, or UPSTREAM_AUTH
        """
        self.touched = True
        if self.status:
            return self._chunks(data)
        seen = len(self._head)
        self._head += data
        out = b""
        while True:
            end = http1.find_response_end(self._head, seen)
            if end < 0:
                return out
            seen = 0
            response = http1.parse_response(self._head[:end], self._request.method)
            rest, self._head = self._head[end:], b""
            if response.status == 101:
                return out + self._upgrade(response, rest)
            if response.status >= 200:
                return out + self._final(response, rest)
            if self._request.minor:  # RFC 9110 section 15.2: not for HTTP/1.0 clients
                out += http1.write_response(response, b"", b"", self._via)
            self._head = rest

    def _upgrade(self, response: Response, rest: bytes) -> bytes:
        """101: what follows is another protocol, RFC 9110 section 7.8."""
        if b"upgrade" not in self._request.options or not self._request.upgrade:
            raise http1.bad("the target switches protocols unasked", Reason.BAD_RESPONSE)
        self.status = response.status
        self.upgraded = True
        self.rest = rest
        return http1.write_response(response, b"upgrade", b"", self._via)

    def _final(self, response: Response, rest: bytes) -> bytes:
        """The head of the answer proper, and the first of its body."""
        request = self._request
        if self.upstream and response.status == 407:  # is about us, and not for the client
            raise ProtocolError(Reason.UPSTREAM_AUTH, Reason.UPSTREAM_AUTH.text)
        framing = b""
        self.keep_target = response.keep_alive
        if response.chunked:
            self._decoder = chunked.Decoder(Reason.BAD_RESPONSE)
            if request.minor:
                framing = b"Transfer-Encoding: %b\r\n" % response.encoding
            elif response.encoding != b"chunked":
                raise http1.bad("the answer's coding is not for HTTP/1.0", Reason.BAD_RESPONSE)
            else:
                self.keep_client = False
        elif response.length is None:
            self.left = -1
            self.keep_client = self.keep_target = False
        elif response.announced is not None and response.status != 204:
            framing = b"Content-Length: %d\r\n" % response.announced
        connection = b"" if self.keep_client else b"close"
        head = http1.write_response(response, connection, framing, self._via)
        self.status = response.status
        if response.chunked:
            return head + self._chunks(rest)
        if response.length is None:
            return head + rest
        body = rest[: response.length]
        self.left = response.length - len(body)
        self.done = not self.left
        if len(rest) > len(body):
            self.keep_target = False  # bytes nobody asked for: nothing after them is trusted
        return head + body

    def _chunks(self, data: bytes) -> bytes:
        decoder = self._decoder
        assert decoder is not None
        payload = decoder.feed(data)
        if decoder.done:
            self.done = True
            if decoder.rest:
                self.keep_target = False
        if not self._request.minor:
            return payload
        return chunked.encode(payload) + (chunked.LAST if self.done else b"")
