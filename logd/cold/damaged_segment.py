"""A sealed segment of this server that scrub found damaged, as it is listed among the findings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from logd.policy.cold.values import SegmentKey


@dataclass(slots=True, eq=False)
class DamagedSegment:
    """A sealed segment here of which a batch is not right.

    Attributes:
        found_ms, mended_ms: wall clock; None: it is not mended.
    """

    key: SegmentKey
    reason: str
    found_ms: int
    mended_ms: int | None = None

    def as_document(self) -> dict[str, Any]:
        """Return it among the findings; it has no chunk, and no node."""
        return {
            "topic": self.key.topic or self.key.topic_id.hex(),
            "partition": self.key.partition,
            "base_offset": self.key.base_offset,
            "generation": None,
            "chunk": None,
            "node": None,
            "block": None,
            "state": "corrupt",
            "reason": self.reason,
            "found_ms": self.found_ms,
            "mended_ms": self.mended_ms,
        }
