"""HTTP/1.1 message heads: strict for what clients send, lenient where safe for answers.

A request has one reading here or none (RFC 9112): CRLF ends lines and nothing else does,
exactly one Host, one way to tell the length of the body. What could be read in two ways is
refused, so no server behind us can see another message than we did. Framing fields are
never passed on; they are written anew from what was understood.

Speed: one expression checks a whole block of fields, one more takes out the few that mean
something to a proxy; all others are passed on as one piece.
"""

from __future__ import annotations

import re

from ..errors import ProtocolError, Reason

# Bytes of a request head; nginx has 32 KiB, Apache 8 KiB a line, h11 16 KiB.
HEAD_LIMIT = 16 * 1024
# Fields of a request head; Apache and gunicorn have 100 as well.
FIELD_LIMIT = 100
# Bytes of a request target, RFC 9112 section 3 asks for 8000 at least.
TARGET_LIMIT = 8 * 1024
# Bytes and fields of a response head: cookies of big sites pass 16 KiB.
RESPONSE_HEAD_LIMIT = 64 * 1024
RESPONSE_FIELD_LIMIT = 400

_TCHAR = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_TOKEN = _TCHAR + rb"+"
# Field values: visible bytes, spaces and tabs; RFC 9110 section 5.5. Leading blanks are part
# of this expression, lest two of them try to share a long run of blanks in every way.
_VALUE = rb"[^\x00-\x08\x0a-\x1f\x7f]*"
# The longest registered method has 17 bytes; whatever passes here is kept in records.
_REQUEST_LINE = rb"(" + _TCHAR + rb"{1,32}) ([\x21-\x7e\x80-\xff]+) HTTP/([0-9])\.([0-9])\r\n"
_STATUS_LINE = rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: (" + _VALUE + rb"))?\r\n"
_FIELDS = rb"((?:" + _TOKEN + rb":" + _VALUE + rb"\r\n)*)\r\n"
_request = re.compile(_REQUEST_LINE + _FIELDS).fullmatch
_request_line = re.compile(_REQUEST_LINE).match
_response = re.compile(_STATUS_LINE + _FIELDS).fullmatch
_status_line = re.compile(_STATUS_LINE).match
_is_token = re.compile(_TOKEN).fullmatch
_LENGTH_DIGITS = 18  # of a Content-Length: far over any body, under 2**63
_answer_end = re.compile(rb"\n\r?\n").search
_folded = re.compile(rb"\n[ \t]+").sub
_padded = re.compile(rb"(?m)^(" + _TOKEN + rb")[ \t]+:").sub

# Connection options that name no field, or one that is not passed on anyway.
_OPTIONS = frozenset((b"", b"close", b"keep-alive", b"upgrade", b"te", b"proxy-connection"))

# Fields about one connection only (RFC 9110 section 7.6.1), two of HTTP/1.0's children, and
# the three that are written anew: Host and what tells the length.
_split_special = re.compile(
    rb"(?im)^(host|content-length|transfer-encoding|connection|keep-alive|proxy-connection|"
    rb"proxy-authorization|proxy-authenticate|proxy-authentication-info|te|trailer|upgrade):"
    rb"([^\r\n]*)\r\n"
).split


def bad(detail: str, reason: Reason = Reason.BAD_REQUEST) -> ProtocolError:
    """The error for a message that is refused."""
    return ProtocolError(reason, detail)


class Head:
    """What both kinds of heads have.

    Attributes:
        minor: 1 for HTTP/1.1, 0 for HTTP/1.0
        block: all field lines, each with its CRLF
        kept: those that are passed on: not about one connection, not Host, not framing
        keep_alive: the sender lets the connection be used again
        options: lower-case options of the Connection fields
        upgrade: value of the Upgrade field, b"" without one
        chunked: the body is in chunks
    """

    __slots__ = ("block", "chunked", "keep_alive", "kept", "minor", "options", "upgrade")

    minor: int
    block: bytes
    kept: bytes
    keep_alive: bool
    options: list[bytes]
    upgrade: bytes
    chunked: bool

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """(lower-case name, value) of every field, in order."""
        pairs = (line.partition(b":") for line in self.block.split(b"\r\n")[:-1])
        return [(name.lower(), value.strip(b" \t")) for name, _, value in pairs]

    def get(self, name: bytes) -> bytes | None:
        """The value of the first field of that lower-case name."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    def _read_connection(self, options: list[bytes]) -> None:
        self.options = options
        if not options:
            self.keep_alive = self.minor > 0
            return
        self.keep_alive = b"close" not in options and (self.minor > 0 or b"keep-alive" in options)
        for option in options:
            if option not in _OPTIONS:
                self._drop_named(frozenset(options))
                break

    def _drop_named(self, names: frozenset[bytes]) -> None:
        """What Connection names goes no further; it may name thousands, so all in one pass."""
        lines = self.kept.splitlines(keepends=True)
        kept = (line for line in lines if line.partition(b":")[0].lower() not in names)
        self.kept = b"".join(kept)


class Request(Head):
    """The head of a request.

    Attributes:
        method: as sent, e.g. ``GET``
        target: as sent: absolute-form, origin-form, authority-form or ``*``
        content_length: bytes of body announced, None where not
    """

    __slots__ = ("content_length", "method", "target")

    method: bytes
    target: bytes
    content_length: int | None


class Response(Head):
    """The head of a target's answer.

    Attributes:
        status: 100 to 999
        phrase: the reason phrase
        length: bytes of body, None where it ends with the connection or in chunks
        announced: the one Content-Length sent, None without; HEAD and 304 have it with no body
        encoding: the transfer codings as passed on, b"" for none
    """

    __slots__ = ("announced", "encoding", "length", "phrase", "status")

    status: int
    phrase: bytes
    length: int | None
    announced: int | None
    encoding: bytes


def find_head_end(buffer: bytes) -> int:
    """Where the body starts in `buffer`, or -1 while the head is incomplete.

    Raises:
        ProtocolError: the head is already too large, or has a line without CRLF
    """
    end = buffer.find(b"\r\n\r\n")
    if end >= 0:
        if end + 4 > HEAD_LIMIT:
            raise _too_large(buffer)
        return end + 4
    if len(buffer) >= HEAD_LIMIT:
        raise _too_large(buffer)
    if buffer.count(b"\n") != buffer.count(b"\r\n"):
        raise bad("a line does not end in CRLF")
    return -1


def _too_large(buffer: bytes) -> ProtocolError:
    line_end = buffer.find(b"\r\n", 2)  # not the empty line that may stand before the request
    if line_end < 0 or line_end > TARGET_LIMIT + 64:
        return bad("the request target is over 8 KiB", Reason.TARGET_TOO_LONG)
    return bad("the request head is over 16 KiB", Reason.HEAD_TOO_LARGE)


def parse_request(head: bytes) -> Request:
    """Read a whole request head, its final empty line included. RFC 9112 sections 2 to 7.

    Raises:
        ProtocolError: not one well-formed request with one meaning
    """
    # One empty line before the request is tolerated, RFC 9112 section 2.2.
    start = 2 if head.startswith(b"\r\n") else 0
    match = _request(head, start)
    if match is None or len(match[2]) > TARGET_LIMIT:
        raise _bad_head(head, start)
    request = Request()
    request.method, request.target, major, minor, block = match.groups()
    if major != b"1":
        raise bad("only HTTP/1.1 and HTTP/1.0 are spoken here", Reason.BAD_VERSION)
    request.minor = 1 if minor != b"0" else 0
    request.block = block
    if block.count(b"\n") > FIELD_LIMIT:
        raise bad("the request has over 100 fields", Reason.HEAD_TOO_LARGE)
    parts = _split_special(block)
    request.kept = b"".join(parts[::3])
    request.upgrade = b""
    hosts = 0
    length = encoding = None
    options: list[bytes] = []
    for at in range(1, len(parts), 3):
        name = parts[at].lower()
        value = parts[at + 1].strip(b" \t")
        if name == b"host":
            hosts += 1
        elif name == b"content-length":
            if length is not None:
                raise bad("there are two Content-Length fields")
            if not value.isdigit() or len(value) > _LENGTH_DIGITS:
                raise bad("Content-Length is not a number")
            length = int(value)
        elif name == b"transfer-encoding":
            if encoding is not None:
                raise bad("there are two Transfer-Encoding fields")
            encoding = value.lower()
        elif name == b"connection":
            options += [option.strip(b" \t") for option in value.lower().split(b",")]
        elif name == b"upgrade" and request.minor:  # RFC 9110 section 7.8: not in HTTP/1.0
            request.upgrade = value
    if hosts != 1 and (hosts or request.minor):
        raise bad("there must be exactly one Host field")
    if encoding is not None:
        if length is not None:
            raise bad("Content-Length and Transfer-Encoding contradict each other")
        if encoding != b"chunked" or not request.minor:
            raise bad("the only Transfer-Encoding taken is 'chunked', in HTTP/1.1")
    request.content_length = length
    request.chunked = encoding is not None
    request._read_connection(options)
    return request


def _bad_head(head: bytes, start: int) -> ProtocolError:
    """The error that tells what is wrong with a request head."""
    line_end = head.find(b"\r\n", start)
    if line_end - start > TARGET_LIMIT:
        return bad("the request target is over 8 KiB", Reason.TARGET_TOO_LONG)
    if not _request_line(head, start):
        return bad("the request line is not 'METHOD TARGET HTTP/1.1'")
    for line in head[line_end + 2 :].split(b"\r\n"):
        if line[:1] in (b" ", b"\t"):
            return bad("a field is folded over lines")
        if b"\n" in line or b"\r" in line:
            return bad("a line does not end in CRLF")
        if b"\0" in line:
            return bad("a field has a NUL byte")
        name, colon, _ = line.partition(b":")
        if colon and name[-1:] in (b" ", b"\t"):
            return bad("there is a space before the colon of a field")
        if line and not (colon and _is_token(name)):
            return bad("a line of the head is not 'name: value'")
    return bad("a field has a control character")


def find_response_end(buffer: bytes, seen: int = 0) -> int:
    """Where the body of an answer starts, or -1 while its head is incomplete.

    Args:
        buffer: all that arrived of the answer
        seen: bytes of it in which an earlier call found no end; to search them again for each
            byte of a head that trickles in would take seconds

    Raises:
        ProtocolError: the head is over 64 KiB
    """
    start = seen - 3 if seen > 3 else 0
    find = buffer.find
    at = find(b"\r\n\r\n", start)
    end = at + 4
    # An end with bare LF may stand before it, and share its first CRLF.
    if at < 0 or find(b"\n\n", start, at) >= 0 or find(b"\n\r\n", start, at + 2) >= 0:
        match = _answer_end(buffer, start)
        end = match.end() if match else -1
    if end > RESPONSE_HEAD_LIMIT or (end < 0 and len(buffer) > RESPONSE_HEAD_LIMIT):
        raise bad("the answer's head is over 64 KiB", Reason.BAD_RESPONSE)
    return end


def parse_response(head: bytes, request_method: bytes) -> Response:
    """Read a whole response head and decide how its body ends. RFC 9112 section 6.3.

    Bare LF ends lines, folded lines are joined and blanks before a colon are dropped; the
    head is written anew, so none of that reaches the client.

    Args:
        head: with its final empty line
        request_method: decides, with the status, whether there is a body

    Raises:
        ProtocolError: BAD_RESPONSE, where the meaning is not certain
    """
    match = _response(head) or _response(_tidy(head))
    if match is None:
        if not _status_line(_tidy(head)):
            raise bad("the answer has no HTTP/1 status line", Reason.BAD_RESPONSE)
        raise bad("a line of the answer's head is not 'name: value'", Reason.BAD_RESPONSE)
    minor, status, phrase, block = match.groups()
    response = Response()
    response.minor = int(minor)
    response.status = int(status)
    response.phrase = phrase or b""
    if block.count(b"\n") > RESPONSE_FIELD_LIMIT:
        raise bad("the answer has over 400 fields", Reason.BAD_RESPONSE)
    response.block = block
    parts = _split_special(block)
    response.kept = b"".join(parts[::3])
    response.upgrade = b""
    lengths: list[bytes] = []
    codings: list[bytes] = []
    options: list[bytes] = []
    for at in range(1, len(parts), 3):
        name, value = parts[at].lower(), parts[at + 1]
        if name == b"content-length":
            lengths += value.split(b",")
        elif name == b"transfer-encoding":
            codings += [part.strip(b" \t") for part in value.lower().split(b",")]
        elif name == b"connection":
            options += [part.strip(b" \t") for part in value.lower().split(b",")]
        elif name == b"upgrade":
            response.upgrade = value.strip(b" \t")
    response._read_connection(options)
    _frame(response, request_method, lengths, codings)
    return response


def _tidy(head: bytes) -> bytes:
    """A response head as it should have been sent: CRLF, no folds, no blanks before colons."""
    status_line, line_end, fields = head.replace(b"\r\n", b"\n").partition(b"\n")
    fields = _padded(rb"\1:", _folded(b" ", fields))
    return (status_line + line_end + fields).replace(b"\n", b"\r\n")


def _frame(
    response: Response, request_method: bytes, lengths: list[bytes], codings: list[bytes]
) -> None:
    """Decide how the body of an answer ends, RFC 9112 section 6.3 in its order."""
    response.length = response.announced = None
    response.chunked = False
    response.encoding = b""
    if lengths:
        length = lengths[0].strip(b" \t")
        same = len(lengths) == 1 or all(other.strip(b" \t") == length for other in lengths)
        if same and length.isdigit() and len(length) <= _LENGTH_DIGITS:
            response.announced = int(length)
    if request_method == b"HEAD" or response.status in (204, 304) or response.status < 200:
        response.length = 0
        if response.status == 101 and not response.upgrade:
            raise bad("the target switches protocols without a name", Reason.BAD_RESPONSE)
        if response.status == 204 and (codings or response.announced):
            response.keep_alive = False  # it may send a body all the same
    elif codings:
        if codings[-1] != b"chunked" or codings.count(b"chunked") != 1:
            raise bad("the answer's Transfer-Encoding does not end in chunked", Reason.BAD_RESPONSE)
        if not all(map(_is_token, codings)):
            raise bad("the answer's Transfer-Encoding is not a list of names", Reason.BAD_RESPONSE)
        response.chunked = True
        response.encoding = b", ".join(codings)
        if lengths or not response.minor:
            response.keep_alive = False
    elif lengths:
        if response.announced is None:
            raise bad("the answer's Content-Length is not one number", Reason.BAD_RESPONSE)
        response.length = response.announced
    else:
        response.keep_alive = False


def write_request(
    request: Request, host: bytes, path: bytes, via: bool, authorization: bytes = b""
) -> bytes:
    """The head that the target gets: own Host and framing, nothing hop-by-hop.

    Args:
        request: what the client sent
        host: value of the Host field
        path: the target, in origin-form or, for another proxy, in absolute-form
        via: add a Via field (RFC 9110 section 7.6.3)
        authorization: value of a Proxy-Authorization field, b"" for none
    """
    framing = b""
    if request.content_length is not None:
        framing = b"Content-Length: %d\r\n" % request.content_length
    elif request.chunked:
        framing = b"Transfer-Encoding: chunked\r\n"
    if request.upgrade and b"upgrade" in request.options:
        framing += b"Connection: upgrade\r\nUpgrade: %b\r\n" % request.upgrade
    if via:
        framing += b"Via: 1.%d bifrost-lite\r\n" % request.minor
    if authorization:
        framing += b"Proxy-Authorization: %b\r\n" % authorization
    return b"%b %b HTTP/1.1\r\nHost: %b\r\n%b%b\r\n" % (
        request.method,
        path,
        host,
        request.kept,
        framing,
    )


def write_response(response: Response, connection: bytes, framing: bytes, via: bool) -> bytes:
    """The head that the client gets: own framing and Connection, nothing hop-by-hop.

    Args:
        response: what the target sent
        connection: value of the Connection field, b"" for none
        framing: a whole framing field line with its CRLF, b"" for none
        via: add a Via field
    """
    if connection:
        framing += b"Connection: %b\r\n" % connection
    if response.status == 101:
        framing += b"Upgrade: %b\r\n" % response.upgrade
    if via:
        framing += b"Via: 1.%d bifrost-lite\r\n" % response.minor
    return b"HTTP/1.1 %d %b\r\n%b%b\r\n" % (
        response.status,
        response.phrase,
        response.kept,
        framing,
    )
