"""Is it faster than before, or is that the machine? The rule by which a change is called real.

Two runs have several pairs of windows each. A change is real when both hold:

* no pair of one run reaches any pair of the other: their ranges do not touch. If nothing had
  changed, all orders of the pairs would be equally likely, and n and m of them would come apart in
  2 of (n+m over n) cases: with five and five in 0.8 % of rows, with three and three in 10 %. Where
  that is more than `CHANCE_MAX`, there are too few pairs, and nothing is said.
* the medians differ by `CHANGE_MIN` at least.

What is compared are the ratios to the ceiling, which was measured in the same seconds, so that a
slower day of the machine is in both; values are only where a row has no ceiling, and there a
slower day is taken for a change. The rule knows nothing of what differs between two runs and within
none, as where the disk put the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Final, Literal

from bench.measurement import Measurement, less_is_better

CHANCE_MAX: Final = 0.05
CHANGE_MIN: Final = 0.05

Basis = Literal["ratio", "value"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A row now and in an earlier run: by ratios when both have one, else by values.

    Attributes:
        change: above 0 is better, whichever way the unit counts.
        is_real: None when there are too few windows to tell.
        chance: how often pairs come apart like this without a reason; None when they did not.
    """

    name: str
    unit: str
    before: float
    now: float
    change: float
    basis: Basis
    is_real: bool | None
    chance: float | None = None

    @property
    def verdict(self) -> str:
        """One word: better, worse, noise, or unknown."""
        if self.is_real is None:
            return "unknown"
        if not self.is_real:
            return "noise"
        return "better" if self.change > 0 else "worse"


def compare(now: Sequence[Measurement], before: Sequence[Measurement]) -> list[Comparison]:
    """Return how each row changed against the row of the same name in an earlier run."""
    earlier = {row.name: row for row in before}
    comparisons = []
    for row in now:
        old = earlier.get(row.name)
        if old is None or old.unit != row.unit:
            continue
        if row.ratio and old.ratio:
            change = row.ratio / old.ratio - 1
            comparisons.append(_judged(row, old, old.ratio, row.ratio, change, "ratio"))
        elif row.value > 0 and old.value > 0:
            factor = old.value / row.value if less_is_better(row.unit) else row.value / old.value
            comparisons.append(_judged(row, old, old.value, row.value, factor - 1, "value"))
    return comparisons


def _judged(
    row: Measurement, old: Measurement, before: float, now: float, change: float, basis: Basis
) -> Comparison:
    real, chance = judge(_samples(old, basis), _samples(row, basis), change=change)
    return Comparison(row.name, row.unit, before, now, change, basis, real, chance)


def _samples(row: Measurement, basis: Basis) -> list[float]:
    return list(row.conditions.get("ratios" if basis == "ratio" else "values", []))


def judge(
    before: Sequence[float], now: Sequence[float], *, change: float
) -> tuple[bool | None, float | None]:
    """Return whether a change of the medians is real, and how often chance would do the same."""
    if not before or not now:
        return None, None
    chance = 2 / comb(len(before) + len(now), len(now))
    if chance > CHANCE_MAX:
        return None, None
    apart = min(now) > max(before) or max(now) < min(before)
    if not apart:
        return False, None
    return abs(change) >= CHANGE_MIN, chance
