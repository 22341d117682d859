"""Datagrams between one client and one target, as far as an association carries them.

    state        leaves it by
    ----------   -----------------------------------------------------------------
    looking up   an address that clients may reach -> standing; none -> closed
    standing     a minute without a datagram, another target needs its place, its
                 way is gone, the operator, or with its association -> closed

A flow has a connected socket of its own, so that nobody but the target can answer. To those
who watch it is a connection, and it counts as one of the client's.

Nothing waits for a socket to become writable: a datagram that cannot go on at once is
dropped, as it may be anywhere on its way, and counted. The sockets are level-triggered, so
that a turn may end after a bounded number of datagrams.
"""

from __future__ import annotations

import errno
from _socket import socket as Socket
from socket import AF_INET, AF_INET6, SOCK_DGRAM, SOL_SOCKET
from typing import TYPE_CHECKING, Protocol, cast

from .condition import WAITING
from .dial import REASONS, RESOLUTION_DELAY, SO_BINDTODEVICE, SO_MARK, Dialler, Lookup
from .dispatch import IN
from .errors import DENIED, Reason
from .target import Target, unpack
from .way import FAULTS, Way
from .wire.udp import HEADER_LIMIT, make_header

if TYPE_CHECKING:
    from .udp import Association

BATCH = 16  # datagrams read from one socket in one turn
PENDING = 8  # datagrams of one flow that wait for an address
HELD = 65536  # bytes that wait so, over all flows of an association

# One datagram at a time is in here, with room for a header before it. UDP carries 65,507
# bytes at most over IPv4 and 65,527 over IPv6.
BUFFER = bytearray(HEADER_LIMIT + 65536)
VIEW = memoryview(BUFFER)
_behind = VIEW[HEADER_LIMIT:]
# The way is gone, or our address on it: the next datagram needs another socket.
_LOST = frozenset((
    errno.EADDRNOTAVAIL, errno.EINVAL, errno.ENETDOWN, errno.ENETUNREACH, errno.ENODEV,
))  # fmt: skip
_ORDINARY = (Reason.CLOSED, Reason.IDLE_TIMEOUT)  # ends that are no error


class _Leaf(Protocol):
    """A backend that dials by itself."""

    dialler: Dialler


def family(packed: bytes) -> int:
    """The address family of 4 or 16 bytes."""
    return AF_INET if len(packed) == 4 else AF_INET6


def reason_of(error: OSError) -> Reason:
    """Why there is no socket."""
    return REASONS.get(error.errno or 0, Reason.CONNECT_FAILED)


class Flow:
    """Datagrams between a client and one target; see `plane.Carried` for what is not here.

    Args:
        association: whose
        header: of the client's datagrams to this target
        target: it

    Attributes:
        back: header of the datagrams to the client: the same, but with an address for a name
    """

    __slots__ = (
        "addresses", "asked", "association", "back", "backend", "began", "bytes_received",
        "bytes_sent", "client", "client_ip", "client_port", "dialler", "fd", "header", "host",
        "id", "listener", "lookup", "looking", "open", "pending", "policy", "route", "settle",
        "sock", "started", "target", "user", "way",
    )  # fmt: skip

    datagrams = True
    protocol = "SOCKS5"
    refusal: Reason | None = None
    way: Way

    def __init__(self, association: Association, header: bytes, target: Target) -> None:
        plane = association.plane
        self.association = association
        self.header = self.back = header
        self.target = target
        self.policy = plane.policy
        self.listener = association.listener
        self.client = association.client
        self.client_ip = association.client_ip
        self.client_port = association.client_port
        self.user = association.user
        self.host = target.text
        self.backend = self.route = ""
        self.id = 0
        self.started = 0.0
        self.asked = self.began = plane.dispatcher.now
        self.bytes_sent = self.bytes_received = 0
        self.open = True
        self.looking = False
        self.lookup: Lookup | None = None
        self.addresses: tuple[bytes, ...] = ()
        self.pending: list[bytes] = []
        self.dialler: Dialler | None = None
        self.sock: Socket | None = None
        self.settle = plane.dispatcher.common_deadlines(RESOLUTION_DELAY, Flow.on_settled)

    # Finding the way.

    def begin(self) -> None:
        """Find the way and go it, or fail."""
        reason = self._choose() or self.association.admit(self)
        if reason is not None:
            self._fail(reason)
            return
        target, dialler = self.target, self.dialler
        assert dialler is not None
        if target.packed is not None:
            self.addresses = (target.packed,)
            self._connect(None)
            return
        self.looking = True
        lookup = dialler.resolver.lookup(target.host, dialler.family, self.resolved)
        if self.looking:
            self.lookup = lookup
        elif lookup is not None:  # what was known at once was enough
            lookup.cancel()

    def _choose(self) -> Reason | None:
        """Choose what carries it, as for a connection, or tell why nothing does."""
        if self.association.barred is not None:
            return self.association.barred
        target, policy = self.target, self.policy
        match = policy.router.find(target.host, target.packed, target.port, self.client)
        if match is None:
            return Reason.NO_ROUTE
        self.route = match.route
        self.backend = match.backend
        # The first and no other: what an upstream proxy would hide must not go past it.
        way = policy.backends[match.backend].carriers(self.client)[0]
        if way.type == "block":
            return Reason.BLOCKED
        if way.type not in ("direct", "interface"):
            return Reason.BAD_COMMAND  # upstream proxies get no datagrams
        self.way = way
        self.dialler = cast(_Leaf, policy.backends[way.name]).dialler
        return Reason.DEVICE_ABSENT if way.condition.state == WAITING else None

    def resolved(
        self, addresses: tuple[bytes, ...], reason: Reason | None, finished: bool
    ) -> None:
        """The resolver knows these addresses so far. RFC 8305 section 3 as for connections."""
        if not self.looking:  # it was told in the call, and had enough
            return
        assert self.dialler is not None
        self.addresses = addresses
        if finished:
            self.looking = False
            self.lookup = None
        if finished or any(len(packed) == self.dialler.first for packed in addresses):
            self._connect(reason)
        else:
            self.settle.start(self)

    def on_settled(self) -> None:
        """The other kind of address has been waited for."""
        self._connect(None)

    def _connect(self, reason: Reason | None) -> None:
        """Take the first address that clients may reach and a packet can be sent to."""
        dialler, port = self.dialler, self.target.port
        assert dialler is not None
        for packed in self.addresses:
            if not dialler.usable(packed):
                reason = reason or Reason.NET_UNREACHABLE
                continue
            refusal = dialler.guard(packed, port)
            if refusal is not None:
                reason = refusal
                continue
            try:
                sock = _open(dialler, packed, port)
            except OSError as error:
                reason = reason_of(error)
                continue
            if self.target.packed is None:
                self.back = make_header(packed, port)
            self._stand(sock)
            return
        if not self.looking:
            self._fail(reason or Reason.DNS_NOT_FOUND)

    def _stand(self, sock: Socket) -> None:
        """From `looking up` to `standing`."""
        association = self.association
        self.sock = sock
        self.fd = sock.fileno()
        self.backend = self.way.name
        self._end_lookup()
        association.refused.pop(self.header, None)
        association.plane.dispatcher.attach(self.fd, self.on_event, edge=False)
        association.plane.opened(self)
        for payload in self._take_pending():
            if self.open:
                self.send(payload)
            else:  # the way went with an earlier one
                association.plane.dropped += 1

    def _end_lookup(self) -> None:
        self.settle.stop(self)
        self.looking = False
        lookup, self.lookup = self.lookup, None
        if lookup is not None:
            lookup.cancel()

    def _take_pending(self) -> list[bytes]:
        pending, self.pending = self.pending, []
        self.association.held -= sum(map(len, pending))
        return pending

    # Relaying.

    def send(self, payload: memoryview | bytes) -> None:
        """Send a datagram of the client's to the target, or keep it while that is looked up."""
        association, sock = self.association, self.sock
        if sock is None:
            if len(self.pending) < PENDING and association.held + len(payload) <= HELD:
                self.pending.append(bytes(payload))
                association.held += len(payload)
            else:
                association.plane.dropped += 1
            return
        association.quiet.start(self)
        for _ in range(2):
            try:
                self.bytes_sent += sock.send(payload)
            except ConnectionRefusedError:
                continue  # so it was with an earlier datagram: this one has not been sent
            except OSError as error:
                if error.errno in _LOST:
                    self.close(Reason.NET_UNREACHABLE)
                break
            association.moved += 1
            return
        association.plane.dropped += 1

    def on_event(self, mask: int) -> None:
        """Pass on what the target sends to the client."""
        association = self.association
        back = self.back
        start = HEADER_LIMIT - len(back)
        sock = self.sock
        assert sock is not None
        for _ in range(BATCH):
            try:
                size = sock.recv_into(_behind)
            except BlockingIOError:
                return
            except OSError:  # an earlier datagram did not arrive
                continue
            association.quiet.start(self)
            self.bytes_received += size
            VIEW[start:HEADER_LIMIT] = back
            try:
                association.relay.send(VIEW[start : HEADER_LIMIT + size])
                association.moved += 1
            except OSError:  # full, too long with its header, or not taken by the client
                association.plane.dropped += 1

    # The end.

    def on_idle_check(self) -> None:
        """What is left idle is the association: a flow ends much earlier."""

    def on_quiet(self) -> None:
        """No datagram moved for a while."""
        self.close(Reason.IDLE_TIMEOUT)

    def _fail(self, reason: Reason) -> None:
        """It comes to nothing."""
        if self.dialler is not None and reason.reply != DENIED:
            self.way.failed(reason, self.host, reason in FAULTS)
        self.close(reason)

    def close(self, reason: Reason) -> None:
        """End it, whatever it is doing."""
        if not self.open:
            return
        self.open = False
        association = self.association
        plane = association.plane
        self._end_lookup()
        plane.dropped += len(self._take_pending())
        association.quiet.stop(self)
        admitted = association.flows.pop(self.header, None) is not None
        told = True
        if self.sock is not None:
            plane.dispatcher.discard(self.fd, self.sock)
            plane.closed(self, reason)
        elif association.refuse(self.header):
            plane.failed(self, reason)
        else:
            told = False
        if told:
            error = None if reason in _ORDINARY else reason
            sent, received = self.bytes_sent, self.bytes_received
            plane.record(self, self.protocol, self.host, None, sent, received, error)
        if admitted:
            plane.leave(self)
        if plane.stopping and not association.flows:
            association.close(Reason.SHUTDOWN)

    def crash(self) -> None:
        """A handler raised: see dispatch.Owner."""
        self.close(Reason.INTERNAL)

    def wants(self, fd: int) -> int:
        """For the portable selector."""
        return IN


def _open(dialler: Dialler, packed: bytes, port: int) -> Socket:
    """A socket for datagrams to one address; see `dial.Dialler.open`.

    Raises:
        OSError: no packet could get there
    """
    sock = Socket(family(packed), SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if dialler.device:
            sock.setsockopt(SOL_SOCKET, SO_BINDTODEVICE, dialler.device)
        if dialler.mark:
            sock.setsockopt(SOL_SOCKET, SO_MARK, dialler.mark)
        if dialler.source:
            sock.bind((dialler.source, 0))
        sock.connect((unpack(packed), port))
    except OSError:
        sock.close()
        raise
    return sock
