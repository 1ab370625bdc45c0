"""Released segments: what a log says of those whose bytes lie in chunks, and the reading of them.

A sealed segment that was coded may be *released*: its .log is gone, its .index and .timeindex stay.
Its source bytes (those that were coded: the .log, or its recompressed form) are read from storage
nodes, which is no business of a log. So a log answers with a range: which segment, and from which
position of its source on. Whoever has the bytes walks the batches in them (`SourcePiece`, and
`batch_run` for who reads more than once); and asks the log again at `next_offset`, be that in a
released segment or a hot one.

What a log is told at its opening (`ReleasedSegment`) explains absent .log files, and no more: a
.log that is there is used as any other. So all segments of which chunks can be read may be named,
also those of which the catalog says that the hot file is still here: if it is not, the records are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from logd.errors import CorruptFileError
from logd.record.batch import (
    HEADER_BYTES,
    NO_TIMESTAMP,
    BatchHeader,
    Readable,
    has_valid_crc,
    is_plausible,
    read_header,
)
from logd.units import INT64_MAX


@dataclass(frozen=True, slots=True)
class ReleasedSegment:
    """A segment whose .log may be absent: it is in chunks.

    Attributes:
        next_offset: the offset behind its last record.
        size_bytes: of the source: what was coded.
        min_timestamp_ms, max_timestamp_ms: of its records; -1 where there are none.
    """

    base_offset: int
    next_offset: int
    size_bytes: int
    max_timestamp_ms: int
    min_timestamp_ms: int = NO_TIMESTAMP

    def __post_init__(self) -> None:
        assert 0 <= self.base_offset < self.next_offset <= INT64_MAX
        assert self.size_bytes > 0


@dataclass(frozen=True, slots=True)
class ReleasedRange:
    """An answer to a read: the batches lie in chunks, in the source of one released segment.

    Attributes:
        base_offset: of the segment.
        position: of a batch at or before the one that holds the wanted offset.
        size_bytes: of the segment's source.
        wanted_offset: what the reader asked for.
        end_bound: all offsets of the segment lie below; the reader goes on there.
    """

    base_offset: int
    position: int
    size_bytes: int
    wanted_offset: int
    end_bound: int

    def __post_init__(self) -> None:
        assert 0 <= self.position < self.size_bytes
        assert self.base_offset <= self.wanted_offset < self.end_bound


@dataclass(frozen=True, slots=True)
class CutBatches:
    """Whole, verified batches of a source.

    Attributes:
        start, end: their positions; equal where no batch is given.
        next_offset: what the reader asks for next; the wanted offset again where none is given.
    """

    start: int
    end: int
    next_offset: int

    @property
    def size(self) -> int:
        """Bytes of batches."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class SourcePiece:
    """Bytes of a released segment's source, from a batch's first byte on.

    Attributes:
        position: of `data[0]` in the source.
        size_bytes: of the whole source.
        base_offset, end_bound: the segment's offsets lie in between.
        name: of what the bytes are, for errors.
    """

    data: Readable
    position: int
    size_bytes: int
    base_offset: int
    end_bound: int
    name: str

    def __post_init__(self) -> None:
        assert 0 <= self.position <= self.position + len(self.data) <= self.size_bytes

    @property
    def is_last(self) -> bool:
        """Whether the source ends where the data ends."""
        return self.position + len(self.data) == self.size_bytes

    def batches(self) -> Iterator[tuple[int, BatchHeader]]:
        """Yield (place in `data`, header) of each batch whose header is there, in order.

        Headers only; the last one's batch may be longer than the data.

        Raises:
            CorruptFileError: no batch can be at that place, it is not in its place, or the source
                ends inside it.
        """
        at, expected, size = 0, self.base_offset, len(self.data)
        while at + HEADER_BYTES <= size:
            header = read_header(self.data, at)
            self._check(header, at, expected)
            yield at, header
            at += header.size
            expected = header.next_offset
        if self.is_last and at != size:
            raise self.error(at, f"{size - at} bytes are left, no batch is so short")

    def _check(self, header: BatchHeader, at: int, expected: int) -> None:
        if not is_plausible(header):
            raise self.error(at, "no record batch begins here")
        if header.base_offset < expected or header.next_offset > self.end_bound:
            reason = f"offsets {header.base_offset} to {header.last_offset} do not belong here"
            raise self.error(at, reason)
        end = self.position + at + header.size
        if end > self.size_bytes:
            reason = f"the batch ends at {end}, behind the end at {self.size_bytes}"
            raise self.error(at, reason)

    def check_crc(self, at: int, header: BatchHeader) -> None:
        """Check the CRC of a batch that is in the data whole.

        Raises:
            CorruptFileError: it fails.
        """
        if not has_valid_crc(self.data, at, header):
            raise self.error(at, "a batch fails its CRC-32C")

    def error(self, at: int, reason: str) -> CorruptFileError:
        """Return the error about a place in the data."""
        return CorruptFileError(self.name, self.position + at, reason)


def absent_segments(
    released: Sequence[ReleasedSegment], hot_bases: Sequence[int], log_start_offset: int
) -> dict[int, ReleasedSegment]:
    """Return those by base offset that explain an absent .log, in order.

    What lies wholly below the log start was deleted; where a .log is there, it is used.
    """
    hot = frozenset(hot_bases)
    found = {
        each.base_offset: each
        for each in released
        if each.base_offset not in hot and each.next_offset > log_start_offset
    }
    return dict(sorted(found.items()))
