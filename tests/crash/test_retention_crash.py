"""Retention stopped before every file-system call of its deletions: what was younger than the limit
is there, what was older is gone after the next look, and no file is left behind.

The log is driven as the server drives it, in steps of two segments; the crashes are those of
`LyingDisk`. Beside what `check_promises` knows, each record's timestamp is remembered.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from logd.policy.retention import RetentionRules, plan_retention
from logd.storage import log_facts
from logd.storage.clean_stop import CleanLog
from logd.storage.files import Files
from logd.storage.log import Log
from tests.crash.log_session import (
    SETTINGS,
    TOPIC_ID,
    History,
    Session,
    check_promises,
    read_all,
    recover,
)
from tests.crash.lying_disk import FastFiles, LyingDisk, Stop

POWER_CUTS = ("lost", "torn", "names lost", "content lost")
LIMIT_MS = 5_000
STEP = 2


class RetainingSession(Session):
    """A session that knows how old its records are, and deletes those that are too old.

    Attributes:
        made_ms: the timestamp of each record that was ever staged, by offset.
        phases: the calls, from and to, in which retention was at work.
    """

    def __init__(self, log: Log, history: History) -> None:
        super().__init__(log, history)
        self.made_ms: dict[int, int] = {}
        self.phases: list[tuple[int, int]] = []

    def stage(self, count: int = 2, *, size: int = 20) -> None:
        made_ms, base_offset = self.now_ms, self.log.end_offset
        super().stage(count, size=size)
        self.made_ms |= dict.fromkeys(range(base_offset, base_offset + count), made_ms)

    def retain(self) -> None:
        """Delete what is due, in steps."""
        disk = self.log.files
        assert isinstance(disk, LyingDisk)
        began = len(disk.calls)
        while True:
            new_start = decide(self.log, self.now_ms)
            if new_start == self.log.log_start_offset:
                break
            gone = range(self.log.log_start_offset, new_start)
            assert all(self.made_ms[offset] <= self.now_ms - LIMIT_MS for offset in gone)
            self.delete_before(new_start)
        self.phases.append((began, len(disk.calls)))


def decide(log: Log, now_ms: int) -> int:
    """Return where the log is to begin, by its oldest segments, all records being visible."""
    rules = RetentionRules(
        retention_ms=LIMIT_MS,
        retention_bytes=-1,
        deletes=True,
        log_start_offset=log.log_start_offset,
    )
    plan = plan_retention(
        log.oldest_segments(STEP),
        rules,
        now_ms=now_ms,
        wall_ms=now_ms,
        high_watermark=log.synced_offset,
        size_bytes=log.size_bytes,
    )
    return plan.new_log_start_offset


def look_again(log: Log, now_ms: int) -> None:
    """Delete what is due, and what an interrupted deletion left behind, as the driver does."""
    while (new_start := decide(log, now_ms)) != log.log_start_offset or log.is_deletion_unfinished:
        log.delete_before(new_start)


def workload(session: RetainingSession) -> None:
    """Segments become due in turn; then the log is idle and all of it is; then it goes on."""
    for _ in range(12):
        session.append(5)
        session.now_ms += 500
    session.log.checkpoint(session.log.begin_checkpoint())
    session.retain()
    session.append(3)
    session.stage(2)
    session.write()
    session.retain()
    session.sync()
    session.now_ms += LIMIT_MS
    session.retain()
    session.append(4)
    session.log.checkpoint(session.log.begin_checkpoint())
    session.now_ms += LIMIT_MS
    session.retain()
    session.append(2)


def run(disk: LyingDisk, history: History) -> RetainingSession:
    """Run the workload until it ends or the disk stops it; return the session."""
    session = RetainingSession.create(disk, disk.root, history, SETTINGS)
    assert isinstance(session, RetainingSession)
    try:
        work_ended = False
        workload(session)
        work_ended = True
    except Stop:
        assert not work_ended
    return session


def calls_of_retention(tmp_path: Path) -> list[int]:
    """Return the numbers of all calls in which retention was at work, and of the one after each."""
    root = tmp_path / "whole"
    root.mkdir()
    disk = LyingDisk(str(root))
    phases = run(disk, History()).phases
    disk.close()
    assert len(phases) == 4
    return [call for began, ended in phases for call in range(began, ended + 1)]


def check_retention(root: str, session: RetainingSession, *, same_boot: bool) -> None:
    """Recover, let retention look again, and compare with what every record's age says."""
    log, _ = recover(FastFiles(), root, same_boot=same_boot, point=None)
    history = session.history
    assert history.log_start_offset <= log.log_start_offset <= history.asked_start_offset
    names = os.listdir(log.directory)
    assert not [name for name in names if name.endswith((".deleted", ".tmp"))]
    records = read_all(log)
    for offset in history.acked:
        if session.made_ms[offset] > session.now_ms - LIMIT_MS:
            assert offset in records, "a record younger than the limit is gone"
    later_ms = session.now_ms + LIMIT_MS
    for now_ms in (session.now_ms, later_ms):
        look_again(log, now_ms)
    assert (log.log_start_offset, log.size_bytes) == (log.end_offset, 0)
    bases = sorted(int(name[:20]) for name in os.listdir(log.directory) if name.endswith(".log"))
    assert bases == [log.end_offset]


@pytest.mark.parametrize("part", range(3))
def test_a_crash_at_any_call_of_a_deletion(tmp_path: Path, part: int, rng: random.Random) -> None:
    """Whatever call it is stopped before, whatever a power cut takes: nothing young is gone, what
    was left undone is done after the restart, and the promises hold."""
    calls = calls_of_retention(tmp_path)
    assert len(calls) > 60
    for stop_at in calls[part::3]:
        root = tmp_path / f"run{stop_at}"
        root.mkdir()
        history = History()
        disk = LyingDisk(str(root), stop_at=stop_at, halves=rng.random() < 0.5)
        session = run(disk, history)
        point = history.points[-1]
        for mode in ("kill", rng.choice(POWER_CUTS)):
            same_boot = mode == "kill"
            target = f"{tmp_path}/left{stop_at}-{mode}"
            disk.crash(mode, f"{target}-a", rng)
            check_retention(f"{target}-a", session, same_boot=same_boot)
            if (mode == "kill") == (rng.random() < 0.5):  # One of the two: it takes its time.
                disk.crash(mode, f"{target}-b", rng)
                check_promises(f"{target}-b", history, same_boot=same_boot, point=point)
        disk.close()


def test_a_timestamp_that_is_not_the_greatest_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check bites: facts that make segments look a second older delete what is too young."""
    right = log_facts._max_timestamp_ms
    monkeypatch.setattr(log_facts, "_max_timestamp_ms", lambda *given: right(*given) - 1000)
    disk = LyingDisk(str(tmp_path))
    with pytest.raises(AssertionError):
        run(disk, History())
    disk.close()


def open_clean(files: Files, root: str, clean: CleanLog) -> Log:
    return Log.open_clean(
        files,
        f"{root}/t-0",
        topic_id=TOPIC_ID,
        topic="t",
        partition=0,
        settings=SETTINGS,
        clean=clean,
    )


def test_a_clean_stop_between_any_two_steps(tmp_path: Path) -> None:
    """Stopped cleanly after one step, two, ...: the next run goes on where the last one ended, and
    in the end the same is left as without any stop."""
    ends = set()
    for steps in range(8):
        root = tmp_path / f"run{steps}"
        root.mkdir()
        session = RetainingSession.create(FastFiles(), str(root), History(), SETTINGS)
        for _ in range(30):
            session.append(5)
        log = session.log
        now_ms = session.now_ms + LIMIT_MS - 50
        for _ in range(steps):
            log.delete_before(decide(log, now_ms))
        log = open_clean(FastFiles(), str(root), log.close())
        look_again(log, now_ms)
        ends.add((log.log_start_offset, log.end_offset, log.size_bytes))
        assert list(read_all(log)) == list(range(log.log_start_offset, log.end_offset))
    assert len(ends) == 1
    ((start, end, _),) = ends
    assert 0 < start < end
