"""Who carries out rounds of compaction, as the broker sees it: what it takes and what it tells."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from logd.errors import LogdError
from logd.storage.clean_order import CleanOrder, CleanResult, Progress

if TYPE_CHECKING:
    from logd.cleaner_process import FailureKind

OnProgress = Callable[[Progress], None]


class CleaningFailedError(LogdError):
    """A round ended without a result.

    Attributes:
        kind: see `FailureKind`.
    """

    def __init__(self, kind: FailureKind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class Cleaner(Protocol):
    """Carries out rounds, off the event loop."""

    async def clean(
        self,
        order: CleanOrder,
        *,
        memory_bytes: int,
        is_asked_for: bool,
        on_progress: OnProgress,
    ) -> CleanResult:
        """Carry out one round; cancelled, it returns when nothing is written any more.

        What was written has to be removed by the caller, unless there is a result.

        Args:
            memory_bytes: what it may take.
            is_asked_for: somebody waits for it, so it does not stand behind all other work.

        Raises:
            CleaningFailedError: for a reason that was told.
            WorkerError: the process ended without telling one.
        """
        ...
