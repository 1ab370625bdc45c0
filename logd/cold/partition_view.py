"""What the cold tier needs of a partition; `logd.broker.partition.Partition` is one.

The tier lies below the broker and never imports it: the server hands it a function that yields the
open partitions, and each is looked at through this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from logd.config.topic import TopicSettings
from logd.policy.cold.values import SegmentKey
from logd.storage.log import Log


class ColdPartition(Protocol):
    """An open partition. Read on the event loop."""

    @property
    def topic_id(self) -> bytes:
        """The topic's id: never another topic's, also when this one is deleted."""
        ...

    @property
    def topic_name(self) -> str:
        """The topic's name."""
        ...

    @property
    def index(self) -> int:
        """The partition's number."""
        ...

    @property
    def settings(self) -> TopicSettings:
        """The topic's settings as they are now."""
        ...

    @property
    def log(self) -> Log:
        """The storage."""
        ...

    @property
    def high_watermark(self) -> int:
        """Offsets below it are visible."""
        ...

    @property
    def offline(self) -> str | None:
        """Why it serves nothing any more, or None."""
        ...


def key_of(partition: ColdPartition, base_offset: int) -> SegmentKey:
    """Return the name of one of a partition's segments, also for people."""
    return SegmentKey(partition.topic_id, partition.index, base_offset, topic=partition.topic_name)


Partitions = Callable[[], Iterable[ColdPartition]]
"""Yields the open partitions."""
