"""Settings as documents: round trips, masked secrets, and who uses a backend."""

from __future__ import annotations

import json
from typing import get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from bifrost_lite.config import schema
from bifrost_lite.config.convert import convert
from bifrost_lite.config.edit import MASK, document, referrers, revised, secrets
from bifrost_lite.config.kinds import extra, unwrap
from bifrost_lite.config.schema import Control, Direct, Group, HttpProxy, Route, Settings, User
from bifrost_lite.config.toml import dump, parse
from bifrost_lite.errors import ConfigError
from tests.config.test_toml import settings

HASH = f"pbkdf2-sha256$1000${16 * 'ab'}${32 * 'cd'}"
TOKEN, READ = "very-secret-token", "other-secret-token"
STORED = Settings(
    backends=(
        Direct(),
        HttpProxy(name="office", address="proxy.example:3128", username="me", password="pass-one"),
        schema.Socks5Proxy(name="tor", address="127.0.0.1:9050", username="x", password="pass-two"),
        HttpProxy(name="open", address="proxy.example:3128"),
        Group(name="best", members=("office", "direct")),
    ),
    routes=(Route(name="work", backend="office"), Route(name="rest", backend="best")),
    users=(User(name="guest", password_hash=HASH),),
    control=Control(token=TOKEN, read_token=READ),
)


def through_json(data: object) -> dict[str, object]:
    return dict(json.loads(json.dumps(data)))


def faults(data: dict[str, object], stored: Settings = STORED) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        revised(data, stored)
    return [f"{fault.section}.{fault.field}: {fault.message}" for fault in caught.value.faults]


@given(settings(), st.booleans())
def test_round_trips(wanted: Settings, full: bool) -> None:
    """Document, JSON, settings, TOML, settings, document: nothing is lost on the way."""
    shown = document(wanted, full=full)
    stored = revised(through_json(shown), wanted)
    assert stored == wanted
    assert document(convert(parse(dump(stored))), full=full) == shown
    plain = document(wanted, full=full, masked=False)
    assert through_json(plain) == plain == parse(dump(wanted, full=full))
    assert convert(plain) == wanted


def test_a_full_document_has_every_key() -> None:
    shown = document(STORED)
    assert list(shown) == [field.name for field in structs.fields(Settings)]
    assert shown["graceful_period"] == "10s"
    for section in ("log", "access", "limits", "http", "resolver", "control"):
        table = shown[section]
        assert isinstance(table, dict)
        assert {*getattr(schema, section.title())().__struct_fields__} == {*table}
    assert document(Settings(), full=False) == {}


def test_secrets_are_masked() -> None:
    text = json.dumps(document(STORED))
    for secret in (TOKEN, READ, HASH, "pass-one", "pass-two"):
        assert secret not in text
        assert secret in json.dumps(document(STORED, masked=False))
    assert text.count(f'"{MASK}"') == 5
    # What is not set is not masked.
    assert f'"{MASK}"' not in json.dumps(document(Settings()))


def test_a_mask_keeps_the_stored_secret() -> None:
    base = convert(document(STORED, masked=False))
    data = through_json(document(base))
    assert revised(data, base) == base
    # By name, wherever in the list.
    for key in ("backends", "users"):
        items = data[key]
        assert isinstance(items, list)
        data[key] = items[::-1]
    changed = revised(data, base)
    assert changed.backends == base.backends[::-1]
    assert changed.control.token == TOKEN


def test_another_text_is_another_secret() -> None:
    data = {"control": {"token": "a-new-token", "read_token": MASK}, "users": []}
    changed = revised(data, STORED)
    assert (changed.control.token, changed.control.read_token) == ("a-new-token", READ)
    assert changed.users == ()
    assert revised({"control": {"token": ""}}, STORED).control.token == ""
    assert revised({}, STORED) == Settings()


def test_a_backend_without_a_name_is_called_by_its_type() -> None:
    stored = convert(
        {"backends": [{"type": "http_proxy", "address": "a:1", "username": "u", "password": "p1"}]}
    )
    item = {"type": "http_proxy", "address": "a:1", "username": "v", "password": MASK}
    (proxy, _) = revised({"backends": [item]}, stored).backends
    assert isinstance(proxy, HttpProxy)
    assert (proxy.username, proxy.password) == ("v", "p1")


def test_a_stored_password_is_sent_to_no_other_address() -> None:
    item = {"name": "office", "type": "http_proxy", "username": "u"}
    stored = convert({"backends": [{**item, "address": "a:1", "password": "p1"}]})
    (told,) = faults({"backends": [{**item, "address": "b:1", "password": MASK}]}, stored)
    assert told == (
        "backends[0].password: is kept for the stored address alone; write it anew for another"
    )


def test_masks_with_nothing_behind_them() -> None:
    nothing = f"'{MASK}' stands for the stored secret, and none is stored here"
    proxy = {"type": "http_proxy", "address": "proxy.example:3128", "username": "u", "password": MASK}
    data: dict[str, object] = {
        "backends": [{**proxy, "name": "office"}, {**proxy, "name": "renamed"},
                     {**proxy, "name": "open"}, {**proxy, "name": ["office"]}],
        "users": [{"name": "guest", "password_hash": MASK}, {"name": "new", "password_hash": MASK},
                  {"password_hash": MASK}],
        "control": {"token": MASK, "read_token": MASK},
    }  # fmt: skip
    found = faults(data, structs.replace(STORED, control=Control(token=TOKEN)))
    expected = [
        f"backends[{index}].password: {nothing}" for index in (1, 2, 3)
    ] + [f"users[{index}].password_hash: {nothing}" for index in (1, 2)]
    expected.append(f"control.read_token: {nothing}")
    assert set(expected) <= set(found)
    others = set(found) - set(expected)
    assert len(found) == len(set(found))
    assert {text.split(":")[0] for text in others} <= {"backends[3].name", "users[2].name"}


@pytest.mark.parametrize(
    "data",
    [
        {"control": MASK}, {"control": [MASK]}, {"control": [{"token": MASK}]}, {"users": MASK},
        {"users": [MASK]}, {"users": {"password_hash": MASK}}, {"users": [[MASK]]},
        {"backends": [None, 1]}, {"control": {"token": [MASK]}}, {"mesh": []}, {"backends": {}},
        {"users": {"guest": {"password_hash": MASK}}}, {"control": {"token": {MASK: MASK}}},
    ],
)  # fmt: skip
def test_documents_of_a_wrong_form(data: dict[str, object]) -> None:
    found = faults(data)
    assert found
    assert TOKEN not in str(found) and HASH not in str(found)


def test_a_mask_elsewhere_is_a_text() -> None:
    data = {"backends": [{"type": "http_proxy", "address": "a:1", "username": MASK}]}
    (proxy, _) = revised(data, STORED).backends
    assert isinstance(proxy, HttpProxy) and proxy.username == MASK


def test_only_the_init_script_makes_a_file_of_uci() -> None:
    assert faults({"source": "uci"}) == [
        "source.: 'uci' is for what uci2toml made, not for the API"
    ]
    assert revised({"source": "uci"}, Settings(source="uci")).source == "uci"
    assert revised({"source": "file"}, Settings(source="uci")).source == "file"


def test_all_faults_at_once() -> None:
    found = faults({"lgo": {}, "log": {"ring": 0, "levle": 1}, "control": {"token": "short"},
                    "routes": [{"backend": "nope"}, {"ports": [0, "x"]}]})  # fmt: skip
    assert [text.split(": ")[0] for text in found] == [
        "lgo.", "log.ring", "log.levle", "control.token", "routes[1].ports[0]",
        "routes[1].ports[1]",
    ]  # fmt: skip
    assert "short" not in "".join(text for text in found if text.startswith("control"))


def test_the_secrets_of_the_schema() -> None:
    """All that are marked, wherever they stand: a deeper one would need more than `revised`."""

    def marked(kind: type[schema.Section], path: tuple[str, ...]) -> set[tuple[str, ...]]:
        found: set[tuple[str, ...]] = set()
        for field in structs.fields(kind):
            hint, metas = unwrap(field.type)
            inner = get_args(hint)[0] if get_origin(hint) is tuple else hint
            if extra(metas, "secret"):
                found.add((*path, field.name))
            if isinstance(inner, type) and issubclass(inner, schema.Section):
                kinds = schema.BACKENDS.values() if inner is schema.Backend else [inner]
                for one in kinds:
                    found |= marked(one, (*path, field.name))
        return found

    assert set(secrets()) == marked(Settings, ())
    assert len(list(secrets())) == len(set(secrets())) >= 5


def test_referrers() -> None:
    assert referrers(STORED, "office") == ["group 'best'", "route 'work'"]
    assert referrers(STORED, "best") == ["route 'rest'"]
    assert referrers(STORED, "tor") == []
