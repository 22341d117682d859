"""WebSocket clients that misbehave, and the clocks that watch them."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from bifrost_lite import fanout, websocket
from bifrost_lite.websocket import text_frame
from tests.control_fixtures import Answer, Daemon, read_until, running

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
TEXT, BINARY, CLOSE, PING, PONG, CONT = 1, 2, 8, 9, 10, 0


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with running() as daemon:
        yield daemon


def handshake(path: str = "/api/v1/ws", **replaced: str | None) -> bytes:
    """An upgrade request; `replaced` fields have underscores for dashes, None leaves one out."""
    fields: dict[str, str | None] = {
        "Host": "localhost",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
    }
    fields |= {name.replace("_", "-"): value for name, value in replaced.items()}
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    return "\r\n".join((f"GET {path} HTTP/1.1", *lines, "\r\n")).encode()


class Client:
    """A raw client."""

    def __init__(self, daemon: Daemon, path: str = "/api/v1/ws", receive: int = 0) -> None:
        self.sock = socket.socket()
        self.sock.settimeout(10)
        if receive:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        self.sock.connect(("127.0.0.1", daemon.port))
        self.sock.sendall(handshake(path))
        head, _, self.data = read_until(self.sock, b"\r\n\r\n").partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
        assert b"Sec-WebSocket-Extensions" not in head

    def close(self) -> None:
        self.sock.close()

    def send(self, opcode: int, payload: bytes = b"", fin: bool = True, mask: bool = True) -> None:
        self.sock.sendall(frame(opcode, payload, fin, mask))

    def _exactly(self, count: int) -> bytes:
        while len(self.data) < count:
            more = self.sock.recv(65536)
            if not more:
                raise EOFError(self.data)
            self.data += more
        taken, self.data = self.data[:count], self.data[count:]
        return taken

    def receive(self) -> tuple[int, bytes]:
        """The next frame: opcode and payload. Raises EOFError at the end."""
        first, second = self._exactly(2)
        assert first & 0x70 == 0
        assert second & 0x80 == 0, "a server masks nothing"
        length = second
        if second == 126:
            (length,) = struct.unpack("!H", self._exactly(2))
        elif second == 127:
            (length,) = struct.unpack("!Q", self._exactly(8))
        return first & 15, self._exactly(length)

    def until(self, wanted: int) -> bytes:
        """The payload of the next frame of that opcode."""
        while True:
            opcode, payload = self.receive()
            if opcode == wanted:
                return payload

    def closed_with(self) -> int:
        """The code of the close frame, after which nothing comes but the end."""
        (code,) = struct.unpack("!H", self.until(CLOSE)[:2])
        return int(code)

    def pong(self) -> bool:
        """Whether a text ping is answered, next but for events."""
        self.send(TEXT, b"ping")
        while True:
            opcode, payload = self.receive()
            assert opcode == TEXT
            if payload == b"pong":
                return True


def frame(opcode: int, payload: bytes = b"", fin: bool = True, mask: bool = True) -> bytes:
    head = bytes([(0x80 if fin else 0) | opcode])
    bit = 0x80 if mask else 0
    if len(payload) < 126:
        head += bytes([bit | len(payload)])
    elif len(payload) < 65536:
        head += bytes([bit | 126]) + struct.pack("!H", len(payload))
    else:
        head += bytes([bit | 127]) + struct.pack("!Q", len(payload))
    if not mask:
        return head + payload
    key = os.urandom(4)
    return head + key + bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))


@contextmanager
def client(daemon: Daemon, path: str = "/api/v1/ws", receive: int = 0) -> Iterator[Client]:
    with closing(Client(daemon, path, receive)) as client:
        yield client
    daemon.wait(lambda: daemon.hub.seats.taken == daemon.hub.clients)


def gone(daemon: Daemon) -> None:
    """Wait until no client is left."""
    daemon.wait(lambda: daemon.hub.clients == 0 and daemon.hub.seats.taken == 0)


# The handshake.


def test_plain_get_is_told_to_upgrade(daemon: Daemon) -> None:
    answer = daemon.get("/api/v1/ws")
    assert (answer.status, answer.json["error"]) == (426, "upgrade_required")
    assert answer.headers["upgrade"] == "websocket"
    assert daemon.get("/api/v1/ws", "Upgrade: h2c").status == 426


@pytest.mark.parametrize(
    "fields",
    [
        {"Sec_WebSocket_Key": None},
        {"Sec_WebSocket_Key": "short"},
        {"Sec_WebSocket_Key": "!!!!!!!!!!!!!!!!!!!!!!=="},
        {"Sec_WebSocket_Version": None},
        {"Sec_WebSocket_Version": "8"},
        {"Connection": None},
        {"Connection": "keep-alive"},
        {"Upgrade": "websocket, h2c"},
        {"Content_Length": "5"},
    ],
)
def test_bad_handshake(daemon: Daemon, fields: dict[str, str | None]) -> None:
    request = handshake(**fields) + (b"12345" if "Content_Length" in fields else b"")
    with daemon.connect() as sock:
        sock.sendall(request)
        answer = Answer(read_until(sock, b"}"))
    assert (answer.status, answer.json["error"]) == (400, "bad_handshake")
    gone(daemon)


def test_handshake_of_http_1_0(daemon: Daemon) -> None:
    data = daemon.raw(handshake().replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert Answer(data).status == 400


def test_handshake_is_case_insensitive_and_tolerates_offers(daemon: Daemon) -> None:
    """Deflate and subprotocols are declined; Firefox sends `keep-alive, Upgrade`."""
    with daemon.connect() as sock:
        sock.sendall(
            b"\r\n" + handshake(
                Upgrade="WebSocket", Connection="keep-alive, Upgrade",
                Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits",
                Sec_WebSocket_Protocol="bifrost.v1",
            )
        )  # fmt: skip
        head = read_until(sock, b"\r\n\r\n").partition(b"\r\n\r\n")[0]
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"Sec-WebSocket-Extensions" not in head
        assert b"Sec-WebSocket-Protocol" not in head


def test_half_a_handshake_takes_no_seat(daemon: Daemon) -> None:
    with daemon.connect() as sock:
        sock.sendall(handshake()[:-2])
        daemon.wait(lambda: len(daemon.control._server._connections) == 1)
        assert daemon.hub.seats.taken == 0


def test_frames_right_behind_the_handshake(daemon: Daemon) -> None:
    with daemon.connect() as sock:
        sock.sendall(handshake() + frame(TEXT, b"ping"))
        read_until(sock, b"pong")
    with daemon.connect() as sock:
        sock.sendall(handshake() + frame(TEXT, b"ping") + frame(CLOSE, b"\x03\xe8"))
        data = b""
        while not data.endswith(b"\x88\x02\x03\xe8"):
            data += sock.recv(4096)
    gone(daemon)


# Messages.


def test_text_ping(daemon: Daemon) -> None:
    with client(daemon) as one, client(daemon) as other:
        assert one.pong()
        other.send(TEXT, b"pin", fin=False)
        other.send(PING, b"between")  # control frames may stand between fragments
        other.send(CONT, b"g")
        assert other.until(PONG) == b"between"
        assert other.until(TEXT) == b"pong"
        one.send(TEXT, b"", fin=False)
        one.send(CONT, b"ping", fin=False)
        one.send(CONT, b"")
        assert one.until(TEXT) == b"pong"


def test_other_messages_are_ignored(daemon: Daemon) -> None:
    with client(daemon) as one:
        for payload in (b"", b"Ping", b"ping ", b"ping\n", b"pingping", b"x" * 4096, b"\xff\xfe"):
            one.send(TEXT, payload)
        one.send(BINARY, b"ping")
        one.send(BINARY, b"pi", fin=False)
        one.send(CONT, b"ng")
        one.send(TEXT, b"ping", fin=False)
        one.send(CONT, b"x")
        one.send(PONG, b"unasked")
        one.send(TEXT, b'{"type":"subscribe"}')
        pongs = 0
        assert one.pong()
        one.send(CLOSE, b"\x03\xe8")
        while True:
            opcode, payload = one.receive()
            if opcode == CLOSE:
                break
            pongs += payload == b"pong"
        assert pongs == 0


def test_protocol_ping(daemon: Daemon) -> None:
    with client(daemon) as one:
        one.send(PING, b"x" * 125)
        assert one.until(PONG) == b"x" * 125


def test_byte_by_byte(daemon: Daemon) -> None:
    with client(daemon) as one:
        one.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in frame(TEXT, b"ping"):
            one.sock.sendall(bytes([byte]))
        assert one.until(TEXT) != b""
        assert one.pong()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(TEXT, b"x" * 4097), 1009),
        (frame(BINARY, b"x" * 70000), 1009),
        (frame(TEXT, b"x" * 4000, fin=False) + frame(CONT, b"x" * 97), 1009),
        (frame(TEXT, b"ping", mask=False), 1002),
        (frame(CONT, b"ping"), 1002),
        (frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), 1002),
        (frame(PING, b"x" * 126), 1002),
        (frame(PING, b"x", fin=False), 1002),
        (frame(3, b"x"), 1002),
        (frame(11, b"x"), 1002),
        (b"\xc1\x80\x00\x00\x00\x00", 1002),
        (frame(CLOSE, b"\x03"), 1002),
        (frame(CLOSE, struct.pack("!H", 1005)), 1002),
        (frame(CLOSE, struct.pack("!H", 999)), 1002),
        (frame(CLOSE, struct.pack("!H", 1000) + b"\xff"), 1007),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 1002),
    ],
)  # fmt: skip
def test_broken_frames_close(daemon: Daemon, data: bytes, code: int) -> None:
    with client(daemon) as one:
        one.sock.sendall(data)
        assert one.closed_with() == code
        with pytest.raises(EOFError):
            one.receive()
    gone(daemon)


def test_garbage(daemon: Daemon) -> None:
    for size in (1, 2, 10, 1000, 100_000):
        with client(daemon) as one:
            try:
                one.sock.sendall(os.urandom(size))
                one.sock.shutdown(socket.SHUT_WR)
                while one.sock.recv(65536):
                    pass
            except OSError:
                pass
    gone(daemon)


def test_close_is_echoed(daemon: Daemon) -> None:
    with client(daemon) as one:
        one.send(CLOSE, struct.pack("!H", 4321) + b"because")
        one.send(TEXT, b"ping")
        assert one.until(CLOSE) == struct.pack("!H", 4321) + b"because"
        with pytest.raises(EOFError):
            one.receive()
    with client(daemon) as one:
        one.send(CLOSE)
        assert one.until(CLOSE) == b""
    gone(daemon)


def test_clients_that_vanish(daemon: Daemon) -> None:
    for last in (b"", b"\x81", frame(TEXT, b"ping")[:-1], frame(TEXT, b"p", fin=False)):
        with client(daemon) as one:
            one.sock.sendall(last)
            one.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with client(daemon) as one:
            one.sock.sendall(last)
            one.sock.shutdown(socket.SHUT_WR)
            with pytest.raises(EOFError):
                one.until(CLOSE)
    gone(daemon)
    assert daemon.timers() == []


# Clocks.


def test_silent_peer_is_pinged_and_closed() -> None:
    with running(read_timeout=0.4) as daemon, client(daemon) as one:
        start = time.monotonic()
        assert one.until(PING) == b""
        assert time.monotonic() - start > 0.15
        assert one.closed_with() == 1008
        assert time.monotonic() - start > 0.35


@pytest.mark.parametrize("opcode", [PONG, TEXT, PING, BINARY])
def test_any_frame_is_a_sign_of_life(opcode: int) -> None:
    """Upstream counts only data frames, and cuts clients whose library does the pings."""
    with running(read_timeout=0.4) as daemon, client(daemon) as one:
        start = time.monotonic()
        while time.monotonic() - start < 0.7:
            one.until(PING)
            one.send(opcode, b"x")
        assert daemon.hub.clients == 1


def test_trickled_bytes_are_none() -> None:
    with running(read_timeout=0.4) as daemon, client(daemon) as one:
        one.sock.settimeout(0.05)
        sent = 0
        for byte in frame(TEXT, b"x" * 1000):
            try:
                one.sock.sendall(bytes([byte]))
                sent += 1
                one.until(CLOSE)
                break
            except TimeoutError:
                continue
        assert sent < 100


def test_hang_in_the_close(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "CLOSING", 0.1)
    with client(daemon) as one:
        one.send(CLOSE, b"\x03\xe8")
        assert one.closed_with() == 1000
        gone(daemon)  # although the client neither closes nor reads
    with client(daemon) as one:
        for watcher in daemon.do(lambda: list(daemon.hub._fanout.watchers)):
            daemon.do(watcher.stop)
        assert one.closed_with() == 1001
        one.send(TEXT, b"ping")  # instead of a close frame
        gone(daemon)


def test_never_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "STUCK", 0.3)
    monkeypatch.setattr(websocket, "CLOSING", 5.0)
    with running() as daemon, client(daemon, receive=4096) as stuck, client(daemon) as reading:
        host = "h" * 200 + ":443"
        published = 0
        while daemon.hub.lost < 100:
            daemon.publish(200, host)
            published += 200
            assert published < 100_000
            seen = 0
            while seen < 200:  # the other misses nothing and waits for nobody
                seen += reading.until(TEXT).count(b'"connection.new"')
        watcher = daemon.hub._fanout.watchers[0]
        assert isinstance(watcher, websocket.WebSocket)
        assert daemon.do(lambda: watcher.outbox._size) <= 256 * 1024
        daemon.wait(lambda: watcher._close_by > 0)
        assert stuck.closed_with() == 1013
        assert reading.pong()


def test_never_reads_and_never_will(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "STUCK", 0.2)
    monkeypatch.setattr(websocket, "CLOSING", 0.2)
    with running() as daemon, client(daemon, receive=4096):
        while not daemon.hub.lost:
            daemon.publish(500)
        gone(daemon)


def test_slow_reader_is_not_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "STUCK", 0.5)
    with running() as daemon, client(daemon, receive=4096) as slow:
        while not daemon.hub.lost:
            daemon.publish(500)
        start = time.monotonic()
        while time.monotonic() - start < 1.2:
            slow.receive()
            time.sleep(0.001)
        assert daemon.hub.clients == 1


def test_flood_of_pings_is_bounded(daemon: Daemon) -> None:
    """Pongs that nobody reads wait in the same bounded queue, and the loop stays free."""
    with client(daemon, receive=4096) as one:
        one.sock.setblocking(False)
        flood = frame(PING, b"x" * 125) * 500
        sent = 0
        while sent < 3_000_000:
            try:
                sent += one.sock.send(flood)
            except BlockingIOError:
                assert daemon.do(lambda: True)
        watcher = daemon.do(lambda: daemon.hub._fanout.watchers[0])
        assert watcher.outbox._size <= 256 * 1024
        assert daemon.get("/api/v1/health").status == 200


# Memory and frames.


def test_library_is_loaded_late_and_lean() -> None:
    """Not before the first upgrade, and without what its version module would bring."""
    code = """
import sys
sys.modules["ssl"] = sys.modules["_hashlib"] = None
import bifrost_lite.api, bifrost_lite.log
assert not any(name.split(".")[0] == "websockets" for name in sys.modules)
from bifrost_lite.websocket import load
load()
import websockets.server
assert "importlib.metadata" not in sys.modules
assert not any(name.startswith(("websockets.asyncio", "websockets.legacy")) for name in sys.modules)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=20)


def test_frames_of_all_lengths() -> None:
    for length in (0, 1, 125, 126, 127, 65535, 65536):
        assert text_frame(b"x" * length) == frame(TEXT, b"x" * length, mask=False)


def test_stuck_time_is_thirty_seconds() -> None:
    assert websocket.STUCK == fanout.STUCK == 30.0
    assert websocket.MESSAGE_LIMIT == 4096
