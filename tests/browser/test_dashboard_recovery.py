"""The dashboard over restarts, broken networks, taken seats and hidden tabs: it comes back by
itself, misses nothing, and never shows as live what is not."""

from __future__ import annotations

from contextlib import ExitStack

from playwright.sync_api import Browser, expect
from websockets.sync.client import ClientConnection, connect

from tests.browser.dashboard import (
    HIDE,
    NETWORK,
    ask,
    downloading,
    live_daemon,
    opened,
    seats,
    tunnels,
    web,
)
from tests.browser.relay import Relay
from tests.browser.stand_in import StandIn
from tests.e2e.curl import curl, through
from tests.e2e.daemon import Daemon
from tests.e2e.origin import Origin
from tests.e2e.upstreams import free_port

LONG = 40_000  # milliseconds: longer than any pause between two attempts


def through_relay(relay: Relay) -> str:
    return f"http://{relay.address}"


def at_ports(proxy: int, control: int, backend: str) -> Daemon:
    """A daemon on ports that the next one may have."""
    return live_daemon(
        listen=[{"name": "main", "address": "127.0.0.1", "port": proxy}],
        control={"listen": [f"127.0.0.1:{control}"]},
        backends=[{"name": backend, "type": "direct"}],
        routes=[{"name": "all", "backend": backend}],
    )


def test_the_daemon_restarts(browser: Browser, origin: Origin) -> None:
    ports = free_port(), free_port()
    with ExitStack() as stack:
        first = stack.enter_context(at_ports(*ports, "old"))
        dashboard = stack.enter_context(opened(browser, web(first), allowed=NETWORK, clock=True))
        dashboard.expect_badge("live")
        stack.enter_context(tunnels(first, origin, 2))
        rows = dashboard["#connections tr[data-id]"]
        expect(rows).to_have_count(2)
        expect(dashboard.backend("old")).to_have_attribute("data-state", "up")
        first.stop()
        dashboard.expect_badge("connecting", "reconnecting", "stale")
        second = stack.enter_context(at_ports(*ports, "new"))
        dashboard.page.clock.fast_forward(LONG)
        dashboard.expect_badge("live")
        # What is shown is the new process's, and nothing of the old one.
        expect(rows).to_have_count(0)
        expect(dashboard.backend("new")).to_have_attribute("data-state", "up")
        expect(dashboard.backend("old")).to_have_count(0)
        with downloading(second, origin):
            expect(rows).to_have_count(1)
            shown = rows.get_attribute("data-id")
            assert shown == str(ask(second, "/connections")["connections"][0]["id"])


def test_a_cut_loses_no_event(browser: Browser, origin: Origin) -> None:
    count = 7
    with (
        live_daemon() as daemon,
        Relay(daemon.control) as relay,
        opened(browser, through_relay(relay), allowed=NETWORK, clock=True) as dashboard,
    ):
        dashboard.expect_badge("live")
        url = origin.url("/bytes/1000")
        curl(*through("tunnel", daemon.proxy), url)
        closed = dashboard["#closed tr[data-id]"]
        expect(closed).to_have_count(1)
        relay.cut()
        dashboard.expect_badge("connecting", "reconnecting", "stale")
        for _ in range(count):
            curl(*through("tunnel", daemon.proxy), url)
        relay.mend()
        dashboard.page.clock.fast_forward(LONG)
        dashboard.expect_badge("live")
        expect(closed).to_have_count(count + 1)
        numbers = [row.get_attribute("data-id") for row in closed.all()]
        assert len(set(numbers)) == count + 1
        for kind in ("connection.new", "connection.close"):
            expect(dashboard[f'#events li[data-type="{kind}"]']).to_have_count(count + 1)
        assert dashboard['#events li[data-type="events.lost"]'].count() == 0
        expect(dashboard["#connections tr[data-id]"]).to_have_count(0)


def test_more_than_the_ring_keeps_is_told_as_lost(browser: Browser, origin: Origin) -> None:
    with (
        live_daemon() as daemon,
        Relay(daemon.control) as relay,
        opened(browser, through_relay(relay), allowed=NETWORK, clock=True) as dashboard,
    ):
        dashboard.expect_badge("live")
        relay.cut()
        dashboard.expect_badge("connecting", "reconnecting", "stale")
        for _ in range(2):  # 2 events each, and the ring keeps 256
            curl(*through("tunnel", daemon.proxy), "-H", "Connection: close", *[origin.url()] * 80)
        with downloading(daemon, origin, host="localhost"):
            relay.mend()
            dashboard.page.clock.fast_forward(LONG)
            dashboard.expect_badge("live")
            expect(dashboard['#events li[data-type="events.lost"]']).to_have_count(1)
            # The tables are right all the same.
            expect(dashboard["#connections tr[data-id]"]).to_have_count(1)
            expect(dashboard.connection("localhost")).to_have_count(1)


def test_a_stalled_network_is_not_called_live(browser: Browser, origin: Origin) -> None:
    with (
        live_daemon() as daemon,
        Relay(daemon.control) as relay,
        opened(browser, through_relay(relay), allowed=NETWORK, clock=True) as dashboard,
    ):
        dashboard.expect_badge("live")
        relay.stall()
        # Until somebody gives up the connection nothing but silence tells.
        dashboard.page.clock.fast_forward(30_000)
        dashboard.expect_badge("stale")
        curl(*through("tunnel", daemon.proxy), origin.url())
        dashboard.page.clock.fast_forward(LONG)
        assert dashboard.badge != "live"
        relay.mend()
        dashboard.page.clock.fast_forward(LONG)
        dashboard.expect_badge("live")
        expect(dashboard["#closed tr[data-id]"]).to_have_count(1)


def taken_seat(daemon: Daemon) -> ClientConnection:
    """Somebody else's WebSocket, on which nothing is told that nobody would read."""
    return connect(f"ws://{daemon.control}/api/v1/ws?types=config.saved", proxy=None)


def test_without_a_seat_it_asks_again_and_again(browser: Browser, origin: Origin) -> None:
    with (
        live_daemon(control={"max_clients": 1}) as daemon,
        taken_seat(daemon),
        opened(browser, web(daemon), allowed=NETWORK, clock=True) as dashboard,
    ):
        dashboard.expect_badge("polling")
        rows = dashboard["#connections tr[data-id]"]
        with downloading(daemon, origin):
            dashboard.page.clock.fast_forward(LONG)
            expect(rows).to_have_count(1)
            dashboard.expect_badge("polling")
            origin.release.set()
        daemon.wait_until(lambda: not ask(daemon, "/connections")["count"], "it is closed")
        dashboard.page.clock.fast_forward(LONG)
        expect(rows).to_have_count(0)
        dashboard.expect_badge("polling")


def test_a_seat_gets_free(browser: Browser, origin: Origin) -> None:
    with (
        live_daemon(control={"max_clients": 1}) as daemon,
        ExitStack() as other,
        ExitStack() as stack,
    ):
        other.enter_context(taken_seat(daemon))
        dashboard = stack.enter_context(opened(browser, web(daemon), allowed=NETWORK, clock=True))
        dashboard.expect_badge("polling")
        other.close()
        daemon.wait_until(lambda: not seats(daemon)[0], "the seat is free")
        dashboard.page.clock.fast_forward(2 * LONG)
        dashboard.expect_badge("live")
        with downloading(daemon, origin):
            expect(dashboard["#connections tr[data-id]"]).to_have_count(1)


def test_no_websocket_comes_through(browser: Browser, origin: Origin) -> None:
    with live_daemon() as daemon, StandIn(daemon) as between:
        between.upgrades = False
        with opened(browser, between.origin, allowed=NETWORK, clock=True) as dashboard:
            dashboard.expect_badge("polling")
            with downloading(daemon, origin):
                dashboard.page.clock.fast_forward(LONG)
                expect(dashboard["#connections tr[data-id]"]).to_have_count(1)
            dashboard.expect_badge("polling")
            between.upgrades = True
            dashboard.page.clock.fast_forward(LONG)
            dashboard.expect_badge("live")


def test_it_asks_ever_less_often(browser: Browser) -> None:
    minutes = 10
    with (
        live_daemon() as daemon,
        Relay(daemon.control) as relay,
        opened(browser, through_relay(relay), allowed=NETWORK, clock=True) as dashboard,
    ):
        dashboard.expect_badge("live")
        relay.cut()
        dashboard.expect_badge("reconnecting")
        before = len(dashboard.requests)
        for _ in range(minutes * 6):
            dashboard.page.clock.fast_forward(10_000)
            dashboard.page.wait_for_timeout(10)  # an answer comes in its own time
        asked = len(dashboard.requests) - before
        assert 5 < asked <= 2 * minutes * 60 / 20, asked
        relay.mend()
        dashboard.page.clock.fast_forward(LONG)
        dashboard.expect_badge("live")


def test_without_a_log_stream_it_asks(browser: Browser, origin: Origin) -> None:
    with (
        live_daemon(control={"max_subscribers": 1}) as daemon,
        opened(browser, web(daemon), allowed=NETWORK, clock=True) as first,
        opened(browser, web(daemon), allowed=NETWORK, clock=True) as dashboard,
    ):
        first.expect_badge("live")
        dashboard.expect_badge("live")
        expect(dashboard["#log-state"]).not_to_be_empty()
        curl(*through("http", daemon.proxy), origin.url("/bytes/77"))
        for page in (first, dashboard):
            page.page.clock.fast_forward(6_000)
            expect(page["#log li"].filter(has_text="/bytes/77")).to_have_count(1)


def test_a_hidden_tab_costs_nothing(browser: Browser, origin: Origin) -> None:
    with live_daemon() as daemon, opened(browser, web(daemon), clock=True) as dashboard:
        dashboard.expect_badge("live")
        daemon.wait_until(lambda: seats(daemon) == (1, 1), "the page watches events and log")
        dashboard.hide(True)
        dashboard.page.clock.fast_forward(LONG)
        dashboard.expect_badge("paused", "off")
        daemon.wait_until(lambda: seats(daemon) == (0, 0), "the page watches nothing")
        asked = len(dashboard.requests)
        curl(*through("tunnel", daemon.proxy), origin.url())
        dashboard.page.clock.fast_forward(LONG)
        assert len(dashboard.requests) == asked
        dashboard.hide(False)
        dashboard.expect_badge("live")
        expect(dashboard["#closed tr[data-id]"]).to_have_count(1)
        daemon.wait_until(lambda: seats(daemon) == (1, 1), "the page watches again")


def test_opened_in_the_background(browser: Browser) -> None:
    with live_daemon() as daemon, opened(browser, web(daemon), clock=True) as dashboard:
        dashboard.expect_badge("live")
        dashboard.page.add_init_script(f"({HIDE})(true)")
        dashboard.page.reload()
        dashboard.expect_badge("paused")
        daemon.wait_until(lambda: seats(daemon) == (0, 0), "the page watches nothing")
        dashboard.hide(False)
        dashboard.expect_badge("live")


def test_leaving_frees_the_seats(browser: Browser) -> None:
    with live_daemon() as daemon:
        with opened(browser, web(daemon)) as dashboard:
            dashboard.expect_badge("live")
            daemon.wait_until(lambda: seats(daemon) == (1, 1), "the page watches")
        daemon.wait_until(lambda: seats(daemon) == (0, 0), "nobody watches")
