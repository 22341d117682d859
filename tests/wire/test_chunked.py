from __future__ import annotations

import re

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bifrost_lite.errors import ProtocolError, Reason
from bifrost_lite.wire.chunked import LAST, LINE_LIMIT, TRAILER_LIMIT, Decoder, encode

NEXT = b"GET http://b.example/ HTTP/1.1\r\nHost: b.example\r\n\r\n"
END = b"0\r\n\r\n"


def decode(data: bytes, size: int) -> tuple[bytes, Decoder]:
    """Payload and decoder of a stream that arrives in pieces of `size` bytes."""
    decoder = Decoder(Reason.BAD_REQUEST)
    payload = b""
    for start in range(0, len(data), size):
        payload += decoder.feed(data[start : start + size])
        if decoder.done:
            decoder.rest += data[start + size :]
            break
    return payload, decoder


WHOLE = 1 << 20
SIZES = [pytest.param(WHOLE, id="whole"), pytest.param(1, id="bytewise"), 2, 3, 7]

# RFC 9112 section 7.1, and the extensions and trailers that it lets us drop.
TAKEN = {
    "empty": (END, b""),
    "one": (b"5\r\nhello\r\n" + END, b"hello"),
    "two": (b"5\r\nhello\r\n6\r\n world\r\n" + END, b"hello world"),
    "payload_like_chunks": (b"7\r\n0\r\n\r\n\r\n\r\n" + END, b"0\r\n\r\n\r\n"),
    "either_case": (b"a\r\n0123456789\r\nA\r\n0123456789\r\n" + END, b"0123456789" * 2),
    "leading_zeros": (b"00000000000005\r\nhello\r\n000\r\n\r\n", b"hello"),
    "blanks_behind_the_size": (b"5  \r\nhello\r\n0\t\r\n\r\n", b"hello"),
    "extension": (b"5;a\r\nhello\r\n0;last=1\r\n\r\n", b"hello"),
    "extension_quoted": (b'5 ; a="x;y\\"z" ;b=c\r\nhello\r\n' + END, b"hello"),
    "extension_unfinished": (b'5;a="\r\nhello\r\n' + END, b"hello"),
    "extension_obs_text": (b"5;\xff\t\r\nhello\r\n" + END, b"hello"),
    "longest_line": (b"5;".ljust(LINE_LIMIT, b"x") + b"\r\nhello\r\n" + END, b"hello"),
    "trailers": (b"0\r\nX-Sum: 1\r\nY:\r\n\r\n", b""),
    "longest_trailer": (b"0\r\n" + b"X:".ljust(TRAILER_LIMIT - 2, b"x") + b"\r\n\r\n", b""),
    "most_trailers": (b"0\r\n" + b"X:y1234\r\n" * (TRAILER_LIMIT // 9) + b"\r\n", b""),
    "full_trailers": (b"0\r\n" + b"X:yzab\r\n" * (TRAILER_LIMIT // 8) + b"\r\n", b""),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rest", [b"", b"\r\n", NEXT])
@pytest.mark.parametrize("name", TAKEN)
def test_taken(name: str, rest: bytes, size: int) -> None:
    data, payload = TAKEN[name]
    taken, decoder = decode(data + rest, size)
    assert (taken, decoder.done, decoder.rest) == (payload, True, rest)


@pytest.mark.parametrize("name", TAKEN)
def test_incomplete(name: str) -> None:
    """Every byte is needed, and the payload does not wait for the end of its chunk."""
    data, payload = TAKEN[name]
    for end in range(max(0, len(data) - 20), len(data)):
        taken, decoder = decode(data[:end], WHOLE)
        assert not decoder.done
        assert payload.startswith(taken)
    assert decode(b"5\r\nhel", WHOLE)[0] == b"hel"


REFUSED: dict[str, tuple[bytes, str]] = {}


def refused(detail: str, **bodies: bytes) -> None:
    REFUSED.update({name: (data, detail) for name, data in bodies.items()})


# A size that two number parsers read differently ends the chunk in two places, and what one
# takes for data is a request to the other. strtol takes signs, blanks and 0x; Python's int
# takes underscores and blanks at both ends; a size near LONG_MAX made tinyproxy wait for ever
# (CVE-2026-3945), and one of 16 digits is negative to a signed 64-bit integer.
BAD_SIZES = [
    b"", b" ", b" 5", b"\t5", b"+5", b"-5", b"-0", b"0x5", b"0X5", b"x5", b"5h", b"5_0", b"5 5",
    b"5 0", b"5,0", b"5.0", b"\xd9\xa5", b'"5"', b"f" * 16, b"7" + b"f" * 15, b"8000000000000005",
    b"0" * 15 + b"5", b"5\x0b", b"5\0", b"5=", b"5=a", b";", b";a",
]  # fmt: skip
refused(
    "a chunk size is not a hexadecimal number",
    **{f"size_{number}": text + b"\r\nhello\r\n" + END for number, text in enumerate(BAD_SIZES)},
)

# Extensions are free text that nobody reads: a place to hide a line end from one parser. And
# without a bound a chunk of one byte carries a megabyte of them, which costs the reader time
# and no limit on bodies ever sees (CVE-2024-22019 in Node.js).
refused(
    "a chunk size is not a hexadecimal number",
    extension_nul=b"5;a\0\r\nhello\r\n" + END,
    extension_cr=b"5;a\rb\r\nhello\r\n" + END,
    extension_control=b"5;\x1b[2J\r\nhello\r\n" + END,
    extension_del=b"5;\x7f\r\nhello\r\n" + END,
    cr_before_crlf=b"5\r\r\nhello\r\n" + END,
)
refused(
    "a chunk-size line or a trailer is too long",
    extension_endless=b"5;" + b"x" * 4 * LINE_LIMIT,
    size_endless=b"0" * 4 * LINE_LIMIT,
    cr_endless=b"\r" * 4 * LINE_LIMIT,
)

# A bare LF ends a line for some: `5 LF` starts a chunk there and is a malformed size here. With
# `;` before it the rest of the line is an extension to one and data to the other, which split
# ASP.NET from the proxies before it (CVE-2025-55315).
refused(
    "a line of the chunked body does not end in CRLF",
    lf_size=b"5\nhello\n0\n\n",
    lf_extension=b"5;\nhello",
    lf_trailer=b"0\r\nX: y\n",
    lf_end=b"0\r\n\n",
)

# What stands behind a chunk is CRLF. A reader that skips two bytes without a look takes
# `XX0 CRLF CRLF` as the end, another one as data, and between them stands a request. h11 was
# such a reader (CVE-2025-43859).
refused(
    "a chunk does not end in CRLF",
    chunk_longer=b"5\r\nhello!\r\n" + END,
    chunk_shorter=b"5\r\nhell\r\n" + END,
    chunk_end_any=b"5\r\nhelloXX" + END,
    chunk_end_lf=b"5\r\nhello\n" + END,
    chunk_end_cr=b"5\r\nhello\rX",
    chunk_end_lf_cr=b"5\r\nhello\n\r" + END,
    chunk_end_missing=b"5\r\nhello" + END,
)

# Trailers are fields, and fields in a trailer have overruled the head's in more than one server.
# They end here; what is none ends the connection.
refused(
    "the trailers are too long or not 'name: value'",
    trailer_fold=b"0\r\nX: y\r\n z\r\n\r\n",
    trailer_no_colon=b"0\r\nX\r\n\r\n",
    trailer_request=b"0\r\n" + NEXT,
    trailer_space_before_colon=b"0\r\nX : y\r\n\r\n",
    trailer_empty_name=b"0\r\n: y\r\n\r\n",
    trailer_nul=b"0\r\nX: y\0\r\n\r\n",
    trailer_cr=b"0\r\nX: y\rz\r\n\r\n",
    trailers_many=b"0\r\n" + b"X: y\r\n" * TRAILER_LIMIT,
)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, size: int) -> None:
    data, detail = REFUSED[name]
    with pytest.raises(ProtocolError) as caught:
        decode(data, size)
    assert caught.value.reason is Reason.BAD_REQUEST
    # A long line may be refused before it is complete, and a bare LF before its line is.
    early = {
        "a chunk-size line or a trailer is too long",
        "a line of the chunked body does not end in CRLF",
    }
    assert caught.value.detail in {detail} | early


def test_line_of_one_byte_too_many() -> None:
    line = b"5;".ljust(LINE_LIMIT + 1, b"x") + b"\r\n"
    for size in (WHOLE, 1):
        with pytest.raises(ProtocolError):
            decode(line, size)


@pytest.mark.parametrize("size", [WHOLE, 1000, 1])
@pytest.mark.parametrize("first", [b"", b"X: y\r\n" * 1000])
def test_endless_trailer(first: bytes, size: int) -> None:
    """All trailers together have one bound, the one that has not ended yet included."""
    decoder = Decoder(Reason.BAD_REQUEST)
    data = b"0\r\n" + first + b"X: " + b"y" * TRAILER_LIMIT
    fed = 0
    with pytest.raises(ProtocolError):
        for start in range(0, len(data), size):
            fed = start
            decoder.feed(data[start : start + size])
    assert fed <= TRAILER_LIMIT + 16


def test_the_faulty_side_is_named() -> None:
    with pytest.raises(ProtocolError) as caught:
        Decoder(Reason.BAD_RESPONSE).feed(b"x\r\n")
    assert caught.value.reason is Reason.BAD_RESPONSE


def test_largest_size() -> None:
    decoder = Decoder(Reason.BAD_REQUEST)
    assert decoder.feed(b"f" * 15 + b"\r\n" + b"x" * 1000) == b"x" * 1000
    assert decoder.feed(b"x" * 1000) == b"x" * 1000
    assert not decoder.done


def test_payload_is_not_copied_on_the_way() -> None:
    """A read that lies within one chunk comes out as the object that went in."""
    decoder = Decoder(Reason.BAD_REQUEST)
    decoder.feed(b"fffff\r\n")
    piece = b"x" * 65536
    assert decoder.feed(piece) is piece


def test_encode() -> None:
    assert encode(b"hello world!") == b"c\r\nhello world!\r\n"
    assert encode(b"") == b""
    assert LAST == END


payloads = st.lists(st.binary(min_size=1, max_size=40), max_size=8)
extensions = st.sampled_from([b"", b"", b" ", b";a", b';a="b;c"', b" ; a = b"])
trailers = st.sampled_from([b"", b"", b"X: y\r\n", b"X:\r\nY: z\r\n"])


@given(payloads, st.binary(max_size=20), trailers, st.data())
def test_round_trip(chunks: list[bytes], rest: bytes, trailer: bytes, data: st.DataObject) -> None:
    wire = b""
    for chunk in chunks:
        digits = (b"%x", b"%X", b"%08x")[data.draw(st.integers(0, 2))] % len(chunk)
        wire += digits + data.draw(extensions) + b"\r\n" + chunk + b"\r\n"
    wire += b"0" + data.draw(extensions) + b"\r\n" + trailer + b"\r\n" + rest
    for size in (WHOLE, data.draw(st.integers(1, 20))):
        payload, decoder = decode(wire, size)
        assert (payload, decoder.done, decoder.rest) == (b"".join(chunks), True, rest)


@given(payloads)
def test_what_is_encoded_is_decoded(chunks: list[bytes]) -> None:
    wire = b"".join(map(encode, chunks)) + LAST
    assert decode(wire, WHOLE)[0] == b"".join(chunks)
    assert h11_body(wire + NEXT) == (b"".join(chunks), NEXT)


# h11 reads the same bodies. Where one of us takes more, a row says what.

WE_TAKE = {
    "blanks before an extension, RFC 9112 section 7.1.1": b"3 ;a\r\nabc\r\n" + END,
}
WE_REFUSE = {
    "sizes of over 15 digits": b"0000000000000003\r\nabc\r\n" + END,
    "control characters": b"3;\x01\r\nabc\r\n" + END,
    "CR in an extension": b"3;a\rb\r\nabc\r\n" + END,
    "bare LF in trailers": b"0\r\nX: y\n\r\n",
    "folded trailers": b"0\r\nX: y\r\n z\r\n\r\n",
}


def h11_body(wire: bytes) -> tuple[bytes, bytes] | None:
    """Payload and rest as h11 reads them, None where it refuses or wants more."""
    connection = h11.Connection(h11.SERVER)
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection.receive_data(head + wire)
    connection.next_event()
    payload = b""
    try:
        while isinstance(event := connection.next_event(), h11.Data):
            payload += event.data
    except h11.RemoteProtocolError:
        return None
    return (payload, connection.trailing_data[0]) if isinstance(event, h11.EndOfMessage) else None


def our_body(wire: bytes) -> tuple[bytes, bytes] | None:
    try:
        payload, decoder = decode(wire, WHOLE)
    except ProtocolError:
        return None
    return (payload, decoder.rest) if decoder.done else None


@pytest.mark.parametrize("why", WE_REFUSE)
def test_we_refuse_what_h11_takes(why: str) -> None:
    assert our_body(WE_REFUSE[why] + NEXT) is None
    assert h11_body(WE_REFUSE[why] + NEXT) is not None


@pytest.mark.parametrize("why", WE_TAKE)
def test_we_take_what_h11_refuses(why: str) -> None:
    assert our_body(WE_TAKE[why] + NEXT) == (b"abc", NEXT)
    assert h11_body(WE_TAKE[why] + NEXT) is None


@pytest.mark.parametrize("name", sorted(TAKEN.keys() - {"extension_quoted"}))
def test_h11_takes_what_we_take(name: str) -> None:
    assert our_body(TAKEN[name][0] + NEXT) == h11_body(TAKEN[name][0] + NEXT)


fragments = st.lists(
    st.sampled_from(
        [
            b"0", b"3", b"5", b"a", b"\r\n", b"\r\n", b"\r\n", b"abc", b"hello", b";x", b'="y',
            b" ", b"\n", b"\r", b"X: y", b"+", b"\0", b"0\r\n\r\n", b"3\r\nabc\r\n",
        ]
    ),
    max_size=14,
).map(b"".join)  # fmt: skip


@given(fragments)
@example(b"3\r\nabc\r\n0\r\n\r\n")
def test_oracle(wire: bytes) -> None:
    """Whatever we take, h11 takes for the same payload with the same end."""
    ours = our_body(wire)
    if ours is not None and not re.search(rb"[ \t];", wire):
        assert h11_body(wire) == ours


@given(st.one_of(st.binary(max_size=60), fragments), st.integers(1, 9))
def test_pieces_make_no_difference(wire: bytes, size: int) -> None:
    outcomes: list[object] = []
    for pieces in (WHOLE, size):
        try:
            payload, decoder = decode(wire, pieces)
            outcomes.append((payload, decoder.done, decoder.rest))
        except ProtocolError as error:
            outcomes.append(error.reason)
    assert outcomes[0] == outcomes[1]
