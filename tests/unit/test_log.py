"""storage.log: append, roll, sync, read, delete, close and open again."""

from __future__ import annotations

import errno
import os
from dataclasses import replace

import pytest

from logd.errors import (
    CorruptFileError,
    DiskFullError,
    LogFailedError,
    OffsetOutOfRangeError,
)
from logd.record.batch import read_header
from logd.storage.files import OpenFile
from logd.storage.log import LogSettings
from logd.storage.offset_index import OffsetIndex
from logd.storage.open_files import OpenFiles
from logd.storage.time_index import TimeIndex
from tests.crash.lying_disk import FastFiles
from tests.unit.log_builder import (
    NOW_MS,
    SMALL,
    append,
    bases,
    batch_of,
    fill,
    headers_in,
    make_log,
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

    def write_at(self, file: OpenFile, position: int, buffers: object) -> int:
        data = b"".join(buffers)  # type: ignore[call-overload]  # Any sequence of buffers.
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

    def sync_data(self, file: OpenFile) -> None:
        self._check("sync_data")


def offsets_read(log: object, start: int, end: int, max_bytes: int = ALL) -> list[int]:
    """Return the base offsets of the batches that a reader sees, in slices of max_bytes."""
    from logd.storage.log import Log

    assert isinstance(log, Log)
    found = []
    offset = start
    while offset < end:
        piece = log.try_read(offset, max_bytes=max_bytes, below=end)
        if piece is None:
            piece = log.read(offset, max_bytes=max_bytes, below=end)
        headers = headers_in(log, piece)
        assert headers
        assert headers[0].base_offset <= offset < headers[0].next_offset
        assert piece.next_offset in (-1, headers[-1].next_offset)
        assert piece.size <= max_bytes or len(headers) == 1
        found += [header.base_offset for header in headers]
        offset = headers[-1].next_offset
    return found


# --- appending ---------------------------------------------------------------------------------------


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


# --- rolling -----------------------------------------------------------------------------------------


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
    log = make_log(
        directory, settings=LogSettings(index_interval_bytes=0, segment_index_bytes=40)
    )
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
    """After a clean stop, roll_due first has the segment opened, then knows its first batch's time."""
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


# --- indexes -----------------------------------------------------------------------------------------


def test_index_entries_are_kafkas(directory: str) -> None:
    """An entry is (last offset, position) of the batch after more than the interval; times with it."""
    log = make_log(directory, settings=LogSettings(index_interval_bytes=200))
    fill(log, 20)
    size = log.size_bytes // 20
    log.roll_now()
    index = OffsetIndex.open(
        log.files, segment_path(directory, 0, ".index"), base_offset=0, max_bytes=4096, writable=False
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


# --- failures ----------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("failing", [{"write_at": errno.EIO}, {"write_at": errno.ENOSPC, "truncate": errno.EIO}])
def test_a_failed_write_poisons_the_log(directory: str, failing: dict[str, int]) -> None:
    """After anything but a lack of space, and if half a write cannot be cut off, nothing goes on."""
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


# --- reading -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_bytes", [1, 100, 500, 1000, ALL])
def test_a_reader_sees_every_batch_once_in_order(directory: str, max_bytes: int) -> None:
    """Over segments, with any slice size, from any offset, all in memory or after a restart."""
    log = make_log(directory)
    fill(log, 30)
    end = log.end_offset
    expected = list(range(0, end, 2))
    assert offsets_read(log, 0, end, max_bytes) == expected
    for start in (1, 7, end - 1):
        assert offsets_read(log, start, end, max_bytes) == expected[start // 2 :]
    log = reopen(directory, log.close())
    assert log.try_read(0, max_bytes=max_bytes, below=end) is None
    assert offsets_read(log, 0, end, max_bytes) == expected
    assert offsets_read(log, 0, end, max_bytes) == expected


def test_nothing_at_or_above_the_high_watermark_is_given(directory: str) -> None:
    """`below` is a bound for try_read and read alike; at it the slice is empty."""
    log = make_log(directory)
    for _ in range(3):
        append(log, batch_of([b"v"] * 2))
    stage(log, batch_of())
    for reading in (log.try_read, log.read):
        piece = reading(0, max_bytes=ALL, below=4)
        assert piece is not None
        assert [header.base_offset for header in headers_in(log, piece)] == [0, 2]
        assert piece.next_offset == 4
        piece = reading(4, max_bytes=ALL, below=4)
        assert piece is not None
        assert (piece.size, piece.next_offset) == (0, 4)


def test_the_first_batch_goes_whole_only_if_wanted(directory: str) -> None:
    """With min_one a batch larger than max_bytes is given, without it nothing."""
    log = make_log(directory)
    fill(log, 2)
    for reading in (log.try_read, log.read):
        piece = reading(0, max_bytes=10, below=4, min_one=True)
        assert piece is not None
        assert len(headers_in(log, piece)) == 1
        piece = reading(0, max_bytes=10, below=4, min_one=False)
        assert piece is None or piece.size == 0


def test_offsets_outside_the_log_are_refused(directory: str) -> None:
    """Below the log start and above the log end; the end itself is an empty slice."""
    log = make_log(directory)
    fill(log, 2)
    log.delete_before(1)
    for reading in (log.try_read, log.read):
        for offset in (0, 5):
            with pytest.raises(OffsetOutOfRangeError):
                reading(offset, max_bytes=ALL, below=4)
        piece = reading(4, max_bytes=ALL, below=4)
        assert piece is not None
        assert piece.size == 0


def test_a_slice_outlives_its_segment(directory: str) -> None:
    """What is being sent can be read after the segment was deleted and unlinked."""
    log = make_log(directory, settings=LogSettings(segment_offsets=2))
    fill(log, 3)
    piece = log.read(0, max_bytes=ALL, below=6)
    for path in log.delete_before(6).unlink_paths:
        log.files.unlink(path)
    assert [header.base_offset for header in headers_in(log, piece)] == [0]


def test_unverified_bytes_are_not_given_by_try_read(directory: str) -> None:
    """After a restart a thread checks the CRC first; then the range is known to be good."""
    log = make_log(directory)
    fill(log, 3)
    log = reopen(directory, log.close())
    assert log.try_read(0, max_bytes=ALL, below=6) is None
    append(log, batch_of())
    piece = log.try_read(6, max_bytes=ALL, below=7)
    assert piece is not None
    assert log.try_read(0, max_bytes=ALL, below=7) is None
    log.read(0, max_bytes=1, below=7)
    piece = log.try_read(0, max_bytes=ALL, below=7)
    assert piece is not None
    assert len(headers_in(log, piece)) == 4


# --- deleting, closing, opening ------------------------------------------------------------------------


def test_delete_before_drops_whole_segments(directory: str) -> None:
    """The start moves into a segment; only segments wholly below go; repeating does nothing."""
    log = make_log(directory, settings=LogSettings(segment_offsets=4))
    fill(log, 6)
    size = log.size_bytes
    result = log.delete_before(9)
    assert result.log_start_offset == log.log_start_offset == 9
    assert len([path for path in result.unlink_paths if path.endswith(".log.deleted")]) == 2
    assert all(os.path.exists(path) for path in result.unlink_paths)
    assert bases(directory) == [8]
    assert log.size_bytes == size // 3
    assert log.delete_before(3).unlink_paths == ()
    assert offsets_read(log, 9, 12) == [8, 10]


def test_everything_can_be_deleted(directory: str) -> None:
    """The active segment is rolled first; the log goes on at the same offset."""
    log = make_log(directory)
    fill(log, 3)
    log.delete_before(6)
    assert bases(directory) == [6]
    assert (log.log_start_offset, log.end_offset, log.size_bytes) == (6, 6, 0)
    with pytest.raises(OffsetOutOfRangeError):
        log.delete_before(7)
    append(log, batch_of())
    log = reopen(directory, log.close())
    assert (log.log_start_offset, log.end_offset) == (6, 7)


def test_a_clean_stop_needs_no_scan_and_keeps_all(directory: str) -> None:
    """Offsets, producers, epoch and appends go on where they were."""
    log = make_log(directory)
    batch = batch_of([b"a", b"b"], producer_id=4, producer_epoch=1, base_sequence=0)
    append(log, batch)
    clean = log.close()
    assert (clean.log_end_offset, clean.active_size) == (2, len(batch))
    log = reopen(directory, clean)
    duplicate = log.producers.check(read_header(batch))
    assert duplicate is not None
    assert duplicate.base_offset == 0
    append(log, batch_of())
    assert offsets_read(log, 0, 3) == [0, 2]


def test_a_directory_that_changed_since_the_clean_stop_is_not_opened(directory: str) -> None:
    """Another size, a missing segment or snapshot: recover instead."""
    log = make_log(directory)
    fill(log, 30)
    clean = log.close()
    changed = [
        replace(clean, active_size=clean.active_size - 1),
        replace(clean, active_base=0),
        replace(clean, log_end_offset=clean.log_end_offset + 1),
    ]
    for other in changed:
        with pytest.raises(CorruptFileError):
            reopen(directory, other)
    reopen(directory, clean)


class CountingFiles(FastFiles):
    """Notes which files are opened or asked about."""

    def __init__(self) -> None:
        self.opened: list[str] = []

    def open_read(self, path: str) -> OpenFile:
        self.opened.append(path)
        return super().open_read(path)

    def open_write(self, path: str) -> OpenFile:
        self.opened.append(path)
        return super().open_write(path)


def test_ten_thousand_sealed_segments_are_opened_without_opening_them(directory: str) -> None:
    """After a clean stop, no segment file is opened before somebody asks for it; then one is."""
    log = make_log(directory, settings=LogSettings(segment_offsets=1))
    append(log, batch_of())
    clean = log.close()
    with open(segment_path(directory, 0), "rb") as file:
        data = file.read()
    count = 10_000
    for base in range(1, count + 1):
        with open(segment_path(directory, base), "wb") as file:
            file.write(base.to_bytes(8, "big") + data[8:])
    os.rename(f"{directory}/t-0/{1:020d}.producers", f"{directory}/t-0/{count:020d}.producers")
    os.truncate(segment_path(directory, count), 0)
    os.unlink(f"{directory}/t-0/{count:020d}.producers")
    files = CountingFiles()
    clean = replace(
        clean, log_end_offset=count, active_base=count, active_size=0, size_bytes=count * len(data)
    )
    log = reopen(directory, clean, files=files)
    assert log.size_bytes == count * len(data)
    assert not [path for path in files.opened if ".log" in path or "index" in path]
    piece = log.read(4321, max_bytes=1, below=count)
    assert headers_in(log, piece)[0].base_offset == 4321
    assert {path for path in files.opened if path.endswith(".log")} == {
        segment_path(directory, 4321)
    }


def test_descriptors_of_sealed_segments_are_bounded(directory: str) -> None:
    """Reading all of a log keeps no more segments open than the shared cache allows."""
    open_files = OpenFiles(FastFiles(), limit=3)
    log = make_log(directory, settings=LogSettings(segment_offsets=2), open_files=open_files)
    fill(log, 20)
    before = len(os.listdir("/proc/self/fd"))
    offsets_read(log, 0, log.end_offset)
    assert len(open_files) == 3
    assert len(os.listdir("/proc/self/fd")) <= before + 3 * 3


def test_checkpoints_are_wanted_after_a_roll_and_two_are_kept(directory: str) -> None:
    """Each one is durable by itself; the older ones are removed."""
    log = make_log(directory, settings=SMALL)
    assert not log.wants_checkpoint
    offsets = []
    for _ in range(4):
        fill(log, 12)
        assert log.wants_checkpoint
        checkpoint = log.begin_checkpoint()
        assert not log.wants_checkpoint
        log.checkpoint(checkpoint)
        offsets.append(log.written_offset)
    names = sorted(n for n in os.listdir(f"{directory}/t-0") if n.endswith(".producers"))
    assert names == [f"{offset:020d}.producers" for offset in offsets[-2:]]


def test_segments_are_described(directory: str) -> None:
    """Base, end, size, state and times of each segment."""
    log = make_log(directory, settings=LogSettings(segment_offsets=4))
    fill(log, 5)
    first, second, active = log.segments()
    assert (first.base_offset, first.next_offset, first.state) == (0, 4, "sealed")
    assert (first.first_timestamp_ms, first.last_timestamp_ms) == (5000, 5001)
    assert (second.base_offset, second.next_offset) == (4, 8)
    assert (active.base_offset, active.next_offset, active.state) == (8, 10, "active")
    assert first.size_bytes + second.size_bytes + active.size_bytes == log.size_bytes
