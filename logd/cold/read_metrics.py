"""What reads of coded segments count."""

from __future__ import annotations

from logd.cold.runs import Run
from logd.metrics import LATENCY_BOUNDS_SECONDS, Registry


class ReadMetrics:
    """What reads count."""

    def __init__(self, registry: Registry) -> None:
        reads = "logd_cold_reads_total"
        about = "Reads of ranges of coded segments, by how it went."
        self.healthy = registry.counter(reads, about, result="healthy")
        self.degraded = registry.counter(reads, about, result="degraded")
        self.failed = registry.counter(reads, about, result="failed")
        self.bytes = registry.counter(
            "logd_cold_read_bytes_total", "Bytes that were read of coded segments, verified."
        )
        self.seconds = registry.histogram(
            "logd_cold_read_seconds", "How long reading a run of batches took.",
            LATENCY_BOUNDS_SECONDS,
        )  # fmt: skip
        self.ahead_hits = registry.counter(
            "logd_cold_read_ahead_hits_total", "Runs that were there before they were asked for."
        )
        self.ahead_bytes = registry.counter(
            "logd_cold_read_ahead_bytes_total", "Bytes that were read ahead and came to use."
        )

    def served(self, run: Run) -> None:
        """Count the first use of a run."""
        if run.is_ahead and not run.is_claimed:
            self.ahead_hits.value += 1
            self.ahead_bytes.value += run.batches.end - run.batches.start
