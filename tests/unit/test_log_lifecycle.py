"""storage.log: records deleted, logs closed, opened again, checkpointed, described."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from logd.errors import CorruptFileError, OffsetOutOfRangeError
from logd.record.batch import read_header
from logd.storage.files import OpenFile
from logd.storage.log import LogSettings
from logd.storage.open_files import OpenFiles
from tests.crash.lying_disk import FastFiles
from tests.unit.log_builder import (
    SMALL,
    append,
    bases,
    batch_of,
    fill,
    headers_in,
    make_log,
    offsets_read,
    reopen,
    segment_path,
)


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
        clean,
        log_end_offset=count,
        active_base=count,
        active_size=0,
        size_bytes=count * len(data),
        segment_count=count + 1,
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
    wanted = [log.wants_checkpoint]
    offsets: list[int] = []
    for _ in range(4):
        fill(log, 12)
        wanted.append(log.wants_checkpoint)
        checkpoint = log.begin_checkpoint()
        wanted.append(log.wants_checkpoint)
        log.checkpoint(checkpoint)
        offsets.append(log.written_offset)
    assert wanted == [False] + [True, False] * 4
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
