"""The answers to Produce: waiters that the partition tells how an append ended.

A waiter has `append_time_ms`, filled in while the batch is staged, and two ends: `appended` with
the base offset and `refused` with the error. Nothing else is known of it below.
"""

from __future__ import annotations

from logd.broker.partition import Partition
from logd.broker.reply import Reply, ReplyOwner
from logd.errors import InvalidRecordError, LogdError
from logd.wire.error_codes import code_for
from logd.wire.frame import response_frame
from logd.wire.messages import produce as messages
from logd.wire.produce_prefix import ProducePrefix


class ShortAppend(Reply):
    """The answer to a request of a known shape; told by the partition how its append ended."""

    __slots__ = ("append_time_ms", "correlation_id", "index", "partition", "prefix")

    def __init__(
        self,
        owner: ReplyOwner,
        prefix: ProducePrefix,
        correlation_id: int,
        index: int,
        partition: Partition,
    ) -> None:
        # As Reply has it, without the call: one of these is made for each request.
        self.owner = owner
        self.data = None
        self.on_sent = None
        self.prefix = prefix
        self.correlation_id = correlation_id
        self.index = index
        self.partition = partition
        self.append_time_ms = -1

    def appended(self, base_offset: int) -> None:
        """Answer with the base offset."""
        self.data = self.prefix.pack_answer(
            self.correlation_id,
            self.index,
            base_offset,
            self.append_time_ms,
            self.partition.log.log_start_offset,
        )
        owner = self.owner
        if not owner.is_ready:
            owner.mark_ready()

    def refused(self, error: LogdError) -> None:
        """Answer with the error's code and text."""
        answer = _refusal(self.index, error)
        self.complete(
            _encode(self.correlation_id, self.prefix.version, [(self.prefix.topic, [answer])])
        )


class AppendRun(Reply):
    """The answers to requests of one shape that came one behind the other; they leave together."""

    __slots__ = ("append_time_ms", "base_offsets", "correlation_ids", "count", "index",
                 "partition", "prefix")  # fmt: skip

    def __init__(
        self, owner: ReplyOwner, prefix: ProducePrefix, index: int, partition: Partition
    ) -> None:
        super().__init__(owner)
        self.append_time_ms = -1
        self.prefix = prefix
        self.index = index
        self.partition = partition
        self.correlation_ids: list[int] = []
        self.base_offsets: list[int] = []
        self.count = 0

    def appended(self, _base_offset: int) -> None:
        """Answer each with its base offset."""
        pack = self.prefix.pack_answer
        start = self.partition.log.log_start_offset
        pairs = zip(self.correlation_ids, self.base_offsets, strict=True)
        self.complete(b"".join([pack(key, self.index, offset, -1, start) for key, offset in pairs]))

    def refused(self, error: LogdError) -> None:
        """Answer each with the error's code and text."""
        answer = [(self.prefix.topic, [_refusal(self.index, error)])]
        version = self.prefix.version
        self.complete(b"".join([_encode(key, version, answer) for key in self.correlation_ids]))


class NoAnswer:
    """The waiter of an acks=0 batch."""

    __slots__ = ("append_time_ms", "owner")

    def __init__(self, owner: ReplyOwner) -> None:
        self.owner = owner
        self.append_time_ms = -1

    def appended(self, base_offset: int) -> None:
        """Nobody asked."""

    def refused(self, error: LogdError) -> None:
        """Close the connection: the client learns in no other way."""
        self.owner.close_for(f"acks=0 batch refused: {error}")


class ProduceReply(Reply):
    """The answer to a request of any shape; complete when its last partition has answered."""

    __slots__ = ("correlation_id", "outstanding", "topics", "version")

    def __init__(self, owner: ReplyOwner, *, correlation_id: int, version: int) -> None:
        super().__init__(owner)
        self.correlation_id = correlation_id
        self.version = version
        self.topics: list[tuple[str, list[messages.PartitionProduceResponse]]] = []
        # One more than partitions under way, until all have been started.
        self.outstanding = 1

    def finish_one(self) -> None:
        """One partition has answered, or all have been started."""
        self.outstanding -= 1
        if self.outstanding == 0:
            self.complete(_encode(self.correlation_id, self.version, self.topics))


class PartitionAppend:
    """One partition of a `ProduceReply`."""

    __slots__ = ("answer", "append_time_ms", "partition", "request")

    def __init__(
        self,
        request: ProduceReply,
        answer: messages.PartitionProduceResponse,
        partition: Partition | None,
    ) -> None:
        self.request = request
        self.answer = answer
        self.partition = partition
        self.append_time_ms = -1

    def appended(self, base_offset: int) -> None:
        """Fill in the base offset."""
        assert self.partition is not None
        self.answer.base_offset = base_offset
        self.answer.log_append_time_ms = self.append_time_ms
        self.answer.log_start_offset = self.partition.log.log_start_offset
        self.request.finish_one()

    def refused(self, error: LogdError) -> None:
        """Fill in the error."""
        self.answer.error_code = int(code_for(error))
        self.answer.error_message = str(error)
        self.answer.record_errors = _record_errors(error)
        self.answer.base_offset = -1
        self.request.finish_one()


def _refusal(index: int, error: LogdError) -> messages.PartitionProduceResponse:
    return messages.PartitionProduceResponse(
        index=index,
        error_code=int(code_for(error)),
        error_message=str(error),
        record_errors=_record_errors(error),
        base_offset=-1,
        log_append_time_ms=-1,
        log_start_offset=-1,
    )


def _record_errors(error: LogdError) -> list[messages.BatchIndexAndErrorMessage]:
    """Name the records at fault: a producer fails these for good and may send the others again."""
    if not isinstance(error, InvalidRecordError):
        return []
    return [
        messages.BatchIndexAndErrorMessage(batch_index=index, batch_index_error_message=str(error))
        for index in error.record_indexes
    ]


def _encode(
    correlation_id: int,
    version: int,
    topics: list[tuple[str, list[messages.PartitionProduceResponse]]],
) -> bytes:
    response = messages.ProduceResponse(
        responses=[
            messages.TopicProduceResponse(name=name, partition_responses=answers)
            for name, answers in topics
        ]
    )
    flexible = version >= messages.FIRST_FLEXIBLE_VERSION
    return response_frame(
        correlation_id, messages.encode_response(response, version), flexible=flexible
    )
