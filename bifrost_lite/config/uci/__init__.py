"""OpenWrt's configuration files, /etc/config/*, read and written as libuci does it.

`scan` cuts text into words, `model` is what they say and how the `uci` tool shows it, `parse`
gets from one to the other, `batch` changes it by the tool's commands. All of it is pure;
``python -m bifrost_lite.config.uci`` opens files and prints what the tool would print.

    # a comment, from a # outside quotes to the end of the line
    config listen 'lan'
            option port '8080'
            list users 'anna'

Byte for byte libuci's grammar, with what nobody would expect of it: its faults are the grammar
that every other program on the router reads.

- The first fault makes the whole file unreadable.
- ``option x ''`` sets nothing, and does not even undo an earlier ``option x '1'``;
  ``list x ''`` adds an empty text.
- ``list`` after ``option`` of one name makes a list of both, ``option`` after ``list`` replaces
  it. Either stays where the name stood first.
- A ``config`` line with the name and type of an earlier section goes on with that.
- After a quoted word ``;`` ends a command; after a bare one it hides the rest of the line.
- Nothing is decoded: ``"\\n"`` is an n. What follows a NUL in a line is mostly dropped, and the
  next line joined to it.
"""

from __future__ import annotations

from .model import Option, Package, Section
from .parse import dump, parse
from .scan import UciError

__all__ = ["Option", "Package", "Section", "UciError", "dump", "parse"]
