"""SOCKS5 UDP ASSOCIATE: datagrams between one client and many targets, RFC 1928 section 7.

An `Association` takes the place of the session that asked for it. Its relay socket is bound
to the address at which the client reached us and takes datagrams from the address of the
control connection alone; after the first good one, or where the request named a port, from
that port alone. It ends with the control connection.

Each target has a `Flow` with a connected socket of its own, so that nobody but the target
can answer. To those who watch, a flow is a connection, and it counts as one of the client's:

    state        leaves it by
    ----------   -----------------------------------------------------------------
    looking up   an address that clients may reach -> standing; none -> closed
    standing     a minute without a datagram, another target needs its place, its
                 way is gone, the operator, or with its association -> closed

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
from .dial import _REASONS, _SO_BINDTODEVICE, RESOLUTION_DELAY, SO_MARK, Dialler, Lookup
from .dispatch import END, IN
from .errors import DENIED, ProtocolError, Reason
from .target import Target, pack, unpack
from .way import FAULTS, Way
from .wire.udp import HEADER_LIMIT, associated, header_end, make_header, read_target

if TYPE_CHECKING:
    from .session import Session

TARGETS = 32  # flows of one association
QUIET = 60.0  # seconds without a datagram after which a flow ends
RETRY = 2.0  # seconds until a target that came to nothing is tried again
REFUSED = 64  # targets of one association that came to nothing and are remembered
PENDING = 8  # datagrams of one flow that wait for an address
HELD = 65536  # bytes that wait so, over all flows of an association
BATCH = 16  # reads from one socket in one turn

# One datagram at a time is in here, with room for a header before it. 65,507 bytes are the
# most that UDP carries over IPv4, and 65,527 over IPv6.
_buffer = bytearray(HEADER_LIMIT + 65536)
_view = memoryview(_buffer)
_behind = _view[HEADER_LIMIT:]
# The way is gone, or our address on it: the next datagram needs another socket.
_LOST = frozenset((
    errno.EADDRNOTAVAIL, errno.EINVAL, errno.ENETDOWN, errno.ENETUNREACH, errno.ENODEV,
))  # fmt: skip


class _Leaf(Protocol):
    """A backend that dials by itself."""

    dialler: Dialler


class Association:
    """What a client may send datagrams through.

    Args:
        session: asked for it; its connection is taken over by `start`
        port: that the client says it will send from, 0 where it does not say

    Attributes:
        flows: those that count, by the header that their client sends
        held: bytes that wait in them for an address
        moved: datagrams that went through
        peer: address and port that the client's datagrams come from, None before the first

    Raises:
        ProtocolError: there is no socket for it
    """

    __slots__ = (
        "checked", "fd", "flows", "held", "idle", "moved", "open", "peer", "policy", "port",
        "refused", "relay", "relay_fd", "reply", "scope", "session", "sock",
    )  # fmt: skip

    refusal: Reason | None = None

    def __init__(self, session: Session, port: int) -> None:
        # Who the client is, and what it may do; it is over but for that.
        self.session = session
        self.plane = session.plane
