"""The header of a datagram: whole, cut short anywhere, and with stale bytes behind it."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost_lite.errors import ProtocolError, Reason
from bifrost_lite.target import Target
from bifrost_lite.wire.intake import Intake
from bifrost_lite.wire.socks import Associate
from bifrost_lite.wire.udp import (
    HEADER_LIMIT,
    associated,
    header_end,
    make_header,
    read_target,
)

V4 = bytes([192, 0, 2, 1])
V6 = bytes.fromhex("20010db8000000000000000000000001")
DNS = b"\0\x35"


def header(kind: int, host: bytes, port: bytes = DNS) -> bytes:
    return bytes([0, 0, 0, kind]) + host + port


def named(name: bytes, port: bytes = DNS) -> bytes:
    return header(3, bytes([len(name)]) + name, port)


def read(data: bytes) -> tuple[Target, bytes] | None:
    """Target and payload of a datagram; stale bytes of longer ones behind it change nothing."""
    end = header_end(data, len(data))
    stale = bytearray(data + b"\0\0\0\1" + V4 * 80)
    assert header_end(stale, len(data)) == end
    return (read_target(data[:end]), data[end:]) if end else None


GOOD = [
    (header(1, V4), "192.0.2.1:53", V4),
    (header(1, b"\0\0\0\0", b"\0\1"), "0.0.0.0:1", bytes(4)),
    (header(4, V6, b"\xff\xff"), "[2001:db8::1]:65535", V6),
    (header(4, b"\0" * 10 + b"\xff\xff" + V4), "192.0.2.1:53", V4),
    (named(b"x"), "x:53", None),
    (named(b"WWW.Example.COM."), "www.example.com:53", None),
    (named(b".".join([b"a" * 63] * 3 + [b"b" * 61])), None, None),
    # An address as a name is an address: the guards must see it as one.
    (named(b"127.0.0.1"), "127.0.0.1:53", bytes([127, 0, 0, 1])),
    (named(b"::1"), "[::1]:53", bytes(15) + b"\1"),
]


@pytest.mark.parametrize("payload", [b"", b"\0", b"x" * 65000])
@pytest.mark.parametrize(("data", "text", "packed"), GOOD)
def test_good(data: bytes, text: str | None, packed: bytes | None, payload: bytes) -> None:
    found = read(data + payload)
    assert found is not None
    target, rest = found
    assert target.packed == packed
    assert rest == payload
    assert text is None or target.text == text


@pytest.mark.parametrize(("data", "text", "packed"), GOOD)
def test_cut_short(data: bytes, text: str | None, packed: bytes | None) -> None:
    for size in range(len(data)):
        assert read(data[:size]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"\1\0\0\1" + V4 + DNS,
        b"\0\1\0\1" + V4 + DNS,
        # Fragments: the first, a later one, the last (high bit).
        b"\0\0\1\1" + V4 + DNS,
        b"\0\0\x7f\1" + V4 + DNS,
        b"\0\0\x81\1" + V4 + DNS,
        header(0, V4),
        header(2, V4),
        header(5, V4),
        header(0xFF, V4),
        named(b"") + b"behind",
    ],
)
def test_not_served(data: bytes) -> None:
    assert read(data) is None
    assert read(data + b"payload") is None


@pytest.mark.parametrize(
    "data",
    [
        header(1, V4, b"\0\0"),
        header(4, V6, b"\0\0"),
        named(b"a.example", b"\0\0"),
        named(b"."),
        named(b"a..b"),
        named(b"a\0b"),
        named(b"a:80"),
        named(b"127.1"),
        named(b"\xff"),
        named(b"n" * 255),
    ],
)
def test_bad_target(data: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        read(data + b"payload")
    assert caught.value.reason is Reason.BAD_REQUEST


@pytest.mark.parametrize(
    ("packed", "port", "data"),
    [(V4, 53, header(1, V4)), (V6, 65535, header(4, V6, b"\xff\xff"))],
)
def test_made(packed: bytes, port: int, data: bytes) -> None:
    assert make_header(packed, port) == data
    assert associated(packed, port) == b"\x05" + data[1:]
    assert read(data) == (read_target(data), b"")


def test_the_longest_header() -> None:
    data = named(b"n" * 255)
    assert header_end(data, len(data)) == len(data) == HEADER_LIMIT


@given(st.ip_addresses(), st.integers(1, 65535), st.binary(max_size=40))
def test_what_is_made_is_read(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int, payload: bytes
) -> None:
    found = read(make_header(address.packed, port) + payload)
    assert found is not None
    target, rest = found
    folded = getattr(address, "ipv4_mapped", None) or address
    assert (target.packed, target.port, rest) == (folded.packed, port, payload)


@given(
    st.one_of(
        st.binary(max_size=300),
        st.builds(bytes.__add__, st.just(b"\0\0\0"), st.binary(max_size=300)),
        st.builds(
            lambda kind, rest: bytes([0, 0, 0, kind]) + rest,
            st.sampled_from([1, 3, 4]),
            st.binary(max_size=300),
        ),
    )
)
def test_anything_is_taken_or_dropped(data: bytes) -> None:
    try:
        found = read(data)
    except ProtocolError:
        return
    if found is not None:
        target, payload = found
        assert data[:3] == b"\0\0\0"
        assert data.endswith(payload)
        assert 0 < target.port < 65536


@pytest.mark.parametrize("pieces", ["whole", "bytes"])
def test_the_request_comes_out_of_the_intake(pieces: str) -> None:
    data = b"\x05\x01\x00\x05\x03\x00\x01\0\0\0\0\x12\x34"
    intake = Intake("auto")
    answered = b""
    asked: object = None
    size = len(data) if pieces == "whole" else 1
    for at in range(0, len(data), size):
        assert asked is None
        intake.buffer += data[at : at + size]
        asked = intake.read()
        while isinstance(asked, bytes):
            answered += asked
            asked = intake.read() if intake.buffer else None
    assert asked == Associate(0x1234)
    assert answered == b"\x05\x00"
    assert intake.buffer == b""
