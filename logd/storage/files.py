"""The only module that touches the file system.

Everything in storage is handed a `Files` object and calls nothing else. So one fault injector (a
subclass in tests/crash) can stop the program before any call, lose or tear what was not synced,
fill the disk, or fail a sync, and no code path escapes it.

Rules that this module keeps:

* A write is complete or it raises: short writes are continued, and an error says what came before.
* A descriptor is closed when the last reader lets go of it: `OpenFile` closes itself when its last
  reference is gone. A segment may be deleted, or pushed out of the cache of open files, while a
  slice of it is still being sent; the slice keeps the file open, and nobody counts by hand.
* Durable names: a rename or a creation counts only after `sync_directory` returned.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import stat
from collections.abc import Sequence
from typing import Final

Buffer = bytes | bytearray | memoryview

DISK_FULL_ERRNOS: Final = frozenset((errno.ENOSPC, errno.EDQUOT))
"""There is no room: space comes back, so whoever meets these may try again."""

# writev(2) takes at most IOV_MAX buffers; Linux has 1024.
_IOV_MAX: Final = 1024
_PAGE_BYTES: Final = mmap.PAGESIZE
# cachestat(2), Linux 6.5: the same number on every architecture that logd runs on.
_SYS_CACHESTAT: Final = 451
# Ignored where there is no handler; the number of all of Linux's common machines.
_SIGURG: Final = 23


# The file system has no such way; /proc is not mounted; it may not be opened, or not one more.
_NO_DIRECT: Final = (
    errno.EINVAL, errno.ENOENT, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE,
)  # fmt: skip


class OpenFile:
    """An open descriptor with its path; closed when the last reference to it is gone."""

    __slots__ = ("_close", "fd", "path")

    def __init__(self, fd: int, path: str) -> None:
        self.fd = fd
        self.path = path
        self._close = os.close  # Module globals may be gone when the interpreter ends.

    def __del__(self) -> None:
        if self.fd >= 0:
            self._close(self.fd)
            self.fd = -1

    def __repr__(self) -> str:
        return f"OpenFile(fd={self.fd}, path={self.path!r})"


class Files:
    """The real file system. Tests replace it with a subclass that injects faults.

    Every method raises OSError as the system gave it; callers translate. Paths are strings.
    """

    # --- opening ----------------------------------------------------------------------------

    def open_read(self, path: str) -> OpenFile:
        """Open an existing file for reading."""
        return OpenFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), path)

    def open_write(self, path: str) -> OpenFile:
        """Open an existing file for reading and writing."""
        return OpenFile(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW), path)

    def create(self, path: str) -> OpenFile:
        """Create a file that must not exist; its name is durable after `sync_directory`."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        return OpenFile(os.open(path, flags, 0o640), path)

    def create_or_truncate(self, path: str) -> OpenFile:
        """Create a file, or empty the one that is there."""
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        return OpenFile(os.open(path, flags, 0o640), path)

    def open_direct(self, file: OpenFile, *, writable: bool) -> OpenFile | None:
        """Open an open file once more, past the page cache (O_DIRECT); None where its file system,
        or the system, has no such way.

        Positions, lengths and addresses are multiples of the device's logical block then. It is the
        same file, whatever has its name now.
        """
        access = os.O_RDWR if writable else os.O_RDONLY
        try:
            fd = os.open(f"/proc/self/fd/{file.fd}", access | os.O_DIRECT | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in _NO_DIRECT:
                return None
            raise
        return OpenFile(fd, file.path)

    # --- reading and writing ----------------------------------------------------------------

    def read_at(self, file: OpenFile, position: int, size: int) -> bytes:
        """Return up to `size` bytes; fewer only at the end of the file."""
        assert position >= 0
        assert size >= 0
        data = os.pread(file.fd, size, position)
        if len(data) == size or not data:
            return data
        parts = [data]
        got = len(data)
        while got < size:
            data = os.pread(file.fd, size - got, position + got)
            if not data:
                break
            parts.append(data)
            got += len(data)
        return b"".join(parts)

    def read_into(self, file: OpenFile, position: int, buffer: bytearray | memoryview) -> int:
        """Fill `buffer` from `position`; return the bytes read, fewer only at the end of the
        file.
        """
        view = memoryview(buffer)
        got = 0
        while got < len(view):
            count = os.preadv(file.fd, [view[got:]], position + got)
            if count == 0:
                break
            got += count
        return got

    def read_cached_at(self, file: OpenFile, position: int, size: int) -> bytes | None:
        """Return the bytes if they are in the page cache, None where reading would wait.

        May return fewer bytes than asked for at the end of the file or of what is cached.
        """
        buffer = bytearray(size)
        try:
            count = os.preadv(file.fd, [buffer], position, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP):
                return None
            raise
        return bytes(buffer[:count])

    def read_whole(self, path: str, *, limit_bytes: int) -> bytes:
        """Return a small file's bytes, at most `limit_bytes` + 1 of them: longer shows as
        longer.
        """
        return self.read_at(self.open_read(path), 0, limit_bytes + 1)

    def write_at(self, file: OpenFile, position: int, buffers: Sequence[Buffer]) -> int:
        """Write all buffers one behind the other from `position`; return the bytes written.

        Raises:
            OSError: the file may now hold a part of the bytes behind `position`; the caller
            truncates.
        """
        assert position >= 0
        total = 0
        for start in range(0, len(buffers), _IOV_MAX):
            group = buffers[start : start + _IOV_MAX]
            size = sum(map(len, group))
            written = os.pwritev(file.fd, group, position + total)
            if written != size:
                self._write_rest(file, position + total, group, written)
            total += size
        return total

    def _write_rest(
        self, file: OpenFile, position: int, buffers: Sequence[Buffer], written: int
    ) -> None:
        rest = memoryview(b"".join(buffers))
        while written < len(rest):
            count = os.pwrite(file.fd, rest[written:], position + written)
            if count == 0:
                raise OSError(errno.EIO, "write made no progress", file.path)
            written += count

    def write_setting(self, path: str, value: bytes) -> None:
        """Write a value to a file of the kernel's (proc(5)), which may not know of positions."""
        file = self.open_write(path)
        written = os.write(file.fd, value)
        assert written == len(value)

    def truncate(self, file: OpenFile, size: int) -> None:
        """Cut the file, or extend it with a hole."""
        os.ftruncate(file.fd, size)

    def allocate(self, file: OpenFile, position: int, size: int) -> None:
        """Reserve real blocks, so that a mapped write can never meet a full disk (SIGBUS)."""
        os.posix_fallocate(file.fd, position, size)

    def size(self, file: OpenFile) -> int:
        """Return the file's length in bytes."""
        return os.fstat(file.fd).st_size

    def map(self, file: OpenFile, size: int, *, writable: bool) -> mmap.mmap:
        """Map the first `size` bytes, which must be allocated if they are to be written."""
        assert size > 0
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        return mmap.mmap(file.fd, size, access=access)

    # --- durability -------------------------------------------------------------------------

    def sync_data(self, file: OpenFile) -> None:
        """fdatasync: the bytes, and the length needed to read them, are on stable storage."""
        os.fdatasync(file.fd)

    def sync(self, file: OpenFile) -> None:
        """fsync: data and all metadata of the file are on stable storage."""
        os.fsync(file.fd)

    def write_back(self, file: OpenFile, position: int, size: int) -> None:
        """Have the device take what was written to a range; return when it has.

        Nothing is durable by it. But a sync that follows finds less to do, and unlike one it makes
        the file system commit nothing, which other files' syncs would wait for. Where there is no
        such call nothing is done.

        Raises:
            OSError: the device refused the bytes. No later sync of this file says so again.
        """
        assert position >= 0 < size
        if _sync_file_range(file.fd, position, size, _WRITE_AND_WAIT) != 0:
            number = ctypes.get_errno()
            if number not in _NO_SUCH_CALL:
                raise OSError(number, os.strerror(number), file.path)

    def sync_directory(self, path: str) -> None:
        """The names in a directory are on stable storage."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    # --- the page cache ---------------------------------------------------------------------

    def drop_cache(self, file: OpenFile, position: int = 0, size: int = 0) -> None:
        """Drop clean cached pages, so that the next read comes from the device (0: to the end)."""
        os.posix_fadvise(file.fd, position, size, os.POSIX_FADV_DONTNEED)

    def is_cached(self, file: OpenFile, position: int, size: int) -> bool:
        """Return whether reading the range would not wait for the device."""
        cached = _cachestat(file.fd, position, size)
        if cached is not None:
            first_page = position // _PAGE_BYTES
            end_page = -(-(position + size) // _PAGE_BYTES)
            return cached >= end_page - first_page
        return self._probe_cached(file, position, size)

    def _probe_cached(self, file: OpenFile, position: int, size: int) -> bool:
        """One byte per 128 KiB: read-ahead works in such steps."""
        probe = bytearray(1)
        for at in (*range(position, position + size, 128 * 1024), position + size - 1):
            try:
                os.preadv(file.fd, [probe], at, os.RWF_NOWAIT)
            except OSError:
                return False
        return True

    # --- who else has it ---------------------------------------------------------------------

    def has_alone(self, file: OpenFile) -> bool:
        """Return whether nobody else, in no process, has the file open or mapped right now.

        The kernel grants a write lease only then (fcntl(2)). Where it grants none to anybody the
        answer is False.
        """
        try:
            # Who opens it in the moment of the lease sends a signal, which must not be SIGIO.
            fcntl.fcntl(file.fd, fcntl.F_SETSIG, _SIGURG)
            fcntl.fcntl(file.fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            fcntl.fcntl(file.fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except OSError:
            return False
        return True

    # --- names ------------------------------------------------------------------------------

    def exists(self, path: str) -> bool:
        """Return whether the name exists, be it a dangling link."""
        return os.path.lexists(path)

    def is_directory(self, path: str) -> bool:
        """Return whether the path is a directory and not a link to one."""
        return os.path.isdir(path) and not os.path.islink(path)

    def is_regular(self, path: str) -> bool:
        """Return whether the path is a file with bytes: no directory, link, pipe or device."""
        return stat.S_ISREG(os.stat(path, follow_symlinks=False).st_mode)

    def list_directory(self, path: str, *, suffix: str = "") -> list[str]:
        """Return the names in a directory that end so, sorted.

        Sorting 30,000 names keeps all other threads waiting for 13 ms, so ask for fewer.
        """
        return sorted([name for name in os.listdir(path) if name.endswith(suffix)])

    def stat_size(self, path: str) -> int:
        """Return a file's length by name."""
        return os.stat(path, follow_symlinks=False).st_size

    def modified_ms(self, path: str) -> int:
        """Return when a file was last written, by the wall clock of that time."""
        return os.stat(path, follow_symlinks=False).st_mtime_ns // 1_000_000

    def make_directory(self, path: str) -> None:
        """Make one directory; it must not exist."""
        os.mkdir(path, 0o750)

    def rename(self, old: str, new: str) -> None:
        """Rename, replacing `new` if it is there."""
        os.rename(old, new)

    def unlink(self, path: str) -> None:
        """Remove a file's name."""
        os.unlink(path)

    def remove_directory(self, path: str) -> None:
        """Remove an empty directory."""
        os.rmdir(path)

    def real_path(self, path: str) -> str:
        """Return the absolute path without links; parts that do not exist stay as they are."""
        return os.path.realpath(path)

    # --- the device -------------------------------------------------------------------------

    def free_bytes(self, path: str) -> int:
        """Return the bytes that an ordinary process may still write to the file system."""
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize

    def total_bytes(self, path: str) -> int:
        """Return the size of the file system."""
        status = os.statvfs(path)
        return status.f_blocks * status.f_frsize

    def device(self, path: str) -> int:
        """Return the number of the device that holds the path."""
        return os.stat(path).st_dev

    def file_system_magic(self, path: str) -> int:
        """Return the number by which the kernel knows the type of the file system (statfs(2))."""
        status = ctypes.create_string_buffer(_STATFS_BYTES)
        if _statfs(os.fsencode(path), status) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
        return ctypes.c_ulong.from_buffer(status).value & 0xFFFFFFFF

    def lock(self, file: OpenFile) -> bool:
        """Take an exclusive lock that ends with the process; False if another one has it."""
        try:
            fcntl.flock(file.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


class _CachestatRange(ctypes.Structure):
    _fields_ = (("off", ctypes.c_uint64), ("len", ctypes.c_uint64))


class _Cachestat(ctypes.Structure):
    _fields_ = (
        ("nr_cache", ctypes.c_uint64),
        ("nr_dirty", ctypes.c_uint64),
        ("nr_writeback", ctypes.c_uint64),
        ("nr_evicted", ctypes.c_uint64),
        ("nr_recently_evicted", ctypes.c_uint64),
    )


_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
# The structure begins with the type, a long; it is shorter than this on every 64-bit Linux.
_STATFS_BYTES: Final = 512
_statfs = _libc.statfs
_statfs.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
_cachestat_missing = False
_sync_file_range = _libc.sync_file_range
_sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_WRITE_AND_WAIT: Final = 1 | 2 | 4
"""SYNC_FILE_RANGE_WAIT_BEFORE, _WRITE and _WAIT_AFTER, from sync_file_range(2)."""

_NO_SUCH_CALL: Final = (errno.ENOSYS, errno.EINVAL, errno.ESPIPE)


def _cachestat(fd: int, position: int, size: int) -> int | None:
    """Return the number of cached pages of the range; None where the kernel cannot tell."""
    global _cachestat_missing
    if _cachestat_missing:
        return None
    wanted = _CachestatRange(position, size)
    result = _Cachestat()
    status = _syscall(_SYS_CACHESTAT, fd, ctypes.byref(wanted), ctypes.byref(result), 0)
    if status != 0:
        if ctypes.get_errno() == errno.ENOSYS:
            _cachestat_missing = True
        return None
    return int(result.nr_cache)
