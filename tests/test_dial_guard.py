"""What must never be dialled for a client, in every spelling; seen by the client."""

from __future__ import annotations

from bifrost_lite.acl import is_special
from bifrost_lite.dispatch import Dispatcher
from bifrost_lite.errors import Reason
from tests.plane_kit import (
    GRANTED5,
    HELLO5,
    METHOD5,
    Proxy,
    both,
    connect4,
    connect5,
    get,
    packed,
    refusal,
    refused5,
)

Selector = type[Dispatcher]


def local(address: bytes, port: int) -> Reason | None:
    return Reason.TARGET_DENIED if is_special(address) else None


SPELLINGS = [
    "127.0.0.1",
    "127.0.0.1.",
    "127.255.255.254",
    "0.0.0.0",
    "0.1.2.3",
    "169.254.1.1",
    "224.0.0.1",
    "255.255.255.255",
    "[::1]",
    "[::]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "[fe80::1]",
    "[ff02::1]",
]


@both
def test_local_addresses_in_every_spelling(selector: Selector) -> None:
    with Proxy(selector, guard=local) as proxy:
        origin = proxy.origin()
        for host in SPELLINGS:
            where = f"{host}:{origin.port}"
            for request in (get(f"http://{where}/"), f"CONNECT {where} HTTP/1.1\r\nHost: a\r\n\r\n".encode()):
                client = proxy.connect().send(request)
                assert refusal(client) == (403, "target_denied"), host
                client.close()
            bare = host.strip("[]")
            for kind in (0, 3):
                client = proxy.connect().send(HELLO5 + connect5(bare, origin.port, kind=kind))
                assert client.rest() == METHOD5 + refused5(2), host
                client.close()
            client = proxy.connect().send(connect4(bare, origin.port))
            assert client.rest()[:2] == b"\x00\x5b", host
            client.close()
        proxy.settle()
        origin.alone()


@both
def test_names_of_local_addresses(selector: Selector) -> None:
    with Proxy(selector, guard=local) as proxy:
        origin = proxy.origin()
        for name in ("localhost", "LOCALHOST.", "rebound.test"):
            proxy.names.known[name.lower().rstrip(".")] = ["::1", "127.0.0.1"]
            client = proxy.connect().send(get(f"http://{name}:{origin.port}/"))
            assert refusal(client) == (403, "target_denied")
            client = proxy.connect().send(HELLO5 + connect5(name, origin.port))
            assert client.rest() == METHOD5 + refused5(2)
        origin.alone()


@both
def test_rebinding_between_two_requests(selector: Selector) -> None:
    """Each dial is checked anew."""
    forbidden: list[bytes] = []

    def guard(address: bytes, port: int) -> Reason | None:
        return Reason.TARGET_DENIED if address in forbidden else None

    with Proxy(selector, guard=guard) as proxy:
        origin = proxy.origin()
        proxy.names.known["a.test"] = ["127.0.0.1"]
        for _ in range(2):
            client = proxy.connect().send(HELLO5 + connect5("a.test", origin.port))
            if forbidden:
                assert client.rest() == METHOD5 + refused5(2)
            else:
                client.expect(METHOD5 + GRANTED5)
            forbidden.append(packed(["127.0.0.1"])[0])


@both
def test_the_proxy_itself(selector: Selector) -> None:
    ports: set[int] = set()

    def guard(address: bytes, port: int) -> Reason | None:
        return Reason.LOOP if is_special(address) and port in ports else None

    with Proxy(selector, guard=guard) as proxy:
        ports.add(proxy.listeners[0].port)
        proxy.names.known["me.test"] = ["127.0.0.1"]
        for host in ("127.0.0.1", "me.test", "[::ffff:127.0.0.1]"):
            client = proxy.connect().send(get(f"http://{host}:{proxy.listeners[0].port}/"))
            assert refusal(client) == (403, "proxy_loop")
        assert len(proxy.plane.sessions) <= 3


@both
def test_what_the_rules_refuse_is_no_failure_of_the_backend(selector: Selector) -> None:
    with Proxy(selector, guard=local) as proxy:
        proxy.names.known["a.test"] = ["127.0.0.1"]
        for url in ("http://127.0.0.1/", "http://a.test/"):
            assert refusal(proxy.connect().send(get(url))) == (403, "target_denied")
        (way,) = proxy.plane.policy.backends["direct"].carriers(b"")
        assert (way.counters.failed, way.counters.last_failure) == (0, "")
