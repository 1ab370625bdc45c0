"""Disk-full as a state: below the reserve appends are refused, and service resumes by itself.

The reserve (disk.reserve.bytes) keeps room for what frees space: retention, deletes, their state
files. Half of it is open to committed offsets, so that consumers do not fall back while space is
being made. A write that the disk itself refused has the effect of both until the next check; then
one is tried again, for only a write tells whether there is space (of a quota, nothing else does).
That is no reason to call the disk well: it is full until there is room, and a check long no write
was refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from logd.units import MIB, format_byte_count

CHECK_INTERVAL_S = 1.0
"""How old the knowledge of the free space may be."""

ROOM_BYTES: Final = 4 * MIB
"""With less, a disk that refused a write still counts as full: a write of some loads, a new
segment and its indexes may need that much at once."""


class DiskSpace:
    """Whether appends are allowed, as of the last check. Written and read by the loop alone.

    Attributes:
        is_full: less than the reserve is free, or the disk refused a write and has no room since.
        refuses: clients' appends are refused. Not always while the disk is full: now and then it is
            asked.
        is_exhausted: less than half of the reserve is free: offset commits are refused too.
        reason: in words.
    """

    def __init__(self, *, reserve_bytes: int) -> None:
        assert reserve_bytes >= 0
        self.reserve_bytes = reserve_bytes
        self.free_bytes = 0
        self.is_full = False
        self.refuses = False
        self.is_exhausted = False
        self.reason = ""
        self.on_change: Callable[[bool], None] = _ignore
        self._was_refused = False
        self._refused_since_check = False

    def checked(self, free_bytes: int) -> None:
        """Take note of the free space just measured."""
        self.free_bytes = free_bytes
        has_room = free_bytes >= ROOM_BYTES and not self._refused_since_check
        self._was_refused = self._was_refused and not has_room
        self._refused_since_check = False
        self.refuses = free_bytes < self.reserve_bytes
        self.is_exhausted = free_bytes < self.reserve_bytes // 2
        if self.refuses:
            self.reason = (
                f"{format_byte_count(free_bytes)} free is less than the reserve of "
                f"{format_byte_count(self.reserve_bytes)} (disk.reserve.bytes)"
            )
        self._set(self.refuses or self._was_refused)

    def found_full(self, reason: str) -> None:
        """A write was refused for want of space: refuse appends until the next check."""
        self.reason = reason
        self._was_refused = self._refused_since_check = True
        self.refuses = self.is_exhausted = True
        self._set(True)

    def _set(self, full: bool) -> None:
        if full != self.is_full:
            self.is_full = full
            self.on_change(full)


def _ignore(_full: bool) -> None:
    """Nobody asked to hear of changes."""
