"""What is sent: the shapes of load that all peers are measured with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from bench.suites.shapes import CLIENT_DEPTH, KIB, MIB, connections_name, shape_name, size_name

# Brokers spread a topic over partitions: with several connections, so does this client.
PARTITIONS: Final = 12


@dataclass(frozen=True, slots=True)
class Shape:
    """How requests are sent; `batch_bytes` 0 is one record of 100 bytes."""

    batch_bytes: int
    connections: int
    depth: int
    partitions: int = 1

    @property
    def name(self) -> str:
        """As rows name it."""
        if not self.batch_bytes:
            shape = shape_name(connections=self.connections, depth=self.depth)
            return f"one record, {shape}"
        parts = f", {self.partitions} partitions" if self.partitions > 1 else ""
        return f"{size_name(self.batch_bytes)}, {connections_name(self.connections)}{parts}"

    @property
    def is_small(self) -> bool:
        """Whether requests are counted, and not bytes."""
        return not self.batch_bytes

    def load(self) -> dict[str, Any]:
        """Return the fields of a ProduceLoad that the shape decides."""
        return {"batch_bytes": self.batch_bytes, "connections": self.connections,
                "depth": self.depth, "partitions": self.partitions}  # fmt: skip


ONE_AT_A_TIME: Final = Shape(0, 1, 1)
FIFTY: Final = Shape(0, 50, 1)
SMALL: Final = (ONE_AT_A_TIME, Shape(0, 1, 10), Shape(0, 1, 100), FIFTY)
LARGE: Final = (
    Shape(64 * KIB, 1, CLIENT_DEPTH),
    Shape(64 * KIB, 4, CLIENT_DEPTH, PARTITIONS),
    Shape(MIB, 1, CLIENT_DEPTH),
    Shape(MIB, 4, CLIENT_DEPTH, PARTITIONS),
)
SHAPES: Final = (*SMALL, *LARGE)
FETCHES: Final = tuple((size, connections) for connections in (1, 4) for size in (MIB, 10 * MIB))
RATES_PER_S: Final = (500, 5000)
