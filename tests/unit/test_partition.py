"""What a partition promises: who is answered when, and what a reader may see."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest

from logd.broker.disk_space import DiskSpace
from logd.broker.partition import Partition
from logd.broker.services import PartitionServices, partition_metrics
from logd.broker.timers import Timers
from logd.broker.turn import Turn
from logd.clock import Clock
from logd.config import TopicSettings, load_server_settings, topic_settings
from logd.errors import (
    DiskFullError,
    InvalidRecordError,
    LogFailedError,
    MessageTooLargeError,
    OutOfOrderSequenceError,
    StorageError,
)
from logd.events import EventLog
from logd.metrics import Registry
from logd.offload import InlineOffload
from logd.record.build import encode_batch
from logd.storage.files import Buffer, Files, OpenFile
from logd.storage.log import Log
from logd.storage.log_settings import LogSettings
from logd.storage.sync_journal import SyncJournal

TOPIC_ID = bytes(range(16))


class FaultyFiles(Files):
    """The real files, but the next write or sync can be told to fail."""

    def __init__(self) -> None:
        self.fail_write: int | None = None
        self.fail_new_segment = False
        self.fail_sync: int | None = None
        self.before_write: Callable[[], None] | None = None
        self.syncs = 0

    def write_at(self, file: OpenFile, position: int, buffers: Sequence[Buffer]) -> int:
        if self.before_write is not None and file.path.endswith(".log"):
            call, self.before_write = self.before_write, None
            call()
        if self.fail_new_segment and file.path.endswith(".log") and position == 0:
            raise OSError(errno.ENOSPC, "planted")
        if self.fail_write is not None and file.path.endswith(".log"):
            super().write_at(file, position, [bytes(b)[: len(b) // 2] for b in buffers])
            number, self.fail_write = self.fail_write, None
            raise ValueError("a bug") if number < 0 else OSError(number, "planted")
        return super().write_at(file, position, buffers)

    def sync_data(self, file: OpenFile) -> None:
        if file.path.endswith(".log"):
            self.syncs += 1
            if self.fail_sync is not None:
                number, self.fail_sync = self.fail_sync, None
                raise OSError(number, "planted")
        super().sync_data(file)


class SlowClock(Clock):
    """Whatever is measured takes a second."""

    seconds = 0.0

    def monotonic(self) -> float:
        self.seconds += 1
        return self.seconds


class Later(Timers):
    """Timers that fire when the test says so."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self.calls.append(callback)

    def fire(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call()


class Waiter:
    """Remembers how its append ended."""

    def __init__(self, name: str, order: list[str]) -> None:
        self.name = name
        self.order = order
        self.append_time_ms = -1
        self.base_offset: int | None = None
        self.error: Exception | None = None

    def appended(self, base_offset: int) -> None:
        assert (self.base_offset, self.error) == (None, None)
        self.base_offset = base_offset
        self.order.append(self.name)

    def refused(self, error: Exception) -> None:
        assert (self.base_offset, self.error) == (None, None)
        self.error = error


class Woken:
    """A fetch that counts how often it was woken."""

    count = 0

    def wake(self) -> None:
        self.count += 1


class Fixture:
    """One partition on a real log, with threads and timers in the test's hand."""

    def __init__(self, path: Path, **overrides: str) -> None:
        self.files = FaultyFiles()
        self.offload = InlineOffload()
        self.timers = Later()
        self.turn = Turn()
        self.turn.now_ms = 1_000_000
        self.order: list[str] = []
        # Whom each turn that was ended from elsewhere had to wake.
        self.turns: list[list[object]] = []
        self.disk = DiskSpace(reserve_bytes=0)
        journal = SyncJournal.open(
            self.files, str(path / "sync.journal"), boot_id="b" * 32, partitions_hint=1
        )
        self.services = PartitionServices(
            clock=Clock(),
            offload=self.offload,
            timers=self.timers,
            turn=self.turn,
            files=self.files,
            journal=journal,
            disk=self.disk,
            events=EventLog(io.StringIO(), "text", Clock()),
            metrics=partition_metrics(Registry()),
            unsynced_max_bytes=1000,
            end_turn=lambda: self.turns.append(list(self.turn.woken)),
            unlink_later=lambda paths, delay_s: None,
            lend_ballast=nullcontext,
        )
        log = Log.create(
            self.files,
            str(path / "t-0"),
            topic_id=TOPIC_ID,
            topic="t",
            partition=0,
            settings=LogSettings(),
            open_files=None,
        )
        self.partition = Partition(
            log, index=0, settings=settings(**overrides), services=self.services
        )

    def append(self, name: str = "a", *, acks_all: bool = True, **fields: int) -> Waiter:
        batch = encode_batch([(b"k", b"v" * 100, [], 1_000_000)], **fields)
        waiter = Waiter(name, self.order)
        self.partition.intake.append(batch, 0, len(batch), waiter=waiter, wants_sync=acks_all)
        return waiter

    def settle(self) -> None:
        """Write, sync and deliver until nothing is left to do."""
        while self.turn.touched or self.offload.in_flight:
            self.turn.flush()
            self.offload.deliver()


def settings(**overrides: str) -> TopicSettings:
    config = load_server_settings(file=None, environment={}, flags={})
    return topic_settings(
        config.settings, {name.replace("_", "."): value for name, value in overrides.items()}
    )


@pytest.fixture
def fixture(tmp_path: Path) -> Fixture:
    return Fixture(tmp_path)


def test_acks_all_waits_for_the_sync_and_acks_1_for_the_write(fixture: Fixture) -> None:
    """Promise 1: after the write only acks=1 is answered; acks=all after the sync returned."""
    durable = fixture.append("durable", acks_all=True)
    quick = fixture.append("quick", acks_all=False)
    assert (durable.base_offset, quick.base_offset) == (None, None)
    fixture.turn.flush()
    assert (durable.base_offset, quick.base_offset) == (None, 1)
    fixture.offload.deliver()
    assert durable.base_offset == 0


def test_high_watermark_moves_only_with_the_sync(fixture: Fixture) -> None:
    """Promise 2: written bytes are not visible before they are synced."""
    fixture.append(acks_all=False)
    fixture.turn.flush()
    assert fixture.partition.log.written_offset == 1
    assert fixture.partition.high_watermark == 0
    fixture.timers.fire()
    fixture.offload.deliver()
    assert fixture.partition.high_watermark == 1


def test_appends_during_a_sync_share_the_next_one(fixture: Fixture) -> None:
    """Group commit: one sync in flight; what comes meanwhile rides on the one after it."""
    fixture.append("first")
    fixture.turn.flush()
    for number in range(10):
        fixture.append(f"later {number}")
        fixture.turn.flush()
    assert fixture.files.syncs == 1
    fixture.settle()
    assert fixture.files.syncs == 2
    assert len(fixture.order) == 11
    assert fixture.order[0] == "first"


def test_waiting_fetch_is_woken_by_the_sync_not_by_the_write(fixture: Fixture) -> None:
    """A consumer hears of data when it may see it; its waiting makes the sync start at once."""
    fetch = Woken()
    fixture.partition.wait_for_data(fetch)
    fixture.append(acks_all=False)
    fixture.turn.flush()
    assert not fixture.turn.woken
    fixture.offload.deliver()
    assert fixture.turn.woken == [fetch]


def test_duplicate_is_answered_with_the_first_offset_after_the_originals_sync(
    fixture: Fixture,
) -> None:
    """A retried batch is not appended again, and not acknowledged before the original is
    durable.
    """
    producer = {"producer_id": 7, "producer_epoch": 0, "base_sequence": 0}
    original = fixture.append("original", **producer)
    staged_copy = fixture.append("copy of staged", **producer)
    fixture.turn.flush()
    written_copy = fixture.append("copy of written", **producer)
    assert (original.base_offset, staged_copy.base_offset, written_copy.base_offset) == (
        None, None, None,
    )  # fmt: skip
    fixture.settle()
    synced_copy = fixture.append("copy of synced", **producer)
    assert {w.base_offset for w in (original, staged_copy, written_copy, synced_copy)} == {0}
    assert fixture.partition.log.end_offset == 1


def test_gap_in_the_sequence_is_refused_and_changes_nothing(fixture: Fixture) -> None:
    """Out-of-order batches are refused; the right next one is taken."""
    fixture.append("a", producer_id=7, producer_epoch=0, base_sequence=0)
    with pytest.raises(OutOfOrderSequenceError):
        fixture.append("b", producer_id=7, producer_epoch=0, base_sequence=5)
    fixture.append("c", producer_id=7, producer_epoch=0, base_sequence=1)
    fixture.settle()
    assert fixture.order == ["a", "c"]


def test_full_disk_refuses_what_was_staged_and_reuses_its_offsets(fixture: Fixture) -> None:
    """ENOSPC: everybody who waits is told; the log is unchanged and takes appends again later."""
    fixture.append("kept")
    fixture.settle()
    fixture.files.fail_write = errno.ENOSPC
    producer = {"producer_id": 7, "producer_epoch": 0, "base_sequence": 0}
    refused = fixture.append("refused", **producer)
    fixture.settle()
    assert isinstance(refused.error, DiskFullError)
    with pytest.raises(DiskFullError):
        fixture.append("while full")
    fixture.disk.checked(10**9)
    again = fixture.append("again", **producer)
    fixture.settle()
    assert again.base_offset == 1


def test_what_follows_a_refused_first_batch_is_not_taken_before_it(fixture: Fixture) -> None:
    """A new idempotent producer, and space comes back between two of its batches: no record is
    lost.
    """
    fixture.disk.found_full("planted")
    with pytest.raises(DiskFullError):
        fixture.append(producer_id=7, producer_epoch=0, base_sequence=0)
    fixture.disk.checked(10**9)
    with pytest.raises(OutOfOrderSequenceError):
        fixture.append(producer_id=7, producer_epoch=0, base_sequence=1)
    waiters = [
        fixture.append(producer_id=7, producer_epoch=0, base_sequence=sequence)
        for sequence in range(2)
    ]
    fixture.settle()
    assert [waiter.base_offset for waiter in waiters] == [0, 1]


def test_what_a_roll_synced_before_the_disk_was_full_is_acknowledged_and_visible(
    tmp_path: Path,
) -> None:
    """A write over two segments, and no space in the second: what is in the first can be read."""
    fixture = Fixture(tmp_path, segment_bytes="1024")
    fetch = Woken()
    fixture.append("kept")
    fixture.settle()
    fixture.partition.wait_for_data(fetch)
    fixture.files.fail_new_segment = True
    waiters = [fixture.append(str(number)) for number in range(12)]
    fixture.settle()
    kept = [waiter for waiter in waiters if waiter.error is None]
    assert 0 < len(kept) < len(waiters), "the roll was inside"
    assert [waiter.base_offset for waiter in kept] == list(range(1, len(kept) + 1))
    assert fixture.partition.high_watermark == len(kept) + 1
    assert fixture.turn.woken == [fetch]


async def test_what_an_idle_roll_synced_is_visible(tmp_path: Path) -> None:
    """acks=1, and the log rolls by its age before the sync behind it: nobody syncs it again."""
    fixture = Fixture(tmp_path, segment_ms="1000")
    fixture.append(acks_all=False)
    fixture.turn.flush()
    await fixture.partition.roll_if_due(2_000_000)
    assert fixture.partition.log.segment_list.active.base_offset == 1, "it rolled"
    assert fixture.partition.high_watermark == 0
    fixture.timers.fire()
    fixture.settle()
    assert fixture.partition.high_watermark == 1


@pytest.mark.parametrize("fault", ["fail_write", "fail_sync"])
def test_failed_write_or_sync_takes_this_log_offline_for_good(fixture: Fixture, fault: str) -> None:
    """Nobody who waits is acknowledged, the sync is not tried again, and appends are refused."""
    setattr(fixture.files, fault, errno.EIO)
    fetch = Woken()
    fixture.partition.wait_for_data(fetch)
    waiter = fixture.append()
    fixture.settle()
    syncs = fixture.files.syncs
    assert isinstance(waiter.error, LogFailedError)
    assert fixture.partition.offline is not None
    assert fixture.partition.high_watermark == 0
    assert fixture.turn.woken == [fetch]
    with pytest.raises(StorageError):
        fixture.append()
    fixture.settle()
    fixture.timers.fire()
    fixture.settle()
    assert fixture.files.syncs == syncs


def test_bug_of_ours_in_a_write_costs_that_log_and_not_the_server(fixture: Fixture) -> None:
    """On the loop as in a thread; and nothing of the log is used any more, at the stop either."""
    fixture.files.fail_write = -1
    waiter = fixture.append()
    fixture.settle()
    assert isinstance(waiter.error, LogFailedError)
    assert fixture.partition.offline is not None
    with pytest.raises(LogFailedError):
        fixture.partition.log.close()


def test_write_under_way_while_a_sync_fails_is_refused_and_nobody_pauses(fixture: Fixture) -> None:
    """A slow disk: the write returns when the loop has heard that the sync beside it failed."""
    fixture.services.clock = SlowClock()
    for _ in range(9):
        fixture.append(acks_all=False)
    fixture.turn.flush()
    assert fixture.partition.is_congested

    def fail_sync_beside() -> None:
        fixture.files.fail_sync = errno.EIO
        fixture.partition.when_decongested(lambda: None)  # A sync begins.
        fixture.offload.deliver()
        assert fixture.partition.offline is not None

    waiter = fixture.append()
    fixture.offload.deliver()
    fixture.append(acks_all=False)
    fixture.files.before_write = fail_sync_beside
    fixture.settle()
    assert isinstance(waiter.error, LogFailedError)
    assert not fixture.partition.is_congested, "no sync will ever end that"


def test_checkpoint_that_hears_of_a_failed_sync_takes_the_partition_offline(
    fixture: Fixture,
) -> None:
    """It syncs the log as well; whoever waits is told, and so is the operator."""
    fetch = Woken()
    fixture.append(acks_all=False)
    fixture.turn.flush()
    fixture.files.fail_sync = errno.EIO
    fixture.partition.take_checkpoint()
    fixture.partition.wait_for_data(fetch)
    fixture.settle()
    assert fixture.partition.offline is not None
    assert fixture.turn.woken == [fetch]


async def test_acks_all_that_was_promised_a_sync_is_told_when_flush_mode_changes(
    fixture: Fixture,
) -> None:
    """Staged under flush.mode=commit, written under os: the sync still comes, and the answer."""
    async with fixture.partition.exclusive():
        waiter = fixture.append()
        fixture.turn.flush()
        fixture.partition.apply_settings(settings(flush_mode="os"))
    fixture.settle()
    assert waiter.base_offset == 0
    assert fixture.files.syncs == 1


def test_flush_mode_os_acknowledges_and_shows_what_is_written(tmp_path: Path) -> None:
    """Asked for by the topic: acks and high watermark follow the write."""
    fixture = Fixture(tmp_path, flush_mode="os")
    waiter = fixture.append()
    fixture.turn.flush()
    assert waiter.base_offset == 0
    assert fixture.partition.high_watermark == 1
    assert fixture.files.syncs == 0


def test_flush_mode_interval_syncs_later_and_acknowledges_at_once(tmp_path: Path) -> None:
    """The interval's timer starts the sync that nobody waits for."""
    fixture = Fixture(tmp_path, flush_mode="interval")
    waiter = fixture.append()
    fixture.turn.flush()
    assert waiter.base_offset == 0
    assert fixture.files.syncs == 0
    fixture.timers.fire()
    assert fixture.files.syncs == 1


def test_too_much_unsynced_data_makes_producers_pause_until_the_sync(fixture: Fixture) -> None:
    """Unsynced bytes are bounded: the partition says so, and says when it is over."""
    resumed: list[bool] = []
    for _ in range(6):
        fixture.append(acks_all=False)
    fixture.turn.flush()
    assert not fixture.offload.in_flight
    assert fixture.partition.is_congested
    fixture.partition.when_decongested(lambda: resumed.append(True))
    assert not resumed
    fixture.offload.deliver()
    assert resumed == [True]
    assert not fixture.partition.is_congested


async def test_what_piles_up_while_somebody_has_the_log_makes_producers_pause(
    fixture: Fixture,
) -> None:
    """Also where nothing writes: what waits for the end of a deletion is bounded, and written."""
    resumed: list[bool] = []
    async with fixture.partition.exclusive():
        waiters = [fixture.append(acks_all=False) for _ in range(9)]
        fixture.turn.flush()
        assert fixture.partition.is_congested
        fixture.partition.when_decongested(lambda: resumed.append(True))
        assert not resumed
    fixture.settle()
    fixture.timers.fire()  # Nobody waits for the sync: it comes a little later.
    fixture.settle()
    assert resumed == [True]
    assert not fixture.partition.is_congested
    assert [waiter.base_offset for waiter in waiters] == list(range(9))


def test_log_append_time_is_the_servers(tmp_path: Path) -> None:
    """The waiter learns the time that was stamped, and the stored batch carries it."""
    fixture = Fixture(tmp_path, message_timestamp_type="LogAppendTime")
    fixture.turn.now_ms = 5_555_555
    waiter = fixture.append()
    fixture.settle()
    assert waiter.append_time_ms == 5_555_555
    assert fixture.partition.log.max_timestamp(below=1) == (0, 5_555_555)


def test_limits_are_the_topics_and_change_without_a_restart(fixture: Fixture) -> None:
    """max.message.bytes is enforced; altered, the very next batch meets the new limit."""
    fixture.partition.apply_settings(settings(max_message_bytes="150"))
    with pytest.raises(MessageTooLargeError):
        fixture.append()
    fixture.partition.apply_settings(settings())
    fixture.append()


def test_compacted_topics_refuse_records_without_a_key(tmp_path: Path) -> None:
    """Small batches are refused at once, large ones after their check, in the order of arrival."""
    fixture = Fixture(tmp_path, cleanup_policy="compact")
    null_key = encode_batch([(None, b"v", [], 1_000_000)])
    with pytest.raises(InvalidRecordError):
        fixture.partition.intake.append(
            null_key, 0, len(null_key), waiter=Waiter("null", fixture.order), wants_sync=True
        )
    large = encode_batch([(b"k", b"v", [], 1_000_000)] * 3000)
    first = Waiter("large", fixture.order)
    fixture.partition.intake.append(large, 0, len(large), waiter=first, wants_sync=True)
    second = fixture.append("small behind it")
    large_null = encode_batch([(None, b"v", [], 1_000_000)] * 3000)
    third = Waiter("null", fixture.order)
    fixture.partition.intake.append(large_null, 0, len(large_null), waiter=third, wants_sync=True)
    fixture.settle()
    assert (first.base_offset, second.base_offset) == (0, 3000)
    assert isinstance(third.error, InvalidRecordError)


def test_what_waits_for_its_check_keeps_its_place_when_the_topic_is_compacted_no_more(
    fixture: Fixture,
) -> None:
    """What comes after the change stands behind it, as its producer sent it."""
    fixture.partition.apply_settings(settings(cleanup_policy="compact"))
    large = encode_batch([(b"k", b"v", [], 1_000_000)] * 3000)
    first = Waiter("large", fixture.order)
    fixture.partition.intake.append(large, 0, len(large), waiter=first, wants_sync=True)
    fixture.partition.apply_settings(settings())
    second = fixture.append("small behind it")
    fixture.settle()
    assert (first.base_offset, second.base_offset) == (0, 3000)


def test_producers_go_on_when_what_they_were_paused_for_is_refused(fixture: Fixture) -> None:
    """Nothing is written of batches that fail their check; they are in nobody's way any more."""
    fixture.partition.apply_settings(settings(cleanup_policy="compact"))
    resumed: list[bool] = []
    fixture.append()
    fixture.turn.flush()  # The end of its sync is when congestion is looked at next.
    large = encode_batch([(None, b"v", [], 1_000_000)] * 3000)
    null = Waiter("null", fixture.order)
    fixture.partition.intake.append(large, 0, len(large), waiter=null, wants_sync=True)
    fixture.partition.when_decongested(lambda: resumed.append(True))
    fixture.settle()
    assert isinstance(null.error, InvalidRecordError)
    assert resumed == [True]
    assert not fixture.partition.is_congested


async def test_delete_records_waits_for_writes_and_lets_appends_go_on(fixture: Fixture) -> None:
    """The new start is what a reader sees next; what was appended stays."""
    for _ in range(5):
        fixture.append()
    fixture.settle()
    assert await fixture.partition.delete_records(3) == 3
    assert fixture.partition.log_start_offset == 3
    waiter = fixture.append()
    fixture.settle()
    assert waiter.base_offset == 5


async def test_a_new_log_start_wakes_who_waits_at_once(fixture: Fixture) -> None:
    """A long poll below the new start is told so now, not with somebody else's next request."""
    for _ in range(5):
        fixture.append()
    fixture.settle()
    fetch = Woken()
    fixture.partition.wait_for_data(fetch)
    await fixture.partition.delete_records(3)
    assert fixture.turns[-1] == [fetch]
