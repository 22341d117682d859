"""The daemon's log: one line, no forgery, no flood, no secrets."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import syslog
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost_lite import log
from bifrost_lite.dispatch import Loop, make_dispatcher
from bifrost_lite.log import Access, Handler, Repeats, access_line, one_line
from bifrost_lite.records import DEBUG, Finished
from bifrost_lite.ring import Ring
from bifrost_lite.sse import Logs
from tests.control_fixtures import finished


@pytest.fixture
def logs() -> Iterator[Logs]:
    loop = Loop(make_dispatcher())
    yield Logs(loop, 200, 10)
    loop.close()


class Out(io.StringIO):
    """Standard error."""

    def __init__(self, tty: bool = False) -> None:
        super().__init__()
        self.tty = tty

    def isatty(self) -> bool:
        return self.tty

    @property
    def lines(self) -> list[str]:
        text = self.getvalue()
        assert text == "" or text.endswith("\n")
        return text.split("\n")[:-1]


@pytest.fixture
def out() -> Out:
    return Out()


@pytest.fixture
def started(
    logs: Logs, out: Out, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[logging.Logger, Handler]]:
    """A logger of the package whose handler writes to `out` and keeps entries in `logs`."""
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    root, package = logging.getLogger(), logging.getLogger("bifrost")
    levels = root.level, package.level
    handler = log.start(logs, "info", lambda function, *args: function(*args), out)
    yield logging.getLogger("bifrost.dial"), handler
    log.stop(handler)
    root.setLevel(levels[0])
    package.setLevel(levels[1])


Started = tuple[logging.Logger, Handler]


def messages(logs: Logs) -> list[tuple[str, str]]:
    return [(entry.level, entry.message) for entry in reversed(logs.read(1000, DEBUG))]


# Lines.


def test_lines_for_the_systems_log(started: Started, logs: Logs, out: Out) -> None:
    logger, _ = started
    logger.debug("hidden")
    logger.info("listening: %s", "127.0.0.1:7080")
    logger.warning("slow")
    logger.error("broken")
    logger.critical("very broken")
    assert out.lines == [
        "listening: 127.0.0.1:7080", "warn: slow", "error: broken", "error: very broken",
    ]  # fmt: skip
    assert messages(logs) == [
        ("info", "listening: 127.0.0.1:7080"), ("warn", "slow"), ("error", "broken"),
        ("error", "very broken"),
    ]  # fmt: skip
    assert logs.read(1, DEBUG)[0].fields.source == "dial"  # type: ignore[union-attr]


def test_terminal(logs: Logs, started: Started) -> None:
    out = Out(tty=True)
    handler = Handler(logs, out, print)
    for level in (logging.DEBUG, logging.INFO, logging.ERROR):
        handler.handle(logging.LogRecord("bifrost.x", level, "", 0, "text", None, None))
    debug, info, error = out.lines
    assert debug.endswith("\x1b[2mdebug text\x1b[0m")
    assert info[2] == info[5] == ":"
    assert info[8:] == " info  text"
    assert error[8:] == " \x1b[31merror text\x1b[0m"


def test_journal(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    out = Out()
    handler = Handler(logs, out, print)
    handler.handle(logging.LogRecord("bifrost.x", logging.WARNING, "", 0, "text", None, None))
    assert out.lines == ["<4>text"]


def test_nobody_forges_a_line(started: Started, logs: Logs, out: Out) -> None:
    logger, _ = started
    logger.info("host %s", "a\nerror: forged\x1b[2J\x00\u202e\u2028\x9b\udcff")
    (line,) = out.lines
    assert line == "host a\\nerror: forged\\x1b[2J\\x00\\u202e\\u2028\\x9b\\udcff"
    assert messages(logs) == [("info", line)]


def test_escapes_need_nothing_that_is_not_loaded() -> None:
    """Entries are written when no descriptor is left, too."""
    code = "from bifrost_lite.log import one_line; import sys; n = len(sys.modules)\n"
    code += "print(one_line('\\n\\x00\\u202e\\U000e0001\\udcff'), len(sys.modules) - n)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert told == b"\\n\\x00\\u202e\\U000e0001\\udcff 0\n"


@given(st.text(max_size=3000))
def test_one_line(text: str) -> None:
    line = one_line(text)
    assert line.isprintable()
    assert len(line.splitlines()) <= 1
    assert len(line) <= 10 * log.LONGEST
    if text.isprintable() and len(text) <= log.LONGEST:
        assert line == text


def test_exception_in_one_line(started: Started, out: Out) -> None:
    logger, _ = started

    def inner() -> None:
        raise ValueError("two\nlines")

    try:
        inner()
    except ValueError:
        logger.exception("it failed")
    (line,) = out.lines
    assert line.startswith("error: it failed: ValueError: two\\nlines (test_log.py:")
    assert " inner < test_log.py:" in line


def test_levels(started: Started, out: Out) -> None:
    logger, _ = started
    log.set_level("debug")
    logger.debug("a")
    logging.getLogger("asyncio").info("others are heard from warnings on")
    logging.getLogger("asyncio").warning("b")
    log.set_level("error")
    logger.warning("c")
    logging.getLogger("asyncio").warning("d")
    logger.error("e")
    assert out.lines == ["a", "warn: b", "error: e"]


def test_broken_message_and_closed_stream_do_no_harm(
    started: Started, out: Out, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    logger, _ = started
    logger.info("%d", "no number")
    out.close()
    logger.info("still kept")
    assert messages(logs) == [("info", "still kept")]


def test_other_threads_hand_over(logs: Logs) -> None:
    handed: list[tuple[Any, ...]] = []
    handler = Handler(logs, Out(), lambda *call: handed.append(call))
    record = logging.LogRecord("bifrost.x", logging.INFO, "", 0, "text", None, None)
    thread = threading.Thread(target=handler.handle, args=(record,))
    thread.start()
    thread.join()
    assert len(logs.ring) == 0
    ((function, line),) = handed
    function(line)
    assert messages(logs) == [("info", "text")]


# Repeats.


@pytest.mark.parametrize(("distinct", "written"), [(False, log.SAME), (True, log.BURST)])
def test_repeats_are_counted(
    started: Started, out: Out, logs: Logs, monkeypatch: pytest.MonkeyPatch,
    distinct: bool, written: int,
) -> None:  # fmt: skip
    """Those that say the same sooner: a list of thirty faults is to be seen whole."""
    now = 100.0
    monkeypatch.setattr(log, "monotonic", lambda: now)
    logger, _ = started
    for number in range(1000):
        logger.warning("refused %s: %s", number if distinct else 1, "why")
    logger.warning("another")
    assert len(out.lines) == written + 1
    now += log.WINDOW
    logger.info("later")
    assert out.lines[-2:] == [f"warn: {1000 - written} suppressed: refused ...: ...", "later"]
    assert len(logs.ring) == written + 3
    logger.warning("refused %s: %s", 1, "why")
    assert out.lines[-1] == "warn: refused 1: why"


def test_repeats_are_bounded() -> None:
    repeats = Repeats()
    for number in range(10 * log.KINDS):
        assert repeats.admit(("x", 20, str(number)), "text", 0.0)
    assert len(repeats._kinds) == log.KINDS
    assert repeats.ended(log.WINDOW) == []
    assert repeats._kinds == {}


# Finished requests.


def test_access_goes_to_both_rings_as_one_object(logs: Logs) -> None:
    requests: Ring[Finished] = Ring(2)
    record = finished()
    Access(logs, requests, False).finished(record)
    assert requests.newest_first()[0] is logs.ring.newest_first()[0] is record
    Access(None, requests, False).finished(record)
    assert (len(requests), len(logs.ring)) == (2, 1)


def test_access_line() -> None:
    line = access_line(finished(3, url='x/"a b"=\x1b', error="", route=""))
    assert line == (
        "id=3 client=192.168.1.100 protocol=HTTP method=GET "
        'url="x/\\"a b\\"=\\\\x1b" status=200 backend=direct sent=10 received=2000 ms=150'
    )
    tunnel = access_line(finished(4, status_code=None, error="dns_failed", bytes_sent=0))
    assert "status=" not in tunnel
    assert tunnel.endswith("error=dns_failed")
    assert "sent=0" in tunnel


def test_access_to_syslog(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[int, str]] = []
    opened: list[object] = []
    write: Callable[[int, str], None] = lambda priority, text: written.append((priority, text))  # noqa: E731
    monkeypatch.setattr(syslog, "syslog", write)
    monkeypatch.setattr(syslog, "openlog", lambda *args: opened.append(args))
    access = Access(logs, Ring(1), True)
    access.finished(finished())
    access.finished(finished(error="dns_failed"))
    assert [priority for priority, _ in written] == [syslog.LOG_INFO, syslog.LOG_INFO]
    assert opened
