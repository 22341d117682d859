"""Print what OpenWrt's `uci` tool prints about a file.

    python -m bifrost_lite.config.uci export|show|showx FILE
    python -m bifrost_lite.config.uci batch FILE COMMANDS

The file is taken for the package of its name up to a dot, so that one can be compared anywhere.
``showx`` is ``uci -X show``. ``batch`` runs the commands in a second file, for that package alone
and in memory: ``commit`` writes nothing, ``import`` and ``help`` are unknown. Errors and exit
statuses are those of the tool; 2 for a command line that is none of these.
"""

from __future__ import annotations

import os
import sys
from stat import S_ISREG

from . import UciError, parse
from .batch import MISSING, Session
from .model import export, show
from .parse import MAX_TEXT, is_type

_PRINT = {
    "export": export,
    "show": show,
    "showx": lambda package: show(package, extended=False),
}


def main(args: list[str]) -> int:
    """Run one command; answers the exit status."""
    command, *paths = args or [""]
    if len(paths) != (2 if command == "batch" else 1 if command in _PRINT else -1):
        print(__doc__, file=sys.stderr)
        return 2
    name = os.path.basename(paths[0]).partition(".")[0]
    try:
        if not is_type(os.fsencode(name)):
            return _failed("Parse error")
        if not S_ISREG(os.stat(paths[0]).st_mode):
            return _failed(MISSING)
        data = [_read(path) for path in paths]
        if command == "batch":
            if len(data[1]) > MAX_TEXT:
                return _failed(f"more than {MAX_TEXT} bytes of commands")
            session = Session(name, data[0])
            session.batch(data[1])
            _write(sys.stdout.fileno(), session.out)
            _write(sys.stderr.fileno(), session.err)
        else:
            _write(sys.stdout.fileno(), _PRINT[command](parse(data[0], name)))
    except UciError as error:
        return _failed(error.tool)
    except FileNotFoundError:
        return _failed(MISSING)
    except OSError:
        return _failed("I/O error")
    return 0


def _failed(message: str) -> int:
    print(f"uci: {message}", file=sys.stderr)
    return 1


def _read(path: str) -> bytes:
    """A file, or so much of it that it is seen to be too large."""
    with open(path, "rb") as file:
        return file.read(MAX_TEXT + 1)


def _write(descriptor: int, data: bytes | bytearray) -> None:
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
