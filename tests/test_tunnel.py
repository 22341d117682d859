"""Tunnels: how they end, and what each side hears of it. How they move bytes: test_relay."""

from __future__ import annotations

import socket
from contextlib import suppress

import pytest

from bifrost_lite.dispatch import Dispatcher
from bifrost_lite.errors import Reason
from bifrost_lite.relay import Half
from tests.plane_kit import GRANTED, HELLO5, METHOD5, Proxy, both, connect5, get, until

Selector = type[Dispatcher]


@both
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("who", ["client", "target"])
def test_one_side_of_a_tunnel_vanishes(selector: Selector, how: str, who: str) -> None:
    with Proxy(selector) as proxy:
        client, target = proxy.tunnel(proxy.origin())
        client.send(b"abc")
        target.expect(b"abc").send(b"de")
        client.expect(b"de")
        gone, other = (client, target) if who == "client" else (target, client)
        getattr(gone, how)()
        if how == "reset":
            other.was_reset()
        else:
            other.ended()
            other.close()
        event = proxy.close_event()
        assert event.reason == (f"{who}_reset" if how == "reset" else "closed")
        assert (event.bytes_sent, event.bytes_received) == (3, 2)


def test_client_resets_while_its_target_takes_nothing() -> None:
    """The target would keep the dead connection for hours. (The portable selector does not
    look at who has nothing to say.)"""
    with Proxy() as proxy:
        client, target = proxy.tunnel(proxy.origin())
        proxy.fill(client, "up")
        client.reset()
        proxy.gone()
        event = proxy.close_event()
        assert event.reason == "client_reset"
        assert len(target.was_reset()) <= event.bytes_sent  # the reset overtakes some


@both
@pytest.mark.parametrize("first", ["client", "target"])
def test_half_close(selector: Selector, first: str) -> None:
    with Proxy(selector) as proxy:
        client, target = proxy.tunnel(proxy.origin())
        done, talking = (client, target) if first == "client" else (target, client)
        done.send(b"done").finish()
        assert talking.rest() == b"done"
        talking.send(b"still ")
        done.expect(b"still ")
        proxy.settle()
        assert len(proxy.plane.connections) == 1
        talking.send(b"talking").finish()
        assert done.rest() == b"talking"
        event = proxy.close_event()
        assert {event.bytes_sent, event.bytes_received} == {4, 13}
        assert event.reason == "closed"


@both
def test_idle_tunnel(selector: Selector) -> None:
    with Proxy(selector, idle=0.2) as proxy:
        client, target = proxy.tunnel(proxy.origin())
        client.send(b"last words")
        target.expect(b"last words").ended()
        client.ended()
        assert proxy.close_event().reason == "idle_timeout"


def test_bytes_keep_a_tunnel_alive() -> None:
    with Proxy(idle=0.2) as proxy:
        client, target = proxy.tunnel(proxy.origin())
        checks: list[object] = []
        check = proxy.plane.idle._expired

        def counted(session: object) -> None:
            checks.append(1)
            check(session)

        proxy.plane.idle._expired = counted

        def busy() -> bool:
            client.send(b"x")
            target.expect(b"x")
            return len(checks) > 6

        until(busy, "six quarters of the idle timeout")
        assert not proxy.closed
        assert proxy.close_event().reason == "idle_timeout"


@both
@pytest.mark.parametrize("reason", [Reason.OPERATOR, Reason.SHUTDOWN])
def test_closed_from_outside(selector: Selector, reason: Reason) -> None:
    with Proxy(selector) as proxy:
        client, target = proxy.tunnel(proxy.origin())
        client.send(b"1234")
        target.expect(b"1234")
        (number,) = proxy.plane.connections
        proxy.call(lambda: proxy.plane.connections[number].close(reason))
        client.ended()
        target.ended()
        event = proxy.close_event()
        assert (event.id, event.reason, event.bytes_sent) == (number, reason.word, 4)
        assert proxy.finished[0].error == reason.word


@both
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("who", ["client", "target"])
def test_gone_right_after_the_grant(selector: Selector, how: str, who: str) -> None:
    with Proxy(selector) as proxy:
        client, target = proxy.tunnel(proxy.origin())
        gone, other = (client, target) if who == "client" else (target, client)
        getattr(gone, how)()
        other.gone()
        other.close()
        event = proxy.close_event()
        assert event.reason == (f"{who}_reset" if how == "reset" else "closed")
        assert (event.bytes_sent, event.bytes_received) == (0, 0)


@both
@pytest.mark.parametrize("how", ["close", "reset"])
def test_target_gone_before_the_grant(selector: Selector, how: str) -> None:
    """It accepts and leaves at once: the client may still hear its first words."""
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client = proxy.connect().send(HELLO5).expect(METHOD5).send(connect5("a.test", origin.port))
        proxy.tell("a.test", "127.0.0.1")
        target = origin.accept()
        target.send(b"banner")
        getattr(target, how)()
        if how == "close":
            assert client.rest().endswith(b"banner")
        else:  # a dial that failed, or a tunnel that broke: who saw it first?
            with suppress(ConnectionResetError):
                client.rest()
        client.close()
        proxy.gone()


@both
def test_target_speaks_first(selector: Selector) -> None:
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        client = proxy.connect().send(f"CONNECT a.test:{origin.port} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        proxy.tell("a.test", "127.0.0.1")
        target = origin.accept().send(b"220 hello\r\n")
        client.expect(GRANTED + b"220 hello\r\n").send(b"QUIT\r\n")
        target.expect(b"QUIT\r\n").close()
        client.ended()


@both
@pytest.mark.parametrize("who", ["client", "target"])
def test_reset_after_half_close(selector: Selector, who: str) -> None:
    """The side that has ended breaks, while the other one still talks."""
    with Proxy(selector) as proxy:
        client, target = proxy.tunnel(proxy.origin())
        done, talking = (client, target) if who == "client" else (target, client)
        done.finish()
        talking.ended()
        talking.send(b"still talking")
        done.expect(b"still talking")
        proxy.settle()
        done.reset()

        def cut() -> bool:
            try:
                talking.send(b"to nobody")
            except OSError:
                return True
            return False

        until(cut, "the end")
        assert proxy.close_event().reason == f"{who}_reset"


def test_target_resets_while_its_client_takes_nothing() -> None:
    with Proxy() as proxy:
        client, target = proxy.tunnel(proxy.origin())
        proxy.fill(target, "down")
        target.reset()
        assert proxy.close_event().reason == "target_reset"
        assert len(client.was_reset()) <= proxy.close_event().bytes_received


@both
def test_blocked_tunnel_idles(selector: Selector) -> None:
    """A side that takes nothing is as good as silent."""
    with Proxy(selector, idle=0.2) as proxy:
        client, target = proxy.tunnel(proxy.origin())
        proxy.fill(client, "up")
        event = proxy.close_event()
        assert event.reason == "idle_timeout"
        client.gone()


@both
def test_fault_in_a_tunnel(selector: Selector, monkeypatch: pytest.MonkeyPatch) -> None:
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        good, bad = proxy.tunnel(origin), proxy.tunnel(origin)
        with monkeypatch.context() as patch:
            patch.setattr(Half, "pump", lambda self, mask: 1 / 0)
            bad[0].send(b"x")
            bad[1].gone()
            bad[0].gone()
        good[0].send(b"y")
        good[1].expect(b"y")
        assert proxy.close_event().reason == "internal_error"
        assert [record.levelname for record in proxy.logged] == ["ERROR"]
        proxy.logged.clear()


@both
@pytest.mark.parametrize("where", ["forward.Forward.connected", "tunnel.Tunnel.start"])
def test_fault_when_the_path_stands(
    selector: Selector, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(selector) as proxy:
        origin = proxy.origin()
        monkeypatch.setattr(f"bifrost_lite.{where}", lambda self, *masks: 1 / 0)
        request = get(f"http://{origin.authority}/")
        if "Tunnel" in where:
            request = f"CONNECT {origin.authority} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
        client = proxy.connect().send(request)
        origin.accept().gone()
        assert client.rest() in (b"", GRANTED)
        proxy.told("new", "close internal_error")
        proxy.logged.clear()


@both
@pytest.mark.parametrize("who", ["client", "target"])
def test_urgent_data_is_data(selector: Selector, who: str) -> None:
    """A read stops short before an urgent byte although more has come: FTP and telnet send it."""
    with Proxy(selector) as proxy:
        client, target = proxy.tunnel(proxy.origin())
        source, sink = (client, target) if who == "client" else (target, client)
        source.sock.send(b"abc")
        source.sock.send(b"!", socket.MSG_OOB)
        source.sock.send(b"def")
        sink.expect(b"abc!def")
