"""What repair counts."""

from __future__ import annotations

from logd.metrics import Registry


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
