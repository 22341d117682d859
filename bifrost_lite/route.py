"""Which backend carries a request: the routes, indexed so that their number costs nothing.

A route matches if (domains or cidrs) and ports and clients; a kind that it lacks matches
all. The entries of its list are domains and cidrs too. The highest priority is asked first,
ties go by the order of the file, and the first match wins. Without any route everything goes
to the backend `direct`; once there is one, even a disabled one, what matches none is refused.

Names are matched by domains, addresses by cidrs; a name is never resolved for it. The
domain `*` matches both, as the implicit route does.

How it finds them
-----------------
Routes are numbered in the order in which they are asked. An index answers *buckets*: the
ascending numbers of the routes that share one pattern. `find` keeps the lowest number whose
ports and clients match too, so the order of the look-ups does not matter.

- Domains: one dict of whole names, one of what names may lie below. A host probes the second
  once per label. What is left of a label with stars is an index of the same kind again.
- Labels with stars are filed by the text before the first and after the last star; a label
  probes once per distinct pair of the lengths of the two, however many patterns there are.
  Only patterns that share both texts and differ between their stars are tried in turn.
- Networks: one dict per prefix length.
- Lists: one index of all of them, see `lists`; their entries with stars inside are as above.
- A route for any target is filed by its clients, else by its ports. Of those for anything
  at all only the first can win.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from .acl import Networks, fold, parse_network, prefix_mask

if TYPE_CHECKING:
    from .config.schema import Route
    from .lists import Index, RouteList

Bucket = tuple[int, ...]
Key = TypeVar("Key")


class Match(NamedTuple):
    """The route that a request takes.

    Attributes:
        route: its name
        backend: the name of the backend it leads to
    """

    route: str
    backend: str


class Candidate(NamedTuple):
    """A route as one request sees it.

    Attributes:
        route: its name
        backend: the name of the backend it leads to
        lost: "" for the match; "disabled", or the first of "target", "port" and "client"
            that does not match, or "later" where an earlier route took the request
        pattern: of its domains, networks and list the first that names the target; "" where
            none does, or it asks for no target
    """

    route: str
    backend: str
    lost: str
    pattern: str = ""


DEFAULT = Match("default", "direct")


class _Rule:
    """What a route asks."""

    __slots__ = ("anywhere", "clients", "listed", "match", "ports", "route")

    def __init__(self, route: Route, listed: RouteList | None) -> None:
        self.route = route
        self.listed = listed
        self.match = Match(route.name, route.backend)
        # With a list it has a target, even if there is nothing in the list.
        self.anywhere = not (route.domains or route.cidrs or route.list) or (
            "*" in route.domains or (listed is not None and "*" in listed.patterns)
        )
        self.ports = frozenset(route.ports)
        self.clients = Networks(route.clients)

    def refuses(self, port: int, client: bytes) -> str:
        """The word for what does not match, "" where all does."""
        if self.ports and port not in self.ports:
            return "port"
        if self.clients and not self.clients.contains(client):
            return "client"
        return ""

    def pattern(self, host: str, packed: bytes | None, told: dict[int, str]) -> str:
        """The first pattern that names the target, "" for none; `told` is what lists said, of
        which many routes may share one."""
        route, listed = self.route, self.listed
        for pattern in route.domains:
            if _fits(pattern.lower(), host, packed):
                return pattern
        if packed is not None:
            for cidr in route.cidrs:
                if Networks((cidr,)).contains(packed):
                    return cidr
        if listed is None:
            return ""
        if id(listed) not in told:
            fitting = (pattern for pattern in listed.patterns if _fits(pattern, host, packed))
            told[id(listed)] = listed.entry(host, packed) or next(fitting, "")
        entry = told[id(listed)]
        return f"{entry} in {route.list}" if entry else ""


class Router:
    """The routes of one configuration.

    Args:
        routes: in the order of the file
        lists: of routes that have one, by the routes' names; without it no target is listed

    Raises:
        ValueError: a network among them is none

    Attributes:
        lists: they
    """

    __slots__ = (
        "_always", "_by_cidr", "_by_client", "_by_list", "_by_name", "_by_port", "_default",
        "_disabled", "_rules", "lists",
    )  # fmt: skip

    def __init__(
        self, routes: Iterable[Route], lists: Mapping[str, RouteList] | None = None
    ) -> None:
        ordered = sorted(routes, key=lambda route: -route.priority)
        self._default = None if ordered else DEFAULT
        self._rules: list[_Rule] = []
        # The disabled ones, each with the number of the rule that it stands before.
        self._disabled: list[tuple[int, Match]] = []
        self._always = -1  # the first rule that asks nothing at all
        self._by_name = _Names()
        self._by_cidr = _Addresses()
        self._by_client = _Addresses()
        self._by_port: dict[int, Bucket] = {}
        self.lists: Mapping[str, RouteList] = lists or {}
        self._by_list: Index | None = None
        for route in ordered:
            if route.enabled:
                self._add(_Rule(route, self.lists.get(route.name)))
            else:
                self._disabled.append((len(self._rules), Match(route.name, route.backend)))
        if self.lists:
            from .lists import Index  # who has no list pays for none

            self._by_list = Index(self._listed())

    def find(self, host: str, packed: bytes | None, port: int, client: bytes) -> Match | None:
        """The route of a request, or None where it is refused.

        Args:
            host: the target's name, lower-case without trailing dot
            packed: the target's address of 4 or 16 bytes where it is no name
            port: the target's port
            client: the client's address, 4 or 16 bytes
        """
        if self._default is not None:
            return self._default
        number = self._first(host, packed, port, client)
        return self._rules[number].match if number >= 0 else None

    def explain(
        self, host: str, packed: bytes | None, port: int, client: bytes
    ) -> list[Candidate]:
        """Every route in the order in which it is asked, and why it lost.

        Args:
            host, packed, port, client: as for `find`
        """
        if self._default is not None:
            return [Candidate(*self._default, "")]
        won = self._first(host, packed, port, client)
        buckets = self._buckets(host, packed, port, client)
        reached = {number for bucket in buckets for number in bucket}
        candidates: list[Candidate] = []
        told: dict[int, str] = {}
        for number, rule in enumerate(self._rules):
            named = rule.anywhere or number in reached
            lost = rule.refuses(port, client) or ("" if number == won else "later")
            pattern = rule.pattern(host, packed, told) if named else ""
            candidates.append(Candidate(*rule.match, lost if named else "target", pattern))
        for number, match in reversed(self._disabled):
            candidates.insert(number, Candidate(*match, "disabled"))
        return candidates

    def _add(self, rule: _Rule) -> None:
        route, number = rule.route, len(self._rules)
        self._rules.append(rule)
        if not rule.anywhere:
            for pattern in route.domains:
                self._by_name.add(pattern.lower(), number)
            for pattern in rule.listed.patterns if rule.listed is not None else ():
                self._by_name.add(pattern, number)
            for cidr in route.cidrs:
                self._by_cidr.add(cidr, number)
        elif route.clients:
            for client in route.clients:
                self._by_client.add(client, number)
        elif route.ports:
            for port in rule.ports:
                _file(self._by_port, port, number)
        elif self._always < 0:
            self._always = number

    def _listed(self) -> list[tuple[RouteList, Bucket]]:
        """The lists that are asked, each with the rules that it belongs to."""
        found: dict[int, tuple[RouteList, Bucket]] = {}
        for number, rule in enumerate(self._rules):
            if rule.listed is not None and not rule.anywhere:
                _, bucket = found.get(id(rule.listed), (rule.listed, ()))
                found[id(rule.listed)] = rule.listed, (*bucket, number)
        return list(found.values())

    def _first(self, host: str, packed: bytes | None, port: int, client: bytes) -> int:
        rules = self._rules
        first = self._always
        for bucket in self._buckets(host, packed, port, client):
            for number in bucket:
                if 0 <= first <= number:
                    break
                if not rules[number].refuses(port, client):
                    first = number
                    break
        return first

    def _buckets(
        self, host: str, packed: bytes | None, port: int, client: bytes
    ) -> list[Bucket]:
        """What the indexes know of the request; a rule in none of them cannot match."""
        found: list[Bucket] = []
        if packed is not None:
            self._by_cidr.find(packed, found)
        else:
            self._by_name.find(host, found)
        if self._by_list is not None:
            self._by_list.find(host, packed, found)
        self._by_client.find(client, found)
        if port in self._by_port:
            found.append(self._by_port[port])
        return found


def _file(index: dict[Key, Bucket], key: Key, number: int) -> None:
    """Add a rule, numbered above all before it, to the bucket of `key`."""
    bucket: Bucket = index.get(key, ())
    if number not in bucket[-1:]:
        index[key] = (*bucket, number)


class _Addresses:
    """Networks, and the rules that name them."""

    __slots__ = ("_tables",)

    def __init__(self) -> None:
        self._tables: dict[int, dict[int, dict[int, Bucket]]] = {4: {}, 16: {}}

    def add(self, cidr: str, number: int) -> None:
        packed, length = parse_network(cidr)
        mask = prefix_mask(length, len(packed) * 8)
        networks = self._tables[len(packed)].setdefault(mask, {})
        _file(networks, int.from_bytes(packed, "big"), number)

    def find(self, packed: bytes, found: list[Bucket]) -> None:
        packed = fold(packed)
        tables = self._tables[len(packed)]
        if tables:
            address = int.from_bytes(packed, "big")
            for mask, networks in tables.items():
                bucket = networks.get(address & mask)
                if bucket is not None:
                    found.append(bucket)


class _Names:
    """Domain patterns, and the rules that name them.

    It is used for whole names, and again for what stands left of a label with stars; only
    the latter may be empty.
    """

    __slots__ = ("_below", "_exact", "_starred")

    def __init__(self) -> None:
        self._exact: dict[str, Bucket] = {}
        self._below: dict[str, Bucket] = {}  # by what follows the dot, "" for any name
        self._starred: dict[str, _Labels] = {}  # by what follows the last label with stars

    def add(self, pattern: str, number: int) -> None:
        """File a pattern other than `*`."""
        if pattern.startswith("*."):
            self._add(pattern[2:].split("."), False, True, number)
        elif pattern.startswith("."):
            self._add(pattern[1:].split("."), True, True, number)
        else:
            self._add(pattern.split("."), True, False, number)

    def _add(self, labels: list[str], apex: bool, below: bool, number: int) -> None:
        for i in reversed(range(len(labels))):
            if "*" in labels[i]:
                starred = self._starred.setdefault(".".join(labels[i + 1 :]), _Labels())
                starred.names(labels[i])._add(labels[:i], apex, below, number)
                return
        name = ".".join(labels)
        if apex:
            _file(self._exact, name, number)
        if below:
            _file(self._below, name, number)

    def find(self, name: str, found: list[Bucket]) -> None:
        """Add the buckets of all patterns that match `name`."""
        bucket: Bucket | None = self._exact.get(name)
        if bucket is not None:
            found.append(bucket)
        if not name or not (self._below or self._starred):
            return
        tail, end = "", len(name)
        while end > 0:
            dot = name.rfind(".", 0, end)
            bucket = self._below.get(tail)
            if bucket is not None:
                found.append(bucket)
            starred = self._starred.get(tail)
            if starred is not None:
                starred.find(name[dot + 1 : end], name[: max(dot, 0)], found)
            tail, end = name[dot + 1 :], dot


class _Labels:
    """Labels with stars, each with what may stand left of it."""

    __slots__ = ("_shapes",)

    def __init__(self) -> None:
        # By the lengths of the first and the last piece, by these, by the pieces between.
        self._shapes: dict[
            tuple[int, int], dict[tuple[str, str], dict[tuple[str, ...], _Names]]
        ] = {}

    def names(self, label: str) -> _Names:
        """What stands left of `label`, a pattern."""
        first, *between, last = label.split("*")
        shape = self._shapes.setdefault((len(first), len(last)), {})
        return shape.setdefault((first, last), {}).setdefault(tuple(between), _Names())

    def find(self, label: str, head: str, found: list[Bucket]) -> None:
        """Add the buckets of all patterns that match `label` with `head` left of it."""
        for (start, last), shape in self._shapes.items():
            end = len(label) - last
            if end < start:
                continue
            filed = shape.get((label[:start], label[end:]))
            if filed is not None:
                for between, names in filed.items():
                    if _in_order(between, label, start, end):
                        names.find(head, found)


def _fits(pattern: str, host: str, packed: bytes | None) -> bool:
    """Whether one domain pattern alone names a target."""
    if pattern == "*" or packed is not None:
        return pattern == "*"
    if not host.endswith(pattern.rpartition("*")[2].lstrip(".")):
        return False  # as most; the rest is dearer
    names, found = _Names(), list[Bucket]()
    names.add(pattern, 0)
    names.find(host, found)
    return bool(found)


def _in_order(pieces: tuple[str, ...], label: str, start: int, end: int) -> bool:
    """Whether the pieces stand in `label[start:end]` one after another."""
    for piece in pieces:
        at = label.find(piece, start, end)
        if at < 0:
            return False
        start = at + len(piece)
    return True
