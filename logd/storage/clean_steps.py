"""A round's commit in steps: a few segments at a time, so that appends wait for few renames.

Each step is a replacement of its own, with its own commit point (`swap`). They are taken from the
log's first segment on, and that order is what makes a crash between two of them harmless: a
tombstone that the round dropped stands behind the records that it deleted, so these are gone first.
No step but the last one says that the log is compacted any further than it was: what the others
replaced is looked at once more, by a round after a restart. Of a round in parts (`CleanOrder.part`)
only the last part has such a step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from logd.storage.clean_order import CleanedGroup, CleanOrder, CleanResult


def steps_of(
    order: CleanOrder, result: CleanResult, *, segments_max: int, known_horizon_ms: int | None
) -> Iterator[tuple[CleanOrder, CleanResult]]:
    """Yield what `Log.replace_segments` is to be called with, in order; at least one step.

    Args:
        segments_max: replaced by one step, if no single group has more.
        known_horizon_ms: the earliest delete horizon before the round.
    """
    assert segments_max >= 1
    horizons_ms = [ms for ms in (known_horizon_ms, result.next_horizon_ms) if ms is not None]
    unfinished = replace(
        result,
        first_uncleaned_offset=order.first_dirty_offset,
        next_horizon_ms=min(horizons_ms, default=None),
        fitted=False,
    )
    is_last_part = order.part is None or order.part[1] == len(order.groups)
    end_result = result if is_last_part else unfinished
    places = {segment.base_offset: at for at, segment in enumerate(order.segments)}
    if not result.groups:
        copied = [places[item.base_offset] for group in order.copied_groups for item in group]
        yield _part_of(order, copied[0], copied[-1] + 1), end_result
        return
    parts = list(_parts(result.groups, segments_max))
    for part in parts:
        first, last = places[part[0].old_bases[0]], places[part[-1].old_bases[-1]]
        step = replace(unfinished if part is not parts[-1] else end_result, groups=part)
        yield _part_of(order, first, last + 1), step


def _parts(
    groups: tuple[CleanedGroup, ...], segments_max: int
) -> Iterator[tuple[CleanedGroup, ...]]:
    part: list[CleanedGroup] = []
    count = 0
    for group in groups:
        if part and count + len(group.old_bases) > segments_max:
            yield tuple(part)
            part, count = [], 0
        part.append(group)
        count += len(group.old_bases)
    yield tuple(part)


def _part_of(order: CleanOrder, first: int, end: int) -> CleanOrder:
    """Return the order for some neighbouring segments of it alone."""
    if (first, end) == (0, len(order.segments)):
        return order
    segments = order.segments[first:end]
    assert segments
    begin, end_offset = segments[0].base_offset, segments[-1].end_offset
    return replace(
        order,
        groups=(segments,),
        first_dirty_offset=min(max(order.first_dirty_offset, begin), end_offset),
        end_offset=end_offset,
        part=None,
    )
