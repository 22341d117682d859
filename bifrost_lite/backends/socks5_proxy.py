"""The backend `socks5_proxy`."""

from __future__ import annotations

from ..dial import Dialler, Guard
from ..target import Target
from ..way import Way
from ..wire.upstream import SocksTalk, socks_login
from .upstream import UpstreamProxy


class Socks5Proxy(UpstreamProxy):
    """Reaches targets through a SOCKS5 proxy.

    Args:
        username, password: credentials there (RFC 1929), a user of "" for none
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
        self.login = socks_login(username, password) if username else b""

    def talk(self, target: Target) -> SocksTalk:
        """See `UpstreamProxy`."""
        return SocksTalk(target, self.login)
