"""An hour of a network of 256 peers, in fake time: everything is told once, nothing is lost."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from itertools import count

import pytest

from bifrost_lite.events import Endpoint, MeshData
from bifrost_lite.mesh.card import Card, Change, MeshError
from bifrost_lite.mesh.registry import PEERS, Peer, Registry

HOUR, BEAT, TIMEOUT = 3600.0, 30.0, 90.0
PEOPLE = 330  # more than there is room for: some are refused, and leases reclaimed


class Hour:
    """Peers that join, crash, leave, return and change at random, and what must be told of it.

    The clock jumps from one thing to the next: a peer's turn, or the one timer of the expiry.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.told: list[tuple[str, str]] = []
        self.expected: list[tuple[str, str]] = []
        self.history: list[tuple[str, str]] = []
        numbers = count()
        self.wakes = self.changes = self.beats = self.refused = self.proofs = 0
        self.unproven: set[str] = set()  # who has not used the token yet
        self.registry = Registry(TIMEOUT, lambda: f"token-{next(numbers)}", self.changed)
        self.network = self.registry.create("home", "", "10.100.0.0/16", 0.0, self.tell)
        self.tokens: dict[str, str] = {}
        self.cards: dict[str, Card] = {}  # of who is present
        self.seen: dict[str, float] = {}
        self.leases: dict[str, str] = {}
        self.gone: list[str] = []
        self.turns: list[tuple[float, int, str, int]] = []
        self.life: Counter[str] = Counter()  # a turn of an earlier life is none
        self.order = count()
        self.timer: float | None = None

    def tell(self, type: str, data: MeshData) -> None:
        self.told.append((type.removeprefix("peer."), data.peer_id))

    def changed(self) -> None:
        self.changes += 1

    # The clock.

    def run(self) -> None:
        for number in range(PEOPLE):
            self.later(self.random.uniform(0, 600), f"p{number}")
        while True:
            turn = self.turns[0][0]
            if self.timer is not None and self.timer <= turn:
                self.now, self.timer = self.timer, None
                self.wakes += 1
                self.expire()
            elif turn > HOUR:
                return
            else:
                self.now, _, id, life = heapq.heappop(self.turns)
                if life == self.life[id]:
                    self.act(id)
            due = self.registry.due()
            self.timer = None if due is None else self.timer or due
            assert self.told == self.expected
            assert self.network.present.keys() == self.cards.keys()
            self.history += self.told
            self.told, self.expected = [], []

    def later(self, seconds: float, id: str) -> None:
        heapq.heappush(self.turns, (self.now + seconds, next(self.order), id, self.life[id]))

    def away(self, id: str) -> None:
        """No more turns but one, some time later."""
        self.life[id] += 1
        self.later(self.random.uniform(10, 900), id)

    # What happens.

    def expire(self) -> None:
        late = [id for id, seen in self.seen.items() if seen + TIMEOUT <= self.now]
        self.registry.expire(self.now)
        for id in late:
            self.has_left(id)

    def has_left(self, id: str) -> None:
        self.expected.append(("left", id))
        del self.cards[id], self.seen[id]
        self.unproven.discard(id)
        self.gone.append(id)

    def proves(self, id: str) -> None:
        self.proofs += id in self.unproven
        self.unproven.discard(id)

    def act(self, id: str) -> None:
        if id not in self.cards:
            self.register(id)
            return
        peer = self.network.present[id]
        choice = self.random.random()
        if choice < 0.01:  # it crashes: nothing more is heard of it
            self.away(id)
            return
        if choice < 0.015:  # it says that it leaves
            self.registry.remove(self.network, id)
            del self.tokens[id]
            self.has_left(id)
            self.away(id)
            return
        if choice < 0.05:
            self.change(id, peer)
        elif choice < 0.07:
            self.register(id)
            return
        self.registry.heard(self.network, peer, self.now)
        self.proves(id)
        self.beats += 1
        self.seen.pop(id)
        self.seen[id] = self.now
        self.later(BEAT, id)

    def register(self, id: str) -> None:
        port = self.random.choice((51820, 51821))
        card = Card(id, f"name of {id}", endpoints=(Endpoint("192.168.1.100", port, "lan"),))
        try:
            peer, token = self.registry.register(
                self.network, card, self.now, self.tokens.get(id, ""), False
            )
        except MeshError as error:
            assert error.word == "too_many_peers"
            assert len(self.cards) == PEERS
            self.refused += 1
            self.away(id)
            return
        if id not in self.cards:
            self.expected.append(("joined", id))
            if id in self.gone:
                self.gone.remove(id)
            elif len(self.leases) == PEERS:
                forgotten = self.gone.pop(0)  # who was gone longest
                del self.leases[forgotten]
                self.tokens.pop(forgotten, None)
        elif card != self.cards[id]:
            self.expected.append(("updated", id))
        if token:
            self.tokens[id] = token
            self.unproven.add(id)
        else:
            self.proves(id)
        assert self.leases.setdefault(id, peer.virtual_ip) == peer.virtual_ip
        self.cards[id] = card
        self.seen.pop(id, None)
        self.seen[id] = self.now
        self.later(BEAT, id)

    def change(self, id: str, peer: Peer) -> None:
        name = self.random.choice((self.cards[id].name, f"{id} again"))
        self.registry.change(self.network, peer, Change(name=name))
        if name != self.cards[id].name:
            self.expected.append(("updated", id))
            self.cards[id] = self.network.present[id].card


@pytest.mark.parametrize("seed", range(3))
def test_an_hour(seed: int) -> None:
    hour = Hour(seed)
    hour.run()
    counts = Counter(kind for kind, _ in hour.history)
    assert hour.beats > 20_000
    assert min(counts[kind] for kind in ("joined", "left", "updated")) > 300
    assert hour.refused  # the network was full
    # Who is present joined once more than it left, and nobody else did.
    balance = Counter(id for kind, id in hour.history if kind == "joined")
    balance.subtract(id for kind, id in hour.history if kind == "left")
    assert {id for id, number in balance.items() if number} == set(hour.cards)
    assert set(balance.values()) <= {0, 1}
    # No address is lost, and none is with two.
    addresses = [peer.virtual_ip for peer in hour.network.present.values()]
    addresses += [peer.virtual_ip for peer in hour.network.gone.values()]
    assert len(set(addresses)) == len(addresses) == len(hour.network.pool) == PEERS
    assert hour.network.pool._mark - hour.network.pool._first == PEERS
    # A heartbeat neither wakes the timer nor, unless it is the first use of a token, is a change
    # that is written: there are some wakes for who left, and one in the time that a peer may be
    # silent for all others.
    assert hour.wakes <= counts["left"] + HOUR / (TIMEOUT - BEAT)
    assert hour.changes == len(hour.history) + hour.proofs + 1


def test_an_hour_in_which_nothing_happens() -> None:
    """256 peers with 30,720 heartbeats wake the daemon once a minute, and write nothing."""
    hour = Hour(0)
    cards = [Card(f"p{number}") for number in range(PEERS)]
    peers = [hour.registry.register(hour.network, card, 0.0, "", True)[0] for card in cards]
    changes, wakes, due = hour.changes, 0, hour.registry.due()
    for beat in range(1, int(HOUR / BEAT) + 1):
        for number, peer in enumerate(peers):
            now = beat * BEAT + number * BEAT / PEERS
            while due is not None and due <= now:
                wakes += 1
                hour.registry.expire(due)
                due = hour.registry.due()
            hour.registry.heard(hour.network, peer, now)
    assert wakes <= HOUR / (TIMEOUT - BEAT)
    assert hour.changes == changes
    assert len(hour.network.present) == PEERS
