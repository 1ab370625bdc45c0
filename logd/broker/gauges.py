"""What is measured when somebody asks: sizes and counts that need no counting on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized

from logd.broker.context import Broker
from logd.metrics import Registry

_Series = Iterator[tuple[dict[str, str], int | float]]


def register_gauges(registry: Registry, broker: Broker, connections: Callable[[], Sized]) -> None:
    """Register the gauges of a broker; they are worked out at each scrape."""
    topics = broker.topics
    registry.gauge("logd_connections", "Open connections of clients.", lambda: len(connections()))
    registry.gauge("logd_topics", "Topics.", lambda: len(topics.by_name))
    registry.gauge(
        "logd_disk_free_bytes", "Free space as of the last check.", lambda: broker.disk.free_bytes
    )
    registry.gauge(
        "logd_disk_reserve_bytes",
        "Below this much free space appends are refused.",
        lambda: broker.disk.reserve_bytes,
    )
    registry.gauge(
        "logd_disk_full", "1 while appends are refused for want of space.",
        lambda: int(broker.disk.is_full),
    )  # fmt: skip
    registry.gauge(
        "logd_partitions_offline",
        "Partitions that serve nothing.",
        lambda: sum(
            topic.why_not(index) is not None
            for topic in topics.by_name.values()
            for index in range(len(topic.partitions))
        ),
    )
    registry.gauge(
        "logd_acked_unsynced_bytes",
        "Bytes written, so acknowledged with acks=1, and not yet synced.",
        lambda: sum(partition.log.unsynced_bytes for partition in topics.open_partitions()),
    )

    def log_bytes() -> _Series:
        for topic in topics.by_name.values():
            size = sum(p.log.size_bytes for p in topic.partitions if p is not None)
            yield {"topic": topic.name}, size

    def relaxed() -> _Series:
        for topic in topics.by_name.values():
            if topic.settings.flush_mode != "commit":
                yield {"topic": topic.name, "flush_mode": topic.settings.flush_mode}, 1

    registry.family("logd_log_bytes", "Bytes of record batches on disk.", "gauge", log_bytes)
    registry.family(
        "logd_topic_may_lose_acknowledged",
        "Topics whose flush.mode acknowledges before the sync.",
        "gauge",
        relaxed,
    )
