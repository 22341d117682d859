from __future__ import annotations

import errno
import ipaddress
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bifrost_lite import netlink
from bifrost_lite.dispatch import Dispatcher, EpollDispatcher, PollDispatcher
from bifrost_lite.netlink import OwnAddresses

ROOT = Path(__file__).parents[1]


def ip(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


@pytest.fixture(params=[EpollDispatcher, PollDispatcher])
def dispatcher(request: pytest.FixtureRequest) -> Iterator[Dispatcher]:
    made: Dispatcher = request.param()
    yield made
    assert not made.handlers
    made.close()


@pytest.fixture
def own(dispatcher: Dispatcher) -> Iterator[OwnAddresses]:
    made = OwnAddresses(dispatcher)
    yield made
    made.close()


def test_knows_the_loopback_addresses(own: OwnAddresses) -> None:
    assert ip("127.0.0.1") in own.addresses
    assert own.is_own(ip("127.0.0.1"))
    assert not own.is_own(ip("192.0.2.77"))
    assert not own.is_own(ip("2001:db8::77"))


@pytest.mark.parametrize(
    "text", ["::ffff:127.0.0.1", "64:ff9b::127.0.0.1", "2002:7f00:1::5", "::127.0.0.1"]
)
def test_knows_its_own_in_disguise(own: OwnAddresses, text: str) -> None:
    assert own.is_own(ip(text))


def test_both_ways_agree(own: OwnAddresses, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netlink, "_AF_NETLINK", None)
    by_trial = OwnAddresses(own._dispatcher)
    for packed in own.addresses:
        if packed[:1] != b"\xfe":  # a link-local address is bound with its zone
            assert by_trial.is_own(packed)


def test_closing_twice_is_closing(own: OwnAddresses) -> None:
    own.close()
    own.close()
    own.on_event(1)


def test_by_trial_without_netlink(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(netlink, "_AF_NETLINK", None)
    own = OwnAddresses(dispatcher)
    assert own.addresses == frozenset()
    assert own.is_own(ip("127.0.0.1"))
    assert own.is_own(ip("::ffff:127.0.0.1"))
    assert own.is_own(ip("64:ff9b::127.0.0.1"))
    assert not own.is_own(ip("192.0.2.77"))
    assert not own.is_own(ip("2001:db8::77"))
    own.close()


def refuse(*args: object) -> socket.socket:
    raise OSError(errno.EAFNOSUPPORT, "not here")


def test_by_trial_where_the_socket_is_refused(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(netlink, "Socket", refuse)
    own = OwnAddresses(dispatcher)
    assert not own.is_own(ip("127.0.0.1"))  # no socket at all: nothing can be bound, or dialled
    monkeypatch.undo()
    assert own.is_own(ip("127.0.0.1"))
    assert "by trial" in caplog.text


class Kernel:
    """A netlink socket whose reads are scripted: bytes come from the kernel."""

    def __init__(self, *reads: bytes | OSError, sender: int = 0) -> None:
        self.reads = list(reads)
        self.sender = sender
        self.requests = 0
        self.ours, self.theirs = socket.socketpair()

    def fileno(self) -> int:
        return self.ours.fileno()

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()

    def bind(self, address: tuple[int, int]) -> None:
        assert address == (0, 0x110)

    def getsockname(self) -> tuple[int, int]:
        return 4242, 0x110

    def settimeout(self, seconds: float) -> None:
        assert 0 < seconds <= netlink.DUMP_SECONDS

    def setblocking(self, blocking: bool) -> None:
        assert not blocking

    def send(self, data: bytes) -> int:
        self.requests += 1
        return len(data)

    def recvfrom(self, size: int) -> tuple[bytes, tuple[int, int]]:
        if not self.reads:
            raise BlockingIOError(errno.EAGAIN, "nothing")
        read = self.reads.pop(0)
        if isinstance(read, OSError):
            raise read
        return read, (self.sender, 0)


def packet(kind: int, payload: bytes, sequence: int, port: int = 4242, flags: int = 2) -> bytes:
    header = (16 + len(payload)).to_bytes(4, sys.byteorder)
    for number, size in ((kind, 2), (flags, 2), (sequence, 4), (port, 4)):
        header += number.to_bytes(size, sys.byteorder)
    return header + payload


def address(text: str, kind: int = 20, sequence: int = 0, port: int = 0, flags: int = 2) -> bytes:
    attribute = (8).to_bytes(2, sys.byteorder) + (2).to_bytes(2, sys.byteorder) + ip(text)
    interface = (1).to_bytes(4, sys.byteorder)
    return packet(kind, bytes((2, 8, 0, 0)) + interface + attribute, sequence, port, flags)


def done(sequence: int) -> bytes:
    return packet(3, bytes(4), sequence)


Start = Callable[..., "tuple[OwnAddresses, Kernel]"]


@pytest.fixture
def start(dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    made: list[tuple[OwnAddresses, Kernel]] = []

    def begin(*reads: bytes | OSError, sender: int = 0) -> tuple[OwnAddresses, Kernel]:
        kernel = Kernel(*reads, sender=sender)
        monkeypatch.setattr(netlink, "Socket", lambda *args: kernel)
        made.append((OwnAddresses(dispatcher), kernel))
        monkeypatch.undo()
        return made[-1]

    yield begin
    for own, kernel in made:
        own.close()
        kernel.close()


def test_a_dump_that_was_disturbed_is_taken_again(start: Start) -> None:
    own, kernel = start(
        address("10.0.0.1", sequence=1, port=4242, flags=0x12) + done(1),
        OSError(errno.ENOBUFS, "lost"),
        done(2),
        address("10.0.0.2", sequence=3, port=4242),
        address("10.0.0.3") + address("10.0.0.2", kind=21),  # news while it is listed
        done(1) + done(3),
    )
    assert own.addresses == {ip("10.0.0.3")}
    assert kernel.requests == 3


@pytest.mark.parametrize(
    "reads",
    [
        [packet(2, (-1).to_bytes(4, sys.byteorder, signed=True) + bytes(16), 1)],
        [TimeoutError("timed out")],
        [b"broken"],
        [address("10.0.0.1", sequence=n, port=4242, flags=0x12) + done(n) for n in range(1, 6)],
    ],
)
def test_by_trial_where_the_dump_fails(
    start: Start, reads: list[bytes | OSError], caplog: pytest.LogCaptureFixture
) -> None:
    own, _ = start(*reads)
    assert "by trial" in caplog.text
    assert own.is_own(ip("127.0.0.1"))
    assert not own.is_own(ip("10.0.0.1"))


def test_a_dump_has_a_deadline(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netlink, "monotonic", iter([0.0, 0.5, 3.0]).__next__)
    own, _ = start(address("10.0.0.1", sequence=1, port=4242), done(1))
    assert own.is_own(ip("127.0.0.1"))
    assert own.addresses == frozenset()


def test_news(start: Start) -> None:
    own, kernel = start(address("10.0.0.1", sequence=1, port=4242) + done(1))
    kernel.reads = [address("10.0.0.2"), address("10.0.0.1", kind=21)]
    own.on_event(1)
    assert own.addresses == {ip("10.0.0.2")}


def test_only_the_kernel_is_believed(start: Start) -> None:
    own, kernel = start(address("10.0.0.1", sequence=1, port=4242) + done(1))
    kernel.sender = 99
    kernel.reads = [address("10.0.0.1", kind=21), b"broken"]
    own.on_event(1)
    assert own.addresses == {ip("10.0.0.1")}


@pytest.mark.parametrize("trouble", [OSError(errno.ENOBUFS, "lost"), b"broken"])
def test_what_was_lost_is_asked_for(start: Start, trouble: bytes | OSError) -> None:
    own, kernel = start(address("10.0.0.1", sequence=1, port=4242) + done(1))
    kernel.reads = [trouble, address("10.0.0.9", sequence=2, port=4242) + done(2)]
    own.on_event(1)
    assert own.addresses == {ip("10.0.0.9")}


def test_by_trial_once_the_kernel_fails(start: Start) -> None:
    own, kernel = start(address("10.0.0.1", sequence=1, port=4242) + done(1))
    kernel.reads = [OSError(errno.ENOBUFS, "lost"), TimeoutError("timed out")]
    own.on_event(1)
    assert not own.is_own(ip("10.0.0.1"))
    assert own.is_own(ip("127.0.0.1"))


def test_by_trial_after_a_crash(start: Start) -> None:
    own, kernel = start(address("10.0.0.1", sequence=1, port=4242) + done(1))
    kernel.reads = [OSError(errno.EBADF, "what")]
    with pytest.raises(OSError, match="what"):
        own.on_event(1)
    own.crash()
    assert own.is_own(ip("127.0.0.1"))


# Runs in a network namespace of its own, where addresses can come and go.
IN_A_NAMESPACE = """
import subprocess, sys, time
from socket import AF_INET, AF_INET6, inet_pton
from bifrost_lite import dispatch
from bifrost_lite.netlink import OwnAddresses

def ip(*words):
    subprocess.run(["ip", *words], check=True, timeout=10)

def wait(dispatcher, condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "the kernel's message did not come"
        dispatcher.select(0.1)

dispatcher = getattr(dispatch, sys.argv[1])()
four, six = inet_pton(AF_INET, "10.9.8.7"), inet_pton(AF_INET6, "2001:db8::7")
peer = inet_pton(AF_INET, "10.9.8.8")
own = OwnAddresses(dispatcher)
assert own.addresses == frozenset(), own.addresses
ip("link", "set", "lo", "up")
ip("address", "add", "10.9.8.7/8", "dev", "lo")
wait(dispatcher, lambda: own.is_own(four))
ip("address", "add", "10.9.8.7/24", "dev", "lo")
ip("address", "add", "10.9.8.9", "peer", "10.9.8.8", "dev", "lo")
ip("address", "add", "2001:db8::7/64", "dev", "lo", "nodad")
wait(dispatcher, lambda: own.is_own(six))
assert not own.is_own(peer)
ip("address", "del", "10.9.8.7/8", "dev", "lo")
ip("address", "del", "2001:db8::7/64", "dev", "lo")
wait(dispatcher, lambda: not own.is_own(six))
assert own.is_own(four), "it is still there with another prefix"
ip("address", "flush", "dev", "lo")
wait(dispatcher, lambda: not own.is_own(four))
again = OwnAddresses(dispatcher)
assert again.addresses == own.addresses, (again.addresses, own.addresses)

# More news than the socket can hold: the kernel drops some, and says so.
batch = "".join(f"address add 10.1.{i >> 8}.{i & 255}/32 dev lo\\n" for i in range(4000))
subprocess.run(["ip", "-batch", "-"], input=batch, text=True, check=True, timeout=60)
wait(dispatcher, lambda: len(own.addresses) >= 4000)
assert own._sequence > 1, "nothing was lost"
again.close()
own.close()
dispatcher.select(0)
dispatcher.close()
"""


@pytest.mark.parametrize("dispatcher_name", ["EpollDispatcher", "PollDispatcher"])
def test_addresses_come_and_go(dispatcher_name: str) -> None:
    unshare = shutil.which("unshare")
    assert unshare and shutil.which("ip"), "needs util-linux and iproute2"
    options = ["-n"] if os.geteuid() == 0 else ["-r", "-n"]
    subprocess.run(
        [unshare, *options, sys.executable, "-c", IN_A_NAMESPACE, dispatcher_name],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        timeout=90,
    )


def test_nothing_is_polled(own: OwnAddresses, dispatcher: Dispatcher) -> None:
    assert dispatcher.deadlines == []
    assert list(dispatcher.handlers.values()) == [own.on_event]
