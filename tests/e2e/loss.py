"""Checks of two backends over a link that the kernel makes lossy, in a network namespace.

Run as a program inside the namespace; prints an event a line, and ends when the backend whose
link loses everything is down.
"""

from __future__ import annotations

import json
import subprocess
import sys

from bifrost_lite.backends.base import Backend
from bifrost_lite.backends.direct import Direct
from bifrost_lite.condition import Condition
from bifrost_lite.config import schema
from bifrost_lite.counters import Counters
from bifrost_lite.dial import Dialler
from bifrost_lite.dispatch import EpollDispatcher, Loop
from bifrost_lite.errors import Reason
from bifrost_lite.events import BackendHealth, Data
from bifrost_lite.health import Monitor
from bifrost_lite.resolve import Resolver
from bifrost_lite.way import Way
from tests.e2e.origin import Origin

DEADLINE = 30.0  # seconds after which it gives up
# Only what carries data is dropped: lost handshakes would be asked for again after a second,
# and the test would take minutes to say the same.
RULES = """
table inet loss {{
  chain input {{
    type filter hook input priority 0
    tcp dport {lossy} tcp flags & syn == 0 numgen random mod 100 < 30 counter drop
    tcp dport {dead} tcp flags & syn == 0 counter drop
  }}
}}
"""


def main() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    dispatcher = EpollDispatcher()
    loop = Loop(dispatcher)
    resolver = Resolver(dispatcher)

    def publish(kind: str, data: Data) -> None:
        assert isinstance(data, BackendHealth)
        print(json.dumps([data.name, data.state, data.reason]), flush=True)
        if (data.name, data.state) == ("dead", "down"):
            loop.stop()

    monitor = Monitor(loop, dispatcher, publish)

    def backend(name: str, health: schema.Health) -> Backend:
        condition = Condition(
            lambda condition: monitor.changed(name, condition), watched=True, fall=3
        )
        dialler = Dialler(dispatcher, resolver, allow)
        way = Way(name, "direct", dispatcher, Counters(), condition)
        return Direct(way, dialler, dialler)

    with Origin() as lossy, Origin() as dead:
        rules = RULES.format(lossy=lossy.port, dead=dead.port)
        subprocess.run(["nft", "-f", "-"], input=rules.encode(), check=True)
        backends: dict[str, Backend] = {}
        settings: list[schema.Backend] = []
        for name, origin in (("lossy", lossy), ("dead", dead)):
            # Data is sent again after 0.2, 0.6 and 1.4 s: one check in a hundred is lost.
            health = schema.Health(
                type="http", target=origin.url("/status/204"), interval=0.2, timeout=1.9, fall=3
            )
            backends[name] = backend(name, health)
            settings.append(schema.Direct(name=name, health=health))
        monitor.adopt(backends, settings)
        timer = loop.call_later(DEADLINE, loop.stop)
        loop.run_forever()
        timer.cancel()
        monitor.close()
        resolver.close()
        listing = subprocess.run(
            ["nft", "-j", "list", "ruleset"], check=True, capture_output=True
        ).stdout
        dropped = [
            part["counter"]["packets"]
            for item in json.loads(listing)["nftables"]
            for part in item.get("rule", {}).get("expr", ())
            if "counter" in part
        ]
        print(json.dumps(["passed", len(lossy.seen), len(dead.seen), *dropped]), flush=True)
    loop.close()


def allow(packed: bytes, port: int) -> Reason | None:
    return None


if __name__ == "__main__":
    sys.exit(main())
