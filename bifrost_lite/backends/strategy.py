"""In which order a group tries its members, known here by their numbers in the list.

A strategy is asked for the whole order, which changes nothing, and told when a dial begins
with the first of it, which may.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..sha256 import sha256


class Failover:
    """In the order of the list."""

    __slots__ = ()

    def order(self, members: Sequence[int], client: bytes) -> Sequence[int]:
        """The order in which to try `members`.

        Args:
            members: those that come into question, ascending
            client: the address of whom the connection is for, 4 or 16 bytes
        """
        return members

    def begun(self, members: Sequence[int], first: int) -> None:
        """A dial begins with `first`, which of `members` was at the head of the order."""


class RoundRobin(Failover):
    """All in turn."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = 0

    def order(self, members: Sequence[int], client: bytes) -> Sequence[int]:
        turn = self._next
        return [m for m in members if m >= turn] + [m for m in members if m < turn]

    def begun(self, members: Sequence[int], first: int) -> None:
        self._next = first + 1


class LeastConn(Failover):
    """The least busy first; of equals the first in the list.

    Args:
        load: how many connections a member carries, those being made included
    """

    __slots__ = ("_load",)

    def __init__(self, load: Callable[[int], int]) -> None:
        self._load = load

    def order(self, members: Sequence[int], client: bytes) -> Sequence[int]:
        return sorted(members, key=self._load)


class IpHash(Failover):
    """Each client has its own order, the same for good (rendezvous hashing): a member that
    goes away moves its own clients, evenly over the others, and nobody else's.

    Args:
        names: of the members; what a client gets depends on the names, not on their places
    """

    __slots__ = ("_names",)

    def __init__(self, names: Sequence[str]) -> None:
        # A NUL is in no name, so no two pairs of name and client are the same bytes.
        self._names = [name.encode() + b"\0" for name in names]

    def order(self, members: Sequence[int], client: bytes) -> Sequence[int]:
        names = self._names

        def rank(member: int) -> bytes:
            digest: bytes = sha256(names[member] + client).digest()
            return digest

        return sorted(members, key=rank)


class Weighted(Failover):
    """Each as often as its weight says, spread as evenly as can be: before each choice every
    member gains its weight, the richest is chosen and pays what all have gained (the "smooth
    weighted round robin" of nginx).

    Args:
        weights: one for each member
    """

    __slots__ = ("_credit", "_weights")

    def __init__(self, weights: Sequence[int]) -> None:
        self._weights = weights
        self._credit = [0] * len(weights)

    def order(self, members: Sequence[int], client: bytes) -> Sequence[int]:
        weights, credit = self._weights, self._credit
        return sorted(members, key=lambda member: -credit[member] - weights[member])

    def begun(self, members: Sequence[int], first: int) -> None:
        weights, credit = self._weights, self._credit
        for member in members:
            credit[member] += weights[member]
            credit[first] -= weights[member]


def make_strategy(
    name: str, names: Sequence[str], weights: Sequence[int], load: Callable[[int], int]
) -> Failover:
    """The strategy of a group.

    Args:
        name: failover, round_robin, least_conn, ip_hash or weighted
        names: of the members
        weights: of the members, for `weighted`
        load: see `LeastConn`
    """
    if name == "round_robin":
        return RoundRobin()
    if name == "least_conn":
        return LeastConn(load)
    if name == "ip_hash":
        return IpHash(names)
    if name == "weighted":
        return Weighted(weights)
    return Failover()
