"""OpenWrt's networks by name: what `ubus call network.interface dump` says of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from .. import acl

_unique_local = acl.Networks(("fc00::/7",))


class Interface(NamedTuple):
    """A network that is up.

    Attributes:
        device: the network device that leads there, "" where it has none
        addresses: of this machine in it: IPv4, then unique local IPv6. Not what a provider
            delegates: that changes with each reconnect, and the Internet can reach it.
    """

    device: str
    addresses: tuple[str, ...]


Interfaces = Mapping[str, Interface]


class _Address(msgspec.Struct):
    address: str = ""


class _Prefix(msgspec.Struct, rename="kebab"):
    local_address: _Address | None = None


class _Entry(msgspec.Struct, rename="kebab"):
    interface: str
    up: bool = False
    device: str = ""
    l3_device: str = msgspec.field(default="", name="l3_device")
    ipv4_address: list[_Address] = []
    ipv6_address: list[_Address] = []
    ipv6_prefix_assignment: list[_Prefix] = []


class _Dump(msgspec.Struct):
    interface: list[_Entry]


def read(dump: bytes) -> dict[str, Interface]:
    """The networks that are up, by name.

    Args:
        dump: JSON, as ``ubus -S call network.interface dump`` prints it

    Raises:
        ValueError: it is something else; says what
    """
    try:
        entries = msgspec.json.decode(dump, type=_Dump).interface
    except msgspec.DecodeError as error:
        raise ValueError(f"not a dump of network.interface: {error}") from None
    return {
        entry.interface: Interface(entry.l3_device or entry.device, tuple(_addresses(entry)))
        for entry in entries
        if entry.up
    }


def _addresses(entry: _Entry) -> dict[str, None]:
    """Without those that are there twice, in order."""
    six = [*entry.ipv6_address, *(one.local_address for one in entry.ipv6_prefix_assignment)]
    found = dict.fromkeys(one.address for one in entry.ipv4_address if _length(one.address) == 4)
    for one in six:
        packed = acl.pack(one.address) if one else None
        if one and packed and len(packed) == 16 and _unique_local.contains(packed):
            found[one.address] = None
    return found


def _length(text: str) -> int:
    return len(acl.pack(text) or b"")
