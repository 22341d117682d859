"""The last words to a client, and the patience until it has read them."""

from __future__ import annotations

import pytest

from bifrost_lite import linger
from bifrost_lite.dispatch import Dispatcher
from bifrost_lite.errors import Reason
from bifrost_lite.linger import READS, Linger
from bifrost_lite.session import Session
from tests.plane_kit import Peer, Proxy, both, get, refusal

Selector = type[Dispatcher]

NO = get("http://no.test/")


def refused(proxy: Proxy) -> Peer:
    """A client whose refusal is in its socket."""
    proxy.names.known["no.test"] = Reason.DNS_NOT_FOUND
    client = proxy.connect().send(NO)
    proxy.fail_event()
    proxy.settle()
    return client


def only(proxy: Proxy) -> tuple[Session, Linger]:
    """The session, and what it lingers by; not to be kept beyond the test."""
    (session,) = proxy.plane.sessions
    assert isinstance(session, Session)
    owner = proxy.dispatcher.handlers[session.fd].__self__  # type: ignore[attr-defined]
    assert isinstance(owner, Linger)
    return session, owner


@both
def test_the_end_of_the_client_ends_it(selector: Selector) -> None:
    with Proxy(selector) as proxy:
        client = refused(proxy)
        assert refusal(client) == (502, "dns_not_found")
        client.close()
        proxy.gone()


@both
@pytest.mark.parametrize("how", ["finish", "reset"])
def test_a_client_that_left_before_its_refusal(selector: Selector, how: str) -> None:
    with Proxy(selector) as proxy:
        client = proxy.connect().send(NO)
        proxy.tell("no.test", "192.0.2.1", finished=False)  # it is being dialled for
        getattr(client, how)()

        def refuse() -> None:
            for session in proxy.plane.sessions:
                assert isinstance(session, Session)
                Linger(session, b"no")
                break

        proxy.call(refuse)
        if how == "finish":
            client.expect(b"no")
        proxy.gone()


@both
def test_who_never_stops_leaves_others_their_turn(selector: Selector) -> None:
    """All that is there is read, but not in one turn."""

    class Endless:
        """A socket that has much more to say; the true one is behind it."""

        reads = turns = 0

        def recv(self, size: int) -> bytes:
            self.reads += 1
            if self.reads % READS == 1:
                self.turns += 1
            if self.reads > 3 * READS:
                raise BlockingIOError
            return b"x"

    with Proxy(selector) as proxy:
        client = refused(proxy)
        endless = Endless()

        def act() -> None:
            session, owner = only(proxy)
            assert owner.wants(session.fd)
            sock, session.sock = session.sock, endless  # type: ignore[assignment]
            owner.on_event(1)
            assert endless.turns == 1
            while endless.reads <= 3 * READS:
                assert proxy.dispatcher._again.pop() == owner.go_on
                owner.go_on()
            session.sock = sock

        proxy.call(act)
        assert endless.turns == 4
        client.close()


def test_one_that_ends_before_its_next_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linger, "READS", 1)
    with Proxy() as proxy:
        client = refused(proxy)

        def act() -> None:
            session, owner = only(proxy)
            client.send(b"more")
            owner.on_event(1)
            session.close(Reason.CLOSED)  # nothing is left for the next turn

        proxy.call(act)
        proxy.gone()


def test_bytes_prolong_it_for_a_while_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with Proxy(linger=0.3) as proxy:
        client = refused(proxy)
        since = proxy.plane.linger.since
        (before,) = since.values()
        client.send(b"x")
        proxy.settle()
        (after,) = since.values()
        assert after > before
        monkeypatch.setattr(linger, "TOTAL", -1.0)
        client.send(b"x")
        proxy.settle()
        assert list(since.values()) in ([after], [])
        proxy.gone()


@both
def test_a_fault_of_ours_ends_it(selector: Selector) -> None:
    with Proxy(selector) as proxy:
        refused(proxy)
        proxy.call(lambda: only(proxy)[1].crash())
        proxy.gone()
