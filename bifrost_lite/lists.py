"""Files of names and networks: what the routes with a `list` look targets up in.

One entry a line: a pattern as in `domains`, an address, or a network. Space around it, what
follows a `#`, and empty lines do not count; case and one dot at the end of a name neither.

A hundred thousand names must fit a router, so of an entry nothing is kept but 64 bits of the
hash of its text, sorted: 8 bytes each, 16 for `.a.example`, which is two. Python keys that hash
anew in each process, so nobody can make up a name that hits another's; by chance it happens
in one look-up of ten million million. Patterns with a `*` inside are kept as they are.

    a.example     "a.example"
    *.a.example   ".a.example"
    10.0.0.0/8    "a000000/8", the first address in hexadecimal; IPv6 has a colon for the slash
"""

from __future__ import annotations

import re
import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from itertools import groupby, repeat
from operator import itemgetter

from .acl import fold, pack, prefix_mask, unpack
from .config import values
from .errors import ProtocolError
from .target import from_host

MAX_ENTRIES = 1_000_000  # of one list, and of all lists together: 16 MB at most
MAX_PATTERNS = 10_000  # entries with a star inside, which take some 300 bytes each
MAX_LINE = 1024  # bytes; what is longer is no name, and a comment is cut
MAX_FAULTS = 20

_MASK = 2**64 - 1
_NONE: array[int] = array("Q")
_SLOT = 4  # keys that share a slot of an index

# What most lines are; anything else is looked at more closely. A last label that begins with a
# digit may be an address in some spelling.
_is_plain = re.compile(
    rb"(?:\*?\.)?(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
).fullmatch

if sys.hash_info.width >= 64:

    def key_of(text: str) -> int:
        """The 64 bits that stand for `text`."""
        return hash(text) & _MASK

else:

    def key_of(text: str) -> int:
        """The 64 bits that stand for `text`: of two hashes, since one has 32 only."""
        return (hash(text) & 0xFFFFFFFF) << 32 | hash(text + "/") & 0xFFFFFFFF


Fault = tuple[int, str]
Length = tuple[int, int]  # a mask, and the prefix length in bits


class RouteList:
    """The entries of one file.

    Attributes:
        count: how many entries the file has
        keys: see above; ascending, none twice
        patterns: the entries with a star inside
        lengths: masks and prefix lengths of its networks, by the bytes of an address
    """

    __slots__ = ("count", "keys", "lengths", "patterns")

    def __init__(
        self,
        count: int = 0,
        keys: array[int] = _NONE,
        patterns: Iterable[str] = (),
        lengths: Iterable[tuple[int, int]] = (),
    ) -> None:
        self.count = count
        self.keys = keys
        self.patterns = tuple(sorted(set(patterns)))
        self.lengths = _masks(lengths)

    def __len__(self) -> int:
        return self.count

    @property
    def size(self) -> int:
        """Bytes of its keys, here and in an `Index` of several lists, which has copies."""
        return len(self.keys) * (8 + 8 + 4)

    def __eq__(self, other: object) -> bool:
        """Whether both match the same, as far as one can tell without trying."""
        return (
            isinstance(other, RouteList)
            and self.keys == other.keys
            and self.patterns == other.patterns
        )

    __hash__ = None  # type: ignore[assignment]

    def entry(self, host: str, packed: bytes | None) -> str:
        """The entry that matches a target, "" where none does; of patterns it knows nothing.

        Args:
            host, packed: as for `route.Router.find`
        """
        if packed is None:
            exact = self._has(host)
            for tail in _tails(host):
                if self._has(tail):
                    # An entry `.a.example` has both keys.
                    return tail if self._has(tail[1:]) else f"*{tail}"
            return host if exact else ""
        packed = fold(packed)
        number, size = int.from_bytes(packed, "big"), len(packed)
        for mask, length in self.lengths[size]:
            if self._has(_network(number & mask, length, size)):
                return f"{unpack((number & mask).to_bytes(size, 'big'))}/{length}"
        return ""

    def _has(self, text: str) -> bool:
        key = key_of(text)
        at = bisect_left(self.keys, key)
        return at < len(self.keys) and self.keys[at] == key


class Index:
    """Several lists in one: a look-up costs the same however many there are, and of what size.

    The first bits of a key choose a slot, which holds some four keys.

    Args:
        lists: each with the ascending numbers of the routes that use it
    """

    __slots__ = ("_buckets", "_keys", "_lengths", "_owners", "_shift", "_slots")

    def __init__(self, lists: Sequence[tuple[RouteList, tuple[int, ...]]]) -> None:
        self._buckets = [bucket for _, bucket in lists]
        # The number of the bucket of each key; none where there is but one.
        self._owners: array[int] | None = None
        self._keys: array[int] = array("Q")
        if len(lists) == 1:
            self._keys = lists[0][0].keys
        elif lists:
            self._merge([one.keys for one, _ in lists])
        self._lengths = _masks(
            (size, length)
            for one, _ in lists
            for size, lengths in one.lengths.items()
            for _, length in lengths
        )
        bits = (len(self._keys) // _SLOT).bit_length()
        self._shift = 64 - bits
        self._slots = array("I", (0,))
        for slot in range(1, 1 << bits):
            self._slots.append(bisect_left(self._keys, slot << self._shift, self._slots[-1]))
        self._slots.append(len(self._keys))

    def _merge(self, lists: Sequence[array[int]]) -> None:
        """All keys with their buckets; a key of several lists has a bucket of its own."""
        self._owners = array("I")
        numbers: dict[tuple[int, ...], int] = {}
        marked = (zip(keys, repeat(number)) for number, keys in enumerate(lists))
        for key, group in groupby(merge(*marked), itemgetter(0)):
            owner, *others = [number for _, number in group]
            if others:
                both = tuple(sorted({n for i in (owner, *others) for n in self._buckets[i]}))
                owner = numbers.setdefault(both, len(self._buckets))
                if owner == len(self._buckets):
                    self._buckets.append(both)
            self._keys.append(key)
            self._owners.append(owner)

    def find(self, host: str, packed: bytes | None, found: list[tuple[int, ...]]) -> None:
        """Add the buckets of the lists that have a target; of patterns it knows nothing.

        Args:
            host, packed: as for `route.Router.find`
        """
        if packed is None:
            self._probe(host, found)
            for tail in _tails(host):
                self._probe(tail, found)
            return
        packed = fold(packed)
        number, size = int.from_bytes(packed, "big"), len(packed)
        for mask, length in self._lengths[size]:
            self._probe(_network(number & mask, length, size), found)

    def _probe(self, text: str, found: list[tuple[int, ...]]) -> None:
        key = key_of(text)
        slot = key >> self._shift
        end = self._slots[slot + 1]
        at = bisect_left(self._keys, key, self._slots[slot], end)
        if at < end and self._keys[at] == key:
            found.append(self._buckets[self._owners[at] if self._owners is not None else 0])


def _tails(host: str) -> Iterator[str]:
    """What a name may lie below, each with its dot in front, the longest first."""
    dot = host.find(".")
    while dot >= 0:
        yield host[dot:]
        dot = host.find(".", dot + 1)


def _network(number: int, length: int, size: int) -> str:
    return f"{number:x}/{length}" if size == 4 else f"{number:x}:{length}"


def _masks(lengths: Iterable[tuple[int, int]]) -> dict[int, tuple[Length, ...]]:
    """Prefix lengths by the bytes of an address, the longest first."""
    known = sorted(set(lengths), reverse=True)
    return {
        size: tuple((prefix_mask(n, size * 8), n) for bytes_, n in known if bytes_ == size)
        for size in (4, 16)
    }


def parse(lines: Iterable[bytes]) -> tuple[RouteList, list[Fault]]:
    """A list, and what is wrong with it.

    Args:
        lines: of the file, with their ends; a line of `MAX_LINE` bytes without an end goes on
            in the next, as ``readline(MAX_LINE)`` has it

    Returns:
        the list without what is at fault; and its faults, each with its 1-based line, the
        first `MAX_FAULTS` and then how many more with line 0. They do not repeat the text: the
        file may be another than was meant, and faults are told to many.
    """
    reader = _Reader()
    faults: list[Fault] = []
    number = more = 0
    whole = True
    for line in lines:
        starts, whole = whole, line.endswith(b"\n") or len(line) < MAX_LINE
        if not starts:
            continue
        number += 1
        text, comment, _ = line.partition(b"#")
        # What would stand behind such a space is not there to be looked at.
        cut = not whole and not comment and text[-1:].isspace()
        text = text.strip().lower()
        if not text and not cut:
            continue
        try:
            if cut:
                raise ValueError(f"expected at most {MAX_LINE} bytes, or a comment")
            # Without its dot `*.` would be everything.
            reader.read(text[:-1] if text[-1:] == b"." and text[-2:-1] not in b"*." else text)
        except _Full as error:
            faults.append((number, str(error)))
            break
        except ValueError as error:
            if len(faults) < MAX_FAULTS:
                faults.append((number, str(error).removeprefix("which ")))  # the text is not told
            else:
                more += 1
    if more:
        faults.append((0, f"and {more} more faults"))
    return reader.finish(), faults


class _Full(Exception):
    """No more entries are taken in; the text says why."""


class _Reader:
    """Takes entries in."""

    __slots__ = ("_count", "_lengths", "_parts", "_patterns")

    def __init__(self) -> None:
        self._count = 0
        self._patterns: list[str] = []
        self._lengths: set[tuple[int, int]] = set()
        # By the first byte: while keys are sorted each is an object, and other threads wait.
        self._parts: list[array[int]] = [array("Q") for _ in range(256)]

    def read(self, text: bytes) -> None:
        """One entry, in lower case.

        Raises:
            ValueError: it is none; the text says what was expected
            _Full: it is one too many
        """
        self._count += 1
        if self._count > MAX_ENTRIES:
            raise _Full(f"expected at most {MAX_ENTRIES} entries")
        if _is_plain(text) and len(text) <= values.MAX_NAME:
            self._add_name(text.decode())
            return
        try:
            entry = text.decode("ascii")
        except UnicodeDecodeError:
            raise ValueError(
                "expected ASCII: write an international name in its xn-- form"
            ) from None
        if any(char.isspace() for char in entry):
            raise ValueError("expected one name or network a line")
        address, slash, _ = entry.partition("/")
        if pack(address) is not None or (slash and address.replace(".", "").isdigit()):
            self._add_network(*values.network(entry))
            return
        if entry[0] == "[":
            raise ValueError("expected an address without brackets")
        values.domain(entry)
        name = entry[2:] if entry.startswith("*.") else entry.removeprefix(".")
        if "*" in name:
            if len(self._patterns) == MAX_PATTERNS:
                raise _Full(f"expected at most {MAX_PATTERNS} entries with a '*' inside")
            self._patterns.append(entry)
            return
        try:
            from_host(name.encode(), 1)
        except ProtocolError as error:
            raise ValueError(f"{error}") from None
        self._add_name(entry)

    def _add_name(self, entry: str) -> None:
        if entry[0] == "*":
            self._add(entry[1:])
            return
        self._add(entry)
        if entry[0] == ".":
            self._add(entry[1:])

    def _add_network(self, packed: bytes, length: int) -> None:
        size = len(packed)
        self._lengths.add((size, length))
        self._add(_network(int.from_bytes(packed, "big"), length, size))

    def _add(self, text: str) -> None:
        key = key_of(text)
        self._parts[key >> 56].append(key)

    def finish(self) -> RouteList:
        """The list of what was read."""
        keys = array("Q")
        for part in self._parts:
            keys.fromlist(sorted(set(part)))
        return RouteList(self._count, keys, self._patterns, self._lengths)
