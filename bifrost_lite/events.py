"""What watchers are told: one Struct per kind of data, encoded at most once.

The envelope on the wire is ``{"type","timestamp","data","seq"}`` in that order. An event
is kept as a Struct; `encode` is called only when somebody listens.
"""

from __future__ import annotations

from time import gmtime, strftime
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

_encode = msgspec.json.Encoder().encode
_stamp_of = (-1, "")


def rfc3339(when: float) -> str:
    """A Unix time in seconds as UTC RFC 3339 text in whole seconds, e.g. 2024-01-15T10:00:00Z."""
    global _stamp_of
    second = int(when)
    if _stamp_of[0] != second:
        _stamp_of = (second, strftime("%Y-%m-%dT%H:%M:%SZ", gmtime(second)))
    return _stamp_of[1]


class ConnectionNew(Struct, gc=False):
    """`connection.new`: the path to the target stands.

    Attributes:
        protocol: what the client spoke: HTTP, CONNECT, SOCKS5 or SOCKS4
        host: target with its port, IPv6 in brackets
        backend: name of the backend that carries it
        client_ip: the client's address
        id: number of the connection for the life of the process
        route: name of the route that chose the backend
    """

    protocol: str
    host: str
    backend: str
    client_ip: str
    id: int
    route: str


class ConnectionClose(Struct, gc=False):
    """`connection.close`: as `ConnectionNew`, with what it came to.

    Attributes:
        bytes_sent: payload written to the target
        bytes_received: payload read from the target
        duration_ms: milliseconds since `connection.new`
        reason: the word of a `Reason`
    """

    protocol: str
    host: str
    backend: str
    client_ip: str
    id: int
    route: str
    bytes_sent: int
    bytes_received: int
    duration_ms: int
    reason: str


class ConnectionFailed(Struct, gc=False):
    """`connection.failed`: a request that was refused or could not be carried."""

    protocol: str
    host: str
    backend: str
    client_ip: str
    id: int
    route: str
    reason: str


class BackendHealth(Struct, gc=False):
    """`backend.health`: the debounced state of a backend changed.

    Attributes:
        name: the backend
        healthy: true for the states up and suspect
        state: up, down, suspect or waiting
        reason: why it changed, one sentence
        since: when it changed, RFC 3339
    """

    name: str
    healthy: bool
    state: str
    reason: str
    since: str


class ConfigChange(Struct, gc=False):
    """`config.reload` and `config.saved`: which sections changed."""

    changed_sections: list[str]
    requires_restart: bool


class ConfigFault(Struct, gc=False):
    """One fault of a refused configuration, see `errors.Fault`."""

    section: str
    field: str
    message: str


class ConfigRejected(Struct, gc=False):
    """`config.rejected`: a reload was refused and changed nothing."""

    errors: list[ConfigFault]


class StatsUpdate(Struct, gc=False):
    """`stats.update`: the counters now; sent = to targets, received = from targets, in bytes."""

    active_connections: int
    total_connections: int
    bytes_sent: int
    bytes_received: int
    boot: str


class EventsLost(Struct, gc=False):
    """`events.lost`: this many events did not reach this client; None where nobody can know."""

    lost: int | None
    boot: str


class Endpoint(Struct, frozen=True, gc=False):
    """Where a peer of a mesh network may be reached.

    Attributes:
        address: an IP address or a host name
        port: its UDP port
        type: what kind of address it is, e.g. lan, local, reflexive or relay
        priority: which one to try first; what it means is for the peers to agree on
    """

    address: Annotated[str, Meta(max_length=253)]
    port: Annotated[int, Meta(ge=1, le=65535)]
    type: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{0,32}$(?!\n)")] = ""
    priority: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] = 0


class PeerJoined(Struct, gc=False):
    """`peer.joined`: a peer of a mesh network is there, or is there again."""

    peer_id: str
    name: str
    virtual_ip: str
    public_key: str
    endpoints: tuple[Endpoint, ...]
    metadata: dict[str, str]


class PeerLeft(Struct, gc=False):
    """`peer.left`: a peer is gone; the reason is removed, timeout or network_deleted."""

    peer_id: str
    name: str
    reason: str


class PeerUpdated(Struct, gc=False):
    """`peer.updated`: something that a peer says of itself is another now. All of it is told."""

    peer_id: str
    endpoints: tuple[Endpoint, ...]
    name: str
    virtual_ip: str
    public_key: str
    metadata: dict[str, str]


MeshData = PeerJoined | PeerLeft | PeerUpdated
Data = (
    ConnectionNew
    | ConnectionClose
    | ConnectionFailed
    | BackendHealth
    | ConfigChange
    | ConfigRejected
    | StatsUpdate
    | EventsLost
    | MeshData
)

TYPES: dict[str, type[Data]] = {
    "connection.new": ConnectionNew,
    "connection.close": ConnectionClose,
    "connection.failed": ConnectionFailed,
    "backend.health": BackendHealth,
    "config.reload": ConfigChange,
    "config.saved": ConfigChange,
    "config.rejected": ConfigRejected,
    "stats.update": StatsUpdate,
    "events.lost": EventsLost,
}

# What the event endpoints of mesh networks tell, and no other.
MESH_TYPES: dict[str, type[MeshData]] = {
    "peer.joined": PeerJoined,
    "peer.left": PeerLeft,
    "peer.updated": PeerUpdated,
}


class Event(Struct, gc=False):
    """An event as it is kept.

    Attributes:
        type: e.g. ``connection.new``
        time: Unix time in seconds
        data: the Struct of that type
        seq: number of the event for the life of the process, of mesh events in their network
    """

    type: str
    time: float
    data: Data
    seq: int

    def encode(self) -> bytes:
        """The event as the JSON text that watchers get."""
        return b'{"type":"%b","timestamp":"%b","data":%b,"seq":%d}' % (
            self.type.encode(),
            rfc3339(self.time).encode(),
            _encode(self.data),
            self.seq,
        )
