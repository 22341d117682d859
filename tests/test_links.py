"""Devices that come, go and change, in real network namespaces; faults are played."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

import pytest

from bifrost_lite import netlink
from bifrost_lite.dispatch import Dispatcher, EpollDispatcher, PollDispatcher
from bifrost_lite.links import Links, Watch
from tests.dispatch_kit import patience, until
from tests.namespaces import Namespace
from tests.netlink_kit import PORT, Kernel, address, done, link

NOT_THERE, DOWN, NO_CARRIER = "wg0 is not there", "wg0 is down", "wg0 has no carrier"
LOST, MOVED = "(lost)", "(addressed)"


@pytest.fixture(params=[EpollDispatcher, PollDispatcher])
def dispatcher(request: pytest.FixtureRequest) -> Iterator[Dispatcher]:
    made: Dispatcher = request.param()
    yield made
    assert not made.handlers
    assert made.deadlines == []
    made.close()


@pytest.fixture
def links(dispatcher: Dispatcher) -> Iterator[Links]:
    made = Links(dispatcher)
    yield made
    made.close()


@pytest.fixture
def here() -> Iterator[Namespace]:
    with Namespace() as made:
        yield made


@pytest.fixture
def there() -> Iterator[Namespace]:
    with Namespace() as made:
        yield made


class Watcher:
    """Notes what it is told of a device."""

    def __init__(self, links: Links, device: str = "wg0") -> None:
        self.told: list[str] = []
        self.watch: Watch = links.watch(
            device,
            self.told.append,
            lambda: self.told.append(LOST),
            lambda: self.told.append(MOVED),
        )

    def take(self) -> list[str]:
        """What it was told since it was asked last."""
        told, self.told[:] = self.told[:], []
        return told


class Eyes:
    """A watcher in a namespace, whose dispatcher turns until it has seen something."""

    def __init__(self, dispatcher: Dispatcher, links: Links, here: Namespace) -> None:
        self.dispatcher = dispatcher
        with here.inside():
            self.watcher = Watcher(links)

    def see(self, last: str) -> list[str]:
        """Wait for this to be told; answers all that was told since the last time.

        The kernel brings a device up and down in steps, and may tell of each.
        """
        until(self.dispatcher, lambda: self.watcher.told[-1:] == [last])
        for _ in range(3):
            self.dispatcher.select(0)
        return self.watcher.take()


@pytest.fixture
def eyes(dispatcher: Dispatcher, links: Links, here: Namespace) -> Eyes:
    return Eyes(dispatcher, links, here)


def test_a_device_comes_and_goes(eyes: Eyes, here: Namespace, there: Namespace) -> None:
    assert eyes.see(NOT_THERE) == [NOT_THERE]
    here.ip("link add name wg0 type veth peer name far")
    assert eyes.see(DOWN) == [DOWN]
    here.ip("link set wg0 up")
    assert eyes.see(NO_CARRIER) == [NO_CARRIER]
    here.ip("link set far up")
    assert LOST not in eyes.see("")
    here.ip("link set far down")
    eyes.see(NO_CARRIER)
    here.ip("link set wg0 down")
    assert LOST not in eyes.see(DOWN)
    here.ip("link set wg0 up")
    here.ip("link set far up")
    eyes.see("")
    here.ip("link delete wg0")
    assert eyes.see(NOT_THERE)[-2:] == [LOST, NOT_THERE]
    here.veth("wg0", there, "far")
    assert LOST not in eyes.see("")


def test_it_is_there_already(
    dispatcher: Dispatcher, links: Links, here: Namespace, there: Namespace
) -> None:
    here.veth("wg0", there, "far")
    assert NOT_THERE not in Eyes(dispatcher, links, here).see("")


def test_a_device_that_goes_to_another_namespace_is_lost(
    dispatcher: Dispatcher, links: Links, here: Namespace, there: Namespace
) -> None:
    here.veth("far", there, "wg0")
    eyes = Eyes(dispatcher, links, there)
    eyes.see("")
    there.give("wg0", here)
    assert eyes.see(NOT_THERE)[-2:] == [LOST, NOT_THERE]


def test_a_tun_device_runs_while_somebody_holds_it(eyes: Eyes, here: Namespace) -> None:
    eyes.see(NOT_THERE)
    here.ip("tuntap add dev wg0 mode tun")
    eyes.see(DOWN)
    here.ip("link set wg0 up")
    eyes.see(NO_CARRIER)
    for _ in range(2):
        tun = here.tun("wg0")
        assert eyes.see("") == [""]
        tun.close()
        assert eyes.see(NO_CARRIER) == [NO_CARRIER]


def test_a_rename(eyes: Eyes, here: Namespace) -> None:
    """Sockets stay bound to the device, whatever its name is now."""
    eyes.see(NOT_THERE)
    here.ip("link add name old type veth peer name far")
    here.ip("link set old name wg0")
    assert eyes.see(DOWN) == [DOWN]
    here.ip("link set wg0 name old")
    assert eyes.see(NOT_THERE) == [LOST, NOT_THERE]
    here.ip("link set old up")  # which is nobody's business now
    here.ip("link add name wg0 type veth peer name more")
    assert eyes.see(DOWN) == [DOWN]


def test_another_device_by_the_same_name(eyes: Eyes, here: Namespace) -> None:
    eyes.see(NOT_THERE)
    here.ip("link add name wg0 type veth peer name far")
    here.ip("link add name other type veth peer name more")
    eyes.see(DOWN)
    # All of it before anything is read.
    here.ip("link set wg0 name old")
    here.ip("link set other name wg0")
    assert eyes.see(LOST) == [LOST]
    here.ip("link delete old")  # nobody's business, too
    here.ip("link set wg0 up")
    assert eyes.see(NO_CARRIER) == [NO_CARRIER]


def test_addresses(eyes: Eyes, here: Namespace) -> None:
    eyes.see(NOT_THERE)
    here.ip("link add name wg0 type veth peer name far")
    here.ip("link set wg0 addrgenmode none")
    eyes.see(DOWN)
    here.address("wg0", "10.9.8.6/24")  # of no use yet
    here.ip("link set far up")
    here.ip("link set wg0 up")
    assert MOVED not in eyes.see("")
    here.address("lo", "10.1.1.1/32")  # another device's
    here.ip("address change 10.9.8.6/24 dev wg0")  # as it was
    here.address("wg0", "10.9.8.7/32")
    assert eyes.see(MOVED) == [MOVED]
    here.address("wg0", "2001:db8::7/64")
    assert eyes.see(MOVED) == [MOVED]
    here.ip("address delete 10.9.8.6/24 dev wg0")
    assert eyes.see(MOVED) == [MOVED]


def test_a_port_of_a_bridge(
    dispatcher: Dispatcher, links: Links, here: Namespace, there: Namespace
) -> None:
    """A bridge that lets go of a device tells of a deleted link, too."""
    here.veth("wg0", there, "far")
    here.ip("link add name bridge0 type bridge")
    eyes = Eyes(dispatcher, links, here)
    eyes.see("")
    here.ip("link set wg0 master bridge0")
    here.ip("link set wg0 nomaster")
    here.ip("link set wg0 down")
    told = eyes.see(DOWN)
    assert LOST not in told
    assert NOT_THERE not in told


def test_everybody_is_told_until_they_cancel(
    dispatcher: Dispatcher, links: Links, here: Namespace
) -> None:
    with here.inside():
        first, second, other = Watcher(links), Watcher(links), Watcher(links, "lo")
    assert len(dispatcher.handlers) == 1
    assert (first.take(), second.take(), other.take()) == ([NOT_THERE], [NOT_THERE], [""])
    second.watch.cancel()
    second.watch.cancel()
    here.ip("link add name wg0 type veth peer name far")
    until(dispatcher, lambda: first.told)
    assert (first.take(), second.take(), other.take()) == ([DOWN], [], [])
    first.watch.cancel()
    assert len(dispatcher.handlers) == 1
    other.watch.cancel()
    assert not dispatcher.handlers


def test_nothing_is_polled(dispatcher: Dispatcher, links: Links, here: Namespace) -> None:
    assert not dispatcher.handlers
    with here.inside():
        Watcher(links)
    assert len(dispatcher.handlers) == 1
    assert dispatcher.deadlines == []
    assert patience(dispatcher) < 0


# What cannot be had of a real kernel at will.

Start = Callable[..., Kernel]


@pytest.fixture
def start(links: Links, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Play the kernel from now on."""
    made: list[Kernel] = []

    def begin(*answers: list[bytes | OSError]) -> Kernel:
        kernel = Kernel(*answers)
        made.append(kernel)
        monkeypatch.setattr(netlink, "Socket", lambda *args: kernel)
        return kernel

    yield begin
    links.close()
    for kernel in made:
        kernel.close()


def dump(sequence: int, *parts: bytes) -> list[list[bytes | OSError]]:
    """Answers to the two requests: links, which stand in `parts`, and no addresses."""
    return [[b"".join(parts) + done(sequence)], [done(sequence + 1)]]


def device(number: int = 7, sequence: int = 1, **state: bool) -> bytes:
    """A part of a dump: wg0."""
    return link("wg0", number, sequence=sequence, port=PORT, **state)


def news(links: Links, kernel: Kernel, *reads: bytes | OSError) -> None:
    """The kernel has these to say."""
    kernel.reads += reads
    assert links._feed is not None
    links._feed.on_event(1)


def test_what_it_asks_for(links: Links, start: Start) -> None:
    kernel = start(*dump(1, device()))
    assert Watcher(links).take() == [""]
    assert kernel.groups == 0x111
    assert [request[4] for request in kernel.requests] == [18, 22]  # RTM_GETLINK, RTM_GETADDR


def test_a_device_replaced_while_nobody_listened(links: Links, start: Start) -> None:
    """The kernel had to leave out messages, among them that of the deletion."""
    kernel = start(*dump(1, device(7)))
    watcher = Watcher(links)
    assert watcher.take() == [""]
    kernel.answers = dump(3, device(8, 3))
    news(links, kernel, OSError(errno.ENOBUFS, "lost"), device(7, 0), address("10.0.0.1"))
    assert watcher.take() == [LOST]


def test_a_device_gone_while_nobody_listened(links: Links, start: Start) -> None:
    kernel = start(*dump(1, device()))
    watcher = Watcher(links)
    kernel.answers = dump(3)
    news(links, kernel, OSError(errno.ENOBUFS, "lost"), device())
    assert watcher.take() == ["", LOST, NOT_THERE]


def test_a_flap_within_one_read_is_none(links: Links, start: Start) -> None:
    kernel = start(*dump(1, device()))
    watcher = Watcher(links)
    news(links, kernel, link("wg0", 7, up=False) + link("wg0", 7))
    assert watcher.take() == [""]


def test_links_of_other_families_are_none(links: Links, start: Start) -> None:
    kernel = start(*dump(1, device()))
    watcher = Watcher(links)
    news(links, kernel, link("wg0", 7, kind=17, family=7))
    assert watcher.take() == [""]


@pytest.mark.parametrize(
    "answers",
    [
        [[OSError(errno.EPERM, "no")]],
        [[TimeoutError("late")]],
        [[done(1)], [done(2, errno.EPERM)]],
        [[b"broken"]],
    ],
)
def test_present_where_netlink_does_not_work(
    links: Links,
    start: Start,
    answers: list[list[bytes | OSError]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    kernel = start(*answers)
    first = Watcher(links)
    second = Watcher(links, "other")
    assert (first.take(), second.take()) == ([""], [""])
    assert kernel.closed
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "count as present" in caplog.text
    first.watch.cancel()
    second.watch.cancel()


def test_present_on_other_systems(
    links: Links, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(netlink, "_AF_NETLINK", None)
    for _ in range(2):
        watcher = Watcher(links)
        assert watcher.take() == [""]
        watcher.watch.cancel()
    assert len(caplog.records) == 1


def test_present_once_the_kernel_fails(
    links: Links, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    kernel = start(*dump(1))
    watcher = Watcher(links)
    assert watcher.take() == [NOT_THERE]
    kernel.answers = [[TimeoutError("late")]]
    news(links, kernel, OSError(errno.ENOBUFS, "lost"))
    assert watcher.take() == [""]
    assert "late" in caplog.text
    assert Watcher(links).take() == [""]


def test_present_after_a_crash(links: Links, start: Start) -> None:
    start(*dump(1, device(running=False)))
    watcher = Watcher(links)
    assert watcher.take() == [NO_CARRIER]
    assert links._feed is not None
    links._feed.crash()
    assert watcher.take() == [""]


def test_a_watcher_that_fails_is_its_own_fault(
    links: Links, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    kernel = start(*dump(1, device()))

    def fail(why: str) -> None:
        raise RuntimeError(why)

    links.watch("wg0", fail)
    watcher = Watcher(links)
    news(links, kernel, link("wg0", 7, up=False))
    assert watcher.take() == ["", DOWN]
    assert caplog.text.count("was not taken") == 2


def test_a_watcher_may_cancel_itself_and_others(links: Links, start: Start) -> None:
    kernel = start(*dump(1, device()))
    told: list[str] = []
    watches = [
        links.watch("wg0", told.append, lambda: [watch.cancel() for watch in watches]),
        links.watch("wg0", told.append, lambda: told.append(LOST)),
    ]
    news(links, kernel, link("wg0", 7, kind=17))
    assert told == ["", ""]
    assert kernel.requests
    assert links._feed is None


def test_closing(links: Links, start: Start, dispatcher: Dispatcher) -> None:
    kernel = start(*dump(1, device()))
    watcher = Watcher(links)
    links.close()
    links.close()
    watcher.watch.cancel()
    dispatcher.select(0)
    assert kernel.closed
