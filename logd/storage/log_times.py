"""Offsets by time: the first record at or after a timestamp, and the greatest timestamp. In a
thread.

The time indexes narrow the search down, then batches are read: answers are exact, to the record.

Of a released segment the time index is here and the records are in chunks: the answer is a range of
its source then, see `released_times`.

An entry (t, o) of a time index says that nothing up to o has a timestamp above t. So to find the
first record at or after a time, the search starts behind the last entry *below* that time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from logd.errors import CorruptFileError, CorruptRecordsError, DamagedRangeError
from logd.record.batch import BatchHeader
from logd.record.records import first_at_or_after, iterate
from logd.record.timestamps import batch_timestamp_ms
from logd.storage.log_read import LogReader
from logd.storage.log_state import LogState, retry_if_replaced
from logd.storage.released_times import ReleasedLatest, ReleasedTimeRange
from logd.storage.segment import Segment
from logd.storage.segment_files import MaxTimestamp, SegmentFiles, healthy_ranges
from logd.storage.segment_scan import scan_batches


class TimeLookup:
    """Looks up offsets of one log by time. Blocking."""

    __slots__ = ("_reader", "_state")

    def __init__(self, state: LogState, reader: LogReader) -> None:
        self._state = state
        self._reader = reader

    def offset_for_timestamp(
        self, timestamp_ms: int, *, below: int, from_offset: int
    ) -> tuple[int, int, int] | ReleasedTimeRange | None:
        """Return the first record at or after a time; see `Log.offset_for_timestamp`."""
        assert below <= self._state.end_offset
        return retry_if_replaced(lambda: self._first(timestamp_ms, below, from_offset))

    def _first(
        self, timestamp_ms: int, below: int, from_offset: int
    ) -> tuple[int, int, int] | ReleasedTimeRange | None:
        state = self._state
        if state.failed is not None:
            raise state.failed
        for segment in state.segment_list.items:
            if segment.end_bound <= max(state.log_start_offset, from_offset):
                continue
            if segment.base_offset >= below:
                break
            found = self._first_in_segment(segment, timestamp_ms, below)
            if found is not None:
                return found
        return None

    def _first_in_segment(
        self, segment: Segment, timestamp_ms: int, below: int
    ) -> tuple[int, int, int] | ReleasedTimeRange | None:
        try:
            opened = self._state.open_segment(segment)
            if segment.released is not None:
                if _max_ms(segment) < timestamp_ms:
                    return None
                return self._released(segment, opened, timestamp_ms, below)
            latest = _known_latest(segment)
            if latest is not None and latest[0] < timestamp_ms:
                return None
            from_offset = segment.base_offset
            if opened.time_index is not None and timestamp_ms > 0:
                from_offset = opened.time_index.lookup(timestamp_ms - 1)[1]
            for position, header in self._batches(segment, opened, from_offset):
                if header.base_offset >= below:
                    return None
                if batch_timestamp_ms(header) < timestamp_ms:
                    continue
                found = self._first_in_batch(opened, position, header, timestamp_ms)
                if found is not None and self._state.log_start_offset <= found[0] < below:
                    return (*found, header.leader_epoch)
            return None
        except CorruptFileError as error:
            raise self._reader.quarantine(segment, error).error() from error
        except OSError as error:
            raise DamagedRangeError(f"{segment.paths.log} cannot be read: {error}") from error

    def _released(
        self,
        segment: Segment,
        opened: SegmentFiles,
        timestamp_ms: int,
        below: int,
        *,
        is_latest: bool = False,
    ) -> ReleasedTimeRange:
        """Return where in a released segment the record is to be looked for."""
        assert segment.released is not None
        start_offset = self._state.log_start_offset
        from_offset = max(segment.base_offset, min(start_offset, segment.end_bound - 1))
        if opened.time_index is not None and timestamp_ms > 0:
            # For the latest one, nothing up to the entry's offset is later than this time.
            entry_ms = timestamp_ms if is_latest else timestamp_ms - 1
            from_offset = max(from_offset, opened.time_index.lookup(entry_ms)[1])
        return ReleasedTimeRange(
            base_offset=segment.base_offset,
            position=opened.index.lookup(from_offset)[1] if opened.index is not None else 0,
            size_bytes=segment.released.size_bytes,
            end_bound=segment.end_bound,
            timestamp_ms=timestamp_ms,
            log_start_offset=start_offset,
            below=below,
            is_latest=is_latest,
        )

    def _batches(
        self, segment: Segment, opened: SegmentFiles, from_offset: int
    ) -> Iterator[tuple[int, BatchHeader]]:
        """Yield the readable batches from the one that holds `from_offset` on, headers only."""
        position = opened.index.lookup(from_offset)[1] if opened.index is not None else 0
        assert segment.size >= 0
        damaged = self._state.damage.in_segment(segment.base_offset)
        for start, end in healthy_ranges(damaged, segment.size):
            if end <= position:
                continue
            for at, header, _ in scan_batches(
                self._state.files, opened.file, max(start, position), end, verify=False
            ):
                if header.next_offset > from_offset:
                    yield at, header

    def _first_in_batch(
        self, opened: SegmentFiles, position: int, header: BatchHeader, timestamp_ms: int
    ) -> tuple[int, int] | None:
        """Return offset and timestamp of the first record of a batch at or after a time.

        In a batch whose records cannot be parsed (it was stored as it came) the first record stands
        for all: a reader that starts there misses nothing.
        """
        for batch in scan_batches(self._state.files, opened.file, position, position + header.size):
            if not batch.crc_ok:
                raise CorruptFileError(opened.file.path, position, "a batch fails its CRC-32C")
        data = self._state.files.read_at(opened.file, position, header.size)
        assert len(data) == header.size
        start_offset = self._state.log_start_offset
        try:
            found = first_at_or_after(data, timestamp_ms)
            if found is not None and found[0] < start_offset:
                found = _first_from(data, timestamp_ms, start_offset)
            return found
        except CorruptRecordsError:
            return max(header.base_offset, start_offset), batch_timestamp_ms(header)

    def max_timestamp(self, *, below: int) -> tuple[int, int] | ReleasedLatest | None:
        """Return offset and timestamp of the latest record; see `Log.max_timestamp`."""
        assert below <= self._state.end_offset
        return retry_if_replaced(lambda: self._latest(below))

    def _latest(self, below: int) -> tuple[int, int] | ReleasedLatest | None:
        state = self._state
        if state.failed is not None:
            raise state.failed
        best: tuple[int, int] | None = None
        visible = [
            segment
            for segment in state.segment_list.items
            if segment.end_bound > state.log_start_offset and segment.base_offset < below
        ]
        for segment in visible:
            if segment.released is None:
                found = self._latest_in_segment(segment, below, -1 if best is None else best[1])
                best = best if found is None else found
        ranges = self._later_released(visible, below, best)
        return ReleasedLatest(tuple(ranges), best) if ranges else best

    def _later_released(
        self, visible: list[Segment], below: int, best: tuple[int, int] | None
    ) -> list[ReleasedTimeRange]:
        """Return where in released segments a record may be that comes before the best hot one.

        One that is visible as a whole has a record of its greatest timestamp; so no other one needs
        to be looked at that has no later record, and none behind it that has none so late.
        """
        start_offset = self._state.log_start_offset
        wanted: list[tuple[Segment, int, bool]] = []
        for segment in visible:
            above_ms = -1 if best is None else best[1]
            if best is not None and segment.base_offset < best[0]:
                above_ms -= 1  # Of two equally late records the first one is the answer.
            released = segment.released
            if released is not None and _max_ms(segment) > above_ms:
                is_whole = segment.base_offset >= start_offset and segment.end_bound <= below
                is_whole = is_whole and released.max_timestamp_ms >= 0
                wanted.append((segment, above_ms, is_whole))
        ranges: list[ReleasedTimeRange] = []
        reached_ms = -1
        peak_ms = max((_max_ms(segment) for segment, _, is_whole in wanted if is_whole), default=-1)
        for segment, above_ms, is_whole in wanted:
            if _max_ms(segment) >= peak_ms and _max_ms(segment) > reached_ms:
                opened = self._state.open_segment(segment)
                ranges.append(self._released(segment, opened, above_ms, below, is_latest=True))
                reached_ms = _max_ms(segment) if is_whole else reached_ms
        return ranges

    def _latest_in_segment(
        self, segment: Segment, below: int, above_ms: int
    ) -> tuple[int, int] | None:
        """Return the segment's latest readable record, if it is later than `above_ms`."""
        try:
            opened = self._state.open_segment(segment)
            latest = _known_latest(segment)
            if latest is not None and latest[0] <= above_ms:
                return None
            from_offset = segment.base_offset
            if latest is not None and self._state.log_start_offset <= latest[1] < below:
                from_offset = latest[1]
            elif opened.time_index is not None:
                from_offset = self._entry_below(opened, segment, below)
            best: tuple[int, BatchHeader] | None = None
            for position, header in self._batches(segment, opened, from_offset):
                if header.base_offset >= below:
                    break
                if header.next_offset <= self._state.log_start_offset:
                    continue
                timestamp_ms = self._latest_in_batch(opened, position, header)
                if timestamp_ms > above_ms:
                    above_ms = timestamp_ms
                    best = (position, header)
            if best is None:
                return None
            return self._first_in_batch(opened, *best, above_ms)
        except CorruptFileError as error:
            raise self._reader.quarantine(segment, error).error() from error
        except OSError as error:
            raise DamagedRangeError(f"{segment.paths.log} cannot be read: {error}") from error

    def _latest_in_batch(self, opened: SegmentFiles, position: int, header: BatchHeader) -> int:
        """Return the greatest timestamp of the batch's records that are not deleted."""
        start_offset = self._state.log_start_offset
        if header.base_offset >= start_offset:
            return batch_timestamp_ms(header)
        data = self._state.files.read_at(opened.file, position, header.size)
        with contextlib.suppress(CorruptRecordsError):
            return max(
                record.timestamp_ms for record in iterate(data) if record.offset >= start_offset
            )
        return batch_timestamp_ms(header)

    def _entry_below(self, opened: SegmentFiles, segment: Segment, below: int) -> int:
        """Return an offset from which on the latest record below `below` is sure to be found."""
        assert opened.time_index is not None
        timestamp_ms, offset = opened.time_index.last
        while timestamp_ms >= 0 and offset >= below:
            timestamp_ms, offset = opened.time_index.lookup(timestamp_ms - 1)
        assert timestamp_ms < 0 or offset < below
        if timestamp_ms < 0 or offset < self._state.log_start_offset:
            return segment.base_offset
        return offset


def _max_ms(segment: Segment) -> int:
    """Return a time that no record of a released segment is later than.

    As below: none known does not mean that there is none of time 0.
    """
    assert segment.released is not None
    return max(segment.released.max_timestamp_ms, 0)


def _known_latest(segment: Segment) -> MaxTimestamp | None:
    """Return the segment's greatest timestamp if it is known for sure.

    A time index has no entry for time 0 at the segment's first offset: no entry proves nothing.
    """
    latest = segment.max_timestamp
    return latest if latest is not None and latest[0] >= 0 else None


def _first_from(data: bytes, timestamp_ms: int, start_offset: int) -> tuple[int, int] | None:
    """Return the first record at or after a time whose offset is not below `start_offset`."""
    for record in iterate(data):
        if record.offset >= start_offset and record.timestamp_ms >= timestamp_ms:
            return record.offset, record.timestamp_ms
    return None
