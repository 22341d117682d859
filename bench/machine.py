"""What the benchmark asks of Linux: a network of its own, cores, clocks, memory."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import resource
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_TICKS = os.sysconf("SC_CLK_TCK")

WINDOW = 0.2  # seconds of looking whether the machine is quiet
QUIET = 0.12  # busy share of one core that still counts as quiet


def enter_namespace() -> bool:
    """Move this process into a network namespace of its own with only loopback.

    Nothing else then uses its ports, and no firewall rule or tracked connection slows it.

    Returns:
        False where that is not allowed (it takes root)
    """
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) != 0:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0)
        name, flags = struct.unpack("16sh14x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", name, flags | _IFF_UP))
    # More local ports, so that a relay with one destination does not wait for TIME_WAIT.
    with contextlib.suppress(OSError):
        Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("10240 65535")
    return True


def raise_file_limit() -> int:
    """Allow as many descriptors as this user may have; proxies inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def free_block(count: int) -> int:
    """The first of `count` consecutive TCP ports on loopback that are free now.

    Below the ephemeral range, where no outgoing connection can take them.
    """
    for base in range(9000, 10200 - count, count):
        with contextlib.ExitStack() as stack:
            try:
                for port in range(base, base + count):
                    probe = stack.enter_context(socket.socket())
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return base
    raise RuntimeError(f"no {count} free ports between 9000 and 10200")


@dataclass(frozen=True)
class Cores:
    """One core for the proxy and one for the load; None where there is only one."""

    proxy: int | None
    load: int | None

    @classmethod
    def choose(cls) -> Cores:
        """The first two cores that this process may use."""
        cores = sorted(os.sched_getaffinity(0))
        return cls(cores[0], cores[1]) if len(cores) > 1 else cls(None, None)


@contextlib.contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Processes started in here run on `core` alone."""
    before = os.sched_getaffinity(0)
    if core is not None:
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def busy() -> float:
    """Seconds that all cores together were not idle since boot, stolen time included."""
    with open("/proc/stat") as stat:
        ticks = [int(word) for word in stat.readline().split()[1:]]
    return (sum(ticks[:8]) - ticks[3] - ticks[4]) / _TICKS


def wait_quiet(patience: float) -> bool:
    """Wait until the machine does nothing else, or `patience` seconds are over."""
    end = time.monotonic() + patience
    while True:
        before, started = busy(), time.monotonic()
        time.sleep(WINDOW)
        now = time.monotonic()
        if (busy() - before) / (now - started) < QUIET:
            return True
        if now > end:
            return False


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    pids = [pid]
    for parent in pids:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{parent}/task"):
                children = Path(f"/proc/{parent}/task/{task}/children").read_text()
                pids += [int(child) for child in children.split()]
    return pids


def cpu_clock(pid: int) -> float:
    """CPU seconds of a process, to the nanosecond, ended threads included; 0 if it is gone."""
    try:
        return time.clock_gettime((~pid << 3) | 2)  # CPUCLOCK_SCHED of clock_getcpuclockid(3)
    except OSError:
        return 0.0


def user_and_system(pid: int) -> tuple[float, float]:
    """CPU seconds of a family in user and system mode, by the tick (10 ms)."""
    user = system = 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{member}/stat").read_text().rsplit(") ", 1)[1].split()
            user, system = user + int(fields[11]), system + int(fields[12])
    return user / _TICKS, system / _TICKS


@dataclass(frozen=True)
class Memory:
    """Memory of a family of processes in KiB.

    Attributes:
        rss: resident, what `ps` shows
        pss: resident, pages shared with others counted in part; it changes when others come and go
        anonymous: resident and backed by no file: heap and stacks
    """

    rss: int = 0
    pss: int = 0
    anonymous: int = 0


def memory(pid: int) -> Memory:
    """The memory of a process and its descendants."""
    sums = {"Rss:": 0, "Pss:": 0, "Anonymous:": 0}
    for member in family(pid):
        with contextlib.suppress(OSError), open(f"/proc/{member}/smaps_rollup") as rollup:
            for line in rollup:
                name, _, rest = line.partition(" ")
                if name in sums:
                    sums[name] += int(rest.split()[0])
    return Memory(*sums.values())


def context_switches(pid: int) -> int:
    """Context switches, voluntary or not, of all threads of a family."""
    total = 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{member}/task"):
                status = Path(f"/proc/{member}/task/{task}/status").read_text()
                total += sum(
                    int(line.split()[1]) for line in status.splitlines() if "ctxt_switches" in line
                )
    return total
