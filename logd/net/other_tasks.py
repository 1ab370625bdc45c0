"""How long the other tasks have nothing to do, asked with each turn of the serving loop.

Trio tells how many tasks are runnable and when the next deadline is, but building that answer takes
4 us, a twentieth of an append that comes alone. While nobody is scheduled and no other task runs,
the answer stays the same, so it is asked for again only after somebody was scheduled, or at the
deadline.

A deadline that is set from within a turn, without scheduling anybody, may go unnoticed: its task
then waits until the serving loop goes back to Trio, which bounds both its lingering and its turns.

Source: trio.abc.Instrument; measured with one request in flight.
"""

from __future__ import annotations

import trio


class OtherTasks(trio.abc.Instrument):
    """An instrument of Trio's loop; added while the serving loop runs."""

    def __init__(self) -> None:
        self._is_stale = True
        self._deadline_at = 0.0

    def task_scheduled(self, _task: trio.lowlevel.Task, /) -> None:
        """Called by Trio: somebody may be runnable, and may set deadlines when it runs."""
        self._is_stale = True

    def idle_s(self, now: float) -> float:
        """Return for how long nobody else wants to run: 0 if somebody does; it may be infinite.

        Args:
            now: on the monotonic clock.
        """
        if self._is_stale or now >= self._deadline_at:
            statistics = trio.lowlevel.current_statistics()
            self._is_stale = statistics.tasks_runnable > 0
            self._deadline_at = now + statistics.seconds_to_next_deadline
            if self._is_stale:
                return 0.0
        return max(0.0, self._deadline_at - now)
