"""What handlers of the API see of the rest of the daemon."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from ..errors import Reason
from ..hub import Hub
from ..records import Finished
from ..ring import Ring
from ..sse import Logs


class Listener(Protocol):
    """A listener of the proxy."""

    @property
    def name(self) -> str: ...
    @property
    def address(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def protocol(self) -> str: ...
    @property
    def open(self) -> bool: ...


class Session(Protocol):
    """A connection that watchers were told of."""

    @property
    def id(self) -> int: ...
    @property
    def protocol(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def backend(self) -> str: ...
    @property
    def route(self) -> str: ...
    @property
    def client_ip(self) -> str: ...
    @property
    def client_port(self) -> int: ...
    @property
    def started(self) -> float: ...
    @property
    def bytes_sent(self) -> int: ...
    @property
    def bytes_received(self) -> int: ...
    def close(self, reason: Reason) -> None: ...


class Plane(Protocol):
    """The data plane."""

    @property
    def connections(self) -> Mapping[int, Session]: ...
    @property
    def listeners(self) -> Sequence[Listener]: ...
    @property
    def refused(self) -> int: ...
    @property
    def failures(self) -> Mapping[str, int]: ...
    def stats(self) -> tuple[int, int, int, int]: ...


class Context:
    """The first argument of each handler.

    Args:
        version: of the daemon
        plane: the data plane
        hub: the events, and the present state of each backend
        logs: the log
        requests: the finished requests
        addresses: gives the addresses of the control server
    """

    __slots__ = ("addresses", "hub", "logs", "plane", "requests", "version")

    def __init__(
        self,
        version: str,
        plane: Plane,
        hub: Hub,
        logs: Logs,
        requests: Ring[Finished],
        addresses: Callable[[], Sequence[tuple[str, int]]],
    ) -> None:
        self.version = version
        self.plane = plane
        self.hub = hub
        self.logs = logs
        self.requests = requests
        self.addresses = addresses
