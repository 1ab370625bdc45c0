"""Group commit: one sync of a log at a time, and everybody whose batch it covers is told together.

While one sync runs, what is appended meanwhile waits for the next. So a hundred producers share a
sync without knowing of each other, and a single one waits for no timer.

Invariants:

* A waiter is told only when a sync that began after its write returned (promise 1).
* A failed sync is never tried again: the kernel has dropped what it could not write (the log is
  poisoned
  by then, and the partition goes offline).
* Waiters are told in the order of their offsets. A copy of an older batch may stand behind a newer
  one; it waits a little longer than it must.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

import trio

from logd.broker.services import PartitionServices
from logd.errors import LogdError, LogFailedError, StorageError
from logd.storage.log import Log, SyncTicket


class AppendWaiter(Protocol):
    """Who is told how an append ended; exactly one of the two, exactly once."""

    append_time_ms: int

    def appended(self, base_offset: int) -> None:
        """The batch is in the log, as durable as its acks asked for."""
        ...

    def refused(self, error: LogdError) -> None:
        """The batch is not acknowledged."""
        ...


# A waiter, the offset after its batch, its base offset, and whether it waits for the sync.
Waiting = tuple[AppendWaiter, int, int, bool]


class GroupCommit:
    """The syncs of one log. On the loop; only the sync itself is in a thread.

    Args:
        on_synced: called after each sync, when the waiters it covered have been told.
        on_failed: called when a sync failed; the waiters are still waiting.
    """

    def __init__(
        self,
        log: Log,
        services: PartitionServices,
        *,
        on_synced: Callable[[], None],
        on_failed: Callable[[LogFailedError], None],
    ) -> None:
        self._log = log
        self._services = services
        self._on_synced = on_synced
        self._on_failed = on_failed
        self._running = False
        self._scheduled = False
        self._idle: trio.Event | None = None
        self.waiting: deque[Waiting] = deque()

    def start(self) -> None:
        """Sync what is written, unless a sync is running: then the next one follows it."""
        if self._running or self._log.failed is not None:
            return
        ticket = self._log.begin_sync()
        if ticket is None:
            self._tell_waiters()  # A roll may have synced what they wait for.
            return
        self._running = True
        waiting = len(self.waiting)

        def deliver(outcome: object, error: BaseException | None) -> None:
            self._running = False
            if self._idle is not None:
                self._idle.set()
            if error is not None:
                self._failed(error)
                return
            assert isinstance(outcome, float)
            metrics = self._services.metrics
            metrics.sync_seconds.observe(outcome)
            metrics.waiters_per_sync.observe(waiting)
            self._log.finish_sync(ticket)
            self._tell_waiters()
            self._on_synced()

        self._services.offload.submit("sync", lambda: self._sync(ticket), deliver)

    def _sync(self, ticket: SyncTicket) -> float:
        """Return how long the sync took. In a thread."""
        monotonic = self._services.clock.monotonic
        started = monotonic()
        self._log.sync(ticket)
        seconds = monotonic() - started
        try:
            self._services.journal.record(ticket.point)
        except OSError as error:
            # The sync itself succeeded. Recovery will start from an older point, no more.
            self._services.events.error("sync journal not written", reason=str(error))
        return seconds

    def _tell_waiters(self) -> None:
        synced_offset = self._log.synced_offset
        waiting = self.waiting
        while waiting and waiting[0][1] <= synced_offset:
            waiter, _, base_offset, _ = waiting.popleft()
            waiter.appended(base_offset)

    def _failed(self, error: BaseException) -> None:
        failed = error if isinstance(error, LogFailedError) else LogFailedError(str(error))
        if not isinstance(error, StorageError):
            failed = LogFailedError(f"unexpected error while syncing: {error!r}")
        self._log.fail(failed)
        self._on_failed(failed)

    def start_later(self, delay_s: float) -> None:
        """Sync after a time, so that small appends that nobody waits for share one."""
        if self._scheduled:
            return
        self._scheduled = True

        def fire() -> None:
            self._scheduled = False
            self.start()

        self._services.timers.call_later(delay_s, fire)

    def refuse_all(self, error: LogdError) -> None:
        """Tell everybody who waits that it will not come."""
        waiting = list(self.waiting)
        self.waiting.clear()
        for waiter, _, _, _ in waiting:
            waiter.refused(error)

    async def wait_idle(self) -> None:
        """Return when no sync runs."""
        while self._running:
            self._idle = trio.Event()
            await self._idle.wait()
        self._idle = None
