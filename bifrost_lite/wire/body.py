"""JSON bodies of requests: of the form that is wanted, and nothing more."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from ..config.faults import shown
from ..errors import BifrostError

T = TypeVar("T")

_SHOWN = 20  # unknown fields that are named
_decode = msgspec.json.Decoder().decode


class BodyError(BifrostError):
    """The body is not what it must be.

    Args:
        word: a stable word
        message: a sentence
    """

    def __init__(self, word: str, message: str) -> None:
        super().__init__(message)
        self.word = word
        self.message = message


def decode(raw: bytes, kind: type[T]) -> T:
    """The value of a body.

    Args:
        raw: JSON, RFC 8259
        kind: a Struct, or another type that msgspec knows

    Raises:
        BodyError: it is no JSON, has a value of a wrong type, or fields that `kind` does not
            know; all of these are named
    """
    try:
        data = _decode(raw)
        value = msgspec.convert(data, kind)
    except RecursionError:
        raise BodyError("bad_body", "The body is nested too deeply.") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        detail = "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)[:200]
        # A pattern is no word for the people who read this.
        detail = re.sub(r"matching regex '.*'(?= - at |$)", "of the right form", detail)
        raise BodyError("bad_body", f"The body is not what it must be: {detail}.") from None
    unknown = list(_unknown(data, value, ""))
    if unknown:
        names = ", ".join(unknown[:_SHOWN])
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        raise BodyError("unknown_fields", f"The body has fields that nobody knows: {names}{more}.")
    return value


def _unknown(data: Any, value: object, path: str) -> Iterator[str]:
    """The fields of decoded JSON, with their paths, that the Structs made of it do not have."""
    if isinstance(value, Struct):
        known = dict(zip(value.__struct_encode_fields__, value.__struct_fields__, strict=True))
        for key, below in data.items():
            if key in known:
                yield from _unknown(below, getattr(value, known[key]), f"{path}{key}.")
            else:
                yield shown(f"{path}{key}")
    elif isinstance(value, list | tuple) and value and isinstance(value[0], Struct):
        for index, (entry, item) in enumerate(zip(data, value, strict=True)):
            yield from _unknown(entry, item, f"{path[:-1]}[{index}].")
