"""Disk-full as a state: below the reserve appends are refused, and service resumes by itself.

The reserve (disk.reserve.bytes) keeps room for what frees space: retention, deletes, their state
files. Half of it is open to committed offsets, so that consumers do not fall back while space is
being made. A write that the disk itself refused has the effect of both until the next check.
"""

from __future__ import annotations

from collections.abc import Callable

from logd.units import format_byte_count

CHECK_INTERVAL_S = 1.0
"""How old the knowledge of the free space may be."""


class DiskSpace:
    """Whether appends are allowed, as of the last check. Written and read by the loop alone.

    Attributes:
        is_full: less than the reserve is free: clients' appends are refused.
        is_exhausted: less than half of it is: offset commits are refused too.
        reason: in words.
    """

    def __init__(self, *, reserve_bytes: int) -> None:
        assert reserve_bytes >= 0
        self.reserve_bytes = reserve_bytes
        self.free_bytes = 0
        self.is_full = False
        self.is_exhausted = False
        self.reason = ""
        self.on_change: Callable[[bool], None] = _ignore

    def checked(self, free_bytes: int) -> None:
        """Take note of the free space just measured."""
        self.free_bytes = free_bytes
        full = free_bytes < self.reserve_bytes
        self.is_exhausted = free_bytes < self.reserve_bytes // 2
        if full:
            self.reason = (
                f"{format_byte_count(free_bytes)} free is less than the reserve of "
                f"{format_byte_count(self.reserve_bytes)} (disk.reserve.bytes)"
            )
        self._set(full)

    def found_full(self, reason: str) -> None:
        """A write was refused for want of space: refuse appends until the next check."""
        self.reason = reason
        self.is_exhausted = True
        self._set(True)

    def _set(self, full: bool) -> None:
        if full != self.is_full:
            self.is_full = full
            self.on_change(full)


def _ignore(_full: bool) -> None:
    """Nobody asked to hear of changes."""
