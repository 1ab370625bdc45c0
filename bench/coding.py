"""Erasure coding from memory and onto disks, and the least that anyone must do for the same result.

* `code` computes parity and the checksums of all blocks of windows in memory, as encoding does.
  Its ceiling, `bare-code`, is ISA-L's call alone on the same buffers.
* `encode` writes a segment's chunks to local nodes. Its ceiling, `bare-encode`, is a plain copy of
  as many bytes: the source is read once, each file has a thread, is written, synced, dropped from
  the cache and read back, and gets its name by a rename that is synced.
"""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import trio

from bench.bare_disk import answer_of, repeat
from bench.processor_time import ProcessorTime
from ec import geometry
from ec.alignment import aligned_buffer
from ec.chunk_dir import ChunkDirectory
from ec.codec import Codec
from ec.encode import encode
from ec.indexes import Indexes
from ec.kernels import isal
from ec.kernels.choose import choose
from ec.kernels.portable import PortableKernel
from ec.matrix import parity_rows
from ec.node_dir import initialise
from ec.node_identity import NodeIdentity
from ec.offload import ThreadOffload
from ec.profile import Profile
from ec.segment import Segment, draft
from ec.segment_coder import SegmentCoder
from ec.store.local import LocalStore
from logd.storage.files import Files

WINDOWS: Final = 16
WINDOW_BYTES: Final = 1024 * 1024
PIECE_BYTES: Final = 1024 * 1024
CLUSTER: Final = "bench"


def code(spec: dict[str, Any]) -> dict[str, Any]:
    """Code windows of `profile` with `kernel` for `seconds`; bytes are those of data.

    `announce` prints a line when the imports are done: who profiles does not mean those.
    """
    profile = Profile.parse(spec["profile"])
    kernel = PortableKernel() if spec["kernel"] == "portable" else choose("auto")[0]
    size = profile.k * WINDOWS * WINDOW_BYTES
    shape = geometry.Geometry(profile, geometry.choose_cuts(size, profile.k, []))
    buffers = SegmentCoder(shape, Codec(profile, kernel), window_bytes=WINDOW_BYTES).make_buffers()
    for buffer in buffers:
        buffer[:] = os.urandom(len(buffer))

    def once() -> None:
        coder = SegmentCoder(shape, Codec(profile, kernel), window_bytes=WINDOW_BYTES)
        for window in range(coder.windows):
            coder.code(window, buffers)

    announce = bool(spec.get("announce"))
    return _repeated(once, size, spec["seconds"], announce=announce)


def bare_code(spec: dict[str, Any]) -> dict[str, Any]:
    """Call ISA-L on the same buffers, with nothing around it, for `seconds`."""
    profile = Profile.parse(spec["profile"])
    kernel = isal.load()
    buffers = [bytearray(os.urandom(WINDOW_BYTES)) for _ in range(profile.chunks)]
    addresses = [ctypes.addressof(ctypes.c_char.from_buffer(buffer)) for buffer in buffers]
    data = (ctypes.c_void_p * profile.k)(*addresses[: profile.k])
    parity = (ctypes.c_void_p * profile.m)(*addresses[profile.k :])
    tables = kernel._make_tables(parity_rows(profile.k, profile.m))
    call = kernel._encode

    def once() -> None:
        for _ in range(WINDOWS):
            call(WINDOW_BYTES, profile.k, profile.m, tables, data, parity)

    return _repeated(once, profile.k * WINDOWS * WINDOW_BYTES, spec["seconds"])


def _repeated(
    once: Callable[[], None], size: int, seconds: float, *, announce: bool = False
) -> dict[str, Any]:
    """Do it for `seconds`; `announce` says on stdout when that begins."""
    once()  # Pages, tables and caches are there.
    if announce:
        sys.stdout.write('{"begun": true}\n')
        sys.stdout.flush()
    return repeat(once, size, seconds)


# --- Onto disks -----------------------------------------------------------------------------------


class _Source:
    """A file, read at any place."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)

    def read_into(self, position: int, buffer: memoryview) -> int:
        return os.preadv(self._file.fileno(), [buffer], position)


def make_source(directory: Path, size: int) -> Path:
    """Return a file of that many bytes, made where there is none."""
    path = directory / "source.log"
    if not path.exists() or path.stat().st_size != size:
        piece = os.urandom(PIECE_BYTES)
        with path.open("wb") as file:
            for at in range(0, size, PIECE_BYTES):
                file.write(piece[: size - at])
            file.flush()
            os.fsync(file.fileno())
    return path


def encode_files(spec: dict[str, Any]) -> dict[str, Any]:
    """Encode a segment of `bytes` to `profile`'s nodes below `directory`, once.

    `keep` leaves the nodes there, for others to read.
    """
    directory = Path(spec["directory"])
    profile = Profile.parse(spec["profile"])
    source = make_source(directory, spec["bytes"])
    files = Files()
    stores = []
    offload = ThreadOffload(profile.chunks + 1)
    for index in range(profile.chunks):
        path = str(directory / f"node-{index}")
        initialise(files, path, NodeIdentity(CLUSTER, f"n{index}", f"{index:032x}"))
        stores.append(LocalStore(ChunkDirectory.open(files, path), offload))
    cuts = geometry.choose_cuts(spec["bytes"], profile.k, list(range(0, spec["bytes"], 2**20)))
    segment = Segment(CLUSTER, "bench", "0" * 32, 0, 0, 1, -1, -1, Indexes(), cuts,
                      (None,) * profile.k)  # fmt: skip
    manifest = draft(segment, profile, generation=1, encoding="1" * 32, writer="bench")

    codec = Codec(profile, choose("auto")[0])

    async def run() -> None:
        await encode(_Source(source), manifest, Indexes(), stores, codec=codec, offload=offload)

    resident = _resident_bytes()
    used, begin = ProcessorTime.now(), time.perf_counter()
    trio.run(run)
    elapsed, spent = time.perf_counter() - begin, used.spent()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - resident
    for index in range(0 if spec.get("keep") else profile.chunks):
        shutil.rmtree(directory / f"node-{index}")
    stored = sum(entry.payload_bytes for entry in manifest.chunks)
    return {
        **answer_of([(elapsed, 1)], elapsed, spec["bytes"], sum(spent.values())),
        **spent,
        "grown_mib": round(grown / 2**20, 1),
        "stored_ratio": round(stored / max(1, spec["bytes"]), 4),
    }


def bare_encode(spec: dict[str, Any]) -> dict[str, Any]:
    """Copy a source of `bytes` into as many files as `profile` has chunks, once."""
    directory = Path(spec["directory"])
    profile = Profile.parse(spec["profile"])
    source = make_source(directory, spec["bytes"])
    length = spec["bytes"] // profile.k
    paths = [directory / f"copy-{index}" for index in range(profile.chunks)]

    def copy(index: int) -> None:
        _copy_part(source, paths[index], index * length if index < profile.k else None, length)

    threads = [threading.Thread(target=copy, args=(at,)) for at in range(profile.chunks)]
    used, begin = ProcessorTime.now(), time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed, spent = time.perf_counter() - begin, used.spent()
    for path in paths:
        path.unlink()
    return {**answer_of([(elapsed, 1)], elapsed, spec["bytes"], sum(spent.values())), **spent}


def _copy_part(source: Path, path: Path, position: int | None, length: int) -> None:
    """Write a part of the source, or as many bytes from memory; sync, drop, read back, name."""
    buffer = aligned_buffer(PIECE_BYTES)  # Where it is not, the kernel copies slower.
    temporary = path.with_suffix(".tmp")
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.posix_fallocate(fd, 0, max(1, length))
        with source.open("rb", buffering=0) as file:
            for at in range(0, length, PIECE_BYTES):
                part = buffer[: min(PIECE_BYTES, length - at)]
                if position is not None:
                    os.preadv(file.fileno(), [part], position + at)
                os.pwrite(fd, part, at)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        for at in range(0, length, PIECE_BYTES):
            os.preadv(fd, [buffer], at)
        temporary.rename(path)
        names = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(names)
        os.close(names)
    finally:
        os.close(fd)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
