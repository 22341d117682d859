"""A backend as those see it whose bytes go through it."""

from __future__ import annotations

from .condition import Condition
from .counters import Counters
from .dispatch import Dispatcher
from .errors import Reason

# What tells of a way that does not work, rather than of a target that does not answer.
FAULTS = frozenset((
    Reason.CONNECT_TIMEOUT,
    Reason.NET_UNREACHABLE,
    Reason.HOST_UNREACHABLE,
    Reason.DNS_TIMEOUT,
    Reason.DNS_FAILED,
    Reason.DEVICE_ABSENT,
    Reason.UPSTREAM_UNREACHABLE,
    Reason.UPSTREAM_TIMEOUT,
    Reason.UPSTREAM_AUTH,
    Reason.UPSTREAM_FAILED,
))  # fmt: skip


class Way:
    """What carries connections: one backend that is no group.

    Args:
        name: as configured
        type: direct, interface, http_proxy, socks5_proxy or block
        dispatcher: knows the time
        counters: of this backend
        condition: of this backend

    Attributes:
        absolute: its connections end at an HTTP proxy when asked for with `forward`
        authorization: credentials for that proxy, the value of a Proxy-Authorization field
    """

    __slots__ = (
        "absolute", "authorization", "condition", "counters", "dispatcher", "name", "type",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        type: str,
        dispatcher: Dispatcher,
        counters: Counters,
        condition: Condition,
    ) -> None:
        self.name = name
        self.type = type
        self.dispatcher = dispatcher
        self.counters = counters
        self.condition = condition
        self.absolute = False
        self.authorization = b""

    def worked(self, seconds: float) -> None:
        """A client's dial reached the target, or an upstream proxy that answered properly.

        Args:
            seconds: how long it took
        """
        self.counters.took(seconds)
        condition = self.condition
        if condition.uneasy:
            condition.dial_worked(self.dispatcher.now)

    def answered(self) -> None:
        """An upstream proxy answered a forwarded request, other than that it wants a login."""
        condition = self.condition
        if condition.uneasy:
            condition.dial_worked(self.dispatcher.now)

    def failed(self, reason: Reason, target: str, fault: bool) -> None:
        """A client's dial failed.

        Args:
            reason: why
            target: whither, so that one dead target alone does not bring a backend down
            fault: it is the way that does not work, see `FAULTS`
        """
        self.counters.failed += 1
        self.counters.last_failure = reason.word
        if fault and self.condition.watched:
            self.condition.dial_failed(reason.text, target, self.dispatcher.now)
