"""Asking an upstream proxy for a tunnel: SOCKS5 (RFC 1928, 1929) and HTTP CONNECT.

A `Talk` is one such conversation, bytes in and bytes out. It takes no byte beyond the
upstream's answer: what stands behind that comes from the target.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from typing import Protocol

from ..errors import ProtocolError, Reason
from ..target import Target
from .http1 import find_response_end

# Bytes of a whole answer to CONNECT, interim answers included. Nothing in it is passed on,
# so it is held to what a request may have; curl takes 16 KiB a line.
ANSWER_LIMIT = 16 * 1024
# Bytes of a SOCKS user and of a password, RFC 1929 section 2.
CREDENTIAL_LIMIT = 255

_NO_LOGIN, _LOGIN, _NO_METHOD = 0x00, 0x02, 0xFF
# What the upstream says of a target; all else is CONNECT_FAILED.
_REPLIES = {
    0x02: Reason.UPSTREAM_DENIED,
    0x03: Reason.NET_UNREACHABLE,
    0x04: Reason.HOST_UNREACHABLE,
    0x05: Reason.CONNECT_REFUSED,
    0x06: Reason.CONNECT_TIMEOUT,
}
_STATUSES = {
    401: Reason.UPSTREAM_AUTH,  # tinyproxy's answer to wrong credentials
    403: Reason.UPSTREAM_DENIED,
    407: Reason.UPSTREAM_AUTH,
    504: Reason.CONNECT_TIMEOUT,
}
_VERSION = b"HTTP/1."
_status_line = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: [^\r\n\0]*)?\r?\n").match


class Talk(Protocol):
    """A conversation with an upstream proxy, up to the target's first byte.

    Attributes:
        out: bytes to send now; whoever sends them empties it
        granted: the path to the target stands, and the next byte is the target's
    """

    out: bytes
    granted: bool

    def feed(self, data: bytes) -> int:
        """Take bytes of the upstream's.

        Args:
            data: what came, one byte at least; `granted` must be False

        Returns how many of them belong to its answer: all, or fewer once it is granted.

        Raises:
            ProtocolError: UPSTREAM_FAILED where it makes no sense, UPSTREAM_AUTH where it
                refuses the credentials, UPSTREAM_DENIED where its rules refuse the target,
                and the reasons of a direct dial where it did not reach the target
        """


class SocksTalk:
    """A SOCKS5 conversation.

    Args:
        target: whither
        login: made by `socks_login`, b"" for none
    """

    __slots__ = ("_got", "_login", "_read", "_request", "_size", "granted", "out")

    def __init__(self, target: Target, login: bytes) -> None:
        # Both methods, for an upstream that asks nobody, or not us, for a password.
        self.out = b"\x05\x02\x00\x02" if login else b"\x05\x01\x00"
        self.granted = False
        self._login = login
        self._request = socks_request(target)
        self._got = b""  # of the present message
        self._size = 2  # of the same, as far as that is known
        self._read = SocksTalk._read_method

    def feed(self, data: bytes) -> int:
        """See `Talk`."""
        taken = 0
        while taken < len(data) and not self.granted:
            piece = data[taken : taken + self._size - len(self._got)]
            taken += len(piece)
            self._got += piece
            self._read(self, self._got)
        return taken

    def _read_method(self, got: bytes) -> None:
        """The method that the upstream chose, RFC 1928 section 3."""
        if got[0] != 5:
            raise _nonsense("the upstream proxy does not speak SOCKS5")
        if len(got) < 2:
            return
        if got[1] == _NO_LOGIN:
            self._ask()
        elif got[1] == _LOGIN and self._login:
            self.out += self._login
            self._got, self._read = b"", SocksTalk._read_login
        elif got[1] == _NO_METHOD:
            raise _refusal(Reason.UPSTREAM_AUTH)
        else:
            raise _nonsense("the upstream proxy chose a SOCKS method that was not offered")

    def _read_login(self, got: bytes) -> None:
        """Whether it takes the credentials, RFC 1929 section 2."""
        if got[0] not in (1, 5):  # some servers repeat the version of SOCKS here
            raise _nonsense("the upstream proxy's answer to the login makes no sense")
        if len(got) < 2:
            return
        if got[1]:
            raise _refusal(Reason.UPSTREAM_AUTH)
        self._ask()

    def _ask(self) -> None:
        """The upstream is ready for the request."""
        self.out += self._request
        self._got, self._size, self._read = b"", 5, SocksTalk._read_reply

    def _read_reply(self, got: bytes) -> None:
        """Its reply to the request, RFC 1928 section 6; some cut a refusal short."""
        if got[0] != 5:
            raise _nonsense("the upstream proxy's reply is not SOCKS5")
        if len(got) > 1 and got[1]:
            raise _refusal(_REPLIES.get(got[1], Reason.CONNECT_FAILED))
        if len(got) == 5:
            size = {1: 10, 3: 7 + got[4], 4: 22}.get(got[3])
            if size is None:
                raise _nonsense("the upstream proxy's reply has an unknown address type")
            self._size = size
        self.granted = len(got) == self._size


def socks_login(username: str, password: str) -> bytes:
    """A SOCKS5 login, RFC 1929 section 2.

    Args:
        username, password: 255 bytes of UTF-8 at most

    Raises:
        ValueError: one of them is longer
    """
    user, secret = username.encode(), password.encode()
    if max(len(user), len(secret)) > CREDENTIAL_LIMIT:
        raise ValueError("SOCKS5 carries no user or password of over 255 bytes")
    return b"\x01%c%b%c%b" % (len(user), user, len(secret), secret)


def socks_request(target: Target) -> bytes:
    """A SOCKS5 CONNECT request, RFC 1928 section 4; names go as they are."""
    port = target.port.to_bytes(2, "big")
    if target.packed is None:
        host = target.host.encode()
        return b"\x05\x01\x00\x03%c%b%b" % (len(host), host, port)
    kind = 1 if len(target.packed) == 4 else 4
    return b"\x05\x01\x00%c%b%b" % (kind, target.packed, port)


class ConnectTalk:
    """An HTTP CONNECT conversation.

    Args:
        target: whither
        authorization: made by `basic`, b"" for none
    """

    __slots__ = ("_head", "_left", "granted", "out")

    def __init__(self, target: Target, authorization: bytes) -> None:
        self.out = connect_request(target, authorization)
        self.granted = False
        self._head = b""  # what came of the present head
        self._left = ANSWER_LIMIT  # bytes that may still come

    def feed(self, data: bytes) -> int:
        """See `Talk`."""
        taken = 0
        while taken < len(data) and not self.granted:
            seen = len(self._head)
            head = self._head + data[taken : taken + self._left]
            end = find_response_end(head, seen)
            status = _read_status(head)
            size = (end if end >= 0 else len(head)) - seen
            taken += size
            self._left -= size
            if end < 0:
                if not self._left:
                    raise _nonsense("the upstream proxy's answer is over 16 KiB")
                self._head = head
            else:
                self._head = b""
                self._take(status)
        return taken

    def _take(self, status: int) -> None:
        """A head is complete."""
        if status == 101:
            raise _nonsense("the upstream proxy switches protocols")
        if 200 <= status < 300:  # RFC 9110 section 9.3.6: a tunnel from the empty line on
            self.granted = True
        elif status >= 200:
            raise _refusal(_STATUSES.get(status, Reason.CONNECT_FAILED))


def _read_status(head: bytes) -> int:
    """The status in what came of a head, 0 where it does not show yet."""
    if b"\n" not in head:
        if not (_VERSION.startswith(head) or head.startswith(_VERSION)):
            raise _nonsense("the upstream proxy does not speak HTTP/1")
        return 0
    match = _status_line(head)
    if match is None:
        raise _nonsense("the upstream proxy's answer has no HTTP/1 status line")
    return int(match[1])


def basic(username: str, password: str) -> bytes:
    """The value of a Proxy-Authorization field, RFC 7617; the user has no colon."""
    return b"Basic " + b2a_base64(f"{username}:{password}".encode(), newline=False)


def connect_request(target: Target, authorization: bytes) -> bytes:
    """The head of a CONNECT request, RFC 9112 section 3.2.3."""
    authority = target.text.encode()
    login = b"Proxy-Authorization: %b\r\n" % authorization if authorization else b""
    return b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (authority, authority, login)


def _nonsense(detail: str) -> ProtocolError:
    return ProtocolError(Reason.UPSTREAM_FAILED, detail)


def _refusal(reason: Reason) -> ProtocolError:
    return ProtocolError(reason, reason.text)
