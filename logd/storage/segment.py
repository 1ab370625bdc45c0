"""One segment of a log, as all sides know it: where it begins, how long it is, what is known of it.

A sealed segment is described without being opened: its name gives the base offset, the next
segment's name gives a bound for its last. Its length is asked from the file system when somebody
needs it.

Concurrency: the fields are published by the event loop (`size`, `max_timestamp`,
`bytes_since_entry`, after a write) or filled in once by whoever opens the segment, from unknown to
known. `files` of the active segment is filled in under the log's open lock.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from logd.storage.boundaries import Boundaries
from logd.storage.released import ReleasedSegment
from logd.storage.segment_files import MaxTimestamp, SegmentFiles, SegmentPaths, segment_paths
from logd.storage.verified_ranges import VerifiedRanges
from logd.units import INT64_MAX

SIZE_UNKNOWN: Final = -1
NOTHING_APPENDED: Final = INT64_MAX


class Segment:
    """A segment; hashable by identity, so that a deleted one is never taken for its successor.

    Attributes:
        base_offset: the first offset it may hold.
        end_bound: all offsets in it lie below; the next segment's base, or without bound if active.
        size: bytes of whole, written batches; SIZE_UNKNOWN for a sealed one nobody asked about.
        appended_from: bytes from here on were appended by this process: they were checked.
        verified: what was CRC-checked below that.
        boundaries: recent batch positions.
        first_append_ms: when its first batch came (segment.ms counts from there); None if not
            known.
        max_timestamp: the greatest timestamp and its offset; None if not known.
        first_timestamp_ms: of the first batch, once compaction asked for it.
        is_replaced: its names are another segment's, or are about to be; set under the open lock.
        released: what is known of it if its bytes are in chunks and it has no .log; then `size` is
            its source's, and all that speaks of bytes in a .log means nothing.
        lacks_indexes: it is released, and an index of it is missing or cannot be used.
        sealed_ms: when its .log was last written, once somebody asked.
        bytes_since_entry: bytes behind the last index entry.
        files: the open files of an active segment; those of sealed ones are in `OpenFiles`.
    """

    __slots__ = (
        "appended_from",
        "base_offset",
        "boundaries",
        "bytes_since_entry",
        "end_bound",
        "files",
        "first_append_ms",
        "first_timestamp_ms",
        "is_replaced",
        "lacks_indexes",
        "max_timestamp",
        "paths",
        "released",
        "sealed_ms",
        "size",
        "verified",
    )

    def __init__(self, directory: str, base_offset: int, *, end_bound: int = INT64_MAX) -> None:
        assert 0 <= base_offset <= end_bound
        self.base_offset = base_offset
        self.end_bound = end_bound
        self.paths: SegmentPaths = segment_paths(directory, base_offset)
        self.size = SIZE_UNKNOWN
        self.appended_from = NOTHING_APPENDED
        self.verified = VerifiedRanges()
        self.boundaries = Boundaries()
        self.first_append_ms: int | None = None
        self.max_timestamp: MaxTimestamp | None = None
        self.first_timestamp_ms: int | None = None
        self.is_replaced = False
        self.bytes_since_entry = 0
        self.files: SegmentFiles | None = None
        self.released: ReleasedSegment | None = None
        self.lacks_indexes = False
        self.sealed_ms: int | None = None

    def __repr__(self) -> str:
        """Return what a debugger should show."""
        return f"<Segment {self.base_offset} size={self.size}>"

    @property
    def is_active(self) -> bool:
        """Whether the log appends to it."""
        return self.end_bound == INT64_MAX

    def verified_end(self, position: int) -> int:
        """Return up to where the bytes from `position` on are verified, at most `size`."""
        assert position >= 0
        if position >= self.appended_from:
            return self.size
        end = self.verified.end_after(position)
        return self.size if end >= self.appended_from else min(end, self.size)


class SegmentList:
    """The segments of a log in order, the active one last. Immutable: replaced as a whole."""

    __slots__ = ("active", "bases", "items")

    def __init__(self, items: tuple[Segment, ...]) -> None:
        self._take(items, tuple(segment.base_offset for segment in items))
        assert all(a < b for a, b in pairwise(self.bases))

    def _take(self, items: tuple[Segment, ...], bases: tuple[int, ...]) -> None:
        assert len(items) == len(bases) > 0
        self.items = items
        self.bases = bases
        self.active = items[-1]
        assert self.active.is_active

    def _changed(self, items: tuple[Segment, ...], bases: tuple[int, ...]) -> SegmentList:
        """Return another list; in a long one, nothing loops over what has not changed."""
        changed = SegmentList.__new__(SegmentList)
        changed._take(items, bases)
        return changed

    def index_of(self, offset: int) -> int:
        """Return the index of the segment that may hold `offset`: the last one not above it."""
        return max(bisect_right(self.bases, offset) - 1, 0)

    def find(self, offset: int) -> Segment:
        """Return the segment that may hold `offset`."""
        active = self.active
        return active if offset >= active.base_offset else self.items[self.index_of(offset)]

    def replaced(self, old: Segment, new: Segment) -> SegmentList:
        """Return the list with another segment in one's place."""
        assert old.base_offset == new.base_offset
        assert old.end_bound == new.end_bound
        assert old in self.items
        return SegmentList(tuple(new if item is old else item for item in self.items))

    def with_base(self, base_offset: int) -> Segment | None:
        """Return the segment with this base offset, if there is one."""
        found = self.items[self.index_of(base_offset)]
        return found if found.base_offset == base_offset else None

    def rolled_to(self, segment: Segment) -> SegmentList:
        """Return the list with a new active segment."""
        assert segment.base_offset > self.active.base_offset
        self.active.end_bound = segment.base_offset
        return self._changed((*self.items, segment), (*self.bases, segment.base_offset))

    def without_first(self, count: int) -> SegmentList:
        """Return the list without its first segments."""
        assert 0 <= count < len(self.items)
        return self._changed(self.items[count:], self.bases[count:])

    def count_below(self, offset: int) -> int:
        """Return how many segments lie wholly below `offset`: the first ones."""
        at = self.index_of(offset)
        return at + (self.items[at].end_bound <= offset)

    def spliced(self, first: int, end: int, between: Sequence[Segment]) -> SegmentList:
        """Return the list with others in the place of the segments from `first` to `end`."""
        assert 0 <= first < end < len(self.items)
        bases = [segment.base_offset for segment in between]
        edges = (*self.bases[:first][-1:], *bases, self.bases[end])
        assert all(a < b for a, b in pairwise(edges))
        return self._changed(
            (*self.items[:first], *between, *self.items[end:]),
            (*self.bases[:first], *bases, *self.bases[end:]),
        )


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """What `segments` and `status` tell of a segment. Timestamps are -1 where there are none.

    Of a released one, the size is that of what was coded, and the first timestamp the least one.
    """

    base_offset: int
    next_offset: int
    size_bytes: int
    is_active: bool
    first_timestamp_ms: int
    last_timestamp_ms: int
    is_released: bool = False

    @property
    def state(self) -> str:
        """`active`, `sealed` or `released`."""
        if self.is_released:
            return "released"
        return "active" if self.is_active else "sealed"
