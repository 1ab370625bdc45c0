"""A sealed segment as the source of coding: checked once, then read by position.

Opening it reads the whole .log and checks every batch, so that what is rotten is never coded: it is
quarantined, as by a reader, and so is what is missing between it and the next one. The descriptor
is the source's own: the segment may be released or deleted meanwhile, and the source reads on.
"""

from __future__ import annotations

from logd.errors import (
    CorruptFileError,
    DamagedRangeError,
    SegmentsChangedError,
)
from logd.record.batch import (
    DELETE_HORIZON_BIT,
    LOG_APPEND_TIME_BIT,
    NO_TIMESTAMP,
    BatchHeader,
)
from logd.record.timestamps import batch_timestamp_ms
from logd.storage.clean_order import NewSegment
from logd.storage.files import Files, OpenFile
from logd.storage.layout import (
    INDEX_SUFFIX,
    LOG_SUFFIX,
    TIME_INDEX_SUFFIX,
    cleaned_file_name,
)
from logd.storage.log_read import LogReader
from logd.storage.log_state import LogState
from logd.storage.missing_behind import quarantine_missing
from logd.storage.offset_index import OffsetIndex
from logd.storage.segment import Segment
from logd.storage.segment_files import SegmentPaths
from logd.storage.segment_scan import scan_batches, scan_in_order
from logd.units import INT32_MAX, INT64_MAX


class SegmentSource:
    """The source bytes of one sealed segment. Made by `open_source`; blocking, for one thread.

    Attributes:
        base_offset: of the segment.
        next_offset: the offset behind its last record.
        size_bytes: of its .log.
        min_timestamp_ms, max_timestamp_ms: of its batches, as their headers tell; -1 for none.
    """

    def __init__(
        self,
        files: Files,
        file: OpenFile,
        paths: SegmentPaths,
        index: OffsetIndex,
        *,
        base_offset: int,
        size_bytes: int,
    ) -> None:
        assert size_bytes > 0
        self._files = files
        self._file: OpenFile | None = file
        self._paths = paths
        self._index = index
        self.base_offset = base_offset
        self.next_offset = base_offset
        self.size_bytes = size_bytes
        self.min_timestamp_ms = NO_TIMESTAMP
        self.max_timestamp_ms = NO_TIMESTAMP

    def check(self, *, end_bound: int, leader_epoch: int) -> None:
        """Read every batch, and note what the headers tell.

        Raises:
            CorruptFileError: a batch is not what it should be. OSError: it cannot be read.
        """
        file, least_ms = self._open_file(), INT64_MAX
        for position, header, crc_ok in scan_in_order(
            self._files,
            file,
            0,
            self.size_bytes,
            next_offset=self.base_offset,
            end_bound=end_bound,
        ):
            if not crc_ok:
                raise CorruptFileError(file.path, position, "a batch fails its CRC-32C")
            if header.leader_epoch > leader_epoch:
                reason = f"leader epoch {header.leader_epoch} never began"
                raise CorruptFileError(file.path, position, reason)
            self.max_timestamp_ms = max(self.max_timestamp_ms, batch_timestamp_ms(header))
            first_ms = _first_timestamp_ms(header)
            least_ms = first_ms if 0 <= first_ms < least_ms else least_ms
            self.next_offset = header.next_offset
        if least_ms != INT64_MAX:
            self.min_timestamp_ms = min(least_ms, self.max_timestamp_ms)

    def _open_file(self) -> OpenFile:
        assert self._file is not None, "closed"
        return self._file

    def read_into(self, position: int, buffer: bytearray | memoryview) -> int:
        """Fill `buffer` from `position`; return the bytes read, fewer only at the end.

        Raises:
            OSError: they cannot be read.
        """
        assert 0 <= position <= self.size_bytes
        view = memoryview(buffer)[: self.size_bytes - position]
        return self._files.read_into(self._open_file(), position, view)

    def indexes(self) -> tuple[bytes, bytes]:
        """Return the offset index and the time index, as they stand in their files.

        Raises:
            OSError: they cannot be read, or went with the segment.
        """
        limit_bytes = INT32_MAX
        return (
            self._files.read_whole(self._paths.index, limit_bytes=limit_bytes),
            self._files.read_whole(self._paths.time_index, limit_bytes=limit_bytes),
        )

    def batches_near(
        self, start: int, end: int, *, limit: int | None = None
    ) -> list[tuple[int, int]]:
        """Return (position, base offset) of the batches that begin at `start` .. `end`, exclusive.

        Args:
            limit: not more than so many, the first ones.

        Raises:
            CorruptFileError: what was checked before is no batch any more. OSError: as `read_into`.
        """
        assert 0 <= start <= end
        end = min(end, self.size_bytes)
        at = self._index.last_position_at_or_before(start)
        scan = scan_batches(self._files, self._open_file(), at, self.size_bytes, verify=False)
        found: list[tuple[int, int]] = []
        for position, header, _ in scan:
            if position >= end or len(found) == limit:
                break
            if position >= start:
                found.append((position, header.base_offset))
        return found

    def close(self) -> None:
        """Let go of the file."""
        self._file = None


def open_source(state: LogState, reader: LogReader, base_offset: int) -> SegmentSource:
    """Open and check the source of a sealed segment; see `Log.segment_source`."""
    if state.failed is not None:
        raise state.failed
    segment = state.segment_list.with_base(base_offset)
    if segment is None or segment.is_active or segment.released is not None:
        reason = f"no hot, sealed segment begins at {base_offset}"
        raise SegmentsChangedError(f"{state.directory}: {reason}")
    damaged = state.damage.in_segment(base_offset)
    if damaged:
        raise damaged[0].error()
    try:
        opened = state.reopen_sealed(segment)
        assert opened.index is not None
        with state.open_lock:
            state.check_not_replaced(segment)
            file = state.files.open_read(segment.paths.log)
        source = SegmentSource(
            state.files, file, segment.paths, opened.index,
            base_offset=base_offset, size_bytes=segment.size,
        )  # fmt: skip
        source.check(end_bound=segment.end_bound, leader_epoch=state.leader_epoch)
        _check_end(state, segment, source)
        return source
    except CorruptFileError as error:
        raise reader.quarantine(segment, error).error() from error
    except OSError as error:
        if segment.is_replaced:
            raise SegmentsChangedError(f"{segment.paths.log}: it was replaced") from error
        raise DamagedRangeError(f"{segment.paths.log} cannot be read: {error}") from error


def open_cleaned_source(
    state: LogState, new: NewSegment, *, attempt: int, end_offset: int
) -> SegmentSource:
    """Open and check a segment that a round of compaction wrote, before it is part of the log.

    Args:
        attempt: the round's.
        end_offset: where the next segment will begin.

    Raises:
        CorruptFileError: it is not what the round wrote. OSError: it cannot be read.
    """
    log, index, time_index = (
        f"{state.directory}/{cleaned_file_name(new.base_offset, attempt, suffix)}"
        for suffix in (LOG_SUFFIX, INDEX_SUFFIX, TIME_INDEX_SUFFIX)
    )
    file = state.files.open_read(log)
    size = state.files.size(file)
    if size != new.log_bytes:
        raise CorruptFileError(log, min(size, new.log_bytes), f"has {size} bytes")
    offsets = OffsetIndex.open(
        state.files, index, base_offset=new.base_offset,
        max_bytes=state.settings.segment_index_bytes, writable=False,
    )  # fmt: skip
    source = SegmentSource(
        state.files, file, SegmentPaths(log, index, time_index), offsets,
        base_offset=new.base_offset, size_bytes=size,
    )  # fmt: skip
    source.check(end_bound=end_offset, leader_epoch=state.leader_epoch)
    return source


def _check_end(state: LogState, segment: Segment, source: SegmentSource) -> None:
    """Quarantine what is missing behind a segment: once it is coded nobody would look for it.

    Recovery walks from a checkpoint on, so a file that went from before it is found here.

    Raises:
        DamagedRangeError: the next segment begins later than this one ends, and nothing was
            compacted here. OSError: what compaction did cannot be read.
    """
    missing = quarantine_missing(state, segment, source.next_offset, size_bytes=source.size_bytes)
    if missing is not None:
        raise missing.error()


def _first_timestamp_ms(header: BatchHeader) -> int:
    """Return the timestamp of a batch's first record, as its header tells; -1 if it does not."""
    if header.count == 0 or header.attributes & DELETE_HORIZON_BIT:
        return NO_TIMESTAMP
    if header.attributes & LOG_APPEND_TIME_BIT:
        return header.max_timestamp
    return header.base_timestamp
