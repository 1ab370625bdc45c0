"""Reading the segments that a round of compaction takes: headers, whole batches, keys.

A segment is read through a window that fits the processor's cache. Where the last batch was not
wanted, and batches are long, only headers are read: most of what a round drops it never looks at a
second time.

Nothing is trusted: headers must be plausible, offsets rise and stay inside the segment, and every
batch whose bytes are used fits its CRC. The memory of a batch is counted before it is read; one
that needs too much is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple, NoReturn

from logd.errors import (
    BatchTooLargeToCompactError,
    CorruptFileError,
    CorruptRecordsError,
    DecompressedTooLargeError,
    UnsupportedFormatError,
)
from logd.record.batch import (
    CONTROL_BIT,
    HEADER_BYTES,
    TRANSACTIONAL_BIT,
    BatchHeader,
    has_valid_crc,
    is_plausible,
    read_header,
)
from logd.record.compression import decompress
from logd.record.keys import RecordKeys, read_keys
from logd.record.survivors import rebuild_batch
from logd.storage.clean_notes import LONG_BATCH_BYTES
from logd.storage.clean_order import SourceSegment
from logd.storage.files import Files
from logd.storage.layout import LOG_SUFFIX, segment_file_name
from logd.units import KIB

WINDOW_BYTES: Final = 256 * KIB
"""Copied, checked and cut while it is in the cache: with 2 MiB it takes an eighth longer."""

HEADER_WINDOW_BYTES: Final = 4 * KIB
RECORD_MEMORY_BYTES: Final = 128
"""What the interpreter takes for a record's key, its place and its number, above its bytes."""


class BatchContent(NamedTuple):
    """A batch's keys, and the bytes that hold its records, decompressed."""

    found: RecordKeys
    content: bytes


class SourceReader:
    """Reads one segment of an order, from its first batch to its last.

    Args:
        on_read: is told of bytes that were read.

    Raises:
        CorruptFileError: from every method: the file is not what the order says, or damaged.
        OSError: it cannot be read.
    """

    def __init__(
        self,
        files: Files,
        directory: str,
        segment: SourceSegment,
        *,
        memory_bytes: int,
        on_read: Callable[[int], None],
    ) -> None:
        self.segment = segment
        self._files = files
        name = segment_file_name(segment.base_offset, LOG_SUFFIX)
        self._file = files.open_read(f"{directory}/{name}")
        self._memory_bytes = memory_bytes
        self._on_read = on_read
        self._start = 0
        self._data = b""
        self._wanted = True
        size = files.size(self._file)
        if size != segment.log_bytes:
            self._refuse(min(size, segment.log_bytes), f"has {size} bytes, not as ordered")

    def headers(
        self, *, start: int = 0, next_offset: int = 0, end: int | None = None
    ) -> Iterator[tuple[int, BatchHeader]]:
        """Yield position and header of each batch, from position `start` up to `end`.

        Args:
            next_offset: there is no lower one from `start` on.
        """
        size = self.segment.log_bytes if end is None else end
        assert 0 <= start <= size <= self.segment.log_bytes
        next_offset = max(next_offset, self.segment.base_offset)
        position, last_bytes = start, 0
        while position < size:
            at = position - self._start
            if not 0 <= at <= len(self._data) - HEADER_BYTES:
                skips = not self._wanted and last_bytes >= LONG_BATCH_BYTES
                self._load(position, HEADER_WINDOW_BYTES if skips else WINDOW_BYTES)
                at = 0
                if len(self._data) < HEADER_BYTES:
                    self._refuse(position, "the file ends inside a header")
            header = read_header(self._data, at)
            if (
                not is_plausible(header)
                or header.base_offset < next_offset
                or header.next_offset > self.segment.end_offset
                or position + header.size > size
            ):
                self._refuse(position, f"no batch of offset {next_offset} or above begins here")
            if header.attributes & (CONTROL_BIT | TRANSACTIONAL_BIT):
                raise UnsupportedFormatError(
                    self._file.path, f"offset {header.base_offset} is of a transaction"
                )
            self._wanted = False
            yield position, header
            last_bytes = header.size
            position += last_bytes
            next_offset = header.next_offset

    def _load(self, position: int, size: int) -> None:
        size = min(size, self.segment.log_bytes - position)
        assert size > 0
        self._data = b""  # Not two windows at a time.
        self._data = self._files.read_at(self._file, position, size)
        self._start = position
        self._on_read(len(self._data))

    def _refuse(self, position: int, reason: str) -> NoReturn:
        raise CorruptFileError(self._file.path, position, reason)

    def _refuse_large(self, position: int, header: BatchHeader, reason: str) -> NoReturn:
        raise BatchTooLargeToCompactError(
            f"{self._file.path}: the batch of offset {header.base_offset} at position {position}: "
            f"{reason}"
        )

    # --- one batch -----------------------------------------------------------------------------

    def whole(self, position: int, header: BatchHeader) -> bytes:
        """Return the bytes of a batch, which fit its CRC."""
        at = self._find(position, header)
        assert 0 <= at <= len(self._data) - header.size
        return self._data[at : at + header.size]

    def _find(self, position: int, header: BatchHeader) -> int:
        """Have the whole batch in the window; return where."""
        self._wanted = True
        assert position + header.size <= self.segment.log_bytes
        at = position - self._start
        if not 0 <= at <= len(self._data) - header.size:
            if header.size > self._memory_bytes:
                self._refuse_large(position, header, f"{header.size} bytes are too many")
            self._load(position, max(header.size, WINDOW_BYTES))
            at = 0
            if len(self._data) < header.size:
                self._refuse(position, "the file ends inside a batch")
        if not has_valid_crc(self._data, at, header):
            self._refuse(position, f"the batch of offset {header.base_offset} fails its CRC-32C")
        return at

    def keys(self, position: int, header: BatchHeader, *, want_starts: bool) -> BatchContent:
        """Return the keys of a batch.

        Raises:
            BatchTooLargeToCompactError: it needs more memory than the round may take.
        """
        room_bytes = self._memory_bytes - header.size - header.count * RECORD_MEMORY_BYTES
        if room_bytes < 0:
            self._refuse_large(position, header, f"{header.count} records need too much memory")
        at = self._find(position, header)
        end = at + header.size
        at += HEADER_BYTES
        if header.count == 0 and at == end:
            return BatchContent(RecordKeys(end=at), self._data)
        try:
            content = self._data
            if header.codec:
                payload = memoryview(content)[at:end]
                content = decompress(header.codec, payload, limit_bytes=room_bytes)
                at, end = 0, len(content)
            found = read_keys(
                content,
                at,
                end,
                header.count,
                last_delta=header.last_offset_delta,
                want_starts=want_starts,
            )
        except DecompressedTooLargeError as error:
            self._refuse_large(position, header, str(error))
        except CorruptRecordsError as error:
            self._refuse(position, f"the batch of offset {header.base_offset}: {error}")
        return BatchContent(found, content)

    def again(self) -> SourceReader:
        """Return another reader of the same segment."""
        return SourceReader(
            self._files,
            self._file.path.rpartition("/")[0],
            self.segment,
            memory_bytes=self._memory_bytes,
            on_read=self._on_read,
        )

    def rebuild(
        self,
        position: int,
        header: BatchHeader,
        content: bytes,
        pieces: Sequence[tuple[int, int]],
        *,
        horizon_ms: int | None,
    ) -> bytearray:
        """Return the batch with these pieces of its content alone; see `rebuild_batch`."""
        assert pieces
        try:
            return rebuild_batch(header, content, pieces, horizon_ms=horizon_ms)
        except CorruptRecordsError as error:
            self._refuse(position, f"the batch of offset {header.base_offset}: {error}")
