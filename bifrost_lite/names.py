"""What the machine's own files say about names: hosts(5) and resolv.conf(5)."""

from __future__ import annotations

from typing import NamedTuple

from .target import endpoint_text, pack

MAX_SERVERS = 8  # libc takes three; OpenWrt's list of all upstreams may be longer
MAX_SEARCH = 6  # domains, as in libc
MAX_HOSTS = 4096  # names from hosts: about half a megabyte
MAX_ADDRESSES = 32  # of one of them


class Server(NamedTuple):
    """A name server.

    Attributes:
        address: IP address as text, without brackets
        port: UDP and TCP port
        zone: name or number of the interface of a link-local address, else ""
    """

    address: str
    port: int = 53
    zone: str = ""

    def __str__(self) -> str:
        address = f"{self.address}%{self.zone}" if self.zone else self.address
        return address if self.port == 53 else endpoint_text(address, self.port)


DEFAULT_SERVER = Server("127.0.0.1")  # what libc asks without any, and where dnsmasq is


def parse_server(text: str) -> Server:
    """A name server from ``192.0.2.1``, ``192.0.2.1:5353``, ``fe80::1%lan`` or ``[::1]:5353``.

    Raises:
        ValueError: it is none of these
    """
    address, port = text, "53"
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]")
        if not bracket or ":" not in address or (rest and rest[0] != ":"):
            address = ""
        port = rest[1:] if rest else "53"
    elif text.count(":") == 1:
        address, _, port = text.partition(":")
    address, percent, zone = address.partition("%")
    good = pack(address) is not None and port.isascii() and port.isdigit() and len(port) < 6
    if not good or not 0 < int(port) < 65536 or (percent and (not zone or ":" not in address)):
        raise ValueError(f"{text!r} is not the address of a name server.")
    return Server(address, int(port), zone)


def parse_resolv_conf(text: str) -> tuple[tuple[Server, ...], tuple[str, ...]]:
    """Name servers and search domains; what cannot be understood is left out, as libc does."""
    servers: list[Server] = []
    search: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or line[0] in "#;":
            continue
        if words[0] == "nameserver":
            try:
                servers.append(parse_server(words[1]))
            except ValueError:
                continue
        elif words[0] in ("search", "domain"):  # the last one counts
            search = [word.strip(".").lower() for word in words[1:]]
    return (
        tuple(servers[:MAX_SERVERS]) or (DEFAULT_SERVER,),
        tuple(domain for domain in search if domain)[:MAX_SEARCH],
    )


def parse_hosts(text: str) -> dict[str, tuple[bytes, ...]]:
    """Addresses of 4 or 16 bytes by lower-case name; at most `MAX_HOSTS` names."""
    hosts: dict[str, tuple[bytes, ...]] = {}
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        packed = pack(words[0]) if words else None
        if packed is None:
            continue
        for word in words[1:]:
            name = word.lower().rstrip(".")
            addresses = hosts.get(name, ())
            room = len(addresses) < MAX_ADDRESSES if addresses else len(hosts) < MAX_HOSTS
            if room and packed not in addresses:
                hosts[name] = (*addresses, packed)
    return hosts
