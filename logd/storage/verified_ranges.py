"""Which bytes of a file were verified since start: disjoint ranges, bounded in number.

Corrupt bytes must never reach a client, so a range is sent from the page cache only after each of
its batches passed its CRC once. What is forgotten here costs a second check, never a wrong answer.

Concurrency: the event loop and reading threads both ask and add. All bounds stand in one tuple that
is replaced as a whole, so a reader sees some complete earlier state. Two additions at the same time
can lose one of them: that range is verified again later.

The bounds alternate: start, end, start, end, … strictly rising; so a position lies inside a range
if and only if an odd number of bounds is at or below it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Final

RANGES_MAX: Final = 1024
"""A file read at random places is remembered in so many ranges; then the first one is forgotten."""


class VerifiedRanges:
    """The ranges of one file."""

    __slots__ = ("_bounds",)

    def __init__(self) -> None:
        self._bounds: tuple[int, ...] = ()

    def __len__(self) -> int:
        """Return the number of ranges."""
        return len(self._bounds) // 2

    def end_after(self, position: int) -> int:
        """Return the end of the range that holds `position`, or `position` if none does."""
        assert position >= 0
        bounds = self._bounds
        count = bisect_right(bounds, position)
        return bounds[count] if count & 1 else position

    def add(self, start: int, end: int) -> None:
        """Remember that `start` .. `end` was verified; joins ranges that touch."""
        assert 0 <= start <= end
        if start == end:
            return
        bounds = self._bounds
        low = bisect_left(bounds, start)
        high = bisect_right(bounds, end)
        middle = (() if low & 1 else (start,)) + (() if high & 1 else (end,))
        joined = bounds[:low] + middle + bounds[high:]
        assert len(joined) % 2 == 0
        self._bounds = joined if len(joined) <= 2 * RANGES_MAX else joined[2:]
