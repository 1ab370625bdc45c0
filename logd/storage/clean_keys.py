"""The first pass of a round of compaction: the keys of the dirty tail, read from its end.

Read backwards, a key that is new is the last of its kind (`key_map`). But batches can be found
forwards only, each header says where the next one begins. So a segment is walked first, by its
headers alone where batches are long, and cut into stretches of some thousand records; then these
are read, the last one first, each of them forwards.

Whether the keys of a tail fit the map is known only when all of it was read. Nearly always they do.
Where they do not, the end must move, not the begin: the tail is read once more, from its begin, up
to the batch at which the map is full, and then that much of it from its end. Three times a map's
worth, in rounds that copy the whole log besides.

Memory: a stretch's keys, beside the map. A stretch of which more comes out than its bytes promise,
because it is compressed, is cut in two where that is seen.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from logd.record.batch import BatchHeader
from logd.storage.clean_order import SourceSegment
from logd.storage.clean_source import WINDOW_BYTES, Place, SourceReader
from logd.storage.key_map import KeyMap, Keys
from logd.units import KIB

STRETCH_RECORDS: Final = 16 * KIB
STRETCH_BYTES: Final = WINDOW_BYTES
"""Of a stretch's batches, decompressed, if it has more than one."""

OpenCall = Callable[[SourceSegment], SourceReader]


class Stretch(NamedTuple):
    """A part of a segment that is read at once: where its first batch begins, and its end."""

    first: Place
    end: int


class TailKeys:
    """Reads the keys of a tail into a map.

    Args:
        segments: the order's that reach into the tail, in order.
        first_offset, end_offset: of the tail.
        key_map: is empty.
        open_segment: gives a reader of one of them.
        on_done: is told of source bytes that were looked at for good.

    Attributes:
        tombstone_batches: base offsets of the batches that hold tombstones, falling.
        end_offset: up to here all keys are in the map.
    """

    def __init__(
        self,
        segments: Sequence[SourceSegment],
        *,
        first_offset: int,
        end_offset: int,
        key_map: KeyMap,
        open_segment: OpenCall,
        on_done: Callable[[int], None],
    ) -> None:
        assert first_offset <= end_offset
        assert not len(key_map)
        self.tombstone_batches = array("q")
        self.end_offset = end_offset
        self._segments = segments
        self._first_offset = first_offset
        self._map = key_map
        self._open = open_segment
        self._on_done = on_done

    def read(self) -> None:
        """Read all keys, or as many as fit the map."""
        if self._read_back():
            return
        self._map.forget()
        self.end_offset = self._end_that_fits()
        self._map.forget()
        self._read_back(fits=True)

    def _is_of_tail(self, header: BatchHeader) -> bool:
        return header.last_offset >= self._first_offset and header.count > 0

    # --- from the end ----------------------------------------------------------------------------

    def _read_back(self, *, fits: bool = False) -> bool:
        """Take in what lies before the end; return whether it fits, which may be known."""
        self.tombstone_batches = array("q")
        taken = 0
        for segment in reversed(self._segments):
            if segment.base_offset >= self.end_offset:
                continue
            reader = self._open(segment)
            waiting = self._stretches(reader)
            while waiting:
                stretch = waiting.pop()
                batches, cut = self._read_stretch(reader, stretch)
                if cut is not None:
                    waiting += [Stretch(stretch.first, cut.position), Stretch(cut, stretch.end)]
                    continue
                for base_offset, keys in reversed(batches):
                    if self._map.is_full and taken and not fits:
                        return False
                    self._map.add(base_offset, keys)
                    taken += 1
        return True

    def _stretches(self, reader: SourceReader) -> list[Stretch]:
        """Cut a segment's part of the tail into stretches, in order."""
        found: list[Stretch] = []
        first: Place | None = None
        end = records = 0
        for position, header in reader.headers():
            if header.base_offset >= self.end_offset:
                break
            if not self._is_of_tail(header):
                self._on_done(header.size)
                continue
            if first is not None and (
                records + header.count > STRETCH_RECORDS
                or position + header.size - first.position > STRETCH_BYTES
            ):
                found.append(Stretch(first, end))
                first = None
            if first is None:
                first, records = Place(position, header.base_offset), 0
            records += header.count
            end = position + header.size
        if first is not None:
            found.append(Stretch(first, end))
        return found

    def _read_stretch(
        self, reader: SourceReader, stretch: Stretch
    ) -> tuple[list[tuple[int, Keys]], Place | None]:
        """Return base offset and keys of the batches in a stretch, or where it must be cut."""
        batches: list[tuple[int, Keys]] = []
        with_tombstones: list[int] = []
        content_bytes = 0
        for position, header in reader.headers(first=stretch.first, end=stretch.end):
            if not self._is_of_tail(header):
                continue
            found, content = reader.keys(position, header)
            content_bytes += len(content) if header.codec else header.size
            if content_bytes > STRETCH_BYTES and batches:
                return [], Place(position, header.base_offset)
            batches.append((header.base_offset, found.keys))
            if found.tombstones:
                with_tombstones.append(header.base_offset)
        self._on_done(stretch.end - stretch.first.position)
        self.tombstone_batches.extend(reversed(with_tombstones))
        self._map.count_bytes(len(with_tombstones) * self.tombstone_batches.itemsize)
        return batches, None

    # --- from the begin --------------------------------------------------------------------------

    def _end_that_fits(self) -> int:
        """Return the end of the batch that fills the map; it is at least the first one's."""
        last_offset: int | None = None
        for segment in self._segments:
            reader = self._open(segment)
            for position, header in reader.headers():
                if not self._is_of_tail(header):
                    continue
                if last_offset is not None and self._map.is_full:
                    return last_offset + 1
                found, _ = reader.keys(position, header)
                self._map.meet(found.keys)
                if found.tombstones:
                    self._map.count_bytes(self.tombstone_batches.itemsize)
                last_offset = header.last_offset
        return self.end_offset
