"""A life of segments that is cut short: the process ends before a step, and it is told where.

A step is whatever the rig counts: either side of a transaction's commit, a call to a node, a change
of a name in the log's directory.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tests.unit.life_rig import ColdRig, Crash

R = TypeVar("R", bound=ColdRig)


async def live_until(rig: R, stop_at: int | None, live: Callable[[R], Awaitable[None]]) -> R:
    """Live until the process ends before a step, counted from now on; None: to the end."""
    rig.steps.clear()
    rig.stop_at = stop_at
    try:
        await live(rig)
    except BaseExceptionGroup as group:
        others = group.split(Crash)[1]
        if others is not None:
            raise others from None
    except Crash:
        pass  # It came where no nursery was around it.
    return rig


@contextmanager
def told_where(rig: ColdRig, stop_at: int) -> Iterator[None]:
    """Whatever is found wrong inside, it is told before which step the process ended."""
    try:
        yield
    except BaseException:  # Whatever it was, it must be known where.
        print(f"stopped before step {stop_at}, behind {rig.steps[-3:]}")
        raise
    finally:
        rig.catalog.close()
