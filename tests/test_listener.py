"""Where clients come in: addresses, batches, and what happens when descriptors run out."""

from __future__ import annotations

import errno
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bifrost_lite.dispatch import Dispatcher
from bifrost_lite.errors import BindError
from bifrost_lite.listener import BATCH, Listener
from tests.plane_kit import GRANTED, Origin, Peer, Proxy, both, get, refusal, until

Selector = type[Dispatcher]

ROOT = Path(__file__).parents[1]


@both
@pytest.mark.parametrize(
    ("address", "by", "shown"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1", "127.0.0.1"),
        ("::1", "::1", "::1"),
        ("::", "::1", "::1"),
        ("::", "127.0.0.1", "127.0.0.1"),
    ],
)
def test_addresses(selector: Selector, address: str, by: str, shown: str) -> None:
    """A client is shown by its own address; `::` takes both kinds."""
    with Proxy(selector, listen=[(address, "auto")]) as proxy:
        proxy.names.known["a.test"] = []
        client = proxy.connect(host=by).send(get("http://a.test/"))
        assert refusal(client) == (502, "dns_not_found")
        assert proxy.fail_event().client_ip == shown


def test_an_ipv6_address_takes_no_ipv4() -> None:
    with Proxy(listen=[("::1", "auto")]) as proxy, pytest.raises(OSError, match="refused"):
        proxy.connect(host="127.0.0.1")


@both
@pytest.mark.parametrize(("allow", "deny"), [(("127.0.0.0/8",), ()), ((), ("127.0.0.2/32",))])
def test_mapped_clients_match_ipv4_rules(
    selector: Selector, allow: tuple[str, ...], deny: tuple[str, ...]
) -> None:
    with Proxy(selector, listen=[("::", "auto")], allow=allow, deny=deny) as proxy:
        proxy.names.known["a.test"] = []
        allowed = proxy.connect(host="127.0.0.1", source="127.0.0.3").send(get("http://a.test/"))
        denied = proxy.connect(host="127.0.0.1", source="127.0.0.2").send(get("http://a.test/"))
        assert refusal(allowed) == (502, "dns_not_found")
        if deny:
            assert refusal(denied) == (403, "acl_denied")
        else:
            assert refusal(denied) == (502, "dns_not_found")
            six = proxy.connect(host="::1").send(get("http://a.test/"))
            assert refusal(six) == (403, "acl_denied")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_address_in_use(address: str) -> None:
    with Proxy() as proxy:
        taken = proxy.origin(address)
        before = len(proxy.dispatcher.deadlines)
        with pytest.raises(BindError, match=f"^lan: cannot listen on {address} port {taken.port}: "):
            proxy.call(lambda: Listener(proxy.plane, "lan", address, taken.port, "auto"))
        assert len(proxy.dispatcher.deadlines) == before
        assert len(proxy.plane.listeners) == 1


def test_address_that_is_not_ours() -> None:
    with Proxy() as proxy, pytest.raises(BindError, match="Cannot assign"):
        proxy.call(lambda: Listener(proxy.plane, "wan", "192.0.2.1", 0, "auto"))


@both
def test_closed_listener(selector: Selector) -> None:
    """It takes no more clients; those that are in stay."""
    with Proxy(selector) as proxy:
        client, target = proxy.tunnel(proxy.origin())
        listener = proxy.listeners[0]
        proxy.call(listener.close)
        proxy.call(listener.close)
        proxy.call(listener.resume)
        assert not listener.open
        with pytest.raises(OSError, match="refused"):
            proxy.connect()
        client.send(b"x")
        target.expect(b"x")
        again = proxy.call(
            lambda: Listener(proxy.plane, "l0", "127.0.0.1", listener.port, "auto")
        )
        proxy.listeners[0] = again
        proxy.connect().send(b"\x16").head()


@both
def test_many_at_once(selector: Selector) -> None:
    count = 10 * BATCH
    with Proxy(selector) as proxy:
        clients = [proxy.connect() for _ in range(count)]
        until(lambda: len(proxy.plane.sessions) == count, "all of them")
        for client in clients:
            client.send(b"\x16")
        for client in clients:
            assert refusal(client) == (400, "bad_request")


@both
def test_client_that_is_gone_before_it_is_accepted(selector: Selector) -> None:
    class Spoiled:
        """A socket whose first client left early."""

        def __init__(self, sock: socket.socket) -> None:
            self.sock = sock
            self.errors = [errno.ECONNABORTED]

        def _accept(self) -> object:
            if self.errors:
                raise OSError(self.errors.pop(), "gone")
            return self.sock._accept()  # type: ignore[attr-defined]

    with Proxy(selector) as proxy:
        listener = proxy.listeners[0]
        sock = listener.sock
        listener.sock = Spoiled(sock)  # type: ignore[assignment]
        proxy.tunnel(proxy.origin())
        listener.sock = sock


@both
def test_fault_of_ours_rests_the_listener(
    selector: Selector, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(selector) as proxy:
        listener = proxy.listeners[0]
        listener._retry.seconds = 0.05
        accept = type(listener).on_accept
        faults = 0

        def fail(self: Listener, mask: int) -> None:
            nonlocal faults
            faults += 1
            if faults < 3:
                raise ZeroDivisionError
            accept(self, mask)

        monkeypatch.setattr(type(listener), "on_accept", fail)
        proxy.call(lambda: proxy.dispatcher.handlers.update({listener.fd: listener.on_accept}))
        proxy.tunnel(proxy.origin())
        assert faults == 3
        assert len([record for record in proxy.logged if record.levelname == "ERROR"]) == 2
        proxy.logged.clear()


# Out of descriptors, in a process of its own.

SPARE = 40  # descriptors: room for 20 tunnels, say


@pytest.mark.parametrize("selector", ["epoll", "poll"])
def test_out_of_descriptors(selector: str) -> None:
    """Accepting stops without a spin, tunnels live on, and it goes on when somebody leaves."""
    command = [sys.executable, "-m", "tests.starving_proxy", selector, str(SPARE)]
    origin = Origin()
    tunnels: list[tuple[Peer, Peer]] = []
    waiting: list[Peer] = []
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            port = int(process.stdout.readline())

            def connect() -> Peer:
                return Peer(socket.create_connection(("127.0.0.1", port)))

            request = f"CONNECT {origin.authority} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
            for _ in range(10):
                client = connect().send(request)
                client.expect(GRANTED)
                tunnels.append((client, origin.accept()))
            waiting = [connect() for _ in range(3 * SPARE)]  # more than there is room for
            answered = [client for client in waiting if not client.send(request)]
            for client, target in tunnels:
                client.send(b"still")
                target.expect(b"still").send(b"here")
                client.expect(b"here")
            # Those that are in fail, since no descriptor is left to dial with, and each that
            # leaves lets another in: in the end all were answered.
            for client in waiting:
                head = client.until(b"\r\n")
                if head.startswith(b"HTTP/1.1 200"):
                    origin.accept().close()
                else:
                    assert head == b"HTTP/1.1 503 Service Unavailable\r\n"
                client.close()
            assert not answered
            client = connect().send(request)
            client.expect(GRANTED)
            client.close()
            for client, target in tunnels:
                client.send(b"on")
                target.expect(b"on")
        finally:
            process.stdin.close()
            text = process.stdout.readline()
            process.wait(10)
            for peer in [*waiting, *(peer for pair in tunnels for peer in pair)]:
                peer.close()
            origin.close()
    counts = json.loads(text)
    assert counts["starvations"] > 0
    assert not counts["starved"]
    assert counts["new"] == counts["close"] > 10
    assert set(counts["failures"]) <= {"out_of_descriptors"}
    # Every turn accepted somebody, or found that it could not: a spin would be thousands.
    assert counts["turns"] <= 4 * (len(waiting) + len(tunnels) + 2)
