"""The schema, the sample and the reference page say the same of the same keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
from msgspec import Struct, structs

from bifrost_lite.config import kinds, schema, unbuilt, values
from bifrost_lite.config.convert import convert
from bifrost_lite.config.toml import parse
from bifrost_lite.load import load

DOCS = Path(__file__).parents[2] / "docs"
_texts = {
    "name": "a name",
    "identifier": "a name",
    "label": "text",
    "token": "8 to 256 visible ASCII characters",
    "password_hash": "`pbkdf2-sha256$...`",
    "device": "a device",
    "address": "an IP address",
    "network": "a network or address",
    "endpoint": "`address:port`",
    "server": "an IP address or `address:port`",
    "host": "a host name or IP address",
    "authority": "`host:port`",
    "origin": "an origin such as `http://host`",
    "domain": "a pattern",
}


class Key(Struct):
    """One key: the header of its table (with brackets), its name, and what is said of it."""

    header: str
    name: str
    hint: object
    default: object
    types: tuple[str, ...] = ()  # of backends that have it, if not all

    @property
    def path(self) -> tuple[str, ...]:
        return (*filter(None, self.header.strip("[]").split(".")), self.name)


def keys(
    kind: type[schema.Section] = schema.Settings, header: str = "", path: tuple[str, ...] = ()
) -> Iterator[Key]:
    """All keys, each table's own before those of the tables in it."""
    below = []
    for key in _own(kind, header):
        plain, _ = kinds.unwrap(key.hint)
        inner = get_args(plain)[0] if get_origin(plain) is tuple else plain
        if isinstance(inner, type) and issubclass(inner, schema.Section):
            name = ".".join((*path, key.name))
            below.append((inner, f"[{name}]" if plain is inner else f"[[{name}]]", name))
        else:
            yield key
    for inner, title, name in below:
        yield from keys(inner, title, tuple(name.split(".")))


def _own(kind: type[schema.Section], header: str) -> Iterator[Key]:
    if kind is not schema.Backend:
        for field in structs.fields(kind):
            yield Key(header, field.name, field.type, field.default)
        return
    found: dict[str, Key] = {}
    kinds: list[type[schema.Backend]] = [schema.Backend, *schema.BACKENDS.values()]
    for one in kinds:
        for field in structs.fields(one):
            found.setdefault(field.name, Key(header, field.name, field.type, field.default))
    for key in found.values():
        having = [n for n, one in schema.BACKENDS.items() if key.name in one.__struct_fields__]
        key.types = tuple(having) if len(having) < len(schema.BACKENDS) else ()
        yield key


def allowed(hint: object) -> str:
    """What may stand there: ``1 to 10``, ``one of ...``."""
    plain, metas = kinds.unwrap(hint)
    if get_origin(plain) is Literal:
        return ", ".join(f'`"{option}"`' for option in get_args(plain))
    if get_origin(plain) is tuple:
        most = [meta.max_length for meta in metas if meta.max_length is not None]
        of = allowed(get_args(plain)[0]).removeprefix("an ").removeprefix("a ")
        return f"list: {of}" + (f"; at most {most[0]}" if most else "")
    if plain is bool:
        return "`true`, `false`"
    if plain is str:
        return _texts[kinds.extra(metas, "check").__name__]
    low, high = (next(getattr(m, end) for m in metas if getattr(m, end) is not None)
                 for end in ("ge", "le"))  # fmt: skip
    if kinds.extra(metas, "unit") == "seconds":
        return f"time, {values.duration_text(low)} to {values.duration_text(high)}"
    return f"{low} to {high}"


def default(key: Key) -> str:
    """The default as TOML."""
    unit = kinds.extra(kinds.unwrap(key.hint)[1], "unit")
    if unit == "seconds":
        assert isinstance(key.default, float)
        return f'"{values.duration_text(key.default)}"'
    value = key.default
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{v}"' if isinstance(v, str) else str(v) for v in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def meaning(key: Key) -> str:
    """The sentence, with the types of backends that have the key, and whether it is built."""
    metas = kinds.unwrap(key.hint)[1]
    text = next(meta.description for meta in metas if meta.description)
    if key.types:
        text += f" Only {', '.join(f'`{name}`' for name in key.types)}."
    return text + limits(key)


def limits(key: Key) -> str:
    """What this version does not do of it."""
    words = get_origin(kinds.unwrap(key.hint)[0]) is Literal
    for entry, harmless in unbuilt._UNBUILT.items():
        if key.path == entry and words:
            only = ", ".join(f'`"{value}"`' for value in harmless if isinstance(value, str))
            return f" In this version only {only}."
        if key.path[: len(entry)] == entry:
            return " Not in this version."
    return ""


def row(key: Key) -> str:
    """The line of the reference page."""
    cells = (f"`{key.name}`", f"`{default(key)}`", allowed(key.hint), meaning(key))
    return "| " + " | ".join(cells) + " |"


def comment(key: Key) -> str:
    """What the comments above the key say in the sample."""
    text = (
        meaning(key) if isinstance(key.default, bool) else f"{meaning(key)} ({allowed(key.hint)})"
    )
    return text.replace("`", "")


KEYS = list(keys())
PAGE = (DOCS / "configuration.md").read_text()
SAMPLE = (DOCS / "bifrost.toml").read_text()
# A comment sign right before something takes a setting out; before a space it begins prose.
EVERYTHING = re.sub(r"^#(?=\S)", "", SAMPLE, flags=re.MULTILINE)


def page_rows() -> set[tuple[str, str]]:
    found = set()
    header = ""
    for line in PAGE.splitlines():
        if line.startswith("## "):
            header = line[3:].strip("`").replace("The top", "")
        elif line.startswith("| `"):
            found.add((header, line))
    return found


def sample_keys(data: object, header: str = "") -> set[tuple[str, str]]:
    """All keys in data, as (header without brackets, key)."""
    found = set()
    for item in data if isinstance(data, list) else [data]:
        assert isinstance(item, dict)
        for name, value in item.items():
            tables = isinstance(value, list) and bool(value) and isinstance(value[0], dict)
            if tables or isinstance(value, dict):
                found |= sample_keys(value, f"{header}.{name}".lstrip("."))
            else:
                found.add((header, name))
    return found


def test_there_are_keys() -> None:
    assert len(KEYS) > 80


def test_the_page_has_the_row_of_every_key_and_no_other() -> None:
    assert page_rows() == {(key.header, row(key)) for key in KEYS}


def test_the_sample_has_every_key_and_no_other() -> None:
    assert sample_keys(parse(EVERYTHING)) == {(key.header.strip("[]"), key.name) for key in KEYS}


def test_the_sample_is_the_defaults() -> None:
    assert load(str(DOCS / "bifrost.toml")) == schema.Settings()


def test_the_sample_without_its_comment_signs_is_right() -> None:
    convert(parse(EVERYTHING))


@pytest.mark.parametrize("key", KEYS, ids=lambda key: ".".join(key.path))
def test_the_sample_explains_each_key(key: Key) -> None:
    prose = " ".join(line[2:] for line in SAMPLE.splitlines() if line.startswith("# "))
    assert comment(key) in prose
    assert re.search(rf"^#?{key.name} = ", SAMPLE, re.MULTILINE)


def test_the_page_names_the_words_of_the_sample_for_times() -> None:
    for text in ("250ms", "30s", "5m", "1h30m"):
        assert f'"{text}"' in PAGE
        assert f'"{text}"' in SAMPLE
        values.duration(text)
