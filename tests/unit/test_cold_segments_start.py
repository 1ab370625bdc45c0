"""Soon after a start nobody is told that coded segments are well before somebody has looked."""

from __future__ import annotations

from typing import cast

import trio
from trio.testing import MockClock

from logd.broker.cold_segments import BEGIN_S, ColdSegments
from logd.offload import Offload
from tests.unit.life_rig import ColdRig


class LateImport:
    """What takes its time before the life of segments can begin."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def run(self, _kind: str, job: object, *_arguments: object) -> None:
        assert callable(job)
        await trio.sleep(self._seconds)


async def coded(directory: str) -> ColdRig:
    rig = ColdRig(directory)
    await rig.start()
    await rig.life.encoder.encode(rig.partition, rig.bases[0])
    return rig


def segments_of(rig: ColdRig, *, begins_after_s: float) -> ColdSegments:
    offload = cast("Offload", LateImport(begins_after_s))  # A module's import is all it is for.
    return ColdSegments(rig.tier, offload, rig.services, topic_name=lambda _: "t")


async def test_the_status_waits_for_what_knows_it(
    directory: str, autojump_clock: MockClock
) -> None:
    """Three of six nodes are gone, and the server starts: once it answers it says so."""
    rig = await coded(directory)
    for name in "abc":
        rig.nodes.set_live(name, is_live=False)
    segments = segments_of(rig, begins_after_s=2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(segments.run)
        await segments.settled()
        assert trio.current_time() >= 2
        [problem] = [each for each in segments.problems() if each.severity == "damage"]
        assert problem.kind == "segments_below_margin"
        assert segments.margins()["0"] == 1
        await segments.stop()


async def test_what_takes_too_long_is_said(directory: str, autojump_clock: MockClock) -> None:
    """The answer comes all the same, and does not call well what nobody has looked at."""
    rig = await coded(directory)
    segments = segments_of(rig, begins_after_s=10 * BEGIN_S)
    began_s = trio.current_time()
    await segments.settled()
    assert trio.current_time() - began_s == BEGIN_S
    assert [each.kind for each in segments.problems()] == ["segments_not_looked_at"]


async def test_without_coded_segments_nothing_is_waited_for(
    directory: str, autojump_clock: MockClock
) -> None:
    """There is nothing to know."""
    rig = ColdRig(directory)
    await rig.start()
    segments = segments_of(rig, begins_after_s=10 * BEGIN_S)
    began_s = trio.current_time()
    await segments.settled()
    assert trio.current_time() == began_s
    assert list(segments.problems()) == []
