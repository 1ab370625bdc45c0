"""Retention on real partitions, its clocks, threads and disk in the test's hand."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import trio
from trio.testing import MockClock

from logd.broker.disk_space import DiskSpace
from logd.broker.log_settings import log_settings
from logd.broker.partition import Partition
from logd.broker.problems import Problem
from logd.broker.retention import Retention
from logd.broker.retention_clock import RetentionClock
from logd.broker.services import PartitionServices, partition_metrics
from logd.broker.topic import Topic
from logd.broker.topics import Topics
from logd.broker.turn import Turn
from logd.clock import Clock
from logd.config import TopicSettings, load_server_settings, topic_settings
from logd.events import EventLog
from logd.metrics import Registry
from logd.offload import InlineOffload
from logd.policy.clock_guard import ClockNote
from logd.record.build import encode_batch
from logd.storage.log import Log
from tests.crash.lying_disk import FastFiles
from tests.unit.offsets_rig import Never

START_MS = 1_700_000_000_000
LIMIT_MS = 10_000
"""retention.ms of the rig's topics, where nothing else is said."""


class MovableClock(Clock):
    """Wall and boot-time clock, moved by the test, together or apart.

    Both go on with Trio's clock, too, where that is simulated.
    """

    def __init__(self) -> None:
        self.wall_ms = START_MS
        self._boot_ms = 5_000_000

    def pass_ms(self, duration_ms: int) -> None:
        """Time passes."""
        self.wall_ms += duration_ms
        self._boot_ms += duration_ms

    def jump_ms(self, by_ms: int) -> None:
        """Somebody sets the wall clock."""
        self.wall_ms += by_ms

    def now_ms(self) -> int:
        return self.wall_ms + _trio_ms()

    def boot_ms(self) -> int:
        return self._boot_ms + _trio_ms()


def _trio_ms() -> int:
    if trio.lowlevel.in_trio_run() and isinstance(trio.lowlevel.current_clock(), MockClock):
        return int(trio.current_time() * 1000)
    return 0


class PickyFiles(FastFiles):
    """Fails chosen calls on chosen paths, until told otherwise; remembers what was opened."""

    def __init__(self) -> None:
        self.failing: dict[tuple[str, str], int] = {}
        self.opened: list[str] = []

    def _check(self, name: str, path: str) -> None:
        for (method, part), number in self.failing.items():
            if method == name and part in path:
                raise OSError(number, os.strerror(number), path)

    def rename(self, old: str, new: str) -> None:
        self._check("rename", old)
        super().rename(old, new)

    def open_read(self, path: str) -> Any:
        self._check("open_read", path)
        self.opened.append(path)
        return super().open_read(path)

    def create(self, path: str) -> Any:
        self._check("create", path)
        return super().create(path)

    def create_or_truncate(self, path: str) -> Any:
        self._check("create_or_truncate", path)
        return super().create_or_truncate(path)


class WatchedOffload(InlineOffload):
    """Does the work at once; `before` is awaited in front of each job that `run` gets."""

    def __init__(self) -> None:
        super().__init__()
        self.before: Callable[[str], Awaitable[None]] = _nothing

    async def run(self, kind: str, function: Callable[..., Any], *args: object) -> Any:
        await self.before(kind)
        return await super().run(kind, function, *args)


async def _nothing(_kind: str) -> None:
    """Until a test has something to do."""


class RetentionRig:
    """One run. `opened` makes topics' partitions, or opens those that the last run left.

    Attributes:
        later: what is to be unlinked, and after how many seconds.
        notes: what the clock left for the next run.
    """

    def __init__(
        self,
        directory: str,
        *,
        files: PickyFiles | None = None,
        clock: MovableClock | None = None,
        last: ClockNote | None = None,
        boot_id: str = "boot",
        check_ms: int = 1000,
    ) -> None:
        self.directory = directory
        self.files = files or PickyFiles()
        self.clock = clock or MovableClock()
        self.offload = WatchedOffload()
        self.turn = Turn()
        self.log_lines = io.StringIO()
        self.events = EventLog(self.log_lines, "text", self.clock)
        self.metrics = Registry()
        self.disk = DiskSpace(reserve_bytes=0)
        self.later: list[tuple[list[str], float]] = []
        self.notes: list[ClockNote] = []
        self.topics: dict[str, Topic] = {}
        self.server_settings: dict[str, str] = {}
        self.services = PartitionServices(
            clock=self.clock,
            offload=self.offload,
            timers=Never(),
            turn=self.turn,
            files=self.files,
            journal=cast("Any", SimpleNamespace(note=lambda point: None)),
            disk=self.disk,
            events=self.events,
            metrics=partition_metrics(Registry()),
            unsynced_max_bytes=1 << 20,
            end_turn=self.settle,
            unlink_later=lambda paths, delay_s: self.later.append((list(paths), delay_s)),
            lend_ballast=nullcontext,
            retention_check_ms=check_ms,
        )
        clock_of = RetentionClock(
            self.services, boot_id=boot_id, last=last, write_note=self.notes.append
        )
        found = SimpleNamespace(
            by_name=self.topics,
            open_partitions=self._open_partitions,
            partition=self.partition,
            services=self.services,
        )
        self.as_topics = cast("Topics", found)
        self.retention = Retention(self.as_topics, self.services, self.metrics, clock_of)

    def _open_partitions(self) -> Iterator[Partition]:
        for topic in self.topics.values():
            yield from (partition for partition in topic.partitions if partition is not None)

    def partition(self, name: str, index: int = 0) -> Partition:
        """Return an open partition."""
        return self.topics[name].partition(index)

    def settings(self, **overrides: str) -> TopicSettings:
        """Return a topic's settings, with segments of four offsets and ten seconds' retention."""
        config = load_server_settings(file=None, environment={}, flags=self.server_settings)
        wanted = {"segment.offsets": "4", "message.timestamp.after.max.ms": str(2**60)}
        if not self.server_settings:
            wanted["retention.ms"] = str(LIMIT_MS)
        given = {name.replace("_", "."): value for name, value in overrides.items()}
        return topic_settings(config.settings, wanted | given)

    def opened(self, name: str = "t", *, partitions: int = 1, **overrides: str) -> Partition:
        """Make a topic, or open what a run without a clean stop left of it; its partition 0."""
        settings = self.settings(**overrides)
        topic_id = name.encode().ljust(16, b"\0")[:16]
        topic = Topic(name, topic_id, partition_count=partitions, overrides={}, settings=settings)
        for index in range(partitions):
            log = self._log(name, topic_id, index, settings)
            topic.partitions[index] = Partition(
                log, index=index, settings=settings, services=self.services
            )
        self.topics[name] = topic
        return topic.partition(0)

    def _log(self, name: str, topic_id: bytes, index: int, settings: TopicSettings) -> Log:
        path = f"{self.directory}/{name}-{index}"
        given: dict[str, Any] = {
            "topic_id": topic_id,
            "topic": name,
            "partition": index,
            "settings": log_settings(settings, retention_check_ms=1000),
        }
        if not self.files.exists(path):
            return Log.create(self.files, path, **given)
        log, _ = Log.recover(self.files, path, sync_point=None, same_boot=True, **given)
        return log

    def alter(self, name: str = "t", **overrides: str) -> None:
        """Change a topic's settings while it runs."""
        settings = self.settings(**overrides)
        self.topics[name].settings = settings
        for partition in self.topics[name].partitions:
            assert partition is not None
            partition.apply_settings(settings)

    # --- appending -------------------------------------------------------------------------------

    def stage(self, partition: Partition, *, age_ms: int = 0, records: int = 1) -> None:
        """Stage one batch whose records were made so long ago."""
        self.turn.now_ms = self.clock.now_ms()
        at_ms = self.clock.now_ms() - age_ms
        batch = encode_batch([(b"key", b"v" * 50, [], at_ms) for _ in range(records)])
        partition.intake.append(batch, 0, len(batch), waiter=_Deaf(), wants_sync=True)

    def append(self, partition: Partition, *ages_ms: int, records: int = 1) -> None:
        """Append a batch of each age; they are visible once this returns."""
        for age_ms in ages_ms:
            self.stage(partition, age_ms=age_ms, records=records)
            self.settle()

    def fill(self, partition: Partition, segments: int, *, age_ms: int = 0) -> None:
        """Append so many segments of four records each."""
        for _ in range(segments):
            self.append(partition, age_ms, records=4)

    def settle(self) -> None:
        """Write, sync and deliver until nothing is left to do."""
        while self.turn.touched or self.offload.in_flight:
            self.turn.flush()
            self.offload.deliver()
            if not self.offload.in_flight and self.turn.buffers_pinned:
                break  # Somebody has a log to himself: its appends wait.

    # --- looking ---------------------------------------------------------------------------------

    def run_round(self) -> None:
        """Let retention look once."""
        trio.run(self.retention.run_round)

    def bases(self, name: str = "t", index: int = 0) -> list[int]:
        """Return the base offsets of the segments on disk."""
        names = sorted(os.listdir(f"{self.directory}/{name}-{index}"))
        return [int(found[:20]) for found in names if found.endswith(".log")]

    def metric(self, name: str) -> float:
        """Return what a scrape would find."""
        found = re.search(rf"^{name} (\S+)$", self.metrics.render(), re.MULTILINE)
        assert found is not None, name
        return float(found[1])

    def events_of(self, event: str) -> list[str]:
        """Return the log's lines of one event."""
        return [line for line in self.log_lines.getvalue().splitlines() if event in line]

    def problems(self) -> list[Problem]:
        """Return what `status` would list."""
        return list(self.retention.problems())


class _Deaf:
    """A producer that does not listen."""

    append_time_ms = -1

    def appended(self, base_offset: int) -> None:
        assert base_offset >= 0

    def refused(self, error: Exception) -> None:
        raise error
