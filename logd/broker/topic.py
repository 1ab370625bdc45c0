"""One topic as the broker knows it: its name, its id, its settings and its partitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from logd.broker.dynamic_config import DynamicConfig
from logd.broker.partition import Partition
from logd.broker.partition_making import Outcome, PartitionSpec
from logd.broker.topic_names import is_internal
from logd.config import TopicSettings
from logd.errors import InvalidConfigError, StorageError, UnknownTopicOrPartitionError
from logd.storage.catalog import TopicRow
from logd.storage.layout import TOPIC_ID_BYTES
from logd.storage.topic_directories import format_topic_id


class Topic:
    """A live topic. Written under `Topics.changing` alone; read by everybody on the event loop.

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

    @classmethod
    def of_row(cls, row: TopicRow, config: DynamicConfig) -> Topic:
        """Return the topic that the catalog lists; none of its partitions is open yet."""
        overrides = dict(row.overrides)
        reason = None
        try:
            settings = config.topic_settings(overrides)
        except InvalidConfigError as error:
            # Written by another version, perhaps. Serving it by other settings might delete
            # records.
            reason = f"the topic's settings cannot be used: {error}"
            settings = config.topic_settings({})
        topic = cls(
            row.name,
            row.topic_id,
            partition_count=row.partitions,
            overrides=overrides,
            settings=settings,
        )
        if reason is not None:
            topic.offline = dict.fromkeys(range(row.partitions), reason)
        return topic

    def specs(self, indexes: Sequence[int]) -> list[PartitionSpec]:
        """Return what it takes to make or open some of its partitions."""
        return [PartitionSpec(self.name, self.topic_id, index, self.settings) for index in indexes]

    def place(self, index: int, outcome: Outcome) -> None:
        """Put an open partition, or the reason why it is offline, in its place."""
        missing = index + 1 - len(self.partitions)
        self.partitions += [None] * max(missing, 0)
        if isinstance(outcome, Exception):
            self.offline[index] = str(outcome) or type(outcome).__name__
        else:
            self.partitions[index] = outcome
            self.offline.pop(index, None)

    def partition(self, index: int) -> Partition:
        """Return an open partition.

        Raises:
            UnknownTopicOrPartitionError: the topic has no such partition.
            StorageError: the partition is not open; the text says why.
        """
        if not 0 <= index < len(self.partitions):
            raise _no_partition(self.name, index, len(self.partitions))
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


def topic_called(by_name: Mapping[str, Topic], name: str) -> Topic:
    """Return the topic that a person asked for by its name.

    Raises:
        UnknownTopicOrPartitionError: there is none; the text says where to look.
    """
    topic = by_name.get(name)
    if topic is None:
        raise UnknownTopicOrPartitionError(
            f"there is no topic {name!r}; `logd topic list` shows those there are"
        )
    return topic


def indexes_asked_for(topic: Topic, index: int | None) -> Sequence[int]:
    """Return one partition's index, if it was asked for, else those of all.

    Raises:
        UnknownTopicOrPartitionError: the topic has no such partition.
    """
    count = len(topic.partitions)
    if index is None:
        return range(count)
    if not 0 <= index < count:
        raise _no_partition(topic.name, index, count)
    return (index,)


def _no_partition(name: str, index: int, count: int) -> UnknownTopicOrPartitionError:
    last = f"0 to {count - 1}" if count > 1 else "0"
    return UnknownTopicOrPartitionError(f"topic {name} has no partition {index}, only {last}")


def random_topic_id(random_bytes: Callable[[int], bytes]) -> bytes:
    """Return a random (version 4) UUID whose text does not look like an option to Kafka's tools."""
    while True:
        raw = bytearray(random_bytes(TOPIC_ID_BYTES))
        raw[6] = raw[6] & 0x0F | 0x40
        raw[8] = raw[8] & 0x3F | 0x80
        topic_id = bytes(raw)
        if not format_topic_id(topic_id).startswith("-"):
            return topic_id
