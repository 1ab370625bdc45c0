"""storage.log: reading, on the loop from memory and in a thread from the disk."""

from __future__ import annotations

import pytest

from logd.errors import OffsetOutOfRangeError
from logd.storage.log import LogSettings
from tests.unit.log_builder import (
    append,
    batch_of,
    fill,
    headers_in,
    make_log,
    offsets_read,
    reopen,
    stage,
)

ALL = 1 << 30


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
