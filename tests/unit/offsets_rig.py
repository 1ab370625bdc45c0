"""An offsets log on a real partition, its threads and timers in the test's hand.

`OffsetsRig` makes `__consumer_offsets` in a directory, or opens what a run left there, after a
clean stop or a crash. `state` is what a coordinator would hold: records are applied when they are
acknowledged.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import trio

from logd.broker.disk_space import DiskSpace
from logd.broker.log_settings import log_settings
from logd.broker.offsets_log import OffsetsLog
from logd.broker.partition import Partition
from logd.broker.services import PartitionServices, partition_metrics
from logd.broker.timers import Timers
from logd.broker.topic import Topic
from logd.broker.topic_names import OFFSETS_TOPIC
from logd.broker.turn import Turn
from logd.clock import Clock
from logd.config import load_server_settings, topic_settings
from logd.errors import LogdError
from logd.events import EventLog
from logd.metrics import Registry
from logd.offload import Delivery, InlineOffload, Job
from logd.record.group_records import encode_offset_key, encode_offset_value
from logd.storage.clean_stop import CleanLog
from logd.storage.files import Files
from logd.storage.log import Log
from logd.storage.sync_record import SyncPoint
from tests.crash.lying_disk import FastFiles

TOPIC_ID = bytes(range(16))
State = dict[bytes, bytes]


class Never(Timers):
    """Timers that do not fire."""

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        assert delay_s >= 0


class StoppableOffload(InlineOffload):
    """Does the work at once; where the program is stopped in it, it is stopped for good."""

    def submit(self, kind: str, job: Job, delivery: Delivery) -> None:
        stops: list[BaseException] = []

        def watched() -> object:
            try:
                return job()
            except Exception:  # An ordinary failure, which the delivery hears of.
                raise
            except BaseException as stop:  # Not an error of the job: the end of the program.
                stops.append(stop)
                raise

        super().submit(kind, watched, delivery)
        if stops:
            raise stops[0]


class FixedClock(Clock):
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds

    def now_ms(self) -> int:
        return 1_700_000_000_000 + int(self.seconds * 1000)


class OffsetsRig:
    """One run of the offsets log in `directory`, with one partition.

    Attributes:
        state: what was acknowledged, or loaded.
        told: what each append heard, in order.
    """

    def __init__(
        self,
        directory: str,
        *,
        files: Files | None = None,
        clean: CleanLog | None = None,
        point: SyncPoint | None = None,
        same_boot: bool = True,
        overrides: dict[str, str] | None = None,
    ) -> None:
        self.files = files or FastFiles()
        self.offload = StoppableOffload()
        self.points: list[SyncPoint] = []
        self.turn = Turn()
        self.clock = FixedClock()
        self.disk = DiskSpace(reserve_bytes=1000)
        self.disk.checked(10_000)
        self.events = io.StringIO()
        config = load_server_settings(file=None, environment={}, flags={})
        wanted = {"cleanup.policy": "compact", "flush.mode": "commit", **(overrides or {})}
        settings = topic_settings(config.settings, wanted)
        self.services = PartitionServices(
            clock=self.clock,
            offload=self.offload,
            timers=Never(),
            turn=self.turn,
            files=self.files,
            journal=cast("Any", SimpleNamespace(note=self.points.append)),
            disk=self.disk,
            events=EventLog(self.events, "text", self.clock),
            metrics=partition_metrics(Registry()),
            unsynced_max_bytes=1 << 20,
            end_turn=lambda: None,
            unlink_later=lambda paths, delay_s: None,
            lend_ballast=nullcontext,
        )
        path = f"{directory}/{OFFSETS_TOPIC}-0"
        given: dict[str, Any] = {
            "topic_id": TOPIC_ID,
            "topic": OFFSETS_TOPIC,
            "partition": 0,
            "settings": log_settings(settings),
        }
        if not self.files.exists(path):
            log = Log.create(self.files, path, **given)
        elif clean is not None:
            log = Log.open_clean(self.files, path, clean=clean, **given)
        else:
            log, self.report = Log.recover(
                self.files, path, sync_point=point, same_boot=same_boot, **given
            )
        self.partition = Partition(log, index=0, settings=settings, services=self.services)
        topic = Topic(
            OFFSETS_TOPIC, TOPIC_ID, partition_count=1, overrides=wanted, settings=settings
        )
        topic.partitions = [self.partition]
        topics = SimpleNamespace(
            by_name={OFFSETS_TOPIC: topic}, partition=lambda _name, index: topic.partition(index)
        )
        self.log = OffsetsLog(cast("Any", SimpleNamespace(topics=topics)), self.services)
        self.state: State = {}
        self.told: list[LogdError | None] = []

    # --- appending -------------------------------------------------------------------------------

    def append(self, *records: tuple[bytes, bytes | None]) -> None:
        """Append records as a coordinator does; they are on their way until `settle`."""

        def done(error: LogdError | None) -> None:
            self.told.append(error)
            if error is None:
                for key, value in records:
                    self.apply(0, key, value, 0)

        self.log.append(0, records, done)

    def commit(self, number: int, *, keys: int = 10) -> None:
        """Commit the offset `number` for one of so many keys."""
        self.append(commit_of(number, keys=keys))

    def settle(self) -> None:
        """Write, sync and deliver until nothing is left to do."""
        while self.turn.touched or self.offload.in_flight:
            self.turn.flush()
            self.offload.deliver()

    def commit_all(self, numbers: range, *, keys: int = 10) -> None:
        """Commit, each in a turn of its own."""
        for number in numbers:
            self.commit(number, keys=keys)
            self.settle()

    # --- loading and snapshots -------------------------------------------------------------------

    def apply(self, _partition: int, key: bytes, value: bytes | None, _timestamp_ms: int) -> None:
        """Change the state by one record."""
        if value is None:
            self.state.pop(key, None)
        else:
            self.state[key] = value

    def load(self) -> list[str]:
        """Load what is stored; return the problems."""
        return trio.run(self.log.load, self.apply)

    def snapshot(self) -> None:
        """Write a snapshot of the state."""
        offset = self.log.state_offset(0)
        trio.run(self.log.write_snapshot, 0, list(self.state.items()), offset)
        self.settle()

    def close(self) -> CleanLog:
        """Stop cleanly."""
        self.settle()
        return self.partition.log.close()


def commit_of(number: int, *, keys: int = 10) -> tuple[bytes, bytes]:
    """Return the record of a commit."""
    key = encode_offset_key(f"group-{number % keys}", "topic", 0)
    return key, encode_offset_value(number, commit_timestamp_ms=number)
