"""Netlink messages of the kernel about addresses (netlink(7), rtnetlink(7)).

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
NEW_ADDRESS, DELETED_ADDRESS, _GET_ADDRESS = 20, 21, 22  # RTM_NEWADDR and so on
INTERRUPTED = 0x10  # NLM_F_DUMP_INTR: something changed between two parts of a dump
ADDRESS_GROUPS = 0x10 | 0x100  # RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR

_REQUEST_DUMP = 0x001 | 0x300  # NLM_F_REQUEST, NLM_F_DUMP
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_AF_INET, _AF_INET6 = 2, 10  # as the kernel counts, whatever the system that parses

_header = Struct("=IHHII")  # length, type, flags, sequence, port
_address = Struct("=BBBBI")  # family, prefix length, flags, scope, interface
_attribute = Struct("=HH")  # length, type


class Message(NamedTuple):
    """One message.

    Attributes:
        kind: ERROR, DONE, NEW_ADDRESS, DELETED_ADDRESS or another type
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


def request_addresses(sequence: int) -> bytes:
    """A request for all addresses of both families."""
    size = _header.size + _address.size
    header = _header.pack(size, _GET_ADDRESS, _REQUEST_DUMP, sequence, 0)
    return header + _address.pack(0, 0, 0, 0, 0)


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
    """The errno of an ERROR message, 0 for an acknowledgement.

    Raises:
        NetlinkError: it is cut
    """
    if len(payload) < 4:
        raise NetlinkError("an error message is cut")
    return -int.from_bytes(payload[:4], sys.byteorder, signed=True)


def parse_address(payload: bytes) -> Address | None:
    """The address of a NEW_ADDRESS or DELETED_ADDRESS message, None for another family's.

    Raises:
        NetlinkError: it is cut
    """
    if len(payload) < _address.size:
        raise NetlinkError("an address message is cut")
    family, prefix, _, _, interface = _address.unpack_from(payload)
    size = {_AF_INET: 4, _AF_INET6: 16}.get(family)
    if size is None:
        return None
    found: dict[int, bytes] = {}
    at = _address.size
    while at + _attribute.size <= len(payload):
        length, kind = _attribute.unpack_from(payload, at)
        if not _attribute.size <= length <= len(payload) - at:
            raise NetlinkError("the length of an attribute is wrong")
        found[kind] = payload[at + _attribute.size : at + length]
        at += length + 3 & ~3
    # On a point-to-point link IFA_ADDRESS is the other end, and only IFA_LOCAL is ours.
    packed = found.get(_IFA_LOCAL, found.get(_IFA_ADDRESS, b""))
    if len(packed) != size:
        raise NetlinkError("an address has a wrong length")
    return Address(interface, prefix, packed)
