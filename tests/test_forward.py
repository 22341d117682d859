"""HTTP/1.1 through the proxy: what the target gets and what the client gets, byte for byte."""

from __future__ import annotations

import threading

import pytest

from bifrost_lite.dispatch import Dispatcher, EpollDispatcher
from bifrost_lite.forward import Forward
from bifrost_lite.relay import TURN
from bifrost_lite.wire.exchange import Answer, Upload
from bifrost_lite.wire.http1 import RESPONSE_HEAD_LIMIT
from tests.plane_kit import Origin, Peer, Proxy, both, get, refusal

Selector = type[Dispatcher]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def begin(proxy: Proxy, origin: Origin, *fields: str, **more: str) -> tuple[Peer, Peer]:
    """A client whose GET has arrived, and the target that has read it."""
    client = proxy.connect().send(get(f"http://{origin.authority}/", *fields, **more))
    target = origin.accept()
    target.head()
    return client, target


# What the client sends, and what the target gets of it; A is the target's host and port.
REQUESTS = {
    "plain": ("GET http://A/x?y=1 HTTP/1.1|Host: b|Accept: */*||", "GET /x?y=1 HTTP/1.1|Host: A|Accept: */*||"),
    "no path": ("GET http://A HTTP/1.1|Host: b||", "GET / HTTP/1.1|Host: A||"),
    "query only": ("GET http://A?q HTTP/1.1|Host: b||", "GET /?q HTTP/1.1|Host: A||"),
    "OPTIONS for all": ("OPTIONS http://A HTTP/1.1|Host: b||", "OPTIONS * HTTP/1.1|Host: A||"),
    "scheme in capitals": ("GET HTTP://A/ HTTP/1.1|Host: b||", "GET / HTTP/1.1|Host: A||"),
    "HTTP/1.0": ("GET http://A/ HTTP/1.0||", "GET / HTTP/1.1|Host: A||"),
    "HTTP/1.7": ("GET http://A/ HTTP/1.7|Host: b||", "GET / HTTP/1.1|Host: A||"),
    "an empty line before": ("|GET http://A/ HTTP/1.1|Host: b||", "GET / HTTP/1.1|Host: A||"),
    "odd method": ("M-SEARCH http://A/ HTTP/1.1|Host: b||", "M-SEARCH / HTTP/1.1|Host: A||"),
    "odd bytes": ("GET http://A/\xe9?a=\xff HTTP/1.1|Host: b|X: \xff\t \xe9||", "GET /\xe9?a=\xff HTTP/1.1|Host: A|X: \xff\t \xe9||"),
    "hop-by-hop": (
        "GET http://A/ HTTP/1.1|Host: b|Connection: close, X-Mine|X-Mine: 1|Keep-Alive: 5|A: 1"
        "|Proxy-Connection: keep-alive|TE: trailers|Trailer: X|Proxy-Authorization: Basic x|B: 2||",
        "GET / HTTP/1.1|Host: A|A: 1|B: 2||",
    ),
    "upgrade not asked for": (
        "GET http://A/ HTTP/1.1|Host: b|Upgrade: h2c||", "GET / HTTP/1.1|Host: A||",
    ),
    "upgrade": (
        "GET http://A/ HTTP/1.1|Host: b|connection: Upgrade|upgrade: websocket|Sec-WebSocket-Key: k||",
        "GET / HTTP/1.1|Host: A|Sec-WebSocket-Key: k|Connection: upgrade|Upgrade: websocket||",
    ),
    "length": (
        "POST http://A/ HTTP/1.1|Content-Length: 005|Host: b|X: y||hello",
        "POST / HTTP/1.1|Host: A|X: y|Content-Length: 5||hello",
    ),
    "no body": (
        "POST http://A/ HTTP/1.1|Content-Length: 0|Host: b||",
        "POST / HTTP/1.1|Host: A|Content-Length: 0||",
    ),
    "chunks": (
        "POST http://A/ HTTP/1.1|Host: b|Transfer-Encoding: Chunked||5;x=y|Wiki |5;q=\"a;b\"|"
        "pedia|0|X-Trailer: gone||",
        "POST / HTTP/1.1|Host: A|Transfer-Encoding: chunked||a|Wiki pedia|0||",
    ),
    "no chunks": (
        "POST http://A/ HTTP/1.1|Host: b|Transfer-Encoding: chunked||0||",
        "POST / HTTP/1.1|Host: A|Transfer-Encoding: chunked||0||",
    ),
    "expect": (
        "PUT http://A/ HTTP/1.1|Host: b|Expect: 100-continue|Content-Length: 2||ab",
        "PUT / HTTP/1.1|Host: A|Expect: 100-continue|Content-Length: 2||ab",
    ),
}  # fmt: skip


def wire(text: str, authority: str = "") -> bytes:
    return text.replace("//A", f"//{authority}").replace("Host: A", f"Host: {authority}").replace(
        "|", "\r\n"
    ).encode("latin-1")


@both
@pytest.mark.parametrize("case", REQUESTS)
@pytest.mark.parametrize("trickled", [False, True], ids=["whole", "bytes"])
def test_request(selector: Selector, case: str, trickled: bool) -> None:
    sent, arrives = REQUESTS[case]
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client = proxy.connect()
        if trickled:
            client.trickle(wire(sent, origin.authority), proxy.settle)
        else:
            client.send(wire(sent, origin.authority))
        target = origin.accept()
        if trickled and "hunk" in case and "no" not in case:
            target.head()
            assert target.until(b"\r\n0\r\n\r\n") == b"".join(
                b"1\r\n%c\r\n" % letter for letter in b"Wiki pedia"
            ) + b"0\r\n\r\n"
        else:
            target.expect(wire(arrives, origin.authority))
        proxy.settle()
        target.empty()
        target.send(OK)
        client.until(b"ok")
        record = proxy.record()
        path = sent.split()[1].removeprefix("http://A").removeprefix("HTTP://A").partition("?")[0]
        default = "*" if sent.startswith("OPTIONS") else "/"
        assert record.url == origin.authority + (path or default)
        assert (record.method, record.status_code) == (sent.lstrip("|").split()[0], 200)


@both
def test_request_to_ipv6_with_via(selector: Selector) -> None:
    with Proxy(selector, via=True) as proxy:
        origin = proxy.origin("::1")
        client = proxy.connect().send(get(f"http://[0::1]:{origin.port}/"))
        target = origin.accept()
        host = f"[::1]:{origin.port}".encode()
        target.expect(b"GET / HTTP/1.1\r\nHost: %b\r\nVia: 1.1 bifrost-lite\r\n\r\n" % host)
        target.send(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")
        client.expect(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nVia: 1.0 bifrost-lite\r\n\r\n")


# What the target sends, and what the client gets of it; then whether the connection to the
# target lives on, and whether the client's does.
ANSWERS = {
    "plain": ("HTTP/1.1 200 OK|X: y|Content-Length: 5||hello", "HTTP/1.1 200 OK|X: y|Content-Length: 5||hello", "kept", "kept"),
    "empty": ("HTTP/1.1 200 OK|Content-Length: 0||", "HTTP/1.1 200 OK|Content-Length: 0||", "kept", "kept"),
    "no phrase": ("HTTP/1.1 299|Content-Length: 0||", "HTTP/1.1 299 |Content-Length: 0||", "kept", "kept"),
    "hop-by-hop": (
        "HTTP/1.1 200 OK|Connection: X-Mine|X-Mine: 1|Keep-Alive: timeout=5|Trailer: Z|Upgrade: h2c|Proxy-Authenticate: Basic|A: b|Content-Length: 0||",
        "HTTP/1.1 200 OK|A: b|Content-Length: 0||", "kept", "kept",
    ),
    "close": ("HTTP/1.1 200 OK|Connection: close|Content-Length: 2||ok", "HTTP/1.1 200 OK|Content-Length: 2||ok", "closed", "kept"),
    "1.0": ("HTTP/1.0 200 OK|Content-Length: 2||ok", "HTTP/1.1 200 OK|Content-Length: 2||ok", "closed", "kept"),
    "1.0 kept": ("HTTP/1.0 200 OK|Connection: Keep-Alive|Content-Length: 2||ok", "HTTP/1.1 200 OK|Content-Length: 2||ok", "kept", "kept"),
    "204": ("HTTP/1.1 204 No Content||", "HTTP/1.1 204 No Content||", "kept", "kept"),
    "204 with a length": ("HTTP/1.1 204 No Content|Content-Length: 5||", "HTTP/1.1 204 No Content||", "closed", "kept"),
    "304": ("HTTP/1.1 304 Not Modified|Content-Length: 500|ETag: x||", "HTTP/1.1 304 Not Modified|ETag: x|Content-Length: 500||", "kept", "kept"),
    "chunks": (
        "HTTP/1.1 200 OK|Transfer-Encoding: chunked||3;x=y|abc|2|de|0|X-Trailer: gone||",
        "HTTP/1.1 200 OK|Transfer-Encoding: chunked||5|abcde|0||", "kept", "kept",
    ),
    "no chunks": ("HTTP/1.1 200 OK|Transfer-Encoding: chunked||0||", "HTTP/1.1 200 OK|Transfer-Encoding: chunked||0||", "kept", "kept"),
    "coded chunks": (
        "HTTP/1.1 200 OK|Transfer-Encoding: gzip, chunked||1|x|0||",
        "HTTP/1.1 200 OK|Transfer-Encoding: gzip, chunked||1|x|0||", "kept", "kept",
    ),
    "TE and CL": (
        "HTTP/1.1 200 OK|Content-Length: 3|Transfer-Encoding: chunked||1|x|0||",
        "HTTP/1.1 200 OK|Transfer-Encoding: chunked||1|x|0||", "closed", "kept",
    ),
    "one length twice": ("HTTP/1.1 200 OK|Content-Length: 2|Content-Length: 2, 2||ok", "HTTP/1.1 200 OK|Content-Length: 2||ok", "kept", "kept"),
    "too much": ("HTTP/1.1 200 OK|Content-Length: 2||okHTTP/1.1 200 OK|Content-Length: 1||x", "HTTP/1.1 200 OK|Content-Length: 2||ok", "closed", "kept"),
    "too much behind chunks": (
        "HTTP/1.1 200 OK|Transfer-Encoding: chunked||1|x|0||more",
        "HTTP/1.1 200 OK|Transfer-Encoding: chunked||1|x|0||", "closed", "kept",
    ),
    "until close": ("HTTP/1.1 200 OK|X: y||all of it", "HTTP/1.1 200 OK|X: y|Connection: close||all of it", "ends", "closed"),
    "1.0 until close": ("HTTP/1.0 200 OK||", "HTTP/1.1 200 OK|Connection: close||", "ends", "closed"),
    "interim": (
        "HTTP/1.1 100 Continue||HTTP/1.1 103 Early Hints|Link: x||HTTP/1.1 200 OK|Content-Length: 0||",
        "HTTP/1.1 100 Continue||HTTP/1.1 103 Early Hints|Link: x||HTTP/1.1 200 OK|Content-Length: 0||",
        "kept", "kept",
    ),
    "bare LF and folds": (
        "HTTP/1.1 200 OK\nA: b\n c\nD :e\nContent-Length: 2\n\nok",
        "HTTP/1.1 200 OK|A: b c|D:e|Content-Length: 2||ok", "kept", "kept",
    ),
    "large head": (
        "HTTP/1.1 200 OK|Set-Cookie: " + "c" * 60_000 + "|Content-Length: 0||",
        "HTTP/1.1 200 OK|Set-Cookie: " + "c" * 60_000 + "|Content-Length: 0||", "kept", "kept",
    ),
}  # fmt: skip


@both
@pytest.mark.parametrize("case", ANSWERS)
def test_answer(selector: Selector, case: str) -> None:
    answer(selector, *ANSWERS[case])


@pytest.mark.parametrize("case", [case for case in ANSWERS if case != "large head"])
def test_trickled_answer(case: str) -> None:
    """Every byte in a segment of its own; chunks are then written as they come."""
    sent, arrives, target_is, client_is = ANSWERS[case]
    with Proxy() as proxy:
        origin = proxy.origin()
        client, target = begin(proxy, origin)
        end = len(arrives) if "too much" in case else len(sent)
        target.trickle(wire(sent[:end]), proxy.settle)
        if target_is == "ends":
            target.close()
        got = client.rest() if client_is == "closed" else client.head()
        if client_is == "closed":
            assert got == wire(arrives)
        elif "chunk" not in arrives and case != "interim":
            assert got == wire(arrives[: arrives.index("||") + 2])
            client.expect(wire(arrives[arrives.index("||") + 2 :]))
        elif case != "interim":
            client.until(b"0\r\n\r\n")


def answer(
    selector: Selector, sent: str, arrives: str, target_is: str, client_is: str, **request: str
) -> None:
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client, target = begin(proxy, origin, **request)
        target.send(wire(sent))
        if target_is == "ends":
            target.finish()
        client.expect(wire(arrives))
        if target_is != "kept":
            target.gone()  # what it said too much is never read: RST
        if client_is == "closed":
            client.ended()
            return
        client.send(get(f"http://{origin.authority}/again", method="HEAD"))
        if target_is == "kept":
            target.head()
            proxy.settle()
            origin.alone()
        else:
            target = origin.accept()
            target.head()
        target.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        assert client.head().startswith(b"HTTP/1.1 200 OK\r\n")
        assert len(proxy.opened) == (1 if target_is == "kept" else 2)


# The same for a client of HTTP/1.0, which is told how long its connection lives.
OLD = {
    "length": ("HTTP/1.1 200 OK|Content-Length: 2||ok", "HTTP/1.1 200 OK|Content-Length: 2|Connection: close||ok"),
    "chunks": ("HTTP/1.1 200 OK|Transfer-Encoding: chunked||3;x|abc|2|de|0|T: x||", "HTTP/1.1 200 OK|Connection: close||abcde"),
    "interim": ("HTTP/1.1 102 Processing||HTTP/1.1 200 OK|Content-Length: 2||ok", "HTTP/1.1 200 OK|Content-Length: 2|Connection: close||ok"),
    "204": ("HTTP/1.1 204 No Content||", "HTTP/1.1 204 No Content|Connection: close||"),
}  # fmt: skip


@both
@pytest.mark.parametrize("case", OLD)
def test_answer_to_http_1_0(selector: Selector, case: str) -> None:
    sent, arrives = OLD[case]
    answer(selector, sent, arrives, "closed", "closed", version="1.0")


@both
def test_a_proxy_keeps_no_http_1_0_client(selector: Selector) -> None:
    """RFC 9112 section 9.3: it cannot know that the client meant this hop."""
    with Proxy(selector) as proxy:
        client, target = begin(
            proxy, proxy.origin(), "Connection: keep-alive", version="1.0"
        )
        target.send(OK)
        client.expect(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        client.ended()


@pytest.mark.parametrize(
    ("sent", "arrives"),
    [
        ("HTTP/1.1 200 OK|Content-Length: 500||", "HTTP/1.1 200 OK|Content-Length: 500||"),
        ("HTTP/1.1 200 OK|Transfer-Encoding: chunked||", "HTTP/1.1 200 OK||"),
        ("HTTP/1.1 200 OK||", "HTTP/1.1 200 OK||"),
    ],
)
def test_answer_to_head(sent: str, arrives: str) -> None:
    answer(EpollDispatcher, sent, arrives, "kept", "kept", method="HEAD")


BROKEN = {
    "no HTTP": "SSH-2.0-OpenSSH_9.2||",
    "another version": "HTTP/2 200 OK||",
    "no status": "HTTP/1.1 OK||",
    "status of two digits": "HTTP/1.1 20 OK||",
    "no colon": "HTTP/1.1 200 OK|nonsense||",
    "NUL": "HTTP/1.1 200 OK|X: a\0b|Content-Length: 0||",
    "two lengths": "HTTP/1.1 200 OK|Content-Length: 1|Content-Length: 2||ab",
    "length of letters": "HTTP/1.1 200 OK|Content-Length: two||ab",
    "TE without chunked": "HTTP/1.1 200 OK|Transfer-Encoding: gzip||x",
    "TE with chunked first": "HTTP/1.1 200 OK|Transfer-Encoding: chunked, gzip||x",
    "chunked twice": "HTTP/1.1 200 OK|Transfer-Encoding: chunked, chunked||0||",
    "endless head": "HTTP/1.1 200 OK|X: " + "x" * RESPONSE_HEAD_LIMIT,
    "many fields": "HTTP/1.1 200 OK|" + "X: y|" * 401 + "|",
    "bad chunk": "HTTP/1.1 200 OK|Transfer-Encoding: chunked||nonsense||",
    "101 unasked": "HTTP/1.1 101 Switching Protocols|Upgrade: x||",
    "interim, then nonsense": "HTTP/1.1 100 Continue||nonsense||",
}


@both
@pytest.mark.parametrize("case", BROKEN)
def test_broken_answer(selector: Selector, case: str) -> None:
    with Proxy(selector) as proxy:
        client, target = begin(proxy, proxy.origin())
        target.send(wire(BROKEN[case]))
        assert refusal(client) == (502, "bad_response")
        target.gone()
        proxy.told("new", "close bad_response", "failed bad_response")
        record = proxy.record()
        assert (record.status_code, record.error) == (502, "bad_response")


def test_coded_chunks_are_not_for_http_1_0() -> None:
    with Proxy() as proxy:
        client, target = begin(proxy, proxy.origin(), version="1.0")
        target.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n")
        assert refusal(client) == (502, "bad_response")


@both
def test_bad_chunk_in_mid_answer(selector: Selector) -> None:
    with Proxy(selector) as proxy:
        client, target = begin(proxy, proxy.origin())
        target.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        client.until(b"1\r\nx\r\n")
        target.send(b"nonsense\r\n")
        client.ended()  # without the last chunk, which says that something is missing
        proxy.told("new", "close bad_response")
        assert [(r.status_code, r.error) for r in proxy.finished] == [(200, "bad_response")]


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_chunked_body_leaves_others_their_turn(
    monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """However fast it comes, one turn of the loop moves a bounded part of it."""
    coder, pull = (Upload, "_pull_upload") if way == "up" else (Answer, "_pull_answer")
    reads, turns = [0], [0]
    feed, turn = coder.feed, getattr(Forward, pull)

    def counted(self: object, data: bytes) -> bytes:
        reads[0] += 1
        return feed(self, data)

    def watched(self: Forward, mask: int) -> None:
        reads[0] = 0
        turn(self, mask)
        turns[0] = max(turns[0], reads[0])

    monkeypatch.setattr(coder, "feed", counted)
    monkeypatch.setattr(Forward, pull, watched)
    size = 16 * 1024 * 1024
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (size, bytes(size))
    with Proxy() as proxy:
        origin = proxy.origin()
        if way == "down":
            client, target = begin(proxy, origin)
            sender, sink = target, client
            target.sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        else:
            client, target = begin(proxy, origin, "Transfer-Encoding: chunked", method="POST")
            sender, sink = client, target
        thread = threading.Thread(target=sender.sock.sendall, args=(body,))
        thread.start()
        tail = b""
        while not tail.endswith(b"\r\n0\r\n\r\n"):
            tail = tail[-7:] + sink.sock.recv(1 << 20)
        thread.join()
        if way == "up":
            target.send(OK)
            client.expect(OK)
    assert 1 <= turns[0] <= TURN


def test_a_refused_head_has_no_body() -> None:
    with Proxy() as proxy:
        client = proxy.connect().send(get("http://a.test/", method="HEAD"))
        proxy.tell("a.test")
        assert b"Content-Length: 43\r\n" in client.head()
        client.ended()
