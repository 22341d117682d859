"""The record of one finished request, for the log ring and the request ring, and log levels."""

from __future__ import annotations

from msgspec import Struct

LEVELS = ("debug", "info", "warn", "error")
DEBUG, INFO, WARN, ERROR = range(4)


class Finished(Struct, gc=False):
    """One request that was answered, tunnelled or refused.

    Attributes:
        id: number of the record for the life of the process
        time: Unix time in seconds at its end
        protocol: HTTP, CONNECT, SOCKS5 or SOCKS4; "" where it was not told
        method: the HTTP method; for SOCKS the protocol's name; "" where it was not told
        url: host and path without query for HTTP, else host and port; cut at 256 characters;
            "" where the request never named one
        host: target with its port, "" where the request never named one
        client_ip: the client's address
        backend: name of the backend, "" where none was chosen
        route: name of the route, "" where none was chosen
        status_code: HTTP status sent to the client, None where the client spoke no HTTP
        duration_ms: milliseconds from the request's first byte to its end
        bytes_sent: payload written to the target
        bytes_received: payload read from the target
        error: word of the `Reason` of a failure, else ""
    """

    id: int
    time: float
    protocol: str
    method: str
    url: str
    host: str
    client_ip: str
    backend: str
    route: str
    status_code: int | None
    duration_ms: int
    bytes_sent: int
    bytes_received: int
    error: str
