"""The gate to threads: blocking work leaves the event loop through here, or is done at once.

A library that starts its own threads decides too much; so whoever uses it hands in a gate. The two
here are for programs that have none, and for simulation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

import trio

T = TypeVar("T")


class Offload(Protocol):
    """What the drivers need of the gate."""

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Return what `function(*args)` returns, or raise what it raises.

        Cancelling waits for it: what its caller gave up on would still happen, later.
        """
        ...


class ThreadOffload:
    """Trio's threads, a few at a time."""

    def __init__(self, threads: int = 4) -> None:
        assert threads >= 1
        self._limiter = trio.CapacityLimiter(threads)

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """See `Offload`."""
        return await trio.to_thread.run_sync(partial(function, *args), limiter=self._limiter)


class InlineOffload:
    """Does the work at once, on the loop, after a checkpoint: for simulation and for tests."""

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """See `Offload`."""
        await trio.lowlevel.checkpoint()
        return function(*args)
