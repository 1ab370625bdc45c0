"""What comes into one partition: a batch is checked against the topic's settings, gets its offset,
and is staged for the write at the end of the turn.

On the loop, and never waits: every batch that is produced goes this way. Only a large batch of a
compacted topic goes through a thread first (`key_check`), and those behind it wait for it.

Invariants:

* A batch that breaks a rule is refused before anything of it is staged.
* A copy of a batch that is in the log already is answered as the original is, and not before it.
* Once the intake is closed nothing is staged any more.

Source: DESIGN section 4 (append); Kafka's LogValidator for what is refused.
"""

from __future__ import annotations

from logd.broker.group_commit import AppendWaiter, GroupCommit
from logd.broker.key_check import CONTENT_FACTOR, KeyCheck
from logd.broker.log_writer import LogWriter
from logd.broker.services import PartitionServices
from logd.broker.topic_names import is_internal
from logd.config import TopicSettings
from logd.errors import DiskFullError, LogFailedError
from logd.record.batch import (
    HEADER_BYTES,
    LENGTH_OVERHEAD_BYTES,
    LOG_APPEND_TIME_BIT,
    MAGIC,
    BatchHeader,
    check_appendable,
    check_run,
    read_header,
    set_log_append_time,
)
from logd.record.timestamps import check_timestamp_type, check_timestamps
from logd.storage.log import Log


class Intake:
    """See the module. It must be told the settings (`apply_settings`) before the first batch comes.

    Args:
        writer: gets who waits for the write of a batch.
        commit: gets who waits for nothing but the sync of one that is written.
    """

    def __init__(
        self,
        log: Log,
        services: PartitionServices,
        *,
        writer: LogWriter,
        commit: GroupCommit,
    ) -> None:
        self._log = log
        self._services = services
        self._turn = services.turn
        self._metrics = services.metrics
        self._disk = services.disk
        self._writer = writer
        self._commit = commit
        self._is_internal = is_internal(log.topic)
        self._closed: str | None = None
        self._key_check: KeyCheck[AppendWaiter] | None = None

    def apply_settings(self, settings: TopicSettings) -> None:
        """Use these settings from now on; what waits for a check keeps its place."""
        self._max_message_bytes = settings.max_message_bytes
        self._commits = settings.flush_mode == "commit"
        self._log_append_time = settings.message_timestamp_type == "LogAppendTime"
        self._before_max_ms = settings.message_timestamp_before_max_ms
        self._after_max_ms = settings.message_timestamp_after_max_ms
        limit_bytes = CONTENT_FACTOR * settings.max_message_bytes
        # What the server itself writes has keys.
        checks = "compact" in settings.cleanup_policy and not self._is_internal
        if self._key_check is None and checks:
            self._key_check = KeyCheck(
                self._services.offload,
                self._stage_checked,
                on_ended=self._writer.touch,  # Its bytes are in nobody's way any more.
                limit_bytes=limit_bytes,
            )
        elif self._key_check is not None:
            self._key_check.limit_bytes = limit_bytes
            self._key_check.checks = checks

    @property
    def queued_bytes(self) -> int:
        """The bytes of batches that wait for their check."""
        return 0 if self._key_check is None else self._key_check.queued_bytes

    def close(self, reason: str) -> None:
        """Refuse whatever comes from here on."""
        self._closed = reason

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
        if self._closed is not None or self._disk.refuses:
            self._refuse_unwritable(buffer, position, size)
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
            self._closed is not None
            or self._disk.refuses
            or self._log_append_time
            or (self._key_check is not None and self._key_check.is_needed)
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
        base_offsets = self._log.stage_run(
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
        if self._closed is not None or self._disk.refuses:
            self._refuse_unwritable(batch, 0, len(batch))
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
        base_offset = self._log.stage(buffer, position, header, self._turn.now_ms)
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

    def _refuse_unwritable(self, buffer: bytearray | memoryview, position: int, size: int) -> None:
        """Raise; except for the server's own topics as long as half of the reserve is left."""
        if self._closed is not None:
            raise LogFailedError(self._closed)
        if not self._is_internal or self._disk.is_exhausted:
            self._note_refused(buffer, position, size)
            raise DiskFullError(self._disk.reason)

    def _note_refused(self, buffer: bytearray | memoryview, position: int, size: int) -> None:
        """Take nothing of an idempotent producer before the batch that is being refused."""
        if size >= HEADER_BYTES:
            header = read_header(buffer, position)
            if header.magic == MAGIC and header.producer_id >= 0:
                self._log.producers.note_refused(header)

    def _answer_duplicate(
        self, header: BatchHeader, waiter: AppendWaiter, wants_sync: bool
    ) -> bool:
        duplicate = self._log.producers.check(header)
        if duplicate is None:
            return False
        # The original may still be on its way to the disk: its copy is answered with it, not
        # before.
        end_offset = duplicate.last_offset + 1
        waits = wants_sync and self._commits
        waiter.append_time_ms = duplicate.timestamp_ms if self._log_append_time else -1
        waiting = (waiter, end_offset, duplicate.base_offset, waits)
        if end_offset > self._log.written_offset:
            self._writer.waiting.append(waiting)
            self._writer.touch()
        elif waits and end_offset > self._log.synced_offset:
            self._commit.waiting.append(waiting)
            self._commit.start()
        else:
            waiter.appended(duplicate.base_offset)
        return True
