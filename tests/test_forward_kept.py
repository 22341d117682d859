"""HTTP over connections that are kept: many requests of one client, in order, and what ends them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bifrost_lite.dispatch import Dispatcher, EpollDispatcher
from bifrost_lite.errors import Reason
from tests.plane_kit import DEADLINE, GRANTED, Origin, Peer, Proxy, both, get, refusal, until

Selector = type[Dispatcher]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def served(proxy: Proxy, origin: Origin) -> tuple[Peer, Peer]:
    """A client that was served once, and the target it was served by, which is kept."""
    client = proxy.connect().send(get(f"http://{origin.authority}/"))
    target = origin.accept()
    target.head()
    target.send(OK)
    client.expect(OK)
    until(lambda: proxy.finished, "the record")
    return client, target


@contextmanager
def standstill(proxy: Proxy) -> Iterator[None]:
    """What happens in here happens to the proxy all at once."""
    stopped, go_on = threading.Event(), threading.Event()

    def stop() -> None:
        stopped.set()
        assert go_on.wait(DEADLINE)

    proxy.loop.call_soon_threadsafe(stop)
    assert stopped.wait(DEADLINE)
    try:
        yield
    finally:
        go_on.set()


@both
def test_same_target_same_connection(selector: Selector) -> None:
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client, target = served(proxy, origin)
        for number in range(5):
            client.send(get(f"http://{origin.authority}/{number}"))
            assert target.head().startswith(b"GET /%d " % number)
            target.send(OK)
            client.expect(OK)
        proxy.settle()
        origin.alone()
        proxy.told("new")
        client.close()
        target.ended()
        proxy.told("new", "close closed")
        assert len(proxy.finished) == 6
        assert len({(r.bytes_sent, r.bytes_received) for r in proxy.finished[1:]}) == 1


@both
def test_other_target_other_connection(selector: Selector) -> None:
    """The first is closed before the second is made, and told so."""
    with Proxy(selector) as proxy:
        first, second = proxy.origin(), proxy.origin()
        client, target = served(proxy, first)
        client.send(get(f"http://{second.authority}/"))
        other = second.accept()
        target.ended()
        other.head()
        other.send(OK)
        client.expect(OK)
        proxy.told("new", "close closed", "new")
        assert [event.host for event in proxy.opened] == [first.authority, second.authority]
        client.send(get(f"http://{first.authority}/"))
        first.accept().head()
        proxy.told("new", "close closed", "new", "close closed", "new")


@both
def test_same_address_by_another_name_is_another_target(selector: Selector) -> None:
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        proxy.names.known["a.test"] = ["127.0.0.1"]
        client, target = served(proxy, origin)
        client.send(get(f"http://a.test:{origin.port}/"))
        target.ended()
        assert f"Host: a.test:{origin.port}".encode() in origin.accept().head()


@both
def test_clients_share_nothing(selector: Selector) -> None:
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client, target = served(proxy, origin)
        other = proxy.connect().send(get(f"http://{origin.authority}/"))
        origin.accept().head()
        proxy.settle()
        target.empty()
        other.close()


@both
def test_pipelined_requests(selector: Selector) -> None:
    """Answered in order; the next reaches its target when the one before is answered."""
    with Proxy(selector) as proxy:
        origin, second = proxy.origin(), proxy.origin()
        client = proxy.connect()
        client.send(
            get(f"http://{origin.authority}/1")
            + get(f"http://{origin.authority}/2", "Content-Length: 3", method="POST")
            + b"abc"
            + get(f"http://{origin.authority}/3", "Transfer-Encoding: chunked", method="POST")
            + b"2\r\nde\r\n0\r\n\r\n"
            + get(f"http://{second.authority}/4")
            + get("http://nowhere.test/5")
        )
        target = origin.accept()
        for number, body in ((1, b""), (2, b"abc"), (3, b"2\r\nde\r\n0\r\n\r\n")):
            assert b" /%d " % number in target.head()
            target.expect(body)
            proxy.settle()
            target.empty()
            second.alone()
            target.send(OK)
            client.expect(OK)
        other = second.accept()
        assert b" /4 " in other.head()
        target.ended()
        proxy.settle()
        assert not proxy.names.asked
        other.send(OK)
        client.expect(OK)
        proxy.tell("nowhere.test", reason=Reason.DNS_NOT_FOUND)
        assert refusal(client) == (502, "dns_not_found")
        assert [record.status_code for record in proxy.finished] == [200] * 4 + [502]


@both
def test_many_pipelined_requests(selector: Selector) -> None:
    """More than one read takes, and no deeper call for each."""
    count = 2000
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        requests = b"".join(get(f"http://{origin.authority}/{number}") for number in range(count))
        client = proxy.connect()
        sender = threading.Thread(target=client.send, args=(requests,), daemon=True)
        sender.start()
        target = origin.accept()
        for number in range(count):
            assert b" /%d " % number in target.head()
            target.send(OK)
        for _ in range(count):
            client.expect(OK)
        sender.join()
        assert len(proxy.opened) == 1


@both
def test_requests_byte_by_byte(selector: Selector) -> None:
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client, target = served(proxy, origin)
        for _ in range(2):
            client.trickle(
                get(f"http://{origin.authority}/", "Content-Length: 2", method="POST") + b"ab",
                proxy.settle,
            )
            target.head()
            target.expect(b"ab").send(OK)
            client.expect(OK)


@both
def test_next_request_comes_with_the_end_of_a_body(selector: Selector) -> None:
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client, target = served(proxy, origin)
        client.send(get(f"http://{origin.authority}/", "Content-Length: 4", method="POST") + b"ab")
        target.head()
        target.expect(b"ab")
        client.send(b"cd" + get(f"http://{origin.authority}/next"))
        target.expect(b"cd").send(OK)
        client.expect(OK)
        assert target.head().startswith(b"GET /next ")


@both
@pytest.mark.parametrize("body", [b"", b"ab"])
def test_request_with_fin(selector: Selector, body: bytes) -> None:
    """The client will send no more, and gets its answer all the same."""
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client = proxy.connect()
        request = get(f"http://{origin.authority}/", f"Content-Length: {len(body)}", method="PUT")
        client.send(request + body).finish()
        target = origin.accept()
        target.head()
        target.expect(body).send(OK)
        client.expect(OK).ended()
        target.ended()
        proxy.told("new", "close closed")


@both
def test_fin_while_the_name_is_resolved(selector: Selector) -> None:
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client = proxy.connect().send(get(f"http://a.test:{origin.port}/"))
        until(lambda: proxy.names.held, "the look-up")
        client.finish()
        proxy.tell("a.test", "127.0.0.1")
        target = origin.accept()
        target.head()
        target.send(OK)
        client.expect(OK).ended()


@both
@pytest.mark.parametrize("together", [True, False])
def test_connect_after_get(selector: Selector, together: bool) -> None:
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client = proxy.connect()
        connect = f"CONNECT {origin.authority} HTTP/1.1\r\nHost: x\r\n\r\n".encode() + b"early"
        client.send(get(f"http://{origin.authority}/") + connect * together)
        target = origin.accept()
        target.head()
        target.send(OK)
        client.expect(OK)
        if not together:
            client.send(connect)
        tunnel = origin.accept()
        target.ended()
        client.expect(GRANTED)
        tunnel.expect(b"early").send(b"late")
        client.expect(b"late").close()
        tunnel.ended()
        tunnel.close()
        proxy.gone()
        proxy.told("new", "close closed", "new", "close closed")
        assert [event.protocol for event in proxy.closed] == ["HTTP", "CONNECT"]
        assert [record.protocol for record in proxy.finished] == ["HTTP", "CONNECT"]
        assert (proxy.closed[1].bytes_sent, proxy.closed[1].bytes_received) == (5, 4)


@both
def test_socks_after_get_is_no_request(selector: Selector) -> None:
    with Proxy(selector) as proxy:
        client, target = served(proxy, proxy.origin())
        client.send(b"\x05\x01\x00\r\n\r\n")
        assert refusal(client) == (400, "bad_request")
        target.ended()


# A bad request on a kept connection has nothing to do with the one before.

AFTER = {
    "nonsense": (b"nonsense\r\n\r\n", 400, "bad_request", "HTTP"),
    "no target": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "not_a_proxy_request", "HTTP"),
    "bad CONNECT": (b"CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request", "CONNECT"),
    "late": (b"GET http://", 408, "handshake_timeout", "HTTP"),
}


@both
@pytest.mark.parametrize("case", AFTER)
@pytest.mark.parametrize("kept", ["kept", "dropped", "dropped while reading"])
def test_bad_request_after_a_good_one(selector: Selector, case: str, kept: str) -> None:
    request, status, word, protocol = AFTER[case]
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client, target = served(proxy, origin)
        if kept == "dropped":
            target.close()
            until(lambda: proxy.closed, "connection.close")
        client.send(request[:5])
        proxy.settle()
        if kept == "dropped while reading":
            target.close()
            until(lambda: proxy.closed, "connection.close")
        if case == "late":
            proxy.call(lambda: setattr(proxy.plane.handshake, "seconds", 0.02))
        client.send(request[5:])
        assert refusal(client) == (status, word)
        proxy.told("new", "close closed", f"failed {word}")
        failed = proxy.fail_event()
        assert (failed.host, failed.backend, failed.route) == ("", "", "")
        assert failed.protocol == protocol
        record = proxy.finished[1]
        assert (record.url, record.host, record.error) == ("", "", word)
        assert (record.bytes_sent, record.bytes_received) == (0, 0)
        assert record.status_code == status


@both
def test_silence_between_requests(selector: Selector) -> None:
    with Proxy(selector, keepalive=0.05) as proxy:
        client, target = served(proxy, proxy.origin())
        client.ended()
        target.ended()
        proxy.told("new", "close closed")


@both
def test_empty_lines_between_requests_do_not_prolong(selector: Selector) -> None:
    with Proxy(selector, handshake=0.05) as proxy:
        client, target = served(proxy, proxy.origin())
        client.send(b"\r")
        assert refusal(client) == (408, "handshake_timeout")
        target.ended()


# Targets that leave a kept connection.


@both
@pytest.mark.parametrize("how", ["close", "reset"])
def test_target_leaves_between_requests(selector: Selector, how: str) -> None:
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client, target = served(proxy, origin)
        getattr(target, how)()
        proxy.told("new", "close closed")
        client.send(get(f"http://{origin.authority}/", "Content-Length: 0", method="POST"))
        target = origin.accept()
        target.head()
        target.send(OK)
        client.expect(OK)


@both
def test_target_talks_unasked(selector: Selector) -> None:
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client, target = served(proxy, origin)
        target.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfor later")
        target.gone()
        client.send(get(f"http://{origin.authority}/"))
        target = origin.accept()
        target.head()
        target.send(OK)
        client.expect(OK)


@both
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE", "POST", "PATCH", "PUT body"])
@pytest.mark.parametrize("first", ["client", "target"])
def test_target_leaves_as_the_request_goes_out(
    selector: Selector, how: str, method: str, first: str
) -> None:
    """What can be repeated without harm is, once."""
    if first == "client" and selector is not EpollDispatcher:
        return  # poll does not tell who was first
    name, _, body = method.partition(" ")
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client, target = served(proxy, origin)
        fields = [f"Content-Length: {len(body)}"] if body else []
        request = get(f"http://{origin.authority}/2", *fields, method=name) + body.encode()
        with standstill(proxy):
            if first == "client":
                client.send(request)
            getattr(target, how)()
            client.send(request if first == "target" else b"")
        if first == "client" and (body or name in ("POST", "PATCH")):
            status, word = refusal(client)
            assert status == 502
            assert word in ("target_reset", "target_closed")  # a FIN may be an RST by then
            proxy.settle()
            origin.alone()
            return
        target = origin.accept()
        assert target.head().startswith(f"{name} /2 ".encode())
        target.expect(body.encode())
        target.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        client.expect(b"HTTP/1.1 204 No Content\r\n\r\n")
        client.send(get(f"http://{origin.authority}/3"))
        assert target.head().startswith(b"GET /3 ")
        assert [word.split()[0] for word in proxy.words()] == ["new", "close", "new"]


@both
def test_repeated_once_only(selector: Selector) -> None:
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client, target = served(proxy, origin)
        with standstill(proxy):
            client.send(get(f"http://{origin.authority}/2") + get(f"http://{origin.authority}/3"))
            target.close()
        target = origin.accept()
        target.head()
        target.close()
        assert refusal(client) == (502, "target_closed")
        proxy.settle()
        origin.alone()


@both
def test_pipelined_behind_a_repeated_request(selector: Selector) -> None:
    """What the client sent meanwhile is not forgotten."""
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client, target = served(proxy, origin)
        client.send(get(f"http://{origin.authority}/2"))
        target.head()
        client.send(get(f"http://{origin.authority}/3"))
        proxy.settle()
        target.close()
        target = origin.accept()
        for number in (2, 3):
            assert target.head().startswith(b"GET /%d " % number)
            target.send(OK)
            client.expect(OK)


@both
def test_fin_behind_a_repeated_request(selector: Selector) -> None:
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client, target = served(proxy, origin)
        client.send(get(f"http://{origin.authority}/2"))
        target.head()
        client.finish()
        proxy.settle()
        target.close()
        target = origin.accept()
        target.head()
        target.send(OK)
        client.expect(OK).ended()


@both
def test_repeated_request_finds_nobody(selector: Selector) -> None:
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client, target = served(proxy, origin)
        client.send(get(f"http://{origin.authority}/2"))
        target.head()
        origin.sock.close()
        target.close()
        assert refusal(client) == (502, "connect_refused")


@both
@pytest.mark.parametrize("chunked", [False, True])
def test_target_that_left_behind_a_slow_reader_is_not_used_again(
    selector: Selector, chunked: bool
) -> None:
    """Its FIN came while nothing was read from it. A POST must not go there and fail."""
    size = 12_000_000
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client = proxy.connect().send(get(f"http://{origin.authority}/"))
        target = origin.accept()
        target.head()
        if chunked:
            data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            data += b"%x\r\n%b\r\n0\r\n\r\n" % (size, bytes(size))
        else:
            data = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)

        def answer() -> None:
            target.send(data).finish()

        sender = threading.Thread(target=answer, daemon=True)
        sender.start()
        client.head()
        if chunked:
            client.until(b"\r\n")

        def kept() -> bool:
            (session,) = proxy.plane.sessions
            return session.down is not None and session.down.pend is not None

        until(lambda: proxy.call(kept), "a client that takes no more")
        left = size
        while left:  # in small steps: the proxy is blocked again and again
            left -= len(client.exactly(min(left, 100_000)))
        if chunked:
            client.until(b"0\r\n\r\n")
        sender.join(DEADLINE)
        until(lambda: proxy.finished, "the record")
        client.send(get(f"http://{origin.authority}/", "Content-Length: 2", method="POST") + b"ab")
        again = origin.accept()
        again.head()
        again.expect(b"ab").send(OK)
        client.expect(OK)


@both
@pytest.mark.parametrize("chunked", [False, True])
def test_target_that_ends_with_its_answer_is_not_used_again(
    selector: Selector, chunked: bool
) -> None:
    answer = OK
    if chunked:
        answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client = proxy.connect()
        for _ in range(3):
            client.send(get(f"http://{origin.authority}/", "Content-Length: 1", method="POST") + b"x")
            target = origin.accept()
            target.head()
            target.expect(b"x").send(answer).close()
            client.expect(answer)
        assert len(proxy.opened) == 3
