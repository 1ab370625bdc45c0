"""The requests about the cluster, the producers, and what this version refuses on purpose."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from logd.broker.disk_space import ROOM_BYTES, DiskSpace
from logd.broker.producer_ids import BLOCK_IDS, ProducerIds
from logd.errors import DiskFullError
from logd.offload import InlineOffload
from logd.wire.error_codes import ErrorCode
from logd.wire.messages import (
    describe_acls,
    describe_cluster,
    describe_log_dirs,
    describe_producers,
    find_coordinator,
    init_producer_id,
    list_partition_reassignments,
)
from tests.unit.broker_fakes import CLUSTER_ID, Server
from tests.unit.broker_requests import ask, versions_of


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


async def find(server: Server, version: int, kind: int) -> Any:
    request = find_coordinator.FindCoordinatorRequest(
        key="k", key_type=kind, coordinator_keys=["k", "l"]
    )
    if version < 4:
        request.coordinator_keys = []
    else:
        request.key = ""
    return await ask(server, find_coordinator, request, version)


@pytest.mark.parametrize("version", versions_of(find_coordinator))
async def test_this_broker_coordinates_every_group(server: Server, version: int) -> None:
    """A group's coordinator is this broker, one key or many."""
    response = await find(server, version, 0)
    if version < 4:
        assert (response.error_code, response.node_id) == (0, 1)
        assert (response.host, response.port) == ("127.0.0.1", 9092)
        return
    assert [(one.key, one.error_code, one.node_id, one.port) for one in response.coordinators] == [
        ("k", 0, 1, 9092),
        ("l", 0, 1, 9092),
    ]


@pytest.mark.parametrize("version", [1, 3, 4, 6])
async def test_transactions_are_refused_for_good(server: Server, version: int) -> None:
    """Type 1 gets an error that clients do not retry, and a message; other types are refused."""
    for kind, code in (
        (1, ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED),
        (2, ErrorCode.INVALID_REQUEST),
        (9, ErrorCode.INVALID_REQUEST),
    ):
        response = await find(server, version, kind)
        for one in response.coordinators if version >= 4 else [response]:
            assert one.error_code == code
            assert one.error_message
            assert one.node_id == -1


async def init(server: Server, version: int, **fields: Any) -> tuple[int, int, int]:
    request = init_producer_id.InitProducerIdRequest(transaction_timeout_ms=1000, **fields)
    if "transactional_id" not in fields:
        request.transactional_id = None
    response = await ask(server, init_producer_id, request, version)
    return response.error_code, response.producer_id, response.producer_epoch


@pytest.mark.parametrize("version", versions_of(init_producer_id))
async def test_producer_ids(server: Server, version: int) -> None:
    """Each idempotent producer gets an id of its own; a transactional id is refused for good."""
    first = await init(server, version)
    second = await init(server, version)
    assert (first[0], first[2]) == (0, 0)
    assert second == (0, first[1] + 1, 0)
    refused = ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    assert await init(server, version, transactional_id="t") == (refused, -1, -1)
    invalid = (ErrorCode.INVALID_REQUEST, -1, -1)
    assert await init(server, version, transactional_id="") == invalid
    if version >= 3:
        again = await init(server, version, producer_id=first[1], producer_epoch=0)
        assert again == (0, second[1] + 1, 0)
        assert await init(server, version, producer_id=first[1]) == invalid


async def test_producer_ids_are_never_given_twice_across_restarts(server: Server) -> None:
    """However the server ended, ids go on behind the last block."""
    given = {(await init(server, 4))[1] for _ in range(3)}
    for _ in range(3):
        server = await server.restarted()
        for _ in range(3):
            producer_id = (await init(server, 4))[1]
            assert producer_id not in given
            given.add(producer_id)


class SlowBlocks:
    def __init__(self) -> None:
        self.next = 5000

    def next_producer_id_block(self, size: int) -> int:
        first, self.next = self.next, self.next + size
        return first


async def test_producers_that_arrive_together_share_no_id() -> None:
    """Many at once, over the end of blocks: all different, and no block is skipped."""
    blocks = SlowBlocks()
    ids = ProducerIds(blocks, InlineOffload(), on_full=print)
    given: list[int] = []

    async def take() -> None:
        for _ in range(50):
            given.append(await ids.next())
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(take)
    assert sorted(given) == list(range(5000, 7500))
    assert blocks.next == 5000 + 3 * BLOCK_IDS


class FullBlocks:
    def next_producer_id_block(self, size: int) -> int:
        raise DiskFullError(f"no room for {size}")


async def test_a_disk_without_room_for_an_id_is_full() -> None:
    """Idempotent producers come no further than here: appends need not be refused first."""
    disk = DiskSpace(reserve_bytes=0)
    ids = ProducerIds(FullBlocks(), InlineOffload(), on_full=disk.found_full)
    with pytest.raises(DiskFullError):
        await ids.next()
    assert disk.is_full
    disk.checked(0)
    assert disk.is_full, "until there is room"
    disk.checked(ROOM_BYTES)
    assert not disk.is_full


async def test_describe_producers(server: Server) -> None:
    """What each partition remembers of its producers, once; an unknown one is said to be."""
    await server.topics.create("t", 1, {})
    server.partition("t").log.producers.described = [
        SimpleNamespace(producer_id=9, epoch=2, last_sequence=41, last_timestamp_ms=777)
    ]
    twice = [
        describe_producers.TopicRequest(name="t", partition_indexes=indexes)
        for indexes in ([0, 5, 0], [0])
    ]
    request = describe_producers.DescribeProducersRequest(topics=twice)
    (topic,) = (await ask(server, describe_producers, request, 0)).topics
    good, bad = topic.partitions
    (one,) = good.active_producers
    assert (one.producer_id, one.producer_epoch, one.last_sequence, one.last_timestamp) == (
        9,
        2,
        41,
        777,
    )
    assert one.current_txn_start_offset == -1
    assert (bad.error_code, bad.active_producers) == (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, [])


@pytest.mark.parametrize("version", versions_of(describe_cluster))
async def test_describe_cluster(server: Server, version: int) -> None:
    """One broker, which is the controller; there are no controllers apart."""
    request = describe_cluster.DescribeClusterRequest()
    response = await ask(server, describe_cluster, request, version)
    assert (response.error_code, response.cluster_id, response.controller_id) == (0, CLUSTER_ID, 1)
    assert [(one.broker_id, one.host, one.port) for one in response.brokers] == [
        (1, "127.0.0.1", 9092)
    ]
    assert response.cluster_authorized_operations == -(2**31)
    request.include_cluster_authorized_operations = True
    response = await ask(server, describe_cluster, request, version)
    assert response.cluster_authorized_operations == 0b1_1111_1010_0000
    if version >= 1:
        request = describe_cluster.DescribeClusterRequest(endpoint_type=2)
        response = await ask(server, describe_cluster, request, version)
        assert response.error_code == ErrorCode.MISMATCHED_ENDPOINT_TYPE


@pytest.mark.parametrize("version", versions_of(describe_log_dirs))
async def test_describe_log_dirs(server: Server, version: int) -> None:
    """One directory; the sizes of all partitions, or of those asked for that are here."""
    await server.topics.create("a", 2, {})
    await server.topics.create("b", 1, {})
    server.partition("a", 1).hold(7)

    async def sizes(topics: Any) -> dict[str, list[tuple[int, int]]]:
        request = describe_log_dirs.DescribeLogDirsRequest(topics=topics)
        response = await ask(server, describe_log_dirs, request, version)
        (result,) = response.results
        assert (result.error_code, result.log_dir) == (0, str(server.path))
        if version >= 4:
            assert result.total_bytes >= result.usable_bytes > 0
        return {
            topic.name: [(one.partition_index, one.partition_size) for one in topic.partitions]
            for topic in result.topics
        }

    assert await sizes(None) == {"a": [(0, 0), (1, 700)], "b": [(0, 0)]}
    asked = describe_log_dirs.DescribableLogDirTopic
    wanted = [asked(topic="a", partitions=[1, 9, -1]), asked(topic="none", partitions=[0])]
    assert await sizes(wanted) == {"a": [(1, 700)]}


@pytest.mark.parametrize("version", versions_of(describe_acls))
async def test_acls_are_disabled(server: Server, version: int) -> None:
    """No authorizer: SECURITY_DISABLED with a message, which clients show and do not retry."""
    request = describe_acls.DescribeAclsRequest(
        resource_type_filter=1, operation=1, permission_type=1
    )
    response = await ask(server, describe_acls, request, version)
    assert response.error_code == ErrorCode.SECURITY_DISABLED
    assert response.error_message
    assert response.resources == []


async def test_no_partition_is_ever_reassigned(server: Server) -> None:
    """The list is empty, and that is no error."""
    request = list_partition_reassignments.ListPartitionReassignmentsRequest(topics=None)
    response = await ask(server, list_partition_reassignments, request, 0)
    assert (response.error_code, response.topics) == (0, [])
