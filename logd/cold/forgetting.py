"""Coded segments that lie below the start of their log: their generations are to be deleted.

Whatever moved the log start (retention, delete-records) made it durable first. So what is to go is
worked out anew each time, from the log start and the catalog: a crash between the two loses
nothing. A deleted topic needs nothing of this: its generations become DELETING in the transaction
that marks it.
"""

from __future__ import annotations

from collections.abc import Iterable

from logd.cold.partition_view import ColdPartition
from logd.cold.tier import ColdTier
from logd.events import EventLog
from logd.policy.cold.leases import Work
from logd.policy.cold.values import REMOVABLE, Generation, SegmentKey


def segments_below(generations: Iterable[Generation], log_start_offset: int) -> list[SegmentKey]:
    """Return the segments of one partition of which nobody may read a record any more."""
    return sorted(
        {
            each.key
            for each in generations
            if each.next_offset <= log_start_offset and each.state not in REMOVABLE
        }
    )


async def forget_below_start(
    tier: ColdTier, partition: ColdPartition, events: EventLog
) -> tuple[SegmentKey, ...]:
    """Record as DELETING what lies below a partition's log start; return what it was.

    What somebody works on is left for the next time.

    Raises:
        StorageError: the catalog could not be written; nothing was recorded.
    """
    generations = tier.generations(partition.topic_id, partition.index)
    keys = [
        key
        for key in segments_below(generations, partition.log.log_start_offset)
        if key not in tier.leases
    ]
    if not keys:
        return ()
    lease = tier.leases.take(Work.DELETE, keys)
    assert lease is not None, "asked for just now"
    try:
        await tier.delete_segments(keys)
    finally:
        tier.leases.give_back(lease)
    events.info(
        "coded segments deleted",
        topic=partition.topic_name,
        partition=partition.index,
        segments=len(keys),
        below_offset=partition.log.log_start_offset,
    )
    return tuple(keys)


def topics_to_forget(known: Iterable[bytes], generations: Iterable[Generation]) -> list[bytes]:
    """Return those of some topics, by id, that have no generation any more; always in one order."""
    return sorted(set(known) - {each.key.topic_id for each in generations})
