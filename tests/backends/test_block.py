"""The backend that refuses."""

from __future__ import annotations

from bifrost_lite.backends.base import Backend
from bifrost_lite.backends.block import Block
from bifrost_lite.condition import UP, Condition
from bifrost_lite.counters import Counters
from bifrost_lite.dispatch import EpollDispatcher
from bifrost_lite.errors import Reason
from bifrost_lite.target import Target
from bifrost_lite.way import Way

TARGET = Target("ads.example.com", 443)


def test_it_refuses() -> None:
    dispatcher = EpollDispatcher()
    way = Way(
        "stop", "block", dispatcher, Counters(), Condition(lambda c: None, watched=True, fall=1)
    )
    block: Backend = Block(way)
    assert (block.name, block.type, block.members) == ("stop", "block", ())
    assert block.condition is way.condition
    assert block.carriers(b"\x7f\0\0\x01") == [way]
    told: list[tuple[object, ...]] = []
    block.connect(TARGET, b"\x7f\0\0\x01", lambda *how: told.append(how), True).cancel()
    block.probe(TARGET, lambda *how: told.append(how)).cancel()
    assert told == [(None, 0, Reason.BLOCKED, way), (None, 0, Reason.BLOCKED, None)]
    assert (way.counters.failed, way.condition.state) == (0, UP)
    block.close()
    dispatcher.close()
