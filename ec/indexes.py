"""A segment's two indexes, cut to its chunks and put together again.

Entries are Kafka's and pass through byte for byte: 8 bytes a position (offset less the segment's
base, position in the segment) and 12 bytes a time (timestamp in ms, offset less the base), both
big-endian and rising. Parity chunks carry all entries; a data chunk carries those of the batches
that begin in it, so that all data chunks one behind the other carry all of them again.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

POSITION_ENTRY: Final = struct.Struct(">ii")
TIME_ENTRY: Final = struct.Struct(">qi")
# A segment of 2 GiB has an entry every 4 KiB; four times as much is not an index of ours.
INDEX_BYTES_MAX: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Indexes:
    """The entries of both indexes as they stand in files.

    Raises:
        ValueError: a length is no multiple of the entry's, or beyond `INDEX_BYTES_MAX`.
    """

    offsets: bytes = b""
    times: bytes = b""

    def __post_init__(self) -> None:
        for data, entry in ((self.offsets, POSITION_ENTRY), (self.times, TIME_ENTRY)):
            if len(data) % entry.size or len(data) > INDEX_BYTES_MAX:
                raise ValueError(f"an index of {len(data)} bytes, with entries of {entry.size}")

    @property
    def size(self) -> int:
        """Bytes of both."""
        return len(self.offsets) + len(self.times)


def split(
    whole: Indexes, cuts: Sequence[int], first_offsets: Sequence[int | None]
) -> tuple[Indexes, ...]:
    """Return the entries of each data chunk.

    Args:
        cuts: the k + 1 cuts of the segment.
        first_offsets: per data chunk, the offset less the segment's base of the first batch that
            begins in it; None where none does.
    """
    k = len(first_offsets)
    assert len(cuts) == k + 1
    positions = [position for _, position in POSITION_ENTRY.iter_unpack(whole.offsets)]
    offsets = [offset for _, offset in TIME_ENTRY.iter_unpack(whole.times)]
    parts = []
    position_at = time_at = 0
    for chunk in range(k):
        position_end, time_end = len(positions), len(offsets)
        if chunk < k - 1:
            position_end = bisect_left(positions, cuts[chunk + 1], position_at)
            following = [first for first in first_offsets[chunk + 1 :] if first is not None]
            if following:
                time_end = bisect_left(offsets, following[0], time_at)
        parts.append(_slice(whole, (position_at, position_end), (time_at, time_end)))
        position_at, time_at = position_end, time_end
    assert join(parts) == whole
    return tuple(parts)


def join(parts: Sequence[Indexes]) -> Indexes:
    """Return the whole indexes from those of all data chunks."""
    assert parts
    return Indexes(b"".join(part.offsets for part in parts), b"".join(part.times for part in parts))


def _slice(whole: Indexes, positions: tuple[int, int], times: tuple[int, int]) -> Indexes:
    assert positions[0] <= positions[1]
    assert times[0] <= times[1]
    return Indexes(
        whole.offsets[positions[0] * POSITION_ENTRY.size : positions[1] * POSITION_ENTRY.size],
        whole.times[times[0] * TIME_ENTRY.size : times[1] * TIME_ENTRY.size],
    )
