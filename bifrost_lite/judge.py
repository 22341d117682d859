"""What new rules would say to the connections that live."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .acl import Networks
from .config import schema
from .dial import Guard
from .errors import ProtocolError
from .route import Router
from .target import parse_authority

if TYPE_CHECKING:
    from .plane import Carried

KEEP, MOVE, DENY = "keep", "move", "deny"


class Judge:
    """Judges connections by settings.

    Args:
        settings: the new ones
        router: their routes
        guard: why a literal target must not be dialled for a client, or None
    """

    def __init__(self, settings: schema.Settings, router: Router, guard: Guard) -> None:
        access = settings.access
        self._allow = Networks(access.allow or ("0.0.0.0/0", "::/0"))
        self._deny = Networks(access.deny)
        self._router = router
        self._guard = guard
        self._users = {user.name: user.password_hash for user in settings.users}
        self._listen = {(item.address, item.port): item for item in settings.listen}
        self._backends = {item.name: item for item in settings.backends}
        self._leaves: dict[str, frozenset[str]] = {}  # that do not refuse, by backend

    def verdict(self, session: Carried) -> str:
        """Whether the connection of `session`, begun now, would be carried as it is (`KEEP`),
        by another backend (`MOVE`), or not at all (`DENY`)."""
        client = session.client
        if not self._allow.contains(client) or self._deny.contains(client):
            return DENY
        place = session.listener.address, session.listener.asked_port
        listener = self._listen.get(place, session.listener)  # one that goes stays as it was
        if session.datagrams and not listener.udp:
            return DENY
        if listener.auth and self._users and not self._knows(session):
            return DENY
        try:
            target = parse_authority(session.host.encode(), None)
        except ProtocolError:  # cannot be: it has been dialled
            return DENY
        if target.packed is not None and self._guard(target.packed, target.port) is not None:
            return DENY
        match = self._router.find(target.host, target.packed, target.port, client)
        if match is None:
            return DENY
        leaves = self._below(match.backend)
        if session.datagrams:
            leaves = frozenset(n for n in leaves if isinstance(self._backends[n], schema.Direct))
        if not leaves:
            return DENY
        # While it is dialled for, only the backend of its route is known, be that a group.
        return KEEP if session.backend in leaves or session.backend == match.backend else MOVE

    def _knows(self, session: Carried) -> bool:
        """Whether its login is still good."""
        users, name = session.policy.users, session.user
        if users is None or name not in self._users:
            return False
        return users.knows(name, self._users[name])

    def _below(self, name: str) -> frozenset[str]:
        """The leaves below a backend, itself if it is one, without those that refuse all."""
        known = self._leaves.get(name)
        if known is None:
            item = self._backends[name]
            if isinstance(item, schema.Group):
                known = frozenset().union(*(self._below(member) for member in item.members))
            else:
                known = frozenset(() if isinstance(item, schema.Block) else (name,))
            self._leaves[name] = known
        return known
