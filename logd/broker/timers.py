"""Time-outs, in one heap with one task.

A fetch that waits has a time-out, and nearly all of them are answered before it; a cancel scope
each would cost more than the answer. So a time-out is an entry in a heap, and the one whose fetch
was answered meanwhile fires into the void: the callback looks whether it is still wanted.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Final

import trio

GRANULARITY_S: Final = 0.01
"""Time-outs fire up to this late, those of one such span together: a wake-up of the task costs more
than the callbacks."""


class Timers:
    """Calls functions later, on the loop.

    Args:
        after: called once after each round of callbacks, to send what they completed.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = itertools.count()
        self._changed = trio.Event()
        self.after: Callable[[], None] = _nothing

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Call `callback` once, not before `delay_s` seconds from now."""
        assert delay_s >= 0
        deadline = trio.current_time() + delay_s
        if not self._heap or deadline < self._heap[0][0] - GRANULARITY_S / 2:
            self._changed.set()
        heapq.heappush(self._heap, (deadline, next(self._sequence), callback))

    async def run(self) -> None:
        """Fire what is due, for ever. One task of the server."""
        while True:
            self._changed = trio.Event()
            if not self._heap:
                await self._changed.wait()
                continue
            # Half a span later: what is due soon after the first is fired with it.
            with trio.move_on_at(self._heap[0][0] + GRANULARITY_S / 2):
                await self._changed.wait()
                continue
            self._fire()

    def _fire(self) -> None:
        now = trio.current_time()
        while self._heap and self._heap[0][0] <= now:
            _, _, callback = heapq.heappop(self._heap)
            callback()
        self.after()


def _nothing() -> None:
    """Until the serving loop says what to do after a round."""
