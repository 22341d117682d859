"""What handlers of the control server see: calls, answers, refusals, routes.

A handler is ``async def name(ctx, call) -> Response``. It reads its parameters from the
`Call`, raises `Refused` for what it does not like, and answers a Struct by `reply`.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from time import gmtime, strftime
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec
from msgspec import Struct

from .errors import BifrostError, Fault
from .target import pack, unpack
from .wire.http1 import Request

if TYPE_CHECKING:
    from .auth import Peer

Ctx = TypeVar("Ctx")
T = TypeVar("T")

BODY_LIMIT = 64 * 1024
_encode = msgspec.json.Encoder().encode
_escape = re.compile(rb"%([0-9A-Fa-f]{2})")
_integer = re.compile(r"[0-9]{1,15}").fullmatch


class FaultBody(Struct, omit_defaults=True):
    """One fault of a configuration, see `errors.Fault`; `line` only where there is a file."""

    section: str
    field: str
    message: str
    line: int = 0


class ErrorBody(Struct, omit_defaults=True):
    """The one form of errors.

    Attributes:
        error: a stable word
        message: a sentence
        errors: the faults of a configuration, left out where it is about none
    """

    error: str
    message: str
    errors: list[FaultBody] = []


# What every answer carries: it is shown in no frame, as no other type, and names no page.
SECURITY = (
    "X-Content-Type-Options: nosniff",
    "X-Frame-Options: DENY",
    "Referrer-Policy: no-referrer",
)
POLICY = "default-src 'none'; frame-ancestors 'none'"
_PHRASES = {
    200: "OK",
    201: "Created",
    204: "No Content",
    304: "Not Modified",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    412: "Precondition Failed",
    413: "Content Too Large",
    414: "URI Too Long",
    415: "Unsupported Media Type",
    417: "Expectation Failed",
    421: "Misdirected Request",
    422: "Unprocessable Content",
    426: "Upgrade Required",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
    507: "Insufficient Storage",
}


def render_head(status: int, fields: Iterable[str], policy: str = POLICY) -> bytes:
    """The head of an answer.

    Args:
        status: the HTTP status
        fields: header fields without line ends; framing is the caller's
        policy: the Content-Security-Policy
    """
    lines = [
        f"HTTP/1.1 {status} {_PHRASES.get(status, '')}",
        strftime("Date: %a, %d %b %Y %H:%M:%S GMT", gmtime()),
        *SECURITY,
        f"Content-Security-Policy: {policy}",
        *fields,
        "\r\n",
    ]
    return "\r\n".join(lines).encode("latin-1")


class Response:
    """An answer.

    Attributes:
        status: the HTTP status
        body: the whole body
        content_type: of the body
        headers: further fields, e.g. ``Allow: GET``, each without its line end
        policy: the Content-Security-Policy
    """

    __slots__ = ("body", "content_type", "headers", "policy", "status")

    def __init__(
        self,
        status: int,
        body: bytes = b"",
        content_type: str = "application/json",
        headers: Iterable[str] = (),
        policy: str = POLICY,
    ) -> None:
        self.status = status
        self.body = body
        self.content_type = content_type
        self.headers = tuple(headers)
        self.policy = policy

    def render(self, *, head_only: bool = False, connection: str = "") -> bytes:
        """The bytes of the answer.

        Args:
            head_only: leave the body out, RFC 9110 section 9.3.2
            connection: value of the Connection field, "" for none
        """
        fields = list(self.headers)
        if self.status not in (204, 304):  # a 304 tells no length: RFC 9110 section 15.4.5
            fields += [f"Content-Type: {self.content_type}", f"Content-Length: {len(self.body)}"]
        if connection:
            fields.append(f"Connection: {connection}")
        head = render_head(self.status, fields, self.policy)
        return head if head_only else head + self.body


class Takeover:
    """An answer by which the handler takes the socket for itself.

    Attributes:
        start: called with the non-blocking socket and what the client sent behind the head
    """

    __slots__ = ("start",)

    def __init__(self, start: Callable[[socket.socket, bytes], None]) -> None:
        self.start = start


class Refused(BifrostError):
    """The call is refused; becomes an answer in the one form of errors.

    Args:
        status: the HTTP status
        word: a stable word
        message: a sentence
        headers: further fields of the answer
        faults: what is wrong with the configuration that the call is about
    """

    def __init__(
        self, status: int, word: str, message: str, *headers: str, faults: Sequence[Fault] = ()
    ) -> None:
        super().__init__(message)
        self.status = status
        self.word = word
        self.message = message
        self.headers = headers
        self.faults = faults

    def response(self) -> Response:
        """The answer."""
        body = ErrorBody(self.word, self.message, [FaultBody(*fault) for fault in self.faults])
        return Response(self.status, _encode(body), headers=self.headers)


def reply(body: object, status: int = 200, *headers: str) -> Response:
    """A JSON answer from a Struct, with further header fields."""
    return Response(status, _encode(body), headers=("Cache-Control: no-store", *headers))


class Call:
    """One request to the control server.

    Args:
        request: the parsed head
        head: the raw head

    Raises:
        Refused: the target is no path

    Attributes:
        peer: who sent it
        method: e.g. ``GET``; a HEAD comes as GET
        path: without query, escapes decoded
        query: raw
        parts: values of the placeholders of the route
        body: the whole body
        head_only: it was a HEAD
        fields: fields that every answer to this call carries (CORS)
        key: which of the route's `keys` opened this call, where nothing else did; else ""
    """

    __slots__ = (
        "_parameters", "body", "fields", "head", "head_only", "key", "method", "parts", "path",
        "peer", "query", "request",
    )  # fmt: skip

    peer: Peer

    def __init__(self, request: Request, head: bytes) -> None:
        raw, _, query = request.target.partition(b"?")
        path = unescape(raw)
        # An escaped slash is none, RFC 3986 section 2.2, and no name here has one.
        if not raw.startswith(b"/") or path is None or b"%2f" in raw.lower():
            raise Refused(
                400, "bad_target", "This is the control port of a proxy: it answers paths alone."
            )
        self.method = request.method.decode("latin-1")
        self.head_only = self.method == "HEAD"
        if self.head_only:
            self.method = "GET"
        self.path = path
        self.query = query
        self.parts: list[str] = []
        self.request = request
        self.head = head
        self.body = b""
        self.fields: tuple[str, ...] = ()
        self.key = ""
        self._parameters: dict[str, bytes] | None = None

    def header(self, name: bytes) -> str | None:
        """The value of the first field of that lower-case name."""
        value = self.request.get(name)
        return None if value is None else value.decode("latin-1")

    def parameter(self, name: str) -> bytes | None:
        """The raw value of the first query parameter of that name."""
        if self._parameters is None:
            self._parameters = {}
            for pair in self.query.split(b"&"):
                key, _, value = pair.partition(b"=")
                self._parameters.setdefault(key.decode("latin-1"), value)
        return self._parameters.get(name)

    def text(self, name: str) -> str | None:
        """A query parameter, decoded; None where absent or empty.

        Raises:
            Refused: it is not UTF-8
        """
        raw = self.parameter(name)
        if not raw:
            return None
        value = unescape(raw.replace(b"+", b" "))
        if value is None:
            raise bad_parameter(name, "text in UTF-8")
        return value

    def number(self, name: str, low: int, high: int) -> int | None:
        """A query parameter that is a whole number; None where absent or empty.

        Raises:
            Refused: it is not one from `low` to `high`
        """
        value = self.text(name)
        if value is None:
            return None
        if not _integer(value) or not low <= int(value) <= high:
            raise bad_parameter(name, f"a whole number from {low} to {high}")
        return int(value)

    def choice(self, name: str, choices: Iterable[str]) -> str | None:
        """A query parameter that is one of `choices`; None where absent or empty.

        Raises:
            Refused: it is another
        """
        value = self.text(name)
        if value is not None and value not in choices:
            raise bad_parameter(name, "one of " + ", ".join(choices))
        return value

    def address(self, name: str) -> str | None:
        """A query parameter that is an IP address, in canonical text; None where absent.

        Raises:
            Refused: it is something else
        """
        value = self.text(name)
        if value is None:
            return None
        packed = pack(value)
        if packed is None:
            raise bad_parameter(name, "an IPv4 or IPv6 address")
        return unpack(packed)

    def json(self, kind: type[T], *, optional: bool = False) -> T:
        """The body as JSON of that form and nothing more; a large one belongs in a thread.

        Args:
            kind: a Struct, or another type that msgspec knows
            optional: no body at all is an empty object

        Raises:
            Refused: it does not come as JSON (415), or is at fault (400), see `wire.body`
        """
        from .wire.body import BodyError, decode  # who only looks sends none

        if optional and not self.body:
            return decode(b"{}", kind)
        media = (self.header(b"content-type") or "").partition(";")[0].strip().lower()
        if media != "application/json":
            raise Refused(
                415, "unsupported_media_type", "The body must come as application/json."
            )
        try:
            return decode(self.body, kind)
        except BodyError as error:
            raise Refused(400, error.word, error.message) from None


def bad_parameter(name: str, expected: str) -> Refused:
    """The refusal of a query parameter."""
    return Refused(400, "bad_parameter", f"The parameter '{name}' must be {expected}.")


def unescape(raw: bytes) -> str | None:
    """Percent-decoded UTF-8 text, RFC 3986 section 2.1; None if it is not that."""
    if b"%" in raw:
        if raw.count(b"%") != len(_escape.findall(raw)):
            return None
        raw = _escape.sub(lambda match: bytes((int(match[1], 16),)), raw)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


Handler = Callable[[Ctx, Call], Awaitable["Response | Takeover"]]


class Route(Struct, Generic[Ctx], frozen=True):
    """One call of the API.

    Attributes:
        method: GET, POST, PUT, PATCH or DELETE; HEAD and OPTIONS come by themselves
        path: its path; a segment ``{}`` is a placeholder
        handler: what answers it
        public: served without a token
        head: a HEAD is answered like its GET
        limit: bytes of body
        keys: kinds of tokens that open this call beside the control port's own: ``join``, that
            of meshes, and ``peer``, that of the peer which the path names
    """

    method: str
    path: str
    handler: Handler[Ctx]
    public: bool = False
    head: bool = True
    limit: int = BODY_LIMIT
    keys: tuple[str, ...] = ()


class Router(Generic[Ctx]):
    """Finds the routes of a path."""

    __slots__ = ("_routes",)

    def __init__(self, routes: Iterable[Route[Ctx]]) -> None:
        self._routes: dict[str, dict[str, Route[Ctx]]] = {}
        for route in routes:
            methods = self._routes.setdefault(route.path, {})
            assert route.method not in methods, route
            methods[route.method] = route

    def find(self, path: str) -> tuple[dict[str, Route[Ctx]], list[str]]:
        """The routes of a path by method, {} for none, and the values of its placeholders.

        A slash at the end is tolerated.
        """
        if len(path) > 1 and path.endswith("/"):
            path = path[:-1]
        if path in self._routes and "{}" not in path:
            return self._routes[path], []
        segments = path.split("/")
        for pattern, methods in self._routes.items():
            if "{}" in pattern:
                parts = _match(pattern.split("/"), segments)
                if parts is not None:
                    return methods, parts
        return {}, []


def _match(pattern: list[str], segments: list[str]) -> list[str] | None:
    if len(pattern) != len(segments):
        return None
    parts = []
    for expected, segment in zip(pattern, segments, strict=True):
        if expected == "{}" and segment:
            parts.append(segment)
        elif expected != segment:
            return None
    return parts


def choose(methods: dict[str, Route[Ctx]], call: Call) -> Route[Ctx] | Response:
    """The route that answers `call`, or the answer to OPTIONS, which every path knows.

    Raises:
        Refused: no path (404), or not this method (405, RFC 9110 section 15.5.6)
    """
    if not methods:
        raise Refused(404, "not_found", "There is nothing at this path.")
    names = {*methods, "OPTIONS"}
    if "GET" in methods and methods["GET"].head:
        names.add("HEAD")
    allow = "Allow: " + ", ".join(sorted(names))
    if call.method == "OPTIONS":
        return Response(204, headers=(allow,))
    route = methods.get(call.method)
    if route is None or (call.head_only and not route.head):
        raise Refused(405, "method_not_allowed", "This path does not know the method.", allow)
    return route
