"""Asking the kernel for the peers of a WireGuard device, and what else needs CAP_NET_ADMIN."""

from __future__ import annotations

import errno
import os
from _socket import socket as Socket
from collections.abc import Callable, Sequence
from socket import AF_INET, SOCK_DGRAM, SOL_SOCKET

from .dial import SO_MARK
from .dispatch import IN, Dispatcher, crashed
from .errors import ProtocolError
from .netlink import READ, open_netlink
from .wire.genl import CONTROL, Peer, parse_family, parse_peers, request_device, request_family
from .wire.netlink import DONE, ERROR, INTERRUPTED, Message, parse, parse_error, request_nothing

REJECT_AFTER_TIME = 180.0  # seconds after a handshake in which its keys may be used
SECONDS = 2.0  # for the kernel to answer, which takes it under a millisecond
TRIES = 5  # where peers change faster than they are listed

_GENERIC = 16  # NETLINK_GENERIC
_READS = 16  # in a row, before others have their turn

# The peers, or None and why there are none, in one sentence.
Done = Callable[["list[Peer] | None", str], None]


def age(peers: Sequence[Peer], now: float) -> float | None:
    """Seconds since the newest handshake of any peer, None where there was none.

    When the clock was set since then it is wrong, to either side, until the next handshake;
    it is never taken for newer than it can be.

    Args:
        peers: of one device
        now: seconds since 1970
    """
    newest = max((peer.handshake for peer in peers), default=0.0)
    return abs(now - newest) if newest else None


def can_mark() -> bool:
    """Whether we may set firewall marks: with CAP_NET_ADMIN, since Linux 5.17 CAP_NET_RAW too."""
    try:
        sock = Socket(AF_INET, SOCK_DGRAM)
    except OSError:
        return False
    try:
        sock.setsockopt(SOL_SOCKET, SO_MARK, 1)
    except OSError:
        return False
    finally:
        sock.close()
    return True


def can_read_wireguard() -> bool:
    """Whether we have CAP_NET_ADMIN in our network namespace."""
    try:
        sock = open_netlink(0)
    except OSError:
        return False
    try:
        sock.settimeout(SECONDS)
        sock.send(request_nothing(1))
        (message,) = parse(sock.recvfrom(READ)[0])
        return message.kind == ERROR and parse_error(message.payload) != errno.EPERM
    except (OSError, ValueError, ProtocolError):
        return False
    finally:
        sock.close()


def ask(dispatcher: Dispatcher, device: str, done: Done) -> Inquiry:
    """Ask for the peers of a device.

    Args:
        dispatcher: calls when the kernel answers
        device: its name
        done: called exactly once unless cancelled, perhaps before `ask` returns
    """
    return Inquiry(dispatcher, device, done)


class Inquiry:
    """An exchange with the kernel; see `ask`."""

    __slots__ = (
        "_deadline", "_device", "_dispatcher", "_done", "_family", "_peers", "_port",
        "_sequence", "_sock", "_steady",
    )  # fmt: skip

    def __init__(self, dispatcher: Dispatcher, device: str, done: Done) -> None:
        self._dispatcher = dispatcher
        self._device = device
        self._done: Done | None = done
        self._deadline = dispatcher.common_deadlines(SECONDS, Inquiry.late)
        self._family = 0  # WireGuard's message type, unknown yet
        self._peers: list[Peer] = []
        self._sequence = 0
        self._steady = True
        self._sock: Socket | None = None
        try:
            self._sock = sock = open_netlink(_GENERIC)
            sock.setblocking(False)
            self._port: int = sock.getsockname()[0]
            dispatcher.attach(sock.fileno(), self.on_event, edge=False)
            self._deadline.start(self)
            self._send()
        except OSError as error:
            self._fail(error.errno or 0)

    def cancel(self) -> None:
        """Give up; `done` will not be called."""
        self._done = None
        self._deadline.stop(self)
        sock, self._sock = self._sock, None
        if sock is not None:
            self._dispatcher.discard(sock.fileno(), sock)

    def on_event(self, mask: int) -> None:
        """The kernel answers."""
        try:
            for _ in range(_READS):
                if self._sock is None:
                    return
                data, sender = self._sock.recvfrom(READ)
                for message in parse(data) if sender[0] == 0 else ():
                    if message.sequence == self._sequence and message.port == self._port:
                        self._take(message)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(error.errno or 0)
        except ProtocolError as error:
            self._finish(None, f"the kernel's answer about {self._device} is broken: {error}")

    def wants(self, fd: int) -> int:
        """For the portable selector."""
        return IN

    def late(self) -> None:
        """Its time is up."""
        self._fail(errno.ETIMEDOUT)

    def crash(self) -> None:
        """The handler raised."""
        self._finish(None, f"asking for the peers of {self._device} met a fault of our own")

    def _send(self) -> None:
        """Ask for the message type first, then for the device."""
        assert self._sock is not None
        self._sequence += 1
        self._peers = []
        self._steady = True
        if not self._family:
            self._sock.send(request_family(self._sequence))
        else:
            self._sock.send(request_device(self._family, self._sequence, self._device))

    def _take(self, message: Message) -> None:
        self._steady = self._steady and not message.flags & INTERRUPTED
        if message.kind in (ERROR, DONE):
            code = parse_error(message.payload)
            if code or message.kind == ERROR:
                self._fail(code)
            elif self._steady:
                self._finish(self._peers, "")
            elif self._sequence > TRIES:
                self._fail(errno.EAGAIN)
            else:
                self._send()
        elif message.kind == CONTROL and not self._family:
            self._family = parse_family(message.payload)
            self._send()
        elif message.kind == self._family:
            parse_peers(message.payload, self._peers)

    def _fail(self, code: int) -> None:
        if code == errno.ENOENT and not self._family:
            why = "the kernel has no WireGuard"
        elif code == errno.ENODEV:
            why = f"{self._device} is not there"
        elif code == errno.EOPNOTSUPP:
            why = f"{self._device} is no WireGuard device"
        elif code == errno.EPERM:
            why = f"asking for the peers of {self._device} needs CAP_NET_ADMIN"
        else:
            why = f"the kernel does not tell the peers of {self._device}: {os.strerror(code)}"
        self._finish(None, why)

    def _finish(self, peers: list[Peer] | None, why: str) -> None:
        done = self._done
        self.cancel()
        if done is None:
            return
        try:
            done(peers, why)
        except Exception:
            crashed(getattr(done, "__self__", None))
