"""message.timestamp.before/after.max.ms by the header's base and max timestamp."""

from __future__ import annotations

import pytest

from logd.errors import InvalidTimestampError
from logd.record.batch import LOG_APPEND_TIME_BIT, BatchHeader, read_header
from logd.record.build import encode_batch
from logd.record.timestamps import check_timestamp_type, check_timestamps, latest_timestamp_ms
from logd.units import DAY_MS, HOUR_MS, INT64_MAX

NOW_MS = 1_700_000_000_000
LOW_MS, HIGH_MS = NOW_MS - DAY_MS, NOW_MS + HOUR_MS


def header_of(base_ms: int, max_ms: int, *, attributes: int = 0) -> BatchHeader:
    header = read_header(encode_batch([(None, b"", [], 0)], attributes=attributes))
    return header._replace(base_timestamp=base_ms, max_timestamp=max_ms)


def check(header: BatchHeader, *, before_max_ms: int = DAY_MS) -> None:
    check_timestamps(header, now_ms=NOW_MS, before_max_ms=before_max_ms, after_max_ms=HOUR_MS)


@pytest.mark.parametrize(
    ("base_ms", "max_ms"),
    [(NOW_MS, NOW_MS), (LOW_MS, HIGH_MS), (-1, -1), (-1, HIGH_MS), (LOW_MS, -1)],
)
def test_timestamps_within_bounds_pass(base_ms: int, max_ms: int) -> None:
    """The bounds themselves are allowed, and so is having no timestamp."""
    check(header_of(base_ms, max_ms))


@pytest.mark.parametrize(
    ("base_ms", "max_ms"),
    [
        (LOW_MS - 1, NOW_MS),
        (NOW_MS, HIGH_MS + 1),
        (HIGH_MS + 1, -1),
        (-1, LOW_MS - 1),
        (-2, NOW_MS),
        (NOW_MS, INT64_MAX),
        (-INT64_MAX - 1, NOW_MS),
    ],
)
def test_timestamps_out_of_bounds_are_refused(base_ms: int, max_ms: int) -> None:
    """One millisecond outside is outside, for the base and for the max timestamp alike."""
    with pytest.raises(InvalidTimestampError, match=r"out of range: it must lie in \["):
        check(header_of(base_ms, max_ms))


def test_an_unlimited_past_is_the_default_and_passes() -> None:
    """Kafka's default for before.max.ms is the largest number: nothing is too old."""
    check(header_of(0, NOW_MS), before_max_ms=INT64_MAX)


def test_the_log_append_time_bit_is_the_servers() -> None:
    """A producer that sets the bit is refused for both types of topic; others pass."""
    header = header_of(NOW_MS, NOW_MS, attributes=LOG_APPEND_TIME_BIT)
    with pytest.raises(InvalidTimestampError, match="LogAppendTime"):
        check(header)
    with pytest.raises(InvalidTimestampError, match="LogAppendTime"):
        check_timestamp_type(header)
    check_timestamp_type(header_of(0, 0))


@pytest.mark.parametrize(
    ("base_ms", "max_ms", "latest_ms"), [(5, 9, 9), (5, -1, 5), (-1, 9, 9), (-1, -1, -1)]
)
def test_the_latest_timestamp_of_a_header(base_ms: int, max_ms: int, latest_ms: int) -> None:
    """A producer that leaves the max timestamp unset still has its base counted."""
    assert latest_timestamp_ms(header_of(base_ms, max_ms)) == latest_ms
