from __future__ import annotations

from collections.abc import Iterator

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost_lite.errors import ProtocolError, Reason
from bifrost_lite.wire.http1 import (
    FIELD_LIMIT,
    HEAD_LIMIT,
    TARGET_LIMIT,
    Request,
    find_head_end,
    parse_request,
    write_request,
)
from tests.wire.http1_cases import (
    LINE,
    NEXT,
    REFUSED,
    WHOLE,
    cut,
    fields,
    framings,
    head,
    targets,
    tokens,
)


def read(data: bytes, size: int) -> tuple[Request, bytes]:
    """Request and rest of a stream that arrives in pieces, read as a session reads it."""
    for buffer in cut(data, size):
        end = find_head_end(buffer)
        if end >= 0:
            return parse_request(buffer[:end]), data[end:]
    raise AssertionError("the head is incomplete")


def refusal(data: bytes, size: int) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        read(data, size)
    return caught.value


SIZES = [pytest.param(WHOLE, id="whole"), pytest.param(1, id="bytewise")]

# Requests that are taken.


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rest", [b"", b"\r\n", NEXT, b"\0\xff"])
def test_request(size: int, rest: bytes) -> None:
    data = head(b"Accept:*/*", b"X-Empty:", b"Content-Length: 5 ", b"x-TAB:\ta\tb\t") + rest
    request, behind = read(data, size)
    assert behind == rest
    assert (request.method, request.target) == (b"POST", b"http://a.example/")
    assert (request.minor, request.keep_alive, request.chunked) == (1, True, False)
    assert request.content_length == 5
    assert request.headers == [
        (b"host", b"a.example"),
        (b"accept", b"*/*"),
        (b"x-empty", b""),
        (b"content-length", b"5"),
        (b"x-tab", b"a\tb"),
    ]
    assert request.get(b"accept") == b"*/*"
    assert request.get(b"cookie") is None
    assert request.kept == b"Accept:*/*\r\nX-Empty:\r\nx-TAB:\ta\tb\t\r\n"


@pytest.mark.parametrize(
    "value", [b" chunked", b"chunked", b" Chunked", b" CHUNKED", b"\tchunked", b"  chunked \t"]
)
def test_chunked_in_any_case(value: bytes) -> None:
    """tinyproxy compared it with case (CVE-2026-31842), and read a body as the next request."""
    request = parse_request(head(b"Transfer-Encoding:" + value))
    assert request.chunked
    assert request.content_length is None


@pytest.mark.parametrize("value", [b"0", b"5", b"\t5", b"5\t ", b"005", b"9" * 18])
def test_content_length(value: bytes) -> None:
    assert parse_request(head(b"Content-Length:" + value)).content_length == int(value)


@pytest.mark.parametrize(
    ("line", "fields", "minor", "keep_alive"),
    [
        (b"1.1", [], 1, True),
        (b"1.1", [b"Connection: close"], 1, False),
        (b"1.1", [b"Connection: Keep-Alive, CLOSE"], 1, False),
        (b"1.1", [b"Connection: x", b"Connection: \tclose\t"], 1, False),
        (b"1.1", [b"X: y", b"Proxy-Connection: close"], 1, True),  # means nothing
        (b"1.0", [], 0, False),
        (b"1.0", [b"Connection: keep-alive"], 0, True),
        (b"1.0", [b"Connection: keep-alive, close"], 0, False),
        (b"1.7", [], 1, True),  # RFC 9110 section 2.5: as the highest minor that we know
    ],
)
def test_versions_and_keep_alive(
    line: bytes, fields: list[bytes], minor: int, keep_alive: bool
) -> None:
    request = parse_request(head(*fields, line=b"GET http://a.example/ HTTP/" + line))
    assert (request.minor, request.keep_alive) == (minor, keep_alive)


def test_http_10_needs_no_host() -> None:
    request = parse_request(b"GET http://a.example/ HTTP/1.0\r\n\r\n")
    assert (request.headers, request.kept) == ([], b"")


@pytest.mark.parametrize("size", SIZES)
def test_one_empty_line_before_a_request(size: int) -> None:
    """Old clients end a body with a CRLF too many, RFC 9112 section 2.2."""
    assert read(b"\r\n" + head(), size)[0].target == b"http://a.example/"


@pytest.mark.parametrize("value", [b"", b" ", b" b.example:99", b" a,b", b" \xff"])
def test_the_value_of_host_means_nothing(value: bytes) -> None:
    """The target decides alone, and the field is written anew: RFC 9112 section 3.2.2."""
    request = parse_request(head(host=b"Host:" + value))
    assert write_request(request, b"a.example", b"/", False) == (
        b"POST / HTTP/1.1\r\nHost: a.example\r\n\r\n"
    )


def test_upgrade_is_for_http_11() -> None:
    """RFC 9110 section 7.8: in a request of HTTP/1.0 it must be ignored."""
    fields = b"Connection: upgrade", b"Upgrade: websocket"
    assert parse_request(head(*fields)).upgrade == b"websocket"
    assert parse_request(head(*fields, line=b"GET http://a/ HTTP/1.0")).upgrade == b""


@pytest.mark.parametrize("size", SIZES)
def test_limits_hold_what_just_fits(size: int) -> None:
    fields = [b"X: y"] * (FIELD_LIMIT - 1)
    assert len(read(head(*fields), size)[0].headers) == FIELD_LIMIT
    target = b"http://a.example/".ljust(TARGET_LIMIT, b"x")
    assert read(head(line=b"GET " + target + b" HTTP/1.1"), size)[0].target == target
    filler = b"X: ".ljust(HEAD_LIMIT - len(head()) - 2, b"x")
    data = head(filler)
    assert len(data) == HEAD_LIMIT
    assert read(data + NEXT, size)[1] == NEXT
    method = b"M" * 32
    assert read(head(line=method + b" http://a.example/ HTTP/1.1"), size)[0].method == method


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, size: int) -> None:
    data, detail = REFUSED[name]
    error = refusal(data + NEXT, size)
    assert error.reason is Reason.BAD_REQUEST
    # A line feed is refused when it is seen, before the line that it is in is understood.
    early = "lf_" in name and size == 1
    assert error.detail == ("a line does not end in CRLF" if early else detail)


@pytest.mark.parametrize("version", [b"2.0", b"0.9", b"3.0", b"0.0", b"9.9"])
def test_versions_that_are_not_spoken(version: bytes) -> None:
    data = head(line=b"GET http://a.example/ HTTP/" + version)
    for size in (WHOLE, 1):
        assert refusal(data, size).reason is Reason.BAD_VERSION


def test_the_preface_of_http_2_is_answered() -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    assert refusal(preface, WHOLE).reason is Reason.BAD_VERSION


LARGE = {
    "101_fields": head(*[b"X: y"] * FIELD_LIMIT),
    "4000_fields": head(*[b"X:"] * 4000),
    "one_byte_too_many": head(b"X: ".ljust(HEAD_LIMIT - len(head()) - 1, b"x")),
    "endless_value": head(b"X: " + b"x" * 3 * HEAD_LIMIT),
    "endless_name": head(b"x" * 3 * HEAD_LIMIT),
    "endless_blanks": head(b"X:" + b" " * 3 * HEAD_LIMIT),
    "after_an_empty_line": b"\r\n" + head(b"X: " + b"x" * 3 * HEAD_LIMIT),
}
LONG = {
    "one_byte_too_long": b"GET " + b"x" * (TARGET_LIMIT + 1) + b" HTTP/1.1",
    "12_kib": b"GET " + b"x" * 12 * 1024 + b" HTTP/1.1",
    "endless": b"GET " + b"x" * 3 * HEAD_LIMIT,
    "endless_method": b"G" * 3 * HEAD_LIMIT,
    "endless_blanks": b"GET" + b" " * 3 * HEAD_LIMIT,
}


@pytest.mark.parametrize("size", [WHOLE, 1000])
@pytest.mark.parametrize("name", LARGE)
def test_large_heads(name: str, size: int) -> None:
    assert refusal(LARGE[name], size).reason is Reason.HEAD_TOO_LARGE


@pytest.mark.parametrize("size", [WHOLE, 1000])
@pytest.mark.parametrize("first", [b"", b"\r\n"])
@pytest.mark.parametrize("name", LONG)
def test_long_targets(name: str, first: bytes, size: int) -> None:
    assert refusal(first + head(line=LONG[name]), size).reason is Reason.TARGET_TOO_LONG


def test_never_more_than_a_full_head_is_waited_for() -> None:
    """Whoever reads may stop reading at the bound: the refusal is certain there."""
    data = head(b"X: " + b"x" * HEAD_LIMIT)[:HEAD_LIMIT]
    assert find_head_end(data[:-1]) == -1
    with pytest.raises(ProtocolError):
        find_head_end(data)


# What goes on.


def h11_request(data: bytes) -> h11.Request:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    event = connection.next_event()
    assert isinstance(event, h11.Request)
    return event


def test_only_the_end_to_end_fields_of_a_request_go_on() -> None:
    request = parse_request(
        head(
            b"Accept: */*",
            b"Connection: close, X-Secret, te",
            b"X-Secret: 1",
            b"x-sECRET: 2",
            b"X-Secrets: 3",
            b"Keep-Alive: timeout=5",
            b"Proxy-Connection: keep-alive",
            b"Proxy-Authorization: Basic Z3Vlc3Q6c2VjcmV0",
            b"TE: trailers",
            b"Trailer: X-Sum",
            b"Upgrade: h2c",
            b"connection: COOKIE\t,\t",
            b"Cookie: a=b",
            b"Content-Length: 5",
            b"Expect: 100-continue",
            b"Last: end",
        )
    )
    assert write_request(request, b"b.example:81", b"/x?y", True) == (
        b"POST /x?y HTTP/1.1\r\nHost: b.example:81\r\nAccept: */*\r\nX-Secrets: 3\r\n"
        b"Expect: 100-continue\r\nLast: end\r\nContent-Length: 5\r\nVia: 1.1 bifrost-lite\r\n\r\n"
    )


# Connection may name any field, and what it names is dropped on the way (RFC 9110 section
# 7.6.1). A client that names Host, the framing, or what a server behind us trusts a proxy to
# add must not take those away: they are written after the drop.
@pytest.mark.parametrize("name", [b"host", b"content-length", b"via", b"connection", b"upgrade"])
def test_connection_takes_nothing_away_that_is_ours(name: bytes) -> None:
    request = parse_request(
        head(b"Connection: upgrade, " + name, b"Content-Length: 5", b"Upgrade: websocket")
    )
    event = h11_request(write_request(request, b"a.example", b"/", True))
    assert event.headers.raw_items() == [
        (b"Host", b"a.example"),
        (b"Content-Length", b"5"),
        (b"Connection", b"upgrade"),
        (b"Upgrade", b"websocket"),
        (b"Via", b"1.1 bifrost-lite"),
    ]


def test_thousands_of_connection_options() -> None:
    """One search per option took a tenth of a second for a head of 16 KiB."""
    options = b",".join(b"x%d" % number for number in range(2500))
    request = parse_request(head(b"X7: a", b"Connection:" + options, b"X7777: b", b"x2499: c"))
    assert request.kept == b"X7777: b\r\n"


@pytest.mark.parametrize("option", [b"", b",", b".*", b"(", b"a b", b"\xff", b"x" * 8000])
def test_odd_connection_options_take_nothing_away(option: bytes) -> None:
    assert parse_request(head(b"X: y", b"Connection: " + option)).kept == b"X: y\r\n"


def pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    """What has arrived after each read, where the reads end at `cuts`."""
    for end in sorted({at % (len(data) + 1) for at in cuts} | {len(data)}):
        yield data[:end]


@given(tokens, targets, fields, framings, st.binary(max_size=40), st.lists(st.integers(0, 10**6)))
def test_generated_requests(
    method: bytes,
    target: bytes,
    some: list[tuple[bytes, bytes, bytes, bytes]],
    framing: list[tuple[bytes, bytes]],
    rest: bytes,
    cuts: list[int],
) -> None:
    sent = [(b"Host", b"a.example"), *framing, *((name, value) for name, _, value, _ in some)]
    data = b"%b %b HTTP/1.1\r\nHost: a.example\r\n" % (method, target)
    data += b"".join(b"%b:%b\r\n" % field for field in framing)
    data += b"".join(b"%b:%b%b%b\r\n" % field for field in some) + b"\r\n"
    size = len(data)
    data += rest
    for buffer in pieces(data, cuts):
        end = find_head_end(buffer)
        assert end == (size if len(buffer) >= size else -1)
    request = parse_request(data[:size])
    assert (request.method, request.target) == (method, target)
    assert request.headers == [(name.lower(), value) for name, value in sent]
    assert request.kept == b"".join(b"%b:%b%b%b\r\n" % field for field in some)
    assert request.chunked == (framing == [(b"Transfer-Encoding", b"chunked")])
    if framing and not request.chunked:
        assert request.content_length == int(framing[0][1])
    event = h11_request(write_request(request, b"b.example", target, False))
    assert (event.method, event.target) == (method, target)
    assert sorted(event.headers) == sorted(
        [(b"host", b"b.example"), *((name.lower(), value) for name, value in sent[1:])]
    )


@given(st.binary(max_size=200), st.sampled_from([b"", LINE + b"\r\n", head()[:-2]]))
def test_random_bytes_are_taken_or_refused(noise: bytes, first: bytes) -> None:
    for data in (first + noise, first + noise + b"\r\n\r\n"):
        for read_head in (find_head_end, parse_request):
            try:
                read_head(data)
            except ProtocolError as error:
                assert error.reason.status >= 400  # noqa: PT017
                assert error.detail.isascii()
