"""The scheduler of compaction: whose turn it is, and what becomes of failures."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import trio
from trio.testing import MockClock

from logd.broker.cleaning import CleaningFailedError
from logd.broker.worker import WorkerError, WorkerNotStartedError
from logd.errors import LogFailedError, SegmentsChangedError
from logd.units import GIB, MIB
from tests.unit.scheduler_rig import NOW_MS, Rig, until


async def test_the_most_pressing_partition_comes_first(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Overdue before dirty, the dirtier before the dirty; what is clean enough has no turn."""
    rig = Rig(tmp_path)
    a, b, c = rig.topic("t", 3)
    (overdue,) = rig.topic("u", max_compaction_lag_ms="500")
    rig.dirty(a, clean=60, dirty=40)
    rig.dirty(b, clean=10, dirty=90)
    rig.dirty(c, clean=40, dirty=60)
    rig.dirty(overdue, clean=90, dirty=10)
    async with rig.running():
        await trio.sleep(1)
    assert rig.cleaner.names == ["u-0", "t-1", "t-2"]
    assert rig.cleaner.most_running == 1


async def test_as_many_rounds_at_a_time_as_threads(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """log.cleaner.threads rounds run at the same time, and share the memory and the I/O."""
    rig = Rig(
        tmp_path,
        log_cleaner_threads="3",
        log_cleaner_dedupe_buffer_size="90MiB",
        log_cleaner_io_max_bytes_per_second="3000000",
    )
    for partition in rig.topic("t", 5):
        rig.dirty(partition)
    async with rig.running():
        await trio.sleep(1)
    assert sorted(rig.cleaner.names) == [f"t-{n}" for n in range(5)]
    assert rig.cleaner.most_running == 3
    order, memory_bytes = rig.cleaner.orders[0]
    assert order.limits.key_map_bytes == 30 * MIB
    assert order.limits.io_bytes_per_s == 1_000_000
    assert memory_bytes == 158 * MIB
    assert order.limits.reserve_bytes > rig.disk.reserve_bytes
    assert len({order.attempt for order, _ in rig.cleaner.orders}) == 5


async def test_more_memory_is_for_larger_batches(tmp_path: Path, autojump_clock: MockClock) -> None:
    """log.cleaner.memory.max.bytes beyond the keys' share lets larger batches be decompressed."""
    for limit, keys, batch in (("192MiB", 64, 40), ("1GiB", 128, 1024 - 128 - 88)):
        rig = Rig(tmp_path, log_cleaner_memory_max_bytes=limit)
        (partition,) = rig.topic("t" + limit)
        rig.dirty(partition)
        async with rig.running():
            await trio.sleep(1)
        order, _ = rig.cleaner.orders[0]
        assert order.limits.key_map_bytes == keys * MIB
        assert order.limits.batch_memory_bytes == batch * MIB
        assert order.limits.io_bytes_per_s == 0


async def test_nothing_is_compacted_while_switched_off(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """With log.cleaner.enable=false, or no threads, only who asks gets a round."""
    for setting in ({"log_cleaner_enable": "false"}, {"log_cleaner_threads": "0"}):
        rig = Rig(tmp_path, **setting)
        (partition,) = rig.topic("t" + next(iter(setting))[-6:].replace("_", "-"))
        rig.dirty(partition)
        async with rig.running():
            await trio.sleep(100)
            assert rig.cleaner.names == []
            assert rig.metric(f'logd_compaction_dirty_bytes{{topic="{partition.topic_name}"}}') > 0
            rig.compaction.request(partition.topic_name, None)
            await trio.sleep(1)
        assert len(rig.cleaner.names) == 1


async def test_a_topic_that_only_deletes_is_left_alone(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """cleanup.policy decides."""
    rig = Rig(tmp_path)
    (partition,) = rig.topic("t", cleanup_policy="delete")
    rig.dirty(partition)
    async with rig.running():
        await trio.sleep(100)
    assert rig.cleaner.names == []


async def test_a_failing_partition_does_not_stop_others(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """It is set aside with its reason, and tried again later and later; the others go on."""
    rig = Rig(tmp_path)
    bad, good = rig.topic("t", 2)
    rig.dirty(bad, dirty=100)
    rig.dirty(good, clean=20, dirty=80)
    async with rig.running():
        rig.cleaner.fail["t-0"] = WorkerError("it was killed by signal 11")
        await trio.sleep(1)
        assert rig.cleaner.names == ["t-0", "t-1"]
        assert rig.files_of(bad) == []
        (problem,) = rig.compaction.problems()
        assert (problem.kind, problem.severity) == ("compaction_failed", "warning")
        assert (problem.topic, problem.partition) == ("t", 0)
        assert "signal 11" in problem.message
        assert rig.metric("logd_compaction_failed_partitions") == 1
        rig.cleaner.fail["t-0"] = WorkerError("again")
        await trio.sleep(80)
        assert rig.cleaner.names.count("t-0") == 2
        await trio.sleep(80)
        assert rig.cleaner.names.count("t-0") == 2, "twice as long"
        await trio.sleep(60)
        assert rig.cleaner.names.count("t-0") == 3
    assert rig.kinds() == []
    assert rig.metric("logd_compaction_failed_partitions") == 0
    assert rig.metric('logd_compaction_rounds_total{outcome="failed"}') == 2
    assert rig.metric('logd_compaction_rounds_total{outcome="done"}') == 2


async def test_damage_that_a_round_meets_is_damage(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A batch that cannot be read makes `status` say that data is at risk."""
    rig = Rig(tmp_path)
    (partition,) = rig.topic("t")
    rig.dirty(partition)
    rig.cleaner.fail["t-0"] = CleaningFailedError("damaged", "x.log at 5: wrong CRC")
    async with rig.running():
        await trio.sleep(1)
    (problem,) = rig.compaction.problems()
    assert problem.severity == "damage"


async def test_a_log_that_cannot_be_looked_at_does_not_stop_others(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """An unreadable segment is one partition's failure."""
    rig = Rig(tmp_path)
    bad, good = rig.topic("t", 2)
    rig.dirty(bad).fail_facts = OSError(5, "planted")
    rig.dirty(good)
    async with rig.running():
        await trio.sleep(1)
        assert rig.cleaner.names == ["t-1"]
        assert rig.kinds() == ["compaction_failed"]
        await trio.sleep(80)
    assert rig.cleaner.names == ["t-1", "t-0"]


async def test_records_deleted_meanwhile_are_no_failure(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The round was in vain; its files are removed, and the next one begins with what is there."""
    rig = Rig(tmp_path)
    (partition,) = rig.topic("t")
    log = rig.dirty(partition)
    log.fail_replace = SegmentsChangedError("planted")
    async with rig.running():
        await trio.sleep(1)
        assert rig.kinds() == []
        assert rig.files_of(partition) == []
        rig.cleaner.fail["t-0"] = CleaningFailedError("gone", "no such file")
        await trio.sleep(20)
        assert len(rig.cleaner.names) == 2
        await trio.sleep(20)
    assert [order.attempt for order in log.replaced] == [rig.cleaner.orders[2][0].attempt]
    assert rig.metric('logd_compaction_rounds_total{outcome="outdated"}') == 2


async def test_a_segment_that_stays_away_is_a_failure(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A file that somebody removed is not taken for a deletion again and again."""
    rig = Rig(tmp_path)
    (partition,) = rig.topic("t")
    rig.dirty(partition)
    gone = CleaningFailedError("gone", "no such file: 5.log")
    rig.cleaner.fail["t-0"] = gone
    async with rig.running():
        await trio.sleep(1)
        for number in range(1, 5):
            assert len(rig.cleaner.names) == number
            assert rig.kinds() == []
            rig.cleaner.fail["t-0"] = gone
            await trio.sleep(15)
        assert len(rig.cleaner.names) == 5
    assert rig.kinds() == ["compaction_failed"]


async def test_without_an_interpreter_nobody_is_set_aside(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """That no process can be started is one problem, and over when one could."""
    rig = Rig(tmp_path)
    (partition,) = rig.topic("t")
    rig.dirty(partition)
    rig.cleaner.fail["t-0"] = WorkerNotStartedError("no interpreter")
    async with rig.running():
        await trio.sleep(1)
        assert rig.kinds() == ["compaction_not_running"]
        assert rig.metric("logd_compaction_failed_partitions") == 0
        await trio.sleep(20)
    assert rig.kinds() == []
    assert len(rig.cleaner.names) == 2


async def test_the_scheduler_survives_its_own_faults(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """An exception that nobody foresaw is told, and the next look is made."""
    rig = Rig(tmp_path)
    (partition,) = rig.topic("t")
    rig.dirty(partition)
    rig.topics.fail = RuntimeError("planted")
    async with rig.running():
        await trio.sleep(1)
        assert rig.cleaner.names == []
        await trio.sleep(20)
    assert rig.cleaner.names == ["t-0"]


async def test_stopping_cuts_rounds_short(tmp_path: Path, autojump_clock: MockClock) -> None:
    """`stop` returns when no round runs and nothing is left of it; the log is as it was."""
    rig = Rig(tmp_path)
    (partition,) = rig.topic("t")
    log = rig.dirty(partition)
    rig.cleaner.hold["t-0"] = trio.Event()
    async with rig.running():
        await until(lambda: rig.cleaner.running == ["t-0"])
        assert rig.files_of(partition) != []
        await rig.compaction.stop()
        assert rig.cleaner.running == []
        assert rig.files_of(partition) == []
    assert log.replaced == []
    assert rig.kinds() == []


async def test_deleting_a_topic_ends_its_round(tmp_path: Path, autojump_clock: MockClock) -> None:
    """`retire` returns when the round is over: then the directory may be renamed."""
    rig = Rig(tmp_path)
    going, staying = rig.topic("t", 2)
    rig.dirty(going)
    rig.dirty(staying, clean=20, dirty=80)
    rig.cleaner.hold["t-0"] = trio.Event()
    async with rig.running():
        await until(lambda: rig.cleaner.running == ["t-0"])
        await going.retire("the topic was deleted")
        assert rig.cleaner.running == []
        assert rig.files_of(going) == []
        await trio.sleep(1)
        assert rig.cleaner.names == ["t-0", "t-1"]
        assert rig.kinds() == []


async def test_nothing_begins_on_a_retired_partition(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Once the gate is closed, a round that is asked for is refused."""
    rig = Rig(tmp_path)
    (partition,) = rig.topic("t")
    rig.dirty(partition)
    await partition.retire("the topic was deleted")
    async with rig.running():
        job = rig.compaction.request("t", 0)
        await until(lambda: job.is_done)
    assert "deleted" in job.rows[0]["error"]
    assert rig.cleaner.names == []


async def test_a_policy_that_changes_during_the_round(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Whoever switches compaction off meanwhile loses no record to a round that was under way."""
    rig = Rig(tmp_path)
    (partition,) = rig.topic("t")
    log = rig.dirty(partition)
    rig.cleaner.hold["t-0"] = trio.Event()
    async with rig.running():
        await until(lambda: rig.cleaner.running == ["t-0"])
        partition.apply_settings(rig.settings(cleanup_policy="delete"))
        rig.cleaner.hold["t-0"].set()
        await trio.sleep(100)
    assert log.replaced == []
    assert rig.files_of(partition) == []
    assert rig.kinds() == []


async def test_a_commit_that_fails_half_way_takes_the_partition_offline(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """What the round wrote stays then: the next start needs it to finish."""
    rig = Rig(tmp_path)
    (partition,) = rig.topic("t")
    rig.dirty(partition).fail_replace = LogFailedError("planted")
    async with rig.running():
        await trio.sleep(1)
    assert partition.offline == "planted"
    assert rig.files_of(partition) != []
    assert rig.kinds() == []


async def test_a_round_keeps_off_the_reserve(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Without room for one new segment above the reserve no round begins, and that is said."""
    rig = Rig(tmp_path)
    (partition,) = rig.topic("t")
    rig.dirty(partition)
    rig.disk.checked(GIB + 100 * MIB)
    async with rig.running():
        await trio.sleep(1)
        assert rig.cleaner.names == []
        assert rig.kinds() == ["compaction_failed"]
        rig.disk.checked(GIB - 1)
        await trio.sleep(100)
        assert rig.cleaner.names == []
        rig.disk.checked(2 * GIB)
        await trio.sleep(100)
    assert rig.cleaner.names == ["t-0"]
    assert rig.kinds() == []


async def test_rounds_that_do_not_fit_follow_at_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A round that got on is followed by the next without a pause; one that did not, after it."""
    rig = Rig(tmp_path)
    (partition,) = rig.topic("t", min_cleanable_dirty_ratio="0.01")
    rig.dirty(partition, dirty=100)
    rig.cleaner.fitted["t-0"] = iter([(False, 30), (False, 60), (False, 60)])
    async with rig.running():
        await trio.sleep(5)
        assert len(rig.cleaner.names) == 3
        await trio.sleep(20)
        assert len(rig.cleaner.names) == 4


async def test_debt_is_told_by_topic(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Dirty bytes, and the age of the oldest dirty record, fall with the rounds."""
    rig = Rig(tmp_path)
    a, b = rig.topic("t", 2)
    rig.dirty(a, clean=90, dirty=10)
    rig.dirty(b, clean=70, dirty=30)
    async with rig.running():
        await trio.sleep(1)
        assert rig.metric('logd_compaction_dirty_bytes{topic="t"}') == 40 * MIB
        assert rig.metric("logd_compaction_oldest_dirty_seconds") == 1.0
        job = rig.compaction.request("t", None)
        await until(lambda: job.is_done)
        await trio.sleep(20)
        assert rig.metric('logd_compaction_dirty_bytes{topic="t"}') == 0
        assert rig.metric("logd_compaction_oldest_dirty_seconds") == 0
        assert rig.metric("logd_compaction_removed_records_total") == 1800
        assert rig.metric("logd_compaction_idle_seconds") < 16


async def test_settings_change_while_it_runs(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A topic that becomes compacted has its turn at the next look."""
    rig = Rig(tmp_path)
    (partition,) = rig.topic("t", cleanup_policy="delete")
    rig.dirty(partition)
    async with rig.running():
        await trio.sleep(1)
        partition.apply_settings(rig.settings())
        await trio.sleep(20)
    assert rig.cleaner.names == ["t-0"]


async def test_tombstones_have_a_round_when_their_time_has_come(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """An idle log whose delete horizon passes is compacted again, once."""
    rig = Rig(tmp_path)
    (partition,) = rig.topic("t")
    log = rig.dirty(partition, clean=100, dirty=0)
    log.facts = dataclasses.replace(log.facts, next_horizon_ms=NOW_MS + 1000)
    async with rig.running():
        await trio.sleep(100)
        assert rig.cleaner.names == []
        rig.clock.wall_ms += 1000
        await trio.sleep(100)
        assert rig.cleaner.names == ["t-0"]


async def test_a_horizon_that_stays_does_not_keep_the_cleaner_busy(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Where a round leaves tombstones that are due, the next one comes an hour later."""
    rig = Rig(tmp_path)
    (partition,) = rig.topic("t")
    rig.dirty(partition)
    rig.cleaner.horizon_ms = NOW_MS - 1
    async with rig.running():
        await trio.sleep(3000)
        assert len(rig.cleaner.names) == 1
        await trio.sleep(1000)
        assert len(rig.cleaner.names) == 2
