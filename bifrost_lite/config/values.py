"""What the text of a setting may be.

Each function takes what stood in the configuration and returns what it means; it raises
`ValueError` with the rest of a sentence that begins with "got X, ". None of them repeats the
text itself: the caller shows it, escaped and cut, or not at all where it is a secret.
"""

from __future__ import annotations

import re

from .. import acl
from ..errors import ProtocolError
from ..names import Server, parse_server
from ..target import Target, from_host, parse_authority

_name_re = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_identifier_re = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_token_re = re.compile(r"[!-~]{8,256}")
_device_re = re.compile(r"[!-.0-~]{1,15}")  # no slash: it is a name in /sys/class/net
_label_re = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_endpoint_re = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):([0-9]{1,5})")
_url_re = re.compile(r"http://([^/]+)(?:/[!-~]{0,1024})?")
_number = r"([0-9]{1,9}(?:\.[0-9]{1,9})?)"
_duration_re = re.compile(rf"(?:{_number}h)?(?:{_number}m(?!s))?(?:{_number}s)?(?:{_number}ms)?")

MAX_NAME = 253  # RFC 1035 section 2.3.4: 255 on the wire, less the first length and the root


def duration(value: object) -> float:
    """Seconds from a number, or from a text of h, m, s and ms, each once and in that order."""
    if isinstance(value, str):
        found = _duration_re.fullmatch(value) if value else None
        if found is not None:
            hours, minutes, seconds, millis = (float(part or 0) for part in found.groups())
            return 3600 * hours + 60 * minutes + seconds + millis / 1000
    # A NaN compares false, a huge integer could not become a float, and minus zero is zero.
    elif isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9:
        return abs(float(value))
    raise ValueError('expected seconds, or a text such as "250ms", "30s", "5m", "1h30m"')


def duration_text(seconds: float) -> str:
    """Seconds as a person would write them; more digits than `duration` reads may come out."""
    for unit, size in (("h", 3600), ("m", 60), ("s", 1)):
        if seconds and not seconds % size:
            return f"{seconds / size:.0f}{unit}"
    millis = seconds * 1000
    return f"{millis:.0f}ms" if seconds and not millis % 1 else f"{seconds:g}s"


def name(text: str) -> str:
    """The name of a listener, backend, route or user."""
    if not _name_re.fullmatch(text):
        raise ValueError(
            "expected 1 to 64 letters, digits, '_', '.' or '-', beginning with a letter or digit"
        )
    return text


def identifier(text: str) -> str:
    """The id of a mesh network."""
    if not _identifier_re.fullmatch(text):
        raise ValueError("expected 1 to 64 letters, digits, '_', '.' or '-'")
    return text


def label(text: str) -> str:
    """Free text for people: at most 255 printable characters."""
    if len(text) > 255 or not text.isprintable():
        raise ValueError("expected at most 255 printable characters")
    return text


def token(text: str) -> str:
    """A bearer token.

    Visible ASCII only, so that it passes through a header and a query alike. Eight characters
    at least: with ten wrong guesses a minute per address, shorter ones could be found in time.
    """
    if not _token_re.fullmatch(text):
        raise ValueError("expected 8 to 256 visible ASCII characters, no spaces")
    return text


def password_hash(text: str) -> str:
    """The hash of a proxy user's password."""
    from ..passwd import parse  # who has no users needs none of it

    parse(text)
    return text


def device(text: str) -> str:
    """The name of a network device, as Linux allows it."""
    if not _device_re.fullmatch(text) or text in (".", ".."):
        raise ValueError(
            "expected the name of a network device: 1 to 15 visible characters, no '/'"
        )
    return text


def address(text: str) -> bytes:
    """An IP address; returns it packed."""
    packed = acl.pack(text)
    if packed is None:
        raise ValueError("expected an IPv4 or IPv6 address")
    return packed


def network(text: str) -> tuple[bytes, int]:
    """A network in CIDR form, or one address; returns it packed and the length of its prefix."""
    if len(text) > 64 or not text.isascii():
        raise ValueError('expected a network: "192.168.1.0/24" or "fc00::/7"')
    try:
        return acl.parse_network(text)
    except ValueError as error:
        reason = str(error).removeprefix(f"{text!r} ").removesuffix(".")
        raise ValueError(f"which {reason}") from None


def endpoint(text: str) -> tuple[str, int]:
    """An address to listen on, ``192.0.2.1:7082`` or ``[::1]:7082``; port 0 is any free one."""
    found = _endpoint_re.fullmatch(text)
    if found is not None:
        host, port = found[1] or found[2], int(found[3])
        # Brackets around IPv4 would pass `pack`; nobody writes them on purpose.
        if acl.pack(host) is not None and (":" in host) == bool(found[1]) and port <= 65535:
            return host, port
    raise ValueError('expected an IP address with its port: "127.0.0.1:7082" or "[::1]:7082"')


def server(text: str) -> Server:
    """A name server: an IP address, with a port where it is not 53, with a zone if it needs one."""
    try:
        found = parse_server(text)
        if found.zone:
            device(found.zone)
    except ValueError:
        raise ValueError(
            'expected an IP address, or one with its port: "[2001:db8::1]:5353"'
        ) from None
    return found


def host(text: str) -> str:
    """A host name, or an IP address without brackets."""
    try:
        from_host(text.encode("ascii", "replace"), 1)
    except ProtocolError:
        raise ValueError("expected a host name or an IP address, without a port") from None
    return text


def authority(text: str) -> Target:
    """A host name or IP address with its port; IPv6 in brackets."""
    found = _parsed(text)
    if found is None:
        raise ValueError('expected a host and its port: "proxy.example.net:1080"')
    return found


def origin(text: str) -> str:
    """A web origin, RFC 6454: scheme, host, and a port where it is not the scheme's own."""
    scheme, _, rest = text.partition("://")
    if scheme not in ("http", "https") or rest.endswith(":") or _parsed(rest, 80) is None:
        raise ValueError('expected an origin: "http://host" or "https://host:port", nothing after')
    return text


def http_url(text: str) -> str:
    """The ``http://`` address that a health check asks for."""
    found = _url_re.fullmatch(text)
    if found is None or _parsed(found[1], 80) is None:
        raise ValueError('expected an http:// address: "http://192.0.2.1/generate_204"')
    return text


def domain(text: str) -> str:
    """A pattern of a route.

    ``a.example`` is that name; ``*.a.example`` every name below it; ``.a.example`` both;
    ``*`` every name; a ``*`` elsewhere stands for any characters of its own label.
    """
    if text == "*":
        return text
    if not text.isascii():
        raise ValueError("expected ASCII: write an international name in its xn-- form")
    if acl.pack(text.strip("[]")) is not None:
        raise ValueError("expected a name: addresses belong in `cidrs`")
    if any(sign in text for sign in "/:@"):
        raise ValueError("expected a name alone, without scheme, port or path")
    if text.endswith("."):
        raise ValueError("expected no dot at the end")
    rest = text[2:] if text.startswith("*.") else text[1:] if text.startswith(".") else text
    if len(text) > MAX_NAME:
        raise ValueError(f"expected at most {MAX_NAME} characters")
    for part in rest.split("."):
        _check_label(part)
    return text


def _check_label(part: str) -> None:
    if not part:
        raise ValueError("expected no empty label between dots")
    if "**" in part:
        raise ValueError("expected one '*' at a time")
    if len(part) > 63:
        raise ValueError("expected labels of at most 63 characters")
    if part.startswith("-") or part.endswith("-"):
        raise ValueError("expected no label that begins or ends with '-'")
    if not _label_re.fullmatch(part.replace("*", "x")):
        raise ValueError("expected letters, digits, '-', '_', dots and '*'")


def _parsed(text: str, default_port: int | None = None) -> Target | None:
    """An authority as the data plane reads it, or None where it would refuse it."""
    try:
        return parse_authority(text.encode("ascii", "replace"), default_port)
    except ProtocolError:
        return None
