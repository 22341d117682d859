"""The benchmark itself: its programs compile, its arithmetic is right, it can measure."""

from __future__ import annotations

import itertools
import json
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from bench import build, goals, imports, lookups, machine, report, targets
from bench.cases import STEADY, Case, Job, Sample, plan
from bench.goals import Figures, Goal, verdict
from bench.measure import Bench
from bench.targets import Target

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = Path(msgspec.__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bench")
    build.compile_programs(directory)
    return directory


@pytest.fixture
def bench(programs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(build, "BUILD", programs)
    with Bench(seconds=0.05, patience=0, budget=0) as running:
        yield running


def measure(bench: Bench, case: Case, target: Target) -> dict[str, float]:
    sample = bench.load(case, target, 0)
    assert not sample.failed, sample.failed
    return sample.values


class TestMeasuring:
    def test_compiled_once(self, programs: Path) -> None:
        before = (programs / "lg").stat().st_mtime_ns
        build.compile_programs(programs)
        assert (programs / "lg").stat().st_mtime_ns == before

    @pytest.mark.parametrize("mode", ["c-copy", "c-splice"])
    def test_relay(self, bench: Bench, mode: str) -> None:
        (relay,) = (peer for peer in targets.peers("", Path()) if peer.name == mode)
        for way in ("down", "up"):
            values = measure(bench, Case("bulk", "tcp", 2, way), relay)
            assert values["mbps"] > 0
            assert values["cpu_per"] > 0
        values = measure(bench, Case("rate", "tcp", 4), relay)
        assert values["connections"] > 0
        assert values["failed"] == values["stuck"] == 0
        assert values["p50"] <= values["p99"] <= values["max"]

    def test_no_proxy(self, bench: Bench) -> None:
        straight = Target("straight", ("tcp",), None)
        values = measure(bench, Case("rate", "tcp", 2), straight)
        assert values["connections"] > 0
        assert "cpu_per" not in values

    def test_pace(self, bench: Bench) -> None:
        straight = Target("straight", ("tcp",), None)
        values = measure(bench, Case("steady", "tcp", 4), straight)
        # One more may begin at the very start.
        assert 0 < values["connections"] <= STEADY * bench.seconds + 1

    def test_bifrost(self, bench: Bench) -> None:
        us = targets.bifrost("us", ROOT, sys.executable, PACKAGES)
        for protocol in us.protocols:
            values = measure(bench, Case("rate", protocol, 2), us)
            assert values["connections"] > 0
            assert values["failed"] == 0
        assert measure(bench, Case("paced", "socks5", 2, "down"), us)["mbps"] > 0

    def test_watchers_see_each_connection(self, bench: Bench) -> None:
        us = targets.watched(targets.bifrost("us", ROOT, sys.executable, PACKAGES))
        values = measure(bench, Case("rate", "socks5", 4), us)
        assert values["watch_new"] >= values["connections"] > 0
        assert values["lost"] == values["closed"] == 0

    def test_all_seats_see_each_connection(self, bench: Bench) -> None:
        us = targets.crowded(targets.bifrost("us", ROOT, sys.executable, PACKAGES))
        values = measure(bench, Case("steady", "get", 4), us)
        assert min(values["watch_new"], values["watch_entries"]) >= values["connections"] > 0
        assert values["lost"] == values["closed"] == 0

    def test_a_proxy_that_does_not_start_is_a_failed_sample(self, bench: Bench) -> None:
        broken = Target("broken", ("tcp",), lambda place: targets.Launch(["false"]))
        sample = bench.load(Case("rate", "tcp", 1), broken, 0)
        assert "broken does not listen" in sample.failed
        assert not sample.clean


def text_frame(text: str) -> bytes:
    data = text.encode()
    assert len(data) < 65536
    size = bytes([len(data)]) if len(data) < 126 else b"\x7e" + struct.pack(">H", len(data))
    return b"\x81" + size + data


def event(kind: str, seq: int, **data: object) -> bytes:
    # Without blanks, as the daemon writes it.
    value = {"type": kind, "timestamp": "2024-01-15T10:00:00Z", "data": data, "seq": seq}
    return text_frame(json.dumps(value, separators=(",", ":")))


def entry(seq: int, **fields: object) -> bytes:
    value = {"timestamp": "2024-01-15T10:00:00Z", "level": "info", "message": "", "fields": fields}
    return b"id: 0123abcd-%d\ndata: %b\n\n" % (
        seq, json.dumps(value, separators=(",", ":")).encode(),
    )  # fmt: skip


class TestWatcher:
    """`lg watch` against a server that does what it is told."""

    def watch(self, programs: Path, payload: bytes, step: int, log: bytes = b"") -> dict[str, int]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(10)
            port = server.getsockname()[1]
            lg = subprocess.Popen(
                [programs / "lg", "watch", str(port), "1", "20", str(len(log[:1]))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            self.serve(server, b"Upgrade: websocket", b"101 Switching Protocols", payload, step)
            if log:
                self.serve(server, b"GET /api/v1/logs/stream", b"200 OK", log, step)
            with lg:
                assert lg.stdout is not None
                ready, answer = lg.stdout.read().splitlines()
        assert ready == "READY"
        values: dict[str, int] = json.loads(answer)
        assert values["closed"] == 1 + bool(log)
        return values

    def serve(
        self, server: socket.socket, wanted: bytes, status: bytes, payload: bytes, step: int
    ) -> None:
        client, _ = server.accept()
        with client:
            client.settimeout(10)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            assert wanted in client.recv(4096)
            stream = b"HTTP/1.1 " + status + b"\r\n\r\n" + payload
            for start in range(0, len(stream), step):
                client.sendall(stream[start : start + step])

    @pytest.mark.parametrize("step", [1, 100_000])
    def test_counts(self, programs: Path, step: int) -> None:
        frames = [
            event("stats.update", 6, active_connections=0),
            event("connection.new", 7, host="a:1"),
            event("connection.close", 8, host="a:1", reason="x" * 200),
            b"\x89\x04ping",
            event("stats.update", 8, active_connections=0),
            event("connection.new", 9, host="b:1"),
        ]
        values = self.watch(programs, b"".join(frames), step)
        assert (values["new"], values["close"], values["frames"]) == (2, 1, 5)
        assert values["gaps"] == values["lost"] == 0

    def test_a_gap(self, programs: Path) -> None:
        frames = [event("connection.new", 7), event("connection.new", 10)]
        assert self.watch(programs, b"".join(frames), 1000)["gaps"] == 2

    def test_told_losses(self, programs: Path) -> None:
        frames = [event("events.lost", 7, lost=3), event("events.lost", 7, lost=None)]
        assert self.watch(programs, b"".join(frames), 1000)["lost"] == 4

    @pytest.mark.parametrize("step", [1, 100_000])
    def test_the_log(self, programs: Path, step: int) -> None:
        blocks = [
            b'data: {"type":"connected"}\nretry: 2000\n\n',
            entry(7, source="test", message='"lost":9'),
            b": still here\n\n",
            entry(8, url="a:1"),
            entry(11, lost=3),
            entry(12, url="a:1"),
        ]
        values = self.watch(programs, event("connection.new", 7), step, b"".join(blocks))
        assert (values["new"], values["entries"], values["lost"]) == (1, 4, 3)
        assert values["gaps"] == 2  # from 8 to 11


class TestFigures:
    case = Case("rate", "socks5", 32)

    def sample(self, target: str, number: int, value: float, foreign: float = 0) -> Sample:
        return Sample(self.case, target, number, {"cps": value}, foreign)

    def test_ratio_is_the_median_of_ratios_within_rounds(self) -> None:
        mine = {0: 10.0, 1: 40.0, 2: 90.0, 3: 7.0}
        theirs = {0: 10.0, 1: 20.0, 2: 30.0, 4: 1.0}
        assert goals.ratio(mine, theirs) == 2
        assert goals.ratio(mine, {}) is None
        assert goals.ratio({0: 1.0}, {0: 0.0}) is None

    def test_disturbed_samples_do_not_count(self) -> None:
        samples = [self.sample("us", 0, 1), self.sample("us", 1, 100, foreign=0.2)]
        assert Figures(samples).median("us", self.case, "cps") == 1
        assert report.noise(samples) == "1 of 2 samples were disturbed by other programs"

    def test_disturbed_samples_are_better_than_none(self) -> None:
        samples = [self.sample("us", 0, 1, foreign=0.5)]
        assert Figures(samples).median("us", self.case, "cps") == 1
        assert "nothing but disturbed samples: us" in report.noise(samples)

    def test_bulk_is_judged_by_the_worse_way(self) -> None:
        samples = [
            Sample(Case("bulk", protocol, 8, way), target, 0, {"mbps": value})
            for target, protocol, way, value in [
                ("us", "socks5", "down", 40.0),
                ("us", "socks5", "up", 30.0),
                ("tinyproxy", "connect", "down", 10.0),
                ("tinyproxy", "connect", "up", 10.0),
            ]
        ]
        (goal,) = (g for g in goals.GOALS if (g.peer, g.least) == ("tinyproxy", 2.5))
        assert goal.measure(Figures(samples), "us", "tinyproxy") == 3
        assert goal.measure(Figures(samples[1:]), "us", "tinyproxy") is None

    def test_frames_lost_are_summed(self) -> None:
        values = {"lost": 2.0, "closed": 1.0}
        samples = [Sample(self.case, "us+5w", number, values) for number in (0, 1)]
        crowd = Case("steady", "get", 32)
        samples.append(Sample(crowd, "us+10w10l", 0, values))
        (goal,) = (g for g in goals.GOALS if g.figure == "frames lost by watchers")
        assert goal.measure(Figures(samples), "us", "") == 9
        assert goal.measure(Figures([]), "us", "") is None

    def test_watching_is_judged_by_cpu(self) -> None:
        case = Case("steady", "get", 32)
        samples = [
            Sample(case, target, 0, {"cpu_per": value})
            for target, value in (("us", 200.0), ("us+10w10l", 260.0))
        ]
        name = "CPU/conn, get, 10+10 watchers at 2000/s"
        (goal,) = (g for g in goals.GOALS if g.figure == name)
        assert goal.measure(Figures(samples), "us", "none") == 1.3
        assert goal.least == 1.4


def higher(least: float | None, aim: float | None) -> Goal:
    return Goal("f", lambda *_: None, least=least, aim=aim)


def lower(least: float | None, aim: float | None) -> Goal:
    return Goal("f", lambda *_: None, least=least, aim=aim, lower=True)


@pytest.mark.parametrize(
    ("goal", "value", "expected"),
    [
        (higher(2, 4), None, "not measured"),
        (higher(2, 4), 4, "aim met"),
        (higher(2, 4), 2, "met; aim missed by 50 %"),
        (higher(2, 4), 1.9, "MISSED by 5.0 %"),
        (higher(2, None), 2, "met"),
        (higher(None, 4), 3, "aim missed by 25 %"),
        (lower(1, 0.5), 0.5, "aim met"),
        (lower(1, 0.5), 1, "met; aim missed by 100 %"),
        (lower(1, 0.5), 1.2, "MISSED by 20 %"),
        (lower(0, None), 0, "met"),
        (lower(0, None), 3, "MISSED by 3"),
    ],
)
def test_verdict(goal: Goal, value: float | None, expected: str) -> None:
    assert verdict(goal, value) == expected


class TestPlan:
    us = Target("us", ("socks5", "connect", "get"), targets._microsocks, ours=True)
    watched = targets.watched(us)
    crowded = targets.crowded(us)
    straight = Target("straight", ("tcp",), None)

    def cases(self, target: Target, *kinds: str, quick: bool = False) -> set[Case]:
        everybody = [self.us, self.watched, self.crowded, self.straight]
        jobs = itertools.chain.from_iterable(plan(everybody, kinds, quick))
        return {job.case for job in jobs if job.target == target}

    def test_everything(self) -> None:
        cases = self.cases(self.us, "bulk", "rate", "watch")
        assert Case("bulk", "socks5", 64, "up") in cases
        assert Case("paced", "socks5", 8, "up") in cases
        assert Case("rate", "get", 1) in cases
        assert len(cases) == 6 + 2 + 6 + 2

    def test_watchers_at_high_concurrency(self) -> None:
        expected = {Case("rate", "socks5", 32), Case("rate", "get", 32)}
        assert self.cases(self.watched, "bulk", "rate", "watch") == expected

    def test_all_seats_at_a_steady_pace(self) -> None:
        expected = {Case("steady", "socks5", 32), Case("steady", "get", 32)}
        assert self.cases(self.crowded, "bulk", "rate", "watch") == expected
        assert self.cases(self.crowded, "bulk", "rate") == set()

    def test_watchers_alone_come_with_what_they_are_compared_to(self) -> None:
        compared = self.cases(self.watched, "watch") | self.cases(self.crowded, "watch")
        assert self.cases(self.us, "watch") == compared
        assert self.cases(self.straight, "watch") == set()

    def test_no_proxy_has_no_pace(self) -> None:
        kinds = {case.kind for case in self.cases(self.straight, "bulk", "rate")}
        assert kinds == {"bulk", "rate"}

    def test_one_group_is_one_load(self) -> None:
        for group in plan([self.us, self.straight], ["bulk", "rate"], quick=True):
            assert all(isinstance(job, Job) for job in group)
            assert len({(job.case.kind, job.case.load, job.case.way) for job in group}) == 1


class TestReport:
    def samples(self) -> list[Sample]:
        case = Case("rate", "socks5", 32)
        return [
            Sample(case, "us", 0, {"cps": 13000, "p50": 9, "p99": 20}),
            Sample(case, "microsocks", 0, {"cps": 10000, "p50": 9, "p99": 20}),
            Sample(Case("steady", "get", 32), "us", 0, {"cps": 1999}),
            Sample(Case("mem", "socks5"), "us", 0, {"rss_0": 16 * 1024, "pss_tunnel": 1.1}),
            Sample(Case("start"), "us", 0, failed="us does not listen on 9232: bang"),
        ]

    def test_text(self) -> None:
        everybody = [TestPlan.us, Target("microsocks", ("socks5",), None)]
        text = report.text(self.samples(), everybody, ["us"])
        assert " 13000 |" in text
        assert " 1999 |" in text
        assert "failed: us, start: us does not listen on 9232: bang" in text
        assert "Bulk" not in text
        rows = [line for line in text.splitlines() if "SOCKS5 conn/s, c=32" in line]
        assert ["1.3 x" in row and "aim met" in row for row in rows] == [True]

    def test_json(self, tmp_path: Path) -> None:
        path = tmp_path / "results" / "run.json"
        report.save(path, {"took": 1.0}, self.samples(), ["us"])
        document = json.loads(path.read_text())
        assert document["took"] == 1
        assert document["samples"][0]["case"]["load"] == 32
        (resident,) = (
            goal for goal in document["goals"]["us"] if goal["figure"] == "resident when idle"
        )
        assert resident["verdict"] == "aim met"
        assert resident["value"] == 16


def test_imports_form_a_tree() -> None:
    lines = "0 8000 (interpreter)\n1 100 asyncio.base\n1 60 asyncio.tasks\n0 900 asyncio\n"
    interpreter, asyncio = imports.parse(lines)
    assert interpreter == imports.Import("(interpreter)", 8000)
    assert [part.name for part in asyncio.parts] == ["asyncio.base", "asyncio.tasks"]
    assert asyncio.own == 740
    names = [name for name, _, _ in imports.outline([interpreter, asyncio])]
    assert names == ["(interpreter)", "asyncio", "  asyncio.base", "  asyncio.tasks"]


class TestLookups:
    def test_sample(self) -> None:
        sample = lookups.sample("us", ROOT, sys.executable, PACKAGES, None, 0, 0.01)
        assert not sample.failed
        assert min(sample.values[name] for name in ("few", "many", "list")) > 0
        assert sample.values["many_cost"] == pytest.approx(
            sample.values["few"] / sample.values["many"]
        )
        text = report.text([sample], [TestPlan.us], ["us"])
        (row,) = (line for line in text.splitlines() if line.startswith("| us "))
        assert row.count("-") == 0
        assert "a route of 10,000 patterns to 10" in text

    def test_a_checkout_without_it(self, tmp_path: Path) -> None:
        sample = lookups.sample("us", tmp_path, sys.executable, PACKAGES, None, 0, 0.01)
        assert "bifrost_lite" in sample.failed
        sample = lookups.sample("us", ROOT, "/nonexistent", PACKAGES, None, 0, 0.01)
        assert "No such file" in sample.failed


def test_recorder(programs: Path, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'bench')!r}); import recorder; "
        f"recorder.install({str(lines)!r}); import json"
    )
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, timeout=30)
    interpreter, *modules = imports.parse(lines.read_text())
    assert interpreter.total > 1000
    (tree,) = (module for module in modules if module.name == "json")
    assert {part.name for part in tree.parts} >= {"json.decoder"}


class TestMachine:
    def test_clocks_of_a_family(self) -> None:
        with subprocess.Popen(
            ["sh", "-c", "cat & echo started; wait"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as shell:
            assert shell.stdout is not None
            assert shell.stdin is not None
            assert shell.stdout.readline() == b"started\n"
            pids = machine.family(shell.pid)
            assert pids[0] == shell.pid
            assert machine.cpu_clock(shell.pid) > 0
            assert machine.memory(shell.pid).rss >= machine.memory(shell.pid).pss > 0
            assert machine.context_switches(shell.pid) >= 0
            shell.stdin.close()
        assert machine.cpu_clock(shell.pid) == 0

    def test_free_block(self) -> None:
        first = machine.free_block(10)
        with socket.create_server(("127.0.0.1", first + 3)):
            assert machine.free_block(10) != first
