"""broker.retention_clock: retention under clocks that jump, at run time and between two runs."""

from __future__ import annotations

import errno

import pytest
import trio
from trio.testing import MockClock

from logd.policy.clock_guard import AHEAD_MAX_MS, HOLD_MS, ClockNote
from logd.units import DAY_MS, HOUR_MS
from tests.unit.retention_rig import LIMIT_MS, START_MS, MovableClock, RetentionRig


@pytest.fixture
def rig(directory: str) -> RetentionRig:
    return RetentionRig(directory)


def test_a_jump_ahead_deletes_nothing_and_is_said(rig: RetentionRig) -> None:
    """A day ahead while running: status, metric and log say that it does not count; set right,
    retention goes on."""
    partition = rig.opened(retention_ms=str(HOUR_MS))
    rig.fill(partition, 3)
    rig.clock.jump_ms(DAY_MS)
    rig.run_round()
    rig.run_round()
    assert partition.log_start_offset == 0
    assert rig.metric("logd_retention_stopped") == 1
    (line,) = rig.events_of("retention stopped")
    assert "1d ahead" in line
    (problem,) = rig.problems()
    assert (problem.kind, problem.severity) == ("retention_stopped", "warning")
    assert "--ignore-clock-guard" in problem.message
    rig.clock.jump_ms(-DAY_MS)
    rig.run_round()
    assert rig.metric("logd_retention_stopped") == 0
    assert not rig.problems()
    assert len(rig.events_of("retention goes on")) == 1
    rig.clock.pass_ms(HOUR_MS)
    rig.run_round()
    assert partition.log_start_offset == 12


def test_while_a_jump_stands_time_goes_on(rig: RetentionRig) -> None:
    """By the boot-time clock: what becomes due goes, no more; and the size rule works."""
    partition = rig.opened(retention_ms=str(HOUR_MS))
    rig.fill(partition, 2, age_ms=HOUR_MS // 2)
    rig.fill(partition, 2)
    rig.clock.jump_ms(DAY_MS)
    rig.clock.pass_ms(HOUR_MS // 2)
    rig.run_round()
    assert partition.log_start_offset == 8
    rig.alter(retention_ms=str(HOUR_MS), retention_bytes="1")
    rig.run_round()
    assert partition.log_start_offset == 12


def test_who_knows_better_overrides(rig: RetentionRig) -> None:
    """--ignore-clock-guard: the wall clock counts, for this one deletion."""
    partition = rig.opened(retention_ms=str(HOUR_MS))
    rig.fill(partition, 3)
    rig.clock.jump_ms(DAY_MS)

    async def delete(ignore_clock_guard: bool) -> int:
        removed = await rig.retention.delete_due(partition, ignore_clock_guard=ignore_clock_guard)
        return removed.segments

    assert trio.run(delete, False) == 0
    assert trio.run(delete, True) == 3
    assert rig.metric("logd_retention_stopped") == 1


def test_a_jump_back_keeps_everything_longer(rig: RetentionRig) -> None:
    """A day back: what was due stays until the clock is right; nothing is said to be wrong with
    retention, but that the records are of the future."""
    partition = rig.opened(retention_ms=str(HOUR_MS))
    rig.fill(partition, 3, age_ms=HOUR_MS)
    rig.clock.jump_ms(-DAY_MS)
    rig.run_round()
    assert partition.log_start_offset == 0
    assert [problem.kind for problem in rig.problems()] == ["retention_held"]
    rig.clock.jump_ms(DAY_MS)
    rig.run_round()
    assert partition.log_start_offset == 12
    assert not rig.problems()


@pytest.mark.parametrize("boot_id", ["boot", "another boot"])
def test_a_clock_that_is_ahead_at_start_deletes_nothing_for_a_day(
    directory: str, boot_id: str
) -> None:
    """A restart under a wrong clock, in the same boot or another: held, and said, at once."""
    first = RetentionRig(directory)
    first.fill(first.opened(retention_ms=str(6 * HOUR_MS)), 3)
    trio.run(first.retention.clock.note)
    (note,) = first.notes
    assert note == ClockNote(START_MS, 5_000_000, "boot")
    clock = MovableClock()
    clock.pass_ms(1000)
    clock.jump_ms(DAY_MS)
    rig = RetentionRig(directory, clock=clock, last=note, boot_id=boot_id)
    partition = rig.opened(retention_ms=str(6 * HOUR_MS))
    rig.run_round()
    assert partition.log_start_offset == 0
    assert rig.metric("logd_retention_stopped") == 1
    (problem,) = rig.problems()
    assert "last run" in problem.message
    assert len(rig.events_of("retention stopped")) == 1
    clock.pass_ms(HOUR_MS)
    rig.run_round()
    assert partition.log_start_offset == 0
    clock.pass_ms(HOLD_MS - HOUR_MS)
    rig.run_round()
    assert partition.log_start_offset == 12
    assert not rig.problems()


async def test_the_clock_is_noted_every_minute_and_at_the_end(
    rig: RetentionRig, autojump_clock: MockClock
) -> None:
    """No later than what is borne out; a refusal is said once, and costs nothing else."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.retention.run)
        await trio.sleep(150)
        rig.clock.jump_ms(DAY_MS)
        await trio.sleep(60)
        await rig.retention.stop()
    assert [note.time_ms - START_MS for note in rig.notes] == [0, 60_000, 120_000, 180_000, 210_000]
    assert all(note.time_ms - START_MS == note.boot_ms - 5_000_000 for note in rig.notes)
    assert AHEAD_MAX_MS < DAY_MS

    def refuse(_note: ClockNote) -> None:
        raise OSError(errno.ENOSPC, "no space")

    rig.retention.clock._write_note = refuse
    await rig.retention.clock.note()
    await rig.retention.clock.note()
    assert len(rig.events_of("the time was not noted")) == 1


def test_a_timestamp_of_the_future_holds_its_log_and_is_said(rig: RetentionRig) -> None:
    """It deletes nothing of others, and what it keeps is explained; size and delete-records end
    it."""
    held, other = rig.opened("held"), rig.opened("other")
    rig.append(held, -365 * DAY_MS, records=4)
    for partition in (held, other):
        rig.fill(partition, 2, age_ms=LIMIT_MS)
        rig.fill(partition, 1)
    rig.run_round()
    assert (held.log_start_offset, other.log_start_offset) == (0, 8)
    assert rig.metric("logd_retention_held_partitions") == 1
    (problem,) = rig.problems()
    assert (problem.kind, problem.topic, problem.partition) == ("retention_held", "held", 0)
    assert str(START_MS + 365 * DAY_MS) in problem.message
    trio.run(held.delete_records, 4)
    rig.run_round()
    assert held.log_start_offset == 12
    assert rig.metric("logd_retention_held_partitions") == 0
