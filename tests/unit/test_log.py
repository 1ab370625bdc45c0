"""storage.log: append, roll, sync, read, delete, close and open again."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from logd.errors import (
    DiskFullError,
    LogFailedError,
)
from logd.record.batch import read_header
from logd.storage.files import OpenFile
from logd.storage.log import LogSettings
from logd.storage.offset_index import OffsetIndex
from logd.storage.time_index import TimeIndex
from tests.crash.lying_disk import FastFiles
from tests.unit.log_builder import (
    NOW_MS,
    append,
    bases,
    batch_of,
    fill,
    headers_in,
    make_log,
    offsets_read,
    recover_log,
    reopen,
    segment_path,
    stage,
    sync,
    write,
)

ALL = 1 << 30


class BrokenFiles(FastFiles):
    """Calls named in `failing` fail; a failing write writes half."""

    def __init__(self) -> None:
        self.failing: dict[str, int] = {}

    def _check(self, name: str) -> None:
        if name in self.failing:
            raise OSError(self.failing[name], os.strerror(self.failing[name]))

    def write_at(self, file: OpenFile, position: int, buffers: Any) -> int:
        data = b"".join(buffers)
        if "write_at" in self.failing:
            super().write_at(file, position, [data[: len(data) // 2]])
        self._check("write_at")
        return super().write_at(file, position, [data])

    def create(self, path: str) -> OpenFile:
        self._check("create")
        return super().create(path)

    def truncate(self, file: OpenFile, size: int) -> None:
        self._check("truncate")
        super().truncate(file, size)

    def allocate(self, file: OpenFile, position: int, size: int) -> None:
        self._check("allocate")
        super().allocate(file, position, size)

    def unlink(self, path: str) -> None:
        if os.path.exists(path):
            self._check("unlink")
        super().unlink(path)

    def sync_data(self, file: OpenFile) -> None:
        self._check("sync_data")


# --- appending
# ---------------------------------------------------------------------------------------


def test_offsets_and_epoch_are_patched_in_place(directory: str) -> None:
    """Batches get consecutive offsets, in the buffer and in the file; the CRC stays right."""
    log = make_log(directory)
    first, second = batch_of([b"a", b"b"]), batch_of([b"c"])
    assert stage(log, first) == 0
    assert stage(log, second) == 2
    assert (log.end_offset, log.written_offset, log.synced_offset) == (3, 0, 0)
    assert log.staged_bytes == len(first) + len(second)
    write(log)
    assert (log.end_offset, log.written_offset, log.synced_offset) == (3, 3, 0)
    assert log.unsynced_bytes == len(first) + len(second)
    assert log.staged_bytes == 0
    point = sync(log)
    assert point is not None
    assert (point.segment_base, point.synced_offset, point.position) == (0, 3, log.size_bytes)
    assert (log.synced_offset, log.unsynced_bytes) == (3, 0)
    assert sync(log) is None
    with open(segment_path(directory, 0), "rb") as file:
        assert file.read() == bytes(first) + bytes(second)
    assert read_header(second).leader_epoch == 0


def test_what_is_staged_during_a_write_goes_with_the_next(directory: str) -> None:
    """A write covers what was staged when it was taken; the rest follows behind it."""
    log = make_log(directory)
    stage(log, batch_of())
    staged = log.take_staged()
    assert staged is not None
    stage(log, batch_of())
    log.finish_write(staged, log.write(staged))
    assert (log.written_offset, log.end_offset) == (1, 2)
    write(log)
    sync(log)
    assert offsets_read(log, 0, 2) == [0, 1]


def test_a_sync_covers_what_was_written_when_it_began(directory: str) -> None:
    """Group commit: what comes during a sync waits for the next."""
    log = make_log(directory)
    stage(log, batch_of())
    write(log)
    ticket = log.begin_sync()
    assert ticket is not None
    stage(log, batch_of())
    write(log)
    log.sync(ticket)
    log.finish_sync(ticket)
    assert (log.synced_offset, log.written_offset) == (1, 2)
    assert log.unsynced_bytes == len(batch_of())


# --- rolling
# -----------------------------------------------------------------------------------------


def test_a_segment_covers_its_range_of_offsets(directory: str) -> None:
    """A batch that would pass the end goes to a new segment; a longer one has its own."""
    log = make_log(directory, settings=LogSettings(segment_offsets=10))
    for count in (4, 4, 4, 25, 1, 9):
        append(log, batch_of([b"v"] * count))
    assert bases(directory) == [0, 8, 12, 37]
    assert offsets_read(log, 0, 47) == [0, 4, 8, 12, 37, 38]


def test_one_write_may_roll_several_times(directory: str) -> None:
    """All that was staged is written, each part to its segment; the old segments are synced."""
    log = make_log(directory, settings=LogSettings(segment_offsets=2))
    for _ in range(5):
        stage(log, batch_of([b"v"] * 2))
    staged = log.take_staged()
    assert staged is not None
    assert staged.rolls
    log.finish_write(staged, log.write(staged))
    assert log.synced_offset == 8
    assert log.unsynced_bytes == len(batch_of([b"v"] * 2))
    assert bases(directory) == [0, 2, 4, 6, 8]
    assert offsets_read(log, 0, 10) == [0, 2, 4, 6, 8]


def test_segments_are_bounded_by_bytes_and_time(directory: str) -> None:
    """segment.bytes and segment.ms roll; a changed setting holds from the next write."""
    size = len(batch_of())
    log = make_log(directory, settings=LogSettings(segment_bytes=2 * size, segment_ms=1000))
    for _ in range(3):
        append(log, batch_of(), now_ms=NOW_MS)
    assert bases(directory) == [0, 2]
    append(log, batch_of(), now_ms=NOW_MS + 1000)
    assert bases(directory) == [0, 2, 3]
    log.settings = LogSettings(segment_bytes=ALL, segment_ms=ALL)
    for number in range(3):
        append(log, batch_of(), now_ms=NOW_MS + 5000 * number)
    assert bases(directory) == [0, 2, 3]
    log.settings = LogSettings(segment_offsets=1)
    append(log, batch_of())
    assert bases(directory) == [0, 2, 3, 7]


def test_a_full_index_rolls(directory: str) -> None:
    """No more entries than segment.index.bytes are made; the next batch begins a new segment."""
    log = make_log(directory, settings=LogSettings(index_interval_bytes=0, segment_index_bytes=40))
    for number in range(12):
        append(log, batch_of(timestamp_ms=5000 + number))
    assert len(bases(directory)) > 2
    for base in bases(directory):
        assert os.path.getsize(segment_path(directory, base, ".index")) <= 40
    assert offsets_read(log, 0, 12) == list(range(12))


def test_an_idle_log_rolls_by_time(directory: str) -> None:
    """roll_due says when; roll_now makes an empty segment, once; staged batches go into it."""
    log = make_log(directory, settings=LogSettings(segment_ms=1000))
    assert not log.roll_due(NOW_MS + 9999)
    append(log, batch_of())
    assert not log.roll_due(NOW_MS + 999)
    assert log.roll_due(NOW_MS + 1000)
    stage(log, batch_of(), now_ms=NOW_MS + 1)  # Piles up while the log is rolled.
    log.roll_now()
    write(log)
    sync(log)
    assert bases(directory) == [0, 1]
    assert offsets_read(log, 0, 2) == [0, 1]
    log.roll_now()
    log.roll_now()
    assert bases(directory) == [0, 1, 2]


def test_the_age_of_a_segment_survives_a_restart(directory: str) -> None:
    """After a clean stop, roll_due has the segment opened, then knows its first batch's time."""
    settings = LogSettings(segment_ms=1000)
    log = make_log(directory, settings=settings)
    append(log, batch_of(timestamp_ms=NOW_MS))
    log = reopen(directory, log.close(), settings=settings)
    assert log.roll_due(NOW_MS)
    log.roll_now()
    assert bases(directory) == [0]
    assert not log.roll_due(NOW_MS + 999)
    assert log.roll_due(NOW_MS + 1000)
    log.roll_now()
    assert bases(directory) == [0, 1]


# --- indexes
# -----------------------------------------------------------------------------------------


def test_index_entries_are_kafkas(directory: str) -> None:
    """An entry is (last offset, position) of the batch after each interval; times with it."""
    log = make_log(directory, settings=LogSettings(index_interval_bytes=200))
    fill(log, 20)
    size = log.size_bytes // 20
    log.roll_now()
    index = OffsetIndex.open(
        log.files,
        segment_path(directory, 0, ".index"),
        base_offset=0,
        max_bytes=4096,
        writable=False,
    )
    times = TimeIndex.open(
        log.files, segment_path(directory, 0, ".timeindex"), base_offset=0, max_bytes=4096,
        writable=False,
    )  # fmt: skip
    step = 200 // size + 1
    expected = [(2 * number + 1, number * size) for number in range(step, 20, step)]
    assert index.entries() == expected
    assert times.entries() == [
        *((5000 + number, 2 * number + 1) for number in range(step, 20, step)),
        *([(5019, 39)] if 19 % step else []),
    ]


def test_a_partition_without_appends_has_no_index(directory: str) -> None:
    """Files come into being when they are needed; a closed log's indexes are cut to size."""
    log = make_log(directory)
    names = set(os.listdir(f"{directory}/t-0"))
    assert names == {f"{0:020d}.log", "partition.metadata", "leader-epoch-checkpoint"}
    fill(log, 8)
    assert os.path.getsize(segment_path(directory, 0, ".index")) == 4096
    log.close()
    assert 0 < os.path.getsize(segment_path(directory, 0, ".index")) < 100


def test_a_missing_or_wrong_index_is_rebuilt(directory: str) -> None:
    """Whatever was done to the indexes of a stopped log, every offset is found."""
    log = make_log(directory)
    fill(log, 40)
    end = log.end_offset
    clean = log.close()
    first, second, third, *_ = bases(directory)
    with open(segment_path(directory, first, ".index"), "rb") as file:
        original = file.read()
    os.unlink(segment_path(directory, first, ".index"))
    os.truncate(segment_path(directory, second, ".timeindex"), 7)
    with open(segment_path(directory, third, ".index"), "wb") as file:
        file.write(bytes([0, 0, 0, 5, 0, 0, 0, 33]))  # In order, and beside every batch.
    os.unlink(segment_path(directory, bases(directory)[-1], ".index"))
    log = reopen(directory, clean)
    for offset in range(end - 1, -1, -1):
        piece = log.read(offset, max_bytes=1, below=end)
        (header,) = headers_in(log, piece)
        assert header.base_offset <= offset < header.next_offset
    with open(segment_path(directory, first, ".index"), "rb") as file:
        assert file.read() == original


# --- failures
# ----------------------------------------------------------------------------------------


def test_a_full_disk_is_a_state(directory: str) -> None:
    """What did not fit is cut off, its offsets are free again, and the log goes on by itself."""
    files = BrokenFiles()
    log = make_log(directory, files=files)
    fill(log, 3)
    size = log.size_bytes
    stage(log, batch_of([b"lost"] * 5))
    staged = log.take_staged()
    assert staged is not None
    stage(log, batch_of())
    files.failing["write_at"] = errno.ENOSPC
    with pytest.raises(DiskFullError):
        log.write(staged)
    log.abandon(staged)
    assert os.path.getsize(segment_path(directory, 0)) == size
    assert (log.end_offset, log.written_offset, log.staged_bytes) == (6, 6, 0)
    files.failing.clear()
    append(log, batch_of())
    assert offsets_read(log, 0, 7) == [0, 2, 4, 6]


def test_no_space_for_a_roll_leaves_the_old_segment_active(directory: str) -> None:
    """The new segment's files are removed; later the roll succeeds."""
    files = BrokenFiles()
    settings = LogSettings(segment_offsets=4)
    log = make_log(directory, files=files, settings=settings)
    append(log, batch_of([b"v"] * 3))
    stage(log, batch_of([b"v"] * 3))
    staged = log.take_staged()
    assert staged is not None
    files.failing["create"] = errno.ENOSPC
    with pytest.raises(DiskFullError):
        log.write(staged)
    log.abandon(staged)
    files.failing.clear()
    assert bases(directory) == [0]
    append(log, batch_of([b"v"]))
    append(log, batch_of([b"v"] * 2))
    assert bases(directory) == [0, 4]
    assert offsets_read(log, 0, 6) == [0, 3, 4]


def test_an_unfinished_segment_that_cannot_be_removed_ends_the_log(directory: str) -> None:
    """It would be taken for the successor: what the old one takes after that would be lost."""
    files = BrokenFiles()
    settings = LogSettings(segment_offsets=4, index_interval_bytes=0)
    log = make_log(directory, files=files, settings=settings)
    append(log, batch_of([b"v"] * 2), batch_of([b"v"]))
    stage(log, batch_of([b"v"] * 3))
    staged = log.take_staged()
    assert staged is not None
    files.failing |= {"allocate": errno.ENOSPC, "unlink": errno.EIO}
    with pytest.raises(LogFailedError):
        log.write(staged)
    log.abandon(staged)
    files.failing.clear()
    with pytest.raises(LogFailedError):
        append(log, batch_of([b"v"]))
    log.let_go()
    again, report = recover_log(directory, settings=settings)
    assert not report.damaged
    append(again, batch_of([b"v"]))
    assert offsets_read(again, 0, 4) == [0, 2, 3]


def test_what_was_written_before_a_failed_roll_stays(directory: str) -> None:
    """A write over two segments that fails in the second keeps the first part: it is published."""
    files = BrokenFiles()
    log = make_log(directory, files=files, settings=LogSettings(segment_offsets=4))
    stage(log, batch_of([b"v"] * 3))
    stage(log, batch_of([b"v"] * 3))
    staged = log.take_staged()
    assert staged is not None
    files.failing["create"] = errno.ENOSPC
    with pytest.raises(DiskFullError):
        log.write(staged)
    log.abandon(staged)
    assert (log.written_offset, log.end_offset) == (3, 3)
    assert log.failed is None
    assert offsets_read(log, 0, 3) == [0]


@pytest.mark.parametrize(
    "failing", [{"write_at": errno.EIO}, {"write_at": errno.ENOSPC, "truncate": errno.EIO}]
)
def test_a_failed_write_poisons_the_log(directory: str, failing: dict[str, int]) -> None:
    """After anything but a lack of space, or if half a write cannot be cut off, it is over."""
    files = BrokenFiles()
    log = make_log(directory, files=files)
    fill(log, 1)
    stage(log, batch_of())
    staged = log.take_staged()
    assert staged is not None
    files.failing.update(failing)
    with pytest.raises(LogFailedError):
        log.write(staged)
    log.abandon(staged)
    files.failing.clear()
    with pytest.raises(LogFailedError):
        stage(log, batch_of())
    with pytest.raises(LogFailedError):
        log.try_read(0, max_bytes=ALL, below=2)
    with pytest.raises(LogFailedError):
        log.close()


def test_a_failed_sync_is_final(directory: str) -> None:
    """It is never tried again, whoever meets it first: the group commit, a roll, a checkpoint."""
    files = BrokenFiles()
    log = make_log(directory, files=files)
    stage(log, batch_of())
    write(log)
    ticket = log.begin_sync()
    assert ticket is not None
    files.failing["sync_data"] = errno.EIO
    with pytest.raises(LogFailedError):
        log.checkpoint(log.begin_checkpoint())
    files.failing.clear()
    with pytest.raises(LogFailedError):
        log.sync(ticket)
    assert log.begin_sync() is None
    assert log.synced_offset == 0
    with pytest.raises(LogFailedError):
        stage(log, batch_of())
