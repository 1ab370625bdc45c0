"""A run of whole batches of a released segment: checked once, then cut as often as readers ask.

What is read of a coded segment comes as bytes, not as a file with an index. So it is walked once:
every header is looked at, every CRC-32C computed, and what is kept are three rows of numbers. Later
reads are answered from those by bisection, without looking at the bytes again.

Batches are in order and may have gaps between their offsets (compaction leaves some). An offset in
a gap is answered by the batch behind it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from logd.errors import CorruptFileError
from logd.record.batch import HEADER_BYTES
from logd.record.compression import ZSTD
from logd.storage.released import CutBatches, SourcePiece

ENTRY_BYTES: Final = 24

LENGTH_AT: Final = 8
LENGTH_END: Final = 12
"""Where a batch says how many bytes follow (docs/formats, Kafka's v2)."""


@dataclass(frozen=True, slots=True)
class BatchRun:
    """Whole batches, one behind the other, from a position of a segment's source on.

    Attributes:
        start: where the first one begins.
        bases, next_offsets, ends: of each batch its base offset, the offset behind it, and the
            position behind it.
        needed_bytes: how many bytes from `start` on are needed to have the first batch whole (or
            its header), where there are fewer; 0 where there is a batch, or the source ends here.
        has_zstd: whether any of them is compressed with zstd, which old consumers cannot read.
    """

    start: int
    bases: array[int]
    next_offsets: array[int]
    ends: array[int]
    needed_bytes: int = 0
    has_zstd: bool = False

    @property
    def end(self) -> int:
        """The position behind the last batch."""
        return self.ends[-1] if self.ends else self.start

    @property
    def memory_bytes(self) -> int:
        """What the numbers take."""
        assert len(self.bases) == len(self.ends)
        return ENTRY_BYTES * len(self.ends)

    def cut(self, wanted_offset: int, *, max_bytes: int, below: int, min_one: bool) -> CutBatches:
        """Return the batches from the first one that ends above an offset; positions in the source.

        Args:
            max_bytes: no more, unless the first batch is longer and `min_one` is set.
            below: no batch that begins at or above is given.
        """
        assert max_bytes >= 0
        first = bisect_right(self.next_offsets, wanted_offset)
        start = self.ends[first - 1] if first else self.start
        behind = bisect_right(self.ends, start + max_bytes, lo=first)
        if behind == first and min_one:
            behind = first + 1
        behind = min(behind, bisect_left(self.bases, below))
        if behind <= first:
            return CutBatches(start, start, wanted_offset)
        return CutBatches(start, self.ends[behind - 1], self.next_offsets[behind - 1])


def scan_run(piece: SourcePiece) -> BatchRun:
    """Walk and check the batches of a piece, which begins where one begins.

    Returns:
        All whole batches up to the first bad one.

    Raises:
        CorruptFileError: the first one is bad already.
    """
    start, size = piece.position, len(piece.data)
    bases, next_offsets, ends = array("q"), array("q"), array("q")
    needed = 0 if piece.is_last else HEADER_BYTES
    has_zstd = False
    try:
        for at, header in piece.batches():
            if at + header.size > size:
                needed = header.size
                break
            piece.check_crc(at, header)
            bases.append(header.base_offset)
            next_offsets.append(header.next_offset)
            ends.append(start + at + header.size)
            has_zstd = has_zstd or header.codec == ZSTD
    except CorruptFileError:
        if not ends:
            raise
    return BatchRun(start, bases, next_offsets, ends, 0 if ends else needed, has_zstd)


def scan_views(first: SourcePiece, views: Sequence[memoryview]) -> BatchRun:
    """As `scan_run`, of bytes that lie in several buffers: only batches in two of them are copied.

    Args:
        first: all of the bytes; its `data` is the first buffer.
    """
    assert views
    if len(views) == 1:
        return scan_run(first)
    run = BatchRun(first.position, array("q"), array("q"), array("q"))
    rest = memoryview(b"")
    try:
        for view in views:
            behind = view
            if rest:
                count = _lacking_bytes(rest, view)
                rest, behind = memoryview(b"".join((rest, view[:count]))), view[count:]
                before, run = run.end, _scan_on(run, first, rest)
                if run.end == before:
                    continue  # Still not whole, and the buffer is used up.
            start = run.end
            run = _scan_on(run, first, behind)
            rest = behind[run.end - start :]
    except CorruptFileError:
        if not run.ends:
            raise
    return run


def _scan_on(run: BatchRun, first: SourcePiece, data: memoryview) -> BatchRun:
    """Return a run with the batches behind it that some bytes begin with."""
    expected = run.next_offsets[-1] if run.ends else first.base_offset
    more = scan_run(replace(first, data=data, position=run.end, base_offset=expected))
    return BatchRun(
        run.start, run.bases + more.bases, run.next_offsets + more.next_offsets,
        run.ends + more.ends, 0 if run.ends else more.needed_bytes, run.has_zstd or more.has_zstd,
    )  # fmt: skip


def _lacking_bytes(rest: memoryview, following: memoryview) -> int:
    """Return how many of the next bytes belong to the batch that others begin with; all if more."""
    head = b"".join((rest[:LENGTH_END], following[: max(0, LENGTH_END - len(rest))]))
    if len(head) < LENGTH_END:
        return len(following)
    size = LENGTH_END + int.from_bytes(head[LENGTH_AT:LENGTH_END], "big")
    return min(max(0, size - len(rest)), len(following))
