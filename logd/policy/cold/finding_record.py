"""What was found wrong with chunks, as it is remembered: also when it is mended.

A disk that rots a block a week is seen only by who keeps a list. Records say where (segment, chunk,
node, block), what, when it was found and when it was mended; those of quarantine say what was put
aside and why. They are history: what is known of a chunk now is `policy.cold.condition`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from logd.policy.cold.condition import ChunkPlace, ChunkState
from logd.policy.cold.values import SegmentKey

REASON_MAX: Final = 300
"""Characters of a reason that are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingRecord:
    """A chunk that was found missing or corrupt.

    Attributes:
        generation: the number of the encoding.
        block: the first one that is bad, where the damage is in the payload; else None.
        found_ms, mended_ms: wall clock; None: it is not mended.
    """

    key: SegmentKey
    generation: int
    place: ChunkPlace
    state: ChunkState
    reason: str
    found_ms: int
    mended_ms: int | None = None
    block: int | None = None

    def as_document(self, topic_name: Callable[[bytes], str | None]) -> dict[str, Any]:
        """Return it as status and scrub show it."""
        return {
            "topic": topic_name(self.key.topic_id) or self.key.topic_id.hex(),
            "partition": self.key.partition,
            "base_offset": self.key.base_offset,
            "generation": self.generation,
            "chunk": self.place.index,
            "node": self.place.node,
            "block": self.block,
            "state": self.state.value,
            "reason": self.reason,
            "found_ms": self.found_ms,
            "mended_ms": self.mended_ms,
        }


@dataclass(frozen=True, slots=True)
class PutAside:
    """A chunk that no record explained, and that was moved to its node's quarantine.

    Attributes:
        chunk: the name of its file.
        at_ms: wall clock.
    """

    node: str
    chunk: str
    reason: str
    at_ms: int

    def as_document(self) -> dict[str, Any]:
        """Return it as status and scrub show it."""
        return {
            "node": self.node,
            "chunk": self.chunk,
            "reason": self.reason,
            "at_ms": self.at_ms,
        }


def shortened(reason: str) -> str:
    """Return a reason as it is kept."""
    return reason if len(reason) <= REASON_MAX else f"{reason[: REASON_MAX - 1]}…"
