"""The crash tests bite: each fault that is planted here, one by one, breaks a promise that they
check.

A fault is planted by replacing the code that prevents it. Each test has a control run without the
fault, over the same crashes, which must pass.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from logd.errors import LogFailedError
from logd.storage import recovery_walk
from logd.storage.files import Files, OpenFile
from logd.storage.log_write import SegmentWriter
from logd.storage.recovery_report import CutTail
from logd.storage.recovery_walk import Verdict
from logd.storage.segment import Segment
from logd.storage.segment_files import create_segment
from logd.storage.sync_record import SyncPoint
from tests.crash.log_session import SETTINGS, History, Session, check_promises, read_all, recover
from tests.crash.lying_disk import FastFiles, LyingDisk, Stop

Driver = type[Session]


def violations(
    tmp_path: Path,
    rng: random.Random,
    work: Callable[[Session], None],
    *,
    driver: Driver = Session,
    modes: tuple[str, ...],
) -> int:
    """Run, stop at every call, crash, check; return how many crashes broke a promise."""
    found = 0
    tmp_path.mkdir(exist_ok=True)
    stop_at = 0
    ended = False
    while not ended:
        root = tmp_path / f"run{stop_at}"
        root.mkdir()
        disk = LyingDisk(str(root), stop_at=stop_at, halves=True)
        history = History()
        try:
            work(driver.create(disk, str(root), history, SETTINGS))
            ended = True
        except Stop:
            stop_at += 1
        for mode in modes:
            target = tmp_path / f"left{stop_at}-{mode}-{ended}"
            disk.crash(mode, str(target), rng)
            if not (target / "t-0").exists():
                found += bool(history.acked)
                continue
            point = history.points[-1] if history.points else None
            try:
                check_promises(str(target), history, same_boot=mode == "kill", point=point)
            except (AssertionError, KeyError):
                found += 1
        disk.close()
    return found


def appends(session: Session) -> None:
    """Two appends, each acknowledged."""
    session.append()
    session.append()


def test_ack_before_sync_is_caught(tmp_path: Path, rng: random.Random) -> None:
    """A driver that acknowledges after the write loses what it acknowledged to a power cut."""

    class Hasty(Session):
        acks_wait_for_sync = False

    assert violations(tmp_path / "good", rng, appends, modes=("lost",)) == 0
    assert violations(tmp_path / "bad", rng, appends, driver=Hasty, modes=("lost",)) > 0


def test_duplicate_answered_before_its_sync_is_caught(tmp_path: Path, rng: random.Random) -> None:
    """A repetition that is acknowledged while its original is only written can lose it."""

    class Hasty(Session):
        duplicates_wait_for_sync = False

    def work(session: Session) -> None:
        session.append()
        session.stage()
        session.write()
        session.repeat_last()
        session.sync()

    assert violations(tmp_path / "good", rng, work, modes=("lost",)) == 0
    assert violations(tmp_path / "bad", rng, work, driver=Hasty, modes=("lost",)) > 0


def test_roll_without_directory_sync_is_caught(
    tmp_path: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it, the new segment's name, and all that was acknowledged in it, can be gone."""

    def create_without_sync(self: SegmentWriter, new: Segment) -> None:
        state = self._state
        new.files = create_segment(
            state.files,
            state.directory,
            new.base_offset,
            settings=state.settings,
            with_indexes=True,
        )
        new.size = 0
        new.appended_from = 0
        new.max_timestamp = (-1, new.base_offset)

    def work(session: Session) -> None:
        session.append(8)
        session.append(8)

    assert violations(tmp_path / "good", rng, work, modes=("lost", "names lost")) == 0
    monkeypatch.setattr(SegmentWriter, "_create", create_without_sync)
    assert violations(tmp_path / "bad", rng, work, modes=("lost", "names lost")) > 0


def after_failed_sync(tmp_path: Path) -> tuple[LyingDisk, History]:
    """A log whose last sync failed: the cache shows bytes that the device does not have."""
    tmp_path.mkdir()
    disk = LyingDisk(str(tmp_path))
    history = History()
    session = Session.create(disk, str(tmp_path), history, SETTINGS)
    session.append()
    session.stage()
    session.write()
    disk.failing["sync_data"] = 5
    with pytest.raises(LogFailedError):
        session.sync()
    disk.failing.clear()
    return disk, history


def survives_eviction(disk: LyingDisk, history: History) -> bool:
    """Restart the server on the same machine, let the kernel evict pages, and read all again."""
    log, _ = recover(disk, disk.root, same_boot=True, point=history.points[-1])
    before = read_all(log)
    disk.evict()
    again, _ = recover(disk, disk.root, same_boot=True, point=history.points[-1])
    # Whatever a recovery shows to readers is there to stay; so is what was acknowledged.
    return read_all(again) == before and history.acked.items() <= before.items()


def test_recovery_that_trusts_the_page_cache_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What only the cache has must not be taken for synced: it is gone when the page is evicted."""
    assert survives_eviction(*after_failed_sync(tmp_path / "good"))
    disk, history = after_failed_sync(tmp_path / "bad")

    def keep_cache(_self: Files, _file: OpenFile, _position: int = 0, _size: int = 0) -> None:
        """Do not drop anything."""

    monkeypatch.setattr(LyingDisk, "drop_cache", keep_cache)
    assert not survives_eviction(disk, history)


def test_tail_that_is_not_cut_is_caught(
    tmp_path: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that stay behind the end of the log are found by the check."""

    def keep_tail(_files: Files, _directory: str, file: OpenFile, **at: int | str) -> CutTail:
        return CutTail(file.path, int(at["position"]), 0, "", "kept")

    assert violations(tmp_path / "good", rng, appends, modes=("kill", "torn")) == 0
    monkeypatch.setattr(recovery_walk, "cut_tail", keep_tail)
    assert violations(tmp_path / "bad", rng, appends, modes=("kill", "torn")) > 0


def damaged_below_recovery_point(root: Path) -> tuple[History, SyncPoint, int]:
    """A log of four acknowledged batches in one segment, the second one with a flipped bit."""
    root.mkdir()
    history = History()
    session = Session.create(FastFiles(), str(root), history, SETTINGS)
    for _ in range(4):
        session.append()
    session.log.let_go()
    path = root / "t-0" / f"{0:020d}.log"
    data = bytearray(path.read_bytes())
    data[len(data) // 4 + 100] ^= 1
    path.write_bytes(data)
    return history, history.points[-1], 2


def keeps_the_rest(root: Path) -> bool:
    """Whether all acknowledged records but those of the damaged batch are there after recovery."""
    history, point, damaged_offset = damaged_below_recovery_point(root)
    log, _ = recover(FastFiles(), str(root), same_boot=False, point=point)
    records = read_all(log)
    lost = {damaged_offset, damaged_offset + 1}
    wanted = {o: value for o, value in history.acked.items() if o not in lost}
    return records == wanted and log.end_offset >= 8


def test_damage_that_is_cut_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recovery that cuts at damage below R loses what was acknowledged behind it."""
    assert keeps_the_rest(tmp_path / "good")

    def always_cut(**_facts: bool) -> Verdict:
        return Verdict.CUT

    monkeypatch.setattr(recovery_walk, "judge", always_cut)
    assert not keeps_the_rest(tmp_path / "bad")
