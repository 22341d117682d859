"""One client, from its first byte to its last.

    state          handler      leaves it by
    -----------    ----------   -------------------------------------------------------
    reading        on_request   a whole request -> dialling, or a refusal -> lingering
    logging in     on_waiting   right -> reading goes on; wrong -> lingering
    dialling       on_waiting   connected -> tunnel or HTTP exchange; failed -> lingering
    tunnel         Tunnel       both sides ended, a fault, idle, or the operator -> closed
    -              Association  has taken the client over for its datagrams
    HTTP exchange  Forward      answered -> silent or closed; failed -> lingering
    silent         on_request   bytes -> reading; nothing for a minute -> closed
    lingering      Linger       the client has read its refusal -> closed

Each state has a deadline: `handshake` bounds reading and logging in, the backend bounds
dialling, `idle` bounds a connection that moves nothing, `keepalive` bounds silence between
two requests, `linger` bounds lingering. Whatever happens, `close` ends it once, with one `Reason`.
"""

from __future__ import annotations

from _socket import socket as Socket
from socket import SO_LINGER, SOL_SOCKET
from struct import pack
from typing import TYPE_CHECKING

from .backends.base import Connecting
from .dispatch import END, ERR, HUP, IN, Deadlines
from .errors import ProtocolError, Reason
from .forward import Forward
from .linger import Linger
from .plane import Plane
from .relay import Half
from .target import Target
from .tunnel import Tunnel
from .way import Way
from .wire.http1 import HEAD_LIMIT
from .wire.intake import Intake, Login

if TYPE_CHECKING:
    from .listener import Listener
    from .users import Check
    from .wire.socks import Associate

_RESET = pack("ii", 1, 0)  # linger on, 0 s: close sends RST


class Session(Intake):
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
            what carries it, before that the route's, which may be a group
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

    # Reading.

    def expect_request(self) -> None:
        """From `silent` to `reading`."""
        plane = self.plane
        self.wait(plane.handshake)
        if self.up is None:
            self.forget()

    def fall_silent(self) -> None:
        """The request is answered; the client may send another."""
        plane = self.plane
        if plane.stopping:
            self.close(Reason.SHUTDOWN)
            return
        self.wait(plane.keepalive)
        plane.dispatcher.handlers[self.fd] = self.on_request

    def on_request(self, mask: int) -> None:
        """Bytes of a request arrive, all at once or one at a time."""
        while True:
            try:
                data = self.sock.recv(HEAD_LIMIT)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.close(Reason.CLIENT_GONE if self.buffer else Reason.CLOSED)
                return
            if self.timer is self.plane.keepalive:
                self.expect_request()
            # What is left in the kernel makes no further event: the next state must look.
            self.noticed = mask & END or (IN if len(data) == HEAD_LIMIT else 0)
            if self.feed(data) or not mask & END:
                return

    def feed(self, data: bytes) -> bool:
        """Take bytes of a request; True when that ended the state `reading`."""
        if not self.buffer and not self.greeted:
            self.asked = self.plane.dispatcher.now
            if self.policy is not self.plane.policy:
                self._adopt_policy()
        self.buffer += data
        return self._read_on()

    def _read_on(self) -> bool:
        try:
            asked = self.read()
            while isinstance(asked, bytes):
                if not self.answer(asked):
                    return True
                asked = self.read() if self.buffer else None
            if asked is None:
                return False
            if isinstance(asked, Target):
                self.leave_http()
                self.reach(asked)
            elif isinstance(asked, tuple):
                if isinstance(asked, Login):
                    self._log_in(asked)
                else:
                    self._associate(asked)
            else:
                if self.forward is None:
                    self.forward = Forward(self)
                self.forward.begin(asked)
            return True
        except ProtocolError as error:
            self.refuse(error.reason, error.args[0])
            return True

    def _adopt_policy(self) -> None:
        """The rules changed since the last request."""
        self.policy = policy = self.plane.policy
        self.login = policy.users is not None and self.listener.auth
        self.proved = b""
        self.user = ""

    def forget(self) -> None:
        """The next request names its own target."""
        self.host = self.backend = self.route = ""

    # Logging in.

    def _log_in(self, login: Login) -> None:
        """Have a name and a password looked at, which may take a while.

        Raises:
            ProtocolError: the client would be refused anyway
        """
        if self.refusal is not None:
            raise ProtocolError(self.refusal, self.refusal.text)
        if self.protocol != "HTTP":
            self.leave_http()  # while its protocol is known to differ
        users = self.plane.policy.users
        if users is None:  # a reload did away with them
            self.on_checked(None)
            return
        self.plane.dispatcher.handlers[self.fd] = self.on_waiting
        self.user = login.name.decode("utf-8", "replace")
        self.check = users.verify(login.name, login.password, self.client, self.on_checked)

    def on_checked(self, reason: Reason | None) -> None:
        """The login is right, or why not."""
        self.check = None
        if reason is not None:
            self.user = ""
            self.refuse(reason, reason.text)
            return
        reply = self.admitted()
        if reply and not self.answer(reply):
            return
        self.plane.dispatcher.handlers[self.fd] = self.on_request
        if not self._read_on() and self.noticed:
            self.on_request(END)

    # Datagrams.

    def _associate(self, asked: Associate) -> None:
        """Hand the client over to what passes its datagrams on.

        Raises:
            ProtocolError: it may not have that, or there is no socket for it
        """
        refusal = self.refusal or (None if self.listener.udp else Reason.BAD_COMMAND)
        if refusal is not None:
            raise ProtocolError(refusal, refusal.text)
        from .udp import Association  # who has no datagrams pays for none

        Association(self, asked.port).start(self)

    # Dialling.

    def reach(self, target: Target) -> None:
        """A whole request names this target: find the way and dial.

        Raises:
            ProtocolError: the rules refuse it
        """
        plane = self.plane
        self.wait(None)
        self.forget()
        self.host = target.text
        if self.refusal is not None:
            raise ProtocolError(self.refusal, self.refusal.text)
        policy = plane.policy  # of now, however long the request took
        match = policy.router.find(target.host, target.packed, target.port, self.client)
        if match is None:
            raise ProtocolError(Reason.NO_ROUTE, Reason.NO_ROUTE.text)
        self.route = match.route
        self.backend = match.backend
        plane.dispatcher.handlers[self.fd] = self.on_waiting
        self.dialling = True
        forward = self.forward is not None and self.forward.absolute
        backend = policy.backends[match.backend]
        dial = backend.connect(target, self.client, self.on_dialled, forward)
        if self.dialling:
            self.dial = dial

    def on_waiting(self, mask: int) -> None:
        """The client did something while its login is looked at or its target dialled."""
        if mask & (ERR | HUP):
            self.close(Reason.CLIENT_GONE)
        else:
            self.noticed |= mask

    def on_dialled(
        self, sock: Socket | None, mask: int, reason: Reason | None, way: Way | None
    ) -> None:
        """The backend connected, or gave up."""
        self.dialling = False
        self.dial = None
        if sock is None or way is None:
            assert reason is not None
            self.refuse(reason, reason.text)
            return
        self.way = way
        self.backend = way.name
        dispatcher = self.plane.dispatcher
        fd = sock.fileno()
        owner = self.forward if self.protocol == "HTTP" and self.forward else Tunnel(self)
        up = Half(dispatcher, owner, self.sock, self.fd)
        down = Half(dispatcher, owner, sock, fd)
        up.peer, down.peer = down, up
        self.up, self.down = up, down
        self.plane.opened(self)
        if isinstance(owner, Forward):
            owner.connected(mask)
        elif self.answer(self.grant()):
            owner.start(self.noticed, mask)

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
