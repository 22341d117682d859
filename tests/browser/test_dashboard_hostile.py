"""Names that clients chose, and floods of them, do no harm to the dashboard."""

from __future__ import annotations

import itertools
import socket
from base64 import b64encode
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, expect

from bifrost_lite.passwd import make
from tests.browser.dashboard import (
    NETWORK,
    SECTIONS,
    Dashboard,
    ask,
    downloading,
    live_daemon,
    opened,
    register,
    web,
)
from tests.browser.stand_in import StandIn, Twist
from tests.e2e.daemon import Daemon, Value
from tests.e2e.origin import Origin
from tests.e2e.program import DEADLINE

NAMES = {
    "markup": """<img src=x onerror="window.harmed = 1"><script>window.harmed = 1</script>""",
    "bidi": "\u202egnp.exe\u2066\u2067 right-to-left \u05d0\u05d1\u05d2",
    "long": "x" * 10_000,
    "control": "\x00\x07\x1b[31mred\x1b]0;title\x07\r\n\t\x7f\x9b31m\ufeff\ud83d",
    "quotes": """javascript:window.harmed=1//"'`-->]]></title></script>${window.harmed=1}""",
    "prototype": "__proto__",
}
# Words of the API itself, which decide how the rest is read.
MACHINE = frozenset(
    ("type", "time", "timestamp", "since", "start_time", "first_seen", "boot", "created", "state")
)
TALLEST = 700  # pixels that an entry of a list may take, on a phone as well


def names_everywhere(*, machine_too: bool) -> Twist:
    """Puts one of `NAMES` in the place of every string, all in turn."""
    turn = itertools.cycle(NAMES.values())

    def twist(document: object, key: str = "") -> object:
        if isinstance(document, dict):
            return {key: twist(value, key) for key, value in document.items()}
        if isinstance(document, list):
            return [twist(value, key) for value in document]
        if isinstance(document, str) and (machine_too or key not in MACHINE):
            return next(turn)
        return document

    return twist


def check_unharmed(dashboard: Dashboard) -> None:
    """Nothing of a name became more than text, and the page still stands."""
    page = dashboard.page
    assert page.evaluate("() => window.harmed") is None
    assert page.evaluate("() => Object.keys(Object.prototype).length") == 0
    assert page.locator("img, iframe, object, embed, base, [onerror]").count() == 0
    assert page.locator("script").count() == 1
    assert page.locator("a[href]:not([href^='#'])").count() == 0
    paths = {urlsplit(url).path for url in dashboard.requests} - {"/", "/app.js", "/style.css"}
    assert not [path for path in paths if not path.startswith("/api/v1/")], paths
    unbound = page.evaluate(UNBOUND)
    assert not unbound, unbound
    dashboard.fits()
    tall = page.evaluate(
        """most => [...document.querySelectorAll("main tr, main li, main dd, main p, .alert")]
        .map(element => [element.getBoundingClientRect().height, element.textContent.slice(0, 99)])
        .filter(([height]) => height > most)""",
        TALLEST,
    )
    assert not tall, tall


# Texts with marks of direction that could turn what stands around them.
UNBOUND = """() => {
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode()); ) {
    if (!/[\\u202a-\\u202e\\u2066-\\u2069]/.test(node.data)) continue;
    if (!node.parentElement.checkVisibility()) continue;
    for (let up = node.parentElement; ; up = up.parentElement) {
      const style = getComputedStyle(up);
      if (/isolate|plaintext/.test(style.unicodeBidi) && up.textContent === node.data) break;
      if (style.display !== "inline") {
        if (up.textContent !== node.data) found.push([up.tagName, up.textContent.slice(0, 99)]);
        break;
      }
    }
  }
  return found;
}"""


def connection(name: str, number: int) -> dict[str, object]:
    return {
        "protocol": name,
        "host": name,
        "backend": name,
        "client_ip": name,
        "id": number,
        "route": name,
    }


def events_of(name: str, number: int) -> Iterator[tuple[str, Mapping[str, object]]]:
    """All kinds of events, each with the name wherever a string may be."""
    end = {"bytes_sent": 1, "bytes_received": 2, "duration_ms": 3, "reason": name}
    yield "connection.new", connection(name, number)
    yield "connection.new", connection(name, number + 1)
    yield "connection.close", {**connection(name, number), **end}
    yield "connection.failed", {**connection(name, number + 2), "reason": name}
    for state in ("down", name):
        health = {"healthy": False, "state": state, "reason": name, "since": name}
        yield "backend.health", {"name": name, **health}
    yield "config.saved", {"changed_sections": [name] * 20, "requires_restart": True}
    yield "config.reload", {"changed_sections": [name], "requires_restart": False}
    fault = {"section": name, "field": name, "message": name}
    yield "config.rejected", {"errors": [fault] * 3}
    yield name, {"name": name}
    yield "peer.joined", {"peer_id": name, "name": name, "virtual_ip": name}


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """One that has something to say in every answer."""
    group = {"name": "best", "type": "group", "members": ["direct"]}
    with live_daemon(
        backends=[{"name": "direct", "type": "direct"}, group],
        routes=[{"name": "all", "domains": ["*"], "backend": "best"}],
        mesh={"networks": [{"id": "home", "name": "Home", "cidr": "10.100.0.0/16"}]},
    ) as daemon:
        register(daemon, "home", "laptop", model="old")
        yield daemon


@pytest.mark.parametrize("machine_too", [False, True], ids=["names", "all"])
@pytest.mark.parametrize("width", [360, 1280])
def test_raw_in_every_field(
    browser: Browser, daemon: Daemon, origin: Origin, machine_too: bool, width: int
) -> None:
    with (
        downloading(daemon, origin),
        StandIn(daemon, names_everywhere(machine_too=machine_too)) as stand_in,
        # It asks for what these names call, and is refused.
        opened(browser, stand_in.origin, width=width, allowed=NETWORK) as dashboard,
    ):
        stand_in.say(*events_of("any", 1000))  # twisted on its way
        stand_in.log({"timestamp": "now", "level": "warn", "message": "any", "fields": {"a": "b"}})
        expect(dashboard["#log li"]).not_to_have_count(0)
        stand_in.twist = lambda document: document
        for number, name in enumerate(NAMES.values()):
            stand_in.say(*events_of(name, 10 * number))
            fields = {"method": name, "url": name, "host": name, "action": name, name: name}
            for level in ("warn", name):
                entry = {"timestamp": name, "level": level, "message": name, "fields": fields}
                stand_in.log(entry)
        events = dashboard["#events li"]
        expect(events.filter(has_text="<img src=x")).not_to_have_count(0)
        expect(events.filter(has_text="__proto__")).not_to_have_count(0)
        expect(dashboard["#log li"].filter(has_text="__proto__")).not_to_have_count(0)
        dashboard["#route-host"].fill(NAMES["markup"])
        dashboard["#route-host"].press("Enter")
        expect(dashboard["#route-result"]).not_to_be_empty()
        dashboard["#filter-host"].fill(NAMES["quotes"])
        dashboard["#filter-host"].fill("")
        check_unharmed(dashboard)


def raw(daemon: Daemon, *messages: bytes) -> None:
    """Say this to the proxy, and wait for its last word."""
    with socket.create_connection(daemon.proxy, DEADLINE) as client:
        for message in messages:
            client.sendall(message)
        while client.recv(4096):
            pass


def socks5(name: bytes) -> tuple[bytes, bytes]:
    greeting = b"\x05\x01\x00"
    return greeting, b"\x05\x01\x00\x03" + bytes([len(name)]) + name + b"\x00\x50"


def test_through_the_proxy(browser: Browser, origin: Origin) -> None:
    markup, bidi = b"<img/src=x/onerror=window.harmed=1>", "/\u202egnp.exe".encode()
    user = {"name": "anna", "password_hash": str(make(b"secret", bytes(16), 1000))}
    listen: dict[str, Value] = {"address": "127.0.0.1", "port": 0}
    with (
        live_daemon(
            listen=[
                {"name": "main", **listen, "auth": False},
                {"name": "guarded", **listen},
            ],
            users=[user],
            log={"level": "debug"},
            mesh={"networks": [{"id": "home", "name": "<b>Home</b>", "cidr": "10.100.0.0/16"}]},
        ) as daemon,
        opened(browser, web(daemon), width=360) as dashboard,
    ):
        dashboard.expect_badge("live")
        register(daemon, "home", NAMES["markup"][:60], model=NAMES["quotes"])
        host = origin.authority.encode()
        for path in (b"/" + markup, bidi, b"/" + b"x" * 8000, b"/javascript:'\"`//"):
            request = b"GET http://%b%b HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n"
            raw(daemon, request % (host, path, host))
        for name in NAMES.values():
            hostile = name.encode("utf-8", "surrogatepass")
            raw(daemon, *socks5(hostile[:255]))
            raw(daemon, b"CONNECT %b:80 HTTP/1.1\r\nHost: %b\r\n\r\n" % (hostile, hostile))
            raw(daemon, b"GET http://%b/ HTTP/1.1\r\nHost: %b\r\n\r\n" % (hostile, hostile))
            raw(daemon, b"\x04\x01\x00\x50\x00\x00\x00\x01%b\x00%b\x00" % (b"user", hostile))
            login = b64encode(hostile + b":secret")
            with socket.create_connection(daemon.proxies["guarded"], DEADLINE) as client:
                client.sendall(
                    b"GET http://%b/ HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n"
                    b"Proxy-Authorization: Basic %b\r\n\r\n" % (host, host, login)
                )
                assert client.recv(100).startswith(b"HTTP/1.1 4")
        log = dashboard["#log li"]
        expect(log.filter(has_text=markup.decode())).to_have_count(1)
        expect(log.filter(has_text="gnp.exe")).to_have_count(1)
        failures = ask(daemon, "/status")["failures"]
        assert sum(failures.values()) >= 20, failures
        expect(dashboard['#events li[data-type="connection.failed"]']).not_to_have_count(0)
        dashboard.page.reload()
        dashboard.expect_badge("live")
        expect(dashboard["#mesh"]).to_contain_text("<b>Home</b>")
        expect(dashboard["#mesh"]).to_contain_text("<img src=x")
        check_unharmed(dashboard)


def test_a_flood(browser: Browser, daemon: Daemon) -> None:
    count = 2000
    with (
        StandIn(daemon) as stand_in,
        opened(browser, stand_in.origin) as dashboard,
    ):
        dashboard.expect_badge("live")
        end = {"bytes_sent": 1, "bytes_received": 2, "duration_ms": 3, "reason": "closed"}

        def events(first: int) -> Iterator[tuple[str, Mapping[str, object]]]:
            for number in range(first, first + count):
                yield "connection.new", connection(f"n{number}", number)
                yield "connection.close", {**connection(f"n{number}", number), **end}
                yield "connection.failed", {**connection(f"n{number}", number), "reason": "no"}

        def flood(first: int) -> int:
            stand_in.say(*events(first))
            entry = {"timestamp": "2024-01-15T10:00:00Z", "level": "info", "fields": {}}
            stand_in.log(*({**entry, "message": f"m{first + i}"} for i in range(count)))
            last = f"n{first + count - 1}"
            expect(dashboard["#events li"].filter(has_text=last).first).to_be_visible()
            expect(dashboard["#log li"].filter(has_text=f"m{first + count - 1}")).to_have_count(1)
            expect(dashboard["#closed tr[data-id]"].filter(has_text=last).first).to_be_visible()
            for name in SECTIONS:
                rows = dashboard[f"#{name} tr, #{name} li"].count()
                assert rows <= 510, (name, rows)
            nodes: int = dashboard.page.evaluate(
                "() => document.querySelectorAll('*').length"
            )
            return nodes

        first = flood(10_000)
        # A second one leaves no more behind than the first.
        assert flood(20_000) <= first + 50
        # It still answers to its user.
        dashboard["#filter-host"].fill("nothing")
        expect(dashboard["#connections tr[data-id]:visible"]).to_have_count(0)
        dashboard["#filter-host"].fill("")
        assert first < 10_000


def test_more_connections_than_anybody_reads(browser: Browser, daemon: Daemon) -> None:
    """It shows some, and says how many there are."""
    count = 9000
    opening = [connection(f"n{number}", number) for number in range(count)]
    moved = {"start_time": "2024-01-15T10:00:00Z", "age": 1, "bytes_sent": 2, "bytes_received": 3}
    listed = [{**one, **moved} for one in opening]

    def twist(document: object) -> object:
        if isinstance(document, dict) and isinstance(document.get("connections"), list):
            return {**document, "connections": listed, "count": count}
        return document

    with StandIn(daemon, twist) as stand_in, opened(browser, stand_in.origin) as dashboard:
        dashboard.expect_badge("live")
        stand_in.say(*(("connection.new", one) for one in opening))
        expect(dashboard["#connections-count"]).to_have_text(f"200 of {count}")
        rows = dashboard["#connections tr[data-id]"]
        expect(rows).to_have_count(200)
        # A filter looks through all of them.
        dashboard["#filter-host"].fill("n8999")
        expect(rows).to_have_count(1)
