"""Lets hot copies go: the check of that moment, the record, then the file.

    due ─▶ all k+m chunks checked ─▶ RELEASED, durable ─▶ .log renamed away, later unlinked

Invariants:

* The .log goes only when RELEASED is durable, and RELEASED is recorded only with a check of all
  chunks that ended just now, on nodes that are live. A degraded set never releases.
* What a crash leaves between the record and the rename is a hot .log of a RELEASED segment. It is
  used as hot, and goes by the same check (`remove_left_over`).
* The indexes stay here. Where the coded form is not the hot file's (cold.compression), they are
  taken from a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from ec.checksums import digest
from ec.errors import EcError
from ec.indexes import INDEX_BYTES_MAX
from logd.cold.checking import CheckedChunks, check_chunks
from logd.cold.chunk_findings import ChunkFindings
from logd.cold.life_metrics import LifeMetrics
from logd.cold.partition_view import ColdPartition
from logd.cold.segment_errors import ColdFailedError, busy
from logd.cold.tier import ColdTier
from logd.errors import ColdStateError
from logd.events import EventLog
from logd.offload import Offload
from logd.policy.cold.leases import Lease, Work
from logd.policy.cold.proof import ReleaseCheck, ReleaseTerms, release_refusal
from logd.policy.cold.values import ColdState, Generation, SegmentKey
from logd.policy.tiering import release_terms
from logd.storage.log import Log
from logd.storage.segment_files import segment_paths
from logd.units import SECOND_MS

AT_ONCE: Final = ReleaseTerms(grace_ms=0, hot_retention_ms=0)
"""The terms of what is released already: only the chunks decide."""


class Releaser:
    """Checks and releases segments, one call each; when is decided elsewhere.

    Args:
        now_ms: the wall clock.
        unlink_later: remove renamed files after so many seconds.
    """

    def __init__(
        self,
        tier: ColdTier,
        findings: ChunkFindings,
        *,
        offload: Offload,
        now_ms: Callable[[], int],
        unlink_later: Callable[[Sequence[str], float], None],
        events: EventLog,
        metrics: LifeMetrics,
    ) -> None:
        self._tier = tier
        self._findings = findings
        self._offload = offload
        self._now_ms = now_ms
        self._unlink_later = unlink_later
        self._events = events
        self._metrics = metrics

    async def release(self, partition: ColdPartition, generation: Generation) -> None:
        """Check a committed generation that is due; record it as released; let the .log go.

        Raises:
            SegmentBusyError: somebody works on it. ColdFailedError: a chunk is not right.
            ColdStateError: it is not due, or not committed, any more. StorageError: the catalog or
            the log could not be written; where RELEASED is recorded, the .log is left over.
        """
        assert generation.state is ColdState.COMMITTED
        _refuse_other(partition, generation)
        lease = self._take(generation.key)
        try:
            generation = self._now(generation)
            check = await self._check(generation)
            terms = release_terms(partition.settings)
            await self._tier.release(generation.encoding, check, terms)
            await self._let_go(partition, generation)
        finally:
            self._tier.leases.give_back(lease)

    async def give_up_hot(self, partition: ColdPartition, generation: Generation) -> None:
        """Let go of a hot copy that is damaged, at once: the chunks are right, checked just now.

        Raises:
            As `release`.
        """
        assert generation.state is ColdState.COMMITTED
        _refuse_other(partition, generation)
        lease = self._take(generation.key)
        try:
            generation = self._now(generation)
            check = await self._check(generation)
            if generation.is_held:
                await self._tier.end_hold(generation.encoding)
            await self._tier.release(generation.encoding, check, AT_ONCE)
            await self._let_go(partition, generation)
        finally:
            self._tier.leases.give_back(lease)

    async def remove_left_over(self, partition: ColdPartition, generation: Generation) -> None:
        """Check a released generation of which the .log is still here; let it go.

        Raises:
            As `release`; ColdStateError: it is not released any more.
        """
        assert generation.state is ColdState.RELEASED
        _refuse_other(partition, generation)
        lease = self._take(generation.key)
        try:
            generation = self._now(generation)
            check = await self._check(generation)
            refusal = release_refusal(generation, check, AT_ONCE, now_ms=self._now_ms())
            if refusal is not None:
                raise ColdFailedError(f"{generation}: {refusal}")
            await self._let_go(partition, generation)
        finally:
            self._tier.leases.give_back(lease)

    def _take(self, key: SegmentKey) -> Lease:
        lease = self._tier.leases.take(Work.RELEASE, [key])
        if lease is None:
            raise busy(self._tier.leases, key)
        return lease

    def _now(self, generation: Generation) -> Generation:
        """Return a generation as it is now that nobody else works on it.

        Who looked for what is due may have looked at it a while ago: since then it may have been
        thawed, or superseded by what is in the .log now.

        Raises:
            ColdStateError: its state is another one by now.
        """
        assert generation.key in self._tier.leases
        now = self._tier.generation(generation.encoding)
        if now is None or now.state is not generation.state:
            raise ColdStateError(f"{generation}: it is not {generation.state.value} any more")
        return now

    async def _check(self, generation: Generation) -> ReleaseCheck:
        """Have all chunks read; return what that showed.

        Raises:
            ColdFailedError: one is not right; it says which, and what is wrong.
        """
        began_ms = self._now_ms()
        checked = await self.checked(generation)
        if checked.troubles:
            raise ColdFailedError(f"{generation}: {'; '.join(checked.troubles)}")
        return ReleaseCheck(
            checks=checked.checks,
            began_ms=began_ms,
            ended_ms=self._now_ms(),
            nodes_not_live=tuple(
                node for node in generation.held.values() if not self._tier.nodes.is_live(node)
            ),
        )

    async def checked(self, generation: Generation) -> CheckedChunks:
        """Have all chunks of a generation read from their devices."""
        manifest = await self._tier.manifest(generation.encoding)
        stores = self._tier.stores(generation)
        return await check_chunks(generation, manifest, stores, self._findings)

    async def _let_go(self, partition: ColdPartition, generation: Generation) -> None:
        """Rename the .log away; RELEASED is durable."""
        indexes = await self._new_indexes(partition, generation)
        log, base_offset = partition.log, generation.key.base_offset

        def job() -> tuple[str, ...]:
            return log.release(
                base_offset,
                size_bytes=generation.source_bytes,
                next_offset=generation.next_offset,
                min_timestamp_ms=generation.min_timestamp_ms,
                indexes=indexes,
            )

        paths = await self._offload.run("cold", job)
        self._unlink_later(paths, partition.settings.file_delete_delay_ms / SECOND_MS)
        self._metrics.released.add()
        self._events.info(
            "segment released",
            topic=partition.topic_name,
            partition=partition.index,
            base_offset=base_offset,
            bytes=generation.source_bytes,
        )

    async def _new_indexes(
        self, partition: ColdPartition, generation: Generation
    ) -> tuple[bytes, bytes] | None:
        """Return the indexes of what was coded, where those that are here are not the same.

        Raises:
            ColdFailedError: no parity chunk gives them.
        """
        manifest = await self._tier.manifest(generation.encoding)
        of_all = manifest.chunks[-1]
        here, log_bytes = await self._offload.run(
            "cold", _index_digests, partition.log, generation.key.base_offset
        )
        # Of one batch, compressed again, they are the same; the log must hear that it was.
        is_other_form = log_bytes > generation.source_bytes
        if here == (of_all.offset_index, of_all.time_index) and not is_other_form:
            return None
        reasons = []
        for index, store in self._tier.stores(generation).items():
            if index >= generation.profile.k:
                try:
                    indexes = (await store.head(manifest.chunk_id(index))).indexes
                except EcError as error:
                    reasons.append(str(error))
                else:
                    return indexes.offsets, indexes.times
        raise ColdFailedError(f"{generation}: its indexes cannot be read: {'; '.join(reasons)}")


def _refuse_other(partition: ColdPartition, generation: Generation) -> None:
    """Refuse to let a segment go in favour of chunks that hold more offsets than it.

    A catalog that was made anew from chunks may know of a segment that several here were to become,
    and did not.

    Raises:
        ColdFailedError: so it is.
    """
    segment = partition.log.segment_list.with_base(generation.key.base_offset)
    if segment is not None and segment.end_bound < generation.next_offset:
        raise ColdFailedError(
            f"{generation}: its chunks go up to offset {generation.next_offset}, the segment here "
            f"up to {segment.end_bound}"
        )


def _index_digests(log: Log, base_offset: int) -> tuple[tuple[str, str] | None, int]:
    """Return the digests of a segment's two indexes as they are here, None where one is missing,
    and how long its .log is. Blocking.
    """
    paths = segment_paths(log.directory, base_offset)
    log_bytes = 0
    try:
        log_bytes = log.files.stat_size(paths.log)
        offsets, times = (
            log.files.read_whole(path, limit_bytes=INDEX_BYTES_MAX)
            for path in (paths.index, paths.time_index)
        )
    except OSError:
        return None, log_bytes
    return (digest(offsets), digest(times)), log_bytes
