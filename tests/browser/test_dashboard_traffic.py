"""The dashboard shows what goes through the daemon, and closes what the operator likes."""

from __future__ import annotations

import re
from contextlib import ExitStack

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.browser.dashboard import (
    NETWORK,
    ask,
    downloading,
    live_daemon,
    opened,
    tunnels,
    web,
)
from tests.e2e.curl import curl, through
from tests.e2e.origin import Origin
from tests.e2e.program import DEADLINE, Program
from tests.e2e.upstreams import free_port

REFRESH = 6000  # milliseconds in which the page has asked again for what it shows
ROUTES = [
    {"name": "near", "domains": ["localhost"], "backend": "direct", "priority": 9},
    {"name": "rest", "backend": "direct", "priority": 1},
]


def column_of(headers: Locator, title: str) -> int:
    """The number of the column of that title, 1 the first."""
    titles = [text.strip() for text in headers.all_inner_texts()]
    (found,) = [number for number, text in enumerate(titles, 1) if re.match(title, text, re.I)]
    return found


def test_a_connection_comes_and_goes(browser: Browser, origin: Origin) -> None:
    with (
        live_daemon(routes=ROUTES) as daemon,
        opened(browser, web(daemon), clock=True) as dashboard,
    ):
        dashboard.expect_badge("live")
        host = f"localhost:{origin.port}"
        with downloading(
            daemon, origin, "--interface", "127.0.0.5", size=5_000_000, host="localhost"
        ) as client:
            row = dashboard.connection(host)
            expect(row).to_have_count(1)
            for text in ("127.0.0.5", host, "near", "direct", "CONNECT"):
                expect(row).to_contain_text(text)
            # The bytes of rows that nobody sees stay.
            dashboard["#connections"].scroll_into_view_if_needed()
            dashboard.page.clock.fast_forward(REFRESH)
            expect(row).to_contain_text(re.compile(r"2\.[345]\d* ?Mi?B"))
            number = row.get_attribute("data-id")
            assert number == str(ask(daemon, "/connections")["connections"][0]["id"])
            expect(dashboard["#clients"]).to_contain_text("127.0.0.5")
            assert dashboard["#closed tr[data-id]"].count() == 0
            origin.release.set()
            client.communicate(timeout=DEADLINE)
        closed = dashboard[f'#closed tr[data-id="{number}"]']
        for text in ("127.0.0.5", host, "direct", "closed"):
            expect(closed).to_contain_text(text)
        expect(closed).to_contain_text(re.compile(r"(4\.[789]|5\.0)\d* ?Mi?B"))
        expect(row).to_have_count(0)
        # A request of each kind that is over before anybody could look is told all the same.
        for way in ("http", "socks5"):
            curl(*through(way, daemon.proxy), origin.url())
        expect(dashboard["#closed tr[data-id]"]).to_have_count(3)
        for kind in ("connection.new", "connection.close"):
            expect(dashboard[f'#events li[data-type="{kind}"]']).to_have_count(3)


def test_the_overview(browser: Browser, origin: Origin) -> None:
    with live_daemon() as daemon, opened(browser, web(daemon)) as dashboard:
        status = ask(daemon, "/status")
        overview = dashboard["#overview"]
        for text in (f"pid {daemon.pid}", f":{daemon.proxy.port}", f":{daemon.control.port}"):
            expect(overview).to_contain_text(text)
        expect(dashboard["header"]).to_contain_text(status["version"])
        expect(overview).to_contain_text("1 of 10 events, 1 of 10 log")  # this page itself
        received = overview.get_by_role("img", name="Received")
        expect(received).to_have_accessible_name(re.compile("at most 0 B/s"))
        curl(*through("http", daemon.proxy), origin.url("/bytes/2000000"))
        expect(received).not_to_have_accessible_name(re.compile("at most 0 B/s"))
        expect(received.locator("path[d^=M]").first).to_be_attached()
        expect(overview.get_by_role("img", name="Connections")).to_be_visible()


@pytest.mark.parametrize("host", ["localhost", "[::1]"])
def test_by_other_names(browser: Browser, host: str) -> None:
    listen = ["[::1]:0" if host == "[::1]" else "127.0.0.1:0"]
    with (
        live_daemon(control={"listen": listen}) as daemon,
        opened(browser, f"http://{host}:{daemon.control.port}") as dashboard,
    ):
        dashboard.expect_badge("live")
        expect(dashboard.backend("direct")).to_have_attribute("data-state", "up")


def test_a_backend_is_tried(browser: Browser, origin: Origin) -> None:
    with live_daemon() as daemon, opened(browser, web(daemon), allowed=NETWORK) as dashboard:
        row = dashboard.backend("direct")
        button = row.get_by_role("button", name="Test backend direct")
        button.click()
        expect(row).to_contain_text("no health target")
        expect(dashboard["#test-target"]).to_be_focused()
        for target, text in (
            (origin.authority, "works"),
            (f"127.0.0.1:{free_port()}", "The target refused the connection."),
        ):
            dashboard["#test-target"].fill(target)
            button.click()
            expect(row).to_contain_text(text)


def test_a_failure_is_told_with_its_reason(browser: Browser) -> None:
    with live_daemon() as daemon, opened(browser, web(daemon)) as dashboard:
        dashboard.expect_badge("live")
        target = f"127.0.0.1:{free_port()}"
        curl(*through("http", daemon.proxy), f"http://{target}/")
        event = dashboard['#events li[data-type="connection.failed"]']
        expect(event).to_contain_text(target)
        expect(event).to_contain_text("connect_refused")


def test_filters_and_top_clients(browser: Browser, origin: Origin) -> None:
    with (
        live_daemon() as daemon,
        opened(browser, web(daemon), clock=True) as dashboard,
        downloading(daemon, origin, "--interface", "127.0.0.5"),
        downloading(daemon, origin, "--interface", "127.0.0.5", host="localhost"),
        downloading(daemon, origin, "--interface", "127.0.0.6", host="localhost"),
    ):
        rows = dashboard["#connections tr[data-id]:visible"]
        expect(rows).to_have_count(3)
        busiest = dashboard["#clients tbody tr"]
        dashboard["#clients"].scroll_into_view_if_needed()
        dashboard.page.clock.fast_forward(REFRESH)
        expect(busiest).to_have_count(2)
        expect(busiest.nth(0)).to_contain_text("127.0.0.5")
        expect(busiest.nth(0)).to_contain_text("2")
        expect(busiest.nth(1)).to_contain_text("127.0.0.6")
        by_client = dashboard["#filter-client"]
        by_client.fill("127.0.0.5")
        expect(rows).to_have_count(2)
        by_host = dashboard["#filter-host"]
        by_host.fill("LOCALhost")
        expect(rows).to_have_count(1)
        expect(rows).to_contain_text(f"localhost:{origin.port}")
        by_client.fill("")
        expect(rows).to_have_count(2)
        by_host.fill("nothing has this name")
        expect(rows).to_have_count(0)
        by_host.fill("")
        expect(rows).to_have_count(3)
        by_host.fill("localhost")
        # A press on a client is a filter as well.
        busiest.nth(1).get_by_role("button").click()
        expect(by_client).to_have_value("127.0.0.6")
        expect(rows).to_have_count(1)


def test_sorting_by_keyboard(browser: Browser, origin: Origin) -> None:
    names = ["127.0.0.1", "localhost", "127.0.0.2"]
    with (
        live_daemon() as daemon,
        Origin("127.0.0.2", port=origin.port) as other,
        opened(browser, web(daemon)) as dashboard,
        ExitStack() as stack,
    ):
        for name in names:
            target = other if name == "127.0.0.2" else origin
            stack.enter_context(downloading(daemon, target, host=name))
        rows = dashboard["#connections tr[data-id]"]
        expect(rows).to_have_count(3)
        headers = dashboard["#connections thead th"]
        column = column_of(headers, "host")
        header = headers.nth(column - 1)
        button = header.get_by_role("button")
        wanted = sorted(f"{name}:{origin.port}" for name in names)
        button.focus()
        seen = set()
        cells = rows.locator(f"td:nth-child({column})")
        for _ in range(2):
            dashboard.page.keyboard.press("Enter")
            order = header.get_attribute("aria-sort")
            assert order in ("ascending", "descending")
            assert dashboard["#connections th[aria-sort$=ending]"].count() == 1
            expect(cells).to_have_text(wanted if order == "ascending" else wanted[::-1])
            expect(button).to_be_focused()
            seen.add(order)
        assert len(seen) == 2
        # New rows take their place, they are not put at the end.
        stack.enter_context(downloading(daemon, origin, host="localhost"))
        wanted = sorted([*wanted, f"localhost:{origin.port}"], reverse=order == "descending")
        expect(cells).to_have_text(wanted)


def test_pause_freezes_and_catches_up(browser: Browser, origin: Origin) -> None:
    with (
        live_daemon() as daemon,
        opened(browser, web(daemon)) as dashboard,
        opened(browser, web(daemon)) as other,
    ):
        dashboard.expect_badge("live")
        rows = dashboard["#connections tr[data-id]"]
        with downloading(daemon, origin, "--interface", "127.0.0.5") as first:
            expect(rows).to_have_count(1)
            pause = dashboard["#pause"]
            expect(pause).to_have_attribute("aria-pressed", "false")
            pause.press("Space")
            expect(pause).to_have_attribute("aria-pressed", "true")
            frozen = rows.inner_text()
            with downloading(daemon, origin, "--interface", "127.0.0.6") as second:
                expect(other.connection("127.0.0.6")).to_have_count(1)
                expect(dashboard["#events li[data-type='connection.new']"]).to_have_count(2)
                origin.release.set()
                assert [first.wait(DEADLINE), second.wait(DEADLINE)] == [0, 0]
            expect(dashboard["#closed tr[data-id]"]).to_have_count(2)
            assert rows.inner_text() == frozen
            pause.click()
            expect(rows).to_have_count(0)
            origin.release.clear()
            with downloading(daemon, origin, "--interface", "127.0.0.7"):
                expect(rows).to_have_count(1)


def test_the_operator_closes_one(browser: Browser, origin: Origin) -> None:
    with (
        live_daemon() as daemon,
        opened(browser, web(daemon)) as dashboard,
        tunnels(daemon, origin, 1),
        downloading(daemon, origin, host="localhost") as client,
    ):
        row = dashboard.connection("localhost")
        expect(row).to_have_count(1)
        number = row.get_attribute("data-id")
        close = row.get_by_role("button", name=f"Close connection {number}", exact=True)
        close.focus()
        dashboard.page.keyboard.press("Enter")
        assert client.wait(DEADLINE) != 0
        expect(row).to_have_count(0)
        # Who works by keyboard does not start again at the top of the page.
        expect(dashboard["#connections :focus"]).to_have_count(1)
        expect(dashboard[f'#closed tr[data-id="{number}"]']).to_contain_text("closed_by_operator")
        assert ask(daemon, "/connections")["count"] == 1  # and no other
        expect(dashboard["#connections tr[data-id]"]).to_have_count(1)


def test_the_operator_closes_all_that_the_filter_shows(browser: Browser, origin: Origin) -> None:
    with (
        live_daemon() as daemon,
        opened(browser, web(daemon)) as dashboard,
        tunnels(daemon, origin, 3),
        downloading(daemon, origin, host="localhost") as client,
    ):
        rows, button = dashboard["#connections tr[data-id]"], dashboard["#close-shown"]
        expect(rows).to_have_count(4)
        expect(button).to_be_hidden()
        dashboard["#filter-host"].fill("127.0.0.1")
        expect(rows).to_have_count(3)
        button.click()
        assert ask(daemon, "/connections")["count"] == 4  # it asks whether one is sure
        button.click()
        expect(rows).to_have_count(0)
        dashboard["#filter-host"].fill("")
        expect(rows).to_have_count(1)
        assert ask(daemon, "/connections")["count"] == 1
        assert client.poll() is None
        expect(dashboard.closed("closed_by_operator")).to_have_count(3)


def test_a_backend_dies_and_returns(browser: Browser) -> None:
    port = free_port()
    command = ["microsocks", "-i", "127.0.0.1", "-p", str(port)]
    with Origin() as target, ExitStack() as stack:
        health = {
            "type": "tcp",
            "target": target.authority,
            "interval": "300ms",
            "timeout": "300ms",
            "hold_down": "0s",
            "fall": 2,
            "rise": 1,
        }
        office = {"name": "office", "type": "socks5_proxy", "address": f"127.0.0.1:{port}"}
        backends = [{**office, "health": health}, {"name": "direct", "type": "direct"}]
        upstream = stack.enter_context(Program(command))
        daemon = stack.enter_context(live_daemon(backends=backends))
        dashboard = stack.enter_context(opened(browser, web(daemon)))
        dashboard.expect_badge("live")
        backend, other = dashboard.backend("office"), dashboard.backend("direct")
        expect(backend).to_have_attribute("data-state", "up")
        events = dashboard['#events li[data-type="backend.health"]'].filter(has_text="office")
        upstream.process.kill()
        expect(backend).to_have_attribute("data-state", "down")
        told = next(one for one in ask(daemon, "/backends") if one["name"] == "office")
        expect(backend).to_contain_text(told["reason"])
        expect(events.filter(has_text=told["reason"]).first).to_be_visible()
        expect(other).to_have_attribute("data-state", "up")
        before = events.count()
        stack.enter_context(Program(command))
        expect(backend).to_have_attribute("data-state", "up")
        expect(backend).not_to_contain_text(told["reason"])
        expect(events).not_to_have_count(before)
