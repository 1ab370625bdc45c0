"""The offset index of a segment: at which position of the log a batch begins.

    position  size  field
    0         4     offset of a batch, minus the segment's base offset
    4         4     position of the batch's first byte in the log

Entries of 8 bytes, big-endian, rising strictly in both fields, about one every index.interval.bytes
of log. Kafka's `.index`, byte for byte. A look-up rounds down: it gives the greatest entry at or
below the offset, and the reader walks the batches from there. Any offset of a batch may be stored
for it (Kafka takes the last one); either way no batch that holds the wanted offset begins before
the position.

How the file is kept, opened and shared between threads: see `mapped_index`.
"""

from __future__ import annotations

import struct
from operator import lt
from typing import ClassVar

from logd.errors import CorruptFileError
from logd.storage.mapped_index import MappedIndex
from logd.units import INT32_MAX

_FIELD = struct.Struct(">i")
_RELATIVE_AT = 0
_POSITION_AT = 4


class OffsetIndex(MappedIndex):
    """Offsets to positions; see the module's docstring."""

    ENTRY: ClassVar[struct.Struct] = struct.Struct(">ii")
    assert ENTRY.size == 8

    __slots__ = ()

    @property
    def last_offset(self) -> int:
        """The offset in the last entry; the segment's base offset if there is none."""
        _, entry = self._entry_before(INT32_MAX, _FIELD, _RELATIVE_AT)
        return self.base_offset + (entry[0] if entry else 0)

    def append(self, offset: int, position: int) -> None:
        """Add the entry of a batch; one for the segment's first byte and offset is left out.

        Raises:
            OSError: the file could not grow; nothing was added. Never after `reserve`.
        """
        relative = offset - self.base_offset
        assert 0 <= relative <= INT32_MAX
        assert 0 <= position <= INT32_MAX
        if relative == 0 and position == 0:
            return
        state = self._current()
        if state.entry_count:
            last = self.ENTRY.unpack_from(state.mapping, (state.entry_count - 1) * self.ENTRY.size)
            assert relative > last[0]
            assert position > last[1]
        self._append_entry(relative, position)

    def lookup(self, offset: int) -> tuple[int, int]:
        """Return (offset, position) of the greatest entry at or below `offset`.

        (base offset, 0) where there is none: the segment's start.
        """
        relative = offset - self.base_offset
        assert relative >= 0
        _, entry = self._entry_before(relative, _FIELD, _RELATIVE_AT)
        return (self.base_offset + entry[0], entry[1]) if entry else (self.base_offset, 0)

    def last_position_at_or_before(self, position: int) -> int:
        """Return the greatest indexed position at or below `position`; 0 where there is none."""
        assert position >= 0
        _, entry = self._entry_before(position, _FIELD, _POSITION_AT)
        return entry[1] if entry else 0

    def truncate_to(self, offset: int) -> None:
        """Remove the entries whose offset is `offset` or above; not durable before `sync`."""
        assert offset >= self.base_offset
        kept, _ = self._entry_before(offset - self.base_offset - 1, _FIELD, _RELATIVE_AT)
        self._truncate(kept)

    def check_fits(self, *, next_offset: int, log_bytes: int) -> None:
        """Check that the entries lie within a log of `log_bytes` that ends before `next_offset`.

        Raises:
            CorruptFileError: an entry lies beyond; the index is to be rebuilt.
        """
        count, entry = self._entry_before(INT32_MAX, _FIELD, _RELATIVE_AT)
        if entry is None:
            return
        # Both fields rise, so the last entry speaks for all.
        at = (count - 1) * self.ENTRY.size
        if self.base_offset + entry[0] >= next_offset:
            reason = f"offset {self.base_offset + entry[0]}, but the log ends before {next_offset}"
            raise CorruptFileError(self.path, at, reason)
        if entry[1] >= log_bytes:
            reason = f"position {entry[1]}, but the log has {log_bytes} bytes"
            raise CorruptFileError(self.path, at + _POSITION_AT, reason)

    def _before_first(self) -> tuple[int, int]:
        return (-1, -1)

    def _count_rising(self, data: bytes, last: tuple[int, int]) -> tuple[int, tuple[int, int]]:
        whole = len(data) // self.ENTRY.size
        fields = struct.unpack_from(f">{2 * whole}i", data)
        offsets, positions = fields[0::2], fields[1::2]
        good = whole
        # The quick way, without a loop in Python, is right for every intact index.
        if not (
            whole
            and offsets[0] > last[0]
            and positions[0] > last[1]
            and (offsets[0] or positions[0])
            and all(map(lt, offsets, offsets[1:]))
            and all(map(lt, positions, positions[1:]))
        ):
            good = self._count_one_by_one(offsets, positions, last)
        assert 0 <= good <= whole
        return good, (offsets[good - 1], positions[good - 1]) if good else last

    def _count_one_by_one(
        self, offsets: tuple[int, ...], positions: tuple[int, ...], last: tuple[int, int]
    ) -> int:
        for slot, entry in enumerate(zip(offsets, positions, strict=True)):
            if entry[0] <= last[0] or entry[1] <= last[1] or entry == (0, 0):
                return slot
            last = entry
        assert len(offsets) == len(positions)
        return len(offsets)
