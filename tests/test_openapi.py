"""The OpenAPI document: made of the source, whole, and valid."""

from __future__ import annotations

import ast
import json
import re
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_31

from bifrost_lite.api import ROUTES
from bifrost_lite.config.edit import document
from bifrost_lite.config.schema import Settings
from bifrost_lite.errors import Reason
from bifrost_lite.load import load
from docs.dev import openapi
from docs.dev.calls import CALLS
from docs.dev.words import ERRORS
from tests.control_fixtures import Answer, read_all, running

ROOT = Path(__file__).parents[1]
# Where answers of the control server are made.
SOURCES = [
    *sorted((ROOT / "bifrost_lite" / "api").glob("*.py")),
    *(ROOT / "bifrost_lite" / f"{name}.py" for name in ("auth", "http", "hub", "rest", "sse")),
    ROOT / "bifrost_lite" / "websocket.py",
    ROOT / "bifrost_lite" / "store.py",
    ROOT / "bifrost_lite" / "wire" / "body.py",
]


@pytest.fixture(scope="module")
def made() -> Any:
    """The document as a JSON parser gives it."""
    return json.loads(json.dumps(openapi.document()))


def operations(made: Any) -> Iterator[tuple[str, str, Any]]:
    for path, methods in made["paths"].items():
        for method, about in methods.items():
            yield method.upper(), path, about


def test_the_files_are_what_the_source_makes() -> None:
    for path, text in openapi.made().items():
        assert path.read_text("utf-8") == text, f"{path.name} is old: run `make docs`"


def test_it_holds_the_calls_and_no_other(made: Any) -> None:
    described = Counter(
        (method, re.sub(r"{\w+}", "{}", path)) for method, path, _ in operations(made)
    )
    assert described == Counter((route.method, route.path) for route in ROUTES)
    assert len(CALLS) == len(ROUTES)


def test_it_is_valid_openapi(made: Any) -> None:
    validator = jsonschema_rs.Draft202012Validator(OPENAPI_31)
    assert [error.message for error in validator.iter_errors(made)] == []
    for name, schema in made["components"]["schemas"].items():
        assert jsonschema_rs.meta.is_valid(schema), name


def test_all_that_it_refers_to_is_there_and_used(made: Any) -> None:
    used = set(re.findall(r'"#/components/([^"]+)"', json.dumps(made)))
    kept = {
        f"{kind}/{name}"
        for kind, things in made["components"].items()
        if kind != "securitySchemes"
        for name in things
    }
    assert used == kept
    ids = [about["operationId"] for _, _, about in operations(made)]
    assert len(set(ids)) == len(ids)


def test_everything_is_explained(made: Any) -> None:
    for method, path, about in operations(made):
        assert about["summary"] and not about["summary"].endswith("."), (method, path)
        assert all(one["description"] for one in about.get("parameters", ())), (method, path)
    for name, schema in made["components"]["schemas"].items():
        assert schema["description"], name
        for key, about in schema.get("properties", {}).items():
            assert about["description"], f"{name}.{key}"


def test_requests_refuse_unknown_fields(made: Any) -> None:
    bodies = [about["requestBody"] for _, _, about in operations(made) if "requestBody" in about]
    assert bodies
    for body in bodies:
        name = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        schema = made["components"]["schemas"][name]
        for one in schema.get("oneOf", [schema]):
            one = made["components"]["schemas"][one["$ref"].rpartition("/")[2]] if "$ref" in one else one
            assert one["additionalProperties"] is False


def test_public_calls_need_no_token(made: Any) -> None:
    public = {(route.method, route.path) for route in ROUTES if route.public}
    for method, path, about in operations(made):
        assert (about["security"] == []) == ((method, re.sub(r"{\w+}", "{}", path)) in public)
        assert ("401" in about["responses"]) == bool(about["security"])


def test_configurations_fit_their_schema(made: Any) -> None:
    """The one in force, and the sample, secrets masked and shown, whole and short."""
    schema = {"$ref": "#/components/schemas/Configuration", "components": made["components"]}
    validator = jsonschema_rs.Draft202012Validator(schema)
    for settings in (Settings(), load(str(ROOT / "docs" / "bifrost.toml"))):
        for full in (True, False):
            for masked in (True, False):
                shown = document(settings, full=full, masked=masked)
                assert [str(e) for e in validator.iter_errors(json.loads(json.dumps(shown)))] == []
    assert not validator.is_valid({"log": {"levle": "info"}})
    assert not validator.is_valid({"backends": [{"type": "interface", "name": "wan"}]})


def literals(node: ast.expr) -> list[object]:
    """What a plain expression may be."""
    if isinstance(node, ast.Constant):
        return [node.value]
    if isinstance(node, ast.IfExp):
        return literals(node.body) + literals(node.orelse)
    return []


def refusals(path: Path) -> Iterator[tuple[object, object]]:
    """The status and word of each refusal that names both."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Refused":
            for status in literals(node.args[0]):
                for word in literals(node.args[1]):
                    yield status, word
        elif isinstance(node, ast.Dict):  # a table of statuses by their words
            for key, value in zip(node.keys, node.values, strict=True):
                status = value.value if isinstance(value, ast.Constant) else None
                if isinstance(status, int) and isinstance(key, ast.Constant):
                    yield status, key.value


def test_each_word_of_the_source_is_in_the_document() -> None:
    """No word is told that the document does not know, and none is made up."""
    found = {f"{status} {word}" for path in SOURCES for status, word in refusals(path)}
    assert len(found) > 20
    assert found <= ERRORS.keys()
    text = "".join(path.read_text("utf-8") for path in SOURCES)
    words = {reason.word: reason.status for reason in Reason}
    for key in ERRORS:
        status, word = key.split(" ")
        assert f'"{word}"' in text or words.get(word) == int(status), key


def test_each_parameter_of_the_source_is_in_the_document(made: Any) -> None:
    """What handlers read from the query, call.number("limit", ...), is what is described."""
    read = set()
    for path in SOURCES:
        text = path.read_text("utf-8")
        read |= set(re.findall(r'call\.(?:text|number|choice|address)\(\s*"(\w+)"', text))
    described = {
        one["name"]
        for _, _, about in operations(made)
        for one in about.get("parameters", ())
        if one["in"] == "query"
    }
    assert read == described


def test_links_in_the_pages_lead_somewhere() -> None:
    pages = {path: path.read_text("utf-8") for path in (ROOT / "docs").glob("*.md")}
    anchors: dict[str, set[str]] = {}
    for path, text in pages.items():
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        found = [re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in headings]
        if path.name == "api-reference.md":
            assert len(set(found)) == len(found)
        anchors[path.name] = set(found)
    for path, text in pages.items():
        for target, anchor in re.findall(r"\]\(([\w.-]*)(?:#([\w-]+))?\)", text):
            assert (path.parent / target).exists(), (path.name, target)
            assert not anchor or anchor in anchors[target or path.name], (path.name, anchor)


HOST = b"Host: 127.0.0.1\r\n"
REFUSED = {
    b"GET / HTTP/1.1\r\n\r\n": "400 bad_request",
    b"NONSENSE\r\n\r\n": "400 bad_request",
    b"GET http://127.0.0.1/ HTTP/1.1\r\n" + HOST + b"\r\n": "400 bad_target",
    b"GET /%zz HTTP/1.1\r\n" + HOST + b"\r\n": "400 bad_target",
    b"GET /api/v1/status HTTP/1.1\r\n" + HOST + b"\r\n": "401 unauthorized",
    b"GET / HTTP/1.1\r\nOrigin: http://a.example\r\n" + HOST + b"\r\n": "403 foreign_origin",
    b"GET /nothing?token=12345678 HTTP/1.1\r\n" + HOST + b"\r\n": "404 not_found",
    b"PUT /api/v1/status?token=12345678 HTTP/1.1\r\n" + HOST + b"\r\n": "405 method_not_allowed",
    b"BREW /?token=12345678 HTTP/1.1\r\n" + HOST + b"\r\n": "405 method_not_allowed",
    b"POST /api/v1/routes/test?token=12345678 HTTP/1.1\r\nContent-Length: 70000\r\n"
    + HOST + b"\r\n": "413 body_too_large",
    b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n": "414 uri_too_long",
    b"POST /api/v1/routes/test?token=12345678 HTTP/1.1\r\nContent-Length: 2\r\n"
    + HOST + b"\r\n{}": "415 unsupported_media_type",
    b"GET /metrics?token=12345678 HTTP/1.1\r\nExpect: tea\r\n" + HOST + b"\r\n":
    "417 expectation_failed",
    b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n": "421 wrong_host",
    b"GET /api/v1/ws?token=12345678 HTTP/1.1\r\n" + HOST + b"\r\n": "426 upgrade_required",
    b"GET / HTTP/1.1\r\n" + HOST + b"A: " + b"a" * 20000 + b"\r\n\r\n": "431 head_too_large",
    b"GET / HTTP/3.0\r\n" + HOST + b"\r\n": "505 http_version_unsupported",
}  # fmt: skip


@pytest.mark.parametrize("request_", REFUSED, ids=REFUSED.values())
def test_errors_have_one_form(made: Any, request_: bytes) -> None:
    """Whatever is wrong with a request, before anybody looks at what it asks for too."""
    schema = {"$ref": "#/components/schemas/Error", "components": made["components"]}
    with running(token="12345678") as daemon:
        with daemon.connect() as sock:
            sock.sendall(request_)
            sock.shutdown(socket.SHUT_WR)
            answer = Answer(read_all(sock))
        assert f"{answer.status} {answer.json['error']}" == REFUSED[request_]
        assert REFUSED[request_] in ERRORS
        assert jsonschema_rs.Draft202012Validator(schema).is_valid(answer.json)
        assert answer.json.keys() == {"error", "message"}
        assert ("allow" in answer.headers) == (answer.status == 405)
