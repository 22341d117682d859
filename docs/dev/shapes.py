"""JSON Schema, draft 2020-12, of the Structs that the API takes and answers.

Of msgspec's own `schema_components` this differs in what OpenAPI readers need: a description of
each field, from the `Attributes:` of its Struct or, for names that mean the same everywhere, from
`GLOSSARY`; `required` as the encoder and `wire.body` really have it; and the sections of the
configuration, whose annotations say more than msgspec reads.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from inspect import cleandoc
from types import NoneType, UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

from msgspec import Meta, Struct, UnsetType, structs

from bifrost_lite.config import values
from bifrost_lite.config.edit import MASK
from bifrost_lite.config.kinds import extra
from bifrost_lite.config.schema import BACKENDS, Backend, Section, Settings

Schema = dict[str, object]

_SCALARS: dict[object, str] = {
    str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null",
}  # fmt: skip
# What the checks of the configuration take, where one pattern says it,
_PATTERNS = {
    check: pattern.pattern
    for check, pattern in (
        (values.name, values._name_re),
        (values.identifier, values._identifier_re),
        (values.token, values._token_re),
        (values.device, values._device_re),
        (values.endpoint, values._endpoint_re),
    )
} | {  # and what at least has to hold, where it cannot
    values.address: r"[0-9A-Fa-f:.]+",
    values.authority: r".+:[0-9]{1,5}",
    values.domain: r"[A-Za-z0-9_*.-]+",
    values.network: r"[0-9A-Fa-f:.]+(/[0-9]{1,3})?",
    values.origin: r"https?://.+",
}
# No empty text, and no minute behind which the milliseconds would be read as one.
_DURATION = rf"(?=.){values._duration_re.pattern}"

STAMP: Schema = {"format": "date-time"}
_STATE: Schema = {"enum": ["up", "down", "suspect", "waiting"]}
_PROTOCOL: Schema = {"enum": ["HTTP", "CONNECT", "SOCKS5", "SOCKS4"]}
# Fields that mean the same wherever they stand: a sentence, and what their schema adds.
GLOSSARY: dict[str, tuple[str, Schema]] = {
    "action": ("The backend, as Bifrost calls it.", {}),
    "active_connections": ("Connections that run.", {}),
    "address": ("An IP address.", {}),
    "age": ("Seconds since it began.", {}),
    "backend": ("The name of a backend.", {}),
    "boot": ("An id of this process.", {}),
    "bytes_received": ("Payload read from targets, in bytes.", {}),
    "bytes_sent": ("Payload written to targets, in bytes.", {}),
    "cidr": ("Its addresses, such as `10.100.0.0/16`.", {}),
    "client_ip": ("The client's address.", {}),
    "client_port": ("The client's port.", {"maximum": 65535}),
    "clients": ("One entry for each client.", {}),
    "closed": ("Connections that were closed.", {}),
    "connections": ("One entry for each connection.", {}),
    "count": ("How many there are.", {}),
    "duration_ms": ("Milliseconds from the request to its end.", {}),
    "enabled": ("Whether any are kept: `log.requests` is over 0.", {}),
    "endpoints": ("Where it may be reached.", {}),
    "entries": ("One entry for each line.", {}),
    "error": ("A word of [errors.md](errors.md); empty where nothing failed.", {}),
    "errors": ("All faults.", {}),
    "field": ("The key at fault; empty where the whole section is.", {}),
    "fields": ("What it is about: a request, a part of the daemon, or a loss.", {}),
    "first_seen": ("When the oldest of its connections began.", STAMP),
    "healthy": ("Whether it is used: true for the states `up` and `suspect`.", {}),
    "host": ("The target with its port, IPv6 in brackets.", {}),
    "id": ("A number for the life of the process.", {}),
    "latency_ms": ("How long dials took, in milliseconds.", {"minimum": 0}),
    "level": ("How grave it is.", {}),
    "line": ("The line in the file; left out where there is none.", {}),
    "lost": ("How many were lost.", {}),
    "max": ("How many there may be.", {}),
    "max_size": ("How many are kept at most.", {}),
    "message": ("A sentence for people.", {}),
    "metadata": ("Whatever else its peers should know.", {}),
    "method": ("The HTTP method; empty where there was none.", {}),
    "name": ("Its name.", {}),
    "networks": ("One entry for each network.", {}),
    "open": ("Whether it accepts clients now.", {}),
    "peers": ("One entry for each peer.", {}),
    "pid": ("The number of the process.", {}),
    "platform": ("The system and the machine, such as `linux/aarch64`.", {}),
    "port": ("The port.", {"maximum": 65535}),
    "protocol": ("What the client spoke.", _PROTOCOL),
    "public_key": ("The key that it gave.", {}),
    "python_version": ("The version of Python that runs it.", {}),
    "reason": ("Why.", {}),
    "requests": ("One entry for each request.", {}),
    "revision": ("The revision of the configuration's file.", {}),
    "route": ("The name of a route; empty for none.", {}),
    "section": ("The section at fault, such as `listen[0]`.", {}),
    "since": ("When the state changed.", STAMP),
    "source": ("The part of the daemon that says it.", {}),
    "start_time": ("When it began.", STAMP),
    "state": ("The state, debounced.", _STATE),
    "stats": ("What it carried.", {}),
    "status_code": ("The HTTP status; left out where there is none.", {"maximum": 599}),
    "success": ("Always true.", {}),
    "time": ("When this was answered.", STAMP),
    "timestamp": ("When it was.", STAMP),
    "total_connections": ("Connections since the start.", {}),
    "type": ("The type of the backend.", {}),
    "uid": ("The user that it runs as.", {}),
    "url": ("What was asked for, without its query.", {}),
    "version": ("The version of bifrost-lite.", {}),
}
ID: Schema = {"type": "string", "pattern": f"^{values._identifier_re.pattern}$"}
NAME: Schema = {"type": "string", "pattern": f"^{values._name_re.pattern}$"}

_ATTRIBUTE = re.compile(r"^ {4}(\w+(?:, \w+)*): (.*(?:\n {8}.*)*)", re.MULTILINE)

Field = tuple[type[Struct], str]


class Shapes:
    """The schemas of all Structs that were asked for, by name.

    Args:
        names: what a Struct is called, where not by its own name
        asked: what it is called in a request, where it is in answers too
        holds: the types of fields that are plain documents in the daemon
        exceptions: what the schema of a field adds in the place of what `GLOSSARY` says
        needed: keys of the configuration whose default is refused

    Attributes:
        schemas: of the Structs seen so far
    """

    def __init__(
        self,
        names: Mapping[type[Struct], str],
        asked: Mapping[type[Struct], str],
        holds: Mapping[Field, object],
        exceptions: Mapping[Field, Schema],
        needed: Collection[Field],
    ) -> None:
        self._names = names
        self._asked = asked
        self._holds = holds
        self._exceptions = exceptions
        self._needed = needed
        self._kinds: dict[str, tuple[type[Struct], bool]] = {}
        self.schemas: dict[str, Schema] = {}

    def of(self, hint: object, *, asked: bool = False) -> Schema:
        """The schema of a type.

        Args:
            hint: a Struct, or another type that msgspec knows
            asked: it is of a request: unknown fields are refused, defaults may be left out
        """
        metas: tuple[Meta, ...] = ()
        if get_origin(hint) is Annotated:
            hint, *rest = get_args(hint)
            metas = tuple(rest)
        return self._plain(hint, metas, asked) | _limits(hint, metas)

    def _plain(self, hint: object, metas: tuple[Meta, ...], asked: bool) -> Schema:
        origin, args = get_origin(hint), get_args(hint)
        if hint is object:
            return {}
        if hint in _SCALARS:
            return _scalar(hint, metas)
        if origin is Literal:
            return {"enum": list(args)} if len(args) > 1 else {"const": args[0]}
        if origin in (list, tuple):
            assert origin is list or args[1:] == (...,), hint
            return {"type": "array", "items": self.of(args[0], asked=asked)}
        if origin is dict:
            keys, below = (self.of(arg, asked=asked) for arg in args)
            schema: Schema = {"type": "object"}
            schema |= {"propertyNames": keys} if keys != {"type": "string"} else {}
            return schema | ({"additionalProperties": below} if below else {})
        if origin in (Union, UnionType):
            each = [self.of(arg, asked=asked) for arg in args if arg is not UnsetType]
            return each[0] if len(each) == 1 else {"anyOf": each}
        if hint is Backend:
            return self._backends()
        assert isinstance(hint, type) and issubclass(hint, Struct), hint
        return self._struct(hint, asked or issubclass(hint, Section))

    def _backends(self) -> Schema:
        """The schema of `[[backends]]`, one for each type."""
        return self.named(
            "BackendSettings",
            {
                "description": "A way to the targets: the keys depend on its type.",
                "oneOf": [self._struct(kind, True) for kind in BACKENDS.values()],
            },
        )

    def _struct(self, kind: type[Struct], asked: bool) -> Schema:
        section = issubclass(kind, Section) and kind is not Settings
        plain = "Configuration" if kind is Settings else kind.__name__
        name = self._names.get(kind, f"{plain}Settings" if section else plain)
        name = self._asked.get(kind, name) if asked else name
        if name not in self.schemas:
            self._kinds[name] = kind, asked
            self.schemas[name] = {}  # it may hold itself
            self.schemas[name] = self._fields(kind, asked)
        assert self._kinds[name] == (kind, asked), f"{name} is {kind} and {self._kinds[name]}"
        return {"$ref": f"#/components/schemas/{name}"}

    def _fields(self, kind: type[Struct], asked: bool) -> Schema:
        text, told = explained(kind)
        properties: dict[str, object] = {}
        required = []
        for field in structs.fields(kind):
            about = self.of(self._holds.get((kind, field.name), field.type), asked=asked)
            if issubclass(kind, Section):
                needed = _adjust(kind, field, about, (kind, field.name) in self._needed)
            else:
                common, more = GLOSSARY.get(field.encode_name, ("", {}))
                about |= self._exceptions.get((kind, field.name), more)
                if about.get("type") == "integer":
                    about.setdefault("minimum", 0)
                about.setdefault("description", told.get(field.name, common))
                needed = field.required if asked else not _left_out(kind, field)
            if asked and not needed and isinstance(field.default, str | int | float):
                about["default"] = field.default
            if needed:
                required.append(field.encode_name)
            properties[field.encode_name] = about
        schema: Schema = {"type": "object", "description": text, "properties": properties}
        if required:
            schema["required"] = required
        if asked:
            schema["additionalProperties"] = False
        return schema

    def named(self, name: str, schema: Schema) -> Schema:
        """Put a schema among the others, and answer what refers to it."""
        self.schemas[name] = schema
        return {"$ref": f"#/components/schemas/{name}"}


def explained(thing: object) -> tuple[str, dict[str, str]]:
    """The docstring of a class or function: its text, and that of its `Attributes:`, and of
    its bases'."""
    text, _, listed = _docstring(thing).partition("\n\nAttributes:\n")
    told = {}
    for base in thing.__bases__ if isinstance(thing, type) else ():
        told |= explained(base)[1] if issubclass(base, Struct) else {}
    for names, about in _ATTRIBUTE.findall(listed):
        sentence = re.sub(r"\s+", " ", about).removesuffix(".")
        for name in names.split(", "):
            told[name] = f"{sentence[0].upper()}{sentence[1:]}."
    return re.sub(r"(?<!\n)\n(?!\n)", " ", text), told


def _docstring(thing: object) -> str:
    text = cleandoc(thing.__doc__ or "").replace("``", "`")
    return re.sub(r"[,;] see `\w+\.\w+`", "", text)  # places in the source


def _adjust(
    kind: type[Section], field: structs.FieldInfo, about: Schema, needed: bool
) -> bool:
    """Add what only the class of a key says; answers whether the key must be there."""
    if field.name == "type" and kind in BACKENDS.values():
        about.pop("enum", None)
        about |= {"const": field.default, "description": "How it reaches a target."}
        return kind is not BACKENDS["direct"]
    if field.default == "" and "pattern" in about and not needed:
        about["pattern"] = f"^$|{about['pattern']}"  # empty is what is not set
    about.setdefault("description", explained(type(field.default))[0])
    return needed


def _left_out(kind: type[Struct], field: structs.FieldInfo) -> bool:
    """Whether the encoder may leave a field out."""
    omits = kind.__struct_config__.omit_defaults and not field.required
    return omits or UnsetType in get_args(field.type)


def _scalar(hint: object, metas: tuple[Meta, ...]) -> Schema:
    if extra(metas, "unit") == "seconds":
        return {"anyOf": [{"type": "number"}, {"type": "string", "pattern": f"^{_DURATION}$"}]}
    schema: Schema = {"type": _SCALARS[hint]}
    check = extra(metas, "check")
    if check in _PATTERNS:
        schema["pattern"] = f"^{_PATTERNS[check]}$"
        if extra(metas, "secret"):  # a stored one is shown masked
            schema["pattern"] += f"|^{re.escape(MASK)}$"
    if check is values.label:
        schema["maxLength"] = 255
    return schema


def _limits(hint: object, metas: tuple[Meta, ...]) -> Schema:
    """What `Meta` says beside the type."""
    limits: Schema = {}
    for meta in metas:
        if get_origin(hint) in (list, tuple):
            found = {"minItems": meta.min_length, "maxItems": meta.max_length}
        elif get_origin(hint) is dict:
            found = {"minProperties": meta.min_length, "maxProperties": meta.max_length}
        else:
            found = {"minLength": meta.min_length, "maxLength": meta.max_length}
        found: Schema
        found |= {
            "minimum": meta.ge,
            "maximum": meta.le,
            "pattern": meta.pattern,
            "description": meta.description,
        }
        limits |= {key: value for key, value in found.items() if value is not None}
    return limits

