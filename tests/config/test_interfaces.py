"""What a dump of netifd says of the networks."""

from __future__ import annotations

import json

import pytest

from bifrost_lite.config.interfaces import Interface, read

LAN = {
    "interface": "lan",
    "up": True,
    "l3_device": "br-lan",
    "device": "br-lan",
    "ipv4-address": [
        {"address": "192.168.1.1", "mask": 24},
        {"address": "192.168.1.1", "mask": 32},
        {"address": "no address"},
        {"address": "10.0.0.1", "mask": 8},
    ],
    "ipv6-address": [{"address": "fd00::5", "mask": 64}, {"address": "2001:db8::5"}, {}],
    "ipv6-prefix-assignment": [
        {"address": "fd12::", "mask": 60, "local-address": {"address": "fd12::1", "mask": 60}},
        {"address": "2001:db8:1::", "local-address": {"address": "2001:db8:1::1"}},
        {"address": "fd13::", "mask": 60},
    ],
    "data": {"anything": [1, None]},
}


def dump(*entries: object) -> bytes:
    return json.dumps({"interface": entries}).encode()


def test_addresses_are_ipv4_and_unique_local_ipv6() -> None:
    addresses = ("192.168.1.1", "10.0.0.1", "fd00::5", "fd12::1")
    assert read(dump(LAN)) == {"lan": Interface("br-lan", addresses)}


def test_the_device_is_the_one_with_the_addresses() -> None:
    dial = {"interface": "wan", "up": True, "device": "eth1"}
    assert read(dump(dial))["wan"] == Interface("eth1", ())
    assert read(dump(dial | {"l3_device": "pppoe-wan"}))["wan"].device == "pppoe-wan"


def test_what_is_not_up_is_not_there() -> None:
    assert read(dump(LAN | {"up": False}, {"interface": "new"})) == {}
    assert read(dump()) == {}


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"interface": [{"up": 1}]}', b"\xff"])
def test_anything_else_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"not a dump of network\.interface"):
        read(text)
