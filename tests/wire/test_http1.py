from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bifrost_lite.errors import ProtocolError, Reason
from bifrost_lite.wire import chunked
from bifrost_lite.wire.http1 import (
    FIELD_LIMIT,
    HEAD_LIMIT,
    RESPONSE_FIELD_LIMIT,
    RESPONSE_HEAD_LIMIT,
    TARGET_LIMIT,
    Request,
    Response,
    find_head_end,
    find_response_end,
    parse_request,
    parse_response,
    write_request,
    write_response,
)

LINE = b"POST http://a.example/ HTTP/1.1"
HOST = b"Host: a.example"
CHUNKED = b"Transfer-Encoding: chunked"

# What a request says twice is not two ways to say one thing: it is two requests in one.
NEXT = b"GET http://b.example/ HTTP/1.1\r\nHost: b.example\r\n\r\n"


def head(*fields: bytes, line: bytes = LINE, host: bytes = HOST) -> bytes:
    return b"".join(text + b"\r\n" for text in (line, host, *fields)) + b"\r\n"


def cut(data: bytes, size: int) -> Iterator[bytes]:
    """What has arrived of `data` after each read of at most `size` bytes."""
    for end in range(size, len(data) + size, size):
        yield data[:end]


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


WHOLE = 1 << 20
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


# Requests that are refused. A row is (what arrives, detail), all of them BAD_REQUEST.
REFUSED: dict[str, tuple[bytes, str]] = {}


def refused(detail: str, **heads: bytes) -> None:
    REFUSED.update({name: (data, detail) for name, data in heads.items()})


# Request smuggling, first kind: a head with both Content-Length and Transfer-Encoding. One
# server goes by the length and the next by the chunks, so the end of this body is the head of
# another request to one of them, which no rule of ours ever saw. RFC 9112 section 6.1 lets a
# proxy drop the length; refusing leaves nothing to get wrong.
refused(
    "Content-Length and Transfer-Encoding contradict each other",
    cl_te=head(b"Content-Length: 5", CHUNKED),
    te_cl=head(CHUNKED, b"Content-Length: 0"),
    te_cl_apart=head(CHUNKED, b"X: y", b"cOnTeNt-LeNgTh:5"),
)

# Second kind: two lengths. Servers take the first, the last, or their sum of digits. Equal ones
# are refused too: no client sends them, and a server that joins them has `5, 5` to read.
refused(
    "there are two Content-Length fields",
    two_lengths=head(b"Content-Length: 5", b"Content-Length: 6"),
    two_equal_lengths=head(b"Content-Length: 5", b"X: y", b"content-length: 5"),
)

# Third kind: a length that two number parsers read differently. strtol takes a sign, blanks
# and 0x; Python's int takes underscores and the digits of other scripts; 32 or 64 bits wrap
# round at a number that is long enough, tinyproxy's port and chunk sizes did.
refused(
    "Content-Length is not a number",
    **{
        f"length_{number}": head(b"Content-Length: " + value)
        for number, value in enumerate(
            [
                b"", b"+5", b"-5", b"-0", b"0x5", b"5h", b"5 6", b"5,5", b"5, 5", b"5;", b'"5"',
                b"5.0", b"5e1", b"5_0", b"\xd9\xa5", b"\xb2", b"9" * 19, b"0" * 19, b"9" * 5000,
            ]
        )
    },  # fmt: skip
)

# Fourth kind: a coding that one side takes for `chunked` and the other for something unknown,
# which it skips. The published ways to hide it are all of this kind: a list, a parameter,
# quotes, a prefix, a letter that folds to an ASCII one. A final `chunked` behind another coding
# is legal, but nothing that talks to a proxy sends it.
refused(
    "the only Transfer-Encoding taken is 'chunked', in HTTP/1.1",
    **{
        f"coding_{number}": head(b"Transfer-Encoding: " + value)
        for number, value in enumerate(
            [
                b"", b"chunked, chunked", b"chunked,chunked", b"gzip, chunked", b"chunked, gzip",
                b"chunked, identity", b"identity", b"xchunked", b"chunkedx", b"chunk", b"gzip",
                b"chunked;q=1", b"chunked; q", b"chunked;", b";chunked", b",chunked", b"chunked,",
                b'"chunked"', b"'chunked'", b"chun ked", b"chunked chunked", b"chunked\tx",
                b"\xc4\x8dhunked", b"chun\xe2\x84\xaaed",
            ]
        )
    },  # fmt: skip
    coding_of_http_10=head(CHUNKED, line=b"POST http://a.example/ HTTP/1.0"),
)
refused(
    "there are two Transfer-Encoding fields",
    two_codings=head(CHUNKED, CHUNKED),
    two_codings_that_make_a_list=head(b"Transfer-Encoding: gzip", CHUNKED),
    two_codings_one_unknown=head(CHUNKED, b"transfer-encoding: x"),
)

# A folded line belongs to the field before it, or is a field of its own whose name begins with
# a blank, or nothing: RFC 9112 section 5.2 says refuse. The first line after the request line
# has no field before it, and section 2.2 says the same.
refused(
    "a field is folded over lines",
    fold=head(b"X: a", b" b"),
    fold_by_tab=head(b"X: a", b"\tb"),
    fold_of_a_length=head(b"Content-Length: 1", b" 0"),
    fold_that_hides_a_coding=head(b"X: a", b" Transfer-Encoding: chunked"),
    fold_of_nothing=head(b"X: a", b" "),
    fold_of_the_request_line=head(host=b" " + HOST),
)

# Bare LF: RFC 9112 section 2.2 lets a reader take it for a line end, so half of them do. To
# the other half, `X: a LF Transfer-Encoding: chunked` is one long value. Nobody who speaks
# through us sends it, so it is refused, and at once: the head is not complete by our rules.
refused(
    "a line does not end in CRLF",
    lf_only=head().replace(b"\r\n", b"\n"),
    lf_after_request_line=head().replace(b"\r\n", b"\n", 1),
    lf_in_a_value=head(b"X: a\nTransfer-Encoding: chunked"),
    lf_before_a_field=head(b"\nX: a"),
    lf_before_a_cr=head(b"X: a\n\rY: b"),
)
refused(
    "the request line is not 'METHOD TARGET HTTP/1.1'",
    lf_in_the_request_line=head(line=b"GET http://a.example/\n HTTP/1.1"),
    lf_first=b"\n" + head(),
    lf_for_the_empty_line=b"\n\r\n" + head(),
)

# Bare CR: some readers take it for a line end, some for a blank, some pass it on. It splits a
# value into two fields for the first of these, just as bare LF does.
refused(
    "a line does not end in CRLF",
    cr_in_a_value=head(b"X: a\rTransfer-Encoding: chunked"),
    cr_before_crlf=head(b"X: a\r"),
    cr_before_a_field=head(b"\rX: a"),
    cr_in_a_name=head(b"X\r: a"),
    cr_in_a_length=head(b"Content-Length: 5\r"),
)
refused(
    "the request line is not 'METHOD TARGET HTTP/1.1'",
    cr_in_the_request_line=head(line=b"GET http://a.example/\r HTTP/1.1"),
    cr_at_the_request_line=head(line=LINE + b"\r"),
    cr_first=b"\r" + head(),
)

# A blank before the colon: to some `Transfer-Encoding : chunked` is the field, to others one
# with an odd name. RFC 9112 section 5.1 demands 400.
refused(
    "there is a space before the colon of a field",
    space_before_colon=head(b"Transfer-Encoding : chunked"),
    tab_before_colon=head(b"Transfer-Encoding\t: chunked"),
    space_for_a_name=head(b"X \t : a"),
    space_in_host=head(host=b"Host : a.example"),
)

# NUL ends a string in C: a value is one thing to a checker and another to what acts on it.
refused(
    "a field has a NUL byte",
    nul_in_a_value=head(b"X: a\0b"),
    nul_in_a_name=head(b"X\0: a"),
    nul_after_a_coding=head(CHUNKED + b"\0"),
    nul_line=head(b"\0"),
)

# A field name is a token. What is none is another field to each reader: `Transfer-Encoding\xff`,
# `Transfer Encoding` or a line without a colon, which some read as a field without a value.
refused(
    "a line of the head is not 'name: value'",
    no_colon=head(b"Transfer-Encoding"),
    empty_name=head(b": chunked"),
    only_a_colon=head(b":"),
    space_in_a_name=head(b"Transfer Encoding: chunked"),
    quotes_in_a_name=head(b'"X": a'),
    bracket_in_a_name=head(b"X(a): b"),
    control_in_a_name=head(b"X\x01: a"),
    non_ascii_name=head(b"Transfer-Encoding\xff: chunked"),
    no_break_space_before_colon=head(b"Transfer-Encoding\xa0: chunked"),
)

# Control characters in values: vertical tab and form feed are blanks to isspace() and to
# Python's strip(), so `chunked\x0b` was `chunked` to many; escape sequences take over the
# terminal of whoever reads the log.
refused(
    "a field has a control character",
    **{
        f"control_{byte:02x}": head(b"X: a" + bytes([byte]) + b"b")
        for byte in [*range(1, 9), 11, 12, *range(14, 32), 127]
    },
    vertical_tab_in_a_coding=head(b"Transfer-Encoding: \x0bchunked"),
    form_feed_in_a_coding=head(b"Transfer-Encoding: chunked\x0c"),
)

# No Host, or two: who is asked is the target's to say here, but the next server may go by the
# first, the last, or the one with the nicer case. RFC 9112 section 3.2 demands 400.
refused(
    "there must be exactly one Host field",
    no_host=head(host=b"X: y"),
    two_hosts=head(b"Host: b.example"),
    two_equal_hosts=head(b"HOST: a.example"),
    two_hosts_of_http_10=head(HOST, line=b"GET http://a.example/ HTTP/1.0"),
)

# The request line has three words and two spaces. RFC 9112 section 3 lets a reader split it at
# any run of blanks, and then a target with a blank in it is as many targets as there are
# readers; a request of HTTP/0.9 has no head at all.
refused(
    "the request line is not 'METHOD TARGET HTTP/1.1'",
    **{
        f"line_{number}": head(line=line)
        for number, line in enumerate(
            [
                b"GET", b"GET http://a/", b"GET HTTP/1.1", b"GET  HTTP/1.1", b" HTTP/1.1",
                b"GET http://a/ HTTP/1", b"GET http://a/ HTTP/1.", b"GET http://a/ HTTP/.1",
                b"GET http://a/ HTTP/11", b"GET http://a/ HTTP/1.10", b"GET http://a/ HTTP/01.1",
                b"GET http://a/ HTTP/1,1", b"GET http://a/ http/1.1", b"GET http://a/ HTTPS/1.1",
                b"GET http://a/ HTTP/+1.1", b"GET http://a/ HTTP/1.1 ", b"GET http://a/ HTTP/ 1.1",
                b" GET http://a/ HTTP/1.1", b"GET  http://a/ HTTP/1.1", b"GET\thttp://a/ HTTP/1.1",
                b"GET http://a/ b HTTP/1.1", b"GET http://a/  HTTP/1.1", b"GET http://a/\tHTTP/1.1",
                b"GET http://a/\0 HTTP/1.1", b"GET http://a/\x7f HTTP/1.1",
                b"GET http://a/\x1b[2J HTTP/1.1", b"GET http://a/\x0b HTTP/1.1",
                b"G@T http://a/ HTTP/1.1", b"G\0T http://a/ HTTP/1.1", b"\xff http://a/ HTTP/1.1",
                b"M" * 33 + b" http://a/ HTTP/1.1", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
            ]
        )
    },  # fmt: skip
    two_empty_lines_first=b"\r\n\r\n" + head(),
    empty_line_and_space_first=b"\r\n " + head(),
)


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


# Generated requests.

TCHAR = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def some_bytes(alphabet: bytes, most: int, least: int = 0) -> st.SearchStrategy[bytes]:
    return st.lists(st.sampled_from(alphabet), min_size=least, max_size=most).map(bytes)


tokens = some_bytes(TCHAR, 12, 1)
targets = some_bytes(bytes(range(0x21, 0x7F)), 40, 1)
# No blank at the ends of a value: it would not be part of it.
values = some_bytes(b"\t " + bytes(range(0x21, 0x7F)) + bytes(range(0x80, 0x100)), 30).map(
    lambda value: value.strip(b"\t ")
)
blanks = some_bytes(b" \t", 3)
SPECIAL = {
    b"host", b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"te",
    b"proxy-connection", b"proxy-authorization", b"proxy-authenticate", b"trailer", b"upgrade",
    b"proxy-authentication-info",
}  # fmt: skip
names = tokens.filter(lambda name: name.lower() not in SPECIAL)
fields = st.lists(st.tuples(names, blanks, values, blanks), max_size=8)
lengths = st.integers(0, 10**18 - 1)
framings = st.one_of(
    st.just([]),
    st.tuples(st.just(b"Content-Length"), lengths.map(lambda number: b"%d" % number)).map(
        lambda field: [field]
    ),
    st.just([(b"Transfer-Encoding", b"chunked")]),
)


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


# h11 as an oracle. Both read the same message; where both take it, they must agree on every
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
        "control characters", head(b"X: a\x01b"), found(rb"[\x01-\x08\x0e-\x1f\x7f]")
    ),
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
        assert request.headers == [
            (name, value.lower() if name == b"transfer-encoding" else value)
            for name, value in event.headers
        ] or found(rb"transfer-encoding:")(data)


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


# Answers.

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
        b" : a",
    ],
)
def test_bad_fields_of_answers(field: bytes) -> None:
    assert bad_answer(answer(b"A: b", field)) in (
        "a line of the answer's head is not 'name: value'",
        "the answer's Content-Length is not one number",
    ) or field == b" : a"


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


# How the body of an answer ends: RFC 9112 section 6.3, and what contract and safety add.
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


@given(
    statuses, phrases, st.lists(st.tuples(names, values), max_size=6), framings, st.data()
)
@example(200, b"", [], [], None)
def test_generated_answers(
    status: int,
    phrase: bytes,
    some: list[tuple[bytes, bytes]],
    framing: list[tuple[bytes, bytes]],
    data: st.DataObject | None,
) -> None:
    """Written sloppily or not, an answer reads as what it says, and leaves as h11 likes it."""

    def draw(strategy: st.SearchStrategy[bytes], default: bytes) -> bytes:
        return data.draw(strategy) if data is not None else default

    lines = [b"HTTP/1.1 %d %b" % (status, phrase)]
    lines += [name + draw(sloppy_colons, b":") + value for name, value in framing + some]
    raw = b"".join(line + draw(sloppy_ends, b"\r\n") for line in [*lines, b""])
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
    assert sorted(event.headers) == sorted(
        (name.lower(), value) for name, value in framing + some
    )


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
