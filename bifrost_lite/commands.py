"""The client commands: ask a running daemon, print what it says."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable

import msgspec

from . import show
from .client import ClientError, Daemon, NotRunning, find, quote
from .options import FAILED, NOT_RUNNING, OK, Args, UsageError, number
from .records import LEVELS

_decode = msgspec.json.Decoder(dict[str, object]).decode


def run(name: str, args: Args) -> int:
    """Run the client command `name`; answers the exit status."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal without Unicode shows escapes; a pipe gets each line as it comes.
        stream.reconfigure(errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    options = args.options
    try:
        daemon = find(options.get("url", ""), options.get("token", ""), dict(os.environ))
        _COMMANDS[name](daemon, args)
    except ClientError as error:
        print(f"bifrost-lite: {show.printable(str(error))}", file=sys.stderr)
        return NOT_RUNNING if isinstance(error, NotRunning) else FAILED
    except KeyboardInterrupt:
        print(file=sys.stderr)  # the shell's prompt goes below the ^C
    return OK


def _read(text: bytes) -> show.Object:
    try:
        return _decode(text)
    except (msgspec.DecodeError, RecursionError):
        raise ClientError("the daemon's answer is not the JSON that was asked for") from None


def _status(daemon: Daemon, args: Args) -> None:
    answer = _read(daemon.call("GET", "/status"))
    answer["stats"] = _read(daemon.call("GET", "/stats"))
    print(show.json_text(answer) if "json" in args.options else show.pairs(answer))


def _connections(daemon: Daemon, args: Args) -> None:
    answer = _read(daemon.call("GET", "/connections"))
    if "json" in args.options:
        print(show.json_text(answer))
        return
    rows = answer.get("connections")
    columns = (
        "id", "client_ip", "protocol", "host", "backend", "route", "age",
        "bytes_sent", "bytes_received",
    )  # fmt: skip
    cells = [
        [show.value(row.get(key), key) for key in columns]
        for row in (rows if isinstance(rows, list) else ())
        if isinstance(row, dict)
    ]
    head = ("ID", "CLIENT", "PROTOCOL", "HOST", "BACKEND", "ROUTE", "AGE", "SENT", "RECEIVED")
    print(show.table(head, cells, right={0, 6, 7, 8}))


def _close(daemon: Daemon, args: Args) -> None:
    answer = daemon.call("DELETE", f"/connections/{quote(args.words[0])}")
    if "json" in args.options:
        print(show.json_text(_read(answer) if answer else {}))
    else:
        print(f"closed {show.printable(args.words[0])}")


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
    entries = answer.get("entries")
    for entry in reversed(entries) if isinstance(entries, list) else ():
        if isinstance(entry, dict):
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
    "events": _events,
    "logs": _logs,
}
