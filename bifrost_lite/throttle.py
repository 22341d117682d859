"""Against guessing: how many failures an address may have in a while.

Pure: the clock is an argument. Memory is bounded by `size` addresses of `limit` times each;
where more addresses fail, the one that was quiet longest is forgotten. Who has many IPv4
addresses can guess more for that, but no more than `limit` times for each of them.
"""

from __future__ import annotations


class Throttle:
    """Counts failures by address.

    Args:
        limit: failures that an address may have within `window`
        window: seconds
        size: addresses remembered
    """

    __slots__ = ("_failures", "limit", "size", "window")

    def __init__(self, limit: int = 10, window: float = 60.0, size: int = 256) -> None:
        self.limit = limit
        self.window = window
        self.size = size
        self._failures: dict[bytes, list[float]] = {}

    def __len__(self) -> int:
        return len(self._failures)

    def wait(self, packed: bytes, now: float) -> float:
        """Seconds until the address may fail again, 0.0 if it may now.

        Args:
            packed: 4 or 16 bytes of the address
            now: a monotonic time in seconds
        """
        times = self._failures.get(_key(packed), ())
        if len(times) < self.limit:
            return 0.0
        return max(0.0, times[-self.limit] + self.window - now)

    def fail(self, packed: bytes, now: float) -> float:
        """The address failed: count it, unless it has to wait; answers as `wait` did before.

        Failures while waiting do not count, so the wait ends whatever the address does.
        """
        wait = self.wait(packed, now)
        if not wait:
            key = _key(packed)
            times = self._failures.pop(key, [])
            self._failures[key] = [*times, now][-self.limit :]
            if len(self._failures) > self.size:
                del self._failures[next(iter(self._failures))]
        return wait


def _key(packed: bytes) -> bytes:
    """Who an address is: an IPv6 host has a whole /64 to fail from (RFC 4291 section 2.5.4)."""
    return packed if len(packed) == 4 else packed[:8]
