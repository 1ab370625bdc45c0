"""The writes of one log: one at a time, and who waits for them is told in order.

What is staged in a turn of the serving loop is one write at its end; it runs on the loop, and in a
thread where it rolls or where the disk was slow a moment ago. What is staged meanwhile waits, with
its slices of the receive buffers, and is written when the thread is done.

Invariants:

* No two writes of a log overlap, and none runs while somebody has the log to himself (`exclusive`).
* Who waits is handed on once, after the write of its batch, in the order of offsets, or is refused.
* A write that failed is not tried again. Where the disk was full its offsets are free again; what
  poisons the log ends the partition.

Source: DESIGN sections 4 and 8; docs/adr/0006 for one write a turn.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio

from logd.broker.group_commit import Waiting
from logd.broker.services import PartitionServices
from logd.errors import LogFailedError, StorageError
from logd.storage.log import Log
from logd.storage.staged import StagedWrite, WriteResult

SLOW_WRITE_S: Final = 0.005
"""A write slower than this met write-back; the next go through a thread until one is fast again."""


class LogWriter:
    """The one writer of a log. On the loop; only the write itself may be in a thread.

    Attributes:
        waiting: whose batches are staged, in the order of their offsets.
        is_touched: the turn ends with `flush`.

    Args:
        on_written: called after each write with those whose batches are in the file now.
        on_behind: called instead where what is staged has to wait for a later turn.
        on_failed: called when a write, or something under `exclusive`, poisoned the log.
    """

    def __init__(
        self,
        log: Log,
        services: PartitionServices,
        *,
        on_written: Callable[[list[Waiting]], None],
        on_behind: Callable[[], None],
        on_failed: Callable[[LogFailedError], None],
    ) -> None:
        self._log = log
        self._services = services
        self._turn = services.turn
        self._on_written = on_written
        self._on_behind = on_behind
        self._on_failed = on_failed
        self.waiting: list[Waiting] = []
        self.is_touched = False
        self._is_writing = False
        self._is_slow = False
        self._is_held = False
        # Set when a thread's write, or a time of exclusiveness, is over; then there is a new one.
        self._freed = trio.Event()

    @property
    def is_busy(self) -> bool:
        """Whether what is staged waits: a thread writes, or somebody has the log to himself."""
        return self._is_writing or self._is_held

    def touch(self) -> None:
        """Flush at the end of this turn."""
        if not self.is_touched:
            self.is_touched = True
            self._turn.touched.append(self)

    def flush(self) -> None:
        """Write what is staged; in a thread where it rolls or where the disk is slow."""
        self.is_touched = False
        if self.is_busy:
            self._turn.buffers_pinned = True  # What is staged keeps its slices for a later turn.
            self._on_behind()
            return
        staged = self._log.take_staged()
        waiting, self.waiting = self.waiting, []
        if staged is None:
            self._on_written(waiting)
            return
        if staged.rolls or self._is_slow:
            self._write_in_thread(staged, waiting)
            return
        monotonic = self._services.clock.monotonic
        started = monotonic()
        try:
            result = self._log.write(staged)
        except Exception as error:  # As in a thread: whatever it is, it costs this log alone.
            self._failed(staged, waiting, _as_storage_error(error))
            return
        if monotonic() - started > SLOW_WRITE_S:
            self._is_slow = True
        self._log.finish_write(staged, result)
        self._on_written(waiting)

    def _write_in_thread(self, staged: StagedWrite, waiting: list[Waiting]) -> None:
        self._is_writing = True
        self._turn.buffers_pinned = True
        monotonic = self._services.clock.monotonic

        def job() -> tuple[WriteResult, float]:
            started = monotonic()
            return self._log.write(staged), monotonic() - started

        def deliver(outcome: object, error: BaseException | None) -> None:
            self._is_writing = False
            self._free()
            if error is not None:
                self._failed(staged, waiting, _as_storage_error(error))
            else:
                assert isinstance(outcome, tuple)
                result, seconds = outcome
                self._is_slow = seconds > SLOW_WRITE_S and not staged.rolls
                self._log.finish_write(staged, result)
                self._on_written(waiting)
            self.touch()  # What was staged meanwhile is written now.

        self._services.offload.submit("write", job, deliver)

    def _failed(self, staged: StagedWrite, waiting: list[Waiting], error: StorageError) -> None:
        """What did not reach its file is gone, its offsets are free again; who waits is told so.

        A write over several segments may have filled the first of them: those batches stay.
        """
        self._log.abandon(staged)
        written_offset = self._log.written_offset
        behind, self.waiting = self.waiting, []
        entries = (*waiting, *behind)
        if isinstance(error, LogFailedError):
            self._log.fail(error)  # It may not know yet, if nobody foresaw the error.
            self._on_failed(error)
        else:
            self._services.disk.found_full(str(error))
            self._on_written([entry for entry in entries if entry[1] <= written_offset])
            entries = tuple(entry for entry in entries if entry[1] > written_offset)
        for waiter, _, _, _ in entries:
            waiter.refused(error)

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """No write runs and none begins inside; what is staged meanwhile is written behind it."""
        while self._is_held:
            await self._freed.wait()
        self._is_held = True
        try:
            while self._is_writing:
                await self._freed.wait()
            yield
        except LogFailedError as error:
            self._on_failed(error)
            raise
        finally:
            self._is_held = False
            self._free()
            self.touch()
            self._services.end_turn()

    def _free(self) -> None:
        """Have who waits look again: the write may go on, or another may have been first."""
        freed, self._freed = self._freed, trio.Event()
        freed.set()

    async def finish(self) -> None:
        """Write what is staged; return when nothing writes, or has the log to itself, any more."""
        self.flush()
        # Also for who has the log to itself: it renames files, by names that are soon others'.
        while self.is_busy:
            await self._freed.wait()
            self.flush()


def _as_storage_error(error: BaseException) -> StorageError:
    """What nobody foresaw in a write fails that log, and only that log."""
    if isinstance(error, StorageError):
        return error
    return LogFailedError(f"unexpected error while writing: {error!r}")
