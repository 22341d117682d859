"""From settings to a running daemon, and back: build, reload, stop.

Everything of the other floors is made here and handed what it needs; nothing below knows
this file.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
from time import time
from typing import Literal, cast

from msgspec.structs import fields, replace

from . import __version__, log
from .acl import is_special
from .api import Control
from .backends.base import Backend
from .backends.direct import Direct
from .config import schema
from .dial import Dialler
from .dispatch import Loop, make_dispatcher
from .errors import BindError, ConfigError, Reason
from .events import BackendHealth, ConfigChange, ConfigFault, ConfigRejected, rfc3339
from .hub import Hub
from .listener import Listener
from .load import load
from .netlink import OwnAddresses
from .plane import Plane, Policy
from .records import Finished
from .relay import PIPES
from .resolve import Resolver
from .ring import Ring
from .route import Router
from .sse import Logs
from .target import endpoint_text

logger = logging.getLogger("bifrost.daemon")

# Descriptors beside those of proxied connections: control clients, streams, sockets of the
# resolver, listeners, and room for a few dials that race several addresses.
SPARE_DESCRIPTORS = 192
# Sections whose change needs a new process.
RESTART_SECTIONS = frozenset(("source", "control", "mesh", "pac"))


class Daemon:
    """One running daemon.

    Args:
        loop: its event loop
        settings: what it is to be
        path: where the settings came from, None where from no file
        level: of the log, whatever the file says; None to go by the file
    """

    def __init__(
        self, loop: Loop, settings: schema.Settings, path: str | None, level: str | None
    ) -> None:
        self.loop = loop
        self.settings = settings = with_level(settings, level)
        self.born = settings
        self.path = path
        self.level = level
        self.started = rfc3339(time())
        dispatcher = loop.dispatcher
        self.hub = Hub(loop, settings.control)
        self.logs = Logs(loop, settings.log.ring, settings.control.max_subscribers)
        self.log_handler = log.start(self.logs, settings.log.level, loop.call_soon_threadsafe)
        self.requests: Ring[Finished] = Ring(settings.log.requests)
        self.own = OwnAddresses(dispatcher)
        self.resolver = self._resolver(settings)
        self.retired: list[Resolver] = []  # of earlier configurations, for look-ups under way
        self.plane = Plane(
            dispatcher,
            self._policy(settings, self.resolver),
            self.hub.publish,
            self._access(settings).finished,
            settings.limits.handshake_timeout,
            settings.limits.idle_timeout,
        )
        self.control = Control(
            loop, settings, self.plane, self.hub, self.logs, self.requests, self.own
        )
        self.hub.stats = self.plane.stats
        self.hub.health = self._health
        self.ports: frozenset[int] = frozenset()
        self._stopping = False
        self._stopped = asyncio.Event()
        self._reloading: asyncio.Task[None] | None = None
        self._reload_again = False

    # Building.

    def _resolver(self, settings: schema.Settings) -> Resolver:
        resolver = settings.resolver
        return Resolver(
            self.loop.dispatcher,
            mode=resolver.mode,
            servers=resolver.servers,
            timeout=resolver.timeout,
        )

    def _policy(self, settings: schema.Settings, resolver: Resolver) -> Policy:
        allow_local = settings.access.allow_local

        def guard(packed: bytes, port: int) -> Reason | None:
            if not is_special(packed) and not self.own.is_own(packed):
                return None
            if not allow_local:
                return Reason.TARGET_DENIED
            return Reason.LOOP if port in self.ports else None

        backends: dict[str, Backend] = {}
        for backend in settings.backends:
            assert isinstance(backend, schema.Direct)  # the others are refused by `load`
            dialler = Dialler(
                self.loop.dispatcher,
                resolver,
                guard,
                seconds=backend.connect_timeout,
                family=backend.family,
                source=backend.source,
            )
            backends[backend.name] = Direct(backend.name, dialler)
        limits = settings.limits
        return Policy(
            Router(settings.routes),
            backends,
            settings.access.allow,
            settings.access.deny,
            min(limits.max_connections, _descriptor_limit(limits.max_connections)),
            limits.max_connections_per_client,
            settings.http.via,
        )

    def _access(self, settings: schema.Settings) -> log.Access:
        return log.Access(
            self.logs if settings.log.access else None, self.requests, settings.log.access_syslog
        )

    def _note_ports(self) -> None:
        """Nobody reaches the proxy or its control through the proxy itself."""
        self.ports = frozenset(
            [listener.port for listener in self.plane.listeners]
            + [port for _, port in self.control.addresses]
        )

    def _health(self) -> list[BackendHealth]:
        """Nobody asked for checks of what this version can do: all is up since the start."""
        return [
            BackendHealth(backend.name, True, "up", "not checked", self.started)
            for backend in self.plane.policy.backends.values()
        ]

    # Running.

    def start(self) -> None:
        """Listen.

        Raises:
            BindError: an address cannot be had; nothing is left open
        """
        for listen in self.settings.listen:
            Listener(self.plane, listen.name, listen.address, listen.port, listen.protocol)
        self.control.start()
        self._note_ports()
        for listener in self.plane.listeners:
            _announce(listener)
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
        self.loop.add_signal_handler(signal.SIGHUP, self.reload)
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
        if self._stopping or number == signal.SIGINT or not self.plane.sessions:
            self._stopped.set()
        elif self.settings.graceful_period:
            self.loop.call_later(self.settings.graceful_period, self._stopped.set)
            self.plane.drained = self._stopped.set
        else:
            self._stopped.set()
        if not self._stopping:
            self._stopping = True
            logger.info("stopping, %d connections", len(self.plane.connections))
            for listener in list(self.plane.listeners):
                listener.close()
            self.plane.close_idle()

    async def _stop(self) -> None:
        for listener in list(self.plane.listeners):
            listener.close()
        self.plane.close_all(Reason.SHUTDOWN)
        await self.control.stop()
        for resolver in (self.resolver, *self.retired):
            resolver.close()
        self.own.close()
        logger.info("stopped")
        log.stop(self.log_handler)

    # Reloading.

    def reload(self) -> None:
        """Read the configuration again; requests during a reload make one more."""
        if self._stopping:
            return
        if self._reloading is not None:
            self._reload_again = True
            return
        self._reloading = self.loop.create_task(self._reload(), name="reload")

    async def _reload(self) -> None:
        try:
            while True:
                self._reload_again = False
                await self._reload_once()
                if not self._reload_again:
                    return
        except Exception:
            logger.exception("the reload failed")
        finally:
            self._reloading = None

    async def _reload_once(self) -> None:
        """Read and check in a thread, then swap: all or nothing."""
        if self.path is None:
            logger.warning("nothing to reload: the daemon was started without a file")
            return
        from concurrent.futures import ThreadPoolExecutor  # only now: threads cost memory

        try:
            with ThreadPoolExecutor(1) as pool:
                settings = await self.loop.run_in_executor(pool, load, self.path)
            if not self._stopping:
                self._swap(with_level(settings, self.level))
        except (ConfigError, BindError) as error:
            faults = error.faults if isinstance(error, ConfigError) else []
            texts = [str(fault) for fault in faults] or [str(error)]
            for text in texts:
                logger.error("configuration rejected: %s", text)
            told = [ConfigFault(f.section, f.field, f.message) for f in faults]
            self.hub.publish(
                "config.rejected", ConfigRejected(told or [ConfigFault("listen", "", str(error))])
            )

    def _swap(self, settings: schema.Settings) -> None:
        """Put new settings in force.

        Raises:
            BindError: a new listener cannot have its address; nothing has changed
        """
        old = self.settings
        changed = [
            field.name
            for field in fields(settings)
            if getattr(settings, field.name) != getattr(old, field.name)
        ]
        resolver = self._resolver(settings) if "resolver" in changed else self.resolver
        policy = self._policy(settings, resolver)
        if "listen" in changed:
            try:
                self._swap_listeners(settings)
            except BindError:
                if resolver is not self.resolver:
                    resolver.close()
                raise
            self._note_ports()
        plane = self.plane
        plane.policy = policy
        plane.handshake.seconds = settings.limits.handshake_timeout
        plane.idle.seconds = settings.limits.idle_timeout / 4
        if resolver is not self.resolver:
            # Look-ups under way end by themselves before that.
            self.loop.call_later(old.resolver.timeout + 1, self._retire, self.resolver)
            self.retired.append(self.resolver)
            self.resolver = resolver
        log.set_level(settings.log.level)
        self.logs.ring.resize(settings.log.ring)
        self.requests.resize(settings.log.requests)
        plane.finished = self._access(settings).finished
        self.settings = settings
        # Against what this process runs with, which a reload of these sections does not change.
        restart = any(
            getattr(settings, section) != getattr(self.born, section)
            for section in RESTART_SECTIONS
        )
        logger.info("configuration reloaded: %s", ", ".join(changed) or "nothing changed")
        self.hub.publish("config.reload", ConfigChange(changed, restart))

    def _retire(self, resolver: Resolver) -> None:
        self.retired.remove(resolver)
        resolver.close()

    def _swap_listeners(self, settings: schema.Settings) -> None:
        """Open what is new, then close what is gone; the rest goes on without a gap."""
        gone = list(self.plane.listeners)
        opened: list[Listener] = []
        kept: list[tuple[Listener, schema.Listen]] = []
        try:
            for listen in settings.listen:
                place = (listen.address, listen.port)
                same = (old for old in gone if (old.address, old.asked_port) == place)
                listener = next(same, None)
                if listener is not None:
                    gone.remove(listener)
                else:
                    listener = Listener(
                        self.plane, listen.name, listen.address, listen.port, listen.protocol
                    )
                    opened.append(listener)
                    _announce(listener)
                kept.append((listener, listen))
        except BindError:
            for listener in opened:
                listener.close()
            raise
        for listener in gone:
            listener.close()
        for listener, listen in kept:
            listener.name, listener.protocol = listen.name, listen.protocol


def _descriptor_limit(wanted: int) -> int:
    """Raise the soft limit of descriptors as far as `wanted` connections need and the hard
    limit lets, and answer how many connections fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = SPARE_DESCRIPTORS + 2 * PIPES
    need = 2 * wanted + spare
    if soft < need:
        soft = need if hard == resource.RLIM_INFINITY else min(need, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        except (OSError, ValueError):
            soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    fit = max(8, (soft - spare) // 2)
    if fit < wanted:
        logger.warning(
            "only %d of %d connections fit into %d file descriptors", fit, wanted, soft
        )
    return fit


def _announce(listener: Listener) -> None:
    """A whole sentence: entries of one form and many values count as repeats of each other."""
    where = endpoint_text(listener.address, listener.port)
    logger.info(f"listening: proxy {listener.name} {where}")


def with_level(settings: schema.Settings, level: str | None) -> schema.Settings:
    """The settings with another level of the log, which the command line asked for."""
    if level is None:
        return settings
    log_level = cast('Literal["debug", "info", "warn", "error"]', level)
    return replace(settings, log=replace(settings.log, level=log_level))


def run(settings: schema.Settings, path: str | None, level: str | None = None) -> int:
    """Run the daemon in the foreground until a signal ends it.

    Args:
        settings: what it is to be
        path: the file they came from, for reloads; None without one
        level: of the log, over what the settings say, for reloads too

    Returns:
        the exit status, 0

    Raises:
        BindError: an address cannot be had
    """
    loop = Loop(make_dispatcher())
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(Daemon(loop, settings, path, level).serve())
    finally:
        loop.close()
    return 0
