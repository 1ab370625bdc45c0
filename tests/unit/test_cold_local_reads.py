"""Reads of nodes that are directories here: a disk that hangs holds up nobody but itself."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from threading import Event

import pytest
import trio

from ec.breaker import Breaker
from ec.chunk_dir import ChunkDirectory
from ec.geometry import BLOCK_BYTES
from ec.node_dir import initialise
from ec.node_identity import NodeIdentity
from ec.store.guarded import GuardedStore
from ec.store.local import LocalStore
from ec.store.protocol import Store
from logd.cold import chunk_access
from logd.cold.chunk_findings import ChunkFindings, ChunkPlace
from logd.cold.gate import Gate, LooseGate
from logd.offload import ThreadOffload
from logd.policy.cold.values import Generation
from logd.storage.file_slice import FileSlice
from logd.storage.files import Files, OpenFile
from tests.cold_rig import FakeTier, Rig, Segment, bytes_of, make_segment

SEGMENT = make_segment([30_000] * 100)


class HangingFiles(Files):
    """Files of which those below one directory do not come, until they are let go."""

    def __init__(self) -> None:
        self.hangs: str | None = None
        self.go_on = Event()

    def read_into(self, file: OpenFile, position: int, buffer: bytearray | memoryview) -> int:
        if self.hangs is not None and self.hangs in file.path:
            self.go_on.wait(30)
        return super().read_into(file, position, buffer)


class ForgetfulCache(Files):
    """A page cache that has lost what is asked for, now and then."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def is_cached(self, file: OpenFile, position: int, size: int) -> bool:
        return self.rng.random() < 0.5


class LocalTier(FakeTier):
    """Nodes that are directories."""

    def __init__(self, path: Path, segment: Segment, files: Files, offload: ThreadOffload) -> None:
        super().__init__([segment])
        self.local: dict[int, GuardedStore] = {}
        for index, (chunk, data) in enumerate(
            zip(segment.encoded.ids, segment.encoded.files, strict=True)
        ):
            place, name = path / f"n{index}", f"n{index}"
            initialise(files, str(place), NodeIdentity("c", name, f"{index:032x}"))
            (place / "chunks" / chunk.name).write_bytes(data)
            offload.add_kind(name, 2)
            store = LocalStore(
                ChunkDirectory.open(files, str(place)),
                Gate(offload, name), asking=LooseGate(offload, name),
            )  # fmt: skip
            self.local[index] = GuardedStore(store, breaker=Breaker(), rng=random.Random(1))

    def stores(self, generation: Generation) -> Mapping[int, Store]:
        assert generation.encoding in self.segments
        return self.local


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No chunk is overtaken, however long a busy machine takes for it: then it would be computed,
    and nobody would see what is wrong with it."""
    for name in ("HEDGE_S_MIN", "HEDGE_S_MAX"):
        monkeypatch.setattr(chunk_access, name, 60.0)


@pytest.mark.usefixtures("patient")
async def test_chunks_that_are_files_here_go_out_as_files(tmp_path: Path) -> None:
    """Verified once, then ranges of the open files: nothing of it stays in memory."""
    offload = ThreadOffload()
    rig = Rig(tier=LocalTier(tmp_path, SEGMENT, Files(), offload))
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.reads.run)
            offset, found = SEGMENT.base_offset, b""
            while offset < SEGMENT.next_offset:
                answer = await rig.read(SEGMENT.at(offset), 400_000)
                assert all(isinstance(part, FileSlice) for part in answer.slices)
                offset, found = answer.next_offset, found + bytes_of(answer)
            assert found == SEGMENT.source
            assert rig.reads.memory_bytes < 100_000
            nursery.cancel_scope.cancel()
    finally:
        offload.close()


@pytest.mark.usefixtures("patient")
async def test_a_flipped_bit_never_leaves_a_file_here(tmp_path: Path) -> None:
    """The bad block is computed from others, the blocks beside it come from the file."""
    offload = ThreadOffload()
    tier = LocalTier(tmp_path, SEGMENT, Files(), offload)
    path = tmp_path / "n1" / "chunks" / SEGMENT.encoded.ids[1].name
    data = bytearray(path.read_bytes())
    data[200_000] ^= 4
    path.write_bytes(data)
    rig = Rig(tier=tier)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.reads.run)
            offset, found = SEGMENT.base_offset, b""
            while offset < SEGMENT.next_offset:
                answer = await rig.read(SEGMENT.at(offset), 400_000)
                offset, found = answer.next_offset, found + bytes_of(answer)
            assert found == SEGMENT.source
            assert rig.damage == [(SEGMENT.generation.encoding, 1, "n1")]
            nursery.cancel_scope.cancel()
    finally:
        offload.close()


async def test_a_byte_that_changes_behind_its_verification_is_found_by_scrub(
    tmp_path: Path,
) -> None:
    """What was verified goes out by sendfile, as it is by then: reads do not notice, verifying the
    chunk does; and from then on no read sends it.
    """
    offload = ThreadOffload()
    tier = LocalTier(tmp_path, SEGMENT, Files(), offload)
    chunk = SEGMENT.encoded.ids[1]
    rig = Rig(tier=tier)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.reads.run)

            async def read_all() -> bytes:
                offset, found = SEGMENT.base_offset, b""
                while offset < SEGMENT.next_offset:
                    answer = await rig.read(SEGMENT.at(offset), 400_000)
                    offset, found = answer.next_offset, found + bytes_of(answer)
                return found

            assert await read_all() == SEGMENT.source
            with (tmp_path / "n1" / "chunks" / chunk.name).open("r+b") as file:
                file.seek(200_000)
                file.write(bytes([SEGMENT.encoded.payloads[1][200_000] ^ 4]))
            assert await read_all() != SEGMENT.source
            assert rig.damage == []
            (found,) = await tier.local[1].verify(chunk)
            assert found.position == 200_000 // BLOCK_BYTES * BLOCK_BYTES
            findings = ChunkFindings()
            findings.on_corrupt = rig.reads.distrust
            findings.note(ChunkPlace(SEGMENT.generation.encoding, 1, "n1"), found)
            assert await read_all() == SEGMENT.source
            assert rig.damage == [(SEGMENT.generation.encoding, 1, "n1")]
            nursery.cancel_scope.cancel()
    finally:
        offload.close()


async def test_a_disk_that_hangs_costs_a_hedge_delay(tmp_path: Path) -> None:
    """Its thread waits for ever; the reader has its bytes from the other disks."""
    offload, files = ThreadOffload(), HangingFiles()
    rig = Rig(tier=LocalTier(tmp_path, SEGMENT, files, offload))
    files.hangs = str(tmp_path / "n0")
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.reads.run)
            with trio.fail_after(60):
                answer = await rig.read(SEGMENT.at(SEGMENT.base_offset), 100_000)
            assert bytes_of(answer) == SEGMENT.expected(SEGMENT.base_offset, 100_000)
            assert rig.count("logd_cold_hedges_total") >= 1  # The others may be slow as well.
            nursery.cancel_scope.cancel()
    finally:
        files.go_on.set()
        offload.close()


@pytest.mark.parametrize("seed", range(3))
async def test_healthy_reads_are_quiet(seed: int, tmp_path: Path) -> None:
    """Any range, at random places; and nothing of it in the log."""
    offload = ThreadOffload()
    rig = Rig(tier=LocalTier(tmp_path, SEGMENT, Files(), offload))
    rng = random.Random(seed)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.reads.run)
            for _ in range(10):
                offset = rng.randrange(SEGMENT.base_offset, SEGMENT.next_offset)
                answer = await rig.read(SEGMENT.at(offset), 200_000)
                assert bytes_of(answer) == SEGMENT.expected(offset, answer.size), seed
            nursery.cancel_scope.cancel()
    finally:
        offload.close()
    assert rig.log.getvalue() == ""


class Uncached(Files):
    """Files of which nothing is in the page cache."""

    def is_cached(self, file: OpenFile, position: int, size: int) -> bool:
        return False


@pytest.mark.parametrize(
    ("before", "wanted"), [((1864, 1776), 1988), ((1394, 1265), 1450)], ids=["end", "middle"]
)
async def test_runs_that_overlap_and_left_the_cache_are_read_again(
    before: tuple[int, int], wanted: int, tmp_path: Path
) -> None:
    """Two runs have an offset, and neither is in the cache: what is read anew begins there, and
    not where the other run ends; nothing is skipped, and nothing fails."""
    offload = ThreadOffload()
    rig = Rig(tier=LocalTier(tmp_path, SEGMENT, Files(), offload))
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.reads.run)
            for offset in before:
                await rig.read(SEGMENT.at(offset), 200_000)
            rig.reads._files = Uncached()
            answer = await rig.read(SEGMENT.at(wanted), 200_000)
            assert answer.size > 0
            assert bytes_of(answer) == SEGMENT.expected(wanted, 200_000)[: answer.size]
            nursery.cancel_scope.cancel()
    finally:
        offload.close()
    assert rig.log.getvalue() == ""
    assert rig.count("logd_cold_reads_total", result="failed") == 0


@pytest.mark.parametrize("seed", range(8))
async def test_pages_that_left_the_cache_are_read_again_and_nothing_is_skipped(
    seed: int, tmp_path: Path
) -> None:
    """Readers at many places, so that runs overlap: each gets the batches at its own offset."""
    offload = ThreadOffload()
    rng = random.Random(seed)
    tier = LocalTier(tmp_path, SEGMENT, Files(), offload)
    rig = Rig(tier=tier, files=ForgetfulCache(random.Random(seed)))
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.reads.run)
            for _ in range(12):
                offset = rng.randrange(SEGMENT.base_offset, SEGMENT.next_offset)
                while offset < SEGMENT.next_offset and rng.random() < 0.9:
                    answer = await rig.read(SEGMENT.at(offset), 400_000)
                    assert answer.size, seed
                    assert bytes_of(answer) == SEGMENT.expected(offset, answer.size), seed
                    offset = answer.next_offset
            nursery.cancel_scope.cancel()
    finally:
        offload.close()
    assert rig.log.getvalue() == ""
