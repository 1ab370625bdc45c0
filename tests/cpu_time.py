"""CPU seconds that can be compared with a bound on a machine that others use as well.

CPU time is no constant there: a core that is shared, or slowed down, needs up to twice as much for
the same. What disturbs costs time and never saves any, so the least of several runs is nearest to
the truth; and a loop of known cost, run in between, says how slow the machine is just now. The
garbage of other tests is collected at another time.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Final

LOOPS: Final = 100_000
# What the loop takes where the bounds were set. A machine that is faster gets no narrower bounds.
LOOP_S: Final = 0.009


def least_cpu_s(run: Callable[[], object], *, times: int = 5) -> float:
    """Return the least CPU seconds of several runs, as they would be where the bounds were set."""
    assert times > 0
    gc.collect()
    gc.disable()
    try:
        return min(_cpu_s(run) / max(1.0, _cpu_s(_loop) / LOOP_S) for _ in range(times))
    finally:
        gc.enable()


def _cpu_s(run: Callable[[], object]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def _loop() -> int:
    """Do what Python code does: calls, small integers, a dict."""
    counts: dict[int, int] = {}
    for number in range(LOOPS):
        counts[number & 255] = counts.get(number & 255, 0) + 1
    return len(counts)
