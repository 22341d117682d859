"""Talks with upstream proxies: no byte too many, however the answers come."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost_lite.errors import ProtocolError, Reason
from bifrost_lite.target import Target, from_host, parse_authority
from bifrost_lite.wire.http1 import parse_request
from bifrost_lite.wire.socks import read_greeting, read_request
from bifrost_lite.wire.upstream import (
    ANSWER_LIMIT,
    ConnectTalk,
    SocksTalk,
    Talk,
    basic,
    connect_request,
    socks_login,
    socks_request,
)

NAME = from_host(b"www.example.com", 443)
LOGIN = socks_login("me", "secret")
BEHIND = b"\0SSH-2.0-target\r\n\r\n\x05\x00"
NO_LOGIN = b"\x05\x00"
GRANTED5 = b"\x05\x00\x00\x01" + bytes(6)
GRANTED = b"HTTP/1.1 200 Connection established\r\n\r\n"
# What RFC 9110 says of a target that fails, and of everything else.
STATUSES = {
    401: Reason.UPSTREAM_AUTH,
    403: Reason.UPSTREAM_DENIED,
    407: Reason.UPSTREAM_AUTH,
    504: Reason.CONNECT_TIMEOUT,
    **dict.fromkeys((300, 302, 400, 404, 405, 500, 502, 503, 599), Reason.CONNECT_FAILED),
}
REPLIES = {
    1: Reason.CONNECT_FAILED,
    2: Reason.UPSTREAM_DENIED,
    3: Reason.NET_UNREACHABLE,
    4: Reason.HOST_UNREACHABLE,
    5: Reason.CONNECT_REFUSED,
    6: Reason.CONNECT_TIMEOUT,
    **dict.fromkeys((7, 8, 9, 0xFF), Reason.CONNECT_FAILED),
}


def socks(login: bytes = b"", target: Target = NAME) -> SocksTalk:
    return SocksTalk(target, login)


def http(target: Target = NAME) -> ConnectTalk:
    return ConnectTalk(target, b"")


def run(talk: Talk, data: bytes, sizes: tuple[int, ...] = ()) -> tuple[bytes, bytes]:
    """Hand `data` over in pieces of these sizes, then the rest at once, as a socket would;
    answers what the talk sent and what it left of the data."""
    out, talk.out = talk.out, b""
    pieces = iter(sizes)
    while data and not talk.granted:
        taken = talk.feed(data[: next(pieces, len(data))])
        assert taken > 0
        data = data[taken:]
        out += talk.out
        talk.out = b""
    return out, data


def granted(make: Callable[[], Talk], answer: bytes) -> bytes:
    """What is sent when `answer` grants; the same byte by byte, at once and with bytes behind
    it, of which none is taken."""
    sent = set()
    for behind in (b"", b"x", BEHIND):
        for sizes in ((), (1,) * len(answer), (1,) * (len(answer) - 1), (len(answer) - 1,)):
            talk = make()
            out, rest = run(talk, answer + behind, sizes)
            assert (talk.granted, rest) == (True, behind)
            sent.add(out)
        for end in range(len(answer)):
            talk = make()
            run(talk, answer[:end])
            assert not talk.granted
    (out,) = sent
    return out


def refused(make: Callable[[], Talk], answer: bytes) -> Reason:
    """Why, the same byte by byte and whatever follows."""
    reasons = set()
    for sizes in ((), (1,) * len(answer)):
        for behind in (b"", BEHIND):
            with pytest.raises(ProtocolError) as caught:
                run(make(), answer + behind, sizes)
            reasons.add(caught.value.reason)
            assert caught.value.args[0].isascii()
    (reason,) = reasons
    return reason


# SOCKS5, what is sent.


@pytest.mark.parametrize("text", ["www.example.com:443", "192.0.2.1:80", "[2001:db8::1]:65535"])
def test_a_server_understands_the_request(text: str) -> None:
    target = parse_authority(text.encode(), None)
    request = socks_request(target)
    assert read_request(request + BEHIND) == (1, target, len(request))


def test_the_longest_name() -> None:
    name = b".".join([b"a" * 63] * 3 + [b"b" * 61])
    request = socks_request(from_host(name, 1))
    assert request == b"\x05\x01\x00\x03\xfd" + name + b"\x00\x01"


def test_the_login() -> None:
    assert socks_login("me", "secret") == b"\x01\x02me\x06secret"
    assert socks_login("é", "") == b"\x01\x02\xc3\xa9\x00"
    assert socks_login("u" * 255, "p" * 255) == b"\x01\xff" + b"u" * 255 + b"\xff" + b"p" * 255


@pytest.mark.parametrize("credentials", [("u" * 256, ""), ("u", "p" * 256), ("é" * 128, "")])
def test_a_login_too_long(credentials: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="255 bytes"):
        socks_login(*credentials)


# SOCKS5, what is answered.

ADDRESSES = {
    "ipv4": b"\x01" + bytes(6),
    "ipv6": b"\x04" + bytes(18),
    "name": b"\x03\x0bexample.com\x01\xbb",
    "no name": b"\x03\x00\x00\x00",
    "longest name": b"\x03\xff" + b"n" * 255 + b"\x00\x50",
}


@pytest.mark.parametrize("address", ADDRESSES.values(), ids=ADDRESSES)
def test_a_tunnel_without_login(address: bytes) -> None:
    sent = granted(socks, NO_LOGIN + b"\x05\x00\x00" + address)
    assert sent == b"\x05\x01\x00" + socks_request(NAME)
    assert read_greeting(sent) == (b"\x00", 3)


@pytest.mark.parametrize("version", [1, 5])
def test_a_tunnel_with_login(version: int) -> None:
    answer = b"\x05\x02" + bytes((version, 0)) + GRANTED5
    sent = granted(lambda: socks(LOGIN), answer)
    assert sent == b"\x05\x02\x00\x02" + LOGIN + socks_request(NAME)


def test_a_login_that_nobody_asks_for() -> None:
    sent = granted(lambda: socks(LOGIN), NO_LOGIN + GRANTED5)
    assert sent == b"\x05\x02\x00\x02" + socks_request(NAME)


def test_each_message_waits_for_its_answer() -> None:
    talk = socks(LOGIN)
    for answer, out in (
        (b"", b"\x05\x02\x00\x02"),
        (b"\x05", b""),
        (b"\x02", LOGIN),
        (b"\x01\x00", socks_request(NAME)),
        (GRANTED5, b""),
    ):
        if answer:
            assert talk.feed(answer) == len(answer)
        assert talk.out == out
        talk.out = b""
    assert talk.granted


@pytest.mark.parametrize("code", REPLIES)
@pytest.mark.parametrize("rest", [b"", b"\0", b"\0\1" + bytes(6), b"\0\x09"])
def test_a_refusal_even_if_cut_short(code: int, rest: bytes) -> None:
    assert refused(socks, NO_LOGIN + b"\x05" + bytes((code,)) + rest) is REPLIES[code]


@pytest.mark.parametrize("login", [b"", LOGIN])
def test_no_method_is_good_enough(login: bytes) -> None:
    assert refused(lambda: socks(login), b"\x05\xff") is Reason.UPSTREAM_AUTH


@pytest.mark.parametrize("code", [1, 2, 0xFF])
def test_a_login_refused(code: int) -> None:
    answer = b"\x05\x02\x01" + bytes((code,))
    assert refused(lambda: socks(LOGIN), answer) is Reason.UPSTREAM_AUTH


@pytest.mark.parametrize(
    ("login", "answer"),
    [
        (b"", b"\x04"),
        (b"", b"\x00\x5a"),
        (b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        (b"", b"\x05\x01"),
        (b"", b"\x05\x02"),
        (LOGIN, b"\x05\x01"),
        (LOGIN, b"\x05\x02\x00"),
        (LOGIN, b"\x05\x02\x02\x00"),
        (b"", NO_LOGIN + b"\x00"),
        (b"", NO_LOGIN + b"\x04\x00"),
        (b"", NO_LOGIN + b"\x05\x00\x00\x00\x00"),
        (b"", NO_LOGIN + b"\x05\x00\x00\x02\x00"),
    ],
)
def test_no_socks5(login: bytes, answer: bytes) -> None:
    assert refused(lambda: socks(login), answer) is Reason.UPSTREAM_FAILED


# CONNECT, what is sent.


def test_basic() -> None:
    # The example of RFC 7617 section 2.
    assert basic("Aladdin", "open sesame") == b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
    assert basic("test", "123£") == b"Basic dGVzdDoxMjPCow=="
    assert b"\n" not in basic("u" * 200, "p" * 200)


@pytest.mark.parametrize("text", ["www.example.com:443", "192.0.2.1:80", "[2001:db8::1]:443"])
def test_the_request(text: str) -> None:
    target = parse_authority(text.encode(), None)
    request = parse_request(connect_request(target, b""))
    assert (request.method, request.target) == (b"CONNECT", text.encode())
    assert request.headers == [(b"host", text.encode())]
    request = parse_request(connect_request(target, basic("a", "b")))
    assert request.headers[1:] == [(b"proxy-authorization", b"Basic YTpi")]


# CONNECT, what is answered.


@pytest.mark.parametrize(
    "answer",
    [
        GRANTED,
        b"HTTP/1.0 200 Connection established\r\nProxy-agent: tinyproxy/1.11.1\r\n\r\n",
        b"HTTP/1.1 200\r\n\r\n",
        b"HTTP/1.1 200 \r\n\r\n",
        b"HTTP/1.1 201 \xc3\xa9\r\n\r\n",
        b"HTTP/1.1 299 OK\nServer: old\n\n",
        # RFC 9110 section 9.3.6: both mean nothing in this answer.
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + GRANTED,
        b"HTTP/1.1 102 Processing\r\nX: y\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + GRANTED,
    ],
)
def test_a_tunnel(answer: bytes) -> None:
    assert granted(http, answer) == connect_request(NAME, b"")


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_refusal(status: int, version: bytes) -> None:
    head = b"HTTP/%b %d No\r\nContent-Length: 2\r\n\r\n" % (version, status)
    assert refused(http, head) is STATUSES[status]
    assert refused(http, b"HTTP/1.1 100 Continue\r\n\r\n" + head + b"no") is STATUSES[status]


@pytest.mark.parametrize(
    "answer",
    [
        b"X",
        b"\0",
        b"\r\n",
        b"\x05\x00",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/2",
        b"HTTP/1.2 200 OK\r\n",
        b"HTTP/1.1 20 OK\r\n",
        b"HTTP/1.1 2000 OK\r\n",
        b"HTTP/1.1 099 OK\r\n",
        b"HTTP/1.1  200 OK\r\n",
        b"HTTP/1.1 200 O\0K\r\n",
        b"HTTP/1.1 200 O\rK\r\n",
        b"http/1.1 200 OK\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n\0",
        b"HTTP/1.1 100 Continue\r\n\r\n\r\n" + GRANTED,
    ],
)
def test_no_http(answer: bytes) -> None:
    assert refused(http, answer) is Reason.UPSTREAM_FAILED


@pytest.mark.parametrize("interim", [b"", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_the_largest_answer(interim: bytes) -> None:
    frame = len(interim) + len(b"HTTP/1.1 200 OK\r\nX: \r\n\r\n")
    answer = interim + b"HTTP/1.1 200 OK\r\nX: %b\r\n\r\n" % (b"x" * (ANSWER_LIMIT - frame))
    assert len(answer) == ANSWER_LIMIT
    for sizes in ((), (1,) * len(answer), (len(answer) - 1,)):
        talk = http()
        assert run(talk, answer + BEHIND, sizes)[1] == BEHIND
        assert talk.granted
    too_large = answer.replace(b"X:", b"XY:")
    assert refused(http, too_large[:ANSWER_LIMIT]) is Reason.UPSTREAM_FAILED
    assert refused(http, too_large) is Reason.UPSTREAM_FAILED


def test_interim_answers_without_end() -> None:
    assert refused(http, b"HTTP/1.1 100 Continue\r\n\r\n" * 1000) is Reason.UPSTREAM_FAILED


# Whatever comes.

pieces = st.lists(st.integers(1, 40), max_size=60).map(tuple)
socks_like = st.lists(
    st.sampled_from(
        [NO_LOGIN, b"\x05\x02", b"\x05\xff", b"\x01\x00", b"\x01\x01", GRANTED5, b"\x05\x05\0"]
        + [b"\x05\x00\x00" + address for address in ADDRESSES.values()]
    )
    | st.binary(max_size=4),
    max_size=6,
).map(b"".join)
http_like = st.lists(
    st.sampled_from(
        [GRANTED, b"HTTP/1.1 ", b"HTTP/1.0 ", b"100 ", b"200", b"407 No", b"\r\n", b"\n", b"A: b"]
    )
    | st.binary(max_size=4),
    max_size=12,
).map(b"".join)
makers: dict[str, tuple[Callable[[], Talk], st.SearchStrategy[bytes]]] = {
    "socks": (socks, socks_like),
    "login": (lambda: socks(LOGIN), socks_like),
    "http": (http, http_like),
}


@pytest.mark.parametrize("kind", makers)
@given(data=st.data())
def test_any_bytes_in_any_pieces(kind: str, data: st.DataObject) -> None:
    """The outcome does not depend on how they come, and only the reasons that `Talk` names
    come of it."""
    make, strategy = makers[kind]
    stream = data.draw(strategy)
    outcomes = []
    for sizes in ((), data.draw(pieces), (1,) * len(stream)):
        talk = make()
        try:
            outcomes.append((*run(talk, stream, sizes), talk.granted))
        except ProtocolError as error:
            assert error.reason.name.startswith("UPSTREAM_") or error.reason in REPLIES.values()
            outcomes.append(error.reason)
    assert outcomes[0] == outcomes[1] == outcomes[2]
