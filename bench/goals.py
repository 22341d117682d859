"""What bifrost-lite must reach: ratios to its peers within one run, and a few plain numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import mean, median

from bench.cases import CONCURRENCY, PACED_STREAMS, STEADY, WATCHED, WAYS, Case, Sample
from bench.lookups import CASE as LOOKUPS
from bench.targets import SEATS, WATCHERS

Rounds = dict[int, float]


class Figures:
    """Look-ups in the samples of a run, by round.

    Disturbed samples do not count, except where a target has no other for a case.

    Attributes:
        disturbed: which these are
    """

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._values: dict[tuple[str, Case], dict[int, dict[str, float]]] = {}
        disturbed: dict[tuple[str, Case], dict[int, dict[str, float]]] = {}
        for sample in samples:
            if not sample.failed:
                values = self._values if sample.clean else disturbed
                rounds = values.setdefault((sample.target, sample.case), {})
                rounds[sample.round] = sample.values
        self.disturbed = [key for key in disturbed if key not in self._values]
        for key in self.disturbed:
            self._values[key] = disturbed[key]

    def rounds(self, target: str, case: Case, name: str) -> Rounds:
        """One value of a target by round."""
        found = self._values.get((target, case), {})
        return {number: values[name] for number, values in found.items() if name in values}

    def median(self, target: str, case: Case, name: str) -> float | None:
        """The median of a value over the rounds, None where there is none."""
        found = self.rounds(target, case, name)
        return median(found.values()) if found else None

    def tunnel(self, target: str, kind: str, load: int, way: str) -> Case:
        """The case of this load by whatever protocol the target's tunnels were measured."""
        for protocol in ("socks5", "connect", "tcp"):
            case = Case(kind, protocol, load, way)
            if (target, case) in self._values:
                return case
        return Case(kind, "", load, way)


def ratio(mine: Rounds, theirs: Rounds) -> float | None:
    """The median over the rounds that have both of mine to theirs."""
    both = [mine[number] / theirs[number] for number in mine if theirs.get(number)]
    return median(both) if both else None


Measure = Callable[[Figures, str, str], "float | None"]
"""Answers a figure of a target (second argument) against a peer (third argument)."""


@dataclass(frozen=True)
class Goal:
    """One figure with what it must and what it should be.

    Attributes:
        figure: what it is, in words
        measure: how it is found
        peer: whom it is a ratio to; "" for a plain number
        least: what it must be, None where only an aim is set
        aim: what it should be, None where there is none
        lower: whether lower is better
        unit: of a plain number
    """

    figure: str
    measure: Measure
    peer: str = ""
    least: float | None = None
    aim: float | None = None
    lower: bool = False
    unit: str = "x"


def verdict(goal: Goal, value: float | None) -> str:
    """One word and by how much, e.g. ``MISSED by 12 %``."""
    if value is None:
        return "not measured"
    if goal.least is not None and not _reached(goal, value, goal.least):
        return f"MISSED by {_distance(value, goal.least)}"
    if goal.aim is None:
        return "met"
    if _reached(goal, value, goal.aim):
        return "aim met"
    word = "aim missed" if goal.least is None else "met; aim missed"
    return f"{word} by {_distance(value, goal.aim)}"


def _reached(goal: Goal, value: float, wanted: float) -> bool:
    return value <= wanted if goal.lower else value >= wanted


def _distance(value: float, wanted: float) -> str:
    if not wanted:
        return f"{value - wanted:g}"
    share = abs(value - wanted) / wanted * 100
    return f"{share:.1f} %" if share < 10 else f"{share:.0f} %"


def _bulk(streams: int) -> Measure:
    """MB/s; the worse of both ways."""

    def measure(figures: Figures, us: str, peer: str) -> float | None:
        ratios = [_tunnels(figures, us, peer, "bulk", streams, way, "mbps") for way in WAYS]
        found = [one for one in ratios if one is not None]
        return min(found) if len(found) == len(WAYS) else None

    return measure


def _cpu_per_byte(kind: str, streams: int) -> Measure:
    """CPU seconds per GB; the mean of both ways, or of the ways that were measured."""

    def measure(figures: Figures, us: str, peer: str) -> float | None:
        ratios = [_tunnels(figures, us, peer, kind, streams, way, "cpu_per") for way in WAYS]
        found = [one for one in ratios if one is not None]
        return mean(found) if found else None

    return measure


def _tunnels(
    figures: Figures, us: str, peer: str, kind: str, streams: int, way: str, name: str
) -> float | None:
    mine, theirs = (figures.tunnel(one, kind, streams, way) for one in (us, peer))
    return ratio(figures.rounds(us, mine, name), figures.rounds(peer, theirs, name))


def _rate(protocol: str, concurrency: int, name: str = "cps", peer_protocol: str = "") -> Measure:
    def measure(figures: Figures, us: str, peer: str) -> float | None:
        mine = Case("rate", protocol, concurrency)
        theirs = Case("rate", peer_protocol or protocol, concurrency)
        return ratio(figures.rounds(us, mine, name), figures.rounds(peer, theirs, name))

    return measure


def watched_name(us: str) -> str:
    """The name of a target with watchers."""
    return f"{us}+{WATCHERS}w"


def crowded_name(us: str) -> str:
    """The name of a target with all seats taken."""
    return f"{us}+{SEATS}w{SEATS}l"


def _watched(protocol: str, kind: str, name_of: Callable[[str], str]) -> Measure:
    """CPU per connection against that without watchers."""

    def measure(figures: Figures, us: str, _: str) -> float | None:
        case = Case(kind, protocol, CONCURRENCY[-1])
        watched = figures.rounds(name_of(us), case, "cpu_per")
        return ratio(watched, figures.rounds(us, case, "cpu_per"))

    return measure


def _lost(figures: Figures, us: str, _: str) -> float | None:
    counts = [
        count
        for name, kind in ((watched_name(us), "rate"), (crowded_name(us), "steady"))
        for protocol in WATCHED
        for value in ("lost", "closed")
        for count in figures.rounds(name, Case(kind, protocol, CONCURRENCY[-1]), value).values()
    ]
    return sum(counts) if counts else None


def _plain(case: Case, name: str, scale: float = 1.0) -> Measure:
    def measure(figures: Figures, us: str, _: str) -> float | None:
        found = figures.median(us, case, name)
        return None if found is None else found * scale

    return measure


def _goals() -> list[Goal]:
    goals: list[Goal] = []
    c1, c32 = CONCURRENCY
    bulk: list[tuple[int, str, float | None, float | None]] = [
        (8, "microsocks", 3.3, None),
        (8, "tinyproxy", 2.5, None),
        (8, "c-splice", None, 0.95),
        (8, "haproxy-splice", None, 1.5),
        (64, "microsocks", 5, None),
        (64, "tinyproxy", 4, None),
        (64, "haproxy-splice", 0.9, None),
        (64, "c-splice", None, 1.0),
        (1, "microsocks", 2, None),
        (1, "tinyproxy", 1.5, None),
        (1, "haproxy", None, 1.0),
        (1, "haproxy-splice", None, 1.0),
    ]
    for streams, peer, least, aim in bulk:
        name = f"bulk MB/s, {streams} stream{'s' * (streams > 1)}, the worse way"
        goals.append(Goal(name, _bulk(streams), peer, least, aim))
    for streams, limit, wanted in ((1, 0.33, 0.2), (8, 0.25, 0.18), (64, 0.15, 0.09)):
        name = f"CPU per GB, {streams} stream{'s' * (streams > 1)}"
        measure = _cpu_per_byte("bulk", streams)
        goals.append(Goal(name, measure, "microsocks", limit, wanted, lower=True))
    paced = _cpu_per_byte("paced", PACED_STREAMS)
    name = f"CPU per GB, {PACED_STREAMS} streams paced"
    goals += [
        Goal(name, paced, "microsocks", 0.15, lower=True),
        Goal(name, paced, "haproxy", None, 1.0, lower=True),
        Goal("SOCKS5 conn/s, c=32", _rate("socks5", c32), "microsocks", 1.05, 1.3),
        Goal("CONNECT conn/s, c=32", _rate("connect", c32), "tinyproxy", 1.1, 1.4),
        Goal("SOCKS5 conn/s, c=32", _rate("socks5", c32), "pproxy", 3.5),
        Goal("CONNECT conn/s, c=32", _rate("connect", c32), "pproxy", 3.5),
        Goal("SOCKS5 conn/s, c=32", _rate("socks5", c32, "cps", "tcp"), "haproxy", None, 1.0),
        Goal("CONNECT conn/s, c=32", _rate("connect", c32, "cps", "tcp"), "haproxy", None, 1.0),
        Goal("SOCKS5 conn/s, c=1", _rate("socks5", c1), "microsocks", 0.75, 1.0),
        Goal("CONNECT conn/s, c=1", _rate("connect", c1), "tinyproxy", None, 1.0),
        Goal("HTTP GET/s, c=32", _rate("get", c32), "tinyproxy", 1.25, 1.6),
        Goal("SOCKS5 p99, c=32", _rate("socks5", c32, "p99"), "microsocks", 1, 0.65, lower=True),
    ]
    for protocol in WATCHED:
        few = _watched(protocol, "rate", watched_name)
        full = _watched(protocol, "steady", crowded_name)
        name, seats = f"CPU/conn, {protocol}", f"{SEATS}+{SEATS} watchers at {STEADY}/s"
        goals += [
            Goal(f"{name}, {WATCHERS} watchers", few, "none", 1.25, 1.1, lower=True),
            Goal(f"{name}, {seats}", full, "none", 1.4, lower=True),
        ]
    goals.append(Goal("frames lost by watchers", _lost, "", 0, lower=True, unit=""))
    memory, idle = Case("mem", "socks5"), Case("idle")
    mega = 1 / 1024
    goals += [
        Goal("PSS per idle tunnel", _plain(memory, "pss_tunnel"), "", 3, 1.2, True, "KB"),
        Goal("kept after 1000 tunnels", _plain(memory, "pss_kept", mega), "", 2, 1, True, "MB"),
        Goal("context switches, 30 s idle", _plain(idle, "switches"), "", 0, None, True, ""),
        Goal("resident when idle", _plain(memory, "rss_0", mega), "", 19, 17, True, "MB"),
        Goal("time to listening", _plain(Case("start"), "seconds"), "", 0.25, 0.1, True, "s"),
        Goal("a route of 10,000 patterns to 10", _plain(LOOKUPS, "many_cost"), "", 2, 1.2, True),
        Goal("a route of 100,000 listed to 10", _plain(LOOKUPS, "list_cost"), "", None, 3, True),
    ]
    return goals


GOALS = _goals()
