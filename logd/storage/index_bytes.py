"""The two indexes of a segment that is written in one go, built in memory.

The same entries, at the same places, as `IndexBuilder` makes in mapped files: once more than
index.interval.bytes came since the last entry, the next batch gets one in both.
"""

from __future__ import annotations

from logd.record.batch import BatchHeader
from logd.record.timestamps import batch_timestamp_ms
from logd.storage.offset_index import OffsetIndex
from logd.storage.time_index import TimeIndex


class IndexBytes:
    """Takes the batches of a segment in order; `finish` gives both indexes.

    Args:
        base_offset: of the segment.
        index_bytes_max: each index stays below; full ones are sparser, not wrong.
    """

    __slots__ = (
        "_base_offset",
        "_index",
        "_index_bytes_max",
        "_interval_bytes",
        "_last_time_entry",
        "_latest",
        "_since_entry",
        "_time_index",
    )

    def __init__(
        self, *, base_offset: int, index_bytes_max: int, index_interval_bytes: int
    ) -> None:
        assert base_offset >= 0
        self._base_offset = base_offset
        self._index_bytes_max = index_bytes_max
        self._interval_bytes = index_interval_bytes
        self._since_entry = 0
        self._latest = (-1, base_offset)
        self._last_time_entry = -1
        self._index = bytearray()
        self._time_index = bytearray()

    def add(self, header: BatchHeader, position: int, size: int) -> None:
        """Take in the batch of `size` bytes at `position`, the next one."""
        assert position >= 0
        timestamp_ms = batch_timestamp_ms(header)
        if timestamp_ms > self._latest[0]:
            self._latest = (timestamp_ms, header.last_offset)
        if self._since_entry > self._interval_bytes:
            self._add_entries(header.last_offset, position)
            self._since_entry = 0
        self._since_entry += size

    def _add_entries(self, last_offset: int, position: int) -> None:
        if len(self._index) + OffsetIndex.ENTRY.size <= self._index_bytes_max:
            self._index += OffsetIndex.ENTRY.pack(last_offset - self._base_offset, position)
        # One slot is kept for the greatest timestamp.
        if len(self._time_index) + 2 * TimeIndex.ENTRY.size <= self._index_bytes_max:
            self._add_time_entry()

    def _add_time_entry(self) -> None:
        timestamp_ms, offset = self._latest
        relative = offset - self._base_offset
        # An entry of zeros would mean none.
        if timestamp_ms > self._last_time_entry and (timestamp_ms or relative):
            self._time_index += TimeIndex.ENTRY.pack(timestamp_ms, relative)
            self._last_time_entry = timestamp_ms

    def finish(self) -> tuple[bytes, bytes]:
        """Return the offset index and the time index, the greatest timestamp in it."""
        self._add_time_entry()
        assert len(self._index) <= self._index_bytes_max
        return bytes(self._index), bytes(self._time_index)
