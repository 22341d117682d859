"""What the document says of Structs beside their own fields: names, and what no type says."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from bifrost_lite.api import backends, config, connections, logs, mesh, routes, status
from bifrost_lite.config import schema
from bifrost_lite.config.schema import Settings
from bifrost_lite.events import Endpoint
from bifrost_lite.mesh.card import Card, Change
from bifrost_lite.records import LEVELS
from bifrost_lite.rest import ErrorBody, FaultBody
from bifrost_lite.sse import AccessFields, LogEntry

from .shapes import STAMP, Schema


class Meaning(Struct):
    """What a value of the configuration may be.

    Attributes:
        type: What it is; a `table` has keys of its own, a `choice` is one of `choices`.
        description: What it means.
        default: What stands there if nobody says.
        min, max: The range of a number.
        unit: Of a number.
        choices: What it may be.
        format: What a text must be.
        secret: It is never shown.
        items: What the entries of a list are.
        max_items: How many a list may have.
        fields: The keys of a table.
        fields_by_type: Further keys of a backend, by its type.
    """

    type: Literal["list", "table", "choice", "boolean", "text", "duration", "integer", "number"]
    description: str | UnsetType = UNSET
    default: object | UnsetType = UNSET
    min: float | UnsetType = UNSET
    max: float | UnsetType = UNSET
    unit: str | UnsetType = UNSET
    choices: list[str] | UnsetType = UNSET
    format: str | UnsetType = UNSET
    secret: bool | UnsetType = UNSET
    items: Meaning | UnsetType = UNSET
    max_items: int | UnsetType = UNSET
    fields: list[Key] | UnsetType = UNSET
    fields_by_type: dict[str, list[Key]] | UnsetType = UNSET


class Key(Meaning, kw_only=True):
    """A key of the configuration."""

    name: str


class KeySection(Meaning, kw_only=True):
    """A section of the configuration.

    Attributes:
        section: Its name.
        hot_reloadable: Whether a reload is enough for a change of it.
    """

    section: str
    hot_reloadable: bool


class Draft(Struct):
    """A configuration to be judged.

    Attributes:
        config: Any document: what is wrong with it is what the call answers.
        create_backup: Means nothing here; a proposal for `PUT` can be sent as it is.
    """

    config: dict[str, object]
    create_backup: bool = False


# Fields that are plain documents in the daemon, and what they hold.
HOLDS: dict[tuple[type[Struct], str], object] = {
    (config.Shown, "config"): Settings,
    (config.Proposal, "config"): Settings,
    (config.Meta, "sections"): list[KeySection],
}
# What Structs are called that both come and go: they are stricter when they come.
ASKED: dict[type[Struct], str] = {Endpoint: "NewEndpoint"}
NAMES: dict[type[Struct], str] = {
    ErrorBody: "Error",
    FaultBody: "Fault",
    backends.Asked: "BackendTest",
    backends.BackendInfo: "Backend",
    backends.Tested: "BackendTestResult",
    Card: "PeerCard",
    Change: "PeerChange",
    connections.Clients: "ClientList",
    connections.Connections: "ConnectionList",
    config.Meta: "ConfigurationKeys",
    config.Proposal: "ConfigurationProposal",
    config.Reload: "ReloadWish",
    config.Shown: "ShownConfiguration",
    mesh.NetworkInfo: "Network",
    mesh.Networks: "NetworkList",
    mesh.PeerInfo: "Peer",
    mesh.Peers: "PeerList",
    logs.Request: "FinishedRequest",
    logs.Requests: "FinishedRequests",
    logs.RequestsStats: "FinishedRequestsStats",
    routes.Answer: "RouteTestResult",
    routes.CandidateInfo: "RouteCandidate",
    routes.Question: "RouteTest",
    routes.RouteInfo: "Route",
}
# Keys of the configuration whose default is refused: they must be there.
NEEDED: frozenset[tuple[type[Struct], str]] = frozenset(
    (
        (schema.Interface, "device"),
        (schema.HttpProxy, "address"),
        (schema.Socks5Proxy, "address"),
        (schema.Group, "members"),
        (schema.Route, "backend"),
        (schema.User, "name"),
        (schema.User, "password_hash"),
        (schema.MeshNetwork, "id"),
        (schema.MeshNetwork, "cidr"),
    )
)
_PROTOCOLS: Schema = {"enum": ["HTTP", "CONNECT", "SOCKS5", "SOCKS4", ""]}
PORT: Schema = {"maximum": 65535}
IPS: list[Schema] = [{"format": "ipv4"}, {"format": "ipv6"}]
LEVEL: Schema = {"enum": list(LEVELS)}
# Fields that are not what the glossary says of their name, or of a number.
EXCEPTIONS: dict[tuple[type[Struct], str], Schema] = {
    (AccessFields, "protocol"): _PROTOCOLS,
    (LogEntry, "level"): LEVEL,
    (logs.Request, "protocol"): _PROTOCOLS,
    (mesh.NetworkInfo, "created"): STAMP,
    (mesh.NewNetwork, "cidr"): {"pattern": r"^[0-9A-Fa-f:.]+/[0-9]{1,3}$"},
    (mesh.PeerInfo, "last_seen"): STAMP,
    (routes.Answer, "port"): PORT,
    (routes.Question, "client_ip"): {"anyOf": [*IPS, {"const": ""}]},
    (routes.Question, "port"): {"minimum": 0} | PORT,
    (routes.RouteInfo, "priority"): {"minimum": -1000000},
    (status.Health, "status"): {"enum": ["healthy", "degraded"]},
    (status.ListenerStatus, "protocol"): {"enum": ["auto", "http", "socks", "control"]},
    (status.Status, "status"): {"const": "running"},
}
