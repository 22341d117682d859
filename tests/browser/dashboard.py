"""The dashboard in Chromium: opened, looked at, and held to what every visit promises."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Browser, Locator, Page, expect

from tests.daemon_kit import read_head
from tests.e2e.chromium import Console
from tests.e2e.curl import curl
from tests.e2e.daemon import Daemon, Section
from tests.e2e.origin import Origin
from tests.e2e.program import DEADLINE, environment

TOKEN, READ_TOKEN = "s3cret-T0ken", "l00k-only"
WIDTHS = (360, 768, 1280)  # pixels: a phone, a tablet, a desk
THEMES = ("light", "dark")
SECTIONS = (
    "overview", "backends", "connections", "closed", "clients", "events", "log", "routes", "mesh",
)  # fmt: skip
AXE = Path(__file__).parent.parent / "node_modules" / "axe-core" / "axe.min.js"
# What Chromium says by itself of an answer that is an error, or of none.
NETWORK = r"^(error|warning): (Failed to load resource|WebSocket connection to)"

# Calls for a tab that is or is not in the background.
HIDE = """hidden => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
  const state = hidden ? "hidden" : "visible";
  Object.defineProperty(document, "visibilityState", { configurable: true, get: () => state });
  document.dispatchEvent(new Event("visibilitychange"));
}"""

expect.set_options(timeout=DEADLINE * 1000)


class Dashboard:
    """The page, and all it did.

    Args:
        page: a fresh one, before it is sent anywhere
        origin: the web origin of the control server

    Attributes:
        page: the page
        console: what it wrote there
        requests: the addresses it asked for, WebSockets included
        dialogs: what it said by alert() and the like
    """

    def __init__(self, page: Page, origin: str) -> None:
        self.page = page
        self.origin = origin
        self.console = Console(page)
        self.requests: list[str] = []
        self.dialogs: list[str] = []
        page.context.on("request", lambda request: self.requests.append(request.url))
        page.on("websocket", lambda websocket: self.requests.append(websocket.url))
        page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss()))

    def open(self, fragment: str = "") -> None:
        """Go there."""
        self.page.goto(f"{self.origin}/{fragment}")

    def __getitem__(self, selector: str) -> Locator:
        return self.page.locator(selector)

    def expect_badge(self, *states: str) -> None:
        """Wait until the badge is in one of `states`."""
        expect(self["#badge"]).to_have_attribute("data-state", re.compile(f"^({'|'.join(states)})$"))

    @property
    def badge(self) -> str | None:
        """The state that the badge shows."""
        return self["#badge"].get_attribute("data-state")

    def connection(self, host: str) -> Locator:
        """The row of a running connection to `host`."""
        return self["#connections tr[data-id]"].filter(has_text=host)

    def closed(self, host: str) -> Locator:
        """The row of a connection to `host` that has ended."""
        return self["#closed tr[data-id]"].filter(has_text=host)

    def backend(self, name: str) -> Locator:
        """What is shown of a backend."""
        return self[f'#backends [data-name="{name}"]']

    def hide(self, hidden: bool) -> None:
        """Let the page believe that its tab went to the background, or came back."""
        self.page.evaluate(HIDE, hidden)

    def fits(self) -> None:
        """Nothing is wider than the window, and no section lies on another."""
        wide = self.page.evaluate(
            "() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert wide[0] <= wide[1], f"the page is {wide[0]} px wide in a window of {wide[1]}"
        boxes = {name: self[f"#{name}"].bounding_box() for name in SECTIONS}
        shown = [(name, box) for name, box in boxes.items() if box is not None]
        for number, (name, one) in enumerate(shown):
            assert one["x"] >= 0 and one["x"] + one["width"] <= wide[1] + 0.5, (name, one)
            for other, two in shown[:number]:
                apart = (
                    one["x"] + one["width"] <= two["x"] + 0.5
                    or two["x"] + two["width"] <= one["x"] + 0.5
                    or one["y"] + one["height"] <= two["y"] + 0.5
                    or two["y"] + two["height"] <= one["y"] + 0.5
                )
                assert apart, f"{name} {one} lies on {other} {two}"

    def check_accessible(self) -> None:
        """Let axe-core judge the page as it is."""
        if not self.page.evaluate("'axe' in window"):
            # As a debugger would: the page's own policy lets no such script in.
            self.page.evaluate(AXE.read_text(encoding="utf-8"))
        result = self.page.evaluate("async () => await axe.run()")
        found = [
            f"{violation['id']}: {node['target']} {node['failureSummary']}"
            for violation in result["violations"]
            for node in violation["nodes"]
        ]
        assert not found, "\n".join(found)
        assert len(result["passes"]) > 15  # it had something to judge

    def check(self, allowed: str) -> None:
        """Fail if the visit broke a promise.

        Args:
            allowed: a pattern of those errors in the console that are no fault of the page
        """
        errors = self.console.matching("^(error|warning|uncaught|assert): ?")
        faults = [one.string for one in errors if not re.search(allowed, one.string)]
        assert not faults, "\n".join(faults)
        assert not self.dialogs, self.dialogs
        own = urlsplit(self.origin).netloc
        for url in self.requests:
            parts = urlsplit(url)
            assert parts.netloc == own, f"asked elsewhere: {url}"
            if parts.scheme not in ("ws", "wss"):
                assert "token" not in parse_qs(parts.query), f"a token in an address: {url}"
        kept = self.page.evaluate("() => [localStorage.length, document.cookie]")
        assert kept == [0, ""]


@contextmanager
def opened(
    browser: Browser,
    origin: str,
    *,
    theme: Literal["light", "dark"] = "light",
    width: int = 1280,
    fragment: str = "",
    allowed: str = r"$^",
    clock: bool = False,
) -> Iterator[Dashboard]:
    """The dashboard at `origin` in a browser context of its own; its promises are checked.

    Args:
        browser: the browser
        origin: the web origin of the control server
        theme: what the system prefers
        width: of the window in pixels
        fragment: behind the address, with its #
        allowed: see `Dashboard.check`
        clock: make the page's time the test's to move; it runs by itself as well
    """
    context = browser.new_context(
        color_scheme=theme, viewport={"width": width, "height": 800}, reduced_motion="reduce"
    )
    context.set_default_timeout(DEADLINE * 1000)
    try:
        page = context.new_page()
        dashboard = Dashboard(page, origin)
        if clock:
            page.clock.install()
        dashboard.open(fragment)
        yield dashboard
        dashboard.check(allowed)
    finally:
        context.close()


def live_daemon(**sections: Section) -> Daemon:
    """A daemon that tells its counters four times a second, and waits for nobody at its end."""
    control = sections.pop("control", {})
    assert isinstance(control, Mapping)
    control = {"stats_interval": "250ms", **control}
    return Daemon(graceful_period="0s", control=control, **sections)


def web(daemon: Daemon) -> str:
    """The web origin of a daemon's dashboard."""
    return f"http://{daemon.control}"


def ask(daemon: Daemon, path: str) -> Any:
    """What the API answers to a GET with the token."""
    got = curl("-H", f"Authorization: Bearer {TOKEN}", daemon.url(f"/api/v1{path}"))
    assert got.status == 200, got.body
    return json.loads(got.body)


def seats(daemon: Daemon) -> tuple[int, int]:
    """How many watch the events of a daemon, and how many its log."""
    status = ask(daemon, "/status")
    return status["clients"]["count"], status["subscribers"]["count"]


def register(daemon: Daemon, network: str, name: str, **metadata: str) -> None:
    """Make a peer a member of a mesh network."""
    peer = {"id": "peer-1", "name": name, "public_key": "a" * 43 + "=", "metadata": metadata}
    got = curl(
        *("-H", "Content-Type: application/json", "--data-binary", "@-"),
        daemon.url(f"/api/v1/mesh/networks/{network}/peers"),
        send=json.dumps({"peer": peer}).encode(),
    )
    assert got.status == 201, got.body


@contextmanager
def downloading(
    daemon: Daemon, origin: Origin, *options: str, size: int = 2000, host: str | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A curl that got the first half of its download and waits for `origin.release`."""
    url = origin.url(f"/trickle/{size}", host)
    argv = ["curl", "-q", "-sSN", "-x", f"http://{daemon.proxy}", "--proxytunnel", *options, url]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=environment()) as client:
        try:
            assert client.stdout is not None
            assert len(client.stdout.read(size // 2)) == size // 2
            yield client
        finally:
            client.kill()


@contextmanager
def tunnels(daemon: Daemon, origin: Origin, count: int) -> Iterator[list[socket.socket]]:
    """So many idle tunnels to an origin."""
    with ExitStack() as stack:
        clients = []
        for _ in range(count):
            client = stack.enter_context(socket.create_connection(daemon.proxy, DEADLINE))
            target = origin.authority
            client.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
            assert read_head(client).startswith(b"HTTP/1.1 200 ")
            clients.append(client)
        yield clients
