"""Requests and pieces of them that the tests of wire.http1 share."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import strategies as st

LINE = b"POST http://a.example/ HTTP/1.1"
HOST = b"Host: a.example"
CHUNKED = b"Transfer-Encoding: chunked"
WHOLE = 1 << 20  # a read that takes everything

# What a request says twice is not two ways to say one thing: it is two requests in one.
NEXT = b"GET http://b.example/ HTTP/1.1\r\nHost: b.example\r\n\r\n"


def head(*fields: bytes, line: bytes = LINE, host: bytes = HOST) -> bytes:
    return b"".join(text + b"\r\n" for text in (line, host, *fields)) + b"\r\n"


def cut(data: bytes, size: int) -> Iterator[bytes]:
    """What has arrived of `data` after each read of at most `size` bytes."""
    for end in range(size, len(data) + size, size):
        yield data[:end]


# What generated messages are made of.

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
framings: st.SearchStrategy[list[tuple[bytes, bytes]]] = st.one_of(
    st.just([]),
    st.tuples(st.just(b"Content-Length"), lengths.map(lambda number: b"%d" % number)).map(
        lambda field: [field]
    ),
    st.just([(b"Transfer-Encoding", b"chunked")]),
)


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
BAD_LENGTHS = [
    b"", b"+5", b"-5", b"-0", b"0x5", b"5h", b"5 6", b"5,5", b"5, 5", b"5;", b'"5"', b"5.0",
    b"5e1", b"5_0", b"\xd9\xa5", b"\xb2", b"9" * 19, b"0" * 19, b"9" * 5000,
]  # fmt: skip
refused(
    "Content-Length is not a number",
    **{
        f"length_{number}": head(b"Content-Length: " + value)
        for number, value in enumerate(BAD_LENGTHS)
    },
)

# Fourth kind: a coding that one side takes for `chunked` and the other for something unknown,
# which it skips. The published ways to hide it are all of this kind: a list, a parameter,
# quotes, a prefix, a letter that folds to an ASCII one. A final `chunked` behind another coding
# is legal, but nothing that talks to a proxy sends it.
BAD_CODINGS = [
    b"", b"chunked, chunked", b"chunked,chunked", b"gzip, chunked", b"chunked, gzip",
    b"chunked, identity", b"identity", b"xchunked", b"chunkedx", b"chunk", b"gzip",
    b"chunked;q=1", b"chunked; q", b"chunked;", b";chunked", b",chunked", b"chunked,",
    b'"chunked"', b"'chunked'", b"chun ked", b"chunked chunked", b"chunked\tx", b"\xc4\x8dhunked",
    b"chun\xe2\x84\xaaed",
]  # fmt: skip
refused(
    "the only Transfer-Encoding taken is 'chunked', in HTTP/1.1",
    **{
        f"coding_{number}": head(b"Transfer-Encoding: " + value)
        for number, value in enumerate(BAD_CODINGS)
    },
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
    lf_in_a_value=head(b"X: a\nTransfer-Encoding: chunked"),
    lf_before_a_field=head(b"\nX: a"),
    lf_before_a_cr=head(b"X: a\n\rY: b"),
)
refused(
    "the request line is not 'METHOD TARGET HTTP/1.1'",
    lf_only=head().replace(b"\r\n", b"\n"),
    lf_after_request_line=head().replace(b"\r\n", b"\n", 1),
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
BAD_LINES = [
    b"GET", b"GET http://a/", b"GET HTTP/1.1", b"GET  HTTP/1.1", b" HTTP/1.1",
    b"GET http://a/ HTTP/1", b"GET http://a/ HTTP/1.", b"GET http://a/ HTTP/.1",
    b"GET http://a/ HTTP/11", b"GET http://a/ HTTP/1.10", b"GET http://a/ HTTP/01.1",
    b"GET http://a/ HTTP/1,1", b"GET http://a/ http/1.1", b"GET http://a/ HTTPS/1.1",
    b"GET http://a/ HTTP/+1.1", b"GET http://a/ HTTP/1.1 ", b"GET http://a/ HTTP/ 1.1",
    b" GET http://a/ HTTP/1.1", b"GET  http://a/ HTTP/1.1", b"GET\thttp://a/ HTTP/1.1",
    b"GET http://a/ b HTTP/1.1", b"GET http://a/  HTTP/1.1", b"GET http://a/\tHTTP/1.1",
    b"GET http://a/\0 HTTP/1.1", b"GET http://a/\x7f HTTP/1.1", b"GET http://a/\x1b[2J HTTP/1.1",
    b"GET http://a/\x0b HTTP/1.1", b"G@T http://a/ HTTP/1.1", b"G\0T http://a/ HTTP/1.1",
    b"\xff http://a/ HTTP/1.1", b"M" * 33 + b" http://a/ HTTP/1.1",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
]  # fmt: skip
refused(
    "the request line is not 'METHOD TARGET HTTP/1.1'",
    **{f"line_{number}": head(line=line) for number, line in enumerate(BAD_LINES)},
    two_empty_lines_first=b"\r\n\r\n" + head(),
    empty_line_and_space_first=b"\r\n " + head(),
)
