"""policy.roll: where a segment ends."""

from __future__ import annotations

from typing import Any

import pytest

from logd.policy.roll import NEVER_MS, RollPoint, must_roll, roll_due, roll_point
from logd.units import INT32_MAX

POINT = RollPoint(last_offset=1099, size_bytes=5000, at_ms=10_000)


def test_bounds_come_from_base_and_settings() -> None:
    """A segment covers base .. base + segment.offsets - 1, segment.bytes, and segment.ms."""
    point = roll_point(
        base_offset=1000,
        first_append_ms=400,
        segment_offsets=100,
        segment_bytes=5000,
        segment_ms=9600,
    )
    assert point == POINT


def test_bounds_fit_an_index_entry() -> None:
    """However large the settings, relative offset and position fit 32 bits; unknown age is none."""
    point = roll_point(
        base_offset=7,
        first_append_ms=None,
        segment_offsets=2**40,
        segment_bytes=2**40,
        segment_ms=1,
    )
    assert point == RollPoint(7 + INT32_MAX - 1, INT32_MAX, NEVER_MS)


@pytest.mark.parametrize(
    ("change", "rolls"),
    [
        ({}, False),
        ({"last_offset": 1099, "end_position": 5000, "now_ms": 9999}, False),
        ({"last_offset": 1100}, True),
        ({"end_position": 5001}, True),
        ({"now_ms": 10_000}, True),
        ({"index_full": True}, True),
        ({"is_empty": True, "last_offset": 9999, "end_position": 9999, "now_ms": 99_999}, False),
    ],
)
def test_each_bound_rolls_and_an_empty_segment_never(change: dict[str, int], rolls: bool) -> None:
    """Any one bound is enough; a batch larger than all bounds still goes into an empty segment."""
    facts: dict[str, Any] = {
        "is_empty": False,
        "index_full": False,
        "last_offset": 1050,
        "end_position": 100,
        "now_ms": 500,
    }
    assert must_roll(POINT, **(facts | change)) is rolls


def test_an_idle_segment_rolls_by_age_alone() -> None:
    """roll_due looks at the time, and never rolls an empty segment."""
    assert roll_due(POINT, is_empty=False, now_ms=10_000)
    assert not roll_due(POINT, is_empty=False, now_ms=9999)
    assert not roll_due(POINT, is_empty=True, now_ms=10_000)
