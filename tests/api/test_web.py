"""The files of the dashboard as they are served; what they do in a browser is in tests/browser."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import bifrost_lite
from tests.control_fixtures import Daemon, running

ROOT = Path(__file__).parents[2]
WEB = ROOT / "bifrost_lite" / "web"
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
}
EACH = pytest.mark.parametrize("path", FILES)
GZIPPED = 30 * 1024  # bytes of all three


def policy(daemon: Daemon, path: str, host: str) -> dict[str, list[str]]:
    """The directives of an answer's Content-Security-Policy."""
    text = daemon.get(path, f"Host: {host}").headers["content-security-policy"]
    directives = [part.split() for part in text.split(";")]
    return {words[0]: words[1:] for words in directives}


@EACH
def test_everybody_gets_the_file_as_it_is(path: str) -> None:
    name, kind = FILES[path]
    with running(token="secret-token") as daemon:
        answer = daemon.get(path)
        assert answer.status == 200
        assert answer.body == (WEB / name).read_bytes()
        assert answer.headers["content-type"] == kind
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert daemon.get(f"{path}?token=secret-token").body == answer.body
        head = daemon.get(path, method="HEAD")
        assert head.body == b""
        assert head.headers["content-length"] == str(len(answer.body))


@EACH
def test_who_has_it_gets_it_no_second_time(path: str) -> None:
    with running() as daemon:
        tag = daemon.get(path).headers["etag"]
        assert re.fullmatch(r'"[!#-~]+"', tag)
        for value in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            again = daemon.get(path, f"If-None-Match: {value}")
            assert again.status == 304
            assert again.body == b""
            assert again.headers["etag"] == tag
            assert again.headers["cache-control"] == "no-cache"
            assert "content-security-policy" in again.headers
            # RFC 9110 section 8.6: the length of a 200, or none.
            assert "content-length" not in again.headers
        for value in ('"other"', "", tag.strip('"'), f"x{tag}"):
            assert daemon.get(path, f"If-None-Match: {value}").status == 200


def test_the_connection_lives_on_after_a_304() -> None:
    with running() as daemon:
        tag = daemon.get("/").headers["etag"]
        host = f"Host: 127.0.0.1:{daemon.port}\r\n"
        answers = daemon.raw(
            f"GET / HTTP/1.1\r\n{host}If-None-Match: {tag}\r\n\r\n"
            f"GET /api/v1/health HTTP/1.1\r\n{host}Connection: close\r\n\r\n".encode()
        )
        assert [line.split()[1] for line in re.findall(rb"HTTP/1\.1 [^\r]+", answers)] == [b"304", b"200"]


def test_a_changed_file_has_another_tag(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from bifrost_lite.api import web

    monkeypatch.setattr(web, "_FOLDER", str(tmp_path))
    file = tmp_path / "app.js"
    file.write_text("one")
    with running() as daemon:
        old = daemon.get("/app.js").headers["etag"]
        file.write_text("others")
        changed = daemon.get("/app.js", f"If-None-Match: {old}")
        assert (changed.status, changed.body) == (200, b"others")
        assert bifrost_lite.__version__ in changed.headers["etag"]
        file.unlink()
        missing = daemon.get("/app.js")
        assert (missing.status, missing.json["error"]) == (404, "not_installed")


@EACH
@pytest.mark.parametrize("host", ["bifrost.lan:8443", "localhost", "192.168.1.1:7082"])
def test_the_policy_lets_in_nothing_but_these_files(path: str, host: str) -> None:
    with running(token="secret-token") as daemon:
        assert policy(daemon, path, host) == {
            "default-src": ["'none'"],
            "script-src": ["'self'"],
            "style-src": ["'self'"],
            "img-src": ["data:"],
            "connect-src": ["'self'", f"ws://{host}", f"wss://{host}"],
            "base-uri": ["'none'"],
            "form-action": ["'none'"],
            "frame-ancestors": ["'none'"],
            "require-trusted-types-for": ["'script'"],
            "trusted-types": ["'none'"],
        }


def test_the_policy_takes_no_word_from_outside() -> None:
    with running() as daemon:
        assert policy(daemon, "/", "[::1]:7082")["connect-src"] == ["'self'"]
        for host in ("<b>evil</b>", "localhost; script-src *", "localhost 'unsafe-inline'", "evil.example"):
            assert daemon.get("/", f"Host: {host}").status == 421


def test_nothing_is_inline_and_nothing_comes_from_outside() -> None:
    page = (WEB / "index.html").read_text("utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", page)
    assert re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL) == [""]
    links = re.findall(r'(?:src|href|action)="([^"#]+)', page)
    assert {link for link in links if not link.startswith("data:")} == {"app.js", "style.css"}
    for name, _ in FILES.values():
        text = (WEB / name).read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(https?:)?//\w+\.|@import|url\(", text), name


def test_every_text_of_the_page_is_in_the_table() -> None:
    page = (WEB / "index.html").read_text("utf-8")
    script = (WEB / "app.js").read_text("utf-8")
    table = script[script.index("const T = {") : script.index("\n};")]
    names = set(re.findall(r'data-(?:label-|hint-)?t="(\w+)"', page))
    assert not names - set(re.findall(r"\b(\w+):", table))
    shown = re.sub(r"<title>.*?</title>|<noscript>.*?</noscript>|<[^>]*>", "", page, flags=re.DOTALL)
    assert shown.split() == ["bifrost-lite"]


def test_the_dashboard_fits_a_router() -> None:
    sizes = {name: len(gzip.compress((WEB / name).read_bytes(), 9)) for name, _ in FILES.values()}
    assert sum(sizes.values()) <= GZIPPED, sizes
    assert sorted(path.name for path in WEB.iterdir()) == sorted(sizes)


def test_an_installation_has_the_files(tmp_path: Path) -> None:
    source, built = tmp_path / "source", tmp_path / "built"  # a build leaves files at its source
    shutil.copytree(ROOT / "bifrost_lite", source / "bifrost_lite")
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(built)]
    subprocess.run(command, cwd=source, check=True, timeout=100)
    found = {path.name: path.read_bytes() for path in (built / "bifrost_lite" / "web").iterdir()}
    assert found == {name: (WEB / name).read_bytes() for name, _ in FILES.values()}
