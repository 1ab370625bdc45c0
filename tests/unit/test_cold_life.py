"""From sealed to coded, released, thawed, deleted: the loops at work on a clock that jumps."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from ec.chunk_id import ChunkId
from logd.cold.jobs import Job
from logd.cold.segment_errors import ColdFailedError, ColdRefusedError
from logd.policy.cold.condition import ChunkState
from logd.policy.cold.leases import Work
from logd.policy.cold.values import ColdState, SegmentKey
from logd.storage.cold_catalog import EncodePlan
from tests.unit.life_rig import ColdRig
from tests.unit.log_builder import TOPIC_ID


async def made(
    directory: str, *, names: str = "abcdef", segments: int = 3, **changes: Any
) -> ColdRig:
    rig = ColdRig(directory, names=names)
    await rig.start(segments=segments, **changes)
    return rig


@asynccontextmanager
async def running(rig: ColdRig) -> AsyncIterator[None]:
    """Let the life of segments run."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.life.run)
        yield
        await rig.life.stop()


async def until(condition: Callable[[], bool], limit_s: float = 600) -> None:
    """Wait, in steps of the mock clock, until something is so."""
    with trio.fail_after(limit_s):
        while not condition():  # noqa: ASYNC110  what is looked at tells nobody of its changes
            await trio.sleep(0.1)


async def test_sealed_segments_become_released(directory: str, autojump_clock: MockClock) -> None:
    """With no grace each .log goes once its segment is coded and checked; the indexes stay."""
    rig = await made(directory)
    async with running(rig):
        await until(lambda: rig.hot() == [])
    assert rig.states() == ["released"] * 3
    await rig.check_readable()
    names = os.listdir(f"{directory}/t-0")
    assert [name for name in names if ".log" in name] == [f"{rig.log.active_base:020d}.log"]
    assert len([name for name in names if name.endswith(".index")]) == 4
    assert len(rig.unlinked) == 3


async def test_what_is_rolled_later_is_coded_too(directory: str, autojump_clock: MockClock) -> None:
    """The loop notices a roll by itself."""
    rig = await made(directory)
    async with running(rig):
        await until(lambda: rig.hot() == [])
        rig.fill(2)
        await until(lambda: len(rig.states()) == 5 and rig.hot() == [])


async def test_cold_enable_decides(directory: str, autojump_clock: MockClock) -> None:
    """Off: nothing is coded, whatever the nodes can take."""
    rig = await made(directory, cold_enable=False)
    async with running(rig):
        await trio.sleep(60)
    assert rig.states() == []


async def test_the_grace_time_is_kept(directory: str, autojump_clock: MockClock) -> None:
    """Hot for ten minutes after the commit; released within five seconds of their end."""
    rig = await made(directory, segments=1, cold_grace_ms=600_000)
    async with running(rig):
        await until(lambda: rig.states() == ["committed"])
        began_s = trio.current_time()
        await until(lambda: rig.hot() == [], limit_s=1000)
        assert 595 <= trio.current_time() - began_s <= 606


async def test_hot_retention_adds_to_it(directory: str, autojump_clock: MockClock) -> None:
    """cold.hot.retention.ms keeps the hot copy longer."""
    rig = await made(directory, segments=1, cold_hot_retention_ms=3_600_000)
    async with running(rig):
        await until(lambda: rig.states() == ["committed"])
        await trio.sleep(3500)
        assert rig.hot() == rig.bases
        await until(lambda: rig.hot() == [], limit_s=200)


async def test_a_degraded_set_never_releases(directory: str, autojump_clock: MockClock) -> None:
    """A chunk that went bad, or a node that is away, keeps the hot copy, and it is said."""
    rig = await made(directory, segments=2, cold_grace_ms=60_000)
    async with running(rig):
        await until(lambda: rig.states() == ["committed"] * 2)
        bad = rig.live(rig.bases[0])
        assert bad is not None
        node = rig.nodes[bad.held[2]]
        name = next(name for name in node.files if ChunkId.parse(name).encoding == bad.encoding)
        whole = node.files[name]
        node.files[name] = b"\1" + whole[1:]
        await until(lambda: rig.hot() == [rig.bases[0]])
        await trio.sleep(120)
        assert rig.hot() == [rig.bases[0]]
        assert rig.life.view.chunk_states(bad)[2] is ChunkState.CORRUPT
        assert bad.encoding in rig.life.tiering.releases
        node.files[name] = whole
        rig.nodes.set_live(node.node, is_live=False)
        await trio.sleep(1200)
        assert rig.hot() == [rig.bases[0]]
        assert rig.life.tiering.degraded == (bad.encoding,)
        rig.nodes.set_live(node.node, is_live=True)
        await until(lambda: rig.hot() == [])
    assert rig.life.view.chunk_states(bad)[2] is ChunkState.LIVE
    await rig.check_readable()


async def test_deletion_reaches_the_chunks(directory: str, autojump_clock: MockClock) -> None:
    """What lies below the log start is gone from the nodes and from the catalog; more is not."""
    rig = await made(directory)
    async with running(rig):
        await until(lambda: rig.hot() == [])
        stay = rig.live(rig.bases[2])
        assert stay is not None
        rig.log.delete_before(rig.bases[2])
        await until(lambda: len(rig.states()) == 1)
        assert {ChunkId.parse(name).encoding for name in rig.chunk_names()} == {stay.encoding}
        assert rig.states() == ["released"]
        left = [name for name in os.listdir(f"{directory}/t-0") if not name.endswith(".deleted")]
        assert not [name for name in left if int(name[:20] if name[:20].isdigit() else 10**9)
                    < rig.bases[0]]  # fmt: skip


async def test_removal_waits_for_the_node(directory: str, autojump_clock: MockClock) -> None:
    """A node that is away keeps its record until it is back; then its chunk goes within 10 s."""
    rig = await made(directory, segments=1)
    async with running(rig):
        await until(lambda: rig.hot() == [])
        rig.nodes.set_live("b", is_live=False)
        rig.nodes["b"].mode = "dead"
        rig.log.delete_before(rig.log.active_base)
        await until(lambda: len(rig.chunk_names()) == 1)
        await trio.sleep(3600)
        assert rig.states() == ["deleting"]
        rig.nodes["b"].mode = "well"
        rig.nodes.set_live("b", is_live=True)
        await until(lambda: rig.chunk_names() == [] and rig.states() == [], limit_s=10)


async def test_a_node_that_refuses_is_asked_again_in_time(
    directory: str, autojump_clock: MockClock
) -> None:
    """Live, and it does not answer: the pauses never make the chunk stay ten seconds longer."""
    rig = await made(directory, segments=1)
    async with running(rig):
        await until(lambda: rig.hot() == [])
        rig.nodes["b"].mode = "dead"
        rig.log.delete_before(rig.log.active_base)
        await trio.sleep(1000)
        assert rig.states() == ["deleting"]
        rig.nodes["b"].mode = "well"
        await until(lambda: rig.chunk_names() == [], limit_s=10)


async def test_unknown_chunks_are_put_aside(directory: str, autojump_clock: MockClock) -> None:
    """What no record explains is in quarantine, by name; what a record names stays."""
    rig = await made(directory, segments=1)
    generation = await rig.life.encoder.encode(rig.partition, rig.bases[0])
    strange = ChunkId(TOPIC_ID.hex(), 0, 0, 9, "ab" * 16, 3)
    node = rig.nodes["c"]
    node.files[strange.name] = next(iter(node.files.values()))
    async with running(rig):
        await until(lambda: strange.name in node.quarantined)
        await trio.sleep(100)
    assert rig.life.inventory.quarantined_count == 1
    [put] = rig.life.inventory.quarantined.values()
    assert (put.node, put.chunk) == ("c", strange)
    assert await rig.cold_bytes(generation) == rig.originals[rig.bases[0]]


async def test_old_chunks_that_return_are_removed_or_put_aside(
    directory: str, autojump_clock: MockClock
) -> None:
    """A node comes back with chunks of an aborted generation that is forgotten: quarantine."""
    rig = await made(directory, segments=1)
    rig.nodes["a"].mode = "dead"
    with pytest.raises(ColdFailedError):
        await rig.life.encoder.encode(rig.partition, rig.bases[0])
    rig.nodes["a"].mode = "well"
    async with running(rig):
        await until(lambda: rig.hot() == [])
        assert {ChunkId.parse(name).generation for name in rig.chunk_names()} == {2}
        old = ChunkId.parse(rig.chunk_names()[0]).sibling(0)
        strange = ChunkId(old.topic_id, 0, 0, 1, "cd" * 16, 0)
        rig.nodes.set_live("a", is_live=False)
        rig.nodes["a"].files[strange.name] = b"old"
        await trio.sleep(100)
        rig.nodes.set_live("a", is_live=True)
        await until(lambda: strange.name in rig.nodes["a"].quarantined)


async def test_a_leased_segment_is_not_judged(directory: str, autojump_clock: MockClock) -> None:
    """Repair has its chunk on a node before the record says so."""
    rig = await made(directory, names="abcdefg", segments=1)
    generation = await rig.life.encoder.encode(rig.partition, rig.bases[0])
    spare = next(name for name in "abcdefg" if name not in generation.held.values())
    chunk = (await rig.tier.manifest(generation.encoding)).chunk_id(0)
    rig.nodes[spare].files[chunk.name] = rig.nodes[generation.held[0]].files[chunk.name]
    lease = rig.tier.leases.take(Work.REPAIR, [generation.key])
    assert lease is not None
    await rig.life.inventory.run_due()
    assert chunk.name in rig.nodes[spare].files
    await rig.tier.place_chunk(generation.encoding, index=0, node=spare)
    rig.tier.leases.give_back(lease)
    async with running(rig):
        await until(lambda: chunk.name not in rig.nodes[generation.held[0]].files)
        await trio.sleep(3600)
        assert chunk.name in rig.nodes[spare].files


@pytest.mark.parametrize("other", ["good", "rotten", "away"])
async def test_one_copy_too_many_goes_if_the_other_is_good(
    directory: str, autojump_clock: MockClock, other: str
) -> None:
    """What a repair leaves that ends before its record; rotten or away, both copies stay."""
    rig = await made(directory, names="abcdefg", segments=1)
    generation = await rig.life.encoder.encode(rig.partition, rig.bases[0])
    spare = next(name for name in "abcdefg" if name not in generation.held.values())
    chunk = (await rig.tier.manifest(generation.encoding)).chunk_id(0)
    holder = rig.nodes[generation.held[0]]
    rig.nodes[spare].files[chunk.name] = whole = holder.files[chunk.name]
    if other == "rotten":
        holder.files[chunk.name] = bytes([whole[0] ^ 1]) + whole[1:]
    rig.nodes.set_live(holder.node, is_live=other != "away")
    await rig.life.inventory.run_due()
    assert (chunk.name in rig.nodes[spare].files) == (other != "good")
    assert chunk.name in holder.files
    assert not rig.nodes[spare].quarantined
    assert not len(rig.tier.leases)


# --- starts ---------------------------------------------------------------------------------------


async def test_a_start_aborts_what_was_planned(directory: str, autojump_clock: MockClock) -> None:
    """Its orphans go, and the segment is coded anew under the next number."""
    rig = await made(directory, segments=1)
    for node in rig.nodes.by_name.values():
        node.mode = "slow"
    with trio.move_on_after(5) as scope:
        rig.life.tiering._events = rig.events
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.life.run)
            await until(lambda: rig.states() == ["planned"])
            # The process dies: nobody aborts.
            rig.catalog.close()
            scope.cancel()
    for node in rig.nodes.by_name.values():
        node.mode = "well"
        node.writing.clear()
    rig.open_catalog()
    await rig.restart()
    assert rig.states() == ["planned"]
    async with running(rig):
        await until(lambda: rig.hot() == [])
    assert {ChunkId.parse(name).generation for name in rig.chunk_names()} == {2}
    await rig.check_readable()


async def test_what_a_crash_left_planned_is_no_obstacle(
    directory: str, autojump_clock: MockClock
) -> None:
    """Who has the segment's lease before the start's cleaning came to it codes it all the same."""
    rig = await made(directory, segments=1)
    key = SegmentKey(rig.partition.topic_id, 0, rig.bases[0])
    made_once = await rig.life.encoder.encode(rig.partition, rig.bases[0])
    await rig.tier.plan(
        EncodePlan(
            key=key, encoding="ab" * 16, profile=made_once.profile,
            next_offset=made_once.next_offset, source_bytes=made_once.source_bytes,
            min_timestamp_ms=made_once.min_timestamp_ms,
            max_timestamp_ms=made_once.max_timestamp_ms, nodes=tuple("abcdef"),
        )
    )  # fmt: skip
    assert sorted(rig.states()) == ["committed", "planned"]
    again = await rig.life.encoder.encode(rig.partition, rig.bases[0], replaces=made_once)
    assert again.number == 3
    assert sorted(rig.states()) == ["aborted", "committed", "superseded"]


async def test_a_hot_file_that_was_left_goes_by_the_same_proof(
    directory: str, autojump_clock: MockClock
) -> None:
    """RELEASED is recorded, the rename never came: checked, then removed; degraded, it stays."""
    rig = await made(directory, segments=1)
    generation = await rig.life.encoder.encode(rig.partition, rig.bases[0])
    rig.log.release = _refuse  # type: ignore[method-assign]  # The crash comes here.
    with pytest.raises(RuntimeError):
        await rig.life.releaser.release(rig.partition, generation)
    await rig.restart()
    assert rig.states() == ["released"]
    assert rig.hot() == rig.bases
    rig.nodes.set_live("a", is_live=False)
    async with running(rig):
        await trio.sleep(600)
        assert rig.hot() == rig.bases
        rig.nodes.set_live("a", is_live=True)
        await until(lambda: rig.hot() == [], limit_s=1000)
    await rig.check_readable()


def _refuse(*_: object, **__: object) -> tuple[str, ...]:
    raise RuntimeError("the process ends here")


async def test_a_hot_file_that_is_missing_is_said(
    directory: str, autojump_clock: MockClock
) -> None:
    """The .log of a committed segment was removed: it is read from chunks, and is a problem."""
    rig = await made(directory, segments=2, cold_grace_ms=10**9)
    generation = await rig.life.encoder.encode(rig.partition, rig.bases[0])
    os.unlink(f"{directory}/t-0/{rig.bases[0]:020d}.log")
    await rig.restart()
    async with running(rig):
        await until(lambda: generation.encoding in rig.life.tiering.hot_missing)
    assert rig.log.damaged == []
    await rig.check_readable()


# --- thawing --------------------------------------------------------------------------------------


async def thawed(rig: ColdRig, base: int) -> None:
    generation = rig.live(base)
    assert generation is not None
    written: list[int] = []
    await rig.life.thawer.thaw(rig.partition, generation, written.append)
    assert sum(written) == len(rig.originals[base])


async def test_a_thawed_segment_stays_hot(directory: str, autojump_clock: MockClock) -> None:
    """Byte for byte what it was, COMMITTED and held, until it is asked for again."""
    rig = await made(directory)
    async with running(rig):
        await until(lambda: rig.hot() == [])
        base = rig.bases[1]
        await thawed(rig, base)
        assert rig.hot_bytes(base) == rig.originals[base]
        await trio.sleep(3600)
        assert rig.hot() == [base]
        found = rig.live(base)
        assert found is not None
        assert (found.state, found.is_held) == (ColdState.COMMITTED, True)
        job = rig.life.jobs.begin_encode("t", [rig.partition])
        await until(lambda: rig.hot() == [])
        assert (job.done, job.skipped, job.failed) == (0, 3, 0)
    await rig.check_readable()


async def test_hot_retention_ends_a_thaw(directory: str, autojump_clock: MockClock) -> None:
    """Where cold.hot.retention.ms is not 0 it goes by itself."""
    rig = await made(directory, segments=1, cold_hot_retention_ms=1000)
    async with running(rig):
        await until(lambda: rig.hot() == [])
        await thawed(rig, rig.bases[0])
        assert rig.hot() == rig.bases
        await until(lambda: rig.hot() == [], limit_s=10)


async def test_thawing_decodes_what_is_lost(directory: str, autojump_clock: MockClock) -> None:
    """With two nodes gone the copy is whole all the same; with three it is refused, and nothing of
    it is left."""
    rig = await made(directory, segments=2)
    async with running(rig):
        await until(lambda: rig.hot() == [])
    for name in "ab":
        rig.nodes[name].mode = "dead"
    await thawed(rig, rig.bases[0])
    assert rig.hot_bytes(rig.bases[0]) == rig.originals[rig.bases[0]]
    rig.nodes["c"].mode = "dead"
    with pytest.raises(ColdFailedError, match="fewer than 4"):
        await thawed(rig, rig.bases[1])
    assert rig.hot() == [rig.bases[0]]
    assert not any("tmp" in name for name in os.listdir(f"{directory}/t-0"))
    assert not len(rig.tier.leases)


async def test_thawing_needs_room(directory: str, autojump_clock: MockClock) -> None:
    """Less than the segment above the reserve: refused, with the numbers."""
    rig = await made(directory, segments=1)
    async with running(rig):
        await until(lambda: rig.hot() == [])
    rig.room_bytes = 1000
    with pytest.raises(ColdRefusedError, match="there is room for 1000 B"):
        await thawed(rig, rig.bases[0])


# --- jobs -----------------------------------------------------------------------------------------


async def job_done(rig: ColdRig, begin: Callable[..., Job]) -> dict[str, Any]:
    job = begin("t", [rig.partition])
    await until(lambda: job.seconds is not None)
    return rig.life.jobs.as_document(job)


async def test_encode_now_whatever_the_settings_say(
    directory: str, autojump_clock: MockClock
) -> None:
    """cold.enable off, a week of cold.after.ms: every sealed segment is COMMITTED at the end."""
    rig = await made(directory, cold_enable=False, cold_after_ms=7 * 86_400_000)
    async with running(rig):
        done = await job_done(rig, rig.life.jobs.begin_encode)
        assert (done["encoded"], done["skipped"], done["failed"]) == (3, 0, 0)
        size = sum(map(len, rig.originals.values()))
        assert done["source_bytes"] == size
        assert done["stored_bytes"] == sum(
            len(data) for node in rig.nodes.by_name.values() for data in node.files.values()
        )
        assert done["progress"] == 1.0
        await until(lambda: rig.hot() == [])
        again = await job_done(rig, rig.life.jobs.begin_encode)
        assert (again["encoded"], again["skipped"], again["failed"]) == (0, 3, 0)
    assert set(rig.states()) == {"released"}


async def test_encode_waits_for_who_is_at_it(directory: str, autojump_clock: MockClock) -> None:
    """A segment that the loop codes already is waited for, and counts as skipped."""
    rig = await made(directory, segments=2)
    for node in rig.nodes.by_name.values():
        node.mode = "slow"
    async with running(rig):
        await until(lambda: rig.states() == ["planned"])
        done = await job_done(rig, rig.life.jobs.begin_encode)
    assert (done["encoded"], done["skipped"], done["failed"]) == (0, 2, 0)
    assert not {"planned", "aborted"} & set(rig.states())


async def test_encode_says_why_not(directory: str, autojump_clock: MockClock) -> None:
    """Too few nodes: all fail with the sum, at once."""
    rig = await made(directory, names="abcde", cold_enable=False)
    async with running(rig):
        done = await job_done(rig, rig.life.jobs.begin_encode)
    assert done["failed"] == 3
    assert "4+2 needs 6 nodes" in done["errors"][0]["error"]


async def test_encode_gets_round_a_node_that_fails(
    directory: str, autojump_clock: MockClock
) -> None:
    """With a spare node the job succeeds, however the bad one is chosen first."""
    rig = await made(directory, names="abcdefg", cold_enable=False)
    rig.nodes["d"].mode = "dead"
    async with running(rig):
        done = await job_done(rig, rig.life.jobs.begin_encode)
        assert (done["encoded"], done["failed"]) == (3, 0)
        rig.nodes["d"].mode = "well"
        await until(lambda: len(rig.chunk_names()) == 18)


async def test_thaw_brings_all_back(directory: str, autojump_clock: MockClock) -> None:
    """Every released segment of the topic; what is hot is skipped."""
    rig = await made(directory)
    async with running(rig):
        await until(lambda: rig.hot() == [])
        done = await job_done(rig, rig.life.jobs.begin_thaw)
        assert (done["thawed"], done["skipped"], done["failed"]) == (3, 0, 0)
        assert rig.hot() == rig.bases
        again = await job_done(rig, rig.life.jobs.begin_thaw)
        assert (again["thawed"], again["skipped"]) == (0, 3)
    await rig.check_readable()


async def test_a_segment_that_cannot_be_thawed_ends_the_job_for_itself(
    directory: str, autojump_clock: MockClock
) -> None:
    """Its manifest cannot be read: an error says so, and where it is; the others are thawed."""
    rig = await made(directory)
    async with running(rig):
        await until(lambda: rig.hot() == [])
        bad = rig.live(rig.bases[1])
        assert bad is not None
        rig.catalog._database.connection.execute(
            "UPDATE manifest SET data = x'00' WHERE encoding = ?", (bytes.fromhex(bad.encoding),)
        )
        rig.tier._manifests.clear()
        done = await job_done(rig, rig.life.jobs.begin_thaw)
    assert (done["thawed"], done["failed"]) == (2, 1)
    [error] = done["errors"]
    assert error["base_offset"] == rig.bases[1]
    assert f"the manifest of {bad.encoding}" in error["error"]
    assert f"{bad}" in error["error"]
    assert f"0 on {bad.held[0]}" in error["error"]


# --- figures --------------------------------------------------------------------------------------


async def test_margins_follow_the_nodes(directory: str, autojump_clock: MockClock) -> None:
    """Two, one, none, lost: as live nodes go; a hot copy keeps a segment from being lost."""
    rig = await made(directory, segments=2)
    async with running(rig):
        await until(lambda: rig.hot() == [])
        await thawed(rig, rig.bases[0])
        for name, margins in [
            ("a", {"lost": 0, "0": 0, "1": 2, "2": 0}),
            ("b", {"lost": 0, "0": 2, "1": 0, "2": 0}),
            ("c", {"lost": 1, "0": 1, "1": 0, "2": 0}),
        ]:
            assert len(rig.life.figures().below_target) == (0 if name == "a" else 2)
            rig.nodes.set_live(name, is_live=False)
            assert rig.life.figures().margins() == margins
        [lost] = rig.life.figures().lost
        assert lost.key == SegmentKey(TOPIC_ID, 0, rig.bases[1])
        row = rig.life.view.row(lost)
        assert (row["margin"], row["k"], row["m"], row["state"]) == (-1, 4, 2, "coded")
        states = {chunk["node"]: chunk["state"] for chunk in row["chunks"]}
        assert states == {**dict.fromkeys("abc", "missing"), **dict.fromkeys("def", "live")}
        assert all(chunk["bytes"] for chunk in row["chunks"])


async def test_what_is_unknown_is_not_lost(directory: str, autojump_clock: MockClock) -> None:
    """Chunks on a suspect node count as there, in margins and rows, and it is said how many do."""
    rig = await made(directory, segments=2)
    async with running(rig):
        await until(lambda: rig.hot() == [])
        for name in "abc":
            rig.nodes.set_suspect(name)
        figures = rig.life.figures()
        assert figures.margins() == {"lost": 0, "0": 0, "1": 0, "2": 2}
        assert (figures.lost, figures.below_target) == ([], [])
        assert (figures.unknown_chunks, figures.unknown_segments) == (6, 2)
        row = rig.life.view.row(rig.tier.generations()[0])
        assert row["margin"] == 2
        states = {chunk["node"]: chunk["state"] for chunk in row["chunks"]}
        assert states == {**dict.fromkeys("abc", "unknown"), **dict.fromkeys("def", "live")}
        rig.nodes.set_live("a", is_live=False)
        assert rig.life.figures().margins() == {"lost": 0, "0": 0, "1": 2, "2": 0}
        assert rig.life.figures().unknown_chunks == 4


async def test_recoding_supersedes_in_one_step(directory: str, autojump_clock: MockClock) -> None:
    """Another profile: released segments come back, are coded anew, and the old chunks go."""
    rig = await made(directory, names="abcdefg", segments=2)
    async with running(rig):
        await until(lambda: rig.hot() == [])
        rig.partition.settings = rig.settings(cold_profile="3+2")
        plain = await job_done(rig, rig.life.jobs.begin_encode)
        assert (plain["encoded"], plain["skipped"]) == (0, 2)
        job = rig.life.jobs.begin_encode("t", [rig.partition], recode=True)
        await until(lambda: job.seconds is not None)
        assert (job.done, job.skipped, job.failed) == (2, 0, 0)
        await until(lambda: rig.states() == ["released"] * 2 and len(rig.chunk_names()) == 10)
        again = rig.life.jobs.begin_encode("t", [rig.partition], recode=True)
        await until(lambda: again.seconds is not None)
        assert (again.done, again.skipped) == (0, 2)
    assert {each.number for each in rig.tier.generations()} == {2}
    assert {str(each.profile) for each in rig.tier.generations()} == {"3+2"}
    await rig.check_readable()
