"""What the backends that go through an upstream proxy share.

A connection through one is made in two steps: a dial to the upstream, and a talk with it
(`wire.upstream`), under one deadline.

    state      handler         leaves it by
    --------   -------------   --------------------------------------------------------
    dialling   those of Dial   connected -> talking, or finished where no talk is needed
    talking    on_event        granted or refused -> finished

The upstream's bytes are looked at before they are taken, and none is taken beyond its
answer: all that follows comes from the target and is the relay's to read. What is part of an
answer that is not complete is taken at once, since a level-triggered selector would report
it for ever.
"""

from __future__ import annotations

from _socket import socket as Socket
from socket import MSG_PEEK

from ..dial import Dial, Dialler, Done, Guard
from ..dispatch import END, IN, OUT, crashed
from ..errors import ProtocolError, Reason
from ..target import Target
from ..way import Way
from ..wire.upstream import ANSWER_LIMIT, Talk
from .base import Leaf

# What tells of a dial to the upstream that failed; all else makes it unreachable.
_DIAL_REASONS = {
    Reason.CONNECT_TIMEOUT: Reason.UPSTREAM_TIMEOUT,
    Reason.OUT_OF_DESCRIPTORS: Reason.OUT_OF_DESCRIPTORS,
    Reason.INTERNAL: Reason.INTERNAL,
}
# The upstream is at fault, not the target and not this proxy.
_FAULTS = frozenset((
    Reason.UPSTREAM_UNREACHABLE,
    Reason.UPSTREAM_TIMEOUT,
    Reason.UPSTREAM_AUTH,
    Reason.UPSTREAM_FAILED,
))  # fmt: skip


class UpstreamProxy(Leaf):
    """Reaches targets through another proxy.

    Args:
        way: it
        dialler: reaches the upstream, which the operator named: it has no guard and no way
        upstream: where that proxy is
        username, password: credentials there, a user of "" for none
        guard: why an address may not be reached for a client, or None; literal targets only,
            since names go to the upstream unresolved
        seconds: deadline from the dial to the last byte of the upstream's answer
    """

    def __init__(
        self,
        way: Way,
        dialler: Dialler,
        upstream: Target,
        username: str,
        password: str,
        guard: Guard,
        seconds: float,
    ) -> None:
        super().__init__(way)
        self.dialler = dialler
        self.upstream = upstream
        self.guard = guard
        # Not its own: connections may be under way when the configuration is gone.
        self.deadline = dialler.dispatcher.common_deadlines(seconds, Handshake.late)
        self.identify(username, password)

    def identify(self, username: str, password: str) -> None:
        """Take the credentials, a user of "" for none."""
        raise NotImplementedError

    def talk(self, target: Target) -> Talk:
        """What to say to the upstream for a tunnel to `target`."""
        raise NotImplementedError

    def connect(
        self, target: Target, client: bytes, done: Done, forward: bool = False
    ) -> Handshake:
        """See `base.Backend`."""
        refusal = self.guard(target.packed, target.port) if target.packed is not None else None
        handshake = Handshake(self, target, done, forward, judged=refusal is None)
        if refusal is None:
            handshake.start()
        else:
            handshake.fail(refusal)
        return handshake

    def probe(self, target: Target, done: Done, forward: bool = False) -> Handshake:
        """See `base.Backend`."""
        handshake = Handshake(self, target, done, forward, judged=False)
        handshake.start()
        return handshake


class Handshake:
    """One connection through an upstream. `done` is called exactly once, unless `cancel`
    comes first.

    Args:
        proxy: the backend
        target: whither
        done: told how it ended
        forward: for a plain HTTP request, which an HTTP proxy takes without a talk
        judged: the way is told how it ended
    """

    __slots__ = ("dial", "done", "fd", "judged", "proxy", "seen", "sock", "talk", "target")

    def __init__(
        self, proxy: UpstreamProxy, target: Target, done: Done, forward: bool, judged: bool
    ) -> None:
        self.proxy = proxy
        self.target = target
        self.done: Done | None = done
        self.talk = None if forward and proxy.way.absolute else proxy.talk(target)
        self.judged = judged
        self.dial: Dial | None = None
        self.sock: Socket | None = None
        self.fd = -1
        self.seen = 0  # of the events in END: none is reported twice

    def start(self) -> None:
        """Dial the upstream."""
        proxy = self.proxy
        proxy.deadline.start(self)
        dial = Dial(proxy.dialler, proxy.upstream, self.on_dialled)
        if self.done is not None:
            self.dial = dial

    def on_dialled(
        self, sock: Socket | None, mask: int, reason: Reason | None, way: Way | None
    ) -> None:
        """The upstream is reached, or is not."""
        self.dial = None
        if sock is None:
            assert reason is not None
            self.fail(_DIAL_REASONS.get(reason, Reason.UPSTREAM_UNREACHABLE))
            return
        self.sock = sock
        self.fd = sock.fileno()
        if self.talk is None:
            self.succeed(mask)
            return
        self.proxy.dialler.dispatcher.handlers[self.fd] = self.on_event
        self.on_event(mask)

    # Talking.

    def on_event(self, mask: int) -> None:
        """The upstream answers, or takes more."""
        sock, talk = self.sock, self.talk
        if sock is None or talk is None:
            return  # finished, and nobody took the handler over
        self.seen |= mask & END
        try:
            if talk.out:
                _send(sock, talk)
            if mask & ~OUT:
                self._read(sock, talk)
        except BlockingIOError:
            return  # all that has come is read
        except OSError:
            self.fail(Reason.UPSTREAM_FAILED)
        except ProtocolError as error:
            self._refused(error.reason)

    def _read(self, sock: Socket, talk: Talk) -> None:
        """Take what there is of the answer.

        Raises:
            BlockingIOError: it is not complete
            OSError: the connection broke
            ProtocolError: the upstream refuses, or talks nonsense
        """
        while not talk.granted:
            data = sock.recv(ANSWER_LIMIT, MSG_PEEK)
            taken = talk.feed(data) if data else 0
            if not taken or len(sock.recv(taken)) != taken:
                self.fail(Reason.UPSTREAM_FAILED)  # it ended
                return
            if talk.out:
                _send(sock, talk)
        if talk.out:
            self.fail(Reason.UPSTREAM_FAILED)  # it granted what it was not asked for yet
        else:
            self.succeed(IN | self.seen)  # the target may have said something already

    def wants(self, fd: int) -> int:
        """For the portable selector."""
        if self.sock is None or self.talk is None:
            return 0
        return IN | (OUT if self.talk.out else 0)

    # The end.

    def late(self) -> None:
        """The deadline of the whole is over."""
        if self.dial is not None:
            self.dial.late()
        else:
            self.fail(Reason.UPSTREAM_TIMEOUT)

    def cancel(self) -> None:
        """Give up; `done` will not be called."""
        self.done = None
        self.proxy.deadline.stop(self)
        if self.dial is not None:
            self.dial.cancel()
            self.dial = None
        if self.sock is not None:
            self.proxy.dialler.dispatcher.discard(self.fd, self.sock)
            self.sock = None

    def crash(self) -> None:
        """A handler raised: see dispatch.Owner."""
        self.fail(Reason.INTERNAL)

    def succeed(self, mask: int) -> None:
        """The path stands.

        Args:
            mask: events of the socket that nobody has read for yet
        """
        proxy = self.proxy
        now = proxy.dialler.dispatcher.now
        began = proxy.deadline.since.get(self, now)
        if self.judged and self.talk is not None:
            proxy.way.worked(now - began)
        elif self.judged:  # it has yet to answer: `Way.answered`, or `Way.failed`
            proxy.way.counters.took(now - began)
        sock, self.sock = self.sock, None
        self._finish(sock, mask, None)

    def fail(self, reason: Reason) -> None:
        """There will be no path."""
        judged, self.judged = self.judged and self.done is not None, False  # once, come what may
        if judged:
            self.proxy.way.failed(reason, self.target.text, reason in _FAULTS)
        self._finish(None, 0, reason)

    def _refused(self, reason: Reason) -> None:
        """The upstream's answer is no. Where that is about the target, the upstream works."""
        condition = self.proxy.condition
        if self.judged and reason not in _FAULTS and condition.uneasy:
            condition.dial_worked(self.proxy.dialler.dispatcher.now)
        self.fail(reason)

    def _finish(self, sock: Socket | None, mask: int, reason: Reason | None) -> None:
        done = self.done
        self.cancel()
        if done is None:
            return
        try:
            done(sock, mask, reason, self.proxy.way)
        except Exception:
            crashed(getattr(done, "__self__", None))


def _send(sock: Socket, talk: Talk) -> None:
    """Send what the upstream takes of it.

    Raises:
        OSError: the connection broke
    """
    try:
        talk.out = talk.out[sock.send(talk.out) :]
    except BlockingIOError:
        return
