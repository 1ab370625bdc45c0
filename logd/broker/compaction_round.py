"""One round of compaction of one partition: planned, carried out by the cleaner, committed.

    facts ──plan──▶ order ──cleaner's process──▶ result ──Partition.exclusive──▶ part of the log
    (thread)        (loop)  (seconds, minutes)           (thread; appends wait meanwhile;
                                                          some segments at a time)

Segments that are in chunks take part: released ones are thawed before, and what takes the place of
coded ones is coded before it is committed (`cold.compacting`). Where that is much, the round is
done in parts (`policy.compaction_parts`), each of which is committed; between two of them others
have their turn with the segments. A round that fails behind some parts goes on there when it is
tried again; how far it came is in memory, so a start goes through all of it once more.

Nothing that a round writes counts before `Log.replace_segments`: cancelled, failed or overtaken by
a deletion of records, what it wrote is removed, and the log is as it was; or as the steps left it
that were committed by then (`clean_steps`). Where that call itself fails half-way, nothing is
removed: the next start finishes it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final
from weakref import WeakKeyDictionary

import trio

from logd.broker.cleaning import Cleaner, CleaningFailedError, OnProgress
from logd.broker.dynamic_config import DynamicConfig
from logd.broker.partition import Partition
from logd.broker.round_limits import (
    PROCESS_BYTES,
    compaction_rules,
    io_bytes_per_s,
    key_map_bytes,
    memory_bytes,
)
from logd.broker.round_parts import RoundParts, bases_of, ends_of, sum_of, tell_part
from logd.broker.services import PartitionServices
from logd.cold.compacting import CodedCompaction, Successors
from logd.config import TopicSettings
from logd.errors import (
    ColdStateError,
    CompactionError,
    DiskFullError,
    LogFailedError,
    SegmentsChangedError,
)
from logd.policy.compaction import (
    CompactionFacts,
    CompactionPlan,
    CompactionRules,
    NotDue,
    plan_compaction,
)
from logd.policy.compaction_parts import Part, PartLimits, cut_groups, plan_part
from logd.storage.clean_order import (
    BATCH_MEMORY_BYTES,
    CleanLimits,
    CleanOrder,
    CleanResult,
    Progress,
)
from logd.storage.clean_steps import steps_of
from logd.storage.cleaned_segment import unlink_cleaned
from logd.storage.swap import ReplaceResult
from logd.units import MIB, format_byte_count

SEGMENTS_PER_COMMIT: Final = 32
"""Segments that are replaced before appends have their turn, if no group has more."""

SPARE_BYTES: Final = 64 * MIB
"""A round keeps so far off disk.reserve.bytes: below that, appends are refused."""

DEMAND_PATIENCE_S: Final = 120.0
"""How long a round that was asked for waits for who codes, repairs or moves one of its segments."""

BREATH_S: Final = 0.5
"""Between two parts of a round: who waits for one of its segments has his turn."""

MovingOffset = Callable[[Partition], int]


class RoundCutShortError(CompactionError):
    """The round was cancelled, because its topic is being deleted."""


class NotCompactedError(CompactionError):
    """The topic's cleanup.policy has no compact in it, or not any more."""


class Rounds:
    """Carries out rounds. On the event loop.

    Args:
        bound: of a partition, the offset from which on nothing may be touched.
        coded: sees to segments that are in chunks, and has all of a round's alone meanwhile.
        now_ms: the time that lags and tombstones go by.
    """

    def __init__(
        self,
        config: DynamicConfig,
        services: PartitionServices,
        cleaner: Cleaner,
        *,
        bound: MovingOffset,
        coded: CodedCompaction,
        now_ms: Callable[[], int],
    ) -> None:
        self._config = config
        self._services = services
        self._cleaner = cleaner
        self._bound = bound
        self._coded = coded
        self.now_ms = now_ms
        # No run of the server has used these, as long as the clock does not go back; and if it
        # does, the next start has removed what carried them.
        self._attempt = services.clock.now_ms()
        # A partition that is deleted between two parts takes its own along.
        self._begun: WeakKeyDictionary[Partition, RoundParts] = WeakKeyDictionary()

    async def facts(self, partition: Partition, known: CompactionFacts | None) -> CompactionFacts:
        """Return what a plan is made from.

        Args:
            known: what this returned before, if the log has the same segments still.

        Raises:
            StorageError: the partition is offline, or a segment cannot be read.
        """
        if partition.offline is not None:
            raise LogFailedError(partition.offline)
        log, bound = partition.log, self._bound(partition)
        if known is not None:
            return dataclasses.replace(known, bound_offset=bound, is_damaged=bool(log.damaged))
        return await self._services.offload.run(
            "admin", lambda: log.compaction_facts(bound_offset=bound)
        )

    async def run(
        self, partition: Partition, *, on_demand: bool, on_progress: OnProgress
    ) -> CleanResult | NotDue:
        """Carry out a round, if one is due; once this returns a result, it is durable.

        Cancelled, it returns when the process is gone and its files are removed.

        Raises:
            CleaningFailedError, WorkerError: there was no result.
            CompactionError: what it read is not there any more; or it must not be any more.
            StorageError, OSError: the log cannot be read, or the result not be put in its place.
        """
        with partition.round.entered() as scope:
            outcome = await self._run_part(partition, on_demand, on_progress)
            while outcome is None:
                await trio.sleep(BREATH_S)
                outcome = await self._run_part(partition, on_demand, on_progress)
        if scope.cancelled_caught:
            self._begun.pop(partition, None)
            raise RoundCutShortError(f"topic {partition.topic_name} was deleted")
        return outcome

    async def _run_part(
        self, partition: Partition, on_demand: bool, on_progress: OnProgress
    ) -> CleanResult | NotDue | None:
        """Carry out a round, or a part of it; return None while others are to follow."""
        refuse_uncompacted(partition.topic_name, partition.settings)
        facts = await self.facts(partition, None)
        begun = self._begun.pop(partition, None)
        if begun is not None and begun.first_dirty_offset != facts.first_dirty_offset:
            begun = None
        rules, now_ms = compaction_rules(partition.settings), self.now_ms()
        is_wanted = on_demand or begun is not None
        whole = plan_compaction(facts, rules, now_ms=now_ms, on_demand=is_wanted)
        if isinstance(whole, NotDue):
            return whole
        if begun is not None and begun.end_offset not in ends_of(whole):
            begun = None
        plan, part = self._plan_part(partition, whole, begun)
        if begun is None:
            begun = RoundParts(plan.first_dirty_offset, plan.end_offset)
        elif begun.results:
            self._begun[partition] = begun
        needed = bases_of(plan, part)
        patience_s = DEMAND_PATIENCE_S if is_wanted else 0.0
        async with self._coded.held(partition, needed, patience_s=patience_s):
            order = self._order(partition, plan, part, now_ms)
            if order.part is not None:
                tell_part(on_progress, order)
            await self._thaw(partition, order, rules, needed, on_progress)
            result = await self._carry_out(
                partition,
                order,
                on_progress,
                facts.next_horizon_ms,
                begun,
                is_asked_for=on_demand,
            )
        begun.results.append(result)
        begun.done_offset = order.copied_groups[-1][-1].end_offset
        if not part.is_last:
            self._begun[partition] = begun
            return None
        self._begun.pop(partition, None)
        return sum_of(begun.results, is_all=plan.end_offset == whole.end_offset)

    def _plan_part(
        self, partition: Partition, whole: CompactionPlan, begun: RoundParts | None
    ) -> tuple[CompactionPlan, Part]:
        """Return the plan of the round that is under way, or begins, and its part that is next."""
        groups = whole.groups
        if begun is not None:
            groups = cut_groups(groups, begun.done_offset, begun.end_offset)
            groups = tuple(each for each in groups if each[-1].end_offset <= begun.end_offset)
        part = plan_part(
            groups,
            self._coded.bytes_of(partition),
            PartLimits(
                coded_bytes_max=self._config.settings.log_cleaner_coded_max_bytes,
                space_bytes=self._spare_bytes(),
            ),
            first_dirty_offset=whole.first_dirty_offset,
            done_offset=0 if begun is None else begun.done_offset,
            keeps_tail=begun is not None,
        )
        groups = groups[: part.groups_end]
        plan = dataclasses.replace(whole, groups=groups, end_offset=groups[-1][-1].end_offset)
        return plan, part

    def _order(
        self, partition: Partition, plan: CompactionPlan, part: Part, now_ms: int
    ) -> CleanOrder:
        self._attempt += 1
        order = partition.log.clean_order(
            plan,
            attempt=self._attempt,
            now_ms=now_ms,
            limits=self._limits(partition),
            keeps_groups=self._coded.has_coded(partition),
        )
        if (part.first, part.end) == (0, len(plan.groups)):
            return order
        return dataclasses.replace(order, part=(part.first, part.end))

    async def _thaw(
        self,
        partition: Partition,
        order: CleanOrder,
        rules: CompactionRules,
        needed: Sequence[int],
        on_progress: OnProgress,
    ) -> None:
        """Have every segment that is read hot; begin only where there is space for it.

        Raises:
            CleaningFailedError: there is no space. LogdError: as `CodedCompaction.thaw`.
        """
        released = self._coded.released(partition, needed)
        all_bytes = sum(each.source_bytes for each in released)
        self._check_space(order, rules, all_bytes)
        if order.keeps_groups:
            on_progress(Progress("thaw", 0, all_bytes))
        thawed_bytes = 0

        def count(size: int) -> None:
            nonlocal thawed_bytes
            thawed_bytes += size
            on_progress(Progress("thaw", thawed_bytes, all_bytes))

        await self._coded.thaw(partition, released, count)

    async def _carry_out(
        self,
        partition: Partition,
        order: CleanOrder,
        on_progress: OnProgress,
        known_horizon_ms: int | None,
        begun: RoundParts,
        *,
        is_asked_for: bool,
    ) -> CleanResult:
        """Have the cleaner do an order, and commit what it wrote.

        Args:
            begun: the round's parts so far; this one must have gone by the same keys.
        """
        written_by_us = True
        try:
            result = await self._cleaner.clean(
                order,
                memory_bytes=memory_bytes(self._config.settings),
                is_asked_for=is_asked_for,
                on_progress=on_progress,
            )
            result = begun.joined(order.name, result)
            steps = steps_of(
                order,
                result,
                segments_max=SEGMENTS_PER_COMMIT,
                known_horizon_ms=known_horizon_ms,
            )
            for step_order, step in steps:
                if self._is_coded(partition, step):
                    on_progress(Progress("encode", step_order.end_offset, order.end_offset))
                    await self._commit_coded(partition, step_order, step)
                else:
                    await self._commit(partition, step_order, step)
                await trio.lowlevel.checkpoint()  # Also for who waits to have the log to himself.
            written_by_us = False
        except LogFailedError:
            written_by_us = False  # Half-way, perhaps: the next start needs them.
            raise
        except CleaningFailedError as error:
            begin = order.segments[0].base_offset
            if error.kind == "gone" and partition.log.segment_list.bases[0] > begin:
                raise SegmentsChangedError(
                    f"{order.name}: records were deleted while the round was reading them"
                ) from error
            raise
        finally:
            if written_by_us:
                with trio.CancelScope(shield=True):
                    await self._services.offload.run(
                        "admin",
                        unlink_cleaned,
                        self._services.files,
                        order.directory,
                        order.attempt,
                    )
        return result

    async def _commit(self, partition: Partition, order: CleanOrder, result: CleanResult) -> None:
        """Put a part of the result in its place, between two writes of the log."""
        async with partition.exclusive():
            _refuse_unusable(partition)
            replaced = await self._services.offload.run(
                "write", partition.log.replace_segments, order, result
            )
        self._unlink_later(partition, replaced)

    def _is_coded(self, partition: Partition, step: CleanResult) -> bool:
        bases = [base for group in step.groups for base in group.old_bases]
        return bool(self._coded.coded(partition, bases))

    async def _commit_coded(
        self, partition: Partition, order: CleanOrder, result: CleanResult
    ) -> None:
        """Likewise, where segments that go are coded: what takes their place is coded before."""
        async with (
            self._coded.encoded(partition, order, result) as successors,
            partition.exclusive(),
        ):
            _refuse_unusable(partition)
            with trio.CancelScope(shield=True):  # Half-way there is nothing to be cancelled.
                replaced = await self._replace_coded(partition, order, result, successors)
        self._unlink_later(partition, replaced)

    async def _replace_coded(
        self, partition: Partition, order: CleanOrder, result: CleanResult, successors: Successors
    ) -> ReplaceResult:
        """Prepare, have the catalog decide, and do as it said (`storage.swap_prepared`)."""
        run, log = self._services.offload.run, partition.log
        await run("write", log.prepare_replacement, order, result, successors.superseded)
        try:
            await successors.commit()
        except (ColdStateError, DiskFullError):  # It said no.
            await run("write", log.cancel_replacement)
            raise
        except Exception as error:  # Whatever it was: it may have said yes.
            raise log.doubt_replacement(str(error) or repr(error)) from error
        return await run("write", partial(log.replace_segments, order, result, is_prepared=True))

    def _unlink_later(self, partition: Partition, replaced: ReplaceResult) -> None:
        delay_s = partition.settings.file_delete_delay_ms / 1000
        self._services.unlink_later(replaced.unlink_paths, delay_s)

    def _limits(self, partition: Partition) -> CleanLimits:
        settings = self._config.settings
        keys_bytes = key_map_bytes(settings)
        return CleanLimits(
            delete_retention_ms=partition.settings.delete_retention_ms,
            key_map_bytes=keys_bytes,
            batch_memory_bytes=memory_bytes(settings)
            - keys_bytes
            - (PROCESS_BYTES - BATCH_MEMORY_BYTES),
            io_bytes_per_s=io_bytes_per_s(settings),
            reserve_bytes=self._services.disk.reserve_bytes + SPARE_BYTES,
        )

    def _check_space(self, order: CleanOrder, rules: CompactionRules, thaw_bytes: int) -> None:
        """Begin only where the first new segment fits, and what is thawed for the round.

        The process looks again as it writes.
        """
        needed_bytes = thaw_bytes + min(order.source_bytes, rules.group_bytes_max)
        spare_bytes = self._spare_bytes()
        if spare_bytes < needed_bytes:
            raise CleaningFailedError(
                "space",
                f"{format_byte_count(max(0, spare_bytes))} above disk.reserve.bytes is not enough "
                f"for a new segment of {format_byte_count(needed_bytes - thaw_bytes)}"
                + (f" and {format_byte_count(thaw_bytes)} to be thawed" if thaw_bytes else ""),
            )

    def _spare_bytes(self) -> int:
        disk = self._services.disk
        return disk.free_bytes - disk.reserve_bytes - SPARE_BYTES


def _refuse_unusable(partition: Partition) -> None:
    """Raise LogFailedError, or NotCompactedError, where the partition changed under the round."""
    if partition.offline is not None:
        raise LogFailedError(partition.offline)
    refuse_uncompacted(partition.topic_name, partition.settings)


def refuse_uncompacted(topic: str, settings: TopicSettings) -> None:
    """Raise NotCompactedError unless the topic is to be compacted."""
    if not settings.compacted:
        policy = ",".join(settings.cleanup_policy)
        raise NotCompactedError(
            f"topic {topic} is not compacted, its cleanup.policy is {policy}; "
            f"`logd topic alter {topic} --config cleanup.policy=compact` changes that"
        )
