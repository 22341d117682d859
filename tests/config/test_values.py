"""What a text may be, and how a wrong one is told."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost_lite.config import values
from bifrost_lite.names import Server

CHECKS: list[Callable[[str], object]] = [
    values.name,
    values.identifier,
    values.label,
    values.token,
    values.password_hash,
    values.device,
    values.address,
    values.network,
    values.endpoint,
    values.server,
    values.host,
    values.authority,
    values.origin,
    values.http_url,
    values.domain,
    values.duration,
]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0.0),
        (30, 30.0),
        (0.25, 0.25),
        (-0.0, 0.0),
        ("0s", 0.0),
        ("250ms", 0.25),
        ("30s", 30.0),
        ("1.5s", 1.5),
        ("5m", 300.0),
        ("2h", 7200.0),
        ("1h30m", 5400.0),
        ("1h2m3s4ms", 3723.004),
        ("90m", 5400.0),
        ("1m1ms", 60.001),
    ],
)
def test_duration(value: object, seconds: float) -> None:
    assert values.duration(value) == seconds
    assert str(values.duration(value))[0] != "-"


@pytest.mark.parametrize(
    "value",
    [
        "", "10", "s", "1", "1 s", " 1s", "1s\n", "-1s", "+1s", "1S", "1d", "1m1h", "1s1s", "1e3s",
        ".5s", "1.s", "1234567890s", "１s", "1h30", "nan", -1, -0.1, True, False, None, [], {},
        float("nan"), float("inf"), -float("inf"), 10**400, -(10**400), 1e9, b"1s",
    ],
)  # fmt: skip
def test_no_duration(value: object) -> None:
    with pytest.raises(ValueError, match="^expected seconds"):
        values.duration(value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"), (0.1, "100ms"), (0.25, "250ms"), (1, "1s"), (1.5, "1500ms"), (60, "1m"),
        (90, "90s"), (5400, "90m"), (7200, "2h"), (604800, "168h"),
    ],
)  # fmt: skip
def test_duration_text(seconds: float, text: str) -> None:
    assert values.duration_text(seconds) == text
    assert values.duration(text) == seconds


@pytest.mark.parametrize(
    ("check", "text", "meaning"),
    [
        (values.name, "A-b_c.9", "A-b_c.9"),
        (values.name, "x" * 64, "x" * 64),
        (values.identifier, "-", "-"),
        (values.label, "", ""),
        (values.label, "Büro", "Büro"),
        (values.token, "your-token", "your-token"),
        (values.token, "your-api-token", "your-api-token"),
        (values.token, "~" * 256, "~" * 256),
        (values.device, "wg0", "wg0"),
        (values.device, "br-lan.100:1", "br-lan.100:1"),
        (values.address, "192.0.2.1", bytes([192, 0, 2, 1])),
        (values.address, "::ffff:192.0.2.1", bytes([192, 0, 2, 1])),
        (values.address, "::1", bytes(15) + b"\1"),
        (values.network, "10.0.0.0/8", (bytes([10, 0, 0, 0]), 8)),
        (values.network, "10.0.0.1", (bytes([10, 0, 0, 1]), 32)),
        (values.network, "::/0", (bytes(16), 0)),
        (values.endpoint, "127.0.0.1:7082", ("127.0.0.1", 7082)),
        (values.endpoint, "[::1]:0", ("::1", 0)),
        (values.endpoint, "[::ffff:1.2.3.4]:1", ("::ffff:1.2.3.4", 1)),
        (values.server, "9.9.9.9", Server("9.9.9.9", 53, "")),
        (values.server, "2620:fe::fe", Server("2620:fe::fe", 53, "")),
        (values.server, "[::1]:5353", Server("::1", 5353, "")),
        (values.server, "fe80::1%br-lan", Server("fe80::1", 53, "br-lan")),
        (values.host, "router.lan", "router.lan"),
        (values.host, "2001:db8::1", "2001:db8::1"),
        (values.origin, "http://localhost:3000", "http://localhost:3000"),
        (values.origin, "https://[::1]:8443", "https://[::1]:8443"),
        (values.http_url, "http://192.0.2.1/generate_204", "http://192.0.2.1/generate_204"),
        (values.http_url, "http://[::1]:80", "http://[::1]:80"),
        (values.domain, "*", "*"),
        (values.domain, "*.a.example", "*.a.example"),
        (values.domain, ".a.example", ".a.example"),
        (values.domain, "*.*.example", "*.*.example"),
        (values.domain, "sf-*.a.example", "sf-*.a.example"),
        (values.domain, "*-api.A.example", "*-api.A.example"),
        (values.domain, "intranet.*", "intranet.*"),
        (values.domain, "localhost", "localhost"),
    ],
)
def test_right(check: Callable[[str], object], text: str, meaning: object) -> None:
    assert check(text) == meaning


def test_authority() -> None:
    assert str(values.authority("Proxy.Example.net:1080")) == "proxy.example.net:1080"
    assert str(values.authority("[2001:db8::1]:3128")) == "[2001:db8::1]:3128"


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (values.name, ""),
        (values.name, "x" * 65),
        (values.name, ".x"),
        (values.name, "x\n"),
        (values.name, "ü"),
        (values.identifier, "a/b"),
        (values.label, "a\nb"),
        (values.label, "a\u202eb"),  # writes from right to left: shows another name
        (values.label, "x" * 256),
        (values.token, "1234567"),
        (values.token, "with space"),
        (values.token, "with\ttab"),
        (values.token, "höchstgeheim"),
        (values.token, "~" * 257),
        (values.password_hash, "plain text"),
        (values.device, "a/b"),
        (values.device, ".."),
        (values.device, "sixteen-letters-"),
        (values.address, "192.168.1"),
        (values.address, "01.2.3.4"),
        (values.address, "fe80::1%eth0"),
        (values.address, "[::1]"),
        (values.endpoint, ":7082"),
        (values.endpoint, "127.0.0.1:"),
        (values.endpoint, "127.0.0.1:7082\n"),
        (values.endpoint, "localhost:7082"),
        (values.server, "9.9.9.9:0"),
        (values.server, "dns.example"),
        (values.server, "fe80::1%br/lan"),
        (values.server, "fe80::1%x\n"),
        (values.host, "a:1"),
        (values.host, "1.2.3"),
        (values.authority, "proxy.example"),
        (values.authority, "proxy.example:0"),
        (values.authority, "::1:80"),
        (values.origin, "http://a.example:"),
        (values.origin, "http://a.example/"),
        (values.origin, "null"),
        (values.http_url, "https://a.example/"),
        (values.http_url, "http://a.example/ x"),
        (values.http_url, "http://a.example?x"),
        (values.domain, "xn--" + "a" * 60 + ".example"),
        (values.domain, ".".join(["a" * 50] * 6)),
        (values.domain, "*."),
        (values.domain, "..a.example"),
        (values.domain, "*.-a.example"),
    ],
)
def test_wrong(check: Callable[[str], object], text: str) -> None:
    with pytest.raises(ValueError, match="^(expected|which) "):
        check(text)


@given(st.sampled_from(CHECKS), st.text() | st.text("ab.:*[]/-%0123456789ms \n", max_size=40))
def test_no_check_raises_anything_else(check: Callable[[str], object], text: str) -> None:
    try:
        check(text)
    except ValueError as error:
        said = str(error)
        assert said.startswith(("expected ", "which "))
        assert said.isprintable()


@pytest.mark.parametrize("text", ["10.0.0.1/8", "x\ty", "1.2.3.4/33", "fe80::1%eth0", "it's"])
def test_no_message_of_a_network_repeats_it(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        values.network(text)
    assert text not in str(caught.value)
    assert repr(text) not in str(caught.value)
