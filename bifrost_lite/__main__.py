"""The entry point. What it keeps out of memory, a router's Python does not even have."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; see `cli.main`."""
    # asyncio imports ssl and hashlib imports OpenSSL's library where they can: together 8 MB
    # for nothing, since the daemon speaks no TLS and needs only SHA-1 and SHA-256 of Python's own.
    sys.modules.setdefault("ssl", None)  # type: ignore[arg-type]
    sys.modules.setdefault("_hashlib", None)  # type: ignore[arg-type]
    try:
        from .cli import main as command_line
    except KeyboardInterrupt:  # Ctrl-C while it loads
        return 130
    return command_line()


if __name__ == "__main__":
    sys.exit(main())
