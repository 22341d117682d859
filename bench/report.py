"""What a run says: tables for people, JSON for programs."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.cases import (
    CONCURRENCY,
    PACED_STREAMS,
    STEADY,
    STREAMS,
    TUNNELS,
    WATCHED,
    WAYS,
    Case,
    Sample,
)
from bench.goals import GOALS, Figures, verdict, watched_name
from bench.lookups import CASE as LOOKUPS
from bench.targets import Target

PROTOCOLS = ("socks5", "connect", "get", "tcp")


def number(value: float | None, digits: int = 0) -> str:
    """A figure of a table; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, padded so that it reads well in a terminal too.

    Rows with nothing but dashes are left out; without rows there is no table.
    """
    kept = [row for row in rows if any(cell not in ("", "-", "-/-") for cell in row[1:])]
    if not kept:
        return ""
    widths = [max(len(row[i]) for row in [head, *kept]) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([f"\n{title}\n", line(head), rule, *map(line, kept)])


def bulk_table(figures: Figures, targets: Iterable[Target]) -> str:
    """Bytes: MB/s down/up, CPU seconds per GB (mean of both ways)."""
    head = ["bulk (GB = 1e9 bytes)", *(f"MB/s {n} dn/up" for n in STREAMS)]
    head += [*(f"CPU s/GB {n}" for n in STREAMS), f"paced {PACED_STREAMS}"]
    rows = []
    for target in targets:
        row = [target.name]
        for streams in STREAMS:
            cases = [figures.tunnel(target.name, "bulk", streams, way) for way in WAYS]
            row.append("/".join(number(figures.median(target.name, c, "mbps")) for c in cases))
        for kind, streams in [*(("bulk", n) for n in STREAMS), ("paced", PACED_STREAMS)]:
            cases = [figures.tunnel(target.name, kind, streams, way) for way in WAYS]
            found = [figures.median(target.name, case, "cpu_per") for case in cases]
            values = [value for value in found if value is not None]
            row.append(number(sum(values) / len(values) if values else None, 2))
        rows.append(row)
    return table("Bulk", head, rows)


def rate_table(figures: Figures, targets: Sequence[Target], protocol: str) -> str:
    """Connections: per second, latency in us, CPU per connection in us and its split."""
    head = [protocol]
    for concurrency in CONCURRENCY:
        head += [f"conn/s c={concurrency}", "p50/p99 us", "CPU us/conn", "user+sys"]
    head.append("lost")
    rows = []
    for target in targets:
        row = [target.name]
        for concurrency in CONCURRENCY:
            case = Case("rate", protocol, concurrency)
            row.append(number(figures.median(target.name, case, "cps")))
            latencies = [figures.median(target.name, case, name) for name in ("p50", "p99")]
            row.append("/".join(map(number, latencies)))
            row.append(number(figures.median(target.name, case, "cpu_per")))
            row.append(_split(figures, target.name, case))
        case = Case("rate", protocol, CONCURRENCY[-1])
        row.append(number(figures.median(target.name, case, "lost")))
        rows.append(row)
    return table(f"Connections, {protocol} (1 KiB each way)", head, rows)


def _split(figures: Figures, target: str, case: Case) -> str:
    """CPU per connection in user and system mode; by the tick, so the shares are scaled."""
    cpu = figures.median(target, case, "cpu_per")
    user, system = (figures.median(target, case, name) for name in ("user", "system"))
    if cpu is None or user is None or system is None or not user + system:
        return "-"
    share = user / (user + system)
    return f"{cpu * share:.0f}+{cpu * (1 - share):.0f}"


def steady_table(figures: Figures, targets: Iterable[Target]) -> str:
    """Connections at a steady pace: what came of it, CPU per connection, memory."""
    head = [f"{STEADY} conn/s"]
    for protocol in WATCHED:
        head += [f"{protocol} conn/s", "p50/p99 us", "CPU us/conn", "user+sys"]
    head += ["RSS MB", "lost"]
    rows = []
    for target in targets:
        row = [target.name]
        for protocol in WATCHED:
            case = Case("steady", protocol, CONCURRENCY[-1])
            latencies = [figures.median(target.name, case, name) for name in ("p50", "p99")]
            row += [
                number(figures.median(target.name, case, "cps")),
                "/".join(map(number, latencies)),
                number(figures.median(target.name, case, "cpu_per")),
                _split(figures, target.name, case),
            ]
        resident = figures.median(target.name, case, "rss")
        row.append(number(None if resident is None else resident / 1024, 1))
        row.append(number(figures.median(target.name, case, "lost")))
        rows.append(row)
    return table("Connections at a steady pace, and those who watch them", head, rows)


def process_table(figures: Figures, targets: Iterable[Target]) -> str:
    """Memory, idling, starting."""
    few, many = TUNNELS
    head = ["process", "RSS idle MB", "PSS idle MB", f"PSS {few}", f"PSS {many}", "kept MB"]
    head += ["KB/tunnel PSS", "anonymous", "start ms", "switches 30 s", "idle CPU ms"]
    rows = []
    for target in targets:
        memory = Case("mem", target.tunnel)
        row = [target.name]
        for name in ("rss_0", "pss_0", f"pss_{few}", f"pss_{many}", "pss_kept"):
            found = figures.median(target.name, memory, name)
            row.append(number(None if found is None else found / 1024, 1))
        for name in ("pss_tunnel", "anonymous_tunnel"):
            row.append(number(figures.median(target.name, memory, name), 1))
        start = figures.median(target.name, Case("start"), "seconds")
        row.append(number(None if start is None else start * 1e3))
        row.append(number(figures.median(target.name, Case("idle"), "switches")))
        idle = figures.median(target.name, Case("idle"), "cpu")
        row.append(number(None if idle is None else idle * 1e3, 1))
        rows.append(row)
    return table("Process", head, rows)


def lookup_table(figures: Figures, targets: Iterable[Target]) -> str:
    """Routes found per second."""
    head = ["routes found per second", "10 patterns", "10,000", "list of 100,000", "its load ms"]
    rows = []
    for target in targets:
        found = [figures.median(target.name, LOOKUPS, name) for name in ("few", "many", "list")]
        load = figures.median(target.name, LOOKUPS, "list_seconds")
        rows.append(
            [target.name, *map(number, found), number(None if load is None else load * 1e3)]
        )
    return table("Routes", head, rows)


def verdicts(figures: Figures, us: str) -> list[dict[str, Any]]:
    """The table of goals with what `us` reached."""
    answers = []
    for goal in GOALS:
        value = goal.measure(figures, us, goal.peer)
        answers.append(
            {
                "figure": goal.figure,
                "peer": goal.peer,
                "least": goal.least,
                "aim": goal.aim,
                "lower": goal.lower,
                "unit": goal.unit,
                "value": value,
                "verdict": verdict(goal, value),
            }
        )
    return answers


def goal_table(us: str, answers: Iterable[dict[str, Any]]) -> str:
    """The verdicts as a table."""
    rows = []
    for answer in answers:
        sign, unit, value = ("<=" if answer["lower"] else ">="), answer["unit"], answer["value"]
        if value is None:
            continue
        wanted = [
            "-" if answer[name] is None else f"{sign} {answer[name]:g} {unit}".rstrip()
            for name in ("least", "aim")
        ]
        reached = f"{value:.3g} {unit}".rstrip()
        rows.append([answer["figure"], answer["peer"], *wanted, reached, answer["verdict"]])
    head = ["figure", "against", "at least", "aim", "reached", "verdict"]
    title = f"Goals of {us} (ratios: medians over the rounds; {len(rows)} of {len(GOALS)} measured)"
    return table(title, head, rows)


def noise(samples: Sequence[Sample]) -> str:
    """What was left out, and why."""
    lines = []
    failures = {(s.target, s.case.kind, s.failed) for s in samples if s.failed}
    for target, kind, failed in sorted(failures):
        lines.append(f"failed: {target}, {kind}: {failed}")
    disturbed = [s for s in samples if not s.failed and not s.clean]
    if disturbed:
        lines.append(f"{len(disturbed)} of {len(samples)} samples were disturbed by other programs")
    only = sorted({target for target, _ in Figures(samples).disturbed})
    if only:
        lines.append(f"some figures have nothing but disturbed samples: {', '.join(only)}")
    refused: dict[str, float] = {}
    for sample in samples:
        bad = sample.values.get("failed", 0) + sample.values.get("stuck", 0)
        if bad:
            refused[sample.target] = refused.get(sample.target, 0) + bad
    lines += [f"{target}: {count:.0f} connections failed" for target, count in refused.items()]
    return "\n".join(lines)


def text(samples: Sequence[Sample], targets: Sequence[Target], us: Sequence[str]) -> str:
    """The whole report."""
    figures = Figures(samples)
    parts = [bulk_table(figures, targets)]
    parts += [rate_table(figures, targets, protocol) for protocol in PROTOCOLS]
    parts.append(steady_table(figures, targets))
    alone = [target for target in targets if not target.watchers]
    parts += [process_table(figures, alone), lookup_table(figures, alone)]
    watched = [figures.median(watched_name(name), _WATCHED, "rss") for name in us]
    parts += [
        f"\n{name}: {rss / 1024:.1f} MB resident with its watchers, under load"
        for name, rss in zip(us, watched, strict=True)
        if rss is not None
    ]
    parts += [goal_table(name, verdicts(figures, name)) for name in us]
    parts.append("\n" + noise(samples))
    return "\n".join(part for part in parts if part.strip())


_WATCHED = Case("rate", "socks5", CONCURRENCY[-1])


def machine_facts() -> dict[str, Any]:
    """What the figures depend on."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {"kernel": platform.release(), "cpu": model, "cores": os.cpu_count()}


def save(path: Path, facts: dict[str, Any], samples: Sequence[Sample], us: Sequence[str]) -> None:
    """Write everything as JSON."""
    figures = Figures(samples)
    document = {
        **facts,
        "machine": machine_facts(),
        "goals": {name: verdicts(figures, name) for name in us},
        "samples": [sample.plain() for sample in samples],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")
