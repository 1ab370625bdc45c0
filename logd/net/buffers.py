"""Receive buffers: one arena for whole frames, and a small pool for frames that come in pieces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

ARENA_BYTES: Final = 1024 * 1024
ARENA_LOW_BYTES: Final = 64 * 1024
"""With less than this left, the turn's writes are done and the arena begins anew."""

POOLED_BYTES_MAX: Final = 8 * 1024 * 1024
"""What unused buffers may hold; more is given back to the system."""


class Arena:
    """Where frames are received that arrive whole. Filled from the front, emptied once a turn."""

    __slots__ = ("_cursor", "_view", "buffer")

    def __init__(self) -> None:
        self.buffer = bytearray(ARENA_BYTES)
        self._view = memoryview(self.buffer)
        self._cursor = 0

    @property
    def is_low(self) -> bool:
        """Whether the arena should be emptied before receiving into it."""
        return ARENA_BYTES - self._cursor < ARENA_LOW_BYTES

    def free_view(self) -> memoryview:
        """Return what is free."""
        return self._view[self._cursor :]

    def take(self, count: int) -> int:
        """Note that `count` bytes were received; return their position."""
        start = self._cursor
        self._cursor += count
        assert self._cursor <= ARENA_BYTES
        return start

    def restart(self, *, pinned: bool) -> None:
        """Begin anew: at the front, or in fresh memory if slices of the old one live on."""
        if self._cursor and pinned:
            self.buffer = bytearray(ARENA_BYTES)
            self._view = memoryview(self.buffer)
        self._cursor = 0


class BufferPool:
    """Buffers for frames that are not whole yet, and the bound on all of them together."""

    def __init__(self, *, queued_bytes_max: int) -> None:
        self._queued_bytes_max = queued_bytes_max
        self._free: list[bytearray] = []
        self._free_bytes = 0
        self._used: list[bytearray] = []
        # Insertion order is age: the oldest incomplete frame may always grow, so one makes
        # progress.
        self._taken: dict[int, int] = {}
        self.taken_bytes = 0
        self._waiting: list[Callable[[], None]] = []

    @property
    def is_exhausted(self) -> bool:
        """Whether incomplete frames hold as much as they may."""
        return self.taken_bytes >= self._queued_bytes_max

    def may_grow_anyway(self, buffer: bytearray) -> bool:
        """Whether the buffer belongs to the oldest incomplete frame."""
        return next(iter(self._taken), None) == id(buffer)

    def when_free(self, resume: Callable[[], None]) -> None:
        """Call `resume` once, when a buffer has come back."""
        self._waiting.append(resume)

    def take(self, capacity: int, wanted: int) -> bytearray:
        """Return a buffer of at least `capacity` bytes; larger, up to `wanted`, if one lies
        there.
        """
        assert capacity > 0
        for index, buffer in enumerate(self._free):
            if capacity <= len(buffer) <= 4 * max(capacity, wanted):
                del self._free[index]
                self._free_bytes -= len(buffer)
                break
        else:
            buffer = bytearray(capacity)
        self._taken[id(buffer)] = len(buffer)
        self.taken_bytes += len(buffer)
        return buffer

    def give(self, buffer: bytearray) -> None:
        """Take a buffer back that nobody looks at any more."""
        self._release(buffer)
        self._keep(buffer)

    def give_after_turn(self, buffer: bytearray) -> None:
        """Take a buffer back whose frame is being handled in this turn."""
        self._release(buffer)
        self._used.append(buffer)

    def reuse(self, *, pinned: bool) -> None:
        """The turn is over: its buffers are free, unless slices of them live on."""
        if self._used:
            used, self._used = self._used, []
            if not pinned:
                for buffer in used:
                    self._keep(buffer)
        if self._waiting and not self.is_exhausted:
            waiting, self._waiting = self._waiting, []
            for resume in waiting:
                resume()

    def _release(self, buffer: bytearray) -> None:
        self.taken_bytes -= self._taken.pop(id(buffer))

    def _keep(self, buffer: bytearray) -> None:
        if self._free_bytes + len(buffer) <= POOLED_BYTES_MAX:
            self._free.insert(0, buffer)
            self._free_bytes += len(buffer)
