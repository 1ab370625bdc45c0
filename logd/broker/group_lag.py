"""What is measured of groups: how many in which state, and how far behind their topics they are.

Lag is the number of records between a committed offset and the end that readers see. It is worked
out when somebody asks, for as many partitions as metrics.group.lag.series.max allows; how many were
left out is a metric of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice

from logd.broker.groups import Coordinator
from logd.broker.topics import Topics
from logd.metrics import Registry

_Series = Iterator[tuple[dict[str, str], int]]


def end_offset(topics: Topics, name: str, index: int) -> int | None:
    """Return the offset behind the last record that readers see; None where nothing is served."""
    topic = topics.by_name.get(name)
    if topic is None or not 0 <= index < len(topic.partitions):
        return None
    partition = topic.partitions[index]
    if partition is None or partition.offline is not None:
        return None
    return partition.high_watermark


def lag(committed_offset: int, end: int | None) -> int | None:
    """Return how many records lie behind a committed offset; None where that is not known."""
    if end is None or committed_offset < 0:
        return None
    return max(0, end - committed_offset)


def register_group_metrics(registry: Registry, groups: Coordinator) -> None:
    """Register what is worked out at each scrape."""

    def states() -> _Series:
        counts = Counter(entry.group.state.value for entry in groups.entries.values())
        for state, count in counts.items():
            yield {"state": state}, count

    def lags() -> _Series:
        return islice(_lags(groups), _series_max(groups))

    def left_out() -> int:
        return max(0, sum(1 for _ in _lags(groups)) - _series_max(groups))

    registry.family("logd_groups", "Consumer groups by state.", "gauge", states)
    registry.gauge(
        "logd_group_offsets",
        "Committed offsets of all groups.",
        lambda: sum(len(entry.offsets) for entry in groups.entries.values()),
    )
    registry.family("logd_group_lag", "Records behind a group's committed offset.", "gauge", lags)
    registry.gauge(
        "logd_group_lag_left_out",
        "Series of logd_group_lag beyond metrics.group.lag.series.max.",
        left_out,
    )


def _series_max(groups: Coordinator) -> int:
    return groups.config.settings.metrics_group_lag_series_max


def _lags(groups: Coordinator) -> _Series:
    for group_id, entry in groups.entries.items():
        for (topic, partition), committed in entry.offsets.items():
            behind = lag(committed.offset, end_offset(groups.topics, topic, partition))
            if behind is not None:
                yield {"group": group_id, "topic": topic, "partition": str(partition)}, behind
