"""Metadata: which topics there are, and that this broker leads them all.

A partition that is offline still names this broker as its leader, and lists it among the offline
replicas: so a client's requests come here and are refused with KAFKA_STORAGE_ERROR, which says more
than an endless search for a leader.

Source: Kafka protocol, Metadata 0-13; KIP-516 (topic ids), KIP-700 (cluster operations moved out).
"""

from __future__ import annotations

from typing import Final

from logd.broker import permissions
from logd.broker.context import Broker, RequestContext
from logd.broker.topic import Topic
from logd.broker.topic_names import check_topic_name, is_internal
from logd.errors import LogdError, TopicExistsError
from logd.wire.error_codes import ErrorCode, code_for
from logd.wire.messages.metadata import (
    MetadataRequest,
    MetadataRequestTopic,
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
)

NO_TOPIC_ID: Final = bytes(16)

# From this version on an empty list asks for no topic; before, it asks for all.
_EMPTY_MEANS_NONE: Final = 1
_TOPIC_ID_ANSWERED: Final = 12


async def handle_metadata(
    context: RequestContext, request: MetadataRequest, version: int
) -> MetadataResponse:
    """Describe the broker and the topics asked for; create what may be created on first use."""
    broker = context.broker
    asked = request.topics
    if asked is None or (not asked and version < _EMPTY_MEANS_NONE):
        topics = [describe_topic(topic, broker.node_id) for topic in broker.topics.by_name.values()]
    else:
        may_create = (
            request.allow_auto_topic_creation and broker.config.settings.auto_create_topics_enable
        )
        topics = [
            await _describe_asked(broker, topic, version=version, may_create=may_create)
            for topic in _without_repetitions(asked)
        ]
    if request.include_topic_authorized_operations:
        for described in topics:
            if not described.error_code:
                described.topic_authorized_operations = permissions.ON_TOPIC
    host, port = broker.advertised()
    includes_cluster = request.include_cluster_authorized_operations
    return MetadataResponse(
        brokers=[MetadataResponseBroker(node_id=broker.node_id, host=host, port=port)],
        cluster_id=broker.cluster_id,
        controller_id=broker.node_id,
        topics=topics,
        cluster_authorized_operations=(
            permissions.ON_CLUSTER if includes_cluster else permissions.NOT_ASKED
        ),
    )


def describe_topic(topic: Topic, node_id: int) -> MetadataResponseTopic:
    """Return a live topic with all its partitions."""
    return MetadataResponseTopic(
        error_code=0,
        name=topic.name,
        topic_id=topic.topic_id,
        is_internal=topic.internal,
        partitions=[
            _describe_partition(topic, index, node_id) for index in range(len(topic.partitions))
        ],
    )


def _describe_partition(topic: Topic, index: int, node_id: int) -> MetadataResponsePartition:
    partition = topic.partitions[index]
    online = partition is not None and partition.offline is None
    return MetadataResponsePartition(
        error_code=0,
        partition_index=index,
        leader_id=node_id,
        leader_epoch=partition.leader_epoch if partition is not None else -1,
        replica_nodes=[node_id],
        isr_nodes=[node_id] if online else [],
        offline_replicas=[] if online else [node_id],
    )


def _without_repetitions(asked: list[MetadataRequestTopic]) -> list[MetadataRequestTopic]:
    return list({(topic.name, topic.topic_id): topic for topic in asked}.values())


async def _describe_asked(
    broker: Broker, asked: MetadataRequestTopic, *, version: int, may_create: bool
) -> MetadataResponseTopic:
    if asked.topic_id != NO_TOPIC_ID:
        return _describe_by_id(broker, asked, version)
    if asked.name is None:
        return _refused(asked, ErrorCode.INVALID_REQUEST)
    topic = broker.topics.by_name.get(asked.name)
    if topic is not None:
        return describe_topic(topic, broker.node_id)
    try:
        check_topic_name(asked.name)
        if not may_create or is_internal(asked.name):
            return _refused(asked, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
        topic = await _create_on_first_use(broker, asked.name)
    except LogdError as error:
        return _refused(asked, code_for(error))
    return describe_topic(topic, broker.node_id)


def _describe_by_id(
    broker: Broker, asked: MetadataRequestTopic, version: int
) -> MetadataResponseTopic:
    if version < _TOPIC_ID_ANSWERED:
        return _refused(asked, ErrorCode.INVALID_REQUEST)
    topic = broker.topics.by_id.get(asked.topic_id)
    if topic is None:
        return _refused(asked, ErrorCode.UNKNOWN_TOPIC_ID, name=None)
    return describe_topic(topic, broker.node_id)


async def _create_on_first_use(broker: Broker, name: str) -> Topic:
    try:
        return await broker.topics.create(name, broker.config.settings.num_partitions, {})
    except TopicExistsError:
        topic = broker.topics.by_name.get(name)  # Two clients asked at the same moment.
        if topic is None:
            raise
        return topic


def _refused(
    asked: MetadataRequestTopic, code: int, *, name: str | None = ""
) -> MetadataResponseTopic:
    return MetadataResponseTopic(
        error_code=code,
        name=asked.name if asked.name is not None else name,
        topic_id=asked.topic_id,
        partitions=[],
    )
