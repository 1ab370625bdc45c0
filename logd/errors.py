"""Every error that logd raises on purpose, one class per thing a caller can do about it.

Three families:

* `RequestError`: a client asked for something that is refused. The connection goes on, the log is
  unchanged, and `wire.error_codes` gives each class its Kafka error code. No traceback is logged.
* `CorruptFileError` and friends: bytes on disk are not what they must be. They name file and
  position.
* `StorageError`: the disk or the operating system refused. Each says what state the log is in
  afterwards.

An `AssertionError` is never one of these: it is a bug of ours.
"""

from __future__ import annotations

from collections.abc import Sequence


class LogdError(Exception):
    """The root of all errors that logd raises on purpose."""


# --- Requests that are refused ------------------------------------------------------------------


class RequestError(LogdError):
    """A client's request, or one partition of it, is refused; nothing was changed.

    The text is sent to clients whose protocol version has room for it.
    """


class CorruptMessageError(RequestError):
    """A record batch fails its checksum, or its frame makes no sense."""


class InvalidRecordError(RequestError):
    """A record batch is intact but breaks a rule: count, magic, control bit, null key, …

    Args:
        record_indexes: the records that broke it, counted from 0 in their batch; none are named
            where the batch as a whole is wrong. The producer may send the others again.
    """

    def __init__(self, text: str, record_indexes: Sequence[int] = ()) -> None:
        super().__init__(text)
        self.record_indexes = tuple(record_indexes)


class InvalidTimestampError(RequestError):
    """A record batch's timestamps lie outside message.timestamp.before/after.max.ms."""


class MessageTooLargeError(RequestError):
    """A record batch is larger than max.message.bytes."""


class UnsupportedCompressionTypeError(RequestError):
    """A record batch names a codec that does not exist, or that the client's version cannot
    read.
    """


class OutOfOrderSequenceError(RequestError):
    """An idempotent producer's batch does not follow the last one."""


class DuplicateSequenceError(RequestError):
    """An idempotent producer's batch lies before the last five that are remembered."""


class InvalidProducerEpochError(RequestError):
    """A producer id was used with an epoch that a newer one has fenced off."""


class InvalidTxnStateError(RequestError):
    """A transactional batch arrived; this version has no transactions."""


class TransactionalIdRefusedError(RequestError):
    """A transactional id was named; this version has no transactions (fatal for the client)."""


class OffsetOutOfRangeError(RequestError):
    """An offset lies before the log start offset or after the log end offset."""


class UnknownTopicOrPartitionError(RequestError):
    """No such topic, or the topic has no such partition."""


class UnknownTopicIdError(RequestError):
    """No topic has this id; it was deleted, or created anew under the same name."""


class InconsistentTopicIdError(RequestError):
    """The topic id in a fetch session is not the one that the session was opened with."""


class InvalidTopicError(RequestError):
    """The topic's name breaks the naming rules, or clients may not touch the topic."""


class TopicExistsError(RequestError):
    """A topic of this name exists already."""


class InvalidPartitionsError(RequestError):
    """The number of partitions is not allowed (zero, negative, fewer than now, too many)."""


class InvalidReplicationFactorError(RequestError):
    """A replication factor other than 1 (or -1) was asked for."""


class InvalidReplicaAssignmentError(RequestError):
    """A replica assignment names other brokers than this one."""


class InvalidConfigError(RequestError):
    """A setting is unknown, or its value is not allowed. The text says which and why."""


class InvalidRequestError(RequestError):
    """The request contradicts itself: a name twice, a negative time-out, …"""


class InvalidRequiredAcksError(RequestError):
    """acks is none of 0, 1 and -1."""


class InvalidFetchSizeError(RequestError):
    """A fetch size is negative."""


class FetchSessionIdNotFoundError(RequestError):
    """The fetch session is unknown or was evicted; the client opens a new one."""


class InvalidFetchSessionEpochError(RequestError):
    """The fetch session's epoch is not the expected one; the client opens a new session."""


class FencedLeaderEpochError(RequestError):
    """The client's leader epoch is older than the partition's."""


class UnknownLeaderEpochError(RequestError):
    """The client's leader epoch is newer than the partition's."""


class GroupNotFoundError(RequestError):
    """There is no consumer group of this id."""


class PolicyViolationError(RequestError):
    """The request is well-formed but a server limit forbids it."""


class UnsupportedVersionError(RequestError):
    """The request needs a feature or a version that this server does not have."""


class SecurityDisabledError(RequestError):
    """ACLs were asked for; no authorizer is configured."""


# --- Bytes that cannot be read ------------------------------------------------------------------


class MalformedRequestError(LogdError):
    """A frame cannot be decoded. The connection is closed: nothing after it can be trusted."""


class CorruptFileError(LogdError):
    """A file of ours holds bytes that cannot be right.

    `path` names the file, `position` the byte where the trouble begins.
    """

    def __init__(self, path: str, position: int, reason: str) -> None:
        super().__init__(f"{path}: corrupt at position {position}: {reason}")
        self.path = path
        self.position = position
        self.reason = reason


class UnsupportedFormatError(LogdError):
    """A file is intact but of a format version or feature that this server does not know."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class CorruptRecordsError(LogdError):
    """The records inside a batch cannot be parsed or decompressed, or contradict its header."""


class DecompressedTooLargeError(CorruptRecordsError):
    """A batch's records decompress to more than the limit that was given."""


# --- Storage that refuses -----------------------------------------------------------------------


class StorageError(LogdError):
    """The disk or the operating system refused. Clients see KAFKA_STORAGE_ERROR."""


class DiskFullError(StorageError):
    """There is no space, or less than the reserve. The log is unchanged and takes appends again
    as soon as there is space."""


class LogFailedError(StorageError):
    """A write or sync of this log failed. It is offline until the server restarts and recovers it:
    after a failed sync the kernel may already have dropped what was written."""


class DamagedRangeError(StorageError):
    """The offset lies in a damaged, quarantined range of the log."""


class ColdRangeError(StorageError):
    """The offset lies in a coded segment of which too few chunks can be read, or are damaged."""


class CompactionError(LogdError):
    """A log could not be compacted; it is what it was, and serves as before."""


class BatchTooLargeToCompactError(CompactionError):
    """A batch needs more memory than a round of compaction may take. Names file and position."""


class SegmentsChangedError(CompactionError):
    """The segments that a round of compaction read are not the log's any more: records were deleted
    meanwhile. What the round wrote is of no use; the next one begins with what is there."""


class DataDirectoryError(LogdError):
    """The data directory cannot be used: locked, of another cluster, of a newer format, …"""


class ColdStateError(LogdError):
    """A coded segment's state, or a lacking proof, forbids a change; nothing was changed."""


class NodeRefusedError(LogdError):
    """A storage node cannot be added, changed or removed as asked; nothing was changed."""


class UnknownNodeError(LogdError):
    """There is no storage node of that name."""


class ConfigError(LogdError):
    """A setting given by file, flag or environment is not usable. Names the key and the reason."""
