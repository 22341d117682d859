"""HTTP bodies through the proxy: long, slow, early, late, and none of HTTP's any more."""

from __future__ import annotations

import threading

import pytest

from bifrost_lite.dispatch import Dispatcher
from bifrost_lite.relay import BUFFER_SIZE
from tests.plane_kit import DEADLINE, Peer, Proxy, both, get, until
from tests.test_forward import OK, begin

Selector = type[Dispatcher]


@both
def test_long_bodies(selector: Selector) -> None:
    size = 5_000_000
    body = bytes(range(250)) * (size // 250)
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client = proxy.connect()
        for kind in ("length", "chunks", "until close"):
            head = get(f"http://{origin.authority}/", f"Content-Length: {size}", method="POST")
            send = threading.Thread(daemon=True, target=client.send, args=(head + body,))
            send.start()
            target = origin.accept()
            target.head()
            assert target.exactly(size) == body
            send.join()
            answer = {
                "length": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (size, body),
                "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
                b"%x\r\n%b\r\n0\r\n\r\n" % (size, body),
                "until close": b"HTTP/1.1 200 OK\r\n\r\n" + body,
            }[kind]  # fmt: skip
            send = threading.Thread(daemon=True, target=target.send, args=(answer,))
            send.start()
            client.head()
            if kind == "length":
                assert client.exactly(size) == body
            elif kind == "chunks":
                assert unchunk(client) == body
            send.join()
            if kind == "until close":
                target.close()
                assert client.rest() == body
        assert sum(record.bytes_sent for record in proxy.finished) > 3 * size
        assert all(record.bytes_received > size for record in proxy.finished)


def unchunk(peer: Peer) -> bytes:
    """Read a chunked body."""
    parts = []
    while size := int(peer.until(b"\r\n"), 16):
        parts.append(peer.exactly(size))
        peer.expect(b"\r\n")
    peer.expect(b"\r\n")
    return b"".join(parts)


@both
def test_chunked_upload_comes_and_goes_in_pieces(selector: Selector) -> None:
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client = proxy.connect().send(
            get(f"http://{origin.authority}/", "Transfer-Encoding: chunked", method="POST")
        )
        target = origin.accept()
        target.head()
        for piece in (b"one", b"two!", b"three"):
            client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            target.expect(b"%x\r\n%b\r\n" % (len(piece), piece))
        client.send(b"5\r\nspl")
        target.expect(b"3\r\nspl\r\n")
        client.send(b"it\r")
        target.expect(b"2\r\nit\r\n")
        client.send(b"\n0\r\nT: x\r\n\r\n" + get(f"http://{origin.authority}/next"))
        target.expect(b"0\r\n\r\n").send(OK)
        client.expect(OK)
        assert target.head().startswith(b"GET /next ")
        target.send(OK)
        client.expect(OK)


@both
def test_long_chunked_upload(selector: Selector) -> None:
    size = 3_000_000
    body = bytes(range(250)) * (size // 250)
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        head = get(f"http://{origin.authority}/", "Transfer-Encoding: chunked", method="POST")
        client = proxy.connect()
        data = head + b"%x\r\n%b\r\n0\r\n\r\n" % (size, body)
        send = threading.Thread(daemon=True, target=client.send, args=(data,))
        send.start()
        target = origin.accept()
        target.head()
        assert unchunk(target) == body
        send.join()
        target.send(OK)
        client.expect(OK)


@both
def test_answer_to_a_slow_reader(selector: Selector) -> None:
    """What does not fit is kept, the end included, and the client's next request still served."""
    size = 8_000_000
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client, target = begin(proxy, origin)
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        data = head + b"%x\r\n%b\r\n0\r\n\r\n" % (size, bytes(size))
        send = threading.Thread(daemon=True, target=target.send, args=(data,))
        send.start()
        client.send(get(f"http://{origin.authority}/next"))
        client.head()
        assert unchunk(client) == bytes(size)
        send.join()
        assert target.head().startswith(b"GET /next ")
        target.send(OK)
        client.expect(OK)
        assert len(proxy.opened) == 1


# 100-continue, early answers, upgrades.


@both
def test_100_continue(selector: Selector) -> None:
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client = proxy.connect().send(
            get(f"http://{origin.authority}/", "Expect: 100-continue", "Content-Length: 4", method="PUT")
        )
        target = origin.accept()
        assert b"\r\nExpect: 100-continue\r\n" in target.head()
        target.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        client.expect(b"HTTP/1.1 100 Continue\r\n\r\n").send(b"body")
        target.expect(b"body").send(OK)
        client.expect(OK)
        client.send(get(f"http://{origin.authority}/"))
        target.head()


@both
@pytest.mark.parametrize("body", ["Content-Length: 1000000", "Transfer-Encoding: chunked"])
def test_answer_before_the_body(selector: Selector, body: str) -> None:
    """A 413, say: the client reads it although its body went nowhere."""
    answer = b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno!"
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client = proxy.connect().send(get(f"http://{origin.authority}/", body, method="POST"))
        target = origin.accept()
        target.head()
        target.send(answer)
        client.expect(answer.replace(b"3\r\n", b"3\r\nConnection: close\r\n", 1))
        target.gone()
        client.send(b"1\r\nx\r\n" * 1000)  # and is still sending
        client.ended()
        proxy.told("new", "close closed")
        record = proxy.record()
        assert (record.status_code, record.error) == (413, "")


@both
def test_answer_while_the_body_goes_up(selector: Selector) -> None:
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client = proxy.connect().send(
            get(f"http://{origin.authority}/", "Content-Length: 6", method="POST") + b"abc"
        )
        target = origin.accept()
        target.head()
        target.expect(b"abc").send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n12")
        client.expect(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\n12")
        client.send(b"def")
        target.expect(b"def").send(b"34")
        client.expect(b"34").ended()


@both
def test_target_that_stops_reading_has_its_say(selector: Selector) -> None:
    """It answers and resets the connection, since there was more to read."""
    answer = b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno!"
    size = 30_000_000
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client = proxy.connect()

        def upload() -> None:
            head = get(f"http://{origin.authority}/", f"Content-Length: {size}", method="POST")
            try:
                client.send(head + bytes(size))
            except OSError:
                return  # cut off after its answer

        send = threading.Thread(daemon=True, target=upload)
        send.start()
        target = origin.accept()
        target.head()
        target.send(answer)
        target.close()
        client.until(b"no!")
        send.join()
        client.close()
        proxy.gone()
        record = proxy.record()
        assert (record.status_code, record.error) == (413, "")


@both
@pytest.mark.parametrize("early", [False, True])
def test_upgrade(selector: Selector, early: bool) -> None:
    with Proxy(selector, upgrades=True) as proxy:
        client, target = begin(proxy, proxy.origin(), "Connection: Upgrade", "Upgrade: x/2")
        head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x/2\r\nConnection: Upgrade\r\n\r\n"
        target.send(head + b"frame" * early)
        client.expect(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x/2\r\n\r\n"
        ).expect(b"frame" * early)
        client.send(b"\x00up")
        target.expect(b"\x00up").send(b"\xffdown")
        client.expect(b"\xffdown").finish()
        target.ended()
        target.send(b"!").close()
        assert client.rest() == b"!"
        event = proxy.close_event()
        assert (event.protocol, event.reason) == ("HTTP", "closed")
        assert event.bytes_received == len(head) + 5 * early + 6
        record = proxy.record()
        assert (record.status_code, record.error) == (101, "")


@both
def test_upgrade_with_early_bytes_of_the_client(selector: Selector) -> None:
    with Proxy(selector, upgrades=True) as proxy:
        origin = proxy.origin()
        client = proxy.connect()
        client.send(get(f"http://{origin.authority}/", "Connection: upgrade", "Upgrade: x") + b"eager")
        target = origin.accept()
        target.head()
        proxy.settle()
        target.empty()
        target.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n").expect(b"eager")


@both
def test_upgrade_refused(selector: Selector) -> None:
    """The target answers as usual, and HTTP goes on."""
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client, target = begin(proxy, origin, "Connection: Upgrade", "Upgrade: x")
        target.send(OK)
        client.expect(OK).send(get(f"http://{origin.authority}/"))
        target.head()


@both
def test_counts(selector: Selector) -> None:
    """Bytes of the messages as they went to and came from the target."""
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client = proxy.connect().send(
            get(f"http://{origin.authority}/", "Connection: close", "Content-Length: 5", method="POST") + b"12345"
        )
        target = origin.accept()
        up = target.head() + target.exactly(5)
        down = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;xxxxxxx\r\na\r\n0\r\nX: y\r\n\r\n"
        target.send(down)
        client.rest()
        event = proxy.close_event()
        assert (event.bytes_sent, event.bytes_received) == (len(up), len(down))
        record = proxy.record()
        assert (record.bytes_sent, record.bytes_received) == (len(up), len(down))


@both
@pytest.mark.parametrize("kind", ["length", "chunks"])
def test_upload_to_a_slow_target(selector: Selector, kind: str) -> None:
    """What the target does not take is kept, and little of it; then all goes on."""
    size = 12_000_000
    body = bytes(range(250)) * (size // 250)
    field = f"Content-Length: {size}" if kind == "length" else "Transfer-Encoding: chunked"
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client = proxy.connect().send(get(f"http://{origin.authority}/", field, method="POST"))
        target = origin.accept()
        target.head()
        data = body if kind == "length" else b"%x\r\n%b\r\n0\r\n\r\n" % (size, body)
        data += get(f"http://{origin.authority}/next")
        sender = threading.Thread(target=client.send, args=(data,), daemon=True)
        sender.start()

        def kept() -> int:
            (session,) = proxy.plane.sessions
            return session.up.pend_size if session.up is not None else 0

        until(lambda: proxy.call(kept), "a target that takes no more")
        assert proxy.call(kept) <= BUFFER_SIZE + 32  # a chunk has its frame
        if kind == "length":
            assert target.exactly(size) == body
        else:
            assert unchunk(target) == body
        target.send(OK)
        client.expect(OK)
        assert target.head().startswith(b"GET /next ")
        sender.join()


@both
@pytest.mark.parametrize("kind", ["length", "chunks"])
def test_target_resets_behind_what_it_did_not_take(selector: Selector, kind: str) -> None:
    field = "Content-Length: 1000000000" if kind == "length" else "Transfer-Encoding: chunked"
    piece = b"f000\r\n" + bytes(0xF000) + b"\r\n"
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client = proxy.connect().send(get(f"http://{origin.authority}/", field, method="POST"))
        target = origin.accept()
        target.head()
        client.sock.setblocking(False)
        unsent = b""

        def blocked() -> bool:
            nonlocal unsent
            try:
                unsent = unsent or piece
                unsent = unsent[client.sock.send(unsent) :]
            except BlockingIOError:
                (session,) = proxy.plane.sessions
                return session.up is not None and session.up.pend is not None
            return False

        until(lambda: blocked(), "a target that takes no more")
        target.reset()
        client.sock.settimeout(DEADLINE)
        assert client.until(b"\r\n") == b"HTTP/1.1 502 Bad Gateway\r\n"
        client.close()
        proxy.gone()
        assert proxy.words()[0] == "new"
        assert proxy.words()[1] in ("close target_reset", "close target_closed")
