"""Reloading: what takes force for whom, and that a fault changes nothing at all."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bifrost_lite.build import prepare
from bifrost_lite.config.convert import convert
from bifrost_lite.daemon import Daemon as InProcess
from bifrost_lite.dispatch import Loop, make_dispatcher
from bifrost_lite.errors import BindError, ConfigError
from bifrost_lite.load import load
from tests.daemon_kit import (
    ask_for,
    asked,
    echoing,
    ended,
    free_port,
    listening,
    read_head,
    speaks,
    tunnel,
    watched,
)
from tests.e2e.curl import curl, through
from tests.e2e.daemon import Address, Daemon, Section, Value
from tests.e2e.nameserver import NameServer
from tests.e2e.origin import Origin
from tests.e2e.program import DEADLINE

OPEN = {"allow_local": True}
NOBODY = {"allow_local": True, "deny": ["127.0.0.1/32"]}


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with echoing() as target:
        yield target


def listener(name: str, port: int, protocol: str = "auto") -> dict[str, Value]:
    return {"name": name, "address": "127.0.0.1", "port": port, "protocol": protocol}


# What is told.

CHANGES: list[tuple[dict[str, Section], list[str], bool]] = [
    ({}, [], False),
    ({"graceful_period": "2s"}, ["graceful_period"], False),
    ({"log": {"level": "debug"}}, ["log"], False),
    ({"listen": [listener("other", 0)]}, ["listen"], False),
    ({"backends": [{"name": "direct", "family": "4"}]}, ["backends"], False),
    ({"routes": [{"name": "all", "backend": "direct"}]}, ["routes"], False),
    ({"access": OPEN | {"deny": ["192.0.2.0/24"]}}, ["access"], False),
    ({"limits": {"max_connections": 100}}, ["limits"], False),
    ({"http": {"via": True}}, ["http"], False),
    ({"resolver": {"servers": ["127.0.0.1:9"]}}, ["resolver"], False),
    ({"control": {"listen": ["127.0.0.1:0"], "max_clients": 9}}, ["control"], True),
    ({"source": "uci"}, ["source"], True),
    (
        {"http": {}, "limits": {}, "log": {"level": "info"}, "source": "file"},
        ["source", "log", "limits", "http"],
        True,
    ),
    ({"graceful_period": 2}, [], True),  # the same in other words; the restart is still due
    ({"control": {"listen": ["127.0.0.1:0", "127.0.0.1:0"]}}, ["control"], False),  # as at start
]


def test_the_sections_that_changed_are_told() -> None:
    with watched() as seen:
        for sections, changed, restart in CHANGES:
            seen.write(**sections)
            seen.hang_up()
            told = {"changed_sections": changed, "requires_restart": restart}
            assert seen.event() == ("config.reload", told)
        seen.daemon.output.expect("^configuration reloaded: source, log, limits, http$")
        seen.daemon.output.expect("^configuration reloaded: nothing changed$")


def test_a_burst_of_signals() -> None:
    """No change is lost, whichever of them was read by which reload."""
    with watched() as seen:
        seen.write(limits={"max_connections": 100})
        for _ in range(20):
            seen.hang_up()
        seen.write(http={"via": True})
        seen.hang_up()
        changed: list[str] = []
        while "http" not in changed:
            kind, data = seen.event()
            assert kind == "config.reload"
            changed += data["changed_sections"]
        assert changed == ["limits", "http"]
        assert seen.reload() == []
        assert not seen.daemon.output.matching("(?i)failed|never")


# What takes force.


def test_new_rules_are_for_new_clients(target: str) -> None:
    with watched() as seen, tunnel(seen.daemon.proxy, target) as old:
        proxy = seen.daemon.proxy
        assert seen.reload(access=NOBODY) == ["access"]
        assert asked(proxy, target) == (403, "acl_denied")
        assert seen.reload(access={}) == ["access"]
        assert asked(proxy, target) == (403, "target_denied")
        routes = [{"name": "one", "domains": ["one.example"], "backend": "direct"}]
        assert seen.reload(access=OPEN, routes=routes) == ["routes", "access"]
        assert asked(proxy, target) == (403, "no_route")
        assert seen.reload(routes=[]) == ["routes"]
        for limits, word in (
            ({"max_connections": 1}, "too_many_connections"),
            ({"max_connections_per_client": 1}, "too_many_connections_per_client"),
        ):
            assert seen.reload(limits=limits) == ["limits"]
            assert asked(proxy, target) == (503, word)
        assert seen.reload(limits={}) == ["limits"]
        with tunnel(proxy, target) as new:
            assert speaks(new)
        assert speaks(old)


def test_a_kept_connection_asks_its_next_request_under_the_new_rules() -> None:
    with (
        watched() as seen,
        Origin() as origin,
        socket.create_connection(seen.daemon.proxy, DEADLINE) as client,
    ):
        ask_for(client, origin.url("/status/204"))
        assert read_head(client).startswith(b"HTTP/1.1 204 ")
        routes = [{"name": "one", "domains": ["one.example"], "backend": "direct"}]
        assert seen.reload(routes=routes) == ["routes"]
        ask_for(client, origin.url("/status/204"))
        head = read_head(client)
        assert head.startswith(b"HTTP/1.1 403 ")
        assert b"\r\nX-Bifrost-Reason: no_route\r\n" in head
        assert len(origin.seen) == 1


def test_new_deadlines_are_for_those_who_wait_too(target: str) -> None:
    with (
        watched() as seen,
        socket.create_connection(seen.daemon.proxy, DEADLINE) as silent,
        tunnel(seen.daemon.proxy, target) as idle,
    ):
        assert seen.reload(limits={"handshake_timeout": "100ms"}) == ["limits"]
        assert ended(silent)
        assert speaks(idle)
        assert seen.reload(limits={"idle_timeout": "400ms"}) == ["limits"]
        assert ended(idle)


def test_a_field_of_the_section_http() -> None:
    with watched() as seen, Origin() as origin:
        for via in (False, True):
            seen.reload(http={"via": via})
            curl(*through("http", seen.daemon.proxy), origin.url())
            assert bool(origin.seen[-1].values("Via")) == via


def test_new_name_servers_are_asked(target: str) -> None:
    name = f"new.example:{target.rpartition(':')[2]}"
    with (
        NameServer({}) as old,
        NameServer({"new.example": ("127.0.0.1",)}) as new,
        watched(resolver={"servers": [old.address]}) as seen,
    ):
        assert asked(seen.daemon.proxy, name) == (502, "dns_not_found")
        assert seen.reload(resolver={"servers": [new.address]}) == ["resolver"]
        assert asked(seen.daemon.proxy, name) == (200, "")


def test_the_level_of_the_log() -> None:
    with watched() as seen:
        seen.reload(log={"level": "error"})
        seen.reload(http={"via": True})
        seen.reload(log={"level": "info"})
        told = seen.daemon.output.matching("^configuration reloaded: (.*)$")
        assert [found[1] for found in told] == ["log"]


def test_the_command_line_goes_over_the_level_of_the_file() -> None:
    class Verbose(Daemon):
        def __init__(self) -> None:
            super().__init__(log={"level": "error"})
            self._argv.append("-v")

    with Verbose() as daemon:
        daemon.process.send_signal(signal.SIGHUP)
        daemon.output.expect("^configuration reloaded: nothing changed$")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.output.expect("^configuration reloaded: nothing changed$", 2)


# Listeners.


def test_listeners_come_and_go(target: str) -> None:
    first, second = free_port(), free_port()
    with watched(listen=[listener("main", 0), listener("first", first)]) as seen:
        main = seen.daemon.proxies["main"]
        kept = listening(main.port)
        with tunnel(seen.daemon.proxies["first"], target) as old:
            changed = seen.reload(listen=[listener("main", 0), listener("second", second)])
            assert changed == ["listen"]
            assert listening(first) is None
            assert listening(main.port) == kept
            for proxy in (main, Address("127.0.0.1", second)):
                with tunnel(proxy, target) as new:
                    assert speaks(new)
            assert speaks(old)


def test_the_proxy_knows_its_new_ports(target: str) -> None:
    first, second = free_port(), free_port()
    with watched(listen=[listener("main", first)]) as seen:
        assert asked(("127.0.0.1", first), f"127.0.0.1:{first}").word == "proxy_loop"
        seen.reload(listen=[listener("main", second)])
        assert asked(("127.0.0.1", second), f"127.0.0.1:{second}").word == "proxy_loop"
        assert asked(("127.0.0.1", second), f"127.0.0.1:{first}").word == "connect_refused"


def speaks_socks(proxy: Address) -> bool:
    """Whether SOCKS5 is taken here."""
    with socket.create_connection(proxy, DEADLINE) as client:
        client.sendall(b"\x05\x01\x00")
        return client.recv(2, socket.MSG_WAITALL) == b"\x05\x00"


@pytest.mark.parametrize("port", ["fixed", "any"])
def test_another_protocol_on_the_same_socket(port: str, target: str) -> None:
    number = free_port() if port == "fixed" else 0
    with watched(listen=[listener("main", number)]) as seen:
        proxy = seen.daemon.proxy
        kept = listening(proxy.port)
        with tunnel(proxy, target) as old:
            assert seen.reload(listen=[listener("main", number, "socks")]) == ["listen"]
            assert asked(proxy, target) == (400, "bad_request")
            assert speaks_socks(proxy)
            assert seen.reload(listen=[listener("renamed", number, "http")]) == ["listen"]
            assert asked(proxy, target) == (200, "")
            assert not speaks_socks(proxy)
            assert listening(proxy.port) == kept
            assert speaks(old)


def test_listeners_on_any_port_stay_apart(target: str) -> None:
    """They have the same address in the file: each keeps its socket, in their order."""
    with watched(listen=[listener("one", 0), listener("two", 0)]) as seen:
        one, two = seen.daemon.proxies["one"], seen.daemon.proxies["two"]
        seen.reload(listen=[listener("one", 0, "socks"), listener("two", 0, "http")])
        assert speaks_socks(one)
        assert asked(two, target) == (200, "")
        seen.reload(listen=[listener("one", 0, "socks")])
        assert speaks_socks(one)
        assert listening(two.port) is None


def test_nobody_is_turned_away_meanwhile(target: str) -> None:
    with watched(listen=[listener("main", 0)]) as seen:
        proxy = seen.daemon.proxy
        over = threading.Event()
        failed: list[Exception] = []
        count = 0

        def hammer() -> None:
            nonlocal count
            while not over.is_set():
                try:
                    with tunnel(proxy, target) as client:
                        assert speaks(client)
                        client.shutdown(socket.SHUT_WR)
                        assert ended(client)
                except Exception as error:
                    failed.append(error)
                    return
                count += 1

        clients = threading.Thread(target=hammer)
        clients.start()
        try:
            for number in range(20):
                protocol = "http" if number % 2 else "auto"
                seen.reload(listen=[listener("main", 0, protocol), listener("more", free_port())])
        finally:
            over.set()
            clients.join()
        assert not failed
        assert count


# What is refused.


def descriptors(daemon: Daemon) -> set[str]:
    """The files and sockets that it has open."""
    folder = Path(f"/proc/{daemon.pid}/fd")
    found = set()
    for name in os.listdir(folder):
        try:
            found.add(os.readlink(folder / name))
        except FileNotFoundError:  # closed meanwhile
            continue
    return found


BROKEN: dict[str, dict[str, Section]] = {
    "one": {"log": {"level": "loud"}},
    "many": {
        "log": {"level": "loud", "colour": True},
        "limits": {"max_connections": 0},
        "routes": [{"name": "lost", "backend": "nowhere"}],
        "frobnicate": {"x": 1},
    },
    "open": {"listen": [{"name": "all", "address": "0.0.0.0", "port": 0}], "access": {"allow": []}},
    "unbuilt": {"control": {"ubus": "on"}},
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_faulty_file_changes_nothing(name: str, target: str) -> None:
    with watched() as seen:
        daemon = seen.daemon
        whole = dict(seen.sections)
        before = descriptors(daemon)
        # A change that would be seen, were it not for the faults.
        seen.write(**({"http": {"via": True}, "access": NOBODY} | BROKEN[name]))
        with pytest.raises(ConfigError) as caught:
            load(str(daemon.path))
        expected = [
            {"section": fault.section, "field": fault.field, "message": fault.message}
            for fault in caught.value.faults
        ]
        assert (len(expected) > 3) == (name == "many")
        assert seen.rejected() == expected
        told = daemon.output.matching("^error: configuration rejected: (.*)$")
        assert [found[1] for found in told] == [str(fault) for fault in caught.value.faults]
        with tunnel(daemon.proxy, target) as client:
            assert speaks(client)
        daemon.wait_until(lambda: descriptors(daemon) == before, "nothing more is open")
        seen.sections = whole
        assert seen.reload() == []


def test_text_that_is_no_toml() -> None:
    with watched() as seen:
        seen.daemon.path.write_text("[listen\n", "utf-8")
        errors = seen.rejected()
        assert [(error["section"], error["field"]) for error in errors] == [("", "")]
        assert seen.reload() == []


def test_a_port_that_is_taken_changes_nothing(target: str) -> None:
    free = free_port()
    with (
        socket.create_server(("127.0.0.1", 0)) as owner,
        watched(listen=[listener("main", 0), listener("gone", 0)]) as seen,
    ):
        daemon = seen.daemon
        taken = owner.getsockname()[1]
        before = descriptors(daemon)
        whole = dict(seen.sections)
        seen.write(
            listen=[
                listener("main", 0, "socks"),
                listener("free", free),
                listener("taken", taken),
            ],
            access=NOBODY,
            resolver={"servers": ["127.0.0.1:9"]},
            log={"level": "error"},
        )
        (error,) = seen.rejected()
        assert (error["section"], error["field"]) == ("listen", "")
        assert str(taken) in error["message"]
        assert listening(free) is None
        for proxy in daemon.proxies.values():
            assert asked(proxy, target) == (200, "")
        daemon.wait_until(lambda: descriptors(daemon) == before, "nothing more is open")
        seen.sections = whole
        assert seen.reload() == []
        daemon.output.expect("^configuration reloaded: nothing changed$")


def test_a_file_that_vanished_comes_back(target: str) -> None:
    with watched() as seen:
        seen.daemon.path.unlink()
        (error,) = seen.rejected()
        assert "cannot read" in error["message"]
        assert asked(seen.daemon.proxy, target) == (200, "")
        assert seen.reload(http={"via": True}) == ["http"]


def test_a_refused_reload_is_taken_back_whole() -> None:
    """Nobody outside can see what is kept in memory for each reload that came to nothing."""
    listen = [{"name": "main", "address": "127.0.0.1", "port": 0}]
    control = {"listen": ["127.0.0.1:0"]}
    before = convert({"listen": listen, "control": control})
    loop = Loop(make_dispatcher())
    daemon = InProcess(loop, prepare(before, None), None, "", None)
    try:
        daemon.start()
        deadlines = len(loop.dispatcher.deadlines)
        with socket.create_server(("127.0.0.1", 0)) as owner:
            taken = {"name": "taken", "address": "127.0.0.1", "port": owner.getsockname()[1]}
            resolver = {"servers": ["127.0.0.1:9"]}
            sections = {"listen": [*listen, taken], "control": control, "resolver": resolver}
            with pytest.raises(BindError):
                daemon.apply(prepare(convert(sections), None), ["listen", "resolver"])
        assert len(loop.dispatcher.deadlines) == deadlines
        assert daemon.reloader.settings is before
    finally:
        loop.run_until_complete(daemon._stop())
        loop.close()
