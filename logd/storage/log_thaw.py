"""Thawing a segment: its source comes back as a .log, whole or not at all. Blocking, in threads.

    1  the bytes are written to `<base offset>.log.tmp`, and synced
    2  they are read back from the device: every batch is checked, indexes are built beside
    3  indexes and log are renamed, the log last; the directory is synced; readers are told
    4  (the caller) the catalog says COMMITTED

A crash before 3 leaves files that the next start removes; behind it a hot segment, and the catalog
that says RELEASED: its chunks are checked and the .log goes again. What has the name .log is whole
and synced.

Nothing here is exclusive: the log goes on meanwhile. A segment that is deleted while it is thawed
makes `finish` say so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

from logd.errors import CorruptFileError, LogdError, SegmentsChangedError
from logd.policy.cold.proof import HotCopy
from logd.storage.files import Buffer, OpenFile
from logd.storage.layout import TEMP_SUFFIX
from logd.storage.log_release import find_sealed, publish, storage_error
from logd.storage.log_state import LogState
from logd.storage.segment import Segment
from logd.storage.segment_files import IndexBuilder, SegmentFiles, SegmentPaths
from logd.storage.segment_scan import scan_in_order
from logd.units import MIB

SYNC_EVERY_BYTES: Final = 16 * MIB
"""Else one sync at the end holds up all others."""


class ThawWriter:
    """One thaw. Made by `begin_thaw`; ends with `finish`, or with `abort`, which is harmless then.

    Attributes:
        base_offset: of the segment.
        size_bytes: how many bytes its source has.
        written_bytes: how many of them were written.
    """

    def __init__(self, state: LogState, segment: Segment, file: OpenFile) -> None:
        assert segment.released is not None
        self._state = state
        self._segment = segment
        paths = segment.paths
        self._paths = SegmentPaths(
            paths.log + TEMP_SUFFIX, paths.index + TEMP_SUFFIX, paths.time_index + TEMP_SUFFIX
        )
        self._file: OpenFile | None = file
        self._unsynced_bytes = 0
        self.base_offset = segment.base_offset
        self.size_bytes = segment.released.size_bytes
        self.written_bytes = 0

    def write(self, data: Buffer) -> None:
        """Write the next bytes of the source.

        Raises:
            DiskFullError, StorageError: they could not be written; `abort` it.
        """
        assert self.written_bytes + len(data) <= self.size_bytes, "longer than the source"
        file = self._open_file()
        try:
            self._state.files.write_at(file, self.written_bytes, [data])
            self.written_bytes += len(data)
            self._unsynced_bytes += len(data)
            if self._unsynced_bytes >= SYNC_EVERY_BYTES:
                self._state.files.sync_data(file)
                self._unsynced_bytes = 0
        except OSError as error:
            raise storage_error(f"{self._paths.log}: could not be written", error) from error

    def read_into(self, position: int, buffer: bytearray | memoryview) -> int:
        """Fill `buffer` from what was written; return the bytes read, fewer only at the end.

        Raises:
            OSError: they cannot be read.
        """
        return self._state.files.read_into(self._open_file(), position, buffer)

    def finish(self, check: Callable[[ThawWriter], None] | None = None) -> HotCopy:
        """Make what was written the segment's .log.

        Durability: once this returns, the segment is hot, whatever crash comes.

        Args:
            check: called when all is on the device and nothing is cached; it may `read_into`, and
                raises if these are not the bytes that they should be.

        Raises:
            CorruptFileError: they are not the segment's batches, or not all of them.
            SegmentsChangedError: the segment is not released any more, or was deleted.
            DiskFullError, StorageError: the disk refused. In each case it is released as before,
            and what was written is gone.
        """
        try:
            if self._state.failed is not None:
                raise self._state.failed
            file = self._open_file()
            self._state.files.sync(file)
            self._state.files.drop_cache(file)
            if check is not None:
                check(self)
            self._check_batches(file)
            self._publish()
            return HotCopy(self.size_bytes, is_verified=True, is_synced=True)
        except OSError as error:
            raise storage_error(f"{self._paths.log}: could not be finished", error) from error
        finally:
            self.abort()

    def abort(self) -> None:
        """Give it up, and remove what was written. Harmless where it has ended."""
        if self._file is None:
            return
        self._file = None
        for path in (self._paths.log, self._paths.index, self._paths.time_index):
            # What stays behind is removed by the next start, or by the next thaw.
            with contextlib.suppress(OSError):
                self._state.files.unlink(path)
        with self._state.open_lock:
            self._state.thawing.discard(self.base_offset)

    def _open_file(self) -> OpenFile:
        assert self._file is not None, "it has ended"
        return self._file

    def _check_batches(self, file: OpenFile) -> None:
        """Check every batch, and build the indexes."""
        state, segment = self._state, self._segment
        if self.written_bytes != self.size_bytes:
            reason = f"the source has {self.size_bytes} bytes, it ends here"
            raise CorruptFileError(self._paths.log, self.written_bytes, reason)
        builder = IndexBuilder(
            state.files,
            SegmentFiles(file, None, None),
            self._paths,
            base_offset=segment.base_offset,
            settings=state.settings,
        )
        for position, header, crc_ok in scan_in_order(
            state.files,
            file,
            0,
            self.size_bytes,
            next_offset=segment.base_offset,
            end_bound=segment.end_bound,
        ):
            if not crc_ok:
                raise CorruptFileError(self._paths.log, position, "a batch fails its CRC-32C")
            builder.add(header, position)
        builder.seal()

    def _publish(self) -> None:
        """Give the files their names, and the segment its place."""
        state, paths = self._state, self._segment.paths
        new = Segment(state.directory, self.base_offset, end_bound=self._segment.end_bound)
        new.size = self.size_bytes
        new.verified.add(0, self.size_bytes)
        with state.open_lock:
            old = find_sealed(state, self.base_offset)
            if old is not self._segment:
                raise SegmentsChangedError(f"{paths.log}: the segment is another one by now")
            state.files.rename(self._paths.index, paths.index)
            state.files.rename(self._paths.time_index, paths.time_index)
            state.files.rename(self._paths.log, paths.log)
            try:
                state.files.sync_directory(state.directory)
            except OSError:
                # Nobody was told: it is released still. A start may find it hot, and whole.
                with contextlib.suppress(OSError):
                    state.files.unlink(paths.log)
                raise
            publish(state, old, new, hot_bytes=new.size, released_bytes=-old.size)


def begin_thaw(state: LogState, base_offset: int) -> ThawWriter:
    """Begin to thaw a released segment; see `Log.thaw`."""
    if state.failed is not None:
        raise state.failed
    with state.open_lock:
        segment = find_sealed(state, base_offset)
        if segment.released is None:
            raise SegmentsChangedError(f"{segment.paths.log}: the segment is not released")
        if base_offset in state.thawing:
            raise SegmentsChangedError(f"{segment.paths.log}: the segment is being thawed already")
        state.thawing.add(base_offset)
    path = segment.paths.log + TEMP_SUFFIX
    try:
        file = state.files.create_or_truncate(path)
    except (OSError, LogdError) as error:
        with state.open_lock:
            state.thawing.discard(base_offset)
        raise storage_error(f"{path}: could not be made", error) from error
    return ThawWriter(state, segment, file)
