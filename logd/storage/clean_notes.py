"""Where the long batches of the dirty tail lie: what a round drops, it need not find again.

Once all keys are known most of a log is dropped, batch after batch. Reading the header of each of
them once more, by a call of its own, took a tenth of a round. So the first pass notes where they
lie, and the second one steps over those of which nothing stays, as many as follow each other at a
time.

Only what may vanish without a trace is noted. These are read again, for something of theirs may
stay or must be decided:

* the last batch of each segment: the round, a group, may have to end with its header;
* the last batch of a live producer;
* a batch with tombstones, which are counted off as they are met;
* a short one: its neighbour's header is in the same window.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Container, Iterator
from typing import Final, NamedTuple

from logd.record.batch import BatchHeader
from logd.storage.clean_order import SourceSegment
from logd.units import KIB

LONG_BATCH_BYTES: Final = 16 * KIB
"""From here on it is cheaper to read the next header by itself than all that lies between."""

NOTES_MAX: Final = 128 * KIB
"""4 MiB of notes, 8 GiB of batches of 64 KiB; what lies behind is looked at again."""

_FIELDS: Final = 4  # base offset, position, bytes, records


class DroppedRun(NamedTuple):
    """Batches of a segment, one behind the other, of which nothing stays.

    Attributes:
        end_position: where the next batch begins: there is one.
        next_offset: it has this offset or a higher one.
        records: how many the batches have.
    """

    position: int
    end_position: int
    next_offset: int
    records: int


class BatchNotes:
    """Notes of the first pass, by segment.

    Args:
        segments: the base offsets of those that are copied; others are not noted.
        kept_offsets: a batch that ends at one of these stays, if only its header.
    """

    def __init__(self, segments: Container[int], kept_offsets: Collection[int]) -> None:
        self._segments = segments
        self._kept_offsets = kept_offsets
        self._notes: dict[int, array[int]] = {}
        self._count = 0

    def add(self, segment: SourceSegment, position: int, header: BatchHeader) -> None:
        """Note a batch without tombstones whose keys were added to the map."""
        assert header.count
        size = header.size
        if (
            size < LONG_BATCH_BYTES
            or self._count >= NOTES_MAX
            or position + size == segment.log_bytes
            or segment.base_offset not in self._segments
            or header.last_offset in self._kept_offsets
        ):
            return
        notes = self._notes.setdefault(segment.base_offset, array("q"))
        notes.extend((header.base_offset, position, size, header.count))
        self._count += 1

    def forget(self, base_offset: int) -> None:
        """Forget the last batch, if it is noted: the round ends behind it."""
        for notes in self._notes.values():
            if notes and notes[-_FIELDS] == base_offset:
                del notes[-_FIELDS:]

    def dropped(self, segment: SourceSegment, live: Container[int]) -> Iterator[DroppedRun]:
        """Yield the runs of noted batches of which nothing stays, in order.

        Args:
            live: the base offsets of batches of which some records stay.
        """
        numbers = iter(self._notes.get(segment.base_offset, ()))
        first = end = next_offset = records = 0
        for base_offset, position, size, count in zip(
            numbers, numbers, numbers, numbers, strict=True
        ):
            if base_offset in live:
                continue
            if position != end and records:
                yield DroppedRun(first, end, next_offset, records)
                records = 0
            if not records:
                first = position
            end, next_offset = position + size, base_offset + 1
            records += count
        if records:
            yield DroppedRun(first, end, next_offset, records)
