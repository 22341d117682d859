"""The event WebSocket."""

from __future__ import annotations

from ..rest import Call, Takeover
from .context import Context


async def watch(ctx: Context, call: Call) -> Takeover:
    """Events as they happen; see docs/events.md."""
    return ctx.hub.connect(call)
