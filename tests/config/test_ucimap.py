"""Settings from UCI and back: nothing lost, every fault with its section, option and line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from bifrost_lite.config import schema, ucimap
from bifrost_lite.config.interfaces import Interface
from bifrost_lite.config.schema import Control, Direct, Listen, Pac, Settings
from bifrost_lite.config.uci import dump
from bifrost_lite.config.ucimap import Reading, keys, names_networks, read
from bifrost_lite.config.uciwrite import write
from bifrost_lite.errors import ConfigError, Fault
from tests.config.test_toml import settings

UP = {
    "lan": Interface("br-lan", ("192.168.1.1", "fd12::1")),
    "guest": Interface("br-guest", ()),
    "wan": Interface("pppoe-wan", ("198.51.100.7",)),
    "odd": Interface("", ()),
}
ROUTER = Settings(
    source="uci",
    control=Control(listen=("127.0.0.1:7082",), max_clients=5),
    pac=Pac(enabled=False),
)


def reading(text: str | bytes) -> Reading:
    raw = text.encode() if isinstance(text, str) else text
    return Reading(read(raw), UP)


def converted(text: str) -> Settings:
    return reading(text).settings()


def faults(text: str | bytes) -> list[Fault]:
    with pytest.raises(ConfigError) as caught:
        reading(text).settings()
    return caught.value.faults


def told(text: str | bytes) -> list[str]:
    return [str(fault) for fault in faults(text)]


# There and back


@given(settings(), st.booleans())
def test_round_trips(wanted: Settings, enabled: bool) -> None:
    """Settings, UCI, text, UCI, settings, UCI."""
    wanted = structs.replace(wanted, source="uci")
    package = write(wanted, enabled=enabled)
    text = dump(package)
    again = reading(text)
    assert again.settings() == wanted
    assert again.enabled is enabled
    assert dump(write(again.settings(), enabled=enabled)) == text


def test_every_type_of_backend_goes_round() -> None:
    health = schema.Health(type="http", target="http://192.0.2.1/", expect=(200,), jitter=0.25)
    wanted = structs.replace(
        ROUTER,
        backends=(
            schema.Interface(name="wg", device="wg0", fwmark=256, resolver=("10.0.0.1",)),
            schema.HttpProxy(name="log", address="a.example:1", username="me", password="it's \\"),
            schema.Socks5Proxy(name="a.b-c", address="[::1]:1", connect_timeout=0.25),
            schema.Group(strategy="weighted", members=("wg", "log"), weights=(3, 1)),
            schema.Block(),
            Direct(health=health, source="192.0.2.7", family="4"),
        ),
    )
    text = dump(write(wanted, enabled=True))
    assert converted(text.decode()) == wanted
    assert b"config backend\n\toption name 'log'\n" in text  # the section log is another
    assert b"config backend 'wg'\n\toption type 'interface'\n" in text


def test_no_listeners_are_not_the_default_ones() -> None:
    wanted = structs.replace(ROUTER, listen=())
    text = dump(write(wanted, enabled=True)).decode()
    assert "option address '-'" in text
    assert converted(text) == wanted
    assert converted("").listen == Settings().listen


def test_a_list_of_the_sign_for_none_is_refused() -> None:
    wanted = structs.replace(ROUTER, control=Control(trusted_hosts=("-",)))
    with pytest.raises(ValueError, match="trusted_hosts"):
        write(wanted, enabled=True)


# What a package means


def test_an_empty_file_is_the_defaults_of_a_router() -> None:
    assert converted("") == ROUTER
    assert reading("").enabled is None
    assert reading("config main main").enabled is False
    assert dump(write(ROUTER, enabled=False)) == b"\nconfig main 'main'\n\toption enabled '0'\n\n"


@pytest.mark.parametrize(
    ("word", "value"),
    [("1", True), ("on", True), ("true", True), ("yes", True), ("enabled", True),
     ("0", False), ("off", False), ("false", False), ("no", False), ("disabled", False)],
)  # fmt: skip
def test_booleans(word: str, value: bool) -> None:
    found = reading(
        f"config main 'main'\n option enabled {word}\nconfig http http\n option via {word}"
    )
    assert found.enabled is value
    assert found.settings().http.via is value


@pytest.mark.parametrize(
    ("text", "value"), [("60", 60.0), ("0.5", 0.5), ("250ms", 0.25), ("1h30m", 5400.0)]
)
def test_times(text: str, value: float) -> None:
    assert converted(
        f"config limits limits\n option idle_timeout '{text}'"
    ).limits.idle_timeout == (value)


def test_numbers() -> None:
    text = "config backend b\n option type interface\n option device wg0\n option fwmark 0x1F\n"
    found = converted(f"{text}config route r\n option backend b\n option priority '-5'")
    backend = found.backends[0]
    assert isinstance(backend, schema.Interface)
    assert backend.fwmark == 31
    assert found.routes[0].priority == -5


def test_names_are_those_of_sections_unless_said() -> None:
    found = converted(
        "config listen\n option port 1\n"
        "config listen two\n option port 2\n"
        "config listen three\n option port 3\n option name 'the-third'\n"
        "config backend\n option type block\n"
        "config route\n option backend block\n"
        "config mesh_network home\n option cidr 10.1.0.0/16\n"
    )
    assert [item.name for item in found.listen] == ["listen-1", "two", "the-third"]
    assert [item.name for item in found.backends] == ["block", "direct"]
    assert [item.name for item in found.routes] == ["route-1"]
    assert [(item.id, item.name) for item in found.mesh.networks] == [("home", "")]


def test_lists_and_their_order() -> None:
    found = converted(
        "config route b\n option backend direct\n list ports 2\n list ports 1\n"
        "config access access\n list allow '-'\n"
        "config route a\n option backend direct\n"
    )
    assert [item.name for item in found.routes] == ["b", "a"]
    assert found.routes[0].ports == (2, 1)
    assert found.access.allow == ()


def test_health_is_part_of_its_backend() -> None:
    found = converted(
        "config backend direct\n option health_type tcp\n option health_target a.example:1\n"
        " list health_expect 201\n"
    )
    (direct,) = found.backends
    assert isinstance(direct, Direct)
    assert direct.health == schema.Health(type="tcp", target="a.example:1", expect=(201,))


# Networks


def test_a_listener_of_a_network_has_all_its_addresses() -> None:
    found = converted("config listen lan\n option address @lan\n option port 80\n option udp 1\n")
    assert found.listen == (
        Listen(name="lan", address="192.168.1.1", port=80, udp=True),
        Listen(name="lan-2", address="fd12::1", port=80, udp=True),
    )


@pytest.mark.parametrize("name", ["guest", "gone"])
def test_a_network_that_is_away_has_no_listener(name: str) -> None:
    found = converted(
        f"config listen a\n option address @{name}\n"
        f"config control control\n list listen @{name}:7082\n list listen 127.0.0.1:1\n"
    )
    assert found.listen == ()
    assert found.control.listen == ("127.0.0.1:1",)


def test_the_control_of_a_network() -> None:
    found = converted("config control control\n list listen @lan:7082\n option token long-enough\n")
    assert found.control.listen == ("192.168.1.1:7082", "[fd12::1]:7082")


@pytest.mark.parametrize(
    ("text", "device"),
    [("@wan", "pppoe-wan"), ("@odd", "@odd"), ("@gone", "@gone"), ("wg0", "wg0"),
     ("@a_name_that_is_long", "@a_name_that_is")],
)  # fmt: skip
def test_the_device_of_a_network(text: str, device: str) -> None:
    found = converted(f"config backend b\n option type interface\n option device '{text}'")
    backend = found.backends[0]
    assert isinstance(backend, schema.Interface)
    assert backend.device == device


def test_whether_networks_are_named() -> None:
    assert names_networks(read(b"config listen a\n option address @lan"))
    assert names_networks(read(b"config control control\n list listen 1\n list listen @lan:1"))
    assert not names_networks(read(b"config backend a\n option password '@lan'\n option x @a"))


# Faults


def test_a_file_that_is_no_uci_is_one_fault() -> None:
    with pytest.raises(ConfigError) as caught:
        read(b"config main main\n option enabled 0\n option x 'y\n")
    (fault,) = caught.value.faults
    assert (fault.section, fault.field, fault.line) == ("", "", 3)
    assert fault.message == "is not UCI: EOF with unterminated ' (column 11)"


BAD = b"""\
config main
config main 'main'
	option enabled 'maybe'
	option secret 'x'
config foo 'x'
config listen
	option port '70000'
	option address '@wan:80'
	option auth 'ja'
config listen 'b'
	list port '80'
config backend 'wg'
	option type 'interface'
	option device '@'
	option health_interval 'soon'
	option username 'me'
	option health 'x'
config route 'r'
	list ports '1'
	list ports 'x'
	option domains 'a.example b.example'
config control 'control'
	list listen '127.0.0.1:1'
	list listen '@lan'
	option token 'short'
config mesh 'mesh'
	option state '\xff'
config access 'access'
	list allow '10.0.0.0/8'
	list allow 'caf\xc3\xa9'
"""
PLACES = [
    (1, "@main[0]", "", "expected its name to be its type: config main 'main'"),
    (3, "main", "enabled", "got 'maybe', expected 1 or 0"),
    (4, "main", "secret", "is no option of a section main, expected enabled, graceful_period"),
    (5, "x", "", "got a section of type 'foo', expected one of main, log, listen, backend,"),
    (7, "@listen[0]", "port", "got 70000, expected a whole number from 0 to 65535"),
    (8, "@listen[0]", "address", 'or "@" and the name of a network: "@lan", or "-" for none'),
    (9, "@listen[0]", "auth", "got 'ja', expected 1 or 0 (or on, off, true, false,"),
    (11, "b", "port", "is no list: write option port '...'"),
    (14, "wg", "device", "got '@', expected the name of a network device, or \"@\" and the name"),
    (15, "wg", "health_interval", "got 'soon', expected seconds, or a text such as"),
    (16, "wg", "username", "is no option of this type of backend, only of http_proxy"),
    (17, "wg", "health", "is no option of a section backend, expected name, type,"),
    (20, "r", "ports", "got 'x', expected a whole number from 1 to 65535"),
    (21, "r", "domains", "is a list: write list domains '...'"),
    (24, "control", "listen", 'of a network: "@lan:7082"'),
    (25, "control", "token", "got ***, expected 8 to 256 visible ASCII characters"),
    (27, "mesh", "state", "is not UTF-8"),
    (30, "access", "allow", "got 'caf\\xe9', expected a network"),
]


def test_every_fault_is_told_with_its_place() -> None:
    found = faults(BAD)
    assert [(fault.line, fault.section, fault.field) for fault in found] == [
        place[:3] for place in PLACES
    ]
    for fault, (*_, message) in zip(found, PLACES, strict=True):
        assert message in fault.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("config route r\n option priority 1\n",
         "line 1: r.backend: is missing: the backend that serves this route"),
        ("config backend\n option type interface\n",
         "line 1: @backend[0].device: is missing: the device to dial through"),
        ("config backend a\n option health_type http\n option health_target x\n",
         "line 3: a.health_target: got 'x', expected an http:// address"),
        ("config backend a\n option health_type http\n",
         "line 1: a.health_target: got '', expected an http:// address"),
        ("config listen a\n option port 1\nconfig listen b\n option port 1\n",
         "line 4: b.port: port 1 is taken there by a"),
        ("config listen\n option port 7082\n",
         "control.listen: port 7082 is taken there by @listen[0]"),
        ("config control control\n list listen 127.0.0.1:1\n list listen 127.0.0.1:1\n",
         "line 3: control.listen: port 1 is taken there by control.listen"),
        ("config route a\n option backend direct\nconfig route b\n option name a\n"
         " option backend direct\n", "line 4: b.name: the name 'a' is that of a"),
        ("config listen a\n option address 0.0.0.0\nconfig access access\n list allow '-'\n",
         "line 2: a.address: this would be an open proxy: name the networks"),
        ("config main main\n option graceful_period 2h\n",
         "line 2: main.graceful_period: got '2h', expected a time from 0s to 10m"),
        ("config control control\n list listen @lan:1\n",
         "line 2: control.listen: is not a loopback address, so it needs control.token"),
        ("config control control\n option ubus maybe\n",
         'line 2: control.ubus: got \'maybe\', expected "auto", "on" or "off"'),
        ("config backend a\n option type vpn\n", "line 2: a.type: got 'vpn', expected \"direct\","),
        ("config user u\n option name u\n", "line 1: u.password_hash: is missing"),
        ("config user\n option name listen\n", "line 1: @user[0].password_hash: is missing"),
        ("config backend _x\n option type block\n", "line 1: _x.name: got '_x', expected 1 to 64"),
        ("config backend a\n option type ''\n option type '\x01'\n",
         "line 3: a.type: got '\\x01', expected"),
    ],
)  # fmt: skip
def test_what_no_option_can_say_alone(text: str, message: str) -> None:
    (line,) = told(text)
    assert line.startswith(message)


def test_a_control_that_needs_a_token_is_one_fault_each() -> None:
    """Of one option that became two addresses."""
    assert len(faults("config control control\n list listen @lan:1\n")) == 1


@pytest.mark.parametrize("line", [" option x{} 1\n", "config route\n option priority x{}\n"])
def test_faults_are_bounded(line: str) -> None:
    """Those of UCI, and those of the schema."""
    text = "config main main\n" + "".join(map(line.format, range(150)))
    assert faults(text)[100:] == [Fault("", "", "and more faults")]


def test_faults_are_in_the_order_of_lines() -> None:
    found = faults("config listen\n" + "".join(f" option x{n} 1\n" for n in range(150)))
    assert [fault.line for fault in found[:100]] == list(range(2, 102))


def test_enabled_that_makes_no_sense_is_not_off() -> None:
    for text in (
        "option enabled ''\n option enabled nein",
        "list enabled 0",
        "option enabled '\xa0'",
    ):
        assert reading(f"config main main\n {text}").enabled is None
        assert [fault.field for fault in faults(f"config main main\n {text}")] == ["enabled"]


def test_faults_of_lists_find_their_option() -> None:
    found = reading("config route a\n option backend direct\nconfig route b\n option list x\n")
    (fault,) = found.told([Fault("routes[1]", "list", "there is no such file")])
    assert fault == Fault("b", "list", "there is no such file", 4)


@given(st.binary(max_size=80))
def test_any_value_is_a_setting_or_a_fault(value: bytes) -> None:
    quoted = value.replace(b"\0", b"").replace(b"'", b"").replace(b"\n", b"")
    lines = [b"config %b '%b'" % (kind.encode(), kind.encode()) if kind not in ucimap.LISTS
             else b"config %b" % kind.encode() for kind in ucimap.TYPES]  # fmt: skip
    for kind, head in zip(ucimap.TYPES, lines, strict=True):
        body = b"".join(b"\n\toption %b '%b'" % (name.encode(), quoted) for name in keys(kind))
        try:
            reading(head + body + b"\n").settings()
        except ConfigError as error:
            assert all(fault.line or "listen" in fault.field for fault in error.faults)
            assert all(fault.message.isprintable() for fault in error.faults)
