"""The proxies that are measured, and how each is started: logs off, loopback only, limits high."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench import build, machine

WATCHERS = 5
SEATS = 10  # for watchers of events, and as many for followers of the log

# The PATH of a user lacks the directories where Debian keeps daemons.
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])


@dataclass(frozen=True)
class Place:
    """Where one process runs: a directory of its own, its ports, the origin's base port."""

    directory: Path
    port: int
    origin: int

    @property
    def control(self) -> int:
        """Port of the control surface, where there is one."""
        return self.port + 1

    def write(self, name: str, text: str) -> str:
        """Write a configuration file, answer its path."""
        path = self.directory / name
        path.write_text(text)
        return str(path)


@dataclass(frozen=True)
class Launch:
    """How to start a process: argv, variables added to the environment, ports it will open."""

    argv: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    ports: tuple[int, ...] = ()


@dataclass(frozen=True)
class Target:
    """Something to measure.

    Attributes:
        name: its name in the tables
        protocols: what it speaks, of socks5, connect, get; or tcp, a relay with one destination
        launch: how to start it; None: the generator talks to the origin itself
        watchers: how many clients read its event stream meanwhile
        followers: how many read its log
        ours: a bifrost, with a control surface beside the proxy
        program: the command that has to be installed for it
    """

    name: str
    protocols: tuple[str, ...]
    launch: Callable[[Place], Launch] | None
    watchers: int = 0
    followers: int = 0
    ours: bool = False
    program: str = ""

    @property
    def installed(self) -> bool:
        """Whether its program is on this machine."""
        return not self.program or shutil.which(self.program, path=SEARCH_PATH) is not None

    @property
    def tunnel(self) -> str:
        """The protocol that its tunnels are measured with."""
        return next(p for p in ("socks5", "connect", "tcp") if p in self.protocols)


# -- ourselves --

_BOOT = """\
import sys
{before}
sys.path[:0] = {path!r}
from bifrost_lite.__main__ import main
sys.exit(main())
"""
_CONFIG = """\
graceful_period = "1s"
[[listen]]
name = "bench"
address = "127.0.0.1"
port = {port}
[access]
allow_local = true
[limits]
max_connections = 8000
max_connections_per_client = 8000
[control]
listen = ["127.0.0.1:{control}"]
"""


def bifrost_launch(
    place: Place, checkout: Path, interpreter: str, packages: Path, before: str = ""
) -> Launch:
    """Run a checkout as a router does: `python3 -I -S`, its dependencies found by path.

    Args:
        place: where its configuration and its ports are
        checkout: where the package bifrost_lite is
        interpreter: the Python
        packages: where websockets and msgspec are
        before: Python code that runs first
    """
    config = _CONFIG.format(port=place.port, control=place.control)
    code = _BOOT.format(before=before, path=[str(checkout), str(packages)])
    arguments = ["run", "-c", place.write("bifrost.toml", config)]
    argv = [interpreter, "-I", "-S", "-c", code, *arguments]
    return Launch(argv, ports=(place.port, place.control))


def bifrost(name: str, path: Path, interpreter: str, packages: Path) -> Target:
    """A checkout of bifrost-lite."""

    def launch(place: Place) -> Launch:
        return bifrost_launch(place, path, interpreter, packages)

    return Target(name, ("socks5", "connect", "get"), launch, ours=True)


def watched(target: Target) -> Target:
    """The same with clients of its event stream."""
    return replace(target, name=f"{target.name}+{WATCHERS}w", watchers=WATCHERS)


def crowded(target: Target) -> Target:
    """The same with all seats taken, those of its events and those of its log."""
    name = f"{target.name}+{SEATS}w{SEATS}l"
    return replace(target, name=name, watchers=SEATS, followers=SEATS)


# -- peers --

PYTHON_PEERS = ("pproxy", "proxy.py")  # they come from PyPI

_TINYPROXY = """\
Listen 127.0.0.1
Port {port}
MaxClients 20000
Timeout 600
LogLevel Critical
LogFile "/dev/null"
Allow 127.0.0.0/8
DisableViaHeader Yes
"""

_PRIVOXY = """\
listen-address 127.0.0.1:{port}
max-client-connections 20000
listen-backlog 4096
logfile /dev/null
debug 0
toggle 1
socket-timeout 600
"""

_HAPROXY = """\
global
    maxconn {maxconn}
    nbthread 1
defaults
    mode tcp
    timeout connect 10s
    timeout client 1h
    timeout server 1h
    {splice}
listen relay
    bind 127.0.0.1:{port}
    maxconn {maxconn}
    server origin 127.0.0.1:{origin}
"""


def _microsocks(place: Place) -> Launch:
    return Launch(["microsocks", "-i", "127.0.0.1", "-p", str(place.port)])


def _tinyproxy(place: Place) -> Launch:
    path = place.write("tinyproxy.conf", _TINYPROXY.format(port=place.port))
    return Launch(["tinyproxy", "-d", "-c", path])


def _privoxy(place: Place) -> Launch:
    path = place.write("privoxy.conf", _PRIVOXY.format(port=place.port))
    return Launch(["privoxy", "--no-daemon", path])


def _haproxy(splice: bool) -> Callable[[Place], Launch]:
    def launch(place: Place) -> Launch:
        text = _HAPROXY.format(
            port=place.port,
            origin=place.origin,
            maxconn=machine.raise_file_limit() // 4,
            splice="option splice-request\n    option splice-response" if splice else "",
        )
        return Launch(["haproxy", "-db", "-q", "-f", place.write("haproxy.cfg", text)])

    return launch


def _crelay(mode: str) -> Callable[[Place], Launch]:
    def launch(place: Place) -> Launch:
        program = str(build.BUILD / "crelay")
        return Launch([program, str(place.port), str(place.origin), mode])

    return launch


def _pproxy(interpreter: str, packages: Path) -> Callable[[Place], Launch]:
    def launch(place: Place) -> Launch:
        address = f"http+socks5://127.0.0.1:{place.port}"
        argv = [interpreter, "-m", "pproxy", "-l", address]
        return Launch(argv, {"PYTHONPATH": str(packages)})

    return launch


def _proxy_py(interpreter: str, packages: Path) -> Callable[[Place], Launch]:
    def launch(place: Place) -> Launch:
        argv = [interpreter, "-m", "proxy", "--hostname", "127.0.0.1", "--port", str(place.port)]
        limits = ["--num-workers", "1", "--num-acceptors", "1", "--backlog", "4096"]
        quiet = ["--log-level", "ERROR", "--data-dir", str(place.directory)]
        return Launch([*argv, *limits, *quiet], {"PYTHONPATH": str(packages)})

    return launch


def peers(interpreter: str, packages: Path) -> list[Target]:
    """All that bifrost-lite is compared with, installed or not."""
    haproxy, splicing = _haproxy(splice=False), _haproxy(splice=True)
    everything = ("socks5", "connect", "get")
    http = ("connect", "get")
    return [
        Target("straight", ("tcp",), None),
        Target("c-copy", ("tcp",), _crelay("copy")),
        Target("c-splice", ("tcp",), _crelay("splice")),
        Target("haproxy", ("tcp",), haproxy, program="haproxy"),
        Target("haproxy-splice", ("tcp",), splicing, program="haproxy"),
        Target("microsocks", ("socks5",), _microsocks, program="microsocks"),
        Target("tinyproxy", http, _tinyproxy, program="tinyproxy"),
        Target("privoxy", http, _privoxy, program="privoxy"),
        Target("pproxy", everything, _pproxy(interpreter, packages)),
        Target("proxy.py", http, _proxy_py(interpreter, packages)),
    ]
