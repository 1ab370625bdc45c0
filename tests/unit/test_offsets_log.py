"""The offsets log: who hears of what and when, and what a start makes of it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from logd.broker import offsets_loading, offsets_log
from logd.broker.services import PartitionServices
from logd.broker.topic_names import OFFSETS_TOPIC
from logd.errors import (
    CorruptRecordsError,
    DiskFullError,
    InvalidTopicError,
    LogdError,
    LogFailedError,
    MessageTooLargeError,
    UnknownTopicOrPartitionError,
)
from logd.record.batch import read_header
from logd.record.build import BatchBuilder
from logd.record.group_records import decode_key, decode_offset_value
from logd.storage import log_replay
from logd.storage.files import OpenFile
from logd.storage.group_snapshot import (
    group_snapshot_path,
    read_group_snapshot,
    write_group_snapshot,
)
from logd.storage.state_file import write_state
from tests.cpu_time import least_cpu_s
from tests.crash.lying_disk import FastFiles
from tests.unit.broker_fakes import Server
from tests.unit.log_builder import overwrite
from tests.unit.offsets_rig import TOPIC_ID, OffsetsRig, commit_of


@pytest.fixture
def rig(directory: str) -> OffsetsRig:
    return OffsetsRig(directory)


def snapshot_path(rig: OffsetsRig) -> str:
    return group_snapshot_path(rig.partition.log.directory)


# --- the topic ------------------------------------------------------------------------------------


async def test_the_topic_is_created_once_and_as_it_must_be(tmp_path: Path) -> None:
    """Compacted, synced before it is acknowledged, whatever the defaults of other topics are."""
    server = Server(
        tmp_path,
        flags={
            "offsets.topic.num.partitions": "3",
            "offsets.topic.segment.bytes": "1048576",
            "log.message.timestamp.type": "LogAppendTime",
        },
    )
    await server.start()
    log = offsets_log.OffsetsLog(server.broker, services_of(tmp_path))
    assert (log.exists, log.partition_count) == (False, 3)
    assert await log.load(lambda *_: None) == []
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(log.ensure_created)
    await log.ensure_created()
    assert (log.exists, log.partition_count) == (True, 3)
    topic = server.topics.by_name[OFFSETS_TOPIC]
    assert topic.internal
    assert len(topic.partitions) == 3
    settings = topic.settings
    assert settings.cleanup_policy == ("compact",)
    assert (settings.flush_mode, settings.segment_bytes) == ("commit", 1048576)
    assert settings.message_timestamp_type == "CreateTime"
    assert server.log_lines.getvalue().count("topic created") == 1
    assert [log.partition_for(f"g{n}") for n in range(4)] == [1, 2, 0, 1]


def services_of(path: Path) -> PartitionServices:
    (path / "rig").mkdir()
    return OffsetsRig(str(path / "rig")).services


async def test_a_topic_that_may_not_be_created_is_an_error(tmp_path: Path) -> None:
    """The caller hears why, and a later attempt may succeed."""
    server = Server(tmp_path)
    await server.start()
    other = await server.topics.create("__consumer.offsets", 1, {})
    log = offsets_log.OffsetsLog(server.broker, services_of(tmp_path))
    with pytest.raises(InvalidTopicError):
        await log.ensure_created()
    await server.topics.delete(other)
    await log.ensure_created()
    assert log.exists


# --- append ---------------------------------------------------------------------------------------


def test_done_is_called_after_the_sync_and_in_order(rig: OffsetsRig) -> None:
    """Promise 1 holds for commits; nobody is told before."""
    rig.commit(1)
    rig.commit(2)
    assert rig.told == []
    rig.turn.flush()  # Written, and the sync has run, but the loop has not taken note of it.
    assert rig.told == []
    assert rig.log.state_offset(0) == 0
    rig.settle()
    assert rig.told == [None, None]
    assert rig.log.state_offset(0) == rig.partition.high_watermark == 2
    assert rig.state == dict([commit_of(1), commit_of(2)])


def test_what_a_turn_brings_is_one_batch(rig: OffsetsRig) -> None:
    """Fifty commits of a turn share a batch; the next turn has its own. Times are the clock's."""
    for number in range(50):
        rig.commit(number)
    rig.settle()
    rig.clock.seconds += 7
    rig.commit(50)
    rig.settle()
    log = rig.partition.log
    piece = log.read(0, max_bytes=1 << 20, below=51)
    data = log.files.read_at(piece.file, piece.position, piece.size)
    first = read_header(data)
    second = read_header(data, first.size)
    assert (first.count, second.count) == (50, 1)
    assert first.base_timestamp == first.max_timestamp == rig.clock.now_ms() - 7000
    assert second.base_timestamp == rig.clock.now_ms()


def test_a_full_batch_makes_room_for_another(directory: str) -> None:
    """No append fails because others came with it; one too large alone does."""
    rig = OffsetsRig(directory, overrides={"max.message.bytes": "1000"})
    for number in range(40):
        rig.commit(number)
    rig.append((b"\0\2\0\1g", b"x" * 1000))
    rig.commit(40)
    rig.settle()
    assert [type(error) for error in rig.told if error] == [MessageTooLargeError]
    assert rig.partition.high_watermark == 41


def test_a_failed_sync_refuses_whoever_waits(directory: str) -> None:
    """Nothing is acknowledged, neither then nor later."""
    files = Failing()
    rig = OffsetsRig(directory, files=files)
    rig.commit(1)
    rig.settle()
    files.fail = "sync_data"
    rig.commit(2)
    rig.settle()
    files.fail = ""
    rig.commit(3)
    rig.settle()
    assert [type(error) for error in rig.told] == [type(None), LogFailedError, LogFailedError]
    assert rig.log.state_offset(0) == 1
    rig.clock.seconds += 10_000
    rig.snapshot()
    assert not Path(snapshot_path(rig)).exists()


class Failing(FastFiles):
    """Fails the calls of one name."""

    fail = ""

    def sync_data(self, file: OpenFile) -> None:
        self._may_fail("sync_data")

    def rename(self, old: str, new: str) -> None:
        self._may_fail("rename")
        super().rename(old, new)

    def read_at(self, file: OpenFile, position: int, size: int) -> bytes:
        self._may_fail("read_at")
        return super().read_at(file, position, size)

    def _may_fail(self, name: str) -> None:
        if name == self.fail:
            raise OSError(errno.EIO, "planted")


def test_a_failing_listener_does_not_keep_the_others_from_hearing(rig: OffsetsRig) -> None:
    """A bug in one group costs that group; an event tells."""

    def fails(_error: LogdError | None) -> None:
        raise ValueError("planted")

    rig.log.append(0, [commit_of(1)], fails)
    rig.commit(2)
    rig.settle()
    assert rig.told == [None]
    assert rig.log.state_offset(0) == 2
    assert "planted" in rig.events.getvalue()


def test_a_partition_that_is_not_there_refuses(rig: OffsetsRig) -> None:
    """The error goes to `done`, like any other."""
    heard: list[LogdError | None] = []
    rig.log._topics.by_name[OFFSETS_TOPIC].partitions.clear()
    rig.log.append(0, [commit_of(1)], heard.append)
    rig.settle()
    assert [type(error) for error in heard] == [UnknownTopicOrPartitionError]


def test_commits_may_use_half_of_the_reserve(rig: OffsetsRig) -> None:
    """Below the reserve clients' appends stop, below half of it commits do; both come back."""
    for free_bytes, refused in ((999, False), (500, False), (499, True), (1000, False)):
        rig.disk.checked(free_bytes)
        assert rig.disk.is_full == (free_bytes < 1000)
        rig.told.clear()
        rig.commit(1)
        rig.settle()
        assert [type(error) for error in rig.told] == [DiskFullError if refused else type(None)]
    rig.disk.found_full("the disk said so")
    rig.told.clear()
    rig.commit(1)
    rig.settle()
    assert isinstance(rig.told[0], DiskFullError)


# --- loading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("with_snapshot", [True, False])
def test_what_was_acknowledged_is_loaded(directory: str, clean: bool, with_snapshot: bool) -> None:
    """After a clean stop or kill -9, from a snapshot and what lies behind it, or without one."""
    first = OffsetsRig(directory, overrides={"segment.bytes": "3000"})
    first.commit_all(range(60))
    if with_snapshot:
        first.snapshot()
    first.commit_all(range(60, 83))
    first.append((commit_of(5)[0], None))
    first.settle()
    assert len(first.partition.log.segment_list.items) > 2
    marker = first.close() if clean else None
    second = OffsetsRig(directory, clean=marker, point=first.points[-1])
    assert second.load() == []
    assert second.state == first.state
    assert len(second.state) == 9
    assert second.log.state_offset(0) == 84


def test_only_what_lies_behind_the_snapshot_is_read(directory: str) -> None:
    """The part of the log that the snapshot stands for is not looked at: here it is damaged."""
    first = OffsetsRig(directory)
    first.commit_all(range(20))
    first.snapshot()
    first.commit_all(range(20, 25))
    first.settle()
    marker = first.close()
    overwrite(f"{first.partition.log.directory}/{0:020d}.log", 70, b"\xff\xff")
    second = OffsetsRig(directory, clean=marker)
    assert second.load() == []
    assert second.state == first.state


def test_recovery_after_a_snapshot_walks_only_what_came_since(directory: str) -> None:
    """A checkpoint of the log goes with it, so that kill -9 costs no walk of all commits."""
    first = OffsetsRig(directory)
    first.commit_all(range(20))
    first.snapshot()
    first.commit_all(range(20, 22))
    second = OffsetsRig(directory, point=first.points[-1])
    assert max(second.partition.log.snapshot_offsets) == 20


def foreign(rig: OffsetsRig) -> None:
    """Another partition's snapshot."""
    write_group_snapshot(
        rig.files, rig.partition.log.directory, [], topic_id=TOPIC_ID, partition=1, offset=5
    )


def of_another_topic(rig: OffsetsRig) -> None:
    """A snapshot of a topic of the same name that is gone."""
    write_group_snapshot(
        rig.files, rig.partition.log.directory, [], topic_id=bytes(16), partition=0, offset=5
    )


def beyond_the_end(rig: OffsetsRig) -> None:
    """A snapshot of records that the log does not have."""
    end = rig.partition.log.end_offset
    write_group_snapshot(
        rig.files, rig.partition.log.directory, [], topic_id=TOPIC_ID, partition=0, offset=end + 1
    )


def damaged(rig: OffsetsRig) -> None:
    """A snapshot with a wrong byte."""
    rig.snapshot()
    overwrite(snapshot_path(rig), 100, b"\xff")


def torn(rig: OffsetsRig) -> None:
    """A snapshot of which the second half is missing."""
    rig.snapshot()
    path = Path(snapshot_path(rig))
    path.write_bytes(path.read_bytes()[:-50])


def newer(rig: OffsetsRig) -> None:
    """A snapshot of a version that is not known."""
    write_state(rig.files, snapshot_path(rig), b"whatever", version=2)


def too_many_pairs(rig: OffsetsRig) -> None:
    """An intact envelope around a payload that cannot be."""
    payload = TOPIC_ID + bytes(12) + b"\xff" * 8
    write_state(rig.files, snapshot_path(rig), payload, version=1)


def a_directory(rig: OffsetsRig) -> None:
    """Something that cannot be read as a file."""
    Path(snapshot_path(rig)).mkdir()


@pytest.mark.parametrize(
    "spoil",
    [
        foreign, of_another_topic, beyond_the_end, damaged, torn, newer, too_many_pairs,
        a_directory,
    ],
)  # fmt: skip
def test_a_snapshot_that_is_not_right_is_left_aside(
    directory: str, spoil: Callable[[OffsetsRig], None]
) -> None:
    """The log is replayed from its start instead, and the problem is told."""
    first = OffsetsRig(directory)
    first.commit_all(range(20))
    spoil(first)
    second = OffsetsRig(directory, clean=first.close())
    (problem,) = second.load()
    assert "snapshot not used" in problem
    assert "groups.snapshot" in problem
    assert second.state == first.state
    assert second.log.state_offset(0) == 20


def test_a_snapshot_below_the_start_of_the_log_is_left_aside(directory: str) -> None:
    """What was deleted between the two may have taken back what the snapshot has."""
    first = OffsetsRig(directory)
    first.commit_all(range(5))
    first.snapshot()
    first.commit_all(range(5, 10))
    first.partition.log.delete_before(8)
    second = OffsetsRig(directory, clean=first.close())
    (problem,) = second.load()
    assert "the log starts at 8" in problem
    assert second.state == dict(map(commit_of, (8, 9)))


def test_damage_in_the_log_is_told_and_stepped_over(directory: str) -> None:
    """What was committed before and behind it counts; the lost offsets are named."""
    first = OffsetsRig(directory)
    first.commit_all(range(30), keys=30)
    marker = first.close()
    header = 61
    size = marker.active_size // 30
    overwrite(f"{first.partition.log.directory}/{0:020d}.log", 10 * size + header, b"\xff\xff")
    second = OffsetsRig(directory, clean=marker)
    (problem,) = second.load()
    assert "offsets 10 to 10 are lost" in problem
    assert second.state == {k: v for k, v in first.state.items() if k != commit_of(10, keys=30)[0]}
    second.commit(10, keys=30)
    second.settle()
    assert second.told == [None]


def test_a_log_that_cannot_be_read_goes_offline(directory: str) -> None:
    """With half of the offsets groups would silently begin anew: none are served instead."""
    first = OffsetsRig(directory)
    first.commit_all(range(30))
    marker = first.close()
    files = Failing()
    second = OffsetsRig(directory, files=files, clean=marker)
    files.fail = "read_at"
    (problem,) = second.load()
    files.fail = ""
    assert "cannot be read" in problem
    assert second.partition.offline is not None
    second.commit(1)
    second.settle()
    assert isinstance(second.told[0], LogFailedError)
    second.clock.seconds += 10_000
    assert second.log.snapshot_due() == []


def test_unknown_kinds_of_records_are_counted_and_told_once(rig: OffsetsRig) -> None:
    """Newer Kafka versions keep other things in this topic; what is known is loaded."""
    rig.append(commit_of(1), (b"\0\3\0\1g", b"1"), (b"\0\3\0\1h", b"2"), (b"\0\x10", b"3"))
    rig.append((b"x", b"4"))
    rig.settle()
    fresh = OffsetsRig(rig.partition.log.directory.rpartition("/")[0], clean=rig.close())
    (problem,) = fresh.load()
    assert "1 of version -1, 2 of version 3, 1 of version 16" in problem
    assert fresh.state == dict([commit_of(1)])


def test_records_that_cannot_be_applied_are_told(rig: OffsetsRig, directory: str) -> None:
    """As many as a person reads, then their number; the others are applied."""
    rig.commit_all(range(30), keys=30)
    fresh = OffsetsRig(directory, clean=rig.close())
    applied = []

    def apply(_partition: int, key: bytes, _value: bytes | None, _timestamp_ms: int) -> None:
        if key != commit_of(3, keys=30)[0]:
            raise CorruptRecordsError("planted")
        applied.append(key)

    problems = trio.run(fresh.log.load, apply)
    assert len(problems) == offsets_loading.PROBLEMS_MAX + 1
    assert "9 more records" in problems[-1]
    assert len(applied) == 1


def test_a_partition_that_is_offline_is_told(rig: OffsetsRig) -> None:
    """The others would be loaded; there is one only."""
    rig.log._topics.by_name[OFFSETS_TOPIC].partitions[0] = None
    (problem,) = rig.load()
    assert problem.startswith(f"{OFFSETS_TOPIC}-0: ")


def test_loading_takes_bounded_stretches(
    directory: str, rig: OffsetsRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few keys at a time are held, and a key is applied once a stretch, with its last value."""
    monkeypatch.setattr(log_replay, "STEP_BYTES", 1000)
    monkeypatch.setattr(log_replay, "WINDOW_BYTES", 600)
    monkeypatch.setattr(offsets_loading, "STRETCH_BYTES", 5000)
    rig.commit_all(range(300))
    fresh = OffsetsRig(directory, clean=rig.close())
    calls: list[bytes] = []

    def apply(partition: int, key: bytes, value: bytes | None, timestamp_ms: int) -> None:
        calls.append(key)
        assert timestamp_ms == fresh.clock.now_ms()
        fresh.apply(partition, key, value, timestamp_ms)

    assert trio.run(fresh.log.load, apply) == []
    assert fresh.state == rig.state
    assert 20 < len(calls) < 150


LOADING_CPU_S_MAX = 1.0
"""Several times what was measured, and a third of what a careful parse of each record takes."""


def test_loading_ten_thousand_keys_is_quick(rig: OffsetsRig, directory: str) -> None:
    """A snapshot of 10,000 keys and all commits that may lie behind it: CPU time, not the clock."""
    for start in range(0, 10_000 + offsets_log.SNAPSHOT_RECORDS, 100):
        if start == 10_000:
            rig.snapshot()
        for number in range(start, start + 100):
            rig.commit(number, keys=10_000)
        rig.settle()
    fresh = OffsetsRig(directory, clean=rig.close())
    applied: list[object] = []

    def apply(_partition: int, key: bytes, value: bytes | None, _timestamp_ms: int) -> None:
        assert value is not None
        applied.append((decode_key(key), decode_offset_value(value)))

    problems: list[object] = []
    load_s = least_cpu_s(lambda: problems.extend(trio.run(fresh.log.load, apply)), times=1)
    assert problems == []
    assert load_s < LOADING_CPU_S_MAX
    assert len(applied) == 20_000  # Each key from the snapshot, and once from behind it.


@pytest.mark.parametrize("codec", range(5))
def test_batches_of_any_codec_are_read(rig: OffsetsRig, directory: str, codec: int) -> None:
    """A log that Kafka wrote may be compressed, its times the broker's, and have gaps."""
    builder = BatchBuilder()
    for number in range(20):
        builder.append(*commit_of(number), timestamp_ms=5, offset_delta=2 * number)
    batch = builder.build(codec=codec, attributes=0x08 if codec else 0)
    log = rig.partition.log
    log.stage(batch, 0, read_header(batch), 0)
    staged = log.take_staged()
    assert staged is not None
    log.finish_write(staged, log.write(staged))
    fresh = OffsetsRig(directory, clean=rig.close())
    assert fresh.load() == []
    assert fresh.state == dict(map(commit_of, range(10, 20)))


# --- snapshots ------------------------------------------------------------------------------------


def test_a_snapshot_is_due_when_the_log_has_grown(
    rig: OffsetsRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By records, by bytes, or at all after a while; and never before it grew by its own size."""
    monkeypatch.setattr(offsets_log, "SNAPSHOT_RECORDS", 20)
    rig.commit_all(range(19))
    assert rig.log.snapshot_due() == []
    rig.commit_all(range(19, 20))
    assert rig.log.snapshot_due() == [0]
    rig.snapshot()
    assert rig.log.snapshot_due() == []
    monkeypatch.setattr(offsets_log, "SNAPSHOT_BYTES", 1000)
    rig.commit_all(range(20, 35))
    assert rig.log.snapshot_due() == [0]
    rig.commit_all(range(1000, 1030), keys=10_000)
    rig.snapshot()  # of 40 keys now
    rig.commit_all(range(20, 40))
    assert rig.log.snapshot_due() == []
    rig.commit_all(range(20, 40))
    assert rig.log.snapshot_due() == [0]
    rig.snapshot()
    rig.clock.seconds += offsets_log.SNAPSHOT_INTERVAL_S + 1
    assert rig.log.snapshot_due() == []  # Nothing has changed.
    rig.commit(1)
    rig.settle()
    assert rig.log.snapshot_due() == [0]


def test_what_was_read_at_start_counts_for_the_next_snapshot(
    rig: OffsetsRig, directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a server that is often restarted would never write one."""
    monkeypatch.setattr(offsets_log, "SNAPSHOT_RECORDS", 20)
    rig.commit_all(range(25))
    fresh = OffsetsRig(directory, clean=rig.close())
    fresh.load()
    assert fresh.log.snapshot_due() == [0]
    fresh.snapshot()
    again = OffsetsRig(directory, clean=fresh.close())
    again.load()
    assert again.log.snapshot_due() == []


def test_a_snapshot_that_is_not_written_is_told_and_tried_again_later(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No storm of attempts on a full disk; the old snapshot stays."""
    monkeypatch.setattr(offsets_log, "SNAPSHOT_RECORDS", 10)
    files = Failing()
    rig = OffsetsRig(directory, files=files)
    rig.commit_all(range(10))
    rig.snapshot()
    rig.commit_all(range(10))
    files.fail = "rename"
    rig.snapshot()
    assert "snapshot of committed offsets not written" in rig.events.getvalue()
    assert read_group_snapshot(files, snapshot_path(rig)).offset == 10
    assert rig.log.snapshot_due() == []
    files.fail = ""
    rig.commit_all(range(10))
    assert rig.log.snapshot_due() == [0]


def test_the_state_may_change_while_a_snapshot_is_collected(
    rig: OffsetsRig, directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop goes on between slices; what changes behind the offset is replayed."""
    monkeypatch.setattr(offsets_log, "SLICE_PAIRS", 2)
    rig.commit_all(range(10))

    async def both() -> None:
        pairs = ((key, rig.state[key]) for key in list(rig.state) if key in rig.state)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.log.write_snapshot, 0, pairs, rig.log.state_offset(0))
            for number in range(10, 13):
                await trio.lowlevel.checkpoint()
                rig.commit(number)
                rig.append((commit_of(number + 5)[0], None))
                rig.settle()

    trio.run(both)
    snapshot = read_group_snapshot(rig.files, snapshot_path(rig))
    assert snapshot.offset == 10
    rig.settle()
    fresh = OffsetsRig(directory, clean=rig.close())
    assert fresh.load() == []
    assert fresh.state == rig.state
