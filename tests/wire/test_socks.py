from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost_lite.errors import ProtocolError, Reason
from bifrost_lite.target import Target
from bifrost_lite.wire.socks import (
    CONNECT,
    GRANTED4,
    REJECTED4,
    TEXT_LIMIT,
    UDP_ASSOCIATE,
    Associate,
    read_greeting,
    read_login,
    read_request,
    read_request4,
    reply,
)

T = TypeVar("T")

V4 = bytes([192, 0, 2, 1])
V6 = bytes.fromhex("20010db8000000000000000000000001")
NAME = b"www.example.com"
HTTPS = b"\x01\xbb"


def grow(read: Callable[[bytes], T | None], data: bytes, rest: bytes) -> T:
    """What `read` makes of `data`; it must want every byte of it and mind none of `rest`."""
    for end in range(len(data)):
        assert read(data[:end]) is None
    result = read(data)
    assert result is not None
    assert read(data + rest) == result
    return result


def refusal(read: Callable[[bytes], object], data: bytes) -> ProtocolError:
    """The refusal of `data`, the same for all that follows and when it comes byte by byte."""
    with pytest.raises(ProtocolError) as caught:
        read(data)
    with pytest.raises(ProtocolError) as later:
        read(data + b"\x05\x01\0\0")
    assert later.value.reason is caught.value.reason
    for end in range(len(data)):
        try:
            assert read(data[:end]) is None
        except ProtocolError as early:
            assert early.reason is caught.value.reason  # noqa: PT017
    return caught.value


RESTS = [b"", b"\0", b"\x05\x01\x00", b"GET / HTTP/1.1\r\n\r\n"]

# SOCKS5, RFC 1928.


@pytest.mark.parametrize("rest", RESTS)
@pytest.mark.parametrize("methods", [b"\0", b"\2", b"\0\1\2", b"\xff", bytes(range(255))])
def test_greeting(methods: bytes, rest: bytes) -> None:
    data = bytes([5, len(methods)]) + methods
    assert grow(read_greeting, data, rest) == (methods, len(data))


@pytest.mark.parametrize("first", [b"\x04", b"\x06", b"\0", b"\xff", b"G"])
def test_greeting_of_another_version(first: bytes) -> None:
    assert refusal(read_greeting, first + b"\x01\x00").reason is Reason.BAD_REQUEST


def test_greeting_without_methods() -> None:
    """There is nothing to choose from: RFC 1928 section 3 answers 0xFF."""
    assert refusal(read_greeting, b"\x05\x00").reason is Reason.NO_METHOD


# RFC 1929.


@pytest.mark.parametrize("rest", RESTS)
@pytest.mark.parametrize("password", [b"x", b"\1\xff", b"p" * 255])
@pytest.mark.parametrize("name", [b"u", "zoë".encode(), b"n" * 255])
def test_login(name: bytes, password: bytes, rest: bytes) -> None:
    data = login(name, password)
    assert grow(read_login, data, rest) == (name, password, len(data))


def login(name: bytes, password: bytes) -> bytes:
    return b"\x01%c%b%c%b" % (len(name), name, len(password), password)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x05" + login(b"u", b"p")[1:], Reason.BAD_REQUEST),
        (b"\0", Reason.BAD_REQUEST),
        (login(b"", b"p"), Reason.AUTH_FAILED),
        (login(b"u", b""), Reason.AUTH_FAILED),
        (login(b"u", b"right\0"), Reason.AUTH_FAILED),
        (login(b"u\0", b"p"), Reason.AUTH_FAILED),
    ],
)
def test_no_login(data: bytes, reason: Reason) -> None:
    assert refusal(read_login, data).reason is reason


@given(st.binary(max_size=600))
def test_any_login_is_taken_or_refused(data: bytes) -> None:
    try:
        found = read_login(data)
    except ProtocolError:
        return
    if found is not None:
        name, password, end = found
        assert data[:end] == login(name, password)


def request(kind: int, host: bytes, port: bytes = HTTPS, command: int = CONNECT) -> bytes:
    return bytes([5, command, 0, kind]) + host + port


def named(name: bytes, port: bytes = HTTPS, command: int = CONNECT) -> bytes:
    return request(3, bytes([len(name)]) + name, port, command)


@pytest.mark.parametrize("rest", RESTS)
@pytest.mark.parametrize(
    ("data", "text", "packed"),
    [
        (request(1, V4), "192.0.2.1:443", V4),
        (request(1, b"\0\0\0\0", b"\0\1"), "0.0.0.0:1", bytes(4)),
        (request(4, V6, b"\xff\xff"), "[2001:db8::1]:65535", V6),
        (request(4, bytes(16)), "[::]:443", bytes(16)),
        (request(4, b"\0" * 10 + b"\xff\xff" + V4), "192.0.2.1:443", V4),
        (named(NAME), "www.example.com:443", None),
        (named(b"WWW.Example.COM."), "www.example.com:443", None),
        (named(b"x"), "x:443", None),
        (named(b".".join([b"a" * 63] * 3 + [b"b" * 61])), None, None),
        # An address as a name is an address: the guards must see it as one.
        (named(b"127.0.0.1"), "127.0.0.1:443", bytes([127, 0, 0, 1])),
        (named(b"::1"), "[::1]:443", b"\0" * 15 + b"\x01"),
        (named(b"::ffff:192.0.2.1"), "192.0.2.1:443", V4),
    ],
)
def test_request(data: bytes, text: str | None, packed: bytes | None, rest: bytes) -> None:
    command, target, end = grow(read_request, data, rest)
    assert (command, end) == (CONNECT, len(data))
    assert isinstance(target, Target)
    assert target.packed == packed
    if text is not None:
        assert str(target) == text


@pytest.mark.parametrize("rest", RESTS)
@pytest.mark.parametrize(
    ("data", "port"),
    [
        (request(1, bytes(4), b"\0\0", command=UDP_ASSOCIATE), 0),
        (request(1, V4, b"\x12\x34", command=UDP_ASSOCIATE), 0x1234),
        (request(4, bytes(16), b"\0\1", command=UDP_ASSOCIATE), 1),
        (named(NAME, b"\xff\xff", command=UDP_ASSOCIATE), 65535),
        (named(b"not a name", command=UDP_ASSOCIATE), 443),  # nobody looks at it
    ],
)
def test_request_for_datagrams(data: bytes, port: int, rest: bytes) -> None:
    assert grow(read_request, data, rest) == (UDP_ASSOCIATE, Associate(port), len(data))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        # Versions and the reserved byte.
        (b"\x04" + request(1, V4)[1:], Reason.BAD_REQUEST),
        (b"\x00" + request(1, V4)[1:], Reason.BAD_REQUEST),
        (b"\x05\x01\x01\x01" + V4 + HTTPS, Reason.BAD_REQUEST),
        (b"\x05\x01\xff\x03" + NAME, Reason.BAD_REQUEST),
        # Commands: BIND is known and not served, the rest is unknown. Its port may be 0, and
        # that is not the fault to tell the client.
        (request(1, V4, command=2), Reason.BAD_COMMAND),
        (request(1, bytes(4), b"\0\0", command=2), Reason.BAD_COMMAND),
        (request(1, V4, command=0), Reason.BAD_COMMAND),
        (request(1, V4, command=4), Reason.BAD_COMMAND),
        (request(1, V4, command=0xF0), Reason.BAD_COMMAND),
        # Address types.
        (request(0, V4), Reason.BAD_ADDRESS_TYPE),
        (request(2, V4), Reason.BAD_ADDRESS_TYPE),
        (request(5, V4), Reason.BAD_ADDRESS_TYPE),
        (request(0xFF, V4), Reason.BAD_ADDRESS_TYPE),
        # Ports and hosts.
        (request(1, V4, b"\0\0"), Reason.BAD_REQUEST),
        (request(4, V6, b"\0\0"), Reason.BAD_REQUEST),
        (named(NAME, b"\0\0"), Reason.BAD_REQUEST),
        (named(b""), Reason.BAD_REQUEST),
        (named(b"."), Reason.BAD_REQUEST),
        (named(b"a..b"), Reason.BAD_REQUEST),
        (named(b"a\0b"), Reason.BAD_REQUEST),
        (named(b"127.0.0.1\0.example"), Reason.BAD_REQUEST),
        (named(b"a b"), Reason.BAD_REQUEST),
        (named(b"a/b"), Reason.BAD_REQUEST),
        (named(b"a:80"), Reason.BAD_REQUEST),
        (named(b"[::1]"), Reason.BAD_REQUEST),
        (named(b"127.1"), Reason.BAD_REQUEST),
        (named(b"0x7f000001"), Reason.BAD_REQUEST),
        (named("bücher.example".encode()), Reason.BAD_REQUEST),
        (named(b"a" * 64), Reason.BAD_REQUEST),
        (named(b".".join([b"a" * 50] * 5)), Reason.BAD_REQUEST),
    ],
)
def test_request_refused(data: bytes, reason: Reason) -> None:
    assert refusal(read_request, data).reason is reason


def test_a_request_of_another_version_is_refused_at_once() -> None:
    """Four bytes more need never come from a client that speaks something else."""
    assert refusal(read_request, b"\x04").reason is Reason.BAD_REQUEST


@pytest.mark.parametrize("reason", [None, *Reason])
def test_reply(reason: Reason | None) -> None:
    answer = reply(reason)
    assert answer == bytes([5, 0 if reason is None else reason.reply, 0, 1]) + bytes(6)


# SOCKS4, and 4a for names.


def request4(
    address: bytes, user: bytes = b"", port: bytes = HTTPS, name: bytes | None = None
) -> bytes:
    data = b"\x04\x01" + port + address + user + b"\0"
    return data if name is None else data + name + b"\0"


def named4(name: bytes, user: bytes = b"", port: bytes = HTTPS) -> bytes:
    return request4(b"\0\0\0\x01", user, port, name)


LONG = b"u" * TEXT_LIMIT


@pytest.mark.parametrize("rest", RESTS)
@pytest.mark.parametrize(
    ("data", "text", "packed"),
    [
        (request4(V4), "192.0.2.1:443", V4),
        (request4(V4, b"me"), "192.0.2.1:443", V4),
        (request4(V4, b"\xff\r\n"), "192.0.2.1:443", V4),
        (request4(V4, LONG), "192.0.2.1:443", V4),
        (request4(b"\0\0\1\1"), "0.0.1.1:443", b"\0\0\1\1"),  # no sign of 4a
        (request4(bytes(4)), "0.0.0.0:443", bytes(4)),  # nor this
        (named4(NAME), "www.example.com:443", None),
        (named4(NAME, LONG), "www.example.com:443", None),
        (named4(b"127.0.0.1", b"me"), "127.0.0.1:443", bytes([127, 0, 0, 1])),
        (request4(b"\0\0\0\xff", b"", b"\0\x50", b"X."), "x:80", None),
    ],
)
def test_request4(data: bytes, text: str, packed: bytes | None, rest: bytes) -> None:
    target, end = grow(read_request4, data, rest)
    assert (str(target), target.packed, end) == (text, packed, len(data))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x05" + request4(V4)[1:], Reason.BAD_REQUEST),
        (b"\x04\x02" + request4(V4)[2:], Reason.BAD_COMMAND),  # BIND
        (b"\x04\x03" + request4(V4)[2:], Reason.BAD_COMMAND),
        (b"\x04\x00" + request4(V4)[2:], Reason.BAD_COMMAND),
        (request4(V4, port=b"\0\0"), Reason.BAD_REQUEST),
        (named4(NAME, port=b"\0\0"), Reason.BAD_REQUEST),
        (named4(b""), Reason.BAD_REQUEST),
        (named4(b"127.1"), Reason.BAD_REQUEST),
        (named4(b"a b"), Reason.BAD_REQUEST),
        (request4(V4, LONG + b"u"), Reason.BAD_REQUEST),
        (request4(V4, LONG + b"u")[:-1], Reason.BAD_REQUEST),
        (request4(V4, b"u" * 5000), Reason.BAD_REQUEST),
        (named4(b"n" * (TEXT_LIMIT + 1)), Reason.BAD_REQUEST),
        (named4(b"n" * (TEXT_LIMIT + 1))[:-1], Reason.BAD_REQUEST),
        (named4(b"n" * 5000, LONG), Reason.BAD_REQUEST),
    ],
)
def test_request4_refused(data: bytes, reason: Reason) -> None:
    assert refusal(read_request4, data).reason is reason


def test_replies4() -> None:
    assert b"\0\x5a" + bytes(6) == GRANTED4
    assert b"\0\x5b" + bytes(6) == REJECTED4


# Generated requests.


def inet_ntop(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """As libc writes it: `::192.0.2.1` where ipaddress has `::c000:201`."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    return socket.inet_ntop(family, address.packed)


ports = st.integers(1, 65535)
labels = st.from_regex(r"\A[a-z_]([a-z0-9-]{0,20}[a-z])?\Z")
hosts = st.one_of(
    st.ip_addresses(v=4), st.ip_addresses(v=6), st.lists(labels, min_size=1, max_size=4)
)


@given(hosts, ports, st.binary(max_size=20))
def test_generated_requests(host: object, port: int, rest: bytes) -> None:
    raw = port.to_bytes(2, "big")
    if isinstance(host, ipaddress.IPv4Address):
        data, text = request(1, host.packed, raw), str(host)
    elif isinstance(host, ipaddress.IPv6Address):
        folded = host.ipv4_mapped or host
        data, text = request(4, host.packed, raw), inet_ntop(folded)
    else:
        assert isinstance(host, list)
        text = ".".join(host)
        data = named(text.upper().encode(), raw)
    command, target, end = grow(read_request, data, rest)
    assert isinstance(target, Target)
    assert (command, target.host, target.port, end) == (CONNECT, text, port, len(data))


@given(st.ip_addresses(v=4), ports, st.binary(max_size=20), labels, st.binary(max_size=20))
def test_generated_requests4(
    address: ipaddress.IPv4Address, port: int, user: bytes, name: str, rest: bytes
) -> None:
    raw = port.to_bytes(2, "big")
    user = user.replace(b"\0", b"")
    data, text = request4(address.packed, user, raw), str(address)
    if text.startswith("0.0.0."):
        data, text = named4(name.encode(), user, raw), name
    target, end = grow(read_request4, data, rest)
    assert (target.host, target.port, end) == (text, port, len(data))


@given(st.binary(max_size=300), st.sampled_from([b"", b"\5\1\0", b"\5\1\0\3", b"\4\1\0\x50"]))
def test_random_bytes_are_taken_or_refused(noise: bytes, first: bytes) -> None:
    readers: list[Callable[[bytes], object]] = [read_greeting, read_request, read_request4]
    for read in readers:
        try:
            read(first + noise)
        except ProtocolError as error:
            assert error.detail.isascii()  # noqa: PT017
