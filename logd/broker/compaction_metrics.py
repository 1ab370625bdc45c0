"""What compaction counts, and the debt: what is still to be compacted, as of the last look."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from logd.clock import Clock
from logd.metrics import Registry
from logd.policy.compaction import CompactionFacts
from logd.storage.clean_order import CleanResult
from logd.units import SECOND_MS

Debts = Callable[[], Iterable[tuple[str, CompactionFacts]]]
"""Yields each compacted partition's topic and facts."""


class CompactionMetrics:
    """One set for all partitions; the debt is told by topic."""

    def __init__(
        self,
        registry: Registry,
        clock: Clock,
        *,
        debts: Debts,
        running: Callable[[], int],
        failed: Callable[[], int],
        now_ms: Callable[[], int],
    ) -> None:
        self._clock = clock
        self._debts = debts
        self._now_ms = now_ms
        self._looked_at_s = clock.monotonic()
        self._count(registry)
        self._measure(registry, running, failed)

    def _count(self, registry: Registry) -> None:
        name, text = "logd_compaction_rounds_total", "Rounds of compaction, by how they ended."
        self.done = registry.counter(name, text, outcome="done")
        self.failed = registry.counter(name, text, outcome="failed")
        self.outdated = registry.counter(name, text, outcome="outdated")
        self.read_bytes = registry.counter(
            "logd_compaction_read_bytes_total", "Bytes of log that compaction read."
        )
        self.written_bytes = registry.counter(
            "logd_compaction_written_bytes_total", "Bytes of log that compaction wrote."
        )
        self.removed_records = registry.counter(
            "logd_compaction_removed_records_total", "Records that compaction removed."
        )
        self.removed_bytes = registry.counter(
            "logd_compaction_removed_bytes_total", "Bytes of log that compaction removed."
        )
        self.seconds = registry.counter(
            "logd_compaction_seconds_total", "How long rounds of compaction took, in all."
        )

    def _measure(
        self, registry: Registry, running: Callable[[], int], failed: Callable[[], int]
    ) -> None:
        registry.gauge("logd_compaction_running", "Compactions that are under way.", running)
        registry.gauge(
            "logd_compaction_failed_partitions",
            "Partitions that are set aside because their compaction failed.",
            failed,
        )
        registry.gauge(
            "logd_compaction_idle_seconds",
            "How long ago the scheduler last looked for work; large only if it is stuck.",
            lambda: self._clock.monotonic() - self._looked_at_s,
        )
        registry.gauge(
            "logd_compaction_oldest_dirty_seconds",
            "Age of the oldest record in a sealed segment that no compaction has seen; 0 if none.",
            self._oldest_dirty_s,
        )
        registry.family(
            "logd_compaction_dirty_bytes",
            "Bytes of sealed segments that no compaction has seen.",
            "gauge",
            self._dirty_bytes,
        )

    def _dirty_bytes(self) -> Iterator[tuple[dict[str, str], int]]:
        by_topic: dict[str, int] = {}
        for topic, facts in self._debts():
            by_topic[topic] = by_topic.get(topic, 0) + facts.dirty_bytes
        for topic, size_bytes in by_topic.items():
            yield {"topic": topic}, size_bytes

    def _oldest_dirty_s(self) -> float:
        known = (facts.oldest_dirty_ms for _, facts in self._debts())
        oldest_ms = min((at_ms for at_ms in known if at_ms is not None), default=None)
        return 0.0 if oldest_ms is None else max(0, self._now_ms() - oldest_ms) / SECOND_MS

    def looked(self) -> None:
        """The scheduler has looked for work."""
        self._looked_at_s = self._clock.monotonic()

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the seconds of the block, however it ends."""
        started = self._clock.monotonic()
        try:
            yield
        finally:
            self.seconds.add(self._clock.monotonic() - started)

    def succeeded(self, result: CleanResult) -> None:
        """Count a round that is part of the log now."""
        self.done.add()
        self.read_bytes.add(result.read_bytes)
        self.written_bytes.add(result.written_bytes)
        self.removed_records.add(max(0, result.before.records - result.after.records))
        self.removed_bytes.add(max(0, result.before.log_bytes - result.after.log_bytes))
