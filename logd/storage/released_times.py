"""Offsets by time in released segments: what the log knows of it, and the search in their bytes.

The log's time indexes narrow the search down to one segment and a position; the records are in
chunks. So the log answers with a range, and who has the bytes feeds them to a `TimeSearch`.
"""

from __future__ import annotations

from dataclasses import dataclass

from logd.errors import CorruptRecordsError
from logd.record.batch import HEADER_BYTES, BatchHeader, Readable
from logd.record.records import iterate
from logd.record.timestamps import batch_timestamp_ms
from logd.storage.released import SourcePiece


@dataclass(frozen=True, slots=True)
class ReleasedTimeRange:
    """An answer to a look-up by time: look for the record in the source of a released segment.

    Attributes:
        base_offset, size_bytes, end_bound: of the segment, see `ReleasedRange`.
        position: of a batch; none before it counts.
        timestamp_ms: the first record at or after this time is looked for; or, where `is_latest` is
            set, the latest one that is later than this, the first if many.
        log_start_offset, below: records outside do not count.
    """

    base_offset: int
    position: int
    size_bytes: int
    end_bound: int
    timestamp_ms: int
    log_start_offset: int
    below: int
    is_latest: bool = False

    def __post_init__(self) -> None:
        assert 0 <= self.position < self.size_bytes
        assert self.log_start_offset < self.end_bound


@dataclass(frozen=True, slots=True)
class ReleasedLatest:
    """An answer to `Log.max_timestamp`: the latest record may be in one of these segments.

    Attributes:
        ranges: in the order of offsets; of two records equally late the first one counts.
        known: (offset, timestamp) of the latest record elsewhere; None if there is none.
    """

    ranges: tuple[ReleasedTimeRange, ...]
    known: tuple[int, int] | None


class TimeSearch:
    """The search in the bytes of one range, piece by piece.

    Attributes:
        position: where the next piece is to begin.
        needed_bytes: how many bytes it must have at least, unless the source ends before.
        found: (offset, timestamp, leader epoch) so far.
    """

    __slots__ = ("_name", "_range", "found", "needed_bytes", "position")

    def __init__(self, where: ReleasedTimeRange, *, name: str) -> None:
        self._range = where
        self._name = name
        self.position = where.position
        self.needed_bytes = HEADER_BYTES
        self.found: tuple[int, int, int] | None = None

    @property
    def is_done(self) -> bool:
        """Whether `found` is the answer; None then: ask the log again, from `end_bound` on."""
        is_over = self.position >= self._range.size_bytes
        return is_over or (self.found is not None and not self._range.is_latest)

    def feed(self, data: Readable) -> None:
        """Look through the bytes from `position` on.

        Raises:
            CorruptFileError: they are no batches, or one that matters fails its CRC.
        """
        assert not self.is_done
        where = self._range
        piece = SourcePiece(
            *(data, self.position, where.size_bytes, where.base_offset, where.end_bound),
            self._name,
        )
        start = self.position
        for at, header in piece.batches():
            if header.base_offset >= where.below:
                self.position = where.size_bytes
                return
            if self._matters(header):
                if at + header.size > len(data):
                    self.needed_bytes = header.size
                    return
                piece.check_crc(at, header)
                self._look(header, memoryview(data)[at : at + header.size])
            # Of a batch that does not matter the header was enough.
            self.position = min(start + at + header.size, where.size_bytes)
            self.needed_bytes = HEADER_BYTES
            if self.found is not None and not where.is_latest:
                return

    def _matters(self, header: BatchHeader) -> bool:
        where = self._range
        if header.next_offset <= where.log_start_offset:
            return False
        return batch_timestamp_ms(header) >= self._least_ms()

    def _least_ms(self) -> int:
        """Return the least timestamp that is worth something."""
        where = self._range
        if not where.is_latest:
            return where.timestamp_ms
        return max(where.timestamp_ms, -1 if self.found is None else self.found[1]) + 1

    def _look(self, header: BatchHeader, batch: memoryview) -> None:
        """Look at the records of a batch; where they cannot be parsed, the first stands for all."""
        where, least_ms = self._range, self._least_ms()
        found: tuple[int, int] | None = None
        try:
            for record in iterate(batch):
                if not where.log_start_offset <= record.offset < where.below:
                    continue
                if record.timestamp_ms >= least_ms:
                    found = record.offset, record.timestamp_ms
                    if not where.is_latest:
                        break
                    least_ms = record.timestamp_ms + 1
        except CorruptRecordsError:
            found = max(header.base_offset, where.log_start_offset), batch_timestamp_ms(header)
        if found is not None:
            self.found = (*found, header.leader_epoch)


def later(first: tuple[int, int] | None, second: tuple[int, int] | None) -> tuple[int, int] | None:
    """Return the later one of two records (offset, timestamp), the first of two equally late."""
    if first is None or second is None:
        return first or second
    return max(first, second, key=lambda each: (each[1], -each[0]))
