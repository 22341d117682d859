"""From the first byte of a client to its request, however it is cut into pieces."""

from __future__ import annotations

from base64 import b64encode
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost_lite.errors import ProtocolError, Reason
from bifrost_lite.target import Target
from bifrost_lite.wire.http1 import HEAD_LIMIT, Request
from bifrost_lite.wire.intake import (
    SOCKS5_NO_AUTHENTICATION,
    SOCKS5_USER_AND_PASSWORD,
    Intake,
    Login,
)
from bifrost_lite.wire.socks import LOGGED_IN, NOT_LOGGED_IN

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

    Args:
        pieces: of the stream
        pinned: see `Intake`
        login: the client has to log in, and whatever it says is right

    Attributes:
        answers: the bytes that it answered on the way
        logins: the credentials that it read
        asked: the request or target, None where it wants more
    """

    def __init__(
        self, pieces: list[bytes], pinned: str = "auto", *, login: bool = False
    ) -> None:
        self.intake = Intake(pinned)
        self.intake.login = login
        self.answers: list[bytes] = []
        self.logins: list[Login] = []
        self.asked: Target | Request | None = None
        for at, piece in enumerate(pieces):
            self.intake.buffer += piece
            asked = self.intake.read()
            while isinstance(asked, (bytes, Login)):
                if isinstance(asked, Login):
                    self.logins.append(asked)
                    self.answers += [self.intake.admitted()]
                    asked = self.intake.read()
                else:
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
    assert (b"Retry-After: 60" in fields) == (reason.status == 429)
    challenge = b'Proxy-Authenticate: Basic realm="bifrost-lite", charset="UTF-8"'
    assert (challenge in fields) == (reason.status == 407)
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


# Logging in.

NAME, PASSWORD = "zoë".encode(), "p:äß €".encode()


def basic(name: bytes = NAME, password: bytes = PASSWORD, scheme: bytes = b"Basic ") -> bytes:
    return scheme + b64encode(name + b":" + password)


def with_login(request: bytes, *values: bytes, field: bytes = b"Proxy-Authorization: ") -> bytes:
    return request[:-2] + b"".join(field + value + b"\r\n" for value in values) + b"\r\n"


LOGIN5 = b"\x01%c%b%c%b" % (len(NAME), NAME, len(PASSWORD), PASSWORD)

# What is sent, the protocol, the target, all answers on the way.
ADMITTED = {
    "http": (with_login(GET, basic()), "HTTP", "", [b""]),
    "connect": (with_login(CONNECT, basic()), "CONNECT", "a.example:443", [b""]),
    "connect_blanks": (
        with_login(CONNECT, basic(scheme=b"  bAsIC   ") + b" \t", field=b"PROXY-authorization:"),
        "CONNECT", "a.example:443", [b""],
    ),
    "socks5": (
        GREETING + LOGIN5 + SOCKS5[len(GREETING) :], "SOCKS5", "a.example:443",
        [SOCKS5_USER_AND_PASSWORD, LOGGED_IN],
    ),
    "socks5_password_only": (
        b"\x05\x01\x02" + LOGIN5 + SOCKS5[len(GREETING) :], "SOCKS5", "a.example:443",
        [SOCKS5_USER_AND_PASSWORD, LOGGED_IN],
    ),
}  # fmt: skip


@pytest.mark.parametrize("trailing", [b"", b"\x00", b"\r\n", GET, SOCKS5])
@pytest.mark.parametrize("size", [1 << 20, 1, 2, 3])
@pytest.mark.parametrize("name", ADMITTED)
def test_admitted(name: str, size: int, trailing: bytes) -> None:
    data, protocol, target, answers = ADMITTED[name]
    told = Told(cut(data + trailing, size), login=True)
    assert (told.intake.protocol, told.intake.buffer) == (protocol, trailing)
    assert told.logins == [(NAME, PASSWORD)]
    assert told.answers == answers
    if protocol == "HTTP":
        assert isinstance(told.asked, Request)
        assert told.asked.target == b"http://a.example/x"
    else:
        assert isinstance(told.asked, Target)
        assert told.asked.text == target


@pytest.mark.parametrize("name", ADMITTED)
def test_every_part_of_a_login_wants_more(name: str) -> None:
    data = ADMITTED[name][0]
    for end in range(1, len(data)):
        assert Told([data[:end]], login=True).asked is None


@given(st.sampled_from(sorted(ADMITTED)), st.binary(max_size=30), st.data())
def test_pieces_make_no_difference_to_a_login(
    name: str, trailing: bytes, draw: st.DataObject
) -> None:
    data, _, _, answers = ADMITTED[name]
    stream = data + trailing
    marks = sorted(draw.draw(st.sets(st.integers(1, len(stream) - 1), max_size=8)))
    pieces = [stream[a:b] for a, b in zip([0, *marks], [*marks, len(stream)], strict=True)]
    told = Told(pieces, login=True)
    assert (told.logins, told.answers) == ([(NAME, PASSWORD)], answers)
    assert told.intake.buffer == trailing


@pytest.mark.parametrize("name", TAKEN)
def test_who_need_not_log_in_may_say_who_it_is(name: str) -> None:
    data, protocol, target = TAKEN[name]
    if protocol in ("HTTP", "CONNECT"):
        data = with_login(data, basic())
    told = Told([data])
    assert told.asked is not None
    assert told.logins == []
    assert target in ("", str(told.asked))


REFUSED = {
    "http": (GET, Reason.AUTH_REQUIRED),
    "connect": (CONNECT, Reason.AUTH_REQUIRED),
    "origin": (GET[:-2] + b"Authorization: " + basic() + b"\r\n\r\n", Reason.AUTH_REQUIRED),
    "in_a_value": (
        GET[:-2] + b"X: y\tProxy-Authorization: " + basic() + b"\r\n\r\n", Reason.AUTH_REQUIRED,
    ),
    "twice": (with_login(GET, basic(), basic()), Reason.AUTH_FAILED),
    "empty": (with_login(GET, b""), Reason.AUTH_FAILED),
    "scheme_only": (with_login(GET, b"Basic"), Reason.AUTH_FAILED),
    "scheme_and_blank": (with_login(GET, b"Basic "), Reason.AUTH_FAILED),
    "another_scheme": (with_login(GET, basic(scheme=b"Bearer ")), Reason.AUTH_FAILED),
    "no_scheme": (with_login(GET, basic(scheme=b"")), Reason.AUTH_FAILED),
    "tab": (with_login(GET, basic(scheme=b"Basic\t")), Reason.AUTH_FAILED),
    "two_credentials": (with_login(GET, basic() + b", " + basic()), Reason.AUTH_FAILED),
    "no_base64": (with_login(GET, b"Basic \xff\xfe"), Reason.AUTH_FAILED),
    "no_colon": (with_login(GET, b"Basic " + b64encode(b"guest")), Reason.AUTH_FAILED),
    "no_name": (with_login(GET, basic(b"")), Reason.AUTH_FAILED),
    "no_password": (with_login(GET, basic(b"guest", b"")), Reason.AUTH_FAILED),
    "long_name": (with_login(GET, basic(b"n" * 256)), Reason.AUTH_FAILED),
    "long_password": (with_login(GET, basic(b"n", b"p" * 256)), Reason.AUTH_FAILED),
    "control": (with_login(GET, basic(b"n", b"p\x7f")), Reason.AUTH_FAILED),
    "nul": (with_login(GET, basic(b"n\0")), Reason.AUTH_FAILED),
    "socks4": (SOCKS4, Reason.AUTH_REQUIRED),
    "socks4a": (SOCKS4A, Reason.AUTH_REQUIRED),
    "socks5": (b"\x05\x01\x00", Reason.AUTH_REQUIRED),
    "socks5_others": (b"\x05\x03\x00\x01\x80", Reason.AUTH_REQUIRED),
    "socks5_request": (SOCKS5, Reason.BAD_REQUEST),
    "socks5_no_name": (GREETING + b"\x01\x00\x01p", Reason.AUTH_FAILED),
    "socks5_no_password": (GREETING + b"\x01\x01n\x00", Reason.AUTH_FAILED),
}  # fmt: skip


@pytest.mark.parametrize("size", [1 << 20, 1])
@pytest.mark.parametrize("name", REFUSED)
def test_no_login(name: str, size: int) -> None:
    data, reason = REFUSED[name]
    with pytest.raises(ProtocolError) as caught:
        Told(cut(data, size), login=True)
    assert caught.value.reason is reason


def test_base64_is_taken_in_one_form_only() -> None:
    """RFC 4648 section 3: neither other alphabets, nor blanks, nor stray bits at the end."""
    right = basic(b"n", b"pab")
    assert right == b"Basic bjpwYWI="
    assert Told([with_login(GET, right)], login=True).logins == [(b"n", b"pab")]
    stray = right[:-2] + bytes((right[-2] + 1,)) + b"="
    for wrong in (
        right[:-1], right + b"=", right + b"!", right[:8] + b" " + right[8:], stray,
        right[:8] + b"=" + right[8:], basic(b"n\xff\xff", b"p").replace(b"/", b"_"),
    ):  # fmt: skip
        with pytest.raises(ProtocolError) as caught:
            Told([with_login(GET, wrong)], login=True)
        assert caught.value.reason is Reason.AUTH_FAILED


@given(st.binary(max_size=60).filter(lambda text: not set(text) & set(b"\r\n")))
def test_any_credentials_are_read_or_refused(text: bytes) -> None:
    try:
        told = Told([with_login(GET, b"Basic " + text)], login=True)
    except ProtocolError:
        return
    ((name, password),) = told.logins
    assert b64encode(name + b":" + password) == text.strip(b" \t")
    assert name
    assert password


# No control characters: RFC 7617 section 2 has none.
_shown = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60
).map(str.encode)


@given(_shown.filter(lambda name: b":" not in name), _shown)
def test_credentials_come_through(name: bytes, password: bytes) -> None:
    told = Told([with_login(CONNECT, basic(name, password))], login=True)
    assert told.logins == [(name, password)]


def test_a_kept_connection_is_asked_once() -> None:
    """As long as it says the same; and again where the session wants it."""
    told = Told([with_login(GET, basic())], login=True)
    intake = told.intake
    for _ in range(2):
        intake.buffer = with_login(GET, basic())
        assert isinstance(intake.read(), Request)
    intake.buffer = with_login(GET, basic(password=b"another"))
    assert intake.read() == (NAME, b"another")
    intake.admitted()
    assert isinstance(intake.read(), Request)
    intake.proved = b""
    intake.buffer = with_login(GET, basic(password=b"another"))
    assert isinstance(intake.read(), Login)
    intake.admitted()
    assert isinstance(intake.read(), Request)
    intake.buffer = GET
    with pytest.raises(ProtocolError) as caught:
        intake.read()
    assert caught.value.reason is Reason.AUTH_REQUIRED


def test_from_requests_to_a_tunnel_on_a_kept_connection() -> None:
    intake = Told([with_login(GET, basic())], login=True).intake
    intake.buffer = with_login(CONNECT, basic())
    asked = intake.read()
    assert (intake.protocol, isinstance(asked, Target)) == ("CONNECT", True)


def test_a_bad_request_is_refused_behind_its_login() -> None:
    data, reason = BAD["connect_with_length"]
    intake = Intake("auto")
    intake.login = True
    intake.buffer = with_login(data, basic())
    assert isinstance(intake.read(), Login)
    intake.admitted()
    with pytest.raises(ProtocolError) as caught:
        intake.read()
    assert caught.value.reason is reason
    assert intake.rejection(reason, "no").startswith(b"HTTP/1.1 400 ")


def waiting(data: bytes) -> Intake:
    """An intake that waits for its login to be looked at, or refused it."""
    intake = Intake("auto")
    intake.login = True
    intake.buffer = data
    try:
        while not isinstance(intake.read(), Login):
            pass
    except ProtocolError:
        pass
    return intake


@pytest.mark.parametrize("reason", [Reason.AUTH_FAILED, Reason.AUTH_THROTTLED, Reason.AUTH_BUSY])
def test_a_login_refused(reason: Reason) -> None:
    """RFC 1929 section 2: anything but zero is a failure."""
    assert waiting(GREETING + LOGIN5).rejection(reason, "no") == NOT_LOGGED_IN == b"\x01\x01"
    assert waiting(b"\x05\x01\x00").rejection(reason, "no") == b"\x05\xff"
    assert waiting(SOCKS4).rejection(reason, "no") == b"\x00\x5b" + bytes(6)
    status = b"HTTP/1.1 %d " % reason.status
    for request, field in product((GET, CONNECT), ([], [basic()])):
        assert waiting(with_login(request, *field)).rejection(reason, "no").startswith(status)


@pytest.mark.parametrize("fields", [[], [basic()], [b"Basic x"]])
def test_a_login_refused_to_head(fields: list[bytes]) -> None:
    """RFC 9110 section 9.3.2: an answer to HEAD has no body."""
    told = waiting(with_login(GET.replace(b"GET", b"HEAD"), *fields))
    assert told.rejection(Reason.AUTH_REQUIRED, "no").endswith(b"\r\n\r\n")


def test_after_its_login_a_socks5_client_gets_replies() -> None:
    intake = waiting(GREETING + LOGIN5)
    assert intake.admitted() == LOGGED_IN == b"\x01\x00"
    assert intake.rejection(Reason.CONNECT_REFUSED, "no") == b"\x05\x05\x00\x01" + bytes(6)


@given(st.binary(min_size=1, max_size=80))
def test_any_bytes_are_taken_or_refused_with_logins(data: bytes) -> None:
    try:
        told = Told(cut(data, 1), login=True)
    except ProtocolError:
        return
    assert told.asked is None or told.logins
