"""What the cold tier's decisions speak of: segments, generations, placements, nodes.

Plain values, as the catalog holds them. A *generation* is one encoding of one segment; its
`encoding` is the uuid that all its chunks carry in their names, so it alone names a generation, and
the chunks of two encodings never mix. A *placement* says which node has, or is to get, one chunk.

The library that codes (`ec`) has words of its own for some of these; decisions do without it, and
`logd.cold`, which knows both, translates.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from logd.config.topic import (
    DATA_CHUNKS_MAX,
    DATA_CHUNKS_MIN,
    PARITY_CHUNKS_MAX,
    PARITY_CHUNKS_MIN,
)
from logd.units import INT64_MAX

ENCODING_BYTES: Final = 16
GENERATION_MAX: Final = 2**53 - 1  # Exact in every JSON reader.

_HEX_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)
_PROFILE: Final = re.compile(r"([1-9][0-9]?)\+([1-9])", re.ASCII)


class ColdState(Enum):
    """The states of one generation of a segment (`logd.policy.cold.states` has the moves).

    HOT and GONE are never in the catalog: before the first record, and after the last.
    """

    HOT = "hot"
    PLANNED = "planned"
    COMMITTED = "committed"
    RELEASED = "released"
    SUPERSEDED = "superseded"
    ABORTED = "aborted"
    DELETING = "deleting"
    GONE = "gone"


LIVE: Final = frozenset((ColdState.COMMITTED, ColdState.RELEASED))
"""Readers use the chunks of these; of one offset, at most one generation is live."""

REMOVABLE: Final = frozenset((ColdState.ABORTED, ColdState.DELETING))
"""The chunks of these, and only of these, are removed as a whole."""


class NodeState(Enum):
    """What is intended with a storage node; whether it answers is `policy.node_health`'s."""

    ACTIVE = "active"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True, order=True)
class SegmentKey:
    """Names a segment: the topic's id, the partition, the first offset it may hold.

    Attributes:
        topic: the topic's name, for people only; "" where it is not known.
    """

    topic_id: bytes
    partition: int
    base_offset: int
    topic: str = field(default="", compare=False, kw_only=True)

    def __str__(self) -> str:
        topic = self.topic or f"with id {self.topic_id.hex()}"
        return f"topic {topic}, partition {self.partition}, segment at offset {self.base_offset}"


@dataclass(frozen=True, slots=True, order=True)
class Profile:
    """k data chunks and m parity chunks; written k+m."""

    k: int
    m: int

    def __post_init__(self) -> None:
        assert DATA_CHUNKS_MIN <= self.k <= DATA_CHUNKS_MAX
        assert PARITY_CHUNKS_MIN <= self.m <= PARITY_CHUNKS_MAX

    @classmethod
    def parse(cls, text: str) -> Profile:
        """Return the profile that `k+m` stands for.

        Raises:
            ValueError: none, or out of bounds.
        """
        found = _PROFILE.fullmatch(text)
        if found is None or not (
            DATA_CHUNKS_MIN <= int(found[1]) <= DATA_CHUNKS_MAX
            and PARITY_CHUNKS_MIN <= int(found[2]) <= PARITY_CHUNKS_MAX
        ):
            low = f"{DATA_CHUNKS_MIN}+{PARITY_CHUNKS_MIN}"
            high = f"{DATA_CHUNKS_MAX}+{PARITY_CHUNKS_MAX}"
            raise ValueError(f"{text!r} is no profile; they go from {low} to {high}")
        return cls(int(found[1]), int(found[2]))

    @property
    def chunks(self) -> int:
        """How many chunks there are: k + m."""
        return self.k + self.m

    def __str__(self) -> str:
        return f"{self.k}+{self.m}"


@dataclass(frozen=True, slots=True, order=True)
class Placement:
    """One chunk on one node.

    Attributes:
        index: 0 to k-1 are data chunks, k to k+m-1 parity chunks.
        is_leaving: the chunk's place is elsewhere now; this copy is to be removed.
    """

    index: int
    node: str
    is_leaving: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One encoding of one segment, as the catalog records it.

    Attributes:
        number: of the encoding, from 1; never used twice for the same offsets.
        encoding: 32 hex digits, different for every attempt.
        next_offset: the offset behind the segment's last record.
        source_bytes: what was coded: the segment, or its recompressed form.
        min_timestamp_ms, max_timestamp_ms: of the records; -1 where there are none.
        changed_ms: wall-clock time of the last change of state.
        is_held: thawed, and not to be released on its own account.
        placements: by index, then node.
    """

    key: SegmentKey
    number: int
    encoding: str
    profile: Profile
    next_offset: int
    source_bytes: int
    min_timestamp_ms: int = -1
    max_timestamp_ms: int = -1
    state: ColdState = ColdState.PLANNED
    changed_ms: int = 0
    is_held: bool = False
    placements: tuple[Placement, ...] = ()

    def __post_init__(self) -> None:
        assert is_encoding(self.encoding)
        assert 1 <= self.number <= GENERATION_MAX
        assert 0 <= self.key.base_offset <= self.next_offset <= INT64_MAX
        assert self.source_bytes >= 0

    @property
    def held(self) -> dict[int, str]:
        """Index of each chunk that has a place, and the node."""
        return {at.index: at.node for at in self.placements if not at.is_leaving}

    @property
    def leaving_nodes(self) -> frozenset[str]:
        """The nodes that have yet to remove a copy whose place is elsewhere now."""
        return frozenset(at.node for at in self.placements if at.is_leaving)

    @property
    def missing(self) -> tuple[int, ...]:
        """The indexes of chunks that have no place."""
        held = self.held
        return tuple(index for index in range(self.profile.chunks) if index not in held)

    def overlaps(self, other: Generation) -> bool:
        """Return whether the two have an offset in common."""
        mine, theirs = self.key, other.key
        return (
            (mine.topic_id, mine.partition) == (theirs.topic_id, theirs.partition)
            and mine.base_offset < other.next_offset
            and theirs.base_offset < self.next_offset
        )

    def __str__(self) -> str:
        return f"{self.key} (generation {self.number}, {self.profile}, {self.state.value})"


@dataclass(frozen=True, slots=True)
class Gone:
    """A generation that was aborted or deleted, and whose chunks were removed: what is left of its
    record.
    """

    key: SegmentKey
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageNode:
    """A storage node, as the catalog records it.

    Attributes:
        name: unique in the cluster, and written into the node's identity file.
        place: its address (`http://host:port`) or its directory.
        identity: 32 hex digits from its identity file: a disk that was made anew is another node.
        rack: nodes of one rack may fail together; None: it has a rack of its own.
    """

    name: str
    place: str
    identity: str
    rack: str | None = None
    state: NodeState = NodeState.ACTIVE


def is_encoding(text: str) -> bool:
    """Return whether a text is an id as we write them: 32 small hex digits."""
    return _HEX_ID.fullmatch(text) is not None
