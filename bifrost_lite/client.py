"""The client side of the control port: one call, the event stream, the log stream.

Blocking sockets and a deadline on every wait. What answers may be anything that sits on the
port, so its bytes are read as strictly as a stranger's.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from select import POLLIN, poll
from time import monotonic
from typing import TYPE_CHECKING

import msgspec

from .errors import BifrostError, ConfigError, Fault, ProtocolError, Reason
from .target import Target, parse_authority
from .wire import chunked, http1

if TYPE_CHECKING:
    from websockets.client import ClientProtocol

DEFAULT_URL = "http://127.0.0.1:7082"
CONFIG_FILES = ("/etc/bifrost/bifrost.toml", "/var/etc/bifrost.toml")

PATIENCE = 10.0  # seconds for a connection, and for a whole answer
PING = 25.0  # seconds between text pings; the page of Bifrost says 30, the daemon allows 60
SILENCE = 60.0  # seconds without a byte after which a stream counts as dead
BODY_LIMIT = 16 * 1024 * 1024  # bytes of an answer; ten thousand requests take 5 MiB
MESSAGE_LIMIT = 1024 * 1024  # bytes of an event or a log entry
READ = 64 * 1024


class ClientError(BifrostError):
    """A command cannot do its work; the text says why."""


class NotRunning(ClientError):
    """Nothing listens where the daemon should."""


class Rejected(ClientError):
    """The daemon refused a configuration; `faults` lists all that is wrong with it."""

    def __init__(self, message: str, faults: list[Fault]) -> None:
        super().__init__(message)
        self.faults = faults


class _ErrorBody(msgspec.Struct):
    error: str = ""
    message: str = ""
    errors: list[_FaultBody] = []


class _FaultBody(msgspec.Struct):
    section: str = ""
    field: str = ""
    message: str = ""
    line: int = 0


class Daemon:
    """Where a daemon answers.

    Args:
        url: ``http://HOST:PORT``, with or without a path in front of ``/api``
        token: its token, "" for none

    Raises:
        ClientError: the address or the token cannot be

    Attributes:
        output: descriptor of what streams are written to; they end when its reader leaves,
            rather than with the next message. -1 for none
    """

    def __init__(self, url: str, token: str = "") -> None:
        scheme, _, rest = url.partition("://")
        authority, _, path = rest.partition("/")
        if scheme.lower() != "http":
            raise ClientError(f"the address must begin with http://, got {ascii(url)}")
        try:
            self.target: Target = parse_authority(authority.encode("utf-8", "surrogateescape"), 80)
        except ProtocolError as error:
            raise ClientError(f"{ascii(url)} is no address: {error}") from None
        self._prefix = f"/{path.rstrip('/')}" if path else ""
        # Both stand in a request head, where a line break would begin another field.
        if not all(text.isascii() and text.isprintable() for text in (path, token)):
            raise ClientError("address and token may hold visible ASCII characters only")
        if "?" in path or "#" in path:
            raise ClientError(f"the address takes no query, got {ascii(url)}")
        self._token = token
        self.output = -1

    def __str__(self) -> str:
        return f"http://{self.target}{self._prefix}"

    def call(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        body: object = None,
        patience: float = 0.0,
    ) -> bytes:
        """The body of the answer to one call.

        Args:
            method: e.g. ``GET``
            path: below ``/api/v1``, e.g. ``/status``
            query: its parameters
            body: what to send as JSON, None for nothing
            patience: seconds for the whole, 0 for `PATIENCE`

        Raises:
            NotRunning: nothing listens there
            Rejected: a configuration was refused
            ClientError: the call was refused, or the answer is none
        """
        fields, data = ["Accept: application/json"], b""
        if body is not None:
            data = msgspec.json.encode(body)
            fields += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
        with _Link(self, patience or PATIENCE) as link:
            response = link.ask(method, self._path(path, query), *fields, body=data)
            answer = b"".join(link.body(response, BODY_LIMIT))
        if response.status >= 300:
            raise self.refused(response.status, answer)
        return answer

    def logs(self, query: dict[str, str]) -> Iterator[bytes]:
        """Log entries as JSON, as they come, for ever.

        Raises:
            NotRunning: nothing listens there
            ClientError: the stream was refused, or ended
            BrokenPipeError: nobody reads `output` any more
        """
        with _Link(self, PATIENCE) as link:
            path = self._path("/logs/stream", query)
            response = link.ask("GET", path, "Accept: text/event-stream")
            if response.status != 200:
                body = b"".join(link.body(response, BODY_LIMIT))
                raise self.refused(response.status, body)
            lines = _Lines()
            for piece in link.body(response, None):
                yield from lines.feed(piece)
        raise ClientError("the daemon ended the stream")

    def events(self, query: dict[str, str], path: str = "/ws") -> Iterator[bytes]:
        """Events as JSON, as they come, for ever.

        Args:
            query: what is asked for
            path: of the WebSocket, below ``/api/v1``

        Raises:
            NotRunning: nothing listens there
            ClientError: the stream was refused, or ended
            BrokenPipeError: nobody reads `output` any more
        """
        from websockets.client import ClientProtocol
        from websockets.uri import parse_uri

        uri = parse_uri(f"ws://{self.target}{self._path(path, query)}")
        protocol = ClientProtocol(uri, max_size=MESSAGE_LIMIT)
        request = protocol.connect()
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        protocol.send_request(request)
        with _Link(self, PATIENCE) as link:
            yield from _follow(self, link, protocol)

    def _path(self, path: str, query: dict[str, str] | None) -> str:
        given = {key: text for key, text in (query or {}).items() if text}
        text = "&".join(f"{key}={quote(value)}" for key, value in given.items())
        return f"{self._prefix}/api/v1{path}" + (f"?{text}" if text else "")

    def head(self, method: str, path: str, *fields: str) -> bytes:
        """The head of a request."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.target}", *fields]
        if self._token:
            lines.append(f"Authorization: Bearer {self._token}")
        return "\r\n".join([*lines, "Connection: close", "", ""]).encode()

    def refused(self, status: int, body: bytes) -> ClientError:
        """The error for an answer that is no success, in the daemon's own words."""
        try:
            told = msgspec.json.decode(body, type=_ErrorBody)
        except msgspec.DecodeError:
            told = _ErrorBody(message=f"{self} answered {status}, not as this daemon does.")
        if told.errors:
            return Rejected(
                told.message[:500],
                [Fault(one.section, one.field, one.message, one.line) for one in told.errors],
            )
        hint = ""
        if status == 401:
            hint = " Give one by BIFROST_TOKEN or --token."
        return ClientError(f"{told.message[:500] or f'{self} answered {status}.'}{hint}")


def find(url: str, token: str, environment: dict[str, str]) -> Daemon:
    """The daemon that a command means.

    A token of a configuration goes to no other address than that configuration's own.

    Args:
        url: of the command line, "" for none
        token: of the command line, "" for none
        environment: may have BIFROST_URL and BIFROST_TOKEN
    """
    url = url or environment.get("BIFROST_URL", "")
    token = token or environment.get("BIFROST_TOKEN", "")
    if not url:
        found = _configured()
        url = found[0]
        token = token or found[1]
    return Daemon(url, token)


def _configured() -> tuple[str, str]:
    """Address and token of the first configuration that can be read, or the default."""
    from .load import load

    for path in CONFIG_FILES:
        try:
            with open(path, "rb"):
                control = load(path).control
        except (OSError, ConfigError):
            continue  # not here, not ours to read, or broken while the daemon runs its old one
        if control.listen:
            host, _, port = control.listen[0].rpartition(":")
            host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
            return f"http://{host}:{port}", control.token
    return DEFAULT_URL, ""


def quote(text: str) -> str:
    """Percent-encode everything but the unreserved characters of RFC 3986 section 2.3."""
    return "".join(
        chr(byte) if chr(byte).isalnum() and byte < 128 or byte in b"-._~" else f"%{byte:02X}"
        for byte in text.encode("utf-8", "surrogateescape")
    )


class _Link:
    """A connection to the daemon, with so many seconds for a whole answer."""

    __slots__ = ("_daemon", "_deadline", "_rest", "_sock")

    def __init__(self, daemon: Daemon, patience: float) -> None:
        self._daemon = daemon
        self._deadline = monotonic() + patience
        self._rest = b""
        try:
            # As bytes: a str name needs the idna codec, which a slim router lacks.
            self._sock = socket.create_connection(
                (daemon.target.host.encode(), daemon.target.port),  # type: ignore[arg-type]
                PATIENCE,
            )
        except OSError as error:
            raise NotRunning(
                f"nothing answers at {daemon} ({error.strerror or error}): is the daemon running?"
            ) from None

    def __enter__(self) -> _Link:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def send(self, data: bytes) -> None:
        """Send all of `data`."""
        self._sock.settimeout(PATIENCE)
        try:
            self._sock.sendall(data)
        except OSError as error:
            raise self._gone(error) from None

    def receive(self, seconds: float) -> bytes | None:
        """Some bytes, b"" at the end, None when nothing came within `seconds`."""
        ready = poll()
        ready.register(self._sock, POLLIN)
        if self._daemon.output >= 0:
            ready.register(self._daemon.output, 0)  # POLLERR and POLLHUP come unasked
        found = [number for number, _ in ready.poll(max(seconds, 0) * 1000)]
        if self._daemon.output in found:
            raise BrokenPipeError
        try:
            return self._sock.recv(READ) if found else None
        except OSError as error:
            raise self._gone(error) from None

    def _gone(self, error: OSError) -> ClientError:
        return ClientError(f"the daemon at {self._daemon} went away ({error.strerror or error})")

    def _more(self, seconds: float) -> bytes:
        data = self.receive(seconds)
        if data is None:
            raise ClientError(f"{self._daemon} does not answer")
        return data

    def ask(self, method: str, path: str, *fields: str, body: bytes = b"") -> http1.Response:
        """Send a request and read the head of its answer."""
        self.send(self._daemon.head(method, path, *fields) + body)
        buffer = b""
        try:
            while (end := http1.find_response_end(buffer)) < 0:
                data = self._more(self._deadline - monotonic())
                if not data:
                    raise ClientError(f"{self._daemon} closed the connection without an answer")
                buffer += data
            self._rest = buffer[end:]
            return http1.parse_response(buffer[:end], method.encode())
        except ProtocolError as error:
            raise ClientError(f"{self._daemon} does not speak HTTP: {error}") from None

    def body(self, response: http1.Response, limit: int | None) -> Iterator[bytes]:
        """The body, piece by piece.

        Args:
            response: its head
            limit: bytes that may come before the deadline; None for a stream without end
        """
        decoder = chunked.Decoder(Reason.BAD_RESPONSE) if response.chunked else None
        left = response.length
        size = 0
        data = self._rest
        while left is None or left > 0 or data:
            if data:
                try:
                    piece = decoder.feed(data) if decoder else data[:left]
                except ProtocolError as error:
                    raise ClientError(f"{self._daemon} breaks HTTP: {error}") from None
                size += len(piece)
                if limit is not None and size > limit:
                    raise ClientError(f"{self._daemon} sent more than {limit} bytes")
                yield piece
                if left is not None:
                    left -= len(piece)
                if (decoder and decoder.done) or left == 0:
                    return
            data = self._more(SILENCE if limit is None else self._deadline - monotonic())
            if not data:
                if limit is not None and (decoder or left is not None):
                    raise ClientError(f"{self._daemon} broke off its answer")
                return


class _Lines:
    """Takes an event stream apart; data lines only, https://html.spec.whatwg.org section 9.2."""

    __slots__ = ("_buffer", "_data", "_size")

    def __init__(self) -> None:
        self._buffer = b""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The data of the entries that are complete now."""
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
                self._size += len(line)
            elif not line and self._data:
                yield b"\n".join(self._data)
                self._data.clear()
                self._size = 0
        if len(self._buffer) + self._size > MESSAGE_LIMIT:
            raise ClientError("the daemon sent a log entry of more than 1 MiB")


def _follow(daemon: Daemon, link: _Link, protocol: ClientProtocol) -> Iterator[bytes]:
    """Text messages of a WebSocket, kept alive by the text pings that the daemon answers."""
    from websockets.exceptions import InvalidStatus
    from websockets.frames import Frame, Opcode
    from websockets.protocol import CONNECTING

    heard = monotonic()
    ping_at = heard + PING
    parts: list[bytes] = []
    while True:
        link.send(b"".join(protocol.data_to_send()))
        if protocol.close_rcvd is not None:
            close = protocol.close_rcvd
            raise ClientError(f"the daemon ended the stream: {close.code} {close.reason}".rstrip())
        if protocol.parser_exc is not None:
            raise ClientError(f"{daemon} breaks WebSocket: {protocol.parser_exc}")
        patience = PATIENCE if protocol.state is CONNECTING else SILENCE
        data = link.receive(min(ping_at, heard + patience) - monotonic())
        now = monotonic()
        if data:
            heard = now
            protocol.receive_data(data)
        elif data is not None:
            protocol.receive_eof()
        elif now >= heard + patience:
            raise ClientError(f"{daemon} does not answer")
        elif now >= ping_at:
            protocol.send_text(b"ping")
        if now >= ping_at:
            ping_at = now + PING
        for event in protocol.events_received():
            if isinstance(event, Frame) and event.opcode in (Opcode.TEXT, Opcode.CONT):
                parts.append(bytes(event.data))
                if event.fin:
                    message = b"".join(parts)
                    parts.clear()
                    if message != b"pong":
                        yield message
        failure = protocol.handshake_exc
        if isinstance(failure, InvalidStatus):
            response = failure.response
            raise daemon.refused(response.status_code, bytes(response.body or b""))
        if failure is not None:
            raise ClientError(f"{daemon} speaks no WebSocket: {failure}")
        if data == b"" and protocol.close_rcvd is None:
            raise ClientError(f"the daemon at {daemon} went away")
