"""Real proxies on loopback, which the daemon goes through as its upstreams.

Each listens on a free port of 127.0.0.1 and is a context manager that answers its address.
With `login` they want `USER` and `PASSWORD`. All but microsocks, which has no rules, refuse
tunnels to `FORBIDDEN`.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.e2e.daemon import Address
from tests.e2e.program import DEADLINE, Program, environment

USER, PASSWORD = "me", "secret"
FORBIDDEN = "127.0.0.2"  # an address that the rules of the upstreams do not allow


class Server(Program):
    """A server in a process group of its own, of which nobody is left at the end.

    Args:
        command: the program and its arguments, with {port} and {folder} to be filled in
        files: text by name, written to that folder with the same filled in
        ends_by: what ends it; what does not end is killed

    Attributes:
        address: where it listens
    """

    def __init__(
        self, *command: str, files: dict[str, str] | None = None, ends_by: int = signal.SIGTERM
    ) -> None:
        self.address = Address("127.0.0.1", free_port())
        self._ends_by = ends_by
        self._folder = tempfile.TemporaryDirectory(prefix="bifrost-upstream-")
        folder = Path(self._folder.name)
        folder.chmod(0o755)  # squid reads its files as another user than root

        def fill(text: str) -> str:
            return text.replace("{port}", str(self.address.port)).replace("{folder}", str(folder))

        for name, text in (files or {}).items():
            (folder / name).write_text(fill(text), "utf-8")
        # The peers live in sbin, which is not on every user's PATH.
        path = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"
        super().__init__(
            ["setsid", *map(fill, command)], environment(PATH=path, TMPDIR=str(folder)), folder
        )

    def __enter__(self) -> Server:
        super().__enter__()
        until = time.monotonic() + DEADLINE
        try:
            while not self._listens():
                assert self.process.poll() is None, f"it ended:\n{self.output.text}"
                assert time.monotonic() < until, f"it does not listen:\n{self.output.text}"
                time.sleep(0.01)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _listens(self) -> bool:
        """As the kernel tells it: a connection would be work for the server."""
        wanted = f"0100007F:{self.address.port:04X} 00000000:0000 0A"
        return wanted in Path("/proc/net/tcp").read_text("ascii")

    def __exit__(self, *exc: object) -> None:
        try:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, self._ends_by)
            with suppress(AssertionError):
                self.wait(2)
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        finally:
            super().__exit__(*exc)
            self._folder.cleanup()


def free_port() -> int:
    """A port of loopback where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def microsocks(login: bool = False) -> Iterator[Address]:
    """microsocks: SOCKS5, names by its own resolver, no half-close."""
    credentials = ("-u", USER, "-P", PASSWORD) if login else ()
    with Server("microsocks", "-i", "127.0.0.1", "-p", "{port}", *credentials) as server:
        yield server.address


@contextmanager
def danted(login: bool = False) -> Iterator[Address]:
    """Dante's SOCKS5 server. It knows users of the machine only, so it refuses all `login`."""
    user = getpass.getuser()
    config = f"""
errorlog: stderr
logoutput: {{folder}}/log
internal: 127.0.0.1 port = {{port}}
external: lo
socksmethod: {"username" if login else "none"}
clientmethod: none
user.privileged: {user}
user.unprivileged: {user}
client pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 }}
socks block {{ from: 127.0.0.0/8 to: {FORBIDDEN}/32 }}
socks pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 }}
"""
    command = ("danted", "-f", "danted.conf", "-p", "{folder}/pid", "-N", "1")
    with Server(*command, files={"danted.conf": config}) as server:
        yield server.address


@contextmanager
def tinyproxy(login: bool = False) -> Iterator[Address]:
    """tinyproxy: HTTP/1.0 answers, 401 for wrong credentials."""
    config = f"""
Port {{port}}
Listen 127.0.0.1
Timeout 60
MaxClients 50
LogLevel Error
Filter "{{folder}}/filter"
{f"BasicAuth {USER} {PASSWORD}" if login else ""}
"""
    files = {"tinyproxy.conf": config, "filter": f"^{FORBIDDEN.replace('.', '[.]')}$\n"}
    # It lets a SIGTERM wait until somebody connects.
    with Server(
        "tinyproxy", "-d", "-c", "tinyproxy.conf", files=files, ends_by=signal.SIGKILL
    ) as server:
        yield server.address


@contextmanager
def squid(login: bool = False) -> Iterator[Address]:
    """squid: pages with its refusals, Connection and Via fields of its own."""
    config = f"""
http_port 127.0.0.1:{{port}}
visible_hostname upstream.test
pid_filename none
access_log none
cache_log {{folder}}/log
cache_store_log none
cache deny all
pinger_enable off
server_persistent_connections off
coredump_dir {{folder}}
shutdown_lifetime 0 seconds
auth_param basic program /usr/lib/squid/basic_ncsa_auth {{folder}}/passwd
auth_param basic children 1
acl known proxy_auth REQUIRED
acl forbidden dst {FORBIDDEN}
http_access deny forbidden
http_access allow {"known" if login else "all"}
http_access deny all
"""
    digest = hashlib.md5(PASSWORD.encode()).hexdigest()
    files = {"squid.conf": config, "passwd": f"{USER}:{digest}\n"}
    command = ("squid", "-N", "-n", "bifrost{port}", "-f", "squid.conf")
    server = Server(*command, files=files, ends_by=signal.SIGKILL)  # by itself it takes seconds
    try:
        with server:
            yield server.address
    finally:
        for shared in Path("/dev/shm").glob(f"bifrost{server.address.port}-*"):
            shared.unlink()


@contextmanager
def haproxy(login: bool = False) -> Iterator[Address]:
    """haproxy, which is no proxy by itself: it checks who asks, and has a tinyproxy behind."""
    check = "http-request auth realm up unless { http_auth(people) }" if login else ""
    with tinyproxy() as behind:
        config = f"""
global
    maxconn 100
defaults
    mode http
    option http-use-proxy-header
    timeout connect 10s
    timeout client 60s
    timeout server 60s
    timeout tunnel 60s
userlist people
    user {USER} insecure-password {PASSWORD}
frontend front
    bind 127.0.0.1:{{port}}
    {check}
    http-request deny deny_status 403 if {{ url_beg {FORBIDDEN}: }}
    default_backend back
backend back
    server tinyproxy {behind}
"""
        with Server("haproxy", "-db", "-f", "haproxy.cfg", files={"haproxy.cfg": config}) as server:
            yield server.address


# By name: what starts it, and the type of the backend for it.
KINDS = {
    "microsocks": (microsocks, "socks5_proxy"),
    "danted": (danted, "socks5_proxy"),
    "tinyproxy": (tinyproxy, "http_proxy"),
    "squid": (squid, "http_proxy"),
    "haproxy": (haproxy, "http_proxy"),
}
