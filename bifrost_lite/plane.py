"""What all sessions share: the rules in force, who is connected, and the counters."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from time import time
from typing import TYPE_CHECKING, Protocol

from .acl import Networks
from .backends.base import Backend
from .dispatch import Deadlines, Dispatcher
from .errors import Reason
from .events import ConnectionClose, ConnectionFailed, ConnectionNew, Data
from .records import Finished
from .relay import shared
from .route import Candidate

if TYPE_CHECKING:
    from .listener import Listener
    from .lists import RouteList
    from .session import Session
    from .users import Users
    from .way import Way

log = logging.getLogger("bifrost.plane")

KEEPALIVE = 60.0  # seconds that a client may be silent between two HTTP requests
LINGER = 5.0  # seconds that a refused client may be quiet before it is closed
REFUSALS = 32  # clients over a cap or off the ACL that are answered at the same time
BURST_GAP = 10.0  # seconds of peace after which refusals are logged again


class Match(Protocol):
    """What the router answers; see `route.Match`."""

    @property
    def route(self) -> str: ...
    @property
    def backend(self) -> str: ...


class Router(Protocol):
    """See `route.Router`."""

    def find(
        self, host: str, packed: bytes | None, port: int, client: bytes
    ) -> Match | None: ...
    @property
    def lists(self) -> Mapping[str, RouteList]: ...
    def explain(
        self, host: str, packed: bytes | None, port: int, client: bytes
    ) -> list[Candidate]: ...


class Policy:
    """The rules of one configuration. A request goes by those in force when it is whole, and
    what carries it by those it was dialled by.

    Args:
        router: chooses a backend
        backends: by name
        allow: clients that may use the proxy; empty means everybody
        deny: clients that may not, whatever `allow` says
        max_connections: of clients, all together
        max_per_client: of one address
        via: add Via fields
        users: who may log in, None where nobody has to
    """

    __slots__ = (
        "allow", "backends", "deny", "everybody", "max_connections", "max_per_client", "router",
        "users", "via",
    )  # fmt: skip

    def __init__(
        self,
        router: Router,
        backends: dict[str, Backend],
        allow: tuple[str, ...],
        deny: tuple[str, ...],
        max_connections: int,
        max_per_client: int,
        via: bool,
        users: Users | None = None,
    ) -> None:
        self.router = router
        self.backends = backends
        self.everybody = not allow and not deny
        self.allow = Networks(allow or ("0.0.0.0/0", "::/0"))
        self.deny = Networks(deny)
        self.max_connections = max_connections
        self.max_per_client = max_per_client
        self.via = via
        self.users = users

    def admits(self, client: bytes) -> bool:
        """Whether this address may use the proxy at all."""
        return self.everybody or (
            self.allow.contains(client) and not self.deny.contains(client)
        )


class Client(Protocol):
    """The connection of a client: a `session.Session` or a `udp.Association`."""

    client: bytes
    refusal: Reason | None

    @property
    def busy(self) -> bool: ...
    @property
    def welcome(self) -> bool: ...
    def on_idle_check(self) -> None: ...
    def close(self, reason: Reason) -> None: ...


class Carried(Protocol):
    """What goes to one target: a `session.Session` or a `flow.Flow`; see the attributes of
    the former."""

    asked: float
    backend: str
    began: float
    client: bytes
    client_ip: str
    client_port: int
    datagrams: bool
    host: str
    id: int
    listener: Listener
    policy: Policy
    protocol: str
    refusal: Reason | None
    route: str
    started: float
    user: str
    way: Way

    @property
    def bytes_sent(self) -> int: ...
    @property
    def bytes_received(self) -> int: ...
    def on_idle_check(self) -> None: ...
    def close(self, reason: Reason) -> None: ...


class Plane:
    """The data plane.

    Args:
        dispatcher: calls it
        policy: the rules new sessions start with
        publish: told the type and data of each event
        finished: told each finished request
        handshake_timeout: seconds to send a whole request
        idle_timeout: seconds without a byte after which a connection is closed

    Attributes:
        connections: by id, those whose `connection.new` was published
        clients: connections of each client address, as packed bytes
        admitted: connections of all clients
        refusing: clients being answered although there is no room for them
        by_protocol: connections since the start by what their clients spoke
        refused: connections turned away at a cap since the start
        dropped: datagrams that were not passed on since the start
        failures: count of each `Reason` word that a request failed with
        stopping: no client may ask for more
        drained: called when the last client is gone
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        policy: Policy,
        publish: Callable[[str, Data], None],
        finished: Callable[[Finished], None],
        handshake_timeout: float,
        idle_timeout: float,
    ) -> None:
        self.dispatcher = dispatcher
        self.policy = policy
        self.publish = publish
        self.finished = finished
        self.listeners: list[Listener] = []
        self.connections: dict[int, Carried] = {}
        self.sessions: set[Client] = set()
        self.clients: dict[bytes, int] = {}
        self.admitted = 0
        self.refusing = 0
        self.by_protocol = dict.fromkeys(("HTTP", "CONNECT", "SOCKS5", "SOCKS4"), 0)
        self.refused = 0
        self.dropped = 0
        self.failures: dict[str, int] = {}
        self.stopping = False
        self.drained: Callable[[], None] = lambda: None
        self.handshake = Deadlines(dispatcher, handshake_timeout, _late_request)
        self.keepalive = Deadlines(dispatcher, KEEPALIVE, _time_up)
        self.linger = Deadlines(dispatcher, LINGER, _time_up)
        # Looked at four times in the period, so nothing is noted when bytes move.
        self.idle = Deadlines(dispatcher, idle_timeout / 4, _idle_check)
        self._ids = 0
        self._records = 0
        self._sent = 0
        self._received = 0
        self._last_refusal = -BURST_GAP

    # Admission.

    def admit(self, client: bytes) -> Reason | None:
        """Take a client in, or tell why there is no room for it; pair with `leave`."""
        policy = self.policy
        if not policy.admits(client):
            return Reason.ACL_DENIED
        count = self.clients.get(client, 0)
        if self.admitted >= policy.max_connections:
            self._overloaded(Reason.TOO_MANY)
            return Reason.TOO_MANY
        if count >= policy.max_per_client:
            self._overloaded(Reason.TOO_MANY_CLIENT)
            return Reason.TOO_MANY_CLIENT
        self.clients[client] = count + 1
        self.admitted += 1
        return None

    def leave(self, session: Client | Carried) -> None:
        """A client's connection is gone."""
        self.sessions.discard(session)
        if session.refusal is not None:
            self.refusing -= 1
        else:
            self.admitted -= 1
            count = self.clients[session.client] - 1
            if count:
                self.clients[session.client] = count
            else:
                del self.clients[session.client]
        if not self.sessions:
            shared.release_pipes()
            self.drained()
        for listener in self.listeners:
            if listener.starved:
                listener.resume()

    def _overloaded(self, reason: Reason) -> None:
        """Count a refusal, and log the first of a burst."""
        self.refused += 1
        now = self.dispatcher.now
        if now - self._last_refusal > BURST_GAP:
            log.warning("refusing clients: %s", reason.text)
        self._last_refusal = now

    # The life of a connection.

    def opened(self, session: Carried) -> None:
        """The path to the target stands."""
        self._ids += 1
        self.by_protocol[session.protocol] += 1
        session.id = self._ids
        session.started = time()
        session.began = self.dispatcher.now
        self.connections[session.id] = session
        counters = session.way.counters
        counters.active += 1
        counters.total += 1
        self.idle.start(session)
        self.publish(
            "connection.new",
            ConnectionNew(
                session.protocol,
                session.host,
                session.backend,
                session.client_ip,
                session.id,
                session.route,
            ),
        )

    def closed(self, session: Carried, reason: Reason) -> None:
        """The path to the target is gone; its session still has the final counts."""
        del self.connections[session.id]
        self.idle.stop(session)
        sent, received = session.bytes_sent, session.bytes_received
        self._sent += sent
        self._received += received
        counters = session.way.counters
        counters.active -= 1
        counters.sent += sent
        counters.received += received
        self.publish(
            "connection.close",
            ConnectionClose(
                session.protocol,
                session.host,
                session.backend,
                session.client_ip,
                session.id,
                session.route,
                sent,
                received,
                int((self.dispatcher.now - session.began) * 1000),
                reason.word,
            ),
        )

    def failed(self, session: Carried, reason: Reason) -> None:
        """A request was refused or could not be carried."""
        self.failures[reason.word] = self.failures.get(reason.word, 0) + 1
        self._ids += 1
        self.publish(
            "connection.failed",
            ConnectionFailed(
                session.protocol,
                session.host,
                session.backend,
                session.client_ip,
                self._ids,
                session.route,
                reason.word,
            ),
        )

    def record(
        self,
        session: Carried,
        method: str,
        url: str,
        status: int | None,
        sent: int,
        received: int,
        reason: Reason | None,
    ) -> None:
        """A request is over: make its record."""
        self._records += 1
        self.finished(
            Finished(
                self._records,
                time(),
                session.protocol,
                method,
                url if len(url) <= 256 else url[:255] + "…",
                session.host,
                session.client_ip,
                session.backend,
                session.route,
                status,
                int((self.dispatcher.now - session.asked) * 1000),
                sent,
                received,
                reason.word if reason is not None else "",
            )
        )

    def stats(self) -> tuple[int, int, int, int]:
        """(active, total, bytes sent, bytes received), those under way included."""
        sent, received = self._sent, self._received
        for session in self.connections.values():
            sent += session.bytes_sent
            received += session.bytes_received
        return len(self.connections), sum(self.by_protocol.values()), sent, received

    def close_idle(self) -> None:
        """The daemon is stopping: close every client's connection that carries nothing, and
        the others when they have finished what they carry."""
        self.stopping = True
        for session in list(self.sessions):
            if not session.busy:
                session.close(Reason.SHUTDOWN)

    def close_carried(self, way: Way, reason: Reason) -> None:
        """Close every connection that goes this way, for it is cut."""
        for session in list(self.connections.values()):
            if session.way is way:
                session.close(reason)

    def close_all(self, reason: Reason) -> None:
        """Close every client's connection."""
        for session in list(self.sessions):
            session.close(reason)


# The session knows the plane, so the plane knows of the session only these names.


def _late_request(session: Session) -> None:
    session.on_late_request()


def _time_up(session: Session) -> None:
    session.on_time_up()


def _idle_check(session: Client | Carried) -> None:
    session.on_idle_check()
