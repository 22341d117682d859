"""Whether network devices are there and running, by the kernel's own messages.

Each news is compared with what was before. A name that leads to another device than before,
or to none, means that the sockets bound to the old one are dead, even where it only has
another name now: what the operator meant is no longer what they use.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from .dispatch import Dispatcher
from .errors import ProtocolError
from .netlink import Feed
from .wire.netlink import ADDRESS_GROUPS, LINK_GROUP, RUNNING, UP, Link

log = logging.getLogger("bifrost.links")


def nothing() -> None:
    """What is done about something that nobody asked to hear of."""


class Watch:
    """One who watches a device. Its callbacks are called until `cancel`."""

    __slots__ = (
        "_addressed", "_addresses", "_changed", "_index", "_links", "_lost", "_name", "_why",
        "device",
    )  # fmt: skip

    def __init__(
        self,
        links: Links,
        device: str,
        changed: Callable[[str], None],
        lost: Callable[[], None],
        addressed: Callable[[], None],
    ) -> None:
        self.device = device
        self._name = device.encode()
        self._links: Links | None = links
        self._changed = changed
        self._lost = lost
        self._addressed = addressed
        self._index = 0
        self._addresses: frozenset[tuple[int, bytes]] = frozenset()
        self._why: str | None = None

    def cancel(self) -> None:
        """Hear no more."""
        links, self._links = self._links, None
        if links is not None:
            links.forget(self)

    def look(self, feed: Feed | None) -> None:
        """Tell what is not as it was; without a feed the device counts as present."""
        if feed is None:
            self._say("")
            return
        link = next((link for link in feed.links.values() if link.name == self._name), None)
        index = link.number if link is not None else 0
        addresses = frozenset(
            (address.prefix, address.packed)
            for address in feed.addresses
            if address.interface == index
        )
        before, self._index = self._index, index
        moved, self._addresses = addresses != self._addresses, addresses
        if before and before != index:
            self._tell(self._lost)
        if not self._say(self._fault(link)) and moved and not self._why:
            self._tell(self._addressed)

    def _fault(self, link: Link | None) -> str:
        if link is None:
            return f"{self.device} is not there"
        if not link.flags & UP:
            return f"{self.device} is down"
        return "" if link.flags & RUNNING else f"{self.device} has no carrier"

    def _say(self, why: str) -> bool:
        """Tell the state; False where that is no news."""
        if why == self._why:
            return False
        self._why = why
        self._tell(lambda: self._changed(why))
        return True

    def _tell(self, callback: Callable[[], None]) -> None:
        if self._links is None:  # cancelled by one of its own callbacks
            return
        try:
            callback()
        except Exception:  # the others who watch shall not pay for it
            log.exception("the news of a network device was not taken")


class Links:
    """Watches devices; holds a socket only while somebody wants to know.

    Without netlink every device counts as present: a dial will tell.

    Args:
        dispatcher: calls when something changes
    """

    __slots__ = ("_dispatcher", "_feed", "_warned", "_watches")

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._feed: Feed | None = None
        self._warned = False
        self._watches: dict[Watch, None] = {}

    def watch(
        self,
        device: str,
        changed: Callable[[str], None],
        lost: Callable[[], None] = nothing,
        addressed: Callable[[], None] = nothing,
    ) -> Watch:
        """Tell of a device from now on.

        Args:
            device: its name
            changed: told at once and at each change "" where the device is there and
                running, else one sentence why not
            lost: called when the device of that name was deleted, renamed or replaced:
                connections that were bound to it are dead; before `changed`
            addressed: called when the addresses of the running device have changed
        """
        if not self._watches:
            try:
                self._feed = Feed(
                    self._dispatcher, LINK_GROUP | ADDRESS_GROUPS, self._look, self._failed
                )
            except (OSError, ProtocolError) as error:
                self._warn(str(error))
        watch = Watch(self, device, changed, lost, addressed)
        self._watches[watch] = None
        watch.look(self._feed)
        return watch

    def close(self) -> None:
        """Cancel every watch."""
        for watch in list(self._watches):
            watch.cancel()

    def forget(self, watch: Watch) -> None:
        """Tell this one no more; see `Watch.cancel`."""
        del self._watches[watch]
        if not self._watches and self._feed is not None:
            self._feed.close()
            self._feed = None

    def _look(self) -> None:
        for watch in list(self._watches):
            watch.look(self._feed)

    def _failed(self, why: str) -> None:
        self._feed = None
        self._warn(why)
        self._look()

    def _warn(self, why: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning("network devices count as present, for netlink does not work: %s", why)
