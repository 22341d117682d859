"""Logging in: who waits for what, what it costs, and what of it is remembered."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest

from bifrost_lite import dispatch
from bifrost_lite.config.schema import User
from bifrost_lite.dispatch import Dispatcher, EpollDispatcher, PollDispatcher
from bifrost_lite.errors import Reason
from bifrost_lite.passwd import Derivation
from bifrost_lite.users import ANSWERS, MEMORY, REMEMBERED, SLICE, WAITING, Check, Users
from tests.dispatch_kit import End, patience
from tests.passwd_kit import Machine, hash_of
from tests.plane_kit import GRANTED, GRANTED5, Proxy, connect5, get, until

PACE = 10e-6  # seconds of one iteration
COUNT = 2000  # iterations of each hash
LIMIT = 0.002  # seconds that a slice may take
HERE, THERE = b"\xc0\xa8\x01\x07", b"\xc0\xa8\x01\x08"

Answers = list[Reason | None]


@pytest.fixture(params=[EpollDispatcher, PollDispatcher])
def dispatcher(request: pytest.FixtureRequest) -> Iterator[Dispatcher]:
    found: Dispatcher = request.param()
    yield found
    found.close()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Its time is that of the dispatcher as well."""
    machine = Machine(monkeypatch, PACE)
    monkeypatch.setattr(dispatch, "monotonic", machine.clock)
    return machine


def user(name: str, password: str, iterations: int = COUNT) -> User:
    hash = hash_of(password.encode(), iterations, salt=name.encode().ljust(16))
    return User(name=name, password_hash=str(hash))


ANNA = user("anna", "geheim")


class Door:
    """Users who log in, and what they are told.

    Args:
        dispatcher: real
        machine: sets the time
        users: those there are

    Attributes:
        told: by a label of each check
    """

    def __init__(self, dispatcher: Dispatcher, machine: Machine, *users: User) -> None:
        self.dispatcher = dispatcher
        self.machine = machine
        self.users = Users(dispatcher, users or [ANNA], machine.clock)
        self.told: dict[object, Answers] = {}
        dispatcher.select(0)
        self.begun = machine.done

    @property
    def hashes(self) -> float:
        """How many hashes were computed so far; a half is one that stopped half-way."""
        return (self.machine.done - self.begun) / COUNT

    def ask(
        self,
        label: object,
        password: str = "geheim",
        name: str = "anna",
        client: bytes = HERE,
        then: Callable[[], object] = lambda: None,
    ) -> Check | None:
        told = self.told[label] = []

        def answer(reason: Reason | None) -> None:
            told.append(reason)
            then()

        return self.users.verify(name.encode(), password.encode(), client, answer)

    def turn(self) -> None:
        self.dispatcher.select(0)

    def settle(self) -> None:
        """Go on until nothing is left to do; everybody was told once."""
        for _ in range(5_000):
            if not self.dispatcher._again:
                break
            self.turn()
        else:
            raise AssertionError("it goes on for ever")
        assert not self.users._jobs
        assert all(len(told) == 1 for told in self.told.values()), self.told

    def sleep(self, seconds: float) -> None:
        self.machine._time += seconds
        self.turn()

    def result(self, label: object, **asked: object) -> Reason | None:
        """Ask, wait, and say what came of it."""
        self.ask(label, **asked)
        self.settle()
        return self.told[label][0]


@pytest.fixture
def door(dispatcher: Dispatcher, machine: Machine) -> Door:
    return Door(dispatcher, machine)


def test_right_and_wrong(door: Door) -> None:
    assert door.result(1) is None
    assert door.result(2, password="Geheim") is Reason.AUTH_FAILED
    assert door.result(3, password="") is Reason.AUTH_FAILED
    assert door.result(4, name="Anna") is Reason.AUTH_FAILED
    assert door.result(5, name="") is Reason.AUTH_FAILED
    assert door.result(6, name="annageheim", password="") is Reason.AUTH_FAILED
    assert door.hashes == 6


def test_names_and_passwords_are_utf8(dispatcher: Dispatcher, machine: Machine) -> None:
    door = Door(dispatcher, machine, user("zoë", "p:äß€"))
    assert door.result(1, name="zoë", password="p:äß€") is None
    told: Answers = []
    door.users.verify("zoë".encode("latin-1"), b"\xff\x00", HERE, told.append)
    door.settle()
    assert told == [Reason.AUTH_FAILED]


# Turns.


def test_nothing_is_done_before_a_turn(door: Door) -> None:
    assert isinstance(door.ask(1), Check)
    assert (door.told[1], door.hashes) == ([], 0)
    door.settle()
    assert door.told[1] == [None]


@pytest.mark.parametrize("pace", [1e-6, 10e-6, 60e-6, 100e-6])
def test_slices_are_short(dispatcher: Dispatcher, machine: Machine, pace: float) -> None:
    door = Door(dispatcher, machine)
    machine.pace = pace
    machine.steps.clear()
    assert door.result(1) is None
    longest = max(machine.steps) * pace
    assert longest <= LIMIT
    assert sum(machine.steps) == COUNT
    # Not so short either that looking at all other descriptors would cost more.
    assert len(machine.steps) <= COUNT * pace / SLICE * 1.3 + 8


def test_slices_follow_the_speed_of_the_machine(door: Door) -> None:
    door.ask(1)
    for _ in range(8):
        door.turn()
    assert door.machine.steps[-1] == pytest.approx(SLICE / PACE, abs=2)
    door.machine.pace *= 8  # it throttles, or somebody else computes
    door.turn()
    for _ in range(2):
        door.turn()
        assert door.machine.steps[-1] * door.machine.pace <= LIMIT
    door.machine.pace /= 8
    door.turn()
    door.turn()
    assert door.machine.steps[-1] * door.machine.pace <= LIMIT
    door.settle()


def test_very_slow_machines_get_on(dispatcher: Dispatcher, machine: Machine) -> None:
    door = Door(dispatcher, machine)
    machine.pace = 0.01  # a single iteration is too long
    assert door.result(1) is None
    assert set(machine.steps[-COUNT + 20 :]) == {1}


def test_others_have_their_turn_between_slices(door: Door) -> None:
    end = End(door.dispatcher)
    door.ask(1)
    for turn in range(1, 6):
        end.peer.send(b"x")
        steps = len(door.machine.steps)
        door.turn()
        assert (len(end.got), len(door.machine.steps)) == (turn, steps + 1)
    door.settle()
    end.close()


def test_one_at_a_time(door: Door) -> None:
    for label in range(4):
        door.ask(label, password=f"wrong {label}")
    under_way: set[int] = set()
    while door.dispatcher._again:
        door.turn()
        begun = {
            id(job)
            for job in door.users._jobs.values()
            if 0 < job.derivation.left < COUNT
        }
        assert len(begun) <= 1
        under_way |= begun
    door.settle()
    assert len(under_way) == door.hashes == 4


def test_idle_costs_nothing(door: Door) -> None:
    assert patience(door.dispatcher) < 0, "it sleeps for ever"
    door.ask(1)
    assert patience(door.dispatcher) == 0
    door.settle()
    assert patience(door.dispatcher) < 0
    assert not door.dispatcher.deadlines


# Memory.


def test_a_browser_costs_one_hash(door: Door) -> None:
    """A hundred connections at once, then a hundred one after another."""
    for label in range(100):
        door.ask(label)
    door.settle()
    for label in range(100, 200):
        assert door.ask(label) is None
    assert door.told == {label: [None] for label in range(200)}
    assert door.hashes == 1


def test_many_are_answered_in_turns(door: Door) -> None:
    for label in range(100):
        door.ask(label)
    most = told = 0
    while door.dispatcher._again:
        door.turn()
        now = sum(map(len, door.told.values()))
        most, told = max(most, now - told), now
    assert (told, most) == (100, ANSWERS)


def test_what_is_right_is_forgotten_when_it_is_not_used(door: Door) -> None:
    assert door.result(1) is None
    for label in range(2, 5):
        door.sleep(MEMORY - 1)
        assert door.result(label) is None
    assert door.hashes == 1
    door.sleep(MEMORY + 1)
    assert door.result(9) is None
    assert door.hashes == 2


def test_only_what_is_right_is_remembered(door: Door) -> None:
    for label in range(3):
        assert door.result(label, password="wrong") is Reason.AUTH_FAILED
    assert door.hashes == 3


def test_memory_is_bounded(dispatcher: Dispatcher, machine: Machine) -> None:
    """Who was right most lately stays."""
    names = [f"u{number}" for number in range(REMEMBERED + 2)]
    hash = str(hash_of(b"x", 1000))
    door = Door(dispatcher, machine, *(User(name=name, password_hash=hash) for name in names))
    for name in names[:REMEMBERED]:
        assert door.result(name, name=name, password="x") is None
    assert door.ask("again", name=names[0], password="x") is None
    for name in names[REMEMBERED:]:
        assert door.result(name, name=name, password="x") is None
    assert len(door.users._right) == REMEMBERED
    assert door.ask(1, name=names[0], password="x") is None
    assert door.ask(2, name=names[1], password="x") is not None
    assert door.ask(3, name=names[-1], password="x") is None
    door.settle()


def test_neither_names_nor_passwords_are_kept(door: Door) -> None:
    assert door.result(1) is None
    (key,) = door.users._right
    assert len(key) == 32
    other = Users(door.dispatcher, [ANNA], door.machine.clock)
    told: Answers = []
    assert other.verify(b"anna", b"geheim", HERE, told.append) is not None
    while door.dispatcher._again:
        door.turn()
    assert told == [None]
    assert set(other._right).isdisjoint(door.users._right), "the key is not secret"


def test_name_and_password_are_not_mixed_up(dispatcher: Dispatcher, machine: Machine) -> None:
    """What was right for one name and password is not so for another cut of the same bytes."""
    door = Door(dispatcher, machine, user("ab", "c:d"))
    assert door.result(1, name="ab", password="c:d") is None
    assert door.result(2, name="abc", password=":d") is Reason.AUTH_FAILED
    assert door.result(3, name="a", password="bc:d") is Reason.AUTH_FAILED
    assert door.result(4, name="ab:c", password="d") is Reason.AUTH_FAILED


def test_closing_forgets_and_still_answers(door: Door) -> None:
    assert door.result(1) is None
    door.ask(2, password="wrong")
    door.users.close()
    door.settle()
    assert door.told[2] == [Reason.AUTH_FAILED]
    assert door.ask(3) is not None, "it is hashed again"
    door.settle()
    assert door.hashes == 3


def test_whose_hash_it_knows(dispatcher: Dispatcher) -> None:
    users = Users(dispatcher, [user("zoë", "x")])
    assert users.knows("zoë", user("zoë", "x").password_hash)
    assert not users.knows("zoë", user("zoë", "y").password_hash)
    assert not users.knows("anna", user("zoë", "x").password_hash)


# Bounds.


def test_the_queue_is_bounded(door: Door) -> None:
    for label in range(WAITING + 3):
        door.ask(label, password=f"wrong {label}", client=bytes((10, 0, 0, label)))
    busy = range(WAITING + 1, WAITING + 3)
    assert [door.told[label] for label in busy] == [[Reason.AUTH_BUSY]] * 2
    # What is waited for already takes no room, and what is remembered needs none.
    assert door.ask("same", password="wrong 3", client=THERE) is not None
    door.settle()
    assert door.hashes == WAITING + 1
    assert door.told["same"] == [Reason.AUTH_FAILED]
    assert door.result("later") is None


def test_the_full_queue_serves_those_who_are_remembered(door: Door) -> None:
    assert door.result("first") is None
    for label in range(WAITING + 2):
        door.ask(label, password=f"wrong {label}")
    assert door.told[WAITING + 1] == [Reason.AUTH_BUSY]
    assert door.ask("known") is None
    assert door.told["known"] == [None]
    door.settle()


def test_ten_wrong_ones_a_minute(door: Door) -> None:
    for label in range(10):
        assert door.result(label, password=f"wrong {label}") is Reason.AUTH_FAILED
    assert door.hashes == 10
    assert door.ask(10, password="wrong 10") is None
    assert door.ask(11) is None  # right, but to know that would cost a hash
    assert door.told[10] == door.told[11] == [Reason.AUTH_THROTTLED]
    assert door.result(12, client=THERE) is None
    assert door.result(13) is None, "it is known by now to be right"
    assert door.hashes == 11
    door.sleep(60)
    assert door.result(14, password="wrong 10") is Reason.AUTH_FAILED


def test_throttling_spares_who_is_remembered(door: Door) -> None:
    assert door.result("first") is None
    for label in range(10):
        door.ask(label, password=f"wrong {label}")
        door.settle()
    assert door.result(10, password="wrong") is Reason.AUTH_THROTTLED
    assert door.result("again") is None
    assert door.hashes == 11


def test_guesses_at_the_same_time_are_counted_as_well(door: Door) -> None:
    for label in range(8):
        door.result(label, password=f"wrong {label}")
    for label in range(8, 14):
        assert door.ask(label, password=f"wrong {label}") is not None
    assert door.ask("there", password="wrong 13", client=THERE) is not None
    door.settle()
    assert [door.told[label] for label in range(8, 14)] == [
        [Reason.AUTH_FAILED], [Reason.AUTH_FAILED], *[[Reason.AUTH_THROTTLED]] * 4,
    ]  # fmt: skip
    assert door.told["there"] == [Reason.AUTH_FAILED]
    assert door.hashes == 11


def test_a_browser_that_asks_many_times_at_once_has_guessed_once(door: Door) -> None:
    for label in range(50):
        door.ask(label, password="old password")
    door.settle()
    assert set(map(tuple, door.told.values())) == {(Reason.AUTH_FAILED,)}
    assert door.result("corrected") is None


# Who is a user must not show.


def test_nobody_costs_the_same(door: Door) -> None:
    for name in ("anna", "nobody", "", "x" * 255):
        before = door.machine.done
        assert door.result(name, name=name, password="wrong") is Reason.AUTH_FAILED
        assert door.machine.done - before == COUNT


def test_nobody_logs_in_with_the_password_of_another(door: Door) -> None:
    assert door.result(1, name="nobody") is Reason.AUTH_FAILED


def test_costs_of_unknown_names_are_those_of_users(dispatcher: Dispatcher, machine: Machine) -> None:
    """Each name costs the same each time, and all costs are found among unknown names."""
    door = Door(dispatcher, machine, user("a", "x", 1000), user("b", "x", 3000))
    costs: dict[str, set[int]] = {f"nobody{number}": set() for number in range(24)}
    for round in range(2):
        for number, (name, seen) in enumerate(costs.items()):
            before = machine.done
            client = bytes((10, 0, round, number))
            assert door.result(name, name=name, client=client) is Reason.AUTH_FAILED
            seen.add(machine.done - before)
    assert all(len(seen) == 1 for seen in costs.values())
    assert {cost for seen in costs.values() for cost in seen} == {1000, 3000}


# Leaving.


def test_leaving_the_queue_makes_room(door: Door) -> None:
    checks = [door.ask(label, password=f"wrong {label}") for label in range(WAITING + 1)]
    check = checks[5]
    assert check is not None
    check.cancel()
    check.cancel()
    assert door.told.pop(5) == []
    assert door.ask("next", password="yet another") is not None
    door.settle()
    assert door.hashes == WAITING + 1


def test_leaving_alone_is_no_way_round_the_throttle(door: Door) -> None:
    """Who breaks the connection before the answer has guessed all the same."""
    for label in range(10):
        check = door.ask(label, password=f"wrong {label}")
        door.turn()
        assert check is not None
        check.cancel()
        assert door.told.pop(label) == []
        door.settle()
    assert door.hashes == 10
    assert door.result("next", password="wrong") is Reason.AUTH_THROTTLED


def test_who_left_and_was_right_is_remembered(door: Door) -> None:
    check = door.ask(1)
    door.turn()
    assert check is not None
    check.cancel()
    del door.told[1]
    door.settle()
    assert door.ask(2) is None
    assert (door.told[2], door.hashes) == ([None], 1)


def test_one_of_many_leaves(door: Door) -> None:
    checks = [door.ask(label) for label in range(5)]
    for leaver in (0, 3):
        check = checks[leaver]
        assert check is not None
        check.cancel()
        assert door.told.pop(leaver) == []
    door.settle()
    assert door.hashes == 1


def test_an_answer_may_cancel_another(door: Door) -> None:
    checks: list[Check | None] = []

    def leave() -> None:
        for check in checks[1:3]:
            assert check is not None
            check.cancel()

    checks += [door.ask(0, then=leave), door.ask(1), door.ask(2), door.ask(3)]
    while door.dispatcher._again:
        door.turn()
    assert door.told == {0: [None], 1: [], 2: [], 3: [None]}


def test_an_answer_may_ask_again(door: Door) -> None:
    door.ask(1, password="wrong", then=lambda: door.ask(2, password="wrong"))
    door.settle()
    assert door.told == {1: [Reason.AUTH_FAILED], 2: [Reason.AUTH_FAILED]}
    assert door.hashes == 2


# Faults of our own.


class Careless:
    """Somebody whose answer cannot be given."""

    crashes = 0

    def answer(self, reason: Reason | None) -> None:
        raise ZeroDivisionError

    def crash(self) -> None:
        self.crashes += 1


def test_a_fault_of_one_is_not_that_of_another(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    careless = Careless()
    door.users.verify(b"anna", b"geheim", HERE, careless.answer)
    door.ask(1)
    with caplog.at_level(logging.ERROR):
        door.settle()
    assert door.told[1] == [None]
    assert careless.crashes == 1


def test_a_fault_in_a_turn(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(Derivation, "step", lambda derivation, count: 1 / 0)
        door.ask(1)
        door.ask(2, password="wrong")
        with caplog.at_level(logging.ERROR):
            door.settle()
    assert door.told == {1: [Reason.INTERNAL], 2: [Reason.INTERNAL]}
    assert door.result(3) is None


def test_a_fault_in_a_turn_that_nobody_waits_for(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    check = door.ask(1)
    door.turn()
    assert check is not None
    check.cancel()
    del door.told[1]
    with monkeypatch.context() as broken, caplog.at_level(logging.ERROR):
        broken.setattr(Derivation, "step", lambda derivation, count: 1 / 0)
        door.settle()
    assert door.result(2) is None


# Through a real data plane.

LOGIN5 = b"\x01\x04anna\x06geheim"
FIELD = "Proxy-Authorization: Basic YW5uYTpnZWhlaW0="  # anna:geheim
WRONG = "Proxy-Authorization: Basic YW5uYTp3cm9uZw=="  # anna:wrong


@pytest.fixture(params=[EpollDispatcher, PollDispatcher])
def proxy(request: pytest.FixtureRequest) -> Iterator[Proxy]:
    """A proxy that asks anna for her password."""
    proxy = Proxy(request.param, max_connections=200, max_per_client=200)
    proxy.plane.policy.users = Users(proxy.dispatcher, [user("anna", "geheim", 20_000)])
    with proxy:
        yield proxy


def test_a_hundred_real_connections_cost_one_hash(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, 0.0)
    origin = proxy.origin()
    heads = [
        get(f"http://{origin.authority}/", FIELD),
        f"CONNECT {origin.authority} HTTP/1.1\r\nHost: x\r\n{FIELD}\r\n\r\n".encode(),
        b"\x05\x01\x02" + LOGIN5 + connect5(origin.host, origin.port),
    ]
    clients = [proxy.connect().send(heads[number % 3]) for number in range(100)]
    for _ in clients:
        origin.accept()
    for number, client in enumerate(clients):
        if number % 3 == 1:
            assert client.head() == GRANTED
        elif number % 3 == 2:
            client.expect(b"\x05\x02\x01\x00" + GRANTED5)
    assert machine.done == 20_000


def test_what_is_sent_while_the_login_is_looked_at(proxy: Proxy) -> None:
    """Byte by byte, each in a turn of its own."""
    origin = proxy.origin()
    client = proxy.connect().send(b"\x05\x01\x02").expect(b"\x05\x02")
    client.send(LOGIN5)
    for byte in connect5(origin.host, origin.port) + b"early":
        client.send(bytes((byte,)))
    client.finish()
    target = origin.accept()
    assert target.rest() == b"early"
    target.send(b"answer").finish()
    client.expect(b"\x01\x00" + GRANTED5 + b"answer").ended()


def test_clients_that_leave_while_their_login_is_looked_at(proxy: Proxy) -> None:
    origin = proxy.origin()
    for number in range(30):
        field = FIELD if number % 2 else WRONG
        head = f"CONNECT {origin.authority} HTTP/1.1\r\nHost: x\r\n{field}\r\n\r\n"
        proxy.connect().send(head.encode()).reset()
    proxy.gone()
    proxy.settle()


def test_a_wrong_password_and_a_right_one(proxy: Proxy) -> None:
    origin = proxy.origin()
    client = proxy.connect().send(get(f"http://{origin.authority}/", WRONG))
    assert client.head().startswith(b"HTTP/1.1 407 Proxy Authentication Required\r\n")
    client = proxy.connect().send(get(f"http://{origin.authority}/", FIELD))
    target = origin.accept()
    assert b"authorization" not in target.head().lower()
    target.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert client.head().startswith(b"HTTP/1.1 200 OK\r\n")
    until(lambda: len(proxy.finished) == 2, "both are recorded")
    assert [record.error for record in proxy.finished] == ["auth_failed", ""]
