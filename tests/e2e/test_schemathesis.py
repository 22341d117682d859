"""schemathesis calls the live daemon as docs/openapi.json allows, and as it does not.

It goes by the document alone: examples, the bounds of every schema, generated values, and
sequences of calls; after each, all its checks look at the answer. Always the same cases come.
"""

from __future__ import annotations

import json
import socket
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.daemon_kit import ask_for, asked, read_head, tunnel
from tests.e2e.daemon import Daemon
from tests.e2e.program import DEADLINE, Program, environment

ROOT = Path(__file__).parents[2]
TOKEN = "open-sesame"
SECONDS = 240  # that a run may take on a busy machine; on an idle one it is a quarter
TUNNELS = 12

# Each exception from a check has its reason here.
CONFIG = f"""
hooks = "tests.e2e.schemathesis_hooks"
headers = {{ Authorization = "Bearer {TOKEN}", Connection = "close" }}
continue-on-failure = true
request-timeout = {DEADLINE}
cache.enabled = false
max-stream-events = 1
warnings = false

[generation]
deterministic = true
database = "none"
max-examples = 10

[output]
sanitization.enabled = false

# A schema cannot say all that a host, a network or a configuration must be (names that it
# refers to, ports in use), nor what state the daemon is in: such calls are refused with 400,
# 409 or 422, although each value is right.
[[operations]]
include-name = [
    "POST /api/v1/backends/{{name}}/test", "POST /api/v1/config/reload",
    "POST /api/v1/mesh/networks", "POST /api/v1/mesh/networks/{{network}}/peers",
    "PATCH /api/v1/mesh/networks/{{network}}/peers/{{peer}}", "POST /api/v1/routes/test",
]
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "404", "409", "422"]

# The same; and each bound of its body is tried on PUT already.
[[operations]]
include-name = "POST /api/v1/config/preview"
phases.coverage.enabled = false
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", "400"]

# The same for edits; and what If-Match asks for is looked at before anything else (412).
[[operations]]
include-name = [
    "POST /api/v1/backends", "DELETE /api/v1/backends/{{name}}", "POST /api/v1/routes",
    "DELETE /api/v1/routes/{{name}}", "DELETE /api/v1/routes/test", "PUT /api/v1/config",
]
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "404", "409", "412", "422"]
[operations.checks.negative_data_rejection]
expected-statuses = ["400", "404", "409", "412", "415", "422"]

# A configuration that was put in force may have no listener that a browser could use (503).
[[operations]]
include-name = ["GET /proxy.pac", "GET /wpad.dat"]
[operations.checks.not_a_server_error]
expected-statuses = ["2xx", "4xx", "503"]

# It speaks no WebSocket: what is asked for rightly is told to upgrade.
[[operations]]
include-name = ["GET /api/v1/ws", "GET /api/v1/mesh/networks/{{network}}/events"]
[operations.checks.positive_data_acceptance]
expected-statuses = ["404", "426"]
"""


@pytest.fixture
def daemon() -> Iterator[tuple[Daemon, str]]:
    """A daemon that has carried something and carries it now, and its target."""
    with ExitStack() as stack:
        # Connections that nobody accepts stand as well, and as long as they are wanted.
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1000))
        target = f"127.0.0.1:{listener.getsockname()[1]}"
        daemon = stack.enter_context(
            Daemon(
                control={"listen": ["127.0.0.1:0"], "token": TOKEN},
                # Nothing that is made up leaves this machine.
                resolver={"servers": ["127.0.0.1:9"], "timeout": "500ms"},
                backends=[
                    {"name": "direct", "connect_timeout": "1s"},
                    {"name": "nowhere", "type": "socks5_proxy", "address": "127.0.0.1:9"},
                    {"name": "best", "type": "group", "members": ["nowhere", "direct"]},
                ],
                routes=[{"name": "all", "domains": ["*"], "backend": "best"}],
            )
        )
        assert asked(daemon.proxy, "127.0.0.1:9").status == 502
        with socket.create_connection(daemon.proxy, DEADLINE) as client:
            ask_for(client, f"http://{daemon.control}/api/v1/health")
            assert b" 403 " in read_head(client)  # it leads to itself
        for _ in range(TUNNELS):
            stack.enter_context(tunnel(daemon.proxy, target))
        yield daemon, target


def get(daemon: Daemon, path: str) -> Any:
    request = urllib.request.Request(
        daemon.url(path), headers={"Authorization": f"Bearer {TOKEN}"}
    )
    with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
        return json.load(answer)


def sharpened(daemon: Daemon, target: str) -> str:
    """The document for this daemon, and stricter than for people.

    Fields that it does not name are faults, though clients have to put up with them; and some
    values are those that are there.
    """
    text = (ROOT / "docs" / "openapi.json").read_text("utf-8")
    text = text.replace("proxy.example.net:1080", "127.0.0.1:9").replace("192.0.2.1:443", target)
    document = json.loads(text)
    for schema in document["components"]["schemas"].values():
        if "properties" in schema:
            schema["additionalProperties"] = False
    numbers = [one["id"] for one in get(daemon, "/api/v1/connections")["connections"]]
    assert len(numbers) == TUNNELS
    for path, methods in document["paths"].items():
        for operation in methods.values():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] == "If-Match":  # seldom right by chance
                    parameter["schema"] = {"enum": ["*", '"c8df52981ab2dcc0"']}
                elif path == "/api/v1/connections/{id}":
                    parameter["schema"] = {"enum": numbers}
    return json.dumps(document)


@pytest.mark.timeout(2 * SECONDS)
def test_schemathesis_finds_nothing(daemon: tuple[Daemon, str], tmp_path: Path) -> None:
    (tmp_path / "openapi.json").write_text(sharpened(*daemon), "utf-8")
    (tmp_path / "schemathesis.toml").write_text(CONFIG, "utf-8")
    command = [sys.executable, "-m", "schemathesis.cli", "--no-color", "run", "openapi.json"]
    with Program(
        [*command, "--url", daemon[0].url("")],
        env=environment(PYTHONPATH=str(ROOT)),
        cwd=tmp_path,
    ) as run:
        code = run.wait(SECONDS)
    assert code == 0, run.output.text
    for phase in ("Examples", "Coverage", "Fuzzing", "Stateful"):
        assert run.output.matching(rf"✅ {phase}$"), run.output.text
