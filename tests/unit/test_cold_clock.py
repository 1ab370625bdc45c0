"""Coded segments and a wall clock that somebody sets."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from logd.cold.tiering import DOUBT_S
from logd.units import DAY_MS, MINUTE_MS
from tests.unit.life_rig import JumpingClock
from tests.unit.test_cold_life import made, running, until


async def test_a_commit_by_a_clock_far_ahead_keeps_no_hot_copy_for_ever(
    directory: str, autojump_clock: MockClock
) -> None:
    """Once the clock has stood behind the commit for an hour, the grace time begins."""
    rig = await made(directory, segments=1, cold_grace_ms=MINUTE_MS)
    rig.clock = clock = JumpingClock()
    clock.ahead_ms = 400 * DAY_MS
    await rig.restart()
    async with running(rig):
        await until(lambda: rig.states() == ["committed"])
        clock.ahead_ms = 0
        await trio.sleep(DOUBT_S - 10)
        assert rig.states() == ["committed"]
        await until(lambda: rig.hot() == [], limit_s=100)
    await rig.check_readable()


async def test_nothing_waits_for_a_clock_that_was_put_back(
    directory: str, autojump_clock: MockClock
) -> None:
    """Nodes that could take nothing are asked again soon, whatever the wall clock says."""
    rig = await made(directory, segments=1)
    rig.clock = clock = JumpingClock()
    await rig.restart()
    for node in rig.nodes.by_name.values():
        node.free_bytes = 0
    async with running(rig):
        await until(lambda: rig.life.tiering.refused is not None)
        clock.ahead_ms = -400 * DAY_MS
        for node in rig.nodes.by_name.values():
            node.free_bytes = 2**40
        await until(lambda: rig.states() == ["committed"] or rig.hot() == [])
