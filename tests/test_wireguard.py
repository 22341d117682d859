"""Asking for peers, with the kernel's side played by the test: the machines that run these
tests have no WireGuard. What needs privileges is tried with and without them."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bifrost_lite import netlink, wireguard
from bifrost_lite.dispatch import Dispatcher, EpollDispatcher, PollDispatcher
from bifrost_lite.netlink import open_netlink
from bifrost_lite.wire.genl import Allowed, Peer
from bifrost_lite.wireguard import REJECT_AFTER_TIME, Inquiry, age, ask
from tests.dispatch_kit import until
from tests.namespaces import Namespace
from tests.netlink_kit import PORT, done, error, message
from tests.wireguard_kit import FAMILY, Answer, device, family, more, peer

ROOT = Path(__file__).parents[1]
ONE, TWO = bytes(range(32)), bytes(range(32, 64))


@pytest.fixture(params=[EpollDispatcher, PollDispatcher])
def dispatcher(request: pytest.FixtureRequest) -> Iterator[Dispatcher]:
    made: Dispatcher = request.param()
    yield made
    made.select(0)
    assert not made.handlers
    assert not any(made.waiting)
    made.close()


class Asked:
    """An inquiry about wg0, whose kernel is the test.

    Attributes:
        told: what it was told
    """

    def __init__(self, dispatcher: Dispatcher, kernel: Answer) -> None:
        self.dispatcher = dispatcher
        self.kernel = kernel
        self.told: list[tuple[list[Peer] | None, str]] = []
        self.inquiry: Inquiry = ask(dispatcher, "wg0", self.done)

    def done(self, peers: list[Peer] | None, why: str) -> None:
        self.told.append((peers, why))

    def requested(self) -> tuple[int, int, int]:
        """Type, flags and sequence of the next request."""
        data = self.kernel.asked.recv(4096)
        length, kind, flags, sequence, _ = struct.unpack_from("=IHHII", data)
        assert length == len(data)
        return kind, flags, sequence

    def answer(self, *data: bytes) -> Asked:
        """Let it read this."""
        for piece in data:
            self.kernel.asked.send(piece)
        for _ in range(3):
            self.dispatcher.select(0)
        return self

    def family(self) -> Asked:
        """Answer its first question."""
        assert self.requested() == (16, 0x1, 1)
        return self.answer(message(16, family(), 1, PORT))

    def end(self) -> tuple[list[Peer] | None, str]:
        """What it was told, once."""
        (told,) = self.told
        assert not self.dispatcher.handlers
        return told


Start = Callable[..., Asked]


@pytest.fixture
def start(dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    made: list[Answer] = []

    def begin(sender: int = 0) -> Asked:
        kernel = Answer(sender)
        made.append(kernel)
        monkeypatch.setattr(netlink, "Socket", lambda *args: kernel)
        return Asked(dispatcher, kernel)

    yield begin
    for kernel in made:
        kernel.close()
        kernel.asked.close()


def part(payload: bytes, sequence: int = 2, flags: int = 2) -> bytes:
    """A message of the dump."""
    return message(FAMILY, payload, sequence, PORT, flags)


def test_peers(start: Start) -> None:
    asked = start().family()
    assert asked.requested() == (FAMILY, 0x301, 2)
    asked.answer(
        part(device(peer(ONE, ["10.0.0.1/32"], handshake=(1_700_000_000, 0)))),
        part(device(more(ONE, ["10.0.0.2/32"]), first=False))
        + part(device(peer(TWO), first=False)),
    )
    assert not asked.told
    asked.answer(done(2))
    one, two = Allowed(b"\x0a\0\0\1", 32), Allowed(b"\x0a\0\0\2", 32)
    peers = [Peer(ONE, 1_700_000_000.0, allowed=(one, two)), Peer(TWO)]
    assert asked.end() == (peers, "")


def test_a_device_without_peers(start: Start) -> None:
    assert start().family().answer(part(device()), done(2)).end() == ([], "")


def test_peers_that_changed_while_they_were_listed(start: Start) -> None:
    asked = start().family()
    asked.requested()
    asked.answer(part(device(peer(ONE)), flags=0x12), done(2))
    assert asked.requested() == (FAMILY, 0x301, 3)
    asked.answer(part(device(peer(TWO)), 3), done(3))
    assert asked.end() == ([Peer(TWO)], "")


def test_peers_that_never_stop_changing(start: Start) -> None:
    asked = start().family()
    for sequence in range(2, 2 + wireguard.TRIES):
        assert asked.requested() == (FAMILY, 0x301, sequence)
        asked.answer(part(device(), sequence, 0x12), done(sequence))
    why = f"the kernel does not tell the peers of wg0: {os.strerror(errno.EAGAIN)}"
    assert asked.end() == (None, why)


def test_what_is_not_for_it_is_ignored(start: Start) -> None:
    asked = start().family()
    asked.answer(
        message(FAMILY, device(peer(ONE)), 9, PORT),
        message(FAMILY, device(peer(ONE)), 2, PORT + 1),
        message(FAMILY + 1, device(peer(ONE)), 2, PORT),
        message(16, family(), 2, PORT),
        error(1, errno.EPERM),
        done(2),
    )
    assert asked.end() == ([], "")


def test_only_the_kernel_is_believed(start: Start) -> None:
    asked = start(sender=99).family()
    assert not asked.told
    asked.inquiry.cancel()


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (errno.ENODEV, "wg0 is not there"),
        (errno.EOPNOTSUPP, "wg0 is no WireGuard device"),
        (errno.EPERM, "asking for the peers of wg0 needs CAP_NET_ADMIN"),
        (errno.ENOENT, f"the kernel does not tell the peers of wg0: {os.strerror(errno.ENOENT)}"),
        (0, f"the kernel does not tell the peers of wg0: {os.strerror(0)}"),
    ],
)
def test_refusals(start: Start, code: int, why: str) -> None:
    assert start().family().answer(error(2, code)).end() == (None, why)


def test_a_refusal_at_the_end_of_a_dump(start: Start) -> None:
    """The error stands in NLMSG_DONE then, says wireguard.h."""
    asked = start().family().answer(part(device(peer(ONE))), done(2, errno.ENODEV))
    assert asked.end() == (None, "wg0 is not there")


def test_a_kernel_without_wireguard(start: Start) -> None:
    assert start().answer(error(1, errno.ENOENT)).end() == (None, "the kernel has no WireGuard")


def test_this_kernel(dispatcher: Dispatcher) -> None:
    """Whether or not it has WireGuard, it has no such device."""
    told: list[tuple[list[Peer] | None, str]] = []
    with Namespace() as here, here.inside():
        ask(dispatcher, "wg0", lambda peers, why: told.append((peers, why)))
    until(dispatcher, lambda: told)
    assert told[0] in [(None, "the kernel has no WireGuard"), (None, "wg0 is not there")]


@pytest.mark.parametrize(
    "data", [b"broken", part(b"\0"), part(device(more(ONE[:-1], []))), message(2, b"", 2, PORT)]
)
def test_broken_answers(start: Start, data: bytes) -> None:
    peers, why = start().family().answer(data).end()
    assert peers is None
    assert why.startswith("the kernel's answer about wg0 is broken: ")


def test_it_has_a_deadline(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wireguard, "SECONDS", 0.05)
    asked = start().family()
    until(asked.dispatcher, lambda: asked.told)
    why = f"the kernel does not tell the peers of wg0: {os.strerror(errno.ETIMEDOUT)}"
    assert asked.end() == (None, why)


@pytest.mark.parametrize("step", [0, 1])
def test_it_can_be_given_up(start: Start, step: int) -> None:
    asked = start()
    if step:
        asked.family()
    asked.inquiry.cancel()
    asked.inquiry.cancel()
    asked.inquiry.on_event(1)
    asked.inquiry.late()
    assert not asked.told
    assert not asked.dispatcher.handlers


def test_without_netlink(dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netlink, "_AF_NETLINK", None)
    told: list[tuple[list[Peer] | None, str]] = []
    ask(dispatcher, "wg0", lambda peers, why: told.append((peers, why))).cancel()
    why = f"the kernel does not tell the peers of wg0: {os.strerror(errno.EAFNOSUPPORT)}"
    assert told == [(None, why)]
    assert not wireguard.can_read_wireguard()


def test_an_error_of_the_socket(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = start()

    def lost(size: int) -> object:
        raise OSError(errno.ENOBUFS, "lost")

    monkeypatch.setattr(asked.kernel, "recvfrom", lost)
    peers, why = asked.answer(b"something").end()
    assert peers is None
    assert os.strerror(errno.ENOBUFS) in why


def test_who_asked_may_fail(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = start()

    def fail(*args: object) -> None:
        raise RuntimeError("no")

    asked.inquiry._done = fail
    asked.family().answer(done(2))
    assert "a callback of the data plane failed" in caplog.text
    assert not asked.dispatcher.handlers


def test_a_fault_of_our_own(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = start()
    monkeypatch.setattr(wireguard, "parse_family", lambda payload: 1 // 0)
    peers, why = asked.family().end()
    assert (peers, why) == (None, "asking for the peers of wg0 met a fault of our own")
    assert "ZeroDivisionError" in caplog.text


# The newest handshake.

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("handshakes", "expected"),
    [
        ([], None),
        ([0.0, 0.0], None),
        ([NOW - 10], 10),
        ([NOW - 500, 0.0, NOW - 179.5, NOW - 600], 179.5),
        ([NOW + 3600], 3600),  # the clock was put back: this is old, or nobody knows
    ],
)
def test_age(handshakes: list[float], expected: float | None) -> None:
    peers = [Peer(ONE, handshake) for handshake in handshakes]
    assert age(peers, NOW) == expected


def test_when_keys_end() -> None:
    assert REJECT_AFTER_TIME == 180


# Capabilities.

TRY = """
import os, sys
from bifrost_lite.wireguard import can_mark, can_read_wireguard
if sys.argv[1:] == ["drop"]:
    os.setgroups([])
    os.setuid(65534)
print(can_mark(), can_read_wireguard())
"""


def tried(*argv: str) -> str:
    """What a process may do."""
    with Namespace() as here, here.inside():
        done = subprocess.run(
            [*argv[1:], sys.executable, "-c", TRY, *argv[:1]],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=20,
        )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_root_may() -> None:
    assert tried("keep") == "True True"


def test_others_may_not() -> None:
    assert tried("drop") == "False False"


def test_who_has_the_capability_may() -> None:
    only = ["setpriv", "--bounding-set=-all,+net_admin", "--inh-caps=-all"]
    assert tried("keep", *only) == "True True"


def test_who_has_no_capability_may_not() -> None:
    assert tried("keep", "setpriv", "--bounding-set=-all", "--inh-caps=-all") == "False False"


def test_who_gets_no_socket_may_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> object:
        raise OSError(errno.EMFILE, "full")

    monkeypatch.setattr(netlink, "Socket", refuse)
    monkeypatch.setattr(wireguard, "Socket", refuse)
    assert not wireguard.can_mark()
    assert not wireguard.can_read_wireguard()


@pytest.mark.parametrize("answer", [b"broken", b"", error(1, errno.EINVAL) * 2])
def test_an_odd_answer_is_none(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Answer()
    monkeypatch.setattr(netlink, "Socket", lambda *args: kernel)
    kernel.asked.send(answer or done(1))
    assert not wireguard.can_read_wireguard()
    kernel.asked.close()


def test_asking_whether_changes_nothing() -> None:
    """The kernel answers the empty change with EINVAL, and goes on as before."""
    with Namespace() as here:
        before = here.ip("link")
        with here.inside():
            assert wireguard.can_read_wireguard()
            open_netlink(0).close()
        assert here.ip("link") == before
