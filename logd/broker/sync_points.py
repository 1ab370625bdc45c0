"""Writes to the sync journal what a turn's syncs have reached: one write for all logs.

It happens on the loop, right behind the answers. In the syncing threads it cost each sync a system
call and two changes of the interpreter's owner, a fifth of a durable append that comes alone. The
loop must not be blocked by it: a half of the journal that is full is copied and synced by a thread,
and so is every write after one that took long, until one is fast again (as the logs' own writes).

A point that is not written yet is not lost by the end of the process alone in any way that matters:
the next start finds the log as the kernel has it. It is written within the turn all the same, or
behind the one write that runs.
"""

from __future__ import annotations

from typing import Final

import trio

from logd.broker.services import PartitionServices
from logd.storage.sync_journal import SyncPoint

SLOW_WRITE_S: Final = 0.005
"""A write slower than this met write-back."""


class SyncPointWriter:
    """The loop's side of the sync journal."""

    def __init__(self, services: PartitionServices) -> None:
        self._services = services
        self._pending: list[SyncPoint] = []
        self._running = False
        self._slow = False
        self._idle = trio.Event()

    def write(self, points: list[SyncPoint]) -> None:
        """Record the points: now, or behind the write that runs in a thread."""
        self._pending += points
        if self._running or not self._pending:
            return
        points, self._pending = self._pending, []
        if self._slow or self._services.journal.free_slots < len(points):
            self._write_in_thread(points)
            return
        try:
            self._slow = self._record(points) > SLOW_WRITE_S
        except OSError as error:
            self._failed(error)

    def _record(self, points: list[SyncPoint]) -> float:
        """Return how long it took."""
        monotonic = self._services.clock.monotonic
        started = monotonic()
        self._services.journal.record_all(points)
        return monotonic() - started

    def _write_in_thread(self, points: list[SyncPoint]) -> None:
        self._running = True
        self._services.offload.submit("write", lambda: self._record(points), self._written)

    def _written(self, seconds: object, error: BaseException | None) -> None:
        self._running = False
        if error is not None:
            self._failed(error)
        else:
            assert isinstance(seconds, float)
            self._slow = seconds > SLOW_WRITE_S
        self._idle.set()
        self.write([])

    def _failed(self, error: BaseException) -> None:
        # The syncs themselves succeeded. Recovery will start from an older point, no more.
        self._services.events.error("sync journal not written", reason=str(error))

    async def wait_idle(self) -> None:
        """Return when all points that were given are recorded, or were tried."""
        while self._running:
            self._idle = trio.Event()
            await self._idle.wait()
