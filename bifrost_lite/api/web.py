"""The dashboard: three files of the package, read when they are asked for."""

from __future__ import annotations

import os

from ..rest import Call, Refused, Response
from .context import Context

_FOLDER = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "web")
_LIMIT = 256 * 1024  # bytes of a file

# Nothing runs or shows but what this server sends as a file of its own; `data:` is the icon.
# Names that clients chose cannot become markup: no string is ever taken for HTML.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
    "connect-src 'self'%s; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)


async def page(ctx: Context, call: Call) -> Response:
    """The dashboard."""
    return _file(ctx, call, "index.html", "text/html")


async def script(ctx: Context, call: Call) -> Response:
    """The dashboard's script."""
    return _file(ctx, call, "app.js", "text/javascript")


async def style(ctx: Context, call: Call) -> Response:
    """The dashboard's style."""
    return _file(ctx, call, "style.css", "text/css")


def _file(ctx: Context, call: Call, name: str, kind: str) -> Response:
    """A file of the dashboard, or 304 to who has it already.

    It is read while the loop waits: it is small, and a thread costs a router more memory.

    Raises:
        Refused: the package is not whole (404)
    """
    try:
        with open(os.path.join(_FOLDER, name), "rb") as file:
            found = os.fstat(file.fileno())
            etag = f'"{ctx.version}-{found.st_size:x}-{found.st_mtime_ns:x}"'
            known = _has(call.header(b"if-none-match") or "", etag)
            body = b"" if known else file.read(_LIMIT)
    except OSError:
        raise Refused(404, "not_installed", "The dashboard is not installed.") from None
    headers = ("Cache-Control: no-cache", f"ETag: {etag}")
    policy = _POLICY % _sockets(call.header(b"host") or "")
    if known:
        return Response(304, headers=headers, policy=policy)
    return Response(200, body, f"{kind}; charset=utf-8", headers, policy)


def _has(field: str, etag: str) -> bool:
    """Whether an If-None-Match names `etag`, RFC 9110 section 13.1.2; ours have no comma."""
    tags = [tag.strip().removeprefix("W/") for tag in field.split(",")]
    return etag in tags or tags == ["*"]


def _sockets(host: str) -> str:
    """Sources for the WebSocket: older browsers do not count it to 'self'.

    `host` is one that `auth` let through. CSP has no word for an IPv6 address.
    """
    return "" if host.startswith("[") else f" ws://{host} wss://{host}"
