"""May a batch with these timestamps be appended? message.timestamp.before/after.max.ms, decided.

A deviation from Kafka, which decompresses every batch and looks at each record: here the header's
base and max timestamp stand for all of them. Clients compute both from the records (base is the
first record's, max the greatest), so what passes differs only where a record older than the first
one of its batch hides between them, or where a client's header lies; `logd check` finds the
latter. In exchange batches stay opaque on the append path.

-1 means that there is no timestamp and passes, as in Kafka. Some clients leave the max timestamp
at -1 although their records have timestamps: then the base alone is compared.

Source: KIP-32, KIP-937; docs/adr says why batches stay opaque.
"""

from __future__ import annotations

from logd.errors import InvalidTimestampError
from logd.record.batch import DELETE_HORIZON_BIT, LOG_APPEND_TIME_BIT, NO_TIMESTAMP, BatchHeader


def check_timestamps(
    header: BatchHeader, *, now_ms: int, before_max_ms: int, after_max_ms: int
) -> None:
    """Check a batch for a topic whose message.timestamp.type is CreateTime.

    Args:
        before_max_ms: how far a timestamp may lie in the past.
        after_max_ms: how far it may lie in the future.

    Raises:
        InvalidTimestampError: a timestamp out of these bounds, or the LogAppendTime bit set.
    """
    low_ms, high_ms = now_ms - before_max_ms, now_ms + after_max_ms
    for timestamp_ms in (header.base_timestamp, header.max_timestamp):
        if timestamp_ms != NO_TIMESTAMP and not low_ms <= timestamp_ms <= high_ms:
            raise InvalidTimestampError(
                f"timestamp {timestamp_ms} is out of range: it must lie in [{low_ms}, {high_ms}]"
            )
    check_timestamp_type(header)


def check_timestamp_type(header: BatchHeader) -> None:
    """Check that the producer left the timestamp type to the server, whatever the topic's is.

    Topics with LogAppendTime need this check only: their producers' timestamps are replaced.

    Raises:
        InvalidTimestampError: the LogAppendTime bit is set.
    """
    if header.attributes & LOG_APPEND_TIME_BIT:
        raise InvalidTimestampError("producers may not set the timestamp type to LogAppendTime")


def latest_timestamp_ms(header: BatchHeader) -> int:
    """Return the greatest timestamp that a batch's header speaks of; -1 for none.

    Right also for producers that never set the max timestamp: then the first record's stands for
    it, unless compaction has put a delete horizon in its place.
    """
    if header.max_timestamp >= 0 or header.attributes & DELETE_HORIZON_BIT:
        return header.max_timestamp
    return max(header.base_timestamp, NO_TIMESTAMP)


def batch_timestamp_ms(header: BatchHeader) -> int:
    """Return the timestamp that the time index has for a batch; -1 for none.

    A batch that compaction has emptied has none: nobody who looks for a time is led to it.
    """
    return latest_timestamp_ms(header) if header.count else NO_TIMESTAMP
