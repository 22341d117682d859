"""The control server and its calls: all are in `ROUTES`, their handlers in a module for each
kind."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from .. import __version__
from ..auth import Guard
from ..config.schema import Settings
from ..config.values import endpoint
from ..dispatch import Loop
from ..http import Server
from ..hub import Hub
from ..records import Finished
from ..rest import Call, Handler, Refused, Response, Route, Router, Takeover
from ..ring import Ring
from ..sse import Logs
from .context import Context, House, Plane

if TYPE_CHECKING:
    from ..coordinator import Coordinator
    from ..wireguard import Done, Inquiry


def _from(module: str, name: str) -> Handler[Context]:
    """A handler whose module is loaded at its first call: an idle daemon needs none of them."""

    async def handler(ctx: Context, call: Call) -> Response | Takeover:
        handle: Handler[Context] = getattr(import_module(f"{__name__}.{module}"), name)
        return await handle(ctx, call)

    return handler


_V1 = "/api/v1"
_NETWORKS = f"{_V1}/mesh/networks"
_CONFIG = 1024 * 1024  # bytes of a configuration in a body
_JOIN, _PEER = ("join",), ("peer",)

ROUTES = (
    Route("GET", "/", _from("web", "page"), public=True),
    Route("GET", "/app.js", _from("web", "script"), public=True),
    Route("GET", "/style.css", _from("web", "style"), public=True),
    Route("GET", "/proxy.pac", _from("pac", "proxy_pac"), public=True),
    Route("GET", "/wpad.dat", _from("pac", "proxy_pac"), public=True),
    Route("GET", "/metrics", _from("metrics", "metrics")),
    Route("GET", f"{_V1}/ws", _from("events", "watch"), head=False),
    Route("GET", f"{_V1}/health", _from("status", "health"), public=True),
    Route("GET", f"{_V1}/version", _from("status", "version")),
    Route("GET", f"{_V1}/status", _from("status", "status")),
    Route("GET", f"{_V1}/stats", _from("status", "stats")),
    Route("GET", f"{_V1}/connections", _from("connections", "list_connections")),
    Route("DELETE", f"{_V1}/connections", _from("connections", "close_of_client")),
    Route("GET", f"{_V1}/connections/clients", _from("connections", "list_clients")),
    Route("DELETE", f"{_V1}/connections/{{}}", _from("connections", "close_one")),
    Route("GET", f"{_V1}/logs", _from("logs", "list_entries")),
    Route("GET", f"{_V1}/logs/stream", _from("logs", "follow"), head=False),
    Route("GET", f"{_V1}/requests", _from("logs", "list_requests")),
    Route("DELETE", f"{_V1}/requests", _from("logs", "clear_requests")),
    Route("GET", f"{_V1}/requests/stats", _from("logs", "requests_stats")),
    Route("GET", f"{_V1}/backends", _from("backends", "list_backends")),
    Route("POST", f"{_V1}/backends", _from("edits", "add_backend")),
    Route("GET", f"{_V1}/backends/{{}}", _from("backends", "get_backend")),
    Route("DELETE", f"{_V1}/backends/{{}}", _from("edits", "remove_backend")),
    Route("GET", f"{_V1}/backends/{{}}/stats", _from("backends", "get_stats")),
    Route("POST", f"{_V1}/backends/{{}}/test", _from("backends", "run_test")),
    Route("GET", f"{_V1}/routes", _from("routes", "list_routes")),
    Route("POST", f"{_V1}/routes", _from("edits", "add_route")),
    Route("DELETE", f"{_V1}/routes/{{}}", _from("edits", "remove_route")),
    Route("POST", f"{_V1}/routes/test", _from("routes", "try_route")),
    # A route may be called "test", and is removed all the same.
    Route("DELETE", f"{_V1}/routes/test", _from("edits", "remove_route")),
    Route("GET", f"{_V1}/config", _from("config", "show")),
    Route("PUT", f"{_V1}/config", _from("config", "replace"), limit=_CONFIG),
    Route("GET", f"{_V1}/config/meta", _from("config", "explain")),
    Route("POST", f"{_V1}/config/validate", _from("config", "validate"), limit=_CONFIG),
    Route("POST", f"{_V1}/config/preview", _from("config", "preview"), limit=_CONFIG),
    Route("POST", f"{_V1}/config/reload", _from("config", "reload")),
    Route("GET", _NETWORKS, _from("mesh", "list_networks")),
    Route("POST", _NETWORKS, _from("mesh", "create_network")),
    Route("GET", f"{_NETWORKS}/{{}}", _from("mesh", "get_network")),
    Route("DELETE", f"{_NETWORKS}/{{}}", _from("mesh", "delete_network")),
    Route("GET", f"{_NETWORKS}/{{}}/events", _from("mesh", "watch"), head=False, keys=_JOIN),
    Route("GET", f"{_NETWORKS}/{{}}/peers", _from("mesh", "list_peers")),
    Route("POST", f"{_NETWORKS}/{{}}/peers", _from("mesh", "register"), keys=_JOIN),
    Route("GET", f"{_NETWORKS}/{{}}/peers/{{}}", _from("mesh", "get_peer")),
    Route("PATCH", f"{_NETWORKS}/{{}}/peers/{{}}", _from("mesh", "change_peer"), keys=_PEER),
    Route("DELETE", f"{_NETWORKS}/{{}}/peers/{{}}", _from("mesh", "remove_peer"), keys=_PEER),
    Route("POST", f"{_NETWORKS}/{{}}/peers/{{}}/heartbeat", _from("mesh", "heartbeat"), keys=_PEER),
)


class OwnAddresses(Protocol):
    """What knows this machine's addresses."""

    def is_own(self, packed: bytes) -> bool: ...


class Control:
    """The control plane in one: what the daemon starts and stops.

    Args:
        loop: the event loop
        settings: the configuration
        plane: the data plane
        hub: its events
        log: its log
        requests: its finished requests
        own: this machine's addresses
        house: the configuration
    """

    __slots__ = ("_coordinator", "_hub", "_logs", "_loop", "_mesh", "_server", "_settings")

    def __init__(
        self,
        loop: Loop,
        settings: Settings,
        plane: Plane,
        hub: Hub,
        log: Logs,
        requests: Ring[Finished],
        own: OwnAddresses,
        house: House,
    ) -> None:
        self._loop = loop
        self._settings = settings.control
        self._mesh = settings.mesh
        self._hub = hub
        self._logs = log
        self._coordinator: Coordinator | None = None
        context = Context(
            __version__, plane, hub, log, requests, lambda: self.addresses, house, self.mesh
        )
        join_token = self._mesh.join_token if self._mesh.enabled else ""
        guard = Guard(
            settings.control, own.is_own, socket.gethostname(), join_token, self._is_peer
        )
        self._server = Server(loop, context, Router(ROUTES), guard)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """What it listens on, port 0 resolved."""
        return self._server.addresses

    def start(self) -> None:
        """Listen.

        Raises:
            BindError: an address cannot be had; then none is listened on
        """
        self._server.listen(endpoint(text) for text in self._settings.listen)
        mesh = self._mesh
        if mesh.enabled and (mesh.networks or (mesh.state and os.path.lexists(mesh.state))):
            self.mesh()

    async def stop(self) -> None:
        """Take leave of everybody: no new calls, streams ended, WebSockets closed with 1001."""
        self._logs.stop()
        await self._server.stop()
        leaving = [self._hub.stop()]
        if self._coordinator is not None:
            leaving.append(self._coordinator.stop())
        await asyncio.gather(*leaving)

    def mesh(self) -> Coordinator:
        """The mesh networks; a daemon that has none and is not asked for them loads nothing.

        Raises:
            Refused: they are switched off
        """
        if not self._mesh.enabled:
            raise Refused(404, "mesh_off", "The mesh is switched off: see [mesh] enabled.")
        if self._coordinator is None:
            from ..coordinator import Coordinator

            self._coordinator = Coordinator(
                self._loop,
                self._mesh,
                self._hub.seats,
                self._settings.read_timeout,
                self._hub.boot,
                self._ask,
            )
        return self._coordinator

    def _ask(self, device: str, done: Done) -> Inquiry:
        from ..wireguard import ask

        return ask(self._loop.dispatcher, device, done)

    def _is_peer(self, parts: Sequence[str], token: bytes) -> bool:
        return self._coordinator is not None and self._coordinator.is_peer(parts, token)
