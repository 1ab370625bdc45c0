"""What the group commands work out by themselves: places, plans, rows, what may be committed."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.committer import Committer
from cli.errors import Refused
from cli.group import assignment_text, ranges
from cli.group_facts import Committed, Listed, by_topic, offset_rows, places_of
from cli.group_reset import Move, plan
from cli.kafka import Watermarks
from cli.places import check_in_range, clamp, parse_where
from cli.reading import Progress

# --- Places -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("earliest", "earliest"),
        ("latest", "latest"),
        ("0", 0),
        ("20260131", 20260131),
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00:00+02:00", datetime(2026, 1, 31, 10, tzinfo=UTC)),
    ],
)
def test_a_place_is_read(text: str, where: Any) -> None:
    """Words, offsets and times are told apart; digits alone are an offset."""
    assert parse_where(text, "--to") == where


@pytest.mark.parametrize("text", ["", "-1", "last", "1.5", "٣", "2026-13-01", str(2**63)])
def test_what_is_no_place_names_the_option(text: str) -> None:
    """Anything else is a usage error that says which option it was."""
    with pytest.raises(click.UsageError, match="--to"):
        parse_where(text, "--to")


def test_a_time_without_zone_is_local() -> None:
    """It becomes a time with a zone, so that it can be compared with timestamps."""
    where = parse_where("2026-01-31", "--from")
    assert isinstance(where, datetime)
    assert where.tzinfo is not None


def test_an_offset_must_be_held_or_be_the_end() -> None:
    """The first offset and the end are places to begin; one beyond either is not."""
    marks = {0: Watermarks(10, 20)}
    for offset in (10, 20):
        check_in_range("t", marks, {0: offset})
    for offset in (9, 21):
        with pytest.raises(Refused, match="from 10 to before 20"):
            check_in_range("t", marks, {0: offset})


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 200))
def test_clamping_stays_in_range_and_moves_no_further_than_needed(
    low: int, count: int, offset: int
) -> None:
    """A clamped offset is in range, and the same where it was in range before."""
    mark = Watermarks(low, low + count)
    found = clamp(mark, offset)
    assert low <= found <= low + count
    assert found == offset or not low <= offset <= low + count


# --- Reset ----------------------------------------------------------------------------------------


def test_a_plan_has_a_move_for_each_partition_in_order() -> None:
    """A move knows what was committed, and whether the user gets what was asked for."""
    marks = {2: Watermarks(0, 50), 0: Watermarks(10, 20)}
    moves = plan(
        "t", marks, {0: 30, 2: 30}, {("t", 2): Committed(7, ""), ("u", 0): Committed(1, "")}
    )
    assert moves == [Move(0, None, 30, 20), Move(2, 7, 30, 30)]
    assert [move.is_clamped for move in moves] == [True, False]


@pytest.mark.parametrize(
    ("state", "members", "is_active"),
    [("Empty", 0, False), ("Stable", 1, True), ("PreparingRebalance", 0, True), ("Empty", 1, True)],
)
def test_a_group_is_active_unless_it_is_empty(state: str, members: int, is_active: bool) -> None:
    """Only an empty group without members may be changed by others."""
    listed = Listed("g", state, "consumer", "", (None,) * members)
    assert listed.is_active is is_active
    assert listed.row()["members"] == members


# --- Describe -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([3], "3"), ([0, 1, 2, 5, 7, 8], "0-2,5,7-8")]
)
def test_runs_of_partitions_are_drawn_together(numbers: list[int], text: str) -> None:
    """0,1,2 is 0-2."""
    assert ranges(numbers) == text


def test_partitions_are_gathered_by_topic() -> None:
    """Topics and partitions are in order, and can be taken apart again."""
    places = {("b", 1), ("a", 5), ("b", 0)}
    gathered = by_topic(places)
    assert gathered == [
        {"topic": "a", "partitions": [5]},
        {"topic": "b", "partitions": [0, 1]},
    ]
    assert places_of([{"assignment": gathered}]) == places
    assert assignment_text(gathered) == "a 5 b 0-1"


def test_rows_of_offsets_know_what_is_not_known() -> None:
    """Lag is never negative, and unknown without an end; a time is that of this very offset."""
    committed = {
        ("t", 1): Committed(5, "m"),
        ("t", 0): Committed(9, ""),
        ("gone", 0): Committed(1, ""),
    }
    ends = {("t", 0): 7, ("t", 1): 8, ("gone", 0): None}
    rows = offset_rows(committed, ends, {("t", 1, 5): 1234, ("t", 0, 8): 99})
    assert [(r["topic"], r["partition"], r["lag"], r["committed_at_ms"]) for r in rows] == [
        ("gone", 0, None, None),
        ("t", 0, 0, None),
        ("t", 1, 3, 1234),
    ]


# --- What was printed, and what may be committed -----------------------------------------------


def test_a_reader_stops_at_the_end_that_it_saw() -> None:
    """Records from the end on are not printed, and what was printed is the position."""
    progress = Progress({0: 3}, {0: 5}, None)
    for offset in (3, 4):
        assert progress.wants(0, offset)
        progress.printed(0, offset)
    assert not progress.wants(0, 5)
    progress.ended(0, 9)
    assert progress.finished()
    assert progress.next_offset == {0: 5}


def test_a_gap_at_the_end_is_passed() -> None:
    """Offsets that no record has do not keep a reader waiting, and count as read."""
    progress = Progress({0: 0}, {0: 5}, None)
    progress.ended(0, 5)
    assert progress.finished()
    progress = Progress({0: 0}, {0: 5}, None)
    assert not progress.wants(0, 7)
    assert progress.next_offset == {0: 5}


def test_a_count_stops_at_the_record() -> None:
    """After the last record that is wanted nothing moves the position any more."""
    progress = Progress({0: 0}, None, 2)
    for offset in (0, 1):
        assert progress.wants(0, offset)
        progress.printed(0, offset)
    assert not progress.wants(0, 2)
    progress.ended(0, 10)
    assert progress.finished()
    assert progress.next_offset == {0: 2}


def test_what_is_not_ours_or_came_before_is_not_printed() -> None:
    """After a rebalance old records may still arrive: of other partitions, or a second time."""
    progress = Progress({1: 5}, None, None)
    assert not progress.wants(0, 9)
    assert not progress.wants(1, 4)
    progress.ended(0, 9)
    assert progress.wants(1, 5)
    assert progress.next_offset == {1: 5}


def _place(partition: int, offset: int, error: object = None) -> Any:
    return SimpleNamespace(partition=partition, offset=offset, error=error)


def test_only_what_is_new_is_pending() -> None:
    """Where we begin is not committed again; what was printed is, until it is confirmed."""
    committer = Committer()
    committer.hold({0: 5, 1: 7})
    assert committer.pending() == {}
    committer.flushed[0] = 9
    assert committer.pending() == {0: 9}
    committer.confirm(None, [_place(0, 8)])  # An earlier commit's answer.
    assert committer.pending() == {0: 9}
    committer.confirm(None, [_place(0, 9)])
    assert committer.pending() == {}


@pytest.mark.parametrize("whole", [True, False])
def test_a_refused_commit_stays_pending(whole: bool) -> None:
    """Whether all of it or one partition was refused: it is known, until tried again."""
    committer = Committer()
    committer.hold({0: 5})
    committer.flushed[0] = 9
    error: Any = object()
    committer.confirm(error if whole else None, [_place(0, 9, None if whole else error)])
    assert committer.error is error
    assert committer.pending() == {0: 9}
    committer.forgive()
    assert committer.error is None


def test_partitions_that_went_are_not_pending() -> None:
    """What another member has now is not committed by us."""
    committer = Committer()
    committer.hold({0: 5})
    committer.flushed[0] = 9
    committer.drop()
    assert committer.pending() == {}
