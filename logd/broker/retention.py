"""Retention at work: deletes what has had its time, in every partition, in bounded steps.

    every log.retention.check.interval.ms, each open partition, a few at a time:
        facts of its oldest segments ──▶ plan_retention ──▶ Partition.delete_before ──▶ again
        (thread)                         (policy)           (thread; appends wait meanwhile)

The oldest segment is looked at alone; if it goes, up to SEGMENTS_PER_STEP at a time, so that
appends wait for some renames and two syncs, never for ten thousand; and as long as a step took
there is a pause: half of the time the processor and the device are for others. A partition that
fails is a problem on `status`; the others go on, and it is tried again at the next round.

What time it is, `retention_clock` says: a wall clock that ran ahead deletes nothing early. The
server's own topics are kept whatever their settings: what is in force there may be old.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import trio

from logd.broker.partition import Partition
from logd.broker.problems import Problem
from logd.broker.retention_clock import RetentionClock
from logd.broker.services import PartitionServices
from logd.broker.topic_names import is_internal
from logd.broker.topics import Topics
from logd.errors import LogFailedError
from logd.metrics import Registry
from logd.policy.retention import RetentionPlan, RetentionRules, plan_retention
from logd.units import SECOND_MS

SEGMENTS_PER_STEP: Final = 64
"""Segments that are looked at, and perhaps deleted, before appends have their turn."""

PARTITIONS_AT_ONCE: Final = 4
"""Partitions that are dealt with at the same time: deleting waits for the disk most of the time."""

PARTITIONS_PER_TURN: Final = 100
"""Partitions without retention that are passed over before the loop has its turn."""


_Limits = tuple[int, int, bool]
"""retention.ms, retention.bytes, and whether they mean anything."""


@dataclass(slots=True)
class Removed:
    """What one pass over a partition deleted."""

    log_start_offset: int
    segments: int = 0
    size_bytes: int = 0


class Retention:
    """The driver of retention. Lives on the event loop.

    Attributes:
        clock: the time that it goes by.
    """

    def __init__(
        self, topics: Topics, services: PartitionServices, metrics: Registry, clock: RetentionClock
    ) -> None:
        self.clock = clock
        self._topics = topics
        self._services = services
        # Of each partition, as of the last look: when its oldest segment is due; the timestamp in
        # the future that holds it; why it failed.
        self._due_ms: dict[Partition, int] = {}
        self._future_ms: dict[Partition, int] = {}
        self._failures: dict[Partition, str] = {}
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._register(metrics)

    def _register(self, metrics: Registry) -> None:
        self._deleted_bytes = metrics.counter(
            "logd_retention_deleted_bytes_total", "Bytes of log that retention deleted."
        )
        self._deleted_segments = metrics.counter(
            "logd_retention_segments_deleted_total", "Segments that retention deleted."
        )
        metrics.gauge(
            "logd_retention_lateness_seconds",
            "How long ago the most overdue segment was due by retention.ms; 0 if none is.",
            lambda: self.lateness_ms() / SECOND_MS,
        )
        metrics.gauge(
            "logd_retention_stopped",
            "1 while the wall clock is too far ahead for retention to go by it.",
            lambda: int(self.clock.time().stopped),
        )
        metrics.gauge(
            "logd_retention_failed_partitions",
            "Partitions in which retention failed at the last try.",
            lambda: len(self._failures),
        )
        metrics.gauge(
            "logd_retention_held_partitions",
            "Partitions whose oldest segment stays because of a timestamp in the future.",
            lambda: len(self._future_ms),
        )

    # --- rounds ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until cancelled, or stopped."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.clock.run)
                    nursery.start_soon(self._run_rounds)
        finally:
            self._ended.set()

    async def _run_rounds(self) -> None:
        interval_s = self._services.retention_check_ms / SECOND_MS
        while True:
            await trio.sleep(interval_s)
            try:
                await self.run_round()
            except Exception as error:  # One bad round must not end the rounds.
                self._services.events.error("retention round failed", reason=repr(error))

    async def stop(self) -> None:
        """End with the step that is under way, so that logs can be closed; `run` must be running.

        What is left to delete is deleted after the next start.
        """
        self._scope.cancel()
        await self._ended.wait()
        await self.clock.note()

    async def run_round(self) -> None:
        """Look at every open partition once."""
        self.clock.look()
        partitions = list(self._topics.open_partitions())
        numbered = enumerate(partitions, 1)
        async with trio.open_nursery() as nursery:
            for _ in range(PARTITIONS_AT_ONCE):
                nursery.start_soon(self._look_at_each, numbered)
        seen = set(partitions)
        for noted in (self._due_ms, self._future_ms, self._failures):
            for partition in noted.keys() - seen:
                noted.pop(partition, None)

    async def _look_at_each(self, partitions: Iterator[tuple[int, Partition]]) -> None:
        """Look at the next partition that nobody has taken, until there is none."""
        for number, partition in partitions:
            await self._look_at(partition)
            if number % PARTITIONS_PER_TURN == 0:
                await trio.lowlevel.checkpoint()

    async def _look_at(self, partition: Partition) -> None:
        if partition.offline is not None or self._has_nothing_to_do(partition):
            self._forget(partition)
            return
        try:
            await self.delete_due(partition, ignore_clock_guard=False)
        except Exception as error:  # One partition must not keep the others from their turn.
            self._note_failure(partition, error)

    def _forget(self, partition: Partition) -> None:
        self._due_ms.pop(partition, None)
        self._future_ms.pop(partition, None)
        self._failures.pop(partition, None)

    def _note_failure(self, partition: Partition, error: Exception) -> None:
        if partition.offline is not None:
            self._forget(partition)  # That says more; or the topic was deleted meanwhile.
            return
        reason = str(error) or repr(error)
        if self._failures.get(partition) != reason:
            self._failures[partition] = reason
            self._services.events.error(
                "retention failed",
                topic=partition.topic_name,
                partition=partition.index,
                reason=reason,
            )

    def _has_nothing_to_do(self, partition: Partition) -> bool:
        return _rules(partition).is_idle and not partition.log.is_deletion_unfinished

    # --- one partition ---------------------------------------------------------------------------

    async def delete_due(self, partition: Partition, *, ignore_clock_guard: bool) -> Removed:
        """Delete what is due, in steps.

        Raises:
            StorageError, OSError: something cannot be read or written; what was done stays done.
        """
        removed = Removed(partition.log_start_offset)
        limit = 1
        while True:
            limits = _limits(partition)
            job = self.planning(partition, limit, ignore_clock_guard=ignore_clock_guard)
            plan = await self._services.offload.run("disk", job)
            if _limits(partition) != limits:
                continue  # By the new ones, perhaps, all of it stays.
            if plan.delete_count == limit == 1:
                limit = SEGMENTS_PER_STEP
                continue
            if plan.delete_count == 0 and not partition.log.is_deletion_unfinished:
                break
            began_s = trio.current_time()
            await self._carry_out(partition, plan, removed, limits)
            if plan.delete_count < limit:
                break  # Also where old records are being appended faster than they go.
            await trio.sleep(trio.current_time() - began_s)
        self._note_plan(partition, plan)
        removed.log_start_offset = partition.log_start_offset
        return removed

    def _note_plan(self, partition: Partition, plan: RetentionPlan) -> None:
        self._forget(partition)
        if plan.next_due_ms is not None:
            self._due_ms[partition] = plan.next_due_ms
        if plan.future_ms is not None:
            self._future_ms[partition] = plan.future_ms

    async def _carry_out(
        self, partition: Partition, plan: RetentionPlan, removed: Removed, limits: _Limits
    ) -> None:
        going = plan.verdicts[: plan.delete_count]
        reason = ", ".join(dict.fromkeys(verdict.rule or "" for verdict in going))
        result = await partition.delete_before(
            max(plan.new_log_start_offset, partition.log_start_offset),
            reason,
            # What was longer writing than anybody thought may be kept by other settings now.
            lambda: _limits(partition) == limits,
        )
        removed.segments += result.segment_count
        removed.size_bytes += result.size_bytes
        self._deleted_segments.value += result.segment_count
        self._deleted_bytes.value += result.size_bytes

    def planning(
        self, partition: Partition, limit: int | None, *, ignore_clock_guard: bool
    ) -> Callable[[], RetentionPlan]:
        """Return the job that decides on the oldest `limit` segments of a partition, or on all.

        The job blocks: it is for a thread. It raises OSError where a file cannot be read.

        Raises:
            LogFailedError: the partition is offline.
        """
        if partition.offline is not None:
            raise LogFailedError(partition.offline)
        log = partition.log
        rules = _rules(partition)
        now_ms = self.clock.now_ms(ignore_clock_guard=ignore_clock_guard)
        wall_ms = self._services.clock.now_ms()
        # Before the facts: what they tell of lies below what is visible now, or is not touched.
        high_watermark = partition.high_watermark
        size_bytes = log.total_bytes

        def job() -> RetentionPlan:
            return plan_retention(
                log.oldest_segments(limit),
                rules,
                now_ms=now_ms,
                wall_ms=wall_ms,
                high_watermark=high_watermark,
                size_bytes=size_bytes,
            )

        return job

    # --- what there is to tell -------------------------------------------------------------------

    def lateness_ms(self) -> int:
        """Return how long ago the most overdue segment was due, as of each partition's last look.

        Between two rounds it grows with the clock; each round sets it back.
        """
        due_ms = min(self._due_ms.values(), default=None)
        return 0 if due_ms is None else max(0, self.clock.now_ms() - due_ms)

    def problems(self) -> Iterator[Problem]:
        """Yield what keeps retention from its work, for `status`."""
        reason = self.clock.time().reason
        if reason is not None:
            yield Problem(
                "retention_stopped",
                "warning",
                f"retention by time is held back: {reason}; if the wall clock is right, "
                "`logd retain TOPIC --ignore-clock-guard` goes by it",
            )
        for partition, why in self._failures.items():
            text = f"nothing more is deleted from {_name(partition)}: {why}"
            yield _problem("retention_failed", partition, text)
        for partition, timestamp_ms in self._future_ms.items():
            text = (
                f"the oldest segment of {_name(partition)} has a timestamp of the future, "
                f"{timestamp_ms}: it and those behind it stay until that is retention.ms ago; "
                "retention.bytes and `logd delete-records` end it sooner"
            )
            yield _problem("retention_held", partition, text)


def _name(partition: Partition) -> str:
    return f"{partition.topic_name}-{partition.index}"


def _problem(kind: str, partition: Partition, text: str) -> Problem:
    return Problem(kind, "warning", text, topic=partition.topic_name, partition=partition.index)


def _limits(partition: Partition) -> _Limits:
    settings = partition.settings
    deletes = "delete" in settings.cleanup_policy and not is_internal(partition.topic_name)
    return settings.retention_ms, settings.retention_bytes, deletes


def _rules(partition: Partition) -> RetentionRules:
    retention_ms, retention_bytes, deletes = _limits(partition)
    return RetentionRules(
        retention_ms=retention_ms,
        retention_bytes=retention_bytes,
        deletes=deletes,
        log_start_offset=partition.log_start_offset,
    )
