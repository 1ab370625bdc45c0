"""A file system that stops the program, fails a call, and forgets what was not synced.

`FaultyFiles` counts every call that changes something. What was written and not synced lies in the
page cache: `power_cut` puts it back, all of it or sector by sector as a random generator says, and
takes back renames and creations whose directory was not synced. A kill keeps everything, so after
it there is nothing to do. Only plain files are covered (no mapping).
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from typing import Any, ClassVar

from logd.storage.files import Buffer, Files, OpenFile

SECTOR_BYTES = 512


TMPFS_MAGIC = 0x01021994


class StoppedError(Exception):
    """The program stopped here."""


class FaultyFiles(Files):
    """Real files in a scratch directory, with a count of the calls that change something."""

    COUNTED: ClassVar[tuple[str, ...]] = (
        "create", "create_or_truncate", "write_at", "truncate", "allocate", "sync_data", "sync",
        "write_back", "sync_directory", "rename", "unlink", "make_directory", "remove_directory",
    )  # fmt: skip

    def __init__(self, *, stop_before: int | None = None) -> None:
        self.calls: list[str] = []
        self.stop_before = stop_before
        # Method name to the errno that it fails with.
        self.failing: dict[str, int] = {}
        # inode: what is on the device.
        self._synced: dict[int, bytes] = {}
        # What to do to take back names that are not durable, the newest last.
        self._undo: list[Callable[[], None]] = []

    def _count(self, name: str) -> None:
        if self.stop_before is not None and len(self.calls) >= self.stop_before:
            raise StoppedError(f"before call {self.stop_before}: {name}")
        self.calls.append(name)
        if name in self.failing:
            raise OSError(self.failing[name], os.strerror(self.failing[name]))

    def create(self, path: str) -> OpenFile:
        self._count("create")
        file = super().create(path)
        self._undo.append(lambda: _remove(path))
        self._synced[os.fstat(file.fd).st_ino] = b""
        return file

    def create_or_truncate(self, path: str) -> OpenFile:
        self._count("create_or_truncate")
        existed = os.path.exists(path)
        if existed:
            self._remember(path)
        file = super().create_or_truncate(path)
        if not existed:
            self._undo.append(lambda: _remove(path))
            self._synced[os.fstat(file.fd).st_ino] = b""
        return file

    def write_at(self, file: OpenFile, position: int, buffers: Any) -> int:
        self._count("write_at")
        self._remember_open(file)
        return super().write_at(file, position, buffers)

    def truncate(self, file: OpenFile, size: int) -> None:
        self._count("truncate")
        self._remember_open(file)
        super().truncate(file, size)

    def allocate(self, file: OpenFile, position: int, size: int) -> None:
        self._count("allocate")
        self._remember_open(file)
        super().allocate(file, position, size)

    def sync_data(self, file: OpenFile) -> None:
        self._count("sync_data")
        self._synced.pop(os.fstat(file.fd).st_ino, None)

    def sync(self, file: OpenFile) -> None:
        self._count("sync")
        self._synced.pop(os.fstat(file.fd).st_ino, None)

    def write_back(self, file: OpenFile, position: int, size: int) -> None:
        self._count("write_back")

    def sync_directory(self, path: str) -> None:
        self._count("sync_directory")
        self._undo.clear()

    def rename(self, old: str, new: str) -> None:
        self._count("rename")
        before = _content(new) if os.path.exists(new) else None
        super().rename(old, new)

        def undo() -> None:
            os.rename(new, old)
            if before is not None:
                _write(new, before)

        self._undo.append(undo)

    def unlink(self, path: str) -> None:
        self._count("unlink")
        before = _content(path) if os.path.exists(path) else None
        super().unlink(path)
        if before is not None:
            content = before
            self._undo.append(lambda: _write(path, content))

    def make_directory(self, path: str) -> None:
        self._count("make_directory")
        super().make_directory(path)

    def remove_directory(self, path: str) -> None:
        self._count("remove_directory")
        super().remove_directory(path)

    def _remember(self, path: str) -> None:
        self._synced.setdefault(os.stat(path).st_ino, _content(path))

    def _remember_open(self, file: OpenFile) -> None:
        inode = os.fstat(file.fd).st_ino
        if inode not in self._synced:
            # Opened anew: the descriptor may be one past the cache, which reads whole pages only.
            self._synced[inode] = _content(f"/proc/self/fd/{file.fd}")

    def power_cut(self, directory: str, rng: random.Random | None = None) -> None:
        """Lose what was not synced: all of it, or each sector and name as `rng` decides."""
        for name in os.listdir(directory):
            path = os.path.join(directory, name)
            if os.path.isfile(path) and os.stat(path).st_ino in self._synced:
                old = self._synced[os.stat(path).st_ino]
                _write_in_place(path, old if rng is None else _mix(old, _content(path), rng))
        # Names become durable in order, if at all.
        kept = 0 if rng is None else rng.randrange(len(self._undo) + 1)
        for undo in reversed(self._undo[kept:]):
            undo()


def is_memory(path: str) -> bool:
    """Whether a path is in memory (tmpfs): what is there is always cached."""
    return Files().file_system_magic(path) == TMPFS_MAGIC


def _remove(path: str) -> None:
    if os.path.exists(path):
        os.unlink(path)


def _mix(old: bytes, new: bytes, rng: random.Random) -> bytes:
    size = rng.choice((len(old), len(new)))
    old = old.ljust(size, b"\0")[:size]
    new = new.ljust(size, b"\0")[:size]
    return b"".join(
        rng.choice((old, new))[at : at + SECTOR_BYTES] for at in range(0, size, SECTOR_BYTES)
    )


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _write(path: str, data: Buffer) -> None:
    with open(path, "wb") as file:
        file.write(data)


def _write_in_place(path: str, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.write(data)
        file.truncate()


NO_SPACE = errno.ENOSPC
IO_ERROR = errno.EIO
