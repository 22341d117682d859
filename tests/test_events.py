"""Events as JSON: every type against its golden text, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost_lite.events import (
    MESH_TYPES,
    TYPES,
    ConfigFault,
    ConfigRejected,
    ConnectionFailed,
    Endpoint,
    Event,
    EventsLost,
    rfc3339,
)

DATA = Path(__file__).parent / "data" / "events"
GOLDEN = {path.stem: path for path in DATA.rglob("*.json")}
ALL = TYPES | MESH_TYPES
TEN = 1705312800  # 2024-01-15T10:00:00Z


@pytest.mark.parametrize(
    ("when", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (0.999, "1970-01-01T00:00:00Z"),
        (TEN, "2024-01-15T10:00:00Z"),
        (TEN + 0.999999, "2024-01-15T10:00:00Z"),
        (951782399, "2000-02-28T23:59:59Z"),
        (951782400, "2000-02-29T00:00:00Z"),
        (2**31, "2038-01-19T03:14:08Z"),
        (4102444800.5, "2100-01-01T00:00:00Z"),
    ],
)
def test_rfc3339(when: float, text: str) -> None:
    assert rfc3339(when) == text


def test_rfc3339_remembers_no_other_second() -> None:
    texts = [rfc3339(when) for when in (TEN, TEN + 0.5, TEN + 1, TEN, TEN + 1)]
    assert [text[-3:] for text in texts] == ["00Z", "00Z", "01Z", "00Z", "01Z"]


def test_every_type_has_its_golden_text() -> None:
    assert set(GOLDEN) == set(ALL)
    assert {path.stem for path in DATA.glob("mesh/*.json")} == set(MESH_TYPES)


@pytest.mark.parametrize("kind", ALL)
def test_golden(kind: str) -> None:
    text = GOLDEN[kind].read_bytes().rstrip(b"\n")
    told = json.loads(text)
    data = msgspec.convert(told["data"], ALL[kind])
    assert Event(kind, TEN + 0.25, data, 42).encode() == text
    assert list(told) == ["type", "timestamp", "data", "seq"]
    assert list(told["data"]) == list(ALL[kind].__struct_fields__)


# The keys of the user's own document, which stand first; ours are extra ones behind them.
DOCUMENTED = {
    "connection.new": ["protocol", "host", "backend", "client_ip"],
    "connection.close": ["protocol", "host", "backend", "client_ip"],
    "backend.health": ["name", "healthy"],
    "config.reload": ["changed_sections", "requires_restart"],
    "config.saved": ["changed_sections", "requires_restart"],
    "stats.update": [
        "active_connections", "total_connections", "bytes_sent", "bytes_received",
    ],
    "peer.joined": ["peer_id", "name", "virtual_ip"],
    "peer.left": ["peer_id", "name"],
    "peer.updated": ["peer_id", "endpoints"],
}  # fmt: skip


@pytest.mark.parametrize("kind", DOCUMENTED)
def test_documented_keys_come_first(kind: str) -> None:
    keys = DOCUMENTED[kind]
    assert list(ALL[kind].__struct_fields__)[: len(keys)] == keys


def test_documented_keys_of_endpoints_come_first() -> None:
    assert Endpoint.__struct_fields__[:3] == ("address", "port", "type")


def test_lost_may_be_a_number_or_unknown() -> None:
    for lost, text in ((7, b'"lost":7'), (None, b'"lost":null')):
        assert text in Event("events.lost", 0, EventsLost(lost, "b"), 1).encode()


def test_data_is_no_work_for_the_collector() -> None:
    """Events live in a ring by the hundred."""
    for data in {Event, Endpoint, *ALL.values()}:
        assert data.__struct_config__.gc is False


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(words, st.lists(st.builds(ConfigFault, words, words, words), max_size=4))
def test_any_text_makes_one_line_of_json(text: str, faults: list[ConfigFault]) -> None:
    for kind, data in (
        ("connection.failed", ConnectionFailed(text, text, text, text, 1, text, text)),
        ("config.rejected", ConfigRejected(faults)),
    ):
        encoded = Event(kind, TEN, data, 2**53).encode()
        assert b"\n" not in encoded
        told = json.loads(encoded)
        assert told["data"] == msgspec.to_builtins(data)
        assert told["seq"] == 2**53
