"""The clocks, handed down as values; the only module that asks the system what time it is.

Three of them, never mixed:

* wall: milliseconds since 1970, stamped into records and compared with retention. It may jump.
* monotonic: seconds, for time-outs and durations. It stops while the machine sleeps.
* boot: milliseconds since boot, sleep included. Retention holds the wall clock against it (DESIGN,
  Forgetting), because a wall clock that jumped a year ahead must not empty the log.

Tests hand a subclass with times of their own.
"""

from __future__ import annotations

import time


class Clock:
    """The system's clocks."""

    def now_ms(self) -> int:
        """Return the wall clock: milliseconds since 1970-01-01 UTC."""
        return time.time_ns() // 1_000_000

    # Seconds that never go back; only differences mean anything. The system's function itself,
    # because the serving loop asks several times a turn.
    monotonic = staticmethod(time.monotonic)

    # Blocks; for processes and threads that have nothing else to do, never for the loop.
    sleep = staticmethod(time.sleep)

    def boot_ms(self) -> int:
        """Return milliseconds since the machine started, time asleep included."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
