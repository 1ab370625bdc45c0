"""Group commit: one sync of a log at a time, and everybody whose batch it covers is told together.

While one sync runs, what is appended meanwhile waits for the next. So a hundred producers share a
sync without knowing of each other, and a single one waits for no timer.

The thread that syncs goes on by itself as long as there is more to sync: the loop leaves it a
ticket, and the device does not wait for the loop to come round.

Invariants:

* A waiter is told only when a sync that began after its write returned (promise 1).
* What a waiter is told of is visible by then. A roll syncs as well, behind our back: whoever finds
  that nothing is left to sync publishes what the roll has reached.
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
        on_reached: called with the offset up to which the log is synced, be it by a roll, before
            the waiters that this covers are told.
        on_synced: called after each sync, when they have been told.
        on_failed: called when a sync failed, or finds that the log has; the waiters are still
            waiting.
    """

    def __init__(
        self,
        log: Log,
        services: PartitionServices,
        *,
        on_reached: Callable[[int], None],
        on_synced: Callable[[], None],
        on_failed: Callable[[LogFailedError], None],
    ) -> None:
        self._log = log
        self._services = services
        self._on_reached = on_reached
        self._on_synced = on_synced
        self._on_failed = on_failed
        self._running = False
        # The newest ticket, left by the loop for the thread that syncs now; the thread takes it.
        # Both operations of a deque are atomic, and what the thread did not take the loop finds
        # again.
        self._left: deque[SyncTicket] = deque(maxlen=1)
        self._issued_offset = 0
        self._scheduled = False
        self._idle: trio.Event | None = None
        self.waiting: deque[Waiting] = deque()

    def start(self) -> None:
        """Sync what is written: now, or right behind the sync that is running."""
        failed = self._log.failed
        if failed is not None:
            if self.waiting:  # Written while somebody else found out: no sync will tell them.
                self._on_failed(failed)
            return
        ticket = self._log.begin_sync()
        if ticket is None:
            self._tell_waiters()  # A roll has synced all that there is.
        elif ticket.end_offset <= self._issued_offset:
            return  # The running sync, or the one right behind it, covers all that there is.
        elif self._running:
            self._issued_offset = ticket.end_offset
            self._left.append(ticket)
        else:
            self._issued_offset = ticket.end_offset
            self._running = True
            self._services.offload.submit("sync", lambda: self._sync_all(ticket), self._ended)

    def _sync_all(self, ticket: SyncTicket) -> tuple[SyncTicket, float]:
        """Sync, and sync again as long as the loop has left a newer ticket. In a thread.

        Returns what the last sync has to say: with the end of the job, so that it wakes the loop
        once.
        """
        while True:
            outcome = ticket, self._sync(ticket)
            try:
                ticket = self._left.popleft()
            except IndexError:
                return outcome
            self._services.offload.post(self._synced, outcome)

    def _ended(self, outcome: object, error: BaseException | None) -> None:
        self._running = False
        if self._idle is not None:
            self._idle.set()
        if error is not None:
            self._failed(error)
            return
        was_left = bool(self._left)  # When the thread had just looked.
        if was_left:
            self._left.clear()
            self._issued_offset = 0
        self._synced(outcome, None)
        if was_left:
            self.start()

    def _synced(self, outcome: object, _error: BaseException | None) -> None:
        assert isinstance(outcome, tuple)
        ticket, seconds = outcome
        metrics = self._services.metrics
        metrics.sync_seconds.observe(seconds)
        self._log.finish_sync(ticket)
        self._services.journal.note(ticket.point)
        told = self._tell_waiters()
        metrics.waiters_per_sync.observe(told)
        self._on_synced()

    def _sync(self, ticket: SyncTicket) -> float:
        """Return how long the sync took. In a thread."""
        monotonic = self._services.clock.monotonic
        started = monotonic()
        self._log.sync(ticket)
        return monotonic() - started

    def _tell_waiters(self) -> int:
        """Tell everybody who is covered; return how many they were."""
        synced_offset = self._log.synced_offset
        self._on_reached(synced_offset)
        waiting = self.waiting
        told = 0
        while waiting and waiting[0][1] <= synced_offset:
            waiter, _, base_offset, _ = waiting.popleft()
            waiter.appended(base_offset)
            told += 1
        return told

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
