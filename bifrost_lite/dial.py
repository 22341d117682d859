"""Reaching a target: resolve its name, race its addresses, hand over the socket.

RFC 8305 in brief: IPv6 and IPv4 addresses take turns; a new attempt starts when the last
one failed or after 250 ms, whichever is first; the first that connects wins and the others
are closed. When only IPv4 addresses are known yet, IPv6 gets 50 ms more. One deadline
bounds the whole, resolving included.

Every address is checked right before it is dialled, so a name that resolves to a
forbidden address, or changes to one, gets nowhere.
"""

from __future__ import annotations

import errno
import os
import socket
from _socket import socket as Socket
from collections.abc import Callable
from socket import (
    AF_INET,
    AF_INET6,
    IPPROTO_TCP,
    SO_ERROR,
    SO_KEEPALIVE,
    SO_OOBINLINE,
    SOL_SOCKET,
    TCP_NODELAY,
)
from typing import Protocol

from .dispatch import ERR, HUP, OUT, Dispatcher, crashed
from .errors import DENIED, Reason
from .target import Target, unpack
from .way import FAULTS, Way

STAGGER = 0.25  # seconds between attempts, RFC 8305 section 5
RESOLUTION_DELAY = 0.05  # seconds that IPv6 may come later than IPv4, RFC 8305 section 3
ADDRESS_LIMIT = 16  # addresses of one name that are tried

_SOCK_NONBLOCK: int = getattr(socket, "SOCK_NONBLOCK", 0)  # saves a system call where known
# Linux alone has these; elsewhere the kernel refuses the numbers.
SO_BINDTODEVICE: int = getattr(socket, "SO_BINDTODEVICE", 25)
SO_MARK: int = getattr(socket, "SO_MARK", 36)
_STREAM = socket.SOCK_STREAM | _SOCK_NONBLOCK
_UNDER_WAY = (errno.EINPROGRESS, 0)
REASONS = {
    errno.ECONNREFUSED: Reason.CONNECT_REFUSED,
    errno.ETIMEDOUT: Reason.CONNECT_TIMEOUT,
    errno.ENETUNREACH: Reason.NET_UNREACHABLE,
    errno.ENETDOWN: Reason.NET_UNREACHABLE,
    errno.EAFNOSUPPORT: Reason.NET_UNREACHABLE,
    errno.EADDRNOTAVAIL: Reason.NET_UNREACHABLE,
    errno.EHOSTUNREACH: Reason.HOST_UNREACHABLE,
    errno.EHOSTDOWN: Reason.HOST_UNREACHABLE,
    errno.EMFILE: Reason.OUT_OF_DESCRIPTORS,
    errno.ENFILE: Reason.OUT_OF_DESCRIPTORS,
    errno.ECONNRESET: Reason.TARGET_RESET,
    errno.ENODEV: Reason.DEVICE_ABSENT,
}

# (socket, mask, None, way) of a connection, or (None, 0, why not, way). The socket is still
# attached; the mask is the event that told, which may tell of data that came with it. The
# way is what carried or failed, None where nobody asked for one.
Done = Callable[["Socket | None", int, "Reason | None", "Way | None"], None]
# Why (address, port) must not be dialled for a client, or None.
Guard = Callable[[bytes, int], "Reason | None"]


class Lookup(Protocol):
    """A look-up under way."""

    def cancel(self) -> None: ...


class Resolver(Protocol):
    """What finds addresses for names; see `resolve.Resolver`."""

    def lookup(
        self,
        name: str,
        family: str,
        answer: Callable[[tuple[bytes, ...], Reason | None, bool], None],
    ) -> Lookup | None: ...


class Dialler:
    """The settings and the clockwork that all dials of one backend share.

    Args:
        dispatcher: calls the attempts
        resolver: finds addresses
        guard: why an address of 4 or 16 bytes and a port may not be dialled, or None
        seconds: deadline of a whole dial
        family: auto, 4, 6 or prefer4
        source: local address to dial from, "" for the system's choice
        device: network device that all packets leave through, "" for the routes' choice
        mark: firewall mark of the packets, 0 for none
        way: whom these dials are for, and who is judged by them; None for nobody
    """

    __slots__ = (
        "deadline", "device", "dispatcher", "family", "first", "guard", "mark", "only",
        "resolution", "resolver", "source", "stagger", "way",
    )  # fmt: skip

    def __init__(
        self,
        dispatcher: Dispatcher,
        resolver: Resolver,
        guard: Guard,
        *,
        seconds: float = 10.0,
        family: str = "auto",
        source: str = "",
        device: str = "",
        mark: int = 0,
        way: Way | None = None,
    ) -> None:
        self.dispatcher = dispatcher
        self.resolver = resolver
        self.guard = guard
        self.family = family
        self.source = source
        self.device = device.encode()
        self.mark = mark
        self.way = way
        # Bytes of the only kind of address that can be dialled, 0 for both kinds.
        self.only = {"4": 4, "6": 16}.get(family, 0)
        if source:
            self.only = 16 if ":" in source else 4
        # The same of the kind that does not wait for the other's answer.
        self.first = self.only or (4 if family == "prefer4" else 16)
        # Not its own: dials may outlive the configuration that made this object.
        self.deadline = dispatcher.common_deadlines(seconds, Dial.late)
        self.stagger = dispatcher.common_deadlines(STAGGER, Dial.next_attempt)
        self.resolution = dispatcher.common_deadlines(RESOLUTION_DELAY, Dial.next_attempt)

    def usable(self, packed: bytes) -> bool:
        """Whether the backend's family and source let it dial this address."""
        return not self.only or len(packed) == self.only

    def open(self, packed: bytes, port: int) -> Socket:
        """A socket that is connecting.

        Raises:
            OSError: it cannot even start
        """
        sock = Socket(AF_INET if len(packed) == 4 else AF_INET6, _STREAM)
        try:
            if not _SOCK_NONBLOCK:
                sock.setblocking(False)
            sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
            sock.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1)
            sock.setsockopt(SOL_SOCKET, SO_OOBINLINE, 1)
            if self.device:
                sock.setsockopt(SOL_SOCKET, SO_BINDTODEVICE, self.device)
            if self.mark:
                sock.setsockopt(SOL_SOCKET, SO_MARK, self.mark)
            if self.source:
                sock.bind((self.source, 0))
            error = sock.connect_ex((unpack(packed), port))
            if error not in _UNDER_WAY:
                raise OSError(error, os.strerror(error))
        except OSError:
            sock.close()
            raise
        return sock


class Dial:
    """One dial. `done` is called exactly once, unless `cancel` comes first.

    Args:
        dialler: how to dial
        target: where to
        done: told how it ended
    """

    __slots__ = (
        "addresses", "attempts", "dialler", "done", "lookup", "reason", "resolving", "target",
        "tried",
    )  # fmt: skip

    def __init__(self, dialler: Dialler, target: Target, done: Done) -> None:
        self.dialler = dialler
        self.done: Done | None = done
        self.target = target
        self.addresses: list[bytes] = []
        self.tried = 0
        self.attempts: list[Attempt] = []
        self.reason: Reason | None = None
        self.lookup: Lookup | None = None
        self.resolving = False
        dialler.deadline.start(self)
        if target.packed is not None:
            self.addresses = [target.packed]
            self.next_attempt()
        else:
            self.resolving = True
            lookup = dialler.resolver.lookup(target.host, dialler.family, self.resolved)
            if self.done is not None:
                self.lookup = lookup

    def resolved(
        self, addresses: tuple[bytes, ...], reason: Reason | None, finished: bool
    ) -> None:
        """The resolver knows these addresses so far."""
        if self.done is None:
            return
        tried = self.addresses[: self.tried]
        fresh = [packed for packed in addresses if packed not in tried]
        self.addresses = (tried + _take_turns(fresh, tried))[:ADDRESS_LIMIT]
        if finished:
            self.resolving = False
            self.lookup = None
            self.dialler.resolution.stop(self)
            if not self.addresses:
                self.reason = reason or Reason.DNS_NOT_FOUND
        if self.attempts:
            if self.tried < len(self.addresses) and self not in self.dialler.stagger.since:
                self.dialler.stagger.start(self)
        elif finished or any(len(packed) == self.dialler.first for packed in addresses):
            self.next_attempt()
        elif addresses:
            self.dialler.resolution.start(self)

    def next_attempt(self) -> None:
        """Dial the next address that may be dialled; fail when none is left."""
        dialler = self.dialler
        while self.tried < len(self.addresses):
            packed = self.addresses[self.tried]
            self.tried += 1
            if not dialler.usable(packed):
                self.reason = self.reason or Reason.NET_UNREACHABLE
                continue
            refusal = dialler.guard(packed, self.target.port)
            if refusal is not None:
                self.reason = refusal
                continue
            try:
                sock = dialler.open(packed, self.target.port)
            except OSError as error:
                self.reason = REASONS.get(error.errno or 0, Reason.CONNECT_FAILED)
                continue
            attempt = Attempt(self, sock)
            self.attempts.append(attempt)
            dialler.dispatcher.attach(attempt.fd, attempt.on_event)
            if self.tried < len(self.addresses):
                dialler.stagger.start(self)
            return
        if not self.attempts and not self.resolving:
            self._finish(None, 0, self.reason or Reason.CONNECT_FAILED)

    def connected(self, attempt: Attempt, mask: int) -> None:
        """This attempt won."""
        self.attempts.remove(attempt)
        self._finish(attempt.sock, mask, None)

    def failed(self, attempt: Attempt, error: int) -> None:
        """This attempt is lost; the next starts at once."""
        self.attempts.remove(attempt)
        self.dialler.dispatcher.discard(attempt.fd, attempt.sock)
        self.reason = REASONS.get(error, Reason.CONNECT_FAILED)
        if self.tried < len(self.addresses):
            self.dialler.stagger.stop(self)
        self.next_attempt()

    def late(self) -> None:
        """The deadline of the whole is over."""
        late = Reason.CONNECT_TIMEOUT if self.attempts else self.reason or Reason.DNS_TIMEOUT
        self._finish(None, 0, late)

    def fail(self, reason: Reason) -> None:
        """Give up, and tell why."""
        self._finish(None, 0, reason)

    def cancel(self) -> None:
        """Give up; `done` will not be called."""
        self.done = None
        dialler = self.dialler
        dialler.deadline.stop(self)
        if len(self.addresses) > 1 or self.resolving:
            dialler.stagger.stop(self)
            dialler.resolution.stop(self)
        if self.lookup is not None:
            self.lookup.cancel()
            self.lookup = None
        for attempt in self.attempts:
            dialler.dispatcher.discard(attempt.fd, attempt.sock)
        self.attempts.clear()

    def crash(self) -> None:
        """A deadline callback raised."""
        self._finish(None, 0, Reason.INTERNAL)

    def _finish(self, sock: Socket | None, mask: int, reason: Reason | None) -> None:
        done = self.done
        dialler = self.dialler
        began = dialler.deadline.since.get(self)
        self.cancel()
        if done is None:
            return
        way = dialler.way
        if way is not None:
            if reason is None:
                now = dialler.dispatcher.now
                way.worked(now - began if began is not None else 0.0)
            elif reason.reply != DENIED:  # what the rules refuse is no failure of the way
                way.failed(reason, self.target.text, reason in FAULTS)
        try:
            done(sock, mask, reason, way)
        except Exception:
            crashed(getattr(done, "__self__", None))


class Attempt:
    """One address being dialled."""

    __slots__ = ("dial", "fd", "sock")

    def __init__(self, dial: Dial, sock: Socket) -> None:
        self.dial = dial
        self.sock = sock
        self.fd = sock.fileno()

    def on_event(self, mask: int) -> None:
        """Connected, or not."""
        if mask & (ERR | HUP) or not self.dial.dialler.dispatcher.exact:
            error = self.sock.getsockopt(SOL_SOCKET, SO_ERROR)
            if error:
                self.dial.failed(self, error)
                return
        if mask & OUT:
            self.dial.connected(self, mask)

    def wants(self, fd: int) -> int:
        """For the portable selector."""
        return OUT

    def crash(self) -> None:
        """The handler raised: the whole dial fails."""
        self.dial.crash()


def _take_turns(fresh: list[bytes], tried: list[bytes]) -> list[bytes]:
    """Order addresses so that the families alternate, in the resolver's preference."""
    six = [packed for packed in fresh if len(packed) == 16]
    four = [packed for packed in fresh if len(packed) == 4]
    if fresh and len(fresh[0]) == 4:
        first, second = four, six
    else:
        first, second = six, four
    if tried and first and second and len(tried[-1]) == len(first[0]):
        first, second = second, first
    turns: list[bytes] = []
    for i in range(max(len(first), len(second))):
        turns += first[i : i + 1] + second[i : i + 1]
    return turns
