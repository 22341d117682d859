"""What was: the log, and the finished requests."""

from __future__ import annotations

from time import time

from msgspec import UNSET, Struct, UnsetType

from ..events import rfc3339
from ..records import DEBUG, LEVELS, Finished
from ..rest import Call, Response, Takeover, reply
from ..sse import LogEntry
from .context import Context


class Entries(Struct):
    """Log entries, the newest first."""

    entries: list[LogEntry]
    count: int
    time: str


class Request(Struct):
    """A request that was answered, tunnelled or refused."""

    id: int
    timestamp: str
    protocol: str
    method: str
    url: str
    host: str
    client_ip: str
    backend: str
    route: str
    status_code: int | UnsetType
    duration_ms: int
    bytes_sent: int
    bytes_received: int
    error: str


class Requests(Struct):
    """Finished requests, the newest first."""

    enabled: bool
    requests: list[Request]
    count: int
    time: str


class RequestsStats(Struct):
    """How full the ring is."""

    enabled: bool
    count: int
    max_size: int


class Cleared(Struct):
    """What was forgotten.

    Attributes:
        cleared: how many requests
    """

    message: str
    cleared: int


async def list_entries(ctx: Context, call: Call) -> Response:
    """The newest log entries, the newest first."""
    level = call.choice("level", LEVELS)
    limit = call.number("limit", 1, 10000) or 100
    entries = ctx.logs.read(limit, LEVELS.index(level) if level else DEBUG)
    return reply(Entries(entries, len(entries), rfc3339(time())))


async def follow(ctx: Context, call: Call) -> Takeover:
    """The log as it grows, as server-sent events."""
    return ctx.logs.connect(call)


async def list_requests(ctx: Context, call: Call) -> Response:
    """The newest finished requests, the newest first."""
    limit = call.number("limit", 1, 10000) or 100
    since = call.number("since", 0, 10**15 - 1) or 0
    found = [record for record in ctx.requests.newest_first() if record.id > since][:limit]
    requests = [_request(record) for record in found]
    return reply(
        Requests(ctx.requests.limit > 0, requests, len(requests), rfc3339(time()))
    )


async def requests_stats(ctx: Context, call: Call) -> Response:
    """How many finished requests are kept, of how many."""
    limit = ctx.requests.limit
    return reply(RequestsStats(limit > 0, len(ctx.requests), limit))


async def clear_requests(ctx: Context, call: Call) -> Response:
    """Forget the finished requests."""
    return reply(Cleared("The finished requests are forgotten.", ctx.requests.clear()))


def _request(record: Finished) -> Request:
    return Request(
        id=record.id,
        timestamp=rfc3339(record.time),
        protocol=record.protocol,
        method=record.method,
        url=record.url,
        host=record.host,
        client_ip=record.client_ip,
        backend=record.backend,
        route=record.route,
        status_code=UNSET if record.status_code is None else record.status_code,
        duration_ms=record.duration_ms,
        bytes_sent=record.bytes_sent,
        bytes_received=record.bytes_received,
        error=record.error,
    )
