"""SOCKS5 UDP ASSOCIATE: datagrams between one client and many targets, RFC 1928 section 7.

An `Association` takes the place of the session that asked for it. Its relay socket is bound
to the address at which the client reached us and takes datagrams from the address of the
control connection alone; after the first good one, or where the request named a port, from
that port alone. What goes to one target is a `flow.Flow`. All ends with the control
connection, which may be silent as long as datagrams move.
"""

from __future__ import annotations

from _socket import socket as Socket
from socket import SOCK_DGRAM
from typing import TYPE_CHECKING

from .dispatch import END, IN
from .errors import ProtocolError, Reason
from .flow import BATCH, BUFFER, VIEW, Flow, family, reason_of
from .target import pack, unpack
from .wire.udp import associated, header_end, read_target

if TYPE_CHECKING:
    from .listener import Listener
    from .plane import Plane, Policy
    from .session import Session

TARGETS = 32  # flows of one association
REFUSED = 64  # targets of one association that came to nothing and are remembered
RETRY = 2.0  # seconds until such a target is tried again
QUIET = 60.0  # seconds without a datagram after which a flow ends


class Association:
    """What a client may send datagrams through.

    Args:
        session: asked for it; `start` takes its place
        port: that the client says it will send from, 0 where it does not say

    Attributes:
        client, client_ip, client_port, user, listener: of the session
        policy: the rules that the login and the refusals go by
        flows: those that look up or stand, by the header that their datagrams begin with
        held: bytes that wait in them for an address
        moved: datagrams that went through
        peer: text and port of the address that datagrams come from, None before the first

    Raises:
        ProtocolError: there is no socket for it
    """

    __slots__ = (
        "barred", "client", "client_ip", "client_port", "fd", "flows", "held", "listener",
        "moved", "open", "peer", "plane", "policy", "port", "quiet", "refused", "relay",
        "relay_fd", "rules", "scope", "seen", "sock", "user",
    )  # fmt: skip

    refusal: Reason | None = None

    def __init__(self, session: Session, port: int) -> None:
        self.plane: Plane = session.plane
        self.policy: Policy = session.policy  # by which the client was let in
        self.rules: Policy = session.policy  # those seen last
        self.barred: Reason | None = None  # why there are no further targets
        self.listener: Listener = session.listener
        self.sock: Socket = session.sock
        self.fd: int = session.fd
        self.client: bytes = session.client
        self.client_ip: str = session.client_ip
        self.client_port: int = session.client_port
        self.user: str = session.user
        self.port = port
        self.open = True
        self.flows: dict[bytes, Flow] = {}
        self.refused: dict[bytes, float] = {}  # by header: when to try again
        self.held = self.moved = self.seen = 0
        self.peer: tuple[str, int] | None = None
        self.quiet = self.plane.dispatcher.common_deadlines(QUIET, Flow.on_quiet)
        local = self.sock.getsockname()
        self.scope: int = local[3] if len(local) == 4 else 0  # of a link-local address
        packed = pack(local[0].partition("%")[0])
        assert packed is not None
        try:
            self.relay = self._bind(packed)
        except OSError as error:
            reason = reason_of(error)
            raise ProtocolError(reason, reason.text) from None
        self.relay_fd = self.relay.fileno()

    def _bind(self, packed: bytes) -> Socket:
        sock = Socket(family(packed), SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.bind(self._place(packed, 0))
            if self.port:
                sock.connect(self._place(self.client, self.port))
        except OSError:
            sock.close()
            raise
        return sock

    def _place(self, packed: bytes, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
        """An address on this client's network as sockets want it."""
        text = unpack(packed)
        return (text, port) if len(packed) == 4 else (text, port, 0, self.scope)

    def start(self, session: Session) -> None:
        """Take the place of the session, which is over with that, and tell the client where the
        relay is."""
        session.wait(None)
        session.open = False
        plane = self.plane
        plane.sessions.discard(session)
        plane.sessions.add(self)
        plane.dispatcher.handlers[self.fd] = self.on_control
        plane.dispatcher.attach(self.relay_fd, self.on_datagram, edge=False)
        plane.idle.start(self)
        address, port = self.relay.getsockname()[:2]
        packed = pack(address.partition("%")[0])
        assert packed is not None
        try:
            self.sock.send(associated(packed, port))
        except OSError:
            self.close(Reason.CLIENT_RESET)
            return
        if session.noticed:  # nobody has read for that yet
            self.on_control(END)

    @property
    def busy(self) -> bool:
        """Whether something would be cut off if it ended now."""
        return bool(self.flows)

    @property
    def welcome(self) -> bool:
        """Whether the rules of now would let it be made."""
        self._adopt_policy()
        return self.barred is None

    # The control connection.

    def on_control(self, mask: int) -> None:
        """The client ended it, or says what nobody asked for."""
        for _ in range(BATCH):
            try:
                data = self.sock.recv(4096)
            except BlockingIOError:
                return
            except OSError:
                self.close(Reason.CLIENT_RESET)
                return
            if not data:
                self.close(Reason.CLOSED)
                return
        self.plane.dispatcher.again(self.go_on)

    def go_on(self) -> None:
        """Others had their turn."""
        if self.open:
            self.on_control(END)

    # The client's datagrams.

    def on_datagram(self, mask: int) -> None:
        """Pass on what the client sends to its targets."""
        plane = self.plane
        receive = self.relay.recvfrom_into
        for _ in range(BATCH):
            try:
                size, source = receive(BUFFER)
            except BlockingIOError:
                return
            except OSError:  # the client did not take an earlier one
                continue
            end = header_end(BUFFER, size)
            if not end or (source[:2] != self.peer and not self._is_client(source)):
                plane.dropped += 1
                continue
            header = bytes(VIEW[:end])
            flow = self.flows.get(header) or self._begin(header, source)
            if flow is not None:
                flow.send(VIEW[end:size])
            else:
                plane.dropped += 1
                if not self.open:
                    return

    def _is_client(self, source: tuple[str, int]) -> bool:
        """Whether the first datagram may come from there. A zone follows a link-local address."""
        return (
            self.peer is None
            and source[0].partition("%")[0] == self.client_ip
            and self.port in (0, source[1])
        )

    def _begin(self, header: bytes, source: tuple[str, int]) -> Flow | None:
        """A flow to where this header says, None where there cannot be one."""
        try:
            target = read_target(header)
        except ProtocolError:
            return None
        plane = self.plane
        if self.peer is None:
            try:  # from now on the kernel keeps others out
                self.relay.connect(self._place(self.client, source[1]))
            except OSError:
                return None
            self.peer = source[:2]
        self._adopt_policy()
        if plane.stopping or self.refused.get(header, 0.0) > plane.dispatcher.now:
            return None
        flow = Flow(self, header, target)
        flow.begin()
        return flow if flow.open else None

    def _adopt_policy(self) -> None:
        """See whether the rules changed. Nobody can be asked for a password here: who has to
        log in and is not known to be welcome gets no further targets, as all where there is no
        UDP now. Flows that live go on, like all connections."""
        if self.plane.policy is self.rules:
            return
        old, new = self.policy.users, self.plane.policy.users
        known = new is None or (old is not None and new.agrees(old, self.user))
        self.barred = None
        if self.listener.auth and not known:
            self.barred = Reason.AUTH_REQUIRED
        elif not self.listener.udp:
            self.barred = Reason.BAD_COMMAND
        elif not self.plane.policy.admits(self.client):
            self.barred = Reason.ACL_DENIED
        else:
            self.policy = self.plane.policy
        self.rules = self.plane.policy
        self.refused.clear()

    def admit(self, flow: Flow) -> Reason | None:
        """Count a flow as a connection, or tell why there is no room for it. The one that was
        quiet longest makes way."""
        plane, flows = self.plane, self.flows
        policy = plane.policy
        if flows and (
            len(flows) >= TARGETS
            or plane.admitted >= policy.max_connections
            or plane.clients[self.client] >= policy.max_per_client
        ):
            since = self.quiet.since
            min(flows.values(), key=lambda flow: since[flow]).close(Reason.TOO_MANY_CLIENT)
        reason = plane.admit(self.client)
        if reason is None:
            flows[flow.header] = flow
            self.quiet.start(flow)
        return reason

    def refuse(self, header: bytes) -> bool:
        """Remember that a target came to nothing; whether that is news."""
        refused = self.refused
        news = refused.pop(header, None) is None
        if len(refused) >= REFUSED:
            del refused[next(iter(refused))]
        refused[header] = self.plane.dispatcher.now + RETRY
        return news

    # The end.

    def on_idle_check(self) -> None:
        """A quarter of the idle timeout went by; `seen` is as `Session.moved`."""
        quarters = (self.seen & 3) + 1 if self.seen >> 2 == self.moved else 0
        if quarters == 4:
            self.close(Reason.IDLE_TIMEOUT)
            return
        self.seen = self.moved << 2 | quarters
        self.plane.idle.start(self)

    def close(self, reason: Reason) -> None:
        """End it, and all its flows with it."""
        if not self.open:
            return
        self.open = False
        plane = self.plane
        for flow in list(self.flows.values()):
            flow.close(reason)
        plane.idle.stop(self)
        plane.dispatcher.discard(self.relay_fd, self.relay)
        plane.dispatcher.discard(self.fd, self.sock)
        plane.leave(self)

    def crash(self) -> None:
        """A handler raised: see dispatch.Owner."""
        self.close(Reason.INTERNAL)

    def wants(self, fd: int) -> int:
        """For the portable selector."""
        return IN
