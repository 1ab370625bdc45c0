"""The part of compaction that segments in chunks need: they take part as all others do.

A round replaces segments by others, and whatever was coded of the old ones must stop speaking for
their offsets in that moment. So, for a round that meets coded segments:

    the segments of a part leased ─▶ released ones thawed ─▶ the cleaner, as ever, on hot files
    ─▶ what it wrote in the place of coded segments is coded: PLANNED, chunks, proof
    ─▶ one transaction: these COMMITTED, the old encodings SUPERSEDED ─▶ the files get their names

The transaction is the commit point (`storage.swap_prepared`, ADR 20). Invariants:

* While the round is at work everybody else is kept from its segments: none of them is coded,
  released, repaired or deleted under the cleaner's hands.
* What a round takes at a time is limited (`policy.compaction_parts`); between two parts whoever
  waits for a segment, repair first of all, has his turn.
* What was thawed is hot and COMMITTED, and not held: where the round comes to nothing, crash or
  not, it is released again as others are.
* A successor whose chunks are not proved replaces nothing. Where nodes cannot take it, the round
  fails, says why, and the old segments stay as they are.

This module needs nothing of the coding library before there is something coded.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from logd.cold.partition_view import ColdPartition
from logd.cold.tier import ColdTier
from logd.errors import SegmentsChangedError
from logd.policy.cold.leases import Lease, Work
from logd.policy.cold.values import REMOVABLE, ColdState, Generation, SegmentKey
from logd.policy.compaction_parts import CodedBytes
from logd.storage.clean_order import CleanedGroup, CleanOrder, CleanResult, NewSegment

if TYPE_CHECKING:
    from logd.cold.life import ColdLife
    from logd.storage.cold_catalog import Commit

LOOK_S: Final = 0.05
"""How often segments that somebody works on are looked at, where the round waits for them."""


class CodedCompaction:
    """See the module. Lives on the event loop.

    Args:
        life: returns the life of coded segments, once it has begun.
    """

    def __init__(self, tier: ColdTier, life: Callable[[], Awaitable[ColdLife]]) -> None:
        self._tier = tier
        self._life = life

    # --- what is coded ----------------------------------------------------------------------------

    def has_coded(self, partition: ColdPartition) -> bool:
        """Return whether anything of a partition is coded, or about to be."""
        generations = self._tier.generations(partition.topic_id, partition.index)
        return any(each.state not in REMOVABLE for each in generations)

    def coded(self, partition: ColdPartition, bases: Sequence[int]) -> list[Generation]:
        """Return the live generations of some segments."""
        coverage = self._tier.coverage(partition.topic_id, partition.index)
        wanted = frozenset(bases)
        return [each for each in coverage.generations if each.key.base_offset in wanted]

    def bytes_of(self, partition: ColdPartition) -> CodedBytes:
        """Return what of a partition is in chunks, and what has to be thawed to be read."""
        bases = partition.log.segment_list.bases
        coded = self.coded(partition, bases)
        released = self.released(partition, bases)
        return CodedBytes(
            coded={each.key.base_offset: each.source_bytes for each in coded},
            released={each.key.base_offset: each.source_bytes for each in released},
        )

    # --- a round ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def held(
        self, partition: ColdPartition, bases: Sequence[int], *, patience_s: float
    ) -> AsyncIterator[None]:
        """Have segments alone while a round is at work on them.

        Args:
            patience_s: how long to wait for who works on one of them.

        Raises:
            SegmentsChangedError: somebody still does; nothing is held.
        """
        deadline_s = trio.current_time() + patience_s
        while (lease := self._take(partition, bases)) is None:
            if trio.current_time() >= deadline_s:
                raise SegmentsChangedError(f"segments from offset {bases[0]} on are worked on")
            await trio.sleep(LOOK_S)
        try:
            yield
        finally:
            self._tier.leases.give_back(lease)
            if self.coded(partition, bases):
                self._tier.lease_ended(partition.topic_id, partition.index)

    def _take(self, partition: ColdPartition, bases: Sequence[int]) -> Lease | None:
        return self._tier.leases.take(Work.COMPACT, [_key(partition, base) for base in bases])

    def released(self, partition: ColdPartition, bases: Sequence[int]) -> list[Generation]:
        """Return those of some segments that have to be thawed before they can be read."""
        released = {
            segment.base_offset
            for segment in partition.log.segment_list.items
            if segment.released is not None
        }
        return [each for each in self.coded(partition, bases) if each.key.base_offset in released]

    async def thaw(
        self,
        partition: ColdPartition,
        generations: Sequence[Generation],
        on_bytes: Callable[[int], None],
    ) -> None:
        """Bring released segments back, the oldest first. They are held (`held`).

        Args:
            on_bytes: told how many bytes more are written.

        Raises:
            ColdRefusedError: there is no space. ColdFailedError: one cannot be read whole.
            ColdStateError, StorageError: the catalog or the log refused. What is thawed by then
            stays hot until it is released again.
        """
        if not generations:
            return
        thawer = (await self._life()).thawer
        for generation in generations:
            if generation.state is not ColdState.RELEASED:
                raise SegmentsChangedError(
                    f"{generation}: its hot file is missing; it is released first"
                )
            await thawer.thaw_leased(partition, generation, on_bytes, is_held=False)

    @asynccontextmanager
    async def encoded(
        self, partition: ColdPartition, order: CleanOrder, result: CleanResult
    ) -> AsyncIterator[Successors]:
        """Code what a step of a round wrote in the place of coded segments.

        In the block it is committed; where that did not happen, it is given up behind it.

        Raises:
            ColdRefusedError, NodesRefusedError: the nodes cannot take it. ColdFailedError: given
            up. StorageError: the catalog or a file could not be used. SegmentsChangedError:
            somebody works on a segment of one of the new base offsets.
        """
        groups = [group for group in result.groups if self.coded(partition, group.old_bases)]
        ends = _ends(order, result)
        new = [segment for group in groups for segment in group.new if segment.log_bytes]
        life = await self._life()
        encoder, made = life.encoder, Successors(life, self._superseded(partition, groups))
        with self._also_held(partition, order, new):
            try:
                for segment in new:
                    end_offset = ends[segment.base_offset]
                    open_source = partial(
                        partition.log.cleaned_source, segment,
                        attempt=order.attempt, end_offset=end_offset,
                    )  # fmt: skip
                    key = _key(partition, segment.base_offset)
                    made.commits.append(
                        await encoder.encode_uncommitted(
                            partition, key, open_source, end_offset=end_offset
                        )
                    )
                yield made
            finally:
                if not made.is_committed:
                    for commit in made.commits:
                        await encoder.give_up(commit.encoding, SegmentsChangedError("given up"))

    def _superseded(
        self, partition: ColdPartition, groups: Sequence[CleanedGroup]
    ) -> tuple[str, ...]:
        bases = [base for group in groups for base in group.old_bases]
        return tuple(each.encoding for each in self.coded(partition, bases))

    @contextmanager
    def _also_held(
        self, partition: ColdPartition, order: CleanOrder, new: Sequence[NewSegment]
    ) -> Iterator[None]:
        """Have those alone, too, that begin where no segment of the round began."""
        known = {segment.base_offset for segment in order.segments}
        others = [each.base_offset for each in new if each.base_offset not in known]
        lease = self._take(partition, others) if others else None
        if others and lease is None:
            raise SegmentsChangedError(f"a segment at offset {others[0]} is worked on")
        try:
            yield
        finally:
            if lease is not None:
                self._tier.leases.give_back(lease)


class Successors:
    """What a step's new segments were coded as: proved, and not committed yet.

    Attributes:
        superseded: the old segments' encodings.
        is_committed: the transaction is durable.
    """

    def __init__(self, life: ColdLife, superseded: tuple[str, ...]) -> None:
        self._life = life
        self.superseded: Final = superseded
        self.commits: Final[list[Commit]] = []
        self.is_committed = False

    async def commit(self) -> None:
        """Commit them, and supersede the old ones: from here on the round has happened.

        Raises:
            ColdStateError, StorageError: the catalog refused; nothing has changed.
        """
        await self._life.encoder.commit(self.commits, superseded=self.superseded)
        self.is_committed = True


def _key(partition: ColdPartition, base_offset: int) -> SegmentKey:
    return SegmentKey(partition.topic_id, partition.index, base_offset)


def _ends(order: CleanOrder, result: CleanResult) -> dict[int, int]:
    """Return where the segment behind each one begins, once the step is committed."""
    gone = {base for group in result.groups for base in group.old_bases}
    new = {segment.base_offset for group in result.groups for segment in group.new}
    kept = {segment.base_offset for segment in order.segments} - gone
    bases = sorted(kept | new)
    return dict(zip(bases, [*bases[1:], order.end_offset], strict=True))
