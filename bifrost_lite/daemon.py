"""From settings to a running daemon, and back: build, apply others, stop.

Everything of the other floors is made here and handed what it needs; nothing below knows
this file.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Collection

from . import __version__, log
from .api import Control
from .build import Builder, Prepared, prepare
from .config import schema
from .dispatch import Loop, make_dispatcher
from .errors import BindError, Reason
from .health import Monitor
from .hub import Hub
from .listener import Listener, announce, swap
from .load import Parser, parse_config
from .netlink import OwnAddresses
from .plane import Plane
from .records import Finished
from .reload import Reloader
from .resolve import Resolver
from .ring import Ring
from .sse import Logs
from .target import endpoint_text
from .way import Way

logger = logging.getLogger("bifrost.daemon")


class Daemon:
    """One running daemon.

    Args:
        loop: its event loop
        prepared: what it is to be
        path: the file it came from, None for no file
        revision: of the file's content
        level: of the log, whatever a file says; None to go by the file
        parse: reads that content
    """

    def __init__(
        self,
        loop: Loop,
        prepared: Prepared,
        path: str | None,
        revision: str,
        level: str | None,
        parse: Parser = parse_config,
    ) -> None:
        settings = prepared.settings
        self.loop = loop
        self.level = level
        dispatcher = loop.dispatcher
        self.hub = Hub(loop, settings.control)
        self.logs = Logs(loop, settings.log.ring, settings.control.max_subscribers)
        self.log_handler = log.start(
            self.logs, level or settings.log.level, loop.call_soon_threadsafe
        )
        self.requests: Ring[Finished] = Ring(settings.log.requests)
        self.own = OwnAddresses(dispatcher)
        self.resolver = self._resolver(settings)
        self.monitor = Monitor(loop, dispatcher, self.hub.publish)
        self.builder = Builder(
            dispatcher, self.own.is_own, self.monitor.changed, self._cut, self.monitor.hurry
        )
        self.plane = Plane(
            dispatcher,
            self.builder.policy(prepared, self.resolver),
            self.hub.publish,
            self._access(settings).finished,
            settings.limits.handshake_timeout,
            settings.limits.idle_timeout,
        )
        self.reloader = Reloader(self, prepared, path, revision, parse)
        self.control = Control(
            loop,
            settings,
            self.plane,
            self.hub,
            self.logs,
            self.requests,
            self.own,
            self.reloader,
        )
        self.hub.stats = self.plane.stats
        self.hub.health = self.monitor.states
        self.stopping = False
        self._stopped = asyncio.Event()

    # Building.

    def _resolver(self, settings: schema.Settings) -> Resolver:
        resolver = settings.resolver
        return Resolver(
            self.loop.dispatcher,
            mode=resolver.mode,
            servers=resolver.servers,
            timeout=resolver.timeout,
        )

    def _access(self, settings: schema.Settings) -> log.Access:
        return log.Access(
            self.logs if settings.log.access else None, self.requests, settings.log.access_syslog
        )

    def _note_ports(self) -> None:
        """Nobody reaches the proxy or its control through the proxy itself."""
        self.builder.ports = frozenset(
            [listener.port for listener in self.plane.listeners]
            + [port for _, port in self.control.addresses]
        )

    def _cut(self, way: Way) -> None:
        """Its device is gone, and no byte will come through any more."""
        self.plane.close_carried(way, Reason.DEVICE_ABSENT)

    # Running.

    def start(self) -> None:
        """Listen.

        Raises:
            BindError: an address cannot be had; nothing is left open
        """
        settings = self.reloader.settings
        for listen in settings.listen:
            Listener(
                self.plane, listen.name, listen.address, listen.port, listen.protocol,
                listen.auth, listen.udp,
            )  # fmt: skip
        self.control.start()
        self._note_ports()
        self.monitor.adopt(self.plane.policy.backends, settings.backends)
        for listener in self.plane.listeners:
            announce(listener)
        for address, port in self.control.addresses:
            logger.info(f"listening: control {endpoint_text(address, port)}")
        if os.geteuid() == 0:
            logger.warning("running as root: give the daemon a user of its own")
        logger.info("ready: bifrost-lite %s, pid %d", __version__, os.getpid())

    async def serve(self) -> None:
        """Listen and serve until a signal says stop.

        Raises:
            BindError: an address cannot be had
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self._on_stop, number)
        self.loop.add_signal_handler(signal.SIGHUP, self.reloader.on_signal)
        try:
            self.start()
        except BindError:
            await self._stop()
            raise
        # What lives now lives for ever: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000, 50, 100)  # a connection leaves no ring of references
        await self._stopped.wait()
        await self._stop()

    def _on_stop(self, number: signal.Signals) -> None:
        """SIGTERM lets connections end; SIGINT, or a second signal, does not wait."""
        if self.stopping or number == signal.SIGINT or not self.plane.sessions:
            self._stopped.set()
        elif self.reloader.settings.graceful_period:
            self.loop.call_later(self.reloader.settings.graceful_period, self._stopped.set)
            self.plane.drained = self._stopped.set
        else:
            self._stopped.set()
        if not self.stopping:
            self.stopping = True
            logger.info("stopping, %d connections", len(self.plane.connections))
            for listener in list(self.plane.listeners):
                listener.close()
            self.plane.close_idle()

    async def _stop(self) -> None:
        for listener in list(self.plane.listeners):
            listener.close()
        self.plane.close_all(Reason.SHUTDOWN)
        self.stopping = True
        await self.reloader.close()
        await self.control.stop()
        self.monitor.close()
        self.builder.retire(self.plane.policy, None)
        self.builder.close()
        self.resolver.close()
        self.own.close()
        logger.info("stopped")
        log.stop(self.log_handler)

    # Another configuration.

    def apply(self, prepared: Prepared, changed: Collection[str]) -> None:
        """Put it in force, whole or not at all.

        Args:
            prepared: it
            changed: the sections that differ from the present one

        Raises:
            BindError: a new listener cannot have its address; nothing has changed
        """
        settings, plane, old = prepared.settings, self.plane, self.plane.policy
        resolver = self._resolver(settings) if "resolver" in changed else self.resolver
        policy = self.builder.policy(prepared, resolver, old, self.reloader.settings)
        if "listen" in changed:
            try:
                swap(plane, settings.listen)
            except BindError:
                self.builder.retire(policy, old)
                if resolver is not self.resolver:
                    resolver.close()
                raise
            self._note_ports()
        plane.policy = policy
        plane.handshake.seconds = settings.limits.handshake_timeout
        plane.idle.seconds = settings.limits.idle_timeout / 4
        self.builder.retire(old, policy)
        self.monitor.adopt(policy.backends, settings.backends)
        if resolver is not self.resolver:
            self.resolver.retire()
            self.resolver = resolver
        log.set_level(self.level or settings.log.level)
        self.logs.ring.resize(settings.log.ring)
        self.requests.resize(settings.log.requests)
        plane.finished = self._access(settings).finished


def run(
    settings: schema.Settings,
    path: str | None,
    level: str | None = None,
    revision: str = "",
    parse: Parser = parse_config,
) -> int:
    """Run the daemon in the foreground until a signal ends it.

    Args:
        settings: what it is to be
        path: the file they came from, for reloads; None without one
        level: of the log, over what the settings say, for reloads too
        revision: of that file's content
        parse: reads that content

    Returns:
        the exit status, 0

    Raises:
        ConfigError: this machine cannot do what they ask for
        BindError: an address cannot be had
    """
    prepared = prepare(settings, path)
    loop = Loop(make_dispatcher())
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(Daemon(loop, prepared, path, revision, level, parse).serve())
        # The handlers go with the loop, and a signal more must not kill what ends by itself.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
    finally:
        loop.close()
    return 0
