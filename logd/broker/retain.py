"""What `logd retain` asks for: delete now what retention allows, or explain what goes and why."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from logd.broker.partition import Partition
from logd.broker.retention import Retention
from logd.broker.topic import indexes_asked_for, topic_called
from logd.broker.topics import Topics
from logd.errors import LogdError
from logd.policy.retention import RetentionPlan

Row = dict[str, Any]


@dataclass(slots=True)
class Answer:
    """The answer of /v1/retain.

    Attributes:
        rows: of each partition, or, explained, of each segment.
        failed: partitions that could not be looked at, or not to their end, each with its reason.
        held_back: why the wall clock does not count, or None.
    """

    rows: list[Row] = field(default_factory=list)
    failed: list[Row] = field(default_factory=list)
    held_back: str | None = None


async def retain(
    retention: Retention,
    topics: Topics,
    name: str,
    index: int | None,
    *,
    ignore_clock_guard: bool,
) -> Answer:
    """Delete now what retention allows in a topic, or in one of its partitions.

    Raises:
        UnknownTopicOrPartitionError: there is no such topic or partition.
    """

    async def delete(partition: Partition) -> list[Row]:
        removed = await retention.delete_due(partition, ignore_clock_guard=ignore_clock_guard)
        return [
            {
                "topic": name,
                "partition": partition.index,
                "log_start_offset": removed.log_start_offset,
                "deleted_segments": removed.segments,
                "deleted_bytes": removed.size_bytes,
            }
        ]

    answer = await _each(topics, name, index, delete)
    answer.held_back = None if ignore_clock_guard else retention.clock.time().reason
    return answer


async def explain(
    retention: Retention,
    topics: Topics,
    name: str,
    index: int | None,
    *,
    ignore_clock_guard: bool,
) -> Answer:
    """Tell, of each segment, whether it goes now, or when, and by which rule.

    Raises:
        UnknownTopicOrPartitionError: there is no such topic or partition.
    """

    offload = topics.services.offload

    async def describe(partition: Partition) -> list[Row]:
        plan = retention.planning(partition, None, ignore_clock_guard=ignore_clock_guard)
        # Ten thousand segments make ten thousand rows: not on the loop.
        return await offload.run("disk", lambda: _rows(name, partition.index, plan()))

    answer = await _each(topics, name, index, describe)
    answer.held_back = None if ignore_clock_guard else retention.clock.time().reason
    return answer


def _rows(name: str, index: int, plan: RetentionPlan) -> list[Row]:
    return [
        {
            "topic": name,
            "partition": index,
            "base_offset": verdict.base_offset,
            "size_bytes": verdict.size_bytes,
            "action": verdict.action,
            "rule": verdict.rule,
            "due_ms": verdict.due_ms,
        }
        for verdict in plan.verdicts
    ]


async def _each(
    topics: Topics,
    name: str,
    index: int | None,
    work: Callable[[Partition], Awaitable[list[Row]]],
) -> Answer:
    """Do the work for one partition after the other; one that fails does not stop the others."""
    answer = Answer()
    for number in indexes_asked_for(topic_called(topics.by_name, name), index):
        try:
            answer.rows += await work(topics.partition(name, number))
        except (LogdError, OSError) as error:
            answer.failed.append({"topic": name, "partition": number, "reason": str(error)})
    return answer
