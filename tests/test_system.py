"""One question to the C library; the tests of `resolve` have the rest of its mode."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable

import pytest

from bifrost_lite import system
from bifrost_lite.errors import Reason
from bifrost_lite.system import SystemQuery
from bifrost_lite.wire.dns import AAAA, A

Told = tuple[int, tuple[bytes, ...], int, Reason | None]
FOUR, SIX = b"\xc0\x00\x02\x01", b"\x20\x01\x0d\xb8" + bytes(11) + b"\x01"
SOON = 10.0


class Library:
    """Stands in for getaddrinfo.

    Attributes:
        found: the addresses that it answers, or what it raises
        asked: its arguments
        go: what its calls wait for
    """

    def __init__(self) -> None:
        self.found: tuple[str, ...] | OSError = ("192.0.2.1", "2001:db8::1")
        self.asked: list[tuple[object, ...]] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, *arguments: object) -> list[tuple[object, ...]]:
        self.asked.append(arguments)
        assert self.go.wait(SOON)
        if isinstance(self.found, OSError):
            raise self.found
        return [(0, 0, 0, "", (address, 0)) for address in self.found]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    library = Library()
    monkeypatch.setattr(system, "getaddrinfo", library)
    return library


class Question:
    """A query, and what it reports until its thread is back."""

    def __init__(self) -> None:
        self.told: list[Told] = []
        self.returned = asyncio.Event()
        self.query = SystemQuery("a.example", self.report, self.returned.set)

    def report(
        self, kind: int, addresses: tuple[bytes, ...], ttl: int, reason: Reason | None
    ) -> None:
        self.told.append((kind, addresses, ttl, reason))

    async def back(self) -> list[Told]:
        await asyncio.wait_for(self.returned.wait(), SOON)
        return self.told


def ask(*kinds: int, then: Callable[[Question], object] = lambda question: None) -> list[Told]:
    """What is reported about `kinds`."""

    async def main() -> list[Told]:
        question = Question()
        for kind in kinds:
            question.query.ask(kind)
        then(question)
        return await question.back()

    return asyncio.run(main())


def test_both_kinds_cost_one_call(library: Library) -> None:
    assert ask(A, AAAA) == [(A, (FOUR,), 0, None), (AAAA, (SIX,), 0, None)]
    # Bytes: a str would need the idna codec, which a router's Python lacks.
    assert library.asked == [(b"a.example", None, 0, socket.SOCK_STREAM)]


def test_one_kind(library: Library) -> None:
    assert ask(AAAA) == [(AAAA, (SIX,), 0, None)]


def test_a_kind_without_addresses(library: Library) -> None:
    library.found = ("192.0.2.1", "192.0.2.1", "fe80::1%eth0")
    assert ask(A, AAAA) == [(A, (FOUR, FOUR), 0, None), (AAAA, (), 0, Reason.DNS_NOT_FOUND)]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (socket.gaierror(socket.EAI_NONAME, ""), Reason.DNS_NOT_FOUND),
        (socket.gaierror(socket.EAI_NODATA, ""), Reason.DNS_NOT_FOUND),
        (socket.gaierror(socket.EAI_AGAIN, ""), Reason.DNS_FAILED),
        (socket.gaierror(socket.EAI_FAIL, ""), Reason.DNS_FAILED),
        (OSError(24, "no descriptors"), Reason.DNS_FAILED),
    ],
)
def test_failures(library: Library, error: OSError, reason: Reason) -> None:
    library.found = error
    assert ask(A, AAAA) == [(A, (), 0, reason), (AAAA, (), 0, reason)]


def test_no_thread(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(system, "start_new_thread", refuse)
    assert ask(A, AAAA) == [(A, (), 0, Reason.DNS_FAILED), (AAAA, (), 0, Reason.DNS_FAILED)]


def test_a_closed_query_only_says_that_its_thread_is_back(library: Library) -> None:
    library.go.clear()

    def close(question: Question) -> None:
        question.query.close()
        library.go.set()

    assert ask(A, AAAA, then=close) == []


def test_a_report_may_close_it(library: Library) -> None:
    def watch(question: Question) -> None:
        report = question.report

        def last(*told: object) -> None:
            report(*told)  # type: ignore[arg-type]
            question.query.close()

        question.query._report = last

    assert ask(A, AAAA, then=watch) == [(A, (FOUR,), 0, None)]


def test_a_loop_that_is_gone(library: Library) -> None:
    """The thread comes back to nobody, and says nothing."""
    library.go.clear()
    over = threading.Event()

    class Watched(SystemQuery):
        __slots__ = ()

        def _run(self, loop: asyncio.AbstractEventLoop) -> None:
            try:
                super()._run(loop)
            finally:
                over.set()

    told: list[object] = []

    async def main() -> None:
        Watched("a.example", lambda *what: told.append(what), lambda: told.append("back")).ask(A)

    asyncio.run(main())
    library.go.set()
    assert over.wait(SOON)
    assert not told
