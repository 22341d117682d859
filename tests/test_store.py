"""The file of the configuration: whole before, whole after, whatever happens in between."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from bifrost_lite import store as module
from bifrost_lite.api.context import StoreError
from bifrost_lite.load import MAX_FILE, revision
from bifrost_lite.store import Store

ROOT = Path(__file__).parents[1]
OLD, NEW = b'token = "old"\n' * 50, b'token = "new"\n' * 70
IS_ROOT = os.geteuid() == 0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "etc" / "bifrost.toml"
    path.parent.mkdir()
    path.write_bytes(OLD)
    path.chmod(0o640)
    return path


def refused(path: Path, raw: bytes = NEW, expected: bytes = OLD, backup: bool = True) -> str:
    """The word by which a save is refused."""
    with pytest.raises(StoreError) as caught:
        Store(str(path)).write(raw, revision(expected), backup)
    assert caught.value.message.endswith(".")
    assert str(path) not in caught.value.message
    return caught.value.word


def during(monkeypatch: pytest.MonkeyPatch, name: str, action: Callable[[], object]) -> None:
    """Do something once, when the store has called that function of `os`."""
    real = getattr(os, name)
    waiting = [action]

    def hooked(*args: object, **keys: object) -> object:
        result = real(*args, **keys)
        if waiting:
            waiting.pop()()
        return result

    monkeypatch.setattr(module.os, name, hooked)


def test_revision() -> None:
    assert revision(b"") == "e3b0c44298fc1c14"
    assert revision(OLD) != revision(NEW)


def test_read(path: Path) -> None:
    assert Store(str(path)).read() == (OLD, revision(OLD))


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o666])
def test_write(path: Path, mode: int) -> None:
    path.chmod(mode)
    old_umask = os.umask(0o077)
    try:
        assert Store(str(path)).write(NEW, revision(OLD), False) == revision(NEW)
    finally:
        os.umask(old_umask)
    assert path.read_bytes() == NEW
    assert path.stat().st_mode & 0o7777 == mode
    assert os.listdir(path.parent) == [path.name]


def test_one_backup_is_kept(path: Path) -> None:
    store = Store(str(path))
    for number in range(3):
        old = path.read_bytes()
        store.write(b"%d" % number, revision(old), True)
        backup = path.with_name("bifrost.toml.bak")
        assert backup.read_bytes() == old
        assert backup.stat().st_mode & 0o7777 == 0o640
        assert not path.samefile(backup)
    assert sorted(os.listdir(path.parent)) == ["bifrost.toml", "bifrost.toml.bak"]


def test_a_path_without_a_directory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    Store(path.name).write(NEW, revision(OLD), True)
    assert path.read_bytes() == NEW


@pytest.mark.parametrize("relative", [True, False])
def test_symbolic_links_stay(path: Path, tmp_path: Path, relative: bool) -> None:
    link, far = tmp_path / "link.toml", tmp_path / "far.toml"
    link.symlink_to("etc/bifrost.toml" if relative else path)
    far.symlink_to(link)
    store = Store(str(far))
    assert store.read() == (OLD, revision(OLD))
    store.write(NEW, revision(OLD), True)
    assert link.is_symlink() and far.is_symlink()
    assert path.read_bytes() == far.read_bytes() == NEW
    assert sorted(os.listdir(path.parent)) == ["bifrost.toml", "bifrost.toml.bak"]
    assert sorted(os.listdir(tmp_path)) == ["etc", "far.toml", "link.toml"]


def test_the_owner_is_kept(path: Path) -> None:
    owner = (1234, 4321) if IS_ROOT else (os.getuid(), os.getgid())
    os.chown(path, *owner)
    Store(str(path)).write(NEW, revision(OLD), True)
    for name in ("bifrost.toml", "bifrost.toml.bak"):
        status = (path.parent / name).stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (*owner, 0o640)


# Refusals.


def test_another_revision(path: Path) -> None:
    assert refused(path, expected=NEW) == "config_changed"
    assert os.listdir(path.parent) == [path.name]


def test_too_large(path: Path) -> None:
    assert refused(path, raw=b"#" * (MAX_FILE + 1)) == "too_large"
    Store(str(path)).write(b"#" * MAX_FILE, revision(OLD), False)
    path.write_bytes(b"#" * (MAX_FILE + 1))
    assert refused(path, expected=b"#" * MAX_FILE) == "config_changed"


def replace_by(path: Path, what: str) -> None:
    path.unlink()
    if what == "directory":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "loop":
        path.symlink_to(path)
    elif what == "no directory":
        path.parent.rmdir()
    elif what == "file for a directory":
        path.parent.rmdir()
        path.parent.write_bytes(b"")


@pytest.mark.parametrize(
    ("what", "word"),
    [
        ("nothing", "file_gone"),
        ("no directory", "file_gone"),
        ("file for a directory", "file_gone"),
        ("directory", "not_a_file"),
        ("pipe", "not_a_file"),
        ("loop", "not_a_file"),
    ],
)
def test_no_file_any_more(path: Path, what: str, word: str) -> None:
    replace_by(path, what)
    assert refused(path) == word
    with pytest.raises(StoreError) as caught:
        Store(str(path)).read()
    assert caught.value.word == word
    if path.parent.is_dir():
        assert os.listdir(path.parent) in ([], [path.name])


def test_an_editor_saves_meanwhile(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    during(monkeypatch, "fsync", lambda: path.write_bytes(b"by hand"))
    assert refused(path) == "config_changed"
    assert path.read_bytes() == b"by hand"
    assert os.listdir(path.parent) == [path.name]


def test_the_directory_is_swapped_meanwhile(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    away = path.parent.with_name("away")

    def swap() -> None:
        path.parent.rename(away)
        shutil.copytree(away, path.parent)

    during(monkeypatch, "fchmod", swap)
    assert refused(path) == "config_changed"
    assert path.read_bytes() == (away / path.name).read_bytes() == OLD
    assert os.listdir(away) == [path.name]


def test_the_directory_goes_meanwhile(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    away = path.parent.with_name("away")
    during(monkeypatch, "fchmod", lambda: path.parent.rename(away))
    assert refused(path) == "file_gone"
    assert os.listdir(away) == [path.name]


def test_the_link_leads_elsewhere_meanwhile(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, other = tmp_path / "link.toml", tmp_path / "other.toml"
    other.write_bytes(OLD)
    link.symlink_to(path)

    def lead() -> None:
        link.unlink()
        link.symlink_to(other)

    during(monkeypatch, "fchmod", lead)
    assert refused(link) == "config_changed"
    assert path.read_bytes() == other.read_bytes() == OLD


def test_a_backup_that_cannot_be(path: Path) -> None:
    path.with_name("bifrost.toml.bak").mkdir()
    assert refused(path) == "not_a_file"
    assert path.read_bytes() == OLD
    assert sorted(os.listdir(path.parent)) == ["bifrost.toml", "bifrost.toml.bak"]


def test_another_program_is_saving(path: Path) -> None:
    other = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert refused(path) == "busy"
    finally:
        os.close(other)
    Store(str(path)).write(NEW, revision(OLD), False)


def test_of_many_writers_one_wins(path: Path) -> None:
    """Each would write its own number, over and over: never a mix of two."""
    results: list[str] = []
    start = threading.Barrier(8)

    def write(number: int) -> None:
        raw = b"%d\n" % number * 4000
        start.wait()
        try:
            results.append(Store(str(path)).write(raw, revision(OLD), True))
        except StoreError as error:
            results.append(error.word)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = set(results) - {"busy", "config_changed"}
    assert len(results) == 8
    assert results.count(winner) == 1
    assert revision(path.read_bytes()) == winner
    assert path.with_name("bifrost.toml.bak").read_bytes() == OLD
    assert sorted(os.listdir(path.parent)) == ["bifrost.toml", "bifrost.toml.bak"]


def test_file_systems_that_force_no_directories(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def fsync(fd: int) -> None:
        if Path(f"/proc/self/fd/{fd}").resolve().is_dir():
            raise OSError(22, "Invalid argument")
        real(fd)

    monkeypatch.setattr(module.os, "fsync", fsync)
    assert Store(str(path)).write(NEW, revision(OLD), False) == revision(NEW)


def test_an_error_of_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(module.os, "fsync", fsync)
    assert refused(path) == "io_error"
    assert path.read_bytes() == OLD
    assert os.listdir(path.parent) == [path.name]


# Faults of the machine, each in a process of its own.

CHILD = """
import os, resource, sys
from bifrost_lite.api.context import StoreError
from bifrost_lite.load import revision
from bifrost_lite.store import Store
path, backup = sys.argv[1], sys.argv[2] == "backup"
def save(new):
    store = Store(path)
    old, found = store.read()
    try:
        store.write(new, found, backup)
    except StoreError as error:
        print(error.word, error.message)
        assert store.read() == (old, found)
    else:
        print("saved")
"""


def run(script: str, path: Path, *words: str, mount: str = "") -> list[str]:
    """Run the script in a process of its own; with `mount` in a mount namespace, after that."""
    command = [sys.executable, "-c", CHILD + script, str(path), *(words or ("backup",))]
    if mount:
        unshare = shutil.which("unshare")
        assert unshare, "needs util-linux"
        options = ["-m"] if IS_ROOT else ["-r", "-m"]
        command = [unshare, *options, "sh", "-ec", f'{mount}\nexec "$@"', "sh", *command]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("backup", ["backup", "none"])
def test_the_disk_is_full(path: Path, backup: str) -> None:
    """16 KiB of it: the file has one page, and there is no room for four more."""
    place = path.parent
    lines = run(
        """
with open(path, "rb") as file:
    assert len(file.read()) < 4096
save(b"#" * 16_000)
print(*sorted(os.listdir(os.path.dirname(path))))
save(b"small")
print(*sorted(os.listdir(os.path.dirname(path))))
""",
        path, backup,
        mount=f"cp -p {path} {place}.toml\nmount -t tmpfs -o size=16k tmpfs {place}\n"
        f"cp -p {place}.toml {path}",
    )  # fmt: skip
    assert lines[0].startswith("disk_full ")
    extra = " bifrost.toml.bak" if backup == "backup" else ""
    assert lines[1:] == ["bifrost.toml", "saved", f"bifrost.toml{extra}"]


def test_the_disk_is_full_for_the_backup_alone(path: Path) -> None:
    place = path.parent
    lines = run(
        """
save(b"#" * 5_000)
print(*sorted(os.listdir(os.path.dirname(path))))
""",
        path,
        mount=f"cp -p {path} {place}.toml\nmount -t tmpfs -o size=12k tmpfs {place}\n"
        f"cp -p {place}.toml {path}",
    )
    assert lines[0].startswith("disk_full ")
    assert lines[1:] == ["bifrost.toml"]


def test_files_may_not_grow(path: Path) -> None:
    lines = run(
        """
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
save(b"#" * 1001)
print(*os.listdir(os.path.dirname(path)))
save(b"#" * 1000)
""",
        path, "none",
    )  # fmt: skip
    assert lines[0].startswith("disk_full ")
    assert lines[1:] == ["bifrost.toml", "saved"]


def test_the_file_system_is_read_only(path: Path) -> None:
    place = path.parent
    mount = f"mount --bind {place} {place}\nmount -o remount,ro,bind {place}"
    assert run("save(b'new')", path, mount=mount)[0].startswith("read_only ")
    assert os.listdir(place) == [path.name]


@pytest.mark.parametrize("mode", ["ro", "rw"])
def test_the_file_alone_is_mounted(path: Path, mode: str) -> None:
    """As containers do it: nothing can be renamed over a mount."""
    mount = f"mount --bind {path} {path}\nmount -o remount,{mode},bind {path}"
    assert run("save(b'new')", path, "none", mount=mount)[0].startswith("read_only ")
    assert os.listdir(path.parent) == [path.name]


# As root these would all be allowed.
AS_NOBODY = """
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(int(sys.argv[3]))
    os.setuid(65534)
save(b"new")
"""


def open_to_everybody(path: Path) -> None:
    """pytest's directories are for their user alone."""
    for parent in (path.parents[1], path.parents[2], path.parents[3]):
        parent.chmod(parent.stat().st_mode | 0o011)


@pytest.mark.parametrize(("file", "place"), [(0o444, 0o777), (0o666, 0o555)])
def test_no_permission(path: Path, file: int, place: int) -> None:
    open_to_everybody(path)
    path.chmod(file)
    path.parent.chmod(place)
    (line,) = run(AS_NOBODY, path, "backup", "65534")
    assert line.startswith("no_permission ")
    assert path.read_bytes() == OLD
    path.parent.chmod(0o755)
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize(
    ("group", "before", "after"), [(4321, 0o664, 0o664), (65534, 0o666, 0o606)]
)
def test_an_owner_that_cannot_be_kept(path: Path, group: int, before: int, after: int) -> None:
    """The group is kept if the daemon is in it; else what it might do is for no other."""
    open_to_everybody(path)
    path.parent.chmod(0o777)
    path.chmod(before)
    if IS_ROOT:
        os.chown(path, 0, 4321)
    assert run(AS_NOBODY, path, "none", str(group)) == ["saved"]
    status = path.stat()
    assert path.read_bytes() == b"new"
    if IS_ROOT:
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (65534, group, after)


# Killed: at each call to the system in turn, and in the middle of each write.

KILLED = """
import signal
from bifrost_lite import store as module
class Killer:
    def __init__(self, last):
        self.last = last
    def __getattr__(self, name):
        found = getattr(os, name)
        if not callable(found) or name in ("strerror", "fspath"):
            return found
        def step(*args, **keys):
            if self.last == 0:
                if name == "write":
                    os.write(args[0], args[1][:len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            self.last -= 1
            return found(*args, **keys)
        return step
old = open(path, "rb").read()
new = b"new" * 5000
place = os.path.dirname(path)
contents = []
for step in range(1000):
    child = os.fork()
    if not child:
        module.os = Killer(step)
        Store(path).write(new, revision(old), backup)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    raw = open(path, "rb").read()
    assert raw in (old, new), "a broken file"
    if os.path.exists(path + ".bak"):
        assert open(path + ".bak", "rb").read() == old, "a broken backup"
    if status:
        assert os.WTERMSIG(status) == signal.SIGKILL, status
    contents.append(raw == new)
    # The next save works, and takes away what was left.
    Store(path).write(old, revision(raw), False)
    assert set(os.listdir(place)) <= {"bifrost.toml", "bifrost.toml.bak"}, os.listdir(place)
    if os.path.exists(path + ".bak"):
        os.unlink(path + ".bak")
    if not status:
        break
print(step, contents == sorted(contents), contents[0], contents[-1])
"""


@pytest.mark.parametrize("backup", ["backup", "none"])
def test_killed_anywhere(path: Path, backup: str) -> None:
    (line,) = run(KILLED, path, backup)
    steps, rest = line.split(" ", 1)
    assert int(steps) > 10
    assert rest == "True False True"  # first the old content, from some step on the new one
