"""A control server that lies: the real daemon's answers, changed on their way to the page."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from tests.e2e.daemon import Daemon
from tests.e2e.program import DEADLINE

Json = object  # what `json.loads` answers
Twist = Callable[[Json], Json]
_HOP = frozenset(("connection", "content-length", "date", "transfer-encoding"))


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 64
    stand_in: StandIn

    def handle_error(self, request: object, client_address: object) -> None:
        """Browsers leave when they like."""


class StandIn:
    """Answers as the daemon does, its JSON twisted; events and log entries are the test's.

    Args:
        daemon: who is asked for files and answers
        twist: changes the JSON of every answer, event and entry

    Attributes:
        seen: method and path of every request
        greeting: the events that a watcher gets at once
        upgrades: whether WebSockets are let through
    """

    def __init__(self, daemon: Daemon, twist: Twist = lambda document: document) -> None:
        self.daemon = daemon
        self.twist = twist
        self.seen: list[tuple[str, str]] = []
        self.greeting: list[tuple[str, Mapping[str, Json]]] = []
        self.upgrades = True
        self._seq = 0
        self._changed = threading.Condition()
        self._connections: set[socket.socket] = set()
        self._watchers: set[_Handler] = set()
        self._followers: set[_Handler] = set()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.stand_in = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def origin(self) -> str:
        """Its web origin."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> StandIn:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._thread.join()

    def say(self, *events: tuple[str, Mapping[str, Json]]) -> None:
        """Tell all watchers events, type and data each; waits for one to be there."""
        frames = b"".join(self.frame(*event) for event in events)
        with self._changed:
            assert self._changed.wait_for(lambda: self._watchers, DEADLINE), "nobody watches"
            watchers = list(self._watchers)
        for watcher in watchers:
            watcher.send(frames)

    def log(self, *entries: Mapping[str, Json]) -> None:
        """Tell all followers of the log entries; waits for one to be there."""
        lines = "".join(f"data: {self.encode(entry)}\n\n" for entry in entries)
        with self._changed:
            assert self._changed.wait_for(lambda: self._followers, DEADLINE), "nobody follows"
            followers = list(self._followers)
        for follower in followers:
            follower.send(lines.encode())

    def encode(self, document: Json) -> str:
        """The JSON of a twisted document."""
        return json.dumps(self.twist(document))

    def frame(self, kind: str, data: Mapping[str, Json]) -> bytes:
        """An event as a WebSocket frame."""
        if kind not in ("stats.update", "events.lost"):
            self._seq += 1
        event = {"type": kind, "timestamp": "2024-01-15T10:00:00Z", "data": self.twist(data)}
        text = json.dumps({**event, "seq": self._seq})
        return Frame(Opcode.TEXT, text.encode()).serialize(mask=False)

    @contextmanager
    def joined(self, handler: _Handler, group: set[_Handler]) -> Iterator[None]:
        """Make the connection of `handler` one of `group` for the time of the body."""
        with self._changed:
            group.add(handler)
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                group.discard(handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = DEADLINE

    def setup(self) -> None:
        super().setup()
        self._sending = threading.Lock()
        self.server.stand_in._connections.add(self.connection)

    def finish(self) -> None:
        self.server.stand_in._connections.discard(self.connection)
        super().finish()

    def log_message(self, format: str, *args: object) -> None:
        """Silence."""

    def send(self, data: bytes) -> None:
        """Send to the page, from any thread; nothing where it has left."""
        with self._sending, suppress(OSError):
            self.connection.sendall(data)

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        self.server.stand_in.seen.append((self.command, path))
        if path == "/api/v1/ws" and self.server.stand_in.upgrades:
            self._watch()
        elif path == "/api/v1/ws":
            self.send_error(502)
        elif path == "/api/v1/logs/stream":
            self._follow()
        else:
            self._forward()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = _answer  # noqa: N815

    def _forward(self) -> None:
        stand_in = self.server.stand_in
        asked = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        upstream = http.client.HTTPConnection(*stand_in.daemon.control, timeout=DEADLINE)
        try:
            upstream.request(self.command, self.path, asked, dict(self.headers))
            answer = upstream.getresponse()
            content = answer.read()
        finally:
            upstream.close()
        if answer.headers.get_content_type() == "application/json":
            content = stand_in.encode(json.loads(content)).encode()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _watch(self) -> None:
        stand_in = self.server.stand_in
        protocol = ServerProtocol()
        head = [self.requestline, *(f"{k}: {v}" for k, v in self.headers.items()), "", ""]
        protocol.receive_data("\r\n".join(head).encode("latin-1"))
        (request,) = protocol.events_received()
        assert isinstance(request, Request)
        protocol.send_response(protocol.accept(request))
        self.close_connection = True
        with self._sending:
            first = b"".join(stand_in.frame(*event) for event in stand_in.greeting)
            self.connection.sendall(b"".join(protocol.data_to_send()) + first)
        with stand_in.joined(self, stand_in._watchers), suppress(OSError):
            while data := self.connection.recv(4096):
                protocol.receive_data(data)
                for frame in protocol.events_received():
                    if isinstance(frame, Frame) and frame.data == b"ping":
                        protocol.send_text(b"pong")
                pieces = protocol.data_to_send()
                self.send(b"".join(pieces))
                if pieces and not pieces[-1]:  # the end of the closing handshake
                    return

    def _follow(self) -> None:
        stand_in = self.server.stand_in
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.send(b'data: {"type":"connected"}\nretry: 2000\n\n')
        self.close_connection = True
        with stand_in.joined(self, stand_in._followers), suppress(OSError):
            self.connection.recv(1)
