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
from tests.netlink_kit import PORT, Kernel, address, done, error

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


def test_both_ways_agree(
    own: OwnAddresses, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(netlink, "_AF_NETLINK", None)
    by_trial = OwnAddresses(dispatcher)
    for packed in own.addresses:
        if packed[:1] != b"\xfe":  # a link-local address is bound with its zone
            assert by_trial.is_own(packed)


def test_closing_twice_is_closing(own: OwnAddresses) -> None:
    feed = own._feed
    assert feed is not None
    own.close()
    own.close()
    feed.close()
    feed.on_event(1)


def test_by_trial_without_netlink(dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch) -> None:
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


Start = Callable[..., "tuple[OwnAddresses, Kernel]"]


@pytest.fixture
def start(dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    made: list[tuple[OwnAddresses, Kernel]] = []

    def begin(*answers: list[bytes | OSError], sender: int = 0) -> tuple[OwnAddresses, Kernel]:
        kernel = Kernel(*answers, sender=sender)
        monkeypatch.setattr(netlink, "Socket", lambda *args: kernel)
        made.append((OwnAddresses(dispatcher), kernel))
        monkeypatch.undo()
        return made[-1]

    yield begin
    for own, kernel in made:
        own.close()
        kernel.close()


def news(own: OwnAddresses) -> None:
    """There is something to read."""
    assert own._feed is not None
    own._feed.on_event(1)


def one(text: str = "10.0.0.1", sequence: int = 1) -> list[bytes | OSError]:
    """A dump of one address."""
    return [address(text, sequence=sequence, port=PORT) + done(sequence)]


def test_it_asks_for_addresses_alone(start: Start) -> None:
    own, kernel = start(one())
    assert own.addresses == {ip("10.0.0.1")}
    assert kernel.groups == 0x110
    assert [request[4] for request in kernel.requests] == [22]  # RTM_GETADDR


def test_a_dump_that_was_disturbed_is_taken_again(start: Start) -> None:
    own, kernel = start(
        [address("10.0.0.1", sequence=1, port=PORT, flags=0x12) + done(1)],
        [OSError(errno.ENOBUFS, "lost"), address("10.0.0.4", sequence=2, port=PORT) + done(2)],
        [
            address("10.0.0.2", sequence=3, port=PORT),
            address("10.0.0.3") + address("10.0.0.2", kind=21),  # news while it is listed
            done(1) + done(3),
        ],
    )
    assert own.addresses == {ip("10.0.0.3")}
    assert len(kernel.requests) == 3


@pytest.mark.parametrize(
    "answers",
    [
        [[error(1, errno.EPERM)]],
        [[done(1, errno.ENOMEM)]],
        [[TimeoutError("timed out")]],
        [[b"broken"]],
        [[address("10.0.0.1", sequence=n, port=PORT, flags=0x12) + done(n)] for n in range(1, 6)],
    ],
)
def test_by_trial_where_the_dump_fails(
    start: Start, answers: list[list[bytes | OSError]], caplog: pytest.LogCaptureFixture
) -> None:
    own, kernel = start(*answers)
    assert "by trial" in caplog.text
    assert kernel.closed
    assert own.is_own(ip("127.0.0.1"))
    assert not own.is_own(ip("10.0.0.1"))


def test_by_trial_where_the_groups_are_refused(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Kernel()

    def refuse(place: tuple[int, int]) -> None:
        raise OSError(errno.EPERM, "no")

    monkeypatch.setattr(kernel, "bind", refuse)
    monkeypatch.setattr(netlink, "Socket", lambda *args: kernel)
    OwnAddresses(dispatcher).close()
    assert kernel.closed


def test_a_dump_has_a_deadline(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netlink, "monotonic", iter([0.0, 0.1, 0.5, 3.0]).__next__)
    own, _ = start([address("10.0.0.1", sequence=1, port=PORT), done(1)])
    assert own.is_own(ip("127.0.0.1"))
    assert own.addresses == frozenset()


def test_news(start: Start) -> None:
    own, kernel = start(one())
    kernel.reads = [address("10.0.0.2"), address("10.0.0.1", kind=21)]
    news(own)
    assert own.addresses == {ip("10.0.0.2")}


def test_only_the_kernel_is_believed(start: Start) -> None:
    own, kernel = start(one())
    kernel.sender = 99
    kernel.reads = [address("10.0.0.1", kind=21), b"broken"]
    news(own)
    assert own.addresses == {ip("10.0.0.1")}


@pytest.mark.parametrize("trouble", [OSError(errno.ENOBUFS, "lost"), b"broken"])
def test_what_was_lost_is_asked_for(start: Start, trouble: bytes | OSError) -> None:
    """What was left to read is from before the gap, in which the address may have gone."""
    own, kernel = start(one())
    kernel.reads = [trouble, address("10.0.0.5"), OSError(errno.ENOBUFS, "lost")]
    kernel.answers = [one("10.0.0.9", 2)]
    news(own)
    assert own.addresses == {ip("10.0.0.9")}


def test_by_trial_once_the_kernel_fails(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    own, kernel = start(one())
    kernel.reads = [OSError(errno.ENOBUFS, "lost")]
    kernel.answers = [[TimeoutError("timed out")]]
    news(own)
    assert not own.is_own(ip("10.0.0.1"))
    assert own.is_own(ip("127.0.0.1"))
    assert "by trial from now on: timed out" in caplog.text


@pytest.mark.parametrize("asks", [False, True])
def test_by_trial_after_a_crash(start: Start, asks: bool) -> None:
    own, kernel = start(one())
    feed = own._feed
    assert feed is not None
    broken = OSError(errno.EBADF, "what")
    kernel.reads = [OSError(errno.ENOBUFS, "lost"), broken] if asks else [broken]
    if asks:
        news(own)
    else:
        with pytest.raises(OSError, match="what"):
            news(own)
        feed.crash()
    assert own.is_own(ip("127.0.0.1"))
    feed.on_event(1)


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
assert own._feed._sequence > 1, "nothing was lost"
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
    assert own._feed is not None
    assert list(dispatcher.handlers.values()) == [own._feed.on_event]
