"""The open files of one segment: the log, its offset index, its time index.

An active segment's are writable. Its indexes come into being with the first entry, so a partition
without appends has none: `index` and `time_index` are None until then, and a look-up starts at the
segment's first byte. A sealed segment's are read-only and always there: what is missing or wrong is
rebuilt from the log when the segment is opened.

A rebuilt index is written beside the old one, sealed (synced) and renamed over it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from logd.errors import CorruptFileError
from logd.record.batch import BatchHeader
from logd.record.timestamps import batch_timestamp_ms
from logd.storage.damage import DamagedRange
from logd.storage.file_slice import NO_FILE
from logd.storage.files import Files, OpenFile
from logd.storage.layout import (
    INDEX_SUFFIX,
    LOG_SUFFIX,
    TEMP_SUFFIX,
    TIME_INDEX_SUFFIX,
    segment_file_name,
)
from logd.storage.log_settings import LogSettings
from logd.storage.offset_index import OffsetIndex
from logd.storage.released import ReleasedSegment
from logd.storage.segment_scan import scan_in_order
from logd.storage.time_index import TimeIndex

MaxTimestamp = tuple[int, int]
"""The greatest timestamp of a segment, -1 for none, and the last offset of the batch that has
it."""


@dataclass(frozen=True, slots=True)
class SegmentPaths:
    """The names of one segment's files."""

    log: str
    index: str
    time_index: str


def segment_paths(directory: str, base_offset: int) -> SegmentPaths:
    """Return the paths of a segment's files."""
    return SegmentPaths(
        f"{directory}/{segment_file_name(base_offset, LOG_SUFFIX)}",
        f"{directory}/{segment_file_name(base_offset, INDEX_SUFFIX)}",
        f"{directory}/{segment_file_name(base_offset, TIME_INDEX_SUFFIX)}",
    )


class SegmentFiles:
    """The open files of a segment. The indexes may come later, and only from the log's writer."""

    __slots__ = ("file", "index", "time_index")

    def __init__(
        self, file: OpenFile, index: OffsetIndex | None, time_index: TimeIndex | None
    ) -> None:
        self.file = file
        self.index = index
        self.time_index = time_index


class IndexBuilder:
    """Adds the entries of batches, one by one, to the indexes of a segment.

    The same rule as when appending, and Kafka's: once more than index.interval.bytes came since the
    last entry, the next batch gets one, in both indexes. They are made when the first entry comes.
    """

    __slots__ = (
        "_base_offset",
        "_files",
        "_opened",
        "_paths",
        "_settings",
        "bytes_since_entry",
        "max_timestamp",
    )

    def __init__(
        self,
        files: Files,
        opened: SegmentFiles,
        paths: SegmentPaths,
        *,
        base_offset: int,
        settings: LogSettings,
        max_timestamp: MaxTimestamp | None = None,
    ) -> None:
        self._files = files
        self._opened = opened
        self._paths = paths
        self._base_offset = base_offset
        self._settings = settings
        self.bytes_since_entry = 0
        self.max_timestamp = (-1, base_offset) if max_timestamp is None else max_timestamp

    def add(self, header: BatchHeader, position: int) -> None:
        """Take in the batch at `position`, the next one of the segment."""
        timestamp_ms = batch_timestamp_ms(header)
        if timestamp_ms > self.max_timestamp[0]:
            self.max_timestamp = (timestamp_ms, header.last_offset)
        if self.bytes_since_entry > self._settings.index_interval_bytes:
            self._add_entry(header.last_offset, position)
            self.bytes_since_entry = 0
        self.bytes_since_entry += header.size

    def _add_entry(self, last_offset: int, position: int) -> None:
        """Add an entry. Full indexes stay as they are: they are sparser, not wrong."""
        index, time_index = self.ensure()
        if not index.is_full:
            index.append(last_offset, position)
        if not time_index.is_full and self.max_timestamp[0] >= 0:
            time_index.append(*self.max_timestamp)

    def ensure(self) -> tuple[OffsetIndex, TimeIndex]:
        """Return both indexes, made if need be."""
        opened = self._opened
        if opened.index is None or opened.time_index is None:
            create_indexes(
                self._files,
                opened,
                self._paths,
                base_offset=self._base_offset,
                settings=self._settings,
            )
        assert opened.index is not None
        assert opened.time_index is not None
        return opened.index, opened.time_index

    def seal(self) -> None:
        """Add the segment's greatest timestamp, for which a slot is kept; cut to size and sync."""
        index, time_index = self.ensure()
        if self.max_timestamp[0] >= 0:
            time_index.append(*self.max_timestamp)
        index.seal()
        time_index.seal()


def create_segment(
    files: Files,
    directory: str,
    base_offset: int,
    *,
    settings: LogSettings,
    with_indexes: bool,
) -> SegmentFiles:
    """Make the files of a new, empty segment. Their names count after the directory's sync.

    Raises:
        OSError: what was made is removed again, as far as that is possible.
    """
    paths = segment_paths(directory, base_offset)
    try:
        opened = SegmentFiles(files.create(paths.log), None, None)
        if with_indexes:
            create_indexes(files, opened, paths, base_offset=base_offset, settings=settings)
    except OSError:
        remove_segment(files, paths)
        raise
    return opened


def create_indexes(
    files: Files,
    opened: SegmentFiles,
    paths: SegmentPaths,
    *,
    base_offset: int,
    settings: LogSettings,
) -> None:
    """Make the indexes of an active segment that has none yet.

    Raises:
        OSError: no space for them; the segment is as it was.
    """
    max_bytes = settings.segment_index_bytes
    index = OffsetIndex.create(files, paths.index, base_offset=base_offset, max_bytes=max_bytes)
    opened.time_index = TimeIndex.create(
        files, paths.time_index, base_offset=base_offset, max_bytes=max_bytes
    )
    opened.index = index


def remove_segment(files: Files, paths: SegmentPaths) -> None:
    """Unlink a segment that nobody ever used, best effort: what is left is empty."""
    for path in (paths.index, paths.time_index, paths.log):
        # The disk is full or broken already; recovery removes or adopts what stays behind.
        with contextlib.suppress(OSError):
            files.unlink(path)


def open_sealed(
    files: Files,
    paths: SegmentPaths,
    *,
    base_offset: int,
    end_bound: int,
    settings: LogSettings,
    damaged: Sequence[DamagedRange],
) -> SegmentFiles:
    """Open a sealed segment to read; rebuild its indexes if they are missing or wrong.

    Args:
        end_bound: all offsets in the segment lie below.
        damaged: the segment's damaged ranges, which a rebuild steps over.

    Raises:
        CorruptFileError: the log is damaged where nobody knew, found while rebuilding.
        OSError: a file cannot be opened, or the rebuilt index not written.
    """
    file = files.open_read(paths.log)
    size = files.size(file)
    try:
        index = OffsetIndex.open(
            files,
            paths.index,
            base_offset=base_offset,
            max_bytes=settings.segment_index_bytes,
            writable=False,
        )
        index.check_fits(next_offset=end_bound, log_bytes=size)
        time_index = TimeIndex.open(
            files,
            paths.time_index,
            base_offset=base_offset,
            max_bytes=settings.segment_index_bytes,
            writable=False,
        )
        time_index.check_fits(next_offset=end_bound)
    except (FileNotFoundError, CorruptFileError):
        return rebuild_sealed(
            files,
            paths,
            file,
            base_offset=base_offset,
            end_bound=end_bound,
            settings=settings,
            damaged=damaged,
        )
    return SegmentFiles(file, index, time_index)


def open_released(
    files: Files, paths: SegmentPaths, released: ReleasedSegment, *, settings: LogSettings
) -> tuple[SegmentFiles, bool]:
    """Open what is here of a released segment: its indexes; also return whether both can be used.

    Nothing here can rebuild one. Without it, who reads the segment starts at its first byte.
    """
    bounds = {"base_offset": released.base_offset, "max_bytes": settings.segment_index_bytes}
    opened = SegmentFiles(NO_FILE, None, None)
    with contextlib.suppress(CorruptFileError, OSError):
        index = OffsetIndex.open(files, paths.index, writable=False, **bounds)
        index.check_fits(next_offset=released.next_offset, log_bytes=released.size_bytes)
        opened.index = index
    with contextlib.suppress(CorruptFileError, OSError):
        time_index = TimeIndex.open(files, paths.time_index, writable=False, **bounds)
        time_index.check_fits(next_offset=released.next_offset)
        opened.time_index = time_index
    return opened, opened.index is not None and opened.time_index is not None


def rebuild_sealed(
    files: Files,
    paths: SegmentPaths,
    file: OpenFile,
    *,
    base_offset: int,
    end_bound: int,
    settings: LogSettings,
    damaged: Sequence[DamagedRange],
) -> SegmentFiles:
    """Build both indexes of a sealed segment anew from its log.

    Durability: a crash leaves the old files, or new ones, which say the same.

    Raises:
        CorruptFileError: the log is damaged where nobody knew. OSError: no space, unreadable.
    """
    temporary = SegmentPaths(paths.log, paths.index + TEMP_SUFFIX, paths.time_index + TEMP_SUFFIX)
    assert base_offset <= end_bound
    opened = SegmentFiles(file, None, None)
    builder = IndexBuilder(files, opened, temporary, base_offset=base_offset, settings=settings)
    for start, end in healthy_ranges(damaged, files.size(file)):
        for position, header, _ in scan_in_order(
            files,
            file,
            start,
            end,
            next_offset=base_offset,
            end_bound=end_bound,
            verify=False,
        ):
            builder.add(header, position)
            base_offset = header.next_offset
    builder.seal()
    files.rename(temporary.index, paths.index)
    files.rename(temporary.time_index, paths.time_index)
    files.sync_directory(paths.log.rpartition("/")[0])
    return opened


def healthy_ranges(damaged: Sequence[DamagedRange], size: int) -> list[tuple[int, int]]:
    """Return the byte ranges of a log of `size` bytes that lie between its damaged ones."""
    ranges = []
    start = 0
    for entry in damaged:
        assert entry.position >= start or entry.end_position <= start
        if entry.position > start:
            ranges.append((start, min(entry.position, size)))
        start = max(start, entry.end_position)
    if start < size:
        ranges.append((start, size))
    return ranges
