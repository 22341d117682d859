"""How commands take their words: options, arguments, help pages, exit statuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .errors import BifrostError

OK, FAILED, USAGE, BAD_CONFIG, CANNOT_BIND, NOT_RUNNING = range(6)
INTERRUPTED = 130  # what a shell says of a program that SIGINT ended


class Option(NamedTuple):
    """An option of a command.

    Attributes:
        name: the long form, without dashes
        help: what it does
        value: what its value is called, "" for a switch
        short: the short form's letter, "" for none
    """

    name: str
    help: str
    value: str = ""
    short: str = ""


class Args(NamedTuple):
    """A parsed command line: option values by long name ("" for a switch), and the rest."""

    options: dict[str, str]
    words: list[str]


class Command(NamedTuple):
    """A command.

    Attributes:
        name: what is typed
        help: what it does, one line
        run: does it; answers the exit status
        words: names of its arguments; those in brackets may be left out
        options: what it takes
        note: more for its own help page
    """

    name: str
    help: str
    run: Callable[[Args], int]
    words: tuple[str, ...] = ()
    options: tuple[Option, ...] = ()
    note: str = ""


class UsageError(BifrostError):
    """The command line makes no sense; the text says why."""


def parse(command: Command, argv: list[str]) -> Args | None:
    """Take the words behind a command's name apart; answers None where they ask for help.

    Options may stand before and behind arguments; ``--`` ends them.

    Raises:
        UsageError: they make no sense for this command
    """
    known = {f"--{option.name}": option for option in command.options}
    known.update({f"-{option.short}": option for option in command.options if option.short})
    hint = f"see bifrost-lite {command.name} --help"
    options: dict[str, str] = {}
    words: list[str] = []
    rest = iter(argv)
    for word in rest:
        if word == "--":
            words += rest
        elif word in ("-h", "--help"):
            return None
        elif not word.startswith("-") or word == "-":
            words.append(word)
        else:
            spelled, joined, value = word.partition("=")
            if not word.startswith("--") and len(word) > 2:
                spelled, joined, value = word[:2], "=", word[2:]
            option = known.get(spelled)
            if option is None:
                raise UsageError(f"there is no option {ascii(spelled)}; {hint}")
            if option.name in options:
                raise UsageError(f"{spelled} is given twice")
            if option.value and not joined:
                found = next(rest, None)
                if found is None:
                    raise UsageError(f"{spelled} needs a value: {option.value}; {hint}")
                value = found
            elif joined and not option.value:
                raise UsageError(f"{spelled} takes no value")
            options[option.name] = value
    least = sum(not name.startswith("[") for name in command.words)
    if not least <= len(words) <= len(command.words):
        wanted = " ".join(command.words) or "no argument"
        raise UsageError(f"{command.name} takes {wanted}; {hint}")
    return Args(options, words)


def number(args: Args, name: str, least: int, most: int) -> int | None:
    """The value of an option as a whole number, None where it is not given.

    Raises:
        UsageError: not a number from `least` to `most`
    """
    text = args.options.get(name)
    if text is None:
        return None
    if text.isascii() and text.isdecimal() and len(text) <= 20 and least <= int(text) <= most:
        return int(text)
    raise UsageError(f"--{name} takes a number from {least} to {most}, got {ascii(text)}")


def page(command: Command) -> str:
    """The help page of one command."""
    usage = " ".join(("usage: bifrost-lite", command.name, *command.words))
    lines = [usage + (" [OPTION...]" if command.options else ""), "", f"  {command.help}", ""]
    for option in command.options:
        short = f"-{option.short}, " if option.short else "    "
        lines.append(f"  {f'{short}--{option.name} {option.value}':<22}{option.help}")
    if command.note:
        lines += ["", command.note]
    return "\n".join(lines).rstrip()
