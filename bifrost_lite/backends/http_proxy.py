"""The backend `http_proxy`: tunnels by CONNECT, plain HTTP requests in absolute-form."""

from __future__ import annotations

from ..dial import Dialler, Guard
from ..target import Target
from ..way import Way
from ..wire.upstream import ConnectTalk, basic
from .upstream import UpstreamProxy


class HttpProxy(UpstreamProxy):
    """Reaches targets through an HTTP proxy.

    Args:
        username, password: credentials there (RFC 7617), a user of "" for none
        the others: see `UpstreamProxy`
    """

    def __init__(
        self,
        way: Way,
        dialler: Dialler,
        upstream: Target,
        username: str,
        password: str,
        guard: Guard,
        seconds: float,
    ) -> None:
        super().__init__(way, dialler, upstream, guard, seconds)
        way.absolute = True
        way.authorization = basic(username, password) if username else b""

    def talk(self, target: Target) -> ConnectTalk:
        """See `UpstreamProxy`."""
        return ConnectTalk(target, self.way.authorization)
