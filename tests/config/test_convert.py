"""From data to settings: every fault at once, nothing but faults, whatever the data."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from bifrost_lite.config import kinds, schema
from bifrost_lite.config.convert import convert
from bifrost_lite.config.schema import Direct, Listen, Settings
from bifrost_lite.errors import ConfigError, Fault


def faults(data: dict[str, object]) -> list[Fault]:
    with pytest.raises(ConfigError) as caught:
        convert(data)
    return caught.value.faults


def test_nothing_is_the_defaults() -> None:
    assert convert({}) == Settings()
    assert convert({"log": {}, "listen": [{}, {"port": 1}]}).log == Settings().log


def test_listeners_replace_the_defaults() -> None:
    assert convert({"listen": []}).listen == ()
    assert convert({"listen": [{}, {"name": "lan", "port": 0}]}).listen == (
        Listen(name="listen-1"),
        Listen(name="lan", port=0),
    )


def test_direct_is_always_there() -> None:
    assert convert({"backends": []}).backends == (Direct(),)
    other = {"name": "wan2", "source": "192.0.2.1"}
    assert convert({"backends": [other]}).backends == (
        Direct(name="wan2", source="192.0.2.1"),
        Direct(),
    )
    changed = convert({"backends": [{"connect_timeout": "5s"}, other]}).backends
    assert changed == (
        Direct(connect_timeout=5.0),
        Direct(name="wan2", source="192.0.2.1"),
    )


def test_routes_without_a_name_get_one() -> None:
    routes = convert({"routes": [{"backend": "direct"}, {"backend": "direct", "name": "x"}]}).routes
    assert [route.name for route in routes] == ["route-1", "x"]


def test_times_are_seconds() -> None:
    limits = convert({"limits": {"idle_timeout": "1h30m", "handshake_timeout": 5}}).limits
    assert limits.idle_timeout == 5400.0
    assert type(limits.handshake_timeout) is float


def test_lists_are_tuples() -> None:
    assert convert({"access": {"deny": ["192.0.2.1"]}}).access.deny == ("192.0.2.1",)


def test_a_section_that_cannot_be_read_causes_no_other_faults() -> None:
    found = faults(
        {
            "backends": [{"name": "office", "type": "socks"}],
            "routes": [{"backend": "office"}],
        }
    )
    assert [(fault.section, fault.field) for fault in found] == [("backends[0]", "type")]


def test_too_many_entries() -> None:
    (fault,) = faults({"control": {"trusted_hosts": ["x"] * 65}})
    assert fault.message == "got 65 entries, expected at most 64"


def test_secrets_are_not_repeated() -> None:
    for raw in ("top secret", 987654321, ["top secret"], True):
        (fault,) = faults({"control": {"token": raw}})
        assert fault.message.startswith("got ***, ")


def test_huge_numbers() -> None:
    # Too long for Python to print in decimal, and too great for a float.
    huge = 16**5000
    found = faults({"graceful_period": huge, "log": {"ring": -huge, "level": huge}})
    assert len(found) == 3
    assert all("more than 64 bits" in fault.message for fault in found)


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.dates()
    | st.sampled_from(
        ["direct", "block", "group", "http", "0.0.0.0", "::", "10.0.0.0/8", "1s", "*", "a.example"]
        + [10**400, date(2024, 1, 1), "127.0.0.1:7082", "your-token"]
    )
)
sections: list[type[schema.Section]] = [schema.Settings, schema.Listen, schema.Route]
sections += schema.BACKENDS.values()
words = sorted({field.name for kind in sections for field in structs.fields(kind)})
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(words) | st.text(max_size=5), inner, max_size=6)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(words) | st.text(max_size=5), trees, max_size=8))
def test_any_data_gives_settings_or_faults(data: dict[str, object]) -> None:
    try:
        settings = convert(data)
    except ConfigError as error:
        assert error.faults
        for fault in error.faults:
            assert str(fault).isprintable()
            assert str(fault).isascii()
            assert len(str(fault)) < 1000
    else:
        assert isinstance(settings, Settings)


def by_schema(kind: type[schema.Section]) -> st.SearchStrategy[dict[str, object]]:
    """Data with the right keys and, often, the right values."""
    optional: dict[str, st.SearchStrategy[object]] = {}
    for field in structs.fields(kind):
        plain, _ = kinds.unwrap(field.type)
        near: st.SearchStrategy[object] = scalars
        if isinstance(plain, type) and issubclass(plain, schema.Section):
            near = by_schema(plain)
        elif plain == tuple[schema.Backend, ...]:
            near = st.lists(
                st.sampled_from(sorted(schema.BACKENDS)).flatmap(
                    lambda name: by_schema(schema.BACKENDS[name])
                ),
                max_size=3,
            )
        elif isinstance(field.default, str | int | float):
            near = st.just(field.default) | scalars
        elif isinstance(field.default, tuple):
            near = st.lists(scalars, max_size=3)
        optional[field.name] = near
    return st.fixed_dictionaries({}, optional=optional)


@given(by_schema(Settings))
def test_data_that_is_nearly_right_gives_settings_or_faults(data: dict[str, object]) -> None:
    try:
        convert(data)
    except ConfigError as error:
        assert error.faults
