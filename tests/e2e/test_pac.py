"""The file for browsers, of the real daemon, as Chromium and npm's pac-resolver take it.

The daemon is a router of its own network, and Chromium a machine behind it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.e2e.chromium import chromium, new_page
from tests.e2e.curl import curl
from tests.e2e.daemon import Daemon, Section, configuration
from tests.e2e.nameserver import NameServer
from tests.e2e.origin import Origin
from tests.e2e.pac_engine import Engine
from tests.namespaces import Namespace

ROUTER, MACHINE, FAR = "192.168.1.1", "192.168.1.20", "203.0.113.7"
NEAR = "near.example"  # Chromium alone can find it
ZONE = {"a.work.example": (FAR,), "tv.example": (FAR,), "x.list.example": (FAR,)}
TOKEN = "a-token-of-the-test"
AUTH = f"Authorization: Bearer {TOKEN}"
BACKENDS: Section = [
    {"name": "office", "type": "group", "members": ["direct"]},
    {"name": "none", "type": "block"},
    {"name": "direct"},
]
ROUTES: Section = [
    {"name": "rest", "backend": "direct", "priority": 1},
    {"name": "work", "domains": ["*.work.example"], "backend": "office"},
    {"name": "tv", "domains": [".tv.example"], "clients": [f"{MACHINE}/32"], "backend": "office"},
    {"name": "net", "cidrs": ["203.0.113.0/24"], "backend": "office"},
    {"name": "list", "list": "some.txt", "ports": [80], "backend": "office"},
    {"name": "ads", "domains": ["ad*.example"], "backend": "none"},
    {"name": "guest", "clients": ["192.168.1.64/26"], "backend": "none", "priority": 500},
]


class House:
    """A router with the daemon, and a machine behind it; the test is in the router."""

    def __init__(self, daemon: Daemon, machine: Namespace) -> None:
        self.daemon = daemon
        self.machine = machine

    def requests(self) -> list[tuple[str, str]]:
        """URL and route of what went through the proxy, the oldest first."""
        url = self.daemon.url("/api/v1/requests")
        found: dict[str, Any] = json.loads(curl("-H", AUTH, url).body)
        return [(one["url"], one["route"]) for one in reversed(found["requests"])]

    def reload(self, **sections: Section) -> Mapping[str, Any]:
        """Put other sections in force."""
        text = configuration({**self.daemon.settings, **sections})
        self.daemon.path.write_text(text, "utf-8")
        url = self.daemon.url("/api/v1/config/reload")
        changed: dict[str, Any] = json.loads(curl("-X", "POST", "-H", AUTH, url).body)
        return changed


class Listed(Daemon):
    """A daemon with a list beside its configuration."""

    def __init__(self, **sections: Section) -> None:
        super().__init__(**sections)
        self.path.with_name("some.txt").write_text("# mine\n*.list.example\n", "utf-8")


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with Namespace() as router, Namespace() as machine:
        router.veth("lan", machine, "eth0")
        router.address("lan", f"{ROUTER}/24")
        router.address("lo", f"{FAR}/32")
        machine.address("eth0", f"{MACHINE}/24")
        machine.ip(f"route add default via {ROUTER}")
        with (
            router.inside(),
            NameServer(ZONE) as names,
            Listed(
                listen=[
                    {"name": "inward", "address": "127.0.0.1", "port": 7081},
                    {"name": "http", "address": ROUTER, "port": 7080, "protocol": "http"},
                    {"name": "socks", "address": ROUTER, "port": 7180, "protocol": "socks"},
                ],
                control={"listen": [f"{ROUTER}:7082"], "token": TOKEN},
                resolver={"servers": [names.address]},
                backends=BACKENDS,
                routes=ROUTES,
            ) as daemon,
        ):
            yield House(daemon, machine)


@pytest.fixture
def origins(house: House) -> Iterator[Mapping[str, Origin]]:
    with Origin(FAR, port=80) as far, Origin(ROUTER, port=8000) as inside:
        yield {"far": far, "inside": inside}


def fetched(house: House, path: str = "/proxy.pac") -> str:
    """The file as the machine gets it."""
    with house.machine.inside():
        return curl(house.daemon.url(path)).body.decode("ascii")


@pytest.fixture(scope="module")
def page(house: House) -> Iterator[Page]:
    with ExitStack() as stack:
        with house.machine.inside():
            browser = stack.enter_context(
                chromium(
                    f"--proxy-pac-url={house.daemon.url('/proxy.pac')}",
                    f"--host-resolver-rules=MAP {NEAR} {FAR}, MAP * ~NOTFOUND, EXCLUDE {ROUTER}",
                )
            )
        page, _ = stack.enter_context(new_page(browser))
        yield page


@pytest.mark.parametrize(
    ("host", "origin", "route"),
    [
        ("a.work.example", "far", "work"),
        ("tv.example", "far", "tv"),
        ("x.list.example", "far", "list"),
        (FAR, "far", "net"),
        (NEAR, "far", ""),
        (f"{ROUTER}:8000", "inside", ""),
    ],
)
def test_pages_come_the_way_they_should(
    house: House, origins: Mapping[str, Origin], page: Page, host: str, origin: str, route: str
) -> None:
    seen, before = origins[origin].seen, house.requests()
    path = f"/page/0?{host.replace(':', '-')}"
    answer = page.goto(f"http://{host}{path}")
    assert answer is not None
    assert answer.status == 200
    assert path in [request.path for request in seen]
    if route:
        house.daemon.wait_until(lambda: len(house.requests()) > len(before), "it is recorded")
        url, taken = house.requests()[-1]
        assert url.startswith(host)
        assert taken == route
    else:
        assert house.requests() == before


def test_what_is_blocked_is_refused_by_the_proxy(house: House, page: Page) -> None:
    answer = page.goto("http://ads.example/")
    assert answer is not None
    assert answer.status == 403
    assert answer.headers["x-bifrost-reason"] == "blocked"


def test_the_file_of_the_daemon(house: House) -> None:
    pac = fetched(house)
    assert pac == fetched(house, "/wpad.dat")
    through = f"PROXY {ROUTER}:7080; SOCKS5 {ROUTER}:7180"
    asks = {
        "http://a.work.example/": through,
        "http://work.example/": "DIRECT",
        "http://tv.example/": through,
        "http://x.list.example/": through,
        "http://list.example/": "DIRECT",
        "https://x.list.example/": "DIRECT",
        "http://ads.example/": through,
        f"http://{FAR}/": through,
        f"http://{ROUTER}/": "DIRECT",
        "http://nas/": "DIRECT",
        f"https://{NEAR}/": "DIRECT",
    }
    with Engine() as engine:
        questions = [(url, url.split("/")[2]) for url in asks]
        assert engine.ask(pac, questions, lint=True) == list(asks.values())
    # The router itself is another client, and asks for itself alone.
    assert "tv.example" not in curl(house.daemon.url("/proxy.pac")).body.decode("ascii")


def test_a_reload_changes_it_at_once(house: House) -> None:
    with Engine() as engine:
        ask = [("http://a.work.example/", "a.work.example")]
        assert engine.ask(fetched(house), ask) != ["DIRECT"]
        changed = house.reload(routes=ROUTES[:1])  # type: ignore[index]
        assert not changed["requires_restart"]
        assert engine.ask(fetched(house), ask) == ["DIRECT"]
        changed = house.reload(pac={"enabled": False})
        assert not changed["requires_restart"]
        for path in ("/proxy.pac", "/wpad.dat"):
            got = curl(house.daemon.url(path))
            assert (got.status, json.loads(got.body)["error"]) == (404, "pac_off")
        house.reload(pac={"proxy": "proxy.example"})
        assert '"PROXY proxy.example:7080; SOCKS5 proxy.example:7180"' in fetched(house)
