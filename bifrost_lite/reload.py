"""A new configuration for a running daemon: read and build aside, then swap whole.

SIGHUP, `POST config/reload` and `bifrost-lite reload` all come here, one after another. What
takes long happens in a thread; the loop pays for the swap alone. A fault anywhere leaves
everything as it was.
"""

from __future__ import annotations

import asyncio
import logging
from time import time
from typing import TYPE_CHECKING

from msgspec.structs import fields

from .api.context import Change, in_thread
from .build import Prepared, prepare
from .config import schema
from .config.schema import RESTART_SECTIONS
from .errors import BindError, ConfigError, Fault, Reason
from .events import ConfigChange, ConfigFault, ConfigRejected
from .judge import DENY, MOVE, Judge
from .load import Parser, parse_config, read_file, revision
from .session import Session

if TYPE_CHECKING:
    from .daemon import Daemon
    from .plane import Carried
    from .store import Store

log = logging.getLogger("bifrost.daemon")

# Those that may forbid a connection, or send it another way.
RULE_SECTIONS = frozenset(("access", "backends", "listen", "routes", "users"))
PATIENCE = 30.0  # seconds to wait for other reloads
SLICE = 200  # connections judged before others have their turn


class Reloader:
    """Swaps configurations; see `api.context.House`.

    Args:
        daemon: whose
        prepared: the configuration of the start
        path: its file, None without one
        revision: of the file's content
        parse: reads that content

    Attributes:
        born: the settings of the start
        rejected: faults of the last attempt, none where it went well
        loads: how many attempts went well, and how many did not
        loaded: Unix time of the start, or of the last one that did
    """

    def __init__(
        self,
        daemon: Daemon,
        prepared: Prepared,
        path: str | None,
        revision: str,
        parse: Parser = parse_config,
    ) -> None:
        self.daemon = daemon
        self.prepared = prepared
        self.path = path
        self.revision = revision
        self.parse = parse
        self.born = prepared.settings
        self.rejected: list[ConfigFault] = []
        self.loads = {True: 0, False: 0}
        self.loaded = time()
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._again = False

    @property
    def settings(self) -> schema.Settings:
        """Those in force."""
        return self.prepared.settings

    @property
    def store(self) -> Store | None:
        """The file, to be edited; None without one."""
        from .store import Store  # who edits nothing needs none

        return Store(self.path) if self.path is not None else None

    def guard(self, packed: bytes, port: int) -> Reason | None:
        """See `api.context.House`."""
        return self.daemon.builder.guard(self.settings.access.allow_local)(packed, port)

    def on_signal(self) -> None:
        """SIGHUP: reload; any number of signals during a reload make one more."""
        self._again = True
        if self._task is None and not self.daemon.stopping:
            self._task = self.daemon.loop.create_task(self._on_signal(), name="reload")

    async def _on_signal(self) -> None:
        try:
            while self._again and not self.daemon.stopping:
                self._again = False
                if self.path is None:
                    log.warning("nothing to reload: the daemon was started without a file")
                    continue
                try:
                    await self.reload()
                except (ConfigError, BindError):
                    continue  # has been told
                except Exception:
                    log.exception("the reload failed")
        finally:
            self._task = None

    async def close(self) -> None:
        """The daemon is stopping: wait until what a signal began has seen that."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=PATIENCE)

    async def reload(self, enforce: bool = False) -> Change:
        """See `api.context.House`."""
        await self._turn()
        try:
            try:
                prepared, found = await in_thread(self._read)
                if self.daemon.stopping:  # it would listen again
                    raise ConfigError([Fault("", "", "the daemon is stopping")])
                change = self._swap(prepared)
            except (ConfigError, BindError) as error:
                self._reject(error)
                raise
            self.revision = found
            self.rejected = []
            self.loads[True] += 1
            self.loaded = time()
            return await self._judge_all(prepared, change, enforce)
        finally:
            self._lock.release()

    async def _turn(self) -> None:
        """Wait for other reloads to end.

        Raises:
            ConfigError: they take too long
        """
        try:
            await asyncio.wait_for(self._lock.acquire(), PATIENCE)
        except asyncio.TimeoutError:
            raise ConfigError([Fault("", "", "another reload takes too long")]) from None

    async def preview(self, text: bytes) -> Change:
        """See `api.context.House`."""
        prepared = await in_thread(lambda: prepare(parse_config(text), self.path))
        changed = self._changed(prepared)
        change = Change(changed, self._restart(prepared), 0, 0, 0, 0)
        return await self._judge_all(prepared, change, False)

    # Reading, in a thread.

    def _read(self) -> tuple[Prepared, str]:
        assert self.path is not None
        raw = read_file(self.path)
        return self._parse(raw), revision(raw)

    def _parse(self, raw: bytes) -> Prepared:
        return prepare(self.parse(raw), self.path)

    # Swapping.

    def _changed(self, prepared: Prepared) -> list[str]:
        """The sections that differ from those in force; a list is part of the routes."""
        settings, old = prepared.settings, self.settings
        return [
            field.name
            for field in fields(settings)
            if getattr(settings, field.name) != getattr(old, field.name)
            or (field.name == "routes" and prepared.lists != self.prepared.lists)
        ]

    def _restart(self, prepared: Prepared) -> bool:
        """Whether something differs from what this process runs with, and a reload leaves."""
        return any(
            getattr(prepared.settings, section) != getattr(self.born, section)
            for section in RESTART_SECTIONS
        )

    def _swap(self, prepared: Prepared) -> Change:
        """Put a configuration in force.

        Raises:
            BindError: a new listener cannot have its address; nothing has changed
        """
        daemon = self.daemon
        changed = self._changed(prepared)
        daemon.apply(prepared, changed)
        self.prepared = prepared
        restart = self._restart(prepared)
        log.info("configuration reloaded: %s", ", ".join(changed) or "nothing changed")
        if restart:
            log.warning("the daemon has to be restarted for some of the configuration")
        daemon.hub.publish("config.reload", ConfigChange(changed, restart))
        return Change(changed, restart, 0, 0, 0, 0)

    def _reject(self, error: ConfigError | BindError) -> None:
        """Tell every fault to the log and the watchers."""
        if isinstance(error, ConfigError):
            told = [ConfigFault(f.section, f.field, f.message) for f in error.faults]
            texts = [str(fault) for fault in error.faults]
        else:
            told, texts = [ConfigFault("listen", "", str(error))], [str(error)]
        for text in texts:
            log.error("configuration rejected: %s", text)
        self.rejected = told
        self.loads[False] += 1
        self.daemon.hub.publish("config.rejected", ConfigRejected(told))

    async def _judge_all(self, prepared: Prepared, change: Change, enforce: bool) -> Change:
        """Count what the rules would do to the connections that live; with `enforce` close
        those that they deny, those being made too, and clients that may not be here at all."""
        daemon = self.daemon
        plane = daemon.plane
        sessions: list[Carried] = list(plane.connections.values())
        if enforce:
            sessions += [s for s in plane.sessions if isinstance(s, Session) and s.dialling]
        moved = denied = closed = 0
        if RULE_SECTIONS & {*change.changed} or enforce:
            judge = Judge(
                prepared.settings,
                prepared.router,
                daemon.builder.guard(prepared.settings.access.allow_local),
            )
            for number, session in enumerate(sessions):
                if number % SLICE == SLICE - 1:
                    await asyncio.sleep(0)
                dialling = isinstance(session, Session) and session.dialling
                if session.id not in plane.connections and not dialling:
                    continue  # over meanwhile
                verdict = judge.verdict(session)
                moved += verdict == MOVE
                denied += verdict == DENY
                if enforce and verdict == DENY:
                    closed += 1
                    session.close(Reason.ENFORCED)
        for client in list(plane.sessions) if enforce else ():
            if not client.welcome:
                client.close(Reason.ENFORCED)  # it may have asked for nothing yet, or no more
        if closed:
            log.info("the new rules closed %d connections", closed)
        kept = len(plane.connections)
        return change._replace(kept=kept, moved=moved, denied=denied, closed=closed)
