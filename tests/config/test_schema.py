"""The built-in configuration, and what must hold for every entry of the schema."""

from __future__ import annotations

from typing import Literal, get_args, get_origin

import msgspec
import pytest
from msgspec import structs

from bifrost_lite.config import kinds, schema
from bifrost_lite.config.schema import Direct, Section, Settings


def below(kind: type[Section]) -> list[type[Section]]:
    return [kind, *(one for direct in kind.__subclasses__() for one in below(direct))]


SECTIONS = below(Section)


def test_the_defaults_are_a_laptop() -> None:
    settings = Settings()
    assert [(item.name, item.address, item.port) for item in settings.listen] == [
        ("http", "127.0.0.1", 7080),
        ("socks", "127.0.0.1", 7180),
    ]
    assert {item.protocol for item in settings.listen} == {"auto"}
    assert settings.control.listen == ("127.0.0.1:7082", "127.0.0.1:7383")
    assert settings.backends == (Direct(),)
    assert (settings.backends[0].name, settings.backends[0].type) == ("direct", "direct")
    assert settings.routes == ()
    assert settings.users == ()
    assert settings.graceful_period == 10.0
    assert settings.limits.idle_timeout == 7200.0


@pytest.mark.parametrize("kind", SECTIONS, ids=lambda kind: kind.__name__)
def test_every_section_is_frozen_and_every_key_has_a_default(kind: type[Section]) -> None:
    section = kind()
    hash(section)
    for field in structs.fields(kind):
        assert field.default is not msgspec.NODEFAULT or field.default_factory is None
        with pytest.raises(AttributeError):
            setattr(section, field.name, field.default)


@pytest.mark.parametrize("kind", SECTIONS, ids=lambda kind: kind.__name__)
def test_every_value_has_its_bounds(kind: type[Section]) -> None:
    for field in structs.fields(kind):
        plain, metas = kinds.unwrap(field.type)
        if plain in (int, float):
            assert any(meta.ge is not None for meta in metas), field.name
            assert any(meta.le is not None for meta in metas), field.name
        elif plain is str:
            assert kinds.extra(metas, "check") is not None, field.name
        elif get_origin(plain) is Literal:
            assert field.default in get_args(plain), field.name


def test_secrets_are_known_as_such() -> None:
    secret = {
        f"{kind.__name__}.{field.name}"
        for kind in SECTIONS
        for field in structs.fields(kind)
        if kinds.extra(kinds.unwrap(field.type)[1], "secret")
    }
    assert secret == {
        "HttpProxy.password",
        "Socks5Proxy.password",
        "User.password_hash",
        "Control.token",
        "Control.read_token",
        "Mesh.join_token",
    }


def test_each_type_of_backend_has_its_class() -> None:
    (hint,) = (
        kinds.unwrap(field.type)[0]
        for field in structs.fields(schema.Backend)
        if field.name == "type"
    )
    assert set(get_args(hint)) == set(schema.BACKENDS)
    for name, kind in schema.BACKENDS.items():
        assert kind().type == kind().name == name
