"""What retention needs to know of segments, learned as cheaply as can be. In a thread.

Of a sealed segment that nobody has opened, the length comes from its name's inode and the greatest
timestamp from the last entry of its time index: twelve bytes of one small file, read once and
remembered. The log itself is not opened, and no reader's open file is pushed out for it.

Where the time index is missing or is not what a sealed one must be, the segment is opened as for a
reader, which builds it anew. Where it has no entry, no record has a timestamp above 0; then the
time of the file's last write stands for it, as in Kafka. In a damaged segment it is unknown.

Of a released segment all of it is known: what was coded counts with its source's size.

Concurrency: reads what the loop publishes, in an order that makes the outcome whole: the end of
what is written first, then the greatest timestamp, which so covers all that lies below.
"""

from __future__ import annotations

import contextlib

from logd.errors import CorruptFileError, SegmentsChangedError
from logd.policy.retention import UNKNOWN_TIMESTAMP_MS, SegmentFacts
from logd.storage.files import Files
from logd.storage.log_read import LogReader
from logd.storage.log_state import LogState
from logd.storage.released import ReleasedSegment
from logd.storage.segment import SIZE_UNKNOWN, Segment
from logd.storage.segment_files import MaxTimestamp
from logd.storage.time_index import TimeIndex


def oldest_segments(state: LogState, reader: LogReader, limit: int | None) -> list[SegmentFacts]:
    """Return what there is to know of the oldest segments; see `Log.oldest_segments`."""
    segments = state.segment_list.items[:limit]
    written_offset = state.written_offset  # Before any size or timestamp is looked at.
    facts = []
    for segment in segments:
        try:
            facts.append(_facts(state, reader, segment, written_offset))
        except FileNotFoundError as error:
            if segment.is_replaced:
                raise SegmentsChangedError(f"{segment.paths.log}: it was replaced") from error
            if segment in state.segment_list.items:
                raise
            facts.clear()  # It was deleted meanwhile, and so was what is older.
    return facts


def _facts(
    state: LogState, reader: LogReader, segment: Segment, written_offset: int
) -> SegmentFacts:
    base_offset = segment.base_offset
    next_offset = max(base_offset, min(segment.end_bound, written_offset))
    if segment.is_active and next_offset == base_offset:
        return SegmentFacts(base_offset, base_offset, 0, UNKNOWN_TIMESTAMP_MS, True)
    if segment.size == SIZE_UNKNOWN:
        segment.size = state.files.stat_size(segment.paths.log)
    try:
        timestamp_ms = _max_timestamp_ms(state, segment)
    except CorruptFileError as error:
        reader.quarantine(segment, error)  # The next look steps over it.
        timestamp_ms = UNKNOWN_TIMESTAMP_MS
    return SegmentFacts(base_offset, next_offset, segment.size, timestamp_ms, segment.is_active)


def _max_timestamp_ms(state: LogState, segment: Segment) -> int:
    """Return the greatest timestamp of a segment, or what stands for it."""
    if segment.released is not None:
        return _max_of_released(state, segment, segment.released)
    if segment.max_timestamp is None and not segment.is_active:
        segment.max_timestamp = _last_entry(state.files, segment)
    if segment.max_timestamp is None:
        state.open_segment(segment)
    latest = segment.max_timestamp
    if latest is not None and latest[0] >= 0:
        return latest[0]
    return state.files.modified_ms(segment.paths.log)


def _max_of_released(state: LogState, segment: Segment, released: ReleasedSegment) -> int:
    """Return the same of a released segment; its index was written when it was sealed."""
    if released.max_timestamp_ms >= 0:
        return released.max_timestamp_ms
    with contextlib.suppress(OSError):
        return state.files.modified_ms(segment.paths.time_index)
    return UNKNOWN_TIMESTAMP_MS


def _last_entry(files: Files, segment: Segment) -> MaxTimestamp | None:
    """Return the last entry of a sealed segment's time index; None if it is to be rebuilt."""
    entry = TimeIndex.ENTRY
    with contextlib.suppress(FileNotFoundError):
        file = files.open_read(segment.paths.time_index)
        size = files.size(file)
        if size == 0:
            return (UNKNOWN_TIMESTAMP_MS, segment.base_offset)
        if size % entry.size:
            return None
        # Two, because a sealed index rises: a last entry that does not is damaged.
        data = files.read_at(file, max(0, size - 2 * entry.size), 2 * entry.size)
        (timestamp_ms, relative), *before = reversed(list(entry.iter_unpack(data)))
        if before and not (before[0][0] < timestamp_ms and before[0][1] <= relative):
            return None
        offset = segment.base_offset + relative
        is_entry = timestamp_ms > 0 or relative > 0  # All zero stands for none.
        if is_entry and timestamp_ms >= 0 and segment.base_offset <= offset < segment.end_bound:
            return (timestamp_ms, offset)
    return None
