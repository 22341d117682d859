"""Who may use the proxy: checks of names and passwords, without holding up the loop.

To hash a password takes a tenth of a second, by design. It is done in slices of a
millisecond between which all other connections have their turn, one hash at a time, and as
seldom as can be:

- what was right lately is right again without a hash, so a browser's hundred connections cost
  one. What is remembered is a keyed digest of the credentials; it is of no use elsewhere.
- the same credentials, asked for while their hash is under way, wait for that one.
- who gave too many wrong ones is refused without a hash; one address cannot keep us busy.
- at most WAITING hashes wait for the one under way; whoever comes then is told to come back.

A name that nobody has is checked against the hash of some user, always the same one for the
same name, and is refused whatever comes of it: time does not tell which names there are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from time import monotonic

from .config.schema import User
from .dispatch import Dispatcher, crashed
from .errors import Reason
from .passwd import Derivation, Hash, parse
from .sha256 import sha256
from .throttle import Throttle

SLICE = 0.001  # seconds of hashing in one turn; half of what a turn may take
WAITING = 8  # credentials that wait for their hash
ANSWERS = 16  # checks that are answered in one turn, each of which may begin a dial
REMEMBERED = 256  # credentials that were right
MEMORY = 300.0  # seconds since their last use

# Told None where the credentials are right; AUTH_FAILED, AUTH_THROTTLED or AUTH_BUSY.
Answer = Callable[["Reason | None"], None]


class Check:
    """Somebody who waits for an answer.

    Args:
        job: computes it
        client: the address of who asked
        answer: told it
    """

    __slots__ = ("answer", "client", "job")

    def __init__(self, job: _Job, client: bytes, answer: Answer) -> None:
        self.job: _Job | None = job
        self.client = client
        self.answer = answer
        job.checks[self] = None
        job.clients.add(client)

    def cancel(self) -> None:
        """Ask for no answer any more."""
        job, self.job = self.job, None
        if job is not None:
            del job.checks[self]
            job.end_if_done()


class _Job:
    """Credentials whose hash is wanted.

    Attributes:
        jobs: all there are, by key
        key: stands for the credentials
        checks: who waits for it
        clients: the addresses of all who asked
        begun: its first slice had its turn
        verdict: what came of it, when nothing is left of the derivation
    """

    __slots__ = (
        "begun", "checks", "clients", "derivation", "hash", "jobs", "key", "known", "verdict",
    )  # fmt: skip

    def __init__(
        self, jobs: dict[bytes, _Job], key: bytes, hash: Hash, known: bool, password: bytes
    ) -> None:
        self.jobs = jobs
        self.key = key
        self.hash = hash
        self.known = known
        self.derivation: Derivation = hash.derive(password)
        self.checks: dict[Check, None] = {}
        self.clients: set[bytes] = set()
        self.begun = False
        self.verdict: Reason | None = Reason.AUTH_FAILED
        jobs[key] = self

    def end_if_done(self) -> None:
        """Make room where nobody waits; but who asks and leaves is judged for what was asked,
        so a hash that was begun goes on to its end."""
        if not self.checks and not (self.begun and self.derivation.left):
            del self.jobs[self.key]


class Users:
    """The users of one configuration.

    Args:
        dispatcher: gives the slices their turns
        users: at least one
        clock: monotonic time in seconds, by which slices are measured
    """

    __slots__ = (
        "_clock", "_count", "_dispatcher", "_going", "_hashes", "_jobs", "_keyed", "_right",
        "_throttle",
    )  # fmt: skip

    def __init__(
        self,
        dispatcher: Dispatcher,
        users: Iterable[User],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._dispatcher = dispatcher
        self._clock = clock
        self._hashes = {user.name.encode(): parse(user.password_hash) for user in users}
        self._keyed = sha256(os.urandom(32))
        self._throttle = Throttle()
        self._right: dict[bytes, float] = {}  # when each was last used, the oldest first
        self._jobs: dict[bytes, _Job] = {}  # the first one is under way
        self._going = False  # `_turn` is going to be called
        self._count = 16  # iterations in a slice; a slow router does that many in one

    def verify(
        self, name: bytes, password: bytes, client: bytes, answer: Answer
    ) -> Check | None:
        """Find out whether this is a user.

        Args:
            name: compared byte by byte with the UTF-8 of those configured
            password: any bytes
            client: packed address of who asks
            answer: called exactly once unless cancelled, perhaps before `verify` returns

        Returns:
            what can be cancelled, None where it was answered at once
        """
        key = self._digest(b"%d:%b%b" % (len(name), name, password))
        now = self._dispatcher.now
        if self._remembers(key, now):
            answer(None)
            return None
        if self._throttle.wait(client, now):
            answer(Reason.AUTH_THROTTLED)
            return None
        job = self._jobs.get(key)
        if job is None:
            if len(self._jobs) > WAITING:
                answer(Reason.AUTH_BUSY)
                return None
            stand_in = int.from_bytes(self._digest(name)[:8], "big") % len(self._hashes)
            hash = self._hashes.get(name) or list(self._hashes.values())[stand_in]
            job = _Job(self._jobs, key, hash, name in self._hashes, password)
            if not self._going:
                self._going = True
                self._dispatcher.again(self._turn)
        return Check(job, client, answer)

    def knows(self, name: str, hash: str) -> bool:
        """Whether this user has that password hash here."""
        return str(self._hashes.get(name.encode())) == hash

    def agrees(self, other: Users, name: str) -> bool:
        """Whether this user has the same password hash here and there."""
        mine = self._hashes.get(name.encode())
        return mine is not None and mine == other._hashes.get(name.encode())

    def close(self) -> None:
        """The configuration that made it is gone: forget who was right. Checks under way go
        on, and are answered."""
        self._right.clear()

    def _digest(self, data: bytes) -> bytes:
        """Stands for secret data in memory."""
        state = self._keyed.copy()
        state.update(data)
        return state.digest()

    # Memory.

    def _remembers(self, key: bytes, now: float) -> bool:
        used = self._right.pop(key, None)
        if used is None or now - used > MEMORY:
            return False
        self._right[key] = now
        return True

    def _remember(self, key: bytes, now: float) -> None:
        self._right[key] = now
        if len(self._right) > REMEMBERED:
            del self._right[next(iter(self._right))]

    # Turns.

    def _turn(self) -> None:
        """Go on with the first job for a while."""
        if not self._jobs:
            self._going = False
            return
        self._dispatcher.again(self._turn)
        job = next(iter(self._jobs.values()))
        if not job.derivation.left:
            self._answer(job, list(job.checks)[:ANSWERS], job.verdict)
        elif job.begun or self._begin(job):
            self._hash(job)

    def _begin(self, job: _Job) -> bool:
        """Refuse those who have to wait since they asked; answers whether anybody is left."""
        now = self._dispatcher.now
        late = [check for check in job.checks if self._throttle.wait(check.client, now)]
        self._answer(job, late, Reason.AUTH_THROTTLED)
        job.begun = bool(job.checks)
        return job.begun

    def _hash(self, job: _Job) -> None:
        count = self._count
        begun = self._clock()
        done = job.derivation.step(count)
        took = self._clock() - begun
        if done == count:
            # One that was fast by chance must not make the next one last too long.
            self._count = max(1, min(int(count * SLICE / max(took, 1e-9)), 2 * count))
        if not job.derivation.left:
            self._judge(job)

    def _judge(self, job: _Job) -> None:
        now = self._dispatcher.now
        if job.hash.matches(job.derivation) and job.known:
            job.verdict = None
            self._remember(job.key, now)
        else:  # a browser that asked many times at once has guessed once
            for client in job.clients:
                self._throttle.fail(client, now)
        job.end_if_done()

    def _answer(self, job: _Job, checks: Iterable[Check], verdict: Reason | None) -> None:
        for check in checks:
            if check.job is job:  # the answer of another may have cancelled it
                check.cancel()
                try:
                    check.answer(verdict)
                except Exception:
                    crashed(getattr(check.answer, "__self__", None))

    def crash(self) -> None:
        """A turn raised: see dispatch.Owner."""
        for job in list(self._jobs.values()):
            job.begun = False  # and is not going on
            self._answer(job, list(job.checks), Reason.INTERNAL)
            if self._jobs.get(job.key) is job:  # nobody waited for it
                job.end_if_done()
