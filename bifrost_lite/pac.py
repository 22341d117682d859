"""The file that tells browsers which requests are the proxy's: routes as JavaScript.

A browser asks `FindProxyForURL(url, host)` before each request. The answers mirror the routes:

- DIRECT where the first route that matches leads to a backend that dials as any other program
  would: of type `direct`, without `source`, with `family` auto. A browser can do that itself,
  and a router is spared copying.
- The proxy for all else: tunnels, upstreams, groups, what is blocked, and what no route takes,
  which the proxy refuses and shows. Without any route that is everything: who has none and
  hands this file out wants to see the traffic. DIRECT never stands behind the proxy as a second
  choice: what it blocks and tunnels would leak as soon as it is away.
- DIRECT for plain host names, this proxy's own host, and addresses of private networks,
  loopback and link-local; but not for those of a private network that `cidrs` lead elsewhere,
  such as an office behind a tunnel.

A file is made for one client, so routes for others are not in it; nor are names of routes and
backends, for it is read without a token. It never asks the DNS or for the browser's address.
What it has no room for goes to the proxy, which knows: see `LIMIT`, and lists in `Script`.

The code is ECMAScript 3: some of what reads these files is older than `startsWith`. Text from
outside stands in quoted strings only, of characters that mean nothing there or are escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from .acl import Networks, pack, parse_network, prefix_mask, unpack
from .config.schema import Backend, Block, Direct, Route
from .target import Target

Network = tuple[bytes, int]

LIMIT = 256 * 1024  # bytes; some that read these files take no more than 1 MiB

# What routers do not forward to the outside: RFC 1918 section 3, RFC 4193 section 3.1.
_PRIVATE = tuple(
    map(parse_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"))
)
_UNKNOWN = "// A list that is not in this file: whatever comes this far may be in it.\n"
_CUT = "// There are more routes than this file has room for: the proxy has them all.\n"
_is_plain = re.compile(r"[A-Za-z0-9 ._*:;/\[\]-]*").fullmatch

_HEAD = """\
// Made by bifrost-lite from its routes, for %s: the first that fits decides.
// INSIDE is for private addresses, where what fits none is DIRECT; else it is the proxy's.
var PROXY = %s;
var OWN = [%s];
"""

_CODE = r"""
var LOCAL = {cidrs: ["0.0.0.0/8", "10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16",
  "172.16.0.0/12", "192.168.0.0/16", "::/128", "::1/128", "fc00::/7", "fe80::/10"]};
var PORTS = {"http:": 80, "ws:": 80, "https:": 443, "wss:": 443, "ftp:": 21};

function FindProxyForURL(url, host) {
  var name = canonical(host), bits = toBits(name), port = portOf(url), inside, routes, i;
  for (i = 0; i < OWN.length; i++) {
    if (name === OWN[i] || (bits && bits === toBits(OWN[i]))) { return "DIRECT"; }
  }
  if (!bits) {
    if (!isName(name)) { return PROXY; }
    if (name.indexOf(".") < 0 || /\.localhost$/.test(name)) { return "DIRECT"; }
  }
  inside = bits && fits(LOCAL, name, bits);
  routes = inside ? INSIDE : ROUTES;
  for (i = 0; port && i < routes.length; i++) {
    if ((!routes[i].ports || routes[i].ports[port] === 1) && fits(routes[i], name, bits)) {
      return routes[i].direct ? "DIRECT" : PROXY;
    }
  }
  return inside ? "DIRECT" : PROXY;
}

// Lower case, without brackets, zone and final dot.
function canonical(host) {
  var name = host.toLowerCase().replace(/^\[(.*)\]$/, "$1");
  if (name.indexOf(":") >= 0) { return name.split("%")[0]; }
  return name.length > 1 ? name.replace(/\.$/, "") : name;
}

function isName(name) {
  return name.length <= 253 && /^[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*$/.test(name) &&
    !/(^|\.)([0-9]+|0x[0-9a-f]*)$/.test(name);
}

function portOf(url) {
  var parts = url.split("/"), port = /:([0-9]+)$/.exec((parts[2] || "").replace(/[?#\\].*/, ""));
  return port ? Number(port[1]) : PORTS[parts[0].toLowerCase()] || 0;
}

// The bits of an address as text, 32 or 128 of them; "" for what is none.
function toBits(name) {
  var halves, left, right;
  if (name.indexOf(":") < 0) { return fourBits(name); }
  halves = name.split("::");
  if (halves.length > 2) { return ""; }
  left = sixBits(halves[0], halves.length === 1);
  right = halves.length === 2 ? sixBits(halves[1], true) : "";
  if (left === null || right === null) { return ""; }
  if (halves.length === 2) {
    if (left.length + right.length > 112) { return ""; }
    while (left.length + right.length < 128) { left += "0"; }
  }
  left += right;
  if (/^0{80}1{16}/.test(left)) { return left.length === 128 ? left.substring(96) : ""; }
  return left.length === 128 ? left : "";
}

function fourBits(text) {
  var parts = text.split("."), bits = "", i;
  if (parts.length !== 4) { return ""; }
  for (i = 0; i < 4; i++) {
    if (!/^(0|[1-9][0-9]{0,2})$/.test(parts[i]) || parts[i] > 255) { return ""; }
    bits += binary(Number(parts[i]), 8);
  }
  return bits;
}

function sixBits(text, last) {
  var parts = text ? text.split(":") : [], bits = "", more, i;
  for (i = 0; i < parts.length; i++) {
    more = "";
    if (/^[0-9a-f]{1,4}$/.test(parts[i])) {
      more = binary(parseInt(parts[i], 16), 16);
    } else if (last && i === parts.length - 1) {
      more = fourBits(parts[i]);
    }
    if (!more) { return null; }
    bits += more;
  }
  return bits;
}

function binary(number, width) {
  var bits = "";
  while (bits.length < width) {
    bits = (number % 2) + bits;
    number = Math.floor(number / 2);
  }
  return bits;
}

function fits(route, name, bits) {
  var i;
  if (route.any) { return true; }
  if (bits) {
    for (i = 0; i <= bits.length; i++) {
      if (route.nets[bits.length + "/" + bits.substring(0, i)] === 1) { return true; }
    }
    return false;
  }
  if (route.names[name] === 1) { return true; }
  for (i = name.indexOf("."); i >= 0; i = name.indexOf(".", i + 1)) {
    if (route.names[name.substring(i)] === 1) { return true; }
  }
  for (i = 0; i < route.globs.length; i++) {
    if (globFits(route.globs[i], name)) { return true; }
  }
  return false;
}

function globFits(pattern, name) {
  var below = pattern.substring(0, 2) === "*.", both = pattern.charAt(0) === ".";
  var want = pattern.substring(below ? 2 : both ? 1 : 0).split("."), have = name.split(".");
  var extra = have.length - want.length, i;
  if (below ? extra < 1 : both ? extra < 0 : extra !== 0) { return false; }
  for (i = 0; i < want.length; i++) {
    if (!labelFits(want[i].split("*"), have[extra + i])) { return false; }
  }
  return true;
}

// Whether the pieces between the stars stand in a label one after another.
function labelFits(pieces, label) {
  var last = pieces.length - 1, at = pieces[0].length, end = label.length - pieces[last].length, i;
  if (!last) { return pieces[0] === label; }
  if (end < at || label.substring(0, at) !== pieces[0]) { return false; }
  if (label.substring(end) !== pieces[last]) { return false; }
  for (i = 1; i < last; i++) {
    at = label.indexOf(pieces[i], at);
    if (at < 0 || at + pieces[i].length > end) { return false; }
    at += pieces[i].length;
  }
  return true;
}

function prepare(route) {
  var domains = route.domains || [], cidrs = route.cidrs || [], ports = route.ports, parts, i;
  route.names = {};
  route.globs = [];
  route.nets = {};
  for (i = 0; i < domains.length; i++) {
    if (domains[i] === "*") {
      route.any = true;
    } else if (domains[i].indexOf("*", 1) >= 0 || /^\*[^.]/.test(domains[i])) {
      route.globs.push(domains[i]);
    } else {
      route.names[domains[i].replace(/^\*/, "")] = 1;
      route.names[domains[i].replace(/^\./, "")] = 1;
    }
  }
  for (i = 0; i < cidrs.length; i++) {
    parts = cidrs[i].split("/");
    parts[0] = toBits(parts[0]);
    route.nets[parts[0].length + "/" + parts[0].substring(0, Number(parts[1]))] = 1;
  }
  if (ports) {
    route.ports = {};
    for (i = 0; i < ports.length; i++) { route.ports[ports[i]] = 1; }
  }
}

(function () {
  var all = ROUTES.concat(INSIDE, LOCAL), i;
  for (i = 0; i < all.length; i++) { prepare(all[i]); }
}());
"""


class _Line(NamedTuple):
    """A route in the file.

    Attributes:
        text: an object literal, with a comment before it where one is needed
        direct: what it matches is DIRECT
        final: it matches everything
    """

    text: str
    direct: bool
    final: bool


class _Rule(NamedTuple):
    """A route, and what it is in the file.

    Attributes:
        clients: that it is for; None for all
        outside: in `ROUTES`; None where it matches nothing there
        inside: in `INSIDE`, the same
    """

    clients: Networks | None
    outside: _Line | None
    inside: _Line | None


class Script:
    """The routes of one configuration, as far as clients have them in common.

    Args:
        routes: in the order of the file
        backends: that they lead to
        entries: of lists, by the names of the routes that have them; what a list says that is
            not among them is not known, so what comes as far as its route goes to the proxy
    """

    __slots__ = ("_rules",)

    def __init__(
        self,
        routes: Iterable[Route],
        backends: Iterable[Backend],
        entries: Mapping[str, Sequence[str]],
    ) -> None:
        near = {item.name for item in backends if _is_near(item)}
        none = {item.name for item in backends if isinstance(item, Block)}
        self._rules: list[_Rule] = []
        for route in sorted(routes, key=lambda route: -route.priority):
            if route.enabled:
                known = entries.get(route.name) if route.list else ()
                direct = route.backend in near
                inward = direct or route.backend in none  # what is blocked is not out there
                self._rules.append(_rule(route, direct, inward, known))

    @property
    def size(self) -> int:
        """How many routes take part."""
        return len(self._rules)

    def render(
        self, client: bytes, proxies: Iterable[tuple[str, Target]], own: Iterable[str]
    ) -> str:
        """The file for one client.

        Args:
            client: its address, 4 or 16 bytes
            proxies: what it may use, the best first: ``PROXY`` or ``SOCKS5``, and where
            own: names and addresses of this machine, which no proxy is asked for

        Returns:
            ASCII, of `LIMIT` characters at most
        """
        ways = "; ".join(f"{kind} {target.text}" for kind, target in proxies)
        head = _HEAD % (unpack(client), _quote(ways), ", ".join(map(_quote, own)))
        rules = [rule for rule in self._rules if not rule.clients or rule.clients.contains(client)]
        room = LIMIT - len(head) - len(_CODE) - 300  # for what arrays are made of
        # First, for it is short: lists and many domains are for the outside.
        inside = _array("INSIDE", (rule.inside for rule in rules), True, room)
        outside = _array("ROUTES", (rule.outside for rule in rules), False, room - len(inside))
        return head + outside + inside + _CODE


def _rule(route: Route, direct: bool, inward: bool, known: Sequence[str] | None) -> _Rule:
    """A route in the file.

    Args:
        route: it
        direct: what it matches is DIRECT
        inward: the same for private addresses
        known: the entries of its list, None for a list that is not known
    """
    domains = [domain.lower() for domain in route.domains]
    networks = [parse_network(cidr) for cidr in route.cidrs]
    for entry in known or ():
        if pack(entry.partition("/")[0]) is not None:
            networks.append(parse_network(entry))
        else:
            domains.append(entry)
    everything = known is None or "*" in domains or not (domains or networks or route.list)
    clients = Networks(route.clients) if route.clients else None
    private: list[Network] = []
    public: list[Network] = []
    for network in networks:
        (private if _is_private(network) else public).append(network)
    inside = _line((), private, route.ports, inward) if private else None
    outside: _Line | None = None
    if everything:
        line = _line(("*",), (), route.ports, direct and known is not None)
        outside = line._replace(text=_UNKNOWN + line.text) if known is None else line
    elif domains or public:
        outside = _line(domains, public, route.ports, direct)
    return _Rule(clients, outside, inside)


def _line(
    domains: Sequence[str],
    networks: Sequence[Network],
    ports: Sequence[int],
    direct: bool,
) -> _Line:
    cidrs = [f"{unpack(packed)}/{length}" for packed, length in networks]
    keys = [f"direct: {int(direct)}"]
    if domains:
        keys.append(f"domains: [{', '.join(map(_quote, domains))}]")
    if cidrs:
        keys.append(f"cidrs: [{', '.join(map(_quote, cidrs))}]")
    if ports:
        keys.append(f"ports: [{', '.join(map(str, ports))}]")
    return _Line(f"{{{', '.join(keys)}}}", direct, "*" in domains and not ports)


def _array(name: str, lines: Iterable[_Line | None], otherwise: bool, room: int) -> str:
    """The routes of one array, without those at its end that change nothing.

    Where there is no room for all, the last one takes what would be for those that are missing.

    Args:
        name: of the array
        lines: the routes in order
        otherwise: what fits none is DIRECT
        room: characters at most
    """
    kept: list[_Line] = []
    for line in lines:
        if line is not None:
            room -= len(line.text) + 2
            if room < 0:
                line = _line(("*",), (), (), False)
                line = line._replace(text=_CUT + line.text)
            kept.append(line)
            if line.final:
                break
    # One with a comment stays: it says why so much goes to the proxy.
    while kept and kept[-1].direct == otherwise and kept[-1].text[0] == "{":
        kept.pop()
    body = ",\n".join(line.text for line in kept)
    return f"var {name} = [\n{body}\n];\n"


def _is_near(item: Backend) -> bool:
    """Whether it dials as a browser of its own would."""
    return (
        isinstance(item, Direct)
        and item.type == "direct"
        and not item.source
        and item.family == "auto"
    )


def _is_private(network: Network) -> bool:
    packed, length = network
    number = int.from_bytes(packed, "big")
    return any(
        len(packed) == len(first)
        and length >= size
        and number & prefix_mask(size, len(first) * 8) == int.from_bytes(first, "big")
        for first, size in _PRIVATE
    )


def _quote(text: str) -> str:
    """A string literal that ends where it should, whatever is in `text`."""
    if _is_plain(text):
        return f'"{text}"'
    units = text.encode("utf-16-be", "surrogatepass")
    codes = (units[i] << 8 | units[i + 1] for i in range(0, len(units), 2))
    return '"' + "".join(c if _is_plain(c := chr(n)) else f"\\u{n:04x}" for n in codes) + '"'
