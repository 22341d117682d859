"""A control plane of its own in a thread, on a stand-in for the data plane."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec

from bifrost_lite.api import Control
from bifrost_lite.api.context import Change
from bifrost_lite.backends.base import Backend
from bifrost_lite.config.schema import Control as ControlSettings
from bifrost_lite.config.schema import Settings
from bifrost_lite.dispatch import Dispatcher, Loop, make_dispatcher
from bifrost_lite.errors import BindError, ConfigError, Reason
from bifrost_lite.events import (
    BackendHealth,
    ConfigChange,
    ConfigFault,
    ConfigRejected,
    ConnectionNew,
    Data,
)
from bifrost_lite.hub import Hub
from bifrost_lite.load import parse_config, read_file, revision
from bifrost_lite.records import Finished
from bifrost_lite.ring import Ring
from bifrost_lite.route import Router
from bifrost_lite.sse import Logs
from bifrost_lite.store import Store

T = TypeVar("T")
SOON = 10.0  # seconds in which what a test waits for must happen
DIRECT = BackendHealth("direct", True, "up", "not checked", "2026-01-01T00:00:00Z")


class FakeSession(msgspec.Struct):
    """A connection of the data plane, as the control plane sees it."""

    plane: FakePlane
    id: int
    protocol: str = "CONNECT"
    host: str = "api.example.com:443"
    backend: str = "direct"
    route: str = "default"
    client_ip: str = "192.168.1.100"
    client_port: int = 40000
    started: float = 0.0
    bytes_sent: int = 0
    bytes_received: int = 0

    def close(self, reason: Reason) -> None:
        del self.plane.connections[self.id]
        self.plane.closed.append((self.id, reason))


class FakeListener(msgspec.Struct):
    """A listener of the data plane."""

    name: str = "http"
    address: str = "127.0.0.1"
    port: int = 7080
    protocol: str = "auto"
    open: bool = True


class FakePolicy:
    """The rules in force, as the control plane sees them."""

    denied: frozenset[bytes] = frozenset()

    def admits(self, client: bytes) -> bool:
        return client not in self.denied

    def __init__(self) -> None:
        self.router = Router(())
        self.backends: dict[str, Backend] = {}


class FakeHouse:
    """The configuration, as the control plane sees it; a test may put its own in the place."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.path: str | None = None
        self.store: Store | None = None
        self.revision = ""
        self.rejected: Sequence[ConfigFault] = ()
        self.loads = {True: 2, False: 1}
        self.loaded = 1705312800.0
        self.reloads: list[bool] = []
        self.change = Change([], False, 0, 0, 0, 0)
        self.fault: Exception | None = None
        self.forbidden: frozenset[bytes] = frozenset()

    def guard(self, packed: bytes, port: int) -> Reason | None:
        return Reason.TARGET_DENIED if packed in self.forbidden else None

    async def reload(self, enforce: bool = False) -> Change:
        self.reloads.append(enforce)
        if self.fault is not None:
            raise self.fault
        return self.change

    async def preview(self, text: bytes) -> Change:
        if self.fault is not None:
            raise self.fault
        return self.change


class FileHouse(FakeHouse):
    """A configuration in a file that is really read and written; in force it is at once.

    Attributes:
        fault: by what the next reloads fail
    """

    def __init__(self, path: str, publish: Callable[[str, Data], None]) -> None:
        raw = read_file(path)
        super().__init__(parse_config(raw))
        self.path = path
        self.store = Store(path)
        self.revision = revision(raw)
        self.publish = publish

    async def reload(self, enforce: bool = False) -> Change:
        self.reloads.append(enforce)
        try:
            raw = read_file(str(self.path))
            change = await self.preview(raw)
            if self.fault is not None:
                raise self.fault
        except (ConfigError, BindError) as error:
            self.publish("config.rejected", ConfigRejected([ConfigFault("", "", str(error))]))
            raise
        self.settings, self.revision = parse_config(raw), revision(raw)
        self.publish("config.reload", ConfigChange(change.changed, change.restart))
        return change

    async def preview(self, text: bytes) -> Change:
        new, old = parse_config(text), self.settings
        keys = Settings.__struct_fields__
        changed = [key for key in keys if getattr(new, key) != getattr(old, key)]
        return self.change._replace(changed=changed, restart="control" in changed)


class FakePlane:
    """The data plane, as the control plane sees it."""

    def __init__(self) -> None:
        self.policy = FakePolicy()
        self.connections: dict[int, FakeSession] = {}
        self.closed: list[tuple[int, Reason]] = []
        self.listeners = [FakeListener()]
        self.counters = (25, 5000, 104857600, 209715200)
        self.by_protocol = {"HTTP": 4000, "CONNECT": 990, "SOCKS5": 10, "SOCKS4": 0}
        self.refused = 0
        self.dropped = 0
        self.failures: dict[str, int] = {}

    def stats(self) -> tuple[int, int, int, int]:
        return self.counters


class Own:
    """This machine's addresses."""

    def is_own(self, packed: bytes) -> bool:
        return packed == socket.inet_aton("192.168.1.1")


class Daemon:
    """A running control plane.

    Attributes:
        port: of its first address
        plane, hub, logs, requests, house, control: its parts; touch them through `do`
    """

    def __init__(self, settings: Settings, dispatcher: Dispatcher, path: str | None) -> None:
        self.loop = Loop(dispatcher)
        self.plane = FakePlane()
        self.hub = Hub(self.loop, settings.control)
        self.hub.stats = self.plane.stats
        self.hub.health = lambda: [DIRECT]
        self.logs = Logs(self.loop, settings.log.ring, settings.control.max_subscribers)
        self.requests: Ring[Finished] = Ring(settings.log.requests)
        self.house = FileHouse(path, self.hub.publish) if path else FakeHouse(settings)
        self.control = Control(
            self.loop, settings, self.plane, self.hub, self.logs, self.requests, Own(), self.house
        )
        try:
            self.control.start()
        except BaseException:
            self.loop.close()
            raise
        self.port = self.control.addresses[0][1]
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def do(self, function: Callable[..., T], *args: Any) -> T:
        """Call on the loop's thread; answers the result."""
        done = threading.Event()
        result: list[T] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                result.append(function(*args))
            except BaseException as error:
                errors.append(error)
            done.set()

        self.loop.call_soon_threadsafe(run)
        assert done.wait(SOON)
        if errors:
            raise errors[0]
        return result[0]

    def publish(self, count: int = 1, host: str = "api.example.com:443", **keys: Any) -> None:
        """Publish `count` events `connection.new`."""

        def publish() -> None:
            for _ in range(count):
                self.hub.publish("connection.new", new(host, **keys))

        self.do(publish)

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds on the loop's thread."""
        deadline = time.monotonic() + SOON
        while not self.do(condition):
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.005)

    def timers(self) -> list[str]:
        """Timers that are armed."""
        scheduled = self.loop._scheduled  # type: ignore[attr-defined]
        return self.do(lambda: [repr(t) for t in scheduled if not t.cancelled()])

    def stop(self) -> None:
        """Stop, and hold that nothing is left."""
        stopping = asyncio.run_coroutine_threadsafe(self.control.stop(), self.loop)
        stopping.result(SOON)
        self.wait(lambda: len(asyncio.all_tasks(self.loop)) == 0)
        left = self.timers()
        left += self.do(lambda: [repr(k) for k in self.loop.dispatcher.get_map().values()][1:])
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(SOON)
        self.loop.close()
        assert not left, f"left behind: {left}"

    # Clients.

    def connect(self) -> socket.socket:
        """A raw connection, with a deadline on everything."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=SOON)

    def raw(self, request: bytes) -> bytes:
        """All that the daemon answers to these bytes until it closes."""
        with self.connect() as sock:
            sock.sendall(request)
            return read_all(sock)

    def get(
        self, path: str, *headers: str, method: str = "GET", body: bytes = b""
    ) -> Answer:
        """One request with ``Connection: close``."""
        fields = list(headers)
        if not any(field.lower().startswith("host:") for field in fields):
            fields.insert(0, f"Host: 127.0.0.1:{self.port}")
        if body:
            fields.append(f"Content-Length: {len(body)}")
        head = "\r\n".join((f"{method} {path} HTTP/1.1", *fields, "Connection: close", "\r\n"))
        return Answer(self.raw(head.encode("latin-1") + body))

    def send(self, method: str, path: str, document: object, *headers: str) -> Answer:
        """The same with a body of JSON."""
        body = json.dumps(document).encode()
        return self.get(path, "Content-Type: application/json", *headers, method=method, body=body)


class Answer:
    """A parsed HTTP answer."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split(" ")[1]) if lines[0] else 0
        self.headers: dict[str, str] = {}
        for line in lines[1:]:
            name, _, value = line.partition(": ")
            assert name.lower() not in self.headers or name.lower() == "connection", name
            self.headers[name.lower()] = value

    @property
    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)


def new(host: str = "api.example.com:443", client_ip: str = "192.168.1.100") -> ConnectionNew:
    """The data of an event."""
    return ConnectionNew("CONNECT", host, "direct", client_ip, 1, "default")


def finished(number: int = 1, **keys: Any) -> Finished:
    """A finished request."""
    values: dict[str, Any] = {
        "id": number,
        "time": 1705312800.0,
        "protocol": "HTTP",
        "method": "GET",
        "url": "api.example.com/v1/users",
        "host": "api.example.com:80",
        "client_ip": "192.168.1.100",
        "backend": "direct",
        "route": "default",
        "status_code": 200,
        "duration_ms": 150,
        "bytes_sent": 10,
        "bytes_received": 2000,
        "error": "",
    }
    return Finished(**(values | keys))


def read_all(sock: socket.socket) -> bytes:
    """Everything until the end of the stream, or its reset."""
    parts = []
    while True:
        try:
            data = sock.recv(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            return b"".join(parts)
        parts.append(data)


def read_until(sock: socket.socket, mark: bytes) -> bytes:
    """Everything up to `mark` and what came with it."""
    data = b""
    while mark not in data:
        more = sock.recv(65536)
        assert more, f"closed after {data!r}"
        data += more
    return data


@contextmanager
def running(dispatcher: Dispatcher | None = None, **keys: Any) -> Iterator[Daemon]:
    """A control plane on a free port of 127.0.0.1; `keys` are of the section `control`.

    With `path` it shows and edits the configuration in that file, without being run by it.
    """
    log, path = keys.pop("log", Settings().log), keys.pop("path", None)
    mesh = keys.pop("mesh", Settings().mesh)
    control = ControlSettings(**({"listen": ("127.0.0.1:0",)} | keys))
    settings = Settings(control=control, log=log, mesh=mesh)
    daemon = Daemon(settings, dispatcher or make_dispatcher(), path)
    try:
        yield daemon
    finally:
        daemon.stop()
