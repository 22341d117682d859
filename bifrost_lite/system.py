"""Asking the C library for names, in threads: `[resolver] mode = "system"`."""

from __future__ import annotations

import asyncio
import socket
from _thread import start_new_thread
from collections.abc import Callable
from socket import EAI_NONAME, SOCK_STREAM, gaierror, getaddrinfo

from .acl import pack
from .errors import Reason
from .query import Report
from .wire.dns import A

# What says that there is no address; musl knows the first alone.
_NOT_FOUND = {EAI_NONAME} | {
    getattr(socket, word, EAI_NONAME) for word in ("EAI_NODATA", "EAI_ADDRFAMILY")
}


class SystemQuery:
    """One name, in a thread of its own: getaddrinfo knows no TTL, and cannot be stopped.

    Args:
        name: of the host
        report: told about each kind that is asked for
        returned: called when the thread is over, which may be long after `close`
    """

    __slots__ = ("_kinds", "_name", "_report", "_returned")

    def __init__(self, name: str, report: Report, returned: Callable[[], None]) -> None:
        self._name = name
        self._report = report
        self._returned = returned
        self._kinds: list[int] = []

    def ask(self, kind: int) -> None:
        """Report on A or AAAA when the thread is back; the first to ask starts it."""
        self._kinds.append(kind)
        if len(self._kinds) > 1:
            return
        loop = asyncio.get_running_loop()
        try:
            start_new_thread(self._run, (loop,))
        except RuntimeError:  # the system has no thread left
            loop.call_soon(self._done, [], Reason.DNS_FAILED)

    def close(self) -> None:
        """Report no more."""
        self._kinds.clear()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        found: list[bytes] = []
        reason = Reason.DNS_NOT_FOUND
        try:
            # Bytes: a str needs the idna codec, which a router's Python lacks.
            for entry in getaddrinfo(self._name.encode(), None, 0, SOCK_STREAM):
                packed = pack(str(entry[4][0]))
                if packed is not None:  # it has a zone, else
                    found.append(packed)
        except gaierror as error:
            if error.errno not in _NOT_FOUND:
                reason = Reason.DNS_FAILED
        except OSError:
            reason = Reason.DNS_FAILED
        try:
            loop.call_soon_threadsafe(self._done, found, reason)
        except RuntimeError:  # the loop is closed: nobody wants to know
            return

    def _done(self, found: list[bytes], reason: Reason) -> None:
        for kind in list(self._kinds):
            if kind not in self._kinds:  # a report closed this
                break
            size = 4 if kind == A else 16
            addresses = tuple(packed for packed in found if len(packed) == size)
            self._report(kind, addresses, 0, None if addresses else reason)
        self._returned()
