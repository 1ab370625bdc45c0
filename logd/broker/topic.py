"""One topic as the broker knows it: its name, its id, its settings and its partitions."""

from __future__ import annotations

from logd.broker.partition import Partition
from logd.broker.topic_names import is_internal
from logd.config import TopicSettings
from logd.errors import StorageError, UnknownTopicOrPartitionError
from logd.storage.topic_directories import format_topic_id


class Topic:
    """A live topic. Written by `Topics` alone; read by everybody on the event loop.

    Attributes:
        partitions: None where a partition is not open: being opened, or failed (see `offline`).
        offline: why a partition could not be opened, by its index.
        deleted: the topic is gone; whoever still holds this object must let go of it.
        overrides: the settings given for this topic, as text, by Kafka's names.
        settings: the effective ones: overrides over the server's defaults.
    """

    __slots__ = (
        "deleted",
        "internal",
        "name",
        "offline",
        "overrides",
        "partitions",
        "settings",
        "topic_id",
    )

    def __init__(
        self,
        name: str,
        topic_id: bytes,
        *,
        partition_count: int,
        overrides: dict[str, str],
        settings: TopicSettings,
    ) -> None:
        self.name = name
        self.topic_id = topic_id
        self.partitions: list[Partition | None] = [None] * partition_count
        self.offline: dict[int, str] = {}
        self.overrides = overrides
        self.settings = settings
        self.deleted = False
        self.internal = is_internal(name)

    def __repr__(self) -> str:
        return f"<Topic {self.name} {format_topic_id(self.topic_id)} {len(self.partitions)}>"

    def partition(self, index: int) -> Partition:
        """Return an open partition.

        Raises:
            UnknownTopicOrPartitionError: the topic has no such partition.
            StorageError: the partition is not open; the text says why.
        """
        if not 0 <= index < len(self.partitions):
            raise UnknownTopicOrPartitionError(f"topic {self.name} has no partition {index}")
        partition = self.partitions[index]
        if partition is None:
            raise StorageError(f"partition {self.name}-{index} is offline: {self.why_not(index)}")
        return partition

    def why_not(self, index: int) -> str | None:
        """Return why a partition serves nothing, None if it does."""
        partition = self.partitions[index]
        if partition is not None:
            return partition.offline
        return self.offline.get(index, "it is being opened")
