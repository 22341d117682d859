"""How fast routes are found: `python -m bench --only routes`.

A fresh interpreter asks a router of one route for names, half of which it has: with 10
patterns, with 10,000, and with a list of 100,000 names. No proxy runs, and no byte moves.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from bench import machine
from bench.cases import Case, Sample

CASE = Case("routes")
DEADLINE = 60.0  # seconds for one sample

_CODE = """\
import json, sys, time
sys.path[:0] = {path!r}
from bifrost_lite.config.schema import Route
from bifrost_lite.route import Router

hosts = [f"www.host{{number}}.example" for number in range(20)]
client = bytes((127, 0, 0, 1))
values = {{}}

def measure(name, router):
    find, count = router.find, 0
    end = time.perf_counter() + {seconds}
    started = time.perf_counter()
    while time.perf_counter() < end:
        for host in hosts * 50:
            find(host, None, 443, client)
        count += len(hosts) * 50
    values[name] = count / (time.perf_counter() - started)

for name, patterns in (("few", 10), ("many", 10_000)):
    domains = tuple(f".host{{2 * number}}.example" for number in range(patterns))
    measure(name, Router([Route(name="r", domains=domains, backend="b")]))
try:
    from bifrost_lite.lists import parse
except ImportError:  # a checkout from before there were lists
    pass
else:
    lines = [b".host%d.example\\n" % (2 * number) for number in range(100_000)]
    started = time.perf_counter()
    found, faults = parse(lines)
    router = Router([Route(name="r", list="l", backend="b")], {{"r": found}})
    values["list_seconds"] = time.perf_counter() - started
    assert len(found) == len(lines) and not faults
    measure("list", router)
    values["list_cost"] = values["few"] / values["list"]
values["many_cost"] = values["few"] / values["many"]
print(json.dumps(values))
"""


def sample(
    name: str,
    checkout: Path,
    interpreter: str,
    packages: Path,
    core: int | None,
    number: int,
    seconds: float,
) -> Sample:
    """Look-ups per second of a checkout: `few`, `many`, `list`, and what they cost against few.

    Args:
        name: of the checkout
        checkout: where the package bifrost_lite is
        interpreter: the Python
        packages: where msgspec is
        core: where it runs, None for anywhere
        number: of the round
        seconds: for each figure
    """
    code = _CODE.format(path=[str(checkout), str(packages)], seconds=seconds)
    try:
        with machine.pinned(core):
            run = subprocess.run(
                [interpreter, "-I", "-S", "-c", code],
                capture_output=True,
                text=True,
                timeout=DEADLINE,
                check=True,
            )
        return Sample(CASE, name, number, json.loads(run.stdout))
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines() or ["it said nothing"]
        return Sample(CASE, name, number, failed=said[-1])
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return Sample(CASE, name, number, failed=str(error))
