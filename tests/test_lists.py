"""Lists of names and networks: what is an entry, what it matches, and what it costs."""

from __future__ import annotations

import ipaddress
import subprocess
import sys
import tracemalloc
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost_lite import lists
from bifrost_lite.acl import pack
from bifrost_lite.lists import MAX_FAULTS, MAX_LINE, Index, RouteList, parse

HERE = Path(__file__).parents[1]


def read(text: str | bytes) -> tuple[RouteList, list[tuple[int, str]]]:
    """A file with that content, as it is read."""
    file = BytesIO(text.encode() if isinstance(text, str) else text)
    return parse(iter(lambda: file.readline(MAX_LINE), b""))


def good(text: str | bytes) -> RouteList:
    found, faults = read(text)
    assert faults == []
    return found


def hits(found: RouteList, host: str) -> bool:
    """Whether the list has a target, by both ways to ask; of patterns neither knows."""
    buckets: list[tuple[int, ...]] = []
    Index([(found, (7,))]).find(host, pack(host), buckets)
    assert set(buckets) <= {(7,)}
    assert bool(buckets) == bool(found.entry(host, pack(host)))
    return bool(buckets)


@pytest.mark.parametrize(
    ("entry", "matches", "others"),
    [
        ("a.example", ["a.example"], ["b.a.example", "example", "xa.example", "a.example.org"]),
        ("A.Example.", ["a.example"], ["b.a.example"]),
        ("nas", ["nas"], ["nas.lan", "na"]),
        ("*.a.example", ["x.a.example", "y.x.a.example"], ["a.example", "xa.example"]),
        (".a.example", ["a.example", "x.a.example", "y.x.a.example"], ["xa.example", "example"]),
        (".lan", ["lan", "nas.lan"], ["wlan"]),
        ("xn--bcher-kva.example", ["xn--bcher-kva.example"], ["bcher.example"]),
        ("a.1x", ["a.1x"], ["1x"]),
        ("_dmarc.a-b.example", ["_dmarc.a-b.example"], []),
        ("10.0.0.0/8", ["10.0.0.0", "10.255.1.2"], ["11.0.0.0", "a.example", "2001:db8::1"]),
        ("192.0.2.7", ["192.0.2.7"], ["192.0.2.6"]),
        ("0.0.0.0/0", ["192.0.2.7"], ["::2", "a"]),
        ("2001:DB8::/32", ["2001:db8::1", "2001:db8:ffff::"], ["2001:db9::1", "32.1.13.184"]),
        ("::/0", ["2001:db8::1"], ["192.0.2.7", "a"]),
        ("::ffff:10.0.0.0/104", ["10.1.2.3"], ["11.1.2.3"]),
        ("fd00::5", ["fd00::5"], ["fd00::6"]),
    ],
)
def test_entries(entry: str, matches: list[str], others: list[str]) -> None:
    found = good(entry)
    assert len(found) == 1
    assert [hits(found, host) for host in matches] == [True] * len(matches)
    assert [hits(found, host) for host in others] == [False] * len(others)


def test_a_mapped_address_is_the_one_inside() -> None:
    packed = ipaddress.ip_address("::ffff:10.1.2.3").packed
    assert good("10.0.0.0/8").entry("10.1.2.3", packed) == "10.0.0.0/8"


@pytest.mark.parametrize(
    ("text", "host", "entry"),
    [
        ("a.example", "a.example", "a.example"),
        (".a.example", "a.example", "a.example"),
        (".a.example", "x.a.example", ".a.example"),
        ("*.a.example", "y.x.a.example", "*.a.example"),
        ("10.0.0.0/8\n10.1.0.0/16", "10.1.2.3", "10.1.0.0/16"),
        ("10.0.0.0/8\n10.1.0.0/16", "10.2.2.3", "10.0.0.0/8"),
        ("2001:db8::/32", "2001:db8::1", "2001:db8::/32"),
        ("a-*.example", "a-1.example", ""),
    ],
)
def test_it_tells_which_entry(text: str, host: str, entry: str) -> None:
    assert good(text).entry(host, pack(host)) == entry


def test_comments_spaces_and_line_ends() -> None:
    found = good(
        b"\n# all ads \xfc\r\n\r\n  a.example  # the first\r\n\tb.example\t\n#c.example\nd.example"
    )
    assert len(found) == 3
    assert [hits(found, f"{name}.example") for name in "abcd"] == [True, True, False, True]


def test_nothing_is_a_list_too() -> None:
    for text in ("", "\n", "# nothing yet"):
        assert len(good(text)) == 0
        assert not hits(good(text), "a.example")


def test_patterns_are_kept_as_they_are() -> None:
    found = good("*-ads.example\nads?*.example\n".replace("?", "") + "*\n*.x*.example.\n*-ADS.example")
    assert found.patterns == ("*", "*-ads.example", "*.x*.example", "ads*.example")
    assert len(found) == 5
    assert not found.keys


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("bücher.example", "in its xn-- form"),
        (b"b\xfccher.example", "in its xn-- form"),
        (b"\xef\xbb\xbfa.example", "expected ASCII"),
        ("0.0.0.0 ads.example", "expected one name or network a line"),
        ("a.example\x0bb.example", "expected one name or network a line"),
        ("http://a.example/", "without scheme, port or path"),
        ("||a.example^", "expected letters"),
        ("a.example:443", "without scheme, port or path"),
        ("a..example", "no empty label"),
        ("a.example..", "no dot at the end"),
        (".", "no dot at the end"),
        ("..", "no dot at the end"),
        ("*.", "no dot at the end"),
        ("a.*.", "no dot at the end"),
        ("-a.example", "begins or ends with '-'"),
        ("a\0b.example", "expected letters"),
        ("a**.example", "one '*' at a time"),
        ("x" * 64 + ".example", "at most 63 characters"),
        (".".join(["x" * 50] * 6), "at most 253 characters"),
        ("10.0.0.1/8", "bits set after its prefix"),
        ("10.0.0.0/33", "prefix length of 0 to 32"),
        ("192.168.1", "looks like an IP address but is none"),
        ("192.168.1/24", "not an IP address or network"),
        ("127.1", "looks like an IP address but is none"),
        ("*.0x7f", "looks like an IP address but is none"),
        ("fe80::1%eth0", "without scheme, port or path"),
        ("[2001:db8::1]", "without brackets"),
        ("/", "without scheme, port or path"),
        ("x" * 5000, "at most 253 characters"),
        (" " * MAX_LINE + "x", f"at most {MAX_LINE} bytes"),
        ("x" + " " * MAX_LINE + "y", f"at most {MAX_LINE} bytes"),
    ],
)
def test_what_is_no_entry(entry: str | bytes, told: str) -> None:
    text = entry.encode() if isinstance(entry, str) else entry
    found, ((line, message),) = read(b"# one\n\nok.example\n" + text + b"\nb.example\n")
    assert line == 4
    assert told in message
    assert text.decode("utf-8", "replace") not in message
    assert hits(found, "ok.example")
    assert hits(found, "b.example")


def test_faults_are_told_by_line_and_counted() -> None:
    _, faults = read("a b\n" * (MAX_FAULTS + 7))
    assert [line for line, _ in faults] == [*range(1, MAX_FAULTS + 1), 0]
    assert faults[-1] == (0, "and 7 more faults")


def test_a_fault_is_a_sentence_without_the_text() -> None:
    _, faults = read("10.0.0.1/8\n")
    assert faults == [(1, "has bits set after its prefix; the network is 10.0.0.0/8")]


@pytest.mark.parametrize("size", [MAX_LINE - 1, MAX_LINE, MAX_LINE + 1, 3 * MAX_LINE])
def test_long_lines(size: int) -> None:
    """What is read in parts counts as one line, and only its beginning counts."""
    comment = b"#" + b"x" * (size - 2) + b"\n"
    found, faults = read(comment + b"a.example\n" + b"y" * (size - 1) + b"\nb c\n")
    assert hits(found, "a.example")
    assert [line for line, _ in faults] == [3, 4]
    assert not hits(found, "x" * 9)


def test_entries_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "MAX_ENTRIES", 5)
    good("".join(f"h{i}.example\n" for i in range(5)))
    _, faults = read("\n".join(f"h{i}.example" for i in range(1000)))
    assert faults == [(6, "expected at most 5 entries")]


def test_patterns_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "MAX_PATTERNS", 5)
    good("".join(f"h{i}*.example\n" for i in range(5)))
    _, faults = read("\n".join(f"h{i}*.example" for i in range(1000)))
    assert faults == [(6, "expected at most 5 entries with a '*' inside")]


def test_equality_is_about_what_matches() -> None:
    one = good("a.example\n*.b.example\n10.0.0.0/8\nx*.example")
    assert one == good("x*.example\n10.0.0.0/8 # net\n\nA.example.\n*.b.example\na.example")
    assert one == one  # noqa: PLR0124
    for text in (
        "a.example\n*.b.example\n10.0.0.0/8",
        "a.example\n.b.example\n10.0.0.0/8\nx*.example",
        "a.example\n*.b.example\n10.0.0.0/9\nx*.example",
    ):
        assert one != good(text)
    assert one != "a.example"


@given(st.binary(max_size=300))
def test_any_bytes_are_read(raw: bytes) -> None:
    found, faults = read(raw)
    assert len(found) + len(faults) <= 2 * (raw.count(b"\n") + 1)
    assert all(message.isprintable() for _, message in faults)


label = st.sampled_from(["a", "b", "ab", "x-1"])
names = st.lists(label, min_size=1, max_size=4).map(".".join)
entries = st.one_of(
    st.builds(lambda head, name: head + name, st.sampled_from(["", "*.", "."]), names),
    st.sampled_from(["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "fd00::/8", "fd00::/16", "::/0"]),
)
targets = st.one_of(names, st.sampled_from(["10.1.2.3", "10.9.9.9", "11.0.0.1", "fd00::9", "::2"]))


def plainly(entry: str, host: str) -> bool:
    """Whether one entry matches, read another way."""
    packed = pack(host)
    if packed is not None:
        try:
            return ipaddress.ip_address(host) in ipaddress.ip_network(entry)
        except ValueError:
            return False
    below = entry.startswith(("*.", ".")) and host.endswith(entry.lstrip("*"))
    return below or (not entry.startswith("*") and host == entry.lstrip("."))


@given(st.lists(st.lists(entries, max_size=6), max_size=5), targets)
def test_agrees_with_a_plain_reading(texts: list[list[str]], host: str) -> None:
    """Whatever lists there are, the index finds exactly those that have the target."""
    found = [good("\n".join(text)) for text in texts]
    expected = [any(plainly(entry, host) for entry in text) for text in texts]
    assert [bool(one.entry(host, pack(host))) for one in found] == expected
    buckets: list[tuple[int, ...]] = []
    index = Index([(one, (number, number + 10)) for number, one in enumerate(found)])
    index.find(host, pack(host), buckets)
    assert all([*bucket] == sorted({*bucket}) for bucket in buckets)
    matching = [number for number, matches in enumerate(expected) if matches]
    assert {n for bucket in buckets for n in bucket} == {*matching, *(n + 10 for n in matching)}


def test_a_hundred_thousand_names_are_small() -> None:
    """8 bytes a name are kept, and twice that while they are read."""
    file = BytesIO(b"".join(b"host%d.ads%d.example\n" % (i, i % 97) for i in range(100_000)))
    good("warm.example\n10.0.0.0/8")
    tracemalloc.start()
    try:
        found, faults = parse(iter(lambda: file.readline(MAX_LINE), b""))
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(found), len(found.keys), faults) == (100_000, 100_000, [])
    assert kept < 1_000_000
    assert peak < 2_500_000
    assert found.size == 2_000_000
    assert hits(found, "host99999.ads89.example")
    assert not hits(found, "host99999.ads88.example")


def test_hashes_of_32_bits_make_keys_of_64() -> None:
    """As on most routers; tried by telling the module that this is one."""
    code = (
        "import sys; from types import SimpleNamespace as S;"
        "sys.hash_info = S(**{'width': 32, 'modulus': sys.hash_info.modulus});"
        "from bifrost_lite.lists import *;"
        "found, _ = parse(b'h%d.example\\n' % i for i in range(3000));"
        "index = Index([(found, (1,))]); got = [];"
        "[index.find(f'h{i}.example', None, got) for i in range(6000)];"
        "assert len(found.keys) == 3000 == len(got), len(got);"
        "assert len({key >> 32 for key in found.keys}) > 2990;"
        "assert len({key & 0xffffffff for key in found.keys}) > 2990"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30, cwd=HERE)
