"""The bare disk loops: what the device gives to anyone who writes and syncs, without a server.

Every loop appends to a growing file, as a log does: an fdatasync then also writes the new length.
No file has a name once it is open: whatever ends the process, nothing is left behind.

`write-direct` goes around the page cache (O_DIRECT): what the device takes without a flush, and so
the most that anyone who syncs could reach. Reading is in `bench.bare_reads`.
"""

from __future__ import annotations

import errno
import mmap
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from bench.histogram import latency_fields
from bench.protocol import AnswerError

FILE_BYTES_MAX: Final = 1024 * 1024 * 1024
PIECE_BYTES: Final = 1024 * 1024


@contextmanager
def scratch(directory: str, count: int = 1, *, flags: int = 0) -> Iterator[list[int]]:
    """Hold `count` new files open, which have no name any more."""
    fds = []
    try:
        for index in range(count):
            path = Path(directory) / f"bare-disk-{os.getpid()}-{index}"
            fds.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | flags, 0o600))
            path.unlink()
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


# --- Writing -------------------------------------------------------------------------------------


def write_and_sync(spec: dict[str, Any]) -> dict[str, Any]:
    """Write `bytes` and fdatasync, one after the other, for `seconds`.

    `piece_bytes`: written in one call, but as pieces of this length, as a group commit is.
    """
    size = int(spec["bytes"])
    piece = min(size, int(spec.get("piece_bytes", PIECE_BYTES)))
    pieces = [os.urandom(piece)] * max(1, -(-size // piece))
    pieces[-1] = pieces[-1][: size - piece * (len(pieces) - 1)]
    with scratch(spec["directory"]) as (fd,):
        position = 0

        def once() -> None:
            nonlocal position
            position = _append(fd, pieces, position)
            os.fdatasync(fd)

        return repeat(once, size, spec["seconds"])


def _append(fd: int, pieces: list[bytes], position: int) -> int:
    if position > FILE_BYTES_MAX:
        os.ftruncate(fd, 0)
        position = 0
    for index in range(0, len(pieces), 1024):
        position += os.pwritev(fd, pieces[index : index + 1024], position)
    return position


def write_only(spec: dict[str, Any]) -> dict[str, Any]:
    """Write `bytes` a call into the page cache for `seconds`, to `files` files in turn (1)."""
    data = os.urandom(spec["bytes"])
    with scratch(spec["directory"], spec.get("files", 1)) as fds:
        positions = [0] * len(fds)
        limit = FILE_BYTES_MAX // len(fds)
        turn = 0

        def once() -> None:
            nonlocal turn
            at = turn % len(fds)
            turn += 1
            if positions[at] > limit:
                os.ftruncate(fds[at], 0)
                positions[at] = 0
            positions[at] += os.pwrite(fds[at], data, positions[at])

        return repeat(once, len(data), spec["seconds"])


def write_direct(spec: dict[str, Any]) -> dict[str, Any]:
    """Write `bytes` a call around the page cache, for `seconds`.

    Raises:
        AnswerError: this file system has no direct input and output.
    """
    size = int(spec["bytes"])
    with mmap.mmap(-1, size) as buffer:  # on a page's boundary, as the device wants it
        buffer[:] = os.urandom(size)
        try:
            with scratch(spec["directory"], flags=os.O_DIRECT) as (fd,):
                position = 0

                def once() -> None:
                    nonlocal position
                    if position > FILE_BYTES_MAX:
                        position = 0
                    position += os.pwritev(fd, [buffer], position)

                return repeat(once, size, spec["seconds"])
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise AnswerError("this file system has no O_DIRECT") from error


def round_robin(spec: dict[str, Any]) -> dict[str, Any]:
    """`threads` threads take the next of `files` files in turn, write `bytes` and sync it."""
    data = os.urandom(spec["bytes"])
    turn = iter(range(10**12))  # next() of it is atomic under the interpreter's lock
    latencies: list[tuple[float, int]] = []
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with scratch(spec["directory"], spec["files"]) as fds:
        positions = [0] * len(fds)
        locks = [threading.Lock() for _ in fds]
        used, begin = time.process_time(), time.perf_counter()

        def work() -> None:
            while (now := time.perf_counter()) < begin + spec["seconds"]:
                index = next(turn) % len(fds)
                with locks[index]:
                    positions[index] += os.pwrite(fds[index], data, positions[index])
                    os.fdatasync(fds[index])
                latencies.append((time.perf_counter() - now, 1))

        threads = [threading.Thread(target=work) for _ in range(spec["threads"])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        elapsed, used = time.perf_counter() - begin, time.process_time() - used
    return answer_of(latencies, elapsed, len(data), used)


# --- The processor, and the cache ----------------------------------------------------------------


def checksum(spec: dict[str, Any]) -> dict[str, Any]:
    """CRC-32C over `bytes` at a time, for `seconds`."""
    from crc32c import crc32c

    data = os.urandom(spec["bytes"])
    return repeat(lambda: crc32c(data), len(data), spec["seconds"])


def prime_page_cache(directory: Path, *, size_bytes: int) -> int:
    """Write a file of `size_bytes`, read it, and remove it; return how many bytes that was.

    A virtual machine gives free memory back to its host: the first touch of a page then costs three
    times the CPU of the write itself, and a measurement would be of that.
    """
    free = os.statvfs(directory).f_bavail * os.statvfs(directory).f_frsize
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    size_bytes = min(size_bytes, free // 4, max(available, PIECE_BYTES))
    piece = os.urandom(PIECE_BYTES)
    with scratch(str(directory)) as (fd,):
        for position in range(0, size_bytes, PIECE_BYTES):
            os.pwrite(fd, piece, position)
        buffer = bytearray(PIECE_BYTES)
        for position in range(0, size_bytes, PIECE_BYTES):
            os.preadv(fd, [buffer], position)
    return size_bytes


# --- What a loop answers -------------------------------------------------------------------------


def repeat(once: Callable[[], object], size: int, seconds: float) -> dict[str, Any]:
    """Do it again and again for `seconds`; return the answer of a job that moves `size` a time."""
    latencies = []
    used = time.process_time()
    begin = now = time.perf_counter()
    while now < begin + seconds:
        once()
        before, now = now, time.perf_counter()
        latencies.append((now - before, 1))
    return answer_of(latencies, now - begin, size, time.process_time() - used)


def answer_of(
    latencies: list[tuple[float, int]], seconds: float, size: int, cpu_s: float | None
) -> dict[str, Any]:
    """Return a job's answer: its requests moved `size` bytes each."""
    return {
        "requests": len(latencies),
        "seconds": seconds,
        "bytes": len(latencies) * size,
        **latency_fields(latencies),
        "client_cpu_s": cpu_s,
        "server_cpu_s": None,
    }
