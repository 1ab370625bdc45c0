"""What time it is for retention: the wall clock, as far as another clock bears it out.

The wall clock may be set, by hand or by a time server gone wrong, and one that jumps a year ahead
makes everything look old. The boot-time clock cannot be set. So retention's time is

    min(wall clock now, wall clock at start + boot time since then + AHEAD_MAX_MS)

A clock that jumps ahead deletes nothing early; one that falls back keeps everything longer.

The wall clock at start is held against the last run, which noted retention's time now and then:

    same boot of the machine    the boot-time clock says what passed since
    another boot                nobody knows; up to DOWNTIME_MAX_MS is believed at once

A clock that was further ahead at start is believed after HOLD_MS, in which `status`, a metric and
the log say so: after a long downtime records stay a little longer, and a clock that came up wrong
has time to be set right. One that was behind is taken to be where the last run left it, so that
setting it right is no jump. Without a note, in a new data directory, any clock is right.

Invariants: the time never passes the wall clock; while that stays wrong, it goes no further than
what both clocks bear out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from logd.units import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, format_duration_ms

AHEAD_MAX_MS: Final = 5 * MINUTE_MS
"""What a time server may correct in one run without retention minding."""

DOWNTIME_MAX_MS: Final = HOUR_MS
"""How long the machine may have been off before its clock is doubted."""

HOLD_MS: Final = DAY_MS
"""How long a clock that was ahead at start must have stood before it is believed."""


@dataclass(frozen=True, slots=True)
class RetentionTime:
    """The time that retention goes by.

    Attributes:
        now_ms: milliseconds since 1970.
        borne_out_ms: the same without the allowance of AHEAD_MAX_MS: what a `ClockNote` says.
        ahead_ms: how far the wall clock has run ahead of where it should be; 0 if it has not.
        stopped: the wall clock is too far ahead: what is due only by it stays.
        believed_in_ms: after which time the wall clock will count all the same; None: it will not.
    """

    now_ms: int
    borne_out_ms: int
    ahead_ms: int
    stopped: bool
    believed_in_ms: int | None = None

    @property
    def reason(self) -> str | None:
        """Why retention goes no further, in words; None if it does."""
        if not self.stopped:
            return None
        ahead = _readable(self.ahead_ms)
        if self.believed_in_ms is None:
            return (
                f"the wall clock is {ahead} ahead of the time since the server started; "
                "what is due only by it stays"
            )
        return (
            f"the wall clock is {ahead} ahead of where the server's last run left it; "
            f"what is due only by it stays for another {_readable(self.believed_in_ms)}"
        )


def _readable(duration_ms: int) -> str:
    return format_duration_ms(duration_ms - duration_ms % SECOND_MS)


@dataclass(frozen=True, slots=True)
class ClockNote:
    """What a run leaves for the next one.

    Attributes:
        time_ms: what both clocks bore out when the note was taken.
        boot_ms: the boot-time clock then.
        boot_id: of the kernel whose clock that was.
    """

    time_ms: int
    boot_ms: int
    boot_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockGuard:
    """Both clocks as they were when the server started; made by `start_guard`.

    Attributes:
        wall_ms: the wall clock; or later, where it was behind the last run.
        held_ms: what counts for it during HOLD_MS, where it was ahead of the last run; else None.
    """

    wall_ms: int
    boot_ms: int
    held_ms: int | None = None

    def time(self, *, wall_ms: int, boot_ms: int) -> RetentionTime:
        """Return what time it is for retention, from both clocks now."""
        assert boot_ms >= self.boot_ms, "the boot-time clock never goes back"
        passed_ms = boot_ms - self.boot_ms
        start_ms, believed_in_ms = self.wall_ms, None
        if self.held_ms is not None and passed_ms < HOLD_MS:
            start_ms, believed_in_ms = self.held_ms, HOLD_MS - passed_ms
        expected_ms = start_ms + passed_ms
        limit_ms = expected_ms + AHEAD_MAX_MS
        return RetentionTime(
            now_ms=min(wall_ms, limit_ms),
            borne_out_ms=min(wall_ms, expected_ms),
            ahead_ms=max(0, wall_ms - expected_ms),
            stopped=wall_ms > limit_ms,
            believed_in_ms=believed_in_ms,
        )


def start_guard(
    *, wall_ms: int, boot_ms: int, boot_id: str, last: ClockNote | None = None
) -> ClockGuard:
    """Return the guard of a run that begins now.

    Args:
        last: the note of the last run; None if there is none.
    """
    if last is None:
        return ClockGuard(wall_ms=wall_ms, boot_ms=boot_ms)
    is_same_boot = last.boot_id == boot_id and boot_ms >= last.boot_ms
    earliest_ms = last.time_ms + (boot_ms - last.boot_ms if is_same_boot else 0)
    latest_ms = earliest_ms + (0 if is_same_boot else DOWNTIME_MAX_MS)
    return ClockGuard(
        wall_ms=max(wall_ms, earliest_ms),
        boot_ms=boot_ms,
        held_ms=latest_ms if wall_ms > latest_ms + AHEAD_MAX_MS else None,
    )
