"""Saving the configuration, and the calls that add or remove a backend or a route of it.

An edit takes what the file holds, never what it would like it to hold: the file must be the
one that the daemon loaded. What comes out is judged whole, written, told, and put in force;
what cannot be put in force is taken back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from msgspec import Struct

from ..config.edit import Document, document, referrers, revised
from ..config.schema import Direct, Settings
from ..config.toml import dump
from ..errors import BindError, ConfigError, Fault
from ..events import ConfigChange
from ..rest import Call, Refused, Response, reply
from .context import Change, Context, House, Store, StoreError, in_thread

log = logging.getLogger("bifrost.api")


TURN = 30.0  # seconds to wait for the edits before this one
BUSY = "Retry-After: 5"
NOTE = "The file was written anew: comments in it are lost."
_SHOWN = 10  # things that use a backend, named in a refusal


class Applied(Struct):
    """What a configuration did, or would do.

    Attributes:
        changed_sections: that differ from those in force before
        requires_restart: some of it needs a new process
        kept: live connections that go on as they are
        moved: those of them that would take another backend if they began now
        denied: those that would be refused if they began now
        closed: those that were closed for that, with `enforce`
    """

    changed_sections: list[str]
    requires_restart: bool
    kept: int
    moved: int
    denied: int
    closed: int


class Saved(Applied, kw_only=True):
    """What was written and is in force.

    Attributes:
        revision: of the file now
        backup: the content before is in ``<file>.bak``
        note: what a person should know
    """

    revision: str
    backup: bool = False
    note: str = NOTE


class BackendEdited(Saved, kw_only=True):
    """A backend was added or removed.

    Attributes:
        status: `created` or `removed`
        backend: its name
    """

    status: str
    backend: str


class RouteEdited(Saved, kw_only=True):
    """A route was added or removed.

    Attributes:
        status: `created` or `removed`
        route: its name
    """

    status: str
    route: str


@contextmanager
def refusing(status: int = 400) -> Iterator[None]:
    """Make refusals of what is wrong with a configuration or its file.

    Args:
        status: of a configuration with faults: 400 where the call brought it
    """
    try:
        yield
    except (ConfigError, BindError) as error:
        raise rejected(error, status=status) from None
    except StoreError as error:
        status = {"disk_full": 507, "io_error": 500, "busy": 503}.get(error.word, 409)
        wait = (BUSY,) if status == 503 else ()
        raise Refused(status, error.word, error.message, *wait) from None


def rejected(
    error: ConfigError | BindError,
    message: str = "The configuration cannot be put in force; nothing changed.",
    status: int = 422,
) -> Refused:
    """The refusal of a configuration that cannot be in force."""
    return Refused(status, "config_rejected", message, faults=faults_of(error))


def faults_of(error: ConfigError | BindError) -> Sequence[Fault]:
    """What is wrong, one by one."""
    return error.faults if isinstance(error, ConfigError) else [Fault("listen", "", str(error))]


@contextmanager
def unplaced() -> Iterator[None]:
    """Take out of faults the lines of a text that the client never saw."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError([fault._replace(line=0) for fault in error.faults]) from None


def editable(house: House) -> Store:
    """The file, where the API may write it.

    Raises:
        Refused: it is made of UCI, or there is none
    """
    if house.settings.source == "uci":
        raise Refused(
            409,
            "managed_by_uci",
            "The configuration is made from /etc/config/bifrost: change it in LuCI, or by "
            "`uci` and `/etc/init.d/bifrost reload`.",
        )
    if house.store is None:
        raise no_file()
    return house.store


def no_file() -> Refused:
    """The refusal of what needs a file where there is none."""
    return Refused(409, "no_file", "The daemon was started without a configuration file.")


def _check_revision(call: Call, house: House, found: str, base: str | None) -> None:
    """Whether the revision `found` is what this call may replace.

    Raises:
        Refused: it is not what If-Match names (412, RFC 9110 section 13.1.1), or not what is
            in force, or not `base` (409)
    """
    wanted = call.header(b"if-match")
    if wanted is not None:
        tags = {tag.strip().strip('"') for tag in wanted.split(",")}
        if not tags & {found, "*"}:
            raise Refused(
                412,
                "revision_changed",
                "The configuration is not that of If-Match any more; read it again.",
            )
    if found != house.revision or base not in (None, found):
        raise Refused(
            409,
            "config_changed",
            "The file was changed meanwhile: reload it, read it again, then edit.",
        )


def draft(data: Document, stored: Settings) -> tuple[Settings, bytes]:
    """The settings that a document asks for, and the file that would hold them.

    Raises:
        ConfigError: with all faults
    """
    settings = revised(data, stored)
    return settings, dump(settings).encode()


async def save(
    ctx: Context,
    call: Call,
    change: Callable[[Settings], Document],
    *,
    backup: bool = False,
    base: str | None = None,
) -> tuple[Settings, Change, str]:
    """Change the stored configuration, and put it in force.

    Args:
        ctx: the context
        call: its If-Match is honoured
        change: answers the new document for the stored settings; runs in a thread
        backup: keep the content before
        base: the revision that `change` was made for, None for any

    Returns:
        the new settings, what they did, the revision of the file

    Raises:
        Refused: nothing has changed
    """
    house = ctx.house
    store = editable(house)
    try:
        await asyncio.wait_for(ctx.editing.acquire(), TURN)
    except asyncio.TimeoutError:
        raise Refused(503, "busy", "Another change is being saved.", BUSY) from None
    try:
        with refusing():
            old, found = await in_thread(store.read)
            _check_revision(call, house, found, base)
            stored = house.settings
            settings, text = await in_thread(lambda: draft(change(stored), stored))
            with unplaced():
                plan = await house.preview(text)
            saved = await in_thread(partial(store.write, text, found, backup))
        log.info("configuration saved: %s", ", ".join(plan.changed) or "nothing changed")
        ctx.hub.publish("config.saved", ConfigChange(plan.changed, plan.restart))
        try:
            done = await house.reload()
        except (ConfigError, BindError) as error:
            raise await _take_back(store, old, saved, error) from None
        return settings, done._replace(changed=plan.changed, restart=plan.restart), saved
    finally:
        ctx.editing.release()


async def _take_back(
    store: Store, old: bytes, saved: str, error: ConfigError | BindError
) -> Refused:
    """Undo a save that cannot be put in force; answers the refusal."""
    try:
        await in_thread(partial(store.write, old, saved, False))
    except StoreError as failure:
        log.error("the configuration before could not be restored: %s", failure.word)
        return rejected(
            error,
            "The new configuration was saved but cannot be put in force, and the file could "
            f"not be restored: {failure.message} The daemon goes on as it was.",
        )
    log.warning("the saved configuration cannot be put in force; the file is as it was before")
    return rejected(
        error,
        "The new configuration cannot be put in force; the file has its content of before, "
        "and the daemon goes on as it was.",
    )


def etag(revision: str) -> str:
    """The field that names the revision of the file, RFC 9110 section 8.8.3."""
    return f'ETag: "{revision}"'


# Backends and routes.


async def add_backend(ctx: Context, call: Call) -> Response:
    """Add the backend that the body describes, as in `[[backends]]`."""
    editable(ctx.house)
    item = call.json(dict[str, object])
    name = item.get("name") or item.get("type", Direct().type)

    def change(stored: Settings) -> Document:
        if any(other.name == name for other in stored.backends):
            raise Refused(409, "exists", "There is a backend of this name already.")
        return _with(stored, "backends", item)

    settings, done, revision = await save(ctx, call, change)
    added = settings.backends[-1].name
    body = BackendEdited(*done, revision=revision, status="created", backend=added)
    return reply(body, 201, etag(revision), f"Location: /api/v1/backends/{added}")


async def remove_backend(ctx: Context, call: Call) -> Response:
    """Remove a backend that nothing uses."""
    name = call.parts[0]

    def change(stored: Settings) -> Document:
        _check_known("backend", name, [item.name for item in stored.backends])
        if name == Direct().name:
            raise Refused(409, "built_in", "The backend 'direct' is always there.")
        users = referrers(stored, name)
        if users:
            more = f" and {len(users) - _SHOWN} more" if len(users) > _SHOWN else ""
            raise Refused(
                409,
                "in_use",
                f"The backend '{name}' is used by {', '.join(users[:_SHOWN])}{more}.",
            )
        return _without(stored, "backends", name)

    _, done, revision = await save(ctx, call, change)
    body = BackendEdited(*done, revision=revision, status="removed", backend=name)
    return reply(body, 200, etag(revision))


async def add_route(ctx: Context, call: Call) -> Response:
    """Add the route that the body describes, as in `[[routes]]`, behind its equals."""
    editable(ctx.house)
    item = call.json(dict[str, object])

    def change(stored: Settings) -> Document:
        if any(other.name == item.get("name") for other in stored.routes):
            raise Refused(409, "exists", "There is a route of this name already.")
        return _with(stored, "routes", item)

    settings, done, revision = await save(ctx, call, change)
    added = settings.routes[-1].name
    body = RouteEdited(*done, revision=revision, status="created", route=added)
    return reply(body, 201, etag(revision), f"Location: /api/v1/routes/{added}")


async def remove_route(ctx: Context, call: Call) -> Response:
    """Remove a route."""
    name = call.parts[0] if call.parts else "test"

    def change(stored: Settings) -> Document:
        _check_known("route", name, [item.name for item in stored.routes])
        return _without(stored, "routes", name)

    settings, done, revision = await save(ctx, call, change)
    body = RouteEdited(*done, revision=revision, status="removed", route=name)
    if not settings.routes:
        body.note = f"{NOTE} No route is left, so everything goes direct."
    return reply(body, 200, etag(revision))


def _check_known(kind: str, name: str, names: list[str]) -> None:
    if name not in names:
        raise Refused(404, "not_found", f"There is no {kind} of this name.")


def _with(stored: Settings, section: str, item: Document) -> Document:
    data = document(stored, masked=False)
    items = data[section]
    assert isinstance(items, list)
    return data | {section: [*items, item]}


def _without(stored: Settings, section: str, name: str) -> Document:
    data = document(stored, masked=False)
    items = data[section]
    assert isinstance(items, list)
    return data | {section: [item for item in items if item["name"] != name]}
