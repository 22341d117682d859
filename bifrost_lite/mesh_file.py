"""The file in which the mesh outlives the process."""

from __future__ import annotations

import os
from contextlib import suppress
from stat import S_ISLNK, S_ISREG

STATE_LIMIT = 4 << 20  # bytes; all peers that there may be, with what they may say, are less


class StateFile:
    """The file at `path`, which is ours alone.

    Nothing forces it to the disk: it is meant for memory, and what a power cut leaves of it is
    either whole or set aside.
    """

    __slots__ = ("_folder", "_name")

    def __init__(self, path: str) -> None:
        self._folder, self._name = os.path.split(path)

    def make_folder(self) -> None:
        """Make the folder that it is in, where that is missing. Raises OSError."""
        if self._folder:
            with suppress(FileExistsError):
                os.mkdir(self._folder, 0o700)

    def read(self) -> bytes | None:
        """What is in it, None where there is no such file.

        Raises:
            OSError: it cannot be read
            ValueError: it is none of ours
        """
        path = os.path.join(self._folder, self._name)
        try:
            # Whoever may write beside it must not have us follow a link, or wait for a pipe.
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        try:
            status = os.fstat(fd)
            if not S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                raise ValueError("it is no regular file of this user")
            if status.st_size > STATE_LIMIT:
                raise ValueError("it is too large")
            with open(fd, "rb", closefd=False) as file:
                return file.read(STATE_LIMIT)
        finally:
            os.close(fd)

    def write(self, raw: bytes) -> None:
        """Replace it whole.

        Raises:
            OSError: that cannot be; then it is what it was
        """
        folder = os.open(self._folder or ".", os.O_RDONLY | os.O_DIRECTORY)
        fresh = f".{self._name}.new"
        try:
            with suppress(FileNotFoundError):
                os.unlink(fresh, dir_fd=folder)  # of a daemon that was killed
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            fd = os.open(fresh, flags, 0o600, dir_fd=folder)
            try:
                with open(fd, "wb") as file:
                    file.write(raw)
                os.rename(fresh, self._name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                os.unlink(fresh, dir_fd=folder)
                raise
        finally:
            os.close(folder)

    @property
    def replaceable(self) -> bool:
        """Whether nobody misses what is there: a directory or a device was never meant."""
        try:
            mode = os.lstat(os.path.join(self._folder, self._name)).st_mode
        except OSError:
            return True
        return S_ISREG(mode) or S_ISLNK(mode)

    def set_aside(self) -> None:
        """Rename it to ``<name>.bad``, for people to look at. Raises OSError."""
        path = os.path.join(self._folder, self._name)
        os.rename(path, f"{path}.bad")
