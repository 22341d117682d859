"""What the dashboard offers besides looking: faults of the configuration, the route test, the
log."""

from __future__ import annotations

import re
import signal

from playwright.sync_api import Browser, expect

from tests.browser.dashboard import NETWORK, live_daemon, opened, web
from tests.e2e.curl import curl, through
from tests.e2e.origin import Origin
from tests.e2e.upstreams import free_port


def test_a_rejected_configuration(browser: Browser) -> None:
    with live_daemon() as daemon, opened(browser, web(daemon)) as dashboard:
        dashboard.expect_badge("live")
        banner = dashboard["#faults"]
        expect(banner).to_be_hidden()
        good = daemon.path.read_text(encoding="utf-8")
        bad = '\n[log]\nlevel = "<b>loud</b>"\n\n[limits]\nmax_connections = -5\n'
        daemon.path.write_text(good + bad, encoding="utf-8")
        daemon.process.send_signal(signal.SIGHUP)
        expect(banner).to_be_visible()
        for text in ("log", "level", "limits", "max_connections"):
            expect(banner).to_contain_text(text)
        expect(banner.get_by_role("listitem")).to_have_count(2)
        expect(dashboard['#events li[data-type="config.rejected"]']).to_have_count(1)
        # Who comes later is told as well.
        with opened(browser, web(daemon)) as later:
            expect(later["#faults"]).to_contain_text("max_connections")
        daemon.path.write_text(good + '\n[log]\nlevel = "debug"\n', encoding="utf-8")
        daemon.process.send_signal(signal.SIGHUP)
        expect(dashboard['#events li[data-type="config.reload"]']).to_have_count(1)
        expect(banner).to_be_hidden()
        with opened(browser, web(daemon)) as later:
            later.expect_badge("live")
            expect(later["#faults"]).to_be_hidden()


def test_the_route_box(browser: Browser) -> None:
    routes = [
        {"name": "work", "domains": ["*.corp.example"], "backend": "direct", "priority": 900},
        {"name": "git", "domains": ["git.corp.example"], "backend": "sink", "priority": 850},
        {"name": "ads", "domains": ["ads.example"], "backend": "sink", "priority": 800},
        {"name": "web", "ports": [80, 443], "clients": ["192.0.2.0/24"], "backend": "direct"},
        {"name": "old", "backend": "direct", "enabled": False},
        {"name": "ssh", "ports": [22], "backend": "direct"},
    ]
    backends = [{"name": "direct", "type": "direct"}, {"name": "sink", "type": "block"}]
    with (
        live_daemon(routes=routes, backends=backends) as daemon,
        opened(browser, web(daemon), allowed=NETWORK) as dashboard,
    ):
        dashboard.expect_badge("live")
        host, client, port = (dashboard[f"#route-{name}"] for name in ("host", "client", "port"))
        result = dashboard["#route-result"]
        host.fill("git.corp.example")
        host.press("Enter")
        expect(result).to_contain_text(re.compile(r"work.*direct|direct.*work", re.S))
        for reason in ("A route before it took the request.", "It is disabled."):
            expect(result).to_contain_text(reason)
        host.fill("ads.example")
        dashboard["#route-form button[type=submit]"].click()
        expect(result).to_contain_text("A rule blocks this target.")
        expect(result).to_contain_text("None of its names matches.")
        host.fill("elsewhere.example")
        client.fill("127.0.0.1")
        port.fill("80")
        port.press("Enter")
        expect(result).to_contain_text("No route matches this target.")
        expect(result).to_contain_text("It is for other clients.")
        expect(result).to_contain_text("It is for other ports.")
        client.fill("192.0.2.7")
        client.press("Enter")
        expect(result).not_to_contain_text("No route matches this target.")
        # What the daemon does not understand it says, and the page hands on.
        client.fill("nonsense")
        client.press("Enter")
        expect(result).to_contain_text("IPv4 or IPv6 address")
        client.fill("")
        host.fill("<img src=x>")
        host.press("Enter")
        expect(result).to_contain_text("cannot be asked for")


def test_the_log_by_level_and_filter(browser: Browser, origin: Origin) -> None:
    with (
        live_daemon(log={"level": "debug"}) as daemon,
        opened(browser, web(daemon)) as dashboard,
    ):
        lines = dashboard["#log li[data-level]:visible"]
        dashboard.expect_badge("live")
        curl(*through("http", daemon.proxy), origin.url("/bytes/77"))
        expect(lines.filter(has_text="/bytes/77")).to_have_count(1)
        curl(*through("http", daemon.proxy), f"http://localhost:{free_port()}/else")
        expect(lines.filter(has_text="/else")).to_have_count(1)
        assert {line.get_attribute("data-level") for line in lines.all()} >= {"info"}
        dashboard["#log-filter"].fill("BYTES/77")
        expect(lines).to_have_count(1)
        curl(*through("http", daemon.proxy), origin.url("/bytes/778"))
        expect(lines).to_have_count(2)
        dashboard["#log-filter"].fill("")
        expect(lines.filter(has_text="/else")).to_have_count(1)
        # A refused configuration is worth an error.
        daemon.path.write_text("nonsense = 1\n", encoding="utf-8")
        daemon.process.send_signal(signal.SIGHUP)
        expect(lines.and_(dashboard['[data-level="error"]'])).not_to_have_count(0)
        dashboard["#log-level"].select_option("error")
        expect(dashboard['#log li[data-level="info"]:visible']).to_have_count(0)
        expect(lines).not_to_have_count(0)
        dashboard["#log-level"].select_option("info")
        expect(lines.filter(has_text="/bytes/778")).to_have_count(1)


def test_the_log_pauses(browser: Browser, origin: Origin) -> None:
    with (
        live_daemon() as daemon,
        opened(browser, web(daemon)) as dashboard,
        opened(browser, web(daemon)) as other,
    ):
        for page in (dashboard, other):
            page.expect_badge("live")
        lines = dashboard["#log li[data-level]:visible"]
        curl(*through("http", daemon.proxy), origin.url("/bytes/1"))
        expect(lines.filter(has_text="/bytes/1")).to_have_count(1)
        dashboard["#log-pause"].click()
        expect(dashboard["#log-pause"]).to_have_attribute("aria-pressed", "true")
        curl(*through("http", daemon.proxy), origin.url("/bytes/2"))
        expect(other["#log li"].filter(has_text="/bytes/2")).to_have_count(1)
        assert lines.filter(has_text="/bytes/2").count() == 0
        dashboard["#log-pause"].click()
        expect(lines.filter(has_text="/bytes/2")).to_have_count(1)
