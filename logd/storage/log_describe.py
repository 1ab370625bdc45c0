"""What `logd segments` and `logd status` tell of a segment. In a thread: segments are opened for
it."""

from __future__ import annotations

from logd.errors import CorruptFileError, DamagedRangeError
from logd.record.timestamps import batch_timestamp_ms
from logd.storage.log_read import LogReader
from logd.storage.log_state import LogState
from logd.storage.released import ReleasedSegment
from logd.storage.segment import SIZE_UNKNOWN, Segment, SegmentInfo
from logd.storage.segment_scan import read_batch_header


def describe_segment(state: LogState, reader: LogReader, segment: Segment) -> SegmentInfo:
    """Return a description of one segment.

    Raises:
        SegmentsChangedError: another segment has taken its place.
        DamagedRangeError: the disk refuses to read it. Damage in it is no error: what is there of
            timestamps is told.
    """
    if segment.released is not None:
        return _describe_released(segment, segment.released)
    try:
        opened = state.open_segment(segment)
        assert segment.size != SIZE_UNKNOWN
        first_ms = -1
        if segment.size:
            first_ms = batch_timestamp_ms(
                read_batch_header(state.files, opened.file, 0, segment.size)
            )
    except CorruptFileError as error:
        reader.quarantine(segment, error)
        first_ms = -1
    except OSError as error:
        raise DamagedRangeError(f"{segment.paths.log} cannot be read: {error}") from error
    last_ms = segment.max_timestamp[0] if segment.max_timestamp is not None else -1
    return SegmentInfo(
        base_offset=segment.base_offset,
        next_offset=state.written_offset if segment.is_active else segment.end_bound,
        size_bytes=max(segment.size, 0),
        is_active=segment.is_active,
        first_timestamp_ms=first_ms,
        last_timestamp_ms=last_ms,
    )


def _describe_released(segment: Segment, released: ReleasedSegment) -> SegmentInfo:
    assert not segment.is_active
    return SegmentInfo(
        base_offset=segment.base_offset,
        next_offset=segment.end_bound,
        size_bytes=released.size_bytes,
        is_active=False,
        first_timestamp_ms=released.min_timestamp_ms,
        last_timestamp_ms=released.max_timestamp_ms,
        is_released=True,
    )
