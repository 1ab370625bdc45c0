"""Reading whole, verified batches: on the event loop from what is in memory, else in a thread.

A read gives the bytes from the batch that holds the wanted offset up to the last batch boundary
within max_bytes. `try_read` knows boundaries from recent reads and writes, from the mapped index,
and from headers that are in the page cache; and it gives out only bytes whose CRC was checked since
start (or that this process appended). Where that is not enough it returns None, and `read`, in a
thread, opens, scans and verifies, and remembers what it verified.

Damage that `read` comes upon is quarantined: the readers behind it go on.

In a released segment the answer is a range of its source (`released`), without a byte read: its
index is here. `try_read` gives it once the index is open.

Concurrency: see `log_state`. Both take `segment_list` and a segment's `size` once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Final

from logd.errors import CorruptFileError, DamagedRangeError, OffsetOutOfRangeError
from logd.record.batch import HEADER_BYTES, is_plausible, read_header
from logd.storage.damage import DamagedRange
from logd.storage.damage_search import find_damage
from logd.storage.file_slice import UNKNOWN_OFFSET, FileSlice, empty_slice
from logd.storage.files import OpenFile
from logd.storage.log_state import LogState, retry_if_replaced
from logd.storage.missing_behind import quarantine_missing
from logd.storage.released import ReleasedRange, ReleasedSegment
from logd.storage.segment import SIZE_UNKNOWN, Segment
from logd.storage.segment_files import SegmentFiles, healthy_ranges, rebuild_sealed
from logd.storage.segment_scan import (
    HEADER_WINDOW_BYTES,
    read_batch_header,
    scan_in_order,
)
from logd.units import MIB

VERIFY_BYTES: Final = MIB
"""A reading thread verifies so much at least, so that the next reads need none."""

CACHED_HOPS_MAX: Final = 64
"""Headers looked at on the event loop before a thread is asked: some tens of microseconds."""

CACHED_WINDOWS_MAX: Final = 4


class LogReader:
    """Reads of one log."""

    __slots__ = ("_state",)

    def __init__(self, state: LogState) -> None:
        self._state = state

    # --- on the event loop -----------------------------------------------------------------------

    def try_read(
        self, offset: int, *, max_bytes: int, below: int, min_one: bool
    ) -> FileSlice | ReleasedRange | None:
        """Return verified batches without waiting for a disk, or None; see `Log.try_read`."""
        state = self._state
        self._check_offset(offset)
        assert max_bytes >= 0
        if offset >= below:
            return empty_slice(offset)
        segment = state.segment_list.find(offset)
        if state.damage.ranges and self._meets_damage(offset, segment):
            return None
        opened = segment.files or state.open_files.get(segment)
        size = segment.size
        if opened is None or size == SIZE_UNKNOWN:
            return None
        if segment.released is not None:
            return released_range(segment, segment.released, opened, offset)
        start = segment.boundaries.get(offset)
        if start is None:
            start = self._find_cached(segment, opened, offset, size)
            if start is None:
                return None
        # What is published of the active segment ends at `written_offset`.
        bound = state.written_offset if segment.is_active else segment.end_bound
        limit: int | None = size
        if below < bound:
            limit = segment.boundaries.get(below)
            if limit is None:
                limit = self._find_cached(segment, opened, below, size)
        if limit is None or limit <= start:
            return None
        return self._cached_slice(
            segment, opened, start, limit, min(below, bound), max_bytes, min_one
        )

    def _cached_slice(
        self,
        segment: Segment,
        opened: SegmentFiles,
        start: int,
        limit: int,
        limit_offset: int,
        max_bytes: int,
        min_one: bool,
    ) -> FileSlice | None:
        assert 0 <= start < limit <= segment.size
        end = limit
        if limit - start > max_bytes:
            cut = self._cut_cached(opened, start, start + max_bytes, limit, min_one)
            if cut is None:
                return None
            end = cut
        verified_end = segment.verified_end(start)
        if verified_end <= start:
            return None
        end = min(end, verified_end)
        assert end >= start
        next_offset = limit_offset
        if end != limit:
            next_offset = self._offset_at(opened, end)
            if next_offset >= 0:
                segment.boundaries.put(next_offset, end)
        elif not segment.is_active and limit_offset == segment.end_bound:
            next_offset = UNKNOWN_OFFSET  # The last records before the bound may be compacted away.
        return FileSlice(opened.file, start, end - start, next_offset)

    def _check_offset(self, offset: int) -> None:
        state = self._state
        if state.failed is not None:
            raise state.failed
        if not state.log_start_offset <= offset <= state.end_offset:
            raise OffsetOutOfRangeError(
                f"offset {offset} is not within {state.log_start_offset} to {state.end_offset}"
            )

    def _meets_damage(self, offset: int, segment: Segment) -> bool:
        """Return whether the segment has damage, which only `read` steps over.

        Raises:
            DamagedRangeError: the offset itself is damaged.
        """
        damaged = self._state.damage.find(offset)
        if damaged is not None:
            raise damaged.error()
        return bool(self._state.damage.in_segment(segment.base_offset))

    def _find_cached(
        self, segment: Segment, opened: SegmentFiles, offset: int, size: int
    ) -> int | None:
        """Return the position of the batch that holds `offset`, if cached pages tell."""
        position = opened.index.lookup(offset)[1] if opened.index is not None else 0
        for _ in range(CACHED_WINDOWS_MAX):
            if position >= size:
                return size if position == size else None
            data = self._state.files.read_cached_at(opened.file, position, HEADER_WINDOW_BYTES)
            if data is None or len(data) < HEADER_BYTES:
                return None
            at = 0
            while at + HEADER_BYTES <= len(data) and position + at < size:
                header = read_header(data, at)
                if not is_plausible(header) or header.base_offset < segment.base_offset:
                    return None
                if header.next_offset > offset:
                    return position + at
                at += header.size
            position += at
        return None

    def _cut_cached(
        self, opened: SegmentFiles, start: int, target: int, limit: int, min_one: bool
    ) -> int | None:
        """Return the last known batch boundary in start .. target; or the first one."""
        if opened.index is not None:
            indexed = opened.index.last_position_at_or_before(target)
            if indexed > start:
                return indexed
        assert start < limit
        position = start
        for _ in range(CACHED_HOPS_MAX):
            data = self._state.files.read_cached_at(opened.file, position, HEADER_BYTES)
            if data is None or len(data) < HEADER_BYTES:
                return position if position > start else None
            header = read_header(data)
            if not is_plausible(header):
                return None
            batch_end = position + header.size
            if batch_end > target:
                return batch_end if position == start and min_one else position
            position = batch_end
            if position >= limit:
                break
        return min(position, limit)

    def _offset_at(self, opened: SegmentFiles, position: int) -> int:
        data = self._state.files.read_cached_at(opened.file, position, HEADER_BYTES)
        if data is None or len(data) < HEADER_BYTES:
            return UNKNOWN_OFFSET
        return read_header(data).base_offset

    # --- in a thread -----------------------------------------------------------------------------

    def read(
        self, offset: int, *, max_bytes: int, below: int, min_one: bool
    ) -> FileSlice | ReleasedRange:
        """Return verified batches, reading from the disk as needed; see `Log.read`."""
        self._check_offset(offset)
        assert max_bytes >= 0
        if offset >= below:
            return empty_slice(offset)
        return retry_if_replaced(lambda: self._read(offset, max_bytes, below, min_one))

    def _read(
        self, offset: int, max_bytes: int, below: int, min_one: bool
    ) -> FileSlice | ReleasedRange:
        segments = self._state.segment_list
        for segment in segments.items[segments.index_of(offset) :]:
            if segment.base_offset >= below:
                break
            found = self._read_segment(
                segment, offset, max_bytes=max_bytes, below=below, min_one=min_one
            )
            if found is not None:
                return found
            if segment.base_offset <= offset and segment.end_bound <= below:
                self._refuse_gap(segment)
        return empty_slice(offset)

    def _refuse_gap(self, segment: Segment) -> None:
        """Do not lead a reader from the end of a segment over offsets that should be behind it.

        Raises:
            DamagedRangeError: they are missing, and were not compacted away.
        """
        state = self._state
        if segment.released is not None or state.damage.in_segment(segment.base_offset):
            return  # Proved whole when it was coded; or its own damage says what is missing.
        try:
            opened = state.open_segment(segment)
            next_offset = segment.base_offset
            position = self._indexed_position(segment, opened, segment.end_bound - 1, segment.size)
            for _, header, _ in scan_in_order(
                state.files,
                opened.file,
                position,
                segment.size,
                next_offset=None,
                end_bound=self._end_bound(segment),
                verify=False,
            ):
                next_offset = header.next_offset
            missing = quarantine_missing(state, segment, next_offset, size_bytes=segment.size)
        except CorruptFileError as error:
            raise self.quarantine(segment, error).error() from error
        except OSError as error:
            raise DamagedRangeError(f"{segment.paths.log} cannot be read: {error}") from error
        if missing is not None:
            raise missing.error()

    def _read_segment(
        self, segment: Segment, offset: int, *, max_bytes: int, below: int, min_one: bool
    ) -> FileSlice | ReleasedRange | None:
        """Read from one segment; None if it has no batch in offset .. below."""
        damaged = self._state.damage.find(offset)
        if damaged is not None:
            raise damaged.error()
        try:
            opened = self._state.open_segment(segment)
            if segment.released is not None:
                return released_range(segment, segment.released, opened, offset)
            start, end_limit = self.locate(segment, opened, offset)
            if start >= end_limit:
                return None
            return self._verify(
                segment, opened, start, end_limit, offset, max_bytes, below, min_one
            )
        except CorruptFileError as error:
            raise self.quarantine(segment, error).error() from error
        except OSError as error:
            raise DamagedRangeError(f"{segment.paths.log} cannot be read: {error}") from error

    def locate(self, segment: Segment, opened: SegmentFiles, offset: int) -> tuple[int, int]:
        """Return the position of the first batch that ends above `offset`, and how far to read.

        The second one is the end of the segment, or the next damaged bytes.

        Raises:
            CorruptFileError: a batch on the way is damaged. OSError: cannot be read.
            DamagedRangeError: known damage lies between the offset and the next batch.
        """
        size = segment.size
        assert size != SIZE_UNKNOWN
        damaged = self._state.damage.in_segment(segment.base_offset)
        position = self._indexed_position(segment, opened, offset, size)
        for start, end in healthy_ranges(damaged, size):
            if end <= position:
                continue
            for at, header, _ in scan_in_order(
                self._state.files,
                opened.file,
                max(position, start),
                end,
                next_offset=segment.base_offset if position == start == 0 else None,
                end_bound=self._end_bound(segment),
                verify=False,
            ):
                if header.next_offset > offset:
                    _refuse_to_skip(damaged, offset, header.base_offset)
                    return at, end
        return size, size

    def _end_bound(self, segment: Segment) -> int:
        return min(segment.end_bound, self._state.written_offset)

    def _indexed_position(
        self, segment: Segment, opened: SegmentFiles, offset: int, size: int
    ) -> int:
        """Return where to begin the search, after a look whether the index tells the truth."""
        if opened.index is None or offset <= segment.base_offset:
            return 0
        entry_offset, position = opened.index.lookup(offset)
        if position == 0 or self._is_batch_of(opened.file, position, size, entry_offset):
            return position
        if not segment.is_active:
            self._rebuild(segment, opened)
        return 0

    def _is_batch_of(self, file: OpenFile, position: int, size: int, offset: int) -> bool:
        try:
            header = read_batch_header(self._state.files, file, position, size)
        except CorruptFileError:
            return False
        return header.base_offset <= offset <= header.last_offset

    def _rebuild(self, segment: Segment, opened: SegmentFiles) -> None:
        state = self._state
        with state.open_lock:
            state.check_not_replaced(segment)
            rebuilt = rebuild_sealed(
                state.files,
                segment.paths,
                opened.file,
                base_offset=segment.base_offset,
                end_bound=segment.end_bound,
                settings=state.settings,
                damaged=state.damage.in_segment(segment.base_offset),
            )
            state.open_files.put(segment, rebuilt)

    def _verify(
        self,
        segment: Segment,
        opened: SegmentFiles,
        start: int,
        end_limit: int,
        offset: int,
        max_bytes: int,
        below: int,
        min_one: bool,
    ) -> FileSlice | None:
        """Check CRCs from `start` on; return what fits into max_bytes."""
        verified_end = start
        end = start
        next_offset = offset
        try:
            for position, header, crc_ok in scan_in_order(
                self._state.files,
                opened.file,
                start,
                end_limit,
                next_offset=None,
                end_bound=self._end_bound(segment),
            ):
                if header.base_offset >= below:
                    break
                if not crc_ok:
                    raise CorruptFileError(opened.file.path, position, "a batch fails its CRC-32C")
                if header.leader_epoch > self._state.leader_epoch:  # Not covered by the CRC.
                    reason = f"leader epoch {header.leader_epoch} never began"
                    raise CorruptFileError(opened.file.path, position, reason)
                verified_end = position + header.size
                if verified_end - start <= max_bytes or (position == start and min_one):
                    end = verified_end
                    next_offset = header.next_offset
                elif verified_end - start >= VERIFY_BYTES:
                    break
        except CorruptFileError:
            # Good batches before it are given out; the reader comes back for what follows.
            if end == start:
                raise
        assert start <= end <= verified_end <= end_limit
        segment.verified.add(start, verified_end)
        if verified_end == start:
            return None
        return FileSlice(opened.file, start, end - start, next_offset)

    def quarantine(self, segment: Segment, error: CorruptFileError) -> DamagedRange:
        """Write down the damage that `error` reports; return its range.

        Raises:
            SegmentsChangedError: the segment was replaced meanwhile, and the damage with it.
        """
        state = self._state
        size = max(segment.size, error.position)
        assert 0 <= error.position <= size
        with state.open_lock:
            state.check_not_replaced(segment)
            damaged = find_damage(
                state.files,
                state.damage,
                segment,
                state.files.open_read(segment.paths.log),
                position=error.position,
                size=size,
                end_offset=min(segment.end_bound, state.written_offset),
                reason=error.reason,
            )
            # In memory it counts at once; if it cannot be written down, the next start finds it.
            with contextlib.suppress(OSError):
                state.damage.add(damaged)
        if segment.is_active:
            state.damage_found_in_active = True
            state.plan_is_stale = True
        return damaged


def released_range(
    segment: Segment, released: ReleasedSegment, opened: SegmentFiles, offset: int
) -> ReleasedRange | None:
    """Return where in a released segment a reader of `offset` is to begin; None: behind its end."""
    wanted = max(offset, segment.base_offset)
    if wanted >= min(released.next_offset, segment.end_bound):
        return None
    position = opened.index.lookup(wanted)[1] if opened.index is not None else 0
    return ReleasedRange(
        segment.base_offset, position, released.size_bytes, wanted, segment.end_bound
    )


def _refuse_to_skip(damaged: Sequence[DamagedRange], offset: int, found_offset: int) -> None:
    """A reader must not be led from `offset` over lost records to the next batch, unawares."""
    for entry in damaged:
        if offset < entry.next_offset and entry.first_offset < found_offset:
            raise entry.error()
