"""WireGuard's generic netlink messages (the kernel's uapi genetlink.h and wireguard.h).

A device's peers come in several messages, and one peer with many allowed addresses in several
pieces, of which all but the first have its key and more addresses only.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from .netlink import (
    AF_INET,
    AF_INET6,
    DUMP,
    REQUEST,
    NetlinkError,
    attribute,
    attributes,
    request,
)

CONTROL = 16  # GENL_ID_CTRL: the message type that tells the others by their names
MAX_PEERS = 1024  # of a device; each costs about a kilobyte here
MAX_ALLOWED = 8192  # allowed addresses of all its peers together

_GET_FAMILY = 3  # CTRL_CMD_GETFAMILY
_FAMILY_ID, _FAMILY_NAME = 1, 2  # CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME
_GET_DEVICE, _VERSION = 0, 1  # WG_CMD_GET_DEVICE, WG_GENL_VERSION
_DEVICE_NAME, _DEVICE_PEERS = 2, 8  # WGDEVICE_A_IFNAME, WGDEVICE_A_PEERS
_KEY, _ENDPOINT, _KEEPALIVE, _HANDSHAKE = 1, 4, 5, 6  # WGPEER_A_PUBLIC_KEY and so on
_RECEIVED, _SENT, _ALLOWED = 7, 8, 9
_FAMILY, _ADDRESS, _PREFIX = 1, 2, 3  # WGALLOWEDIP_A_FAMILY and so on

_header = Struct("=BBH")  # command, version, nothing
_time = Struct("=qq")  # seconds, nanoseconds
_SIZES = {AF_INET: 4, AF_INET6: 16}  # bytes of an address
_PLACES = {AF_INET: (16, 4), AF_INET6: (28, 8)}  # size of a sockaddr, where its address is


class Allowed(NamedTuple):
    """A network whose packets a peer may send, and gets.

    Attributes:
        packed: 4 or 16 bytes
        prefix: length
    """

    packed: bytes
    prefix: int


class Peer(NamedTuple):
    """A peer of a WireGuard device.

    Attributes:
        key: its public key, 32 bytes
        handshake: time of the last one, in seconds since 1970 by the clock of then; 0 for none
        endpoint: where its packets go, 4 or 16 bytes and a port; None where unknown
        allowed: its networks
        received, sent: bytes
        keepalive: seconds, 0 for none
    """

    key: bytes
    handshake: float = 0.0
    endpoint: tuple[bytes, int] | None = None
    allowed: tuple[Allowed, ...] = ()
    received: int = 0
    sent: int = 0
    keepalive: int = 0


def request_family(sequence: int) -> bytes:
    """A request for the message type of WireGuard."""
    payload = _header.pack(_GET_FAMILY, 1, 0) + attribute(_FAMILY_NAME, b"wireguard\0")
    return request(CONTROL, REQUEST, sequence, payload)


def parse_family(payload: bytes) -> int:
    """The message type that a CONTROL message tells.

    Raises:
        NetlinkError: it is cut, or does not tell it
    """
    return _number(dict(_content(payload)).get(_FAMILY_ID, b""), 2)


def request_device(family: int, sequence: int, device: str) -> bytes:
    """A request for what `device` knows of its peers."""
    name = attribute(_DEVICE_NAME, device.encode() + b"\0")
    payload = _header.pack(_GET_DEVICE, _VERSION, 0) + name
    return request(family, REQUEST | DUMP, sequence, payload)


def parse_peers(payload: bytes, peers: list[Peer]) -> None:
    """Add the peers of one message to those of the messages before it.

    Raises:
        NetlinkError: it is broken, or there are too many
    """
    room = MAX_ALLOWED - sum(len(peer.allowed) for peer in peers)
    for kind, data in _content(payload):
        if kind != _DEVICE_PEERS:
            continue
        for _, piece in attributes(data):
            peer = _parse_peer(piece)
            room -= len(peer.allowed)
            if peers and peers[-1].key == peer.key:
                peers[-1] = peers[-1]._replace(allowed=peers[-1].allowed + peer.allowed)
            else:
                peers.append(peer)
            if room < 0 or len(peers) > MAX_PEERS:
                raise NetlinkError("the device has too many peers, or networks of theirs")


def _content(payload: bytes) -> Iterator[tuple[int, bytes]]:
    if len(payload) < _header.size:
        raise NetlinkError("a generic message is cut")
    return attributes(payload, _header.size)


def _parse_peer(data: bytes) -> Peer:
    found = dict(attributes(data))
    key = found.get(_KEY, b"")
    if len(key) != 32:
        raise NetlinkError("a peer has no key")
    return Peer(
        key,
        _parse_time(found.get(_HANDSHAKE, bytes(_time.size))),
        _parse_endpoint(found[_ENDPOINT]) if _ENDPOINT in found else None,
        tuple(_parse_allowed(piece) for _, piece in attributes(found.get(_ALLOWED, b""))),
        _number(found.get(_RECEIVED, bytes(8)), 8),
        _number(found.get(_SENT, bytes(8)), 8),
        _number(found.get(_KEEPALIVE, bytes(2)), 2),
    )


def _parse_time(data: bytes) -> float:
    if len(data) != _time.size:
        raise NetlinkError("a time has a wrong length")
    seconds, nanoseconds = _time.unpack(data)
    if seconds < 0 or not 0 <= nanoseconds < 1_000_000_000:
        raise NetlinkError("a time is impossible")
    return float(seconds + nanoseconds / 1e9)


def _parse_endpoint(data: bytes) -> tuple[bytes, int]:
    family = _number(data[:2], 2)
    size, place = _PLACES.get(family, (0, 0))
    if len(data) != size:
        raise NetlinkError("an endpoint has a wrong length")
    return data[place : place + _SIZES[family]], int.from_bytes(data[2:4], "big")


def _parse_allowed(data: bytes) -> Allowed:
    found = dict(attributes(data))
    size = _SIZES.get(_number(found.get(_FAMILY, b""), 2), 0)
    packed, prefix = found.get(_ADDRESS, b""), _number(found.get(_PREFIX, b""), 1)
    if not size or len(packed) != size or prefix > size * 8:
        raise NetlinkError("an allowed network is impossible")
    return Allowed(packed, prefix)


def _number(data: bytes, size: int) -> int:
    if len(data) != size:
        raise NetlinkError("a number has a wrong length")
    return int.from_bytes(data, sys.byteorder)
