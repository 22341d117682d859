"""The header of datagrams between a SOCKS5 client and its relay: RFC 1928 section 7.

    2 bytes  RSV       zero
    1 byte   FRAG      zero: fragments are not put together, so a fragment is dropped
    1 byte   ATYP      1 IPv4, 3 name, 4 IPv6
    n bytes  DST.ADDR  a name has its length before it
    2 bytes  DST.PORT  most significant byte first
"""

from __future__ import annotations

from ..target import Target, from_host, from_packed

HEADER_LIMIT = 4 + 1 + 255 + 2  # bytes of the longest header


def header_end(data: bytes | bytearray, size: int) -> int:
    """Where the payload of a datagram begins, or 0 where it has no header that is served.

    Args:
        data: holds the datagram, and may hold more behind it
        size: bytes of the datagram
    """
    if size < 8 or data[0] or data[1] or data[2]:
        return 0
    kind = data[3]
    if kind == 1:
        end = 10
    elif kind == 4:
        end = 22
    elif kind == 3 and data[4]:
        end = 7 + data[4]
    else:
        return 0
    return end if end <= size else 0


def read_target(header: bytes) -> Target:
    """Where a whole header sends its datagram.

    Raises:
        ProtocolError: the port is 0, or the name is none
    """
    port = header[-2] << 8 | header[-1]
    return from_host(header[5:-2], port) if header[3] == 3 else from_packed(header[4:-2], port)


def make_header(packed: bytes, port: int) -> bytes:
    """The header of a datagram that came from this address of 4 or 16 bytes."""
    return b"\0\0\0" + _endpoint(packed, port)


def associated(packed: bytes, port: int) -> bytes:
    """The SOCKS5 reply that grants UDP ASSOCIATE: where the relay is. RFC 1928 section 6."""
    return b"\x05\0\0" + _endpoint(packed, port)


def _endpoint(packed: bytes, port: int) -> bytes:
    return b"%c%b%c%c" % (1 if len(packed) == 4 else 4, packed, port >> 8, port & 0xFF)
