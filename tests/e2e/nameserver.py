"""A name server that knows what its test tells it."""

from __future__ import annotations

import socket
import socketserver
import struct
import threading
from collections.abc import Mapping, Sequence

_A, _AAAA, _IN = 1, 28, 1
_RESPONSE, _AUTHORITATIVE, _RECURSION = 0x8000, 0x0400, 0x0180
_NAME_ERROR = 3


class NameServer:
    """Answers A and AAAA over UDP (RFC 1035 section 4); a context manager.

    Args:
        zone: the addresses of each name; a name that is not in it does not exist

    Attributes:
        asked: the names and record types (1 A, 28 AAAA) that were asked, in order
    """

    def __init__(self, zone: Mapping[str, Sequence[str]]) -> None:
        self._zone = zone
        self.asked: list[tuple[str, int]] = []
        answer = self._answer

        class Handler(socketserver.BaseRequestHandler):
            request: tuple[bytes, socket.socket]

            def handle(self) -> None:
                query, reply = self.request
                reply.sendto(answer(query), self.client_address)

        self._server = socketserver.UDPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def address(self) -> str:
        """host:port"""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def _answer(self, query: bytes) -> bytes:
        labels, at = [], 12
        while length := query[at]:
            labels.append(query[at + 1 : at + 1 + length].decode("ascii").lower())
            at += 1 + length
        name = ".".join(labels)
        kind, _ = struct.unpack_from("!HH", query, at + 1)
        question = query[12 : at + 5]
        self.asked.append((name, kind))
        family = {_A: socket.AF_INET, _AAAA: socket.AF_INET6}.get(kind)
        records = [
            socket.inet_pton(family, address)
            for address in self._zone.get(name, ())
            if family == (socket.AF_INET6 if ":" in address else socket.AF_INET)
        ]
        flags = _RESPONSE | _AUTHORITATIVE | _RECURSION
        if name not in self._zone:
            flags |= _NAME_ERROR
        head = query[:2] + struct.pack("!HHHHH", flags, 1, len(records), 0, 0)
        # 0xC00C points at the name of the question.
        answers = (
            struct.pack("!HHHIH", 0xC00C, kind, _IN, 60, len(packed)) + packed
            for packed in records
        )
        return head + question + b"".join(answers)

    def __enter__(self) -> NameServer:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
