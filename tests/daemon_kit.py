"""What the tests of `daemon` share: clients of a running one, and looks at it from outside."""

from __future__ import annotations

import json
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from websockets.sync.client import ClientConnection, connect

from tests.e2e.daemon import Daemon, Section, configuration
from tests.e2e.origin import TcpPeer
from tests.e2e.program import DEADLINE


class Refusal(NamedTuple):
    """How a request ended: its HTTP status, and the word of its reason ("" where granted)."""

    status: int
    word: str


def read_head(client: socket.socket) -> bytes:
    """Everything up to the end of an HTTP head, and no byte more."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        data = client.recv(1)
        assert data, f"closed after {head!r}"
        head += data
    return head


def ask(proxy: tuple[str, int], target: str) -> tuple[socket.socket, Refusal]:
    """Ask for a tunnel."""
    client = socket.create_connection(proxy, DEADLINE)
    try:
        client.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        head = read_head(client).decode()
    except BaseException:
        client.close()
        raise
    word = re.search(r"\r\nX-Bifrost-Reason: (\w+)\r\n", head)
    return client, Refusal(int(head.split(" ")[1]), word[1] if word else "")


def asked(proxy: tuple[str, int], target: str) -> Refusal:
    """What comes of asking for a tunnel."""
    client, refusal = ask(proxy, target)
    client.close()
    return refusal


def ask_for(client: socket.socket, url: str) -> None:
    """Ask for a page, on a connection to the proxy that may be kept."""
    client.sendall(f"GET {url} HTTP/1.1\r\nHost: {url.split('/')[2]}\r\n\r\n".encode())


@contextmanager
def echoing() -> Iterator[str]:
    """A target that sends back what it gets; gives its ``host:port``."""

    def serve(connection: socket.socket) -> None:
        with suppress(ConnectionError):
            while data := connection.recv(65536):
                connection.sendall(data)

    with TcpPeer(serve) as peer:
        yield f"{peer.host}:{peer.port}"


@contextmanager
def tunnel(proxy: tuple[str, int], target: str) -> Iterator[socket.socket]:
    """An open tunnel to what echoes."""
    client, refusal = ask(proxy, target)
    with client:
        assert refusal == (200, "")
        yield client


def speaks(client: socket.socket, word: bytes = b"hello") -> bool:
    """Whether a tunnel to what echoes does so."""
    client.sendall(word)
    return client.recv(len(word), socket.MSG_WAITALL) == word


def ended(client: socket.socket) -> bool:
    """Wait for the end of the stream; whether nothing came before it."""
    try:
        return not client.recv(1)
    except ConnectionResetError:
        return True


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def listening(port: int) -> str | None:
    """The inode of the socket that listens on this port of 127.0.0.1, None where none does."""
    for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]:
        words = line.split()
        if words[1] == f"0100007F:{port:04X}" and words[3] == "0A":
            return words[9]
    return None


class Watched:
    """A running daemon, its configuration file, and what it says of it by events.

    Args:
        daemon: the daemon, entered
        events: tells its events of configurations
    """

    def __init__(self, daemon: Daemon, events: ClientConnection) -> None:
        self.daemon = daemon
        self.sections = dict(daemon.settings)
        self._events = events

    def write(self, **sections: Section) -> None:
        """Write the file anew; whole sections replace those that were there."""
        self.sections |= sections
        # At once: half a file, and an empty one too, may be a right configuration.
        path = self.daemon.path.with_suffix(".new")
        path.write_text(configuration(self.sections), encoding="utf-8")
        path.replace(self.daemon.path)

    def hang_up(self) -> None:
        """Send SIGHUP."""
        self.daemon.process.send_signal(signal.SIGHUP)

    def event(self) -> tuple[str, dict[str, Any]]:
        """Type and data of the next event."""
        event = json.loads(self._events.recv(timeout=DEADLINE))
        return event["type"], event["data"]

    def reload(self, **sections: Section) -> list[str]:
        """Change the file and reload; answers which sections have changed."""
        self.write(**sections)
        self.hang_up()
        kind, data = self.event()
        assert kind == "config.reload", data
        changed: list[str] = data["changed_sections"]
        return changed

    def rejected(self) -> list[dict[str, str]]:
        """Reload a configuration that is refused; answers why."""
        self.hang_up()
        kind, data = self.event()
        assert kind == "config.rejected", data
        errors: list[dict[str, str]] = data["errors"]
        return errors


@contextmanager
def watched(**sections: Section) -> Iterator[Watched]:
    """A running daemon whose events are read."""
    types = "config.reload,config.rejected"
    with (
        Daemon(**sections) as daemon,
        connect(f"ws://{daemon.control}/api/v1/ws?types={types}") as events,
    ):
        yield Watched(daemon, events)
