"""What each call of the API takes and answers: beside `ROUTES`, the source of docs/openapi.json.

A call is written down once here; its summary is the docstring of its handler, its fields are
those of the Structs. tests/test_openapi.py holds that no call is missing, and that the words of
errors are those of the source; tests/e2e/test_schemathesis.py that the daemon does as it says.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from msgspec import Struct

from bifrost_lite.api import backends, config, connections, edits, logs, mesh, routes, status
from bifrost_lite.config import schema
from bifrost_lite.events import MESH_TYPES, TYPES
from bifrost_lite.mesh.card import Change
from bifrost_lite.metrics import CONTENT_TYPE

from .names import IPS, LEVEL, Draft
from .shapes import ID, NAME, Schema
from .words import EDIT, MESH, SOCKET


class Parameter(NamedTuple):
    """A parameter of a call.

    Attributes:
        name: its name
        text: what it does
        schema: of its value
        where: query, path or header
        needed: it must not be left out
    """

    name: str
    text: str
    schema: Schema
    where: str = "query"
    needed: bool = False


def _number(low: int, high: int, default: int | None = None) -> Schema:
    schema: Schema = {"type": "integer", "minimum": low, "maximum": high}
    return schema if default is None else schema | {"default": default}


_SEQ = _number(0, 10**15 - 1)
_IP: Schema = {"type": "string", "anyOf": IPS}
_CLIENT = Parameter("client", "Only what is of this client address.", _IP)
_AS_SEEN = Parameter("client", "The client that the choice of a member is shown for.", _IP)
_LIMIT = Parameter("limit", "How many at most.", _number(1, 10000, 100))
_FLOOR = Parameter("level", "The least grave level.", {"type": "string"} | LEVEL)
_IF_MATCH = Parameter(
    "If-Match",
    "The revision that may be replaced, as `ETag` gave it; `*` is any.",
    {"type": "string", "pattern": r'^(\*|"[0-9a-f]+"(, ?"[0-9a-f]+")*)$'},
    "header",
)
PATH = {
    "networks/{network}": Parameter("network", "The id of the network.", ID, "path"),
    "peers/{peer}": Parameter("peer", "The id of the peer.", ID, "path"),
    "backends/{name}": Parameter("name", "The name of the backend.", NAME, "path"),
    "connections/{id}": Parameter("id", "The number of the connection.", _SEQ, "path"),
    "routes/{name}": Parameter("name", "The name of the route.", NAME, "path"),
}


class Call(NamedTuple):
    """A call of the API.

    Attributes:
        answer: the Struct, or another type, that it answers; None where it is no JSON
        status: of that answer
        body: the Struct that it takes, or a Section of the configuration; None for no body
        optional: the body may be left out
        parameters: of the query and the head; those of the path are in `PATH`
        errors: words of `ERRORS` beside those that any call may meet
        headers: fields of the answer, each with what it says
        media: content type of an answer that is no JSON
        text: what is to be said beside the summary
        examples: bodies, by what they do
        also: further answers, without a body, by their status
        links: calls that go on from this one, and where their path comes from
    """

    answer: object = None
    status: int = 200
    body: type[Struct] | None = None
    optional: bool = False
    parameters: tuple[Parameter, ...] = ()
    errors: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    media: str = ""
    text: str = ""
    examples: dict[str, object] = {}
    also: dict[int, str] = {}
    links: dict[str, dict[str, str]] = {}


_V1 = "/api/v1"
_BACKENDS, _ROUTES, _CONFIG = f"{_V1}/backends", f"{_V1}/routes", f"{_V1}/config"
_NETWORKS = f"{_V1}/mesh/networks"
_NETWORK = f"{_NETWORKS}/{{network}}"
_PEER = f"{_NETWORK}/peers/{{peer}}"
_NEW_PEER: dict[str, Any] = {
    "peer": {
        "id": "laptop",
        "name": "Laptop",
        "endpoints": [{"address": "192.168.1.100", "port": 51820, "type": "lan"}],
    }
}
_NEW_ROUTE = {"name": "work", "domains": [".corp.example"], "backend": "direct"}
_NEW_CONFIG = {"config": {"limits": {"max_connections": 512}}, "create_backup": True}

_SINCE = Parameter("since", "Begin behind the event of this `seq`.", _SEQ)
_BOOT = Parameter("boot", "The process that `since` is of.", {"type": "string"})


def _types(kinds: Iterable[str]) -> Parameter:
    """The filter of an event stream."""
    one: Schema = {"type": "string", "enum": list(kinds)}
    what = "Only these types, with commas between them."
    return Parameter("types", what, {"type": "array", "items": one})


_IF_NONE_MATCH = Parameter(
    "If-None-Match", "The `ETag` of what is there already.", {"type": "string"}, "header"
)


def _file(media: str) -> Call:
    """A file of the dashboard."""
    return Call(
        media=media,
        parameters=(_IF_NONE_MATCH,),
        errors=("404 not_installed",),
        headers=("ETag",),
        text="It is of the dashboard.",
        also={304: "It is what `If-None-Match` says."},
    )


_PAC = Call(
    media="application/x-ns-proxy-autoconfig",
    errors=("400 bad_host", "404 pac_off", "503 no_listener"),
    text="It is described in docs/pac.md.",
)

CALLS: dict[str, Call] = {
    "GET /": _file("text/html; charset=utf-8"),
    "GET /app.js": _file("text/javascript; charset=utf-8"),
    "GET /style.css": _file("text/css; charset=utf-8"),
    "GET /proxy.pac": _PAC,
    "GET /wpad.dat": _PAC,
    "GET /metrics": Call(media=CONTENT_TYPE, text="For Prometheus."),
    f"GET {_V1}/health": Call(status.Health),
    f"GET {_V1}/version": Call(status.Version),
    f"GET {_V1}/status": Call(status.Status),
    f"GET {_V1}/stats": Call(status.Stats),
    f"GET {_V1}/connections": Call(
        connections.Connections, parameters=(_CLIENT,), errors=("400 bad_parameter",)
    ),
    f"DELETE {_V1}/connections": Call(
        connections.Closed,
        parameters=(_CLIENT._replace(text="Whose connections are closed.", needed=True),),
        errors=("400 bad_parameter",),
    ),
    f"GET {_V1}/connections/clients": Call(connections.Clients),
    f"DELETE {_V1}/connections/{{id}}": Call(connections.Closed, errors=("404 not_found",)),
    f"GET {_V1}/requests": Call(
        logs.Requests,
        parameters=(_LIMIT, Parameter("since", "Only those after the one of this id.", _SEQ)),
        errors=("400 bad_parameter",),
    ),
    f"DELETE {_V1}/requests": Call(logs.Cleared),
    f"GET {_V1}/requests/stats": Call(logs.RequestsStats),
    f"GET {_V1}/logs": Call(
        logs.Entries, parameters=(_LIMIT, _FLOOR), errors=("400 bad_parameter",)
    ),
    f"GET {_V1}/logs/stream": Call(
        media="text/event-stream",
        parameters=(
            _FLOOR,
            Parameter("tail", "Begin with so many of the last entries.", _number(0, 10000, 0)),
            Parameter(
                "Last-Event-ID",
                "The `id` of the last entry seen: go on behind it.",
                {"type": "string"},
                "header",
            ),
        ),
        errors=("400 bad_parameter", "503 too_many_subscribers"),
        text="It never ends; see docs/events.md.",
    ),
    f"GET {_V1}/ws": Call(
        status=101,
        parameters=(
            _types(TYPES),
            _CLIENT,
            _SINCE,
            _BOOT,
        ),
        errors=SOCKET,
    ),
    f"GET {_BACKENDS}": Call(
        list[backends.BackendInfo], parameters=(_AS_SEEN,), errors=("400 bad_parameter",)
    ),
    f"POST {_BACKENDS}": Call(
        edits.BackendEdited,
        201,
        body=schema.Backend,
        parameters=(_IF_MATCH,),
        errors=("409 exists", *EDIT),
        headers=("ETag", "Location"),
        examples={
            "an upstream proxy": {
                "name": "office", "type": "socks5_proxy", "address": "proxy.example.net:1080",
            },
            "a group": {"name": "best", "type": "group", "members": ["direct"]},
            "a block": {"name": "never", "type": "block"},
        },
        links={
            f"{call} {_BACKENDS}/{{name}}{below}": {"name": "$response.body#/backend"}
            for call, below in (("GET", ""), ("GET", "/stats"), ("POST", "/test"), ("DELETE", ""))
        },
    ),  # fmt: skip
    f"GET {_BACKENDS}/{{name}}": Call(
        backends.BackendInfo,
        parameters=(_AS_SEEN,),
        errors=("400 bad_parameter", "404 not_found"),
    ),
    f"DELETE {_BACKENDS}/{{name}}": Call(
        edits.BackendEdited,
        parameters=(_IF_MATCH,),
        errors=("404 not_found", "409 built_in", "409 in_use", *EDIT),
        headers=("ETag",),
    ),
    f"GET {_BACKENDS}/{{name}}/stats": Call(backends.BackendStats, errors=("404 not_found",)),
    f"POST {_BACKENDS}/{{name}}/test": Call(
        backends.Tested,
        body=backends.Asked,
        optional=True,
        errors=("404 not_found", "409 test_running", "400 bad_target", "400 no_target"),
        text="Without a target it dials the one of the health check.",
        examples={"another target": {"target": "192.0.2.1:443"}},
    ),
    f"GET {_ROUTES}": Call(list[routes.RouteInfo]),
    f"POST {_ROUTES}": Call(
        edits.RouteEdited,
        201,
        body=schema.Route,
        parameters=(_IF_MATCH,),
        errors=("409 exists", *EDIT),
        headers=("ETag", "Location"),
        examples={"names below a domain": _NEW_ROUTE},
        links={f"DELETE {_ROUTES}/{{name}}": {"name": "$response.body#/route"}},
    ),
    f"DELETE {_ROUTES}/{{name}}": Call(
        edits.RouteEdited,
        parameters=(_IF_MATCH,),
        errors=("404 not_found", *EDIT),
        headers=("ETag",),
    ),
    f"POST {_ROUTES}/test": Call(
        routes.Answer,
        body=routes.Question,
        errors=("400 bad_client_ip", "400 bad_host", "400 bad_port"),
        examples={"a name": {"host": "www.corp.example", "client_ip": "192.168.1.100"}},
    ),
    f"DELETE {_ROUTES}/test": Call(
        edits.RouteEdited,
        parameters=(_IF_MATCH,),
        errors=("404 not_found", *EDIT),
        headers=("ETag",),
        text="The same for the route of the name `test`.",
    ),
    f"GET {_CONFIG}": Call(
        config.Shown, headers=("ETag",), text="Secrets that are set stand as `***`."
    ),
    f"PUT {_CONFIG}": Call(
        config.Saved,
        body=config.Proposal,
        parameters=(_IF_MATCH,),
        errors=EDIT,
        headers=("ETag",),
        text="A secret that comes back as `***` stays what it is.",
        examples={"more connections": _NEW_CONFIG},
    ),
    f"GET {_CONFIG}/meta": Call(config.Meta),
    f"POST {_CONFIG}/validate": Call(
        config.Judgement, body=Draft, examples={"more connections": _NEW_CONFIG}
    ),
    f"POST {_CONFIG}/preview": Call(
        edits.Applied,
        body=config.Proposal,
        errors=("400 config_rejected",),
        examples={"more connections": _NEW_CONFIG},
    ),
    f"POST {_CONFIG}/reload": Call(
        edits.Applied,
        body=config.Reload,
        optional=True,
        errors=("409 no_file", "422 config_rejected"),
        examples={"close what is denied": {"enforce": True}},
    ),
    f"GET {_NETWORKS}": Call(mesh.Networks, errors=("404 mesh_off",)),
    f"POST {_NETWORKS}": Call(
        mesh.NetworkInfo,
        201,
        body=mesh.NewNetwork,
        errors=("400 bad_cidr", "400 too_many_networks", "404 mesh_off", "409 exists"),
        headers=("Location",),
        examples={"a network": {"id": "home", "name": "Home", "cidr": "10.100.0.0/16"}},
        links={
            f"{call} {_NETWORK}{below}": {"network": "$response.body#/id"}
            for call, below in (("GET", ""), ("DELETE", ""), ("GET", "/peers"), ("POST", "/peers"))
        },
    ),
    f"GET {_NETWORK}": Call(mesh.NetworkInfo, errors=(*MESH, "503 device_unreadable")),
    f"DELETE {_NETWORK}": Call(status=204, errors=MESH),
    f"GET {_NETWORK}/events": Call(
        status=101,
        parameters=(_types(MESH_TYPES), _SINCE, _BOOT),
        errors=(*SOCKET, *MESH),
    ),
    f"GET {_NETWORK}/peers": Call(mesh.Peers, errors=(*MESH, "503 device_unreadable")),
    f"POST {_NETWORK}/peers": Call(
        mesh.Registered,
        201,
        body=mesh.Registration,
        errors=(
            "400 too_many_peers", "403 wrong_peer_token", "409 not_a_registry",
            "409 peer_exists", "507 mesh_full", "507 no_address", *MESH,
        ),
        headers=("Location",),
        examples={"a peer": _NEW_PEER},
        links={
            f"{call} {_PEER}{below}": {
                "network": "$request.path.network",
                "peer": "$request.body#/peer/id",
            }
            for call, below in (
                ("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/heartbeat"),
            )
        },
    ),
    f"GET {_PEER}": Call(mesh.PeerInfo, errors=(*MESH, "503 device_unreadable")),
    f"PATCH {_PEER}": Call(
        status=204,
        body=Change,
        errors=("409 not_a_registry", "507 mesh_full", *MESH),
        examples={"another endpoint": {"endpoints": _NEW_PEER["peer"]["endpoints"]}},
    ),
    f"DELETE {_PEER}": Call(status=204, errors=("409 not_a_registry", *MESH)),
    f"POST {_PEER}/heartbeat": Call(status=204, errors=("409 not_a_registry", *MESH)),
}  # fmt: skip
