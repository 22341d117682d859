"""What handlers of the API see of the rest of the daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from ..backends.base import Backend
from ..config.schema import Settings
from ..errors import BifrostError, Reason
from ..events import ConfigFault
from ..hub import Hub
from ..records import Finished
from ..ring import Ring
from ..route import Candidate
from ..sse import Logs

if TYPE_CHECKING:
    from ..coordinator import Coordinator
    from ..lists import RouteList

T = TypeVar("T")


class Listener(Protocol):
    """A listener of the proxy."""

    @property
    def name(self) -> str: ...
    @property
    def address(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def protocol(self) -> str: ...
    @property
    def open(self) -> bool: ...


class Session(Protocol):
    """A connection that watchers were told of."""

    @property
    def id(self) -> int: ...
    @property
    def protocol(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def backend(self) -> str: ...
    @property
    def route(self) -> str: ...
    @property
    def client_ip(self) -> str: ...
    @property
    def client_port(self) -> int: ...
    @property
    def started(self) -> float: ...
    @property
    def bytes_sent(self) -> int: ...
    @property
    def bytes_received(self) -> int: ...
    def close(self, reason: Reason) -> None: ...


class Router(Protocol):
    """The routes in force."""

    @property
    def lists(self) -> Mapping[str, RouteList]: ...
    def explain(
        self, host: str, packed: bytes | None, port: int, client: bytes
    ) -> list[Candidate]: ...


class Policy(Protocol):
    """The rules in force."""

    @property
    def router(self) -> Router: ...
    @property
    def backends(self) -> Mapping[str, Backend]: ...
    def admits(self, client: bytes) -> bool: ...


class Plane(Protocol):
    """The data plane."""

    @property
    def connections(self) -> Mapping[int, Session]: ...
    @property
    def listeners(self) -> Sequence[Listener]: ...
    @property
    def policy(self) -> Policy: ...
    @property
    def refused(self) -> int: ...
    @property
    def dropped(self) -> int: ...
    @property
    def by_protocol(self) -> Mapping[str, int]: ...
    @property
    def failures(self) -> Mapping[str, int]: ...
    def stats(self) -> tuple[int, int, int, int]: ...


class Change(NamedTuple):
    """What a new configuration does, or would do.

    Attributes:
        changed: names of the sections that differ
        restart: some of it needs a new process
        kept: live connections that go on as they are
        moved: those of them that would take another backend if they began now
        denied: those that would be refused if they began now
        closed: those that were closed for that, with `enforce`
    """

    changed: list[str]
    restart: bool
    kept: int
    moved: int
    denied: int
    closed: int


class StoreError(BifrostError):
    """The file of the configuration cannot be read or replaced; it is what it was.

    Args:
        word: a stable word, e.g. ``disk_full``
        message: a sentence
    """

    def __init__(self, word: str, message: str) -> None:
        super().__init__(message)
        self.word = word
        self.message = message


class Store(Protocol):
    """The file of the configuration; its calls block, and belong in a thread."""

    def read(self) -> tuple[bytes, str]:
        """Content and revision; raises StoreError."""

    def write(self, raw: bytes, expected: str, backup: bool) -> str:
        """Replace a content of the revision `expected`; answers the new one's revision.

        Raises:
            StoreError: it cannot be done; nothing has changed
        """


class House(Protocol):
    """What reads, judges and swaps configurations."""

    @property
    def settings(self) -> Settings:
        """Those in force, as the file says them: without what the command line puts over it."""

    @property
    def path(self) -> str | None:
        """Their file, None where the daemon was started without one."""

    @property
    def store(self) -> Store | None:
        """The same, to be edited; None as `path`."""

    @property
    def revision(self) -> str:
        """Of the file's content when it was last loaded; "" without a file."""

    @property
    def rejected(self) -> Sequence[ConfigFault]:
        """Faults of the last attempt to load the file; none where it went well."""

    @property
    def loads(self) -> Mapping[bool, int]:
        """How many reloads went well, and how many were refused."""

    @property
    def loaded(self) -> float:
        """Unix time when the settings in force were put in force."""

    def guard(self, packed: bytes, port: int) -> Reason | None:
        """Why this literal target must not be dialled for a client, or None."""

    async def reload(self, enforce: bool = False) -> Change:
        """Read the file again and put it in force.

        Args:
            enforce: close what the new rules deny

        Raises:
            ConfigError: it has faults; nothing has changed, and `config.rejected` told so
            BindError: a listener cannot have its address; the same
        """

    async def preview(self, text: bytes) -> Change:
        """What putting that text of a file in force would do; it does nothing.

        Raises:
            ConfigError: it has faults
        """


async def in_thread(work: Callable[[], T]) -> T:
    """What `work` answers, done in a thread that ends with it."""
    from concurrent.futures import ThreadPoolExecutor  # only now: threads cost memory

    pool = ThreadPoolExecutor(1)
    try:
        return await asyncio.get_running_loop().run_in_executor(pool, work)
    finally:
        pool.shutdown(wait=False)  # who is cancelled must not hold the loop up


class Context:
    """The first argument of each handler.

    Args:
        version: of the daemon
        plane: the data plane
        hub: the events, and the present state of each backend
        logs: the log
        requests: the finished requests
        addresses: gives the addresses of the control server
        house: the configuration
        mesh: gives the mesh networks, which it makes for whoever asks first; raises Refused
            (404) where they are off

    Attributes:
        editing: held by whoever changes the stored configuration
    """

    __slots__ = (
        "addresses", "editing", "house", "hub", "logs", "mesh", "plane", "requests", "version",
    )  # fmt: skip

    def __init__(
        self,
        version: str,
        plane: Plane,
        hub: Hub,
        logs: Logs,
        requests: Ring[Finished],
        addresses: Callable[[], Sequence[tuple[str, int]]],
        house: House,
        mesh: Callable[[], Coordinator],
    ) -> None:
        self.version = version
        self.plane = plane
        self.hub = hub
        self.logs = logs
        self.requests = requests
        self.addresses = addresses
        self.house = house
        self.mesh = mesh
        self.editing = asyncio.Lock()
