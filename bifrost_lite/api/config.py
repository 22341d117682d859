"""The configuration: shown, explained, judged, replaced, put in force."""

from __future__ import annotations

from functools import partial

from msgspec import Struct

from ..config.edit import Document, document
from ..errors import ConfigError
from ..rest import Call, FaultBody, Response, reply
from .context import Change, Context, in_thread
from .edits import (
    Applied,
    Saved,
    draft,
    editable,
    etag,
    no_file,
    refusing,
    save,
    unplaced,
)


class Shown(Struct):
    """The configuration in force.

    Attributes:
        config: the document, secrets masked
        revision: of the file, "" without one
        source: `file`, or `uci` where OpenWrt's configuration is the master copy
        path: of the file
        editable: whether the API may change it
    """

    config: Document
    revision: str
    source: str
    path: str | None
    editable: bool


class Meta(Struct):
    """What a configuration may say.

    Attributes:
        sections: all of them, in the order of the file
    """

    sections: list[Document]


class Proposal(Struct):
    """A configuration to be judged or saved; it takes the place of the present one whole.

    Attributes:
        config: the document; what is left out gets its default
        create_backup: keep the present content as ``<file>.bak``
    """

    config: Document
    create_backup: bool = False


class Judgement(Struct):
    """Whether a configuration could be saved, and all that is wrong with it.

    Attributes:
        valid: whether there is nothing
    """

    valid: bool
    message: str
    errors: list[FaultBody]


class Reload(Struct):
    """How to reload.

    Attributes:
        enforce: close the connections that the new rules deny
    """

    enforce: bool = False


async def show(ctx: Context, call: Call) -> Response:
    """The configuration in force, with every key."""
    house = ctx.house
    settings, revision, path = house.settings, house.revision, house.path
    can = settings.source != "uci" and house.store is not None
    if path is not None:  # its bytes may be no UTF-8, which JSON could not carry
        path = path.encode("utf-8", "backslashreplace").decode()

    def answer() -> Response:
        body = Shown(document(settings), revision, settings.source, path, can)
        return reply(body, 200, *([etag(revision)] if revision else []))

    return await in_thread(answer)


async def explain(ctx: Context, call: Call) -> Response:
    """Sections and keys: types, ranges, defaults, units, meaning, and what needs a restart."""

    def answer() -> Response:
        from ..config.meta import described  # seldom asked for

        return reply(Meta(described()))

    return await in_thread(answer)


async def replace(ctx: Context, call: Call) -> Response:
    """Save a document, and put it in force."""
    editable(ctx.house)
    base = ctx.house.revision
    body = await in_thread(partial(call.json, Proposal))
    _, done, revision = await save(
        ctx, call, lambda stored: body.config, backup=body.create_backup, base=base
    )
    answer = Saved(*done, revision=revision, backup=body.create_backup)
    return reply(answer, 200, etag(revision))


async def validate(ctx: Context, call: Call) -> Response:
    """Whether a document could be saved; nothing is."""
    try:
        await _plan(ctx, call)
    except ConfigError as error:
        faults = [FaultBody(*fault) for fault in error.faults]
        return reply(Judgement(False, "The configuration has faults.", faults))
    return reply(Judgement(True, "The configuration has no faults.", []))


async def preview(ctx: Context, call: Call) -> Response:
    """What a document would change, and do to the live connections; nothing is done."""
    with refusing():
        return reply(Applied(*await _plan(ctx, call)))


async def reload(ctx: Context, call: Call) -> Response:
    """Read the file again."""
    if ctx.house.path is None:
        raise no_file()
    wish = call.json(Reload, optional=True)
    with refusing(422):
        return reply(Applied(*await ctx.house.reload(wish.enforce)))


async def _plan(ctx: Context, call: Call) -> Change:
    """What the document in the body would do.

    Raises:
        ConfigError: it has faults
    """
    body = await in_thread(partial(call.json, Proposal))
    stored = ctx.house.settings
    _, text = await in_thread(lambda: draft(body.config, stored))
    with unplaced():
        return await ctx.house.preview(text)
