"""The sample of /etc/config/bifrost says the same as the schema and the page about it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec import structs

from bifrost_lite.config import schema, ucimap
from bifrost_lite.config.interfaces import Interface
from bifrost_lite.config.schema import Listen
from bifrost_lite.config.uci import Package, dump
from bifrost_lite.config.ucimap import LISTS, Reading, keys, read
from bifrost_lite.config.uciwrite import write
from tests.config.test_parity import DOCS, KEYS, Key, comment

SAMPLE = (
    Path(__file__).parents[2] / "openwrt" / "bifrost-lite" / "files" / "bifrost.config"
).read_text()
# A comment sign right before something takes an option out; before a space it begins prose.
EVERYTHING = re.sub(r"^(\t?)#(?=\S)", r"\1", SAMPLE, flags=re.MULTILINE)
LAN = {"lan": Interface("br-lan", ("192.168.1.1",))}
OPTIONS = [(kind, name) for kind in ucimap.TYPES for name in keys(kind)]
HEADERS = {"main": "", "backend": "[[backends]]", "mesh_network": "[[mesh.networks]]"} | {
    kind: f"[[{path[0]}]]" for kind, path in ucimap.TYPES.items()
    if kind in ("listen", "route", "user")
}  # fmt: skip
ROUTER = Reading(Package("bifrost"), {}).settings()


def key_of(kind: str, name: str) -> Key:
    """The key of the schema that an option stands for."""
    header = HEADERS.get(kind, f"[{kind}]")
    if kind == "backend" and name.startswith(ucimap.HEALTH):
        header, name = "[backends.health]", name[len(ucimap.HEALTH) :]
    (found,) = [key for key in KEYS if (key.header, key.name) == (header, name)]
    return found


def sample_options() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for section in read(re.sub(r" ''$", " 'x'", EVERYTHING, flags=re.MULTILINE).encode()).sections:
        found.setdefault(section.type, set()).update(o.name for o in section.options)
    return found


def test_every_key_of_the_schema_is_an_option() -> None:
    """But for the one that says where the configuration is from."""
    paths = {key_of(kind, name).path for kind, name in OPTIONS}
    assert paths == {key.path for key in KEYS} - {("source",)}


def test_the_sample_has_every_option_and_no_other() -> None:
    expected = {kind: {*keys(kind)} for kind in ucimap.TYPES}
    expected["main"].add("enabled")
    assert sample_options() == expected


def test_the_sample_is_the_defaults_on_the_lan_and_off() -> None:
    reading = Reading(read(SAMPLE.encode()), LAN)
    assert reading.enabled is False
    listen = (
        Listen(name="lan", address="192.168.1.1"),
        Listen(name="lan_socks", address="192.168.1.1", port=7180),
    )
    assert reading.settings() == structs.replace(ROUTER, listen=listen)


def test_the_sample_is_safe_before_the_network_is_up() -> None:
    settings = Reading(read(SAMPLE.encode()), {}).settings()
    assert settings == structs.replace(ROUTER, listen=())
    assert settings.control.listen == ("127.0.0.1:7082",)


def test_the_sample_without_its_comment_signs_is_right() -> None:
    settings = Reading(read(EVERYTHING.encode()), LAN).settings()
    assert {item.type for item in settings.backends} == {*schema.BACKENDS} - {"http_proxy"}
    again = Reading(read(dump(write(settings, enabled=False))), {}).settings()
    assert again == settings


def test_every_value_of_the_sample_is_quoted() -> None:
    for line in EVERYTHING.splitlines():
        assert re.fullmatch(r"|# .*|#|\t# .*|config \w+ '\w+'|\t(option|list) \w+ '[^']*'", line)


@pytest.mark.parametrize(("kind", "name"), OPTIONS, ids=lambda word: str(word))
def test_the_sample_explains_each_option(kind: str, name: str) -> None:
    prose = " ".join(
        line.strip()[2:] for line in SAMPLE.splitlines() if line.strip().startswith("# ")
    )
    text = comment(key_of(kind, name))
    assert re.sub(r"\[+(\w+)\]+", r"\1", text) in prose


def test_the_page_tells_what_differs() -> None:
    page = (DOCS / "configuration.md").read_text().partition("\n## OpenWrt\n")[2]
    for kind in ucimap.TYPES:
        assert f"`{kind}`" in page
    for option, text in (
        ("control.listen", "127.0.0.1:7082"),
        ("control.max_clients", "5"),
        ("pac.enabled", "0"),
    ):
        assert f"`{option}` is `{text}`" in page
    assert len(ucimap.DEFAULTS) == 3
    for words in ("`health_interval`", "`'-'`", "`@lan`", "`@lan:7082`", "`@wan`"):
        assert words in page
    assert {*LISTS} < {*ucimap.TYPES}
