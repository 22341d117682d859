"""Reading a configuration and its lists from files, and the sum of its bounds."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from msgspec import structs

from bifrost_lite import lists
from bifrost_lite import load as module
from bifrost_lite.config.schema import Control, Limits, Listen, Log, Mesh, Route, Settings, User
from bifrost_lite.coordinator import RING_BYTES
from bifrost_lite.errors import ConfigError, Fault
from bifrost_lite.lists import RouteList
from bifrost_lite.load import (
    _PEER,
    MAX_FILE,
    load,
    load_lists,
    memory_budget,
    parse_config,
    read_file,
)
from bifrost_lite.mesh.card import Card
from bifrost_lite.mesh.registry import NETWORKS, PEERS, ROOM, Registry
from bifrost_lite.mesh.state import dump


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "bifrost.toml"


def fault(path: Path | str) -> Fault:
    with pytest.raises(ConfigError) as caught:
        load(str(path))
    (found,) = caught.value.faults
    return found


def test_no_file_is_the_defaults() -> None:
    assert load(None) == Settings()


def test_a_file(file: Path) -> None:
    file.write_text('[[listen]]\nname = "lan"\nport = 0\n')
    assert load(str(file)).listen == (Listen(name="lan", port=0),)


def test_a_link_to_a_file(file: Path, tmp_path: Path) -> None:
    file.write_text("[http]\nvia = true\n")
    link = tmp_path / "link"
    link.symlink_to(file)
    assert load(str(link)).http.via


def test_no_such_file(file: Path) -> None:
    found = fault(file)
    assert found.message == f"cannot read {str(file)[:60]!r}...: No such file or directory" or (
        found.message == f"cannot read {str(file)!r}: No such file or directory"
    )


def test_a_directory(tmp_path: Path) -> None:
    assert fault(tmp_path).message.endswith("Is a directory")


def test_a_path_that_is_none() -> None:
    assert fault("a\0b").message == r"cannot read 'a\x00b': not a path"


def test_a_device() -> None:
    assert fault("/dev/zero").message == "cannot read '/dev/zero': not a regular file"


def test_the_greatest_file(file: Path) -> None:
    file.write_bytes(b"#" * MAX_FILE)
    assert load(str(file)) == Settings()
    file.write_bytes(b"#" * (MAX_FILE + 1))
    assert fault(file).message == "is larger than 1024 KiB"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark(file: Path, encoding: str) -> None:
    file.write_text("[http]\n", encoding=encoding)
    found = fault(file)
    assert found.line == 1
    assert "byte order mark" in found.message


def test_bytes_that_are_not_utf8(file: Path) -> None:
    file.write_bytes("# plain\n\n# für\n".encode("latin-1"))
    found = fault(file)
    assert found.line == 3
    assert found.message == "is not UTF-8: byte 0xfc here"


def test_all_faults_with_their_lines(file: Path) -> None:
    file.write_text('[http]\nvia = 1\n\n[log]\nring = 0\nlevle = "info"\n')
    with pytest.raises(ConfigError) as caught:
        load(str(file))
    assert [found.line for found in caught.value.faults] == [2, 5, 6]
    assert str(caught.value).startswith("line 2: http.via: got 1, ")


def test_a_daemon_on_its_defaults_loads_no_parser() -> None:
    # Only what comes on top of msgspec: that has its own needs, which differ by version.
    code = (
        "import msgspec, sys; before = set(sys.modules);"
        "import bifrost_lite.load as it; it.load(None);"
        "banned = {'tomllib', 'tomli', 'difflib', 'json', 'inspect', 'dataclasses', 'ipaddress',"
        " 'asyncio', 'pathlib', 'hashlib', 'urllib', 'email', 'ssl'};"
        "sys.exit(' '.join(banned & (set(sys.modules) - before)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30, env=path_of_this())


def path_of_this() -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)}


def total(settings: Settings) -> int:
    return sum(size for _, size in memory_budget(settings))


def test_a_budget_names_what_it_counts() -> None:
    budget = memory_budget(Settings())
    assert all(size > 0 for _, size in budget)
    assert len({what for what, _ in budget}) == len(budget)
    assert dict(budget)["256 connections, idle"] == 256 * 3 * 1024


@pytest.mark.parametrize(
    "more",
    [
        Settings(limits=Limits(max_connections=257)),
        Settings(log=Log(ring=201)),
        Settings(log=Log(requests=101)),
        Settings(control=Control(token="your-token")),
        Settings(routes=(Route(domains=("a.example",)),)),
        Settings(routes=(Route(cidrs=("10.0.0.0/8",)),)),
        Settings(users=(User(name="me"),)),
    ],
)
def test_what_costs_more_counts_more(more: Settings) -> None:
    assert total(more) > total(Settings())


@pytest.mark.parametrize(
    "less",
    [
        Settings(control=Control(max_clients=5)),
        Settings(control=Control(max_subscribers=1)),
        structs.replace(Settings(), log=Log(requests=0)),
    ],
)
def test_what_costs_less_counts_less(less: Settings) -> None:
    assert total(less) < total(Settings())


def test_a_pipe_is_no_configuration(tmp_path: Path) -> None:
    """Reading it would wait until somebody writes to it."""
    path = tmp_path / "fifo.toml"
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="not a regular file"):
        load(str(path))


def test_a_configuration_that_came_otherwise() -> None:
    assert parse_config(b"[http]\nvia = true\n").http.via
    assert parse_config(b"") == Settings()
    for raw in (b"[http", b"\xff", b"\xef\xbb\xbf"):
        with pytest.raises(ConfigError):
            parse_config(raw)


def test_bytes_of_a_file(file: Path) -> None:
    file.write_bytes(b"\xff[")  # judged by `parse_config`
    assert read_file(str(file)) == b"\xff["
    with pytest.raises(ConfigError, match="cannot read"):
        read_file(str(file) + "x")


# Lists of routes.


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for /etc/bifrost/lists; the configuration is in another directory."""
    folder = tmp_path / "shared"
    folder.mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(module, "LISTS", str(folder))
    return folder


@pytest.fixture
def here(tmp_path: Path, shared: Path) -> Path:
    return tmp_path / "here"


def settings(*names: str) -> Settings:
    routes = (Route(name=f"r{i}", list=name, backend="b") for i, name in enumerate(names))
    return Settings(routes=tuple(routes))


def read(here: Path, *names: str) -> dict[str, RouteList]:
    return load_lists(settings(*names), str(here / "bifrost.toml"))


def faults(here: Path, *names: str) -> list[tuple[str, str, str]]:
    with pytest.raises(ConfigError) as caught:
        read(here, *names)
    return [(fault.section, fault.field, fault.message) for fault in caught.value.faults]


def message(here: Path, name: str) -> str:
    ((section, field, told),) = faults(here, name)
    assert (section, field) == ("routes[0]", "list")
    return told


def test_without_lists_nothing_is_read() -> None:
    assert load_lists(Settings(), None) == {}
    assert load_lists(settings("", ""), "/nonexistent/bifrost.toml") == {}
    off = Route(name="off", list="none.txt", backend="b", enabled=False)
    assert load_lists(Settings(routes=(off,)), None) == {}


@pytest.mark.parametrize("name", ["ads.txt", "sub/ads.txt", "./ads.txt", "a..b", " ads\u00e4 "])
def test_where_lists_lie(name: str, here: Path, shared: Path) -> None:
    for folder in (shared, here):  # what is beside the configuration comes first
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{folder.name}.example\n")
        (found,) = read(here, name).values()
        assert found.entry(f"{folder.name}.example", None)
        (same,) = read(here, str(path)).values()
        assert same == found


def test_without_a_file_there_is_one_place(here: Path, shared: Path) -> None:
    (shared / "ads.txt").write_text("a.example\n")
    assert len(load_lists(settings("ads.txt"), None)["r0"]) == 1


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../secret", "sub/../../secret", "{here}/../secret", "{here}x/ads", "..", ".",
     "{here}", "{here}/", "/"],
)  # fmt: skip
def test_other_places_are_refused(name: str, here: Path) -> None:
    """Who may change the configuration must not read what the daemon can, fault by fault."""
    (here.parent / "secret").write_text("a b\n")
    told = message(here, name.format(here=here))
    assert "expected a file beside the configuration or in" in told


def test_what_cannot_be_read(here: Path, shared: Path) -> None:
    os.mkfifo(here / "pipe")
    (here / "folder").mkdir()
    assert "there is no such file in" in message(here, "none.txt")
    assert message(Path("/\udcff"), "none.txt").isascii()  # the folder's name is no UTF-8
    assert message(here, "pipe").endswith("not a regular file")
    assert message(here, "folder").endswith("Is a directory")
    (here / "large").touch()
    os.truncate(here / "large", module.MAX_LIST + 1)
    assert message(here, "large").endswith("is larger than 32 MiB")


def test_a_file_that_grows_meanwhile(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "ads.txt").write_text("a.example\nb.example\nc.example\n")
    monkeypatch.setattr(module, "MAX_LIST", 15)
    with open(here / "ads.txt", "rb") as file:
        assert list(module._lines(file)) == [b"a.example\n", b"b.example\n"]


def test_all_faults_of_all_lists(here: Path) -> None:
    (here / "bad.txt").write_text("a.example\nb c\n\n10.0.0.1/8\n")
    (here / "many.txt").write_text("secret word\n" * 30)
    found = faults(here, "none.txt", "bad.txt", "bad.txt", "many.txt")
    place = ascii(str(here / "bad.txt"))
    assert [section for section, _, _ in found] == (
        ["routes[0]"] + ["routes[1]"] * 2 + ["routes[3]"] * 21
    )
    assert found[1][2] == f"{place} line 2: expected one name or network a line"
    assert found[2][2].startswith(f"{place} line 4: ")
    assert found[-1][2] == "and 10 more faults"
    assert "secret" not in str(found)


def test_routes_share_a_list(here: Path) -> None:
    (here / "ads.txt").write_text("a.example\n")
    found = read(here, "ads.txt", "", "ads.txt")
    assert found["r0"] is found["r2"]
    assert [*found] == ["r0", "r2"]


def test_all_lists_together_are_bounded(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "MAX_ENTRIES", 3)
    for name in "abc":
        (here / name).write_text("a.example\nb.example\n")
    assert len(read(here, "a", "a")) == 2
    told = [("routes[1]", "list", "expected at most 3 entries in all lists together")]
    assert faults(here, "a", "b", "c") == told


def test_a_changed_list_can_be_told(here: Path) -> None:
    path = here / "ads.txt"
    path.write_text("a.example\nb.example\n")
    before = read(here, "ads.txt")
    path.write_text("# sorted\nB.example\na.example\n")
    assert read(here, "ads.txt") == before
    path.write_text("a.example\n")
    assert read(here, "ads.txt") != before


def test_a_budget_has_room_for_a_full_mesh() -> None:
    """What all peers say is there twice at most, and no watcher has a copy of its own."""
    few, many = (Settings(control=Control(max_clients=count)) for count in (1, 10))
    rows = [dict(memory_budget(settings))["mesh peers and events"] for settings in (few, many)]
    assert rows[1] - rows[0] == 9 * RING_BYTES
    assert 2 * ROOM + NETWORKS * RING_BYTES < rows[0] < rows[1] < 10 << 20
    off = Settings(mesh=Mesh(enabled=False))
    assert "mesh peers and events" not in dict(memory_budget(off))


def test_a_record_takes_no_more_than_the_budget_says() -> None:
    """With its address, its token, its heartbeats, and as JSON."""
    mesh = Registry(90.0, lambda: "x" * 48, lambda: None)
    network = mesh.create("a", "", "10.0.0.0/8", 0.0, lambda *_: None)
    tracemalloc.start()
    try:
        for number in range(PEERS):
            card = Card(f"{number:064}")
            mesh.register(network, card, float(number), "", True)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held + len(dump(mesh, ())) <= PEERS * _PEER


def test_a_budget_counts_lists_once(here: Path) -> None:
    (here / "ads.txt").write_text("a.example\n.b.example\nc*.example\n")
    asked = settings("ads.txt", "ads.txt")
    budget = dict(memory_budget(asked, read(here, "ads.txt", "ads.txt")))
    assert budget["3 entries of lists"] == 3 * 20
    assert budget["1 patterns of routes"] == 256


def test_a_daemon_without_lists_loads_no_code_for_them() -> None:
    code = (
        "import sys, bifrost_lite.load as it; from bifrost_lite.route import Router;"
        "it.load_lists(it.load(None), None); Router(());"
        "sys.exit('bifrost_lite.lists' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30, env=path_of_this())
