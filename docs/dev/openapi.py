"""Makes docs/openapi.json and what is made of it: ``make docs``.

The calls are those of `bifrost_lite.api.ROUTES`, what they take and answer stands in `calls`,
the schemas come from the Structs by `shapes`. Nothing of this is in the package.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from importlib import import_module
from inspect import getclosurevars
from pathlib import Path

from bifrost_lite import __version__
from bifrost_lite.api import ROUTES
from bifrost_lite.api.context import Context
from bifrost_lite.rest import ErrorBody, Route

from . import pages
from .calls import CALLS, PATH, Call, Parameter
from .names import ASKED, EXCEPTIONS, HOLDS, NAMES, NEEDED
from .shapes import Schema, Shapes, explained
from .words import ALWAYS, BODIED, ERRORS, GUARDED, WITHOUT_FIELDS

DOCS = Path(__file__).parents[1]
_JSON = "application/json"
_REF = "#/components"
_TAGS = {
    "Daemon": ("health", "version", "status", "stats"),
    "Connections": ("connections",),
    "Log": ("requests", "logs"),
    "Events": ("ws",),
    "Backends": ("backends",),
    "Routes": ("routes",),
    "Configuration": ("config",),
    "Mesh": ("mesh",),
    "Files": (),
}
_HEADERS: dict[str, Schema] = {
    "ETag": {"description": "The revision of the configuration's file, for `If-Match`."},
    "Location": {"description": "The path of what was made.", "required": True},
    "Retry-After": {"description": "Seconds to wait.", "required": True},
    "Upgrade": {"description": "What to upgrade to.", "required": True},
    "WWW-Authenticate": {"description": "How to send the token.", "required": True},
}
_OF_STATUS = {
    "401": "WWW-Authenticate", "426": "Upgrade", "429": "Retry-After", "503": "Retry-After",
}  # fmt: skip


def document() -> Schema:
    """The OpenAPI 3.1 document of the whole API."""
    shapes = Shapes(NAMES, ASKED, HOLDS, EXCEPTIONS, NEEDED)
    error = shapes.of(ErrorBody)
    paths: dict[str, dict[str, Schema]] = {}
    ids: set[str] = set()
    by_route = {re.sub(r"{\w+}", "{}", key): key for key in CALLS}
    for route in ROUTES:
        key = by_route[f"{route.method} {route.path}"]
        method, path = key.split(" ")
        handler = _handler(route)
        name = handler.__name__
        if name in ids:
            name += "_" + re.sub(r"\W", "_", path.rpartition("/")[2])
        ids.add(name)
        operation = _operation(shapes, route, path, CALLS[key], explained(handler)[0])
        paths.setdefault(path, {})[method.lower()] = {"operationId": name} | operation
    _link(paths)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "bifrost-lite",
            "version": __version__,
            "summary": "A watchable proxy for OpenWrt routers.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "http://127.0.0.1:7082", "description": "The control port."}],
        "tags": [{"name": name} for name in _TAGS],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(shapes.schemas.items())),
            "responses": {
                _response_name(status): _error(status, words, error)
                for status, words in _by_status((*ALWAYS, *GUARDED, *BODIED)).items()
            },
            "headers": {
                name: {"schema": {"type": "integer" if name == "Retry-After" else "string"}}
                | about
                for name, about in _HEADERS.items()
            },
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "`control.token`, or `control.read_token` for each GET.",
                },
                "query": {
                    "type": "apiKey",
                    "in": "query",
                    "name": "token",
                    "description": "The same, for what can send no field.",
                },
                "join": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "`mesh.join_token`.",
                },
                "peer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The `peer_token` that the registration of the peer answered.",
                },
            },
        },
    }


def _handler(route: Route[Context]) -> Callable[..., object]:
    """The function that answers a route, which the daemon loads at its first call."""
    where = getclosurevars(route.handler).nonlocals
    module = import_module(f"bifrost_lite.api.{where['module']}")
    handler: Callable[..., object] = getattr(module, where["name"])
    return handler


def _operation(
    shapes: Shapes, route: Route[Context], path: str, call: Call, told: str
) -> Schema:
    summary, *more = re.split(r"; |\. ", told.removesuffix("."), maxsplit=1)
    text = " ".join([*(f"{one[0].upper()}{one[1:]}." for one in more), call.text]).strip()
    text = re.sub(r"docs/(\w+\.md)", r"[\1](\1)", text)
    parameters = [_parameter(one) for one in (*_of_path(path), *call.parameters)]
    operation: Schema = {"tags": [_tag(path)], "summary": summary}
    if text:
        operation["description"] = text
    if parameters:
        operation["parameters"] = parameters
    if call.body:
        content: Schema = {"schema": shapes.of(call.body, asked=True)}
        if call.examples:
            content["examples"] = {
                name: {"value": value} for name, value in call.examples.items()
            }
        operation["requestBody"] = {"content": {_JSON: content}, "required": not call.optional}
    answers: Schema = {str(call.status): _answer(shapes, call)}
    answers |= {str(status): {"description": text} for status, text in call.also.items()}
    words = [*ALWAYS, *call.errors]
    if not route.public:
        words += [*GUARDED, *(() if route.method == "GET" else ("403 read_only",))]
    if call.body:
        words += BODIED
    common = _by_status((*ALWAYS, *GUARDED, *BODIED))
    for status, found in sorted(_by_status(words).items()):
        if found == common.get(status):
            answers[status] = {"$ref": f"{_REF}/responses/{_response_name(status)}"}
        else:
            answers[status] = _error(status, found, shapes.of(ErrorBody))
    operation["responses"] = answers
    operation["security"] = (
        [] if route.public else [{name: []} for name in ("bearer", "query", *route.keys)]
    )
    return operation


def _answer(shapes: Shapes, call: Call) -> Schema:
    if call.status == 101:
        return {"description": "The WebSocket stands."}
    answer: Schema = {"description": "Done." if call.status == 204 else "The answer."}
    if call.headers:
        answer["headers"] = {name: {"$ref": f"{_REF}/headers/{name}"} for name in call.headers}
    if call.media:
        # OpenAPI 3.1 has no words for the entries of a stream.
        endless = call.media == "text/event-stream"
        answer["content"] = {call.media: {} if endless else {"schema": {"type": "string"}}}
    elif call.answer is not None:
        answer["content"] = {_JSON: {"schema": shapes.of(call.answer)}}
    return answer


def _by_status(words: Iterable[str]) -> dict[str, list[str]]:
    """Words of `ERRORS` by their status, in order."""
    found: dict[str, list[str]] = {}
    for key in sorted({*words}):
        status, word = key.split(" ")
        found.setdefault(status, []).append(word)
    return found


def _error(status: str, words: list[str], error: Schema) -> Schema:
    told = [f"- `{word}`: {ERRORS[f'{status} {word}']}" for word in words]
    answer: Schema = {
        "description": "\n".join(told),
        "content": {
            _JSON: {
                "schema": {
                    "allOf": [error],
                    "properties": {"error": {"enum": words}},
                }
            }
        },
    }
    if status in _OF_STATUS and not {f"{status} {word}" for word in words} & WITHOUT_FIELDS:
        name = _OF_STATUS[status]
        answer["headers"] = {name: {"$ref": f"{_REF}/headers/{name}"}}
    return answer


def _response_name(status: str) -> str:
    return f"Error{status}"


def _of_path(path: str) -> list[Parameter]:
    """The parameters in a path."""
    return [
        PATH["/".join(path[: found.end()].split("/")[-2:])]
        for found in re.finditer(r"{\w+}", path)
    ]


def _parameter(parameter: Parameter) -> Schema:
    about: Schema = {
        "name": parameter.name,
        "in": parameter.where,
        "description": parameter.text,
        "schema": parameter.schema,
    }
    if parameter.needed or parameter.where == "path":
        about["required"] = True
    elif parameter.where == "query":
        about["allowEmptyValue"] = True  # as if it were left out
    if parameter.schema.get("type") == "array":
        about |= {"style": "form", "explode": False}
    return about


def _tag(path: str) -> str:
    first = path.removeprefix("/api/v1/").partition("/")[0]
    return next((tag for tag, firsts in _TAGS.items() if first in firsts), "Files")


def _link(paths: dict[str, dict[str, Schema]]) -> None:
    """Say with which calls one goes on from another."""
    for key, call in CALLS.items():
        links: Schema = {}
        for target, sources in call.links.items():
            method, path = target.split(" ")
            operation = str(paths[path][method.lower()]["operationId"])
            links[operation] = {"operationId": operation, "parameters": sources}
        if links:
            method, path = key.split(" ")
            answers = paths[path][method.lower()]["responses"]
            assert isinstance(answers, dict)
            answers[str(call.status)]["links"] = links


def made() -> dict[Path, str]:
    """All files that are made, with their content."""
    found = document()
    index = DOCS / "api.md"
    return {
        DOCS / "openapi.json": json.dumps(found, indent=1, ensure_ascii=False) + "\n",
        DOCS / "api-reference.md": pages.reference(found),
        index: pages.with_index(index.read_text("utf-8"), found),
    }


if __name__ == "__main__":
    for path, text in made().items():
        path.write_text(text, "utf-8")
