"""The commands of ``uci batch``: the tool's output, its errors, and the file after ``commit``."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost_lite.config.uci.batch import Session

DATA = Path(__file__).parents[1] / "data"
# The project's vectors, each with its own file before and after.
OPS = DATA / "uci_ops"
# Further corners of what the tool does to one file: what it printed, and the file after all.
BATCH = DATA / "uci_batch"
BEFORE = (BATCH / "t.conf").read_bytes()


class User:
    """Someone who runs the tool again and again."""

    def __init__(self, data: bytes) -> None:
        self.session = Session("t", data)

    def run(self, commands: bytes) -> tuple[str, str]:
        """What one run prints to stdout and stderr."""
        self.session.out.clear()
        self.session.err.clear()
        self.session.batch(commands)
        return self.session.out.decode(), self.session.err.decode()


def case_names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.batch"))


def test_the_cases_are_there() -> None:
    assert len(case_names(OPS)) == 22
    assert len(case_names(BATCH)) > 20


@pytest.mark.parametrize("case", case_names(OPS))
def test_vectors(case: str) -> None:
    texts = {path.suffix[1:]: path.read_bytes() for path in OPS.glob(f"{case}.*")}
    user = User(texts["conf"])
    out, err = user.run(texts["batch"])
    changes = user.run(b"changes t\n")
    committed = user.run(b"commit t\n")
    assert texts["status"].decode() == (
        f"batch rc=0\nbatch stdout={out.rstrip()}\nbatch stderr={err.rstrip()}\n"
        f"commit rc=0\ncommit stderr={committed[1].rstrip()}\n"
    )
    assert changes == (texts["changes"].decode(), "")
    assert user.session.data == texts["after"]
    assert user.run(b"show t\n") == (texts["show"].decode(), "")


@pytest.mark.parametrize("case", case_names(BATCH))
def test_as_the_tool(case: str) -> None:
    session = Session("t", BEFORE)
    session.batch((BATCH / f"{case}.batch").read_bytes())
    assert bytes(session.out).decode() == (BATCH / f"{case}.out").read_text()
    assert bytes(session.err).decode() == (BATCH / f"{case}.err").read_text()
    assert session.data == (BATCH / f"{case}.after").read_bytes()


def test_a_file_that_is_none() -> None:
    user = User(b"config a\nbogus\n")
    error = "uci: Parse error (invalid command) at line 2, byte 0\n"
    for command in (b"show t", b"add t rule", b"set t.a.b=c", b"commit", b"changes"):
        assert user.run(command) == ("", error)
    assert user.session.data == b"config a\nbogus\n"


def test_names_that_are_no_file_of_a_directory() -> None:
    """The tool opens a path for the first, and lists no file of such a name for the second."""
    assert User(b"").run(b"add /etc/passwd x\n") == ("", "uci: Entry not found\n")
    session = Session("a b", b"config a\n")
    session.batch(b"show\nshow 'a b'\n")
    assert (session.out, session.err) == (b"", b"uci: Parse error (unknown) at line 2, byte 0\n")


def test_endless_errors_say_no_more() -> None:
    out, err = User(b"").run(b"get x.y\n" * 2000)
    assert out == ""
    assert err.count("Entry not found") == 2000
    assert max(map(len, err.split("uci"))) < 200


@pytest.mark.parametrize("digits", [11, 50, 5000])
def test_numbers_beyond_all_use(digits: int) -> None:
    many = b"9" * digits
    user = User(BEFORE)
    assert user.run(b"get t.@rule[" + many + b"]\n")[1] == "uci: Entry not found\n"
    assert user.run(b"get t.@rule[-" + many + b"]\n")[1].startswith("uci: Entry not found\n")
    assert user.run(b"get t.@rule[-" + b"0" * digits + b"1].n\n")[0] == "2\n"
    assert user.run(b"delete t.main.l=" + many + b"\nreorder t.main=" + many + b"\n") == ("", "")
    assert user.run(b"show")[0].endswith("t.main.l='x' 'y'\n")


WORDS = [
    "set", "get", "add", "add_list", "del_list", "delete", "rename", "reorder", "revert", "show",
    "changes", "export", "commit", " ", " ", "t", "t.main", ".a", ".l", "t.@rule[0]", ".n", "=",
    "='1'", "=x", "=''", "rule", "\n", "\n", "\n", "'", '"', "\\", ";", "#", "\0", "t.@[-1]=",
    "t.cfg0292bd", "\x01", "é", "import", "exit\n", "t.main.a=l\n",
]  # fmt: skip


@given(st.lists(st.sampled_from(WORDS), max_size=60).map("".join).map(str.encode), st.booleans())
def test_any_commands_leave_a_file(commands: bytes, good: bool) -> None:
    session = Session("t", BEFORE if good else b"config a 'b")
    session.batch(commands + b"\ncommit t\nshow t\nchanges t\n")
    if not good:
        assert session.data == b"config a 'b"
    before = session.data
    session.batch(b"commit t\n")
    assert session.data == before
