"""The log's side of the cold tier: what tiering goes by, and releasing and thawing of segments.

A log knows no chunks, nodes or catalog. It is told at its opening which segments may lack a .log
(`released`), gives out a sealed segment's bytes to be coded (`segment_source`), lets a .log go
(`log_release`) and takes it back (`log_thaw`). All of these block and are for threads; none needs
the log's writing side.

Two numbers count bytes, and no byte is in both: `size_bytes` is what .log files hold on this disk,
`released_bytes` what released segments hold in chunks, counted as their source. retention.bytes
goes by the sum, `total_bytes`.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from logd.errors import SegmentsChangedError
from logd.record.batch import NO_TIMESTAMP
from logd.storage.clean_order import NewSegment
from logd.storage.log_compact import cleaned_below
from logd.storage.log_readable import ReadableLog
from logd.storage.log_release import Indexes, find_sealed, put_indexes, release_segment
from logd.storage.log_state import retry_if_replaced
from logd.storage.log_thaw import ThawWriter, begin_thaw
from logd.storage.segment import SIZE_UNKNOWN, Segment
from logd.storage.segment_source import SegmentSource, open_cleaned_source, open_source


@dataclass(frozen=True, slots=True)
class SealedSegment:
    """A sealed segment with a .log here, as tiering sees it.

    Attributes:
        sealed_ms: when its .log was last written, by the wall clock of that time.
        max_timestamp_ms: -1 where it is not known without opening the segment.
        is_damaged: it has a quarantined range, and cannot be coded.
    """

    base_offset: int
    next_offset: int
    size_bytes: int
    sealed_ms: int
    max_timestamp_ms: int
    is_damaged: bool


class ColdLog(ReadableLog):
    """What `Log` can do about segments that go to chunks and come back."""

    # --- what tiering goes by --------------------------------------------------------------------

    def sealed_segments(self) -> list[SealedSegment]:
        """Return what tiering goes by, of all sealed segments that are hot, the oldest first.

        Blocking: asks the file system about each one once. Opens none.

        Raises:
            OSError: a file cannot be looked at.
        """
        return retry_if_replaced(self._sealed_segments)

    def _sealed_segments(self) -> list[SealedSegment]:
        damaged = {entry.base_offset for entry in self.damage.ranges}
        return [
            self._describe_sealed(segment, is_damaged=segment.base_offset in damaged)
            for segment in self.segment_list.items[:-1]
            if segment.released is None and segment.end_bound > self.log_start_offset
        ]

    def _describe_sealed(self, segment: Segment, *, is_damaged: bool) -> SealedSegment:
        assert not segment.is_active
        try:
            if segment.size == SIZE_UNKNOWN:
                segment.size = self.files.stat_size(segment.paths.log)
            if segment.sealed_ms is None:
                segment.sealed_ms = self.files.modified_ms(segment.paths.log)
        except FileNotFoundError as error:
            if segment.is_replaced or segment not in self.segment_list.items:
                raise SegmentsChangedError(f"{segment.paths.log}: it was replaced") from error
            raise
        latest = segment.max_timestamp
        return SealedSegment(
            segment.base_offset,
            segment.end_bound,
            segment.size,
            segment.sealed_ms,
            NO_TIMESTAMP if latest is None else latest[0],
            is_damaged,
        )

    # --- to chunks and back ----------------------------------------------------------------------

    def segment_source(self, base_offset: int) -> SegmentSource:
        """Open a hot, sealed segment to be coded. Blocking: reads all of it, and checks it.

        Raises:
            SegmentsChangedError: there is none at this offset (any more).
            DamagedRangeError: it is damaged, or cannot be read. LogFailedError: poisoned.
        """
        return open_source(self, self._reader, base_offset)

    def cleaned_source(self, new: NewSegment, *, attempt: int, end_offset: int) -> SegmentSource:
        """Open what a round of compaction wrote to be coded, before it is part of the log.

        Blocking: reads all of it, and checks it; see `open_cleaned_source`.
        """
        return open_cleaned_source(self, new, attempt=attempt, end_offset=end_offset)

    def cleaned_below(self) -> int:
        """Return up to which offset the log was compacted. Blocking: reads a small file once."""
        return cleaned_below(self)

    def release(
        self,
        base_offset: int,
        *,
        size_bytes: int,
        next_offset: int,
        min_timestamp_ms: int = NO_TIMESTAMP,
        indexes: Indexes | None = None,
    ) -> tuple[str, ...]:
        """Let a segment's .log go; see `log_release`. Blocking; the log goes on meanwhile.

        The catalog says RELEASED, durably. Readers in the middle finish. Once this returns, the
        renames are durable. Harmless for a segment that is released already.

        Args:
            size_bytes: of what was coded.
            next_offset: the offset at which what was coded ends: behind its last record, or where
                the next segment begins. A segment that ends elsewhere is another one.
            min_timestamp_ms: of its records, for `segments`.
            indexes: of what was coded, if that is not the .log but its recompressed form.

        Returns:
            Paths to be unlinked when nobody reads them any more.

        Raises:
            SegmentsChangedError: no sealed segment begins there, it was deleted meanwhile; or it is
                not what was coded. Nothing has changed.
            DiskFullError, StorageError: the disk refused; the segment is hot as before, or (if
                only the last sync failed) released. LogFailedError: poisoned.
        """
        return release_segment(
            self,
            base_offset,
            size_bytes=size_bytes,
            next_offset=next_offset,
            min_timestamp_ms=min_timestamp_ms,
            indexes=indexes,
        )

    def thaw(self, base_offset: int) -> ThawWriter:
        """Begin to bring a released segment's .log back; see `log_thaw`. Blocking, as its methods.

        Raises:
            SegmentsChangedError: it is not released, or is being thawed already.
            DiskFullError, StorageError: the file could not be made. LogFailedError: poisoned.
        """
        return begin_thaw(self, base_offset)

    def released_without_indexes(self) -> tuple[int, ...]:
        """Return the base offsets of released segments that lack an index. Reads are slower there.

        By names as of the start, and by what was opened since.
        """
        return tuple(
            segment.base_offset
            for segment in self.segment_list.items
            if segment.released is not None and segment.lacks_indexes
        )

    def put_indexes(self, base_offset: int, index: bytes, time_index: bytes) -> None:
        """Put back the indexes of a released segment. Blocking; durable once this returns.

        Raises:
            CorruptFileError: they are not of this segment; nothing has changed.
            SegmentsChangedError: it is not released (any more).
            DiskFullError, StorageError: the disk refused; it may still lack one.
        """
        put_indexes(self, base_offset, (index, time_index))

    def distrust_indexes(self, base_offset: int) -> None:
        """Remove a released segment's indexes, which led a reader nowhere. Blocking.

        It is read from its first byte until `put_indexes`. Harmless for a segment that is not
        released any more, or that has none.
        """
        with self.open_lock:
            try:
                segment = find_sealed(self, base_offset)
            except SegmentsChangedError:
                return
            if segment.released is None:
                return
            segment.lacks_indexes = True
            self.open_files.forget(segment)
            for path in (segment.paths.index, segment.paths.time_index):
                # What stays is believed again by the next who opens it, and led nowhere again.
                with contextlib.suppress(OSError):
                    self.files.unlink(path)
