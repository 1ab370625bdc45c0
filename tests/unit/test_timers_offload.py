"""Timers fire in order and on time; threads do the work and the loop hears of it."""

from __future__ import annotations

import select
import threading

import pytest
import trio
import trio.testing

from logd.broker.disk_space import ROOM_BYTES, DiskSpace
from logd.broker.timers import Timers
from logd.offload import InlineOffload, ThreadOffload


def test_timers_fire_in_order_of_their_deadlines() -> None:
    """Later and earlier deadlines, set in any order, fire in order, at their time."""

    async def main() -> None:
        timers = Timers()
        fired: list[tuple[str, float]] = []
        rounds: list[int] = []
        timers.after = lambda: rounds.append(1)
        start = trio.current_time()

        def note(name: str) -> None:
            fired.append((name, round(trio.current_time() - start, 1)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(timers.run)
            await trio.testing.wait_all_tasks_blocked()
            timers.call_later(5, lambda: note("b"))
            timers.call_later(1, lambda: note("a"))
            timers.call_later(9, lambda: note("c"))
            await trio.sleep(20)
            nursery.cancel_scope.cancel()
        assert fired == [("a", 1), ("b", 5), ("c", 9)]
        assert len(rounds) == 3

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_submitted_work_runs_in_a_thread_and_is_delivered_on_the_loop() -> None:
    """The eventfd becomes readable, and the delivery gets the result or the error."""
    offload = ThreadOffload()
    outcomes: list[tuple[object, BaseException | None]] = []
    names: list[str] = []

    def job() -> int:
        names.append(threading.current_thread().name)
        return 42

    def bad() -> None:
        raise ValueError("no")

    offload.submit("sync", job, lambda result, error: outcomes.append((result, error)))
    offload.submit("sync", bad, lambda result, error: outcomes.append((result, error)))
    while len(outcomes) < 2:
        select.select([offload.wake_fd], [], [], 5)
        offload.deliver()
    offload.close()
    assert names[0].startswith("logd-sync")
    assert (42, None) in outcomes
    assert any(isinstance(error, ValueError) for _, error in outcomes)
    assert offload.in_flight == 0


def test_kinds_have_threads_of_their_own() -> None:
    """A kind whose threads are all busy does not hold up another."""
    offload = ThreadOffload()
    release = threading.Event()
    for _ in range(10):
        offload.submit("disk", release.wait, lambda result, error: None)
    done = threading.Event()
    offload.submit("sync", done.set, lambda result, error: None)
    assert done.wait(30)
    release.set()
    offload.close()


async def test_run_returns_and_raises_what_the_function_does() -> None:
    """Awaiting work in a thread looks like calling it."""
    offload = ThreadOffload()
    try:
        assert await offload.run("disk", divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await offload.run("disk", divmod, 7, 0)
    finally:
        offload.close()


async def test_cancelling_waits_for_work_that_has_begun() -> None:
    """Work that writes is never left behind running: the cancelled caller waits for it."""
    offload = ThreadOffload()
    finished = threading.Event()
    started = threading.Event()
    release = threading.Event()

    def job() -> None:
        started.set()
        release.wait(30)
        finished.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(offload.run, "disk", job)
        while not started.is_set():
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
        release.set()
    assert finished.is_set()
    offload.close()


async def test_asking_does_not_wait_for_what_hangs() -> None:
    """Who asked and is cancelled goes at once; closing does not wait for a kind that was added."""
    offload = ThreadOffload()
    offload.add_kind("disk of a node", 1)
    offload.add_kind("disk of a node", 1)
    assert await offload.ask("disk of a node", divmod, 7, 2) == (3, 1)
    release = threading.Event()
    with trio.fail_after(60):
        with trio.move_on_after(0.01) as patience:
            await offload.ask("disk of a node", release.wait)
        assert patience.cancelled_caught
        offload.close()
    assert not release.is_set()
    release.set()


async def test_inline_offload_does_the_same_without_threads() -> None:
    """The stand-in for simulations keeps the order: work now, delivery later."""
    offload = InlineOffload()
    seen: list[object] = []
    offload.submit("sync", lambda: 7, lambda result, error: seen.append(result))
    assert not seen
    assert offload.in_flight == 1
    assert offload.deliver() == 1
    assert seen == [7]
    assert await offload.run("disk", abs, -3) == 3
    offload.add_kind("new", 1)
    assert await offload.ask("new", abs, -3) == 3


def test_disk_space_is_a_state_that_ends_by_itself() -> None:
    """Below the reserve appends are refused, with the arithmetic; above it they are taken again."""
    disk = DiskSpace(reserve_bytes=1000)
    changes: list[bool] = []
    disk.on_change = changes.append
    disk.checked(5000)
    assert not disk.is_full
    disk.checked(999)
    assert disk.is_full
    assert "disk.reserve.bytes" in disk.reason
    disk.checked(1000)
    assert not disk.is_full
    assert changes == [True, False]


def test_a_disk_that_refuses_writes_stays_full_until_there_is_room() -> None:
    """Each check lets one write try; what it meets decides, and little space is none."""
    disk = DiskSpace(reserve_bytes=0)
    changes: list[bool] = []
    disk.on_change = changes.append
    for free_bytes in (0, ROOM_BYTES - 1, 100 * ROOM_BYTES):
        disk.found_full("no space left on device")
        assert (disk.is_full, disk.refuses, disk.is_exhausted) == (True, True, True)
        disk.checked(free_bytes)
        assert (disk.is_full, disk.refuses, disk.is_exhausted) == (True, False, False)
    disk.checked(ROOM_BYTES - 1)
    assert disk.is_full, "nobody tried, and there is no room"
    disk.checked(ROOM_BYTES)
    assert not disk.is_full
    disk.checked(0)
    assert not disk.is_full, "without a reserve only a refused write tells"
    assert changes == [True, False]
