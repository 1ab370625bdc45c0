"""Lets the order in which Trio's tasks run follow from a seed, so that a simulation repeats by it.

Trio turns each batch of tasks that can run by chance, on purpose: nobody is to rely on an order.
The chance is a `random.Random` of its own, and a batch is put in order before it is shuffled where
a flag is set; both are private to it, and what Trio's plugin for Hypothesis uses
(`trio._core._run`, 0.35). With them a run repeats as far as nothing else comes from outside: no
threads, no clock but the mock one, no set of texts or bytes that anything walks through unsorted.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import trio
from trio.testing import MockClock

_scheduler = cast("Any", trio)._core._run


@contextmanager
def order_by(seed: int) -> Iterator[None]:
    """Have the order of tasks follow from a seed; what Trio did before it does afterwards."""
    chance, flag = _scheduler._r, _scheduler._ALLOW_DETERMINISTIC_SCHEDULING
    _scheduler._r, _scheduler._ALLOW_DETERMINISTIC_SCHEDULING = random.Random(seed), True
    try:
        yield
    finally:
        _scheduler._r, _scheduler._ALLOW_DETERMINISTIC_SCHEDULING = chance, flag


def run_in_order(work: Callable[[], Awaitable[None]], *, seed: int) -> None:
    """Run something in a loop of its own, on a clock that jumps from event to event."""
    with order_by(seed):
        trio.run(work, clock=MockClock(autojump_threshold=0))
