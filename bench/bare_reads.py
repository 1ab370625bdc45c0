"""Reading a file, cold and warm, in order and at random: what the device and the cache give.

*Cold* means that this file's pages were dropped from the kernel's cache (POSIX_FADV_DONTNEED, which
concerns this file alone and needs no rights). Whether that worked is looked at: RWF_NOWAIT reads
only what is in memory. What a host below a virtual machine, or the disk itself, keeps in memory of
its own cannot be dropped from here: a cold read may still be somebody's cache.

A cold window ends when every block was read once; it is dropped again only outside the clock.
"""

from __future__ import annotations

import errno
import mmap
import os
import random
import time
from pathlib import Path
from typing import Any, Final

from bench.bare_disk import PIECE_BYTES, answer_of
from bench.protocol import AnswerError

SAMPLES: Final = 64
SEED: Final = 8


def make_file(spec: dict[str, Any]) -> dict[str, Any]:
    """Make a file of `bytes` random bytes at `path`, synced; it is the caller's to remove."""
    piece = os.urandom(PIECE_BYTES)
    with Path(spec["path"]).open("wb", buffering=0) as file:
        # No two pieces alike: some devices store equal blocks once.
        file.writelines(
            at.to_bytes(8, "big") + piece[8 : spec["bytes"] - at]
            for at in range(0, spec["bytes"], PIECE_BYTES)
        )
        os.fdatasync(file.fileno())
    return {"bytes": spec["bytes"]}


def drop(fd: int) -> None:
    """Drop a file's pages from the cache; dirty ones are written first."""
    os.fdatasync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def cached_share(fd: int, size: int) -> float:
    """Return which part of some places of the file is in memory; 1 where it cannot be told."""
    found = 0
    buffer = bytearray(1)
    for index in range(SAMPLES):
        try:
            found += os.preadv(fd, [buffer], index * size // SAMPLES, os.RWF_NOWAIT)
        except BlockingIOError:
            continue  # not in memory: it would have to wait for the device
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            return 1.0
    return found / SAMPLES


def read(spec: dict[str, Any]) -> dict[str, Any]:
    """Read `bytes` a call from `path` for `seconds`, in order or at `random`, `cold` or warm."""
    size: int = spec["bytes"]
    fd = os.open(spec["path"], os.O_RDONLY)
    try:
        total = os.fstat(fd).st_size
        buffer = bytearray(size)
        share = 0.0
        if spec["random"]:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        if spec["cold"]:
            drop(fd)
            share = cached_share(fd, total)
        else:
            for at in range(0, total, PIECE_BYTES):
                os.pread(fd, PIECE_BYTES, at)
        return {**_read(fd, buffer, total, spec), "cached_share": share}
    finally:
        os.close(fd)


def read_direct(spec: dict[str, Any]) -> dict[str, Any]:
    """Read as `read` does, but around the page cache (O_DIRECT).

    Raises:
        AnswerError: this file system has no direct input and output.
    """
    try:
        fd = os.open(spec["path"], os.O_RDONLY | os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise AnswerError("this file system has no O_DIRECT") from error
    try:
        with mmap.mmap(-1, spec["bytes"]) as buffer:
            return _read(fd, buffer, os.fstat(fd).st_size, spec)
    finally:
        os.close(fd)


def _read(
    fd: int, buffer: bytearray | mmap.mmap, total: int, spec: dict[str, Any]
) -> dict[str, Any]:
    """One pass over the blocks, or several where they are warm, for at most `seconds`."""
    places = [at * len(buffer) for at in range(total // len(buffer))]
    assert places
    if spec["random"]:
        random.Random(SEED).shuffle(places)
    latencies = []
    used = time.process_time()
    begin = now = time.perf_counter()
    while True:
        for place in places:
            os.preadv(fd, [buffer], place)
            before, now = now, time.perf_counter()
            latencies.append((now - before, 1))
            if now > begin + spec["seconds"]:
                break
        if spec["cold"] or now > begin + spec["seconds"]:
            break
    return answer_of(latencies, now - begin, len(buffer), time.process_time() - used)
