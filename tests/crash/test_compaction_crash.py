"""A compaction stopped before every file-system call: the old records are there, or the new ones.

The workload appends, rolls, checkpoints, cleans, replaces (segments that keep their base, several
into one, some into nothing), deletes and unlinks; the crashes are those of `LyingDisk`.
"""

from __future__ import annotations

import copy
import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from logd.errors import DiskFullError, LogFailedError
from logd.record.batch import read_header
from logd.storage.check_partition import Expected, check_partition
from logd.storage.check_report import CheckReport
from logd.storage.clean_steps import steps_of
from logd.storage.cleaned_segment import unlink_cleaned
from logd.storage.log import Log, LogSettings
from logd.storage.sync_record import SyncPoint
from tests.crash.lying_disk import FastFiles, LyingDisk, Stop
from tests.model.compaction_model import Model
from tests.unit.compaction_rig import (
    NOW_MS,
    Pair,
    Row,
    compact,
    keyed_batch,
    order_round,
    rows_in,
    run_round,
)
from tests.unit.log_builder import append, make_log, recover_log

SETTINGS = LogSettings(
    segment_bytes=900, index_interval_bytes=100, segment_index_bytes=4096, is_compacted=True
)
MODES = ("kill", "lost", "torn", "names lost", "content lost")
RETENTION_MS = 24 * 3600 * 1000
PRODUCER_ID = 9


class Session:
    """A compacted log under a driver; `versions` are the records that a crash may leave just now.

    The first version is what was acknowledged before the current step, the last one what the step
    will have made of it.
    """

    def __init__(self, log: Log) -> None:
        self.log = log
        self.model = Model(retention_ms=RETENTION_MS)
        self.versions: list[list[Row]] = [[]]
        self.starts = {0}
        self.point: SyncPoint | None = None
        self.sequence = 0
        self.attempt = 0
        self.rounds: list[tuple[int, int]] = []  # The calls of each, first and last.
        self.steps = 0

    def append(self, *pairs: Pair) -> None:
        """Append one batch and acknowledge it."""
        batch = keyed_batch(
            pairs, producer_id=PRODUCER_ID, producer_epoch=0, base_sequence=self.sequence
        )
        self.sequence += len(pairs)
        assert self.log.producers.check(read_header(batch)) is None
        base = self.log.end_offset
        self.model.append(
            [Row(base + at, key, value, 5000 + at) for at, (key, value) in enumerate(pairs)]
        )
        self.versions.append(self.model.visible())
        self.point = append(self.log, batch, now_ms=NOW_MS)
        self.versions = [self.model.visible()]

    def roll(self) -> None:
        """Seal the active segment."""
        self.log.roll_now()

    def checkpoint(self) -> None:
        """Take a checkpoint."""
        self.log.checkpoint()

    def compact(self, now_ms: int = NOW_MS) -> None:
        """Do a round, and put it in place."""
        disk = self.log.files
        assert isinstance(disk, LyingDisk)
        begun = len(disk.calls)
        order = order_round(self.log, attempt=self.attempt, now_ms=now_ms)
        assert order is not None
        self.attempt += 1
        result = run_round(order, self.log)
        after = copy.deepcopy(self.model)
        after.compact(first_dirty=order.first_dirty_offset, end=order.end_offset, now_ms=now_ms)
        known = self.log.compaction
        assert known is not None
        steps = steps_of(order, result, segments_max=1, known_horizon_ms=known.next_horizon_ms)
        for step_order, step in steps:
            # The new version up to the end of the step, the old one behind it.
            end = step_order.end_offset
            self.versions.append(
                [row for row in after.visible() if row.offset < end]
                + [row for row in self.model.visible() if row.offset >= end]
            )
            unlink_paths = self.log.replace_segments(step_order, step).unlink_paths
            self.steps += 1
            self.versions = self.versions[-1:]
            for path in unlink_paths:
                self.log.files.unlink(path)
        self.model = after
        assert self.versions == [self.model.visible()]
        self.rounds.append((begun, len(disk.calls)))

    def delete_before(self, offset: int) -> None:
        """Delete the oldest records."""
        before = self.model.visible()
        self.model.start = offset
        self.versions = [before, self.model.visible()]
        self.starts.add(offset)
        unlink_paths = self.log.delete_before(offset).unlink_paths
        self.versions = [self.model.visible()]
        self.starts = {offset}
        for path in unlink_paths:
            self.log.files.unlink(path)


def workload(session: Session) -> None:
    """A bit of everything that replaces segments."""
    value = b"v" * 60
    for number in range(9):
        session.append((b"k%d" % (number % 4), value), (b"once %d" % number, value))
    session.checkpoint()
    session.append((b"k1", None), (None, b"no key"))
    session.roll()
    session.append((b"active", b"1"))
    session.compact()
    for number in range(6):  # All of the segments that these fill are superseded at once.
        session.append((b"k%d" % (number % 2), value), (b"k2", value))
    session.roll()
    session.compact()
    for number in range(9):
        session.append((b"once %d" % number, None))
    session.checkpoint()
    session.append((b"k2", None), (b"active", None))
    session.roll()
    session.compact()
    session.delete_before(19)
    session.append((b"last", value))
    session.roll()
    session.compact(NOW_MS + RETENTION_MS)  # The tombstones' time has come.
    session.append((b"last", value))
    session.log.close()


def run(disk: LyingDisk, work: Callable[[Session], None] = workload) -> tuple[Session | None, bool]:
    """Run the workload until it ends or the disk stops it; return the session, and which."""
    session = None
    try:
        session = Session(make_log(disk.root, settings=SETTINGS, files=disk))
        work(session)
    except Stop:
        return session, False
    return session, True


def check_left(target: Path, session: Session, *, same_boot: bool) -> None:
    """Recover what a crash left, twice; compare with what may be there, and go on."""
    root = str(target)
    _check_offline(root)
    log, report = recover_log(
        root, settings=SETTINGS, files=FastFiles(), point=session.point, same_boot=same_boot
    )
    assert not report.damaged, report.lines()
    rows = rows_in(log)
    assert rows in session.versions
    assert log.log_start_offset in session.starts
    _check_nothing_left_over(log)
    _check_producers(log, session)
    again, second = recover_log(
        root, settings=SETTINGS, files=FastFiles(), point=session.point, same_boot=same_boot
    )
    assert not second.damaged
    assert not second.cuts
    assert rows_in(again) == rows
    append(again, keyed_batch([(b"k0", b"more"), (b"new", b"more")]), now_ms=NOW_MS)
    compact(again, attempt=99)
    newest = {row.key: row for row in rows_in(again)}
    assert len(newest) == len(rows_in(again)), "a key is there twice"
    assert newest[b"new"].value == b"more"


def _check_offline(root: str) -> None:
    """`logd check` finds all records in what a crash left; the next start mends indexes."""
    report = CheckReport(root)
    expected = Expected(may_have_gaps=True)
    check_partition(FastFiles(), f"{root}/t-0", expected, report)
    damage = [found for found in report.damage if "index" not in found.path]
    assert not damage, damage


def _check_nothing_left_over(log: Log) -> None:
    names = os.listdir(log.directory)
    assert not [name for name in names if name.endswith((".cleaned", ".deleted", ".tmp"))]
    assert "replacement" not in names
    sizes = [os.path.getsize(f"{log.directory}/{name}") for name in names if name.endswith(".log")]
    assert sum(sizes) == log.size_bytes


def _check_producers(log: Log, session: Session) -> None:
    entries = log.producers.entries()
    acked = session.versions[0]
    if acked and session.sequence:
        assert entries
        assert entries[0].last_offset >= acked[-1].offset


def calls_of_rounds(tmp_path: Path) -> list[int]:
    """Return the numbers of the calls that the workload's rounds make, and the one behind each."""
    root = tmp_path / "whole"
    root.mkdir()
    disk = LyingDisk(str(root))
    session, ended = run(disk)
    assert ended
    assert session is not None
    assert len(session.model.rows) < 12
    assert session.steps > len(session.rounds), "no round was put in place in several steps"
    disk.close()
    return [call for begun, end in session.rounds for call in range(begun, end + 2)]


@pytest.mark.parametrize("part", range(4))
def test_one_version_is_valid_at_every_call(tmp_path: Path, part: int, rng: random.Random) -> None:
    """Whatever call the program is stopped before, whatever a power cut takes: old or new."""
    calls = calls_of_rounds(tmp_path)
    assert len(calls) > 120
    for stop_at in calls[part::4]:
        root = tmp_path / f"run{stop_at}"
        root.mkdir()
        disk = LyingDisk(str(root), stop_at=stop_at, halves=rng.random() < 0.5)
        session, _ = run(disk)
        assert session is not None
        mode = rng.choice(MODES)
        disk.crash(mode, str(tmp_path / f"left{stop_at}"), rng)
        check_left(tmp_path / f"left{stop_at}", session, same_boot=mode == "kill")
        disk.close()


def test_a_recovery_that_is_stopped_is_begun_anew(tmp_path: Path, rng: random.Random) -> None:
    """A committed replacement is finished by the next start, or by the one after that."""
    root = tmp_path / "first"
    root.mkdir()
    disk = LyingDisk(str(root))
    session = Session(make_log(disk.root, settings=SETTINGS, files=disk))
    for number in range(9):
        session.append((b"k%d" % (number % 2), b"v" * 60))
    session.roll()
    disk.stop_at = None

    def stop_behind_the_commit(old: str, new: str) -> None:
        original(old, new)
        if new.endswith("/replacement"):
            disk.stop_at = len(disk.calls) + 3

    original = disk.rename
    disk.rename = stop_behind_the_commit  # type: ignore[method-assign]  # a planted stop
    with pytest.raises(Stop):
        session.compact()
    committed = tmp_path / "committed"
    disk.crash("kill", str(committed), rng)
    disk.close()
    assert "replacement" in os.listdir(committed / "t-0")
    stop_at = 0
    while True:
        start = tmp_path / f"again{stop_at}"
        _copy(committed, start)
        again = LyingDisk(str(start), stop_at=stop_at)
        ended = False
        try:
            recover_log(str(start), settings=SETTINGS, files=again, point=session.point)
            ended = True
        except Stop:
            pass  # As ordered.
        left = tmp_path / f"then{stop_at}"
        again.crash(rng.choice(MODES), str(left), rng)
        again.close()
        check_left(left, session, same_boot=True)
        if ended:
            break
        stop_at += 1
    assert stop_at > 10


def _copy(source: Path, target: Path) -> None:
    (target / "t-0").mkdir(parents=True)
    for name in os.listdir(source / "t-0"):
        (target / "t-0" / name).write_bytes((source / "t-0" / name).read_bytes())


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_call_that_fails_costs_nothing(tmp_path: Path, rng: random.Random, error: int) -> None:
    """Each call of a round fails once: refused with the old records, or failed with either."""
    at, outcomes = 0, set()
    while True:
        root = tmp_path / f"run{at}"
        root.mkdir()
        disk = LyingDisk(str(root))
        session = Session(make_log(disk.root, settings=SETTINGS, files=disk))
        for number in range(9):
            session.append((b"k%d" % (number % 2), b"v" * 60))
        session.checkpoint()
        session.roll()
        fail_at = len(disk.calls) + at
        _fail_once(disk, fail_at, error)
        try:
            session.compact()
            outcomes.add("done")
        except DiskFullError:
            outcomes.add("full")
            unlink_cleaned(disk, session.log.directory, 0)
            assert rows_in(session.log) == session.versions[0]
            session.attempt = 1
            session.compact()
            assert rows_in(session.log) == session.versions[0]
        except LogFailedError:
            outcomes.add("failed")
        except OSError:
            outcomes.add("refused")
            assert rows_in(session.log) == session.versions[0]
        left = tmp_path / f"left{at}"
        disk.crash("kill", str(left), rng)
        disk.close()
        check_left(left, session, same_boot=True)
        if len(disk.calls) <= fail_at:
            break
        at += 1
    assert at > 20
    assert outcomes >= {"done", "full" if error == errno.ENOSPC else "failed"}


def _fail_once(disk: LyingDisk, fail_at: int, error: int) -> None:
    """Let one call fail, by its number."""
    count = disk._count

    def failing(name: str) -> None:
        if len(disk.calls) == fail_at:
            disk.calls.append(name)
            raise OSError(error, os.strerror(error))
        count(name)

    disk._count = failing  # type: ignore[method-assign]  # a planted fault
