"""What becomes of one group of segments in a round of compaction.

A group of one segment is not written again while nothing in it changes: how far it is the same is
one number. With the first batch that is dropped or cut, what came before it is copied, and from
then on all that stays is. A group of several segments becomes one, so it is always written.

Where one segment cannot hold what is left, a further one begins (`CleanedWriter.fits`).
"""

from __future__ import annotations

from logd.record.batch import BatchHeader, read_header
from logd.storage.clean_meter import RoundMeter
from logd.storage.clean_order import CleanOrder, NewSegment, SourceSegment
from logd.storage.clean_source import SourceReader
from logd.storage.cleaned_segment import CleanedWriter
from logd.storage.files import Buffer, Files


class GroupOutput:
    """What becomes of one group: nothing is written before something changes.

    Attributes:
        segments: the old ones.
    """

    def __init__(
        self,
        files: Files,
        order: CleanOrder,
        meter: RoundMeter,
        segments: tuple[SourceSegment, ...],
    ) -> None:
        assert segments
        self.segments = segments
        self._files = files
        self._order = order
        self._meter = meter
        self._writer: CleanedWriter | None = None
        self._new: list[NewSegment] = []
        self._reader: SourceReader | None = None
        # Up to here the one segment is as it was. Several are always written into one.
        self._same_bytes = 0
        self._changed = len(segments) > 1

    @property
    def bases(self) -> tuple[int, ...]:
        """The old segments' base offsets."""
        return tuple(segment.base_offset for segment in self.segments)

    def enter(self, reader: SourceReader) -> None:
        """Go on with the next segment."""
        self._reader = reader

    def open(self, base_offset: int | None = None) -> CleanedWriter:
        """Begin a new segment; the first one has the base offset of the first old one."""
        assert (base_offset is None) == (self._writer is None)
        self._changed = True
        base = self.segments[0].base_offset if base_offset is None else base_offset
        self._writer = CleanedWriter(
            self._files,
            self._order.directory,
            base_offset=base,
            attempt=self._order.attempt,
            index_bytes_max=self._order.segment_index_bytes,
            index_interval_bytes=self._order.index_interval_bytes,
            on_write=self._meter.write,
        )
        return self._writer

    def keep(self, header: BatchHeader, reader: SourceReader, position: int) -> None:
        """Take a batch as it is."""
        assert header.base_offset >= self.segments[0].base_offset
        if self._changed:
            self._add(header, reader.whole(position, header))
        else:
            self._same_bytes = position + header.size

    def change(self, data: Buffer | None) -> None:
        """Take something else in the place of a batch, or nothing."""
        if not self._changed:
            self._changed = True
            self._write_same()
        if data is not None:
            self._add(read_header(data), data)

    def _write_same(self) -> None:
        """Write what was not written because it had not changed."""
        assert self._reader is not None
        if self._same_bytes:
            again = self._reader.again()
            for position, header in again.headers(end=self._same_bytes):
                self._add(header, again.whole(position, header))

    def _add(self, header: BatchHeader, data: Buffer) -> None:
        assert self._changed
        writer = self._writer or self.open()
        if not writer.fits(header, len(data)):
            self._new.append(writer.finish())
            writer = self.open(header.base_offset)
        writer.add(header, data)

    def finish(self) -> tuple[NewSegment, ...] | None:
        """Return the new segments, all on the device; None if the old one stays as it is."""
        if not self._changed:
            return None
        if self._writer is not None:
            self._new.append(self._writer.finish())
        return tuple(self._new)
