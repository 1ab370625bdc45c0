"""The process ends before any step of rounds over coded segments; then nothing is lost, or back.

A step is either side of a transaction's commit, a call to a node, a change of a name in the log's
directory. A log is filled, coded, released, overwritten and compacted twice, the second time past
the tombstones' horizon. The process ends before one of these steps, and a new one starts with what
is on disk and on nodes. At that moment, and when all has come to rest, and behind another round: of
each key the last record is there, nothing that was deleted is, offsets rise. In the end no chunk is
left that no record names, and no file of a round.
"""

from __future__ import annotations

import os
import random

import pytest
from trio.testing import MockClock

from ec.chunk_id import ChunkId
from ec.manifest import encode_manifest
from logd.cold.removal import chunk_id
from logd.policy.cold.rebuild import FoundChunk, ManifestFacts, plan_rebuild
from logd.policy.cold.removal import ChunkName
from logd.policy.cold.values import LIVE, Profile, SegmentKey
from logd.storage.catalog_rebuild import known_partition
from tests.crash.cut_short import live_until, told_where
from tests.unit.coded_compaction_rig import CodedRig
from tests.unit.life_rig import SimNode
from tests.unit.log_builder import TOPIC_ID
from tests.unit.test_coded_compaction import check_no_orphans, code_all, is_settled
from tests.unit.test_cold_life import running, until

SHARE = 80
"""One step of so many is tried out in a run; which ones follows from the run's seed."""

ROUNDS_SHARE = 15
"""Likewise, of those between a round's begin and its end: they are what this is about."""

REBUILT_SHARE = 60
"""Likewise, where the catalog is lost as well."""

BORDER = 12
"""Steps before and behind the moment at which a part's cleaning begins."""


async def live_through(rig: CodedRig) -> None:
    """Two rounds over what is coded; all of it in chunks in the end."""
    rig.put_segments(2, keys=6)
    async with running(rig):
        await code_all(rig)
        rig.put_segments(1, keys=8)
        rig.put(*((b"key-%d" % number, None) for number in range(4)))
        rig.seal()
        await rig.compact()
        await until(lambda: rig.hot() == [] and is_settled(rig))
        rig.put(*((b"key-%d" % number, b"again") for number in range(2, 10)))
        rig.seal()
        await rig.compact()
        await until(lambda: rig.hot() == [] and is_settled(rig))


class MarkedRig(CodedRig):
    """Notes at which steps its rounds begin and end."""

    def __init__(self, directory: str) -> None:
        super().__init__(directory)
        self.rounds_steps: list[range] = []

    async def compact(self) -> object:
        """Carry out a round; note its steps."""
        begin = len(self.steps)
        result = await super().compact()
        self.rounds_steps.append(range(begin, len(self.steps)))
        return result


async def crashed(directory: str, stop_at: int | None) -> MarkedRig:
    """Live through it until the process ends."""
    rig = MarkedRig(directory)
    await rig.begin()
    return await live_until(rig, stop_at, live_through)


async def test_no_step_loses_a_last_record_or_brings_one_back(
    tmp_path_factory: pytest.TempPathFactory, autojump_clock: MockClock, rng: random.Random
) -> None:
    """Whatever the last step was: each key is as it was last, and no orphan in the end."""
    whole = await crashed(str(tmp_path_factory.mktemp("whole")), None)
    await whole.check(is_clean=True)
    count = len(whole.steps)
    in_rounds = [step for steps in whole.rounds_steps for step in steps]
    assert count > 300
    assert len(in_rounds) > 100
    wanted = {
        *range(rng.randrange(SHARE), count, SHARE),
        *in_rounds[rng.randrange(ROUNDS_SHARE) :: ROUNDS_SHARE],
    }
    whole.catalog.close()
    for stop_at in sorted(wanted):
        rig = await crashed(str(tmp_path_factory.mktemp("stopped")), stop_at)
        with told_where(rig, stop_at):
            await look_again(rig)


async def in_parts(rig: CodedRig) -> None:
    """A round over many released segments, of which few may be thawed at a time."""
    for number in range(6):
        rig.put(*((b"%d-%d" % (number, at), b"x" * 700) for at in range(7)))
        rig.seal()
    await rig.compact()
    async with running(rig):
        await code_all(rig)
        rig.put(*((b"%d-0" % number, b"new" * 300) for number in range(6)))
        rig.seal()
        rig.coded_bytes_max = 6_000
        await rig.compact()
        await until(lambda: rig.hot() == [] and is_settled(rig))


async def test_no_end_between_two_parts_of_a_round_loses_a_last_record(
    tmp_path_factory: pytest.TempPathFactory, autojump_clock: MockClock, rng: random.Random
) -> None:
    """A round over a long coded log ends around the border of any two parts: what is done stays
    done, the rest is done later, in parts again, and no chunk is left of what was begun.
    """
    whole = MarkedRig(str(tmp_path_factory.mktemp("whole")))
    await whole.begin()
    await live_until(whole, None, in_parts)
    await whole.check(is_clean=True)
    whole.catalog.close()
    parts = [step for step in whole.rounds_steps[1] if whole.steps[step] == "clean"]
    assert len(parts) >= 4
    near = {step + by for step in parts for by in range(-BORDER, BORDER + 1)}
    for stop_at in sorted(rng.sample(sorted(near), 2 * len(parts))):
        rig = MarkedRig(str(tmp_path_factory.mktemp("stopped")))
        await rig.begin()
        await live_until(rig, stop_at, in_parts)
        with told_where(rig, stop_at):
            await look_again(rig)


async def test_a_catalog_that_is_lost_as_well_is_made_again(
    tmp_path_factory: pytest.TempPathFactory, autojump_clock: MockClock, rng: random.Random
) -> None:
    """From chunks and files, whatever the last step was: never two versions of one offset."""
    whole = await crashed(str(tmp_path_factory.mktemp("whole")), None)
    whole.catalog.close()
    in_rounds = [step for steps in whole.rounds_steps for step in steps]
    for stop_at in in_rounds[rng.randrange(REBUILT_SHARE) :: REBUILT_SHARE]:
        rig = await crashed(str(tmp_path_factory.mktemp("rebuilt")), stop_at)
        with told_where(rig, stop_at):
            await rebuild(rig)
            await look_again(rig)


async def rebuild(rig: CodedRig) -> None:
    """Lose the catalog; make it again, as `--rebuild-catalog` does; put aside what it says."""
    rig.stop_at = None
    found = [
        await found_chunk(rig, node, ChunkId.parse(name))
        for node in rig.nodes.by_name.values()
        for name in sorted(node.files)
    ]
    bases = {each.name.key.base_offset for each in found}
    known = known_partition(rig.files, f"{rig.directory}/t-0", bases)
    plan = plan_rebuild(found, {(TOPIC_ID, 0): known})
    for each in plan.quarantine:
        del rig.nodes[each.name.node].files[chunk_id(each.name).name]
    nodes = rig.catalog.cold.nodes()
    rig.catalog.close()
    for name in [name for name in os.listdir(rig.directory) if name.startswith("catalog")]:
        os.unlink(f"{rig.directory}/{name}")
    rig.open_catalog()
    rig.catalog.create_topic("t", TOPIC_ID, 1, {})
    rig.catalog.cold.restore(
        nodes, plan.generations, numbers=plan.numbers, sequence=plan.sequence, now_ms=1
    )


async def found_chunk(rig: CodedRig, node: SimNode, chunk: ChunkId) -> FoundChunk:
    """Return what a rebuild sees of a chunk."""
    manifest = (await node.head(chunk)).manifest
    facts = ManifestFacts(
        Profile(manifest.k, manifest.m), manifest.next_offset, manifest.source_bytes,
        manifest.min_timestamp_ms, manifest.max_timestamp_ms, encode_manifest(manifest),
    )  # fmt: skip
    key = SegmentKey(TOPIC_ID, 0, chunk.base_offset)
    name = ChunkName(key, chunk.generation, chunk.encoding, chunk.index, node.node)
    return FoundChunk(name, facts, not await node.verify(chunk))


async def look_again(rig: CodedRig) -> None:
    """Start anew; check what is there now, and what it comes to."""
    last = rig.steps[-3:]
    rig.steps.clear()
    await rig.restart()
    rig.steps[:] = last
    await rig.check()
    assert rig.log.damaged == []
    async with running(rig):
        await until(lambda: is_settled(rig))
        await rig.check()
        rig.put((b"one more", b"x"))
        rig.seal()
        await rig.compact()
        await rig.check(is_clean=True)
        await until(lambda: rig.hot() == [] and is_settled(rig))
    await rig.check(is_clean=True)
    check_no_orphans(rig)
    assert all(each.state in LIVE for each in rig.tier.generations())
    assert not any(node.quarantined for node in rig.nodes.by_name.values())
    names = os.listdir(f"{rig.directory}/t-0")
    assert not [name for name in names if "cleaned" in name or "replacement" in name]
