"""Calls and their parameters, routes, answers."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from bifrost_lite.errors import Fault
from bifrost_lite.rest import (
    Call,
    ErrorBody,
    Refused,
    Response,
    Route,
    Router,
    choose,
    reply,
    unescape,
)
from bifrost_lite.wire.http1 import parse_request


def call(target: str, method: str = "GET") -> Call:
    head = f"{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode("latin-1")
    return Call(parse_request(head), head)


class Body(Struct):
    name: str = ""


def call_with(body: bytes, *fields: str) -> Call:
    head = "".join(f"{line}\r\n" for line in ("POST / HTTP/1.1", "Host: x", *fields, ""))
    asked = Call(parse_request(head.encode()), head.encode())
    asked.body = body
    return asked


async def handler(ctx: object, call: Call) -> Response:
    return Response(200)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", ""), (b"a", "a"), (b"%41%62", "Ab"), (b"%c3%a4", "ä"), (b"%25", "%"), (b"a+b", "a+b"),
        (b"%", None), (b"%4", None), (b"%zz", None), (b"%ff", None), (b"100%", None),
        (b"%2541", "%41"),
    ],
)  # fmt: skip
def test_unescape(raw: bytes, text: str | None) -> None:
    assert unescape(raw) == text


@given(st.text())
def test_unescape_undoes_escaping(text: str) -> None:
    assert unescape("".join(f"%{byte:02X}" for byte in text.encode()).encode()) == text


@given(st.binary(max_size=40))
def test_unescape_takes_anything(raw: bytes) -> None:
    unescape(raw)


@pytest.mark.parametrize("target", ["*", "http://x/", "x:443", "/%zz", "/%ff", "/a%2Fb", "/a%2f"])
def test_targets_that_are_no_paths(target: str) -> None:
    with pytest.raises(Refused) as caught:
        call(target)
    assert caught.value.status == 400


def test_parameters() -> None:
    asked = call("/p%61th?a=1&b=&a=2&c&n=%34%32&t=x+y%20z&ip=0:0::1&%zz=1")
    assert asked.path == "/path"
    assert asked.parameter("a") == b"1"
    assert asked.text("b") is None
    assert asked.text("c") is None
    assert asked.text("missing") is None
    assert asked.number("n", 0, 100) == 42
    assert asked.text("t") == "x y z"
    assert asked.address("ip") == "::1"
    assert asked.address("missing") is None
    assert asked.choice("a", ("1", "2")) == "1"
    assert asked.choice("missing", ("1",)) is None


@pytest.mark.parametrize(
    "value", ["-1", "1.5", "x", "+1", "101", "٣", "1e3", "0x1", "9" * 40, "1_0"]
)
def test_bad_numbers(value: str) -> None:
    escaped = "".join(f"%{byte:02x}" for byte in value.encode())
    with pytest.raises(Refused, match="'limit' must be a whole number from 0 to 100") as caught:
        call(f"/?limit={escaped}").number("limit", 0, 100)
    assert (caught.value.status, caught.value.word) == (400, "bad_parameter")


def test_other_bad_parameters() -> None:
    with pytest.raises(Refused, match="'level' must be one of a, b"):
        call("/?level=c").choice("level", ("a", "b"))
    with pytest.raises(Refused, match="'client' must be an IPv4 or IPv6 address"):
        call("/?client=router").address("client")
    with pytest.raises(Refused, match="'boot' must be text in UTF-8"):
        call("/?boot=%ff").text("boot")


def test_head_is_a_get_without_body() -> None:
    asked = call("/", "HEAD")
    assert (asked.method, asked.head_only) == ("GET", True)
    response = Response(200, b"body")
    assert response.render(head_only=True) + b"body" == response.render()
    assert b"Content-Length: 4\r\n" in response.render(head_only=True)


def test_security_fields_on_every_answer() -> None:
    answers = [reply(ErrorBody("a", "b")), Refused(400, "a", "b").response(), Response(204)]
    for answer in answers:
        head = answer.render().decode("latin-1")
        for field in (
            "X-Content-Type-Options: nosniff",
            "X-Frame-Options: DENY",
            "Referrer-Policy: no-referrer",
            "Content-Security-Policy: default-src 'none'; frame-ancestors 'none'",
        ):
            assert f"\r\n{field}\r\n" in head
        assert "\r\nDate: " in head
    assert b"Content-" not in Response(204).render().replace(b"X-Content-", b"").replace(
        b"Content-Security", b""
    )


def test_form_of_errors() -> None:
    body = json.loads(Refused(409, "in_use", "It is used.").response().body)
    assert body == {"error": "in_use", "message": "It is used."}


def test_form_of_faults() -> None:
    faults = [Fault("listen[0]", "port", "is taken"), Fault("log", "", "is not a table", 7)]
    refused = Refused(422, "config_rejected", "It has faults.", "X: y", faults=faults)
    assert refused.response().headers == ("X: y",)
    assert json.loads(refused.response().body) == {
        "error": "config_rejected",
        "message": "It has faults.",
        "errors": [
            {"section": "listen[0]", "field": "port", "message": "is taken"},
            {"section": "log", "field": "", "message": "is not a table", "line": 7},
        ],
    }


def test_every_status_has_its_phrase() -> None:
    for status in (412, 415, 422, 507):
        head = Refused(status, "a", "b").response().render().partition(b"\r\n")[0]
        assert len(head.split(b" ", 2)[2]) > 5


def test_a_body_of_json() -> None:
    json_type = "Content-Type: application/json"
    assert call_with(b'{"name": "x"}', json_type).json(Body) == Body("x")
    assert call_with(b"{}", "content-type:APPLICATION/json ;charset=UTF-8").json(Body) == Body()
    assert call_with(b"").json(Body, optional=True) == Body()
    assert call_with(b'{"name": "x"}', json_type).json(Body, optional=True) == Body("x")


@pytest.mark.parametrize(
    ("body", "fields", "optional", "status", "word"),
    [
        (b"{}", [], False, 415, "unsupported_media_type"),
        (b"{}", [], True, 415, "unsupported_media_type"),
        (b"", [], False, 415, "unsupported_media_type"),
        (b"{}", ["Content-Type: text/plain"], False, 415, "unsupported_media_type"),
        (b"{}", ["Content-Type: application/jsonp"], False, 415, "unsupported_media_type"),
        (b"", ["Content-Type: application/json"], False, 400, "bad_body"),
        (b"[]", ["Content-Type: application/json"], True, 400, "bad_body"),
        (b'{"name": 1}', ["Content-Type: application/json"], False, 400, "bad_body"),
        (b'{"nmae": ""}', ["Content-Type: application/json"], False, 400, "unknown_fields"),
    ],
)
def test_bodies_that_are_refused(
    body: bytes, fields: list[str], optional: bool, status: int, word: str
) -> None:
    with pytest.raises(Refused) as caught:
        call_with(body, *fields).json(Body, optional=optional)
    assert (caught.value.status, caught.value.word) == (status, word)


ROUTER: Router[object] = Router(
    [
        Route("GET", "/", handler),
        Route("GET", "/things", handler),
        Route("DELETE", "/things", handler),
        Route("GET", "/things/all", handler, head=False),
        Route("DELETE", "/things/{}", handler),
        Route("GET", "/things/{}/parts/{}", handler),
    ]
)


@pytest.mark.parametrize(
    ("path", "methods", "parts"),
    [
        ("/", {"GET"}, []),
        ("/things", {"GET", "DELETE"}, []),
        ("/things/", {"GET", "DELETE"}, []),
        ("/things/all", {"GET"}, []),
        ("/things/7", {"DELETE"}, ["7"]),
        ("/things/7/", {"DELETE"}, ["7"]),
        ("/things/7/parts/x", {"GET"}, ["7", "x"]),
        ("/things/{}", {"DELETE"}, ["{}"]),
        ("/things//", set(), []),
        ("//", {"GET"}, []),
        ("/thing", set(), []),
        ("/things/7/parts", set(), []),
        ("/things/7/parts/x/y", set(), []),
        ("", set(), []),
    ],
)
def test_router(path: str, methods: set[str], parts: list[str]) -> None:
    found, values = ROUTER.find(path)
    assert set(found) == methods
    assert values == parts


def test_choose() -> None:
    methods, _ = ROUTER.find("/things")
    assert choose(methods, call("/things")) is methods["GET"]
    assert choose(methods, call("/things", "HEAD")) is methods["GET"]
    options = choose(methods, call("/things", "OPTIONS"))
    assert isinstance(options, Response)
    assert options.headers == ("Allow: DELETE, GET, HEAD, OPTIONS",)
    with pytest.raises(Refused) as caught:
        choose(methods, call("/things", "PUT"))
    assert (caught.value.status, caught.value.headers) == (405, options.headers)
    with pytest.raises(Refused) as caught:
        choose(ROUTER.find("/things/all")[0], call("/things/all", "HEAD"))
    assert caught.value.headers == ("Allow: GET, OPTIONS",)
    with pytest.raises(Refused) as caught:
        choose({}, call("/nothing"))
    assert caught.value.status == 404
