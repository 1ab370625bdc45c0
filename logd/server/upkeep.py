"""What goes on without a request: retention, compaction, and the periodic tasks of the broker."""

from __future__ import annotations

from typing import Final

from logd.broker.compaction import Compaction
from logd.broker.context import Broker
from logd.broker.maintenance import BALLAST_BYTES, Maintenance
from logd.broker.partition import Partition
from logd.broker.process_cleaner import ProcessCleaner
from logd.broker.retention import Retention
from logd.broker.retention_clock import RetentionClock
from logd.broker.services import PartitionServices
from logd.broker.topic_names import OFFSETS_TOPIC
from logd.cold.compacting import CodedCompaction
from logd.metrics import LATENCY_BOUNDS_SECONDS
from logd.server.coded import CodedParts
from logd.server.ground import Ground
from logd.server.groups import GroupParts


class UpkeepParts:
    """See the module. Tells the broker of its parts."""

    def __init__(
        self,
        ground: Ground,
        services: PartitionServices,
        broker: Broker,
        groups: GroupParts,
        coded: CodedParts,
    ) -> None:
        self._offsets_log = groups.log
        clock = RetentionClock(
            services,
            boot_id=ground.boot_id,
            last=ground.directory.last_clock,
            write_note=ground.directory.write_clock_note,
        )
        self.retention: Final = Retention(broker.topics, services, ground.metrics, clock)
        self.compaction: Final = Compaction(
            broker.topics,
            broker.config,
            services,
            ProcessCleaner(services.offload),
            ground.metrics,
            bound=self._compaction_bound,
            coded=CodedCompaction(broker.cold, coded.segments.ready),
            now_ms=clock.now_ms,
            prepare=groups.snapshot_before_compaction,
        )
        self.maintenance: Final = Maintenance(
            broker,
            services,
            lag=ground.metrics.histogram(
                "logd_loop_lag_seconds",
                "How late a task of the event loop woke up.",
                LATENCY_BOUNDS_SECONDS,
            ),
            ensure_ballast=lambda: ground.directory.ballast.ensure(BALLAST_BYTES),
        )
        broker.retention, broker.compaction = self.retention, self.compaction
        broker.problem_sources += [self.retention.problems, self.compaction.problems]

    def _compaction_bound(self, partition: Partition) -> int:
        if partition.topic_name != OFFSETS_TOPIC:
            return partition.high_watermark
        return min(partition.high_watermark, self._offsets_log.compaction_bound(partition.index))
