"""What a salvage found and wrote: by partition, what there is now and what no chunk gives."""

from __future__ import annotations

from dataclasses import dataclass, field

from ec.chunk_id import ChunkId
from logd.cold.chunk_search import SearchResult
from logd.policy.cold.salvage import Missing, Offsets


@dataclass(frozen=True, slots=True)
class SalvagedSegment:
    """A segment that was written.

    Attributes:
        offsets: what it gives; the first one names it.
        is_whole: all of the encoding's segment.
        is_computed: a part of it was decoded.
    """

    offsets: Offsets
    size_bytes: int
    generation: int
    encoding: str
    is_whole: bool
    is_computed: bool


@dataclass(slots=True)
class SalvagedPartition:
    """What became of one partition.

    Attributes:
        directory: where its segments are; None if there are none.
        missing: what no chunk gives.
        left_out: encodings that nothing was taken from, and why.
    """

    topic: str
    topic_id: str
    partition: int
    directory: str | None = None
    segments: list[SalvagedSegment] = field(default_factory=list)
    missing: tuple[Missing, ...] = ()
    left_out: list[str] = field(default_factory=list)


@dataclass(slots=True)
class SalvageReport:
    """All that was found and done.

    Attributes:
        unknown: names of chunks of segments that no other chunk tells of: all of it is lost.
    """

    found: SearchResult
    partitions: list[SalvagedPartition] = field(default_factory=list)
    unknown: list[ChunkId] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether all that chunks were found of is there."""
        gaps = any(each.missing for each in self.partitions)
        return not (gaps or self.unknown or self.found.unreadable)
