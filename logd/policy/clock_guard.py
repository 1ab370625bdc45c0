"""What time it is for retention: the wall clock, as far as another clock bears it out.

The wall clock may be set, by hand or by a time server gone wrong, and one that jumps a year ahead
makes everything look old. The boot-time clock cannot be set. So retention's time is

    min(wall clock now, wall clock at start + boot time since then + AHEAD_MAX_MS)

A clock that jumps ahead deletes nothing early; one that falls back keeps everything longer. A clock
that was wrong already when the server started cannot be told from one that is right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from logd.units import MINUTE_MS, SECOND_MS, format_duration_ms

AHEAD_MAX_MS: Final = 5 * MINUTE_MS
"""What a time server may correct in one run without retention minding."""


@dataclass(frozen=True, slots=True)
class RetentionTime:
    """The time that retention goes by.

    Attributes:
        now_ms: milliseconds since 1970.
        ahead_ms: how far the wall clock has run ahead of where it should be; 0 if it has not.
        stopped: the wall clock is too far ahead: what is due only by it stays.
    """

    now_ms: int
    ahead_ms: int
    stopped: bool

    @property
    def reason(self) -> str | None:
        """Why retention goes no further, in words; None if it does."""
        if not self.stopped:
            return None
        ahead = format_duration_ms(self.ahead_ms - self.ahead_ms % SECOND_MS)
        return (
            f"the wall clock is {ahead} ahead of the time since the server started; "
            f"what is due only by it stays"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockGuard:
    """Both clocks as they were when the server started."""

    wall_ms: int
    boot_ms: int

    def time(self, *, wall_ms: int, boot_ms: int) -> RetentionTime:
        """Return what time it is for retention, from both clocks now."""
        assert boot_ms >= self.boot_ms, "the boot-time clock never goes back"
        expected_ms = self.wall_ms + (boot_ms - self.boot_ms)
        limit_ms = expected_ms + AHEAD_MAX_MS
        return RetentionTime(
            now_ms=min(wall_ms, limit_ms),
            ahead_ms=max(0, wall_ms - expected_ms),
            stopped=wall_ms > limit_ms,
        )
