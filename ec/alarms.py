"""Calls at given times: one task for all of them.

Nearly every read ends long before its hedge delay, and a task that waits for the delay and is then
cancelled costs more than all else that a read does on the loop. Here a read that ends in time costs
an entry in a heap.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from math import inf

import trio


class Alarm:
    """A call that is to be made."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Have it not made; harmless afterwards."""
        self.call = None


class Alarms:
    """See the module. For the event loop."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Alarm]] = []
        self._number = count()
        self._sleep: trio.CancelScope | None = None

    @property
    def is_running(self) -> bool:
        """Whether calls are made now."""
        return self._sleep is not None

    def at(self, time_s: float, call: Callable[[], None]) -> Alarm:
        """Have something called at a time of trio's clock; it must not wait, nor raise."""
        assert self._sleep is not None, "run is running"
        alarm = Alarm(call)
        heapq.heappush(self._heap, (time_s, next(self._number), alarm))
        self._sleep.deadline = min(self._sleep.deadline, time_s)
        return alarm

    async def run(self) -> None:
        """Make the calls, until cancelled."""
        assert self._sleep is None, "it runs once"
        try:
            while True:
                with trio.CancelScope(deadline=self._call_due()) as self._sleep:
                    await trio.sleep_forever()
        finally:
            self._sleep = None
            self._heap.clear()

    def _call_due(self) -> float:
        """Make the calls that are due; return when the next one is."""
        now_s = trio.current_time()
        while self._heap:
            time_s, _, alarm = self._heap[0]
            if alarm.call is not None and time_s > now_s:
                return time_s
            heapq.heappop(self._heap)
            if alarm.call is not None:
                alarm.call()
        return inf
