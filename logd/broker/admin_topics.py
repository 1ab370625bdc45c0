"""CreateTopics, DeleteTopics, CreatePartitions, DeleteRecords.

Each topic of a request succeeds or fails by itself. A name that a request gives twice is refused,
both times: which of the two was meant cannot be known. Time-outs in requests are not used: a change
goes on to its end, and answering earlier would only leave the client in doubt.

Source: Kafka protocol; KIP-4, KIP-107, KIP-195, KIP-516, KIP-525.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from logd.broker.context import Broker, RequestContext
from logd.broker.settling import settle
from logd.broker.topic import Topic
from logd.broker.topic_names import check_not_internal, check_replication_factor
from logd.errors import (
    InvalidConfigError,
    InvalidReplicaAssignmentError,
    InvalidRequestError,
    LogdError,
    OffsetOutOfRangeError,
    PolicyViolationError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
)
from logd.wire.error_codes import ErrorCode, code_for
from logd.wire.messages.create_partitions import (
    CreatePartitionsRequest,
    CreatePartitionsResponse,
    CreatePartitionsTopic,
    CreatePartitionsTopicResult,
)
from logd.wire.messages.create_topics import (
    CreatableTopic,
    CreatableTopicConfigs,
    CreatableTopicResult,
    CreateTopicsRequest,
    CreateTopicsResponse,
)
from logd.wire.messages.delete_records import (
    DeleteRecordsPartition,
    DeleteRecordsPartitionResult,
    DeleteRecordsRequest,
    DeleteRecordsResponse,
    DeleteRecordsTopicResult,
)
from logd.wire.messages.delete_topics import (
    DeletableTopicResult,
    DeleteTopicsRequest,
    DeleteTopicsResponse,
    DeleteTopicState,
)

NO_TOPIC_ID: Final = bytes(16)
HIGH_WATERMARK: Final = -1
_DEFAULT: Final = -1
_FIRST_WITH_TOPIC_ID: Final = 6


# --- CreateTopics --------------------------------------------------------------------------------


async def handle_create_topics(
    context: RequestContext, request: CreateTopicsRequest, _version: int
) -> CreateTopicsResponse:
    """Create each topic, or, with validate_only, say whether it could be created."""
    times = Counter(topic.name for topic in request.topics)
    results = []
    for name, topic in {topic.name: topic for topic in request.topics}.items():
        try:
            if times[name] > 1:
                raise InvalidRequestError("the topic is named twice")
            result = await _create(context.broker, topic, validate_only=request.validate_only)
        except LogdError as error:
            result = _not_created(name, error)
        results.append(result)
    return CreateTopicsResponse(topics=results)


async def _create(
    broker: Broker, asked: CreatableTopic, *, validate_only: bool
) -> CreatableTopicResult:
    count = _partition_count(broker, asked)
    overrides = _overrides(asked)
    check_not_internal(asked.name)
    if validate_only:
        broker.topics.check_creation(asked.name, count, overrides)
        topic_id = NO_TOPIC_ID
    else:
        topic = await broker.topics.create(asked.name, count, overrides)
        topic_id = topic.topic_id
    return CreatableTopicResult(
        name=asked.name,
        topic_id=topic_id,
        error_message=None,
        num_partitions=count,
        replication_factor=1,
        configs=_describe(broker, overrides),
    )


def _not_created(name: str, error: LogdError) -> CreatableTopicResult:
    # The Java client cannot take a null array of configs, though the protocol allows it.
    return CreatableTopicResult(
        name=name, error_code=code_for(error), error_message=str(error), configs=[]
    )


def _partition_count(broker: Broker, asked: CreatableTopic) -> int:
    if not asked.assignments:
        check_replication_factor(asked.replication_factor)
        if asked.num_partitions == _DEFAULT:
            return broker.config.settings.num_partitions
        return asked.num_partitions
    if asked.num_partitions != _DEFAULT or asked.replication_factor != _DEFAULT:
        raise InvalidRequestError(
            "with replica assignments, number of partitions and replication factor must be -1"
        )
    indexes = sorted(one.partition_index for one in asked.assignments)
    if indexes != list(range(len(indexes))):
        raise InvalidReplicaAssignmentError("partitions must be numbered from 0 without a gap")
    for assignment in asked.assignments:
        _check_assignment(broker, assignment.broker_ids)
    return len(indexes)


def _check_assignment(broker: Broker, broker_ids: list[int]) -> None:
    if broker_ids != [broker.node_id]:
        raise InvalidReplicaAssignmentError(
            f"a partition can be assigned to [{broker.node_id}] only, there is one broker"
        )


def _overrides(asked: CreatableTopic) -> dict[str, str]:
    overrides: dict[str, str] = {}
    for config in asked.configs:
        if config.value is None:
            raise InvalidConfigError(f"{config.name[:100]} needs a value, not null")
        if config.name in overrides:
            raise InvalidConfigError(f"{config.name[:100]!r} is named twice")
        overrides[config.name] = config.value
    return overrides


def _describe(broker: Broker, overrides: dict[str, str]) -> list[CreatableTopicConfigs]:
    return [
        CreatableTopicConfigs(
            name=entry.name,
            value=entry.value,
            read_only=entry.read_only,
            config_source=entry.source,
            is_sensitive=entry.sensitive,
        )
        for entry in broker.config.describe_topic(overrides)
    ]


# --- DeleteTopics --------------------------------------------------------------------------------


async def handle_delete_topics(
    context: RequestContext, request: DeleteTopicsRequest, version: int
) -> DeleteTopicsResponse:
    """Delete each topic, by name or, from version 6 on, by id."""
    asked = request.topics
    if version < _FIRST_WITH_TOPIC_ID:
        asked = [DeleteTopicState(name=name) for name in request.topic_names]
    times = Counter((topic.name, topic.topic_id) for topic in asked)
    results = []
    for (name, topic_id), count in times.items():
        result = DeletableTopicResult(name=name, topic_id=topic_id)
        results.append(result)
        if not context.broker.config.settings.delete_topic_enable:
            result.error_code = ErrorCode.TOPIC_DELETION_DISABLED
            result.error_message = "topics cannot be deleted: delete.topic.enable is false"
            continue
        try:
            topic = _find_deletable(context.broker, name, topic_id, repeated=count > 1)
            result.name, result.topic_id = topic.name, topic.topic_id
            await context.broker.topics.delete(topic)
        except LogdError as error:
            result.error_code = code_for(error)
            result.error_message = str(error)
    return DeleteTopicsResponse(responses=results)


def _find_deletable(broker: Broker, name: str | None, topic_id: bytes, *, repeated: bool) -> Topic:
    if repeated:
        raise InvalidRequestError("the topic is named twice")
    if (name is None) == (topic_id == NO_TOPIC_ID):
        raise InvalidRequestError("a topic is deleted by its name or by its id, one of the two")
    topic = broker.topics.find(name or "", topic_id)
    if topic is None and name is None:
        raise UnknownTopicIdError("no topic has this id")
    if topic is None:
        raise UnknownTopicOrPartitionError("there is no such topic")
    check_not_internal(topic.name)
    return topic


# --- CreatePartitions ----------------------------------------------------------------------------


async def handle_create_partitions(
    context: RequestContext, request: CreatePartitionsRequest, _version: int
) -> CreatePartitionsResponse:
    """Give each topic more partitions; exactly one result a topic."""
    times = Counter(topic.name for topic in request.topics)
    results = []
    for name, topic in {topic.name: topic for topic in request.topics}.items():
        result = CreatePartitionsTopicResult(name=name)
        try:
            if times[name] > 1:
                raise InvalidRequestError("the topic is named twice")
            await _add_partitions(context.broker, topic, validate_only=request.validate_only)
        except LogdError as error:
            result.error_code = code_for(error)
            result.error_message = str(error)
        results.append(result)
    return CreatePartitionsResponse(results=results)


async def _add_partitions(
    broker: Broker, asked: CreatePartitionsTopic, *, validate_only: bool
) -> None:
    topic = broker.topics.by_name.get(asked.name)
    if topic is None:
        raise UnknownTopicOrPartitionError("there is no such topic")
    check_not_internal(topic.name)
    broker.topics.check_partitions(topic, asked.count)
    if asked.assignments is not None:
        added = asked.count - len(topic.partitions)
        if len(asked.assignments) != added:
            raise InvalidReplicaAssignmentError(
                f"{len(asked.assignments)} assignments for {added} new partitions"
            )
        for assignment in asked.assignments:
            _check_assignment(broker, assignment.broker_ids)
    if not validate_only:
        await broker.topics.add_partitions(topic, asked.count)


# --- DeleteRecords -------------------------------------------------------------------------------


async def handle_delete_records(
    context: RequestContext, request: DeleteRecordsRequest, _version: int
) -> DeleteRecordsResponse:
    """Move each partition's log start offset up; durable when answered."""
    times = Counter(
        (topic.name, part.partition_index) for topic in request.topics for part in topic.partitions
    )
    topics = []
    for topic in request.topics:
        partitions = [
            await _delete_records(
                context.broker,
                topic.name,
                part,
                repeated=times[topic.name, part.partition_index] > 1,
            )
            for part in topic.partitions
        ]
        topics.append(DeleteRecordsTopicResult(name=topic.name, partitions=partitions))
    return DeleteRecordsResponse(topics=topics)


async def _delete_records(
    broker: Broker, topic: str, asked: DeleteRecordsPartition, *, repeated: bool
) -> DeleteRecordsPartitionResult:
    answer = DeleteRecordsPartitionResult(
        partition_index=asked.partition_index, low_watermark=-1, error_code=ErrorCode.NONE
    )
    try:
        if repeated:
            raise InvalidRequestError("the partition is named twice")
        answer.low_watermark = await _move_log_start(
            broker, topic, asked.partition_index, asked.offset
        )
    except LogdError as error:
        answer.error_code = code_for(error)
    return answer


async def _move_log_start(broker: Broker, name: str, index: int, offset: int) -> int:
    partition = broker.topics.partition(name, index)
    check_not_internal(name)
    if partition.settings.cleanup_policy == ("compact",):
        raise PolicyViolationError(
            f"topic {name} is only compacted; records are deleted where cleanup.policy has delete"
        )
    if offset == HIGH_WATERMARK or offset > partition.high_watermark:
        await settle([partition])
    if offset == HIGH_WATERMARK:
        offset = partition.high_watermark
    if not 0 <= offset <= partition.high_watermark:
        raise OffsetOutOfRangeError(
            f"offset {offset} does not lie in 0 to {partition.high_watermark}"
        )
    if offset <= partition.log_start_offset and partition.offline is None:
        return partition.log_start_offset
    return await partition.delete_records(offset)
