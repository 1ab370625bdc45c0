"""`logd cold encode` and `logd cold thaw`, as the server sees them: jobs over a topic's segments.

    encode: every sealed segment of that moment is coded, or waited for while somebody else does
    recode: likewise, and what is coded with another profile than would be chosen now is coded anew:
            thawed where it is released, then coded, the old encoding superseded in the same step
    thaw:   every released segment of that moment is brought back

A job belongs to the server, not to the connection that asked for it: who asked may leave and look
again. It is forgotten when the server stops, or when many others came after it. What the settings
say of *when* a segment is coded does not count; what the nodes can take does.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import trio

from logd.cold.encoding import ENCODES_AT_ONCE, Encoder
from logd.cold.partition_view import ColdPartition, key_of
from logd.cold.segment_errors import (
    AlreadyCodedError,
    ColdFailedError,
    ColdRefusedError,
    NodesRefusedError,
    SegmentBusyError,
)
from logd.cold.thawing import Thawer
from logd.cold.tier import ColdTier
from logd.cold.tiering import Tiering
from logd.errors import ColdStateError, LogdError
from logd.events import EventLog
from logd.policy.cold.values import ColdState, Generation, SegmentKey
from logd.policy.tiering import NEVER_CODED, SegmentFacts, TieringRules, Wait, plan_tiering

JOBS_KEPT: Final = 100
"""Jobs that are over and can still be asked for."""

TRIES: Final = 3
"""Attempts at one segment: a node that failed is left out of the next where others can take it."""

LOOK_S: Final = 0.05
"""How often a segment that somebody else works on, or that is not visible yet, is looked at."""

VISIBLE_S: Final = 30.0
"""How long a job waits until all of a sealed segment is synced and visible."""

REASONS_MAX: Final = 20
"""Failures that a job tells of one by one; more are only counted."""

Kind = Literal["encode", "recode", "thaw"]


@dataclass(slots=True, eq=False)
class Job:
    """What was asked for, and how far it is.

    Attributes:
        done, skipped, failed: segments.
        source_bytes, stored_bytes: of those that are done.
        all_bytes, seen_bytes: what the job will go through, and went through so far.
    """

    id: int
    kind: Kind
    topic: str
    partitions: tuple[int, ...]
    began_s: float
    seconds: float | None = None
    done: int = 0
    skipped: int = 0
    failed: int = 0
    source_bytes: int = 0
    stored_bytes: int = 0
    all_bytes: int = 0
    seen_bytes: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)
    at_work: set[SegmentKey] = field(default_factory=set)

    def fail(self, topic: str, key: SegmentKey, reason: str) -> None:
        """Note a segment that could not be done."""
        self.failed += 1
        if len(self.errors) < REASONS_MAX:
            self.errors.append(
                {
                    "topic": topic,
                    "partition": key.partition,
                    "base_offset": key.base_offset,
                    "error": reason,
                }
            )


@dataclass(frozen=True, slots=True)
class _Item:
    """One segment of a job."""

    partition: ColdPartition
    key: SegmentKey
    size_bytes: int
    facts: SegmentFacts | None = None
    generation: Generation | None = None


class ColdJobs:
    """All jobs of a server. Lives on the event loop; `run` must be running."""

    def __init__(
        self,
        tier: ColdTier,
        tiering: Tiering,
        encoder: Encoder,
        thawer: Thawer,
        *,
        events: EventLog,
    ) -> None:
        self._tier = tier
        self._tiering = tiering
        self._encoder = encoder
        self._thawer = thawer
        self._events = events
        self._ids = itertools.count(1)
        self._jobs: dict[int, Job] = {}
        self._waiting: list[tuple[Job, list[ColdPartition]]] = []
        self._wake = trio.Event()
        self._is_over = False

    async def run(self) -> None:
        """Let jobs run until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    self._wake = trio.Event()
                    while self._waiting:
                        nursery.start_soon(self._work, *self._waiting.pop(0))
                    await self._wake.wait()
        finally:
            self._is_over = True

    # --- asking -----------------------------------------------------------------------------------

    def begin_encode(
        self, topic: str, partitions: Sequence[ColdPartition], *, recode: bool = False
    ) -> Job:
        """Begin to code every sealed segment of some partitions, or join the job that does.

        Args:
            recode: also those that are coded with another profile than would be chosen now.

        Raises:
            ColdRefusedError: the server reads the topic itself, or is stopping.
        """
        if topic in NEVER_CODED:
            raise ColdRefusedError(f"topic {topic} is not coded: a start of the server reads it")
        return self._begin("recode" if recode else "encode", topic, partitions)

    def begin_thaw(self, topic: str, partitions: Sequence[ColdPartition]) -> Job:
        """Begin to thaw every released segment of some partitions, or join the job that does.

        Raises:
            ColdRefusedError: the server is stopping.
        """
        return self._begin("thaw", topic, partitions)

    def job(self, number: int) -> Job | None:
        """Return a job, if it is known."""
        return self._jobs.get(number)

    def _begin(self, kind: Kind, topic: str, partitions: Sequence[ColdPartition]) -> Job:
        indexes = tuple(each.index for each in partitions)
        for job in self._jobs.values():
            if job.seconds is None and (job.kind, job.topic, job.partitions) == (
                kind, topic, indexes,
            ):  # fmt: skip
                return job
        if self._is_over:
            raise ColdRefusedError("the server is stopping")
        job = Job(next(self._ids), kind, topic, indexes, trio.current_time())
        self._jobs[job.id] = job
        for old in [each.id for each in self._jobs.values() if each.seconds is not None]:
            if len(self._jobs) > JOBS_KEPT:
                del self._jobs[old]
        self._waiting.append((job, list(partitions)))
        self._wake.set()
        return job

    def as_document(self, job: Job) -> dict[str, Any]:
        """Return a job as the admin port shows it."""
        seen = job.seen_bytes + sum(
            self._encoder.running[key].done_bytes
            for key in job.at_work
            if key in self._encoder.running
        )
        seconds = trio.current_time() - job.began_s if job.seconds is None else job.seconds
        is_done = job.seconds is not None
        share = min(1.0, seen / job.all_bytes) if job.all_bytes else float(is_done)
        return {
            "id": job.id,
            "kind": job.kind,
            "topic": job.topic,
            "partitions": job.partitions,
            "done": is_done,
            "progress": 1.0 if is_done else round(share, 4),
            "thawed" if job.kind == "thaw" else "encoded": job.done,
            "skipped": job.skipped,
            "failed": job.failed,
            "source_bytes": job.source_bytes,
            "stored_bytes": job.stored_bytes,
            "seconds": round(seconds, 3),
            "errors": job.errors,
        }

    # --- working ----------------------------------------------------------------------------------

    async def _work(self, job: Job, partitions: list[ColdPartition]) -> None:
        items: deque[_Item] = deque()
        try:
            for partition in partitions:
                items += await self._items(job, partition)
            job.all_bytes = sum(item.size_bytes for item in items)
            one = self._thaw if job.kind == "thaw" else self._encode
            async with trio.open_nursery() as nursery:
                for _ in range(ENCODES_AT_ONCE):
                    nursery.start_soon(self._take_turns, job, items, one)
        except Exception as error:  # A bug of ours ends one job, not the server.
            job.errors.append({"topic": job.topic, "error": str(error) or repr(error)})
            job.failed += 1
            self._events.error("cold job failed", topic=job.topic, reason=repr(error))
        finally:
            job.seconds = trio.current_time() - job.began_s

    async def _items(self, job: Job, partition: ColdPartition) -> list[_Item]:
        """Return the segments of a partition that a job goes through."""
        if partition.offline is not None:
            key = key_of(partition, 0)
            job.fail(job.topic, key, f"the partition is offline: {partition.offline}")
            return []
        if job.kind == "thaw":
            coverage = self._tier.coverage(partition.topic_id, partition.index)
            return [
                _Item(partition, each.key, each.source_bytes, generation=each)
                for each in coverage.generations
            ]
        facts = await self._tiering.facts(partition)
        hot = {each.base_offset for each in facts.segments}
        coverage = self._tier.coverage(partition.topic_id, partition.index)
        released = [each for each in coverage.generations if each.key.base_offset not in hot]
        return [
            *(_Item(partition, each.key, each.source_bytes) for each in released),
        ] + [
            _Item(partition, facts.key_of(each), each.size_bytes, facts=each)
            for each in facts.segments
            if not each.is_active
        ]

    async def _take_turns(
        self,
        job: Job,
        items: deque[_Item],
        one: Callable[[Job, _Item], Awaitable[None]],
    ) -> None:
        while items:
            item = items.popleft()
            job.at_work.add(item.key)
            try:
                await one(job, item)
            except NodesRefusedError as error:
                # The others would hear the same.
                job.fail(job.topic, item.key, str(error))
                job.failed += len(items)
                items.clear()
            except (LogdError, OSError) as error:
                job.fail(job.topic, item.key, str(error))
            finally:
                job.at_work.discard(item.key)
                job.seen_bytes += item.size_bytes

    # --- one segment ------------------------------------------------------------------------------

    async def _encode(self, job: Job, item: _Item) -> None:
        """Code a segment, or wait until somebody else has; tell the job."""
        deadline_s = trio.current_time() + VISIBLE_S
        failures = 0
        while True:
            live = self._live(item.key)
            if live is not None and not self._is_outdated(job, item, live):
                await self._end_hold(live)
                job.skipped += 1
                return
            why = await self._why_not(item) if live is None else None
            if why in (Wait.EMPTY, Wait.ACTIVE):
                job.skipped += 1
                return
            if why is Wait.NOT_VISIBLE and trio.current_time() > deadline_s:
                raise ColdFailedError("not all of it is synced and visible")
            if why is None:
                try:
                    self._note_done(job, await self._encode_now(item, live))
                    return
                except (SegmentBusyError, AlreadyCodedError):
                    pass  # Somebody was faster: the next look says who.
                except ColdFailedError:
                    failures += 1
                    if failures == TRIES:
                        raise
            await trio.sleep(LOOK_S)

    def _is_outdated(self, job: Job, item: _Item, live: Generation) -> bool:
        """Return whether a coded segment is to be coded anew."""
        return job.kind == "recode" and self._encoder.is_outdated(item.partition, live)

    async def _encode_now(self, item: _Item, live: Generation | None) -> Generation:
        """Code a segment that has no encoding, or another instead of the one it has."""
        if live is not None and live.state is ColdState.RELEASED:
            await self._thawer.thaw(item.partition, live, lambda _: None)
        made = await self._encoder.encode(item.partition, item.key.base_offset, replaces=live)
        await self._end_hold(self._live(item.key) or made)
        return made

    def _note_done(self, job: Job, generation: Generation) -> None:
        job.done += 1
        job.source_bytes += generation.source_bytes
        job.stored_bytes += sum(self._tier.holdings.lengths(generation.encoding) or ())

    async def _why_not(self, item: _Item) -> Wait | None:
        """Return why a segment is not to be coded now; None: it is. What is gone is EMPTY."""
        partition = item.partition
        if partition.offline is not None:
            raise ColdFailedError(f"the partition is offline: {partition.offline}")
        facts = await self._tiering.facts(partition)
        base_offset = item.key.base_offset
        segment = next((each for each in facts.segments if each.base_offset == base_offset), None)
        if segment is None:
            return Wait.EMPTY
        rules = TieringRules(enabled=True, after_ms=0, after_bytes=0, force=True)
        plan = plan_tiering([(replace(facts, segments=[segment]), rules)], now_ms=0)
        return plan.waiting[0].why if plan.waiting else None

    def _live(self, key: SegmentKey) -> Generation | None:
        coverage = self._tier.coverage(key.topic_id, key.partition)
        found = coverage.find(key.base_offset)
        return found if found is not None and found.key == key else None

    async def _end_hold(self, generation: Generation) -> None:
        """Let what was thawed be released again: that is what coding it anew means."""
        if generation.is_held:
            await self._tier.end_hold(generation.encoding)

    async def _thaw(self, job: Job, item: _Item) -> None:
        """Thaw a segment that is released; tell the job."""
        refusals = 0
        while True:
            generation = self._live(item.key)
            if generation is None or generation.state is not ColdState.RELEASED:
                job.skipped += 1
                return
            try:
                await self._thawer.thaw(item.partition, generation, lambda _: None)
            except SegmentBusyError:
                await trio.sleep(LOOK_S)
                continue
            except ColdStateError:
                refusals += 1  # Somebody changed it, or the catalog cannot give what is needed.
                if refusals == TRIES:
                    raise
                await trio.sleep(LOOK_S)
                continue
            job.done += 1
            job.source_bytes += generation.source_bytes
            return
