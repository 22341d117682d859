"""The control server: HTTP/1.1 on raw sockets, one coroutine per connection.

It knows nothing of what it serves: heads are read by `wire.http1`, whether a call may be
made is `auth`'s to say, what answers it is in the `Router`. What is here are the limits:
so many connections, so much time for a head, a body, an answer. An idle server has no timer.

Event and log streams leave by a `Takeover` and count no more: they have caps of their own,
so neither can lock the operator out of the other calls. Nor can clients that say nothing,
read nothing or do not go: where all connections are taken, the one that kept us waiting
longest makes room. A stranger's body is waited for by nobody: what has no right token is
refused by its head, what is public is answered by it. One large body, such as a configuration,
is taken at a time: a router has no memory for more.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Iterable
from enum import IntEnum
from functools import partial
from time import monotonic
from typing import Any, Generic

from .accept import Acceptor
from .auth import Guard, Peer
from .errors import ProtocolError, Reason
from .rest import BODY_LIMIT, Call, Ctx, Refused, Response, Route, Router, Takeover, choose
from .wire.chunked import Decoder
from .wire.http1 import Request, find_head_end, parse_request

log = logging.getLogger("bifrost.http")

CONNECTIONS = 64
# So many calls that may be made are not cut for newcomers. The rest is turned over one by one,
# and outnumbers what is accepted (`accept.BATCH`) in the turns until a new head is read.
SPARED = 16
HEAD_TIME = 10.0  # seconds for a request head, and again for its body
IDLE_TIME = 30.0  # seconds that a connection may lie between two requests
SEND_TIME = 30.0  # seconds for an answer
LINGER_TIME = 2.0  # seconds that a refused client has to stop sending
_READ = 16 * 1024


class Stage(IntEnum):
    """How far a request is: not there or over; read; let in to more than what is public."""

    SILENT, ASKED, ADMITTED = range(3)


class Connection:
    """One client of the control server.

    Attributes:
        sock: its socket; None once somebody took it over
        peer: the addresses at its ends
        buffer: what was read and not used yet
        stage: how far its request is
        task: the coroutine that serves it
    """

    __slots__ = ("buffer", "peer", "sock", "stage", "task")

    task: asyncio.Task[None]

    def __init__(self, sock: socket.socket, peer: Peer) -> None:
        self.sock: socket.socket | None = sock
        self.peer = peer
        self.buffer = b""
        self.stage = Stage.SILENT


class Server(Generic[Ctx]):
    """Serves the routes of `router` on any number of addresses.

    Args:
        loop: the event loop
        ctx: what handlers get as their first argument
        router: the routes
        guard: who may call them
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, ctx: Ctx, router: Router[Ctx], guard: Guard
    ) -> None:
        self._loop = loop
        self._ctx = ctx
        self._router = router
        self.guard = guard
        self._acceptor = Acceptor(loop, self._welcome)
        self._connections: set[Connection] = set()
        self._waiting: dict[Connection, None] = {}  # for the client, the longest first
        self._large: Connection | None = None  # its body is over `BODY_LIMIT`

    def listen(self, endpoints: Iterable[tuple[str, int]]) -> None:
        """Listen on all `endpoints` or on none.

        Args:
            endpoints: IP address and port of each

        Raises:
            BindError: one of them cannot be had
        """
        self._acceptor.listen(endpoints)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """What is really listened on, port 0 resolved."""
        return self._acceptor.addresses

    async def stop(self) -> None:
        """Close the listeners, let calls that run finish for a moment, close the rest."""
        self._acceptor.close()
        for connection in self._connections:
            if connection.stage is Stage.SILENT:
                connection.task.cancel()
        tasks = [connection.task for connection in self._connections]
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _welcome(self, sock: socket.socket, peer: Peer) -> None:
        if len(self._connections) >= CONNECTIONS:
            if not self._waiting:
                _turn_away(sock)
                return
            strangers = [c for c in self._waiting if c.stage is not Stage.ADMITTED]
            enough = len(strangers) >= CONNECTIONS - SPARED
            victim = next(iter(strangers if enough else self._waiting))
            victim.task.cancel()
            self._connections.remove(victim)
            del self._waiting[victim]
        connection = Connection(sock, peer)
        self._connections.add(connection)
        self._waiting[connection] = None
        connection.task = self._loop.create_task(self._serve(connection))
        # Not in the coroutine: one that is cancelled before its first step never runs.
        connection.task.add_done_callback(partial(self._done, connection))

    def _done(self, connection: Connection, task: asyncio.Task[None]) -> None:
        self._connections.discard(connection)
        self._waiting.pop(connection, None)
        self._forget_body(connection)
        if connection.sock is not None:
            connection.sock.close()

    def _await(self, connection: Connection, stage: Stage) -> None:
        """It is the client's turn from now on: to ask, to read, to go."""
        connection.stage = stage
        self._waiting.pop(connection, None)
        self._waiting[connection] = None

    # One connection.

    async def _serve(self, connection: Connection) -> None:
        try:
            patience = HEAD_TIME
            while await self._exchange(connection, patience):
                patience = IDLE_TIME
                self._await(connection, Stage.SILENT)
                await asyncio.sleep(0)  # a pipelined burst gives way between two requests
        except OSError:  # time-outs are among them
            pass
        except Exception:
            log.exception("the control server failed")

    async def _exchange(self, connection: Connection, patience: float) -> bool:
        """Serve one request; answers whether the connection lives on."""
        call: Call | None = None
        request: Request | None = None
        keep = False
        head = b""
        try:
            head = await self._read_head(connection, patience)
            if not head:
                return False
            connection.stage = Stage.ASKED
            request = parse_request(head)
            call = Call(request, head)
            call.peer = connection.peer
            route = self._admit(connection, call)
            if isinstance(route, Response):
                result: Response | Takeover = route
                keep = not _has_body(request)
            else:
                if not route.public:
                    self._await(connection, Stage.ADMITTED)
                    await self._read_body(connection, call, route.limit)
                keep = not route.public or not _has_body(request)
                del self._waiting[connection]
                try:
                    result = await self._run(route, call)
                finally:
                    self._await(connection, connection.stage)
        except ProtocolError as error:
            status = error.reason.status
            refused = Refused(status, error.reason.word, f"The request is refused: {error}.")
            result = refused.response()
        except Refused as refused:
            result = refused.response()
            keep = keep or (request is not None and not _has_body(request))
        self._forget_body(connection)
        if isinstance(result, Response):
            keep = keep and request is not None and request.keep_alive
            # A head that cannot be read may still begin as one of HEAD.
            start = (head or connection.buffer).lstrip(b"\r\n")
            head_only = start.startswith(b"HEAD ")
            await self._answer(connection, call, result, keep, head_only)
            return keep
        sock, connection.sock = connection.sock, None
        assert sock is not None
        result.start(sock, connection.buffer)
        return False

    async def _read_head(self, connection: Connection, patience: float) -> bytes:
        """The next request head, b"" where the client says no more."""
        deadline = monotonic() + (HEAD_TIME if connection.buffer else patience)
        while True:
            end = find_head_end(connection.buffer)
            if end >= 0:
                head = connection.buffer[:end]
                connection.buffer = connection.buffer[end:]
                return head
            try:
                data = await self._receive(connection, deadline)
            except TimeoutError:
                if not connection.buffer:
                    return b""
                raise _late("it did not arrive in time") from None
            if not data:
                return b""
            if not connection.buffer:
                deadline = monotonic() + HEAD_TIME
            connection.buffer += data

    def _admit(self, connection: Connection, call: Call) -> Route[Ctx] | Response:
        """The route of `call`, or the answer where it needs none (OPTIONS).

        Raises:
            Refused: it may not, or there is nothing there
        """
        methods, call.parts = self._router.find(call.path)
        route = methods.get(call.method)
        try:
            public = route is not None and route.public
            keys = route.keys if route is not None else ()
            call.fields = self.guard.admit(call, connection.peer, public, monotonic(), keys)
        except Refused as refused:
            # The peer's text stays out of the log: it may hold a token.
            log.warning("refused a call from %s: %s", connection.peer.name, refused.word)
            raise
        return choose(methods, call)

    async def _read_body(self, connection: Connection, call: Call, limit: int) -> None:
        """Read the body of `call` into it.

        Raises:
            Refused: it is larger than `limit`, or than is taken just now
            ProtocolError: its chunks are broken, or it came too late
        """
        request = call.request
        expectation = request.get(b"expect")
        if expectation is not None and expectation.lower() != b"100-continue":
            raise ProtocolError(Reason.EXPECTATION_FAILED, "its expectation is not known")
        if not _has_body(request):
            return
        length = request.content_length or 0
        too_large = Refused(413, "body_too_large", f"The body may have {limit} bytes.")
        if length > limit:
            raise too_large
        self._check_room(connection, length)
        if expectation is not None and request.minor and not connection.buffer:
            await self._send(connection, b"HTTP/1.1 100 Continue\r\n\r\n")
        decoder = Decoder(Reason.BAD_REQUEST) if request.chunked else None
        deadline = monotonic() + HEAD_TIME
        body, data = b"", connection.buffer
        while True:
            body += decoder.feed(data) if decoder else data
            if decoder:
                if len(body) > limit:
                    raise too_large
                self._check_room(connection, len(body))
            if decoder.done if decoder else len(body) >= length:
                break
            try:
                data = await self._receive(connection, deadline)
            except TimeoutError:
                raise _late("its body did not arrive in time") from None
            if not data:
                raise ConnectionResetError
        if decoder:
            call.body, connection.buffer = body, decoder.rest
        else:
            call.body, connection.buffer = body[:length], body[length:]

    def _check_room(self, connection: Connection, size: int) -> None:
        """Refuse a second large body beside the one that is there."""
        if size > BODY_LIMIT:
            if self._large not in (None, connection):
                raise Refused(
                    503, "busy", "Another large request is being served.", "Retry-After: 1"
                )
            self._large = connection

    def _forget_body(self, connection: Connection) -> None:
        if self._large is connection:
            self._large = None

    async def _run(self, route: Route[Ctx], call: Call) -> Response | Takeover:
        try:
            return await route.handler(self._ctx, call)
        except Exception as error:
            if isinstance(error, Refused):
                raise
            if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
                reason = Reason.OUT_OF_DESCRIPTORS
                raise Refused(503, reason.word, reason.text, "Retry-After: 5") from None
            log.exception("the handler of %s %s failed", route.method, route.path)
            raise Refused(500, "internal_error", "The daemon met a fault of its own.") from None

    async def _answer(
        self,
        connection: Connection,
        call: Call | None,
        response: Response,
        keep: bool,
        head_only: bool,
    ) -> None:
        option = "" if keep else "close"
        if call is not None:
            response.headers += tuple(f for f in call.fields if f not in response.headers)
            if keep and not call.request.minor:
                option = "keep-alive"
        await self._send(connection, response.render(head_only=head_only, connection=option))
        if not keep:
            self._await(connection, Stage.SILENT)
            await self._linger(connection)

    async def _linger(self, connection: Connection) -> None:
        """Hear the client out before closing: a reset would take our answer from it."""
        assert connection.sock is not None
        connection.sock.shutdown(socket.SHUT_WR)
        deadline = monotonic() + LINGER_TIME
        while await self._receive(connection, deadline):
            pass

    # Waiting.

    async def _receive(self, connection: Connection, deadline: float) -> bytes:
        """Some bytes, b"" at the end. Raises TimeoutError at monotonic time `deadline`."""
        sock = connection.sock
        assert sock is not None
        while True:
            # Even if bytes are there: whoever floods us must not have the loop for itself.
            await self._wait(self._loop.add_reader, self._loop.remove_reader, sock, deadline)
            try:
                return sock.recv(_READ)
            except (BlockingIOError, InterruptedError):
                continue

    async def _send(self, connection: Connection, data: bytes) -> None:
        """Send all of `data`. Raises TimeoutError after `SEND_TIME` seconds."""
        sock = connection.sock
        assert sock is not None
        deadline = monotonic() + SEND_TIME
        while data:
            try:
                data = data[sock.send(data) :]
            except (BlockingIOError, InterruptedError):
                await self._wait(self._loop.add_writer, self._loop.remove_writer, sock, deadline)

    async def _wait(
        self,
        add: Callable[..., None],
        remove: Callable[[Any], bool],
        sock: socket.socket,
        deadline: float,
    ) -> None:
        if monotonic() >= deadline:  # a flood is always ready before its timer is
            raise TimeoutError
        future, fd = self._loop.create_future(), sock.fileno()
        add(fd, _resolve, future, None)
        timer = self._loop.call_at(deadline, _resolve, future, TimeoutError())
        try:
            await future
        finally:
            remove(fd)
            timer.cancel()


def _resolve(future: asyncio.Future[None], error: BaseException | None) -> None:
    if not future.done():
        future.set_result(None) if error is None else future.set_exception(error)


def _late(detail: str) -> ProtocolError:
    return ProtocolError(Reason.HANDSHAKE_TIMEOUT, detail)


def _has_body(request: Request) -> bool:
    return request.chunked or bool(request.content_length)


def _turn_away(sock: socket.socket) -> None:
    """All connections are busy."""
    refused = Refused(
        503, "too_many_connections", "The control server is busy.", "Retry-After: 1"
    )
    try:
        sock.send(refused.response().render(connection="close"))
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass
    sock.close()
