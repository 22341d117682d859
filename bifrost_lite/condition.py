"""The state of one backend, debounced. Pure: the clock is an argument.

    up        it works
    suspect   it failed, but not often enough to be down; or it was not usable and is tried
              again. It is used all the same.
    down      `fall` failures in a row; for `hold_down` seconds at least
    waiting   its network device is not there; nothing can be tried

    from      what happens                                        to
    up        a failure, where `fall` is over 1                   suspect
    up        a failure, where `fall` is 1                        down
    suspect   `fall` failures in a row                            down
    suspect   `rise` successes in a row                           up
    down      `rise` checks in a row passed, `hold_down` is over  up
    down      nobody checks it, `hold_down` is over               suspect, on trial
    suspect   on trial: one failure                               down
    any       its device goes away                                waiting
    waiting   its device is there                                 suspect; up where unwatched

Who judges: with checks they alone do. A client's connection that fails makes the backend
suspect, which asks for a check, and no more: one dead site proves little, and one that works
may be the only one that does. Without checks (`passive`) clients' connections do: failures
count once for each target in the row, and the target that began the last trouble begins no
other, or one dead site would have the state change for ever. Where a group reached the target
by another member right after, each failure counts.
"""

from __future__ import annotations

from collections.abc import Callable

UP, SUSPECT, DOWN, WAITING = "up", "suspect", "down", "waiting"


class Condition:
    """The state of a backend.

    Args:
        changed: told at each change of state
        watched: whether successes and failures count at all
        passive: nobody checks it, clients' connections are all there is
        fall, rise: how many in a row
        hold_down: seconds that it stays down at least

    Attributes:
        state: up, suspect, down or waiting
        reason: why, for people
        since: monotonic time in seconds of the last change
        uneasy: the success of a client's connection would change something
    """

    __slots__ = (
        "_failed", "_last", "_passed", "_row", "_trial", "changed", "fall", "hold_down",
        "passive", "reason", "rise", "since", "state", "uneasy", "watched",
    )  # fmt: skip

    def __init__(
        self,
        changed: Callable[[Condition], None],
        *,
        watched: bool = False,
        passive: bool = False,
        fall: int = 3,
        rise: int = 2,
        hold_down: float = 30.0,
    ) -> None:
        self.changed = changed
        self.watched = watched
        self.passive = passive
        self.fall = fall
        self.rise = rise
        self.hold_down = hold_down
        self.state = UP
        self.reason = "not checked"
        self.since = 0.0
        self.uneasy = False
        self._passed = 0  # successes in a row
        self._failed = 0  # failed checks in a row
        self._row: tuple[str, ...] = ()  # targets of failed connections in a row
        self._last = ""  # the last of them, kept while up
        self._trial = False

    @property
    def usable(self) -> bool:
        """Whether a group should use it."""
        return self.state in (UP, SUSPECT)

    @property
    def checked(self) -> bool:
        """Whether checks judge it."""
        return self.watched and not self.passive

    @property
    def deciding(self) -> bool:
        """Whether the next few checks are likely to change the state: they should come soon."""
        return self.state == SUSPECT or (self.state == DOWN and 0 < self._passed < self.rise)

    def dial_worked(self, now: float) -> None:
        """A client's dial through it worked; called only while `uneasy`."""
        if self.uneasy:
            self._row = ()
            self._succeeded("connection", now)

    def dial_failed(self, why: str, target: str, now: float) -> None:
        """A client's dial failed and it seems to be the way's fault.

        Args:
            why: one sentence
            target: whither; the same one again counts once
            now: a monotonic time in seconds
        """
        if not self.watched or not self.usable:
            return
        if self._trial:
            self._become(DOWN, f"It was tried again, and a connection failed. {why}", now)
            return
        if target in self._row or (target == self._last and not self._row):
            return
        if self.passive:
            self._row = (*self._row, target)
            self._last = target
            self._failed_again(len(self._row), "connection", why, now)
        elif self.state == UP:
            self._last = target
            self._become(SUSPECT, f"A connection failed. {why}", now)

    def outdone(self, target: str) -> None:
        """Another way reached the target that this one just failed to reach: it was this one's
        fault, and if it fails there again that counts again.

        Args:
            target: as for `dial_failed`
        """
        self._row = tuple("" if known == target else known for known in self._row)
        if self._last == target:
            self._last = ""

    def check_passed(self, now: float) -> None:
        """A check through it succeeded.

        Args:
            now: a monotonic time in seconds
        """
        if not self.checked or self.state == WAITING:
            return
        self._failed = 0
        if self.state == UP:
            self.reason = "Its checks succeed."
        else:
            self._succeeded("check", now)

    def check_failed(self, why: str, now: float) -> None:
        """A check through it failed.

        Args:
            why: one sentence
            now: a monotonic time in seconds
        """
        if not self.checked or self.state == WAITING:
            return
        self._passed = 0
        if self.state != DOWN:
            self._failed += 1
            self._failed_again(self._failed, "check", why, now)

    def absent(self, why: str, now: float) -> None:
        """Its device went away: wait.

        Args:
            why: one sentence
            now: a monotonic time in seconds
        """
        if self.state != WAITING:
            self._become(WAITING, why, now)
        else:
            self.reason = why

    def present(self, now: float) -> None:
        """Its device is there."""
        if self.state == WAITING:
            self._become(SUSPECT if self.watched else UP, "Its network device is there.", now)

    def due(self) -> float | None:
        """The monotonic time in seconds at which `tick` will have something to do, if any."""
        if self.state == DOWN and (self.passive or self._passed >= self.rise):
            return self.since + self.hold_down
        return None

    def tick(self, now: float) -> None:
        """Time has passed."""
        due = self.due()
        if due is None or now < due:
            return
        if self.passive:
            self._trial = True
            held = f"{self.hold_down:g} s"
            self._become(SUSPECT, f"It was down for {held} and is tried again.", now)
        else:
            self._become(UP, f"{_row(self._passed, 'check')} succeeded.", now)

    # Inside.

    def _succeeded(self, what: str, now: float) -> None:
        self._passed += 1
        held = self.state == DOWN and now < self.since + self.hold_down
        if self._passed >= self.rise and not held:
            self._become(UP, f"{_row(self._passed, what)} succeeded.", now)

    def _failed_again(self, count: int, what: str, why: str, now: float) -> None:
        self._passed = 0
        if count >= self.fall:
            self._become(DOWN, f"{_row(count, what)} failed. {why}", now)
        elif self.state == UP:
            self._become(SUSPECT, f"A {what} failed. {why}", now)

    def _become(self, state: str, reason: str, now: float) -> None:
        self.state = state
        self.reason = reason
        self.since = now
        self.uneasy = self.passive and self.watched and state == SUSPECT
        if state != SUSPECT:
            self._passed = self._failed = 0
            self._row = ()
            self._trial = False
            if state != UP:
                self._last = ""
        self.changed(self)


def _row(count: int, what: str) -> str:
    return f"A {what}" if count == 1 else f"{count} {what}s in a row"
