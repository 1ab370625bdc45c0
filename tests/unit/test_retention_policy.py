"""policy.retention: which segments go, by which rule, and when the others do; tables."""

from __future__ import annotations

from functools import partial

import pytest

from logd.policy.retention import (
    FUTURE_MAX_MS,
    RetentionPlan,
    RetentionRules,
    SegmentFacts,
    plan_retention,
    roll_after_ms,
)
from logd.units import DAY_MS, HOUR_MS, INT64_MAX, MINUTE_MS
from tests.cpu_time import least_cpu_s

NOW_MS = 1_000_000
KEEP = ("keep", None)
BY_TIME = ("delete", "retention.ms")
BY_SIZE = ("delete", "retention.bytes")
BY_START = ("delete", "delete-records")


def segments(*facts: tuple[int, int], active: tuple[int, int] = (0, -1)) -> list[SegmentFacts]:
    """Segments of ten offsets each from (bytes, greatest timestamp); the last one is active."""
    found = [
        SegmentFacts(10 * number, 10 * number + 10, size, timestamp, False)
        for number, (size, timestamp) in enumerate(facts)
    ]
    size, timestamp = active
    base = 10 * len(facts)
    return [*found, SegmentFacts(base, base + (10 if size else 0), size, timestamp, True)]


def rules(
    retention_ms: int = -1,
    retention_bytes: int = -1,
    *,
    deletes: bool = True,
    log_start_offset: int = 0,
) -> RetentionRules:
    return RetentionRules(
        retention_ms=retention_ms,
        retention_bytes=retention_bytes,
        deletes=deletes,
        log_start_offset=log_start_offset,
    )


def outcome(plan: RetentionPlan) -> list[tuple[str, str | None]]:
    return [(verdict.action, verdict.rule) for verdict in plan.verdicts]


def plan(
    facts: list[SegmentFacts],
    given: RetentionRules,
    *,
    high_watermark: int = 10**9,
    now_ms: int = NOW_MS,
    wall_ms: int = NOW_MS,
) -> RetentionPlan:
    return plan_retention(
        facts,
        given,
        now_ms=now_ms,
        wall_ms=wall_ms,
        high_watermark=high_watermark,
        size_bytes=sum(one.size_bytes for one in facts),
    )


OLD = NOW_MS - 1000
YOUNG = NOW_MS - 999
HOUR_AHEAD = NOW_MS + FUTURE_MAX_MS + 1


@pytest.mark.parametrize(
    ("facts", "given", "expected", "start"),
    [
        pytest.param(segments((5, 0)), rules(), [KEEP, KEEP], 0, id="no limit"),
        pytest.param(segments((5, OLD), (5, YOUNG)), rules(1000), [BY_TIME, KEEP, KEEP], 10,
                     id="at the limit, and a moment before it"),
        pytest.param(segments((5, YOUNG), (5, 0)), rules(1000), [KEEP, KEEP, KEEP], 0,
                     id="never past one that stays, whatever the order of timestamps"),
        pytest.param(segments((5, OLD), active=(5, OLD)), rules(1000), [BY_TIME, BY_TIME], 20,
                     id="an idle log's active segment goes as well"),
        pytest.param(segments((5, OLD)), rules(1000), [BY_TIME, KEEP], 10,
                     id="an empty active segment stays"),
        pytest.param(segments(), rules(0, 0), [KEEP], 0, id="an empty log"),
        pytest.param(segments((5, NOW_MS)), rules(0), [BY_TIME, KEEP], 10, id="retention.ms=0"),
        pytest.param(segments((5, -1), (5, 0)), rules(1000), [KEEP, KEEP, KEEP], 0,
                     id="an unknown timestamp is never due"),
        pytest.param(segments((5, INT64_MAX), (5, 0)), rules(1000), [KEEP, KEEP, KEEP], 0,
                     id="the greatest timestamp there is"),
        pytest.param(segments((5, 0)), rules(INT64_MAX), [KEEP, KEEP], 0, id="the greatest limit"),
        pytest.param(segments((5, HOUR_AHEAD), (5, 0)), rules(1000), [KEEP, KEEP, KEEP], 0,
                     id="a timestamp of the future deletes nothing"),
        pytest.param(segments((5, HOUR_AHEAD), (5, OLD)), rules(1000, 5),
                     [BY_SIZE, BY_TIME, KEEP], 20, id="but the size rule goes past it"),
        pytest.param(segments((5, 0), (5, 0), (5, 0)), rules(-1, 10), [BY_SIZE] + [KEEP] * 3, 10,
                     id="as long as the limit without it"),
        pytest.param(segments((5, 0), (5, 0), (5, 0)), rules(-1, 11), [KEEP] * 4, 0,
                     id="a byte shorter without it"),
        pytest.param(segments((5, 0), (5, 0), active=(7, 0)), rules(-1, 0), [BY_SIZE] * 3, 30,
                     id="retention.bytes=0"),
        pytest.param(segments((5, OLD), (5, YOUNG)), rules(1000, 0), [BY_TIME, BY_SIZE, KEEP], 20,
                     id="the time comes first where both apply"),
        pytest.param(segments((5, 0), active=(5, 0)), rules(1000, 0, deletes=False), [KEEP] * 2, 0,
                     id="cleanup.policy=compact: neither limit means anything"),
        pytest.param(segments((5, YOUNG), (5, YOUNG)), rules(deletes=False, log_start_offset=10),
                     [BY_START, KEEP, KEEP], 10, id="but what delete-records left does go"),
        pytest.param(segments((5, YOUNG), (5, OLD)), rules(1000, log_start_offset=10),
                     [BY_START, BY_TIME, KEEP], 20, id="delete-records does not hold the rest"),
        pytest.param(segments((5, YOUNG), (5, OLD)), rules(1000, log_start_offset=9),
                     [KEEP] * 3, 9, id="one record above the log start holds its segment"),
        pytest.param(segments((5, YOUNG), active=(5, YOUNG)), rules(log_start_offset=20),
                     [BY_START, BY_START], 20, id="all of it lies below the log start"),
    ],
)  # fmt: skip
def test_what_goes(
    facts: list[SegmentFacts],
    given: RetentionRules,
    expected: list[tuple[str, str | None]],
    start: int,
) -> None:
    """Each rule, at its edge and beside it; and where the log begins afterwards."""
    made = plan(facts, given)
    assert outcome(made) == expected
    assert made.new_log_start_offset == start
    assert made.delete_count == sum(action == "delete" for action, _ in expected)


@pytest.mark.parametrize(
    ("high_watermark", "expected"),
    [(30, [BY_TIME] * 3), (29, [BY_TIME] * 2 + [KEEP]), (10, [BY_TIME] + [KEEP] * 2),
     (9, [KEEP] * 3), (0, [KEEP] * 3)],
)  # fmt: skip
def test_nothing_that_is_not_visible_goes(
    high_watermark: int, expected: list[tuple[str, str | None]]
) -> None:
    """A segment with a record at or above the high watermark stays, with all behind it."""
    facts = segments((5, 0), (5, 0), active=(5, 0))
    assert outcome(plan(facts, rules(0, 0), high_watermark=high_watermark)) == expected


def test_when_the_others_go() -> None:
    """due_ms of what stays is when it will go: not before what is in front of it."""
    facts = segments((5, 700), (5, 300), (5, 900), active=(5, 100))
    made = plan(facts, rules(1000), now_ms=1000)
    assert [verdict.due_ms for verdict in made.verdicts] == [1700, 1700, 1900, 1900]
    assert made.next_due_ms == 1700
    later = plan(facts, rules(1000), now_ms=1700)
    assert [verdict.due_ms for verdict in later.verdicts] == [1700, 1300, 1900, 1900]
    assert later.next_due_ms == 1900


@pytest.mark.parametrize(
    ("facts", "given"),
    [
        pytest.param(segments((5, 700)), rules(-1, 1000), id="no time is set"),
        pytest.param(segments((5, -1), (5, 300)), rules(1000), id="no time is known"),
        pytest.param(segments((5, 700)), rules(1000, deletes=False), id="nothing goes by time"),
        pytest.param(segments((5, INT64_MAX - 1)), rules(1000), id="later than any clock"),
    ],
)
def test_due_is_left_open(facts: list[SegmentFacts], given: RetentionRules) -> None:
    """Where nobody can say when a segment goes, due_ms is None, and so it is for those behind."""
    made = plan(facts, given, now_ms=0)
    assert {verdict.due_ms for verdict in made.verdicts} == {None}
    assert made.next_due_ms is None


def test_what_another_rule_deletes_has_no_due_time() -> None:
    """A segment that goes by size is not said to be due by time; the next one is on its own."""
    made = plan(segments((5, NOW_MS + 50), (5, NOW_MS)), rules(1000, 5))
    assert [verdict.due_ms for verdict in made.verdicts] == [None, NOW_MS + 1000, None]


@pytest.mark.parametrize(
    ("facts", "given", "future_ms"),
    [
        pytest.param(segments((5, HOUR_AHEAD)), rules(1000), HOUR_AHEAD, id="ahead"),
        pytest.param(segments((5, HOUR_AHEAD - 1)), rules(1000), None, id="as far as is common"),
        pytest.param(segments((5, OLD), (5, HOUR_AHEAD)), rules(1000), HOUR_AHEAD, id="the second"),
        pytest.param(segments((5, YOUNG), (5, HOUR_AHEAD)), rules(1000), None, id="not yet"),
        pytest.param(segments((5, HOUR_AHEAD)), rules(-1, 0), None, id="it went by size"),
        pytest.param(segments((5, HOUR_AHEAD)), rules(-1, 99), None, id="no limit of time"),
        pytest.param(segments((5, HOUR_AHEAD)), rules(1, deletes=False), None, id="compact"),
    ],
)
def test_what_a_timestamp_of_the_future_holds_is_said(
    facts: list[SegmentFacts], given: RetentionRules, future_ms: int | None
) -> None:
    """The plan names the timestamp that keeps the oldest segment beyond what anybody meant."""
    assert plan(facts, given).future_ms == future_ms


def test_the_wall_clock_says_what_the_future_is() -> None:
    """While the clock guard holds retention back, what is appended now is none of the future."""
    facts = segments((5, HOUR_AHEAD))
    assert plan(facts, rules(1000), now_ms=NOW_MS, wall_ms=HOUR_AHEAD).future_ms is None


@pytest.mark.parametrize(
    ("segment_ms", "retention_ms", "deletes", "expected"),
    [
        (7 * DAY_MS, 7 * DAY_MS, True, 21 * HOUR_MS),
        (7 * DAY_MS, HOUR_MS, True, HOUR_MS // 8),
        (7 * DAY_MS, 1, True, MINUTE_MS),
        (7 * DAY_MS, 0, True, MINUTE_MS),
        (1000, 1, True, 1000),
        (HOUR_MS, 7 * DAY_MS, True, HOUR_MS),
        (7 * DAY_MS, -1, True, 7 * DAY_MS),
        (7 * DAY_MS, HOUR_MS, False, 7 * DAY_MS),
    ],
)
def test_segments_last_no_longer_than_an_eighth_of_the_retention(
    segment_ms: int, retention_ms: int, deletes: bool, expected: int
) -> None:
    """A segment's oldest record waits for its newest: at most an eighth of retention.ms, or one
    look of retention."""
    found = roll_after_ms(
        segment_ms=segment_ms, retention_ms=retention_ms, deletes=deletes, floor_ms=MINUTE_MS
    )
    assert found == expected


@pytest.mark.parametrize("timestamp_ms", [-1, NOW_MS, NOW_MS + DAY_MS])
def test_a_sealed_segment_without_a_byte_holds_nobody(timestamp_ms: int) -> None:
    """Compaction leaves one at the log's begin; what lies behind it goes when it is due."""
    hole = SegmentFacts(0, 10, 0, timestamp_ms, False)
    old = SegmentFacts(10, 20, 100, NOW_MS - 2000, False)
    young = SegmentFacts(20, 30, 100, NOW_MS, False)
    found = plan([hole, old, young], rules(1000))
    assert [verdict.action for verdict in found.verdicts] == ["delete", "delete", "keep"]
    assert found.new_log_start_offset == 20
    kept = plan([hole, old], rules())
    assert kept.delete_count == 0


def test_ten_thousand_segments_are_decided_in_fifty_milliseconds() -> None:
    """The decision costs next to nothing, whether all goes or all stays."""
    facts = segments(*[(1000, number) for number in range(10_000)])
    for retention_ms, count in ((0, 10_000), (10 * NOW_MS, 0)):
        given = rules(retention_ms, 10**9)
        assert plan(facts, given).delete_count == count
        best_s = least_cpu_s(partial(plan, facts, given))
        print(f"10,000 segments, {count} go: {best_s * 1000:.1f} ms of CPU")
        assert best_s < 0.050
