"""Compaction of the offsets log: no further than what a start goes on from."""

from __future__ import annotations

import pytest

from logd.broker import offsets_log
from logd.policy.compaction import NotDue, plan_compaction
from logd.storage.clean_order import CleanLimits
from logd.storage.group_snapshot import group_snapshot_path
from tests.crash.lying_disk import FastFiles
from tests.unit.compaction_rig import RULES, run_round
from tests.unit.log_builder import overwrite
from tests.unit.offsets_rig import OffsetsRig, commit_of


class FailingRenames(FastFiles):
    """Renames nothing while it is told so."""

    fails = False

    def rename(self, old: str, new: str) -> None:
        if self.fails:
            raise OSError(28, "planted")
        super().rename(old, new)


def snapshot_path(rig: OffsetsRig) -> str:
    return group_snapshot_path(rig.partition.log.directory)


def test_the_log_is_compacted_up_to_the_snapshot_on_disk(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at all without one; up to the newest that was written, also after a restart; a snapshot
    that could not be written, or cannot be used, moves nothing.
    """
    monkeypatch.setattr(offsets_log, "SNAPSHOT_RECORDS", 10)
    files = FailingRenames()
    rig = OffsetsRig(directory, files=files)
    assert rig.log.compaction_bound(0) == 0
    rig.commit_all(range(10))
    assert rig.log.compaction_bound(0) == 0
    rig.snapshot()
    assert rig.log.compaction_bound(0) == 10
    rig.commit_all(range(10))
    files.fails = True
    rig.snapshot()
    assert rig.log.compaction_bound(0) == 10
    files.fails = False
    again = OffsetsRig(directory, clean=rig.close())
    again.load()
    assert again.log.compaction_bound(0) == 10
    overwrite(snapshot_path(again), 5, b"\xff\xff")
    third = OffsetsRig(directory, clean=again.close())
    third.load()
    assert third.log.compaction_bound(0) == 0


@pytest.mark.parametrize("with_snapshot", [True, False])
def test_what_was_deleted_does_not_come_back_after_a_compaction(
    directory: str, with_snapshot: bool
) -> None:
    """Tombstones on both sides of the snapshot, compacted until none is left that may go: a start
    with the snapshot, or without it, has what was acknowledged.
    """
    first = OffsetsRig(directory, overrides={"segment.bytes": "2000"})
    first.commit_all(range(40))
    for number in (1, 2):
        first.append((commit_of(number)[0], None))
    first.settle()
    first.snapshot()
    for _ in range(4):
        first.commit_all(range(45, 50))
    for number in (3, 4):
        first.append((commit_of(number)[0], None))
    first.settle()
    log = first.partition.log
    log.roll_now()
    before = log.size_bytes
    day_ms = 86_400_000
    for attempt, now_ms in ((1, 10**13), (2, 10**13 + 2 * day_ms)):
        facts = log.compaction_facts(bound_offset=first.log.compaction_bound(0))
        plan = plan_compaction(facts, RULES, now_ms=now_ms, on_demand=True)
        if isinstance(plan, NotDue):
            assert attempt == 2
            continue
        order = log.clean_order(
            plan, attempt=attempt, now_ms=now_ms, limits=CleanLimits(delete_retention_ms=1)
        )
        assert order.end_offset <= first.log.compaction_bound(0)
        log.replace_segments(order, run_round(order, log))
    assert log.size_bytes < before
    if not with_snapshot:
        log.files.unlink(snapshot_path(first))
    second = OffsetsRig(directory, clean=None, point=first.points[-1])
    assert second.load() == []
    assert second.state == first.state
    assert len(second.state) == 10 - 4
