"""The file of the configuration: read, and replaced whole or not at all.

New content is written beside the file, forced to the disk, and renamed over it: whoever cuts
the power, fills the disk or kills the daemon finds the old file or the new one. What a killed
daemon leaves beside it (``.NAME.new`` and ``.NAME.old``) goes with the next save. Everything
here blocks, and belongs in a thread.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from stat import S_ISREG

from .api.context import StoreError
from .load import MAX_FILE, revision

_FULL = ("disk_full", "there is no space left for it")
_DENIED = ("no_permission", "the daemon's user may not write it, or not into its directory")
_NO_FILE = ("not_a_file", "it is no regular file any more")
_ERRORS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: _FULL,
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EROFS: ("read_only", "it is on a file system that is read-only"),
    errno.EBUSY: ("read_only", "it is a mount of its own, which nothing can replace"),
    errno.ENOENT: ("file_gone", "it is not there any more"),
    errno.ENOTDIR: ("file_gone", "its directory is not there any more"),
    errno.EISDIR: _NO_FILE,
    errno.ELOOP: _NO_FILE,
    errno.EWOULDBLOCK: ("busy", "another program is saving it just now"),
}


class Store:
    """The file at `path`, or where the symbolic links there lead."""

    __slots__ = ("_path",)

    def __init__(self, path: str) -> None:
        self._path = path

    def read(self) -> tuple[bytes, str]:
        """What is in the file, and its revision.

        Raises:
            StoreError: it cannot be read
        """
        with self._opened("read") as (directory, real):
            return _read(directory, os.path.basename(real), os.O_RDONLY)[:2]

    def write(self, raw: bytes, expected: str, backup: bool) -> str:
        """Replace the content, keeping mode and owner as far as this user may.

        Args:
            raw: the new content
            expected: the revision of what may be replaced
            backup: keep the old content as ``<file>.bak``

        Returns:
            the new revision

        Raises:
            StoreError: it cannot be done, or the content is another than expected; then the
                file is what it was
        """
        if len(raw) > MAX_FILE:
            raise StoreError(
                "too_large", f"The configuration would have more than {MAX_FILE // 1024} KiB."
            )
        with self._opened("saved") as (directory, real):
            # Two daemons on one file; editors know no locks, so they are watched for below.
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            name = os.path.basename(real)
            fresh, kept = f".{name}.new", f".{name}.old"
            _remove(directory, fresh, kept)
            try:
                # Opened for writing: the kernel says whether we may, which a rename would not ask.
                old, found, status = _read(directory, name, os.O_RDWR)
                _check(found, expected)
                _create(directory, fresh, raw, status)
                if backup:
                    _create(directory, kept, old, status)
                _check(_read(directory, name, os.O_RDONLY)[1], expected)
                self._check_place(directory, real)
                if backup:
                    os.rename(kept, f"{name}.bak", src_dir_fd=directory, dst_dir_fd=directory)
                os.rename(fresh, name, src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException:
                _remove(directory, fresh, kept)
                raise
            # Should this fail, the power may still bring the old file back, and a whole one.
            with suppress(OSError):
                os.fsync(directory)
        return revision(raw)

    @contextmanager
    def _opened(self, verb: str) -> Iterator[tuple[int, str]]:
        """The directory of the file, opened, and the file's real path; all errors become ours."""
        try:
            real = os.path.realpath(self._path)
            directory = os.open(os.path.dirname(real), os.O_RDONLY | os.O_DIRECTORY)
            try:
                yield directory, real
            finally:
                os.close(directory)  # ends the lock
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            word, why = _ERRORS.get(error.errno or 0, ("io_error", f"the system says '{reason}'"))
            raise StoreError(word, f"The configuration cannot be {verb}: {why}.") from None

    def _check_place(self, directory: int, real: str) -> None:
        """Whether the file is still to be found where we are about to write it."""
        present = os.path.realpath(self._path)
        there = os.stat(os.path.dirname(present))
        if present != real or not os.path.samestat(there, os.fstat(directory)):
            raise StoreError(
                "config_changed", "The directory of the configuration was replaced meanwhile."
            )


def _check(found: str, expected: str) -> None:
    if found != expected:
        raise StoreError("config_changed", "The file was changed by something else meanwhile.")


def _read(directory: int, name: str, flags: int) -> tuple[bytes, str, os.stat_result]:
    """Content, revision and status of a regular file."""
    # Nobody must hold us with a pipe in the place of the file.
    fd = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    try:
        status = os.fstat(fd)
        if not S_ISREG(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, "not a regular file")
        with open(fd, "rb", closefd=False) as file:
            raw = file.read(MAX_FILE + 1)
    finally:
        os.close(fd)
    return raw, revision(raw), status


def _remove(directory: int, *names: str) -> None:
    for name in names:
        with suppress(OSError):
            os.unlink(name, dir_fd=directory)


def _create(directory: int, name: str, raw: bytes, like: os.stat_result) -> None:
    """Write a new file that is on the disk when this returns, with the rights of another."""
    # Nobody else may read it before its rights are right: it holds secrets.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    fd = os.open(name, flags, 0o600, dir_fd=directory)
    try:
        view = memoryview(raw)
        while view:
            view = view[os.write(fd, view) :]
        os.fchmod(fd, _give(fd, like))
        os.fsync(fd)
    finally:
        os.close(fd)


def _give(fd: int, like: os.stat_result) -> int:
    """Give a file the owner of another, as far as this user may; answers the mode for it."""
    mode = like.st_mode & 0o777
    mine = os.fstat(fd)
    if (mine.st_uid, mine.st_gid) == (like.st_uid, like.st_gid):
        return mode
    for owner in (like.st_uid, -1):
        with suppress(OSError):
            os.fchown(fd, owner, like.st_gid)
            return mode
    return mode & ~0o070  # what one group might do is not for another
