"""One partition: its one writer, its group commit, its high watermark, and who waits for it.

The serving loop owns a partition. All methods without `async` run on it and never wait. Blocking
work (a sync, a write that rolls or that the disk slows down, reading old data) runs in a thread, at
most one write and one sync of a log at a time, and the loop publishes the outcome:

    append ──stage──▶ flush ──write──▶ acks=1 answered ──sync──▶ acks=all answered, high watermark
    moves

Invariants:

* An acks=all waiter is answered only when a sync that began after its write returned (promise 1).
* The high watermark never passes what is synced, and never goes back (promise 2); with flush.mode
  interval or os it follows the write instead, and those promises do not hold for the topic.
* While one sync runs, what is appended meanwhile waits for the next: that is the group commit.
* A failed write or sync poisons the log: every waiter is refused, and so is all that follows.
* Waiters of a partition are answered in the order of their offsets.

Source: DESIGN sections 4 and 8; "fsyncgate" (a failed sync is never retried).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Final

from logd.broker import deletion
from logd.broker.checkpointing import Checkpointing
from logd.broker.group_commit import AppendWaiter, GroupCommit, Waiting
from logd.broker.key_check import CONTENT_FACTOR, KeyCheck
from logd.broker.log_settings import log_settings
from logd.broker.log_writer import LogWriter
from logd.broker.round_gate import RoundGate
from logd.broker.services import PartitionServices
from logd.broker.topic_names import is_internal
from logd.broker.turn import Wakeable
from logd.config import TopicSettings
from logd.errors import DiskFullError, LogFailedError
from logd.record.batch import (
    HEADER_BYTES,
    LENGTH_OVERHEAD_BYTES,
    LOG_APPEND_TIME_BIT,
    BatchHeader,
    check_appendable,
    check_run,
    read_header,
    set_log_append_time,
)
from logd.record.timestamps import check_timestamp_type, check_timestamps
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
        log: the storage; only this class writes to it.
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
        self._is_internal = is_internal(log.topic)
        self.offline: str | None = None
        # Recovery synced all that it kept, and a clean stop all that there was.
        self.high_watermark = log.end_offset
        self._services = services
        self._turn = services.turn
        self._metrics = services.metrics
        self._disk = services.disk
        self._writer = LogWriter(
            log,
            services,
            on_written=self._written,
            on_behind=self._note_congestion,
            on_failed=self._go_offline,
        )
        self._checkpointing = Checkpointing(log, services)
        self._commit = GroupCommit(
            log, services, on_synced=self._synced, on_failed=self._go_offline
        )
        self._key_check: KeyCheck[AppendWaiter] | None = None
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
        self._max_message_bytes = settings.max_message_bytes
        self._commits = settings.flush_mode == "commit"
        self._log_append_time = settings.message_timestamp_type == "LogAppendTime"
        limit_bytes = CONTENT_FACTOR * settings.max_message_bytes
        if "compact" not in settings.cleanup_policy or self._is_internal:
            self._key_check = None  # What the server itself writes has keys.
        elif self._key_check is None:
            self._key_check = KeyCheck(
                self._services.offload, self._stage_checked, limit_bytes=limit_bytes
            )
        else:  # Batches may be waiting in it; they keep their place.
            self._key_check.limit_bytes = limit_bytes
        self._before_max_ms = settings.message_timestamp_before_max_ms
        self._after_max_ms = settings.message_timestamp_after_max_ms

    @property
    def log_start_offset(self) -> int:
        """The first offset that a reader may ask for."""
        return self.log.log_start_offset

    @property
    def leader_epoch(self) -> int:
        """The epoch stamped into appended batches."""
        return self.log.leader_epoch

    # --- append ------------------------------------------------------------------------------

    def append(
        self,
        buffer: bytearray | memoryview,
        position: int,
        size: int,
        waiter: AppendWaiter,
        wants_sync: bool,
    ) -> None:
        """Check one batch and stage it; the waiter hears of it after the write or the sync.

        The buffer is patched in place and must not change until the turn's writes are done (or
        longer: `Turn.buffers_pinned`).

        Raises:
            RequestError: the batch breaks a rule; nothing was staged, the waiter hears nothing.
            StorageError: the partition is offline, or the disk is at its reserve.
        """
        if self.offline is not None or self._disk.refuses:
            self._refuse_unwritable()
        header = check_appendable(buffer, position, size, max_message_bytes=self._max_message_bytes)
        now_ms = self._turn.now_ms
        if self._log_append_time:
            check_timestamp_type(header)
            set_log_append_time(buffer, position, size, now_ms=now_ms)
            header = read_header(buffer, position)
            waiter.append_time_ms = now_ms
        elif not (
            # The short form of what `check_timestamps` says; it has the last word.
            now_ms - self._before_max_ms <= header.base_timestamp
            and header.base_timestamp <= header.max_timestamp <= now_ms + self._after_max_ms
            and not header.attributes & LOG_APPEND_TIME_BIT
        ):
            check_timestamps(
                header,
                now_ms=now_ms,
                before_max_ms=self._before_max_ms,
                after_max_ms=self._after_max_ms,
            )
        if self._key_check is not None:
            batch = memoryview(buffer)[position : position + size]
            if not self._key_check.check_now(batch, header):
                self._key_check.queue(batch, header, waiter, wants_sync=wants_sync)
                return
        self._stage(buffer, position, header, waiter, wants_sync)

    def append_run(
        self,
        buffer: bytearray,
        position: int,
        *,
        size: int,
        stride: int,
        count: int,
        waiter: AppendWaiter,
        wants_sync: bool,
    ) -> list[int]:
        """Append batches of one size that lie `stride` bytes apart, as `append` would one by one.

        Whatever is out of the ordinary with the partition or a batch is left to `append`. The
        waiter hears of all at once, with the first one's offset: they are written together.

        Returns:
            The base offsets of the batches that are staged, the first ones; perhaps of none.

        Raises:
            StorageError: the log is poisoned; nothing was staged.
        """
        if (
            self.offline is not None
            or self._disk.refuses
            or self._log_append_time
            or self._key_check is not None
            or not HEADER_BYTES <= size <= self._max_message_bytes
        ):
            return []
        now_ms = self._turn.now_ms
        batches = check_run(
            buffer,
            position,
            size=size,
            stride=stride,
            count=count,
            earliest_ms=now_ms - self._before_max_ms,
            latest_ms=now_ms + self._after_max_ms,
        )
        base_offsets = self.log.stage_run(
            buffer, position, size=size, stride=stride, batches=batches, now_ms=now_ms
        )
        if base_offsets:
            wants_sync = wants_sync and self._commits
            end_offset = base_offsets[-1] + batches[len(base_offsets) - 1][0]
            self._writer.waiting.append((waiter, end_offset, base_offsets[0], wants_sync))
            self._metrics.records_in.value += end_offset - base_offsets[0]
            self._metrics.bytes_in.value += size * len(base_offsets)
            self._writer.touch()
        return base_offsets

    def _stage_checked(
        self, batch: bytearray, header: BatchHeader, waiter: AppendWaiter, wants_sync: bool
    ) -> None:
        """A large batch of a compacted topic comes back from its check."""
        if self.offline is not None or self._disk.refuses:
            self._refuse_unwritable()
        self._stage(batch, 0, header, waiter, wants_sync)

    def _stage(
        self,
        buffer: bytearray | memoryview,
        position: int,
        header: BatchHeader,
        waiter: AppendWaiter,
        wants_sync: bool,
    ) -> None:
        if header.producer_id >= 0 and self._answer_duplicate(header, waiter, wants_sync):
            return
        base_offset = self.log.stage(buffer, position, header, self._turn.now_ms)
        count = header.count
        writer = self._writer
        writer.waiting.append(
            (waiter, base_offset + count, base_offset, wants_sync and self._commits)
        )
        metrics = self._metrics
        metrics.records_in.value += count
        metrics.bytes_in.value += header.length + LENGTH_OVERHEAD_BYTES
        if not writer.is_touched:
            writer.touch()

    def _refuse_unwritable(self) -> None:
        """Raise; except for the server's own topics as long as half of the reserve is left."""
        if self.offline is not None:
            raise LogFailedError(self.offline)
        if not self._is_internal or self._disk.is_exhausted:
            raise DiskFullError(self._disk.reason)

    def _answer_duplicate(
        self, header: BatchHeader, waiter: AppendWaiter, wants_sync: bool
    ) -> bool:
        duplicate = self.log.producers.check(header)
        if duplicate is None:
            return False
        # The original may still be on its way to the disk: its copy is answered with it, not
        # before.
        end_offset = duplicate.last_offset + 1
        waits = wants_sync and self._commits
        waiter.append_time_ms = duplicate.timestamp_ms if self._log_append_time else -1
        waiting = (waiter, end_offset, duplicate.base_offset, waits)
        if end_offset > self.log.written_offset:
            self._writer.waiting.append(waiting)
            self._writer.touch()
        elif waits and end_offset > self.log.synced_offset:
            self._commit.waiting.append(waiting)
            self._commit.start()
        else:
            waiter.appended(duplicate.base_offset)
        return True

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
            if self.settings.flush_mode == "interval":
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
        """A sync returned: what it covers is visible."""
        self._advance(self.log.synced_offset)
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
            return
        self._services.events.error(
            "partition offline", topic=self.topic_name, partition=self.index, reason=str(error)
        )
        self._stop_serving(error)

    def _stop_serving(self, error: LogFailedError) -> None:
        self.offline = str(error)
        self._commit.refuse_all(error)
        self._wake_fetches()
        self._end_congestion()

    # --- back-pressure -------------------------------------------------------------------------

    def _note_congestion(self) -> None:
        """Work out `is_congested`: whether too much is staged behind a write, or not yet synced."""
        log = self.log
        unwritten_bytes = log.staged_bytes if self._writer.is_writing else 0
        if self._key_check is not None:
            unwritten_bytes += self._key_check.queued_bytes
        unsynced_bytes = log.unsynced_bytes if self._commits else 0
        pending_bytes = unsynced_bytes + unwritten_bytes
        self.is_congested = pending_bytes > self._services.unsynced_max_bytes
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
