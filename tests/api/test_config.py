"""The configuration over REST: shown, judged, saved, put in force, taken back."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bifrost_lite.api import edits
from bifrost_lite.api.context import Change
from bifrost_lite.config.schema import HttpProxy, Settings
from bifrost_lite.errors import BindError
from bifrost_lite.events import ConfigChange, ConfigRejected
from bifrost_lite.load import load, revision
from tests.control_fixtures import Answer, Daemon, running

ROOT = Path(__file__).parents[2]
CONFIG = "/api/v1/config"
SECRETS = ("token-of-the-file", "pass-of-the-proxy")
TEXT = f"""\
# A comment that a save loses.
[[backends]]
name = "office"
type = "http_proxy"
address = "proxy.example:3128"
username = "me"
password = "{SECRETS[1]}"

[[routes]]
name = "work"
domains = [".corp.example"]
backend = "office"

[control]
token = "{SECRETS[0]}"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "bifrost.toml"
    path.write_text(TEXT)
    return path


@pytest.fixture
def daemon(path: Path) -> Iterator[Daemon]:
    with running(path=str(path)) as daemon:
        yield daemon


def config(daemon: Daemon) -> dict[str, Any]:
    answer = daemon.get(CONFIG)
    assert answer.status == 200
    found: dict[str, Any] = answer.json["config"]
    return found


def put(daemon: Daemon, document: object, *headers: str, **keys: object) -> Answer:
    return daemon.send("PUT", CONFIG, {"config": document, **keys}, *headers)


def events(daemon: Daemon) -> list[tuple[str, object]]:
    return daemon.do(lambda: [(e.type, e.data) for _, e in daemon.hub.ring.tail(100)])


def editing(daemon: Daemon) -> asyncio.Lock:
    return daemon.control._server._ctx.editing


def unchanged(daemon: Daemon, path: Path, text: str = TEXT) -> None:
    """Nothing was written, told or loaded, and nothing lies about."""
    assert path.read_text() == text
    assert os.listdir(path.parent) == [path.name]
    assert events(daemon) == []
    assert daemon.house.reloads == []


# Shown.


def test_show(daemon: Daemon, path: Path) -> None:
    answer = daemon.get(CONFIG)
    body = answer.json
    assert list(body) == ["config", "revision", "source", "path", "editable"]
    assert body["revision"] == revision(TEXT.encode())
    assert answer.headers["etag"] == f'"{body["revision"]}"'
    assert answer.headers["cache-control"] == "no-store"
    assert (body["source"], body["path"], body["editable"]) == ("file", str(path), True)
    shown = body["config"]
    assert shown["control"]["token"] == "***"
    assert shown["control"]["read_token"] == ""
    assert shown["backends"][0]["password"] == "***"
    assert shown["limits"]["idle_timeout"] == "2h"
    for secret in SECRETS:
        assert secret not in answer.body.decode()


def test_show_where_the_path_is_no_utf_8(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.toml")
    Path(path).write_text(TEXT)
    with running(path=path) as daemon:
        answer = daemon.get(CONFIG)
    assert answer.status == 200
    assert answer.json["path"] == f"{tmp_path}/\\udcff.toml"


def test_show_without_a_file() -> None:
    with running() as daemon:
        answer = daemon.get(CONFIG)
        assert answer.json["path"] is None
        assert (answer.json["revision"], answer.json["editable"]) == ("", False)
        assert "etag" not in answer.headers


def test_meta(daemon: Daemon) -> None:
    sections = daemon.get(f"{CONFIG}/meta").json["sections"]
    assert [item["section"] for item in sections] == list(Settings.__struct_fields__)


# Saved.


def test_what_is_shown_can_be_saved(daemon: Daemon, path: Path) -> None:
    shown = config(daemon)
    before = load(str(path))
    answer = put(daemon, shown, create_backup=True)
    assert answer.status == 200
    assert load(str(path)) == before
    assert path.with_name("bifrost.toml.bak").read_text() == TEXT
    body = answer.json
    assert body == {
        "changed_sections": [], "requires_restart": False,
        "kept": 0, "moved": 0, "denied": 0, "closed": 0,
        "revision": revision(path.read_bytes()), "backup": True,
        "note": "The file was written anew: comments in it are lost.",
    }  # fmt: skip
    assert answer.headers["etag"] == f'"{body["revision"]}"'
    assert daemon.get(CONFIG).json["revision"] == body["revision"]
    assert config(daemon) == shown


def test_save_tells_then_reloads(daemon: Daemon, path: Path) -> None:
    daemon.house.change = Change([], False, 7, 3, 2, 0)
    shown = config(daemon)
    shown["limits"]["max_connections"] = 99
    shown["control"]["max_clients"] = 3
    shown["routes"].append({"name": "rest", "backend": "direct"})
    answer = put(daemon, shown)
    assert answer.status == 200
    body = answer.json
    assert body["changed_sections"] == ["routes", "limits", "control"]
    assert (body["requires_restart"], body["kept"], body["moved"], body["denied"]) == (
        True, 7, 3, 2,
    )  # fmt: skip
    change = ConfigChange(["routes", "limits", "control"], True)
    assert events(daemon) == [("config.saved", change), ("config.reload", change)]
    assert daemon.house.reloads == [False]
    stored = load(str(path))
    assert stored.limits.max_connections == 99
    assert stored.control.token == SECRETS[0]
    assert isinstance(stored.backends[0], HttpProxy)
    assert stored.backends[0].password == SECRETS[1]
    assert os.listdir(path.parent) == [path.name]
    for secret in SECRETS:
        assert secret not in answer.body.decode() + str(events(daemon))
        assert secret not in str(daemon.do(lambda: daemon.logs.ring.tail(100)))


def test_what_is_left_out_gets_its_default(daemon: Daemon, path: Path) -> None:
    assert put(daemon, {"log": {"ring": 5}}).status == 200
    assert path.read_text() == "[log]\nring = 5\n"


def test_all_faults_and_nothing_written(daemon: Daemon, path: Path) -> None:
    answer = put(daemon, {"log": {"ring": 0}, "routes": [{"backend": 1}], "x": 1,
                          "control": {"token": "bad", "read_token": "***"}})  # fmt: skip
    assert (answer.status, answer.json["error"]) == (400, "config_rejected")
    assert list(answer.json) == ["error", "message", "errors"]
    found = [(item["section"], item["field"]) for item in answer.json["errors"]]
    assert set(found) == {
        ("log", "ring"), ("routes[0]", "backend"), ("x", ""), ("control", "token"),
        ("control", "read_token"),
    }  # fmt: skip
    assert len(found) == 5
    assert all(set(item) == {"section", "field", "message"} for item in answer.json["errors"])
    assert "bad" not in str([e for e in answer.json["errors"] if e["section"] == "control"])
    unchanged(daemon, path)


def test_faults_that_only_the_house_finds(
    daemon: Daemon, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a list of routes that is not there: found before anything is written."""

    async def preview(text: bytes) -> Change:
        raise edits.ConfigError([edits.Fault("routes[0]", "list", "is not there", 7)])

    monkeypatch.setattr(daemon.house, "preview", preview)
    answer = put(daemon, {})
    assert answer.status == 400
    # No line: the client never saw the text that has it.
    assert answer.json["errors"] == [
        {"section": "routes[0]", "field": "list", "message": "is not there"}
    ]
    unchanged(daemon, path)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "truncated"),
        (b"{", 400, "truncated"),
        (b"[]", 400, "Expected `object`"),
        (b"{}", 400, "missing required field `config`"),
        (b'{"config": []}', 400, "at `$.config`"),
        (b'{"config": {}, "create_backup": 1}', 400, "at `$.create_backup`"),
        (b'{"config": {}, "createBackup": true, "x": 1}', 400, "'createBackup', 'x'"),
        (b'{"config": ' + b"[" * 40_000, 400, "nested"),
    ],
)
@pytest.mark.parametrize("call", ["PUT ", "POST /validate", "POST /preview"])
def test_bodies_of_a_wrong_form(
    daemon: Daemon, path: Path, call: str, body: bytes, status: int, words: str
) -> None:
    method, _, below = call.partition(" ")
    answer = daemon.get(
        CONFIG + below, "Content-Type: application/json", method=method, body=body
    )
    assert answer.status == status
    assert words in answer.json["message"]
    unchanged(daemon, path)


@pytest.mark.parametrize("depth", [100, 900, 5000])
def test_deep_documents(daemon: Daemon, path: Path, depth: int) -> None:
    """How deep JSON may be depends on the version of Python; no depth makes a fault of ours."""
    deep = b"[" * depth + b"]" * depth
    for body in (b'{"config": {"routes": %b, "x": {"y": %b}}}', b'{"config": {"mesh": %b, "x": %b}}'):
        answer = daemon.get(
            CONFIG, "Content-Type: application/json", method="PUT", body=body % (deep, deep)
        )
        assert answer.status == 400
    unchanged(daemon, path)


def test_large_bodies(daemon: Daemon, path: Path) -> None:
    domains = [f"host-{number}.example" for number in range(20_000)]
    route = {"name": "r", "backend": "direct", "domains": domains}
    assert put(daemon, {"routes": [route]}).status == 200
    assert len(load(str(path)).routes[0].domains) == 20_000
    answer = put(daemon, {"routes": [route | {"domains": domains * 3}]})
    assert (answer.status, answer.json["error"]) == (413, "body_too_large")


# Lost updates.


def test_if_match(daemon: Daemon, path: Path) -> None:
    first = daemon.get(CONFIG).headers["etag"]
    assert put(daemon, {}, f"If-Match: {first}").status == 200
    answer = put(daemon, {"log": {"ring": 7}}, f"If-Match: {first}")
    assert (answer.status, answer.json["error"]) == (412, "revision_changed")
    second = daemon.get(CONFIG).headers["etag"]
    assert path.read_text() == ""
    assert put(daemon, {}, f'If-Match: "other", {second}').status == 200
    assert put(daemon, {}, "If-Match: *").status == 200
    assert put(daemon, {}, f"If-Match: W/{second}").status == 412  # RFC 9110 section 13.1.1


def test_the_file_was_edited_by_hand(daemon: Daemon, path: Path) -> None:
    tag = daemon.get(CONFIG).headers["etag"]
    by_hand = TEXT + "# by hand\n"
    path.write_text(by_hand)
    answer = put(daemon, {})
    assert (answer.status, answer.json["error"]) == (409, "config_changed")
    assert put(daemon, {}, f"If-Match: {tag}").status == 412
    # To know its revision is not to have it loaded.
    fresh = revision(by_hand.encode())
    assert put(daemon, {}, f'If-Match: "{fresh}"').json["error"] == "config_changed"
    unchanged(daemon, path, by_hand)
    assert daemon.send("POST", f"{CONFIG}/reload", {}).status == 200
    assert put(daemon, {}).status == 200


@pytest.mark.parametrize("tagged", [True, False])
def test_of_many_saves_at_once_one_wins(daemon: Daemon, path: Path, tagged: bool) -> None:
    tag = daemon.get(CONFIG).headers["etag"]
    answers: list[tuple[int, int]] = []
    # All are read, and wait for their turn, before the first one is served.
    daemon.do(lambda: daemon.loop.create_task(editing(daemon).acquire()))

    def save(number: int) -> None:
        headers = [f"If-Match: {tag}"] if tagged else []
        answers.append((put(daemon, {"log": {"ring": number}}, *headers).status, number))

    threads = [threading.Thread(target=save, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    lock = editing(daemon)
    daemon.wait(lambda: len(lock._waiters or ()) == 8)
    daemon.do(lock.release)
    for thread in threads:
        thread.join()
    (winner,) = [number for status, number in answers if status == 200]
    assert {status for status, _ in answers} == {200, 412 if tagged else 409}
    assert load(str(path)).log.ring == winner
    assert [type for type, _ in events(daemon)] == ["config.saved", "config.reload"]


def test_nobody_waits_for_ever(
    daemon: Daemon, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edits, "TURN", 0.05)
    lock = editing(daemon)
    daemon.do(lambda: daemon.loop.create_task(lock.acquire()))
    answer = put(daemon, {})
    assert (answer.status, answer.json["error"]) == (503, "busy")
    assert "retry-after" in answer.headers
    daemon.do(lock.release)
    unchanged(daemon, path)
    assert put(daemon, {}).status == 200


# Who may not.


@pytest.mark.parametrize("call", ["PUT config", "POST backends", "POST routes",
                                  "DELETE backends/office", "DELETE routes/work"])  # fmt: skip
def test_managed_by_uci(path: Path, call: str) -> None:
    path.write_text('source = "uci"\n' + TEXT)
    method, name = call.split()
    with running(path=str(path)) as daemon:
        answer = daemon.send(method, f"/api/v1/{name}", {})
        assert (answer.status, answer.json["error"]) == (409, "managed_by_uci")
        assert "LuCI" in answer.json["message"] and "`uci`" in answer.json["message"]
        unchanged(daemon, path, 'source = "uci"\n' + TEXT)
        assert daemon.get(CONFIG).json["editable"] is False
        # Looking and reloading is for all.
        shown = config(daemon)
        assert daemon.send("POST", f"{CONFIG}/validate", {"config": shown}).json["valid"]
        assert daemon.get(f"{CONFIG}/reload", method="POST").status == 200


@pytest.mark.parametrize("call", ["PUT config", "POST config/reload", "POST backends",
                                  "POST routes", "DELETE routes/work"])  # fmt: skip
def test_no_file(call: str) -> None:
    method, name = call.split()
    with running() as daemon:
        answer = daemon.send(method, f"/api/v1/{name}", {})
        assert (answer.status, answer.json["error"]) == (409, "no_file")


def test_the_api_makes_no_file_of_uci(daemon: Daemon, path: Path) -> None:
    """It would lock itself out."""
    assert put(daemon, {"source": "uci"}).status == 400
    unchanged(daemon, path)


def test_who_may_look_may_not_change(path: Path) -> None:
    with running(path=str(path), token="a-token-of-all", read_token="a-token-to-look") as daemon:
        reader = "Authorization: Bearer a-token-to-look"
        assert daemon.get(CONFIG, reader).status == 200
        assert daemon.get(f"{CONFIG}/meta", reader).status == 200
        for method, below in (("PUT", ""), ("POST", "/reload"), ("POST", "/preview")):
            assert daemon.send(method, CONFIG + below, {"config": {}}, reader).status == 403
        unchanged(daemon, path)


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded"])
def test_only_json(daemon: Daemon, path: Path, kind: str) -> None:
    headers = [f"Content-Type: {kind}"] if kind else []
    for method, below in (("PUT", ""), ("POST", "/validate"), ("POST", "/reload")):
        answer = daemon.get(CONFIG + below, *headers, method=method, body=b'{"config": {}}')
        assert (answer.status, answer.json["error"]) == (415, "unsupported_media_type")
    unchanged(daemon, path)
    good = "Content-Type: Application/JSON; charset=utf-8"
    assert daemon.get(CONFIG, good, method="PUT", body=b'{"config": {}}').status == 200


# What cannot be put in force, or on the disk.


def test_a_save_that_cannot_be_in_force_is_taken_back(daemon: Daemon, path: Path) -> None:
    daemon.house.fault = BindError("cannot listen on 127.0.0.1:80: Permission denied")
    answer = put(daemon, {"log": {"ring": 7}}, create_backup=True)
    assert (answer.status, answer.json["error"]) == (422, "config_rejected")
    assert "the file has its content of before" in answer.json["message"]
    assert answer.json["errors"] == [
        {"section": "listen", "field": "",
         "message": "cannot listen on 127.0.0.1:80: Permission denied"}
    ]  # fmt: skip
    assert path.read_text() == TEXT
    assert sorted(os.listdir(path.parent)) == ["bifrost.toml", "bifrost.toml.bak"]
    assert [type for type, _ in events(daemon)] == ["config.saved", "config.rejected"]
    assert daemon.get(CONFIG).json["revision"] == revision(TEXT.encode())
    daemon.house.fault = None
    assert put(daemon, {"log": {"ring": 7}}).status == 200


def test_a_save_that_cannot_be_taken_back_says_so(daemon: Daemon, path: Path) -> None:
    """Somebody else's edit is not overwritten with what was there before."""
    reload = daemon.house.reload

    async def edited(enforce: bool = False) -> Change:
        edit("by = 'hand'\n")
        return await reload(enforce)

    edit = path.write_text
    daemon.house.reload = edited  # type: ignore[method-assign]
    answer = put(daemon, {})
    assert (answer.status, answer.json["error"]) == (422, "config_rejected")
    assert "could not be restored" in answer.json["message"]
    assert "changed by something else" in answer.json["message"]
    assert path.read_text() == "by = 'hand'\n"


def test_the_file_is_gone(daemon: Daemon, path: Path) -> None:
    path.unlink()
    answer = put(daemon, {})
    assert (answer.status, answer.json["error"]) == (409, "file_gone")
    assert daemon.get(CONFIG).status == 200
    answer = daemon.get(f"{CONFIG}/reload", method="POST")
    assert (answer.status, answer.json["error"]) == (422, "config_rejected")
    assert events(daemon)[0][0] == "config.rejected"


def test_another_program_is_saving(daemon: Daemon, path: Path) -> None:
    other = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        answer = put(daemon, {})
        assert (answer.status, answer.json["error"]) == (503, "busy")
        assert "retry-after" in answer.headers
    finally:
        os.close(other)


FULL = """
import sys
from tests.control_fixtures import running
path = sys.argv[1]
with running(path=path) as daemon:
    route = {"name": "r", "backend": "direct", "domains": [f"host-{n}.example" for n in range(900)]}
    for document in ({"routes": [route]}, {"log": {"ring": 7}}):
        answer = daemon.send("PUT", "/api/v1/config", {"config": document})
        print(answer.status, answer.json.get("error"))
        print(len(open(path).read()), len(daemon.house.reloads))
"""


def test_the_disk_is_full(path: Path) -> None:
    unshare = shutil.which("unshare")
    assert unshare, "needs util-linux"
    place, copy = path.parent, f"{path.parent}.toml"
    mount = f"cp {path} {copy}\nmount -t tmpfs -o size=16k tmpfs {place}\ncp {copy} {path}"
    done = subprocess.run(
        [unshare, *(["-m"] if os.geteuid() == 0 else ["-r", "-m"]), "sh", "-ec",
         f'{mount}\nexec "$@"', "sh", sys.executable, "-c", FULL, str(path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "507 disk_full", f"{len(TEXT)} 0", "200 None", "15 1",
    ]  # fmt: skip


# Judged, without a file or a change.


def test_validate(daemon: Daemon, path: Path) -> None:
    answer = daemon.send("POST", f"{CONFIG}/validate", {"config": config(daemon)})
    assert answer.json == {
        "valid": True, "message": "The configuration has no faults.", "errors": [],
    }  # fmt: skip
    answer = daemon.send("POST", f"{CONFIG}/validate", {"config": {"log": {"ring": 0, "x": 1}}})
    assert (answer.status, answer.json["valid"]) == (200, False)
    assert [item["field"] for item in answer.json["errors"]] == ["ring", "x"]
    unchanged(daemon, path)


def test_preview(daemon: Daemon, path: Path) -> None:
    daemon.house.change = Change([], False, 7, 3, 2, 0)
    answer = daemon.send("POST", f"{CONFIG}/preview", {"config": {}})
    assert answer.json == {
        "changed_sections": ["backends", "routes", "control"], "requires_restart": True,
        "kept": 7, "moved": 3, "denied": 2, "closed": 0,
    }  # fmt: skip
    answer = daemon.send("POST", f"{CONFIG}/preview", {"config": {"log": 1}})
    assert (answer.status, answer.json["errors"][0]["section"]) == (400, "log")
    unchanged(daemon, path)


def test_judging_needs_no_file() -> None:
    with running() as daemon:
        for call in ("validate", "preview"):
            assert daemon.send("POST", f"{CONFIG}/{call}", {"config": {}}).status == 200


# Reloaded.


def test_reload(daemon: Daemon, path: Path) -> None:
    path.write_text(f"{TEXT}\n[log]\nring = 7\n")
    daemon.house.change = Change([], False, 7, 3, 2, 2)
    answer = daemon.send("POST", f"{CONFIG}/reload", {"enforce": True})
    assert answer.json == {
        "changed_sections": ["log"], "requires_restart": False,
        "kept": 7, "moved": 3, "denied": 2, "closed": 2,
    }  # fmt: skip
    assert daemon.get(f"{CONFIG}/reload", method="POST").json["changed_sections"] == []
    assert daemon.house.reloads == [True, False]
    assert daemon.get(CONFIG).json["revision"] == revision(path.read_bytes())


def test_reload_of_faults(daemon: Daemon, path: Path) -> None:
    path.write_text("[log]\nring = 0\nlevle = 1\n")
    answer = daemon.send("POST", f"{CONFIG}/reload", {})
    assert (answer.status, answer.json["error"]) == (422, "config_rejected")
    assert [(e["field"], e["line"]) for e in answer.json["errors"]] == [("ring", 2), ("levle", 3)]
    assert isinstance(events(daemon)[0][1], ConfigRejected)
    path.write_text(TEXT)
    daemon.house.fault = BindError("the port is taken")
    answer = daemon.send("POST", f"{CONFIG}/reload", {})
    assert answer.json["errors"] == [
        {"section": "listen", "field": "", "message": "the port is taken"}
    ]
    answer = daemon.send("POST", f"{CONFIG}/reload", {"enforce": "yes", "now": True})
    assert (answer.status, answer.json["error"]) == (400, "bad_body")
    answer = daemon.send("POST", f"{CONFIG}/reload", {"force": True, "now": True})
    assert "'force', 'now'" in answer.json["message"]


def test_no_thread_is_kept(daemon: Daemon) -> None:
    before = threading.active_count()
    put(daemon, json.loads(json.dumps(config(daemon))))
    assert threading.active_count() == before
