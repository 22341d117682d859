"""What is measured: cases, samples, and which target takes part in which case."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.targets import Target

STREAMS = (1, 8, 64)
CONCURRENCY = (1, 32)
TUNNELS = (100, 1000)
WAYS = ("down", "up")
PACE, PACED_STREAMS, SEGMENT = 5_000_000, 8, 1448  # bytes/s and stream, streams, bytes
STEADY = 2000  # connections/s that full seats of watchers are measured at
WATCHED = ("socks5", "get")  # protocols that watchers are measured with
KINDS = ("bulk", "rate", "watch", "mem", "start", "idle", "routes", "imports")


@dataclass(frozen=True)
class Case:
    """One question, asked of several targets.

    Attributes:
        kind: bulk, paced (bulk at the pace of a real line), rate, steady (`STEADY` connections
            begin in a second), mem, start, idle or routes
        protocol: how the proxy is spoken to
        load: streams, or connections at a time
        way: of the payload: down (to the client) or up; "" where it goes both ways
    """

    kind: str
    protocol: str = ""
    load: int = 0
    way: str = ""


@dataclass(frozen=True)
class Sample:
    """One answer.

    Attributes:
        case: the question
        target: name of the target
        round: number of the round, from 0; ratios are made within a round
        values: what was measured, by name
        foreign: share of one core that other programs used meanwhile
        failed: why there are no values, "" where there are
    """

    case: Case
    target: str
    round: int
    values: dict[str, float] = field(default_factory=dict)
    foreign: float = 0.0
    failed: str = ""

    @property
    def clean(self) -> bool:
        """Whether it may be counted."""
        return not self.failed and self.foreign <= FOREIGN_LIMIT

    def plain(self) -> dict[str, Any]:
        """As JSON knows it."""
        return asdict(self)


FOREIGN_LIMIT = 0.15


@dataclass(frozen=True)
class Job:
    """A case for one target."""

    case: Case
    target: Target


def plan(targets: Iterable[Target], kinds: Iterable[str], quick: bool) -> list[list[Job]]:
    """The loaded cases of one round, in groups.

    The jobs of a group are the same load on different targets: they are run next to each
    other, so that a ratio compares neighbours in time.
    """
    targets, kinds = list(targets), set(kinds)
    groups: list[list[Job]] = []
    if "bulk" in kinds:
        carriers = [t for t in targets if not t.watchers and not (quick and t.name == "pproxy")]
        groups += [
            [Job(Case("bulk", target.tunnel, streams, way), target) for target in carriers]
            for streams in STREAMS
            for way in WAYS
        ]
        paced = [target for target in carriers if target.launch is not None]
        groups += [
            [Job(Case("paced", target.tunnel, PACED_STREAMS, way), target) for target in paced]
            for way in WAYS[: 1 if quick else 2]
        ]
    if kinds & {"rate", "watch"}:
        groups += [
            [
                Job(Case("rate", protocol, concurrency), target)
                for target in targets
                for protocol in target.protocols
                if _takes_part(target, protocol, concurrency, "rate" in kinds)
            ]
            for concurrency in CONCURRENCY
        ]
    if "watch" in kinds:
        compared = [target for target in targets if target.ours and _full_or_none(target)]
        groups += [
            [Job(Case("steady", protocol, CONCURRENCY[-1]), target) for target in compared]
            for protocol in WATCHED
        ]
    return [group for group in groups if group]


def _takes_part(target: Target, protocol: str, concurrency: int, all_targets: bool) -> bool:
    """Watchers, and ourselves without them, are compared at the high concurrency only."""
    watched = concurrency == CONCURRENCY[-1] and protocol in WATCHED
    if target.watchers:
        return watched and not target.followers
    return all_targets or (target.ours and watched)


def _full_or_none(target: Target) -> bool:
    return not target.watchers or bool(target.followers)
