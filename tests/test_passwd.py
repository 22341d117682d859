"""PBKDF2 against its published vectors and against OpenSSL; what a hash costs."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost_lite.config.schema import User
from bifrost_lite.passwd import (
    COSTLY,
    LEAST,
    MOST,
    SALT_SIZE,
    Derivation,
    Hash,
    calibrate,
    cost,
    make,
    parse,
    too_costly,
)
from tests.passwd_kit import SALT, Machine, hash_of


def derived(password: bytes, salt: bytes, iterations: int) -> bytes:
    derivation = Derivation(password, salt, iterations)
    assert derivation.step(iterations) == iterations
    return derivation.key


# RFC 7914 section 11 has 64 bytes of each; the first 32 of them are a block of its own.
@pytest.mark.parametrize(
    ("password", "salt", "iterations", "key"),
    [
        (b"passwd", b"salt", 1, "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc"),
        (b"Password", b"NaCl", 80000, "4ddcd8f60b98be21830cee5ef22701f9641a4418d04c0414aeff08876b34ab56"),
    ],
)
def test_published_vectors(password: bytes, salt: bytes, iterations: int, key: str) -> None:
    assert derived(password, salt, iterations).hex() == key


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 255, 1000])
def test_passwords_of_every_size(size: int) -> None:
    password = bytes(range(256)).ljust(size, b"x")[:size]
    assert derived(password, SALT, 3) == hashlib.pbkdf2_hmac("sha256", password, SALT, 3)


@given(st.binary(max_size=200), st.binary(max_size=100), st.integers(1, 50), st.data())
def test_against_openssl(password: bytes, salt: bytes, iterations: int, data: st.DataObject) -> None:
    """However it is cut into steps."""
    derivation = Derivation(password, salt, iterations)
    done = 0
    while derivation.left:
        assert derivation.left == iterations - done
        count = data.draw(st.integers(1, 20))
        step = derivation.step(count)
        assert step == min(count, iterations - done)
        done += step
    assert derivation.step(5) == 0
    assert derivation.key == hashlib.pbkdf2_hmac("sha256", password, salt, iterations)


WITHOUT_OPENSSL = f"""
import sys
sys.modules["_hashlib"] = sys.modules["_ssl"] = None
from bifrost_lite.passwd import parse
hash = parse({str(hash_of("pässword".encode()))!r})
for password in (b"password", "pässword".encode()):
    derivation = hash.derive(password)
    derivation.step(derivation.left)
    print(hash.matches(derivation))
print(sorted({{"hashlib", "hmac", "ssl"}} & set(sys.modules)))
"""


def test_without_openssl() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_OPENSSL], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("False\nTrue\n[]\n", "")


# The text.

TEXT = f"pbkdf2-sha256$1000${'0a' * 16}${'1b' * 32}"


def test_parse() -> None:
    assert parse(TEXT) == Hash(1000, b"\x0a" * 16, b"\x1b" * 32)
    assert str(parse(TEXT)) == TEXT
    assert len(str(Hash(MOST, bytes(16), bytes(32)))) <= 128
    assert parse(str(Hash(LEAST, bytes(16), bytes(32)))).iterations == LEAST
    assert parse(str(Hash(MOST, bytes(16), bytes(32)))).iterations == MOST


@pytest.mark.parametrize(
    "text",
    [
        "",
        "geheim",
        "pbkdf2-sha256$...",
        TEXT + "\n",
        " " + TEXT,
        TEXT.upper(),
        TEXT.replace("sha256", "sha512"),
        TEXT.replace("$1000$", "$999$"),  # below LEAST
        TEXT.replace("$1000$", "$01000$"),
        TEXT.replace("$1000$", "$+1000$"),
        TEXT.replace("$1000$", "$１０００$"),
        TEXT.replace("$1000$", "$100000000$"),  # above MOST
        TEXT.replace("0a" * 16, "0a" * 15),
        TEXT.replace("0a" * 16, "0a" * 17),
        TEXT.replace("0a" * 16, "0A" * 16),
        TEXT[:-2],
        TEXT + "1b",
        TEXT[:-1] + "g",
        TEXT + "$",
    ],
)
def test_no_hash(text: str) -> None:
    with pytest.raises(ValueError, match="expected what `bifrost-lite passwd` prints"):
        parse(text)


@given(st.integers(LEAST, 5000), st.binary(min_size=SALT_SIZE, max_size=SALT_SIZE))
def test_made_hashes_are_taken(iterations: int, salt: bytes) -> None:
    hash = make(b"geheim", salt, iterations)
    assert parse(str(hash)) == hash
    right, wrong = hash.derive(b"geheim"), hash.derive(b"Geheim")
    right.step(iterations)
    wrong.step(iterations)
    assert hash.matches(right)
    assert not hash.matches(wrong)


def test_no_derivation_matches_before_its_end() -> None:
    hash = hash_of(b"geheim")
    derivation = hash.derive(b"geheim")
    derivation.step(999)
    assert not hash.matches(derivation)


# What it costs.


@pytest.mark.parametrize(
    ("pace", "count"),
    [
        (1e-6, 100_000),
        (1.85e-6, 54_000),
        (25e-6, 4_000),
        (60e-6, 1_600),
        (200e-6, LEAST),  # however slow
        (1e-12, MOST),
    ],
)
def test_calibrate(monkeypatch: pytest.MonkeyPatch, pace: float, count: int) -> None:
    machine = Machine(monkeypatch, pace)
    found = calibrate(machine.clock)
    assert found == pytest.approx(count, rel=0.03)
    assert found in (LEAST, MOST) or set(str(found)[2:]) == {"0"}
    if 1e-6 <= pace <= 25e-6:
        assert machine.clock() - 1000 < 0.02, "measuring took long"


def test_calibrate_to_another_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert calibrate(Machine(monkeypatch, 10e-6).clock, 0.5) == pytest.approx(50_000, rel=0.03)


def test_the_best_of_several_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may take the processor away at any time."""
    machine = Machine(monkeypatch, 10e-6)
    late = [0.0]

    def disturbed() -> float:
        late[0] += 0.05 if len(machine.steps) % 3 == 0 else 0.0
        return machine.clock() + late[0]

    assert cost(10_000, disturbed) == pytest.approx(0.1)


def test_a_clock_that_stands_still() -> None:
    assert calibrate(lambda: 5.0) == MOST
    assert cost(1000, lambda: 5.0) == pytest.approx(1e-6)


def test_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cost(50_000, Machine(monkeypatch, 20e-6).clock) == pytest.approx(1.0)


def users(*counts: int) -> list[User]:
    return [
        User(name=f"u{count}", password_hash=str(Hash(count, bytes(16), bytes(32))))
        for count in counts
    ]


def test_too_costly(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 20e-6)
    found = too_costly(users(1000, 200_000, 99_000, 99_999_999), machine.clock)
    assert [index for index, _ in found] == [1, 3]
    assert [seconds for _, seconds in found] == pytest.approx([4.0, 2000.0], rel=0.01)
    assert all(seconds > COSTLY for _, seconds in found)
    assert machine.done < 1000, "measured once, and shortly"


def test_without_users_nothing_is_measured() -> None:
    def never() -> float:
        raise AssertionError

    assert too_costly((), never) == []
    assert too_costly([User(name="a")], never) == []
