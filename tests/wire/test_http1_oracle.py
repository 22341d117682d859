"""h11 reads the same messages as we do."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost_lite.errors import ProtocolError, Reason
from bifrost_lite.wire import chunked
from bifrost_lite.wire.http1 import Request, find_head_end, parse_request
from tests.wire.http1_cases import CHUNKED, HOST, LINE, NEXT, REFUSED, head, tokens, values

# Both read the same message; where both take it, they must agree on every
# word of it and on where it ends. Where they disagree on taking it, a row here says why.


class Disagreement(NamedTuple):
    why: str
    example: bytes
    applies: Callable[[bytes], object]


def found(pattern: bytes) -> Callable[[bytes], object]:
    return re.compile(pattern, re.IGNORECASE).search


WE_REFUSE = [
    Disagreement("bare LF as line end", head(b"X: a\nY: b"), found(rb"(?<!\r)\n")),
    Disagreement("folded fields", head(b"X: a", b" b"), found(rb"\n[ \t]")),
    Disagreement(
        "both a length and chunks",
        head(CHUNKED, b"Content-Length: 5"),
        found(rb"(?s)(?=.*content-length:).*transfer-encoding:"),
    ),
    Disagreement(
        "one length said twice",
        head(b"Content-Length: 5", b"Content-Length: 5"),
        found(rb"(?s)\ncontent-length:.*\ncontent-length:"),
    ),
    Disagreement("a list of lengths", head(b"Content-Length: 5, 5"), found(rb"length:[ 0-9]+,")),
    Disagreement(
        "a length of over 18 digits",
        head(b"Content-Length: 0000000000000000005"),
        found(rb"length: *[0-9]{19}"),
    ),
    Disagreement(
        "chunks in HTTP/1.0",
        head(CHUNKED, line=b"POST http://a/ HTTP/1.0"),
        found(rb"(?s)HTTP/1\.0.*transfer-encoding:"),
    ),
    Disagreement(
        "other versions", head(line=b"GET http://a/ HTTP/2.0"), found(rb" HTTP/[02-9]\.[0-9]\r?\n")
    ),
    Disagreement(
        "a method of over 32 bytes", head(line=b"M" * 33 + b" / HTTP/1.1"), found(rb"\A[^ ]{33}")
    ),
    Disagreement("control characters", head(b"X: a\x01b"), found(rb"[\x01-\x08\x0e-\x1f\x7f]")),
]
WE_TAKE = [
    Disagreement("an empty line first", b"\r\n" + head(), found(rb"\A\r\n")),
    Disagreement(
        "raw bytes over 127 in a target, which many clients send",
        head(line=b"GET http://a/\xc3\xa9 HTTP/1.1"),
        found(rb"\A(?:\r\n)?[^\r\n]*[\x80-\xff]"),
    ),
]


def h11_message(data: bytes) -> tuple[h11.Request, bytes, bytes] | None:
    """Request, body and rest as h11 reads them, None where it refuses or wants more."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    body = b""
    try:
        request = connection.next_event()
        if not isinstance(request, h11.Request):
            return None
        while isinstance(event := connection.next_event(), h11.Data):
            body += event.data
    except h11.RemoteProtocolError:
        return None
    if not isinstance(event, h11.EndOfMessage):
        return None
    return request, body, connection.trailing_data[0]


def our_message(data: bytes) -> tuple[Request, bytes, bytes] | None:
    """The same as we read them."""
    try:
        end = find_head_end(data)
        if end < 0:
            return None
        request = parse_request(data[:end])
        if request.chunked:
            decoder = chunked.Decoder(Reason.BAD_REQUEST)
            body = decoder.feed(data[end:])
            return (request, body, decoder.rest) if decoder.done else None
    except ProtocolError:
        return None
    size = request.content_length or 0
    if len(data) - end < size:
        return None
    return request, data[end : end + size], data[end + size :]


def agree(data: bytes) -> None:
    ours, theirs = our_message(data), h11_message(data)
    if ours is None:
        assert theirs is None or any(row.applies(data) for row in WE_REFUSE)
    elif theirs is None:
        assert any(row.applies(data) for row in WE_TAKE)
    else:
        request, event = ours[0], theirs[0]
        assert ours[1:] == theirs[1:]
        assert (request.method, request.target) == (event.method, event.target)
        assert b"1.%d" % request.minor == event.http_version
        # h11 puts the case of this one value right.
        assert [
            (name, value.lower() if name == b"transfer-encoding" else value)
            for name, value in request.headers
        ] == list(event.headers)


BODY = b"3\r\nabc\r\n0\r\n\r\n" + NEXT


@pytest.mark.parametrize("row", WE_REFUSE, ids=lambda row: row.why)
def test_we_refuse_what_h11_takes(row: Disagreement) -> None:
    assert our_message(row.example + BODY) is None
    assert h11_message(row.example + BODY) is not None
    assert row.applies(row.example)


@pytest.mark.parametrize("row", WE_TAKE, ids=lambda row: row.why)
def test_we_take_what_h11_refuses(row: Disagreement) -> None:
    assert our_message(row.example + BODY) is not None
    assert h11_message(row.example + BODY) is None
    assert row.applies(row.example)


@pytest.mark.parametrize("name", REFUSED)
def test_the_oracle_agrees_on_what_is_refused(name: str) -> None:
    agree(REFUSED[name][0] + BODY)


nasty_lines = st.lists(
    st.one_of(
        st.sampled_from(
            [
                HOST, b"host:b", CHUNKED, b"transfer-encoding:\tCHUNKED", b"Transfer-Encoding : x",
                b"Transfer-Encoding: chunked, chunked", b"Transfer-Encoding:\x0bchunked",
                b"Content-Length: 3", b"content-length:0", b"Content-Length: 3, 3", b"X",
                b"Content-Length: +3", b"Content-Length: 3\r", b"Content-Length: 30", b" fold",
                b"\tTransfer-Encoding: chunked", b"Connection: close", b"X: a\0", b"X: \x01", b":",
                b"", b"Expect: 100-continue", b"X: \xff", b"X\xff: y", b"Upgrade: h2c",
            ]
        ),
        st.tuples(tokens, values).map(b": ".join),
    ),
    max_size=5,
)  # fmt: skip
request_lines = st.sampled_from(
    [
        LINE, b"GET / HTTP/1.1", b"CONNECT a:1 HTTP/1.1", b"GET / HTTP/1.0", b"GET / HTTP/2.0",
        b"GET  / HTTP/1.1", b"GET /\xff HTTP/1.1", b"\r\nGET / HTTP/1.1", b"GET / HTTP/1.1 ",
    ]
)  # fmt: skip
line_ends = st.sampled_from([b"\r\n"] * 6 + [b"\n", b"\r", b"\r\r\n"])


@given(request_lines, st.booleans(), nasty_lines, st.data())
def test_oracle(line: bytes, host: bool, some: list[bytes], data: st.DataObject) -> None:
    lines = [line, *([HOST] if host else []), *some, b""]
    agree(b"".join(text + data.draw(line_ends) for text in lines) + BODY)
