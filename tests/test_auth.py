"""Who may call the control port: hosts, origins, tokens, and what each refusal says."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import pytest

from bifrost_lite import auth
from bifrost_lite.auth import Guard, Peer
from bifrost_lite.config.schema import Control
from bifrost_lite.rest import Call, Refused
from bifrost_lite.wire.http1 import parse_request

TOKEN = "correct-horse"
READ = "only-looking"
JOIN = "may-i-come-in"
PEER_TOKEN = "0123456789abcdef"
PEER = Peer(bytes((192, 168, 1, 100)), bytes((192, 168, 1, 1)), "192.168.1.100")
V6_PEER = Peer(bytes(15) + b"\1", socket.inet_pton(socket.AF_INET6, "fd00::1"), "::1")
OWN = {socket.inet_pton(socket.AF_INET6, "2001:db8::1"), bytes((10, 0, 0, 1))}


def guard(join: str = "", **settings: object) -> Guard:
    """A guard for whom the peer `laptop` of the network `home` has the token `PEER_TOKEN`."""
    return Guard(
        Control(**settings),  # type: ignore[arg-type]
        OWN.__contains__,
        "Router",
        join,
        lambda parts, token: (list(parts), token) == (["home", "laptop"], PEER_TOKEN.encode()),
    )


def call(
    *headers: str, method: str = "GET", target: str = "/api/v1/stats", host: str = "router"
) -> Call:
    fields = [f"Host: {host}", *headers]
    head = "\r\n".join([f"{method} {target} HTTP/1.1", *fields, "\r\n"]).encode("latin-1")
    return Call(parse_request(head), head)


def status(
    refusing: Guard, asked: Call, public: bool = False, peer: Peer = PEER, keys: Sequence[str] = ()
) -> int:
    """The status of the refusal, 200 for none."""
    try:
        refusing.admit(asked, peer, public, 0.0, keys)
    except Refused as refused:
        return refused.status
    return 200


# Hosts.


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LocalHost:7082", "localhost.", "127.0.0.1", "127.0.0.1:7082", "127.1.2.3",
        "[::1]", "[::1]:7082", "[0:0:0:0:0:0:0:1]", "router", "ROUTER:1", "router.", "openwrt.lan",
        "a.b.lan:7082", "10.0.0.1", "[2001:db8::1]:7082", "[2001:DB8:0::1]", "192.168.1.1:7082",
        "bifrost.example", "Bifrost.Example:443", "198.51.100.7",
    ],
)  # fmt: skip
def test_hosts_of_ours(host: str) -> None:
    trusting = guard(trusted_hosts=("bifrost.EXAMPLE", "198.51.100.7"))
    assert status(trusting, call(host=host)) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:7082", "10.0.0.2", "[2001:db8::2]", "0.0.0.0", "[::]",
        "localhost.evil.example", "router.evil.example", "notlan", "evil.lan.example", "lan",
        "127.0.0.1.evil.example", "2130706433", "0x7f.1", "127.1", "", "a b", "user@localhost",
        "localhost/", "[::1", "::1", "localhost:port", "localhost:7082:7082", "loc\xe4lhost",
        "[::ffff:10.0.0.2]", "localhost,evil.example", "router%00", "192.168.1.100",
    ],
)  # fmt: skip
def test_hosts_of_others(host: str) -> None:
    assert status(guard(), call(host=host)) == 421


def test_mapped_address_is_the_address() -> None:
    assert status(guard(), call(host="[::ffff:10.0.0.1]")) == 200


def test_http_1_0_without_host() -> None:
    head = b"GET / HTTP/1.0\r\n\r\n"
    assert status(guard(), Call(parse_request(head), head)) == 421


def test_the_address_that_was_reached_is_ours() -> None:
    assert status(guard(), call(host="[fd00::1]"), peer=V6_PEER) == 200
    assert status(guard(), call(host="[fd00::1]")) == 421


# Origins.


@pytest.mark.parametrize(
    "origin",
    [
        "http://router", "http://router:7082", "http://ROUTER:3000", "https://router",
        "https://router:8443", "http://router.",
    ],
)  # fmt: skip
def test_origin_of_the_same_host(origin: str) -> None:
    assert status(guard(), call(f"Origin: {origin}")) == 200
    assert status(guard(token=TOKEN), call(f"Origin: {origin}", f"Authorization: {TOKEN}")) == 200


HOSTILE = [
    "http://evil.example", "null", "http://router.evil.example", "http://evil.example:7082",
    "http://routerx", "http://router@evil.example", "http://router/", "http://router?x", "",
    "router", "file://", "chrome-extension://router", "ftp://router", "http://router:80:80",
    "http://[::1", "http://rout er", "http://evil.example http://router", "https://",
]  # fmt: skip


@pytest.mark.parametrize("origin", HOSTILE)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
def test_foreign_origin(origin: str, method: str) -> None:
    """On all methods, with a right token too, and even for what is public."""
    asked = call(f"Origin: {origin}", f"Authorization: Bearer {TOKEN}", method=method)
    assert status(guard(token=TOKEN), asked) == 403
    assert status(guard(), asked) == 403
    assert status(guard(token=TOKEN), asked, public=True) == 403


@pytest.mark.parametrize("origin", ["http://localhost:7082", "http://127.0.0.1", "https://[::1]:1"])
def test_local_origins_need_a_right_token(origin: str) -> None:
    """The Go client of Bifrost's API page sends `Origin: http://localhost:7082` wherever it connects."""
    secured = guard(token=TOKEN, read_token=READ)
    field = f"Origin: {origin}"
    assert status(secured, call(field, target=f"/api/v1/ws?token={TOKEN}")) == 200
    assert status(secured, call(field, f"Authorization: Bearer {READ}")) == 200
    assert status(secured, call(field)) == 403
    assert status(secured, call(field, target="/?token=wrong")) == 403
    assert status(guard(), call(field, target="/?token=ignored")) == 403
    assert status(guard(), call("Origin: http://localhost:9", host="localhost:7082")) == 200


def test_local_origins_look_alike() -> None:
    for origin in ("http://localhost.evil.example", "http://127.0.0.2", "http://localhosts"):
        asked = call(f"Origin: {origin}", f"Authorization: {TOKEN}")
        assert status(guard(token=TOKEN), asked) == 403


def test_trusted_origins() -> None:
    trusting = guard(trusted_origins=("https://ha.example:8123", "HTTP://panel.example"))
    assert status(trusting, call("Origin: https://HA.example:8123")) == 200
    assert status(trusting, call("Origin: http://panel.example")) == 200
    for origin in ("https://ha.example", "http://ha.example:8123", "https://panel.example"):
        assert status(trusting, call(f"Origin: {origin}")) == 403


def test_two_origins() -> None:
    assert status(guard(), call("Origin: http://router", "Origin: http://evil.example")) == 403
    assert status(guard(), call("Origin: http://router", "Origin: http://router")) == 403


# CORS.


def cors(allowing: Guard, asked: Call) -> dict[str, str]:
    fields = allowing.admit(asked, PEER, False, 0.0)
    return dict(field.split(": ", 1) for field in fields)


def test_cors_for_another_port_only() -> None:
    asked = call("Origin: http://router", host="router:7082")
    assert cors(guard(), asked) == {
        "Access-Control-Allow-Origin": "http://router",
        "Access-Control-Expose-Headers": "ETag",
        "Vary": "Origin",
    }
    assert cors(guard(), call("Origin: http://router:7082", host="router:7082")) == {}
    assert cors(guard(), call("Origin: http://router:80", host="router")) == {}
    assert cors(guard(), call(host="router:7082")) == {}
    assert cors(guard(), call("Origin: https://router:7082", host="router:7082"))


def test_preflight_needs_no_token() -> None:
    preflight = call(
        "Origin: http://router", "Access-Control-Request-Method: DELETE",
        method="OPTIONS", host="router:7082",
    )  # fmt: skip
    fields = cors(guard(token=TOKEN), preflight)
    assert fields["Access-Control-Allow-Origin"] == "http://router"
    assert "DELETE" in fields["Access-Control-Allow-Methods"]
    assert "Authorization" in fields["Access-Control-Allow-Headers"]
    assert "Access-Control-Allow-Credentials" not in fields


def test_preflight_of_a_local_page() -> None:
    """It opens nothing by itself: the call after it must have the token."""
    asked = call("Origin: http://localhost:3000", method="OPTIONS")
    assert cors(guard(token=TOKEN), asked)["Access-Control-Allow-Origin"]
    assert status(guard(), asked) == 403


def test_refusals_for_a_page_that_may_call_are_readable() -> None:
    with pytest.raises(Refused) as caught:
        guard(token=TOKEN).admit(call("Origin: http://router:3000"), PEER, False, 0.0)
    assert "Access-Control-Allow-Origin: http://router:3000" in caught.value.headers
    assert caught.value.status == 401


# Tokens.


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ([f"Authorization: Bearer {TOKEN}"], ""),
        ([f"Authorization: bearer {TOKEN}"], ""),
        ([f"Authorization: BEARER   {TOKEN} "], ""),
        ([f"Authorization: {TOKEN}"], ""),
        ([], f"?token={TOKEN}"),
        ([], f"?since=1&token={TOKEN}&x"),
        ([], "?token=correct%2dhorse"),
        (["Authorization: Bearer wrong"], f"?token={TOKEN}"),
        ([f"Authorization: {TOKEN}"], "?token=wrong"),
    ],
)
def test_any_right_token_opens(headers: list[str], query: str) -> None:
    assert status(guard(token=TOKEN), call(*headers, target=f"/{query}")) == 200


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ([], ""),
        (["Authorization: Bearer"], ""),
        (["Authorization: Bearer wrong"], ""),
        ([f"Authorization: Basic {TOKEN}"], ""),
        ([f"Authorization: Bearer Bearer {TOKEN}"], ""),
        ([f"Authorization: Bearer {TOKEN}x"], ""),
        ([f"Authorization: Bearer {TOKEN[:-1]}"], ""),
        ([f"Authorization: Bearer {TOKEN.upper()}"], ""),
        ([f"X-Token: {TOKEN}", f"Cookie: token={TOKEN}"], ""),
        ([], "?token="),
        ([], "?token=%ff%zz"),
        ([], f"?Token={TOKEN}"),
        ([], f"?token=wrong&token={TOKEN}"),
        ([], f"?token={TOKEN}%00"),
        (["Authorization: \xe4\xf6\xfc"], ""),
    ],
)
def test_no_other_token_opens(headers: list[str], query: str) -> None:
    secured = guard(token=TOKEN)
    with pytest.raises(Refused) as caught:
        secured.admit(call(*headers, target=f"/{query}"), PEER, False, 0.0)
    assert caught.value.status == 401
    assert "WWW-Authenticate: Bearer" in caught.value.headers
    assert TOKEN not in caught.value.message


def test_tokens_with_signs_pass_escaped_and_plain() -> None:
    secured = guard(token="a+b%41c/d=")
    assert status(secured, call(target="/?token=a+b%41c/d=")) == 200
    assert status(secured, call(target="/?token=a%2Bb%2541c%2Fd%3D")) == 200
    assert status(secured, call(target="/?token=a+bAc/d=")) == 401


def test_no_token_configured_ignores_any() -> None:
    """The clients of Bifrost's API page always send one."""
    assert status(guard(), call("Authorization: Bearer your-token")) == 200
    assert status(guard(), call(target="/?token=your-api-token", method="DELETE")) == 200


def test_read_token() -> None:
    secured = guard(token=TOKEN, read_token=READ)
    field = f"Authorization: Bearer {READ}"
    assert status(secured, call(field)) == 200
    assert status(secured, call(field, method="HEAD")) == 200
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert status(secured, call(field, method=method)) == 403
        assert status(secured, call(field, method=method, target=f"/?token={TOKEN}")) == 200


def test_no_read_token_is_no_empty_token() -> None:
    assert status(guard(token=TOKEN), call("Authorization: Bearer ", target="/?token=")) == 401


def test_public_needs_no_token_and_counts_none() -> None:
    secured = guard(token=TOKEN)
    for _ in range(30):
        assert status(secured, call("Authorization: Bearer wrong"), public=True) == 200
    assert status(secured, call("Authorization: Bearer wrong")) == 401


def test_eleventh_wrong_token() -> None:
    secured = guard(token=TOKEN)
    wrong = call("Authorization: Bearer wrong")
    for _ in range(30):
        assert status(secured, call()) == 401  # missing ones do not count
    assert [status(secured, wrong) for _ in range(12)] == [401] * 10 + [429] * 2
    with pytest.raises(Refused) as caught:
        secured.admit(wrong, PEER, False, 0.0)
    assert "Retry-After: 60" in caught.value.headers
    assert status(secured, call()) == 401
    assert status(secured, call(f"Authorization: Bearer {TOKEN}")) == 200  # always served
    other = Peer(bytes((192, 168, 1, 101)), PEER.own, "192.168.1.101")
    assert status(secured, wrong, peer=other) == 401


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each token offered is compared with all of ours, whatever the others gave."""
    compared: list[tuple[bytes, bytes]] = []
    real = auth._compare_digest

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return real(left, right)

    monkeypatch.setattr(auth, "_compare_digest", compare)
    secured = guard(JOIN, token=TOKEN, read_token=READ)
    for token in (TOKEN, READ, JOIN, "wrong"):
        compared.clear()
        status(secured, call(f"Authorization: {token}"))
        for own in (TOKEN, READ, JOIN):
            assert compared.count((token.encode(), own.encode())) == 1


# Tokens of meshes.


def asks(token: str, *parts: str, method: str = "POST", target: str = "/x") -> Call:
    """A call with that token, whose path had those parts."""
    asked = call(f"Authorization: Bearer {token}", method=method, target=target)
    asked.parts = list(parts)
    return asked


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE"])
def test_join_token_opens_what_it_is_for_and_nothing_else(method: str) -> None:
    secured = guard(JOIN, token=TOKEN, read_token=READ)
    asked = asks(JOIN, method=method)
    assert status(secured, asked, keys=("join",)) == 200
    assert asked.key == "join"
    with pytest.raises(Refused) as caught:
        secured.admit(asks(JOIN, method=method), PEER, False, 0.0)
    assert (caught.value.status, caught.value.word) == (403, "join_only")
    assert status(secured, asks(JOIN, "home", "laptop", method=method), keys=("peer",)) == 403


@pytest.mark.parametrize("method", ["PATCH", "POST", "DELETE"])
def test_peer_token_opens_its_own_peer_alone(method: str) -> None:
    secured = guard(JOIN, token=TOKEN)
    asked = asks(PEER_TOKEN, "home", "laptop", method=method)
    assert status(secured, asked, keys=("peer",)) == 200
    assert asked.key == "peer"
    for parts in (("home", "phone"), ("other", "laptop")):
        assert status(secured, asks(PEER_TOKEN, *parts, method=method), keys=("peer",)) == 401
    assert status(secured, asks(PEER_TOKEN, "home", method=method), keys=("join",)) == 401
    assert status(secured, asks(PEER_TOKEN, "home", "laptop", method=method)) == 401


def test_read_token_opens_no_calls_of_peers_but_does_not_hinder() -> None:
    secured = guard(JOIN, token=TOKEN, read_token=READ)
    for keys, token in ((("join",), JOIN), (("peer",), PEER_TOKEN)):
        asked = asks(READ, "home", "laptop")
        assert status(secured, asked, keys=keys) == 403
        asked = asks(READ, "home", "laptop", target=f"/x?token={token}")
        assert status(secured, asked, keys=keys) == 200
        assert asked.key == keys[0]
    assert status(secured, asks(READ, method="GET"), keys=("join",)) == 200


def test_the_own_token_needs_no_other() -> None:
    """Handlers know by `key` whom they serve, so it must not be set for who may do all."""
    secured = guard(JOIN, token=TOKEN, read_token=READ)
    for keys, token in ((("join",), JOIN), (("peer",), PEER_TOKEN)):
        asked = asks(TOKEN, "home", "laptop", target=f"/x?token={token}")
        assert status(secured, asked, keys=keys) == 200
        assert asked.key == ""
    asked = asks(JOIN, "home", "laptop")
    assert status(guard(), asked, keys=("join", "peer")) == 200  # no token: all may do all
    assert asked.key == ""


def test_no_join_token_is_no_empty_token() -> None:
    secured = guard(token=TOKEN)
    assert status(secured, call("Authorization: Bearer "), keys=("join", "peer")) == 401
    assert status(secured, call(target="/?token="), keys=("join", "peer")) == 401


def test_wrong_tokens_at_mesh_calls_are_counted() -> None:
    secured = guard(JOIN, token=TOKEN)

    def knock(token: str, keys: Sequence[str]) -> int:
        return status(secured, asks(token, "home", "laptop"), keys=keys)

    assert [knock("wrong", ("peer",)) for _ in range(5)] == [401] * 5
    assert [knock("wrong", ("join",)) for _ in range(7)] == [401] * 5 + [429] * 2
    assert knock(PEER_TOKEN, ("peer",)) == 200  # right ones are always served
    assert knock(JOIN, ("join",)) == 200
    assert knock(JOIN, ()) == 403  # a right one that opens something else is no guess
    assert knock(PEER_TOKEN, ()) == 429


def test_local_pages_with_a_mesh_token() -> None:
    secured = guard(JOIN, token=TOKEN)
    asked = call("Origin: http://localhost:3000", target=f"/x?token={JOIN}")
    assert status(secured, asked, keys=("join",)) == 200
    asked = call("Origin: http://localhost:3000", target=f"/x?token={PEER_TOKEN}")
    asked.parts = ["home", "laptop"]
    assert status(secured, asked, keys=("peer",)) == 200
    assert status(secured, asked) == 403


def test_order_of_refusals() -> None:
    """Host before origin before token: a page that may not ask learns nothing of tokens."""
    secured = guard(token=TOKEN)
    evil = ("Origin: http://evil.example", "Authorization: Bearer wrong")
    assert status(secured, call(*evil, host="evil.example")) == 421
    assert status(secured, call(*evil)) == 403
