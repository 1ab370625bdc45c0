"""What `logd status` and `logd segments` show: a picture of the broker as plain values.

A problem is "damage" where data is at risk, damaged or lost (`logd status` then exits with 4), or a
"warning" where an operator should know of something.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import logd
from logd.broker.context import Broker
from logd.broker.node_status import node_counts
from logd.broker.problems import Problem
from logd.broker.topic import Topic, topic_called
from logd.broker.upkeep_status import upkeep_status
from logd.storage.log import Log

DAMAGE: Final = "damage"
WARNING: Final = "warning"

PROBLEMS_MAX: Final = 1000
"""More are counted, not listed: ten thousand partitions on a lost disk are one problem."""


def status(broker: Broker) -> dict[str, Any]:
    """Return the document of `logd status`, as docs and CLI contract have it."""
    topics = broker.topics
    problems = list(find_problems(broker))
    return {
        "version": logd.__version__,
        "cluster_id": broker.cluster_id,
        "ready": broker.not_ready is None,
        "uptime_s": round(broker.clock.monotonic() - broker.started_at, 3),
        "topics": len(topics.by_name),
        "partitions": topics.partition_count,
        "hot_bytes": sum(partition.log.size_bytes for partition in topics.open_partitions()),
        "cold_source_bytes": broker.cold.holdings.source_bytes,
        "cold_stored_bytes": broker.cold.holdings.stored_bytes,
        "disk_free_bytes": broker.disk.free_bytes,
        "disk_reserve_bytes": broker.disk.reserve_bytes,
        "nodes": node_counts(broker.cold),
        "kernel": broker.cold.kernel_in_use,
        "segments_by_margin": broker.coded.margins(),
        "chunks_unknown": broker.coded.unknown_chunks(),
        **upkeep_status(broker.coded, cycle_ms=broker.config.settings.scrub_cycle_ms),
        "problem_count": len(problems),
        "problems": [_as_document(problem) for problem in problems[:PROBLEMS_MAX]],
    }


def _as_document(problem: Problem) -> dict[str, Any]:
    return {
        "kind": problem.kind,
        "severity": problem.severity,
        "message": problem.message,
        "topic": problem.topic,
        "partition": problem.partition,
        "path": problem.path,
    }


# --- problems ------------------------------------------------------------------------------------


def find_problems(broker: Broker) -> Iterator[Problem]:
    """Yield what is wrong, damage first."""
    found = [problem for topic in broker.topics.by_name.values() for problem in _of_topic(topic)]
    found += _of_disk(broker)
    found += _of_directories(broker)
    for source in broker.problem_sources:
        found += source()
    yield from (problem for problem in found if problem.severity == DAMAGE)
    yield from (problem for problem in found if problem.severity != DAMAGE)


def _of_topic(topic: Topic) -> Iterator[Problem]:
    if topic.settings.flush_mode != "commit":
        yield Problem(
            "flush_mode",
            WARNING,
            f"topic {topic.name} has flush.mode={topic.settings.flush_mode}: records that were "
            "acknowledged and read may be lost when the machine stops",
            topic=topic.name,
        )
    for index, partition in enumerate(topic.partitions):
        reason = topic.why_not(index)
        if reason is not None:
            yield Problem(
                "partition_offline",
                DAMAGE,
                f"partition {topic.name}-{index} is offline: {reason}",
                topic=topic.name,
                partition=index,
            )
        if partition is not None:
            yield from _damaged_ranges(topic.name, index, partition.log)


def _damaged_ranges(topic: str, index: int, log: Log) -> Iterator[Problem]:
    for damage in log.damaged:
        yield Problem(
            "damaged_range",
            DAMAGE,
            f"offsets {damage.first_offset} to {damage.next_offset - 1} of {topic}-{index} cannot "
            f"be read: {damage.file} at position {damage.position}: {damage.reason}; "
            "`logd delete-records` gives them up",
            topic=topic,
            partition=index,
            path=damage.file,
        )


def _of_disk(broker: Broker) -> Iterator[Problem]:
    if broker.disk.is_full:
        yield Problem(
            "disk_reserve",
            WARNING,
            f"appends are refused until there is space: {broker.disk.reason}",
            path=broker.data_path,
        )


def _of_directories(broker: Broker) -> Iterator[Problem]:
    for path in broker.topics.unknown_paths:
        yield Problem(
            "unknown_directory",
            WARNING,
            f"{path} is unknown to the catalog and left alone; `logd topic adopt {path}` takes it "
            "in",
            path=path,
        )


# --- segments ------------------------------------------------------------------------------------


def segments(broker: Broker, name: str, partition: int | None) -> list[dict[str, Any]]:
    """Return the rows of `logd segments`: of one partition, or of all of a topic's.

    May read the indexes of sealed segments, so it is called from a thread.

    Raises:
        UnknownTopicOrPartitionError: there is no such topic or partition.
        StorageError: the one partition asked for is offline.
    """
    topic = topic_called(broker.topics.by_name, name)
    if partition is not None:
        return _of_log(name, partition, topic.partition(partition).log)
    return [
        row
        for index, opened in enumerate(topic.partitions)
        if opened is not None
        for row in _of_log(name, index, opened.log)
    ]


def _of_log(topic: str, index: int, log: Log) -> list[dict[str, Any]]:
    return [
        {
            "topic": topic,
            "partition": index,
            "base_offset": segment.base_offset,
            "next_offset": segment.next_offset,
            "size_bytes": segment.size_bytes,
            "state": "coded" if segment.is_released else segment.state,
            "hot": not segment.is_released,
            "first_timestamp_ms": segment.first_timestamp_ms,
            "last_timestamp_ms": segment.last_timestamp_ms,
            "generation": None,
            "k": None,
            "m": None,
            "margin": None,
            "chunks": [],
        }
        for segment in log.segments()
    ]
