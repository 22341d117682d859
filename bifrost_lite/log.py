"""The daemon's log: to standard error for the system's log, and to the ring for readers.

On standard error an entry is one line without time or colour, since procd, journald and
Docker put their own before it; only on a terminal it has both. What others named (hosts,
reasons of the system) stands in it escaped, so nobody can forge a line or drive a terminal.
Messages of one kind that repeat are counted instead of written: a client that fails a
thousand times a second fills neither the system's log nor the ring.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from _thread import get_ident
from collections.abc import Callable
from time import localtime, monotonic, strftime
from typing import TextIO

from msgspec import Struct

from .records import DEBUG, ERROR, INFO, LEVELS, WARN, Finished
from .ring import Ring
from .sse import Line, Logs

SAME = 5  # messages of one kind and one text within `WINDOW` that are written
BURST = 50  # messages of one kind, whatever they say
WINDOW = 10.0  # seconds
KINDS = 64  # kinds that are watched at one time
LONGEST = 1000  # characters of a message

Kind = tuple[str, int, str]  # logger, Python's level, template
_directive = re.compile(r"%[-#0 +.0-9]*[a-zA-Z]")
_SYSLOG_PRIORITY = (7, 6, 4, 3)  # RFC 5424 section 6.2.1
_COLOURS = ("\x1b[2m", "", "\x1b[33m", "\x1b[31m")
_PYTHON_LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)


def one_line(text: str) -> str:
    """`text` cut to one line of printable characters, the others as escapes."""
    if len(text) > LONGEST:
        text = text[: LONGEST - 3] + "..."
    if text.isprintable():
        return text
    # Not by a codec, for that would be loaded, and there may be no descriptor left for it.
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class Window(Struct):
    """What was written of one kind of message.

    Attributes:
        end: when it is over, in monotonic seconds
        text: of the last message
        written, suppressed: messages
    """

    end: float
    text: str
    written: int = 1
    suppressed: int = 0


class Repeats:
    """Counts messages of one kind that come too often."""

    __slots__ = ("_kinds",)

    def __init__(self) -> None:
        self._kinds: dict[Kind, Window] = {}

    def admit(self, kind: Kind, text: str, now: float) -> bool:
        """Whether a message is to be written at monotonic time `now`."""
        window = self._kinds.get(kind)
        if window is None or window.end <= now:
            self._kinds.pop(kind, None)
            self._kinds[kind] = Window(now + WINDOW, text)
            if len(self._kinds) > KINDS:
                del self._kinds[next(iter(self._kinds))]
            return True
        if window.written < (SAME if text == window.text else BURST):
            window.written += 1
            window.text = text
            return True
        window.suppressed += 1
        return False

    def ended(self, now: float) -> list[tuple[Kind, int]]:
        """The kinds whose window is over, with how many of each were suppressed."""
        over = [kind for kind, window in self._kinds.items() if window.end <= now]
        ended = [(kind, self._kinds.pop(kind).suppressed) for kind in over]
        return [(kind, count) for kind, count in ended if count]


class Handler(logging.Handler):
    """Takes what the package logs.

    Args:
        logs: the ring
        stream: where lines are written
        to_loop: runs a callable on the loop's thread, for entries of other threads
    """

    def __init__(
        self, logs: Logs, stream: TextIO, to_loop: Callable[..., object]
    ) -> None:
        super().__init__()
        self._logs = logs
        self._stream = stream
        self._to_loop = to_loop
        self._thread = get_ident()
        self._repeats = Repeats()
        self._tty = stream.isatty()
        self._journal = not self._tty and "JOURNAL_STREAM" in os.environ

    def emit(self, record: logging.LogRecord) -> None:
        """Write one entry; never raises."""
        try:
            self._emit(record)
        except Exception:
            self.handleError(record)

    def _emit(self, record: logging.LogRecord) -> None:
        now = monotonic()
        for kind, count in self._repeats.ended(now):
            name, level, template = kind
            text = f"{count} suppressed: {_directive.sub('...', template)}"
            self._write(_level(level), name, text, record.created)
        text = record.getMessage()
        if self._repeats.admit((record.name, record.levelno, str(record.msg)), text, now):
            if record.exc_info and record.exc_info[1] is not None:
                text = f"{text}: {_told(record.exc_info[1])}"
            self._write(_level(record.levelno), record.name, text, record.created)

    def _write(self, level: int, name: str, text: str, when: float) -> None:
        text = one_line(text)
        line = Line(when, level, text, name.removeprefix("bifrost."))
        if get_ident() == self._thread:
            self._logs.append(line)
        else:
            self._to_loop(self._logs.append, line)
        if self._tty:
            colour = _COLOURS[level]
            clock = strftime("%H:%M:%S", localtime(when))
            text = f"{clock} {colour}{LEVELS[level]:5} {text}{colour and chr(27) + '[0m'}"
        elif self._journal:
            text = f"<{_SYSLOG_PRIORITY[level]}>{text}"
        elif level in (WARN, ERROR):
            text = f"{LEVELS[level]}: {text}"
        try:
            self._stream.write(text + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # nobody reads it any more; the ring still has it
            pass


def _level(python_level: int) -> int:
    if python_level >= logging.ERROR:
        return ERROR
    if python_level >= logging.WARNING:
        return WARN
    return INFO if python_level >= logging.INFO else DEBUG


def _told(error: BaseException) -> str:
    """An exception in one line: what it is, and the places it came through, innermost first."""
    places = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{os.path.basename(code.co_filename)}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    where = " < ".join(places[:-6:-1])
    return f"{type(error).__name__}: {error} ({where})"


def start(
    logs: Logs, level: str, to_loop: Callable[..., object], stream: TextIO | None = None
) -> Handler:
    """Take over the log of the whole process.

    Args:
        logs: the ring
        level: the floor, one of `LEVELS`
        to_loop: ``loop.call_soon_threadsafe``
        stream: where lines are written; standard error where not given

    Returns:
        the handler, for `stop`
    """
    handler = Handler(logs, stream or sys.stderr, to_loop)
    root = logging.getLogger()
    root.addHandler(handler)
    set_level(level)
    return handler


def set_level(level: str) -> None:
    """Change the floor; other packages are heard from warnings on."""
    floor = _PYTHON_LEVELS[LEVELS.index(level)]
    logging.getLogger().setLevel(max(floor, logging.WARNING))
    logging.getLogger("bifrost").setLevel(floor)


def stop(handler: Handler) -> None:
    """Give the log back."""
    logging.getLogger().removeHandler(handler)


class Access:
    """Remembers finished requests.

    Args:
        logs: the ring of the log, None to keep them out of it
        requests: the ring of requests
        syslog: write each to the system's log too
    """

    __slots__ = ("_logs", "_syslog", "requests")

    def __init__(self, logs: Logs | None, requests: Ring[Finished], syslog: bool) -> None:
        self._logs = logs
        self.requests = requests
        self._syslog: Callable[[int, str], None] | None = None
        if syslog:
            import syslog as system

            system.openlog("bifrost-lite", system.LOG_PID, system.LOG_DAEMON)
            self._syslog = system.syslog

    def finished(self, record: Finished) -> None:
        """A request is over. One object for both rings; text is made when somebody reads."""
        self.requests.append(record)
        if self._logs is not None:
            self._logs.append(record)
        if self._syslog is not None:
            self._syslog(_SYSLOG_PRIORITY[INFO], access_line(record))


def access_line(record: Finished) -> str:
    """A finished request in one line of ``key=value``, what clients named escaped."""
    pairs = [
        ("id", record.id),
        ("client", record.client_ip),
        ("protocol", record.protocol),
        ("method", record.method),
        ("url", record.url),
        ("status", record.status_code),
        ("route", record.route),
        ("backend", record.backend),
        ("sent", record.bytes_sent),
        ("received", record.bytes_received),
        ("ms", record.duration_ms),
        ("error", record.error),
    ]
    return " ".join(f"{key}={_value(value)}" for key, value in pairs if value not in (None, ""))


def _value(value: object) -> str:
    text = one_line(str(value))
    if any(c in text for c in ' "='):
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return text
