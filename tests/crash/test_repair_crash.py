"""The process ends before any step of a repair, a drain, of coding anew; then it all comes right.

Of one segment a chunk is rotten and another gone, of the other one three are gone while its hot
copy is here, and a node is being drained. A step is a call to a node, either side of a
transaction's commit, or a change of a name. Behind the next start all margins are whole, every
byte is what was appended, and nothing is on a node that no record names.
"""

from __future__ import annotations

import random

import pytest
from trio.testing import MockClock

from ec.chunk_id import ChunkId
from logd.policy.cold.values import LIVE, NodeState
from logd.units import HOUR_MS
from tests.crash.cut_short import live_until, told_where
from tests.crash.test_cold_life_crash import is_settled
from tests.unit.test_cold_life import running, until
from tests.unit.upkept_rig import UpkeptRig

POINTS = 8
"""So many steps are tried out in a run; which ones follows from the run's seed."""


def damage(rig: UpkeptRig) -> None:
    """Rot one chunk and lose one of the first segment, lose three of the second; drain a node."""
    for base, count in zip(rig.bases[:2], (1, 3), strict=True):
        generation = rig.live(base)
        assert generation is not None
        for index in range(count):
            files, name = chunk_of(rig, index, generation.encoding)
            del files[name]
    first = rig.live(rig.bases[0])
    assert first is not None
    files, name = chunk_of(rig, 4, first.encoding)
    files[name] = bytes([files[name][0] ^ 1]) + files[name][1:]
    rig.nodes.states[first.held[5]] = NodeState.DRAINING


def chunk_of(rig: UpkeptRig, index: int, encoding: str) -> tuple[dict[str, bytes], str]:
    """Return a node's files, and the name of a chunk among them."""
    for node in rig.nodes.by_name.values():
        for name in node.files:
            chunk = ChunkId.parse(name)
            if (chunk.encoding, chunk.index) == (encoding, index):
                return node.files, name
    raise AssertionError(f"there is no chunk {index} of {encoding}")


async def repaired(rig: UpkeptRig) -> None:
    """Let everything run until nothing is left to be done."""
    async with running(rig):
        for name in rig.nodes.names():
            await rig.upkeep.missing.look(name)
        await until(lambda: bool(rig.upkeep.scrubber._places))
        rig.upkeep.scrubber.start()
        await until(lambda: not rig.upkeep.scrubber.is_hurrying)
        await until(lambda: is_whole(rig))


def is_whole(rig: UpkeptRig) -> bool:
    """Full margins, nothing queued, nothing on the node that is drained, nothing to be removed."""
    counts = rig.upkeep.health.counts()
    live = [each for each in rig.tier.generations() if each.state in LIVE]
    leaving = {name for name, state in rig.nodes.states.items() if state is NodeState.DRAINING}
    return (
        counts.is_well
        and not counts.uncertain
        and not rig.queue()
        and is_settled(rig)
        and leaving.isdisjoint(node for each in live for node in each.held.values())
        and len(rig.chunk_names()) == 6 * len(live)
    )


async def crashed(directory: str, stop_at: int | None) -> UpkeptRig:
    """Code two segments, damage them, and repair until the process ends."""
    rig = UpkeptRig(directory, names="abcdefghi")
    await rig.start(segments=2, cold_grace_ms=HOUR_MS)
    async with running(rig):
        await until(lambda: rig.states() == ["committed"] * 2)
    damage(rig)
    await rig.restart()
    return await live_until(rig, stop_at, repaired)


async def test_a_repair_that_ends_anywhere_is_ended_by_the_next_start(
    tmp_path_factory: pytest.TempPathFactory, autojump_clock: MockClock, rng: random.Random
) -> None:
    """Whole margins and equal bytes; no orphan, no torn chunk, nothing in quarantine."""
    whole = await crashed(str(tmp_path_factory.mktemp("whole")), None)
    assert is_whole(whole)
    counts, second = whole.upkeep.repairer.counts, whole.live(whole.bases[1])
    assert (counts.made, counts.moved) >= (2 + 6, 1)
    assert second is not None
    assert second.number == 2
    count = len(whole.steps)
    assert count > 100
    for stop_at in sorted(rng.sample(range(count), POINTS)):
        rig = await crashed(str(tmp_path_factory.mktemp("stopped")), stop_at)
        with told_where(rig, stop_at):
            await rig.restart()
            await rig.check_readable()
            await repaired(rig)
            await check(rig)


async def check(rig: UpkeptRig) -> None:
    """Every segment is what was appended, hot and in chunks, whichever chunks are read."""
    live = [each for each in rig.tier.generations() if each.state in LIVE]
    named = {(each.encoding, index, node) for each in live for index, node in each.held.items()}
    there = {
        (ChunkId.parse(name).encoding, ChunkId.parse(name).index, node.node)
        for node in rig.nodes.by_name.values()
        for name in node.files
    }
    assert there == named
    assert not any(node.quarantined or node.writing for node in rig.nodes.by_name.values())
    await rig.check_readable()
    for each in live:
        assert await rig.cold_bytes(each) == rig.originals[each.key.base_offset]
