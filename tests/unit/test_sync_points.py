"""The loop's side of the sync journal: all points are recorded, and the loop never waits."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from logd.broker.sync_points import SyncPointWriter
from logd.storage.files import OpenFile
from logd.storage.sync_journal import SLOTS_MIN, SyncPoint
from tests.unit.test_partition import Fixture


def point(log: int, offset: int) -> SyncPoint:
    return SyncPoint(bytes([log]) * 16, 0, 0, offset, offset)


def newest(fixture: Fixture) -> dict[int, int]:
    """Return the synced offset of each log."""
    return {key[0][0]: one.synced_offset for key, one in fixture.services.journal.points.items()}


def test_the_points_of_a_turn_are_recorded_in_one_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many logs, one system call, nothing left to a thread."""
    fixture = Fixture(tmp_path)
    writes: list[int] = []
    write_at = type(fixture.files).write_at

    def counted(files: object, file: OpenFile, position: int, buffers: list[bytes]) -> int:
        writes.append(position)
        return write_at(fixture.files, file, position, buffers)

    monkeypatch.setattr(type(fixture.files), "write_at", counted)
    SyncPointWriter(fixture.services).write([point(1, 10), point(2, 20), point(1, 11)])
    assert newest(fixture) == {1: 11, 2: 20}
    assert len(writes) == 1
    assert fixture.offload.in_flight == 0


def test_a_full_half_is_copied_by_a_thread_and_later_points_wait_behind_it(tmp_path: Path) -> None:
    """Copying syncs: not on the loop. What comes meanwhile is recorded after it, in order."""
    fixture = Fixture(tmp_path)
    writer = SyncPointWriter(fixture.services)
    for offset in range(SLOTS_MIN):
        fixture.services.journal.record(point(1, offset))
    assert fixture.services.journal.free_slots == 0
    writer.write([point(1, SLOTS_MIN)])
    assert fixture.offload.in_flight == 1
    writer.write([point(1, SLOTS_MIN + 1), point(2, 5)])
    assert newest(fixture).get(2) is None
    fixture.offload.deliver()
    assert newest(fixture) == {1: SLOTS_MIN + 1, 2: 5}


def test_a_failed_write_is_told_and_the_next_points_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sync stands; its point is missing, no more."""
    fixture = Fixture(tmp_path)
    writer = SyncPointWriter(fixture.services)

    def refuse(*_: object) -> int:
        raise OSError(errno.EIO, "planted")

    with monkeypatch.context() as patch:
        patch.setattr(type(fixture.files), "write_at", refuse)
        writer.write([point(1, 10)])
    assert newest(fixture) == {}
    writer.write([point(1, 11)])
    assert newest(fixture) == {1: 11}


async def test_waiting_ends_when_the_last_point_is_recorded(tmp_path: Path) -> None:
    """A stop waits for a write that runs in a thread."""
    fixture = Fixture(tmp_path)
    writer = SyncPointWriter(fixture.services)
    await writer.wait_idle()
    for offset in range(SLOTS_MIN):
        fixture.services.journal.record(point(1, offset))
    writer.write([point(1, SLOTS_MIN)])
    fixture.offload.deliver()
    await writer.wait_idle()
    assert newest(fixture) == {1: SLOTS_MIN}
