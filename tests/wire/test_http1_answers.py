from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost_lite.errors import ProtocolError, Reason
from bifrost_lite.wire.http1 import (
    RESPONSE_FIELD_LIMIT,
    RESPONSE_HEAD_LIMIT,
    Response,
    find_response_end,
    parse_response,
    write_response,
)
from tests.wire.http1_cases import CHUNKED, WHOLE, cut, framings, names, values

OK = b"HTTP/1.1 200 OK"


def answer(*fields: bytes, line: bytes = OK) -> bytes:
    return b"".join(text + b"\r\n" for text in (line, *fields)) + b"\r\n"


def take(data: bytes, method: bytes = b"GET") -> Response:
    end = find_response_end(data)
    assert end >= 0
    return parse_response(data[:end], method)


def bad_answer(data: bytes, method: bytes = b"GET") -> str:
    with pytest.raises(ProtocolError) as caught:
        take(data, method)
    assert caught.value.reason is Reason.BAD_RESPONSE
    return caught.value.detail


def test_answer() -> None:
    response = take(answer(b"Server: x", b"Content-Length: 5", b"Set-Cookie: a", b"set-cookie: b"))
    assert (response.minor, response.status, response.phrase) == (1, 200, b"OK")
    assert (response.length, response.announced, response.chunked) == (5, 5, False)
    assert response.keep_alive
    assert response.kept == b"Server: x\r\nSet-Cookie: a\r\nset-cookie: b\r\n"
    assert response.get(b"set-cookie") == b"a"


@pytest.mark.parametrize("end", [b"\r\n\r\n", b"\n\n", b"\n\r\n", b"\r\n\n"])
@pytest.mark.parametrize("rest", [b"", b"\r\n", b"\n", b"\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_the_end_of_an_answer(end: bytes, rest: bytes) -> None:
    """The first empty line ends the head, however the bytes arrive and whatever follows."""
    for lines in (OK, OK + b"\r\nX: y", OK + b"\nX: y"):
        data = lines + end + rest
        for step in (1, 2, 3, WHOLE):
            seen = 0
            for buffer in cut(data, step):
                at = find_response_end(buffer, seen)
                assert at == find_response_end(buffer)
                if at >= 0:
                    break
                seen = len(buffer)
            assert data[:at] == lines + end
        assert take(data).status == 200


def test_an_answer_that_trickles_in_is_searched_once() -> None:
    """What was searched is not looked at again: with `seen`, an end before it goes unnoticed."""
    data = b"\r\n\r\n" + b"x" * 100
    assert find_response_end(data, 0) == 4
    assert find_response_end(data, 50) == -1


@pytest.mark.parametrize("size", [RESPONSE_HEAD_LIMIT - 1, RESPONSE_HEAD_LIMIT])
def test_large_heads_of_answers_are_taken(size: int) -> None:
    data = answer(b"X: ".ljust(size - len(answer()) - 2, b"x"))
    assert len(data) == size
    assert take(data + b"body").status == 200
    assert find_response_end(data[:-1]) == -1


@pytest.mark.parametrize("complete", [True, False])
def test_larger_heads_of_answers_are_not(complete: bool) -> None:
    data = answer(b"X: ".ljust(RESPONSE_HEAD_LIMIT - len(answer()) - 1, b"x"))
    with pytest.raises(ProtocolError) as caught:
        find_response_end(data if complete else data[:-4] + b"xxxx")
    assert caught.value.reason is Reason.BAD_RESPONSE


def test_fields_of_answers_are_counted() -> None:
    assert len(take(answer(*[b"X: y"] * RESPONSE_FIELD_LIMIT)).headers) == RESPONSE_FIELD_LIMIT
    assert "400 fields" in bad_answer(answer(*[b"X: y"] * (RESPONSE_FIELD_LIMIT + 1)))


# Servers are the target's choice, not the client's, and old ones are many: what is wrong with a
# head but has one meaning is put right, and the client gets it written anew.
@pytest.mark.parametrize(
    ("data", "kept"),
    [
        (b"HTTP/1.1 200 OK\nX: a\nY: b\n\n", b"X: a\r\nY: b\r\n"),
        (b"HTTP/1.1 200 OK\r\nX: a\nY: b\r\n\n", b"X: a\r\nY: b\r\n"),
        (b"HTTP/1.1 200 OK\nX: a\r\n\r\n", b"X: a\r\n"),
        (answer(b"X: a", b" b", b"\t c", b"Y: d"), b"X: a b c\r\nY: d\r\n"),
        (answer(b"X: a", b" ", b"Y: d"), b"X: a \r\nY: d\r\n"),
        (answer(b"X : a", b"Y\t \t:b"), b"X: a\r\nY:b\r\n"),
        (answer(b"X: \xe4\xff", b"Y:"), b"X: \xe4\xff\r\nY:\r\n"),
    ],
)
def test_sloppy_answers(data: bytes, kept: bytes) -> None:
    response = take(data)
    assert response.kept == kept
    assert response.block == kept


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        ([b"Content-Length : 5"], 5),
        ([b"Content-Length:", b" 5"], 5),
        ([b"Transfer-Encoding\t: chunked"], None),
        ([b"Transfer-Encoding:", b"\tchunked"], None),
    ],
)
def test_sloppy_framing_is_understood(fields: list[bytes], length: int | None) -> None:
    """Read past it, and the body would be what the next request is answered with."""
    response = take(answer(*fields))
    assert (response.length, response.chunked) == (length, length is None)
    assert response.kept == b""


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n",
        b"\n\n",
        b"garbage\r\n\r\n",
        b"<html>\n\n",
        b"\r\n" + answer(),
        answer(line=b"HTTP/1.1"),
        answer(line=b"HTTP/1.1 20 OK"),
        answer(line=b"HTTP/1.1 2000 OK"),
        answer(line=b"HTTP/1.1 099 OK"),
        answer(line=b"HTTP/1.1 +20 OK"),
        answer(line=b"HTTP/1.1 200OK"),
        answer(line=b"HTTP/1.1  200 OK"),
        answer(line=b"HTTP/1.1\t200 OK"),
        answer(line=b"HTTP/2.0 200 OK"),
        answer(line=b"HTTP/0.9 200 OK"),
        answer(line=b"HTTP/1 200 OK"),
        answer(line=b"http/1.1 200 OK"),
        answer(line=b"ICY 200 OK"),
        answer(line=b"HTTP/1.1 200 O\0K"),
        answer(line=b"HTTP/1.1 200 O\rK"),
        answer(line=b"HTTP/1.1 200 \x1b[2J"),
        answer(line=b"GET / HTTP/1.1"),
    ],
)
def test_bad_status_lines(data: bytes) -> None:
    assert bad_answer(data) == "the answer has no HTTP/1 status line"


@pytest.mark.parametrize(
    "field",
    [
        b"X",
        b": a",
        b"a b: c",
        b"X: a\0b",
        b"X\0: a",
        b"X\xff: a",
        b"X: a\rb",
        b"X: a\r",
        b"\rX: a",
        b"X: \x1b[2J",
        b"X: a\x0bb",
        b"X: \x7f",
    ],
)
def test_bad_fields_of_answers(field: bytes) -> None:
    detail = "a line of the answer's head is not 'name: value'"
    assert bad_answer(answer(b"A: b", field)) == detail


def test_a_fold_needs_a_field_before_it() -> None:
    """RFC 9112 section 2.2: what is folded into the status line is no phrase."""
    assert bad_answer(answer(b" Transfer-Encoding: chunked", b"Content-Length: 5")) == (
        "a line of the answer's head is not 'name: value'"
    )


@pytest.mark.parametrize(
    ("line", "status", "phrase"),
    [
        (b"HTTP/1.1 200", 200, b""),
        (b"HTTP/1.1 200 ", 200, b""),
        (b"HTTP/1.1 404 Nicht gefunden \xfc", 404, b"Nicht gefunden \xfc"),
        (b"HTTP/1.0 999 a  b\t", 999, b"a  b\t"),
    ],
)
def test_status_lines(line: bytes, status: int, phrase: bytes) -> None:
    response = take(answer(line=line))
    assert (response.status, response.phrase) == (status, phrase)


# How the body of an answer ends: RFC 9112 section 6.3, and what safety adds.
CLOSE, CHUNKS = -1, -2
LENGTH = b"Content-Length: 5"


@pytest.mark.parametrize(
    ("line", "fields", "body", "keep_alive"),
    [
        # A length is one number, however often it is said.
        (OK, [LENGTH], 5, True),
        (OK, [LENGTH, b"content-length:5"], 5, True),
        (OK, [b"Content-Length: 5, 5", LENGTH], 5, True),
        (OK, [b"Content-Length: 0"], 0, True),
        (OK, [LENGTH, b"Connection: close"], 5, False),
        # Chunks win over a length, but then the connection is worn out: RFC 9112 section 6.3.
        (OK, [CHUNKED], CHUNKS, True),
        (OK, [b"Transfer-Encoding: gzip, Chunked"], CHUNKS, True),
        (OK, [b"Transfer-Encoding: gzip", CHUNKED], CHUNKS, True),
        (OK, [CHUNKED, LENGTH], CHUNKS, False),
        (OK, [LENGTH, b"Content-Length: 6", CHUNKED], CHUNKS, False),
        # Neither: the end of the connection is the end of the body.
        (OK, [], CLOSE, False),
        (OK, [b"Connection: keep-alive"], CLOSE, False),
        # HTTP/1.0 keeps a connection only where it says so, and never after chunks.
        (b"HTTP/1.0 200 OK", [], CLOSE, False),
        (b"HTTP/1.0 200 OK", [LENGTH], 5, False),
        (b"HTTP/1.0 200 OK", [LENGTH, b"Connection: Keep-Alive"], 5, True),
        (b"HTTP/1.0 200 OK", [CHUNKED, b"Connection: keep-alive"], CHUNKS, False),
        # No body, whatever is announced.
        (b"HTTP/1.1 100 Continue", [], 0, True),
        (b"HTTP/1.1 103 Early Hints", [b"Link: </x>"], 0, True),
        (b"HTTP/1.1 101 Switching Protocols", [b"Upgrade: websocket"], 0, True),
        (b"HTTP/1.1 304 Not Modified", [LENGTH], 0, True),
        (b"HTTP/1.1 304 Not Modified", [CHUNKED], 0, True),
        (b"HTTP/1.1 204 No Content", [], 0, True),
        (b"HTTP/1.1 204 No Content", [b"Content-Length: 0"], 0, True),
        # A 204 must not announce a body. One that does may send it, and what comes would be
        # taken for the answer to the next request.
        (b"HTTP/1.1 204 No Content", [LENGTH], 0, False),
        (b"HTTP/1.1 204 No Content", [CHUNKED], 0, False),
        (b"HTTP/1.1 205 Reset Content", [b"Content-Length: 0"], 0, True),
    ],
)
def test_framing(line: bytes, fields: list[bytes], body: int, keep_alive: bool) -> None:
    response = take(answer(*fields, line=line))
    if body < 0:
        assert response.length is None
    else:
        assert response.length == body
    assert response.chunked == (body == CHUNKS)
    assert response.keep_alive == keep_alive
    assert b"ncoding" not in response.kept
    assert b"ength" not in response.kept


@pytest.mark.parametrize("fields", [[], [LENGTH], [CHUNKED], [CHUNKED, LENGTH]])
def test_an_answer_to_head_has_no_body(fields: list[bytes]) -> None:
    response = take(answer(*fields), b"HEAD")
    assert (response.length, response.chunked, response.keep_alive) == (0, False, True)
    assert response.announced == (5 if LENGTH in fields else None)


def test_codings_of_an_answer() -> None:
    response = take(answer(b"Transfer-Encoding: GZip , x-y", b"transfer-encoding:\tchunked"))
    assert response.encoding == b"gzip, x-y, chunked"


# A response that can be read in two ways could poison whatever is behind us: an answer to one
# question would be kept for another one. 502, and the connection to the target is closed.
@pytest.mark.parametrize(
    "value",
    [
        b"", b"-5", b"+5", b"0x5", b"5 5", b"5;6", b"5, 6", b"5, 05", b"5,", b",5", b"5,,5",
        b"9" * 19, b"\xd9\xa5",
    ],
)  # fmt: skip
def test_bad_lengths_of_answers(value: bytes) -> None:
    assert "Content-Length" in bad_answer(answer(b"Content-Length: " + value))


def test_different_lengths_of_answers() -> None:
    assert "Content-Length" in bad_answer(answer(LENGTH, b"Content-Length: 6"))


@pytest.mark.parametrize(
    "value",
    [
        b"", b"gzip", b"identity", b"chunked, gzip", b"chunked, identity", b"chunked, chunked",
        b"xchunked", b"chunked;q=1", b"chunked,", b",chunked", b"a b, chunked", b"gz\xff, chunked",
        b'"x, chunked', b"gzip;x=y, chunked", b"chunked chunked",
    ],
)  # fmt: skip
def test_bad_codings_of_answers(value: bytes) -> None:
    assert "Transfer-Encoding" in bad_answer(answer(b"Transfer-Encoding: " + value))


def test_two_final_chunkeds_in_two_fields() -> None:
    assert "Transfer-Encoding" in bad_answer(answer(CHUNKED, CHUNKED))


def test_switching_protocols_needs_a_name() -> None:
    line = b"HTTP/1.1 101 Switching Protocols"
    assert "switches protocols" in bad_answer(answer(b"Connection: upgrade", line=line))
    response = take(answer(b"Connection: Upgrade", b"Upgrade: websocket", b"X: y", line=line))
    assert write_response(response, b"upgrade", b"", False) == (
        b"HTTP/1.1 101 Switching Protocols\r\nX: y\r\nConnection: upgrade\r\n"
        b"Upgrade: websocket\r\n\r\n"
    )


def test_only_the_end_to_end_fields_of_an_answer_go_on() -> None:
    response = take(
        answer(
            b"Connection: X-Secret, keep-alive",
            b"x-secret: 1",
            b"Keep-Alive: timeout=5",
            b"Proxy-Connection: keep-alive",
            b"Proxy-Authenticate: Basic",
            b"Upgrade: h2c",
            b"Trailer: X",
            b"Host: b.example",
            b"Via: 1.0 other",
            CHUNKED,
            LENGTH,
            line=b"HTTP/1.0 200 Fine",
        )
    )
    framing = b"Transfer-Encoding: %b\r\n" % response.encoding
    assert write_response(response, b"close", framing, True) == (
        b"HTTP/1.1 200 Fine\r\nVia: 1.0 other\r\nTransfer-Encoding: chunked\r\n"
        b"Connection: close\r\nVia: 1.0 bifrost-lite\r\n\r\n"
    )


phrases = values
statuses = st.integers(200, 999).filter(lambda status: status not in (204, 304))
sloppy_ends = st.sampled_from([b"\r\n", b"\n"])
sloppy_colons = st.sampled_from([b":", b": ", b" :", b"\t : \t"])


@given(statuses, phrases, st.lists(st.tuples(names, values), max_size=6), framings, st.data())
def test_generated_answers(
    status: int,
    phrase: bytes,
    some: list[tuple[bytes, bytes]],
    framing: list[tuple[bytes, bytes]],
    data: st.DataObject,
) -> None:
    """Written sloppily or not, an answer reads as what it says, and leaves as h11 likes it."""
    lines = [b"HTTP/1.1 %d %b" % (status, phrase)]
    lines += [name + data.draw(sloppy_colons) + value for name, value in framing + some]
    raw = b"".join(line + data.draw(sloppy_ends) for line in [*lines, b""])
    assert find_response_end(raw + b"\n\nbody") == len(raw)
    response = parse_response(raw, b"GET")
    assert (response.status, response.phrase) == (status, phrase)
    assert response.headers == [(name.lower(), value) for name, value in framing + some]
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    written = b"".join(b"%b: %b\r\n" % field for field in framing)
    connection.receive_data(write_response(response, b"", written, False))
    event = connection.next_event()
    assert isinstance(event, h11.Response)
    assert (event.status_code, event.reason) == (status, phrase)
    assert sorted(event.headers) == sorted((name.lower(), value) for name, value in framing + some)


@given(st.binary(max_size=200), st.sampled_from([b"", OK + b"\n", answer(LENGTH)[:-2]]))
def test_random_answers_are_taken_or_refused(noise: bytes, first: bytes) -> None:
    for data in (first + noise, first + noise + b"\n\n"):
        try:
            end = find_response_end(data)
            response = parse_response(data[:end] if end >= 0 else data, b"GET")
        except ProtocolError as error:
            assert error.reason is Reason.BAD_RESPONSE  # noqa: PT017
        else:
            assert b"\n" not in response.kept.replace(b"\r\n", b"")
            assert b"\r" not in response.kept.replace(b"\r\n", b"")
