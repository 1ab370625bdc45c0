"""The time index of a segment: from which offset on the timestamps pass a point in time.

    position  size  field
    0         8     timestamp, milliseconds since 1970
    8         4     an offset, minus the segment's base offset

Entries of 12 bytes, big-endian; timestamps rise strictly, offsets do not fall. Kafka's
`.timeindex`, byte for byte. An entry (t, o) says: the batch of o was the first of this segment to
reach timestamp t. So to find the first record at or after a time, the reader starts at the entry
with the greatest timestamp at or below it. Records may carry timestamps in any order; only new
maxima make an entry.

One slot is kept for the segment's largest timestamp, which is added when the segment is sealed.

How the file is kept, opened and shared between threads: see `mapped_index`.
"""

from __future__ import annotations

import struct
from operator import le, lt
from typing import ClassVar

from logd.errors import CorruptFileError
from logd.storage.mapped_index import MappedIndex
from logd.units import INT32_MAX, INT64_MAX

_TIMESTAMP = struct.Struct(">q")
_RELATIVE = struct.Struct(">i")
_TIMESTAMP_AT = 0
_RELATIVE_AT = 8
NO_TIMESTAMP = -1


class TimeIndex(MappedIndex):
    """Timestamps to offsets; see the module's docstring."""

    ENTRY: ClassVar[struct.Struct] = struct.Struct(">qi")
    assert ENTRY.size == 12
    KEPT_SLOTS: ClassVar[int] = 1

    __slots__ = ()

    @property
    def last(self) -> tuple[int, int]:
        """(timestamp, offset) of the last entry; (-1, base offset) if there is none."""
        _, entry = self._entry_before(INT64_MAX, _TIMESTAMP, _TIMESTAMP_AT)
        return (entry[0], self.base_offset + entry[1]) if entry else self._none()

    def append(self, timestamp_ms: int, offset: int) -> None:
        """Add an entry, unless its timestamp is not above the last one's.

        An entry for time 0 and the segment's first offset is left out as well.

        Raises:
            OSError: the file could not grow; nothing was added. Never after `reserve`.
        """
        relative = offset - self.base_offset
        assert 0 <= relative <= INT32_MAX
        assert timestamp_ms <= INT64_MAX
        last_timestamp_ms, last_offset = self.last
        if timestamp_ms <= last_timestamp_ms or (timestamp_ms == 0 and relative == 0):
            return
        assert offset >= last_offset
        self._append_entry(timestamp_ms, relative)

    def lookup(self, timestamp_ms: int) -> tuple[int, int]:
        """Return (timestamp, offset) of the entry with the greatest timestamp at or below this.

        (-1, base offset) where there is none: the segment's start.
        """
        assert timestamp_ms <= INT64_MAX
        _, entry = self._entry_before(timestamp_ms, _TIMESTAMP, _TIMESTAMP_AT)
        return (entry[0], self.base_offset + entry[1]) if entry else self._none()

    def truncate_to(self, offset: int) -> None:
        """Remove the entries whose offset is `offset` or above; not durable before `sync`."""
        assert offset >= self.base_offset
        kept, _ = self._entry_before(offset - self.base_offset - 1, _RELATIVE, _RELATIVE_AT)
        self._truncate(kept)

    def check_fits(self, *, next_offset: int) -> None:
        """Check that the entries lie within a log that ends before `next_offset`.

        Raises:
            CorruptFileError: an entry lies beyond; the index is to be rebuilt.
        """
        count, entry = self._entry_before(INT64_MAX, _TIMESTAMP, _TIMESTAMP_AT)
        assert (entry is None) == (count == 0)
        if entry is not None and self.base_offset + entry[1] >= next_offset:
            at = (count - 1) * self.ENTRY.size + _RELATIVE_AT
            reason = f"offset {self.base_offset + entry[1]}, but the log ends before {next_offset}"
            raise CorruptFileError(self.path, at, reason)

    def _none(self) -> tuple[int, int]:
        return (NO_TIMESTAMP, self.base_offset)

    def _before_first(self) -> tuple[int, int]:
        return (NO_TIMESTAMP, 0)

    def _count_rising(self, data: bytes, last: tuple[int, int]) -> tuple[int, tuple[int, int]]:
        whole = len(data) // self.ENTRY.size
        # Without padding, as ">" means: the fields follow each other through the whole array.
        fields = struct.unpack_from(">" + "qi" * whole, data)
        timestamps, offsets = fields[0::2], fields[1::2]
        good = whole
        if not (
            whole
            and timestamps[0] > last[0]
            and offsets[0] >= last[1]
            and (timestamps[0] or offsets[0])
            and all(map(lt, timestamps, timestamps[1:]))
            and all(map(le, offsets, offsets[1:]))
        ):
            good = self._count_one_by_one(timestamps, offsets, last)
        assert 0 <= good <= whole
        return good, (timestamps[good - 1], offsets[good - 1]) if good else last

    def _count_one_by_one(
        self, timestamps: tuple[int, ...], offsets: tuple[int, ...], last: tuple[int, int]
    ) -> int:
        for slot, entry in enumerate(zip(timestamps, offsets, strict=True)):
            if entry[0] <= last[0] or entry[1] < last[1] or entry == (0, 0):
                return slot
            last = entry
        assert len(timestamps) == len(offsets)
        return len(timestamps)
