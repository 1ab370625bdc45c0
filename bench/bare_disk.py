"""The bare disk loops: what the device gives to anyone who writes and syncs, without a server.

Every loop appends to a growing file, as a log does: an fdatasync then also writes the new length.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from crc32c import crc32c

from bench.measurement import percentile

FILE_BYTES_MAX: Final = 1024 * 1024 * 1024
PIECE_BYTES: Final = 1024 * 1024


@contextmanager
def scratch(directory: str, count: int = 1) -> Iterator[list[int]]:
    """Hold `count` new files open, which have no name any more."""
    fds = []
    try:
        for index in range(count):
            path = Path(directory) / f"bare-disk-{os.getpid()}-{index}"
            fds.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            path.unlink()
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


def write_and_sync(spec: dict[str, Any]) -> dict[str, Any]:
    """Write `bytes` and fdatasync, one after the other, for `seconds`."""
    size = int(spec["bytes"])
    pieces = [os.urandom(min(size, PIECE_BYTES))] * max(1, -(-size // PIECE_BYTES))
    pieces[-1] = pieces[-1][: size - PIECE_BYTES * (len(pieces) - 1)]
    latencies = []
    with scratch(spec["directory"]) as (fd,):
        position = 0
        begin = now = time.perf_counter()
        while now < begin + spec["seconds"]:
            position = _append(fd, pieces, position)
            os.fdatasync(fd)
            before, now = now, time.perf_counter()
            latencies.append((now - before, 1))
    return _result(latencies, now - begin, size)


def _append(fd: int, pieces: list[bytes], position: int) -> int:
    if position > FILE_BYTES_MAX:
        os.ftruncate(fd, 0)
        position = 0
    for index in range(0, len(pieces), 1024):
        position += os.pwritev(fd, pieces[index : index + 1024], position)
    return position


def write_only(spec: dict[str, Any]) -> dict[str, Any]:
    """Write `bytes` a call into the page cache, over the same range, for `seconds`."""
    data = os.urandom(spec["bytes"])
    latencies = []
    with scratch(spec["directory"]) as (fd,):
        position = 0
        begin = now = time.perf_counter()
        while now < begin + spec["seconds"]:
            position = _append(fd, [data], position)
            before, now = now, time.perf_counter()
            latencies.append((now - before, 1))
    return _result(latencies, now - begin, len(data))


def round_robin(spec: dict[str, Any]) -> dict[str, Any]:
    """`threads` threads take the next of `files` files in turn, write `bytes` and sync it."""
    data = os.urandom(spec["bytes"])
    turn = iter(range(10**12))  # next() of it is atomic under the interpreter's lock
    latencies: list[tuple[float, int]] = []
    with scratch(spec["directory"], spec["files"]) as fds:
        positions = [0] * len(fds)
        locks = [threading.Lock() for _ in fds]
        begin = time.perf_counter()

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
        elapsed = time.perf_counter() - begin
    return _result(latencies, elapsed, len(data))


def checksum(spec: dict[str, Any]) -> dict[str, Any]:
    """CRC-32C over `bytes` at a time, for `seconds`."""
    data = os.urandom(spec["bytes"])
    latencies = []
    begin = now = time.perf_counter()
    while now < begin + spec["seconds"]:
        crc32c(data)
        before, now = now, time.perf_counter()
        latencies.append((now - before, 1))
    return _result(latencies, now - begin, len(data))


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


def _result(latencies: list[tuple[float, int]], seconds: float, size: int) -> dict[str, Any]:
    p50 = percentile(latencies, 0.50)
    p99 = percentile(latencies, 0.99)
    return {
        "requests": len(latencies),
        "seconds": seconds,
        "bytes": len(latencies) * size,
        "p50_us": None if p50 is None else p50 * 1e6,
        "p99_us": None if p99 is None else p99 * 1e6,
        "client_cpu_s": None,
        "server_cpu_s": None,
    }
