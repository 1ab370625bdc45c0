"""Read plans: which ranges of which chunks give a range of a segment, as values.

A living data chunk is read as it is, one byte for a byte, whatever else is lost. A range of a lost
one is computed from the same range of k others: data chunks first and then parity 0, which is xor;
the zeros behind shorter chunks are not read. For small ranges one chunk more than needed is asked
and the first k to come are used: waiting for the slowest of k costs more than the surplus bytes.
What fewer than k chunks are left for is a gap, and the rest of the range is served.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from ec.geometry import ByteRange, ChunkRange, Geometry

# Above this the surplus bytes cost more than waiting for the slowest.
SPARE_BYTES_MAX: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Direct:
    """Bytes that lie in a living chunk."""

    source: ByteRange
    part: ChunkRange


@dataclass(frozen=True, slots=True)
class Decode:
    """Bytes of a lost chunk, to be computed.

    Attributes:
        source: the range of the segment.
        part: the range of the lost chunk.
        survivors: k or, with a spare, k + 1 ranges; any k of them do. One may be shorter than
            `part`, or empty: zeros follow it.
    """

    source: ByteRange
    part: ChunkRange
    survivors: tuple[ChunkRange, ...]

    @property
    def read_bytes(self) -> int:
        """How many bytes are asked for."""
        assert self.survivors
        return sum(survivor.size for survivor in self.survivors)


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes that nothing gives any more: fewer than k chunks are left.

    Attributes:
        part: the range of the lost chunk.
        left: how many chunks there are.
    """

    source: ByteRange
    part: ChunkRange
    left: int


Step = Direct | Decode | Gap


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """The steps that give a range of a segment, in order."""

    steps: tuple[Step, ...]

    @property
    def is_complete(self) -> bool:
        """Whether there is no gap."""
        return not any(isinstance(step, Gap) for step in self.steps)

    @property
    def is_degraded(self) -> bool:
        """Whether something must be computed."""
        return any(isinstance(step, Decode) for step in self.steps)


def plan_read(
    shape: Geometry,
    wanted: ByteRange,
    usable: Collection[int],
    *,
    preferred: Sequence[int] = (),
    spare: bool = True,
) -> ReadPlan:
    """Return how to read a range of a segment.

    Args:
        usable: indexes of the chunks that can be read.
        preferred: those to decode from first, the fastest say; after them, data before parity.
        spare: whether small ranges are asked of one chunk more than needed.
    """
    assert wanted.end <= shape.source_bytes
    assert all(0 <= index < shape.profile.chunks for index in usable)
    steps: list[Step] = []
    for part in shape.locate(wanted.start, wanted.end):
        start = shape.cuts[part.chunk] + part.start
        source = ByteRange(start, start + part.size)
        if part.chunk in usable:
            steps.append(Direct(source, part))
        elif len(usable) < shape.profile.k:
            steps.append(Gap(source, part, len(usable)))
        else:
            order = _decode_order(usable, preferred)
            count = shape.profile.k + int(spare and part.size <= SPARE_BYTES_MAX)
            survivors = tuple(shape.beside(index, part.start, part.end) for index in order[:count])
            steps.append(Decode(source, part, survivors))
    return ReadPlan(tuple(steps))


def _decode_order(usable: Collection[int], preferred: Sequence[int]) -> list[int]:
    """Return the usable chunks, those to ask first at the front."""
    assert len(set(preferred)) == len(preferred)
    first = [index for index in preferred if index in usable]
    return [*first, *sorted(set(usable) - set(first))]
