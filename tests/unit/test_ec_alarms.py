"""Calls at given times, from one task."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ec.alarms import Alarms


@asynccontextmanager
async def running() -> AsyncIterator[Alarms]:
    """Alarms that are made while in here."""
    alarms = Alarms()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alarms.run)
        await wait_all_tasks_blocked()
        yield alarms
        nursery.cancel_scope.cancel()
    assert not alarms.is_running


async def test_calls_are_made_at_their_times(autojump_clock: MockClock) -> None:
    """In the order of their times, not in that in which they were asked for; each once."""
    made: list[tuple[str, float]] = []
    async with running() as alarms:
        began_s = trio.current_time()

        def call(name: str) -> None:
            made.append((name, trio.current_time() - began_s))

        for name, seconds in (("c", 3.0), ("a", 1.0), ("d", 4.0), ("b", 1.0)):
            alarms.at(began_s + seconds, partial(call, name))
        await trio.sleep(10)
    assert [name for name, _ in made] == ["a", "b", "c", "d"]
    assert [round(at_s, 3) for _, at_s in made] == [1, 1, 3, 4]


async def test_a_cancelled_call_is_not_made(autojump_clock: MockClock) -> None:
    """Nor does it hold up those behind it; cancelling it later, or again, is harmless."""
    made: list[int] = []
    async with running() as alarms:
        now_s = trio.current_time()
        several = [alarms.at(now_s + number, partial(made.append, number)) for number in range(6)]
        for number in (0, 2, 3):
            several[number].cancel()
            several[number].cancel()
        await trio.sleep(10)
        several[1].cancel()
    assert made == [1, 4, 5]


async def test_a_call_may_ask_for_another(autojump_clock: MockClock) -> None:
    """Also for one that is due at once."""
    made: list[str] = []
    async with running() as alarms:

        def first() -> None:
            made.append("first")
            alarms.at(trio.current_time(), partial(made.append, "second"))

        alarms.at(trio.current_time() + 1, first)
        await trio.sleep(2)
    assert made == ["first", "second"]
