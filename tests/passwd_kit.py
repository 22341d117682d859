"""A machine whose speed a test sets: time is what was hashed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bifrost_lite import passwd
from bifrost_lite.passwd import Derivation, Hash

SALT = bytes(range(16))


class Machine:
    """Counts the iterations of all derivations and makes a clock of them.

    Args:
        monkeypatch: undoes it
        pace: seconds of one iteration, which a test may change

    Attributes:
        done: iterations so far
        steps: how many each step did
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pace: float) -> None:
        self.pace = pace
        self.done = 0
        self.steps: list[int] = []
        self._time = 1000.0
        step: Callable[[Derivation, int], int] = Derivation.step

        def counted(derivation: Derivation, count: int) -> int:
            done = step(derivation, count)
            self.done += done
            self.steps.append(done)
            self._time += done * self.pace
            return done

        monkeypatch.setattr(passwd.Derivation, "step", counted)

    def clock(self) -> float:
        """Seconds."""
        return self._time


def hash_of(password: bytes, iterations: int = 1000, salt: bytes = SALT) -> Hash:
    """A hash, as `passwd` would make it."""
    return passwd.make(password, salt, iterations)
