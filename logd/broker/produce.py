"""Produce: from a frame to staged batches, and from their fate to the answer.

Two ways to the same partition: requests of the shape that a connection sent before take the short
one (wire.produce_prefix), all others the generated codec. Both end in `Partition.append`, and both
answer per partition: what one partition refuses, another may accept.

acks=0 has no answer at all; if such a batch is refused the connection is closed, as Kafka does,
because that is the only way to tell the client.
"""

from __future__ import annotations

import struct
from typing import Final, Protocol

from logd.broker.context import Broker
from logd.broker.partition import Partition
from logd.broker.produce_replies import (
    AppendRun,
    NoAnswer,
    PartitionAppend,
    ProduceReply,
    ShortAppend,
)
from logd.broker.produce_route import ACKS_ALL, ProduceRoute
from logd.broker.reply import Reply, ReplyOwner
from logd.errors import (
    InvalidRequiredAcksError,
    InvalidTopicError,
    LogdError,
    StorageError,
    TransactionalIdRefusedError,
    UnknownTopicOrPartitionError,
    UnsupportedCompressionTypeError,
)
from logd.record.batch import CODEC_MASK
from logd.wire import produce_prefix
from logd.wire.frame import LENGTH_BYTES
from logd.wire.messages import produce as messages
from logd.wire.request_header import decode_request_header

ACKS_NONE: Final = 0
_ALLOWED_ACKS: Final = (ACKS_NONE, 1, ACKS_ALL)
_ZSTD: Final = 4
_FIRST_VERSION_WITH_ZSTD: Final = 7
_INT32: Final = struct.Struct(">i")
_ATTRIBUTES_LOW_BYTE: Final = 22


class ProduceConnection(ReplyOwner, Protocol):
    """What Produce keeps on, and asks of, the connection that a request came on."""

    produce_route: ProduceRoute | None

    def pause_for(self, partition: Partition) -> None:
        """Read no more from the client until the partition's syncs have caught up."""
        ...


class ProduceHandler:
    """Handles Produce requests on the serving loop; never waits."""

    def __init__(self, broker: Broker) -> None:
        self._topics = broker.topics
        self._events = broker.events
        self._refused = broker.metrics.counter(
            "logd_produce_refused_total", "Batches that were refused."
        )

    def handle(
        self,
        connection: ProduceConnection,
        buffer: bytearray,
        position: int,
        end: int,
        version: int,
        correlation_id: int,
    ) -> Reply | None:
        """Stage the request's batches; return the answer to come, None where there is none.

        Args:
            position: of the request's api key in `buffer`; the request ends at `end`.

        Raises:
            MalformedRequestError: the connection is to be closed; nothing was staged.
        """
        route = connection.produce_route
        if (
            route is None
            or route.version != version
            or route.topics_version != self._topics.version
            or not buffer.startswith(route.head, position + 8, end)
        ):
            route = self._learn(connection, buffer, position, end, version)
            if route is None:
                return self._handle_any(connection, buffer, position, end, version)
        if (
            end - position == route.frame_bytes
            and buffer.startswith(route.size_field, position + route.size_at)
            and buffer.startswith(route.tail, end - len(route.tail))
        ):
            # As long as the last one, so its records begin at the same place.
            (index,) = _INT32.unpack_from(buffer, position + route.size_at - 4)
            at, size = position + route.records_at, route.size
        else:
            located = route.prefix.locate(buffer, position, end)
            if located is None:
                return self._handle_any(connection, buffer, position, end, version)
            index, at, size = located
            route.remember(buffer, position, end, at, size)
        partition = route.partitions[index] if 0 <= index < len(route.partitions) else None
        if partition is None:
            return self._handle_any(connection, buffer, position, end, version)
        reply = ShortAppend(connection, route.prefix, correlation_id, index, partition)
        try:
            partition.intake.append(buffer, at, size, reply, route.wants_sync)
        except LogdError as error:
            self._note_refused(route.prefix.topic, index, error)
            reply.refused(error)
        if partition.is_congested:
            connection.pause_for(partition)
        return reply

    def handle_run(
        self, connection: ProduceConnection, buffer: bytearray, position: int, end: int, limit: int
    ) -> tuple[AppendRun, int] | None:
        """Stage the requests at `position` that are like the last one, in as few steps as it takes.

        Args:
            position: of the first one's length; `limit`: take no more requests than this.

        Returns:
            The answers to come, and where the next request begins. None: there is no such request;
            `handle` takes the next one, whatever it is.
        """
        route = connection.produce_route
        if route is None or route.topics_version != self._topics.version:
            return None
        index, correlation_ids = route.find_run(buffer, position, min(end, len(buffer)), limit)
        partition = route.partitions[index] if 0 <= index < len(route.partitions) else None
        if not correlation_ids or partition is None or partition.is_congested:
            return None
        reply = AppendRun(connection, route.prefix, index, partition)
        stride = LENGTH_BYTES + route.frame_bytes
        try:
            reply.base_offsets = partition.intake.append_run(
                buffer,
                position + LENGTH_BYTES + route.records_at,
                size=route.size,
                stride=stride,
                count=len(correlation_ids),
                waiter=reply,
                wants_sync=route.wants_sync,
            )
        except LogdError:
            return None  # `handle` says so to each of them.
        reply.count = len(reply.base_offsets)
        if reply.count == 0:
            return None
        reply.correlation_ids = correlation_ids[: reply.count]
        return reply, position + stride * reply.count

    def _learn(
        self,
        connection: ProduceConnection,
        buffer: bytearray,
        position: int,
        end: int,
        version: int,
    ) -> ProduceRoute | None:
        """Remember the way of requests like this one; None leaves it to the codec to decide."""
        connection.produce_route = None
        prefix = produce_prefix.learn(buffer, position, end, version)
        # acks that do not exist, acks=0 and zstd for old clients take the long way.
        if prefix is None or prefix.acks not in (1, ACKS_ALL) or version < _FIRST_VERSION_WITH_ZSTD:
            return None
        topic = self._topics.by_name.get(prefix.topic)
        if topic is None or topic.internal:
            return None
        connection.produce_route = ProduceRoute(
            prefix, topic.partitions, topics_version=self._topics.version
        )
        return connection.produce_route

    def _partition(self, topic_name: str, index: int) -> Partition:
        topic = self._topics.by_name.get(topic_name)
        if topic is None:
            raise UnknownTopicOrPartitionError(f"there is no topic {topic_name!r}")
        if topic.internal:
            raise InvalidTopicError(f"clients may not write to the internal topic {topic_name}")
        return topic.partition(index)

    def _handle_any(
        self,
        connection: ProduceConnection,
        buffer: bytearray,
        position: int,
        end: int,
        version: int,
    ) -> Reply | None:
        correlation_id, _, body = decode_request_header(buffer, position, end, 0, version)
        request = messages.decode_request(buffer, version, body, end)
        if request.acks == ACKS_NONE:
            self._append_silently(connection, request, version)
            return None
        reply = ProduceReply(connection, correlation_id=correlation_id, version=version)
        refusal = _refuse_whole(request)
        for topic in request.topic_data:
            answers: list[messages.PartitionProduceResponse] = []
            reply.topics.append((topic.name, answers))
            for data in topic.partition_data:
                answer = messages.PartitionProduceResponse(
                    index=data.index, error_code=0, base_offset=-1
                )
                answers.append(answer)
                reply.outstanding += 1
                append = PartitionAppend(reply, answer, None)
                self._append(connection, append, topic.name, data, request, refusal, version)
        reply.finish_one()
        return reply

    def _append(
        self,
        connection: ProduceConnection,
        append: PartitionAppend,
        topic_name: str,
        data: messages.PartitionProduceData,
        request: messages.ProduceRequest,
        refusal: LogdError | None,
        version: int,
    ) -> None:
        try:
            if refusal is not None:
                raise refusal
            append.partition = self._partition(topic_name, data.index)
            self._append_records(append.partition, data, append, request.acks, version)
        except LogdError as error:
            self._note_refused(topic_name, data.index, error)
            append.refused(error)
        else:
            if append.partition.is_congested:
                connection.pause_for(append.partition)

    def _append_silently(
        self, connection: ProduceConnection, request: messages.ProduceRequest, version: int
    ) -> None:
        waiter = NoAnswer(connection)
        refusal = _refuse_whole(request)
        for topic in request.topic_data:
            for data in topic.partition_data:
                try:
                    if refusal is not None:
                        raise refusal
                    partition = self._partition(topic.name, data.index)
                    self._append_records(partition, data, waiter, ACKS_NONE, version)
                except LogdError as error:
                    self._note_refused(topic.name, data.index, error)
                    waiter.refused(error)
                else:
                    if partition.is_congested:
                        connection.pause_for(partition)

    def _append_records(
        self,
        partition: Partition,
        data: messages.PartitionProduceData,
        waiter: PartitionAppend | NoAnswer,
        acks: int,
        version: int,
    ) -> None:
        records = data.records if data.records is not None else memoryview(bytearray())
        assert isinstance(records, memoryview)
        size = len(records)
        if (
            version < _FIRST_VERSION_WITH_ZSTD
            and size > _ATTRIBUTES_LOW_BYTE
            and records[_ATTRIBUTES_LOW_BYTE] & CODEC_MASK == _ZSTD
        ):
            raise UnsupportedCompressionTypeError(
                f"zstd needs Produce version {_FIRST_VERSION_WITH_ZSTD}, this is {version}"
            )
        partition.intake.append(records, 0, size, waiter, acks == ACKS_ALL)

    def _note_refused(self, topic: str, index: int, error: LogdError) -> None:
        self._refused.value += 1
        if not isinstance(error, StorageError):
            self._events.mistake("batch refused", topic=topic, partition=index, reason=str(error))


def _refuse_whole(request: messages.ProduceRequest) -> LogdError | None:
    if request.acks not in _ALLOWED_ACKS:
        return InvalidRequiredAcksError(f"acks must be 0, 1 or -1 (all), not {request.acks}")
    if request.transactional_id is not None:
        return TransactionalIdRefusedError("transactions are not supported by this server")
    return None
