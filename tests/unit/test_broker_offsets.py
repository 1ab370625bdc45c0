"""ListOffsets and OffsetForLeaderEpoch."""

from __future__ import annotations

from pathlib import Path

import pytest
from trio.testing import MockClock

from logd.storage.partition_files import EpochStart
from logd.wire.error_codes import ErrorCode
from logd.wire.messages import list_offsets, offset_for_leader_epoch
from tests.unit.broker_fakes import FakePartition, Server
from tests.unit.broker_requests import ask, versions_of


@pytest.fixture
async def server(tmp_path: Path) -> Server:
    server = Server(tmp_path)
    await server.topics.create("t", 2, {})
    partition = server.partition("t")
    partition.hold(100)
    partition.log.log_start_offset = 10
    partition.log.newest = (42, 9000)
    partition.log.times = [(20, 5000), (42, 9000)]
    return server


def held(server: Server) -> FakePartition:
    return server.partition("t")


async def ask_one(
    server: Server,
    timestamp: int,
    *,
    version: int = 10,
    epoch: int = -1,
    topic: str = "t",
    index: int = 0,
    isolation: int = 0,
) -> tuple[int, int, int, int]:
    part = list_offsets.ListOffsetsPartition(
        partition_index=index, timestamp=timestamp, current_leader_epoch=epoch
    )
    request = list_offsets.ListOffsetsRequest(
        replica_id=-1,
        isolation_level=isolation,
        topics=[list_offsets.ListOffsetsTopic(name=topic, partitions=[part])],
    )
    response = await ask(server, list_offsets, request, version)
    (answer,) = response.topics[0].partitions
    return answer.error_code, answer.offset, answer.timestamp, answer.leader_epoch


@pytest.mark.parametrize("version", versions_of(list_offsets))
async def test_every_kind_of_timestamp(server: Server, version: int) -> None:
    """Latest, earliest, by time; the newer kinds from the version that introduced them."""
    epoch = 0 if version >= 4 else -1
    too_early = (ErrorCode.UNSUPPORTED_VERSION, -1, -1, -1)
    assert await ask_one(server, -1, version=version) == (0, 100, -1, epoch)
    assert await ask_one(server, -2, version=version) == (0, 10, -1, epoch)
    found = (0, 42, 9000, epoch) if version >= 7 else too_early
    assert await ask_one(server, -3, version=version) == found
    found = (0, 10, -1, epoch) if version >= 8 else too_early
    assert await ask_one(server, -4, version=version) == found
    found = (0, -1, -1, -1) if version >= 9 else too_early
    assert await ask_one(server, -5, version=version) == found
    assert await ask_one(server, -6, version=version) == too_early
    assert await ask_one(server, 5001, version=version) == (0, 42, 9000, epoch)
    assert await ask_one(server, 9001, version=version) == (0, -1, -1, -1)


async def test_what_was_acknowledged_is_before_the_end(server: Server) -> None:
    """With acks=1 a record is acknowledged before its sync: the end that is told waits for that."""
    held(server).hold_unsynced(20)
    assert await ask_one(server, -2) == (0, 10, -1, 0)
    assert held(server).high_watermark == 100
    assert await ask_one(server, -1) == (0, 120, -1, 0)
    held(server).hold_unsynced(20)
    held(server).log.newest = (130, 9000)
    assert await ask_one(server, -3) == (0, 130, 9000, 0)
    held(server).hold_unsynced(20)
    held(server).log.times = [(150, 9000)]
    assert await ask_one(server, 8000) == (0, 150, 9000, 0)


async def test_read_committed_ends_at_the_high_watermark(
    server: Server, autojump_clock: MockClock
) -> None:
    """Without transactions the last stable offset is the high watermark; not the log end, however
    long its sync takes.
    """
    held(server).log.end_offset = 120
    held(server).syncs = False
    assert await ask_one(server, -1, isolation=0) == (0, 100, -1, 0)
    assert await ask_one(server, -1, isolation=1) == (0, 100, -1, 0)


async def test_an_empty_partition(server: Server) -> None:
    """Earliest and latest are 0, and no time is found."""
    assert await ask_one(server, -1, index=1) == (0, 0, -1, 0)
    assert await ask_one(server, -2, index=1) == (0, 0, -1, 0)
    assert await ask_one(server, -3, index=1) == (0, -1, -1, -1)
    assert await ask_one(server, 0, index=1) == (0, -1, -1, -1)


async def test_refusals(server: Server) -> None:
    """Unknown, offline, another epoch: each has its error."""
    held(server).log.leader_epoch = 3
    held(server).log.epochs = [EpochStart(0, 0), EpochStart(3, 50)]
    unknown = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert (await ask_one(server, -1, topic="u"))[0] == unknown
    assert (await ask_one(server, -1, index=2))[0] == unknown
    assert (await ask_one(server, -1, index=-1))[0] == unknown
    assert (await ask_one(server, -1, epoch=2))[0] == ErrorCode.FENCED_LEADER_EPOCH
    assert (await ask_one(server, -1, epoch=4))[0] == ErrorCode.UNKNOWN_LEADER_EPOCH
    assert (await ask_one(server, -1, epoch=3))[0] == 0
    held(server).offline = "sync failed"
    assert (await ask_one(server, -1))[0] == ErrorCode.KAFKA_STORAGE_ERROR


async def test_earliest_names_no_epoch_that_may_be_wrong(server: Server) -> None:
    """Where a log has several epochs, the earliest offset's is not that of the end."""
    held(server).log.leader_epoch = 1
    held(server).log.epochs = [EpochStart(0, 0), EpochStart(1, 50)]
    assert await ask_one(server, -2) == (0, 10, -1, -1)
    assert await ask_one(server, -1) == (0, 100, -1, 1)


async def test_a_partition_twice(server: Server) -> None:
    """Named twice, a partition is refused twice; the others are answered."""
    part = list_offsets.ListOffsetsPartition
    topic = list_offsets.ListOffsetsTopic
    request = list_offsets.ListOffsetsRequest(
        replica_id=-1,
        topics=[
            topic(name="t", partitions=[part(partition_index=0, timestamp=-1)]),
            topic(
                name="t",
                partitions=[
                    part(partition_index=0, timestamp=-2),
                    part(partition_index=1, timestamp=-1),
                ],
            ),
        ],
    )
    response = await ask(server, list_offsets, request, 10)
    codes = [one.error_code for found in response.topics for one in found.partitions]
    assert codes == [ErrorCode.INVALID_REQUEST, ErrorCode.INVALID_REQUEST, 0]


# --- OffsetForLeaderEpoch ------------------------------------------------------------------------


@pytest.mark.parametrize("version", versions_of(offset_for_leader_epoch))
async def test_ends_of_epochs(server: Server, version: int) -> None:
    """A past epoch ends where the next began, the current one at the high watermark."""
    log = held(server).log
    log.leader_epoch, log.end_offset = 2, 130
    log.epochs = [EpochStart(0, 0), EpochStart(2, 60)]

    async def end_of(epoch: int, current: int = 2) -> tuple[int, int, int]:
        part = offset_for_leader_epoch.OffsetForLeaderPartition(
            partition=0, current_leader_epoch=current, leader_epoch=epoch
        )
        request = offset_for_leader_epoch.OffsetForLeaderEpochRequest(
            topics=[offset_for_leader_epoch.OffsetForLeaderTopic(topic="t", partitions=[part])]
        )
        response = await ask(server, offset_for_leader_epoch, request, version)
        (answer,) = response.topics[0].partitions
        return answer.error_code, answer.leader_epoch, answer.end_offset

    assert await end_of(0) == (0, 0, 60)
    assert await end_of(1) == (0, 0, 60)
    assert await end_of(2) == (0, 2, 100)
    assert await end_of(3) == (0, -1, -1)
    assert await end_of(-1) == (0, -1, -1)
    assert (await end_of(0, current=1))[0] == ErrorCode.FENCED_LEADER_EPOCH
    assert (await end_of(0, current=-1))[0] == 0
