"""What each import of the idle daemon costs in resident memory: `python -m bench --only imports`.

The daemon is started once with a recorder (`recorder.py`) around the import system. The
figures are pages touched while a module was loaded: who comes first pays for what is shared.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench import build, machine, targets
from bench.measure import SETTLE, Bench
from bench.report import table

SHOWN = 60  # KiB from which a module has a line of its own


@dataclass
class Import:
    """An imported module.

    Attributes:
        name: of the module
        total: KiB that loading it added, with what it imported in turn
        parts: what it imported in turn
    """

    name: str
    total: int
    parts: list[Import] = field(default_factory=list)

    @property
    def own(self) -> int:
        """KiB without what it imported."""
        return self.total - sum(part.total for part in self.parts)


def parse(lines: str) -> list[Import]:
    """The recorder's lines as trees; a module's line comes after those of its parts."""
    waiting: dict[int, list[Import]] = {}
    for line in lines.splitlines():
        depth_text, total, name = line.split(" ", 2)
        depth = int(depth_text)
        module = Import(name, int(total), waiting.pop(depth + 1, []))
        waiting.setdefault(depth, []).append(module)
    return waiting.get(0, [])


def outline(modules: list[Import], depth: int = 0) -> Iterator[tuple[str, int, int]]:
    """Name (indented), total and own KiB of what costs at least `SHOWN`."""
    for module in modules:
        if module.total >= SHOWN:
            yield "  " * depth + module.name, module.total, module.own
            yield from outline(module.parts, depth + 1)


def costs(
    bench: Bench, name: str, checkout: Path, interpreter: str, packages: Path
) -> tuple[list[Import], int]:
    """Start a daemon with the recorder.

    Returns:
        its imports, and the KiB that were resident when it idled
    """
    recorder = str(build.HERE / "recorder.py")
    lines = bench.directory / f"imports-{name}"
    before = (
        f"names = {{}}; exec(compile(open({recorder!r}).read(), {recorder!r}, 'exec'), names)\n"
        f"names['install']({str(lines)!r})"
    )

    def launch(place: targets.Place) -> targets.Launch:
        return targets.bifrost_launch(place, checkout, interpreter, packages, before)

    with bench.start(targets.Target(name, ("socks5",), launch)) as process:
        time.sleep(SETTLE)
        resident = machine.memory(process.pid).rss
    return parse(lines.read_text()), resident


def report(name: str, modules: list[Import], resident: int) -> str:
    """The imports as a table, biggest trees in the order they were loaded."""
    rows = [[label, str(total), str(own)] for label, total, own in outline(modules)]
    rest = resident - sum(module.total for module in modules)
    rows += [
        ["(compiled in this run, configuration, objects, sockets)", str(rest), str(rest)],
        ["(all)", str(resident), ""],
    ]
    return table(f"Imports of {name}, KiB resident", ["module", "with its imports", "own"], rows)
