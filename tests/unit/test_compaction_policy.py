"""Which logs are compacted, when, and which of their segments: decided from plain values."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logd.policy.compaction import (
    CompactionFacts,
    CompactionPlan,
    CompactionRules,
    NotDue,
    SegmentFacts,
    group_segments,
    plan_compaction,
    sort_plans,
)
from logd.units import INT32_MAX, INT64_MAX, MIB

NOW_MS = 1_000_000
RULES = CompactionRules(
    max_compaction_lag_ms=INT64_MAX,
    segment_bytes=1000,
    segment_index_bytes=10 * MIB,
    index_interval_bytes=4096,
)


def segments(*sizes: int, first_ms: int = 500, last_ms: int = 600) -> tuple[SegmentFacts, ...]:
    """Return segments of 100 offsets each."""
    return tuple(
        SegmentFacts(100 * number, 100 * number + 100, size, first_ms, last_ms)
        for number, size in enumerate(sizes)
    )


def facts(
    *sizes: int,
    first_dirty: int = 0,
    bound: int = INT64_MAX,
    next_horizon_ms: int | None = None,
    name: str = "t-0",
) -> CompactionFacts:
    return CompactionFacts(
        name=name,
        segments=segments(*sizes),
        first_dirty_offset=first_dirty,
        bound_offset=bound,
        next_horizon_ms=next_horizon_ms,
    )


def planned(found: CompactionPlan | NotDue) -> CompactionPlan:
    assert isinstance(found, CompactionPlan), str(found)
    return found


def bases(plan: CompactionPlan) -> list[list[int]]:
    return [[segment.base_offset for segment in group] for group in plan.groups]


def test_a_log_that_was_never_compacted_is_due_as_a_whole() -> None:
    """All sealed segments, from the first one: nothing is clean."""
    plan = planned(plan_compaction(facts(600, 600, 600), RULES, now_ms=NOW_MS))
    assert (plan.reason, plan.first_dirty_offset, plan.end_offset) == ("dirty", 0, 300)
    assert (plan.dirty_bytes, plan.source_bytes) == (1800, 1800)
    assert bases(plan) == [[0], [100], [200]]


def test_the_dirty_ratio_decides() -> None:
    """More than min.cleanable.dirty.ratio of all bytes must be dirty; half is not more than 0.5."""
    assert isinstance(plan_compaction(facts(500, 500, first_dirty=100), RULES, now_ms=0), NotDue)
    plan = planned(plan_compaction(facts(500, 501, first_dirty=100), RULES, now_ms=0))
    assert plan.first_dirty_offset == 100
    assert bases(plan) == [[0], [100]]


def test_on_demand_only_the_ratio_does_not_count() -> None:
    """Somebody who asks gets a round for any dirty byte, but not for records that are too young."""
    found = plan_compaction(facts(900, 1, first_dirty=100), RULES, now_ms=NOW_MS, on_demand=True)
    assert planned(found).reason == "on demand"
    clean = plan_compaction(facts(900, 1, first_dirty=200), RULES, now_ms=NOW_MS, on_demand=True)
    assert isinstance(clean, NotDue)
    lag = dataclasses.replace(RULES, min_compaction_lag_ms=NOW_MS)
    young = plan_compaction(facts(900, 1), lag, now_ms=NOW_MS, on_demand=True)
    assert isinstance(young, NotDue)
    assert "touched" in str(young)


def test_young_records_end_the_round() -> None:
    """From the first segment on that has a record younger than the minimum lag, all waits."""
    rules = dataclasses.replace(RULES, min_compaction_lag_ms=100)
    old, young = segments(600, 600, 600), segments(1, 1, 1, last_ms=NOW_MS - 99)
    mixed = dataclasses.replace(facts(), segments=(old[0], young[1], old[2]))
    assert bases(planned(plan_compaction(mixed, rules, now_ms=NOW_MS))) == [[0]]
    # What a round went through before may hold anything.
    done = dataclasses.replace(mixed, segments=(young[0], old[1], old[2]), first_dirty_offset=100)
    assert bases(planned(plan_compaction(done, rules, now_ms=NOW_MS))) == [[0, 100], [200]]


def test_nothing_at_or_behind_the_bound_is_touched() -> None:
    """A segment that reaches beyond the high watermark, or a snapshot's offset, is left out."""
    plan = planned(plan_compaction(facts(600, 600, 600, bound=299), RULES, now_ms=0))
    assert bases(plan) == [[0], [100]]
    assert plan.end_offset == 200
    assert isinstance(plan_compaction(facts(600, bound=99), RULES, now_ms=0), NotDue)


def test_a_record_that_waits_too_long_makes_its_log_due() -> None:
    """max.compaction.lag.ms counts, whatever the ratio; a future time is not overdue."""
    rules = dataclasses.replace(RULES, max_compaction_lag_ms=NOW_MS - 501)
    assert (
        planned(plan_compaction(facts(900, 1, first_dirty=100), rules, now_ms=NOW_MS)).reason
        == "overdue"
    )
    for unknown in (-1, 501, 2**60):
        waits = dataclasses.replace(
            facts(first_dirty=100), segments=segments(900, 1, first_ms=unknown)
        )
        assert isinstance(plan_compaction(waits, rules, now_ms=NOW_MS), NotDue)


def test_tombstones_whose_time_has_come_make_their_log_due() -> None:
    """An idle log's last tombstones go without a new record; nothing needs to be dirty."""
    waiting = facts(600, first_dirty=100, next_horizon_ms=NOW_MS)
    assert isinstance(plan_compaction(waiting, RULES, now_ms=NOW_MS - 1), NotDue)
    plan = planned(plan_compaction(waiting, RULES, now_ms=NOW_MS))
    assert (plan.reason, plan.first_dirty_offset, plan.end_offset) == ("tombstones", 100, 100)


def test_a_damaged_log_is_left_alone() -> None:
    """What cannot be read may hold what a tombstone has deleted."""
    damaged = dataclasses.replace(facts(600), is_damaged=True)
    assert isinstance(plan_compaction(damaged, RULES, now_ms=0, on_demand=True), NotDue)


def test_the_most_pressing_log_comes_first() -> None:
    """Overdue before all, the oldest first; then the dirtiest; then tombstones."""
    late = dataclasses.replace(RULES, max_compaction_lag_ms=10)
    found = [
        plan_compaction(facts(600, first_dirty=100, next_horizon_ms=1, name="tombstones"),
                        RULES, now_ms=NOW_MS),
        plan_compaction(facts(500, 600, first_dirty=100, name="dirty"), RULES, now_ms=NOW_MS),
        plan_compaction(facts(500, 600, name="dirtier"), RULES, now_ms=NOW_MS),
        plan_compaction(facts(900, 1, first_dirty=100, name="asked"), RULES, now_ms=0,
                        on_demand=True),
        plan_compaction(facts(900, 1, first_dirty=100, name="overdue"), late, now_ms=NOW_MS),
    ]  # fmt: skip
    names = [plan.name for plan in sort_plans(map(planned, found))]
    assert names == ["overdue", "dirtier", "dirty", "tombstones", "asked"]


def test_the_debt_of_a_log() -> None:
    """Dirty bytes, and the oldest time that a dirty segment begins with."""
    found = dataclasses.replace(facts(500, 600, 700, first_dirty=150), bound_offset=0)
    assert found.dirty_bytes == 1300
    assert found.oldest_dirty_ms == 500
    assert facts(500, first_dirty=100).oldest_dirty_ms is None


def test_neighbours_that_are_far_apart_stay_apart() -> None:
    """An index entry has 31 bits for an offset: no group spans more."""
    near = SegmentFacts(0, 10, 1), SegmentFacts(10, INT32_MAX + 1, 1)
    assert len(group_segments(near, group_bytes_max=100)) == 1
    far = SegmentFacts(0, 10, 1), SegmentFacts(10, INT32_MAX + 2, 1)
    assert len(group_segments(far, group_bytes_max=100)) == 2


def test_a_small_index_keeps_groups_small() -> None:
    """Neighbours are merged only as long as one index can name them all."""
    rules = dataclasses.replace(RULES, segment_index_bytes=24, index_interval_bytes=99)
    assert rules.group_bytes_max == 200
    assert bases(planned(plan_compaction(facts(100, 100, 100), rules, now_ms=0))) == [
        [0, 100],
        [200],
    ]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 700), min_size=1, max_size=12),
    st.integers(0, 1200),
    st.integers(0, 1300),
    st.booleans(),
)
def test_any_plan_takes_the_first_segments_once_and_in_order(
    sizes: list[int], first_dirty: int, bound: int, on_demand: bool
) -> None:
    """Whatever the log: groups are its first segments, whole, in order, below the bound."""
    log = facts(*sizes, first_dirty=first_dirty, bound=bound, next_horizon_ms=5)
    found = plan_compaction(log, RULES, now_ms=NOW_MS, on_demand=on_demand)
    assert found.name in str(found)
    if isinstance(found, NotDue):
        return
    taken = [segment for group in found.groups for segment in group]
    assert tuple(taken) == log.segments[: len(taken)]
    assert found.end_offset == taken[-1].end_offset <= bound
    assert 0 <= found.first_dirty_offset <= found.end_offset
    for group in found.groups:
        assert len(group) == 1 or sum(item.size_bytes for item in group) <= RULES.segment_bytes


@pytest.mark.parametrize("sizes", [(0,), (0, 0, 0)])
def test_empty_segments_are_no_debt(sizes: tuple[int, ...]) -> None:
    """Segments without a byte do not make a log due by themselves."""
    assert isinstance(plan_compaction(facts(*sizes), RULES, now_ms=0, on_demand=True), NotDue)
