"""One client from its first byte to its last: requests, refusals, deadlines, tunnels."""

from __future__ import annotations

import contextlib
import threading

import pytest

from bifrost_lite import linger
from bifrost_lite.dispatch import Dispatcher, EpollDispatcher
from bifrost_lite.errors import Reason
from bifrost_lite.target import Target
from tests.plane_kit import (
    GRANTED,
    GRANTED4,
    GRANTED5,
    HELLO5,
    METHOD5,
    REJECTED4,
    Proxy,
    both,
    connect4,
    connect5,
    get,
    refusal,
    refused5,
    until,
)

Selector = type[Dispatcher]

# Ways to ask for a tunnel: what to send, what comes back before the target's first byte.
WAYS = {
    "CONNECT": lambda host, port: [
        (f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode(), GRANTED)
    ],
    "CONNECT 1.0": lambda host, port: [(f"CONNECT {host}:{port} HTTP/1.0\r\n\r\n".encode(), GRANTED)],
    "SOCKS5": lambda host, port: [(HELLO5, METHOD5), (connect5(host, port), GRANTED5)],
    "SOCKS5 name": lambda host, port: [
        (b"\x05\x02\x02\x00", METHOD5),
        (connect5(host, port, kind=3), GRANTED5),
    ],
    "SOCKS4": lambda host, port: [(connect4(host, port), GRANTED4)],
    "SOCKS4a": lambda host, port: [(connect4("a.test", port), GRANTED4)],
}


@both
@pytest.mark.parametrize("way", WAYS)
def test_tunnel(selector: Selector, way: str) -> None:
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        proxy.names.known["a.test"] = ["127.0.0.1"]
        client = proxy.connect()
        for question, answer in WAYS[way]("127.0.0.1", origin.port):
            client.send(question).expect(answer)
        target = origin.accept()
        client.send(b"up")
        target.expect(b"up").send(b"down!")
        client.expect(b"down!").finish()
        target.ended()
        target.finish()
        client.ended()
        event = proxy.close_event()
        host = "a.test" if way == "SOCKS4a" else "127.0.0.1"
        assert event.host == f"{host}:{origin.port}"
        assert event.protocol == way.split()[0].rstrip("a")
        assert (event.bytes_sent, event.bytes_received, event.reason) == (2, 5, "closed")
        record = proxy.record()
        assert record.method == event.protocol
        assert record.status_code == (200 if event.protocol == "CONNECT" else None)
        assert (record.url, record.error, record.backend) == (event.host, "", "direct")


@both
@pytest.mark.parametrize("way", WAYS)
def test_all_in_one_segment(selector: Selector, way: str) -> None:
    """Greeting, request, early bytes and FIN at once."""
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        proxy.names.known["a.test"] = ["127.0.0.1"]
        steps = WAYS[way]("127.0.0.1", origin.port)
        client = proxy.connect()
        client.send(b"".join(question for question, _ in steps) + b"early").finish()
        target = origin.accept()
        assert target.rest() == b"early"
        target.send(b"late").close()
        assert client.rest() == b"".join(answer for _, answer in steps) + b"late"
        event = proxy.close_event()
        assert (event.bytes_sent, event.bytes_received, event.reason) == (5, 4, "closed")


@both
@pytest.mark.parametrize("way", WAYS)
def test_byte_by_byte(selector: Selector, way: str) -> None:
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        proxy.names.known["a.test"] = ["127.0.0.1"]
        client = proxy.connect()
        for question, answer in WAYS[way]("127.0.0.1", origin.port):
            client.trickle(question, proxy.settle).expect(answer)
        target = origin.accept()
        client.trickle(b"body", proxy.settle).finish()
        assert target.rest() == b"body"


# What a way out can answer with, as docs/errors.md maps it.
OUTCOMES = {
    Reason.DNS_NOT_FOUND: (502, 4),
    Reason.DNS_FAILED: (502, 4),
    Reason.DNS_TIMEOUT: (504, 4),
    Reason.CONNECT_REFUSED: (502, 5),
    Reason.CONNECT_TIMEOUT: (504, 6),
    Reason.NET_UNREACHABLE: (502, 3),
    Reason.HOST_UNREACHABLE: (502, 4),
    Reason.CONNECT_FAILED: (502, 1),
    Reason.TARGET_RESET: (502, 1),
    Reason.TARGET_DENIED: (403, 2),
    Reason.OUT_OF_DESCRIPTORS: (503, 1),
    Reason.INTERNAL: (500, 1),
}


@both
@pytest.mark.parametrize("soon", [True, False], ids=["at once", "later"])
def test_every_failure_has_its_answer(selector: Selector, soon: bool) -> None:
    with Proxy(selector) as proxy:
        for reason, (status, code) in OUTCOMES.items():
            proxy.names.known.clear()
            if soon:
                proxy.names.known["a.test"] = reason

            def answer(reason: Reason = reason) -> None:
                if not soon:
                    proxy.tell("a.test", reason=reason)

            for request in (get("http://a.test/x"), b"CONNECT a.test:80 HTTP/1.1\r\nHost: a\r\n\r\n"):
                client = proxy.connect().send(request)
                answer()
                assert refusal(client) == (status, reason.word)
            client = proxy.connect().send(HELLO5).expect(METHOD5).send(connect5("a.test", 80))
            answer()
            assert client.rest() == refused5(code)
            client = proxy.connect().send(connect4("a.test", 80))
            answer()
            assert client.rest() == REJECTED4
        words = [reason.word for reason in OUTCOMES for _ in range(4)]
        assert [event.reason for event in proxy.failed] == words
        assert [record.error for record in proxy.finished] == words
        assert {event.host for event in proxy.failed} == {"a.test:80"}
        protocols = ["HTTP", "CONNECT", "SOCKS5", "SOCKS4"]
        assert [event.protocol for event in proxy.failed[:4]] == protocols
        assert [record.status_code for record in proxy.finished[:4]] == [502, 502, None, None]
        assert not proxy.opened


TE = "Transfer-Encoding: chunked"
BAD_HTTP = {
    "TE and CL": ("POST http://T/ HTTP/1.1|Host: a|Content-Length: 3|" + TE, 400),
    "CL and TE": ("POST http://T/ HTTP/1.1|Host: a|" + TE + "|Content-Length: 3", 400),
    "two lengths": ("POST http://T/ HTTP/1.1|Host: a|Content-Length: 3|Content-Length: 4", 400),
    "one length twice": ("POST http://T/ HTTP/1.1|Host: a|Content-Length: 3|Content-Length: 3", 400),
    "list of lengths": ("POST http://T/ HTTP/1.1|Host: a|Content-Length: 3, 3", 400),
    "signed length": ("POST http://T/ HTTP/1.1|Host: a|Content-Length: +3", 400),
    "negative length": ("POST http://T/ HTTP/1.1|Host: a|Content-Length: -3", 400),
    "hex length": ("POST http://T/ HTTP/1.1|Host: a|Content-Length: 0x3", 400),
    "no length": ("POST http://T/ HTTP/1.1|Host: a|Content-Length:", 400),
    "endless length": ("POST http://T/ HTTP/1.1|Host: a|Content-Length: " + "9" * 40, 400),
    "TE gzip, chunked": ("POST http://T/ HTTP/1.1|Host: a|Transfer-Encoding: gzip, chunked", 400),
    "TE identity": ("POST http://T/ HTTP/1.1|Host: a|Transfer-Encoding: identity", 400),
    "TE twice": ("POST http://T/ HTTP/1.1|Host: a|" + TE + "|" + TE, 400),
    "TE in 1.0": ("POST http://T/ HTTP/1.0|Host: a|" + TE, 400),
    "obs-fold": ("GET http://T/ HTTP/1.1|Host: a|X: y| z", 400),
    "fold at once": ("GET http://T/ HTTP/1.1| X: y|Host: a", 400),
    "space before colon": ("GET http://T/ HTTP/1.1|Host : a", 400),
    "no colon": ("GET http://T/ HTTP/1.1|Host: a|nonsense", 400),
    "no name": ("GET http://T/ HTTP/1.1|Host: a|: x", 400),
    "NUL in a value": ("GET http://T/ HTTP/1.1|Host: a|X: a\0b", 400),
    "CR in a value": ("GET http://T/ HTTP/1.1|Host: a|X: a\rb", 400),
    "LF in a value": ("GET http://T/ HTTP/1.1|Host: a|X: a\nb", 400),
    "bare LF": ("GET http://T/ HTTP/1.1\nHost: a\n\n", 400),
    "no Host": ("GET http://T/ HTTP/1.1|X: y", 400),
    "two Hosts": ("GET http://T/ HTTP/1.1|Host: a|Host: a", 400),
    "HTTP/2": ("GET http://T/ HTTP/2.0|Host: a", 505),
    "HTTP/0.9": ("GET http://T/|Host: a", 400),
    "small http": ("GET http://T/ http/1.1|Host: a", 400),
    "two spaces": ("GET  http://T/ HTTP/1.1|Host: a", 400),
    "tab": ("GET\thttp://T/ HTTP/1.1|Host: a", 400),
    "space at the end": ("GET http://T/ HTTP/1.1 |Host: a", 400),
    "space in the target": ("GET http://T/a b HTTP/1.1|Host: a", 400),
    "NUL in the target": ("GET http://T/\0 HTTP/1.1|Host: a", 400),
    "long target": ("GET http://T/" + "a" * 8200 + " HTTP/1.1|Host: a", 414),
    "endless target": ("GET http://T/" + "a" * 17000, 414),
    "long head": ("GET http://T/ HTTP/1.1|Host: a|X: " + "a" * 16400, 431),
    "endless head": ("GET http://T/ HTTP/1.1|Host: a|" + "X: y|" * 4000, 431),
    "many fields": ("GET http://T/ HTTP/1.1|Host: a|" + "|".join(["X: y"] * 100), 431),
    "origin-form": ("GET / HTTP/1.1|Host: T", 400),
    "asterisk-form": ("OPTIONS * HTTP/1.1|Host: T", 400),
    "authority-form": ("GET T HTTP/1.1|Host: T", 400),
    "https": ("GET https://T/ HTTP/1.1|Host: a", 400),
    "ftp": ("GET ftp://T/ HTTP/1.1|Host: a", 400),
    "no host": ("GET http:///x HTTP/1.1|Host: a", 400),
    "fragment": ("GET http://T/#top HTTP/1.1|Host: a", 400),
    "user": ("GET http://me:pw@T/ HTTP/1.1|Host: a", 400),
    "backslash": ("GET http://T\\@evil/ HTTP/1.1|Host: a", 400),
    "port 0": ("GET http://a:0/ HTTP/1.1|Host: a", 400),
    "port 65536": ("GET http://a:65536/ HTTP/1.1|Host: a", 400),
    "port of letters": ("GET http://a:http/ HTTP/1.1|Host: a", 400),
    "signed port": ("GET http://a:+80/ HTTP/1.1|Host: a", 400),
    "open bracket": ("GET http://[::1/ HTTP/1.1|Host: a", 400),
    "bare IPv6": ("GET http://::1/ HTTP/1.1|Host: a", 400),
    "zone": ("GET http://[fe80::1%25eth0]/ HTTP/1.1|Host: a", 400),
    "non-ASCII host": ("GET http://b\xfccher.test/ HTTP/1.1|Host: a", 400),
    "octal address": ("GET http://127.0.0.01/ HTTP/1.1|Host: a", 400),
    "short address": ("GET http://127.1/ HTTP/1.1|Host: a", 400),
    "one-number address": ("GET http://2130706433/ HTTP/1.1|Host: a", 400),
    "hex address": ("GET http://0x7f000001/ HTTP/1.1|Host: a", 400),
    "CONNECT without port": ("CONNECT a.test HTTP/1.1|Host: a", 400),
    "CONNECT to port 0": ("CONNECT a.test:0 HTTP/1.1|Host: a", 400),
    "CONNECT to a URL": ("CONNECT http://T/ HTTP/1.1|Host: a", 400),
    "CONNECT with user": ("CONNECT me@T HTTP/1.1|Host: a", 400),
    "CONNECT with a body": ("CONNECT T HTTP/1.1|Host: a|Content-Length: 3", 400),
    "CONNECT with chunks": ("CONNECT T HTTP/1.1|Host: a|" + TE, 400),
    "bad chunk size": ("POST http://T/ HTTP/1.1|Host: a|" + TE + "||-1", 400),
    "long chunk size": ("POST http://T/ HTTP/1.1|Host: a|" + TE + "||" + "0" * 16 + "1", 400),
    "chunk without end": ("POST http://T/ HTTP/1.1|Host: a|" + TE + "||1|ab", 400),
    "bad trailer": ("POST http://T/ HTTP/1.1|Host: a|" + TE + "||0|nonsense", 400),
}
WORDS = {414: "uri_too_long", 431: "head_too_large", 505: "http_version_unsupported"}


@pytest.mark.parametrize("case", BAD_HTTP)
def test_bad_http(case: str) -> None:
    text, status = BAD_HTTP[case]
    with Proxy() as proxy:
        origin = proxy.origin()
        request = text.replace("//T", f"//{origin.authority}").replace(" T ", f" {origin.authority} ")
        client = proxy.connect()
        client.send(request.replace("|", "\r\n").encode("latin-1") + b"\r\n\r\n")
        got, word = refusal(client)
        assert got == status
        assert word == WORDS.get(status, word)
        assert proxy.fail_event().reason == word
        record = proxy.record()
        assert (record.status_code, record.error) == (status, word)
        body_is_bad = "||" in text
        assert len(proxy.opened) == body_is_bad
        proxy.settle()
        if not body_is_bad:
            origin.alone()


@pytest.mark.parametrize(
    ("request_line", "word"),
    [
        ("GET / HTTP/1.1", "not_a_proxy_request"),
        ("OPTIONS * HTTP/1.1", "not_a_proxy_request"),
        ("GET https://a.test/ HTTP/1.1", "unsupported_scheme"),
        ("GET FTP://a.test/ HTTP/1.1", "unsupported_scheme"),
        ("GET mailto:a@a.test HTTP/1.1", "not_a_proxy_request"),
    ],
)
def test_not_for_a_proxy(request_line: str, word: str) -> None:
    with Proxy() as proxy:
        client = proxy.connect().send(f"{request_line}\r\nHost: a\r\n\r\n".encode())
        assert refusal(client) == (400, word)


BAD_SOCKS = {
    "no method": (b"\x05\x00", b"\x05\xff"),
    "only passwords": (b"\x05\x01\x02", b"\x05\xff"),
    "many methods, none right": (b"\x05\xff" + bytes(range(1, 256)), b"\x05\xff"),
    "version changes": (HELLO5 + b"\x04", METHOD5 + refused5(1)),
    "reserved byte": (HELLO5 + b"\x05\x01\x01\x01\x7f\0\0\1\0\x50", METHOD5 + refused5(1)),
    "BIND": (HELLO5 + b"\x05\x02\x00\x01\x7f\0\0\1\0\x50", METHOD5 + refused5(7)),
    "UDP": (HELLO5 + b"\x05\x03\x00\x01\0\0\0\0\0\0", METHOD5 + refused5(7)),
    "command 9": (HELLO5 + b"\x05\x09\x00\x01\x7f\0\0\1\0\x50", METHOD5 + refused5(7)),
    "address type 2": (HELLO5 + b"\x05\x01\x00\x02\x7f\0\0\1\0\x50", METHOD5 + refused5(8)),
    "empty name": (HELLO5 + b"\x05\x01\x00\x03\x00\0\x50", METHOD5 + refused5(1)),
    "port 0": (HELLO5 + b"\x05\x01\x00\x01\x7f\0\0\1\0\0", METHOD5 + refused5(1)),
    "NUL in a name": (HELLO5 + b"\x05\x01\x00\x03\x03a\0b\0\x50", METHOD5 + refused5(1)),
    "name with a port": (HELLO5 + b"\x05\x01\x00\x03\x04a:80\0\x50", METHOD5 + refused5(1)),
    "4: BIND": (b"\x04\x02\0\x50\x7f\0\0\1\0", REJECTED4),
    "4: port 0": (b"\x04\x01\0\0\x7f\0\0\1\0", REJECTED4),
    "4: long user": (b"\x04\x01\0\x50\x7f\0\0\1" + b"u" * 256, REJECTED4),
    "4a: long name": (b"\x04\x01\0\x50\0\0\0\1\0" + b"n" * 256, REJECTED4),
    "4a: bad name": (b"\x04\x01\0\x50\0\0\0\1\0a b\0", REJECTED4),
}


@pytest.mark.parametrize("case", BAD_SOCKS)
@pytest.mark.parametrize("trickled", [False, True], ids=["whole", "bytes"])
def test_bad_socks(case: str, trickled: bool) -> None:
    question, answer = BAD_SOCKS[case]
    with Proxy() as proxy:
        client = proxy.connect()
        if trickled:
            for at in range(len(question)):
                client.send(question[at : at + 1])
        else:
            client.send(question)
        assert client.rest() == answer
        assert proxy.fail_event().protocol == ("SOCKS5" if question[0] == 5 else "SOCKS4")
        record = proxy.record()
        assert record.status_code is None


@both
def test_neither_http_nor_socks(selector: Selector) -> None:
    """A TLS hello, say: refused at its first byte."""
    with Proxy(selector) as proxy:
        for first in (b"\x16", b"\0", b"\xff", b"{", b"\x06"):
            assert refusal(proxy.connect().send(first)) == (400, "bad_request")


@pytest.mark.parametrize(
    ("pinned", "first"),
    [("http", HELLO5), ("http", b"\x04"), ("socks", b"G"), ("socks", b"\x16")],
)
def test_pinned_protocol_refuses_others(pinned: str, first: bytes) -> None:
    with Proxy(listen=[("127.0.0.1", pinned)]) as proxy:
        assert refusal(proxy.connect().send(first)) == (400, "bad_request")


def test_pinned_protocol_serves_its_own() -> None:
    with Proxy(listen=[("127.0.0.1", "http"), ("127.0.0.1", "socks")]) as proxy:
        origin = proxy.origin()
        proxy.names.known["a.test"] = ["127.0.0.1"]
        for number, ways in enumerate((["CONNECT"], ["SOCKS5", "SOCKS4"])):
            for way in ways:
                client = proxy.connect(number)
                for question, answer in WAYS[way]("127.0.0.1", origin.port):
                    client.send(question).expect(answer)


@both
def test_no_route(selector: Selector) -> None:
    class Nowhere:
        def find(self, host: str, packed: bytes | None, port: int, client: bytes) -> None:
            return None

    with Proxy(selector, router=Nowhere()) as proxy:
        assert refusal(proxy.connect().send(get("http://a.test/"))) == (403, "no_route")
        client = proxy.connect().send(HELLO5 + connect5("a.test", 80))
        assert client.rest() == METHOD5 + refused5(2)
        assert [(event.host, event.backend) for event in proxy.failed] == [("a.test:80", "")] * 2


# Deadlines.

SLOW = {
    "nothing": (b"", b""),
    "one letter": (b"G", b"408"),
    "half a head": (b"GET http://a.test/ HTTP/1.1\r\nHo", b"408"),
    "half a CONNECT": (b"CONNECT a.test:80 HTTP/1.1\r\n", b"408"),
    "an empty line": (b"\r\n", b"408"),
    "half a greeting": (b"\x05\x02\x00", b"\x05\xff"),
    "no request": (HELLO5, METHOD5 + refused5(1)),
    "half a request": (HELLO5 + connect5("a.test", 80)[:-1], METHOD5 + refused5(1)),
    "half of SOCKS4": (connect4("a.test", 80)[:-1], REJECTED4),
}


@both
@pytest.mark.parametrize("case", SLOW)
def test_slow_client(selector: Selector, case: str) -> None:
    sent, answer = SLOW[case]
    with Proxy(selector, handshake=0.05) as proxy:
        client = proxy.connect().send(sent)
        if answer == b"408":
            assert refusal(client) == (408, "handshake_timeout")
        else:
            assert client.rest() == answer
        client.close()
        proxy.gone()
        assert [event.reason for event in proxy.failed] == ["handshake_timeout"] * bool(sent)


def test_bytes_do_not_prolong_the_deadline() -> None:
    with Proxy(handshake=0.2) as proxy:
        client = proxy.connect()

        def still_writing() -> bool:
            client.send(b"a")
            return bool(proxy.failed)

        until(still_writing, "the handshake deadline")
        assert refusal(client) == (408, "handshake_timeout")


def test_refused_client_that_never_reads_is_cut_off() -> None:
    with Proxy(linger=0.05) as proxy:
        proxy.connect().send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        proxy.gone()


def test_refused_client_that_never_stops_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linger, "TOTAL", 0.0)
    with Proxy(linger=0.1) as proxy:
        client = proxy.connect().send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        client.until(b"proxy_request\n")

        def cut_off() -> bool:
            with contextlib.suppress(OSError):
                client.sock.send(b"x")
            return not proxy.plane.sessions

        until(cut_off, "the end of lingering")
        proxy.gone()


def test_refused_client_that_goes_on_sending_reads_its_whole_answer() -> None:
    """An answer waits in the kernel while the body that it refuses is still on its way; a
    close with bytes unread would throw it away."""
    with Proxy() as proxy:
        origin = proxy.origin()
        body = 40 * 1024 * 1024
        head = f"POST http://{origin.authority}/ HTTP/1.1\r\nHost: a\r\nContent-Length: {body}\r\n\r\n"
        client = proxy.connect().send(head.encode())
        target = origin.accept()
        target.head()
        answer = b"x" * 3_000_000
        target.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3000000\r\n\r\n" + answer)

        def upload() -> None:
            with contextlib.suppress(OSError):
                client.sock.sendall(bytes(body))

        sender = threading.Thread(target=upload)
        sender.start()
        client.until(b"\r\n\r\n")
        client.expect(answer)
        client.close()
        sender.join()
        target.close()
        proxy.gone()


# Clients that vanish.


def leave(how: str, client: object) -> None:
    getattr(client, how)()


@both
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize(
    "said",
    [b"", b"G", b"GET http://a.test/ HT", b"\x05", b"\x05\x03\x00", HELLO5, HELLO5 + b"\x05\x01", b"\x04\x01"],
)
def test_client_vanishes_before_its_request_is_whole(
    selector: Selector, how: str, said: bytes
) -> None:
    with Proxy(selector) as proxy:
        client = proxy.connect().send(said)
        until(lambda: proxy.plane.sessions, "the session")
        proxy.settle()
        leave(how, client)
        proxy.gone()
        assert proxy.events == []


@both
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("kind", ["GET", "CONNECT", "SOCKS5"])
def test_client_vanishes_while_its_name_is_resolved(
    selector: Selector, how: str, kind: str
) -> None:
    requests = {
        "GET": get("http://a.test:PORT/"),
        "CONNECT": b"CONNECT a.test:PORT HTTP/1.1\r\nHost: a\r\n\r\n",
        "SOCKS5": HELLO5,
    }
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client = proxy.connect().send(requests[kind].replace(b"PORT", str(origin.port).encode()))
        if kind == "SOCKS5":
            client.expect(METHOD5).send(connect5("a.test", origin.port))
        until(lambda: proxy.names.held, "the look-up")
        leave(how, client)
        if how == "reset" and selector is EpollDispatcher:
            proxy.gone()
            assert proxy.names.cancelled == ["a.test"]
            proxy.told("failed client_gone")
            return
        proxy.tell("a.test", "127.0.0.1")  # a FIN alone may be a half-close
        target = origin.accept()
        if kind == "GET":
            target.head()
            target.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + bytes(100000))
        if how == "close" and kind != "GET":
            target.ended()
            target.close()
        else:
            target.was_reset()
        proxy.gone()


@both
@pytest.mark.parametrize("how", ["close", "reset"])
def test_client_vanishes_while_its_target_is_dialled(selector: Selector, how: str) -> None:
    with Proxy(selector, connect=0.3) as proxy:
        hole = proxy.origin(backlog=0)
        hole.fill()
        client = proxy.connect().send(f"CONNECT {hole.authority} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        until(lambda: proxy.call(lambda: any(s.dialling for s in proxy.plane.sessions)), "the dial")
        leave(how, client)
        gone = how == "reset" and selector is EpollDispatcher
        assert proxy.fail_event().reason == ("client_gone" if gone else "connect_timeout")
        proxy.gone()


# Ends.


@both
def test_closed_from_outside_in_every_state(selector: Selector) -> None:
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        hole = proxy.origin(backlog=0)
        hole.fill()
        clients = [
            proxy.connect(),
            proxy.connect().send(b"GET http"),
            proxy.connect().send(HELLO5),
            proxy.connect().send(get("http://a.test/")),
            proxy.connect().send(f"CONNECT {hole.authority} HTTP/1.1\r\nHost: a\r\n\r\n".encode()),
            proxy.connect().send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            proxy.connect().send(get(f"http://{origin.authority}/")),
            proxy.tunnel(origin)[0],
        ]
        until(lambda: proxy.names.held, "the look-up")
        proxy.settle()
        assert len(proxy.plane.sessions) == len(clients)
        proxy.call(lambda: proxy.plane.close_all(Reason.SHUTDOWN))
        assert not proxy.plane.sessions
        assert proxy.names.cancelled == ["a.test"]
        assert sorted(event.reason for event in proxy.failed) == [
            "not_a_proxy_request", "shutdown", "shutdown",
        ]  # fmt: skip
        assert [event.reason for event in proxy.closed] == ["shutdown"] * 2


def test_only_idle_ones_are_closed_before_a_stop() -> None:
    with Proxy() as proxy:
        origin = proxy.origin()
        client, target = proxy.tunnel(origin)
        waiting = proxy.connect().send(get("http://a.test/"))
        until(lambda: proxy.names.held, "the look-up")
        exchange = proxy.connect().send(get(f"http://{origin.authority}/"))
        server = origin.accept()
        server.head()
        silent = proxy.connect()
        half = proxy.connect().send(b"GET ht")
        kept = proxy.connect().send(get(f"http://{origin.authority}/"))
        kept_target = origin.accept()
        kept_target.head()
        kept_target.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        kept.head()
        until(lambda: len(proxy.plane.sessions) == 6, "six clients")
        proxy.settle()
        drained = 0

        def count() -> None:
            nonlocal drained
            drained += 1

        proxy.plane.drained = count
        proxy.call(proxy.plane.close_idle)
        for peer in (silent, half, kept, kept_target):
            peer.ended()
        assert len(proxy.plane.sessions) == 3
        server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert exchange.head().startswith(b"HTTP/1.1 200")
        proxy.tell("a.test", reason=Reason.DNS_FAILED)
        refusal(waiting)
        client.send(b"x")
        target.expect(b"x")
        assert not drained
        for peer in (exchange, waiting, client, target):
            peer.close()
        proxy.gone()
        assert drained == 1


def test_a_fault_of_ours_closes_one_connection_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with Proxy() as proxy:
        origin = proxy.origin()
        client, target = proxy.tunnel(origin)
        with monkeypatch.context() as patch:
            patch.setattr(
                "bifrost_lite.session.Session._read_http", lambda self: 1 / 0, raising=True
            )
            proxy.connect().send(get("http://a.test/")).gone()
        client.send(b"x")
        target.expect(b"x")
        assert [record.levelname for record in proxy.logged] == ["ERROR"]
        proxy.logged.clear()


@both
def test_target_names_are_canonical(selector: Selector) -> None:
    with Proxy(selector) as proxy:
        six = proxy.origin("::1")
        client = proxy.connect().send(
            f"CONNECT [0:0::0:1]:{six.port} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
        )
        client.expect(GRANTED)
        proxy.names.known["upper.test"] = ["::1"]
        client = proxy.connect().send(HELLO5 + connect5("UPPER.Test.", six.port))
        client.expect(METHOD5 + GRANTED5)
        hosts = [event.host for event in proxy.opened]
        assert hosts == [f"[::1]:{six.port}", f"upper.test:{six.port}"]
        assert str(Target("::1", six.port)) == hosts[0]
