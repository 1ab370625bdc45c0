"""cold.compression=zstd through the life of a segment: coded, released, thawed, given up."""

from __future__ import annotations

import os
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from logd.clock import Clock
from logd.cold.recompressing import Recompression
from logd.errors import CorruptFileError, DiskFullError
from logd.offload import ThreadOffload
from logd.policy.cold.values import Generation
from logd.record.batch import read_header
from logd.record.compression import ZSTD
from logd.record.records import iterate
from tests.unit.life_rig import START_MS, ColdRig
from tests.unit.log_builder import append, batch_of

TEXT = b"the same words again and again, "


async def made(directory: str, *, segments: int = 2, **changes: Any) -> ColdRig:
    """A rig with segments that shrink, and a topic that wants it."""
    rig = ColdRig(directory)
    await rig.start(segments=0, cold_compression="zstd", **changes)
    number = 0
    while len(rig.log.segment_list.items) <= segments:
        values = [TEXT * 20 + b"%d" % n for n in range(4)]
        append(rig.log, batch_of(values, timestamp_ms=START_MS + number))
        number += 1
    for segment in rig.log.segment_list.items[:-1]:
        rig.originals[segment.base_offset] = rig.hot_bytes(segment.base_offset)
    return rig


def records(data: bytes) -> list[object]:
    """Return the records of the batches in some bytes."""
    found: list[object] = []
    while data:
        size = read_header(data).size
        found += iterate(data[:size])
        data = data[size:]
    return found


def staging(rig: ColdRig) -> list[str]:
    """Names of staging files."""
    return [name for name in os.listdir(f"{rig.directory}/t-0") if name.endswith(".tmp")]


async def coded(rig: ColdRig, base: int) -> Generation:
    """Code a segment."""
    generation = await rig.life.encoder.encode(rig.partition, base)
    assert staging(rig) == []
    return generation


async def test_what_is_coded_is_smaller_and_the_same_records(
    directory: str, autojump_clock: MockClock
) -> None:
    """The chunks hold zstd batches; offsets, times and every record are the segment's."""
    rig = await made(directory)
    base = rig.bases[1]
    generation = await coded(rig, base)
    assert generation.source_bytes < len(rig.originals[base]) // 2
    cold = await rig.cold_bytes(generation)
    assert read_header(cold).codec == ZSTD
    assert records(cold) == records(rig.originals[base])
    assert rig.hot_bytes(base) == rig.originals[base]


async def test_released_and_thawed_it_is_the_recompressed_form(
    directory: str, autojump_clock: MockClock
) -> None:
    """After release the local indexes speak of the new positions; thaw writes the new form."""
    rig = await made(directory)
    base = rig.bases[0]
    generation = await coded(rig, base)
    await rig.life.releaser.release(rig.partition, generation)
    assert rig.hot() == [rig.bases[1]]
    manifest = await rig.tier.manifest(generation.encoding)
    assert (
        rig.files.stat_size(f"{directory}/t-0/{base:020d}.index")
        == manifest.chunks[-1].offset_index_bytes
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.life.jobs.run)
        await trio.testing.wait_all_tasks_blocked()
        job = rig.life.jobs.begin_thaw("t", rig.partitions())
        while job.seconds is None:  # noqa: ASYNC110  # A job has no event to wait for.
            await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    assert job.failed == 0
    assert rig.hot_bytes(base) == await rig.cold_bytes(generation)
    assert records(rig.hot_bytes(base)) == records(rig.originals[base])


async def test_a_topic_that_does_not_ask_is_coded_as_it_is(
    directory: str, autojump_clock: MockClock
) -> None:
    """And so is a segment of which nothing shrinks."""
    rig = await made(directory)
    rig.partition.settings = rig.settings(cold_compression="none")
    generation = await coded(rig, rig.bases[0])
    assert await rig.cold_bytes(generation) == rig.originals[rig.bases[0]]
    rig.partition.settings = rig.settings(cold_compression="zstd")
    rig.fill(2)  # Of noise: records of four values that no codec shortens.
    base = rig.bases[-1]
    assert await rig.cold_bytes(await coded(rig, base)) == rig.originals[base]


async def test_without_space_it_is_refused_and_nothing_is_planned(
    directory: str, autojump_clock: MockClock
) -> None:
    """The segment stays hot; no record, no chunk, no staging file."""
    rig = await made(directory)
    vars(rig.life.encoder)["_recompression"] = Recompression(
        rig.offload, reserve_bytes=2**60, clock=Clock()
    )
    with pytest.raises(DiskFullError):
        await rig.life.encoder.encode(rig.partition, rig.bases[0])
    assert (rig.states(), rig.chunk_names(), staging(rig)) == ([], [], [])
    assert not len(rig.tier.leases)


async def test_what_rots_between_check_and_compression_is_not_coded(
    directory: str, autojump_clock: MockClock
) -> None:
    """Every batch is checked once more while it is compressed."""
    rig = await made(directory)
    base = rig.bases[0]
    source = rig.log.segment_source(base)
    file = rig.files.open_write(f"{directory}/t-0/{base:020d}.log")
    rig.files.write_at(file, 200, [b"rotten"])
    recompression = Recompression(rig.offload, reserve_bytes=0, clock=Clock())
    with pytest.raises(CorruptFileError):
        await recompression.apply(rig.log, source, rig.partition.settings)


async def test_who_is_cancelled_does_not_wait_for_the_segment(directory: str) -> None:
    """The thread ends at the next batch, and the file is gone with it."""
    rig = await made(directory)
    source = rig.log.segment_source(rig.bases[0])
    offload = ThreadOffload()
    began = trio.Event()
    token = trio.lowlevel.current_trio_token()

    class Slow(Clock):
        """A clock whose first pause tells the test."""

        def sleep(self, _s: float) -> None:  # type: ignore[override]  # As in the class above.
            token.run_sync_soon(began.set)
            super().sleep(0.02)

        def monotonic(self) -> float:  # type: ignore[override]  # As in the class above.
            return 1000.0 * super().monotonic()

    recompression = Recompression(offload, reserve_bytes=0, clock=Slow())
    done = []
    async with trio.open_nursery() as nursery:

        async def apply() -> None:
            await recompression.apply(rig.log, source, rig.partition.settings)
            done.append(True)

        nursery.start_soon(apply)
        await began.wait()
        nursery.cancel_scope.cancel()
    offload.close()
    assert done == []
    assert staging(rig) == []
