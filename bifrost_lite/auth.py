"""Who may ask the control server what. Pure: the clock and the machine are arguments.

The checks stand in an order that tells nothing to those who may not know: first whether the
request was meant for this machine at all (a page that rebound its name, DNS rebinding), then
whether the page that sent it may, then the token; only then does anybody look at the path.
There are no cookies, so a browser never has a token to be tricked out of.
"""

from __future__ import annotations

import re
from _operator import _compare_digest
from collections.abc import Callable, Collection, Sequence
from enum import IntEnum
from math import ceil

from msgspec import Struct

from .config.schema import Control
from .rest import Call, Refused, unescape
from .target import pack, unpack
from .throttle import Throttle

_host_re = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,253})(?::([0-9]{1,5}))?").fullmatch
_origin_re = re.compile(
    r"(https?)://(\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,253})(?::([0-9]{1,5}))?"
).fullmatch
_LOOPBACK_ORIGINS = frozenset(("localhost", "127.0.0.1", "::1"))
_PREFLIGHT = (
    "Access-Control-Allow-Methods: GET, HEAD, POST, PUT, PATCH, DELETE",
    "Access-Control-Allow-Headers: Authorization, Content-Type, If-Match, Last-Event-ID",
    "Access-Control-Max-Age: 600",
)


class Level(IntEnum):
    """What a token opens; that for joining meshes only the calls that name it."""

    NOTHING, JOIN, READ, EVERYTHING = range(4)


class Peer(Struct, frozen=True, gc=False):
    """The two ends of a control connection.

    Attributes:
        client: packed address of the client
        own: packed address of ours that it reached
        name: the client's address as text
    """

    client: bytes
    own: bytes
    name: str


class Guard:
    """Decides for all requests, before anything is upgraded, parsed further or run.

    Args:
        settings: the section `control`
        is_own: whether a packed address is one of this machine's
        hostname: its host name
        join_token: for joining meshes, "" for none
        is_peer: whether a token is that of the mesh peer which the parts of a path name
    """

    __slots__ = (
        "_hostname", "_is_own", "_is_peer", "_throttle", "_token", "_tokens", "_trusted_hosts",
        "_trusted_origins",
    )  # fmt: skip

    def __init__(
        self,
        settings: Control,
        is_own: Callable[[bytes], bool],
        hostname: str,
        join_token: str = "",
        is_peer: Callable[[Sequence[str], bytes], bool] = lambda parts, token: False,
    ) -> None:
        self._token = settings.token.encode()
        self._tokens = (
            (self._token, Level.EVERYTHING),
            (settings.read_token.encode(), Level.READ),
            (join_token.encode(), Level.JOIN),
        )
        self._is_peer = is_peer
        self._trusted_origins = frozenset(text.lower() for text in settings.trusted_origins)
        self._trusted_hosts = frozenset(_canonical(text) for text in settings.trusted_hosts)
        self._is_own = is_own
        self._hostname = hostname.lower()
        self._throttle = Throttle()

    def admit(
        self, call: Call, peer: Peer, public: bool, now: float, keys: Collection[str] = ()
    ) -> tuple[str, ...]:
        """Let `call` in, or not; tells it by `call.key` where one of `keys` had to open it.

        Args:
            call: the request
            peer: who sent it
            public: what it asks for is served to everybody
            now: a monotonic time in seconds
            keys: kinds of tokens that open it too, see `rest.Route`

        Returns:
            header fields for its answer (CORS)

        Raises:
            Refused: 421, 403, 401 or 429
        """
        host, port = self._check_host(call, peer)
        tokens = self._tokens_of(call) if self._token else []
        levels = [self._level(token) for token in tokens]
        level = max(levels, default=Level.NOTHING) if self._token else Level.EVERYTHING
        key = ""
        if level is not Level.EVERYTHING:
            if "join" in keys and Level.JOIN in levels:
                key = "join"
            elif "peer" in keys and any(self._is_peer(call.parts, token) for token in tokens):
                key = "peer"
        fields = self._check_origin(call, host, port, bool(level or key))
        if public or call.method == "OPTIONS":
            return fields
        call.key = key
        if not level and not key:
            raise self._unauthorized(peer, bool(tokens), now, fields)
        if level is Level.READ and call.method != "GET" and not key:
            raise Refused(403, "read_only", "This token may look, not change.", *fields)
        if level is Level.JOIN and not key:
            raise Refused(403, "join_only", "This token is for joining a mesh alone.", *fields)
        return fields

    def _check_host(self, call: Call, peer: Peer) -> tuple[str, str]:
        """The host and port that the client meant to ask. RFC 9110 section 7.4."""
        match = _host_re((call.header(b"host") or "").lower())
        if match is not None:
            host = _canonical(match[1])
            packed = pack(host)
            if packed is not None:
                mine = packed[:1] == b"\x7f" if len(packed) == 4 else packed == bytes(15) + b"\1"
                mine = mine or packed == peer.own or self._is_own(packed)
            else:
                mine = host in ("localhost", self._hostname) or host.endswith(".lan")
            if mine or host in self._trusted_hosts:
                return host, match[2] or "80"
        raise Refused(
            421,
            "wrong_host",
            "The Host field names another machine; trusted_hosts may list more names.",
        )

    def _tokens_of(self, call: Call) -> list[bytes]:
        """The tokens that came with `call`."""
        tokens = []
        header = (call.header(b"authorization") or "").strip().encode("latin-1")
        if header:
            scheme, _, rest = header.partition(b" ")
            tokens = [header] if scheme.lower() != b"bearer" else [rest.strip()]
        raw = call.parameter("token") or b""
        # Scripts paste the token into the address as it is, others escape it.
        tokens += [raw, (unescape(raw) or "").encode()]
        return [token for token in tokens if token]

    def _level(self, token: bytes) -> Level:
        """What a token opens. It is compared with all of ours, so time tells nothing."""
        same = [(_compare_digest(token, own), level) for own, level in self._tokens]
        return max((level for equal, level in same if equal), default=Level.NOTHING)

    def _check_origin(self, call: Call, host: str, port: str, known: bool) -> tuple[str, ...]:
        """CORS fields for the page that sent `call`, RFC 6454; () where none are needed.

        `known` is whether a right token came with it.
        """
        origins = [value for name, value in call.request.headers if name == b"origin"]
        if not origins:
            return ()
        origin = origins[0].decode("latin-1")
        match = _origin_re(origin.lower())
        name = _canonical(match[2]) if match is not None else ""
        # A preflight has no token yet; it opens nothing, the call after it has to have one.
        proven = bool(self._token) and (known or call.method == "OPTIONS")
        if len(origins) > 1 or not (
            origin.lower() in self._trusted_origins
            or (name and name == host)
            or (proven and name in _LOOPBACK_ORIGINS)
        ):
            raise Refused(
                403,
                "foreign_origin",
                "Pages of this origin may not call; trusted_origins may list it.",
            )
        if match is not None and (match[1], name, match[3] or "80") == ("http", host, port):
            return ()
        allow = (
            f"Access-Control-Allow-Origin: {origin}",
            "Access-Control-Expose-Headers: ETag",
            "Vary: Origin",
        )
        return allow + _PREFLIGHT if call.method == "OPTIONS" else allow

    def _unauthorized(
        self, peer: Peer, wrong: bool, now: float, fields: tuple[str, ...]
    ) -> Refused:
        wait = self._throttle.fail(peer.client, now) if wrong else 0.0
        if wait:
            return Refused(
                429,
                "too_many_wrong_tokens",
                "Too many wrong tokens came from your address; wait before you try another.",
                f"Retry-After: {ceil(wait)}",
                *fields,
            )
        message = "This token is wrong." if wrong else "A token is needed."
        return Refused(401, "unauthorized", message, "WWW-Authenticate: Bearer", *fields)


def _canonical(host: str) -> str:
    """One spelling for each host: lower case, no final dot, no brackets."""
    if host.startswith("["):
        host = host[1:-1]
    packed = pack(host)
    return unpack(packed) if packed is not None else host.lower().removesuffix(".")
