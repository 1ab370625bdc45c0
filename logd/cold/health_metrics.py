"""What /metrics says of repair, computed at scrape: the queue by state, and findings."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Iterator

from logd.cold.chunk_health import ChunkHealth
from logd.cold.repairing import Repairer
from logd.metrics import Registry


def register_health_metrics(registry: Registry, health: ChunkHealth, repairer: Repairer) -> None:
    """Add what is computed at scrape: margins, the queue, findings."""

    def queue() -> Iterator[tuple[dict[str, str], float]]:
        for state, count in Counts(item.state for item in repairer.plan().items).items():
            yield {"state": state}, count

    def findings() -> Iterator[tuple[dict[str, str], float]]:
        for state, count in health.found.items():
            yield {"state": state.value}, count

    def unmended() -> Iterator[tuple[dict[str, str], float]]:
        for state, count in Counts(record.state for record in health.unmended()).items():
            yield {"state": state.value}, count

    registry.family(
        "logd_repair_queue", "Segments that are to be repaired, by what they wait for.",
        "gauge", queue,
    )  # fmt: skip
    registry.family(
        "logd_chunk_findings_total",
        "Chunks that were found missing or corrupt, also before the last start.",
        "counter", findings,
    )  # fmt: skip
    registry.family(
        "logd_chunk_findings_unmended", "Of these, those that are not mended yet.",
        "gauge", unmended,
    )  # fmt: skip
