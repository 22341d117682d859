"""The schema as data: complete, of plain JSON, and true."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import structs

from bifrost_lite.config import schema, values
from bifrost_lite.config.convert import convert
from bifrost_lite.config.meta import RESTART_SECTIONS, described
from bifrost_lite.config.schema import Settings
from bifrost_lite.errors import ConfigError
from bifrost_lite.reload import RESTART_SECTIONS as RESTARTED

SECTIONS: dict[str, dict[str, Any]] = {str(item["section"]): item for item in described()}


def keys(table: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {key["name"]: key for key in table["fields"]}


def every_key(item: dict[str, Any], path: str) -> list[tuple[str, dict[str, Any]]]:
    """A key and all keys in it, with their paths."""
    found = [(path, item)]
    table = item.get("items", item)
    tables = [table.get("fields", ()), *table.get("fields_by_type", {}).values()]
    for key in (key for fields in tables for key in fields):
        found += every_key(key, f"{path}.{key['name']}")
    return found


KEYS = [found for name, item in SECTIONS.items() for found in every_key(item, name)]


def test_every_section_in_order() -> None:
    assert list(SECTIONS) == [field.name for field in structs.fields(Settings)]
    assert {name for name in SECTIONS if not SECTIONS[name]["hot_reloadable"]} == RESTARTED
    assert RESTART_SECTIONS == RESTARTED


def test_it_is_plain_json() -> None:
    assert json.loads(json.dumps(described())) == described()


@pytest.mark.parametrize(("path", "key"), KEYS, ids=[path for path, _ in KEYS])
def test_each_key_says_what_it_is(path: str, key: dict[str, Any]) -> None:
    assert key["description"].endswith(".")
    needed = {
        "choice": {"choices", "default"},
        "text": {"format", "default"},
        "boolean": {"default"},
        "integer": {"min", "max", "default"},
        "number": {"min", "max", "default"},
        "duration": {"min", "max", "unit", "default"},
        "list": {"items", "default"},
        "table": {"fields"},
    }
    assert needed[key["type"]] <= set(key)


def test_every_backend_has_its_keys() -> None:
    table = SECTIONS["backends"]["items"]
    common = keys(table)
    assert common["type"]["choices"] == list(table["fields_by_type"]) == list(schema.BACKENDS)
    for name, kind in schema.BACKENDS.items():
        names = {key["name"] for key in table["fields_by_type"][name]} | set(common)
        assert names == set(kind.__struct_fields__)


def test_some_keys() -> None:
    log = keys(SECTIONS["log"])
    assert log["ring"] == {
        "name": "ring", "type": "integer", "min": 1, "max": 10000, "default": 200,
        "description": "Log entries kept in memory for readers.",
    }  # fmt: skip
    assert log["level"]["choices"] == ["debug", "info", "warn", "error"]
    assert SECTIONS["graceful_period"]["default"] == "10s"
    assert keys(SECTIONS["control"])["token"]["secret"] is True
    assert SECTIONS["routes"]["max_items"] == 10000
    ports = keys(SECTIONS["routes"]["items"])["ports"]
    assert (ports["items"]["min"], ports["items"]["max"], ports["max_items"]) == (1, 65535, 1000)


@pytest.mark.parametrize(
    ("section", "key"),
    [(s, k["name"]) for s in ("log", "limits", "resolver") for k in SECTIONS[s]["fields"]
     if "min" in k],
)  # fmt: skip
def test_ranges_are_those_that_are_checked(section: str, key: str) -> None:
    about = keys(SECTIONS[section])[key]
    for value in (about["min"], about["max"]):
        convert({section: {key: value}})
    for value in (about["min"] - 1, about["max"] + 1):
        with pytest.raises(ConfigError):
            convert({section: {key: value}})
    if about["type"] == "duration":
        values.duration(about["default"])
