"""A segment coded window by window, in memory that does not depend on its length; no I/O.

A window is the same range of every chunk. Its k data parts are read from k places of the segment
into buffers that are used again; the parity parts are computed, and every block of all k+m parts is
hashed while it is still in the processor's cache. The segment is read once, nothing is copied.

Windows are coded in order, by one caller at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ec.alignment import aligned_buffer
from ec.checksums import BLOCK_CHECKSUM_BYTES, block_checksums
from ec.codec import Codec
from ec.geometry import BLOCK_BYTES, ByteRange, Geometry, blocks_of
from ec.profile import Profile

# Of two sets of buffers, whatever the profile: long windows cost fewer changes of threads.
BUFFER_BYTES: Final = 24 * 1024 * 1024
# Coded and hashed at once: a step of all chunks stays in the processor's second cache, about.
STEP_BYTES: Final = 256 * 1024


def window_bytes_of(profile: Profile) -> int:
    """Return how long a window of each chunk is, so that two sets of buffers fit the limit."""
    steps = BUFFER_BYTES // (2 * profile.chunks * STEP_BYTES)
    assert steps >= 1
    return steps * STEP_BYTES


class SegmentCoder:
    """See the module.

    Attributes:
        shape: where the segment's bytes lie.
        windows: how many there are; 0 for an empty segment.
    """

    def __init__(self, shape: Geometry, codec: Codec, *, window_bytes: int | None = None) -> None:
        if window_bytes is None:
            window_bytes = window_bytes_of(shape.profile)
        assert window_bytes > 0
        assert window_bytes % BLOCK_BYTES == 0 == STEP_BYTES % BLOCK_BYTES
        assert codec.profile == shape.profile
        self.shape = shape
        self.windows = -(-shape.parity_bytes // window_bytes)
        self._lengths = tuple(map(shape.payload_bytes, range(shape.profile.chunks)))
        self._codec = codec
        self._window_bytes = window_bytes
        self._checksums = [bytearray() for _ in range(shape.profile.chunks)]
        self._coded = 0

    def make_buffers(self) -> list[memoryview]:
        """Return a buffer for each chunk, for `code`; two sets let reading overlap with writing.

        They begin at pages, so that a device can take them as they are.
        """
        size = min(self._window_bytes, self.shape.parity_bytes)
        return [aligned_buffer(size) for _ in range(self.shape.profile.chunks)]

    def parts(self, window: int) -> tuple[ByteRange, ...]:
        """Return what each chunk really has of a window, as ranges of its payload."""
        assert 0 <= window < self.windows
        start = window * self._window_bytes
        end = start + self._window_bytes
        return tuple(ByteRange(min(start, length), min(end, length)) for length in self._lengths)

    def sources(self, window: int) -> tuple[ByteRange, ...]:
        """Return where in the segment the data parts of a window are; some may be empty."""
        k, cuts = self.shape.profile.k, self.shape.cuts
        return tuple(
            ByteRange(cuts[chunk] + part.start, cuts[chunk] + part.end)
            for chunk, part in enumerate(self.parts(window)[:k])
        )

    def code(self, window: int, buffers: Sequence[memoryview]) -> tuple[memoryview, ...]:
        """Compute a window's parity and all its checksums.

        Args:
            buffers: one a chunk; the data parts stand at the beginning of the first k.

        Returns:
            The part of each chunk, data and parity: views of the buffers, some empty.
        """
        assert window == self._coded, "windows are coded in order"
        assert len(buffers) == self.shape.profile.chunks
        start = window * self._window_bytes
        sizes = [min(max(0, length - start), self._window_bytes) for length in self._lengths]
        for low in range(0, sizes[-1], STEP_BYTES):
            self._code_step(sizes, buffers, low, min(low + STEP_BYTES, sizes[-1]))
        self._coded += 1
        return tuple(buffer[:real] for real, buffer in zip(sizes, buffers, strict=True))

    def _code_step(
        self, sizes: Sequence[int], buffers: Sequence[memoryview], low: int, high: int
    ) -> None:
        """Compute parity and checksums of the bytes `low` to `high` of a window."""
        k = self.shape.profile.k
        assert low < high <= sizes[-1]
        data: list[memoryview | None] = []
        for real, buffer in zip(sizes[:k], buffers, strict=False):
            if low < real < high:
                buffer[real:high] = bytes(high - real)
            data.append(buffer[low:high] if low < real else None)
        self._codec.encode(data, [buffer[low:high] for buffer in buffers[k:]])
        for found, real, buffer in zip(self._checksums, sizes, buffers, strict=True):
            if low < real:
                found += block_checksums(buffer[low : min(real, high)])

    def checksums(self, chunk: int) -> bytes:
        """Return the block checksums of a chunk, when all windows are coded."""
        assert self._coded == self.windows
        found = bytes(self._checksums[chunk])
        assert len(found) == blocks_of(self.shape.payload_bytes(chunk)) * BLOCK_CHECKSUM_BYTES
        return found
