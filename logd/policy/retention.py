"""Which segments of a log retention deletes, and when the others go: a pure decision.

Three rules, each on whole segments, from the oldest on, and never past the first one that stays:

* delete-records: the segment lies wholly below the log start offset. Holds under every
  cleanup.policy: its records are gone already, only its files are not.
* retention.ms: its greatest timestamp is retention.ms old. So no record goes before its time,
  whatever the order of timestamps; one whose timestamp lies in the future holds its segment, and
  those behind it, and deletes nothing.
* retention.bytes: the log would be at least so long without it.

The active segment can go as well, when all of it is due: the log is rolled for that. Nothing at or
above the high watermark goes. A segment whose greatest timestamp is not known is never due by time.

Source: Kafka's rules of the same names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from logd.units import INT64_MAX, MINUTE_MS

NO_LIMIT: Final = -1
"""retention.ms and retention.bytes: nothing goes by this rule."""

UNKNOWN_TIMESTAMP_MS: Final = -1

ROLLS_PER_RETENTION: Final = 8
ROLL_FLOOR_MS: Final = MINUTE_MS

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
    """

    new_log_start_offset: int
    verdicts: tuple[Verdict, ...]

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
    high_watermark: int,
    size_bytes: int,
) -> RetentionPlan:
    """Return what retention does with a log.

    Args:
        segments: its oldest segments in order, at least one if any is to go; not necessarily all.
        now_ms: the time that retention goes by (see `clock_guard`).
        high_watermark: what lies at or above is not deleted.
        size_bytes: of the whole log.
    """
    assert size_bytes >= 0
    retention_bytes = rules.retention_bytes if rules.deletes else NO_LIMIT
    excess_bytes = size_bytes - retention_bytes if retention_bytes >= 0 else -1
    log_start_offset = rules.log_start_offset
    goes = True
    due_ms: int | None = 0
    verdicts = []
    for segment in segments:
        own_due_ms = _due_ms(segment, rules)
        # Segments go in order, so none goes before those in front of it.
        due_ms = None if own_due_ms is None or due_ms is None else max(due_ms, own_due_ms)
        rule: Rule | None = None
        if goes:
            rule = _rule(segment, rules, own_due_ms, now_ms, high_watermark, excess_bytes)
        if rule is None:
            goes = False
            verdicts.append(_verdict(segment, "keep", None, due_ms))
            continue
        excess_bytes -= segment.size_bytes
        log_start_offset = max(log_start_offset, segment.next_offset)
        verdicts.append(
            _verdict(segment, "delete", rule, due_ms if rule == "retention.ms" else None)
        )
        due_ms = 0  # Whatever held it, what comes behind no longer waits for it.
    assert log_start_offset <= max(high_watermark, rules.log_start_offset)
    return RetentionPlan(log_start_offset, tuple(verdicts))


def _verdict(
    segment: SegmentFacts, action: Action, rule: Rule | None, due_ms: int | None
) -> Verdict:
    return Verdict(
        segment.base_offset, segment.next_offset, segment.size_bytes, action, rule, due_ms
    )


def _due_ms(segment: SegmentFacts, rules: RetentionRules) -> int | None:
    if not rules.deletes or rules.retention_ms < 0 or segment.max_timestamp_ms < 0:
        return None
    due_ms = segment.max_timestamp_ms + rules.retention_ms
    return due_ms if due_ms < INT64_MAX else None


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


def roll_after_ms(*, segment_ms: int, retention_ms: int, deletes: bool) -> int:
    """Return after which time a segment that is not full is sealed.

    A segment goes when its newest record is due, so how long it takes records is how much longer
    its oldest stays than asked for. segment.ms alone is a week, whatever retention.ms says; here it
    is at most an eighth of retention.ms (but a minute, because each roll costs three syncs).
    """
    assert segment_ms >= 1
    if not deletes or retention_ms < 0:
        return segment_ms
    return min(segment_ms, max(retention_ms // ROLLS_PER_RETENTION, ROLL_FLOOR_MS))
