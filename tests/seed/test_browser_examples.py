"""The page's clients for browsers, in Chromium, against the real daemon.

Their page comes from http://localhost:PORT: another port than the daemon's, as a
developer's would.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.chromium import Console, Site, chromium, new_page
from tests.e2e.curl import curl
from tests.e2e.daemon import Daemon
from tests.e2e.origin import Origin
from tests.e2e.program import DEADLINE
from tests.seed import examples
from tests.seed.examples import EVENTS_URL, LOGS_URL, TOKEN, Traffic, events_url, example, logs_url

TOKENS = pytest.mark.parametrize("token", [None, TOKEN], ids=["open", "token"])
RECONNECTS = (1, 2, 4, 8, 16)  # seconds: the example's back-off


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site() as site:
        yield site


@pytest.fixture(scope="module")
def traffic() -> Iterator[Traffic]:
    with Traffic() as traffic:
        yield traffic


@pytest.fixture
def tab(browser: Browser) -> Iterator[tuple[Page, Console]]:
    with new_page(browser) as tab:
        yield tab


def show(page: Page, site: Site, script: str) -> None:
    """Open a page that consists of `script` and an element for React."""
    site.files["/client.js"] = script
    site.files["/"] = '<!doctype html><div id="root"></div><script src="/client.js"></script>'
    page.goto(f"{site.origin}/")


def typescript_client(daemon: Daemon, token: str | None) -> str:
    changes = {EVENTS_URL: events_url(daemon)}
    if token is not None:
        changes["'your-api-token'"] = f"'{token}'"
    return examples.strip_types(examples.EVENT_TYPES + example("events.ts", changes))


@TOKENS
def test_typescript_shows_what_happens(
    tab: tuple[Page, Console], site: Site, traffic: Traffic, token: str | None
) -> None:
    page, console = tab
    with Daemon(control={"stats_interval": "200ms", "token": token or ""}) as daemon:
        show(page, site, typescript_client(daemon, token))
        console.expect(r"^log: Connected to Bifrost WebSocket$")
        console.expect(r"^log: Backend direct is healthy$")
        console.expect(r"^log: Active connections: 0$")
        traffic.run(daemon)
        for origin in traffic.origins:
            console.expect(rf"^log: New connection: {origin.authority} via direct$")
        with examples.held_tunnel(daemon) as target:
            console.expect(rf"^log: New connection: {target} via direct$")
            console.expect(r"^log: Active connections: 1$")
        assert not console.matching("^(error|uncaught): ")
        daemon.stop()
        console.expect(r"^log: WebSocket disconnected$")
    assert len(console.matching(r"^log: New connection: ")) == 4


def test_typescript_with_a_wrong_token_backs_off_and_gives_up(
    tab: tuple[Page, Console], site: Site
) -> None:
    page, console = tab
    page.clock.install()
    with Daemon(control={"token": TOKEN}) as daemon:
        show(page, site, typescript_client(daemon, None))
        for attempt, seconds in enumerate(RECONNECTS, start=1):
            console.expect(r"^log: WebSocket disconnected$", attempt)
            page.clock.run_for(seconds * 1000)
        console.expect(r"^error: Max reconnection attempts reached$")
    attempts = len(RECONNECTS) + 1
    assert len(console.matching("^error: WebSocket error:")) == attempts
    assert not console.matching("Connected|New connection|Active|Backend|uncaught")


def test_typescript_comes_back_when_a_seat_is_free(
    tab: tuple[Page, Console], site: Site, browser: Browser
) -> None:
    page, console = tab
    page.clock.install()
    with Daemon(control={"max_clients": 1}) as daemon:
        with new_page(browser) as (other, seated):
            show(other, site, typescript_client(daemon, None))
            seated.expect("^log: Connected")
            show(page, site, typescript_client(daemon, None))
            console.expect("^log: WebSocket disconnected$")
            assert not console.matching("Connected")
        page.clock.run_for(RECONNECTS[0] * 1000)
        console.expect("^log: Connected to Bifrost WebSocket$")


@TOKENS
def test_the_keepalive_snippet_is_answered(
    tab: tuple[Page, Console], site: Site, traffic: Traffic, token: str | None
) -> None:
    page, console = tab
    page.clock.install()
    with Daemon(control={"token": token or ""}) as daemon:
        changes = {EVENTS_URL: events_url(daemon)}
        if token is not None:
            changes["your-token"] = token
        show(page, site, examples.HANDLE_EVENT + example("keepalive.js", changes))
        console.expect("^log: event .*stats.update")
        assert not console.matching("Keep-alive")
        for count in (1, 2):
            page.clock.run_for(30_000)
            console.expect("^log: Keep-alive acknowledged$", count)
        traffic.run(daemon)
        for origin, protocol in zip(traffic.origins, ("HTTP", "CONNECT", "SOCKS5"), strict=True):
            for kind in ("new", "close"):
                found = console.expect(
                    rf'^log: event (.*"connection\.{kind}".*"{re.escape(origin.authority)}".*)$'
                )
                event = json.loads(found[1])
                assert event["data"]["protocol"] == protocol
                assert event["data"]["backend"] == "direct"
                assert event["data"]["client_ip"] == "127.0.0.1"
        assert not console.matching("^(error|uncaught): ")


def test_the_keepalive_snippet_with_a_wrong_token_hears_nothing(
    tab: tuple[Page, Console], site: Site
) -> None:
    page, console = tab
    with Daemon(control={"token": TOKEN}) as daemon:
        source = example("keepalive.js", {EVENTS_URL: events_url(daemon)})
        show(page, site, examples.HANDLE_EVENT + source)
        console.expect("^error: WebSocket connection to 'ws://localhost:.*' failed: ")
        assert page.evaluate("ws.readyState === WebSocket.CLOSED")
    assert not console.matching("^log: |uncaught")


def refused_url() -> str:
    """An address on which nobody listens."""
    with Origin() as gone:
        return gone.url()


def fail_a_request(daemon: Daemon) -> None:
    """A request whose target refuses: an entry as any other, with an error."""
    assert curl("-x", f"http://{daemon.proxy}", refused_url()).status == 502


def test_the_log_streamer_prints_the_log(
    tab: tuple[Page, Console], site: Site, traffic: Traffic
) -> None:
    page, console = tab
    with Daemon() as daemon:
        show(page, site, example("logs.js", {LOGS_URL: logs_url(daemon)}))
        console.expect("^log: Log stream connected$")
        console.expect("^log: Log stream ready$")
        traffic.run(daemon)
        http, connect, socks = (re.escape(origin.authority) for origin in traffic.origins)
        console.expect(rf"\[info\] GET http://{http}/bytes/1000\b")
        console.expect(rf"\[info\] CONNECT {connect}\b")
        console.expect(rf"\[info\] SOCKS5 {socks}\b")
        fail_a_request(daemon)
        console.expect(r"\[info\] GET http://127\.0\.0\.1:\d+/bytes/10\b")
        assert not console.matching("^(error|uncaught): ")
        daemon.stop()
        console.expect("^error: Log stream error: ")
        console.expect("^error: Stream error: ")
        page.evaluate("streamer.disconnect()")


def viewer(daemon: Daemon) -> str:
    return examples.bundle(
        example("logs.tsx", {LOGS_URL: logs_url(daemon)}) + examples.RENDER_VIEWER
    )


def test_the_react_viewer_shows_the_log(
    tab: tuple[Page, Console], site: Site, traffic: Traffic
) -> None:
    page, console = tab
    expect.set_options(timeout=DEADLINE * 1000)
    with Daemon() as daemon:
        show(page, site, viewer(daemon))
        expect(page.get_by_text("Status: Connected")).to_be_visible()
        traffic.run(daemon)
        fail_a_request(daemon)
        entries = page.locator("li")
        expect(entries).to_have_count(4)
        shown = [(entry.get_attribute("class"), entry.inner_text()) for entry in entries.all()]
        http, connect, socks = (origin.authority for origin in traffic.origins)
        said = [re.sub(r"^\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\] ", "", text) for _, text in shown]
        assert said[1:] == [f"SOCKS5 {socks}", f"CONNECT {connect}", f"GET http://{http}/bytes/1000"]
        assert re.fullmatch(r"GET http://127\.0\.0\.1:\d+/bytes/10", said[0])
        assert [level for level, _ in shown] == ["log-info"] * 4
        page.get_by_role("button", name="Clear").click()
        expect(entries).to_have_count(0)
        assert not console.matching("^(error|uncaught): ")
        daemon.stop()
        expect(page.get_by_text("Status: Disconnected")).to_be_visible()


def test_the_react_viewer_stays_disconnected_where_a_token_is_asked(
    tab: tuple[Page, Console], site: Site
) -> None:
    page, console = tab
    with Daemon(control={"token": TOKEN}) as daemon:
        show(page, site, viewer(daemon))
        # It sends no token: 401, after which an EventSource does not come back.
        console.expect("^error: .*")
        expect(page.get_by_text("Status: Disconnected")).to_be_visible()
        assert page.locator("li").count() == 0
