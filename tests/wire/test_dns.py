from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost_lite.errors import ProtocolError, Reason
from bifrost_lite.wire.dns import (
    AAAA,
    CNAME,
    NAME_ERROR,
    NO_ERROR,
    REFUSED,
    SOA,
    A,
    Answer,
    MessageError,
    encode_name,
    parse,
    query,
)

NAME = encode_name("www.a.example")
POINTER = b"\xc0\x0c"  # to the name of the question
ONE, TWO = b"\xc0\x00\x02\x01", b"\xc0\x00\x02\x02"
SIX = bytes.fromhex("20010db8000000000000000000000001")
NUMBER = 0x1234


def record(owner: bytes, kind: int, ttl: int, data: bytes, group: int = 1) -> bytes:
    return owner + struct.pack("!HHIH", kind, group, ttl, len(data)) + data


def soa(ttl: int, minimum: int, owner: bytes = b"\x01a\x07example\0") -> bytes:
    numbers = struct.pack("!5I", 1, 2, 3, 4, minimum)
    return record(owner, SOA, ttl, b"\x02ns\xc0\x0c\0" + numbers)


def message(
    *answers: bytes,
    authority: tuple[bytes, ...] = (),
    number: int = NUMBER,
    flags: int = 0x8180,
    question: bytes | None = None,
    kind: int = A,
) -> bytes:
    if question is None:
        question = NAME + struct.pack("!HH", kind, 1)
    counts = (1, len(answers), len(authority), 0)
    return struct.pack("!6H", number, flags, *counts) + question + b"".join(answers + authority)


def read(data: bytes, kind: int = A) -> Answer:
    return parse(data, NUMBER, NAME, kind)


def test_encode_name() -> None:
    assert encode_name("localhost") == b"\x09localhost\0"
    assert encode_name("A.Example") == b"\x01a\x07example\0"
    assert len(encode_name(".".join(["a" * 63] * 3 + ["b" * 61]))) == 255


@pytest.mark.parametrize(
    "name",
    ["", ".", "a.", ".a", "a..b", "a" * 64, ".".join(["a" * 63] * 4), "b\u00fccher.example"],
)
def test_encode_name_refuses(name: str) -> None:
    with pytest.raises(MessageError) as caught:
        encode_name(name)
    assert caught.value.reason is Reason.DNS_FAILED


def test_query() -> None:
    assert query(NUMBER, b"\x01a\0", AAAA) == bytes.fromhex(
        "1234 0100 0001 0000 0000 0000 01 61 00 001c 0001"
    )


def test_addresses_and_their_least_ttl() -> None:
    data = message(record(POINTER, A, 300, ONE), record(POINTER, A, 60, TWO))
    assert read(data) == Answer((ONE, TWO), 60, NO_ERROR, False)
    data = message(record(POINTER, AAAA, 5, SIX), kind=AAAA)
    assert read(data, AAAA) == Answer((SIX,), 5, NO_ERROR, False)


def test_what_stands_behind_is_not_read() -> None:
    data = message(record(POINTER, A, 300, ONE)) + b"trailing \xff bytes"
    assert read(data).addresses == (ONE,)


def test_case_does_not_matter() -> None:
    question = b"\x03WwW\x01a\x07EXAMPLE\0\0\x01\0\x01"
    data = message(record(b"\x03wWw\xc0\x10", A, 9, ONE), question=question)
    assert read(data).addresses == (ONE,)


def test_chain_of_aliases_in_any_order() -> None:
    cdn, edge = encode_name("cdn.b.example"), encode_name("edge.c.example")
    records = [
        record(edge, A, 300, ONE),
        record(cdn, CNAME, 20, edge),
        record(POINTER, CNAME, 100, cdn),
        record(encode_name("other.example"), A, 1, TWO),
        record(POINTER, 16, 1, b"\x04text"),
        record(POINTER, A, 1, TWO, group=3),  # class CHAOS
    ]
    assert read(message(*records)) == Answer((ONE,), 20, NO_ERROR, False)
    assert read(message(*reversed(records))) == Answer((ONE,), 20, NO_ERROR, False)


def test_alias_in_compressed_form() -> None:
    start = 12 + len(NAME) + 4
    alias = record(POINTER, CNAME, 50, b"\x03cdn\xc0\x10")  # cdn. + a.example of the question
    target = struct.pack("!H", 0xC000 | (start + 12))
    data = message(alias, record(target, A, 60, ONE))
    assert read(data) == Answer((ONE,), 50, NO_ERROR, False)


def test_alias_that_leads_nowhere() -> None:
    data = message(record(POINTER, CNAME, 50, encode_name("x.example")), authority=(soa(90, 70),))
    assert read(data) == Answer((), 50, NO_ERROR, False)


def test_negative_answers_hold_as_the_soa_says() -> None:
    assert read(message(authority=(soa(300, 60),))) == Answer((), 60, NO_ERROR, False)
    other = record(POINTER, 2, 9, NAME)
    data = message(authority=(other, soa(30, 60)), flags=0x8183)
    assert read(data) == Answer((), 30, NAME_ERROR, False)
    assert read(message(flags=0x8183)) == Answer((), 0, NAME_ERROR, False)


def test_an_alias_with_name_error() -> None:
    data = message(record(POINTER, CNAME, 50, encode_name("x.example")), flags=0x8183)
    assert read(data) == Answer((), 0, NAME_ERROR, False)


def test_failures_are_told_without_reading_on() -> None:
    assert read(message(b"garbage", flags=0x8185)) == Answer((), 0, REFUSED, False)
    assert read(message(b"garbage", flags=0x8380)) == Answer((), 0, NO_ERROR, True)


def test_a_ttl_with_the_highest_bit_is_none() -> None:
    assert read(message(record(POINTER, A, 0x80000000, ONE))).ttl == 0


def test_name_of_greatest_length() -> None:
    name = encode_name(".".join(["a" * 63] * 3 + ["b" * 61]))
    data = message(record(name, A, 1, ONE), question=name + b"\0\x01\0\x01")
    assert parse(data, NUMBER, name, A).addresses == (ONE,)


LOOP = encode_name("loop.example")

BROKEN = {
    "the id is another": message(number=0x1235),
    "it is no response to a query": message(flags=0x0100),
    "the question is another": message(question=encode_name("x.a.example") + b"\0\x01\0\x01"),
    "an address has another length": message(record(POINTER, A, 1, ONE + b"x")),
    "the data of a record are cut": message(record(POINTER, A, 1, ONE))[:-1],
    "a record is cut": message(record(POINTER, A, 1, ONE))[:-6],
    "the chain of aliases is too long": message(
        record(POINTER, CNAME, 1, LOOP), record(LOOP, CNAME, 1, LOOP)
    ),
    "an alias has another length than its record": message(record(POINTER, CNAME, 1, LOOP + b"x")),
    "an SOA has another length": message(authority=(record(POINTER, SOA, 1, LOOP + LOOP + b"x"),)),
    "a label has an unknown type": message(record(b"\x41a\0", A, 1, ONE)),
    "a name is cut": message(b"\x3fshort"),
    "a name is too long": message((b"\x3f" + b"a" * 63) * 4 + b"\0" + bytes(14)),
    "there are too many records": message(*[record(POINTER, A, 1, ONE)] * 513),
    "the header is cut": message()[:11],
}


@pytest.mark.parametrize("detail", BROKEN)
def test_broken(detail: str) -> None:
    with pytest.raises(MessageError) as caught:
        read(BROKEN[detail])
    assert caught.value.detail == detail
    assert isinstance(caught.value, ProtocolError)


@pytest.mark.parametrize(
    "data",
    [
        message(flags=0x9180),  # opcode 2
        message(flags=0x0180),  # a query
        message(kind=AAAA),
        message(question=NAME + b"\0\x01\0\x03"),  # class CHAOS
        message(question=b""),
        message().replace(b"\0\x01\0\0\0\0\0\0", b"\0\0\0\0\0\0\0\0", 1),  # no question
        message().replace(b"\0\x01\0\0\0\0\0\0", b"\0\x02\0\0\0\0\0\0", 1),  # two questions
        b"",
    ],
)
def test_an_answer_to_something_else(data: bytes) -> None:
    with pytest.raises(MessageError):
        read(data)


@pytest.mark.parametrize(
    "owner",
    [
        struct.pack("!H", 0xC000 | 12 + len(NAME) + 4),  # to itself
        struct.pack("!H", 0xFFFF),  # forward, out of the message
        b"\x01a" + struct.pack("!H", 0xC000 | 12 + len(NAME) + 4),  # to its own start
        b"\x01a" + struct.pack("!H", 0xC000 | 12 + len(NAME) + 6),  # to itself, by its middle
    ],
)
def test_pointers_only_lead_back(owner: bytes) -> None:
    with pytest.raises(MessageError, match="points forward"):
        read(message(record(owner, A, 1, ONE)))


def test_pointers_are_followed_only_so_far() -> None:
    # A text record full of pointers, each to the one before it.
    start = 12 + len(NAME) + 4 + 2 + 10
    chain = b"".join(struct.pack("!H", 0xC000 | start + 2 * i - 2) for i in range(1, 100))
    chain = b"\xc0\x10" + chain

    def reaches(jumps: int) -> bytes:
        owner = struct.pack("!H", 0xC000 | start + 2 * (jumps - 2))
        return message(record(POINTER, 16, 1, chain), record(owner, A, 1, ONE))

    assert read(reaches(32)).addresses == ()
    with pytest.raises(MessageError, match="too often"):
        read(reaches(33))


def test_pointer_into_the_header_is_just_bytes() -> None:
    # 0x1234 as a label length is out of range sooner or later: an error, not a crash.
    with pytest.raises(MessageError):
        read(message(record(b"\xc0\x00", A, 1, ONE)))


WHOLE = message(
    record(POINTER, CNAME, 100, b"\x03cdn\xc0\x10"),
    record(encode_name("cdn.a.example"), A, 300, ONE),
)


def test_every_cut_is_noticed() -> None:
    assert read(WHOLE).addresses == (ONE,)
    for size in range(len(WHOLE)):
        with pytest.raises(MessageError):
            read(WHOLE[:size])


@given(st.binary(max_size=600))
def test_garbage_raises_nothing_else(data: bytes) -> None:
    try:
        read(data)
    except MessageError:
        return


@given(st.binary(max_size=200), st.integers(0, 3), st.integers(0, 3), st.sampled_from([A, AAAA]))
def test_garbage_behind_a_right_question(
    data: bytes, answers: int, authorities: int, kind: int
) -> None:
    header = struct.pack("!6H", NUMBER, 0x8180, 1, answers, authorities, 0)
    try:
        answer = read(header + NAME + struct.pack("!HH", kind, 1) + data, kind)
    except MessageError:
        return
    assert all(len(packed) == (4 if kind == A else 16) for packed in answer.addresses)


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_one_wrong_byte_raises_nothing_else(at: int, byte: int) -> None:
    data = bytearray(WHOLE)
    data[at] = byte
    try:
        read(bytes(data))
    except MessageError:
        return


labels = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=63)


@given(st.lists(labels, min_size=1, max_size=5).map(".".join).filter(lambda n: len(n) <= 253))
def test_a_name_survives_the_way(name: str) -> None:
    wire = encode_name(name)
    data = message(record(wire, A, 7, ONE), question=wire.upper() + b"\0\x01\0\x01")
    assert parse(data, NUMBER, wire, A) == Answer((ONE,), 7, NO_ERROR, False)
