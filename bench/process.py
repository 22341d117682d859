"""A proxy while it runs."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time

from bench import machine
from bench.targets import SEARCH_PATH, Place, Target

START_DEADLINE = 15.0  # seconds; a proxy that does not listen by then does not work


class Process:
    """A running proxy; a context manager.

    Attributes:
        seconds: from its start until all its ports accepted
        pid: of its first process
    """

    def __init__(self, target: Target, place: Place, core: int | None) -> None:
        assert target.launch is not None
        launch = target.launch(place)
        self.target, self.place = target, place
        self._used: dict[int, float] = {}
        self._errors = place.directory / "stderr"
        environment = {**os.environ, "PATH": SEARCH_PATH, **launch.environment}
        with machine.pinned(core), self._errors.open("wb") as errors:
            started = time.perf_counter()
            self._popen = subprocess.Popen(
                launch.argv,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
        self.pid = self._popen.pid
        try:
            for port in launch.ports or (place.port,):
                self._wait_for(port, started + START_DEADLINE)
        except RuntimeError:
            self.stop()
            raise
        self.seconds = time.perf_counter() - started

    def _wait_for(self, port: int, deadline: float) -> None:
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            if self._popen.poll() is not None or time.perf_counter() > deadline:
                said = self._errors.read_text(errors="replace").strip().splitlines()
                raise RuntimeError(
                    f"{self.target.name} does not listen on {port}: {said[-1] if said else ''}"
                )
            time.sleep(0.0005)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def cpu(self) -> float:
        """CPU seconds used so far by the process and its descendants, ended ones included."""
        for pid in machine.family(self.pid):
            self._used[pid] = max(self._used.get(pid, 0.0), machine.cpu_clock(pid))
        return sum(self._used.values())

    def stop(self) -> None:
        """Ask it to end, then make it."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(2)
        self._popen.wait()
