"""The event WebSocket, and the page that names it."""

from __future__ import annotations

from ..rest import Call, Response, Takeover
from .context import Context

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>bifrost-lite</title>
<h1>bifrost-lite %(version)s</h1>
<p>Events: <code>ws://%(host)s/api/v1/ws</code></p>
<p>Log: <code>http://%(host)s/api/v1/logs/stream</code></p>
<p>With a token: add <code>?token=...</code>, or a header <code>Authorization: Bearer ...</code></p>
<pre>websocat ws://%(host)s/api/v1/ws
curl -N http://%(host)s/api/v1/logs/stream
curl http://%(host)s/api/v1/status</pre>
</html>
"""


async def watch(ctx: Context, call: Call) -> Takeover:
    """Events as they happen; see docs/events.md."""
    return ctx.hub.connect(call)


async def index(ctx: Context, call: Call) -> Response:
    """Where to look. Its only variable text from outside is a Host that `auth` let through."""
    host = (call.header(b"host") or "").replace("&", "&amp;").replace("<", "&lt;")
    page = _PAGE % {"version": ctx.version, "host": host}
    return Response(
        200,
        page.encode(),
        content_type="text/html; charset=utf-8",
        headers=("Cache-Control: no-cache",),
    )
