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
from typing import TYPE_CHECKING

from .connection import Connection
from .dispatch import END, ERR, HUP, IN
from .errors import ProtocolError, Reason
from .forward import Forward
from .relay import Half
from .target import Target
from .tunnel import Tunnel
from .way import Way
from .wire.http1 import HEAD_LIMIT
from .wire.intake import Login

if TYPE_CHECKING:
    from .wire.socks import Associate


class Session(Connection):
    """One client: reads what it asks for, finds the way and dials."""

    __slots__ = ()

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
            if self.policy is not self.plane.policy and not self._adopt_policy():
                self.refuse(Reason.ACL_DENIED, Reason.ACL_DENIED.text)
                return True
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

    def _adopt_policy(self) -> bool:
        """The rules changed since the last request; False where they turn the client away."""
        self.policy = policy = self.plane.policy
        self.login = policy.users is not None and self.listener.auth
        self.proved = b""
        self.user = ""
        return policy.admits(self.client)

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
        try:
            from .udp import Association  # who has no datagrams pays for none
        except OSError:
            reason = Reason.OUT_OF_DESCRIPTORS
            raise ProtocolError(reason, reason.text) from None
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
        if way is not None:
            self.backend = way.name
        if sock is None or way is None:
            assert reason is not None
            self.refuse(reason, reason.text)
            return
        self.way = way
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
