"""From parsed data to `Settings`, field by field over the schema, collecting every fault.

msgspec's own conversion stops at the first fault and knows no lines; an operator wants to
see all of them at once, each with its place in the file.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal, TypeVar, get_args, get_origin

from msgspec import Meta, structs

from . import rules, unbuilt, values
from .faults import Faults, Lines, Path, shown
from .kinds import extra, unwrap
from .schema import BACKENDS, Backend, Direct, Section, Settings

_S = TypeVar("_S", bound=Section)


def convert(data: Mapping[str, object], lines: Lines | None = None) -> Settings:
    """The settings that `data` asks for.

    Args:
        data: what a TOML or JSON parser gave
        lines: the line of each path of keys and indexes in the file, as far as known

    Raises:
        ConfigError: with all faults, in the order of their lines
    """
    faults = Faults(lines or {})
    conversion = _Conversion(faults)
    settings = _complete(conversion.section(Settings, data, ()))
    # A rule about a section that could not be read would tell of faults that are none.
    for path, message in rules.check(settings, conversion.unread):
        faults.add(path, message)
    for path, message in unbuilt.check(data):
        if path not in faults.paths:
            faults.add(path, message)
    faults.finish()
    return settings


def _complete(settings: Settings) -> Settings:
    """The same with the names that were left out, and with the backend that is always there."""
    listen = tuple(
        item if item.name else structs.replace(item, name=f"listen-{number}")
        for number, item in enumerate(settings.listen, 1)
    )
    routes = tuple(
        item if item.name else structs.replace(item, name=f"route-{number}")
        for number, item in enumerate(settings.routes, 1)
    )
    backends = settings.backends
    if all(item.name != "direct" for item in backends):
        backends = (*backends, Direct())
    return structs.replace(settings, listen=listen, routes=routes, backends=backends)


class _Conversion:
    """One conversion: where its faults go, the top sections in which a value could not be read,
    and the fields of each Section seen so far."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.unread: set[object] = set()
        self.fields: dict[type[Section], dict[str, structs.FieldInfo]] = {}

    def section(self, kind: type[_S], data: Mapping[str, object], path: Path) -> _S:
        """A table; what is at fault in it keeps its default."""
        fields = self.known(kind)
        found: dict[str, object] = {}
        for key, raw in data.items():
            field = fields.get(key)
            if field is None:
                hint = "" if self.faults.full else _hint(key, kind, fields)
                self.faults.add((*path, key), f"is not a {hint or 'known key'}")
            elif type(raw) is type(field.default) and raw == field.default:
                pass  # an empty text is fine where it is the default, which means: not set
            else:
                value = self.value(field.type, raw, (*path, key))
                if value is not None:
                    found[key] = value
                else:
                    self.unread.add((*path, key)[0])
        return kind(**found)

    def known(self, kind: type[Section]) -> dict[str, structs.FieldInfo]:
        """The fields of a Section, by key."""
        if kind not in self.fields:
            self.fields[kind] = {field.name: field for field in structs.fields(kind)}
        return self.fields[kind]

    def value(self, hint: object, raw: object, path: Path) -> object:
        """What `raw` means where `hint` is the annotation; None if it was at fault."""
        hint, metas = unwrap(hint)
        if get_origin(hint) is tuple:
            return self.several(get_args(hint)[0], metas, raw, path)
        if isinstance(hint, type) and issubclass(hint, Section):
            return self.table(hint, raw, path)
        try:
            return _scalar(hint, metas, raw)
        except ValueError as error:
            got = "***" if extra(metas, "secret") else shown(raw)
            self.faults.add(path, f"got {got}, {error}")
            return None

    def several(
        self, hint: object, metas: tuple[Meta, ...], raw: object, path: Path
    ) -> tuple[object, ...] | None:
        """A list, every entry of it looked at."""
        if not isinstance(raw, list):
            tables = isinstance(raw, Mapping) and isinstance(hint, type)
            wanted = f"a list of tables, each under [[{path[-1]}]]" if tables else "a list"
            self.faults.add(path, f"got {shown(raw)}, expected {wanted}")
            return None
        for meta in metas:
            if meta.max_length is not None and len(raw) > meta.max_length:
                self.faults.add(path, f"got {len(raw)} entries, expected at most {meta.max_length}")
                return None
        entries = [self.value(hint, entry, (*path, index)) for index, entry in enumerate(raw)]
        return None if None in entries else tuple(entries)

    def table(self, kind: type[Section], raw: object, path: Path) -> Section | None:
        """A table; for a backend, of the class that its type names."""
        if not isinstance(raw, Mapping):
            wanted = f", under [{path[-1]}]" if isinstance(path[-1], str) else ""
            self.faults.add(path, f"got {shown(raw)}, expected a table{wanted}")
            return None
        if kind is not Backend:
            return self.section(kind, raw, path)
        name = raw.get("type", Direct().type)
        if isinstance(name, str) and name in BACKENDS:
            return self.section(BACKENDS[name], raw, path)
        # Which keys it may have is not known: only the type can be judged.
        self.value(self.known(Backend)["type"].type, name, (*path, "type"))
        return None


def _scalar(hint: object, metas: tuple[Meta, ...], raw: object) -> object:
    """One plain value; raises ValueError with what is allowed."""
    if get_origin(hint) is Literal:
        options = get_args(hint)
        if isinstance(raw, str) and raw in options:
            return raw
        *most, last = (f'"{option}"' for option in options)
        raise ValueError(f"expected {', '.join(most)} or {last}" if most else f"expected {last}")
    if hint is str:
        return _text(metas, raw)
    if hint is bool:
        if isinstance(raw, bool):
            return raw
        raise ValueError("expected true or false")
    return _number(hint, metas, raw)


def _text(metas: tuple[Meta, ...], raw: object) -> str:
    if not isinstance(raw, str):
        raise ValueError("expected a text in quotes")
    check = extra(metas, "check")
    if check is not None:
        check(raw)
    return raw


def _number(hint: object, metas: tuple[Meta, ...], raw: object) -> int | float:
    lowest = next(meta.ge for meta in metas if meta.ge is not None)
    highest = next(meta.le for meta in metas if meta.le is not None)
    if extra(metas, "unit") == "seconds":
        number: int | float = values.duration(raw)
        if lowest <= number <= highest:
            return number
        low, high = values.duration_text(lowest), values.duration_text(highest)
        raise ValueError(f"expected a time from {low} to {high}")
    whole = hint is int
    if isinstance(raw, int if whole else int | float) and not isinstance(raw, bool):
        number = raw
        if lowest <= number <= highest:  # false for a NaN
            return number if whole else float(number)
    kind = "a whole number" if whole else "a number"
    raise ValueError(f"expected {kind} from {lowest} to {highest}")


def _hint(key: str, kind: type[Section], known: Collection[str]) -> str:
    """What a key that is not in the schema may have been meant for."""
    if issubclass(kind, Backend):
        others = [name for name, other in BACKENDS.items() if key in other.__struct_fields__]
        if others:
            return f"key of this type of backend, only of {', '.join(others)}"
    from difflib import get_close_matches  # rarely needed, and not small

    close = get_close_matches(key[:64], known, n=1)
    return f'known key; did you mean "{close[0]}"?' if close else ""
