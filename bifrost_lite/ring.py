"""A bounded memory of numbered things: the newest stay, and what was forgotten is known."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Generic, TypeVar

T = TypeVar("T")


class Ring(Generic[T]):
    """The last `limit` items, numbered from 1 for the life of the process.

    Args:
        limit: how many items are kept; 0 keeps none, and numbers go on all the same

    Attributes:
        last: number of the newest item ever appended, 0 before the first
    """

    __slots__ = ("_items", "last")

    def __init__(self, limit: int) -> None:
        self._items: deque[T] = deque(maxlen=limit)
        self.last = 0

    def __len__(self) -> int:
        return len(self._items)

    @property
    def limit(self) -> int:
        """How many items are kept at most."""
        return self._items.maxlen or 0

    def append(self, item: T) -> int:
        """Keep `item`, forgetting the oldest one where there is no room; answers its number."""
        self.last += 1
        self._items.append(item)
        return self.last

    def since(self, number: int) -> tuple[int, list[tuple[int, T]]]:
        """What came after item `number`.

        Returns:
            how many of those are forgotten, and the others with their numbers, oldest first
        """
        wanted = max(0, self.last - number)
        kept = min(wanted, len(self._items))
        return wanted - kept, self.tail(kept)

    def tail(self, count: int) -> list[tuple[int, T]]:
        """The newest `count` items with their numbers, oldest first."""
        count = min(count, len(self._items))
        newest = islice(self._items, len(self._items) - count, None)
        return list(enumerate(newest, self.last - count + 1))

    def newest_first(self) -> list[T]:
        """All items, the newest first."""
        return list(reversed(self._items))

    def resize(self, limit: int) -> None:
        """Keep at most `limit` items from now on; the newest stay."""
        self._items = deque(self._items, limit)

    def clear(self) -> int:
        """Forget all items; numbers go on. Answers how many there were."""
        count = len(self._items)
        self._items.clear()
        return count
