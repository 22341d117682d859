"""What Prometheus scrapes.

Every series is there from the start and as long as what it tells of is configured, at 0 where
there is nothing to tell. Labels come from the configuration and from fixed sets; no client
and no target is ever named.
"""

from __future__ import annotations

import os
import resource
import sys
from time import monotonic, process_time, time

from ..backends.base import Backend
from ..condition import DOWN, SUSPECT, UP, WAITING
from ..counters import Counters
from ..errors import Reason
from ..metrics import CONTENT_TYPE, COUNTER, GAUGE, Page
from ..rest import Call, Response
from .context import Context
from .status import memory_rss

STATES = (UP, SUSPECT, DOWN, WAITING)


async def metrics(ctx: Context, call: Call) -> Response:
    """All metrics, as text."""
    page = Page()
    _process(page, ctx)
    _traffic(page, ctx)
    _backends(page, ctx)
    _watchers(page, ctx)
    return Response(200, page.encode(), CONTENT_TYPE, ("Cache-Control: no-store",))


def _process(page: Page, ctx: Context) -> None:
    """The daemon; ``process_`` are the names that every Prometheus client library gives."""
    page.many(
        GAUGE, "bifrost_build_info", "Always 1; the labels tell what runs.",
        ("version", "python"),
        [((ctx.version, ".".join(map(str, sys.version_info[:3]))), 1)],
    )  # fmt: skip
    page.one(GAUGE, "bifrost_up", "Always 1: the daemon answers.", 1)
    uptime = monotonic() - ctx.hub.started
    page.one(GAUGE, "bifrost_uptime_seconds", "Time since the start.", round(uptime, 3))
    page.one(
        GAUGE, "process_start_time_seconds", "Start of the process, as Unix time.",
        round(time() - uptime, 3),
    )  # fmt: skip
    page.one(
        COUNTER, "process_cpu_seconds_total", "CPU time of the process.", round(process_time(), 6)
    )
    page.one(GAUGE, "process_resident_memory_bytes", "Memory of the process.", memory_rss())
    page.one(GAUGE, "process_open_fds", "File descriptors that are open.", _open_fds())
    page.one(
        GAUGE, "process_max_fds", "File descriptors that may be open.",
        resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    )  # fmt: skip
    page.one(
        GAUGE, "bifrost_config_last_reload_successful",
        "0 while the daemon runs on with what it had, for the last reload was refused.",
        int(not ctx.house.rejected),
    )  # fmt: skip
    page.one(
        GAUGE, "bifrost_config_last_reload_success_timestamp_seconds",
        "When the configuration was put in force, as Unix time.", round(ctx.house.loaded, 3),
    )  # fmt: skip
    page.many(
        COUNTER, "bifrost_config_reloads_total", "Reloads, by their outcome.", ("outcome",),
        [(("success",), ctx.house.loads[True]), (("refused",), ctx.house.loads[False])],
    )  # fmt: skip


def _open_fds() -> int:
    """0 where the system does not tell."""
    try:
        return len(os.listdir("/proc/self/fd")) - 1  # less the one that lists them
    except OSError:
        return 0


def _traffic(page: Page, ctx: Context) -> None:
    plane = ctx.plane
    _, _, sent, received = plane.stats()
    active = dict.fromkeys(plane.by_protocol, 0)
    for session in plane.connections.values():
        active[session.protocol] = active.get(session.protocol, 0) + 1
    page.many(
        GAUGE, "bifrost_connections_active", "Connections to targets that stand.",
        ("protocol",), [((name.lower(),), count) for name, count in active.items()],
    )  # fmt: skip
    page.many(
        COUNTER, "bifrost_connections_total", "Connections to targets that stood.",
        ("protocol",), [((name.lower(),), count) for name, count in plane.by_protocol.items()],
    )  # fmt: skip
    page.one(
        COUNTER, "bifrost_requests_total", "Requests that are over, failed ones included.",
        ctx.requests.last,
    )  # fmt: skip
    page.many(
        COUNTER, "bifrost_requests_failed_total", "Requests that failed, by the reason's word.",
        ("reason",),
        [((reason.word,), plane.failures.get(reason.word, 0)) for reason in Reason],
    )  # fmt: skip
    page.one(
        COUNTER, "bifrost_clients_refused_total", "Client connections turned away at a cap.",
        plane.refused,
    )  # fmt: skip
    page.one(
        COUNTER, "bifrost_datagrams_dropped_total", "Datagrams that were not passed on.",
        plane.dropped,
    )  # fmt: skip
    page.many(
        COUNTER, "bifrost_traffic_bytes_total", "Payload sent to targets and received from them.",
        ("direction",), [(("sent",), sent), (("received",), received)],
    )  # fmt: skip


def _backends(page: Page, ctx: Context) -> None:
    """A group has a state alone: what it carries is counted at its members."""
    backends = ctx.plane.policy.backends.values()
    page.many(
        GAUGE, "bifrost_backend_health", "1 in the states up and suspect, where it is used.",
        ("backend", "type"), [((b.name, b.type), int(b.condition.usable)) for b in backends],
    )  # fmt: skip
    page.many(
        GAUGE, "bifrost_backend_state", "1 for the state that the backend is in.",
        ("backend", "state"),
        [((b.name, state), int(b.condition.state == state)) for b in backends for state in STATES],
    )  # fmt: skip
    sent: dict[str, int] = {}
    received: dict[str, int] = {}
    for session in ctx.plane.connections.values():
        name = session.backend
        sent[name] = sent.get(name, 0) + session.bytes_sent
        received[name] = received.get(name, 0) + session.bytes_received
    leaves = [((b.name,), _counters(b)) for b in backends if not b.members]
    label = ("backend",)
    page.many(
        GAUGE, "bifrost_backend_connections", "Connections that stand.",
        label, [(name, counters.active) for name, counters in leaves],
    )  # fmt: skip
    page.many(
        COUNTER, "bifrost_backend_connections_opened_total", "Connections that stood.",
        label, [(name, counters.total) for name, counters in leaves],
    )  # fmt: skip
    page.many(
        COUNTER, "bifrost_backend_errors_total", "Dials that failed.",
        label, [(name, counters.failed) for name, counters in leaves],
    )  # fmt: skip
    page.many(
        GAUGE, "bifrost_backend_latency_seconds", "What dials took lately; 0 before the first.",
        label, [(name, round(counters.latency, 6)) for name, counters in leaves],
    )  # fmt: skip
    page.many(
        COUNTER, "bifrost_bytes_sent_total", "Payload sent to targets.",
        label, [(name, counters.sent + sent.get(name[0], 0)) for name, counters in leaves],
    )  # fmt: skip
    page.many(
        COUNTER, "bifrost_bytes_received_total", "Payload received from targets.",
        label, [(name, counters.received + received.get(name[0], 0)) for name, counters in leaves],
    )  # fmt: skip


def _counters(leaf: Backend) -> Counters:
    return leaf.carriers(b"")[0].counters


def _watchers(page: Page, ctx: Context) -> None:
    hub, logs = ctx.hub, ctx.logs
    page.one(GAUGE, "bifrost_event_clients", "WebSocket clients.", hub.seats.taken)
    page.one(GAUGE, "bifrost_event_clients_limit", "As many there may be.", hub.seats.limit)
    page.one(COUNTER, "bifrost_events_total", "Events, told to somebody or not.", hub.ring.last)
    page.one(COUNTER, "bifrost_events_lost_total", "Events that slow clients lost.", hub.lost)
    page.one(GAUGE, "bifrost_log_streams", "Streams of the log.", logs.seats.taken)
    page.one(GAUGE, "bifrost_log_streams_limit", "As many there may be.", logs.seats.limit)
    page.one(
        COUNTER, "bifrost_log_entries_lost_total", "Log entries that slow streams lost.", logs.lost
    )
