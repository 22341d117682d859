"""curl as a client of the proxy."""

from __future__ import annotations

import subprocess
from typing import NamedTuple

from tests.e2e.program import DEADLINE, environment

# The ways through the proxy; "{}" is its address. The names say who resolves the target.
WAYS = {
    "http": ("-x", "http://{}"),
    "tunnel": ("-x", "http://{}", "--proxytunnel"),
    "socks5": ("--socks5", "{}"),
    "socks5-hostname": ("--socks5-hostname", "{}"),
    "socks4": ("--socks4", "{}"),
    "socks4a": ("--socks4a", "{}"),
}


class Got(NamedTuple):
    """How a run of curl ended.

    Attributes:
        code: its exit code, see EXIT CODES in curl(1)
        status: the HTTP status of the last answer, 0 without one
        body: what it downloaded
        trace: what it told about the connection (-v)
    """

    code: int
    status: int
    body: bytes
    trace: str


def curl(*arguments: str, send: bytes = b"", check: bool = True) -> Got:
    """Run curl.

    Args:
        arguments: options and addresses
        send: its standard input
        check: its exit code has to be 0
    """
    done = subprocess.run(
        ["curl", "-q", "-sSv", "--max-time", str(DEADLINE), "-w", "%{stderr}\nstatus %{http_code}"]
        + list(arguments),
        input=send,
        capture_output=True,
        env=environment(),
        timeout=DEADLINE + 5,
    )
    trace, _, status = done.stderr.decode("utf-8", "replace").rpartition("\nstatus ")
    assert not check or done.returncode == 0, trace
    return Got(done.returncode, int(status), done.stdout, trace)


def through(way: str, proxy: object) -> list[str]:
    """The options for one of `WAYS` through the proxy at `proxy`."""
    return [option.format(proxy) for option in WAYS[way]]
