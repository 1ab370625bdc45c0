"""The verdict on a disk: which words follow from which figures."""

from __future__ import annotations

import pytest

from bench.device_truth import SyncPoint, conclude, enough, judge_syncs


@pytest.mark.parametrize(
    ("kind", "cache", "rate", "flushes", "judgement"),
    [
        ("hard disk", "write back", 110, 2.0, "plausible"),
        ("hard disk", "write back", 5_000, 2.0, "suspicious"),
        ("solid state", "write back", 4_000, 1.0, "plausible"),
        ("solid state", "write through", 40_000, 0.0, "plausible"),
        ("solid state", "write back", 90_000, 1.0, "suspicious"),
        ("solid state", "write back", 4_000, 0.01, "suspicious"),
        ("virtual disk", "write back", 4_000, None, "plausible"),
        ("memory", None, 500_000, None, "not durable"),
        ("unknown", None, 500_000, None, "unknown"),
    ],
)
def test_a_rate_beyond_the_device_is_suspicious(kind, cache, rate, flushes, judgement) -> None:
    """A device that is faster than its kind can be, or is not told to flush, is not believed."""
    found, reason = judge_syncs(kind, cache, syncs_per_s=rate, flushes_per_sync=flushes)
    assert found == judgement
    assert f"{rate:,}" in reason or kind == "memory"


def curve(*rates):
    return [
        SyncPoint(4**index, 1024 * 4**index, rate, 1e6 / rate, 5e6 / rate)
        for index, rate in enumerate(rates)
    ]


def test_the_batch_is_the_smallest_that_is_enough() -> None:
    """Not the fastest point, but the first that gives four fifths of it."""
    assert enough(curve(1000, 4000, 9000, 10_000)).appends == 16
    assert enough(curve(1000, 4000, 16_000, 64_000)).appends == 64


def test_the_words_say_what_to_expect() -> None:
    """Appends a second alone and shared, at which batch, and whether fdatasync is believed."""
    truth = conclude("plausible", "as it should be", curve(4000, 9000, 9500), record_bytes=1024)
    alone, shared, honest = truth.words
    assert "4,000 durable appends a second" in alone
    assert "9,000 a second in batches of 4 KiB (4 appends a sync" in shared
    assert "larger ones gain little" in shared
    assert honest == "fdatasync is plausible: as it should be."
    assert (truth.appends_per_s, truth.batch_bytes) == (9000, 4096)


def test_a_curve_that_still_rises_says_so() -> None:
    """Where the largest batch is the best, it is not said that larger ones gain nothing."""
    truth = conclude("unknown", "x", curve(1000, 4000, 16_000), record_bytes=1024)
    assert "no larger batch was tried" in truth.words[1]
