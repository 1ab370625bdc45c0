"""OffsetCommit and OffsetDelete: where groups have come to, kept as durably as records.

A commit is answered, and can be fetched, when its sync has returned. What one partition of a
request refuses (unknown, too long a note) the others do not suffer from; what the group refuses
(not a member, wrong generation) is refused for all of them.

The empty group id is allowed for commits: old clients keep offsets under it.

Source: Kafka protocol guide; KIP-211 (retention_time_ms of versions 2 to 4), KIP-496 (deletes).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from logd.broker.context import Broker, RequestContext
from logd.broker.group_deletes import delete_offsets
from logd.broker.group_entry import GroupEntry, LogRecord, OffsetOf
from logd.broker.group_requests import check_group
from logd.broker.groups import Coordinator, write_error
from logd.broker.reply import Answer
from logd.errors import LogdError, MessageTooLargeError
from logd.policy.group.committed import CommittedOffset
from logd.policy.group.subscription import CONSUMER
from logd.policy.group.values import GroupState
from logd.record.group_records import encode_offset_key, encode_offset_value
from logd.units import INT16_MAX
from logd.wire.error_codes import ErrorCode
from logd.wire.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitResponse,
    OffsetCommitResponsePartition,
    OffsetCommitResponseTopic,
)
from logd.wire.messages.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteRequestTopic,
    OffsetDeleteResponse,
    OffsetDeleteResponsePartition,
    OffsetDeleteResponseTopic,
)

_NO_RETENTION: Final = -1


# --- OffsetCommit --------------------------------------------------------------------------------


class _Commit:
    """One OffsetCommit, from the request to its sync."""

    __slots__ = ("_accepted", "_answer", "_entry", "_groups", "_records", "_response")

    def __init__(self, groups: Coordinator, answer: Answer) -> None:
        self._groups = groups
        self._answer = answer
        self._entry: GroupEntry | None = None
        self._response = OffsetCommitResponse()
        # What goes into the log, and the same by its key.
        self._records: list[LogRecord] = []
        self._accepted: dict[OffsetOf, CommittedOffset] = {}

    @property
    def keys(self) -> Collection[OffsetOf]:
        """The offsets that it sets."""
        return self._accepted.keys()

    def take(self, broker: Broker, request: OffsetCommitRequest, refusal: ErrorCode) -> None:
        """Look at each partition: accept it, or refuse it in the answer.

        Args:
            refusal: why the group's id is refused; then nothing can be made of it to write.
        """
        limit = min(broker.config.settings.offset_metadata_max_bytes, INT16_MAX)
        now_ms = self._groups.services.turn.now_ms
        retention_ms = request.retention_time_ms
        expire_ms = None if retention_ms == _NO_RETENTION else now_ms + retention_ms
        by_name = broker.topics.by_name
        for asked in request.topics:
            topic = by_name.get(asked.name)
            count = 0 if topic is None else len(topic.partitions)
            answers = []
            for partition in asked.partitions:
                index = partition.partition_index
                answer = OffsetCommitResponsePartition(partition_index=index)
                answers.append(answer)
                if not 0 <= index < count:
                    answer.error_code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
                elif refusal:
                    answer.error_code = refusal
                elif _is_too_long(partition.committed_metadata, limit):
                    answer.error_code = ErrorCode.OFFSET_METADATA_TOO_LARGE
                else:
                    self._accept(request.group_id, asked.name, partition, now_ms, expire_ms)
            self._response.topics.append(
                OffsetCommitResponseTopic(name=asked.name, partitions=answers)
            )

    def _accept(
        self,
        group_id: str,
        topic: str,
        asked: OffsetCommitRequestPartition,
        now_ms: int,
        expire_ms: int | None,
    ) -> None:
        index, offset = asked.partition_index, asked.committed_offset
        epoch, metadata = asked.committed_leader_epoch, asked.committed_metadata or ""
        committed = CommittedOffset(offset, epoch, metadata, now_ms, expire_ms)
        self._accepted[topic, index] = committed
        self._records.append((encode_offset_key(group_id, topic, index), encode_value(committed)))

    def send(self, entry: GroupEntry) -> None:
        """Write what was accepted; the answer comes with the sync."""
        if not self._records:
            self._groups.forget_if_unused(entry)
            self._answer.answer(self._response)
            return
        self._entry = entry
        entry.in_flight.add(self)
        self._groups.append(entry, self._records, self._written)

    def _written(self, error: LogdError | None) -> None:
        entry = self._entry
        assert entry is not None
        if error is None:
            entry.offsets.update(self._accepted)
            self._groups.commits.value += len(self._accepted)
        entry.landed(self)
        if error is None:
            self._answer.answer(self._response)
        else:
            self._groups.forget_if_unused(entry)
            self.refuse(commit_error(error))

    def refuse(self, error: ErrorCode) -> None:
        """Answer with the error for every partition that there is."""
        for topic in self._response.topics:
            for answer in topic.partitions:
                if answer.error_code != ErrorCode.UNKNOWN_TOPIC_OR_PARTITION:
                    answer.error_code = error
        self._answer.answer(self._response)


def begin_offset_commit(
    context: RequestContext, request: OffsetCommitRequest, _version: int, answer: Answer
) -> None:
    """Commit offsets; answered when they are durable."""
    broker = context.broker
    groups = broker.groups
    commit = _Commit(groups, answer)
    error = check_group(groups, request.group_id, may_be_empty=True)
    commit.take(broker, request, error)
    entry = None
    if not error:
        entry, error = _entry_for_commit(groups, request)
    if error or entry is None:
        commit.refuse(error)
    else:
        commit.send(entry)


def _entry_for_commit(
    groups: Coordinator, request: OffsetCommitRequest
) -> tuple[GroupEntry | None, ErrorCode]:
    """Return the group, made for a consumer without membership; or why it may not commit."""
    generation = request.generation_id_or_member_epoch
    entry = groups.entries.get(request.group_id)
    if entry is None:
        if generation >= 0:
            return None, ErrorCode.ILLEGAL_GENERATION
        entry = groups.find_or_make(request.group_id)
        if entry is None:
            return None, ErrorCode.POLICY_VIOLATION
    error = entry.group.check_commit(
        request.member_id, generation, request.group_instance_id, now_ms=groups.now_ms()
    )
    return entry, error


def commit_error(error: LogdError) -> ErrorCode:
    """Return what a commit is answered that the offsets log refused."""
    if isinstance(error, MessageTooLargeError):
        return ErrorCode.INVALID_COMMIT_OFFSET_SIZE
    return write_error(error)


def encode_value(committed: CommittedOffset) -> bytes:
    """Return the value of a committed offset's record."""
    return encode_offset_value(
        committed.offset,
        committed.leader_epoch,
        committed.metadata,
        commit_timestamp_ms=committed.commit_timestamp_ms,
        expire_timestamp_ms=committed.expire_timestamp_ms,
    )


def _is_too_long(metadata: str | None, limit: int) -> bool:
    """Kafka counts characters, whatever the setting is called; the record format counts bytes."""
    if not metadata:
        return False
    return len(metadata) > limit or len(metadata.encode()) > INT16_MAX


# --- OffsetDelete --------------------------------------------------------------------------------


def begin_offset_delete(
    context: RequestContext, request: OffsetDeleteRequest, _version: int, answer: Answer
) -> None:
    """Delete offsets of topics that the group does not read; answered when that is durable."""
    groups = context.broker.groups
    error = check_group(groups, request.group_id) or _may_not_delete(groups, request.group_id)
    if error:
        answer.answer(OffsetDeleteResponse(error_code=error))
        return
    entry = groups.entries[request.group_id]
    in_use = topics_in_use(entry)
    response = OffsetDeleteResponse()
    keys: list[OffsetOf] = []
    for asked in request.topics:
        is_in_use = in_use is None or asked.name in in_use
        response.topics.append(_delete_of_topic(context.broker, asked, keys, is_in_use=is_in_use))

    def done(error: LogdError | None) -> None:
        failed = OffsetDeleteResponse(error_code=write_error(error)) if error else None
        answer.answer(failed or response)

    known = entry.all_offsets()
    delete_offsets(groups, entry, [key for key in dict.fromkeys(keys) if key in known], done)


def _may_not_delete(groups: Coordinator, group_id: str) -> ErrorCode:
    entry = groups.entries.get(group_id)
    if entry is None or entry.group.state is GroupState.DEAD:
        return ErrorCode.GROUP_ID_NOT_FOUND
    if entry.group.state is not GroupState.EMPTY and entry.group.protocol_type != CONSUMER:
        return ErrorCode.NON_EMPTY_GROUP  # What its members read cannot be known.
    return ErrorCode.NONE


def topics_in_use(entry: GroupEntry) -> frozenset[str] | None:
    """Return the topics that members of the group read; None: perhaps all."""
    if entry.group.state is GroupState.EMPTY:
        return frozenset()
    return entry.group.subscribed_topics()


def _delete_of_topic(
    broker: Broker, asked: OffsetDeleteRequestTopic, keys: list[OffsetOf], *, is_in_use: bool
) -> OffsetDeleteResponseTopic:
    """Add what may be deleted to `keys`; return the answer."""
    topic = broker.topics.by_name.get(asked.name)
    answers = []
    for partition in asked.partitions:
        index = partition.partition_index
        answer = OffsetDeleteResponsePartition(partition_index=index)
        if topic is None or not 0 <= index < len(topic.partitions):
            answer.error_code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        elif is_in_use:
            answer.error_code = ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC
        else:
            keys.append((asked.name, index))
        answers.append(answer)
    return OffsetDeleteResponseTopic(name=asked.name, partitions=answers)
