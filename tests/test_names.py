from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost_lite.names import (
    MAX_ADDRESSES,
    MAX_HOSTS,
    MAX_SEARCH,
    MAX_SERVERS,
    Server,
    parse_hosts,
    parse_resolv_conf,
    parse_server,
)

DEFAULT = (Server("127.0.0.1"),)


def ip(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


@pytest.mark.parametrize(
    ("text", "server", "shown"),
    [
        ("192.0.2.1", Server("192.0.2.1"), "192.0.2.1"),
        ("192.0.2.1:5353", Server("192.0.2.1", 5353), "192.0.2.1:5353"),
        ("192.0.2.1:53", Server("192.0.2.1"), "192.0.2.1"),
        ("::1", Server("::1"), "::1"),
        ("[::1]", Server("::1"), "::1"),
        ("[::1]:5353", Server("::1", 5353), "[::1]:5353"),
        ("fe80::1%br-lan", Server("fe80::1", 53, "br-lan"), "fe80::1%br-lan"),
        ("[fe80::1%3]:5353", Server("fe80::1", 5353, "3"), "[fe80::1%3]:5353"),
    ],
)
def test_server(text: str, server: Server, shown: str) -> None:
    assert parse_server(text) == server
    assert str(server) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dns.example",
        "dns.example:53",
        "192.0.2.1:",
        "192.0.2.1:0",
        "192.0.2.1:65536",
        "192.0.2.1:+5",
        "192.0.2.1:\u0665",
        "192.0.2.1:100000",
        "[192.0.2.1]:53",
        "[::1",
        "[::1]53",
        "[]:53",
        "fe80::1%",
        "192.0.2.1%lan",
        "::1]:53",
    ],
)
def test_no_server(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_server(text)
    assert str(caught.value) == f"{text!r} is not the address of a name server."


def test_resolv_conf() -> None:
    text = """
# a comment
; another
#nameserver 192.0.2.9
domain first.example
nameserver 192.0.2.1
nameserver\t2001:db8::1
nameserver [2001:db8::2]
nameserver fe80::1%br-lan
nameserver dns.example
nameserver
options timeout:1 attempts:2
search LAN. b.example .
"""
    assert parse_resolv_conf(text) == (
        (
            Server("192.0.2.1"),
            Server("2001:db8::1"),
            Server("2001:db8::2"),
            Server("fe80::1", 53, "br-lan"),
        ),
        ("lan", "b.example"),
    )


def test_resolv_conf_has_bounds_and_a_default() -> None:
    assert parse_resolv_conf("") == (DEFAULT, ())
    text = "nameserver 192.0.2.1\n" * 50 + "search" + " a.example" * 50
    servers, domains = parse_resolv_conf(text)
    assert len(servers) == MAX_SERVERS
    assert len(domains) == MAX_SEARCH


def test_hosts() -> None:
    text = """
127.0.0.1\tlocalhost localhost.  # here
::1 localhost ip6-localhost
192.168.1.2 NAS nas.lan NAS
192.168.1.3 nas
fe80::1%lo0 linklocal
not-an-address name
192.168.1.4
# 192.168.1.5 comment
192.168.1.6#192.168.1.6 name
"""
    assert parse_hosts(text) == {
        "localhost": (ip("127.0.0.1"), ip("::1")),
        "ip6-localhost": (ip("::1"),),
        "nas": (ip("192.168.1.2"), ip("192.168.1.3")),
        "nas.lan": (ip("192.168.1.2"),),
    }


def test_hosts_is_bounded() -> None:
    text = "\n".join(f"10.0.0.1 h{i}\n10.0.0.2 h0" for i in range(MAX_HOSTS + 100))
    hosts = parse_hosts(text)
    assert len(hosts) == MAX_HOSTS
    assert hosts["h0"] == (ip("10.0.0.1"), ip("10.0.0.2"))
    text = "\n".join(f"10.0.0.{i} nas" for i in range(200))
    assert len(parse_hosts(text)["nas"]) == MAX_ADDRESSES


@given(st.text(max_size=200))
def test_no_text_raises(text: str) -> None:
    servers, _ = parse_resolv_conf(text)
    assert servers
    parse_hosts(text)
