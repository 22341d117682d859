"""The backend `http_proxy`: tunnels by CONNECT, plain HTTP requests in absolute-form."""

from __future__ import annotations

from ..target import Target
from ..wire.upstream import ConnectTalk, basic
from .upstream import UpstreamProxy


class HttpProxy(UpstreamProxy):
    """Reaches targets through an HTTP proxy."""

    def identify(self, username: str, password: str) -> None:
        """See `UpstreamProxy`; RFC 7617."""
        self.way.absolute = True
        self.way.authorization = basic(username, password) if username else b""

    def talk(self, target: Target) -> ConnectTalk:
        """See `UpstreamProxy`."""
        return ConnectTalk(target, self.way.authorization)
