"""Where a client wants to go: a host and a port, in one canonical form."""

from __future__ import annotations

import re
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from .errors import ProtocolError, Reason

KNOWN_LIMIT = 256  # targets remembered by `parse_authority`, some 300 bytes each

_known: dict[tuple[bytes, int | None], Target] = {}
MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96, RFC 4291 section 2.5.5.2
# Labels of letters, digits, hyphen and underscore, RFC 1035 section 2.3.1 as the web uses it.
_is_name = re.compile(rb"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*").fullmatch
# A last label that starts like a number is an address in some spelling (WHATWG URL, 3.5):
# `127.1` or `0x7f.1` must never reach a resolver that would take it for loopback.
_ends_like_number = re.compile(rb"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)").fullmatch
# Not every libc refuses leading zeros, which others read as octal.
_is_ipv4 = re.compile(r"(?:0|[1-9][0-9]{0,2})(?:\.(?:0|[1-9][0-9]{0,2})){3}").fullmatch
# Five digits and no more, leading zeros included: `int` refuses thousands with a ValueError.
_is_port = re.compile(rb"[0-9]{1,5}").fullmatch


def pack(text: str) -> bytes | None:
    """An IP address as 4 or 16 bytes, or None where `text` is none.

    Args:
        text: dotted decimal without leading zeros, or IPv6 without brackets and zone
    """
    try:
        if ":" in text:
            return fold(inet_pton(AF_INET6, text))
        return inet_pton(AF_INET, text) if _is_ipv4(text) else None
    except (OSError, ValueError):  # ValueError: a NUL or a lone surrogate
        return None


def unpack(packed: bytes) -> str:
    """The canonical text of 4 or 16 bytes (RFC 5952)."""
    return inet_ntop(AF_INET if len(packed) == 4 else AF_INET6, packed)


def fold(packed: bytes) -> bytes:
    """`packed`, but the 4 bytes inside where it is an IPv4-mapped IPv6 address."""
    return packed[12:] if len(packed) == 16 and packed.startswith(MAPPED) else packed


def endpoint_text(host: str, port: int) -> str:
    """A host and a port as one writes them, IPv6 in brackets (RFC 3986 section 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Target:
    """A host and a port.

    Attributes:
        host: lower-case name without trailing dot, or canonical IP text
        port: 1 to 65535
        packed: 4 or 16 bytes where the host is an IP address, else None
        text: host and port, IPv6 in brackets
    """

    __slots__ = ("host", "packed", "port", "text")

    def __init__(self, host: str, port: int, packed: bytes | None = None) -> None:
        self.host = host
        self.port = port
        self.packed = packed
        self.text = endpoint_text(host, port)

    def __str__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Target) and self.host == other.host and self.port == other.port
        )

    def __hash__(self) -> int:
        return hash((self.host, self.port))


def from_packed(packed: bytes, port: int) -> Target:
    """The target of an address of 4 or 16 bytes.

    Raises:
        ProtocolError: the port is 0
    """
    if not port:
        raise ProtocolError(Reason.BAD_REQUEST, "the port is 0")
    packed = fold(packed)
    return Target(unpack(packed), port, packed)


def from_host(host: bytes, port: int) -> Target:
    """The target of a host name or an IP address in text (IPv6 without brackets).

    Raises:
        ProtocolError: neither a name nor an address, or the port is 0
    """
    if not port:
        raise ProtocolError(Reason.BAD_REQUEST, "the port is 0")
    if len(host) > 254:
        raise ProtocolError(Reason.BAD_REQUEST, "the host name is longer than 253 bytes")
    name = host.lower()
    if name[-1:] == b"." and name[:-1] and b":" not in name:
        name = name[:-1]
    try:
        text = name.decode("ascii")
    except UnicodeDecodeError:
        raise ProtocolError(
            Reason.BAD_REQUEST, "the host name has a byte outside ASCII; use its xn-- form"
        ) from None
    packed = pack(text)
    if packed is not None:
        return Target(unpack(packed), port, packed)
    if not _is_name(name) or len(name) > 253:
        raise ProtocolError(Reason.BAD_REQUEST, "the host is neither a name nor an IP address")
    if _ends_like_number(name):
        raise ProtocolError(Reason.BAD_REQUEST, "the host looks like an IP address but is none")
    return Target(text, port)


def parse_port(text: bytes) -> int:
    """A port in decimal digits.

    Raises:
        ProtocolError: not a number from 1 to 65535
    """
    port = int(text) if _is_port(text) else 0
    if not 0 < port < 65536:
        raise ProtocolError(Reason.BAD_REQUEST, "the port is not a number from 1 to 65535")
    return port


def parse_authority(text: bytes, default_port: int | None) -> Target:
    """`read_authority`, remembered: clients name the same few targets over and over."""
    key = (text, default_port)
    target = _known.get(key)
    if target is None:
        target = read_authority(text, default_port)
        if len(_known) >= KNOWN_LIMIT:
            _known.clear()
        _known[key] = target
    return target


def read_authority(text: bytes, default_port: int | None) -> Target:
    """``host[:port]`` with IPv6 in brackets, RFC 3986 section 3.2 without userinfo.

    Args:
        text: the authority
        default_port: for an authority without one; None where a port is required

    Raises:
        ProtocolError: anything else
    """
    if text[:1] == b"[":
        host, bracket, rest = text[1:].partition(b"]")
        if not bracket or (rest and rest[:1] != b":") or b":" not in host:
            raise ProtocolError(Reason.BAD_REQUEST, "the brackets do not hold an IPv6 address")
        port_text: bytes | None = rest[1:] if rest else None
    else:
        host, colon, port_text = text.partition(b":")
        if not colon:
            port_text = None
        elif b":" in port_text:
            raise ProtocolError(Reason.BAD_REQUEST, "an IPv6 address needs brackets")
    if port_text:
        return from_host(host, parse_port(port_text))
    if default_port is None:
        raise ProtocolError(Reason.BAD_REQUEST, "the target has no port")
    return from_host(host, default_port)
