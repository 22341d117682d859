"""Datagrams through the real daemon: programs of others as clients, watchers, rules, devices."""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from bifrost_lite.udp import TARGETS
from tests.daemon_kit import watched
from tests.e2e.daemon import Address, Daemon
from tests.e2e.nameserver import NameServer
from tests.e2e.program import DEADLINE, environment
from tests.namespaces import FAR, FOUR, SIX, Crossing
from tests.passwd_kit import hash_of
from tests.plane_kit import Peer
from tests.udp_kit import Point, Rider, exchange, named

UDP = [{"name": "main", "address": "127.0.0.1", "port": 0, "udp": True}]
# A question for the addresses of far.example, for which the worlds of a crossing have some.
QUERY = b"\x12\x34\x01\x00\0\1\0\0\0\0\0\0\x03far\x07example\0\0\1\0\1"
SAMPLE = socket.inet_aton(FOUR)

# Programs that know nothing of the proxy; `ask` of both wants the name of the target.
ASK = """
import socket, sys
for connected in (False, True):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(10)
    if connected:
        sock.connect((sys.argv[1], 53))
        sock.send(bytes.fromhex(sys.argv[2]))
    else:
        sock.sendto(bytes.fromhex(sys.argv[2]), (sys.argv[1], 53))
    data, source = sock.recvfrom(4096)
    print(source[0], data.hex())
"""
PYSOCKS = """
import socks, socket, sys
host, port, user, target = sys.argv[1:]
sock = socks.socksocket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(10)
sock.set_proxy(socks.SOCKS5, host, int(port), True, *(user.split(":") if user else ()))
name, _, number = target.rpartition(":")
for size in (1, 1000, 60000):
    sock.sendto(b"x" * size, (name, int(number)))
    data, source = sock.recvfrom(65536)
    print(*source, len(data))
"""


class Echo:
    """A target that sends everything back; a context manager."""

    def __init__(self) -> None:
        self._program = subprocess.Popen(
            ["socat", "-b65536", "-d", "-d", "UDP4-RECVFROM:0,bind=127.0.0.1,fork", "EXEC:cat"],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
