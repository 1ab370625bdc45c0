"""The writer's side of a log: one write a segment, index entries, rolls. Blocking.

At most one thread is in here at a time (`LogAppender` hands out one `StagedWrite` at a time).
Nothing that readers see is changed: the writer notes in the parts what it did, and the event loop
publishes it.

A part is written with one pwritev, then its index entries are added. If anything fails, file and
indexes are cut back to where they were:

* no space (ENOSPC, EDQUOT): `DiskFullError`; the log is as before this part and can be written
  again;
* anything else, or the cutting itself fails: `LogFailedError`, for ever.

A roll, in this order, each step durable before the next: the old segment's data is synced; the new
segment's files are made and the directory is synced; the old one's indexes are cut to size and
synced. So a segment that has a successor is synced to its end, which recovery relies on.
"""

from __future__ import annotations

import contextlib

from logd.errors import CorruptFileError, DiskFullError, LogFailedError, StorageError
from logd.storage.files import DISK_FULL_ERRNOS
from logd.storage.log_state import LogState
from logd.storage.segment import Segment
from logd.storage.segment_files import (
    MaxTimestamp,
    SegmentFiles,
    create_indexes,
    create_segment,
    remove_segment,
)
from logd.storage.staged import StagedPart, StagedWrite, WriteResult


class SegmentWriter:
    """Writes to the active segment; `segment` may be one ahead of what is published."""

    __slots__ = ("_state", "segment")

    def __init__(self, state: LogState) -> None:
        self._state = state
        self.segment = state.segment_list.active

    def write(self, staged: StagedWrite) -> WriteResult:
        """Write all parts, rolling before those that say so.

        Raises:
            DiskFullError: the part that did not fit was cut off; `staged.written_parts` stand.
            LogFailedError: the log is poisoned.
        """
        state = self._state
        if state.failed is not None:
            raise state.failed
        if self.segment.files is None:
            self.ensure_open()
        for part in staged.parts:
            if part.rolls:
                staged.created.append(self.roll(part.first_offset, self._max_timestamp(staged)))
            self._write_part(part)
            staged.written_parts += 1
        return WriteResult(part.end_offset, staged.size)

    def _write_part(self, part: StagedPart) -> None:
        segment = self.segment
        opened = segment.files
        assert opened is not None
        try:
            self._state.files.write_at(opened.file, part.position, part.buffers)
            self._add_entries(segment, opened, part)
        except OSError as error:
            raise self._undo(segment, opened, part, error) from error
        part.segment = segment

    def ensure_open(self) -> SegmentFiles:
        """Return the active segment's files; they are opened with the first write after a start.

        Raises:
            DiskFullError: an index needed space. LogFailedError: the log is poisoned.
        """
        segment = self.segment
        return segment.files or self._open(segment)

    def _open(self, segment: Segment) -> SegmentFiles:
        try:
            return self._state.open_segment(segment)
        except OSError as error:
            if error.errno in DISK_FULL_ERRNOS:
                raise DiskFullError(f"{segment.paths.index}: {error}") from error
            raise self._failed(f"{segment.paths.log} could not be opened: {error}") from error
        except CorruptFileError as error:
            raise self._failed(str(error)) from error

    def _failed(self, reason: str) -> LogFailedError:
        return self._state.poison(LogFailedError(reason))

    def _undo(
        self, segment: Segment, opened: SegmentFiles, part: StagedPart, error: OSError
    ) -> StorageError:
        """Cut off what was written of a part; return what to raise."""
        assert part.segment is None, "not written"
        if error.errno not in DISK_FULL_ERRNOS:
            return self._failed(f"{segment.paths.log} could not be written: {error}")
        try:
            self._state.files.truncate(opened.file, part.position)
        except OSError as second:
            return self._failed(
                f"{segment.paths.log}: half a write could not be cut off at "
                f"{part.position}: {second}"
            )
        if opened.index is not None:
            opened.index.truncate_to(part.first_offset)
        if opened.time_index is not None:
            opened.time_index.truncate_to(part.first_offset)
        return DiskFullError(f"{segment.paths.log}: {error}")

    def _add_entries(self, segment: Segment, opened: SegmentFiles, part: StagedPart) -> None:
        """Add the index entries of a part; Kafka's rule, see `IndexBuilder`."""
        interval_bytes = self._state.settings.index_interval_bytes
        since = segment.bytes_since_entry
        max_timestamp = segment.max_timestamp or (-1, segment.base_offset)
        if since + part.size <= interval_bytes:
            for last_offset, _, _, timestamp_ms in part.batches:
                if timestamp_ms > max_timestamp[0]:
                    max_timestamp = (timestamp_ms, last_offset)
            since += part.size
        else:
            for last_offset, position, size, timestamp_ms in part.batches:
                if timestamp_ms > max_timestamp[0]:
                    max_timestamp = (timestamp_ms, last_offset)
                if since > interval_bytes:
                    at = part.position + position
                    self._add_entry(segment, opened, last_offset, at, max_timestamp)
                    since = 0
                since += size
        part.bytes_since_entry = since
        part.max_timestamp = max_timestamp

    def _add_entry(
        self,
        segment: Segment,
        opened: SegmentFiles,
        last_offset: int,
        position: int,
        max_timestamp: MaxTimestamp,
    ) -> None:
        self._ensure_indexes(segment, opened)
        assert opened.index is not None
        assert opened.time_index is not None
        if not opened.index.is_full:
            opened.index.append(last_offset, position)
        if max_timestamp[0] >= 0 and not opened.time_index.is_full:
            opened.time_index.append(*max_timestamp)
        if opened.index.is_full or opened.time_index.is_full:
            self._state.plan_is_stale = True  # The next batch begins a new segment.

    def _ensure_indexes(self, segment: Segment, opened: SegmentFiles) -> None:
        if opened.index is None:
            create_indexes(
                self._state.files,
                opened,
                segment.paths,
                base_offset=segment.base_offset,
                settings=self._state.settings,
            )

    # --- rolling -------------------------------------------------------------------------------

    def roll(self, base_offset: int, max_timestamp: MaxTimestamp) -> Segment:
        """Seal the active segment and go on in a new one, which is returned.

        Args:
            max_timestamp: the old segment's, which is still to be added to its time index.

        Durability: once this returns, the old segment is on the device to its end, and the new
        one's name as well.

        Raises:
            DiskFullError: no space for the new files; the old segment is still the active one.
            LogFailedError: the log is poisoned.
        """
        state = self._state
        old = self.segment
        assert base_offset > old.base_offset
        assert old.end_bound > base_offset
        opened = self.ensure_open()
        state.sync_file(opened.file)
        new = Segment(state.directory, base_offset)
        try:
            self._ensure_indexes(old, opened)
            if max_timestamp[0] >= 0 and opened.time_index is not None:
                opened.time_index.append(*max_timestamp)
            self._create(new)
        except OSError as error:
            raise self._uncreate(new, error) from error
        self._seal(old, opened)
        self.segment = new
        return new

    def _create(self, new: Segment) -> None:
        state = self._state
        new.files = create_segment(
            state.files,
            state.directory,
            new.base_offset,
            settings=state.settings,
            with_indexes=True,
        )
        new.size = 0
        new.appended_from = 0
        new.max_timestamp = (-1, new.base_offset)
        state.files.sync_directory(state.directory)

    def _uncreate(self, new: Segment, error: OSError) -> StorageError:
        """Remove a segment that was not completed; return what to raise.

        The removal must be durable too: a segment that has a successor counts as synced to its end,
        and what it takes from then on would lie in another one's range.
        """
        if error.errno not in DISK_FULL_ERRNOS:
            return self._failed(f"no new segment {new.base_offset} could be made: {error}")
        remove_segment(self._state.files, new.paths)
        if self._state.files.exists(new.paths.log):
            return self._failed(f"{new.paths.log}: an unfinished segment could not be removed")
        try:
            self._state.files.sync_directory(self._state.directory)
        except OSError as second:
            return self._failed(f"an unfinished segment could not be removed: {second}")
        return DiskFullError(f"no space for a new segment: {error}")

    def _max_timestamp(self, staged: StagedWrite) -> MaxTimestamp:
        """Return the active segment's greatest timestamp, be it of a part not yet published."""
        if staged.written_parts:
            part = staged.parts[staged.written_parts - 1]
            if part.segment is self.segment and part.max_timestamp is not None:
                return part.max_timestamp
        return self.max_timestamp()

    def max_timestamp(self) -> MaxTimestamp:
        """Return the greatest timestamp of the active segment, which must be open and published."""
        return self.segment.max_timestamp or (-1, self.segment.base_offset)

    def _seal(self, old: Segment, opened: SegmentFiles) -> None:
        """Seal the indexes of a segment that has a successor.

        Without the space for it they stay as they are, longer than their entries, which an opener
        of a sealed segment does not accept: they are unlinked, to be rebuilt when they are asked
        for.
        """
        try:
            self._seal_indexes(opened)
        except OSError as error:
            if error.errno not in DISK_FULL_ERRNOS:
                raise self._failed(f"{old.paths.index} could not be sealed: {error}") from error
            for path in (old.paths.index, old.paths.time_index):
                with contextlib.suppress(
                    OSError
                ):  # Left behind, it is refused and rebuilt as well.
                    self._state.files.unlink(path)

    def _seal_indexes(self, opened: SegmentFiles) -> None:
        assert opened.index is not None
        assert opened.time_index is not None
        with self._state.index_lock:
            opened.index.seal()
            opened.time_index.seal()

    def reset(self) -> None:
        """Go back to the published active segment, after a write was abandoned."""
        self.segment = self._state.segment_list.active

    def close_indexes(self) -> None:
        """Make the active segment's indexes complete, cut to size and synced, if it has any.

        Raises:
            DiskFullError, LogFailedError: that failed; the next start is to recover.
        """
        opened = self.segment.files
        if opened is None or opened.index is None or opened.time_index is None:
            return
        try:
            max_timestamp = self.max_timestamp()
            if max_timestamp[0] >= 0:
                opened.time_index.append(*max_timestamp)
            self._seal_indexes(opened)
            self._state.files.sync_directory(self._state.directory)
        except OSError as error:
            if error.errno in DISK_FULL_ERRNOS:
                raise DiskFullError(f"{self.segment.paths.index}: {error}") from error
            raise self._failed(f"{self.segment.paths.index}: {error}") from error
