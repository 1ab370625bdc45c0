"""The offsets log stopped before every file-system call, then started again: what is loaded is what
was acknowledged. The workload commits, deletes, rolls, writes snapshots; the crashes are those of
`LyingDisk`.
"""

from __future__ import annotations

import errno
import os
import random
from collections import defaultdict
from pathlib import Path

import pytest

from logd.storage.sync_record import SyncPoint
from tests.crash.lying_disk import LyingDisk, Stop
from tests.unit.offsets_rig import OffsetsRig, commit_of

POWER_CUTS = ("lost", "torn", "names lost", "content lost")
SETTINGS = {"segment.bytes": "2500"}


class History:
    """What the clients of a run know.

    Attributes:
        values: each key's values in the order in which they were sent, None for a delete.
        acked: how many of them are acknowledged: the last of those must be loaded, or a later one.
    """

    def __init__(self) -> None:
        self.values: dict[bytes, list[bytes | None]] = defaultdict(list)
        self.acked: dict[bytes, int] = defaultdict(int)
        self.points: list[SyncPoint] = []

    def allowed(self, key: bytes) -> list[bytes | None]:
        """Return what may be loaded of a key."""
        return [None, *self.values[key]][self.acked[key] :]


class Session:
    """A run of the offsets log whose clients remember."""

    def __init__(self, rig: OffsetsRig, history: History) -> None:
        self.rig = rig
        self.history = history

    def send(self, key: bytes, value: bytes | None) -> None:
        values, acked = self.history.values[key], self.history.acked
        values.append(value)
        count = len(values)

        def done(error: object) -> None:
            if error is None:
                acked[key] = count
                self.rig.apply(0, key, value, 0)

        self.rig.log.append(0, [(key, value)], done)

    def turn(self, *numbers: int) -> None:
        """Commit some numbers, delete a key for a negative one, all in one turn."""
        for number in numbers:
            key, value = commit_of(abs(number))
            self.send(key, value if number >= 0 else None)
        self.rig.settle()
        self.history.points += self.rig.points
        self.rig.points.clear()


def workload(session: Session) -> None:
    """Commits, deletes and snapshots, with rolls in between."""
    session.turn(1)
    session.turn(2, 3, 13)
    session.rig.snapshot()
    session.turn(-3, 4)
    session.turn(5, 6, 7, 8)
    session.rig.snapshot()
    for number in range(20, 40):
        session.turn(number)
    session.turn(-21, -22)
    session.rig.snapshot()
    session.turn(41, -2)
    session.rig.close()


def run(disk: LyingDisk, history: History) -> bool:
    """Run the workload until it ends or the disk stops it; return whether it ended."""
    try:
        rig = OffsetsRig(disk.root, files=disk, overrides=SETTINGS)
        workload(Session(rig, history))
    except Stop:
        return False
    except BaseExceptionGroup as group:  # Trio's, around the same.
        assert group.subgroup(Stop) is not None
        return False
    return True


def check_loaded(target: Path, history: History, *, mode: str, point: SyncPoint | None) -> None:
    """Start on what a crash left: nothing acknowledged is lost, nothing deleted comes back."""
    for _ in range(2):  # The second start finds what the first one left.
        rig = OffsetsRig(str(target), point=point, same_boot=mode == "kill", overrides=SETTINGS)
        problems = rig.load()
        assert problems == [], mode
        for key in history.values:
            assert rig.state.get(key) in history.allowed(key), (mode, key)
        assert set(rig.state) <= set(history.values)


def points_to_try(history: History, rng: random.Random) -> SyncPoint | None:
    """The journal's record may be the newest or, synced later than the data, an older one."""
    if not history.points:
        return None
    return rng.choice([history.points[-1], rng.choice(history.points), None])


@pytest.mark.parametrize("part", range(3))
def test_what_was_acknowledged_is_loaded_whatever_call_was_the_last(
    tmp_path: Path, part: int, rng: random.Random
) -> None:
    """A stop before each call, also in the midst of a snapshot, and any power cut."""
    whole = tmp_path / "whole"
    whole.mkdir()
    disk = LyingDisk(str(whole))
    assert run(disk, History())
    disk.close()
    calls = len(disk.calls)
    assert disk.calls.count("rename") >= 6  # Snapshots of both kinds were written.
    for stop_at in range(part, calls + 1, 3):
        root = tmp_path / f"run{stop_at}"
        root.mkdir()
        history = History()
        disk = LyingDisk(str(root), stop_at=stop_at, halves=rng.random() < 0.5)
        run(disk, history)
        for mode in {"kill", "torn", rng.choice(POWER_CUTS)}:
            target = tmp_path / f"left{stop_at}-{mode}"
            disk.crash(mode, str(target), rng)
            if any(target.iterdir()):
                point = points_to_try(history, rng)
                check_loaded(target, history, mode=mode, point=point)
            else:
                assert not history.acked
        disk.close()


class FailingOnce(LyingDisk):
    """The `fail_at`-th call fails; all others succeed."""

    def __init__(self, root: str, fail_at: int, error: int) -> None:
        super().__init__(root)
        self.fail_at = fail_at
        self.error = error
        self.failed = ""

    def _count(self, name: str) -> None:
        if len(self.calls) == self.fail_at:
            self.calls.append(name)
            self.failed = name
            raise OSError(self.error, os.strerror(self.error))
        super()._count(name)


def test_a_snapshot_that_fails_costs_nothing(tmp_path: Path, rng: random.Random) -> None:
    """Each call that writing one makes fails once: the server goes on, and the next start too."""
    failed = set()
    for fail_in_snapshot in range(12):
        root = tmp_path / f"run{fail_in_snapshot}"
        root.mkdir()
        history = History()
        disk = FailingOnce(str(root), -1, errno.ENOSPC)
        session = Session(OffsetsRig(str(root), files=disk, overrides=SETTINGS), history)
        session.turn(1, 2, 3)
        session.rig.snapshot()
        session.turn(4, -2, 15)
        disk.fail_at = len(disk.calls) + fail_in_snapshot
        session.rig.snapshot()
        failed.add(disk.failed)
        disk.fail_at = -1
        if session.rig.partition.offline is None:
            session.turn(5, 6)
        for mode in ("kill", rng.choice(POWER_CUTS)):
            target = tmp_path / f"left{fail_in_snapshot}-{mode}"
            disk.crash(mode, str(target), rng)
            check_loaded(target, history, mode=mode, point=history.points[-1])
        disk.close()
    assert {"create_or_truncate", "write_at", "sync", "rename", "sync_directory"} <= failed
