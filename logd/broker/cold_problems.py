"""What is wrong with coded segments, for `logd status`."""

from __future__ import annotations

from collections.abc import Iterator

from logd.broker.problems import Problem
from logd.broker.topics import Topics
from logd.cold.reading import ColdReads


def cold_read_problems(reads: ColdReads, topics: Topics) -> Iterator[Problem]:
    """Yield the ranges that readers could not be given, until they are read again."""
    for failure in reads.failures:
        key = failure.generation.key
        topic = topics.by_id.get(key.topic_id)
        name = topic.name if topic is not None else key.topic_id.hex()
        yield Problem(
            "cold_range_unreadable",
            "damage",
            f"offsets {failure.from_offset} to {failure.to_offset - 1} of {name}-{key.partition} "
            f"cannot be read from their chunks: {failure.reason}; `logd node list` shows the "
            "nodes, what is left of a segment is served, and `logd salvage` exports it",
            topic=name,
            partition=key.partition,
        )
