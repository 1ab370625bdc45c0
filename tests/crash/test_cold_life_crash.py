"""The process ends before any step of a segment's life; then it is readable, and life goes on.

A step is either side of a transaction's commit, a call to a node, a change of a name in the log's
directory. Segments are coded, released, thawed, coded again and deleted; the process ends before
one of these steps, and a new one starts with what is on disk and on nodes. At that moment each
segment is there, hot or cold, byte for byte; later no chunk is left that no record names.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from trio.testing import MockClock

from ec.chunk_id import ChunkId
from logd.policy.cold.values import LIVE, ColdState
from tests.crash.cut_short import live_until, told_where
from tests.unit.life_rig import ColdRig
from tests.unit.log_builder import TOPIC_ID
from tests.unit.test_cold_life import running, until

SHARE = 12
"""One step of so many is tried out in a run; which ones follows from the run's seed. All of them
with --every-step, in some two minutes."""


async def live_through(rig: ColdRig) -> None:
    """All that can happen to segments."""
    async with running(rig):
        await until(lambda: rig.hot() == [])
        thawed = rig.live(rig.bases[1])
        assert thawed is not None
        await rig.life.thawer.thaw(rig.partition, thawed, lambda _: None)
        job = rig.life.jobs.begin_encode("t", [rig.partition])
        await until(lambda: job.seconds is not None and rig.hot() == [])
        rig.log.delete_before(rig.bases[1])
        await until(lambda: rig.states() == ["released"])


async def crashed(directory: str, stop_at: int | None) -> ColdRig:
    """Live through it until the process ends."""
    rig = ColdRig(directory)
    await rig.start(segments=2)
    return await live_until(rig, stop_at, live_through)


async def test_no_step_loses_a_byte(
    tmp_path_factory: pytest.TempPathFactory,
    autojump_clock: MockClock,
    rng: random.Random,
    one_step_in: Callable[[int], int],
) -> None:
    """Whatever the last step was: readable at the next start, and no orphan in the end."""
    whole = await crashed(str(tmp_path_factory.mktemp("whole")), None)
    assert whole.states() == ["released"]
    count = len(whole.steps)
    assert count > 200
    share = one_step_in(SHARE)
    for stop_at in range(rng.randrange(share), count, share):
        rig = await crashed(str(tmp_path_factory.mktemp("stopped")), stop_at)
        with told_where(rig, stop_at):
            await look_again(rig)


async def look_again(rig: ColdRig) -> None:
    """Start anew; check what is there now, and what it comes to."""
    rig.steps.clear()
    await rig.restart()
    await rig.check_readable()
    assert rig.log.damaged == []
    committed = [each for each in rig.tier.generations() if each.state is ColdState.COMMITTED]
    assert {each.key.base_offset for each in committed} <= set(rig.hot())
    async with running(rig):
        await until(lambda: rig.hot() in ([], held(rig)) and is_settled(rig))
    await rig.check_readable()
    named = {each.encoding for each in rig.tier.generations() if each.state in LIVE}
    assert {ChunkId.parse(name).encoding for name in rig.chunk_names()} == named
    assert len(rig.chunk_names()) == 6 * len(named)
    assert not any(node.quarantined for node in rig.nodes.by_name.values())


def held(rig: ColdRig) -> list[int]:
    """Segments that were thawed and not asked for again."""
    found = rig.tier.coverage(TOPIC_ID, 0).generations
    return [each.key.base_offset for each in found if each.is_held]


def is_settled(rig: ColdRig) -> bool:
    """Nothing is left to be done."""
    return all(each.state in LIVE for each in rig.tier.generations()) and not len(rig.tier.leases)
