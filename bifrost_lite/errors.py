"""The words for how things end, and the exceptions of the package.

One `Reason` stands for each outcome. It feeds the HTTP status, the SOCKS reply, the
event, the log entry and the metric, so that all five always tell the same story.

    BifrostError
    +-- ProtocolError      the peer broke a wire protocol; carries a Reason
    +-- ConfigError        a configuration has faults; carries all of them
    +-- BindError          a listener cannot have its address
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

# SOCKS5 reply codes, RFC 1928 section 6.
GENERAL, DENIED, NET_UNREACHABLE, HOST_UNREACHABLE = 1, 2, 3, 4
REFUSED, TTL_EXPIRED, BAD_COMMAND, BAD_ADDRESS_TYPE = 5, 6, 7, 8


class Reason(Enum):
    """Why a request was refused or a connection ended.

    Attributes:
        word: the stable word in events, logs and metrics
        status: the HTTP status that answers it (0 where nothing can be answered)
        reply: the SOCKS5 reply code that answers it
        text: one sentence for a person
    """

    # A connection that lived, and how it ended.
    CLOSED = ("closed", 0, GENERAL, "Both sides finished.")
    CLIENT_RESET = ("client_reset", 0, GENERAL, "The client broke the connection.")
    TARGET_RESET = ("target_reset", 502, GENERAL, "The target broke the connection.")
    IDLE_TIMEOUT = ("idle_timeout", 0, GENERAL, "Nothing moved for the idle timeout.")
    OPERATOR = ("closed_by_operator", 0, GENERAL, "The operator closed the connection.")
    SHUTDOWN = ("shutdown", 503, GENERAL, "The proxy is stopping.")
    INTERNAL = ("internal_error", 500, GENERAL, "The proxy met a fault of its own.")

    # The client's request is at fault.
    BAD_REQUEST = ("bad_request", 400, GENERAL, "The request breaks the protocol.")
    HEAD_TOO_LARGE = ("head_too_large", 431, GENERAL, "The request head is too large.")
    TARGET_TOO_LONG = ("uri_too_long", 414, GENERAL, "The request target is too long.")
    BAD_VERSION = ("http_version_unsupported", 505, GENERAL, "Only HTTP/1.1 and 1.0 are spoken.")
    NOT_A_PROXY_REQUEST = (
        "not_a_proxy_request",
        400,
        GENERAL,
        "This is a proxy port: it takes absolute http:// targets and CONNECT.",
    )
    UNSUPPORTED_SCHEME = (
        "unsupported_scheme",
        400,
        GENERAL,
        "Only http:// targets can be forwarded; use CONNECT for others.",
    )
    HANDSHAKE_TIMEOUT = (
        "handshake_timeout",
        408,
        GENERAL,
        "The request did not arrive in time.",
    )
    CLIENT_GONE = ("client_gone", 0, GENERAL, "The client left before its request was answered.")
    NO_METHOD = (
        "no_acceptable_method",
        0,
        GENERAL,
        "The client offered no SOCKS method that this listener takes.",
    )
    BAD_COMMAND = ("command_unsupported", 501, BAD_COMMAND, "The command is not supported.")
    BAD_ADDRESS_TYPE = (
        "address_type_unsupported",
        400,
        BAD_ADDRESS_TYPE,
        "The address type is not supported.",
    )
    AUTH_REQUIRED = ("auth_required", 407, GENERAL, "This proxy asks for a user and a password.")
    AUTH_FAILED = ("auth_failed", 407, GENERAL, "The user or the password is wrong.")
    AUTH_THROTTLED = (
        "auth_throttled",
        429,
        GENERAL,
        "Too many wrong passwords came from your address; wait a minute.",
    )
    AUTH_BUSY = ("auth_busy", 503, GENERAL, "Too many passwords are being checked just now.")
    EXPECTATION_FAILED = ("expectation_failed", 417, GENERAL, "The expectation is not known.")

    # The rules say no.
    ACL_DENIED = ("acl_denied", 403, DENIED, "Your address may not use this proxy.")
    TARGET_DENIED = (
        "target_denied",
        403,
        DENIED,
        "Loopback, link-local and this machine's own addresses are not reachable "
        "through the proxy.",
    )
    NO_ROUTE = ("no_route", 403, DENIED, "No route matches this target.")
    LOOP = ("proxy_loop", 403, DENIED, "The target is this proxy itself.")
    BLOCKED = ("blocked", 403, DENIED, "A rule blocks this target.")
    ENFORCED = ("enforced", 403, DENIED, "The rules changed and do not allow this any more.")

    # The proxy is full.
    TOO_MANY = ("too_many_connections", 503, GENERAL, "The proxy is at its connection limit.")
    TOO_MANY_CLIENT = (
        "too_many_connections_per_client",
        503,
        GENERAL,
        "Your address is at its connection limit.",
    )
    OUT_OF_DESCRIPTORS = (
        "out_of_descriptors",
        503,
        GENERAL,
        "The proxy has no file descriptor left.",
    )

    # The target cannot be reached, or answers badly.
    DNS_NOT_FOUND = ("dns_not_found", 502, HOST_UNREACHABLE, "The name does not exist.")
    DNS_FAILED = ("dns_failed", 502, HOST_UNREACHABLE, "The name servers gave no answer.")
    DNS_TIMEOUT = ("dns_timeout", 504, HOST_UNREACHABLE, "The name servers did not answer in time.")
    CONNECT_REFUSED = ("connect_refused", 502, REFUSED, "The target refused the connection.")
    CONNECT_TIMEOUT = ("connect_timeout", 504, TTL_EXPIRED, "The target did not answer in time.")
    DEVICE_ABSENT = (
        "device_absent",
        502,
        NET_UNREACHABLE,
        "The network device that leads there is not there.",
    )
    NET_UNREACHABLE = (
        "network_unreachable",
        502,
        NET_UNREACHABLE,
        "The target's network is unreachable.",
    )
    HOST_UNREACHABLE = ("host_unreachable", 502, HOST_UNREACHABLE, "The target is unreachable.")
    CONNECT_FAILED = ("connect_failed", 502, GENERAL, "The connection to the target failed.")
    UPSTREAM_UNREACHABLE = (
        "upstream_unreachable",
        502,
        GENERAL,
        "The upstream proxy could not be reached.",
    )
    UPSTREAM_TIMEOUT = (
        "upstream_timeout",
        504,
        GENERAL,
        "The upstream proxy did not answer in time.",
    )
    UPSTREAM_AUTH = (
        "upstream_auth_failed",
        502,
        GENERAL,
        "The upstream proxy refused our credentials.",
    )
    UPSTREAM_FAILED = (
        "upstream_failed",
        502,
        GENERAL,
        "The upstream proxy's answer makes no sense.",
    )
    UPSTREAM_DENIED = (
        "upstream_denied",
        502,
        DENIED,
        "The rules of the upstream proxy refuse this target.",
    )
    BAD_RESPONSE = ("bad_response", 502, GENERAL, "The target's answer breaks HTTP.")
    TARGET_CLOSED = (
        "target_closed",
        502,
        GENERAL,
        "The target closed the connection before its answer was complete.",
    )
    RESPONSE_TIMEOUT = ("response_timeout", 504, TTL_EXPIRED, "The target gave no answer in time.")

    word: str
    status: int
    reply: int
    text: str

    def __init__(self, word: str, status: int, reply: int, text: str) -> None:
        self.word = word
        self.status = status
        self.reply = reply
        self.text = text


class BifrostError(Exception):
    """The root of all exceptions of this package."""


class ProtocolError(BifrostError):
    """The peer broke a wire protocol.

    Args:
        reason: the outcome to answer and to record
        detail: what exactly was wrong, safe to show to the peer; no text of the peer's
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class Fault(NamedTuple):
    """One fault of a configuration.

    Attributes:
        section: where, e.g. ``listen[0]`` or ``backends.wan.health``
        field: the key at fault, or "" where the whole section is
        message: one sentence: what is wrong, and what is allowed
        line: 1-based line in the file, 0 where unknown
    """

    section: str
    field: str
    message: str
    line: int = 0

    def __str__(self) -> str:
        where = ".".join(part for part in (self.section, self.field) if part)
        place = f"line {self.line}: " if self.line else ""
        return f"{place}{where}: {self.message}" if where else f"{place}{self.message}"


class ConfigError(BifrostError):
    """A configuration cannot be used; `faults` lists everything that is wrong with it."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(str(fault) for fault in faults))
        self.faults = list(faults)


class BindError(BifrostError):
    """A listener cannot have its address."""
