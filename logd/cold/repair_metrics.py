"""What repair and scrub count."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Iterator
from typing import TYPE_CHECKING

from logd.metrics import Registry

if TYPE_CHECKING:
    from logd.cold.chunk_health import ChunkHealth
    from logd.cold.repairing import Repairer


class RepairMetrics:
    """Counters of repair."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.read_bytes = registry.counter(
            "logd_repair_read_bytes_total", "Bytes of chunks that repair and moves read."
        )
        self.written_bytes = registry.counter(
            "logd_repair_written_bytes_total", "Bytes of chunks that repair and moves wrote."
        )
        self.failures = registry.counter(
            "logd_repair_failures_total", "Repairs of a segment that failed; they are tried again."
        )

    def made(self, method: str) -> None:
        """Count a chunk that was made."""
        self._registry.counter(
            "logd_repair_chunks_total", "Chunks that were made again or moved.", method=method
        ).add()


def register_health_metrics(registry: Registry, health: ChunkHealth, repairer: Repairer) -> None:
    """Add what is computed at scrape: margins, the queue, findings."""

    def margins() -> Iterator[tuple[dict[str, str], float]]:
        for name, count in health.counts().as_words().items():
            yield {"margin": name}, count

    def queue() -> Iterator[tuple[dict[str, str], float]]:
        for state, count in Counts(item.state for item in repairer.plan().items).items():
            yield {"state": state}, count

    def findings() -> Iterator[tuple[dict[str, str], float]]:
        for state, count in health.found.items():
            yield {"state": state.value}, count

    registry.family(
        "logd_segments_by_margin",
        "Coded segments by how many more nodes can be lost; lost: cannot be read whole.",
        "gauge", margins,
    )  # fmt: skip
    registry.family(
        "logd_repair_queue", "Segments that are to be repaired, by what they wait for.",
        "gauge", queue,
    )  # fmt: skip
    registry.family(
        "logd_chunk_findings_total", "Chunks that were found missing or corrupt.",
        "counter", findings,
    )  # fmt: skip
