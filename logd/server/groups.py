"""Consumer groups: their log, their coordinator, and what expires and snapshots them."""

from __future__ import annotations

import uuid
from functools import partial
from typing import Final

from logd.broker.context import Broker
from logd.broker.group_status import group_problems
from logd.broker.group_upkeep import GroupUpkeep
from logd.broker.groups import Coordinator
from logd.broker.offsets_log import OffsetsLog
from logd.broker.partition import Partition
from logd.broker.topic import Topic
from logd.broker.topic_names import OFFSETS_TOPIC
from logd.server.ground import Ground
from logd.server.partitions import PartitionParts


class GroupParts:
    """See the module. Tells the broker, and the topics, of its parts."""

    def __init__(self, ground: Ground, parts: PartitionParts, broker: Broker) -> None:
        self._tier = broker.cold
        self.log: Final = OffsetsLog(broker, parts.services)
        self.coordinator: Final = Coordinator(
            self.log,
            parts.topics,
            broker.config,
            parts.services,
            metrics=ground.metrics,
            new_uuid=lambda: str(uuid.UUID(bytes=ground.random.randbytes(16), version=4)),
        )
        self.upkeep: Final = GroupUpkeep(self.coordinator)
        broker.groups = self.coordinator
        broker.problem_sources.append(partial(group_problems, self.coordinator))
        parts.topics.on_deleted = self._topic_deleted

    async def snapshot_before_compaction(self, partition: Partition) -> None:
        """Write a snapshot where it is a partition of the offsets log that will be compacted."""
        if partition.topic_name == OFFSETS_TOPIC:
            await self.upkeep.write_snapshot(partition.index)

    async def _topic_deleted(self, topic: Topic) -> None:
        await self._tier.topic_deleted(topic.topic_id)
        await self.upkeep.forget_topic(topic)
