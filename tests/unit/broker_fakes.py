"""A broker for tests: real catalog, directories and settings; partitions that only pretend."""

from __future__ import annotations

import io
import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from logd.broker.cold_segments import ColdSegments
from logd.broker.context import Broker, RequestContext
from logd.broker.disk_space import DiskSpace
from logd.broker.dynamic_config import DynamicConfig
from logd.broker.group_upkeep import GroupUpkeep
from logd.broker.groups import Coordinator
from logd.broker.partition import Partition
from logd.broker.partition_making import Outcome, PartitionSpec
from logd.broker.producer_ids import ProducerIds
from logd.broker.topic import random_topic_id
from logd.broker.topic_services import TopicServices
from logd.broker.topics import Topics
from logd.broker.turn import Wakeable
from logd.clock import Clock
from logd.cold.life import LifeServices
from logd.cold.nodes import NodeServices
from logd.cold.tier import ColdTier
from logd.config import TopicSettings, load_server_settings
from logd.errors import LogdError, OffsetOutOfRangeError
from logd.events import EventLog
from logd.metrics import Registry
from logd.offload import InlineOffload
from logd.storage import layout
from logd.storage.catalog import SqliteCatalog
from logd.storage.files import Files
from logd.storage.partition_files import (
    EpochStart,
    check_metadata,
    end_offset_for_epoch,
    write_metadata,
)
from tests.unit.group_fakes import FakeGroupLog, GroupServices

CLUSTER_ID = "c" * 22


def no_coded_segments(broker: Broker) -> ColdSegments:
    """The life of coded segments where there are no storage nodes: it never begins."""

    def never() -> LifeServices:
        raise AssertionError("there are no storage nodes here")

    return ColdSegments(broker.cold, broker.offload, never, topic_name=lambda _: None)


class FakeProducers:
    """Remembers what the test put in."""

    def __init__(self) -> None:
        self.described: list[Any] = []

    def entries(self) -> list[Any]:
        return self.described

    def expire(self, now_ms: int, expiration_ms: int) -> int:
        assert now_ms > expiration_ms
        self.described = []
        return 0


class FakeLog:
    """The state of a log without the log."""

    def __init__(self, spec: PartitionSpec, end_offset: int = 0) -> None:
        self.topic = spec.topic
        self.topic_id = spec.topic_id
        self.log_start_offset = 0
        self.end_offset = end_offset
        self.leader_epoch = 0
        self.epochs = [EpochStart(0, 0)]
        self.size_bytes = 0
        self.producers = FakeProducers()
        self.checkpoints = 0
        self.damaged: list[Any] = []
        self.described: list[Any] = []
        self.newest: tuple[int, int] | None = None
        self.times: list[tuple[int, int]] = []

    @property
    def written_offset(self) -> int:
        return self.end_offset

    @property
    def hot_start_offset(self) -> int:
        return self.log_start_offset

    def checkpoint(self) -> None:
        self.checkpoints += 1

    def segments(self) -> list[Any]:
        return self.described

    def max_timestamp(self, *, below: int) -> tuple[int, int] | None:
        return self.newest if self.newest and self.newest[0] < below else None

    def offset_for_timestamp(
        self, timestamp_ms: int, *, below: int, from_offset: int = 0
    ) -> tuple[int, int, int] | None:
        times = ((at, at_ms, 0) for at, at_ms in self.times if at_ms >= timestamp_ms)
        return next((found for found in times if found[0] < below), None)

    def end_offset_for_epoch(self, epoch: int) -> tuple[int, int]:
        return end_offset_for_epoch(self.epochs, epoch, end_offset=self.end_offset)


class FakePartition:
    """What handlers see of a partition."""

    def __init__(self, spec: PartitionSpec, end_offset: int = 0) -> None:
        self.index = spec.index
        self.topic_name = spec.topic
        self.topic_id = spec.topic_id
        self.log = FakeLog(spec, end_offset)
        self.high_watermark = end_offset
        self.offline: str | None = None
        self.settings = spec.settings
        self.retired = False
        self.syncs = True

    @property
    def log_start_offset(self) -> int:
        return self.log.log_start_offset

    @property
    def leader_epoch(self) -> int:
        return self.log.leader_epoch

    def apply_settings(self, settings: TopicSettings) -> None:
        self.settings = settings

    def hold(self, count: int) -> None:
        """Pretend to hold so many records."""
        self.log.end_offset = self.high_watermark = count
        self.log.size_bytes = 100 * count

    def hold_unsynced(self, count: int) -> None:
        """Pretend that so many more records were acknowledged, and no sync has run yet."""
        self.log.end_offset += count

    def wait_for_data(self, waiter: Wakeable) -> None:
        """A sync is over at once, or never."""
        if self.syncs:
            self.high_watermark = self.log.end_offset
            waiter.wake()

    def forget_fetch(self, waiter: Wakeable) -> None:
        pass

    async def delete_records(self, before_offset: int) -> int:
        if before_offset > self.high_watermark:
            raise OffsetOutOfRangeError("beyond the high watermark")
        self.log.log_start_offset = before_offset
        return before_offset


class DirectoryFactory:
    """Makes real directories with an empty segment, and fake partitions on them."""

    def __init__(self, files: Files, topics_path: str) -> None:
        self.files = files
        self.topics_path = topics_path
        self.fail: dict[tuple[str, int], Exception] = {}
        self.retired: list[tuple[str, int]] = []

    def path(self, spec: PartitionSpec) -> str:
        return f"{self.topics_path}/{layout.partition_directory_name(spec.topic, spec.index)}"

    async def create(self, specs: Sequence[PartitionSpec]) -> list[Outcome]:
        return [self._try(spec, self._create) for spec in specs]

    async def open(self, specs: Sequence[PartitionSpec]) -> list[Outcome]:
        return [self._try(spec, self._open) for spec in specs]

    async def retire(self, partition: Partition) -> None:
        fake = cast("FakePartition", partition)
        fake.retired = True
        self.retired.append((fake.topic_name, fake.index))

    def _try(self, spec: PartitionSpec, make: Any) -> Outcome:
        try:
            return cast("Partition", make(spec))
        except (LogdError, OSError) as error:
            return error

    def _create(self, spec: PartitionSpec) -> FakePartition:
        directory = self.path(spec)
        self.files.make_directory(directory)
        write_metadata(self.files, directory, spec.topic_id)
        self.files.create(f"{directory}/{layout.segment_file_name(0, '.log')}")
        if (spec.topic, spec.index) in self.fail:
            raise self.fail[spec.topic, spec.index]
        return FakePartition(spec)

    def _open(self, spec: PartitionSpec) -> FakePartition:
        if (spec.topic, spec.index) in self.fail:
            raise self.fail[spec.topic, spec.index]
        directory = self.path(spec)
        names = self.files.list_directory(directory)
        check_metadata(self.files, directory, spec.topic_id)
        size = sum(
            self.files.stat_size(f"{directory}/{name}") for name in names if name.endswith(".log")
        )
        return FakePartition(spec, end_offset=size)


class Server:
    """One data directory, and a broker on it; `restarted` is the next one on the same directory."""

    def __init__(self, path: Path, *, flags: dict[str, str] | None = None) -> None:
        self.path = path
        self.flags = flags or {}
        self.files = Files()
        self.topics_path = str(path / "topics")
        Path(self.topics_path).mkdir(exist_ok=True)
        self.stop_at = ""
        self.stop_error: BaseException | None = None
        self.catalog = SqliteCatalog.open(str(path / "catalog.sqlite"), CLUSTER_ID, self._observe)
        self.factory = DirectoryFactory(self.files, self.topics_path)
        self.log_lines = io.StringIO()
        self.clock = Clock()
        self.offload, self.disk = InlineOffload(), DiskSpace(reserve_bytes=0)
        self.events = EventLog(self.log_lines, "text", self.clock)
        config = load_server_settings(file=None, environment={}, flags=self.flags)
        self.config = DynamicConfig(config, self.catalog.broker_overrides())
        seeded = random.Random(7)
        self.topics = Topics(
            TopicServices(
                catalog=self.catalog,
                offload=self.offload,
                files=self.files,
                topics_path=self.topics_path,
                factory=self.factory,
                events=self.events,
                config=self.config,
                new_topic_id=lambda: random_topic_id(seeded.randbytes),
            )
        )
        self.broker = Broker(
            config=self.config,
            topics=self.topics,
            producer_ids=ProducerIds(self.catalog, self.offload, on_full=self.disk.found_full),
            clock=self.clock,
            offload=self.offload,
            metrics=Registry(),
            events=self.events,
            cluster_id=CLUSTER_ID,
            advertised=lambda: ("127.0.0.1", 9092),
            files=self.files,
            data_path=str(path),
            started_at=self.clock.monotonic(),
            disk=self.disk,
        )
        self.broker.cold = ColdTier(
            self.catalog.cold,
            NodeServices(
                files=self.files,
                offload=self.offload,
                events=self.events,
                cluster_id=CLUSTER_ID,
                settings=config.settings,
                random=seeded,
            ),
            self.clock,
        )
        self.broker.coded = no_coded_segments(self.broker)
        self.group_log = FakeGroupLog(self.topics)
        self.group_services = GroupServices(self.events)
        numbers = itertools.count(1)
        self.groups = self.broker.groups = Coordinator(
            self.group_log,
            self.topics,
            self.config,
            self.group_services.as_services(),
            metrics=self.broker.metrics,
            new_uuid=lambda: f"uuid-{next(numbers)}",
        )
        self.upkeep = GroupUpkeep(self.groups)
        self.topics.on_deleted = self.upkeep.forget_topic

    def _observe(self, step: str) -> None:
        if step == self.stop_at and self.stop_error is not None:
            raise self.stop_error

    async def start(self) -> None:
        self.topics.load(self.catalog.topics())
        await self.topics.open_all()

    async def restarted(self) -> Server:
        self.catalog.close()
        server = Server(self.path, flags=self.flags)
        await server.start()
        return server

    def context(self, api_key: int = 3, version: int = 0) -> RequestContext:
        return RequestContext(self.broker, "test", "127.0.0.1", api_key, version)

    def partition(self, name: str, index: int = 0) -> FakePartition:
        return cast("FakePartition", cast("object", self.topics.by_name[name].partitions[index]))

    def directories(self) -> list[str]:
        return self.files.list_directory(self.topics_path)

    def write_log(self, directory: str, data: bytes = b"x" * 10) -> None:
        """Make, or extend, a partition directory behind the server's back."""
        path = self.path / "topics" / directory
        path.mkdir(exist_ok=True)
        (path / layout.segment_file_name(0, ".log")).write_bytes(data)
