"""broker.log_writer: who waits to have a log to himself."""

from __future__ import annotations

from pathlib import Path

import trio
import trio.testing

from tests.unit.test_partition import Fixture, SlowClock


async def test_who_gives_up_waiting_for_a_write_leaves_the_others_asleep(tmp_path: Path) -> None:
    """Of two that want the log to themselves during a write in a thread one is cancelled: the other
    sleeps until the write ended, and then has it; so does who wants to close it.
    """
    fixture = Fixture(tmp_path)
    had: list[str] = []

    async def have() -> None:
        async with fixture.partition.exclusive():
            had.append("other")

    fixture.append()
    fixture.services.clock = SlowClock()
    fixture.turn.flush()
    fixture.append()
    fixture.turn.flush()
    assert fixture.offload.in_flight
    async with trio.open_nursery() as nursery:
        first = trio.CancelScope()

        async def give_up() -> None:
            with first:
                async with fixture.partition.exclusive():
                    had.append("first")

        nursery.start_soon(give_up)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(have)
        await trio.testing.wait_all_tasks_blocked()
        first.cancel()
        with trio.fail_after(30):  # A task that spins is never blocked.
            await trio.testing.wait_all_tasks_blocked()
        assert had == []
        fixture.settle()
    assert had == ["other"]
