"""Latencies counted by size, so that the rare slow ones are still told apart after millions.

A value in nanoseconds falls into a bucket whose width is at most 1/128 of it: below 128 ns every
value has its own, above that each doubling has 128 of equal width (the idea of Gil Tene's
HdrHistogram). So a percentile is right to 0.8 %, however many values there are, two histograms are
added bucket by bucket, and one is a short list of pairs in JSON.

A percentile is the greatest value that its bucket stands for, and never more than the greatest
value seen: it errs towards slow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final, Self

BITS: Final = 7
_SUB: Final = 1 << BITS
NS_PER_S: Final = 1_000_000_000
# What is shown of a distribution, as far as there are enough values for it.
PERCENTS: Final = (50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.95, 99.99, 99.999)


def bucket_of(value_ns: int) -> int:
    """Return the index of the bucket that a value falls into."""
    assert value_ns >= 0
    shift = max(0, value_ns.bit_length() - BITS - 1)
    return (shift << BITS) + (value_ns >> shift)


def greatest_in(bucket: int) -> int:
    """Return the greatest value that falls into a bucket, in nanoseconds."""
    assert bucket >= 0
    shift = max(0, (bucket >> BITS) - 1)
    return (((bucket - (shift << BITS)) + 1) << shift) - 1


class Histogram:
    """Counts by bucket, and the greatest value."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self.max_ns = 0

    @classmethod
    def of(cls, latencies_s: Iterable[tuple[float, int]]) -> Self:
        """Return the histogram of (seconds, count) pairs."""
        made = cls()
        for value_s, count in latencies_s:
            made.add(value_s, count)
        return made

    def add(self, value_s: float, count: int = 1) -> None:
        """Count a latency in seconds; one below zero (two clocks) counts as none."""
        value_ns = max(0, round(value_s * NS_PER_S))
        self.counts[bucket_of(value_ns)] += count
        self.max_ns = max(self.max_ns, value_ns)

    def merge(self, other: Histogram) -> None:
        """Add the counts of another."""
        self.counts.update(other.counts)
        self.max_ns = max(self.max_ns, other.max_ns)

    @property
    def total(self) -> int:
        """How many values were counted."""
        return sum(self.counts.values())

    def percentile_us(self, percent: float) -> float | None:
        """Return what `percent` of the values do not exceed, in microseconds; None without any."""
        assert 0 <= percent <= 100
        total = self.total
        reached = 0
        for bucket in sorted(self.counts):
            reached += self.counts[bucket]
            if reached * 100 >= percent * total:
                return min(greatest_in(bucket), self.max_ns) / 1000
        return None

    def summary(self) -> dict[str, float]:
        """Return percentile -> microseconds, as far as ten values lie beyond it, and the maximum.

        The 99.9th percentile of 500 values would be the maximum under another name.
        """
        total = self.total
        if not total:
            return {}
        wanted = [p for p in PERCENTS if p == 50 or round(total * (100 - p) / 100, 6) >= 10]
        found = {f"{p:g}": self.percentile_us(p) for p in wanted}
        return {
            **{p: round(value, 1) for p, value in found.items() if value is not None},
            "100": round(self.max_ns / 1000, 1),
        }

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` takes."""
        return {"max_ns": self.max_ns, "counts": sorted(self.counts.items())}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """Return the histogram that `to_json` wrote."""
        made = cls()
        made.max_ns = int(found["max_ns"])
        made.counts.update({int(bucket): int(count) for bucket, count in found["counts"]})
        return made


def latency_fields(latencies_s: Iterable[tuple[float, int]]) -> dict[str, Any]:
    """Return what a job's answer says of its latencies, given as (seconds, count)."""
    histogram = Histogram.of(latencies_s)
    return {
        "p50_us": histogram.percentile_us(50),
        "p99_us": histogram.percentile_us(99),
        "histogram": histogram.to_json(),
    }
