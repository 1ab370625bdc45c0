"""storage.log_facts: what retention goes by is right, and costs no open log file."""

from __future__ import annotations

import os
import struct
import threading
from itertools import pairwise
from pathlib import Path

import pytest

from logd.policy.retention import SegmentFacts
from logd.storage.log import Log, LogSettings
from logd.storage.open_files import OpenFiles
from tests.crash.lying_disk import LyingDisk
from tests.unit.log_builder import (
    append,
    batch_of,
    make_log,
    overwrite,
    recover_log,
    reopen,
    segment_path,
    stage,
    write,
)

FOUR = LogSettings(segment_offsets=4)


def with_times(directory: str, *times_ms: int, **options: LyingDisk) -> Log:
    """A log with a segment for each timestamp, two records long; the last one is active."""
    log = make_log(directory, settings=LogSettings(segment_offsets=2), files=options.get("files"))
    for time_ms in times_ms:
        append(log, batch_of([b"a", b"b"], timestamp_ms=time_ms))
    return log


def times(facts: list[SegmentFacts]) -> list[int]:
    return [one.max_timestamp_ms for one in facts]


def test_facts_of_a_log_just_written(directory: str) -> None:
    """Offsets, sizes, the greatest timestamp of each segment, and which one is active."""
    log = with_times(directory, 700, 300, 900)
    facts = log.oldest_segments()
    assert times(facts) == [700, 300, 900]
    assert [(one.base_offset, one.next_offset) for one in facts] == [(0, 2), (2, 4), (4, 6)]
    assert [one.is_active for one in facts] == [False, False, True]
    sizes = [os.path.getsize(segment_path(directory, base)) for base in (0, 2, 4)]
    assert [one.size_bytes for one in facts] == sizes
    assert sum(sizes) == log.size_bytes
    assert log.oldest_segments(2) == facts[:2]


def test_an_empty_log_is_one_empty_segment(directory: str) -> None:
    """There is always an active segment; what is staged only is not there yet."""
    log = make_log(directory)
    stage(log, batch_of())
    assert log.oldest_segments() == [SegmentFacts(0, 0, 0, -1, True)]


def test_the_greatest_timestamp_counts_not_the_last(directory: str) -> None:
    """Of a segment with timestamps in any order, before and after a clean stop."""
    log = make_log(directory, settings=FOUR)
    for time_ms in (9000, 100, 50, 40, 30):
        append(log, batch_of(timestamp_ms=time_ms))
    assert times(log.oldest_segments()) == [9000, 30]
    log = reopen(directory, log.close(), settings=FOUR)
    assert times(log.oldest_segments()) == [9000, 30]


def test_sealed_segments_are_not_opened_for_it(directory: str) -> None:
    """After a clean stop: the time index' last bytes and the log's inode, once; no reader's open
    file is pushed out."""
    log = with_times(directory, 700, 300, 900)
    facts = log.oldest_segments()
    clean = log.close()
    files = LyingDisk(directory)
    log = reopen(directory, clean, settings=FOUR, files=files)
    log.open_files = OpenFiles(files, limit=1)
    files.opened.clear()
    assert log.oldest_segments(2) == facts[:2]
    assert [path.rpartition(".")[2] for path in files.opened] == ["timeindex"] * 2
    assert len(log.open_files) == 0
    assert log.oldest_segments(2) == facts[:2]
    assert len(files.opened) == 2
    files.close()


def test_after_a_crash_the_facts_are_the_same(directory: str) -> None:
    """Recovery leaves indexes from which the same follows."""
    facts = with_times(directory, 700, 300, 900).oldest_segments()
    log, _ = recover_log(directory)
    assert log.oldest_segments() == facts


TIME_ENTRY = struct.Struct(">qi")


@pytest.mark.parametrize(
    "index",
    [
        pytest.param(None, id="missing"),
        pytest.param(b"1234567", id="no whole entries"),
        pytest.param(TIME_ENTRY.pack(0, 0), id="zeros"),
        pytest.param(TIME_ENTRY.pack(99, 0) + TIME_ENTRY.pack(98, 1), id="falling timestamps"),
        pytest.param(TIME_ENTRY.pack(99, 1) + TIME_ENTRY.pack(100, 0), id="falling offsets"),
        pytest.param(TIME_ENTRY.pack(100, 2), id="an offset of the next segment"),
        pytest.param(TIME_ENTRY.pack(100, -1), id="an offset before the segment"),
        pytest.param(TIME_ENTRY.pack(-5, 1), id="a timestamp before 1970"),
        pytest.param(TIME_ENTRY.pack(100, 1) + bytes(24), id="not cut to size"),
    ],
)
def test_a_time_index_that_cannot_be_trusted_is_built_anew(
    directory: str, index: bytes | None
) -> None:
    """The log has the last word."""
    log = with_times(directory, 700, 300)
    clean = log.close()
    path = Path(segment_path(directory, 0, ".timeindex"))
    path.unlink()
    if index is not None:
        path.write_bytes(index)
    log = reopen(directory, clean)
    assert times(log.oldest_segments(1)) == [700]
    assert TIME_ENTRY.unpack(path.read_bytes()) == (700, 1)


def test_without_timestamps_the_last_write_stands_for_them(directory: str) -> None:
    """Kafka's rule: records of time 0 or without any go by when they were written."""
    log = with_times(directory, -1, 0, 900)
    for base, seconds in ((0, 1_000), (2, 2_000)):
        os.utime(segment_path(directory, base), (seconds, seconds))
    expected = [1_000_000, 0, 900]
    assert times(log.oldest_segments()) == expected
    log = reopen(directory, log.close())
    # The index has no entry for time 0 at a segment's first batch, so it cannot be told from none.
    assert times(log.oldest_segments())[0] == 1_000_000
    assert times(log.oldest_segments())[1] in (0, 2_000_000)


def test_a_damaged_segment_says_what_its_good_batches_say(directory: str) -> None:
    """With the index gone, too: the first look meets the damage, which is then known; the next one
    steps over it."""
    log = with_times(directory, 700, 300)
    log = reopen(directory, log.close())
    Path(segment_path(directory, 0, ".timeindex")).unlink()
    overwrite(segment_path(directory, 0), 8, b"\xff\xff\xff\xff")
    assert times(log.oldest_segments(1)) == [-1]
    assert len(log.damaged) == 1
    second = log.oldest_segments(1)
    assert [one.size_bytes for one in second] == [os.path.getsize(segment_path(directory, 0))]
    assert second[0].max_timestamp_ms != 300


def test_a_segment_that_was_deleted_meanwhile_is_left_out(directory: str) -> None:
    """A look that is overtaken by a deletion tells of what is left."""

    class Overtaken(LyingDisk):
        log: Log | None = None

        def stat_size(self, path: str) -> int:
            log, self.log = self.log, None
            if log is not None:
                log.delete_before(4)
            return super().stat_size(path)

    log = with_times(directory, 100, 200, 300, 400)
    files = Overtaken(directory)
    log = reopen(directory, log.close(), files=files)
    files.log = log
    assert [one.base_offset for one in log.oldest_segments()] == [4, 6]
    assert [one.base_offset for one in log.oldest_segments()] == [4, 6]
    files.close()


def test_a_file_that_somebody_removed_is_an_error(directory: str) -> None:
    """Not deleted by the log: that is said, and nothing is guessed."""
    log = with_times(directory, 100, 200)
    log = reopen(directory, log.close())
    os.unlink(segment_path(directory, 0))
    with pytest.raises(FileNotFoundError):
        log.oldest_segments()


def test_what_is_appended_during_a_look_is_not_missed(directory: str) -> None:
    """In another thread than the appends: the greatest timestamp covers all that lies below
    next_offset, in the active segment and over its rolls; the segments join without a gap."""
    log = make_log(directory, settings=LogSettings(segment_offsets=20))
    looks: list[list[SegmentFacts]] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            looks.append(log.oldest_segments())

    thread = threading.Thread(target=look)
    thread.start()
    for offset in range(1500):
        stage(log, batch_of(timestamp_ms=offset + 1))
        write(log)
    ended.set()
    thread.join()
    assert len(looks) > 10
    for facts in looks:
        assert all(one.max_timestamp_ms >= one.next_offset for one in facts if one.size_bytes)
        assert all(a.next_offset == b.base_offset for a, b in pairwise(facts))
