"""curl, proxychains, git and Chromium through the real daemon: every byte has to arrive."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect
from websockets.sync.client import connect

from tests.e2e.chromium import chromium, new_page
from tests.e2e.curl import WAYS, curl, through
from tests.e2e.daemon import Daemon
from tests.e2e.origin import Origin, body, sha256
from tests.e2e.program import DEADLINE, environment

BIG = 5_000_000  # bytes: more than all buffers on the way together
ALL_WAYS = pytest.mark.parametrize("way", WAYS)
PARTIAL, RECEIVE_FAILED = 18, 56  # exit codes of curl


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon() as daemon:
        before = daemon.sockets()
        yield daemon
        daemon.wait_until(lambda: daemon.sockets() <= before, "all connections are closed")


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@ALL_WAYS
@pytest.mark.parametrize("path", ["bytes", "chunked", "until"])
def test_download(daemon: Daemon, origin: Origin, way: str, path: str) -> None:
    got = curl(*through(way, daemon.proxy), origin.url(f"/{path}/{BIG}"))
    assert (got.status, sha256(got.body)) == (200, sha256(body(BIG)))


@ALL_WAYS
@pytest.mark.parametrize(
    "options",
    [("-T", "-"), ("--data-binary", "@-"), ("--data-binary", "@-", "-H", "Expect: 100-continue")],
    ids=["chunked", "length", "expect"],
)
def test_upload(daemon: Daemon, origin: Origin, way: str, options: tuple[str, ...]) -> None:
    got = curl(*through(way, daemon.proxy), *options, origin.url("/echo"), send=body(BIG))
    assert json.loads(got.body) == {"sha256": sha256(body(BIG)), "length": BIG}
    # curl asks for 100 by itself before a long upload.
    assert "HTTP/1.1 100 Continue" in got.trace


@ALL_WAYS
def test_upload_of_a_file(daemon: Daemon, origin: Origin, way: str, tmp_path: Path) -> None:
    file = tmp_path / "upload"
    file.write_bytes(body(BIG))
    got = curl(*through(way, daemon.proxy), "-T", str(file), origin.url("/mirror"))
    assert sha256(got.body) == sha256(body(BIG))


@ALL_WAYS
def test_chunked_both_ways(daemon: Daemon, origin: Origin, way: str) -> None:
    options = ("-X", "POST", "-T", "-", "-H", "Expect:")
    upload = curl(*through(way, daemon.proxy), *options, origin.url("/echo"), send=body(70_001))
    assert json.loads(upload.body)["sha256"] == sha256(body(70_001))
    both = curl(
        *through(way, daemon.proxy), *options, origin.url("/chunked/70001"), send=body(70_001)
    )
    assert both.body == body(70_001)


@ALL_WAYS
def test_a_refusal_instead_of_100_continue(daemon: Daemon, origin: Origin, way: str) -> None:
    expect_100 = ("-H", "Expect: 100-continue", "--data-binary", "@-")
    got = curl(*through(way, daemon.proxy), *expect_100, origin.url("/refuse"), send=body(BIG))
    assert got.status == 413
    assert "100 Continue" not in got.trace


@ALL_WAYS
@pytest.mark.parametrize("options", [("-I",), ("-I", "/chunked")], ids=["length", "chunked"])
def test_head(daemon: Daemon, origin: Origin, way: str, options: tuple[str, ...]) -> None:
    path = f"{options[1]}/1000" if options[1:] else "/bytes/1000"
    # A second request on the same connection finds it where it should be.
    urls = (origin.url(path), origin.url(path))
    got = curl(*through(way, daemon.proxy), "-I", *urls)
    assert got.body.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert "content-length: 1000" in got.trace.lower() or "chunked" in got.trace.lower()
    assert_one_connection(origin, got.trace)


@ALL_WAYS
@pytest.mark.parametrize("status", [204, 304])
def test_statuses_without_a_body(daemon: Daemon, origin: Origin, way: str, status: int) -> None:
    urls = (origin.url(f"/status/{status}"), origin.url("/bytes/77"))
    got = curl(*through(way, daemon.proxy), *urls)
    assert f"HTTP/1.1 {status} " in got.trace
    assert got.body == body(77)
    assert_one_connection(origin, got.trace)


@ALL_WAYS
def test_keep_alive(daemon: Daemon, origin: Origin, way: str) -> None:
    urls = [origin.url(f"/{kind}/{size}") for kind in ("bytes", "chunked") for size in (3, 90_000)]
    got = curl(*through(way, daemon.proxy), *urls)
    assert got.body == (body(3) + body(90_000)) * 2
    assert_one_connection(origin, got.trace, len(urls))


def assert_one_connection(origin: Origin, trace: str, requests: int = 2) -> None:
    """The client used one connection for all, and so did the proxy."""
    reused = trace.count("Re-using existing") + trace.count("Reusing existing")
    assert reused == requests - 1, trace
    assert len({seen.client_port for seen in origin.seen[-requests:]}) == 1


@ALL_WAYS
@pytest.mark.parametrize("how", ["early", "reset"])
def test_a_broken_answer_stays_broken(daemon: Daemon, origin: Origin, way: str, how: str) -> None:
    got = curl(*through(way, daemon.proxy), origin.url(f"/{how}/{BIG}"), check=False)
    assert got.code in (PARTIAL, RECEIVE_FAILED)
    if how == "early":
        assert got.code == PARTIAL
        assert got.body == body(BIG)[: BIG // 2]
    else:  # a reset may overtake what was on the way
        assert body(BIG).startswith(got.body)


@ALL_WAYS
def test_nothing_is_held_back(daemon: Daemon, way: str) -> None:
    size = 2000
    options = through(way, daemon.proxy)
    with (
        Origin() as origin,
        subprocess.Popen(
            ["curl", "-q", "-sN", *options, origin.url(f"/trickle/{size}")],
            stdout=subprocess.PIPE,
            env=environment(),
        ) as client,
    ):
        assert client.stdout is not None
        # The origin sends the second half only after the first has arrived here.
        assert client.stdout.read(size // 2) == body(size)[: size // 2]
        origin.release.set()
        assert client.stdout.read() == body(size)[size // 2 :]
        assert client.wait(DEADLINE) == 0


def test_requests_reach_the_origin_without_what_is_for_the_proxy(
    daemon: Daemon, origin: Origin
) -> None:
    fields = ("Connection: close, X-Hop", "X-Hop: 1", "X-End: 2", "Keep-Alive: timeout=5")
    options = [word for field in fields for word in ("-H", field)]
    curl(*through("http", daemon.proxy), *options, origin.url("/bytes/1?a=b;c"))
    seen = origin.seen[-1]
    assert seen.path == "/bytes/1?a=b;c"
    assert seen.values("Host") == [origin.authority]
    assert seen.values("X-End") == ["2"]
    for name in ("Proxy-Connection", "X-Hop", "Keep-Alive", "Via"):
        assert seen.values(name) == []


@pytest.mark.parametrize("kind", ["http", "socks4", "socks5"])
def test_proxychains(daemon: Daemon, origin: Origin, kind: str, tmp_path: Path) -> None:
    settings = tmp_path / "proxychains.conf"
    proxy = f"{kind} {daemon.proxy.host} {daemon.proxy.port}"
    settings.write_text(f"strict_chain\n[ProxyList]\n{proxy}\n", encoding="utf-8")
    argv = ["proxychains4", "-f", str(settings), "curl", "-qsS", origin.url(f"/bytes/{BIG}")]
    done = subprocess.run(argv, capture_output=True, env=environment(), timeout=DEADLINE)
    trace = done.stderr.decode()
    assert done.returncode == 0, trace
    assert f"{daemon.proxy}  ...  {origin.authority}  ...  OK" in trace
    assert sha256(done.stdout) == sha256(body(BIG))


def test_git_clone(daemon: Daemon, tmp_path: Path) -> None:
    env = environment(
        HOME=str(tmp_path), GIT_CONFIG_NOSYSTEM="1", GIT_TERMINAL_PROMPT="0", LC_ALL="C"
    )
    author = ("-c", "user.name=a", "-c", "user.email=a@example.com")

    def git(*words: str | Path) -> str:
        done = subprocess.run(
            ["git", *words], capture_output=True, env=env, timeout=DEADLINE, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    work, bare = tmp_path / "work", tmp_path / "served" / "work.git"
    git("init", "-q", work)
    for number in range(5):
        (work / f"file{number}").write_bytes(body(100_000 + number))
        git("-C", work, "add", ".")
        git("-C", work, *author, "commit", "-q", "-m", f"number {number}")
    git("clone", "-q", "--bare", work, bare)
    git("-C", bare, "update-server-info")
    copy = tmp_path / "copy"
    with Origin(files=tmp_path / "served") as origin:
        proxy = f"http.proxy=http://{daemon.proxy}"
        git("-c", proxy, "clone", "-q", origin.url("/files/work.git"), copy)
        assert any(seen.path.startswith("/files/work.git/objects/") for seen in origin.seen)
    git("-C", copy, "fsck", "--strict")
    assert git("-C", copy, "log", "--format=%H") == git("-C", work, "log", "--format=%H")
    for number in range(5):
        assert (copy / f"file{number}").read_bytes() == body(100_000 + number)


@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_chromium_loads_a_page_of_fifty_pictures(daemon: Daemon, scheme: str) -> None:
    with (
        Origin() as origin,
        connect(f"ws://{daemon.control}/api/v1/ws?types=connection.new") as events,
        chromium(
            f"--proxy-server={scheme}://{daemon.proxy}", "--proxy-bypass-list=<-loopback>"
        ) as browser,
        new_page(browser) as (page, console),
    ):
        page.goto(origin.url("/page/50"))
        expect(page).to_have_title("50", timeout=DEADLINE * 1000)
        assert not console.matching("^error: ")
        pictures = [seen.path for seen in origin.seen if seen.path.startswith("/picture/")]
        assert sorted(pictures) == sorted(f"/picture/{number}" for number in range(50))
        direct = {seen.client_port for seen in origin.seen}
        protocols = {"http": "HTTP", "socks5": "SOCKS5"}
        carried = 0
        while carried < len(direct):  # one for each connection that the origin saw
            event = json.loads(events.recv(timeout=DEADLINE))
            if event["type"] == "connection.new" and event["data"]["host"] == origin.authority:
                assert event["data"]["protocol"] == protocols[scheme]
                carried += 1


def test_socat_sends_its_end_and_still_hears_the_answer(daemon: Daemon, origin: Origin) -> None:
    proxy, port = daemon.proxy
    for address in (
        f"PROXY:{proxy}:{origin.host}:{origin.port},proxyport={port}",
        f"SOCKS4:{proxy}:{origin.host}:{origin.port},socksport={port}",
        f"SOCKS4A:{proxy}:localhost:{origin.port},socksport={port}",
    ):
        request = f"POST /echo HTTP/1.1\r\nHost: o\r\nContent-Length: {BIG}\r\n\r\n".encode()
        done = subprocess.run(
            ["socat", "-t", str(DEADLINE), "-", address],
            input=request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + body(BIG),
            capture_output=True,
            timeout=DEADLINE,
            env=environment(),
        )
        assert done.returncode == 0, done.stderr
        assert sha256(body(BIG)).encode() in done.stdout
