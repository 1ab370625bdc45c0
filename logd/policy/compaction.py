"""When a compacted log is cleaned, and which of its segments a round takes: pure decisions.

A log has a clean head and a dirty tail; the first dirty offset divides them. A round looks at the
keys of the tail, then copies head and tail without the records that a later one of the same key
supersedes. Which logs are due, most pressing first:

    overdue     a dirty record is older than max.compaction.lag.ms; the oldest first
    dirty       dirty bytes are more than min.cleanable.dirty.ratio of all; the dirtiest first
    tombstones  a delete horizon has passed (Kafka waits for the next round, which an idle log
                never gets)
    on demand   somebody asked; only the dirty ratio does not count then

A round never takes the active segment, nor what lies at or behind its bound (the high watermark, or
an offset that somebody still reads the log from), nor anything from the first segment on that has a
record younger than min.compaction.lag.ms. It takes everything from the log's first segment up to
there: a record may be superseded from any place behind it.

Neighbours are written into one segment as long as all of them together would fit one, up to
GROUP_SEGMENTS_MAX of them; the next round joins what is left of several such groups.

A log with a quarantined range is left alone: what cannot be read may hold records that a tombstone
behind it has deleted, and that would come back with a repair.

Segments that are only in chunks count as others do: the round has them thawed first.

Source: Apache Kafka, LogCleanerManager (cleanableOffsets, maxCompactionDelay) and LogCleaner
(groupSegmentsBySize); KIP-58, KIP-354, KIP-534.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from logd.units import INT32_MAX, format_byte_count, format_duration_ms

REASONS: Final = ("overdue", "dirty", "tombstones", "on demand")
"""Why a round is due, the most pressing first."""

GROUP_SEGMENTS_MAX: Final = 32
"""So many neighbours become one at most: while a group is put in its place, appends wait."""

_ENTRY_BYTES: Final = 12
"""The larger one of the two indexes' entries."""


@dataclass(frozen=True, slots=True)
class SegmentFacts:
    """A sealed segment. Timestamps are -1 where there are none, or nobody needs them.

    Attributes:
        end_offset: the next segment's base offset.
        first_timestamp_ms: the greatest one of its first batch, as Kafka counts.
        last_timestamp_ms: the greatest one.
    """

    base_offset: int
    end_offset: int
    size_bytes: int
    first_timestamp_ms: int = -1
    last_timestamp_ms: int = -1

    def __post_init__(self) -> None:
        assert 0 <= self.base_offset < self.end_offset
        assert self.size_bytes >= 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactionFacts:
    """What is known of a log.

    Attributes:
        segments: the sealed ones, in order.
        first_dirty_offset: below it everything was in a round already.
        bound_offset: no record at or above it is touched.
        next_horizon_ms: when the next tombstones may go; None if none are waiting.
        is_damaged: it has a quarantined range.
    """

    name: str
    segments: tuple[SegmentFacts, ...]
    first_dirty_offset: int
    bound_offset: int
    next_horizon_ms: int | None = None
    is_damaged: bool = False

    @property
    def dirty(self) -> tuple[SegmentFacts, ...]:
        """The sealed segments that no round has gone through to their end."""
        return tuple(item for item in self.segments if item.end_offset > self.first_dirty_offset)

    @property
    def dirty_bytes(self) -> int:
        """The debt: bytes in these."""
        return sum(item.size_bytes for item in self.dirty)

    @property
    def oldest_dirty_ms(self) -> int | None:
        """The earliest timestamp that one of these begins with; None if there is none."""
        known = (item.first_timestamp_ms for item in self.dirty if item.first_timestamp_ms >= 0)
        return min(known, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactionRules:
    """A topic's settings, as far as they matter here."""

    min_cleanable_dirty_ratio: float = 0.5
    min_compaction_lag_ms: int = 0
    max_compaction_lag_ms: int
    segment_bytes: int
    segment_index_bytes: int
    index_interval_bytes: int

    @property
    def group_bytes_max(self) -> int:
        """Up to how many bytes neighbours are merged: also their indexes must fit."""
        entries = self.segment_index_bytes // _ENTRY_BYTES
        return min(self.segment_bytes, INT32_MAX, entries * (self.index_interval_bytes + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactionPlan:
    """A round that is due.

    Attributes:
        reason: one of `REASONS`.
        groups: neighbouring segments, each group to be written into one; all that are taken.
        first_dirty_offset: from here on the keys are looked at.
        end_offset: up to here.
        urgency: plans are sorted by it, the smallest first.
    """

    name: str
    reason: str
    groups: tuple[tuple[SegmentFacts, ...], ...]
    first_dirty_offset: int
    end_offset: int
    dirty_bytes: int
    source_bytes: int
    urgency: tuple[int, float]

    def __post_init__(self) -> None:
        assert self.reason in REASONS
        assert self.groups
        assert self.first_dirty_offset <= self.end_offset

    def __str__(self) -> str:
        """Return what the round will do, in a line."""
        segments = sum(map(len, self.groups))
        return (
            f"{self.name}: {self.reason}; {segments} segments ({len(self.groups)} groups) up to "
            f"offset {self.end_offset}, {format_byte_count(self.dirty_bytes)} of "
            f"{format_byte_count(self.source_bytes)} dirty"
        )


@dataclass(frozen=True, slots=True)
class NotDue:
    """Why a log is not cleaned now."""

    name: str
    reason: str

    def __str__(self) -> str:
        """Return it in a line."""
        return f"{self.name}: not now: {self.reason}"


def plan_compaction(
    facts: CompactionFacts, rules: CompactionRules, *, now_ms: int, on_demand: bool = False
) -> CompactionPlan | NotDue:
    """Decide whether a log is to be cleaned now, and what of it.

    Args:
        on_demand: ignore min.cleanable.dirty.ratio, and nothing else.
    """
    if facts.is_damaged:
        return NotDue(facts.name, "it has a quarantined range")
    taken = _cleanable(facts, rules, now_ms)
    if not taken:
        return NotDue(facts.name, "no sealed segment may be touched yet")
    end_offset = taken[-1].end_offset
    dirty = [item for item in taken if item.end_offset > facts.first_dirty_offset]
    dirty_bytes = sum(item.size_bytes for item in dirty)
    source_bytes = sum(item.size_bytes for item in taken)
    urgency = _urgency(facts, rules, dirty, dirty_bytes, source_bytes, now_ms)
    if urgency is None:
        if not on_demand or not dirty_bytes:
            return NotDue(facts.name, _why_not(rules, dirty_bytes, source_bytes))
        urgency = REASONS.index("on demand"), 0.0
    return CompactionPlan(
        name=facts.name,
        reason=REASONS[urgency[0]],
        groups=group_segments(taken, group_bytes_max=rules.group_bytes_max),
        first_dirty_offset=min(max(facts.first_dirty_offset, taken[0].base_offset), end_offset),
        end_offset=end_offset,
        dirty_bytes=dirty_bytes,
        source_bytes=source_bytes,
        urgency=urgency,
    )


def sort_plans(plans: Iterable[CompactionPlan]) -> list[CompactionPlan]:
    """Return the plans in the order in which they are to be carried out."""
    return sorted(plans, key=lambda plan: (plan.urgency, plan.name))


def group_segments(
    segments: Sequence[SegmentFacts], *, group_bytes_max: int
) -> tuple[tuple[SegmentFacts, ...], ...]:
    """Put neighbours together that one segment can hold, by bytes and by span of offsets."""
    assert group_bytes_max >= 1
    groups: list[list[SegmentFacts]] = []
    group_bytes = 0
    for segment in segments:
        if (
            groups
            and len(groups[-1]) < GROUP_SEGMENTS_MAX
            and group_bytes + segment.size_bytes <= group_bytes_max
            and segment.end_offset - 1 - groups[-1][0].base_offset <= INT32_MAX
        ):
            groups[-1].append(segment)
            group_bytes += segment.size_bytes
        else:
            groups.append([segment])
            group_bytes = segment.size_bytes
    return tuple(map(tuple, groups))


def _cleanable(
    facts: CompactionFacts, rules: CompactionRules, now_ms: int
) -> tuple[SegmentFacts, ...]:
    """Return the segments that a round may take: the first ones of the log."""
    youngest_ms = now_ms - rules.min_compaction_lag_ms
    for count, segment in enumerate(facts.segments):
        is_dirty = segment.end_offset > facts.first_dirty_offset
        is_young = rules.min_compaction_lag_ms > 0 and segment.last_timestamp_ms > youngest_ms
        if segment.end_offset > facts.bound_offset or (is_dirty and is_young):
            return facts.segments[:count]
    return facts.segments


def _urgency(
    facts: CompactionFacts,
    rules: CompactionRules,
    dirty: Sequence[SegmentFacts],
    dirty_bytes: int,
    source_bytes: int,
    now_ms: int,
) -> tuple[int, float] | None:
    """Return how pressing a round is, the smaller the more; None if it is not due."""
    known = [item.first_timestamp_ms for item in dirty if item.first_timestamp_ms >= 0]
    oldest_ms = min(known, default=None)
    if dirty_bytes and oldest_ms is not None and oldest_ms < now_ms - rules.max_compaction_lag_ms:
        return REASONS.index("overdue"), float(oldest_ms)
    ratio = dirty_bytes / source_bytes if source_bytes else 0.0
    if ratio > rules.min_cleanable_dirty_ratio:
        return REASONS.index("dirty"), -ratio
    if facts.next_horizon_ms is not None and facts.next_horizon_ms <= now_ms:
        return REASONS.index("tombstones"), float(facts.next_horizon_ms)
    return None


def _why_not(rules: CompactionRules, dirty_bytes: int, source_bytes: int) -> str:
    if not dirty_bytes:
        return "nothing that may be touched is dirty"
    return (
        f"{dirty_bytes / source_bytes:.0%} of {format_byte_count(source_bytes)} are dirty, "
        f"min.cleanable.dirty.ratio is {rules.min_cleanable_dirty_ratio:.0%}, and no record waits "
        f"longer than {format_duration_ms(rules.max_compaction_lag_ms)}"
    )
