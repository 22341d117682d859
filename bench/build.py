"""Everything that has to be made before a run: C programs, Python packages, bytecode."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUILD = HERE / "build"

PROGRAMS = {
    "lg": ("lg.c", "client.c", "origin.c", "watch.c"),
    "crelay": ("crelay.c",),
}
RUN_TIME = ("websockets>=15", "msgspec", "tomli; python_version < '3.11'")
PEERS = ("pproxy==2.7.9", "proxy.py==2.4.10")


def compile_programs(directory: Path = BUILD) -> None:
    """Compile what is older than its sources.

    Args:
        directory: where the programs go

    Raises:
        subprocess.CalledProcessError: the compiler refused
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name, sources in PROGRAMS.items():
        program = directory / name
        paths = [HERE / source for source in sources]
        newest = max(path.stat().st_mtime for path in [*paths, HERE / "lg.h"])
        if program.exists() and program.stat().st_mtime >= newest:
            continue
        warnings = ["-Wall", "-Wextra", "-Werror"]
        command = ["gcc", "-O2", *warnings, "-o", str(program), *map(str, paths)]
        subprocess.run(command, check=True)


def default_interpreter() -> str:
    """Debian's Python where there is one new enough (the nearest to a router's), else ours."""
    debian = "/usr/bin/python3"
    check = "import sys; sys.exit(sys.version_info < (3, 10))"
    try:
        found = subprocess.run([debian, "-c", check]).returncode == 0
    except OSError:
        found = False
    return debian if found else sys.executable


def packages_of(interpreter: str, name: str) -> Path:
    """Where packages for this interpreter go, e.g. ``build/peers-cpython-311``."""
    command = [interpreter, "-c", "import sys; print(sys.implementation.cache_tag)"]
    tag = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    return BUILD / f"{name}-{tag}"


def install(interpreter: str, directory: Path, packages: tuple[str, ...]) -> None:
    """Put packages from PyPI for `interpreter` into a directory, once.

    Raises:
        subprocess.CalledProcessError: pip failed
    """
    stamp = directory / ".installed"
    wanted = "\n".join(packages)
    if stamp.exists() and stamp.read_text() == wanted:
        return
    pip = [sys.executable, "-m", "pip", "--python", interpreter, "install", "--quiet"]
    options = ["--disable-pip-version-check", "--no-warn-script-location", "--upgrade"]
    root = ["--root-user-action=ignore", "--target", str(directory)]
    subprocess.run([*pip, *options, *root, *packages], check=True)
    stamp.write_text(wanted)


def compile_bytecode(interpreter: str, checkout: Path) -> None:
    """Bytecode of bifrost_lite, as it is shipped to a router."""
    command = [interpreter, "-m", "compileall", "-q", str(checkout / "bifrost_lite")]
    subprocess.run(command, check=True)
