"""HTTP requests that another proxy carries: absolute-form, its credentials, its refusals."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bifrost_lite.backends.base import Connecting
from bifrost_lite.backends.direct import Direct
from bifrost_lite.backends.http_proxy import HttpProxy
from bifrost_lite.condition import Condition
from bifrost_lite.dial import Dialler, Done
from bifrost_lite.dispatch import Dispatcher
from bifrost_lite.target import Target, parse_authority
from tests.plane_kit import Peer, Proxy, anything, both, direct, get, refusal, way

Selector = type[Dispatcher]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"
GRANTED = b"HTTP/1.1 200 Granted\r\n\r\n"
WISH = ("Connection: upgrade", "Upgrade: echo")


class Chain:
    """A proxy that goes through another, whose part the test plays.

    Args:
        selector: the kind of dispatcher
        username, password: for the other
        more: as for `Proxy`
    """

    def __init__(
        self, selector: Selector, username: str = "", password: str = "", **more: bool
    ) -> None:
        self.proxy = Proxy(selector, **more)  # type: ignore[arg-type]
        self.upstream = self.proxy.origin()
        dispatcher = self.proxy.dispatcher
        at = parse_authority(self.upstream.authority.encode(), None)
        dialler = Dialler(dispatcher, self.proxy.names, anything)
        self.way = way(dispatcher, "up", "http_proxy")
        self.backend = HttpProxy(self.way, dialler, at, username, password, anything, 5.0)
        self.proxy.plane.policy.backends["direct"] = self.backend

    def __enter__(self) -> Chain:
        self.proxy.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.proxy.__exit__(*error)  # type: ignore[arg-type]

    def asked(self, client: Peer, request: bytes) -> Peer:
        """Send a request; the upstream's end of what carries it."""
        client.send(request)
        return self.upstream.accept()


@both
def test_a_proxy_that_refuses_our_login_goes_down(selector: Selector) -> None:
    """To reach it proves nothing; its answers do."""
    with Chain(selector) as chain:
        told: list[str] = []
        condition = Condition(
            lambda one: told.append(one.state), watched=True, passive=True, fall=3, rise=1
        )
        chain.way.condition = condition
        for number in range(3):
            client = chain.proxy.connect()
            upstream = chain.asked(client, get(f"http://{number}.test/"))
            upstream.head()
            upstream.send(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")
            assert refusal(client) == (502, "upstream_auth_failed")
        assert told == ["suspect", "down"]
        chain.proxy.call(lambda: condition.tick(chain.proxy.dispatcher.now + 60))
        client = chain.proxy.connect()
        upstream = chain.asked(client, get("http://a.test/"))
        assert told == ["suspect", "down", "suspect"]
        upstream.head()
        upstream.send(OK)
        client.head()
        assert told == ["suspect", "down", "suspect", "up"]
        client.expect(b"ok").close()


@both
def test_a_proxy_that_says_nothing_goes_down(selector: Selector) -> None:
    """One that works would tell what is wrong with the target."""
    with Chain(selector) as chain:
        told: list[str] = []
        chain.way.condition = Condition(
            lambda one: told.append(one.state), watched=True, passive=True, fall=2
        )
        for number in range(2):
            client = chain.proxy.connect()
            upstream = chain.asked(client, get(f"http://{number}.test/"))
            upstream.head()
            upstream.close()
            assert refusal(client) == (502, "upstream_failed")
        assert told == ["suspect", "down"]
        assert chain.way.counters.failed == 2


@both
def test_a_proxy_that_takes_no_body_may_be_right(selector: Selector) -> None:
    """Its answer may have been lost with the connection."""
    with Chain(selector) as chain:
        client = chain.proxy.connect()
        upstream = chain.asked(client, get("http://a.test/", "Content-Length: 9", method="POST"))
        upstream.head()
        upstream.close()
        assert refusal(client) == (502, "target_closed")
        assert chain.way.counters.failed == 0


@both
@pytest.mark.parametrize(
    ("url", "method", "line", "host"),
    [
        ("http://a.test/x?y", "GET", b"GET http://a.test/x?y", b"a.test"),
        ("http://A.test:80", "GET", b"GET http://a.test/", b"a.test"),
        ("http://a.test:8080/", "GET", b"GET http://a.test:8080/", b"a.test:8080"),
        ("http://[2001:DB8::1]/", "GET", b"GET http://[2001:db8::1]/", b"[2001:db8::1]"),
        ("http://a.test", "OPTIONS", b"OPTIONS http://a.test", b"a.test"),
        ("http://a.test/", "OPTIONS", b"OPTIONS http://a.test/", b"a.test"),
    ],
)
def test_absolute_form(selector: Selector, url: str, method: str, line: bytes, host: bytes) -> None:
    """The name goes on unresolved; RFC 9112 sections 3.2.2 and 3.2.4."""
    with Chain(selector) as chain:
        client = chain.proxy.connect()
        upstream = chain.asked(client, get(url, "Proxy-Authorization: Basic bWU6", method=method))
        assert upstream.head() == line + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"
        upstream.send(OK)
        assert client.head().startswith(b"HTTP/1.1 200 OK\r\n")
        client.expect(b"ok").close()
        assert chain.proxy.close_event().backend == "up"


@both
def test_credentials_go_with_each_request(selector: Selector) -> None:
    with Chain(selector, "me", "secret") as chain:
        client = chain.proxy.connect()
        upstream = chain.asked(client, get("http://a.test/1"))
        for number in (b"1", b"2"):
            head = upstream.head()
            assert head.startswith(b"GET http://a.test/%b HTTP/1.1\r\n" % number)
            assert head.count(b"\r\nProxy-Authorization: Basic bWU6c2VjcmV0\r\n") == 1
            upstream.send(OK)
            client.head()
            client.expect(b"ok")
            if number == b"1":
                client.send(get("http://a.test/2"))
        chain.proxy.settle()
        chain.upstream.alone()


@both
def test_another_target_has_another_connection(selector: Selector) -> None:
    with Chain(selector) as chain:
        client = chain.proxy.connect()
        first = chain.asked(client, get("http://a.test/"))
        first.head()
        first.send(OK)
        client.head()
        second = chain.asked(client.expect(b"ok"), get("http://b.test/"))
        first.ended()
        assert second.head().startswith(b"GET http://b.test/ ")


@both
@pytest.mark.parametrize("interim", [b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
def test_credentials_that_the_other_refuses_are_not_the_clients_affair(
    selector: Selector, interim: bytes
) -> None:
    with Chain(selector) as chain:
        client = chain.proxy.connect()
        upstream = chain.asked(client, get("http://a.test/"))
        upstream.head()
        upstream.send(
            interim + b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n"
        )
        if not interim:
            assert refusal(client) == (502, "upstream_auth_failed")
        else:
            assert b"HTTP/1.1 502 " in client.rest()
        client.close()
        assert chain.way.counters.last_failure == "upstream_auth_failed"
        chain.proxy.gone()
        assert chain.way.counters.active == 0


@both
def test_upgrades_go_through_a_tunnel(selector: Selector) -> None:
    """Also where a connection for absolute-form is kept: it cannot carry them, nor can a
    tunnel carry what comes next."""
    with Chain(selector, upgrades=True) as chain:
        client = chain.proxy.connect()
        kept = chain.asked(client, get("http://a.test/"))
        kept.head()
        kept.send(OK)
        client.head()
        tunnel = chain.asked(client.expect(b"ok"), get("http://a.test/", *WISH))
        kept.ended()
        assert tunnel.head().startswith(b"CONNECT a.test:80 ")
        tunnel.send(GRANTED)
        assert tunnel.head().startswith(b"GET / HTTP/1.1\r\n")
        tunnel.send(OK)  # it does not want to
        client.head()
        again = chain.asked(client.expect(b"ok"), get("http://a.test/"))
        tunnel.ended()
        assert again.head().startswith(b"GET http://a.test/ ")
        again.send(OK)
        client.head()
        last = chain.asked(client.expect(b"ok"), get("http://a.test/", *WISH))
        last.head()
        last.send(GRANTED)
        last.head()
        last.send(SWITCHED + b"hello")
        assert client.head().startswith(b"HTTP/1.1 101 ")
        client.expect(b"hello").send(b"and you")
        last.expect(b"and you")


class Turns:
    """A backend that goes another way each time.

    Attributes:
        wishes: `forward` of each connection
    """

    def __init__(self, proxy: Proxy, *ways: HttpProxy | Direct) -> None:
        self.name, self.type, self.members = "turns", "group", ()
        self.condition = ways[0].condition
        self.ways = list(ways)
        self.wishes: list[bool] = []
        self.close: Callable[[], None] = lambda: None
        proxy.plane.policy.backends["direct"] = self  # type: ignore[assignment]

    def connect(
        self, target: Target, client: bytes, done: Done, forward: bool = False
    ) -> Connecting:
        self.wishes.append(forward)
        return self.ways.pop(0).connect(target, client, done, forward)


@both
def test_an_upgrade_that_is_repeated_still_wants_a_tunnel(selector: Selector) -> None:
    """It goes out on a connection that a plain request made, and finds it dead."""
    with Chain(selector) as chain:
        proxy, origin = chain.proxy, chain.proxy.origin()
        plain = direct(proxy.dispatcher, proxy.names)
        turns = Turns(proxy, plain, chain.backend)
        client = proxy.connect().send(get(f"http://{origin.authority}/"))
        first = origin.accept()
        first.head()
        first.send(OK)
        client.head()
        client.expect(b"ok").send(get(f"http://{origin.authority}/", *WISH))
        first.head()
        first.close()
        tunnel = chain.upstream.accept()
        assert turns.wishes == [True, False]
        assert tunnel.head().startswith(f"CONNECT {origin.authority} ".encode())


@both
def test_a_repeated_request_that_goes_straight_may_be_asked_to_log_in(selector: Selector) -> None:
    """What was the upstream's affair is the target's, the second time."""
    with Chain(selector) as chain:
        proxy, origin = chain.proxy, chain.proxy.origin()
        Turns(proxy, chain.backend, direct(proxy.dispatcher, proxy.names))
        client = proxy.connect()
        upstream = chain.asked(client, get(f"http://{origin.authority}/"))
        upstream.head()
        upstream.send(OK)
        client.head()
        client.expect(b"ok").send(get(f"http://{origin.authority}/"))
        upstream.head()
        upstream.close()
        target = origin.accept()
        assert target.head().startswith(b"GET / HTTP/1.1\r\n")
        target.send(b"HTTP/1.1 407 Odd\r\nContent-Length: 0\r\n\r\n")
        assert client.head().startswith(b"HTTP/1.1 407 Odd\r\n")
        assert chain.way.counters.failed == 0
