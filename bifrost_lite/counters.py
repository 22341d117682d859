"""What one backend has carried; kept over reloads under the backend's name."""

from __future__ import annotations


class Counters:
    """The counters of one backend.

    Attributes:
        active: connections that stand now
        total: connections that stood since the start
        failed: dials that failed
        sent: bytes to targets by connections that are over
        received: bytes from targets by the same
        latency: seconds that dials took lately, 0.0 before the first
        last_failure: word of the `Reason` of the last failed dial, "" before one
    """

    __slots__ = ("active", "failed", "last_failure", "latency", "received", "sent", "total")

    def __init__(self) -> None:
        self.active = 0
        self.total = 0
        self.failed = 0
        self.sent = 0
        self.received = 0
        self.latency = 0.0
        self.last_failure = ""

    def took(self, seconds: float) -> None:
        """A dial worked and took so long; the average follows by an eighth (RFC 6298)."""
        latency = self.latency
        self.latency = seconds if not latency else latency + (seconds - latency) / 8
