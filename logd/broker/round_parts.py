"""A round of compaction in parts: what is kept between two of them, and what they come to.

Each part is committed by itself (`policy.compaction_parts` says how a round is cut). A round that
fails behind some of them goes on from there: `RoundParts` has what is needed for that, in memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from logd.broker.cleaning import OnProgress
from logd.errors import SegmentsChangedError
from logd.policy.compaction import CompactionPlan
from logd.policy.compaction_parts import Part
from logd.storage.clean_order import CleanOrder, CleanResult, Progress, Totals


@dataclass(slots=True)
class RoundParts:
    """A round in parts, behind some of them.

    Attributes:
        first_dirty_offset, end_offset: its dirty tail.
        done_offset: below it nothing is left that the tail's keys supersede.
        results: of the parts that are committed.
    """

    first_dirty_offset: int
    end_offset: int
    done_offset: int = 0
    results: list[CleanResult] = field(default_factory=list)

    def joined(self, name: str, result: CleanResult) -> CleanResult:
        """Return the next part's result with the tombstones' time as it is for all so far.

        Raises:
            SegmentsChangedError: its keys fitted up to another offset than theirs: what lies in
                between was not looked for in them.
        """
        if any(
            each.first_uncleaned_offset != result.first_uncleaned_offset for each in self.results
        ):
            self.results.clear()
            self.done_offset = 0
            raise SegmentsChangedError(f"{name}: the memory for keys changed during the round")
        known = (each.next_horizon_ms for each in (*self.results, result))
        horizon_ms = min((each for each in known if each is not None), default=None)
        return dataclasses.replace(result, next_horizon_ms=horizon_ms)


def ends_of(plan: CompactionPlan) -> set[int]:
    """Return the end offsets of all segments of a plan."""
    return {segment.end_offset for group in plan.groups for segment in group}


def bases_of(plan: CompactionPlan, part: Part) -> list[int]:
    """Return the segments that a part reads: those it copies, and the dirty tail."""
    copied = {each for group in plan.groups[part.first : part.end] for each in group}
    segments = [each for group in plan.groups for each in group]
    return [
        each.base_offset
        for each in segments
        if each in copied or each.end_offset > plan.first_dirty_offset
    ]


def tell_part(on_progress: OnProgress, order: CleanOrder) -> None:
    """Say which share of the round's way the part is."""
    assert order.part is not None
    all_bytes = sum(each.log_bytes for each in order.segments)
    before = sum(each.log_bytes for group in order.groups[: order.part[0]] for each in group)
    on_progress(Progress("part from", before, all_bytes))
    on_progress(Progress("part to", before + order.source_bytes, all_bytes))


def sum_of(results: Sequence[CleanResult], *, is_all: bool) -> CleanResult:
    """Return what the parts of a round come to.

    Args:
        is_all: nothing that was due is left for another round.
    """
    last = results[-1]
    if len(results) == 1:
        return last if is_all else dataclasses.replace(last, fitted=False)
    return dataclasses.replace(
        last,
        groups=tuple(group for each in results for group in each.groups),
        before=_totals(each.before for each in results),
        after=_totals(each.after for each in results),
        fitted=last.fitted and is_all,
        read_bytes=sum(each.read_bytes for each in results),
        written_bytes=sum(each.written_bytes for each in results),
    )


def _totals(parts: Iterable[Totals]) -> Totals:
    return Totals(*map(sum, zip(*parts, strict=True)))
