"""What happens to segments and their chunks between two steps of somebody else."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from ec.chunk_id import ChunkId
from logd.errors import ColdStateError
from logd.policy.cold.values import Profile, SegmentKey, StorageNode
from logd.storage.cold_catalog import EncodePlan
from tests.unit.log_builder import TOPIC_ID
from tests.unit.test_cold_life import made, running, until


async def test_what_a_node_is_still_writing_is_removed_behind_that(
    directory: str, autojump_clock: MockClock
) -> None:
    """An upload was given up, and its node ends it after the removal was asked for: it goes too,
    and is nobody's at no moment; what else the node has to remove does not wait for it.
    """
    rig = await made(directory, segments=2)
    node = rig.nodes["b"]
    async with running(rig):
        await until(lambda: rig.hot() == [])
        late, other = map(ChunkId.parse, sorted(node.files))
        data = node.files.pop(late.name)
        node.writing.add(late)
        rig.log.delete_before(rig.log.active_base)
        await until(lambda: rig.chunk_names() == [])
        assert other.name not in node.files
        assert len(rig.life.removal.failures) == 0
        node.writing.discard(late)
        node.files[late.name] = data
        await until(lambda: rig.chunk_names() == [], limit_s=10)
        await until(lambda: rig.states() == [], limit_s=10)
        await trio.sleep(4000)  # All nodes are looked through again.
    assert rig.life.inventory.quarantined_count == 0


async def test_a_topic_is_forgotten_whoever_removes_its_last_chunk(
    directory: str, autojump_clock: MockClock
) -> None:
    """Also where that was the inventory of a node, or an empty disk in a node's place."""
    rig = await made(directory, segments=1)
    async with running(rig):
        await until(lambda: rig.hot() == [])
        rig.nodes["b"].mode = "dead"
        rig.catalog.mark_deleting(TOPIC_ID)
        await rig.tier.topic_deleted(TOPIC_ID)
        await until(lambda: len(rig.chunk_names()) == 1)
        assert rig.forgotten == []
        await rig.tier.replace_node(StorageNode(name="b", place="/another", identity="f" * 32))
        await until(lambda: rig.forgotten == [TOPIC_ID])
    assert rig.states() == []


async def test_a_topic_is_forgotten_that_came_and_went_while_a_node_took_its_time(
    directory: str, autojump_clock: MockClock
) -> None:
    """Planned, deleted and removed within one round of removals: nobody saw a generation of it."""
    rig = await made(directory, segments=1)
    other = b"o" * 16
    rig.catalog.create_topic("other", other, 1, {})
    async with running(rig):
        await until(lambda: rig.hot() == [])
        rig.nodes["b"].mode, rig.nodes["b"].delay_s = "slow", 100.0
        rig.log.delete_before(rig.log.active_base)
        await until(lambda: len(rig.chunk_names()) == 1)
        made_of_other = await rig.tier.plan(
            EncodePlan(
                key=SegmentKey(other, 0, 0), encoding="e" * 32, profile=Profile(2, 1),
                next_offset=1, source_bytes=1, min_timestamp_ms=0, max_timestamp_ms=0,
                nodes=("a", "c", "d"),
            )
        )  # fmt: skip
        rig.catalog.mark_deleting(other)
        await rig.tier.topic_deleted(other)
        for index, node in made_of_other.held.items():
            await rig.tier.chunk_removed(made_of_other.encoding, index=index, node=node)
        assert rig.tier.generations(other) == ()
        await until(lambda: other in rig.forgotten, limit_s=200)


async def test_what_was_thawed_since_it_was_looked_at_is_not_left_over(
    directory: str, autojump_clock: MockClock
) -> None:
    """A look at many segments takes a while: what a thaw, or a round of compaction, put there since
    is no hot file that a crash left behind.
    """
    rig = await made(directory, segments=1)
    async with running(rig):
        await until(lambda: rig.hot() == [])
        seen = rig.live(0)
        assert seen is not None
        await rig.life.thawer.thaw(rig.partition, seen, lambda _: None)
        with pytest.raises(ColdStateError, match="not released any more"):
            await rig.life.releaser.remove_left_over(rig.partition, seen)
        assert rig.hot() == [0]
        thawed = rig.live(0)
        assert thawed is not None
        await rig.life.encoder.encode(rig.partition, 0, replaces=thawed)
        with pytest.raises(ColdStateError, match="not committed any more"):
            await rig.life.releaser.give_up_hot(rig.partition, thawed)
        assert rig.hot() == [0]
    await rig.check_readable()
