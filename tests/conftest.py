"""What every test is held to: it leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import weakref
from asyncio import base_events, runners
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis
import pytest

from bifrost_lite.dispatch import Loop

SOON = 5.0  # seconds in which what is ending must have ended

# Time is no property of the code under test on a shared machine.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("fuzz", deadline=None, max_examples=2_000)
hypothesis.settings.load_profile("default")

_loops: weakref.WeakSet[base_events.BaseEventLoop] = weakref.WeakSet()
_left: list[str] = []


def _watch_loops() -> None:
    """Note what is still running in each event loop at its end, before that is swept away."""
    start, close = base_events.BaseEventLoop.__init__, base_events.BaseEventLoop.close
    cancel_all: Callable[[asyncio.AbstractEventLoop], None]
    cancel_all = runners._cancel_all_tasks  # type: ignore[attr-defined]

    def __init__(self: base_events.BaseEventLoop) -> None:
        start(self)
        _loops.add(self)

    def _cancel_all_tasks(loop: asyncio.AbstractEventLoop) -> None:
        _note(loop)  # asyncio.run: its main coroutine is over, and all others should be
        cancel_all(loop)

    def close_noted(self: base_events.BaseEventLoop) -> None:
        if not self.is_closed():
            _note(self)
        close(self)

    base_events.BaseEventLoop.__init__ = __init__  # type: ignore[assignment, method-assign]
    base_events.BaseEventLoop.close = close_noted  # type: ignore[method-assign]
    runners._cancel_all_tasks = _cancel_all_tasks  # type: ignore[attr-defined]


def _note(loop: asyncio.AbstractEventLoop) -> None:
    _left.extend(f"task {task!r}" for task in asyncio.all_tasks(loop))
    timers = loop._scheduled  # type: ignore[attr-defined]
    _left.extend(f"timer {timer!r}" for timer in timers if not timer.cancelled())
    if isinstance(loop, Loop):
        handlers = loop.dispatcher.handlers.items()
        _left.extend(f"handler {handler!r} of descriptor {fd}" for fd, handler in handlers)
        waiting = [owner for deadlines in loop.dispatcher.deadlines for owner in deadlines.since]
        _left.extend(f"deadline of {owner!r}" for owner in waiting)


_watch_loops()


def _descriptors() -> set[tuple[str, str]]:
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add((number, os.readlink(f"/proc/self/fd/{number}")))
        except FileNotFoundError:  # the one that listed the others
            continue
    return found


def _children() -> set[str]:
    """Child processes, dead ones that nobody waited for included."""
    found: set[str] = set()
    for thread in Path("/proc/self/task").iterdir():
        try:
            found.update((thread / "children").read_text("ascii").split())
        except OSError:  # the thread ended just now
            continue
    return found


@contextmanager
def nothing_left() -> Iterator[None]:
    """Fail where the body leaves a descriptor, thread, child process, loop, task or timer."""
    descriptors, threads, children = _descriptors(), set(threading.enumerate()), _children()
    loops = set(_loops)
    _left.clear()
    yield
    deadline = time.monotonic() + SOON
    for thread in set(threading.enumerate()) - threads:
        while thread.ident is None and time.monotonic() < deadline:
            time.sleep(0.001)  # it is being started this moment, and cannot be joined yet
        if thread.ident is not None:
            thread.join(max(0, deadline - time.monotonic()))
    left = [f"thread {thread!r}" for thread in set(threading.enumerate()) - threads]
    left += [f"child process {child}" for child in _children() - children]
    extra = _descriptors() - descriptors
    if extra:
        gc.collect()  # a cycle is no leak; what it held unclosed warns, and warnings are errors
        extra = _descriptors() - descriptors
    left += [f"descriptor {number} of {what}" for number, what in sorted(extra)]
    left += [f"open event loop {loop!r}" for loop in set(_loops) - loops if not loop.is_closed()]
    left += _left
    assert not left, "left behind: " + ", ".join(left)


@pytest.fixture(autouse=True, scope="session")
def _session_leaves_nothing() -> Iterator[None]:
    with nothing_left():
        yield


@pytest.fixture(autouse=True)
def _test_leaves_nothing(_session_leaves_nothing: None) -> Iterator[None]:
    with nothing_left():
        yield
