"""What is known of each chunk of a generation: from the state of its node, and from what was read.

Four answers. A chunk is *missing* or *corrupt* only where somebody knows: its node is there and
said so, or is dead. A node that does not answer for a while, one whose circuit breaker is open, one
that nobody has asked yet: their chunks are *unknown*. Unknown is not lost. Nothing is repaired
because of it, and nothing is ever deleted because of any of the four.

A finding is what reading one chunk on one node showed. It stands until the chunk was seen to be
good there, or has its place elsewhere: a finding about another node's copy does not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from logd.policy.cold.preflight import NodeFacts
from logd.policy.cold.values import Generation, NodeState
from logd.policy.node_health import NodeHealth

ALWAYS_MS: Final = -(2**62)
"""Since when a chunk is lost that has no place on record: longer than any delay."""


class ChunkState(Enum):
    """What is known of a chunk; the values are the words that listings use."""

    LIVE = "live"
    UNKNOWN = "unknown"
    MISSING = "missing"
    CORRUPT = "corrupt"


LOST: Final = frozenset((ChunkState.MISSING, ChunkState.CORRUPT))


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCondition:
    """A storage node, as far as its chunks go.

    Attributes:
        dead_since_ms: when it was found dead, by the monotonic clock; None: it is not.
        is_refused: its circuit breaker lets no call through now.
        is_unseen: nobody has looked yet which chunks it has: it has just come, or come back.
    """

    facts: NodeFacts
    dead_since_ms: int | None = None
    is_refused: bool = False
    is_unseen: bool = False

    def __post_init__(self) -> None:
        assert (self.facts.health is NodeHealth.DEAD) == (self.dead_since_ms is not None)

    @property
    def is_leaving(self) -> bool:
        """Whether its chunks are to go elsewhere."""
        return self.facts.state is NodeState.DRAINING


@dataclass(frozen=True, slots=True, order=True)
class ChunkPlace:
    """One chunk of one encoding on one node."""

    encoding: str
    index: int
    node: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What reading a chunk showed.

    Attributes:
        state: MISSING or CORRUPT.
        found_ms: by the monotonic clock.
        reason: where in the file, and what.
        block: the first one that is bad, where the damage is in the payload.
    """

    state: ChunkState
    found_ms: int
    reason: str
    block: int | None = None

    def __post_init__(self) -> None:
        assert self.state in LOST


@dataclass(frozen=True, slots=True)
class ChunkCondition:
    """What is known of one chunk.

    Attributes:
        node: its place on record; None: it has none.
        since_ms: when it was found lost, by the monotonic clock; 0 where it is not.
        reason: in words; empty where it is live.
        is_leaving: its node is being drained.
    """

    index: int
    node: str | None
    state: ChunkState
    since_ms: int = 0
    reason: str = ""
    is_leaving: bool = False

    @property
    def is_lost(self) -> bool:
        """Whether it is known not to be there, or not to be good."""
        return self.state in LOST

    def __str__(self) -> str:
        where = f"on {self.node}" if self.node is not None else "nowhere"
        words = f"chunk {self.index} {where}: {self.state.value}"
        return f"{words}, {self.reason}" if self.reason else words


@dataclass(frozen=True, slots=True)
class SegmentCondition:
    """What is known of all chunks of a generation, by index."""

    generation: Generation
    chunks: tuple[ChunkCondition, ...]

    @property
    def live(self) -> tuple[int, ...]:
        """The indexes of chunks that can be read now, as far as is known."""
        return tuple(chunk.index for chunk in self.chunks if chunk.state is ChunkState.LIVE)

    @property
    def unknown(self) -> tuple[ChunkCondition, ...]:
        """The chunks of which nothing is known now."""
        return tuple(chunk for chunk in self.chunks if chunk.state is ChunkState.UNKNOWN)

    @property
    def lost(self) -> tuple[ChunkCondition, ...]:
        """The chunks that are missing or corrupt."""
        return tuple(chunk for chunk in self.chunks if chunk.is_lost)

    @property
    def leaving(self) -> tuple[ChunkCondition, ...]:
        """The good chunks on nodes that are being drained."""
        return tuple(
            chunk for chunk in self.chunks if chunk.is_leaving and chunk.state is ChunkState.LIVE
        )

    @property
    def present(self) -> dict[int, str]:
        """Index and node of each chunk that is not known to be lost."""
        return {
            chunk.index: chunk.node
            for chunk in self.chunks
            if chunk.node is not None and not chunk.is_lost
        }

    def __str__(self) -> str:
        bad = [str(chunk) for chunk in self.chunks if chunk.state is not ChunkState.LIVE]
        return f"{self.generation}: {'; '.join(bad) or 'all chunks live'}"


def examine(
    generation: Generation,
    nodes: Mapping[str, NodeCondition],
    findings: Mapping[ChunkPlace, Finding],
) -> SegmentCondition:
    """Return what is known of a generation's chunks.

    Args:
        nodes: by name; of one that is not there nothing is known.
    """
    held = generation.held
    return SegmentCondition(
        generation,
        tuple(
            _examine_chunk(generation, index, held.get(index), nodes, findings)
            for index in range(generation.profile.chunks)
        ),
    )


def _examine_chunk(
    generation: Generation,
    index: int,
    name: str | None,
    nodes: Mapping[str, NodeCondition],
    findings: Mapping[ChunkPlace, Finding],
) -> ChunkCondition:
    if name is None:
        return ChunkCondition(index, None, ChunkState.MISSING, ALWAYS_MS, "it has no place")
    node = nodes.get(name)
    finding = findings.get(ChunkPlace(generation.encoding, index, name))
    leaves = node is not None and node.is_leaving
    if finding is not None:
        since_ms = finding.found_ms
        if node is not None and node.dead_since_ms is not None:
            since_ms = min(since_ms, node.dead_since_ms)
        return ChunkCondition(index, name, finding.state, since_ms, finding.reason, leaves)
    if node is None:
        return ChunkCondition(index, name, ChunkState.UNKNOWN, 0, "nothing is known of its node")
    if node.dead_since_ms is not None:
        why = "its node is dead"
        return ChunkCondition(index, name, ChunkState.MISSING, node.dead_since_ms, why, leaves)
    if node.facts.health is not NodeHealth.LIVE:
        why = f"its node is {node.facts.health.value}"
        return ChunkCondition(index, name, ChunkState.UNKNOWN, 0, why, leaves)
    if node.is_refused or node.is_unseen:
        why = "its node is not asked now, it failed too often of late"
        if node.is_unseen:
            why = "its node has just come, and was not looked through yet"
        return ChunkCondition(index, name, ChunkState.UNKNOWN, 0, why, leaves)
    return ChunkCondition(index, name, ChunkState.LIVE, 0, "", leaves)
