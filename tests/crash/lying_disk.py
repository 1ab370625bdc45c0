"""A disk that stops the program before any call, and keeps only what it promised to keep.

`LyingDisk` is a real directory, the kernel's view, and beside it a memory of what is on the device:
the content of each file as of its last sync, the names of each directory as of its last sync. From
both a crash makes a new directory:

* `kill`: the process died, the kernel goes on: all that was written is there.
* `lost`: a power cut; of everything unsynced, content and names, nothing is there.
* `torn`: a power cut; of unsynced content each sector is old or new, of names the first few
  changes.
* `names lost`: content is there, unsynced names are not; and `content lost` the other way round.

A failed sync is modelled as Linux does it: the pages count as clean from then on, the cache shows
what was written, the device never gets it, and dropping the cache shows the device's content.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from typing import Any

from logd.storage.files import Buffer, Files, OpenFile

SECTOR_BYTES = 512

Names = dict[str, int]


class Stop(BaseException):
    """The program stopped here. No code under test can catch it by mistake."""


class LyingDisk(Files):
    """Files below `root`, with a count of the calls that change something.

    Attributes:
        stop_at: the call (counted from 0) before which the program stops; None: never.
        halves: a write that is stopped before has half of its bytes written.
        failing: method names to the errno that they fail with.
    """

    def __init__(self, root: str, *, stop_at: int | None = None, halves: bool = False) -> None:
        self.root = root
        self.stop_at = stop_at
        self.halves = halves
        self.calls: list[str] = []
        self.opened: list[str] = []
        self.failing: dict[str, int] = {}
        self._keep_open: dict[int, int] = {}
        self._device: dict[int, bytes] = {}
        self._device_names: dict[str, Names] = {}
        self._name_changes: dict[str, list[Callable[[Names], None]]] = {}
        self._lost_pages: set[int] = set()
        self._adopt(root)

    def _adopt(self, directory: str) -> None:
        """What is there at the beginning is on the device."""
        names: Names = {}
        for name in os.listdir(directory):
            path = f"{directory}/{name}"
            if os.path.isdir(path):
                names[name] = -1
                self._adopt(path)
            else:
                names[name] = self._track(path)
                self._device[names[name]] = _content(self._keep_open[names[name]])
        self._device_names[directory] = names
        self._name_changes[directory] = []

    def _track(self, path: str) -> int:
        inode = os.stat(path).st_ino
        if inode not in self._keep_open:
            self._keep_open[inode] = os.open(path, os.O_RDWR)
            self._device.setdefault(inode, b"")
        return inode

    def close(self) -> None:
        """Let go of the descriptors that remember unlinked files."""
        for fd in self._keep_open.values():
            os.close(fd)
        self._keep_open.clear()

    def _count(self, name: str) -> None:
        if self.stop_at is not None and len(self.calls) >= self.stop_at:
            raise Stop(name)
        self.calls.append(name)
        if name in self.failing:
            raise OSError(self.failing[name], os.strerror(self.failing[name]))

    def _changed(self, path: str, change: Callable[[Names, str], None]) -> None:
        directory, _, name = path.rpartition("/")
        self._name_changes[directory].append(lambda names: change(names, name))

    # --- files ---------------------------------------------------------------------------------

    def open_read(self, path: str) -> OpenFile:
        self.opened.append(path)
        return super().open_read(path)

    def open_write(self, path: str) -> OpenFile:
        self.opened.append(path)
        return super().open_write(path)

    def create(self, path: str) -> OpenFile:
        self._count("create")
        file = super().create(path)
        inode = self._track(path)
        self._changed(path, lambda names, name: names.__setitem__(name, inode))
        return file

    def create_or_truncate(self, path: str) -> OpenFile:
        self._count("create_or_truncate")
        file = super().create_or_truncate(path)
        inode = self._track(path)
        self._changed(path, lambda names, name: names.__setitem__(name, inode))
        return file

    def write_at(self, file: OpenFile, position: int, buffers: Any) -> int:
        try:
            self._count("write_at")
        except Stop:
            if self.halves:
                self._write_half(file, position, b"".join(buffers))
            raise
        except OSError:
            self._write_half(file, position, b"".join(buffers))
            raise
        return super().write_at(file, position, buffers)

    def _write_half(self, file: OpenFile, position: int, data: bytes) -> None:
        """Through the cache, whichever way the file is open: a half is no whole pages."""
        inode = os.fstat(file.fd).st_ino
        self._track_fd(file, inode)
        os.pwrite(self._keep_open[inode], data[: len(data) // 2], position)

    def truncate(self, file: OpenFile, size: int) -> None:
        self._count("truncate")
        super().truncate(file, size)

    def allocate(self, file: OpenFile, position: int, size: int) -> None:
        self._count("allocate")
        super().allocate(file, position, size)

    def sync_data(self, file: OpenFile) -> None:
        self._sync("sync_data", file)

    def sync(self, file: OpenFile) -> None:
        self._sync("sync", file)

    def write_back(self, file: OpenFile, position: int, size: int) -> None:
        try:
            self._count("write_back")  # It makes nothing durable.
        except OSError as error:
            if error.errno == errno.EIO:
                self._lost_pages.add(os.fstat(file.fd).st_ino)
            raise

    def _sync(self, name: str, file: OpenFile) -> None:
        inode = os.fstat(file.fd).st_ino
        try:
            self._count(name)
        except OSError as error:
            if error.errno == errno.EIO:
                self._lost_pages.add(inode)
            raise
        self._track_fd(file, inode)
        if inode not in self._lost_pages:
            self._device[inode] = _content(file.fd)

    def _track_fd(self, file: OpenFile, inode: int) -> None:
        if inode not in self._keep_open:
            self._keep_open[inode] = os.dup(file.fd)

    def drop_cache(self, file: OpenFile, position: int = 0, size: int = 0) -> None:
        self.evict(os.fstat(file.fd).st_ino)

    def evict(self, inode: int | None = None) -> None:
        """Forget clean pages: what a failed sync left behind in the cache is gone now."""
        for lost in list(self._lost_pages) if inode is None else [inode]:
            if lost in self._lost_pages:
                fd = self._keep_open[lost]
                size = os.fstat(fd).st_size
                os.pwrite(fd, self._device[lost].ljust(size, b"\0")[:size], 0)
                self._lost_pages.discard(lost)

    # --- names ---------------------------------------------------------------------------------

    def make_directory(self, path: str) -> None:
        self._count("make_directory")
        super().make_directory(path)
        self._changed(path, lambda names, name: names.__setitem__(name, -1))
        self._device_names[path] = {}
        self._name_changes[path] = []

    def rename(self, old: str, new: str) -> None:
        self._count("rename")
        inode = self._track(old)
        super().rename(old, new)
        old_directory, _, old_name = old.rpartition("/")
        if old_directory != new.rpartition("/")[0]:
            # Two changes, each durable when its own directory is synced.
            self._changed(new, lambda names, name: names.__setitem__(name, inode))
            self._changed(old, _forget)
            return

        def change(names: Names, name: str) -> None:
            """One change of both names: they are in one directory."""
            names.pop(old_name, None)
            names[name] = inode

        self._changed(new, change)

    def unlink(self, path: str) -> None:
        self._count("unlink")
        super().unlink(path)
        self._changed(path, _forget)

    def sync_directory(self, path: str) -> None:
        self._count("sync_directory")
        for change in self._name_changes.get(path, []):
            change(self._device_names[path])
        self._name_changes[path] = []

    # --- crashes -------------------------------------------------------------------------------

    def crash(self, mode: str, target: str, rng: random.Random) -> None:
        """Write what is left after a crash into the directory `target`, which must not exist."""
        self._materialise(self.root, target, mode, rng)

    def _materialise(self, directory: str, target: str, mode: str, rng: random.Random) -> None:
        os.mkdir(target)
        names = dict(self._device_names[directory])
        changes = self._name_changes[directory]
        kept = {"kill": len(changes), "content lost": len(changes), "lost": 0, "names lost": 0}
        count = kept.get(mode)
        for change in changes[: rng.randrange(len(changes) + 1) if count is None else count]:
            change(names)
        for name, inode in names.items():
            path = f"{target}/{name}"
            if inode == -1:
                self._materialise(f"{directory}/{name}", path, mode, rng)
            else:
                _write(path, self._content_after(inode, mode, rng))

    def _content_after(self, inode: int, mode: str, rng: random.Random) -> bytes:
        old = self._device[inode]
        new = _content(self._keep_open[inode])
        if mode != "kill" and inode in self._lost_pages:
            new = old  # Clean pages are not written back again.
        if mode in ("kill", "names lost"):
            return new
        if mode in ("lost", "content lost"):
            return old
        return _mix(old, new, rng)


def _forget(names: Names, name: str) -> None:
    names.pop(name, None)


class FastFiles(Files):
    """Real files without real syncs: for looking at what a crash left, thousands of times."""

    def sync_data(self, file: OpenFile) -> None:
        pass  # The test's directory need not survive the machine.

    def sync(self, file: OpenFile) -> None:
        pass

    def write_back(self, file: OpenFile, position: int, size: int) -> None:
        pass

    def sync_directory(self, path: str) -> None:
        pass

    def drop_cache(self, file: OpenFile, position: int = 0, size: int = 0) -> None:
        pass


def _mix(old: bytes, new: bytes, rng: random.Random) -> bytes:
    if old == new:
        return new
    size = rng.choice((len(old), len(new), rng.randint(*sorted((len(old), len(new))))))
    old = old.ljust(size, b"\0")[:size]
    new = new.ljust(size, b"\0")[:size]
    return b"".join(
        rng.choice((old, new))[at : at + SECTOR_BYTES] for at in range(0, size, SECTOR_BYTES)
    )


def _content(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def _write(path: str, data: Buffer) -> None:
    with open(path, "wb") as file:
        file.write(data)
