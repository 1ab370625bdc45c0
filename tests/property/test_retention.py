"""policy.retention against what must always hold, whatever segments, rules and times there are."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from logd.policy.retention import (
    RetentionPlan,
    RetentionRules,
    SegmentFacts,
    Verdict,
    plan_retention,
)

times_ms = st.integers(-1, 100)
limits = st.integers(-1, 60)


@st.composite
def logs(draw: st.DrawFn) -> list[SegmentFacts]:
    """A log's segments: in order, perhaps with gaps between them; the last one is active."""
    facts: list[SegmentFacts] = []
    at = draw(st.integers(0, 5))
    for _ in range(draw(st.integers(0, 8))):
        end = at + draw(st.integers(1, 5))
        facts.append(SegmentFacts(at, end, draw(st.integers(1, 20)), draw(times_ms), False))
        at = end
    count = draw(st.integers(0, 5))
    size = draw(st.integers(1, 20)) if count else 0
    return [*facts, SegmentFacts(at, at + count, size, draw(times_ms) if count else -1, True)]


rules = st.builds(
    RetentionRules,
    retention_ms=limits,
    retention_bytes=limits,
    deletes=st.booleans(),
    log_start_offset=st.integers(0, 40),
)


def decide(
    facts: Sequence[SegmentFacts], given: RetentionRules, now_ms: int, high_watermark: int
) -> RetentionPlan:
    return plan_retention(
        facts,
        given,
        now_ms=now_ms,
        wall_ms=now_ms,
        high_watermark=high_watermark,
        size_bytes=sum(one.size_bytes for one in facts),
    )


def pairs(facts: list[SegmentFacts], plan: RetentionPlan) -> list[tuple[SegmentFacts, Verdict]]:
    assert [one.base_offset for one in facts] == [one.base_offset for one in plan.verdicts]
    return list(zip(facts, plan.verdicts, strict=True))


@given(logs(), rules, times_ms, st.integers(0, 60))
def test_nothing_goes_that_a_rule_does_not_name(
    facts: list[SegmentFacts], given: RetentionRules, now_ms: int, high_watermark: int
) -> None:
    """By time no record younger than the limit, by size not below the limit, by delete-records
    nothing at or above the log start, by no rule anything at or above the high watermark."""
    left_bytes = sum(one.size_bytes for one in facts)
    for segment, verdict in pairs(facts, decide(facts, given, now_ms, high_watermark)):
        if verdict.action == "keep":
            assert verdict.rule is None
            continue
        left_bytes -= segment.size_bytes
        if verdict.rule == "delete-records":
            assert segment.next_offset <= given.log_start_offset
            continue
        assert given.deletes
        assert segment.next_offset <= high_watermark
        if verdict.rule == "retention.ms":
            assert 0 <= segment.max_timestamp_ms <= now_ms - given.retention_ms
            assert verdict.due_ms is not None
            assert verdict.due_ms <= now_ms
        else:
            assert left_bytes >= given.retention_bytes >= 0


@given(logs(), rules, times_ms, st.integers(0, 60))
def test_what_goes_is_a_prefix_and_ends_where_the_log_will_begin(
    facts: list[SegmentFacts], given: RetentionRules, now_ms: int, high_watermark: int
) -> None:
    """No hole in a log; the log start never goes back and never passes a segment that stays."""
    plan = decide(facts, given, now_ms, high_watermark)
    actions = [verdict.action for verdict in plan.verdicts]
    assert actions == sorted(actions)  # "delete" comes before "keep".
    assert plan.delete_count == actions.count("delete")
    gone_to = max((one.next_offset for one in plan.verdicts[: plan.delete_count]), default=0)
    assert plan.new_log_start_offset == max(given.log_start_offset, gone_to)


@given(logs(), rules, times_ms, st.integers(0, 60))
def test_the_first_that_stays_stays_for_a_reason(
    facts: list[SegmentFacts], given: RetentionRules, now_ms: int, high_watermark: int
) -> None:
    """Nothing that a rule names is forgotten: the oldest segment left is due by none."""
    plan = decide(facts, given, now_ms, high_watermark)
    left = facts[plan.delete_count :]
    if not left or left[0].size_bytes == 0 or left[0].next_offset > high_watermark:
        return
    assert left[0].next_offset > given.log_start_offset
    if given.deletes and given.retention_ms >= 0 and left[0].max_timestamp_ms >= 0:
        assert now_ms < left[0].max_timestamp_ms + given.retention_ms
    if given.deletes and given.retention_bytes >= 0:
        assert sum(one.size_bytes for one in left[1:]) < given.retention_bytes


@given(logs(), rules, times_ms, st.integers(0, 60), st.integers(0, 50), st.integers(0, 50))
def test_more_time_and_more_visible_records_delete_no_less(
    facts: list[SegmentFacts],
    given: RetentionRules,
    now_ms: int,
    high_watermark: int,
    later_ms: int,
    more: int,
) -> None:
    """Monotone: what went a moment ago would go now as well."""
    first = decide(facts, given, now_ms, high_watermark)
    second = decide(facts, given, now_ms + later_ms, high_watermark + more)
    assert first.delete_count <= second.delete_count
    assert first.new_log_start_offset <= second.new_log_start_offset


@given(logs(), rules, times_ms, st.integers(0, 60), st.integers(1, 3))
def test_in_steps_goes_what_goes_at_once(
    facts: list[SegmentFacts],
    given: RetentionRules,
    now_ms: int,
    high_watermark: int,
    limit: int,
) -> None:
    """A few segments at a time, each time with the log that is left: the end is the same, and when
    nothing more goes, deciding again changes nothing."""
    whole = decide(facts, given, now_ms, high_watermark)
    left, start = facts, given.log_start_offset
    while True:
        again = RetentionRules(
            retention_ms=given.retention_ms,
            retention_bytes=given.retention_bytes,
            deletes=given.deletes,
            log_start_offset=start,
        )
        step = plan_retention(
            left[:limit],
            again,
            now_ms=now_ms,
            wall_ms=now_ms,
            high_watermark=high_watermark,
            size_bytes=sum(one.size_bytes for one in left),
        )
        if step.delete_count == 0:
            break
        left, start = left[step.delete_count :], step.new_log_start_offset
    assert start == whole.new_log_start_offset
    assert len(facts) - len(left) == whole.delete_count


@given(logs(), rules, times_ms)
def test_due_is_when_it_goes(facts: list[SegmentFacts], given: RetentionRules, now_ms: int) -> None:
    """At its due_ms a segment that stays goes, if all of it is visible; not by time before."""
    plan = decide(facts, given, now_ms, 10**6)
    for number, verdict in enumerate(plan.verdicts):
        if verdict.action == "delete" or verdict.due_ms is None:
            continue
        then = decide(facts, given, verdict.due_ms, 10**6)
        assert then.verdicts[number].action == "delete"
        before = decide(facts, given, verdict.due_ms - 1, 10**6)
        assert before.verdicts[number].rule != "retention.ms"
