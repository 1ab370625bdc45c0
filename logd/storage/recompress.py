"""cold.compression=zstd: a sealed segment's batches compressed anew into a staging file.

The staging file is what is coded, cut, proven and compared in place of the segment's .log, and has
indexes of its own. It is made batch by batch: whole, with a right CRC-32C, then smaller or the same
(`record.recompress`). Offsets, timestamps and producers stay, so only positions differ.

The file loses its name as soon as it is open. So it goes with the object that holds it, on commit,
abort or kill alike; what a crash in between leaves has a name that the next start removes. It is
never synced: nobody needs it after a crash. Its space is looked for while it grows, and keeps off
the reserve.

Memory: a window, one batch, and three times its content. Blocking, for a thread: compressing and
decompressing let go of the interpreter, which batches of a KiB and less do too briefly for another
thread to take it; so whoever calls this pauses now and then, see `on_progress`. Measured with
batches of 1, 16 and 500 KB: what wakes every millisecond woke within 5.0, 4.1 and 3.2 ms (p99)
without pauses, within 2.9, 2.6 and 2.8 ms with a tenth of a millisecond in each, and within 2.4,
1.9 and 2.0 ms where a process of its own compressed. So a thread will do.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol

from logd.errors import CorruptFileError, DiskFullError
from logd.record.batch import (
    HEADER_BYTES,
    BatchHeader,
    has_valid_crc,
    is_plausible,
    read_header,
)
from logd.record.recompress import Recompressor
from logd.storage.files import DISK_FULL_ERRNOS, Buffer, Files, OpenFile
from logd.storage.index_bytes import IndexBytes
from logd.storage.layout import LOG_SUFFIX, TEMP_SUFFIX, segment_file_name
from logd.storage.offset_index import OffsetIndex
from logd.storage.segment_scan import scan_batches
from logd.units import KIB, MIB

STAGING_SUFFIX: Final = f"{LOG_SUFFIX}.zstd{TEMP_SUFFIX}"
CONTENT_BYTES_MAX: Final = 32 * MIB
"""Batches that decompress to more are copied as they are."""

WINDOW_BYTES: Final = 2 * MIB
SPACE_CHECK_BYTES: Final = 16 * MIB
_WRITE_BYTES: Final = MIB


class Source(Protocol):
    """What is recompressed: a sealed segment, open. `SegmentSource` is one.

    Attributes:
        base_offset, next_offset: of the segment.
        size_bytes: of its .log.
        min_timestamp_ms, max_timestamp_ms: of its records.
    """

    base_offset: int
    next_offset: int
    size_bytes: int
    min_timestamp_ms: int
    max_timestamp_ms: int

    def read_into(self, position: int, buffer: memoryview) -> int:
        """Fill the buffer from a position; return the bytes read."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RecompressOrder:
    """How to recompress.

    Attributes:
        directory: where the staging file is made: the partition's.
        level: zstd's.
        reserve_bytes: free space that must be left.
        index_interval_bytes, index_bytes_max: of the indexes.
    """

    directory: str
    level: int
    reserve_bytes: int
    index_interval_bytes: int = 4 * KIB
    index_bytes_max: int = 10 * MIB


class RecompressedSource:
    """A segment's batches in zstd: what is coded in its place. Made by `recompress`.

    Attributes:
        base_offset, next_offset, min_timestamp_ms, max_timestamp_ms: the segment's.
        size_bytes: of the staging file.
        shrunk, copied: how many batches became smaller, and how many stayed as they were.
    """

    def __init__(
        self,
        files: Files,
        file: OpenFile,
        source: Source,
        indexes: tuple[bytes, bytes],
        *,
        size_bytes: int,
        shrunk: int,
        copied: int,
    ) -> None:
        assert 0 < size_bytes <= source.size_bytes
        self._files = files
        self._file: OpenFile | None = file
        self._indexes = indexes
        self._positions = [at for _, at in OffsetIndex.ENTRY.iter_unpack(indexes[0])]
        self.base_offset = source.base_offset
        self.next_offset = source.next_offset
        self.min_timestamp_ms = source.min_timestamp_ms
        self.max_timestamp_ms = source.max_timestamp_ms
        self.size_bytes = size_bytes
        self.shrunk = shrunk
        self.copied = copied

    def _open_file(self) -> OpenFile:
        assert self._file is not None, "closed"
        return self._file

    def read_into(self, position: int, buffer: bytearray | memoryview) -> int:
        """Fill `buffer` from `position`; return the bytes read, fewer only at the end.

        Raises:
            OSError: they cannot be read.
        """
        assert 0 <= position <= self.size_bytes
        view = memoryview(buffer)[: self.size_bytes - position]
        return self._files.read_into(self._open_file(), position, view)

    def indexes(self) -> tuple[bytes, bytes]:
        """Return the offset index and the time index, of the positions in this form."""
        return self._indexes

    def batches_near(
        self, start: int, end: int, *, limit: int | None = None
    ) -> list[tuple[int, int]]:
        """Return (position, base offset) of the batches that begin at `start` .. `end`, exclusive.

        Args:
            limit: not more than so many, the first ones.

        Raises:
            CorruptFileError: what was written is no batch any more. OSError: as `read_into`.
        """
        assert 0 <= start <= end
        end = min(end, self.size_bytes)
        entry = bisect_right(self._positions, start) - 1
        at = self._positions[entry] if entry >= 0 else 0
        scan = scan_batches(self._files, self._open_file(), at, self.size_bytes, verify=False)
        found: list[tuple[int, int]] = []
        for position, header, _ in scan:
            if position >= end or len(found) == limit:
                break
            if position >= start:
                found.append((position, header.base_offset))
        return found

    def close(self) -> None:
        """Let go of the file: its space is free."""
        self._file = None


def recompress(
    files: Files,
    source: Source,
    order: RecompressOrder,
    *,
    on_progress: Callable[[int], None] = lambda _: None,
) -> RecompressedSource | None:
    """Recompress a segment; None if not one of its batches becomes smaller. Blocking.

    The source stays open, and the caller's.

    Args:
        on_progress: is told after each batch of source bytes that are done with; it may pause, and
            what it raises ends the work.

    Raises:
        CorruptFileError: a batch is not what it should be. DiskFullError: no space, or less than
        the reserve would be left. OSError: reading or writing failed. Nothing is left behind.
    """
    assert source.size_bytes > 0
    try:
        return _Staging(files, source, order).run(on_progress)
    except OSError as error:
        if error.errno in DISK_FULL_ERRNOS:
            raise DiskFullError(f"{order.directory}: no space to compress into: {error}") from error
        raise


class _Staging:
    """One recompression."""

    def __init__(self, files: Files, source: Source, order: RecompressOrder) -> None:
        self._files = files
        self._source = source
        self._order = order
        self._path = f"{order.directory}/{segment_file_name(source.base_offset, STAGING_SUFFIX)}"
        self._recompressor = Recompressor(level=order.level, content_bytes_max=CONTENT_BYTES_MAX)
        self._indexes = IndexBytes(
            base_offset=source.base_offset,
            index_bytes_max=order.index_bytes_max,
            index_interval_bytes=order.index_interval_bytes,
        )
        self._buffers: list[Buffer] = []
        self._size = self._written = self._checked = 0
        self._shrunk = self._copied = 0

    def run(self, on_progress: Callable[[int], None]) -> RecompressedSource | None:
        """Do all of it."""
        self._reserve(min(self._source.size_bytes, _WRITE_BYTES))
        file = self._make_file()
        next_offset = self._source.base_offset
        for position, header, data in self._batches():
            if header.base_offset < next_offset or header.next_offset > self._source.next_offset:
                self._refuse(position, f"offset {header.base_offset} does not belong here")
            next_offset = header.next_offset
            self._add(file, header, data)
            on_progress(header.size)
        self._flush(file)
        if not self._shrunk:
            return None
        return RecompressedSource(
            self._files, file, self._source, self._indexes.finish(),
            size_bytes=self._size, shrunk=self._shrunk, copied=self._copied,
        )  # fmt: skip

    def _make_file(self) -> OpenFile:
        """Create the staging file, and take its name away."""
        with contextlib.suppress(FileNotFoundError):  # What an earlier crash left.
            self._files.unlink(self._path)
        file = self._files.create(self._path)
        self._files.unlink(self._path)
        return file

    def _batches(self) -> Iterator[tuple[int, BatchHeader, memoryview]]:
        """Yield every batch of the source: position, header, bytes; its CRC fits."""
        end, position = self._source.size_bytes, 0
        start, window = 0, memoryview(b"")
        while position < end:
            at = position - start
            if at + HEADER_BYTES > len(window):
                start, at, window = position, 0, self._load(position, WINDOW_BYTES)
            if len(window) < HEADER_BYTES:
                self._refuse(position, "the segment ends inside a header")
            header = read_header(window, at)
            if not is_plausible(header) or position + header.size > end:
                self._refuse(position, "no record batch begins here")
            if at + header.size > len(window):
                size = max(WINDOW_BYTES, header.size)
                start, at, window = position, 0, self._load(position, size)
            if len(window) - at < header.size or not has_valid_crc(window, at, header):
                self._refuse(position, f"the batch of offset {header.base_offset} fails its CRC")
            yield position, header, window[at : at + header.size]
            position += header.size

    def _load(self, position: int, size: int) -> memoryview:
        buffer = memoryview(bytearray(min(size, self._source.size_bytes - position)))
        return buffer[: self._source.read_into(position, buffer)]

    def _refuse(self, position: int, reason: str) -> NoReturn:
        name = segment_file_name(self._source.base_offset, LOG_SUFFIX)
        raise CorruptFileError(f"{self._order.directory}/{name}", position, reason)

    def _add(self, file: OpenFile, header: BatchHeader, data: memoryview) -> None:
        """Append a batch, smaller where it can be."""
        smaller = self._recompressor.shrink(header, data)
        out: Buffer = data if smaller is None else smaller
        self._shrunk += smaller is not None
        self._copied += smaller is None
        assert HEADER_BYTES <= len(out) <= header.size
        self._indexes.add(header, self._size, len(out))
        self._buffers.append(out)
        self._size += len(out)
        if self._size - self._written >= _WRITE_BYTES:
            self._flush(file)

    def _flush(self, file: OpenFile) -> None:
        size = self._size - self._written
        if not size:
            return
        if self._size > self._checked:
            self._reserve(size)
        self._files.write_at(file, self._written, self._buffers)
        self._buffers = []
        self._written = self._size

    def _reserve(self, size: int) -> None:
        """Check that so much can be written next.

        Raises:
            DiskFullError: the reserve would be touched.
        """
        free_bytes = self._files.free_bytes(self._order.directory)
        if free_bytes - size < self._order.reserve_bytes:
            raise DiskFullError(
                f"{self._order.directory}: {free_bytes} bytes are free, compressing a segment must "
                f"leave {self._order.reserve_bytes}"
            )
        room_bytes = min(SPACE_CHECK_BYTES, free_bytes - self._order.reserve_bytes)
        self._checked = self._written + room_bytes
