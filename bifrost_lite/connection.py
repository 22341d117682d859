"""A client's connection: its socket, the path to its target, what moved, and the end.

What the client asks for, and what becomes of that, is `session.Session`'s.
"""

from __future__ import annotations

from _socket import socket as Socket
from socket import SO_LINGER, SOL_SOCKET
from struct import pack
from typing import TYPE_CHECKING

from .dispatch import IN, Deadlines
from .errors import Reason
from .linger import Linger
from .plane import Plane
from .relay import Half
from .way import Way
from .wire.intake import Intake

if TYPE_CHECKING:
    from .backends.base import Connecting
    from .forward import Forward
    from .listener import Listener
    from .users import Check

_RESET = pack("ii", 1, 0)  # linger on, 0 s: close sends RST


class Connection(Intake):
    """One connection of a client.

    Args:
        plane: what all sessions share
        listener: where it came in
        sock, fd: the client's socket, non-blocking
        client, client_ip, client_port: its address as 4 or 16 bytes and as text, its port
        refusal: why the client is only told no, or None

    Attributes:
        id: of the connection, 0 before the path to the target stands
        host: target with port, "" before it is known
        backend, route: names, "" before they are chosen; once the path stands `backend` is
            what carries it, or failed to; before that the route's, which may be a group
        user: who logged in, "" for nobody
        datagrams: whether it carries these rather than a stream
        way: what carries it, once the path stands
        started: Unix time at which the path stood
        began: monotonic time of the same
        asked: monotonic time of the first byte of the present request
        up, down: the directions to and from the target
        extra_sent, extra_received: bytes that the halves did not count
    """

    __slots__ = (
        "asked", "backend", "began", "check", "client", "client_ip", "client_port", "dial",
        "dialling", "down", "extra_received", "extra_sent", "fd", "forward", "host", "id",
        "listener", "moved", "noticed", "open", "plane", "policy", "refusal", "route", "sock",
        "started", "timer", "up", "user", "way",
    )  # fmt: skip

    datagrams = False
    way: Way

    def __init__(
        self,
        plane: Plane,
        listener: Listener,
        sock: Socket,
        fd: int,
        client: bytes,
        client_ip: str,
        client_port: int,
        refusal: Reason | None,
    ) -> None:
        Intake.__init__(self, listener.protocol)
        self.plane = plane
        self.policy = policy = plane.policy
        self.listener = listener
        self.login = policy.users is not None and listener.auth
        self.sock = sock
        self.fd = fd
        self.client = client
        self.client_ip = client_ip
        self.client_port = client_port
        self.refusal = refusal
        self.dialling = False
        self.open = True
        self.id = 0
        self.host = self.backend = self.route = self.user = ""
        self.started = 0.0
        self.asked = self.began = plane.dispatcher.now
        self.noticed = 0
        self.moved = 0
        self.check: Check | None = None
        self.dial: Connecting | None = None
        self.forward: Forward | None = None
        self.up: Half | None = None
        self.down: Half | None = None
        self.extra_sent = self.extra_received = 0
        self.timer: Deadlines | None = None
        plane.sessions.add(self)
        self.wait(plane.handshake)
        plane.dispatcher.attach(fd, self.on_request)

    def wait(self, timer: Deadlines | None) -> None:
        """From now on this deadline holds, and no other (`idle` goes by itself)."""
        if self.timer is not None:
            self.timer.stop(self)
        self.timer = timer
        if timer is not None:
            timer.start(self)

    @property
    def bytes_sent(self) -> int:
        """Bytes written to the target so far."""
        return self.extra_sent + (self.up.written if self.up is not None else 0)

    @property
    def bytes_received(self) -> int:
        """Bytes read from the target so far."""
        return self.extra_received + (self.down.count if self.down is not None else 0)

    @property
    def busy(self) -> bool:
        """Whether something would be cut off if it ended now."""
        if self.forward is not None:
            return self.forward.request is not None
        return self.dialling or self.up is not None

    @property
    def welcome(self) -> bool:
        """Whether the rules of now let such a client be here, or it is being told that not."""
        return self.refusal is not None or self.plane.policy.admits(self.client)

    def on_request(self, mask: int) -> None:
        """Bytes of a request arrive."""
        raise NotImplementedError

    def forget(self) -> None:
        """The next request names its own target."""
        self.host = self.backend = self.route = ""

    # Refusing.

    def answer(self, data: bytes) -> bool:
        """Send a few bytes to the client; False when it is gone, and the session with it."""
        try:
            if self.sock.send(data) == len(data):
                return True
        except OSError:
            pass
        self.close(Reason.CLIENT_RESET)
        return False

    def refuse(self, reason: Reason, detail: str) -> None:
        """Tell the client why not, in its own protocol, and let it read that."""
        if not self.open:
            return
        if self.check is not None:  # it took too long
            self.check.cancel()
            self.check = None
        if self.up is not None:  # kept for this request, which names no target
            self._close_kept()
            self.forget()
        if self.refusal is not None and reason is not self.refusal:
            reason, detail = self.refusal, self.refusal.text
        asked = self.forward.request if self.forward is not None else None
        self._note_failure(reason)
        body = asked is None or asked.method != b"HEAD"
        self.linger(self.rejection(reason, detail, body))

    def _note_failure(self, reason: Reason) -> None:
        """The request that is being read or dialled for came to nothing."""
        plane = self.plane
        plane.failed(self, reason)
        if self.forward is not None and self.protocol == "HTTP":
            self.forward.record(reason.status, reason)
        else:
            status = None if self.protocol.startswith("SOCKS") else reason.status or None
            method = "" if self.protocol == "HTTP" else self.protocol
            plane.record(self, method, self.host, status, 0, 0, reason)

    def linger(self, reply: bytes) -> None:
        """Send the last bytes and wait until the client has them."""
        self.leave_http()
        self.buffer = b""
        Linger(self, reply)

    # Deadlines.

    def on_late_request(self) -> None:
        """The request did not arrive in time; one that sent nothing is just closed."""
        if self.protocol:
            self.refuse(Reason.HANDSHAKE_TIMEOUT, Reason.HANDSHAKE_TIMEOUT.text)
        else:
            self.close(Reason.HANDSHAKE_TIMEOUT)

    def on_time_up(self) -> None:
        """No further request came, or a refused client had its time to read."""
        self.close(Reason.CLOSED)

    def on_idle_check(self) -> None:
        """A quarter of the idle timeout went by. `moved` is the byte count, at which no byte
        moved for so many quarters: its lowest two bits."""
        total = self.bytes_sent + self.bytes_received
        quarters = (self.moved & 3) + 1 if self.moved >> 2 == total else 0
        if quarters == 4:
            if self.forward is not None:
                self.forward.on_idle()
            else:
                self.close(Reason.IDLE_TIMEOUT)
            return
        self.moved = total << 2 | quarters
        self.plane.idle.start(self)

    # The end.

    def leave_http(self) -> None:
        """There will be no further HTTP request."""
        if self.forward is not None:
            self._close_kept()
            self.forward = None

    def _close_kept(self) -> None:
        """Close what is open from the last HTTP request, under the name it was opened by,
        whatever the client asks now."""
        asked, self.protocol = self.protocol, "HTTP"
        self.disconnect(Reason.CLOSED)
        self.protocol = asked

    def disconnect(self, reason: Reason) -> None:
        """Close the path to the target, of which `connection.new` told."""
        up, down = self.up, self.down
        if up is None or down is None:
            return
        plane = self.plane
        self.extra_sent, self.extra_received = self.bytes_sent, self.bytes_received
        self.up = self.down = None
        up.drop()
        down.drop()
        del up.peer, down.peer  # a ring of references would keep both alive
        if reason is Reason.CLIENT_RESET:
            _reset(down.sock)
        plane.dispatcher.discard(down.fd, down.sock)
        plane.closed(self, reason)
        if self.protocol != "HTTP":
            status = 200 if self.protocol == "CONNECT" else None
            failed = None if reason is Reason.CLOSED else reason
            plane.record(
                self,
                self.protocol,
                self.host,
                status,
                self.extra_sent,
                self.extra_received,
                failed,
            )
        self.extra_sent = self.extra_received = 0
        self.moved = 0

    def close(self, reason: Reason) -> None:
        """End the session, whatever it is doing."""
        if not self.open:
            return
        self.open = False
        plane = self.plane
        self.wait(None)
        if self.check is not None:
            self.check.cancel()
            self.check = None
        if self.dialling:
            self.dialling = False
            if self.dial is not None:
                self.dial.cancel()
                self.dial = None
            self._note_failure(reason)
        cut = reason is Reason.TARGET_RESET
        if self.forward is not None:
            cut = cut or self.forward.open_ended
            self.forward.drop(reason)
            self.forward = None
        self.disconnect(reason)
        if cut:
            _reset(self.sock)
        plane.dispatcher.discard(self.fd, self.sock)
        plane.leave(self)

    def crash(self) -> None:
        """A handler raised: see dispatch.Owner."""
        self.close(Reason.INTERNAL)

    def wants(self, fd: int) -> int:
        """For the portable selector: who waits for an answer rests, all others read."""
        return 0 if self.dialling or self.check is not None else IN


def _reset(sock: Socket) -> None:
    """Make the close of `sock` tell its peer that something was cut off."""
    try:
        sock.setsockopt(SOL_SOCKET, SO_LINGER, _RESET)
    except OSError:  # gone already
        return
