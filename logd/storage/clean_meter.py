"""What a round of compaction has read and written: its budgets, and how far it is.

Every byte that the round reads or writes is told here, before it is written: `pace` then waits as
long as the budget says, and a round that would leave less than its reserve free ends. Source bytes
that are done with are told apart from that; they make the progress that people see.
"""

from __future__ import annotations

from typing import Final

from logd.errors import DiskFullError
from logd.storage.clean_order import CleanOrder, PaceCall, Progress, ProgressCall
from logd.storage.files import Files
from logd.units import MIB

PROGRESS_BYTES: Final = MIB
SPACE_CHECK_BYTES: Final = 16 * MIB
"""Written between two looks at the free space."""


class RoundMeter:
    """Counts the bytes of a round, keeps its budgets, and tells how far it is.

    Attributes:
        read_bytes, written_bytes: so far; what is about to be written is in it.
    """

    def __init__(
        self, files: Files, order: CleanOrder, on_progress: ProgressCall, pace: PaceCall
    ) -> None:
        self.read_bytes = 0
        self.written_bytes = 0
        self._files = files
        self._order = order
        self._on_progress = on_progress
        self._pace = pace
        self._checked_bytes = 0
        self._phase = ("", 0)
        self._done_bytes = 0
        self._told_bytes = 0

    def begin(self, phase: str, all_bytes: int) -> None:
        """Begin a phase of so many bytes."""
        assert all_bytes >= 0
        self._phase = (phase, all_bytes)
        self._done_bytes = self._told_bytes = 0
        self._on_progress(Progress(phase, 0, all_bytes))

    def advance(self, size: int) -> None:
        """So many source bytes are done with."""
        assert size >= 0
        self._done_bytes += size
        if self._done_bytes - self._told_bytes >= PROGRESS_BYTES:
            self._told_bytes = self._done_bytes
            self._on_progress(Progress(self._phase[0], self._done_bytes, self._phase[1]))

    def read(self, size: int) -> None:
        """So many bytes were read."""
        assert size >= 0
        self.read_bytes += size
        self._pace(size)

    def write(self, size: int) -> None:
        """So many bytes are to be written; DiskFullError where that would break the reserve."""
        assert size > 0
        if self.written_bytes + size > self._checked_bytes:
            self._check_space(size)
        self.written_bytes += size
        self._pace(size)

    def _check_space(self, size: int) -> None:
        reserve_bytes = self._order.limits.reserve_bytes
        free_bytes = self._files.free_bytes(self._order.directory)
        if free_bytes - size < reserve_bytes:
            raise DiskFullError(
                f"{self._order.directory}: {free_bytes} bytes are free, compaction must leave "
                f"{reserve_bytes}"
            )
        assert free_bytes >= reserve_bytes
        room_bytes = min(SPACE_CHECK_BYTES, free_bytes - reserve_bytes)
        self._checked_bytes = self.written_bytes + room_bytes
