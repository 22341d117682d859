from __future__ import annotations

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bifrost_lite.acl import (
    Networks,
    embedded,
    fold,
    is_special,
    pack,
    parse_network,
    unpack,
)

DEFAULT = [
    "127.0.0.0/8",
    "::1/128",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "fc00::/7",
    "fe80::/10",
]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


def folded(address: Address) -> Address:
    if address.version == 6 and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


@given(addresses)
@example(ipaddress.ip_address("::ffff:192.0.2.1"))
@example(ipaddress.ip_address("::"))
def test_pack_and_unpack_agree_with_ipaddress(address: Address) -> None:
    packed = pack(str(address))
    assert packed == folded(address).packed
    assert ipaddress.ip_address(unpack(packed)) == folded(address)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        ":",
        "localhost",
        "1",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "010.0.0.1",
        "1.2.3.04",
        "1.2.3.4.",
        "1.2.3.4.5",
        "256.1.1.1",
        " 1.2.3.4",
        "1.2.3.4 ",
        "1.2.3.4\n",
        "1.2.3.4\0",
        "\u0661.2.3.\u0664",
        "\ud8001.2.3.4",
        "[::1]",
        "fe80::1%eth0",
        "::1::",
        "12345::",
        "::1\0",
        "::\ud800",
        "::ffff:1.2.3",
    ],
)
def test_pack_takes_nothing_else(text: str) -> None:
    assert pack(text) is None


@given(st.text(max_size=40))
def test_pack_never_raises(text: str) -> None:
    packed = pack(text)
    assert packed is None or len(packed) in (4, 16)


def test_fold() -> None:
    assert fold(bytes(10) + b"\xff\xff\x0a\0\0\x01") == b"\x0a\0\0\x01"
    assert fold(b"\x0a\0\0\x01") == b"\x0a\0\0\x01"
    assert fold(bytes(16)) == bytes(16)


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ("64:ff9b::192.0.2.1", "192.0.2.1"),
        ("::192.0.2.1", "192.0.2.1"),
        ("::1", "0.0.0.1"),
        ("2002:c000:201:5::9", "192.0.2.1"),
        ("64:ff9b:0:0:0:1::", None),
        ("2001:db8::1", None),
    ],
)
def test_embedded(outer: str, inner: str | None) -> None:
    packed = ipaddress.ip_address(outer).packed
    assert embedded(packed) == (inner and ipaddress.ip_address(inner).packed)


def test_embedded_looks_into_ipv6_alone() -> None:
    assert embedded(b"\x0a\0\0\x01") is None
    assert embedded(bytes(10) + b"\xff\xff\x0a\0\0\x01") == b"\x0a\0\0\x01"


SPECIAL = [
    "0.0.0.0",
    "0.255.255.255",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.0.0",
    "169.254.169.254",
    "224.0.0.1",
    "239.255.255.255",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "febf:ffff::1",
    "ff00::",
    "ff02::1",
    "ffff::1",
    "::ffff:127.0.0.1",
    "::ffff:0.0.0.0",
    "::ffff:169.254.169.254",
    "::127.0.0.1",
    "::255.255.255.255",
    "64:ff9b::127.0.0.1",
    "64:ff9b::169.254.169.254",
    "64:ff9b::",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "2002::1",
]

ORDINARY = [
    "1.0.0.0",
    "8.8.8.8",
    "10.0.0.1",
    "126.255.255.255",
    "128.0.0.0",
    "169.253.255.255",
    "169.255.0.0",
    "192.168.1.1",
    "223.255.255.255",
    "240.0.0.1",
    "255.255.255.254",
    "2001:db8::1",
    "fc00::1",
    "fdff::1",
    "fe00::1",
    "fe7f::1",
    "fec0::1",
    "::ffff:10.0.0.1",
    "::10.0.0.1",
    "64:ff9b::10.0.0.1",
    "64:ff9b:0:0:0:1:7f00:1",
    "2002:a00:1::",
]


@pytest.mark.parametrize("text", SPECIAL)
def test_special(text: str) -> None:
    assert is_special(ipaddress.ip_address(text).packed)


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary(text: str) -> None:
    assert not is_special(ipaddress.ip_address(text).packed)


@given(addresses)
def test_special_covers_what_ipaddress_calls_so(address: Address) -> None:
    plain = folded(address)
    if plain.is_loopback or plain.is_link_local or plain.is_multicast or plain.is_unspecified:
        assert is_special(address.packed)
    elif address.version == 4 and address.packed[0] not in (0, 255):
        assert not is_special(address.packed)


@pytest.mark.parametrize(
    ("text", "first", "length"),
    [
        ("10.0.0.0/8", "10.0.0.0", 8),
        ("0.0.0.0/0", "0.0.0.0", 0),
        ("192.0.2.1", "192.0.2.1", 32),
        ("192.0.2.1/32", "192.0.2.1", 32),
        ("::/0", "::", 0),
        ("fc00::/7", "fc00::", 7),
        ("2001:db8::1", "2001:db8::1", 128),
        ("::1/128", "::1", 128),
        ("::ffff:10.0.0.0/104", "10.0.0.0", 8),
        ("::ffff:0:0/96", "0.0.0.0", 0),
        ("::ffff:192.0.2.1", "192.0.2.1", 32),
    ],
)
def test_parse_network(text: str, first: str, length: int) -> None:
    assert parse_network(text) == (ipaddress.ip_address(first).packed, length)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10.0.0.1/8", "'10.0.0.1/8' has bits set after its prefix; the network is 10.0.0.0/8."),
        ("fe80::1/10", "'fe80::1/10' has bits set after its prefix; the network is fe80::/10."),
        (
            "::ffff:10.0.0.1/104",
            "'::ffff:10.0.0.1/104' has bits set after its prefix; the network is 10.0.0.0/8.",
        ),
        ("fe80::1%eth0", "'fe80::1%eth0' has a zone id, which a network cannot have."),
        ("fe80::%1/10", "'fe80::%1/10' has a zone id, which a network cannot have."),
        ("", "'' is not an IP address or network."),
        ("/8", "'/8' is not an IP address or network."),
        ("10/8", "'10/8' is not an IP address or network."),
        ("010.0.0.0/8", "'010.0.0.0/8' is not an IP address or network."),
        ("lan", "'lan' is not an IP address or network."),
        ("10.0.0.0/", "'10.0.0.0/' needs a prefix length of 0 to 32 after '/'."),
        ("10.0.0.0/33", "'10.0.0.0/33' needs a prefix length of 0 to 32 after '/'."),
        ("10.0.0.0/08", "'10.0.0.0/08' needs a prefix length of 0 to 32 after '/'."),
        ("10.0.0.0/+8", "'10.0.0.0/+8' needs a prefix length of 0 to 32 after '/'."),
        ("10.0.0.0/-1", "'10.0.0.0/-1' needs a prefix length of 0 to 32 after '/'."),
        ("10.0.0.0/8/8", "'10.0.0.0/8/8' needs a prefix length of 0 to 32 after '/'."),
        ("10.0.0.0/\u0668", "'10.0.0.0/\u0668' needs a prefix length of 0 to 32 after '/'."),
        (
            "10.0.0.0/255.0.0.0",
            "'10.0.0.0/255.0.0.0' needs a prefix length of 0 to 32 after '/'.",
        ),
        ("fc00::/129", "'fc00::/129' needs a prefix length of 0 to 128 after '/'."),
        (
            "::ffff:0.0.0.0/95",
            "'::ffff:0.0.0.0/95' needs a prefix length of 96 to 128 after '/'.",
        ),
    ],
)
def test_parse_network_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_network(text)
    assert str(caught.value) == message


@given(st.text(max_size=40))
def test_parse_network_raises_nothing_but_value_error(text: str) -> None:
    try:
        parse_network(text)
    except ValueError as error:
        assert str(error).endswith(".")


def test_default_acl() -> None:
    networks = Networks(DEFAULT)
    for text in ("127.0.0.1", "10.9.8.7", "172.31.0.1", "192.168.1.1", "::1", "fd00::1", "fe80::1"):
        assert networks.contains(ipaddress.ip_address(text).packed)
    for text in ("8.8.8.8", "172.32.0.1", "192.169.0.1", "::2", "2001:db8::1", "fec0::1"):
        assert not networks.contains(ipaddress.ip_address(text).packed)


def test_empty_networks_hold_nothing() -> None:
    assert not Networks([])
    assert not Networks([]).contains(b"\x7f\0\0\x01")
    assert Networks(["::1"])


def test_families_are_apart_but_mapped_is_ipv4() -> None:
    everything6, everything4 = Networks(["::/0"]), Networks(["0.0.0.0/0"])
    mapped = ipaddress.ip_address("::ffff:192.0.2.1").packed
    assert not everything6.contains(b"\xc0\0\x02\x01")
    assert not everything6.contains(mapped)
    assert everything4.contains(mapped)
    assert not everything4.contains(bytes(16))


networks = st.builds(
    lambda address, length: ipaddress.ip_network(
        (address, min(length, address.max_prefixlen)), strict=False
    ),
    addresses,
    st.integers(0, 128),
)


@given(st.lists(networks, max_size=8), addresses)
def test_contains_agrees_with_ipaddress(
    cidrs: list[ipaddress.IPv4Network | ipaddress.IPv6Network], address: Address
) -> None:
    cidrs = [n for n in cidrs if n.version == 4 or n.network_address.ipv4_mapped is None]
    built = Networks([str(network) for network in cidrs])
    probes = [address, *(n[0] for n in cidrs), *(n[-1] for n in cidrs)]
    for probe in probes:
        plain = folded(probe)
        expected = any(plain.version == n.version and plain in n for n in cidrs)
        assert built.contains(probe.packed) == expected
