"""Backends and routes added to the stored configuration and removed from it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bifrost_lite.config.schema import HttpProxy
from bifrost_lite.errors import BindError
from bifrost_lite.load import load
from tests.control_fixtures import Answer, Daemon, running

TEXT = """\
[[backends]]
name = "office"
type = "http_proxy"
address = "proxy.example:3128"
username = "me"
password = "pass-of-the-proxy"

[[backends]]
name = "best"
type = "group"
members = ["office", "direct"]

[[backends]]
name = "spare"
type = "block"

[[routes]]
name = "work"
domains = [".corp.example"]
backend = "office"
priority = 7

[[routes]]
backend = "best"
enabled = false
"""
PROXY = {"name": "new", "type": "socks5_proxy", "address": "a.example:1080"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "bifrost.toml"
    path.write_text(TEXT)
    return path


@pytest.fixture
def daemon(path: Path) -> Iterator[Daemon]:
    with running(path=str(path)) as daemon:
        yield daemon


def add(daemon: Daemon, kind: str, item: object, *headers: str) -> Answer:
    return daemon.send("POST", f"/api/v1/{kind}", item, *headers)


def remove(daemon: Daemon, kind: str, name: str, *headers: str) -> Answer:
    return daemon.get(f"/api/v1/{kind}/{name}", *headers, method="DELETE")


def names(path: Path, kind: str) -> list[str]:
    return [item.name for item in getattr(load(str(path)), kind)]


def unchanged(daemon: Daemon, path: Path) -> None:
    assert path.read_text() == TEXT
    assert os.listdir(path.parent) == [path.name]
    assert daemon.do(lambda: daemon.hub.ring.last) == 0
    assert daemon.house.reloads == []


def test_add_a_backend(daemon: Daemon, path: Path) -> None:
    answer = add(daemon, "backends", PROXY | {"username": "u", "password": "pass-of-the-new"})
    assert answer.status == 201
    assert answer.headers["location"] == "/api/v1/backends/new"
    body = answer.json
    assert (body["status"], body["backend"]) == ("created", "new")
    assert (body["changed_sections"], body["requires_restart"]) == (["backends"], False)
    assert answer.headers["etag"] == f'"{body["revision"]}"'
    assert "pass-of" not in answer.body.decode()
    assert names(path, "backends") == ["office", "best", "spare", "direct", "new"]
    (office, *_, new) = load(str(path)).backends
    assert isinstance(office, HttpProxy) and office.password == "pass-of-the-proxy"
    assert isinstance(new, HttpProxy) and new.password == "pass-of-the-new"
    types = daemon.do(lambda: [event.type for _, event in daemon.hub.ring.tail(9)])
    assert types == ["config.saved", "config.reload"]


def test_names_that_are_left_out(daemon: Daemon, path: Path) -> None:
    assert add(daemon, "backends", {"type": "block"}).json["backend"] == "block"
    assert add(daemon, "backends", {"type": "block"}).json["error"] == "exists"
    assert add(daemon, "routes", {"backend": "block"}).json["route"] == "route-3"
    assert names(path, "routes") == ["work", "route-2", "route-3"]


@pytest.mark.parametrize(
    ("kind", "item"),
    [
        ("backends", PROXY | {"name": "office"}),
        ("backends", {"name": "direct", "type": "direct"}),
        ("backends", {}),  # a direct one of that name
        ("routes", {"name": "work", "backend": "direct"}),
        ("routes", {"name": "route-2", "backend": "direct"}),
    ],
)
def test_names_that_exist(daemon: Daemon, path: Path, kind: str, item: object) -> None:
    answer = add(daemon, kind, item)
    assert (answer.status, answer.json["error"]) == (409, "exists")
    unchanged(daemon, path)


@pytest.mark.parametrize(
    ("kind", "item", "fields"),
    [
        ("backends", PROXY | {"address": "x", "port": 1}, ["address", "port"]),
        ("backends", {"name": "new", "type": "tor"}, ["type"]),
        ("backends", {"name": ["office"], "type": 1}, ["type"]),
        ("backends", {"name": {}, "type": "block"}, ["name"]),
        ("backends", PROXY | {"password": "***", "username": "x"}, ["password"]),
        ("backends", {"name": "g", "type": "group", "members": ["g", "no"]}, ["members[1]", "members"]),
        ("routes", {"name": "new", "backend": "nope"}, ["backend"]),
        ("routes", {"name": "new", "backend": "direct", "ports": [0], "x": 1}, ["ports[0]", "x"]),
        ("routes", {}, ["backend"]),
    ],
)
def test_faults(daemon: Daemon, path: Path, kind: str, item: object, fields: list[str]) -> None:
    answer = add(daemon, kind, item)
    assert (answer.status, answer.json["error"]) == (400, "config_rejected")
    assert {fault["section"] for fault in answer.json["errors"]} <= {"backends[4]", "routes[2]"}
    assert [fault["field"] for fault in answer.json["errors"]] == fields
    unchanged(daemon, path)


@pytest.mark.parametrize("kind", ["backends", "routes"])
def test_bodies_of_a_wrong_form(daemon: Daemon, path: Path, kind: str) -> None:
    for body in ([], 1, None, "x"):
        answer = add(daemon, kind, body)
        assert (answer.status, answer.json["error"]) == (400, "bad_body")
    assert daemon.get(f"/api/v1/{kind}", method="POST", body=b"{}").status == 415
    assert add(daemon, kind, {"name": "x" * 65536}).status == 413
    unchanged(daemon, path)


def test_remove_a_backend(daemon: Daemon, path: Path) -> None:
    answer = remove(daemon, "backends", "spare")
    assert answer.status == 200
    assert (answer.json["status"], answer.json["backend"]) == ("removed", "spare")
    assert names(path, "backends") == ["office", "best", "direct"]
    answer = remove(daemon, "backends", "spare")
    assert (answer.status, answer.json["error"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("office", "in_use", "is used by group 'best', route 'work'."),
        ("best", "in_use", "is used by route 'route-2'."),  # switched off, but there
        ("direct", "built_in", "always there"),
    ],
)
def test_backends_that_stay(
    daemon: Daemon, path: Path, name: str, error: str, words: str
) -> None:
    answer = remove(daemon, "backends", name)
    assert (answer.status, answer.json["error"]) == (409, error)
    assert words in answer.json["message"]
    unchanged(daemon, path)


def test_many_users_are_not_all_named(path: Path) -> None:
    more = "".join(f'[[routes]]\nname = "r{n}"\nbackend = "spare"\n' for n in range(500))
    path.write_text(TEXT + more)
    with running(path=str(path)) as daemon:
        message = remove(daemon, "backends", "spare").json["message"]
        assert message.endswith("route 'r9' and 490 more.")


def test_add_and_remove_routes(daemon: Daemon, path: Path) -> None:
    route = {"name": "test", "backend": "direct", "domains": ["*"], "priority": 1}
    answer = add(daemon, "routes", route)
    assert (answer.status, answer.json["route"]) == (201, "test")
    assert answer.headers["location"] == "/api/v1/routes/test"
    assert load(str(path)).routes[-1].domains == ("*",)
    # Its path is also that of a call.
    assert remove(daemon, "routes", "test").json["route"] == "test"
    assert names(path, "routes") == ["work", "route-2"]
    assert remove(daemon, "routes", "test").status == 404
    assert remove(daemon, "routes", "work").json["note"].endswith("are lost.")
    assert names(path, "routes") == ["route-2"]
    answer = remove(daemon, "routes", "route-2")
    assert answer.json["note"].endswith("No route is left, so everything goes direct.")
    assert names(path, "routes") == []
    assert remove(daemon, "backends", "best").status == 200


@pytest.mark.parametrize("call", ["POST backends", "POST routes", "DELETE backends/spare",
                                  "DELETE routes/work"])  # fmt: skip
def test_lost_updates(daemon: Daemon, path: Path, call: str) -> None:
    method, name = call.split()
    item = PROXY if "backends" in name else {"name": "new", "backend": "direct"}
    answer = daemon.send(method, f"/api/v1/{name}", item, 'If-Match: "0123456789abcdef"')
    assert (answer.status, answer.json["error"]) == (412, "revision_changed")
    unchanged(daemon, path)
    path.write_text(TEXT + "# by hand\n")
    answer = daemon.send(method, f"/api/v1/{name}", item)
    assert (answer.status, answer.json["error"]) == (409, "config_changed")
    path.write_text(TEXT)
    tag = daemon.get("/api/v1/config").headers["etag"]
    assert daemon.send(method, f"/api/v1/{name}", item, f"If-Match: {tag}").status in (200, 201)


def test_edits_at_once_all_count(daemon: Daemon, path: Path) -> None:
    """Each takes what is stored when its turn comes."""
    statuses: list[int] = []

    def edit(number: int) -> None:
        item = {"name": f"new-{number}", "type": "block"}
        statuses.append(add(daemon, "backends", item).status)

    threads = [threading.Thread(target=edit, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [201] * 8
    assert {f"new-{number}" for number in range(8)} < set(names(path, "backends"))


def test_what_cannot_be_in_force_is_taken_back(daemon: Daemon, path: Path) -> None:
    daemon.house.fault = BindError("the port is taken")
    for answer in (add(daemon, "backends", PROXY), remove(daemon, "routes", "work")):
        assert (answer.status, answer.json["error"]) == (422, "config_rejected")
        assert path.read_text() == TEXT
