from __future__ import annotations

import struct
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost_lite.errors import ProtocolError
from bifrost_lite.wire.netlink import (
    DELETED_ADDRESS,
    DONE,
    ERROR,
    INTERRUPTED,
    NEW_ADDRESS,
    RUNNING,
    UP,
    Address,
    Link,
    Message,
    NetlinkError,
    attributes,
    parse,
    parse_address,
    parse_error,
    parse_link,
    request_addresses,
    request_links,
    request_nothing,
)

LOCAL, PEER = b"\x0a\0\0\x01", b"\x0a\0\0\x02"
SIX = bytes.fromhex("20010db8000000000000000000000001")


def attribute(kind: int, data: bytes) -> bytes:
    padding = bytes(-len(data) % 4)
    return struct.pack("=HH", 4 + len(data), kind) + data + padding


def address(family: int, *attributes: bytes, prefix: int = 24, interface: int = 3) -> bytes:
    return struct.pack("=BBBBI", family, prefix, 0x80, 0, interface) + b"".join(attributes)


def message(kind: int, payload: bytes = b"", flags: int = 2, length: int | None = None) -> bytes:
    if length is None:
        length = 16 + len(payload)
    padding = bytes(-len(payload) % 4)
    return struct.pack("=IHHII", length, kind, flags, 7, 4242) + payload + padding


def link(*attributes: bytes, family: int = 0, number: int = 3, flags: int = UP | RUNNING) -> bytes:
    return struct.pack("=BBHiII", family, 0, 1, number, flags, 0) + b"".join(attributes)


def test_requests() -> None:
    expected = struct.pack("=IHHIIBBBBI", 24, 22, 0x301, 5, 0, 0, 0, 0, 0, 0)
    assert request_addresses(5) == expected
    expected = struct.pack("=IHHIIBBHiII", 40, 18, 0x301, 6, 0, 0, 0, 0, 0, 0, 0)
    assert request_links(6) == expected + struct.pack("=HHI", 8, 29, 8)
    assert request_nothing(7) == struct.pack("=IHHIII", 20, 19, 0x5, 7, 0, 0)


def test_messages_of_one_read() -> None:
    payload = address(2, attribute(2, LOCAL))
    data = message(NEW_ADDRESS, payload) + message(DELETED_ADDRESS, b"odd", INTERRUPTED)
    data += message(DONE, bytes(4))
    assert list(parse(data)) == [
        Message(NEW_ADDRESS, 2, 7, 4242, payload),
        Message(DELETED_ADDRESS, INTERRUPTED, 7, 4242, b"odd"),
        Message(DONE, 2, 7, 4242, bytes(4)),
    ]
    assert list(parse(b"")) == []


def test_what_came_before_a_fault_is_told() -> None:
    seen = []
    with pytest.raises(NetlinkError, match="the header of a message is cut"):
        seen.extend(parse(message(DONE) + b"x"))
    messages = parse(message(DONE) + b"x")
    assert next(messages).kind == DONE
    with pytest.raises(NetlinkError):
        next(messages)


@pytest.mark.parametrize("length", [0, 15, 17, 0xFFFFFFFF])
def test_wrong_length_of_a_message(length: int) -> None:
    with pytest.raises(NetlinkError, match="the length of a message is wrong"):
        list(parse(message(DONE, length=length)))


def test_addresses() -> None:
    four = address(2, attribute(1, LOCAL), attribute(2, LOCAL), attribute(3, b"lo\0"))
    assert parse_address(four) == Address(3, 24, LOCAL)
    assert parse_address(address(10, attribute(1, SIX), prefix=64)) == Address(3, 64, SIX)


def test_on_a_point_to_point_link_ours_is_the_local_one() -> None:
    for parts in ([attribute(1, PEER), attribute(2, LOCAL)], [attribute(2, LOCAL)]):
        assert parse_address(address(2, *parts)) == Address(3, 24, LOCAL)


def test_other_families_are_none() -> None:
    assert parse_address(address(7, attribute(1, LOCAL))) is None


@pytest.mark.parametrize(
    ("payload", "detail"),
    [
        (b"", "an address message is cut"),
        (address(2)[:-1], "an address message is cut"),
        (address(2), "an address has a wrong length"),
        (address(2, attribute(1, SIX)), "an address has a wrong length"),
        (address(10, attribute(1, LOCAL)), "an address has a wrong length"),
        (address(2, b"\x03\0\x01\0"), "the length of an attribute is wrong"),
        (address(2, b"\0\0\x01\0"), "the length of an attribute is wrong"),
        (address(2, attribute(1, LOCAL)[:-1]), "the length of an attribute is wrong"),
    ],
)
def test_broken_addresses(payload: bytes, detail: str) -> None:
    with pytest.raises(NetlinkError) as caught:
        parse_address(payload)
    assert caught.value.detail == detail
    assert isinstance(caught.value, ProtocolError)


def test_links() -> None:
    name = attribute(3, b"wg0\0")
    assert parse_link(link(attribute(4, b"size"), name)) == Link(3, UP | RUNNING, b"wg0")
    assert parse_link(link(name, number=70000, flags=0x1002)) == Link(70000, 0x1002, b"wg0")


def test_a_port_of_a_bridge_is_another_matter() -> None:
    assert parse_link(link(attribute(3, b"wg0\0"), family=7)) is None


@pytest.mark.parametrize(
    ("payload", "detail"),
    [
        (b"", "a link message is cut"),
        (link()[:-1], "a link message is cut"),
        (link(), "a link has no name"),
        (link(attribute(3, b"\0")), "a link has no name"),
        (link(attribute(3, b"wg0\0")[:-1]), "the length of an attribute is wrong"),
    ],
)
def test_broken_links(payload: bytes, detail: str) -> None:
    with pytest.raises(NetlinkError) as caught:
        parse_link(payload)
    assert caught.value.detail == detail


def test_attributes_lose_their_flags() -> None:
    data = attribute(0x8003, b"nested") + attribute(0x4004, b"big-endian")
    assert list(attributes(data)) == [(3, b"nested"), (4, b"big-endian")]
    assert list(attributes(b"head" + data, 4)) == list(attributes(data))


def test_trailing_bytes_too_short_for_an_attribute_are_padding() -> None:
    assert parse_address(address(2, attribute(2, LOCAL), b"\0\0")) == Address(3, 24, LOCAL)


def test_errors() -> None:
    assert parse_error((-13).to_bytes(4, sys.byteorder, signed=True) + bytes(16)) == 13
    assert parse_error(bytes(20)) == 0
    with pytest.raises(NetlinkError, match="an error message is cut"):
        parse_error(b"abc")


def test_every_cut_of_a_message_is_noticed() -> None:
    data = message(ERROR, bytes(20))
    assert len(list(parse(data))) == 1
    for size in range(1, len(data)):
        with pytest.raises(NetlinkError):
            list(parse(data[:size]))


@given(st.binary(max_size=300))
def test_garbage_raises_nothing_else(data: bytes) -> None:
    for reader in (
        lambda: list(parse(data)),
        lambda: parse_address(data),
        lambda: parse_link(data),
    ):
        try:
            reader()
        except NetlinkError:
            continue
