"""From files to settings and lists, and what those settings may cost in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from stat import S_ISREG
from typing import IO, TYPE_CHECKING

from .config.convert import convert
from .config.faults import MAX_FAULTS, shown
from .config.schema import Interface, Settings
from .config.toml import index_lines, parse
from .errors import ConfigError, Fault
from .sha256 import sha256

if TYPE_CHECKING:
    from .lists import RouteList

# `parse_config`, or what takes its place for another language.
Parser = Callable[[bytes], Settings]

# Larger than any configuration a person writes, and small beside a router's memory.
MAX_FILE = 1024 * 1024
LISTS = "/etc/bifrost/lists"  # where lists of routes may lie besides beside the configuration
MAX_LIST = 32 * 1024 * 1024  # bytes of one; a million names are 20 MiB

# Bytes of things that have no constant of their own: measured on 64 bits, texts at their longest.
_CONNECTION = 3 * 1024  # an idle tunnel: session, two sockets, two halves
_EVENT = 1024  # with its data
_LOG_ENTRY = 2 * 1024  # a message of a thousand characters, or a request's fields
_FINISHED = 1024  # a request; its URL is cut at 256 characters
_ANSWER = 2 * 1024  # a name in the DNS cache with 32 addresses
_PATTERN = 256  # one pattern of a route in the indexes
_FAILURES = 512  # an address that gave ten wrong tokens
_LOGIN = 512  # credentials that were right, and the answers to them
_ASSOCIATION = 96 * 1024  # of UDP ASSOCIATE: 64 KiB that wait for names, 64 targets refused
_PEER = 1024  # of a mesh, or its lease, and its JSON while it is saved; without what it says
_EDIT = 19 * 1024 * 1024  # a configuration of MAX_FILE being read, judged, written and loaded
_WATCHER = 16 * 1024  # a WebSocket or log stream besides its queue
_QUEUE = 256 * 1024  # what may wait for a WebSocket client


def load(path: str | None) -> Settings:
    """The settings that a file asks for.

    Args:
        path: a TOML file, or None for the built-in defaults

    Raises:
        ConfigError: the file cannot be read, or has faults; all of them
    """
    return Settings() if path is None else parse_config(read_file(path))


def read_file(path: str) -> bytes:
    """The bytes of a configuration.

    Raises:
        ConfigError: it cannot be read, or is too large for one
    """
    try:
        with _regular(path) as file:
            raw = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        raise _unusable(f"cannot read {shown(path)}: {_reason(error)}") from None
    if len(raw) > MAX_FILE:
        raise _unusable(f"is larger than {MAX_FILE // 1024} KiB")
    return raw


def revision(raw: bytes) -> str:
    """The name of a content of the file: 16 hexadecimal digits."""
    return str(sha256(raw).hexdigest()[:16])


def parse_config(raw: bytes) -> Settings:
    """The settings that the bytes of a configuration ask for.

    Raises:
        ConfigError: they have faults; all of them
    """
    if raw.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise _unusable("begins with a byte order mark; save it as plain UTF-8", 1)
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _unusable(f"is not UTF-8: byte 0x{raw[error.start]:02x} here", line) from None
    data = parse(text)
    try:
        return convert(data)
    except ConfigError:
        # Only who has faults pays for the lines of everything.
        return convert(data, index_lines(text))


def _regular(path: str) -> IO[bytes]:
    """Open a regular file, for the caller to close; raises OSError or ValueError."""
    file = open(path, "rb", opener=_open)  # noqa: SIM115
    if not S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError("not a regular file")
    return file


def _reason(error: OSError | ValueError) -> str:
    """Why a file cannot be opened, without its name; a NUL in the path is a ValueError too."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return "not a path" if "null" in str(error) else str(error)


def _open(path: str, flags: int) -> int:
    """A pipe in place of the file must not hold the reload until somebody writes to it."""
    return os.open(path, flags | os.O_NONBLOCK)


def _unusable(message: str, line: int = 0) -> ConfigError:
    return ConfigError([Fault("", "", message, line)])


def load_lists(settings: Settings, path: str | None) -> dict[str, RouteList]:
    """The lists of the routes that take part; routes that name one file share it.

    Args:
        settings: have the routes
        path: of their file, None without one

    Returns:
        by the name of the route; {} where no route has a list

    Raises:
        ConfigError: lists cannot be read, or have faults; all of them, as far as they are told
    """
    wanted = [
        (index, route)
        for index, route in enumerate(settings.routes)
        if route.enabled and route.list
    ]
    if not wanted:
        return {}
    from .lists import MAX_ENTRIES  # who has no list pays for none

    folders = [LISTS] if path is None else [os.path.dirname(os.path.abspath(path)), LISTS]
    read: dict[str, RouteList] = {}
    found: dict[str, RouteList] = {}
    faults: list[Fault] = []
    for index, route in wanted:
        if route.list not in read:
            read[route.list], wrong = _load_list(route.list, folders)
            faults += [Fault(f"routes[{index}]", "list", message) for message in wrong]
            if len(faults) > MAX_FAULTS:
                break
            if sum(map(len, read.values())) > MAX_ENTRIES:
                message = f"expected at most {MAX_ENTRIES} entries in all lists together"
                faults.append(Fault(f"routes[{index}]", "list", message))
                break
        found[route.name] = read[route.list]
    if faults:
        raise ConfigError(faults)
    return found


def _load_list(name: str, folders: list[str]) -> tuple[RouteList, list[str]]:
    """A list, and what is wrong with it."""
    from .lists import RouteList, parse

    nothing = RouteList()
    paths = [os.path.normpath(os.path.join(folder, name)) for folder in folders]
    # A configuration may come by the network: it must not have us open just any file.
    inside = any(
        os.path.dirname(path) == folder or path.startswith(f"{folder}/")
        for path in paths
        for folder in folders
    )
    if ".." in name.split("/") or not inside:
        expected = f"expected a file beside the configuration or in {LISTS}"
        return nothing, [f"got {shown(name)}, {expected}"]
    for path in paths:
        try:
            with _regular(path) as file:
                if os.fstat(file.fileno()).st_size > MAX_LIST:
                    return nothing, [f"{ascii(path)} is larger than {MAX_LIST >> 20} MiB"]
                found, faults = parse(_lines(file))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            return nothing, [f"cannot read {ascii(path)}: {_reason(error)}"]
        return found, [
            f"{ascii(path)} line {line}: {message}" if line else message
            for line, message in faults
        ]
    where = " or ".join(folders).encode("ascii", "backslashreplace").decode()
    return nothing, [f"got {shown(name)}, there is no such file in {where}"]


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """The lines of a list, long ones in parts; one that grows meanwhile has an end too."""
    from .lists import MAX_LINE

    left = MAX_LIST
    while left > 0 and (line := file.readline(MAX_LINE)):
        left -= len(line)
        yield line


def memory_budget(
    settings: Settings, lists: Mapping[str, RouteList] | None = None
) -> list[tuple[str, int]]:
    """What everything that is bounded may take at most, besides the interpreter's own memory.

    Worst cases that cannot all come true at once: a connection is idle, or sends its head, or
    waits for a slow peer.

    Args:
        settings: they
        lists: of their routes, see `load_lists`

    Returns:
        what it is, and bytes, in the order of a connection's life
    """
    # Asked for by one command only; a daemon that starts has all of these anyway.
    from .coordinator import RING_BYTES
    from .http import CONNECTIONS
    from .hub import RING
    from .mesh.registry import NETWORKS, PEERS, ROOM
    from .plane import REFUSALS
    from .relay import BUFFER_SIZE, KEPT_LIMIT, PIPE_SIZE, PIPES, STARVED_READ
    from .resolve import MAX_NAMES
    from .rest import BODY_LIMIT
    from .sse import BUFFER
    from .throttle import Throttle
    from .users import REMEMBERED
    from .wire.http1 import HEAD_LIMIT, RESPONSE_HEAD_LIMIT

    clients = settings.limits.max_connections
    control, log, users = settings.control, settings.log, settings.users
    patterns = sum(
        len(route.domains) + len(route.cidrs) + len(route.ports) + len(route.clients)
        for route in settings.routes
    )
    own = {id(one): one for one in (lists or {}).values()}.values()
    patterns += sum(len(one.patterns) for one in own)
    devices = [item for item in settings.backends if isinstance(item, Interface)]
    answers = 2 * MAX_NAMES * (1 + sum(bool(item.resolver) for item in devices))
    datagrams = any(item.udp for item in settings.listen)
    # What peers say, and as JSON while it is saved; events, and those of them for each watcher.
    meshes = NETWORKS * (PEERS * _PEER + RING_BYTES) + 2 * ROOM + control.max_clients * RING_BYTES
    budget = [
        (f"{clients} connections, idle", clients * _CONNECTION),
        ("request heads being read", (clients + REFUSALS) * HEAD_LIMIT),
        ("response heads being read", clients * RESPONSE_HEAD_LIMIT),
        ("bytes kept for slow peers", KEPT_LIMIT + 2 * clients * STARVED_READ),
        ("copy buffer", BUFFER_SIZE),
        (f"{PIPES} pipes, in the kernel", PIPES * PIPE_SIZE),
        (f"{patterns} patterns of routes", patterns * _PATTERN),
        (f"{sum(map(len, own))} entries of lists", sum(one.size for one in own)),
        # IPv4 and IPv6 answers are kept apart, and each resolver has its own.
        (f"{answers} DNS answers", answers * _ANSWER),
        (f"datagrams of {clients} clients", clients * _ASSOCIATION if datagrams else 0),
        (f"{RING} events", RING * _EVENT),
        (f"{log.ring} log entries", log.ring * _LOG_ENTRY),
        (f"{log.requests} finished requests", log.requests * _FINISHED),
        (f"{CONNECTIONS} control connections", CONNECTIONS * (HEAD_LIMIT + BODY_LIMIT)),
        ("a configuration being replaced", _EDIT),
        (f"{control.max_clients} WebSocket clients", control.max_clients * (_WATCHER + _QUEUE)),
        (
            f"{control.max_subscribers} log streams",
            control.max_subscribers * (_WATCHER + BUFFER * _LOG_ENTRY),
        ),
        ("mesh peers and events", meshes if settings.mesh.enabled else 0),
        ("addresses that gave wrong tokens", Throttle().size * _FAILURES if control.token else 0),
        ("addresses that gave wrong passwords", Throttle().size * _FAILURES if users else 0),
        (f"{REMEMBERED} logins that were right", REMEMBERED * _LOGIN if users else 0),
    ]
    return [(what, size) for what, size in budget if size]
