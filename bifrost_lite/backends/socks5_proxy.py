"""The backend `socks5_proxy`."""

from __future__ import annotations

from ..target import Target
from ..wire.upstream import SocksTalk, socks_login
from .upstream import UpstreamProxy


class Socks5Proxy(UpstreamProxy):
    """Reaches targets through a SOCKS5 proxy."""

    def identify(self, username: str, password: str) -> None:
        """See `UpstreamProxy`; RFC 1929."""
        self.login = socks_login(username, password) if username else b""

    def talk(self, target: Target) -> SocksTalk:
        """See `UpstreamProxy`."""
        return SocksTalk(target, self.login)
