"""Reading a configuration from a file, and the sum of its bounds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import structs

from bifrost_lite.config.schema import Control, Limits, Listen, Log, Route, Settings
from bifrost_lite.errors import ConfigError, Fault
from bifrost_lite.load import MAX_FILE, load, memory_budget


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
