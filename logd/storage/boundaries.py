"""Where batches begin: the positions that readers are about to ask for.

A consumer that follows asks for the offset at which the last write, or its own last read, ended.
Those few boundaries are kept in memory, so that the common fetch needs neither index nor scan.

Concurrency: the event loop writes; threads may read. Two generations of a dict stand in for a ring:
when the younger one is full it becomes the older one, and what was in that is forgotten. No
iteration, so nothing can change under a reader's feet.
"""

from __future__ import annotations

from typing import Final

GENERATION_MAX: Final = 256


class Boundaries:
    """Offsets and the positions at which their batches begin, the most recent 256 to 512."""

    __slots__ = ("_old", "_young")

    def __init__(self) -> None:
        self._young: dict[int, int] = {}
        self._old: dict[int, int] = {}

    def get(self, offset: int) -> int | None:
        """Return the position of the batch that begins at `offset`, if it is remembered."""
        assert offset >= 0
        position = self._young.get(offset)
        return position if position is not None else self._old.get(offset)

    def put(self, offset: int, position: int) -> None:
        """Remember that the batch at `position` begins at `offset`, or would."""
        assert position >= 0
        young = self._young
        if len(young) >= GENERATION_MAX:
            self._old = young
            self._young = young = {}
        young[offset] = position
