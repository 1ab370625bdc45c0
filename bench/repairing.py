"""Making lost chunks again on local nodes, and the least that anyone must do for the same result.

The nodes are those that `bench.coding.encode_files` left: one chunk of one segment each. Lost are
the first ones; each is made in a directory of its own, which is removed again. All pages of the
chunks are dropped from the cache before: a chunk that is repaired was not read yesterday.

* `rebuild-chunks` is `ec.repair.Rebuild`: verified blocks in, a synced and checked chunk out.
* `bare-rebuild` reads as many bytes of k chunks, a thread each, decodes window by window, writes to
  space that was reserved, syncs, drops, reads back, and gives a name that is synced. It verifies
  nothing and knows no manifest.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import trio
import xxhash

from bench.bare_disk import PIECE_BYTES, answer_of
from bench.bare_reads import drop
from bench.coding import CLUSTER
from bench.processor_time import ProcessorTime
from ec.alignment import aligned_buffer
from ec.chunk_dir import ChunkDirectory
from ec.chunk_id import ChunkId
from ec.codec import Codec
from ec.geometry import BLOCK_BYTES
from ec.kernels.choose import choose
from ec.node_dir import CHUNKS, initialise
from ec.node_identity import NodeIdentity
from ec.offload import ThreadOffload
from ec.profile import Profile
from ec.repair import Rebuild
from ec.store.local import LocalStore
from logd.storage.files import Files

ENCODING: Final = "1" * 32
TOPIC: Final = "0" * 32


def chunk_of(index: int) -> ChunkId:
    """Return the chunk of that index of the one segment there is."""
    return ChunkId(TOPIC, 0, 0, 1, ENCODING, index)


def chunk_path(directory: Path, index: int) -> Path:
    """Return where it lies."""
    return directory / f"node-{index}" / CHUNKS / chunk_of(index).name


def _dropped(paths: Sequence[Path]) -> list[int]:
    """Open files and drop their pages; return their descriptors."""
    found = []
    for path in paths:
        found.append(os.open(path, os.O_RDWR))
        drop(found[-1])
    return found


def rebuild_chunks(spec: dict[str, Any]) -> dict[str, Any]:
    """Make the first `lost` chunks again, once."""
    directory, profile = Path(spec["directory"]), Profile.parse(spec["profile"])
    lost: int = spec["lost"]
    for fd in _dropped([chunk_path(directory, at) for at in range(lost, profile.chunks)]):
        os.close(fd)
    files, offload = Files(), ThreadOffload(profile.chunks + 1)
    fresh = [directory / f"fresh-{index}" for index in range(lost)]
    for index, path in enumerate(fresh):
        initialise(files, str(path), NodeIdentity(CLUSTER, f"f{index}", f"{index + 99:032x}"))
    targets = {at: _store(files, path, offload) for at, path in enumerate(fresh)}
    survivors = {
        at: _store(files, directory / f"node-{at}", offload) for at in range(lost, profile.chunks)
    }

    codec = Codec(profile, choose("auto")[0])

    async def run() -> tuple[float, int]:
        head = await survivors[lost].head(chunk_of(lost))
        rebuild = Rebuild(
            head.manifest, survivors, targets, codec=codec, offload=offload, on_trouble=_fail
        )
        begin = time.perf_counter()
        await rebuild.run()
        return time.perf_counter() - begin, rebuild.read_bytes

    used = ProcessorTime.now()
    elapsed, read = trio.run(run)
    spent = used.spent()
    made = sum(chunk_path(directory, at).stat().st_size for at in range(lost))
    for path in fresh:
        shutil.rmtree(path)
    return {
        **answer_of([(elapsed, 1)], elapsed, made, None), **spent,
        "server_cpu_s": sum(spent.values()), "read_per_byte": round(read / made, 2),
    }  # fmt: skip


def _store(files: Files, path: Path, offload: ThreadOffload) -> LocalStore:
    return LocalStore(ChunkDirectory.open(files, str(path)), offload, past_cache=True)


def _fail(_: int, error: Exception) -> None:
    raise error


def scrub_chunks(spec: dict[str, Any]) -> dict[str, Any]:
    """Verify every chunk once, as a node does when it is scrubbed; `cold`: from the device."""
    directory, profile = Path(spec["directory"]), Profile.parse(spec["profile"])
    nodes = [
        ChunkDirectory.open(Files(), str(directory / f"node-{at}")) for at in range(profile.chunks)
    ]

    def verify(index: int) -> int:
        chunk = chunk_of(index)
        found = (
            nodes[index].verify(chunk) if spec["cold"] else nodes[index].reader(chunk).findings()
        )
        assert not found
        return chunk_path(directory, index).stat().st_size

    return _each_once(verify, profile, directory, cold=spec["cold"])


def bare_scrub(spec: dict[str, Any]) -> dict[str, Any]:
    """Read every chunk file once and hash its blocks, and no more."""
    directory, profile = Path(spec["directory"]), Profile.parse(spec["profile"])
    buffer = aligned_buffer(PIECE_BYTES)
    blocks = [buffer[at : at + BLOCK_BYTES] for at in range(0, PIECE_BYTES, BLOCK_BYTES)]

    def read(index: int) -> int:
        fd = os.open(chunk_path(directory, index), os.O_RDONLY)
        size = os.fstat(fd).st_size
        for at in range(0, size, PIECE_BYTES):
            os.preadv(fd, [buffer], at)
            for block in blocks:
                xxhash.xxh3_64_digest(block)
        os.close(fd)
        return size

    return _each_once(read, profile, directory, cold=spec["cold"])


def _each_once(
    work: Callable[[int], int], profile: Profile, directory: Path, *, cold: bool
) -> dict[str, Any]:
    for index in range(profile.chunks):
        if cold:
            for fd in _dropped([chunk_path(directory, index)]):
                os.close(fd)
        else:
            work(index)
    used, begin = ProcessorTime.now(), time.perf_counter()
    size = sum(work(index) for index in range(profile.chunks))
    elapsed, spent = time.perf_counter() - begin, used.spent()
    return {**answer_of([(elapsed, 1)], elapsed, size, None), **spent}


def bare_rebuild(spec: dict[str, Any]) -> dict[str, Any]:
    """Compute as many bytes from as many, once."""
    directory, profile = Path(spec["directory"]), Profile.parse(spec["profile"])
    lost: int = spec["lost"]
    have = range(lost, lost + profile.k)
    sources = _dropped([chunk_path(directory, at) for at in have])
    size = os.fstat(sources[0]).st_size
    paths = [directory / f"bare-{index}.tmp" for index in range(lost)]
    targets = [os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600) for path in paths]
    codec = Codec(profile, choose("auto")[0])
    windows = {at: aligned_buffer(PIECE_BYTES) for at in have}
    made = {at: aligned_buffer(PIECE_BYTES) for at in range(lost)}
    used, begin = ProcessorTime.now(), time.perf_counter()
    with ThreadPoolExecutor(profile.k) as threads:
        for fd in targets:
            os.posix_fallocate(fd, 0, size)
        for at in range(0, size - PIECE_BYTES + 1, PIECE_BYTES):
            reads = zip(sources, windows.values(), strict=True)
            list(threads.map(lambda read, at=at: os.preadv(read[0], [read[1]], at), reads))
            codec.rebuild(windows, made)
            for fd, window in zip(targets, made.values(), strict=True):
                os.pwrite(fd, window, at)
        list(threads.map(_sync_and_read_back, targets))
        list(threads.map(_name, paths))
    elapsed, spent = time.perf_counter() - begin, used.spent()
    for fd in (*sources, *targets):
        os.close(fd)
    for path in paths:
        path.with_suffix("").unlink()
    return {
        **answer_of([(elapsed, 1)], elapsed, lost * size, sum(spent.values())), **spent,
    }  # fmt: skip


def _sync_and_read_back(fd: int) -> None:
    os.fsync(fd)
    drop(fd)
    buffer = aligned_buffer(PIECE_BYTES)
    for at in range(0, os.fstat(fd).st_size, PIECE_BYTES):
        os.preadv(fd, [buffer], at)


def _name(path: Path) -> None:
    """Give a file its name, durably; the chunks that are made lie in a directory each."""
    path.rename(path.with_suffix(""))
    names = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(names)
    os.close(names)
