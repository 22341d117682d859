from __future__ import annotations

import struct
from base64 import b64decode
from collections.abc import Callable
from hashlib import sha256
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost_lite.wire import genl
from bifrost_lite.wire.genl import (
    Allowed,
    Peer,
    parse_family,
    parse_peers,
    request_device,
    request_family,
)
from bifrost_lite.wire.netlink import NetlinkError
from tests.netlink_kit import attribute
from tests.wireguard_kit import NESTED, allowed, device, endpoint, family, more, peer

ONE, TWO = bytes(range(32)), bytes(range(32, 64))


def peers(*payloads: bytes) -> list[Peer]:
    found: list[Peer] = []
    for payload in payloads:
        parse_peers(payload, found)
    return found


def network(text: str) -> Allowed:
    host, _, prefix = text.partition("/")
    return Allowed(ip_address(host).packed, int(prefix))


def test_requests() -> None:
    name = struct.pack("=HH", 14, 2) + b"wireguard\0\0\0"
    header = struct.pack("=IHHIIBBH", 36, 16, 0x1, 5, 0, 3, 1, 0)
    assert request_family(5) == header + name
    name = struct.pack("=HH", 8, 2) + b"wg0\0"
    header = struct.pack("=IHHIIBBH", 28, 33, 0x301, 6, 0, 0, 1, 0)
    assert request_device(33, 6, "wg0") == header + name


def test_family() -> None:
    assert parse_family(family(33)) == 33


@pytest.mark.parametrize(
    ("payload", "detail"),
    [
        (b"", "a generic message is cut"),
        (family()[:4], "a number has a wrong length"),
        (bytes(4) + attribute(1, b"\1"), "a number has a wrong length"),
        (bytes(4) + b"\1\0\1\0", "the length of an attribute is wrong"),
    ],
)
def test_broken_families(payload: bytes, detail: str) -> None:
    with pytest.raises(NetlinkError) as caught:
        parse_family(payload)
    assert caught.value.detail == detail


def test_what_a_kernel_said_of_the_example_in_the_manual() -> None:
    """The digest is that of the message, as recorded on x86; the example is that of wg(8)."""
    first = b64decode("xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=")
    second = b64decode("TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=")
    message = device(
        peer(first, ["10.192.122.3/32", "10.192.124.0/24"], at=("192.95.5.67", 1234)),
        peer(
            second, ["10.192.122.4/32", "192.168.0.0/16"], at=("2607:5300:60:6b0::c05f:543", 2468)
        ),
        name="test",
        private=b64decode("yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="),
        public=b64decode("HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw="),
    )
    recorded = "2c41ee193cf42d4863c3a0edb1a8eae19dc7cab9a3312975af430c4f451a02ce"
    assert sha256(message).hexdigest() == recorded
    assert peers(message) == [
        Peer(
            first,
            endpoint=(ip_address("192.95.5.67").packed, 1234),
            allowed=(network("10.192.122.3/32"), network("10.192.124.0/24")),
        ),
        Peer(
            second,
            endpoint=(ip_address("2607:5300:60:6b0::c05f:543").packed, 2468),
            allowed=(network("10.192.122.4/32"), network("192.168.0.0/16")),
        ),
    ]


def test_all_of_a_peer() -> None:
    payload = device(
        peer(
            ONE,
            ["2001:db8::/32", "0.0.0.0/0"],
            at=("198.51.100.7", 51820),
            handshake=(1_700_000_000, 500_000_000),
            received=1 << 40,
            sent=7,
            keepalive=25,
        )
    )
    assert peers(payload) == [
        Peer(
            ONE,
            1_700_000_000.5,
            (ip_address("198.51.100.7").packed, 51820),
            (network("2001:db8::/32"), network("0.0.0.0/0")),
            1 << 40,
            7,
            25,
        )
    ]


def test_a_peer_that_nobody_has_met_yet() -> None:
    assert peers(device(peer(ONE))) == [Peer(ONE)]


def test_no_peers() -> None:
    assert peers(device(), device(first=False)) == []


def test_a_peer_in_pieces() -> None:
    """Over several messages, and twice in one."""
    messages = [
        device(peer(TWO), peer(ONE, ["10.0.0.1/32"], sent=9)),
        device(more(ONE, ["10.0.0.2/32"]), more(ONE, ["10.0.0.3/32"]), first=False),
        device(more(ONE, ["10.0.0.4/32"]), peer(TWO), first=False),
    ]
    assert peers(*messages) == [
        Peer(TWO),
        Peer(ONE, sent=9, allowed=tuple(network(f"10.0.0.{i}/32") for i in range(1, 5))),
        Peer(TWO),
    ]


def test_what_is_unknown_is_skipped() -> None:
    known = attribute(1, ONE) + attribute(9, allowed("10.0.0.0/8"))
    payload = bytes(4) + attribute(77, b"new")
    payload += attribute(8, attribute(0, known + attribute(99, b"newer")))
    assert peers(payload) == [Peer(ONE, allowed=(network("10.0.0.0/8"),))]


def broken(*parts: bytes) -> bytes:
    return device(attribute(NESTED, b"".join(parts)))


def network_of(family: int, packed: bytes, prefix: int) -> bytes:
    parts = attribute(1, struct.pack("=H", family)) + attribute(2, packed)
    return attribute(9, attribute(0, parts + attribute(3, bytes((prefix,)))))


KEY = attribute(1, ONE)


@pytest.mark.parametrize(
    ("payload", "detail"),
    [
        (b"\0\1\0", "a generic message is cut"),
        (broken(), "a peer has no key"),
        (broken(attribute(1, ONE[:-1])), "a peer has no key"),
        (broken(KEY, attribute(6, bytes(8))), "a time has a wrong length"),
        (broken(KEY, attribute(6, struct.pack("=qq", -1, 0))), "a time is impossible"),
        (broken(KEY, attribute(6, struct.pack("=qq", 1, 10**9))), "a time is impossible"),
        (broken(KEY, attribute(5, b"\1")), "a number has a wrong length"),
        (broken(KEY, attribute(7, bytes(4))), "a number has a wrong length"),
        (broken(KEY, attribute(8, b"")), "a number has a wrong length"),
        (broken(KEY, attribute(4, b"")), "a number has a wrong length"),
        (broken(KEY, attribute(4, struct.pack("=H", 1))), "an endpoint has a wrong length"),
        (broken(KEY, attribute(4, endpoint("1.2.3.4", 5)[:-1])), "an endpoint has a wrong length"),
        (broken(KEY, attribute(4, endpoint("::1", 5) + b"x")), "an endpoint has a wrong length"),
        (broken(KEY, attribute(9, attribute(0, b""))), "a number has a wrong length"),
        (broken(KEY, network_of(3, bytes(4), 0)), "an allowed network is impossible"),
        (broken(KEY, network_of(2, bytes(16), 0)), "an allowed network is impossible"),
        (broken(KEY, network_of(10, bytes(4), 0)), "an allowed network is impossible"),
        (broken(KEY, network_of(2, bytes(4), 33)), "an allowed network is impossible"),
        (broken(KEY, network_of(10, bytes(16), 129)), "an allowed network is impossible"),
        (bytes(4) + attribute(8, b"\xff\0\0\0"), "the length of an attribute is wrong"),
    ],
)
def test_broken_peers(payload: bytes, detail: str) -> None:
    with pytest.raises(NetlinkError) as caught:
        peers(payload)
    assert caught.value.detail == detail


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_peers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(genl, "MAX_PEERS", 3)
    messages = [device(peer(key(number))) for number in range(4)]
    assert len(peers(*messages[:3])) == 3
    with pytest.raises(NetlinkError, match="too many"):
        peers(*messages)


def test_allowed_networks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(genl, "MAX_ALLOWED", 4)
    messages = [device(peer(ONE, ["10.0.0.0/8"] * 2)), device(peer(TWO, ["10.0.0.0/8"] * 2))]
    assert len(peers(*messages)) == 2
    with pytest.raises(NetlinkError, match="too many"):
        peers(*messages, device(more(TWO, ["10.0.0.0/8"])))


def test_every_cut_of_a_message_is_noticed() -> None:
    whole = device(peer(ONE, ["10.0.0.0/8", "2001:db8::/32"], at=("::1", 1)))
    head = len(device())
    for size in range(head + 4, len(whole)):
        with pytest.raises(NetlinkError):
            peers(whole[:size])


readers = st.sampled_from([parse_family, peers])


@given(readers, st.binary(max_size=300))
def test_garbage_raises_nothing_else(reader: Callable[[bytes], object], data: bytes) -> None:
    try:
        reader(data)
    except NetlinkError:
        return


@given(st.data())
def test_a_message_with_a_changed_byte_raises_nothing_else(data: st.DataObject) -> None:
    whole = bytearray(device(peer(ONE, ["10.0.0.0/8", "2001:db8::/32"], at=("::1", 1)), peer(TWO)))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        peers(bytes(whole))
    except NetlinkError:
        return
