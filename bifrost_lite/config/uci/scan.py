"""Words out of text in libuci's quoting, and where they stand.

libuci reads lines into a buffer that doubles, and goes on in the same buffer where a quoted
text or a backslash leads into the next line. Its own error positions are counted in that
buffer, and what it makes of NUL bytes depends on the buffer's size, so both are kept here.
"""

from __future__ import annotations

import re
from typing import NoReturn

from ...errors import BifrostError

_BUFFER = 32  # bytes of libuci's buffer at first

_space = re.compile(rb"\s*").match
_bare = re.compile(rb"[^\s'\"#;\\]+").match
_quoted = re.compile(rb'[^"\\]+').match

# A place in the text: of which pieces, and how far into them.
Mark = tuple[list[tuple[int, int]], int]


class UciError(BifrostError):
    """The text is no UCI.

    Attributes:
        reason: what is wrong, in libuci's words
        line: 1-based line where the offending word or quote begins
        column: 1-based byte in that line
        tool: the error as the `uci` tool tells it; its positions are those of its buffer
    """

    def __init__(self, reason: str, line: int, column: int, tool: str) -> None:
        super().__init__(f"line {line}, column {column}: {reason}")
        self.reason = reason
        self.line = line
        self.column = column
        self.tool = tool


class Scanner:
    """A text being read.

    Attributes:
        piece: what is left in the buffer since it was last filled; empty at the end of the text
        at: how much of it is read
        row: 1-based line where it begins
        lines: how many line ends libuci has counted
    """

    __slots__ = (
        "_buffer",
        "_counted",
        "_data",
        "_next",
        "_parts",
        "_start",
        "at",
        "lines",
        "piece",
        "row",
    )

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._next = 0  # what of the data is in the buffer, or was
        self._counted = 0  # up to there `row` has counted
        self.row = 1
        self.forget()

    def forget(self) -> None:
        """Go on with a buffer like the first one."""
        self._buffer = _BUFFER
        self._start = 0  # where in the buffer the piece begins
        self._parts: list[tuple[int, int]] = []  # where in the piece which part of the data is
        self.piece = b""
        self.at = 0
        self.lines = 0

    @property
    def more(self) -> bool:
        """Whether there are lines that were not begun."""
        return self._next < len(self._data)

    def line(self) -> None:
        """Begin the next line."""
        self._start = self.at = 0
        self._fill()

    def _fill(self) -> None:
        """Put the next line into the buffer, from here on."""
        data = self._data
        self.row += data.count(b"\n", self._counted, self._next)
        self._counted = self._next
        self._start = end = self._start + self.at
        self._parts = []
        self.at = 0
        if end >= self._buffer - 1:
            self._buffer *= 2
        texts: list[bytes] = []
        while self.more:
            begin = self._next
            most = min(begin + self._buffer - 1 - end, len(data))
            self._next = data.find(b"\n", begin, most) + 1 or most
            # To C the text ends at a NUL, and what came in with it is overwritten.
            text = data[begin : self._next].partition(b"\0")[0]
            if not text:
                break
            self._parts.append((end - self._start, begin))
            texts.append(text)
            end += len(text)
            if text.endswith(b"\n"):
                self.lines += 1
                break
            self._buffer *= 2
        self.piece = b"".join(texts)

    def mark(self, at: int | None = None) -> Mark:
        """Here, or elsewhere in the piece, for `fail`."""
        return self._parts, self.at if at is None else at

    def fail(self, reason: str, mark: Mark) -> NoReturn:
        """Raise `UciError` about what stands at `mark`."""
        parts, at = mark
        offset = self._next
        for index, begin in reversed(parts):
            if index <= at:
                offset = begin + at - index
                break
        line = self._data.count(b"\n", 0, offset) + 1
        column = offset - self._data.rfind(b"\n", 0, offset)
        tool = f"Parse error ({reason}) at line {self.lines}, byte {self._start + self.at}"
        raise UciError(reason, line, column, tool)

    def skip(self) -> None:
        """Pass white space."""
        found = _space(self.piece, self.at)
        assert found
        self.at = found.end()

    def word(self) -> tuple[bytes, Mark]:
        """The next word, empty at the end of a command, and where it begins.

        Raises:
            UciError: a quote is not closed
        """
        self.skip()
        mark = self.mark()
        if self._char() == b";":
            self.at += 1
            return b"", mark
        out: list[bytes] = []
        bare = True
        while True:
            run = _bare(self.piece, self.at)
            if run:
                out.append(run[0])
                self.at = run.end()
            char = self._char()
            if char == b"'":
                self._single(out)
            elif char == b'"':
                self._double(out)
            elif char == b"\\":
                self._escape(out)
            else:
                break
            bare = False
        if char == b"#" or (char == b";" and bare):
            # libuci ends the word by a NUL: over the semicolon, unless quotes made room.
            self.piece = self.piece[: self.at]
        elif char and char != b";":
            self.at += 1
        return b"".join(out), mark

    def _char(self) -> bytes:
        return self.piece[self.at : self.at + 1]

    def _single(self, out: list[bytes]) -> None:
        mark = self.mark()
        self.at += 1
        while (end := self.piece.find(b"'", self.at)) < 0:
            self._text_goes_on(out, mark, "'")
        out.append(self.piece[self.at : end])
        self.at = end + 1

    def _double(self, out: list[bytes]) -> None:
        mark = self.mark()
        self.at += 1
        while (char := self._char()) != b'"':
            run = _quoted(self.piece, self.at)
            if run:
                out.append(run[0])
                self.at = run.end()
            elif char:
                self._escape(out)
            else:
                self._text_goes_on(out, mark, '"')
        self.at += 1

    def _text_goes_on(self, out: list[bytes], mark: Mark, quote: str) -> None:
        out.append(self.piece[self.at :])
        self.at = len(self.piece)
        self._fill()
        if not self.piece:
            self.fail(f"EOF with unterminated {quote}", mark)

    def _escape(self, out: list[bytes]) -> None:
        self.at += 1
        # One more than may follow: a slice of the rest for each backslash would cost its square.
        rest = self.piece[self.at : self.at + 3]
        if rest in (b"", b"\n", b"\r\n"):
            self._fill()
        else:
            out.append(rest[:1])
            self.at += 1
