"""Committed offsets, and when they are forgotten.

While a consumer uses its offsets they are kept, however seldom it commits. They lapse when nobody
has used them for the retention time. Who uses them is known as follows:

* a group with members that tell their topics: the offsets of those topics are in use;
* a group with members that cannot be read, or that is rebalancing: all of them are;
* a group without members: none are, since it became empty, or since the commit if that is later
  (an administrator's; Kafka counts from the first alone, and forgets such a commit early);
* offsets of a group that never had members: each is kept for the retention time after its commit.

An old client may name a time for each offset instead.

Source: KIP-211.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from logd.policy.group.group import Group
from logd.policy.group.values import GroupState

TopicPartition = tuple[str, int]


@dataclass(frozen=True, slots=True)
class CommittedOffset:
    """What a client committed for a partition.

    Attributes:
        offset: where it goes on.
        leader_epoch: the epoch of the record before it; -1 if not known.
        metadata: the client's own words, returned as they came.
        commit_timestamp_ms: wall-clock time of the commit.
        expire_timestamp_ms: when it lapses, where an old client said so.
    """

    offset: int
    leader_epoch: int
    metadata: str
    commit_timestamp_ms: int
    expire_timestamp_ms: int | None = None

    def has_lapsed(self, *, unused_since_ms: int, now_ms: int, retention_ms: int) -> bool:
        """Return whether it is to be forgotten, if nobody uses it."""
        if self.expire_timestamp_ms is not None:
            return now_ms >= self.expire_timestamp_ms
        return now_ms - unused_since_ms >= retention_ms


def expired_offsets(
    group: Group,
    offsets: Mapping[TopicPartition, CommittedOffset],
    *,
    empty_since_ms: int | None,
    now_ms: int,
    retention_ms: int,
) -> list[TopicPartition]:
    """Return the partitions whose committed offset is to be forgotten.

    Args:
        empty_since_ms: wall-clock time at which the group lost its last member; None if not known,
            or if it has members.
        now_ms: wall-clock time.
        retention_ms: offsets.retention.minutes.
    """
    in_use: frozenset[str] = frozenset()
    since_ms = -1
    if group.protocol_type is not None:
        if group.state is GroupState.EMPTY:
            since_ms = -1 if empty_since_ms is None else empty_since_ms
        elif group.state is GroupState.STABLE and (topics := group.subscribed_topics()) is not None:
            in_use = topics
        else:
            return []
    return [
        (topic, partition)
        for (topic, partition), committed in offsets.items()
        if topic not in in_use
        and committed.has_lapsed(
            unused_since_ms=max(committed.commit_timestamp_ms, since_ms),
            now_ms=now_ms,
            retention_ms=retention_ms,
        )
    ]
