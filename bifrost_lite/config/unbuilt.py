"""What the schema has and this version does not do yet: refused, never silently ignored.

One entry for each key; the line goes when the feature comes. Only what a configuration asks
for is refused: a default that nobody wrote is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from .faults import Path

# Path without indexes: the values that may stand there all the same.
_UNBUILT: dict[tuple[str, ...], tuple[object, ...]] = {
    ("control", "ubus"): ("auto", "off"),
}


def refused(path: Path, value: object) -> bool:
    """Whether this version refuses `value`, as a parser gave it, at `path`."""
    allowed = _UNBUILT.get(_keys(path))
    return allowed is not None and value not in allowed


def check(data: object, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Everything in parsed data that this version refuses, with what may be written instead."""
    entries: Iterable[tuple[str | int, object]] = ()
    if isinstance(data, Mapping):
        entries = data.items()
    elif isinstance(data, list):
        entries = [(index, item) for index, item in enumerate(data) if isinstance(item, Mapping)]
    for key, value in entries:
        here = (*path, key)
        keys = _keys(here)
        if refused(here, value):
            harmless = msgspec.json.encode(_UNBUILT[keys][0]).decode()
            yield here, f"is not part of this version yet; leave it out, or write {harmless}"
        elif any(entry[: len(keys)] == keys for entry in _UNBUILT):
            yield from check(value, here)


def _keys(path: Path) -> tuple[str, ...]:
    return tuple(key for key in path if isinstance(key, str))
