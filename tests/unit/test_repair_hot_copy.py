"""Too few chunks are left, and the segment is still here: it is coded anew, and is not lost."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from logd.broker.cold_segments import ColdSegments
from logd.policy.cold.repair_plan import Hold
from tests.unit.test_cold_life import until
from tests.unit.upkept_rig import coded


def spoil(path: str) -> None:
    """Write over some bytes of a file."""
    with open(path, "r+b") as file:
        file.seek(5000)
        file.write(b"\xff" * 20)


async def test_a_segment_that_is_here_is_coded_anew(
    directory: str, autojump_clock: MockClock
) -> None:
    """Three of six chunks lost: not lost, at once another generation, byte for byte the log's."""
    async with coded(directory, "abcdefghijk") as rig:
        old = rig.live(rig.bases[0])
        assert old is not None
        gone = list(old.held.values())[:3]
        rig.lose("".join(gone))
        shown = {item["base_offset"]: item for item in rig.queue()}[rig.bases[0]]
        assert (shown["methods"], shown["margin"], shown["state"]) == (["hot copy"], -1, "ready")
        assert "3 chunks are left, 4 are needed; its hot copy is here" in shown["reason"]
        assert not any(chunk["target"] for chunk in shown["chunks"])
        counts = rig.upkeep.health.counts()
        assert (counts.lost, counts.as_words()["0"] >= 1) == (0, True)
        assert rig.upkeep.outlook.simulate([])["lost_count"] == 0
        await until(lambda: rig.upkeep.health.counts().is_well)
        for name in gone:
            rig.nodes.set_live(name, is_live=True)  # The old chunks' records end when it answers.
        await until(lambda: rig.states() == ["committed"] * 2)
        new = rig.live(rig.bases[0])
        assert new is not None
        assert new.number == old.number + 1
        assert await rig.cold_bytes(new) == rig.originals[rig.bases[0]]
        assert rig.upkeep.repairer.counts.made >= 6
        assert rig.upkeep.repair_summary()["queued"] == 0
        assert rig.bases == rig.hot()


async def test_without_nodes_enough_it_waits_and_is_not_lost(
    directory: str, autojump_clock: MockClock
) -> None:
    """Six nodes of which three are dead: no target, with the sum; when they are back it ends."""
    async with coded(directory, "abcdef") as rig:
        rig.lose("abc")
        await trio.sleep(60)
        assert [item["state"] for item in rig.queue()] == ["no-target"] * 2
        assert "its hot copy is here, and is to be coded anew: 3 of 6" in rig.queue()[0]["reason"]
        job = await rig.upkeep.jobs.begin()
        assert job is not None
        await until(lambda: job.is_done)
        assert (job.unrecoverable, job.below_target) == ([], 2)
        assert rig.life.figures().margins()["lost"] == 0
        segments = ColdSegments(rig.tier, rig.offload, rig.services, topic_name=lambda _: "t")
        segments.life = rig.life
        said = {each.kind: each for each in segments.problems()}
        assert "segment_lost" not in said
        problem = said["segments_below_margin"]
        assert problem.severity == "damage"
        assert "fewer than 4 chunks that can be reached, and its hot copy" in problem.message
        for name in "abc":
            rig.nodes.set_live(name, is_live=True)
        await until(lambda: rig.upkeep.health.counts().is_well and not rig.queue())
        await until(lambda: rig.states() == ["committed"] * 2 and len(rig.chunk_names()) == 12)
        await rig.check_readable()


async def test_a_damaged_copy_is_no_copy(directory: str, autojump_clock: MockClock) -> None:
    """Where the log knows that the file is damaged, the segment is unrecoverable, and says so."""
    async with coded(directory, "abcdefghijk") as rig:
        old = rig.live(rig.bases[0])
        assert old is not None
        spoil(f"{directory}/t-0/{rig.bases[0]:020d}.log")
        rig.lose("".join(list(old.held.values())[:3]))
        await until(lambda: rig.log.damage.ranges != ())
        await until(lambda: len(rig.upkeep.repairer.plan().unrecoverable) == 1)
        [item] = rig.upkeep.repairer.plan().unrecoverable
        assert item.hold is Hold.UNRECOVERABLE
        assert rig.upkeep.health.counts().lost == 1


async def test_what_people_thawed_stays_hot_when_it_is_coded_anew(
    directory: str, autojump_clock: MockClock
) -> None:
    """Repair is not what they ask for with `logd cold encode`: the new encoding is held as well."""
    async with coded(directory, "abcdefghijk", cold_grace_ms=1000) as rig:
        await until(lambda: rig.states() == ["released"] * 2)
        job = rig.life.jobs.begin_thaw("t", [rig.partition])
        await until(lambda: job.seconds is not None)
        old = rig.live(rig.bases[0])
        assert old is not None
        rig.lose("".join(list(old.held.values())[:3]))
        await until(lambda: rig.upkeep.health.counts().is_well)
        await trio.sleep(100)
        new = rig.live(rig.bases[0])
        assert new is not None
        assert (new.number, new.is_held) == (old.number + 1, True)
        assert rig.bases == rig.hot()
        again = rig.life.jobs.begin_encode("t", [rig.partition])
        await until(lambda: again.seconds is not None)
        await until(lambda: rig.hot() == [])
        await rig.check_readable()
