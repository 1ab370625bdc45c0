"""Whether other tasks have something to do, as the serving loop sees it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from logd.net.other_tasks import OtherTasks


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """One entry for each time that Trio was asked."""
    calls: list[int] = []
    ask = trio.lowlevel.current_statistics

    def counted() -> trio.lowlevel.RunStatistics:
        calls.append(1)
        return ask()

    monkeypatch.setattr(trio.lowlevel, "current_statistics", counted)
    return iter([calls])


async def test_trio_is_asked_again_only_when_somebody_was_scheduled(
    asked: Iterator[list[int]], autojump_clock: MockClock
) -> None:
    """Turn after turn without another task costs one question; a scheduled task is seen at once."""
    calls = next(asked)
    tasks = OtherTasks()
    trio.lowlevel.add_instrument(tasks)
    event = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(event.wait)
        await wait_all_tasks_blocked()
        assert tasks.idle_s(trio.current_time()) > 0
        calls.clear()
        for _ in range(100):
            assert tasks.idle_s(trio.current_time()) > 0
        assert calls == []
        event.set()
        assert tasks.idle_s(trio.current_time()) == 0
        assert tasks.idle_s(trio.current_time()) == 0, "it has not run yet"
        await wait_all_tasks_blocked()
        assert tasks.idle_s(trio.current_time()) > 0
    trio.lowlevel.remove_instrument(tasks)


async def test_the_next_deadline_bounds_the_idle_time(
    autojump_clock: MockClock,
) -> None:
    """A task that sleeps for three seconds leaves three, then two, then none."""
    tasks = OtherTasks()
    trio.lowlevel.add_instrument(tasks)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep, 3)
        await wait_all_tasks_blocked()
        now = trio.current_time()
        assert tasks.idle_s(now) == pytest.approx(3)
        assert tasks.idle_s(now + 1) == pytest.approx(2)
        await trio.sleep(2.5)
        assert tasks.idle_s(trio.current_time()) == pytest.approx(0.5)
    trio.lowlevel.remove_instrument(tasks)
