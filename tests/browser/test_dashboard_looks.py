"""The dashboard as people see it, or hear it: small and large, light and dark, and in parts."""

from __future__ import annotations

import gzip
import re
import signal
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, expect

import bifrost_lite
from tests.browser.dashboard import (
    NETWORK,
    SECTIONS,
    THEMES,
    TOKEN,
    WIDTHS,
    Dashboard,
    downloading,
    live_daemon,
    opened,
    register,
    web,
)
from tests.e2e.curl import curl, through
from tests.e2e.daemon import Daemon, Value
from tests.e2e.origin import Origin
from tests.e2e.upstreams import free_port

Theme = Literal["light", "dark"]
FILES = ("index.html", "style.css", "app.js")
FOLDER = Path(bifrost_lite.__file__).parent / "web"
# What makes markup, script or style of text.
MAKERS = (
    r"\b(innerHTML|outerHTML|insertAdjacentHTML|setHTMLUnsafe|srcdoc|createContextualFragment)\b|"
    r"\b(DOMParser|eval|execCommand)\b|document\.write|new Function|javascript:|\.cssText\b"
)

# Pairs of texts that lie on each other, as far as one sees them.
OVERLAPS = """() => {
  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode()); ) {
    const parent = node.parentElement;
    if (!node.data.trim() || !parent.checkVisibility({ visibilityProperty: true })) continue;
    if (parent.closest("svg, option, .skip")) continue;
    let sticky = null;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const rect of range.getClientRects()) {
      const box = { left: rect.left, right: rect.right, top: rect.top, bottom: rect.bottom };
      for (let up = parent; up !== document.body; up = up.parentElement) {
        const style = getComputedStyle(up);
        if (style.position === "sticky") sticky = up;
        if (style.overflow === "visible") continue;
        const clip = up.getBoundingClientRect();
        box.left = Math.max(box.left, clip.left);
        box.right = Math.min(box.right, clip.right);
        box.top = Math.max(box.top, clip.top);
        box.bottom = Math.min(box.bottom, clip.bottom);
      }
      if (box.right - box.left > 1 && box.bottom - box.top > 1) {
        texts.push([box, node.data, sticky]);
      }
    }
  }
  const found = [];
  texts.forEach(([one, text, layer], index) => {
    for (const [two, other, below] of texts.slice(0, index)) {
      if (layer !== below) continue; // what sticks covers what scrolls below it
      const wide = Math.min(one.right, two.right) - Math.max(one.left, two.left);
      const high = Math.min(one.bottom, two.bottom) - Math.max(one.top, two.top);
      // Lines may share a pixel or three: letters do not fill theirs.
      if (wide > 2 && high > 4) found.push([text, other, wide, high]);
    }
  });
  return found;
}"""


@pytest.fixture(scope="module")
def busy() -> Iterator[Daemon]:
    """A daemon with something in every section."""
    upstream: dict[str, Value] = {
        "name": "office",
        "type": "socks5_proxy",
        "address": f"127.0.0.1:{free_port()}",
        "health": {"type": "tcp", "target": "127.0.0.1:1", "interval": "10s", "fall": 1},
    }
    group: dict[str, Value] = {"name": "best", "type": "group", "members": ["office", "direct"]}
    with ExitStack() as stack:
        origin = stack.enter_context(Origin())
        daemon = stack.enter_context(
            live_daemon(
                backends=[upstream, {"name": "direct", "type": "direct"}, group],
                routes=[
                    {"name": "office", "domains": ["*.corp.example"], "backend": "office"},
                    {"name": "all", "backend": "best"},
                ],
                mesh={"networks": [{"id": "home", "name": "Home", "cidr": "10.100.0.0/16"}]},
            )
        )
        for way in ("http", "tunnel", "socks5"):
            curl(*through(way, daemon.proxy), origin.url())
        curl(*through("http", daemon.proxy), "http://somewhere.corp.example/")
        register(daemon, "home", "laptop-work")
        daemon.path.write_text("graceful_period = false\n", encoding="utf-8")
        daemon.process.send_signal(signal.SIGHUP)
        yield daemon


@contextmanager
def shown(
    browser: Browser, daemon: Daemon, theme: Theme = "light", width: int = 1280
) -> Iterator[Dashboard]:
    """The dashboard with all that `busy` has to show."""
    with (
        Origin() as origin,
        downloading(daemon, origin, "--interface", "127.0.0.5"),
        downloading(daemon, origin, host="localhost"),
        opened(browser, web(daemon), theme=theme, width=width) as dashboard,
    ):
        dashboard.expect_badge("live")
        expect(dashboard["#connections tr[data-id]"]).to_have_count(2)
        expect(dashboard["#log li[data-level]"]).not_to_have_count(0)
        dashboard["#route-host"].fill("here.example")
        dashboard["#route-host"].press("Enter")
        expect(dashboard["#route-result"]).to_contain_text("office")
        expect(dashboard["#mesh"]).to_contain_text("laptop-work")
        expect(dashboard["#faults"]).to_be_visible()
        yield dashboard


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_in_each_size_and_theme(
    browser: Browser, busy: Daemon, theme: Theme, width: int, tmp_path: Path
) -> None:
    with shown(browser, busy, theme, width) as dashboard:
        for name in SECTIONS:
            expect(dashboard[f"#{name}"]).to_be_visible()
        dashboard.fits()
        if width == WIDTHS[0]:  # a row is a card there, and the host its title
            for cell in dashboard["td.host:visible"].all():
                box = cell.bounding_box()
                assert box is None or box["width"] > width * 0.6, (cell.inner_text(), box)
        overlaps = dashboard.page.evaluate(OVERLAPS)
        assert not overlaps, overlaps
        background = brightness(dashboard, "background-color")
        assert (background > 0.7) == (theme == "light"), background
        assert (background < 0.3) == (theme == "dark"), background
        assert abs(background - brightness(dashboard, "color")) > 0.5
        dashboard.check_accessible()
        picture = tmp_path / f"{theme}-{width}.png"
        dashboard.page.evaluate("() => scrollTo(0, 0)")
        picture.write_bytes(dashboard.page.screenshot(full_page=True))
        size = struct.unpack(">II", picture.read_bytes()[16:24])
        assert size[0] == width and size[1] > 800, size


def brightness(dashboard: Dashboard, name: str) -> float:
    """How bright a colour of the page's body is, from 0 to 1."""
    colour = dashboard["body"].evaluate(
        "(body, name) => getComputedStyle(body).getPropertyValue(name)", name
    )
    red, green, blue = (int(part) for part in re.findall(r"\d+", colour)[:3])
    return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255


@pytest.mark.parametrize("theme", THEMES)
def test_the_login_is_accessible(browser: Browser, theme: Theme, tmp_path: Path) -> None:
    with live_daemon(control={"token": TOKEN}) as daemon:
        for width in (WIDTHS[0], WIDTHS[-1]):
            with opened(
                browser, web(daemon), theme=theme, width=width, allowed=NETWORK
            ) as dashboard:
                login = dashboard["dialog#login"]
                expect(login).to_be_visible()
                dashboard["#token"].fill("wrong")
                dashboard["#token"].press("Enter")
                expect(dashboard["#login-error"]).not_to_be_empty()
                box = login.bounding_box()
                assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= width
                dashboard.check_accessible()
                picture = tmp_path / f"login-{theme}-{width}.png"
                picture.write_bytes(dashboard.page.screenshot())


def test_the_graphs_have_words(browser: Browser, busy: Daemon) -> None:
    with shown(browser, busy) as dashboard:
        graphs = dashboard["#overview [role=img]"]
        expect(graphs).not_to_have_count(0)
        for graph in graphs.all():
            assert graph.evaluate("element => element.tagName.toLowerCase()") in ("svg", "canvas")
            assert (graph.get_attribute("aria-label") or "").strip()
        expect(dashboard["#badge[role=status]"]).not_to_be_empty()


def test_everything_is_reached_by_keyboard(browser: Browser, busy: Daemon) -> None:
    with shown(browser, busy) as dashboard:
        # Lists that grow meanwhile would move what is next.
        dashboard["#pause"].click()
        dashboard["body"].evaluate("() => document.activeElement.blur()")
        wanted = dashboard.page.evaluate(
            """() => [...document.querySelectorAll("a[href], button, input, select, [tabindex='0']")]
            .filter(element => element.checkVisibility() && !element.disabled).length"""
        )
        reached, hidden = set(), []
        for number in range(wanted + 5):
            dashboard.page.keyboard.press("Tab")
            name, outline = dashboard.page.evaluate(FOCUSED, number)
            reached.add(name)
            if not outline:
                hidden.append(name)
        reached.discard("BODY")
        assert len(reached) == wanted
        assert not hidden, hidden


# An id for what has the focus, and whether one sees that.
FOCUSED = """number => {
  const element = document.activeElement;
  if (element === document.body) return ["BODY", true];
  element.dataset.reached ??= `${number} ${element.outerHTML.slice(0, 80)}`;
  const style = getComputedStyle(element);
  const seen = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
  return [element.dataset.reached, seen || style.boxShadow !== "none"];
}"""


def test_the_policy_is_strict(busy: Daemon) -> None:
    for path in ("/", "/app.js", "/style.css"):
        head = curl("-I", busy.url(path)).body.decode()
        found = re.search(r"(?im)^content-security-policy: (.+?)\r?$", head)
        assert found, head
        policy = dict(part.strip().partition(" ")[::2] for part in found[1].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == "'self'"
        for name in ("base-uri", "form-action", "frame-ancestors"):
            assert policy[name] == "'none'"
        assert policy["require-trusted-types-for"] == "'script'"
        for word in ("unsafe", "*", "http:", "https:", "blob:"):
            assert word not in found[1]
        for field in ("x-content-type-options: nosniff", "referrer-policy: no-referrer"):
            assert field in head.lower()


def test_small_and_of_text_nodes_only(busy: Daemon) -> None:
    sent = {name: curl(busy.url(f"/{name.replace('index.html', '')}")).body for name in FILES}
    assert sum(len(gzip.compress(body)) for body in sent.values()) < 30_000
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(FILES)
    for name, body in sent.items():
        assert body == (FOLDER / name).read_bytes()
    assert not re.findall(MAKERS, sent["app.js"].decode())
    html = sent["index.html"].decode()
    # Neither script nor style is written into it, which the policy would not let work.
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)", html, re.I)
    for text in (html, sent["style.css"].decode()):
        outside = [url for url in re.findall(r"(?:https?:)?//[^\s'\")]+", text) if "w3.org" not in url]
        assert not outside, outside
