"""What the parts of a log share: its published state, and the way to a segment's open files.

Concurrency, as a proof:

* The event loop alone moves `end_offset`, `written_offset` and `synced_offset` while appends are
  allowed; `delete_before`, `replace_segments` and `roll_now`, which run in a thread, have exclusive
  use of the log's writing side (the partition sees to that).
* `segment_list` is replaced in one assignment. Who makes a new one of the old one, and counts its
  bytes, holds `list_lock` meanwhile, for some microseconds: a segment is released or thawed by a
  thread while the loop publishes a roll.
* Readers in threads take `segment_list` once and work on that value. A segment's published `size`
  only grows,
  and what lies below it never changes, so what they read below it is whole.
* `failed` goes from None to an error once, from any thread, and never back: that is one assignment.
* `open_lock` makes sure that a segment's files are opened once: two writable indexes over one file
  would
  not see each other's entries. `index_lock` keeps a checkpoint's sync apart from a roll's sealing.
* When segments are replaced by compaction, released or thawed, or dropped, names and `segment_list`
  change under `open_lock`. A reader has an old segment's files open by then, or finds `is_replaced`
  set and takes `segment_list` again.
  `snapshot_lock` keeps a checkpoint that was taken before from being written behind it.
* `sync_lock` keeps the log's syncs apart. The kernel reports a failed write-back once per
  descriptor: of
  two syncs at the same time only one would hear of it, and the other one would acknowledge what is
  lost. Under the lock whoever hears of it poisons the log before the next sync begins.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from logd.errors import CorruptFileError, LogFailedError, SegmentsChangedError
from logd.record.timestamps import batch_timestamp_ms
from logd.storage.compaction_state import CompactionState
from logd.storage.damage import DamageList
from logd.storage.files import Files, OpenFile
from logd.storage.layout import TOPIC_ID_BYTES
from logd.storage.log_settings import LogSettings
from logd.storage.offset_index import OffsetIndex
from logd.storage.open_files import OpenFiles
from logd.storage.partition_files import EpochStart
from logd.storage.producer_state import ProducerStates
from logd.storage.segment import SIZE_UNKNOWN, Segment, SegmentList
from logd.storage.segment_files import (
    IndexBuilder,
    SegmentFiles,
    healthy_ranges,
    open_released,
    open_sealed,
)
from logd.storage.segment_scan import read_batch_header, scan_in_order
from logd.storage.time_index import TimeIndex

OWN_OPEN_FILES: Final = 64
"""Sealed segments kept open by a log that shares its cache with no other."""


@dataclass(slots=True)
class LogParts:
    """What creating, opening or recovering a log found out; `LogState` goes on from there.

    Attributes:
        epochs: leader epochs, the current one last.
        snapshot_offsets: of the producer snapshots that are kept.
        sealed_bytes: of all sealed segments' .log files that are there.
        bytes_since_checkpoint: what the next recovery would have to walk already.
    """

    segments: SegmentList
    damage: DamageList
    epochs: list[EpochStart]
    producers: ProducerStates
    log_start_offset: int
    end_offset: int
    sealed_bytes: int = 0
    snapshot_offsets: list[int] = field(default_factory=list)
    unknown_files: list[str] = field(default_factory=list)
    bytes_since_checkpoint: int = 0


T = TypeVar("T")


def retry_if_replaced(call: Callable[[], T]) -> T:
    """Call again where segments were replaced under a reader's hands; each call looks anew."""
    while True:
        with contextlib.suppress(SegmentsChangedError):
            return call()


class LogState:
    """One log's state; `Log` adds what can be done with it.

    Attributes:
        log_start_offset: below it nothing is readable.
        end_offset: the next offset to be assigned; counts what is staged.
        written_offset: below it everything is in the files.
        synced_offset: below it everything is on the device.
        leader_epoch: stamped into each batch.
        plan_is_stale: something changed that the appender's bounds depend on.
        failed: why the log takes and gives nothing any more.
        compaction: how far the log is compacted; None until somebody asks.
        unknown_files: names in the directory that are none of ours nor of Kafka's.
        cuts: (base offset, name) of saved tails; None until a deletion asks. Only recovery saves
            some, and it is over.
        sealed_bytes: of all .log files but the active one: what is on this disk.
        released_bytes: of the sources of released segments; no byte is in both numbers.
        thawing: base offsets of segments that are being thawed; under the open lock.
        doomed_paths, deleted_paths: of deleted segments, files that are still to be renamed, and
            those that were while a later step failed.
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
        assert len(topic_id) == TOPIC_ID_BYTES
        assert 0 <= parts.log_start_offset <= parts.end_offset
        assert parts.epochs
        self.files = files
        self.directory = directory
        self.topic_id = topic_id
        self.topic = topic
        self.partition = partition
        self._settings = settings
        if open_files is None:
            open_files = OpenFiles(files, limit=OWN_OPEN_FILES)
        self.open_files = open_files
        self.segment_list = parts.segments
        self.damage = parts.damage
        self.epochs = parts.epochs
        self.leader_epoch = parts.epochs[-1].epoch
        self.producers = parts.producers
        self.log_start_offset = parts.log_start_offset
        self.end_offset = parts.end_offset
        self.written_offset = parts.end_offset
        self.synced_offset = parts.end_offset
        self.sealed_bytes = parts.sealed_bytes
        self.released_bytes = sum(
            segment.size for segment in parts.segments.items if segment.released is not None
        )
        self.thawing: set[int] = set()
        self.snapshot_offsets = parts.snapshot_offsets
        self.unknown_files = parts.unknown_files
        self.cuts: list[tuple[int, str]] | None = None
        self.doomed_paths: deque[str] = deque()
        self.deleted_paths: list[str] = []
        self.failed: LogFailedError | None = None
        self.compaction: CompactionState | None = None
        self.damage_found_in_active = False
        self.plan_is_stale = True
        self.open_lock = threading.Lock()
        self.list_lock = threading.Lock()
        self.sync_lock = threading.Lock()
        self.index_lock = threading.Lock()
        self.snapshot_lock = threading.Lock()

    @property
    def settings(self) -> LogSettings:
        """The log's settings; replaced at run time, they hold from the next write on."""
        return self._settings

    @settings.setter
    def settings(self, settings: LogSettings) -> None:
        self._settings = settings
        self.plan_is_stale = True

    def poison(self, error: LogFailedError) -> LogFailedError:
        """Let the log take and give nothing any more; return the error that did it first."""
        if self.failed is None:
            self.failed = error
        assert self.failed is not None
        return self.failed

    def sync_file(self, file: OpenFile) -> None:
        """Force one of the log's files to the device; a failure poisons the log. For threads.

        Raises:
            LogFailedError: this sync or an earlier one failed; it is never tried again.
        """
        with self.sync_lock:
            if self.failed is not None:
                raise self.failed
            try:
                self.files.sync_data(file)
            except OSError as error:
                message = f"{file.path} could not be synced: {error}"
                raise self.poison(LogFailedError(message)) from error

    # --- opening segments ----------------------------------------------------------------------

    def opened(self, segment: Segment) -> SegmentFiles | None:
        """Return the segment's files if they are open already."""
        return segment.files or self.open_files.get(segment)

    def open_segment(self, segment: Segment) -> SegmentFiles:
        """Return the segment's files, opened if need be. For threads: it may rebuild an index.

        A released segment has no log to open: its `file` is none, its indexes are there or not.

        Raises:
            CorruptFileError: the log is damaged where nobody knew. OSError: cannot be opened.
            SegmentsChangedError: other segments have taken its place; look the offset up anew.
        """
        assert segment.size >= 0 or not segment.is_active
        with self.open_lock:
            opened = self.opened(segment)
            if opened is not None:
                return opened
            self.check_not_replaced(segment)
            if segment.is_active:
                segment.files = self._open_active(segment)
                return segment.files
            if segment.released is not None:
                opened, is_whole = open_released(
                    self.files, segment.paths, segment.released, settings=self.settings
                )
                segment.lacks_indexes = not is_whole
                self.open_files.put(segment, opened)
                return opened
            opened = open_sealed(
                self.files,
                segment.paths,
                base_offset=segment.base_offset,
                end_bound=segment.end_bound,
                settings=self.settings,
                damaged=self.damage.in_segment(segment.base_offset),
            )
            if segment.size == SIZE_UNKNOWN:
                segment.size = self.files.size(opened.file)
            if segment.max_timestamp is None and opened.time_index is not None:
                segment.max_timestamp = opened.time_index.last
            self.open_files.put(segment, opened)
            return opened

    def reopen_sealed(self, segment: Segment) -> SegmentFiles:
        """Open a sealed segment anew, so that its index files are whole, not only those in memory.

        A roll that found no space leaves none on the disk; its open indexes go on being used.

        Raises:
            CorruptFileError, OSError, SegmentsChangedError: as `open_segment`.
        """
        assert not segment.is_active
        self.open_files.forget(segment)
        return self.open_segment(segment)

    def check_not_replaced(self, segment: Segment) -> None:
        """Refuse a segment whose name belongs to another one by now. Under the open lock.

        Raises:
            SegmentsChangedError: so it is.
        """
        assert self.open_lock.locked()
        if segment.is_replaced:
            raise SegmentsChangedError(f"{segment.paths.log}: the segment was replaced")

    def _open_active(self, segment: Segment) -> SegmentFiles:
        """Open the active segment of a log that was stopped cleanly, to go on writing it."""
        opened = SegmentFiles(self.files.open_write(segment.paths.log), None, None)
        assert segment.size != SIZE_UNKNOWN
        if segment.size == 0:
            return opened
        first = read_batch_header(self.files, opened.file, 0, segment.size)
        if batch_timestamp_ms(first) >= 0:
            segment.first_append_ms = batch_timestamp_ms(first)
            self.plan_is_stale = True
        try:
            opened.index = self._open_index(segment)
            opened.time_index = self._open_time_index(segment)
            segment.max_timestamp = opened.time_index.last
            if segment.max_timestamp[0] < 0:
                # A recovery that came upon too little for an entry left the file as it was.
                reason = f"has no entry for {segment.size} bytes of log"
                raise CorruptFileError(opened.time_index.path, 0, reason)
            at = opened.index.last_position_at_or_before(segment.size)
            segment.bytes_since_entry = segment.size - at
        except (FileNotFoundError, CorruptFileError):
            self._rebuild_active(segment, opened)
        return opened

    def _open_index(self, segment: Segment) -> OffsetIndex:
        index = OffsetIndex.open(
            self.files,
            segment.paths.index,
            base_offset=segment.base_offset,
            max_bytes=self.settings.segment_index_bytes,
            writable=True,
        )
        index.check_fits(next_offset=self.written_offset, log_bytes=segment.size)
        return index

    def _open_time_index(self, segment: Segment) -> TimeIndex:
        time_index = TimeIndex.open(
            self.files,
            segment.paths.time_index,
            base_offset=segment.base_offset,
            max_bytes=self.settings.segment_index_bytes,
            writable=True,
        )
        time_index.check_fits(next_offset=self.written_offset)
        return time_index

    def _rebuild_active(self, segment: Segment, opened: SegmentFiles) -> None:
        """Walk the active segment's headers: for its indexes, if it needs any, and its times."""
        opened.index = opened.time_index = None
        builder = IndexBuilder(
            self.files,
            opened,
            segment.paths,
            base_offset=segment.base_offset,
            settings=self.settings,
        )
        damaged = self.damage.in_segment(segment.base_offset)
        for start, end in healthy_ranges(damaged, segment.size):
            for position, header, _ in scan_in_order(
                self.files,
                opened.file,
                start,
                end,
                next_offset=segment.base_offset if start == 0 else None,
                end_bound=self.written_offset,
                verify=False,
            ):
                builder.add(header, position)
        assert builder.bytes_since_entry <= segment.size
        segment.max_timestamp = builder.max_timestamp
        segment.bytes_since_entry = builder.bytes_since_entry
