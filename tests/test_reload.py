"""A new configuration for a running daemon: whole or not at all, one after another."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from bifrost_lite import reload
from bifrost_lite.api.context import Change
from bifrost_lite.dispatch import Dispatcher, EpollDispatcher, PollDispatcher
from bifrost_lite.errors import BindError, ConfigError, Reason
from bifrost_lite.events import ConfigChange, ConfigFault, ConfigRejected, ConnectionFailed
from bifrost_lite.judge import Judge
from bifrost_lite.plane import Carried
from bifrost_lite.session import Session
from tests.daemon_kit import free_port
from tests.e2e.daemon import DEFAULTS, Section, Value
from tests.house_kit import House
from tests.plane_kit import Origin, get, refusal

NOBODY = {"allow_local": True, "deny": ["127.0.0.1/32"]}
NOWHERE = {"routes": [{"name": "few", "domains": ["a.example"], "backend": "direct"}]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def blocked(house: House, then: Callable[[], object]) -> None:
    """Do something while the next reload reads the file."""
    read = house.daemon.reloader._parse
    reading, go_on = threading.Event(), threading.Event()

    def slowly(raw: bytes) -> object:
        house.daemon.reloader._parse = read  # type: ignore[method-assign]
        reading.set()
        go_on.wait()
        return read(raw)

    house.daemon.reloader._parse = slowly  # type: ignore[assignment, method-assign]

    async def act() -> None:
        await asyncio.get_running_loop().run_in_executor(None, reading.wait)
        then()
        go_on.set()

    task = house.loop.create_task(act())
    task.add_done_callback(lambda task: go_on.set())


# By a call.


def test_what_changed_is_in_force_and_told(path: Path) -> None:
    with House(path) as house:
        reloader = house.daemon.reloader
        assert house.reload() == Change([], False, 0, 0, 0, 0)
        change = house.reload(http={"via": True}, control={"listen": ["127.0.0.1:0"]})
        assert change == Change(["http", "control"], True, 0, 0, 0, 0)
        assert reloader.settings.http.via
        assert house.daemon.plane.policy.via
        assert reloader.store is not None
        assert reloader.revision == reloader.store.read()[1]
        changes = [ConfigChange([], False), ConfigChange(["http", "control"], True)]
        assert house.told("config.reload") == changes
        assert "configuration reloaded: nothing changed" in house.logged
        assert "configuration reloaded: http, control" in house.logged


def test_a_list_is_part_of_the_routes(path: Path) -> None:
    names = path.with_name("names")
    names.write_text("a.example\n", "utf-8")
    with House(path, routes=[{"name": "few", "list": "names", "backend": "direct"}]) as house:
        assert house.reload().changed == []
        names.write_text("b.example\n", "utf-8")
        assert house.reload().changed == ["routes"]


@pytest.mark.parametrize(
    ("sections", "faults"),
    [
        ({"log": {"level": "loud"}, "limits": {"max_connections": 0}}, 2),
        ({"routes": [{"name": "few", "list": "not-there", "backend": "direct"}]}, 1),
    ],
)
def test_faults_change_nothing_and_are_told(
    path: Path, sections: dict[str, Section], faults: int
) -> None:
    with House(path) as house:
        reloader, policy = house.daemon.reloader, house.daemon.plane.policy
        prepared, revision = reloader.prepared, reloader.revision
        with pytest.raises(ConfigError) as caught:
            house.reload(http={"via": True}, **sections)
        assert len(caught.value.faults) == faults
        assert (reloader.prepared, reloader.revision) == (prepared, revision)
        assert house.daemon.plane.policy is policy
        told = [ConfigFault(f.section, f.field, f.message) for f in caught.value.faults]
        assert house.told("config.rejected") == [ConfigRejected(told)]
        assert reloader.rejected == told
        assert house.logged[-faults:] == [
            f"configuration rejected: {fault}" for fault in caught.value.faults
        ]


def test_an_address_that_cannot_be_had_changes_nothing(path: Path) -> None:
    with House(path) as house:
        policy, taken = house.daemon.plane.policy, house.origin()
        listen: dict[str, Value] = {
            "name": "taken", "address": "127.0.0.1", "port": taken.port
        }  # fmt: skip
        with pytest.raises(BindError):
            house.reload(listen=[listen], resolver={"timeout": "9s"}, access=NOBODY)
        assert house.daemon.plane.policy is policy
        (rejected,) = house.told("config.rejected")
        assert isinstance(rejected, ConfigRejected)
        assert [(fault.section, fault.field) for fault in rejected.errors] == [("listen", "")]
        assert house.daemon.reloader.rejected == rejected.errors
        house.reload(listen=DEFAULTS["listen"])
        assert house.daemon.reloader.rejected == []


def test_one_after_another(path: Path) -> None:
    """The second reads the file when the first is through."""
    with House(path) as house:
        house.write(http={"via": True})
        blocked(house, lambda: house.write(http={"via": False}))

        async def both() -> list[Change]:
            reload = house.daemon.reloader.reload
            return list(await asyncio.gather(reload(), reload()))

        assert [change.changed for change in house.run(both())] == [["http"], ["http"]]
        assert not house.daemon.plane.policy.via


# By a signal.


def test_a_signal_reloads(path: Path) -> None:
    with House(path) as house:
        house.write(http={"via": True})
        house.daemon.reloader.on_signal()
        house.until(lambda: house.told("config.reload") == [ConfigChange(["http"], False)])


def test_any_number_of_signals_during_a_reload_make_one_more(path: Path) -> None:
    with House(path) as house:
        reloader = house.daemon.reloader

        def storm() -> None:
            for _ in range(50):
                reloader.on_signal()

        blocked(house, storm)
        reloader.on_signal()
        house.until(lambda: reloader._task is None)
        assert len(house.told("config.reload")) == 2


def test_a_signal_for_a_faulty_file_is_not_the_last(path: Path) -> None:
    with House(path) as house:
        house.write(log={"level": "loud"})
        house.daemon.reloader.on_signal()
        house.until(lambda: house.told("config.rejected"))
        house.write(log={"level": "info"})
        house.daemon.reloader.on_signal()
        house.until(lambda: house.told("config.reload"))


def test_a_signal_is_heard_although_the_reload_before_it_broke(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with House(path) as house:
        reloader = house.daemon.reloader

        def broken(raw: bytes) -> object:
            monkeypatch.undo()
            house.loop.call_soon_threadsafe(reloader.on_signal)
            raise RuntimeError("our fault")

        monkeypatch.setattr(reloader, "_parse", broken)
        reloader.on_signal()
        house.until(lambda: reloader._task is None)
        assert "the reload failed" in house.logged
        assert len(house.told("config.reload")) == 1


def test_without_a_file_there_is_nothing_to_reload() -> None:
    with House() as house:
        house.daemon.reloader.on_signal()
        house.until(lambda: house.daemon.reloader._task is None)
        assert "nothing to reload: the daemon was started without a file" in house.logged
        assert house.daemon.reloader.store is None
        assert not house.told("config.reload")


# At the end.


def test_who_stops_does_not_listen_again(path: Path) -> None:
    """SIGTERM comes while a reload reads; its connections have a while to end."""
    with House(path) as house:
        daemon = house.daemon
        house.tunnel(house.origin().authority)

        def stop() -> None:
            daemon.stopping = True
            daemon.plane.listeners[0].close()

        blocked(house, stop)
        listen: dict[str, Value] = {
            "name": "new", "address": "127.0.0.1", "port": free_port()
        }  # fmt: skip
        with pytest.raises(ConfigError, match="stopping"):
            house.reload(listen=[listen])
        assert not daemon.plane.listeners
        assert daemon.plane.connections
        daemon.reloader.on_signal()
        assert daemon.reloader._task is None


def test_the_stop_waits_for_a_reload_under_way(path: Path) -> None:
    with House(path) as house:
        blocked(house, lambda: None)
        house.daemon.reloader.on_signal()
    assert house.daemon.reloader._task is None
    assert not house.told("config.reload")


# What becomes of those that live.


def test_they_are_judged_in_turns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that ends meanwhile is not counted."""
    monkeypatch.setattr(reload, "SLICE", 2)
    with House(path) as house:
        origin = house.origin()
        clients = [house.tunnel(origin.authority) for _ in range(5)]
        plane = house.daemon.plane
        last = max(plane.connections)
        verdicts = 0
        verdict = Judge.verdict

        def judged(self: Judge, session: Carried) -> str:
            nonlocal verdicts
            verdicts += 1
            if verdicts == 1:
                house.loop.call_soon(lambda: plane.connections[last].close(Reason.CLOSED))
            return verdict(self, session)

        monkeypatch.setattr(Judge, "verdict", judged)
        assert house.reload(access=NOBODY) == Change(["access"], False, 4, 0, 4, 0)
        assert verdicts == 4
        for client in clients[:4]:
            client.send(b"still here")


def test_who_is_not_concerned_is_not_judged(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "Judge", None)
    with House(path) as house:
        house.tunnel(house.origin().authority)
        assert house.reload(http={"via": True}) == Change(["http"], False, 1, 0, 0, 0)


def test_a_preview_counts_and_does_nothing(path: Path) -> None:
    with House(path) as house:
        client = house.tunnel(house.origin().authority)
        policy, settings = house.daemon.plane.policy, house.daemon.reloader.settings
        deadlines = len(house.loop.dispatcher.deadlines)
        assert house.preview(access=NOBODY) == Change(["access"], False, 1, 0, 1, 0)
        other = {"backends": [{"name": "other", "type": "interface", "device": "lo"}]}
        moving = {**other, "routes": [{"name": "all", "backend": "other"}]}
        changed = ["backends", "routes"]
        assert house.preview(**moving) == Change(changed, False, 1, 1, 0, 0)
        assert house.preview(**NOWHERE) == Change(["routes"], False, 1, 0, 1, 0)
        assert house.preview(source="uci") == Change(["source"], False, 1, 0, 0, 0)
        with pytest.raises(ConfigError):
            house.preview(log={"level": "loud"})
        assert house.daemon.plane.policy is policy
        assert house.daemon.reloader.settings is settings
        assert len(house.loop.dispatcher.deadlines) == deadlines
        assert not house.told("config.reload") + house.told("config.rejected")
        client.send(b"still here")


def test_what_is_denied_is_closed_only_when_asked_for(path: Path) -> None:
    with House(path) as house:
        client = house.tunnel(house.origin().authority)
        assert house.reload(access=NOBODY) == Change(["access"], False, 1, 0, 1, 0)
        # Nothing has changed since, and still it is to be done.
        assert house.reload(enforce=True) == Change([], False, 0, 0, 1, 1)
        assert client.rest() == b""
        assert "the new rules closed 1 connections" in house.logged


both = pytest.mark.parametrize("selector", [EpollDispatcher, PollDispatcher])


@both
@pytest.mark.parametrize("denial", [{"access": NOBODY}, NOWHERE], ids=["client", "target"])
def test_what_is_being_dialled_is_closed_too(
    path: Path, selector: type[Dispatcher], denial: dict[str, dict[str, object]]
) -> None:
    with House(path, selector) as house:
        full = Origin(backlog=0)
        full.fill()
        client = house.connect()
        client.send(f"CONNECT {full.authority} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        (session,) = house.daemon.plane.sessions
        assert isinstance(session, Session)
        house.until(lambda: session.dialling)
        kept = house.reload(**denial)  # type: ignore[arg-type]
        assert (kept.denied, kept.closed) == (0, 0)
        assert session.dialling
        assert house.reload(enforce=True).closed == 1
        client.gone()
        (failed,) = house.told("connection.failed")
        assert isinstance(failed, ConnectionFailed)
        assert failed.reason == "enforced"
        full.close()


def test_a_dial_that_came_to_its_end_meanwhile_is_not_judged(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "SLICE", 1)
    with House(path) as house:
        full = Origin(backlog=0)
        full.fill()
        client = house.connect()
        client.send(f"CONNECT {full.authority} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        (session,) = house.daemon.plane.sessions
        assert isinstance(session, Session)
        house.until(lambda: session.dialling)
        sleep = asyncio.sleep

        async def end(seconds: float) -> None:
            session.close(Reason.CLIENT_GONE)
            await sleep(seconds)

        house.write(**NOWHERE)  # type: ignore[arg-type]
        monkeypatch.setattr(reload.asyncio, "sleep", end)
        change = house.loop.run_until_complete(house.daemon.reloader.reload(enforce=True))
        monkeypatch.undo()
        assert (change.denied, change.closed) == (0, 0)
        full.close()


@pytest.mark.parametrize("said", [b"", b"GET http://a.ex"], ids=["silent", "reading"])
def test_clients_that_may_not_be_here_are_closed_before_they_ask(path: Path, said: bytes) -> None:
    with House(path) as house:
        client = house.connect().send(said)
        house.turn()
        house.reload(access=NOBODY)
        house.turn()
        house.reload(enforce=True)
        client.gone()


def test_a_kept_client_that_may_not_be_here_is_closed(path: Path) -> None:
    """It has no connection to a target, but could ask for one."""
    with House(path) as house:
        origin = house.origin()
        client = house.connect().send(get(f"http://{origin.authority}/"))
        house.until(lambda: house.daemon.plane.connections)
        origin.accept().send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").close()
        house.until(lambda: not house.daemon.plane.connections)
        client.head()
        assert house.reload(enforce=True, access=NOBODY).closed == 0
        client.ended()


def test_a_client_that_is_being_refused_may_read_that(path: Path) -> None:
    with House(path, access=NOBODY) as house:
        client = house.connect().send(get("http://192.0.2.1/"))
        house.turn()
        house.reload(enforce=True)
        assert refusal(client) == (403, "acl_denied")


@both
def test_a_request_goes_by_the_rules_of_when_it_is_whole(
    path: Path, selector: type[Dispatcher]
) -> None:
    with House(path, selector) as house:
        head = get(f"http://{house.origin().authority}/")
        client = house.connect().send(head[:9])
        house.turn()
        house.reload(**NOWHERE)  # type: ignore[arg-type]
        client.send(head[9:])
        house.until(lambda: house.told("connection.failed"))
        assert refusal(client) == (403, "no_route")


def test_the_guard_is_that_of_the_rules_in_force(path: Path) -> None:
    with House(path) as house:
        guard, loopback = house.daemon.reloader.guard, bytes((127, 0, 0, 1))
        assert guard(loopback, 1) is None
        house.reload(access={"allow_local": False})
        assert guard(loopback, 1) is Reason.TARGET_DENIED
