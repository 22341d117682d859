"""Netlink messages of the kernel about links and addresses (netlink(7), rtnetlink(7)).

All numbers are in the machine's own byte order; messages and attributes begin at
multiples of four bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from ..errors import ProtocolError, Reason

ERROR, DONE = 2, 3  # NLMSG_ERROR, NLMSG_DONE
NEW_LINK, DELETED_LINK, _GET_LINK, _SET_LINK = 16, 17, 18, 19  # RTM_NEWLINK and so on
NEW_ADDRESS, DELETED_ADDRESS, _GET_ADDRESS = 20, 21, 22  # RTM_NEWADDR and so on
INTERRUPTED = 0x10  # NLM_F_DUMP_INTR: something changed between two parts of a dump
LINK_GROUP = 0x1  # RTMGRP_LINK
ADDRESS_GROUPS = 0x10 | 0x100  # RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
UP, RUNNING = 0x1, 0x40  # IFF_UP: switched on; IFF_RUNNING: and with a carrier
REQUEST, ACKNOWLEDGE, DUMP = 0x001, 0x004, 0x300  # NLM_F_REQUEST and so on
AF_INET, AF_INET6 = 2, 10  # as the kernel counts, whatever the system that parses

_IFLA_IFNAME, _IFLA_EXT_MASK = 3, 29
_SKIP_STATISTICS = 8  # RTEXT_FILTER_SKIP_STATS: half of each message
_IFA_ADDRESS, _IFA_LOCAL = 1, 2

_header = Struct("=IHHII")  # length, type, flags, sequence, port
_link = Struct("=BBHiII")  # family, nothing, hardware, index, flags, which of them changed
_address = Struct("=BBBBI")  # family, prefix length, flags, scope, interface
_attribute = Struct("=HH")  # length, type
_TYPE = 0x3FFF  # the bits above say that it is nested, or in network order


class Message(NamedTuple):
    """One message.

    Attributes:
        kind: ERROR, DONE, NEW_LINK, DELETED_LINK, NEW_ADDRESS, DELETED_ADDRESS or another
        flags: INTERRUPTED and others
        sequence: number of the request that it answers
        port: of the socket whose request it answers or tells of, 0 for the kernel's own
        payload: what stands behind the header
    """

    kind: int
    flags: int
    sequence: int
    port: int
    payload: bytes


class Link(NamedTuple):
    """A network device.

    Attributes:
        number: its index, which no other device has as long as this one exists
        flags: UP, RUNNING and others
        name: its name at present
    """

    number: int
    flags: int
    name: bytes


class Address(NamedTuple):
    """An address of this machine.

    Attributes:
        interface: number of the interface that has it
        prefix: length of its prefix; the same address may be there with another one
        packed: 4 or 16 bytes
    """

    interface: int
    prefix: int
    packed: bytes


class NetlinkError(ProtocolError):
    """A message is cut or has impossible lengths."""

    def __init__(self, detail: str) -> None:
        super().__init__(Reason.INTERNAL, detail)


def request(kind: int, flags: int, sequence: int, payload: bytes) -> bytes:
    """A message to the kernel.

    Args:
        kind: its type
        flags: REQUEST, with DUMP or ACKNOWLEDGE
        sequence: comes back in the answers
        payload: padded to a multiple of four bytes
    """
    return _header.pack(_header.size + len(payload), kind, flags, sequence, 0) + payload


def request_links(sequence: int) -> bytes:
    """A request for all links."""
    mask = attribute(_IFLA_EXT_MASK, _SKIP_STATISTICS.to_bytes(4, sys.byteorder))
    payload = _link.pack(0, 0, 0, 0, 0, 0) + mask
    return request(_GET_LINK, REQUEST | DUMP, sequence, payload)


def request_addresses(sequence: int) -> bytes:
    """A request for all addresses of both families."""
    payload = _address.pack(0, 0, 0, 0, 0)
    return request(_GET_ADDRESS, REQUEST | DUMP, sequence, payload)


def request_nothing(sequence: int) -> bytes:
    """A change of a link that names neither a link nor a change.

    The kernel refuses it with EPERM to whom it allows no changes, with EINVAL to others.
    """
    return request(_SET_LINK, REQUEST | ACKNOWLEDGE, sequence, bytes(4))


def parse(data: bytes) -> Iterator[Message]:
    """The messages of one read.

    Raises:
        NetlinkError: while iterating: one is cut
    """
    at = 0
    while at < len(data):
        if at + _header.size > len(data):
            raise NetlinkError("the header of a message is cut")
        length, kind, flags, sequence, port = _header.unpack_from(data, at)
        if not _header.size <= length <= len(data) - at:
            raise NetlinkError("the length of a message is wrong")
        yield Message(kind, flags, sequence, port, data[at + _header.size : at + length])
        at += length + 3 & ~3


def parse_error(payload: bytes) -> int:
    """The errno of an ERROR or DONE message, 0 for an acknowledgement or a whole dump.

    Raises:
        NetlinkError: it is cut
    """
    if len(payload) < 4:
        raise NetlinkError("an error message is cut")
    return -int.from_bytes(payload[:4], sys.byteorder, signed=True)


def attribute(kind: int, data: bytes) -> bytes:
    """An attribute for a request, padded."""
    return _attribute.pack(_attribute.size + len(data), kind) + data + bytes(-len(data) % 4)


def attributes(data: bytes, at: int = 0) -> Iterator[tuple[int, bytes]]:
    """Types, without their flags, and contents of the attributes from `at` on.

    Raises:
        NetlinkError: while iterating: one is cut
    """
    while at + _attribute.size <= len(data):
        length, kind = _attribute.unpack_from(data, at)
        if not _attribute.size <= length <= len(data) - at:
            raise NetlinkError("the length of an attribute is wrong")
        yield kind & _TYPE, data[at + _attribute.size : at + length]
        at += length + 3 & ~3


def parse_link(payload: bytes) -> Link | None:
    """The link of a NEW_LINK or DELETED_LINK message.

    None for a message of another family, which tells of the link's part in something else:
    DELETED_LINK of a bridge's says that the link is no longer its port.

    Raises:
        NetlinkError: it is cut, or says no name
    """
    if len(payload) < _link.size:
        raise NetlinkError("a link message is cut")
    family, _, _, index, flags, _ = _link.unpack_from(payload)
    if family:
        return None
    name = dict(attributes(payload, _link.size)).get(_IFLA_IFNAME, b"").rstrip(b"\0")
    if not name:
        raise NetlinkError("a link has no name")
    return Link(index, flags, name)


def parse_address(payload: bytes) -> Address | None:
    """The address of a NEW_ADDRESS or DELETED_ADDRESS message, None for another family's.

    Raises:
        NetlinkError: it is cut
    """
    if len(payload) < _address.size:
        raise NetlinkError("an address message is cut")
    family, prefix, _, _, interface = _address.unpack_from(payload)
    size = {AF_INET: 4, AF_INET6: 16}.get(family)
    if size is None:
        return None
    found = dict(attributes(payload, _address.size))
    # On a point-to-point link IFA_ADDRESS is the other end, and only IFA_LOCAL is ours.
    packed = found.get(_IFA_LOCAL, found.get(_IFA_ADDRESS, b""))
    if len(packed) != size:
        raise NetlinkError("an address has a wrong length")
    return Address(interface, prefix, packed)
