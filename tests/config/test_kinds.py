"""What the annotations of the schema say, and that it can be asked."""

from __future__ import annotations

from typing import Annotated, get_args

import msgspec
import pytest
from msgspec import Meta

from bifrost_lite.config import kinds, values
from bifrost_lite.config.kinds import SHORTEST, WEEK, about, extra, unwrap

TEXTS = {
    kinds.Name: (values.name, "wireguard-us", ""),
    kinds.Identifier: (values.identifier, "home", "a b"),
    kinds.Label: (values.label, "My home", "\x00"),
    kinds.Token: (values.token, "0123456789abcdef", "a b"),
    kinds.Device: (values.device, "wg0", "a/b"),
    kinds.Address: (values.address, "192.0.2.1", "here"),
    kinds.Network: (values.network, "10.0.0.0/8", "10.0.0.1/8"),
    kinds.Endpoint: (values.endpoint, "127.0.0.1:7082", "127.0.0.1"),
    kinds.Server: (values.server, "192.0.2.53", "dns.example"),
    kinds.Host: (values.host, "router.lan", "a b"),
    kinds.Authority: (values.authority, "proxy.example:1080", "proxy.example"),
    kinds.Origin: (values.origin, "http://router.lan", "router.lan"),
    kinds.Domain: (values.domain, "*.example", "a..b"),
}
RANGES = {kinds.Port: (1, 65535), kinds.Status: (100, 599), kinds.Weight: (1, 1000)}


def test_what_a_key_means_and_its_range() -> None:
    meta = about("Many.", ge=1, le=9)
    assert (meta.description, meta.ge, meta.le, meta.max_length) == ("Many.", 1, 9, None)
    assert meta.extra is None


def test_how_many_entries_a_list_may_have() -> None:
    meta = about("Some.", most=8)
    assert (meta.description, meta.max_length, meta.ge, meta.le) == ("Some.", 8, None, None)


def test_what_is_never_shown() -> None:
    for meta in (about("Hush.", secret=True), about("Hush.", secret=True, most=3)):
        assert extra((meta,), "secret") is True
    assert extra((about("Loud."),), "secret") is None


def test_unwrap() -> None:
    first, second = Meta(ge=1), Meta(le=2)
    assert unwrap(int) == (int, ())
    assert unwrap(Annotated[int, first, second]) == (int, (first, second))
    assert unwrap(Annotated[kinds.Port, second]) == (int, (*get_args(kinds.Port)[1:], second))
    assert unwrap(tuple[kinds.Port, ...])[1] == ()


def test_extra_answers_the_first() -> None:
    metas = (Meta(ge=1), Meta(extra={"unit": "seconds"}), Meta(extra={"unit": "bytes"}))
    assert extra(metas, "unit") == "seconds"
    assert extra(metas, "check") is None
    assert extra((), "unit") is None


def test_durations_are_seconds() -> None:
    plain, metas = unwrap(kinds.Seconds)
    assert plain is float
    assert extra(metas, "unit") == "seconds"
    assert values.duration("168h") == WEEK
    assert values.duration("100ms") == SHORTEST


@pytest.mark.parametrize("kind", TEXTS, ids=lambda kind: extra(unwrap(kind)[1], "check").__name__)
def test_texts_are_checked(kind: type[str]) -> None:
    check, good, bad = TEXTS[kind]
    plain, metas = unwrap(kind)
    assert plain is str
    assert extra(metas, "check") is check
    check(good)
    with pytest.raises(ValueError, match="."):
        check(bad)


def test_password_hashes_are_checked() -> None:
    assert extra(unwrap(kinds.PasswordHash)[1], "check") is values.password_hash
    with pytest.raises(ValueError, match="."):
        values.password_hash("secret")


@pytest.mark.parametrize("kind", RANGES, ids=str)
def test_ranges(kind: type[int]) -> None:
    low, high = RANGES[kind]
    for number in (low, high):
        assert msgspec.convert(number, kind) == number
    for number in (low - 1, high + 1):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(number, kind)
