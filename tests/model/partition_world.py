"""A partition, its clients, and everything that can go wrong beneath it, in the hands of one seed.

Threads are jobs that run when the random generator says so; and inside a job, before any of its
file-system calls, the loop may do something (`before`), as it may in a server. Any call may be
refused with any errno, the disk may be full for a while, the process may be killed at any time.

What clients were told is held against what is in the log (`verify`).
"""

from __future__ import annotations

import errno
import io
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import trio

from logd.broker.disk_space import DiskSpace
from logd.broker.partition import Partition
from logd.broker.services import PartitionServices, partition_metrics
from logd.broker.turn import Turn
from logd.clock import Clock
from logd.config import TopicSettings, load_server_settings, topic_settings
from logd.errors import (
    DiskFullError,
    LogdError,
    StorageError,
)
from logd.events import EventLog
from logd.metrics import Registry
from logd.record.batch import HEADER_BYTES, read_header
from logd.record.build import encode_batch
from logd.storage.file_slice import FileSlice
from logd.storage.log import Log
from logd.storage.log_settings import LogSettings
from logd.storage.sync_journal import SyncJournal
from tests.model.partition_parts import (
    Batch,
    ConnectionGoneError,
    Fetch,
    HeldOffload,
    Producer,
    WorldFiles,
)
from tests.unit.test_partition import Later

TOPIC_ID = bytes(range(16))
IN_FLIGHT_MAX = 5
DELETE_ALL = 0.3
NEED_SPACE = ("create", "write_at", "allocate")
FALLIBLE = (
    "create", "write_at", "allocate", "sync_data", "sync", "sync_directory", "rename", "unlink",
    "open_write", "truncate", "map",
)  # fmt: skip
ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


class World:
    """See the module."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.directory = directory
        self.files = WorldFiles(self)
        self.number = 0
        self.depth = -1
        self.is_full = False
        # What the next call of a kind fails with.
        self.failing: dict[str, int] = {}
        self.faults: list[str] = []
        self.batches: list[Batch] = []
        self.producers: list[Producer] = []
        self.fetches: list[Fetch] = []
        self.seen: dict[int, bytes] = {}
        self.doomed: list[str] = []
        self.high_watermark = 0
        self.paused = 0
        self.is_killed = False
        self.overrides = {"segment.bytes": str(self.random.choice((1024, 2048, 100_000)))}
        self.overrides["segment.index.bytes"] = str(self.random.choice((64, 4096)))
        self.overrides["index.interval.bytes"] = str(self.random.choice((0, 300)))
        if self.random.random() < 0.2:
            self.overrides["cleanup.policy"] = "compact"
        self.journal = SyncJournal.open(
            self.files, str(directory / "sync.journal"), boot_id="b" * 32, partitions_hint=1
        )
        self._begin_life()
        log = Log.create(
            self.files,
            str(directory / "t-0"),
            topic_id=TOPIC_ID,
            topic="t",
            partition=0,
            settings=LogSettings(),
            open_files=None,
        )
        self.partition = Partition(log, index=0, settings=self._settings(), services=self.services)
        self.depth = 0

    def _begin_life(self) -> None:
        self.offload = HeldOffload(self)
        self.timers = Later()
        self.turn = Turn()
        self.turn.now_ms = 1_000_000
        self.disk = DiskSpace(reserve_bytes=0)
        self.paused = 0
        self.services = PartitionServices(
            clock=Clock(),
            offload=self.offload,
            timers=self.timers,
            turn=self.turn,
            files=self.files,
            journal=self.journal,
            disk=self.disk,
            events=EventLog(io.StringIO(), "text", Clock()),
            metrics=partition_metrics(Registry()),
            unsynced_max_bytes=1000,
            end_turn=self.end_turn,
            unlink_later=lambda paths, _delay_s: self.doomed.extend(paths),
            lend_ballast=nullcontext,
        )

    def _settings(self) -> TopicSettings:
        config = load_server_settings(file=None, environment={}, flags={})
        return topic_settings(config.settings, self.overrides)

    # --- what goes wrong, and what goes on beside it ---------------------------------------------

    @contextmanager
    def in_thread(self) -> Iterator[None]:
        """What is done inside is done by a thread: the loop goes on beside it."""
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    def before(self, call: str) -> None:
        """A file-system call is about to be made."""
        if self.depth == 1:
            self.depth = 2
            while self.random.random() < 0.3:
                self.random.choice((self.append, self.append, self.end_turn, self.deliver))()
            self.depth = 1
        if self.depth < 0:
            return
        number = self.failing.pop(call, None)
        if number is not None:
            self.faults.append(f"{call}:{errno.errorcode[number]}")
            raise OSError(number, "planted")
        if self.is_full and call in NEED_SPACE:
            raise OSError(errno.ENOSPC, "full")

    # --- clients ---------------------------------------------------------------------------------

    def append(self) -> None:
        """A client sends one batch."""
        if self.partition.is_congested:
            self.paused += 1
            self.partition.when_decongested(self._resumed)
            return
        if self.random.random() < 0.5:
            self._send_idempotent()
        else:
            batch = Batch(self._payload(), None, -1)
            batch.wants_sync = self.random.random() < 0.7
            self._send(batch)

    def _resumed(self) -> None:
        self.paused -= 1

    def _payload(self) -> bytes:
        self.number += 1
        return b"%06d" % self.number + b"." * self.random.choice((1, 1, 100, 500))

    def _send_idempotent(self) -> None:
        if len(self.producers) < 2 or self.random.random() < 0.1:
            self.producers.append(Producer(len(self.producers)))
        producer = self.random.choice(self.producers[-2:])
        waiting = [batch for batch in producer.batches if not batch.acked and not batch.in_flight]
        if sum(batch.in_flight for batch in producer.batches) >= IN_FLIGHT_MAX:
            return
        # What is sent behind a refused batch may have been on its way before.
        must = bool(waiting) and isinstance(waiting[0].errors[-1], ConnectionGoneError)
        if waiting and (must or self.random.random() < 0.7):
            self._send(waiting[0])
            return
        batch = Batch(self._payload(), producer, len(producer.batches))
        producer.batches.append(batch)
        self._send(batch)

    def _send(self, batch: Batch) -> None:
        if not batch.errors:
            self.batches.append(batch)
        fields = {}
        if batch.producer is not None:
            fields["producer_id"] = batch.producer.producer_id
            fields["producer_epoch"] = 0
            fields["base_sequence"] = batch.sequence
        data = encode_batch([(b"k", batch.payload, [], 1_000_000)], **fields)
        batch.in_flight = True
        try:
            self.partition.intake.append(data, 0, len(data), batch, batch.wants_sync)
        except LogdError as error:
            batch.refused(error)

    def fetch(self) -> None:
        """A client waits for more than there is."""
        if self.partition.offline is not None:
            return  # It is told so at once.
        fetch = Fetch(self.partition)
        self.fetches.append(fetch)
        self.partition.wait_for_data(fetch)

    # --- the loop --------------------------------------------------------------------------------

    def end_turn(self) -> None:
        """What the serving loop does at the end of a turn."""
        if self.is_killed:
            return
        while self.turn.touched or self.turn.woken:
            self.turn.flush()
            self.turn.wake()
        if self.random.random() < 0.5:  # By time, at the server's.
            depth, self.depth = self.depth, -1  # The journal's own failures are another test's.
            self.journal.sync()
            self.depth = depth
        assert self.partition.high_watermark >= self.high_watermark, "it never goes back"
        self.high_watermark = self.partition.high_watermark
        if self._commits:
            assert self.high_watermark <= self.partition.log.synced_offset

    @property
    def _commits(self) -> bool:
        return "flush.mode" not in self.overrides

    def deliver(self) -> None:
        """The loop hears of some ends of jobs."""
        self.offload.deliver(limit=self.random.randint(1, 3))

    def work(self) -> None:
        """A thread does one job."""
        self.offload.work()

    def check_disk(self) -> None:
        """The free space is looked at."""
        self.disk.checked(10**12)

    def fill_disk(self) -> None:
        """The disk becomes full, or is full no more."""
        self.is_full = not self.is_full

    def plant(self) -> None:
        """The next call of some kind fails."""
        self.failing[self.random.choice(FALLIBLE)] = self.random.choice(ERRNOS)

    def configure(self) -> None:
        """The topic's settings change."""
        self.overrides["segment.bytes"] = str(self.random.choice((1024, 2048, 100_000)))
        if self.random.random() < 0.2:
            self.overrides["flush.mode"] = self.random.choice(("os", "interval"))
        self.partition.apply_settings(self._settings())

    def checkpoint(self) -> None:
        """A checkpoint is taken."""
        if self.partition.log.failed is None:
            self.partition.take_checkpoint()

    def pass_time(self) -> None:
        """Timers fire; the clock goes on."""
        self.turn.now_ms += 1000
        self.timers.fire()

    # --- what has the log to itself --------------------------------------------------------------

    async def delete(self) -> None:
        """Records are deleted."""
        start = self.partition.log_start_offset
        end = self.partition.high_watermark
        self._note_seen()
        before = end if self.random.random() < DELETE_ALL else self.random.randint(start, end)
        await self._alone(self.partition.delete_records, before)

    async def roll(self) -> None:
        """The log is rolled for its age."""
        await self._alone(self.partition.roll_if_due, 10**15)

    async def _alone(self, call: Callable[..., Any], argument: int) -> None:
        try:
            await call(argument)
        except StorageError:
            return

    # --- the truth -------------------------------------------------------------------------------

    def _read(self, below: int) -> dict[int, bytes]:
        """Return the payloads in the log by their offsets."""
        depth, self.depth = self.depth, -1
        log = self.partition.log
        found: dict[int, bytes] = {}
        offset = log.log_start_offset
        while offset < below:
            records = log.read(offset, max_bytes=1 << 20, below=below, min_one=True)
            assert isinstance(records, FileSlice)
            data = self.files.read_at(records.file, records.position, records.size)
            assert data, f"nothing at {offset} below {below}"
            at = 0
            while at < len(data):
                header = read_header(data, at)
                size = header.length + 12
                assert header.base_offset >= offset or at == 0
                offset = header.base_offset
                found[offset] = bytes(data[at + HEADER_BYTES : at + size])
                offset += 1
                at += size
        self.depth = depth
        return found

    def _note_seen(self) -> None:
        if self.partition.log.failed is None:
            self.seen.update(self._read(self.partition.high_watermark))

    def verify(self) -> None:
        """What was promised is there; once, in order, and nothing that was refused."""
        log = self.partition.log
        everything = self._read(log.written_offset)
        self._note_seen()
        start = log.log_start_offset
        # A payload is told apart by its number.
        by_number: dict[bytes, list[int]] = {}
        for offset, records in {**self.seen, **everything}.items():
            for batch in self.batches:
                if batch.payload in records:
                    by_number.setdefault(batch.payload, []).append(offset)
        for batch in self.batches:
            places = by_number.get(batch.payload, [])
            assert len(places) <= 1, f"{batch} is in the log at {places}"
            if batch.acked and (batch.wants_sync or batch.producer is not None):
                if batch.offset is not None and batch.offset >= start:
                    assert places == [batch.offset], f"{batch} is acknowledged, and at {places}"
                    if self._commits:
                        assert batch.offset < self.partition.high_watermark, f"{batch} not visible"
                elif batch.offset is None:
                    assert places, f"{batch} is acknowledged and nowhere"
            was_refused = bool(batch.errors) and isinstance(batch.errors[0], DiskFullError)
            if was_refused and batch.producer is None:
                assert not places, f"{batch} was refused and is at {places}"
        for producer in self.producers:
            order = [by_number.get(batch.payload, [None])[0] for batch in producer.batches]
            there = [offset for offset in order if offset is not None]
            assert there == sorted(there), f"order of producer {producer.producer_id}: {order}"

    async def settle(self) -> None:
        """Let everything come to its end."""
        self.failing = {}
        self.is_full = False
        self.check_disk()
        for _ in range(8):
            for _ in range(50):
                self.end_turn()
                self.work()
                self.deliver()
                for _ in range(3):
                    await trio.lowlevel.checkpoint()
                if self.offload.is_idle and not self.turn.touched and not self.turn.woken:
                    break
            self.timers.fire()
        assert self.offload.is_idle

    def verify_settled(self) -> None:
        """Nobody waits for what will not come."""
        waiting = [batch for batch in self.batches if batch.in_flight]
        assert not waiting, f"never told: {waiting}"
        log = self.partition.log
        if log.failed is not None:
            assert self.partition.offline is not None, (
                f"nobody is told that it failed: {log.failed}"
            )
        elif "flush.mode" not in self.overrides:
            assert self.partition.high_watermark == log.written_offset == log.end_offset
        for fetch in self.fetches:
            if fetch.partition is self.partition:
                changed = fetch.high_watermark < self.partition.high_watermark
                gone = self.partition.offline is not None
                assert fetch.is_woken or not (changed or gone), "a fetch sleeps on"
        assert self.paused == 0, "a connection is never read again"

    # --- ends ------------------------------------------------------------------------------------

    def kill(self) -> None:
        """The process is gone; the kernel has what was written. It is started again."""
        self._restart()
        self.verify()

    def _restart(self) -> None:
        self.failing = {}
        self.is_full = False
        depth, self.depth = self.depth, -1
        self.is_killed = False
        old = self.partition.log
        was_visible = self.high_watermark if self._commits else 0
        for batch in self.batches:
            if not batch.acked:
                batch.in_flight = False
                batch.errors.append(ConnectionGoneError("the server was started anew"))
        self.journal = SyncJournal.open(
            self.files, str(self.directory / "sync.journal"), boot_id="b" * 32, partitions_hint=1
        )
        self.overrides.pop("flush.mode", None)
        self._begin_life()
        log, report = Log.recover(
            self.files,
            old.directory,
            topic_id=TOPIC_ID,
            topic="t",
            partition=0,
            settings=old.settings,
            sync_point=self.journal.points.get((TOPIC_ID, 0)),
            same_boot=True,
        )
        assert not log.damaged, (report, self.faults)
        assert log.written_offset >= was_visible, "what was seen is gone"
        assert log.log_start_offset >= old.log_start_offset
        self.partition = Partition(log, index=0, settings=self._settings(), services=self.services)
        self.high_watermark = self.partition.high_watermark
        self.depth = depth


async def live(directory: Path, seed: int, *, steps: int) -> World:
    """Live one random life, several starts long; return the world at its end."""
    world = World(directory, seed)
    choose = world.random
    plain: list[Callable[[], None]] = [
        *[world.append] * 10, *[world.end_turn] * 6, *[world.work] * 8, *[world.deliver] * 6,
        world.fetch, world.check_disk, world.pass_time, world.pass_time,
    ]  # fmt: skip
    rare: list[Callable[[], None]] = [
        world.fill_disk, world.check_disk, world.plant, world.configure, world.checkpoint,
    ]  # fmt: skip
    often, alone = choose.choice((0.02, 0.06, 0.2)), choose.choice((0.0, 0.04, 0.1))
    for _ in range(choose.randint(1, 4)):
        async with trio.open_nursery() as nursery:
            for _ in range(choose.randint(1, steps)):
                chance = choose.random()
                if chance < often:
                    choose.choice(rare)()
                elif chance < often + alone:
                    nursery.start_soon(choose.choice((world.delete, world.roll)))
                else:
                    choose.choice(plain)()
                for _ in range(3):
                    await trio.lowlevel.checkpoint()
            if choose.random() < 0.7:
                await world.settle()
                world.verify_settled()
                if world.partition.log.failed is None:
                    world.verify()
            else:
                world.is_killed = True
                world.offload.kill()
            nursery.cancel_scope.cancel()
        world.kill()
    return world
