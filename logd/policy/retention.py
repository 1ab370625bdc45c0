"""Which segments of a log retention deletes, and when the others go: a pure decision.

Three rules, each on whole segments, from the oldest on, and never past the first one that stays:

* delete-records: the segment lies wholly below the log start offset. Holds under every
  cleanup.policy: its records are gone already, only its files are not.
* retention.ms: its greatest timestamp is retention.ms old. So no record goes before its time,
  whatever the order of timestamps; one whose timestamp lies in the future holds its segment, and
  those behind it, and deletes nothing. The plan says so. A sealed segment without a byte waits for
  nothing: compaction leaves one where the log began, and must not hold what lies behind it.
* retention.bytes: the log would be at least so long without it.

The active segment can go as well, when all of it is due: the log is rolled for that. Nothing at or
above the high watermark goes. A segment whose greatest timestamp is not known is never due by time.

Source: Kafka's rules of the same names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from logd.units import HOUR_MS, INT64_MAX

NO_LIMIT: Final = -1
"""retention.ms and retention.bytes: nothing goes by this rule."""

UNKNOWN_TIMESTAMP_MS: Final = -1

ROLLS_PER_RETENTION: Final = 8

FUTURE_MAX_MS: Final = HOUR_MS
"""How far ahead of the clock a timestamp may lie before it is called one of the future."""

Action = Literal["delete", "keep"]
Rule = Literal["retention.ms", "retention.bytes", "delete-records"]


@dataclass(frozen=True, slots=True)
class SegmentFacts:
    """What retention goes by.

    Attributes:
        next_offset: all offsets of the segment lie below.
        max_timestamp_ms: the greatest of its records' timestamps; -1 if it is not known.
    """

    base_offset: int
    next_offset: int
    size_bytes: int
    max_timestamp_ms: int
    is_active: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionRules:
    """What is asked of one log.

    Attributes:
        retention_ms, retention_bytes: the limits; -1: none.
        deletes: cleanup.policy contains delete; without it both limits mean nothing.
    """

    retention_ms: int
    retention_bytes: int
    deletes: bool
    log_start_offset: int

    @property
    def is_idle(self) -> bool:
        """Whether nothing goes by time or by size."""
        return not self.deletes or (self.retention_ms < 0 and self.retention_bytes < 0)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of one segment.

    Attributes:
        rule: why it is deleted; None for one that stays.
        due_ms: when retention.ms deletes it, or since when it could have; None where no time is
            set, or known, or another rule came first.
    """

    base_offset: int
    next_offset: int
    size_bytes: int
    action: Action
    rule: Rule | None
    due_ms: int | None


@dataclass(frozen=True, slots=True)
class RetentionPlan:
    """What is to be done with a log now.

    Attributes:
        new_log_start_offset: where the log is to begin; the old start if nothing is deleted.
        verdicts: one for each segment that was described, in their order.
        future_ms: the timestamp, far in the future, by which the first segment that stays holds
            itself and all behind it; None where there is no such thing.
    """

    new_log_start_offset: int
    verdicts: tuple[Verdict, ...]
    future_ms: int | None = None

    @property
    def delete_count(self) -> int:
        """How many segments go: the first ones."""
        verdicts = self.verdicts
        for number, verdict in enumerate(verdicts):
            if verdict.action == "keep":
                return number
        return len(verdicts)

    @property
    def next_due_ms(self) -> int | None:
        """When the first segment that stays is due by time; None: never, as far as is known."""
        number = self.delete_count
        return self.verdicts[number].due_ms if number < len(self.verdicts) else None


def plan_retention(
    segments: Sequence[SegmentFacts],
    rules: RetentionRules,
    *,
    now_ms: int,
    wall_ms: int,
    high_watermark: int,
    size_bytes: int,
) -> RetentionPlan:
    """Return what retention does with a log.

    Args:
        segments: its oldest segments in order, at least one if any is to go; not necessarily all.
        now_ms: the time that retention goes by (see `clock_guard`).
        wall_ms: the wall clock, which alone says what a timestamp of the future is.
        high_watermark: what lies at or above is not deleted.
        size_bytes: of the whole log.
    """
    assert size_bytes >= 0
    retention_ms = rules.retention_ms if rules.deletes else NO_LIMIT
    retention_bytes = rules.retention_bytes if rules.deletes else NO_LIMIT
    excess_bytes = size_bytes - retention_bytes if retention_bytes >= 0 else -1
    log_start_offset = rules.log_start_offset
    goes = True
    due_ms: int | None = 0
    future_ms: int | None = None
    verdicts = []
    for segment in segments:
        own_due_ms = _due_ms(segment, retention_ms)
        # Segments go in order, so none goes before those in front of it.
        due_ms = None if own_due_ms is None or due_ms is None else max(due_ms, own_due_ms)
        rule: Rule | None = None
        if goes:
            rule = _rule(segment, rules, own_due_ms, now_ms, high_watermark, excess_bytes)
        base_offset, next_offset = segment.base_offset, segment.next_offset
        if rule is None:
            if goes and own_due_ms is not None and _is_future(segment, wall_ms):
                future_ms = segment.max_timestamp_ms
            goes = False
            verdicts.append(
                Verdict(base_offset, next_offset, segment.size_bytes, "keep", None, due_ms)
            )
            continue
        excess_bytes -= segment.size_bytes
        log_start_offset = max(log_start_offset, next_offset)
        since_ms = due_ms or None if rule == "retention.ms" else None
        verdicts.append(
            Verdict(base_offset, next_offset, segment.size_bytes, "delete", rule, since_ms)
        )
        due_ms = 0  # Whatever held it, what comes behind no longer waits for it.
    assert log_start_offset <= max(high_watermark, rules.log_start_offset)
    return RetentionPlan(log_start_offset, tuple(verdicts), future_ms)


def _due_ms(segment: SegmentFacts, retention_ms: int) -> int | None:
    if retention_ms < 0:
        return None
    if segment.size_bytes == 0 and not segment.is_active:
        return 0
    if segment.max_timestamp_ms < 0:
        return None
    due_ms = segment.max_timestamp_ms + retention_ms
    return due_ms if due_ms < INT64_MAX else None


def _is_future(segment: SegmentFacts, wall_ms: int) -> bool:
    return segment.max_timestamp_ms > wall_ms + FUTURE_MAX_MS


def _rule(
    segment: SegmentFacts,
    rules: RetentionRules,
    due_ms: int | None,
    now_ms: int,
    high_watermark: int,
    excess_bytes: int,
) -> Rule | None:
    """Return the rule by which the oldest segment that is left goes; None if it stays."""
    assert segment.base_offset <= segment.next_offset
    if segment.is_active and segment.size_bytes == 0:
        return None
    if segment.next_offset <= rules.log_start_offset:
        return "delete-records"
    if segment.next_offset > high_watermark:
        return None
    if due_ms is not None and now_ms >= due_ms:
        return "retention.ms"
    if excess_bytes >= segment.size_bytes:
        return "retention.bytes"
    return None


def roll_after_ms(*, segment_ms: int, retention_ms: int, deletes: bool, floor_ms: int) -> int:
    """Return after which time a segment that is not full is sealed.

    A segment goes when its newest record is due, so how long it takes records is how much longer
    its oldest stays than asked for. segment.ms alone is a week, whatever retention.ms says; here it
    is at most an eighth of retention.ms.

    Args:
        floor_ms: how often retention looks. Sealing more often than that would gain nothing.
    """
    assert segment_ms >= 1
    assert floor_ms >= 1
    if not deletes or retention_ms < 0:
        return segment_ms
    return min(segment_ms, max(retention_ms // ROLLS_PER_RETENTION, floor_ms))
