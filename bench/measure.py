"""Taking samples: one process of a proxy, one run of the generator, and who used the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from bench import build, machine
from bench.cases import PACE, SEGMENT, STEADY, TUNNELS, Case, Sample
from bench.process import Process
from bench.targets import Place, Target

TRIES = 3  # of a sample that other programs disturbed
SETTLE = 1.0  # seconds that a process is left alone before its memory is read
DRAIN = 0.1  # seconds after a run in which a proxy closes and tells what is left
PORTS_PER_PROXY = 4

Values = dict[str, float]


class GeneratorError(RuntimeError):
    """The generator could not do its work; most often the proxy refused."""


class Bench:
    """The place of a run: ports, cores, origins. A context manager.

    Attributes:
        cores: which core runs the proxy, which one everything else
        seconds: how long a loaded sample lasts, after its warm-up
        patience: how long to wait for a quiet machine before a sample, in seconds
        lost: seconds spent on waiting and on disturbed samples so far; no more than `budget`
    """

    def __init__(self, seconds: float, patience: float, budget: float) -> None:
        self.cores = machine.Cores.choose()
        self.seconds, self.patience, self.budget = seconds, patience, budget
        self.lost = 0.0
        self._stack = ExitStack()
        self._launches = 0

    def __enter__(self) -> Bench:
        directory = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        self.directory = Path(directory)
        if self.cores.load is not None:
            self._stack.enter_context(machine.pinned(self.cores.load))
        block = machine.free_block(200)
        self.origin_port, self.segment_port, self.proxy_port = block, block + 16, block + 32
        ports = {self.origin_port: 0, self.segment_port: SEGMENT}
        try:
            self._origins = [self._origin(port, segment) for port, segment in ports.items()]
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # -- samples --

    def load(self, case: Case, target: Target, number: int) -> Sample:
        """One loaded sample (bulk, paced, rate, steady) of round `number`.

        Waits for a quiet machine, and tries again when it did not stay quiet.
        """
        sample = self._quietly(case, target, number)
        for _ in range(TRIES - 1):
            if sample.clean or self.lost >= self.budget:
                break
            sample = self._quietly(case, target, number)
            self.lost += self.seconds
        return sample

    def memory(self, target: Target, number: int) -> Sample:
        """Memory in KiB: fresh, with idle tunnels, and after they closed."""

        def measure() -> Values:
            with self.start(target) as process:
                time.sleep(SETTLE)
                points = {"0": machine.memory(process.pid)}
                for count in TUNNELS:
                    points[str(count)] = self._with_tunnels(process, count)
                    time.sleep(SETTLE)
                points["after"] = machine.memory(process.pid)
            values = {
                f"{name}_{point}": float(getattr(found, name))
                for point, found in points.items()
                for name in ("rss", "pss", "anonymous")
            }
            few, many = TUNNELS
            for name in ("pss", "anonymous"):
                grown = values[f"{name}_{many}"] - values[f"{name}_{few}"]
                values[f"{name}_tunnel"] = grown / (many - few)
                values[f"{name}_kept"] = values[f"{name}_after"] - values[f"{name}_0"]
            return values

        return self._sample(Case("mem", target.tunnel), target, number, measure)

    def start_time(self, target: Target, number: int) -> Sample:
        """Seconds until it listens."""

        def measure() -> Values:
            self._wait_quiet()
            with self.start(target) as process:
                return {"seconds": process.seconds, "cpu": process.cpu()}

        return self._sample(Case("start"), target, number, measure)

    def idle(self, targets: list[Target], seconds: float) -> list[Sample]:
        """What each does when nobody asks anything: context switches, CPU seconds."""
        samples: list[Sample] = []
        with ExitStack() as stack:
            running: list[Process] = []
            for target in targets:
                try:
                    running.append(stack.enter_context(self.start(target)))
                except (OSError, RuntimeError) as error:
                    samples.append(Sample(Case("idle"), target.name, 0, failed=str(error)))
            time.sleep(5)
            before = [(machine.context_switches(p.pid), p.cpu()) for p in running]
            time.sleep(seconds)
            for process, (switches, cpu) in zip(running, before, strict=True):
                values: Values = {
                    "switches": machine.context_switches(process.pid) - switches,
                    "cpu": process.cpu() - cpu,
                    "seconds": seconds,
                }
                samples.append(Sample(Case("idle"), process.target.name, 0, values))
        return samples

    # -- inside --

    def start(self, target: Target, origin: int | None = None) -> Process:
        """Start a proxy in a directory of its own, on ports of its own."""
        self._launches += 1
        directory = self.directory / str(self._launches)
        directory.mkdir()
        slot = self._launches % 40  # more than run at the same time
        port = self.proxy_port + slot * PORTS_PER_PROXY
        place = Place(directory, port, self.origin_port if origin is None else origin)
        return Process(target, place, self.cores.proxy)

    def _sample(
        self, case: Case, target: Target, number: int, measure: Callable[[], Values]
    ) -> Sample:
        try:
            return Sample(case, target.name, number, measure())
        except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
            return Sample(case, target.name, number, failed=str(error))

    def _wait_quiet(self) -> None:
        started = time.monotonic()
        machine.wait_quiet(max(0.0, min(self.patience, self.budget - self.lost)))
        self.lost += max(0.0, time.monotonic() - started - machine.WINDOW)

    def _quietly(self, case: Case, target: Target, number: int) -> Sample:
        self._wait_quiet()
        return self._once(case, target, number)

    def _once(self, case: Case, target: Target, number: int) -> Sample:
        disturbed = 0.0

        def measure() -> Values:
            nonlocal disturbed
            origin = self.segment_port if case.kind == "paced" else self.origin_port
            if target.launch is None:
                values, disturbed = self._run(case, None, origin, self.cores.proxy)
                return values
            with self.start(target, origin) as process:
                if not target.watchers:
                    values, disturbed = self._run(case, process, origin, self.cores.load)
                    return values
                with self._watchers(process) as watchers:
                    values, disturbed = self._run(case, process, origin, self.cores.load, watchers)
                    values["rss"] = machine.memory(process.pid).rss
                    seen = _ended(watchers)
                values.update({f"watch_{name}": count for name, count in seen.items()})
                unseen = max(0.0, values["connections"] - seen["new"])
                values["lost"] = seen["lost"] + seen["gaps"] + unseen * target.watchers
                if target.followers:
                    unseen = max(0.0, values["connections"] - seen["entries"])
                    values["lost"] += unseen * target.followers
                values["closed"] = seen["closed"]
                return values

        sample = self._sample(case, target, number, measure)
        return Sample(case, target.name, number, sample.values, disturbed, sample.failed)

    def _run(
        self,
        case: Case,
        process: Process | None,
        origin: int,
        core: int | None,
        watchers: subprocess.Popen[str] | None = None,
    ) -> tuple[Values, float]:
        """Run the generator once: what it says with the proxy's CPU, and foreign CPU."""
        port = process.place.port if process else 0
        arguments = [case.protocol, port, origin, case.load]
        rated = case.kind in ("rate", "steady")
        if rated:
            steady = [STEADY] if case.kind == "steady" else []
            command = ["rate", *arguments, self.seconds, *steady]
        else:
            paced = [PACE, SEGMENT] if case.kind == "paced" else []
            command = ["bulk", *arguments, case.way, self.seconds, *paced]

        helpers = [one.pid for one in (*self._origins, *([watchers] if watchers else []))]

        def own_cpu() -> float:
            children = os.times()
            mine = sum(children[:4]) + sum(map(machine.cpu_clock, helpers))
            return mine + (process.cpu() if process else 0.0)

        cpu, own = process.cpu() if process else 0.0, own_cpu()
        user, system = machine.user_and_system(process.pid) if process else (0.0, 0.0)
        busy, started = machine.busy(), time.monotonic()
        values = self._generate(command, core)
        time.sleep(DRAIN)
        elapsed = time.monotonic() - started
        foreign = (machine.busy() - busy - (own_cpu() - own)) / elapsed
        if process:
            cpu = process.cpu() - cpu
            user_now, system_now = machine.user_and_system(process.pid)
            values |= {"cpu": cpu, "user": user_now - user, "system": system_now - system}
            if rated:
                values["cpu_per"] = cpu / values["connections"] * 1e6
            else:
                values["cpu_per"] = cpu / values["all_mb"] * 1e3
        return values, foreign

    def _generate(self, command: list[object], core: int | None) -> Values:
        with machine.pinned(core):
            run = subprocess.run(
                [str(build.BUILD / "lg"), *map(str, command)],
                env=self._environment,
                capture_output=True,
                text=True,
                timeout=self.seconds + 30,
            )
        if run.returncode != 0:
            raise GeneratorError(run.stderr.strip() or f"the generator ended {run.returncode}")
        values: Values = json.loads(run.stdout)
        return values

    def _with_tunnels(self, process: Process, count: int) -> machine.Memory:
        target = process.target
        port, origin = process.place.port, self.origin_port
        holder = self._spawn("idle", target.tunnel, port, origin, count)
        try:
            _await_ready(holder, f"READY {count}")
            time.sleep(SETTLE)
            return machine.memory(process.pid)
        finally:
            holder.communicate()

    def _watchers(self, process: Process) -> subprocess.Popen[str]:
        target = process.target
        watchers = self._spawn(
            "watch", process.place.control, target.watchers, 60, target.followers
        )
        _await_ready(watchers, "READY")
        return watchers

    def _origin(self, port: int, segment: int) -> subprocess.Popen[str]:
        origin = self._spawn("origin", port, segment)
        self._stack.callback(origin.communicate)
        self._stack.callback(origin.terminate)
        _await_ready(origin, "READY")
        return origin

    def _spawn(self, *arguments: object) -> subprocess.Popen[str]:
        with machine.pinned(self.cores.load):
            return subprocess.Popen(
                [str(build.BUILD / "lg"), *map(str, arguments)],
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, "LG_COUNTERS": str(self.directory / "counters")}


def _output(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout


def _ended(watchers: subprocess.Popen[str]) -> Values:
    """Let the watchers end; what they saw."""
    assert watchers.stdin is not None
    watchers.stdin.close()
    values: Values = json.loads(_output(watchers).readline())
    return values


def _await_ready(process: subprocess.Popen[str], expected: str) -> None:
    line = _output(process).readline().strip()
    if line != expected:
        process.kill()
        _, errors = process.communicate()
        raise GeneratorError(f"{line or 'the generator ended'} {errors.strip()}".strip())
