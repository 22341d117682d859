"""How the daemon is: health, version, status, stats."""

from __future__ import annotations

import os
import sys
from time import monotonic, time

from msgspec import Struct

from ..events import ConfigFault, rfc3339
from ..rest import Call, Response, reply
from .context import Context


class Health(Struct):
    """Says no more than this, since everybody may ask.

    Attributes:
        status: `degraded` where a backend is not usable
    """

    status: str
    time: str


class Version(Struct):
    """The version, with the keys that clients of Bifrost know.

    Attributes:
        git_commit, build_time, go_version: always empty
    """

    version: str
    git_commit: str
    build_time: str
    go_version: str
    python_version: str
    platform: str


class ListenerStatus(Struct):
    """A listener of the proxy or of the control server.

    Attributes:
        protocol: what clients may speak, as configured; `control` for the control server's
    """

    name: str
    address: str
    port: int
    protocol: str
    open: bool


class Cap(Struct):
    """How many there are, and how many there may be."""

    count: int
    max: int


class Status(Struct):
    """The daemon.

    Attributes:
        status: always `running`
        backends: how many there are
        listeners: those of the proxy, then those of the control server
        uptime: seconds
        clients: WebSocket clients
        subscribers: log streams
        memory_rss: bytes
        refused: clients turned away at a cap since the start
        dropped: datagrams of UDP ASSOCIATE that were thrown away since the start
        failures: requests that failed since the start, by their word of errors.md
        events_lost: events that slow clients lost
        entries_lost: log entries that slow streams lost
        boot: id of this process, as in the events
        config_errors: faults for which the last reload was refused; the daemon runs on with
            what it had
    """

    status: str
    time: str
    version: str
    backends: int
    uptime: int
    listeners: list[ListenerStatus]
    clients: Cap
    subscribers: Cap
    memory_rss: int
    pid: int
    uid: int
    refused: int
    dropped: int
    failures: dict[str, int]
    events_lost: int
    entries_lost: int
    boot: str
    config_errors: list[ConfigFault]


class BackendCount(Struct):
    """The backends.

    Attributes:
        total: how many there are
        healthy: how many of them are used
    """

    total: int
    healthy: int


class Stats(Struct):
    """The counters.

    Attributes:
        backends: how many there are, and are used
    """

    total_connections: int
    active_connections: int
    bytes_sent: int
    bytes_received: int
    backends: BackendCount
    time: str


async def health(ctx: Context, call: Call) -> Response:
    """Whether every backend is usable."""
    healthy = all(backend.healthy for backend in ctx.hub.health())
    return reply(Health("healthy" if healthy else "degraded", rfc3339(time())))


async def version(ctx: Context, call: Call) -> Response:
    """What runs here."""
    python = ".".join(map(str, sys.version_info[:3]))
    machine = os.uname()
    platform = f"{machine.sysname.lower()}/{machine.machine}"
    return reply(Version(ctx.version, "", "", "", python, platform))


async def status(ctx: Context, call: Call) -> Response:
    """How the daemon is, and how full."""
    now = time()
    listeners = [
        ListenerStatus(x.name, x.address, x.port, x.protocol, x.open) for x in ctx.plane.listeners
    ]
    listeners += [
        ListenerStatus("control", address, port, "control", True)
        for address, port in ctx.addresses()
    ]
    return reply(
        Status(
            status="running",
            time=rfc3339(now),
            version=ctx.version,
            backends=len(ctx.hub.health()),
            uptime=int(monotonic() - ctx.hub.started),
            listeners=listeners,
            clients=Cap(ctx.hub.seats.taken, ctx.hub.seats.limit),
            subscribers=Cap(ctx.logs.seats.taken, ctx.logs.seats.limit),
            memory_rss=memory_rss(),
            pid=os.getpid(),
            uid=os.getuid(),
            refused=ctx.plane.refused,
            dropped=ctx.plane.dropped,
            failures=dict(ctx.plane.failures),
            events_lost=ctx.hub.lost,
            entries_lost=ctx.logs.lost,
            boot=ctx.hub.boot,
            config_errors=list(ctx.house.rejected),
        )
    )


async def stats(ctx: Context, call: Call) -> Response:
    """The counters now."""
    active, total, sent, received = ctx.plane.stats()
    backends = ctx.hub.health()
    count = BackendCount(len(backends), sum(backend.healthy for backend in backends))
    return reply(Stats(total, active, sent, received, count, rfc3339(time())))


def memory_rss() -> int:
    """Bytes of this process in memory, 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
