"""The requests about the cluster as a whole, and those that are refused on purpose.

There is one broker: it coordinates every group, leads every partition and reassigns none. There are
no transactions and no ACLs; both are said with errors that clients do not retry for ever.

Source: Kafka protocol; KIP-98 (producer ids), KIP-113 (log directories), KIP-360, KIP-455, KIP-664,
KIP-699, KIP-700, KIP-827.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from logd.broker import permissions
from logd.broker.context import Broker, RequestContext
from logd.broker.topic import Topic
from logd.errors import (
    InvalidRequestError,
    LogdError,
    SecurityDisabledError,
    StorageError,
    TransactionalIdRefusedError,
)
from logd.wire.error_codes import ErrorCode, code_for
from logd.wire.messages.describe_acls import DescribeAclsRequest, DescribeAclsResponse
from logd.wire.messages.describe_cluster import (
    DescribeClusterBroker,
    DescribeClusterRequest,
    DescribeClusterResponse,
)
from logd.wire.messages.describe_log_dirs import (
    DescribeLogDirsPartition,
    DescribeLogDirsRequest,
    DescribeLogDirsResponse,
    DescribeLogDirsResult,
    DescribeLogDirsTopic,
)
from logd.wire.messages.describe_producers import (
    DescribeProducersRequest,
    DescribeProducersResponse,
    PartitionResponse,
    ProducerState,
    TopicResponse,
)
from logd.wire.messages.find_coordinator import (
    Coordinator,
    FindCoordinatorRequest,
    FindCoordinatorResponse,
)
from logd.wire.messages.init_producer_id import InitProducerIdRequest, InitProducerIdResponse
from logd.wire.messages.list_partition_reassignments import (
    ListPartitionReassignmentsRequest,
    ListPartitionReassignmentsResponse,
)

_GROUP: Final = 0
_TRANSACTION: Final = 1
_BROKERS: Final = 1
_FIRST_WITH_KEY_LIST: Final = 4
_NO_TRANSACTIONS: Final = "transactions are not supported by this server"


# --- coordinators and producers ------------------------------------------------------------------


async def handle_find_coordinator(
    context: RequestContext, request: FindCoordinatorRequest, version: int
) -> FindCoordinatorResponse:
    """Name this broker for every group whose part of the offsets log is there; create the log."""
    if version >= _FIRST_WITH_KEY_LIST:
        keys = request.coordinator_keys
        return FindCoordinatorResponse(
            coordinators=[await _coordinator(context.broker, key, request.key_type) for key in keys]
        )
    found = await _coordinator(context.broker, request.key, request.key_type)
    return FindCoordinatorResponse(
        error_code=found.error_code,
        error_message=found.error_message,
        node_id=found.node_id,
        host=found.host,
        port=found.port,
    )


async def _coordinator(broker: Broker, key: str, key_type: int) -> Coordinator:
    try:
        if key_type == _TRANSACTION:
            raise TransactionalIdRefusedError(_NO_TRANSACTIONS)
        if key_type != _GROUP:
            raise InvalidRequestError(f"coordinators of type {key_type} do not exist here")
    except LogdError as error:
        return _no_coordinator(key, code_for(error), str(error))
    code = await broker.groups.make_ready(key)
    if code:
        return _no_coordinator(key, code, "the group's offsets cannot be kept now")
    host, port = broker.advertised()
    return Coordinator(key=key, node_id=broker.node_id, host=host, port=port, error_message=None)


def _no_coordinator(key: str, code: ErrorCode, message: str) -> Coordinator:
    return Coordinator(
        key=key, node_id=-1, host="", port=-1, error_code=code, error_message=message
    )


async def handle_init_producer_id(
    context: RequestContext, request: InitProducerIdRequest, _version: int
) -> InitProducerIdResponse:
    """Give an idempotent producer an id of its own, with epoch 0.

    One that has an id already gets a new one, as from Kafka: only transactional ids are continued.
    """
    try:
        if request.transactional_id == "":
            raise InvalidRequestError("a transactional id must not be empty")
        if request.transactional_id is not None:
            raise TransactionalIdRefusedError(_NO_TRANSACTIONS)
        if (request.producer_id < 0) != (request.producer_epoch < 0):
            raise InvalidRequestError("producer id and epoch are given together or not at all")
        producer_id = await context.broker.producer_ids.next()
    except LogdError as error:
        return InitProducerIdResponse(error_code=code_for(error), producer_id=-1, producer_epoch=-1)
    return InitProducerIdResponse(producer_id=producer_id, producer_epoch=0)


async def handle_describe_producers(
    context: RequestContext, request: DescribeProducersRequest, _version: int
) -> DescribeProducersResponse:
    """List the idempotent producers that each partition remembers, once for each partition."""
    asked: dict[str, list[int]] = {}
    for topic in request.topics:
        asked.setdefault(topic.name, []).extend(topic.partition_indexes)
    topics = [
        TopicResponse(
            name=name,
            partitions=[
                _describe_producers(context.broker, name, index) for index in dict.fromkeys(indexes)
            ],
        )
        for name, indexes in asked.items()
    ]
    return DescribeProducersResponse(topics=topics)


def _describe_producers(broker: Broker, topic: str, index: int) -> PartitionResponse:
    try:
        partition = broker.topics.partition(topic, index)
        if partition.offline is not None:
            raise StorageError(partition.offline)
    except LogdError as error:
        return PartitionResponse(
            partition_index=index, error_code=code_for(error), error_message=str(error)
        )
    return PartitionResponse(
        partition_index=index,
        active_producers=[
            ProducerState(
                producer_id=entry.producer_id,
                producer_epoch=entry.epoch,
                last_sequence=entry.last_sequence,
                last_timestamp=entry.last_timestamp_ms,
                coordinator_epoch=-1,
                current_txn_start_offset=-1,
            )
            for entry in partition.log.producers.entries()
        ],
    )


# --- the cluster ---------------------------------------------------------------------------------


async def handle_describe_cluster(
    context: RequestContext, request: DescribeClusterRequest, _version: int
) -> DescribeClusterResponse:
    """Describe the cluster of one broker."""
    broker = context.broker
    if request.endpoint_type != _BROKERS:
        return DescribeClusterResponse(
            error_code=ErrorCode.MISMATCHED_ENDPOINT_TYPE,
            error_message="this port is a broker's; there are no separate controllers",
            endpoint_type=_BROKERS,
            cluster_id=broker.cluster_id,
        )
    host, port = broker.advertised()
    return DescribeClusterResponse(
        endpoint_type=_BROKERS,
        cluster_id=broker.cluster_id,
        controller_id=broker.node_id,
        brokers=[DescribeClusterBroker(broker_id=broker.node_id, host=host, port=port)],
        cluster_authorized_operations=(
            permissions.ON_CLUSTER
            if request.include_cluster_authorized_operations
            else permissions.NOT_ASKED
        ),
    )


async def handle_describe_log_dirs(
    context: RequestContext, request: DescribeLogDirsRequest, _version: int
) -> DescribeLogDirsResponse:
    """Describe the one data directory: its file system, and the bytes of each partition."""
    broker = context.broker
    result = DescribeLogDirsResult(log_dir=broker.data_path)
    try:
        total_bytes, free_bytes = await broker.offload.run("admin", partial(_space, broker))
    except OSError as error:
        result.error_code = ErrorCode.KAFKA_STORAGE_ERROR
        broker.events.error("file system cannot be asked for its size", reason=str(error))
        return DescribeLogDirsResponse(results=[result])
    result.total_bytes, result.usable_bytes = total_bytes, free_bytes
    wanted: list[tuple[Topic, Sequence[int]]]
    if request.topics is None:
        wanted = [(topic, range(len(topic.partitions))) for topic in broker.topics.by_name.values()]
    else:
        # A topic that is not here is left out, as by every broker that does not hold it.
        wanted = [
            (found, asked.partitions)
            for asked in request.topics
            if (found := broker.topics.by_name.get(asked.topic)) is not None
        ]
    result.topics = [_sizes(topic, indexes) for topic, indexes in wanted]
    return DescribeLogDirsResponse(results=[result])


def _space(broker: Broker) -> tuple[int, int]:
    files = broker.files
    return files.total_bytes(broker.data_path), files.free_bytes(broker.data_path)


def _sizes(topic: Topic, indexes: Sequence[int]) -> DescribeLogDirsTopic:
    sizes = []
    for index in indexes:
        partition = topic.partitions[index] if 0 <= index < len(topic.partitions) else None
        if partition is not None:
            sizes.append(
                DescribeLogDirsPartition(
                    partition_index=index, partition_size=partition.log.size_bytes, offset_lag=0
                )
            )
    return DescribeLogDirsTopic(name=topic.name, partitions=sizes)


async def handle_list_partition_reassignments(
    _context: RequestContext, _request: ListPartitionReassignmentsRequest, _version: int
) -> ListPartitionReassignmentsResponse:
    """No partition is ever on its way to another broker."""
    return ListPartitionReassignmentsResponse(error_message=None)


async def handle_describe_acls(
    _context: RequestContext, _request: DescribeAclsRequest, _version: int
) -> DescribeAclsResponse:
    """There are no ACLs: nobody is authenticated yet."""
    error = SecurityDisabledError("no authorizer is configured")
    return DescribeAclsResponse(error_code=code_for(error), error_message=str(error))
