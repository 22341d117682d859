"""The dashboard asks for the token once, keeps it to itself, and obeys what it opens."""

from __future__ import annotations

from contextlib import ExitStack
from urllib.parse import quote

from playwright.sync_api import Browser, expect

from tests.browser.dashboard import (
    NETWORK,
    READ_TOKEN,
    TOKEN,
    Dashboard,
    ask,
    downloading,
    live_daemon,
    opened,
    seats,
    web,
)
from tests.e2e.curl import curl
from tests.e2e.daemon import Daemon
from tests.e2e.origin import Origin
from tests.e2e.upstreams import free_port


def guarded() -> Daemon:
    return live_daemon(control={"token": TOKEN, "read_token": READ_TOKEN})


def enter(dashboard: Dashboard, token: str) -> None:
    dashboard["#token"].fill(token)
    dashboard["#login button[type=submit]"].click()


def test_the_token_is_asked_for_once(browser: Browser, origin: Origin) -> None:
    with guarded() as daemon, opened(browser, web(daemon), allowed=NETWORK) as dashboard:
        login = dashboard["dialog#login"]
        expect(login).to_be_visible()
        expect(dashboard["#token"]).to_be_focused()
        assert dashboard.badge != "live"
        expect(dashboard["#login-error"]).to_be_empty()
        enter(dashboard, "not-the-token")
        expect(dashboard["#login-error"]).not_to_be_empty()
        expect(login).to_be_visible()
        dashboard["#token"].fill(TOKEN)
        dashboard["#token"].press("Enter")
        expect(login).to_be_hidden()
        dashboard.expect_badge("live")
        with downloading(daemon, origin):
            expect(dashboard["#connections tr[data-id]"]).to_have_count(1)
            dashboard.page.reload()
            dashboard.expect_badge("live")
            expect(dashboard["#connections tr[data-id]"]).to_have_count(1)
            expect(login).to_be_hidden()
        # It is nowhere on the page, and in no list of what was asked for.
        assert TOKEN not in dashboard.page.content()
        assert dashboard["#token"].input_value() == ""
        assert TOKEN not in dashboard.page.url
        assert TOKEN not in daemon.output.text
        assert TOKEN not in str(ask(daemon, "/logs"))
        kept = dashboard.page.evaluate("() => Object.values(sessionStorage)")
        assert [value for value in kept if TOKEN in value]
        # Another tab has a session of its own.
        with opened(browser, web(daemon), allowed=NETWORK) as other:
            expect(other["dialog#login"]).to_be_visible()


def test_the_token_is_forgotten(browser: Browser) -> None:
    with (
        guarded() as daemon,
        opened(browser, web(daemon), fragment=f"#token={TOKEN}", allowed=NETWORK) as dashboard,
    ):
        dashboard.expect_badge("live")
        dashboard["#sign"].click()
        expect(dashboard["dialog#login"]).to_be_visible()
        assert dashboard.page.evaluate("() => sessionStorage.length") == 0
        daemon.wait_until(lambda: seats(daemon) == (0, 0), "the page watches nothing")
        # Who puts the question aside can take it up again.
        dashboard.page.keyboard.press("Escape")
        expect(dashboard["dialog#login"]).to_be_hidden()
        assert dashboard.badge == "off"
        dashboard["#sign"].click()
        enter(dashboard, TOKEN)
        dashboard.expect_badge("live")


def test_the_token_comes_in_the_fragment(browser: Browser) -> None:
    with guarded() as daemon:
        with opened(browser, web(daemon), fragment=f"#token={TOKEN}") as dashboard:
            dashboard.expect_badge("live")
            expect(dashboard["dialog#login"]).to_be_hidden()
            assert dashboard.page.url == f"{web(daemon)}/"
            dashboard.page.go_back()  # the history does not have it either
            assert TOKEN not in dashboard.page.url
            dashboard.page.go_forward()
            dashboard.expect_badge("live")
        with opened(
            browser, web(daemon), fragment="#token=wrong", allowed=NETWORK
        ) as dashboard:
            expect(dashboard["dialog#login"]).to_be_visible()
            assert dashboard.page.url == f"{web(daemon)}/"
            # A link with the right one, followed in this very tab.
            dashboard.page.evaluate("hash => location.hash = hash", f"token={TOKEN}")
            dashboard.expect_badge("live")
            expect(dashboard["dialog#login"]).to_be_hidden()
            assert dashboard.page.url == f"{web(daemon)}/"


def test_a_token_of_any_characters(browser: Browser) -> None:
    token = """a+b&c=d%20e#?/"'<;`"""
    with live_daemon(control={"token": token}) as daemon:
        with opened(browser, web(daemon), allowed=NETWORK) as dashboard:
            enter(dashboard, token)
            dashboard.expect_badge("live")
        with opened(browser, web(daemon), fragment=f"#token={quote(token, '')}") as dashboard:
            dashboard.expect_badge("live")


def test_a_token_that_opens_no_more(browser: Browser) -> None:
    port = free_port()

    def guarded_by(token: str) -> Daemon:
        return live_daemon(control={"token": token, "listen": [f"127.0.0.1:{port}"]})

    with ExitStack() as stack:
        first = stack.enter_context(guarded_by("the-first-token"))
        dashboard = stack.enter_context(
            opened(
                browser, web(first), fragment="#token=the-first-token", allowed=NETWORK, clock=True
            )
        )
        dashboard.expect_badge("live")
        first.stop()
        dashboard.expect_badge("connecting", "reconnecting", "stale")
        stack.enter_context(guarded_by("another-token"))
        dashboard.page.clock.fast_forward(40_000)
        expect(dashboard["dialog#login"]).to_be_visible()
        assert dashboard.badge != "live"
        enter(dashboard, "another-token")
        dashboard.expect_badge("live")


def test_who_may_only_look_is_told_so(browser: Browser, origin: Origin) -> None:
    with (
        guarded() as daemon,
        opened(
            browser, web(daemon), fragment=f"#token={READ_TOKEN}", allowed=NETWORK
        ) as dashboard,
        downloading(daemon, origin, host="localhost") as client,
    ):
        dashboard.expect_badge("live")
        row = dashboard.connection("localhost")
        expect(row).to_have_count(1)
        row.get_by_role("button", name="Close connection").click()
        expect(dashboard["#notice"]).to_contain_text("may look, not change")
        expect(row).to_have_count(1)
        assert client.poll() is None
        assert ask(daemon, "/connections")["count"] == 1
        expect(dashboard["dialog#login"]).to_be_hidden()


def test_a_throttled_address_is_told_to_wait(browser: Browser) -> None:
    with guarded() as daemon, opened(browser, web(daemon), allowed=NETWORK) as dashboard:
        for _ in range(10):
            got = curl("-H", "Authorization: Bearer wrong", daemon.url("/api/v1/status"))
            assert got.status == 401
        enter(dashboard, "wrong")
        expect(dashboard["#login-error"]).to_contain_text("wait")
        enter(dashboard, TOKEN)
        dashboard.expect_badge("live")
