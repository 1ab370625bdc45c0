"""One partition: what becomes of a batch, its high watermark, and who waits for it.

The serving loop owns a partition. All methods without `async` run on it and never wait. Blocking
work (a sync, a write that rolls or that the disk slows down, reading old data) runs in a thread, at
most one write and one sync of a log at a time, and the loop publishes the outcome:

    Intake ──staged──▶ LogWriter ──written──▶ acks=1 answered
                       GroupCommit ──synced──▶ acks=all answered, the high watermark moves

Each of the three looks after its own step; here is what joins them.

Invariants:

* An acks=all waiter is answered only when a sync that began after its write returned (promise 1).
* The high watermark never passes what is synced, and never goes back (promise 2); with flush.mode
  interval or os it follows the write instead, and those promises do not hold for the topic.
* While one sync runs, what is appended meanwhile waits for the next: that is the group commit.
* A failed write or sync poisons the log: every waiter is refused, and so is all that follows.
* Waiters of a partition are answered in the order of their offsets.

Source: DESIGN sections 4 and 8.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Final

from logd.broker import deletion
from logd.broker.checkpointing import Checkpointing
from logd.broker.group_commit import GroupCommit, Waiting
from logd.broker.intake import Intake
from logd.broker.log_settings import log_settings
from logd.broker.log_writer import LogWriter
from logd.broker.round_gate import RoundGate
from logd.broker.services import PartitionServices
from logd.broker.turn import Wakeable
from logd.config import TopicSettings
from logd.errors import LogFailedError
from logd.storage.file_slice import FileSlice
from logd.storage.log import DeleteResult, Log
from logd.storage.released import ReleasedRange

SYNC_BEHIND_S: Final = 0.005
"""acks=1 data that nobody waits for is synced after this time: small appends share a sync."""

SYNC_BEHIND_BYTES: Final = 1024 * 1024
"""… or as soon as there is this much of it."""


class Partition:
    """A partition that is open.

    Attributes:
        log: the storage; only this class and its parts write to it.
        intake: the way in for batches.
        high_watermark: offsets below it are visible; see the invariants.
        offline: why the partition serves nothing any more, or None.
        is_congested: producers should pause; as of the last write or sync.
        round: lets a round of compaction read the files, until they go away.
    """

    def __init__(
        self, log: Log, *, index: int, settings: TopicSettings, services: PartitionServices
    ) -> None:
        self.log = log
        self.index = index
        self.topic_name = log.topic
        self.topic_id = log.topic_id
        self.offline: str | None = None
        # Recovery synced all that it kept, and a clean stop all that there was.
        self.high_watermark = log.end_offset
        self._services = services
        self._turn = services.turn
        self._writer = LogWriter(
            log,
            services,
            on_written=self._written,
            on_behind=self._note_congestion,
            on_failed=self._go_offline,
        )
        self._checkpointing = Checkpointing(log, services, on_failed=self._go_offline)
        self._commit = GroupCommit(
            log,
            services,
            on_reached=self._advance,
            on_synced=self._synced,
            on_failed=self._go_offline,
        )
        self.intake = Intake(log, services, writer=self._writer, commit=self._commit)
        self._fetches: list[Wakeable] = []
        self._congested: list[Callable[[], None]] = []
        self.is_congested = False
        self.round = RoundGate()
        self.apply_settings(settings)

    def __repr__(self) -> str:
        return f"<Partition {self.topic_name}-{self.index} high_watermark={self.high_watermark}>"

    def apply_settings(self, settings: TopicSettings) -> None:
        """Use these settings from now on; no restart, no lost append."""
        self.settings = settings
        self.log.settings = log_settings(
            settings, retention_check_ms=self._services.retention_check_ms
        )
        self._commits = settings.flush_mode == "commit"
        self.intake.apply_settings(settings)

    @property
    def log_start_offset(self) -> int:
        """The first offset that a reader may ask for."""
        return self.log.log_start_offset

    @property
    def leader_epoch(self) -> int:
        """The epoch stamped into appended batches."""
        return self.log.leader_epoch

    # --- write -------------------------------------------------------------------------------

    def _written(self, waiting: list[Waiting]) -> None:
        """The waiters' batches are in the file: answer acks=1, queue acks=all for the sync."""
        unsynced = self._commit.waiting
        for entry in waiting:
            if entry[3]:
                unsynced.append(entry)
            else:
                entry[0].appended(entry[2])
        if not self._commits:
            self._advance(self.log.written_offset)
            if unsynced:  # Staged while the topic still promised it.
                self._commit.start()
            elif self.settings.flush_mode == "interval":
                self._commit.start_later(self.settings.flush_interval_ms / 1000)
        elif unsynced or self._fetches or self._has_much_unsynced():
            self._commit.start()
        else:
            self._commit.start_later(SYNC_BEHIND_S)
        if self.log.wants_checkpoint:
            self.take_checkpoint()
        self._note_congestion()

    # --- sync --------------------------------------------------------------------------------

    def _synced(self) -> None:
        """A sync returned; who waited for it has been told."""
        if self._commit.waiting or self._fetches or self._has_much_unsynced():
            self._commit.start()
        elif self.log.unsynced_bytes and self._commits:
            self._commit.start_later(SYNC_BEHIND_S)
        self._note_congestion()

    def _has_much_unsynced(self) -> bool:
        return self._commits and self.log.unsynced_bytes > SYNC_BEHIND_BYTES

    def _advance(self, offset: int) -> None:
        if offset > self.high_watermark:
            self.high_watermark = offset
            self._wake_fetches()

    def _wake_fetches(self) -> None:
        if self._fetches:
            self._turn.woken.extend(self._fetches)
            self._fetches.clear()

    def _go_offline(self, error: LogFailedError) -> None:
        """Nothing is served from here on until a restart recovers the log; the others go on."""
        if self.offline is not None:
            self._commit.refuse_all(error)  # Whose write was under way when it happened.
            return
        self._services.events.error(
            "partition offline", topic=self.topic_name, partition=self.index, reason=str(error)
        )
        self._stop_serving(error)

    def _stop_serving(self, error: LogFailedError) -> None:
        self.offline = str(error)
        self.intake.close(self.offline)
        self._commit.refuse_all(error)
        self._wake_fetches()
        self._end_congestion()

    # --- back-pressure -------------------------------------------------------------------------

    def _note_congestion(self) -> None:
        """Work out `is_congested`: whether too much is staged behind a write, or not yet synced."""
        log = self.log
        unwritten_bytes = log.staged_bytes if self._writer.is_busy else 0
        unwritten_bytes += self.intake.queued_bytes
        unsynced_bytes = log.unsynced_bytes if self._commits else 0
        pending_bytes = unsynced_bytes + unwritten_bytes
        is_served = self.offline is None  # Else nothing will ever be caught up with.
        self.is_congested = is_served and pending_bytes > self._services.unsynced_max_bytes
        if self._congested and not self.is_congested:
            self._end_congestion()

    def _end_congestion(self) -> None:
        self.is_congested = False
        resume, self._congested = self._congested, []
        for call in resume:
            call()

    def when_decongested(self, resume: Callable[[], None]) -> None:
        """Call `resume` once, when syncs have caught up."""
        self._congested.append(resume)
        self._commit.start()

    # --- read --------------------------------------------------------------------------------

    def try_read(
        self, offset: int, *, max_bytes: int, min_one: bool
    ) -> FileSlice | ReleasedRange | None:
        """Return whole batches from `offset` on below the high watermark, if no disk is needed.

        None: ask `log.read` in a thread. A range: they lie in a coded segment. Raises as
        Log.try_read does.
        """
        return self.log.try_read(
            offset, max_bytes=max_bytes, below=self.high_watermark, min_one=min_one
        )

    def wait_for_data(self, fetch: Wakeable) -> None:
        """Wake `fetch` when the high watermark moves or the partition goes offline."""
        self._fetches.append(fetch)
        if self._commits and self.log.written_offset > self.high_watermark:
            self._commit.start()

    def forget_fetch(self, fetch: Wakeable) -> None:
        """The fetch was answered or its client left."""
        if fetch in self._fetches:
            self._fetches.remove(fetch)

    # --- what waits ----------------------------------------------------------------------------

    def exclusive(self) -> AbstractAsyncContextManager[None]:
        """No write runs and none begins inside; appends pile up staged, bounded by back-pressure.

        What poisons the log inside takes the partition offline.
        """
        return self._writer.exclusive()

    async def delete_records(self, before_offset: int) -> int:
        """Make `before_offset` the log start offset, durably; return the new log start offset.

        Raises:
            OffsetOutOfRangeError: beyond the high watermark.
            StorageError: the partition is offline or the new start could not be made durable.
        """
        return (await self.delete_before(before_offset, "delete-records")).log_start_offset

    async def delete_before(
        self, offset: int, reason: str, wanted: Callable[[], bool] = deletion.always
    ) -> DeleteResult:
        """Delete what lies before `offset`, if that is `wanted` when nobody writes any more.

        What the disk refused before is finished. Segments wholly below are renamed now, and
        unlinked after file.delete.delay.ms. Raises as `delete_records`.
        """
        if self.offline is not None:
            raise LogFailedError(self.offline)
        services = self._services
        job = partial(deletion.delete_before, self.log, offset, services.lend_ballast, wanted)
        async with self.exclusive():
            old_start = self.log.log_start_offset
            result = await services.offload.run("delete", job)
        if self.log.wants_checkpoint:  # It rolled: what the last checkpoint spoke of is gone.
            self.take_checkpoint()
        services.unlink_later(result.unlink_paths, self.settings.file_delete_delay_ms / 1000)
        deletion.report(services.events, self.log, old_start, result, reason)
        self._wake_fetches()
        services.end_turn()
        return result

    def take_checkpoint(self) -> None:
        """Take checkpoint S in a thread, so that a restart walks no more than the bytes since."""
        if self.offline is None:
            self._checkpointing.take()

    async def roll_if_due(self, now_ms: int) -> None:
        """Roll an idle log whose segment.ms has passed."""
        if self.offline is not None or not self.log.roll_due(now_ms):
            return
        async with self.exclusive():
            if self.log.roll_due(now_ms):
                await self._services.offload.run("write", self.log.roll_now)

    async def close(self) -> None:
        """Write what is staged and wait for what runs; then the caller closes the log."""
        await self._writer.finish()
        await self._commit.wait_idle()
        await self._checkpointing.wait_idle()

    async def retire(self, reason: str) -> None:
        """Refuse whoever waits and whatever comes; return when nothing of the log runs any more."""
        self._stop_serving(LogFailedError(reason))
        await self.round.close()
        await self.close()
        self.log.fail(LogFailedError(reason))
