"""From settings to the rules in force: backends, routes, users.

`prepare` reads what settings name and builds what needs no socket; it may run in a thread.
`Builder` makes the rest on the loop, and carries over what a reload must not lose: counters
by name, and the condition of each backend whose settings stay as they were; the backend
itself too where it can go on, with its look-ups under way.
"""

from __future__ import annotations

import logging
import resource
from collections.abc import Callable, Mapping
from functools import partial
from time import thread_time
from typing import TYPE_CHECKING, NamedTuple, cast

from .acl import is_special
from .backends.base import Backend
from .backends.direct import Direct
from .condition import Condition
from .config import schema
from .config.faults import MAX_FAULTS
from .config.values import authority
from .counters import Counters
from .dial import Dialler, Guard
from .dispatch import Dispatcher
from .errors import ConfigError, Fault, Reason
from .load import load_lists
from .plane import Policy
from .relay import PIPES
from .resolve import Resolver
from .route import Router
from .way import Way

if TYPE_CHECKING:
    from .backends.group import Group
    from .links import Links
    from .lists import RouteList
    from .users import Users

log = logging.getLogger("bifrost.daemon")

# Descriptors beside those of proxied connections: control clients, streams, sockets of the
# resolver, listeners, and room for a few dials that race several addresses.
SPARE_DESCRIPTORS = 192


class Prepared(NamedTuple):
    """Settings with everything that was read for them.

    Attributes:
        settings: they
        lists: of routes, by the routes' names
        router: the routes
    """

    settings: schema.Settings
    lists: Mapping[str, RouteList]
    router: Router


def prepare(settings: schema.Settings, path: str | None) -> Prepared:
    """Read the lists of the routes, and see whether this machine can do what is asked.

    Args:
        settings: checked in themselves
        path: of their file, which lists may stand beside

    Raises:
        ConfigError: with all faults
    """
    faults = [*_missing_rights(settings), *_slow_hashes(settings)]
    lists: Mapping[str, RouteList] = {}
    try:
        lists = load_lists(settings, path)
    except ConfigError as error:
        faults += error.faults
    if faults:
        if len(faults) > MAX_FAULTS:
            more = Fault("", "", f"and {len(faults) - MAX_FAULTS} more faults")
            faults[MAX_FAULTS:] = [more]
        raise ConfigError(faults)
    return Prepared(settings, lists, Router(settings.routes, lists))


def _missing_rights(settings: schema.Settings) -> list[Fault]:
    """What this process lacks the capability CAP_NET_ADMIN for."""
    faults: list[Fault] = []
    advice = "run the daemon with it; on OpenWrt install procd-ujail"
    for index, item in enumerate(settings.backends):
        if not isinstance(item, schema.Interface):
            continue
        from .wireguard import can_mark, can_read_wireguard  # who needs neither pays for neither

        if item.fwmark and not can_mark():
            message = f"needs the capability CAP_NET_ADMIN: {advice}, or leave the mark out"
            faults.append(Fault(f"backends[{index}]", "fwmark", message))
        if item.health.type == "wireguard" and not can_read_wireguard():
            message = f"'wireguard' needs the capability CAP_NET_ADMIN: {advice}"
            faults.append(Fault(f"backends[{index}].health", "type", message))
    for index, network in enumerate(settings.mesh.networks if settings.mesh.enabled else ()):
        if network.source != "wireguard":
            continue
        from .wireguard import can_read_wireguard

        if not can_read_wireguard():
            message = f"'wireguard' needs the capability CAP_NET_ADMIN: {advice}"
            faults.append(Fault(f"mesh.networks[{index}]", "source", message))
    return faults


def _slow_hashes(settings: schema.Settings) -> list[Fault]:
    """Password hashes that would hold clients up on this machine."""
    if not settings.users:
        return []
    from .passwd import too_costly

    return [
        Fault(
            f"users[{index}]",
            "password_hash",
            f"takes {seconds:.1f} s to check on this machine; make it anew with "
            "`bifrost-lite passwd` here",
        )
        for index, seconds in too_costly(settings.users, thread_time)
    ]


class Builder:
    """Makes policies, and keeps what is to outlive them.

    Args:
        dispatcher: calls the plane
        is_own: whether an address is this machine's
        changed: told of each change in the condition of a backend, with its name
        cut: told the way whose device is gone, and its connections with it
        moved: told the name of a backend whose device has other addresses now

    Attributes:
        ports: what the daemon itself listens on; never reached through itself
        links: the network devices
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        is_own: Callable[[bytes], bool],
        changed: Callable[[str, Condition], None],
        cut: Callable[[Way], None],
        moved: Callable[[str], None],
    ) -> None:
        self.dispatcher = dispatcher
        self.is_own = is_own
        self.changed = changed
        self.cut = cut
        self.moved = moved
        self.ports: frozenset[int] = frozenset()
        self.links: Links | None = None  # until somebody needs them
        self._counters: dict[str, Counters] = {}
        self._groups: list[Group] = []  # of the policy in force

    def policy(
        self,
        prepared: Prepared,
        resolver: Resolver,
        old: Policy | None = None,
        known: schema.Settings | None = None,
    ) -> Policy:
        """The rules that prepared settings ask for; nothing is in force yet.

        Args:
            prepared: from `prepare`
            resolver: of this configuration
            old: the rules in force; what would come out as it is there is taken from there
            known: the settings that they were made of
        """
        settings = prepared.settings
        if old is None or known is None:
            backends = self._backends(settings, resolver, {}, False)
            self._follow(backends)
            users = self._users(settings)
        else:
            same = (
                settings.resolver == known.resolver
                and settings.access.allow_local == known.access.allow_local
            )
            before = {item.name: item for item in known.backends}
            kept = {
                item.name: old.backends[item.name]
                for item in settings.backends
                if item == before.get(item.name)
            }
            if same and settings.backends == known.backends:
                backends = old.backends
            else:
                backends = self._backends(settings, resolver, kept, same)
            users = old.users if settings.users == known.users else self._users(settings)
        limits = settings.limits
        return Policy(
            prepared.router,
            backends,
            settings.access.allow,
            settings.access.deny,
            min(limits.max_connections, _descriptor_limit(limits.max_connections)),
            limits.max_connections_per_client,
            settings.http.via,
            users,
        )

    def retire(self, old: Policy, new: Policy | None) -> None:
        """Give back what `old` holds and `new`, which is in force now, does not use."""
        used: Mapping[str, Backend] = {}
        if new is not None:
            used = new.backends
            self._follow(used)
            # What carries connections still, or will when a backend of that name comes back.
            self._counters = {
                name: counters
                for name, counters in self._counters.items()
                if name in used or counters.active
            }
        for name, backend in old.backends.items():
            if used.get(name) is not backend:
                backend.close()
        if old.users is not None and (new is None or old.users is not new.users):
            old.users.close()

    def close(self) -> None:
        """Hear no more of network devices."""
        if self.links is not None:
            self.links.close()

    def _changed(self, name: str, condition: Condition) -> None:
        """The condition of a backend changed: groups follow."""
        self.changed(name, condition)
        for group in self._groups:
            if any(member.condition is condition for member in group.members):
                group.refresh(self.dispatcher.now)

    def _follow(self, backends: Mapping[str, Backend]) -> None:
        """Let the conditions of these groups follow those of their members, from now on."""
        self._groups = [
            cast("Group", backend) for backend in backends.values() if backend.members
        ]
        for group in self._groups:  # what an inner one changes reaches the outer ones
            group.refresh(self.dispatcher.now)

    def guard(self, allow_local: bool) -> Guard:
        """Why an address must not be dialled for a client: nobody reaches this machine, nor the
        proxy and its control through the proxy itself."""

        def guard(packed: bytes, port: int) -> Reason | None:
            if not is_special(packed) and not self.is_own(packed):
                return None
            if not allow_local:
                return Reason.TARGET_DENIED
            return Reason.LOOP if port in self.ports else None

        return guard

    def _users(self, settings: schema.Settings) -> Users | None:
        if not settings.users:
            return None
        from .users import Users  # who has none pays for none

        return Users(self.dispatcher, settings.users)

    def _backends(
        self,
        settings: schema.Settings,
        resolver: Resolver,
        kept: Mapping[str, Backend],
        same: bool,
    ) -> dict[str, Backend]:
        """Make all backends, but those that go on.

        Args:
            settings: of all
            resolver: of this configuration
            kept: what there is of each whose settings are as they were
            same: all else that a leaf is made of is as it was, too
        """
        asked = {item.name: item for item in settings.backends}
        groups = [item for item in settings.backends if isinstance(item, schema.Group)]
        members = {name for group in groups for name in group.members}
        guard = self.guard(settings.access.allow_local)
        backends: dict[str, Backend] = {}

        def make(name: str) -> Backend:
            """A group is made after its members, wherever it stands."""
            if name not in backends:
                item = asked[name]
                old = kept.get(name)
                known = old.condition if old is not None else None
                condition = self._condition(item, name in members, known)
                if isinstance(item, schema.Group):
                    within = tuple(make(member) for member in item.members)
                    backends[name] = _group(item, within, condition)
                elif old is not None and same and condition is known:
                    backends[name] = old
                else:
                    backends[name] = self._leaf(item, condition, resolver, settings.resolver, guard)
            return backends[name]

        for name in asked:
            make(name)
        return {name: backends[name] for name in asked}

    def _condition(
        self, item: schema.Backend, member: bool, kept: Condition | None
    ) -> Condition:
        """That of a backend: the one it has, or a fresh one. A group is no use without a look
        at its members, and to look at clients' connections costs nothing."""
        dials = isinstance(item, schema.Dialing)
        health = item.health if isinstance(item, schema.Dialing) else schema.Health()
        passive = health.type == "passive" or (dials and member and health.type == "none")
        watched = passive or health.type != "none"
        if kept is not None and (kept.watched, kept.passive) == (watched, passive):
            return kept
        return Condition(
            partial(self._changed, item.name),
            watched=watched,
            passive=passive,
            fall=health.fall,
            rise=health.rise,
            hold_down=health.hold_down,
        )

    def _leaf(
        self,
        item: schema.Backend,
        condition: Condition,
        resolver: Resolver,
        names: schema.Resolver,
        guard: Guard,
    ) -> Backend:
        counters = self._counters.setdefault(item.name, Counters())
        way = Way(item.name, item.type, self.dispatcher, counters, condition)
        if isinstance(item, schema.HttpProxy):
            return self._upstream(item, way, resolver, guard)
        if isinstance(item, schema.Interface):
            return self._interface(item, way, resolver, names, guard)
        if isinstance(item, schema.Direct):
            dialler, prober = self._diallers(item, way, resolver, guard)
            return Direct(way, dialler, prober)
        from .backends.block import Block

        return Block(way)

    def _upstream(
        self, item: schema.HttpProxy, way: Way, resolver: Resolver, guard: Guard
    ) -> Backend:
        seconds = item.connect_timeout
        dialler = Dialler(self.dispatcher, resolver, _unguarded, seconds=seconds)
        upstream = authority(item.address)
        login = (item.username, item.password)
        if isinstance(item, schema.Socks5Proxy):
            from .backends.socks5_proxy import Socks5Proxy

            return Socks5Proxy(way, dialler, upstream, *login, guard, seconds)
        from .backends.http_proxy import HttpProxy

        return HttpProxy(way, dialler, upstream, *login, guard, seconds)

    def _interface(
        self,
        item: schema.Interface,
        way: Way,
        resolver: Resolver,
        names: schema.Resolver,
        guard: Guard,
    ) -> Backend:
        from .backends.interface import Interface
        from .links import Links

        own = None
        if item.resolver:
            own = resolver = Resolver(
                self.dispatcher,
                servers=item.resolver,
                timeout=names.timeout,
                device=item.device,
                mark=item.fwmark,
            )
        dialler, prober = self._diallers(item, way, resolver, guard)
        if self.links is None:
            self.links = Links(self.dispatcher)
        backend = Interface(way, dialler, prober, self.links, item.device, own)
        backend.lost = partial(self.cut, way)
        backend.addressed = partial(self.moved, item.name)
        return backend

    def _diallers(
        self, item: schema.Direct, way: Way, resolver: Resolver, guard: Guard
    ) -> tuple[Dialler, Dialler]:
        """Those of clients, and those of checks, which may go anywhere and prove nothing."""
        device, mark = "", 0
        if isinstance(item, schema.Interface):
            device, mark = item.device, item.fwmark

        def dialler(guard: Guard, way: Way | None) -> Dialler:
            return Dialler(
                self.dispatcher,
                resolver,
                guard,
                seconds=item.connect_timeout,
                family=item.family,
                source=item.source,
                device=device,
                mark=mark,
                way=way,
            )

        return dialler(guard, way), dialler(_unguarded, None)


def _group(item: schema.Group, members: tuple[Backend, ...], condition: Condition) -> Backend:
    from .backends.group import Group

    return Group(item.name, item.strategy, members, item.weights, condition)


def _unguarded(packed: bytes, port: int) -> Reason | None:
    """What the operator named may be any address."""
    return None


def _descriptor_limit(wanted: int) -> int:
    """Raise the soft limit of descriptors as far as `wanted` connections need and the hard
    limit lets, and answer how many connections fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = SPARE_DESCRIPTORS + 2 * PIPES
    need = 2 * wanted + spare
    if soft < need:
        soft = need if hard == resource.RLIM_INFINITY else min(need, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        except (OSError, ValueError):
            soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    fit = max(8, (soft - spare) // 2)
    if fit < wanted:
        log.warning("only %d of %d connections fit into %d file descriptors", fit, wanted, soft)
    return fit
