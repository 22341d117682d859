"""The backends: how they are, what they carried, and a test of each."""

from __future__ import annotations

import asyncio
from _socket import socket as Socket
from collections.abc import Iterable, Iterator
from time import monotonic
from typing import TYPE_CHECKING, cast

from msgspec import UNSET, Struct, UnsetType

from ..backends.base import Backend
from ..config import schema, values
from ..config.edit import plain
from ..errors import ProtocolError, Reason
from ..events import BackendHealth
from ..rest import Call, Refused, Response, reply
from ..target import Target, read_authority
from ..way import Way
from .context import Context

if TYPE_CHECKING:
    from ..backends.group import Group  # who has no group pays for none

TEST_TIME = 15.0  # seconds that a test may take, whatever the backend's own deadline


class BackendStats(Struct):
    """What a backend carried since the start; of a group, what its leaves did.

    Attributes:
        bytes_sent: to targets until now, connections that stand included
        bytes_received: from targets, the same
        errors: dials that failed
        last_error: why the last one did, a word of errors.md; "" before one
        latency_ms: milliseconds that dials took lately, 0 before one; of a group, those of the
            leaf that would be tried next
    """

    name: str
    type: str
    healthy: bool
    active_connections: int
    total_connections: int
    bytes_sent: int
    bytes_received: int
    errors: int
    last_error: str
    latency_ms: float


class BackendInfo(Struct):
    """A backend.

    Attributes:
        healthy: whether it is used, true for the states up and suspect
        state: up, suspect, down or waiting
        reason: why, one sentence
        since: when the state changed
        settings: its keys in the configuration, secrets as "***"
        strategy, members: of a group
        carriers: of a group, the leaves that a new connection would be tried over now, in
            order; with the strategy `ip_hash` it depends on the client: see ``?client=IP``
    """

    name: str
    type: str
    healthy: bool
    state: str
    reason: str
    since: str
    stats: BackendStats
    settings: dict[str, object]
    strategy: str | UnsetType = UNSET
    members: list[str] | UnsetType = UNSET
    carriers: list[str] | UnsetType = UNSET


class Asked(Struct):
    """What to test with.

    Attributes:
        target: ``host:port``; "" is the target of the health check
    """

    target: str = ""


class Tested(Struct):
    """How a test went.

    Attributes:
        ok: whether the connection stood
        carrier: the leaf that dialled; for a leaf its own name
        target: what was dialled
        latency_ms: milliseconds until it connected or failed
        reason: why it failed, a word of errors.md, else ""
    """

    ok: bool
    backend: str
    carrier: str
    target: str
    latency_ms: float
    reason: str
    message: str


# Backends that are being tested. A test holds a connection to the control server, so they
# are few.
_testing: set[Backend] = set()


async def list_backends(ctx: Context, call: Call) -> Response:
    """All backends, in the order of the configuration."""
    client = _client(call)
    return reply(list(_infos(ctx, ctx.plane.policy.backends.values(), client)))


async def get_backend(ctx: Context, call: Call) -> Response:
    """One backend."""
    client = _client(call)
    return reply(next(_infos(ctx, (_find(ctx, call),), client)))


async def get_stats(ctx: Context, call: Call) -> Response:
    """What one backend carried."""
    return reply(next(_infos(ctx, (_find(ctx, call),), b"")).stats)


async def run_test(ctx: Context, call: Call) -> Response:
    """Dial through a backend; one test of it at a time."""
    backend = _find(ctx, call)
    carrier = backend.carriers(b"")[0]
    target = _target(ctx, call, (backend.name, carrier.name))
    if backend in _testing:
        raise Refused(409, "test_running", "A test of this backend is running.", "Retry-After: 1")
    _testing.add(backend)
    try:
        reason, seconds = await _dial(backend, carrier, target)
    finally:
        _testing.discard(backend)
    return reply(
        Tested(
            reason is None,
            backend.name,
            carrier.name,
            target.text,
            _milliseconds(seconds),
            reason.word if reason is not None else "",
            reason.text if reason is not None else "The connection stood.",
        )
    )


async def _dial(backend: Backend, carrier: Way, target: Target) -> tuple[Reason | None, float]:
    """Dial and hang up; answers why not, or None, and how many seconds it took."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Reason | None] = loop.create_future()
    began = monotonic()
    dialling = True

    def told(sock: Socket | None, mask: int, reason: Reason | None, way: Way | None) -> None:
        nonlocal dialling
        dialling = False
        if sock is not None:
            carrier.dispatcher.discard(sock.fileno(), sock)
        end(reason)

    def end(reason: Reason | None) -> None:
        if not ended.done():
            ended.set_result(reason)

    connecting = backend.probe(target, told)
    timer = loop.call_later(TEST_TIME, end, Reason.CONNECT_TIMEOUT)
    try:
        return await ended, monotonic() - began
    finally:
        timer.cancel()
        if dialling:
            connecting.cancel()


def _find(ctx: Context, call: Call) -> Backend:
    backend = ctx.plane.policy.backends.get(call.parts[0])
    if backend is None:
        raise Refused(404, "not_found", "There is no backend of this name.")
    return backend


def _client(call: Call) -> bytes:
    """The client of ``?client=IP``, of whom strategies may make their choice depend."""
    client = call.address("client")
    return values.address(client) if client is not None else b""


def _target(ctx: Context, call: Call, names: Iterable[str]) -> Target:
    """What to dial: what the call names, or the health target of the first of `names` that
    has one.

    Raises:
        Refused: the call names something else, or nothing is known
    """
    asked = call.json(Asked, optional=True).target
    if asked:
        try:
            return read_authority(asked.encode(), None)
        except ProtocolError as error:
            raise Refused(400, "bad_target", f"The target is wrong: {error}.") from None
    settings = {item.name: item for item in ctx.house.settings.backends}
    for name in names:
        item = settings.get(name)
        if isinstance(item, schema.Dialing) and item.health.target:
            return _health_target(item.health)
    raise Refused(
        400, "no_target", "This backend has no health target: name one to test with, host:port."
    )


def _health_target(health: schema.Health) -> Target:
    """The host and port of a checked health target."""
    authority = health.target
    if health.type == "http":
        authority = authority.partition("://")[2].partition("/")[0].partition("?")[0]
    return read_authority(authority.encode(), 80)


def _infos(ctx: Context, backends: Iterable[Backend], client: bytes) -> Iterator[BackendInfo]:
    states = {state.name: state for state in ctx.hub.health()}
    settings = {item.name: item for item in ctx.house.settings.backends}
    live: dict[str, tuple[int, int]] = {}
    for session in ctx.plane.connections.values():
        sent, received = live.get(session.backend, (0, 0))
        live[session.backend] = sent + session.bytes_sent, received + session.bytes_received
    for backend in backends:
        yield _info(backend, states[backend.name], settings.get(backend.name), live, client)


def _info(
    backend: Backend,
    health: BackendHealth,
    settings: schema.Backend | None,
    live: dict[str, tuple[int, int]],
    client: bytes,
) -> BackendInfo:
    carriers = backend.carriers(client)
    group = cast("Group", backend) if backend.members else None
    ways = list(group.ways.values()) if group is not None else carriers
    counters = [way.counters for way in ways]
    moved = [live.get(way.name, (0, 0)) for way in ways]
    errors = [way.counters.last_failure for way in (*carriers, *ways)]
    stats = BackendStats(
        backend.name,
        backend.type,
        health.healthy,
        sum(each.active for each in counters),
        sum(each.total for each in counters),
        sum(each.sent for each in counters) + sum(sent for sent, _ in moved),
        sum(each.received for each in counters) + sum(received for _, received in moved),
        sum(each.failed for each in counters),
        next(filter(None, errors), ""),
        _milliseconds(carriers[0].counters.latency),
    )
    info = BackendInfo(
        backend.name,
        backend.type,
        health.healthy,
        health.state,
        health.reason,
        health.since,
        stats,
        _shown(settings),
    )
    if group is not None:
        info.strategy = group.strategy
        info.members = [member.name for member in group.members]
        info.carriers = [way.name for way in carriers]
    return info


def _shown(settings: schema.Backend | None) -> dict[str, object]:
    """The settings of a backend as everybody with a token may see them."""
    if settings is None:
        return {}
    shown = plain(settings, None, ("backends", 0))
    assert isinstance(shown, dict)
    return {key: value for key, value in shown.items() if key not in ("name", "type")}


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 1)
