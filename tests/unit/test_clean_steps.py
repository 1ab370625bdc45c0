"""A round that is committed in steps: what each says, and what may happen in between."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from logd.errors import SegmentsChangedError
from logd.policy.compaction import GROUP_SEGMENTS_MAX
from logd.storage.clean_order import CleanOrder, CleanResult
from logd.storage.clean_steps import steps_of
from logd.storage.cleaned_segment import unlink_cleaned
from logd.storage.cleaner import JOINED_MAX
from logd.storage.log import Log
from logd.storage.segment import Segment, SegmentList
from tests.unit.compaction_rig import (
    COMPACTED,
    RULES,
    append_pairs,
    compact,
    order_round,
    rows_in,
    run_round,
)
from tests.unit.log_builder import make_log, recover_log

TINY = replace(COMPACTED, segment_bytes=1)
"""A segment for each batch."""

APART = replace(RULES, segment_bytes=1)
"""No two of them are merged."""


def tiny(directory: str, *keys: bytes) -> Log:
    """Return a log with one segment a record, all sealed."""
    log = make_log(directory, settings=TINY)
    for key in keys:
        append_pairs(log, (key, b"v" * 20), (b"own %d" % log.end_offset, b""))
    log.roll_now()
    return log


def round_of(log: Log, *, attempt: int = 1, apart: bool = True) -> tuple[CleanOrder, CleanResult]:
    """Do a round, and commit nothing."""
    order = order_round(log, attempt=attempt, rules=APART if apart else RULES)
    assert order is not None
    return order, run_round(order, log)


def test_steps_are_small_and_only_the_last_one_says_how_far(directory: str) -> None:
    """Each takes neighbouring groups, up to so many segments; together they are the round."""
    log = tiny(directory, *[b"same"] * 9)
    order, result = round_of(log)
    steps = list(steps_of(order, result, segments_max=3, known_horizon_ms=50))
    assert [len(step.groups) for _, step in steps] == [3, 3, 2]  # The last segment stays.
    assert tuple(group for _, step in steps for group in step.groups) == result.groups
    assert [step.first_uncleaned_offset for _, step in steps] == [0, 0, order.end_offset]
    assert [step.next_horizon_ms for _, step in steps] == [50, 50, None]
    for step_order, step in steps:
        old = [base for group in step.groups for base in group.old_bases]
        assert [segment.base_offset for segment in step_order.segments] == old


def test_a_round_that_replaces_nothing_is_one_step(directory: str) -> None:
    """It notes how far the log is compacted."""
    log = tiny(directory, b"a", b"b")
    order, result = round_of(log)
    assert list(steps_of(order, result, segments_max=1, known_horizon_ms=None)) == [(order, result)]


def test_between_two_steps_every_key_is_there(directory: str) -> None:
    """A crash behind any step: the last record of each key, and the next round ends the work."""
    log = tiny(directory, *[b"same", b"other"] * 5)
    newest = {row.key: row for row in rows_in(log)}
    order, result = round_of(log)
    steps = list(steps_of(order, result, segments_max=2, known_horizon_ms=None))
    assert len(steps) > 2
    for number, (step_order, step) in enumerate(steps):
        for path in log.replace_segments(step_order, step).unlink_paths:
            os.unlink(path)
        rows = rows_in(log)
        assert {row.key: row for row in rows} == newest
        assert sum(info.size_bytes for info in log.segments()) == log.size_bytes
        if number == 1:
            break
    recovered, report = recover_log(directory, settings=TINY)
    assert not report.damaged
    assert rows_in(recovered) == rows
    assert not [name for name in os.listdir(log.directory) if name.endswith(".cleaned")]
    assert compact(recovered, attempt=2, rules=APART, rolls=False) is not None
    assert {row.key: row for row in rows_in(recovered)} == newest
    assert len(rows_in(recovered)) == len(newest)


def test_records_deleted_between_two_steps(directory: str) -> None:
    """What was deleted stays away; steps behind it go on, a step of what is gone is refused."""
    log = tiny(directory, *[b"same"] * 8)
    order, result = round_of(log)
    steps = list(steps_of(order, result, segments_max=2, known_horizon_ms=None))
    log.replace_segments(*steps[0])
    log.delete_before(6)  # Into the second step.
    with pytest.raises(SegmentsChangedError):
        log.replace_segments(*steps[1])
    before = rows_in(log)
    log.replace_segments(*steps[2])
    unlink_cleaned(log.files, log.directory, order.attempt)
    after = rows_in(log)
    assert min(row.offset for row in after) >= 6
    assert {row.key: row for row in after} == {row.key: row for row in before}
    assert len(after) < len(before)


def test_the_log_never_begins_later_than_it_did(directory: str) -> None:
    """What lay before a step was deleted, and the step leaves nothing in its first segment."""
    log = make_log(directory, settings=TINY)
    for keys in ((b"a", b"only"), (b"a", b"b"), (b"a", b"b"), (b"a", b"b")):
        append_pairs(log, *((key, b"") for key in keys))
    log.roll_now()
    order, result = round_of(log)
    steps = list(steps_of(order, result, segments_max=1, known_horizon_ms=None))
    assert [len(group.new) for group in result.groups] == [1, 0, 0]
    log.replace_segments(*steps[0])
    log.delete_before(2)
    rows = rows_in(log)
    with pytest.raises(SegmentsChangedError, match="begins at offset 2 now"):
        log.replace_segments(*steps[1])
    assert rows_in(log) == rows
    assert "replacement" not in os.listdir(log.directory)


def test_no_group_holds_appends_up_for_long(directory: str) -> None:
    """Many small segments are merged some at a time, also those of which nothing is left."""
    count = 3 * GROUP_SEGMENTS_MAX
    log = make_log(directory, settings=TINY)
    for _ in range(count):
        append_pairs(log, (b"same", b""))
    log.roll_now()
    before = len(log.segment_list.items)
    _, result = round_of(log, apart=False)
    assert sum(len(group.old_bases) for group in result.groups) == count
    assert max(len(group.old_bases) for group in result.groups) <= JOINED_MAX
    unlink_cleaned(log.files, log.directory, 1)
    compact(log, attempt=2, rolls=False)
    assert before > len(log.segment_list.items)
    assert log.segment_list.bases[0] == 0
    assert [row.offset for row in rows_in(log)] == [count - 1]


def test_segment_lists_change_in_places(directory: str) -> None:
    """Counted from an offset, cut at the begin, spliced in the middle: as if made anew."""
    items = tiny(directory, *[b"k"] * 6).segment_list.items
    whole = SegmentList(items)
    for offset in range(items[-1].base_offset + 3):
        expected = sum(item.end_bound <= offset for item in items)
        assert whole.count_below(offset) == expected
    between = [Segment(directory, items[2].base_offset), Segment(directory, items[3].base_offset)]
    for first, end, some in ((2, 5, between), (2, 3, between[:1]), (1, 5, []), (0, 2, [])):
        spliced = whole.spliced(first, end, some)
        again = SegmentList((*items[:first], *some, *items[end:]))
        assert (spliced.items, spliced.bases) == (again.items, again.bases)
    assert whole.without_first(2).bases == SegmentList(items[2:]).bases
