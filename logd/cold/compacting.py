"""Keeps coding and compaction of the same segments apart.

A topic is either compacted or coded, but its settings can change while a round of compaction, or
an encoding, is under way. So whoever replaces segments leases them for that moment, as encoders do
from the opening of a segment to its commit, and replaces none of which a generation is recorded:
its chunks would go on speaking for offsets that the log has in another segment by then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from logd.cold.tier import ColdTier, PartitionKey
from logd.errors import SegmentsChangedError
from logd.policy.cold.coverage import uncoded_before
from logd.policy.cold.leases import Work
from logd.policy.cold.values import SegmentKey


@contextmanager
def held_for_compaction(
    tier: ColdTier, partition: PartitionKey, base_offsets: Sequence[int]
) -> Iterator[None]:
    """Have segments of a partition alone while they are replaced.

    Raises:
        SegmentsChangedError: one is coded, or is being coded; nothing is held.
    """
    assert base_offsets
    topic_id, index = partition
    lease = tier.leases.take(
        Work.COMPACT, [SegmentKey(topic_id, index, base) for base in base_offsets]
    )
    if lease is None:
        raise SegmentsChangedError(f"segments from offset {base_offsets[0]} on are worked on")
    try:
        if uncoded_before(tier.generations(topic_id, index)) <= max(base_offsets):
            raise SegmentsChangedError(f"segments from offset {base_offsets[0]} on are coded")
        yield
    finally:
        tier.leases.give_back(lease)
