"""Asking name servers for one name: datagrams first, a connection where they are too small.

A and AAAA leave at once through one connected socket per server. The kernel picks its port
at random and drops what does not come from the server; the id is random too, and the
question must come back (RFC 5452). All else is dropped, for the answer may still follow.

Servers are asked in turn: the next one when a tick passed without an answer, at once when
one refuses, fails, or is not there. Their sockets stay open for late answers until the
query ends. A server that failed a question is not asked it again; one that is not there is
tried once more at a later tick, for it may be restarting. When none is left the question
has failed. The deadline of the whole is the caller's.

Some never answer AAAA (RFC 4074): when one kind has addresses, the other has two ticks left.
"""

from __future__ import annotations

import logging
import os
import socket
from _socket import socket as Socket
from collections.abc import Callable, Sequence
from socket import AF_INET, AF_INET6, SOCK_DGRAM, SOCK_STREAM, SOL_SOCKET, if_nametoindex

from .acl import fold
from .dial import SO_MARK
from .dispatch import IN, OUT, Deadlines, Dispatcher
from .errors import Reason
from .names import Server
from .wire.dns import NAME_ERROR, NO_ERROR, A, Answer, MessageError, parse, query

log = logging.getLogger("bifrost.resolve")

_DATAGRAM = 4096  # bytes read at once; without EDNS an answer has 512 (RFC 1035 section 4.2.1)
_DATAGRAMS = 8  # read in a row, so that a flood of forged ones leaves a turn to others
_STREAM = 16384  # bytes of an answer by TCP, where no honest one of addresses comes near
_ERRORS = 2  # times that a server may be unreachable, each in its own tick
_EXTRA_TICKS = 2  # for the other kind once one has addresses
_BIND_TO_DEVICE: int | None = getattr(socket, "SO_BINDTODEVICE", None)  # Linux alone has it

# What became of a question: its kind, addresses, TTL in seconds, and why there are none.
Report = Callable[[int, tuple[bytes, ...], int, "Reason | None"], None]


class Servers:
    """The name servers, and what all queries to them share.

    Attributes:
        list: the servers, never empty once there is a query
        first: place of the one that answered last, so that a dead one costs time only once

    Args:
        dispatcher: calls the queries
        tick: seconds until the next server is asked
        device: network device that all packets leave through, "" for the routes' choice
        mark: firewall mark of the packets, 0 for none

    Raises:
        ValueError: this system cannot bind a socket to a device
    """

    __slots__ = ("_complaint", "device", "dispatcher", "first", "list", "mark", "ticks")

    def __init__(
        self, dispatcher: Dispatcher, tick: float, device: str, mark: int = 0
    ) -> None:
        if device and _BIND_TO_DEVICE is None:
            raise ValueError("Only Linux can ask name servers through a device.")
        self.dispatcher = dispatcher
        self.ticks = Deadlines(dispatcher, tick, Query.tick)
        self.device = device
        self.mark = mark
        self.list: tuple[Server, ...] = ()
        self.first = 0
        self._complaint = ""

    def open(self, server: Server, kind: int) -> Socket:
        """A socket of SOCK_DGRAM or SOCK_STREAM that is connected or connecting.

        Raises:
            OSError: the server, or the device, cannot be reached
        """
        six = ":" in server.address
        sock = Socket(AF_INET6 if six else AF_INET, kind)
        try:
            sock.setblocking(False)
            if self.device and _BIND_TO_DEVICE is not None:
                sock.setsockopt(SOL_SOCKET, _BIND_TO_DEVICE, self.device.encode())
            if self.mark:
                sock.setsockopt(SOL_SOCKET, SO_MARK, self.mark)
            if not six:
                sock.connect((server.address, server.port))
            else:
                zone = server.zone
                scope = int(zone) if zone.isdecimal() else if_nametoindex(zone) if zone else 0
                sock.connect((server.address, server.port, 0, scope))
        except BlockingIOError:
            return sock
        except OSError:
            sock.close()
            raise
        return sock

    def works(self, server: Server) -> None:
        """It gave an answer."""
        self._complaint = ""
        if self.list[self.first] is not server and server in self.list:
            self.first = self.list.index(server)

    def fails(self, server: Server, error: OSError) -> None:
        """It cannot be reached; said once, until one works again."""
        through = f" through {self.device}" if self.device else ""
        complaint = f"name server {server}{through} cannot be reached: {error.strerror}"
        if complaint != self._complaint:
            self._complaint = complaint
            log.warning("%s", complaint)

    def close(self) -> None:
        """Leave the dispatcher; every query is closed."""
        self.ticks.close()


class Query:
    """One name being asked for.

    Args:
        servers: whom to ask
        names: candidates in wire form, asked one after another until one exists
        report: told once about each kind that is asked for
    """

    __slots__ = (
        "_away", "_connections", "_errors", "_extra", "_links", "_list", "_names", "_pending",
        "_report", "_servers",
    )  # fmt: skip

    def __init__(self, servers: Servers, names: Sequence[bytes], report: Report) -> None:
        self._servers = servers
        self._names = names
        self._report = report
        first = servers.first
        self._list = servers.list[first:] + servers.list[:first]
        self._errors = [0] * len(self._list)
        self._away: set[int] = set()  # numbers of the servers that are not there in this tick
        self._pending: dict[int, Question] = {}
        self._links: dict[int, Link] = {}  # by the number of the server
        self._connections: dict[int, Connection] = {}  # by the kind asked for
        self._extra = -1  # ticks left once there are addresses

    def ask(self, kind: int) -> None:
        """Ask for A or AAAA."""
        question = self._pending[kind] = Question(kind, self._names)
        self._send(question)
        if self._pending and self not in self._servers.ticks.since:
            self._servers.ticks.start(self)

    def close(self) -> None:
        """Report no more."""
        self._pending.clear()
        self._rest()

    def tick(self) -> None:
        """Too long without an answer."""
        self._away.clear()
        self._extra -= self._extra > 0
        for question in list(self._pending.values()):
            if self._extra == 0:
                self._finish(question, (), 0, Reason.DNS_TIMEOUT)
            elif self._is_pending(question):
                self._send(question)
        if self._pending:
            self._servers.ticks.start(self)

    def received(self, number: int, message: bytes) -> None:
        """A server sent something."""
        for question in list(self._pending.values()):
            try:
                answer = parse(message, question.number, question.name, question.kind)
            except MessageError:
                continue
            self.answered(question, number, answer)
            return

    def unreachable(self, number: int, error: OSError) -> None:
        """The network says that a server is not there."""
        link = self._links.pop(number, None)
        if link is not None:
            self._servers.dispatcher.discard(link.fd, link.sock)
        self._errors[number] += 1
        self._away.add(number)
        self._servers.fails(self._list[number], error)
        for question in list(self._pending.values()):
            if question.asked == number:
                self._send(question)

    def answered(self, question: Question, number: int, answer: Answer) -> None:
        """A server has this answer to a question."""
        if answer.truncated:
            if question.kind not in self._connections:
                self._connect(question, number)
            return
        if answer.code not in (NO_ERROR, NAME_ERROR):
            self.unanswered(question, number, f"code {answer.code}")
            return
        self._servers.works(self._list[number])
        if answer.addresses:
            addresses = tuple(fold(packed) for packed in answer.addresses)
            self._finish(question, addresses, answer.ttl, None)
            return
        if answer.code == NAME_ERROR and question.next_name():
            self._disconnect(question)
            question.turn -= 1
            self._send(question)
            return
        # A name that does not exist has no records of any kind (RFC 8020), but some servers
        # deny a name that they only have no AAAA for (RFC 4074 section 4.2).
        alike = [question]
        if answer.code == NAME_ERROR and question.kind == A:
            alike = list(self._pending.values())
        for other in alike:
            self._finish(other, (), answer.ttl, Reason.DNS_NOT_FOUND)

    def unanswered(self, question: Question, number: int, why: object) -> None:
        """A server has no answer to this question."""
        log.debug("name server %s has no answer: %s", self._list[number], why)
        self._disconnect(question)
        question.failed.add(number)
        self._send(question)

    def crash(self) -> None:
        """A handler raised."""
        for question in list(self._pending.values()):
            self._finish(question, (), 0, Reason.DNS_FAILED)

    def _is_pending(self, question: Question) -> bool:
        return self._pending.get(question.kind) is question

    def _send(self, question: Question) -> None:
        """Ask the next server that is worth it now; wait for the tick if one is worth it then."""
        question.asked = -1
        count = len(self._list)
        for _ in range(count):
            number = question.turn % count
            question.turn += 1
            if not self._is_pending(question):
                return
            worth = number not in self._away and self._worth(question, number)
            if worth and self._sent(question, number):
                return
        if not any(self._worth(question, number) for number in range(count)):
            self._finish(question, (), 0, Reason.DNS_FAILED)

    def _worth(self, question: Question, number: int) -> bool:
        return number not in question.failed and self._errors[number] < _ERRORS

    def _sent(self, question: Question, number: int) -> bool:
        link = self._links.get(number)
        try:
            if link is None:
                sock = self._servers.open(self._list[number], SOCK_DGRAM)
                link = self._links[number] = Link(self, number, sock)
                self._servers.dispatcher.attach(link.fd, link.on_event, edge=False)
            link.sock.send(query(question.number, question.name, question.kind))
        except BlockingIOError:
            return True  # the buffer is full: as good as lost on the way
        except OSError as error:
            self.unreachable(number, error)
            return False
        question.asked = number
        return True

    def _finish(
        self, question: Question, addresses: tuple[bytes, ...], ttl: int, reason: Reason | None
    ) -> None:
        if not self._is_pending(question):
            return
        del self._pending[question.kind]
        self._disconnect(question)
        if not self._pending:
            self._rest()
        elif addresses:
            self._extra = _EXTRA_TICKS
        self._report(question.kind, addresses, ttl, reason)

    def _connect(self, question: Question, number: int) -> None:
        try:
            sock = self._servers.open(self._list[number], SOCK_STREAM)
        except OSError as error:
            self.unanswered(question, number, error.strerror)
            return
        connection = Connection(self, question, number, sock)
        self._connections[question.kind] = connection
        self._servers.dispatcher.attach(connection.fd, connection.on_event)

    def _disconnect(self, question: Question) -> None:
        connection = self._connections.pop(question.kind, None)
        if connection is not None:
            self._servers.dispatcher.discard(connection.fd, connection.sock)

    def _rest(self) -> None:
        """Hold nothing while there is nothing to wait for."""
        self._servers.ticks.stop(self)
        channels: list[Channel] = [*self._links.values(), *self._connections.values()]
        for channel in channels:
            self._servers.dispatcher.discard(channel.fd, channel.sock)
        self._links.clear()
        self._connections.clear()


class Question:
    """A or AAAA of the name.

    Attributes:
        kind: A or AAAA
        number: random id
        name: in wire form
        turn: how many servers were considered so far
        asked: the number of the server that was asked last, -1 for none
        failed: numbers of the servers that have no answer to this
    """

    __slots__ = ("_names", "asked", "failed", "kind", "name", "number", "turn")

    def __init__(self, kind: int, names: Sequence[bytes]) -> None:
        self.kind = kind
        self._names = list(names)
        self.turn = 0
        self.asked = -1
        self.next_name()

    def next_name(self) -> bool:
        """Ask for the next candidate from now on, if there is one."""
        if not self._names:
            return False
        self.name = self._names.pop(0)
        self.number = int.from_bytes(os.urandom(2), "big")
        self.failed: set[int] = set()
        return True


class Channel:
    """A socket of a query to one server."""

    __slots__ = ("fd", "number", "query", "sock")

    def __init__(self, owner: Query, number: int, sock: Socket) -> None:
        self.query = owner
        self.number = number
        self.sock = sock
        self.fd = sock.fileno()

    def crash(self) -> None:
        """The handler raised."""
        self.query.crash()


class Link(Channel):
    """Datagrams."""

    __slots__ = ()

    def on_event(self, mask: int) -> None:
        """Datagrams came, or an ICMP error."""
        owner = self.query
        for _ in range(_DATAGRAMS):
            try:
                message = self.sock.recv(_DATAGRAM)
            except BlockingIOError:
                return
            except OSError as error:
                owner.unreachable(self.number, error)
                return
            owner.received(self.number, message)
            if owner._links.get(self.number) is not self:
                return

    def wants(self, fd: int) -> int:
        """For the portable selector."""
        return IN


class Connection(Channel):
    """A question asked by TCP, each message behind its length (RFC 1035 section 4.2.2)."""

    __slots__ = ("_input", "_output", "question")

    def __init__(self, owner: Query, question: Question, number: int, sock: Socket) -> None:
        super().__init__(owner, number, sock)
        self.question = question
        message = query(question.number, question.name, question.kind)
        self._output = len(message).to_bytes(2, "big") + message
        self._input = b""

    def on_event(self, mask: int) -> None:
        """It is connected, or has more of the answer, or is broken."""
        try:
            if self._output:
                self._output = self._output[self.sock.send(self._output) :]
            while True:
                data = self.sock.recv(_STREAM)
                self._input += data
                size = 2 + int.from_bytes(self._input[:2], "big")
                got = len(self._input)
                if not data or (got > 1 and (size > _STREAM or got >= size)):
                    break
        except BlockingIOError:
            return
        except OSError as error:
            self.query.unanswered(self.question, self.number, error.strerror)
            return
        question = self.question
        try:
            if got < size or size > _STREAM:
                raise MessageError("the message is cut, or too long")
            answer = parse(self._input[2:size], question.number, question.name, question.kind)
            if answer.truncated:
                raise MessageError("the message is truncated")
        except MessageError as error:
            self.query.unanswered(question, self.number, error.detail)
        else:
            self.query.answered(question, self.number, answer)

    def wants(self, fd: int) -> int:
        """For the portable selector."""
        return OUT if self._output else IN
