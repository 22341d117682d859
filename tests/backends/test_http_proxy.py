"""What is particular to an upstream that is an HTTP proxy; the rest is in test_upstream."""

from __future__ import annotations

from contextlib import suppress

import pytest

from bifrost_lite.dispatch import Dispatcher
from bifrost_lite.errors import Reason
from bifrost_lite.wire.upstream import ANSWER_LIMIT, basic, connect_request
from tests.backends.upstream_kit import GRANTED, NAME, PASSWORD, USER, Caller, target
from tests.plane_kit import both

Selector = type[Dispatcher]

LOGIN = {"username": USER, "password": PASSWORD}
STATUSES = {
    400: Reason.CONNECT_FAILED,
    403: Reason.UPSTREAM_DENIED,
    500: Reason.CONNECT_FAILED,
    502: Reason.CONNECT_FAILED,
    503: Reason.CONNECT_FAILED,
    504: Reason.CONNECT_TIMEOUT,
}


def refusal(status: int) -> bytes:
    page = b"<p>" + b"no " * 20_000
    return b"HTTP/1.1 %d No\r\nContent-Length: %d\r\n\r\n%b" % (status, len(page), page)


@both
@pytest.mark.parametrize("login", [{}, LOGIN], ids=["anonymous", "login"])
def test_the_way(selector: Selector, login: dict[str, str]) -> None:
    """It says what a session has to know to write absolute-form."""
    with Caller(selector, "http_proxy", **login) as caller:
        assert caller.way.absolute
        assert caller.way.authorization == (basic(USER, PASSWORD) if login else b"")


@both
@pytest.mark.parametrize("where", ["192.0.2.1:80", "[2001:db8::1]:443", "a.example:65535"])
def test_what_it_asks_for(selector: Selector, where: str) -> None:
    with Caller(selector, "http_proxy") as caller:
        caller.connect(where)
        upstream = caller.upstream.accept()
        assert upstream.head() == connect_request(target(where), b"")
        upstream.send(GRANTED)
        caller.granted()


@both
@pytest.mark.parametrize("status", STATUSES)
def test_refusals(selector: Selector, status: int) -> None:
    """They are the target's fault, and a sign that the upstream works."""
    with Caller(selector, "http_proxy") as caller:
        caller.connect()
        upstream = caller.upstream.accept()
        upstream.head()
        upstream.send(refusal(status))
        assert caller.refused() is STATUSES[status]
        upstream.gone()
        assert (caller.condition.worked, caller.condition.failures) == (1, [])
        assert (caller.counters.failed, caller.counters.latency) == (1, 0.0)


@both
@pytest.mark.parametrize("login", [{}, LOGIN], ids=["anonymous", "login"])
def test_wrong_credentials(selector: Selector, login: dict[str, str]) -> None:
    with Caller(selector, "http_proxy", **login) as caller:
        caller.connect()
        upstream = caller.upstream.accept()
        upstream.head()
        upstream.send(refusal(407))
        assert caller.refused() is Reason.UPSTREAM_AUTH
        assert caller.condition.failures == [(Reason.UPSTREAM_AUTH.text, NAME)]
        assert caller.condition.worked == 0


@both
def test_a_refused_probe_is_no_sign_of_anything(selector: Selector) -> None:
    with Caller(selector, "http_proxy") as caller:
        caller.connect(probe=True)
        upstream = caller.upstream.accept()
        upstream.head()
        upstream.send(refusal(403))
        assert caller.refused() is Reason.UPSTREAM_DENIED
        caller.nothing_judged()


@both
@pytest.mark.parametrize("interims", [1, 20])
@pytest.mark.parametrize("trickle", [True, False])
def test_interim_answers(selector: Selector, interims: int, trickle: bool) -> None:
    answer = b"HTTP/1.1 100 Continue\r\n\r\n" * interims + GRANTED
    with Caller(selector, "http_proxy") as caller:
        caller.connect()
        upstream = caller.upstream.accept()
        upstream.head()
        if trickle:
            upstream.trickle(answer, caller.settle)
            upstream.send(b"behind")
        else:
            upstream.send(answer + b"behind")
        caller.granted().expect(b"behind")


@both
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n" + b"A: " + b"a" * ANSWER_LIMIT + b"\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 1000 + GRANTED,
        b"HTTP/1.1 200 " + b"a" * (1 << 20),
    ],
)
def test_a_giant_answer(selector: Selector, answer: bytes) -> None:
    with Caller(selector, "http_proxy") as caller:
        caller.connect()
        upstream = caller.upstream.accept()
        upstream.head()
        with suppress(OSError):  # it hangs up in the middle
            upstream.send(answer)
        assert caller.refused() is Reason.UPSTREAM_FAILED


# Plain HTTP requests.


@both
@pytest.mark.parametrize("probe", [True, False])
def test_forwarding_needs_no_talk(selector: Selector, probe: bool) -> None:
    with Caller(selector, "http_proxy", **LOGIN) as caller:
        caller.connect("www.example.com:80", forward=True, probe=probe)
        mine = caller.granted()
        upstream = caller.upstream.accept()
        mine.send(b"GET http://www.example.com/ HTTP/1.1\r\n")
        upstream.expect(b"GET http://www.example.com/ HTTP/1.1\r\n").send(b"HTTP/1.1 200 OK\r\n")
        mine.expect(b"HTTP/1.1 200 OK\r\n")
        if probe:
            caller.nothing_judged()
        else:
            # It may yet ask for a login: who forwards will tell.
            assert (caller.condition.worked, caller.counters.failed) == (0, 0)
            assert caller.counters.latency > 0
            assert caller.counters.latency > 0


@both
def test_forwarding_to_nobody(selector: Selector) -> None:
    with Caller(selector, "http_proxy") as caller:
        caller.upstream.close()
        caller.connect(forward=True)
        assert caller.refused() is Reason.UPSTREAM_UNREACHABLE
        assert caller.condition.failures == [(Reason.UPSTREAM_UNREACHABLE.text, NAME)]


@both
def test_forwarding_in_no_time(selector: Selector) -> None:
    with Caller(selector, "http_proxy", seconds=0.1, backlog=0) as caller:
        caller.upstream.fill()
        caller.connect(forward=True)
        assert caller.refused() is Reason.UPSTREAM_TIMEOUT


# An upstream that does not read what it is sent. The password is longer than all buffers.

LONG = {"username": USER, "password": "p" * 20_000_000}


@both
def test_a_request_in_parts(selector: Selector) -> None:
    with Caller(selector, "http_proxy", **LONG) as caller:
        caller.connect()
        upstream = caller.upstream.accept()
        caller.settle()
        head = connect_request(target(NAME), caller.way.authorization)
        upstream.expect(head).send(GRANTED + b"behind")
        caller.granted().expect(b"behind")


@both
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (refusal(407), Reason.UPSTREAM_AUTH),
        (refusal(403), Reason.UPSTREAM_DENIED),
        (GRANTED, Reason.UPSTREAM_FAILED),
    ],
)
def test_an_answer_before_the_request(selector: Selector, answer: bytes, reason: Reason) -> None:
    """A refusal counts, but no tunnel starts in the middle of a head."""
    with Caller(selector, "http_proxy", **LONG) as caller:
        caller.connect()
        upstream = caller.upstream.accept()
        caller.settle()
        upstream.send(answer)
        assert caller.refused() is reason


@both
def test_an_upstream_that_leaves_in_mid_request(selector: Selector) -> None:
    with Caller(selector, "http_proxy", **LONG) as caller:
        caller.connect()
        upstream = caller.upstream.accept()
        caller.settle()
        upstream.reset()
        assert caller.refused() is Reason.UPSTREAM_FAILED


@both
def test_an_upstream_that_never_reads(selector: Selector) -> None:
    with Caller(selector, "http_proxy", seconds=0.2, **LONG) as caller:
        caller.connect()
        caller.upstream.accept()
        assert caller.refused() is Reason.UPSTREAM_TIMEOUT
