"""IP addresses as packed bytes: parsing, networks, and the classes never dialled.

An address is 4 or 16 bytes in network order. An IPv4-mapped IPv6 address (RFC 4291
section 2.5.5.2) is the IPv4 address it names, everywhere: the kernel sends both to the
same host, so a rule for one must hold for the other.
"""

from __future__ import annotations

from collections.abc import Iterable

from .target import MAPPED
from .target import fold as fold
from .target import pack as pack
from .target import unpack as unpack

_NAT64 = b"\x00\x64\xff\x9b" + bytes(8)  # 64:ff9b::/96, RFC 6052 section 2.1
_COMPATIBLE = bytes(12)  # ::/96, RFC 4291 section 2.5.5.1
_SIX_TO_FOUR = b"\x20\x02"  # 2002::/16, RFC 3056 section 2
_BROADCAST = b"\xff\xff\xff\xff"

# First bytes of IPv4 addresses that may be special: most addresses need no second look.
_SUSPECT = frozenset({0, 127, 169, 255, *range(224, 240)})


def embedded(packed: bytes) -> bytes | None:
    """The IPv4 address that packets to an IPv6 address may end at, or None.

    Those are mapped, NAT64, IPv4-compatible and 6to4 addresses: a translator or tunnel
    on the way hands them to IPv4.
    """
    if len(packed) == 4:
        return None
    if packed.startswith((MAPPED, _NAT64, _COMPATIBLE)):
        return packed[12:]
    return packed[2:6] if packed.startswith(_SIX_TO_FOUR) else None


def is_special(packed: bytes) -> bool:
    """Whether no client may ever have it dialled: it is not a host out there.

    Loopback, unspecified (all of 0.0.0.0/8: Linux takes 0.0.0.0 for itself), link-local,
    multicast, limited broadcast, and IPv6 addresses that embed one of these.
    """
    if len(packed) == 4:
        first = packed[0]
        if first not in _SUSPECT:
            return False
        if first == 169:
            return packed[1] == 254
        return first != 255 or packed == _BROADCAST
    first = packed[0]
    if first == 0xFF or (first == 0xFE and packed[1] & 0xC0 == 0x80):
        return True
    inner = embedded(packed)  # :: and ::1 embed 0.0.0.0 and 0.0.0.1
    return inner is not None and is_special(inner)


def parse_network(text: str) -> tuple[bytes, int]:
    """A network as its first address and its prefix length in bits.

    Args:
        text: ``10.0.0.0/8``, ``fc00::/7``, or a bare address for itself alone

    Raises:
        ValueError: what is wrong, as a sentence for the operator
    """
    address, slash, suffix = text.partition("/")
    if "%" in address:
        raise ValueError(f"{text!r} has a zone id, which a network cannot have.")
    packed = pack(address)
    if packed is None:
        raise ValueError(f"{text!r} is not an IP address or network.")
    # A mapped network is written with IPv6's lengths: ::ffff:10.0.0.0/104 is 10.0.0.0/8.
    extra = 96 if len(packed) == 4 and ":" in address else 0
    bits = len(packed) * 8
    if not slash:
        return packed, bits
    length = _prefix_length(suffix) - extra
    if not 0 <= length <= bits:
        raise ValueError(f"{text!r} needs a prefix length of {extra} to {bits + extra} after '/'.")
    number = int.from_bytes(packed, "big")
    network = number & prefix_mask(length, bits)
    if network != number:
        first = network.to_bytes(len(packed), "big")
        right = f"{unpack(first)}/{length}"
        raise ValueError(f"{text!r} has bits set after its prefix; the network is {right}.")
    return packed, length


def _prefix_length(digits: str) -> int:
    """A prefix length as written, -1 where it is no plain number."""
    plain = digits.isascii() and digits.isdigit() and len(digits) <= 3
    return int(digits) if plain and (digits == "0" or digits[0] != "0") else -1


def prefix_mask(length: int, bits: int) -> int:
    return (1 << bits) - (1 << (bits - length))


class Networks:
    """A set of networks; a look-up costs by distinct prefix lengths, not by networks.

    Args:
        cidrs: as for `parse_network`

    Raises:
        ValueError: one of them is no network
    """

    __slots__ = ("_v4", "_v6")

    def __init__(self, cidrs: Iterable[str]) -> None:
        tables: dict[int, dict[int, set[int]]] = {4: {}, 16: {}}
        for cidr in cidrs:
            packed, length = parse_network(cidr)
            mask = prefix_mask(length, len(packed) * 8)
            tables[len(packed)].setdefault(mask, set()).add(int.from_bytes(packed, "big"))
        self._v4 = tuple(tables[4].items())
        self._v6 = tuple(tables[16].items())

    def __bool__(self) -> bool:
        return bool(self._v4 or self._v6)

    def contains(self, packed: bytes) -> bool:
        """Whether one of the networks holds the address."""
        if len(packed) == 16:
            packed = fold(packed)
        number = int.from_bytes(packed, "big")
        for mask, networks in self._v4 if len(packed) == 4 else self._v6:
            if number & mask in networks:
                return True
        return False
