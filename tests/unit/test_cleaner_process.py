"""The cleaner's process: the same result as in here, within limits, and never an orphan."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from logd.broker.cleaning import CleaningFailedError
from logd.broker.process_cleaner import ProcessCleaner
from logd.broker.worker import WorkerError
from logd.cleaner_process import IoBudget
from logd.clock import Clock
from logd.offload import ThreadOffload
from logd.storage.clean_order import CleanLimits, CleanOrder, Progress
from logd.storage.cleaned_segment import unlink_cleaned
from logd.storage.log import Log
from logd.units import GIB, MIB
from tests.unit.compaction_rig import COMPACTED, append_pairs, order_round, rows_in, run_round
from tests.unit.log_builder import make_log

MEMORY_BYTES = 256 * MIB
END_S = 60.0


@pytest.fixture
def offload() -> Iterator[ThreadOffload]:
    threads = ThreadOffload()
    yield threads
    threads.close()


@pytest.fixture
def log(tmp_path: Path) -> Log:
    """Five hundred records of twenty keys in many segments, the last one sealed."""
    log = make_log(str(tmp_path), settings=COMPACTED)
    chance = random.Random(4)
    for number in range(100):
        pairs = [(b"k%d" % chance.randrange(20), b"%d" % number) for _ in range(5)]
        append_pairs(log, *pairs)
    log.roll_now()
    return log


def order_of(log: Log, *, attempt: int = 1, **limits: int) -> CleanOrder:
    order = order_round(log, attempt=attempt, limits=CleanLimits(**limits))
    assert order is not None
    return order


def cleaned(log: Log) -> list[str]:
    return [n for n in log.files.list_directory(log.directory) if n.endswith(".cleaned")]


def contents(log: Log) -> list[bytes]:
    return [Path(log.directory, name).read_bytes() for name in cleaned(log)]


async def test_the_process_does_what_the_round_does(log: Log, offload: ThreadOffload) -> None:
    """Its result is the one that the same order gives in here, and so are its files' bytes."""
    told: list[Progress] = []
    result = await ProcessCleaner(offload).clean(
        order_of(log), memory_bytes=MEMORY_BYTES, is_asked_for=False, on_progress=told.append
    )
    names = cleaned(log)
    theirs = contents(log)
    assert {progress.phase for progress in told} >= {"keys", "copy"}
    unlink_cleaned(log.files, log.directory, 1)
    assert run_round(order_of(log), log) == result
    assert cleaned(log) == names
    assert contents(log) == theirs
    before = {row.key: row for row in rows_in(log)}
    log.replace_segments(order_of(log), result)
    assert {row.key: row for row in rows_in(log)} == before
    assert len(rows_in(log)) == len(before)


async def test_files_that_are_gone_are_told_apart(log: Log, offload: ThreadOffload) -> None:
    """A segment that was deleted meanwhile is no fault of the log."""
    order = order_of(log)
    log.files.unlink(log.segment_list.items[0].paths.log)
    with pytest.raises(CleaningFailedError) as caught:
        await ProcessCleaner(offload).clean(
            order, memory_bytes=MEMORY_BYTES, is_asked_for=False, on_progress=lambda _: None
        )
    assert caught.value.kind == "gone"
    assert cleaned(log) == []


async def test_damage_is_told_with_its_place(log: Log, offload: ThreadOffload) -> None:
    """A flipped bit ends the round, with file and position; nothing is left of it."""
    path = log.segment_list.items[1].paths.log
    with Path(path).open("r+b") as file:  # noqa: ASYNC230  a small file of this test
        file.seek(100)
        byte = file.read(1)[0]
        file.seek(100)
        file.write(bytes((byte ^ 1,)))
    with pytest.raises(CleaningFailedError) as caught:
        await ProcessCleaner(offload).clean(
            order_of(log), memory_bytes=MEMORY_BYTES, is_asked_for=False, on_progress=lambda _: None
        )
    assert caught.value.kind == "damaged"
    assert path in str(caught.value)
    assert cleaned(log) == []


async def test_it_keeps_off_the_reserve(log: Log, offload: ThreadOffload) -> None:
    """Where less than the reserve would stay free, the round ends for want of space."""
    order = order_of(log, reserve_bytes=2**60)
    with pytest.raises(CleaningFailedError) as caught:
        await ProcessCleaner(offload).clean(
            order, memory_bytes=MEMORY_BYTES, is_asked_for=False, on_progress=lambda _: None
        )
    assert caught.value.kind == "space"
    assert cleaned(log) == []


async def test_it_takes_no_more_memory_than_allowed(tmp_path: Path, offload: ThreadOffload) -> None:
    """Keys that its order allows and its limit does not end the process, not the machine."""
    log = make_log(str(tmp_path), settings=replace(COMPACTED, segment_bytes=200 * MIB))
    for number in range(60):
        append_pairs(log, (b"%d" % number + bytes(MIB), b""))
    log.roll_now()
    order = order_of(log, key_map_bytes=GIB)
    with pytest.raises((CleaningFailedError, WorkerError), match=r"(?i)memory"):
        await ProcessCleaner(offload).clean(
            order, memory_bytes=64 * MIB, is_asked_for=False, on_progress=lambda _: None
        )
    result = await ProcessCleaner(offload).clean(
        replace(order, attempt=2),
        memory_bytes=MEMORY_BYTES,
        is_asked_for=False,
        on_progress=lambda _: None,
    )
    assert result.keys == 60


@pytest.mark.parametrize("is_asked_for", [False, True])
async def test_it_stands_behind_everybody_else_unless_somebody_waits(
    log: Log, offload: ThreadOffload, *, is_asked_for: bool
) -> None:
    """A round that is due has nice 19, its session as well; one that was asked for the server's
    own. Either is the first to go when memory is short."""
    nice = os.getpriority(os.PRIO_PROCESS, 0) if is_asked_for else 19
    seen: list[tuple[int, str]] = []
    sessions: list[int] = []

    async with trio.open_nursery() as nursery:

        def look(_progress: Progress) -> None:
            child = only_child(os.getpid())
            adjusted = Path(f"/proc/{child}/oom_score_adj").read_text().strip()
            seen.append((os.getpriority(os.PRIO_PROCESS, child), adjusted))
            session = Path(f"/proc/{child}/autogroup")
            if session.exists():  # The kernel may have been built without.
                sessions.append(int(session.read_text().split()[-1]))
            nursery.cancel_scope.cancel()

        order = order_of(log, io_bytes_per_s=1)
        nursery.start_soon(
            lambda: ProcessCleaner(offload).clean(
                order, memory_bytes=MEMORY_BYTES, is_asked_for=is_asked_for, on_progress=look
            )
        )
    assert seen[0] == (nice, "800")
    assert sessions[:1] in ([], [0 if is_asked_for else 19])


PARENT = """
    import sys, trio
    from pathlib import Path
    from logd.broker.process_cleaner import ProcessCleaner
    from logd.offload import ThreadOffload
    from logd.storage.clean_order import CleanOrder

    async def main():
        order = CleanOrder.from_json(Path(sys.argv[1]).read_text())
        await ProcessCleaner(ThreadOffload()).clean(
            order,
            memory_bytes=2**28,
            is_asked_for=False,
            on_progress=lambda p: print(p, flush=True),
        )

    trio.run(main)
"""


def test_it_dies_with_a_server_that_is_killed(log: Log, tmp_path: Path) -> None:
    """kill -9 of the parent ends the child, in the middle of its work."""
    path = tmp_path / "order.json"
    path.write_text(order_of(log, io_bytes_per_s=1).to_json())
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), str(path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert parent.stdout is not None
    with parent:
        assert b"Progress" in parent.stdout.readline()
        child = only_child(parent.pid)
        assert is_running(child)
        parent.kill()
    deadline = time.monotonic() + END_S
    while is_running(child):
        assert time.monotonic() < deadline, "the child goes on without its parent"
        os.sched_yield()


async def test_a_killed_process_is_an_error_with_its_signal(
    log: Log, offload: ThreadOffload
) -> None:
    """Whoever kills the cleaner gets a failed round, and files that its caller removes."""

    def kill(_progress: Progress) -> None:
        os.kill(only_child(os.getpid()), signal.SIGKILL)

    with pytest.raises(WorkerError, match="signal 9"):
        await ProcessCleaner(offload).clean(
            order_of(log, io_bytes_per_s=1),
            memory_bytes=MEMORY_BYTES,
            is_asked_for=False,
            on_progress=kill,
        )


def only_child(pid: int) -> int:
    """Return the one process that has `pid` for its parent, beside what forks for other tests."""
    children = [child for task in Path(f"/proc/{pid}/task").iterdir() for child in started_by(task)]
    mine = [
        int(child)
        for child in children
        if b"fork_server" not in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    assert len(mine) == 1
    return mine[0]


def started_by(task: Path) -> list[str]:
    """Return the PIDs of what a thread has started; it may have just ended, as idle ones do."""
    try:
        return (task / "children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class SleepingClock(Clock):
    """A clock that moves only when somebody sleeps."""

    now_s = 0.0
    longest_s = 0.0

    def monotonic(self) -> float:  # type: ignore[override]  # a method here, a function there
        return self.now_s

    def sleep(self, seconds: float) -> None:  # type: ignore[override]  # as above, a method
        self.now_s += seconds
        self.longest_s = max(self.longest_s, seconds)


def test_the_budget_spreads_bytes_over_time() -> None:
    """A hundred megabytes at ten a second take ten seconds; long waits are told of."""
    clock = SleepingClock()
    waits: list[float] = []
    budget = IoBudget(10_000_000, clock, lambda: waits.append(clock.now_s))
    for _ in range(100):
        budget.pace(1_000_000)
    assert clock.now_s == pytest.approx(10)
    budget.pace(1_000_000_000)
    assert clock.now_s == pytest.approx(110)
    assert clock.longest_s <= 10
    assert len(waits) >= 20


def test_what_was_not_used_is_lost() -> None:
    """After a minute of waiting for the disk, a burst of one second is all that is made up for."""
    clock = SleepingClock()
    budget = IoBudget(1000, clock, lambda: None)
    clock.now_s = 60.0
    budget.pace(1000)
    assert clock.now_s == 60.0
    budget.pace(2000)
    assert clock.now_s == pytest.approx(62.0)


def test_no_budget_never_waits() -> None:
    """0 is no limit."""
    clock = SleepingClock()
    IoBudget(0, clock, lambda: None).pace(2**50)
    assert clock.now_s == 0
