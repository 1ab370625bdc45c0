"""The rule that tells a change from noise."""

from __future__ import annotations

import random

import pytest

import bench
from bench.comparison import CHANGE_MIN, judge
from bench.measurement import Measurement

FIVE = [1.00, 1.01, 1.02, 1.03, 1.04]


def row(ratios, *, name="a"):
    """A row with a ratio, as `summarize` leaves it."""
    middle = sorted(ratios)[len(ratios) // 2]
    return Measurement(name, middle, "MB/s", 1.0, "bare", middle, conditions={"ratios": ratios})


def verdict(before, now) -> str:
    (comparison,) = bench.compare([row(now)], [row(before)])
    return comparison.verdict


def test_what_moves_within_the_spread_is_noise() -> None:
    """A median that moved by a tenth is noise while one pair of a run reaches the other run."""
    assert verdict(FIVE, [1.04, 1.10, 1.11, 1.12, 1.13]) == "noise"


def test_what_comes_apart_is_real_in_both_directions() -> None:
    """Runs whose pairs do not touch differ, for better or for worse."""
    more = [value * 1.2 for value in FIVE]
    assert verdict(FIVE, more) == "better"
    assert verdict(more, FIVE) == "worse"


def test_a_small_change_is_noise_even_when_it_is_apart() -> None:
    """Below the least change that is called one, the disk's place for a file may do it."""
    assert verdict(FIVE, [value + 0.05 for value in FIVE]) == "noise"
    assert CHANGE_MIN > 0.05 / 1.02


@pytest.mark.parametrize("count", [1, 3])
def test_too_few_pairs_tell_nothing(count) -> None:
    """Three pairs against three come apart by chance in a tenth of rows: nothing is said then."""
    assert verdict(FIVE[:count], [2.0] * count) == "unknown"


def test_the_chance_is_what_the_rule_says() -> None:
    """Of rows in which nothing changed, 0.8 % come apart with five pairs each (seed 8)."""
    numbers = random.Random(8)
    trials = 20_000
    apart = 0
    for _ in range(trials):
        before = [numbers.random() for _ in range(5)]
        now = [numbers.random() for _ in range(5)]
        real, chance = judge(before, now, change=1.0)
        apart += bool(real)
        assert chance is None or chance == pytest.approx(2 / 252)
    assert apart / trials == pytest.approx(2 / 252, abs=0.002)


def test_rows_without_a_ceiling_are_judged_by_their_values() -> None:
    """Where there is no ratio, the windows' values decide, and less is better where it is."""
    before = Measurement("a", 10, "ms", conditions={"values": [9, 10, 10, 11, 11]})
    now = Measurement("a", 5, "ms", conditions={"values": [5, 5, 5, 6, 6]})
    (comparison,) = bench.compare([now], [before])
    assert (comparison.basis, comparison.verdict) == ("value", "better")
