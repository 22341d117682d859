"""The user's own example clients: reading, substituting, building, and traffic to show them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.curl import curl
from tests.e2e.daemon import Daemon
from tests.e2e.origin import Origin, TcpPeer, body, read_all
from tests.e2e.program import DEADLINE, Program, environment

TESTS = Path(__file__).parent.parent
SEED = TESTS / "data" / "seed"
ESBUILD = TESTS / "node_modules" / ".bin" / "esbuild"
GO = "/usr/bin/go"  # Debian's; another may come first on PATH
TOKEN = "s3cret-T0ken"

EVENTS_URL = "ws://localhost:7082/api/v1/ws"
LOGS_URL = "http://localhost:7383"

# What the page uses and never declares.
EVENT_TYPES = """
type ConnectionEvent = { protocol: string; host: string; backend: string; client_ip: string };
type StatsEvent = {
  active_connections: number; total_connections: number;
  bytes_sent: number; bytes_received: number;
};
type ConfigEvent = { changed_sections: string[]; requires_restart: boolean };
"""
HANDLE_EVENT = "function handleEvent(event) { console.log('event', JSON.stringify(event)); }\n"
RENDER_VIEWER = """
import { createRoot } from 'react-dom/client';
createRoot(document.getElementById('root')!).render(<LogViewer />);
"""


def example(name: str, changes: Mapping[str, str]) -> str:
    """The example `name` with URL, port or token changed.

    Raises:
        AssertionError: something to be changed is not there exactly once
    """
    text = (SEED / name).read_text(encoding="utf-8")
    for old, new in changes.items():
        assert text.count(old) == 1, f"{name} has {old!r} {text.count(old)} times"
        text = text.replace(old, new)
    return text


def events_url(daemon: Daemon, host: str = "localhost") -> str:
    """The event WebSocket as the examples name it."""
    return f"ws://{host}:{daemon.control.port}/api/v1/ws"


def logs_url(daemon: Daemon) -> str:
    """The second control listener, which is the one of the log examples."""
    return f"http://localhost:{daemon.controls[1].port}"


def strip_types(source: str) -> str:
    """TypeScript as JavaScript."""
    return _esbuild(source, "--loader=ts")


def bundle(source: str) -> str:
    """TSX with all it imports as one JavaScript file."""
    return _esbuild(
        source,
        "--loader=tsx",
        "--bundle",
        "--jsx=automatic",
        '--define:process.env.NODE_ENV="production"',
    )


def _esbuild(source: str, *options: str) -> str:
    assert ESBUILD.exists(), "esbuild is missing: npm --prefix tests ci"
    done = subprocess.run(
        [ESBUILD, "--log-level=warning", *options],
        input=source,
        capture_output=True,
        text=True,
        cwd=TESTS,
        timeout=DEADLINE,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


def python_client(folder: Path, changes: Mapping[str, str]) -> Program:
    """The Python example as a program."""
    path = folder / "events.py"
    path.write_text(example("events.py", changes), encoding="utf-8")
    return Program([sys.executable, "-u", path])


def go_client(folder: Path, changes: Mapping[str, str]) -> Program:
    """The Go example as a program, built with what Debian packages."""
    source, binary = folder / "events.go", folder / "events"
    source.write_text(example("events.go", changes), encoding="utf-8")
    assert os.access(GO, os.X_OK), "Go is missing: apt-get install golang-go"
    done = subprocess.run(
        [GO, "build", "-o", binary, source],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=100,  # the first build compiles Go's own library as well
        env=environment(
            GO111MODULE="off",
            GOPATH="/usr/share/gocode",
            GOFLAGS="",
            GOROOT="",
            GOTOOLCHAIN="local",
            GOCACHE=str(TESTS.parent / ".cache" / "go"),
        ),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Program([binary])


class Traffic:
    """Three origins, one for each protocol, so that a client's output tells them apart."""

    def __init__(self) -> None:
        self.http = Origin("127.0.0.1")
        self.connect = Origin("127.0.0.2")
        self.socks = Origin("127.0.0.3")

    def __enter__(self) -> Traffic:
        for origin in self.origins:
            origin.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        for origin in self.origins:
            origin.__exit__()

    @property
    def origins(self) -> tuple[Origin, Origin, Origin]:
        """For HTTP, CONNECT and SOCKS5."""
        return self.http, self.connect, self.socks

    def run(self, daemon: Daemon) -> None:
        """One request in each protocol."""
        proxy = str(daemon.proxy)
        size = 1000
        for options, origin in (
            (["-x", f"http://{proxy}"], self.http),
            (["-x", f"http://{proxy}", "--proxytunnel"], self.connect),
            (["--socks5-hostname", proxy], self.socks),
        ):
            assert curl(*options, "-f", origin.url(f"/bytes/{size}")).body == body(size)


@contextmanager
def held_tunnel(daemon: Daemon) -> Iterator[str]:
    """An open CONNECT tunnel; gives its target."""
    with TcpPeer(lambda connection: connection.sendall(read_all(connection))) as peer:
        target = f"{peer.host}:{peer.port}"
        with socket.create_connection(daemon.proxy, DEADLINE) as tunnel:
            tunnel.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
            assert tunnel.recv(1000).startswith(b"HTTP/1.1 200 ")
            yield target
