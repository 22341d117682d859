"""Runs inside the measured interpreter: what each import adds to resident memory.

It uses nothing that an interpreter started with ``-I -S`` has not loaded already.
"""

from __future__ import annotations

import posix
import sys

PAGE = 4  # KiB


def install(path: str) -> None:
    """Write to `path`, from now on, a line after each import: ``depth KiB name``.

    The KiB include what the module imported in turn. The first line has the interpreter's.
    """
    bootstrap = sys.modules["_frozen_importlib"]
    load = bootstrap._find_and_load
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC
    out = posix.open(path, flags, 0o600)
    statm = posix.open("/proc/self/statm", posix.O_RDONLY | posix.O_CLOEXEC)
    depth = 0

    def resident() -> int:
        return int(posix.pread(statm, 64, 0).split()[1]) * PAGE

    def recording(name: str, import_: object) -> object:
        nonlocal depth
        before = resident()
        depth += 1
        try:
            return load(name, import_)
        finally:
            depth -= 1
            posix.write(out, f"{depth} {resident() - before} {name}\n".encode())

    posix.write(out, f"0 {resident()} (interpreter)\n".encode())
    bootstrap._find_and_load = recording  # type: ignore[attr-defined]
