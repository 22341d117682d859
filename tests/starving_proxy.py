"""A proxy of its own process with few descriptors; see test_listener.

Prints its port, serves until its standard input ends, then prints what it counted.
"""

from __future__ import annotations

import json
import os
import resource
import sys

from bifrost_lite.dispatch import EpollDispatcher, Loop, PollDispatcher
from bifrost_lite.errors import Reason
from bifrost_lite.listener import Listener
from bifrost_lite.plane import Plane, Policy
from bifrost_lite.route import Router
from tests.plane_kit import Names, direct


class Counted(Listener):
    """A listener that counts its turns, and how often it ran out of descriptors."""

    turns = starvations = 0

    def on_accept(self, mask: int) -> None:
        self.turns += 1
        before = self.starved
        super().on_accept(mask)
        self.starvations += self.starved and not before


def main(selector: str, spare: int) -> None:
    """Serve with `spare` descriptors beside those that are open from the start."""
    dispatcher = EpollDispatcher() if selector == "epoll" else PollDispatcher()
    loop = Loop(dispatcher)
    events: list[str] = []
    backends = {"direct": direct(dispatcher, Names())}
    policy = Policy(Router(()), backends, (), (), 1000, 1000, False)
    plane = Plane(
        dispatcher, policy, lambda kind, _: events.append(kind), lambda _: None, 60.0, 600.0
    )
    listener = Counted(plane, "l0", "127.0.0.1", 0, "auto")
    limit = max(map(int, os.listdir("/proc/self/fd"))) + spare
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    print(listener.port, flush=True)
    loop.add_reader(sys.stdin.fileno(), loop.stop)
    loop.run_forever()
    loop.remove_reader(sys.stdin.fileno())
    plane.close_all(Reason.SHUTDOWN)
    counts = {
        "turns": listener.turns,
        "starvations": listener.starvations,
        "starved": listener.starved,
        "new": events.count("connection.new"),
        "close": events.count("connection.close"),
        "failures": plane.failures,
    }
    listener.close()
    loop.close()
    print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
