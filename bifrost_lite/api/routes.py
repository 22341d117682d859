"""The routes: which there are, and what one target would meet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from time import time
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from ..backends.base import Backend
from ..condition import Condition
from ..config import schema
from ..errors import ProtocolError, Reason
from ..events import rfc3339
from ..rest import Call, Refused, Response, reply
from ..route import DEFAULT, Candidate
from ..target import Target, from_host, pack, read_authority, unpack
from .context import Context, House

if TYPE_CHECKING:
    from ..way import Way

PORT = 443  # of a test that names none
CLIENT = b"\x7f\x00\x00\x01"
_LOST = {
    "disabled": "It is disabled.",
    "port": "It is for other ports.",
    "client": "It is for other clients.",
    "later": "A route before it took the request.",
}


class RouteInfo(Struct):
    """A route.

    Attributes:
        priority: the highest is asked first
        enabled: whether it takes part
        domains, cidrs, ports, clients: as configured; an empty list matches all
        list: the file as configured, "" for none
        list_entries: how many it has; 0 where the route is disabled, its list is not read then
        patterns: domains, networks and entries together
        implicit: nobody configured it: it is what there is without any route
    """

    name: str
    backend: str
    priority: int
    enabled: bool
    domains: tuple[str, ...]
    cidrs: tuple[str, ...]
    ports: tuple[int, ...]
    clients: tuple[str, ...]
    list: str
    list_entries: int
    patterns: int
    implicit: bool


class Question(Struct):
    """A request as it might come.

    Attributes:
        host: a name or an IP address, with its port or without
        client_ip: who asks; "" is this machine
        port: of the target; 0 is 443
    """

    host: str
    client_ip: str = ""
    port: int = 0


class CandidateInfo(Struct):
    """A route as the request sees it.

    Attributes:
        matched: it takes the request
        lost: one word: disabled, target, port, client or later, "" where it matched
        why: the same in a sentence
        pattern: what in it names the target, "" for nothing, or where it is for any target
    """

    route: str
    backend: str
    matched: bool
    lost: str
    why: str
    pattern: str


class BackendState(Struct):
    """A backend and how it is."""

    name: str
    type: str
    healthy: bool
    state: str
    reason: str


class Answer(Struct):
    """What would happen.

    Attributes:
        host, port, client_ip: as understood
        allowed: nothing refuses the request; what the name resolves to may still be refused
        reason: why it would be refused, a word of errors.md, else ""
        message: the same in a sentence
        route: the one that takes the request, "" for none
        backend: where it leads, None for nowhere
        carriers: the leaves that would be tried now, in order
        others: the other leaves of a group, with the state for which they are left out
        candidates: all routes, in the order in which they are asked
    """

    host: str
    port: int
    client_ip: str
    allowed: bool
    reason: str
    message: str
    route: str
    backend: BackendState | None
    carriers: list[BackendState]
    others: list[BackendState]
    candidates: list[CandidateInfo]
    time: str


async def list_routes(ctx: Context, call: Call) -> Response:
    """All routes, in the order in which they are asked."""
    routes = ctx.house.settings.routes
    if not routes:
        return reply([_info(schema.Route(name=DEFAULT.route, backend=DEFAULT.backend), 0, True)])
    lists = ctx.plane.policy.router.lists
    return reply(
        [
            _info(route, len(lists.get(route.name, ())), False)
            for route in sorted(routes, key=lambda route: -route.priority)
        ]
    )


async def try_route(ctx: Context, call: Call) -> Response:
    """Which route a request would take, why the others lost, and who would carry it now."""
    question = call.json(Question)
    target, client = _target(question), _client(question)
    policy = ctx.plane.policy
    candidates = policy.router.explain(target.host, target.packed, target.port, client)
    won = next((one for one in candidates if not one.lost), None)
    backend = policy.backends[won.backend] if won is not None else None
    ways = backend.carriers(client) if backend is not None else []
    if not policy.admits(client):
        refusal: Reason | None = Reason.ACL_DENIED
    else:
        refusal = _refusal(target, ways, ctx.house)
    return reply(
        Answer(
            host=target.host,
            port=target.port,
            client_ip=unpack(client),
            allowed=refusal is None,
            reason=refusal.word if refusal is not None else "",
            message=refusal.text if refusal is not None else "",
            route=won.route if won is not None else "",
            backend=_state(backend) if backend is not None else None,
            carriers=[_state(way) for way in ways],
            others=[_state(way) for way in _leaves(backend) if way not in ways],
            candidates=[_candidate(one, target) for one in candidates],
            time=rfc3339(time()),
        )
    )


def _info(route: schema.Route, entries: int, implicit: bool) -> RouteInfo:
    return RouteInfo(
        name=route.name,
        backend=route.backend,
        priority=route.priority,
        enabled=route.enabled,
        domains=route.domains,
        cidrs=route.cidrs,
        ports=route.ports,
        clients=route.clients,
        list=route.list,
        list_entries=entries,
        patterns=len(route.domains) + len(route.cidrs) + entries,
        implicit=implicit,
    )


def _target(question: Question) -> Target:
    """What the question is about, in canonical form.

    Raises:
        Refused: it is none, or has two ports
    """
    if not 0 <= question.port <= 65535:
        raise Refused(400, "bad_port", "The port must be a number from 1 to 65535.")
    host, port = question.host.encode(), question.port or PORT
    plain = pack(question.host) is not None  # IPv6 without brackets
    if question.port and not plain and ":" in question.host.rpartition("]")[2]:
        raise Refused(400, "bad_port", "The host has a port of its own; leave one of both out.")
    try:
        return from_host(host, port) if plain else read_authority(host, port)
    except ProtocolError as error:
        raise Refused(400, "bad_host", f"The host cannot be asked for: {error}.") from None


def _client(question: Question) -> bytes:
    if not question.client_ip:
        return CLIENT
    packed = pack(question.client_ip)
    if packed is None:
        raise Refused(400, "bad_client_ip", "The client_ip must be an IPv4 or IPv6 address.")
    return packed


def _refusal(target: Target, ways: Sequence[Way], house: House) -> Reason | None:
    """Why the request of a client that may use the proxy would be refused."""
    if not ways:
        return Reason.NO_ROUTE
    if ways[0].type == "block":
        return Reason.BLOCKED
    return house.guard(target.packed, target.port) if target.packed is not None else None


def _leaves(backend: Backend | None) -> Iterator[Way]:
    """Of a group, whatever may carry its connections, each once."""
    ahead: list[Backend] = list(backend.members) if backend is not None else []
    seen: set[str] = set()
    while ahead:
        leaf = ahead.pop(0)
        if leaf.name not in seen:
            seen.add(leaf.name)
            ahead += leaf.members
            if not leaf.members:
                yield from leaf.carriers(CLIENT)


class _Known(Protocol):
    """A backend, or the way of one."""

    name: str
    type: str
    condition: Condition


def _state(backend: _Known) -> BackendState:
    condition = backend.condition
    return BackendState(
        backend.name, backend.type, condition.usable, condition.state, condition.reason
    )


def _candidate(one: Candidate, target: Target) -> CandidateInfo:
    why = _LOST.get(one.lost, "It takes the request.")
    if one.lost == "target":
        kind = "names" if target.packed is None else "networks"
        why = f"None of its {kind} matches."
    return CandidateInfo(one.route, one.backend, not one.lost, one.lost, why, one.pattern)
