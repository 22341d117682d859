"""The addresses of a mesh network: each is handed out once at a time, and none is lost.

An address is in use, or was given back, or was never taken. The never taken ones are not
listed, they follow a mark: so a pool costs the memory of the peers that it had at one time,
whatever the size of its network, and an allocation costs the same in all of them.
"""

from __future__ import annotations

import re

from ..acl import prefix_mask
from ..target import pack, unpack

# Shortest and longest prefix, by bytes of an address: an IPv6 network has 64 bits for its hosts
# (RFC 4291 section 2.5.1), and both leave room for a gateway and a peer.
PREFIXES = {4: (8, 30), 16: (64, 126)}

_length = re.compile(r"[1-9][0-9]{0,2}").fullmatch


def parse_cidr(text: str) -> tuple[bytes, int]:
    """The first address and the prefix length of a network; bits behind the prefix are cleared.

    Args:
        text: e.g. ``10.100.0.0/16``

    Raises:
        ValueError: what is wrong, as the rest of a sentence that begins with "is "
    """
    address, _, digits = text.partition("/")
    packed = pack(address)
    if packed is None or (len(packed) == 4 and ":" in address) or not _length(digits):
        raise ValueError("no network such as 10.100.0.0/16")
    length = int(digits)
    low, high = PREFIXES[len(packed)]
    if not low <= length <= high:
        raise ValueError(f"no network with a prefix length from {low} to {high}")
    bits = len(packed) * 8
    number = int.from_bytes(packed, "big") & prefix_mask(length, bits)
    return number.to_bytes(len(packed), "big"), length


class Pool:
    """The addresses that peers of one network get.

    The network's own address is never handed out (in IPv6 it is that of all its routers, RFC
    4291 section 2.6.1), nor is the one after it, which is the gateway's, nor the broadcast
    address of IPv4.

    Args:
        cidr: as for `parse_cidr`

    Attributes:
        cidr: the network in its canonical form
        gateway: its first usable address
        size: how many peers it has room for

    Raises:
        ValueError: as `parse_cidr`
    """

    __slots__ = (
        "_end", "_first", "_given_back", "_mark", "_used", "_width", "cidr", "gateway", "size",
    )  # fmt: skip

    def __init__(self, cidr: str) -> None:
        packed, length = parse_cidr(cidr)
        self._width = len(packed)
        base = int.from_bytes(packed, "big")
        self.cidr = f"{unpack(packed)}/{length}"
        self.gateway = self._text(base + 1)
        self._first = self._mark = base + 2
        # Behind the last one; IPv6 knows no broadcast.
        self._end = base + (1 << (self._width * 8 - length)) - (self._width == 4)
        self.size = self._end - self._first
        self._used: set[int] = set()
        self._given_back: dict[int, None] = {}  # below the mark, the longest given back first

    def __len__(self) -> int:
        """How many are in use."""
        return len(self._used)

    def allocate(self) -> str | None:
        """An address that nobody uses, None where there is none.

        What was given back comes first, so that the mark stays low.
        """
        if self._given_back:
            number = next(iter(self._given_back))
            del self._given_back[number]
        else:
            while self._mark in self._used:  # by `take`; passed once and never again
                self._mark += 1
            number = self._mark
            if number >= self._end:
                return None
            self._mark += 1
        self._used.add(number)
        return self._text(number)

    def take(self, address: str) -> bool:
        """Use that very address; answers whether it could be had."""
        number = self._number(address)
        if not self._first <= number < self._end or number in self._used:
            return False
        if number < self._mark:
            del self._given_back[number]
        self._used.add(number)
        return True

    def release(self, address: str) -> None:
        """Give back an address that is in use."""
        number = self._number(address)
        self._used.remove(number)
        if number < self._mark:
            self._given_back[number] = None

    def _number(self, address: str) -> int:
        """The number of an address in its canonical text, -1 for anything else."""
        packed = pack(address)
        mine = packed is not None and len(packed) == self._width and unpack(packed) == address
        return int.from_bytes(packed, "big") if packed is not None and mine else -1

    def _text(self, number: int) -> str:
        return unpack(number.to_bytes(self._width, "big"))


class NoPool(Pool):
    """That of a network whose peers have their addresses from elsewhere: it has none.

    Args:
        cidr: what is shown, perhaps ""
    """

    __slots__ = ()

    def __init__(self, cidr: str) -> None:
        self._width = 4
        self.cidr = cidr
        self.gateway = ""
        self._first = self._mark = self._end = self.size = 0
        self._used = set()
        self._given_back = {}
