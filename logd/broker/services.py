"""What all partitions share: threads, timers, the sync journal, the state of the disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from logd.broker.disk_space import DiskSpace
from logd.broker.log_settings import RETENTION_CHECK_MS
from logd.broker.timers import Timers
from logd.broker.turn import Turn
from logd.clock import Clock
from logd.events import EventLog
from logd.metrics import COUNT_BOUNDS, LATENCY_BOUNDS_SECONDS, Counter, Histogram, Registry
from logd.offload import Offload
from logd.storage.files import Files
from logd.storage.sync_journal import SyncJournal


@dataclass(slots=True)
class PartitionMetrics:
    """What partitions count; one set for all of them, so that a partition costs no series."""

    records_in: Counter
    bytes_in: Counter
    sync_seconds: Histogram
    waiters_per_sync: Histogram


@dataclass(slots=True)
class PartitionServices:
    """Put together once by the server; partitions only read it.

    Attributes:
        unsynced_max_bytes: flush.unsynced.max.bytes, beyond which producers pause.
        retention_check_ms: log.retention.check.interval.ms; segments last no shorter for its sake.
        end_turn: finish the loop's turn after work that a task did: write, answer, wake.
        unlink_later: remove renamed files after a delay in seconds.
        lend_ballast: give away the space that is kept for freeing space, for a while. Blocking.
    """

    clock: Clock
    offload: Offload
    timers: Timers
    turn: Turn
    files: Files
    journal: SyncJournal
    disk: DiskSpace
    events: EventLog
    metrics: PartitionMetrics
    unsynced_max_bytes: int
    end_turn: Callable[[], None]
    unlink_later: Callable[[Sequence[str], float], None]
    lend_ballast: Callable[[], AbstractContextManager[None]]
    retention_check_ms: int = RETENTION_CHECK_MS


def partition_metrics(registry: Registry) -> PartitionMetrics:
    """Register what partitions count."""
    return PartitionMetrics(
        records_in=registry.counter("logd_records_in_total", "Records appended."),
        bytes_in=registry.counter("logd_bytes_in_total", "Bytes of record batches appended."),
        sync_seconds=registry.histogram(
            "logd_sync_seconds", "How long a sync of a log took.", LATENCY_BOUNDS_SECONDS
        ),
        waiters_per_sync=registry.histogram(
            "logd_sync_batches", "Batches that waited for one sync.", COUNT_BOUNDS
        ),
    )
