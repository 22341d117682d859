"""The metrics of the real daemon, read by Prometheus' own tools."""

from __future__ import annotations

import subprocess
from typing import NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from tests.daemon_kit import asked, echoing, speaks, tunnel, watched
from tests.e2e.curl import curl, through
from tests.e2e.daemon import Daemon, Section
from tests.e2e.origin import Origin
from tests.e2e.program import DEADLINE

BACKENDS: Section = [
    {"name": "direct"},
    {"name": "away", "type": "interface", "device": "bifrost-none0"},
    {"name": "office", "type": "socks5_proxy", "address": "127.0.0.1:1"},
    {"name": "best", "type": "group", "members": ["away", "direct"]},
    {"name": "stop", "type": "block"},
]
ROUTES: Section = [
    {"name": "one", "ports": [1], "cidrs": ["127.0.0.0/8"], "backend": "office"},
    {"name": "blocked", "domains": ["*.ads.example"], "backend": "stop"},
    {"name": "rest", "domains": ["*"], "cidrs": ["0.0.0.0/0"], "backend": "best"},
]


class Series(NamedTuple):
    """One line of the page."""

    name: str
    labels: frozenset[tuple[str, str]]


class Scraped(dict[Series, float]):
    """A page of metrics."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.counters: set[Series] = set()
        for family in parse(text):
            for sample in family.samples:
                series = Series(sample.name, frozenset(sample.labels.items()))
                assert series not in self
                self[series] = sample.value
                if family.type == "counter":
                    self.counters.add(series)

    def get_one(self, name: str, **labels: str) -> float:
        """The value of one series."""
        return self[Series(name, frozenset(labels.items()))]


def scrape(daemon: Daemon) -> Scraped:
    return Scraped(curl(daemon.url("/metrics")).body.decode())


def lint(text: bytes) -> tuple[int, str]:
    """What `promtool` finds wrong."""
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=DEADLINE,
    )
    return done.returncode, done.stdout.decode()


def test_the_tools_find_nothing_wrong() -> None:
    with Daemon(backends=BACKENDS, routes=ROUTES) as daemon, Origin() as origin:
        curl(*through("http", daemon.proxy), origin.url())
        asked(daemon.proxy, "x.ads.example:443")
        got = curl("-D", "-", "-o", "/dev/null", daemon.url("/metrics"))
        assert b"\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n" in got.body
        assert lint(curl(daemon.url("/metrics")).body) == (0, "")
    assert lint(b"# TYPE a_total gauge\na_total 1\n")[0]  # it does look


def test_they_tell_what_happened() -> None:
    with (
        Daemon(backends=BACKENDS, routes=ROUTES, control={"token": "the-great-token"}) as daemon,
        Origin() as origin,
        echoing() as target,
    ):
        assert curl(daemon.url("/metrics")).status == 401

        def scrape() -> Scraped:
            bearer = "Authorization: Bearer the-great-token"
            return Scraped(curl("-H", bearer, daemon.url("/metrics")).body.decode())

        before = scrape()
        for way in ("http", "tunnel", "socks5", "socks4"):
            curl(*through(way, daemon.proxy), origin.url("/bytes/1000"))
        assert asked(daemon.proxy, "x.ads.example:443").word == "blocked"
        assert asked(daemon.proxy, "127.0.0.1:1").word == "upstream_unreachable"
        with tunnel(daemon.proxy, target) as sock:
            assert speaks(sock, b"x" * 100)
            daemon.wait_until(
                lambda: scrape().get_one("bifrost_backend_connections", backend="direct") == 1,
                "the others are over",
            )
            now = scrape()
        assert {*before} == {*now}
        assert now.get_one("bifrost_connections_active", protocol="connect") == 1
        assert now.get_one("bifrost_connections_active", protocol="http") == 0
        for protocol, count in (("http", 1), ("connect", 2), ("socks5", 1), ("socks4", 1)):
            assert now.get_one("bifrost_connections_total", protocol=protocol) == count
        assert now.get_one("bifrost_backend_connections_opened_total", backend="direct") == 5
        assert now.get_one("bifrost_backend_connections_opened_total", backend="away") == 0
        sent = now.get_one("bifrost_bytes_sent_total", backend="direct")
        received = now.get_one("bifrost_bytes_received_total", backend="direct")
        assert sent == now.get_one("bifrost_traffic_bytes_total", direction="sent") > 400
        assert received == now.get_one("bifrost_traffic_bytes_total", direction="received") > 4100
        assert now.get_one("bifrost_requests_failed_total", reason="blocked") == 1
        assert now.get_one("bifrost_requests_failed_total", reason="upstream_unreachable") == 1
        assert now.get_one("bifrost_backend_errors_total", backend="office") == 1
        assert 0 < now.get_one("bifrost_backend_latency_seconds", backend="direct") < DEADLINE
        assert now.get_one("bifrost_backend_latency_seconds", backend="office") == 0
        assert now.get_one("bifrost_backend_health", backend="away", type="interface") == 0
        assert now.get_one("bifrost_backend_state", backend="away", state="waiting") == 1
        assert now.get_one("bifrost_backend_health", backend="best", type="group") == 1


@pytest.mark.parametrize("idle", [True, False])
def test_counters_go_on_over_reloads(idle: bool) -> None:
    """Also where a backend is taken out, with or without a connection over it."""
    backends: list[dict[str, str]] = [{"name": "direct"}, {"name": "other", "type": "direct"}]
    routes = [
        {"name": "all", "domains": ["*"], "cidrs": ["0.0.0.0/0"], "backend": name}
        for name in ("other", "direct")
    ]
    with watched(backends=backends, routes=routes[:1]) as running, echoing() as target:
        daemon = running.daemon
        with tunnel(daemon.proxy, target) as sock:
            assert speaks(sock)
            if idle:
                sock.close()
                daemon.wait_until(
                    lambda: not scrape(daemon).get_one(
                        "bifrost_backend_connections", backend="other"
                    ),
                    "the connection is over",
                )
            first = scrape(daemon)
            assert first.get_one("bifrost_bytes_sent_total", backend="other") == 5
            running.reload(backends=backends[:1], routes=routes[1:])
            second = scrape(daemon)
            running.write(backends=[{"name": "direct", "colour": "red"}])
            assert running.rejected()
            refused = scrape(daemon)
        assert refused.get_one("bifrost_config_last_reload_successful") == 0
        assert refused.get_one("bifrost_config_reloads_total", outcome="success") == 1
        assert refused.get_one("bifrost_config_reloads_total", outcome="refused") == 1
        loaded = "bifrost_config_last_reload_success_timestamp_seconds"
        assert first.get_one(loaded) < second.get_one(loaded) == refused.get_one(loaded)
        gone = {series for series in first if ("backend", "other") in series.labels}
        assert {*first} - gone == {*second} == {*refused}
        for series in first.counters - gone:
            assert first[series] <= second[series] <= refused[series], series
        assert second.get_one("bifrost_traffic_bytes_total", direction="sent") == 5
        running.reload(backends=backends, routes=routes[:1])
        again = scrape(daemon)
        assert {*again} == {*first}
        assert again.get_one("bifrost_config_last_reload_successful") == 1


def test_a_daemon_that_is_full_of_backends() -> None:
    backends = [{"name": f"way-{number}"} for number in range(256)]
    routes = [{"name": "all", "domains": ["*"], "backend": "way-0"}]
    with Daemon(backends=backends, routes=routes) as daemon:
        text = curl(daemon.url("/metrics")).body
    assert lint(text) == (0, "")
    assert len(Scraped(text.decode())) < 100 + 256 * 11
