"""The page's Python and Go clients against the real daemon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.e2e.daemon import Daemon
from tests.e2e.program import DEADLINE
from tests.seed import examples
from tests.seed.examples import EVENTS_URL, TOKEN, Traffic, events_url

pytestmark = pytest.mark.timeout(150)  # Go's first build compiles its library


@pytest.fixture(scope="module")
def traffic() -> Iterator[Traffic]:
    with Traffic() as traffic:
        yield traffic


def python_changes(daemon: Daemon, token: str | None) -> dict[str, str]:
    changes = {EVENTS_URL: events_url(daemon)}
    return changes if token is None else {**changes, '"your-token"': f'"{token}"'}


def go_changes(daemon: Daemon, token: str | None) -> dict[str, str]:
    """Its `origin` stays the page's: it names no address of this daemon.

    With a token it dials 127.0.0.1, which is not what its origin names.
    """
    if token is None:
        return {EVENTS_URL: events_url(daemon)}
    return {
        f"{EVENTS_URL}?token=your-token": f"{events_url(daemon, '127.0.0.1')}?token={token}"
    }


@pytest.mark.parametrize("token", [None, TOKEN], ids=["open", "token"])
def test_python_prints_what_happens(tmp_path: Path, traffic: Traffic, token: str | None) -> None:
    control = {"stats_interval": "200ms", "token": token or ""}
    with (
        Daemon(control=control) as daemon,
        examples.python_client(tmp_path, python_changes(daemon, token)) as client,
    ):
        output = client.output
        output.expect(r"^Backend direct: healthy$")
        output.expect(r"^Active connections: 0$")
        traffic.run(daemon)
        for origin in traffic.origins:
            output.expect(rf"^New connection: {origin.authority} via direct$")
        with examples.held_tunnel(daemon) as target:
            output.expect(rf"^New connection: {target} via direct$")
            output.expect(r"^Active connections: 1$")
        daemon.stop()
        # 1001 ends its loop in order: no traceback.
        assert client.wait() == 0
        assert "Traceback" not in output.text
        assert len(output.matching(r"^New connection: ")) == 4


@pytest.mark.parametrize("token", [None, TOKEN], ids=["open", "token"])
def test_go_prints_what_happens(tmp_path: Path, traffic: Traffic, token: str | None) -> None:
    control = {"stats_interval": "200ms", "token": token or ""}
    with (
        Daemon(control=control) as daemon,
        examples.go_client(tmp_path, go_changes(daemon, token)) as client,
    ):
        output = client.output
        output.expect(r" Backend direct: healthy=true$")
        output.expect(r" Active connections: 0$")
        traffic.run(daemon)
        for origin in traffic.origins:
            output.expect(rf" New connection: {origin.authority} via direct$")
        with examples.held_tunnel(daemon) as target:
            output.expect(rf" New connection: {target} via direct$")
            output.expect(r" Active connections: 1$")
        daemon.stop()
        assert client.wait() == 0
        assert len(output.matching(r" New connection: ")) == 4
        assert "Error parsing event" not in output.text
        output.expect(r" Error receiving: EOF$")


def test_python_with_a_wrong_token_says_401(tmp_path: Path) -> None:
    with (
        Daemon(control={"token": TOKEN}) as daemon,
        examples.python_client(tmp_path, python_changes(daemon, None)) as client,
    ):
        assert client.wait() == 1
        client.output.expect(r"InvalidStatus: server rejected WebSocket connection: HTTP 401$")


def test_go_with_a_wrong_token_says_that_the_status_is_bad(tmp_path: Path) -> None:
    with (
        Daemon(control={"token": TOKEN}) as daemon,
        examples.go_client(tmp_path, go_changes(daemon, None)) as client,
    ):
        assert client.wait() == 1
        client.output.expect(r"websocket\.Dial ws://localhost:\d+\S+: bad status$")


def test_a_full_house_refuses_before_the_upgrade(tmp_path: Path) -> None:
    with (
        Daemon(control={"max_clients": 1}) as daemon,
        connect(events_url(daemon)) as seated,
        examples.python_client(tmp_path, python_changes(daemon, None)) as client,
    ):
        assert client.wait() == 1
        client.output.expect(r"InvalidStatus: server rejected WebSocket connection: HTTP 503$")
        seated.send("ping")
        assert next(message for message in seated if message == "pong")


@pytest.mark.parametrize("control", [0, 1], ids=["7082", "7383"])
def test_text_ping_gets_text_pong_on_both_listeners(control: int) -> None:
    with (
        Daemon() as daemon,
        connect(f"ws://{daemon.controls[control]}/api/v1/ws") as client,
        connect(f"ws://{daemon.controls[control]}/api/v1/ws") as bystander,
    ):
        client.send("ping")
        assert next(message for message in client if message == "pong")
        bystander.ping().wait(DEADLINE)
        seen = [bystander.recv(timeout=DEADLINE) for _ in range(2)]
        assert "pong" not in seen
        with pytest.raises(TimeoutError):
            bystander.recv(timeout=0)
