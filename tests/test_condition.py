"""The debounced state: each rule by itself, then all of them against a simple model."""

from __future__ import annotations

import copy
import random
from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bifrost_lite.condition import DOWN, SUSPECT, UP, WAITING, Condition

WHY = "The target did not answer in time."


class Subject(Condition):
    """A condition that notes what it told."""

    __slots__ = ("told",)

    def __init__(self, **keys: object) -> None:
        self.told: list[str] = []
        super().__init__(lambda condition: self.told.append(condition.state), **keys)


def checked(**keys: object) -> Subject:
    return Subject(watched=True, **keys)


def passive(**keys: object) -> Subject:
    return Subject(watched=True, passive=True, **keys)


def fail(condition: Condition, targets: str, now: float = 1.0) -> None:
    """Client dials to targets of one letter each fail; a dot is one that works."""
    for target in targets:
        if target == ".":
            condition.dial_worked(now)
        else:
            condition.dial_failed(WHY, f"{target}.example:443", now)


def check(condition: Condition, results: str, now: float = 1.0) -> None:
    """Checks fail (F) and pass (P)."""
    for result in results:
        if result == "F":
            condition.check_failed(WHY, now)
        else:
            condition.check_passed(now)


# Nobody looks.


def test_the_start() -> None:
    condition = Subject()
    assert (condition.state, condition.usable, condition.reason) == (UP, True, "not checked")
    assert not condition.uneasy


def test_unwatched_nothing_counts() -> None:
    condition = Subject()
    fail(condition, "abcdef....")
    check(condition, "FFFFFPPPP")
    condition.tick(1e9)
    assert (condition.told, condition.due(), condition.reason) == ([], None, "not checked")


def test_unwatched_it_waits_for_its_device_all_the_same() -> None:
    condition = Subject()
    condition.absent("There is no wg0.", 5.0)
    assert (condition.state, condition.reason, condition.since) == (WAITING, "There is no wg0.", 5.0)
    assert not condition.usable
    condition.present(7.0)
    assert (condition.state, condition.since) == (UP, 7.0)
    assert condition.told == [WAITING, UP]


# Checks.


def test_the_first_success_is_no_change() -> None:
    condition = checked()
    check(condition, "PPP")
    assert (condition.told, condition.reason, condition.since) == ([], "Its checks succeed.", 0.0)


def test_suspect_before_down() -> None:
    condition = checked(fall=3)
    check(condition, "F", 1.0)
    assert (condition.state, condition.usable) == (SUSPECT, True)
    assert condition.reason == "A check failed. The target did not answer in time."
    check(condition, "F", 2.0)
    assert condition.since == 1.0
    check(condition, "F", 3.0)
    assert (condition.state, condition.usable, condition.since) == (DOWN, False, 3.0)
    assert condition.reason == "3 checks in a row failed. The target did not answer in time."
    check(condition, "FFF", 4.0)
    assert (condition.told, condition.since) == ([SUSPECT, DOWN], 3.0)


def test_failures_must_be_in_a_row() -> None:
    condition = checked(fall=3)
    check(condition, "FFPFFPFFPFF")
    assert condition.told == [SUSPECT]


def test_successes_must_be_in_a_row() -> None:
    condition = checked(fall=4, rise=2)
    check(condition, "FPFPF")
    assert condition.told == [SUSPECT]
    check(condition, "PP")
    assert condition.told == [SUSPECT, UP]
    assert condition.reason == "2 checks in a row succeeded."


def test_one_failure_can_be_enough() -> None:
    condition = checked(fall=1, rise=1, hold_down=0.0)
    check(condition, "F")
    assert (condition.told, condition.reason) == ([DOWN], f"A check failed. {WHY}")
    check(condition, "P")
    assert (condition.told, condition.reason) == ([DOWN, UP], "A check succeeded.")


def test_it_stays_down_for_a_while() -> None:
    condition = checked(fall=1, rise=2, hold_down=30.0)
    check(condition, "F", 100.0)
    assert condition.due() is None
    check(condition, "P", 110.0)
    assert (condition.due(), condition.deciding) == (None, True)
    check(condition, "PP", 129.9)
    assert (condition.state, condition.due(), condition.deciding) == (DOWN, 130.0, False)
    condition.tick(129.99)
    assert condition.state == DOWN
    condition.tick(130.0)
    assert (condition.state, condition.reason) == (UP, "3 checks in a row succeeded.")
    assert condition.told == [DOWN, UP]


def test_a_failure_while_down_breaks_the_row() -> None:
    condition = checked(fall=1, rise=2, hold_down=30.0)
    check(condition, "FPPF", 100.0)
    assert condition.due() is None
    check(condition, "P", 200.0)
    assert condition.state == DOWN
    check(condition, "P", 200.0)
    assert condition.told == [DOWN, UP]


def test_where_checks_judge_a_dial_only_makes_it_suspect() -> None:
    condition = checked(fall=2)
    fail(condition, "abcdefgh")
    assert condition.told == [SUSPECT]
    assert condition.reason == "A connection failed. The target did not answer in time."
    assert not condition.uneasy
    fail(condition, "....")
    assert condition.told == [SUSPECT]
    check(condition, "F")
    assert condition.told == [SUSPECT]
    check(condition, "F")
    assert condition.told == [SUSPECT, DOWN]


def test_where_checks_judge_a_dead_site_is_told_once() -> None:
    condition = checked(rise=1)
    fail(condition, "a")
    check(condition, "P")
    fail(condition, "aaa")
    assert condition.told == [SUSPECT, UP]
    fail(condition, "b")
    check(condition, "P")
    fail(condition, "a")
    assert condition.told == [SUSPECT, UP] * 2 + [SUSPECT]


def test_a_site_is_innocent_when_the_way_was_down() -> None:
    condition = checked(fall=1, rise=1, hold_down=0.0)
    fail(condition, "a")
    check(condition, "FP")
    fail(condition, "a")
    assert condition.told == [SUSPECT, DOWN, UP, SUSPECT]


# Without checks.


def test_passive_different_targets_bring_it_down() -> None:
    condition = passive(fall=3)
    fail(condition, "aab", 1.0)
    assert condition.told == [SUSPECT]
    fail(condition, "abc", 2.0)
    assert (condition.told, condition.since) == ([SUSPECT, DOWN], 2.0)
    assert condition.reason == f"3 connections in a row failed. {WHY}"


def test_passive_one_dead_site_does_not() -> None:
    condition = passive(fall=2)
    fail(condition, "a" * 100)
    assert condition.told == [SUSPECT]


def test_passive_one_dead_site_among_others_is_told_once() -> None:
    condition = passive(fall=2, rise=2)
    fail(condition, "a.a.a..a.a..aaa")
    assert condition.told == [SUSPECT, UP]


def test_passive_a_known_dead_site_counts_when_others_fail() -> None:
    condition = passive(fall=3, rise=1)
    fail(condition, "a.")
    fail(condition, "bac")
    assert condition.told == [SUSPECT, UP, SUSPECT, DOWN]


def test_passive_a_success_breaks_the_row() -> None:
    condition = passive(fall=3, rise=2)
    fail(condition, "ab.cd.ef.gh")
    assert condition.told == [SUSPECT]
    fail(condition, "..")
    assert (condition.told, condition.reason) == ([SUSPECT, UP], "2 connections in a row succeeded.")


def test_passive_one_site_counts_each_time_that_another_way_reached_it() -> None:
    condition = passive(fall=3)
    for now in (1.0, 2.0, 3.0):
        fail(condition, "a", now)
        condition.outdone("a.example:443")
    assert condition.told == [SUSPECT, DOWN]


def test_where_checks_judge_a_site_that_another_way_reached_is_told_again() -> None:
    condition = checked(rise=1)
    for _ in range(2):
        fail(condition, "a")
        condition.outdone("a.example:443")
        condition.check_passed(1.0)
    assert condition.told == [SUSPECT, UP, SUSPECT, UP]


def test_passive_it_is_tried_again() -> None:
    condition = passive(fall=2, rise=2, hold_down=30.0)
    fail(condition, "ab", 100.0)
    assert condition.due() == 130.0
    fail(condition, "..cd", 120.0)  # somebody names it directly
    condition.tick(129.0)
    assert condition.told == [SUSPECT, DOWN]
    condition.tick(130.0)
    assert (condition.state, condition.since, condition.due()) == (SUSPECT, 130.0, None)
    assert condition.reason == "It was down for 30 s and is tried again."
    fail(condition, "..", 131.0)
    assert condition.told == [SUSPECT, DOWN, SUSPECT, UP]
    fail(condition, "a", 132.0)
    assert condition.state == SUSPECT  # no trial any more


def test_passive_one_failure_of_the_trial_is_enough() -> None:
    condition = passive(fall=3, rise=2, hold_down=30.0)
    fail(condition, "abc", 100.0)
    condition.tick(140.0)
    fail(condition, ".a", 141.0)
    assert condition.told == [SUSPECT, DOWN, SUSPECT, DOWN]
    assert condition.reason == f"It was tried again, and a connection failed. {WHY}"
    assert condition.due() == 171.0


def test_passive_checks_are_none_of_its_business() -> None:
    condition = passive(fall=1)
    check(condition, "FFFPPP")
    assert condition.told == []


# Devices.


@pytest.mark.parametrize("make", [checked, passive])
@pytest.mark.parametrize("before", [UP, SUSPECT, DOWN])
def test_a_device_that_comes_back_is_tried(make: type[Subject], before: str) -> None:
    condition = make(fall=2, hold_down=30.0)
    count = [UP, SUSPECT, DOWN].index(before)
    fail(condition, "ab"[:count])
    check(condition, "FF"[:count])
    assert condition.state == before
    condition.told.clear()
    condition.absent("There is no wg0.", 2.0)
    condition.absent("There is no wg0.", 3.0)
    fail(condition, "cd..")
    check(condition, "FFPP")
    condition.tick(100.0)
    assert (condition.told, condition.since, condition.due()) == ([WAITING], 2.0, None)
    condition.present(200.0)
    condition.present(201.0)
    assert (condition.told, condition.since) == ([WAITING, SUSPECT], 200.0)
    assert condition.usable
    fail(condition, "a")
    check(condition, "F")
    assert condition.state == SUSPECT  # no trial: all counts begin anew
    fail(condition, "b")
    check(condition, "F")
    assert condition.state == DOWN


def test_reasons_are_sentences() -> None:
    reasons: list[str] = []
    for passive in (False, True):
        condition = Condition(
            lambda condition: reasons.append(condition.reason), watched=True, passive=passive, fall=2
        )
        condition.absent("There is no wg0.", 0.0)
        condition.present(0.0)
        for _ in range(2):
            fail(condition, "ab..c.d")
            check(condition, "FPPFF")
            condition.tick(1e6)
            fail(condition, "a")
            check(condition, "PP", 1e6)
    assert len(set(reasons)) > 8
    for reason in reasons:
        assert reason[0].isupper() or reason[0].isdigit()
        assert reason.endswith(".")
        assert not reason.endswith("..")


# What the loss of checks does.


def falls(seed: int, lost: float, checks: int, **keys: object) -> int:
    """How often it goes down under that share of lost checks, one in 60 s, four times as
    many while the state is in doubt."""
    dice = random.Random(seed)
    condition = checked(**keys)
    now = 0.0
    went: list[float] = []
    for _ in range(checks):
        now += 15.0 if condition.deciding else 60.0
        before = condition.state
        check(condition, "F" if dice.random() < lost else "P", now)
        if condition.state == DOWN != before:
            assert not went or now >= went[-1] + condition.hold_down
            went.append(now)
        condition.tick(now)
    assert no_two_alike(condition.told)
    return len(went)


def test_thirty_percent_of_lost_checks() -> None:
    """Where whole checks are lost, three in a row must be: once in 52 checks at most."""
    count = sum(falls(seed, 0.30, 1000, fall=3) for seed in range(100))
    assert 0 < count < 100_000 / 52


def test_thirty_percent_of_lost_packets() -> None:
    """Where packets are lost, TCP asks again: a check of 5 s is lost when three in a row are."""
    count = sum(falls(seed, 0.30**3, 1000, fall=3) for seed in range(100))
    assert count < 100_000 / 10_000


# Everything at once, against a model that works on the history alone.


class Model:
    """What the table of the module says, on lists of what happened."""

    def __init__(self, kind: str, fall: int, rise: int, hold: float) -> None:
        self.kind, self.fall, self.rise, self.hold = kind, fall, rise, hold
        self.state, self.since = UP, 0.0
        self.history: list[str] = []  # of this state: P, F and names of targets
        self.culprit = ""
        self.trial = False

    def become(self, state: str, now: float, trial: bool = False) -> None:
        if (self.state, state) != (UP, SUSPECT):
            self.history = []
        if state in (DOWN, WAITING):
            self.culprit = ""
        self.state, self.since, self.trial = state, now, trial

    def row(self, wanted: str = "") -> int:
        """How many at the end of the history are alike."""
        count = 0
        for what in reversed(self.history):
            if (what != wanted) if wanted else (what == "P"):
                break
            count += 1
        return count

    def dial(self, target: str, now: float) -> None:
        if self.kind == "none" or self.state not in (UP, SUSPECT):
            return
        if self.kind == "checked":
            if self.state == UP and target != self.culprit:
                self.culprit = target
                self.become(SUSPECT, now)
            return
        if self.trial:
            self.become(DOWN, now)
            return
        failed = self.history[len(self.history) - self.row() :]
        if target in failed or (not failed and target == self.culprit):
            return
        self.history.append(target)
        self.culprit = target
        self.failed(self.row(), now)

    def failed(self, row: int, now: float) -> None:
        if row >= self.fall:
            self.become(DOWN, now)
        elif self.state == UP:
            self.become(SUSPECT, now)

    def worked(self, now: float) -> None:
        if self.kind == "passive" and self.state == SUSPECT:
            self.history.append("P")
            if self.row("P") >= self.rise:
                self.become(UP, now)

    def check(self, passed: bool, now: float) -> None:
        if self.kind != "checked" or self.state == WAITING:
            return
        if self.state == UP and passed:
            return
        self.history.append("P" if passed else "F")
        if self.state != DOWN and not passed:
            self.failed(self.row("F"), now)
        self.rises(now)

    def rises(self, now: float) -> None:
        held = self.state == DOWN and now < self.since + self.hold
        if self.state in (SUSPECT, DOWN) and self.row("P") >= self.rise and not held:
            self.become(UP, now)

    def tick(self, now: float) -> None:
        if self.kind == "passive" and self.state == DOWN and now >= self.since + self.hold:
            self.become(SUSPECT, now, True)
        elif self.kind == "checked" and self.state == DOWN:
            self.rises(now)


class Machine(RuleBasedStateMachine):
    """Does the same to both."""

    @initialize(
        kind=st.sampled_from(["none", "passive", "checked"]),
        fall=st.integers(1, 4),
        rise=st.integers(1, 3),
        hold=st.sampled_from([0.0, 0.5, 30.0, 604800.0]),
    )
    def begin(self, kind: str, fall: int, rise: int, hold: float) -> None:
        self.now = 0.0
        self.failures = 0  # since it was last up or without its device
        self.model = Model(kind, fall, rise, hold)
        self.subject = Subject(
            watched=kind != "none",
            passive=kind == "passive",
            fall=fall,
            rise=rise,
            hold_down=hold,
        )

    @rule(seconds=st.sampled_from([0.0, 0.25, 1.0, 30.0, 3600.0, 1e12]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(site=st.sampled_from("abcde"))
    def dial_fails(self, site: str) -> None:
        self.failures += 1
        self.subject.dial_failed(WHY, site, self.now)
        self.model.dial(site, self.now)

    @rule()
    def dial_works(self) -> None:
        self.subject.dial_worked(self.now)
        self.model.worked(self.now)

    @rule(passed=st.booleans())
    def check(self, passed: bool) -> None:
        self.failures += not passed
        check(self.subject, "P" if passed else "F", self.now)
        self.model.check(passed, self.now)

    @rule()
    def tick(self) -> None:
        due = self.subject.due()
        before = self.subject.state
        self.subject.tick(self.now)
        self.model.tick(self.now)
        assert (self.subject.state != before) == (due is not None and due <= self.now)

    @precondition(lambda self: self.subject.due() is not None)
    @rule()
    def tick_in_time(self) -> None:
        due = self.subject.due()
        assert due is not None
        self.now = max(self.now, due)
        self.tick()

    @rule()
    def absent(self) -> None:
        if self.model.state != WAITING:
            self.model.become(WAITING, self.now)
        self.subject.absent("There is no wg0.", self.now)

    @rule()
    def present(self) -> None:
        if self.model.state == WAITING:
            self.model.become(UP if self.model.kind == "none" else SUSPECT, self.now)
        self.subject.present(self.now)

    @invariant()
    def the_same(self) -> None:
        subject, model = self.subject, self.model
        assert (subject.state, subject.since) == (model.state, model.since)
        assert subject.usable == (subject.state in (UP, SUSPECT))

    @invariant()
    def each_change_is_told_once(self) -> None:
        told = [UP, *self.subject.told]
        assert told[-1] == self.subject.state
        assert no_two_alike(told)

    @invariant()
    def never_down_with_fewer_failures(self) -> None:
        state = self.subject.state
        if state == DOWN:
            assert self.failures >= self.subject.fall
        elif state != SUSPECT:
            self.failures = 0

    @invariant()
    def uneasy_exactly_when_a_success_means_something(self) -> None:
        subject = copy.copy(self.subject)
        subject.changed = lambda condition: None
        before = picture(subject)
        subject.dial_worked(self.now)
        assert (picture(subject) != before) == before["uneasy"]


def no_two_alike(states: list[str]) -> bool:
    return all(one != other for one, other in pairwise(states))


def picture(condition: Condition) -> dict[str, object]:
    return {name: getattr(condition, name) for name in Condition.__slots__}


Machine.TestCase.settings = settings(max_examples=300, stateful_step_count=40)
TestAgainstModel = Machine.TestCase
