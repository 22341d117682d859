"""The client commands: ask a running daemon, print what it says."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import TypeVar

import msgspec

from . import show
from .client import ClientError, Daemon, NotRunning, Rejected, find, quote
from .options import BAD_CONFIG, FAILED, NOT_RUNNING, OK, Args, UsageError, number
from .records import LEVELS

RELOADING = 60.0  # seconds for a reload: another edit first, and a large file on a small router
TESTING = 20.0  # seconds for the test of a backend, which itself has 15

T = TypeVar("T")

_decode = msgspec.json.Decoder(dict[str, object]).decode
_decode_list = msgspec.json.Decoder(list[object]).decode


def run(name: str, args: Args) -> int:
    """Run the client command `name`; answers the exit status."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal without Unicode shows escapes; a pipe gets each line as it comes.
        stream.reconfigure(errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    options = args.options
    try:
        daemon = find(options.get("url", ""), options.get("token", ""), dict(os.environ))
        return _COMMANDS[name](daemon, args) or OK
    except Rejected as error:
        _print_rejected(error, args)
        return BAD_CONFIG
    except ClientError as error:
        print(f"bifrost-lite: {show.printable(str(error))}", file=sys.stderr)
        return NOT_RUNNING if isinstance(error, NotRunning) else FAILED


def _read(text: bytes) -> show.Object:
    return _decoded(text, _decode)


def _decoded(text: bytes, decode: Callable[[bytes], T]) -> T:
    try:
        return decode(text)
    except (msgspec.DecodeError, RecursionError):
        raise ClientError("the daemon's answer is not the JSON that was asked for") from None


def _print_rejected(error: Rejected, args: Args) -> None:
    if "json" in args.options:
        faults = [fault._asdict() for fault in error.faults]
        print(show.json_text({"message": str(error), "errors": faults}))
        return
    print(f"bifrost-lite: {show.printable(str(error))}", file=sys.stderr)
    for fault in error.faults:
        print(show.printable(str(fault)), file=sys.stderr)


def _text(word: str) -> str:
    """A word of the command line that need not be text, as what JSON can hold."""
    return word.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _told(args: Args, answer: object, text: Callable[[], str]) -> None:
    """Print an answer: as JSON where that is asked for, else as `text`."""
    try:
        line = show.json_text(answer) if "json" in args.options else text()
    except (OverflowError, RecursionError):  # no daemon of ours says that
        raise ClientError("the daemon's answer is too large or too deep to be shown") from None
    print(line)


def _list(args: Args, answer: object, rows: object, columns: dict[str, str], spare: str) -> None:
    """Print an answer as JSON, or its `rows` as a table, see `show.listing`."""
    width = os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else 0
    _told(args, answer, lambda: show.listing(rows, columns, spare, width))


def _status(daemon: Daemon, args: Args) -> None:
    answer = _read(daemon.call("GET", "/status"))
    answer["stats"] = _read(daemon.call("GET", "/stats"))
    _told(args, answer, lambda: show.status(answer))


def _connections(daemon: Daemon, args: Args) -> None:
    client = args.options.get("client", "")
    if "by-client" not in args.options:
        answer = _read(daemon.call("GET", "/connections", {"client": client}))
        columns = {
            "ID": "id", "CLIENT": "client_ip", "PROTOCOL": "protocol", "HOST": "host",
            "BACKEND": "backend", "ROUTE": "route", "AGE": "age", "SENT": "bytes_sent",
            "RECEIVED": "bytes_received",
        }  # fmt: skip
        spare = "ROUTE PROTOCOL BACKEND AGE SENT"
        _list(args, answer, answer.get("connections"), columns, spare)
        return
    if client:
        raise UsageError("--by-client and --client exclude each other")
    answer = _read(daemon.call("GET", "/connections/clients"))
    columns = {
        "CLIENT": "client_ip", "OPEN": "connections", "SENT": "bytes_sent",
        "RECEIVED": "bytes_received", "SINCE": "first_seen",
    }  # fmt: skip
    _list(args, answer, answer.get("clients"), columns, "SINCE")


def _close(daemon: Daemon, args: Args) -> None:
    client = args.options.get("client", "")
    if bool(client) == bool(args.words):
        raise UsageError("close takes ID, or --client IP and none; see bifrost-lite close --help")
    if client:
        text = daemon.call("DELETE", "/connections", {"client": client})
    else:
        text = daemon.call("DELETE", f"/connections/{quote(args.words[0])}")
    answer = _read(text) if text else {}
    count = show.value(answer.get("closed"))
    what = f"connections of {client}: {count}" if client else args.words[0]
    _told(args, answer, lambda: f"closed {show.printable(what)}")


def _requests(daemon: Daemon, args: Args) -> None:
    count = number(args, "limit", 1, 10000)
    if "clear" in args.options:
        if count is not None:
            raise UsageError("--clear and --limit exclude each other")
        answer = _read(daemon.call("DELETE", "/requests"))
        _told(args, answer, lambda: f"forgot {show.value(answer.get('cleared'))} requests")
        return
    query = {"limit": "" if count is None else str(count)}
    answer = _read(daemon.call("GET", "/requests", query))
    columns = {
        "TIME": "timestamp", "CLIENT": "client_ip", "METHOD": "method", "URL": "url",
        "STATUS": "status_code", "BACKEND": "backend", "TOOK": "duration_ms",
        "SENT": "bytes_sent", "RECEIVED": "bytes_received", "ERROR": "error",
    }  # fmt: skip
    rows = show.objects(answer.get("requests"))[::-1]  # the newest is where one looks
    _list(args, answer, rows, columns, "SENT BACKEND TIME TOOK RECEIVED CLIENT")
    if answer.get("enabled") is False:
        print("bifrost-lite: the daemon keeps none (log.requests = 0)", file=sys.stderr)


def _backends(daemon: Daemon, args: Args) -> None:
    answer = _decoded(daemon.call("GET", "/backends"), _decode_list)
    rows = []
    for row in show.objects(answer):
        stats = row.get("stats")
        rows.append({**stats, **row} if isinstance(stats, dict) else row)
        if not rows[-1].get("latency_ms"):
            rows[-1]["latency_ms"] = None  # nothing was dialled
    columns = {
        "NAME": "name", "TYPE": "type", "STATE": "state", "OPEN": "active_connections",
        "TOTAL": "total_connections", "SENT": "bytes_sent", "RECEIVED": "bytes_received",
        "ERRORS": "errors", "LATENCY": "latency_ms", "REASON": "reason",
    }  # fmt: skip
    _list(args, answer, rows, columns, "TOTAL SENT RECEIVED TYPE LATENCY ERRORS")


def _test(daemon: Daemon, args: Args) -> int:
    name, *target = args.words
    body = {"target": _text(target[0])} if target else {}
    path = f"/backends/{quote(name)}/test"
    answer = _read(daemon.call("POST", path, body=body, patience=TESTING))
    _told(args, answer, lambda: show.trial(answer))
    return OK if answer.get("ok") is True else FAILED


def _mesh(daemon: Daemon, args: Args) -> None:
    path = f"/mesh/networks/{quote(args.words[0])}" if args.words else ""
    if "follow" in args.options:
        if not path:
            raise UsageError("--follow needs NETWORK; see bifrost-lite mesh --help")
        _print(daemon, daemon.events({}, f"{path}/events"), args, show.event)
    elif path:
        answer = _read(daemon.call("GET", f"{path}/peers"))
        rows = [
            {**row, "endpoints": show.endpoints(row.get("endpoints"))}
            for row in show.objects(answer.get("peers"))
        ]
        columns = {
            "ID": "id", "NAME": "name", "ADDRESS": "virtual_ip", "ENDPOINTS": "endpoints",
            "METADATA": "metadata", "KEY": "public_key",
        }  # fmt: skip
        _list(args, answer, rows, columns, "KEY METADATA NAME")
    else:
        answer = _read(daemon.call("GET", "/mesh/networks"))
        columns = {
            "ID": "id", "NAME": "name", "CIDR": "cidr", "PEERS": "peer_count",
            "SOURCE": "source", "CREATED": "created",
        }  # fmt: skip
        _list(args, answer, answer.get("networks"), columns, "CREATED SOURCE NAME")


def _route(daemon: Daemon, args: Args) -> None:
    asked: dict[str, object] = {"host": _text(args.words[0])}
    port = number(args, "port", 1, 65535)
    if port is not None:
        asked["port"] = port
    if "from" in args.options:
        asked["client_ip"] = args.options["from"].encode("ascii", "replace").decode()
    answer = _read(daemon.call("POST", "/routes/test", body=asked))
    _told(args, answer, lambda: show.route(answer))


def _reload(daemon: Daemon, args: Args) -> None:
    asked = {"enforce": "enforce" in args.options}
    answer = _read(daemon.call("POST", "/config/reload", body=asked, patience=RELOADING))
    _told(args, answer, lambda: show.change(answer))


def _events(daemon: Daemon, args: Args) -> None:
    since = number(args, "since", 0, 2**53)
    query = {name: args.options.get(name, "") for name in ("types", "client", "boot")}
    query["since"] = "" if since is None else str(since)
    _print(daemon, daemon.events(query), args, show.event)


def _logs(daemon: Daemon, args: Args) -> None:
    tail = number(args, "tail", 1, 10000)
    level = args.options.get("level", "")
    if level not in ("", *LEVELS):
        raise UsageError(f"--level takes one of {', '.join(LEVELS)}, got {ascii(level)}")
    count = "" if tail is None else str(tail)
    if "no-follow" not in args.options:
        _print(daemon, daemon.logs({"level": level, "tail": count}), args, show.entry)
        return
    answer = _read(daemon.call("GET", "/logs", {"level": level, "limit": count}))
    for entry in reversed(show.objects(answer.get("entries"))):
        _told(args, entry, partial(show.entry, entry))


def _print(
    daemon: Daemon,
    messages: Iterable[bytes],
    args: Args,
    line: Callable[[show.Object], str],
) -> None:
    """Each message as a line, until Ctrl-C; the greeting of the log stream is none."""
    with suppress(OSError):  # a stream without a descriptor has no reader that could leave
        daemon.output = sys.stdout.fileno()
    try:
        for text in messages:
            message = _read(text)
            if message != {"type": "connected"}:
                _told(args, message, partial(line, message))
    except KeyboardInterrupt:
        print(file=sys.stderr)  # the shell's prompt goes below the ^C


_COMMANDS: dict[str, Callable[[Daemon, Args], int | None]] = {
    "status": _status,
    "connections": _connections,
    "close": _close,
    "requests": _requests,
    "backends": _backends,
    "test": _test,
    "route": _route,
    "mesh": _mesh,
    "reload": _reload,
    "events": _events,
    "logs": _logs,
}
