"""SOCKS5 (RFC 1928, 1929) and SOCKS4/4a as a server speaks them: bytes in, requests out.

Each reader takes all bytes received so far and answers None while it needs more, so a
client may send one byte at a time or everything at once.
"""

from __future__ import annotations

from typing import NamedTuple

from ..errors import ProtocolError, Reason
from ..target import Target, from_host, from_packed

CONNECT, BIND, UDP_ASSOCIATE = 1, 2, 3
NO_AUTHENTICATION, USER_AND_PASSWORD = 0x00, 0x02
# Bytes of a SOCKS4 user id and of a 4a name; RFC 1929 allows 255 for its names.
TEXT_LIMIT = 255

# BND.ADDR and BND.PORT are zero: which address carries a tunnel is nobody's business.
_REPLY5 = [b"\x05%c\x00\x01\x00\x00\x00\x00\x00\x00" % code for code in range(9)]
# The server's answers to a login, RFC 1929 section 2.
LOGGED_IN, NOT_LOGGED_IN = b"\x01\x00", b"\x01\x01"
GRANTED4 = b"\x00\x5a\x00\x00\x00\x00\x00\x00"
REJECTED4 = b"\x00\x5b\x00\x00\x00\x00\x00\x00"


class Associate(NamedTuple):
    """A request for UDP ASSOCIATE: the port that datagrams will come from, 0 where the client
    does not know it yet. The address that it names is not looked at: behind a NAT it is
    nobody's, and all others must be that of its connection."""

    port: int


def read_greeting(data: bytes) -> tuple[bytes, int] | None:
    """The methods a SOCKS5 client offers, and the length of its greeting. RFC 1928 section 3.

    Raises:
        ProtocolError: wrong version, or no method at all
    """
    if data[:1] not in (b"", b"\x05"):
        raise ProtocolError(Reason.BAD_REQUEST, "the SOCKS version is not 5")
    if len(data) < 2:
        return None
    end = 2 + data[1]
    if end == 2:
        raise ProtocolError(Reason.NO_METHOD, "the SOCKS greeting offers no method")
    if len(data) < end:
        return None
    return data[2:end], end


def read_login(data: bytes) -> tuple[bytes, bytes, int] | None:
    """User name, password and length of a login. RFC 1929 section 2.

    Raises:
        ProtocolError: wrong version, or one of them is empty or has a NUL
    """
    if data[:1] not in (b"", b"\x01"):
        raise ProtocolError(Reason.BAD_REQUEST, "the version of the SOCKS login is not 1")
    if len(data) < 2:
        return None
    middle = 2 + data[1]
    if middle == 2:
        raise ProtocolError(Reason.AUTH_FAILED, "the user name is empty")
    if len(data) <= middle:
        return None
    end = middle + 1 + data[middle]
    if end == middle + 1:
        raise ProtocolError(Reason.AUTH_FAILED, "the password is empty")
    if len(data) < end:
        return None
    if 0 in data[2:end]:  # HMAC fills short keys up with it: another password would do as well
        raise ProtocolError(Reason.AUTH_FAILED, "a name or password has a NUL byte")
    return data[2:middle], data[middle + 1 : end], end


def read_request(data: bytes) -> tuple[int, Target | Associate, int] | None:
    """The command, what it asks for, and length of a SOCKS5 request. RFC 1928 sections 4 and 5.

    Raises:
        ProtocolError: wrong version or reserved byte, unknown command or address type, BIND,
            bad target; the port 0 is a fault for CONNECT only
    """
    if len(data) < 5:
        if data[:1] not in (b"", b"\x05"):
            raise ProtocolError(Reason.BAD_REQUEST, "the SOCKS version is not 5")
        return None
    version, command, reserved, kind, first = data[:5]
    if version != 5 or reserved:
        raise ProtocolError(Reason.BAD_REQUEST, "the SOCKS request is malformed")
    if command not in (CONNECT, BIND, UDP_ASSOCIATE):
        raise ProtocolError(Reason.BAD_COMMAND, "the SOCKS command is unknown")
    if kind == 1:
        start, end = 4, 8
    elif kind == 4:
        start, end = 4, 20
    elif kind == 3:
        if not first:
            raise ProtocolError(Reason.BAD_REQUEST, "the host name is empty")
        start, end = 5, 5 + first
    else:
        raise ProtocolError(Reason.BAD_ADDRESS_TYPE, "the SOCKS address type is unknown")
    if len(data) < end + 2:
        return None
    port = data[end] << 8 | data[end + 1]
    if command != CONNECT:
        if command == UDP_ASSOCIATE:
            return command, Associate(port), end + 2
        raise ProtocolError(Reason.BAD_COMMAND, "the SOCKS command BIND is not served")
    host = data[start:end]
    return command, from_host(host, port) if kind == 3 else from_packed(host, port), end + 2


def reply(reason: Reason | None) -> bytes:
    """The SOCKS5 reply to a request: None grants it. RFC 1928 section 6."""
    return _REPLY5[0 if reason is None else reason.reply]


def read_request4(data: bytes) -> tuple[Target, int] | None:
    """The target and length of a SOCKS4 or 4a CONNECT request.

    4a: an address 0.0.0.x, x not zero, says that a host name follows the user id.

    Raises:
        ProtocolError: not CONNECT, endless texts, bad target
    """
    if data[:1] not in (b"", b"\x04"):
        raise ProtocolError(Reason.BAD_REQUEST, "the SOCKS version is not 4")
    if len(data) >= 2 and data[1] != CONNECT:
        raise ProtocolError(Reason.BAD_COMMAND, "only the SOCKS command CONNECT is served")
    if len(data) < 9:
        return None
    port, address = data[2] << 8 | data[3], data[4:8]
    user_end = data.find(b"\0", 8)
    if user_end < 0 or user_end - 8 > TEXT_LIMIT:
        if len(data) - 8 > TEXT_LIMIT:
            raise ProtocolError(Reason.BAD_REQUEST, "the SOCKS4 user id is over 255 bytes")
        return None
    if address[:3] != b"\0\0\0" or not address[3]:
        return from_packed(address, port), user_end + 1
    host_end = data.find(b"\0", user_end + 1)
    if host_end < 0 or host_end - user_end - 1 > TEXT_LIMIT:
        if len(data) - user_end - 1 > TEXT_LIMIT:
            raise ProtocolError(Reason.BAD_REQUEST, "the SOCKS4a host name is over 255 bytes")
        return None
    return from_host(data[user_end + 1 : host_end], port), host_end + 1
