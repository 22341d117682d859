"""The client commands: ask a running daemon, print what it says."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec

from . import show
from .client import ClientError, Daemon, NotRunning, Rejected, find, quote
from .options import BAD_CONFIG, FAILED, NOT_RUNNING, OK, Args, UsageError, number
from .records import LEVELS

RELOADING = 60.0  # seconds for a reload: another edit first, and a large file on a small router

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
        _COMMANDS[name](daemon, args)
    except Rejected as error:
        _print_rejected(error, args)
        return BAD_CONFIG
    except ClientError as error:
        print(f"bifrost-lite: {show.printable(str(error))}", file=sys.stderr)
        return NOT_RUNNING if isinstance(error, NotRunning) else FAILED
    except KeyboardInterrupt:
        print(file=sys.stderr)  # the shell's prompt goes below the ^C
    return OK


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


def _status(daemon: Daemon, args: Args) -> None:
    answer = _read(daemon.call("GET", "/status"))
    answer["stats"] = _read(daemon.call("GET", "/stats"))
    print(show.json_text(answer) if "json" in args.options else show.pairs(answer))


def _connections(daemon: Daemon, args: Args) -> None:
    answer = _read(daemon.call("GET", "/connections"))
    if "json" in args.options:
        print(show.json_text(answer))
        return
    columns = (
        "id", "client_ip", "protocol", "host", "backend", "route", "age",
        "bytes_sent", "bytes_received",
    )  # fmt: skip
    cells = [
        [show.value(row.get(key), key) for key in columns]
        for row in show.objects(answer.get("connections"))
    ]
    head = ("ID", "CLIENT", "PROTOCOL", "HOST", "BACKEND", "ROUTE", "AGE", "SENT", "RECEIVED")
    print(show.table(head, cells, right={0, 6, 7, 8}))


def _close(daemon: Daemon, args: Args) -> None:
    answer = daemon.call("DELETE", f"/connections/{quote(args.words[0])}")
    if "json" in args.options:
        print(show.json_text(_read(answer) if answer else {}))
    else:
        print(f"closed {show.printable(args.words[0])}")


def _backends(daemon: Daemon, args: Args) -> None:
    answer = _decoded(daemon.call("GET", "/backends"), _decode_list)
    if "json" in args.options:
        print(show.json_text(answer))
        return
    columns = (
        "active_connections", "total_connections", "bytes_sent", "bytes_received", "errors",
        "latency_ms",
    )  # fmt: skip
    rows = []
    for row in show.objects(answer):
        stats = row.get("stats")
        numbers: show.Object = stats if isinstance(stats, dict) else {}
        rows.append(
            [show.value(row.get(key)) for key in ("name", "type", "state")]
            + [show.value(numbers.get(key), key) for key in columns]
            + [show.value(row.get("reason"))]
        )
    head = (
        "NAME", "TYPE", "STATE", "ACTIVE", "TOTAL", "SENT", "RECEIVED", "ERRORS", "LATENCY",
        "REASON",
    )  # fmt: skip
    print(show.table(head, rows, right=range(3, 9)))


def _route(daemon: Daemon, args: Args) -> None:
    host = args.words[0].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    asked: dict[str, object] = {"host": host}
    port = number(args, "port", 1, 65535)
    if port is not None:
        asked["port"] = port
    if "from" in args.options:
        asked["client_ip"] = args.options["from"].encode("ascii", "replace").decode()
    answer = _read(daemon.call("POST", "/routes/test", body=asked))
    print(show.json_text(answer) if "json" in args.options else show.route(answer))


def _reload(daemon: Daemon, args: Args) -> None:
    asked = {"enforce": "enforce" in args.options}
    answer = _read(daemon.call("POST", "/config/reload", body=asked, patience=RELOADING))
    print(show.json_text(answer) if "json" in args.options else show.change(answer))


def _events(daemon: Daemon, args: Args) -> None:
    since = number(args, "since", 0, 2**53)
    query = {name: args.options.get(name, "") for name in ("types", "client", "boot")}
    query["since"] = "" if since is None else str(since)
    _print(daemon.events(query), args, show.event)


def _logs(daemon: Daemon, args: Args) -> None:
    tail = number(args, "tail", 1, 10000)
    level = args.options.get("level", "")
    if level not in ("", *LEVELS):
        raise UsageError(f"--level takes one of {', '.join(LEVELS)}, got {ascii(level)}")
    count = "" if tail is None else str(tail)
    if "no-follow" not in args.options:
        _print(daemon.logs({"level": level, "tail": count}), args, show.entry)
        return
    answer = _read(daemon.call("GET", "/logs", {"level": level, "limit": count}))
    for entry in reversed(show.objects(answer.get("entries"))):
        print(show.json_text(entry) if "json" in args.options else show.entry(entry))


def _print(
    messages: Iterable[bytes], args: Args, line: Callable[[show.Object], str]
) -> None:
    """Each message as a line; the greeting of the log stream is none."""
    form = show.json_text if "json" in args.options else line
    for text in messages:
        message = _read(text)
        if message != {"type": "connected"}:
            print(form(message))


_COMMANDS: dict[str, Callable[[Daemon, Args], None]] = {
    "status": _status,
    "connections": _connections,
    "close": _close,
    "backends": _backends,
    "route": _route,
    "reload": _reload,
    "events": _events,
    "logs": _logs,
}
