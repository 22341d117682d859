"""A whole daemon in the test's own process, whose loop turns while the test waits."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from bifrost_lite.api.context import Change
from bifrost_lite.build import prepare
from bifrost_lite.daemon import Daemon
from bifrost_lite.dispatch import Dispatcher, Loop, make_dispatcher
from bifrost_lite.events import Data
from bifrost_lite.load import parse_config
from tests.e2e.daemon import DEFAULTS, Section, configuration
from tests.plane_kit import DEADLINE, Origin, Peer

T = TypeVar("T")


class House:
    """A running daemon; a context manager that stops it as a signal would.

    Args:
        path: of the file to be written; None for a daemon without a file
        selector: the kind of dispatcher; None for the best one
        sections: what differs from the defaults of the tests

    Attributes:
        daemon: it
        events: type and data of all that was published
        logged: the text of each entry
    """

    def __init__(
        self,
        path: Path | None = None,
        selector: type[Dispatcher] | None = None,
        **sections: Section,
    ) -> None:
        self.path = path
        self.sections: dict[str, Section] = dict(DEFAULTS)
        raw = self.write(**sections)
        self.loop = Loop(selector() if selector else make_dispatcher())
        asyncio.set_event_loop(self.loop)
        where = str(path) if path is not None else None
        self.daemon = Daemon(self.loop, prepare(parse_config(raw), where), where, "", None)
        self.events: list[tuple[str, Data]] = []
        self.logged: list[str] = []
        self._log = _Texts(self.logged)
        self._peers: list[Peer | Origin] = []

    def __enter__(self) -> House:
        publish = self.daemon.hub.publish

        def noted(kind: str, data: Data) -> None:
            self.events.append((kind, data))
            publish(kind, data)

        self.daemon.hub.publish = noted  # type: ignore[method-assign]
        self.daemon.plane.publish = noted
        logging.getLogger("bifrost").addHandler(self._log)
        self.daemon.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.run(self.daemon._stop())
            self.turn()
        finally:
            for peer in self._peers:
                peer.close()
            self.loop.close()
            asyncio.set_event_loop(None)
            logging.getLogger("bifrost").removeHandler(self._log)

    # Its configuration.

    def write(self, **sections: Section) -> bytes:
        """Write the file anew; whole sections replace those that were there."""
        self.sections |= sections
        text = configuration(self.sections)
        if self.path is not None:
            self.path.write_text(text, "utf-8")
        return text.encode()

    def reload(self, enforce: bool = False, **sections: Section) -> Change:
        """Change the file and put it in force."""
        self.write(**sections)
        return self.run(self.daemon.reloader.reload(enforce))

    def preview(self, **sections: Section) -> Change:
        """What other sections would do."""
        text = configuration({**self.sections, **sections})
        return self.run(self.daemon.reloader.preview(text.encode()))

    # Its time.

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Turn until `work` is done."""
        return self.loop.run_until_complete(asyncio.wait_for(work, DEADLINE))

    def turn(self) -> None:
        """Work on all that has come."""

        async def turns() -> None:
            for _ in range(8):
                await asyncio.sleep(0)

        self.run(turns())

    def until(self, condition: Callable[[], T]) -> T:
        """Turn until something is true, and answer it."""
        end = time.monotonic() + DEADLINE
        while not (result := condition()):
            assert time.monotonic() < end, "waited too long"
            self.run(asyncio.sleep(0.001))
        return result

    # Who takes part.

    def origin(self) -> Origin:
        """A target."""
        origin = Origin()
        self._peers.append(origin)
        return origin

    def connect(self, listener: int = 0) -> Peer:
        """A client whose session stands."""
        plane = self.daemon.plane
        at, before = plane.listeners[listener], len(plane.sessions)
        peer = Peer(socket.create_connection((at.address, at.port), DEADLINE))
        self._peers.append(peer)
        self.until(lambda: len(plane.sessions) > before)
        return peer

    def tunnel(self, target: str) -> Peer:
        """A client with a tunnel that stands."""
        connections = self.daemon.plane.connections
        before = len(connections)
        client = self.connect().send(f"CONNECT {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        self.until(lambda: len(connections) > before)
        client.head()
        return client

    def told(self, kind: str) -> list[Data]:
        """The data of all events of one type."""
        return [data for type, data in self.events if type == kind]


class _Texts(logging.Handler):
    """Keeps the text of each entry."""

    def __init__(self, texts: list[str]) -> None:
        super().__init__(logging.INFO)
        self.texts = texts

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
