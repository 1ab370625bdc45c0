"""broker.retention: rounds over real partitions; what goes, when, what is said of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import cast

import pytest
import trio
from trio.testing import MockClock

from logd.broker.context import Broker
from logd.broker.maintenance import Maintenance
from logd.broker.retention import SEGMENTS_PER_STEP
from logd.metrics import Histogram
from logd.units import DAY_MS, HOUR_MS
from tests.unit.retention_rig import LIMIT_MS, PickyFiles, RetentionRig


@pytest.fixture
def rig(directory: str) -> RetentionRig:
    return RetentionRig(directory)


# --- what goes ------------------------------------------------------------------------------------


def test_what_is_due_goes_and_the_rest_stays(rig: RetentionRig) -> None:
    """Whole segments, oldest first; an event, counts, and the files to be unlinked say so."""
    partition = rig.opened()
    rig.fill(partition, 2, age_ms=LIMIT_MS)
    rig.fill(partition, 2, age_ms=LIMIT_MS - 1)
    size = partition.log.size_bytes
    rig.run_round()
    assert (partition.log_start_offset, rig.bases()) == (8, [8, 12])
    assert partition.log.size_bytes == size // 2
    assert rig.metric("logd_retention_segments_deleted_total") == 2
    assert rig.metric("logd_retention_deleted_bytes_total") == size // 2
    (line,) = rig.events_of("log start offset advanced")
    assert "topic=t partition=0 from_offset=0 to_offset=8 reason=retention.ms segments=2" in line
    paths = [path for paths, _ in rig.later for path in paths]
    assert len(paths) == 6
    assert {delay_s for _, delay_s in rig.later} == {60.0}
    assert all(path.endswith(".deleted") and os.path.exists(path) for path in paths)
    rig.run_round()
    assert len(rig.events_of("log start offset advanced")) == 1


def test_an_idle_partition_keeps_nothing(rig: RetentionRig) -> None:
    """The active segment is rolled when all of it is due: that a log is idle saves no record."""
    partition = rig.opened()
    rig.append(partition, 0)
    rig.clock.pass_ms(LIMIT_MS - 1)
    rig.run_round()
    assert partition.log_start_offset == 0
    rig.clock.pass_ms(1)
    rig.run_round()
    assert (partition.log_start_offset, rig.bases(), partition.log.size_bytes) == (1, [1], 0)
    rig.append(partition, 0)
    assert partition.high_watermark == 2


def test_nothing_goes_without_a_limit_or_without_delete(rig: RetentionRig) -> None:
    """retention.ms=-1 and cleanup.policy=compact keep everything; compact,delete does not."""
    kept = [
        rig.opened("endless", retention_ms="-1"),
        rig.opened("compacted", cleanup_policy="compact", retention_bytes="0"),
    ]
    both = rig.opened("both", cleanup_policy="compact,delete")
    for partition in (*kept, both):
        rig.fill(partition, 3, age_ms=DAY_MS)
    rig.run_round()
    assert [partition.log_start_offset for partition in kept] == [0, 0]
    assert both.log_start_offset == 12


def test_the_size_counts_as_well(rig: RetentionRig) -> None:
    """retention.bytes, alone and with retention.ms: the event names both rules."""
    partition = rig.opened()
    rig.fill(partition, 1, age_ms=LIMIT_MS)
    rig.fill(partition, 3)
    segment_bytes = partition.log.size_bytes // 4
    rig.alter(retention_bytes=str(2 * segment_bytes))
    rig.run_round()
    assert (partition.log_start_offset, partition.log.size_bytes) == (8, 2 * segment_bytes)
    (line,) = rig.events_of("log start offset advanced")
    assert 'reason="retention.ms, retention.bytes"' in line


def test_what_the_server_keeps_for_itself_stays(rig: RetentionRig) -> None:
    """Committed offsets are in force however old their records are, whatever the topic says."""
    partition = rig.opened("__consumer_offsets", cleanup_policy="delete")
    rig.fill(partition, 3, age_ms=DAY_MS)
    rig.run_round()
    assert partition.log_start_offset == 0


@pytest.mark.parametrize(
    ("given", "limit_ms"),
    [
        ({"log.retention.hours": "2"}, 2 * HOUR_MS),
        ({"log.retention.hours": "2", "log.retention.minutes": "30"}, 30 * 60_000),
        ({"log.retention.minutes": "30", "log.retention.ms": "7000"}, 7000),
        ({"log.retention.hours": "2", "log.retention.ms": "-1"}, -1),
    ],
)
def test_the_servers_settings_are_in_kafkas_order(
    rig: RetentionRig, given: dict[str, str], limit_ms: int
) -> None:
    """ms before minutes before hours."""
    rig.server_settings = given
    assert rig.settings().retention_ms == limit_ms


def test_new_settings_hold_from_the_next_look_on(rig: RetentionRig) -> None:
    """retention.ms changed while running: longer keeps what was due, shorter deletes it."""
    partition = rig.opened()
    rig.fill(partition, 2, age_ms=LIMIT_MS)
    rig.alter(retention_ms=str(LIMIT_MS + 1))
    rig.run_round()
    assert partition.log_start_offset == 0
    rig.alter(retention_ms=str(LIMIT_MS))
    rig.run_round()
    assert partition.log_start_offset == 8


@pytest.mark.parametrize("step", ["disk", "delete"])
def test_what_was_decided_by_old_settings_is_decided_again(rig: RetentionRig, step: str) -> None:
    """Settings that change while it is decided, or while the deletion waits for a write: nothing
    goes by the old ones."""
    partition = rig.opened()
    rig.fill(partition, 2, age_ms=LIMIT_MS)

    async def alter_first(kind: str) -> None:
        if kind == step:
            rig.alter(retention_ms="-1")

    rig.offload.before = alter_first
    rig.run_round()
    assert partition.log_start_offset == 0


# --- in steps -------------------------------------------------------------------------------------


def test_a_long_backlog_goes_in_steps(rig: RetentionRig) -> None:
    """Each step deletes so many segments at the most, and appends are written in between."""
    partition = rig.opened()
    count = 3 * SEGMENTS_PER_STEP + 5
    rig.fill(partition, count, age_ms=LIMIT_MS)
    written: list[int] = []

    async def append_first(kind: str) -> None:
        if kind == "disk":
            rig.append(partition, 0)
            written.append(partition.high_watermark)

    rig.offload.before = append_first
    rig.run_round()
    assert partition.log_start_offset == 4 * count
    assert len(rig.events_of("log start offset advanced")) == 4
    assert len(written) == 5
    assert written == sorted(set(written))


def test_where_nothing_is_due_one_segment_is_looked_at(directory: str) -> None:
    """The oldest one, however many there are; and it is remembered."""
    files = PickyFiles()
    rig = RetentionRig(directory, files=files)
    partition = rig.opened()
    rig.fill(partition, 20)
    files.opened.clear()
    for segment in partition.log.segment_list.items[:-1]:
        segment.max_timestamp = None  # As after a start.
    for _ in range(3):
        rig.run_round()
    assert [path.rpartition(".")[2] for path in files.opened] == ["timeindex"]


def test_a_stop_ends_with_the_step_under_way(directory: str) -> None:
    """What is left is deleted after the next start; nothing is half deleted."""
    rig = RetentionRig(directory)
    partition = rig.opened()
    count = 2 * SEGMENTS_PER_STEP
    rig.fill(partition, count, age_ms=DAY_MS)

    async def stop_in_the_middle() -> None:
        async with trio.open_nursery() as nursery:
            began = trio.Event()

            async def tell(kind: str) -> None:
                if kind == "delete":
                    began.set()
                    await trio.lowlevel.checkpoint()

            rig.offload.before = tell
            nursery.start_soon(rig.retention.run)
            await began.wait()
            await rig.retention.stop()

    trio.run(stop_in_the_middle, clock=MockClock(autojump_threshold=0))
    assert partition.log_start_offset in (0, 4 * SEGMENTS_PER_STEP)
    assert not partition.log.is_deletion_unfinished
    after = RetentionRig(directory)
    partition = after.opened()
    after.run_round()
    assert (partition.log_start_offset, after.bases()) == (4 * count, [4 * count])


# --- beside others --------------------------------------------------------------------------------


async def test_deletions_and_appends_at_once_lose_nothing(rig: RetentionRig) -> None:
    """delete-records, two looks of retention and appends, all in the same moments: the log starts
    where the furthest of them wanted, and what is younger is all there."""
    partition = rig.opened()
    rig.fill(partition, 10, age_ms=LIMIT_MS)
    rig.fill(partition, 3)

    async def look() -> None:
        await rig.retention.delete_due(partition, ignore_clock_guard=False)

    async def append() -> None:
        for _ in range(20):
            rig.append(partition, 0)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        nursery.start_soon(append)
        nursery.start_soon(partition.delete_records, 45)
        nursery.start_soon(look)
        nursery.start_soon(partition.delete_records, 7)
    rig.settle()
    assert (partition.log_start_offset, partition.high_watermark) == (45, 72)
    assert rig.bases()[0] == 44
    assert not partition.log.is_deletion_unfinished
    assert rig.metric("logd_retention_segments_deleted_total") <= 10


async def test_a_topic_is_not_gone_before_its_deletion_under_way(rig: RetentionRig) -> None:
    """A thread that renames files by name must end before the name is another topic's."""
    partition = rig.opened()
    rig.fill(partition, 3, age_ms=LIMIT_MS)
    began, may_end = trio.Event(), trio.Event()
    order: list[str] = []

    async def wait(kind: str) -> None:
        if kind == "delete":
            began.set()
            await may_end.wait()
            order.append("deleted")

    rig.offload.before = wait

    async def retire() -> None:
        await partition.retire("the topic was deleted")
        order.append("retired")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.retention.run_round)
        await began.wait()
        nursery.start_soon(retire)
        await trio.testing.wait_all_tasks_blocked()
        may_end.set()
    assert order == ["deleted", "retired"]
    await rig.retention.run_round()
    assert not rig.problems()
    assert not rig.events_of("retention failed")


# --- lateness -------------------------------------------------------------------------------------


def test_lateness_is_how_long_ago_the_oldest_was_due(rig: RetentionRig) -> None:
    """0 while nothing is due; it grows with the clock and the next round sets it back."""
    partition = rig.opened()
    rig.fill(partition, 2, age_ms=LIMIT_MS - 1000)
    rig.run_round()
    assert rig.metric("logd_retention_lateness_seconds") == 0
    rig.clock.pass_ms(1500)
    assert rig.metric("logd_retention_lateness_seconds") == 0.5
    rig.run_round()
    assert rig.metric("logd_retention_lateness_seconds") == 0
    assert partition.log_start_offset == 8


@pytest.mark.parametrize("check_ms", [100, 1000, 60_000])
async def test_lateness_is_bounded_by_the_check_interval(
    directory: str, autojump_clock: MockClock, check_ms: int
) -> None:
    """Idle partitions that got their last record at different times: each loses it, active segment
    and all, no later than one interval after it was due."""
    rig = RetentionRig(directory, check_ms=check_ms)
    partitions = [rig.opened(f"t{number}") for number in range(5)]
    due_ms = {}
    for number, partition in enumerate(partitions):
        rig.append(partition, 137 * number)
        due_ms[partition] = rig.clock.now_ms() - 137 * number + LIMIT_MS
    late_ms: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.retention.run)
        while due_ms:
            await trio.sleep(0.010)
            gone = [partition for partition in due_ms if partition.log_start_offset == 1]
            late_ms += [rig.clock.now_ms() - due_ms.pop(partition) for partition in gone]
            assert rig.retention.lateness_ms() <= check_ms
        await rig.retention.stop()
    assert min(late_ms) >= 0
    assert max(late_ms) <= check_ms + 20


async def test_a_busy_partition_keeps_no_record_much_longer(
    directory: str, autojump_clock: MockClock
) -> None:
    """Appends without a pause, far from a full segment: no visible record is older than
    retention.ms, an eighth of it, and two checks."""
    rig = RetentionRig(directory, check_ms=500)
    partition = rig.opened(segment_offsets="1000000")
    made_ms: dict[int, int] = {}
    oldest_ms = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.retention.run)
        for offset in range(400):
            made_ms[offset] = rig.clock.now_ms()
            rig.append(partition, 0)
            await trio.sleep(0.1)
            age_ms = rig.clock.now_ms() - made_ms[partition.log_start_offset]
            oldest_ms = max(oldest_ms, age_ms)
        await rig.retention.stop()
    assert partition.log_start_offset > 200
    assert LIMIT_MS <= oldest_ms <= LIMIT_MS + LIMIT_MS // 8 + 2 * 500


# --- failures -------------------------------------------------------------------------------------


def test_a_partition_that_fails_does_not_stop_the_others(directory: str) -> None:
    """No space in one of three: the others go; status and metric name it and why; its lateness
    grows; with space it is finished, and all is well again."""
    files = PickyFiles()
    rig = RetentionRig(directory, files=files)
    partitions = [rig.opened(name) for name in ("a", "b", "c")]
    for partition in partitions:
        rig.fill(partition, 3, age_ms=LIMIT_MS - 1000)
    rig.run_round()
    rig.clock.pass_ms(3000)
    files.failing["rename", "/b-0/"] = errno.ENOSPC
    for _ in range(3):
        rig.run_round()
    assert [partition.log_start_offset for partition in partitions] == [12, 0, 12]
    assert rig.metric("logd_retention_failed_partitions") == 1
    assert rig.metric("logd_retention_lateness_seconds") == 2
    (problem,) = rig.problems()
    assert (problem.kind, problem.topic, problem.partition) == ("retention_failed", "b", 0)
    assert "No space left on device" in problem.message
    assert len(rig.events_of("retention failed")) == 1
    files.failing.clear()
    rig.run_round()
    assert partitions[1].log_start_offset == 12
    assert not rig.problems()
    assert rig.metric("logd_retention_failed_partitions") == 0
    assert rig.metric("logd_retention_lateness_seconds") == 0


def test_a_full_disk_is_what_retention_is_for(directory: str) -> None:
    """Deleting needs a little space itself: the ballast's, which is given up for it."""
    files = PickyFiles()
    rig = RetentionRig(directory, files=files)
    partition = rig.opened()
    rig.fill(partition, 3, age_ms=LIMIT_MS)
    files.failing["create_or_truncate", "log-start-offset"] = errno.ENOSPC
    given_up = 0

    @contextmanager
    def lend_ballast() -> Iterator[None]:
        nonlocal given_up
        given_up += 1
        files.failing.clear()
        yield

    rig.services.lend_ballast = lend_ballast
    rig.run_round()
    assert (partition.log_start_offset, given_up, rig.problems()) == (12, 1, [])


def test_an_idle_log_that_cannot_be_rolled_does_not_stop_the_others(directory: str) -> None:
    """The round of idle rolls: no space in one, an error in another, the third is rolled."""
    files = PickyFiles()
    rig = RetentionRig(directory, files=files)
    names = ("full", "broken", "well")
    partitions = {name: rig.opened(name, segment_ms="1000") for name in names}
    for partition in partitions.values():
        rig.append(partition, 0)
    rig.clock.pass_ms(2000)
    files.failing["create", "/full-0/"] = errno.ENOSPC
    files.failing["create", "/broken-0/"] = errno.EIO
    broker = SimpleNamespace(topics=rig.as_topics, events=rig.events)
    maintenance = Maintenance(
        cast("Broker", broker), rig.services, lag=Histogram([1]), ensure_ballast=lambda: True
    )
    for _ in range(2):
        trio.run(maintenance.roll)
    assert {name: rig.bases(name)[-1] for name in names} == {"full": 0, "broken": 0, "well": 1}
    offline = {name for name, partition in partitions.items() if partition.offline is not None}
    assert offline == {"broken"}
    assert len(rig.events_of("idle log not rolled")) == 3
    files.failing.clear()
    trio.run(maintenance.roll)
    assert rig.bases("full")[-1] == 1


def test_a_disk_error_takes_only_its_partition_offline(directory: str) -> None:
    """EIO in one: it serves nothing more, which status says of it anyway; the others go on."""
    files = PickyFiles()
    rig = RetentionRig(directory, files=files)
    partitions = [rig.opened(name) for name in ("a", "b", "c")]
    for partition in partitions:
        rig.fill(partition, 3, age_ms=LIMIT_MS)
    files.failing["rename", "/b-0/"] = errno.EIO
    rig.run_round()
    rig.run_round()
    assert [partition.log_start_offset for partition in partitions] == [12, 0, 12]
    assert partitions[1].offline is not None
    assert len(rig.events_of("partition offline")) == 1
    assert not rig.problems()


def test_what_nobody_foresaw_does_not_stop_the_others(
    rig: RetentionRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in the program, in one partition: reported there; the round goes on."""
    bad, good = rig.opened("bad"), rig.opened("good")
    for partition in (bad, good):
        rig.fill(partition, 3, age_ms=LIMIT_MS)
    monkeypatch.setattr(bad.log, "oldest_segments", None)
    rig.run_round()
    assert good.log_start_offset == 12
    (problem,) = rig.problems()
    assert problem.topic == "bad"


def test_a_segment_that_cannot_be_read_is_a_failure_not_a_guess(directory: str) -> None:
    """Without its timestamps nobody knows whether it is due: it stays, and that is said."""
    files = PickyFiles()
    rig = RetentionRig(directory, files=files)
    partition = rig.opened()
    rig.fill(partition, 3, age_ms=LIMIT_MS)
    partition.log.segment_list.items[0].max_timestamp = None
    files.failing["open_read", ".timeindex"] = errno.EIO
    rig.run_round()
    assert partition.log_start_offset == 0
    (problem,) = rig.problems()
    assert "Input/output error" in problem.message
    files.failing.clear()
    rig.run_round()
    assert (partition.log_start_offset, rig.problems()) == (12, [])


async def test_a_round_that_fails_does_not_end_the_rounds(
    rig: RetentionRig, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task lives as long as the server."""
    partition = rig.opened()
    rig.fill(partition, 3, age_ms=LIMIT_MS)
    found, calls = rig.as_topics.open_partitions, 0

    def fail_first() -> object:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("planted")
        return found()

    monkeypatch.setattr(rig.as_topics, "open_partitions", fail_first)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.retention.run)
        await trio.sleep(2.5)
        await rig.retention.stop()
    assert partition.log_start_offset == 12
    assert len(rig.events_of("retention round failed")) == 1


def test_what_is_forgotten_of_partitions_that_are_gone(rig: RetentionRig) -> None:
    """A topic that was deleted is neither late nor failed nor held."""
    rig.append(rig.opened("late"), LIMIT_MS - 1)
    rig.append(rig.opened("held"), -DAY_MS)
    rig.run_round()
    rig.clock.pass_ms(5000)
    assert rig.metric("logd_retention_lateness_seconds") > 0
    rig.topics.clear()
    rig.run_round()
    assert rig.metric("logd_retention_lateness_seconds") == 0
    assert rig.metric("logd_retention_held_partitions") == 0
    assert not rig.problems()
