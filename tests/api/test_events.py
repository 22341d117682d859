"""The page that names the addresses; the WebSocket itself is in test_hub."""

from __future__ import annotations

import re

from bifrost_lite import __version__
from tests.control_fixtures import running


def test_index() -> None:
    with running(token="secret-token", trusted_hosts=("bifrost.example",)) as daemon:
        answer = daemon.get("/", "Host: bifrost.example:8443")
        page = answer.body.decode()
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert __version__ in page
        assert "ws://bifrost.example:8443/api/v1/ws" in page
        assert "curl -N http://bifrost.example:8443/api/v1/logs/stream" in page
        assert "secret-token" not in page
        assert not re.search(r"<script|<style|style=|onload|src=|href=", page)
        assert daemon.get("/", "Host: <b>evil</b>").status == 421


def test_index_says_no_more_with_a_token() -> None:
    with running(token="secret-token") as daemon:
        field = "Host: localhost"
        assert daemon.get("/", field).body == daemon.get("/?token=secret-token", field).body
