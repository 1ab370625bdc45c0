"""Coded segments: how they are read, what moves them through their life, who mends their indexes.

All of it is made whether there are storage nodes or not; what takes the coding library is imported
with the first node (`logd.broker.cold_segments`).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Final

from logd.broker.cold_problems import cold_read_problems
from logd.broker.cold_segments import ColdSegments
from logd.broker.context import Broker
from logd.broker.node_status import node_problems
from logd.broker.upkeep_status import upkeep_problems
from logd.cold.index_mending import IndexMending
from logd.cold.loads import Waiter
from logd.cold.reading import ColdReads
from logd.cold.tier import ColdTier
from logd.server.ground import Ground
from logd.server.opening import Opened
from logd.server.partitions import PartitionParts
from logd.storage.catalog import SqliteCatalog

if TYPE_CHECKING:
    from logd.cold.life import LifeServices


class CodedParts:
    """See the module. Tells the broker of its parts, and those of each other."""

    def __init__(
        self, ground: Ground, opened: Opened, parts: PartitionParts, broker: Broker
    ) -> None:
        self._ground = ground
        self._catalog: SqliteCatalog = opened.catalog
        self._parts = parts
        self._tier: ColdTier = opened.cold
        self.reads: Final = self._reads()
        self.segments: Final = ColdSegments(
            self._tier,
            parts.services.offload,
            self._life_services,
            topic_name=self._name_of_topic,
        )
        self.mending: Final = IndexMending(
            self._tier, parts.topics.open_partitions, parts.services.offload, ground.events
        )
        self.reads.on_damage = self.segments.found
        self.reads.on_bad_index = self.mending.distrust
        broker.cold, broker.cold_reads, broker.coded = self._tier, self.reads, self.segments
        broker.problem_sources += [
            partial(cold_read_problems, self.reads, parts.topics),
            partial(node_problems, self._tier),
            self.segments.problems,
            partial(upkeep_problems, self.segments, self._tier),
        ]

    def _reads(self) -> ColdReads:
        return ColdReads(
            self._tier,
            covered=self._tier,
            files=self._ground.files,
            events=self._ground.events,
            metrics=self._ground.metrics,
            ahead_bytes=self._ground.settings.cold_read_ahead_bytes,
            wake=self._wake_fetches,
        )

    def _wake_fetches(self, waiters: Iterable[Waiter]) -> None:
        services = self._parts.services
        services.turn.woken.extend(waiters)
        services.end_turn()

    def _life_services(self) -> LifeServices:
        from logd.cold.life import LifeServices
        from logd.cold.upkeep import upkeep_services

        ground, parts = self._ground, self._parts
        disk = parts.disk
        return LifeServices(
            partitions=parts.topics.open_partitions,
            offload=parts.services.offload,
            events=ground.events,
            metrics=ground.metrics,
            cluster_id=ground.directory.cluster_id,
            now_ms=ground.clock.now_ms,
            random_bytes=ground.random.randbytes,
            unlink_later=parts.unlinker.unlink_later,
            distrust=self.reads.distrust,
            room_bytes=lambda: disk.free_bytes - disk.reserve_bytes,
            reserve_bytes=disk.reserve_bytes,
            clock=ground.clock,
            forget_topic=self._forget_topic,
            upkeep=upkeep_services(
                ground.settings, ground.directory, ground.random, self._name_of_topic
            ),
        )

    def _name_of_topic(self, topic_id: bytes) -> str | None:
        topic = self._parts.topics.by_id.get(topic_id)
        return None if topic is None else topic.name

    async def _forget_topic(self, topic_id: bytes) -> None:
        """Nothing coded is left of a topic: if it was deleted, and its files are gone, so is it."""
        topics = self._parts.topics
        if topic_id not in topics.by_id and topic_id not in topics.deleted.rows:
            await self._parts.services.offload.run("catalog", self._catalog.forget_topic, topic_id)
