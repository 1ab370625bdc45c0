"""Retention at work: deletes what has had its time, partition by partition, in bounded steps.

    every log.retention.check.interval.ms, each open partition in turn:
        facts of its oldest segments ──▶ plan_retention ──▶ Partition.delete_before ──▶ again
        (thread)                         (policy)           (thread; appends wait meanwhile)

A step looks at SEGMENTS_PER_STEP segments at the most, so that appends wait for some renames and
two syncs, never for ten thousand. A partition that fails is a problem on `status`; the others go
on, and it is tried again at the next round.

What time it is, `policy.clock_guard` says: a wall clock that ran ahead deletes nothing early.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import trio

from logd.broker.dynamic_config import DynamicConfig
from logd.broker.partition import Partition
from logd.broker.problems import Problem
from logd.broker.services import PartitionServices
from logd.broker.topics import Topics
from logd.errors import LogdError, LogFailedError, UnknownTopicOrPartitionError
from logd.metrics import Registry
from logd.policy.clock_guard import ClockGuard, RetentionTime
from logd.policy.retention import RetentionPlan, RetentionRules, plan_retention
from logd.units import SECOND_MS

SEGMENTS_PER_STEP: Final = 64
"""Segments that are looked at, and perhaps deleted, before appends have their turn."""


@dataclass(slots=True)
class Removed:
    """What one pass over a partition deleted."""

    log_start_offset: int
    segments: int = 0
    size_bytes: int = 0


class Retention:
    """The driver of retention, and what `logd retain` asks. Lives on the event loop."""

    def __init__(
        self, topics: Topics, config: DynamicConfig, services: PartitionServices, metrics: Registry
    ) -> None:
        self._topics = topics
        self._config = config
        self._services = services
        clock = services.clock
        self._guard = ClockGuard(wall_ms=clock.now_ms(), boot_ms=clock.boot_ms())
        self._was_stopped = False
        # Of each partition, when its oldest segment is due, as of the last look; and why it failed.
        self._due_ms: dict[Partition, int] = {}
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
            lambda: int(self.time().stopped),
        )
        metrics.gauge(
            "logd_retention_failed_partitions",
            "Partitions in which retention failed at the last try.",
            lambda: len(self._failures),
        )

    # --- rounds ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until cancelled, or stopped."""
        interval_ms = self._config.settings.log_retention_check_interval_ms
        try:
            with self._scope:
                while True:
                    await trio.sleep(interval_ms / SECOND_MS)
                    await self.run_round()
        finally:
            self._ended.set()

    async def stop(self) -> None:
        """End with the step that is under way, so that logs can be closed; `run` must be running.

        What is left to delete is deleted after the next start.
        """
        self._scope.cancel()
        await self._ended.wait()

    async def run_round(self) -> None:
        """Look at every open partition once."""
        self._note_clock()
        partitions = list(self._topics.open_partitions())
        for partition in partitions:
            await self._look_at(partition)
        seen = set(partitions)
        self._due_ms = {key: due for key, due in self._due_ms.items() if key in seen}
        self._failures = {key: why for key, why in self._failures.items() if key in seen}

    async def _look_at(self, partition: Partition) -> None:
        if partition.offline is not None or self._has_nothing_to_do(partition):
            self._due_ms.pop(partition, None)
            self._failures.pop(partition, None)
            return
        try:
            await self._delete_due(partition, ignore_clock_guard=False)
        except Exception as error:  # One partition must not keep the others from their turn.
            self._note_failure(partition, error)

    def _note_failure(self, partition: Partition, error: Exception) -> None:
        if partition.offline is not None:
            return  # That says more; or the topic was deleted meanwhile.
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

    async def _delete_due(self, partition: Partition, *, ignore_clock_guard: bool) -> Removed:
        """Delete what is due, in steps.

        Raises:
            StorageError, OSError: something cannot be read or written; what was done stays done.
        """
        removed = Removed(partition.log_start_offset)
        while True:
            settings = partition.settings
            now_ms = self._now_ms(ignore_clock_guard=ignore_clock_guard)
            plan = await self._plan(partition, now_ms, SEGMENTS_PER_STEP)
            if partition.settings is not settings:
                continue  # By other rules, perhaps, all of it stays.
            if plan.delete_count == 0 and not partition.log.is_deletion_unfinished:
                break
            await self._carry_out(partition, plan, removed)
            if plan.delete_count < SEGMENTS_PER_STEP:
                break  # Also where old records are being appended faster than they go.
        self._failures.pop(partition, None)
        self._note_due(partition, plan)
        removed.log_start_offset = partition.log_start_offset
        return removed

    def _note_due(self, partition: Partition, plan: RetentionPlan) -> None:
        if plan.next_due_ms is None:
            self._due_ms.pop(partition, None)
        else:
            self._due_ms[partition] = plan.next_due_ms

    async def _carry_out(self, partition: Partition, plan: RetentionPlan, removed: Removed) -> None:
        going = plan.verdicts[: plan.delete_count]
        reason = ", ".join(dict.fromkeys(verdict.rule or "" for verdict in going))
        result = await partition.delete_before(
            max(plan.new_log_start_offset, partition.log_start_offset), reason
        )
        removed.segments += result.segment_count
        removed.size_bytes += result.size_bytes
        self._deleted_segments.value += result.segment_count
        self._deleted_bytes.value += result.size_bytes

    async def _plan(self, partition: Partition, now_ms: int, limit: int | None) -> RetentionPlan:
        """Return what is to be done with the oldest `limit` segments of a partition."""
        if partition.offline is not None:
            raise LogFailedError(partition.offline)
        log = partition.log
        rules = _rules(partition)
        # Before the facts: what they tell of lies below what is visible now, or is not touched.
        high_watermark = partition.high_watermark
        size_bytes = log.size_bytes

        def job() -> RetentionPlan:
            return plan_retention(
                log.oldest_segments(limit),
                rules,
                now_ms=now_ms,
                high_watermark=high_watermark,
                size_bytes=size_bytes,
            )

        return await self._services.offload.run("admin", job)

    # --- what time it is -------------------------------------------------------------------------

    def time(self) -> RetentionTime:
        """Return the time that retention goes by."""
        clock = self._services.clock
        return self._guard.time(wall_ms=clock.now_ms(), boot_ms=clock.boot_ms())

    def _now_ms(self, *, ignore_clock_guard: bool) -> int:
        return self._services.clock.now_ms() if ignore_clock_guard else self.time().now_ms

    def _note_clock(self) -> None:
        time = self.time()
        if time.stopped != self._was_stopped:
            self._was_stopped = time.stopped
            if time.stopped:
                self._services.events.error("retention stopped", reason=time.reason)
            else:
                self._services.events.info("retention goes on: the wall clock is right again")

    def lateness_ms(self) -> int:
        """Return how long ago the most overdue segment was due, as of each partition's last look.

        Between two rounds it grows with the clock; each round sets it back.
        """
        due_ms = min(self._due_ms.values(), default=None)
        return 0 if due_ms is None else max(0, self.time().now_ms - due_ms)

    def problems(self) -> Iterator[Problem]:
        """Yield what keeps retention from its work, for `status`."""
        reason = self.time().reason
        if reason is not None:
            yield Problem(
                "retention_stopped",
                "warning",
                f"retention by time is held back: {reason}; if the wall clock is right, "
                "`logd retain TOPIC --ignore-clock-guard` goes by it, and so does a restart",
            )
        for partition, why in self._failures.items():
            yield Problem(
                "retention_failed",
                "warning",
                f"nothing more is deleted from {partition.topic_name}-{partition.index}: {why}",
                topic=partition.topic_name,
                partition=partition.index,
            )

    # --- on demand -------------------------------------------------------------------------------

    async def retain(
        self, name: str, index: int | None, *, ignore_clock_guard: bool
    ) -> list[dict[str, Any]]:
        """Delete now what retention allows; return what went from each partition, or why not.

        Raises:
            UnknownTopicOrPartitionError: there is no such topic or partition.
        """
        rows = []
        for number in self._indexes(name, index):
            removed, why = Removed(-1), None
            try:
                partition = self._topics.partition(name, number)
                removed = await self._delete_due(partition, ignore_clock_guard=ignore_clock_guard)
            except (LogdError, OSError) as error:  # The others' turn comes all the same.
                why = str(error)
            rows.append(
                {
                    "topic": name,
                    "partition": number,
                    "log_start_offset": removed.log_start_offset,
                    "deleted_segments": removed.segments,
                    "deleted_bytes": removed.size_bytes,
                    "error": why,
                }
            )
        return rows

    async def explain(
        self, name: str, index: int | None, *, ignore_clock_guard: bool
    ) -> list[dict[str, Any]]:
        """Return, for each segment, what goes now, what later, and by which rule.

        Raises:
            UnknownTopicOrPartitionError: there is no such topic or partition.
            StorageError, OSError: one of them is offline, or cannot be read.
        """
        rows = []
        for number in self._indexes(name, index):
            partition = self._topics.partition(name, number)
            now_ms = self._now_ms(ignore_clock_guard=ignore_clock_guard)
            plan = await self._plan(partition, now_ms, None)
            rows += [
                {
                    "topic": name,
                    "partition": partition.index,
                    "base_offset": verdict.base_offset,
                    "size_bytes": verdict.size_bytes,
                    "action": verdict.action,
                    "rule": verdict.rule,
                    "due_ms": verdict.due_ms,
                }
                for verdict in plan.verdicts
            ]
        return rows

    def _indexes(self, name: str, index: int | None) -> Sequence[int]:
        topic = self._topics.by_name.get(name)
        if topic is None:
            raise UnknownTopicOrPartitionError(f"there is no topic {name!r}")
        count = len(topic.partitions)
        if index is None:
            return range(count)
        if index >= count:
            raise UnknownTopicOrPartitionError(f"topic {name} has no partition {index}")
        return (index,)


def _rules(partition: Partition) -> RetentionRules:
    settings = partition.settings
    return RetentionRules(
        retention_ms=settings.retention_ms,
        retention_bytes=settings.retention_bytes,
        deletes="delete" in settings.cleanup_policy,
        log_start_offset=partition.log_start_offset,
    )
