"""A range of a chunk file on its way out: all of it verified before the first byte leaves.

Blocks that were verified and are in the page cache go out by sendfile. Others are read and checked
in a thread, and the buffer that was checked is the one that is sent. A range longer than a window
is verified whole first, window by window; then each window goes out either way, so memory is one
window. A window that has gone bad in between ends the body, which the client sees.
"""

from __future__ import annotations

from typing import Final

from ec.chunk_reader import ChunkReader, FileRange
from ec.errors import StoreError
from ec.geometry import ByteRange, covering_blocks
from ec.offload import Offload

WINDOW_BYTES: Final = 4 * 1024 * 1024

Part = memoryview | FileRange


class EmptyBody:
    """The body of an answer to HEAD: its length, and nothing to send."""

    def __init__(self, size: int) -> None:
        assert size >= 0
        self.size = size

    async def next(self) -> Part | None:
        """Return None: there is nothing."""
        return None


class RangeBody:
    """See the module.

    Attributes:
        size: bytes in all.
    """

    def __init__(self, reader: ChunkReader, span: ByteRange, offload: Offload) -> None:
        assert 0 <= span.start < span.end <= reader.head.trailer.file_bytes
        self._reader = reader
        self._offload = offload
        self._windows = windows(span, reader.head.payload_bytes)
        self._next = 0
        self._first: Part | None = None
        self.size = span.size

    async def prepare(self) -> None:
        """Verify everything; nothing may be sent before this returns.

        Raises:
            ChunkDamagedError: a block of it is bad. StoreError: it cannot be read.
        """
        assert self._first is None, "prepared once"
        if len(self._windows) > 1:
            for window in self._windows:
                if not self._is_verified(window):
                    await self._offload.run(self._verify, window)
        self._first = await self._part(self._windows[0])

    async def next(self) -> Part | None:
        """Return the next part, None behind the last.

        Raises:
            As `prepare`: it has become bad since.
        """
        at = self._next
        if at == len(self._windows):
            return None
        self._next += 1
        if at == 0:
            assert self._first is not None, "prepared first"
            part, self._first = self._first, None
            return part
        return await self._part(self._windows[at])

    async def _part(self, window: ByteRange) -> Part:
        assert window.size > 0
        if window.end <= self._reader.head.payload_bytes:
            found = self._reader.sendable_range(window.start, window.end)
            if found is not None:
                return found
        return await self._offload.run(self._read, window)

    def _is_verified(self, window: ByteRange) -> bool:
        if window.start >= self._reader.head.payload_bytes:
            return True  # It is checked, all of it, when it is read.
        return self._reader.verified_range(window.start, window.end) is not None

    def _verify(self, window: ByteRange) -> None:
        blocks = covering_blocks(window.start, window.end, self._reader.head.payload_bytes)
        assert blocks
        try:
            self._reader.verify_blocks(blocks.start, blocks.stop)
        except OSError as error:
            raise StoreError(f"{self._reader.path}: {error}") from error

    def _read(self, window: ByteRange) -> memoryview:
        tail_at = self._reader.head.payload_bytes
        assert window.start >= tail_at or window.end <= tail_at
        try:
            if window.start >= tail_at:
                tail = memoryview(self._reader.tail())
                return tail[window.start - tail_at : window.end - tail_at]
            return self._reader.read(window.start, window.end)
        except OSError as error:
            raise StoreError(f"{self._reader.path}: {error}") from error


def windows(span: ByteRange, payload_bytes: int) -> tuple[ByteRange, ...]:
    """Return a range of a file in pieces: of the payload, in windows, and of what is behind it."""
    assert payload_bytes >= 0
    found = []
    at = span.start
    while at < span.end:
        end = span.end
        if at < payload_bytes:
            # Windows end where blocks do, so that no block is read twice.
            end = min(end, payload_bytes, at - at % WINDOW_BYTES + WINDOW_BYTES)
        found.append(ByteRange(at, end))
        at = end
    return tuple(found)
