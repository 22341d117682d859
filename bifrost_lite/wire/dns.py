"""DNS messages of a stub resolver: one question out, its addresses in (RFC 1035).

Names travel here in wire form, each label behind its length, in lower case. Lengths are
below 64 and so no letters: lower-casing the whole changes labels alone, and two names are
the same if their bytes are.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from ..errors import ProtocolError, Reason

A, CNAME, SOA, AAAA = 1, 5, 6, 28  # record types
NO_ERROR, FORMAT_ERROR, SERVER_FAILURE, NAME_ERROR, NOT_IMPLEMENTED, REFUSED = range(6)

MAX_NAME = 253  # characters: 255 bytes on the wire, less the first length and the root
_MAX_WIRE_NAME = 255
_MAX_CHAIN = 16  # aliases to follow, as BIND does
_MAX_JUMPS = 32  # pointers in one name: each should save a label at least
_MAX_RECORDS = 512  # of one answer: more than fit into 8 KiB
_MAX_TTL = 0x7FFFFFFF
_IN = 1

_QUESTION = b"\xc0\x0c"  # a compressed name: the one behind the header

_header = Struct("!6H")  # id, flags, counts of questions, answers, authorities, additionals
_record = Struct("!HHIH")  # type, class, TTL, length of the data
_numbers = Struct("!5I")  # of an SOA; the last is the negative TTL

_RESPONSE, _OPCODE, _TRUNCATED, _RECURSE, _CODE = 0x8000, 0x7800, 0x0200, 0x0100, 0x000F


class Answer(NamedTuple):
    """What a name server said.

    Attributes:
        addresses: of 4 or 16 bytes, in its order
        ttl: seconds that the answer holds, whether it has addresses or none; 0 if unknown
        code: the response code
        truncated: it did not fit: nothing else was read, ask again by TCP
    """

    addresses: tuple[bytes, ...]
    ttl: int
    code: int
    truncated: bool


class MessageError(ProtocolError):
    """A name server's message breaks RFC 1035, or answers something else."""

    def __init__(self, detail: str) -> None:
        super().__init__(Reason.DNS_FAILED, detail)


def encode_name(name: str) -> bytes:
    """A name in wire form.

    Args:
        name: ASCII, without a dot at the end

    Raises:
        MessageError: a label has no or more than 63 bytes, or the name more than 253
    """
    if len(name) > MAX_NAME or not name.isascii():
        raise MessageError(f"a name is ASCII of at most {MAX_NAME} bytes")
    wire = bytearray()
    for label in name.lower().encode().split(b"."):
        if not 0 < len(label) < 64:
            raise MessageError("a label of a name has 1 to 63 bytes")
        wire.append(len(label))
        wire += label
    wire.append(0)
    return bytes(wire)


def query(number: int, name: bytes, kind: int) -> bytes:
    """A question that asks for recursion.

    Args:
        number: the id, 16 random bits
        name: in wire form
        kind: A or AAAA
    """
    return b"%b%b\x00%c\x00%c" % (_header.pack(number, _RECURSE, 1, 0, 0, 0), name, kind, _IN)


def parse(message: bytes, number: int, name: bytes, kind: int) -> Answer:
    """The answer to `query(number, name, kind)`.

    Raises:
        MessageError: it is no answer to that, or broken
    """
    if len(message) < 12:
        raise MessageError("the header is cut")
    got, flags, questions, answers, authorities, _ = _header.unpack_from(message)
    if got != number:
        raise MessageError("the id is another")
    if flags & (_RESPONSE | _OPCODE) != _RESPONSE:
        raise MessageError("it is no response to a query")
    at = 12 + len(name)
    # The question has nothing before it that a compressed name could point to.
    if (
        questions != 1
        or message[12:at].lower() != name
        or message[at : at + 4] != b"\x00%c\x00%c" % (kind, _IN)
    ):
        raise MessageError("the question is another")
    code = flags & _CODE
    if flags & _TRUNCATED:
        return Answer((), 0, code, True)
    if code not in (NO_ERROR, NAME_ERROR):
        return Answer((), 0, code, False)
    return _Message(message, name).answer(at + 4, kind, code, answers, authorities)


class _Message:
    """The records of a message behind its question for `name`."""

    __slots__ = ("bytes", "name", "names")

    def __init__(self, message: bytes, name: bytes) -> None:
        self.bytes = message
        self.name = name
        self.names = {12: name}  # those read so far, by where they begin

    def answer(self, at: int, kind: int, code: int, answers: int, authorities: int) -> Answer:
        if answers + authorities > _MAX_RECORDS:
            raise MessageError("there are too many records")
        size = 4 if kind == A else 16
        aliases: dict[bytes, tuple[bytes, int]] = {}
        found: dict[bytes, list[tuple[bytes, int]]] = {}
        for _ in range(answers):
            owner, what, ttl, at, end = self.record(at)
            if what == kind:
                if end - at != size:
                    raise MessageError("an address has another length")
                found.setdefault(owner, []).append((self.bytes[at:end], ttl))
            elif what == CNAME:
                alias, after = self.read_name(at)
                if after != end:
                    raise MessageError("an alias has another length than its record")
                aliases.setdefault(owner, (alias, ttl))
            at = end
        name, lives = self.name, _MAX_TTL
        for _ in range(_MAX_CHAIN):
            if name not in aliases:
                break
            name, ttl = aliases[name]
            lives = min(lives, ttl)
        else:
            raise MessageError("the chain of aliases is too long")
        if name in found and code == NO_ERROR:
            records = found[name]
            lives = min(lives, min(ttl for _, ttl in records))
            return Answer(tuple(packed for packed, _ in records), lives, code, False)
        return Answer((), min(lives, self.negative_ttl(at, authorities)), code, False)

    def negative_ttl(self, at: int, authorities: int) -> int:
        """How long an answer without addresses holds; 0 where no SOA tells."""
        for _ in range(authorities):
            _, what, ttl, at, end = self.record(at)
            if what == SOA:
                _, at = self.read_name(at)
                _, at = self.read_name(at)
                if end - at != _numbers.size:
                    raise MessageError("an SOA has another length")
                # RFC 2308 section 5: the lesser of its own TTL and its MINIMUM.
                return min(ttl, int(_numbers.unpack_from(self.bytes, at)[4]))
            at = end
        return 0

    def record(self, at: int) -> tuple[bytes, int, int, int, int]:
        """Owner, type (0 in another class), TTL, and where the data begin and end."""
        owner, at = self.read_name(at)
        start = at + _record.size
        if start > len(self.bytes):
            raise MessageError("a record is cut")
        kind, group, ttl, length = _record.unpack_from(self.bytes, at)
        if start + length > len(self.bytes):
            raise MessageError("the data of a record are cut")
        if ttl > _MAX_TTL:  # RFC 2181 section 8
            ttl = 0
        return owner, kind if group == _IN else 0, ttl, start, start + length

    def read_name(self, at: int) -> tuple[bytes, int]:
        """A name, and where it ends; compression of section 4.1.4 undone."""
        message, size = self.bytes, len(self.bytes)
        if message[at : at + 2] == _QUESTION:  # most are the name of the question
            return self.name, at + 2
        wire = b""
        begin = floor = at  # a pointer leads to before the name it stands in: no loops
        after = jumps = 0
        while at < size:
            length = message[at]
            if length >= 192:
                if at + 1 >= size:
                    break
                target = (length & 63) << 8 | message[at + 1]
                jumps += 1
                if target >= floor or jumps > _MAX_JUMPS:
                    raise MessageError("a compressed name points forward, or too often")
                after = after or at + 2
                if target not in self.names:
                    at = floor = target
                    continue
                wire += self.names[target]
            elif length < 64:
                at += 1 + length
                wire += message[at - length - 1 : at]
                if length:
                    continue
                after = after or at
            else:
                raise MessageError("a label has an unknown type")
            if at > size:
                break
            if len(wire) > _MAX_WIRE_NAME:
                raise MessageError("a name is too long")
            name = self.names[begin] = wire.lower()
            return name, after
        raise MessageError("a name is cut")
