"""What a log gives to those who ask: batches by offset, offsets by time, facts about its segments.

See `Log` for what a log is. Nothing here changes it, except what reading finds out: bytes that were
verified, damage that is quarantined.
"""

from __future__ import annotations

from functools import partial

from logd.policy.retention import SegmentFacts
from logd.storage.file_slice import FileSlice
from logd.storage.files import Files
from logd.storage.log_describe import describe_segment
from logd.storage.log_facts import oldest_segments
from logd.storage.log_read import LogReader
from logd.storage.log_settings import LogSettings
from logd.storage.log_state import LogParts, LogState, retry_if_replaced
from logd.storage.log_times import TimeLookup
from logd.storage.open_files import OpenFiles
from logd.storage.released import ReleasedRange
from logd.storage.released_times import ReleasedLatest, ReleasedTimeRange
from logd.storage.segment import SegmentInfo


class ReadableLog(LogState):
    """The reading half of `Log`."""

    def __init__(
        self,
        files: Files,
        directory: str,
        *,
        topic_id: bytes,
        topic: str,
        partition: int,
        settings: LogSettings,
        open_files: OpenFiles | None,
        parts: LogParts,
    ) -> None:
        super().__init__(
            files,
            directory,
            topic_id=topic_id,
            topic=topic,
            partition=partition,
            settings=settings,
            open_files=open_files,
            parts=parts,
        )
        assert self.released_bytes >= 0
        self._reader = LogReader(self)
        self._times = TimeLookup(self, self._reader)

    # --- read ------------------------------------------------------------------------------------

    def try_read(
        self, offset: int, *, max_bytes: int, below: int, min_one: bool = True
    ) -> FileSlice | ReleasedRange | None:
        """Return whole, verified batches from `offset` on without waiting for a disk. On the loop.

        Args:
            max_bytes: the slice is no longer, unless its first batch is and `min_one` is set.
            below: no batch at or above is given: the high watermark.

        Returns:
            A slice, empty where there is nothing below `below` (or nothing that fits); a range of
            a released segment's source, see `released`; None where `read` has to be asked, in a
            thread.

        Raises:
            OffsetOutOfRangeError: outside log start .. log end. DamagedRangeError: quarantined.
            LogFailedError: the log is poisoned.
        """
        return self._reader.try_read(offset, max_bytes=max_bytes, below=below, min_one=min_one)

    def read(
        self, offset: int, *, max_bytes: int, below: int, min_one: bool = True
    ) -> FileSlice | ReleasedRange:
        """Return whole batches from `offset` on, reading and verifying them. Blocking, in a thread.

        What is verified is remembered for `try_read`. Damage that nobody knew of is quarantined.
        Of a released segment nothing is read but its index, once.

        Raises:
            OffsetOutOfRangeError, LogFailedError: as `try_read`.
            DamagedRangeError: damaged, or the disk refused to read it.
        """
        return self._reader.read(offset, max_bytes=max_bytes, below=below, min_one=min_one)

    def offset_for_timestamp(
        self, timestamp_ms: int, *, below: int, from_offset: int = 0
    ) -> tuple[int, int, int] | ReleasedTimeRange | None:
        """Return (offset, timestamp, leader epoch) of the first record at or after a time.
        Blocking.

        Exact, to the record, except in batches that cannot be parsed: their first record stands for
        all. None where no record below `below` is that late. A range where it may be in a released
        segment: if a `TimeSearch` does not find it there, ask again from its `end_bound` on.

        Args:
            from_offset: segments that end at or before it are passed over.

        Raises:
            DamagedRangeError, LogFailedError: as `read`.
        """
        return self._times.offset_for_timestamp(timestamp_ms, below=below, from_offset=from_offset)

    def max_timestamp(self, *, below: int) -> tuple[int, int] | ReleasedLatest | None:
        """Return (offset, timestamp) of the latest record below `below`, the first if many.
        Blocking.

        Where it may be in released segments, it says where to look.

        Raises:
            DamagedRangeError, LogFailedError: as `read`.
        """
        return self._times.max_timestamp(below=below)

    # --- what it holds ---------------------------------------------------------------------------

    @property
    def size_bytes(self) -> int:
        """Bytes of all .log files."""
        assert self.sealed_bytes >= 0
        return self.sealed_bytes + self.segment_list.active.size

    @property
    def total_bytes(self) -> int:
        """Bytes of all segments, released ones as their source: what retention.bytes counts."""
        return self.size_bytes + self.released_bytes

    @property
    def hot_start_offset(self) -> int:
        """The first offset from which on everything is here, and nothing only in chunks."""
        segments = self.segment_list.items
        first = next(
            (segment.end_bound for segment in reversed(segments) if segment.released is not None),
            0,
        )
        return max(first, self.log_start_offset)

    def segments(self) -> list[SegmentInfo]:
        """Return what there is to tell of each segment. Blocking: opens each of them.

        Raises:
            DamagedRangeError: a segment cannot be read.
        """

        def describe() -> list[SegmentInfo]:
            return [describe_segment(self, self._reader, item) for item in self.segment_list.items]

        return retry_if_replaced(describe)

    def oldest_segments(self, limit: int | None = None) -> list[SegmentFacts]:
        """Return what retention goes by, of the oldest `limit` segments or of all. Blocking.

        Each is asked once and remembered; sealed ones are not opened for it (see `log_facts`).

        Raises:
            OSError: a file cannot be read.
        """
        return retry_if_replaced(partial(oldest_segments, self, self._reader, limit))
