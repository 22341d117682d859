"""What the schema's annotations are made of: kinds of values, ranges, sentences.

`msgspec.Meta` holds a range and a sentence for people; its `extra` holds ``unit``, ``check``
(a function of `values`) and ``secret`` (never shown).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, get_args, get_origin

from msgspec import Meta

from . import values


def about(
    text: str,
    *,
    ge: float | None = None,
    le: float | None = None,
    most: int | None = None,
    secret: bool = False,
) -> Meta:
    """What a key means, its range, how many entries its list may have, whether it is secret."""
    extra = {"secret": True} if secret else None
    if most is not None:
        return Meta(description=text, max_length=most, extra=extra)
    return Meta(description=text, ge=ge, le=le, extra=extra)


def _is(check: Callable[[str], object]) -> Meta:
    return Meta(extra={"check": check})


def unwrap(hint: object) -> tuple[object, tuple[Meta, ...]]:
    """An annotation of the schema as its plain type and what is said about it."""
    if get_origin(hint) is not Annotated:
        return hint, ()
    plain, *metas = get_args(hint)
    return plain, tuple(metas)


def extra(metas: tuple[Meta, ...], key: str) -> Any:
    """The first ``unit``, ``check`` or ``secret`` among what is said, or None."""
    return next((meta.extra[key] for meta in metas if meta.extra and key in meta.extra), None)


Seconds = Annotated[float, Meta(extra={"unit": "seconds"})]
Name = Annotated[str, _is(values.name)]
Identifier = Annotated[str, _is(values.identifier)]
Label = Annotated[str, _is(values.label)]
Token = Annotated[str, _is(values.token)]
PasswordHash = Annotated[str, _is(values.password_hash)]
Device = Annotated[str, _is(values.device)]
Address = Annotated[str, _is(values.address)]
Network = Annotated[str, _is(values.network)]
Endpoint = Annotated[str, _is(values.endpoint)]
Server = Annotated[str, _is(values.server)]
Host = Annotated[str, _is(values.host)]
Authority = Annotated[str, _is(values.authority)]
Origin = Annotated[str, _is(values.origin)]
Domain = Annotated[str, _is(values.domain)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Status = Annotated[int, Meta(ge=100, le=599)]
Weight = Annotated[int, Meta(ge=1, le=1000)]

# Below a tenth of a second a timer costs more than it tells; no wait needs more than a week.
SHORTEST, WEEK = 0.1, 604800
