"""The log of one partition: append, sync, read, forget. The heart of the server.

    stage ─▶ take_staged ─▶ write ─▶ finish_write ─▶ begin_sync ─▶ sync ─▶ finish_sync
             (loop)         (thread*) (loop)          (loop)        (thread) (loop)

    * on the loop while nothing rolls

A log is a row of segments; the last one is active. Offsets are assigned when a batch is staged; the
bytes are in the file after `write`, and on the device after `sync`. Four offsets say how far things
are:

    log_start_offset <= synced_offset <= written_offset <= end_offset

What survives a crash: everything below `synced_offset`, and every roll, deletion and checkpoint
whose call returned. What was written and not synced survives the process, not the machine.

Concurrency: see `log_state`. In short, the event loop owns what is published; a thread works on
what it was handed, and the loop publishes the outcome. At most one `StagedWrite` is out at a time;
syncs and reads run beside it.

Invariants, each asserted where it could break: offsets are never assigned twice to what was synced;
a failed write leaves no byte behind; a failed sync ends the log; only verified bytes are given out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from logd.errors import LogFailedError
from logd.policy.compaction import CompactionFacts, CompactionPlan
from logd.record.batch import BatchHeader, Writable
from logd.storage import log_open, partition_files
from logd.storage.clean_order import CleanLimits, CleanOrder, CleanResult
from logd.storage.clean_stop import CleanLog
from logd.storage.damage import DamagedRange
from logd.storage.files import Files, OpenFile
from logd.storage.log_append import CHECKPOINT_BYTES, LogAppender
from logd.storage.log_checkpoint import Checkpoint, take_checkpoint, write_checkpoint
from logd.storage.log_cold import ColdLog
from logd.storage.log_compact import (
    cancel_replacement,
    clean_order,
    compaction_facts,
    doubt_replacement,
    prepare_replacement,
    replace_segments,
)
from logd.storage.log_delete import DeleteResult, delete_before, is_deletion_unfinished
from logd.storage.log_settings import LogSettings
from logd.storage.log_state import LogParts, retry_if_replaced
from logd.storage.log_write import SegmentWriter
from logd.storage.open_files import OpenFiles
from logd.storage.recovery import recover_parts
from logd.storage.recovery_report import RecoveryReport
from logd.storage.released import ReleasedSegment
from logd.storage.segment import Segment
from logd.storage.segment_files import SegmentFiles
from logd.storage.staged import StagedWrite, WriteResult
from logd.storage.swap import ReplaceResult
from logd.storage.sync_record import SyncPoint

__all__ = ["Checkpoint", "DeleteResult", "Log", "LogSettings", "SyncTicket"]


class SyncTicket(NamedTuple):
    """What one sync covers: handed to a thread, then published by the loop.

    Attributes:
        point: what to note in the sync journal once the sync returned.
        written_total: the log's count of written bytes when the sync was begun.
    """

    file: OpenFile
    end_offset: int
    point: SyncPoint
    written_total: int


class Log(ColdLog):
    """One partition's log. Made by `create`, `open_clean` or `recover`, in a thread.

    The attributes that others read are those of `LogState`.
    """

    def __init__(
        self,
        files: Files,
        directory: str,
        *,
        topic_id: bytes,
        topic: str,
        partition: int,
        settings: LogSettings,
        open_files: OpenFiles | None,
        parts: LogParts,
    ) -> None:
        super().__init__(
            files,
            directory,
            topic_id=topic_id,
            topic=topic,
            partition=partition,
            settings=settings,
            open_files=open_files,
            parts=parts,
        )
        assert partition >= 0
        assert parts.segments.active.size >= 0
        self._writer = SegmentWriter(self)
        self._appender = LogAppender(self, self._writer)
        self._appender.bytes_since_checkpoint = parts.bytes_since_checkpoint

    # --- making --------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        files: Files,
        directory: str,
        *,
        topic_id: bytes,
        topic: str,
        partition: int,
        settings: LogSettings,
        open_files: OpenFiles | None = None,
    ) -> Log:
        """Make a new, empty log. Durable, name and all, once this returns.

        Raises:
            FileExistsError: the directory is there already. OSError: it could not be made.
        """
        parts = log_open.create_parts(files, directory, topic_id=topic_id, settings=settings)
        return cls(
            files,
            directory,
            topic_id=topic_id,
            topic=topic,
            partition=partition,
            settings=settings,
            open_files=open_files,
            parts=parts,
        )

    @classmethod
    def open_clean(
        cls,
        files: Files,
        directory: str,
        *,
        topic_id: bytes,
        topic: str,
        partition: int,
        settings: LogSettings,
        clean: CleanLog,
        released: Sequence[ReleasedSegment] = (),
        open_files: OpenFiles | None = None,
    ) -> Log:
        """Open a log that `close` closed. Opens no segment file.

        Args:
            released: segments whose .log may be absent; one that is there is used.

        Raises:
            CorruptFileError: the directory is not as `clean` says; use `recover`.
            UnsupportedFormatError: another topic's directory. OSError: it cannot be read.
        """
        parts = log_open.open_clean_parts(
            files, directory, topic_id=topic_id, clean=clean, released=released
        )
        return cls(
            files,
            directory,
            topic_id=topic_id,
            topic=topic,
            partition=partition,
            settings=settings,
            open_files=open_files,
            parts=parts,
        )

    @classmethod
    def recover(
        cls,
        files: Files,
        directory: str,
        *,
        topic_id: bytes,
        topic: str,
        partition: int,
        settings: LogSettings,
        sync_point: SyncPoint | None,
        same_boot: bool,
        released: Sequence[ReleasedSegment] = (),
        from_begin: bool = False,
        open_files: OpenFiles | None = None,
    ) -> tuple[Log, RecoveryReport]:
        """Open a log that was not closed, or was copied here; see `recovery`.

        Args:
            released: segments whose .log may be absent; one that is there is used.
            from_begin: look at every segment: somebody changed the directory behind our back, and
                a checkpoint says nothing of what has gone before it since.
            sync_point: the journal's record R of this log, if there is one.
            same_boot: the machine has been up since the log was last written.

        Raises:
            CorruptFileError: segments overlap, or a state file is damaged.
            UnsupportedFormatError: another topic's directory, transactional batches, old formats.
            StorageError: no space to save what must be cut, or the tail could not be synced.
            OSError: a file cannot be read.
        """
        parts, report = recover_parts(
            files,
            directory,
            topic_id=topic_id,
            name=f"{topic}-{partition}",
            settings=settings,
            sync_point=sync_point,
            same_boot=same_boot,
            released=released,
            from_begin=from_begin,
        )
        log = cls(
            files,
            directory,
            topic_id=topic_id,
            topic=topic,
            partition=partition,
            settings=settings,
            open_files=open_files,
            parts=parts,
        )
        return log, report

    # --- append: on the loop, without I/O --------------------------------------------------------

    def stage(self, buffer: Writable, position: int, header: BatchHeader, now_ms: int) -> int:
        """Assign offsets to a checked batch, patch them into it, and queue it for the next write.

        The buffer must stay as it is until the write is finished. The caller has checked the batch
        and asked `producers.check`.

        Args:
            header: as read from the buffer, with the max timestamp the batch has now.
            now_ms: the wall clock, for segment.ms.

        Returns:
            The batch's base offset.

        Raises:
            LogFailedError: the log is poisoned.
        """
        return self._appender.stage(buffer, position, header, now_ms)

    def stage_run(
        self,
        buffer: Writable,
        position: int,
        *,
        size: int,
        stride: int,
        batches: Sequence[tuple[int, int]],
        now_ms: int,
    ) -> list[int]:
        """Stage batches of one size that lie `stride` bytes apart, as long as no roll is due.

        They go into one part: they are written, and fail, together.

        Args:
            batches: (records, max timestamp) of each, checked; none of an idempotent producer.

        Returns:
            The base offsets of those that are staged, the first ones; perhaps of none.

        Raises:
            LogFailedError: the log is poisoned.
        """
        return self._appender.stage_run(
            buffer, position, size=size, stride=stride, batches=batches, now_ms=now_ms
        )

    def take_staged(self) -> StagedWrite | None:
        """Hand over what is staged, None if nothing is. At most one write is out at a time.

        Where its `rolls` is set, the write blocks for more than a pwritev: not on the loop.
        """
        return self._appender.take_staged()

    def write(self, staged: StagedWrite) -> WriteResult:
        """Write to the file, rolling where need be. Blocking: in a thread if `staged.rolls`.

        Raises:
            DiskFullError: no space. What did not fit was cut off again; `abandon` the write, and
            the
                log takes appends as soon as there is space.
            LogFailedError: the log is poisoned; `abandon` the write.
        """
        return self._writer.write(staged)

    def finish_write(self, staged: StagedWrite, result: WriteResult) -> None:
        """Publish a write that succeeded: readers can be given its bytes."""
        self._appender.finish_write(staged, result)

    def abandon(self, staged: StagedWrite) -> None:
        """Forget a write that raised, and all that was staged since; their offsets are free again.

        Where the write had rolled, what came before the roll is written and stays: it lies below
        `written_offset`.
        """
        self._appender.abandon(staged)

    @property
    def roll_pending(self) -> bool:
        """Whether something that is staged begins a new segment."""
        return self._appender.roll_pending

    @property
    def staged_bytes(self) -> int:
        """Bytes that are staged or being written."""
        return self._appender.staged_bytes

    @property
    def unsynced_bytes(self) -> int:
        """Bytes that are written and not known to be on the device."""
        return self._appender.written_total - self._appender.synced_total

    def roll_due(self, now_ms: int) -> bool:
        """Whether `roll_now` is to be called: the idle log's segment.ms has passed.

        Also once after a start, when the age of the active segment is still to be found out.
        """
        return self._appender.roll_due(now_ms)

    def roll_now(self) -> None:
        """Begin a new segment. Blocking, in a thread, with exclusive use of the writing side.

        After a start, when the active segment was not opened yet, the first call only opens it.

        Raises:
            DiskFullError: no space; nothing has changed. LogFailedError: the log is poisoned.
        """
        if self.failed is not None:
            raise self.failed
        if self.segment_list.active.files is None:
            self._writer.ensure_open()
        elif self.segment_list.active.size > 0:
            self._roll()

    def _roll(self) -> None:
        self._writer.ensure_open()
        assert self.segment_list.active.size > 0, "an empty segment never rolls"
        segment = self._writer.roll(self.written_offset, self._writer.max_timestamp())
        self._appender.publish_roll(segment)

    # --- sync ------------------------------------------------------------------------------------

    def begin_sync(self) -> SyncTicket | None:
        """Return what a sync begun now covers; None if nothing is unsynced. On the loop."""
        if self.written_offset <= self.synced_offset or self.failed is not None:
            return None
        active, opened = self._active_files()
        assert active.base_offset <= self.written_offset
        point = SyncPoint(
            self.topic_id, self.partition, active.base_offset, self.written_offset, active.size
        )
        return SyncTicket(opened.file, self.written_offset, point, self._appender.written_total)

    def _active_files(self) -> tuple[Segment, SegmentFiles]:
        """Return the active segment and its files, which something was written to.

        `roll_now` may publish a new segment from its thread just now: the list first, then it takes
        the files away from the old one. Then the new one is there, with its files.
        """
        active = self.segment_list.active
        opened = active.files
        if opened is None:
            active = self.segment_list.active
            opened = active.files
        assert opened is not None
        return active, opened

    def sync(self, ticket: SyncTicket) -> None:
        """Force what the ticket covers to the device. Blocking, in a thread.

        Raises:
            LogFailedError: this or an earlier sync failed. It is never tried again: the kernel may
                have dropped what it could not write.
        """
        self.sync_file(ticket.file)

    def finish_sync(self, ticket: SyncTicket) -> None:
        """Publish a sync that succeeded. On the loop."""
        assert ticket.end_offset <= self.written_offset
        assert ticket.written_total <= self._appender.written_total
        self.synced_offset = max(self.synced_offset, ticket.end_offset)
        self._appender.synced_total = max(self._appender.synced_total, ticket.written_total)

    def fail(self, error: LogFailedError) -> None:
        """Let the log take and give nothing any more; staging and reading raise from now on."""
        assert isinstance(error, LogFailedError)
        self.poison(error)

    def end_offset_for_epoch(self, epoch: int) -> tuple[int, int]:
        """Return the greatest epoch not above `epoch`, and its end; (-1, -1) if it is unknown."""
        return partition_files.end_offset_for_epoch(
            self.epochs, epoch, end_offset=self.written_offset
        )

    # --- forgetting ------------------------------------------------------------------------------

    @property
    def is_deletion_unfinished(self) -> bool:
        """Whether the disk refused part of a deletion: there are files below the log start."""
        return is_deletion_unfinished(self)

    def delete_before(self, offset: int) -> DeleteResult:
        """Make `offset` the log start; rename segments that lie wholly below. Blocking, exclusive.

        With an offset at or below the log start, it finishes what the disk refused before.

        Durability: the new start is durable before any file is touched; when this returns, so are
        the renames. After a crash in between, the next start finishes the work.

        Raises:
            OffsetOutOfRangeError: above what is written. DiskFullError: nothing was deleted.
            LogFailedError: the log is poisoned, or the disk refused half-way.
        """
        return delete_before(self, offset, self._roll, self.checkpoint)

    def compaction_facts(self, *, bound_offset: int) -> CompactionFacts:
        """Return what `plan_compaction` decides by; see `log_compact`. Blocking."""
        call = partial(compaction_facts, self, self._reader, bound_offset=bound_offset)
        return retry_if_replaced(call)

    def clean_order(
        self,
        plan: CompactionPlan,
        *,
        attempt: int,
        now_ms: int,
        limits: CleanLimits,
        keeps_groups: bool = False,
    ) -> CleanOrder:
        """Return the order for a planned round; see `log_compact`. Not blocking, on the loop."""
        return clean_order(
            self, plan, attempt=attempt, now_ms=now_ms, limits=limits, keeps_groups=keeps_groups
        )

    def replace_segments(
        self, order: CleanOrder, result: CleanResult, *, is_prepared: bool = False
    ) -> ReplaceResult:
        """Put what a round wrote in its place; see `log_compact`. Blocking, exclusive."""
        return replace_segments(self, order, result, is_prepared=is_prepared)

    def prepare_replacement(
        self, order: CleanOrder, result: CleanResult, superseded: Sequence[str]
    ) -> None:
        """Have it ready for the catalog to decide; see `log_compact`. Blocking, exclusive."""
        prepare_replacement(self, order, result, superseded)

    def cancel_replacement(self) -> None:
        """Take back what was prepared; see `log_compact`. Blocking, exclusive."""
        cancel_replacement(self)

    def doubt_replacement(self, reason: str) -> LogFailedError:
        """Poison the log: nobody knows what the catalog said; see `log_compact`."""
        return doubt_replacement(self, reason)

    # --- checkpoint and close --------------------------------------------------------------------

    @property
    def wants_checkpoint(self) -> bool:
        """Whether enough was appended since the last checkpoint, or the log was rolled."""
        return (
            self._appender.bytes_since_checkpoint >= CHECKPOINT_BYTES or self._appender.rolled
        ) and self.failed is None

    def begin_checkpoint(self) -> Checkpoint:
        """Return the log's state as it is now, for `checkpoint`. On the loop."""
        self._appender.bytes_since_checkpoint = 0
        self._appender.rolled = False
        return take_checkpoint(self)

    def checkpoint(self, checkpoint: Checkpoint | None = None) -> None:
        """Make a checkpoint durable: data, indexes, producers. Blocking, in a thread.

        Args:
            checkpoint: what `begin_checkpoint` returned; None only where nothing is appended.

        Raises:
            LogFailedError: the log is poisoned. DiskFullError: no space for the snapshot; the older
                ones stay, and a restart walks more.
        """
        write_checkpoint(self, checkpoint or self.begin_checkpoint())

    def close(self) -> CleanLog:
        """Sync what is written and let go of all files; return what the clean stop notes. Blocking.

        Finishes a deletion that the disk refused before: a clean stop says how long the log is.
        Nothing may be staged or running any more. The log cannot be used afterwards.

        Raises:
            LogFailedError: the log is poisoned, now or before: its next start is a recovery.
            DiskFullError: no space for the snapshot, or for a deletion; the next start is a
                recovery.
        """
        if self.failed is not None:
            raise self.failed
        assert self.staged_bytes == 0, "written or abandoned before"
        if self.is_deletion_unfinished:
            self.delete_before(self.log_start_offset)
        active = self.segment_list.active
        if active.files is not None:
            self.sync_file(active.files.file)
            self.synced_offset = self.written_offset
        if self.written_offset not in self.snapshot_offsets and self.written_offset > 0:
            self.checkpoint()
        self._writer.close_indexes()
        clean = CleanLog(
            log_start_offset=self.log_start_offset,
            log_end_offset=self.written_offset,
            leader_epoch=self.leader_epoch,
            active_base=active.base_offset,
            active_size=active.size,
            size_bytes=self.total_bytes,
            segment_count=len(self.segment_list.items),
        )
        self.let_go()
        return clean

    def let_go(self) -> None:
        """Let go of all files without writing anything: a log that failed, or is being deleted."""
        self.poison(LogFailedError(f"the log {self.topic}-{self.partition} is closed"))
        for segment in self.segment_list.items:
            self.open_files.forget(segment)
            segment.files = None

    # --- what it holds ---------------------------------------------------------------------------

    @property
    def active_base(self) -> int:
        """The base offset of the active segment."""
        return self.segment_list.active.base_offset

    @property
    def damaged(self) -> list[DamagedRange]:
        """The quarantined ranges."""
        return list(self.damage.ranges)
