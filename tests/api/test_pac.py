"""/proxy.pac and /wpad.dat: who gets what file, and from what it is made."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from bifrost_lite import load
from bifrost_lite.acl import pack
from bifrost_lite.api import pac
from bifrost_lite.auth import Peer
from bifrost_lite.config.schema import Direct, Listen, Pac, Route, Settings, Socks5Proxy, User
from bifrost_lite.lists import parse
from bifrost_lite.route import Router
from tests.control_fixtures import Daemon, FakeListener, running

PATHS = ("/proxy.pac", "/wpad.dat")
BACKENDS = (Direct(), Socks5Proxy(name="office", address="192.0.2.9:1080"))
REST = Route(name="rest", backend="direct")
TOKEN = "a secret of mine".replace(" ", "-")


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with running(token=TOKEN) as daemon:
        yield daemon


def put(daemon: Daemon, *routes: Route, **keys: Any) -> None:
    """Other settings, in force at once."""
    settings = replace(daemon.house.settings, routes=routes, backends=BACKENDS, **keys)

    def change() -> None:
        daemon.house.settings = settings
        daemon.plane.policy.router = Router(routes)

    daemon.do(change)


def text(daemon: Daemon, *headers: str) -> str:
    answer = daemon.get("/proxy.pac", *headers)
    assert answer.status == 200, answer.body
    return answer.body.decode("ascii")


def proxies(pac: str) -> str:
    found = re.search(r'^var PROXY = "(.*)";$', pac, re.MULTILINE)
    assert found
    return found[1]


@pytest.mark.parametrize("path", PATHS)
def test_everybody_may_have_it(daemon: Daemon, path: str) -> None:
    answer = daemon.get(path)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/x-ns-proxy-autoconfig"
    assert "no-cache" in answer.headers["cache-control"]
    # So that no page of another site can have it run as a script, and read it.
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert b"function FindProxyForURL(url, host)" in answer.body
    head = daemon.get(path, method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(answer.body))
    assert daemon.get(path, method="POST").status == 401
    assert daemon.get(path, f"Authorization: {TOKEN}", method="POST").status == 405


@pytest.mark.parametrize("path", PATHS)
def test_off_and_on_while_it_runs(daemon: Daemon, path: str) -> None:
    put(daemon, pac=Pac(enabled=False))
    answer = daemon.get(path)
    assert (answer.status, answer.json["error"]) == (404, "pac_off")
    put(daemon, pac=Pac(enabled=True))
    assert daemon.get(path).status == 200


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1:{}", "127.0.0.1"), ("localhost:{}", "localhost"), ("LocalHost.:{}", "localhost"),
        ("[::1]:{}", "[::1]"), ("192.168.1.1", "192.168.1.1"), ("OpenWrt.LAN", "openwrt.lan"),
    ],
)  # fmt: skip
def test_the_host_that_was_asked_is_the_proxy(daemon: Daemon, host: str, expected: str) -> None:
    pac = text(daemon, f"Host: {host.format(daemon.port)}")
    assert proxies(pac) == f"PROXY {expected}:7080; SOCKS5 {expected}:7080"
    assert f'\nvar OWN = ["{expected.strip("[]")}"];\n' in pac


def test_a_host_that_no_browser_could_ask(daemon: Daemon) -> None:
    answer = daemon.get("/proxy.pac", "Host: a..lan")
    assert (answer.status, answer.json["error"]) == (400, "bad_host")
    assert daemon.get("/proxy.pac", "Host: evil.example").status == 421
    for host in ('a".lan', "a;.lan", "a'.lan", "a\\.lan"):
        assert daemon.get("/proxy.pac", f"Host: {host}").status == 421


@pytest.mark.parametrize(
    ("proxy", "expected"),
    [("Proxy.Example", "proxy.example"), ("192.0.2.7", "192.0.2.7"), ("2001:DB8::7", "[2001:db8::7]")],
)  # fmt: skip
def test_another_host_can_be_the_proxy(daemon: Daemon, proxy: str, expected: str) -> None:
    put(daemon, pac=Pac(proxy=proxy))
    pac = text(daemon)
    assert proxies(pac) == f"PROXY {expected}:7080; SOCKS5 {expected}:7080"
    assert f'var OWN = ["127.0.0.1", "{expected.strip("[]")}"];' in pac


def test_it_is_made_for_who_asks(daemon: Daemon) -> None:
    mine = Route(name="a", domains=("mine.example",), clients=("127.0.0.0/8",), backend="office")
    other = Route(name="b", domains=("other.example",), clients=("10.0.0.0/8",), backend="office")
    put(daemon, mine, other, REST)
    pac = text(daemon)
    assert "for 127.0.0.1" in pac
    assert "mine.example" in pac
    assert "other.example" not in pac


# Which listeners are told.

LAN = Peer(pack("192.168.1.20") or b"", pack("192.168.1.1") or b"", "192.168.1.20")
SIX = Peer(pack("fd00::20") or b"", pack("fd00::1") or b"", "fd00::20")
HERE = Peer(pack("127.0.0.1") or b"", pack("127.0.0.1") or b"", "127.0.0.1")


def ways(peer: Peer, asked: str, *listeners: FakeListener, **keys: Any) -> str:
    settings = Settings(**keys)
    ctx: Any = SimpleNamespace(
        house=SimpleNamespace(settings=settings), plane=SimpleNamespace(listeners=listeners)
    )
    found = pac._ways(ctx, peer, asked, settings.pac.proxy)
    return "; ".join(f"{kind} {target}" for kind, target in found)


def at(address: str, port: int = 7080, protocol: str = "auto", **keys: Any) -> FakeListener:
    return FakeListener("a", address, port, protocol, **keys)


def test_what_speaks_one_thing_is_told_for_that() -> None:
    http, socks = at("0.0.0.0", 7080, "http"), at("0.0.0.0", 7180, "socks")
    assert ways(LAN, "a.lan", http, socks) == "PROXY a.lan:7080; SOCKS5 a.lan:7180"
    assert ways(LAN, "a.lan", socks, http) == "PROXY a.lan:7080; SOCKS5 a.lan:7180"
    assert ways(LAN, "a.lan", at("0.0.0.0"), socks) == "PROXY a.lan:7080; SOCKS5 a.lan:7180"
    assert ways(LAN, "a.lan", socks, at("0.0.0.0")) == "PROXY a.lan:7080; SOCKS5 a.lan:7180"
    assert ways(LAN, "a.lan", http) == "PROXY a.lan:7080"
    assert ways(LAN, "a.lan", socks) == "SOCKS5 a.lan:7180"
    closed = at("0.0.0.0", 7081, open=False)
    assert ways(LAN, "a.lan", closed, http) == "PROXY a.lan:7080"
    assert ways(LAN, "a.lan", closed) == ""


@pytest.mark.parametrize("loopback", ["127.0.0.1", "127.0.0.2", "::1"])
def test_loopback_is_told_to_this_machine_only(loopback: str) -> None:
    assert ways(LAN, "a.lan", at(loopback)) == ""
    assert ways(SIX, "a.lan", at(loopback)) == ""
    assert ways(LAN, "a.lan", at(loopback), pac=Pac(proxy="proxy.example")) == ""
    told = ways(HERE, "localhost", at(loopback))
    host = {"127.0.0.1": "localhost", "::1": "[::1]"}.get(loopback, loopback)
    assert told == f"PROXY {host}:7080; SOCKS5 {host}:7080"


@pytest.mark.parametrize(
    ("peer", "asked", "address", "expected"),
    [
        (LAN, "a.lan", "192.168.1.1", "a.lan"),
        (LAN, "192.168.1.1", "0.0.0.0", "192.168.1.1"),
        (LAN, "192.168.1.1", "::", "192.168.1.1"),
        (LAN, "192.168.1.1", "192.168.2.1", "192.168.2.1"),
        (LAN, "192.168.1.1", "fd00::1", "[fd00::1]"),
        (SIX, "fd00::1", "fd00::1", "[fd00::1]"),
        (SIX, "fd00::1", "::", "[fd00::1]"),
        (SIX, "fd00::1", "192.168.1.1", "192.168.1.1"),
        (SIX, "a.lan", "0.0.0.0", "a.lan"),
        (SIX, "fd00::1", "0.0.0.0", ""),
        (HERE, "localhost", "192.168.1.1", "192.168.1.1"),
    ],
)
def test_the_host_of_a_listener(peer: Peer, asked: str, address: str, expected: str) -> None:
    told = f"PROXY {expected}:7080; SOCKS5 {expected}:7080" if expected else ""
    assert ways(peer, asked, at(address)) == told


def test_the_nearest_listener_is_told() -> None:
    far, near = at("192.168.2.1", 1), at("192.168.1.1", 2)
    assert ways(LAN, "a.lan", far, near) == "PROXY a.lan:2; SOCKS5 a.lan:2"
    # A second way by another port, where there is one.
    assert ways(LAN, "a.lan", near, at("0.0.0.0", 3)) == "PROXY a.lan:2; SOCKS5 a.lan:3"
    assert ways(LAN, "x", far, near, pac=Pac(proxy="p.example")) == (
        "PROXY p.example:1; SOCKS5 p.example:2"
    )


def test_socks_that_wants_a_login_is_told_to_no_browser() -> None:
    user = User(name="me", password_hash="x")
    listener = at("0.0.0.0")
    closed = (Listen(name="a", address="0.0.0.0"),)
    assert ways(LAN, "a.lan", listener, users=(user,), listen=closed) == "PROXY a.lan:7080"
    open_ = (Listen(name="a", address="0.0.0.0", auth=False),)
    assert ways(LAN, "a.lan", listener, users=(user,), listen=open_) == (
        "PROXY a.lan:7080; SOCKS5 a.lan:7080"
    )


def test_without_a_listener_there_is_no_file(daemon: Daemon) -> None:
    daemon.do(daemon.plane.listeners.clear)
    answer = daemon.get("/proxy.pac")
    assert (answer.status, answer.json["error"]) == (503, "no_listener")


# What it is made of.


def test_it_is_made_ready_once(daemon: Daemon) -> None:
    routes = [Route(name=f"r{i}", domains=(f"h{i}.example",), backend="direct") for i in range(500)]
    put(daemon, *routes)
    with ThreadPoolExecutor(8) as pool:
        texts = set(pool.map(lambda _: text(daemon), range(8)))
    assert len(texts) == 1
    made = pac._made
    assert made is not None
    assert "h499.example" in text(daemon)
    assert pac._made is made
    put(daemon, REST)
    assert "h499.example" not in text(daemon)
    assert pac._made is not made


def test_a_failure_is_not_kept(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    put(daemon, REST)
    with monkeypatch.context() as patch:
        patch.setattr(pac, "Script", None)
        assert daemon.get("/proxy.pac").status == 500
    assert daemon.get("/proxy.pac").status == 200


LISTED = "# mine\n\nTV.example.\r\n  *.b.example # b\n.c.example\nx*y.example\n10.9.0.0/16\n::1\n"


def listing(daemon: Daemon, folder: Path, *, content: str = LISTED, name: str = "tv.txt") -> None:
    """A route whose list is in force."""
    route = Route(name="tv", list=name, backend="office", priority=200)
    listed, faults = parse(line.encode() for line in content.splitlines(keepends=True))
    assert not faults
    put(daemon, route, REST)
    daemon.do(setattr, daemon.house, "path", str(folder / "bifrost.toml"))
    router = Router((route, REST), {"tv": listed})
    daemon.do(setattr, daemon.plane.policy, "router", router)


def test_the_entries_of_a_list(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "tv.txt").write_bytes(LISTED.encode())
    listing(daemon, tmp_path)
    pac = text(daemon)
    assert 'domains: ["tv.example", "*.b.example", ".c.example", "x*y.example"]' in pac
    assert 'cidrs: ["10.9.0.0/16"]' in pac
    assert 'cidrs: ["::1/128"]' in pac
    assert "mine" not in pac


@pytest.mark.parametrize("how", ["changed", "gone", "large", "pipe", "folder"])
def test_a_list_that_is_not_what_is_in_force(daemon: Daemon, tmp_path: Path, how: str) -> None:
    path, content = tmp_path / "tv.txt", LISTED
    if how == "changed":
        path.write_text(f"{LISTED}d.example\n", "ascii")
    elif how == "large":
        content = "".join(f"h{i}.example\n" for i in range(20_000))
        path.write_text(content, "ascii")
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    listing(daemon, tmp_path, content=content)
    pac = text(daemon)
    assert "// A list that is not in this file" in pac
    assert ".example" not in pac
    assert len(pac) < 10_000


def test_lists_are_looked_for_where_they_are_loaded_from(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pac.LISTS == load.LISTS
    other = tmp_path / "lists"
    other.mkdir()
    (other / "tv.txt").write_bytes(LISTED.encode())
    monkeypatch.setattr(pac, "LISTS", str(other))
    listing(daemon, tmp_path)
    assert "tv.example" in text(daemon)
