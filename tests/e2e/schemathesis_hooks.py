"""Loaded by schemathesis: each of its connections comes from another address of loopback.

It tries wrong tokens on every call, and more than ten a minute from one address are answered
429 rather than the 401 that it looks for.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from itertools import count
from typing import Any

from urllib3.util import connection

_connect = connection.create_connection
_numbers = count(256)


def create_connection(
    address: tuple[str, int],
    timeout: Any = None,
    source_address: tuple[str, int] | None = None,
    socket_options: Sequence[tuple[int, int, int]] | None = None,
) -> socket.socket:
    """A connection from the next address."""
    high, low = divmod(next(_numbers), 256)
    return _connect(address, timeout, (f"127.1.{high % 256}.{low}", 0), socket_options)


connection.create_connection = create_connection
