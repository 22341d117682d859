"""What a client says until its request is whole: bytes in, a request out.

One port takes HTTP, SOCKS5 and SOCKS4; the first byte decides. A client may send one byte
at a time, or its request and the first of its payload at once.

Where clients have to log in, the credentials come out first. SOCKS5 sends them before its
request (RFC 1929), HTTP with each request (RFC 7617), SOCKS4 has none and is refused.
"""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from typing import NamedTuple

from ..errors import ProtocolError, Reason
from ..target import Target, parse_authority
from . import http1, socks

SOCKS5_NO_AUTHENTICATION = b"\x05\x00"
SOCKS5_USER_AND_PASSWORD = b"\x05\x02"

_find_authorization = re.compile(rb"(?im)^proxy-authorization:([^\r\n]*)\r\n").findall
_has_control = re.compile(rb"[\x00-\x1f\x7f]").search


class Login(NamedTuple):
    """Who a client says it is: 1 to 255 bytes each, as in SOCKS (RFC 1929 section 2)."""

    name: bytes
    password: bytes


class Intake:
    """Reads requests of one client.

    Args:
        pinned: auto, http or socks: what is taken

    Attributes:
        buffer: what came and is not read yet; behind a whole request, the first of its payload
        protocol: HTTP, CONNECT, SOCKS5 or SOCKS4; "" before the first byte
        greeted: the SOCKS5 greeting was answered
        login: the client has to log in; may be set before the first byte of each request
        proved: the HTTP credentials that were right before; b"" makes the client prove them
            again with its next request
    """

    __slots__ = ("_pending", "buffer", "greeted", "login", "pinned", "protocol", "proved")

    def __init__(self, pinned: str) -> None:
        self.pinned = pinned
        self.buffer = b""
        self.protocol = ""
        self.greeted = False
        self.login = False
        self.proved = b""
        # The HTTP request that waits for its login, and the value of its credentials.
        self._pending: tuple[http1.Request, bytes] | None = None

    def read(self) -> Target | http1.Request | Login | socks.Associate | bytes | None:
        """Go on with what is in the buffer.

        Returns:
            the target of a whole CONNECT or SOCKS request, or the whole UDP ASSOCIATE; the head
            of a whole HTTP request; credentials, after which to call `admitted` or `rejection`;
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
            if self.login:
                raise ProtocolError(Reason.AUTH_REQUIRED, "SOCKS4 has no passwords; use SOCKS5")
            self.buffer = self.buffer[asked[1] :]
            return asked[0]
        return self._read_http()

    def admitted(self) -> bytes:
        """The credentials are right: what to answer, b"" for nothing; then call `read`, be
        there more in the buffer or not."""
        if self._pending is not None:
            self.proved = self._pending[1]
            return b""
        self.login = False  # SOCKS asks once
        return socks.LOGGED_IN

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

    def _read_socks5(self) -> Target | Login | socks.Associate | bytes | None:
        if not self.greeted:
            greeting = socks.read_greeting(self.buffer)
            if greeting is None:
                return None
            if self.login:
                if socks.USER_AND_PASSWORD not in greeting[0]:
                    raise ProtocolError(Reason.AUTH_REQUIRED, Reason.AUTH_REQUIRED.text)
            elif socks.NO_AUTHENTICATION not in greeting[0]:
                raise ProtocolError(Reason.NO_METHOD, "no SOCKS method offered is taken here")
            self.greeted = True
            self.buffer = self.buffer[greeting[1] :]
            return SOCKS5_USER_AND_PASSWORD if self.login else SOCKS5_NO_AUTHENTICATION
        if self.login:
            login = socks.read_login(self.buffer)
            if login is None:
                return None
            self.buffer = self.buffer[login[2] :]
            return Login(login[0], login[1])
        asked = socks.read_request(self.buffer)
        if asked is None:
            return None
        self.buffer = self.buffer[asked[2] :]
        return asked[1]

    def _read_http(self) -> Target | http1.Request | Login | None:
        if self._pending is None:
            end = http1.find_head_end(self.buffer)
            if end < 0:
                return None
            request = http1.parse_request(self.buffer[:end])
            self.buffer = self.buffer[end:]
            self.protocol = "CONNECT" if request.method == b"CONNECT" else "HTTP"
            if self.login:
                values = _find_authorization(request.block)
                value = values[0].strip(b" \t") if values else b""
                if not self.proved or len(values) != 1 or value != self.proved:
                    self._pending = request, value
                    return _read_credentials(values)
        else:
            request, self._pending = self._pending[0], None
        if request.method != b"CONNECT":
            return request
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
            if not self.greeted:
                return b"\x05\xff"
            return socks.NOT_LOGGED_IN if self.login else socks.reply(reason)
        if self.protocol == "SOCKS4":
            return socks.REJECTED4
        if self._pending is not None and self._pending[0].method == b"HEAD":
            body = False
        return _error_page(reason, detail, body)

    def grant(self) -> bytes:
        """What tells the client of a CONNECT or SOCKS request that its tunnel stands."""
        if self.protocol == "CONNECT":
            return b"HTTP/1.1 200 Connection established\r\n\r\n"
        return socks.reply(None) if self.protocol == "SOCKS5" else socks.GRANTED4


def _read_credentials(values: list[bytes]) -> Login:
    """What the Proxy-Authorization fields of a request say. RFC 7617 section 2.

    Raises:
        ProtocolError: AUTH_REQUIRED without any; AUTH_FAILED where nobody can be meant
    """
    if not values:
        raise ProtocolError(Reason.AUTH_REQUIRED, Reason.AUTH_REQUIRED.text)
    if len(values) > 1:
        raise ProtocolError(Reason.AUTH_FAILED, "there are two Proxy-Authorization fields")
    scheme, _, text = values[0].strip(b" \t").partition(b" ")
    if scheme.lower() != b"basic":
        raise ProtocolError(Reason.AUTH_FAILED, "the only scheme of credentials taken is Basic")
    text = text.lstrip(b" ")
    try:
        data = a2b_base64(text)
    except Base64Error:
        data = b""
    # The decoder passes over what is no base64; only what comes out again the same was.
    if not data or b2a_base64(data, newline=False) != text:
        raise ProtocolError(Reason.AUTH_FAILED, "the credentials are not in base64")
    name, _, password = data.partition(b":")
    if not (0 < len(name) < 256 and 0 < len(password) < 256) or _has_control(data):
        raise ProtocolError(
            Reason.AUTH_FAILED,
            "the credentials are not a name and a password of 1 to 255 bytes each",
        )
    return Login(name, password)


def _error_page(reason: Reason, detail: str, with_body: bool) -> bytes:
    """A short plain page for a person, and the reason's word for a program."""
    body = f"{reason.status} {reason.word}\n{detail}\n".encode()
    return (
        b"HTTP/1.1 %d %b\r\nContent-Type: text/plain; charset=utf-8\r\n"
        b"Content-Length: %d\r\nConnection: close\r\nCache-Control: no-store\r\n"
        b"X-Bifrost-Reason: %b\r\n%b\r\n%b"
    ) % (
        reason.status,
        _PHRASES.get(reason.status, b"Error"),
        len(body),
        reason.word.encode(),
        _FIELDS.get(reason.status, b""),
        body if with_body else b"",
    )


_FIELDS = {
    407: b'Proxy-Authenticate: Basic realm="bifrost-lite", charset="UTF-8"\r\n',
    429: b"Retry-After: 60\r\n",
    503: b"Retry-After: 5\r\n",
}
_PHRASES = {
    400: b"Bad Request",
    403: b"Forbidden",
    407: b"Proxy Authentication Required",
    408: b"Request Timeout",
    414: b"URI Too Long",
    417: b"Expectation Failed",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
}
