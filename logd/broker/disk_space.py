"""Disk-full as a state: below the reserve appends are refused, and service resumes by itself.

The reserve (disk.reserve.bytes) keeps room for what frees space: retention, deletes, their state
files. A write that the disk itself refused has the same effect until a check finds space above the
reserve.
"""

from __future__ import annotations

from collections.abc import Callable

from logd.units import format_byte_count

CHECK_INTERVAL_S = 1.0
"""How old the knowledge of the free space may be."""


class DiskSpace:
    """Whether appends are allowed, as of the last check. Written and read by the loop alone."""

    def __init__(self, *, reserve_bytes: int) -> None:
        assert reserve_bytes >= 0
        self.reserve_bytes = reserve_bytes
        self.free_bytes = 0
        self.is_full = False
        self.reason = ""
        self.on_change: Callable[[bool], None] = _ignore

    def checked(self, free_bytes: int) -> None:
        """Take note of the free space just measured."""
        self.free_bytes = free_bytes
        full = free_bytes < self.reserve_bytes
        if full:
            self.reason = (
                f"{format_byte_count(free_bytes)} free is less than the reserve of "
                f"{format_byte_count(self.reserve_bytes)} (disk.reserve.bytes)"
            )
        self._set(full)

    def found_full(self, reason: str) -> None:
        """A write was refused for want of space: refuse appends until the next check."""
        self.reason = reason
        self._set(True)

    def _set(self, full: bool) -> None:
        if full != self.is_full:
            self.is_full = full
            self.on_change(full)


def _ignore(_full: bool) -> None:
    """Nobody asked to hear of changes."""
