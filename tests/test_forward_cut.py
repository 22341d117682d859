"""HTTP exchanges that are cut off: clients that vanish, targets that fail, both that stall."""

from __future__ import annotations

import threading

import pytest

from bifrost_lite.dispatch import Dispatcher, EpollDispatcher
from bifrost_lite.errors import Reason
from tests.plane_kit import DEADLINE, Proxy, both, get, refusal, until
from tests.test_forward_kept import OK, served, standstill

Selector = type[Dispatcher]


# Clients that vanish, and targets that fail, in mid-exchange.


@both
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("kind", ["length", "chunks"])
def test_client_vanishes_in_its_body(selector: Selector, how: str, kind: str) -> None:
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        field = "Content-Length: 100" if kind == "length" else "Transfer-Encoding: chunked"
        client = proxy.connect().send(get(f"http://{origin.authority}/", field, method="POST"))
        target = origin.accept()
        target.head()
        client.send(b"abc" if kind == "length" else b"3\r\nabc\r\n")
        target.until(b"abc")
        getattr(client, how)()
        target.was_reset()  # lest it take the half for the whole
        event = proxy.close_event()
        assert event.reason == "client_reset"
        record = proxy.record()
        assert (record.status_code, record.error) == (None, "client_reset")


@both
@pytest.mark.parametrize("kind", ["length", "chunks", "until close"])
def test_client_vanishes_in_its_answer(selector: Selector, kind: str) -> None:
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client = proxy.connect().send(get(f"http://{origin.authority}/"))
        target = origin.accept()
        target.head()
        head, piece = {
            "length": (b"Content-Length: 1000000000\r\n", bytes(10_000)),
            "chunks": (b"Transfer-Encoding: chunked\r\n", b"2710\r\n" + bytes(10_000) + b"\r\n"),
            "until close": (b"", bytes(10_000)),
        }[kind]
        target.send(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n" + piece)
        client.head()
        client.close()

        def cut() -> bool:
            try:
                target.send(piece)
            except OSError:
                return True
            return False

        until(cut, "the end")
        assert proxy.close_event().reason == "client_reset"
        record = proxy.record()
        assert (record.status_code, record.error) == (200, "client_reset")


@pytest.mark.parametrize("when", ["before the head", "in the body"])
def test_client_resets_while_its_target_is_silent(when: str) -> None:
    with Proxy(EpollDispatcher) as proxy:
        origin = proxy.origin()
        client = proxy.connect().send(get(f"http://{origin.authority}/"))
        target = origin.accept()
        target.head()
        if when == "in the body":
            target.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\na")
            client.until(b"a")
        client.reset()
        target.was_reset()
        assert proxy.close_event().reason == "client_reset"


@both
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nX: y\r\n"])
def test_target_leaves_before_its_head(selector: Selector, how: str, said: bytes) -> None:
    word = "target_reset" if how == "reset" else "target_closed"
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client = proxy.connect().send(get(f"http://{origin.authority}/"))
        target = origin.accept()
        target.head()
        target.send(said)
        proxy.settle()
        getattr(target, how)()
        assert refusal(client) == (502, word)
        proxy.told("new", f"close {word}", f"failed {word}")
        record = proxy.record()
        assert (record.status_code, record.error) == (502, word)
        assert record.bytes_received == len(said)


@both
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("kind", ["length", "chunks", "until close"])
def test_target_leaves_in_its_body(
    selector: Selector, how: str, version: str, kind: str
) -> None:
    """The client must be able to tell a cut answer from a whole one."""
    field = {
        "length": b"Content-Length: 9\r\n",
        "chunks": b"Transfer-Encoding: chunked\r\n",
        "until close": b"",
    }[kind]
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client = proxy.connect().send(get(f"http://{origin.authority}/", version=version))
        target = origin.accept()
        target.head()
        target.send(b"HTTP/1.1 200 OK\r\n" + field + b"\r\n")
        client.head()
        target.send(b"3\r\nabc\r\n" if kind == "chunks" else b"abc")
        client.until(b"abc")
        getattr(target, how)()
        if kind == "until close" and how == "close":
            client.ended()
            proxy.told("new", "close closed")
            return
        told_by_close = kind == "until close" or (kind, version) == ("chunks", "1.0")
        if told_by_close or how == "reset":
            client.was_reset()
        else:
            client.rest()
        word = "target_reset" if how == "reset" else "target_closed"
        proxy.told("new", f"close {word}")
        record = proxy.record()
        assert (record.status_code, record.error) == (200, word)


@both
@pytest.mark.parametrize("reason", [Reason.OPERATOR, Reason.SHUTDOWN])
def test_closed_from_outside_in_an_answer_without_length(
    selector: Selector, reason: Reason
) -> None:
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client = proxy.connect().send(get(f"http://{origin.authority}/"))
        target = origin.accept()
        target.head()
        target.send(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        client.until(b"half")
        proxy.call(lambda: proxy.plane.close_all(reason))
        client.was_reset()  # an end would say that this was all
        target.gone()
        proxy.told("new", f"close {reason.word}")


@both
@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_target_never_answers(selector: Selector, said: bytes) -> None:
    with Proxy(selector, idle=0.2) as proxy:
        origin = proxy.origin()
        client = proxy.connect().send(get(f"http://{origin.authority}/"))
        target = origin.accept()
        target.head()
        target.send(said)
        if b"100" in said:
            client.head()
        assert refusal(client) == (504, "response_timeout")
        target.ended()
        proxy.told("new", "close response_timeout", "failed response_timeout")


@both
def test_target_stalls_in_its_answer(selector: Selector) -> None:
    with Proxy(selector, idle=0.2) as proxy:
        origin = proxy.origin()
        client = proxy.connect().send(get(f"http://{origin.authority}/"))
        target = origin.accept()
        target.head()
        target.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc")
        client.until(b"abc")
        client.ended()
        proxy.told("new", "close idle_timeout")


@both
def test_client_stalls_in_its_body(selector: Selector) -> None:
    with Proxy(selector, idle=0.2) as proxy:
        origin = proxy.origin()
        client = proxy.connect().send(
            get(f"http://{origin.authority}/", "Content-Length: 5", method="POST") + b"abc"
        )
        target = origin.accept()
        target.head()
        target.expect(b"abc")
        assert refusal(client)[0] == 504
        target.gone()


@both
def test_client_never_reads_its_answer(selector: Selector) -> None:
    with Proxy(selector, idle=0.4) as proxy:
        origin = proxy.origin()
        proxy.connect().send(get(f"http://{origin.authority}/"))
        target = origin.accept()
        target.head()
        with pytest.raises(OSError):
            while True:
                target.send(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(1 << 20))
        assert proxy.close_event().reason == "idle_timeout"


@both
def test_kept_connection_idles(selector: Selector) -> None:
    with Proxy(selector, idle=0.1) as proxy:
        client, target = served(proxy, proxy.origin())
        client.ended()
        target.ended()
        proxy.told("new", "close idle_timeout")


@both
@pytest.mark.parametrize("kind", ["Content-Length: 20000000", "Transfer-Encoding: chunked"])
def test_target_resets_in_the_upload(selector: Selector, kind: str) -> None:
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client = proxy.connect().send(get(f"http://{origin.authority}/", kind, method="POST"))
        target = origin.accept()
        target.head()
        target.reset()
        body = b"ffff\r\n" + bytes(0xFFFF) + b"\r\n"

        def upload() -> None:
            try:
                for _ in range(300):
                    client.send(body)
            except OSError:
                return  # refused and cut off

        sender = threading.Thread(target=upload, daemon=True)
        sender.start()
        head = client.until(b"\r\n")
        assert head == b"HTTP/1.1 502 Bad Gateway\r\n"
        sender.join(DEADLINE)
        client.close()
        proxy.gone()
        word = proxy.fail_event().reason
        assert word in ("target_reset", "target_closed")  # whether writing or reading met it
        assert proxy.words() == ["new", f"close {word}", f"failed {word}"]


@both
def test_body_of_a_failed_request_is_never_a_request(selector: Selector) -> None:
    """The kept target resets as a POST goes out whose body is not all there."""
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client, target = served(proxy, origin)
        smuggled = get(f"http://{origin.authority}/smuggled")
        request = get(f"http://{origin.authority}/", f"Content-Length: {len(smuggled) + 2}", method="POST")
        with standstill(proxy):
            client.send(request + b"ab")
            target.send(OK)
            target.reset()
        proxy.settle()
        client.send(smuggled)
        if len(proxy.opened) == 2:  # the reset was seen first: the request goes elsewhere
            target = origin.accept()
            target.head()
            target.expect(b"ab" + smuggled).send(OK)
            client.expect(OK).close()
        else:
            client.rest()
            client.close()
        proxy.gone()
        origin.alone()
        assert "/smuggled" not in "".join(record.url for record in proxy.finished)
