"""Hashes of passwords: PBKDF2 with HMAC-SHA-256 (RFC 8018 section 5.2), without OpenSSL.

A hash is one text, ``pbkdf2-sha256$ITERATIONS$SALT$KEY``: a decimal number, then 16 and 32
bytes in lower-case hexadecimal. The key is one block of PBKDF2, so there is nothing in it
that whoever guesses could leave out.

There is no C implementation of the whole on a slim router, and one in Python takes long: it
can be computed step by step. How long depends on the machine, so each count is made for one
(`calibrate`), and whoever takes a count from elsewhere asks first (`too_costly`).
"""

from __future__ import annotations

import re
from _operator import _compare_digest
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from .sha256 import sha256

if TYPE_CHECKING:
    from .config.schema import User

Clock = Callable[[], float]

SALT_SIZE = 16  # bytes, as NIST SP 800-132 section 5.1 asks for
# Iterations. RFC 8018 section 4.2 asks for 1,000 at least, which the slowest router does in a
# tenth of a second; no machine does 99,999,999 in the time that one may take.
LEAST, MOST = 1_000, 99_999_999
COSTLY = 2.0  # seconds of one hash from which on a machine is too slow for it
# Bytes of a password; RFC 1929 has one byte for the length.
PASSWORD_LIMIT = 255

_BLOCK = 64  # bytes that SHA-256 works on
_INNER, _OUTER = (bytes(byte ^ pad for byte in range(256)) for pad in (0x36, 0x5C))
_hash_re = re.compile(
    r"pbkdf2-sha256\$([1-9][0-9]{3,7})\$([0-9a-f]{32})\$([0-9a-f]{64})"
).fullmatch


class Derivation:
    """A key on its way from a password, RFC 8018 section 5.2.

    Args:
        password: any bytes
        salt: any bytes
        iterations: how often to go round

    Attributes:
        left: iterations to do
    """

    __slots__ = ("_inner", "_last", "_outer", "_sum", "left")

    def __init__(self, password: bytes, salt: bytes, iterations: int) -> None:
        # HMAC's two states after the key, RFC 2104 section 4; each iteration goes on from them.
        key = password if len(password) <= _BLOCK else sha256(password).digest()
        key = key.ljust(_BLOCK, b"\0")
        self._inner = sha256(key.translate(_INNER))
        self._outer = sha256(key.translate(_OUTER))
        self._last = salt + b"\0\0\0\1"
        self._sum = 0
        self.left = iterations

    def step(self, count: int) -> int:
        """Do `count` iterations, or those that are left; answers how many."""
        inner, outer, number = self._inner.copy, self._outer.copy, int.from_bytes
        last, total = self._last, self._sum
        count = min(count, self.left)
        for _ in range(count):
            state = inner()
            state.update(last)
            last = state.digest()
            state = outer()
            state.update(last)
            last = state.digest()
            total ^= number(last, "big")
        self._last, self._sum = last, total
        self.left -= count
        return count

    @property
    def key(self) -> bytes:
        """The 32 bytes that come of it, when nothing is left."""
        return self._sum.to_bytes(32, "big")


class Hash(NamedTuple):
    """A stored hash.

    Attributes:
        iterations: LEAST to MOST
        salt: 16 bytes
        key: 32 bytes
    """

    iterations: int
    salt: bytes
    key: bytes

    def __str__(self) -> str:
        return f"pbkdf2-sha256${self.iterations}${self.salt.hex()}${self.key.hex()}"

    def derive(self, password: bytes) -> Derivation:
        """Begin to compute the key of `password` as this one was."""
        return Derivation(password, self.salt, self.iterations)

    def matches(self, derivation: Derivation) -> bool:
        """Whether a derivation that is done came from the same password."""
        return _compare_digest(derivation.key, self.key)


def parse(text: str) -> Hash:
    """Read a hash.

    Raises:
        ValueError: it is none; the rest of a sentence that begins with "got X, "
    """
    found = _hash_re(text)
    if found is None:
        raise ValueError("expected what `bifrost-lite passwd` prints: pbkdf2-sha256$...")
    return Hash(int(found[1]), bytes.fromhex(found[2]), bytes.fromhex(found[3]))


def make(password: bytes, salt: bytes, iterations: int) -> Hash:
    """Hash a password, in one go.

    Args:
        password: 1 to PASSWORD_LIMIT bytes
        salt: SALT_SIZE random bytes
        iterations: LEAST to MOST
    """
    derivation = Derivation(password, salt, iterations)
    derivation.step(iterations)
    return Hash(iterations, salt, derivation.key)


def _pace(clock: Clock) -> float:
    """Seconds of one iteration on this machine when nothing disturbs it."""
    derivation = Derivation(b"password", bytes(SALT_SIZE), MOST)

    def timed() -> float:
        begun = clock()
        derivation.step(count)
        return clock() - begun

    count = 16
    while timed() < 0.001 and count < 1 << 16:  # long enough to be told from the clock's grain
        count *= 2
    return max(min(timed() for _ in range(5)) / count, 1e-9)


def calibrate(clock: Clock, seconds: float = 0.1) -> int:
    """How many iterations to use, so that one hash takes about `seconds` here.

    Args:
        clock: tells the time in seconds; best that of the thread (`time.thread_time`), which
            stands still while others run
        seconds: that a hash should take

    Returns:
        a number of two digits and zeros, within LEAST and MOST
    """
    count = int(seconds / _pace(clock))
    zeros = max(0, len(str(count)) - 2)
    return min(max(LEAST, int(str(count)[:2] + "0" * zeros)), MOST)


def cost(iterations: int, clock: Clock) -> float:
    """Seconds that one hash takes here, about; measured in a few milliseconds."""
    return iterations * _pace(clock)


def too_costly(users: Iterable[User], clock: Clock) -> list[tuple[int, float]]:
    """Those whose hash takes longer here than COSTLY.

    Args:
        users: with hashes that `parse` takes, or none
        clock: as for `calibrate`

    Returns:
        the index of each, and the seconds
    """
    counts = {
        index: parse(user.password_hash).iterations
        for index, user in enumerate(users)
        if user.password_hash
    }
    if not counts:
        return []
    pace = _pace(clock)
    return [(index, count * pace) for index, count in counts.items() if count * pace > COSTLY]
