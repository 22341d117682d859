"""/proxy.pac and /wpad.dat: the file by which browsers find the proxy; see `pac`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from stat import S_ISREG
from typing import TYPE_CHECKING

from ..auth import Peer
from ..config.schema import Settings
from ..errors import ProtocolError
from ..pac import LIMIT, Script
from ..rest import Call, Refused, Response
from ..target import Target, from_host, pack, read_authority
from .context import Context, Listener, in_thread

if TYPE_CHECKING:
    from ..lists import RouteList

MEDIA_TYPE = "application/x-ns-proxy-autoconfig"
LARGE = 100  # routes and patterns; the loop is not held for more than that
LISTS = "/etc/bifrost/lists"  # see `load.LISTS`

# The routes that files were made of last, and what is common to these files.
_made: tuple[Settings, asyncio.Task[Script]] | None = None


async def proxy_pac(ctx: Context, call: Call) -> Response:
    """The file for the client that asks."""
    settings = ctx.house.settings
    if not settings.pac.enabled:
        raise Refused(404, "pac_off", "No file for browsers is served: pac.enabled is false.")
    try:
        asked = read_authority((call.header(b"host") or "").encode("latin-1"), 80).host
        advertised = from_host(settings.pac.proxy.encode(), 1).host if settings.pac.proxy else ""
    except ProtocolError as error:
        raise Refused(400, "bad_host", f"The Host field cannot be a proxy: {error}.") from None
    ways = list(_ways(ctx, call.peer, asked, advertised))
    if not ways:
        raise Refused(
            503, "no_listener", "No listener of the proxy can be reached from your address."
        )
    own = dict.fromkeys((asked, *(target.host for _, target in ways)))
    script = await _script(ctx, settings)

    def render() -> bytes:
        return script.render(call.peer.client, ways, own).encode("ascii")

    text = render() if script.size <= LARGE else await in_thread(render)
    # It differs by client and by Host, and changes with the routes.
    return Response(200, text, MEDIA_TYPE, ("Cache-Control: private, no-cache",))


# What a browser may use.


def _ways(
    ctx: Context, peer: Peer, asked: str, advertised: str
) -> Iterator[tuple[str, Target]]:
    """For HTTP and for SOCKS the listener that the client reaches best, if there is one; of
    equals one that is for this alone, then one that is not the first way already: a second way
    by the same port would fail with it.

    No browser logs in to a SOCKS proxy, so one that wants that is none for it.
    """
    settings = ctx.house.settings
    free = {item.name for item in settings.listen if not item.auth}
    used = 0
    for kind, word in (("http", "PROXY"), ("socks", "SOCKS5")):
        found: list[tuple[tuple[int, bool, bool], str, int]] = []
        for listener in ctx.plane.listeners:
            fits = listener.open and listener.protocol in ("auto", kind)
            if fits and (kind == "http" or not settings.users or listener.name in free):
                rank, host = _reached(listener, peer, asked, advertised)
                if host:
                    order = (rank, listener.protocol != kind, listener.port == used)
                    found.append((order, host, listener.port))
        if found:
            _, host, used = min(found, key=lambda item: item[0])
            yield word, from_host(host.encode(), used)


def _reached(listener: Listener, peer: Peer, asked: str, advertised: str) -> tuple[int, str]:
    """How well a client reaches a listener, 0 is best, and by what host; "" where it does not."""
    address = pack(listener.address) or b""
    if _is_loopback(address) and not _is_loopback(peer.client):
        return 3, ""
    if advertised:
        return 0, advertised
    everywhere = not any(address)
    # It came to an address of ours by the host that it asked, and comes there again. The
    # wildcard of IPv6 takes IPv4 too.
    if address == peer.own or (everywhere and len(address) in (16, len(peer.own))):
        return 0, asked
    if not everywhere:
        return 1, listener.address
    # IPv4 alone, while the client came by IPv6: a name may lead to both.
    return 2, "" if pack(asked) is not None else asked


def _is_loopback(packed: bytes) -> bool:
    return packed[:1] == b"\x7f" if len(packed) == 4 else packed == bytes(15) + b"\1"


# What files have in common.


async def _script(ctx: Context, settings: Settings) -> Script:
    """The routes in force, made ready once for all clients that ask."""
    global _made
    if _made is None or _made[0] is not settings or _failed(_made[1]):
        making = _make(settings, ctx.plane.policy.router.lists, ctx.house.path)
        _made = settings, asyncio.get_running_loop().create_task(making, name="pac")
    # Who is cancelled must not take it from those that wait for the same.
    return await asyncio.shield(_made[1])


def _failed(task: asyncio.Task[Script]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


async def _make(
    settings: Settings, lists: Mapping[str, RouteList], path: str | None
) -> Script:
    def make() -> Script:
        return Script(settings.routes, settings.backends, _entries(settings, lists, path))

    parts = sum(
        1 + len(route.domains) + len(route.cidrs) + len(route.clients) for route in settings.routes
    )
    small = not lists and parts <= LARGE
    return make() if small else await in_thread(make)


def _entries(
    settings: Settings, lists: Mapping[str, RouteList], path: str | None
) -> dict[str, tuple[str, ...]]:
    """The entries of lists, by the names of their routes, as far as a file has room for them.

    The daemon keeps hashes only, so the files are read once more, and have to be what they were.
    """
    from ..lists import parse

    folders = [LISTS] if path is None else [os.path.dirname(os.path.abspath(path)), LISTS]
    found: dict[str, tuple[str, ...]] = {}
    room = LIMIT
    for route in settings.routes:
        listed = lists.get(route.name)
        if listed is None or len(listed) > room:
            continue
        for folder in folders:
            raw = _read(os.path.join(folder, route.list), room)
            if raw is None:
                continue
            lines = (line.partition(b"#")[0].strip().lower() for line in raw.split(b"\n"))
            entries = tuple(line.removesuffix(b".") for line in lines if line)
            again, faults = parse(entry + b"\n" for entry in entries)
            if again == listed and not faults:
                found[route.name] = tuple(entry.decode("ascii") for entry in entries)
                room -= len(raw)
            break
    return found


def _read(path: str, room: int) -> bytes | None:
    """A regular file of at most `room` bytes; None for anything else."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    try:
        if not S_ISREG(os.fstat(file).st_mode):
            return None
        raw = os.read(file, room + 1)
    except OSError:
        return None
    finally:
        os.close(file)
    return raw if len(raw) <= room else None
