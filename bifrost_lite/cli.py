"""The command line: which commands there are, what they take, and how they end.

Exit status: 0 done, 1 failed at run time, 2 wrong usage, 3 bad configuration, 4 cannot bind,
5 no daemon is running, 130 Ctrl-C before the end. The daemon's own process passes through here,
so what the client commands need is imported only once one of them is called.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from . import __version__
from .errors import BindError, ConfigError, Fault
from .options import (
    BAD_CONFIG,
    CANNOT_BIND,
    FAILED,
    INTERRUPTED,
    OK,
    USAGE,
    Args,
    Command,
    Option,
    UsageError,
    number,
    page,
    parse,
)

if TYPE_CHECKING:
    from .config.schema import Settings


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the command line without the program's name, `sys.argv` if None

    Returns:
        the exit status
    """
    try:
        _open_streams()
        status = _dispatch(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print(file=sys.stderr)  # the shell's prompt goes below the ^C
        return INTERRUPTED
    except UsageError as error:
        print(f"bifrost-lite: {error}", file=sys.stderr)
        return USAGE
    except BrokenPipeError:  # the reader left (`| head`)
        _forget_output()
        return OK
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        _forget_output()
        print(f"bifrost-lite: the output cannot be written: {error.strerror}", file=sys.stderr)
        return FAILED


def _open_streams() -> None:
    """Who started us may have closed some (``2>&-``): no socket shall take their place."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # the lowest descriptor that is free is its own
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


def _forget_output() -> None:
    """What is still buffered must not complain at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def _dispatch(argv: list[str]) -> int:
    first, *words = argv or ["help"]
    if first in ("help", "-h", "--help"):
        if not words:
            return _say(_overview())
        first, words = words[0], ["--help"]
    elif first in ("-V", "--version"):
        first = "version"
    command = next((known for known in COMMANDS if known.name == first), None)
    if command is None:
        raise UsageError(f"there is no command {ascii(first)}; see bifrost-lite --help")
    args = parse(command, words)
    return _say(page(command)) if args is None else command.run(args)


def _say(text: str) -> int:
    print(text)
    return OK


def _overview() -> str:
    lines = ["usage: bifrost-lite COMMAND [OPTION...]", ""]
    lines += [f"  {' '.join((c.name, *c.words)):<23}{c.help}" for c in COMMANDS]
    lines += [
        "",
        "bifrost-lite COMMAND --help tells more.",
        "Exit status: 0 done, 1 failed, 2 wrong usage, 3 bad configuration,",
        "4 cannot bind, 5 not running.",
    ]
    return "\n".join(lines)


# The commands of the daemon's own side.


def _run(args: Args) -> int:
    from .load import load, parse_config, read_file, revision

    options = args.options
    path = options.get("config")
    parse = parse_config
    quick = "address" in options or "port" in options
    if "uci" in options:
        if path is not None:
            raise UsageError("-c and --uci exclude each other")
        from .openwrt.uci2toml import parse_config as parse

        path = options["uci"]
    if quick and path is not None:
        raise UsageError("-c and --uci exclude -i and -p: the file names the listeners")
    if "verbose" in options and "quiet" in options:
        raise UsageError("-v and -q exclude each other")
    port = number(args, "port", 0, 65535)
    try:
        found = ""
        if quick:
            settings = _quick(options.get("address", "127.0.0.1"), port)
        elif path is None:
            settings = load(None)
        else:
            raw = read_file(path)
            settings, found = parse(raw), revision(raw)
        level = "debug" if "verbose" in options else "warn" if "quiet" in options else None
        # Behind the settings: a refused configuration costs no further start.
        from .daemon import run

        return run(settings, path, level, found, parse)
    except ConfigError as error:
        _print_faults(path or "command line", error.faults, sys.stderr)
        return BAD_CONFIG
    except BindError as error:
        print(f"bifrost-lite: {error}", file=sys.stderr)
        return CANNOT_BIND


def _quick(address: str, port: int | None) -> Settings:
    """Settings without a file: one listener for everything, or the two usual ones."""
    from .config.convert import convert

    listen = [{"name": "quick", "address": address, "port": port}]
    if port is None:
        listen = [
            {"name": "http", "address": address, "port": 7080},
            {"name": "socks", "address": address, "port": 7180},
        ]
    return convert({"listen": listen})


def _check(args: Args) -> int:
    from .build import prepare
    from .load import memory_budget, parse_config, read_file
    from .openwrt.uci2toml import is_uci, read
    from .show import json_text, printable, size, table

    path = args.words[0]
    try:
        raw = read_file(path)
        if is_uci(path, raw):
            reading = read(path)
            settings = reading.settings()
            try:
                lists = prepare(settings, path).lists
            except ConfigError as error:
                raise ConfigError(reading.told(error.faults)) from None
        else:
            settings = parse_config(raw)
            lists = prepare(settings, path).lists
    except ConfigError as error:
        if "json" in args.options:
            faults = [fault._asdict() for fault in error.faults]
            print(json_text({"valid": False, "errors": faults}))
        else:
            _print_faults(path, error.faults, sys.stdout)
        return BAD_CONFIG
    budget = memory_budget(settings, lists)
    if "json" in args.options:
        print(json_text({"valid": True, "memory": dict(budget)}))
    else:
        rows = [*budget, ("together", sum(most for _, most in budget))]
        print(f"{printable(path)}: OK\n\nMemory with everything full, at most:")
        print(table((), [(what, size(most)) for what, most in rows], right={1}))
    return OK


def _print_faults(path: str, faults: list[Fault], stream: TextIO) -> None:
    """One fault a line, as compilers print theirs: ``FILE:LINE: section.field: message``."""
    from .show import printable

    for fault in faults:
        line = f":{fault.line}" if fault.line else ""
        print(printable(f"{path}{line}: {fault._replace(line=0)}"), file=stream)


def _uci2toml(args: Args) -> int:
    from .openwrt.uci2toml import run

    return run(args)


def _passwd(args: Args) -> int:
    from .password import run

    return run(args)


def _version(args: Args) -> int:
    as_json = "json" in args.options
    return _say(f'{{"version":"{__version__}"}}' if as_json else f"bifrost-lite {__version__}")


def _client(name: str) -> Callable[[Args], int]:
    """A command that talks to a running daemon; its code is loaded when it is called."""

    def run(args: Args) -> int:
        from . import commands

        return commands.run(name, args)

    return run


_JSON = Option("json", "print JSON")
_REACH = (
    _JSON,
    Option("url", "where the daemon answers, http://HOST:PORT", "URL"),
    Option("token", "its token; BIFROST_TOKEN hides it from ps", "TOKEN"),
)
_FINDING = """\
The daemon is found by --url and --token, by BIFROST_URL and BIFROST_TOKEN, by
/etc/bifrost/bifrost.toml or /var/etc/bifrost.toml, or at
http://127.0.0.1:7082."""
_DEFAULTS = """\
The built-in defaults: HTTP proxy on 127.0.0.1:7080, SOCKS proxy on
127.0.0.1:7180 (either takes both), control on 127.0.0.1:7082 and 7383, and
everything goes out directly."""
_UNTIL = "Runs until Ctrl-C (exit status 0); if the daemon goes away it ends with 1.\n"

COMMANDS = (
    Command(
        "run",
        "run the proxy in the foreground",
        _run,
        options=(
            Option("config", "the configuration; without one the built-in defaults", "FILE", "c"),
            Option("uci", "the same in OpenWrt's words, /etc/config/bifrost", "FILE"),
            Option("address", "quick start: listen on this address", "ADDR", "i"),
            Option("port", "quick start: one listener for HTTP and SOCKS", "PORT", "p"),
            Option("verbose", "log debug entries too, whatever the file says", short="v"),
            Option("quiet", "log warnings and errors only, the same", short="q"),
        ),
        note=_DEFAULTS,
    ),
    Command(
        "check",
        "all faults of a configuration, or the memory it takes",
        _check,
        ("FILE",),
        (_JSON,),
        "FILE is TOML, or OpenWrt's /etc/config/bifrost.\n"
        "Each fault is a line FILE:LINE: section.field: message; exit status 3.",
    ),
    Command(
        "uci2toml",
        "OpenWrt's configuration as the TOML of the daemon",
        _uci2toml,
        ("FILE",),
        (
            Option("output", "write it there, or nothing where there are faults", "OUT", "o"),
            Option("ubus", "what `ubus call network.interface dump` says", "DUMP"),
        ),
        "Names such as @lan are asked of ubus. Faults are told as by check, exit status\n"
        "3. With -o it ends with 6 where main.enabled is 0, and writes nothing.",
    ),
    Command("status", "how the daemon is", _client("status"), (), _REACH, _FINDING),
    Command(
        "connections",
        "what is open now",
        _client("connections"),
        (),
        (
            Option("client", "only those of this client", "IP"),
            Option("by-client", "a line for each client"),
            *_REACH,
        ),
        _FINDING,
    ),
    Command(
        "close",
        "end a connection, or all of a client",
        _client("close"),
        ("[ID]",),
        (Option("client", "instead of ID: all of this client", "IP"), *_REACH),
        _FINDING,
    ),
    Command(
        "requests",
        "what is over: the last requests, how they went",
        _client("requests"),
        (),
        (
            Option("limit", "so many of them; without it 100", "N"),
            Option("clear", "forget them"),
            *_REACH,
        ),
        _FINDING,
    ),
    Command(
        "backends", "the ways out, and how they are", _client("backends"), (), _REACH, _FINDING
    ),
    Command(
        "test",
        "connect through a backend, and hang up",
        _client("test"),
        ("BACKEND", "[TARGET]"),
        _REACH,
        "TARGET is host:port; without one it is that of the backend's health check.\n"
        "Exit status 1 where it does not connect.\n\n" + _FINDING,
    ),
    Command(
        "route",
        "which way a request would go, and why",
        _client("route"),
        ("HOST",),
        (
            Option("from", "of this client; without it, of this machine", "IP"),
            Option("port", "to this port; without it 443", "PORT"),
            *_REACH,
        ),
        "HOST is a name or an address; HOST:PORT and [IPV6]:PORT will do too.\n\n" + _FINDING,
    ),
    Command(
        "mesh",
        "the networks, or the peers of one",
        _client("mesh"),
        ("[NETWORK]",),
        (Option("follow", "watch its peers come and go, as events does", short="f"), *_REACH),
        _FINDING,
    ),
    Command(
        "reload",
        "put the changed configuration in force",
        _client("reload"),
        (),
        (Option("enforce", "close the connections that it would refuse now"), *_REACH),
        "One that has faults changes nothing: all of them are told, exit status 3.\n\n"
        + _FINDING,
    ),
    Command(
        "events",
        "watch connections come and go",
        _client("events"),
        (),
        (
            Option("types", "only these, such as connection.new,connection.close", "LIST"),
            Option("client", "only those of this client", "IP"),
            Option("since", "begin after event number SEQ", "SEQ"),
            Option("boot", "of the process with this id (stats.update tells it)", "ID"),
            *_REACH,
        ),
        _UNTIL + _FINDING,
    ),
    Command(
        "logs",
        "watch the log",
        _client("logs"),
        (),
        (
            Option("level", "the least grave: debug, info, warn or error", "LEVEL"),
            Option("tail", "begin with the last N entries", "N"),
            Option("no-follow", "print what is remembered and end", short="n"),
            *_REACH,
        ),
        _UNTIL + _FINDING,
    ),
    Command(
        "passwd",
        "make the password_hash of a user",
        _passwd,
        (),
        (Option("iterations", "how often to hash; without it for 0.1 s", "N"), _JSON),
        "Asks for the password twice, or reads one line from a pipe.",
    ),
    Command("version", "print the version", _version, (), (_JSON,)),
)
