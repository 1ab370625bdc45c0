"""Latencies counted in buckets: percentiles that are right to 0.8 %, and never too small."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.histogram import BITS, Histogram, bucket_of, greatest_in, latency_fields

VALUES = st.integers(min_value=0, max_value=10**14)


@settings(deadline=None, max_examples=200)
@given(VALUES)
def test_a_bucket_is_narrow_and_holds_its_value(value_ns) -> None:
    """Each value lies in its bucket, whose greatest value exceeds it by less than 1/128."""
    bucket = bucket_of(value_ns)
    greatest = greatest_in(bucket)
    assert value_ns <= greatest <= value_ns + (value_ns >> BITS)
    assert bucket_of(greatest) == bucket
    assert bucket_of(greatest + 1) == bucket + 1


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.floats(0, 100), st.integers(1, 50)), min_size=1, max_size=40),
       st.sampled_from([0.0, 50.0, 99.0, 99.9, 100.0]))  # fmt: skip
def test_a_percentile_is_the_exact_one_or_just_above(latencies, percent) -> None:
    """The percentile is that of all values sorted, to the width of a bucket."""
    histogram = Histogram.of(latencies)
    values = sorted(value for value, count in latencies for _ in range(count))
    exact_us = values[max(0, -(-int(percent * len(values)) // 100) - 1)] * 1e6
    found = histogram.percentile_us(percent)
    assert found is not None
    assert exact_us - 0.001 <= found <= max(values) * 1e6 + 0.001
    assert found <= exact_us * (1 + 2**-BITS) + 0.001


def test_a_latency_that_many_shared_counts_as_many_times() -> None:
    """Percentiles are of requests, not of entries."""
    assert Histogram.of([(9, 10), (1, 10), (2, 80)]).percentile_us(50) == pytest.approx(2e6, 0.01)


def test_nothing_has_no_percentile() -> None:
    """Without a request there is no latency, and nothing is made up."""
    assert Histogram().percentile_us(50) is None
    assert Histogram().summary() == {}
    assert latency_fields([])["p99_us"] is None


def test_merged_is_as_if_counted_together() -> None:
    """Two windows' histograms, one of them through JSON, add up to that of all values."""
    left, right = [(0.001, 5), (0.2, 1)], [(0.003, 7)]
    merged = Histogram.of(left)
    merged.merge(Histogram.from_json(json.loads(json.dumps(Histogram.of(right).to_json()))))
    assert merged.to_json() == Histogram.of(left + right).to_json()


@pytest.mark.parametrize(("count", "last"), [(20, "50"), (1000, "99"), (10_000, "99.9")])
def test_only_percentiles_with_values_beyond_them_are_told(count, last) -> None:
    """The 99.9th percentile of a thousand values would be their maximum: it is left out."""
    summary = Histogram.of([(index / 1000, 1) for index in range(1, count + 1)]).summary()
    assert list(summary)[-2:] == [last, "100"]
    assert summary["100"] == pytest.approx(count * 1000)
