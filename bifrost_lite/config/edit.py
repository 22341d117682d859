"""Settings as a plain document and back, with its secrets masked, and what refers to what.

A document holds what a TOML or JSON parser would give. The API shows it and takes it back
whole: a secret that comes back as `MASK` is the stored one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import get_args, get_origin

from msgspec import structs

from ..errors import ConfigError, Fault
from . import unbuilt, values
from .convert import convert
from .faults import Path, place
from .kinds import extra, unwrap
from .schema import BACKENDS, Backend, Direct, Group, Section, Settings

MASK = "***"

Document = dict[str, object]


def document(settings: Settings, *, full: bool = True, masked: bool = True) -> Document:
    """Settings as a document, keys in the order of the schema.

    Args:
        settings: to be shown or written
        full: with every key, rather than only those that differ from the defaults; even so
            without the defaults that this version refuses to be asked for
        masked: secrets that are set stand as `MASK`
    """
    return _Writing(full, masked).table(settings, ())


def plain(value: object, hint: object, path: Path) -> object:
    """The value of one key as a parser would give it, masked, tables with every key."""
    return _Writing(True, True).plain(value, hint, path)


class _Writing:
    """One document in the making; remembers the fields of each Section seen so far."""

    def __init__(self, full: bool, masked: bool) -> None:
        self.full = full
        self.masked = masked
        self.fields: dict[type[Section], tuple[structs.FieldInfo, ...]] = {}

    def table(self, section: Section, path: Path) -> Document:
        kind = type(section)
        if kind not in self.fields:
            self.fields[kind] = structs.fields(kind)
        table: Document = {}
        for field in self.fields[kind]:
            value: object = getattr(section, field.name)
            here = (*path, field.name)
            # Entries of a list are told apart by these two, whatever the defaults.
            marks = bool(path) and isinstance(path[-1], int) and field.name in ("name", "type")
            if value == field.default and not marks:
                asked = list(value) if isinstance(value, tuple) else value
                if not self.full or unbuilt.refused(here, asked):
                    continue
            table[field.name] = self.plain(value, field.type, here)
        return table

    def plain(self, value: object, hint: object, path: Path) -> object:
        """A value as a parser would give it."""
        if isinstance(value, Section):
            return self.table(value, path)
        if isinstance(value, tuple):
            return [self.plain(item, None, (*path, index)) for index, item in enumerate(value)]
        metas = unwrap(hint)[1]
        if isinstance(value, float) and extra(metas, "unit") == "seconds":
            text = values.duration_text(value)
            if not value * 1000 % 1 and values.duration(text) == value:
                return text
        return MASK if self.masked and value and extra(metas, "secret") else value


def revised(data: Mapping[str, object], stored: Settings) -> Settings:
    """The settings that a document asks for, which takes the place of the stored ones whole.

    Args:
        data: the document, as from a JSON parser
        stored: where `MASK` stands for a secret, it is the one in here; in a list, that of the
            entry of the same name

    Raises:
        ConfigError: with all faults
    """
    faults: list[Fault] = []
    filled = dict(data)
    for section, key in secrets():
        table, present = filled.get(section), getattr(stored, section)
        if isinstance(table, list) and isinstance(present, tuple):
            known = {item.name: item for item in present}
            filled[section] = [
                _unmasked(item, (section, index), key, known.get(_name(item)), faults)
                for index, item in enumerate(table)
            ]
        elif section in filled and isinstance(present, Section):
            filled[section] = _unmasked(table, (section,), key, present, faults)
    if filled.get("source") == "uci" != stored.source:
        faults.append(Fault("source", "", "'uci' is for what uci2toml made, not for the API"))
    try:
        settings = convert(filled)
    except ConfigError as error:
        told = {fault[:2] for fault in faults}
        faults += [fault for fault in error.faults if fault[:2] not in told]
    if faults:
        raise ConfigError(faults)
    return settings


def secrets() -> Iterator[tuple[str, str]]:
    """Where the schema has secrets: the section, or list of them, and the key in it."""
    for field in structs.fields(Settings):
        hint = unwrap(field.type)[0]
        kind = get_args(hint)[0] if get_origin(hint) is tuple else hint
        if not (isinstance(kind, type) and issubclass(kind, Section)):
            continue
        kinds = BACKENDS.values() if kind is Backend else (kind,)
        yield from sorted(
            {
                (field.name, key.name)
                for one in kinds
                for key in structs.fields(one)
                if extra(unwrap(key.type)[1], "secret")
            }
        )


def _unmasked(
    table: object, path: Path, key: str, stored: Section | None, faults: list[Fault]
) -> object:
    """The same table with its stored secret in the place of `MASK`."""
    if not isinstance(table, Mapping) or table.get(key) != MASK:
        return table
    secret = getattr(stored, key, "")
    if secret and getattr(stored, "address", None) != table.get("address"):
        message = "is kept for the stored address alone; write it anew for another"
        faults.append(Fault(*place((*path, key)), message))
        return table
    if not secret:
        message = f"'{MASK}' stands for the stored secret, and none is stored here"
        faults.append(Fault(*place((*path, key)), message))
        return table
    return {**table, key: secret}


def _name(item: object) -> object:
    """What an entry of a list is called; a backend without a name is called by its type."""
    if not isinstance(item, Mapping):
        return None
    name = item.get("name") or item.get("type", Direct().type)
    return name if isinstance(name, str) else None


def referrers(settings: Settings, backend: str) -> list[str]:
    """What names that backend, in words: ``group 'best'``, ``route 'work'``."""
    groups = [item for item in settings.backends if isinstance(item, Group)]
    return [f"group '{item.name}'" for item in groups if backend in item.members] + [
        f"route '{item.name}'" for item in settings.routes if item.backend == backend
    ]
