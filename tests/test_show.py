"""Text for terminals: nothing gets out that a terminal would obey."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost_lite import show


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text 1.2.3", "plain text 1.2.3"),
        ("Büro", "Büro"),
        ("a\x1b[31mred", "a\\x1b[31mred"),
        ("a\r\nb\tc", "a\\r\\nb\\tc"),
        ("\x9b2J", "\\x9b2J"),
        ("moc.\u202eexample", "moc.\\u202eexample"),
        ("\u2066x\u2069\u200f", "\\u2066x\\u2069\\u200f"),
        ("\u2028", "\\u2028"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert show.printable(text) == shown


@given(st.text())
def test_what_is_printed_is_printable(text: str) -> None:
    assert show.printable(text).isprintable()
    assert show.printable(show.printable(text)) == show.printable(text)


@given(st.recursive(st.text() | st.integers(-(2**53), 2**53) | st.booleans() | st.none(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))  # fmt: skip
def test_json_text_is_the_same_value_on_one_printable_line(value: object) -> None:
    try:
        text = show.json_text(value)
    except UnicodeEncodeError:
        assert "\\ud" in json.dumps(value)  # lone surrogates cannot come from JSON in UTF-8
        return
    assert text.isprintable()
    assert json.loads(text) == value


def test_json_text_escapes_by_utf16_units() -> None:
    assert show.json_text({"a": "\u202e\U000e0041é"}) == '{"a":"\\u202e\\udb40\\udc41é"}'


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"),
        (1024**2 - 1, "1.0 MiB"), (1024**2, "1.0 MiB"), (209715200, "200.0 MiB"),
        (5 * 1024**3, "5.0 GiB"), (1024**4, "1.0 TiB"), (2**60, "1024.0 PiB"),
    ],
)  # fmt: skip
def test_size(count: int, text: str) -> None:
    assert show.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0 s"), (0.34, "0.3 s"), (9.94, "9.9 s"), (42.9, "42 s"), (60, "1 m 00 s"),
        (302, "5 m 02 s"), (11220, "3 h 07 m"), (86400, "1 d 00 h"), (176400, "2 d 01 h"),
    ],
)  # fmt: skip
def test_span(seconds: float, text: str) -> None:
    assert show.span(seconds) == text


def test_table_aligns_and_escapes() -> None:
    text = show.table(("ID", "HOST", "SENT"), [("7", "a\x1b", "1 B"), ("12", "b", "10 B")], {0, 2})
    assert text.splitlines() == ["ID  HOST   SENT", " 7  a\\x1b   1 B", "12  b      10 B"]
    assert show.table(("ID",), []) == "ID"


NAMES = ("ID", "HOST", "ROUTE", "SENT")
ROW = ("7", "a-host-of-thirty-characters.io", "a route of twenty-three", "100 B")


@pytest.mark.parametrize(
    ("width", "row"),
    [
        (0, " 7  a-host-of-thirty-characters.io  a route of twenty-three  100 B"),
        (66, " 7  a-host-of-thirty-characters.io  a route of twenty-three  100 B"),
        (65, " 7  a-host-of-thir..characters.io  a route of twenty-three  100 B"),
        (53, " 7  a-host-of..acters.io  a route of twenty-..  100 B"),
        (52, " 7  a-host-of-thirty-characters.io  100 B"),
        (31, " 7  a-host-of..acters.io  100 B"),
        (9, " 7  a-host-of..acters.io  100 B"),
    ],
)
def test_a_table_fits_its_terminal(width: int, row: str) -> None:
    head, shown = show.table(NAMES, [ROW], {0, 3}, [2], width).splitlines()
    assert shown == row
    assert head.split() == [*NAMES] if width > 52 or not width else ["ID", "HOST", "SENT"]


@given(st.lists(st.tuples(*[st.text(max_size=60)] * 4), max_size=5), st.integers(1, 300))
def test_nothing_is_cut_without_need(rows: list[tuple[str, ...]], width: int) -> None:
    whole = show.table(NAMES, rows, {0})
    fitted = show.table(NAMES, rows, {0}, [2, 1], width)
    assert fitted.count("\n") == len(rows)
    columns = zip(NAMES, *rows, strict=True)
    across = sum(max(len(show.printable(cell)) for cell in column) for column in columns) + 6
    assert (fitted == whole) == (across <= width)


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("accounts.example.evil.example", 20, "accounts...l.example"), ("short", 5, "short"),
        ("a sentence is cut at its end", 12, "a sentence.."), ("abc", 2, ".."), ("", 2, ""),
    ],
)  # fmt: skip
def test_cut(text: str, width: int, shown: str) -> None:
    assert show.cut(text, width) == shown


def test_listing() -> None:
    rows = [{"id": 7, "host": "a\x1b", "bytes_sent": 2048}, "no object", {"id": None}]
    columns = {"ID": "id", "HOST": "host", "SENT": "bytes_sent"}
    assert show.listing(rows, columns).splitlines() == [
        "ID  HOST      SENT", " 7  a\\x1b  2.0 KiB", " -  -            -",
    ]  # fmt: skip
    assert show.listing([{"id": "x"}], {"ID": "id"}) == "ID\nx"
    assert show.listing(None, columns) == "ID  HOST  SENT"
    assert show.listing(rows, columns, "HOST", 10).startswith("ID     SENT\n")


@pytest.mark.parametrize(
    ("data", "key", "text"),
    [
        (True, "", "yes"), (None, "", "-"), ("", "", "-"), (3, "", "3"), (2048, "bytes_sent",
        "2.0 KiB"), (90, "uptime", "1 m 30 s"), (["a", "b\x00"], "", "a, b\\x00"), ([], "", "-"),
        ({"a\n": 1, "b": "x"}, "", "a\\n=1 b=x"),
    ],
)  # fmt: skip
def test_value(data: object, key: str, text: str) -> None:
    assert show.value(data, key) == text


def test_pairs_flatten_objects_and_list_rows() -> None:
    text = show.pairs(
        {"status": "running", "clients": {"count": 1, "max": 10}, "listeners": [{"port": 1}] * 2}
    )
    assert [line.split() for line in text.splitlines()] == [
        ["status", "running"],
        ["clients", "1", "of", "10"],
        ["listeners", "port=1"],
        ["listeners", "port=1"],
    ]
    assert show.pairs({}) == ""


CONNECTION = {
    "protocol": "CONNECT", "host": "api.example.com:443", "backend": "direct",
    "client_ip": "192.168.1.100", "id": 7, "route": "default",
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "data", "told"),
    [
        (
            "connection.new",
            CONNECTION,
            "#7 CONNECT api.example.com:443 via direct for 192.168.1.100 (route default)",
        ),
        (
            "connection.close",
            CONNECTION
            | {"bytes_sent": 517, "bytes_received": 4300, "duration_ms": 1200, "reason": "closed"},
            "#7 CONNECT api.example.com:443 via direct for 192.168.1.100: "
            "closed after 1.2 s, sent 517 B, received 4.2 KiB",
        ),
        (
            "connection.failed",
            CONNECTION | {"reason": "dns_not_found"},
            "#7 CONNECT api.example.com:443 via direct for 192.168.1.100: dns_not_found",
        ),
        (
            "stats.update",
            {"active_connections": 2, "total_connections": 9, "bytes_sent": 1, "bytes_received": 0},
            "2 open of 9, sent 1 B, received 0 B",
        ),
        (
            "backend.health",
            {"name": "direct", "healthy": True, "state": "up", "reason": "not checked"},
            "direct is up: not checked",
        ),
        (
            "config.reload",
            {"changed_sections": ["routes", "log"], "requires_restart": True},
            "routes, log (needs a restart)",
        ),
        (
            "config.rejected",
            {"errors": [{"section": "listen[0]", "field": "port", "message": "is \x1b"}, {}]},
            r"listen[0].port: is \x1b; ",
        ),
        ("events.lost", {"lost": 12}, "events were lost: 12"),
        ("events.lost", {"lost": None}, "events were lost: nobody knows how many"),
        ("peer.joined", {"name": "a\u202eb"}, "name=a\\u202eb"),
        ("peer.left", {"name": 'a" virtual_ip=b\\'}, r'name="a\" virtual_ip=b\\"'),
        (
            "peer.updated",
            {"peer_id": "a", "endpoints": [{"address": "::1", "port": 5, "type": "lan"}]},
            "peer_id=a endpoints=[::1]:5 (lan)",
        ),
        ("peer.updated", {"metadata": {}, "endpoints": []}, "metadata=- endpoints=-"),
        ("odd", ["x"], "x"),
        ("connection.close", {}, "#- - - via - for -: - after -, sent -, received -"),
    ],
)
def test_event(kind: str, data: object, told: str) -> None:
    line = show.event({"type": kind, "timestamp": "2024-01-15T10:00:00Z", "data": data, "seq": 1})
    assert line == f"2024-01-15T10:00:00Z  {kind:<17}  {told}"


def test_entry() -> None:
    message: show.Object = {"timestamp": "T", "level": "info", "message": "GET \x1b"}
    assert show.entry(message) == "T  info   GET \\x1b"
    message["fields"] = {"host": "a:1", "error": "", "status_code": None, "bytes_sent": 5}
    assert show.entry(message) == "T  info   GET \\x1b  host=a:1 bytes_sent=5"
    message["message"] = "CONNECT a:1"
    message["fields"] = {"method": "CONNECT", "url": "a:1", "host": "a:1", "bytes_sent": 5}
    assert show.entry(message) == "T  info   CONNECT a:1  bytes_sent=5"
    message["message"] = "GET http://a/b"
    message["fields"] = {"method": "GET", "url": "a/b", "host": "a:80"}
    assert show.entry(message) == "T  info   GET http://a/b  host=a:80"
    message["fields"] = {"action": "direct", "backend": "direct", "url": "other"}
    assert show.entry(message) == "T  info   GET http://a/b  backend=direct url=other"
    assert show.entry({}) == "-  -      -"


def test_no_client_hides_a_field_by_naming_its_value() -> None:
    shown = {
        "backend": "direct", "client_ip": "192.168.1.9", "error": "target_refused",
        "route": "default", "protocol": "HTTP", "source": "plane",
    }  # fmt: skip
    url = "a/" + "/".join(shown.values())
    told = show.entry(
        {"message": f"GET http://{url}", "fields": {"method": "GET", "url": url} | shown}
    )
    assert told.endswith("  " + " ".join(f"{key}={text}" for key, text in shown.items()))
    for name in ("backend", "client_ip", "error"):  # nor by asking for nothing else
        fields: show.Object = {"method": "GET", "url": "x", "host": "x", name: "x"}
        assert show.entry({"message": "GET x", "fields": fields}).endswith(f"  {name}=x")


OFFICE = {"name": "office", "type": "socks5_proxy", "state": "up", "reason": "not checked"}
GROUP = {"name": "best", "type": "group", "state": "suspect", "reason": "b carries it\x1b"}
CANDIDATE = {"route": "work", "backend": "best", "pattern": "*.x", "why": "It takes the request."}


def test_a_route() -> None:
    answer = {
        "host": "2001:db8::1", "port": 443, "client_ip": "192.0.2.1", "allowed": True,
        "route": "work", "backend": OFFICE, "carriers": [OFFICE], "candidates": [CANDIDATE, 7],
    }  # fmt: skip
    assert show.route(answer).splitlines() == [
        "[2001:db8::1]:443 for 192.0.2.1 takes the route work.",
        "Backend: office (socks5_proxy) is up: not checked",
        "",
        "ROUTE  BACKEND  MATCHES  WHY",
        "work   best     *.x      It takes the request.",
    ]


def test_a_route_to_a_group_that_is_refused() -> None:
    answer = {
        "host": "a\x1b", "port": 1, "client_ip": "::1", "allowed": False, "message": "No.",
        "backend": GROUP, "carriers": [OFFICE, GROUP, "x"], "candidates": [],
    }  # fmt: skip
    assert show.route(answer).splitlines() == [
        r"a\x1b:1 for ::1 is refused: No.",
        r"Backend: best (group) is suspect: b carries it\x1b",
        "  1. office (socks5_proxy) is up: not checked",
        r"  2. best (group) is suspect: b carries it\x1b",
        "",
        "ROUTE  BACKEND  MATCHES  WHY",
    ]


@pytest.mark.parametrize("answer", [{}, {"candidates": 7, "backend": {}, "carriers": None}])
def test_a_strange_route(answer: show.Object) -> None:
    assert "is refused" in show.route(answer)


@pytest.mark.parametrize(
    ("answer", "lines"),
    [
        ({"changed_sections": [], "kept": 0, "closed": 0, "moved": 0, "denied": 0},
         ["Nothing changed.", "Connections: 0 go on, 0 were closed."]),
        ({"changed_sections": ["routes", "a\x1b"], "requires_restart": True, "kept": 5,
          "closed": 2, "moved": 1, "denied": 2},
         [r"Changed: routes, a\x1b.", "Some of it takes effect with a restart of the daemon only.",
          "Connections: 5 go on, 2 were closed.",
          "1 of them would take another backend if they began now."]),
        ({"changed_sections": ["access"], "kept": 5, "closed": 0, "moved": 0, "denied": 2},
         ["Changed: access.", "Connections: 5 go on, 0 were closed.",
          "2 of them the new rules would refuse; --enforce closes those."]),
        ({}, ["Nothing changed.", "Connections: - go on, - were closed."]),
    ],
)  # fmt: skip
def test_a_reload(answer: show.Object, lines: list[str]) -> None:
    assert show.change(answer).splitlines() == lines


TRIAL: show.Object = {
    "ok": True, "backend": "best", "carrier": "wg", "target": "a.example:443", "latency_ms": 12.5,
    "reason": "", "message": "The connection stood.",
}  # fmt: skip


@pytest.mark.parametrize(
    ("differs", "told"),
    [
        ({}, "best reaches a.example:443 over wg in 12.5 ms. The connection stood."),
        ({"carrier": "best"}, "best reaches a.example:443 in 12.5 ms. The connection stood."),
        ({"ok": False, "reason": "dns_failed", "message": "No.\x1b"},
         r"best does not reach a.example:443 over wg: dns_failed after 12.5 ms. No.\x1b"),
    ],
)  # fmt: skip
def test_a_trial(differs: show.Object, told: str) -> None:
    assert show.trial(TRIAL | differs) == told


def test_endpoints() -> None:
    data = [
        {"address": "192.0.2.1", "port": 51820, "type": "lan"}, 7,
        {"address": "2001:db8::1", "port": 1, "type": "\x1b"}, {},
    ]  # fmt: skip
    assert show.endpoints(data) == [
        "192.0.2.1:51820 (lan)", "[2001:db8::1]:1 (\x1b)", "None:None (None)",
    ]  # fmt: skip
    assert show.endpoints([]) == show.endpoints(None) == []


def test_status() -> None:
    text = show.status(
        {
            "status": "running", "backends": 3,
            "listeners": [
                {"name": "lan", "address": "::1", "port": 7080, "open": True},
                {"name": "b\x1b", "address": "192.0.2.1", "port": 1, "open": False},
            ],
            "config_errors": [{"section": "log", "field": "level", "message": "is \x1b"}],
            "stats": {"bytes_sent": 5, "backends": {"total": 3, "healthy": 2}, "time": "T"},
        }
    )  # fmt: skip
    assert text.splitlines() == [
        "status            running",
        "backends          2 of 3 are healthy",
        r"listeners         lan [::1]:7080, b\x1b 192.0.2.1:1 (closed)",
        r"config_errors     log.level: is \x1b",
        "stats.bytes_sent  5 B",
    ]


@pytest.mark.parametrize("answer", [{}, {"listeners": 7, "stats": None}, {"stats": {"backends": 1}}])
def test_a_strange_status(answer: show.Object) -> None:
    assert "listeners" in show.status(answer)


def test_milliseconds() -> None:
    assert show.value(999, "duration_ms") == "999 ms"
    assert show.value(61000, "duration_ms") == "1 m 01 s"
    assert show.value(12.5, "latency_ms") == "12.5 ms"
    assert show.value(3.0, "latency_ms") == "3 ms"
