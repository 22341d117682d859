"""The house rules that a program can check: sizes, docstrings, what loads with the daemon."""

from __future__ import annotations

import ast
import io
import os
import re
import signal
import socket
import subprocess
import sys
import time
import tokenize
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import bifrost_lite
from bifrost_lite.errors import Reason
from bifrost_lite.events import TYPES
from bifrost_lite.load import load

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "bifrost_lite").rglob("*.py"))
IDS = [str(path.relative_to(ROOT)) for path in FILES]

FILE_LINES = 450
CODE_LINES = 18000  # of the package, without blank lines, comments and docstrings

# Memory is imports: each of these costs an idle daemon, or is missing on a router.
HEAVY = {
    "argparse", "base64", "dataclasses", "email", "hashlib", "http", "importlib.metadata",
    "inspect", "ipaddress", "json", "pathlib", "secrets", "shutil", "ssl", "tempfile", "urllib",
    "uuid", "websockets",
}  # fmt: skip
# What an idle daemon has not loaded, once it listens. asyncio brings inspect, msgspec brings
# uuid and dataclasses by itself.
ABSENT = HEAVY - {"inspect", "uuid", "dataclasses"} | {"_hashlib", "idna"}


def code_lines(text: str) -> int:
    """Lines that hold code."""
    silent = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in silent:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines.difference_update(range(node.lineno, (node.end_lineno or 0) + 1))
    return len(lines)


def test_package_fits_its_budget() -> None:
    assert sum(code_lines(path.read_text("utf-8")) for path in FILES) <= CODE_LINES


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_file(path: Path) -> None:
    text = path.read_text("utf-8")
    tree = ast.parse(text)
    assert len(text.splitlines()) <= FILE_LINES, "a file that outgrows its name is two files"
    assert ast.get_docstring(tree), "a module says what it is"
    if len(tree.body) > 1:
        assert path.name == "__init__.py" or "from __future__ import annotations\n" in text
    for name, line in run_time_imports(tree.body):
        heavy = [h for h in HEAVY if name == h or name.startswith(f"{h}.")]
        assert not heavy, f"line {line} imports {name} with the module"


def run_time_imports(body: list[ast.stmt]) -> Iterator[tuple[str, int]]:
    """What is imported when the module is, so nothing in functions or under TYPE_CHECKING."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.dump(node.test):
            yield from run_time_imports([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            yield from run_time_imports([*node.body, *node.orelse, *node.finalbody])


def test_every_reason_is_explained() -> None:
    """One row of docs/errors.md for each Reason, with its status and reply."""
    rows = re.findall(
        r"^\| `([a-z0-9_]+)` \| ([0-9-]+) \| (0x[0-9a-f]{2}|-) \| ",
        (ROOT / "docs" / "errors.md").read_text("utf-8"),
        re.MULTILINE,
    )
    expected = {
        (reason.word, str(reason.status or "-"), f"0x{reason.reply:02x}") for reason in Reason
    }
    assert sorted(rows) == sorted(expected)


def test_every_event_is_explained() -> None:
    """A row of docs/events.md for each type, and under its heading one for each field."""
    text = (ROOT / "docs" / "events.md").read_text("utf-8")
    sections = text.split("\n### ")
    for kind, data in TYPES.items():
        assert f"\n| `{kind}` | " in text
        section = next(part for part in sections[1:] if f"`{kind}`" in part.splitlines()[0])
        missing = [name for name in data.__struct_fields__ if f"\n| `{name}` | " not in section]
        assert not missing, kind


def test_the_configuration_of_the_readme_is_one(tmp_path: Path) -> None:
    found = re.search(r"```toml\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert found
    path = tmp_path / "readme.toml"
    path.write_text(found[1], "utf-8")
    assert [route.name for route in load(str(path)).routes] == ["work", "tv", "all"]


def test_version_has_a_changelog() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert f"## {bifrost_lite.__version__}" in changelog


# Started as on a router: no site, no user's environment; msgspec's folder is its argument.
IDLE = """
import signal, sys
sys.path[:0] = sys.argv.pop(1).split(":")
def tell(*_):
    print("modules:", *sorted(sys.modules), flush=True)
    print("absent:", *sorted(k for k, v in sys.modules.items() if v is None), flush=True)
signal.signal(signal.SIGUSR1, tell)
from bifrost_lite.__main__ import main
sys.exit(main())
"""


def test_idle_daemon_has_loaded_nothing_heavy(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = tmp_path / "bifrost.toml"
    config.write_text(
        f'[[listen]]\nport = 0\n[control]\nlisten = ["127.0.0.1:{port}"]\n', encoding="utf-8"
    )
    path = os.pathsep.join([str(ROOT), str(Path(msgspec.__file__).parents[1])])
    command = [sys.executable, "-I", "-S", "-c", IDLE, path, "run", "-c", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as daemon:
        try:
            wait_for_listener(port, daemon)
            daemon.send_signal(signal.SIGUSR1)
            assert daemon.stdout is not None
            loaded = read_names(daemon.stdout, "modules:")
            blocked = read_names(daemon.stdout, "absent:")
        finally:
            daemon.send_signal(signal.SIGINT)
            daemon.wait(10)
    assert "bifrost_lite.daemon" in loaded
    heavy = {
        name for name in loaded - blocked for a in ABSENT if name == a or name.startswith(f"{a}.")
    }
    assert not heavy
    client_side = {"client", "commands", "show"}
    assert not {f"bifrost_lite.{name}" for name in client_side} & loaded


def read_names(stream: Iterator[str], label: str) -> set[str]:
    return set(next(line for line in stream if line.startswith(label)).split()[1:])


def wait_for_listener(port: int, daemon: subprocess.Popen[str]) -> None:
    """Until something listens, seen from outside: a connection would be work for the daemon."""
    deadline = time.monotonic() + 20
    wanted = f"0100007F:{port:04X} 00000000:0000 0A"
    while wanted not in Path("/proc/net/tcp").read_text("ascii"):
        assert daemon.poll() is None, "the daemon ended"
        assert time.monotonic() < deadline, "the daemon does not listen"
        time.sleep(0.01)
