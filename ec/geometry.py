"""Where a segment's bytes lie in its chunks: pure arithmetic, no bytes.

Layout is contiguous: data chunk i holds the segment's bytes cuts[i] to cuts[i + 1], unchanged. A
cut lies at a batch boundary where one is near enough (then the chunk can be read as log by itself),
else exactly at i/k of the size: client batches of a megabyte would otherwise make the longest
chunk, and with it every parity chunk, much longer than the others.

Bound: a cut is at most size / (64 k) from i/k of the size, so the longest data chunk, which is the
length of every parity chunk, is at most ceil(size / k) + size / (32 k), and what is stored is at
most 1 + (m / k) (1 + 1/32) of the source, rounded up by less than 2 m bytes.

Parity chunks and shorter data chunks are thought of as side by side from position 0: position p of
parity is computed from position p of each data chunk that is that long; the others count as zero.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from ec.profile import Profile

BLOCK_BYTES: Final = 64 * 1024
# How near a batch boundary must be: a 64th of a chunk.
TOLERANCE: Final = 64
SEGMENT_BYTES_MAX: Final = 2**53 - 1  # Exact in every JSON reader.


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes `start` to `end` of something; `end` is not in it."""

    start: int
    end: int

    def __post_init__(self) -> None:
        assert 0 <= self.start <= self.end

    @property
    def size(self) -> int:
        """How many bytes."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class ChunkRange:
    """A range of one chunk's payload."""

    chunk: int
    start: int
    end: int

    def __post_init__(self) -> None:
        assert self.chunk >= 0
        assert 0 <= self.start <= self.end

    @property
    def size(self) -> int:
        """How many bytes."""
        return self.end - self.start


def cut_windows(size: int, k: int) -> tuple[ByteRange, ...]:
    """Return where the k - 1 inner cuts may lie: only there must batch boundaries be known."""
    assert 0 <= size <= SEGMENT_BYTES_MAX
    assert k >= 1
    reach = size // (TOLERANCE * k)
    return tuple(
        ByteRange(max(0, size * i // k - reach), min(size, size * i // k + reach) + 1)
        for i in range(1, k)
    )


def choose_cuts(size: int, k: int, boundaries: Sequence[int]) -> tuple[int, ...]:
    """Return the k + 1 cuts of a segment.

    Args:
        size: of the segment, in bytes.
        boundaries: positions at which a batch begins, sorted; only those inside `cut_windows`
            matter. Of two that are equally near the lower one is taken.
    """
    assert all(a < b for a, b in pairwise(boundaries))
    cuts = [0]
    for i, window in enumerate(cut_windows(size, k), 1):
        ideal = size * i // k
        near = boundaries[
            bisect_left(boundaries, window.start) : bisect_left(boundaries, window.end)
        ]
        cuts.append(min(near, key=lambda position: abs(position - ideal), default=ideal))
    cuts.append(size)
    assert all(a <= b for a, b in pairwise(cuts))
    return tuple(cuts)


def parity_bytes_max(size: int, k: int) -> int:
    """Return the most that a parity chunk's payload can be."""
    assert size >= 0
    return -(-size // k) + 2 * (size // (TOLERANCE * k))


def blocks_of(payload_bytes: int) -> int:
    """Return how many blocks a payload has; the last one may be short."""
    assert payload_bytes >= 0
    return -(-payload_bytes // BLOCK_BYTES)


def covering_blocks(start: int, end: int, payload_bytes: int) -> range:
    """Return the numbers of the blocks that hold a range of a payload."""
    assert 0 <= start <= end <= payload_bytes
    if start == end:
        return range(0)
    return range(start // BLOCK_BYTES, (end - 1) // BLOCK_BYTES + 1)


def block_span(first: int, end: int, payload_bytes: int) -> ByteRange:
    """Return the bytes of blocks `first` to `end`, which is not in it."""
    assert 0 <= first <= end <= blocks_of(payload_bytes)
    return ByteRange(min(first * BLOCK_BYTES, payload_bytes), min(end * BLOCK_BYTES, payload_bytes))


@dataclass(frozen=True, slots=True)
class Geometry:
    """The cuts of one encoding, and what follows from them."""

    profile: Profile
    cuts: tuple[int, ...]

    def __post_init__(self) -> None:
        assert len(self.cuts) == self.profile.k + 1
        assert self.cuts[0] == 0
        assert all(a <= b for a, b in pairwise(self.cuts))

    @property
    def source_bytes(self) -> int:
        """Length of the segment."""
        return self.cuts[-1]

    @property
    def parity_bytes(self) -> int:
        """Payload of each parity chunk: that of the longest data chunk."""
        return max(b - a for a, b in pairwise(self.cuts))

    @property
    def stored_bytes(self) -> int:
        """Payload of all chunks."""
        return self.source_bytes + self.profile.m * self.parity_bytes

    def payload_bytes(self, chunk: int) -> int:
        """Return the length of a chunk's payload."""
        assert 0 <= chunk < self.profile.chunks
        if chunk >= self.profile.k:
            return self.parity_bytes
        return self.cuts[chunk + 1] - self.cuts[chunk]

    def locate(self, start: int, end: int) -> tuple[ChunkRange, ...]:
        """Return the ranges of data chunks that hold the segment's bytes `start` to `end`."""
        assert 0 <= start <= end <= self.source_bytes
        found = []
        for chunk in range(self.profile.k):
            low = max(start, self.cuts[chunk])
            high = min(end, self.cuts[chunk + 1])
            if low < high:
                found.append(ChunkRange(chunk, low - self.cuts[chunk], high - self.cuts[chunk]))
        assert sum(part.size for part in found) == end - start
        return tuple(found)

    def beside(self, chunk: int, start: int, end: int) -> ChunkRange:
        """Return what a chunk really has of the positions `start` to `end`; the rest is zeros."""
        assert 0 <= start <= end
        length = self.payload_bytes(chunk)
        return ChunkRange(chunk, min(start, length), min(end, length))
