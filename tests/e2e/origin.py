"""Targets for the proxy: an HTTP/1.1 origin with every habit, and plain TCP peers."""

from __future__ import annotations

import hashlib
import json
import random
import socket
import socketserver
import struct
import threading
from collections.abc import Callable
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

PEER_DEADLINE = 20.0  # seconds that a peer waits for anything


@cache
def body(size: int) -> bytes:
    """`size` bytes that look random and are always the same."""
    return random.Random(size).randbytes(size)


def sha256(data: bytes) -> str:
    """The digest of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def with_reset(connection: socket.socket) -> None:
    """Let the next close of `connection` be a TCP reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Seen(NamedTuple):
    """A request that arrived.

    Attributes:
        method: as sent
        path: the request target as sent
        fields: the header fields in order, names as sent
        client_port: tells connections apart
    """

    method: str
    path: str
    fields: list[tuple[str, str]]
    client_port: int

    def values(self, name: str) -> list[str]:
        """All values of the field `name`."""
        return [v for k, v in self.fields if k.lower() == name.lower()]


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True
    request_queue_size = 128
    origin: Origin

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Connections that break are part of the tests."""


class Origin:
    """An HTTP/1.1 server on loopback; a context manager.

    Paths (any method unless it says otherwise):
        /bytes/N      N bytes with Content-Length
        /chunked/N    N bytes, chunked, in pieces of many sizes
        /until/N      N bytes, HTTP/1.0, ended by the close
        /status/CODE  that status without a body (204, 304, ...)
        /echo         the digest and the length of the request's body, as JSON
        /mirror       the request's body
        /refuse       413 before the body is read, then close
        /early/N      says N bytes, sends half of them and closes
        /reset/N      says N bytes, sends half of them and resets
        /hold         answers when `release` is set
        /trickle/N    N bytes: the first half at once, the second when `release` is set
        /page/N       a page of N pictures that counts in its title those which loaded
        /picture/I    one of them
        /files/...    a file below `files`

    Args:
        host: the address to listen on
        files: the folder for /files
        port: 0 for one of the kernel's choice

    Attributes:
        seen: the requests that arrived
        release: what /hold and /trickle wait for; set at the end anyway
    """

    def __init__(self, host: str = "127.0.0.1", files: Path | None = None, port: int = 0) -> None:
        self.files = files
        self.seen: list[Seen] = []
        self.release = threading.Event()
        self._connections: set[socket.socket] = set()
        self._server = _Server((host, port), _Handler)
        self._server.origin = self
        self.host = host
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def authority(self) -> str:
        """host:port, IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def url(self, path: str = "/bytes/10", host: str | None = None) -> str:
        """The address of `path`, by another name of this server if `host` is given."""
        return f"http://{f'{host}:{self.port}' if host else self.authority}{path}"

    def __enter__(self) -> Origin:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.release.set()
        self._server.shutdown()
        for connection in list(self._connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # the peer was first
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = PEER_DEADLINE

    def setup(self) -> None:
        super().setup()
        self.server.origin._connections.add(self.connection)

    def finish(self) -> None:
        self.server.origin._connections.discard(self.connection)
        super().finish()

    def log_message(self, format: str, *args: object) -> None:
        """Silence."""

    def handle_expect_100(self) -> bool:
        # RFC 9110 section 10.1.1: a final status may come instead of 100.
        return self.path == "/refuse" or super().handle_expect_100()

    def _answer(self) -> None:
        origin = self.server.origin
        origin.seen.append(
            Seen(self.command, self.path, self.headers.items(), self.client_address[1])
        )
        name, _, rest = urlsplit(self.path).path.lstrip("/").partition("/")
        action = getattr(self, f"_do_{name}", None)
        if action is None:
            self._send(b"", 404)
        else:
            action(rest)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = _answer  # noqa: N815

    def _send(self, content: bytes, status: int = 200, kind: str = "text/plain") -> None:
        self._read_body()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _read_body(self) -> bytes:
        if self.__dict__.get("_body_of") is self.headers:
            return b""
        self._body_of = self.headers  # once for each request
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass  # trailer fields
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _do_bytes(self, size: str) -> None:
        self._send(body(int(size)), kind="application/octet-stream")

    def _do_chunked(self, size: str) -> None:
        self._read_body()
        content = body(int(size))
        sizes = random.Random(size)
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self.command == "HEAD":
            return
        while content:
            piece = content[: sizes.choice((1, 15, 16, 1000, 65537))]
            content = content[len(piece) :]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def _do_until(self, size: str) -> None:
        self._read_body()
        self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + body(int(size)))
        self.close_connection = True

    def _do_status(self, code: str) -> None:
        self._read_body()
        self.send_response_only(HTTPStatus(int(code)))
        if code == "304":
            # RFC 9110 section 8.6: the length that a GET would have had.
            self.send_header("Content-Length", "1000")
        self.end_headers()

    def _do_echo(self, _: str) -> None:
        content = self._read_body()
        answer = {"sha256": sha256(content), "length": len(content)}
        self._send(json.dumps(answer).encode(), kind="application/json")

    def _do_mirror(self, _: str) -> None:
        self._send(self._read_body(), kind="application/octet-stream")

    def _do_refuse(self, _: str) -> None:
        self.send_response(413)
        self.send_header("Content-Length", "0")
        self.send_header("Connection", "close")
        self.end_headers()

    def _half(self, size: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", size)
        self.end_headers()
        self.wfile.write(body(int(size))[: int(size) // 2])
        self.close_connection = True

    def _do_early(self, size: str) -> None:
        self._half(size)

    def _do_reset(self, size: str) -> None:
        self._half(size)
        with_reset(self.connection)
        # Only a close resets, and the server would shut down in order first.
        self.rfile.close()
        self.connection.close()

    def _do_hold(self, _: str) -> None:
        self.server.origin.release.wait(PEER_DEADLINE)
        self._send(b"released")

    def _do_trickle(self, size: str) -> None:
        self._half(size)
        self.wfile.flush()
        self.server.origin.release.wait(PEER_DEADLINE)
        self.wfile.write(body(int(size))[int(size) // 2 :])

    def _do_page(self, count: str) -> None:
        pictures = "".join(
            f'<img src="/picture/{i}" onload="document.title = Number(document.title) + 1">'
            for i in range(int(count))
        )
        head = '<!doctype html><title>0</title><link rel="icon" href="data:,">'
        self._send(f"{head}{pictures}".encode(), kind="text/html")

    def _do_picture(self, number: str) -> None:
        circle = f'<circle r="{number}"/>'
        self._send(
            f'<svg xmlns="http://www.w3.org/2000/svg">{circle}</svg>'.encode(),
            kind="image/svg+xml",
        )

    def _do_files(self, name: str) -> None:
        files = self.server.origin.files
        path = files / name if files else None
        if path is None or not path.is_file():
            self._send(b"", 404)
        else:
            self._send(path.read_bytes())


class TcpPeer:
    """A TCP server on loopback that runs `serve` in a thread for each connection.

    Leaving it waits for all of them and raises the first exception of theirs.
    """

    def __init__(self, serve: Callable[[socket.socket], None], host: str = "127.0.0.1") -> None:
        peer = self
        self._errors: list[Exception] = []

        class Handler(socketserver.BaseRequestHandler):
            request: socket.socket

            def handle(self) -> None:
                self.request.settimeout(PEER_DEADLINE)
                try:
                    serve(self.request)
                except Exception as error:
                    peer._errors.append(error)

        class Server(socketserver.ThreadingTCPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
            request_queue_size = 1024  # a burst of connections has room

        self._server = Server((host, 0), Handler)
        self.host = host
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> TcpPeer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        if kind is None and self._errors:
            raise self._errors[0]


def read_all(connection: socket.socket) -> bytes:
    """Everything until the peer ends its direction."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)
