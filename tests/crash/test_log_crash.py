"""A log stopped before every file-system call, then opened again: nothing acknowledged is lost,
nothing invented. The workload appends, rolls, checkpoints, deletes; the crashes are those of
`LyingDisk`.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from logd.errors import StorageError
from logd.storage.sync_record import SyncPoint
from tests.crash.log_session import SETTINGS, History, Session, check_promises, read_all, recover
from tests.crash.lying_disk import FastFiles, LyingDisk, Stop

POWER_CUTS = ("lost", "torn", "names lost", "content lost")


def workload(session: Session) -> None:
    """A bit of everything that changes files."""
    session.append()
    session.stage(3)
    session.write()
    session.stage(2)
    session.write()
    session.sync()
    session.log.checkpoint(session.log.begin_checkpoint())
    for _ in range(3):  # Over a segment's end, in one write and in several.
        session.stage(3)
    session.write()
    session.repeat_last()
    session.stage(2)
    session.write()
    session.sync()
    session.append(4)
    session.log.checkpoint(session.log.begin_checkpoint())
    session.delete_before(13)
    session.append(5)
    session.append(5)
    session.log.checkpoint(session.log.begin_checkpoint())
    session.log.roll_now()
    session.stage(2)
    session.write()
    session.delete_before(session.log.written_offset - 1)
    session.sync()
    session.delete_before(session.log.written_offset)
    session.append()
    session.log.close()


def run(disk: LyingDisk, history: History, work: Callable[[Session], None] = workload) -> bool:
    """Run the workload until it ends or the disk stops it; return whether it ended."""
    try:
        work(Session.create(disk, disk.root, history, SETTINGS))
    except Stop:
        return False
    return True


def count_calls(tmp_path: Path) -> int:
    """Return how many calls the whole workload makes."""
    root = tmp_path / "whole"
    root.mkdir()
    disk = LyingDisk(str(root))
    assert run(disk, History())
    disk.close()
    return len(disk.calls)


def points_to_try(history: History, rng: random.Random) -> list[SyncPoint | None]:
    """The journal's record may be the newest or, synced later than the data, an older one."""
    if not history.points:
        return [None]
    return [history.points[-1], rng.choice([None, *history.points])]


@pytest.mark.parametrize("part", range(4))
def test_nothing_acknowledged_is_lost_at_any_call(
    tmp_path: Path, part: int, rng: random.Random
) -> None:
    """Whatever call the program is stopped before, whatever a power cut takes: promises hold."""
    calls = count_calls(tmp_path)
    assert calls > 100
    for stop_at in range(part, calls + 1, 4):
        root = tmp_path / f"run{stop_at}"
        root.mkdir()
        history = History()
        disk = LyingDisk(str(root), stop_at=stop_at, halves=rng.random() < 0.5)
        run(disk, history)
        for mode in ("kill", "lost", "torn", rng.choice(POWER_CUTS)):
            target = tmp_path / f"left{stop_at}-{mode}"
            if target.exists():
                continue
            disk.crash(mode, str(target), rng)
            point = rng.choice(points_to_try(history, rng))
            if (target / "t-0").exists():
                check_promises(str(target), history, same_boot=mode == "kill", point=point)
            else:
                assert not history.acked
        disk.close()


def recover_with_stops(
    target: Path, history: History, rng: random.Random, point: SyncPoint | None, mode: str
) -> int:
    """Stop a recovery before each of its calls; crash again; check. Return how many it has."""
    stop_at = 0
    while True:
        again = Path(f"{target}-{stop_at}")
        disk = LyingDisk(str(target))
        disk.crash("kill", f"{again}-start", rng)  # A copy, to be recovered and stopped.
        disk.close()
        disk = LyingDisk(f"{again}-start", stop_at=stop_at, halves=True)
        try:
            recover(disk, disk.root, same_boot=mode == "kill", point=point)
        except Stop:
            second = "kill" if mode == "kill" else rng.choice(POWER_CUTS)
            disk.crash(second, f"{again}-end", rng)
            check_promises(f"{again}-end", history, same_boot=mode == "kill", point=point)
            stop_at += 1
        else:
            return stop_at
        finally:
            disk.close()


def test_recovery_may_be_stopped_at_any_call(tmp_path: Path, rng: random.Random) -> None:
    """A crash during the recovery from a crash loses nothing more; the next recovery succeeds."""
    calls = count_calls(tmp_path)
    recovered = 0
    for stop_at in rng.sample(range(10, calls), 4):
        root = tmp_path / f"run{stop_at}"
        root.mkdir()
        history = History()
        disk = LyingDisk(str(root), stop_at=stop_at, halves=True)
        run(disk, history)
        point = history.points[-1] if history.points else None
        for mode in ("kill", "torn"):
            target = tmp_path / f"left{stop_at}-{mode}"
            disk.crash(mode, str(target), rng)
            if (target / "t-0").exists():
                recovered += recover_with_stops(target, history, rng, point, mode)
        disk.close()
    assert recovered > 20


def until_storage_fails(session: Session) -> None:
    """The workload, as a server goes on with it: an error ends a request, not the server."""
    steps: list[Callable[[], None]] = [
        session.append,
        session.append,
        lambda: session.stage(5),
        session.write,
        lambda: session.stage(5),
        session.write,
        session.sync,
        lambda: session.log.checkpoint(session.log.begin_checkpoint()),
        lambda: session.append(5),
        lambda: session.delete_before(6),
        lambda: session.append(5),
        session.log.roll_now,
        session.append,
    ]
    for step in steps:
        try:
            step()
        except StorageError:
            disk = session.log.files
            assert isinstance(disk, LyingDisk)
            disk.failing.clear()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_call_that_fails_costs_nothing_acknowledged(
    tmp_path: Path, rng: random.Random, error: int
) -> None:
    """Each call fails once, and the server goes on or is stopped: what was acknowledged stays."""
    at = 0
    went_on = 0
    while True:
        root = tmp_path / f"run{at}"
        root.mkdir()
        history = History()
        disk = FailingOnce(str(root), at, error)
        try:
            session = Session.create(disk, str(root), history, SETTINGS)
        except OSError:
            at += 1  # Nobody was told that the topic exists.
            continue
        until_storage_fails(session)
        went_on += session.log.failed is None
        # No space is a state, not a failure, unless a sync or a clean-up reports it.
        final = ("sync_data", "sync", "sync_directory", "truncate")
        assert session.log.failed is None or error == errno.EIO or disk.failed in final
        for mode in ("kill", rng.choice(POWER_CUTS)):
            target = tmp_path / f"left{at}-{mode}"
            disk.crash(mode, str(target), rng)
            check_after_failure(target, history, mode)
        disk.close()
        if not disk.failed:
            break
        at += 1
    assert at > 50
    assert went_on > 5


class FailingOnce(LyingDisk):
    """The `fail_at`-th call fails; all others succeed."""

    def __init__(self, root: str, fail_at: int, error: int) -> None:
        super().__init__(root)
        self._fail_at = fail_at
        self._error = error
        self.failed: str | None = None

    def _count(self, name: str) -> None:
        if len(self.calls) == self._fail_at:
            self.calls.append(name)
            self.failed = name
            raise OSError(self._error, os.strerror(self._error))
        super()._count(name)


def check_after_failure(target: Path, history: History, mode: str) -> None:
    """As `check_promises`; but a failed sync may have left damage behind what was synced."""
    point = history.points[-1] if history.points else None
    log, report = recover(FastFiles(), str(target), same_boot=mode == "kill", point=point)
    records = read_all(log)
    start = log.log_start_offset
    for offset, value in history.acked.items():
        assert offset < start or records.get(offset) == value
    for offset, value in records.items():
        assert value in history.tried[offset]
    assert all(entry.first_offset > max(history.acked, default=-1) for entry in report.damaged)
    end_offset = log.end_offset
    again, second = recover(FastFiles(), str(target), same_boot=mode == "kill", point=point)
    assert again.end_offset == end_offset
    assert not second.cuts
    assert not second.damaged
