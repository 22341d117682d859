"""What a client says until its request is whole: bytes in, a request out.

One port takes HTTP, SOCKS5 and SOCKS4; the first byte decides. A client may send one byte
at a time, or its request and the first of its payload at once.
"""

from __future__ import annotations

from ..errors import ProtocolError, Reason
from ..target import Target, parse_authority
from . import http1, socks

SOCKS5_NO_AUTHENTICATION = b"\x05\x00"


class Intake:
    """Reads requests of one client.

    Args:
        pinned: auto, http or socks: what is taken

    Attributes:
        buffer: what came and is not read yet; behind a whole request, the first of its payload
        protocol: HTTP, CONNECT, SOCKS5 or SOCKS4; "" before the first byte
        greeted: the SOCKS5 greeting was answered
    """

    __slots__ = ("buffer", "greeted", "pinned", "protocol")

    def __init__(self, pinned: str) -> None:
        self.pinned = pinned
        self.buffer = b""
        self.protocol = ""
        self.greeted = False

    def read(self) -> Target | http1.Request | bytes | None:
        """Go on with what is in the buffer.

        Returns:
            the target of a whole CONNECT or SOCKS request; the head of a whole HTTP request;
            bytes to answer, after which to call again; or None where more is needed

        Raises:
            ProtocolError: this is no request that can be served
        """
        if not self.protocol:
            self._sniff()
        if self.protocol == "SOCKS5":
            return self._read_socks5()
        if self.protocol == "SOCKS4":
            asked = socks.read_request4(self.buffer)
            if asked is None:
                return None
            self.buffer = self.buffer[asked[1] :]
            return asked[0]
        return self._read_http()

    def _sniff(self) -> None:
        """The first byte tells the protocol."""
        first = self.buffer[0]
        if first in (4, 5):
            protocol, kind = ("SOCKS5" if first == 5 else "SOCKS4"), "socks"
        elif self.buffer[:1].isalpha() or first in b"\r\n":
            protocol, kind = "HTTP", "http"
        else:
            raise ProtocolError(Reason.BAD_REQUEST, "this is neither HTTP nor SOCKS")
        if self.pinned not in ("auto", kind):
            raise ProtocolError(
                Reason.BAD_REQUEST, f"this listener speaks {self.pinned.upper()} only"
            )
        self.protocol = protocol

    def _read_socks5(self) -> Target | bytes | None:
        if not self.greeted:
            greeting = socks.read_greeting(self.buffer)
            if greeting is None:
                return None
            if socks.NO_AUTHENTICATION not in greeting[0]:
                raise ProtocolError(Reason.NO_METHOD, "no SOCKS method offered is taken here")
            self.greeted = True
            self.buffer = self.buffer[greeting[1] :]
            return SOCKS5_NO_AUTHENTICATION
        asked = socks.read_request(self.buffer)
        if asked is None:
            return None
        self.buffer = self.buffer[asked[2] :]
        return asked[1]

    def _read_http(self) -> Target | http1.Request | None:
        end = http1.find_head_end(self.buffer)
        if end < 0:
            return None
        request = http1.parse_request(self.buffer[:end])
        self.buffer = self.buffer[end:]
        if request.method != b"CONNECT":
            self.protocol = "HTTP"
            return request
        self.protocol = "CONNECT"
        if request.chunked or request.content_length:
            raise ProtocolError(Reason.BAD_REQUEST, "CONNECT has no body")
        return parse_authority(request.target, None)

    def rejection(self, reason: Reason, detail: str, body: bool = True) -> bytes:
        """What tells the client no, in its own protocol.

        Args:
            reason: the outcome
            detail: one sentence for a person; HTTP only
            body: False for the answer to HEAD
        """
        if self.protocol == "SOCKS5":
            return socks.reply(reason) if self.greeted else b"\x05\xff"
        if self.protocol == "SOCKS4":
            return socks.REJECTED4
        return _error_page(reason, detail, body)

    def grant(self) -> bytes:
        """What tells the client of a CONNECT or SOCKS request that its tunnel stands."""
        if self.protocol == "CONNECT":
            return b"HTTP/1.1 200 Connection established\r\n\r\n"
        return socks.reply(None) if self.protocol == "SOCKS5" else socks.GRANTED4


def _error_page(reason: Reason, detail: str, with_body: bool) -> bytes:
    """A short plain page for a person, and the reason's word for a program."""
    body = f"{reason.status} {reason.word}\n{detail}\n".encode()
    retry = b"Retry-After: 5\r\n" if reason.status == 503 else b""
    return (
        b"HTTP/1.1 %d %b\r\nContent-Type: text/plain; charset=utf-8\r\n"
        b"Content-Length: %d\r\nConnection: close\r\nCache-Control: no-store\r\n"
        b"X-Bifrost-Reason: %b\r\n%b\r\n%b"
    ) % (
        reason.status,
        _PHRASES.get(reason.status, b"Error"),
        len(body),
        reason.word.encode(),
        retry,
        body if with_body else b"",
    )


_PHRASES = {
    400: b"Bad Request",
    403: b"Forbidden",
    408: b"Request Timeout",
    414: b"URI Too Long",
    417: b"Expectation Failed",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
}
