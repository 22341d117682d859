"""The pages that are made of the OpenAPI document, in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from .words import EDIT, ERRORS

# The document as a JSON parser would give it.
Document = dict[str, Any]

_PREFIX = "/api/v1/"
_BEGIN, _END = "<!-- calls: made by `make docs` -->", "<!-- end of calls -->"
_HEAD = """\
# Calls and their fields

Made from the source by `make docs`, as is [openapi.json](openapi.json), which holds the same for
programs (OpenAPI 3.1). How to call is in [api.md](api.md). A field that may be missing is
marked with `?`. Numbers without a unit are counts, and none is below 0 unless it says so.

## Errors of any call

A path that is not in here gets 404 `not_found`, a method that is not 405 `method_not_allowed`.

"""
_EDITS = """
## Errors of any edit

What changes the configuration may meet these beside its own.

"""
_TABLE = "| status | `error` | means |\n|---|---|---|\n"
_KEYS = {"join": "`mesh.join_token`", "peer": "The `peer_token` of that peer"}


def with_index(text: str, document: Document) -> str:
    """A page with the list of calls put anew between its marks."""
    before, _, rest = text.partition(_BEGIN)
    after = rest.partition(_END)[2]
    rows = "".join(
        f"| [`{method} {_short(path)}`](api-reference.md#{_anchor(f'{method} {path}')})"
        f" | {about['summary']} |\n"
        for method, path, about in _calls(document)
        if path != "/api/v1/routes/test" or method != "DELETE"  # a route that is called "test"
    )
    return f"{before}{_BEGIN}\n| call | does |\n|---|---|\n{rows}{_END}{after}"


def reference(document: Document) -> str:
    """The page of all calls and the shapes of what they take and answer."""
    common = _words(document["components"]["responses"]) | {"403 read_only"}
    parts = [_HEAD, _rows(common), _EDITS, _rows({*EDIT} - common), "\n"]
    for tag in document["tags"]:
        parts.append(f"## {tag['name']}\n\n")
        for method, path, about in _calls(document):
            if about["tags"] == [tag["name"]]:
                parts += _call(method, path, about, common)
    parts.append("## Shapes\n\n")
    for name, schema in document["components"]["schemas"].items():
        if "properties" in schema and not _configured(name):
            parts += _shape(name, schema)
    return "".join(parts).rstrip("\n") + "\n"


def _calls(document: Document) -> Iterator[tuple[str, str, Document]]:
    for path, methods in document["paths"].items():
        for method, about in methods.items():
            yield method.upper(), path, about


def _call(method: str, path: str, about: Document, common: set[str]) -> Iterator[str]:
    yield f"### `{method} {path}`\n\n{about['summary']}."
    if "description" in about:
        yield f" {about['description']}"
    if not about["security"]:
        yield " No token is needed."
    keys = [name for one in about["security"] for name in one if name in _KEYS]
    yield "".join(f" {_KEYS[name]} opens it too." for name in keys) + "\n\n"
    parameters = about.get("parameters", ())
    if parameters:
        yield "| parameter | in | is | |\n|---|---|---|---|\n"
        for one in parameters:
            mark = "" if one.get("required") else "?"
            what = _cell(one["description"])
            yield f"| `{one['name']}`{mark} | {one['in']} | {_type(one['schema'])} | {what} |\n"
        yield "\n"
    if "requestBody" in about:
        body = about["requestBody"]
        schema = body["content"]["application/json"]["schema"]
        left_out = "" if body["required"] else ", or nothing"
        yield f"- takes {_type(schema)}{left_out}\n"
    for status, answer in about["responses"].items():
        if int(status) < 400:
            yield f"- answers {status}{_what(answer)}\n"
    own = _words(about["responses"]) - common
    edit = {*EDIT} - common
    if own >= edit:
        own -= edit
        yield "- may meet the [errors of any edit](#errors-of-any-edit)\n"
    if own:
        yield f"\n{_rows(own)}"
    yield "\n"


def _what(answer: Document) -> str:
    """What comes with an answer, in words."""
    told = ""
    for media, about in answer.get("content", {}).items():
        kind = _type(about["schema"]) if media == "application/json" else f"`{media}`"
        told += f" {kind}"
    if "headers" in answer:
        told += " with " + ", ".join(f"`{name}`" for name in answer["headers"])
    return told


def _words(answers: Document) -> set[str]:
    """What some answers may be as errors: status and word, as in `ERRORS`."""
    return {
        f"{status.removeprefix('Error')} {word}"
        for status, answer in answers.items()
        for media in answer.get("content", {}).values()
        for word in media.get("schema", {}).get("properties", {}).get("error", {}).get("enum", ())
    }


def _rows(words: set[str]) -> str:
    """A table of errors."""
    rows = [(*key.split(" "), _cell(ERRORS[key])) for key in sorted(words)]
    return _TABLE + "".join(f"| {status} | `{word}` | {means} |\n" for status, word, means in rows)


def _shape(name: str, schema: Document) -> Iterator[str]:
    yield f"### {name}\n\n{schema['description']}\n\n| field | is | |\n|---|---|---|\n"
    for key, about in schema["properties"].items():
        mark = "" if key in schema.get("required", ()) else "?"
        yield f"| `{key}`{mark} | {_type(about)} | {_cell(about['description'])} |\n"
    yield "\n"


def _type(schema: Document) -> str:
    """What a value is, in a word or a few."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        page = "configuration.md" if _configured(name) else f"#{_anchor(name)}"
        return f"[{name}]({page})"
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" if value else '""' for value in schema["enum"])
    kind = schema.get("type")
    if "anyOf" in schema and kind is None:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if kind == "array":
        return f"list of {_type(schema['items'])}"
    if kind == "object" and "additionalProperties" in schema:
        return f"object of {_type(schema['additionalProperties'])}"
    low, high = schema.get("minimum", 0), schema.get("maximum")
    limits = f" {low} to {high}" if high is not None else f" from {low}" if low else ""
    formats = [schema] + schema.get("anyOf", [])
    told = " or ".join(one["format"] for one in formats if "format" in one)
    return f"{kind or 'anything'}{limits}" + (f", {told}" if told else "")


def _configured(name: str) -> bool:
    """Whether a shape is of the configuration, which has a page of its own."""
    return name == "Configuration" or name.endswith("Settings")


def _short(path: str) -> str:
    return path.removeprefix(_PREFIX)


def _anchor(heading: str) -> str:
    """What GitHub and its like make of a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
