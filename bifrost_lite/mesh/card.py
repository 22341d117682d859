"""What a peer of a mesh network says of itself, and the bounds of that.

Bounds stand in the types, so that the body of a call and the state file are held to the same;
`checked` has those that no type can say.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType, json, structs

from ..errors import BifrostError, ProtocolError
from ..events import Endpoint
from ..target import Target, from_host

KEYS = 50  # of the metadata of one peer
_PIECE = 96  # bytes that a text takes besides its characters, with its place among the others

# `$` alone would let a line end pass behind the last character. An id is a segment of a path,
# where "." and ".." mean something else (RFC 3986 section 3.3); a text for people has neither
# control characters nor such as turn the direction of what follows.
_ID = r"^(?!\.{1,2}$)[A-Za-z0-9_.-]{1,64}$(?!\n)"
_TEXT = r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*$(?!\n)"

Id = Annotated[str, Meta(pattern=_ID, description="An id: letters, digits, `_`, `.` and `-`.")]
Label = Annotated[str, Meta(pattern=_TEXT, max_length=255)]
Key = Annotated[str, Meta(pattern=r"^[!-~]{0,256}$(?!\n)")]
Endpoints = Annotated[tuple[Endpoint, ...], Meta(max_length=16)]
Word = Annotated[str, Meta(pattern=_TEXT, min_length=1, max_length=64)]
Value = Annotated[str, Meta(pattern=_TEXT, max_length=256)]
Metadata = Annotated[dict[Word, Value], Meta(max_length=KEYS)]
Changes = Annotated[dict[Word, Value | None], Meta(max_length=2 * KEYS)]


class MeshError(BifrostError):
    """The registry does not do what was asked; nothing has changed.

    Args:
        word: a stable word
        message: a sentence
    """

    def __init__(self, word: str, message: str) -> None:
        super().__init__(message)
        self.word = word
        self.message = message


class Card(Struct, frozen=True, gc=False):
    """What a peer says of itself.

    Attributes:
        id: what the API calls it
        name: what people call it
        public_key: visible ASCII; what it means is for the peers to agree on
        endpoints: where it may be reached
        metadata: whatever else its peers should know; a key has 64 bytes at most, a value 256
    """

    id: Id
    name: Label = ""
    public_key: Key = ""
    endpoints: Endpoints = ()
    metadata: Metadata = {}


class Change(Struct):
    """What a peer says anew of itself; what it leaves out stays.

    Attributes:
        endpoints: take the place of all that were there
        metadata: are added to what was there; null removes a key
    """

    name: Label | UnsetType = UNSET
    endpoints: Endpoints | UnsetType = UNSET
    metadata: Changes | UnsetType = UNSET


def checked(card: Card) -> Card:
    """`card` with each endpoint once.

    Raises:
        MeshError: it breaks a bound that its types do not say
    """
    if len(card.metadata) > KEYS:
        raise _bad("metadata", f"has more than {KEYS} keys")
    for key, value in card.metadata.items():
        if len(key.encode()) > 64 or len(value.encode()) > 256:
            raise _bad("metadata", "has a key of more than 64 bytes, or a value of more than 256")
    endpoints: dict[Target, Endpoint] = {}  # of the spellings of one the first stays
    for index, endpoint in enumerate(card.endpoints):
        try:
            target = from_host(endpoint.address.encode("ascii", "replace"), endpoint.port)
        except ProtocolError:
            raise _bad(
                f"endpoints[{index}].address", "is neither an IP address nor a host name"
            ) from None
        endpoints.setdefault(target, endpoint)
    return structs.replace(card, endpoints=tuple(endpoints.values()))


def weigh(card: Card) -> int:
    """Bytes that it takes at most to hold what a peer says of itself, or to tell it in JSON."""
    pieces = [card.id, card.name, card.public_key, *card.metadata, *card.metadata.values()]
    for endpoint in card.endpoints:
        pieces += (endpoint.address, endpoint.type)
    # One character out of four bytes makes all of its text as wide; `sys.getsizeof` knows, but
    # it counts UTF-8 too once that was asked for, and a weight must not change by itself.
    wide = sum(4 * len(piece) for piece in pieces if not piece.isascii())
    return len(json.encode(card)) + wide + _PIECE * len(pieces)


def _bad(field: str, what: str) -> MeshError:
    return MeshError("bad_body", f"The field '{field}' {what}.")
