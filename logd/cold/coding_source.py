"""What is coded of a segment: its bytes, its indexes, and where it is cut.

That is the .log as it is or, with cold.compression=zstd, a staging file with the same batches
compressed anew (`recompressing` decides). Whoever codes, proves and compares sees only a
`CodingSource`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from ec.geometry import choose_cuts, cut_windows
from ec.indexes import Indexes
from ec.manifest import FirstBatch
from logd.storage.log import Log
from logd.storage.segment_source import SegmentSource


class CodingSource(Protocol):
    """A sealed segment, or a form of it that is read in its place. All methods block."""

    @property
    def size_bytes(self) -> int:
        """Its length."""
        ...

    @property
    def next_offset(self) -> int:
        """The offset behind its last record."""
        ...

    @property
    def min_timestamp_ms(self) -> int:
        """The least timestamp of its records; -1 where there is none."""
        ...

    @property
    def max_timestamp_ms(self) -> int:
        """The greatest timestamp of its records; -1 where there is none."""
        ...

    def read_into(self, position: int, buffer: memoryview) -> int:
        """Fill the buffer from a position; return the bytes read."""
        ...

    def indexes(self) -> tuple[bytes, bytes]:
        """Return its offset index and its time index."""
        ...

    def batches_near(
        self, start: int, end: int, *, limit: int | None = None
    ) -> list[tuple[int, int]]:
        """Return position and base offset of the batches that begin at `start` .. `end`, exclusive;
        the first `limit` of them.
        """
        ...

    def close(self) -> None:
        """Let go of its files; a staging file is removed."""
        ...


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a source is cut, and what chunks carry beside their bytes."""

    cuts: tuple[int, ...]
    first_batches: tuple[FirstBatch | None, ...]
    indexes: Indexes


def source_of(log: Log, base_offset: int) -> SegmentSource:
    """Open a sealed segment to be coded. Blocking: reads all of it once, checked.

    Raises:
        SegmentsChangedError: it is not there, or not hot, any more.
        DamagedRangeError: it is damaged. LogFailedError: the log is poisoned.
    """
    return log.segment_source(base_offset)


def cut_segment(source: CodingSource, k: int) -> Cut:
    """Choose the cuts, near batch boundaries where there are any; find the batches behind them.
    Blocking.
    """
    size = source.size_bytes
    positions = {0}
    for window in cut_windows(size, k):
        positions.update(position for position, _ in source.batches_near(window.start, window.end))
    cuts = choose_cuts(size, k, sorted(positions))
    firsts = []
    for start, end in pairwise(cuts):
        found = source.batches_near(start, end, limit=1)
        firsts.append(FirstBatch(*found[0]) if found else None)
    return Cut(cuts, tuple(firsts), Indexes(*source.indexes()))


class CountedSource:
    """A source that tells how much of it was read, for progress; from any thread."""

    def __init__(self, inner: CodingSource, on_read: Callable[[int], None]) -> None:
        self._inner = inner
        self._on_read = on_read

    def read_into(self, position: int, buffer: memoryview) -> int:
        """See `ec.encode.Source`."""
        count = self._inner.read_into(position, buffer)
        self._on_read(count)
        return count
