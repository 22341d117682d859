"""From a file to settings, and what those settings may cost in memory."""

from __future__ import annotations

import os
from stat import S_ISREG

from .config.convert import convert
from .config.faults import shown
from .config.schema import Settings
from .config.toml import index_lines, parse
from .errors import ConfigError, Fault

# Larger than any configuration a person writes, and small beside a router's memory.
MAX_FILE = 1024 * 1024

# Bytes of things that have no constant of their own: measured on 64 bits, texts at their longest.
_CONNECTION = 3 * 1024  # an idle tunnel: session, two sockets, two halves
_EVENT = 1024  # with its data
_LOG_ENTRY = 2 * 1024  # a message of a thousand characters, or a request's fields
_FINISHED = 1024  # a request; its URL is cut at 256 characters
_ANSWER = 2 * 1024  # a name in the DNS cache with 32 addresses
_PATTERN = 256  # one pattern of a route in the indexes
_FAILURES = 512  # an address that gave ten wrong tokens
_WATCHER = 16 * 1024  # a WebSocket or log stream besides its queue
_QUEUE = 256 * 1024  # what may wait for a WebSocket client


def load(path: str | None) -> Settings:
    """The settings that a file asks for.

    Args:
        path: a TOML file, or None for the built-in defaults

    Raises:
        ConfigError: the file cannot be read, or has faults; all of them
    """
    if path is None:
        return Settings()
    text = _read(path)
    data = parse(text)
    try:
        return convert(data)
    except ConfigError:
        # Only who has faults pays for the lines of everything.
        return convert(data, index_lines(text))


def _read(path: str) -> str:
    try:
        with open(path, "rb", opener=_open) as file:
            if not S_ISREG(os.fstat(file.fileno()).st_mode):
                raise _unusable(f"cannot read {shown(path)}: not a regular file")
            raw = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise _unusable(f"cannot read {shown(path)}: {reason}") from None
    if len(raw) > MAX_FILE:
        raise _unusable(f"is larger than {MAX_FILE // 1024} KiB")
    if raw.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise _unusable("begins with a byte order mark; save it as plain UTF-8", 1)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _unusable(f"is not UTF-8: byte 0x{raw[error.start]:02x} here", line) from None


def _open(path: str, flags: int) -> int:
    """A pipe in place of the file must not hold the reload until somebody writes to it."""
    return os.open(path, flags | os.O_NONBLOCK)


def _unusable(message: str, line: int = 0) -> ConfigError:
    return ConfigError([Fault("", "", message, line)])


def memory_budget(settings: Settings) -> list[tuple[str, int]]:
    """What everything that is bounded may take at most, besides the interpreter's own memory.

    Worst cases that cannot all come true at once: a connection is idle, or sends its head, or
    waits for a slow peer.

    Returns:
        what it is, and bytes, in the order of a connection's life
    """
    # Asked for by one command only; a daemon that starts has all of these anyway.
    from .http import CONNECTIONS
    from .hub import RING
    from .plane import REFUSALS
    from .relay import BUFFER_SIZE, KEPT_LIMIT, PIPE_SIZE, PIPES, STARVED_READ
    from .resolve import MAX_NAMES
    from .rest import BODY_LIMIT
    from .sse import BUFFER
    from .throttle import Throttle
    from .wire.http1 import HEAD_LIMIT, RESPONSE_HEAD_LIMIT

    clients = settings.limits.max_connections
    control, log = settings.control, settings.log
    patterns = sum(
        len(route.domains) + len(route.cidrs) + len(route.ports) + len(route.clients)
        for route in settings.routes
    )
    budget = [
        (f"{clients} connections, idle", clients * _CONNECTION),
        ("request heads being read", (clients + REFUSALS) * HEAD_LIMIT),
        ("response heads being read", clients * RESPONSE_HEAD_LIMIT),
        ("bytes kept for slow peers", KEPT_LIMIT + 2 * clients * STARVED_READ),
        ("copy buffer", BUFFER_SIZE),
        (f"{PIPES} pipes, in the kernel", PIPES * PIPE_SIZE),
        (f"{patterns} patterns of routes", patterns * _PATTERN),
        # IPv4 and IPv6 answers are kept apart.
        (f"{2 * MAX_NAMES} DNS answers", 2 * MAX_NAMES * _ANSWER),
        (f"{RING} events", RING * _EVENT),
        (f"{log.ring} log entries", log.ring * _LOG_ENTRY),
        (f"{log.requests} finished requests", log.requests * _FINISHED),
        (f"{CONNECTIONS} control connections", CONNECTIONS * (HEAD_LIMIT + BODY_LIMIT)),
        (f"{control.max_clients} WebSocket clients", control.max_clients * (_WATCHER + _QUEUE)),
        (
            f"{control.max_subscribers} log streams",
            control.max_subscribers * (_WATCHER + BUFFER * _LOG_ENTRY),
        ),
        ("addresses that gave wrong tokens", Throttle().size * _FAILURES if control.token else 0),
    ]
    return [(what, size) for what, size in budget if size]
