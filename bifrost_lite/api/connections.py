"""The connections that run now: list them, count them by client, close them."""

from __future__ import annotations

from time import time

from msgspec import Struct

from ..errors import Reason
from ..events import rfc3339
from ..rest import Call, Refused, Response, reply
from .context import Context


class Connection(Struct):
    """A connection; its bytes are those that moved until now."""

    id: int
    client_ip: str
    client_port: int
    protocol: str
    host: str
    backend: str
    route: str
    start_time: str
    age: int
    bytes_sent: int
    bytes_received: int


class Connections(Struct):
    """All of them, the oldest first."""

    connections: list[Connection]
    count: int
    time: str


class Client(Struct):
    """What one client address has open.

    Attributes:
        connections: how many
    """

    client_ip: str
    connections: int
    bytes_sent: int
    bytes_received: int
    first_seen: str


class Clients(Struct):
    """All clients, the busiest first."""

    clients: list[Client]
    count: int
    time: str


class Closed(Struct):
    """How many connections were closed."""

    closed: int


async def list_connections(ctx: Context, call: Call) -> Response:
    """The connections that run, the oldest first."""
    client = call.address("client")
    now = time()
    found = [
        Connection(
            id=session.id,
            client_ip=session.client_ip,
            client_port=session.client_port,
            protocol=session.protocol,
            host=session.host,
            backend=session.backend,
            route=session.route,
            start_time=rfc3339(session.started),
            age=max(0, int(now - session.started)),
            bytes_sent=session.bytes_sent,
            bytes_received=session.bytes_received,
        )
        for session in ctx.plane.connections.values()
        if client is None or session.client_ip == client
    ]
    return reply(Connections(found, len(found), rfc3339(now)))


async def list_clients(ctx: Context, call: Call) -> Response:
    """The clients that have connections, the busiest first."""
    clients: dict[str, Client] = {}
    for session in sorted(ctx.plane.connections.values(), key=lambda session: session.started):
        client = clients.get(session.client_ip)
        if client is None:
            start = rfc3339(session.started)
            client = clients[session.client_ip] = Client(session.client_ip, 0, 0, 0, start)
        client.connections += 1
        client.bytes_sent += session.bytes_sent
        client.bytes_received += session.bytes_received
    found = sorted(clients.values(), key=lambda client: -client.connections)
    return reply(Clients(found, len(found), rfc3339(time())))


async def close_one(ctx: Context, call: Call) -> Response:
    """Close a connection; it ends with the reason `closed_by_operator`."""
    text = call.parts[0]
    known = text.isascii() and text.isdigit() and len(text) < 16
    session = ctx.plane.connections.get(int(text)) if known else None
    if session is None:
        raise Refused(404, "not_found", "There is no connection of this id.")
    session.close(Reason.OPERATOR)
    return reply(Closed(1))


async def close_of_client(ctx: Context, call: Call) -> Response:
    """Close all connections of a client; where none is named, nothing rather than all."""
    client = call.address("client")
    if client is None:
        raise Refused(400, "bad_parameter", "The parameter 'client' must name an IP address.")
    # Closing one takes it out of the table.
    mine = [s for s in ctx.plane.connections.values() if s.client_ip == client]
    for session in mine:
        session.close(Reason.OPERATOR)
    return reply(Closed(len(mine)))
