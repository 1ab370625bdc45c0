"""What happens to a log at a start that does not follow a clean stop.

Three points of the log matter, each a segment and a position in it:

    S   the newest usable checkpoint: the walk begins here; below it data, indexes and producers are
        known to be on the device
    R   the recovery point: below it everything was synced. It is the greatest of: the sync
    journal's
        record; S; the start of the last segment (a roll syncs the old segment before it makes the
        new)
    E   the end: where the walk found no more

The tail, from S on, is forced to the device and dropped from the page cache first: after a failed
sync the cache shows what the disk lacks. Then every batch is read from the device and checked. At a
bad one:

    below R                     damage: quarantined, never cut; the walk goes on behind it
    from R on, other boot       a power cut: the kernel writes back in any order, so valid batches
                                behind a hole prove nothing. Cut here.
    from R on, same boot        the kernel lost nothing: only a short last write at the end of the
                                file is torn, and is cut; all else is damage

A released segment has no .log: it was synced, and proved whole when it went. It is not walked, and
no checkpoint in it counts.

What is cut is saved beside the log first, and reported. No offset below R is ever assigned again:
if the last segment is damaged, the log goes on in a new one, behind all offsets that the damaged
one can have had. Recovery changes nothing that a second recovery would not do again: it can be
stopped at any moment and started anew.

Source: DESIGN section 4; "Can applications recover from fsync failures?" (ATC '20).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from logd.errors import CorruptFileError, LogFailedError, UnsupportedFormatError
from logd.record.timestamps import batch_timestamp_ms
from logd.storage import partition_files
from logd.storage.checkpoint import find_snapshot, snapshot_path, write_snapshot
from logd.storage.compaction_state import read_compaction
from logd.storage.damage import DamagedRange
from logd.storage.files import Files, OpenFile
from logd.storage.layout import INDEX_SUFFIX, LOG_SUFFIX, TIME_INDEX_SUFFIX, segment_file_name
from logd.storage.log_open import FIRST_EPOCH, describe_segments, load_damage
from logd.storage.log_settings import LogSettings
from logd.storage.log_state import LogParts
from logd.storage.offset_index import OffsetIndex
from logd.storage.partition_files import EpochStart
from logd.storage.partition_listing import PartitionListing, list_partition, remove_leftovers
from logd.storage.producer_state import ProducerSnapshot, ProducerStates
from logd.storage.recovery_report import RecoveryReport
from logd.storage.recovery_walk import (
    MISSING_BEHIND,
    RecoveryPoint,
    SegmentWalk,
    WalkContext,
)
from logd.storage.released import ReleasedSegment, absent_segments
from logd.storage.segment import Segment, SegmentList
from logd.storage.segment_files import (
    IndexBuilder,
    SegmentFiles,
    create_segment,
    segment_paths,
)
from logd.storage.segment_scan import read_batch_header
from logd.storage.swap import roll_forward
from logd.storage.sync_record import SyncPoint
from logd.storage.time_index import TimeIndex
from logd.units import MIB

__all__ = ["RecoveryReport", "recover_parts"]

CHECKPOINT_AFTER_BYTES: Final = 16 * MIB
"""A recovery that walked more writes a checkpoint, so that a crash soon after does not walk it
again."""


def recover_parts(
    files: Files,
    directory: str,
    *,
    topic_id: bytes,
    name: str,
    settings: LogSettings,
    sync_point: SyncPoint | None,
    same_boot: bool,
    released: Sequence[ReleasedSegment] = (),
    from_begin: bool = False,
) -> tuple[LogParts, RecoveryReport]:
    """Recover a log; see the module's docstring, and `Log.recover` for arguments and errors."""
    listing = list_partition(files, directory)
    partition_files.check_metadata(files, directory, topic_id)
    replaced = listing.is_replacing and roll_forward(files, directory)
    if replaced:
        listing = list_partition(files, directory)
    report = RecoveryReport(name, unknown=list(listing.unknown), replaced=replaced)
    log_start = partition_files.read_log_start(files, directory)
    absent = absent_segments(released, listing.bases, log_start)
    report.removed = remove_leftovers(files, directory, listing, released=absent)
    recovery = _Recovery(
        files, directory, settings, listing, report, absent=absent, same_boot=same_boot
    )
    parts = recovery.run(sync_point, from_begin=from_begin)
    report.end_offset = parts.end_offset
    return parts, report


class _Walked(NamedTuple):
    """A segment after its walk."""

    segment: Segment
    opened: SegmentFiles
    builder: IndexBuilder
    next_offset: int
    is_damaged: bool


class _Recovery:
    """One recovery of one log."""

    def __init__(
        self,
        files: Files,
        directory: str,
        settings: LogSettings,
        listing: PartitionListing,
        report: RecoveryReport,
        *,
        absent: dict[int, ReleasedSegment],
        same_boot: bool,
    ) -> None:
        self._files = files
        self._directory = directory
        self._settings = settings
        self._listing = listing
        self._report = report
        self._same_boot = same_boot
        self._absent = absent
        self._damage = load_damage(files, directory, absent.values())
        self._log_start = partition_files.read_log_start(files, directory)
        self._epochs_read = partition_files.read_epochs(files, directory)
        self._bases = self._drop_deleted()
        self._sizes = {
            base: files.stat_size(segment_paths(directory, base).log)
            for base in self._bases
            if base not in absent
        }
        if self._bases and self._bases[-1] in absent:
            self._make_active(absent[self._bases[-1]].next_offset)

    def run(self, sync_point: SyncPoint | None, *, from_begin: bool) -> LogParts:
        """Do all of it.

        Args:
            from_begin: walk every segment, also those that the last checkpoint vouches for.
        """
        assert self._bases == sorted(self._bases)
        # The names that are there are kept: on the device before anything is built on them.
        self._files.sync_directory(self._directory)
        snapshot = None
        if not from_begin:
            snapshot = find_snapshot(
                self._files,
                self._directory,
                self._listing.snapshots,
                self._sizes,
                log_start=self._log_start,
            )
        context = self._make_context(snapshot, sync_point)
        segments = self._describe_segments()
        self._find_gaps(context, segments)
        last = self._walk_all(context, segments, snapshot) if segments is not None else None
        end_offset, goes_on = self._find_end(context, last, sync_point)
        if last is None or segments is None or not goes_on:
            segments, end_offset = self._new_segment(segments, last, end_offset)
        else:
            self._go_on_in(last)
        self._write_epochs(context, end_offset)
        parts = LogParts(
            segments=segments,
            damage=self._damage,
            epochs=context.epochs,
            producers=context.producers,
            log_start_offset=max(self._log_start, segments.bases[0]),
            end_offset=end_offset,
            sealed_bytes=sum(self._sizes.get(base, 0) for base in segments.bases[:-1]),
            snapshot_offsets=self._drop_snapshots(snapshot),
            unknown_files=self._listing.unknown,
            bytes_since_checkpoint=self._report.walked_bytes,
        )
        if self._report.walked_bytes >= CHECKPOINT_AFTER_BYTES:
            self._checkpoint(parts)
        return parts

    # --- before the walk -------------------------------------------------------------------------

    def _drop_deleted(self) -> list[int]:
        """Finish a deletion that a crash cut short: remove segments wholly below the log start."""
        bases = sorted((*self._listing.bases, *self._absent))
        kept_from = 0
        while kept_from + 1 < len(bases) and bases[kept_from + 1] <= self._log_start:
            kept_from += 1
        names = set(self._files.list_directory(self._directory))
        for base in bases[:kept_from]:
            for suffix in (LOG_SUFFIX, INDEX_SUFFIX, TIME_INDEX_SUFFIX):
                name = segment_file_name(base, suffix)
                if name in names:
                    self._files.unlink(f"{self._directory}/{name}")
                    self._report.removed.append(name)
        if self._log_start:
            self._damage.forget_below(self._log_start)
        return bases[kept_from:]

    def _make_active(self, end_offset: int) -> None:
        """Make the active segment that should follow a released one, and is missing.

        What was synced to it, as far as the journal knows, is found missing by the walk.
        """
        base = max(end_offset, self._log_start)
        create_segment(
            self._files, self._directory, base, settings=self._settings, with_indexes=False
        )
        self._bases.append(base)
        self._sizes[base] = 0

    def _describe_segments(self) -> SegmentList | None:
        if not self._bases:
            return None
        absent = {base: self._absent[base] for base in self._bases if base in self._absent}
        hot = replace(self._listing, bases=[base for base in self._bases if base not in absent])
        segments = describe_segments(self._directory, hot, absent)
        for segment in segments.items:
            if segment.released is None:
                segment.size = self._sizes[segment.base_offset]
        return segments

    def _find_gaps(self, context: WalkContext, segments: SegmentList | None) -> None:
        """Quarantine what should lie behind a released segment and is in no other one."""
        for segment in segments.items if segments is not None else ():
            known, end_bound = segment.released, segment.end_bound
            if known is None or known.next_offset >= end_bound or context.may_miss(end_bound):
                continue
            missing = DamagedRange(
                first_offset=known.next_offset,
                next_offset=end_bound,
                base_offset=segment.base_offset,
                file=segment_file_name(segment.base_offset, LOG_SUFFIX),
                position=known.size_bytes,
                end_position=known.size_bytes,
                reason=MISSING_BEHIND,
            )
            if missing not in self._damage.ranges:
                self._damage.add(missing)
                self._report.damaged.append(missing)

    def _make_context(
        self, snapshot: ProducerSnapshot | None, sync_point: SyncPoint | None
    ) -> WalkContext:
        points = [RecoveryPoint(0, 0, 0)]
        if self._bases:
            points.append(RecoveryPoint(self._bases[-1], 0, self._bases[-1]))
        if snapshot is not None:
            points.append(RecoveryPoint(snapshot.segment_base, snapshot.position, snapshot.offset))
        if sync_point is not None and sync_point.synced_offset > self._log_start:
            points.append(
                RecoveryPoint(
                    sync_point.segment_base, sync_point.position, sync_point.synced_offset
                )
            )
        return WalkContext(
            files=self._files,
            directory=self._directory,
            settings=self._settings,
            damage=self._damage,
            producers=ProducerStates(dict(snapshot.producers) if snapshot is not None else None),
            epochs=list(self._epochs_read or ()),
            epochs_known=bool(self._epochs_read),
            recovery_point=max(points),
            same_boot=self._same_boot,
            report=self._report,
            compacted_below=self._compacted_below(),
        )

    def _compacted_below(self) -> int:
        """Return up to where offsets may be missing, whatever the topic's settings are now."""
        with contextlib.suppress(CorruptFileError, UnsupportedFormatError):
            return read_compaction(self._files, self._directory).first_uncleaned_offset
        return 0

    # --- the walk --------------------------------------------------------------------------------

    def _walk_all(
        self, context: WalkContext, segments: SegmentList, snapshot: ProducerSnapshot | None
    ) -> _Walked:
        """Walk the segments from S on; seal all but the last one, which is returned.

        Released ones were synced and proved whole; they are not walked.
        """
        first = segments.items[0].base_offset if snapshot is None else snapshot.segment_base
        walked: _Walked | None = None
        for segment in segments.items[segments.index_of(first) :]:
            if segment.released is not None:
                # Its batches cannot be replayed; what is known of producers may be out of date now.
                context.producers = ProducerStates()
                continue
            at_start = (
                snapshot if snapshot and snapshot.segment_base == segment.base_offset else None
            )
            walked = self._walk_segment(context, segment, at_start)
            if not segment.is_active:
                walked.builder.seal()
                segment.max_timestamp = walked.builder.max_timestamp
        assert walked is not None
        return walked

    def _walk_segment(
        self, context: WalkContext, segment: Segment, snapshot: ProducerSnapshot | None
    ) -> _Walked:
        file = self._open_tail(segment)
        opened = SegmentFiles(file, None, None)
        position, next_offset = 0, segment.base_offset
        if snapshot is not None and self._reopen_indexes(segment, opened, snapshot):
            position, next_offset = snapshot.position, snapshot.offset
        builder = IndexBuilder(
            self._files,
            opened,
            segment.paths,
            base_offset=segment.base_offset,
            settings=self._settings,
            max_timestamp=(snapshot.max_timestamp_ms, snapshot.max_timestamp_offset)
            if snapshot is not None and position
            else None,
        )
        walk = SegmentWalk(
            context,
            segment,
            file,
            builder,
            is_last=segment.is_active,
            position=position,
            next_offset=next_offset,
        )
        walk.run()
        segment.size = self._sizes[segment.base_offset] = walk.position
        return _Walked(segment, opened, builder, walk.next_offset, self._is_damaged(segment))

    def _is_damaged(self, segment: Segment) -> bool:
        return bool(self._damage.in_segment(segment.base_offset))

    def _open_tail(self, segment: Segment) -> OpenFile:
        """Open a segment so that what is read next comes from the device.

        Raises:
            LogFailedError: it could not be forced there.
        """
        file = self._files.open_write(segment.paths.log)
        try:
            self._files.sync(file)
        except OSError as error:
            raise LogFailedError(f"{file.path} could not be synced: {error}") from error
        self._files.drop_cache(file)
        return file

    def _reopen_indexes(
        self, segment: Segment, opened: SegmentFiles, snapshot: ProducerSnapshot
    ) -> bool:
        """Take over the index entries below S. False: there are none, walk the whole segment."""
        max_bytes = self._settings.segment_index_bytes
        base_offset = segment.base_offset
        if snapshot.position == 0:
            return False
        try:
            index = OffsetIndex.open(
                self._files,
                segment.paths.index,
                base_offset=base_offset,
                max_bytes=max_bytes,
                writable=True,
            )
            time_index = TimeIndex.open(
                self._files,
                segment.paths.time_index,
                base_offset=base_offset,
                max_bytes=max_bytes,
                writable=True,
            )
            index.truncate_to(snapshot.offset)
            index.check_fits(next_offset=snapshot.offset, log_bytes=snapshot.position)
            time_index.truncate_to(snapshot.offset)
        except FileNotFoundError:
            return False  # Below S there may be too little for an entry.
        except CorruptFileError as error:
            self._report.rebuilt.append(error.path)
            return False
        opened.index, opened.time_index = index, time_index
        return True

    # --- after the walk --------------------------------------------------------------------------

    def _find_end(
        self, context: WalkContext, last: _Walked | None, sync_point: SyncPoint | None
    ) -> tuple[int, bool]:
        """Return the next offset to assign, and whether the last segment takes it."""
        end_offset = self._log_start if last is None else last.next_offset
        goes_on = last is not None and not last.is_damaged
        point = context.recovery_point
        if point.segment_base > (self._bases[-1] if self._bases else -1) and (
            point.offset > end_offset
        ):
            assert sync_point is not None
            missing = DamagedRange(
                first_offset=end_offset,
                next_offset=point.offset,
                base_offset=point.segment_base,
                file=segment_file_name(point.segment_base, LOG_SUFFIX),
                position=0,
                end_position=0,
                reason="the file is missing",
            )
            self._damage.add(missing)
            self._report.damaged.append(missing)
            return point.offset, False
        if end_offset < self._log_start:
            return self._log_start, False
        return end_offset, goes_on

    def _go_on_in(self, last: _Walked) -> None:
        """Take the last segment as the active one, with all that the walk found out about it."""
        segment = last.segment
        assert segment.is_active
        assert not last.is_damaged
        segment.files = last.opened
        segment.max_timestamp = last.builder.max_timestamp
        segment.bytes_since_entry = last.builder.bytes_since_entry
        if segment.size:
            with contextlib.suppress(CorruptFileError):
                first = read_batch_header(self._files, last.opened.file, 0, segment.size)
                segment.first_append_ms = max(batch_timestamp_ms(first), 0)

    def _new_segment(
        self, segments: SegmentList | None, last: _Walked | None, end_offset: int
    ) -> tuple[SegmentList, int]:
        """Go on in a new segment, behind one that is damaged, or because there is none."""
        if last is not None:
            end_offset = max(end_offset, last.segment.base_offset + 1)
            last.segment.max_timestamp = last.builder.max_timestamp
            last.builder.seal()
        segment = Segment(self._directory, end_offset)
        segment.files = create_segment(
            self._files,
            self._directory,
            end_offset,
            settings=self._settings,
            with_indexes=segments is not None,
        )
        segment.size = 0
        segment.appended_from = 0
        self._files.sync_directory(self._directory)
        self._sizes[end_offset] = 0
        rolled = SegmentList((segment,)) if segments is None else segments.rolled_to(segment)
        return rolled, end_offset

    def _write_epochs(self, context: WalkContext, end_offset: int) -> None:
        """Begin a leader epoch if a power cut may have taken what readers saw; keep the list."""
        epochs = context.epochs
        if not epochs:
            epochs.append(FIRST_EPOCH)
        if self._settings.flush_mode != "commit" and not self._same_boot and end_offset > 0:
            while len(epochs) > 1 and epochs[-1].start_offset >= end_offset:
                epochs.pop()
            epochs.append(EpochStart(epochs[-1].epoch + 1, end_offset))
            self._report.new_epoch = epochs[-1].epoch
        assert epochs == sorted(epochs)
        if epochs != self._epochs_read:
            partition_files.write_epochs(self._files, self._directory, epochs)

    def _drop_snapshots(self, snapshot: ProducerSnapshot | None) -> list[int]:
        """Unlink snapshots that could not be used: their offsets may come again, for other data."""
        newest = -1 if snapshot is None else snapshot.offset
        assert newest == -1 or newest in self._listing.snapshots
        dropped = [offset for offset in self._listing.snapshots if offset > newest]
        for offset in dropped:
            self._files.unlink(snapshot_path(self._directory, offset))
        if dropped:
            self._files.sync_directory(self._directory)
        return [offset for offset in self._listing.snapshots if offset <= newest]

    def _checkpoint(self, parts: LogParts) -> None:
        """Write a checkpoint of what was walked: the log is synced already, the indexes are not."""
        active = parts.segments.active
        assert active.files is not None
        for index in (active.files.index, active.files.time_index):
            if index is not None:
                index.sync()
        max_timestamp = active.max_timestamp or (-1, active.base_offset)
        snapshot = ProducerSnapshot(
            active.base_offset,
            active.size,
            parts.end_offset,
            *max_timestamp,
            parts.producers.copy_written(),
        )
        parts.snapshot_offsets = write_snapshot(
            self._files, self._directory, snapshot, parts.snapshot_offsets
        )
        parts.bytes_since_checkpoint = 0
