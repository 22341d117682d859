"""Settings as the package of UCI that `ucimap` reads as the same settings."""

from __future__ import annotations

import re

from msgspec import structs

from . import schema, values
from .kinds import extra, unwrap
from .uci import Option, Package, Section
from .ucimap import DEFAULTS, HEALTH, LISTS, NONE, TYPES, keys

# What an anonymous section would be called is no name for another.
_usable = re.compile(r"(?!cfg)[A-Za-z0-9_]+").fullmatch


def write(settings: schema.Settings, *, enabled: bool) -> Package:
    """The package `bifrost`, with all that differs from the defaults.

    Args:
        settings: to be written; their ``source`` is not, it is what reading makes it
        enabled: whether the init script shall start the daemon

    Raises:
        ValueError: UCI cannot say it: a list of nothing but ``-``
    """
    package = Package("bifrost")
    main = package.add("main", "main")
    main.options.append(Option("enabled", b"1" if enabled else b"0"))
    taken = {kind for kind in TYPES if kind not in LISTS}
    for kind, path in TYPES.items():
        if kind not in LISTS:
            table = settings if kind == "main" else getattr(settings, kind)
            section = main if kind == "main" else Section(kind, kind, False)
            _options(section, table)
            if section.options and kind != "main":
                added = package.add(kind, kind)
                added.options = section.options
            continue
        items = settings
        for key in path:
            items = getattr(items, key)
        if kind in ("listen", "backend") and items == getattr(schema.Settings(), path[0]):
            continue
        assert isinstance(items, tuple)
        for item in items:
            _entry(package, kind, item, taken)
        if kind == "listen" and not items:
            package.add(kind).options.append(Option("address", NONE.encode()))
    return package


def _entry(package: Package, kind: str, item: schema.Section, taken: set[str]) -> None:
    """One section more, by the name of the item where UCI can have that."""
    key = "id" if kind == "mesh_network" else "name"
    name: str = getattr(item, key)
    named = bool(_usable(name)) and name not in taken
    section = package.add(kind, name if named else "")
    if named:
        taken.add(name)
    elif name:
        section.options.append(Option(key, name.encode()))
    if isinstance(item, schema.Backend) and item.type != schema.Direct().type:
        section.options.append(Option("type", item.type.encode()))
    _options(section, item, skipped=(key, *(["type"] if kind == "backend" else [])))


def _options(section: Section, table: schema.Section, skipped: tuple[str, ...] = ()) -> None:
    """The options of a table that differ from the defaults of a router."""
    known = keys(section.type)
    for field in structs.fields(table):
        value = getattr(table, field.name)
        if isinstance(value, schema.Health):
            for below in structs.fields(value):
                _option(section, HEALTH + below.name, getattr(value, below.name), below)
        elif field.name in known and field.name not in skipped:
            _option(section, field.name, value, field)


def _option(section: Section, name: str, value: object, field: structs.FieldInfo) -> None:
    if value == DEFAULTS.get((section.type, name), field.default):
        return
    metas = unwrap(field.type)[1]
    if not isinstance(value, tuple):
        section.options.append(Option(name, _text(value, bool(extra(metas, "unit")))))
        return
    if value == (NONE,):
        raise ValueError(f"a list of nothing but '{NONE}' is an empty one: {name}")
    first, *others = [_text(one) for one in value] or [NONE.encode()]
    option = Option(name, first, is_list=True)
    for other in others:
        option.append(other)
    section.options.append(option)


def _text(value: object, timed: bool = False) -> bytes:
    if isinstance(value, bool):
        return b"1" if value else b"0"
    if timed and isinstance(value, float):
        text = values.duration_text(value)
        if not value * 1000 % 1 and values.duration(text) == value:
            return text.encode()
    return str(value).encode()
