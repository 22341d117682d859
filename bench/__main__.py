"""`python -m bench`: measure bifrost-lite and its peers in one interleaved run."""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench import build, imports, lookups, machine, report, targets
from bench.cases import KINDS, Job, Sample, plan
from bench.measure import Bench
from bench.targets import Target

IDLE_SECONDS = 30.0
QUICK_PEERS = ("c-splice", "haproxy", "haproxy-splice", "microsocks", "tinyproxy", "pproxy")


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="2 rounds of 0.5 s, only peers that goals name")
    add("--only", type=_names, default=KINDS, help=f"comma list of {', '.join(KINDS)}")
    add("--targets", type=_names, help="comma list of targets; default: all that are installed")
    add("--rounds", type=int, help="default 5, quick 2")
    add("--seconds", type=float, help="of a loaded sample; default 1, quick 0.5")
    add("--us", action="append", default=[], metavar="NAME=PATH", help="another checkout")
    add("--python", help="runs us and the Python peers; default Debian's, else this one")
    add("--name", help="of the file in bench/results; default: the time")
    add("--seed", type=int, help="of the order of samples")
    options = parser.parse_args(arguments)
    if unknown := set(options.only) - set(KINDS):
        parser.error(f"--only: no such kind: {', '.join(sorted(unknown))}")
    for one in options.us:
        name, _, path = one.partition("=")
        if not name or not Path(path, "bifrost_lite").is_dir():
            parser.error(f"--us: {one}: expected NAME=PATH of a checkout")
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.seconds = options.seconds or (0.5 if options.quick else 1.0)
    options.name = options.name or time.strftime("%Y%m%d-%H%M%S")
    return options


def _checkouts(options: argparse.Namespace) -> dict[str, Path]:
    """Ourselves and what --us names."""
    more = (one.partition("=") for one in options.us)
    return {"bifrost": build.ROOT, **{name: Path(path).resolve() for name, _, path in more}}


def _choose(options: argparse.Namespace, interpreter: str) -> tuple[list[Target], list[str]]:
    """The targets of this run, everything for them made; and the names of those that are ours."""
    checkouts = _checkouts(options)
    packages = build.packages_of(interpreter, "run-time")
    peer_packages = build.packages_of(interpreter, "peers")
    us = [targets.bifrost(name, path, interpreter, packages) for name, path in checkouts.items()]
    peers = targets.peers(interpreter, peer_packages)
    if options.targets:
        everybody = {target.name for target in [*us, *peers]}
        if unknown := set(options.targets) - everybody:
            sys.exit(f"no such target: {', '.join(sorted(unknown))}")
        us = [one for one in us if one.name in options.targets]
        peers = [one for one in peers if one.name in options.targets]
    elif options.quick:
        peers = [one for one in peers if one.name in QUICK_PEERS]
    for one in peers:
        if not one.installed:
            _say(f"{one.name} is left out: install {one.program}")
    if us:
        build.install(interpreter, packages, build.RUN_TIME)
    if any(one.name in targets.PYTHON_PEERS for one in peers):
        build.install(interpreter, peer_packages, build.PEERS)
    chosen: list[Target] = []
    for one in us:
        chosen.append(one)
        build.compile_bytecode(interpreter, checkouts[one.name])
        if "watch" in options.only:
            chosen += [targets.watched(one), targets.crowded(one)]
    return [*chosen, *(one for one in peers if one.installed)], [one.name for one in us]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _loaded(bench: Bench, jobs: list[list[Job]], rounds: int, order: random.Random) -> list[Sample]:
    samples: list[Sample] = []
    started = time.monotonic()
    for number in range(rounds):
        groups = [order.sample(group, len(group)) for group in order.sample(jobs, len(jobs))]
        for group in groups:
            samples += [bench.load(job.case, job.target, number) for job in group]
        minutes = (time.monotonic() - started) / 60
        _say(f"round {number + 1} of {rounds} after {minutes:.1f} min")
    return samples


def _resting(
    bench: Bench, chosen: list[Target], kinds: Sequence[str], rounds: int, order: random.Random
) -> list[Sample]:
    samples: list[Sample] = []
    alone = [one for one in chosen if not one.watchers and one.launch is not None]
    for number in range(rounds):
        if "start" in kinds:
            samples += [bench.start_time(one, number) for one in order.sample(alone, len(alone))]
        if "mem" in kinds and number < 3:  # it varies little
            samples += [bench.memory(one, number) for one in order.sample(alone, len(alone))]
    if "idle" in kinds:
        _say(f"idle for {IDLE_SECONDS:.0f} s")
        samples += bench.idle(alone, IDLE_SECONDS)
    return samples


def _lookups(
    bench: Bench,
    options: argparse.Namespace,
    interpreter: str,
    us: Sequence[str],
    order: random.Random,
) -> list[Sample]:
    packages = build.packages_of(interpreter, "run-time")
    core, seconds = bench.cores.proxy, options.seconds
    ours = [(name, path) for name, path in _checkouts(options).items() if name in us]
    return [
        lookups.sample(name, path, interpreter, packages, core, number, seconds)
        for number in range(options.rounds)
        for name, path in order.sample(ours, len(ours))
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark as its options say; answers the exit status."""
    options = _options(arguments)
    build.compile_programs()
    interpreter = options.python or build.default_interpreter()
    chosen, us = _choose(options, interpreter)
    files = machine.raise_file_limit()
    alone = machine.enter_namespace()
    if not alone:
        _say("not root: on the loopback of this machine, whatever else uses it")
    order = random.Random(options.seed)
    jobs = plan(chosen, options.only, options.quick)
    # How long a busy machine may delay a sample, and the whole run, in seconds.
    patience, budget = (2.0, 60.0) if options.quick else (15.0, 420.0)
    notes: list[str] = []
    started = time.time()
    with Bench(options.seconds, patience, budget) as bench:
        _say(f"{sum(map(len, jobs))} loaded samples a round, {options.rounds} rounds")
        samples = _loaded(bench, jobs, options.rounds, order) if jobs else []
        samples += _resting(bench, chosen, options.only, options.rounds, order)
        if "routes" in options.only:
            samples += _lookups(bench, options, interpreter, us, order)
        if "imports" in options.only:
            packages = build.packages_of(interpreter, "run-time")
            for name, path in _checkouts(options).items():
                if name not in us:
                    continue
                try:
                    costs = imports.costs(bench, name, path, interpreter, packages)
                    notes.append(imports.report(name, *costs))
                except (OSError, RuntimeError) as error:
                    notes.append(f"imports are missing: {error}")
    version = subprocess.run([interpreter, "-VV"], capture_output=True, text=True).stdout.strip()
    took = time.time() - started
    facts = {
        "started": started,
        "took": took,
        "python": version,
        "namespace": alone,
        "cores": [bench.cores.proxy, bench.cores.load],
        "open_files": files,
        "options": {k: v for k, v in vars(options).items() if k != "name"},
    }
    print(report.text(samples, chosen, us))
    print("\n".join(notes))
    path = build.HERE / "results" / f"{options.name}.json"
    report.save(path, facts, samples, us)
    print(f"\n{version}; {took / 60:.1f} min; {os.path.relpath(path)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
