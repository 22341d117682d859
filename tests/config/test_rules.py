"""The rules between keys, where the golden files in tests/data/config do not show them."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost_lite.config.rules import check
from bifrost_lite.config.schema import (
    Access,
    Control,
    Direct,
    Group,
    Interface,
    Listen,
    Mesh,
    MeshNetwork,
    Settings,
    Socks5Proxy,
    User,
)
from bifrost_lite.mesh.ipam import Pool


def found(settings: Settings) -> list[tuple[str | int, ...]]:
    return [path for path, _ in check(settings)]


def test_the_defaults_break_none() -> None:
    assert found(Settings()) == []


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "203.0.113.7", "100.64.0.1", "2001:db8::1"])
@pytest.mark.parametrize("allow", [(), ("0.0.0.0/0",), ("::/0",), ("10.0.0.0/8", "::ffff:0:0/96")])
def test_an_open_proxy_is_refused(address: str, allow: tuple[str, ...]) -> None:
    listen = (Listen(name="a", address=address, port=1),)
    open_ = Settings(listen=listen, access=Access(allow=allow))
    assert found(open_) == [("listen", 0, "address")]
    assert found(Settings(listen=listen, access=Access(allow=allow, allow_open=True))) == []
    assert found(Settings(listen=listen)) == []


def test_users_keep_a_proxy_from_being_open_where_they_are_asked_for() -> None:
    users = (User(name="guest", password_hash="pbkdf2-sha256$x"),)
    everybody = Access(allow=())
    asked = (Listen(name="a", address="0.0.0.0"),)
    unasked = (Listen(name="a", address="0.0.0.0", auth=False),)
    assert found(Settings(listen=asked, access=everybody, users=users)) == []
    assert found(Settings(listen=unasked, access=everybody, users=users)) == [
        ("listen", 0, "address")
    ]


@pytest.mark.parametrize("address", ["127.9.9.9", "::1", "10.1.1.1", "172.31.0.1", "fd00::1",
                                     "fe80::1", "169.254.1.1", "::ffff:192.168.1.1"])  # fmt: skip
def test_private_addresses_are_never_open(address: str) -> None:
    listen = (Listen(name="a", address=address),)
    assert found(Settings(listen=listen, access=Access(allow=()))) == []


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("0.0.0.0", "127.0.0.2", True),
        ("127.0.0.2", "0.0.0.0", True),
        ("::", "::1", True),
        ("::", "127.0.0.1", True),  # it takes IPv4 too
        ("127.0.0.1", "::", True),
        ("0.0.0.0", "::1", False),
        ("::", "0.0.0.0", True),
        ("0.0.0.0", "::", True),
        ("0:0:0:0:0:0:0:1", "::1", True),
    ],
)
def test_collisions(one: str, other: str, same: bool) -> None:
    def listeners(port: int) -> Settings:
        return Settings(
            listen=(
                Listen(name="a", address=one, port=port),
                Listen(name="b", address=other, port=port),
            )
        )

    assert found(listeners(80)) == ([("listen", 1, "port")] if same else [])
    assert found(listeners(0)) == []


def test_control_listeners_collide_too() -> None:
    control = Control(listen=("127.0.0.1:7080", "127.0.0.1:7080", "127.0.0.1:0", "127.0.0.1:0"))
    assert found(Settings(control=control)) == [("control", "listen", 0), ("control", "listen", 1)]
    control = Control(listen=("[::]:80", "0.0.0.0:80"), token="eight888")  # each its own family
    listen = (Listen(name="a", address="::", port=81),)
    assert found(Settings(control=control, listen=listen)) == []
    control = Control(listen=("127.0.0.1:81",))
    assert found(Settings(control=control, listen=listen)) == [("control", "listen", 0)]


def test_control_beyond_loopback_needs_a_token() -> None:
    beyond = ("192.168.1.1:7082", "[::1]:7082", "127.0.0.53:1")
    assert found(Settings(control=Control(listen=beyond))) == [("control", "listen", 0)]
    assert found(Settings(control=Control(listen=beyond, token="your-token"))) == []
    assert found(Settings(control=Control(listen=beyond, allow_unauthenticated=True))) == []


@pytest.mark.parametrize(("interval", "right"), [(0, True), (0.05, False), (0.1, True)])
def test_stats_interval_is_off_or_reasonable(interval: float, right: bool) -> None:
    assert (found(Settings(control=Control(stats_interval=interval))) == []) is right


@pytest.mark.parametrize("other", [Control(token="a-token1", read_token="a-token2")])
@pytest.mark.parametrize("join", ["a-token1", "a-token2"])
def test_the_join_token_is_another_one(other: Control, join: str) -> None:
    assert found(Settings(control=other, mesh=Mesh(join_token=join))) == [("mesh", "join_token")]


def test_a_join_token_is_of_no_use_without_a_token() -> None:
    join = Mesh(join_token="join-token")
    assert found(Settings(mesh=join)) == [("mesh", "join_token")]
    assert found(Settings(mesh=join, control=Control(token="eight888"))) == []


@pytest.mark.parametrize(
    "cidr", ["", "10.0.0.0/31", "10.0.0.0/7", "10.0.0.1", "fd00::/63", "fd00::/127", "::ffff:10.0.0.0/104"]
)  # fmt: skip
def test_networks_that_have_no_room(cidr: str) -> None:
    networks = (MeshNetwork(id="a", cidr="10.0.0.0/8"), MeshNetwork(id="b", cidr=cidr))
    assert found(Settings(mesh=Mesh(networks=networks))) == [("mesh", "networks", 1, "cidr")]


@given(
    st.one_of(
        st.tuples(st.ip_addresses(v=4), st.integers(0, 32)),
        st.tuples(st.ip_addresses(v=6), st.integers(0, 128)),
    )
)
def test_a_network_that_is_right_can_be_made(network: tuple[object, int]) -> None:
    """Nothing is left for the daemon to find wrong at its start."""
    cidr = str(ip_network(f"{network[0]}/{network[1]}", strict=False))
    if not found(Settings(mesh=Mesh(networks=(MeshNetwork(id="a", cidr=cidr),)))):
        assert Pool(cidr).cidr == cidr


def test_groups_may_hold_groups() -> None:
    groups = tuple(
        Group(name=f"g{number}", members=(f"g{number + 1}" if number < 99 else "direct", "spare"))
        for number in range(100)
    )
    assert found(Settings(backends=(*groups, Direct(), Direct(name="spare")))) == []


def test_a_great_ring_is_found() -> None:
    groups = tuple(Group(name=f"g{n}", members=(f"g{(n + 1) % 100}",)) for n in range(100))
    assert len(found(Settings(backends=(*groups, Direct())))) == 100


def test_weights() -> None:
    right = Group(strategy="weighted", members=("direct", "b"), weights=(3, 1))
    spare = Direct(name="b")
    assert found(Settings(backends=(Direct(), spare, right))) == []
    short = Group(strategy="weighted", members=("direct", "b"), weights=(3,))
    assert found(Settings(backends=(Direct(), spare, short))) == [("backends", 2, "weights")]


def test_socks_credentials_fit_their_length_byte() -> None:
    long = Socks5Proxy(address="a.example:1", username="ü" * 128, password="ü" * 128)
    assert found(Settings(backends=(Direct(), long))) == [
        ("backends", 1, "username"),
        ("backends", 1, "password"),
    ]


def test_a_source_has_the_family_asked_for() -> None:
    def backend(source: str, family: str) -> Settings:
        return Settings(backends=(Direct(source=source, family=family),))  # type: ignore[arg-type]

    assert found(backend("192.0.2.1", "6")) == [("backends", 0, "source")]
    assert found(backend("2001:db8::1", "4")) == [("backends", 0, "source")]
    for family in ("4", "auto", "prefer4"):
        assert found(backend("192.0.2.1", family)) == []


def test_unread_sections_are_not_judged() -> None:
    settings = Settings(backends=(Direct(), Interface(), Interface()), users=(User(),))
    assert {path[0] for path, _ in check(settings)} == {"backends", "users"}
    assert {path[0] for path, _ in check(settings, {"backends"})} == {"users"}
