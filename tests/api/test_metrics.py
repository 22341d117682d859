"""What `/metrics` tells, and where it gets it from."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from bifrost_lite import __version__
from bifrost_lite.api import metrics
from bifrost_lite.condition import DOWN, SUSPECT, WAITING
from bifrost_lite.errors import Reason
from bifrost_lite.events import ConfigFault
from tests.backends.group_kit import Leaf, group
from tests.control_fixtures import Daemon, FakeSession, finished, running

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
# Label names and values of a sample, in the order of their names; its value.
Samples = dict[tuple[tuple[str, str], ...], float]


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with running() as daemon:
        leaves = [Leaf("direct"), Leaf("wg"), Leaf("office")]
        best = group(leaves)
        daemon.plane.policy.backends = {b.name: b for b in (*leaves, best)}
        yield daemon


def scrape(daemon: Daemon) -> dict[str, Samples]:
    answer = daemon.get("/metrics")
    assert answer.status == 200
    found: dict[str, Samples] = {}
    for family in parse(answer.body.decode()):
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            samples = found.setdefault(sample.name, {})
            assert labels not in samples, "a series that is told twice"
            samples[labels] = sample.value
    return found


def of(name: str) -> tuple[tuple[str, str], ...]:
    return (("backend", name),)


def test_the_answer(daemon: Daemon) -> None:
    answer = daemon.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    head = daemon.get("/metrics", method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert daemon.get("/metrics", method="POST").status == 405


@pytest.mark.parametrize("token", ["the-great-token", "the-small-token"])
def test_it_takes_a_token(token: str) -> None:
    with running(token="the-great-token", read_token="the-small-token") as daemon:
        assert daemon.get("/metrics").status == 401
        assert daemon.get("/metrics", f"Authorization: Bearer {token}").status == 200


def test_the_process(daemon: Daemon) -> None:
    found = scrape(daemon)
    (labels,) = found["bifrost_build_info"]
    assert dict(labels)["version"] == __version__
    assert found["bifrost_up"][()] == 1
    assert 0 <= found["bifrost_uptime_seconds"][()] < 100
    age = time.time() - found["process_start_time_seconds"][()]
    assert age == pytest.approx(time.monotonic() - daemon.hub.started, abs=0.1)
    assert found["process_resident_memory_bytes"][()] > 1_000_000
    assert found["process_cpu_seconds_total"][()] > 0
    # The tests' own threads may open and close some meanwhile.
    assert 3 < found["process_open_fds"][()] < found["process_max_fds"][()]


def test_connections_by_protocol(daemon: Daemon) -> None:
    for number, protocol in enumerate(("CONNECT", "CONNECT", "SOCKS4", "HTTP")):
        daemon.plane.connections[number] = FakeSession(daemon.plane, number, protocol)
    found = scrape(daemon)
    assert found["bifrost_connections_active"] == {
        (("protocol", "http"),): 1,
        (("protocol", "connect"),): 2,
        (("protocol", "socks4"),): 1,
        (("protocol", "socks5"),): 0,
    }
    assert found["bifrost_connections_total"] == {
        (("protocol", "http"),): 4000,
        (("protocol", "connect"),): 990,
        (("protocol", "socks5"),): 10,
        (("protocol", "socks4"),): 0,
    }


def test_what_moved_and_what_failed(daemon: Daemon) -> None:
    daemon.plane.refused, daemon.plane.dropped = 3, 4
    daemon.plane.failures = {"dns_failed": 2}
    daemon.do(daemon.requests.append, finished())
    found = scrape(daemon)
    assert found["bifrost_traffic_bytes_total"] == {
        (("direction", "sent"),): 104857600, (("direction", "received"),): 209715200,
    }  # fmt: skip
    failed = found["bifrost_requests_failed_total"]
    assert failed.pop((("reason", "dns_failed"),)) == 2
    assert set(failed.values()) == {0}
    assert {labels[0][1] for labels in failed} == {r.word for r in Reason} - {"dns_failed"}
    assert found["bifrost_requests_total"][()] == 1
    assert found["bifrost_clients_refused_total"][()] == 3
    assert found["bifrost_datagrams_dropped_total"][()] == 4
    daemon.do(daemon.requests.clear)
    assert scrape(daemon)["bifrost_requests_total"][()] == 1


def test_backends(daemon: Daemon) -> None:
    backends = daemon.plane.policy.backends
    counters = backends["wg"].carriers(b"")[0].counters
    counters.active, counters.total, counters.failed = 2, 7, 1
    counters.sent, counters.received, counters.latency = 100, 200, 0.0123456789
    for number in (1, 2):
        daemon.plane.connections[number] = FakeSession(
            daemon.plane, number, backend="wg", bytes_sent=10, bytes_received=20
        )
    found = scrape(daemon)
    told = {name: samples[of("wg")] for name, samples in found.items() if of("wg") in samples}
    assert told == {
        "bifrost_backend_connections": 2,
        "bifrost_backend_connections_opened_total": 7,
        "bifrost_backend_errors_total": 1,
        "bifrost_backend_latency_seconds": 0.012346,
        "bifrost_bytes_sent_total": 120,
        "bifrost_bytes_received_total": 240,
    }
    for name in told:  # the group's would count all twice
        assert list(found[name]) == [of("direct"), of("wg"), of("office")]


def test_states(daemon: Daemon) -> None:
    backends = daemon.plane.policy.backends
    backends["wg"].condition.state = DOWN
    backends["office"].condition.state = SUSPECT
    backends["best"].condition.state = WAITING
    found = scrape(daemon)
    assert found["bifrost_backend_health"] == {
        (("backend", name), ("type", type)): health
        for name, type, health in (
            ("direct", "direct", 1), ("wg", "direct", 0), ("office", "direct", 1),
            ("best", "group", 0),
        )  # fmt: skip
    }
    states = found["bifrost_backend_state"]
    assert len(states) == 16  # what it is not in is listed, too
    assert [labels for labels, value in states.items() if value] == [
        (*of("direct"), ("state", "up")), (*of("wg"), ("state", "down")),
        (*of("office"), ("state", "suspect")), (*of("best"), ("state", "waiting")),
    ]  # fmt: skip


def test_watchers(daemon: Daemon) -> None:
    daemon.do(daemon.hub.seats.take)
    daemon.do(daemon.logs.seats.take)
    daemon.publish(5)
    found = scrape(daemon)
    assert {name: samples[()] for name, samples in found.items() if "_event" in name} == {
        "bifrost_event_clients": 1, "bifrost_event_clients_limit": 10, "bifrost_events_total": 5,
        "bifrost_events_lost_total": 0,
    }  # fmt: skip
    assert {name: samples[()] for name, samples in found.items() if "_log_" in name} == {
        "bifrost_log_streams": 1, "bifrost_log_streams_limit": 10,
        "bifrost_log_entries_lost_total": 0,
    }  # fmt: skip


def test_a_reload_that_was_refused(daemon: Daemon) -> None:
    name = "bifrost_config_last_reload_successful"
    assert scrape(daemon)[name][()] == 1
    daemon.house.rejected = [ConfigFault("routes[0]", "backend", "there is none")]
    found = scrape(daemon)
    assert found[name][()] == 0
    assert found["bifrost_config_last_reload_success_timestamp_seconds"][()] == 1705312800
    assert found["bifrost_config_reloads_total"] == {
        (("outcome", "success"),): 2, (("outcome", "refused"),): 1,
    }  # fmt: skip


def test_names_that_clients_choose_are_not_there(daemon: Daemon) -> None:
    evil = 'x"} 1\nevil{a="'
    daemon.plane.connections[1] = FakeSession(
        daemon.plane, 1, host=f"{evil}:443", client_ip="192.0.2.77", route=evil
    )
    daemon.publish(host=evil)
    daemon.do(daemon.requests.append, finished(host=evil, url=evil))
    before = {name: list(samples) for name, samples in scrape(daemon).items()}
    del daemon.plane.connections[1]
    assert {name: list(samples) for name, samples in scrape(daemon).items()} == before
    assert b"evil" not in daemon.get("/metrics").body


def test_no_series_goes_away_while_a_backend_is_down(daemon: Daemon) -> None:
    before = {name: list(samples) for name, samples in scrape(daemon).items()}
    for backend in daemon.plane.policy.backends.values():
        backend.condition.state = DOWN
    assert {name: list(samples) for name, samples in scrape(daemon).items()} == before


def test_without_proc(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    def listdir(path: str) -> list[str]:
        raise FileNotFoundError(path)

    with monkeypatch.context() as patch:
        patch.setattr(metrics.os, "listdir", listdir)
        assert scrape(daemon)["process_open_fds"][()] == 0


def test_the_page_about_them(daemon: Daemon) -> None:
    """Each metric has its row, with its type and its labels; the sample tells of no other."""
    text = DOCS.read_text("utf-8")
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| ([a-z]+ \| [^|]*?) \|", text, re.MULTILINE))
    sample = re.search(r"```text\n(.*?)```", text, re.DOTALL)
    assert sample
    expected = {}
    names = {}
    for family in parse(daemon.get("/metrics").body.decode()):
        name = family.samples[0].name
        labels = ", ".join(f"`{label}`" for label in family.samples[0].labels) or "-"
        expected[name] = f"{family.type} | {labels}"
        names[name] = (family.type, family.documentation)
    assert rows == expected
    counts = re.search(
        r"There are (\d+) series, and (\d+) more for each backend\n.*\((\d+) for a group\)", text
    )
    assert counts
    base, leaf, inner = map(int, counts.groups())
    assert sum(map(len, scrape(daemon).values())) == base + 3 * leaf + inner
    daemon.plane.policy.backends = {}
    assert sum(map(len, scrape(daemon).values())) == base
    for family in parse(sample[1]):
        assert names[family.samples[0].name] == (family.type, family.documentation)
