"""The control server and its calls: a module for each kind, their routes in `ROUTES`."""

from __future__ import annotations

import asyncio
import socket
from typing import Protocol

from .. import __version__
from ..auth import Guard
from ..config.schema import Settings
from ..config.values import endpoint
from ..http import Server
from ..hub import Hub
from ..records import Finished
from ..rest import Router
from ..ring import Ring
from ..sse import Logs
from . import backends, config, connections, edits, events, logs, routes, status
from .context import Context, House, Plane

ROUTES = (
    *status.ROUTES,
    *connections.ROUTES,
    *logs.ROUTES,
    *events.ROUTES,
    *backends.ROUTES,
    *routes.ROUTES,
    *config.ROUTES,
    *edits.ROUTES,
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

    __slots__ = ("_hub", "_logs", "_server", "_settings")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: Settings,
        plane: Plane,
        hub: Hub,
        log: Logs,
        requests: Ring[Finished],
        own: OwnAddresses,
        house: House,
    ) -> None:
        self._settings = settings.control
        self._hub = hub
        self._logs = log
        context = Context(__version__, plane, hub, log, requests, lambda: self.addresses, house)
        guard = Guard(settings.control, own.is_own, socket.gethostname())
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

    async def stop(self) -> None:
        """Take leave of everybody: no new calls, streams ended, WebSockets closed with 1001."""
        self._logs.stop()
        await self._server.stop()
        await self._hub.stop()
