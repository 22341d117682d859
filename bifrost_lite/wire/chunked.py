"""The chunked transfer coding, RFC 9112 section 7.1: strict, and nothing passed through.

Chunks are decoded and written anew: extensions and trailers, which nobody needs and
attackers love, end here.
"""

from __future__ import annotations

import re

from ..errors import ProtocolError, Reason

# Bytes of a chunk-size line with its extensions, and of all trailers together.
LINE_LIMIT = 1024
TRAILER_LIMIT = 8 * 1024
LAST = b"0\r\n\r\n"

# 15 hexadecimal digits: far over any real chunk, far under 2**63.
_size_line = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?").fullmatch
_trailer = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[^\x00-\x08\x0a-\x1f\x7f]*").fullmatch


class Decoder:
    """Takes a chunked body apart as it arrives.

    Attributes:
        done: the last chunk and its trailers were read
        rest: what came behind the body, once done
    """

    __slots__ = ("_buffer", "_left", "_reason", "_trailers", "done", "rest")

    def __init__(self, reason: Reason) -> None:
        self._reason = reason  # what a fault is called: the client's or the target's
        self._buffer = b""
        self._left = 0  # bytes of the current chunk still to come, its CRLF included
        self._trailers = -1  # bytes of trailers read, -1 before the last chunk
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """Take bytes from the wire; answers the payload in them.

        Raises:
            ProtocolError: the coding is broken
        """
        payload = []
        data = self._buffer + data
        at = 0
        while True:
            if self._left > 2:
                piece = data[at : at + self._left - 2]
                payload.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if self._left > 2:
                    break
            if self._left:
                if len(data) - at < 2:
                    if data[at : at + 1] not in (b"", b"\r"):
                        raise self._broken("a chunk does not end in CRLF")
                    break
                if data[at : at + 2] != b"\r\n":
                    raise self._broken("a chunk does not end in CRLF")
                at += 2
                self._left = 0
            line_end = data.find(b"\r\n", at)
            if line_end < 0:
                room = LINE_LIMIT if self._trailers < 0 else TRAILER_LIMIT - self._trailers
                if len(data) - at > room + 1:  # the last one may be a CR
                    raise self._broken("a chunk-size line or a trailer is too long")
                if data.find(b"\n", at) >= 0:
                    raise self._broken("a line of the chunked body does not end in CRLF")
                break
            line = data[at:line_end]
            at = line_end + 2
            if self._trailers < 0:
                self._start_chunk(line)
            elif not line:
                self.done = True
                self.rest = data[at:]
                at = len(data)
                break
            else:
                self._trailers += len(line) + 2
                if self._trailers > TRAILER_LIMIT or not _trailer(line):
                    raise self._broken("the trailers are too long or not 'name: value'")
        self._buffer = data[at:]
        return b"".join(payload)

    def _start_chunk(self, line: bytes) -> None:
        match = _size_line(line)
        if match is None or len(line) > LINE_LIMIT:
            raise self._broken("a chunk size is not a hexadecimal number")
        size = int(match[1], 16)
        if size:
            self._left = size + 2
        else:
            self._trailers = 0

    def _broken(self, detail: str) -> ProtocolError:
        return ProtocolError(self._reason, detail)


def encode(payload: bytes) -> bytes:
    """One chunk; b"" for no payload, since an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b""
