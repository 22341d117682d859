"""TOML text: the line of everything in it, its syntax faults, and settings written as it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from bifrost_lite.config import schema, unbuilt
from bifrost_lite.config.convert import convert
from bifrost_lite.config.faults import Path
from bifrost_lite.config.schema import (
    Access,
    Control,
    Direct,
    Http,
    Limits,
    Listen,
    Log,
    Pac,
    Resolver,
    Route,
    Settings,
)
from bifrost_lite.config.toml import dump, index_lines, parse
from bifrost_lite.errors import ConfigError

# Every scalar is the number of its line; the scanner must find that out by itself.
LINES = '''\
top = 1
dotted.key.deep = 2
"quoted key" . 'literal.key' = 3
"esc\\u0061ped\\"" = 4
3.14 = 5

[table]  # a comment with [brackets] = "and quotes
  indented = 8
text = """
[not.a.table]
key = 0
\\""" ""\\
"""
after = 14
literal = \'\'\'
[[nor.this]]
\'\'\'
after2 = 18
ends_in_quotes = """"quoted"""""
after3 = 20
ends_in_apostrophes = \'\'\'\'x\'\'\'\'\'
after4 = 22
array = [ # 0
  24, 24,
  [25, [
  26]],  # , 0

  { a = 28, b.c = 28, d = [28] },
  "x # ]", '"', 1979-05-27T07:32:00Z, 1979-05-27 07:32:00, -inf, 0xff, 1e5,
]
after5 = 31
inline = { x = 32, "y z" = { z = 32 }, s = "}", e = {} }

[[list]]
n = 35
[list.sub]
n = 37
[[list.many]]
n = 39
[[list.many]]
n = 41
[list.many.below]
n = 43
[[ list ]]
n = 45
[ list . sub ]
n = 47
[ "list" . 'many' ]
n = 49

[a.b.c]
n = 52
[a]
n = 54
[a.b]
n = 56
'''


def leaves(data: object, path: Path = ()) -> list[tuple[Path, int]]:
    """All whole numbers in data, by path."""
    if isinstance(data, dict):
        return [leaf for key, value in data.items() for leaf in leaves(value, (*path, key))]
    if isinstance(data, list):
        return [leaf for at, value in enumerate(data) for leaf in leaves(value, (*path, at))]
    return [(path, data)] if type(data) is int and data != 255 else []


def exists(data: object, path: Path) -> bool:
    try:
        for key in path:
            data = data[key]  # type: ignore[index]
    except (KeyError, IndexError, TypeError):
        return False
    return True


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_lines(newline: str) -> None:
    text = LINES.replace("\n", newline)
    data = parse(text)
    lines = index_lines(text)
    found = leaves(data)
    assert len(found) > 30
    assert {path: lines.get(path) for path, _ in found} == dict(found)
    assert [path for path in lines if not exists(data, path)] == []


def test_lines_of_tables() -> None:
    lines = index_lines(LINES)
    assert lines["table",] == 7
    assert lines["list",] == lines["list", 0] == 34
    assert lines["list", 0, "sub"] == 36
    assert lines["list", 0, "many"] == lines["list", 0, "many", 0] == 38
    assert lines["list", 0, "many", 1] == 40
    assert lines["list", 0, "many", 1, "below"] == 42
    assert lines["list", 1] == 44
    assert lines["list", 1, "many"] == 48
    assert lines["a",] == 53  # its own header, though [a.b.c] implied it before
    assert lines["a", "b"] == 55
    assert lines["table", "array", 3, "b"] == 28


@pytest.mark.parametrize("text", ["", "\n", "# only\n# comments", "\r\n  \t\n"])
def test_nothing_has_no_lines(text: str) -> None:
    assert index_lines(text) == {}


@pytest.mark.parametrize(
    "text", ["a", "a =", "[a", "[[a]", "a = [1", "a = {b", '"a', "= 1", "\0", '"\\1"']
)
def test_text_that_is_no_toml_has_no_lines(text: str) -> None:
    assert index_lines(text) == {}


bare = st.text("abcXYZ019_-", min_size=1, max_size=4)
quoted = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
decoys = st.sampled_from(["[x]", "[[x]]", "x = 1", '"', "'", "#", "\\", "{", "}", ",", "\n", " "])
strings = st.lists(decoys, max_size=6).map("".join)


class Writer:
    """Writes a random document in which every whole number is its own line."""

    def __init__(self, data: st.DataObject) -> None:
        self.draw = data.draw
        self.text = ""

    def pick(self, *choices: str) -> str:
        return self.draw(st.sampled_from(choices))

    def blank(self, newlines: bool) -> str:
        return self.pick("", "", " ", "\t", *(("\n", "\r\n", " # x = [1]\n\n") if newlines else ()))

    def key(self, key: str) -> None:
        plain = key.isascii() and key.replace("-", "_").replace("_", "a").isalnum()
        if plain and self.draw(st.booleans()):
            self.text += key
        elif key.isprintable() and "'" not in key and self.draw(st.booleans()):
            self.text += f"'{key}'"
        else:
            escaped = "".join(f"\\U{ord(sign):08x}" for sign in key)
            self.text += f'"{escaped}"'

    def value(self, depth: int) -> None:
        kind = self.draw(st.integers(0, 5 if depth else 3))
        if kind <= 1:
            self.text += str(self.text.count("\n") + 1)
        elif kind == 2:
            text = self.draw(strings).replace("\\", "\\\\")
            quotes = text.replace('"', self.pick('\\"', '""\\"'))
            self.text += f'"""{quotes}{self.pick("", chr(34), chr(34) * 2)}"""'
        elif kind == 3:
            text = self.draw(strings).replace("'", "")
            self.text += f"'''{text}{self.pick('', chr(39), chr(39) * 2)}'''"
        elif kind == 4:
            self.text += "["
            for _ in range(self.draw(st.integers(0, 3))):
                self.text += self.blank(True)
                self.value(depth - 1)
                self.text += self.blank(True) + ","
            self.text += self.blank(True) + "]"
        else:
            self.text += "{"
            for number, key in enumerate(self.keys()):
                self.text += "," if number else ""
                self.pair(key, depth - 1)
            self.text += "}"

    def keys(self) -> list[str]:
        return self.draw(st.lists(bare | quoted, max_size=3, unique=True))

    def pair(self, key: str, depth: int) -> None:
        self.text += self.blank(False)
        self.key(key)
        if self.draw(st.booleans()):
            self.text += self.blank(False) + "." + self.blank(False)
            self.key(self.draw(bare))
        self.text += self.blank(False) + "=" + self.blank(False)
        self.value(depth)
        self.text += self.blank(False)

    def document(self) -> str:
        for key in self.keys():
            self.pair(f"k{key}", 2)
            self.text += "\n"
        for table in self.draw(st.lists(bare | quoted, max_size=3, unique=True)):
            for _ in range(self.draw(st.integers(0, 2))):
                self.header(table, "[[", "]]")
            self.header(f"t{table}", "[", "]")
        return self.text

    def header(self, table: str, opening: str, closing: str) -> None:
        # Tables, arrays of tables and plain keys begin differently, so as not to collide.
        self.text += self.blank(True).rstrip(" \t") if self.text.endswith("\n") else ""
        if not self.text.endswith("\n"):
            self.text += "\n"
        self.text += opening
        self.key(f"a{table}" if opening == "[[" else table)
        self.text += closing + self.pick("\n", "  # [x]\n", "\r\n")
        for key in self.keys():
            self.pair(key, 2)
            self.text += self.pick("\n", "# y\n", "\r\n")


@given(st.data())
def test_lines_of_any_document(data: st.DataObject) -> None:
    text = Writer(data).document()
    parsed = parse(text)
    lines = index_lines(text)
    found = leaves(parsed)
    assert {path: lines.get(path) for path, _ in found} == dict(found)
    assert all(exists(parsed, path) for path in lines)


@given(st.text(st.sampled_from("ab.=\"'[]{},#\\\n 1")))
def test_any_text_has_lines_or_faults(text: str) -> None:
    lines = index_lines(text)
    try:
        parsed = parse(text)
    except ConfigError as error:
        (fault,) = error.faults
        assert str(fault).isprintable()
        assert fault.line <= text.count("\n") + 1
    else:
        assert all(exists(parsed, path) for path in lines)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a = 1\nb = \n", 2, "column 5"),
        ("a = 1\n\n[a]\n", 3, "line 3"),
        ('a = """\n\n\n', 1, "end of document"),
        ("a = 1" + "1" * 5000, 0, "digits"),
        ("a = '\x00'", 1, "line 1"),
        ("a = [" * 3, 1, ""),
        ("k = " + "[" * 100_000, 0, "nested"),
        ("\u202e = 1", 1, ""),
        ("b = 1\n" + "a." * 100_000 + "a = 1", 2, "16 parts"),
        ("b = 1\n\t[[ " + "a . " * 100_000 + "a ]]", 2, "16 parts"),
        ('"a\\"b"."c".' * 50_000 + "a = 1", 1, "16 parts"),
        ("'a'." * 100_000 + "a = 1", 1, "16 parts"),
        ("b = { c = 1, " + "a." * 100_000 + "a = 1 }", 1, "16 parts"),
    ],
)
def test_syntax_faults(text: str, line: int, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    (fault,) = caught.value.faults
    assert fault.line == line
    assert words in fault.message
    assert fault.message.isascii()
    assert fault.message.isprintable()


def test_depth_beyond_the_scanner_has_no_lines() -> None:
    assert index_lines("k = " + "[" * 10_000 + "]" * 10_000) == {}


def test_what_lies_deeper_than_any_setting_costs_no_memory() -> None:
    lines = index_lines("k = " + "[" * 100 + "1," * 1000 + "]" * 100)
    assert max(map(len, lines)) == len(lines) == 16


def test_dots_in_a_text_make_no_parts() -> None:
    name = ".".join("1" * 34)
    assert parse(f"k = ['{name}', '{name}']\na = {{ b.c = '{name}' }}") == {
        "k": [name, name], "a": {"b": {"c": name}},
    }  # fmt: skip


def test_defaults_are_an_empty_document() -> None:
    assert dump(Settings()) == ""
    assert convert(parse(dump(Settings(), full=True))) == Settings()


def test_full_has_every_key_that_may_be_named() -> None:
    settings = Settings(routes=(Route(name="r", backend="direct"),))
    data = parse(dump(settings, full=True))
    for field in structs.fields(Settings):
        section = getattr(settings, field.name)
        if isinstance(section, tuple):
            section = section[0] if section else None
        if not isinstance(section, schema.Section):
            continue
        inner = data[field.name]
        inner = inner[0] if isinstance(inner, list) else inner
        assert isinstance(inner, dict)
        missing = set(section.__struct_fields__) - set(inner)
        assert all(unbuilt.refused((field.name, key), getattr(section, key)) for key in missing)


def test_short_is_what_a_person_would_write() -> None:
    settings = Settings(
        listen=(Listen(name="lan", address="192.168.1.1"),),
        routes=(Route(name="all", backend="direct", domains=("*",), ports=(80, 443)),),
        limits=Limits(idle_timeout=5400.0, handshake_timeout=0.25),
        users=(),
    )
    assert (
        dump(settings)
        == """\
[[listen]]
name = "lan"
address = "192.168.1.1"

[[routes]]
name = "all"
domains = ["*"]
ports = [80, 443]
backend = "direct"

[limits]
handshake_timeout = "250ms"
idle_timeout = "90m"
"""
    )


def test_no_listeners_are_written_as_such() -> None:
    settings = Settings(listen=(), control=Control(listen=()))
    assert dump(settings) == "listen = []\n\n[control]\nlisten = []\n"


@pytest.mark.parametrize("text", ["\x00\x1b\x7f", '"\\', "\b\t\n\f\r", "ü€😀", "'''", "\u2028"])
def test_every_text_is_escaped_right(text: str) -> None:
    written = dump(Settings(mesh=schema.Mesh(state=text)))
    assert parse(written) == {"mesh": {"state": text}}
    assert "\x1b" not in written


def test_every_type_of_backend_is_written() -> None:
    backends = (
        Direct(),
        schema.Interface(name="wg", device="wg0", resolver=("9.9.9.9",)),
        schema.HttpProxy(address="a.example:1", health=schema.Health(type="tcp", target="b:1")),
        schema.Socks5Proxy(address="a.example:1"),
        schema.Group(members=("wg", "direct"), weights=(1, 2)),
        schema.Block(),
    )
    data = parse(dump(Settings(backends=backends)))
    assert data["backends"] == [
        {"name": "direct", "type": "direct"},
        {"name": "wg", "type": "interface", "device": "wg0", "resolver": ["9.9.9.9"]},
        {
            "name": "http_proxy",
            "type": "http_proxy",
            "address": "a.example:1",
            "health": {"type": "tcp", "target": "b:1"},
        },
        {"name": "socks5_proxy", "type": "socks5_proxy", "address": "a.example:1"},
        {"name": "group", "type": "group", "members": ["wg", "direct"], "weights": [1, 2]},
        {"name": "block", "type": "block"},
    ]


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,9}", fullmatch=True)
tokens = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=8, max_size=20)
networks = st.ip_addresses().map(str)


def seconds(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high) | st.integers(int(low) + 1, int(high)).map(float)


@st.composite
def settings(draw: st.DrawFn) -> Settings:
    """Any settings that this version can run."""
    ports = iter(range(1000, 65536))
    listen_names = draw(st.lists(names, max_size=3, unique=True))
    wan_names = draw(st.lists(names.filter(lambda name: name != "direct"), max_size=2, unique=True))
    route_names = draw(st.lists(names, max_size=3, unique=True))
    token = draw(st.just("") | tokens)
    timeout = seconds(0.1, 300)
    return Settings(
        source=draw(st.sampled_from(["file", "uci"])),
        graceful_period=draw(seconds(0, 600)),
        log=Log(
            level=draw(st.sampled_from(["debug", "info", "warn", "error"])),
            ring=draw(st.integers(1, 10000)),
            access=draw(st.booleans()),
            requests=draw(st.integers(0, 10000)),
        ),
        listen=tuple(
            Listen(name=name, port=next(ports), auth=draw(st.booleans())) for name in listen_names
        ),
        backends=(
            Direct(connect_timeout=draw(timeout)),
            *(Direct(name=name, source=draw(networks)) for name in wan_names),
        ),
        routes=tuple(
            Route(
                name=name,
                domains=tuple(draw(st.lists(st.sampled_from(["*", ".a", "*.b", "c-*.d"])))),
                cidrs=tuple(draw(st.lists(networks, max_size=3))),
                ports=tuple(draw(st.lists(st.integers(1, 65535), max_size=3))),
                clients=tuple(draw(st.lists(networks, max_size=3))),
                backend=draw(st.sampled_from(["direct", *wan_names])),
                priority=draw(st.integers(-1000000, 1000000)),
                enabled=draw(st.booleans()),
            )
            for name in route_names
        ),
        access=Access(
            allow=tuple(draw(st.lists(networks, max_size=3))), allow_local=draw(st.booleans())
        ),
        limits=Limits(
            max_connections=draw(st.integers(1, 100000)),
            handshake_timeout=draw(timeout),
            idle_timeout=draw(seconds(0.1, 604800)),
        ),
        http=Http(via=draw(st.booleans())),
        resolver=Resolver(servers=tuple(draw(st.lists(networks, max_size=3)))),
        control=Control(
            listen=tuple(f"127.0.0.1:{number}" for number in range(draw(st.integers(0, 3)))),
            token=token,
            read_token=f"{token}2" if token else "",
            max_clients=draw(st.integers(1, 10)),
            ubus=draw(st.sampled_from(["auto", "off"])),
        ),
        pac=Pac(enabled=False) if draw(st.booleans()) else Pac(),
    )


@given(settings(), st.booleans())
def test_what_is_written_reads_back_equal(wanted: Settings, full: bool) -> None:
    assert convert(parse(dump(wanted, full=full))) == wanted
