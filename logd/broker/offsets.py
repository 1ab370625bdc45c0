"""ListOffsets and OffsetForLeaderEpoch: from a time, or an epoch, to an offset.

There are no transactions, so the last stable offset is the high watermark, and both isolation
levels get the same answers. Nothing above the high watermark is ever named.

Source: Kafka protocol, ListOffsets 1-10 (KIP-734 max timestamp, KIP-405 and KIP-1005 tiers) and
OffsetForLeaderEpoch 2-4 (KIP-101, KIP-320).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Final

from logd.broker.context import Broker, RequestContext
from logd.broker.partition import Partition
from logd.broker.settling import settle
from logd.cold.time_lookup import find_by_time, find_latest
from logd.errors import (
    FencedLeaderEpochError,
    InvalidRequestError,
    LogdError,
    LogFailedError,
    UnknownLeaderEpochError,
    UnsupportedVersionError,
)
from logd.storage.released_times import ReleasedLatest, ReleasedTimeRange
from logd.wire.error_codes import code_for
from logd.wire.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsPartitionResponse,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopicResponse,
)
from logd.wire.messages.offset_for_leader_epoch import (
    EpochEndOffset,
    OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse,
    OffsetForLeaderPartition,
    OffsetForLeaderTopicResult,
)

LATEST: Final = -1
EARLIEST: Final = -2
MAX_TIMESTAMP: Final = -3
EARLIEST_LOCAL: Final = -4
LATEST_TIERED: Final = -5

# The version that introduced each special timestamp.
_SINCE: Final = {LATEST: 1, EARLIEST: 1, MAX_TIMESTAMP: 7, EARLIEST_LOCAL: 8, LATEST_TIERED: 9}

_NO_EPOCH: Final = -1

Found = tuple[int, int, int]
"""Offset, timestamp, leader epoch; -1 each where there is none."""

_NOTHING: Final[Found] = (-1, -1, -1)


async def handle_list_offsets(
    context: RequestContext, request: ListOffsetsRequest, version: int
) -> ListOffsetsResponse:
    """Answer each partition by itself, with all that was acknowledged before."""
    await settle(_asked_for_end(context.broker, request))
    repeated = _repeated(
        (topic.name, part.partition_index) for topic in request.topics for part in topic.partitions
    )
    topics = []
    for topic in request.topics:
        partitions = [
            await _list_one(
                context.broker,
                topic.name,
                part,
                version=version,
                repeated=(topic.name, part.partition_index) in repeated,
            )
            for part in topic.partitions
        ]
        topics.append(ListOffsetsTopicResponse(name=topic.name, partitions=partitions))
    return ListOffsetsResponse(topics=topics)


def _asked_for_end(broker: Broker, request: ListOffsetsRequest) -> set[Partition]:
    """The partitions of which more is asked than where they begin."""
    found = set()
    for topic in request.topics:
        for asked in topic.partitions:
            if asked.timestamp not in (EARLIEST, EARLIEST_LOCAL, LATEST_TIERED):
                with suppress(LogdError):  # Said in the partition's answer.
                    found.add(broker.topics.partition(topic.name, asked.partition_index))
    return found


async def _list_one(
    broker: Broker, topic: str, asked: ListOffsetsPartition, *, version: int, repeated: bool
) -> ListOffsetsPartitionResponse:
    answer = ListOffsetsPartitionResponse(partition_index=asked.partition_index)
    try:
        if repeated:
            raise InvalidRequestError("the partition is named twice")
        partition = _readable(broker, topic, asked.partition_index, asked.current_leader_epoch)
        if asked.timestamp < 0 and version < _SINCE.get(asked.timestamp, version + 1):
            raise UnsupportedVersionError(f"timestamp {asked.timestamp} in version {version}")
        found = await _find(broker, partition, asked.timestamp)
    except LogdError as error:
        answer.error_code = code_for(error)
        return answer
    answer.offset, answer.timestamp, answer.leader_epoch = found
    return answer


def _readable(broker: Broker, topic: str, index: int, leader_epoch: int) -> Partition:
    """Return an open partition whose epoch the client knows.

    Raises:
        RequestError: no such partition, or the client's epoch is not the partition's.
        StorageError: it is offline.
    """
    partition = broker.topics.partition(topic, index)
    if partition.offline is not None:
        raise LogFailedError(partition.offline)
    if leader_epoch not in (_NO_EPOCH, partition.leader_epoch):
        older = leader_epoch < partition.leader_epoch
        error = FencedLeaderEpochError if older else UnknownLeaderEpochError
        raise error(f"the partition's epoch is {partition.leader_epoch}, not {leader_epoch}")
    return partition


async def _find(broker: Broker, partition: Partition, timestamp: int) -> Found:
    if timestamp == LATEST:
        return partition.high_watermark, -1, partition.leader_epoch
    if timestamp == EARLIEST:
        return _at(partition, partition.log_start_offset)
    if timestamp == EARLIEST_LOCAL:
        return _at(partition, partition.log.hot_start_offset)
    if timestamp == MAX_TIMESTAMP:
        return await _find_max_timestamp(broker, partition)
    if timestamp == LATEST_TIERED:
        coded = broker.cold.coverage(partition.topic_id, partition.index).generations
        return _at(partition, coded[-1].next_offset - 1) if coded else _NOTHING
    return await _find_time(broker, partition, timestamp)


def _at(partition: Partition, offset: int) -> Found:
    """Return an offset with its epoch, where there was but one."""
    # Epochs differ only where a crash cut a log with flush.mode interval or os; without a cut all
    # are the current one, and with one "unknown" is what clients may always be told.
    epoch, end_offset = partition.log.end_offset_for_epoch(partition.leader_epoch)
    single = partition.leader_epoch == 0 and epoch == 0 and offset <= end_offset
    return offset, -1, partition.leader_epoch if single else _NO_EPOCH


async def _find_time(broker: Broker, partition: Partition, timestamp: int) -> Found:
    """Return the first visible record that is not before a time."""
    log, below = partition.log, partition.high_watermark
    from_offset = 0
    while True:
        look = partial(log.offset_for_timestamp, timestamp, below=below, from_offset=from_offset)
        found = await broker.offload.run("disk", look)
        if not isinstance(found, ReleasedTimeRange):
            return _NOTHING if found is None else found
        key = (partition.topic_id, partition.index)
        inside = await find_by_time(broker.cold_reads, *key, found)
        if inside is not None:
            return inside
        from_offset = found.end_bound


async def _find_max_timestamp(broker: Broker, partition: Partition) -> Found:
    look = partial(partition.log.max_timestamp, below=partition.high_watermark)
    found = await broker.offload.run("disk", look)
    if isinstance(found, ReleasedLatest):
        key = (partition.topic_id, partition.index)
        found = await find_latest(broker.cold_reads, *key, found)
    if found is None:
        return _NOTHING
    offset, timestamp = found
    return offset, timestamp, partition.leader_epoch


async def handle_offset_for_leader_epoch(
    context: RequestContext, request: OffsetForLeaderEpochRequest, _version: int
) -> OffsetForLeaderEpochResponse:
    """Say where each epoch ended, so that a client sees whether what it read was cut off."""
    topics = [
        OffsetForLeaderTopicResult(
            topic=topic.topic,
            partitions=[
                _end_of_epoch(context.broker, topic.topic, part) for part in topic.partitions
            ],
        )
        for topic in request.topics
    ]
    return OffsetForLeaderEpochResponse(topics=topics)


def _end_of_epoch(broker: Broker, topic: str, asked: OffsetForLeaderPartition) -> EpochEndOffset:
    answer = EpochEndOffset(partition=asked.partition)
    try:
        partition = _readable(broker, topic, asked.partition, asked.current_leader_epoch)
        if not 0 <= asked.leader_epoch <= partition.leader_epoch:
            return answer  # Unknown: no epoch, no offset.
        epoch, end_offset = partition.log.end_offset_for_epoch(asked.leader_epoch)
    except LogdError as error:
        answer.error_code = code_for(error)
        return answer
    answer.leader_epoch = epoch
    answer.end_offset = min(end_offset, partition.high_watermark)
    return answer


def _repeated(keys: Iterable[tuple[str, int]]) -> set[tuple[str, int]]:
    seen: set[tuple[str, int]] = set()
    repeated: set[tuple[str, int]] = set()
    for key in keys:
        (repeated if key in seen else seen).add(key)
    return repeated
