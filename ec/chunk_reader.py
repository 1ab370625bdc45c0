"""An open chunk file: nothing leaves it that was not verified.

Opening reads and checks everything but the payload; what is kept in memory is some tens of KiB.
A range is read with the blocks around it, each is checked, and the buffer that was checked is the
one that is handed out. Blocks are remembered once verified, so that a server may hand such ranges
to sendfile; that remembers what the device gave, and a block that goes bad under it later is found
by the next scrub, or by the reader of the record batch.

Handles may be used by several threads at once.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ec import checksums
from ec.alignment import aligned_buffer, aligned_part, recycled_buffer
from ec.chunk_file import (
    TRAILER_BYTES,
    ChunkHead,
    Region,
    Trailer,
    check_blocks,
    check_identity,
    decode_head,
    decode_trailer,
    tail_range,
)
from ec.chunk_id import ChunkId
from ec.errors import ChunkDamagedError
from ec.file_system import FileSystem, Handle
from ec.geometry import BLOCK_BYTES, block_span, blocks_of, covering_blocks

# How much is read at once when all of a chunk is verified.
STEP_BLOCKS: Final = 16
# Of a long range past the page cache.
READ_STEP_BLOCKS: Final = 32
# What a device reports for a sector that it cannot read.
_UNREADABLE: Final = (errno.EIO, errno.EBADMSG, errno.EILSEQ)


@dataclass(frozen=True, slots=True)
class FileRange:
    """A verified range of an open file, for sendfile; it keeps the file open."""

    file: Handle
    position: int
    size: int


class ChunkReader:
    """One chunk file, open and its head verified.

    Attributes:
        path: of the file.
        head: all of it but the payload.
    """

    def __init__(self, files: FileSystem, file: Handle, path: str, head: ChunkHead) -> None:
        assert file is not None
        assert head.blocks == blocks_of(head.payload_bytes)
        self._files = files
        self._file = file
        self.path = path
        self.head = head
        # One byte a block; a byte is set whole, so threads do not disturb each other.
        self._verified = bytearray(head.blocks)

    @classmethod
    def open(
        cls, files: FileSystem, path: str, expected: ChunkId | None, *, file: Handle = None
    ) -> ChunkReader:
        """Open a chunk file and verify everything but its payload.

        Args:
            expected: what the file must be; None to take it as what it says it is.
            file: the file, where it is open already.

        Raises:
            ChunkDamagedError: a region is bad, or it is another chunk. ChunkVersionError: it is
            of a newer version. FileNotFoundError: there is none. OSError: it cannot be opened.
        """
        if file is None:
            file = files.open_read(path)
        trailer = read_trailer(files, file, path)
        span = tail_range(trailer)
        tail = _read(files, file, span.start, span.size, path=path, region=trailer.region_at)
        head = decode_head(trailer, tail, path=path)
        if expected is not None:
            check_identity(head, expected, path=path)
        return cls(files, file, path, head)

    def read(self, start: int, end: int, *, past_cache: bool = False) -> memoryview:
        """Return the payload's bytes `start` to `end`, verified.

        Args:
            past_cache: nobody will want them again soon: they need not stay in the page cache.

        Raises:
            ChunkDamagedError: a block around it is bad. OSError: it cannot be read.
        """
        length = self.head.payload_bytes
        assert 0 <= start <= end <= length
        blocks = covering_blocks(start, end, length)
        if not blocks:
            return memoryview(b"")
        span = block_span(blocks.start, blocks.stop, length)
        buffer = recycled_buffer(span.size)  # Filled, or not handed out.
        # Not kept open: that costs less than a hundredth of a read, and would be one more each.
        direct = self._files.open_direct(self._file, writable=False) if past_cache else None
        # Step by step: what has just come is still in the processor's cache when it is hashed.
        step = len(buffer) if direct is None else READ_STEP_BLOCKS * BLOCK_BYTES
        for at in range(0, len(buffer), step):
            self._fill(buffer[at : at + step], blocks.start + at // BLOCK_BYTES, direct)
        return buffer[start - span.start : end - span.start]

    def verify_blocks(self, first: int, end: int, direct: Handle = None) -> None:
        """Read the blocks `first` to `end` and check them, whether they were before or not.

        Args:
            direct: the same file, opened past the page cache; None: as files are read.

        Raises:
            ChunkDamagedError: the first bad one. OSError: they cannot be read.
        """
        assert 0 <= first <= end <= self.head.blocks
        buffer = aligned_buffer(min(end - first, STEP_BLOCKS) * BLOCK_BYTES)
        for block in range(first, end, STEP_BLOCKS):
            self._verify_step(block, min(block + STEP_BLOCKS, end), buffer, direct)

    def _verify_step(self, first: int, end: int, buffer: memoryview, direct: Handle = None) -> None:
        """Verify as many blocks as fit the buffer."""
        span = block_span(first, end, self.head.payload_bytes)
        self._fill(buffer[: span.size], first, direct)

    def verify(self, direct: Handle = None) -> None:
        """Read the whole payload and check it; the head was checked when it was opened.

        Raises:
            As `verify_blocks`.
        """
        self.verify_blocks(0, self.head.blocks, direct)

    def findings(self) -> tuple[ChunkDamagedError, ...]:
        """Return all bad blocks of the payload.

        Raises:
            OSError: it cannot be read, for another reason than a bad sector.
        """
        found: list[ChunkDamagedError] = []
        buffer = aligned_buffer(min(self.head.blocks, STEP_BLOCKS) * BLOCK_BYTES)
        for block in range(0, self.head.blocks, STEP_BLOCKS):
            end = min(block + STEP_BLOCKS, self.head.blocks)
            try:
                self._verify_step(block, end, buffer)
            except ChunkDamagedError:
                found += [bad for at in range(block, end) if (bad := self._finding(at))]
        return tuple(found)

    def _finding(self, block: int) -> ChunkDamagedError | None:
        try:
            self.verify_blocks(block, block + 1)
        except ChunkDamagedError as error:
            return error
        return None

    def drop_cache(self) -> None:
        """Let the next read come from the device; what was verified before counts no more."""
        self._files.drop_cache(self._file)
        self._verified[:] = bytes(len(self._verified))

    def verified_range(self, start: int, end: int) -> FileRange | None:
        """Return a range for sendfile if all its blocks were verified, else None."""
        assert start < end
        blocks = covering_blocks(start, end, self.head.payload_bytes)
        if not all(self._verified[blocks.start : blocks.stop]):
            return None
        return FileRange(self._file, start, end - start)

    def sendable_range(self, start: int, end: int) -> FileRange | None:
        """Return a verified range if sending it would not wait for the device, else None."""
        assert start < end
        found = self.verified_range(start, end)
        if found is None or not self._files.is_cached(self._file, start, end - start):
            return None
        return found

    def tail(self) -> bytes:
        """Return everything behind the payload, read again and verified.

        Raises:
            ChunkDamagedError: it is not what it was when the chunk was opened. OSError.
        """
        span = tail_range(self.head.trailer)
        region = self.head.trailer.region_at
        tail = _read(self._files, self._file, span.start, span.size, path=self.path, region=region)
        if checksums.digest(tail) != self.head.digest:
            reason = "was intact when the file was opened, and is no more"
            raise ChunkDamagedError(
                self.path, region=region(span.start), position=span.start, reason=reason
            )
        return tail

    def _fill(self, buffer: memoryview, first: int, direct: Handle = None) -> None:
        """Read whole blocks into a buffer and check them."""
        count = blocks_of(len(buffer))
        try:
            self._read_blocks(buffer, first, direct)
        except BaseException:  # Whatever it was: what was good once is not known to be now.
            self._verified[first : first + count] = bytes(count)
            raise
        self._verified[first : first + count] = b"\1" * count

    def _read_blocks(self, buffer: memoryview, first: int, direct: Handle) -> None:
        at = first * BLOCK_BYTES
        try:
            done = 0 if direct is None else self._read_pages(direct, at, buffer)
            got = done + self._files.read_into(self._file, at + done, buffer[done:])
        except OSError as error:
            raise _unreadable(error, self.path, "payload", at) from error
        if got != len(buffer):
            reason = "the file ends here"
            raise ChunkDamagedError(self.path, region="payload", position=at + got, reason=reason)
        check_blocks(self.head, first, buffer, path=self.path)

    def _read_pages(self, direct: Handle, at: int, buffer: memoryview) -> int:
        """Read the buffer's whole pages past the cache; return how much came, 0 where none does."""
        pages = buffer[: aligned_part(len(buffer))]
        try:
            return self._files.read_into(direct, at, pages) if len(pages) else 0
        except OSError as error:
            if error.errno == errno.EINVAL:  # No such way here, or the file ends within a page.
                return 0
            raise


def _read(
    files: FileSystem,
    file: Handle,
    position: int,
    size: int,
    *,
    path: str,
    region: Callable[[int], Region],
) -> bytes:
    """Return exactly that many bytes.

    Raises:
        ChunkDamagedError: the device cannot read them, or the file ends before. OSError.
    """
    try:
        data = files.read_at(file, position, size)
    except OSError as error:
        raise _unreadable(error, path, region(position), position) from error
    if len(data) != size:
        at = position + len(data)
        reason = "the file ends here"
        raise ChunkDamagedError(path, region=region(at), position=at, reason=reason)
    return data


def _unreadable(error: OSError, path: str, region: Region, position: int) -> Exception:
    """Return a bad sector as damage, any other error as it is."""
    if error.errno not in _UNREADABLE:
        return error
    reason = f"the device cannot read it: {error.strerror}"
    return ChunkDamagedError(path, region=region, position=position, reason=reason)


def read_trailer(files: FileSystem, file: Handle, path: str) -> Trailer:
    """Return a chunk file's trailer alone: enough to know which chunk it is and how long.

    Raises:
        ChunkDamagedError, ChunkVersionError, OSError: as `ChunkReader.open`.
    """
    size = files.size(file)
    assert size >= 0
    at = max(0, size - TRAILER_BYTES)
    last = _read(files, file, at, size - at, path=path, region=lambda _: "trailer")
    return decode_trailer(last, file_bytes=size, path=path)
