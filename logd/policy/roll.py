"""When a log goes on in a new segment: a pure decision.

A segment takes batches until the next one would break a bound:

* offsets: a segment covers base .. base + segment.offsets - 1; a batch that would pass the end goes
  to
  a new one, and a batch longer than the range has a segment of its own;
* bytes: segment.bytes, and never more than an index entry's 32-bit position can name;
* time: segment.ms after the segment's first append;
* its index is full.

An empty segment never rolls: whatever comes first goes into it. The bounds limit writing only; a
segment that was copied or compacted may be wider, up to the 32-bit relative offset of an index
entry.

The bounds of a segment are computed once, as a `RollPoint`, and each batch is compared with it:
that keeps the append path at three comparisons.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from logd.units import INT32_MAX, INT64_MAX

NEVER_MS: Final = INT64_MAX
"""Beyond every clock: no bound by time."""


@dataclass(frozen=True, slots=True)
class RollPoint:
    """Where a segment ends at the latest.

    Attributes:
        last_offset: the greatest offset that belongs into the segment.
        size_bytes: the greatest length of its file.
        at_ms: the wall-clock time from which on it takes no further batch.
    """

    last_offset: int
    size_bytes: int
    at_ms: int


def roll_point(
    *,
    base_offset: int,
    first_append_ms: int | None,
    segment_offsets: int,
    segment_bytes: int,
    segment_ms: int,
) -> RollPoint:
    """Return the bounds of the segment that begins at `base_offset`.

    Args:
        first_append_ms: when its first batch came; None for an empty segment, or if not known.
    """
    assert base_offset >= 0
    assert segment_offsets >= 1
    span = min(segment_offsets, INT32_MAX)
    at_ms = NEVER_MS if first_append_ms is None else min(first_append_ms + segment_ms, NEVER_MS)
    return RollPoint(base_offset + span - 1, min(segment_bytes, INT32_MAX), at_ms)


def must_roll(
    point: RollPoint,
    *,
    is_empty: bool,
    index_full: bool,
    last_offset: int,
    end_position: int,
    now_ms: int,
) -> bool:
    """Return whether a batch has to begin a new segment.

    Args:
        point: the current segment's bounds.
        is_empty: it has no batch yet, written or staged.
        last_offset: the offset of the batch's last record.
        end_position: the segment's length with the batch in it.
    """
    assert end_position >= 0
    if is_empty:
        return False
    return (
        index_full
        or last_offset > point.last_offset
        or end_position > point.size_bytes
        or now_ms >= point.at_ms
    )


def roll_due(point: RollPoint, *, is_empty: bool, now_ms: int) -> bool:
    """Return whether an idle segment is to be rolled for its age alone."""
    assert now_ms >= 0
    return not is_empty and now_ms >= point.at_ms
