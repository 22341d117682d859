"""One exchange through the proxy: where it goes, its body, and the answer in every framing."""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost_lite.errors import ProtocolError, Reason
from bifrost_lite.target import parse_authority
from bifrost_lite.wire.chunked import LAST, encode
from bifrost_lite.wire.exchange import Answer, Upload, host_field, split_target
from bifrost_lite.wire.http1 import RESPONSE_HEAD_LIMIT, Request, parse_request

WHOLE = 1 << 20
SIZES = [pytest.param(WHOLE, id="whole"), pytest.param(1, id="bytewise"), 2, 3, 7]
NEXT = b"GET http://b.example/ HTTP/1.1\r\nHost: b.example\r\n\r\n"


def request(
    *fields: bytes, method: bytes = b"GET", target: bytes = b"http://a.example/", minor: int = 1
) -> Request:
    line = b"%b %b HTTP/1.%d" % (method, target, minor)
    return parse_request(b"\r\n".join([line, b"Host: a.example", *fields, b"", b""]))


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


# Where it goes.


@pytest.mark.parametrize(
    ("target", "where", "path"),
    [
        (b"http://a.example/", "a.example:80", b"/"),
        (b"http://a.example", "a.example:80", b"/"),
        (b"http://a.example?q", "a.example:80", b"/?q"),
        (b"http://a.example/x?y=http://z/", "a.example:80", b"/x?y=http://z/"),
        (b"HTTP://A.Example:8080//x", "a.example:8080", b"//x"),
        (b"http://a.example./", "a.example:80", b"/"),
        (b"http://192.0.2.1:1/", "192.0.2.1:1", b"/"),
        (b"http://[2001:DB8::1]/", "[2001:db8::1]:80", b"/"),
        (b"http://a.example/\xe4@:", "a.example:80", b"/\xe4@:"),
    ],
)
def test_where_it_goes(target: bytes, where: str, path: bytes) -> None:
    found, rest = split_target(request(target=target))
    assert (str(found), rest) == (where, path)


def test_options_of_a_whole_server() -> None:
    """RFC 9112 section 3.2.4: without a path and query it becomes the asterisk-form."""
    for target, path in ((b"http://a.example", b"*"), (b"http://a.example?q", b"/?q")):
        assert split_target(request(method=b"OPTIONS", target=target))[1] == path


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (b"/", Reason.NOT_A_PROXY_REQUEST),
        (b"*", Reason.NOT_A_PROXY_REQUEST),
        (b"a.example:80", Reason.NOT_A_PROXY_REQUEST),
        (b"http:/a.example/", Reason.NOT_A_PROXY_REQUEST),
        (b"http:///x", Reason.NOT_A_PROXY_REQUEST),
        (b"http://?x", Reason.NOT_A_PROXY_REQUEST),
        (b"https://a.example/", Reason.UNSUPPORTED_SCHEME),
        (b"ftp://a.example/", Reason.UNSUPPORTED_SCHEME),
        (b"http://me@a.example/", Reason.BAD_REQUEST),
        (b"http://me:secret@a.example/", Reason.BAD_REQUEST),
        (b"http://a.example/#top", Reason.BAD_REQUEST),
        (b"http://a.example#top", Reason.BAD_REQUEST),
        (b"http://a.example:/", None),
        (b"http://a.example:0/", Reason.BAD_REQUEST),
        (b"http://a.example:65536/", Reason.BAD_REQUEST),
        (b"http://a.example:x/", Reason.BAD_REQUEST),
        (b"http://[::1/", Reason.BAD_REQUEST),
        (b"http://a..example/", Reason.BAD_REQUEST),
    ],
)
def test_where_it_cannot_go(target: bytes, reason: Reason | None) -> None:
    try:
        asked = request(target=target)
        found, _ = split_target(asked)
    except ProtocolError as error:
        assert error.reason is reason
    else:
        assert reason is None
        assert found.port == 80  # RFC 3986 section 3.2.3: an empty port is the default


@pytest.mark.parametrize(
    ("authority", "field"),
    [
        (b"a.example:80", b"a.example"),
        (b"a.example:8080", b"a.example:8080"),
        (b"[2001:db8::1]:80", b"[2001:db8::1]"),
        (b"192.0.2.1:180", b"192.0.2.1:180"),
    ],
)
def test_host_field(authority: bytes, field: bytes) -> None:
    assert host_field(parse_authority(authority, None)) == field


# Uploads.


class Uploaded(NamedTuple):
    sent: bytes
    upload: Upload
    behind: bytes


def upload(asked: Request, data: bytes, size: int) -> Uploaded:
    """What a body becomes that arrives in pieces."""
    upload = Upload(asked)
    sent = b""
    pieces = cut(data, size)
    while pieces and not upload.done:
        sent += upload.feed(pieces.pop(0))
    return Uploaded(sent, upload, upload.rest + b"".join(pieces))


def unchunked(data: bytes) -> bytes:
    """The payload of whole chunks as we write them."""
    payload = b""
    while data != LAST:
        found = re.match(rb"([0-9a-f]+)\r\n", data)
        assert found, data[:20]
        end = found.end() + int(found[1], 16)
        payload += data[found.end() : end]
        assert data[end : end + 2] == b"\r\n"
        data = data[end + 2 :]
    return payload


def test_a_request_without_a_body() -> None:
    for fields in ((), (b"Content-Length: 0",)):
        upload = Upload(request(*fields))
        assert (upload.done, upload.left, upload.chunked, upload.rest) == (True, 0, False, b"")


@pytest.mark.parametrize("behind", [b"", NEXT])
@pytest.mark.parametrize("size", SIZES)
def test_an_upload_of_known_length(size: int, behind: bytes) -> None:
    asked = request(b"Content-Length: 11", method=b"POST")
    done = upload(asked, b"hello world" + behind, size)
    assert done.sent == b"hello world"
    assert (done.upload.done, done.upload.left, done.behind) == (True, 0, behind)


def test_what_is_left_of_an_upload() -> None:
    upload = Upload(request(b"Content-Length: 1000000", method=b"PUT"))
    assert upload.left == 1000000
    assert upload.feed(b"12345") == b"12345"
    assert (upload.left, upload.done, upload.chunked) == (999995, False, False)


@pytest.mark.parametrize("behind", [b"", NEXT])
@pytest.mark.parametrize("size", SIZES)
def test_an_upload_in_chunks_is_chunked_anew(size: int, behind: bytes) -> None:
    body = b"5;secret=extension\r\nhello\r\n06\r\n world\r\n0\r\nX-Trailer: evil\r\n\r\n"
    done = upload(request(b"Transfer-Encoding: chunked", method=b"POST"), body + behind, size)
    assert unchunked(done.sent) == b"hello world"
    assert (done.upload.done, done.upload.chunked, done.behind) == (True, True, behind)


def test_a_broken_upload_is_the_clients_fault() -> None:
    upload = Upload(request(b"Transfer-Encoding: chunked", method=b"POST"))
    with pytest.raises(ProtocolError) as caught:
        upload.feed(b"x\r\n")
    assert caught.value.reason is Reason.BAD_REQUEST


@pytest.mark.parametrize("field", [b"Content-Length: 10", b"Transfer-Encoding: chunked"])
def test_an_abandoned_upload_is_never_done(field: bytes) -> None:
    upload = Upload(request(field, method=b"POST"))
    upload.feed(b"5\r\nhel")
    upload.abandon()
    assert (upload.done, upload.left, upload.chunked) == (False, 0, False)


# Answers.


class Case(NamedTuple):
    """An answer of a target, and what becomes of it for a client of HTTP/1.1.

    Attributes:
        head: of the target
        body: as it comes from the target, behind the head
        framing: the field lines of framing that the client gets
        payload: the body that the client gets
        keeps: whether the target's connection can carry another request
        left: what is left of the body behind the head
    """

    head: bytes
    body: bytes = b""
    framing: tuple[bytes, ...] = ()
    payload: bytes = b""
    keeps: bool = True
    left: int = 0
    method: bytes = b"GET"


CASES = {
    "length": Case(
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"hello", (b"Content-Length: 5",),
        b"hello", left=5,
    ),
    "empty": Case(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", framing=(b"Content-Length: 0",)),
    "chunked": Case(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"5;x=y\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
        (b"Transfer-Encoding: chunked",), b"hello",
    ),
    "chunked_over_length": Case(
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"5\r\nhello\r\n0\r\n\r\n", (b"Transfer-Encoding: chunked",), b"hello", keeps=False,
    ),
    "close": Case(
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\n", b"hello",
        (b"Content-Length: 5",), b"hello", keeps=False, left=5,
    ),
    "http10": Case(
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", b"hello", (b"Content-Length: 5",),
        b"hello", keeps=False, left=5,
    ),
    "head": Case(
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", framing=(b"Content-Length: 5",),
        method=b"HEAD",
    ),
    "not_modified": Case(
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", framing=(b"Content-Length: 5",)
    ),
    "no_content": Case(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "behind_interim": Case(
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        b"hello", (b"Content-Length: 5",), b"hello", left=5,
    ),
}  # fmt: skip
FRAMING = re.compile(rb"(?:content-length|transfer-encoding|connection):.*", re.I)


class Answered(NamedTuple):
    head: bytes
    framing: tuple[bytes, ...]
    payload: bytes
    answer: Answer


def answered(case: Case, asked: Request, size: int, behind: bytes = b"") -> Answered:
    """What an answer becomes that comes in pieces, bytes fed that could be moved."""
    answer = Answer(asked, via=False)
    out = b""
    for piece in cut(case.head, size):
        out += answer.feed(piece)
    assert answer.status
    assert answer.left == case.left
    body = case.body + behind
    if answer.left > 0:  # whoever moves bytes moves these past it
        out += body[: answer.left]
    else:
        for piece in cut(body, size):
            out += answer.feed(piece)
            if answer.done:
                break
    *interim, head, payload = out.split(b"\r\n\r\n", 1 + case.head.count(b"\r\n\r\n") - 1)
    framing = tuple(line for line in head.split(b"\r\n") if FRAMING.fullmatch(line))
    if any(b"chunked" in line for line in framing):
        payload = unchunked(payload)
    return Answered(head, framing, payload, answer)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CASES)
def test_an_answer(name: str, size: int) -> None:
    case = CASES[name]
    got = answered(case, request(method=case.method), size)
    assert (got.framing, got.payload) == (case.framing, case.payload)
    assert got.answer.keep_target == case.keeps
    assert got.answer.keep_client
    assert got.answer.done == (case.left == 0)
    assert not got.answer.until_close


@pytest.mark.parametrize("name", CASES)
def test_an_answer_in_one_read(name: str) -> None:
    case = CASES[name]
    for behind in (b"", b"HTTP/1.1 200 OK\r\n\r\n"):
        answer = Answer(request(method=case.method), via=False)
        out = answer.feed(case.head + case.body + behind)
        assert (answer.done, answer.left) == (True, 0)
        # What nobody asked for poisons the connection: it might answer the next request.
        assert answer.keep_target == (case.keeps and not behind)
        if b"chunked" not in out:
            assert out.endswith(b"\r\n\r\n" + case.payload)


@pytest.mark.parametrize("size", SIZES)
def test_an_answer_until_the_close(size: int) -> None:
    answer = Answer(request(), via=False)
    out = b"".join(answer.feed(piece) for piece in cut(b"HTTP/1.1 200 OK\r\n\r\n", size))
    assert out == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    assert (answer.left, answer.until_close, answer.done) == (-1, True, False)
    assert (answer.keep_client, answer.keep_target) == (False, False)


def test_an_answer_until_the_close_with_its_first_bytes() -> None:
    answer = Answer(request(), via=False)
    out = answer.feed(b"HTTP/1.0 200 OK\r\n\r\nhello")
    assert out == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello"


@pytest.mark.parametrize("size", SIZES)
def test_an_answer_for_http10(size: int) -> None:
    """RFC 9112 sections 6.1 and 9.3: no chunks, no interim answers, and a close."""
    asked = request(minor=0)
    for name in ("length", "chunked", "behind_interim", "chunked_over_length"):
        case = CASES[name]
        answer = Answer(asked, via=False)
        out = b"".join(answer.feed(piece) for piece in cut(case.head, size))
        if answer.left > 0:
            out += case.body
        else:
            out += b"".join(answer.feed(piece) for piece in cut(case.body, size))
        head, _, payload = out.partition(b"\r\n\r\n")
        assert payload == case.payload
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Connection: close" in head.split(b"\r\n")
        assert b"chunked" not in head
        assert not answer.keep_client


def test_a_client_that_will_not_be_kept() -> None:
    for asked in (request(b"Connection: close"), request()):
        answer = Answer(asked, via=False)
        answer.keep_client = False
        assert b"\r\nConnection: close\r\n" in answer.feed(CASES["length"].head)
    assert not Answer(request(b"Connection: close"), via=False).keep_client


@pytest.mark.parametrize("size", SIZES)
def test_an_interim_answer_is_passed(size: int) -> None:
    answer = Answer(request(b"Expect: 100-continue", b"Content-Length: 1", method=b"PUT"), False)
    assert not answer.touched
    out = b"".join(answer.feed(p) for p in cut(b"HTTP/1.1 100 Continue\r\n\r\n", size))
    assert out == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert (answer.status, answer.done, answer.touched) == (0, False, True)


SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: chat\r\nConnection: upgrade\r\n\r\n"


@pytest.mark.parametrize("size", SIZES)
def test_a_switch_of_protocols(size: int) -> None:
    answer = Answer(request(b"Connection: upgrade", b"Upgrade: chat"), via=False)
    out = b""
    pieces = cut(SWITCH + b"\x00hi", size)
    while pieces and not answer.upgraded:
        out += answer.feed(pieces.pop(0))
    assert sorted(out.split(b"\r\n")) == sorted(SWITCH.split(b"\r\n"))
    assert answer.rest + b"".join(pieces) == b"\x00hi"
    assert answer.status == 101


def test_via() -> None:
    out = Answer(request(), via=True).feed(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert b"\r\nVia: 1.0 bifrost-lite\r\n" in out


BROKEN = {
    "no_http": b"SSH-2.0-x\r\n\r\n",
    "unasked_switch": SWITCH,
    "two_lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "bad_length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    "not_chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    "bad_chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
    "endless_head": b"HTTP/1.1 200 OK\r\nA: ".ljust(RESPONSE_HEAD_LIMIT + 1, b"a"),
}


@pytest.mark.parametrize("size", [WHOLE, 97])
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_answer_is_the_targets_fault(name: str, size: int) -> None:
    answer = Answer(request(), via=False)
    with pytest.raises(ProtocolError) as caught:
        for piece in cut(BROKEN[name], size):
            answer.feed(piece)
    assert caught.value.reason is Reason.BAD_RESPONSE


def test_a_coding_that_http10_cannot_have() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"
    assert b"\r\nTransfer-Encoding: gzip, chunked\r\n" in Answer(request(), False).feed(head)
    with pytest.raises(ProtocolError) as caught:
        Answer(request(minor=0), False).feed(head)
    assert caught.value.reason is Reason.BAD_RESPONSE


# Any pieces.

payloads = st.lists(st.binary(min_size=1, max_size=40), max_size=6)


def pieces_of(data: bytes, draw: st.DataObject) -> list[bytes]:
    marks = sorted(draw.draw(st.sets(st.integers(0, len(data)), max_size=10)))
    return [data[a:b] for a, b in zip([0, *marks], [*marks, len(data)], strict=True) if a < b]


@given(payloads, st.binary(max_size=30), st.data())
def test_any_upload_in_any_pieces(parts: list[bytes], behind: bytes, draw: st.DataObject) -> None:
    body = b"".join(parts)
    chunks = b"".join(encode(part) for part in parts) + LAST
    for field, data in (
        (b"Transfer-Encoding: chunked", chunks),
        (b"Content-Length: %d" % len(body), body),
    ):
        upload = Upload(request(field, method=b"POST"))
        sent = b""
        pieces = pieces_of(data + behind, draw)
        while pieces and not upload.done:
            sent += upload.feed(pieces.pop(0))
        assert upload.done
        assert (unchunked(sent) if data is chunks else sent) == body
        assert upload.rest + b"".join(pieces) == behind


@given(payloads, st.integers(0, 1), st.data())
def test_any_answer_in_any_pieces(parts: list[bytes], minor: int, draw: st.DataObject) -> None:
    body = b"".join(parts)
    chunks = b"".join(encode(part) for part in parts) + LAST
    for field, data in (
        (b"Transfer-Encoding: chunked", chunks),
        (b"Content-Length: %d" % len(body), body),
    ):
        answer = Answer(request(minor=minor), via=False)
        out = b""
        for piece in pieces_of(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % field + data, draw):
            if answer.left > 0:
                out += piece[: answer.left]
                answer.left -= len(piece)
            else:
                out += answer.feed(piece)
        assert answer.done or data is body
        _, _, payload = out.partition(b"\r\n\r\n")
        assert (unchunked(payload) if data is chunks and minor else payload) == body
