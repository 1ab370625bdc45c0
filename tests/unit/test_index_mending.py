"""Indexes of released segments, put back from chunks: what goes wrong with one ends nothing."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import trio
from msgspec import structs
from trio.testing import MockClock

from ec.chunk_file import ChunkHead
from ec.chunk_id import ChunkId
from logd.cold.index_mending import IndexMending
from tests.unit.life_rig import ColdRig
from tests.unit.log_builder import TOPIC_ID
from tests.unit.test_cold_life import made, running, until


def mending_of(rig: ColdRig, *more: object) -> IndexMending:
    """What mends the rig's partition, behind others."""
    partitions: list[Any] = [*more, rig.partition]
    return IndexMending(rig.tier, lambda: partitions, rig.offload, rig.events)


class ClosedLog:
    """Not there any more."""

    def released_without_indexes(self) -> tuple[int, ...]:
        raise AssertionError("the log is closed")


class Broken:
    """A partition whose log was closed in the middle, as that of a topic that is deleted."""

    topic_id, index, topic_name, log = TOPIC_ID, 0, "gone", ClosedLog()


async def test_one_partition_that_fails_keeps_no_other_from_its_indexes(
    directory: str, autojump_clock: MockClock
) -> None:
    """Nor the server from running: an index that leads nowhere is put back all the same."""
    rig = await made(directory, segments=1)
    async with running(rig):
        await until(lambda: rig.hot() == [])
    mending = mending_of(rig, Broken())
    path = rig.log.segment_list.items[0].paths.index
    before = os.stat(path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mending.run)
        await trio.sleep(1)
        mending.distrust(TOPIC_ID, 0, 0)
        await until(lambda: os.path.exists(path) and os.stat(path).st_ino != before.st_ino)
        await trio.sleep(200)
        nursery.cancel_scope.cancel()
    after = os.stat(path)
    assert after.st_size == before.st_size
    assert rig.log.released_without_indexes() == ()


async def test_a_chunk_of_another_encoding_gives_no_index(
    directory: str, autojump_clock: MockClock
) -> None:
    """Its name is right and its manifest is not: others are asked."""
    rig = await made(directory, segments=2)
    async with running(rig):
        await until(lambda: rig.hot() == [])
    generation = rig.live(0)
    assert generation is not None
    manifest = await rig.tier.manifest(generation.encoding)
    node = rig.nodes[generation.held[generation.profile.k]]
    head = node.head
    asked: list[str] = []

    async def other(chunk: ChunkId) -> ChunkHead:
        asked.append(chunk.name)
        found = await head(chunk)
        return replace(found, manifest=structs.replace(found.manifest, writer="somebody else"))

    vars(node)["head"] = other
    mending = mending_of(rig)
    mending.distrust(TOPIC_ID, 0, 0)
    await mending.look()
    assert asked == [manifest.chunk_id(generation.profile.k).name]
    assert rig.log.released_without_indexes() == ()
