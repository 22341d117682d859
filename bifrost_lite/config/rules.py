"""What no key can say alone: names that must exist, addresses that collide, open doors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from .. import acl
from . import values
from .faults import Path, shown
from .kinds import SHORTEST
from .schema import (
    Backend,
    Dialing,
    Direct,
    Group,
    HttpProxy,
    Interface,
    Listen,
    MeshNetwork,
    Route,
    Settings,
    Socks5Proxy,
    User,
)

Findings = Iterator[tuple[Path, str]]

_private = acl.Networks(
    ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7", "fe80::/10")
)
_loopback = acl.Networks(("127.0.0.0/8", "::1/128"))


def check(settings: Settings, unread: Collection[object] = ()) -> Findings:
    """What is wrong with settings that are right key by key.

    Args:
        settings: to be judged
        unread: sections that stand at their defaults only because they could not be read;
            rules that need one of them are left out
    """
    for sections, rule in _RULES:
        if not any(section in unread for section in sections):
            yield from rule(settings)


def _unique(section: str, items: Sequence[Listen | Backend | Route | User]) -> Findings:
    first: dict[str, int] = {}
    for index, item in enumerate(items):
        taken = first.setdefault(item.name, index)
        if taken != index and item.name:
            yield (section, index, "name"), f"the name '{item.name}' is that of {section}[{taken}]"


def _names(settings: Settings) -> Findings:
    yield from _unique("listen", settings.listen)
    yield from _unique("backends", settings.backends)
    yield from _unique("routes", settings.routes)
    yield from _unique("users", settings.users)


def _collisions(settings: Settings) -> Findings:
    """Listeners that could not both have their address."""
    taken: list[tuple[bytes, bool, int, str]] = []
    for path, where, host, port in _endpoints(settings):
        packed = values.address(host)
        both = host == "::" and path[0] == "listen"  # it takes IPv4 too
        for other, wide, number, owner in taken:
            # One socket on all addresses leaves no single one for another.
            met = both or wide or len(packed) == len(other)
            same = packed == other or (met and not (any(packed) and any(other)))
            if same and port == number:
                yield path, f"port {port} is taken there by {owner}"
                break
        if port:
            taken.append((packed, both, port, where))


def _endpoints(settings: Settings) -> Iterator[tuple[Path, str, str, int]]:
    for index, item in enumerate(settings.listen):
        yield ("listen", index, "port"), f"listen[{index}]", item.address, item.port
    for index, text in enumerate(settings.control.listen):
        yield ("control", "listen", index), f"control.listen[{index}]", *values.endpoint(text)


def _open_proxy(settings: Settings) -> Findings:
    """A public listener that serves everybody is found and abused within hours."""
    access = settings.access
    everybody = not access.allow or any(not values.network(text)[1] for text in access.allow)
    if access.allow_open or not everybody:
        return
    for index, item in enumerate(settings.listen):
        packed = values.address(item.address)
        if (
            _loopback.contains(packed)
            or _private.contains(packed)
            or (settings.users and item.auth)
        ):
            continue
        yield (
            ("listen", index, "address"),
            "this would be an open proxy: name the networks that may use it in access.allow, "
            "or set access.allow_open = true",
        )


def _control(settings: Settings) -> Findings:
    control = settings.control
    if not control.token and not control.allow_unauthenticated:
        for index, text in enumerate(control.listen):
            if not _loopback.contains(values.address(values.endpoint(text)[0])):
                yield (
                    ("control", "listen", index),
                    "is not a loopback address, so it needs control.token "
                    "(or control.allow_unauthenticated = true)",
                )
    if control.read_token and not control.token:
        yield ("control", "read_token"), "needs control.token too: without it everything is open"
    elif control.read_token and control.read_token == control.token:
        yield ("control", "read_token"), "is the same as control.token, and would open everything"
    if 0 < control.stats_interval < SHORTEST:
        yield ("control", "stats_interval"), "expected 0 for none, or a time from 100ms to 1h"


def _join_token(settings: Settings) -> Findings:
    join = settings.mesh.join_token
    if join and not settings.control.token:
        yield ("mesh", "join_token"), "needs control.token too: without it everything is open"
    elif join and join in (settings.control.token, settings.control.read_token):
        yield (
            ("mesh", "join_token"),
            "is the same as another token, and would open more than joining",
        )


def _resolver(settings: Settings) -> Findings:
    if settings.resolver.mode == "system" and settings.resolver.servers:
        yield ("resolver", "servers"), 'would be ignored with mode = "system", which asks its own'


def _backends(settings: Settings) -> Findings:
    for index, item in enumerate(settings.backends):
        path: Path = ("backends", index)
        if item.name == "direct" and item.type != "direct":
            yield (*path, "name"), "'direct' is the name of the backend that dials from this host"
        if isinstance(item, Dialing):
            yield from _health(item, path)
        if isinstance(item, Direct):
            yield from _direct(item, path)
        elif isinstance(item, HttpProxy):
            yield from _upstream(item, path)


def _direct(item: Direct, path: Path) -> Findings:
    if isinstance(item, Interface) and not item.device:
        yield (*path, "device"), "is missing: the device to dial through"
    if item.source and item.family in ("4", "6"):
        family = "4" if len(values.address(item.source)) == 4 else "6"
        if family != item.family:
            yield (*path, "source"), f"is no IPv{item.family} address, but family is {item.family}"


def _upstream(item: HttpProxy, path: Path) -> Findings:
    if not item.address:
        yield (*path, "address"), "is missing: the upstream proxy"
    if item.password and not item.username:
        yield (*path, "username"), "is missing: there is a password"
    if isinstance(item, Socks5Proxy):
        # RFC 1929 section 2: one byte holds the length of each.
        for key, text in (("username", item.username), ("password", item.password)):
            if len(text.encode()) > 255:
                yield (*path, key), "is longer than the 255 bytes that SOCKS5 can carry"
    elif ":" in item.username:
        yield (*path, "username"), "has a colon, which ends the user name (RFC 7617 section 2)"


def _health(item: Dialing, path: Path) -> Findings:
    health = item.health
    path = (*path, "health")
    wanted = {"tcp": values.authority, "http": values.http_url}.get(health.type)
    if wanted is not None:
        try:
            wanted(health.target)
        except ValueError as error:
            yield (*path, "target"), f"got {shown(health.target)}, {error}"
    if health.type == "http" and not health.expect:
        yield (*path, "expect"), "is empty: no answer could count as healthy"
    if health.type == "wireguard" and not isinstance(item, Interface):
        yield (*path, "type"), "'wireguard' needs a backend of type interface"
    if health.timeout > health.interval:
        timeout, interval = map(values.duration_text, (health.timeout, health.interval))
        yield (*path, "timeout"), f"is {timeout}, longer than the interval of {interval}"


def _own_upstreams(settings: Settings) -> Findings:
    """A proxy that is its own upstream would go round until its caps hold."""
    own = {
        (values.address(item.address), item.port): f"listen[{index}]"
        for index, item in enumerate(settings.listen)
    }
    for index, item in enumerate(settings.backends):
        if isinstance(item, HttpProxy) and item.address:
            target = values.authority(item.address)
            everywhere = bytes(len(target.packed or b""))
            found = own.get((target.packed or b"", target.port))
            if found is None and target.packed and _loopback.contains(target.packed):
                found = own.get((everywhere, target.port))
            if found is not None:
                yield ("backends", index, "address"), f"is this proxy itself, its {found}"


def _groups(settings: Settings) -> Findings:
    groups = {item.name: item for item in settings.backends if isinstance(item, Group)}
    known = {item.name for item in settings.backends}
    for index, item in enumerate(settings.backends):
        if not isinstance(item, Group):
            continue
        path: Path = ("backends", index)
        if not item.members:
            yield (*path, "members"), "is empty: a group needs a backend"
        for number, member in enumerate(item.members):
            if member not in known:
                yield (*path, "members", number), f"there is no backend '{member}'"
            elif member in item.members[:number]:
                yield (*path, "members", number), f"'{member}' is in the group already"
        if (item.weights or item.strategy == "weighted") and len(item.weights) != len(item.members):
            yield (*path, "weights"), "expected one number for each member"
        if _holds_itself(item.name, groups):
            yield (*path, "members"), "the group is a member of itself, directly or through others"


def _holds_itself(name: str, groups: dict[str, Group]) -> bool:
    seen: set[str] = set()
    ahead = list(groups[name].members)
    while ahead:
        member = ahead.pop()
        if member == name:
            return True
        if member in groups and member not in seen:
            seen.add(member)
            ahead.extend(groups[member].members)
    return False


def _routes(settings: Settings) -> Findings:
    known = {item.name for item in settings.backends}
    for index, item in enumerate(settings.routes):
        if not item.backend:
            yield ("routes", index, "backend"), "is missing: the backend that serves this route"
        elif item.backend not in known:
            yield ("routes", index, "backend"), f"there is no backend '{item.backend}'"


def _users(settings: Settings) -> Findings:
    for index, item in enumerate(settings.users):
        for key, text in (("name", item.name), ("password_hash", item.password_hash)):
            if not text:
                yield ("users", index, key), "is missing"


def _networks(settings: Settings) -> Findings:
    first: dict[str, int] = {}
    for index, item in enumerate(settings.mesh.networks):
        path: Path = ("mesh", "networks", index)
        if not item.id:
            yield (*path, "id"), "is missing"
        elif item.id in (".", ".."):
            yield (*path, "id"), "means another place in the path of a URL (RFC 3986 section 3.3)"
        elif first.setdefault(item.id, index) != index:
            yield (*path, "id"), f"is that of mesh.networks[{first[item.id]}]"
        yield from _network(item, path)


def _network(item: MeshNetwork, path: Path) -> Findings:
    if item.source == "wireguard":
        if not item.device:
            yield (*path, "device"), "is missing: the WireGuard device"
        return
    if not item.cidr:
        yield (*path, "cidr"), "is missing"
        return
    packed, length = values.network(item.cidr)
    if len(packed) == 4 and ":" in item.cidr:
        yield (*path, "cidr"), "is an IPv4 network: write it as one"
        return
    low, high = (8, 30) if len(packed) == 4 else (64, 126)
    if not low <= length <= high:
        yield (*path, "cidr"), f"expected a prefix length from {low} to {high}"


# Each rule with the sections that it reads.
_RULES: tuple[tuple[tuple[str, ...], Callable[[Settings], Findings]], ...] = (
    (("listen", "backends", "routes", "users"), _names),
    (("listen", "control"), _collisions),
    (("listen", "access", "users"), _open_proxy),
    (("control",), _control),
    (("control", "mesh"), _join_token),
    (("resolver",), _resolver),
    (("backends",), _backends),
    (("listen", "backends"), _own_upstreams),
    (("backends",), _groups),
    (("backends", "routes"), _routes),
    (("users",), _users),
    (("mesh",), _networks),
)
