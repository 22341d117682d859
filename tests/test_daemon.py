"""The daemon's start and end, what it guards, and what it does with few descriptors."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from bifrost_lite import __version__
from bifrost_lite.config.convert import convert
from bifrost_lite.daemon import run
from bifrost_lite.errors import BindError
from tests.daemon_kit import (
    ask,
    ask_for,
    asked,
    echoing,
    ended,
    free_port,
    read_head,
    speaks,
    tunnel,
)
from tests.e2e.daemon import Address, Daemon
from tests.e2e.origin import Origin
from tests.e2e.program import DEADLINE, Program

FOREVER = "10m"  # a graceful period that no test can wait for


# Starting.


def test_ready_comes_last_and_says_who() -> None:
    listen = [
        {"name": "four", "address": "127.0.0.1", "port": 0},
        {"name": "six", "address": "::1", "port": 0},
    ]
    control = {"listen": ["127.0.0.1:0", "[::1]:0"]}
    with Daemon(listen=listen, control=control) as daemon:
        lines = daemon.output.text.splitlines()
        expected = [
            f"listening: proxy four 127.0.0.1:{daemon.proxies['four'].port}",
            f"listening: proxy six [::1]:{daemon.proxies['six'].port}",
            f"listening: control 127.0.0.1:{daemon.controls[0].port}",
            f"listening: control [::1]:{daemon.controls[1].port}",
        ]
        if os.geteuid() == 0:
            expected.append("warn: running as root: give the daemon a user of its own")
        assert lines == [*expected, f"ready: bifrost-lite {__version__}, pid {daemon.pid}"]


@pytest.mark.parametrize("taken", ["first", "second", "control"])
def test_an_address_that_is_taken_leaves_nothing_behind(taken: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as owner:
        ports = dict.fromkeys(("first", "second", "control"), 0)
        ports[taken] = owner.getsockname()[1]
        settings = convert(
            {
                "listen": [
                    {"name": name, "address": "127.0.0.1", "port": ports[name]}
                    for name in ("first", "second")
                ],
                "control": {"listen": ["127.0.0.1:0", f"127.0.0.1:{ports['control']}"]},
            }
        )
        with pytest.raises(BindError, match=rf"cannot listen on .*\b{ports[taken]}\b"):
            run(settings, None)


# Ending.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it(number: signal.Signals) -> None:
    with Daemon(graceful_period=FOREVER) as daemon:
        daemon.process.send_signal(number)
        assert daemon.wait() == 0
        assert daemon.output.text.endswith("\nstopping, 0 connections\nstopped")


@pytest.mark.parametrize(
    ("period", "numbers"),
    [
        (FOREVER, [signal.SIGINT]),
        (FOREVER, [signal.SIGTERM, signal.SIGTERM]),
        (FOREVER, [signal.SIGTERM, signal.SIGINT]),
        ("200ms", [signal.SIGTERM]),
        (0, [signal.SIGTERM]),
    ],
)
def test_an_open_tunnel_is_cut(period: str | int, numbers: list[signal.Signals]) -> None:
    with (
        echoing() as target,
        Daemon(graceful_period=period) as daemon,
        tunnel(daemon.proxy, target) as client,
    ):
        for number in numbers:
            daemon.process.send_signal(number)
            daemon.output.expect("^stopping, 1 connections$")
        assert daemon.wait() == 0
        assert ended(client)


def test_a_stopping_daemon_takes_nobody_but_serves_who_is_in() -> None:
    with echoing() as target, Daemon(graceful_period=FOREVER) as daemon:
        with tunnel(daemon.proxy, target) as client:
            daemon.process.terminate()
            daemon.output.expect("^stopping, 1 connections$")
            assert speaks(client)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(daemon.proxy, DEADLINE)
            socket.create_connection(daemon.control, DEADLINE).close()
        assert daemon.wait() == 0


def answered(client: socket.socket) -> bytes:
    """The body of the answer that comes."""
    length = re.search(rb"\r\nContent-Length: (\d+)\r\n", read_head(client))
    assert length
    return client.recv(int(length[1]), socket.MSG_WAITALL)


def test_a_kept_connection_ends_with_its_exchange() -> None:
    """The client keeps its end open: nothing but the daemon's own decision can end it."""
    with (
        Origin() as origin,
        Daemon(graceful_period=FOREVER) as daemon,
        socket.create_connection(daemon.proxy, DEADLINE) as client,
    ):
        ask_for(client, origin.url("/bytes/5"))
        assert len(answered(client)) == 5
        ask_for(client, origin.url("/hold"))
        daemon.wait_until(lambda: len(origin.seen) == 2, "the request is at its target")
        daemon.process.terminate()
        daemon.output.expect("^stopping, 1 connections$")
        origin.release.set()
        assert answered(client) == b"released"
        assert ended(client)
        assert daemon.wait() == 0


def test_connections_that_carry_nothing_do_not_delay_the_end() -> None:
    with (
        Origin() as origin,
        Daemon(graceful_period=FOREVER) as daemon,
        socket.create_connection(daemon.proxy, DEADLINE) as kept,
        socket.create_connection(daemon.proxy, DEADLINE) as silent,
        socket.create_connection(daemon.proxy, DEADLINE) as halfway,
    ):
        ask_for(kept, origin.url("/bytes/5"))
        assert len(answered(kept)) == 5
        halfway.sendall(b"GET http://a.example/ HT")
        refused, _ = ask(daemon.proxy, f"127.0.0.1:{daemon.proxy.port}")
        with refused:
            daemon.process.terminate()
            assert daemon.wait() == 0
        assert ended(kept)
        assert ended(silent)


def test_it_reloads_nothing_while_it_stops() -> None:
    with echoing() as target, Daemon(graceful_period=FOREVER) as daemon:
        port = free_port()
        with tunnel(daemon.proxy, target) as client:
            daemon.process.terminate()
            daemon.output.expect("^stopping, 1 connections$")
            text = daemon.path.read_text("utf-8")
            daemon.path.write_text(text.replace("port = 0", f"port = {port}", 1), "utf-8")
            daemon.process.send_signal(signal.SIGHUP)
            assert speaks(client)
        assert daemon.wait() == 0
        assert not daemon.output.matching("reload")


def test_it_can_be_stopped_while_it_reloads() -> None:
    for _ in range(3):
        with Daemon() as daemon:
            daemon.process.send_signal(signal.SIGHUP)
            daemon.process.terminate()
            assert daemon.wait() == 0
            assert not daemon.output.matching("(?i)destroyed|error|never")


# Guards.


def own_addresses() -> set[str]:
    """The IPv4 addresses of this machine."""
    trie = Path("/proc/net/fib_trie").read_text("ascii")
    return set(re.findall(r"\|-- (\S+)\n\s+/32 host LOCAL", trie))


def test_what_is_local_is_not_reached_through_the_proxy() -> None:
    with echoing() as target, Daemon(access={"allow_local": False}) as daemon:
        port = target.rpartition(":")[2]
        hosts = ["127.0.0.1", "127.9.9.9", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"]
        for host in [*hosts, "169.254.1.1", "224.0.0.1", *own_addresses()]:
            assert asked(daemon.proxy, f"{host}:{port}") == (403, "target_denied"), host


def test_the_daemon_itself_is_never_reached_through_the_proxy() -> None:
    with echoing() as target, Daemon() as daemon:
        port = target.rpartition(":")[2]
        hosts = ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", *own_addresses()]
        for own in (daemon.proxy, *daemon.controls):
            for host in hosts:
                loop = asked(daemon.proxy, f"{host}:{own.port}")
                assert loop == (403, "proxy_loop"), f"{host}:{own.port}"
        assert asked(daemon.proxy, f"127.0.0.1:{port}") == (200, "")


# Descriptors.

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv.pop(1)), int(sys.argv.pop(1))))
from bifrost_lite.__main__ import main
sys.exit(main())
"""


class Limited(Daemon):
    """A daemon that is started with soft and hard limits of descriptors."""

    def __init__(self, soft: int, hard: int) -> None:
        super().__init__(limits={"max_connections": 200, "max_connections_per_client": 200})
        command = [sys.executable, "-c", LIMITED, str(soft), str(hard)]
        self._argv = [*command, "run", "-c", str(self.path)]


def test_few_descriptors_mean_few_connections() -> None:
    with Limited(300, 300) as daemon:
        told = daemon.output.expect(
            r"^warn: only (\d+) of 200 connections fit into 300 file descriptors$"
        )
        room = int(told[1])
        assert 8 <= room < 100
        with ExitStack() as clients:
            for _ in range(room):
                clients.enter_context(socket.create_connection(daemon.proxy, DEADLINE))
            assert asked(daemon.proxy, "192.0.2.1:80") == (503, "too_many_connections")


def test_the_soft_limit_is_raised() -> None:
    with Limited(300, 2000) as daemon:
        limits = Path(f"/proc/{daemon.pid}/limits").read_text("ascii")
        found = re.search(r"Max open files\s+(\d+)\s+(\d+)", limits)
        assert found
        assert 600 <= int(found[1]) <= int(found[2]) == 2000
        assert not daemon.output.matching("descriptors")


# Without a file.

FILELESS = """
import sys
sys.modules["ssl"] = sys.modules["_hashlib"] = None
from bifrost_lite.config.convert import convert
from bifrost_lite.daemon import run
sys.exit(run(convert({
    "listen": [{"name": "quick", "address": "127.0.0.1", "port": 0}],
    "control": {"listen": ["127.0.0.1:0"]},
}), None))
"""


def test_without_a_file_there_is_nothing_to_reload() -> None:
    with Program([sys.executable, "-c", FILELESS]) as program:
        program.output.expect("^ready: ")
        found = program.output.expect(r"^listening: proxy quick 127\.0\.0\.1:(\d+)$")
        program.process.send_signal(signal.SIGHUP)
        program.output.expect("^warn: nothing to reload: ")
        proxy = Address("127.0.0.1", int(found[1]))
        assert asked(proxy, "127.0.0.1:1") == (403, "target_denied")
        program.process.terminate()
        assert program.wait() == 0
