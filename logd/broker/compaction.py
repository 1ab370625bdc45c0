"""Compaction at work: which partitions have their turn, and what becomes of those that fail.

    every log.cleaner.backoff.ms, or as soon as a round ended:
        each compacted partition ──plan_compaction──▶ those that are due, most pressing first
        free slots (log.cleaner.threads) ◀── those that are due
        as many slots again              ◀── those that somebody asked for, who is not kept waiting

A partition whose round fails is set aside: it is a problem on `status`, and is tried again after a
while, longer each time. The others go on. What is no fault of the partition (no space, no process)
is a problem too, and holds up nobody longer than it lasts. No failure ends the scheduler.

The debt is what `plan_compaction` calls dirty: bytes of sealed segments that no round has seen.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import trio

from logd.broker.cleaning import Cleaner, CleaningFailedError
from logd.broker.compaction_jobs import Job, OnDemand, Row
from logd.broker.compaction_metrics import CompactionMetrics
from logd.broker.compaction_round import (
    MovingOffset,
    NotCompactedError,
    RoundCutShortError,
    Rounds,
    refuse_uncompacted,
)
from logd.broker.dynamic_config import DynamicConfig
from logd.broker.partition import Partition
from logd.broker.problems import Problem
from logd.broker.round_limits import compaction_rules, slot_count
from logd.broker.services import PartitionServices
from logd.broker.topic import indexes_asked_for, topic_called
from logd.broker.topics import Topics
from logd.broker.worker import WorkerNotStartedError
from logd.cold.compacting import CodedCompaction
from logd.errors import SegmentsChangedError
from logd.metrics import Registry
from logd.policy.compaction import (
    CompactionFacts,
    CompactionPlan,
    NotDue,
    plan_compaction,
    sort_plans,
)
from logd.storage.clean_order import CleanResult, Progress
from logd.units import SECOND_MS

JOBS_KEPT: Final = 100
"""Jobs that are over and can still be asked for."""

SET_ASIDE_S: Final = 60.0
"""How long a partition whose round failed is left alone; twice as long after each failure …"""

SET_ASIDE_S_MAX: Final = 3600.0
"""… up to this."""

OVERTAKEN_MAX: Final = 5
"""Rounds in a row that may find their segments changed; then it is a failure like others."""

PAUSE_S_MIN: Final = 0.1
"""The least time between two looks at all partitions, whatever log.cleaner.backoff.ms says."""

PARTITIONS_PER_TURN: Final = 50
"""Partitions that are planned for before the loop has its turn."""


@dataclass(slots=True)
class _Failure:
    """Why a partition is set aside.

    Attributes:
        kind: as `FailureKind`, or "changed".
    """

    kind: str
    reason: str
    count: int


@dataclass(slots=True)
class _Standing:
    """What is known of one partition.

    Attributes:
        segment_list: what the facts are of; None: to be asked again.
        not_before_s: when it may have its turn, on the monotonic clock.
        overtaken: rounds in a row that came to nothing because the segments had changed.
    """

    segment_list: object = None
    facts: CompactionFacts | None = None
    failure: _Failure | None = None
    not_before_s: float = 0.0
    overtaken: int = 0


@dataclass(slots=True)
class _Slots:
    """How many partitions are at work, of those that share a limit."""

    used: int = 0


class Compaction:
    """The scheduler of rounds, and what `logd compact` asks. Lives on the event loop.

    Args:
        bound, coded, now_ms: see `Rounds`.
        prepare: see `OnDemand`.
    """

    def __init__(
        self,
        topics: Topics,
        config: DynamicConfig,
        services: PartitionServices,
        cleaner: Cleaner,
        metrics: Registry,
        *,
        bound: MovingOffset,
        coded: CodedCompaction,
        now_ms: Callable[[], int],
        prepare: Callable[[Partition], Awaitable[None]],
    ) -> None:
        self._topics = topics
        self._config = config
        self._services = services
        self._rounds = Rounds(config, services, cleaner, bound=bound, coded=coded, now_ms=now_ms)
        self._on_demand = OnDemand(self._rounds, services, prepare)
        self._standings: dict[Partition, _Standing] = {}
        self._due: deque[Partition] = deque()
        self._scan_at_s = 0.0
        # A partition has one round at a time, be it due or asked for.
        self._at_work: set[Partition] = set()
        self._slots_of_due = _Slots()
        self._slots_of_asked = _Slots()
        self._demands: list[tuple[Job, int]] = []
        self._jobs: dict[int, Job] = {}
        self._job_ids = itertools.count(1)
        self._not_started: str | None = None
        self._wake = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._metrics = CompactionMetrics(
            metrics,
            services.clock,
            debts=self._debts,
            running=lambda: self._slots_of_due.used + self._slots_of_asked.used,
            failed=lambda: sum(item.failure is not None for item in self._standings.values()),
            now_ms=now_ms,
        )

    # --- the scheduler ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until cancelled, or stopped."""
        try:
            with self._scope:
                async with trio.open_nursery() as self._nursery:
                    while True:
                        await self._look(self._nursery)
        finally:
            self._nursery = None
            self._ended.set()

    async def stop(self) -> None:
        """Cut rounds short, so that logs can be closed; `run` must be running.

        Returns when no process works on a log any more, and nothing is left of what they wrote.
        """
        self._scope.cancel()
        await self._ended.wait()

    async def _look(self, nursery: trio.Nursery) -> None:
        """Fill the free slots; wait until there is something new, or until the next scan."""
        self._wake = trio.Event()
        try:
            self._start_demands(nursery)
            await self._start_due(nursery)
            self._metrics.looked()
        except Exception as error:  # One bad look must not be the last one.
            self._services.events.error("compaction: look failed", reason=repr(error))
            self._scan_at_s = self._now_s() + self._pause_s()
        # What waits for a slot needs no scan: it gets one when a round ends.
        pause_s = self._pause_s() if self._due else self._scan_at_s - self._now_s()
        with trio.move_on_after(max(PAUSE_S_MIN, pause_s)):
            await self._wake.wait()

    def _now_s(self) -> float:
        return self._services.clock.monotonic()

    def _pause_s(self) -> float:
        return max(PAUSE_S_MIN, self._config.settings.log_cleaner_backoff_ms / SECOND_MS)

    def _start_demands(self, nursery: trio.Nursery) -> None:
        slots = slot_count(self._config.settings)
        for demand in list(self._demands):
            job, index = demand
            if self._slots_of_asked.used >= slots:
                return
            partition = self._open_partition(job.topic, index)
            if partition not in self._at_work:
                self._demands.remove(demand)
                self._start(nursery, self._slots_of_asked, partition, self._serve, job, index)

    async def _start_due(self, nursery: trio.Nursery) -> None:
        if not self._due and self._now_s() >= self._scan_at_s:
            self._due.extend(await self._scan())
            self._scan_at_s = self._now_s() + self._pause_s()
        settings = self._config.settings
        if not settings.log_cleaner_enable or self._services.disk.is_full:
            self._due.clear()
        while self._due and self._slots_of_due.used < settings.log_cleaner_threads:
            partition = self._due.popleft()
            if partition.offline is None and partition not in self._at_work:
                self._start(nursery, self._slots_of_due, partition, self._keep_compacted, partition)

    def _start(
        self,
        nursery: trio.Nursery,
        slots: _Slots,
        partition: Partition | None,
        work: Callable[..., Awaitable[None]],
        *arguments: object,
    ) -> None:
        """Give a partition a slot."""
        slots.used += 1
        if partition is not None:
            self._at_work.add(partition)
        nursery.start_soon(self._guarded, slots, partition, work, *arguments)

    async def _guarded(
        self,
        slots: _Slots,
        partition: Partition | None,
        work: Callable[..., Awaitable[None]],
        *arguments: object,
    ) -> None:
        """One slot's work; whatever becomes of it, the slot is free again."""
        try:
            await work(*arguments)
        except Exception as error:  # A bug of ours costs one round, not the scheduler.
            self._services.events.error("compaction: round failed", reason=repr(error))
        finally:
            slots.used -= 1
            if partition is not None:
                self._at_work.discard(partition)
            self._wake.set()

    # --- what is due -----------------------------------------------------------------------------

    async def _scan(self) -> list[Partition]:
        """Look at every compacted partition; return those that are due, most pressing first."""
        partitions = [p for p in self._topics.open_partitions() if p.settings.compacted]
        plans: list[CompactionPlan] = []
        by_name: dict[str, Partition] = {}
        for number, partition in enumerate(partitions, 1):
            plan = await self._plan(partition)
            if isinstance(plan, CompactionPlan):
                plans.append(plan)
                by_name[plan.name] = partition
            if number % PARTITIONS_PER_TURN == 0:
                await trio.lowlevel.checkpoint()
        seen = set(partitions)
        self._standings = {key: item for key, item in self._standings.items() if key in seen}
        return [by_name[plan.name] for plan in sort_plans(plans)]

    async def _plan(self, partition: Partition) -> CompactionPlan | NotDue | None:
        """Return what is to be done with a partition now; None: it is set aside, or busy."""
        standing = self._standing(partition)
        if partition.offline is not None or partition in self._at_work:
            return None
        try:
            segment_list = partition.log.segment_list
            is_known = standing.segment_list is segment_list
            standing.facts = await self._rounds.facts(
                partition, standing.facts if is_known else None
            )
            standing.segment_list = segment_list
            plan = plan_compaction(
                standing.facts, compaction_rules(partition.settings), now_ms=self._rounds.now_ms()
            )
        except Exception as error:  # One partition must not keep the others from their turn.
            self._note_failure(partition, error)
            return None
        if standing.facts.is_damaged:
            return plan  # A problem of its own kind on `status`.
        return plan if self._now_s() >= standing.not_before_s else None

    def _standing(self, partition: Partition) -> _Standing:
        standing = self._standings.get(partition)
        if standing is None:
            standing = self._standings[partition] = _Standing()
        return standing

    # --- rounds ----------------------------------------------------------------------------------

    async def _keep_compacted(self, partition: Partition) -> None:
        """A round because it is due."""
        try:
            with self._metrics.timed():
                outcome = await self._rounds.run(partition, on_demand=False, on_progress=_ignore)
        except Exception as error:  # One partition must not keep the others from their turn.
            self._note_failure(partition, error)
            return
        if isinstance(outcome, NotDue):
            return
        self._note_success(partition, outcome)
        self._scan_at_s = 0.0  # Perhaps there is more: only an idle cleaner rests.

    def _note_success(self, partition: Partition, result: CleanResult) -> None:
        self._not_started = None
        standing = self._standing(partition)
        before = standing.facts.first_dirty_offset if standing.facts is not None else -1
        standing.segment_list = None
        standing.failure = None
        standing.overtaken = 0
        if _leaves_tombstones_due(result, self._rounds.now_ms()):
            # Kept for another reason, they would make it due again and again for nothing.
            standing.not_before_s = self._now_s() + SET_ASIDE_S_MAX
        elif result.fitted or result.first_uncleaned_offset <= before:
            standing.not_before_s = self._now_s() + self._pause_s()
        else:
            standing.not_before_s = 0.0
        self._metrics.succeeded(result)
        self._services.events.info(
            "compacted",
            topic=partition.topic_name,
            partition=partition.index,
            segments=f"{result.before.segments} to {result.after.segments}",
            bytes=f"{result.before.log_bytes} to {result.after.log_bytes}",
            records=f"{result.before.records} to {result.after.records}",
            up_to_offset=result.first_uncleaned_offset,
        )

    def _note_failure(self, partition: Partition, error: Exception) -> None:
        """Take note of why a round came to nothing; decide when the partition has another turn."""
        standing = self._standing(partition)
        standing.segment_list = None
        if isinstance(error, NotCompactedError | RoundCutShortError) or partition.offline:
            standing.failure = None  # It is what somebody asked for; or `status` says more.
            return
        reason = str(error) or repr(error)
        if isinstance(error, WorkerNotStartedError):
            self._not_started = reason
            standing.not_before_s = self._now_s() + self._pause_s()
            return
        if isinstance(error, SegmentsChangedError) or _kind(error) == "gone":
            standing.overtaken += 1
            if standing.overtaken < OVERTAKEN_MAX:
                self._metrics.outdated.add()
                standing.not_before_s = self._now_s() + self._pause_s()
                return
        self._set_aside(partition, standing, _kind(error), reason)

    def _set_aside(self, partition: Partition, standing: _Standing, kind: str, reason: str) -> None:
        self._metrics.failed.add()
        before = standing.failure
        count = 1 if before is None else before.count + 1
        standing.failure = _Failure(kind, reason, count)
        wait_s = min(SET_ASIDE_S_MAX, SET_ASIDE_S * 2.0 ** min(count - 1, 10))
        standing.not_before_s = self._now_s() + wait_s
        if before is None or before.reason != reason:
            self._services.events.error(
                "compaction failed",
                topic=partition.topic_name,
                partition=partition.index,
                reason=reason,
                again_in_s=int(wait_s),
            )

    # --- on demand -------------------------------------------------------------------------------

    def request(self, name: str, index: int | None) -> Job:
        """Begin to compact a topic, or one partition; return the job, which others may have begun.

        Raises:
            UnknownTopicOrPartitionError: there is no such topic or partition.
            NotCompactedError: its cleanup.policy has no compact in it.
        """
        topic = topic_called(self._topics.by_name, name)
        indexes = tuple(indexes_asked_for(topic, index))
        refuse_uncompacted(name, topic.settings)
        for job in self._jobs.values():
            if not job.is_done and (job.topic, job.partitions) == (name, indexes):
                return job
        job = Job(next(self._job_ids), name, indexes)
        self._jobs[job.id] = job
        self._forget_old_jobs()
        self._demands += [(job, number) for number in indexes]
        if self._nursery is not None:
            self._start_demands(self._nursery)  # A look at ten thousand partitions takes its time.
        return job

    def job(self, job_id: int) -> Job | None:
        """Return a job; None if there was none of this number since the start, or long ago."""
        return self._jobs.get(job_id)

    def jobs(self) -> list[Job]:
        """Return the jobs that are remembered, in the order in which they were asked for."""
        return list(self._jobs.values())

    def _forget_old_jobs(self) -> None:
        done = [job.id for job in self._jobs.values() if job.is_done]
        for job_id in done[: max(0, len(done) - JOBS_KEPT)]:
            del self._jobs[job_id]

    async def _serve(self, job: Job, index: int) -> None:
        """One partition's part of a job."""
        job.current[index] = 0.0
        try:
            row = await self._row(job, index)
        except Exception as error:  # Whatever it is, who asked is told.
            row = _failed_row(job.topic, index, str(error) or repr(error))
        job.current.pop(index)
        job.rows[index] = row

    async def _row(self, job: Job, index: int) -> Row:
        partition = self._topics.partition(job.topic, index)
        try:
            with self._metrics.timed():
                row, results = await self._on_demand.compact(
                    partition, lambda share: job.current.__setitem__(index, share)
                )
        except Exception as error:
            self._note_failure(partition, error)  # It is what keeps the scheduler off, too.
            raise
        for result in results:
            self._note_success(partition, result)
        return row

    def _open_partition(self, name: str, index: int) -> Partition | None:
        topic = self._topics.by_name.get(name)
        if topic is None or index >= len(topic.partitions):
            return None
        return topic.partitions[index]

    # --- what is to be told ----------------------------------------------------------------------

    def _debts(self) -> Iterator[tuple[str, CompactionFacts]]:
        for partition, standing in self._standings.items():
            if standing.facts is not None:
                yield partition.topic_name, standing.facts

    def problems(self) -> Iterator[Problem]:
        """Yield what keeps compaction from its work, for `status`."""
        if self._not_started is not None:
            yield Problem(
                "compaction_not_running", "warning",
                f"nothing is compacted: {self._not_started}",
            )  # fmt: skip
        for partition, standing in self._standings.items():
            if standing.failure is not None:
                yield _as_problem(partition, standing.failure)


def _leaves_tombstones_due(result: CleanResult, now_ms: int) -> bool:
    """Whether a round that went through everything left tombstones whose time has come."""
    horizon_ms = result.next_horizon_ms
    is_vain = result.before.records == result.after.records
    return result.fitted and is_vain and horizon_ms is not None and horizon_ms <= now_ms


def _kind(error: Exception) -> str:
    return error.kind if isinstance(error, CleaningFailedError) else "failed"


def _as_problem(partition: Partition, failure: _Failure) -> Problem:
    return Problem(
        "compaction_failed",
        "damage" if failure.kind == "damaged" else "warning",
        f"{partition.topic_name}-{partition.index} is not compacted: {failure.reason}; it is tried "
        f"again by itself, or at once by `logd compact {partition.topic_name}`",
        topic=partition.topic_name,
        partition=partition.index,
    )


def _failed_row(topic: str, index: int, reason: str) -> Row:
    names = ("segments", "bytes", "records")
    counts: dict[str, Any] = {
        f"{name}_{when}": None for name in names for when in ("before", "after")
    }
    return {"topic": topic, "partition": index, **counts, "seconds": None, "note": None,
            "error": reason}  # fmt: skip


def _ignore(_progress: Progress) -> None:
    """Nobody watches a round that is only due."""
