"""One check: what it says, what it makes of any answer, and that it always ends."""

from __future__ import annotations

import errno
import socket
import time
from _socket import socket as Socket
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost_lite.check import ANSWER_LIMIT, Check, parse_url
from bifrost_lite.config import schema
from bifrost_lite.dial import Dial, Dialler, Done
from bifrost_lite.dispatch import EpollDispatcher, PollDispatcher
from bifrost_lite.errors import Reason
from bifrost_lite.target import Target
from tests.health_kit import PASS, Bench, running
from tests.plane_kit import Origin, Peer

PASSED = ("", True)
ENDED = "The connection ended before the answer was complete."
BROKE = "The connection broke before the answer was complete."


@pytest.fixture(params=[EpollDispatcher, PollDispatcher], ids=["epoll", "poll"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    yield from running(request.param)


class Peers:
    """A WireGuard peer as far as its age is asked for."""

    def __init__(self, handshake: float) -> None:
        self.handshake = handshake


def begin(bench: Bench, kind: str, target: str, **health: object) -> list[tuple[str, bool]]:
    """Begin a check; answers where its result will stand."""
    settings = schema.Health(type=kind, target=target, **health)
    backend = bench.make("out", settings)
    return run(bench, backend, settings)


def run(bench: Bench, backend: object, settings: schema.Health) -> list[tuple[str, bool]]:
    results: list[tuple[str, bool]] = []
    Check(
        bench.loop,
        bench.dispatcher,
        backend,
        settings,
        lambda done: bench.ask(bench.dispatcher, "wg0", done),
        lambda why, telling: results.append((why, telling)),
    ).start()
    return results


def over(bench: Bench, results: list[tuple[str, bool]]) -> tuple[str, bool]:
    """Wait for the result; nothing may be left then."""
    bench.until(lambda: results, "the result")
    (result,) = results
    assert not bench.dispatcher.handlers
    assert bench.timers == []
    return result


def asked(bench: Bench, origin: Origin, **health: object) -> tuple[Peer, list[tuple[str, bool]]]:
    """An HTTP check whose request has arrived."""
    results = begin(bench, "http", f"http://{origin.authority}/x", **health)
    bench.turn()
    peer = origin.accept()
    bench.turn()
    peer.head()
    return peer, results


def test_tcp_connects_and_hangs_up(bench: Bench) -> None:
    origin = bench.origin()
    results = begin(bench, "tcp", origin.authority)
    assert over(bench, results) == PASSED
    bench.turn()
    origin.accept().ended()


@pytest.mark.parametrize("kind", ["tcp", "http"])
def test_a_target_that_refuses(bench: Bench, kind: str) -> None:
    origin = Origin()
    origin.close()
    target = origin.authority if kind == "tcp" else f"http://{origin.authority}/"
    assert over(bench, begin(bench, kind, target)) == (Reason.CONNECT_REFUSED.text, True)


@pytest.mark.parametrize("kind", ["tcp", "http"])
def test_a_target_that_does_not_answer(bench: Bench, kind: str) -> None:
    origin = bench.hole()
    target = origin.authority if kind == "tcp" else f"http://{origin.authority}/"
    results = begin(bench, kind, target, timeout=2.5)
    bench.advance(2.4)
    assert not results
    bench.advance(0.2)
    assert over(bench, results) == ("There was no answer within 2.5 s.", True)


def test_a_name_that_does_not_exist(bench: Bench) -> None:
    bench.names.known["no.example"] = Reason.DNS_NOT_FOUND
    results = begin(bench, "http", "http://no.example/")
    assert over(bench, results) == (Reason.DNS_NOT_FOUND.text, True)


def test_what_it_sends(bench: Bench) -> None:
    bench.names.known["check.example"] = ["127.0.0.1"]
    origin = bench.origin()
    results = begin(bench, "http", f"http://check.example:{origin.port}/generate_204?a=1#top")
    bench.turn()
    peer = origin.accept()
    bench.turn()
    assert peer.head() == (
        b"GET /generate_204?a=1 HTTP/1.1\r\n"
        b"Host: check.example:%d\r\n"
        b"User-Agent: bifrost-lite\r\n"
        b"Accept: */*\r\n"
        b"Connection: close\r\n\r\n" % origin.port
    )
    peer.send(PASS)
    assert over(bench, results) == PASSED


def test_through_an_http_proxy_it_asks_in_absolute_form(bench: Bench) -> None:
    origin = bench.origin()
    settings = schema.Health(type="http", target="http://192.0.2.1/generate_204")
    backend = bench.make("out", settings)
    forwards: list[bool] = []

    class Upstream:
        """Connects to an HTTP proxy, whatever the target."""

        def probe(self, target: Target, done: Done, forward: bool = False) -> Dial:
            forwards.append(forward)
            return Dial(backend.prober, Target("127.0.0.1", origin.port, b"\x7f\0\0\1"), done)

        carriers = backend.carriers

    backend.way.absolute = True
    for authorization in (b"", b"Basic bWU6c2VjcmV0"):
        backend.way.authorization = authorization
        results = run(bench, Upstream(), settings)
        bench.turn()
        peer = origin.accept()
        bench.turn()
        field = b"Proxy-Authorization: %b\r\n" % authorization if authorization else b""
        assert peer.head() == (
            b"GET http://192.0.2.1/generate_204 HTTP/1.1\r\n"
            b"Host: 192.0.2.1\r\n"
            b"User-Agent: bifrost-lite\r\n"
            b"Accept: */*\r\n"
            b"Connection: close\r\n%b\r\n" % field
        )
        peer.send(PASS)
        assert over(bench, results) == PASSED
    assert forwards == [True, True]


ANSWERS = [
    (b"HTTP/1.1 204 No Content\r\n", PASSED),
    (b"HTTP/1.0 200 OK\r\n", PASSED),
    (b"HTTP/1.1 204\r\n", PASSED),
    (b"HTTP/1.1 204 \r\n", PASSED),
    (b"HTTP/1.1 204 \xff\n", PASSED),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n", PASSED),
    (b"HTTP/1.1 103 Early\nLink: </a>\n\nHTTP/1.1 100\r\n\r\nHTTP/1.1 200 OK\r\n", PASSED),
    (b"HTTP/1.1 103 Early\r\nLink: </a>\r\n\r\nHTTP/1.1 500 No\r\n", ("The answer has status 500.", True)),
    (b"HTTP/1.1 101 Switching Protocols\r\n", ("The answer has status 101.", True)),
    (b"HTTP/1.1 302 Found\r\n", ("The answer has status 302.", True)),
    (b"HTTP/1.1 407 Log in\r\n", ("The answer has status 407.", True)),
    (b"HTTP/1.1 2040 No Content\r\n", ("The answer is not HTTP.", True)),
    (b"HTTP/1.1 099 No\r\n", ("The answer is not HTTP.", True)),
    (b"HTTP/2 204\r\n", ("The answer is not HTTP.", True)),
    (b" HTTP/1.1 204\r\n", ("The answer is not HTTP.", True)),
    (b"\r\nHTTP/1.1 204\r\n", ("The answer is not HTTP.", True)),
    (b"HTTP/1.1 204\rX\r\n", ("The answer is not HTTP.", True)),
    (b"SSH-2.0-OpenSSH_9.6\r\n", ("The answer is not HTTP.", True)),
    (b"HTTP/1.1 103 Early\r\n\r\nSSH-2.0-OpenSSH_9.6\r\n", ("The answer is not HTTP.", True)),
    (b"\0" * ANSWER_LIMIT, ("There is no status in the first 16 KiB.", True)),
    (b"HTTP/1.1 103 Early\r\nLink: </a>\r\n\r\n" * 500, ("There is no status in the first 16 KiB.", True)),
]


@pytest.mark.parametrize("way", ["whole", "trailing", "bytes"])
@pytest.mark.parametrize(("answer", "result"), ANSWERS)
def test_answers(bench: Bench, answer: bytes, result: tuple[str, bool], way: str) -> None:
    if way == "bytes" and len(answer) > 1000:
        answer = answer[: ANSWER_LIMIT + 10]
    peer, results = asked(bench, bench.origin(), timeout=300.0)
    if way == "bytes" and len(answer) < 1000:
        for at in range(len(answer)):
            if not results:
                peer.send(answer[at : at + 1])
                bench.turn()
    else:
        peer.send(answer + (b"\r\n" + bytes(100_000) if way == "trailing" else b""))
    assert over(bench, results) == result


@given(data=st.lists(st.sampled_from([b"HTTP/1.1 ", b"103", b"204", b" ", b"\r", b"\n", b"\r\n", b"x", b":", b"\0"]), max_size=40), cuts=st.data())
def test_pieces_do_not_matter(data: list[bytes], cuts: st.DataObject) -> None:
    """However the bytes arrive, they mean the same."""
    text = b"".join(data)

    def read(sizes: Callable[[int], int]) -> str | None:
        check = Check.__new__(Check)
        check._health = schema.Health()
        check._buffer = b""
        at = 0
        while at < len(text):
            size = sizes(len(text) - at)
            check._buffer += text[at : at + size]
            at += size
            result = check._read()
            if result is not None:
                return result
        return None

    whole = read(lambda left: left)
    assert read(lambda left: 1) == whole
    assert read(lambda left: cuts.draw(st.integers(1, left))) == whole


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 204", b"HTTP/1.1 103 Early\r\n\r\n"])
def test_a_target_that_ends_or_breaks(bench: Bench, said: bytes) -> None:
    peer, results = asked(bench, bench.origin())
    peer.send(said)
    bench.turn()
    assert not results
    peer.finish()
    assert over(bench, results) == (ENDED, True)
    peer, results = asked(bench, bench.origin())
    peer.send(said)
    bench.turn()
    peer.reset()
    assert over(bench, results) == (BROKE, True)


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 204", b"HTTP/1.1 103 Early\r\nLink: <"])
def test_a_target_that_stalls(bench: Bench, said: bytes) -> None:
    peer, results = asked(bench, bench.origin(), timeout=5.0)
    bench.advance(3.0)
    peer.send(said)
    bench.advance(1.9)
    assert not results
    bench.advance(0.2)  # the deadline is over the whole
    assert over(bench, results) == ("There was no answer within 5 s.", True)


def test_other_statuses_can_be_expected(bench: Bench) -> None:
    for status, expected in ((401, ""), (204, "The answer has status 204.")):
        peer, results = asked(bench, bench.origin(), expect=(101, 401))
        peer.send(b"HTTP/1.1 %d Well\r\n\r\n" % status)
        assert over(bench, results) == (expected, True)


class Narrow:
    """A socket that takes a byte at a time, and then none."""

    def __init__(self, sock: Socket) -> None:
        self.sock = sock
        self.turn = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.sock, name)

    def send(self, data: bytes) -> int:
        self.turn += 1
        if self.turn % 2 == 0:
            raise BlockingIOError
        return self.sock.send(data[:1])


def test_a_connection_that_takes_little(bench: Bench) -> None:
    origin = bench.origin()
    settings = schema.Health(type="http", target=f"http://{origin.authority}/")
    backend = bench.make("out", settings)
    checks: list[Check] = []

    class Wrapping:
        """Gives narrow connections."""

        carriers = backend.carriers

        def probe(self, target: Target, done: Done, forward: bool = False) -> Dial:
            checks.append(done.__self__)  # type: ignore[attr-defined]

            def narrow(sock: object, *rest: object) -> None:
                done(Narrow(sock), *rest)

            return backend.probe(target, narrow)

    results = run(bench, Wrapping(), settings)
    bench.turn()
    peer = origin.accept()
    (check,) = checks
    while check._out:
        check.on_event(4)  # what the kernel says when there is room again
    assert b"Connection: close\r\n\r\n" in peer.head()
    peer.send(PASS)
    assert over(bench, results) == PASSED


@pytest.mark.parametrize("connects", [True, False])
def test_a_backend_that_is_done_before_it_returns(bench: Bench, connects: bool) -> None:
    """Then there is nothing to give up: the connection is somebody else's already."""
    here, there = socket.socketpair()
    here.setblocking(False)

    class Ready:
        def cancel(self) -> None:
            pytest.fail("what is done was given up")

        def probe(self, target: Target, done: Done, forward: bool = False) -> object:
            if connects:
                bench.dispatcher.attach(here.fileno(), bench.quiet)
                done(here, 4, None, None)
            else:
                here.close()
                done(None, 0, Reason.DEVICE_ABSENT, None)
            return self

        def carriers(self, client: bytes) -> list[object]:
            return []

    results = run(bench, Ready(), schema.Health(type="http", target="http://192.0.2.1/"))
    if connects:
        there.sendall(PASS)
    assert over(bench, results) == (PASSED if connects else (Reason.DEVICE_ABSENT.text, True))
    bench.turn()
    there.close()


def test_our_own_failures_tell_nothing(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    class Full(Dialler):
        __slots__ = ()

        def open(self, packed: bytes, port: int) -> Socket:
            raise OSError(errno.EMFILE, "no more")

    class Broken:
        def probe(self, *_: object) -> None:
            raise ValueError

        def carriers(self, client: bytes) -> list[object]:
            return []

    settings = schema.Health(type="tcp", target="127.0.0.1:9")
    backend = bench.make("out", settings, dialler=Full)
    result = over(bench, run(bench, backend, settings))
    assert result == (Reason.OUT_OF_DESCRIPTORS.text, False)
    assert caplog.messages == []
    for kind, target in (("tcp", "127.0.0.1:9"), ("http", "http://127.0.0.1/")):
        settings = schema.Health(type=kind, target=target)
        assert over(bench, run(bench, Broken(), settings)) == (Reason.INTERNAL.text, False)
    assert len(caplog.messages) == 2


@pytest.mark.parametrize("stage", ["dialling", "asking"])
def test_it_can_be_given_up(bench: Bench, stage: str) -> None:
    origin = bench.hole() if stage == "dialling" else bench.origin()
    settings = schema.Health(type="http", target=f"http://{origin.authority}/")
    check = Check(
        bench.loop, bench.dispatcher, bench.make("out", settings), settings, pytest.fail, pytest.fail
    )
    check.start()
    bench.turn()
    assert bench.dispatcher.handlers
    check.cancel()
    check.on_event(1)  # of the same batch
    check.crash()
    bench.turn()
    assert not bench.dispatcher.handlers
    assert bench.timers == []


def test_handshakes(bench: Bench) -> None:
    now = time.time()
    for peers, why, result in (
        ([Peers(now - 100), Peers(0.0)], "", PASSED),
        ([Peers(now - 1000)], "", ("The last handshake was 1000 s ago.", True)),
        ([Peers(0.0)], "", ("There was no handshake yet.", True)),
        ([], "", ("There was no handshake yet.", True)),
        (None, "wg0 is not there", ("Nothing is known of its handshakes: wg0 is not there.", True)),
    ):
        results = begin(bench, "wireguard", "")
        inquiry = bench.asked.pop()
        assert inquiry.device == "wg0"
        inquiry.done(peers, why)
        assert over(bench, results) == result
        assert not inquiry.cancelled


def test_a_kernel_that_does_not_answer(bench: Bench) -> None:
    results = begin(bench, "wireguard", "", timeout=1.0)
    bench.advance(1.1)
    assert over(bench, results) == ("There was no answer within 1 s.", True)
    assert bench.asked.pop().cancelled


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://192.0.2.1/generate_204", ("192.0.2.1:80", b"192.0.2.1", b"/generate_204")),
        ("http://a.example", ("a.example:80", b"a.example", b"/")),
        ("http://a.example:8080/", ("a.example:8080", b"a.example:8080", b"/")),
        ("http://[2001:db8::1]/a?b=c://d/e#f", ("[2001:db8::1]:80", b"[2001:db8::1]", b"/a?b=c://d/e")),
    ],
)
def test_urls(url: str, parts: tuple[str, bytes, bytes]) -> None:
    target, host, path = parse_url(url)
    assert (str(target), host, path) == parts
