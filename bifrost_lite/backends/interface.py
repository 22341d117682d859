"""The backend `interface`: dial through one network device, and no other way."""

from __future__ import annotations

from ..dial import Dial, Dialler, Done
from ..errors import Reason
from ..links import Links, nothing
from ..resolve import Resolver
from ..target import Target
from ..way import Way
from .base import ENDED, Backend, Connecting


class Interface:
    """Dials targets itself through a device; fails at once while that is not there.

    Args:
        way: it
        dialler: as for `Direct`, with the device, its mark, and names found by `resolver`
            where there is one
        prober: the same for probes: it has no guard and no way
        links: tells of the device
        device: its name
        resolver: asks name servers through the device, and is this backend's own; None where
            names are found as for everybody

    Attributes:
        lost: called when the device was deleted, renamed or replaced: all connections that go
            through it are dead
        addressed: called when the addresses of the device, which is there, have changed
    """

    members: tuple[Backend, ...] = ()

    def __init__(
        self,
        way: Way,
        dialler: Dialler,
        prober: Dialler,
        links: Links,
        device: str,
        resolver: Resolver | None,
    ) -> None:
        self.name = way.name
        self.type = way.type
        self.way = way
        self.condition = way.condition
        self.dialler = dialler
        self.prober = prober
        self.device = device
        self.lost = nothing
        self.addressed = nothing
        self._resolver = resolver
        self._why = ""
        self._watch = links.watch(device, self._changed, self._lost, lambda: self.addressed())

    def connect(
        self, target: Target, client: bytes, done: Done, forward: bool = False
    ) -> Connecting:
        """See `base.Backend`."""
        return self._dial(self.dialler, target, done)

    def probe(self, target: Target, done: Done, forward: bool = False) -> Connecting:
        """See `base.Backend`."""
        return self._dial(self.prober, target, done)

    def carriers(self, client: bytes) -> list[Way]:
        """See `base.Backend`."""
        return [self.way]

    def close(self) -> None:
        """See `base.Backend`."""
        self._watch.cancel()
        if self._resolver is not None:
            self._resolver.retire()

    def _dial(self, dialler: Dialler, target: Target, done: Done) -> Connecting:
        if not self._why:
            return Dial(dialler, target, done)
        way = dialler.way
        if way is not None:
            way.failed(Reason.DEVICE_ABSENT, target.text, False)  # its condition knows already
        done(None, 0, Reason.DEVICE_ABSENT, way)
        return ENDED

    def _lost(self) -> None:
        """What is being dialled through the device will never be answered either."""
        both = (self.dialler, self.prober)
        dials = [dial for dial in self.dialler.deadline.since if dial.dialler in both]

        def end() -> None:
            for dial in dials:
                dial.fail(Reason.DEVICE_ABSENT)

        # When the condition knows: it is the device that failed, and not a connection.
        self.way.dispatcher.again(end)
        self.lost()

    def _changed(self, why: str) -> None:
        self._why = why
        now = self.way.dispatcher.now
        if why:
            self.condition.absent(why, now)
        else:
            self.condition.present(now)
