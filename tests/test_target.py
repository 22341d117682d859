from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bifrost_lite import target as target_module
from bifrost_lite.errors import ProtocolError, Reason
from bifrost_lite.target import (
    KNOWN_LIMIT,
    Target,
    fold,
    from_host,
    from_packed,
    pack,
    parse_authority,
    parse_port,
    read_authority,
    unpack,
)

V4 = bytes([192, 0, 2, 1])
V6 = bytes.fromhex("20010db8000000000000000000000001")
MAPPED = b"\0" * 10 + b"\xff\xff" + V4
LONGEST = b".".join([b"a" * 63] * 3 + [b"b" * 61])

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


@pytest.fixture(autouse=True)
def _nothing_remembered() -> Iterator[None]:
    target_module._known.clear()
    yield
    target_module._known.clear()


# One form of each target, however it is spelled.


@pytest.mark.parametrize(
    ("text", "host", "port", "packed"),
    [
        (b"example.com:443", "example.com", 443, None),
        (b"EXAMPLE.Com:443", "example.com", 443, None),
        (b"example.com.:443", "example.com", 443, None),
        (b"localhost:1", "localhost", 1, None),
        (b"a:65535", "a", 65535, None),
        (b"_dmarc.a-b.xn--bcher-kva:80", "_dmarc.a-b.xn--bcher-kva", 80, None),
        (b"1a.example:80", "1a.example", 80, None),
        (b"1.2.3.4.example:80", "1.2.3.4.example", 80, None),
        (b"0x7f.example:80", "0x7f.example", 80, None),
        (b"0x7g:80", "0x7g", 80, None),
        (b"1-2:80", "1-2", 80, None),
        (LONGEST + b":80", LONGEST.decode(), 80, None),
        (LONGEST + b".:80", LONGEST.decode(), 80, None),
        (b"192.0.2.1:80", "192.0.2.1", 80, V4),
        (b"192.0.2.1.:80", "192.0.2.1", 80, V4),
        (b"0.0.0.0:80", "0.0.0.0", 80, bytes(4)),
        (b"255.255.255.255:80", "255.255.255.255", 80, b"\xff" * 4),
        (b"[2001:db8::1]:80", "2001:db8::1", 80, V6),
        (b"[2001:DB8:0:0::0:1]:80", "2001:db8::1", 80, V6),
        (b"[2001:0db8:0000:0000:0000:0000:0000:0001]:80", "2001:db8::1", 80, V6),
        (b"[::]:80", "::", 80, bytes(16)),
        (b"[::1]:80", "::1", 80, b"\0" * 15 + b"\1"),
        # Both spell one IPv4 address, and a guard of IPv4 networks has to see that.
        (b"[::ffff:192.0.2.1]:80", "192.0.2.1", 80, V4),
        (b"[::FFFF:c000:201]:80", "192.0.2.1", 80, V4),
        (b"a:00080", "a", 80, None),
    ],
)
def test_canonical(text: bytes, host: str, port: int, packed: bytes | None) -> None:
    target = read_authority(text, None)
    assert (target.host, target.port, target.packed) == (host, port, packed)
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    assert str(target) == target.text == shown
    again = read_authority(shown.encode(), None)
    assert again == target
    assert hash(again) == hash(target)
    assert again.packed == packed


@pytest.mark.parametrize(
    ("text", "default", "port"),
    [
        (b"a", 80, 80),
        (b"a:", 80, 80),  # RFC 3986 section 3.2.3: an empty port is the default
        (b"a:81", 80, 81),
        (b"[::1]", 443, 443),
        (b"[::1]:", 443, 443),
        (b"[::1]:444", 443, 444),
        (b"1.2.3.4", 443, 443),
    ],
)
def test_default_port(text: bytes, default: int, port: int) -> None:
    assert read_authority(text, default).port == port


@pytest.mark.parametrize("text", [b"a", b"a:", b"[::1]", b"[::1]:", b"1.2.3.4"])
def test_a_port_may_be_required(text: bytes) -> None:
    assert refusal(text) == "the target has no port"


def refusal(text: bytes, default: int | None = None) -> str:
    with pytest.raises(ProtocolError) as caught:
        read_authority(text, default)
    assert caught.value.reason is Reason.BAD_REQUEST
    return caught.value.detail


# Spellings of IPv4 addresses that inet_aton takes and inet_pton does not. A rule sees a name
# here, finds no network that it is in, and the resolver dials 127.0.0.1: the way around
# every guard of loopback that compares text. Browsers rewrite them before they send them, so
# nobody needs them.
@pytest.mark.parametrize(
    "host",
    [
        b"127.1",
        b"127.0.1",
        b"2130706433",
        b"0x7f000001",
        b"0x7f.1",
        b"0x7f.0x0.0x0.0x1",
        b"0X7F.0.0.1",
        b"0x",
        b"a.0x",
        b"017700000001",
        b"0177.0.0.1",
        b"127.0.0.01",
        b"00.0.0.0",
        b"0",
        b"1.2.3",
        b"1.2.3.4.5",
        b"1.2.3.256",
        b"256.1.1.1",
        b"999.999.999.999",
        b"1.2.3.4.5.",
        b"127.1.",
        b"4294967296",
        b"example.123",
        b"example.0x7f",
        b"1.2.3.4294967295",
    ],
)
def test_half_an_address(host: bytes) -> None:
    assert refusal(host + b":80") == "the host looks like an IP address but is none"


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b".",
        b"..",
        b".a",
        b"a..b",
        b"a..",
        b"1.2.3.4..",
        b"a b",
        b" a",
        b"a\t",
        b"a\0",
        b"a\0.example",
        b"127.0.0.1\0",
        b"a\n",
        b"a\r\nHost",
        b"a/b",
        b"a\\b",
        b"a?b",
        b"a#b",
        b"a,b",
        b"a;b",
        b"a*b",
        b"*",
        b"a%62",
        b"%31.2.3.4",
        b"a%00",
        b"user@a",
        b"@a",
        b"a@",
        b"127.0.0.1@a",
        b"(a)",
        b"a'b",
        b"<script>",
        b"1.2.3.4]",
        b"a]",
        b"+1.2.3.4",
        b"-1.2.3.4/8",
        b"1.2.3.4/8",
        b"a" * 64,
        b"a" * 64 + b".example",
        b"x" + LONGEST,
        LONGEST + b".x",
        LONGEST + b"..",
        b"\x7f",
    ],
)
def test_no_host(host: bytes) -> None:
    for text in (host + b":80", host):
        assert refusal(text, 80).startswith("the host")


@pytest.mark.parametrize(
    "host",
    [
        "bücher.example",
        "ａ.example",
        "127。0。0。1",
        "１２７.0.0.1",
        "①.example",
        "localhoſt",
        "\u2488.2.3.4",
    ],
)
def test_no_ascii(host: str) -> None:
    """IDNA maps digits and dots of other scripts to ASCII: it is for the client to do."""
    assert "outside ASCII" in refusal(host.encode() + b":80")
    with pytest.raises(ProtocolError):
        read_authority(host.encode("latin-1", "replace").replace(b"?", b"\xff"), 80)


def test_overlong_hosts_cost_nothing() -> None:
    assert "longer than 253" in refusal(b"a." * 5000 + b":80")


@pytest.mark.parametrize(
    "text",
    [
        b"[",
        b"[]",
        b"[]:80",
        b"[::1",
        b"[::1:80",
        b"[::1]80",
        b"[::1] :80",
        b"[::1]]:80",
        b"[[::1]]:80",
        b"[1.2.3.4]:80",
        b"[example.com]:80",
        b"[v1.x]:80",
        b"[v1.x:y]:80",
        b"[:]:80",
        b"[:::]:80",
        b"[1::2::3]:80",
        b"[1:2:3:4:5:6:7]:80",
        b"[1:2:3:4:5:6:7:8:9]:80",
        b"[::12345]:80",
        b"[::g]:80",
        b"[::1.]:80",
        b"[::1.2.3]:80",
        b"[::1.2.3.256]:80",
        b"[::01.2.3.4]:80",
        b"[::ffff:127.1]:80",
        b"[ ::1]:80",
        b"[::1 ]:80",
        b"[::1/64]:80",
        # Zones mean something on one machine only, and not the client's.
        b"[fe80::1%lo]:80",
        b"[fe80::1%25lo]:80",
        b"[fe80::1%]:80",
        b"[::1\0]:80",
        b"[::\xb2]:80",
        b"::1",
        b"::1:80",
        b"2001:db8::1",
        b"a:b:80",
        b"a:80:",
        b"user:password@a:80",
        b"a:80@b",
    ],
)
def test_brackets_and_colons(text: bytes) -> None:
    assert refusal(text, 80)


@pytest.mark.parametrize(
    "port",
    [
        b"0",
        b"00000",
        b"65536",
        b"99999",
        b"000080",
        b"100000",
        b"4294967376",
        b"18446744073709551696",
        b"+80",
        b"-80",
        b" 80",
        b"80 ",
        b"8 0",
        b"80\n",
        b"8_0",
        b"0x50",
        b"80.0",
        b"8e1",
        b"http",
        b"80/",
        b"80\0",
        b"\xd9\xa8\xd9\xa0",
        b"\xb2",
        b"%38%30",
        # Over 4300 digits `int` has an error of its own.
        b"0" * 5000 + b"80",
        b"9" * 5000,
    ],
)
def test_ports(port: bytes) -> None:
    """tinyproxy's port wrapped round in 2025; ours is a number from 1 to 65535 or none."""
    assert refusal(b"a:" + port) == "the port is not a number from 1 to 65535"
    assert refusal(b"[::1]:" + port, 80) == "the port is not a number from 1 to 65535"


@pytest.mark.parametrize("port", [1, 80, 65535])
def test_port(port: int) -> None:
    assert parse_port(b"%d" % port) == parse_port(b"%05d" % port) == port


def test_packed_targets() -> None:
    assert from_packed(V4, 80) == Target("192.0.2.1", 80, V4)
    assert from_packed(V6, 80).text == "[2001:db8::1]:80"
    assert from_packed(MAPPED, 80).packed == V4
    for make in (lambda: from_packed(V4, 0), lambda: from_host(b"a", 0)):
        with pytest.raises(ProtocolError, match="the port is 0"):
            make()


def test_equality() -> None:
    one = Target("a", 80)
    assert one == Target("a", 80)
    assert one != Target("a", 81)
    assert one != Target("b", 80)
    assert one != "a:80"
    assert len({one, Target("a", 80), Target("a", 81)}) == 2


# What was read once is remembered, within a bound.


def test_targets_are_remembered() -> None:
    one = parse_authority(b"A.example:80", None)
    assert parse_authority(b"A.example:80", None) is one
    assert parse_authority(b"a.example:80", None) == one
    assert parse_authority(b"b.example", 80).port == 80
    assert parse_authority(b"b.example", 443).port == 443
    with pytest.raises(ProtocolError):
        parse_authority(b"b.example", None)


def test_refusals_are_not_remembered() -> None:
    for _ in range(2):
        with pytest.raises(ProtocolError):
            parse_authority(b"127.1:80", None)
    assert not target_module._known


def test_the_memory_of_targets_is_bounded() -> None:
    """In entries, and each entry in bytes: the longest text that is a target at all."""
    for number in range(3 * KNOWN_LIMIT):
        parse_authority(b"h%d:80" % number, None)
    assert len(target_module._known) <= KNOWN_LIMIT
    parse_authority(LONGEST + b".:00080", None)
    assert max(len(text) for text, _ in target_module._known) <= 300


# `ipaddress` as an oracle.


def folded(address: Address) -> Address:
    return (address.ipv4_mapped or address) if address.version == 6 else address


@given(addresses, st.integers(1, 65535), st.booleans())
@example(ipaddress.ip_address("::ffff:127.0.0.1"), 80, True)
@example(ipaddress.ip_address("::127.0.0.1"), 80, False)
@example(ipaddress.ip_address("64:ff9b::7f00:1"), 80, True)
def test_addresses(address: Address, port: int, exploded: bool) -> None:
    text = address.exploded.upper() if exploded else str(address)
    authority = f"[{text}]:{port}" if address.version == 6 else f"{text}:{port}"
    target = read_authority(authority.encode(), None)
    assert target.packed == folded(address).packed
    assert ipaddress.ip_address(target.host) == folded(address)
    assert target == from_packed(address.packed, port)
    assert read_authority(str(target).encode(), None) == target


@given(st.text("0123456789abfx.:%[] /", max_size=24))
@example("1.2.3.4")
@example("01.2.3.4")
@example("::1.2.3.4")
@example("1:2:3:4:5:6:7::")
def test_pack_agrees_with_ipaddress(text: str) -> None:
    try:
        expected = folded(ipaddress.ip_address(text)).packed if "%" not in text else None
    except ValueError:
        expected = None
    assert pack(text) == expected


@given(st.one_of(addresses.map(lambda address: address.packed), st.binary(min_size=4, max_size=4)))
def test_unpack(packed: bytes) -> None:
    text = unpack(packed)
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    assert socket.inet_pton(family, text) == packed
    assert pack(text) == fold(packed)


labels = st.from_regex(r"\A[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\Z")


@given(st.lists(labels, min_size=1, max_size=5), st.integers(1, 65535))
def test_names(parts: list[str], port: int) -> None:
    """A name that is taken is taken as it is; what inet_aton would read never is one."""
    text = ".".join(parts)
    try:
        target = read_authority(f"{text.upper()}.:{port}".encode(), None)
    except ProtocolError:
        assert len(text) > 253 or parts[-1].isdigit() or parts[-1].startswith("0x")
        return
    assert (target.host, target.port) == (text, port)
    if target.packed is None:
        with pytest.raises(OSError):
            socket.inet_aton(text)


@given(st.binary(max_size=80), st.sampled_from([b"", b"a:", b"[", b"[::1]", b"127."]))
def test_random_bytes_are_taken_or_refused(noise: bytes, first: bytes) -> None:
    try:
        target = read_authority(first + noise, 80)
    except ProtocolError as error:
        assert error.detail.isascii()  # noqa: PT017
    else:
        assert target.host.isascii()
        assert target.host == target.host.lower()
        assert 0 < target.port < 65536
        assert str(read_authority(str(target).encode(), None)) == str(target)


def test_nothing_of_the_client_is_in_a_refusal() -> None:
    for text in (b"<script>alert(1)</script>:80", b"a:<b>", b"[<i>:]", b"<u>::"):
        assert "<" not in refusal(text, 80)
