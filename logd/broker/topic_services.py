"""What topics work with: the catalog and its thread, their directories, the partition factory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from logd.broker.dynamic_config import DynamicConfig
from logd.broker.partition_making import PartitionFactory
from logd.events import EventLog
from logd.offload import Offload
from logd.storage.catalog import Catalog
from logd.storage.files import Files


@dataclass(slots=True)
class TopicServices:
    """Put together once by the server; topics only read it.

    Attributes:
        config: the server's settings, which may change, and topics' settings from overrides.
        new_topic_id: returns 16 random bytes, see `random_topic_id`.
    """

    catalog: Catalog
    offload: Offload
    files: Files
    topics_path: str
    factory: PartitionFactory
    events: EventLog
    config: DynamicConfig
    new_topic_id: Callable[[], bytes]

    async def in_catalog(self, transaction: Callable[[], None]) -> None:
        """Run one transaction in the catalog's thread; it is durable once this returns."""
        await self.offload.run("catalog", transaction)
