"""Imports go down the floors of the house, never up and never in a ring."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "bifrost_lite"
NAME = PACKAGE.name

# Lowest first; a module may import from its own floor and those below.
FLOORS = {
    "words": "errors target events records sha256",
    "pure": """names wire wire.* config config.* route acl passwd throttle counters condition lists ring pac
        metrics
        mesh mesh.*""",
    "plane": """dispatch way relay resolve query system dial connection session linger tunnel exchange forward plane listener
        users udp flow netlink links wireguard backends backends.*""",
    "control": """control accept hub fanout coordinator mesh_file tunnels websocket sse http rest api api.* health check
        auth""",
    "house": "daemon build reload judge store load log cli options commands client show password openwrt openwrt.* __main__ config.uci.__main__",
}
# What the two lowest floors have no use for: sockets, loops, clocks, files.
IMPURE = re.compile(r"asyncio|selectors|select|threading|subprocess|signal|pathlib|io|shutil")
CLOCKS = {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "sleep"}

FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
MODULES = [name for name in FILES if name != "__init__"]


def floor_of(module: str) -> int | None:
    for number, names in reversed([*enumerate(FLOORS.values())]):
        for pattern in names.split():
            if module == pattern or (pattern.endswith(".*") and module.startswith(pattern[:-1])):
                return number
    return None


def imports(module: str, *, types: bool = True) -> Iterator[tuple[str, set[str], int]]:
    """Absolute module, names taken from it (none for a plain import), line; lazy ones too.

    With `types` also what stands under ``if TYPE_CHECKING``.
    """
    path = FILES[module]
    package = [NAME, *module.split(".")]
    if path.name != "__init__.py":
        package = package[:-1]
    for node in walk(ast.parse(path.read_text("utf-8")), types):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, set(), node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield source, {alias.name for alias in node.names}, node.lineno


def walk(tree: ast.AST, types: bool) -> Iterator[ast.AST]:
    """All nodes; without `types` not those that only a type checker reads."""
    yield tree
    for node in ast.iter_child_nodes(tree):
        if types or not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)):
            yield from walk(node, types)


def own_imports(module: str, *, types: bool = True) -> Iterator[tuple[str, int]]:
    """Modules of the package that `module` imports, by their short names."""
    for source, names, line in imports(module, types=types):
        if source.split(".")[0] != NAME:
            continue
        short = source[len(NAME) + 1 :]
        prefix = f"{short}." if short else ""
        submodules = {prefix + name for name in names if prefix + name in FILES}
        if short and len(submodules) < max(len(names), 1):
            submodules.add(short)  # something of the module itself
        for target in submodules:
            yield target, line


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_a_floor(module: str) -> None:
    assert floor_of(module) is not None, f"{module} stands on no floor of FLOORS"


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    own = floor_of(module)
    names = list(FLOORS)
    for target, line in own_imports(module):
        floor = floor_of(target)
        assert floor is not None, f"{module}:{line} imports {target}, which does not exist"
        assert own is None or floor <= own, (
            f"{module}:{line} ({names[own]}) imports {target} ({names[floor]}), a floor above"
        )


def test_no_rings() -> None:
    """Two modules of a floor may name each other's types; neither runs the other's import."""
    graph = {m: {target for target, _ in own_imports(m, types=False)} for m in MODULES}
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> None:
        assert module not in path, "a ring: " + " -> ".join([*path, module])
        if module not in done:
            for target in sorted(graph.get(module, ())):
                visit(target, [*path, module])
            done.add(module)

    for module in MODULES:
        visit(module, [])


@pytest.mark.parametrize("module", [m for m in MODULES if floor_of(m) in (0, 1)])
def test_lower_floors_are_pure(module: str) -> None:
    for source, names, line in imports(module):
        top = source.split(".")[0]
        assert not IMPURE.fullmatch(top), f"{module}:{line} imports {source}"
        assert top != "time" or (names and not names & CLOCKS), f"{module}:{line} reads a clock"
    for node in ast.walk(ast.parse(FILES[module].read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("open", "print", "input"), f"{module}:{node.lineno}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) != ("socket", "socket"), f"{module}:{node.lineno}"
