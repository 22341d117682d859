"""`/etc/config/bifrost` as settings, and as the TOML that the daemon reads on a router.

`bifrost-lite uci2toml FILE` prints the TOML. With ``-o OUT`` it is written for a daemon, which
is what the init script wants. Its exit status says what to do:

    0   OUT is new: open the instance, or send HUP
    6   ``main.enabled`` is readable and off: open no instance. Nothing is written, and no other
        fault looked for
    3   faults, all of them on stderr, or a file that is no UCI, cannot be read, or was cut off
        before `main`. OUT is what it was: go on with it. Never taken for 6
    1   ubus or OUT failed, see stderr; OUT is what it was

Networks (``@lan``) are asked of `ubus`, once, where any is named. One that is not there is no
fault; ubus that does not answer is one: its silence shall not take the listeners away.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from ..config import interfaces, toml, ucimap
from ..config.faults import shown
from ..errors import BifrostError, ConfigError, Fault
from ..load import MAX_FILE, load_lists, read_file
from ..options import BAD_CONFIG, FAILED, OK, Args

if TYPE_CHECKING:
    from ..config.schema import Settings
    from ..config.uci import Package

DISABLED = 6
UBUS = ("ubus", "-S", "call", "network.interface", "dump")
PATIENCE = 10  # seconds for ubus to answer
_MODE = 0o640


class UbusError(BifrostError):
    """The networks are not known; the text says why."""


def read(path: str) -> ucimap.Reading:
    """What a file of UCI says; without ubus no network is there, rather than an error.

    Raises:
        ConfigError: it cannot be read, or is no UCI
    """
    package = ucimap.read(read_file(path))
    try:
        return _taken_apart(package, None)
    except UbusError:
        return ucimap.Reading(package, {})


def _taken_apart(package: Package, dump: str | None) -> ucimap.Reading:
    """What a package says, with the networks as a file or ubus tells them.

    Raises:
        UbusError: it names networks, and these are not known
    """
    if not ucimap.names_networks(package):
        return ucimap.Reading(package, {})
    return ucimap.Reading(package, _networks(dump))


def parse_config(raw: bytes) -> Settings:
    """The settings that the bytes of a file of UCI ask for, for a daemon that runs on it and
    reads it again at each reload; ``main.enabled`` is for the init script.

    Raises:
        ConfigError: with all faults
    """
    try:
        return _taken_apart(ucimap.read(raw), None).settings()
    except UbusError as error:
        raise ConfigError([Fault("", "", str(error))]) from None


def is_uci(path: str, raw: bytes) -> bool:
    """Whether a configuration is one of OpenWrt rather than TOML, by its place or first word."""
    import re

    if os.path.dirname(os.path.abspath(path)) == "/etc/config":
        return True
    # In TOML a key is followed by one of these two signs.
    first = rb"(?:[ \t\r\n]+|#[^\n]*\n)*(?:config|c|package|p)[ \t]+[^ \t.=]"
    return re.match(first, raw) is not None


def checked(reading: ucimap.Reading, path: str) -> Settings:
    """The settings, once their lists are seen to be right too.

    Args:
        reading: of the file
        path: of the configuration that lists may stand beside

    Raises:
        ConfigError: with all faults, at their places in UCI
    """
    settings = reading.settings()
    try:
        load_lists(settings, path)
    except ConfigError as error:
        raise ConfigError(reading.told(error.faults)) from None
    return settings


def run(args: Args) -> int:
    """The command; answers the exit status."""
    from ..show import printable

    path, out = args.words[0], args.options.get("output")
    try:
        package = ucimap.read(read_file(path))
        if out is not None and ucimap.enabled(package) is False:
            return DISABLED
        reading = _taken_apart(package, args.options.get("ubus"))
        text = toml.dump(checked(reading, out or path))
        if out is not None and reading.enabled is None:
            raise ConfigError([Fault("main", "enabled", "is missing: config main 'main'")])
    except ConfigError as error:
        for fault in error.faults:
            line = f":{fault.line}" if fault.line else ""
            print(printable(f"{path}{line}: {fault._replace(line=0)}"), file=sys.stderr)
        return BAD_CONFIG
    except UbusError as error:
        print(printable(f"bifrost-lite: {error}"), file=sys.stderr)
        return FAILED
    if out is None:
        sys.stdout.write(text)
        return OK
    try:
        _replace(out, f"# Made of {ascii(path)}; changes here are lost.\n\n{text}".encode())
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        print(printable(f"bifrost-lite: cannot write {shown(out)}: {why}"), file=sys.stderr)
        return FAILED
    return OK


def _replace(path: str, raw: bytes) -> None:
    """Put a file in the place of another, whose owner it gets; nobody else reads its secrets."""
    fresh = f"{path}.new"
    with suppress(FileNotFoundError):
        os.unlink(fresh)
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(raw)
            file.flush()
            with suppress(FileNotFoundError):
                like = os.stat(path, follow_symlinks=False)
                mine = os.fstat(fd)
                if (like.st_uid, like.st_gid) != (mine.st_uid, mine.st_gid):
                    os.fchown(fd, like.st_uid, like.st_gid)
            os.fchmod(fd, _MODE)
            os.fsync(fd)
        os.rename(fresh, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(fresh)
        raise


def _networks(dump: str | None) -> interfaces.Interfaces:
    """Those that are up.

    Raises:
        UbusError: they are not known
    """
    try:
        return interfaces.read(_ask() if dump is None else read_file(dump))
    except ConfigError as error:
        raise UbusError(f"the networks are not known: {error}") from None
    except ValueError as error:
        raise UbusError(f"the networks are not known: {error}") from None


def _ask() -> bytes:
    """What ubus prints."""
    import subprocess  # of all configurations only some name a network

    try:
        done = subprocess.run(
            UBUS, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False
        )
    except OSError as error:
        raise UbusError(f"the networks are not known: ubus: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise UbusError(
            f"the networks are not known: ubus gave no answer in {PATIENCE} s"
        ) from None
    if done.returncode:
        raise UbusError(f"the networks are not known: ubus ended with {done.returncode}")
    return done.stdout[: MAX_FILE + 1]
