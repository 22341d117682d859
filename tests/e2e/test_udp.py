"""Datagrams through the real daemon: programs of others as clients, watchers, rules, devices."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from bifrost_lite.udp import TARGETS
from bifrost_lite.wire.udp import make_header
from tests.daemon_kit import watched
from tests.e2e.daemon import Daemon
from tests.e2e.nameserver import NameServer
from tests.e2e.program import DEADLINE, environment
from tests.namespaces import FAR, FOUR, Crossing
from tests.passwd_kit import hash_of
from tests.plane_kit import LOOPBACK, Peer
from tests.udp_kit import Point, Rider, exchange, named

UDP: list[dict[str, Any]] = [{"name": "main", "address": LOOPBACK, "port": 0, "udp": True}]
# A question for the IPv4 address of far.example, which the worlds of a crossing have.
QUERY = b"\x12\x34\x01\x00\0\1\0\0\0\0\0\0\x03far\x07example\0\0\1\0\1"
SERVER = make_header(socket.inet_aton(FOUR), 53)

# A program that knows nothing of proxies.
RESOLVE = """
import socket, sys
for connected in (False, True):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(10)
    if connected:
        sock.connect((sys.argv[1], 53))
        sock.send(bytes.fromhex(sys.argv[2]))
    else:
        sock.sendto(bytes.fromhex(sys.argv[2]), (sys.argv[1], 53))
    data, source = sock.recvfrom(4096)
    print(source[0], data.hex())
"""
DANTE = """
errorlog: /dev/null
resolveprotocol: fake
route {
  from: 0.0.0.0/0 to: 0.0.0.0/0 via: 127.0.0.1 port = %d
  proxyprotocol: socks_v5
  command: connect udpassociate
  method: none
}
"""
PYSOCKS = """
import socket, socks, sys
host, port, target, target_port, *login = sys.argv[1:]
sock = socks.socksocket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(10)
sock.set_proxy(socks.SOCKS5, host, int(port), True, *login)
for size in (1, 1000, 60000):
    sock.sendto(b"x" * size, (target, int(target_port)))
    data, source = sock.recvfrom(65536)
    print(*source, len(data))
"""


def run(*argv: object, **extra: str) -> str:
    """Run a program to its end; answers what it prints."""
    done = subprocess.run(
        [str(word) for word in argv],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env=environment(**extra),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class Echo:
    """A target that sends everything back; a context manager."""

    def __init__(self) -> None:
        self.point = Point()
        self.point.sock.settimeout(None)
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        while (got := self.point.recv()).data != b"stop":
            self.point.send(got.data, got.source)

    def __enter__(self) -> Point:
        self._thread.start()
        return self.point

    def __exit__(self, *exc: object) -> None:
        with Point() as stopper:
            stopper.send(b"stop", (LOOPBACK, self.point.port))
        self._thread.join()
        self.point.close()


@contextmanager
def ride(daemon: Daemon, source: str = "") -> Iterator[Rider]:
    """An association."""
    local = (source, 0) if source else None
    with (
        socket.create_connection(daemon.proxy, DEADLINE, local) as control,
        Rider(Peer(control)) as rider,
    ):
        yield rider


def api(daemon: Daemon, path: str, method: str = "GET", body: object = None) -> dict[str, Any]:
    """What the API answers."""
    request = urllib.request.Request(
        daemon.url(f"/api/v1{path}"),
        None if body is None else json.dumps(body).encode(),
        {"Content-Type": "application/json"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


@contextmanager
def events(daemon: Daemon) -> Iterator[ClientConnection]:
    types = "connection.new,connection.close,connection.failed"
    with connect(f"ws://{daemon.control}/api/v1/ws?types={types}") as found:
        yield found


def event(source: ClientConnection) -> tuple[str, dict[str, Any]]:
    """Type and data of the next event."""
    found = json.loads(source.recv(timeout=DEADLINE))
    return found["type"], found["data"]


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with (
        NameServer({"echo.test": [LOOPBACK]}) as names,
        Daemon(listen=UDP, resolver={"servers": [names.address]}) as daemon,
    ):
        before = daemon.sockets()
        yield daemon
        daemon.wait_until(lambda: daemon.sockets() <= before, "all sockets are closed")


@pytest.mark.parametrize("target", [LOOPBACK, "echo.test"])
def test_pysocks(daemon: Daemon, target: str) -> None:
    with Echo() as echo:
        told = run("/usr/bin/python3", "-c", PYSOCKS, *daemon.proxy, target, echo.port)
    assert told == "".join(f"{LOOPBACK} {echo.port} {size}\n" for size in (1, 1000, 60000))
    daemon.wait_until(lambda: api(daemon, "/connections")["count"] == 0, "it is over")
    (record,) = api(daemon, "/requests")["requests"]
    assert (record["protocol"], record["host"]) == ("SOCKS5", f"{target}:{echo.port}")
    assert record["bytes_sent"] == record["bytes_received"] == 61001


def test_pysocks_that_logs_in() -> None:
    users = [{"name": "anna", "password_hash": str(hash_of(b"geheim"))}]
    with Daemon(listen=UDP, users=users) as daemon, Echo() as echo:
        words = ("/usr/bin/python3", "-c", PYSOCKS, *daemon.proxy, LOOPBACK, echo.port)
        assert run(*words, "anna", "geheim").endswith("60000\n")
        with pytest.raises(AssertionError, match="SOCKS5 authentication failed"):
            run(*words, "anna", "falsch")


def test_a_watcher_sees_flows_as_connections(daemon: Daemon) -> None:
    with events(daemon) as seen, ride(daemon) as rider, Point() as target, Point() as other:
        exchange(rider, target, b"question", b"answer")
        kind, new = event(seen)
        assert (kind, new["protocol"], new["host"], new["backend"], new["client_ip"]) == (
            "connection.new", "SOCKS5", target.target.text, "direct", LOOPBACK,
        )  # fmt: skip
        exchange(rider, other)
        assert event(seen)[0] == "connection.new"
        first, second = api(daemon, "/connections")["connections"]
        assert (first["id"], first["bytes_sent"], first["bytes_received"]) == (new["id"], 8, 6)
        assert first["client_port"] == rider.control.sock.getsockname()[1]
        assert api(daemon, "/connections/clients")["clients"][0]["connections"] == 2
        assert api(daemon, f"/connections/{second['id']}", "DELETE")["closed"] == 1
        kind, closed = event(seen)
        assert (kind, closed["id"], closed["reason"]) == (
            "connection.close", second["id"], "closed_by_operator",
        )  # fmt: skip
        rider.say(named("nowhere.test", 53), b"q").say(named("nowhere.test", 53), b"q")
        kind, failed = event(seen)
        assert (kind, failed["host"], failed["reason"]) == (
            "connection.failed", "nowhere.test:53", "dns_not_found",
        )  # fmt: skip
        exchange(rider, target, b"question", b"answer")
        rider.control.finish()
        kind, closed = event(seen)
        assert (kind, closed["id"], closed["reason"]) == ("connection.close", new["id"], "closed")
        assert (closed["bytes_sent"], closed["bytes_received"]) == (16, 12)
    errors = [record["error"] for record in api(daemon, "/requests")["requests"]]
    assert sorted(errors) == ["", "closed_by_operator", "dns_not_found"]


def test_two_clients_and_a_stranger(daemon: Daemon) -> None:
    with (
        ride(daemon) as one,
        ride(daemon, "127.0.0.2") as two,
        Point() as target,
        Point("127.0.0.3") as stranger,
    ):
        for rider in (one, two):
            stranger.send(target.header + b"spoofed", rider.relay)
            exchange(rider, target)
            stranger.send(target.header + b"spoofed", rider.relay)
        # The relay of one is nothing to the other.
        two.send(target.header + b"spoofed", one.relay)
        exchange(one, target)
        exchange(two, target)
        found = api(daemon, "/connections")["connections"]
        assert [(item["client_ip"], item["bytes_sent"]) for item in found] == [
            (LOOPBACK, 8), ("127.0.0.2", 8),
        ]  # fmt: skip


def test_a_flood_beyond_all_bounds(daemon: Daemon) -> None:
    before = daemon.sockets()
    with ride(daemon) as rider, Point() as target:
        for port in range(1, 400):
            rider.say(make_header(socket.inet_aton("127.0.0.9"), port), b"x" * 30000)
            rider.say(named(f"n{port}.test", 53), b"x" * 3000)
            rider.say(b"\0\0\1\1", b"fragment")
        # The kernel drops what comes too fast, so perhaps this as well.
        daemon.wait_until(lambda: echoed(rider, target), "it is still served")
        assert daemon.sockets() <= before + 2 + TARGETS + 1  # that of the resolver
        assert api(daemon, "/connections")["count"] <= TARGETS


def echoed(rider: Rider, target: Point) -> bool:
    """Whether a datagram arrives."""
    rider.say(target.header, b"still there?")
    target.sock.settimeout(0.2)
    try:
        return target.recv().data == b"still there?"
    except TimeoutError:
        return False


def test_off_is_off() -> None:
    with Daemon() as daemon, socket.create_connection(daemon.proxy, DEADLINE) as sock:
        client = Peer(sock).send(b"\x05\x01\x00").expect(b"\x05\x00")
        client.send(b"\x05\x03\x00\x01\0\0\0\0\0\0")
        assert client.rest()[:2] == b"\x05\x07"


def test_it_is_turned_on_and_off_by_a_reload() -> None:
    with watched() as seen, Point() as target:
        assert seen.reload(listen=UDP) == ["listen"]
        with ride(seen.daemon) as rider:
            exchange(rider, target)
            assert seen.reload(listen=[UDP[0] | {"udp": False}]) == ["listen"]
            exchange(rider, target)  # what is there stays
            with socket.create_connection(seen.daemon.proxy, DEADLINE) as sock:
                client = Peer(sock).send(b"\x05\x01\x00\x05\x03\x00\x01\0\0\0\0\0\0")
                assert client.rest()[2:4] == b"\x05\x07"


@pytest.mark.parametrize("denied", ["target", "user"])
def test_a_reload_that_enforces_its_rules(denied: str) -> None:
    everything = {"name": "all", "domains": ["*"], "backend": "direct"}
    with (
        watched(listen=UDP, routes=[everything]) as seen,
        Point() as target,
        Point() as other,
        ride(seen.daemon) as rider,
    ):
        exchange(rider, target)
        exchange(rider, other)
        if denied == "target":
            seen.write(routes=[everything | {"ports": [target.port]}])
        else:
            seen.write(users=[{"name": "anna", "password_hash": str(hash_of(b"geheim"))}])
        with events(seen.daemon) as told:
            answer = api(seen.daemon, "/config/reload", "POST", {"enforce": True})
            assert answer["closed"] == (1 if denied == "target" else 2)
            assert event(told)[1]["reason"] == "enforced"
            if denied == "target":
                exchange(rider, target)
                rider.say(other.header, b"q")
                kind, failed = event(told)
                assert (kind, failed["host"], failed["reason"]) == (
                    "connection.failed", other.target.text, "no_route",
                )  # fmt: skip
            else:
                rider.control.ended()


# Through a device and no other.


@pytest.fixture
def crossing() -> Iterator[Crossing]:
    """The test is in its router."""
    with Crossing() as made, made.router.inside():
        made.plug()
        yield made


@contextmanager
def behind_vpn(family: str = "4") -> Iterator[Daemon]:
    vpn = {"name": "vpn", "type": "interface", "device": "vpn0", "family": family}
    with Daemon(
        listen=UDP,
        backends=[
            {**vpn, "resolver": [FOUR]},
            {"name": "direct", "type": "direct"},
            {"name": "best", "type": "group", "members": ["vpn", "direct"]},
        ],
        routes=[
            {"name": "some", "cidrs": [f"{FOUR}/32"], "ports": [5353], "backend": "best"},
            {"name": "all", "domains": ["*"], "backend": "vpn"},
        ],
    ) as daemon:
        yield daemon


def private(crossing: Crossing) -> None:
    """Nothing has left by the other way."""
    assert crossing.leaked() == 0
    assert crossing.wan.asked == set()


@pytest.mark.parametrize("target", [FOUR, FAR])
def test_dante_as_client(crossing: Crossing, target: str, tmp_path: Path) -> None:
    with behind_vpn() as daemon:
        conf = tmp_path / "socks.conf"
        conf.write_text(DANTE % daemon.proxy.port)
        told = run(
            "socksify", "/usr/bin/python3", "-c", RESOLVE, target, QUERY.hex(), SOCKS_CONF=str(conf)
        )
        for line in told.splitlines():
            source, data = line.split()
            assert source == FOUR
            assert bytes.fromhex(data).endswith(socket.inet_aton(FOUR))
        assert len(told.splitlines()) == 2
    assert "far.example" in crossing.vpn.asked
    private(crossing)


def test_a_device_that_goes_and_comes(crossing: Crossing) -> None:
    with behind_vpn() as daemon, events(daemon) as told, ride(daemon) as rider:
        rider.say(SERVER, QUERY)
        assert rider.recv().data.endswith(socket.inet_aton(FOUR))
        assert event(told)[0] == "connection.new"
        crossing.unplug()
        assert (event(told)[1]["reason"]) == "device_absent"
        rider.say(SERVER, QUERY).say(SERVER, QUERY).say(named(FAR, 53), QUERY)
        for _ in range(2):
            kind, data = event(told)
            assert (kind, data["backend"], data["reason"]) == (
                "connection.failed", "vpn", "device_absent",
            )  # fmt: skip
        private(crossing)
        crossing.plug()
        daemon.wait_until(lambda: answered(rider), "it is tried again")
        private(crossing)


def answered(rider: Rider) -> bool:
    """Whether a question is."""
    rider.say(SERVER, QUERY)
    rider.sock.settimeout(0.2)
    try:
        return rider.recv().data.endswith(socket.inet_aton(FOUR))
    except TimeoutError:
        return False


def test_a_group_goes_by_the_member_that_works(crossing: Crossing) -> None:
    header = make_header(socket.inet_aton(FOUR), 5353)
    with behind_vpn() as daemon, events(daemon) as told, ride(daemon) as rider:
        rider.say(header, b"q")
        assert event(told)[1]["backend"] == "vpn"
        private(crossing)
        crossing.unplug()
        assert event(told)[0] == "connection.close"
        rider.say(header, b"q")
        assert event(told)[1]["backend"] == "direct"
