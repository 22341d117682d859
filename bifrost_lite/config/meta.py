"""The schema as data, for those who draw a form from it."""

from __future__ import annotations

from typing import Literal, get_args, get_origin

from msgspec import Meta, structs

from .edit import Document, plain
from .kinds import extra, unwrap
from .schema import BACKENDS, RESTART_SECTIONS, Backend, Section, Settings


def described() -> list[Document]:
    """All sections in the order of the schema, with all that is known of their keys."""
    return [
        {"section": field.name, "hot_reloadable": field.name not in RESTART_SECTIONS}
        | _about(field)
        for field in structs.fields(Settings)
    ]


def _keys(kind: type[Section]) -> list[Document]:
    return [{"name": field.name} | _about(field) for field in structs.fields(kind)]


def _about(field: structs.FieldInfo) -> Document:
    """What may stand there, what it means, what stands there if nobody says."""
    about = _kind(field.type)
    if not isinstance(field.default, Section):
        about["default"] = plain(field.default, field.type, (field.name,))
    return about


def _kind(hint: object) -> Document:
    """What values of an annotation of the schema are."""
    hint, metas = unwrap(hint)
    texts = [meta.description for meta in metas if meta.description]
    about: Document = {"description": texts[0]} if texts else {}
    if get_origin(hint) is tuple:
        most = [meta.max_length for meta in metas if meta.max_length is not None]
        return (
            {"type": "list", "items": _kind(get_args(hint)[0])}
            | ({"max_items": most[0]} if most else {})
            | about
        )
    if isinstance(hint, type) and issubclass(hint, Section):
        return _table(hint) | about
    if extra(metas, "secret"):
        about["secret"] = True
    return _scalar(hint, metas) | about


def _table(kind: type[Section]) -> Document:
    table: Document = {"type": "table", "description": (kind.__doc__ or "").partition("\n")[0]}
    table["fields"] = common = _keys(kind)
    if kind is Backend:
        names = {key["name"] for key in common}
        table["fields_by_type"] = {
            type_: [key for key in _keys(one) if key["name"] not in names]
            for type_, one in BACKENDS.items()
        }
    return table


def _scalar(hint: object, metas: tuple[Meta, ...]) -> Document:
    if get_origin(hint) is Literal:
        return {"type": "choice", "choices": list(get_args(hint))}
    if hint is bool:
        return {"type": "boolean"}
    if hint is str:
        return {"type": "text", "format": extra(metas, "check").__name__}
    timed = extra(metas, "unit") == "seconds"
    number: Document = {
        "type": "duration" if timed else "integer" if hint is int else "number",
        "min": next(meta.ge for meta in metas if meta.ge is not None),
        "max": next(meta.le for meta in metas if meta.le is not None),
    }
    return number | ({"unit": "seconds"} if timed else {})
