"""A round of compaction: which records stay, and the segments that hold them. Blocking.

Two passes. The first one reads the keys of the dirty tail into a map: key to the batch with its
last record (`key_map`). The second one copies the log, head and tail, batch by batch:

* In the tail the map tells how many records of a batch stay, before it is looked at. None: it is
  not even read, nor is its header (`clean_notes`). All: it is copied as it is. Some: the records
  are cut out and the batch is put together anew (`record.survivors`).
* In the head a record stays unless its key is in the map; so the keys are looked at once more.
* Tombstones stay until their batch's delete horizon, which the first round that meets them sets:
  now + delete.retention.ms. In the head only batches that have one can hold tombstones.
* A record without a key is dropped, as by Kafka: no later one could ever supersede it. Such are
  from a time when the topic was not compacted.
* Of a batch without records the header stays if it is the last one of a live producer id (it says
  which sequence number comes next) or the last one of the round (a reader who waits there must
  come upon something that ends behind him). Where some of the log is in chunks, so does the last
  one of each group: what has no bytes cannot be coded, and somebody must speak for its offsets.

Where the map is full, the tail ends: what lies behind is copied as it is, and the next round goes
on there. A group of one segment in which nothing changes is not written again.

Memory: a window, a batch with its keys, what is not written yet, the notes, and the map.

Source: Apache Kafka, LogCleaner (shouldRetainRecord, checkBatchRetention), KIP-534.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Final

from logd.errors import DiskFullError
from logd.record.batch import DELETE_HORIZON_BIT, BatchHeader
from logd.record.keys import RecordKeys
from logd.record.survivors import delete_horizon_ms, empty_batch
from logd.storage.clean_group import GroupOutput
from logd.storage.clean_meter import RoundMeter
from logd.storage.clean_notes import BatchNotes
from logd.storage.clean_order import (
    CleanedGroup,
    CleanOrder,
    CleanResult,
    PaceCall,
    ProgressCall,
    SourceSegment,
    Totals,
)
from logd.storage.clean_source import SourceReader
from logd.storage.cleaned_segment import unlink_cleaned
from logd.storage.files import DISK_FULL_ERRNOS, Files
from logd.storage.key_map import KeyMap
from logd.units import INT32_MAX

JOINED_MAX: Final = 32
"""Segments at the log's begin that became nothing, with the group that takes them in; where there
are more, an empty segment takes their place."""


def clean(
    files: Files, order: CleanOrder, *, on_progress: ProgressCall, pace: PaceCall
) -> CleanResult:
    """Carry out a round: write what stays of the order's segments beside the log. Blocking.

    Durability: once this returns, all new files are on the device, names included, and nobody but
    `Log.replace_segments` looks at them. Whatever it raises, what was written is removed again as
    far as that is possible; `unlink_cleaned` does the same for a process that was killed.

    Args:
        on_progress: called about every MiB.
        pace: is told of the bytes read and written since the last call, and may wait.

    Raises:
        BatchTooLargeToCompactError: a batch, which it names, needs more than batch_memory_bytes.
        CorruptFileError: a batch of the log is damaged; the log is not compacted.
        UnsupportedFormatError: a batch of a transaction.
        DiskFullError: no space, or less than `reserve_bytes` would be left.
        OSError: a file cannot be read or written.
    """
    done = False
    try:
        result = _Round(files, order, on_progress, pace).run()
        files.sync_directory(order.directory)
        done = True
        return result
    except OSError as error:
        if error.errno in DISK_FULL_ERRNOS:
            raise DiskFullError(f"{order.directory}: no space to compact into: {error}") from error
        raise
    finally:
        if not done:
            unlink_cleaned(files, order.directory, order.attempt)


class _Round:
    """One round: its map, and how far its copying is."""

    def __init__(
        self, files: Files, order: CleanOrder, on_progress: ProgressCall, pace: PaceCall
    ) -> None:
        self._files = files
        self._order = order
        self._meter = RoundMeter(files, order, on_progress, pace)
        self._map = KeyMap(limit_bytes=order.limits.key_map_bytes)
        self._map_end = order.end_offset
        # Base offsets of the tail's batches with tombstones, in order.
        self._tombstone_batches = array("q")
        self._next_tombstones = 0
        self._live: dict[int, int] = {}
        self._producer_last_offsets = frozenset(order.producer_last_offsets)
        copied = {item.base_offset for group in order.copied_groups for item in group}
        self._notes = BatchNotes(copied, self._producer_last_offsets)
        self._next_horizon_ms: int | None = None
        self._before_records = 0
        self._after_records = 0
        self._is_groups_end = False

    def run(self) -> CleanResult:
        """Do both passes."""
        self._read_keys()
        keys = len(self._map)
        self._live = self._map.count_by_batch()
        groups = self._copy()
        order = self._order
        replaced = {base for group in groups for base in group.old_bases}
        copied = [item for group in order.copied_groups for item in group]
        taken = [item for item in copied if item.base_offset < self._map_end]
        left = [item.log_bytes for item in taken if item.base_offset not in replaced]
        left += [segment.log_bytes for group in groups for segment in group.new]
        before_bytes = sum(item.log_bytes for item in taken)
        return CleanResult(
            attempt=order.attempt,
            groups=tuple(groups),
            before=Totals(len(taken), self._before_records, before_bytes),
            after=Totals(len(left), self._after_records, sum(left)),
            first_uncleaned_offset=self._map_end,
            next_horizon_ms=self._next_horizon_ms,
            fitted=self._map_end == order.end_offset,
            read_bytes=self._meter.read_bytes,
            written_bytes=self._meter.written_bytes,
            keys=keys,
        )

    def _open(self, segment: SourceSegment) -> SourceReader:
        return SourceReader(
            self._files,
            self._order.directory,
            segment,
            memory_bytes=self._order.limits.batch_memory_bytes,
            on_read=self._meter.read,
        )

    # --- the first pass --------------------------------------------------------------------------

    def _read_keys(self) -> None:
        first = self._order.first_dirty_offset
        segments = [item for item in self._order.segments if item.end_offset > first]
        self._meter.begin("keys", sum(item.log_bytes for item in segments))
        last_base = last_offset = -1
        for segment in segments:
            reader = self._open(segment)
            for position, header in reader.headers():
                self._meter.advance(header.size)
                if header.last_offset < first or not header.count:
                    continue
                if self._map.is_full and last_offset >= first:
                    self._map_end = last_offset + 1
                    self._notes.forget(last_base)
                    return
                self._add_keys(reader, position, header)
                last_base, last_offset = header.base_offset, header.last_offset

    def _add_keys(self, reader: SourceReader, position: int, header: BatchHeader) -> None:
        found, _ = reader.keys(position, header, want_starts=False)
        assert len(found.keys) == len(found.deltas) == header.count
        self._map.add(found.keys, header.base_offset)
        if found.tombstones:
            self._tombstone_batches.append(header.base_offset)
            self._map.count_bytes(self._tombstone_batches.itemsize)
        else:
            self._notes.add(reader.segment, position, header)

    # --- the second pass -------------------------------------------------------------------------

    def _copy(self) -> list[CleanedGroup]:
        groups = [
            tuple(item for item in group if item.base_offset < self._map_end)
            for group in self._order.copied_groups
        ]
        groups = [group for group in groups if group]
        self._meter.begin("copy", sum(item.log_bytes for group in groups for item in group))
        last = max((n for n, group in enumerate(groups) if _has_bytes(group)), default=-1)
        done: list[CleanedGroup] = []
        carried: tuple[SourceSegment, ...] = ()
        for number, group in enumerate(groups):
            if carried and (
                len(carried) + len(group) > JOINED_MAX
                or group[-1].end_offset - 1 - carried[0].base_offset > INT32_MAX
            ):
                done.append(self._write_hole(carried))
                carried = ()
            out = GroupOutput(self._files, self._order, self._meter, (*carried, *group))
            carried = ()
            self._copy_group(out, group, is_last=number == last)
            new = out.finish()
            if new is None:
                continue  # It stays as it is.
            if not new and out.segments[0] == self._order.segments[0]:
                carried = out.segments  # The log must not begin later than it did.
            else:
                done.append(CleanedGroup(out.bases, new))
        if carried:
            done.append(self._write_hole(carried))
        return done

    def _write_hole(self, carried: tuple[SourceSegment, ...]) -> CleanedGroup:
        """Replace the log's first segments by an empty one: no other one is to take them in."""
        assert carried[0] == self._order.segments[0]
        out = GroupOutput(self._files, self._order, self._meter, carried)
        out.open()
        new = out.finish()
        assert new is not None
        return CleanedGroup(out.bases, new)

    def _copy_group(
        self, out: GroupOutput, group: tuple[SourceSegment, ...], *, is_last: bool
    ) -> None:
        dropped: BatchHeader | None = None
        ends_with = max((n for n, item in enumerate(group) if item.log_bytes), default=-1)
        for number, segment in enumerate(group):
            reader = self._open(segment)
            out.enter(reader)
            for position, header in self._headers_that_matter(out, reader):
                self._is_groups_end = (number, position + header.size) == (
                    ends_with, segment.log_bytes,
                )  # fmt: skip
                self._before_records += header.count
                dropped = None if self._copy_batch(out, reader, position, header) else header
                self._meter.advance(header.size)
        if is_last and dropped is not None:
            out.change(empty_batch(dropped))  # Offsets were missing behind it before.

    def _headers_that_matter(
        self, out: GroupOutput, reader: SourceReader
    ) -> Iterator[tuple[int, BatchHeader]]:
        """Yield all batches but those of which the first pass noted that nothing stays; the last
        one of a segment is never such."""
        position = next_offset = 0
        for run in self._notes.dropped(reader.segment, self._live):
            yield from reader.headers(start=position, next_offset=next_offset, end=run.position)
            position, next_offset = run.end_position, run.next_offset
            out.change(None)
            self._before_records += run.records
            self._meter.advance(position - run.position)
        yield from reader.headers(start=position, next_offset=next_offset)

    def _copy_batch(
        self, out: GroupOutput, reader: SourceReader, position: int, header: BatchHeader
    ) -> bool:
        """Copy what stays of a batch; return whether anything does."""
        if header.base_offset >= self._map_end:
            return self._keep_whole(out, reader, position, header)
        if header.last_offset < self._order.first_dirty_offset:
            has_horizon = header.attributes & DELETE_HORIZON_BIT
            if not header.count or not (self._live or has_horizon):
                return self._keep_unless_empty(out, reader, position, header)
            return self._copy_from_head(out, reader, position, header)
        count = self._live.get(header.base_offset, 0)
        assert count <= header.count, "the map names records that are not there"
        tombstones = self._tombstone_batches
        has_tombstones = (
            self._next_tombstones < len(tombstones)
            and tombstones[self._next_tombstones] == header.base_offset
        )
        self._next_tombstones += has_tombstones
        if count == header.count and not has_tombstones:
            return self._keep_unless_empty(out, reader, position, header)
        if not count:
            return self._drop(out, header)
        found, content = reader.keys(position, header, want_starts=True)
        kept = self._map.last_of(found.keys, header.base_offset)
        assert len(kept) == count
        return self._copy_some(out, reader, position, header, found, content, kept)

    def _copy_from_head(
        self, out: GroupOutput, reader: SourceReader, position: int, header: BatchHeader
    ) -> bool:
        last_batches = self._map.last_batches
        assert header.count
        found, content = reader.keys(position, header, want_starts=False)
        if (
            not found.tombstones
            and None not in found.keys
            and last_batches.keys().isdisjoint(found.keys)
        ):
            return self._keep_whole(out, reader, position, header)
        kept = [
            at for at, key in enumerate(found.keys) if key is not None and key not in last_batches
        ]
        if kept:
            found, content = reader.keys(position, header, want_starts=True)
        return self._copy_some(out, reader, position, header, found, content, kept)

    def _copy_some(
        self,
        out: GroupOutput,
        reader: SourceReader,
        position: int,
        header: BatchHeader,
        found: RecordKeys,
        content: bytes,
        kept: list[int],
    ) -> bool:
        """Copy the records of these indexes, tombstones by their horizon."""
        horizon_ms = delete_horizon_ms(header)
        tombstones = set(found.tombstones).intersection(kept)
        if tombstones and horizon_ms is not None and horizon_ms <= self._order.now_ms:
            kept = [at for at in kept if at not in tombstones]
            tombstones = set()
        new_horizon_ms = None
        if tombstones:
            if horizon_ms is None:
                new_horizon_ms = self._order.now_ms + self._order.limits.delete_retention_ms
            self._note_horizon(horizon_ms if new_horizon_ms is None else new_horizon_ms)
        if not kept:
            return self._drop(out, header)
        if len(kept) == header.count and new_horizon_ms is None:
            return self._keep_whole(out, reader, position, header)
        starts = [*found.starts, found.end]
        assert len(starts) == header.count + 1
        pieces = [(starts[at], starts[at + 1]) for at in kept]
        data = reader.rebuild(position, header, content, pieces, horizon_ms=new_horizon_ms)
        self._after_records += len(kept)
        out.change(data)
        return True

    def _note_horizon(self, horizon_ms: int | None) -> None:
        assert horizon_ms is not None
        if self._next_horizon_ms is None or horizon_ms < self._next_horizon_ms:
            self._next_horizon_ms = horizon_ms

    def _keep_unless_empty(
        self, out: GroupOutput, reader: SourceReader, position: int, header: BatchHeader
    ) -> bool:
        if not header.count and not self._stays_empty(header):
            out.change(None)
            return False
        return self._keep_whole(out, reader, position, header)

    def _keep_whole(
        self, out: GroupOutput, reader: SourceReader, position: int, header: BatchHeader
    ) -> bool:
        self._after_records += header.count
        out.keep(header, reader, position)
        return True

    def _drop(self, out: GroupOutput, header: BatchHeader) -> bool:
        stays = self._stays_empty(header)
        out.change(empty_batch(header) if stays else None)
        return stays

    def _stays_empty(self, header: BatchHeader) -> bool:
        """Whether a batch without records stays: the last of the round, or of a live producer; or
        of its group, where groups are kept."""
        if self._order.keeps_groups and self._is_groups_end:
            return True
        return header.next_offset == self._map_end or (
            header.producer_id >= 0 and header.last_offset in self._producer_last_offsets
        )


def _has_bytes(group: tuple[SourceSegment, ...]) -> bool:
    return any(segment.log_bytes for segment in group)
