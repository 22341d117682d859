"""Routes and the commands about them, on the real daemon."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from bifrost_lite import cli, client
from tests.daemon_kit import Refusal, asked, echoing, ended, tunnel, watched
from tests.e2e.daemon import Daemon, Section, configuration

Capture = pytest.CaptureFixture[str]
ROUTES: Section = [
    {"name": "ads", "list": "ads.txt", "backend": "none", "priority": 300},
    {"name": "guests", "clients": ["192.0.2.0/24"], "backend": "none", "priority": 200},
    {"name": "local", "cidrs": ["127.0.0.0/8"], "backend": "best"},
]
BACKENDS: Section = [
    {"name": "none", "type": "block"},
    {"name": "best", "type": "group", "members": ["direct", "none"]},
    {"name": "direct"},
]


@pytest.fixture(autouse=True)
def _nothing_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BIFROST_TOKEN", raising=False)
    monkeypatch.setattr(client, "CONFIG_FILES", ())


class Listed(Daemon):
    """A daemon with a list beside its configuration."""

    def __init__(self) -> None:
        super().__init__(routes=ROUTES, backends=BACKENDS)
        self.list = Path(self.path).with_name("ads.txt")
        self.list.write_text("ads.example\n*.tracker.example\n127.0.0.66\n", encoding="utf-8")


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listed]:
    with Listed() as daemon:
        monkeypatch.setenv("BIFROST_URL", daemon.url(""))
        yield daemon


def say(capsys: Capture, *words: str, status: int = 0) -> list[str]:
    """The lines that a command prints, errors too."""
    capsys.readouterr()
    assert cli.main([*words]) == status
    out, err = capsys.readouterr()
    return [*out.splitlines(), *err.splitlines()]


def test_a_list_routes(daemon: Listed) -> None:
    with echoing() as target:
        assert asked(daemon.proxy, target) == Refusal(200, "")
    for host in ("ads.example", "ADS.example.", "x.y.tracker.example", "127.0.0.66"):
        assert asked(daemon.proxy, f"{host}:443") == Refusal(403, "blocked")
    for host in ("tracker.example", "x.ads.example", "10.0.0.1"):
        assert asked(daemon.proxy, f"{host}:443") == Refusal(403, "no_route")


def test_route(daemon: Listed, capsys: Capture) -> None:
    lines = say(capsys, "route", "127.0.0.1:80")
    assert lines == [
        "127.0.0.1:80 for 127.0.0.1 takes the route local.",
        "Backend: best (group) is up: direct carries it",
        "  1. direct (direct) is up: not checked",
        "  2. none (block) is up: not checked",
        "",
        "ROUTE   BACKEND  MATCHES      WHY",
        "ads     none     -            None of its networks matches.",
        "guests  none     -            It is for other clients.",
        "local   best     127.0.0.0/8  It takes the request.",
    ]
    lines = say(capsys, "route", "X.Tracker.Example", "--port", "80", "--from", "192.168.1.9")
    assert lines[0] == "x.tracker.example:80 for 192.168.1.9 is refused: A rule blocks this target."
    assert lines[-3].split()[:5] == ["ads", "none", "*.tracker.example", "in", "ads.txt"]
    (line,) = say(capsys, "route", "--json", "a.example")
    assert json.loads(line)["reason"] == "no_route"
    assert "xn--" in say(capsys, "route", "b\u00fccher.example", status=1)[0]
    assert "cannot be asked for" in say(capsys, "route", "a\udcff\x1b", status=1)[0]
    assert "IPv4 or IPv6" in say(capsys, "route", "a", "--from", "lan", status=1)[0]


def test_backends(daemon: Listed, capsys: Capture) -> None:
    with echoing() as target:
        asked(daemon.proxy, target)
    head, *rows = (line.split() for line in say(capsys, "backends"))
    assert head[:3] == ["NAME", "TYPE", "STATE"]
    assert [row[:3] for row in rows] == [
        ["none", "block", "up"], ["best", "group", "up"], ["direct", "direct", "up"],
    ]  # fmt: skip
    assert rows[2][4] == "1"  # in total
    (line,) = say(capsys, "backends", "--json")
    assert [backend["name"] for backend in json.loads(line)] == ["none", "best", "direct"]


def test_reload(daemon: Listed, capsys: Capture) -> None:
    assert say(capsys, "reload") == ["Nothing changed.", "Connections: 0 go on, 0 were closed."]
    daemon.list.write_text("other.example\n", encoding="utf-8")
    assert say(capsys, "reload")[0] == "Changed: routes."
    assert asked(daemon.proxy, "ads.example:443") == Refusal(403, "no_route")
    assert asked(daemon.proxy, "other.example:443") == Refusal(403, "blocked")
    daemon.list.write_text("a b\n\n-\n", encoding="utf-8")
    told, first, second = say(capsys, "reload", status=3)
    assert told.startswith("bifrost-lite: ")
    assert first.startswith("routes[0].list: ")
    assert "ads.txt' line 1: expected one name or network a line" in first
    assert "ads.txt' line 3: " in second
    assert asked(daemon.proxy, "other.example:443") == Refusal(403, "blocked")
    (line,) = say(capsys, "reload", "--json", status=3)
    assert [fault["section"] for fault in json.loads(line)["errors"]] == ["routes[0]"] * 2


def test_reload_enforces(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    block = [{"name": "none", "type": "block"}]
    with echoing() as target, watched(backends=block) as running:
        monkeypatch.setenv("BIFROST_URL", running.daemon.url(""))
        with tunnel(running.daemon.proxy, target) as sock:
            running.write(routes=[{"name": "all", "domains": ["*"], "backend": "none"}])
            lines = say(capsys, "reload")
            assert lines[0] == "Changed: routes."
            assert lines[-1] == "1 of them the new rules would refuse; --enforce closes those."
            assert say(capsys, "reload", "--enforce")[-1] == "Connections: 0 go on, 1 were closed."
            assert ended(sock)


def test_a_daemon_does_not_start_with_a_bad_list(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "bifrost.toml"
    path.write_text(configuration({"routes": ROUTES, "backends": BACKENDS}), encoding="utf-8")
    (line,) = say(capsys, "run", "-c", str(path), status=3)
    assert line.startswith(f"{path}: routes[0].list: got 'ads.txt', there is no such file in ")
