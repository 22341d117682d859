"""From the first byte of a client to its request, however it is cut into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost_lite.errors import ProtocolError, Reason
from bifrost_lite.target import Target
from bifrost_lite.wire.http1 import HEAD_LIMIT, Request
from bifrost_lite.wire.intake import SOCKS5_NO_AUTHENTICATION, Intake

GET = b"GET http://a.example/x HTTP/1.1\r\nHost: a.example\r\n\r\n"
CONNECT = b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n"
GREETING = b"\x05\x02\x00\x02"
SOCKS5 = GREETING + b"\x05\x01\x00\x03\x09a.example\x01\xbb"
SOCKS5_FOUR = b"\x05\x01\x00" + b"\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x50"
SOCKS5_SIX = b"\x05\x01\x00" + b"\x05\x01\x00\x04\x20\x01\x0d\xb8" + bytes(11) + b"\x01\x00\x50"
SOCKS4 = b"\x04\x01\x00\x50\xc0\x00\x02\x01me\x00"
SOCKS4A = b"\x04\x01\x01\xbb\x00\x00\x00\x01\x00a.example\x00"

# What is sent, the protocol that it is, the target.
TAKEN = {
    "http": (GET, "HTTP", ""),
    "http_behind_crlf": (b"\r\n" + GET, "HTTP", ""),
    "connect": (CONNECT, "CONNECT", "a.example:443"),
    "connect_of_length_0": (
        CONNECT[:-2] + b"Content-Length: 0\r\n\r\n", "CONNECT", "a.example:443",
    ),
    "connect_six": (
        b"CONNECT [2001:DB8::1]:443 HTTP/1.1\r\nHost: [2001:DB8::1]:443\r\n\r\n",
        "CONNECT", "[2001:db8::1]:443",
    ),
    "socks5": (SOCKS5, "SOCKS5", "a.example:443"),
    "socks5_four": (SOCKS5_FOUR, "SOCKS5", "192.0.2.1:80"),
    "socks5_six": (SOCKS5_SIX, "SOCKS5", "[2001:db8::1]:80"),
    "socks4": (SOCKS4, "SOCKS4", "192.0.2.1:80"),
    "socks4a": (SOCKS4A, "SOCKS4", "a.example:443"),
}  # fmt: skip


class Told:
    """What an intake makes of a stream.

    Attributes:
        answers: the bytes that it answered on the way
        asked: the request or target, None where it wants more
    """

    def __init__(self, pieces: list[bytes], pinned: str = "auto") -> None:
        self.intake = Intake(pinned)
        self.answers: list[bytes] = []
        self.asked: Target | Request | None = None
        for at, piece in enumerate(pieces):
            self.intake.buffer += piece
            asked = self.intake.read()
            while isinstance(asked, bytes):
                self.answers.append(asked)
                asked = self.intake.read() if self.intake.buffer else None
            if asked is not None:
                self.asked = asked
                self.intake.buffer += b"".join(pieces[at + 1 :])
                return


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize("trailing", [b"", b"\x00", b"\r\n", GET, SOCKS5])
@pytest.mark.parametrize("size", [1 << 20, 1, 2, 3])
@pytest.mark.parametrize("name", TAKEN)
def test_taken(name: str, size: int, trailing: bytes) -> None:
    data, protocol, target = TAKEN[name]
    told = Told(cut(data + trailing, size))
    assert told.intake.protocol == protocol
    assert told.intake.buffer == trailing
    assert told.answers == [SOCKS5_NO_AUTHENTICATION] * (protocol == "SOCKS5")
    if protocol == "HTTP":
        assert isinstance(told.asked, Request)
        assert (told.asked.method, told.asked.target) == (b"GET", b"http://a.example/x")
    else:
        assert isinstance(told.asked, Target)
        assert str(told.asked) == target


@pytest.mark.parametrize("name", TAKEN)
def test_every_part_of_a_request_wants_more(name: str) -> None:
    data = TAKEN[name][0]
    for end in range(1, len(data)):
        assert Told([data[:end]]).asked is None


@given(st.sampled_from(sorted(TAKEN)), st.binary(max_size=30), st.data())
def test_pieces_make_no_difference(name: str, trailing: bytes, draw: st.DataObject) -> None:
    data, protocol, _ = TAKEN[name]
    stream = data + trailing
    marks = sorted(draw.draw(st.sets(st.integers(1, len(stream) - 1), max_size=8)))
    pieces = [stream[a:b] for a, b in zip([0, *marks], [*marks, len(stream)], strict=True)]
    told, whole = Told(pieces), Told([stream])
    assert (told.intake.protocol, told.intake.buffer) == (protocol, trailing)
    assert told.answers == whole.answers
    assert type(told.asked) is type(whole.asked)
    if isinstance(told.asked, Target) and isinstance(whole.asked, Target):
        assert told.asked.text == whole.asked.text


BAD = {
    "neither": (b"\x00", Reason.BAD_REQUEST),
    "a_digit": (b"1.1 GET", Reason.BAD_REQUEST),
    "tls": (b"\x16\x03\x01\x02\x00", Reason.BAD_REQUEST),
    "socks6": (b"\x06", Reason.BAD_REQUEST),
    "no_method": (b"\x05\x00", Reason.NO_METHOD),
    "password_only": (b"\x05\x01\x02", Reason.NO_METHOD),
    "bind": (GREETING + b"\x05\x02\x00\x01\xc0\x00\x02\x01\x00\x50", Reason.BAD_COMMAND),
    "address_type": (GREETING + b"\x05\x01\x00\x02\x00", Reason.BAD_ADDRESS_TYPE),
    "connect_with_length": (
        CONNECT[:-2] + b"Content-Length: 1\r\n\r\n", Reason.BAD_REQUEST,
    ),
    "connect_in_chunks": (
        CONNECT[:-2] + b"Transfer-Encoding: chunked\r\n\r\n", Reason.BAD_REQUEST,
    ),
    "connect_without_port": (
        b"CONNECT a.example HTTP/1.1\r\nHost: a.example\r\n\r\n", Reason.BAD_REQUEST,
    ),
    "version": (b"GET http://a.example/ HTTP/2.0\r\n\r\n", Reason.BAD_VERSION),
    "endless": (b"GET http://a.example/ HTTP/1.1\r\nA: ".ljust(HEAD_LIMIT + 1, b"a"),
                Reason.HEAD_TOO_LARGE),
}  # fmt: skip


@pytest.mark.parametrize("size", [1 << 20, 7])
@pytest.mark.parametrize("name", BAD)
def test_refused(name: str, size: int) -> None:
    data, reason = BAD[name]
    with pytest.raises(ProtocolError) as caught:
        Told(cut(data, size))
    assert caught.value.reason is reason


@pytest.mark.parametrize("name", TAKEN)
@pytest.mark.parametrize("pinned", ["http", "socks"])
def test_a_pinned_listener(pinned: str, name: str) -> None:
    data, protocol, _ = TAKEN[name]
    if protocol.startswith("SOCKS") == (pinned == "socks"):
        assert Told([data], pinned).asked is not None
        return
    with pytest.raises(ProtocolError, match=f"speaks {pinned.upper()} only") as caught:
        Told([data], pinned)
    assert caught.value.reason is Reason.BAD_REQUEST


@given(st.binary(min_size=1, max_size=80))
def test_any_bytes_are_taken_or_refused(data: bytes) -> None:
    try:
        told = Told(cut(data, 1))
    except ProtocolError:
        return
    assert len(told.intake.buffer) <= len(data)


# Answers.


def intake_of(data: bytes) -> Intake:
    return Told([data]).intake


@pytest.mark.parametrize("reason", Reason)
def test_a_refusal_in_the_words_of_the_client(reason: Reason) -> None:
    assert intake_of(SOCKS4).rejection(reason, "no") == b"\x00\x5b" + bytes(6)
    reply = intake_of(SOCKS5).rejection(reason, "no")
    assert reply == bytes((5, reason.reply, 0, 1)) + bytes(6)
    if not reason.status:  # not answered at all
        return
    head, _, body = intake_of(GET).rejection(reason, "because").partition(b"\r\n\r\n")
    status, *fields = head.split(b"\r\n")
    assert status.startswith(b"HTTP/1.1 %d " % reason.status)
    assert status != b"HTTP/1.1 %d Error" % reason.status, "its phrase is unknown"
    assert b"Content-Length: %d" % len(body) in fields
    assert b"Connection: close" in fields
    assert b"X-Bifrost-Reason: %b" % reason.word.encode() in fields
    assert (b"Retry-After: 5" in fields) == (reason.status == 503)
    assert body == f"{reason.status} {reason.word}\nbecause\n".encode()


def test_the_answer_to_head_has_the_head_of_another() -> None:
    intake = intake_of(GET)
    head, mark, _ = intake.rejection(Reason.NO_ROUTE, "no").partition(b"\r\n\r\n")
    assert intake.rejection(Reason.NO_ROUTE, "no", False) == head + mark


def test_a_refusal_before_the_greeting_is_over() -> None:
    """RFC 1928 section 3: 0xFF, no acceptable method."""
    assert intake_of(b"\x05").rejection(Reason.NO_METHOD, "no") == b"\x05\xff"


def test_a_tunnel_that_stands() -> None:
    assert intake_of(SOCKS4).grant() == b"\x00\x5a" + bytes(6)
    assert intake_of(SOCKS5).grant() == b"\x05\x00\x00\x01" + bytes(6)
    # RFC 9110 section 9.3.6: no Content-Length, no Transfer-Encoding.
    assert intake_of(CONNECT).grant() == b"HTTP/1.1 200 Connection established\r\n\r\n"
