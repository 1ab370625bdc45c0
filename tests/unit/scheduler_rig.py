"""The scheduler of compaction on partitions whose logs, and a cleaner that, do what a test says."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import trio

from logd.broker.compaction import Compaction
from logd.broker.disk_space import DiskSpace
from logd.broker.dynamic_config import DynamicConfig
from logd.broker.partition import Partition
from logd.broker.services import PartitionServices, partition_metrics
from logd.broker.timers import Timers
from logd.broker.topic import Topic
from logd.broker.topics import Topics
from logd.broker.turn import Turn
from logd.clock import Clock
from logd.cold.compacting import CodedCompaction
from logd.cold.tier import ColdTier
from logd.config import TopicSettings, load_server_settings
from logd.errors import LogdError
from logd.events import EventLog
from logd.metrics import Registry
from logd.offload import InlineOffload
from logd.policy.cold.coverage import Coverage
from logd.policy.cold.leases import Leases
from logd.policy.compaction import CompactionFacts, CompactionPlan, SegmentFacts
from logd.record.build import encode_batch
from logd.storage.clean_order import (
    CleanedGroup,
    CleanLimits,
    CleanOrder,
    CleanResult,
    NewSegment,
    Progress,
    SourceSegment,
    Totals,
)
from logd.storage.files import Files
from logd.storage.layout import cleaned_file_name
from logd.storage.log import Log
from logd.storage.log_settings import LogSettings
from logd.storage.swap import ReplaceResult
from logd.storage.sync_journal import SyncJournal
from logd.units import GIB, MIB

NOW_MS = 1_700_000_000_000


class TestClock(Clock):
    """A wall clock that stands, and Trio's own for the rest, which a test can let jump."""

    __test__ = False
    wall_ms = NOW_MS

    def now_ms(self) -> int:
        return self.wall_ms

    monotonic = staticmethod(trio.current_time)  # type: ignore[assignment]  # the same, mocked


class CompactingLog(Log):
    """A real log, but what compaction asks of it is what the test set.

    Attributes:
        facts: what a plan is made from, but for the bound.
        fail_facts, fail_replace: raised by the next call, and forgotten.
        replaced: the orders that were committed.
    """

    facts: CompactionFacts
    fail_facts: Exception | None = None
    fail_replace: Exception | None = None
    next_uncleaned: int | None = None

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.replaced: list[CleanOrder] = []
        self.facts = CompactionFacts(
            name=f"{self.topic}-{self.partition}",
            segments=(),
            first_dirty_offset=0,
            bound_offset=0,
        )

    def compaction_facts(self, *, bound_offset: int) -> CompactionFacts:
        error, self.fail_facts = self.fail_facts, None
        if error is not None:
            raise error
        return dataclasses.replace(self.facts, bound_offset=bound_offset)

    def clean_order(
        self,
        plan: CompactionPlan,
        *,
        attempt: int,
        now_ms: int,
        limits: CleanLimits,
        keeps_groups: bool = False,
    ) -> CleanOrder:
        assert not keeps_groups
        return CleanOrder(
            name=plan.name,
            directory=self.directory,
            attempt=attempt,
            groups=tuple(
                tuple(SourceSegment(s.base_offset, s.end_offset, s.size_bytes) for s in group)
                for group in plan.groups
            ),
            first_dirty_offset=plan.first_dirty_offset,
            end_offset=plan.end_offset,
            now_ms=now_ms,
            limits=limits,
        )

    def replace_segments(
        self, order: CleanOrder, result: CleanResult, *, is_prepared: bool = False
    ) -> ReplaceResult:
        assert not is_prepared
        error, self.fail_replace = self.fail_replace, None
        if error is not None:
            raise error
        self.replaced.append(order)
        self.facts = dataclasses.replace(
            self.facts,
            first_dirty_offset=result.first_uncleaned_offset,
            next_horizon_ms=result.next_horizon_ms,
        )
        return ReplaceResult(())


def nothing_coded() -> CodedCompaction:
    """Return what a round asks about coded segments, where there are none."""

    async def no_life() -> Any:
        raise AssertionError("nothing is coded")

    tier = SimpleNamespace(
        leases=Leases(), generations=lambda *_: (), coverage=lambda *_: Coverage()
    )
    return CodedCompaction(cast("ColdTier", tier), no_life)


class ScriptedCleaner:
    """Answers each order at once, or as the test says.

    Attributes:
        orders: those that came, with the memory that they may take.
        asked_for: of each, whether somebody waits for it.
        fail: by partition name, raised by the next round of it, and forgotten.
        hold: by partition name: the round waits for the event. It ends by being cancelled, too.
        fitted: by partition name, of each next round, whether it fitted.
        horizon_ms: rounds remove nothing, and leave tombstones of this horizon.
    """

    def __init__(self) -> None:
        self.orders: list[tuple[CleanOrder, int]] = []
        self.asked_for: list[bool] = []
        self.fail: dict[str, Exception] = {}
        self.hold: dict[str, trio.Event] = {}
        self.horizon_ms: int | None = None
        self.fitted: dict[str, Iterator[tuple[bool, int]]] = {}
        self.running: list[str] = []
        self.most_running = 0

    async def clean(
        self,
        order: CleanOrder,
        *,
        memory_bytes: int,
        is_asked_for: bool,
        on_progress: Callable[[Progress], None],
    ) -> CleanResult:
        self.orders.append((order, memory_bytes))
        self.asked_for.append(is_asked_for)
        self.running.append(order.name)
        self.most_running = max(self.most_running, len(self.running))
        path = f"{order.directory}/{cleaned_file_name(0, order.attempt, '.log')}"
        Files().create(path)
        try:
            on_progress(Progress("keys", order.source_bytes, order.source_bytes))
            if order.name in self.hold:
                await self.hold[order.name].wait()
            await trio.lowlevel.checkpoint()
            if order.name in self.fail:
                raise self.fail.pop(order.name)
        finally:
            self.running.remove(order.name)
        fitted, uncleaned = next(self.fitted.get(order.name, iter(())), (True, order.end_offset))
        result = result_of(order, fitted=fitted, first_uncleaned=uncleaned)
        if self.horizon_ms is None:
            return result
        return dataclasses.replace(result, after=result.before, next_horizon_ms=self.horizon_ms)

    @property
    def names(self) -> list[str]:
        """Of which partitions the orders were."""
        return [order.name for order, _ in self.orders]


def result_of(order: CleanOrder, *, fitted: bool, first_uncleaned: int) -> CleanResult:
    """Return a result: one record in ten stays."""
    bases = tuple(segment.base_offset for segment in order.segments)
    new = NewSegment(bases[0], order.source_bytes // 10, 0, 0)
    return CleanResult(
        attempt=order.attempt,
        groups=(CleanedGroup(bases, (new,)),),
        before=Totals(len(bases), 1000, order.source_bytes),
        after=Totals(1, 100, order.source_bytes // 10),
        first_uncleaned_offset=first_uncleaned,
        next_horizon_ms=None,
        fitted=fitted,
        read_bytes=2 * order.source_bytes,
        written_bytes=order.source_bytes // 10,
        keys=100,
    )


class RigTopics:
    """The topics that a test made."""

    def __init__(self) -> None:
        self.by_name: dict[str, Topic] = {}
        self.fail: Exception | None = None

    def open_partitions(self) -> Iterator[Partition]:
        error, self.fail = self.fail, None
        if error is not None:
            raise error
        for topic in self.by_name.values():
            yield from (p for p in topic.partitions if p is not None)

    def partition(self, name: str, index: int) -> Partition:
        if name not in self.by_name:
            raise LogdError("gone")
        return self.by_name[name].partition(index)


class Rig:
    """A scheduler, and what it works on."""

    def __init__(self, path: Path, **server_settings: str) -> None:
        self.path = path
        self.config = DynamicConfig(
            load_server_settings(
                file=None,
                environment={},
                flags={name.replace("_", "."): value for name, value in server_settings.items()},
            ),
            {},
        )
        self.clock = TestClock()
        self.topics = RigTopics()
        self.cleaner = ScriptedCleaner()
        self.metrics = Registry()
        self.prepared: list[Partition] = []
        self.bounds: dict[str, int] = {}
        self.log_lines = io.StringIO()
        self.offload = InlineOffload()
        self.turn = Turn()
        self.turn.now_ms = NOW_MS
        self.unlinked: list[str] = []
        self.services = self._make_services()
        self.compaction = Compaction(
            cast("Topics", self.topics),
            self.config,
            self.services,
            self.cleaner,
            self.metrics,
            bound=lambda p: self.bounds.get(p.topic_name, 2**40),
            coded=nothing_coded(),
            now_ms=self.clock.now_ms,
            prepare=self._prepare,
        )

    def _make_services(self) -> PartitionServices:
        files = Files()
        self.disk = DiskSpace(reserve_bytes=GIB)
        self.disk.checked(100 * GIB)
        return PartitionServices(
            clock=self.clock,
            offload=self.offload,
            timers=Timers(),
            turn=self.turn,
            files=files,
            journal=SyncJournal.open(
                files, str(self.path / "sync.journal"), boot_id="b" * 32, partitions_hint=1
            ),
            disk=self.disk,
            events=EventLog(self.log_lines, "text", self.clock),
            metrics=partition_metrics(Registry()),
            unsynced_max_bytes=MIB,
            end_turn=self.settle,
            unlink_later=lambda paths, _delay_s: self.unlinked.extend(paths),
            lend_ballast=nullcontext,
        )

    async def _prepare(self, partition: Partition) -> None:
        self.prepared.append(partition)

    def settle(self) -> None:
        """Write, sync and deliver until nothing is left to do."""
        while self.turn.touched or self.offload.in_flight:
            self.turn.flush()
            self.offload.deliver()

    def settings(self, **overrides: str) -> TopicSettings:
        """Return a compacted topic's settings."""
        given = {name.replace("_", "."): value for name, value in overrides.items()}
        return self.config.topic_settings({"cleanup.policy": "compact", **given})

    def topic(self, name: str, partitions: int = 1, **overrides: str) -> list[Partition]:
        """Make a topic; its logs have nothing to compact yet."""
        settings = self.settings(**overrides)
        topic_id = name.encode().ljust(16, b"-")
        topic = Topic(name, topic_id, partition_count=partitions, overrides={}, settings=settings)
        for index in range(partitions):
            log = CompactingLog.create(
                self.services.files,
                str(self.path / f"{name}-{index}"),
                topic_id=topic_id,
                topic=name,
                partition=index,
                settings=LogSettings(),
            )
            topic.partitions[index] = Partition(
                log, index=index, settings=settings, services=self.services
            )
        self.topics.by_name[name] = topic
        return [topic.partition(index) for index in range(partitions)]

    def dirty(self, partition: Partition, *, clean: int = 0, dirty: int = 100) -> CompactingLog:
        """Give a partition a clean and a dirty segment of so many records, of 1 MiB each."""
        log = cast("CompactingLog", partition.log)
        sizes = [size for size in (clean, dirty) if size]
        ends = [sum(sizes[: n + 1]) for n in range(len(sizes))]
        log.facts = dataclasses.replace(
            log.facts,
            segments=tuple(
                SegmentFacts(end - size, end, size * MIB, NOW_MS - 1000, NOW_MS - 1000)
                for end, size in zip(ends, sizes, strict=True)
            ),
            first_dirty_offset=clean,
        )
        return log

    def append(self, partition: Partition) -> None:
        """Append one record, durably."""
        batch = encode_batch([(b"k", b"v", [], NOW_MS)])
        partition.intake.append(batch, 0, len(batch), waiter=_Nobody(), wants_sync=True)
        self.settle()

    def files_of(self, partition: Partition) -> list[str]:
        """What compaction left in a partition's directory."""
        names = self.services.files.list_directory(partition.log.directory)
        return [name for name in names if name.endswith(".cleaned")]

    def metric(self, name: str) -> float:
        """Return the value of one series, as a scrape shows it."""
        for line in self.metrics.render().splitlines():
            if line.startswith(name + " "):
                return float(line.rpartition(" ")[2])
        raise KeyError(name)

    def kinds(self) -> list[str]:
        """Return the kinds of the problems that `status` would show."""
        return [problem.kind for problem in self.compaction.problems()]

    @asynccontextmanager
    async def running(self) -> Any:
        """The scheduler runs inside; it is stopped, not cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.compaction.run)
            yield
            await self.compaction.stop()


class _Nobody:
    append_time_ms = -1

    def appended(self, _base_offset: int) -> None:
        """Nobody waits."""

    def refused(self, error: LogdError) -> None:
        raise error


async def until(condition: Callable[[], bool], *, tries: int = 1000) -> None:
    """Let other tasks run until the condition holds; without the clock moving."""
    for _ in range(tries):
        if condition():
            return
        await trio.lowlevel.checkpoint()
    raise AssertionError("it never happened")
