"""Finding the addresses of names: cache, hosts, and name servers (or the C library).

Equal names that are looked up at the same time are one `Search`; each kind (A, AAAA) is
asked for at most once in it, and every look-up is told as soon as one of its kinds is known.

Order of sources: the hosts file, the cache, the address itself, `localhost` and what else
RFC 6761 reserves, and then the `Asker`: the stub's `Query`, or `SystemQuery`, which leaves
it to getaddrinfo.

At the bound: the cache forgets its oldest name; searches wait for a free place, and when
too many wait a look-up fails at once.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Sequence
from typing import Protocol

from .dispatch import NEVER, Deadlines, Dispatcher
from .errors import ProtocolError, Reason
from .names import parse_hosts, parse_resolv_conf, parse_server
from .query import Query, Servers
from .system import SystemQuery
from .target import from_host
from .wire.dns import AAAA, MAX_NAME, A, MessageError, encode_name

log = logging.getLogger("bifrost.resolve")

MAX_NAMES = 512  # in the cache, of each kind
MAX_ADDRESSES = 32  # of one name and kind; a dial tries half of it
MAX_SEARCHES = 64  # under way at once; each may hold a socket per server
MAX_THREADS = 4  # the same where each is a thread in getaddrinfo
MAX_WAITING = 256  # searches waiting for a place
LONGEST, LONGEST_NEGATIVE = 3600, 60  # seconds in the cache, whatever the TTL
FILE_SIZE = 262144  # bytes read of hosts and resolv.conf
FILE_CHECK = 1.0  # seconds between two looks at them
TICKS = 5  # servers asked, one after another, within the time-out

# The kinds that a family wants, in order of preference.
_KINDS = {"auto": (AAAA, A), "prefer4": (A, AAAA), "4": (A,), "6": (AAAA,)}
# A name with two labels at least, of which the last cannot be a number's or a reserved one:
# most are such, and need no closer look.
_is_ordinary = re.compile(
    r"(?:[a-z0-9_-]{1,63}\.)+(?!localhost|invalid)[a-z][a-z0-9_-]{0,62}"
).fullmatch
_LOOPBACK = (b"\x7f\0\0\1", bytes(15) + b"\1")

# All addresses known so far in order of preference, why there are none, whether that is all.
Tell = Callable[[tuple[bytes, ...], "Reason | None", bool], None]


class Asker(Protocol):
    """What asks for one name; it has a `Report` to give it to."""

    def ask(self, kind: int) -> None:
        """Ask for A or AAAA; the report may come before this returns."""

    def close(self) -> None:
        """Report no more."""


class Lookup:
    """A look-up that is waiting for its answer."""

    __slots__ = ("kinds", "search", "tell")

    def __init__(self, search: Search, kinds: tuple[int, ...], tell: Tell) -> None:
        self.search: Search | None = search
        self.kinds = kinds
        self.tell = tell

    def cancel(self) -> None:
        """Hear no more; the search goes on for the cache once it has begun."""
        search, self.search = self.search, None
        if search is not None:
            search.leave(self)


class Search:
    """One name being looked up, for all who want it.

    Attributes:
        name: of the host
        known: addresses by kind; no addresses are a result too
        asker: who finds out, None while the search waits for a place
    """

    __slots__ = ("_lookups", "_missing", "_resolver", "_wanted", "asker", "known", "name")

    def __init__(self, resolver: Resolver, name: str) -> None:
        self._resolver = resolver
        self.name = name
        self.asker: Asker | None = None
        self.known: dict[int, tuple[bytes, ...]] = {}
        self._missing: dict[int, Reason] = {}
        self._wanted: list[int] = []
        self._lookups: dict[Lookup, None] = {}

    def join(self, kinds: tuple[int, ...], tell: Tell) -> Lookup:
        """Tell of these kinds what is known, and find the others."""
        lookup = Lookup(self, kinds, tell)
        self._lookups[lookup] = None
        fresh = [kind for kind in kinds if kind not in self.known and kind not in self._wanted]
        self._wanted += fresh
        self._tell(lookup)
        if self.asker is not None:
            self._ask(self.asker, fresh)
        return lookup

    def leave(self, lookup: Lookup) -> None:
        """Tell this one no more."""
        del self._lookups[lookup]
        if not self._lookups and self.asker is None:
            self._resolver.ended(self)

    def start(self, asker: Asker) -> None:
        """There is a place for this search."""
        self.asker = asker
        self._ask(asker, list(self._wanted))

    def found(
        self, kind: int, addresses: tuple[bytes, ...], ttl: int, reason: Reason | None
    ) -> None:
        """The report of the asker."""
        self._wanted.remove(kind)
        self.known[kind] = addresses = addresses[:MAX_ADDRESSES]
        if reason is None or reason is Reason.DNS_NOT_FOUND:
            self._resolver.remember(self.name, kind, addresses, ttl)
        if reason is not None:
            self._missing[kind] = reason
        if not self._wanted:
            self._remember_silence()
            self._resolver.ended(self)
        for lookup in list(self._lookups):
            if kind in lookup.kinds and lookup.search is self:
                self._tell(lookup)

    def fail(self, reason: Reason) -> None:
        """Nothing more can be found."""
        if self.asker is not None:
            self.asker.close()
        for kind in list(self._wanted):
            if kind in self._wanted:
                self.found(kind, (), 0, reason)

    def late(self) -> None:
        """Its time is up."""
        self.fail(Reason.DNS_TIMEOUT)

    def _ask(self, asker: Asker, kinds: list[int]) -> None:
        for kind in kinds:
            if kind in self._wanted:  # the report of one may have ended it all
                asker.ask(kind)

    def _remember_silence(self) -> None:
        """Where one kind has addresses, do not let each look-up wait for the other again."""
        if any(self.known.values()):
            for kind, reason in self._missing.items():
                if reason is not Reason.DNS_NOT_FOUND:
                    self._resolver.remember(self.name, kind, (), LONGEST_NEGATIVE)

    def _tell(self, lookup: Lookup) -> None:
        addresses: tuple[bytes, ...] = ()
        done = True
        for kind in lookup.kinds:
            if kind in self.known:
                addresses += self.known[kind]
            else:
                done = False
        if not (done or addresses):
            return
        reason = None
        if done:
            lookup.search = None
            del self._lookups[lookup]
            reason = None if addresses else self._why(lookup.kinds)
        try:
            lookup.tell(addresses, reason, done)
        except Exception:  # the others who wait for this name shall not pay for it
            log.exception("the answer to a look-up was not taken")

    def _why(self, kinds: tuple[int, ...]) -> Reason:
        reasons = [self._missing.get(kind) for kind in kinds]
        for reason in (Reason.DNS_TIMEOUT, Reason.DNS_FAILED):
            if reason in reasons:
                return reason
        return Reason.DNS_NOT_FOUND


class Resolver:
    """Finds addresses.

    Args:
        dispatcher: calls the sockets and watches the deadlines
        mode: ``stub`` asks name servers itself, ``system`` calls getaddrinfo in threads
        servers: name servers, as for `parse_server`; none: those of `resolv_conf`
        timeout: seconds for one name, over all servers
        device: network device through which name servers are asked, "" for any
        resolv_conf: file with the servers and the domains to search single labels in
        hosts: file with names that are not asked for
        mark: firewall mark of what is asked, 0 for none

    Raises:
        ValueError: a server is none, or the device cannot be used that way
    """

    __slots__ = (
        "_cache", "_closed", "_deadline", "_dispatcher", "_domains", "_hosts", "_hosts_file",
        "_next_look", "_places", "_resolv_conf", "_retired", "_running", "_searches", "_servers",
        "_starting", "_system", "_waiting",
    )  # fmt: skip

    def __init__(
        self,
        dispatcher: Dispatcher,
        mode: str = "stub",
        servers: Sequence[str] = (),
        timeout: float = 5.0,
        device: str = "",
        resolv_conf: str = "/etc/resolv.conf",
        hosts: str = "/etc/hosts",
        mark: int = 0,
    ) -> None:
        self._system = mode == "system"
        if self._system and device:
            raise ValueError("The system's resolver cannot be bound to a device.")
        fixed = tuple(parse_server(server) for server in servers)
        self._dispatcher = dispatcher
        self._servers = Servers(dispatcher, timeout / TICKS, device, mark)
        self._servers.list = fixed
        self._deadline = Deadlines(dispatcher, timeout, Search.late)
        self._places = MAX_THREADS if self._system else MAX_SEARCHES
        self._running = 0
        self._starting = False
        self._closed = self._retired = False
        self._searches: dict[str, Search] = {}
        self._waiting: dict[Search, None] = {}
        # By kind and name: when it is too old, and the addresses.
        self._cache: dict[int, dict[str, tuple[float, tuple[bytes, ...]]]] = {A: {}, AAAA: {}}
        self._hosts: dict[str, tuple[bytes, ...]] = {}
        self._domains: tuple[str, ...] = ()
        self._hosts_file = _File(hosts)
        self._resolv_conf = None if fixed else _File(resolv_conf)
        self._next_look = NEVER if self._system else 0.0

    def lookup(self, name: str, family: str, tell: Tell) -> Lookup | None:
        """Find the addresses of a name.

        Args:
            name: lower-case, without trailing dot
            family: ``auto``, ``prefer4`` (IPv4 first), ``4`` or ``6``
            tell: called with all addresses known so far, each time more become known, and
                exactly once with True, at the end; with a reason then if there are none

        Returns:
            what can be cancelled, or None if `tell` has had its last call already
        """
        kinds = _KINDS[family]
        now = self._dispatcher.now
        if now >= self._next_look:
            self._look(now)
        local = self._hosts.get(name)
        if local is not None:
            _answer(local, kinds, tell)
            return None
        addresses: tuple[bytes, ...] = ()
        for kind in kinds:
            entry = self._cache[kind].get(name)
            if entry is None or entry[0] <= now:
                return self._search(name, kinds, tell)
            addresses += entry[1]
        tell(addresses, None if addresses else Reason.DNS_NOT_FOUND, True)
        return None

    def retire(self) -> None:
        """The configuration that made it is gone: close when what is under way has ended."""
        self._retired = True
        if not self._searches:
            self.close()

    def close(self) -> None:
        """Fail what is under way, and leave the dispatcher."""
        if self._closed:
            return
        self._closed = True
        for search in list(self._searches.values()):
            search.fail(Reason.DNS_FAILED)
        self._deadline.close()
        self._servers.close()

    def remember(self, name: str, kind: int, addresses: tuple[bytes, ...], ttl: int) -> None:
        """Keep a result for `ttl` seconds, within reason; no addresses are one too."""
        cache = self._cache[kind]
        cache.pop(name, None)
        if len(cache) >= MAX_NAMES:
            del cache[next(iter(cache))]
        seconds = min(max(ttl, 1), LONGEST if addresses else LONGEST_NEGATIVE)
        cache[name] = (self._dispatcher.now + seconds, addresses)

    def ended(self, search: Search) -> None:
        """Nobody waits for it, or there is nothing left to wait for."""
        if self._searches.get(search.name) is not search:
            return
        del self._searches[search.name]
        self._deadline.stop(search)
        self._waiting.pop(search, None)
        if search.asker is not None and not self._system:
            self._leave_place()
        if self._retired and not self._searches:
            self._dispatcher.again(self.close)  # not while one of its queries is at work

    def _search(self, name: str, kinds: tuple[int, ...], tell: Tell) -> Lookup | None:
        """The part of `lookup` for what is not at hand."""
        reserved = _reserved(name)
        if reserved is not None:
            _answer(reserved, kinds, tell)
            return None
        search = self._searches.get(name)
        if search is None:
            full = self._running >= self._places and len(self._waiting) >= MAX_WAITING
            if full or self._closed:
                tell((), Reason.DNS_FAILED, True)
                return None
            search = self._searches[name] = Search(self, name)
            self._waiting[search] = None
            self._deadline.start(search)
        for kind in kinds:
            entry = self._cache[kind].get(name)
            if entry is not None and entry[0] > self._dispatcher.now:
                search.known.setdefault(kind, entry[1])
        lookup = search.join(kinds, tell)
        self._fill_places()
        return lookup if lookup.search is not None else None

    def _fill_places(self) -> None:
        if self._starting:  # a search that ends at once must not start the next inside it
            return
        self._starting = True
        while self._waiting and self._running < self._places and not self._closed:
            search = next(iter(self._waiting))
            del self._waiting[search]
            self._running += 1
            search.start(self._asker(search))
        self._starting = False

    def _leave_place(self) -> None:
        self._running -= 1
        self._fill_places()

    def _asker(self, search: Search) -> Asker:
        if self._system:
            return SystemQuery(search.name, search.found, self._leave_place)
        names = []
        if "." not in search.name:
            for domain in self._domains:
                try:
                    names.append(encode_name(f"{search.name}.{domain}"))
                except MessageError:
                    continue
        return Query(self._servers, [*names, encode_name(search.name)], search.found)

    def _look(self, now: float) -> None:
        """Read the files again if they have changed."""
        self._next_look = now + FILE_CHECK
        text = self._hosts_file.changed()
        if text is not None:
            self._hosts = parse_hosts(text)
            self._hosts.pop("localhost", None)  # RFC 6761: it is loopback, whatever they say
        text = self._resolv_conf.changed() if self._resolv_conf else None
        if text is not None:
            self._servers.list, self._domains = parse_resolv_conf(text)
            self._servers.first = 0
            for cache in self._cache.values():
                cache.clear()


class _File:
    """A text file that is read again when it has changed."""

    __slots__ = ("_mark", "_path")

    def __init__(self, path: str) -> None:
        self._path = path
        self._mark: tuple[int, ...] | None = ()

    def changed(self) -> str | None:
        """Its text if that is new, "" where it cannot be read."""
        try:
            stat = os.stat(self._path)
            mark = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        except OSError:
            mark = None
        if mark == self._mark:
            return None
        self._mark = mark
        try:
            with open(self._path, "rb") as file:
                return file.read(FILE_SIZE).decode("ascii", "replace")
        except OSError:
            return ""


def _reserved(name: str) -> tuple[bytes, ...] | None:
    """The addresses of what needs no asking, None for a name that does."""
    if _is_ordinary(name) and len(name) <= MAX_NAME:
        return None
    try:
        packed = from_host(name.encode("ascii", "replace"), 1).packed
    except ProtocolError:
        return ()
    if packed is not None:
        return (packed,)
    top = name.rpartition(".")[2]
    if top == "localhost":
        return _LOOPBACK
    return () if top == "invalid" else None


def _answer(addresses: tuple[bytes, ...], kinds: tuple[int, ...], tell: Tell) -> None:
    chosen: tuple[bytes, ...] = ()
    for kind in kinds:
        size = 4 if kind == A else 16
        chosen += tuple(packed for packed in addresses if len(packed) == size)
    tell(chosen, None if chosen else Reason.DNS_NOT_FOUND, True)
