"""Debian's Chromium, headless and driven by playwright, and what its pages say."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from tests.e2e.program import DEADLINE, Lines, environment

EXECUTABLE = "/usr/bin/chromium"
# Nothing but what a test asks for goes over the network, and no sandbox: CI is root.
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def chromium(*arguments: str) -> Iterator[Browser]:
    """A Chromium with an empty profile.

    While it runs no other code of the same thread can use `asyncio.run`: playwright's loop
    is running there.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=EXECUTABLE, args=[*_ARGUMENTS, *arguments], env={**environment()}
        )
        try:
            yield browser
        finally:
            browser.close()


class Console(Lines):
    """What a page writes to its console, exceptions that nobody caught included."""

    def __init__(self, page: Page) -> None:
        super().__init__()
        self._page = page
        page.on("console", self._message)
        page.on("pageerror", lambda error: self.add(f"uncaught: {error}"))

    def _message(self, message: ConsoleMessage) -> None:
        self.add(f"{message.type}: {message.text}")

    def _pause(self, seconds: float) -> None:
        # Messages arrive only while playwright has the thread.
        self._page.wait_for_timeout(min(seconds, 0.02) * 1000)


@contextmanager
def new_page(browser: Browser) -> Iterator[tuple[Page, Console]]:
    """A page in a context of its own, with its console."""
    context = browser.new_context()
    context.set_default_timeout(DEADLINE * 1000)
    page = context.new_page()
    try:
        yield page, Console(page)
    finally:
        context.close()


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, files: Mapping[str, str], *args: object) -> None:
        self._files = files
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        content = self._files.get(self.path)
        self.send_response(404 if content is None else 200)
        kind = "text/javascript" if self.path.endswith(".js") else "text/html"
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.end_headers()
        self.wfile.write((content or "").encode())

    def log_message(self, format: str, *args: object) -> None:
        """Silence."""


class Site:
    """A web site at http://localhost:PORT; a context manager.

    Attributes:
        files: content by path; .js is JavaScript, all else HTML
    """

    def __init__(self) -> None:
        self.files: dict[str, str] = {"/favicon.ico": ""}
        self._server = ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(_Handler, self.files)
        )
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def origin(self) -> str:
        """Its web origin."""
        return f"http://localhost:{self._server.server_address[1]}"

    def __enter__(self) -> Site:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
