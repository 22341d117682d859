from __future__ import annotations

from collections import Counter

import pytest

from bifrost_lite.errors import (
    BifrostError,
    BindError,
    ConfigError,
    Fault,
    ProtocolError,
    Reason,
)

# RFC 1928 section 6, and what each means in docs/errors.md.
SOCKS_REPLIES = {
    0x01: {Reason.BAD_REQUEST, Reason.TOO_MANY, Reason.TOO_MANY_CLIENT, Reason.INTERNAL},
    0x02: {Reason.ACL_DENIED, Reason.TARGET_DENIED, Reason.NO_ROUTE, Reason.LOOP},
    0x03: {Reason.NET_UNREACHABLE},
    0x04: {Reason.HOST_UNREACHABLE, Reason.DNS_NOT_FOUND},
    0x05: {Reason.CONNECT_REFUSED},
    0x06: {Reason.CONNECT_TIMEOUT, Reason.RESPONSE_TIMEOUT},
    0x07: {Reason.BAD_COMMAND},
    0x08: {Reason.BAD_ADDRESS_TYPE},
}
HTTP_STATUSES = {
    400: {Reason.BAD_REQUEST, Reason.NOT_A_PROXY_REQUEST, Reason.UNSUPPORTED_SCHEME},
    403: {Reason.ACL_DENIED, Reason.TARGET_DENIED, Reason.NO_ROUTE, Reason.LOOP},
    408: {Reason.HANDSHAKE_TIMEOUT},
    414: {Reason.TARGET_TOO_LONG},
    417: {Reason.EXPECTATION_FAILED},
    431: {Reason.HEAD_TOO_LARGE},
    502: {Reason.DNS_NOT_FOUND, Reason.CONNECT_REFUSED, Reason.BAD_RESPONSE, Reason.TARGET_CLOSED},
    503: {Reason.TOO_MANY, Reason.TOO_MANY_CLIENT, Reason.OUT_OF_DESCRIPTORS, Reason.SHUTDOWN},
    504: {Reason.CONNECT_TIMEOUT, Reason.RESPONSE_TIMEOUT, Reason.DNS_TIMEOUT},
    505: {Reason.BAD_VERSION},
}


def test_words_are_unique() -> None:
    """Two reasons with all four values equal would silently be one."""
    assert len(Reason) == len(Reason.__members__)
    assert max(Counter(reason.word for reason in Reason).values()) == 1


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.word)
def test_reason(reason: Reason) -> None:
    assert reason.word.replace("_", "").isalpha()
    assert reason.word == reason.word.lower()
    assert reason.status == 0 or 400 <= reason.status < 600
    assert 1 <= reason.reply <= 8
    assert reason.text.endswith(".")
    assert reason.text[0].isupper()
    assert reason.text.isascii()
    assert reason.text.isprintable()


@pytest.mark.parametrize(("reply", "reasons"), SOCKS_REPLIES.items())
def test_socks_replies(reply: int, reasons: set[Reason]) -> None:
    assert {reason.reply for reason in reasons} == {reply}


@pytest.mark.parametrize(("status", "reasons"), HTTP_STATUSES.items())
def test_http_statuses(status: int, reasons: set[Reason]) -> None:
    assert {reason.status for reason in reasons} == {status}


def test_protocol_error() -> None:
    error = ProtocolError(Reason.BAD_REQUEST, "the port is 0")
    assert (error.reason, error.detail, str(error)) == (
        Reason.BAD_REQUEST,
        "the port is 0",
        "the port is 0",
    )


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (Fault("listen[0]", "port", "is taken"), "listen[0].port: is taken"),
        (Fault("listen[0]", "port", "is taken", 7), "line 7: listen[0].port: is taken"),
        (Fault("backends.wan", "", "is missing"), "backends.wan: is missing"),
        (Fault("", "source", "is not known"), "source: is not known"),
        (Fault("", "", "not TOML", 3), "line 3: not TOML"),
        (Fault("", "", "not TOML"), "not TOML"),
    ],
)
def test_fault(fault: Fault, text: str) -> None:
    assert str(fault) == text


def test_config_error_lists_all_faults() -> None:
    faults = (Fault("a", "b", "one"), Fault("", "", "two", 2))
    error = ConfigError(faults)
    assert error.faults == list(faults)
    assert str(error) == "a.b: one; line 2: two"


def test_one_root() -> None:
    for kind in (ProtocolError, ConfigError, BindError):
        assert issubclass(kind, BifrostError)
    assert issubclass(BifrostError, Exception)
